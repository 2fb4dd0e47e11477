"""What a check of data sets found, before any network has seen an image: facts, copies, and what asks for a second look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from simkit.dataset import Skipped

__all__ = ["Check", "Checked", "Copies", "Finding", "Images", "Shared", "Span", "counted"]


def counted(count: int, one: str, many: str = "") -> str:
    """``1 image``, ``2,000 images``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


@dataclass(frozen=True)
class Span:
    """Smallest, median and largest of some numbers."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Span:
        """The span of at least one number."""
        ordered = sorted(values)
        half = len(ordered) // 2
        median = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
        return cls(float(ordered[0]), float(median), float(ordered[-1]))


@dataclass(frozen=True)
class Copies:
    """Images of one data set that show the same: their keys, and the classes, splits and groups that they stand in.

    Attributes:
        keys: of the images.
        same_bytes: True where the files are equal to the byte; False where only the decoded pixels are.
        labels: the classes of the images, each once, in order ("a + b" for an image with two classes).
        splits: each once.
        groups: each once.
    """

    keys: tuple[str, ...]
    same_bytes: bool
    labels: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One remarkable thing. ``caution``: it can make results wrong, and ``--strict`` refuses it; otherwise it is good to know."""

    kind: str
    message: str
    examples: tuple[str, ...] = ()
    caution: bool = True


@dataclass(frozen=True)
class Images:
    """What the readable images of a data set look like.

    Attributes:
        height: in pixels.
        width: in pixels.
        sizes: the most frequent "WIDTHxHEIGHT", with counts, most frequent first.
        different_sizes: how many sizes there are.
        grey: images that are stored with one channel.
        grey_as_colour: images that are stored with three equal channels.
        colour: images with channels that differ.
        constant: keys of images whose pixels are all the same.
        elongated: keys of images that are more than twenty times as long as wide.
        tiny: keys of images less than eight pixels high or wide.
    """

    height: Span
    width: Span
    sizes: tuple[tuple[str, int], ...]
    different_sizes: int
    grey: int
    grey_as_colour: int
    colour: int
    constant: tuple[str, ...] = ()
    elongated: tuple[str, ...] = ()
    tiny: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """What was found in one data set. Counts are those of :class:`~simkit.dataset.DatasetCard`: of the images that can be read.

    Attributes:
        name: of the data set.
        source: which reader read it (folder, table ...).
        origin: what was read.
        images: images that can be read.
        class_counts: images per class; an image of a multi-label set counts in each of its classes.
        multilabel: whether an image may have several classes.
        labels_per_image: of a multi-label set: images by number of classes.
        group_sizes: images per group, or None where no groups are known.
        groups: number of groups.
        splits: images per split.
        pictures: what the images look like; None when none can be read.
        remarks: what readers did to images, with counts.
        skipped: what the source left out when it listed the data set, each with the reason.
        excluded: images that a list of the user's left out.
        unreadable: images that cannot be decoded, each with the reason.
        copies: images that show the same.
        findings: what asks for a second look.
        sheets: files of the thumbnails.
        seconds: that reading took.
    """

    name: str
    source: str
    origin: str
    images: int
    class_counts: Mapping[str, int] = field(default_factory=dict)
    multilabel: bool = False
    labels_per_image: Mapping[int, int] = field(default_factory=dict)
    group_sizes: Span | None = None
    groups: int = 0
    splits: Mapping[str, int] = field(default_factory=dict)
    pictures: Images | None = None
    remarks: Mapping[str, int] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    excluded: int = 0
    unreadable: tuple[Skipped, ...] = ()
    copies: tuple[Copies, ...] = ()
    findings: tuple[Finding, ...] = ()
    sheets: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def imbalance(self) -> float | None:
        """Largest class over smallest, of the classes that have images (as :attr:`simkit.dataset.DatasetCard.imbalance`); None without labels."""
        present = [count for count in self.class_counts.values() if count > 0]
        return max(present) / min(present) if present else None

    @property
    def left_out(self) -> tuple[Skipped, ...]:
        """Everything that a run would leave out: skipped by the source, or not decodable."""
        return (*self.skipped, *self.unreadable)

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values; nothing is shortened."""
        return {**asdict(self), "imbalance": self.imbalance, "labels_per_image": {str(k): v for k, v in self.labels_per_image.items()}}


@dataclass(frozen=True)
class Shared:
    """Images that two data sets have in common: pairs of keys, and how many images of each are concerned.

    Attributes:
        first: name of a data set.
        second: name of another one.
        same_bytes: images of ``first`` that are in ``second`` to the byte.
        same_pixels: images of ``first`` whose decoded pixels are in ``second`` (those with the same bytes included).
        pairs: keys of the images, one partner for each image of ``first``.
    """

    first: str
    second: str
    same_bytes: int
    same_pixels: int
    pairs: tuple[tuple[str, str], ...]

    @property
    def message(self) -> str:
        """One line."""
        bytes_, more = self.same_bytes, self.same_pixels - self.same_bytes
        parts = ([f"{counted(bytes_, 'image')} to the byte"] if bytes_ else []) + ([f"{counted(more, 'image')} by pixels only"] if more else [])
        return (f"{self.first} and {self.second} share {' and '.join(parts)}: similarity and transfer between them are flattered; "
                "take the copies out of one of the two")


@dataclass(frozen=True)
class Check:
    """The answer of :func:`simkit.check`: one entry per data set, and what they share."""

    datasets: tuple[Checked, ...]
    shared: tuple[Shared, ...] = ()

    @property
    def left_out(self) -> tuple[Skipped, ...]:
        """Images and files that a run would leave out, of all data sets."""
        return tuple(one for checked in self.datasets for one in checked.left_out)

    @property
    def cautions(self) -> tuple[str, ...]:
        """What can make results wrong, one line each."""
        found = [f"{checked.name}: {finding.message}" for checked in self.datasets for finding in checked.findings if finding.caution]
        return (*found, *(one.message for one in self.shared))

    def status(self, *, strict: bool = False) -> int:
        """Exit status: 3 when a data set has no image that can be read, or with ``strict`` for anything left out and any caution; 4 for
        images or files that are left out; else 0. Cautions alone do not change it."""
        if not all(checked.images for checked in self.datasets) or (strict and (self.left_out or self.cautions)):
            return 3
        return 4 if self.left_out else 0

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values; nothing is shortened."""
        return {"datasets": [checked.as_dict() for checked in self.datasets], "shared": [asdict(one) for one in self.shared], "cautions": list(self.cautions)}

    def text(self, width: int = 100) -> str:
        """A card for each data set and what they share, at most ``width`` columns wide (40 at least)."""
        from simkit.report.check_text import check_text

        return check_text(self, width)
