"""What a mean rests on, what replicates say, power, the mixed model, and the options that change what is correlated."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from simkit.correlation import Correlation, correlate
from simkit.correlation.mixed import mixed_model
from simkit.correlation.power import detectable, power_at, power_curve
from simkit.correlation.statistics import spearman
from simkit.errors import DataError, ResourceError, UsageError

RNG = np.random.default_rng


def table(sources: int = 8, targets: int = 4, *, seed: int = 0, replicates: int = 3) -> pd.DataFrame:
    """A score with replicates ("far_1" ...), one without ("noise"), performances in folds, groups of two sources, sizes."""
    rng = RNG(seed)
    rows = []
    for s in range(sources):
        for t in range(targets):
            far = rng.normal()
            row = {"source": f"s{s}", "target": f"t{t}", "noise": rng.normal(), "source_group": f"g{s // 2}", "source_size": 100 * (s + 1)}
            row |= {f"far_{r}": far + 0.3 * rng.normal() for r in range(replicates)}
            rows.append(row | {f"fold_{r}": 0.75 - 0.05 * far + 0.03 * rng.normal() for r in range(replicates)})
    return pd.DataFrame(rows)


def run(frame: pd.DataFrame, **options: Any) -> Correlation:
    given = {"methods": ["far=far_*", "noise"], "distances": ["far"], "similarities": ["noise"], "permutations": 99, "bootstraps": 50, "performance": "fold_*"}
    return correlate(frame, **(given | options))


# --- leaving out ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "column"), [("sources", "source"), ("groups", "source_group"), ("targets", "target")])
def test_leaving_one_out_is_the_analysis_without_it(kind: str, column: str) -> None:
    frame = table()
    whole = run(frame)
    for method in whole.methods:
        means = {}
        for name in frame[column].unique():
            found = run(frame[frame[column] != name], bootstraps=0)
            means[name] = next(one.mean for one in found.methods if one.method == method.method)
        left = getattr(method.stability, kind)
        assert (left.low, left.high) == pytest.approx((min(means.values()), max(means.values())), abs=1e-12)
        assert means[left.low_name] == pytest.approx(left.low)
        assert means[left.high_name] == pytest.approx(left.high)


def test_the_most_influential_is_what_moves_the_mean_most() -> None:
    frame = table()
    odd = frame["target"] == "t2"
    frame.loc[odd, ["far_0", "far_1", "far_2"]] *= -1  # one target against all others
    far = next(one for one in run(frame).methods if one.method == "far")
    influence = far.stability.most_influential
    assert influence is not None
    assert (influence.kind, influence.name) == ("target", "t2")
    assert influence.without == pytest.approx(np.mean([one.spearman for one in far.targets if one.target != "t2"]))
    assert f"target t2 ({influence.without:+.2f} without)" in run(frame).text(160)


def test_groups_and_targets_need_more_than_one() -> None:
    frame = table(targets=1)
    stability = run(frame.drop(columns="source_group")).methods[0].stability
    assert stability.groups is None
    assert stability.targets is None
    assert "one group" not in run(frame.drop(columns="source_group")).text(160)
    assert run(frame.assign(source_group="all")).methods[0].stability.groups is None
    assert "one group" in run(table()).text(160)


# --- replicates -----------------------------------------------------------------------------------------------------------------------------


def test_replicates_of_performance_and_score_are_used_alone_too() -> None:
    frame = table()
    far = next(one for one in run(frame).methods if one.method == "far")
    for one, name, options in ((far.stability.performance_replicates, "fold", {"methods": ["far=far_*"]}), (far.stability.score_replicates, "far", {})):
        means = []
        for r in range(3):
            alone = {"performance": f"fold_{r}", "methods": ["far=far_*"]} if name == "fold" else {"methods": [f"far=far_{r}"]}
            means.append(run(frame, **{**options, **alone, "similarities": [], "bootstraps": 0}).methods[0].mean)
        assert one is not None
        assert (one.low, one.high) == pytest.approx((min(means), max(means)), abs=1e-12)
    agreement = []
    for target in ("t0", "t1", "t2", "t3"):
        layers = frame.loc[frame["target"] == target, ["far_0", "far_1", "far_2"]].to_numpy().T
        agreement.append(np.mean([spearman(layers[r], np.delete(layers, r, axis=0).mean(0))[0] for r in range(3)]))
    assert far.stability.score_reliability == pytest.approx(np.mean(agreement), abs=1e-12)
    noise = next(one for one in run(frame).methods if one.method == "noise")
    assert noise.stability.score_replicates is None
    text = run(frame).text(300)
    assert f"agreement of one replicate of the score with the others: far {np.mean(agreement):.2f}" in text
    assert "mean Spearman with one replicate of the performance alone: far +" in text


def test_a_known_spread_gives_a_ceiling_where_there_are_no_replicates() -> None:
    frame = table()
    frame["auc"] = frame[["fold_0", "fold_1", "fold_2"]].mean(axis=1)
    frame = frame.drop(columns=["fold_0", "fold_1", "fold_2"]).assign(performance_sd=0.02)
    found = run(frame, performance="auc")
    values = frame.loc[frame["target"] == "t1", "auc"]
    assert found.ceiling_of_mean["t1"] == pytest.approx(np.sqrt(1 - 0.02**2 / values.var()))
    assert found.noise_ceiling == {}


# --- options --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("statistic", "oracle", "word"), [
    ("kendall", stats.kendalltau, "mean Kendall"), ("weighted-tau", stats.weightedtau, "mean weighted tau"),
])
def test_another_statistic_can_be_primary(statistic: Any, oracle: Any, word: str) -> None:
    frame = table()
    found = run(frame, statistic=statistic)
    far = next(one for one in found.methods if one.method == "far")
    each = []
    for _, group in frame.groupby("target"):
        y = group[["fold_0", "fold_1", "fold_2"]].mean(axis=1)
        each.append(oracle(-group[["far_0", "far_1", "far_2"]].mean(axis=1), y).statistic)
    assert far.mean == pytest.approx(np.mean(each))
    assert far.mean_spearman == run(frame).methods[0].mean_spearman
    assert far.interval is not None
    assert far.interval[0] < np.mean(each) < far.interval[1]
    assert far.p_value is not None
    assert word in found.text(160)
    assert found.statistic == statistic


def test_unknown_options_are_answered() -> None:
    with pytest.raises(UsageError, match=r"statistic: 'pearson' is not known(.|\n)*spearman, kendall, weighted-tau"):
        run(table(), statistic="pearson")
    with pytest.raises(UsageError, match=r"baseline: 'zero' is not known(.|\n)*none, self, scratch"):
        run(table(), baseline="zero")
    with pytest.raises(UsageError, match=r"jobs: -1 is not valid here"):
        run(table(), jobs=-1)
    with pytest.raises(UsageError, match=r"a relative gain can be negative and has no logit"):
        run(table(), baseline="self", logit=True)


def test_logit_changes_no_rank_and_every_linear_coefficient() -> None:
    frame = table()
    plain, logit = run(frame, pooled=True), run(frame, pooled=True, logit=True)
    for one, other in zip(plain.methods, logit.methods, strict=True):
        assert (one.mean, one.interval, one.p_value, one.regret) == (other.mean, other.interval, other.p_value, other.regret)
        y = np.array([p for _, _, p in one.targets[0].points])
        x = np.array([v for _, v, _ in one.targets[0].points]) * (1 if one.higher_is_better else -1)
        assert other.targets[0].pearson == pytest.approx(stats.pearsonr(x, np.log(y / (1 - y))).statistic)
    assert plain.within["far"].r != logit.within["far"].r
    assert plain.pooled["far"].r != logit.pooled["far"].r
    assert "logit for Pearson's r" in logit.text(200)
    frame.loc[0, ["fold_0", "fold_1", "fold_2"]] = 1.0
    with pytest.raises(DataError, match=r"error\[SK203\] logit: s0 -> t0: the performance is 1, and a logit needs values strictly between 0 and 1"):
        run(frame, logit=True)


def test_relative_gain_goes_through_the_whole_analysis() -> None:
    frame = table()
    frame["target"] = frame["target"].str.replace("t", "s")
    found = run(frame, baseline="self", include_self=True)
    assert found.baseline == "self"
    assert found.metric == "relative gain of fold_* over self, %"
    assert found.with_self is not None
    points = {source: p for source, _, p in found.with_self.methods[0].targets[0].points}
    own = frame[(frame["source"] == "s0") & (frame["target"] == "s0")].iloc[0]
    other = frame[(frame["source"] == "s3") & (frame["target"] == "s0")].iloc[0]
    assert points["s0"] == 0
    assert points["s3"] == pytest.approx(np.mean([100 * (other[f"fold_{r}"] / own[f"fold_{r}"] - 1) for r in range(3)]))
    assert found.self_pairs == ("s0 -> s0", "s1 -> s1", "s2 -> s2", "s3 -> s3")
    assert found.text(200).split("\n\n")[1].startswith("32 pairs, 8 sources, 4 targets; 4 self pairs left out")


def test_the_baseline_of_the_source_size_is_a_method_with_these_values() -> None:
    frame = table()
    frame = frame[frame["source"].str[1:] != frame["target"].str[1:]].assign(size_as_method=lambda one: one["source_size"])
    found = run(frame, methods=["size=size_as_method"], distances=[], similarities=["size"])
    method, baseline = found.methods[0], found.baselines[1]
    assert baseline.method == "source-size"
    for name in ("mean", "interval", "p_value", "regret", "versus_static", "versus_static_interval", "stability"):
        assert getattr(method, name) == getattr(baseline, name), name


# --- power ------------------------------------------------------------------------------------------------------------------------------------


def test_power_is_the_level_without_a_correlation_and_grows() -> None:
    y = RNG(0).normal(size=(14, 8))
    curve = power_curve(y, seed=0)
    assert abs(curve[0][0]) < 0.05
    assert stats.binomtest(round(curve[0][1] * 200), 200, 0.05).pvalue > 0.01
    assert curve[-1] == (pytest.approx(1.0), 1.0)
    assert [mean for mean, _ in curve] == sorted(mean for mean, _ in curve)
    low, high = power_at(curve, 0.2), power_at(curve, 0.5)
    assert low is not None
    assert high is not None
    assert low < high
    assert power_at(curve, 1.5) is None
    need = detectable(curve)
    assert need is not None
    assert power_at(curve, need) == pytest.approx(0.8, abs=0.01)
    small = power_curve(y[:6, :2], seed=0)
    assert (detectable(small) or 1.0) > need
    assert detectable(power_curve(y[:3, :2], seed=0)) is None  # three sources have six orders: nothing can be seen
    assert power_curve(y, seed=0) == curve


# --- mixed model --------------------------------------------------------------------------------------------------------------------------------


def brute_reml(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float, float]:
    """Slope, its standard error, source variance and residual variance by maximising the restricted likelihood over the ratio of variances."""
    rows, columns = np.nonzero(np.isfinite(x) & np.isfinite(y))
    z = [np.where(np.isfinite(x) & np.isfinite(y), values, np.nan) for values in (x, y)]
    a, b = (((values - np.nanmean(values, 0)) / np.nanstd(values, 0, ddof=1))[rows, columns] for values in z)
    design = np.column_stack([a, np.eye(x.shape[1])[columns]])
    same = (rows[:, None] == rows[None, :]).astype(float)
    n, k = design.shape

    def parts(log_ratio: float) -> tuple[float, np.ndarray, np.ndarray, float]:
        covariance = np.eye(n) + np.exp(log_ratio) * same
        inverse = np.linalg.inv(covariance)
        information = design.T @ inverse @ design
        beta = np.linalg.solve(information, design.T @ inverse @ b)
        residual = b - design @ beta
        scale = float(residual @ inverse @ residual) / (n - k)
        deviance = (n - k) * np.log(scale) + np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(information)[1]
        return float(deviance), beta, information, scale

    best = optimize.minimize_scalar(lambda v: parts(v)[0], bounds=(-12, 6), method="bounded", options={"xatol": 1e-8}).x
    _, beta, information, scale = parts(best)
    return float(beta[0]), float(np.sqrt(scale * np.linalg.inv(information)[0, 0])), float(scale * np.exp(best)), scale


def test_mixed_model_is_the_maximum_of_the_restricted_likelihood() -> None:
    pytest.importorskip("statsmodels")
    rng = RNG(1)
    y = rng.normal(size=(12, 1)) + rng.normal(size=(12, 5))
    x = 0.5 * y + rng.normal(size=(12, 5))
    y[range(5), range(5)] = np.nan
    found = mixed_model(x, y)
    slope, error, source, residual = brute_reml(x, y)
    assert found.problem == ""
    assert (found.slope, found.standard_error, found.source_variance, found.residual_variance) == pytest.approx((slope, error, source, residual), rel=2e-3)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(slope / error)), rel=0.02)
    assert found.converged
    assert not found.boundary
    assert found.n == 55


def test_mixed_model_says_when_it_stands_at_its_boundary_or_has_too_little() -> None:
    pytest.importorskip("statsmodels")
    few = mixed_model(RNG(0).normal(size=(7, 4)), RNG(1).normal(size=(7, 4)))
    assert (few.slope, few.problem) == (None, "7 sources and 4 targets: a mixed model needs 8 sources and 3 targets")
    flat = mixed_model(np.ones((9, 4)), RNG(1).normal(size=(9, 4)))
    assert flat.slope is None
    y = RNG(3).normal(size=(9, 4))
    y -= y.mean(1, keepdims=True)  # no source effect at all
    edge = mixed_model(RNG(4).normal(size=(9, 4)), y)
    assert edge.boundary
    assert edge.slope is not None


def test_the_mixed_model_is_fitted_when_asked_for_and_its_package_is_named_when_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("statsmodels")
    frame = table(sources=9)
    assert run(frame).mixed == {}
    found = run(frame, mixed=True)
    assert set(found.mixed) == {"far", "noise"}
    assert (found.mixed["far"].slope or 0.0) > 0  # oriented: nearer transfers better
    assert "mixed model z(performance) ~ z(score) + target + (1 | source), REML: far: slope +" in found.text(400)
    monkeypatch.setitem(sys.modules, "statsmodels", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=r"statsmodels is not installed(.|\n)*pip install 'simkit\[stats\]'"):
        run(frame, mixed=True)
