"""OTCE: POT and brute force, closed forms, the parts and their weights, the entropic coupling, what it is not invariant to, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simkit.embedding import Embedding
from simkit.errors import DataError, NotEnoughData, ResourceError, SimkitError, UsageError
from simkit.estimators.checks import check_estimator
from simkit.estimators.comparison import compare
from simkit.estimators.otce import Otce

Labelled = tuple[np.ndarray, np.ndarray]


def by_pot(source: Labelled, target: Labelled) -> tuple[float, float]:
    """(W, CE) from ot.emd and the sums of the definition, label by label."""
    import ot

    (x, y), (z, w) = source, target
    cost = ot.dist(x.astype(np.float64), z.astype(np.float64), metric="sqeuclidean")
    plan = ot.emd(ot.unif(len(x)), ot.unif(len(z)), cost)
    left = 0.0
    for a in set(y.tolist()):
        row = plan[y == a]
        for b in set(w.tolist()):
            mass = row[:, w == b].sum()
            left -= mass * math.log(mass / row.sum()) if mass > 1e-15 else 0.0
    return float((plan * cost).sum()), left


def clouds(seed: int, n: int, m: int) -> tuple[Labelled, Labelled]:
    rng = np.random.default_rng(seed)
    made = []
    for size, classes, shift in ((n, 3, 0.5), (m, 2, 0.0)):
        labels = rng.permutation(np.arange(size) % classes)
        made.append(((rng.normal(size=(size, 4)) + np.eye(4)[labels] + shift).astype(np.float32), labels))
    return made[0], made[1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(4, 25), st.integers(4, 25))
def test_both_parts_against_pot(seed: int, n: int, m: int) -> None:
    source, target = clouds(seed, n, m)
    cost, left = by_pot(source, target)
    score = compare(Otce(normalise=False), source, target)
    assert score.detail["transport"] == pytest.approx(cost, rel=1e-9, abs=1e-12)
    assert score.detail["conditional_entropy"] == pytest.approx(left, abs=1e-9)
    assert score.value == pytest.approx(-(cost + left), abs=1e-9)  # the negative of what public code returns
    z, w = target
    pairs = [float(((a - b) ** 2).sum()) for i, a in enumerate(z.astype(np.float64)) for j, b in enumerate(z.astype(np.float64)) if i != j]
    shares = np.bincount(w) / len(w)
    entropy = -float((shares * np.log(shares)).sum())
    normalised = compare(Otce(transport_weight=0.5, entropy_weight=2.0), source, target)
    assert normalised.detail["target_spread"] == pytest.approx(float(np.mean(pairs)), rel=1e-9)
    assert normalised.value == pytest.approx(-(0.5 * cost / np.mean(pairs) + 2.0 * left / entropy), abs=1e-9)
    assert normalised.detail["entropy_part"] <= 1 + 1e-9


def test_detail(digits: dict[str, tuple[Labelled, Labelled]]) -> None:
    (x, y), (z, w) = digits["halves"]
    score = compare(Otce(), (x[:300], y[:300]), (z[:200], w[:200]))
    assert {"n": (300, 200), "d": 64, "classes": (10, 10), "solver": "exact"}.items() <= score.detail.items()
    assert np.sum(score.detail["joint"]["mass"]) == pytest.approx(1.0)
    assert score.converged
    assert 0 < score.detail["entropy_part"] < 0.3  # digits of one kind lie side by side
    assert by_pot((x[:300], y[:300]), (z[:200], w[:200])) == pytest.approx((score.detail["transport"], score.detail["conditional_entropy"]), rel=1e-6)


def test_closed_forms() -> None:
    x = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    labels = np.array([0, 0, 1, 1])
    own = compare(Otce(), (x, labels), (x, labels))
    assert (own.value, own.detail["transport"], own.detail["conditional_entropy"]) == (0.0, 0.0, 0.0)
    assert math.copysign(1.0, own.value) == 1.0
    shifted = compare(Otce(), (x + 1.0, labels), (x, labels))
    assert shifted.detail["transport"] == pytest.approx(2.0)
    assert shifted.detail["target_spread"] == pytest.approx((100 + 100 + 200) / 3)
    assert shifted.value == pytest.approx(-2.0 / (400 / 3))
    crossed = compare(Otce(), (x, labels), (x, np.array([0, 1, 0, 1])))  # the source's labels say nothing about the target's
    assert crossed.detail["conditional_entropy"] == pytest.approx(math.log(2))
    assert crossed.value == pytest.approx(-1.0)
    finer = compare(Otce(), (x, np.arange(4)), (x, labels))  # they say more than is asked
    assert finer.value == 0.0
    assert compare(Otce(), (x, labels), (x, np.arange(4))).detail["conditional_entropy"] == pytest.approx(math.log(2))


def test_it_is_not_symmetric() -> None:
    source, target = clouds(0, 20, 24)
    assert compare(Otce(), source, target).value != pytest.approx(compare(Otce(), target, source).value, rel=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from((0.01, 0.5, 64.0)))
def test_invariants(seed: int, scale: float) -> None:
    (x, y), (z, w) = clouds(seed, 18, 15)
    rng = np.random.default_rng(seed)
    value = compare(Otce(), (x, y), (z, w)).value
    turned = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    for change in (lambda a: scale * a, lambda a: a + 5.0, lambda a: a @ turned):
        assert compare(Otce(), (change(x), y), (change(z), w)).value == pytest.approx(value, rel=1e-4)
    order = rng.permutation(18)
    assert compare(Otce(), (x[order], 7 - y[order]), (z, w + 3)).value == pytest.approx(value, rel=1e-6)
    raw, far = compare(Otce(normalise=False), (x, y), (z, w)), compare(Otce(normalise=False), (scale * x, y), (scale * z, w))
    assert far.detail["transport"] == pytest.approx(scale**2 * raw.detail["transport"], rel=1e-4)  # in its own units it is not invariant to scale
    assert far.detail["conditional_entropy"] == pytest.approx(raw.detail["conditional_entropy"], abs=1e-6)


def test_weights_choose_the_part() -> None:
    source, target = clouds(4, 20, 20)
    both = compare(Otce(), source, target)
    entropy = compare(Otce(transport_weight=0.0), source, target)
    assert entropy.value == pytest.approx(-both.detail["entropy_part"])
    assert compare(Otce(entropy_weight=0.0), source, target).value == pytest.approx(-both.detail["transport_part"])
    assert both.value == pytest.approx(-both.detail["entropy_part"] - both.detail["transport_part"])


def test_entropic_coupling_against_pot() -> None:
    import ot

    (x, y), (z, w) = clouds(9, 60, 50)
    cost = ot.dist(x.astype(np.float64), z.astype(np.float64), metric="sqeuclidean")
    plan = ot.sinkhorn(ot.unif(60), ot.unif(50), cost, 0.1 * cost.mean(), numItermax=20000, stopThr=1e-12)
    joint = np.array([[plan[np.ix_(y == a, w == b)].sum() for b in range(2)] for a in range(3)])
    left = -float((joint * np.log(joint / joint.sum(1, keepdims=True))).sum())
    score = compare(Otce(regularisation=0.1, tolerance=1e-5, device="cpu"), (x, y), (z, w))
    assert score.detail["transport"] == pytest.approx(float((plan * cost).sum()), rel=1e-4)
    assert score.detail["conditional_entropy"] == pytest.approx(left, rel=1e-4)
    assert score.flags == ("entropic coupling (0.1 of the mean cost)",)
    exact = compare(Otce(), (x, y), (z, w))
    assert score.detail["transport"] > exact.detail["transport"]
    near = compare(Otce(regularisation=0.002, tolerance=1e-4, device="cpu"), (x, y), (z, w))
    assert near.value == pytest.approx(exact.value, rel=0.02)


def test_an_entropic_coupling_that_did_not_converge_is_flagged() -> None:
    source, target = clouds(9, 60, 50)
    score = compare(Otce(regularisation=1e-4, tolerance=1e-9, passes=1, device="cpu"), source, target)
    assert not score.converged
    assert "not converged: the coupling" in score.flags


def test_a_sample_is_flagged_and_the_classes_keep_their_shares() -> None:
    source, target = clouds(2, 40, 30)
    score = compare(Otce(max_images=20), source, target)
    assert score.detail["n"] == (20, 20)
    assert score.flags[:2] == ("20 of 40 images of source (max_images)", "20 of 30 images of target (max_images)")
    assert compare(Otce(max_images=20, sample_seed=1), source, target).value != score.value


def test_too_many_images_for_an_exact_coupling_name_the_remedies() -> None:
    source, target = clouds(2, 40, 30)
    message = r"otce: 40 images, an exact coupling takes at most 35 a side.*fix: set regularisation = 0.01 .*, max_images = 35, or exact_up_to = 40"
    with pytest.raises(ResourceError, match=f"(?s){message}"):
        compare(Otce(exact_up_to=35), source, target)
    measure = Otce(exact_up_to=35)
    with pytest.raises(ResourceError, match=message.split(r".*")[0]):
        measure.compare(measure.summarize(Embedding.of(source, "s")), measure.summarize(Embedding.of(target, "t")), np.random.default_rng(0))
    assert np.isfinite(compare(Otce(exact_up_to=35, max_images=35), source, target).value)
    assert np.isfinite(compare(Otce(exact_up_to=35, regularisation=0.1, device="cpu"), source, target).value)


def test_predicted_seconds() -> None:
    exact, entropic = Otce().seconds(5000, 5000), Otce(regularisation=0.01).seconds(5000, 5000)
    assert exact == pytest.approx(11.05)
    assert entropic is not None
    assert entropic < 11
    assert Otce(max_images=50).seconds(5000, 5000) == Otce().seconds(50, 50)


ROWS = np.random.default_rng(0).normal(size=(8, 3))
LABELS = np.arange(8) % 2


@pytest.mark.parametrize(("source", "target", "kind", "message"), [
    ((ROWS, None), (ROWS, LABELS), DataError, r"otce needs labels, source 'source' has none"),
    ((ROWS, LABELS), (ROWS, None), DataError, r"otce needs labels, target 'target' has none"),
    ((ROWS, LABELS), (ROWS, np.zeros(8)), NotEnoughData, r"otce needs at least two classes of the target, all 8 images of 'target' have one"),
    ((ROWS, LABELS), (np.ones((8, 3)), LABELS), NotEnoughData, r"all images of 'target' have the same features.*set normalise = false"),
])
def test_bad_data(source: Any, target: Any, kind: type[SimkitError], message: str) -> None:
    with pytest.raises(kind, match=f"(?s){message}"):
        compare(Otce(), source, target)


def test_what_is_refused_only_where_it_is_undefined() -> None:
    one = compare(Otce(), (ROWS, np.zeros(8)), (ROWS, LABELS))  # a source of one class says nothing
    assert one.detail["entropy_part"] == pytest.approx(1.0)
    assert np.isfinite(compare(Otce(normalise=False), (ROWS, LABELS), (np.ones((8, 3)), LABELS)).value)
    measure = Otce()
    with pytest.raises(DataError, match=r"otce needs labels, 'bare' has none"):
        measure.summarize(Embedding(ROWS, name="bare"))
    spoilt = Embedding(ROWS, LABELS, ("a", "b"), name="spoilt")
    object.__setattr__(spoilt, "features", np.full((8, 3), np.nan, dtype=np.float32))
    with pytest.raises(DataError, match=r"spoilt: features hold NaN or infinite values"):
        measure.summarize(spoilt)


def test_weights_of_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match=r"otce: transport_weight and entropy_weight are both 0"):
        Otce(transport_weight=0.0, entropy_weight=0.0)


@pytest.mark.parametrize("options", [{}, {"normalise": False}, {"regularisation": 0.05, "device": "cpu"}], ids=str)
def test_promises(options: dict[str, Any]) -> None:
    check_estimator(Otce, options=options or None)
