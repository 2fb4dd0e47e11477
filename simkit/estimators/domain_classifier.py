"""Domain classifier: can a classifier tell the two data sets apart? (Classifier two-sample test, proxy A-distance.)"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from simkit.embedding import Embedding, row_digests
from simkit.errors import DataError, NotEnoughData, UsageError
from simkit.estimators.base import FeatureEstimator, Score
from simkit.estimators.label_permutations import Parts, auc_test, aucs, ridge_scores
from simkit.estimators.linear_classifier import LOGISTIC, SQUARED_HINGE, Features, Loss, TrainingRows, balanced_weights, fit_linear
from simkit.estimators.neighbour_classifier import neighbour_shares
from simkit.estimators.stratified_folds import stratified_folds
from simkit.registry import option
from simkit.transport.interruption import go_on

__all__ = ["DomainClassifier", "DomainRows"]

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
        digests: of each row.
        digest: of the rows, whatever their order.
    """

    name: str
    features: np.ndarray
    units: np.ndarray
    grouped: bool
    digests: np.ndarray
    digest: str


@dataclass(frozen=True)
class DomainClassifier(FeatureEstimator):
    """How well a cross-validated classifier tells source images from target images.

    ``report`` chooses the value, each a mean over folds, on images that the classifier has not seen: ``auc``, area under the ROC curve (0.5: cannot be told
    apart, 1: fully told apart; below 0.5 by chance); ``accuracy``, mean of the two sides' hit rates (0.5 to 1); ``pad``, proxy
    A-distance 2 (1 - 2 error) (0 to 2; below 0 by chance). All three stand in the detail. It saturates: sets that are told apart fully cannot be
    ranked by it. The value rises with n at one and the same shift, so compare values at equal n only. The same set twice gives 0.5, exactly.

    ``classifier``: ``logistic`` regression; ``svm``, a linear support vector machine with squared hinge loss; both with a ridge penalty that is chosen by
    the loss (log-loss, squared hinge) in 3 inner folds, and sides of unequal size weighing the same (1/2 each, as class_weight="balanced"); ``knn``,
    the share of side 1 among the k nearest training images, images at the distance of the k-th sharing what is left (its sides are
    compared with their shares of the training images). Features are standardised by the training images of each fold. Folds hold equal shares of both
    sides, keep groups (patients) whole where groups exist, and byte-identical images together where they do not; groups of the same name in both
    sets count as one. They follow from the content of the images, so neither seed nor order of rows or of source and target moves the value.

    The p-value is of a permutation test of equal distributions. Its statistic is the cross-validated AUC of a companion whose scores are linear in the
    labels, so that all permutations are matrix products: for ``knn`` that classifier itself, for ``logistic`` and ``svm`` ridge regression on the labels,
    its penalty chosen anew for every permutation by leave-one-out error inside each training fold. So p belongs to the companion (its AUC is
    p_statistic in the detail), not to the value, but it is a test of the same hypothesis, exact at any n: what is computed without labels (standardising,
    decompositions, folds by hash) is the same for all permutations, labels are exchanged within folds, and under equal distributions every exchange is
    as likely as what was observed. Exchanged are images, or whole groups (patients), each counting as one however many images it has;
    a group of both sets exchanges its two parts. So the test's folds hold equal numbers of groups, where the value's hold equal numbers
    of images. Images without groups are taken to be independent; copies of an image move together.

    Cost: per fold products of (n, n) or (n, d) matrices with one column an inner fold and penalty, some dozen, in float32; knn O(n² d). The test adds an
    eigenproblem of size r = min(n, d) a fold and 2 n r operations for each permutation and penalty: a second or two at 1,000 + 1,000 images of 512
    features and 999 permutations.
    """

    name = "domain-classifier"
    size_biased = True
    bounds = (0.0, 1.0)
    version = 2
    unit = "area under the ROC curve (0.5: cannot be told apart)"
    formula = "AUC of a cross-validated classifier of source (0) against target (1);  accuracy = (hits₀ + hits₁) / 2;  pad = 2 (1 − 2 error)"
    hazards = (
        "It saturates: sets that are told apart fully are all at 1 and cannot be ranked. Take `frechet`, `energy` or `nearest-neighbour` for far sets.",
        "It takes any difference, also file format, borders and scanners: look at the images that it tells apart best before you read it as content.",
        "It rises with n at one and the same shift: compare values at equal n only.",
        "Several images of one patient inflate it unless groups are given. The p-value is that of a companion with linear scores, of the same hypothesis.",
    )
    citation = ("Lopez-Paz and Oquab 2017, Revisiting classifier two-sample tests (arXiv 1610.06545); "
                "Ben-David et al. 2007, Analysis of representations for domain adaptation; "
                "Phipson and Smyth 2010, Permutation p-values should never be zero")

    report: Literal["auc", "accuracy", "pad"] = option("auc", "the value: area under the ROC curve, accuracy, or proxy A-distance")
    classifier: Literal["logistic", "svm", "knn"] = option("logistic", "logistic regression, linear support vector machine, or k nearest neighbours")
    folds: int = option(5, "folds of the cross-validation", minimum=2)
    penalties: tuple[float, ...] = option(
        (0.1, 0.01, 0.001, 0.0001, 0.00001), "ridge penalties to choose from, in units of the number of features (mean loss + penalty d / 2 |w|²)", above=0,
    )
    neighbours: int | None = option(None, "k of knn; nothing: the root of the number of training images (Lopez-Paz and Oquab)", minimum=1)
    permutations: int = option(999, "random permutations for the p-value; 0: none", minimum=0)

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
            DataError: NaN or infinite features (SK210).
        """
        if not np.isfinite(view.features).all():
            raise DataError("SK210", view.name, "features hold NaN or infinite values", "remove or recompute these rows")
        if len(view) < SMALLEST:
            message = f"'{view.name}' has {len(view)} images, a cross-validated classifier needs at least {SMALLEST} on each side"
            raise NotEnoughData("SK501", self.name, message, "give more images, or choose a measure without a classifier")
        digests = row_digests(view.features)
        order = np.argsort(digests, kind="stable")
        digests = digests[order]
        units = np.array([f"group {view.groups[i]}" for i in order] if view.groups else [f"image {d.hex()}" for d in digests.tolist()])
        return DomainRows(view.name, view.features[order], units, bool(view.groups), digests, hashlib.sha256(digests.tobytes()).hexdigest())

    def compare(self, source: DomainRows, target: DomainRows, rng: np.random.Generator) -> Score:
        """AUC, accuracy and proxy A-distance of a pair; ``rng`` is not used.

        Raises:
            NotEnoughData: fewer groups or distinct images than folds (SK501).
        """
        pair = _Pair.of(source, target)
        self._check_units(pair)
        fold = stratified_folds(pair.units, pair.side, self.folds)
        features = None if self.classifier == "knn" else Features(pair.rows)
        results = []
        for k in range(self.folds):
            go_on()
            train, test = fold != k, fold == k
            if len(np.unique(pair.side[test])) < 2 or len(np.unique(pair.side[train])) < 2:
                message = f"fold {k + 1} of {self.folds} holds images of one side only: groups are too few or too unequal"
                raise NotEnoughData("SK501", self.name, message, "set fewer folds")
            results.append(self._neighbour_fold(pair, train, test) if features is None else self._linear_fold(features, pair, train, test))
        auc, accuracy, chosen, converged = zip(*results, strict=True)
        mean_accuracy = float(np.mean(accuracy))
        values = {"auc": float(np.mean(auc)), "accuracy": mean_accuracy, "pad": 2.0 * (1.0 - 2.0 * (1.0 - mean_accuracy))}
        detail: dict[str, Any] = {
            **values, "fold_auc": list(auc), "fold_accuracy": list(accuracy), "classifier": self.classifier,
            "neighbours" if features is None else "penalties": list(chosen), "folds": self.folds,
            "n": (len(source.features), len(target.features)), "grouped": (source.grouped, target.grouped),
        }
        good = all(converged)
        return Score(values[self.report], good, detail, flags=() if good else (f"not converged: {self._loss.name}",))

    def tested(self, source: DomainRows, target: DomainRows, rng: np.random.Generator) -> Score:
        """:meth:`compare` with the p-value of its permutation test (see the class); the same set twice has p = 1."""
        score = self.compare(source, target, rng)
        if not self.permutations:
            return score
        if source.digest == target.digest:
            return replace(score, p=1.0, detail={**score.detail, "identical": True})
        pair = _Pair.of(source, target)
        parts = Parts.of(pair.digests, pair.units, pair.side, grouped=pair.grouped)
        fold, sides = parts.folds(self.folds), parts.permuted_sides(self.folds, self.permutations, rng)
        test = auc_test(self._companion(pair, fold, sides), fold, sides)
        resolution = max(1.0 / (1 + self.permutations), parts.smallest_p(self.folds))
        units = parts.counts if source.digest <= target.digest else parts.counts[::-1]
        what = "nearest neighbours" if self.classifier == "knn" else "ridge regression"
        evidence = {"p_statistic": test.statistic, "p_classifier": what, "permutations": self.permutations, "p_resolution": resolution, "permuted_units": units}
        flags = (f"p cannot be below {resolution:.2g}: {units[0]} and {units[1]} units to permute",) if resolution > 0.05 else ()
        return replace(score, p=test.p, detail={**score.detail, **evidence}, flags=(*score.flags, *flags))

    def seconds(self, n_source: int, n_target: int) -> float | None:
        """Rough time of one pair on one core at 512 features, with its permutations."""
        n, shares = float(n_source + n_target), self.folds / 5.0
        short = min(n, 512.0)
        if self.classifier == "knn":
            return shares * (0.01 + 1.2e-8 * n * n + 2.5e-11 * n * n * self.permutations + 2.5e-7 * n * self.permutations)
        value = 0.02 + (4.5e-4 if self.classifier == "svm" else 2e-4) * n
        test = (1.5e-9 * short**3 + (6e-10 * n * short + 2.5e-7 * n) * self.permutations) if self.permutations else 0.0
        return shares * (value + test)

    @property
    def _loss(self) -> Loss:
        return SQUARED_HINGE if self.classifier == "svm" else LOGISTIC

    def _companion(self, pair: _Pair, fold: np.ndarray, sides: np.ndarray) -> Iterator[np.ndarray]:
        """Scores (rows of the fold, columns of sides) of each fold, by the classifier that is linear in the labels."""
        if self.classifier != "knn":
            yield from ridge_scores(pair.rows, fold, sides, self.penalties)
            return
        for k in range(self.folds):
            go_on()
            train, test = fold != k, fold == k
            shares, _ = neighbour_shares(pair.rows[train], pair.rows[test], self.neighbours)
            yield shares @ sides[train]

    def _check_units(self, pair: _Pair) -> None:
        for number, (name, grouped) in enumerate(zip(pair.names, pair.grouped, strict=True)):
            count = len(np.unique(pair.units[pair.side == number]))
            if count < max(self.folds, 3):
                what = "groups (patients)" if grouped else "distinct images"
                message = f"'{name}' has {count} {what}, {self.folds} folds need at least {max(self.folds, 3)}"
                raise NotEnoughData("SK501", self.name, message, f"set folds = {count}" if count >= 3 else f"give more {what}")

        if self.classifier == "knn" and self.neighbours is not None:
            least = len(pair.side) - int(np.bincount(stratified_folds(pair.units, pair.side, self.folds)).max())
            if self.neighbours > least:
                message = f"{self.neighbours} neighbours of {least} training images of {pair.names[0]} and {pair.names[1]}"
                raise NotEnoughData("SK501", self.name, message, f"set neighbours to at most {least}, or leave it out (the root of the number)")

    def _neighbour_fold(self, pair: _Pair, train: np.ndarray, test: np.ndarray) -> tuple[float, float, int, bool]:
        """(AUC, balanced accuracy, number of neighbours, True) of one test fold."""
        shares, k = neighbour_shares(pair.rows[train], pair.rows[test], self.neighbours)
        scores = shares @ pair.side[train].astype(np.float64) - pair.side[train].mean()  # against the share that chance gives: sides weigh the same
        return *_rates(scores, pair.side[test]), k, True

    def _linear_fold(self, features: Features, pair: _Pair, train: np.ndarray, test: np.ndarray) -> tuple[float, float, float, bool]:
        """(AUC, balanced accuracy, chosen penalty, converged) of one test fold."""
        side = pair.side[train]
        weights = balanced_weights(side)
        rows = TrainingRows(features, train, weights)
        penalty, found, near = self._penalty(rows, side, pair.units[train], weights)
        ridge = np.array([penalty * pair.rows.shape[1]])
        first = fit_linear(rows, side, weights[:, None], ridge, self._loss, start=near)
        fit = fit_linear(rows, side, weights[:, None], ridge, self._loss, exact=True, start=(first.coefficients, first.intercepts))
        scores = (rows.everywhere(fit.coefficients) + fit.intercepts)[test, 0]
        return *_rates(scores, pair.side[test]), penalty, found and bool(fit.converged.all())

    def _penalty(
        self, rows: TrainingRows, side: np.ndarray, units: np.ndarray, weights: np.ndarray,
    ) -> tuple[float, bool, tuple[np.ndarray, np.ndarray] | None]:
        """(the penalty with the smallest held-out loss over inner folds, the strongest of equals; whether all fits converged; their mean at it)."""
        grid = sorted(self.penalties, reverse=True)
        if len(grid) == 1:
            return grid[0], True, None
        inner = stratified_folds(units, side, INNER_FOLDS)
        usable = [k for k in range(INNER_FOLDS) if len(np.unique(side[inner == k])) == 2 and len(np.unique(side[inner != k])) == 2]
        if not usable:
            raise NotEnoughData("SK501", self.name, "no inner fold holds images of both sides: groups are too few or too unequal", "set one penalty")
        masks = np.zeros((len(side), len(usable)))
        for position, k in enumerate(usable):
            masks[inner != k, position] = balanced_weights(side[inner != k])
        ridges = np.tile(np.array(grid) * rows.rows.shape[1], len(usable))
        fits = fit_linear(rows, side, np.repeat(masks, len(grid), axis=1), ridges, self._loss)
        margins = (np.where(side == 1, 1.0, -1.0)[:, None] * fits.decision).reshape(len(side), len(usable), len(grid))
        loss = np.zeros(len(grid))
        for position, k in enumerate(usable):
            held = inner == k
            loss += weights[held] @ self._loss.value(margins[held, position])
        best = int(np.argmax(loss <= loss.min() + 1e-9))
        at = slice(best, None, len(grid))
        near = fits.coefficients[:, at].mean(1, keepdims=True), fits.intercepts[at].mean(keepdims=True)
        return grid[best], bool(fits.converged.all()), near


@dataclass(frozen=True, eq=False)
class _Pair:
    """Both sides in one array, side 0 first: that whose rows have the smaller digest, so that source and target can be swapped.

    Attributes:
        names, grouped: of the sides.
        rows: float32 (N, d).
        side: (N,) of 0 and 1.
        units: whole number per row of what a fold never splits.
        digests: of each row.
    """

    names: tuple[str, str]
    grouped: tuple[bool, bool]
    rows: np.ndarray
    side: np.ndarray
    units: np.ndarray
    digests: np.ndarray

    @classmethod
    def of(cls, source: DomainRows, target: DomainRows) -> _Pair:
        first, second = (source, target) if source.digest <= target.digest else (target, source)
        units = np.unique(np.concatenate([first.units, second.units]), return_inverse=True)[1]
        side = np.repeat([0, 1], [len(first.features), len(second.features)])
        rows, digests = (np.concatenate([getattr(one, what) for one in (first, second)]) for what in ("features", "digests"))
        return cls((first.name, second.name), (first.grouped, second.grouped), rows, side, units, digests)


def _rates(scores: np.ndarray, side: np.ndarray) -> tuple[float, float]:
    """(AUC, balanced accuracy) of scores for side 1; scores that agree to nine digits are ties, and a tie counts one half."""
    top = float(np.abs(scores).max())
    scores = np.round(scores / top, 9) if top > 0 else scores
    auc = float(aucs(scores[:, None], (side == 1)[:, None])[0])
    hits = [float(np.mean((values > 0) + 0.5 * (values == 0))) for values in (-scores[side == 0], scores[side == 1])]
    return auc, 0.5 * (hits[0] + hits[1])
