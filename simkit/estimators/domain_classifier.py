"""Domain classifier: can a linear classifier tell the two data sets apart? (Classifier two-sample test, proxy A-distance.)"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from simkit.embedding import Embedding, row_digests
from simkit.errors import NotEnoughData, UsageError
from simkit.estimators.base import FeatureEstimator, Score
from simkit.estimators.logistic import balanced_weights, fit_logistic, principal_axes
from simkit.registry import option

__all__ = ["DomainClassifier", "DomainRows", "stratified_folds"]

SMALLEST = 10
"""Fewest images on a side."""

INNER_FOLDS = 3
"""Folds of the search for the penalty, inside each training fold."""


@dataclass(frozen=True, eq=False)
class DomainRows:
    """A data set as the classifier sees it.

    Attributes:
        name: of the data set.
        features: float32 (n, d), rows in the order of their content.
        units: per row, as text, what a fold never splits: the group (patient), or the row's digest where the set has no groups.
        grouped: whether units are groups.
        digest: of the rows, whatever their order.
    """

    name: str
    features: np.ndarray
    units: np.ndarray
    grouped: bool
    digest: str


@dataclass(frozen=True)
class DomainClassifier(FeatureEstimator):
    """How well a cross-validated logistic regression tells source images from target images.

    ``report`` chooses the value, each a mean over folds, on images that the classifier has not seen: ``auc``, area under the ROC curve (0.5: cannot be told
    apart, 1: fully told apart; below 0.5 by chance); ``accuracy``, mean of the two sides' hit rates (0.5 to 1); ``pad``, proxy
    A-distance 2 (1 - 2 error) (0 to 2; below 0 by chance). All three stand in the detail. It saturates: sets that are told apart fully cannot be
    ranked by it. The value rises with n at one and the same shift, so compare values at equal n only.

    Features are standardised and the ridge penalty is chosen by log-loss in 3 inner folds, both inside each training fold. Sides of
    unequal size weigh the same (weights 1/2 per side, as class_weight="balanced"). Folds hold equal shares of both sides,
    keep groups (patients) whole where groups exist, and byte-identical images together where they do not; groups of the
    same name in both sets count as one. Folds follow from the content of the images, so neither seed nor order of rows or of source and target
    moves the value.

    Cost: per fold an eigenproblem of size r = min(n, d) and some hundred products of (n, r) with one column per inner fold and penalty.
    """

    name = "domain-classifier"
    size_biased = True
    bounds = (0.0, 1.0)
    unit = "area under the ROC curve (0.5: cannot be told apart)"
    citation = ("Lopez-Paz and Oquab 2017, Revisiting classifier two-sample tests (arXiv 1610.06545); "
                "Ben-David et al. 2007, Analysis of representations for domain adaptation")

    report: Literal["auc", "accuracy", "pad"] = option("auc", "the value: area under the ROC curve, accuracy, or proxy A-distance")
    folds: int = option(5, "folds of the cross-validation", minimum=2)
    penalties: tuple[float, ...] = option(
        (0.1, 0.01, 0.001, 0.0001, 0.00001), "ridge penalties to choose from, in units of the number of features (mean loss + penalty d / 2 |w|²)", above=0,
    )

    def __post_init__(self) -> None:
        if not self.penalties:
            raise UsageError("SK102", f"{self.name}.penalties", "the list of penalties is empty", "give at least one number > 0")
        if self.report == "accuracy":
            object.__setattr__(self, "unit", "balanced accuracy (0.5: cannot be told apart)")
        elif self.report == "pad":
            object.__setattr__(self, "unit", "proxy A-distance (0: cannot be told apart, 2: fully)")
            object.__setattr__(self, "bounds", (-2.0, 2.0))

    def summarize(self, view: Embedding) -> DomainRows:
        """Rows in the order of their content.

        Raises:
            NotEnoughData: fewer than 10 images (SK501).
        """
        if len(view) < SMALLEST:
            message = f"'{view.name}' has {len(view)} images, a cross-validated classifier needs at least {SMALLEST} on each side"
            raise NotEnoughData("SK501", self.name, message, "give more images, or choose a measure without a classifier")
        digests = row_digests(view.features)
        order = np.argsort(digests, kind="stable")
        digests = digests[order]
        units = np.array([f"group {view.groups[i]}" for i in order] if view.groups else [f"image {d.hex()}" for d in digests.tolist()])
        return DomainRows(view.name, view.features[order], units, bool(view.groups), hashlib.sha256(digests.tobytes()).hexdigest())

    def compare(self, source: DomainRows, target: DomainRows, rng: np.random.Generator) -> Score:
        """AUC, accuracy and proxy A-distance of a pair; ``rng`` is not used.

        Raises:
            NotEnoughData: fewer groups or distinct images than folds (SK501).
        """
        first, second = (source, target) if source.digest <= target.digest else (target, source)
        x = np.concatenate([first.features, second.features]).astype(np.float64)
        side = np.repeat([0, 1], [len(first.features), len(second.features)])
        units = np.unique(np.concatenate([first.units, second.units]), return_inverse=True)[1]
        self._check_units(first, second, units, side)
        fold = stratified_folds(units, side, self.folds)
        results = []
        for k in range(self.folds):
            train, test = fold != k, fold == k
            if len(np.unique(side[test])) < 2 or len(np.unique(side[train])) < 2:
                message = f"fold {k + 1} of {self.folds} holds images of one side only: groups are too few or too unequal"
                raise NotEnoughData("SK501", self.name, message, "set fewer folds")
            results.append(self._fold(x[train], side[train], units[train], x[test], side[test]))
        auc, accuracy, penalties, converged = zip(*results, strict=True)
        mean_accuracy = float(np.mean(accuracy))
        values = {"auc": float(np.mean(auc)), "accuracy": mean_accuracy, "pad": 2.0 * (1.0 - 2.0 * (1.0 - mean_accuracy))}
        detail: dict[str, Any] = {
            **values, "fold_auc": list(auc), "fold_accuracy": list(accuracy), "penalties": list(penalties), "folds": self.folds,
            "n": (len(source.features), len(target.features)), "grouped": (source.grouped, target.grouped),
        }
        good = all(converged)
        return Score(values[self.report], good, detail, flags=() if good else ("not converged: logistic regression",))

    def _check_units(self, first: DomainRows, second: DomainRows, units: np.ndarray, side: np.ndarray) -> None:
        for number, rows in enumerate((first, second)):
            count = len(np.unique(units[side == number]))
            if count < max(self.folds, 3):
                what = "groups (patients)" if rows.grouped else "distinct images"
                message = f"'{rows.name}' has {count} {what}, {self.folds} folds need at least {max(self.folds, 3)}"
                raise NotEnoughData("SK501", self.name, message, f"set folds = {count}" if count >= 3 else f"give more {what}")

    def _fold(self, x: np.ndarray, side: np.ndarray, units: np.ndarray, x_test: np.ndarray, side_test: np.ndarray) -> tuple[float, float, float, bool]:
        """(AUC, balanced accuracy, chosen penalty, converged) of one test fold."""
        weights = balanced_weights(side)
        axes = principal_axes(x, x_test, weights)
        penalty, found = self._penalty(axes.train, axes.scatter, side, units, weights, x.shape[1])
        fit = fit_logistic(axes.train, side, weights[:, None], np.array([penalty * x.shape[1]]), axes.scatter)
        scores = fit.decision(axes.test)[:, 0]
        return *_rates(scores, side_test), penalty, found and bool(fit.converged.all())

    def _penalty(self, rows: np.ndarray, scatter: np.ndarray, side: np.ndarray, units: np.ndarray, weights: np.ndarray, d: int) -> tuple[float, bool]:
        """The penalty with the smallest log-loss over inner folds (the strongest of equals), and whether all fits converged."""
        grid = sorted(self.penalties, reverse=True)
        if len(grid) == 1:
            return grid[0], True
        inner = stratified_folds(units, side, INNER_FOLDS)
        usable = [k for k in range(INNER_FOLDS) if len(np.unique(side[inner == k])) == 2 and len(np.unique(side[inner != k])) == 2]
        if not usable:
            raise NotEnoughData("SK501", self.name, "no inner fold holds images of both sides: groups are too few or too unequal", "set one penalty")
        masks = []
        for k in usable:
            column = np.zeros(len(side))
            column[inner != k] = balanced_weights(side[inner != k])
            masks.append(column)
        fits = fit_logistic(rows, side, np.repeat(np.array(masks).T, len(grid), axis=1), np.tile(np.array(grid) * d, len(usable)), scatter)
        f = fits.decision(rows).reshape(len(rows), len(usable), len(grid))
        loss = np.zeros(len(grid))
        for position, k in enumerate(usable):
            held = inner == k
            g = f[held, position]
            loss += weights[held] @ (np.logaddexp(0.0, g) - side[held, None] * g)
        best = int(np.argmax(loss <= loss.min() + 1e-9))
        return grid[best], bool(fits.converged.all())


def stratified_folds(units: np.ndarray, side: np.ndarray, folds: int) -> np.ndarray:
    """Fold of each row, int (n,): whole units, and of both sides as equal shares as the units allow.

    Units are placed from the largest to the smallest (in the order of their first row among equals), each where the sum of squared shares
    grows least.

    Args:
        units: (n,) unit of each row, whole numbers.
        side: (n,) of 0 and 1.
        folds: number of folds.
    """
    _, first, member = np.unique(units, return_index=True, return_inverse=True)
    counts = np.zeros((len(first), 2))
    np.add.at(counts, (member, side), 1.0)
    shares = counts / np.maximum(counts.sum(0), 1.0)
    load = [[0.0, 0.0] for _ in range(folds)]
    chosen = np.zeros(len(first), dtype=np.int64)
    for unit in np.lexsort((first, -shares.sum(1))):
        a, b = shares[unit].tolist()
        growth = [round(x * a + y * b, 12) for x, y in load]
        fullest = [round(x + y, 12) for x, y in load]
        best = min(range(folds), key=lambda k: (growth[k], fullest[k], k))
        chosen[unit] = best
        load[best][0] += a
        load[best][1] += b
    return chosen[member]


def _rates(scores: np.ndarray, side: np.ndarray) -> tuple[float, float]:
    """(AUC, balanced accuracy) of scores for side 1; scores that agree to nine digits are ties, and a tie counts one half."""
    top = float(np.abs(scores).max())
    scores = np.round(scores / top, 9) if top > 0 else scores
    low, high = np.sort(scores[side == 0]), scores[side == 1]
    below, upto = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
    auc = float((below + upto).sum()) / (2.0 * len(low) * len(high))
    hits = [float(np.mean((values > 0) + 0.5 * (values == 0))) for values in (-low, high)]
    return auc, 0.5 * (hits[0] + hits[1])
