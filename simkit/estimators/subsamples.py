"""Random parts of a data set, without replacement: halves (whole groups where groups exist), and samples of a given size.

A sample with replacement (the bootstrap) holds rows twice, which distances between point sets, neighbours and kernels take for nearness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from simkit.embedding import Embedding, row_digests
from simkit.errors import NotEnoughData
from simkit.estimators.base import Estimator
from simkit.recipe import rng_for

__all__ = ["Subsamples", "exchanged", "half_mask", "halves", "named_rng", "shortened"]


def halves(view: Embedding, rng: np.random.Generator) -> tuple[Embedding, Embedding]:
    """A random split in two of images, or of whole groups where groups exist; byte-identical images stay together.

    Classes are not balanced: two samples of one law differ in their shares of the classes as well, and a floor without that is too low.

    Raises:
        NotEnoughData: for fewer than four rows or two groups.
    """
    mask = half_mask(np.array(view.groups) if view.groups else row_digests(view.features), view.name, rng, grouped=bool(view.groups))
    return view.take(np.flatnonzero(mask)), view.take(np.flatnonzero(~mask))


def half_mask(names: np.ndarray, where: str, rng: np.random.Generator, *, grouped: bool) -> np.ndarray:
    """Which rows are in the first of two random halves, bool (n,); rows of one name stay together.

    Args:
        names: (n,) group of each row, or what tells different images apart.
        where: the data set, for messages.
        rng: random numbers.
        grouped: whether names are groups (patients).

    Raises:
        NotEnoughData: for fewer than four rows or two groups.
    """
    units, members = np.unique(names, return_inverse=True)
    if grouped and len(units) < 2:
        raise NotEnoughData("SK501", where, "1 group cannot be split in two halves", "an interval needs at least two groups (patients)")
    if len(names) < 4 and not grouped:
        raise NotEnoughData("SK501", where, f"{len(names)} images cannot be split in two halves", "an interval needs at least four images")
    if len(units) < 2:
        raise NotEnoughData("SK501", where, "images that are all alike cannot be split in two halves", "an interval needs at least two different images")
    sizes = np.bincount(members, minlength=len(units))
    side = np.zeros(len(units), dtype=int)
    order = rng.permutation(len(units))
    if len(units) == len(names):
        side[order[int(rng.integers(2)) :: 2]] = 1
    else:
        filled = [0, 0]
        for g in order:
            side[g] = int(filled[1] < filled[0])
            filled[side[g]] += sizes[g]
    return np.asarray(side[members] == 0)


def exchanged(units: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions (n,) from which rows take their labels when units exchange them: a permutation of the rows where each is a unit of its own."""
    count = int(units.max()) + 1
    if count == len(units):
        return rng.permutation(len(units))
    rows = np.split(np.argsort(units, kind="stable"), np.cumsum(np.bincount(units))[:-1])
    partner, order = rng.permutation(count), np.empty(len(units), dtype=np.int64)
    for own, other in zip(rows, partner, strict=True):
        order[own] = np.resize(rng.permutation(rows[other]), len(own))
    return order


def shortened(view: Embedding, size: int, rng: np.random.Generator) -> Embedding:
    """``size`` random rows (all of them where there are no more): of every class and group as chance will have it, so that each can take part."""
    if len(view) <= size:
        return view
    return view.take(np.sort(view.by_content[rng.permutation(len(view))[:size]]))


def named_rng(estimator: Estimator, source: str, target: str, seed: int, *what: object) -> np.random.Generator:
    """The random numbers of one comparison: named by what is compared, in both orders alike where the measure is symmetric."""
    names = sorted([source, target]) if estimator.symmetric else [source, target]
    return rng_for(seed, *names, estimator.name, *what)


KEPT = 2**30
"""Bytes of features in all parts of a data set up to which their summaries are kept for its next pair."""


class Subsamples:
    """Random parts of a data set, with their summaries by one measure: made once, used for every pair (unless they would take too much memory: then
    made once a pair).

    Args:
        estimator: the measure.
        view: the embedding.
        seed: of the study; the parts depend on it, on the data set's name and on the content of its rows, not on their order.
        repeats: number of splits in halves.
        draws: number of samples of a given size.
    """

    def __init__(self, estimator: Estimator, view: Embedding, *, seed: int, repeats: int, draws: int):
        self.estimator, self.view, self.seed, self.repeats, self.draws = estimator, view, seed, repeats, draws
        self._kept: dict[tuple[str, int], list[Any]] = {}

    @cached_property
    def _halves(self) -> list[tuple[Embedding, Embedding]]:
        return list(self._made_halves())

    def _made_halves(self) -> Iterator[tuple[Embedding, Embedding]]:
        for repeat in range(self.repeats):
            yield halves(self.view, rng_for("halves", self.seed, self.view.name, repeat))

    @property
    def _large(self) -> bool:
        return 2 * self.repeats * self.view.features.nbytes > KEPT

    @cached_property
    def groups(self) -> int | None:
        """Number of groups (patients), or None where there are none."""
        return len(set(self.view.groups)) if self.view.groups else None

    @cached_property
    def half_sizes(self) -> list[int]:
        """Images in each half."""
        return [len(half) for split in (self._made_halves() if self._large else self._halves) for half in split]

    def halved(self, size: int) -> Iterable[tuple[Any, Any]]:
        """Summaries of both halves of each split, cut to at most ``size`` images each."""
        least = max(self.half_sizes)
        return self._made_or_kept("halves", min(size, least), self._made_halved)

    def _made_halved(self, size: int) -> Iterator[tuple[Any, Any]]:
        for repeat, split in enumerate(self._made_halves() if self._large else self._halves):
            parts = (shortened(half, size, rng_for("cut", self.seed, self.view.name, repeat, side)) for side, half in enumerate(split))
            one, other = (self.estimator.summarize(part) for part in parts)
            yield one, other

    def drawn(self, size: int) -> Iterable[Any]:
        """Summaries of samples of ``size`` images."""
        return self._made_or_kept("draws", size, self._made_drawn)

    def drawn_views(self, size: int) -> Iterator[Embedding]:
        """The samples of ``size`` images themselves."""
        for draw in range(self.draws if size < len(self.view) else 1):
            yield shortened(self.view, size, rng_for("size match", self.seed, self.view.name, size, draw))

    def _made_drawn(self, size: int) -> Iterator[Any]:
        for part in self.drawn_views(size):
            yield self.estimator.summarize(part)

    def _made_or_kept(self, what: str, size: int, make: Callable[[int], Iterator[Any]]) -> Iterable[Any]:
        parts = 2 * self.repeats if what == "halves" else self.draws
        if parts * size * self.view.dimension * 4 > KEPT:
            return make(size)
        if (what, size) not in self._kept:
            old = [key for key in self._kept if key[0] == what]
            for key in old[:-1]:  # two sizes of a kind are kept: summaries can be large
                del self._kept[key]
            self._kept[what, size] = list(make(size))
        return self._kept[what, size]

    @cached_property
    def _floors(self) -> dict[int, list[float]]:
        return {}

    def floors(self, size: int) -> list[float]:
        """The measure between the two halves of each split, cut to at most ``size`` images each."""
        size = min(size, max(self.half_sizes))
        if size not in self._floors:
            name = self.view.name
            rngs = [named_rng(self.estimator, name, name, self.seed, repeat + 1) for repeat in range(self.repeats)]
            self._floors[size] = [self.estimator.compare(other, one, rng).value for (one, other), rng in zip(self.halved(size), rngs, strict=True)]
        return self._floors[size]
