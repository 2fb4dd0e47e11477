"""Cross-Learning Score: scikit-learn, closed forms, leaks, class names, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from simkit.embedding import Embedding
from simkit.errors import DataError, NotEnoughData, UsageError
from simkit.estimators import cross_learning
from simkit.estimators.checks import check_estimator
from simkit.estimators.comparison import compare
from simkit.estimators.cross_learning import CrossLearning, class_folds
from simkit.estimators.examples import example_cards

NAMES = ("ankle", "brain", "chest", "dental", "elbow")


def blobs(sizes: tuple[int, ...], *, d: int = 12, seed: int = 0, shift: float = 0.0, gap: float = 1.0, name: str = "") -> Embedding:
    """Gaussian classes about common centres, in random order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = gap * np.random.default_rng(99).normal(size=(5, d))
    features = centres[labels] + rng.normal(size=(len(labels), d)) * np.linspace(0.5, 2, d) + shift * np.linspace(0, 1, d)
    return Embedding(features.astype(np.float32), labels, NAMES[: len(sizes)], name=name or f"blobs {seed}")


def head(side: Embedding, penalty: float) -> LogisticRegression:
    """The head by scikit-learn, on features that are standardised already; with two classes it has one column and so half the ridge."""
    assert side.labels is not None
    c = (2 if len(side.classes) == 2 else 1) / (len(side) * penalty * side.dimension)
    return LogisticRegression(C=c, class_weight="balanced", tol=1e-9, max_iter=20000)


def rates(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    accuracy = balanced_accuracy_score(labels, probabilities.argmax(1))
    if probabilities.shape[1] == 2:
        return accuracy, roc_auc_score(labels, probabilities[:, 1])
    return accuracy, roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")


@pytest.mark.parametrize(("sizes", "others", "d"), [((30, 20, 25), (20, 35, 15), 12), ((30, 20, 25), (20, 35, 15), 200), ((40, 15), (20, 30), 12)])
def test_both_directions_are_those_of_scikit_learn(sizes: tuple[int, ...], others: tuple[int, ...], d: int) -> None:
    gap = 0.5 if d == 12 else 0.15
    a, b = blobs(sizes, d=d, gap=gap), blobs(others, d=d, seed=1, shift=1.0, gap=gap)
    expected = []
    for one, other in ((a, b), (b, a)):
        plain = make_pipeline(StandardScaler(), head(one, 0.01)).fit(one.features.astype(float), one.labels)
        expected.append(rates(other.labels, plain.predict_proba(other.features.astype(float))))  # type: ignore[arg-type]
    for which, report in enumerate(("balanced-accuracy", "auc")):
        score = compare("cross-learning", a, b, report=report, penalties=(0.01,))
        assert (score.detail["source_to_target"], score.detail["target_to_source"]) == pytest.approx((expected[0][which], expected[1][which]), abs=1e-12)
        assert score.value == pytest.approx((expected[0][which] + expected[1][which]) / 2, abs=1e-12)
        assert 0.4 < score.value < 0.99  # neither saturated nor empty
        assert score.detail["auc"] == pytest.approx([pair[1] for pair in expected], abs=1e-12)
        ratio = [expected[0][which] / score.detail["own"][1], expected[1][which] / score.detail["own"][0]]
        assert score.detail["ratio"] == pytest.approx(ratio)
        assert score.converged


def test_penalty_and_own_performance_are_those_of_scikit_learn_on_the_same_folds() -> None:
    """The folds are simkit's (nothing outside makes them); losses, choice and out-of-fold predictions are scikit-learn's."""
    rows = CrossLearning().summarize(blobs((60, 20, 10), gap=0.4, d=30, seed=4))
    number = np.argsort(np.argsort(np.unique(rows.labels, return_index=True)[1]))  # of each class, by its first row
    fold = class_folds(rows.units, number[rows.labels], 5)
    x = StandardScaler().fit_transform(rows.features.astype(float))
    weight = 1.0 / np.bincount(rows.labels)[rows.labels]
    grid = (0.1, 0.01, 0.001, 0.0001)
    loss, out = np.zeros((5, 4)), np.zeros((4, len(x), 3))
    for k in range(5):
        train, test = fold != k, fold == k
        for p, penalty in enumerate(grid):
            side = Embedding(rows.features[train], rows.labels[train], rows.classes)
            out[p, test] = head(side, penalty).fit(x[train], rows.labels[train]).predict_proba(x[test])
            loss[k, p] = log_loss(rows.labels[test], out[p, test], labels=[0, 1, 2], sample_weight=weight[test], normalize=False)
    found = rows.heads(rows.classes, 5, grid)
    chosen = [int(np.argmin(loss.sum(0) - loss[k])) for k in range(5)]
    assert found.penalties == pytest.approx([*(grid[p] for p in chosen), grid[int(np.argmin(loss.sum(0)))]])
    assert found.penalties[-1] not in (grid[0], grid[-1])  # the choice is one
    assert len(set(found.penalties)) > 1  # folds differ from each other
    mixed = np.stack([out[chosen[k], i] for i, k in enumerate(fold)])
    assert found.own == pytest.approx(rates(rows.labels, mixed), abs=1e-9)
    assert found.own[0] < 0.95


def test_separable_classes_are_at_one_and_exchanged_names_at_zero() -> None:
    a, b = blobs((20, 20, 20, 20), gap=8), blobs((20, 20, 20, 20), seed=1, gap=8)
    for report in ("balanced-accuracy", "auc"):
        assert compare("cross-learning", a, b, report=report).value == 1.0
    exchanged = replace(b, classes=(*b.classes[1:], b.classes[0]))
    score = compare("cross-learning", a, exchanged)
    assert score.value == 0.0
    assert score.detail["own"] == (1.0, 1.0)
    assert score.detail["ratio"] == (0.0, 0.0)


def test_one_exchanged_pair_of_four_classes_is_a_half() -> None:
    a, b = blobs((20, 30, 20, 30), gap=8), blobs((25, 20, 30, 20), seed=1, gap=8)
    assert compare("cross-learning", a, replace(b, classes=("ankle", "brain", "dental", "chest"))).value == 0.5


@pytest.mark.parametrize("classes", [2, 5])
def test_permuted_labels_are_at_chance(classes: int) -> None:
    a, b = blobs((60,) * classes), blobs((60,) * classes, seed=1)
    assert compare("cross-learning", a, b).value > 0.9
    values, areas = [], []
    for seed in range(20):
        shuffled = replace(b, labels=np.random.default_rng(seed).permutation(b.labels))  # type: ignore[arg-type]
        score = compare("cross-learning", a, shuffled)
        values.append(score.value)
        areas.append(float(np.mean(score.detail["auc"])))
        assert score.detail["chance"] == pytest.approx(1 / classes)
    for found, chance in ((values, 1 / classes), (areas, 0.5)):
        error = float(np.std(found, ddof=1)) / np.sqrt(20)
        assert error < 0.04
        assert abs(np.mean(found) - chance) < 3 * error


def test_constant_features_are_at_chance_and_said_so() -> None:
    b = blobs((20, 20, 20), seed=1)
    flat = replace(blobs((20, 30, 10), name="flat"), features=np.full((60, 12), 3.1, np.float32))
    with pytest.raises(NotEnoughData, match="too few in 'flat': ankle, brain, chest"):  # copies of one image: no fold could hold them out
        compare("cross-learning", flat, b)
    grouped = replace(flat, groups=tuple(f"p{i % 10}" for i in range(60)))
    for report, chance in (("balanced-accuracy", 1 / 3), ("auc", 0.5)):
        score = compare("cross-learning", grouped, b, report=report)
        assert score.detail["source_to_target"] == pytest.approx(chance)
        assert score.detail["target_to_source"] == pytest.approx(chance)
        assert "all features of flat are constant: its classifier guesses" in score.flags
    some = [replace(one, features=np.concatenate([one.features, np.full((len(one), 2), 7.3, np.float32)], axis=1)) for one in (blobs((20, 20, 20), gap=0.3), b)]
    plain = compare("cross-learning", blobs((20, 20, 20), gap=0.3), b, penalties=(0.01,))
    assert compare("cross-learning", *some, penalties=(0.01,)).detail["auc"] == pytest.approx(plain.detail["auc"], abs=1e-12)


def test_rounding_of_a_constant_feature_is_not_used() -> None:
    """1000, and in one class the next number of float32 above it."""
    a, b = blobs((20, 20)), blobs((20, 20), seed=1)
    sides = []
    for one in (a, b):
        assert one.labels is not None
        features = np.where(one.labels[:, None] == 1, np.nextafter(np.float32(1000), np.float32(2000)), np.float32(1000))
        sides.append(replace(one, features=features, groups=tuple(f"p{i}" for i in range(40))))
    assert compare("cross-learning", *sides).value == pytest.approx(0.5)


def test_ties_are_shared() -> None:
    accuracy, auc = cross_learning._performance(np.array([[0.0, 0.0], [0.0, 1e-12], [0.0, 1.0]]), np.array([0, 1, 1]))
    assert accuracy == pytest.approx((0.5 + (0.5 + 1) / 2) / 2)
    assert auc == pytest.approx(0.75)


def test_prevalence_plays_no_part() -> None:
    """60 images of one class and 8 of the other: a head without weights answers mostly the first, one with equal classes does better on both."""
    a, b = blobs((60, 8), gap=0.7, d=4), blobs((50, 50), seed=1, gap=0.7, d=4)
    score = compare("cross-learning", a, b, penalties=(0.01,))
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=2 / (68 * 0.01 * 4), tol=1e-9)).fit(a.features.astype(float), a.labels)
    ignoring = balanced_accuracy_score(b.labels, plain.predict(b.features.astype(float)))
    assert score.detail["source_to_target"] > ignoring + 0.02


def test_the_same_images_twice_give_the_cross_validated_number() -> None:
    """Random labels, more features than images: a head is right on all images it was trained on, and guesses on others."""
    rng = np.random.default_rng(3)
    noise = Embedding(rng.normal(size=(80, 200)).astype(np.float32), rng.permutation(np.arange(80) % 4), NAMES[:4], name="noise")
    score = compare("cross-learning", noise, noise)
    assert score.value == pytest.approx(score.detail["own"][0])
    assert score.detail["ratio"] == pytest.approx((1.0, 1.0))
    assert score.value < 0.45
    assert score.detail["images_on_both_sides"] == (80, 80)
    half = compare("cross-learning", noise.take(np.arange(60)), noise.take(np.arange(20, 80)))
    assert half.detail["images_on_both_sides"] == (40, 40)
    assert half.value < 0.45  # 40 of 60 images are known: 0.75 would be the leak


def test_images_of_a_patient_stay_together_within_and_across_sets() -> None:
    """Each patient has a signature and one random class: a head that has seen the patient is right, any other guesses."""
    rng = np.random.default_rng(5)
    signature, label = rng.normal(size=(40, 60)), rng.permutation(np.arange(40) % 2)
    patients = np.repeat(np.arange(40), 10)

    def photographed(seed: int) -> Embedding:
        noise = 0.1 * np.random.default_rng(seed).normal(size=(400, 60))
        return Embedding((signature[patients] + noise).astype(np.float32), label[patients], NAMES[:2], name=f"clinic {seed}")

    a, b = photographed(1), photographed(2)
    leaky = compare("cross-learning", a, b)
    assert leaky.value > 0.95
    assert min(leaky.detail["own"]) > 0.95
    names = tuple(f"patient {i}" for i in patients)
    honest = compare("cross-learning", replace(a, groups=names), replace(b, groups=names))
    assert honest.value < 0.7
    assert max(honest.detail["own"]) < 0.7
    assert honest.detail["grouped"] == (True, True)


def test_unshared_and_small_classes_are_left_out_and_said() -> None:
    a, b = blobs((20, 25, 30, 9, 4), name="here"), blobs((15, 20, 30, 12, 20), seed=1, name="there")
    b = replace(b, classes=("brain", "ankle", "chest", "Dental", "elbow"))
    score = compare("cross-learning", a, b, penalties=(0.01,))
    assert score.detail["classes"] == ("ankle", "brain", "chest")
    assert score.detail["left_out"] == ({"dental": 9, "elbow": 4}, {"Dental": 12, "elbow": 20})
    assert score.detail["n"] == (75, 65)
    assert score.flags == ("13 of 88 images of here left out: classes dental, elbow not on both sides, or too small",
                           "32 of 97 images of there left out: classes Dental, elbow not on both sides, or too small")
    inside = [one.take(np.flatnonzero(one.labels < 3)) for one in (a, b)]  # type: ignore[operator]
    alone = compare("cross-learning", *inside, penalties=(0.01,))
    assert alone.value == score.value
    assert alone.flags == ()


def test_fewer_than_two_usable_classes_are_refused() -> None:
    a, b = blobs((20, 20, 20), name="here"), blobs((20, 20), seed=1, name="there")
    with pytest.raises(NotEnoughData, match=r"'here' and 'there' have 1 classes in common .* needs 2 \(shared: ankle; only in 'here': brain, chest; "
                                            r"only in 'there': Brain") as caught:
        compare("cross-learning", a, replace(b, classes=("ankle", "Brain")))
    assert caught.value.problems[0].code == "SK501"
    assert "same name in both data sets" in str(caught.value)
    with pytest.raises(NotEnoughData, match="have 0 classes in common"):
        compare("cross-learning", a, replace(b, classes=("x", "y")))
    with pytest.raises(NotEnoughData, match="shared but too few in 'there': brain"):
        compare("cross-learning", a, blobs((20, 4), seed=1, name="there"))
    with pytest.raises(NotEnoughData, match="have 1 classes in common"):
        compare("cross-learning", blobs((20,), name="here"), b)
    assert compare("cross-learning", a, blobs((20, 5), seed=1)).detail["n"] == (40, 25)
    one_patient = replace(b, groups=tuple("x" if label else f"p{i}" for i, label in enumerate(b.labels)))  # type: ignore[arg-type]
    with pytest.raises(NotEnoughData, match="shared but too few in 'there': brain"):
        compare("cross-learning", a, one_patient)


def test_labels_and_finite_features_are_needed() -> None:
    a = blobs((10, 10))
    with pytest.raises(DataError, match="cross-learning needs labels, source 'source' has none"):
        compare("cross-learning", a.features, a)
    with pytest.raises(DataError, match="needs labels, 'blobs 0' has none"):
        CrossLearning().summarize(replace(a, labels=None))
    spoilt = replace(a)
    object.__setattr__(spoilt, "features", np.where(np.arange(12) == 3, np.nan, a.features).astype(np.float32))
    with pytest.raises(DataError, match="NaN or infinite"):
        CrossLearning().summarize(spoilt)
    with pytest.raises(UsageError, match="the list of penalties is empty"):
        CrossLearning(penalties=())
    card = example_cards().target
    assert CrossLearning().missing(card, "source") == ""
    assert CrossLearning().missing(replace(card, class_counts={"a": 90, "b": 4}), "source") == (
        "cross-learning needs at least 2 classes with 5 images, target has 1")
    assert CrossLearning().missing(replace(card, class_counts={}), "source").endswith("domain-classifier is a measure without labels")


def test_order_of_rows_sides_and_columns_does_not_matter() -> None:
    a, b = blobs((30, 25, 20), gap=0.5, d=40), blobs((20, 25, 20), seed=1, gap=0.5, shift=1, d=40)
    for report in ("balanced-accuracy", "auc"):
        score = compare("cross-learning", a, b, report=report)
        back = compare("cross-learning", b, a, report=report, seed=3)
        assert back.value == score.value
        assert back.detail["own"] == score.detail["own"][::-1]
        turned = [one.take(np.random.default_rng(8).permutation(len(one))) for one in (a, b)]
        again = compare("cross-learning", *turned, report=report)
        assert again.value == score.value
        assert again.detail["own"] == score.detail["own"]


def test_rows_of_equal_content_and_other_classes_have_no_order_either() -> None:
    a, b = blobs((20, 20)), blobs((20, 20), seed=1)
    features = a.features.copy()
    features[1::2] = features[::2]
    a = replace(a, features=features)
    backwards = a.take(np.arange(40)[::-1])
    assert compare("cross-learning", backwards, b).value == compare("cross-learning", a, b).value
    assert CrossLearning().summarize(backwards).labels.tolist() == CrossLearning().summarize(a).labels.tolist()


def test_a_fit_that_did_not_converge_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = blobs((20, 20, 20), gap=0.5), blobs((20, 20, 20), seed=1, gap=0.5)
    assert compare("cross-learning", a, b).converged
    for name, value in (("MAX_ITERATIONS", 2), ("SEARCH_TOLERANCE", -1.0), ("TOLERANCE", -1.0)):
        with monkeypatch.context() as patch:
            patch.setattr(cross_learning, name, value)
            score = compare("cross-learning", a, b)
        assert not score.converged
        assert score.flags == ("not converged: logistic regression on blobs 0", "not converged: logistic regression on blobs 1")


def test_a_fold_without_a_class_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """As can happen with few large groups: one class is in fold 0 as a whole, so that its head has never seen it."""
    a, b = blobs((30, 30, 10), gap=2), blobs((30, 30, 10), seed=1, gap=2)
    whole = compare("cross-learning", a, b)
    assert min(whole.detail["own"]) > 0.9

    def lopsided(units: np.ndarray, labels: np.ndarray, folds: int) -> np.ndarray:
        return np.where(labels == 0, 0, 1 + np.arange(len(labels)) % (folds - 1))

    monkeypatch.setattr(cross_learning, "class_folds", lopsided)
    score = compare("cross-learning", a, b)
    assert any("too few: folds without class" in flag and "its own performance is too low" in flag for flag in score.flags)
    assert max(score.detail["own"]) <= 2 / 3 + 1e-12
    assert score.value == pytest.approx(whole.value, abs=0.05)
    assert score.converged


def test_large_groups_of_one_class_each_are_spread() -> None:
    """Two patients a class, in five folds."""
    a, b = blobs((20, 20, 20), gap=2), blobs((20, 20, 20), seed=1, gap=2)
    a = replace(a, groups=tuple(f"{label} {i % 2}" for i, label in enumerate(a.labels)))  # type: ignore[arg-type]
    score = compare("cross-learning", a, b)
    assert score.flags == ()
    assert score.detail["own"][0] > 0.9


def test_folds_keep_units_whole_and_classes_in_equal_shares() -> None:
    rng = np.random.default_rng(0)
    units, labels = rng.integers(0, 40, size=400), rng.integers(0, 3, size=400)
    fold = class_folds(units, labels, 4)
    assert all(len(set(fold[units == unit].tolist())) == 1 for unit in range(40))
    counts = np.array([np.bincount(labels[fold == k], minlength=3) for k in range(4)])
    assert (np.ptp(counts, axis=0) <= 10).all()
    single = class_folds(np.arange(53), np.repeat([0, 1, 2], [23, 17, 13]), 5)
    counts = np.array([np.bincount(np.repeat([0, 1, 2], [23, 17, 13])[single == k], minlength=3) for k in range(5)])
    assert (np.ptp(counts, axis=0) <= 1).all()
    assert np.ptp(counts.sum(1)) <= 1


def test_heads_are_made_once_for_the_same_classes() -> None:
    rows = CrossLearning().summarize(blobs((20, 20, 20)))
    first = rows.heads(NAMES[:3], 5, (0.1, 0.01))
    assert rows.heads(NAMES[:3], 5, (0.1, 0.01)) is first
    assert rows.heads(NAMES[:2], 5, (0.1, 0.01)) is not first
    assert rows.heads(NAMES[:2], 5, (0.1,)).penalties[-1] == 0.1


def test_values_fall_with_the_shift_and_the_interval_is_made() -> None:
    target = blobs((40, 40, 40), gap=0.6, name="target")
    values = [compare("cross-learning", blobs((40, 40, 40), seed=1, gap=0.6, shift=shift), target).value for shift in (0.0, 8.0, 32.0)]
    assert values[0] > values[1] > values[2]
    score = compare("cross-learning", blobs((40, 40, 40), seed=1, gap=0.6), target, repeats=5)
    assert score.interval is not None
    assert score.floor is not None
    assert 0 <= score.interval[0] < score.value < score.interval[1] <= 1
    assert "not distinguishable from the target" in score.flags


@pytest.mark.parametrize("angle", [0.0, np.pi / 3, np.pi / 2, np.pi])
def test_value_follows_the_cosine_of_the_boundaries(angle: float) -> None:
    """The best rule of one set hits on the other with chance Phi(distance / 2 cos(angle)); its AUC is Phi(distance / sqrt 2 cos(angle))."""

    def turned(by: float, seed: int) -> Embedding:
        labels = np.arange(1500) % 2
        direction = np.array([np.cos(by), np.sin(by), 0.0])
        rows = np.random.default_rng(seed).normal(size=(1500, 3)) + 2 * (labels - 0.5)[:, None] * direction
        return Embedding(rows, labels, ("benign", "malignant"), name=str(seed))

    found = compare("cross-learning", turned(0.0, 0), turned(angle, 1))
    assert found.value == pytest.approx(norm.cdf(np.cos(angle)), abs=0.03)
    assert np.mean(found.detail["auc"]) == pytest.approx(norm.cdf(np.sqrt(2) * np.cos(angle)), abs=0.04)
    assert found.detail["own"] == pytest.approx((norm.cdf(1.0),) * 2, abs=0.03)


@pytest.mark.parametrize("measure", [CrossLearning(), CrossLearning(report="auc"), CrossLearning(folds=2, penalties=(0.01,))])
def test_promises_hold_for_every_option(measure: CrossLearning) -> None:
    check_estimator(measure)
