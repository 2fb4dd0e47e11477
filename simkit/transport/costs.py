"""Clouds of weighted, labelled points, and the cost of moving one point to another: |x - x'|² between features, W between classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["Cloud", "mean_cost", "product_cost", "squared_distances"]


@dataclass(frozen=True, eq=False)
class Cloud:
    """Weighted points with classes.

    Attributes:
        features: float32 (n, d).
        labels: class index per point, (n,); all 0 where classes play no part.
        weights: mass per point, float64 (n,), of sum 1.
    """

    features: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def mean(self) -> np.ndarray:
        """Weighted mean of the features, float64 (d,)."""
        mean = np.zeros(self.features.shape[1])
        for start in range(0, len(self), 4096):  # in blocks: no copy of all features in float64
            mean += self.weights[start : start + 4096] @ self.features[start : start + 4096].astype(np.float64)
        return mean

    @cached_property
    def spread(self) -> float:
        """Weighted mean of |x - mean|²."""
        return weighted_spread(self.features, self.weights, self.mean)

    def masses(self, classes: int) -> np.ndarray:
        """Mass of each class, float64 (classes,)."""
        return np.bincount(self.labels, self.weights, classes)

    def head(self, size: int) -> Cloud:
        """The first ``size`` points, scaled to mass 1."""
        weights = self.weights[:size]
        return Cloud(self.features[:size], self.labels[:size], weights / weights.sum())


def weighted_spread(features: np.ndarray, weights: np.ndarray, centre: np.ndarray) -> float:
    """Sum of w_i |x_i - centre|², in blocks."""
    total = 0.0
    for start in range(0, len(features), 4096):
        difference = features[start : start + 4096] - centre
        total += float(weights[start : start + 4096] @ np.einsum("ij,ij->i", difference, difference))
    return total


def mean_cost(source: Cloud, target: Cloud, table: np.ndarray, *, feature_weight: float = 1.0) -> float:
    """Cost of the product coupling, the mean of w |x - x'|² + W over all pairs of points: closed form, O((n + m) d)."""
    gap = source.mean - target.mean
    features = float(gap @ gap) + source.spread + target.spread
    return feature_weight * features + float(source.masses(len(table)) @ table @ target.masses(table.shape[1]))


def product_cost(source: Cloud, target: Cloud, table: np.ndarray, row_mass: np.ndarray, column_mass: np.ndarray, *, feature_weight: float = 1.0) -> float:
    """Cost of moving the mass ``row_mass`` of the source's points to ``column_mass`` of the target's by their product coupling, in O((n + m) d).

    Both masses (n,) and (m,) have the same sum, up to rounding; 0 costs nothing.
    """
    totals = float(row_mass.sum()), float(column_mass.sum())
    if min(totals) <= 0:
        return 0.0
    first = Cloud(source.features, source.labels, row_mass / totals[0])
    second = Cloud(target.features, target.labels, column_mass / totals[1])
    return max(totals) * mean_cost(first, second, table, feature_weight=feature_weight)


def squared_distances(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances |x_i - y_j|², float64 (n, m).

    Both sides are centred by their common mean first and multiplied as one matrix product; entries that lose digits by cancellation
    (near duplicates) are computed again from the differences, so that equal rows are at distance exactly 0.

    Args:
        source: (n, d).
        target: (m, d).
    """
    x, y = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    centre = 0.5 * (x.mean(0) + y.mean(0))
    x, y = x - centre, y - centre
    x_norm, y_norm = np.einsum("ij,ij->i", x, x), np.einsum("ij,ij->i", y, y)
    out = x @ y.T
    out *= -2.0
    out += x_norm[:, None]
    out += y_norm
    block = max(1, 2**21 // x.shape[1])
    rows = max(1, 2**20 // len(y))
    for start in range(0, len(x), rows):
        part = out[start : start + rows]
        near = np.argwhere(part <= 1e-6 * (x_norm[start : start + rows, None] + y_norm))
        for at in range(0, len(near), block):
            i, j = near[at : at + block].T
            difference = x[start + i] - y[j]
            part[i, j] = np.einsum("ij,ij->i", difference, difference)
    return np.asarray(out)


