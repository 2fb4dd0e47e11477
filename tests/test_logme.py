"""LogME: the exact evidence against densities, another solver and reference values; degenerate features; regression and several labels; refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from simkit.errors import DataError, NotEnoughData
from simkit.estimators.assessment import assessed, seen_of, transferability
from simkit.estimators.base import Score
from simkit.estimators.checks import check_estimator
from simkit.estimators.comparison import Sampling
from simkit.estimators.decomposition import Rows, Spectrum, spectrum
from simkit.estimators.examples import example_cards
from simkit.estimators.logme import LogMe, maximum_evidence
from simkit.estimators.seen import Seen

RNG = np.random.default_rng(0)


def clouds(n: int, d: int, classes: int = 3, seed: int = 0, gap: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    return gap * rng.normal(size=(classes, d))[labels] + rng.normal(size=(n, d)) + 0.3, labels


def regression(features: np.ndarray, values: np.ndarray) -> Score:
    return transferability(LogMe("regression"), features, values)


def by_thin_svd(features: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The evidence from singular values themselves, not from those of a Gram matrix."""
    u, s, _ = np.linalg.svd(features, full_matrices=False)
    kept = s > 1e-13 * s[0]
    rising = np.argsort(s[kept])
    found = Spectrum(s[kept][rising] ** 2, (u[:, kept].T @ columns)[rising], float(s @ s), (features.shape[0], features.shape[1]))
    return maximum_evidence(found, (columns**2).sum(0)).values


def mackay(features: np.ndarray, y: np.ndarray) -> float:
    """Evidence over n where MacKay's fixed point ends that starts at alpha = beta = 1, all D eigenvalues counted."""
    n, d = features.shape
    u, s, _ = np.linalg.svd(features, full_matrices=False)
    eigenvalues, energies, alpha, beta = s**2, (u.T @ y) ** 2, 1.0, 1.0
    for _ in range(20_000):
        shrunk = alpha / (alpha + beta * eigenvalues)
        gamma = (1.0 - shrunk).sum()
        weights = (beta**2 * eigenvalues * energies / (alpha + beta * eigenvalues) ** 2).sum()
        residual = y @ y - energies.sum() + (energies * shrunk**2).sum()
        before, alpha, beta = alpha / beta, gamma / weights, (n - gamma) / residual
        if abs(math.log(alpha / beta / before)) < 1e-13:
            break
    width = np.log(alpha + beta * eigenvalues).sum() + (d - len(s)) * math.log(alpha)
    weights = (beta**2 * eigenvalues * energies / (alpha + beta * eigenvalues) ** 2).sum()
    residual = y @ y - energies.sum() + (energies * (alpha / (alpha + beta * eigenvalues)) ** 2).sum()
    return float(d / 2 * math.log(alpha) + n / 2 * math.log(beta) - width / 2 - beta / 2 * residual - alpha / 2 * weights - n / 2 * math.log(2 * math.pi)) / n


def test_reference_values(raw64: tuple[np.ndarray, np.ndarray], few: tuple[np.ndarray, np.ndarray]) -> None:
    """Of the exact evidence; published code gives 1.215386 for the 40 images, for it leaves out eigenvalues that are zero."""
    assert transferability(LogMe(), *raw64).value == pytest.approx(0.27027763, abs=1e-8)
    small = transferability(LogMe(), *few)
    assert small.value == pytest.approx(-0.0084865472, abs=1e-9)
    assert small.detail["n"] == 40
    assert small.detail["d"] == 64
    assert small.flags == ("40 images for 64 features: the prior decides as much as the images",)


def test_iris_as_in_the_authors_code() -> None:
    from sklearn.datasets import load_iris

    assert transferability(LogMe(), *load_iris(return_X_y=True)).value == pytest.approx(-0.1600602436621271, abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(60, 5), (30, 30), (20, 40)])
def test_the_value_is_the_density_at_alpha_and_beta_and_no_other_pair_has_more(n: int, d: int) -> None:
    """log p(y) = log N(0, I / beta + F F' / alpha), by scipy."""
    features, labels = clouds(n, d, gap=0.3, seed=n + d)
    score = transferability(LogMe(), features, labels)
    for name, value in score.detail["evidence"].items():
        y = (labels == int(name)).astype(float)
        alpha, beta = score.detail["alpha"][name], score.detail["beta"][name]

        def density(a: float, b: float, y: np.ndarray = y) -> float:
            return float(multivariate_normal.logpdf(y, cov=np.eye(n) / b + features @ features.T / a)) / n

        assert density(alpha, beta) == pytest.approx(value, abs=1e-9)
        for a in (0.01, 0.5, 0.99, 1.0, 1.01, 2.0, 100.0):
            for b in (0.01, 0.5, 0.99, 1.0, 1.01, 2.0, 100.0):
                assert density(a * alpha, b * beta) <= value + 1e-12
    assert score.value == pytest.approx(np.mean(list(score.detail["evidence"].values())), abs=1e-15)


@pytest.mark.parametrize(("n", "d"), [(80, 6), (200, 40), (25, 60)])
def test_mackays_fixed_point_ends_at_the_same_value(n: int, d: int) -> None:
    features, labels = clouds(n, d, classes=2, gap=0.2)
    for c in range(2):
        expected = mackay(features, (labels == c).astype(float))
        score = regression(features, (labels == c).astype(float))
        creeps = score.detail["beta"]["0"] is None  # towards no noise, which it never reaches
        assert expected - 1e-11 <= score.value <= expected + (1e-6 if creeps else 1e-11)


def two_maxima() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.normal(size=(60, 30)))[0]
    y = 3 * basis[:, :3] @ rng.normal(size=3) + basis[:, 3:] @ rng.normal(size=27) + 0.05 * rng.normal(size=60)
    return basis * np.concatenate([np.full(3, 1e2), np.full(27, 1e-2)]), y


def test_the_larger_of_two_maxima_is_found_where_the_fixed_point_takes_the_other() -> None:
    features, y = two_maxima()
    score = regression(features, y)
    assert score.value > mackay(features, y) + 0.1
    basis, size = np.linalg.qr(features)[0], np.linalg.norm(features, axis=0) ** 2
    energies = (basis.T @ y) ** 2
    ratios = np.exp(np.arange(-60.0, 60.0, 0.01))[:, None]
    misfit = y @ y - energies.sum() + (energies * ratios / (size + ratios)).sum(1)
    everywhere = (-0.5 * np.log1p(size / ratios).sum(1) + 30 * np.log(60 / misfit) - 30 * (1 + math.log(2 * math.pi))) / 60
    assert everywhere.max() - 1e-6 <= score.value <= everywhere.max() + 1e-5


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(8, 60), st.integers(1, 30), st.integers(2, 4))
def test_gram_matrix_and_thin_svd_agree(seed: int, n: int, d: int, classes: int) -> None:
    features, labels = clouds(n, d, classes, seed)
    found = spectrum(Rows(features), np.eye(classes)[labels])
    if found.rank == n:  # square by chance: as ill-conditioned as it can be
        assert n <= d
    ours = maximum_evidence(found, np.bincount(labels, minlength=classes).astype(float)).values
    tolerance = 1e-9 if abs(n - d) > 3 else 1e-6
    np.testing.assert_allclose(ours, by_thin_svd(features, np.eye(classes)[labels]), atol=tolerance)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(40, 6), (12, 20)]))
def test_invariant_to_scale_rotation_order_and_names_but_not_to_shift(seed: int, shape: tuple[int, int]) -> None:
    n, d = shape
    features, labels = clouds(n, d, 3, seed)
    rng = np.random.default_rng(seed)
    value = transferability(LogMe(), features, labels).value
    turn, order = np.linalg.qr(rng.normal(size=(d, d)))[0], rng.permutation(n)
    for factor in (1e-6, 3.7, 1e5):
        assert transferability(LogMe(), factor * features, labels).value == pytest.approx(value, abs=1e-9)
    assert transferability(LogMe(), features @ turn, labels).value == pytest.approx(value, abs=1e-9)
    assert transferability(LogMe(), features[order], labels[order]).value == value
    assert transferability(LogMe(), features, np.array(["z", "b", "k"])[labels]).value == value
    assert abs(transferability(LogMe(), features + 5.0, labels).value - value) > 1e-6


def test_shifted_digits_have_the_value_that_the_authors_code_gives(raw64: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = raw64
    assert transferability(LogMe(), x + 1.0, y).value != pytest.approx(0.27027763, abs=1e-4)


def test_dead_and_repeated_features() -> None:
    """A channel that is zero says nothing; k copies of all features are the features times the root of k, which change nothing."""
    for n, d in ((60, 7), (15, 20), (30, 20)):
        features, labels = clouds(n, d)
        value = transferability(LogMe(), features, labels).value
        dead = np.concatenate([features, np.zeros((n, 30))], axis=1)
        twice = np.concatenate([features, features, features], axis=1)
        for same in (dead, twice):
            score = transferability(LogMe(), same, labels)
            assert score.value == pytest.approx(value, abs=1e-9)
            assert score.detail["rank"] == min(n, d)
            assert score.detail["d"] == same.shape[1]


def test_one_repeated_feature_is_that_feature_longer() -> None:
    features, labels = clouds(60, 7)
    longer = features.copy()
    longer[:, 0] *= math.sqrt(2.0)
    expected = transferability(LogMe(), longer, labels).value
    assert transferability(LogMe(), np.concatenate([features, features[:, :1]], axis=1), labels).value == pytest.approx(expected, abs=1e-10)
    assert abs(transferability(LogMe(), features, labels).value - expected) > 1e-5


def test_ill_conditioned_features_agree_as_far_as_squares_go() -> None:
    """Singular values over six decades: directions below a share of 2.4e-7 count as zero, the others are found."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(200, 12)))[0]
    features, labels = basis * np.logspace(0, -6, 12), rng.integers(0, 3, 200)
    found = spectrum(Rows(features), np.eye(3)[labels])
    assert found.rank == 12
    ours = maximum_evidence(found, np.bincount(labels).astype(float)).values
    np.testing.assert_allclose(ours, by_thin_svd(features, np.eye(3)[labels]), atol=1e-6)
    assert spectrum(Rows(basis * np.logspace(0, -9, 12)), np.eye(3)[labels]).rank < 12


def test_labels_met_exactly_are_bounded_and_said() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 50)
    features = np.concatenate([np.eye(2)[labels], rng.normal(size=(50, 3))], axis=1)
    score = transferability(LogMe(), features, labels)
    assert 10.0 < score.value < 20.0
    assert score.flags == ("2 of 2 columns are met exactly by 5 directions: the value is set by rounding",)
    assert transferability(LogMe(), 1e3 * features, labels).value == pytest.approx(score.value, abs=1e-3)


def test_labels_met_without_noise_have_the_density_of_no_noise() -> None:
    """As many directions as images: the maximum can lie at no noise, where y ~ N(0, F F' / alpha)."""
    n = 25
    features, labels = clouds(n, 60, classes=2, gap=0.2)
    y = (labels == 1).astype(float)
    score = regression(features, y)
    assert score.detail["beta"] == {"0": None}
    assert "1 of 1 columns are met without noise: 25 images span no more than 25 directions" in score.flags
    assert mackay(features, y) < score.value
    alpha = n / float(y @ np.linalg.solve(features @ features.T, y))
    assert score.detail["alpha"]["0"] == pytest.approx(alpha, rel=1e-9)
    assert score.value == pytest.approx(float(multivariate_normal.logpdf(y, cov=features @ features.T / alpha)) / n, abs=1e-9)


def test_features_that_explain_nothing_give_the_density_of_noise_alone() -> None:
    y = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    features = np.array([1.0, 1.0, 2.0, 2.0, 3.0, 3.0])[:, None]  # at right angles to y
    score = regression(features, y)
    assert score.value == pytest.approx(-0.5 - 0.5 * math.log(2 * math.pi), abs=1e-14)
    assert score.detail["alpha"] == {"0": None}
    assert score.flags == ("the features explain nothing of 1 of 1 columns",)
    nothing = regression(np.zeros((6, 2)), y)
    assert nothing.value == score.value
    assert nothing.detail["rank"] == 0


def test_several_labels_are_the_mean_over_their_columns() -> None:
    features, labels = clouds(50, 6, classes=2)
    other = (features[:, 0] > 0).astype(int)
    single = [regression(features, column.astype(float)).value for column in (labels, other)]
    several = transferability(LogMe(), features, np.stack([labels, other], 1))
    assert several.value == pytest.approx(np.mean(single), abs=1e-12)
    assert several.detail["classes"] == 2
    constant = transferability(LogMe(), features, np.stack([labels, other, np.ones(50, int)], 1))  # says nothing: left out
    assert constant.value == several.value


def test_regression_is_the_mean_over_columns_and_reads_class_names_that_are_numbers() -> None:
    features, labels = clouds(50, 6, classes=3)
    values = np.stack([labels + 1.0, features[:, 1] ** 2], 1)
    both = regression(features, values)
    assert both.value == pytest.approx(np.mean([regression(features, values[:, i]).value for i in range(2)]), abs=1e-12)
    assert both.detail["task"] == "regression"
    named = LogMe("regression").assess(Seen(features, labels, ("1", "2.0", "3e0")), RNG)
    assert named.value == pytest.approx(regression(features, values[:, 0]).value, abs=1e-12)
    assert named.value != pytest.approx(transferability(LogMe(), features, labels).value, abs=1e-3)


def test_refusals() -> None:
    features, labels = clouds(20, 4, classes=2)
    with pytest.raises(DataError, match=r"SK203.*class 'mild' of clinic is none\nfix: give a label column of numbers"):
        LogMe("regression").assess(Seen(features, labels, ("1", "mild"), target="clinic"), RNG)
    with pytest.raises(DataError, match=r"class 'nan' of target is none"):
        LogMe("regression").assess(Seen(features, labels, ("1", "nan")), RNG)
    with pytest.raises(DataError, match=r"a regression needs numbers, target has several labels an image"):
        LogMe("regression").assess(Seen(features, indicators=np.eye(2, dtype=bool)[labels], classes=("a", "b")), RNG)
    with pytest.raises(DataError, match=r"target has numbers to be predicted and no classes\nfix: set task = regression"):
        LogMe().assess(Seen(features, values=features[:, :1]), RNG)
    with pytest.raises(NotEnoughData, match=r"column 1 of the numbers of target is 3 for all 20 images: there is nothing to predict"):
        regression(features, np.stack([features[:, 0], np.full(20, 3.0)], 1))
    with pytest.raises(DataError, match=r"column 0 of the numbers of target reaches 1e\+200"):
        regression(features, np.linspace(0, 1e200, 20))
    with pytest.raises(NotEnoughData, match=r"SK501.*logme needs at least two classes, all 20 images of target are of one class"):
        LogMe().assess(Seen(features, np.zeros(20, dtype=np.int64), ("a",)), RNG)
    with pytest.raises(NotEnoughData, match=r"every label is the same for all 20 images"):
        LogMe().assess(Seen(features, indicators=np.ones((20, 2), dtype=bool), classes=("a", "b")), RNG)
    with pytest.raises(DataError, match=r"the largest feature is 1e\+160: its square is no number in float64\nfix: rescale"):
        LogMe().assess(Seen(np.linspace(0, 1e160, 80).reshape(20, 4), labels, ("a", "b")), RNG)


def test_a_class_of_one_image_and_shuffled_labels_have_values() -> None:
    features, labels = clouds(30, 5, classes=2)
    labels[0] = 2
    assert math.isfinite(LogMe().assess(Seen(features, labels, ("a", "b", "c")), RNG).value)
    score = transferability(LogMe(), *clouds(60, 5), repeats=4)
    assert score.floor is not None
    assert score.floor < score.value
    assert score.interval is not None
    assert score.interval[0] < score.value < score.interval[1]


def test_float32_features_in_tiles_give_the_value_of_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clouds(100, 8)
    few, few_labels = clouds(9, 50)
    whole = [LogMe().assess(seen_of(x.astype(np.float32).astype(np.float64), y), RNG).value for x, y in ((features, labels), (few, few_labels))]
    monkeypatch.setattr("simkit.estimators.decomposition.TILE", 40)
    tiled = [LogMe().assess(seen_of(x.astype(np.float32), y), RNG).value for x, y in ((features, labels), (few, few_labels))]
    assert tiled == pytest.approx(whole, abs=1e-11)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_promises(task: str) -> None:
    if task == "classification":
        check_estimator(LogMe())
    else:
        features, labels = clouds(60, 5)
        assert LogMe("regression").assess(Seen(features, labels, ("0", "1", "2")), RNG).converged


def test_numbers_that_each_image_has_alone_are_a_regression_and_no_classes() -> None:
    """Ages as class names, all different: refused as classes, predicted as numbers, with interval and floor."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(40, 4))
    ages = np.round(50 + 10 * features[:, 0] + rng.normal(size=40), 3)
    names, labels = np.unique(ages, return_inverse=True)
    seen = Seen(features, labels, tuple(str(name) for name in names), target="clinic")
    score = assessed(LogMe("regression"), seen, Sampling(0, 5))
    assert score.value == pytest.approx(regression(features, ages).value, abs=1e-12)
    assert score.interval is not None
    assert score.floor is not None
    assert not [flag for flag in score.flags if "class" in flag]
    with pytest.raises(DataError, match=r"40 classes for 40 images"):
        assessed(LogMe(), seen, Sampling(0, 0))
    with pytest.raises(DataError, match=r"class 'old' of clinic is none"):
        assessed(LogMe("regression"), Seen(features, labels % 2, ("50", "old"), target="clinic"), Sampling(0, 0))
    card = replace(example_cards().target, class_counts={str(name): 1 for name in names})
    assert LogMe("regression").missing(card, "target") == ""
    assert "classes for 40 images" in LogMe().missing(card, "target")
