"""The metrics of a fold against scikit-learn, when they are undefined, and the key that chooses on the inner validation."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, log_loss, roc_auc_score

from simkit.transfer.metrics import METRICS_LOWER_IS_BETTER, Metric, auc, calibration_error, metric_name, metrics, selection_value


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


def three_classes(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    labels = rng.choice(3, n, p=[0.6, 0.3, 0.1])
    raw = rng.gamma(0.6, size=(n, 3))
    raw[np.arange(n), labels] += 0.5
    return labels, raw / raw.sum(1, keepdims=True)


def named(labels: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...], average: str = "weighted") -> dict[str, Metric]:
    return {one.name: one for one in metrics(labels, probabilities, classes=classes, average=average)}


def test_names_and_their_order():
    labels, probabilities = three_classes()
    rest = ["balanced-accuracy", "log-loss", "brier", "calibration-error"]
    for average, other in (("weighted", "macro"), ("macro", "weighted")):
        assert list(named(labels, probabilities, tuple("abc"), average)) == [f"auc-ovr-{average}", f"auc-ovr-{other}", *rest]
    two = np.stack([probabilities[:, 0], 1 - probabilities[:, 0]], axis=1)
    assert list(named((labels > 0).astype(int), two, ("no", "yes"))) == ["auc", *rest]
    assert set(METRICS_LOWER_IS_BETTER) == set(rest[1:])


def test_values_are_those_of_scikit_learn():
    labels, probabilities = three_classes()
    found = named(labels, probabilities, tuple("abc"))
    assert all(one.reason == "" for one in found.values())
    for average in ("weighted", "macro"):
        assert found[f"auc-ovr-{average}"].value == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr", average=average), abs=1e-12)
    assert found["balanced-accuracy"].value == pytest.approx(balanced_accuracy_score(labels, probabilities.argmax(1)), abs=1e-12)
    assert found["log-loss"].value == pytest.approx(log_loss(labels, probabilities), abs=1e-12)
    if "scale_by_half" in inspect.signature(brier_score_loss).parameters:  # scikit-learn 1.7
        assert found["brier"].value == pytest.approx(brier_score_loss(labels, probabilities, scale_by_half=False), abs=1e-12)


def test_the_brier_score_has_one_definition_for_two_and_more_classes():
    labels, positive = np.array([0, 1, 1, 0]), np.array([0.1, 0.9, 0.8, 0.3])
    two = named(labels, np.stack([1 - positive, positive], axis=1), ("no", "yes"))["brier"].value
    assert two == pytest.approx(0.075, abs=1e-12)  # scikit-learn's own example, scale_by_half=False
    assert two == pytest.approx(2 * brier_score_loss(labels, positive), abs=1e-12)
    three = named(labels, np.stack([1 - positive, positive, np.zeros(4)], axis=1), ("no", "yes", "never"))["brier"].value
    assert three == pytest.approx(two, abs=1e-12)  # a class that nobody expects changes nothing
    assert named(np.array([0]), np.array([[0.0, 1.0]]), ("no", "yes"))["brier"].value == 2.0


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_calibration_error_against_scikit_learn(classes: int):
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 500)
    raw = rng.gamma(0.3, size=(500, classes)) + 1e-9
    probabilities = raw / raw.sum(1, keepdims=True)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    accuracy, mean = calibration_curve(right, confidence, n_bins=15, strategy="uniform")
    counts = np.bincount(np.searchsorted(np.linspace(0, 1, 16)[1:-1], confidence), minlength=15)
    assert calibration_error(labels, probabilities) == pytest.approx(np.sum(counts[counts > 0] / 500 * abs(accuracy - mean)), abs=1e-12)


def test_calibration_error_by_hand():
    # confidence .9, .9 in one bin (one right), .6 and .6 in another (both right), 1 in the last (wrong)
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [1.0, 0.0]])
    labels = np.array([0, 1, 1, 0, 1])
    assert calibration_error(labels, probabilities) == pytest.approx((2 * abs(0.5 - 0.9) + 2 * abs(1 - 0.6) + abs(0 - 1)) / 5)
    assert calibration_error(np.array([0, 1]), np.eye(2)) == 0.0


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    # two thirds is the upper edge of bin 10: with .65 (same bin) the gaps cancel, and with .7 (next bin) they add up
    edge = np.linspace(0, 1, 16)[10]
    wrong_then_right = np.array([1, 0])
    below = np.array([[edge, 1 - edge], [0.65, 0.35]])
    above = np.array([[edge, 1 - edge], [0.7, 0.3]])
    assert calibration_error(wrong_then_right, below) == pytest.approx(abs(1 - edge - 0.65) / 2)
    assert calibration_error(wrong_then_right, above) == pytest.approx((edge + 0.3) / 2)


def test_without_a_class_only_what_averages_over_classes_is_undefined():
    labels, probabilities = three_classes()
    kept = labels != 1
    found = named(labels[kept], probabilities[kept], ("cat", "dog", "elk"))
    for name in ("auc-ovr-weighted", "auc-ovr-macro"):
        assert found[name] == Metric(name, None, "undefined: no test image of class dog")
    assert found["balanced-accuracy"].value is None
    assert found["balanced-accuracy"].reason == "undefined: no test image of class dog, so it has no accuracy to average over"
    assert found["log-loss"].value == pytest.approx(log_loss(labels[kept], probabilities[kept], labels=[0, 1, 2]))
    assert found["brier"].value == pytest.approx(((probabilities[kept] - np.eye(3)[labels[kept]]) ** 2).sum(1).mean())
    assert found["calibration-error"].value == calibration_error(labels[kept], probabilities[kept])
    assert all(found[name].reason == "" for name in METRICS_LOWER_IS_BETTER)


def test_one_class_alone_in_a_fold_of_two():
    found = named(np.zeros(3, dtype=int), np.array([[0.8, 0.2], [0.5, 0.5], [0.4, 0.6]]), ("cat", "dog"))
    assert [name for name, one in found.items() if one.value is None] == ["auc", "balanced-accuracy"]
    assert found["log-loss"].value == pytest.approx(-np.log([0.8, 0.5, 0.4]).mean())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nothing_is_defined_where_the_output_is_not_finite(bad: float):
    labels, probabilities = three_classes()
    probabilities[[3, 50], 1] = bad
    for one in metrics(labels, probabilities, classes=tuple("abc"), average="macro"):
        assert (one.value, one.reason) == (None, "undefined: the network's output is NaN or infinite for 2 of 200 test images")


def test_an_empty_fold_is_undefined():
    for one in metrics(np.zeros(0, dtype=int), np.zeros((0, 2)), classes=("cat", "dog"), average="macro"):
        assert (one.value, one.reason) == (None, "undefined: there is no test image")


def test_a_sure_and_wrong_network_has_a_finite_log_loss():
    assert named(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]), ("cat", "dog"))["log-loss"].value == pytest.approx(36.0436533891 / 2)


@pytest.mark.parametrize("classes", [2, 3])
def test_selection_is_the_macro_auc_then_the_log_loss(classes: int):
    labels, probabilities = three_classes()
    if classes == 2:
        labels, probabilities = (labels > 0).astype(int), np.stack([probabilities[:, 0], 1 - probabilities[:, 0]], axis=1)
    probabilities = probabilities.round(2)  # ties
    probabilities[:, 0] = 1 - probabilities[:, 1:].sum(1)
    area = auc(labels, probabilities, classes=tuple("abc")[:classes], average="macro")[0]
    value = selection_value(labels, probabilities, classes, "auc")
    assert value == pytest.approx((area, -log_loss(labels, probabilities)), abs=1e-12)
    assert selection_value(labels, probabilities, classes, "log-loss") == value[::-1]


def test_selection_does_without_a_class():
    labels, probabilities = three_classes()
    kept = labels != 1
    labels, probabilities = labels[kept], probabilities[kept]
    area, gain = selection_value(labels, probabilities, 3, "auc")
    assert area == pytest.approx(np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in (0, 2)]), abs=1e-12)
    assert gain == pytest.approx(-log_loss(labels, probabilities, labels=[0, 1, 2]), abs=1e-12)
    alone = probabilities[labels == 0]
    assert selection_value(np.zeros(len(alone), dtype=int), alone, 3, "auc") == pytest.approx((0.5, np.log(alone[:, 0]).mean()))


def test_selection_puts_better_networks_first_and_broken_ones_last():
    labels = np.array([0, 0, 1, 1])

    def binary(*positive: float) -> np.ndarray:
        return np.stack([1 - np.array(positive), np.array(positive)], axis=1)

    sure, unsure, poor = binary(0.1, 0.2, 0.8, 0.9), binary(0.4, 0.4, 0.6, 0.6), binary(0.1, 0.7, 0.6, 0.9)
    worst, broken = binary(1, 1, 0, 0), binary(0.1, 0.2, 0.8, np.nan)
    for how in ("auc", "log-loss"):
        keys = [selection_value(labels, one, 2, how) for one in (sure, unsure, poor, worst, broken)]
        assert np.isfinite(keys).all()
        assert keys[0] > keys[1] > keys[3] >= keys[4]
        assert keys[0] > keys[2] > keys[3]
    assert selection_value(labels, poor, 2, "auc") < selection_value(labels, unsure, 2, "auc")
    assert selection_value(labels, broken, 2, "auc") == pytest.approx((0.0, -36.0436533891))
    half = np.array(sure, dtype=np.float32)
    assert selection_value(labels, half, 2, "auc") == pytest.approx(selection_value(labels, sure, 2, "auc"), abs=1e-6)


def test_metrics_module_is_light():
    code = "import sys, simkit.transfer.metrics; print([m for m in ('sklearn', 'scipy', 'torch', 'pandas', 'pyarrow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
