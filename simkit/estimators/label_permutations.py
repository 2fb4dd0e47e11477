"""Permutation test of a cross-validated classifier whose scores are linear in the labels: all permutations are columns of one matrix."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simkit.estimators.stratified_folds import stratified_folds
from simkit.transport.interruption import go_on

__all__ = ["AucTest", "Parts", "auc_test", "aucs", "ridge_scores"]


@dataclass(frozen=True, eq=False)
class Parts:
    """What a permutation moves as one: an image, or the images of a group on one side.

    Parts are in the order of side and hash of their content, which has nothing to do with what is in the images, nor with their number.

    Attributes:
        member: (N,) part of each row.
        unit: (P,) unit of each part, which no fold splits: parts of both sides may belong to one.
        side: (P,) of 0 and 1.
        fixed: (P,) bool: copies of one image on both sides, which have nothing to exchange.
    """

    member: np.ndarray
    unit: np.ndarray
    side: np.ndarray
    fixed: np.ndarray

    @classmethod
    def of(cls, digests: np.ndarray, units: np.ndarray, side: np.ndarray, *, grouped: tuple[bool, bool]) -> Parts:
        """The parts of rows.

        Args:
            digests: of each row's content, (N,).
            units: (N,) unit of each row.
            side: (N,) of 0 and 1.
            grouped: whether the units of each side are groups.
        """
        keys, part = np.unique(np.stack([side, units], axis=1), axis=0, return_inverse=True)
        hashes: list[list[bytes]] = [[] for _ in keys]
        for row in np.lexsort((digests, part)):
            hashes[part[row]].append(digests[row])
        content = np.array([one[0].hex() if len(one) == 1 else hashlib.blake2b(b"".join(one), digest_size=16).hexdigest() for one in hashes])
        order = np.lexsort((content, keys[:, 0]))
        place = np.argsort(order)
        sides, unit = keys[order, 0], keys[order, 1]
        shared = np.bincount(unit)[unit] > 1
        return cls(place[part.reshape(-1)], unit, sides, shared & (not all(grouped)))

    @property
    def counts(self) -> tuple[int, int]:
        """Parts of side 0 and of side 1."""
        return int((self.side == 0).sum()), int((self.side == 1).sum())

    def _part_folds(self, folds: int) -> np.ndarray:
        return np.asarray(stratified_folds(self.unit, self.side, folds))

    def folds(self, folds: int) -> np.ndarray:
        """Fold of each row: whole units, equal numbers of parts of both sides, whatever is in them."""
        return np.asarray(self._part_folds(folds)[self.member])

    def _strata(self, folds: int) -> np.ndarray:
        """Number per part; parts of one number exchange their sides: those of a fold, apart from units of both sides, whose two parts exchange theirs."""
        fold = self._part_folds(folds)
        shared = np.bincount(self.unit)[self.unit] > 1
        strata = np.where(shared, folds + self.unit, fold)
        alone = folds + int(self.unit.max()) + 1 + np.arange(len(self.unit))
        return np.asarray(np.where(self.fixed, alone, strata))

    def permuted_sides(self, folds: int, permutations: int, rng: np.random.Generator, *, dtype: Any = np.float64) -> np.ndarray:
        """Sides of the rows, (N, B + 1) of 0 and 1: as they are, then in B random exchanges within strata."""
        out = np.repeat(self.side[:, None].astype(dtype), permutations + 1, axis=1)
        strata = self._strata(folds)
        order = np.argsort(strata, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(strata[order])) + 1):
            if 0 < self.side[rows].sum() < len(rows):
                out[rows, 1:] = rng.permuted(out[rows, 1:], axis=0)
        return np.asarray(out[self.member])

    def smallest_p(self, folds: int) -> float:
        """One over the number of different exchanges: the smallest p that all of them could give.

        Twice that where both sides can change places as a whole, which changes no statistic of how far they are apart.
        """
        logarithm, balanced = 0.0, True
        for stratum in np.unique(strata := self._strata(folds)):
            sides = self.side[strata == stratum]
            n, k = len(sides), int(sides.sum())
            logarithm += math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
            balanced = balanced and 2 * k == n
        return min(1.0, math.exp(-logarithm) * (2.0 if balanced else 1.0)) if logarithm < 700 else 0.0


@dataclass(frozen=True)
class AucTest:
    """Outcome of a permutation test.

    Attributes:
        statistic: cross-validated AUC of the sides as they are, mean over folds.
        p: (1 + number of permutations whose AUC reaches it) / (1 + permutations) (Phipson and Smyth 2010).
        permuted: AUC of each permutation.
    """

    statistic: float
    p: float
    permuted: np.ndarray


def auc_test(scores: Iterable[np.ndarray], fold: np.ndarray, sides: np.ndarray) -> AucTest:
    """The test of the first column of sides against the others.

    Args:
        scores: for each fold, (rows of the fold, B + 1), one column for each column of sides.
        fold: (N,) fold of each row.
        sides: (N, B + 1) of 0 and 1; every column has both in every fold.
    """
    found = []
    for k, values in enumerate(scores):
        top = np.abs(values).max(0)
        rounded = np.round(values / np.where(top > 0, top, 1.0), 9)  # rows that are equal up to rounding are ties
        found.append(aucs(rounded, sides[fold == k] > 0.5))
    mean = np.mean(found, axis=0)
    observed, permuted = float(mean[0]), mean[1:]
    p = (1 + int((permuted >= observed - 1e-9).sum())) / (1 + len(permuted))  # an exchange that comes up twice is a tie
    return AucTest(observed, p, permuted)


def aucs(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each column, (C,): the chance that a positive row scores higher than another, ties counting one half.

    Args:
        scores: (n, C).
        positive: bool (n, C), with True and False in each column.
    """
    columns = np.ascontiguousarray(scores.T)
    order = np.argsort(columns, axis=1)
    values = np.take_along_axis(columns, order, axis=1)
    above = np.take_along_axis(np.ascontiguousarray(positive.T), order, axis=1)
    n = values.shape[1]
    ranks = np.broadcast_to(np.arange(1.0, n + 1), values.shape)
    new = values[:, 1:] != values[:, :-1]
    if not new.all():  # mean rank of tied scores
        edge = np.ones((len(values), 1), dtype=bool)
        low = np.maximum.accumulate(np.where(np.concatenate([edge, new], axis=1), ranks, 0.0), axis=1)
        high = np.minimum.accumulate(np.where(np.concatenate([new, edge], axis=1), ranks, n)[:, ::-1], axis=1)[:, ::-1]
        ranks = 0.5 * (low + high)
    count = above.sum(1).astype(np.float64)
    return np.asarray(((ranks * above).sum(1) - count * (count + 1) / 2) / (count * (n - count)))


def ridge_scores(rows: np.ndarray, fold: np.ndarray, sides: np.ndarray, penalties: Sequence[float]) -> Iterator[np.ndarray]:
    """Scores of ridge regression on the sides, for each fold (rows of the fold, C), trained on the other folds.

    Minimises |y - X w - b|² + penalty n d |w|², where X are all rows standardised together and then, for each fold, centred on the training
    rows: nothing but y depends on the labels. The penalty is chosen for each fold and column by the leave-one-out error on the training rows (in closed form,
    Allen's PRESS; the strongest of equals).

    Args:
        rows: (N, d).
        fold: (N,) of 0, 1, ...
        sides: y, (N, C) of 0 and 1.
        penalties: to choose from.
    """
    x = rows.astype(np.float64)
    mean, spread = x.mean(0), x.std(0)
    x = (x - mean) * np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-6 * np.abs(mean))
    grid = np.sort(np.asarray(penalties, dtype=np.float64))[::-1] * x.shape[1]
    for k in range(int(fold.max()) + 1):
        go_on()
        train = fold != k
        yield _ridge_fold(x[train], x[~train], sides[train], grid * train.sum())


def _ridge_fold(train: np.ndarray, test: np.ndarray, y: np.ndarray, ridges: np.ndarray) -> np.ndarray:
    """Scores of the test rows, up to a constant a column; ``ridges`` from the strongest."""
    centre = train.mean(0)
    train, test = train - centre, test - centre
    if train.shape[1] <= len(train):
        values, vectors = np.linalg.eigh(train.T @ train)
        kept = values > 1e-12 * max(float(values[-1]), 1e-300)
        values, vectors = values[kept], vectors[:, kept]
        left, right = train @ (vectors / np.sqrt(values)), test @ (vectors / np.sqrt(values))
    else:
        values, vectors = np.linalg.eigh(train @ train.T)
        kept = values > 1e-12 * max(float(values[-1]), 1e-300)
        values, left = values[kept], vectors[:, kept]
        right = (test @ train.T) @ (left / values)
    y = y - y.mean(0)
    parts = left.T @ y
    shrink = values[:, None] / (values[:, None] + ridges)
    if len(ridges) == 1:
        return np.asarray(right @ (shrink * parts))
    small, small_y = left.astype(np.float32), y.astype(np.float32)  # the choice of the penalty, in float32: half the time
    errors = []
    for j in range(len(ridges)):
        leverage = (1.0 / len(y) + left**2 @ shrink[:, j]).astype(np.float32)[:, None]
        residual = (small_y - small @ (shrink[:, j, None] * parts).astype(np.float32)) / np.maximum(1.0 - leverage, np.float32(1e-6))
        errors.append(np.einsum("ij,ij->j", residual, residual, dtype=np.float64))
    table = np.array(errors)
    best = np.argmax(table <= table.min(0) * (1.0 + 1e-6), axis=0)
    return np.asarray(right @ (shrink[:, best] * parts))
