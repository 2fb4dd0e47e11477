"""k nearest neighbours: values of other code on digits, brute force, ties, groups and copies, invariances, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

import simkit
from simkit.errors import DataError, NotEnoughData, ResourceError
from simkit.estimators import knn
from simkit.estimators.base import Score
from simkit.estimators.checks import check_estimator
from simkit.estimators.knn import Knn, class_credit, nearest_rows, one_against_rest, votes

Labelled = tuple[np.ndarray, np.ndarray]


def score(x: np.ndarray, y: np.ndarray, *, groups: list[str] | None = None, **options: object) -> Score:
    result: Score = simkit.transferability(Knn(**options), x, y, groups=groups)  # type: ignore[arg-type]
    return result


def clouds(n: int = 60, d: int = 6, classes: int = 3, seed: int = 0) -> Labelled:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.repeat(np.arange(classes), 2), rng.integers(classes, size=n - 2 * classes)])
    return rng.standard_normal((n, d)) + 1.5 * np.eye(classes, d)[labels], labels


def test_values_of_other_code_on_digits(raw64: Labelled, few: Labelled) -> None:
    assert score(*raw64, neighbours=1).value == pytest.approx(0.98831386, abs=1e-6)
    assert score(*raw64, neighbours=3).value == pytest.approx(0.98887034, abs=1e-6)
    assert score(*few, neighbours=1).value == pytest.approx(0.925, abs=1e-6)


def test_three_neighbours_of_forty_images_differ_from_other_code_by_its_ties(few: Labelled) -> None:
    """.875 comes from giving ties to the class whose name comes first: votes are the same; by the nearest neighbour it is .9."""
    x, y = few
    shares = votes(nearest_rows(x, np.arange(40), 3), y, 10)
    assert float((shares.argmax(1) == y).mean()) == pytest.approx(0.875, abs=1e-6)
    renamed = 9 - y
    by_name = votes(nearest_rows(x, np.arange(40), 3), renamed, 10).argmax(1) == renamed
    assert (by_name != (shares.argmax(1) == y)).any()  # renaming the classes changes which images are right
    assert score(x, y, neighbours=3).value == pytest.approx(0.9, abs=1e-12)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 4, 7])
def test_against_scikit_learn_one_image_at_a_time(metric: str, k: int) -> None:
    x, y = clouds(70)
    shares = np.array([
        KNeighborsClassifier(k, metric=metric, algorithm="brute").fit(np.delete(x, i, 0), np.delete(y, i)).predict_proba(x[i:i + 1])[0] for i in range(70)
    ])
    result = score(x, y, neighbours=k, metric=metric, report="auc")
    assert result.value == pytest.approx(roc_auc_score(y, shares, multi_class="ovr"), abs=1e-12)
    if k == 1:
        assert result.detail["accuracy"] == pytest.approx((shares.argmax(1) == y).mean(), abs=1e-12)
        assert result.detail["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, shares.argmax(1)), abs=1e-12)


@pytest.mark.parametrize(("n", "d", "offset"), [(150, 3, 0.0), (230, 40, 1e4), (150, 5, 1e-30)])
@pytest.mark.parametrize("grouped", [False, True])
def test_search_in_blocks_is_exact(n: int, d: int, offset: float, grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "BLOCK", 32)
    rng = np.random.default_rng(n + d)
    x = rng.standard_normal((n, d)) * (offset if offset < 1 and offset else 1.0) + (offset if offset > 1 else 0.0)
    x[::7] += 1e-4 * np.abs(x).mean()  # near pairs
    units = rng.integers(n // 6, size=n) if grouped else np.arange(n)
    distance = np.sqrt((((x[:, None] - x) / np.abs(x).max()) ** 2).sum(2)) * np.abs(x).max()
    distance[units[:, None] == units] = np.inf
    near = nearest_rows(x, units, 4)
    expected = np.sort(distance, axis=1)[:, :4]
    assert np.array_equal(np.bincount(near.rows), np.full(n, 4))
    np.testing.assert_allclose(near.distances.reshape(n, 4), expected, rtol=1e-9)
    np.testing.assert_allclose(distance[near.rows, near.others], near.distances, rtol=1e-9)


def test_candidates_are_dropped_in_between_without_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).standard_normal((300, 4))
    whole = nearest_rows(x, np.arange(300), 3)
    monkeypatch.setattr(knn, "BLOCK", 32)
    monkeypatch.setattr(knn, "MOST_CANDIDATES", 3000)
    parts = nearest_rows(x, np.arange(300), 3)
    assert np.array_equal(whole.others, parts.others)


def test_too_many_equal_distances_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "MOST_CANDIDATES", 1000)
    with pytest.raises(ResourceError, match=r"may be among the 2 nearest: nearly all distances are equal"):
        nearest_rows(np.eye(100), np.arange(100), 2)


def test_equal_distances_share_what_nearer_ones_leave() -> None:
    x = np.array([[0.0], [1.0], [2.0], [-2.0], [9.0]])
    near = nearest_rows(x, np.arange(5), 2)
    mine = near.rows == 0
    assert dict(zip(near.others[mine].tolist(), near.shares[mine].tolist(), strict=True)) == {1: 0.5, 2: 0.25, 3: 0.25}
    assert votes(near, np.array([0, 0, 1, 2, 1]), 3)[0].tolist() == [0.5, 0.25, 0.25]


def test_equal_votes_go_to_the_nearest_class_and_are_halved_where_there_is_none() -> None:
    x = np.array([[0.0], [1.0], [-2.0], [40.0], [41.0], [39.0]])
    labels = np.array([0, 0, 1, 0, 0, 1])
    near = nearest_rows(x, np.arange(6), 2)
    credit = class_credit(near, votes(near, labels, 2), labels)
    assert credit[0] == 1.0  # one vote each, class 0 at distance 1, class 1 at 2
    assert credit[3] == 0.5  # one vote each, both at distance 1


def test_an_image_is_no_neighbour_of_its_group_nor_of_its_copies() -> None:
    x, y = clouds(40, classes=2)
    noise = np.random.default_rng(1).integers(2, size=40)  # labels that features know nothing of, but pairs share
    pairs, labels = np.repeat(x, 2, axis=0), np.repeat(noise, 2)
    nudged = pairs + 1e-6 * np.random.default_rng(2).standard_normal(pairs.shape)
    groups = [f"patient {i}" for i in np.repeat(np.arange(40), 2)]
    assert score(nudged, labels, neighbours=1).value == 1.0
    assert score(nudged, labels, neighbours=1, groups=groups).value < 0.75
    copied = score(pairs, labels, neighbours=1)
    assert copied.value < 0.75
    assert copied.detail["copies"] == 40
    assert "40 of 80 images have the same features as another" in copied.flags
    assert score(x, y).detail["copies"] == 0


@given(seed=st.integers(0, 10**6), k=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_invariances_and_bounds(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = clouds(40, 4, 3, seed)
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    order, names = rng.permutation(40), rng.permutation(3)
    for report in ("accuracy", "balanced-accuracy", "auc"):
        value = score(x, y, neighbours=k, report=report).value
        assert 0.0 <= value <= 1.0
        for other, labels in ((7.5 * x, y), (x + 3.0, y), (x @ turn, y), (x[order], y[order]), (x, names[y]), (x.astype(np.float32), y)):
            assert score(other, labels, neighbours=k, report=report).value == pytest.approx(value, abs=1e-12)
    cosine = score(x, y, neighbours=k, metric="cosine").value
    lengths = np.exp(rng.standard_normal(40))[:, None]
    assert score(lengths * x @ turn, y, neighbours=k, metric="cosine").value == pytest.approx(cosine, abs=1e-12)


def test_the_cosine_is_moved_by_a_shift() -> None:
    x, y = clouds(60)
    assert score(x, y, metric="cosine").value != score(x + 5.0, y, metric="cosine").value


def test_large_classes_are_taken_in_parts() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(90, size=900)
    shares = rng.random((900, 90))
    shares /= shares.sum(1, keepdims=True)
    assert one_against_rest(shares, labels) == pytest.approx(roc_auc_score(labels, shares, multi_class="ovr"), abs=1e-12)


def test_small_classes_are_flagged() -> None:
    x, y = clouds(40, classes=2)
    y = np.where(np.arange(40) < 2, 2, y)
    assert score(x, y).flags == ("1 of 3 classes have too few images (2 at least) to win a vote of 5",)
    assert score(x, y, neighbours=1).flags == ()


def test_refusals() -> None:
    x, y = clouds(40)
    with pytest.raises(NotEnoughData, match=r"outside an image and its copies \(1 of 40 images\) there are 39 images, 40 neighbours[\s\S]*at most 39"):
        score(x, y, neighbours=40)
    with pytest.raises(NotEnoughData, match=r"outside group 'a' \(38 of 40 images\) there are 2 images, 5 neighbours"):
        score(x, y, groups=["a"] * 38 + ["b", "c"])
    with pytest.raises(NotEnoughData, match=r"outside an image and its copies \(40 of 40 images\) there are 0 images[\s\S]*give images that differ"):
        score(np.ones((40, 3)), y)
    x[3:5] = 0.0
    with pytest.raises(NotEnoughData, match=r"the features of 2 of 40 images are all 0: they have no cosine[\s\S]*metric = euclidean"):
        score(x, y, metric="cosine")
    with pytest.raises(DataError, match=r"rows hold NaN"):
        score(np.where(x == 0, np.nan, x), y)


def test_half_samples_with_single_images_still_have_a_value() -> None:
    x, y = clouds(40, classes=2)
    y = np.where(np.arange(40) < 2, 2, y)
    result = simkit.transferability(Knn(), x, y, repeats=4)
    assert result.interval is not None
    assert result.floor is not None


@pytest.mark.parametrize("options", [{}, {"metric": "cosine", "report": "auc"}, {"neighbours": 1, "report": "balanced-accuracy"}])
def test_promises(options: dict[str, object]) -> None:
    check_estimator(Knn, options=options)
