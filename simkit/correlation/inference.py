"""Permutations and bootstraps of all methods together: p-values, adjusted p-values, intervals, and intervals of differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from simkit.correlation.resampling import Permutations, Statistic, Weights, means_over_targets, per_target
from simkit.correlation.statistics import EXACT_JOINT, exact_or_sampled_orders, mean_defined, two_sided
from simkit.recipe import rng_for

__all__ = ["Bootstraps", "Nulls", "bootstraps", "max_t", "nulls"]

Floats: TypeAlias = NDArray[np.float64]
Interval: TypeAlias = tuple[float, float]

ENOUGH = 0.9
"""Share of resamples that must define a statistic, or it gets no interval: the rest would be no fair sample."""


@dataclass(frozen=True)
class Nulls:
    """The statistic of every method in the same permutations of the source labels.

    Attributes:
        values: (M, B); NaN where a permutation leaves it undefined.
        observed: (M,).
        exact: whether these are all orders.
    """

    values: Floats
    observed: Floats
    exact: bool

    def p_values(self) -> list[float | None]:
        """Two-sided, one a method; None where the statistic is undefined."""
        return [two_sided(float(r), null, exact=self.exact) if np.isfinite(r) else None for r, null in zip(self.observed, self.values, strict=True)]


def nulls(x: Floats, y: Floats, *, permutations: int, seed: int, statistic: Statistic = "spearman", jobs: int = 0) -> Nulls:
    """Mean over targets of the correlation after the same permutation of source labels in every target.

    Permuting whole rows of the score matrix keeps what a source has in common over targets (a source that is good everywhere is one
    observation, not T); within-target permutation does not, and rejects far too often when sources have such an effect.

    Args:
        x: (M, S, T) oriented scores, NaN where missing.
        y: (S, T) performances, NaN where missing.
        permutations: how many random ones where there are too many to enumerate.
        seed: of these.
        statistic: whose mean is taken.
        jobs: threads; 0 for as many as BLAS may use.
    """
    orders, exact = exact_or_sampled_orders(len(y), most=EXACT_JOINT, permutations=permutations, rng=rng_for("correlate", "sources", seed))
    values, _ = means_over_targets(x, y, Permutations(orders), statistic=statistic, jobs=jobs)
    observed = mean_defined(np.moveaxis(per_target(x, y, Weights(np.ones((1, len(y)))), statistic=statistic, jobs=jobs)[:, :, 0], 1, 0))
    return Nulls(values, np.asarray(observed), exact)


def max_t(found: Nulls) -> list[float | None]:
    """Step-down adjusted p-values of the maximum over methods (Westfall and Young 1993, algorithm 4.1), one a method.

    Statistics are divided by their root mean square over the permutations first, because their spread differs (a score with a strong effect of
    the source has fewer independent values): otherwise methods of wide spread would decide the maximum. In each permutation the
    largest statistic of the methods that are not larger in the data is taken. Joint permutations keep how methods depend on each other, so
    it is less conservative than Holm's procedure for methods that resemble each other. A method that a permutation leaves undefined counts as 0
    in it, which is a value like any other of a statistic (valid), and never gets less than its own unadjusted p-value.
    """
    plain = found.p_values()
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
        fixed_sources: (M, B) only targets resampled.
    """

    two_way: Floats
    versus: Floats | None
    fixed_sources: Floats

    def interval(self, m: int) -> Interval | None:
        """95 % percentile interval of the mean of method ``m``."""
        return _percentiles(self.two_way[m])

    def versus_interval(self, m: int) -> Interval | None:
        """Of its difference to the static baseline."""
        return None if self.versus is None else _percentiles(self.versus[m])

    def fixed_sources_interval(self, m: int) -> Interval | None:
        """Of its mean when only targets are resampled."""
        return _percentiles(self.fixed_sources[m])

    def difference_interval(self, one: int, other: int) -> Interval | None:
        """Of the difference of two methods, in the same resamples."""
        return _percentiles(self.two_way[one] - self.two_way[other])


def bootstraps(
    x: Floats, y: Floats, *, static: Floats | None, count: int, seed: int, statistic: Statistic = "spearman", jobs: int = 0,
) -> Bootstraps | None:
    """Resamples of sources and targets together, and of targets alone.

    The static baseline is kept as it is: made anew, a target that is drawn twice would be one of its own others. It is compared on the
    sources that the method scores.

    Args:
        x: (M, S, T) oriented scores, NaN where missing.
        y: (S, T) performances, NaN where missing.
        static: (S, T) scores of the static baseline, or None.
        count: resamples; 0 for none, and the result is None.
        seed: of these.
        statistic: whose mean is taken.
        jobs: threads; 0 for as many as BLAS may use.
    """
    if count == 0:
        return None
    n_sources, n_targets = y.shape
    rng = rng_for("correlate", "bootstrap", seed)
    weights = rng.multinomial(n_sources, np.full(n_sources, 1 / n_sources), size=count).astype(np.float64)
    counts = rng.multinomial(n_targets, np.full(n_targets, 1 / n_targets), size=count).astype(np.float64)
    versus = None if static is None else _masked(static, x)
    means, gaps = means_over_targets(x, y, Weights(weights), counts=counts, versus=versus, statistic=statistic, jobs=jobs)
    each = per_target(x, y, Weights(np.ones((1, n_sources))), statistic=statistic, jobs=jobs)[:, :, 0]
    defined = np.isfinite(each)
    weight = defined.astype(np.float64) @ counts.T
    fixed = np.where(weight > 0, (np.where(defined, each, 0.0) @ counts.T) / np.maximum(weight, 1e-300), np.nan)
    return Bootstraps(means, gaps, fixed)


def _masked(static: Floats, x: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """The static scores with the gaps of each method, every pattern of gaps once, and which of them each method has."""
    patterns, which = np.unique(np.isfinite(x), axis=0, return_inverse=True)
    return np.where(patterns, static, np.nan), np.asarray(which.ravel(), dtype=np.int64)


def _percentiles(values: Sequence[float] | Floats) -> Interval | None:
    values = np.asarray(values)
    defined = values[np.isfinite(values)]
    if len(defined) < ENOUGH * len(values):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low) + 0.0, float(high) + 0.0

