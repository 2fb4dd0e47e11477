"""The domain classifier's permutation test: exact under equal distributions, minimal p far away, and against plain loops of scikit-learn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import roc_auc_score

from simkit.embedding import Embedding
from simkit.estimators.comparison import compare
from simkit.estimators.domain_classifier import DomainClassifier, _Pair
from simkit.estimators.label_permutations import Parts, auc_test, aucs, ridge_scores


def parts_of(source: Embedding, target: Embedding) -> tuple[_Pair, Parts]:
    measure = DomainClassifier()
    pair = _Pair.of(measure.summarize(source), measure.summarize(target))
    return pair, Parts.of(pair.digests, pair.units, pair.side, grouped=pair.grouped)


def patients(rng: np.random.Generator, count: int, prefix: str, most: int = 8) -> Embedding:
    """Images of patients with 1 to ``most`` images, each patient with an offset of its own."""
    group = np.repeat(np.arange(count), rng.integers(1, most + 1, count))
    rows = 2 * rng.normal(size=(count, 6))[group] + rng.normal(size=(len(group), 6))
    return Embedding(rows, groups=tuple(f"{prefix}{g}" for g in group), name=prefix)


def with_shared_patients(rng: np.random.Generator) -> tuple[Embedding, Embedding]:
    """Two sets of eight patients, four of whom are in both."""
    offsets = 2 * rng.normal(size=(4, 6))
    sides = []
    for prefix in "pq":
        group = np.repeat(np.arange(8), rng.integers(1, 6, 8))
        centre = np.concatenate([offsets, 2 * rng.normal(size=(4, 6))])
        names = tuple(f"shared {g}" if g < 4 else f"{prefix}{g}" for g in group)
        sides.append(Embedding(centre[group] + rng.normal(size=(len(group), 6)), groups=names, name=prefix))
    return sides[0], sides[1]


def null_pair(kind: str, rng: np.random.Generator) -> tuple[Embedding, Embedding]:
    if kind == "groups":
        return patients(rng, 9, "p"), patients(rng, 7, "q")
    if kind == "shared groups":
        return with_shared_patients(rng)
    n, m, d = {"equal sides": (20, 20, 5), "unequal sides": (60, 12, 5), "more features than images": (15, 15, 40)}[kind]
    return Embedding(rng.normal(size=(n, d)), name="a"), Embedding(rng.normal(size=(m, d)), name="b")


@pytest.mark.parametrize("classifier", ["logistic", "knn"])
@pytest.mark.parametrize("kind", ["equal sides", "unequal sides", "more features than images", "groups", "shared groups"])
def test_p_is_exact_under_equal_distributions(kind: str, classifier: str) -> None:
    """In 300 samples p <= 0.05 in 5 %, p <= 0.2 in 20 %, within 3.3 standard errors (ties make p larger, never smaller)."""
    trials, found = 300, []
    measure = DomainClassifier(classifier=classifier, permutations=99)  # type: ignore[arg-type]
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        pair, parts = parts_of(*null_pair(kind, rng))
        fold, sides = parts.folds(5), parts.permuted_sides(5, 99, rng)
        found.append(auc_test(measure._companion(pair, fold, sides), fold, sides).p)
    for level in (0.05, 0.2, 0.5):
        share = np.mean(np.array(found) <= level)
        assert abs(share - level) <= 3.3 * math.sqrt(level * (1 - level) / trials)


@pytest.mark.parametrize("classifier", ["logistic", "svm", "knn"])
def test_a_shift_has_the_smallest_p(classifier: str) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 8)), rng.normal(size=(40, 8)) + 1.0
    score = compare("domain-classifier", x, y, classifier=classifier, permutations=199)
    assert score.p == pytest.approx(1 / 200)
    assert score.detail["permutations"] == 199
    assert score.detail["p_resolution"] == pytest.approx(1 / 200)
    assert score.detail["permuted_units"] == (60, 40)
    assert score.detail["p_classifier"] == ("nearest neighbours" if classifier == "knn" else "ridge regression")
    assert score.detail["p_statistic"] == pytest.approx(score.value, abs=0.05)
    assert not score.flags
    assert compare("domain-classifier", x, y, classifier=classifier, permutations=0).p is None
    plain = compare("domain-classifier", x, y, classifier=classifier, permutations=0)
    assert plain.value == score.value


def test_knn_permutes_its_own_value() -> None:
    rng = np.random.default_rng(1)
    score = compare("domain-classifier", rng.normal(size=(53, 6)), rng.normal(size=(37, 6)) + 0.3, classifier="knn", permutations=19)
    assert score.detail["p_statistic"] == pytest.approx(score.value, abs=1e-12)


def test_groups_are_permuted_whole() -> None:
    """Each patient has an own offset: by image the sides differ with the smallest p, by patient they do not."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 10)
    x, y = (5 * rng.normal(size=(10, 30))[groups] + rng.normal(size=(100, 30)) for _ in range(2))
    by_image = compare("domain-classifier", x, y, permutations=199)
    names = [tuple(f"{letter}{g}" for g in groups) for letter in "pq"]
    by_patient = compare("domain-classifier", Embedding(x, groups=names[0], name="a"), Embedding(y, groups=names[1], name="b"), permutations=199)
    assert by_image.p == pytest.approx(1 / 200)
    assert by_patient.p is not None
    assert by_patient.p > 0.05
    assert by_patient.detail["permuted_units"] == (10, 10)
    pair, parts = parts_of(Embedding(x, groups=names[0], name="a"), Embedding(y, groups=names[1], name="b"))
    sides = parts.permuted_sides(5, 20, np.random.default_rng(0))
    assert all((sides[pair.units == unit] == sides[pair.units == unit][:1]).all() for unit in range(20))


def test_sides_are_exchanged_within_folds() -> None:
    rng = np.random.default_rng(0)
    first, second = with_shared_patients(rng)
    pair, parts = parts_of(first, second)
    fold, sides = parts.folds(4), parts.permuted_sides(4, 200, np.random.default_rng(1))
    np.testing.assert_array_equal(sides[:, 0], pair.side)
    assert (np.unique(sides) == [0, 1]).all()
    assert all(len(np.unique(fold[pair.units == unit])) == 1 for unit in np.unique(pair.units))
    part = np.unique(parts.member, return_index=True)[1]  # one row of each part
    for k in range(4):
        counts = sides[part][fold[part] == k].sum(0)
        assert (counts == counts[0]).all()
        assert 0 < counts[0] < (fold[part] == k).sum()
    for unit in np.unique(pair.units):
        own = np.flatnonzero(pair.units == unit)
        if len(np.unique(pair.side[own])) == 2:  # in both sets: one part on each side, in every permutation
            swapped = sides[own] != pair.side[own][:, None]
            assert (swapped == swapped[:1]).all()
            assert 0.3 < swapped[0, 1:].mean() < 0.7


def test_the_resolution_counts_exchanges() -> None:
    rng = np.random.default_rng(0)
    few = compare("domain-classifier", patients(rng, 3, "p"), patients(rng, 3, "q"), folds=3, permutations=99)
    assert few.detail["p_resolution"] == pytest.approx(2 / 8)  # a patient of each side in each of three folds: 2 * 2 * 2, and all swapped is the same
    assert few.flags[-1] == "p cannot be below 0.25: 3 and 3 units to permute"
    _, parts = parts_of(patients(rng, 10, "p"), patients(rng, 5, "q"))
    assert parts.smallest_p(5) == pytest.approx(1 / math.comb(3, 1) ** 5)


def test_copies_on_both_sides_have_nothing_to_exchange() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 4))
    source, target = Embedding(np.concatenate([x, x[:5]]), name="a"), Embedding(np.concatenate([x[:12], rng.normal(size=(20, 4))]), name="b")
    pair, parts = parts_of(source, target)
    sides = parts.permuted_sides(5, 50, rng)
    shared = np.isin(pair.digests, np.intersect1d(pair.digests[pair.side == 0], pair.digests[pair.side == 1]))
    assert (sides[shared] == pair.side[shared][:, None]).all()
    assert (sides[~shared] != pair.side[~shared][:, None]).any()
    assert compare("domain-classifier", x, x[::-1]).p == 1.0
    assert compare("domain-classifier", x, x[::-1]).detail["identical"] is True


@pytest.mark.parametrize(("n", "d"), [(80, 10), (40, 70)])
def test_scores_agree_with_refitting_scikit_learn(n: int, d: int) -> None:
    """Penalty by RidgeCV's leave-one-out error, scores by Ridge, AUC by roc_auc_score, one permutation after the other."""
    rng = np.random.default_rng(2)
    source, target = Embedding(rng.normal(size=(n, d)), name="a"), Embedding(rng.normal(size=(n // 2, d)) + 0.2, name="b")
    pair, parts = parts_of(source, target)
    fold, sides = parts.folds(5), parts.permuted_sides(5, 12, rng)
    penalties = (3.0, 0.3, 0.03, 0.003)
    test = auc_test(ridge_scores(pair.rows, fold, sides, penalties), fold, sides)
    x = pair.rows.astype(float)
    x = (x - x.mean(0)) / x.std(0)
    slow = np.zeros((5, 13))
    chosen = set()
    for k in range(5):
        train = fold != k
        scores = next(s for i, s in enumerate(ridge_scores(pair.rows, fold, sides, penalties)) if i == k)
        for column in range(13):
            y = sides[:, column]
            alphas = np.array(penalties) * d * train.sum()
            search = RidgeCV(alphas=alphas).fit(x[train], y[train])
            chosen.add(round(float(search.alpha_), 6))
            values = Ridge(alpha=search.alpha_).fit(x[train], y[train]).predict(x[~train])
            np.testing.assert_allclose(scores[:, column] - scores[0, column], values - values[0], atol=1e-8)
            slow[k, column] = roc_auc_score(y[~train], values)
    assert len(chosen) > 1
    assert test.statistic == pytest.approx(slow[:, 0].mean(), abs=1e-12)
    np.testing.assert_allclose(test.permuted, slow[:, 1:].mean(0), atol=1e-12)
    assert test.p == pytest.approx((1 + (slow[:, 1:].mean(0) >= slow[:, 0].mean()).sum()) / 13)


def test_aucs_with_ties_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(size=(50, 4)), rng.integers(3, size=(50, 4)).astype(float), np.zeros((50, 1))], axis=1)
    positive = rng.random((50, 9)) < 0.3
    np.testing.assert_allclose(aucs(scores, positive), [roc_auc_score(positive[:, j], scores[:, j]) for j in range(9)], atol=1e-12)
    assert aucs(np.zeros((4, 1)), np.array([[True], [False], [False], [True]]))[0] == 0.5


def test_p_follows_from_seed_not_from_order() -> None:
    rng = np.random.default_rng(3)
    x, y = (Embedding(rng.normal(size=(n, 6)) + shift, name=name) for n, shift, name in ((40, 0.0, "a"), (30, 0.15, "b")))
    options: dict[str, Any] = {"permutations": 99, "seed": 5}
    first = compare("domain-classifier", x, y, **options)
    again = compare("domain-classifier", x.take(rng.permutation(40)), y.take(rng.permutation(30)), **options)
    assert (first.p, first.detail) == (again.p, again.detail)
    swapped = compare("domain-classifier", y, x, **options)
    assert swapped.detail["permuted_units"] == (30, 40)
    assert swapped.detail["p_statistic"] == first.detail["p_statistic"]
