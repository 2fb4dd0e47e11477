"""GBC: reference values, integrals, scikit-learn's PCA, invariances and where there are none, classes without variance, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from simkit.errors import DataError, NotEnoughData, UsageError
from simkit.estimators.assessment import transferability
from simkit.estimators.checks import check_estimator
from simkit.estimators.decomposition import Rows
from simkit.estimators.gbc import Gbc, class_overlaps, principal_components
from simkit.estimators.seen import Seen
from simkit.registry import build_options

RNG = np.random.default_rng(0)
KINDS = ("diagonal", "spherical")


def clouds(n: int, d: int, classes: int = 3, seed: int = 0, gap: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    return gap * rng.normal(size=(classes, d))[labels] + rng.normal(size=(n, d)) * np.linspace(1, 2, d) + 0.3, labels


def value(features: np.ndarray, labels: np.ndarray, **options: object) -> float:
    return transferability(Gbc(**options), features, labels).value  # type: ignore[arg-type]


def test_reference_values(raw64: tuple[np.ndarray, np.ndarray], few: tuple[np.ndarray, np.ndarray]) -> None:
    """Published values, without principal components; many variances are raised to the published 1e-4."""
    assert value(*raw64, dimensions=0) == pytest.approx(-0.0027073508, abs=1e-10)
    assert value(*few, dimensions=0) == pytest.approx(-2.78e-13, rel=1e-3)
    assert value(*raw64, covariance="spherical", dimensions=0) == pytest.approx(-0.045731798, abs=1e-9)
    assert value(*few, covariance="spherical", dimensions=0) == pytest.approx(-5.74e-6, abs=1e-8)


def test_overlap_is_the_integral_of_the_root_of_the_product() -> None:
    means, variances = np.array([[0.0], [1.5]]), np.array([[0.5], [2.0]])
    root = quad(lambda x: math.sqrt(norm.pdf(x, 0.0, math.sqrt(0.5)) * norm.pdf(x, 1.5, math.sqrt(2.0))), -30, 30)[0]
    np.testing.assert_allclose(class_overlaps(means, variances), [[1.0, root], [root, 1.0]], atol=1e-10)


@pytest.mark.parametrize("covariance", KINDS)
def test_it_is_the_formula_with_determinants(covariance: str) -> None:
    features, labels = clouds(60, 5)
    parts = [features[labels == c] for c in range(3)]
    covariances = [np.diag(p.var(0)) if covariance == "diagonal" else p.var(0).mean() * np.eye(5) for p in parts]
    total = 0.0
    for a in range(3):
        for b in range(3):
            middle, gap = (covariances[a] + covariances[b]) / 2, parts[a].mean(0) - parts[b].mean(0)
            size = np.linalg.det(middle) / math.sqrt(np.linalg.det(covariances[a]) * np.linalg.det(covariances[b]))
            total -= (a != b) * math.exp(-(gap @ np.linalg.solve(middle, gap) / 8 + 0.5 * math.log(size)))
    score = transferability(Gbc(covariance, 0), features, labels)  # type: ignore[arg-type]
    assert score.value == pytest.approx(total, abs=1e-13)
    assert score.detail["raised"] == 0


@pytest.mark.parametrize(("n", "d", "k"), [(60, 8, 3), (60, 8, 64), (12, 30, 5), (12, 30, 64)])
def test_components_are_scikit_learns(n: int, d: int, k: int) -> None:
    from sklearn.decomposition import PCA

    features, labels = clouds(n, d)
    points = principal_components(Rows.of(features, centred=True, where="target"), k)
    expected = PCA(min(k, d, n - 1)).fit_transform(features)
    assert points.shape == expected.shape
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-9)
    for covariance in KINDS:
        assert value(features, labels, covariance=covariance, dimensions=k) == pytest.approx(
            value(expected, labels, covariance=covariance, dimensions=0), abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(40, 6), (12, 20)]), st.sampled_from(KINDS), st.sampled_from([4, 64]))
def test_bounds_and_invariance_to_shift_rotation_order_and_names(seed: int, shape: tuple[int, int], covariance: str, dimensions: int) -> None:
    n, d = shape
    features, labels = clouds(n, d, 3, seed)
    rng = np.random.default_rng(seed)
    turn, order = np.linalg.qr(rng.normal(size=(d, d)))[0], rng.permutation(n)

    def of(x: np.ndarray, y: np.ndarray = labels, smallest: float = 1e-4) -> float:
        return value(x, y, covariance=covariance, dimensions=dimensions, smallest_variance=smallest)

    expected = of(features)
    assert -6.0 <= expected <= 0.0
    assert of(features + 100.0) == pytest.approx(expected, abs=1e-8)
    assert of(features @ turn) == pytest.approx(expected, abs=1e-8)
    assert of(features[order], labels[order]) == expected
    assert of(features, np.array(["z", "b", "k"])[labels]) == expected
    for factor in (1e-3, 1e3):
        assert of(factor * features, smallest=0.0) == pytest.approx(of(features, smallest=0.0), abs=1e-9)


def test_scale_matters_where_variances_are_raised_and_rotation_where_features_are_taken_as_they_are() -> None:
    features, labels = clouds(60, 5)
    value_here = value(features, labels)
    assert abs(value(1e-2 * features, labels) - value_here) > 1e-3
    turned = features @ np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    assert abs(value(turned, labels, dimensions=0) - value(features, labels, dimensions=0)) > 1e-6
    spherical = [value(x, labels, dimensions=0, covariance="spherical") for x in (features, turned)]
    assert spherical[0] == pytest.approx(spherical[1], abs=1e-10)


def test_equal_classes_overlap_fully_and_far_classes_not_at_all() -> None:
    features = np.random.default_rng(0).normal(size=(20, 3))
    thrice, labels = np.concatenate([features] * 3), np.repeat(np.arange(3), 20)
    for covariance in KINDS:
        assert value(thrice, labels, covariance=covariance) == pytest.approx(-6.0, abs=1e-12)
        far = transferability(Gbc(covariance), thrice + 1e3 * labels[:, None], labels)  # type: ignore[arg-type]
        assert far.value == 0.0
        assert math.copysign(1.0, far.value) == 1.0
        assert far.flags == ("no two classes overlap: saturated at 0",)


def test_points_overlap_with_no_other_gaussian_and_fully_with_themselves() -> None:
    means = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 2.0], [0.0, 1.0]])
    variances = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.5]])
    expected = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(class_overlaps(means, variances), expected)


def test_variances_that_are_raised_and_classes_of_one_image_are_counted() -> None:
    features, labels = clouds(30, 4, classes=2)
    labels[0] = 2
    features[labels == 0, 1] = 0.5
    seen = Seen(features, labels, ("a", "b", "c", "empty"))
    score = Gbc(dimensions=0).assess(seen, RNG)
    assert score.detail["raised"] == 5  # one of class a, all four of class c
    assert score.detail["single"] == 1
    assert score.detail["classes"] == 3
    assert score.flags == ("5 of 12 variances raised to 0.0001", "1 of 3 classes have one image and no variance of their own")
    exact = Gbc(dimensions=0, smallest_variance=0.0).assess(seen, RNG)
    assert exact.value == 0.0
    assert math.isfinite(Gbc("spherical", 0, 0.0).assess(seen, RNG).value)


def test_dead_and_repeated_features_leave_the_components_alone() -> None:
    features, labels = clouds(60, 5)
    same = np.concatenate([features, np.full((60, 3), 0.1)], axis=1)
    score = transferability(Gbc(), same, labels)
    assert score.value == pytest.approx(value(features, labels), abs=1e-10)
    assert score.detail["dimensions"] == 5
    twice = np.concatenate([features, features], axis=1)
    assert value(twice, labels, smallest_variance=0.0) == pytest.approx(value(features, labels, smallest_variance=0.0), abs=1e-9)


def test_equal_features_flags_and_detail() -> None:
    equal = transferability(Gbc(), np.full((9, 2), 0.1), np.arange(9) % 3)
    assert equal.value == -6.0
    assert equal.flags == ("all images have equal features",)
    score = transferability(Gbc(), *clouds(30, 40))
    assert score.flags[0] == "30 images for 40 features: variances of few images, overlaps too small"
    assert score.detail["dimensions"] == 29
    assert score.detail["n"] == 30
    assert score.detail["d"] == 40
    near = np.concatenate([RNG.normal(size=(20, 2)), RNG.normal(size=(20, 2)) + 0.1, RNG.normal(size=(20, 2)) + 9])
    assert set(transferability(Gbc(), near, np.repeat(["a", "b", "c"], 20)).detail["closest_classes"]) == {"a", "b"}


def test_refusals() -> None:
    features, labels = clouds(20, 4, classes=2)
    with pytest.raises(NotEnoughData, match=r"SK501.*gbc needs at least two classes, all 20 images of clinic are of one class"):
        Gbc().assess(Seen(features, np.zeros(20, dtype=np.int64), ("a",), target="clinic"), RNG)
    with pytest.raises(DataError, match=r"SK208.*gbc needs one label an image, target has several labels an image"):
        Gbc().assess(Seen(features, indicators=np.eye(2, dtype=bool)[labels], classes=("a", "b")), RNG)
    with pytest.raises(DataError, match=r"SK203.*the largest feature is 1e\+160"):
        Gbc().assess(Seen(np.linspace(0, 1e160, 80).reshape(20, 4), labels, ("a", "b")), RNG)
    with pytest.raises(UsageError, match=r"dimensions.*-1"):
        build_options(Gbc, {"dimensions": -1}, "gbc")


def test_shuffled_labels_overlap_more() -> None:
    score = transferability(Gbc(), *clouds(60, 5), repeats=4)
    assert score.floor is not None
    assert score.floor < score.value


def test_float32_features_in_tiles_give_the_value_of_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [clouds(100, 8), clouds(12, 50)]
    whole = [value(x.astype(np.float32).astype(np.float64), y, dimensions=4) for x, y in cases]
    monkeypatch.setattr("simkit.estimators.decomposition.TILE", 40)
    assert [value(x.astype(np.float32), y, dimensions=4) for x, y in cases] == pytest.approx(whole, abs=1e-10)


@pytest.mark.parametrize("covariance", KINDS)
@pytest.mark.parametrize("dimensions", [0, 64])
def test_promises(covariance: str, dimensions: int) -> None:
    check_estimator(Gbc(covariance, dimensions))  # type: ignore[arg-type]
