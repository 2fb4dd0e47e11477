"""Which source for a target without transfers: the order, what it is worth, and how sure it is."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import simkit
from simkit.cli import entry
from simkit.correlation.combination import ALPHAS, WAYS, Learner, Rows, chosen_ways, fitted, left_out, normal_scores, reliability, static_scores
from simkit.correlation.lines import short
from simkit.correlation.predictive import mean_interval, places
from simkit.correlation.recommendation import Candidate, Recommendation, recommend
from simkit.errors import DataError, NotEnoughData, UsageError
from simkit.files import json_text

HEAVY = ("torch", "ot", "sklearn", "pandas", "matplotlib", "scipy", "numpy")


def world(
    n_sources: int = 8, n_targets: int = 7, *, signal: float = 0.0, effect: float = 0.0, noise: float = 1.0, measures: int = 3, seed: int = 0,
) -> pd.DataFrame:
    """Sources s00.. on targets t0.., "new" among them without performance: auc = source effect + signal * z + noise; "good" sees z, others nothing."""
    rng = np.random.default_rng(seed)
    shape = (n_sources, n_targets + 1)
    z, own, level = rng.normal(size=shape), effect * rng.normal(size=(n_sources, 1)), rng.normal(size=shape[1])
    auc = 0.8 + 0.02 * (own + signal * z + noise * rng.normal(size=shape)) + 0.02 * level
    values = {"good": z + 0.3 * rng.normal(size=shape), **{f"m{k}": rng.normal(size=shape) for k in range(1, measures)}}
    targets = [*(f"t{t}" for t in range(n_targets)), "new"]
    return pd.DataFrame([
        {"source": f"s{s:02d}", "target": target, "auc": auc[s, t] if target != "new" else np.nan,
         **{name: 10 * level[t] + one[s, t] for name, one in values.items()}}
        for t, target in enumerate(targets) for s in range(n_sources)
    ])


def run(table: pd.DataFrame, target: str = "new", **more: Any) -> Recommendation:
    names = [name for name in table.columns if name not in ("source", "target", "auc", "source_size")]
    return recommend(target, table, **{"similarities": names, "bootstraps": 300, **more})


def own(found: Recommendation, name: str = "own") -> Any:
    return next(one for one in found.strategies if one.name == name)


def test_a_measure_that_predicts_is_found() -> None:
    found = run(world(10, 8, signal=3.0))
    best = max(found.measures, key=lambda one: one.spearman or -1)
    assert (best.method, best.positive, best.targets) == ("good", 8, 8)
    assert found.way in ("single", "ridge", "ridge+static")
    assert own(found).regret < own(found, "static").regret
    assert own(found, "static").difference < 0
    assert own(found, "static").distinguishable
    assert own(found, "random").distinguishable
    assert "lost more than this ranking (0." in found.answer
    assert found.answer.endswith(" AUC): the two are told apart.")
    equal = dataclasses.replace(own(found, "static"), regret=0.0131, difference=0.0003, distinguishable=False)
    assert "lost as much as this ranking (0.013 against 0.013 AUC): the two could not be" in dataclasses.replace(found, strategies=(equal,)).answer
    assert "evidence: a random source lost more than this ranking (0." in found.text(400)
    assert found.reliability is not None
    assert found.reliability > 0.8
    table = world(10, 8, signal=3.0)
    first = table[table["target"] == "new"].sort_values("good")["source"].iloc[-1]
    assert found.candidates[0].source == first
    assert found.answer.startswith(f"new: take {first} (probability of being best 0.")
    assert sum(one.probability_best or 0.0 for one in found.candidates) == pytest.approx(1.0)
    assert sum(one.expected_place or 0.0 for one in found.candidates) == pytest.approx(10 * 11 / 2)
    assert not found.candidates[-1].tied


def test_where_sources_have_an_effect_and_measures_none_it_is_the_static_list_and_says_so() -> None:
    found = run(world(9, 8, effect=2.0))
    assert found.way == "static"
    assert "ordered by: static list, the simplest within one standard error of the best" in found.text(300)
    assert [one.static_place for one in found.candidates] == sorted(one.static_place or 0 for one in found.candidates)
    assert own(found, "static").difference == pytest.approx(0.0, abs=0.01)
    assert (own(found, "static").interval, own(found, "static").distinguishable, own(found, "static").same) == (None, None, True)
    assert own(found, "static").difference == 0.0
    assert f"; on 8 past targets this ranking took the same sources as the static list, which takes {found.candidates[0].source} too." in found.answer
    assert any(line.startswith("the static list") and line.endswith("took the same sources") for line in found.text(300).splitlines())


def test_pure_noise_is_called_noise() -> None:
    found = run(world(seed=3))
    assert all(one.tied for one in found.candidates[1:])
    assert found.reliability == 0.0
    assert [one.predicted for one in found.candidates] == [0.5] * 8
    assert found.answer.startswith(
        "new: no source stands out: the predictions were worth nothing on 7 past targets, and the order below is no better than chance;")
    other = run(world(seed=5))
    assert 0.05 < (other.reliability or 0.0) < 0.5
    assert other.answer.startswith(f"new: no source stands out; first is {other.candidates[0].source} (probability of being best 0.")
    assert ", not distinguishable from any of the 7 others; on 7 past targets this ranking took the same sources as the static list, which " in other.answer


def test_measured_transfers_of_the_target_are_left_out_of_everything() -> None:
    table = world(signal=2.0)
    measured = table.copy()
    measured.loc[measured["target"] == "new", "auc"] = np.linspace(0.5, 0.9, 8)
    without, found = run(table), run(measured)
    assert found.candidates == without.candidates
    assert found.strategies == without.strategies
    note = next(note for note in found.notes if "left out of everything" in note)
    assert note.startswith("new: 8 measured transfers of it (s00, ")
    assert "simkit correlate" in note


def test_two_tables_say_the_same_as_one() -> None:
    table = world(signal=2.0)
    transfer = table.loc[table["target"] != "new", ["source", "target", "auc"]]
    long = table.drop(columns="auc").melt(["source", "target"], var_name="method", value_name="value")
    one, two, three = run(table), run(table.drop(columns="auc"), performance=transfer), recommend(
        "new", long, performance=transfer, similarities=["good", "m1", "m2"], bootstraps=300)
    assert one.candidates == two.candidates == three.candidates
    assert one.strategies == two.strategies == three.strategies


def test_order_of_rows_and_columns_and_sign_of_a_measure_do_not_matter_and_the_seed_does() -> None:
    table = world(signal=1.0)
    found = run(table, seed=5)
    shuffled = table.sample(frac=1, random_state=1)[["m2", "auc", "target", "good", "source", "m1"]]
    assert run(shuffled, seed=5).candidates == found.candidates
    turned = run(table.assign(good=-table["good"]), seed=5, similarities=["m1", "m2"], distances=["good"])
    assert turned.candidates == found.candidates
    assert turned.strategies == found.strategies
    assert run(table, seed=6).candidates != found.candidates


def test_units_and_difficulty_of_a_target_do_not_matter() -> None:
    table = world(signal=1.0)
    warped = table.assign(good=np.exp(table["good"] / 20), auc=table["auc"] * (1 - 0.05 * (table["target"] == "t1")))
    assert run(warped).candidates == run(table).candidates


def test_an_unknown_target_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"error\[SK101\] DataFrame: there is no target 'neww' \(did you mean 'new'\?\)\nfix: targets found: new, t0"):
        run(world(), "neww")


def test_self_pairs_and_scratch_are_neither_candidates_nor_evidence() -> None:
    table = world(signal=2.0)
    extra = [{"source": source, "target": "new", "good": 99.0, "m1": 0.0, "m2": 0.0} for source in ("new", "scratch", "old")]
    past = {"source": "t0", "target": "t0", "auc": 0.99, "good": -9.0, "m1": 0.0, "m2": 0.0}
    found = run(pd.concat([table, pd.DataFrame([*extra, past])]), alias=[("old", "new")])
    assert found.candidates == run(table).candidates
    assert any("it is no source of itself (new, old left out)" in note for note in found.notes)
    assert not any("alias" in warning for warning in found.warnings)
    assert "alias: 'so1' is in no table (did you mean 's01'?)" in run(table, alias=[("so1", "s02")]).warnings
    with pytest.raises(UsageError, match=r"SK102\] alias: 'ab' is not a pair of names"):
        run(table, alias=["ab"])
    assert any("1 self pair of a past target is no evidence: t0" in note for note in found.notes)
    assert "'scratch' is training without a source, and neither candidate nor evidence: scores for new left out" in found.notes
    past = [{"source": "scratch", "target": target, "auc": 0.6, "good": 0.0, "m1": 0.0, "m2": 0.0} for target in ("t0", "t1")]
    found = run(pd.concat([table, pd.DataFrame(past)]))
    assert found.candidates == run(table).candidates
    assert "scratch" not in found.sources
    assert ["2 pa" in note for note in found.notes if "'scratch'" in note] == [True]


def test_an_alias_of_the_target_is_no_past_target() -> None:
    table = world(signal=2.0)
    found = run(table, alias=[("t0", "new")])
    assert "t0" not in found.targets
    assert any("8 measured transfers" in note for note in found.notes)


def test_a_candidate_under_another_name_is_known_by_its_alias() -> None:
    table = world(effect=2.0)
    renamed = table.assign(source=table["source"].where((table["target"] != "new") | (table["source"] != "s03"), "third"))
    found = run(renamed, alias=[("third", "s03")])
    assert found.candidates == run(table).candidates
    assert any("'third' is taken for 's03' of past transfers (alias)" in note for note in found.notes)
    unknown = next(one for one in run(renamed).candidates if one.source == "third")
    assert unknown.past_targets == 0
    assert any("third" in line and line.endswith("never tried") for line in run(renamed).text(200).splitlines())


def test_a_measure_that_lacks_a_candidate_is_left_out_and_named() -> None:
    table = world(signal=2.0)
    rows = table.drop(columns="auc").melt(["source", "target"], var_name="method", value_name="value")
    rows = rows[~((rows["method"] == "m1") & (rows["target"] == "new") & (rows["source"] == "s02"))]
    rows = rows[~((rows["method"] == "m2") & rows["target"].isin(["t0", "t1", "t2"]))]
    transfer = table.loc[table["target"] != "new", ["source", "target", "auc"]]
    found = recommend("new", rows, performance=transfer, similarities=["good", "m1", "m2"], bootstraps=100)
    why = {one.method: one.left_out for one in found.measures}
    assert why == {"good": "", "m1": "no score for 1 of 8 candidates (s02)", "m2": "it scores 32 of 56 past pairs, 80% are needed"}
    r = np.mean([stats.spearmanr(one["m1"], one["auc"])[0] for _, one in table[table["target"] != "new"].groupby("target")])
    assert {one.method: one.spearman for one in found.measures}["m1"] == pytest.approx(r)
    warning = f"m1: not used: no score for 1 of 8 candidates (s02); its mean Spearman on past targets is {r:+.2f}: score s02 by m1, or leave its rows out"
    assert f"warning: {warning}" in found.text(200)
    assert any(note.startswith("m2: not used: it scores 32 of 56 past pairs, 80% are needed; its mean Spearman on past targets is") for note in found.notes)
    alone = recommend("new", rows, performance=transfer, methods="m1", similarities="m1", bootstraps=100)
    assert "s02: rows for new and no score of a measure that is used, so no candidate" in alone.notes
    assert "s02: past transfers and no scores for new, so no candidate" in alone.notes
    rows = rows[~((rows["method"] == "good") & (rows["target"] == "new") & (rows["source"] == "s03"))]
    with pytest.raises(NotEnoughData, match=r"SK501\] DataFrame: no measure is left for new \(good: no score for 1 of 8 candidates \(s03\); m1: no score"):
        recommend("new", rows, performance=transfer, similarities=["good", "m1", "m2"])


def test_past_pairs_without_a_score_teach_nothing_and_are_counted() -> None:
    table = world(signal=2.0)
    rows = table.drop(columns="auc").melt(["source", "target"], var_name="method", value_name="value")
    rows = rows[~((rows["method"] == "m2") & (rows["target"] == "t0") & (rows["source"] == "s02"))]
    transfer = table.loc[table["target"] != "new", ["source", "target", "auc"]]
    found = recommend("new", rows, performance=transfer, similarities=["good", "m1", "m2"], bootstraps=100)
    assert "1 past pair lacks a score of a measure that is used, and teaches nothing" in found.notes


def test_other_targets_without_transfers_are_noted() -> None:
    table = world()
    table.loc[table["target"] == "t6", "auc"] = np.nan
    found = run(table)
    assert found.targets == tuple(f"t{t}" for t in range(6))
    assert "1 other target has scores and no transfers, and teaches nothing: t6" in found.notes


def test_fewer_than_two_candidates_are_refused() -> None:
    table = world()
    with pytest.raises(NotEnoughData, match=r"SK501\] DataFrame: new has scores of 1 candidate source \(s00\): there is nothing to rank"):
        run(table[(table["target"] != "new") | (table["source"] == "s00")])


def test_without_past_targets_there_are_no_probabilities() -> None:
    for table in (world()[lambda t: t["target"] == "new"].drop(columns="auc"), world()[lambda t: t["target"] == "new"]):
        found = run(table)
        assert [one.probability_best for one in found.candidates] == [None] * 8
        assert found.strategies == ()
        assert found.answer.startswith("new: no source can be recommended: with 0 past targets nothing is known")
        ranks = table.set_index("source")[["good", "m1", "m2"]].rank().apply(lambda one: stats.norm.ppf((one - 0.5) / 8)).mean(axis=1)
        assert [one.source for one in found.candidates] == list(ranks.sort_values(ascending=False).index)
        assert any("no past target" in warning for warning in found.warnings)


def test_one_past_target_teaches_nothing_and_no_regret_is_printed() -> None:
    found = run(world(n_targets=1, signal=3.0))
    assert found.way == "average"
    assert [one.probability_best for one in found.candidates] == [None] * 8
    assert own(found).targets == 1
    assert any(warning.startswith("1 past target: nothing can be learned") for warning in found.warnings)
    assert found.answer.startswith("new: no source can be recommended: with 1 past target nothing is known")
    assert f"by their rank average, first is {found.candidates[0].source}." in found.answer
    assert "P(best)" not in found.text(200)
    assert "regret" not in found.text(200)
    assert "lost" not in found.text(200)


def test_two_past_targets_choose_between_static_list_and_rank_average_and_say_that_it_is_not_nested() -> None:
    static = run(world(n_targets=2, effect=3.0))
    assert static.way == "static"
    assert static.reliability is None
    assert [one.predicted for one in static.candidates] == [None] * 8
    assert static.candidates[0].static_place == 1
    assert "reliability of the predictions: not estimable with 2 past targets" in static.text(400)
    average = run(world(n_targets=2, signal=3.0))
    assert average.way == "average"
    assert average.reliability is not None
    assert own(average, "static").interval is None
    for found in (static, average):
        assert own(found).targets == 2
        assert all(one.distinguishable is None for one in found.strategies)
        assert not found.answer.startswith("new: take")
        assert "warning: 2 past targets: these same two chose between static list and rank average" in found.text(400)
        assert "too few targets to tell the two apart" in found.text(400)
        assert "(the way was chosen by these same past targets)" in found.text(400)


def test_with_three_past_targets_the_way_that_orders_is_the_way_that_was_tried() -> None:
    import sklearn

    chosen = []
    for seed in range(5):
        learner = Learner(rows_of(np.random.default_rng(seed), 8, 3, 3, 0.0, 3.0)[0])
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            chosen.append((learner.choose(range(3)).way, {one.way for one in left_out(learner)}))
            two = learner.choose((0, 2))
            assert two.way == ("static" if round(two.spearman[0].mean(), 12) >= round(two.spearman[1].mean(), 12) else "average")
            assert learner.choose((1,)).way == "average"
    assert chosen == [("static", {"static"})] * 5


def test_three_past_targets_say_that_their_evidence_is_of_a_smaller_choice() -> None:
    found = run(world(8, 3, signal=1.0))
    assert any("3 past targets: leaving one out leaves two" in line for line in found.warnings)
    assert "the other two chose between static list and rank average only" in found.text(400)
    assert not any("leaving one out leaves two" in line for line in run(world(8, 4)).warnings)


def test_a_past_of_scratch_or_self_pairs_alone_is_none() -> None:
    table = world(4, 1)
    past = table["target"] == "t0"
    for source in ("scratch", "t0"):
        found = run(table[~past | (table["source"] == "s00")].assign(source=lambda one, name=source: one["source"].where(one["target"] == "new", name)))
        assert found.targets == ()
        assert found.candidates[0].probability_best is None
        assert "no source can be recommended" in found.answer


def test_two_past_targets_that_are_equal_in_both_ways_take_the_static_list() -> None:
    rows, _ = rows_of(np.random.default_rng(0), 6, 2, 1, 0.0, 0.0)
    y = np.where(rows.target == 0, rows.x[:, 0], 0.0)
    y[rows.target == 1] = y[rows.target == 0]
    rows = Rows(y[:, None], y, rows.source, rows.target, rows.size, rows.new_x, rows.new_size, rows.known, rows.n_sources, rows.n_targets)
    assert Learner(rows).choose(range(2)).way == "static"
    assert {one.way for one in left_out(Learner(rows))} == {"static"}


def test_past_targets_that_an_alias_declares_the_same_are_one() -> None:
    table = world(8, 4, seed=2)
    again = table[table["target"] != "new"].assign(target=lambda rows: "u" + rows["target"].str[1:])
    again = again[(again["target"] != "u1") | (again["source"] != "s03")]
    both = pd.concat([table, again])
    found = run(both, alias=[(f"t{t}", f"u{t}") for t in range(4)])
    assert found.targets == ("t0", "t1", "t2", "t3")
    assert found.candidates == run(table).candidates
    assert found.strategies == run(table).strategies
    assert "past targets 't1' and 'u1' are the same data (alias): 't1' with 8 pairs is kept, 'u1' with 7 pairs is left out" in found.warnings
    assert not any("is in no table" in warning or "stay as separate targets" in warning for warning in found.warnings)
    fewer = both[(both["target"] != "t0") | (both["source"] != "s03")]
    assert run(fewer, alias=[("t0", "u0")]).targets == ("t1", "t2", "t3", "u0", "u1", "u2", "u3")
    scores, transfer = both.drop(columns="auc"), both.loc[both["target"] != "new", ["source", "target", "auc"]]
    assert run(scores, performance=transfer, alias=[(f"t{t}", f"u{t}") for t in range(4)]).strategies == found.strategies


def test_past_targets_with_equal_performances_teach_nothing_and_are_named() -> None:
    table = world(signal=2.0)
    flat = table.assign(auc=table["auc"].where(table["target"] != "t1", 0.8))
    found = run(flat)
    assert "t1" not in found.targets
    assert found.candidates == run(table[table["target"] != "t1"]).candidates
    assert "1 past target with the same performance for all sources teaches nothing: t1" in found.warnings
    none = run(table.assign(auc=np.where(table["target"] == "new", np.nan, 0.8)))
    assert none.targets == ()
    assert none.answer.startswith("new: no source can be recommended: with 0 past targets")
    assert any(warning.startswith("7 past targets with the same performance for all sources teach nothing: t0, t1") for warning in none.warnings)
    two = run(table[(table["target"] == "new") | table["source"].isin(["s00", "s01"])])
    assert any(warning.startswith("7 past targets with fewer than 3 scored and measured sources teach nothing: t0") for warning in two.warnings)


def test_a_shared_first_place_is_said() -> None:
    table = world(signal=2.0, measures=1)
    table.loc[table["target"] == "new", "good"] = [1.0, 2.0, 7.0, 7.0, 3.0, 4.0, 5.0, 6.0]
    alone = run(table[table["target"] == "new"].drop(columns="auc"))
    assert alone.answer.endswith("by their rank average, s02 and s03 share the first place.")
    found = run(table)
    assert [one.place for one in found.candidates[:3]] == [1, 1, 3]
    assert "s02 and s03 share the first place (probability of being best 0." in found.answer


def candidate(source: str, place: int, best: float, worse: float | None) -> Candidate:
    return Candidate(source, place, 0.5, 2.0, (1, 3), best, 0.5, worse, worse is not None and worse < 0.95, place, 3)


@pytest.mark.parametrize(("best", "worse", "answer"), [
    ((0.4, 0.3, 0.2, 0.1), (0.6, 0.7, 0.8), "no source stands out; first is s0 (probability of being best 0.40), not distinguishable from any of the 3 others"),
    ((0.4, 0.3, 0.3, 0.0), (0.6, 0.6, 0.97),
     "first is s0 (probability of being best 0.40), not distinguishable from 2 of 3 others (s1 and s2); only s3 is told apart"),
    ((0.5, 0.3, 0.2, 0.0), (0.6, 0.6, 0.97), "take s0 (probability of being best 0.50), not distinguishable from s1 and s2"),
    ((0.45, 0.3, 0.2, 0.0), (0.95, 0.96, 0.97), "take s0 (probability of being best 0.45), told apart from all others"),
    ((0.45, 0.44, 0.1, 0.0), (0.5, 0.96, 0.97),
     "first is s0 (probability of being best 0.45), not distinguishable from 1 of 3 others (s1); s2 and s3 are told apart"),
    ((0.6, 0.4), (0.6,), "no source stands out; first is s0 (probability of being best 0.60), not distinguishable from s1"),
    ((0.97, 0.03), (0.97,), "take s0 (probability of being best 0.97), told apart from s1"),
])
def test_the_answer_recommends_only_what_stands_out(best: tuple[float, ...], worse: tuple[float, ...], answer: str) -> None:
    found = dataclasses.replace(run(world(signal=2.0)), strategies=(), candidates=tuple(
        candidate(f"s{n}", n + 1, p, None if n == 0 else worse[n - 1]) for n, p in enumerate(best)))
    assert found.answer == f"new: {answer}."
    many = tuple(candidate(f"s{n}", n + 1, 0.3 - 0.05 * n, None if n == 0 else 0.6 if n < 8 else 0.99) for n in range(9))
    assert "not distinguishable from 7 of 8 others (s1, s2, s3, s4, s5 and 2 more); only s8 is told apart" in dataclasses.replace(found, candidates=many).answer


def test_equal_differences_have_no_interval_and_few_have_an_indicative_one() -> None:
    assert mean_interval(np.full(5, 0.1), bootstraps=100, rng=np.random.default_rng(0)) is None
    found = run(world(signal=2.0))
    assert "with fewer than 10 past targets its interval is indicative" in found.text(400)
    assert "with fewer than 10 past targets" not in run(world(n_targets=10, signal=2.0)).text(400)
    assert "regret: performance lost against the best measured source, mean over past targets" in found.text(400)
    assert "a target that is like the past ones: that it is unlike them would show in no past target" in found.text(400)
    steady = dataclasses.replace(own(found, "static"), interval=None, distinguishable=None, difference=0.01, same=False)
    assert dataclasses.replace(found, strategies=(steady,)).answer.endswith("AUC): the same difference on every target.")


def test_the_target_may_stand_under_an_alias_in_the_table() -> None:
    table = world(signal=2.0)
    renamed = table.replace({"target": {"new": "novel"}})
    found = run(renamed, alias=[("new", "novel")])
    assert found.target == "new"
    assert found.candidates == run(table).candidates
    assert "'new' is taken for the target 'novel' of DataFrame (alias)" in found.notes
    both = pd.concat([renamed, renamed[renamed["target"] == "novel"].assign(target="nova")])
    with pytest.raises(UsageError, match=r"SK101\] DataFrame: there is no target 'new', and its aliases nova and novel are there\nfix: give the one"):
        run(both, alias=[("new", "novel"), ("new", "nova")])


def test_long_names_are_shortened_where_they_stay_different() -> None:
    table = world(signal=2.0)
    name = "a-source-with-a-name-that-is-much-too-long-for-a-table"
    lines = run(table.replace({"source": {"s01": name}})).text(100).splitlines()
    rows = lines[lines.index(next(line for line in lines if line.startswith("place  source"))) + 1:][:8]
    assert sum("a-source" in row and "..." in row and "table" in row for row in rows) == 1
    alike = {"s01": "a" * 30 + "1" + "b" * 30, "s02": "a" * 30 + "2" + "b" * 30}
    assert all(one in run(table.replace({"source": alike})).text(300) for one in alike.values())
    assert short("abcdefghijkl", 12) == "abcdefghijkl"
    assert short("abcdefghijklm", 12) == "abcdef...klm"


def test_always_imagenet_counts_where_it_was_measured() -> None:
    table = world().replace({"source": {"s01": "ImageNet-1k"}})
    found = run(table)
    assert own(found, "always ImageNet-1k").targets == 7
    y = table[table["target"] != "new"].pivot(index="source", columns="target", values="auc")
    assert own(found, "always ImageNet-1k").regret == pytest.approx((y.max() - y.loc["ImageNet-1k"]).mean())
    assert own(found, "random").regret == pytest.approx((y.max() - y.mean()).mean())
    some = table[(table["source"] != "ImageNet-1k") | ~table["target"].isin(["t0", "t1"])]
    assert own(run(some), "always ImageNet-1k").targets == 5
    assert "(on the 5 targets where it was measured)" in run(some).text(300)
    assert any("no source with imagenet in its name" in note for note in run(world()).notes)
    assert own(run(world(), always="s02"), "always s02").targets == 7
    with pytest.raises(UsageError, match=r"SK101\] always: there is no source 's0' \(did you mean"):
        run(world(), always="s0")
    two = run(table.replace({"source": {"s02": "imagenet21k"}}))
    assert any("several sources have imagenet in their name (ImageNet-1k, imagenet21k)" in note for note in two.notes)


def test_a_source_with_transfers_and_no_scores_is_held_against_and_no_candidate() -> None:
    table = world(signal=1.0)
    transfer = table.loc[table["target"] != "new", ["source", "target", "auc"]]
    best = transfer.groupby("target", as_index=False)["auc"].max().assign(source="imagenet")
    with pytest.raises(DataError, match=r"SK209"):
        run(table.drop(columns="auc"), performance=pd.concat([transfer, best.assign(auc=best["auc"] + 0.01)]))
    found = run(table.drop(columns="auc"), performance=pd.concat([transfer, best.assign(auc=best["auc"] + 0.01)]), allow_missing=True)
    assert "imagenet" not in [one.source for one in found.candidates]
    assert own(found, "always imagenet").regret == 0.0
    assert own(found).regret >= 0.01
    assert any(note.startswith("imagenet: past transfers and no scores for new, so no candidate") for note in found.notes)


def test_sizes_are_used_where_all_are_known() -> None:
    table = world(signal=2.0, measures=1)
    sized = table.assign(source_size=table["source"].str[1:].astype(int) * 100 + 50)
    rows = sized.drop(columns="auc").melt(["source", "target", "source_size"], var_name="method", value_name="value")
    transfer = table.loc[table["target"] != "new", ["source", "target", "auc"]]
    found = recommend("new", rows, performance=transfer, similarities=["good"], bootstraps=100)
    assert not any("size" in note and "not known" in note for note in found.notes)
    lacking = rows.assign(source_size=rows["source_size"].where(rows["source"] != "s01"))
    assert any("the size of 1 of 8 sources is not known (s01): sizes are not used" in note
               for note in recommend("new", lacking, performance=transfer, similarities=["good"], bootstraps=100, allow_missing=True).notes)


@pytest.mark.parametrize(("more", "message"), [
    ({"bootstraps": 10}, r"SK102\] bootstraps: 10 is not valid here: expected a whole number >= 100"),
    ({"aggregate": "median"}, r"SK102\] aggregate: 'median' is not known"),
    ({"similarities": []}, r"SK211\] DataFrame: the direction of "),
    ({"methods": "bad"}, r"SK101\] methods: no column of DataFrame is called 'bad'"),
    ({"performance": "acc"}, r"SK101\] performance: 'acc' is neither a column"),
])
def test_wrong_options_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(world(), **more)


def test_the_table_frame_dictionary_and_page_hold_the_same_numbers() -> None:
    found = run(world(signal=1.0))
    frame = found.frame
    assert list(frame["source"]) == [one.source for one in found.candidates]
    assert list(frame["probability_best"]) == [one.probability_best for one in found.candidates]
    out = json.loads(json_text(found.as_dict()))
    assert out["candidates"][0]["place_interval"] == list(found.candidates[0].place_interval or ())
    assert out["answer"] == found.answer
    assert set(out["versions"]) == {"simkit", "numpy", "scipy", "scikit-learn"}
    assert out["seed"] == 0


def test_text_fits_its_width_begins_with_the_answer_and_names_cannot_drive_the_terminal() -> None:
    found = run(world(signal=1.0).replace({"source": {"s01": "a\x1b[31m<b>"}}))
    for width in (60, 100, 200):
        assert max(map(len, found.text(width).splitlines())) <= width
        assert "\x1b" not in found.text(width)
    assert " ".join(found.text(400).splitlines()[0].split()) == found.answer.replace("\x1b", "?")
    assert "<b>" not in found._repr_html_().replace("<p><b>", "")
    assert "&lt;b&gt;" in found._repr_html_()


def test_normal_scores_static_scores_and_ridge_are_those_of_scipy_and_scikit_learn() -> None:
    from sklearn.linear_model import Ridge

    values = np.array([3.0, 1.0, 2.0, 2.0])
    assert normal_scores(values) == pytest.approx(stats.norm.ppf((stats.rankdata(values) - 0.5) / 4))
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(20, 3)), rng.normal(size=20), rng.integers(0, 3, 20).astype(float)
    for column, alpha in enumerate(ALPHAS):
        assert fitted(x, y, ALPHAS, w)[:, column] == pytest.approx(Ridge(alpha, fit_intercept=False).fit(x, y, sample_weight=w).coef_)
    assert fitted(x[:, :1], -x[:, 0], (1e-9,)).item() == 0.0
    rows = rows_of(rng, 5, 4, 2, 0.0, 1.0)[0]
    past, new = static_scores(rows, np.array([[1.0, 2.0, 0.0, 1.0]]))
    y_of = {(int(s), int(t)): one for s, t, one in zip(rows.source, rows.target, rows.y, strict=True)}
    row = next(r for r in range(len(rows.y)) if (rows.source[r], rows.target[r]) == (3, 1))
    assert past[0, row] == pytest.approx((y_of[3, 0] + y_of[3, 3]) / 2)
    assert new[0, 3] == pytest.approx((y_of[3, 0] + 2 * y_of[3, 1] + y_of[3, 3]) / 4)


def test_the_simplest_way_within_one_standard_error_is_taken() -> None:
    better, same = np.zeros((5, 6)), np.zeros((5, 6))
    better[3] = [0.5, 0.6, 0.5, 0.6, 0.5, 0.6]
    same[3] = [0.5, -0.5, 0.5, -0.5, 0.5, -0.4]
    assert list(WAYS)[chosen_ways(better, np.ones((1, 6)))[0]] == "ridge"
    assert list(WAYS)[chosen_ways(same, np.ones((1, 6)))[0]] == "static"
    assert list(WAYS)[chosen_ways(same, np.array([[3.0, 0, 3, 0, 0, 0]]))[0]] == "ridge"


def test_the_interval_of_a_mean_is_as_wide_as_students() -> None:
    values = np.random.default_rng(1).normal(size=12)
    low, high = mean_interval(values, bootstraps=20_000, rng=np.random.default_rng(0)) or (0, 0)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 11, values.mean(), stats.sem(values)), abs=0.05)
    assert mean_interval(values[:2], bootstraps=100, rng=np.random.default_rng(0)) is None


def rows_of(
    rng: np.random.Generator, n_sources: int, n_targets: int, measures: int, signal: float, effect: float, never: int = 0,
) -> tuple[Rows, np.ndarray]:
    """A world without tables, and the performance of the candidates on the new target; the last ``never`` of them were never tried."""
    shape, tried = (n_sources, n_targets + 1), n_sources - never
    z = rng.normal(size=shape)
    y = effect * rng.normal(size=(n_sources, 1)) + signal * z + rng.normal(size=shape)
    x = [z + 0.5 * rng.normal(size=shape), *(rng.normal(size=shape) for _ in range(measures - 1))]
    s, t = (one.ravel() for one in np.meshgrid(np.arange(tried), np.arange(n_targets), indexing="ij"))
    past = [np.stack([normal_scores(one[:tried, k]) for k in range(n_targets)], axis=1) for one in (*x, y)]
    known = np.where(np.arange(n_sources) < tried, np.arange(n_sources), -1)
    rows = Rows(np.stack([one[s, t] for one in past[:-1]], axis=1), past[-1][s, t], s, t, np.empty((len(s), 0)),
                np.stack([normal_scores(one[:, -1]) for one in x], axis=1), np.empty((n_sources, 0)), known, tried, n_targets)
    return rows, y[:, -1]


@dataclasses.dataclass
class Calibration:
    """Over worlds: shares and places that were said of the candidates, and what was true."""

    covered: list[float] = dataclasses.field(default_factory=list)
    probability: list[float] = dataclasses.field(default_factory=list)
    hit: list[bool] = dataclasses.field(default_factory=list)
    best: list[float] = dataclasses.field(default_factory=list)
    is_best: list[bool] = dataclasses.field(default_factory=list)
    apart: list[int] = dataclasses.field(default_factory=list)
    wrong: list[int] = dataclasses.field(default_factory=list)
    never: list[tuple[float, float, float]] = dataclasses.field(default_factory=list)

    def add(self, rows: Rows, truth: np.ndarray, seed: int) -> None:
        import sklearn

        learner = Learner(rows)
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            choice, left = learner.choose(range(rows.n_targets)), left_out(learner)
            ones = np.ones((1, rows.n_targets))
            past, new = static_scores(rows, ones)
            order, predicted, _ = learner.final(choice, np.ones(rows.n_sources), ones[0], past[0], new[0])
        found = places(learner, choice, left, order, predicted * reliability(left, ones)[0], bootstraps=200, seed=seed, name="new")
        first, place = int(np.argmax(order)), stats.rankdata(-truth)
        inside, best = (found.lower <= place) & (place <= found.upper), place == 1
        apart = (found.first_better >= 0.95) & (np.arange(len(truth)) != first)
        self.covered.append(np.mean(inside))
        self.probability.append(found.best[first])
        self.hit.append(best[first])
        self.best += found.best.tolist()
        self.is_best += best.tolist()
        self.apart.append(int(apart.sum()))
        self.wrong.append(int((apart & (truth > truth[first])).sum()))
        if (rows.known < 0).any():
            self.never.append(tuple(np.mean(one[rows.known < 0]) for one in (inside, found.best, best)))


def calibration(n: int, n_sources: int, n_targets: int, measures: int, signal: float, effect: float, never: int = 0) -> Calibration:
    out = Calibration()
    for seed in range(n):
        rng = np.random.default_rng([seed, n_sources, n_targets])
        out.add(*rows_of(rng, n_sources, n_targets, measures, signal, effect, never), seed)
    return out


def bins(worlds: Sequence[Calibration], edges: Sequence[float]) -> list[tuple[int, float, float]]:
    """Of the first sources whose P(best) lies between two edges: how many, their mean P(best), and how often they are the best."""
    said, true = (np.concatenate([getattr(one, name) for one in worlds]) for name in ("probability", "hit"))
    inside = [(edges[k] <= said) & (said < edges[k + 1]) for k in range(len(edges) - 1)]
    return [(int(which.sum()), float(said[which].mean()), float(true[which].mean())) for which in inside]


@pytest.mark.slow
def test_intervals_and_probabilities_are_calibrated() -> None:
    n = 60
    null = [calibration(n, 8, 6, 4, 0.0, 0.0), calibration(n, 8, 3, 3, 0.0, 0.0)]
    weak = [calibration(n, 10, 6, 4, 1.0, 1.0), calibration(n, 8, 3, 3, 1.5, 0.0)]
    strong = [calibration(n, 8, 6, 4, 1.5, 0.0), calibration(n, 8, 6, 4, 0.0, 1.5), calibration(n, 8, 3, 3, 0.0, 3.0)]
    for world_of in (*null, *weak, *strong):
        hits = float(np.mean(world_of.hit))
        assert np.mean(world_of.covered) >= 0.9
        assert np.mean(world_of.probability) <= hits + 2.5 * np.sqrt(max(hits * (1 - hits), 0.05) / n), "P(best) must not be larger than how often it is best"
    for world_of in null:
        assert np.mean(np.array(world_of.apart) > 0) <= 0.1
        assert np.mean(world_of.probability) < 0.25
    for count, said, true in bins([*null, *weak, *strong], (0.0, 0.3, 0.6, 1.01)):
        assert count >= 20
        assert said <= true + 2.5 * np.sqrt(true * (1 - true) / count)
    for worlds in (weak, strong):
        apart, wrong = (sum(sum(getattr(one, name)) for one in worlds) for name in ("apart", "wrong"))
        assert apart >= 40
        assert wrong <= 0.12 * apart


@pytest.mark.slow
@pytest.mark.parametrize(("n_sources", "n_targets", "signal", "effect", "never"), [(8, 6, 0.0, 3.0, 1), (6, 8, 0.0, 3.0, 2), (8, 6, 1.0, 1.5, 1)])
def test_a_candidate_that_was_never_tried_is_not_taken_for_a_mean_one(n_sources: int, n_targets: int, signal: float, effect: float, never: int) -> None:
    n = 50
    found = calibration(n, n_sources, n_targets, 3, signal, effect, never)
    inside, probability, hits = np.mean(found.never, axis=0)
    assert inside >= 0.93
    assert probability >= hits - 2.5 * np.sqrt(hits * (1 - hits) / (n * never)), "it must not be called worse than it is"
    assert np.mean(found.covered) >= 0.9


def test_nothing_heavy_is_imported_for_help() -> None:
    code = ("import sys; from simkit.cli import entry; import simkit; simkit.recommend; entry(['recommend', '--help']); "
            f"print([m for m in {HEAVY!r} if m in sys.modules and m != 'numpy'])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
    assert simkit.recommend is recommend


def cli(*arguments: object) -> int:
    return entry([str(one) for one in arguments])


def test_the_command_prints_writes_and_quietly_lists(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    world(signal=2.0).to_csv(table, index=False)
    command = ("recommend", "new", table, "--similarity", "good", "--similarity", "m1", "--similarity", "m2", "--bootstraps", 100)
    assert cli(*command, "--out", tmp_path / "out.csv") == 0
    out = capsys.readouterr().out
    assert out.startswith("new: ")
    assert (tmp_path / "out.csv").read_text().startswith("source,place,predicted,expected_place,place_lower,place_upper,probability_best")
    assert cli(*command, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["target"] == "new"
    assert cli(*command, "-q") == 0
    assert capsys.readouterr().out.split() == [one["source"] for one in found["candidates"]]
    world(n_targets=1).to_csv(table, index=False)
    assert cli(*command) == 7
    out, err = capsys.readouterr()
    assert out.startswith("new: no source can be recommended: with 1 past target")
    assert "table.csv: no source can be recommended for new: 1 past target to learn from\nfix: add scores and transfers of other targets" in err


@pytest.mark.parametrize(("arguments", "status", "message"), [
    (("recommend",), 2, "Missing argument 'TARGET'"),
    (("recommend", "new"), 2, "fix: give the table (simkit recommend new scores.csv --performance transfer.csv), or a study that was run (--study study.toml)"),
    (("recommend", "nex", "table.csv"), 2, "table.csv: there is no target 'nex' (did you mean 'new'?)"),
    (("recommend", "new", "nothing.csv"), 3, "nothing.csv: does not exist"),
    (("recommend", "new", "one.csv", "--similarity", "good"), 7, "new has scores of 1 candidate source"),
    (("recommend", "new", "table.csv", "--study", "study.toml"), 2, "both a table (table.csv) and a study (study.toml) are given"),
    (("recommend", "new", "--study", "nothing.toml"), 2, "the study file does not exist"),
    (("recommend", "new", "table.csv", "--alias", "a"), 2, "'a' is not of the form a=b"),
])
def test_exit_statuses(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], status: int, message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    world(measures=1).to_csv("table.csv", index=False)
    world(measures=1)[lambda t: (t["target"] != "new") | (t["source"] == "s00")].to_csv("one.csv", index=False)
    assert cli(*arguments) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_a_study_gives_its_tables_and_aliases(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from images import study_text

    monkeypatch.chdir(tmp_path)
    study = tmp_path / "study.toml"
    study.write_text(study_text(tmp_path))
    assert cli("recommend", "new", "--study", study) == 2
    assert "the study has no scores yet" in capsys.readouterr().err
    from simkit.study import read_study

    out = Path(read_study(study).out)
    out.mkdir(parents=True)
    table = world(signal=2.0, measures=2)
    table = table.rename(columns={"good": "logme", "m1": "leep"})
    rows = table.drop(columns="auc").melt(["source", "target"], var_name="method", value_name="value").assign(higher_is_better="true")
    rows.to_csv(out / "scores.csv", index=False)
    assert cli("recommend", "new", "--study", study, "--bootstraps", 100) == 7
    printed = capsys.readouterr()
    assert "no source can be recommended: with 0 past targets" in printed.out.replace("\n  ", " ")
    assert "error[SK501]" in printed.err
    assert "no source can be recommended for new: 0 past targets to learn from" in printed.err
    table.loc[table["target"] != "new", ["source", "target", "auc"]].rename(columns={"auc": "performance"}).assign(replicate="1", metric="auc").to_csv(
        out / "transfer.csv", index=False)
    assert cli("recommend", "new", "--study", study, "--bootstraps", 100) == 0
    assert "7 past targets, 8 past sources" in capsys.readouterr().out.replace("\n  ", " ")


@pytest.mark.shared
def test_the_seed_study_has_too_few_targets_and_is_told_so(shared: Path) -> None:
    found = recommend("isic", shared / "reference/cats-scans/aucs_scores_distances_experts.csv", performance="fold_*", metric="auc", allow_missing=True,
                      methods=["task2vec=distance_*", "expert=expert_distance"], distances=["task2vec", "expert"])
    assert found.targets == ("chest", "pcam-middle")
    assert {one.source for one in found.candidates} == {"imagenet", "stl10", "sti10", "textures", "chest", "pcam-middle", "pcam-small"}
    assert own(found, "always imagenet").regret == 0.0
    assert {one.method: one.spearman for one in found.measures} == pytest.approx({"expert": -0.45, "task2vec": 0.23}, abs=0.01)
    assert found.way == "static"
    assert own(found).spearman == pytest.approx(0.89, abs=0.01)
    assert found.answer == ("isic: no source stands out; first is imagenet (probability of being best 0.14), not distinguishable from any of the 6 others; "
                            "on 2 past targets this ranking took the same sources as the static list, which takes imagenet too.")
    assert any(warning.startswith("2 past targets: these same two chose") for warning in found.warnings)
    assert any("7 measured transfers of it" in note for note in found.notes)


def test_draws_without_a_past_pair_are_drawn_again() -> None:
    """Five sources and two targets that are sources themselves: a draw may hold no pair at all."""
    names = ("a", "b", "c", "d", "e")
    for seed in range(12):
        rng = np.random.default_rng(seed)
        rows = [{"source": s, "target": t, "method": "m", "value": rng.normal(), "higher_is_better": True, "performance": 0.7 + 0.1 * rng.random()}
                for t in ("a", "b") for s in names if s != t]
        rows += [{"source": s, "target": "new", "method": "m", "value": rng.normal(), "higher_is_better": True, "performance": None} for s in names]
        found = recommend("new", pd.DataFrame(rows), bootstraps=400, allow_missing=True, seed=seed)
        assert sum(one.probability_best for one in found.candidates) == pytest.approx(1.0)
