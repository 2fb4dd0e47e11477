"""The pass that measures a solution on its final plan: marginals, parts, class masses, and bounds of the unregularised optimum."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from simkit.transport.costs import mean_cost, product_cost
from simkit.transport.kernel import Kernel, times

__all__ = ["Entropic", "Measures"]


@dataclass(frozen=True, eq=False)
class Entropic:
    """Solution of one entropic problem, measured on the final plan in a pass of its own.

    Attributes:
        value: OT_eps, from the potentials (a lower bound of it, wrong by less than the product of marginal error and potentials).
        feature_part: w <|x - x'|², P>.
        label_part: <W, P>.
        entropy_part: value - feature_part - label_part: eps KL(P | a b') up to the marginal error.
        potentials: (f, g), float64, in units of the cost; mean mass 1.
        class_mass: mass that P moves between classes, (K1, K2).
        marginal_error: |P 1 - a|_1 + |P' 1 - b|_1.
        lower, upper: bounds of the *unregularised* optimum: from potentials that are feasible, and from a plan that is.
        passes: over the kernel, of all stages, in units of a pass over the whole.
        converged: whether the marginal error is within the tolerance.
    """

    value: float
    feature_part: float
    label_part: float
    entropy_part: float
    potentials: tuple[np.ndarray, np.ndarray]
    class_mass: np.ndarray
    marginal_error: float
    lower: float
    upper: float
    passes: int
    converged: bool


class Measures:
    """Sums over the final plan P_ij = a_i b_j 2^E_ij, with C_ij = f_i + g_j - E_ij eps: everything a result holds, in one pass."""

    def __init__(self, kernel: Kernel, ratio: Tensor | None):
        self.kernel = kernel
        k1, k2 = kernel.table.shape
        as_index = lambda labels: torch.as_tensor(labels, device=kernel.device)  # noqa: E731
        self.rows = torch.nn.functional.one_hot(as_index(kernel.source.labels), k1).double() * kernel.a.unsqueeze(1)
        self.columns = torch.nn.functional.one_hot(as_index(kernel.target.labels), k2).double() * kernel.b.unsqueeze(1)
        # a plan within the marginals: columns that hold too much are scaled down
        self.cut = kernel.b if ratio is None else kernel.b / ratio.clamp_min(1.0)
        self.row_sum, self.column_sum = torch.zeros_like(kernel.a), torch.zeros_like(kernel.b)
        self.cut_rows = torch.zeros_like(kernel.a)
        self.row_top, self.column_top = (torch.full_like(one, -math.inf) for one in (kernel.a, kernel.b))
        self.mass = torch.zeros((k1, k2), dtype=torch.float64, device=kernel.device)
        self.cost = self.cut_cost = 0.0

    def add(self, index: int) -> None:
        """Adds what one tile of the plan holds."""
        kernel = self.kernel
        tile = kernel.tiles[index]
        exponents = kernel.final_exponents(index, kernel.scratch(tile, 0))
        plan = torch.exp2(exponents, out=kernel.scratch(tile, 1))
        rows, inside = slice(tile.start, tile.stop), tile.stop - tile.start
        if kernel.symmetric and tile.stop < len(kernel.b):
            self._block(rows, slice(tile.start, tile.stop), exponents[:, :inside], plan[:, :inside], mirrored=False)
            self._block(rows, slice(tile.stop, len(kernel.b)), exponents[:, inside:], plan[:, inside:], mirrored=True)
        else:
            self._block(rows, slice(tile.first, len(kernel.b)), exponents, plan, mirrored=False)

    def _block(self, rows: slice, columns: slice, exponents: Tensor, plan: Tensor, *, mirrored: bool) -> None:
        kernel = self.kernel
        a, b, cut, f, g = kernel.a[rows], kernel.b[columns], self.cut[columns], kernel.f[rows], kernel.g[columns]
        if not kernel.symmetric:
            self.row_top[rows] = exponents.amax(1).double()
            self.column_top[columns] = torch.maximum(self.column_top[columns], exponents.amax(0).double())
        scaled = g * kernel.scale  # in units of epsilon, so that no scale of the cost leaves the kernel's precision
        sums = times(plan, torch.column_stack([b, cut, b * scaled, cut * scaled, self.columns[columns]]))
        by_column = times(plan.T, a)
        weighted = plan.mul_(exponents)
        weighted_sums = times(weighted, torch.column_stack([b, cut]))
        self.row_sum[rows] += sums[:, 0]
        self.cut_rows[rows] += sums[:, 1]
        if not kernel.symmetric:
            self.column_sum[columns] += by_column
        elif mirrored:
            self.row_sum[columns] += by_column
        mass = self.rows[rows].T @ sums[:, 4:]
        self.mass += mass + mass.T if mirrored else mass
        twice = 2 if mirrored else 1
        self.cost += twice * float(a @ (f * sums[:, 0] + (sums[:, 2] - weighted_sums[:, 0]) / kernel.scale))
        self.cut_cost += twice * float(a @ (f * sums[:, 1] + (sums[:, 3] - weighted_sums[:, 1]) / kernel.scale))

    def result(self, passes: int, tolerance: float, feature_weight: float) -> Entropic:
        """The result, after all tiles were added."""
        kernel = self.kernel
        a, b, f, g = kernel.a, kernel.b, kernel.f, kernel.g
        row_sum, column_sum = self.row_sum, self.row_sum if kernel.symmetric else self.column_sum
        error = float(a @ (row_sum - 1).abs() + b @ (column_sum - 1).abs())
        mass = self.mass.cpu().numpy()
        value = float(a @ f + b @ g) - kernel.epsilon * (float(a @ row_sum) - 1)
        label_part = float((mass * kernel.table).sum())
        feature_part = self.cost - label_part
        lower = upper = value
        if not kernel.symmetric:
            lower = max(0.0, float(a @ f + b @ g) - min(float(b @ self.column_top), float(a @ self.row_top)) / kernel.scale)
            upper = self._upper(column_sum, feature_weight)
        potentials = (f.cpu().numpy(), g.cpu().numpy())
        entropy_part = value - self.cost
        return Entropic(float(value), feature_part, label_part, entropy_part, potentials, mass, error, float(lower), float(upper), passes, error <= tolerance)

    def _upper(self, column_sum: Tensor, feature_weight: float) -> float:
        """Cost of a plan within the marginals: ours with its columns cut, scaled until no row or column holds too much, and the rest as a product."""
        kernel = self.kernel
        source, target, table = kernel.source, kernel.target, kernel.table
        product = mean_cost(source, target, table, feature_weight=feature_weight)
        columns = self.cut * column_sum / kernel.b
        scaling = max(1.0, float(self.cut_rows.max()), float(columns.max()))
        if not math.isfinite(scaling) or not math.isfinite(self.cut_cost):
            return product
        short_rows = (kernel.a * (1 - self.cut_rows / scaling)).clamp_min(0).cpu().numpy()
        short_columns = (kernel.b * (1 - columns / scaling)).clamp_min(0).cpu().numpy()
        rest = product_cost(source, target, table, short_rows, short_columns, feature_weight=feature_weight)
        return min(product, self.cut_cost / scaling + rest)
