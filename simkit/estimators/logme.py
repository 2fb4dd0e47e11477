"""LogME: logarithm of the maximum evidence of a Bayesian linear model that predicts the labels from the features."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from simkit.errors import DataError, NotEnoughData
from simkit.estimators.base import Estimator, Known, NetworkEstimator, Score
from simkit.estimators.decomposition import EXTREME, Rows, Spectrum, basis, class_counts
from simkit.estimators.seen import Seen
from simkit.registry import option

__all__ = ["Evidence", "LogMe", "maximum_evidence"]

STEP = 0.25
"""Of the grid over log(alpha / beta): each term of the evidence bends over about one unit."""

SMALLEST_RESIDUAL = 2.0**-46
"""Share of the labels' square that float32 features cannot tell from no residual at all."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Maximum evidence of each column of labels.

    Attributes:
        values: (m,) logarithm of the evidence, over n.
        alpha: (m,) precision of the weights' prior; infinite where the features do not help at all.
        beta: (m,) precision of the noise; infinite where the labels are met without noise.
        exact: (m,) whether the labels are met but for rounding, though there are more images than directions.
        iterations: evaluations of the evidence.
    """

    values: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    exact: np.ndarray
    iterations: int


@dataclass(frozen=True, eq=False)
class _Profile:
    """The evidence as a function of the ratio r = alpha / beta alone, beta being at its best, n / Q(r)."""

    eigenvalues: np.ndarray
    energies: np.ndarray
    residual: np.ndarray
    n: int

    def of_columns(self, columns: np.ndarray) -> _Profile:
        return _Profile(self.eigenvalues, self.energies[:, columns], self.residual[columns], self.n)

    def misfit(self, ratios: np.ndarray) -> np.ndarray:
        """Q, (g, m): of each column at each ratio."""
        return np.asarray(self.residual + (ratios[:, None] / (self.eigenvalues + ratios[:, None])) @ self.energies)

    def on_grid(self, logs: np.ndarray) -> np.ndarray:
        """Evidence over n, (g, m)."""
        ratios = np.exp(logs)
        width = np.log1p(self.eigenvalues / ratios[:, None]).sum(1)
        return _evidence(width[:, None], self.misfit(ratios), self.n)

    def own_misfit(self, ratios: np.ndarray) -> np.ndarray:
        """Q, (m,): of each column at its own ratio."""
        return np.asarray(self.residual + (self.energies * (ratios / (self.eigenvalues[:, None] + ratios))).sum(0))

    def own(self, logs: np.ndarray) -> np.ndarray:
        """Evidence over n, (m,), of each column at its own ratio."""
        ratios = np.exp(logs)
        return _evidence(np.log1p(self.eigenvalues[:, None] / ratios).sum(0), self.own_misfit(ratios), self.n)

    def rises(self, logs: np.ndarray) -> np.ndarray:
        """(m,) whether the evidence rises with log r there."""
        ratios = np.exp(logs)
        share = self.eigenvalues[:, None] / (self.eigenvalues[:, None] + ratios)
        slope = (self.energies * share * (1.0 - share)).sum(0)
        return np.asarray(share.sum(0) * self.own_misfit(ratios) > self.n * slope)


def _evidence(width: np.ndarray, misfit: np.ndarray, n: int) -> np.ndarray:
    return np.asarray(-0.5 * width / n + 0.5 * np.log(n / misfit) - 0.5 - 0.5 * math.log(2.0 * math.pi))


def maximum_evidence(found: Spectrum, squares: np.ndarray) -> Evidence:
    """The evidence of each column of labels y at its global maximum over alpha and beta.

    With s_j² the eigenvalues of F'F, z_j = (u_j'y)² and r = alpha / beta, maximising over beta leaves a function of r alone,

        log p = -1/2 sum_j log(1 + s_j² / r) + n/2 log(n / Q(r)) - n/2 (1 + log 2 pi),     Q(r) = |y|² - sum_j z_j + sum_j z_j r / (s_j² + r),

    in which the D - k eigenvalues that are zero cancel. It can have several maxima: all that a grid over log r shows are refined by bisection of the
    derivative, and the largest is taken, the limits r -> infinity (features that do not help) and r -> 0 (n independent directions meet the labels without
    noise) included.

    Args:
        found: spectrum of the features with the columns' coordinates.
        squares: (m,) |y|² of each column, above zero.
    """
    n, k = found.shape[0], found.rank
    energies = found.coordinates**2
    residual = np.zeros_like(squares) if k == n else np.maximum(squares - energies.sum(0), 0.0)
    rounding = 2.0**-49 * (energies * (found.eigenvalues.max(initial=0.0) / found.eigenvalues[:, None])).sum(0)  # of the Gram matrix
    smallest = np.maximum(SMALLEST_RESIDUAL * squares, rounding)
    exact = (residual < smallest) & (k < n)
    profile = _Profile(found.eigenvalues, energies, np.where(exact, smallest, residual), n)
    values = _evidence(np.zeros_like(squares), squares, n)  # without features
    alpha, beta = np.full_like(squares, np.inf), n / squares
    if k == 0:
        return Evidence(values, alpha, beta, exact, 0)
    logs = np.arange(math.log(found.eigenvalues[0]) - (30.0 if k == n else 45.0), math.log(found.eigenvalues[-1]) + 28.0, STEP)
    grid = profile.on_grid(logs)
    if k == n:
        mean = (energies / found.eigenvalues[:, None]).sum(0)  # Q(r) / r for r -> 0
        limit = -0.5 * np.log(found.eigenvalues).sum() / n + _evidence(np.zeros_like(squares), mean, n)
        better = limit > values
        values, alpha, beta = np.where(better, limit, values), np.where(better, n / mean, alpha), np.where(better, np.inf, beta)
    peaks, columns = np.nonzero((grid[1:-1] >= grid[:-2]) & (grid[1:-1] > grid[2:]))
    some = profile.of_columns(columns)
    low, high = logs[peaks], logs[peaks + 2]
    halvings = 52 if len(columns) else 0
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        rises = some.rises(middle)
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    best = 0.5 * (low + high)
    found_values, found_beta = some.own(best), n / some.own_misfit(np.exp(best))
    for place, column in enumerate(columns):
        if found_values[place] > values[column]:
            values[column], beta[column] = found_values[place], found_beta[place]
            alpha[column] = math.exp(best[place]) * found_beta[place]
    return Evidence(values, alpha, beta, exact, len(logs) + halvings)


@dataclass(frozen=True)
class LogMe(NetworkEstimator):
    """LogME: how well a linear model on the network's features explains the labels, as the logarithm of its maximum evidence, over n.

    A Bayesian linear regression y = F w + noise with w ~ N(0, I / alpha) and noise variance 1 / beta, of each class's labels written as 0 and 1 (one
    against the rest), of each label column of a multi-label target, or of each column of numbers (``task = regression``); the value is the mean over
    columns of

        (1/n) max_{alpha, beta} log p(y | F; alpha, beta),
        log p = D/2 log alpha + n/2 log beta - 1/2 sum_{j=1..D} log(alpha + beta s_j²) - beta/2 |y - F m|² - alpha/2 m'm - n/2 log 2 pi,

    m the posterior mean, s_j the singular values of F, those that are zero included. (Published code leaves these out of the sum and so is far too high
    where n < D.) Higher promises better transfer; in nats an image, a log density: without bounds, above 0 where the noise is small. Zero means nothing,
    and values are comparable only between networks on the same target. Not changed by a factor or a rotation of the features, or by the order of images.
    Changed by a constant that is added to features, as the model has no intercept, by the scale of one feature against the others, and, in a regression, by
    the unit of the numbers.

    Alpha and beta are at the global maximum (see :func:`maximum_evidence`). Where a class is met without any residual by fewer directions than images the
    evidence has no limit: the residual is then taken as 2^-46 of the labels' square, what float32 features can tell (or as the rounding of the Gram
    matrix, if that is more), and a flag says so.

    The detail holds evidence, alpha and beta of each class or column (None: infinite), iterations, rank, n, d, classes.

    Cost: O(n d min(n, d)) for the Gram matrix, in tiles, and its eigenvalues; the maximum costs little.
    """

    name = "logme"
    several_labels = True
    unit = "nats an image (log evidence / n)"
    formula = "(1/n) max_{α, β} ln p(y | F; α, β), mean over classes (one against the rest)"
    hazards = (
        "Values compare between networks on one target only; zero means nothing.",
        "The model has no intercept: a constant added to features, and the scale of one feature against others, move it.",
        "Published programs leave zero singular values out and are far too high below n = d: their values do not compare with these.",
        "A class that is met without residual has no largest evidence; a limit is put in its place, and flagged.",
    )
    citation = ("You et al. 2021, LogME: practical assessment of pre-trained models for transfer learning (arXiv 2102.11005), eq. 2 and algorithm 1; "
                "You et al. 2022 (arXiv 2110.10545); MacKay 1992, Bayesian interpolation, eq. 5.5")

    task: Literal["classification", "regression"] = option("classification", "whether labels are classes, or numbers to be predicted")

    def missing(self, known: Known, role: Literal["source", "target"]) -> str:
        """As for every measure; numbers that are predicted need not repeat as classes must."""
        return Estimator.missing(self, known, role) if self.task == "regression" else super().missing(known, role)

    def viewed(self, seen: Seen) -> Seen:
        """A regression takes class names as numbers before anything looks at classes.

        Raises:
            DataError: a class whose name is no number.
        """
        if self.task != "regression" or seen.labels is None:
            return seen
        return replace(seen, labels=None, classes=(), values=_numbers(seen))

    def assess(self, seen: Seen, rng: np.random.Generator) -> Score:
        """Mean over classes (columns) of the maximum log evidence, over n; ``rng`` is not used.

        Raises:
            DataError: numbers without ``task = regression``; a regression whose classes are no numbers.
            NotEnoughData: one class only, or numbers that are the same for all images.
        """
        columns, names = self._columns(seen)
        found = seen.once("basis", lambda: basis(Rows.of(seen.features, centred=False, where=seen.target))).spectrum(columns)
        best = maximum_evidence(found, np.einsum("ij,ij->j", columns, columns))
        n, d = found.shape
        detail: dict[str, Any] = {
            "evidence": dict(zip(names, map(float, best.values), strict=True)), "alpha": dict(zip(names, map(_finite, best.alpha), strict=True)),
            "beta": dict(zip(names, map(_finite, best.beta), strict=True)), "iterations": best.iterations, "rank": found.rank, "n": n, "d": d,
            "classes": len(names), "task": self.task,
        }
        return Score(float(best.values.mean()), True, detail, flags=_flags(found, best))

    def _columns(self, seen: Seen) -> tuple[np.ndarray, list[str]]:
        if self.task == "regression":
            values = _numbers(seen)
            if same := [i for i in range(values.shape[1]) if (values[:, i] == values[0, i]).all()]:
                message = f"column {same[0]} of the numbers of {seen.target} is {values[0, same[0]]:g} for all {len(seen)} images: there is nothing to predict"
                raise NotEnoughData("SK501", seen.target, f"{self.name}: {message}", "leave the column out, or give more images")
            return values, [str(i) for i in range(values.shape[1])]
        if seen.values is not None and seen.labels is None and seen.indicators is None:
            raise DataError("SK208", seen.target, f"{self.name}: {seen.target} has numbers to be predicted and no classes", "set task = regression")
        if seen.indicators is None:
            class_counts(self.name, seen)
        elif not ((seen.indicators.any(0)) & ~(seen.indicators.all(0))).any():
            message = f"{self.name}: every label is the same for all {len(seen)} images of {seen.target}"
            raise NotEnoughData("SK501", seen.target, message, "give images with and without a class")
        columns = seen.one_hot
        kept = np.flatnonzero(columns.any(0))
        return columns[:, kept], [seen.classes[int(i)] for i in kept]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _numbers(seen: Seen) -> np.ndarray:
    """The numbers of a regression, (n, k): values, or class names that are all numbers."""
    if seen.values is not None:
        values = np.asarray(seen.values, dtype=np.float64).reshape(len(seen), -1)
        sizes = np.abs(values).max(0)
        if bad := [i for i, size in enumerate(sizes) if not (size == 0.0 or 1.0 / EXTREME < size < EXTREME)]:
            message = f"logme: column {bad[0]} of the numbers of {seen.target} reaches {sizes[bad[0]]:.3g}"
            raise DataError("SK203", seen.target, message, "give finite numbers of a moderate size")
        return values
    if seen.labels is None:
        what = "several labels an image" if seen.indicators is not None else "no labels"
        raise DataError("SK208", seen.target, f"logme: a regression needs numbers, {seen.target} has {what}", "give numbers, or set task = classification")
    numbers = np.zeros(len(seen.classes))
    for place in np.unique(seen.labels):
        name = seen.classes[int(place)]
        try:
            numbers[place] = float(name)
        except ValueError:
            numbers[place] = math.nan
        if not math.isfinite(numbers[place]):
            message = f"logme: a regression needs numbers, and class '{name}' of {seen.target} is none"
            raise DataError("SK203", seen.target, message, "give a label column of numbers, or set task = classification")
    return np.asarray(numbers[seen.labels][:, None])


def _flags(found: Spectrum, best: Evidence) -> tuple[str, ...]:
    (n, d), flags = found.shape, []
    m = len(best.values)
    if n <= d:
        flags.append(f"{n} images for {d} features: the prior decides as much as the images")
    if noiseless := int(np.isinf(best.beta).sum()):
        flags.append(f"{noiseless} of {m} columns are met without noise: {n} images span no more than {n} directions")
    if exact := int(best.exact.sum()):
        flags.append(f"{exact} of {m} columns are met exactly by {found.rank} directions: the value is set by rounding")
    if useless := int(np.isinf(best.alpha).sum()):
        flags.append(f"the features explain nothing of {useless} of {m} columns")
    return tuple(flags)
