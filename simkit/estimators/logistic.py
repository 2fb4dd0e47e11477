"""Logistic regression with a ridge penalty, many problems on the same rows at once: what a cross-validated penalty search needs.

A search fits folds x penalties problems that differ only in row weights and penalty. They are solved together by Newton's method with
preconditioned conjugate gradients, so that the work is matrix products with one column per problem, in the coordinates of the principal axes of
the rows (at most min(n, d) of them, an exact reduction), where the preconditioner is diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Axes", "LogisticFits", "balanced_weights", "fit_logistic", "principal_axes"]

TOLERANCE = 1e-12
"""Newton decrement (twice the distance to the optimal mean loss) at which a problem counts as solved."""

MAX_NEWTON, MAX_CONJUGATE, MAX_HALVINGS = 60, 60, 40


@dataclass(frozen=True, eq=False)
class Axes:
    """Standardised rows in the coordinates of their principal axes.

    Attributes:
        train: (n, r) coordinates of the training rows.
        test: (m, r) coordinates of other rows, standardised with the training rows' mean and spread.
        scatter: (r,) sum of squares of the training rows along each axis.
    """

    train: np.ndarray
    test: np.ndarray
    scatter: np.ndarray


def balanced_weights(side: np.ndarray) -> np.ndarray:
    """Weight per row, float64 (n,), such that each of the two sides (0 and 1) has mass 1/2."""
    ones = side == 1
    return np.asarray(np.where(ones, 0.5 / ones.sum(), 0.5 / (~ones).sum()))


def principal_axes(train: np.ndarray, test: np.ndarray, weights: np.ndarray) -> Axes:
    """Standardises by the weighted mean and spread of the training rows, then turns onto their principal axes.

    A feature whose spread is below 1e-6 of its size (float32 rounding) is constant and becomes 0. A ridge solution lies in the span
    of the training rows, so dropping all other directions (and those below 1e-12 of the largest scatter) changes nothing.

    Args:
        train: (n, d).
        test: (m, d).
        weights: (n,), of sum 1.
    """
    mean = weights @ train
    centred = train - mean
    spread = np.sqrt(weights @ centred**2)
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-6 * np.abs(mean))
    rows, others = centred * scale, (test - mean) * scale
    if rows.shape[1] <= len(rows):
        scatter, vectors = np.linalg.eigh(rows.T @ rows)
        return Axes(rows @ vectors, others @ vectors, np.maximum(scatter, 0.0))
    scatter, vectors = np.linalg.eigh(rows @ rows.T)
    kept = scatter > 1e-12 * max(float(scatter[-1]), 0.0)
    scatter, vectors = scatter[kept], vectors[:, kept]
    root = np.sqrt(scatter)
    return Axes(vectors * root, others @ (rows.T @ (vectors / root)), scatter)


@dataclass(frozen=True, eq=False)
class LogisticFits:
    """Solutions of C problems.

    Attributes:
        coefficients: (r, C).
        intercepts: (C,), not penalised.
        converged: (C,) bool.
    """

    coefficients: np.ndarray
    intercepts: np.ndarray
    converged: np.ndarray

    def decision(self, rows: np.ndarray) -> np.ndarray:
        """Log-odds of side 1, (n, C)."""
        return np.asarray(rows @ self.coefficients + self.intercepts)


def fit_logistic(rows: np.ndarray, side: np.ndarray, weights: np.ndarray, penalties: np.ndarray, scatter: np.ndarray) -> LogisticFits:
    """Minimises, for each column c, sum_i S_ic log(1 + exp(-+ f_i)) + penalty_c / 2 |w|², with f = rows w + b.

    Args:
        rows: (n, r).
        side: (n,) of 0 and 1.
        weights: S, (n, C) >= 0, each column of sum 1; 0 leaves a row out.
        penalties: (C,) > 0.
        scatter: (r,) diagonal of ``rows.T @ rows`` (which is diagonal on principal axes): the preconditioner.
    """
    r, columns = rows.shape[1], weights.shape[1]
    w, b, converged = np.zeros((r, columns)), np.zeros(columns), np.zeros(columns, dtype=bool)
    f = np.zeros(weights.shape)
    active = np.arange(columns)
    for _ in range(MAX_NEWTON):
        s, ridge = weights[:, active], penalties[active]
        p = _sigmoid(f[:, active])
        residual = s * (p - side[:, None])
        gradient = np.vstack([rows.T @ residual + ridge * w[:, active], residual.sum(0)])
        curvature = s * p * (1.0 - p)
        mass = curvature.sum(0) + 1e-300
        inverse = 1.0 / np.vstack([np.outer(scatter / len(rows), mass) + ridge, mass])
        decrement = (gradient**2 * inverse).sum(0)
        done = decrement <= TOLERANCE
        converged[active[done]] = True
        left = ~done
        active = active[left]
        if not len(active):
            break
        step = _newton_step(rows, curvature[:, left], ridge[left], gradient[:, left], inverse[:, left])
        move = rows @ step[:-1] + step[-1]
        length = _step_lengths(f[:, active], move, side, s[:, left], w[:, active], step, ridge[left], (gradient[:, left] * step).sum(0))
        w[:, active] += length * step[:-1]
        b[active] += length * step[-1]
        f[:, active] += length * move
    return LogisticFits(w, b, converged)


def _sigmoid(f: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * f)))


def _newton_step(rows: np.ndarray, curvature: np.ndarray, ridge: np.ndarray, gradient: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Solves H step = -gradient for every column by preconditioned conjugate gradients, to a tenth of the gradient or better near the end."""
    step = np.zeros_like(gradient)
    residual = -gradient
    z = inverse * residual
    direction = z
    size = (residual * z).sum(0)
    goal = size * np.minimum(0.01, size)
    for _ in range(MAX_CONJUGATE):
        moved = curvature * (rows @ direction[:-1] + direction[-1])
        product = np.vstack([rows.T @ moved + ridge * direction[:-1], moved.sum(0)])
        bend = (direction * product).sum(0)
        open_ = (size > goal) & (bend > 0)
        if not open_.any():
            break
        alpha = np.where(open_, size / np.where(open_, bend, 1.0), 0.0)
        step = step + alpha * direction
        residual = residual - alpha * product
        z = inverse * residual
        new = (residual * z).sum(0)
        direction = z + np.where(open_, new / np.where(open_, size, 1.0), 0.0) * direction
        size = np.where(open_, new, size)
    return step


def _step_lengths(
    f: np.ndarray, move: np.ndarray, side: np.ndarray, s: np.ndarray, w: np.ndarray, step: np.ndarray, ridge: np.ndarray, slope: np.ndarray,
) -> np.ndarray:
    """Per column the first of 1, 1/2, 1/4 ... that lowers the objective enough (Armijo); 0 when rounding leaves nothing to gain."""
    base, linear, square = (w**2).sum(0), (w * step[:-1]).sum(0), (step[:-1] ** 2).sum(0)

    def objective(length: np.ndarray) -> np.ndarray:
        g = f + length * move
        loss = np.maximum(g, 0.0) + np.log1p(np.exp(-np.abs(g))) - side[:, None] * g
        return np.asarray((s * loss).sum(0) + 0.5 * ridge * (base + 2 * length * linear + length**2 * square))

    length = np.ones(f.shape[1])
    start = objective(np.zeros_like(length))
    for _ in range(MAX_HALVINGS):
        worse = objective(length) > start + 1e-4 * length * slope + 1e-15
        if not worse.any():
            return length
        length = np.where(worse, 0.5 * length, length)
    return np.where(worse, 0.0, length)
