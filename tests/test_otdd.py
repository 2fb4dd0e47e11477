"""OTDD: reference values on digits, bounds, invariances, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import simkit
from simkit.embedding import Embedding
from simkit.errors import DataError, ResourceError, UsageError
from simkit.estimators import point_transport, subsamples
from simkit.estimators.checks import check_estimator
from simkit.estimators.comparison import compare, score_pairs
from simkit.estimators.labelled_cloud import sampled
from simkit.estimators.otdd import Otdd
from simkit.registry import ESTIMATORS
from simkit.transport import exact_transport, squared_distances

Pair = tuple[np.ndarray, np.ndarray]
COSTS = ("gaussian", "exact", "means", "none")


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


@pytest.mark.parametrize("solver", ["exact", "sinkhorn"])
@pytest.mark.parametrize("label_cost", COSTS)
def test_invariances(label_cost: str, solver: str) -> None:
    (x, y), (z, w) = blobs(60), blobs(50, seed=1, shift=0.5)
    loose = 1e-12 if solver == "exact" else 1e-4  # where the iteration may stop one pass earlier or later

    def value(source: Pair, target: Pair) -> float:
        return compare("otdd", source, target, label_cost=label_cost, solver=solver).value

    plain = value((x, y), (z, w))
    assert plain > 0
    assert value((z, w), (x, y)) == plain
    order = np.random.default_rng(2).permutation(60)
    assert value((x[order], y[order]), (z, w)) == plain
    names = np.array(["c", "a", "b"])
    assert value((x, names[y]), (z, w)) == pytest.approx(plain, rel=loose)
    assert value((4 * x, y), (4 * z, w)) == pytest.approx(16 * plain, rel=loose)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))[0]
    assert value(((x @ turn).astype(np.float32), y), ((z @ turn).astype(np.float32), w)) == pytest.approx(plain, rel=1e-5 + loose)
    assert value((x + 8, y), (z + 8, w)) == pytest.approx(plain, rel=1e-4 + loose)
    assert value((x, y), (x[order], names[y[order]])) == 0.0


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
    message = r"SK301.*otdd: 60 images, the exact solver takes at most 50 a side \(option exact_up_to\): 60 x 40 need 0\.11 MiB and about 0 s"
    message += r"\nfix: set exact_up_to = 60 .*sinkhorn"
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


# --- entropic solver, samples, weights, conventions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["halves", "inverted", "disjoint"])
def test_sinkhorn_lies_below_the_exact_value_by_no_more_than_it_says(digits: dict[str, tuple[Pair, Pair]], case: str) -> None:
    score = compare("otdd", *digits[case], solver="sinkhorn")
    exact = REFERENCE[case, "gaussian"]
    low, high = score.detail["exact_between"]
    assert score.converged
    assert score.detail["marginal_error"] <= 0.01
    assert low <= exact <= high
    assert low > 0.99 * exact
    assert exact - score.detail["bias_bound"] <= score.value < exact
    assert score.value > 0.94 * exact
    assert score.detail["feature_part"] + score.detail["label_part"] + score.detail["entropy_part"] == pytest.approx(score.value)
    assert score.detail["epsilon"] == 0.01
    assert score.detail["iterations"] > 0
    assert score.flags == ("entropic (epsilon 0.01 of the mean cost)",)


def test_converged_value_of_the_reference_implementation_at_its_regularisation(digits: dict[str, tuple[Pair, Pair]]) -> None:
    """Converged values of microsoft/otdd's problem on the halves, in its scale: between .993 (entreg .152) and 1.103 (entreg .076)."""
    values = [compare("otdd", *digits["halves"], solver="sinkhorn", convention="microsoft", absolute_epsilon=e).value for e in (0.152, 0.1, 0.076)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(0.993, abs=0.02)
    assert values[2] == pytest.approx(1.103, abs=0.02)


def test_order_of_the_cases_is_kept_by_every_variant(digits: dict[str, tuple[Pair, Pair]]) -> None:
    for method, options in (("otdd", {"solver": "sinkhorn"}), ("otdd", {"solver": "sinkhorn", "debias": False}), ("otdd", {"class_weights": "balanced"}),
                            ("otdd-lower", {}), ("otdd-upper", {"within": "transport"}), ("otdd-upper", {}), ("sotdd", {"projections": 300})):
        values = [compare(method, *digits[case], **options).value for case in ("halves", "disjoint", "inverted")]
        assert values == sorted(values), (method, options)
        relabelled = compare(method, *digits["relabelled"], **options).value
        assert relabelled < values[0] if method == "otdd-upper" else relabelled == pytest.approx(0.0, abs=1e-9)
        shuffled = (digits["halves"][0][0], np.random.default_rng(5).permutation(digits["halves"][0][1]))
        assert compare(method, digits["halves"][0], shuffled, **options).value > (relabelled if method == "otdd-upper" else 1e-3)


def test_microsoft_convention_halves_everything(digits: dict[str, tuple[Pair, Pair]]) -> None:
    ours, theirs = (compare("otdd", *digits["halves"], convention=c) for c in ("paper", "microsoft"))
    assert theirs.value == pytest.approx(1.160401, abs=1e-6)  # POT's emd2 on their cost with label costs in double precision
    for part in ("feature_part", "label_part", "label_bound"):
        assert theirs.detail[part] == pytest.approx(ours.detail[part] / 2, rel=1e-12)
    assert "halved" in Otdd(convention="microsoft").unit
    assert "halved" not in Otdd().unit
    entropic = [compare("otdd", *digits["halves"], convention=c, solver="sinkhorn") for c in ("paper", "microsoft")]
    assert entropic[1].value == pytest.approx(entropic[0].value / 2, rel=1e-12)
    assert entropic[1].detail["exact_between"][0] == pytest.approx(entropic[0].detail["exact_between"][0] / 2, rel=1e-12)


def test_solver_is_chosen_by_size_and_kept_for_half_samples() -> None:
    views = {name: replace(Embedding.of(blobs(n, seed=seed)), name=name) for name, n, seed in (("small", 40, 0), ("large", 90, 1))}
    method = Otdd(exact_up_to=50)
    solvers = {pair: score_pairs(method, views, [pair])[pair].detail["solver"] for pair in (("small", "small"), ("small", "large"))}  # type: ignore[union-attr]
    assert solvers["small", "large"] == "sinkhorn"
    assert method.settled(50, 50) == Otdd(exact_up_to=50, solver="exact")
    assert method.settled(50, 51) == Otdd(exact_up_to=50, solver="sinkhorn")
    assert Otdd(exact_up_to=50, max_images=20).settled(5000, 5000).solver == "exact"  # type: ignore[attr-defined]
    scored = compare("otdd", views["small"], views["large"], exact_up_to=50, repeats=4)
    assert scored.interval is not None
    assert scored.interval[0] < scored.value < scored.interval[1]
    assert scored.floor == compare("otdd", views["small"], views["large"], solver="sinkhorn", repeats=4).floor  # halves of 45 were not solved exactly


def test_sample_is_seeded_stratified_and_said() -> None:
    source, target = blobs(200, classes=4), blobs(100, classes=4, seed=1)
    score = compare("otdd", source, target, max_images=60)
    assert score.flags == ("60 of 200 images of source (max_images)", "60 of 100 images of target (max_images)")
    assert score.detail["n"] == (60, 60)
    assert compare("otdd", source, target, max_images=60).value == score.value
    assert compare("otdd", source, target, max_images=60, sample_seed=1).value != score.value
    assert not any("max_images" in flag for flag in compare("otdd", source, target, max_images=200).flags)
    order = np.random.default_rng(0).permutation(200)
    again = (source[0][order], np.array(list("wxyz"))[source[1][order]])
    assert compare("otdd", source, again, max_images=60).value == 0.0  # the same images are drawn from the same data set
    labels = np.repeat(np.arange(4), (100, 60, 38, 2))
    kept = sampled(labels, 50, np.random.default_rng(0))
    assert np.bincount(labels[kept]).tolist() == [25, 15, 9, 1]
    assert np.bincount(labels[sampled(labels, 4, np.random.default_rng(0))]).tolist() == [1, 1, 1, 1]
    assert len(sampled(labels, 3, np.random.default_rng(0))) == 3
    for label_cost in COSTS[:3]:
        lost = compare("otdd", source, target, max_images=3, label_cost=label_cost, class_weights="balanced")  # more classes than images
        assert lost.detail["classes"] == (3, 3)
    few = np.repeat(np.arange(3), (1, 1, 98))
    assert np.bincount(few[sampled(few, 10, np.random.default_rng(0))]).tolist() == [1, 1, 8]


def test_balanced_classes_weigh_the_same() -> None:
    x, y = blobs(60, classes=2)
    z, w = blobs(50, classes=2, seed=1)
    uneven = np.concatenate([np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:7]])
    mass = np.array(compare("otdd", (x[uneven], y[uneven]), (z, w), class_weights="balanced", coupling=True).detail["class_coupling"]["mass"])
    np.testing.assert_allclose(mass.sum(1), [0.5, 0.5], atol=1e-12)
    np.testing.assert_allclose(mass.sum(0), [0.5, 0.5], atol=1e-12)
    doubled = np.concatenate([np.arange(60), np.flatnonzero(y == 1)])  # images of class 1 twice: the same laws of the classes
    balanced = [compare("otdd", (x[i], y[i]), (z, w), class_weights="balanced", label_cost="means").value for i in (np.arange(60), doubled)]
    assert balanced[0] == pytest.approx(balanced[1], rel=1e-10)
    with pytest.raises(UsageError, match=r"label_cost = none ignores labels"):
        Otdd(label_cost="none", class_weights="balanced")


def test_weights_of_features_and_labels(digits: dict[str, tuple[Pair, Pair]]) -> None:
    halves = digits["halves"]
    assert compare("otdd", *halves, label_weight=0.0).value == pytest.approx(REFERENCE["halves", "none"], abs=1e-6)
    labels_only = compare("otdd", *halves, feature_weight=0.0, label_cost="exact")
    assert labels_only.value == pytest.approx(1.971074, abs=1e-6)
    assert labels_only.detail["feature_part"] == pytest.approx(0.0, abs=1e-12)
    plain, scaled = compare("otdd", *halves), compare("otdd", *halves, feature_weight=3.0, label_weight=3.0)
    assert scaled.value == pytest.approx(3 * plain.value, rel=1e-10)
    with pytest.raises(UsageError, match="both 0"):
        Otdd(feature_weight=0.0, label_weight=0.0)
    with pytest.raises(UsageError, match="feature_weight is 0 and there are no label costs"):
        ESTIMATORS.build({"wasserstein": {"feature_weight": 0.0}})


@pytest.mark.parametrize("solver", ["exact", "sinkhorn"])
def test_potentials_are_those_of_the_rows_as_given(solver: str) -> None:
    (x, y), (z, w) = blobs(30), blobs(25, seed=1)
    detail = compare("otdd", (x, y), (z, w), potentials=True, label_cost="means", solver=solver).detail
    u, v = (np.array(detail["potentials"][role]) for role in ("source", "target"))
    means = [np.array([f[c == k].mean(0) for k in range(3)]) for f, c in ((x, y), (z, w))]
    table = ((means[0][:, None] - means[1]) ** 2).sum(-1)
    cost = ((x[:, None] - z) ** 2).sum(-1) + table[y[:, None], w]
    if solver == "exact":
        assert (u[:, None] + v - cost).max() < 1e-5
        assert u.mean() + v.mean() == pytest.approx(compare("otdd", (x, y), (z, w), label_cost="means").value, rel=1e-5)
    else:
        plan = np.exp((u[:, None] + v - cost) / detail["epsilon_absolute"]) / len(x) / len(z)
        np.testing.assert_allclose(plan.sum(1), 1 / 30, rtol=1e-3)
    assert "potentials" not in compare("otdd", (x, y), (z, w)).detail
    sample = compare("otdd", (x, y), (z, w), potentials=True, max_images=20, solver=solver).detail["potentials"]["source"]
    assert sum(value is None for value in sample) == 10


def test_value_off_its_marginals_is_marked() -> None:
    score = compare("otdd", blobs(300, shift=0.0), blobs(300, seed=1, shift=3.0), solver="sinkhorn", passes=1, epsilon=0.001)
    assert not score.converged
    assert any("not converged: marginals off by" in flag and "(L1, of a mass of 1) after 1 passes (tolerance 0.01)" in flag for flag in score.flags)


def test_hours_are_refused_before_they_are_spent(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = blobs(60), blobs(60, seed=1)
    monkeypatch.setattr(point_transport, "label_costs_seconds", lambda pairs, label_cost: 4 * 3600.0)
    message = r"SK301.*otdd between source and target: would take about 4\.0 h, the limit is 2 h: label costs of 3 x 3 classes about 4\.0 h"
    with pytest.raises(ResourceError, match=message + r".*\nfix: set label_cost = means, or max_hours = 4\.8 to wait"):
        compare("otdd", source, target)
    with caplog.at_level("INFO", logger="simkit"):
        assert compare("otdd", source, target, max_hours=5.0).value > 0
    assert any("label costs of 3 x 3 classes about 4.0 h" in line for line in caplog.messages)


def test_unlabelled_data_are_offered_wasserstein() -> None:
    x, z = blobs(20)[0], blobs(20, seed=1)[0]
    with pytest.raises(DataError, match=r"otdd needs labels.*\nfix: .*wasserstein"):
        compare("otdd", x, z)
    with pytest.raises(DataError, match=r"otdd needs labels.*\nfix: .*wasserstein"):
        compare("otdd", (x, None), (z, None))
    with pytest.raises(DataError, match=r"SK202.*features have shape \(20,\), wanted \(n, d\)"):
        compare("otdd", (x[:, 0], np.zeros(20)), (z, np.zeros(20)))
    assert compare("wasserstein", x, (z, None)).value == pytest.approx(compare("otdd", x, z, label_cost="none").value, rel=1e-12)


def test_wasserstein_in_one_dimension_and_between_shifted_clouds() -> None:
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(50, 1)).astype(np.float32), rng.normal(size=(50, 1)).astype(np.float32) * 2
    expected = float(((np.sort(x[:, 0]) - np.sort(z[:, 0])).astype(float) ** 2).mean())
    assert compare("wasserstein", x, z).value == pytest.approx(expected, rel=1e-6)
    cloud = rng.normal(size=(40, 6)).astype(np.float32)
    assert compare("wasserstein", cloud, cloud + 0.5).value == pytest.approx(1.5, rel=1e-6)  # a translation is the optimal map


# --- bounds -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label_cost", ["gaussian", "exact", "means"])
@pytest.mark.parametrize("seed", range(3))
def test_bounds_enclose_the_value(label_cost: str, seed: int) -> None:
    source, target = blobs(60, seed=seed), blobs(45, seed=seed + 10, classes=2, shift=0.4)
    value = compare("otdd", source, target, label_cost=label_cost).value
    for options in ({}, {"features": "gaussian"}, {"solver": "sinkhorn"}):
        assert compare("otdd-lower", source, target, label_cost=label_cost, **options).value <= value * (1 + 1e-6)
    product, inner = (compare("otdd-upper", source, target, label_cost=label_cost, within=w).value for w in ("product", "transport"))
    assert value <= inner * (1 + 1e-9) <= product * (1 + 1e-9)


def test_bounds_by_hand() -> None:
    """Classes at 0, 2 and 10 against 1 and 10, 14: product costs 2, 4 + ..., all masses known."""
    source, target = (np.array([[0.0], [2.0], [10.0]]), list("aab")), (np.array([[1.0], [10.0], [14.0]]), list("abb"))
    upper = compare("otdd-upper", source, target, label_cost="means", coupling=True)
    # cost a-a: mean of (0-1)², (2-1)² = 1, means 0; a-b: mean of 100, 196, 64, 144 = 126, means 121; b-a: 81 + 81; b-b: mean of 0, 16 = 8, means 4
    # masses a 2/3, b 1/3 against a 1/3, b 2/3: a-a 1/3, a-b 1/3, b-b 1/3
    assert upper.value == pytest.approx((1 + 0) / 3 + (126 + 121) / 3 + (8 + 4) / 3)
    assert upper.detail["label_part"] == pytest.approx((0 + 121 + 4) / 3)
    lower = compare("otdd-lower", source, target, label_cost="means")
    assert lower.detail["label_part"] == pytest.approx((0 + 121 + 4) / 3)
    assert lower.detail["feature_part"] == pytest.approx(((0 - 1) ** 2 + (2 - 10) ** 2 + (10 - 14) ** 2) / 3)
    gelbrich = compare("otdd-lower", source, target, label_cost="means", features="gaussian").detail["feature_part"]
    spreads = [np.std(side[0]) for side in (source, target)]
    assert gelbrich == pytest.approx((25 / 3 - 4) ** 2 + (spreads[0] - spreads[1]) ** 2, rel=1e-9)


def test_upper_bound_of_a_set_with_itself_is_its_spread() -> None:
    x, y = blobs(50)
    assert compare("otdd-upper", (x, y), (x, y), within="transport").value == pytest.approx(0.0, abs=1e-9)
    assert compare("otdd-upper", (x, y), (x, y)).value > 1.0
    with pytest.raises(UsageError, match="features = gaussian knows neither"):
        ESTIMATORS.build({"otdd-lower": {"features": "gaussian", "max_images": 10}})


@pytest.mark.parametrize("method", ["otdd-lower", "otdd-upper", "wasserstein"])
def test_relatives_keep_the_promises_with_their_other_options(method: str) -> None:
    options = {"otdd-lower": {"features": "gaussian"}, "otdd-upper": {"within": "transport"}, "wasserstein": {"solver": "sinkhorn"}}
    check_estimator(method, options=options[method])


def test_promises_of_the_entropic_solver() -> None:
    check_estimator(Otdd(solver="sinkhorn"))
    check_estimator(Otdd(solver="sinkhorn", debias=False, class_weights="balanced"))
    check_estimator(Otdd(max_images=40))


def test_same_images_with_another_partition_outside_the_sample_are_not_taken_for_identical() -> None:
    x, y = blobs(200, classes=2)
    other = y.copy()
    other[np.random.default_rng(1).permutation(200)[:60]] ^= 1
    assert compare("otdd", (x, y), (x, other), max_images=20).value > 0.0
    assert compare("otdd", (x, y), (x, other)).value > 0.0


@pytest.mark.parametrize("max_images", [None, 20])
def test_equal_images_in_two_classes_have_no_order(max_images: int | None) -> None:
    x, _ = blobs(30)
    x, y = np.concatenate([x, x]), np.repeat([0, 1], 30)
    y[:5] = 1  # the classes differ in content, most images are in both
    order = np.random.default_rng(0).permutation(60)
    assert compare("otdd", (x, y), (x[order], y[order]), max_images=max_images).value == 0.0
    third = blobs(40, seed=3)
    plain, shuffled = (compare("otdd", pair, third, max_images=max_images).value for pair in ((x, y), (x[order], y[order])))
    assert plain == shuffled


def test_nearly_equal_sets_are_not_at_a_negative_distance() -> None:
    x, y = blobs(200)
    near = (x + np.random.default_rng(0).normal(scale=1e-4, size=x.shape).astype(np.float32), y)
    for options in ({"solver": "sinkhorn"}, {"solver": "sinkhorn", "debias": False}, {"solver": "sinkhorn", "epsilon": 0.3}):
        score = compare("otdd", (x, y), near, **options)
        assert 0.0 <= score.value < 0.05
        if any("tells from 0" in flag for flag in score.flags):
            assert score.value == 0.0


def test_exact_value_with_a_duality_gap_is_marked() -> None:
    rng = np.random.default_rng(0)
    x, z = (np.concatenate([rng.normal(size=(200, 2)), [[1e7, 0.0]]]).astype(np.float32) for _ in range(2))
    score = compare("wasserstein", x, z)
    true = exact_transport(squared_distances(x[:200], z[:200])).value * 200 / 201
    assert score.converged == (score.value == pytest.approx(true, rel=1e-3))
    if not score.converged:
        assert "not converged: the duality gap is" in score.flags[0]


def test_half_samples_count_what_the_sample_leaves() -> None:
    source, target = blobs(200), blobs(160, seed=1)
    assert compare("otdd", source, target, max_images=50, repeats=3).detail["matched_images"] == 50


@pytest.mark.shared
def test_real_images_lie_in_their_bracket_above_their_floor(shared: Path) -> None:
    extractor = {"pixels": {"size": 8}}
    xray, clothes = (simkit.embed(shared / "data" / f"{name}.npz", extractor=extractor) for name in ("pneumonia", "fashion"))
    exact = compare("otdd", clothes, xray, repeats=3)
    entropic = compare("otdd", clothes, xray, solver="sinkhorn")
    low, high = entropic.detail["exact_between"]
    assert low <= exact.value <= high
    assert low > 0.99 * exact.value
    assert exact.floor is not None
    assert exact.floor < 0.3 * exact.value
    lower, upper = compare("otdd-lower", clothes, xray).value, compare("otdd-upper", clothes, xray, within="transport").value
    assert lower <= exact.value <= upper
    assert upper < 1.15 * lower


def test_halves_of_large_sets_are_not_kept_and_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = blobs(80), blobs(50, seed=1)
    kept = compare("otdd", source, target, repeats=4)
    monkeypatch.setattr(subsamples, "KEPT", 0)
    made: list[int] = []
    summarize = Otdd.summarize
    monkeypatch.setattr(Otdd, "summarize", lambda self, view: (made.append(len(view)), summarize(self, view))[1])
    again = compare("otdd", source, target, repeats=4)
    assert (again.value, again.interval, again.floor, again.detail["excess_over_floor"]) == (
        kept.value, kept.interval, kept.floor, kept.detail["excess_over_floor"])
    assert len(made) > 2 + 2 * 8  # the two sets, and their halves more than once


def test_memory_that_does_not_suffice_names_the_pair() -> None:
    with pytest.raises(ResourceError, match=r"SK301.*otdd between source and target: 300 x 300 points need at least 0\.\d+ MiB.*\nfix: set memory = 0\.25"):
        compare("otdd", blobs(300), blobs(300, seed=1), solver="sinkhorn", memory=1e-5)


def test_gaussian_lower_bound_of_large_sets_is_not_refused_for_a_transport_that_it_does_not_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(point_transport, "exact_transport_seconds", lambda n, m: 1e6)
    source, target = blobs(60), blobs(50, seed=1)
    assert compare("otdd-lower", source, target, features="gaussian", exact_up_to=10).value > 0
    with pytest.raises(ResourceError, match="otdd-lower between source and target: would take about 277"):
        compare("otdd-lower", source, target)
