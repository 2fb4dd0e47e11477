"""The computation behind `simkit explain`: coupling, coverage, images, features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import Labelled

from simkit.embedding import Embedding
from simkit.errors import NotEnoughData
from simkit.estimators.base import Estimator
from simkit.estimators.class_frechet import ClassFrechet
from simkit.estimators.class_mean_emd import ClassMeanEmd
from simkit.estimators.frechet import Frechet
from simkit.estimators.otdd import Otdd
from simkit.estimators.wasserstein import Wasserstein
from simkit.explanation import (
    class_coupling,
    class_coverage,
    explained_by_plan,
    feature_gap,
    frechet_parts,
    plan_of,
    present,
    repeated,
    taken,
    told_apart,
)
from simkit.recipe import rng_for

RNG = np.random.default_rng(0)


def embedding(part: Labelled, name: str, *, size: int = 200) -> Embedding:
    x, y = part[0][:size], part[1][:size]
    classes = tuple(f"d{k}" for k in range(10))
    return Embedding(x, y.astype(np.int64), classes, keys=tuple(f"{name}{i}" for i in range(len(x))), name=name)


@pytest.fixture(scope="module")
def halves(digits: dict[str, tuple[Labelled, Labelled]]) -> tuple[Embedding, Embedding]:
    a, b = digits["halves"]
    return embedding(a, "a", size=400), embedding(b, "b", size=400)


def noise(n: int, d: int, name: str, *, shift: float = 0.0, feature: int = 0, seed: int = 0, groups: int = 0) -> Embedding:
    rng = rng_for("test", name, seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    if groups:  # patients whose images are alike
        x = (rng.normal(size=(groups, d))[np.arange(n) % groups] + 0.1 * x).astype(np.float32)
    x[:, feature] += shift
    return Embedding(x, name=name, keys=tuple(f"{name}{i}" for i in range(n)), groups=tuple(f"{name}-{i % groups}" for i in range(n)) if groups else None)


def label_of(view: Embedding, key: str) -> str:
    return view.classes[int(np.asarray(view.labels)[view.keys.index(key)])]


def value_of(measure: Estimator, source: Embedding, target: Embedding) -> float:
    score = measure.compare(measure.summarize(source), measure.summarize(target), np.random.default_rng(0))
    return float(score.detail.get("distance", score.value))


@pytest.mark.parametrize("measure", [
    Otdd(), Otdd(label_cost="means"), Otdd(convention="microsoft"), Otdd(class_weights="balanced"), Otdd(feature_weight=0.5, label_weight=2.0), Wasserstein(),
    ClassFrechet(), ClassFrechet(covariance="diagonal"), ClassMeanEmd(),
], ids=lambda m: f"{m.name}")
def test_contributions_add_up_to_the_value_and_masses_are_those_of_the_classes(halves: tuple[Embedding, Embedding], measure: Estimator) -> None:
    source, target = present(halves[0].take(np.arange(150))), present(halves[1].take(np.arange(120)))
    plan = plan_of(measure, source, target)
    assert plan.contribution.sum() == pytest.approx(value_of(measure, source, target), rel=1e-9)
    assert plan.mass.sum() == pytest.approx(1.0, abs=1e-12)
    for marginal, view in ((plan.mass.sum(1), source), (plan.mass.sum(0), target)):
        shares = np.bincount(np.asarray(view.labels)) / len(view)
        expected = np.full(10, 0.1) if getattr(measure, "class_weights", "") == "balanced" else shares
        assert marginal == pytest.approx(expected, abs=1e-12)


def test_masses_of_cells_are_those_that_the_measure_reports(halves: tuple[Embedding, Embedding]) -> None:
    source, target = halves
    measure = Otdd(coupling=True)
    detail = measure.compare(measure.summarize(source), measure.summarize(target), np.random.default_rng(0)).detail["class_coupling"]
    assert plan_of(measure, present(source), present(target)).mass == pytest.approx(np.array(detail["mass"]), abs=1e-12)


def test_halves_of_one_set_are_coupled_class_by_class(halves: tuple[Embedding, Embedding]) -> None:
    source, target = present(halves[0]), present(halves[1])
    measure = Otdd()
    plan = plan_of(measure, source, target)
    found = class_coupling(measure, plan, source, target, repeated(measure, source, target, seed=0, repeats=4), value=plan.contribution.sum(), solver="exact")
    own = [c for c in found.cells if c.source == c.target]
    assert all(c.share > 0.5 and c.above for c in own)
    assert sum(c.mass for c in own) > 0.8
    for cell in found.cells:
        assert cell.interval is not None
        assert 0 <= cell.interval[0] <= cell.share <= cell.interval[1] <= 1
        assert cell.independent == pytest.approx(float((np.asarray(source.labels) == int(cell.source[1])).mean()))


def test_pairs_are_coupled_images_of_their_classes_and_none_is_shown_twice(halves: tuple[Embedding, Embedding]) -> None:
    source, target = present(halves[0]), present(halves[1])
    measure = Otdd()
    plan = plan_of(measure, source, target)
    found = class_coupling(measure, plan, source, target, repeated(measure, source, target, seed=0, repeats=0), value=0.0, solver="exact")
    assert all(c.interval is None and c.above is None for c in found.cells)
    with_pairs = [c for c in found.cells if c.pairs]
    assert sorted(c.mass for c in with_pairs) == sorted(c.mass for c in found.cells)[-8:]
    assert plan.rows is not None
    assert plan.costs is not None
    coupled = {(source.keys[i], target.keys[j]): cost for i, j, cost in zip(*plan.rows, plan.costs, strict=True)}
    for cell in with_pairs:
        inside = [cost for (a, b), cost in coupled.items() if (label_of(source, a), label_of(target, b)) == (cell.source, cell.target)]
        assert len({p.source for p in cell.pairs}) == len({p.target for p in cell.pairs}) == len(cell.pairs)
        for pair in cell.pairs:
            assert pair.cost == pytest.approx(coupled[pair.source, pair.target])
            assert pair.cost <= np.median(inside) + 1e-12


def test_a_class_that_the_source_lacks_is_the_first_uncovered_one(halves: tuple[Embedding, Embedding]) -> None:
    source, target = halves
    source = present(source.take(np.flatnonzero(np.asarray(source.labels) != 4)))
    target, measure = present(target), Otdd()
    found = class_coverage(plan_of(measure, source, target), source, target, repeated(measure, source, target, seed=0, repeats=10), source_labels=True)
    assert found[0].name == "d4"
    assert [c.name for c in found if c.uncovered] == ["d4"]
    assert found[0].reached is not None
    assert found[0].reached_floor is not None
    assert found[0].reached < 0.5 * found[0].reached_floor
    assert all(c.nearest is not None and c.nearest[0] == c.name for c in found[1:])


def test_nothing_is_uncovered_between_halves_of_one_set(halves: tuple[Embedding, Embedding]) -> None:
    source, target, measure = present(halves[0]), present(halves[1]), Otdd(label_cost="means")
    found = class_coverage(plan_of(measure, source, target), source, target, repeated(measure, source, target, seed=1, repeats=5), source_labels=True)
    assert len(found) == 10
    assert not any(c.uncovered or c.far for c in found)


def test_order_of_rows_and_names_of_classes_change_no_number(halves: tuple[Embedding, Embedding]) -> None:
    source, target = halves[0].take(np.arange(150)), halves[1].take(np.arange(120))
    order = np.random.default_rng(1).permutation(len(source))
    renamed = {f"d{k}": f"z{9 - k}" for k in range(10)}  # sorted the other way round
    labels = 9 - np.asarray(source.labels)[order]
    other = replace(source.take(order), labels=labels, classes=tuple(f"z{k}" for k in range(10)))
    found = []
    for one in (source, other):
        measure, left, right = Otdd(), present(one), present(target)
        plan = plan_of(measure, left, right)
        halved = repeated(measure, left, right, seed=0, repeats=3)
        coupling = class_coupling(measure, plan, left, right, halved, value=1.0, solver="exact")
        coverage = class_coverage(plan, left, right, halved, source_labels=True)
        apart, gap = told_apart(one, target, seed=0, options={"permutations": 19}), feature_gap(one, target, (), seed=0, permutations=49)
        found.append((coupling, coverage, apart, gap))
    first, second = found
    by_name = {(c.source, c.target): c for c in second[0].cells}
    for cell in first[0].cells:
        twin = by_name[renamed[cell.source], cell.target]
        assert (twin.share, twin.cost, twin.contribution, twin.spread) == pytest.approx((cell.share, cell.cost, cell.contribution, cell.spread), abs=1e-9)
        assert twin.interval == pytest.approx(cell.interval, abs=1e-9)
        assert (twin.above, twin.pairs) == (cell.above, cell.pairs)
    for one_class, again in zip(first[1], second[1], strict=True):
        assert (one_class.name, one_class.far, one_class.uncovered, one_class.reached) == (again.name, again.far, again.uncovered, again.reached)
        assert (one_class.cost, one_class.floor, one_class.excess) == pytest.approx((again.cost, again.floor, again.excess), abs=1e-9)
        assert one_class.nearest is not None
        assert again.nearest is not None
        assert renamed[one_class.nearest[0]] == again.nearest[0]
        assert one_class.nearest[1] == pytest.approx(again.nearest[1])
    assert (first[2].auc, first[2].p) == (second[2].auc, second[2].p)
    assert {s.key: s.decision for s in first[2].scores} == pytest.approx({s.key: s.decision for s in second[2].scores}, abs=1e-9)
    assert [(f.number, f.p) for f in first[3].features] == [(f.number, f.p) for f in second[3].features]
    assert first[3].features[0].images == second[3].features[0].images


def test_decisions_give_the_auc_of_the_measure_and_each_fold_keeps_patients_whole() -> None:
    source, target = noise(60, 8, "a", groups=12), noise(60, 8, "b", groups=12, shift=2.0)
    found = told_apart(source, target, seed=0, options={"permutations": 99})
    from sklearn.metrics import roc_auc_score

    for fold, auc in enumerate(found.folds):
        own = [s for s in found.scores if s.fold == fold]
        assert roc_auc_score([s.side == "target" for s in own], [s.decision for s in own]) == pytest.approx(auc, abs=1e-9)
    assert found.auc == pytest.approx(np.mean(found.folds))
    folds_of: dict[str, set[int]] = {}
    for s in found.scores:
        folds_of.setdefault(s.group, set()).add(s.fold)
    assert all(len(folds) == 1 for folds in folds_of.values())
    assert sorted(s.key for s in found.scores) == sorted((*source.keys, *target.keys))
    for rows in (found.clearest, found.ambiguous, found.mistaken):
        for side in ("source", "target"):
            assert len({s.group for s in rows[side]}) == len(rows[side]) == 8
    assert found.clearest["target"][0].decision == max(s.decision for s in found.scores if s.side == "target")
    assert found.clearest["source"][0].decision == min(s.decision for s in found.scores if s.side == "source")
    assert found.mistaken["source"][0].decision == max(s.decision for s in found.scores if s.side == "source")


@pytest.mark.parametrize("options", [{"classifier": "svm"}, {"classifier": "knn"}])
def test_other_classifiers_are_explained_by_their_own_decisions(options: dict[str, str]) -> None:
    found = told_apart(noise(40, 5, "a"), noise(40, 5, "b", shift=3.0), seed=0, options={**options, "permutations": 19})
    assert found.auc > 0.85
    right = [(s.decision > 0) == (s.side == "target") for s in found.scores]
    assert np.mean(right) > 0.8


def test_a_shifted_feature_is_found_and_no_other() -> None:
    source, target = noise(80, 60, "a"), noise(90, 60, "b", shift=1.0, feature=17)
    found = feature_gap(source, target, (), seed=0, permutations=199)
    assert found.features[0].number == 17
    assert found.features[0].p == pytest.approx(1 / 200)
    assert [f.number for f in found.found] == [17]
    low, high = found.features[0].interval
    assert low < 1.0 < high
    assert sum(f.share for f in found.features) == pytest.approx(1.0)
    highest = found.features[0].images["target"][1]
    assert highest[0] == target.keys[int(np.argmax(target.features[:, 17]))]


@pytest.mark.parametrize("groups", [0, 12])
def test_under_the_null_features_are_found_in_five_percent(groups: int) -> None:
    hits = sum(bool(feature_gap(noise(36, 20, "a", seed=s, groups=groups), noise(24, 20, "b", seed=s, groups=groups), (), seed=s, permutations=99).found)
               for s in range(200))
    assert 2 <= hits <= 20  # 10 expected; both ends have a chance below 0.3 %


def test_images_of_patients_are_no_independent_images() -> None:
    hits = 0
    for s in range(40):
        source, target = noise(60, 10, "a", seed=s, groups=6), noise(60, 10, "b", seed=s, groups=6)
        hits += bool(feature_gap(replace(source, groups=None), replace(target, groups=None), (), seed=s, permutations=99).found)
    assert hits > 20  # what is wrong without groups


def test_constant_features_have_no_difference() -> None:
    source, target = noise(30, 4, "a"), noise(30, 4, "b")
    for view, value in ((source, 1.0), (target, 5.0)):
        view.features[:, 2] = value
    found = feature_gap(source, target, ("w", "x", "y", "z"), seed=0, permutations=99)
    assert found.constant == 1
    assert {f.name for f in found.features} == {"w", "x", "z"}
    assert found.squared > 15


def test_parts_of_a_frechet_distance_add_up(halves: tuple[Embedding, Embedding]) -> None:
    source, target = present(halves[0]), present(halves[1])
    target = replace(target, features=target.features + np.float32(0.3))
    measure = Frechet(covariance="diagonal")
    score = measure.compare(measure.summarize(source), measure.summarize(target), np.random.default_rng(0))
    found = frechet_parts(source, target, score.detail["mean_part"], score.detail["covariance_part"], diagonal=True, labels=True)
    assert sum(found.by_class.values()) == pytest.approx(found.mean_part, rel=1e-9)
    assert np.sum(found.by_feature, axis=0) == pytest.approx([found.mean_part, found.covariance_part], rel=1e-9)


def test_a_sample_keeps_the_shares_of_the_classes(halves: tuple[Embedding, Embedding]) -> None:
    view = halves[0]
    found = taken(view, 100, 0)
    assert len(found) == 100
    assert np.bincount(np.asarray(found.labels)) == pytest.approx(np.bincount(np.asarray(view.labels)) / 4, abs=1.01)
    assert set(taken(view.take(np.arange(len(view))[::-1]), 100, 0).keys) == set(found.keys)
    assert set(taken(view, 100, 1).keys) != set(found.keys)
    assert taken(view, 400, 0) is view


def test_a_set_that_cannot_be_halved_says_why() -> None:
    target = replace(noise(20, 3, "b"), groups=("one",) * 20)
    found = repeated(Wasserstein(), present(noise(20, 3, "a")), present(target), seed=0, repeats=3)
    assert "1 group cannot be split" in found.problem
    assert not found.shares


def test_too_few_images_are_refused() -> None:
    with pytest.raises(NotEnoughData, match=r"at least 10 on each side"):
        told_apart(noise(9, 3, "a"), noise(20, 3, "b"), seed=0)


def test_only_transport_measures_have_a_plan() -> None:
    assert explained_by_plan(Otdd())
    assert not explained_by_plan(Frechet())
