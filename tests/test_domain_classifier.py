"""Domain classifier: the solver against scikit-learn, values on digits, folds, leaks, symmetry, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from simkit.embedding import Embedding, content_order
from simkit.errors import NotEnoughData, UsageError
from simkit.estimators import domain_classifier, logistic
from simkit.estimators.base import compare
from simkit.estimators.checks import check_estimator
from simkit.estimators.domain_classifier import DomainClassifier, stratified_folds
from simkit.estimators.logistic import balanced_weights, fit_logistic, principal_axes


def cloud(n: int, d: int = 12, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, d)) + shift).astype(np.float32)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32), y


@pytest.mark.parametrize(("n", "m", "d"), [(40, 25, 8), (30, 20, 90), (50, 50, 100)])
def test_solver_agrees_with_scikit_learn(n: int, m: int, d: int) -> None:
    x = np.concatenate([cloud(n, d), cloud(m, d, 1, 0.3)]).astype(float)
    side = np.repeat([0, 1], [n, m])
    weights = balanced_weights(side)
    other = cloud(15, d, 2).astype(float)
    axes = principal_axes(x, other, weights)
    mean = weights @ x
    spread = np.sqrt(weights @ (x - mean) ** 2)
    columns = []
    for penalty in (30.0, 0.3, 0.003):
        peer = LogisticRegression(C=1.0 / penalty, tol=1e-12, max_iter=20_000, solver="newton-cg")
        peer.fit((x - mean) / spread, side, sample_weight=weights)
        columns.append(peer.decision_function((other - mean) / spread))
    fits = fit_logistic(axes.train, side, np.repeat(weights[:, None], 3, axis=1), np.array([30.0, 0.3, 0.003]), axes.scatter)
    assert fits.converged.all()
    np.testing.assert_allclose(fits.decision(axes.test), np.array(columns).T, rtol=1e-4, atol=1e-5)


def test_rows_of_weight_zero_take_no_part() -> None:
    x = np.concatenate([cloud(30), cloud(30, seed=1, shift=0.5)]).astype(float)
    side = np.repeat([0, 1], 30)
    weights = balanced_weights(side)
    axes = principal_axes(x, x, weights)
    kept = np.arange(60) % 3 != 0
    masked = np.zeros(60)
    masked[kept] = balanced_weights(side[kept])
    ridge = np.array([0.05])
    whole = fit_logistic(axes.train, side, masked[:, None], ridge, axes.scatter).decision(axes.train)
    part = fit_logistic(axes.train[kept], side[kept], masked[kept][:, None], ridge, axes.scatter).decision(axes.train)
    np.testing.assert_allclose(whole, part, rtol=1e-4, atol=1e-5)


def test_separable_sides_converge_with_a_weak_penalty() -> None:
    x = np.concatenate([cloud(40, 3), cloud(40, 3, 1, 30.0)]).astype(float)
    side = np.repeat([0, 1], 40)
    axes = principal_axes(x, x, balanced_weights(side))
    fits = fit_logistic(axes.train, side, balanced_weights(side)[:, None], np.array([1e-7]), axes.scatter)
    assert fits.converged.all()
    assert ((fits.decision(axes.train)[:, 0] > 0) == (side == 1)).all()


def test_a_step_that_overshoots_is_shortened() -> None:
    f, move, side, s = np.zeros((2, 1)), np.array([[20.0], [19.0]]), np.array([1, 0]), np.full((2, 1), 0.5)
    none = np.zeros((1, 1))
    slope = np.array([0.5 * (-0.5 * 20 + 0.5 * 19)])
    length = logistic._step_lengths(f, move, side, s, none, np.zeros((2, 1)), np.array([1.0]), slope)
    loss = 0.5 * (np.logaddexp(0, -20 * length[0]) + np.logaddexp(0, 19 * length[0]))
    assert 0 < length[0] < 0.1
    assert loss < np.log(2)


def test_constant_features_become_zero() -> None:
    x = cloud(20, 4).astype(float)
    x[:, 2] = 0.1
    axes = principal_axes(x, x + 1.0, np.full(20, 0.05))
    assert np.isfinite(axes.train).all()
    assert np.isfinite(axes.test).all()
    assert (axes.scatter > 1e-9).sum() == 3


def test_values_on_digits(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """AUC of alibi-detect's logistic regression in 5 folds: .485, .679, .953, 1.0; other folds and another penalty, so within .03."""
    x, y = digits
    turned = np.rot90(x.reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, 64)
    cases = [(x[::2], x[1::2], 0.485), (x[:898], x[898:], 0.679), (x[y < 5], x[y >= 5], 0.953), (x, turned, 1.0)]
    for source, target, expected in cases:
        score = compare("domain-classifier", source, target)
        assert score.value == pytest.approx(expected, abs=0.03)
        assert score.converged


def test_known_shift_gives_the_known_auc() -> None:
    """Two unit Gaussians whose means differ by delta are told apart with AUC Phi(delta / sqrt 2) at best."""
    from scipy.stats import norm

    source, target = cloud(2000, 2), cloud(2000, 2, 1)
    target[:, 0] += 1.5
    score = compare("domain-classifier", source, target)
    assert score.value == pytest.approx(norm.cdf(1.5 / np.sqrt(2)), abs=0.015)
    assert score.detail["accuracy"] == pytest.approx(norm.cdf(0.75), abs=0.015)


def test_three_reports_of_one_classifier() -> None:
    source, target = cloud(60), cloud(40, seed=1, shift=0.4)
    auc, accuracy, pad = (compare("domain-classifier", source, target, report=report) for report in ("auc", "accuracy", "pad"))
    assert auc.detail == accuracy.detail == pad.detail
    assert (auc.value, accuracy.value, pad.value) == (auc.detail["auc"], auc.detail["accuracy"], auc.detail["pad"])
    assert pad.value == pytest.approx(2 * (1 - 2 * (1 - accuracy.value)), rel=1e-12)
    assert auc.value == pytest.approx(np.mean(auc.detail["fold_auc"]), rel=1e-12)
    assert accuracy.value == pytest.approx(np.mean(auc.detail["fold_accuracy"]), rel=1e-12)
    assert len(auc.detail["penalties"]) == len(auc.detail["fold_auc"]) == 5
    assert set(auc.detail["penalties"]) <= set(DomainClassifier().penalties)
    assert DomainClassifier(report="pad").bounds == (-2.0, 2.0)
    assert DomainClassifier().bounds == (0.0, 1.0)
    assert "accuracy" in DomainClassifier(report="accuracy").unit


def test_equal_far_and_unequal_sizes() -> None:
    assert 0.35 < compare("domain-classifier", cloud(200), cloud(200, seed=1)).value < 0.65
    far = compare("domain-classifier", cloud(60), cloud(60, seed=1, shift=20.0))
    assert (far.value, far.detail["accuracy"], far.detail["pad"]) == (1.0, 1.0, 2.0)
    unequal = compare("domain-classifier", cloud(400), cloud(25, seed=1))
    assert 0.3 < unequal.detail["accuracy"] < 0.7  # not 0.94, the share of the larger side
    shifted = compare("domain-classifier", cloud(400), cloud(25, seed=1, shift=0.6))
    assert shifted.detail["accuracy"] > 0.8  # without equal weights the smaller side would hardly ever be chosen


def test_symmetric_and_blind_to_order_and_seed() -> None:
    source, target = cloud(60, 40), cloud(45, 40, 1, 0.2)
    score = compare("domain-classifier", source, target)
    swapped = compare("domain-classifier", target, source)
    assert swapped.value == score.value
    assert swapped.detail["n"] == score.detail["n"][::-1]
    shuffled = np.random.default_rng(4).permutation(60)
    assert compare("domain-classifier", source[shuffled], target[::-1], seed=9).detail == score.detail


def test_a_set_against_itself_cannot_be_told_apart() -> None:
    """Both copies of an image fall into one fold, so nothing is learnt from one about the other."""
    for d in (6, 80):
        x = cloud(50, d)
        assert compare("domain-classifier", x, x[::-1]).value == 0.5


def test_test_folds_do_not_leak_into_the_fit() -> None:
    """Labels of pure noise in many features: any leak (standardising, penalty or folds) would lift the mean AUC above one half."""
    values = [compare("domain-classifier", cloud(20, 200, s), cloud(20, 200, s + 100)).value for s in range(12)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.12)


def test_groups_stay_whole_and_matter() -> None:
    """Each patient has an own offset: by image the patients are recognised again, by group the sides are the same."""
    rng = np.random.default_rng(0)
    groups = tuple(f"p{i // 10}" for i in range(100))
    x, z = (np.repeat(5 * rng.normal(size=(10, 30)), 10, axis=0) + rng.normal(size=(100, 30)) for _ in range(2))
    by_group = compare("domain-classifier", Embedding(x, groups=groups, name="a"), Embedding(z, groups=tuple(f"q{g}" for g in groups), name="b"))
    by_image = compare("domain-classifier", x, z)
    assert by_image.value > 0.99
    assert by_group.value < 0.85
    assert by_group.detail["grouped"] == (True, True)
    renamed = Embedding(x, groups=tuple(g[::-1] + "!" for g in groups), name="a")
    assert compare("domain-classifier", renamed, Embedding(z, groups=tuple(f"q{g}" for g in groups), name="b")).value == by_group.value
    half = compare("domain-classifier", Embedding(x, groups=groups, name="a"), Embedding(z, name="b"))
    assert half.detail["grouped"] == (True, False)


def test_folds_are_stratified_and_keep_units_whole() -> None:
    side = np.repeat([0, 1], [53, 22])
    fold = stratified_folds(np.arange(75), side, 5)
    for which in (0, 1):
        counts = np.bincount(fold[side == which], minlength=5)
        assert counts.max() - counts.min() <= 1
    totals = np.bincount(fold)
    assert totals.max() - totals.min() <= 1
    units = np.random.default_rng(0).integers(12, size=75)
    grouped = stratified_folds(units, side, 4)
    assert all(len(np.unique(grouped[units == u])) == 1 for u in np.unique(units))
    assert len(np.unique(grouped)) == 4


def test_rates_count_ties_one_half() -> None:
    rng = np.random.default_rng(0)
    side, scores = rng.integers(2, size=60), rng.integers(-3, 4, size=60).astype(float)
    auc, accuracy = domain_classifier._rates(scores, side)
    assert auc == pytest.approx(roc_auc_score(side, scores), rel=1e-12)
    hits = [np.mean(np.where(scores == 0, 0.5, (scores > 0) == which)[side == which]) for which in (0, 1)]
    assert accuracy == pytest.approx(np.mean(hits), rel=1e-12)
    assert domain_classifier._rates(np.zeros(4), np.array([0, 0, 1, 1])) == (0.5, 0.5)


def test_content_order_ignores_the_order_of_rows() -> None:
    x = cloud(30)
    shuffle = np.random.default_rng(1).permutation(30)
    order, digest = content_order(x)
    other, same = content_order(x[shuffle])
    assert digest == same
    np.testing.assert_array_equal(x[order], x[shuffle][other])
    assert content_order(np.array([[0.0]]))[1] == content_order(np.array([[-0.0]]))[1]
    assert content_order(x + 1)[1] != digest


def test_too_few_images_or_groups_are_refused() -> None:
    with pytest.raises(NotEnoughData, match=r"SK501.*'target' has 9 images, a cross-validated classifier needs at least 10"):
        compare("domain-classifier", cloud(20), cloud(9))
    three = Embedding(cloud(30), groups=tuple("abc" * 10), name="few")
    with pytest.raises(NotEnoughData, match=r"'few' has 3 groups \(patients\), 5 folds need at least 5\nfix: set folds = 3"):
        compare("domain-classifier", three, cloud(30, seed=1))
    assert 0.0 <= compare("domain-classifier", three, cloud(30, seed=1), folds=3).value <= 1.0
    with pytest.raises(NotEnoughData, match="'target' has 1 distinct images"):
        compare("domain-classifier", cloud(20), np.ones((20, 12)))


def test_groups_of_both_sets_count_as_one() -> None:
    """One patient holds nearly all images of both sets; every fold still has images of both sides."""
    source = Embedding(cloud(30), groups=("p",) * 26 + tuple("abcd"), name="a")
    target = Embedding(cloud(30, seed=1), groups=("p",) * 26 + tuple("abcd"), name="b")
    assert len(compare("domain-classifier", source, target).detail["fold_auc"]) == 5


def test_folds_of_one_side_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain_classifier, "stratified_folds", lambda units, side, folds: np.where(side == 0, 0, np.arange(len(side)) % folds))
    with pytest.raises(NotEnoughData, match=r"fold 1 of 5 holds images of one side only: groups are too few or too unequal\nfix: set fewer folds"):
        compare("domain-classifier", cloud(20), cloud(20, seed=1))
    with pytest.raises(NotEnoughData, match=r"no inner fold holds images of both sides.*\nfix: set one penalty"):
        DomainClassifier()._penalty(cloud(20).astype(float), np.ones(12), np.repeat([0, 1], 10), np.arange(20), np.full(20, 0.05), 12)


def test_options_are_checked() -> None:
    with pytest.raises(UsageError, match=r"domain-classifier\.penalties: the list of penalties is empty"):
        compare("domain-classifier", cloud(20), cloud(20, seed=1), penalties=())
    with pytest.raises(UsageError, match=r"domain-classifier\.folds.*expected whole number >= 2"):
        compare("domain-classifier", cloud(20), cloud(20, seed=1), folds=1)
    with pytest.raises(UsageError, match=r"domain-classifier\.penalties.*> 0"):
        compare("domain-classifier", cloud(20), cloud(20, seed=1), penalties=(0.1, 0.0))
    one = compare("domain-classifier", cloud(20), cloud(20, seed=1), penalties=(0.01,))
    assert one.detail["penalties"] == [0.01] * 5


def test_unsolved_regression_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simkit.estimators.logistic.MAX_NEWTON", 1)
    score = compare("domain-classifier", cloud(20), cloud(20, seed=1, shift=1.0))
    assert not score.converged
    assert score.flags == ("not converged: logistic regression",)


def test_mixtures_are_ordered_by_their_share(digits: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = digits
    mixed = np.random.default_rng(0).permutation(1797)  # the writers change along the file
    x, y = x[mixed], y[mixed]
    base, other, target = x[y < 5][:400], x[y >= 5][:400], x[y < 5][400:800]
    values = [compare("domain-classifier", np.concatenate([base[: 400 - k], other[:k]]), target).value for k in (0, 100, 200, 300, 400)]
    assert values == sorted(values)


@pytest.mark.parametrize("report", ["auc", "accuracy", "pad"])
def test_promises(report: str) -> None:
    check_estimator(DomainClassifier(report=report))  # type: ignore[arg-type]
