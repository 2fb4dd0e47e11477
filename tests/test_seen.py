"""The network view on arrays: what is refused, what order and names may not move, intervals and the floor of shuffled labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import simkit
from simkit.errors import DataError, NotEnoughData, UsageError
from simkit.estimators.assessment import CHANCE, assessed, assessed_all, seen_of
from simkit.estimators.base import NetworkEstimator, Score
from simkit.estimators.comparison import Sampling
from simkit.estimators.examples import example_seen
from simkit.estimators.seen import Seen
from simkit.estimators.subsamples import exchanged


@dataclass(frozen=True)
class Separation(NetworkEstimator):
    """Spread of the class means over the spread within classes."""

    name = "separation"

    def assess(self, seen: Seen, rng: np.random.Generator) -> Score:
        features = seen.features.astype(np.float64)
        if len(seen.classes) < 2:
            raise NotEnoughData("SK501", self.name, "one class is left", "")
        means = np.stack([features[seen.labels == c].mean(0) for c in range(len(seen.classes))])
        own = means[seen.labels]
        return Score(float(((own - features.mean(0)) ** 2).mean() / ((features - own) ** 2).mean()), detail={"n": len(seen)})


@dataclass(frozen=True)
class Confidence(NetworkEstimator):
    """Mean of the largest probability."""

    name = "confidence"
    reads = ("probabilities",)

    def assess(self, seen: Seen, rng: np.random.Generator) -> Score:
        assert seen.probabilities is not None
        return Score(float(seen.probabilities.max(1).mean()))


@dataclass(frozen=True)
class Share(NetworkEstimator):
    """Separation over that of all sources together."""

    name = "share"
    pool_relative = True

    def assess_all(self, seen: Any, rngs: Any) -> list[Score]:
        values = [Separation().assess(one, rng).value for one, rng in zip(seen, rngs, strict=True)]
        return [Score(value / sum(values)) for value in values]


def data(n: int = 60, classes: int = 3, good: float = 1.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return good * rng.standard_normal((classes, 6))[labels] + rng.standard_normal((n, 6)), labels


def test_a_score_on_arrays_of_any_kind() -> None:
    import torch

    x, y = data()
    value = simkit.transferability(Separation(), x, y).value
    assert simkit.transferability(Separation(), x.tolist(), [f"c{i}" for i in y]).value == value
    assert simkit.transferability(Separation(), torch.from_numpy(x), torch.from_numpy(y)).value == value
    order = np.random.default_rng(1).permutation(len(x))
    assert simkit.transferability(Separation(), x[order], y[order]).value == value, "rows have no order, and canonical rows are the same to the bit"
    assert simkit.transferability(Separation(), x, 2 - y).value == value, "classes are numbered by their first row"


def test_what_is_refused_by_name_with_the_remedy() -> None:
    x, y = data()
    ask = lambda *given, **options: simkit.transferability(Separation(), *given, **options)  # noqa: E731
    with pytest.raises(DataError, match=r"separation needs labels of the target, target has none"):
        ask(x, None)
    with pytest.raises(NotEnoughData, match=r"needs at least two classes, all 60 images of target are of class '1.0'"):
        ask(x, np.ones(60))
    with pytest.raises(NotEnoughData, match=r"at least two images of each class; target has one of '9'(?s:.*)merge the class with another"):
        ask(x, np.where(np.arange(60) == 5, 9, y))
    with pytest.raises(DataError, match=r"60 classes for 60 images(?s:.*)choose another label column"):
        ask(x, np.arange(60))
    with pytest.raises(DataError, match=r"1 labels are NaN or infinite"):
        ask(x, np.where(np.arange(60) == 3, np.nan, y))
    with pytest.raises(DataError, match=r"1 of 60 rows hold NaN or infinite values \(rows 7\)"):
        ask(np.where(np.arange(60)[:, None] == 7, np.inf, x), y)
    with pytest.raises(UsageError, match=r"59 labels for 60 rows of features"):
        ask(x, y[:59])
    with pytest.raises(DataError, match=r"features have shape \(60,\), wanted \(n, d\)"):
        ask(x[:, 0], y)
    with pytest.raises(DataError, match=r"separation needs one label an image, target is multi-label"):
        ask(x, np.eye(3)[y])
    with pytest.raises(DataError, match=r"hold other values than 0 and 1"):
        ask(x, x)
    with pytest.raises(UsageError, match=r"options were given beside an estimator"):
        ask(x, y, folds=3)
    with pytest.raises(UsageError, match=r"frechet: reads the embedding view of two data sets(?s:.*)simkit.compare"):
        simkit.transferability("frechet", x, y)


def test_probabilities_are_checked_row_by_row() -> None:
    x, y = data()
    good = np.full((60, 4), 0.25)
    assert simkit.transferability(Confidence(), x, y, good).value == 0.25
    for bad, said in ((good * 1.1, r"60 rows do not add up to one \(row 0: 1.1\)(?s:.*)softmax of the head's outputs"),
                      (np.where(np.arange(60)[:, None] == 2, np.array([1.5, -0.5, 0, 0]), good), r"1 rows hold negative values \(rows 2\)"),
                      (np.where(np.arange(60)[:, None] == 2, np.nan, good), r"1 rows hold NaN or infinite values \(rows 2\)"),
                      (good[:, 0], r"have shape \(60,\), wanted \(n, classes of the source\)")):
        with pytest.raises(DataError, match=said):
            simkit.transferability(Confidence(), x, y, bad)
    with pytest.raises(UsageError, match=r"50 probabilities for 60 rows"):
        simkit.transferability(Confidence(), x, y, good[:50])
    with pytest.raises(UsageError, match=r"confidence needs the probabilities of the network's head(?s:.*)head = knn"):
        simkit.transferability(Confidence(), x, y)
    with pytest.raises(DataError, match=r"the head has 4 outputs, the source has 2 classes"):
        Seen(x, y, ("a", "b", "c"), good, outputs=("u", "v"))


def test_half_precision_of_a_network_is_taken_out_of_probabilities() -> None:
    x, y = data()
    rounded = np.random.default_rng(0).dirichlet(np.ones(5), 60).astype(np.float16)
    seen = seen_of(x, y, rounded)
    assert seen.probabilities is not None
    np.testing.assert_allclose(seen.probabilities.sum(1), 1.0, atol=1e-12)


def test_the_interval_covers_the_value_of_other_samples() -> None:
    """The width against the true standard deviation of the value over 200 fresh samples of the same law: within 40 %."""
    fresh = [simkit.transferability(Separation(), *data(120, seed=0)).value]
    centres = 1.5 * np.random.default_rng(0).standard_normal((3, 6))

    def sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng, y = np.random.default_rng(seed), np.arange(120) % 3
        return centres[y] + rng.standard_normal((120, 6)), y

    fresh = [simkit.transferability(Separation(), *sample(seed)).value for seed in range(200)]
    errors = [simkit.transferability(Separation(), *sample(seed), repeats=20).detail["standard_error"] for seed in range(12)]
    assert 0.6 < np.mean(errors) / np.std(fresh) < 1.4


def test_the_floor_is_what_shuffled_labels_give_and_flags_what_is_not_above() -> None:
    x, y = data(good=1.5)
    score = simkit.transferability(Separation(), x, y, repeats=10)
    assert score.floor is not None
    assert score.interval is not None
    assert 0 < score.floor < 0.2 * score.value
    assert score.interval[0] < score.value < score.interval[1]
    assert CHANCE not in score.flags
    flagged = [CHANCE in simkit.transferability(Separation(), *data(good=0.0, seed=seed), repeats=10).flags for seed in range(40)]
    assert sum(flagged) >= 34, "without information 95 % are flagged"


def test_patients_exchange_their_labels_as_a_whole() -> None:
    """Ten images of one patient are one draw: shuffled image by image, the floor would be far too low."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(12) % 2, 10)
    x = np.repeat(3 * rng.standard_normal((12, 6)), 10, axis=0) + 0.3 * rng.standard_normal((120, 6))
    groups = [f"p{i // 10}" for i in range(120)]
    alone, kept = (simkit.transferability(Separation(), x, y, groups=g, repeats=10).floor for g in (None, groups))
    assert alone is not None
    assert kept is not None
    assert kept > 4 * alone


def test_the_same_seed_gives_the_same_numbers_and_order_does_not_move_them() -> None:
    x, y = data()
    order = np.random.default_rng(3).permutation(60)
    one, other = (simkit.transferability(Separation(), x[o], y[o], repeats=5, seed=3) for o in (np.arange(60), order))
    assert (one.value, one.interval, one.floor) == (other.value, other.interval, other.floor)
    assert simkit.transferability(Separation(), x, y, repeats=5, seed=4).interval != one.interval


def test_sources_of_a_target_are_measured_on_the_same_halves_and_shuffles() -> None:
    """Two networks that see the same features: the same interval and floor, whatever their names and whatever else is in the run."""
    examples = example_seen()
    near = examples.near
    twin = Seen(near.features, near.labels, near.classes, near.probabilities, images=near.images, source="twin", target="target")
    alone = assessed(Separation(), near, Sampling(0, 5))
    pool = assessed_all(Separation(), [examples.far, twin, near], Sampling(0, 5))
    assert pool[2] == alone
    assert isinstance(pool[1], Score)
    assert (pool[1].interval, pool[1].floor) == (alone.interval, alone.floor)


def test_measures_that_are_relative_to_the_pool_get_all_sources_of_a_target() -> None:
    examples = example_seen()
    scores = assessed_all(Share(), [examples.near, examples.far], Sampling(0, 4))
    assert sum(score.value for score in scores if isinstance(score, Score)) == pytest.approx(1.0)
    assert all(isinstance(score, Score) and score.interval is not None for score in scores)


def test_halves_that_lose_a_class_say_why_there_is_no_interval() -> None:
    x, y = data(8, 2)
    groups = [f"p{label}" for label in y]
    score = simkit.transferability(Separation(), x, y, groups=groups, repeats=4)
    assert score.interval is None
    assert any(flag == "no interval: a half-sample holds one class only" for flag in score.flags)


def test_multi_label_and_regression_views() -> None:
    x, y = data()
    several = seen_of(x, np.column_stack([y == 0, y == 1, np.ones(60), y == 2]))
    assert several.canonical.indicators is not None
    assert several.canonical.indicators.shape == (60, 3), "a label that all images have tells nothing"
    with pytest.raises(NotEnoughData, match=r"every label is the same for all images"):
        seen_of(x, np.ones((60, 2))).check_labels("m")
    assert seen_of(x, x[:, 0], task="regression").values is not None
    with pytest.raises(DataError, match=r"a regression wants numbers"):
        seen_of(x, ["a"] * 60, task="regression")


def test_measures_of_gradients_have_neither_interval_nor_floor_and_say_so() -> None:
    score = assessed(simkit.ESTIMATORS.get("fu")(), example_seen().near, Sampling(0, 5))
    assert (score.interval, score.floor) == (None, None)
    assert "no interval and no floor: the gradients are those of the whole target" in score.flags


@pytest.mark.parametrize("name", ["gbc", "hscore", "knn", "leep", "linear-probe", "logme", "lp", "nce", "nleep", "parc", "transrate"])
def test_shuffled_labels_share_what_does_not_read_labels_and_change_nothing(name: str) -> None:
    measure = simkit.ESTIMATORS.get(name)()
    seen = replace(example_seen().near.canonical, memo={})
    value = measure.assess(seen, np.random.default_rng(0)).value
    shuffled = seen.with_labels(np.random.default_rng(1).permutation(len(seen)), seen)
    kept = set(seen.memo)
    shared = measure.assess(shuffled, np.random.default_rng(0)).value
    assert shared == measure.assess(replace(shuffled, memo={}), np.random.default_rng(0)).value
    assert shared != value
    assert set(shuffled.memo) == kept, "nothing is made again for other labels"
    assert not seen.take(np.arange(40)).memo


# --- independent units -----------------------------------------------------------------------------------------------------------------------


def test_units_join_patients_that_share_an_image() -> None:
    x, y = data(6, 2)
    x[4] = x[0]
    seen = Seen(x, y, ("a", "b"), groups=("p", "p", "q", "q", "r", "s"))
    units = seen.units
    assert (units[0], units[2], units[5]) == (units[1], units[3], units[5])
    assert units[4] == units[0], "the patients p and r share an image"
    assert len(set(units.tolist())) == 3
    assert len(set(Seen(x, y, ("a", "b")).units.tolist())) == 5, "copies without patients"
    named = Seen(x, y, ("a", "b"), images=tuple("abcdef"))
    assert len(set(named.units.tolist())) == 6, "images that differ and look the same to a network are two"


def patients(seed: int, *, mixed: float = 0.0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """20 patients of 1 to 8 images with features of their own, and labels that say nothing about them."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, 20)
    member = np.repeat(np.arange(20), sizes)
    x = rng.standard_normal((20, 6))[member] * 2 + 0.5 * rng.standard_normal((len(member), 6))
    y = rng.permutation(np.arange(20) % 2)[member]
    turned = rng.random(len(member)) < mixed
    return x, np.where(turned, 1 - y, y), [f"p{i}" for i in member]


@pytest.mark.parametrize("mixed", [0.0, 0.02, 0.1])
def test_patients_without_information_are_called_so_whatever_single_images_are_labelled(mixed: float) -> None:
    """Shuffled image by image, nearly all of these would be above chance: the images of a patient are alike."""
    above = 0
    for seed in range(30):
        x, y, groups = patients(seed, mixed=mixed)
        above += CHANCE not in simkit.transferability("logme", x, y, groups=groups, repeats=10).flags
    assert above <= 6


def test_copies_and_several_labels_and_numbers_are_shuffled_by_unit_too() -> None:
    above = [0, 0, 0]
    for seed in range(20):
        x, y, groups = patients(seed)
        rng = np.random.default_rng(seed)
        copies, labels = np.repeat(rng.standard_normal((25, 6)), 3, axis=0), np.repeat(rng.permutation(np.arange(25) % 2), 3)
        indicators = np.column_stack([y, np.random.default_rng(seed + 99).permutation(np.arange(20) % 2)[np.unique(groups, return_inverse=True)[1]]])
        numbers = np.random.default_rng(seed).standard_normal(20)[np.unique(groups, return_inverse=True)[1]]
        above[0] += CHANCE not in simkit.transferability("logme", copies, labels, repeats=10).flags
        above[1] += CHANCE not in simkit.transferability("logme", x, indicators, groups=groups, repeats=10).flags
        above[2] += CHANCE not in simkit.transferability("logme", x, numbers, groups=groups, repeats=10, task="regression").flags
    assert max(above) <= 5


def test_exchanged_units_take_labels_from_one_other_unit() -> None:
    units = np.array([0, 0, 0, 1, 2, 2])
    for seed in range(20):
        order = exchanged(units, np.random.default_rng(seed))
        for unit in range(3):
            assert len(set(units[order[units == unit]].tolist())) == 1
    assert sorted(exchanged(np.arange(7), np.random.default_rng(0)).tolist()) == list(range(7))


# --- intervals that would say nothing ----------------------------------------------------------------------------------------------------------


def test_halves_that_saturate_give_no_interval() -> None:
    x, y = data(60, 3)
    wide = np.hstack([x, np.random.default_rng(1).standard_normal((60, 34))])
    score = simkit.transferability("hscore", wide, y, shrinkage=False, repeats=5)
    assert score.interval is None
    assert "no interval: half-samples of 30 images saturate at C - 1 with 40 features" in score.flags
    assert simkit.transferability("hscore", wide, y, repeats=5).interval is not None
    score = simkit.transferability("transrate", wide, y, repeats=5)
    assert any(flag.startswith("no interval: half-samples of 30 images have another rate") for flag in score.flags)
    far = np.eye(3)[y] * 100 + 0.01 * np.random.default_rng(0).standard_normal((60, 3))
    assert "no interval: every half-sample gives 1" in simkit.transferability("knn", far, y, repeats=5).flags


def test_few_patients_and_lost_classes_are_said() -> None:
    x, _y, groups = patients(1)
    keep = np.isin(groups, ["p0", "p1", "p2", "p3", "p4"])
    labels = np.arange(int(keep.sum())) % 2
    score = simkit.transferability("logme", x[keep], labels, groups=list(np.array(groups)[keep]), repeats=6)
    assert "interval from 5 groups of target only" in score.flags
    rare = np.where(np.arange(60) < 2, 2, np.arange(60) % 2)
    assert any(flag.endswith("half-samples lack a class") for flag in simkit.transferability(Separation(), data(60)[0], rare, repeats=10).flags)


def test_a_measure_that_needs_no_labels_takes_none() -> None:
    @dataclass(frozen=True)
    class Bare(Confidence):
        """Mean of the largest probability."""

        needs = ()

    score = simkit.transferability(Bare(), data()[0], None, np.full((60, 4), 0.25), repeats=4)
    assert (score.value, score.floor) == (0.25, None)


def test_probes_do_not_learn_from_copies_in_other_patients() -> None:
    """50 images of noise, each twice, under two patient names: 1.0 if a copy may be learnt from."""
    rng = np.random.default_rng(0)
    x, y = np.tile(rng.standard_normal((50, 8)), (2, 1)), np.tile(rng.permutation(np.arange(50) % 2), 2)
    groups = [f"p{i}" for i in range(100)]
    for name in ("linear-probe", "knn", "lp"):
        assert simkit.transferability(name, x, y, groups=groups).value < 0.75, name
