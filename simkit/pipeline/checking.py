"""Data sets looked at before any GPU hour: every image is decoded once, in worker processes; of each a few facts are kept, never its pixels."""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simkit.dataset import Dataset, Skipped, reason_of
from simkit.errors import DataError, Problem, Problems, UsageError
from simkit.pipeline.progress import Progress
from simkit.report.check_content import Check, Checked, Copies, Images, Shared, Span
from simkit.report.check_findings import findings_of

if TYPE_CHECKING:
    from simkit.study import Study

__all__ = ["check"]

LAYOUT = "<IIBBB32s"
"""One image's facts in bytes: height, width, channels as stored, whether grey, whether constant, SHA-256 of the pixels."""

FACT_BYTES = struct.calcsize(LAYOUT)
LARGEST_SIDE = 20
"""An image that is longer than this many times its width is called elongated."""

SMALLEST_SIDE = 8
DataLike = str | os.PathLike[str] | Dataset


def check(
    data: DataLike | Sequence[DataLike], *, study: Study | str | os.PathLike[str] | None = None, workers: int | None = None,
    thumbnails: str | os.PathLike[str] | None = None, progress: Progress | None = None, **options: Any,
) -> Check:
    """What is in data sets, and what is wrong with them: counts, sizes, balance, unreadable files, copies; in seconds, without a network.

    Args:
        data: one or several data sets, as for :func:`simkit.load`. Between several, images that they share are looked for.
        study: a study file (or Study) whose data set names ``data`` may use.
        workers: processes that decode images; default: one a CPU core.
        thumbnails: a PNG file of up to eight images per class. Several data sets, or more classes than fit, make several files:
            ``sheet.png`` becomes ``sheet-NAME.png``, ``sheet-NAME-2.png``.
        progress: told what happens.
        **options: options of the source.

    Raises:
        UsageError: unknown name or option, two data sets of one name.
        DataError: a data set that cannot be listed; all of them at once. (Images that cannot be decoded are no error, they are in the answer.)
    """
    from simkit.pipeline.stages import cores

    progress = progress or Progress()
    many = [data] if isinstance(data, (str, os.PathLike, Dataset)) else list(data)
    if not many:
        raise UsageError("SK104", "data", "no data set is named", "give one path or name at least")
    loaded = _loaded(many, study, options)
    sheet = _sheet_path(thumbnails)
    facts, checked = [], []
    for dataset, source in loaded:
        read = _read(dataset, workers or cores(), progress)
        facts.append(read)
        one = _checked(read, source)
        if sheet is not None and read.good:
            from simkit.report.thumbnails import save_sheets

            place = sheet if len(loaded) == 1 else _beside(sheet, dataset.name, [d.name for d, _ in loaded])
            one = replace(one, sheets=save_sheets(read.kept, read.contents, place, workers=workers or cores(), say=progress.say))
        checked.append(one)
    return Check(tuple(checked), tuple(_shared(facts)))


# --- what is read ----------------------------------------------------------------------------------------------------------------------


def _loaded(many: Sequence[DataLike], study: Study | str | os.PathLike[str] | None, options: Mapping[str, Any]) -> list[tuple[Dataset, str]]:
    """The data sets with the names of their sources; what is wrong with any of them is told at once."""
    from simkit.pipeline.commands import resolve
    from simkit.study import Study, read_study

    read = study if isinstance(study, Study) or study is None else read_study(study)
    problems, out = Problems(), []
    for data in many:
        if isinstance(data, Dataset):
            out.append((data, "in memory"))
            continue
        try:
            spec, base = resolve(data, study=read, options=options)
            out.append((spec.load(base), spec.source.name))
        except DataError as error:
            problems.catch(error)
    problems.raise_if_any(DataError)
    names = Counter(dataset.name for dataset, _ in out)
    for name, count in names.items():
        if count > 1:
            raise UsageError("SK105", "DATA", f"{count} data sets are called '{name}'", "give them different folder names, or name them in a study file")
    return out


def _sheet_path(path: str | os.PathLike[str] | None) -> Path | None:
    """Where thumbnails go, checked before any work."""
    from simkit.files import check_writable

    if path is None:
        return None
    made = Path(path)
    if made.suffix.lower() != ".png":
        raise UsageError("SK102", "thumbnails", f"'{path}' does not end in .png", "name a PNG file, for example sheet.png")
    check_writable(made)
    return made


def _beside(sheet: Path, name: str, names: Sequence[str]) -> Path:
    from simkit.report.layout import safe_name, unique

    parts = unique([safe_name(one, otherwise="data-set") for one in names])
    return sheet.with_name(f"{sheet.stem}-{parts[list(names).index(name)]}{sheet.suffix}")


# --- facts of images -------------------------------------------------------------------------------------------------------------------


class _Facts:
    """What is kept of an image, as bytes (uint8). Runs in the worker processes."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        height, width, channels = image.shape
        grey = channels == 1 or (_grey(image[:1]) and _grey(image))  # one line is enough to know most colour images
        shown = np.ascontiguousarray(image[..., :1] if grey else image)  # grey stored as colour shows the same as grey
        constant = bool((shown[0] == shown[0, 0]).all() and (shown == shown[0, 0]).all())
        sha = hashlib.sha256(f"{shown.shape} ".encode())
        sha.update(shown.data)
        return np.frombuffer(struct.pack(LAYOUT, height, width, channels, grey, constant, sha.digest()), np.uint8)


def _grey(image: np.ndarray) -> bool:
    return bool((image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all())


@dataclass
class _Read:
    """Facts of the readable images of a data set, in order (``good``: their positions), and why the others are not."""

    dataset: Dataset
    good: list[int] = field(default_factory=list)
    shape: list[tuple[int, int]] = field(default_factory=list)
    channels: list[int] = field(default_factory=list)
    grey: list[bool] = field(default_factory=list)
    constant: list[bool] = field(default_factory=list)
    pixels: list[bytes] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)
    unreadable: list[Skipped] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def kept(self) -> Dataset:
        """The data set without the images that cannot be read."""
        return self.dataset.take(self.good) if self.unreadable else self.dataset

    def key(self, position: int) -> str:
        """Key of a readable image, by its place among them."""
        return self.dataset.keys[self.good[position]]


def _read(dataset: Dataset, workers: int, progress: Progress) -> _Read:
    """Decodes every image once and keeps its facts."""
    from simkit.extractors.decoding import prepared_images

    out, start = _Read(dataset), time.monotonic()
    content = _content(dataset)
    with progress.counting(f"reading {dataset.name}", len(dataset), "images") as done:
        for one in prepared_images(dataset, range(len(dataset)), _Facts(), workers=workers, shape=(FACT_BYTES,), few=1):
            done(1)
            if isinstance(one.pixels, Problem):
                out.unreadable.append(Skipped(dataset.name, dataset.keys[one.index], reason_of(one.pixels)))
                continue
            height, width, channels, grey, constant, pixels = struct.unpack(LAYOUT, one.pixels.tobytes())
            try:
                out.contents.append(content(one.index))
            except DataError as error:  # it vanished or changed since it was decoded
                out.unreadable.append(Skipped(dataset.name, dataset.keys[one.index], reason_of(error.problems[0])))
                continue
            out.good.append(one.index)
            out.shape.append((height, width))
            out.channels.append(channels)
            out.grey.append(bool(grey))
            out.constant.append(bool(constant))
            out.pixels.append(pixels)
            out.remarks.update(one.remarks)
    out.seconds = time.monotonic() - start
    rate = len(dataset) / max(out.seconds, 1e-9)
    progress.say(f"{dataset.name}: {len(dataset):,} images read in {out.seconds:.1f} s, {rate:,.0f} images/s")
    return out


def _content(dataset: Dataset) -> Callable[[int], str]:
    """Digest of an image's bytes: without the rules of decoding where the reader tells them apart, so that data sets can be compared."""
    reader: Any = dataset.reader
    assert dataset.rows is not None
    rows = dataset.rows
    digest = getattr(reader, "content", reader.digest)
    return lambda index: str(digest(int(rows[index])))


# --- what they say ---------------------------------------------------------------------------------------------------------------------


def _checked(read: _Read, source: str) -> Checked:
    kept, dataset = read.kept if read.good else None, read.dataset
    per_group = Counter(kept.groups).values() if kept and kept.groups else ()
    out = Checked(
        name=dataset.name, source=source, origin=dataset.origin, images=len(read.good),
        class_counts=kept.class_counts if kept else dict.fromkeys(dataset.classes, 0), multilabel=dataset.multilabel,
        labels_per_image=dict(sorted(Counter(map(int, kept.indicators.sum(1))).items())) if kept and kept.indicators is not None else {},
        group_sizes=Span.of(list(per_group)) if per_group else None, groups=len(per_group),
        splits=dict(Counter(kept.splits)) if kept and kept.splits else {}, pictures=_pictures(read) if read.good else None,
        remarks=dict(sorted(read.remarks.items())), skipped=dataset.skipped, excluded=dataset.excluded,
        unreadable=tuple(read.unreadable), copies=tuple(_copies(read)), seconds=round(read.seconds, 3),
    )
    return replace(out, findings=findings_of(out, _split_groups(kept)))


def _split_groups(kept: Dataset | None) -> tuple[str, ...]:
    """Groups (patients) that stand in more than one split."""
    if kept is None or kept.groups is None or kept.splits is None:
        return ()
    splits: dict[str, set[str]] = defaultdict(set)
    for group, split in zip(kept.groups, kept.splits, strict=True):
        splits[group].add(split)
    return tuple(sorted(group for group, found in splits.items() if len(found) > 1))


def _pictures(read: _Read) -> Images:
    sizes = Counter(f"{width}x{height}" for height, width in read.shape)
    grey = sum(channels == 1 for channels in read.channels)
    flat = sum(read.grey) - grey

    def keys(wanted: Iterable[bool]) -> tuple[str, ...]:
        return tuple(read.key(position) for position, hit in enumerate(wanted) if hit)

    return Images(
        height=Span.of([height for height, _ in read.shape]), width=Span.of([width for _, width in read.shape]), sizes=tuple(sizes.most_common(5)),
        different_sizes=len(sizes), grey=grey, grey_as_colour=flat, colour=len(read.good) - grey - flat, constant=keys(read.constant),
        elongated=keys(max(shape) > LARGEST_SIDE * min(shape) for shape in read.shape), tiny=keys(min(shape) < SMALLEST_SIDE for shape in read.shape),
    )


def _copies(read: _Read) -> list[Copies]:
    """Images with the same pixels, and among them those with the same bytes, in the order of the data set."""
    by_pixels: dict[bytes, list[int]] = defaultdict(list)
    for position, pixels in enumerate(read.pixels):
        by_pixels[pixels].append(position)
    out = []
    for same in by_pixels.values():
        if len(same) < 2:
            continue
        by_bytes: dict[str, list[int]] = defaultdict(list)
        for position in same:
            by_bytes[read.contents[position]].append(position)
        if len(by_bytes) > 1:
            out.append((same, False))
        out += [(equal, True) for equal in by_bytes.values() if len(equal) > 1]
    labels = read.dataset.label_names
    return [_described(read, positions, same_bytes, labels) for positions, same_bytes in out]


def _described(read: _Read, positions: Sequence[int], same_bytes: bool, labels: tuple[str, ...] | None) -> Copies:
    def once(values: tuple[str, ...] | None) -> tuple[str, ...]:
        return () if values is None else tuple(dict.fromkeys(values[read.good[position]] for position in positions))

    return Copies(tuple(map(read.key, positions)), same_bytes, once(labels), once(read.dataset.splits), once(read.dataset.groups))


def _shared(facts: Sequence[_Read]) -> Iterable[Shared]:
    """For each pair of data sets that have images in common: which."""
    for number, second in enumerate(facts):
        contents, pixels = _first_places(second.contents), _first_places(second.pixels)
        for first in facts[:number]:
            pairs, same_bytes = [], 0
            for position, shown in enumerate(first.pixels):
                place = contents.get(first.contents[position])
                same_bytes += place is not None
                place = pixels.get(shown) if place is None else place
                if place is not None:
                    pairs.append((first.key(position), second.key(place)))
            if pairs:
                yield Shared(first.dataset.name, second.dataset.name, same_bytes, len(pairs), tuple(pairs))


def _first_places(values: Sequence[Any]) -> dict[Any, int]:
    return {value: position for position, value in reversed(list(enumerate(values)))}
