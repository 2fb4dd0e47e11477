"""Maps: where images lie in the space of an extractor, and where data sets lie by a measure; in Python, and as a folder with page, table and figures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from simkit.dataset import Dataset, Skipped
from simkit.errors import Problem, Problems, UsageError
from simkit.extractors.base import Extractor
from simkit.extractors.decoding import prepared_images
from simkit.extractors.projection import projection_of
from simkit.files import resource_errors, write_text
from simkit.maps import DatasetMap, ImageMap, MapMethod, MapSet, check_layout, distortion, layout, map_of, measures_of, spread_sample
from simkit.maps.neighbourhoods import usable_neighbours
from simkit.maps.sampling import shares
from simkit.pipeline.commands import DataLike, embedded, extractor_of, load
from simkit.pipeline.progress import Progress
from simkit.pipeline.stages import Effort, Embedded, cores
from simkit.store import Store
from simkit.study import Study
from simkit.tables import ScoreTable, csv_text, read_scores

__all__ = ["MOST_THUMBNAILS", "map_datasets", "map_images", "mapped", "write_dataset_maps", "write_image_map"]

MOST_THUMBNAILS = 6000
"""Pictures of a page: about 7 MB."""

CELL = 40
"""Side of such a picture, pixels."""

MIDDLE_GREY = 127


def map_images(
    data: Sequence[DataLike], *, method: MapMethod = "umap", extractor: str | Mapping[str, Any] | Extractor = "torchvision",
    study: Study | str | os.PathLike[str] | None = None, projection: str | None = None, max_images: int = 2000, neighbours: int = 15, perplexity: float = 30.0,
    seed: int = 0, thumbnails: bool = True, out: str | os.PathLike[str] | None = None, device: str = "auto", batch_size: int | None = None,
    workers: int | None = None, backend: str = "auto", store: Store | str | os.PathLike[str] | None = None, strict: bool = False,
    progress: Progress | None = None, **options: Any,
) -> ImageMap:
    """The images of several data sets in one plane, with how much that plane distorts.

    Args:
        data: data sets, as for :func:`simkit.load`.
        method: "umap", "pca" or "tsne".
        extractor: of the features.
        study: a study file whose data set names may be used.
        projection: "pca:K" or "random:K": features are reduced before.
        max_images: of a data set; of a larger one, images are taken by :data:`simkit.maps.RULE`.
        neighbours: of UMAP.
        perplexity: of t-SNE.
        seed: of every random choice.
        thumbnails: whether the map holds small pictures.
        out: folder for map.html, map.csv and figures; None: nothing is written.
        device, batch_size, workers, backend, store, strict, progress: as for :func:`simkit.embed`.
        **options: options of the source.

    Raises:
        UsageError: a data set given twice, an unknown method, neighbours or a perplexity that do not fit the number of images.
        NotEnoughData: fewer than 3 images, or features that are all equal.
    """
    datasets = [load(one, study=study, **options) for one in data]
    found, _ = mapped(datasets, extractor_of(extractor), method=method, projection=projection, max_images=max_images, neighbours=neighbours,
                      perplexity=perplexity, seed=seed, thumbnails=thumbnails, device=device, effort=Effort(batch_size, workers, backend), store=store,
                      strict=strict, progress=progress)
    if out is not None:
        write_image_map(found, out)
    return found


def mapped(
    datasets: Sequence[Dataset], extractor: Extractor, *, method: MapMethod, projection: str | None, max_images: int, neighbours: int, perplexity: float,
    seed: int, thumbnails: bool, device: str, effort: Effort, store: Store | str | os.PathLike[str] | None, strict: bool, progress: Progress | None,
) -> tuple[ImageMap, tuple[Skipped, ...]]:
    """:func:`map_images` of data sets that are loaded, and the images that were left out because they cannot be read."""
    progress = progress or Progress()
    if max_images < 1:
        raise UsageError("SK102", "--max-images", f"{max_images} images of a data set", "give 1 or more")
    _check_sets(datasets)
    check_layout(method, sum(min(len(one), max_images) for one in datasets), neighbours=neighbours, perplexity=perplexity)
    samples = [one.take(spread_sample(one.digests, one.label_names, max_images)) for one in datasets]
    for whole, part in zip(datasets, samples, strict=True):
        if len(part) < len(whole):
            progress.say(f"{whole.name}: {len(part):,} of {len(whole):,} images, chosen by their content, spread over the classes")
    done = embedded(samples, extractor, device=device, effort=effort, store=store, strict=strict, progress=progress,
                    projection=projection_of(projection, "--projection"))
    features = np.concatenate([one.embedding.features for one in done])
    check_layout(method, len(features), neighbours=neighbours, perplexity=perplexity)  # again: images that cannot be read are left out
    names = [one.dataset.name for one in done for _ in one.dataset.keys]
    progress.say(f"laying out {len(features):,} images")
    placed = layout(features, method, neighbours=neighbours, perplexity=perplexity, seed=seed)
    kept = distortion(features, placed.points, names, k=usable_neighbours(len(features)), seed=seed)
    sets = tuple(_map_set(one, len(whole) - len(part) + len(one.dataset)) for one, whole, part in zip(done, datasets, samples, strict=True))
    if thumbnails:
        sets = _with_thumbnails(sets, [one.dataset for one in done], progress)
    described = f"{extractor.name}, recipe {done[0].embedding.extractor[:12]}" + (f", reduced by {projection}" if projection else "")
    return ImageMap(sets, placed, kept, described, int(features.shape[1]), thumbnails), tuple(s for one in done for s in one.dataset.skipped)


def _check_sets(datasets: Sequence[Dataset]) -> None:
    """No data set twice: neither its name nor, under two names, its images."""
    if not datasets:
        raise UsageError("SK104", "DATA", "no data set is named", "name data sets, or a table of scores with --scores")
    problems = Problems()
    seen: dict[str, str] = {}
    content: dict[str, str] = {}
    for one in datasets:
        if one.name in seen:
            message = (f"'{one.name}' is given twice" if seen[one.name] == one.origin else f"two data sets are called '{one.name}'")
            problems.add("SK105", one.origin or one.name, message, "give each data set once, and different folder names or names of a study file")
            continue
        seen[one.name] = one.origin
        if one.fingerprint in content:
            message = f"holds the same images and labels as {content[one.fingerprint]}"
            problems.add("SK105", one.name, message, "give each data set once: its points would lie on each other")
        content.setdefault(one.fingerprint, one.name)
    problems.raise_if_any(UsageError)


def _map_set(one: Embedded, total: int) -> MapSet:
    dataset = one.dataset
    return MapSet(dataset.name, total, dataset.keys, dataset.label_names or ("",) * len(dataset), dataset.groups, dataset.splits)


def small_picture(image: np.ndarray) -> np.ndarray:
    """An image uint8 (h, w, 1 or 3) as uint8 (40, 40, 3): whole, its longer side fitted, the rest grey."""
    from PIL import Image

    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("RGB")
    picture.thumbnail((CELL, CELL))
    out = np.full((CELL, CELL, 3), MIDDLE_GREY, dtype=np.uint8)
    top, left = (CELL - picture.height) // 2, (CELL - picture.width) // 2
    out[top : top + picture.height, left : left + picture.width] = np.asarray(picture)
    return out


def _with_thumbnails(sets: Sequence[MapSet], datasets: Sequence[Dataset], progress: Progress) -> tuple[MapSet, ...]:
    """The data sets with small pictures, at most :data:`MOST_THUMBNAILS` in all, in the data sets' shares."""
    wanted = shares([len(one.keys) for one in sets], MOST_THUMBNAILS)
    if sum(wanted) < sum(len(one.keys) for one in sets):
        progress.say(f"pictures: {sum(wanted):,} of {sum(len(one.keys) for one in sets):,} images have one on the page")
    out = []
    for one, dataset, count in zip(sets, datasets, wanted, strict=True):
        chosen = spread_sample(dataset.digests, dataset.label_names, count).tolist()
        with progress.counting(f"pictures of {one.name}", count, "images") as done:
            pictures = {}
            for made in prepared_images(dataset, chosen, small_picture, workers=cores(), shape=(CELL, CELL, 3)):
                done(1)
                if not isinstance(made.pixels, Problem):
                    pictures[made.index] = np.array(made.pixels)
        out.append(replace(one, thumbnails=pictures))
    return tuple(out)


def map_datasets(
    scores: ScoreTable | str | os.PathLike[str], measures: Sequence[str] = (), *, allow_missing: bool = False, seed: int = 0,
    out: str | os.PathLike[str] | None = None,
) -> tuple[DatasetMap, ...]:
    """Maps of the data sets of a score table, one a measure: metric scaling of the distances, with floors and stress.

    Args:
        scores: a ScoreTable, or a CSV file of `simkit distance`.
        measures: names; none: every distance of the table (the others are left out, with ``measures`` they are refused).
        allow_missing: draw data sets of which fewer than two distances are known.
        seed: of the random starts.
        out: folder for map.html, map.csv and figures; None: nothing is written.

    Raises:
        UsageError: an unknown measure, or one that is no distance.
        NotEnoughData: too few pairs, as :func:`simkit.maps.distances_of`.
    """
    found = mapped_scores(scores, measures, allow_missing=allow_missing, seed=seed)[0]
    if out is not None:
        write_dataset_maps(found, out)
    return found


def mapped_scores(
    scores: ScoreTable | str | os.PathLike[str], measures: Sequence[str], *, allow_missing: bool, seed: int,
) -> tuple[tuple[DatasetMap, ...], tuple[str, ...]]:
    """The maps, and the measures that were left out because they are no distances, each with the reason."""
    table = scores if isinstance(scores, ScoreTable) else read_scores(scores)
    if len(set(measures)) < len(measures):
        twice = next(name for name in measures if list(measures).count(name) > 1)
        raise UsageError("SK105", "--measure", f"'{twice}' is given twice", "give it once")
    if measures:
        return tuple(map_of(table, one, allow_missing=allow_missing, seed=seed) for one in measures), ()
    found, left_out = [], []
    for one in measures_of(table):
        try:
            found.append(map_of(table, one, allow_missing=allow_missing, seed=seed))
        except UsageError as error:  # no distance
            left_out.append(f"{one}: {error.problems[0].message}")
    if not found:
        reasons = "; ".join(left_out) or "it has no rows"
        raise UsageError("SK108", "--scores", f"the table has no distance ({reasons})", "score a distance, such as otdd or frechet")
    return tuple(found), tuple(left_out)


def write_image_map(found: ImageMap, out: str | os.PathLike[str], *, dpi: int = 300) -> Path:
    """Writes map.html, map.csv (one row an image) and the figures into ``out``; returns the path of the page."""
    from simkit.report.map_figures import image_figures
    from simkit.report.map_page import image_page

    drawn = image_figures(found)
    _write(Path(out), found.to_csv(), image_page(found, drawn), drawn, dpi)
    return Path(out) / "map.html"


def write_dataset_maps(found: Sequence[DatasetMap], out: str | os.PathLike[str], *, dpi: int = 300) -> Path:
    """Writes map.html, map.csv (one row a data set and measure) and the figures into ``out``; returns the path of the page."""
    from simkit.report.dataset_map import dataset_figure
    from simkit.report.figures import named_once
    from simkit.report.map_page import dataset_page

    drawn = named_once([dataset_figure(one) for one in found])
    csv = csv_text(["measure", "dataset", "role", "x", "y", "floor", "stress"], [row for one in found for row in one.records()])
    _write(Path(out), csv, dataset_page(found, drawn), drawn, dpi)
    return Path(out) / "map.html"


def _write(folder: Path, csv: str, page: str, drawn: Iterable[Any], dpi: int) -> None:
    from simkit.report.figures import write_figures
    from simkit.report.layout import visible

    drawn = list(drawn)
    paths = set(write_figures(drawn, folder / "figures", dpi=dpi))
    with resource_errors(folder):
        for old in {*(folder / "figures").glob("map-*.svg"), *(folder / "figures").glob("map-*.png")} - paths:
            old.unlink()
    captions = [visible(f"{one.name}: {one.title}\n{one.caption or one.missing}") for one in drawn]
    write_text(folder / "figures" / "map-captions.txt", "\n\n".join(captions) + "\n")
    write_text(folder / "map.csv", csv)
    write_text(folder / "map.html", page)
