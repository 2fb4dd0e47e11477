"""The performance of one fold, from its stored predictions.

| name | range | better | what it is |
|---|---|---|---|
| ``auc`` (two classes), ``auc-ovr-weighted``, ``auc-ovr-macro`` (more) | 0..1, chance 0.5 | higher | area under the ROC curve |
| ``balanced-accuracy`` | 0..1, chance 1/C | higher | mean over classes of the share of its images that is predicted as it |
| ``log-loss`` | 0 to 36.04 | lower | mean of -ln p of the true class; p is at least 2.2e-16 [nats] |
| ``brier`` | 0..2 | lower | mean over images of the sum over all classes of (p - 1 if it is the true class, else p)² |
| ``calibration-error`` | 0..1 | lower | how far the confidence in the predicted class is from the share that is right |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["METRICS_LOWER_IS_BETTER", "Metric", "auc", "calibration_error", "metric_name", "metrics", "selection_value"]

METRICS_LOWER_IS_BETTER = ("log-loss", "brier", "calibration-error")
"""Names of metrics that are losses; all others are better when higher."""

BINS = 15
"""Equal-width bins of the calibration error, as in Guo et al. 2017 (arXiv 1706.04599)."""

SMALLEST = float(np.finfo(np.float64).eps)
"""Probabilities are at least this much in a logarithm, and at most one minus this, as in scikit-learn."""


@dataclass(frozen=True)
class Metric:
    """One number of one fold: its value and "", or None and the reason why it is undefined."""

    name: str
    value: float | None
    reason: str


def metrics(labels: np.ndarray, probabilities: np.ndarray, *, classes: Sequence[str], average: str) -> tuple[Metric, ...]:
    """Every metric of one test fold; the table in this module says what each means.

    AUCs first (of more than two classes both averages, the one of ``average`` first). The Brier score is defined alike for any number of
    classes, as by Brier in 1950: for two it is twice the one-sided score that others report (scikit-learn's ``scale_by_half=True``).

    Without a test image of some class the AUCs and the balanced accuracy are undefined, the other three are not. When a probability is NaN or
    infinite everything is undefined.

    Args:
        labels: true class per image (n,).
        probabilities: float64 (n, C), rows sum to 1.
        classes: the C class names.
        average: "weighted" or "macro".

    Returns:
        The metrics, each defined or with the reason why it is not. Undefined is never 0, 0.5 or NaN.
    """
    from sklearn.metrics import balanced_accuracy_score, log_loss

    averages = (average,) if len(classes) == 2 else (average, "macro" if average == "weighted" else "weighted")
    names = [*(metric_name(len(classes), one) for one in averages), "balanced-accuracy", *METRICS_LOWER_IS_BETTER]
    reason = _nothing_defined(labels, probabilities)
    if reason:
        return tuple(Metric(name, None, reason) for name in names)
    values = [auc(labels, probabilities, classes=classes, average=one) for one in averages]
    reason = _missing(labels, classes)
    values.append((None, f"{reason}, so it has no accuracy to average over") if reason else (
        float(balanced_accuracy_score(labels, probabilities.argmax(axis=1))), ""))
    values.append((float(log_loss(labels, probabilities, labels=np.arange(len(classes)))), ""))
    values.append((float(np.square(probabilities - np.eye(len(classes))[labels]).sum(axis=1).mean()), ""))
    values.append((calibration_error(labels, probabilities), ""))
    return tuple(Metric(name, value, why) for name, (value, why) in zip(names, values, strict=True))


def metric_name(classes: int, average: str) -> str:
    """``auc`` for two classes, else ``auc-ovr-weighted`` or ``auc-ovr-macro``."""
    return "auc" if classes == 2 else f"auc-ovr-{average}"


def auc(labels: np.ndarray, probabilities: np.ndarray, *, classes: Sequence[str], average: str) -> tuple[float | None, str]:
    """Area under the ROC curve, 0..1; 0.5 is chance, 1 is a perfect order.

    Two classes: the AUC of the second class. More: the mean of the one-vs-rest AUCs, weighted by prevalence (as in arXiv 2107.05940) or
    plain ("macro").

    Args:
        labels: true class per image (n,).
        probabilities: float64 (n, C), rows sum to 1.
        classes: the C class names.
        average: "weighted" or "macro".

    Returns:
        The value and "", or None and the reason why it is undefined. A missing class is never scored as 0, 0.5 or NaN.
    """
    from sklearn.metrics import roc_auc_score

    reason = _missing(labels, classes) or _nothing_defined(labels, probabilities)
    if reason:
        return None, reason
    if len(classes) == 2:
        return float(roc_auc_score(labels, probabilities[:, 1])), ""
    return float(roc_auc_score(labels, probabilities, multi_class="ovr", average=average, labels=np.arange(len(classes)))), ""


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Expected calibration error of the predicted class, 0..1; 0: of the images predicted with confidence p the share p is right.

    ECE = Σ_b n_b / n |accuracy_b - confidence_b| over 15 bins (b/15, (b+1)/15] of the confidence, which is the probability of the predicted class
    (Guo et al. 2017, arXiv 1706.04599, equation 3). It is biased upwards when there are few images.

    Args:
        labels: true class per image (n,), n > 0.
        probabilities: finite float64 (n, C), rows sum to 1.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)
    gaps = np.bincount(bins, weights=right, minlength=BINS) - np.bincount(bins, weights=confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))


def selection_value(labels: np.ndarray, probabilities: np.ndarray, classes: int, how: str) -> tuple[float, float]:
    """How good a network is on the inner validation, as a sort key: higher is better.

    The AUC here is the plain mean of the one-vs-rest AUCs of those classes that have an image, and an image of another class beside it (of
    two classes: the AUC of the second). Where no class has, it is 0.5 for every network, and the log loss decides. A network whose output is
    NaN or infinite gets the lowest value that there is. These numbers choose; none of them is a result.

    Args:
        labels: true class per image (n,).
        probabilities: float64 (n, C).
        classes: the number C of classes.
        how: "auc": (AUC, -log loss); "log-loss": (-log loss, AUC).

    Returns:
        Two finite numbers; -log loss is at least -36.04.
    """
    scores = np.asarray(probabilities, dtype=np.float64)
    area, gain = 0.0, float(np.log(SMALLEST))
    if len(labels) and np.isfinite(scores).all():
        of_true = scores[np.arange(len(labels)), labels]
        area, gain = _area(labels, scores, (1,) if classes == 2 else range(classes)), float(np.log(np.clip(of_true, SMALLEST, 1 - SMALLEST)).mean())
    return (area, gain) if how == "auc" else (gain, area)


def _area(labels: np.ndarray, scores: np.ndarray, columns: Sequence[int]) -> float:
    """Mean over classes of the share of pairs in the right order (Mann-Whitney U / (n1 n0); ties count half). Fast: an epoch calls it."""
    from scipy.stats import rankdata

    areas = []
    for column in columns:
        own = labels == column
        n = int(own.sum())
        if 0 < n < len(own):
            areas.append((rankdata(scores[:, column])[own].sum() - n * (n + 1) / 2) / (n * (len(own) - n)))
    return float(np.mean(areas)) if areas else 0.5


def _missing(labels: np.ndarray, classes: Sequence[str]) -> str:
    """Why no class may be left out of a mean over classes; "" when all have a test image."""
    missing = [name for index, name in enumerate(classes) if not (labels == index).any()]
    return f"undefined: no test image of class {', '.join(missing)}" if missing else ""


def _nothing_defined(labels: np.ndarray, probabilities: np.ndarray) -> str:
    """Why no metric is defined, or ""."""
    if not len(labels):
        return "undefined: there is no test image"
    bad = ~np.isfinite(probabilities).all(axis=1)
    return f"undefined: the network's output is NaN or infinite for {int(bad.sum())} of {len(bad)} test images" if bad.any() else ""
