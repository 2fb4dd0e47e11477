"""The target as a network sees it that was trained on the source: what measures of transferability read."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from simkit.embedding import row_digests
from simkit.errors import DataError, NotEnoughData, UsageError

__all__ = ["Seen", "check_probabilities", "joined"]

Anything = TypeVar("Anything")

SUM_TOLERANCE = 1e-3
"""How far the probabilities of an image may be from adding up to one: half precision gives that much."""

LOGITS = "give probabilities, not logits: softmax of the head's outputs"

SHOWN = 5


@dataclass(frozen=True, eq=False)
class Seen:
    """A labelled target, seen through the network of one source.

    Attributes:
        features: (n, d) float32 or float64, finite: what the network gives for the target's images, by default the input of its last layer.
        labels: class index of each image, int64 (n,); None for a multi-label set, a regression, or an unlabelled set.
        classes: names that ``labels`` (or the columns of ``indicators``) index into.
        probabilities: float64 (n, C_s), what the network's head gives for the classes of the source; None where it has no head.
        outputs: names of the source's classes, or () where they are not known.
        indicators: bool (n, classes) of a multi-label target; else None.
        values: float64 (n, k) numbers to be predicted, of a regression; else None.
        groups: patient (or slide, volume) per image, or None.
        gradients: what backward passes through the network measured (name -> number); None where none were made.
        no_gradients: why there are none, in words.
        images: digest of each image, which tells the same order of images to all sources; () for bare arrays.
        source: name of the source.
        target: name of the target.
        network: digest of the network's recipe; "" for bare arrays.
        memo: what :meth:`once` keeps.
        rows: the features that :attr:`digests` were made of, and these.
        checked: whether this is a part of a view that was looked at: nothing can be wrong with it.
    """

    features: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    probabilities: np.ndarray | None = None
    outputs: tuple[str, ...] = ()
    indicators: np.ndarray | None = None
    values: np.ndarray | None = None
    groups: tuple[str, ...] | None = None
    gradients: Mapping[str, Any] | None = None
    no_gradients: str = ""
    images: tuple[str, ...] = ()
    source: str = "source"
    target: str = "target"
    network: str = ""
    memo: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)
    rows: tuple[np.ndarray, np.ndarray] | None = field(default=None, compare=False, repr=False)
    checked: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.checked:
            return
        features = np.asarray(self.features)
        if features.ndim != 2 or 0 in features.shape:
            raise DataError("SK202", self.target, f"features have shape {features.shape}, wanted (n, d) with n, d >= 1", "give one row an image")
        if features.dtype.kind not in "fiub":
            raise DataError("SK203", self.target, f"features are of type {features.dtype}, wanted numbers", "convert them to float32")
        if features.dtype not in (np.float32, np.float64):
            features = features.astype(np.float32 if features.dtype == np.float16 else np.float64)
        if not np.isfinite(features).all():
            bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
            message = f"{len(bad)} of {len(features)} rows hold NaN or infinite values (rows {_some(bad)})"
            raise DataError("SK210", self.target, message, "remove or recompute these rows")
        object.__setattr__(self, "features", features)
        for what in ("labels", "probabilities", "indicators", "values", "groups"):
            given = getattr(self, what)
            if given is not None and len(given) != len(features):
                raise UsageError("SK102", self.target, f"{len(given)} {what} for {len(features)} rows of features", "give one per row")
        if self.probabilities is not None:
            object.__setattr__(self, "probabilities", check_probabilities(self.probabilities, self.outputs, self.source))

    def __len__(self) -> int:
        return len(self.features)

    @property
    def name(self) -> str:
        """Of the source."""
        return self.source

    @property
    def dimension(self) -> int:
        """Number of features d."""
        return int(self.features.shape[1])

    @property
    def one_hot(self) -> np.ndarray:
        """Float64 (n, C): 1 where an image has a class. Of a multi-label set, its indicators."""
        if self.indicators is not None:
            return np.asarray(self.indicators, dtype=np.float64)
        assert self.labels is not None
        return np.asarray(np.eye(len(self.classes))[self.labels])

    def take(self, rows: np.ndarray) -> Seen:
        """Some rows; classes without images stay named."""
        some: dict[str, Any] = {what: None if getattr(self, what) is None else getattr(self, what)[rows]
                                for what in ("labels", "probabilities", "indicators", "values")}
        groups = None if self.groups is None else tuple(self.groups[i] for i in rows)
        images = tuple(self.images[i] for i in rows) if self.images else ()
        features = self.features[rows]
        return replace(self, features=features, groups=groups, images=images, memo={}, rows=(features, self.digests[rows]), checked=True, **some)

    @property
    def digests(self) -> np.ndarray:
        """(n,) digest of the features of each image, made once: parts take theirs over."""
        if self.rows is None or self.rows[0] is not self.features:
            object.__setattr__(self, "rows", (self.features, row_digests(self.features)))
        assert self.rows is not None
        return self.rows[1]

    def part(self, chosen: np.ndarray) -> Seen:
        """``take(chosen).canonical``, with one copy instead of two."""
        labels = self._second[chosen]
        return self.take(chosen[np.lexsort((labels, self.digests[chosen]))]).numbered

    def once(self, name: Hashable, make: Callable[[], Anything]) -> Anything:
        """What ``make`` returns, made once for these features: copies that differ in their labels alone (shuffled ones) share it. It must not read labels."""
        if name not in self.memo:
            self.memo[name] = make()
        found: Anything = self.memo[name]
        return found

    def with_labels(self, rows: np.ndarray, other: Seen) -> Seen:
        """The same images with the labels (or indicators, or values) of ``rows`` of another, classes numbered anew."""
        given: dict[str, Any] = {what: None if getattr(other, what) is None else getattr(other, what)[rows] for what in ("labels", "indicators", "values")}
        return replace(self, classes=other.classes, **given).numbered

    @cached_property
    def units(self) -> np.ndarray:
        """(n,) whole numbers that tell independent images apart: one for each group (patient) and each image (where there are no digests: its features).

        Groups that hold copies of one image are one unit.
        """
        _, copies = np.unique(np.array(self.images) if self.images else self.digests, return_inverse=True)
        return np.asarray(copies if self.groups is None else joined(np.unique(np.array(self.groups), return_inverse=True)[1], copies))

    @cached_property
    def ordered(self) -> Seen:
        """The same with rows in the order of the images' digests, which all sources of a target share; of bare arrays, of the features' digests."""
        names = np.array(self.images) if self.images else self.digests
        order = np.lexsort((self._second, names))
        return self if (order[1:] > order[:-1]).all() else self.take(order)

    @property
    def _second(self) -> np.ndarray:
        """Orders rows that are equal."""
        return self.labels if self.labels is not None else np.zeros(len(self), dtype=np.int64)

    @cached_property
    def canonical(self) -> Seen:
        """The same in a form that depends on neither the order of the images nor the names of the classes.

        Rows in the order of their features' digests (equal rows: by label), classes numbered by their first row; classes without images, and
        columns of indicators that are the same for all images, are left out.
        """
        return self.take(self.canonical_rows).numbered

    @cached_property
    def canonical_rows(self) -> np.ndarray:
        """The order of :attr:`canonical`."""
        return np.lexsort((self._second, self.digests))

    @property
    def numbered(self) -> Seen:
        """The same with classes numbered by their first row; classes without images, and indicators that are the same for all, are left out."""
        one = self
        if one.labels is not None:
            present, first, number = np.unique(one.labels, return_index=True, return_inverse=True)
            rank = np.argsort(np.argsort(first))
            return replace(one, labels=rank[number].astype(np.int64), classes=tuple(self.classes[int(present[i])] for i in np.argsort(first)))
        if one.indicators is not None:
            share = one.indicators.mean(0)
            kept = np.flatnonzero((share > 0) & (share < 1))
            kept = kept[np.argsort([one.indicators[:, column].tobytes() for column in kept], kind="stable")] if len(kept) else kept
            return replace(one, indicators=one.indicators[:, kept], classes=tuple(self.classes[int(i)] for i in kept))
        return one

    def check_labels(self, method: str) -> None:
        """Refuses labels that no measure can work with, naming the class and the remedy.

        Raises:
            DataError: no labels, more classes than images.
            NotEnoughData: one class, or a class with one image.
        """
        if self.values is not None:
            return
        if self.indicators is not None:
            share = self.indicators.mean(0)
            if not ((share > 0) & (share < 1)).any():
                message = "every label is the same for all images"
                raise NotEnoughData("SK501", self.target, f"{method}: {message}", "give images with and without a class")
            return
        if self.labels is None:
            message = f"{method} needs labels of the target, {self.target} has none"
            raise DataError("SK208", self.target, message, "give labels (a folder per class, or a label column)")
        counts = np.bincount(self.labels, minlength=len(self.classes))
        if int((counts > 0).sum()) < 2:
            only = next((self.classes[i] for i in np.flatnonzero(counts)), "")
            message = f"{method} needs at least two classes, all {len(self)} images of {self.target} are of class '{only}'"
            raise NotEnoughData("SK501", self.target, message, "check the label column, or leave the target out")
        if int((counts > 0).sum()) >= len(self):
            message = f"{method}: {int((counts > 0).sum())} classes for {len(self)} images"
            fix = "labels that differ from image to image are no classes: choose another label column (for numbers: logme with task = regression)"
            raise DataError("SK208", self.target, message, fix)
        single = [self.classes[i] for i in np.flatnonzero(counts == 1)]
        if single:
            named = ", ".join(f"'{name}'" for name in single[:SHOWN]) + (f" and {len(single) - SHOWN} more" if len(single) > SHOWN else "")
            message = f"{method} needs at least two images of each class; {self.target} has one of {named}"
            raise NotEnoughData("SK501", self.target, message, "add images, merge the class with another, or leave it out")


def joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n,) whole numbers, equal for rows that are linked by equal numbers in the first or in the second, directly or through other rows.

    Args:
        first: (n,) whole numbers from 0.
        second: (n,) the same.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    offset = int(first.max()) + 1
    size = offset + int(second.max()) + 1
    links = coo_array((np.ones(len(first), dtype=np.int8), (first, offset + second)), shape=(size, size))
    return np.unique(connected_components(links, directed=False)[1][first], return_inverse=True)[1]


def _some(rows: np.ndarray) -> str:
    return ", ".join(str(int(row)) for row in rows[:SHOWN]) + (" ..." if len(rows) > SHOWN else "")


def check_probabilities(probabilities: np.ndarray, outputs: tuple[str, ...], source: str) -> np.ndarray:
    """The probabilities as float64 (n, C_s) whose rows add up to one (rounding of the network is taken out).

    Raises:
        DataError: of another shape, NaN, negative, not adding up to one, or not as many as the source has classes.
    """
    given = np.asarray(probabilities, dtype=np.float64)
    where = f"{source}: probabilities"
    if given.ndim != 2 or given.shape[1] < 1:
        message = f"have shape {given.shape}, wanted (n, classes of the source)"
        raise DataError("SK202", where, message, "give one row an image, one column a class of the source")
    if outputs and len(outputs) != given.shape[1]:
        message = f"the head has {given.shape[1]} outputs, the source has {len(outputs)} classes"
        raise DataError("SK202", where, message, "give the network that was trained on this source, or the classes that it was trained on")
    bad = np.flatnonzero(~np.isfinite(given).all(axis=1))
    if len(bad):
        raise DataError("SK210", where, f"{len(bad)} rows hold NaN or infinite values (rows {_some(bad)})", "recompute these rows")
    bad = np.flatnonzero((given < 0).any(axis=1))
    if len(bad):
        raise DataError("SK202", where, f"{len(bad)} rows hold negative values (rows {_some(bad)})", LOGITS)
    sums = given.sum(axis=1)
    bad = np.flatnonzero(np.abs(sums - 1.0) > SUM_TOLERANCE)
    if len(bad):
        message = f"{len(bad)} rows do not add up to one (row {int(bad[0])}: {sums[bad[0]]:.6g})"
        raise DataError("SK202", where, message, LOGITS)
    return np.asarray(given / sums[:, None])
