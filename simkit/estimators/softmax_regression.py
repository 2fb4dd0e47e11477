"""Logistic regression with a ridge penalty, all classes at once: what a linear probe over many classes and features needs.

Minimised by limited-memory BFGS. Its first guess of the inverse Hessian is the inverse of (a_c X'X / n + ridge), a_c the mean curvature p (1 - p) of class c
at the present probabilities: so features that are strongly correlated or of little spread cost no more steps than others. A step costs two products with the
rows, one for the logits along the direction, on which the line search runs, and one for the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simkit.transport.interruption import go_on

__all__ = ["RowBasis", "SoftmaxFit", "exact_size", "fit_softmax", "row_basis"]

EXACT_SIZE = 2**22
"""Numbers in the training rows up to which everything is computed in float64; beyond, products are in float32."""

TOLERANCE, LARGE_TOLERANCE = 1e-8, 1e-4
"""Newton decrement (about twice the distance to the optimal mean loss) at which a fit counts as converged, in float64 and in float32. The first leaves
log-odds right to about 1e-4, the second the mean loss right to 5e-5, which AUC and accuracy hardly feel."""

MAX_STEPS, MEMORY, MAX_TRIALS = 500, 20, 20

ROTATE_BELOW = 8
"""Rows for each feature below which rows are turned into their own directions first: products with the eigenvectors in each step cost more than that."""


@dataclass(frozen=True, eq=False)
class RowBasis:
    """Eigenvectors of X'X / n, (d, d), and its eigenvalues (d,), for the first guess of the inverse Hessian; it moves no solution."""

    vectors: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class SoftmaxFit:
    """A minimum.

    Attributes:
        coefficients: W, (d, K) for K columns of targets.
        intercepts: (K,), not penalised.
        steps: of the solver.
        decrement: estimate of the Newton decrement at the end, about twice the distance to the optimal mean loss.
        converged: whether it is within tolerance.
    """

    coefficients: np.ndarray
    intercepts: np.ndarray
    steps: int
    decrement: float
    converged: bool

    def logits(self, rows: np.ndarray) -> np.ndarray:
        """Scores of rows (m, d), float64 (m, K)."""
        return np.asarray((rows @ self.coefficients.astype(rows.dtype)).astype(np.float64) + self.intercepts)


def exact_size(rows: np.ndarray) -> bool:
    """Whether rows are few enough for float64 throughout."""
    return bool(rows.size <= EXACT_SIZE)


def row_basis(rows: np.ndarray) -> RowBasis:
    """The eigenvectors of X'X / n, in the type of the rows."""
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    return RowBasis(vectors, np.maximum(values, 0.0).astype(np.float64))


def fit_softmax(
    rows: np.ndarray, targets: np.ndarray, penalty: float, *, exclusive: bool, basis: RowBasis | None = None, tolerance: float | None = None,
) -> SoftmaxFit:
    """Minimises sum_i loss(x_i W + b, y_i) + penalty / 2 |W|², the problem of scikit-learn's LogisticRegression with C = 1 / penalty.

    Args:
        rows: X (n, d), float32 or float64, centred; products are in its type.
        targets: Y (n, K) of 0 and 1.
        penalty: > 0.
        exclusive: True: each row of Y has a single 1, and the loss is that of the softmax of K >= 2 columns; False: K logistic regressions.
        basis: of the rows or of rows like them; by default made from the rows. Not used where n < 8 d.
        tolerance: Newton decrement to stop at; by default 1e-8 in float64, 1e-4 in float32.
    """
    n, d = rows.shape
    goal = tolerance if tolerance is not None else (TOLERANCE if rows.dtype == np.float64 else LARGE_TOLERANCE)
    if n >= ROTATE_BELOW * d:
        return _minimised(rows, targets, penalty, exclusive, basis or row_basis(rows), goal)
    # in the directions of the rows the first guess is diagonal; of fewer rows than features there are n of them, and the solution is a combination of rows
    gram = (rows @ rows.T if n < d else rows.T @ rows).astype(np.float64)
    values, vectors = np.linalg.eigh(gram)
    kept = values > d * np.finfo(rows.dtype).eps * max(float(values[-1]), 1e-300)
    lengths = np.sqrt(values[kept])
    if n < d:
        coordinates, back = (vectors[:, kept] * lengths).astype(rows.dtype), rows.T @ (vectors[:, kept] / lengths).astype(rows.dtype)
    else:
        back = vectors[:, kept].astype(rows.dtype)
        coordinates = rows @ back
    found = _minimised(coordinates, targets, penalty, exclusive, RowBasis(np.zeros((0, 0)), values[kept] / n), goal)
    return SoftmaxFit(back @ found.coefficients.astype(rows.dtype), found.intercepts, found.steps, found.decrement, found.converged)


def _minimised(rows: np.ndarray, targets: np.ndarray, penalty: float, exclusive: bool, basis: RowBasis, goal: float) -> SoftmaxFit:
    problem = _Problem(rows, targets.astype(rows.dtype), penalty / len(rows), exclusive, basis)
    weights = np.zeros((rows.shape[1] + 1, targets.shape[1]))  # the last row: intercepts
    logits = np.zeros(targets.shape, rows.dtype)
    pairs: list[tuple[np.ndarray, np.ndarray, float]] = []
    residual, curvature = problem.residual(logits)
    gradient = problem.gradient(residual, weights)
    decrement, step, stuck = np.inf, 0, False
    for step in range(MAX_STEPS + 1):
        go_on()
        plain = problem.whitened(gradient, curvature)
        decrement = float((gradient * plain).sum())
        if decrement <= goal or step == MAX_STEPS or stuck:
            break
        direction = -_two_loops(gradient, pairs, curvature, problem)
        move = problem.product(direction)
        length = problem.step_length(logits, move, weights, direction, float((gradient * direction).sum()))
        stuck = length == 0.0  # rounding leaves nothing to gain
        weights += length * direction
        logits += np.asarray(length, rows.dtype) * move
        residual, curvature = problem.residual(logits)
        old, gradient = gradient, problem.gradient(residual, weights)
        change, along = gradient - old, length * direction
        product = float((change * along).sum())
        if product > 1e-12 * float(np.linalg.norm(change)) * float(np.linalg.norm(along)):
            pairs = [*pairs[-MEMORY + 1:], (along, change, 1.0 / product)]
    intercepts = weights[-1] - weights[-1].mean() if exclusive else weights[-1]  # the softmax does not feel a common shift
    return SoftmaxFit(weights[:-1], intercepts, step, decrement, decrement <= goal)


def _two_loops(gradient: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray, float]], curvature: np.ndarray, problem: _Problem) -> np.ndarray:
    """The inverse Hessian, as the pairs of steps and changes of the gradient know it, times the gradient (Nocedal and Wright, algorithm 7.4)."""
    left, shares = gradient.copy(), []
    for along, change, inverse in reversed(pairs):
        share = inverse * float((along * left).sum())
        left -= share * change
        shares.append(share)
    out = problem.whitened(left, curvature)
    if pairs:  # as long as the last step says (equation 7.20)
        _, change, inverse = pairs[-1]
        out /= inverse * float((change * problem.whitened(change, curvature)).sum())
    for (along, change, inverse), share in zip(pairs, reversed(shares), strict=True):
        out += (share - inverse * float((change * out).sum())) * along
    return out


class _Problem:
    """Mean loss and ridge, as the operators that the solver needs."""

    def __init__(self, rows: np.ndarray, targets: np.ndarray, ridge: float, exclusive: bool, basis: RowBasis) -> None:
        self.rows, self.targets, self.ridge, self.exclusive, self.basis = rows, targets, ridge, exclusive, basis
        self.floor = 0.3 / targets.shape[1] if exclusive else 0.05  # of the curvature: below, the first guess promises too long steps

    def product(self, weights: np.ndarray) -> np.ndarray:
        """Logits, (n, K)."""
        small = weights.astype(self.rows.dtype)
        return np.asarray(self.rows @ small[:-1] + small[-1])

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Of each column, (n, K)."""
        if not self.exclusive:
            return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))
        out: np.ndarray = logits - logits.max(1, keepdims=True)
        np.exp(out, out=out)
        out /= out.sum(1, keepdims=True)
        return out

    def residual(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(probabilities less targets; mean curvature p (1 - p) of each column, or the floor)."""
        p = self.probabilities(logits)
        curvature = (p.sum(0, dtype=np.float64) - np.einsum("ij,ij->j", p, p, dtype=np.float64)) / len(p)
        p -= self.targets
        return p, np.maximum(curvature, self.floor)

    def gradient(self, residual: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(d + 1, K), float64."""
        out = np.empty_like(weights)
        out[:-1] = (self.rows.T @ residual) / np.asarray(len(self.rows), self.rows.dtype)
        out[:-1] += self.ridge * weights[:-1]
        out[-1] = residual.mean(0, dtype=np.float64)
        return out

    def whitened(self, gradient: np.ndarray, curvature: np.ndarray) -> np.ndarray:
        """(a_c X'X / n + ridge)^-1 times the gradient of each column."""
        scale = 1.0 / (np.outer(self.basis.values, curvature) + self.ridge)
        out = np.empty_like(gradient)
        vectors = self.basis.vectors
        if vectors.size:
            out[:-1] = vectors @ (scale * (vectors.T @ gradient[:-1].astype(vectors.dtype))).astype(vectors.dtype)
        else:
            out[:-1] = scale * gradient[:-1]
        out[-1] = gradient[-1] / curvature
        return out

    def slope(self, logits: np.ndarray, move: np.ndarray) -> float:
        """Of the mean loss along ``move``."""
        p = self.probabilities(logits)
        p -= self.targets
        return float(np.einsum("ij,ij->", p, move, dtype=np.float64)) / len(move)

    def step_length(self, logits: np.ndarray, move: np.ndarray, weights: np.ndarray, direction: np.ndarray, start: float) -> float:
        """A length at which the slope is at most half of what it is at 0, from secants in a bracket: the objective is convex.

        Args:
            logits: at length 0.
            move: their change by a whole step.
            weights, direction: (d + 1, K), the intercepts last.
            start: slope at length 0, < 0; 0 is returned where rounding has made it none.
        """
        if start >= 0.0:
            return 0.0
        linear, square = float((weights[:-1] * direction[:-1]).sum()), float((direction[:-1] ** 2).sum())
        low, low_slope, high, high_slope, length = 0.0, start, np.inf, 0.0, 1.0
        for _ in range(MAX_TRIALS):
            now = self.slope(logits + np.asarray(length, logits.dtype) * move, move) + self.ridge * (linear + length * square)
            if abs(now) <= 0.5 * abs(start):
                return length
            if now < 0.0:
                low, low_slope = length, now
            else:
                high, high_slope = length, now
            if np.isinf(high):
                length *= 3.0
            else:
                secant = low - low_slope * (high - low) / (high_slope - low_slope)
                length = min(max(secant, low + 0.05 * (high - low)), high - 0.05 * (high - low))
        return low
