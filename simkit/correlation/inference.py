"""Permutations and bootstraps of all methods together: p-values, adjusted p-values, intervals, and intervals of differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from simkit.correlation.exchange import Exchange
from simkit.correlation.resampling import Permutations, Statistic, Versus, Weights, means_over_targets, per_target
from simkit.correlation.statistics import Orders, mean_defined, two_sided
from simkit.recipe import rng_for

__all__ = ["Bootstraps", "Nulls", "bootstraps", "max_t", "nulls"]

Floats: TypeAlias = NDArray[np.float64]
Interval: TypeAlias = tuple[float, float]

ENOUGH = 0.9
"""Share of resamples that must define a statistic, or it gets no interval: the rest would be no fair sample."""

ENOUGH_TARGETS = 5
"""Targets below which no interval is given from resampling them alone."""


@dataclass(frozen=True)
class Nulls:
    """The statistic of every method in the same permutations of the source labels (of a method that lacks some of grouped sources, in others).

    Attributes:
        values: (M, B); NaN where a permutation leaves it undefined.
        observed: (M,).
        exact: whether these are all orders.
    """

    values: Floats
    observed: Floats
    exact: bool

    def p_values(self) -> list[float | None]:
        """Two-sided, one a method; None where the statistic is undefined, or without permutations."""
        return [two_sided(float(r), null, exact=self.exact) if np.isfinite(r) and len(null) else None
                for r, null in zip(self.observed, self.values, strict=True)]


def nulls(
    x: Floats, y: Floats, *, permutations: int, seed: int, exchange: Exchange | None = None, statistic: Statistic = "spearman", jobs: int = 0,
) -> Nulls:
    """Mean over targets of the correlation after the same permutation of source labels in every target.

    Permuting whole rows of the score matrix keeps what a source has in common over targets (a source that is good everywhere is one
    observation, not T); within-target permutation does not, and rejects far too often when sources have such an effect. Sources of one
    group move together (:class:`~simkit.correlation.exchange.Exchange`). A method that scores only some of the sources is permuted among
    these: gaps that moved onto other sources would make another test. Gaps in single cells (self pairs) do move; in small square tables
    that makes p somewhat too large (1.5 to 4 % of true nulls rejected at 5 %).

    Args:
        x: (M, S, T) oriented scores, NaN where missing.
        y: (S, T) performances, NaN where missing.
        permutations: how many random ones where there are too many to enumerate.
        seed: of these.
        exchange: which sources may change places; None for all.
        statistic: whose mean is taken.
        jobs: threads; 0 for as many as BLAS may use.
    """
    exchange = exchange or Exchange(tuple(range(len(y))))
    patterns, which = np.unique(np.isfinite(x).any(2), axis=0, return_inverse=True)
    torn = exchange.grouped and not patterns.all()
    orders, exact = exchange.orders(permutations, rng_for("correlate", "sources", seed), sampled=torn)
    values = np.empty((len(x), len(orders)))
    for g, kept in enumerate(patterns):
        members = np.flatnonzero(which.ravel() == g)
        own = orders if kept.all() else _partial(exchange, orders, kept, seed)
        values[members], _ = means_over_targets(x[members], y, Permutations(own), statistic=statistic, jobs=jobs)
    observed = mean_defined(np.moveaxis(per_target(x, y, Weights(np.ones((1, len(y)))), statistic=statistic, jobs=jobs)[:, :, 0], 1, 0))
    return Nulls(values, np.asarray(observed), exact)


def _partial(exchange: Exchange, orders: Orders, kept: NDArray[np.bool_], seed: int) -> Orders:
    """As many permutations of the sources that are kept: of single sources the same ones, of groups new ones."""
    if not exchange.grouped:
        return exchange.restricted(orders, kept)
    inside = np.flatnonzero(kept)
    own, _ = exchange.part(kept).orders(len(orders), rng_for("correlate", "sources", seed, *map(int, inside)), sampled=True)
    out = np.tile(np.arange(len(exchange)), (len(orders), 1))
    out[:, inside] = inside[own]
    return out


def max_t(found: Nulls) -> list[float | None]:
    """Step-down adjusted p-values of the maximum over methods (Westfall and Young 1993, algorithm 4.1), one a method.

    Statistics are divided by their root mean square over the permutations first, because their spread differs (a score with a strong effect of
    the source has fewer independent values): otherwise methods of wide spread would decide the maximum. In each permutation the
    largest statistic of the methods that are not larger in the data is taken. Joint permutations keep how methods depend on each other, so
    it is less conservative than Holm's procedure for methods that resemble each other. A method that a permutation leaves undefined counts as 0
    in it, which is a value like any other of a statistic (valid), and never gets less than its own unadjusted p-value.
    """
    plain = found.p_values()
    if all(p is None for p in plain):
        return plain
    spread = np.sqrt(np.mean(np.nan_to_num(found.values) ** 2, axis=1))
    spread = np.where(spread > 0, spread, 1.0)
    size = np.abs(found.observed) / spread
    order = sorted((m for m, p in enumerate(plain) if p is not None), key=lambda m: (-size[m], m))
    largest = np.zeros(found.values.shape[1])
    adjusted: list[float] = []
    for m in reversed(order):
        largest = np.maximum(largest, np.abs(np.nan_to_num(found.values[m])) / spread[m])
        adjusted.append(two_sided(float(size[m]), largest, exact=found.exact))
    out: list[float | None] = [None] * len(plain)
    step = 0.0
    for m, p in zip(order, reversed(adjusted), strict=True):
        step = max(step, p, plain[m] or 0.0)
        out[m] = step
    return out


@dataclass(frozen=True)
class Bootstraps:
    """Means of every method in the same resamples.

    Attributes:
        two_way: (M, B) sources and targets resampled together.
        versus: (M, B) the difference to the static baseline in these; None without one.
        versus_common: (M, B) the same on the sources that both score; None where the static baseline has all that the methods have.
        fixed_sources: (M, B) only targets resampled.
        n_targets: how many targets there are.
    """

    two_way: Floats
    versus: Floats | None
    versus_common: Floats | None
    fixed_sources: Floats
    n_targets: int

    def interval(self, m: int) -> Interval | None:
        """95 % percentile interval of the mean of method ``m``."""
        return _percentiles(self.two_way[m])

    def versus_interval(self, m: int) -> Interval | None:
        """Of its difference to the static baseline."""
        return None if self.versus is None else _percentiles(self.versus[m])

    def versus_common_interval(self, m: int) -> Interval | None:
        """The same on the sources that both score; None where that is no other."""
        return None if self.versus_common is None else _percentiles(self.versus_common[m])

    def fixed_sources_interval(self, m: int) -> Interval | None:
        """Of its mean when only targets are resampled; None for fewer than 5 targets, of which it would cover far less than 95 %."""
        return _percentiles(self.fixed_sources[m]) if self.n_targets >= ENOUGH_TARGETS else None

    def difference_interval(self, one: int, other: int) -> Interval | None:
        """Of the difference of two methods, in the same resamples."""
        return _percentiles(self.two_way[one] - self.two_way[other])


def bootstraps(
    x: Floats, y: Floats, *, static: Floats | None, count: int, seed: int, exchange: Exchange | None = None, statistic: Statistic = "spearman", jobs: int = 0,
) -> Bootstraps | None:
    """Resamples of sources and targets together, and of targets alone. Sources of one group are drawn together.

    Drawing both counts the noise of single pairs more than once (Owen 2007, "The pigeonhole bootstrap"), so the interval is wide: 97 to 99 %
    coverage in simulations of targets that are alike; with two or three targets that differ strongly and many sources it can be 73 to 88 %.

    The static baseline is kept as it is: made anew, a target that is drawn twice would be one of its own others.

    Args:
        x: (M, S, T) oriented scores, NaN where missing.
        y: (S, T) performances, NaN where missing.
        static: (S, T) scores of the static baseline, or None.
        count: resamples; 0 for none, and the result is None.
        seed: of these.
        exchange: the groups of sources; None for none.
        statistic: whose mean is taken.
        jobs: threads; 0 for as many as BLAS may use.
    """
    if count == 0:
        return None
    n_sources, n_targets = y.shape
    exchange = exchange or Exchange(tuple(range(n_sources)))
    rng = rng_for("correlate", "bootstrap", seed)
    weights = Weights(exchange.weights(count, rng))
    counts = rng.multinomial(n_targets, np.full(n_targets, 1 / n_targets), size=count).astype(np.float64)
    versus, common = (None, None) if static is None else _masked(static, x)
    means, gaps = means_over_targets(x, y, weights, counts=counts, versus=versus, statistic=statistic, jobs=jobs)
    both = None if common is None else means_over_targets(x, y, weights, counts=counts, versus=common, statistic=statistic, jobs=jobs)[1]
    each = per_target(x, y, Weights(np.ones((1, n_sources))), statistic=statistic, jobs=jobs)[:, :, 0]
    defined = np.isfinite(each)
    weight = defined.astype(np.float64) @ counts.T
    fixed = np.where(weight > 0, (np.where(defined, each, 0.0) @ counts.T) / np.maximum(weight, 1e-300), np.nan)
    return Bootstraps(means, gaps, both, fixed, n_targets)


def _masked(static: Floats, x: Floats) -> tuple[Versus, Versus | None]:
    """The static scores with the gaps of each method, every pattern of gaps once; and the same for methods with the gaps of the static scores too.

    The latter is None where the static list has a score wherever a method has one. It lacks a source that occurs in one target only.
    """
    patterns, which = np.unique(np.isfinite(x), axis=0, return_inverse=True)
    scores, number = np.where(patterns, static, np.nan), np.asarray(which.ravel(), dtype=np.int64)
    lacking = np.isfinite(x) & ~np.isfinite(static)
    return Versus(scores, number, x), Versus(scores, number, np.where(lacking, np.nan, x)) if lacking.any() else None


def _percentiles(values: Sequence[float] | Floats) -> Interval | None:
    values = np.asarray(values)
    defined = values[np.isfinite(values)]
    if len(defined) < ENOUGH * len(values):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return None if low == high and abs(low) == 1 else (float(low) + 0.0, float(high) + 0.0)  # a perfect order in every resample is no certainty

