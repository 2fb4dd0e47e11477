"""PARC: scipy's rank correlation, values of other code on digits and why they differ, principal components, large sets, invariances, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import simkit
from simkit.errors import DataError, NotEnoughData
from simkit.estimators.base import Score
from simkit.estimators.checks import check_estimator
from simkit.estimators.parc import Parc, label_rank_correlation, principal_components, row_correlations, stratified_part
from simkit.estimators.seen import Seen

Labelled = tuple[np.ndarray, np.ndarray]


def clouds(n: int = 60, d: int = 6, classes: int = 3, seed: int = 0) -> Labelled:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    return rng.standard_normal((n, d)) + np.eye(classes, d)[labels], labels


def score(x: np.ndarray, y: np.ndarray, **options: object) -> Score:
    result: Score = simkit.transferability(Parc(**options), x, y)  # type: ignore[arg-type]
    return result


def published(x: np.ndarray, y: np.ndarray, *, exact: bool) -> float:
    """100 Spearman of the two lower triangles, by scikit-learn and scipy; ``exact``: labels' distances are compared as what they are."""
    lower = np.tril_indices(len(x), -1)
    features = 1 - np.corrcoef(StandardScaler().fit_transform(x))
    labels = 1 - np.corrcoef(np.eye(int(y.max()) + 1)[y])
    return 100 * float(spearmanr(features[lower], np.round(labels[lower], 9) if exact else labels[lower])[0])


@pytest.mark.parametrize("size", ["all", "few"])
def test_value_is_that_of_the_published_formula_with_exact_ties(size: str, raw64: Labelled, few: Labelled) -> None:
    x, y = raw64 if size == "all" else few
    assert score(x, y).value == pytest.approx(published(x, y, exact=True), abs=1e-6)
    assert score(x, y).value == pytest.approx(39.330203 if size == "all" else 39.299178, abs=1e-6)


@pytest.mark.parametrize("size", ["all", "few"])
def test_value_with_principal_components(size: str, raw64: Labelled, few: Labelled) -> None:
    x, y = raw64 if size == "all" else few
    peer = published(PCA(32, svd_solver="full").fit_transform(x), y, exact=True)
    value = score(x, y, dimensions=32).value
    assert value == pytest.approx(peer, abs=1e-4)
    assert value == pytest.approx(27.004568 if size == "all" else 14.690183, abs=1e-4)


def test_values_of_other_code_differ_by_the_rounding_of_one_hot_correlations(raw64: Labelled, few: Labelled) -> None:
    """39.453035 and 39.292234 are values of ranks that rounding has made: near the exact ones, and moved by the names of classes."""
    assert score(*raw64).value == pytest.approx(39.453035, abs=0.2)
    assert score(*few).value == pytest.approx(39.292234, abs=0.02)
    assert score(*raw64, dimensions=32).value == pytest.approx(27.092958, abs=0.2)
    assert score(*few, dimensions=32).value == pytest.approx(14.699441, abs=0.02)
    x, y = few
    names = [np.random.default_rng(seed).permutation(10)[y] for seed in range(4)]
    assert len({round(published(x, name, exact=True), 6) for name in names}) == 1
    assert published(x, y, exact=False) == pytest.approx(39.292234, abs=0.02)
    rounded = np.asarray(1 - np.corrcoef(np.eye(10)[y]))
    assert len(np.unique(rounded)) > 2  # two distances, 0 and 10 / 9, in several roundings


@pytest.mark.parametrize("levels", [3, 1000])
def test_rank_correlation_agrees_with_scipy(levels: int) -> None:
    rng = np.random.default_rng(levels)
    same = rng.random(500) < 0.3
    values = np.round(rng.random(500) + 0.2 * same, 1) if levels == 3 else rng.random(500) + 0.2 * same
    assert label_rank_correlation(values, same) == pytest.approx(float(spearmanr(1 - values, 1 - same)[0]), abs=1e-12)


def test_correlations_of_rows_in_blocks_agree_with_numpy() -> None:
    x = np.random.default_rng(0).standard_normal((1100, 5))
    np.testing.assert_allclose(row_correlations(x), np.asarray(np.corrcoef(x))[np.tril_indices(1100, -1)], atol=1e-11)


@pytest.mark.parametrize(("n", "d"), [(50, 8), (12, 30)])
def test_principal_components_agree_with_scikit_learn(n: int, d: int) -> None:
    x, _ = clouds(n, d)
    np.testing.assert_allclose(principal_components(x, 5), PCA(5, svd_solver="full").fit_transform(x), atol=1e-8)


@pytest.mark.parametrize("classes", [2, 5])
def test_perfect_features_reach_the_bound_of_the_docstring(classes: int) -> None:
    n = 100
    y = np.arange(n) % classes
    x = np.tile(np.eye(classes)[y], 4) + 1e-3 * np.random.default_rng(0).standard_normal((n, 4 * classes))
    share = 1 / classes
    assert score(x, y).value == pytest.approx(100 * np.sqrt(3 * share * (1 - share)), abs=2.0)
    assert abs(score(np.random.default_rng(1).standard_normal((n, 12)), y).value) < 3


def test_a_part_of_a_large_set_is_drawn_by_classes_and_flagged() -> None:
    x, y = clouds(400, 6, 4)
    y = np.where(np.arange(400) < 3, 4, y)
    result = score(x, y, max_images=100)
    used = result.detail["images"]
    assert 100 <= used <= 102  # two images of the small class, which has a share of less than one
    assert result.flags == (f"a random part of {used} of 400 images (max_images)",)
    assert result.detail["pairs"] == used * (used - 1) // 2
    assert result.detail["n"] == 400
    assert result.value == pytest.approx(score(x, y).value, abs=4.0)
    assert result.value != score(x, y).value
    part = stratified_part(y, 100, np.random.default_rng(0))
    assert np.bincount(y[part])[4] == 2
    assert np.abs(np.bincount(y[part])[:4] - np.bincount(y)[:4] / 4).max() <= 1.0
    assert np.array_equal(part, np.unique(part))
    assert not np.array_equal(part, stratified_part(y, 100, np.random.default_rng(1)))
    assert np.array_equal(stratified_part(y, 400, np.random.default_rng(0)), np.arange(400))


def test_constant_features_are_counted(few: Labelled) -> None:
    assert score(*few).detail["constant_features"] == 13
    assert score(*few, dimensions=32).flags == ("40 images for 32 components: the last of them are noise, and count like the first",)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_invariances_and_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = clouds(40, 5, 3, seed)
    order, names, factors = rng.permutation(40), rng.permutation(3), np.exp(rng.standard_normal(5))
    for dimensions in (0, 3):
        value = score(x, y, dimensions=dimensions).value
        assert -100.0 <= value <= 100.0
        for other, labels in ((0.01 * x, y), (x + 3.0, y), (x[order], y[order]), (x, names[y])):
            assert score(other, labels, dimensions=dimensions).value == pytest.approx(value, abs=1e-6)
    assert score(x * factors, y).value == pytest.approx(score(x, y).value, abs=1e-6)


def test_a_rotation_moves_it() -> None:
    x, y = clouds()
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    assert abs(score(x @ turn, y).value - score(x, y).value) > 0.1


def test_refusals() -> None:
    x, y = clouds(40)
    with pytest.raises(NotEnoughData, match=r"one feature: the correlation of two images needs at least two"):
        score(x[:, :1], y)
    with pytest.raises(NotEnoughData, match=r"9 dimensions were asked for, 40 images of 6 features span at most 6[\s\S]*at most 6"):
        score(x, y, dimensions=9)
    with pytest.raises(NotEnoughData, match=r"the standardised features of 40 of 40 images are all equal"):
        score(np.ones((40, 3)), y)
    with pytest.raises(NotEnoughData, match=r"undefined: all pairs of images are equally alike[\s\S]*tell images apart"):
        Parc().assess(Seen(np.eye(3), np.array([0, 0, 1]), ("a", "b")), np.random.default_rng(0))
    with pytest.raises(DataError, match=r"has none"):
        simkit.transferability(Parc(), x, None)


def test_half_samples_without_two_images_of_a_class_say_why() -> None:
    with pytest.raises(NotEnoughData, match=r"undefined: 0 of 3 pairs of images are of one class[\s\S]*two of a class"):
        Parc().assess(Seen(np.random.default_rng(0).standard_normal((3, 4)), np.arange(3), ("a", "b", "c")), np.random.default_rng(0))


def test_intervals_and_floors() -> None:
    result = simkit.transferability(Parc(), *clouds(), repeats=3)
    assert result.interval is not None
    assert result.floor is not None
    assert result.floor < result.value


@pytest.mark.parametrize("options", [{}, {"dimensions": 4}, {"max_images": 40}])
def test_promises(options: dict[str, object]) -> None:
    check_estimator(Parc, options=options)
