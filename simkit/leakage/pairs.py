"""What a search for copies found: pairs of images, and what they mean for a pair of data sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["CopyPair", "How", "Leakage"]

How = Literal["bytes", "pixels", "near"]


@dataclass(frozen=True)
class CopyPair:
    """Two images that are copies of one another.

    Attributes:
        first: data set of the first image (the target).
        first_key: its key.
        second: data set of the second image (the source, or the target itself).
        second_key: its key.
        how: "bytes" (the same file), "pixels" (another file, the same decoded pixels) or "near" (changed: compressed again, resized, cropped, mirrored).
        similarity: 1 for exact copies; else the correlation of the details of the two pictures laid over each other, -1..1.
        transform: what turns the first into the second, "" for nothing but small changes: "mirrored", "upside down", "rotated 90" ...; clockwise.
        found_by: "bytes", "pixels", "hash", "embedding".
        first_split: given part ("train", "test") of the first image, "" where there is none.
        second_split: of the second.
        first_group: patient of the first image, "" where there is none.
        second_group: of the second.
        first_label: class of the first image, "" where there is none.
        second_label: of the second.
    """

    first: str
    first_key: str
    second: str
    second_key: str
    how: How
    similarity: float
    transform: str
    found_by: tuple[str, ...]
    first_split: str = ""
    second_split: str = ""
    first_group: str = ""
    second_group: str = ""
    first_label: str = ""
    second_label: str = ""

    @property
    def exact(self) -> bool:
        """Whether the two show the same pixels."""
        return self.how != "near"

    @property
    def contradiction(self) -> bool:
        """Whether two copies within one data set have different labels: one of them is wrong, or, of near copies, may be."""
        return self.first == self.second and self.first_label != self.second_label


@dataclass(frozen=True)
class Leakage:
    """Copies between two data sets, or within one.

    Attributes:
        first: the target.
        second: the source; equal to ``first`` for copies within one data set.
        n_first: images of the first that were compared.
        n_second: of the second.
        pairs: in the order of the first data set's images.
        thresholds: what made a pair a copy: least cosines of candidates, least correlations of details.
        notes: what was left out or may be incomplete, one sentence each.
        groups: names of groups (patients) that both data sets, or both sides of the split, have. By name only: between data sets that may be chance.
        split: within one data set: whether only copies on two sides of its split count.
    """

    first: str
    second: str
    n_first: int
    n_second: int
    pairs: tuple[CopyPair, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    split: bool = False

    def as_dict(self) -> dict[str, Any]:
        """In JSON form; :meth:`of_dict` makes it again."""
        return asdict(self)

    @classmethod
    def of_dict(cls, value: Mapping[str, Any]) -> Leakage:
        """From what :meth:`as_dict` gave."""
        pairs = tuple(CopyPair(**{**pair, "found_by": tuple(pair["found_by"])}) for pair in value["pairs"])
        return cls(**{**value, "pairs": pairs, "notes": tuple(value["notes"]), "groups": tuple(value["groups"])})

    @property
    def within(self) -> bool:
        """Whether both sides are one data set."""
        return self.first == self.second

    @property
    def first_keys(self) -> tuple[str, ...]:
        """Distinct images of the first data set that have a copy; within one data set, all images that have one."""
        keys = [pair.first_key for pair in self.pairs] + ([pair.second_key for pair in self.pairs] if self.within else [])
        return tuple(dict.fromkeys(keys))

    @property
    def second_keys(self) -> tuple[str, ...]:
        """Distinct images of the second data set that are a copy; within one data set, all images that have one."""
        return self.first_keys if self.within else tuple(dict.fromkeys(pair.second_key for pair in self.pairs))

    @property
    def exact(self) -> int:
        """Images of the first data set with a copy of the same bytes or pixels."""
        return len(self._exact_keys())

    @property
    def near(self) -> int:
        """Images of the first data set whose copies were all changed."""
        return len(self.first_keys) - self.exact

    def _exact_keys(self) -> set[str]:
        found = {pair.first_key for pair in self.pairs if pair.exact}
        return found | {pair.second_key for pair in self.pairs if pair.exact} if self.within else found

    @property
    def line(self) -> str:
        """One sentence, such as "12 of 160 images of isic (7.5 %) have a copy in dtd: 10 exact, 2 near"."""
        where = ("on another side of its split" if self.split else "in the same data set") if self.within else f"in {self.second}"
        count = len(self.first_keys)
        if not count:
            return f"no image of {self.first} has a copy {where} ({self.n_first:,} compared)"
        kinds = ", ".join(f"{number:,} {kind}" for number, kind in ((self.exact, "exact"), (self.near, "near")) if number)
        have = "has" if count == 1 else "have"
        copy = "copy" if self.exact else "near copy or a look-alike"
        return f"{count:,} of {self.n_first:,} images of {self.first} ({100 * count / self.n_first:.1f} %) {have} a {copy} {where}: {kinds}"
