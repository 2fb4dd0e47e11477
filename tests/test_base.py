"""The contract: pairs, intervals, floors, and what compare refuses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

import simkit
from simkit.dataset import DatasetCard
from simkit.embedding import Embedding
from simkit.errors import DataError, NotEnoughData, UsageError
from simkit.estimators.base import FeatureEstimator, Score
from simkit.estimators.comparison import Sampling, compare, score_pairs
from simkit.estimators.subsamples import Subsamples, halves, shortened
from simkit.estimators.uncertainty import with_uncertainty
from simkit.recipe import rng_for


@dataclass(frozen=True)
class MeanDifference(FeatureEstimator):
    """First feature's mean of the source minus that of the target."""

    name, kind, symmetric, bounds = "mean-difference", "distance", False, (None, None)
    calls: ClassVar[list[str]] = []

    def summarize(self, view: Embedding) -> float:
        self.calls.append(view.name)
        return float(view.features[:, 0].mean(dtype=np.float64))

    def compare(self, source: float, target: float, rng: np.random.Generator) -> Score:
        return Score(source - target)


def cloud(name: str, n: int, shift: float = 0.0, *, groups: int = 0, dimension: int = 2) -> Embedding:
    rng = rng_for("cloud", name)
    labels = np.arange(n) % 3
    members = tuple(f"g{i % groups}" for i in range(n)) if groups else None
    return Embedding(rng.normal(shift, 1.0, (n, dimension)), labels.astype(np.int64), ("a", "b", "c"), members, name=name)


def test_the_interval_has_the_width_of_the_closed_form() -> None:
    """The mean difference has standard error sqrt(1/n + 1/m); the delete-half jackknife must find it, averaged over data sets."""
    widths = []
    for trial in range(20):
        source, target = cloud(f"s{trial}", 200), cloud(f"t{trial}", 100)
        score = compare(MeanDifference(), source, target, repeats=40)
        assert score.interval is not None
        widths.append((score.interval[1] - score.interval[0]) / 2)
    from scipy.stats import t

    expected = t.ppf(0.975, 39) * np.sqrt(1 / 200 + 1 / 100)
    assert np.mean(widths) == pytest.approx(expected, rel=0.1)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = []
    for trial in range(200):
        score = compare(MeanDifference(), cloud(f"source {trial}", 60, 0.5), cloud(f"target {trial}", 60), repeats=10)
        assert score.interval is not None
        covered.append(score.interval[0] <= 0.5 <= score.interval[1])
    assert 0.90 <= np.mean(covered) <= 0.99


def test_each_data_set_is_summarised_once_and_halves_of_a_target_once() -> None:
    views = {name: cloud(name, 20) for name in ("a", "b", "t")}
    MeanDifference.calls.clear()
    score_pairs(MeanDifference(), views, [("a", "t"), ("b", "t")], sampling=Sampling())
    assert sorted(MeanDifference.calls) == ["a", "b", "t"]
    MeanDifference.calls.clear()
    score_pairs(MeanDifference(), views, [("a", "t"), ("b", "t")], sampling=Sampling(repeats=3))
    assert MeanDifference.calls.count("t") == 1 + 2 * 3


def test_pairs_give_what_compare_gives() -> None:
    views = {name: cloud(name, 30, shift) for name, shift in (("a", 0.0), ("b", 1.0), ("t", 0.0))}
    together = score_pairs(MeanDifference(), views, [("a", "t"), ("b", "t")], sampling=Sampling(seed=5, repeats=4))
    alone = compare(MeanDifference(), views["b"], views["t"], seed=5, repeats=4)
    assert together["b", "t"] == alone


def test_the_same_images_under_another_name_are_called_not_distinguishable_and_a_far_set_is_not() -> None:
    goal = cloud("goal", 100)
    same = compare("frechet", replace(goal, name="copy"), goal, repeats=10)
    far = compare("frechet", cloud("far", 100, 3.0), goal, repeats=10)
    assert same.flags == ("not distinguishable from the target",)
    assert far.flags == ()
    assert far.floor is not None
    assert far.detail["half_sample_mean"] > far.floor > 0
    assert far.detail["excess_over_floor"] == pytest.approx(far.detail["half_sample_mean"] - far.floor)


@pytest.mark.parametrize(("n", "m"), [(60, 60), (200, 60), (60, 200)])
def test_the_verdict_at_unequal_sizes_has_the_error_rate_that_it_states(n: int, m: int) -> None:
    """Two samples of one law must nearly always be called not distinguishable, and a far one never, whatever the sizes."""
    verdicts: dict[str, list[bool]] = {"same": [], "far": []}
    for trial in range(40):
        goal = cloud(f"goal {trial}", m, dimension=16)
        for name, shift in (("same", 0.0), ("far", 1.0)):
            score = compare("frechet", cloud(f"{name} {trial}", n, shift, dimension=16), goal, repeats=10)
            verdicts[name].append("not distinguishable from the target" in score.flags)
    assert np.mean(verdicts["same"]) >= 0.85
    assert np.mean(verdicts["far"]) == 0.0


def test_row_order_moves_neither_value_nor_interval() -> None:
    source, goal = cloud("source", 51), cloud("goal", 40)
    shuffled = source.take(rng_for(5).permutation(51))
    for method in ("frechet", "otdd", "domain-classifier"):
        one, other = (compare(method, s, goal, repeats=3) for s in (source, shuffled))
        assert one.value == pytest.approx(other.value, rel=1e-9)
        assert one.interval == pytest.approx(other.interval, rel=1e-9)
        assert one.floor == other.floor


def test_very_unequal_sizes_are_flagged_for_measures_that_depend_on_them() -> None:
    few, many = cloud("few", 30), cloud("many", 60)
    text = "sample sizes differ by more than half, and this measure depends on them"
    assert text in compare("frechet", few, many).flags
    assert text in compare("frechet", many, few).flags
    assert text not in compare("frechet", cloud("some", 45), many).flags
    assert text not in compare(MeanDifference(), few, many).flags


def test_samples_have_the_size_that_was_asked_for() -> None:
    """Also with groups: a patient may take part with some of the images."""
    for view in (cloud("p", 60), cloud("g", 60, groups=10), cloud("h", 60, groups=2)):
        cut = shortened(view, 21, rng_for(1))
        assert len(cut) == 21
        assert len(np.unique(cut.features, axis=0)) == 21
        assert shortened(view, 60, rng_for(1)) is view


def test_halves_keep_groups_and_copies_together() -> None:
    grouped = cloud("g", 40, groups=8)
    one, other = halves(grouped, rng_for(1))
    assert grouped.groups is not None
    assert not set(one.groups or ()) & set(other.groups or ())
    assert len(one) == len(other) == 20
    plain = cloud("p", 41)
    one, other = halves(plain, rng_for(2))
    assert {len(one), len(other)} == {20, 21}
    twice = plain.take(np.repeat(np.arange(20), 2))
    one, other = halves(twice, rng_for(3))
    assert not {row.tobytes() for row in one.features} & {row.tobytes() for row in other.features}
    assert len(one) == len(other) == 20


def test_too_few_images_leave_the_value_without_interval_and_say_so() -> None:
    score = compare(MeanDifference(), cloud("few", 3), cloud("many", 30), repeats=5)
    assert score.interval is None
    assert score.flags == ("no interval: 3 images cannot be split in two halves",)
    sides = (Subsamples(MeanDifference(), cloud(name, 12, groups=1), seed=0, repeats=3, draws=1) for name in "xy")
    one_group = with_uncertainty(MeanDifference(), Score(1.0), *sides)
    assert one_group.flags == ("no interval: 1 group cannot be split in two halves",)


def test_nan_is_never_a_score() -> None:
    with pytest.raises(NotEnoughData, match="undefined"):
        Score(float("nan"))


@pytest.mark.parametrize(("source", "target", "options", "kind", "message"), [
    (np.zeros((5, 2)), np.zeros((5, 3)), {}, UsageError, "'source' has 2 features, 'target' 3"),
    (np.full((5, 2), np.nan), np.zeros((5, 2)), {}, DataError, "5 of 5 rows hold NaN"),
    (np.zeros(5), np.zeros((5, 2)), {}, DataError, r"shape \(5,\), wanted \(n, d\)"),
    (np.array([["a", "b"]]), np.zeros((5, 2)), {}, DataError, "wanted numbers"),
    ((np.zeros((5, 2)), np.zeros((5, 1))), np.zeros((5, 2)), {}, DataError, r"labels have shape \(5, 1\)"),
    ((np.zeros((5, 2)), np.zeros(4)), np.zeros((5, 2)), {}, UsageError, "4 labels for 5 rows"),
    ((np.zeros((5, 2)), np.array([0, 1, np.nan, 0, 1])), np.zeros((5, 2)), {}, DataError, "1 labels are NaN"),
    (np.zeros((5, 2)), np.zeros((5, 2)), {"repeats": 2}, UsageError, "2 half-samples give no interval"),
    (np.zeros((5, 2)), np.zeros((5, 2)), {"covarance": "full"}, UsageError, r"frechet.covarance: unknown option \(did you mean 'covariance'\?\)"),
])
def test_compare_refuses_with_a_reason(source: object, target: object, options: dict[str, object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        compare("frechet", source, target, **options)


def test_embeddings_of_different_extractors_are_refused() -> None:
    one = Embedding(np.zeros((5, 2)), name="a", extractor="1" * 64)
    other = Embedding(np.zeros((5, 2)), name="b", extractor="2" * 64)
    made = "'a' was embedded by 111111111111 and 'b' was embedded by 222222222222"
    with pytest.raises(UsageError, match=f"embeddings of different extractors cannot be compared: {made}"):
        compare("frechet", one, other)


def test_labels_missing_are_named() -> None:
    with pytest.raises(DataError, match="otdd needs labels, target 'target' has none"):
        compare("otdd", (np.eye(4), [0, 0, 1, 1]), np.eye(4))


def test_a_card_measure_wants_cards() -> None:
    card = DatasetCard("a", "0", 10, {"x": 5, "y": 5}, 0, 1, 1.0, 8, 8)
    assert compare("size", card, card).value == 0.0
    with pytest.raises(UsageError, match="source is a ndarray, wanted a DatasetCard"):
        compare("size", np.eye(3), np.eye(3))


def test_public_names_are_there() -> None:
    for name in simkit.__all__:
        assert getattr(simkit, name) is not None
    assert callable(simkit.run)
    assert callable(simkit.correlate)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = simkit.nothing


def test_tensors_are_read_as_arrays() -> None:
    import torch

    rows = torch.arange(12, dtype=torch.bfloat16, requires_grad=True).reshape(4, 3)
    view = Embedding.of((rows, torch.tensor([0, 1, 1, 0])), "tensors")
    np.testing.assert_array_equal(view.features, np.arange(12, dtype=np.float32).reshape(4, 3))
    assert view.classes == ("0", "1")
    assert Embedding.of(rows).labels is None
