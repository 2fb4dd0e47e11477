"""Data sets: lazily read images with labels, groups, splits and tags; and the card, what is known without a network."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from simkit.errors import DataError, Problem, UsageError
from simkit.recipe import canonical

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NOTIONS", "Dataset", "DatasetCard", "ImageReader", "RemarkingReader", "Skipped", "card_of", "image_facts"]

NOTIONS: dict[str, str] = {
    "domain": "medical or natural (any words)",
    "modality": "imaging modality: X-ray, CT, MRI, ultrasound, dermoscopy, microscopy, photograph ...",
    "anatomy": "body part: chest, skin, brain ...",
    "foreground": "clear fore- and background: yes or no",
    "objects": "one main object or several: one, multiple",
    "orientation": "clear spatial orientation (does rotation matter): yes or no",
    "colour": "colour tone: grey, same tone, rich",
    "diversity": "images diverse or not: diverse, not diverse",
    "task": "what the labels need: binary, multi-class",
    "content": "what carries the class: objects, textures, both",
}
"""The questions of the seed study's expert form (arXiv 2107.05940): the keys that ``attributes`` of a data set may have."""


class ImageReader(Protocol):
    """How a source hands out its images: by position, as 8-bit arrays, with a digest of each image's stored content.

    A reader that holds its images in memory says so by a class attribute ``in_memory = True``: it is then not sent to other processes.
    """

    def read(self, index: int) -> np.ndarray:
        """Image as uint8 (height, width, 1 or 3). Raises DataError naming the file when it cannot be decoded."""
        ...

    def digest(self, index: int) -> str:
        """SHA-256 of the image's content and of the declared rules that turn it into 8 bit (64 hex digits)."""
        ...


@runtime_checkable
class RemarkingReader(ImageReader, Protocol):
    """A reader that also says what it did to an image, such as "first of several frames": short phrases, equal for equal treatment."""

    def remarked(self, index: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """The image, as ``read`` gives it, and the remarks."""
        ...


@dataclass(frozen=True)
class Skipped:
    """An image that was left out: its key, the data set, and why."""

    dataset: str
    key: str
    reason: str


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with labels, read when needed. Equal content gives an equal ``fingerprint``, wherever the files lie.

    Attributes:
        name: identifies the data set in every table.
        keys: one unique text per image (relative path, or split/index).
        reader: hands out images and digests by position *in the reader* (see ``rows``).
        labels: class index per image, int64 (n,), or None for an unlabelled or multi-label set.
        classes: class names; ``labels`` index into them.
        indicators: bool (n, classes) of a multi-label set, True where an image has the class; else None. Then ``labels`` is None.
        excluded: images that were left out on purpose (``exclude``).
        groups: patient (or slide, or volume) per image, or None. Folds never split a group.
        splits: "train", "val", "test" or another word per image, or None.
        tags: keywords of the data set, for the keyword distance.
        attributes: answers to the questions of :data:`NOTIONS`.
        origin: what was read (path or name), for messages.
        rows: position of each image in the reader.
        skipped: images that were left out, each with the reason.
    """

    name: str
    keys: tuple[str, ...]
    reader: ImageReader
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
    tags: tuple[str, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)
    origin: str = ""
    rows: np.ndarray | None = None
    skipped: tuple[Skipped, ...] = ()
    indicators: np.ndarray | None = None
    excluded: int = 0

    def __post_init__(self) -> None:
        n = len(self.keys)
        if n == 0:
            raise DataError("SK201", self.name, f"no images in {self.origin or 'the data set'}", "check the path and the file types")
        if self.rows is None:
            object.__setattr__(self, "rows", np.arange(n))
        for what, values in (("labels", self.labels), ("groups", self.groups), ("splits", self.splits), ("indicators", self.indicators)):
            if values is not None and len(values) != n:
                raise UsageError("SK102", self.name, f"{len(values)} {what} for {n} images", "give one per image")
        if self.labels is not None and (self.labels.min() < 0 or self.labels.max() >= len(self.classes)):
            raise UsageError("SK102", self.name, "labels do not index the class names", "labels run from 0 to len(classes) - 1")
        if self.indicators is not None and (self.labels is not None or self.indicators.shape != (n, len(self.classes)) or self.indicators.dtype != bool):
            raise UsageError("SK102", self.name, "indicators are not bool (n, classes), or there are labels beside them", "give one of the two")
        for notion in self.attributes:
            if notion not in NOTIONS:
                raise UsageError("SK101", f"{self.name}: attributes.{notion}", "not a known notion", f"known: {', '.join(NOTIONS)}")

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        kind = " (multi-label)" if self.indicators is not None else ""
        classes = f", {len(self.classes)} classes{kind}" if self.labels is not None or kind else ", unlabelled"
        return f"Dataset({self.name!r}, {len(self)} images{classes})"

    def read(self, index: int) -> np.ndarray:
        """Image ``index`` as uint8 (height, width, channels), channels 1 or 3."""
        assert self.rows is not None
        return self.reader.read(int(self.rows[index]))

    def remarked(self, index: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """Image ``index``, and what its reader did to it, in short phrases; see :class:`RemarkingReader`."""
        assert self.rows is not None
        row = int(self.rows[index])
        return self.reader.remarked(row) if isinstance(self.reader, RemarkingReader) else (self.reader.read(row), ())

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of each image's content, in order: reads every file once."""
        assert self.rows is not None
        return tuple(self.reader.digest(int(row)) for row in self.rows)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over content, labels, groups and splits; not over the name, the path or the order of the images."""
        names = self.label_names
        if self.indicators is not None:  # a list of classes, never the text that a single class might have
            names = tuple(canonical([self.classes[c] for c in np.flatnonzero(row)]) for row in self.indicators)
        parts = (names, self.groups, self.splits)
        present = [part for part in parts if part is not None]
        rows = sorted(canonical([d, *(part[i] for part in present)]) for i, d in enumerate(self.digests))
        sha = hashlib.sha256(f"[{canonical([part is not None for part in parts])},[".encode())  # row by row: there may be a million
        for i, row in enumerate(rows):
            sha.update(("," if i else "").encode() + row.encode())
        sha.update(b"]]")
        return sha.hexdigest()

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The class name of each image, or None for an unlabelled set; of a multi-label set, the names joined by " + " ("" for none)."""
        if self.indicators is not None:
            return tuple(" + ".join(self.classes[c] for c in np.flatnonzero(row)) for row in self.indicators)
        return None if self.labels is None else tuple(self.classes[i] for i in self.labels)

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several classes."""
        return self.indicators is not None

    @property
    def class_counts(self) -> dict[str, int]:
        """Images per class name; empty for an unlabelled set. An image of a multi-label set counts in each of its classes."""
        if self.indicators is not None:
            return {name: int(count) for name, count in zip(self.classes, self.indicators.sum(0), strict=True)}
        return {} if self.labels is None else {name: int((self.labels == i).sum()) for i, name in enumerate(self.classes)}

    def take(self, indices: Sequence[int] | np.ndarray, skipped: Sequence[Skipped] = ()) -> Dataset:
        """The images at ``indices``, in that order; classes are kept even when one has no image left."""
        index = np.asarray(indices, dtype=np.int64)
        assert self.rows is not None

        def pick(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
            return None if values is None else tuple(values[i] for i in index)

        return replace(
            self, keys=tuple(self.keys[i] for i in index), labels=None if self.labels is None else self.labels[index],
            groups=pick(self.groups), splits=pick(self.splits), rows=self.rows[index], skipped=(*self.skipped, *skipped),
            indicators=None if self.indicators is None else self.indicators[index],
        )

    @property
    def frame(self) -> pd.DataFrame:
        """One row an image: key, label, group, split (the columns that the data set has)."""
        import pandas as pd

        columns: dict[str, Any] = {"key": self.keys}
        known = (("label", self.label_names), ("group", self.groups), ("split", self.splits))
        columns |= {name: values for name, values in known if values is not None}
        return pd.DataFrame(columns)


@dataclass(frozen=True)
class DatasetCard:
    """What is known of a data set without a network: counts, sizes, colour, tags, and histogram statistics of the pixels.

    Attributes:
        name: of the data set.
        fingerprint: digest of its content.
        images: number of readable images.
        class_counts: images per class name; empty for an unlabelled set.
        groups: number of groups (patients), or 0 where none are known.
        channels: 1 when every image is grey (one channel, or three equal ones), else 3.
        grey_share: share of images that are grey, 0..1.
        height: median height in pixels.
        width: median width in pixels.
        tags: keywords.
        attributes: answers to the questions of :data:`NOTIONS`.
        histogram: (channels, 12) array as nested tuples: mean over images, then standard deviation over images, of entropy, skewness,
            kurtosis, median absolute deviation, mean and variance of the 256-bin histogram (seed study, section "meta-features").
        skipped: images left out.
        multilabel: whether an image may have several classes.
        remarks: what was done to images while they were read ("first of several frames"), with the number of images.
        excluded: images that were left out on purpose (``exclude``).
    """

    name: str
    fingerprint: str
    images: int
    class_counts: dict[str, int]
    groups: int
    channels: int
    grey_share: float
    height: float
    width: float
    tags: tuple[str, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)
    histogram: tuple[tuple[float, ...], ...] = ()
    skipped: int = 0
    multilabel: bool = False
    remarks: dict[str, int] = field(default_factory=dict)
    excluded: int = 0

    @property
    def classes(self) -> int:
        """Number of classes that have at least one image; 0 for an unlabelled set."""
        return sum(count > 0 for count in self.class_counts.values())

    @property
    def imbalance(self) -> float:
        """Largest class count over smallest (>= 1; 1 is balanced). Only classes with images count."""
        counts = [count for count in self.class_counts.values() if count > 0]
        if not counts:
            raise DataError("SK208", self.name, "class imbalance needs labels, the data set has none", "give labels, or leave this measure out")
        return max(counts) / min(counts)


def _image_statistics(image: np.ndarray) -> np.ndarray:
    """(channels, 6): entropy [bits], skewness, kurtosis (excess), median absolute deviation, mean, variance of the grey levels."""
    levels = np.arange(256.0)
    rows = []
    for channel in range(image.shape[2]):
        p = np.bincount(image[:, :, channel].ravel(), minlength=256) / image[:, :, channel].size
        mean = float(p @ levels)
        centred = levels - mean
        variance = float(p @ centred**2)
        cumulative = np.cumsum(p)
        median = float(np.searchsorted(cumulative, 0.5))
        order = np.argsort(np.abs(levels - median), kind="stable")
        mad = float(np.abs(levels - median)[order][np.searchsorted(np.cumsum(p[order]), 0.5)])
        entropy = float(-(p[p > 0] * np.log2(p[p > 0])).sum())
        spread = max(variance, 0.0) ** 0.5
        skew = float(p @ centred**3) / spread**3 if spread > 1e-9 else 0.0
        kurtosis = float(p @ centred**4) / spread**4 - 3.0 if spread > 1e-9 else 0.0
        rows.append([entropy, skew, kurtosis, mad, mean, variance])
    return np.array(rows)


def readable(dataset: Dataset, indices: Sequence[int] | None = None) -> Iterator[tuple[int, np.ndarray | Problem]]:
    """Each position with its image, or with the problem that makes it unreadable."""
    for index in range(len(dataset)) if indices is None else indices:
        try:
            yield index, dataset.read(index)
        except DataError as error:
            yield index, error.problems[0]


def reason_of(problem: Problem) -> str:
    """Why an image is left out, with the remedy, on one line."""
    return f"{problem.message} ({problem.fix})" if problem.fix else problem.message


def image_facts(image: np.ndarray) -> np.ndarray:
    """What a card keeps of an image, float64 (21,): height, width, whether it is grey, and six statistics of each of three channels."""
    grey = image.shape[2] == 1 or bool((image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all())
    per_channel = _image_statistics(image[..., :1] if grey else image)
    return np.concatenate([[*image.shape[:2], grey], (np.repeat(per_channel, 3, axis=0) if grey else per_channel).ravel()])


def facts_of(dataset: Dataset) -> Iterator[tuple[int, np.ndarray | Problem, tuple[str, ...]]]:
    """Each position with :func:`image_facts`, or with the problem that makes the image unreadable, and the reader's remarks."""
    for index in range(len(dataset)):
        try:
            image, remarks = dataset.remarked(index)
            yield index, image_facts(image), remarks
        except DataError as error:
            yield index, error.problems[0], ()


def card_of(dataset: Dataset, facts: Iterable[tuple[int, np.ndarray | Problem, tuple[str, ...]]] | None = None) -> tuple[DatasetCard, Dataset]:
    """The card, and the data set without the images that cannot be read (listed in ``skipped``); every image is read once.

    Args:
        dataset: to be described.
        facts: of its images in order, where other processes find them; by default :func:`facts_of`.

    Raises:
        DataError: when no image can be read, naming the first twenty.
    """
    good: list[int] = []
    problems: list[Problem] = []
    bad: list[Skipped] = []
    rows: list[np.ndarray] = []
    remarks: Counter[str] = Counter()
    for index, fact, said in facts_of(dataset) if facts is None else facts:
        remarks.update(said)
        if isinstance(fact, Problem):
            problems.append(fact)
            bad.append(Skipped(dataset.name, dataset.keys[index], reason_of(fact)))
            continue
        good.append(index)
        rows.append(fact)
    if not good:
        raise DataError("", "", "", problems=problems)
    kept = dataset.take(good, bad) if bad else dataset
    table = np.stack(rows)
    stacked, grey = table[:, 3:].reshape(-1, 3, 6), table[:, 2] > 0
    histogram = np.concatenate([stacked.mean(0), stacked.std(0)], axis=1)
    height, width = np.median(table[:, :2], axis=0)
    all_grey = bool(grey.all())
    card = DatasetCard(
        name=kept.name, fingerprint=kept.fingerprint, images=len(kept), class_counts=kept.class_counts,
        groups=len(set(kept.groups)) if kept.groups else 0, channels=1 if all_grey else 3, grey_share=float(np.mean(grey)),
        height=float(height), width=float(width), tags=kept.tags, attributes=dict(kept.attributes),
        histogram=tuple(tuple(float(v) for v in row) for row in (histogram[:1] if all_grey else histogram)), skipped=len(bad),
        multilabel=kept.indicators is not None, remarks=dict(sorted(remarks.items())), excluded=kept.excluded,
    )
    return card, kept
