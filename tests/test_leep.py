"""LEEP and NCE: published values, closed forms, brute force, bounds; the head that is fitted to a source without a network; refusals."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simkit.embedding import Embedding
from simkit.errors import DataError, NotEnoughData, SimkitError, UsageError
from simkit.estimators import fitted_head
from simkit.estimators.assessment import transferability
from simkit.estimators.checks import check_estimator
from simkit.estimators.comparison import compare
from simkit.estimators.fitted_head import HeadEstimator, HeadRows, fitted_logistic, logistic_probabilities, neighbour_probabilities
from simkit.estimators.leep import Leep, chance_gain, effective_outputs, label_entropy, leep
from simkit.estimators.nce import Nce, answered_joint, negative_conditional_entropy

BOTH = (Leep, Nce)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def nce(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return negative_conditional_entropy(answered_joint(probabilities, labels)[0])


def head(what: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if what == "onehot":
        return np.eye(10)[y]
    return np.full((len(y), 5), 0.2) if what == "uniform5" else softmax(x @ np.random.RandomState(0).normal(size=(64, 7)))


@pytest.mark.parametrize(("measure", "what", "expected"), [
    (Leep, "rand7", -2.0153461802664), (Leep, "onehot", 0.0), (Leep, "uniform5", -2.3024792209679),
    (Nce, "rand7", -1.9867310272954), (Nce, "onehot", 0.0), (Nce, "uniform5", -2.3024792209679),
])
def test_values_of_thuml_and_tllib(raw64: tuple[np.ndarray, np.ndarray], measure: type[HeadEstimator], what: str, expected: float) -> None:
    score = transferability(measure(), *raw64, head(what, *raw64))
    assert score.value == pytest.approx(expected, abs=1e-12)
    assert score.detail["label_entropy"] == pytest.approx(2.3024792209679, abs=1e-12)
    assert {"n": 1797, "d": 64, "classes": 10, "head": "network"}.items() <= score.detail.items()


def plain_leep(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The definition, image by image."""
    n, outputs = probabilities.shape
    total = 0.0
    for i in range(n):
        mixture = 0.0
        for z in range(outputs):
            same = sum(probabilities[j, z] for j in range(n) if labels[j] == labels[i])
            everyone = sum(probabilities[j, z] for j in range(n))
            mixture += probabilities[i, z] * (same / everyone if everyone else 0.0)
        total += np.log(mixture)
    return float(total / n)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """(probabilities, labels) from vague to certain heads, with outputs that no image has and images that repeat."""
    n, classes, outputs = draw(st.integers(4, 30)), draw(st.integers(2, 4)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    probabilities = softmax(draw(st.sampled_from((0.0, 0.3, 2.0, 30.0))) * rng.normal(size=(n, outputs)))
    if draw(st.booleans()):
        probabilities = np.column_stack([probabilities, np.zeros(n)])
    if draw(st.booleans()):
        probabilities[n // 2 :] = probabilities[: n - n // 2]
    return probabilities, rng.permutation(np.arange(n) % classes)


@settings(max_examples=150, deadline=None)
@given(cases())
def test_leep_and_nce_from_their_definitions(case: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = case
    assert leep(probabilities, labels) == pytest.approx(plain_leep(probabilities, labels), abs=1e-12)
    ties = probabilities == probabilities.max(1, keepdims=True)
    joint = np.stack([(ties / ties.sum(1, keepdims=True))[labels == c].sum(0) for c in range(labels.max() + 1)]) / len(labels)
    entropy = lambda p: float(-(p[p > 0] * np.log(p[p > 0])).sum())  # noqa: E731
    assert nce(probabilities, labels) == pytest.approx(entropy(joint.sum(0)) - entropy(joint), abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(cases())
def test_bounds(case: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = case
    lowest, value = -label_entropy(labels), leep(probabilities, labels)
    joint = np.stack([probabilities[labels == c].sum(0) for c in range(labels.max() + 1)])
    soft = negative_conditional_entropy(joint / joint.sum())
    assert lowest - 1e-12 <= soft <= value + 1e-12  # Jensen's inequality, twice
    assert value <= 0
    assert lowest - 1e-12 <= nce(probabilities, labels) <= 0
    # Nguyen et al., property 2: LEEP is at least the log-likelihood by the likeliest output alone
    best = probabilities.argmax(1)
    conditional = joint / np.where(joint.sum(0) > 0, joint.sum(0), 1)
    assert value >= np.log(conditional[labels, best]).mean() + np.log(probabilities.max(1)).mean() - 1e-12


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(0, 2**32 - 1))
def test_neither_order_nor_names_matter(case: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    probabilities, labels = case
    rng = np.random.default_rng(seed)
    rows, columns, names = rng.permutation(len(labels)), rng.permutation(probabilities.shape[1]), rng.permutation(labels.max() + 1)
    for function in (leep, nce):
        assert function(probabilities[rows][:, columns], names[labels[rows]]) == pytest.approx(function(probabilities, labels), abs=1e-12)


def test_a_head_that_names_the_class_in_any_language_is_perfect() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    outputs = np.eye(7)[[4, 4, 0, 6, 2, 2]]  # two outputs for one class
    assert leep(outputs, labels) == 0.0
    assert nce(outputs, labels) == 0.0
    assert effective_outputs(outputs) == pytest.approx(4.0)
    assert answered_joint(outputs, labels)[1] == pytest.approx(4.0)


def test_of_two_outputs_that_tie_neither_is_preferred() -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    joint, effective = answered_joint(probabilities, labels)
    np.testing.assert_allclose(joint, np.array([[1.5, 0.5, 0.0], [0.0, 1.0, 1.0]]) / 4)
    assert effective == pytest.approx((0.25 + 1) / 1.5 + (0.25 + 1) / 1.5 + 1)
    first = np.where(np.arange(3) == probabilities.argmax(1)[:, None], 1.0, 0.0)  # thuml's rule
    assert nce(first, labels) == pytest.approx(0.0)
    assert nce(probabilities, labels) == pytest.approx(nce(probabilities[:, ::-1], labels))
    assert nce(probabilities, labels) < -0.2


@pytest.mark.parametrize(("n", "outputs", "sharpness"), [(200, 10, 4.0), (200, 10, 20.0), (1000, 100, 4.0), (1000, 100, 20.0)])
def test_what_chance_gives_is_foretold(n: int, outputs: int, sharpness: float) -> None:
    rng = np.random.default_rng(0)
    probabilities, labels = softmax(sharpness * rng.normal(size=(n, outputs))), np.arange(n) % 5
    trials = [rng.permutation(labels) for _ in range(20)]
    found = np.mean([leep(probabilities, one) for one in trials]) + np.log(5)
    least = chance_gain(effective_outputs(probabilities), 5, n)
    assert 0.85 * least <= found <= 2.1 * least
    effective = answered_joint(probabilities, labels)[1]
    assert np.mean([nce(probabilities, one) for one in trials]) + np.log(5) == pytest.approx(chance_gain(effective, 5, n), rel=0.2)


def test_few_images_for_many_outputs_are_flagged(raw64: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = raw64
    few = np.concatenate([np.flatnonzero(y == c)[:4] for c in range(10)])
    probabilities = head("rand7", x, y)
    for measure in BOTH:
        assert transferability(measure(), x, y, probabilities).flags == ()
        certain = np.eye(20)[np.arange(40) % 20]
        score = transferability(measure(), x[few], y[few], certain)
        assert score.flags == ("40 images for 20 outputs in use and 10 classes: chance gives about 93% of H(Y) or more",)
        assert score.detail["chance_gain"] == pytest.approx(9 * 19 / 80)
        assert transferability(measure(), x, y, np.ones((len(y), 1))).flags == ("a head of one output says nothing: -H(Y), whatever the labels",)


@pytest.mark.parametrize("measure", BOTH)
def test_floor_and_interval(measure: type[HeadEstimator]) -> None:
    rng = np.random.default_rng(3)
    labels = rng.permutation(np.arange(60) % 3)
    score = transferability(measure(), rng.normal(size=(60, 4)), labels, softmax(3 * np.eye(4)[labels] + rng.normal(size=(60, 4))), repeats=5)
    assert score.floor is not None
    assert score.interval is not None
    assert -np.log(3) < score.floor < score.value < 0
    assert score.interval[0] < score.value < score.interval[1] <= 0


@pytest.mark.parametrize("measure", BOTH)
@pytest.mark.parametrize("options", [{}, {"head": "knn"}, {"head": "knn", "neighbours": 3}, {"head": "logistic"}], ids=str)
def test_promises(measure: type[HeadEstimator], options: dict[str, Any]) -> None:
    check_estimator(measure, options=options or None)


# --- the head that is fitted to the source -----------------------------------------------------------------------------------------------------


def halves(raw64: tuple[np.ndarray, np.ndarray]) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    x, y = raw64
    return (x[:900].astype(np.float32), y[:900]), (x[900:1500].astype(np.float32), y[900:1500])


@pytest.mark.parametrize("neighbours", [1, 7])
def test_neighbour_head_against_scikit_learn(raw64: tuple[np.ndarray, np.ndarray], neighbours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    (x, y), (z, w) = halves(raw64)
    scaler = StandardScaler().fit(x.astype(np.float64))
    expected = KNeighborsClassifier(neighbours).fit(scaler.transform(x), y).predict_proba(scaler.transform(z))
    found, k = neighbour_probabilities(x, y, z, neighbours)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert k == neighbours
    monkeypatch.setattr(fitted_head, "ENTRIES", 900 * 50)
    np.testing.assert_allclose(neighbour_probabilities(x, y, z, neighbours)[0], expected, atol=1e-12)
    score = compare(Leep(head="knn", neighbours=neighbours), (x, y), (z, w))
    assert score.value == pytest.approx(leep(expected, w), abs=1e-12)
    assert {"n": (900, 600), "d": 64, "classes": (10, 10), "head": "knn", "neighbours": neighbours}.items() <= score.detail.items()


@pytest.mark.parametrize("classes", [2, 10])
def test_logistic_head_is_the_optimum(raw64: tuple[np.ndarray, np.ndarray], classes: int) -> None:
    (x, y), (z, w) = ((a[b < classes], b[b < classes]) for a, b in halves(raw64))
    made = fitted_logistic(x, y, 0.01)
    assert made.converged
    rows = (x - made.mean) * made.scale
    error = logistic_probabilities(made, x) - np.eye(classes)[y]  # the gradient vanishes at the optimum
    # two classes are fitted as one set of log-odds w: weights -w/2 and w/2, and the penalty is of w
    shrinkage = (2 if classes == 2 else 1) * made.weights
    assert np.abs(error.T @ rows / len(x) + 0.01 * shrinkage).max() < 1e-4
    assert np.abs(error.mean(0)).max() < 1e-4
    expected = logistic_probabilities(made, z)
    assert (expected.argmax(1) == w).mean() > 0.85
    for measure, function in ((Leep, leep), (Nce, nce)):
        score = compare(measure(head="logistic"), (x, y), (z, w))
        assert score.value == pytest.approx(function(expected, w), abs=1e-4)
        assert score.detail["penalty"] == 0.01


def test_constant_features_and_odd_class_numbers(raw64: tuple[np.ndarray, np.ndarray]) -> None:
    (x, y), (z, w) = halves(raw64)
    more = [np.column_stack([a, np.full(len(a), value)]).astype(np.float32) for a, value in ((x, 7.0), (z, 9.0))]
    for kind in ("knn", "logistic"):
        value = compare(Leep(head=kind), (x, y), (z, w)).value
        assert compare(Leep(head=kind), (more[0], 3 * y + 5), (more[1], [f"digit {i}" for i in w])).value == pytest.approx(value, rel=1e-5)


def test_a_head_that_did_not_converge_is_flagged(raw64: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn.linear_model

    real = sklearn.linear_model.LogisticRegression
    monkeypatch.setattr(sklearn.linear_model, "LogisticRegression", lambda **options: real(**{**options, "max_iter": 1}))
    score = compare(Leep(head="logistic"), *halves(raw64))
    assert not score.converged
    assert "not converged: the logistic head" in score.flags


def test_the_head_is_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[int] = []
    real = fitted_head.fitted_logistic
    monkeypatch.setattr(fitted_head, "fitted_logistic", lambda *a: fits.append(1) or real(*a))
    rng = np.random.default_rng(0)
    rows = Leep(head="logistic").summarize(Embedding(rng.normal(size=(40, 3)), np.arange(40) % 2, ("a", "b")))
    assert isinstance(rows, HeadRows)
    assert len(rows) == 40
    with ThreadPoolExecutor(4) as pool:
        heads = list(pool.map(rows.logistic, [0.01] * 8))
    assert len(fits) == 1
    assert len({id(one) for one in heads}) == 1
    again = pickle.loads(pickle.dumps(rows))
    np.testing.assert_array_equal(again.logistic(0.01).weights, heads[0].weights)
    assert len(fits) == 1


def test_the_view_follows_from_the_head() -> None:
    assert (Leep().view, Leep().reads) == ("network", ("probabilities",))
    assert (Nce(head="knn").view, Nce(head="knn").reads) == ("embedding", ())
    assert Leep(head="knn").kind == "transferability"
    assert not Leep(head="knn").symmetric
    assert pickle.loads(pickle.dumps(Leep(head="logistic"))).view == "embedding"


def test_an_interval_of_the_fitted_head(raw64: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = raw64
    score = compare(Leep(head="knn"), (x[:150], y[:150]), (x[150:300], y[150:300]), repeats=3)
    assert score.interval is not None
    assert score.interval[0] < score.value < score.interval[1]


# --- refusals ------------------------------------------------------------------------------------------------------------------------------------

ROWS = np.random.default_rng(1).normal(size=(8, 3))
LABELS = np.arange(8) % 2
EVEN = np.full((8, 4), 0.25)


@pytest.mark.parametrize(("labels", "probabilities", "kind", "message"), [
    (LABELS, None, UsageError, r"leep needs the probabilities of the network's head.*head = knn"),
    (LABELS, EVEN * 2, DataError, r"8 rows do not add up to one \(row 0: 2\)"),
    (LABELS, EVEN - 0.5, DataError, r"8 rows hold negative values"),
    (None, EVEN, DataError, r"leep needs labels of the target"),
    (np.zeros(8), EVEN, NotEnoughData, r"leep needs at least two classes, all 8 images"),
    (np.array([0, 0, 0, 0, 0, 0, 0, 1]), EVEN, NotEnoughData, r"leep needs at least two images of each class"),
    (np.arange(8), EVEN, DataError, r"8 classes for 8 images"),
    (np.eye(2, dtype=int)[LABELS], EVEN, DataError, r"leep needs one label an image"),
])
def test_bad_arrays(labels: Any, probabilities: Any, kind: type[SimkitError], message: str) -> None:
    with pytest.raises(kind, match=f"(?s){message}"):
        transferability(Leep(), ROWS, labels, probabilities)


@pytest.mark.parametrize("measure", BOTH)
def test_a_half_of_one_class_has_no_value(measure: type[HeadEstimator]) -> None:
    with pytest.raises(NotEnoughData, match=r"is undefined for one class, all 8 images of somewhere have the same"):
        measure().score_of(EVEN, np.zeros(8, dtype=np.int64), target="somewhere")
    assert measure().score_of(EVEN, np.array([0, 1, 1, 1, 1, 1, 1, 1]), target="x").value == pytest.approx(-label_entropy(np.array([0] + [1] * 7)))


@pytest.mark.parametrize(("source", "target", "options", "kind", "message"), [
    ((ROWS, np.zeros(8)), (ROWS, LABELS), {}, NotEnoughData, r"source: leep needs at least two classes, 'source' has one"),
    ((ROWS, LABELS), (ROWS, np.zeros(8)), {}, NotEnoughData, r"target: leep needs at least two classes, 'target' has one"),
    ((ROWS, None), (ROWS, LABELS), {}, DataError, r"leep needs labels, source 'source' has none"),
    ((ROWS, LABELS), (ROWS, LABELS), {"neighbours": 9}, NotEnoughData, r"9 neighbours of 8 images of 'source'\nfix: set neighbours to at most 8"),
])
def test_bad_data_sets(source: Any, target: Any, options: dict[str, Any], kind: type[SimkitError], message: str) -> None:
    with pytest.raises(kind, match=message):
        compare(Leep(head="knn", **options), source, target)


def test_a_summary_needs_labels() -> None:
    with pytest.raises(DataError, match=r"nce needs labels, 'bare' has none"):
        Nce(head="knn").summarize(Embedding(ROWS, name="bare"))


def test_a_measure_of_two_embeddings_takes_no_network() -> None:
    with pytest.raises(UsageError, match=r"reads the embedding view of two data sets"):
        transferability(Leep(head="knn"), ROWS, LABELS)


@pytest.mark.parametrize("head", ["knn", "logistic"])
def test_the_bridge_stands_beside_what_shuffled_labels_give(raw64: tuple[np.ndarray, np.ndarray], head: str) -> None:
    (x, y), (z, w) = halves(raw64)
    good = compare(Leep(head=head), (x[:300], y[:300]), (z[:200], w[:200]), repeats=4)
    assert good.floor is not None
    assert good.floor < good.value - 0.5
    assert "not above what shuffled labels give" not in good.flags
    draws = [np.random.default_rng(seed).permutation(w[:200]) for seed in range(6)]
    nothing = [compare(Leep(head=head), (x[:300], y[:300]), (z[:200], labels), repeats=4).flags for labels in draws]
    assert sum("not above what shuffled labels give" in flags for flags in nothing) >= 4


def test_target_images_that_the_source_holds_are_counted(raw64: tuple[np.ndarray, np.ndarray]) -> None:
    (x, y), (z, w) = halves(raw64)
    score = compare(Leep(head="knn"), (x[:200], y[:200]), (np.concatenate([z[:100], x[:7]]), np.concatenate([w[:100], y[:7]])))
    assert "7 of 107 target images are in the source: its head was fitted to them" in score.flags
    assert score.detail["shared_images"] == 7


def test_a_head_looks_once_for_all_shuffles(raw64: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    from simkit.estimators import fitted_head

    (x, y), (z, w) = halves(raw64)
    made: list[int] = []
    real = fitted_head.neighbour_probabilities
    monkeypatch.setattr(fitted_head, "neighbour_probabilities", lambda *given: made.append(1) or real(*given))
    compare(Leep(head="knn"), (x[:300], y[:300]), (z[:200], w[:200]), repeats=4)
    assert len(made) == 1 + 4, "the whole, and four half-samples"
