"""Why a source is near to a target, or far: embeddings from the store, the parts of the explanation, and its files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from simkit.dataset import Dataset
from simkit.embedding import Embedding
from simkit.errors import NotEnoughData, Problem, SimkitError, UsageError
from simkit.estimators.base import Estimator, Score
from simkit.estimators.comparison import Sampling, score_pairs
from simkit.estimators.domain_classifier import DomainClassifier
from simkit.estimators.frechet import Frechet
from simkit.explanation import (
    Coupling,
    Explanation,
    Plan,
    TargetClass,
    class_coupling,
    class_coverage,
    explained_by_plan,
    feature_gap,
    frechet_parts,
    plan_of,
    present,
    repeated,
    taken,
    told_apart,
)
from simkit.extractors.base import Extractor
from simkit.extractors.decoding import prepared_images
from simkit.files import check_writable, resource_errors, write_json, write_text
from simkit.pipeline.commands import DataLike, embedded, extractor_of, load
from simkit.pipeline.progress import Progress
from simkit.pipeline.stages import Effort, cores, read_card
from simkit.registry import ESTIMATORS
from simkit.report.explanation_figures import explanation_figures
from simkit.report.explanation_page import FIGURES, explanation_page
from simkit.report.explanation_text import TABLES, csv_files, pictured
from simkit.report.figures import write_figures
from simkit.report.layout import safe_name
from simkit.report.thumbnails import Thumbnail
from simkit.store import Store
from simkit.study import Study, read_study

__all__ = ["Explained", "explain", "explained", "folder_of", "save_explanation"]

PAGE = "explanation.html"

MOST_IMAGES = 2000
"""Images of a side by default: an exact plan of 2,000 x 2,000 images takes about a second."""

FEW = 256
"""So many pictures are decoded sooner by threads than processes start."""

LEAST = 4
"""Images of a side, below which there is nothing to compare."""


@dataclass(frozen=True)
class Explained:
    """An explanation, and the data sets whose images it shows."""

    explanation: Explanation
    datasets: Mapping[str, Dataset] = field(repr=False)


def explain(
    source: DataLike, target: DataLike, *, method: str | Mapping[str, Any] = "otdd", extractor: str | Mapping[str, Any] | Extractor = "torchvision",
    study: Study | str | os.PathLike[str] | None = None, out: str | os.PathLike[str] | None = None, thumbnails: bool = True, max_images: int = MOST_IMAGES,
    repeats: int = 10, permutations: int = 999, seed: int = 0, device: str = "auto", batch_size: int | None = None, workers: int | None = None,
    backend: str = "auto", store: Store | str | os.PathLike[str] | None = None, strict: bool = False, progress: Progress | None = None, **options: Any,
) -> Explanation:
    """Why a source is near to a target, or far: classes, images and features behind a score.

    Args:
        source, target: data sets, as for :func:`simkit.load`.
        method: measure of embeddings or cards, or ``{name: {option: value}}``. The coupling of classes is that of measures by optimal transport
            (otdd, wasserstein, class-frechet, class-mean-emd); for others images and features are explained.
        extractor: of the embeddings.
        study: a study file whose data set names may be used.
        out: folder for explanation.html, CSV files and figures; None: nothing is written.
        thumbnails: show images on the page.
        max_images: images of a side that are looked at; of a larger data set a random sample in which classes keep their shares.
        repeats: half-samples for intervals and floors; 0: none, else at least 3.
        permutations: of the p-values of features and classifier; 0: none.
        seed: of every random choice.
        device, batch_size, workers, backend, store, strict, progress: as for :func:`simkit.embed`.
        **options: options of the source that reads the data.

    Returns:
        Explanation: ``.score``, ``.coupling``, ``.classes``, ``.told_apart``, ``.features``, ``.parts``; ``.missing`` says why a part is not there.

    Raises:
        UsageError: a method that looks through networks (SK108), an option out of range. NotEnoughData: fewer than 4 images on a side.
    """
    found = explained(
        source, target, method=method, extractor=extractor, study=study, max_images=max_images, repeats=repeats, permutations=permutations, seed=seed,
        device=device, effort=Effort(batch_size, workers, backend), store=store, strict=strict, progress=progress, options=options, out=out)
    if out is not None:
        save_explanation(found, out, thumbnails=thumbnails, workers=workers)
    return found.explanation


def explained(
    source: DataLike, target: DataLike, *, method: str | Mapping[str, Any], extractor: str | Mapping[str, Any] | Extractor,
    study: Study | str | os.PathLike[str] | None, max_images: int, repeats: int, permutations: int, seed: int, device: str, effort: Effort,
    store: Store | str | os.PathLike[str] | None, strict: bool, progress: Progress | None, options: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Explained:
    """:func:`explain`, with the data sets. ``out`` is only looked at, before the long work: whether it can be written."""
    if out is not None and Path(out).is_file():
        raise UsageError("SK102", "out", f"{out} is a file, a folder is wanted", "name a folder; it is made when missing")
    progress, place = progress or Progress(), store if isinstance(store, Store) else Store(store)
    measure: Estimator = ESTIMATORS.build(method, "method")
    _check(measure, max_images, repeats, permutations)
    read = study if isinstance(study, Study) or study is None else read_study(study)
    datasets = [load(one, study=read, **(options or {})) for one in (source, target)]
    _check_pair(measure, datasets)
    made = extractor_of(extractor)
    if out is not None:
        check_writable(Path(out) / PAGE)
    done = embedded(datasets, made, device=device, effort=effort, store=place, strict=strict, progress=progress)
    views = [taken(one.embedding, max_images, seed) for one in done]
    for view in views:
        if len(view) < LEAST:
            message = f"'{view.name}' has {len(view)} image{'' if len(view) == 1 else 's'}, at least {LEAST} are needed"
            raise NotEnoughData("SK501", "explain", message, "give more images")
    progress.say(f"explaining {views[0].name} -> {views[1].name} by {measure.name}: {len(views[0]):,} x {len(views[1]):,} images")
    kept = {one.dataset.name: one.dataset for one in done}
    cards = {name: read_card(dataset, place, progress)[0] for name, dataset in kept.items()} if measure.view == "card" else {}
    score = _score(measure, views, cards, seed, repeats)
    skipped = tuple(f"{one.dataset}: {one.key} skipped: {one.reason}" for dataset in kept.values() for one in dataset.skipped)
    names = tuple(getattr(made, "feature_names", ()))
    sizes = len(done[0].embedding), len(done[1].embedding)
    found = _explanation(measure, views, score, made.name, names, sizes, seed=seed, repeats=repeats, permutations=permutations)
    return Explained(replace(found, skipped=skipped), kept)


def _check(measure: Estimator, max_images: int, repeats: int, permutations: int) -> None:
    """Refuses, before any work, what cannot be explained, and numbers out of range."""
    if measure.view not in ("embedding", "card"):
        message = f"{measure.name} looks at the target through a network; the parts that are explained are those of one common space of features"
        fix = "choose a measure of embeddings, such as otdd or frechet; `simkit distance --json` has the detail of the score"
        raise UsageError("SK108", "explain", message, fix)
    Sampling(seed=0, repeats=repeats)
    for what, value, least in (("max_images", max_images, 10), ("permutations", permutations, 0)):
        if value < least:
            raise UsageError("SK102", what, f"{value} is out of range", f"give at least {least}")


def _check_pair(measure: Estimator, datasets: Sequence[Dataset]) -> None:
    """Refuses a data set as its own source, and one that the measure cannot read."""
    if datasets[0].name == datasets[1].name:
        same = (datasets[0].origin or "a") == (datasets[1].origin or "b")
        message = f"'{datasets[0].name}' is both source and target" if same else f"two data sets are called '{datasets[0].name}'"
        raise UsageError("SK105", "explain", message, "name two data sets; of one name, in a study file")
    problems = [Problem("SK208", dataset.name, reason, "choose another measure, or give what is missing")
                for dataset, role in zip(datasets, ("source", "target"), strict=True)
                if (reason := measure.missing(dataset, role))]  # type: ignore[arg-type]
    if problems:
        from simkit.errors import DataError

        raise DataError("", "", "", problems=problems)


def _score(measure: Estimator, views: Sequence[Embedding], cards: Mapping[str, Any], seed: int, repeats: int) -> Score:
    """The measure of the pair, all images that are looked at, with interval and floor where it has them."""
    pair = views[0].name, views[1].name
    named: dict[str, Any] = dict(cards) or {view.name: view for view in views}
    found = score_pairs(measure, named, [pair], sampling=Sampling(seed, repeats, "off"))[pair]
    if isinstance(found, SimkitError):
        raise found
    return found


def _explanation(
    measure: Estimator, views: Sequence[Embedding], score: Score, extractor: str, names: Sequence[str], sizes: tuple[int, int], *, seed: int, repeats: int,
    permutations: int,
) -> Explanation:
    """All parts of the explanation, and the reasons for those that cannot be had."""
    source, target = present(views[0]), present(views[1])
    labelled = views[0].labels is not None, views[1].labels is not None
    missing, notes = _reasons(measure, views), _notes(views, sizes)
    plan: Plan | None = plan_of(measure, source, target) if explained_by_plan(measure) else None
    coupling: Coupling | None = None
    classes: tuple[TargetClass, ...] = ()
    if labelled[1]:
        halves = repeated(measure, source, target, seed=seed, repeats=repeats)
        notes += [halves.problem] if halves.problem else []
        classes = class_coverage(plan, source, target, halves, source_labels=labelled[0])
        if plan is not None and all(labelled):
            solver = str(score.detail.get("solver", "classes"))
            value = float(score.detail.get("distance", score.value))  # class-mean-emd may report a similarity made of its distance
            coupling = class_coupling(measure, plan, source, target, halves, value=value, solver=solver)
    parts = None
    if isinstance(measure, Frechet):
        diagonal = measure.covariance in ("diagonal", "mean-only")
        parts = frechet_parts(source, target, float(score.detail["mean_part"]), float(score.detail["covariance_part"]), diagonal=diagonal, labels=labelled[1])
    apart = None
    try:
        apart = told_apart(views[0], views[1], seed=seed, options=_classifier(measure, permutations))
    except NotEnoughData as error:
        missing["images"] = error.problems[0].message
    features = feature_gap(views[0], views[1], names, seed=seed, permutations=permutations)
    return Explanation(
        views[0].name, views[1].name, measure.name, measure.unit, measure.higher_is_better, extractor, views[0].dimension, sizes,
        (len(views[0]), len(views[1])), score, coupling, classes, apart, features, parts, missing, tuple(notes), seed, repeats)


def _classifier(measure: Estimator, permutations: int) -> dict[str, Any]:
    """Options of the domain classifier: those of the measure where it is one."""
    if not isinstance(measure, DomainClassifier):
        return {"permutations": permutations}
    return {name: getattr(measure, name) for name in ("classifier", "folds", "penalties", "neighbours", "permutations")}


def _reasons(measure: Estimator, views: Sequence[Embedding]) -> dict[str, str]:
    """Section -> why it is not there."""
    out: dict[str, str] = {}
    without = [f"{view.name} has {'several labels an image' if view.indicators is not None else 'no labels'}" for view in views if view.labels is None]
    if not explained_by_plan(measure):
        out["coupling"] = f"{measure.name} couples no classes; otdd, wasserstein, class-frechet and class-mean-emd do"
    elif without:
        out["coupling"] = f"a coupling between classes needs labels on both sides: {' and '.join(without)}"
    if views[1].labels is None:
        out["classes"] = f"{without[-1]}, so there are no classes to cover"
    return out


def _notes(views: Sequence[Embedding], sizes: tuple[int, int]) -> list[str]:
    """What must be known about the images that were looked at."""
    return [f"{len(view):,} of {size:,} images of {view.name}: a random sample in which classes keep their shares (max_images)"
            for view, size in zip(views, sizes, strict=True) if len(view) < size]


# --- files -----------------------------------------------------------------------------------------------------------------------------


def folder_of(source: str, target: str) -> Path:
    """The folder of an explanation when none is named."""
    return Path(f"explain-{safe_name(source, otherwise='source')}-{safe_name(target, otherwise='target')}")


def save_explanation(
    found: Explained, folder: str | os.PathLike[str], *, thumbnails: bool = True, dpi: int = 300, workers: int | None = None,
) -> tuple[Path, ...]:
    """Writes explanation.html, explanation.json, CSV files and figures; returns their paths, the page first.

    Args:
        found: the explanation and its data sets.
        folder: is made when missing. Tables and figures of an older explanation that this one does not have are removed.
        thumbnails: show images on the page.
        dpi: of the PNG figures.
        workers: processes that decode the images that are shown; default: one a core.
    """
    place, explanation = Path(folder), found.explanation
    pictures = _pictures(found, workers or cores()) if thumbnails else None
    page = place / PAGE
    written = [page, place / "explanation.json"]
    tables = csv_files(explanation)
    for name, text in tables.items():
        write_text(place / name, text)
        written.append(place / name)
    figures = explanation_figures(explanation)
    drawn = write_figures(figures, place / "figures", dpi=dpi)
    possible = {place / "figures" / f"{name}.{kind}" for name in FIGURES for kind in ("svg", "png")} | {place / name for name in TABLES}
    for path in sorted(possible - set(drawn) - set(written)):
        with resource_errors(path, "remove"):
            path.unlink(missing_ok=True)
    write_json(place / "explanation.json", explanation.as_dict())
    write_text(page, explanation_page(explanation, pictures))
    return (*written, *drawn)


def _pictures(found: Explained, workers: int) -> dict[tuple[str, str], np.ndarray]:
    """(side, key) -> thumbnail of every image that the page shows; one that cannot be read any more has none."""
    out: dict[tuple[str, str], np.ndarray] = {}
    names = {"source": found.explanation.source, "target": found.explanation.target}
    for side, keys in pictured(found.explanation).items():
        dataset = found.datasets[names[side]]
        position = {key: number for number, key in enumerate(dataset.keys)}
        wanted = sorted({position[key] for key in keys if key in position})
        preparation = Thumbnail()
        for one in prepared_images(dataset, wanted, preparation, workers=workers, shape=(preparation.side, preparation.side, 3), few=FEW):
            if not isinstance(one.pixels, Problem):
                out[side, dataset.keys[one.index]] = np.array(one.pixels)
    return out
