"""OTDD: reference values on digits, bounds, invariances, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simkit.embedding import Embedding
from simkit.errors import DataError, ResourceError, UsageError
from simkit.estimators import point_transport
from simkit.estimators.base import compare, score_pairs
from simkit.estimators.checks import check_estimator
from simkit.estimators.otdd import Otdd
from simkit.registry import ESTIMATORS

Pair = tuple[np.ndarray, np.ndarray]
COSTS = ("gaussian", "exact", "means", "none")


@pytest.fixture(scope="module")
def digits() -> dict[str, tuple[Pair, Pair]]:
    """Halves of scikit-learn's digits by default_rng(0).permutation: the cases of the reference values."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, p = (x / 16).astype(np.float32), np.random.default_rng(0).permutation(1797)
    a, b = (x[p[:898]], y[p[:898]]), (x[p[898:1796]], y[p[898:1796]])
    low, high = a[1] < 5, b[1] >= 5
    return {
        "halves": (a, b), "relabelled": (a, (a[0], (a[1] + 3) % 10)), "inverted": (a, (1 - b[0], b[1])),
        "disjoint": ((a[0][low], a[1][low]), (b[0][high], b[1][high])),
    }


REFERENCE = {
    ("halves", "gaussian"): 2.320803, ("halves", "exact"): 3.667587, ("halves", "means"): 1.951057, ("halves", "none"): 1.668647,
    ("relabelled", "gaussian"): 0.0, ("relabelled", "exact"): 0.0, ("relabelled", "means"): 0.0, ("relabelled", "none"): 0.0,
    ("inverted", "gaussian"): 63.389298, ("inverted", "exact"): 64.906943, ("inverted", "means"): 61.314416, ("inverted", "none"): 31.576176,
    ("disjoint", "gaussian"): 10.631571, ("disjoint", "exact"): 12.140171, ("disjoint", "means"): 8.756301, ("disjoint", "none"): 5.147331,
}
"""Computed independently with POT's emd2 on costs built from the formulas (unhalved): microsoft/otdd's numbers times two, in double precision."""


@pytest.mark.parametrize("case", ["halves", "relabelled", "inverted", "disjoint"])
@pytest.mark.parametrize("label_cost", COSTS)
def test_reference_values(digits: dict[str, tuple[Pair, Pair]], case: str, label_cost: str) -> None:
    score = compare("otdd", *digits[case], label_cost=label_cost)
    assert score.value == pytest.approx(REFERENCE[case, label_cost], abs=1e-6)
    assert score.converged
    assert score.detail["marginal_error"] < 1e-12
    assert abs(score.detail["duality_gap"]) < 1e-10


def test_parts_and_bounds(digits: dict[str, tuple[Pair, Pair]]) -> None:
    score = compare("otdd", *digits["halves"], label_cost="exact", coupling=True)
    detail = score.detail
    assert detail["label_bound"] == pytest.approx(1.971074, abs=1e-6)
    lower = compare("otdd-lower", *digits["halves"], label_cost="exact")
    assert lower.value == pytest.approx(1.971074 + REFERENCE["halves", "none"], abs=2e-6)
    assert lower.value <= score.value <= detail["upper_bound"]
    assert detail["feature_part"] + detail["label_part"] == pytest.approx(score.value, rel=1e-12)
    mass = np.array(detail["class_coupling"]["mass"])
    assert mass.shape == (10, 10)
    np.testing.assert_allclose(mass.sum(1), np.bincount(digits["halves"][0][1]) / 898, atol=1e-12)
    assert (mass.argmax(1) == np.arange(10)).all()
    gaussian = compare("otdd", *digits["halves"])
    assert compare("otdd-lower", *digits["halves"]).value <= gaussian.value <= score.value
    assert "class_coupling" not in gaussian.detail


def blobs(n: int, d: int = 6, classes: int = 3, seed: int = 0, shift: float = 0.0) -> Pair:
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=n)
    return (rng.normal(size=(n, d)) + 2.0 * np.eye(classes, d)[y] + shift).astype(np.float32), y


@pytest.mark.parametrize("label_cost", COSTS)
def test_invariances(label_cost: str) -> None:
    (x, y), (z, w) = blobs(60), blobs(50, seed=1, shift=0.5)

    def value(source: Pair, target: Pair) -> float:
        return compare("otdd", source, target, label_cost=label_cost).value

    plain = value((x, y), (z, w))
    assert plain > 0
    assert value((z, w), (x, y)) == plain
    order = np.random.default_rng(2).permutation(60)
    assert value((x[order], y[order]), (z, w)) == plain
    names = np.array(["c", "a", "b"])
    assert value((x, names[y]), (z, w)) == pytest.approx(plain, rel=1e-12)
    assert value((4 * x, y), (4 * z, w)) == pytest.approx(16 * plain, rel=1e-12)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))[0]
    assert value(((x @ turn).astype(np.float32), y), ((z @ turn).astype(np.float32), w)) == pytest.approx(plain, rel=1e-5)
    assert value((x + 8, y), (z + 8, w)) == pytest.approx(plain, rel=1e-4)
    assert value((x, y), (x[order], names[y[order]])) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("label_cost", ["exact", "means", "none"])
def test_repeated_images_are_weights(label_cost: str) -> None:
    (x, y), target = blobs(40), blobs(30, seed=1)
    twice = (np.repeat(x, 2, axis=0), np.repeat(y, 2))
    assert compare("otdd", twice, target, label_cost=label_cost).value == pytest.approx(compare("otdd", (x, y), target, label_cost=label_cost).value, rel=1e-10)


def test_shuffled_labels_move_it_away_from_zero() -> None:
    x, y = blobs(200)
    assert compare("otdd", (x, y), (x, np.random.default_rng(5).permutation(y))).value > 0.1


def test_coupling_follows_source_and_target() -> None:
    source, target = blobs(40, classes=2), blobs(30, classes=3, seed=1)
    forward = compare("otdd", source, target, coupling=True).detail["class_coupling"]
    backward = compare("otdd", target, source, coupling=True).detail["class_coupling"]
    assert np.shape(forward["mass"]) == (2, 3)
    np.testing.assert_array_equal(np.array(forward["mass"]).T, backward["mass"])
    assert forward["source"] == ("0", "1")
    assert backward["source"] == ("0", "1", "2")


def test_one_dimension_two_classes_by_hand() -> None:
    """Classes at 0, 1 and 10, 12 against 2, 3 and 10, 13; by hand each image goes to its own class: features (4 + 4 + 0 + 1) / 4, labels half of each W."""
    x, z = np.array([[0.0], [1.0], [10.0], [12.0]]), np.array([[2.0], [3.0], [10.0], [13.0]])
    score = compare("otdd", (x, ["a", "a", "b", "b"]), (z, ["a", "a", "b", "b"]), label_cost="exact")
    assert score.detail["feature_part"] == pytest.approx(2.25, rel=1e-12)
    assert score.detail["label_part"] == pytest.approx(0.5 * 4.0 + 0.5 * 0.5, rel=1e-12)
    means = compare("otdd", (x, ["a", "a", "b", "b"]), (z, ["a", "a", "b", "b"]), label_cost="means")
    assert means.detail["label_part"] == pytest.approx(0.5 * 4.0 + 0.5 * 0.25, rel=1e-12)
    gaussian = compare("otdd", (x, ["a", "a", "b", "b"]), (z, ["a", "a", "b", "b"]))
    spread = (np.sqrt(2.0) - np.sqrt(4.5)) ** 2
    assert gaussian.detail["label_part"] == pytest.approx(0.5 * 4.0 + 0.5 * (0.25 + spread), rel=1e-9)


def test_class_with_one_image_is_named() -> None:
    source = (np.random.default_rng(0).normal(size=(5, 3)), ["a", "a", "a", "b", "b"])
    target = (np.random.default_rng(1).normal(size=(4, 3)), ["a", "a", "a", "lonely"])
    score = compare("otdd", source, target)
    assert score.flags == ("one image in class lonely of target (covariance taken as 0)",)
    assert compare("otdd", source, target, label_cost="exact").flags == ()
    many = (np.random.default_rng(1).normal(size=(7, 3)), list("abcdefg"))
    assert "one image in class a, b, c, d, e and 2 more of target" in compare("otdd", source, many).flags[0]


def test_classes_without_images_play_no_part() -> None:
    x, y = blobs(30, classes=2)
    padded = Embedding(x, y.astype(np.int64) * 2, ("a", "empty", "b"), name="padded")
    target = Embedding.of(blobs(20, seed=1), "t")
    score = compare("otdd", padded, target)
    assert score.value == pytest.approx(compare("otdd", (x, y), target).value, rel=1e-12)
    assert score.detail["classes"] == (2, 3)


def test_too_many_images_are_refused_with_the_price() -> None:
    message = r"SK301.*otdd: 60 images, the exact solver takes at most 50 a side \(option exact_up_to\).*GiB and \d+ s\nfix: set exact_up_to = 60 .*sinkhorn"
    with pytest.raises(ResourceError, match=message):
        compare("otdd", blobs(60), blobs(40), solver="exact", exact_up_to=50)
    views = {name: replace(Embedding.of(blobs(n, seed=seed)), name=name) for name, n, seed in (("big", 60, 0), ("a", 20, 0), ("b", 20, 1))}
    scores = score_pairs(Otdd(solver="exact", exact_up_to=50), views, [("big", "a"), ("a", "b")])
    assert isinstance(scores["big", "a"], ResourceError)
    assert scores["a", "b"].value > 0  # type: ignore[union-attr]


def test_unlabelled_data_are_refused_by_name_unless_labels_play_no_part() -> None:
    x, z = blobs(20)[0], blobs(20, seed=1)[0]
    with pytest.raises(DataError, match=r"SK208.*otdd needs labels, source 'source' has none"):
        compare("otdd", x, z)
    assert compare("otdd", x, z, label_cost="none").value > 0
    assert Otdd().needs == ("labels",)
    assert Otdd(label_cost="none").needs == ()


def test_solver_that_stops_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    full = point_transport.exact_transport
    monkeypatch.setattr(point_transport, "exact_transport", lambda *args, **options: full(*args, **options, max_iterations=3))
    score = compare("otdd", blobs(40), blobs(40, seed=1))
    assert not score.converged
    assert "not converged: numItermax" in score.flags[0]


def test_unknown_label_cost_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"otdd\.label_cost.*did you mean 'gaussian'"):
        ESTIMATORS.build({"otdd": {"label_cost": "gausian"}})


def test_mixtures_are_ordered_by_their_share() -> None:
    near, far, target = blobs(120), blobs(120, seed=1, shift=2.0), blobs(120, seed=2)
    values = []
    for k in (0, 30, 60, 90, 120):
        x, y = np.concatenate([near[0][: 120 - k], far[0][:k]]), np.concatenate([near[1][: 120 - k], far[1][:k]])
        values.append(compare("otdd", (x, y), target).value)
    assert values == sorted(values)


@pytest.mark.parametrize("label_cost", COSTS)
def test_promises(label_cost: str) -> None:
    check_estimator(Otdd(label_cost=label_cost))  # type: ignore[arg-type]
