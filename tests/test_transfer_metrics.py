"""The AUC of a fold, and when there is none."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from simkit.transfer.metrics import auc, metric_name


def test_binary_by_hand():
    # positives score .4 and .8, negatives .1, .35 and .6: 5 of 6 pairs in the right order
    positive = np.array([0.1, 0.4, 0.35, 0.8, 0.6])
    value, reason = auc(np.array([0, 1, 0, 1, 0]), np.stack([1 - positive, positive], axis=1), classes=("no", "yes"), average="weighted")
    assert value == pytest.approx(5 / 6)
    assert reason == ""


def test_ties_count_half():
    value, _ = auc(np.array([0, 1, 0, 1]), np.full((4, 2), 0.5), classes=("no", "yes"), average="weighted")
    assert value == 0.5


def test_many_classes_by_prevalence_or_plain():
    rng = np.random.default_rng(0)
    labels = np.array([0] * 20 + [1] * 6 + [2] * 4)
    raw = rng.random((30, 3))
    raw[np.arange(30), labels] += 0.4
    probabilities = raw / raw.sum(1, keepdims=True)
    single = [roc_auc_score(labels == c, probabilities[:, c]) for c in range(3)]
    weighted, _ = auc(labels, probabilities, classes=tuple("abc"), average="weighted")
    macro, _ = auc(labels, probabilities, classes=tuple("abc"), average="macro")
    assert weighted == pytest.approx(np.average(single, weights=[20, 6, 4]))
    assert macro == pytest.approx(np.mean(single))
    assert weighted != macro


def test_a_missing_class_is_undefined_never_a_number():
    assert auc(np.array([0, 0, 2]), np.eye(3), classes=("cat", "dog", "elk"), average="macro") == (None, "undefined: no test image of class dog")
    assert auc(np.zeros(2, dtype=int), np.full((2, 2), 0.5), classes=("cat", "dog"), average="macro") == (None, "undefined: no test image of class dog")


def test_nan_is_undefined():
    value, reason = auc(np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, np.nan]]), classes=("cat", "dog"), average="macro")
    assert value is None
    assert "NaN or infinite for 1 of 2 test images" in reason


def test_metrics_have_names():
    assert [metric_name(2, "macro"), metric_name(3, "macro"), metric_name(3, "weighted")] == ["auc", "auc-ovr-macro", "auc-ovr-weighted"]
