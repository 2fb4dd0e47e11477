"""Optimal transport: the exact solver with its certificate, squared Euclidean costs, and Wasserstein distances between Gaussians.

Everything here is a function of arrays, in float64. Costs are unhalved and squared: values are in squared units of the features.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simkit.errors import ResourceError, UsageError

__all__ = [
    "MARGINAL_TOLERANCE", "Gaussian", "Transport", "check_memory", "exact_transport", "exact_transport_memory", "exact_transport_seconds",
    "gaussian_distance", "gaussian_distances", "gaussian_of", "memory_limit", "nuclear_norm", "squared_distances",
]

MARGINAL_TOLERANCE = 1e-9
"""Largest L1 error of a plan's marginals (of a total mass of 1) with which the exact solver's result counts as converged."""

BYTES_PER_ENTRY = 48
"""Peak memory of the exact solver per entry of the cost: two cost matrices (8 each), the solver's arcs and the plan (25 with POT 0.9.7), and reserve."""

MEMORY_SHARE = 0.7
"""Share of this machine's memory that one problem may take, unless the caller sets a limit."""


@dataclass(frozen=True, eq=False)
class Transport:
    """Solution of ``min <C, P>`` over plans P >= 0 with given row and column sums.

    Attributes:
        value: <C, P>, in units of the cost.
        plan: P, float64 (n, m) with mass 1, or None when it was not asked for.
        potentials: dual variables (u, v), float64 (n,) and (m,): u_i + v_j <= C_ij up to ``infeasibility``.
        marginal_error: |P 1 - a|_1 + |P' 1 - b|_1, of a total mass of 1.
        converged: whether the solver proved optimality and the marginals hold.
        iterations: of the solver, or None for a solver that does not count them (POT's network simplex).
        duality_gap: value - (a.u + b.v): how far the value may lie above the optimum (0 up to rounding when converged).
        infeasibility: max(0, max_ij(u_i + v_j - C_ij)).
        reason: why it did not converge; "" when it did.
    """

    value: float
    plan: np.ndarray | None
    potentials: tuple[np.ndarray, np.ndarray]
    marginal_error: float
    converged: bool
    iterations: int | None = None
    duality_gap: float = 0.0
    infeasibility: float = 0.0
    reason: str = ""


def memory_limit() -> int:
    """Bytes that one problem may take: 70 % of the memory of this machine, or of the control group (container) around this process."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 16 * 2**30
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:  # no such control group on this system
            continue
        if text.isdigit():
            total = min(total, int(text))
    return int(total * MEMORY_SHARE)


def check_memory(needed: int, where: str, what: str, *, limit: int | None = None, fix: str = "") -> None:
    """Refuses work that would not fit, before it starts.

    Args:
        needed: bytes that the work is predicted to take.
        where: who asks, for the message ("otdd").
        what: the work in words ("exact transport of 9000 x 9000 images").
        limit: bytes allowed; by default :func:`memory_limit`.
        fix: the remedy.

    Raises:
        ResourceError: SK301 with both numbers.
    """
    limit = memory_limit() if limit is None else limit
    if needed > limit:
        message = f"{what} needs about {needed / 2**30:.2f} GiB of memory, the limit is {limit / 2**30:.2f} GiB"
        raise ResourceError("SK301", where, message, fix or "use fewer images, or a machine with more memory")


def exact_transport_memory(n: int, m: int) -> int:
    """Predicted peak memory of :func:`exact_transport` in bytes, its cost matrix included."""
    return BYTES_PER_ENTRY * n * m


def exact_transport_seconds(n: int, m: int) -> float:
    """Rough time of :func:`exact_transport` on one core in seconds: 11 s at 5000 x 5000, growing as (n m)^1.25 (measured)."""
    return float(11.0 * (n * m / 5000**2) ** 1.25)


def exact_transport(
    cost: np.ndarray, source_weights: np.ndarray | None = None, target_weights: np.ndarray | None = None, *, keep_plan: bool = False,
    max_iterations: int = 100_000_000, limit: int | None = None,
) -> Transport:
    """Exact optimal transport on a dense cost by POT's network simplex (Bonneel et al. 2011).

    Cost: about O((n m)^1.25) time (0.3 s at n = m = 1000, 11 s at 5000, one core) and up to 48 n m bytes.

    Args:
        cost: (n, m), finite. Its scale does not matter: it is brought near 1 by a power of two, because the solver's pivoting rule has an absolute
            tolerance (costs of size 1e-12 were solved 3e-6 too high without it).
        source_weights: (n,) >= 0; uniform by default. Both weights are scaled to mass 1.
        target_weights: (m,) >= 0; uniform by default.
        keep_plan: return the plan (8 n m bytes) with the result.
        max_iterations: pivots after which the solver stops; the result then says ``converged=False`` with the reason.
        limit: bytes allowed; by default 70 % of this machine's memory.

    Raises:
        ResourceError: the problem would not fit (SK301).
        UsageError: the cost is not finite, or weights have a wrong length, are negative or sum to 0.
    """
    cost = np.ascontiguousarray(cost, dtype=np.float64)
    if cost.ndim != 2 or not cost.size or not np.isfinite(cost).all():
        raise UsageError("SK102", "transport", f"the cost has shape {cost.shape} or holds NaN or infinite values", "give a finite matrix (n, m)")
    n, m = cost.shape
    check_memory(exact_transport_memory(n, m), "transport", f"exact transport of {n} x {m} points", limit=limit)
    a, b = _weights(source_weights, n, "source"), _weights(target_weights, m, "target")
    largest = float(np.abs(cost).max())
    scale = 1.0 if largest == 0 or 2.0**-10 <= largest <= 2.0**20 else 2.0 ** -np.frexp(largest)[1]
    import ot

    with warnings.catch_warnings():  # the reason is read from the result instead
        warnings.simplefilter("ignore")
        plan, log = ot.emd(a, b, cost if scale == 1.0 else cost * scale, numItermax=max_iterations, log=True)
    u, v = log["u"] / scale, log["v"] / scale
    value = float(np.vdot(plan, cost))
    error = float(np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum())
    reason = log["warning"] or ""
    if not reason and error > MARGINAL_TOLERANCE:
        reason = f"the marginals of the plan are off by {error:.2e} of the mass"
    return Transport(
        value, plan if keep_plan else None, (u, v), error, not reason, None, duality_gap=value - float(a @ u + b @ v),
        infeasibility=_infeasibility(cost, u, v), reason=reason,
    )


def _weights(weights: np.ndarray | None, n: int, role: str) -> np.ndarray:
    if weights is None:
        return np.full(n, 1.0 / n)
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (n,) or not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        message = f"{role} weights have shape {weights.shape} for {n} points, or are negative or of mass 0"
        raise UsageError("SK102", "transport", message, "give one weight >= 0 a point")
    return np.asarray(weights / weights.sum())


def _infeasibility(cost: np.ndarray, u: np.ndarray, v: np.ndarray) -> float:
    worst = 0.0
    rows = max(1, 2**20 // cost.shape[1])  # a block of 8 MiB at a time
    for start in range(0, len(cost), rows):
        worst = max(worst, float((u[start : start + rows, None] + v - cost[start : start + rows]).max()))
    return worst


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


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean and covariance of a set of rows, the covariance S as a factor: S = R' R.

    Attributes:
        mean: (d,), float64.
        factor: R, float64 (r, d) with r = rank at most min(n - 1, d); no row at all for a single point.
        trace: tr S, the sum of squares of R.
        count: number of rows n.
    """

    mean: np.ndarray
    factor: np.ndarray
    trace: float
    count: int

    @property
    def is_point(self) -> bool:
        """Whether the rows were all equal, up to the rounding of their mean."""
        return self.trace <= 1e-24 * max(float(self.mean @ self.mean), 1e-276)


def gaussian_of(rows: np.ndarray) -> Gaussian:
    """Mean and covariance factor of rows (n, d), with the unbiased covariance (divisor n - 1); one row has covariance 0.

    For n - 1 <= d the factor is the n - 1 Helmert contrasts of the rows, sqrt(i / (i + 1)) (x_i - mean of the rows before), whose Gram matrix
    is the centred scatter: full rank, with no eigenproblem. For more rows it is sqrt(w) V' of the eigenvalues w > eps d max(w). Cost: O(n d), or O(n d² + d³).
    """
    x = np.asarray(rows, dtype=np.float64)
    n, d = x.shape
    mean = x.mean(0)
    centred = x - mean
    if n == 1:
        return Gaussian(mean, np.empty((0, d)), 0.0, 1)
    if n - 1 <= d:
        i = np.arange(1, n)[:, None]
        factor = (centred[1:] - np.cumsum(centred, axis=0)[:-1] / i) * np.sqrt(i / ((i + 1.0) * (n - 1)))
    else:
        values, vectors = np.linalg.eigh(centred.T @ centred / (n - 1))
        kept = values > values[-1] * d * np.finfo(float).eps
        factor = np.ascontiguousarray((vectors[:, kept] * np.sqrt(values[kept])).T)
    return Gaussian(mean, factor, float(np.vdot(factor, factor)), n)


def nuclear_norm(matrix: np.ndarray, *, tolerance: float = 1e-10) -> float:
    """Sum of singular values.

    From the eigenvalues of the smaller Gram matrix, which is two to three times faster than the singular values; their rounding error
    (about eps times the largest, so its square root in each small singular value) is bounded, and where it exceeds ``tolerance``
    times the sum (rank-deficient matrices) the singular values are computed instead.
    """
    if not matrix.size:
        return 0.0
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    if len(matrix) == 1:
        return float(np.linalg.norm(matrix))
    values = np.linalg.eigvalsh(matrix @ matrix.T)
    noise = np.finfo(float).eps * max(float(values[-1]), 0.0) * np.sqrt(len(values))
    singular = np.sqrt(np.maximum(values, 0.0))
    total = float(singular.sum())
    error = np.where(singular**2 > noise, noise / (2 * np.maximum(singular, 1e-300)), np.sqrt(noise)).sum()
    if error <= tolerance * total:
        return total
    return float(np.linalg.svd(matrix, compute_uv=False).sum())


def _covariance_part(cross: np.ndarray, first: Gaussian, second: Gaussian) -> float:
    total = first.trace + second.trace
    value = total - 2.0 * nuclear_norm(cross)
    assert value >= -1e-8 * total, f"squared distance of covariances is {value}, of a trace of {total}"
    return max(0.0, value)


def _before(first: Gaussian, second: Gaussian) -> bool:
    return (first.factor.shape[0], first.trace) <= (second.factor.shape[0], second.trace)


def gaussian_distance(first: Gaussian, second: Gaussian) -> tuple[float, float]:
    """Squared 2-Wasserstein distance of two Gaussians, as (mean part, covariance part).

    |m1 - m2|² and tr S1 + tr S2 - 2 |R1 R2'|_* (nuclear norm): tr (S1^½ S2 S1^½)^½ is the sum of singular values of R1 R2' for any factors with
    R' R = S, so no matrix square root is needed and singular covariances are exact (Dowson and Landau 1982; Gelbrich 1990).
    Equal arguments give exactly (0, 0); the order of the arguments does not matter to the last bit.
    """
    gap = first.mean - second.mean
    mean_part = float(gap @ gap)
    if first.factor is second.factor or np.array_equal(first.factor, second.factor):
        return mean_part, 0.0
    if not _before(first, second):
        first, second = second, first
    return mean_part, _covariance_part(first.factor @ second.factor.T, first, second)


def gaussian_distances(source: Sequence[Gaussian], target: Sequence[Gaussian]) -> np.ndarray:
    """Squared 2-Wasserstein distances (mean plus covariance part) of all pairs, float64 (k, l). See :func:`gaussian_distance`."""
    return np.array([[sum(gaussian_distance(s, t)) for t in target] for s in source])
