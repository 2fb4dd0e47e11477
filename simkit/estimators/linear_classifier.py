"""Linear classifiers with a ridge penalty, many problems on the same rows at once: what a cross-validated penalty search needs.

A search fits folds x penalties problems that differ only in row weights and penalty. They are solved together by Newton's method with
preconditioned conjugate gradients. A solution is a combination of the rows, w = X'a, so the unknowns are a (one number a row) and the intercept, and
each step of the conjugate gradients is one product with the Gram matrix K = X X', in float32, one column a problem. Where a solution has to be
exact, the gradient at each Newton step is taken in float64 from the features themselves, and float32 only shapes the step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["LOGISTIC", "SQUARED_HINGE", "Features", "Fits", "Loss", "TrainingRows", "balanced_weights", "fit_linear"]

SEARCH_TOLERANCE = 1e-6
"""Newton decrement (about twice the distance to the optimal mean loss) at which a problem of the penalty search counts as solved: log-odds are then
right to about 1e-3, and held-out losses, which differ by far more between penalties a factor of ten apart, to less. The AUC is not touched by it: the
classifier that is tested is solved anew, to :data:`TOLERANCE`, at the penalty that was chosen."""

TOLERANCE = 1e-15
"""Newton decrement at which the classifier that is tested counts as solved: its scores are then right to about 3e-8 of their spread."""

MAX_NEWTON, MAX_CONJUGATE, MAX_HALVINGS = 60, 80, 40

DIRECTIONS = 32
"""Leading directions of the rows that the preconditioner knows."""


@dataclass(frozen=True)
class Loss:
    """A convex loss of the margin m = +-f, by itself and with its first and second derivative.

    Attributes:
        value, slope, bend: functions of an array of margins.
        name: in words.
    """

    name: str
    value: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]
    bend: Callable[[np.ndarray], np.ndarray]


def _upper(m: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(m)), without overflow."""
    return np.asarray(0.5 * (1.0 - np.tanh(0.5 * m)))


LOGISTIC = Loss(
    "logistic regression", lambda m: np.maximum(-m, 0.0) + np.log1p(np.exp(-np.abs(m))), lambda m: -_upper(m), lambda m: _upper(m) * (1.0 - _upper(m)),
)
"""log(1 + exp(-m))"""

SQUARED_HINGE = Loss(
    "support vector machine", lambda m: np.maximum(1.0 - m, 0.0) ** 2, lambda m: -2.0 * np.maximum(1.0 - m, 0.0), lambda m: 2.0 * (m < 1.0).astype(m.dtype),
)
"""max(0, 1 - m)², the loss of scikit-learn's LinearSVC; it bends by 2 inside the margin and not at all outside."""


def balanced_weights(side: np.ndarray) -> np.ndarray:
    """Weight per row, float64 (n,), such that each of the two sides (0 and 1) has mass 1/2."""
    ones = side == 1
    return np.asarray(np.where(ones, 0.5 / ones.sum(), 0.5 / (~ones).sum()))


class Features:
    """All rows of a pair in float64 about their common mean, from which the rows of each training fold are taken.

    Attributes:
        rows: (N, d) float64, less the centre.
        centre: (d,) mean of all rows.
    """

    def __init__(self, x: np.ndarray) -> None:
        rows = x.astype(np.float64)
        self.centre = rows.mean(0)
        rows -= self.centre
        self.rows = rows

    def moments(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mean, scale), (d,) each, of weighted rows; scale is 1 / spread, or 0 for a constant feature.

        A feature whose spread is below 1e-6 of its size (float32 rounding) is constant.

        Args:
            weights: (N,) >= 0, of sum 1; 0 for rows that are left out.
        """
        used = weights > 0
        rows, w = self.rows[used], weights[used]
        mean = w @ rows
        rows -= mean
        spread = np.sqrt(w @ np.square(rows, out=rows))
        size = np.maximum(1e-6 * np.abs(mean + self.centre), 1e-12 * np.abs(self.centre))  # the second: what is left of 0 - centre - mean
        scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > size)
        return mean, scale


class TrainingRows:
    """Standardised training rows X (n, d), as the operators that the solver needs.

    Args:
        features: all rows.
        train: (N,) bool, the rows of the training fold.
        weights: (n,) of the training rows, of sum 1; mean and spread are weighted with them.
    """

    def __init__(self, features: Features, train: np.ndarray, weights: np.ndarray) -> None:
        self.features, self.train = features, np.flatnonzero(train)
        spread = np.zeros(len(features.rows))
        spread[self.train] = weights
        self.mean, self.scale = features.moments(spread)
        rows = features.rows[self.train]
        rows -= self.mean
        rows *= self.scale
        self.rows = rows.astype(np.float32)
        n, d = self.rows.shape
        self.gram = self.rows @ self.rows.T if n <= 2 * d else None  # below this size one product with it is less work than two with the rows
        self.basis = _leading_directions(self.product, n)

    def product(self, a: np.ndarray) -> np.ndarray:
        """K a in float32, (n, C)."""
        return np.asarray(self.gram @ a if self.gram is not None else self.rows @ (self.rows.T @ a))

    def everywhere(self, a: np.ndarray) -> np.ndarray:
        """X* X' a in float64, (N, C), where X* are all rows, standardised as the training rows are."""
        padded = np.zeros((len(self.features.rows), a.shape[1]))
        padded[self.train] = a
        w = self.scale[:, None] ** 2 * (self.features.rows.T @ padded - np.outer(self.mean, a.sum(0)))
        return np.asarray(self.features.rows @ w - self.mean @ w)

    def exactly(self, a: np.ndarray) -> np.ndarray:
        """K a in float64, (n, C)."""
        return np.asarray(self.everywhere(a)[self.train])


@dataclass(frozen=True, eq=False)
class Basis:
    """Leading directions of the Gram matrix, for the preconditioner.

    Attributes:
        vectors: U (n, q) float32.
        images: K U.
        values: (q,) diagonal of U' K U (which is diagonal), > 0.
        rest: the smallest of them, taken for all that they leave out.
    """

    vectors: np.ndarray
    images: np.ndarray
    values: np.ndarray
    rest: float


def _leading_directions(product: Callable[[np.ndarray], np.ndarray], n: int) -> Basis:
    """Ritz vectors of a random subspace after two iterations (Halko et al. 2011, algorithm 4.4), always the same random numbers."""
    q = min(n, DIRECTIONS)
    vectors = np.random.default_rng(0).standard_normal((n, q), dtype=np.float32)
    for _ in range(2):
        vectors = np.linalg.qr(product(vectors))[0]
    images = product(vectors)
    values, turn = np.linalg.eigh((vectors.T @ images).astype(np.float64))
    kept = values > 1e-6 * max(float(values[-1]), 1e-30)
    values, turn32 = values[kept], turn[:, kept].astype(np.float32)
    return Basis(vectors @ turn32, images @ turn32, values.astype(np.float32), float(values[0]) if len(values) else 0.0)


@dataclass(frozen=True, eq=False)
class Fits:
    """Solutions of C problems.

    Attributes:
        coefficients: a (n, C), of the training rows: w = X'a.
        intercepts: (C,), not penalised.
        decision: f = K a + b at the training rows, (n, C).
        converged: (C,) bool.
    """

    coefficients: np.ndarray
    intercepts: np.ndarray
    decision: np.ndarray
    converged: np.ndarray


def fit_linear(
    rows: TrainingRows, side: np.ndarray, weights: np.ndarray, penalties: np.ndarray, loss: Loss, *, exact: bool = False,
    start: tuple[np.ndarray, np.ndarray] | None = None,
) -> Fits:
    """Minimises, for each column c, sum_i S_ic loss(+- f_i) + penalty_c / 2 |w|², with f = X w + b.

    Args:
        rows: X, n training rows.
        side: (n,) of 0 and 1.
        weights: S, (n, C) >= 0, each column of sum 1; 0 leaves a row out.
        penalties: (C,) > 0.
        loss: of the margin.
        exact: gradients in float64 and to :data:`TOLERANCE`; otherwise float32 and :data:`SEARCH_TOLERANCE`.
        start: coefficients (n, C) and intercepts (C,) to start from; by default 0.
    """
    dtype: Any = np.float64 if exact else np.float32
    product, tolerance = (rows.exactly, TOLERANCE) if exact else (rows.product, SEARCH_TOLERANCE)
    y = np.where(side == 1, 1.0, -1.0).astype(dtype)[:, None]
    weights, ridges = weights.astype(dtype), penalties.astype(dtype)
    columns = weights.shape[1]
    a, b = (np.zeros(weights.shape, dtype), np.zeros(columns, dtype)) if start is None else (start[0].astype(dtype), start[1].astype(dtype))
    f = b + product(a) if start is not None else np.zeros(weights.shape, dtype)
    converged = np.zeros(columns, dtype=bool)
    active = np.arange(columns)
    for _ in range(MAX_NEWTON):
        s, ridge = weights[:, active], ridges[active]
        margin = y * f[:, active]
        pull = -s * y * loss.slope(margin)
        residual = _Vector(pull - ridge * a[:, active], product(pull) - ridge * (f[:, active] - b[active]), pull.sum(0))
        system = _System(rows, s * loss.bend(margin), ridge)
        done = system.decrement(residual) <= tolerance
        converged[active[done]] = True
        left = ~done
        active = active[left]
        if not len(active):
            break
        residual, margin = residual.narrowed(left), margin[:, left]
        step = system.narrowed(left).solve(residual, 0.1 * tolerance)
        move = step.image + step.intercept
        parts = (a[:, active] * (f[:, active] - b[active])).sum(0), (a[:, active] * step.image).sum(0), (step.a * step.image).sum(0)
        length = _step_lengths(margin, y * move, s[:, left], ridge[left], parts, -residual.times(step), loss)
        a[:, active] += length * step.a
        b[active] += length * step.intercept
        f[:, active] = b[active] + product(a[:, active]) if exact else f[:, active] + length * move
    return Fits(a, b, f, converged)


@dataclass(frozen=True, eq=False)
class _Vector:
    """A direction of C problems: w = X'a and the intercept; with the inner product w'w + b b.

    Its image K a is kept beside a, because a product of a with K in float32 would drown in what of a has no image.

    Attributes:
        a: (n, C).
        image: K a.
        intercept: (C,).
    """

    a: np.ndarray
    image: np.ndarray
    intercept: np.ndarray

    def narrowed(self, left: np.ndarray) -> _Vector:
        """Some of the columns."""
        return self if left.all() else _Vector(self.a[:, left], self.image[:, left], self.intercept[left])

    def times(self, other: _Vector) -> np.ndarray:
        """Inner products, (C,)."""
        return np.asarray(np.einsum("ij,ij->j", self.image, other.a) + self.intercept * other.intercept)

    def plus(self, factor: np.ndarray, other: _Vector) -> _Vector:
        """self + factor * other, a factor a column."""
        return _Vector(self.a + factor * other.a, self.image + factor * other.image, self.intercept + factor * other.intercept)


class _System:
    """The Newton systems of the active columns, and a preconditioner: as if all rows bent alike, which is diagonal in the leading directions."""

    def __init__(self, rows: TrainingRows, bend: np.ndarray, ridge: np.ndarray) -> None:
        self.rows, self.bend, self.ridge = rows, bend, ridge
        self.mass = np.maximum(bend.sum(0), 1e-30)
        share = self.mass / len(bend)
        self.plain = 1.0 / (share * rows.basis.rest + ridge)
        values = rows.basis.values[:, None]
        self.correction = (1.0 / (share * values + ridge) - self.plain) / values

    def narrowed(self, left: np.ndarray) -> _System:
        """The systems of some of the columns."""
        return self if left.all() else _System(self.rows, self.bend[:, left], self.ridge[left])

    def decrement(self, residual: _Vector) -> np.ndarray:
        """Estimate of the Newton decrement per column."""
        return residual.times(self.whitened(residual))

    def whitened(self, vector: _Vector) -> _Vector:
        """The preconditioner's answer."""
        basis = self.rows.basis
        part = self.correction * (basis.vectors.T @ vector.image)
        return _Vector(self.plain * vector.a + basis.vectors @ part, self.plain * vector.image + basis.images @ part, vector.intercept / self.mass)

    def bent(self, vector: _Vector) -> _Vector:
        """The Hessian's answer: the one product with K of a step."""
        moved = self.bend * (vector.image + vector.intercept)
        return _Vector(moved + self.ridge * vector.a, self.rows.product(moved.astype(np.float32)) + self.ridge * vector.image, moved.sum(0))

    def solve(self, residual: _Vector, enough: float) -> _Vector:
        """The step whose answer is the residual, by preconditioned conjugate gradients.

        To a tenth of the gradient, or better near the end; no further than a decrement of ``enough``.
        """
        system, at = self, np.arange(residual.a.shape[1])
        out = _Vector(np.zeros_like(residual.a), np.zeros_like(residual.a), np.zeros_like(residual.intercept))
        direction = system.whitened(residual)
        size = residual.times(direction)
        goal = np.maximum(size * np.clip(size, 1e-6, 0.01), enough).astype(size.dtype)
        for _ in range(MAX_CONJUGATE):
            open_ = size > goal
            if not open_.any():
                break
            if 4 * open_.sum() <= 3 * len(open_):  # columns that are done are left behind
                system, residual, direction = system.narrowed(open_), residual.narrowed(open_), direction.narrowed(open_)
                at, size, goal, open_ = at[open_], size[open_], goal[open_], open_[open_]
            answer = system.bent(direction)
            bent = direction.times(answer)
            open_ = open_ & (bent > 0)
            alpha = np.where(open_, size / np.where(open_, bent, 1.0), 0.0).astype(size.dtype)
            out.a[:, at] += alpha * direction.a
            out.image[:, at] += alpha * direction.image
            out.intercept[at] += alpha * direction.intercept
            residual = residual.plus(-alpha, answer)
            next_ = system.whitened(residual)
            new = residual.times(next_)
            beta = np.where(open_, new / np.where(open_, size, 1.0), 0.0).astype(size.dtype)
            direction = next_.plus(beta, direction)
            size = np.where(open_, new, np.minimum(size, goal))
        return out


def _step_lengths(
    margin: np.ndarray, move: np.ndarray, s: np.ndarray, ridge: np.ndarray, parts: tuple[np.ndarray, np.ndarray, np.ndarray], slope: np.ndarray, loss: Loss,
) -> np.ndarray:
    """Per column the first of 1, 1/2, 1/4 ... that lowers the objective enough (Armijo); 0 when rounding leaves nothing to gain.

    Args:
        margin: (n, C).
        move: change of the margins by a whole step.
        s: weights of the rows.
        ridge: penalties.
        parts: |w|², w'step and |step|² per column.
        slope: of the objective along the step.
        loss: of the margin.
    """
    base, linear, square = parts
    slack = 8.0 * np.finfo(margin.dtype).eps

    def objective(length: np.ndarray) -> np.ndarray:
        return np.asarray((s * loss.value(margin + length * move)).sum(0) + 0.5 * ridge * (base + 2 * length * linear + length**2 * square))

    length = np.ones(margin.shape[1], dtype=margin.dtype)
    start = objective(np.zeros_like(length))
    for _ in range(MAX_HALVINGS):
        worse = objective(length) > start + 1e-4 * length * slope + slack * np.maximum(start, 1.0)
        if not worse.any():
            return length
        length = np.where(worse, 0.5 * length, length)
    return np.where(worse, 0.0, length)
