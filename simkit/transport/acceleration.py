"""What makes Sinkhorn's iteration short: mass balanced between groups of points in every pass, and extrapolation with a safeguard."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simkit.transport.costs import Cloud
from simkit.transport.kernel import ABSORB, Kernel

__all__ = ["Extrapolation", "Groups", "balanced_rows", "grouped"]

MOST_GROUPS = 128
"""Groups between which masses are balanced: the classes, or groups of them where there are more."""
UNLABELLED_GROUPS = 16
"""Groups of points where there are no classes."""
PART = 2048
"""Points that such groups are found from."""
DEPTH = 5
"""Residuals that the extrapolation combines."""


class Groups:
    """Groups of points on both sides between which mass is balanced exactly, in every pass.

    They are the classes (at most 128 groups of them), or groups of similar points where there are no classes. The plan's mass between groups,
    M_kl, is summed on the way; scaling the groups so that *their* marginals hold is a small transport problem of its own. It maximises the
    dual over one shift per group, so it can only help, whatever the groups are.

    Args:
        kernel: of the problem.
        rows, columns: the group of each point of source and target.
    """

    def __init__(self, kernel: Kernel, rows: np.ndarray, columns: np.ndarray):
        rows, columns = (np.unique(one, return_inverse=True)[1] for one in (rows, columns))
        self.columns = torch.as_tensor(columns, device=kernel.device)
        self.members = torch.nn.functional.one_hot(torch.as_tensor(rows, device=kernel.device)).double()
        self.row_mass = np.bincount(rows, kernel.source.weights)
        self.column_mass = np.bincount(columns, kernel.target.weights)
        self.b = kernel.b

    def balance(self, columns: Tensor, v: Tensor) -> Tensor:
        """Sums of each column after the rows of every group were scaled to balance the groups' masses."""
        if len(self.row_mass) == 1 and len(self.column_mass) == 1:
            return columns.sum(1)
        weighted = columns * (self.b * torch.exp2(v)).unsqueeze(1)
        mass = torch.zeros((len(self.column_mass), columns.shape[1]), dtype=torch.float64, device=columns.device).index_add_(0, self.columns, weighted)
        scaling = balanced_rows(mass.T.cpu().numpy(), self.row_mass, self.column_mass)
        return columns @ torch.as_tensor(np.exp2(scaling), device=columns.device)


def balanced_rows(mass: np.ndarray, row_mass: np.ndarray, column_mass: np.ndarray, *, steps: int = 500) -> np.ndarray:
    """log2 of the row scalings with which a small matrix, its columns scaled as well, has these marginals: Sinkhorn's iteration on logarithms."""
    with np.errstate(divide="ignore"):
        exponents = np.maximum(np.log2(mass), -1000.0)
    rows, columns = np.zeros(len(row_mass)), np.zeros(len(column_mass))
    for _ in range(steps):
        shifted = exponents + columns
        top = shifted.max(1)
        rows = np.log2(row_mass) - top - np.log2(np.exp2(shifted - top[:, None]).sum(1))
        shifted = exponents + rows[:, None]
        top = shifted.max(0)
        sums = top + np.log2(np.exp2(shifted - top).sum(0))
        if np.abs(np.exp2(sums + columns) - column_mass).sum() < 1e-5:
            break
        columns = np.log2(column_mass) - sums
    return rows


def grouped(cloud: Cloud) -> np.ndarray:
    """A group for each point: its class, a group of classes with near means, or a group of near points where there are no classes."""
    classes = int(cloud.labels.max()) + 1
    if 1 < classes <= MOST_GROUPS:
        return cloud.labels
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of equal points, of which fewer groups are made
        scaled = cloud.features / np.maximum(np.abs(cloud.features).max(), np.finfo(np.float32).tiny)  # their squares may not fit float32
        return _clustered(replace(cloud, features=scaled), classes, KMeans)


def _clustered(cloud: Cloud, classes: int, cluster: Any) -> np.ndarray:
    if classes > MOST_GROUPS:
        present = np.unique(cloud.labels)
        means = np.zeros((classes, cloud.features.shape[1]))
        means[present] = [cloud.features[cloud.labels == k].mean(0) for k in present]
        return np.asarray(cluster(MOST_GROUPS, n_init=1, random_state=0).fit(means).labels_[cloud.labels])
    part = cloud.features[:PART]
    if len(part) < 4 * UNLABELLED_GROUPS or len(np.unique(part, axis=0)) < UNLABELLED_GROUPS:
        return np.zeros(len(cloud), dtype=np.int64)
    return np.asarray(cluster(UNLABELLED_GROUPS, n_init=1, max_iter=10, random_state=0).fit(part).predict(cloud.features))


class Extrapolation:
    """Anderson's extrapolation of the fixed point of v -> w(v), by the last residuals; plain steps wherever it made things worse."""

    def __init__(self, weights: Tensor):
        self.root = torch.sqrt(weights)
        self.forget()

    def forget(self) -> None:
        """Starts anew."""
        self.points: list[Tensor] = []
        self.residuals: list[Tensor] = []
        self.best = math.inf

    def next(self, v: Tensor, w: Tensor, error: float) -> Tensor:
        """The next point after v, whose plain successor is w; ``error`` is that of v."""
        if error > 2 * self.best:
            self.forget()
        self.best = min(self.best, error)
        self.points, self.residuals = [*self.points, w][-DEPTH - 1 :], [*self.residuals, w - v][-DEPTH - 1 :]
        if len(self.points) == 1:
            return w
        steps = torch.stack([b - a for a, b in zip(self.residuals, self.residuals[1:], strict=False)], 1)
        weighted = steps * self.root.unsqueeze(1)
        gram = weighted.T @ weighted
        gram.diagonal().add_(1e-8 * gram.trace().clamp_min(1e-300))
        mix = torch.linalg.solve(gram, weighted.T @ (self.residuals[-1] * self.root))
        moved = torch.stack([b - a for a, b in zip(self.points, self.points[1:], strict=False)], 1)
        out = w - moved @ mix
        return out if bool(torch.isfinite(out).all()) and float((out - w).abs().max()) < ABSORB / 2 else w
