"""k nearest neighbours as a classifier whose scores are linear in the labels: a matrix of shares."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["neighbour_shares"]


def neighbour_shares(train: np.ndarray, test: np.ndarray, neighbours: int | None) -> tuple[np.ndarray, int]:
    """(W (m, n), k): the share of each training row in the vote for each test row, each row of W of sum 1; W @ labels are the scores.

    A neighbour has 1 / k; training rows at the distance of the k-th (to nine digits) share what the nearer ones leave. Features are standardised by mean and
    spread of the training rows, whatever their labels; a feature whose spread is below 1e-6 of its size is constant and left out.

    Args:
        train: (n, d).
        test: (m, d).
        neighbours: k, at most n; None: the whole part of the root of n.
    """
    n = len(train)
    k = max(1, min(n, math.isqrt(n) if neighbours is None else neighbours))
    rows, others = train.astype(np.float64), test.astype(np.float64)
    mean, spread = rows.mean(0), rows.std(0)
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-6 * np.abs(mean))
    rows, others = (rows - mean) * scale, (others - mean) * scale
    lengths, other_lengths = (rows**2).sum(1), (others**2).sum(1)
    squared = np.maximum(other_lengths[:, None] + lengths - 2.0 * (others @ rows.T), 0.0)
    tolerance = 1e-9 * (other_lengths + float(lengths.max(initial=0.0)))[:, None]
    radius = np.partition(squared, k - 1, axis=1)[:, k - 1, None]
    nearer, tied = squared < radius - tolerance, np.abs(squared - radius) <= tolerance
    left = (k - nearer.sum(1, keepdims=True)) / tied.sum(1, keepdims=True)
    return np.where(nearer, 1.0, np.where(tied, left, 0.0)) / k, k
