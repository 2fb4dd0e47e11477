"""Linear probe: how well does a cross-validated linear classifier tell the target's classes apart in the network's features?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from simkit.errors import NotEnoughData
from simkit.estimators.base import NetworkEstimator, Score
from simkit.estimators.label_permutations import aucs
from simkit.estimators.seen import Seen
from simkit.estimators.softmax_regression import RowBasis, SoftmaxFit, exact_size, fit_softmax, row_basis
from simkit.estimators.stratified_folds import stratified_folds
from simkit.registry import option
from simkit.transport.interruption import go_on

__all__ = ["FoldAnswer", "LinearProbe", "fold_rates", "probe_folds"]


@dataclass(frozen=True, eq=False)
class FoldAnswer:
    """What the probe of one fold says about its test rows.

    Attributes:
        test: their indices.
        probabilities: float64 (m, K); 0 for a class that the training rows lack.
        known: bool (K,), which classes (or, of several labels, both values) the training rows have.
        fit: of the training rows.
    """

    test: np.ndarray
    probabilities: np.ndarray
    known: np.ndarray
    fit: SoftmaxFit


def probe_folds(
    features: np.ndarray, targets: np.ndarray, fold: np.ndarray, penalty: float, *, exclusive: bool = True, standardise: bool = True,
    tolerance: float | None = None,
) -> Iterator[FoldAnswer]:
    """Logistic regression trained on all folds but one, for each fold; multinomial for three classes or more, binary for two.

    Args:
        features: (n, d).
        targets: (n, K) of 0 and 1.
        fold: (n,) of 0, 1, ...
        penalty: of sum loss + penalty / 2 |W|², scikit-learn's 1 / C; the intercept is free.
        exclusive: whether each row has one class; else each column is a problem of its own.
        standardise: whether features are divided by their spread over the training rows; constant ones are left out. They are centred in any case, which
            moves nothing but the intercept.
        tolerance: see :func:`fit_softmax`.
    """
    kind: Any = np.float64 if exact_size(features) else np.float32
    basis: RowBasis | None = None
    least = len(fold) - int(np.bincount(fold).max())
    if kind is np.float32 and least >= features.shape[1]:
        mean, scale = _moments(features, standardise)
        basis = row_basis(_scaled(features, mean, scale, kind))
    for k in range(int(fold.max()) + 1):
        go_on()
        train, test = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        answers = targets[train]
        some = answers.astype(bool)
        known = np.asarray(some.any(axis=0) & (~some.all(axis=0) | exclusive))
        rows, others = features[train], features[test]
        mean, scale = _moments(rows, standardise)
        columns = np.flatnonzero(known)
        binary = exclusive and len(columns) == 2
        fitted = answers[:, columns[1:]] if binary else answers[:, columns]
        fit = fit_softmax(_scaled(rows, mean, scale, kind), fitted, penalty, exclusive=exclusive and not binary, basis=basis, tolerance=tolerance)
        logits = fit.logits(_scaled(others, mean, scale, kind))
        probabilities = np.zeros((len(test), targets.shape[1]))
        probabilities[:, columns] = _probabilities(logits, exclusive=exclusive, binary=binary)
        yield FoldAnswer(test, probabilities, known, fit)


def _moments(rows: np.ndarray, standardise: bool) -> tuple[np.ndarray, np.ndarray]:
    """(mean, one over the spread, 0 for a constant feature), float64 (d,) each."""
    mean = rows.mean(0, dtype=np.float64)
    squares = np.zeros(len(mean))
    for start in range(0, len(rows), 2048):
        piece = rows[start:start + 2048] - mean
        squares += np.einsum("ij,ij->j", piece, piece)
    spread = np.sqrt(squares / len(rows))
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-6 * np.abs(mean))
    return mean, scale if standardise else np.ones_like(scale)


def _scaled(rows: np.ndarray, mean: np.ndarray, scale: np.ndarray, kind: Any) -> np.ndarray:
    out = np.empty(rows.shape, kind)
    mean, scale = mean.astype(kind), scale.astype(kind)  # what rounding leaves of the mean is the intercept's
    for start in range(0, len(rows), 2048):
        part = out[start:start + 2048]
        np.subtract(rows[start:start + 2048], mean, out=part, casting="same_kind")
        part *= scale
    return out


def _probabilities(logits: np.ndarray, *, exclusive: bool, binary: bool) -> np.ndarray:
    if exclusive and not binary:
        out = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(out / out.sum(1, keepdims=True))
    upper = 0.5 * (1.0 + np.tanh(0.5 * logits))
    return np.concatenate([1.0 - upper, upper], axis=1) if binary else np.asarray(upper)


def fold_rates(answer: FoldAnswer, targets: np.ndarray, *, exclusive: bool = True) -> tuple[np.ndarray, np.ndarray, float]:
    """(AUC of each class, recall of each class, accuracy) of a fold; NaN where the fold cannot tell.

    A class counts where the training rows have it; its AUC where the test rows have it and lack it as well. Of several labels an image, recall is the mean of
    those of images with and without the label, and accuracy the mean over the labels. Classes with equal probabilities share a hit.
    """
    truth = targets[answer.test].astype(bool)
    m, classes = truth.shape
    count = truth.sum(0)
    area, recall = np.full(classes, np.nan), np.full(classes, np.nan)
    told = answer.known & (count > 0) & (count < m)
    if told.any():
        area[told] = aucs(answer.probabilities[:, told], truth[:, told])
    p = answer.probabilities
    if exclusive:
        tested = truth[:, answer.known].any(axis=1)
        best = p >= p.max(1, keepdims=True) - 1e-6
        hit = (best & truth).sum(1) / best.sum(1)
        there = answer.known & (count > 0)
        recall[there] = (hit[:, None] * truth).sum(0)[there] / count[there]
        return area, recall, float(hit[tested].mean()) if tested.any() else float("nan")
    right = np.where(np.abs(p - 0.5) < 1e-6, 0.5, (p > 0.5) == truth)
    recall[told] = 0.5 * ((right * truth).sum(0)[told] / count[told] + (right * ~truth).sum(0)[told] / (m - count[told]))
    return area, recall, float(right[:, answer.known].mean()) if answer.known.any() else float("nan")


def _mean(values: np.ndarray) -> float:
    """Mean over classes of the mean over folds, (folds, classes), of what is there; NaN where nothing is."""
    there = np.isfinite(values)
    count = there.sum(0)
    means = np.where(there, values, 0.0).sum(0)[count > 0] / count[count > 0]
    return float(means.mean()) if len(means) else float("nan")


@dataclass(frozen=True)
class LinearProbe(NetworkEstimator):
    """How well a linear classifier on the features of the source's network tells the target's classes apart, on images that it was not trained on.

    ``report`` chooses the value; all three stand in the detail. ``auc``: area under the ROC curve of a class against all others (0.5: chance, 1: fully told
    apart); ``balanced-accuracy``: share of a class that is put into it (chance: 1 / C); both are means over folds, then over classes. ``accuracy``: share of
    images put into their class, mean over folds. 0 to 1. Areas are taken fold by fold, because scores of different folds come from different
    classifiers and have no common scale (Forman and Scholz 2010).

    The classifier is logistic regression (multinomial for more than two classes) on features standardised by the training images of each fold. It minimises
    sum_i log-loss_i + penalty d / 2 |W|², with a free intercept: scikit-learn's LogisticRegression with C = 1 / (penalty d). The penalty is fixed, not
    searched: nothing is chosen by results, and all sources are probed alike. 0.02 d is a normal prior under which the logits of an average image have a
    spread of 7 whatever d; with scikit-learn's C = 1 it would be 8 at d = 64, but 45 at d = 2048.

    Of several labels an image, each label that some images have and others lack has a logistic regression of its own.

    Folds keep groups (patients) whole, and copies of an image together, hold equal shares of each class, and follow from the images: they are the same for all
    sources of a target. Where patients are few there are only as many folds as the second largest class has patients (two at least). A class with fewer
    images (or patients) than folds is tested in some of them only; of a class that the other folds lack nothing can be learnt: its images in that fold do not
    count. A fold with one class has no AUC. All of it is flagged.

    Not moved by scale and shift of any feature (on bare arrays folds follow from the features, and so move with them).
    """

    name = "linear-probe"
    several_labels = True
    bounds = (0.0, 1.0)
    version = 1
    unit = "area under the ROC curve, mean over classes (0.5: chance)"
    formula = "mean over folds and classes of the AUC of ridge-penalised logistic regression on standardised features"
    hazards = (
        "Without groups, images of one patient are in training and test, and it is too high: give groups.",
        "Folds share training images: fold_auc in the detail understates how far the value would move. Use the interval.",
        "It saturates near 1 where the target is easy: networks cannot be ranked by it there.",
        "The penalty is fixed, not searched: with another `penalty` networks of many features may be ranked otherwise.",
    )
    citation = ("Alain and Bengio 2017, Understanding intermediate layers using linear classifier probes (arXiv 1610.01644); Hastie, Tibshirani and "
                "Friedman 2009, The elements of statistical learning, sections 18.3.2 (quadratic penalty of logistic regression) and 7.10 (cross-validation)")

    report: Literal["auc", "balanced-accuracy", "accuracy"] = option("auc", "the value: area under the ROC curve, balanced accuracy, or accuracy")
    folds: int = option(5, "folds of the cross-validation", minimum=2)
    penalty: float = option(0.02, "ridge penalty in units of the number of features (sum of losses + penalty d / 2 |W|²)", above=0)

    def __post_init__(self) -> None:
        if self.report == "balanced-accuracy":
            object.__setattr__(self, "unit", "share of a class put into it, mean over classes (0 to 1)")
        elif self.report == "accuracy":
            object.__setattr__(self, "unit", "share of images put into their class (0 to 1)")

    def assess(self, seen: Seen, rng: np.random.Generator) -> Score:
        """Cross-validated AUC, balanced accuracy and accuracy; ``rng`` is not used.

        Raises:
            NotEnoughData: one image or group only; no class that a fold is both trained on and tested on (SK501).
        """
        exclusive = seen.indicators is None
        units, targets = np.unique(seen.units, return_inverse=True)[1], seen.one_hot
        fold, own = self._folds(seen, units, targets)
        ridge = self.penalty * seen.dimension
        answers = list(probe_folds(seen.features, targets, fold, ridge, exclusive=exclusive))
        areas, recalls, hits = zip(*(fold_rates(answer, targets, exclusive=exclusive) for answer in answers), strict=True)
        area, recall, accuracy = np.array(areas), np.array(recalls), np.array(hits)
        values = {"auc": _mean(area), "balanced-accuracy": _mean(recall), "accuracy": _mean(accuracy[:, None])}
        if not np.isfinite(values[self.report]):
            message = f"no fold tests two classes that the others hold ({int(units.max()) + 1} independent images or groups, {len(answers)} folds)"
            fix = "give images of each class from at least two groups (patients), or set fewer folds"
            raise NotEnoughData("SK501", f"{self.name}: {seen.target}", message, fix)
        fits = [answer.fit for answer in answers]
        unlearnt = sum(int((targets[a.test][:, ~a.known].sum(1) > 0).sum()) for a in answers) if exclusive else 0
        detail: dict[str, Any] = {
            **{name.replace("-", "_"): value if np.isfinite(value) else None for name, value in values.items()},
            "n": len(seen), "d": seen.dimension, "classes": targets.shape[1], "folds": len(answers),
            "fold_auc": [_mean(row[None]) if np.isfinite(row).any() else None for row in area],
            "fold_accuracy": [float(v) if np.isfinite(v) else None for v in accuracy],
            "penalty": ridge, "converged": [fit.converged for fit in fits], "steps": [fit.steps for fit in fits],
            "groups": len(set(seen.groups)) if seen.groups else None, "classes_tested": int(np.isfinite(area).any(axis=0).sum()), "not_tested": unlearnt,
        }
        good = all(fit.converged for fit in fits)
        with_area = sum(one is not None for one in detail["fold_auc"])
        flags = self._flags(seen, own, len(answers), unlearnt, detail["classes_tested"], with_area)
        return Score(values[self.report], good, detail, flags=flags if good else (*flags, "not converged: logistic regression"))

    def _folds(self, seen: Seen, units: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(fold of each image; number of units of each class). Units are placed in the order of the images' digests, which all sources share."""
        count = int(units.max()) + 1
        own = np.array([len(np.unique(units[targets[:, c] > 0])) for c in range(targets.shape[1])])
        folds = min(self.folds, count)
        if seen.groups and seen.indicators is None:  # as many as leave two classes in each, where patients are few
            folds = min(folds, max(2, int(np.sort(own)[-2])))
        if folds < 2:
            what = "group (patient)" if seen.groups else "distinct image"
            raise NotEnoughData("SK501", f"{self.name}: {seen.target}", f"1 {what} cannot be split into folds", "give images of several groups")
        if seen.indicators is None:
            side = seen.labels
        else:  # the rarest label of an image, so that rare labels are spread evenly
            rarity = np.argsort(np.argsort(targets.sum(0), kind="stable"))
            side = np.where(targets > 0, rarity, targets.shape[1]).min(1)
        assert side is not None
        order = np.argsort(np.array(seen.images), kind="stable") if seen.images else np.arange(len(seen))
        fold = np.empty(len(seen), dtype=np.int64)
        fold[order] = stratified_folds(units[order], side[order], folds)
        return fold, own

    def _flags(self, seen: Seen, own: np.ndarray, folds: int, unlearnt: int, tested: int, with_area: int) -> tuple[str, ...]:
        what = "groups" if seen.groups else "images"
        flags = []
        if folds < self.folds:
            flags.append(f"{folds} folds: there are no more {what} of two classes")
        small = int((own < folds).sum())
        if small:
            flags.append(f"{small} of {len(own)} classes have fewer {what} ({own.min()} at least) than {folds} folds: not tested in all of them")
        if unlearnt:
            flags.append(f"{unlearnt} of {len(seen)} images not counted: the other folds hold none of their class")
        if tested < len(own):
            flags.append(f"{tested} of {len(own)} classes tested")
        if with_area < folds:
            flags.append(f"AUC from {with_area} of {folds} folds")
        return tuple(flags)
