"""Copies of images between data sets and within them: every image is looked at once, and what was seen is kept in the store."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simkit.dataset import Dataset, Skipped
from simkit.embedding import Embedding
from simkit.errors import Problem, UsageError
from simkit.extractors.base import Extractor
from simkit.extractors.decoding import prepared_images
from simkit.files import write_text
from simkit.leakage.exact import exact_between, exact_within
from simkit.leakage.near import DEFAULTS, MOST, NearPairs, Thresholds, near_pairs
from simkit.leakage.neighbours import Features
from simkit.leakage.pairs import CopyPair, Leakage
from simkit.leakage.verification import ORIENTATIONS
from simkit.pipeline.commands import embedded, extractor_of, load
from simkit.pipeline.looking import Seen, pictures_of, seen_of
from simkit.pipeline.progress import Progress
from simkit.pipeline.stages import Effort, cores, strictly
from simkit.report.layout import safe_name, unique
from simkit.store import Store
from simkit.tables import csv_text, read_table, unguarded

if TYPE_CHECKING:
    from simkit.study import Study

__all__ = ["LeakageResult", "find_leakage", "leakage_between", "leakage_within"]

DataLike = str | os.PathLike[str] | Dataset


@dataclass(frozen=True, eq=False)
class LeakageResult:
    """Copies between targets and sources, and within targets.

    Attributes:
        found: one entry a pair of data sets that was compared, also where nothing was found.
        datasets: by name, without unreadable images.
    """

    found: tuple[Leakage, ...]
    datasets: Mapping[str, Dataset]

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images that could not be read, and were compared with nothing."""
        return tuple(one for dataset in self.datasets.values() for one in dataset.skipped)

    @property
    def pairs(self) -> tuple[CopyPair, ...]:
        """All pairs of copies."""
        return tuple(pair for one in self.found for pair in one.pairs)

    def exclusions(self) -> dict[str, list[tuple[str, str]]]:
        """Data set -> (key, reason) of the images that a study must leave out, in the order of the data set.

        Between two data sets it is the image of the source, also where that is a target itself. Within one, of two images on two sides of a split, it is
        the one that is trained on (a "test" image stays, then a "val" one); where there is no split, the later one in the order of the data set.
        """
        reasons: dict[str, dict[str, str]] = {}
        for pair in self.pairs:
            if pair.first != pair.second:
                reasons.setdefault(pair.second, {}).setdefault(pair.second_key, f"copy ({pair.how}) of {pair.first_key} of {pair.first}")
                continue
            keep, drop = (pair.first_key, pair.second_key)
            if _kept_rank(pair.second_split) < _kept_rank(pair.first_split):
                keep, drop = drop, keep
            reasons.setdefault(pair.first, {}).setdefault(drop, f"copy ({pair.how}) of {keep}")
        return {name: [(key, found[key]) for key in self.datasets[name].keys if key in found] for name, found in sorted(reasons.items())}

    def write_exclusions(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Writes ``exclude-NAME.csv`` (columns key, reason) for each data set that has images to leave out, and returns the paths.

        A study takes such a file: ``[datasets.NAME] exclude = "exclude-NAME.csv"``. A list that is there already only grows: what the study leaves out by it
        is not found again, and would come back.
        """
        lists = self.exclusions()
        names = unique([safe_name(name, otherwise=str(number), longest=120) for number, name in enumerate(lists, 1)])
        paths = []
        for name, rows in zip(names, lists.values(), strict=True):
            paths.append(Path(folder) / f"exclude-{name}.csv")
            write_text(paths[-1], csv_text(["key", "reason"], [*_listed_before(paths[-1], {key for key, _ in rows}), *rows]))
        return paths

    def write(self, folder: str | os.PathLike[str], *, thumbnails: bool = True, workers: int | None = None) -> list[Path]:
        """Writes ``leakage.csv`` (all pairs) and ``leakage.html`` (with pictures of up to 60 pairs a comparison), and returns the paths.

        Args:
            folder: is made where it is missing.
            thumbnails: whether the page shows images.
            workers: processes that decode.
        """
        from simkit.report.leakage_page import leakage_csv, leakage_page

        skipped = [f"{one.dataset}: {one.key}: {one.reason}" for one in self.skipped]
        page = leakage_page(self.found, self._images(workers or cores()) if thumbnails else {}, skipped=skipped)
        paths = [Path(folder) / "leakage.csv", Path(folder) / "leakage.html"]
        write_text(paths[0], leakage_csv(self.found))
        write_text(paths[1], page)
        return paths

    def _images(self, workers: int) -> dict[tuple[str, str], str]:
        """The images of the pairs that the page shows, as data: addresses."""
        from simkit.report.html import image_uri
        from simkit.report.leakage_page import pictured
        from simkit.report.thumbnails import Thumbnail

        wanted: dict[str, set[str]] = {}
        for pair in (pair for one in self.found for pair in pictured(one)):
            wanted.setdefault(pair.first, set()).add(pair.first_key)
            wanted.setdefault(pair.second, set()).add(pair.second_key)
        out = {}
        for name, keys in sorted(wanted.items()):
            dataset = self.datasets[name]
            positions = [position for position, key in enumerate(dataset.keys) if key in keys]
            for one in prepared_images(dataset, positions, Thumbnail(), workers=workers, shape=None):
                if not isinstance(one.pixels, Problem):
                    out[name, dataset.keys[one.index]] = image_uri(one.pixels)
        return out


def _listed_before(path: Path, found: set[str]) -> list[tuple[str, str]]:
    """(key, reason) of a list that is there, but for those that are found anew."""
    if not path.is_file():
        return []
    table = read_table(path)
    keys = [unguarded(key) for key in table.column("key")]
    reasons = [unguarded(cell) for cell in table.column("reason")] if "reason" in table.columns else [""] * len(keys)
    return [(key, reason) for key, reason in zip(keys, reasons, strict=True) if key not in found]


def _kept_rank(split: str) -> int:
    """0 for what is tested on, 1 for what is validated on, 2 for the rest: the smaller stays."""
    word = split.lower()
    return 0 if "test" in word or "hold" in word else 1 if word.startswith(("val", "dev")) else 2


# --- between and within ----------------------------------------------------------------------------------------------------------------


def leakage_between(
    target: Dataset | Seen, source: Dataset | Seen, store: Store, progress: Progress, *, near: bool = True,
    embeddings: tuple[Embedding, Embedding] | None = None, thresholds: Thresholds = DEFAULTS, embedding_cosine: float | None = None, workers: int | None = None,
) -> Leakage:
    """Images of a target that have a copy in a source.

    Args:
        target: data set, or what was seen of it; unreadable images are left out.
        source: another data set.
        store: where what was seen of images is kept.
        progress: told what happens.
        near: also look for changed copies.
        embeddings: of target and source, whose neighbours are candidates too.
        thresholds: what makes a near copy.
        embedding_cosine: least cosine of neighbours; None: calibrated.
        workers: processes that decode; None: one a core.
    """
    first, second = (seen_of(dataset, store, progress, workers=workers) for dataset in (target, source))
    exact = exact_between(first.looks, second.looks)
    found = None
    if near:
        features = None if embeddings is None else _features((first, second), embeddings)
        with progress.counting(f"comparing {first.dataset.name} with {second.dataset.name}", len(first.dataset), "images") as done:
            found = near_pairs(first.looks, second.looks, pictures_of((first, second), workers), same=False, known=[(a, b) for a, b, _ in exact],
                               features=features, thresholds=thresholds, embedding_cosine=embedding_cosine, done=done)
    return _leakage(first, second, exact, found, split=False)


def leakage_within(
    dataset: Dataset | Seen, store: Store, progress: Progress, *, near: bool = True, embedding: Embedding | None = None,
    thresholds: Thresholds = DEFAULTS, embedding_cosine: float | None = None, workers: int | None = None,
) -> Leakage:
    """Copies within a data set that can leak: on two sides of its given split; without one, all but those within one group, which folds never part.

    Args:
        dataset: data set, or what was seen of it; unreadable images are left out.
        store: where what was seen of images is kept.
        progress: told what happens.
        near: also look for changed copies.
        embedding: of the data set, whose neighbours are candidates too.
        thresholds: what makes a near copy.
        embedding_cosine: least cosine of neighbours; None: calibrated.
        workers: processes that decode; None: one a core.
    """
    seen = seen_of(dataset, store, progress, workers=workers)
    kept = seen.dataset
    sides = kept.splits if kept.splits is not None and len(set(kept.splits)) > 1 else None
    exact = exact_within(seen.looks, sides)
    found = None
    if near:
        features = None if embedding is None else _features((seen, seen), (embedding, embedding))
        with progress.counting(f"comparing {kept.name} with itself", len(kept), "images") as done:
            found = near_pairs(seen.looks, seen.looks, pictures_of((seen, seen), workers), same=True, known=[(a, b) for a, b, _ in exact],
                               features=features, thresholds=thresholds, embedding_cosine=embedding_cosine, done=done)
    return _leakage(seen, seen, exact, found, split=sides is not None)


def _features(seen: tuple[Seen, Seen], embeddings: tuple[Embedding, Embedding]) -> tuple[Features, Features]:
    """Rows of embeddings in the order of the data sets; the embedding may hold more images."""
    out = []
    for one, embedding in zip(seen, embeddings, strict=True):
        dataset = one.dataset
        rows = embedding.features
        if tuple(embedding.keys) != dataset.keys:
            place = {key: position for position, key in enumerate(embedding.keys)}
            if missing := [key for key in dataset.keys if key not in place]:
                message = f"{len(missing)} images have no row in the embedding, the first is '{missing[0]}'"
                raise UsageError("SK109", dataset.name, message, "embed the same data set")
            rows = rows[[place[key] for key in dataset.keys]]
        out.append(Features(dataset.name, rows))
    return out[0], out[1]


def _leakage(first: Seen, second: Seen, exact: Iterable[tuple[int, int, Any]], near: NearPairs | None, *, split: bool) -> Leakage:
    same = first is second
    rows: list[tuple[int, int, Any, float, int, tuple[str, ...]]] = [(a, b, how, 1.0, 0, (str(how),)) for a, b, how in exact]
    rows += [] if near is None else [(p.first, p.second, "near", p.similarity, p.orientation, p.found_by) for p in near.pairs]
    pairs = [_pair(first.dataset, second.dataset, *row) for row in sorted(rows)]
    notes: list[str] = []
    if same:
        loose = len(pairs)
        if split:
            pairs = [pair for pair in pairs if pair.first_split != pair.second_split]
            notes += _count(loose - len(pairs), "more pair of near copies lies", "more pairs of near copies lie", "on one side of the split")
        elif first.dataset.groups is not None:
            pairs = [pair for pair in pairs if pair.first_group != pair.second_group]
            notes += _count(loose - len(pairs), "more pair of copies lies", "more pairs of copies lie", "within one group, which folds never part")
        contradictions = [pair for pair in pairs if pair.contradiction]
        sure = all(pair.exact for pair in contradictions)
        notes += _count(len(contradictions), "pair of copies has", "pairs of copies have", f"two labels: one {'is' if sure else 'may be'} wrong")
    for name, looks in {first.dataset.name: first.looks, second.dataset.name: second.looks}.items():
        notes += _count(int(looks.blank.sum()), f"image of {name} shows", f"images of {name} show", "one grey level only: no evidence of copying, left out")
    if near is not None:
        notes += _count(near.full, "image has", "images have", f"{MOST:,} near copies or more, as many as are looked for: there may be others")
        notes += near.notes
    return Leakage(first.dataset.name, second.dataset.name, len(first.dataset), len(second.dataset), tuple(pairs),
                   {} if near is None else near.thresholds, tuple(notes), _shared_groups(first.dataset, second.dataset), split)


def _count(number: int, one: str, many: str, rest: str) -> list[str]:
    return [f"{number:,} {one if number == 1 else many} {rest}"] if number else []


def _pair(first: Dataset, second: Dataset, a: int, b: int, how: Any, similarity: float, orientation: int, found_by: tuple[str, ...]) -> CopyPair:
    def at(values: Sequence[str] | None, position: int) -> str:
        return "" if values is None else values[position]

    return CopyPair(
        first.name, first.keys[a], second.name, second.keys[b], how, round(similarity, 4), ORIENTATIONS[orientation], found_by,
        at(first.splits, a), at(second.splits, b), at(first.groups, a), at(second.groups, b), at(first.label_names, a), at(second.label_names, b))


def _shared_groups(first: Dataset, second: Dataset) -> tuple[str, ...]:
    """Names of groups that both data sets have; within one, of those on several sides of its split."""
    if first.groups is None or second.groups is None:
        return ()
    if first is not second:
        return tuple(sorted(set(first.groups) & set(second.groups)))
    if first.splits is None:
        return ()
    sides = Counter(group for group, _ in set(zip(first.groups, first.splits, strict=True)))
    return tuple(sorted(group for group, count in sides.items() if count > 1))


# --- the command -----------------------------------------------------------------------------------------------------------------------


def find_leakage(
    targets: DataLike | Sequence[DataLike], sources: DataLike | Sequence[DataLike] = (), *, study: Study | str | os.PathLike[str] | None = None,
    within: bool | None = None, near: bool = True, extractor: str | Mapping[str, Any] | Extractor | None = None, threshold: float | None = None,
    embedding_cosine: float | None = None, device: str = "auto", batch_size: int | None = None, workers: int | None = None, backend: str = "auto",
    store: Store | str | os.PathLike[str] | None = None, strict: bool = False, progress: Progress | None = None, **options: Any,
) -> LeakageResult:
    """Images of targets that have a copy in a source, and copies within the targets that a split or folds may part.

    Exact copies have the same bytes or the same decoded pixels. Near copies (compressed again, resized, cropped by some percent, mirrored, turned by
    90 degrees, brighter) are found by perceptual hash and, with an extractor, among neighbours of embeddings; each is verified by pixels laid over each
    other. Slices next to each other in a volume, or two photographs of one thing, are no copies; most have correlations of 0.85 to 0.95, below the default
    threshold, and those that hardly differ are above it. A threshold of 0.9 finds most of them, where no groups tell them.

    Args:
        targets: one or several data sets, as for :func:`simkit.load`; with a study and nothing named, its targets.
        sources: data sets that may hold copies; with a study and no target named, its sources.
        study: a study file whose data set names may be used.
        within: also look within each target; None: only where there is no source.
        near: also look for near copies.
        extractor: also look among embedding neighbours; name, ``{name: {option: value}}`` or an Extractor.
        threshold: least correlation of details of a near copy, 0..1, instead of the calibrated ones (0.98 at 16 px, 0.9 at 32, 0.95 at 64).
        embedding_cosine: least cosine of embedding neighbours; None: calibrated by the distribution within the data sets.
        device, batch_size, workers, backend: as for :func:`simkit.embed`.
        store: the store or its root.
        strict: refuse images that cannot be read, instead of leaving them out.
        progress: told what happens.
        **options: options of the source that reads the data.

    Raises:
        UsageError: nothing to compare, two data sets of one name, a threshold out of range. DataError: data that cannot be read.
    """
    for what, value in (("threshold", threshold), ("embedding cosine", embedding_cosine)):
        if value is not None and not 0 < value <= 1:
            raise UsageError("SK102", what, f"{value} is outside 0..1", "give a correlation such as 0.9")
    if not near and (extractor is not None or threshold is not None or embedding_cosine is not None):
        raise UsageError("SK102", "near", "exact copies need no extractor and no threshold", "leave them out, or look for near copies too")
    if embedding_cosine is not None and extractor is None:
        raise UsageError("SK104", "extractor", "a least cosine of embeddings is given, and nothing embeds", "name an extractor")
    progress, place = progress or Progress(), store if isinstance(store, Store) else Store(store)
    goals, origins = _loaded(targets, sources, study, options)
    limits = DEFAULTS if threshold is None else replace(DEFAULTS, detail=((LARGEST_GIVEN, threshold),))
    made = None if extractor is None else extractor_of(extractor)
    everything = {dataset.name: dataset for dataset in (*goals, *origins)}
    seen = {name: seen_of(dataset, place, progress, workers=workers) for name, dataset in everything.items()}
    kept = {name: one.dataset for name, one in seen.items()}
    if strict:
        for dataset in kept.values():
            strictly(dataset)
    embeddings = {} if made is None else {one.dataset.name: one.embedding for one in embedded(
        list(kept.values()), made, device=device, effort=Effort(batch_size, workers, backend), store=place, strict=strict, progress=progress)}
    found = []
    for goal, origin in _compared([one.name for one in goals], [one.name for one in origins], within):
        more = {"near": near, "thresholds": limits, "embedding_cosine": embedding_cosine, "workers": workers}
        if goal == origin:
            found.append(leakage_within(seen[goal], place, progress, embedding=embeddings.get(goal), **more))  # type: ignore[arg-type]
        else:
            both = (embeddings[goal], embeddings[origin]) if embeddings else None
            found.append(leakage_between(seen[goal], seen[origin], place, progress, embeddings=both, **more))  # type: ignore[arg-type]
    return LeakageResult(tuple(found), kept)


LARGEST_GIVEN = 64
"""Any side: one point of interpolation is a constant."""


def _loaded(
    targets: DataLike | Sequence[DataLike], sources: DataLike | Sequence[DataLike], study: Study | str | os.PathLike[str] | None, options: Mapping[str, Any],
) -> tuple[list[Dataset], list[Dataset]]:
    """Targets and sources, each data set loaded once; with a study and no target, those of the study."""
    from simkit.study import Study, read_study

    read = study if isinstance(study, Study) or study is None else read_study(study)
    given: list[list[DataLike]] = [[one] if isinstance(one, (str, os.PathLike, Dataset)) else list(one) for one in (targets, sources)]
    if not given[0]:
        if read is None:
            raise UsageError("SK104", "TARGET", "no data set is named", "name data sets, or a study: its targets and sources are taken")
        given[0] = list(read.targets)
        given[1] = given[1] or [name for name in read.sources if name in read.datasets]
    loaded: dict[str, Dataset] = {}
    origin: dict[str, str] = {}
    out: list[list[Dataset]] = [[], []]
    for number, group in enumerate(given):
        for one in group:
            dataset = load(one, study=read, **options)
            place = dataset.origin or str(one)
            if dataset.name in loaded and origin[dataset.name] != place:
                fix = "give them different folder names, or name them in a study file"
                raise UsageError("SK105", str(one), f"two data sets are called '{dataset.name}'", fix)
            out[number].append(loaded.setdefault(dataset.name, dataset))
            origin[dataset.name] = place
    return out[0], out[1]


def _compared(targets: Sequence[str], sources: Sequence[str], within: bool | None) -> list[tuple[str, str]]:
    """(target, source) of each comparison, every two data sets once; a data set with itself: within."""
    out: list[tuple[str, str]] = []
    for target in dict.fromkeys(targets):
        if within or (within is None and not sources):
            out.append((target, target))
        out += [(target, source) for source in dict.fromkeys(sources) if source != target and (source, target) not in out]
    if not out:
        raise UsageError("SK104", "source", f"{', '.join(targets)} can be compared with itself only, which was not asked for", "name a source, or look within")
    return out
