"""Which sources may change places under the null hypothesis, and how they are drawn: one by one, or by groups that are not independent within."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from simkit.correlation.statistics import EXACT_JOINT, Orders, exact_or_sampled_orders

__all__ = ["Exchange"]

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Exchange:
    """Sources in groups. Sources of one group (near-duplicates, sites of one collection) are no independent observations.

    Under the null hypothesis, groups of equal size are exchangeable as a whole, and so are the members of a group. Permutations that do both
    keep the level; permutations of single sources reject a true null in 15 to 20 % of tables when most of the variance lies between groups.

    Attributes:
        group: the group of each source, (S,) whole numbers; different ones where nothing is grouped.
    """

    group: tuple[int, ...]

    @classmethod
    def of(cls, sources: Sequence[str], groups: Mapping[str, str]) -> Exchange:
        """Sources in their order; one without a group is a group of its own."""
        names = [("group", groups[source]) if source in groups else ("source", source) for source in sources]
        place = {name: index for index, name in enumerate(dict.fromkeys(names))}
        return cls(tuple(place[name] for name in names))

    def __len__(self) -> int:
        return len(self.group)

    @property
    def grouped(self) -> bool:
        """Whether some sources share a group, and not all of them one: a single group is no grouping."""
        return 1 < len(set(self.group)) < len(self.group)

    @property
    def fixed(self) -> int:
        """Groups of several sources that no other group has the size of: they never change places."""
        return sum(len(members) == 1 and members.shape[1] > 1 for members in self._classes()) if self.grouped else 0

    def orders(self, count: int, rng: np.random.Generator, *, sampled: bool = False) -> tuple[Orders, bool]:
        """Permutations of the sources (B, S), and whether they are all there are: ``count`` random ones unless all are few enough."""
        if not self.grouped:
            if sampled:
                return rng.permuted(np.tile(np.arange(len(self)), (count, 1)), axis=1), False
            return exact_or_sampled_orders(len(self), most=EXACT_JOINT, permutations=count, rng=rng)
        classes = self._classes()
        total = math.prod(math.factorial(len(members)) * math.factorial(members.shape[1]) ** len(members) for members in classes)
        if total <= EXACT_JOINT and not sampled:
            return self._all(classes), True
        out = np.tile(np.arange(len(self)), (count, 1))
        for members in classes:
            n, k = members.shape
            taken = members[np.argsort(rng.random((count, n)), axis=1)]
            taken = np.take_along_axis(taken, np.argsort(rng.random((count, n, k)), axis=2), axis=2)
            out[:, members.ravel()] = taken.reshape(count, -1)
        return out, False

    def _classes(self) -> list[NDArray[np.int64]]:
        """The groups of each size, (groups, size) sources."""
        groups = [np.flatnonzero(np.equal(self.group, g)) for g in dict.fromkeys(self.group)]
        sizes = sorted({len(members) for members in groups})
        return [np.stack([members for members in groups if len(members) == size]) for size in sizes]

    def _all(self, classes: Sequence[NDArray[np.int64]]) -> Orders:
        """Every such permutation; the first is the identity."""
        choices = []
        for members in classes:
            within = list(itertools.permutations(range(members.shape[1])))
            choices.append([np.concatenate([members[g][list(inside)] for g, inside in zip(order, insides, strict=True)])
                            for order in itertools.permutations(range(len(members))) for insides in itertools.product(within, repeat=len(members))])
        slots = np.concatenate([members.ravel() for members in classes])
        out = np.empty((math.prod(map(len, choices)), len(self)), dtype=np.int64)
        for row, parts in enumerate(itertools.product(*choices)):
            out[row, slots] = np.concatenate(parts)
        return out

    def restricted(self, orders: Orders, kept: Bools) -> Orders:
        """The same permutations of some of the sources alone, the others left in their places: the order among those that are kept.

        Of groups it would tear up those of which a part is left out, so it is for single sources.
        """
        inside = np.flatnonzero(kept)
        out = np.tile(np.arange(len(self)), (len(orders), 1))
        out[:, inside] = orders[kept[orders]].reshape(len(orders), len(inside))
        return out

    def part(self, kept: Bools) -> Exchange:
        """These sources alone."""
        return Exchange(tuple(np.asarray(self.group)[kept].tolist()))

    def weights(self, count: int, rng: np.random.Generator) -> Floats:
        """(B, S) how often each source counts when groups are drawn with replacement, as many as there are."""
        groups = self.group if self.grouped else tuple(range(len(self)))
        place = {g: index for index, g in enumerate(dict.fromkeys(groups))}
        n = len(place)
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=count).astype(np.float64)
        return np.asarray(drawn[:, [place[g] for g in groups]])
