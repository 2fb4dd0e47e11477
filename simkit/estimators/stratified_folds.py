"""Folds that keep units whole and hold equal shares of every class."""

from __future__ import annotations

import math
from itertools import groupby

import numpy as np

__all__ = ["stratified_folds"]


def stratified_folds(units: np.ndarray, side: np.ndarray, folds: int) -> np.ndarray:
    """Fold of each row, int (n,): whole units, and of every side (or class) as equal shares as the units allow.

    Units are placed from the largest to the smallest (in the order of their first row among equals), each where the sum of squared shares
    grows least. Shares are compared in whole numbers, so that ties are ties.

    Args:
        units: (n,) unit of each row, whole numbers.
        side: (n,) of 0, 1, ...
        folds: number of folds.
    """
    _, first, member = np.unique(units, return_index=True, return_inverse=True)
    counts = np.zeros((len(first), int(side.max()) + 1), dtype=np.int64)
    np.add.at(counts, (member, side), 1)
    totals = np.maximum(counts.sum(0), 1).tolist()
    common = math.lcm(*totals)  # shares in units of 1 / common
    worth = [common // total for total in totals]
    shares = [tuple((which, count * worth[which]) for which, count in enumerate(row) if count) for row in counts.tolist()]
    weights = [sum(share for _, share in one) for one in shares]
    places = _Folds(folds, counts.shape[1])
    chosen = np.zeros(len(first), dtype=np.int64)
    order = sorted(range(len(first)), key=lambda unit: (-weights[unit], first[unit]))
    for share, run in groupby(order, key=lambda unit: shares[unit]):
        alike = list(run)
        chosen[alike] = places.fill(share, len(alike))
    return np.asarray(chosen[member])


class _Folds:
    """Folds that are being filled: the load of each by class, and in all."""

    def __init__(self, folds: int, classes: int) -> None:
        self.loads, self.fullness = [[0] * classes for _ in range(folds)], [0] * folds

    def fill(self, share: tuple[tuple[int, int], ...], count: int) -> list[int]:
        """Folds of so many units of the same share, one after the other."""
        out: list[int] = []
        folds = range(len(self.loads))
        if len(share) == 1 and len({load[share[0][0]] for load in self.loads}) == 1:  # whole rounds, each in the same order
            rounds, which, part = count // len(folds), *share[0]
            out = sorted(folds, key=lambda k: (self.fullness[k], k)) * rounds
            for k in folds:
                self.loads[k][which] += rounds * part
                self.fullness[k] += rounds * part
        while len(out) < count:
            best = min([(sum([self.loads[k][which] * part for which, part in share]), self.fullness[k], k) for k in folds])[2]
            out.append(best)
            for which, part in share:
                self.loads[best][which] += part
                self.fullness[best] += part
        return out
