"""H-score: reference values, closed forms, scikit-learn's Ledoit-Wolf, invariances, ill-conditioned features, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simkit.errors import DataError, NotEnoughData
from simkit.estimators.assessment import transferability
from simkit.estimators.checks import check_estimator
from simkit.estimators.decomposition import Rows, spectrum
from simkit.estimators.hscore import HScore, ledoit_wolf_share
from simkit.estimators.seen import Seen

RNG = np.random.default_rng(0)


def clouds(n: int, d: int, classes: int = 3, seed: int = 0, gap: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    return gap * rng.normal(size=(classes, d))[labels] + rng.normal(size=(n, d)) + 0.3, labels


def value(features: np.ndarray, labels: np.ndarray, *, shrinkage: bool) -> float:
    return transferability(HScore(shrinkage), features, labels).value


def written_out(features: np.ndarray, labels: np.ndarray, *, shrinkage: bool) -> float:
    """Definition with full matrices, LedoitWolf by scikit-learn."""
    from sklearn.covariance import LedoitWolf

    means = np.stack([features[labels == c].mean(0) for c in np.unique(labels)])[np.unique(labels, return_inverse=True)[1]]
    between = np.atleast_2d(np.cov(means, rowvar=False))
    if not shrinkage:
        return float(np.trace(np.linalg.pinv(np.atleast_2d(np.cov(features, rowvar=False)), rcond=1e-12) @ between))
    fitted = LedoitWolf().fit(features)
    return float(np.trace(np.linalg.inv(fitted.covariance_) @ between) * (1.0 - fitted.shrinkage_))


def test_reference_values(raw64: tuple[np.ndarray, np.ndarray], few: tuple[np.ndarray, np.ndarray]) -> None:
    """tllib's values (transformer-ranker's are the same to 3e-8)."""
    assert value(*raw64, shrinkage=True) == pytest.approx(5.851433, abs=1e-6)
    assert value(*few, shrinkage=True) == pytest.approx(7.2436558, abs=1e-6)
    assert value(*raw64, shrinkage=False) == pytest.approx(5.9179093, abs=1e-6)
    assert value(*few, shrinkage=False) == pytest.approx(9.0, abs=1e-12)


def test_iris_as_in_the_authors_code() -> None:
    from sklearn.datasets import load_iris

    assert value(*load_iris(return_X_y=True), shrinkage=True) == pytest.approx(1.177842499331281, abs=1e-10)


def test_one_feature_is_the_share_of_variance_between_classes() -> None:
    """Correlation ratio: sum of squares between classes over total sum of squares."""
    features, labels = np.array([[0.0], [1.0], [4.0], [7.0], [3.0]]), np.array([0, 0, 1, 1, 1])
    between = 2 * (0.5 - 3.0) ** 2 + 3 * (14 / 3 - 3.0) ** 2
    assert value(features, labels, shrinkage=False) == pytest.approx(between / 30.0, abs=1e-14)


def test_it_is_the_sum_of_squared_canonical_correlations_with_the_classes() -> None:
    features, labels = clouds(90, 6, 4)
    q = np.linalg.qr(features - features.mean(0))[0]
    hot = np.eye(4)[labels]
    p = np.linalg.qr((hot - hot.mean(0))[:, :3])[0]
    expected = (np.linalg.svd(q.T @ p, compute_uv=False) ** 2).sum()
    assert value(features, labels, shrinkage=False) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(8, 60), st.integers(2, 30), st.integers(2, 4), st.booleans())
def test_it_is_the_definition(seed: int, n: int, d: int, classes: int, shrinkage: bool) -> None:
    features, labels = clouds(n, d, classes, seed)
    ours = value(features, labels, shrinkage=shrinkage)
    if shrinkage or abs(n - 1 - d) > 3:  # else as ill-conditioned as it can be
        assert ours == pytest.approx(written_out(features, labels, shrinkage=shrinkage), abs=1e-8)
    assert 0.0 <= ours <= min(classes - 1, d) * (n / (n - 1) if shrinkage else 1.0) + 1e-12


@pytest.mark.parametrize(("n", "d"), [(50, 4), (20, 40), (30, 1), (5, 300)])
def test_share_is_scikit_learns(n: int, d: int) -> None:
    from sklearn.covariance import ledoit_wolf_shrinkage

    features = RNG.normal(size=(n, d)) * np.linspace(1, 5, d) + 2.0
    rows = Rows.of(features, centred=True, where="target")
    share = ledoit_wolf_share(spectrum(rows, np.zeros((n, 1))), rows.squares)
    assert share == pytest.approx(ledoit_wolf_shrinkage(features), abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(40, 6), (12, 20)]), st.booleans())
def test_invariant_to_scale_shift_rotation_order_and_names(seed: int, shape: tuple[int, int], shrinkage: bool) -> None:
    n, d = shape
    features, labels = clouds(n, d, 3, seed)
    rng = np.random.default_rng(seed)
    turn, order = np.linalg.qr(rng.normal(size=(d, d)))[0], rng.permutation(n)
    expected = value(features, labels, shrinkage=shrinkage)
    for factor in (1e-6, 3.7, 1e5):
        assert value(factor * features, labels, shrinkage=shrinkage) == pytest.approx(expected, abs=1e-9)
    assert value(features + 100.0, labels, shrinkage=shrinkage) == pytest.approx(expected, abs=1e-9)
    assert value(features @ turn, labels, shrinkage=shrinkage) == pytest.approx(expected, abs=1e-9)
    assert value(features[order], labels[order], shrinkage=shrinkage) == expected
    assert value(features, np.array(["z", "b", "k"])[labels], shrinkage=shrinkage) == expected


def test_only_the_plain_score_is_invariant_to_affine_maps() -> None:
    features, labels = clouds(60, 5)
    mixed = features @ (np.random.default_rng(1).normal(size=(5, 5)) * np.logspace(0, -6, 5)) + 1.0
    assert value(mixed, labels, shrinkage=False) == pytest.approx(value(features, labels, shrinkage=False), abs=1e-8)
    assert abs(value(mixed, labels, shrinkage=True) - value(features, labels, shrinkage=True)) > 0.01


def test_features_of_small_scale_count_in_the_plain_score() -> None:
    """A rarely active channel tells the classes apart: a tolerance on unscaled features would lose it."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    features = np.stack([1e6 * rng.normal(size=80), 1e-6 * labels], 1)
    assert value(features, labels, shrinkage=False) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("shrinkage", [False, True])
@pytest.mark.parametrize(("n", "d"), [(60, 7), (12, 20)])
def test_dead_and_repeated_features(n: int, d: int, shrinkage: bool) -> None:
    """Copies and constants (0.1 is no sum of powers of two: its mean is rounded) change no rank, and the plain score not at all."""
    features, labels = clouds(n, d)
    same = np.concatenate([features, features[:, :3], np.zeros((n, 4)), np.full((n, 5), 0.1)], axis=1).astype(np.float32)
    score = transferability(HScore(shrinkage), same, labels)
    assert score.detail["rank"] == min(n - 1, d)
    assert score.value == pytest.approx(written_out(same.astype(np.float64), labels, shrinkage=shrinkage), abs=1e-6)
    if not shrinkage:
        assert score.value == pytest.approx(value(features.astype(np.float32), labels, shrinkage=False), abs=1e-9)


def test_classes_with_the_same_means_and_classes_that_are_points() -> None:
    features = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    labels = np.array([0, 0, 1, 1])
    points = np.repeat(np.array([[0.0, 1.0], [2.0, 3.0], [5.0, 1.0]]), 4, axis=0)
    for shrinkage in (False, True):
        assert value(features, labels, shrinkage=shrinkage) == pytest.approx(0.0, abs=1e-15)
    assert value(points, np.repeat(np.arange(3), 4), shrinkage=False) == pytest.approx(2.0, abs=1e-12)
    for shrinkage in (False, True):
        equal = transferability(HScore(shrinkage), np.full((12, 3), 0.1), np.repeat(np.arange(3), 4))
        assert equal.value == 0.0
        assert equal.flags == ("all images have equal features",)


def test_flags_say_where_few_images_make_it_unreliable() -> None:
    cases = {40: "40 images for 64 features: saturates at C - 1 = 2", 65: "65 images for 64 features: saturates at C - 1 = 2",
             100: "100 images for 64 features: too high below 128 images", 128: ""}
    for n, expected in cases.items():
        features, labels = clouds(n, 64)
        labels = np.random.default_rng(1).permutation(labels)  # say nothing
        score = transferability(HScore(False), features, labels)
        assert score.flags == ((expected,) if expected else ())
        if n <= 65:
            assert score.value == pytest.approx(2.0, abs=1e-9)
        shrunk = transferability(HScore(), features, labels)
        assert shrunk.value < score.value
        assert len(shrunk.flags) == (n <= 64)
    few = transferability(HScore(), *clouds(40, 64))
    assert few.flags == (f"40 images for 64 features: depends on the shrinkage ({few.detail['shrinkage']:.3g})",)
    assert few.detail["n"] == 40
    assert few.detail["classes"] == 3


def test_refusals() -> None:
    features, labels = clouds(20, 4, classes=2)
    with pytest.raises(NotEnoughData, match=r"SK501.*hscore needs at least two classes, all 20 images of clinic are of one class"):
        HScore().assess(Seen(features, np.zeros(20, dtype=np.int64), ("a", "b"), target="clinic"), RNG)
    with pytest.raises(DataError, match=r"SK208.*hscore needs one label an image, target has numbers to be predicted\nfix: give classes, or use logme"):
        HScore().assess(Seen(features, values=features[:, :1]), RNG)
    with pytest.raises(DataError, match=r"target has several labels an image"):
        HScore().assess(Seen(features, indicators=np.eye(2, dtype=bool)[labels], classes=("a", "b")), RNG)
    with pytest.raises(DataError, match=r"SK203.*the largest feature is 1e-160"):
        HScore().assess(Seen(np.linspace(0, 1e-160, 80).reshape(20, 4), labels, ("a", "b")), RNG)


def test_a_class_of_one_image_and_shuffled_labels_have_values() -> None:
    features, labels = clouds(30, 5, classes=2)
    labels[0] = 2
    assert 0.0 < HScore().assess(Seen(features, labels, ("a", "b", "c", "empty")), RNG).value < 2.0
    score = transferability(HScore(), *clouds(60, 5), repeats=4)
    assert score.floor is not None
    assert score.floor < score.value


def test_float32_features_in_tiles_give_the_value_of_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [clouds(100, 8), clouds(9, 50)]
    whole = [value(x.astype(np.float32).astype(np.float64), y, shrinkage=s) for x, y in cases for s in (False, True)]
    monkeypatch.setattr("simkit.estimators.decomposition.TILE", 40)
    assert [value(x.astype(np.float32), y, shrinkage=s) for x, y in cases for s in (False, True)] == pytest.approx(whole, abs=1e-11)


@pytest.mark.parametrize("shrinkage", [False, True])
def test_promises(shrinkage: bool) -> None:
    check_estimator(HScore(shrinkage))
