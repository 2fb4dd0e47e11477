"""Rank correlations of many scores with one set of performances, in many resamples of the sources at once.

A resample gives every source a weight (how often it was drawn, 0 where it has no partner) and says which performance stands beside its
score. Everything that depends on the resample and on the performances alone is computed once for all methods; what is left of a method is
the sign of x_j - x_k for every pair of sources, because for mid-ranks r with weights w and centred weighted ranks v of the performances

    sum_j v_j r_j  =  1/2 sum_{j<k} sign(x_j - x_k) (v_j w_k - v_k w_j),

so that all methods are one product of a matrix (resamples, pairs) with a matrix (pairs, methods). Kendall's tau-b is the same product with
other coefficients of the pairs. Ranks are multiples of 1/2 and weights are counts: the sums are exact in float32 while the sources are few, so
results do not depend on the number of threads or the order of a summation.

Scores are oriented before they come here: higher always means more similar. M methods, S sources, T targets, B resamples; NaN is no value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from simkit.transport.threads import each

__all__ = ["STATISTICS", "Permutations", "Resamples", "Statistic", "Versus", "Weights", "means_over_targets", "per_target"]

Floats: TypeAlias = NDArray[np.float64]
Statistic = Literal["spearman", "kendall", "weighted-tau"]

STATISTICS: tuple[Statistic, ...] = ("spearman", "kendall", "weighted-tau")

CELLS = 2_000_000
"""Numbers in one block of resamples and pairs; bounds memory."""

COLUMNS = 4_000_000
"""Numbers in one block of methods and resamples, and of pairs and methods."""

EXACT_IN_FLOAT32 = 300
"""Largest total weight N for which every sum of a resample (at most N^3 / 2 quarters) is exact in 24 bits."""


@dataclass(frozen=True)
class Weights:
    """Resamples that draw sources: score and performance of a source stay together.

    Attributes:
        weights: (B, S) how often each source counts.
    """

    weights: Floats

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def largest(self) -> float:
        """The largest total weight."""
        return float(self.weights.sum(1).max(initial=0.0))

    def block(self, part: slice) -> Weights:
        return Weights(self.weights[part])

    def paired(self, has_x: NDArray[np.bool_], y: Floats) -> _Paired:
        both = has_x & np.isfinite(y)
        weights = self.weights * both
        filled = np.where(both, y, 0.0)
        ranks = weights @ _below(filled).T
        return _Paired(weights, np.broadcast_to(filled, weights.shape), _centred(ranks, weights))


@dataclass(frozen=True)
class Permutations:
    """Resamples that permute the source labels of the scores, in the same way in every target.

    Attributes:
        orders: (B, S); source i gets the score of source ``orders[b, i]``.
    """

    orders: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.orders)

    @property
    def largest(self) -> float:
        """The largest total weight."""
        return float(self.orders.shape[1])

    def block(self, part: slice) -> Permutations:
        return Permutations(self.orders[part])

    def paired(self, has_x: NDArray[np.bool_], y: Floats) -> _Paired:
        has_y = np.isfinite(y)
        filled = np.where(has_y, y, 0.0)
        available = (has_y & has_x[self.orders]).astype(np.float64)
        centred = _centred(available @ _below(filled).T, available)
        back = np.argsort(self.orders, axis=1)  # from the source that has the score to the one that has the performance
        return _Paired(*(np.take_along_axis(values, back, axis=1) for values in (available, np.broadcast_to(filled, available.shape), centred)))


Resamples: TypeAlias = Weights | Permutations


@dataclass(frozen=True)
class _Paired:
    """One target in a block of resamples, every array (B, S) and indexed by the source that has the score.

    Attributes:
        weights: how often the pair of score and performance counts; 0 where one of them is missing.
        y: the performance beside the score (any number where the weight is 0).
        centred: weight times the mid-rank of the performance less the mean rank.
    """

    weights: Floats
    y: Floats
    centred: Floats


@dataclass(frozen=True)
class Versus:
    """What methods are compared with, in the same resamples.

    Attributes:
        scores: (K, S, T) the other scores.
        which: (M,) which of them each method is compared with.
        own: (M, S, T) the scores of the methods for the comparison: without those that the others lack.
    """

    scores: Floats
    which: NDArray[np.int64]
    own: Floats


def per_target(x: Floats, y: Floats, resamples: Resamples, *, statistic: Statistic = "spearman", jobs: int = 0) -> Floats:
    """(M, T, B) rank correlations within each target; NaN where undefined.

    Args:
        x: (M, S, T) oriented scores.
        y: (S, T) performances.
        resamples: of the sources.
        statistic: which coefficient.
        jobs: threads; 0 for as many as BLAS may use.
    """
    return np.stack([_within(x[:, :, t], y[:, t], resamples, statistic, jobs) for t in range(y.shape[1])], axis=1)


def means_over_targets(
    x: Floats, y: Floats, resamples: Resamples, *, counts: Floats | None = None, versus: Versus | None = None,
    statistic: Statistic = "spearman", jobs: int = 0,
) -> tuple[Floats, Floats | None]:
    """(M, B) means over the targets that define it; NaN where none does. And of the difference to other scores, where these are given.

    Args:
        x: (M, S, T) oriented scores.
        y: (S, T) performances.
        resamples: of the sources.
        counts: (B, T) how often each target counts in each resample; None for once.
        versus: other scores; the difference is taken in each target.
        statistic: which coefficient.
        jobs: threads; 0 for as many as BLAS may use.
    """
    means = np.empty((len(x), len(resamples)))
    gaps = None if versus is None else np.empty_like(means)
    step = max(1, COLUMNS // max(1, len(resamples)))
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        sums = _Means(means[part].shape)
        differences = _Means(means[part].shape)
        for t in range(y.shape[1]):
            count = np.ones(len(resamples)) if counts is None else counts[:, t]
            found = _within(x[part, :, t], y[:, t], resamples, statistic, jobs)
            sums.add(found, count)
            if versus is not None:
                others = _within(versus.scores[:, :, t], y[:, t], resamples, statistic, jobs)
                own = versus.own[part, :, t]
                same = np.array_equal(own, x[part, :, t], equal_nan=True)
                differences.add((found if same else _within(own, y[:, t], resamples, statistic, jobs)) - others[versus.which[part]], count)
        means[part] = sums.value()
        if gaps is not None:
            gaps[part] = differences.value()
    return means, gaps


class _Means:
    """Means over the defined values, with counts."""

    def __init__(self, shape: tuple[int, ...]):
        self.total, self.weight = np.zeros(shape), np.zeros(shape)

    def add(self, values: Floats, count: Floats) -> None:
        defined = np.isfinite(values)
        self.total += np.where(defined, values, 0.0) * count
        self.weight += defined * count

    def value(self) -> Floats:
        return np.where(self.weight > 0, self.total / np.maximum(self.weight, 1e-300), np.nan)


def _within(x: Floats, y: Floats, resamples: Resamples, statistic: Statistic, jobs: int) -> Floats:
    """(M, B) correlations in one target; ``x`` (M, S) and ``y`` (S,). Methods that lack the same sources are computed together."""
    has = np.isfinite(x)
    masks, group = np.unique(has, axis=0, return_inverse=True)
    out = np.empty((len(x), len(resamples)))
    for g, mask in enumerate(masks):
        members = np.flatnonzero(group.ravel() == g)
        if statistic == "weighted-tau":
            _fill_weighted_tau(out, members, x, y, mask, resamples, jobs)
        else:
            pairs = len(mask) * (len(mask) - 1) // 2
            step = max(1, COLUMNS // max(1, pairs))
            for start in range(0, len(members), step):
                _fill(out, members[start : start + step], x, y, mask, resamples, statistic, jobs)
    return out


def _blocks(resamples: int, width: int) -> list[slice]:
    """Blocks of the same size whatever the number of threads."""
    step = max(1, CELLS // max(1, width))
    return [slice(start, min(start + step, resamples)) for start in range(0, resamples, step)]


def _fill(
    out: Floats, members: NDArray[np.int64], x: Floats, y: Floats, mask: NDArray[np.bool_], resamples: Resamples, statistic: Statistic, jobs: int,
) -> None:
    """Spearman or Kendall of the methods ``members`` (which all lack the same sources) into their rows of ``out``."""
    n_sources = len(mask)
    kind: Any = np.float32 if resamples.largest <= EXACT_IN_FLOAT32 else np.float64
    first, second = np.triu_indices(n_sources, 1)
    filled = np.where(mask, x[members], 0.0)
    signs = (np.sign(filled[:, first] - filled[:, second]) * (mask[first] & mask[second])).astype(kind).T
    ordered = np.sort(filled[:, mask], axis=1)
    ties = {int(i): _tie_groups(filled[i], mask) for i in np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(1))}
    spread = _rank_spread if statistic == "spearman" else _untied_pairs

    def fill(part: slice) -> None:
        paired = resamples.block(part).paired(mask, y)
        w: NDArray[Any] = paired.weights.astype(kind)
        v: NDArray[Any] = paired.centred.astype(kind)
        if statistic == "spearman":
            coefficients = v[:, first] * w[:, second]
            coefficients -= v[:, second] * w[:, first]
            halves = 2.0
        else:
            coefficients = w[:, first] * w[:, second] * np.sign(paired.y[:, first] - paired.y[:, second]).astype(kind)
            halves = 1.0
        covariance = (coefficients @ signs).astype(np.float64) / halves
        of_x = np.repeat(spread(paired.weights, None)[:, None], len(members), axis=1)
        for i, groups in ties.items():
            of_x[:, i] = spread(paired.weights, groups)
        of_y = spread(paired.weights, _tied_with(paired.y)) if statistic == "kendall" else _weighted_squares(paired)
        defined = (of_x > 0) & (of_y > 0)[:, None] & (np.count_nonzero(paired.weights, axis=1) >= 3)[:, None]
        scale = np.sqrt(np.where(defined, of_x * of_y[:, None], 1.0))
        out[members, part] = np.where(defined, covariance / scale, np.nan).T

    each(fill, _blocks(len(resamples), max(len(first), len(members))), threads=jobs)


def _below(values: Floats) -> Floats:
    """(S, S): 1 where the column's value is smaller than the row's, 1/2 where equal; weights times its transpose are mid-ranks less 1/2."""
    return np.asarray((values[None, :] < values[:, None]) + 0.5 * (values[None, :] == values[:, None]), dtype=np.float64)


def _centred(ranks: Floats, weights: Floats) -> Floats:
    """Weight times rank less the mean rank, which is half the total weight because ranks are less 1/2."""
    return np.asarray(weights * (ranks - weights.sum(1, keepdims=True) / 2))


def _weighted_squares(paired: _Paired) -> Floats:
    """(B,) the weighted sum of squares of the centred ranks of the performances."""
    return np.asarray((paired.centred**2 / np.where(paired.weights > 0, paired.weights, 1.0)).sum(1))


TieGroups: TypeAlias = Callable[[Floats], Floats]
"""From weights (B, S) to the total weight of each group of tied sources, (B, G)."""


def _tie_groups(values: Floats, mask: NDArray[np.bool_]) -> TieGroups:
    """The groups of sources of the same value."""
    _, group = np.unique(values[mask], return_inverse=True)
    member = np.zeros((len(mask), int(group.max(initial=-1)) + 1))
    member[np.flatnonzero(mask), group] = 1.0
    return lambda weights: weights @ member


def _tied_with(values: Floats) -> TieGroups | None:
    """The groups of performances of the same value, which stand beside other sources in each resample."""
    levels = np.unique(values)
    if len(levels) == values.shape[1]:
        return None
    return lambda weights: np.stack([(weights * (values == level)).sum(1) for level in levels], axis=1)


def _rank_spread(weights: Floats, groups: TieGroups | None) -> Floats:
    """(B,) the weighted sum of squares of centred mid-ranks, (N^3 - sum g^3) / 12 with the total weights g of tied groups."""
    return np.asarray((weights.sum(1) ** 3 - ((weights if groups is None else groups(weights)) ** 3).sum(1)) / 12)


def _untied_pairs(weights: Floats, groups: TieGroups | None) -> Floats:
    """(B,) the pairs of draws that are not tied."""
    return np.asarray((weights.sum(1) ** 2 - ((weights if groups is None else groups(weights)) ** 2).sum(1)) / 2)


def _fill_weighted_tau(
    out: Floats, members: Sequence[int] | NDArray[np.int64], x: Floats, y: Floats, mask: NDArray[np.bool_], resamples: Resamples, jobs: int,
) -> None:
    """The weighted tau of scipy.stats.weightedtau's defaults. Its weights depend on the ranks of both sides, so methods are taken one by one."""
    def fill(part: slice) -> None:
        paired = resamples.block(part).paired(mask, y)
        drawn = _drawn(paired.weights)
        for m in members:
            scores, performances = (np.where(drawn < 0, -np.inf, np.take_along_axis(np.broadcast_to(values, paired.y.shape), np.maximum(drawn, 0), axis=1))
                                    for values in (np.where(mask, x[m], 0.0), paired.y))
            enough = np.count_nonzero(paired.weights, axis=1) >= 3
            out[m, part] = np.where(enough, _weighted_tau(scores, performances, drawn >= 0), np.nan)

    each(fill, _blocks(len(resamples), 4 * len(mask) ** 2), threads=jobs)


def _drawn(weights: Floats) -> NDArray[np.int64]:
    """(B, N) the sources of each resample, each as often as it was drawn, -1 behind the last; N is the largest total weight."""
    total = weights.sum(1).astype(np.int64)
    ends = np.cumsum(weights, axis=1)
    place = np.arange(int(total.max(initial=0)))
    found = (place[None, :, None] >= ends[:, None, :]).sum(-1)
    return np.where(place[None, :] < total[:, None], found, -1)


def _weighted_tau(x: Floats, y: Floats, drawn: NDArray[np.bool_]) -> Floats:
    """(B,) weighted Kendall's tau (additive, hyperbolic, mean of the ranks by x and by y) of the entries ``drawn`` (B, N); others are -inf."""
    n = x.shape[1]
    first, second = np.triu_indices(n, 1)
    both = drawn[:, first] & drawn[:, second]
    with np.errstate(invalid="ignore"):
        sign_x, sign_y = (np.where(both, np.sign(values[:, first] - values[:, second]), 0.0) for values in (x, y))
    taus = []
    for major, minor in ((x, y), (y, x)):
        ascending = np.lexsort((minor, major), axis=-1)
        rank = np.empty_like(ascending)
        np.put_along_axis(rank, ascending, np.broadcast_to(np.arange(n)[::-1], ascending.shape), axis=1)
        weigh = 1.0 / (rank + 1)
        weights = np.where(both, weigh[:, first] + weigh[:, second], 0.0)
        scale_x, scale_y = ((weights * np.abs(sign)).sum(1) for sign in (sign_x, sign_y))
        defined = (scale_x > 0) & (scale_y > 0)
        tau = (weights * sign_x * sign_y).sum(1) / np.sqrt(np.where(defined, scale_x * scale_y, 1.0))
        taus.append(np.where(defined, np.clip(tau, -1.0, 1.0), np.nan))
    return (taus[0] + taus[1]) / 2
