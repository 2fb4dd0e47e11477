"""Exact optimal transport on a dense cost, with its certificate."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from simkit.errors import UsageError
from simkit.transport.memory import check_memory, reserved

__all__ = ["MARGINAL_TOLERANCE", "Transport", "exact_transport", "exact_transport_memory", "exact_transport_seconds", "point_weights"]

MARGINAL_TOLERANCE = 1e-9
"""Largest L1 error of a plan's marginals (of a total mass of 1) with which the exact solver's result counts as converged."""

GAP_TOLERANCE = 1e-6
"""Largest duality gap, as a share of the value, with which the exact solver's result counts as converged."""

BYTES_PER_ENTRY = 48
"""Peak memory of the exact solver per entry of the cost: two cost matrices (8 each), the solver's arcs and the plan (25 with POT 0.9.7), and reserve."""


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
    a, b = point_weights(source_weights, n, "source"), point_weights(target_weights, m, "target")
    largest = float(np.abs(cost).max())
    scale = 1.0 if largest == 0 or 2.0**-10 <= largest <= 2.0**20 else 2.0 ** -np.frexp(largest)[1]
    import ot

    with reserved(exact_transport_memory(n, m)), warnings.catch_warnings():  # the reason is read from the result instead of a warning
        warnings.simplefilter("ignore")
        plan, log = ot.emd(a, b, cost if scale == 1.0 else cost * scale, numItermax=max_iterations, log=True)
    u, v = log["u"] / scale, log["v"] / scale
    value = float(np.vdot(plan, cost))
    error = float(np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum())
    reason = log["warning"] or ""
    if not reason and error > MARGINAL_TOLERANCE:
        reason = f"the marginals of the plan are off by {error:.2e} of the mass"
    gap = value - float(a @ u + b @ v)
    if not reason and abs(gap) > GAP_TOLERANCE * abs(value) + 8 * np.finfo(float).eps * largest:
        reason = f"the duality gap is {gap:.2e}, of a value of {value:.2e}: a few points so far out that the rest of the cost is lost beside them"
    return Transport(
        value, plan if keep_plan else None, (u, v), error, not reason, None, duality_gap=gap,
        infeasibility=_infeasibility(cost, u, v), reason=reason,
    )


def point_weights(weights: np.ndarray | None, n: int, role: str) -> np.ndarray:
    """Weights of n points, checked and scaled to mass 1; uniform for None."""
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


