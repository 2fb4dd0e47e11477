"""TransRate: reference values, closed forms, brute force, invariances and where there are none, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simkit.errors import DataError, NotEnoughData, UsageError
from simkit.estimators.assessment import transferability
from simkit.estimators.checks import check_estimator
from simkit.estimators.decomposition import Rows
from simkit.estimators.seen import Seen
from simkit.estimators.transrate import TransRate, coding_rate
from simkit.registry import build_options

RNG = np.random.default_rng(0)


def clouds(n: int, d: int, classes: int = 3, seed: int = 0, gap: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.minimum(np.arange(n) % (classes + 1), classes - 1))  # the last class has twice as many
    return gap * rng.normal(size=(classes, d))[labels] + rng.normal(size=(n, d)) + 0.3, labels


def value(features: np.ndarray, labels: np.ndarray, epsilon: float = 1e-4, *, normalise: bool = False) -> float:
    return transferability(TransRate(epsilon, normalise), features, labels).value


def written_out(features: np.ndarray, labels: np.ndarray, epsilon: float, *, normalise: bool) -> float:
    """The definition with matrices in d dimensions."""
    def rate(z: np.ndarray) -> float:
        return float(0.5 * np.linalg.slogdet(np.eye(z.shape[1]) + z.T @ z / (len(z) * epsilon))[1])

    z = features - features.mean(0)
    classes, counts = np.unique(labels, return_counts=True)
    if not normalise:
        return rate(z) - float(np.mean([rate(z[labels == c]) for c in classes]))
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    within = sum(count * rate(z[labels == c]) for c, count in zip(classes, counts, strict=True)) / len(z)
    return (rate(z) - within) / int(np.linalg.matrix_rank(z))


def test_reference_values(raw64: tuple[np.ndarray, np.ndarray], few: tuple[np.ndarray, np.ndarray]) -> None:
    """tllib's at two epsilons, and the authors' program."""
    assert value(*raw64) == pytest.approx(29.828333, abs=1e-6)
    assert value(*few) == pytest.approx(89.291241, abs=1e-6)
    assert value(*raw64, epsilon=1.0) == pytest.approx(0.35785506, abs=1e-8)
    assert value(*few, epsilon=1.0) == pytest.approx(0.63922643, abs=1e-8)
    assert value(*raw64, normalise=True) == pytest.approx(0.39968549, abs=1e-8)
    assert value(*few, normalise=True) == pytest.approx(1.6474789, abs=1e-7)
    assert value(*raw64) < value(10 * raw64[0], raw64[1]) == pytest.approx(46.3, abs=0.05)


def test_one_feature_has_a_closed_form() -> None:
    """Half the logarithm of 1 + variance over epsilon, of all and of each class around the common mean."""
    features, labels = np.array([[0.0], [2.0], [4.0], [6.0]]), np.array([0, 0, 1, 1])
    score = transferability(TransRate(0.5), features, labels)
    rate, within = 0.5 * math.log1p(5.0 / 0.5), 0.5 * math.log1p((9.0 + 1.0) / 2 / 0.5)
    assert score.detail["rate"] == pytest.approx(rate, abs=1e-14)
    assert score.detail["rate_of_classes"] == pytest.approx(within, abs=1e-14)
    assert score.value == pytest.approx(rate - within, abs=1e-14)


def test_classes_at_right_angles_have_a_closed_form() -> None:
    """Two classes along two axes: each class codes one axis of twice the mean variance."""
    features = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert value(features, np.array([0, 0, 1, 1]), 0.25) == pytest.approx(math.log1p(0.5 / 0.25) - 0.5 * math.log1p(1.0 / 0.25), abs=1e-14)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(10, 60), st.integers(1, 30), st.floats(1e-4, 10.0), st.booleans())
def test_it_is_the_definition(seed: int, n: int, d: int, epsilon: float, normalise: bool) -> None:
    features, labels = clouds(n, d, 3, seed)
    assert value(features, labels, epsilon, normalise=normalise) == pytest.approx(written_out(features, labels, epsilon, normalise=normalise), abs=1e-9)


def test_the_smaller_gram_matrix_has_the_same_determinant() -> None:
    features = np.random.default_rng(0).normal(size=(12, 30))
    wide, tall = coding_rate(Rows(features), epsilon=0.1), 0.5 * np.linalg.slogdet(np.eye(30) + features.T @ features / 1.2)[1]
    assert wide == pytest.approx(tall, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(40, 6), (12, 20)]), st.booleans())
def test_invariant_to_shift_rotation_order_and_names_and_to_scale_only_if_normalised(seed: int, shape: tuple[int, int], normalise: bool) -> None:
    n, d = shape
    features, labels = clouds(n, d, 3, seed)
    rng = np.random.default_rng(seed)
    turn, order = np.linalg.qr(rng.normal(size=(d, d)))[0], rng.permutation(n)
    expected = value(features, labels, normalise=normalise)
    assert value(features + 100.0, labels, normalise=normalise) == pytest.approx(expected, abs=1e-8)
    assert value(features @ turn, labels, normalise=normalise) == pytest.approx(expected, abs=1e-8)
    assert value(features[order], labels[order], normalise=normalise) == expected
    assert value(features, np.array(["z", "b", "k"])[labels], normalise=normalise) == expected
    scaled = value(10 * features, labels, 1e-2, normalise=normalise)
    if normalise:
        assert value(10 * features, labels, normalise=True) == pytest.approx(expected, abs=1e-9)
    else:
        assert scaled == pytest.approx(expected, abs=1e-8)  # epsilon is in squared units
        assert abs(value(10 * features, labels, 100.0) - value(10 * features, labels, 1.0)) > 1e-3


def test_balanced_classes_that_say_nothing_code_nothing() -> None:
    """Each class a copy of the other: no fewer nats."""
    features = np.random.default_rng(0).normal(size=(20, 4))
    twice, labels = np.concatenate([features, features]), np.repeat([0, 1], 20)
    assert value(twice, labels) == pytest.approx(0.0, abs=1e-12)
    assert value(twice, labels, normalise=True) == pytest.approx(0.0, abs=1e-12)


def test_dead_and_repeated_features() -> None:
    features, labels = clouds(40, 6)
    dead = np.concatenate([features, np.full((40, 3), 0.1)], axis=1)
    for normalise in (False, True):
        assert value(dead, labels, normalise=normalise) == pytest.approx(value(features, labels, normalise=normalise), abs=1e-10)
    twice = np.concatenate([features, features], axis=1)  # the features times the root of two
    assert value(twice, labels) == pytest.approx(value(features, labels, 0.5e-4), abs=1e-9)
    assert transferability(TransRate(normalise=True), twice, labels).detail["rank"] == 6


def test_rows_at_the_mean_and_equal_features_are_said() -> None:
    features = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 0.0], [0.0, 0.0]])
    for shift in (0.0, 0.1, 1e3 / 3):  # the mean of the shifted rows is rounded: what is left of a row at the mean has no direction
        score = transferability(TransRate(normalise=True), features + shift, np.array([0, 0, 1, 1, 0, 1]))
        assert score.detail["zero_rows"] == 2
        assert score.flags == ()
    for normalise in (False, True):
        equal = transferability(TransRate(normalise=normalise), np.full((6, 2), 0.1), np.array([0, 0, 1, 1, 0, 1]))
        assert equal.value == 0.0
        assert equal.flags == ("all images have equal features",)


def test_flag_and_detail() -> None:
    score = transferability(TransRate(), *clouds(30, 40))
    assert score.flags == ("30 images for 40 features: high for any labels",)
    assert score.detail["n"] == 30
    assert score.detail["d"] == 40
    assert score.detail["classes"] == 3
    assert score.detail["epsilon"] == 1e-4
    assert transferability(TransRate(), *clouds(41, 40)).flags == ()


def test_refusals() -> None:
    features, labels = clouds(20, 4, classes=2)
    with pytest.raises(NotEnoughData, match=r"SK501.*transrate needs at least two classes, all 20 images of clinic are of one class"):
        TransRate().assess(Seen(features, np.zeros(20, dtype=np.int64), ("a",), target="clinic"), RNG)
    with pytest.raises(DataError, match=r"SK208.*transrate needs one label an image, target has numbers to be predicted"):
        TransRate().assess(Seen(features, values=features[:, :1]), RNG)
    with pytest.raises(DataError, match=r"SK203.*the largest feature is 1e\+160"):
        TransRate().assess(Seen(np.linspace(0, 1e160, 80).reshape(20, 4), labels, ("a", "b")), RNG)
    with pytest.raises(UsageError, match=r"epsilon.*0"):
        build_options(TransRate, {"epsilon": 0.0}, "transrate")


def test_a_class_of_one_image_and_shuffled_labels_have_values() -> None:
    features, labels = clouds(30, 5, classes=2)
    labels[0] = 2
    assert math.isfinite(TransRate().assess(Seen(features, labels, ("a", "b", "c", "empty")), RNG).value)
    score = transferability(TransRate(), *clouds(60, 5, gap=3.0), repeats=4)
    assert score.floor is not None
    assert score.floor < score.value


@pytest.mark.parametrize("normalise", [False, True])
def test_float32_features_in_tiles_give_the_value_of_float64(monkeypatch: pytest.MonkeyPatch, normalise: bool) -> None:
    cases = [clouds(100, 8), clouds(12, 50)]
    whole = [value(x.astype(np.float32).astype(np.float64), y, normalise=normalise) for x, y in cases]
    monkeypatch.setattr("simkit.estimators.decomposition.TILE", 40)
    assert [value(x.astype(np.float32), y, normalise=normalise) for x, y in cases] == pytest.approx(whole, abs=1e-10)


@pytest.mark.parametrize("normalise", [False, True])
def test_promises(normalise: bool) -> None:
    check_estimator(TransRate(normalise=normalise))
