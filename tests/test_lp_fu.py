"""LP, FU and their product: scikit-learn, the reference value, what moves them and what does not, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier, NeighborhoodComponentsAnalysis

from simkit.errors import DataError, NotEnoughData, SimkitError, UsageError
from simkit.estimators.assessment import CHANCE, assessed, assessed_all, transferability
from simkit.estimators.base import Score
from simkit.estimators.checks import check_estimator
from simkit.estimators.comparison import Sampling
from simkit.estimators.examples import example_seen
from simkit.estimators.fu import Fu
from simkit.estimators.lp import Lp, learned_space, neighbour_probabilities, stratified_rows
from simkit.estimators.lp_fu import LpFu, min_max
from simkit.estimators.seen import Seen
from simkit.estimators.stratified_folds import stratified_folds

PUBLISHED = Lp(validation="resubstitution")


def clouds(n: int = 90, d: int = 6, classes: int = 3, seed: int = 0, gap: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    return gap * np.random.default_rng(9).normal(size=(classes, d))[labels] + rng.normal(size=(n, d)), labels


def theirs(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """P(true class) by scikit-learn alone, as published."""
    space = NeighborhoodComponentsAnalysis(n_components=50, random_state=42).fit(train, labels)
    shares = KNeighborsClassifier(5).fit(space.transform(train), labels).predict_proba(space.transform(test))
    return np.asarray(shares[np.arange(len(test)), truth])


@pytest.mark.parametrize("measure", ["lp", PUBLISHED, "fu", "lp-fu", LpFu(validation="resubstitution", folds=2)])
def test_every_promise_is_kept(measure: Any) -> None:
    check_estimator(measure)


def test_published_value_on_digits(raw64: tuple[np.ndarray, np.ndarray]) -> None:
    """LP of the digits: .99577073 by the authors' code."""
    x, y = raw64
    space, _, iterations = learned_space(x, y, x[:1], 50)
    assert neighbour_probabilities(space, y, space, y, 5).mean() == pytest.approx(0.99577073, abs=1e-8)
    assert iterations == 14
    score = transferability(PUBLISHED, x, y)
    assert score.value == pytest.approx(0.99577073, abs=1e-6)
    assert {**score.detail, "iterations": 0} == {"n": 1797, "d": 64, "classes": 10, "images": 1797, "validation": "resubstitution", "iterations": 0,
                                               "neighbours": 5, "dimensions": 50}
    assert score.flags == ("scored on the images that it was learned from",)


def test_cross_validated_value_is_that_of_scikit_learn_on_the_same_folds(raw64: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = raw64[0][:600], raw64[1][:600]
    fold = stratified_folds(np.arange(600), y, 3)
    expected, found = np.empty(600), np.empty(600)
    for k in range(3):
        train, test = fold != k, fold == k
        expected[test] = theirs(x[train], y[train], x[test], y[test])
        space, others, _ = learned_space(x[train], y[train], x[test], 50)
        found[test] = neighbour_probabilities(space, y[train], others, y[test], 5)
    assert found.mean() == pytest.approx(expected.mean(), abs=2e-3)  # scikit-learn starts from a randomised PCA here
    score = transferability("lp", x, y, folds=3)
    assert score.value == pytest.approx(expected.mean(), abs=0.01)  # other folds
    assert score.value < theirs(x, y, x, y).mean()
    assert score.detail["folds"] == len(score.detail["iterations"]) == 3


def test_cross_validation_leaves_no_room_for_chance() -> None:
    """60 images of 64 features with random labels of two classes: published .72, honest a half (trap T9)."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(60, 64)), np.arange(60) % 2
    assert transferability(PUBLISHED, x, y).value > 0.65
    assert transferability(Lp(), x, y).value == pytest.approx(0.5, abs=0.12)
    assert "60 images for 64 features: the learned space overfits" in transferability(Lp(), x, y).flags
    assert not transferability(Lp(), x[:, :8], y).flags


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 9))
def test_neighbours_are_those_of_scikit_learn(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    train, test, labels, truth = rng.normal(size=(30, 3)), rng.normal(size=(12, 3)), rng.integers(0, 3, 30), rng.integers(0, 3, 12)
    labels[:3] = [0, 1, 2]
    expected = KNeighborsClassifier(k).fit(train, labels).predict_proba(test)[np.arange(12), truth]
    np.testing.assert_allclose(neighbour_probabilities(train, labels, test, truth, k), expected, atol=1e-12)


def test_neighbours_that_are_equally_near_share_the_last_place() -> None:
    train, labels = np.array([[1.0], [2.0], [-2.0], [9.0]]), np.array([0, 0, 1, 1])
    found = neighbour_probabilities(train, labels, np.zeros((2, 1)), np.array([0, 1]), 2)
    np.testing.assert_allclose(found, [0.75, 0.25])
    np.testing.assert_allclose(neighbour_probabilities(train, labels, np.zeros((1, 1)), np.array([1]), 50), [0.5])  # as many as there are


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_shift_rotation_order_and_names_do_not_move_it(seed: int) -> None:
    x, y = clouds(seed=seed)
    rng = np.random.default_rng(seed)
    rotation, order = np.linalg.qr(rng.normal(size=(6, 6)))[0], rng.permutation(90)
    images = tuple(f"{i:02}" for i in range(90))
    seen = Seen(x, y, ("a", "b", "c"), images=images)  # with names, so that folds are the same
    value = assessed(Lp(), seen, Sampling()).value
    assert 0 <= value <= 1
    changed = (Seen(x + 3, y, seen.classes, images=images), Seen(x @ rotation, y, seen.classes, images=images), seen.take(order),
               Seen(x, (y + 1) % 3, ("p", "q", "r"), images=images), Seen(np.hstack([x, np.zeros((90, 3))]), y, seen.classes, images=images))
    for other in changed:
        assert assessed(Lp(), other, Sampling()).value == pytest.approx(value, abs=1e-9)
    assert transferability(PUBLISHED, x @ rotation + 1, y).value == pytest.approx(transferability(PUBLISHED, x, y).value, abs=1e-9)


def test_scale_moves_it(raw64: tuple[np.ndarray, np.ndarray]) -> None:
    """Unlike plain nearest neighbours: the components are learned at the scale of the features."""
    x, y = raw64[0][:400], raw64[1][:400]
    assert abs(transferability(Lp(), 16 * x, y).value - transferability(Lp(), x / 4, y).value) > 0.002


def test_fewer_images_than_features_span_the_same_space() -> None:
    x, y = clouds(40, 6, gap=2.0)
    wide = x @ np.linalg.qr(np.random.default_rng(1).normal(size=(300, 6)))[0].T  # 300 features of rank 6
    assert transferability(PUBLISHED, wide, y).value == pytest.approx(transferability(PUBLISHED, x, y).value, abs=1e-9)


def test_large_sets_are_cut_to_the_same_images_for_all_sources() -> None:
    x, y = clouds(300, 6, gap=1.5)
    images = tuple(f"{(7 * i) % 300:03}" for i in range(300))
    one = Seen(x, y, ("a", "b", "c"), images=images)
    score = assessed(Lp(max_images=60), one, Sampling())
    assert score.detail["images"] == 60
    assert score.flags == ("60 of 300 images (max_images)",)
    by_name = np.argsort(images)
    kept = by_name[stratified_rows(one.canonical.labels[np.argsort(one.canonical.images)], 60)]  # type: ignore[index]
    assert np.bincount(y[kept]).tolist() == [20, 20, 20]
    assert assessed(Lp(), one.take(np.sort(kept)), Sampling()).value == pytest.approx(score.value, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 50), min_size=2, max_size=6), count=st.integers(5, 80))
def test_subset_is_stratified(sizes: list[int], count: int) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = stratified_rows(labels, count)
    assert len(rows) == len(set(rows)) == min(max(count, int(np.minimum(sizes, 2).sum())), len(labels))
    found = np.bincount(labels[rows], minlength=len(sizes))
    assert (found >= np.minimum(sizes, 2)).all()
    if min(sizes) * count >= 2 * len(labels):  # no class had to be raised to two
        assert np.abs(found - np.array(sizes) * min(1, count / len(labels))).max() <= 1


def test_patients_are_never_on_both_sides() -> None:
    """Ten images of each patient are alike, labels are the patients' own and random: an image knows its patient's label only from its own images."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(24), 10)
    x = 3 * rng.normal(size=(24, 8))[patient] + 0.1 * rng.normal(size=(240, 8))
    y = (np.arange(24) % 2)[patient]
    assert transferability(Lp(), x, y).value > 0.95
    assert transferability(Lp(), x, y, groups=[f"p{i}" for i in patient]).value < 0.7


def test_a_class_with_one_image_in_a_half_sample_still_gives_a_value() -> None:
    x, y = clouds(30)
    y[y == 2] = 0
    y[0] = 2
    seen = Seen(x, y, ("a", "b", "c")).canonical
    assert 0 <= Lp().assess(seen, np.random.default_rng(0)).value <= 1
    two = Seen(x[:6], np.array([0, 0, 0, 0, 0, 1]), ("a", "b")).canonical  # a training fold of one class
    assert Lp().assess(two, np.random.default_rng(0)).value == pytest.approx(4.2 / 6, abs=0.2)


def test_floor_is_what_chance_gives() -> None:
    score = transferability(Lp(folds=3), *clouds(90, gap=0.8), repeats=3)
    assert score.floor == pytest.approx(1 / 3, abs=0.1)
    assert score.interval is not None
    assert score.interval[0] < score.value <= score.interval[1] <= 1
    assert CHANCE not in score.flags
    assert CHANCE in transferability(Lp(folds=3), *clouds(90, gap=0.0), repeats=3).flags


def test_fu_is_the_ratio_that_was_measured() -> None:
    near = replace(example_seen().near, gradients={"fu": 1.25, "first": 2.0, "later": 2.5})
    score = assessed(Fu(), near, Sampling())
    assert score.value == 1.25
    assert score.detail == {"n": 72, "d": 8, "classes": 3, "fu": 1.25, "first": 2.0, "later": 2.5}


def pool(lp: tuple[float, ...] = (1.6, 0.2, 0.8), fu: tuple[float, ...] = (0.5, 2.0, 1.25)) -> list[Seen]:
    """Sources whose features tell the classes apart so well, and with such gradients."""
    rng = np.random.default_rng(1)
    labels, noise = np.arange(90) % 3, rng.normal(size=(90, 6))
    centres = rng.normal(size=(3, 6))
    return [Seen(good * centres[labels] + noise, labels, ("a", "b", "c"), gradients={"fu": value}, images=tuple(f"{i:02}" for i in range(90)),
                 source=f"s{place}", target="t") for place, (good, value) in enumerate(zip(lp, fu, strict=True))]


def scores(found: list[Score | SimkitError]) -> list[Score]:
    assert all(isinstance(one, Score) for one in found), found
    return [one for one in found if isinstance(one, Score)]


def test_product_is_that_of_the_parts_over_the_pool() -> None:
    seen = pool()
    parts = np.array([[assessed(Lp(), one, Sampling()).value, assessed(Fu(), one, Sampling()).value] for one in seen])
    relative = (parts - parts.min(0)) / (parts.max(0) - parts.min(0))
    found = scores(assessed_all(LpFu(), seen, Sampling()))
    np.testing.assert_allclose([one.value for one in found], relative.prod(1), atol=1e-12)
    assert [one.value for one in found][:2] == [0.0, 0.0]  # each the worst by one part
    assert 0 < found[2].value < 1
    for one, part, mapped in zip(found, parts, relative, strict=True):
        assert [one.detail[name] for name in ("lp", "fu", "lp_relative", "fu_relative")] == pytest.approx([*part, *mapped])
        assert (one.detail["sources"], one.detail["n"], one.detail["classes"]) == (3, 90, 3)
    best = scores(assessed_all(LpFu(), pool(fu=(2.0, 0.5, 1.0)), Sampling()))
    assert best[0].value == 1.0


def test_product_depends_on_the_pool_and_lp_options_reach_the_part() -> None:
    seen = pool((1.6, 0.2, 0.8, 1.1), (0.5, 2.0, 1.25, 4.0))
    three, four = (scores(assessed_all(LpFu(), some, Sampling()))[2].value for some in (seen[:3], seen))
    assert three > four > 0
    found = scores(assessed_all(LpFu(validation="resubstitution", neighbours=3), seen, Sampling()))
    for one, other in zip(found, seen, strict=True):
        assert one.detail["lp"] == pytest.approx(assessed(Lp(validation="resubstitution", neighbours=3), other, Sampling()).value)


def test_min_max() -> None:
    np.testing.assert_allclose(min_max(np.array([3.0, 1.0, 2.0])), [1, 0, 0.5])
    assert np.isnan(min_max(np.array([2.0, 2.0]))).all()


def refused(call: Any, kind: type[SimkitError], match: str) -> None:
    with pytest.raises(kind, match=match):
        call()


def test_refusals() -> None:
    x, y = clouds(30)
    refused(lambda: transferability(Lp(), x, y, groups=["p"] * 30), NotEnoughData, r"SK501.*lp: all 30 images of target belong to one group")
    refused(lambda: transferability(Lp(), np.ones((30, 4)), y), NotEnoughData, r"SK501.*are copies of one image")
    refused(lambda: transferability(Lp(), x, np.zeros(30, int)), NotEnoughData, r"SK501.*needs at least two classes")
    refused(lambda: transferability(Lp(), x, None), DataError, r"SK208.*needs labels")
    refused(lambda: transferability("lp", x, y, neighbours=0), UsageError, r"SK102.*neighbours")
    refused(lambda: transferability(Fu(), x, y), UsageError, r"SK108.*fu needs gradients of the network of .source.: arrays have none")
    near = example_seen().near
    refused(lambda: Fu().assess(replace(near, gradients={"first": 1.0}), np.random.default_rng(0)), UsageError, r"SK108.*there are: first")
    refused(lambda: assessed(Fu(), replace(near, gradients={"fu": float("nan")}), Sampling()), NotEnoughData, r"SK502.*'near' is nan")
    refused(lambda: assessed(LpFu(), near, Sampling()), NotEnoughData, r"SK501.*'near' is the only one for target")
    refused(lambda: LpFu().assess_all([], []), NotEnoughData, r"SK501.*there is no source")


@pytest.mark.parametrize(("lp", "fu", "match"), [
    ((1.6, 0.2, 0.8), (1.5, 1.5, 1.5), r"SK502.*fu is 1\.5 for all 3 sources of t.*\n.*lp\)"),
    ((9.0, 9.0, 9.0), (0.5, 2.0, 1.0), r"SK502.*lp is 1 for all 3 sources of t.*\n.*fu\)"),
])
def test_a_part_that_is_the_same_for_all_sources_is_refused(lp: tuple[float, ...], fu: tuple[float, ...], match: str) -> None:
    for one in assessed_all(LpFu(), pool(lp, fu), Sampling()):
        assert isinstance(one, NotEnoughData)
        with pytest.raises(NotEnoughData, match=match):
            raise one
