"""Rank statistics on an incomplete rectangle of sources and targets, vectorised over permutations and bootstrap samples.

Scores are oriented before they come here: higher always means more similar. S is the number of sources, T of targets, B of resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from simkit.recipe import rng_for

__all__ = [
    "EQUAL", "EXACT_JOINT", "Orders", "all_orders", "best_of_top", "bonett_wright", "critical_size", "critical_spearman", "exact_or_sampled_orders", "holm",
    "line", "logit_of", "mean_defined", "pearson", "spearman", "static_permutation_p", "static_scores", "tied_share", "two_sided", "within_correlation",
    "within_target_p",
]

Floats = NDArray[np.float64]
Orders = NDArray[np.int64]

EXACT_WITHIN = 9
"""Largest number of sources of one target for which all n! orders are enumerated."""

EXACT_JOINT = 50_000
"""Largest number of orders of the sources for which the joint permutation is enumerated."""

CELLS = 2_000_000
"""Numbers in one block of resamples; bounds memory."""

EQUAL = 1e-9
"""Two correlations this close count as equal, so that rounding never decides a tie."""


@lru_cache(maxsize=4)
def all_orders(n: int) -> Orders:
    """All n! orders of 0..n-1, shape (n!, n); the first is the identity."""
    orders = np.zeros((1, 0), dtype=np.int64)
    for item in range(n):
        orders = np.concatenate([np.insert(orders, place, item, axis=1) for place in range(item, -1, -1)])
    orders.flags.writeable = False
    return orders


def exact_or_sampled_orders(n: int, *, most: int, permutations: int, rng: np.random.Generator) -> tuple[Orders, bool]:
    """Orders of n things, and whether they are all of them: all n! when that is at most ``most``, else ``permutations`` random ones."""
    if n <= 12 and math.factorial(n) <= most:
        return all_orders(n), True
    return rng.permuted(np.tile(np.arange(n), (permutations, 1)), axis=1), False


def two_sided(observed: float, resampled: Floats, *, exact: bool) -> float:
    """The share of resampled statistics at least as large in size as the observed one; (b + 1) / (B + 1) unless all orders were enumerated.

    An undefined resampled statistic (NaN) counts as at least as large, which can only raise the p-value.
    """
    reached = int(np.sum(~(np.abs(resampled) < abs(observed) - EQUAL)))
    return reached / len(resampled) if exact else (reached + 1) / (len(resampled) + 1)


def _below(values: Floats) -> Floats:
    """(S, S): 1 where the column's value is smaller than the row's, 1/2 where equal; weights times its transpose are mid-ranks less 1/2."""
    return np.asarray((values[None, :] < values[:, None]) + 0.5 * (values[None, :] == values[:, None]), dtype=np.float64)


def _correlation(weights: Floats, x: Floats, y: Floats) -> Floats:
    """Pearson correlation along the last axis with weights; NaN where x or y is constant or fewer than 3 observations have weight.

    Ranks are multiples of 1/2 and weights are counts, so these sums are exact and a constant column gives exactly zero variance.
    """
    total = weights.sum(-1)
    sum_x, sum_y = (weights * x).sum(-1), (weights * y).sum(-1)
    variance_x = total * (weights * x * x).sum(-1) - sum_x**2
    variance_y = total * (weights * y * y).sum(-1) - sum_y**2
    covariance = total * (weights * x * y).sum(-1) - sum_x * sum_y
    defined = (variance_x > 0) & (variance_y > 0) & ((weights > 0).sum(-1) >= 3)
    scale = np.sqrt(np.where(defined, variance_x * variance_y, 1.0))
    return np.where(defined, covariance / scale, np.nan)


def spearman(x: Floats, y: Floats, weights: Floats | None = None) -> Floats:
    """Spearman's rank correlation (mid-ranks) of one target's scores with its performances.

    Args:
        x: (S,) oriented scores, NaN where missing.
        y: (S,) performances, NaN where missing.
        weights: (B, S) how often each source counts in each resample; None for once.

    Returns:
        (B,) correlations (B = 1 without weights); NaN where undefined.
    """
    available = np.isfinite(x) & np.isfinite(y)
    weights = np.ones((1, len(x))) if weights is None else weights
    weights = weights[:, available]
    return _correlation(weights, weights @ _below(x[available]).T, weights @ _below(y[available]).T)


def _blocks(resamples: int, width: int) -> Iterator[slice]:
    step = max(1, CELLS // max(1, width))
    for start in range(0, resamples, step):
        yield slice(start, min(start + step, resamples))


def mean_defined(values: Floats) -> Floats:
    """Means over the first axis (targets) of the defined values; NaN where none is."""
    defined = np.isfinite(values)
    count = defined.sum(0)
    total = np.where(defined, values, 0.0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def within_target_p(
    x: Floats, y: Floats, *, permutations: int, rng_name: Sequence[str | int],
    orders: Callable[[NDArray[np.bool_], np.random.Generator], tuple[Orders, bool]] | None = None,
) -> tuple[Floats, Floats]:
    """Spearman's correlation of every method in one target and its two-sided permutation p-value; NaN where undefined.

    Exact up to 9 sources, else from random permutations (the same for all methods) with add-one.

    Args:
        x: (M, S) oriented scores, NaN where missing.
        y: (S,) performances, NaN where missing.
        permutations: how many random ones.
        rng_name: names of the random numbers.
        orders: permutations of those sources that a mask keeps, and whether they are all; None for permutations of single sources.
    """
    rho, p = np.full(len(x), np.nan), np.full(len(x), np.nan)
    masks, group = np.unique(np.isfinite(x) & np.isfinite(y), axis=0, return_inverse=True)
    for g, mask in enumerate(masks):
        members = np.flatnonzero(group.ravel() == g)
        if mask.sum() >= 3:
            rng, few = rng_for(*rng_name), math.factorial(EXACT_WITHIN)
            drawn = exact_or_sampled_orders(int(mask.sum()), most=few, permutations=permutations, rng=rng) if orders is None else orders(mask, rng)
            rho[members], p[members] = _within_target_p(x[members][:, mask], y[mask], *drawn)
    return rho, p


def _within_target_p(x: Floats, y: Floats, orders: Orders, exact: bool) -> tuple[Floats, Floats]:
    from scipy.stats import rankdata

    n = len(y)
    rank_x, rank_y = rankdata(x, axis=1) - (n + 1) / 2, rankdata(y) - (n + 1) / 2
    scale = np.sqrt((rank_x**2).sum(1) * (rank_y**2).sum())
    defined = scale > 0
    scale = np.where(defined, scale, 1.0)
    rho = rank_x @ rank_y / scale
    reached = np.zeros(len(x), dtype=np.int64)
    for block in _blocks(len(orders), max(n, len(x))):
        resampled = np.abs(rank_y[orders[block]] @ rank_x.T) / scale
        reached += (~(resampled < np.abs(rho) - EQUAL)).sum(0)
    p = reached / len(orders) if exact else (reached + 1) / (len(orders) + 1)
    return np.where(defined, rho, np.nan), np.where(defined, p, np.nan)


def logit_of(performance: Floats) -> Floats:
    """log(p / (1 - p)); NaN stays. Values must lie strictly between 0 and 1."""
    return np.asarray(np.log(performance) - np.log1p(-performance))


def bonett_wright(r: float, n: int) -> tuple[float, float] | None:
    """95 % interval of Spearman's correlation: Fisher z with standard error sqrt((1 + r^2 / 2) / (n - 3)) (Bonett and Wright 2000).

    None for fewer than 5 sources, and for |r| = 1, where the transform is infinite.
    """
    if n < 5 or abs(r) >= 1 - EQUAL:
        return None
    half = 1.959963984540054 * math.sqrt((1 + r * r / 2) / (n - 3))
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p-values; undefined ones (None) do not count as tests."""
    defined = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    out: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(defined):
        largest = max(largest, min(1.0, p * (len(defined) - rank)))
        out[index] = largest
    return out


def static_scores(y: Floats) -> Floats:
    """(S, T) the mean rank of each source in the *other* targets: how good it is in general, the target itself left out.

    Ranks are (rank - 1/2) / n, so that targets with different numbers of sources count alike. NaN where a source has no other target.
    """
    return np.asarray(_static(_relative_ranks(y)[None])[0])


def _relative_ranks(y: Floats) -> Floats:
    available = np.isfinite(y)
    ranks = np.stack([available[:, t].astype(np.float64) @ _below(y[:, t]).T for t in range(y.shape[1])], axis=1)
    return np.where(available, ranks / np.maximum(available.sum(0), 1), np.nan)


def _static(ranks: Floats) -> Floats:
    """(B, S, T) static scores of (B, S, T) relative ranks; rounded, so that equal sums of ranks are equal numbers."""
    defined = np.isfinite(ranks)
    filled = np.where(defined, ranks, 0.0)
    count = defined.sum(-1, keepdims=True) - defined
    total = filled.sum(-1, keepdims=True) - filled
    return np.where(count > 0, np.round(total / np.maximum(count, 1), 12), np.nan)


def static_permutation_p(y: Floats, *, permutations: int, rng: np.random.Generator) -> float | None:
    """P-value of the static baseline: performances are permuted within each target, independently, and the baseline made anew.

    The static score is made from the performances themselves, so permuting its rows would not be a valid null distribution: the null
    hypothesis is that performances in different targets have nothing to do with each other. Sampled, add-one.
    """
    ranks = _relative_ranks(y)
    observed = float(mean_defined(_static_spearman(static_scores(y)[None], ranks[None]))[0])
    if not math.isfinite(observed):
        return None
    resampled = []
    for block in _blocks(permutations, y.size):
        size = block.stop - block.start
        shuffled = np.full((size, *y.shape), np.nan)
        for t in range(y.shape[1]):
            rows = np.flatnonzero(np.isfinite(y[:, t]))
            shuffled[:, rows, t] = rng.permuted(np.tile(ranks[rows, t], (size, 1)), axis=1)
        resampled.append(mean_defined(_static_spearman(_static(shuffled), shuffled)))
    return two_sided(observed, np.concatenate(resampled), exact=False)


def _static_spearman(scores: Floats, ranks: Floats) -> Floats:
    """(T, B) Spearman's correlations of (B, S, T) static scores with (B, S, T) ranks; which cells are missing is the same in all B."""
    from scipy.stats import rankdata

    out = np.full((scores.shape[2], scores.shape[0]), np.nan)
    for t in range(scores.shape[2]):
        rows = np.flatnonzero(np.isfinite(scores[0, :, t]) & np.isfinite(ranks[0, :, t]))
        if len(rows) >= 3:
            x, y = (rankdata(values[:, rows, t], axis=1) for values in (scores, ranks))
            out[t] = _correlation(np.ones(x.shape), x, y)
    return out


def pearson(x: Floats, y: Floats) -> float | None:
    """Pearson's correlation; None where x or y is constant up to rounding."""
    parts = []
    for values in (x, y):
        centred = values - values.mean()
        norm = float(np.sqrt((centred**2).sum()))
        if norm <= 1e-13 * max(abs(float(values.mean())), 1e-300) * math.sqrt(len(values)):
            return None
        parts.append(centred / norm)
    return float(np.clip(parts[0] @ parts[1], -1.0, 1.0))


def critical_size(resampled: Floats, *, level: float = 0.05, exact: bool = True) -> float | None:
    """The value that the size of a statistic must exceed for a p-value (:func:`two_sided`) of at most ``level``.

    None when no value can: the p-value has a smallest step, and a perfect order may share its size with too many others. Undefined
    resampled statistics (NaN) count as larger, as in the p-value.
    """
    sizes = np.sort(np.abs(resampled[np.isfinite(resampled)]))[::-1]
    total = len(resampled) if exact else len(resampled) + 1
    larger = math.floor(level * total + EQUAL) - (0 if exact else 1) - (len(resampled) - len(sizes))
    if larger < 0 or len(sizes) == 0:
        return None
    critical = float(sizes[min(larger, len(sizes) - 1)])
    largest = float(sizes[0]) if exact else 1.0  # random orders need not hold the best one
    return critical if critical < largest - EQUAL else None


def line(x: Floats, y: Floats) -> tuple[float, float, float, float] | None:
    """Pearson's r, its p-value, and slope and intercept of the least-squares line; None for fewer than 3 points or a constant column."""
    from scipy.stats import linregress

    if len(x) < 3 or np.all(x == x[0]) or np.all(y == y[0]):
        return None
    fit = linregress(x, y)
    return float(fit.rvalue), float(fit.pvalue), float(fit.slope), float(fit.intercept)


def within_correlation(x: Floats, y: Floats) -> tuple[float, float, int, int] | None:
    """Repeated-measures correlation: Pearson's r of scores and performances after the mean of each target is subtracted.

    Equal to the correlation of Bakdash and Marusich (2017), with N - T - 1 degrees of freedom. Its p-value takes the pairs of a target for
    independent; it ignores that the same sources come back in every target, and is too small where sources have an effect of their own.

    Args:
        x: (S, T) scores, NaN where missing.
        y: (S, T) performances, NaN where missing.

    Returns:
        r, p, number of pairs, number of targets; None where undefined.
    """
    from scipy.stats import t

    available = np.isfinite(x) & np.isfinite(y)
    used = available.sum(0) >= 2
    available = available[:, used]
    n, n_targets = int(available.sum()), int(used.sum())
    degrees = n - n_targets - 1
    if degrees < 1:
        return None
    centred = []
    for values in (x[:, used], y[:, used]):
        filled = np.where(available, values, 0.0)
        centred.append(np.where(available, values - filled.sum(0) / available.sum(0), 0.0))
    squares = [float((values**2).sum()) for values in centred]
    largest = [float(np.max(np.abs(np.where(available, values[:, used], 0.0)), initial=0.0)) for values in (x, y)]
    if any(square <= n * (1e-13 * size) ** 2 for square, size in zip(squares, largest, strict=True)):
        return None
    r = float(np.clip((centred[0] * centred[1]).sum() / math.sqrt(squares[0] * squares[1]), -1.0, 1.0))
    p = 0.0 if abs(r) == 1 else float(2 * t.sf(abs(r) * math.sqrt(degrees / (1 - r * r)), degrees))
    return r, p, n, n_targets


def best_of_top(x: Floats, y: Floats, k: int) -> float:
    """The expected best performance among the k sources with the highest scores; ties at the k-th place are broken at random."""
    k = min(k, len(x))
    threshold = np.sort(x)[::-1][k - 1]
    fixed, tied = y[x > threshold], np.sort(y[x == threshold])
    draw = k - len(fixed)
    floor = float(fixed.max()) if len(fixed) else -math.inf
    ways = math.comb(len(tied), draw)
    return sum(math.comb(j, draw - 1) / ways * max(floor, float(value)) for j, value in enumerate(tied) if j >= draw - 1)


def tied_share(values: Floats) -> float:
    """The share of pairs of sources that have the same value."""
    n = len(values)
    if n < 2:
        return 0.0
    equal = int(np.sum(values[:, None] == values[None, :])) - n
    return equal / (n * (n - 1))


@lru_cache(maxsize=64)
def critical_spearman(n: int) -> float | None:
    """The value that \\|Spearman\\| of one target must exceed for p <= 0.05 (two-sided, no ties): exact up to 9 sources, else by Student's t.

    None when even a perfect order does not reach 5 % (n < 5).
    """
    if n < 5:
        return None
    if n > EXACT_WITHIN:
        from scipy.stats import t

        critical = float(t.ppf(0.975, n - 2))
        return critical / math.sqrt(n - 2 + critical**2)
    squares = ((all_orders(n) - np.arange(n)) ** 2).sum(1)
    size = np.round(np.abs(1 - 6 * squares / (n * (n * n - 1))), 9)
    values, counts = np.unique(size, return_counts=True)
    tail = counts[::-1].cumsum()[::-1] / len(size)
    return float(values[tail > 0.05].max())
