"""Task2Vec: the seed study's embeddings, invariances of the distances, self distances, the choice of images, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cosine

from simkit.dataset import DatasetCard
from simkit.errors import DataError, NotEnoughData, UsageError
from simkit.estimators.checks import check_estimator
from simkit.estimators.comparison import compare
from simkit.estimators.examples import example_tasks
from simkit.estimators.task2vec import Task2Vec, cosine_distance, scaled_cosine_distance
from simkit.estimators.task_embedding import TaskEmbedding
from simkit.recipe import digest, rng_for
from simkit.registry import EXTRACTORS, Spec

RNG = rng_for("test")
FISHER = arrays(np.float64, 12, elements=st.floats(0, 1e3, allow_subnormal=False).map(lambda v: 0.0 if v < 1e-12 else v)).filter(lambda v: bool(v.any()))


@pytest.fixture
def hessians(shared: Path) -> dict[str, np.ndarray]:
    """The seed study's task embeddings of two subsets of eight data sets, (2, 53120) each."""
    with np.load(shared / "reference" / "cats-scans" / "task2vec_hessians_subsets_0_1.npz") as file:
        return {name: file[name].astype(np.float64) for name in file.files}


def between(a: TaskEmbedding, b: TaskEmbedding, **options: Any) -> Any:
    return Task2Vec(**options).compare(a, b, RNG)


@pytest.mark.shared
def test_point_check_of_the_seed_study(hessians: dict[str, np.ndarray]) -> None:
    isic, chest = (TaskEmbedding(hessians[name][0], None, name, 100, 2, "probe") for name in ("isic", "chest"))
    assert (isic.fisher.sum(), chest.fisher.sum()) == pytest.approx((2.38533485, 7.70049020), abs=2e-8)
    assert between(isic, chest, distance="cosine").value == pytest.approx(0.86115632, abs=5e-9)
    score = between(isic, chest)
    assert score.value == pytest.approx(0.29993439, abs=5e-9)
    assert between(isic, chest, epsilon=1e-12).value == pytest.approx(0.303057, abs=5e-7)
    assert between(isic, chest, epsilon=1e-6).value == pytest.approx(0.262554, abs=5e-7)
    assert (score.detail["d"], score.detail["n"]) == (53120, (100, 100))
    assert 500 < score.detail["zero_both"] < 566
    assert json.dumps(dict(score.detail))


COLUMNS = ("stl10", "sti10", "textures", "isic", "chest", "pcam-middle", "pcam-small", "kimia")
RAW = """.2062 .5056 .5316 .8305 .2352 .2571 .5761
.4574 .4929 .8181 .1643 .1875 .5519
.6174 .8617 .4184 .4348 .7012
.8589 .4325 .4451 .3089
.7632 .7679 .8984
.0585 .5231
.5352"""
SCALED = """.1646 .2040 .3855 .6135 .6522 .5649 .2083
.1939 .2983 .4924 .5143 .4285 .2095
.4011 .6083 .6448 .5615 .2197
.3084 .2841 .2596 .4411
.2145 .2262 .7247
.1549 .7722
.6905"""
DIAGONAL = (.1248, .1196, .1763, .2454, .2020, .1275, .1611, .1797)


@pytest.mark.shared
def test_matrices_of_the_seed_study(hessians: dict[str, np.ndarray]) -> None:
    """Means over 100 subsets, of which there are two here: near, with the subsets' spread (0.12 at most), and in the same order."""
    from scipy.stats import spearmanr

    names = {one.replace("_", "-"): one for one in hessians}
    assert set(names) == set(COLUMNS)
    for table, distance in ((RAW, "cosine"), (SCALED, "scaled-cosine")):
        stated, found = [], []
        for row, line in enumerate(table.splitlines()):
            for column, value in enumerate(line.split(), start=row + 1):
                sets = [hessians[names[COLUMNS[place]]] for place in (row, column)]
                pairs = [(TaskEmbedding(sets[0][k], name="a"), TaskEmbedding(sets[1][k], name="b")) for k in (0, 1)]
                stated.append(float(value))
                found.append(np.mean([between(a, b, distance=distance).value for a, b in pairs]))
        assert np.abs(np.array(stated) - found).max() < 0.2
        assert np.abs(np.array(stated) - found).mean() < 0.05
        assert spearmanr(stated, found).statistic > 0.95
    own = [between(TaskEmbedding(hessians[names[one]][0], name="a"), TaskEmbedding(hessians[names[one]][1], name="b")).value for one in COLUMNS]
    assert np.abs(np.array(own) - DIAGONAL).max() < 0.12


@settings(max_examples=80, deadline=None)
@given(FISHER, FISHER, st.floats(1e-3, 1e3))
def test_cosine(a: np.ndarray, b: np.ndarray, factor: float) -> None:
    value = cosine_distance(a, b)
    assert 0 <= value <= 1 + 1e-12
    assert value == cosine_distance(b, a)
    assert value == pytest.approx(cosine(a, b), abs=1e-12)
    assert value == pytest.approx(cosine_distance(factor * a, b), abs=1e-12)
    assert cosine_distance(a, a) == 0
    assert cosine_distance(a, factor * a) == pytest.approx(0, abs=1e-15)


@settings(max_examples=80, deadline=None)
@given(FISHER, FISHER, st.floats(1e-3, 1e3), st.permutations(range(12)))
def test_scaled_cosine(a: np.ndarray, b: np.ndarray, factor: float, order: list[int]) -> None:
    value = scaled_cosine_distance(a, b, 1e-8)
    assert 0 <= value <= 1 + 1e-12
    assert value == pytest.approx(scaled_cosine_distance(b, a, 1e-8), abs=1e-15)
    assert value == pytest.approx(cosine(a / (a + b + 1e-8), b / (a + b + 1e-8)), abs=1e-12)
    assert value == pytest.approx(scaled_cosine_distance(a[order], b[order], 1e-8), abs=1e-12)
    assert scaled_cosine_distance(a, a, 1e-8) == 0
    assert scaled_cosine_distance(a, b, 0.0) == pytest.approx(scaled_cosine_distance(factor * a, factor * b, 0.0), abs=1e-12)
    assert value == pytest.approx(scaled_cosine_distance(np.append(a, [0, 0]), np.append(b, [0, 0]), 1e-8), abs=1e-12)


def test_scaled_cosine_is_not_invariant_to_the_size_of_one() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.exponential(size=(2, 50))
    assert abs(scaled_cosine_distance(a, b, 0.0) - scaled_cosine_distance(10 * a, b, 0.0)) > 0.04
    assert abs(scaled_cosine_distance(1e-9 * a, 1e-9 * b) - scaled_cosine_distance(a, b)) > 1e-3  # epsilon


def test_closed_forms() -> None:
    assert cosine_distance(np.array([1.0, 0]), np.array([0, 2.0])) == pytest.approx(1)
    assert cosine_distance(np.array([1.0, 0]), np.array([1.0, 1.0])) == pytest.approx(1 - 1 / np.sqrt(2))
    assert cosine_distance(np.array([1.0, 0]), np.array([-1.0, 0])) == pytest.approx(2)
    assert cosine_distance(np.array([1e-200, 0]), np.array([1e-200, 1e-200])) == pytest.approx(1 - 1 / np.sqrt(2))
    assert scaled_cosine_distance(np.array([1.0, 0]), np.array([0, 5.0])) == pytest.approx(1)
    # (1/4, 1/2) and (3/4, 1/2): 1 - (3/16 + 1/4) / (sqrt(5)/4 sqrt(13)/4)
    assert scaled_cosine_distance(np.array([1.0, 2.0]), np.array([3.0, 2.0]), 0.0) == pytest.approx(1 - 7 / np.sqrt(65))
    near = np.array([1.0, 1.0 + 1e-9])
    assert cosine_distance(np.ones(2), near) == pytest.approx(1e-18 / 8, rel=1e-5)  # 1 - a'b would give 0


@pytest.mark.parametrize("options", [{}, {"distance": "cosine"}, {"method": "montecarlo", "samples": 3}, {"epsilon": 0.0}])
def test_promises(options: dict[str, Any]) -> None:
    check_estimator(Task2Vec, options=options)


def test_dead_channels_are_counted() -> None:
    a, b = np.array([0.0, 0.0, 1.0, 2.0, 0.0]), np.array([0.0, 3.0, 1.0, 2.0, 0.0])
    for distance in ("cosine", "scaled-cosine"):
        score = between(TaskEmbedding(a), TaskEmbedding(b), distance=distance)
        assert (score.detail["zero_both"], score.detail["zero_one"]) == (2, 1)
        without = between(TaskEmbedding(a[1:4]), TaskEmbedding(b[1:4]), distance=distance)
        assert score.value == pytest.approx(without.value, abs=1e-15)
        assert score.value > 0.1
    assert between(TaskEmbedding(a), TaskEmbedding(b), epsilon=0.0).value == pytest.approx(1 - (0.5) / np.sqrt(0.5 * 1.5))


def test_floor_is_the_self_distance_of_the_target_and_a_pair_below_is_flagged() -> None:
    examples = example_tasks()
    near, far, target = examples.near, examples.far, examples.target
    score = between(far, target)
    assert score.floor == pytest.approx(scaled_cosine_distance(target.halves[0], target.halves[1]))
    assert score.detail["self_distance"] == pytest.approx((scaled_cosine_distance(far.halves[0], far.halves[1]), score.floor))
    assert score.flags == ()
    same = between(target, target)
    assert same.value == 0
    assert len(same.flags) == 1
    assert same.flags == ("not distinguishable from the target",)
    spread = replace(far, halves=np.stack([near.fisher, 1 / (near.fisher + 0.01)]))  # a source whose own halves are far apart counts as well
    assert between(spread, target).value < between(spread, target).detail["self_distance"][0]
    assert "not distinguishable" in between(spread, target).flags[0]


def test_without_halves_there_is_no_floor_and_the_reason_is_said() -> None:
    examples = example_tasks()
    bare = replace(examples.target, halves=None, detail={"no_halves": "3 images cannot be split"})
    score = between(examples.far, bare)
    assert score.floor is None
    assert score.flags == ("no floor: 3 images cannot be split",)
    assert between(bare, examples.far).flags == ("no self distance of target: 3 images cannot be split",)
    assert between(examples.far, replace(bare, detail={})).flags == ("no floor: there are no embeddings of its halves",)
    zero = replace(examples.target, halves=np.zeros((2, 40)))
    assert between(examples.far, zero).flags == ("no floor: a half's embedding is zero",)
    assert between(bare, replace(bare, name="other")).detail["self_distance"] == (None, None)


def test_a_head_that_did_not_converge_is_said() -> None:
    examples = example_tasks()
    score = between(examples.far, replace(examples.target, detail={"converged": False, "accuracy": 0.5, "ignored": ("x",)}))
    assert not score.converged
    assert score.flags == ("a head of target did not converge",)
    assert (score.detail["accuracy"], score.detail["ignored"]) == ((None, 0.5), (None, ("x",)))


def test_refusals() -> None:
    target = example_tasks().target
    with pytest.raises(NotEnoughData, match=r"zero in all 40 channels"):
        between(replace(target, fisher=np.zeros(40)), target)
    with pytest.raises(NotEnoughData, match=r"zeros has no direction"):
        cosine_distance(np.zeros(3), np.ones(3))
    for value, message in ((np.nan, r"'?target'?.*NaN or infinite"), (np.inf, r"NaN or infinite"), (-1.0, r"negative values \(smallest -1\)")):
        spoilt = target.fisher.copy()
        spoilt[3] = value
        with pytest.raises(DataError, match=message):
            between(replace(target, fisher=spoilt), target)
        with pytest.raises(DataError, match=message):
            between(target, replace(target, halves=np.stack([spoilt, target.fisher])))
    with pytest.raises(UsageError, match=r"different probes cannot be compared: 'target' has 40 channels, 'target' 39"):
        between(target, replace(target, fisher=target.fisher[1:], halves=None))
    with pytest.raises(UsageError, match=r"different probes cannot be compared"):
        between(target, replace(target, probe="another"))


def test_missing() -> None:
    def known(counts: dict[str, int]) -> DatasetCard:
        return DatasetCard(name="isic", fingerprint="", images=9, class_counts=counts, groups=0, channels=3, grey_share=0.0, height=9.0, width=9.0)

    assert Task2Vec().missing(known({}), "source") == "task2vec needs labels, isic has none"
    assert Task2Vec().missing(known({"a": 9, "b": 0}), "target") == "task2vec needs at least two classes with images, isic has 1"
    assert Task2Vec().missing(known({"a": 5, "b": 4}), "target") == ""


def test_probe_is_written_as_an_extractor(tmp_path: Path) -> None:
    assert Task2Vec().probe() == {"torchvision": {"network": "resnet18", "weights": "imagenet"}}
    untrained = Task2Vec(weights="random", image_size=64, seed=3)
    assert untrained.probe() == {"torchvision": {"network": "resnet18", "weights": "random", "image_size": 64, "seed": 3}}
    assert Task2Vec(network="timm:resnet26").probe() == {"timm": {"model": "resnet26", "weights": "pretrained"}}
    file = tmp_path / "weights.pth"
    assert Task2Vec(checkpoint=file).probe() == {"checkpoint": {"network": "resnet18", "path": str(file)}}
    assert Task2Vec(checkpoint=file, image_size=64).probe()["checkpoint"] == {"network": "resnet18", "path": str(file), "image_size": 64, "resize": 64}
    for measure in (Task2Vec(), Task2Vec(weights="random", image_size=64), Task2Vec(network="timm:resnet26"), Task2Vec(checkpoint=file, image_size=64)):
        (name, options), = measure.probe().items()
        assert EXTRACTORS.build(Spec(name, options)).name == name
    with pytest.raises(UsageError, match=r"'IMAGENET1K_V1' is no weights of a network of timm"):
        Task2Vec(network="timm:resnet26", weights="IMAGENET1K_V1").probe()


def test_recipe_of_the_embedding_has_what_makes_it(tmp_path: Path) -> None:
    plain = Task2Vec().embedding_recipe()
    for same in (Task2Vec(distance="cosine"), Task2Vec(epsilon=0.1), Task2Vec(samples=5)):
        assert same.embedding_recipe() == plain
    for other in ({"network": "resnet34"}, {"weights": "random"}, {"method": "montecarlo"}, {"images": 400}, {"image_size": 64}, {"penalty": 0.1}, {"seed": 1}):
        assert digest(Task2Vec(**other).embedding_recipe()) != digest(plain)
    assert Task2Vec(method="montecarlo", samples=2).embedding_recipe() != Task2Vec(method="montecarlo").embedding_recipe()
    one, two = tmp_path / "one.pth", tmp_path / "two.pth"
    one.write_bytes(b"weights")
    two.write_bytes(b"weights")
    assert Task2Vec(checkpoint=one).recipe() == Task2Vec(checkpoint=two).recipe()
    two.write_bytes(b"others")
    assert Task2Vec(checkpoint=one).recipe() != Task2Vec(checkpoint=two).recipe()


def test_fisher_options_are_those_of_the_function() -> None:
    import inspect

    from simkit.extractors.fisher import task_fisher

    options = Task2Vec(method="montecarlo", samples=4, penalty=0.1, seed=2).fisher_options()
    assert options == {"method": "montecarlo", "samples": 4, "penalty": 0.1, "seed": 2}
    assert set(options) < set(inspect.signature(task_fisher).parameters)


def images(n: int, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    return rng.choice(["a", "b", "c", "d"], size=n, p=[0.7, 0.2, 0.09, 0.01]), [digest([seed, i]) for i in range(n)]


def test_chosen_images_follow_content_and_keep_the_shares_of_classes() -> None:
    labels, digests = images(2000)
    rows = Task2Vec(images=200).chosen(labels, digests)
    assert len(rows) == len(set(rows.tolist())) == 200
    assert [digests[i] for i in rows] == sorted(digests[i] for i in rows)
    for name in "abcd":
        share = 200 * (labels == name).mean()
        assert abs(int((labels[rows] == name).sum()) - share) <= 1 or (labels[rows] == name).sum() == 2
    order = np.random.default_rng(1).permutation(2000)
    turned = Task2Vec(images=200).chosen(labels[order], [digests[i] for i in order])
    assert [digests[order[i]] for i in turned] == [digests[i] for i in rows]
    renamed = np.array([{"a": "z", "b": "y", "c": "x", "d": "w"}[one] for one in labels])
    assert (Task2Vec(images=200).chosen(renamed, digests) == rows).all()
    assert set(Task2Vec(images=200, seed=1).chosen(labels, digests).tolist()) != set(rows.tolist())


def test_all_images_are_chosen_where_there_are_few_or_all_are_asked_for() -> None:
    labels, digests = images(300)
    for count in (0, 300, 500):
        rows = Task2Vec(images=count).chosen(labels, digests)
        assert sorted(rows.tolist()) == list(range(300))
        assert [digests[i] for i in rows] == sorted(digests)


def test_every_class_keeps_two_images_or_its_only_one() -> None:
    labels = np.array([f"class {i}" for i in range(30) for _ in range(5)] + ["single"])
    digests = [digest(i) for i in range(len(labels))]
    rows = Task2Vec(images=40).chosen(labels, digests)
    counts = {name: int((labels[rows] == name).sum()) for name in labels}
    assert counts.pop("single") == 1
    assert set(counts.values()) == {2}


def test_chosen_refuses_lengths_that_differ() -> None:
    with pytest.raises(UsageError, match=r"3 labels for 2 images"):
        Task2Vec().chosen(["a", "b", "a"], ["1", "2"])


def test_in_a_comparison() -> None:
    examples = example_tasks()
    measure = Task2Vec()
    assert compare(measure, examples.near, examples.target).value == between(examples.near, examples.target).value
