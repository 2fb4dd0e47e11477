"""How well replicates of the performance agree, and what that leaves for any score to reach."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from simkit.correlation.statistics import spearman

__all__ = ["ceiling_from_sd", "ceiling_of_mean", "noise_ceiling"]

Floats = NDArray[np.float64]


def noise_ceiling(replicates: Floats) -> float | None:
    """Agreement of one replicate with the others: how well it orders the sources as their mean does (mean Spearman over replicates).

    A single replicate is noisier than the mean over all, so a good score can correlate better with that mean than this: for the bound of
    such a correlation see :func:`ceiling_of_mean`.

    Args:
        replicates: (R, S) performances of one target; sources with a missing replicate are left out.

    Returns:
        None for fewer than 2 replicates or 3 complete sources, or when no replicate is defined.
    """
    complete = _complete(replicates)
    if complete is None:
        return None
    each = np.array([spearman(one, np.delete(complete, r, axis=0).mean(0))[0] for r, one in enumerate(complete)])
    return float(each[np.isfinite(each)].mean()) if np.isfinite(each).any() else None


def ceiling_of_mean(replicates: Floats) -> float | None:
    """The rank correlation with the mean performance that is expected of a score without error: sqrt of the reliability of the mean.

    Reliability is R r / (1 + (R - 1) r), with r the mean Spearman's correlation of two replicates (the Spearman-Brown formula: Spearman 1910,
    Brown 1910); a variable correlates with a measurement of itself by the square root of its reliability (Spearman 1904). The errors of
    replicates are taken for independent; folds share training images, so the true ceiling can be lower. It is an estimate and bounds an
    expectation: with few sources a single correlation can lie above it.

    Args:
        replicates: (R, S) performances of one target; sources with a missing replicate are left out.

    Returns:
        In 0..1, 0 where replicates do not agree (r <= 0); None for fewer than 2 replicates or 3 complete sources, or when r is undefined.
    """
    complete = _complete(replicates)
    if complete is None:
        return None
    pairs = np.array([spearman(one, other)[0] for one, other in combinations(complete, 2)])
    if not np.isfinite(pairs).any():
        return None
    n, r = len(complete), max(0.0, float(pairs[np.isfinite(pairs)].mean()))
    return min(1.0, math.sqrt(n * r / (1 + (n - 1) * r)))


def ceiling_from_sd(performance: Floats, noise: Floats) -> float | None:
    """The same ceiling where there are no replicates but the noise of each performance is known: sqrt(1 - noise variance / variance).

    It is of Pearson's kind; the reliability of ranks is taken for that of values.

    Args:
        performance: (S,) performances of one target, NaN where missing.
        noise: (S,) standard deviation of the noise of each, NaN where unknown.

    Returns:
        In 0..1, 0 where there is more noise than variance; None for fewer than 3 sources with both, or constant performances.
    """
    known = np.isfinite(performance) & np.isfinite(noise)
    if known.sum() < 3:
        return None
    total = float(performance[known].var(ddof=1))
    if total <= 0:
        return None
    return math.sqrt(max(0.0, 1 - float((noise[known] ** 2).mean()) / total))


def _complete(replicates: Floats) -> Floats | None:
    complete = replicates[:, np.isfinite(replicates).all(0)]
    return None if len(complete) < 2 or complete.shape[1] < 3 else complete
