"""The whole analysis: published numbers, orientation, invariance, and what is shown."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from simkit.correlation import Correlation, correlate
from simkit.errors import NotEnoughData
from simkit.files import json_text

STUDY = {"methods": ["task2vec=distance_*", "expert=expert_distance"], "distances": ["task2vec", "expert"]}


def frame(n_sources: int = 7, n_targets: int = 3, *, seed: int = 0, signal: float = 1.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n_sources):
        for j in range(n_targets):
            far = rng.normal()
            rows.append({"source": f"s{i}", "target": f"t{j}", "fold_1": 0.7 - 0.05 * signal * far + 0.02 * rng.normal(), "fold_2": 0.7 - 0.05 * signal * far,
                         "far": far, "noise": rng.normal()})
    return pd.DataFrame(rows)


def run(table: Any, **options: Any) -> Correlation:
    return correlate(table, **{"permutations": 99, "bootstraps": 50, "distances": ["far"], "similarities": ["noise"], **options})


# --- published numbers ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_the_published_pooled_correlations_are_reproduced(shared: Path) -> None:
    path = shared / "reference/cats-scans/aucs_scores_distances_experts.csv"
    found = correlate(path, performance="score_*", include_self=True, pooled=True, permutations=99, bootstraps=0, **STUDY)
    assert found.with_self is not None
    expert, task2vec = (found.with_self.pooled[name] for name in ("expert", "task2vec"))
    assert (expert.n, expert.includes_self, task2vec.n) == (24, True, 24)
    assert (round(expert.pearson or 0, 6), round(expert.p_value or 0, 6)) == (0.238080, 0.262590)
    assert (round(task2vec.pearson or 0, 6), round(task2vec.p_value or 0, 6)) == (-0.108839, 0.612686)
    assert ((expert.slope or 0) * 6, expert.intercept) == pytest.approx((2.995445, -1.364420), abs=1e-6)  # the study divides the distance by its maximum, 6
    assert any("3 self pairs left out" in note and "chest, isic, pcam-middle" in note for note in found.notes)


@pytest.mark.shared
def test_the_study_within_targets(shared: Path) -> None:
    """Values computed independently with pandas and scipy (spearmanr, group means)."""
    path = shared / "reference/cats-scans/aucs_scores_distances_experts.csv"
    found = correlate(path, performance="fold_*", include_self=True, pooled=True, **STUDY)
    assert (found.n_pairs, found.n_sources, found.n_targets) == (21, 9, 3)
    task2vec, expert = found.methods
    assert (task2vec.method, expert.method) == ("task2vec", "expert")
    assert (task2vec.mean_spearman, expert.mean_spearman) == pytest.approx((0.252262, -0.158099), abs=1e-6)
    assert [one.spearman for one in task2vec.targets] == pytest.approx([-0.108112, 0.288300, 0.576600], abs=1e-6)
    assert [one.spearman for one in expert.targets] == pytest.approx([-0.776899, 0.418330, -0.115728], abs=1e-6)
    assert {one.n for one in expert.targets} == {7}
    assert expert.regret == pytest.approx(0.058770, abs=1e-6)
    static, size, random = found.baselines
    assert size.undefined == "the sizes of the sources are not known: give a column source_size"
    assert (static.mean_spearman, static.regret) == pytest.approx((0.353498, 0.0), abs=1e-6)
    assert (random.mean_spearman, random.regret) == pytest.approx((0.0, 0.043390), abs=1e-6)
    assert (task2vec.versus_static, expert.versus_static) == pytest.approx((-0.101235, -0.511597), abs=1e-6)
    assert (task2vec.versus_static_common, expert.versus_static_common) == pytest.approx((-0.090515, -0.505551), abs=1e-6)  # without kimia
    assert task2vec.versus_static_common_interval is not None
    assert [round(value, 2) for value in found.noise_ceiling.values()] == [0.94, 0.77, 0.99]
    assert all(found.ceiling_of_mean[target] > value for target, value in found.noise_ceiling.items())
    assert found.with_self is not None
    assert (found.within["task2vec"].r, found.with_self.within["task2vec"].r) == pytest.approx((-0.455999, -0.210023), abs=1e-6)
    assert found.within["task2vec"].n == 21
    assert task2vec.p_value == pytest.approx(0.42, abs=0.02)
    assert expert.p_value == pytest.approx(0.62, abs=0.02)
    assert any("task2vec" in line and "Simpson" in line for line in found.warnings)
    assert any("few targets (3)" in line for line in found.warnings)
    assert "|Spearman| must exceed 0.75" in found.resolution
    text = found.text()
    assert "No method is distinguishable from chance with 9 sources and 3 targets" in text


@pytest.mark.shared
def test_a_tie_for_the_first_place_is_not_decided_by_the_order_of_rows(shared: Path) -> None:
    """Task2Vec gives ImageNet and STL-10 the same distance to PCam: picking either is luck, so the regret is the mean of both."""
    found = correlate(shared / "reference/cats-scans/aucs_scores_distances_experts.csv", performance="fold_*", permutations=9, bootstraps=0, **STUDY)
    pcam = found.methods[0].targets[2]
    assert pcam.chosen_source == "imagenet or stl10"
    assert pcam.regret == pytest.approx((0.961006434 - 0.903338585) / 2, abs=1e-8)


@pytest.mark.shared
def test_the_two_files_of_the_study_join_and_agree_with_the_joint_one(shared: Path) -> None:
    folder = shared / "reference/cats-scans"
    found = correlate(folder / "experts_clean.csv", performance=folder / "auc_folds_means_std.csv", methods=["expert=distance"], distances="expert",
                      metric="auc", allow_missing=True, permutations=99, bootstraps=50)
    joint = correlate(folder / "aucs_scores_distances_experts.csv", performance="fold_*", methods=STUDY["methods"][1], distances="expert", permutations=99,
                      bootstraps=50)
    assert found.methods[0].mean_spearman == joint.methods[0].mean_spearman
    assert [one.kendall for one in found.methods[0].targets] == [one.kendall for one in joint.methods[0].targets]
    assert found.methods[0].regret == joint.methods[0].regret  # p differs: the experts rated pairs that were not run, which permutations use
    assert sum("cut short" in note for note in found.notes) == 1
    assert any("3 of 24 pairs have no performance" in note for note in found.notes)


# --- orientation ----------------------------------------------------------------------------------------------------------------------------


def test_a_distance_and_its_negation_give_the_same_report() -> None:
    table = frame()
    one = run(table)
    other = run(table.assign(far=-table["far"]), distances=[], similarities=["far", "noise"])
    for mine, theirs in zip(one.methods, other.methods, strict=True):
        for name in ("method", "mean_spearman", "interval", "p_value", "p_holm", "regret", "versus_static", "positive_targets"):
            assert getattr(mine, name) == getattr(theirs, name), name
        for a, b in zip(mine.targets, theirs.targets, strict=True):
            assert replace(a, points=()) == replace(b, points=())
    assert one.within["far"].r == pytest.approx(-other.within["far"].r)


def test_coefficients_are_scipys_of_the_negated_distance() -> None:
    """weightedtau is not odd: negating its result instead of the distance gives another number."""
    table = frame(signal=0.3)
    group = table[table["target"] == "t0"]
    x, y = -group["far"].to_numpy(), group[["fold_1", "fold_2"]].mean(axis=1).to_numpy()
    one = next(method for method in run(table).methods if method.method == "far").targets[0]
    assert one.weighted_tau == pytest.approx(stats.weightedtau(x, y).statistic)
    assert one.weighted_tau != pytest.approx(-stats.weightedtau(-x, y).statistic)
    assert one.kendall == pytest.approx(stats.kendalltau(x, y).statistic)
    assert one.spearman == pytest.approx(stats.spearmanr(x, y).statistic)
    assert one.pearson == pytest.approx(stats.pearsonr(x, y).statistic)
    best = np.argmax(x)
    assert one.regret == pytest.approx(y.max() - y[best])
    assert one.random_regret == pytest.approx(y.max() - y.mean())
    assert one.relative_at_1 == pytest.approx(y[best] / y.max())
    assert one.relative_at_3 == pytest.approx(y[np.argsort(-x)[:3]].max() / y.max())


# --- invariance -----------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_rows_columns_and_replicates_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = frame(5, 2)
    shuffled = table.sample(frac=1, random_state=rng.integers(2**31))
    shuffled = shuffled[list(rng.permutation(shuffled.columns))].rename(columns={"fold_1": "fold_2", "fold_2": "fold_1"})
    assert run(shuffled, bootstraps=20).methods == run(table, bootstraps=20).methods
    tidy = table.melt(["source", "target", "far", "noise"], ["fold_1", "fold_2"], "replicate", "performance")
    tidy = tidy.melt(["source", "target", "replicate", "performance"], ["far", "noise"], "method", "value").sample(frac=1, random_state=rng.integers(2**31))
    assert run(tidy, bootstraps=20).methods == run(table, bootstraps=20).methods


def test_the_seed_fixes_the_output_and_moves_it() -> None:
    table = frame(10, 3, signal=0.2)
    assert run(table, seed=1).as_dict() == run(table, seed=1).as_dict()
    assert run(table, seed=1).methods[0].interval != run(table, seed=2).methods[0].interval


def test_another_method_moves_no_number_but_the_adjusted_p() -> None:
    table = frame(10, 3)
    both = next(one for one in run(table).methods if one.method == "far")
    alone = run(table, methods="far", similarities=[]).methods[0]
    assert (both.mean_spearman, both.interval, both.p_value, both.targets) == (alone.mean_spearman, alone.interval, alone.p_value, alone.targets)
    assert alone.p_holm == alone.p_value
    assert both.p_holm == pytest.approx(min(1.0, 2 * (both.p_value or 0)))


# --- what is said ---------------------------------------------------------------------------------------------------------------------------


def test_a_strong_method_is_found_and_exact_where_sources_are_few() -> None:
    found = run(frame(7, 6))
    far = found.methods[0]
    assert found.joint_exact  # 7! = 5040 orders
    assert far.method == "far"
    assert far.p_holm is not None
    assert far.p_holm <= 2 / 5040 + 1e-12
    assert "Distinguishable from chance with 7 sources and 6 targets (max-T p <= 0.05): far (more similar sources transfer better)" in found.text(200)
    wrong = run(frame(7, 6), distances=[], similarities=["far", "noise"])
    assert "far (more similar sources transfer WORSE)" in wrong.text(200)
    assert [one.method for one in wrong.methods] == ["noise", "far"]


def test_constant_columns_are_undefined_and_named() -> None:
    table = frame()
    table.loc[table["target"] == "t1", "noise"] = 0.5
    found = run(table)
    noise = next(one for one in found.methods if one.method == "noise")
    assert noise.targets[1].spearman is None
    assert noise.targets[1].undefined == "the score is constant (7 sources)"
    assert noise.mean_spearman == pytest.approx(np.mean([noise.targets[0].spearman, noise.targets[2].spearman]))
    assert noise.targets[1].regret == pytest.approx(noise.targets[1].random_regret)
    assert any("noise: undefined in 1 of 3 targets (t1: the score is constant (7 sources))" in line for line in found.warnings)
    nothing = run(table.assign(noise=1.0))
    last = nothing.methods[-1]
    assert (last.method, last.mean_spearman, last.p_value, last.p_holm) == ("noise", None, None, None)
    assert "t0: the score is constant" in last.undefined
    assert nothing.methods[0].p_holm == nothing.methods[0].p_value
    assert "undefined" in nothing.text()
    flat = run(table.assign(fold_1=0.7, fold_2=0.7))
    assert flat.methods[0].targets[0].undefined == "the performance is constant (7 sources)"
    assert "No method has a defined correlation" in flat.text()


def test_ties_few_sources_and_few_targets_are_warned_of() -> None:
    table = frame(4, 2)
    table["noise"] = (table["noise"] > 0).astype(float) + (table["source"] == "s0") * 2
    warnings = "\n".join(run(table).warnings)
    assert "few targets (2)" in warnings
    assert "2 targets: the static baseline" in warnings
    assert "fewer than 5 sources in t0 (4), t1 (4)" in warnings
    assert "noise: more than 20% of the pairs of sources are tied in" in warnings
    assert "no value reaches 5 %" in run(table).resolution


def test_one_target_has_no_static_baseline() -> None:
    found = run(frame(6, 1))
    assert [one.method for one in found.baselines] == ["static", "source-size", "random"]
    assert found.baselines[0].undefined == "one target: there are no other targets to learn from"
    assert found.methods[0].versus_static is None
    assert "static = mean rank in the other targets (undefined: one target: there are no other targets to learn from)" in found.text(400)


def test_simpsons_paradox_is_named() -> None:
    table = frame(8, 4)
    shift = table["target"].str[1].astype(float)
    table["far"], table["fold_1"], table["fold_2"] = table["far"] + 10 * shift, table["fold_1"] + shift, table["fold_2"] + shift
    found = run(table, pooled=True)
    assert found.pooled["far"].pearson is not None
    assert found.pooled["far"].pearson > 0.9
    assert found.within["far"].r < -0.5
    assert any(line.startswith("far: pooled over targets r = +") and "Simpson" in line for line in found.warnings)
    assert found.pooled["far"].r == found.pooled["far"].pearson
    assert found.pooled["far"].p == found.pooled["far"].p_value


def test_a_pooled_correlation_that_only_exceeds_the_one_within_is_named_too() -> None:
    table = frame(8, 4, signal=0.0)
    shift = table["target"].str[1].astype(float)
    table["far"], table["fold_1"], table["fold_2"] = table["far"] + 10 * shift, table["fold_1"] + shift, table["fold_2"] + shift
    found = run(table, pooled=True)
    sign = np.sign(found.within["far"].r)
    table["far"] *= sign  # now both correlations have one sign
    table["fold_1"], table["fold_2"] = table["fold_1"] + (sign - 1) * shift, table["fold_2"] + (sign - 1) * shift
    found = run(table, pooled=True)
    pooled, within = found.pooled["far"].pearson or 0.0, found.within["far"].r
    assert pooled * within > 0
    assert abs(pooled) > abs(within) + 0.2
    assert any(line.startswith("far: pooled over targets") for line in found.warnings)


def test_static_is_compared_on_the_sources_that_the_method_scores() -> None:
    table = frame(7, 3, signal=0.5)
    table.loc[(table["source"] == "s1") & (table["target"] != "t2"), "noise"] = np.nan
    found = run(table, allow_missing=True)
    noise = next(one for one in found.methods if one.method == "noise")
    y = table.assign(y=table[["fold_1", "fold_2"]].mean(axis=1)).pivot(index="source", columns="target", values="y")
    scored = table.pivot(index="source", columns="target", values="noise").notna()
    ranks, gaps = y.rank(), []
    for one in noise.targets:
        rows = scored.index[scored[one.target]]
        static = ranks.drop(columns=one.target).mean(axis=1)
        gaps.append(one.spearman - stats.spearmanr(static[rows], y.loc[rows, one.target]).statistic)
    assert noise.versus_static == pytest.approx(np.mean(gaps))
    assert noise.versus_static_common is None  # the static list knows all of them


def test_the_difference_to_static_is_also_on_the_sources_that_both_have() -> None:
    """Two sources occur in one target only, so the static list does not know them; on all others the score is the static list itself."""
    table = frame(8, 3, signal=0.0)
    only = {"s6": "t0", "s7": "t1"}
    table = table[[only.get(s, t) == t for s, t in zip(table["source"], table["target"], strict=True)]]
    mean = table.assign(y=table[["fold_1", "fold_2"]].mean(axis=1)).pivot(index="source", columns="target", values="y")
    ranks = (mean.rank() - 0.5) / mean.notna().sum()
    static = {(s, t): ranks.drop(columns=t).loc[s].mean() for s, t in zip(table["source"], table["target"], strict=True)}
    table["copy"] = [static[s, t] if s not in only else -5.0 for s, t in zip(table["source"], table["target"], strict=True)]
    found = run(table, methods=["copy"], distances=[], similarities=["copy"]).methods[0]
    assert found.versus_static != pytest.approx(0.0, abs=1e-6)
    assert found.versus_static_common == pytest.approx(0.0, abs=1e-12)
    assert found.versus_static_common_interval == pytest.approx((0.0, 0.0), abs=1e-12)
    assert "on the sources that the static list knows" in run(table, methods=["copy"], distances=[], similarities=["copy"]).text(200)


def test_self_pairs_have_no_p_values() -> None:
    """A data set is nearest to itself whatever the measure, so a p-value with self pairs would say nothing about it."""
    table = frame(8, 4)
    table["target"] = table["target"].str.replace("t", "s")
    found = run(table, include_self=True)
    assert found.with_self is not None
    for one in (*found.with_self.methods, *found.with_self.baselines):
        assert (one.p_value, one.p_holm, one.p_max) == (None, None, None)
        assert all(target.p_value is None for target in one.targets)
    assert found.methods[0].p_value is not None
    assert "no p-values, because a data set is nearest to itself" in found.text(200)


def test_groups_of_sources_are_permuted_and_drawn_together() -> None:
    table = frame(10, 4, signal=0.5)
    groups = {f"s{i}": f"g{i // 2}" for i in range(10)}
    plain, grouped = run(table), run(table.assign(source_group=table["source"].map(groups)))
    assert not plain.grouped
    assert grouped.grouped
    assert [one.mean for one in plain.methods] == [one.mean for one in grouped.methods]
    assert plain.methods[0].interval != grouped.methods[0].interval
    assert plain.methods[0].p_value != grouped.methods[0].p_value
    assert grouped.joint_exact  # 5! 2^5 = 3840 orders
    assert any("the 10 sources are 5 groups (source_group), which are permuted and drawn as a whole" in line for line in grouped.warnings)
    assert "groups of sources and targets resampled together" in grouped.text(300)


def test_regret_is_against_the_best_of_all_sources_scored_or_not() -> None:
    rows = [{"source": f"s{i}", "target": t, "lacks": np.nan if i == 5 else float(i), "auc": 0.7 + 0.04 * i, "has": float(i)} for t in "AB" for i in range(6)]
    found = correlate(pd.DataFrame(rows), performance="auc", similarities=["lacks", "has"], allow_missing=True, bootstraps=0)
    has, lacks = sorted(found.methods, key=lambda one: one.method)
    assert (has.regret, has.targets[0].chosen_source) == (0.0, "s5")
    assert lacks.regret == pytest.approx(0.04)
    one = lacks.targets[0]
    assert (one.n, one.best_source, one.chosen_source) == (5, "s5", "s4")
    assert one.random_regret == has.targets[0].random_regret == pytest.approx(0.1)
    assert one.relative_at_1 == one.relative_at_3 == pytest.approx(0.86 / 0.90)
    nothing = pd.DataFrame(rows).assign(lacks=lambda table: table["lacks"].where(table["target"] == "A"))
    gone = next(one for one in correlate(nothing, performance="auc", similarities=["lacks", "has"], allow_missing=True, bootstraps=0).methods
                if one.method == "lacks").targets[1]
    assert (gone.best_source, gone.chosen_source, gone.regret, gone.relative_at_1) == ("s5", "", None, None)


def test_scores_without_a_performance_are_used_by_permutations_and_change_nothing_else() -> None:
    """Targets on which few sources were run: a permutation brings scores of the others beside the performances that there are."""
    table = frame(9, 3)
    left = table[~((table["target"] == "t2") & table["source"].isin(["s6", "s7", "s8"]))]
    scores, transfers = table[["source", "target", "far", "noise"]], left[["source", "target", "fold_1", "fold_2"]]
    whole = correlate(scores, performance=transfers, distances=["far"], similarities=["noise"], allow_missing=True, permutations=99, bootstraps=50)
    alone = run(left)
    assert whole.data is not None
    assert np.isfinite(whole.data.scores["far"]).all()
    for one, other in zip(whole.methods, alone.methods, strict=True):
        assert (one.mean, one.interval, one.regret, one.versus_static) == (other.mean, other.interval, other.regret, other.versus_static)
    noise = [next(one for one in found.methods if one.method == "noise") for found in (whole, alone)]
    assert noise[0].p_value != noise[1].p_value


def test_resolution_knows_how_many_measures_there_are() -> None:
    """Five sources have 120 orders: the smallest p-value is 2 / 120, and adjusted for 24 measures nothing can be seen."""
    rng = np.random.default_rng(0)
    rows = [{"source": f"s{i}", "target": t, "auc": 0.7 + 0.04 * i, "perfect": float(i), **{f"m{k}": rng.normal() for k in range(23)}}
            for t in "AB" for i in range(5)]
    table, names = pd.DataFrame(rows), ["perfect", *(f"m{k}" for k in range(23))]
    many = correlate(table, performance="auc", similarities=names, bootstraps=0)
    assert many.methods[0].p_holm == pytest.approx(24 * 2 / 120)
    assert "must exceed about" in many.resolution
    assert many.resolution.endswith("; none can reach it with 24 measures (Holm, 0.05 / 24)")
    two = correlate(table, performance="auc", methods=names[:2], similarities=names[:2], bootstraps=0)
    assert two.methods[0].p_holm is not None
    assert two.methods[0].p_holm < 0.05
    assert "; adjusted for 2 measures (Holm, 0.05 / 2) the largest of them must exceed about" in two.resolution
    assert "Holm" not in correlate(table, performance="auc", methods="perfect", similarities="perfect", bootstraps=0).resolution


def test_the_difference_to_the_static_baseline_has_an_interval() -> None:
    found = run(frame(8, 5), bootstraps=300)
    far = found.methods[0]
    assert far.versus_static is not None
    assert far.versus_static_interval is not None
    low, high = far.versus_static_interval
    assert low < far.versus_static < high
    assert low > 0  # a strong measure against sources without an effect of their own
    assert f"not adjusted for the number of methods: far {far.versus_static:+.2f} [{low:+.2f}, {high:+.2f}], noise " in found.text(200)
    assert "Better than the static list: far." in found.text(300)
    assert found.frame[["versus_static_lower", "versus_static_upper"]].iloc[0].tolist() == [low, high]
    assert run(frame(6, 1)).methods[0].versus_static_interval is None
    assert "vs static, 95" not in run(frame(6, 3), bootstraps=0).text(200)


def test_both_ceilings_say_what_they_are_of() -> None:
    text = run(frame(7, 3)).text(300)
    assert "noise ceiling, one replicate of the performance against the mean of the others: t0 " in text
    assert "ceiling of Spearman with the mean performance (sqrt of its reliability; noise that replicates share" in text


def test_frames_dictionary_and_page_hold_the_same_numbers() -> None:
    found = run(frame(), include_self=True, pooled=True)
    frames = found.frame
    assert list(frames["method"]) == [one.method for one in (*found.methods, *found.baselines)]
    assert list(frames["kind"]) == ["method"] * 2 + ["baseline"] * 3
    assert frames["mean_spearman"].tolist()[:2] == [one.mean_spearman for one in found.methods]
    assert frames["p_max"].tolist()[:2] == [one.p_max for one in found.methods]
    assert len(found.per_target) == 3 * (2 + 3)
    assert found.per_target["spearman"].iloc[0] == found.methods[0].targets[0].spearman
    out = json.loads(json_text(found.as_dict()))
    assert out == json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert out["methods"][0]["targets"][0]["spearman"] == found.methods[0].targets[0].spearman
    assert set(out["versions"]) == {"simkit", "numpy", "scipy"}
    assert out["with_self"]["n_pairs"] == out["n_pairs"] == 21


def test_text_fits_its_width_and_names_cannot_drive_the_terminal() -> None:
    table = frame(6, 12).rename(columns={"far": "far\x1b[31m"})
    found = run(table, distances=["far\x1b[31m"])
    for width in (60, 100, 200):
        assert max(map(len, found.text(width).splitlines())) <= width
        assert "\x1b" not in found.text(width)
        assert all(f"t{j} (6)" in found.text(width) for j in range(12))


def test_html_escapes_names() -> None:
    page = run(frame().rename(columns={"noise": "<script>"}), similarities=["<script>"])._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, simkit.correlation as c; c.correlate, c.rank_sources; print([m for m in ('pandas', 'scipy', 'torch', 'sklearn') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_method_that_is_worse_than_the_static_list_is_called_so() -> None:
    """Sources differ in general; one score knows half of that, the static list nearly all."""
    rng = np.random.default_rng(5)
    good = np.linspace(-2, 2, 12)
    rows = [{"source": f"s{i:02d}", "target": f"t{j}", "auc": 0.7 + 0.03 * good[i] + 0.003 * rng.normal(), "half": good[i] + 1.2 * (-1) ** i}
            for i in range(12) for j in range(6)]
    found = correlate(pd.DataFrame(rows), performance="auc", similarities=["half"], methods=["half"], permutations=999, bootstraps=300)
    half = found.methods[0]
    assert half.p_max is not None
    assert half.p_max <= 0.05
    assert half.versus_static_interval is not None
    assert half.versus_static_interval[1] < 0
    assert "Worse than the static list, which ignores the target: half." in found.text(200)


def test_one_group_of_all_sources_is_no_grouping_and_said() -> None:
    found = run(frame(8, 3).assign(source_group="all"))
    assert not found.grouped
    assert any("all sources are one group (source_group): no permutation of groups is possible" in line for line in found.warnings)
    sizes = {f"s{i}": "big" if i < 4 else f"pair{i // 2}" for i in range(8)}
    table = frame(8, 3)
    some = run(table.assign(source_group=table["source"].map(sizes)))
    assert any("1 group of several sources with no other of that size stay in place" in line for line in some.warnings)
    assert "all permitted orders of the groups of sources" in some.text(200)


def test_p_within_a_target_permutes_groups_too() -> None:
    table = frame(8, 2, signal=0.6)
    grouped = run(table.assign(source_group=table["source"].map({f"s{i}": f"g{i // 2}" for i in range(8)})))
    one = next(result for result in grouped.methods if result.method == "far").targets[0]
    scores = {source: (-value, performance) for source, value, performance in one.points}
    x, y = (np.array([scores[f"s{i}"][k] for i in range(8)]) for k in (0, 1))
    larger = total = 0
    for order in itertools.permutations(range(4)):
        for flips in itertools.product((0, 1), repeat=4):
            moved = np.concatenate([x[2 * g : 2 * g + 2][:: -1 if flip else 1] for g, flip in zip(order, flips, strict=True)])
            larger += abs(stats.spearmanr(moved, y).statistic) >= abs(stats.spearmanr(x, y).statistic) - 1e-9
            total += 1
    assert one.p_value == pytest.approx(larger / total)


def test_one_file_and_two_with_the_same_pairs_give_the_same_numbers() -> None:
    table = frame(8, 3)
    table.loc[3, ["far", "noise"]] = np.nan  # a performance without any score
    table.loc[5, ["fold_1", "fold_2"]] = np.nan  # scores without a performance
    options = {"distances": ["far"], "similarities": ["noise"], "allow_missing": True, "permutations": 99, "bootstraps": 50}
    one = correlate(table, performance="fold_*", methods=["far", "noise"], **options)
    scores = table[["source", "target", "far", "noise"]].dropna()
    two = correlate(scores, performance=table[["source", "target", "fold_1", "fold_2"]].dropna(), **options)
    assert one.n_pairs == two.n_pairs == 23
    assert one.methods == two.methods
    assert one.baselines == two.baselines
    assert any("left out of all coefficients (permutations use the scores" in note for note in two.notes)


def test_only_self_pairs_are_too_few() -> None:
    table = pd.DataFrame([{"source": s, "target": s, "auc": 0.7 + 0.1 * i, "far": 0.0} for i, s in enumerate("abc")])
    for options in ({}, {"include_self": True}, {"baseline": "self"}):
        with pytest.raises(NotEnoughData, match="no pair is left without self pairs"):
            run(table, performance="auc", similarities=[], **options)


def test_the_order_of_rows_changes_no_list_either() -> None:
    table = frame(6, 3).assign(source_group=lambda one: "g" + (one["source"].str[1:].astype(int) // 2).astype(str))
    long = table.melt(["source", "target", "source_group", "fold_1"], ["far", "noise"], "method", "value").rename(columns={"fold_1": "performance"})
    expected, shuffled = (run(one, similarities=["noise"]).as_dict() for one in (long, long.sample(frac=1, random_state=3)))
    for key in ("within", "groups", "methods"):
        assert json.dumps(expected[key]) == json.dumps(shuffled[key])
