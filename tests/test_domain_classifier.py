"""Domain classifier: the solver against scikit-learn, values on digits, folds, leaks, symmetry, refusals. Its test is in test_label_permutations."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

from simkit.embedding import Embedding, content_order
from simkit.errors import DataError, NotEnoughData, UsageError
from simkit.estimators import domain_classifier, linear_classifier
from simkit.estimators.base import Score
from simkit.estimators.checks import check_estimator
from simkit.estimators.comparison import compare as compare_with_test
from simkit.estimators.domain_classifier import DomainClassifier
from simkit.estimators.linear_classifier import LOGISTIC, SQUARED_HINGE, Features, TrainingRows, balanced_weights, fit_linear
from simkit.estimators.neighbour_classifier import neighbour_shares
from simkit.estimators.stratified_folds import stratified_folds


def cloud(n: int, d: int = 12, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, d)) + shift).astype(np.float32)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32), y


def compare(method: str, source: object, target: object, *, permutations: int = 0, **options: object) -> Score:
    return compare_with_test(method, source, target, permutations=permutations, **options)  # type: ignore[arg-type]


def standardised(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    mean = weights @ x
    return np.asarray((x - mean) / np.sqrt(weights @ (x - mean) ** 2))


@pytest.mark.parametrize("loss", [LOGISTIC, SQUARED_HINGE])
@pytest.mark.parametrize(("n", "m", "d"), [(40, 25, 8), (30, 20, 90), (50, 50, 100), (200, 60, 40)])
def test_solver_agrees_with_scikit_learn(n: int, m: int, d: int, loss: linear_classifier.Loss) -> None:
    x = np.concatenate([cloud(n, d), cloud(m, d, 1, 0.3)]).astype(float)
    side = np.repeat([0, 1], [n, m])
    train = np.arange(n + m) % 4 != 0
    weights = balanced_weights(side[train])
    rows = TrainingRows(Features(x), train, weights)
    everywhere = np.zeros(n + m)
    everywhere[train] = weights
    z = standardised(x, everywhere)
    for penalty in (30.0, 0.3, 0.003):
        if loss is LOGISTIC:
            peer = LogisticRegression(C=1.0 / penalty, tol=1e-12, max_iter=20_000, solver="newton-cg")
        else:  # liblinear penalises the intercept: hardly, when it is scaled up
            peer = LinearSVC(C=1.0 / penalty, loss="squared_hinge", dual=False, tol=1e-10, max_iter=100_000, intercept_scaling=1e3)
        peer.fit(z[train], side[train], sample_weight=weights)
        searched = fit_linear(rows, side[train], weights[:, None], np.array([penalty]), loss)
        fit = fit_linear(rows, side[train], weights[:, None], np.array([penalty]), loss, exact=True)
        assert fit.converged.all()
        assert searched.converged.all()
        scale = np.abs(peer.decision_function(z)).max()
        found = (rows.everywhere(fit.coefficients) + fit.intercepts)[:, 0]
        np.testing.assert_allclose(found, peer.decision_function(z), atol=2e-5 * scale)
        np.testing.assert_allclose(fit.decision[:, 0], found[train], atol=1e-9 * scale)
        held = (weights @ loss.value(np.where(side[train] == 1, 1.0, -1.0) * one.decision[:, 0]) for one in (searched, fit))
        assert next(held) == pytest.approx(next(held), abs=1e-3)


def test_rows_of_weight_zero_take_no_part() -> None:
    x = np.concatenate([cloud(30), cloud(30, seed=1, shift=0.5)]).astype(float)
    side = np.repeat([0, 1], 30)
    weights = balanced_weights(side)
    kept = np.arange(60) % 3 != 0
    masked = np.zeros(60)
    masked[kept] = balanced_weights(side[kept])
    rows = TrainingRows(Features(x), np.ones(60, dtype=bool), weights)
    whole = fit_linear(rows, side, masked[:, None], np.array([0.05]), LOGISTIC, exact=True)
    peer = LogisticRegression(C=20.0, tol=1e-12, max_iter=20_000, solver="newton-cg")
    z = standardised(x, weights)
    peer.fit(z[kept], side[kept], sample_weight=masked[kept])
    np.testing.assert_allclose(whole.decision[:, 0], peer.decision_function(z), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole.coefficients[~kept], 0.0, atol=1e-6)


def test_problems_solved_together_are_those_solved_alone() -> None:
    x = np.concatenate([cloud(60, 150), cloud(60, 150, 1, 0.1)]).astype(float)
    side = np.repeat([0, 1], 60)
    weights = balanced_weights(side)
    rows = TrainingRows(Features(x), np.ones(120, dtype=bool), weights)
    ridges = np.array([100.0, 1.0, 0.01, 0.0001])
    together = fit_linear(rows, side, np.repeat(weights[:, None], 4, axis=1), ridges, LOGISTIC, exact=True)
    assert together.converged.all()
    for column, ridge in enumerate(ridges):
        alone = fit_linear(rows, side, weights[:, None], np.array([ridge]), LOGISTIC, exact=True)
        np.testing.assert_allclose(together.decision[:, column], alone.decision[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [LOGISTIC, SQUARED_HINGE])
def test_separable_sides_converge_with_a_weak_penalty(loss: linear_classifier.Loss) -> None:
    x = np.concatenate([cloud(40, 3), cloud(40, 3, 1, 30.0)]).astype(float)
    side = np.repeat([0, 1], 40)
    rows = TrainingRows(Features(x), np.ones(80, dtype=bool), balanced_weights(side))
    for exact in (False, True):
        fits = fit_linear(rows, side, balanced_weights(side)[:, None], np.array([1e-7]), loss, exact=exact)
        assert fits.converged.all()
        assert ((fits.decision[:, 0] > 0) == (side == 1)).all()


def test_a_step_that_overshoots_is_shortened() -> None:
    margin, move, s = np.zeros((2, 1)), np.array([[20.0], [-19.0]]), np.full((2, 1), 0.5)
    none = np.zeros(1)
    slope = np.array([0.5 * (-0.5 * 20 + 0.5 * 19)])
    length = linear_classifier._step_lengths(margin, move, s, np.array([1.0]), (none, none, none), slope, LOGISTIC)
    loss = 0.5 * (np.logaddexp(0, -20 * length[0]) + np.logaddexp(0, 19 * length[0]))
    assert 0 < length[0] < 0.1
    assert loss < np.log(2)


@pytest.mark.parametrize("loss", [LOGISTIC, SQUARED_HINGE])
def test_derivatives_of_the_losses(loss: linear_classifier.Loss) -> None:
    m = np.array([-30.0, -2.0, -0.1, 0.4, 0.9, 1.3, 40.0])
    step = 1e-6
    np.testing.assert_allclose((loss.value(m + step) - loss.value(m - step)) / (2 * step), loss.slope(m), atol=1e-6)
    np.testing.assert_allclose((loss.slope(m + step) - loss.slope(m - step)) / (2 * step), loss.bend(m), atol=1e-6)


def test_constant_features_become_zero() -> None:
    x = cloud(20, 4).astype(float)
    x[:, 2] = 0.1
    mean, scale = Features(x).moments(np.full(20, 0.05))
    assert scale[2] == 0
    np.testing.assert_allclose(1 / scale[[0, 1, 3]], x.std(0)[[0, 1, 3]], rtol=1e-10)
    np.testing.assert_allclose(mean, 0.0, atol=1e-12)
    one = compare("domain-classifier", x, x + 0.3 * cloud(20, 4, 1) * [1, 1, 0, 1])
    two = compare("domain-classifier", np.delete(x, 2, 1), np.delete(x + 0.3 * cloud(20, 4, 1) * [1, 1, 0, 1], 2, 1), penalties=(0.1,))
    assert 0.0 <= one.value <= 1.0
    assert 0.0 <= two.value <= 1.0


@pytest.mark.parametrize("classifier", ["logistic", "svm", "knn"])
def test_rows_that_are_all_equal_cannot_be_told_apart(classifier: str) -> None:
    """Ten patients a side, every image the same: AUC and accuracy one half, p = 1."""
    groups = tuple(f"{i}" for i in range(20))
    source = Embedding(np.full((20, 5), 3.3), groups=tuple(f"p{g}" for g in groups), name="a")
    target = Embedding(np.full((24, 5), 3.3), groups=tuple(f"q{g}" for g in (*groups, *"0123")), name="b")
    score = compare_with_test("domain-classifier", source, target, classifier=classifier, permutations=49)
    assert (score.value, score.detail["accuracy"], score.p, score.converged) == (0.5, 0.5, 1.0, True)


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
    pair_rows = TrainingRows(Features(cloud(20)), np.ones(20, dtype=bool), np.full(20, 0.05))
    with pytest.raises(NotEnoughData, match=r"no inner fold holds images of both sides.*\nfix: set one penalty"):
        DomainClassifier()._penalty(pair_rows, np.repeat([0, 1], 10), np.arange(20), np.full(20, 0.05))


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
    monkeypatch.setattr("simkit.estimators.linear_classifier.MAX_NEWTON", 1)
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


def test_svm_on_digits(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """AUC of scikit-learn's LinearSVC in shuffled stratified folds, C chosen by AUC: other folds, so within .03."""
    from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = digits
    for source, target in ((x[:898], x[898:]), (x[y < 5][::2], x[y >= 5][::2])):
        both, side = np.concatenate([source, target]), np.repeat([0, 1], [len(source), len(target)])
        svm = GridSearchCV(make_pipeline(StandardScaler(), LinearSVC(dual=False)), {"linearsvc__C": [1e-4, 1e-2, 1.0]}, scoring="roc_auc", cv=3)
        expected = cross_val_score(svm, both, side, cv=StratifiedKFold(5, shuffle=True, random_state=0), scoring="roc_auc").mean()
        score = compare("domain-classifier", source, target, classifier="svm")
        assert score.value == pytest.approx(expected, abs=0.03)
        assert score.converged
        assert score.detail["classifier"] == "svm"


def test_neighbours_agree_with_scikit_learn(digits: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = digits
    x = x + 1e-3 * np.random.default_rng(0).normal(size=x.shape)  # no ties
    train, test, side = x[:300], x[300:400], (y[:300] < 5).astype(float)
    kept = train.std(0) > 0
    mean, spread = train.mean(0), train.std(0)
    peer = KNeighborsClassifier(n_neighbors=7).fit(((train - mean) / spread)[:, kept], side)
    shares, k = neighbour_shares(train, test, 7)
    assert k == 7
    np.testing.assert_allclose(shares @ side, peer.predict_proba(((test - mean) / spread)[:, kept])[:, 1], atol=1e-12)
    assert neighbour_shares(train, test, None)[1] == 17
    assert neighbour_shares(train[:5], test, 9)[1] == 5


def test_neighbours_at_one_distance_share_the_vote() -> None:
    train = np.array([[0.0], [1.0], [-1.0], [5.0]])
    shares, _ = neighbour_shares(train, np.array([[0.0]]), 2)
    np.testing.assert_allclose(shares, [[0.5, 0.25, 0.25, 0.0]])


def test_knn_finds_what_a_line_cannot() -> None:
    """A ring around a ball: no line tells them apart, neighbours do."""
    rng = np.random.default_rng(0)
    ring = rng.normal(size=(150, 2))
    ring *= 4 / np.linalg.norm(ring, axis=1, keepdims=True)
    knn = compare("domain-classifier", ring + 0.2 * rng.normal(size=ring.shape), rng.normal(size=(150, 2)), classifier="knn")
    line = compare("domain-classifier", ring, rng.normal(size=(150, 2)))
    assert knn.value > 0.97
    assert line.value < 0.7
    assert knn.detail["neighbours"] == [15] * 5
    assert "penalties" not in knn.detail
    unequal = compare("domain-classifier", cloud(400), cloud(30, seed=1), classifier="knn")
    assert 0.3 < unequal.detail["accuracy"] < 0.7  # against the shares of the sides: not all for the larger


def test_nan_is_refused() -> None:
    spoilt = Embedding(cloud(20), name="spoilt")
    features = spoilt.features.copy()
    features[3, 1] = np.nan
    object.__setattr__(spoilt, "features", features)
    with pytest.raises(DataError, match=r"SK210.*spoilt"):
        compare("domain-classifier", spoilt, cloud(20, seed=1))


@pytest.mark.parametrize("classifier", ["logistic", "svm", "knn"])
def test_rough_seconds_grow_with_the_sizes(classifier: str) -> None:
    measure = DomainClassifier(classifier=classifier)  # type: ignore[arg-type]
    small, large = measure.seconds(100, 100), measure.seconds(2000, 2000)
    assert small is not None
    assert large is not None
    assert 0 < small < large < 60


@pytest.mark.parametrize("options", [{"report": "auc"}, {"report": "accuracy"}, {"report": "pad"}, {"classifier": "svm"}, {"classifier": "knn"}])
def test_promises(options: dict[str, str]) -> None:
    check_estimator("domain-classifier", options={**options, "permutations": 99})


def test_more_neighbours_than_training_images_are_refused() -> None:
    with pytest.raises(NotEnoughData, match=r"500 neighbours of 48 training images of .*\nfix: set neighbours to at most 48"):
        compare("domain-classifier", cloud(30), cloud(30, seed=1), classifier="knn", neighbours=500)
