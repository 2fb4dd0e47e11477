"""Common sizes, intervals, floors and ceilings of scores."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from simkit.embedding import Embedding
from simkit.errors import UsageError
from simkit.estimators.base import FeatureEstimator, Score
from simkit.estimators.comparison import Sampling, common_size, compare, score_pairs
from simkit.estimators.energy import Energy
from simkit.estimators.frechet import Frechet
from simkit.estimators.subsamples import Subsamples, shortened
from simkit.estimators.uncertainty import INDISTINCT, UNEQUAL
from simkit.estimators.vendi import Vendi
from simkit.recipe import rng_for


@dataclass(frozen=True)
class FirstMean(FeatureEstimator):
    """Difference of the first features' means: its standard error is known."""

    name, symmetric, bounds, size_biased = "first-mean", False, (None, None), True

    def summarize(self, view: Embedding) -> tuple[float, int]:
        return float(view.features[:, 0].mean(dtype=np.float64)), len(view)

    def compare(self, source: tuple[float, int], target: tuple[float, int], rng: np.random.Generator) -> Score:
        return Score(source[0] - target[0], detail={"n": (source[1], target[1])})


def cloud(name: str, n: int, shift: float = 0.0, d: int = 4, *, groups: int = 0, scale: float = 1.0) -> Embedding:
    rng = rng_for("uncertainty", name)
    members = tuple(f"{name}{i % groups}" for i in range(n)) if groups else None
    return Embedding((scale * rng.normal(size=(n, d)) + shift).astype(np.float32), np.arange(n) % 2, ("a", "b"), members, name=name)


def test_a_matched_score_is_the_mean_over_samples_of_one_size() -> None:
    source, target = cloud("s", 300), cloud("t", 80, 0.5)
    score = compare("frechet", source, target, size_match="auto", draws=4)
    assert score.matched == 80
    assert score.detail["draws"] == len(score.detail["draw_values"]) == 4
    assert score.value == np.mean(score.detail["draw_values"])
    assert score.detail["n"] == (80, 80)
    for draw, value in enumerate(score.detail["draw_values"]):
        part = shortened(source, 80, rng_for("size match", 0, "s", 80, draw))
        assert value == compare("frechet", part, target).value
    assert UNEQUAL not in score.flags
    assert UNEQUAL in compare("frechet", source, target).flags


def test_measures_that_do_not_depend_on_sizes_keep_all_images_unless_a_number_is_given() -> None:
    source, target = cloud("s", 60), cloud("t", 40)
    assert compare("energy", source, target, size_match="auto") == compare("energy", source, target)
    score = compare("energy", source, target, size_match=30)
    assert (score.matched, score.detail["n"]) == (30, (30, 30))
    assert score.p is not None


def test_all_sources_of_a_target_are_measured_at_the_size_of_the_smallest() -> None:
    """The near source of 50 images ranks behind the far one of 400 until both are measured at 50."""
    views = {"near": cloud("near", 50, 0.1, 30), "far": cloud("far", 400, 0.3, 30), "t": cloud("t", 400, 0.0, 30)}
    pairs = [("near", "t"), ("far", "t")]
    plain = score_pairs(Frechet(), views, pairs)
    matched = score_pairs(Frechet(), views, pairs, sampling=Sampling(size_match="auto"))
    assert plain["near", "t"].value > plain["far", "t"].value  # type: ignore[union-attr]
    assert matched["near", "t"].value < matched["far", "t"].value  # type: ignore[union-attr]
    assert {score.matched for score in matched.values()} == {50}  # type: ignore[union-attr]


def test_common_sizes() -> None:
    sizes = {"a": 30, "b": 20, "c": 50}
    assert common_size(Frechet(), sizes, "auto") == 20
    assert common_size(Frechet(), sizes, "off") is None
    assert common_size(Energy(), sizes, "auto") is None
    assert common_size(Energy(biased=True), sizes, "auto") == 20
    assert common_size(Energy(), sizes, 10) == 10
    assert common_size(Frechet(), sizes | {"tiny": 3}, "auto") == 20  # a handful of images does not decide for all
    assert common_size(Frechet(), {"tiny": 3, "other": 5}, "auto") is None
    with pytest.raises(UsageError, match=r"study: size_match.*40 images a side are more than there are: 'b' has 20, 'a' has 30\nfix: give at most 20"):
        common_size(Frechet(), sizes, 40, where="study: size_match")


@pytest.mark.parametrize("wrong", [{"size_match": 1}, {"size_match": "all"}, {"repeats": 2}, {"draws": 0}])
def test_impossible_samplings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        compare("frechet", cloud("s", 20), cloud("t", 20), **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "m", "size"), [(200, 200, "off"), (400, 100, "off"), (400, 100, "auto"), (300, 300, 60)])
def test_the_interval_of_a_matched_score_has_the_coverage_that_it_states(n: int, m: int, size: str | int) -> None:
    """The mean over samples of one size has a standard error between that of all images and that of one sample; the interval covers the truth."""
    covered, widths = [], []
    for trial in range(120):
        score = compare(FirstMean(), cloud(f"s{trial}", n, 0.3), cloud(f"t{trial}", m), repeats=10, size_match=size)  # type: ignore[arg-type]
        assert score.interval is not None
        covered.append(score.interval[0] <= 0.3 <= score.interval[1])
        widths.append(score.detail["standard_error"])
    assert np.mean(covered) >= 0.91
    common = {"off": max(n, m), "auto": min(n, m)}.get(str(size), size)
    assert np.mean(widths) < 1.35 * np.sqrt(1 / min(n, common) + 1 / min(m, common))  # type: ignore[type-var]
    assert np.mean(widths) > 0.85 * np.sqrt(1 / n + 1 / m)


@pytest.mark.parametrize(("n", "m"), [(60, 60), (200, 60), (60, 200)])
def test_verdicts_of_matched_scores(n: int, m: int) -> None:
    same, far = [], []
    for trial in range(40):
        goal = cloud(f"goal{trial}", m, d=8)
        for name, shift, out in (("same", 0.0, same), ("far", 1.0, far)):
            score = compare("frechet", cloud(f"{name}{trial}", n, shift, 8), goal, repeats=10, size_match="auto", draws=2)
            out.append(INDISTINCT in score.flags)
    assert np.mean(same) >= 0.9
    assert np.mean(far) == 0.0


def test_a_similarity_is_held_against_its_floor_in_its_own_direction() -> None:
    goal = cloud("goal", 100)
    near, far = (compare("coverage", cloud(name, 100, shift), goal, repeats=6) for name, shift in (("copy", 0.0), ("far", 3.0)))
    assert INDISTINCT in near.flags
    assert INDISTINCT not in far.flags
    assert far.detail["excess_over_floor"] < 0
    assert far.floor is not None
    assert far.floor > far.value


def test_the_ceiling_is_the_value_of_an_unrelated_set_at_the_same_size() -> None:
    source, target, noise = cloud("s", 90, 0.2), cloud("t", 70), cloud("noise", 50, scale=9.0)
    score = compare("frechet", source, target, repeats=3, ceiling=noise)
    part = shortened(target, 50, rng_for("size match", 0, "t", 50, 0))
    assert score.ceiling == compare("frechet", noise, part).value
    assert score.detail["ceiling_images"] == 50
    assert score.ceiling > score.value
    assert compare("frechet", source, target, ceiling=noise).ceiling is None  # without half-samples there is no scale at all
    bare = replace(noise, labels=None, classes=())
    unlabelled = compare("otdd", source, target, repeats=3, ceiling=bare)
    assert unlabelled.ceiling is None
    assert "needs labels" in unlabelled.detail["no_ceiling"]
    assert any(flag.startswith("no ceiling: otdd needs labels") for flag in unlabelled.flags)


def test_classes_do_not_make_the_floor_too_low() -> None:
    """Two samples of one law differ in their shares of the classes: halves with equal shares would call them different in half of the cases."""
    def sample(name: str) -> Embedding:
        rng = rng_for("two classes", name)
        labels = rng.integers(2, size=80)
        return Embedding((6.0 * labels[:, None] + rng.normal(size=(80, 3))).astype(np.float32), labels, ("a", "b"), name=name)

    for method in ("frechet", "energy", "class-mean-emd"):
        verdicts = [INDISTINCT in compare(method, sample(f"s{t}"), sample(f"t{t}"), repeats=10).flags for t in range(40)]
        assert np.mean(verdicts) >= 0.9


def test_copies_do_not_make_the_floor_too_low() -> None:
    def sample(name: str, times: int) -> Embedding:
        return replace(cloud(name, 100 // times), name=name).take(np.repeat(np.arange(100 // times), times))

    verdicts = [INDISTINCT in compare("frechet", sample(f"s{t}", 1), sample(f"t{t}", 2), repeats=10).flags for t in range(40)]
    assert np.mean(verdicts) >= 0.9


def test_groups_are_matched_to_the_same_number_of_images() -> None:
    source, target = cloud("s", 600, groups=3), cloud("t", 150)
    score = compare("frechet", source, target, size_match="auto", repeats=4)
    assert (score.matched, score.detail["n"]) == (150, (150, 150))
    assert "interval from 3 groups of s only" in score.flags


def test_few_draws_widen_the_interval() -> None:
    source, target = cloud("s", 2000, 2.0), cloud("t", 2000)
    errors = [compare("frechet", source, target, size_match=100, repeats=10, draws=draws).detail["standard_error"] for draws in (1, 5, 20)]
    assert errors[0] > 1.3 * errors[1]
    assert errors[1] > 1.1 * errors[2]
    single = np.std([compare("frechet", cloud(f"a{t}", 100, 2.0), cloud(f"b{t}", 100)).value for t in range(60)])
    assert errors[0] > 0.7 * single


def test_parts_are_made_once_for_all_pairs_of_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    summarize = Frechet.summarize
    monkeypatch.setattr(Frechet, "summarize", lambda self, view: (made.append(len(view)), summarize(self, view))[1])
    target = Subsamples(Frechet(), cloud("t", 40), seed=0, repeats=4, draws=3)
    for _ in range(2):
        assert len(list(target.halved(15))) == 4
        assert len(list(target.drawn(25))) == 3
        assert len(target.floors(15)) == 4
    assert made == [15] * 8 + [25] * 3


def test_a_property_of_the_source_is_computed_once_for_all_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    describe = Vendi.describe
    monkeypatch.setattr(Vendi, "describe", lambda self, view: (made.append(view.name), describe(self, view))[1])
    views = {name: cloud(name, n) for name, n in (("a", 40), ("b", 30), ("t", 20), ("u", 25))}
    scores = score_pairs(Vendi(), views, [(s, t) for t in "tu" for s in "ab"], sampling=Sampling(repeats=3, size_match="auto", draws=2))
    assert {score.matched for score in scores.values()} == {30}  # type: ignore[union-attr] - of the sources, not of the targets
    assert scores["a", "t"] == scores["a", "u"]
    assert made.count("a") == 2 + 3
    assert not {"t", "u"} & set(made)


def test_a_handful_of_images_is_measured_whole_and_leaves_the_others_alone() -> None:
    views = {"tiny": cloud("tiny", 8), "a": cloud("a", 60), "t": cloud("t", 40)}
    scores = score_pairs(Frechet(), views, [("tiny", "t"), ("a", "t")], sampling=Sampling(size_match="auto"))
    assert scores["a", "t"].matched == 40  # type: ignore[union-attr]
    assert scores["tiny", "t"].matched is None  # type: ignore[union-attr]
    assert UNEQUAL in scores["tiny", "t"].flags  # type: ignore[union-attr]


def test_a_measure_at_its_bound_is_not_called_alike() -> None:
    score = compare("coverage", cloud("s", 60, 3.0), cloud("t", 60), k=29, repeats=4)
    if score.value == 1.0:
        assert any(flag.startswith("at its bound of 1, as is the floor") for flag in score.flags)
    same = compare("coverage", cloud("s", 60), cloud("t", 60), k=25, repeats=4)
    assert same.value == 1.0
    assert any(flag.startswith("at its bound of 1, as is the floor") for flag in same.flags)
    assert INDISTINCT not in same.flags


def test_a_ceiling_with_other_features_is_refused() -> None:
    with pytest.raises(UsageError, match=r"SK109.*'noise' has 3 features, 't' 4"):
        compare("frechet", cloud("s", 40), cloud("t", 40), repeats=3, ceiling=cloud("noise", 40, d=3))
