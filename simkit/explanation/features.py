"""The features that differ most between two data sets, and what makes up a Fréchet distance."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, lgamma

import numpy as np

from simkit.embedding import Embedding, row_digests
from simkit.explanation.plans import class_number
from simkit.explanation.results import Feature, FeatureGap, FrechetParts
from simkit.recipe import rng_for

__all__ = ["TOP", "feature_gap", "frechet_parts"]

TOP, EXTREMES = 10, 4
"""Features with pictures; images of a side that have the feature lowest, and highest."""

BLOCK = 2**22
"""Entries of a block of permutations."""


def feature_gap(source: Embedding, target: Embedding, names: Sequence[str], *, seed: int, permutations: int) -> FeatureGap:
    """Standardised differences of all features, with p-values adjusted for their number.

    The statistic of a feature is |difference of the means| over its standard deviation in both sets together. Sides are exchanged between images, or
    whole groups (patients) where a set has groups; the adjusted p of a feature is the share of exchanges in which the largest statistic of all
    features reaches that of the feature (max-T, Westfall and Young 1993, single step; Phipson and Smyth 2010). Intervals take groups as
    units (cluster-robust).

    Args:
        source, target: embeddings with keys.
        names: of the features; () numbers them from 0.
        seed: of the permutations.
        permutations: how many; 0: no p-values.
    """
    from scipy.stats import t

    sides = [view.features.astype(np.float64) for view in (source, target)]
    means = [rows.mean(0) for rows in sides]
    n, m = len(source), len(target)
    spread = np.sqrt(sum(((rows - mean) ** 2).sum(0) for rows, mean in zip(sides, means, strict=True)) / max(n + m - 2, 1))
    gap = means[1] - means[0]
    size = np.maximum(np.abs(means[0]), np.abs(means[1]))
    varies = spread > 1e-7 * np.maximum(size, 1e-30)
    units = [_units(view, rows) for view, rows in zip((source, target), sides, strict=True)]
    error = np.sqrt(sum(_squared_error(sums, counts, mean) for (sums, counts), mean in zip(units, means, strict=True)))
    p = _adjusted(units, sides, varies, rng_for("explanation", seed, "features"), permutations) if permutations and varies.any() else None
    squared = gap**2
    total = float(squared.sum())
    features = []
    d = np.divide(gap, spread, out=np.zeros_like(gap), where=varies)
    order = [int(j) for j in np.lexsort((np.arange(len(d)), -np.abs(d))) if varies[j]]
    freedom = max(len(units[0][1]) + len(units[1][1]) - 2, 1)
    quantile = float(t.ppf(0.975, freedom))
    for place, j in enumerate(order):
        margin = quantile * np.hypot(error[j] / spread[j], gap[j] / spread[j] / np.sqrt(2 * freedom))  # the spread has an error of its own
        pictures = {} if place >= TOP else {side: _extremes(view, j) for side, view in (("source", source), ("target", target))}
        features.append(Feature(
            j, names[j] if names else f"feature {j}", float(means[0][j]), float(means[1][j]), float(d[j]), (float(d[j] - margin), float(d[j] + margin)),
            None if p is None else float(p[j]), float(squared[j] / total) if total > 0 else 0.0, pictures))
    counts = len(units[0][1]), len(units[1][1])
    expected = sum(float(_squared_error(sums, number, mean).sum()) for (sums, number), mean in zip(units, means, strict=True))
    running = np.cumsum(np.sort(squared)[::-1]) / total if total > 0 else np.ones(len(squared))
    return FeatureGap(
        tuple(features), int((~varies).sum()), total, expected, int(np.searchsorted(running, 0.5 - 1e-12)) + 1,
        int(np.searchsorted(running, 0.9 - 1e-12)) + 1, permutations, counts, bool(source.groups or target.groups), _smallest(counts, permutations))


def _units(view: Embedding, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the rows of each unit (group, else image), and their number; units in an order that depends on the features only."""
    if not view.groups:
        return rows[view.by_content], np.ones(len(rows))
    _, member = np.unique(np.array(view.groups), return_inverse=True)
    digests = row_digests(view.features)
    order = np.argsort(digests, kind="stable")
    _, first = np.unique(member[order], return_index=True)  # the first row by content names the group
    rank = np.argsort(np.argsort(first))[member]
    sums = np.zeros((len(first), rows.shape[1]))
    np.add.at(sums, rank[order], rows[order])
    return sums, np.bincount(rank).astype(np.float64)


def _squared_error(sums: np.ndarray, counts: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Squared standard error of the mean of a side, units as clusters."""
    number = len(counts)
    if number < 2:
        return np.full(sums.shape[1], np.inf)
    return np.asarray(((sums - counts[:, None] * mean) ** 2).sum(0) * (number / (number - 1)) / counts.sum() ** 2)


def _adjusted(
    units: list[tuple[np.ndarray, np.ndarray]], sides: list[np.ndarray], varies: np.ndarray, rng: np.random.Generator, permutations: int,
) -> np.ndarray:
    """Adjusted p of each feature, (d,); 1 for one that does not vary."""
    sums, counts = np.concatenate([units[0][0], units[1][0]]), np.concatenate([units[0][1], units[1][1]])
    everything = np.concatenate(sides)
    scale = np.where(varies, everything.std(0), 1.0)
    sums = np.where(varies, (sums - counts[:, None] * everything.mean(0)) / scale, 0.0)  # sums to 0, so that one side's sum is the negative of the other's
    first = len(units[0][1])
    chosen = np.zeros(len(counts))
    chosen[:first] = 1.0
    order = np.lexsort(tuple(sums[:, j] for j in np.argsort(-np.abs(sums).sum(0))[:3]))  # neither side comes first
    sums, counts, chosen = sums[order], counts[order], chosen[order]
    observed = _statistics(sums, counts, chosen[None])[0]
    reached = np.zeros(len(observed))
    step = max(1, BLOCK // max(len(counts), len(observed)))
    for start in range(0, permutations, step):
        exchanged = rng.permuted(np.repeat(chosen[None], min(step, permutations - start), axis=0), axis=1)
        largest = _statistics(sums, counts, exchanged).max(1)
        reached += (largest[:, None] >= observed[None] - 1e-9).sum(0)
    return np.asarray((1 + reached) / (1 + permutations))


def _statistics(sums: np.ndarray, counts: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """|difference of the means| of each feature, (B, d), where row b of ``chosen`` says which units are on the first side."""
    taken = chosen @ counts
    total = float(counts.sum())
    return np.asarray(np.abs(chosen @ sums) * (1 / taken + 1 / (total - taken))[:, None])


def _smallest(counts: tuple[int, int], permutations: int) -> float:
    """The smallest p that the exchanges could give."""
    if not permutations:
        return 1.0
    ways = lgamma(sum(counts) + 1) - lgamma(counts[0] + 1) - lgamma(counts[1] + 1)
    return max(1.0 / (1 + permutations), exp(-ways))


def _extremes(view: Embedding, j: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keys of the images that have a feature lowest, and highest; one image of each group, none in both."""
    order = np.lexsort((view.by_content.argsort(), view.features[:, j]))
    most = min(EXTREMES, len(order) // 2)
    return _apart(view, order.tolist(), most), _apart(view, order[::-1].tolist(), most)


def _apart(view: Embedding, rows: Sequence[int], most: int) -> tuple[str, ...]:
    used: set[str] = set()
    out: list[str] = []
    for row in rows:
        group = view.groups[row] if view.groups else view.keys[row]
        if group not in used and len(out) < most:
            used.add(group)
            out.append(view.keys[row])
    return tuple(out)


def frechet_parts(source: Embedding, target: Embedding, mean_part: float, covariance_part: float, *, diagonal: bool, labels: bool) -> FrechetParts:
    """What makes up a Fréchet distance, by class of the target and by feature.

    The difference of the means is the sum over target classes of (share of the class) (its mean - mean of the source), so each class has a part of its
    squared length: the product of its summand with the whole difference.
    """
    x, y = source.features.astype(np.float64), target.features.astype(np.float64)
    gap = y.mean(0) - x.mean(0)
    by_class = {}
    if labels:
        for k, name in enumerate(target.classes):
            own = y[class_number(target) == k]
            by_class[name] = float(len(own) / len(y) * ((own.mean(0) - x.mean(0)) @ gap))
    spreads = [rows.std(0, ddof=1) if len(rows) > 1 else np.zeros(rows.shape[1]) for rows in (x, y)]
    by_feature = tuple(zip((gap**2).tolist(), ((spreads[0] - spreads[1]) ** 2).tolist(), strict=True))
    return FrechetParts(mean_part, covariance_part, by_class, by_feature, diagonal)
