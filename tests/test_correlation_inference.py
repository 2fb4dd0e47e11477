"""Permutations and bootstraps: brute force, error rates under a null with source effects, and that nothing but the seed moves a number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from simkit.correlation import correlate
from simkit.correlation.exchange import Exchange
from simkit.correlation.inference import Nulls, bootstraps, max_t, nulls
from simkit.correlation.resampling import Permutations, means_over_targets
from simkit.correlation.statistics import holm, static_scores, two_sided

RNG = np.random.default_rng


def with_source_effects(rng: np.random.Generator, sources: int, targets: int, methods: int = 1, *, shared: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores (M, S, T) that know nothing of the performances (S, T); half of the variance of both belongs to the source. Self pairs are missing.

    ``shared`` is the share of a method's values that all methods have in common.
    """
    y = rng.normal(size=(sources, 1)) + rng.normal(size=(sources, targets))
    x, common = (rng.normal(size=(m, sources, 1)) * 1.5 + rng.normal(size=(m, sources, targets)) for m in (methods, 1))
    x = np.sqrt(1 - shared) * x + np.sqrt(shared) * common
    own = range(targets)
    y[own, own] = x[:, own, own] = np.nan
    return x, y


# --- error rates ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sources", "targets"), [(9, 3), (14, 11)])
def test_joint_permutation_keeps_its_level_under_source_effects_where_within_target_permutation_does_not(sources: int, targets: int) -> None:
    joint, within = [], []
    for seed in range(200):
        rng = RNG([seed, sources])
        x, y = with_source_effects(rng, sources, targets)
        found = nulls(x, y, permutations=199, seed=seed)
        joint.append(found.p_values()[0] or 0.0)
        shuffled = np.full((99, sources, targets), np.nan)
        for t in range(targets):
            rows = np.flatnonzero(np.isfinite(x[0, :, t]))
            shuffled[:, rows, t] = rng.permuted(np.tile(x[0, rows, t], (99, 1)), axis=1)
        null = np.abs(nulls(shuffled, y, permutations=1, seed=0).observed)
        within.append((np.sum(null >= abs(found.observed[0])) + 1) / 100)
    rejected = sum(p <= 0.05 for p in joint)
    assert stats.binomtest(rejected, 200, 0.05).pvalue > 0.01, f"{rejected} of 200 rejected"
    assert stats.kstest(joint, "uniform").pvalue > 0.01
    if targets > 3:  # the pairs of a source are one observation, not eleven
        assert np.mean(np.array(within) <= 0.05) > 0.15


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_max_t_keeps_the_family_wise_level_and_holm_too(shared: float) -> None:
    """Eight methods, independent or much alike; an error is any rejection."""
    errors_max, errors_holm = 0, 0
    for seed in range(200):
        x, y = with_source_effects(RNG([seed, 7]), 9, 4, 8, shared=shared)
        found = nulls(x, y, permutations=199, seed=seed)
        errors_max += min(p or 0.0 for p in max_t(found)) <= 0.05
        errors_holm += min(p or 0.0 for p in holm(found.p_values())) <= 0.05
    assert stats.binomtest(errors_max, 200, 0.05).pvalue > 0.01, f"{errors_max} of 200"
    assert stats.binomtest(errors_holm, 200, 0.05, alternative="greater").pvalue > 0.01, f"{errors_holm} of 200"
    if shared > 0.5:  # what Holm gives away because it does not know that the methods are alike
        assert errors_holm < errors_max


def test_two_way_interval_covers_the_mean_over_other_sources_and_targets() -> None:
    """Scores and performances of random sources and targets that are alike: the true mean is that over many of both, and coverage is above 95 %."""
    def draw(rng: np.random.Generator, sources: int, targets: int) -> tuple[np.ndarray, np.ndarray]:
        good = rng.normal(size=(sources, 1))
        near = rng.normal(size=(sources, targets)) * (1 + 0.3 * rng.normal(size=targets))
        return (0.5 * good + near)[None], good + near + rng.normal(size=(sources, targets))

    truth = nulls(*draw(RNG(0), 400, 400), permutations=1, seed=0).observed[0]
    inside = 0
    for seed in range(150):
        found = bootstraps(*draw(RNG(seed + 1), 14, 11), static=None, count=300, seed=seed)
        low, high = (None if found is None else found.interval(0)) or (0.0, 0.0)
        inside += low <= truth <= high
    assert inside >= 0.93 * 150, f"{inside} of 150 intervals hold {truth:.3f}"


@pytest.mark.parametrize(("sizes", "sources"), [((2, 2, 2, 2, 2), 10), ((3, 2, 2, 1, 1, 1), 10)])
def test_groups_keep_the_level_where_single_sources_do_not(sizes: tuple[int, ...], sources: int) -> None:
    """Near-duplicate sources: 90 % of the variance of scores and performances lies between groups."""
    group = tuple(np.repeat(np.arange(len(sizes)), sizes).tolist())
    single, grouped = 0, 0
    for seed in range(200):
        rng = RNG([seed, 5])
        x, y = (np.sqrt(0.9) * rng.normal(size=(len(sizes), 5))[list(group)] + np.sqrt(0.1) * rng.normal(size=(sources, 5)) for _ in "xy")
        single += (nulls(x[None], y, permutations=199, seed=seed).p_values()[0] or 0.0) <= 0.05
        grouped += (nulls(x[None], y, permutations=199, seed=seed, exchange=Exchange(group)).p_values()[0] or 0.0) <= 0.05
    assert stats.binomtest(grouped, 200, 0.05, alternative="greater").pvalue > 0.01, f"{grouped} of 200 rejected"
    assert grouped < single


def test_a_method_that_lacks_sources_is_permuted_among_those_that_it_scores() -> None:
    """Its gaps are the sources of middling performance: moved onto others they would make the observed statistic look large."""
    moved, kept = 0, 0
    for seed in range(200):
        rng = RNG([seed, 6])
        y = rng.normal(size=(12, 1)) + 0.3 * rng.normal(size=(12, 5))
        x = rng.normal(size=(1, 12, 1)) + 0.3 * rng.normal(size=(1, 12, 5))
        middle = np.argsort(y.mean(1))[3:9]
        x[:, middle] = np.nan
        kept += (nulls(x, y, permutations=199, seed=seed).p_values()[0] or 0.0) <= 0.05
        orders = rng.permuted(np.tile(np.arange(12), (199, 1)), axis=1)
        null = means_over_targets(x, y, Permutations(orders))[0]
        moved += two_sided(float(nulls(x, y, permutations=1, seed=0).observed[0]), null[0], exact=False) <= 0.05
    assert stats.binomtest(kept, 200, 0.05).pvalue > 0.01, f"{kept} of 200 rejected"
    assert moved > kept


# --- brute force ----------------------------------------------------------------------------------------------------------------------------


def brute_spearman(x: np.ndarray, y: np.ndarray) -> float:
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    return float(stats.spearmanr(x, y).statistic) if len(set(x)) >= 3 and len(set(y)) >= 2 else np.nan


def test_two_way_bootstrap_is_brute_force() -> None:
    x, y = with_source_effects(RNG(7), 7, 3)
    found = bootstraps(x, y, static=None, count=4000, seed=0)
    assert found is not None
    rng, means = RNG(1), []
    for _ in range(1500):
        s, t = rng.integers(0, 7, 7), rng.integers(0, 3, 3)
        each = [brute_spearman(x[0, s, u], y[s, u]) for u in t]
        means += [np.nanmean(each)] if np.isfinite(each).any() else []
    assert found.interval(0) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.08)
    assert bootstraps(x, y, static=None, count=0, seed=0) is None


def test_with_fixed_sources_only_targets_are_drawn() -> None:
    x, y = with_source_effects(RNG(8), 8, 5)
    found = bootstraps(x, y, static=None, count=3000, seed=0)
    each = [brute_spearman(x[0, :, t], y[:, t]) for t in range(5)]
    means = [np.mean([each[t] for t in drawn]) for drawn in np.ndindex(5, 5, 5, 5, 5)]
    assert found is not None
    assert found.fixed_sources_interval(0) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.05)
    few = bootstraps(x[:, :, :4], y[:, :4], static=None, count=100, seed=0)
    assert few is not None
    assert few.fixed_sources_interval(0) is None  # of so few targets it would cover far less than 95 %
    assert few.interval(0) is not None


def test_a_perfect_order_in_every_resample_is_no_certainty() -> None:
    y = np.arange(12.0).reshape(6, 2)
    found = bootstraps(y[None], y, static=None, count=100, seed=0)
    assert found is not None
    assert found.interval(0) is None


def test_differences_are_of_the_same_resamples() -> None:
    x, y = with_source_effects(RNG(7), 7, 3, 2)
    static = static_scores(y)
    found = bootstraps(np.concatenate([x, static[None], -static[None]]), y, static=static, count=200, seed=0)
    assert found is not None
    assert found.versus_interval(2) == (0.0, 0.0)
    assert found.versus_interval(3) == pytest.approx(tuple(2 * end for end in found.interval(3) or ()))
    assert found.difference_interval(0, 0) == (0.0, 0.0)
    low, high = found.difference_interval(0, 1) or (0, 0)
    assert (low, high) == pytest.approx(tuple(-end for end in reversed(found.difference_interval(1, 0) or ())))


def test_no_interval_where_the_score_is_constant_in_many_resamples() -> None:
    """One source in six differs: a third of the resamples miss it, and the others are no fair sample."""
    x = np.tile(np.array([1.0, 0, 0, 0, 0, 0])[:, None], (1, 2))
    found = bootstraps(x[None], np.arange(12.0).reshape(6, 2), static=None, count=500, seed=0)
    assert found is not None
    assert found.interval(0) is None


def test_max_t_by_hand() -> None:
    """Steps down from the largest standardised statistic: the maximum is over those that are not larger in the data."""
    values = np.array([[0.9, -0.2, 0.3, -0.95], [0.1, 0.6, -0.7, 0.2], [0.0, 0.0, np.nan, 0.1]])
    found = Nulls(values, np.array([0.8, -0.65, np.nan]), exact=True)
    # spreads sqrt(1.8425 / 4) = 0.6787 and sqrt(0.9 / 4) = 0.4743: sizes 1.179 and 1.370, so the second method comes first;
    # its maxima are 1.326 1.265 1.476 1.400, then the first method alone has 1.326 0.295 0.442 1.400
    assert max_t(found) == [0.5, 0.5, None]
    assert max_t(Nulls(values, found.observed, exact=False))[:2] == [3 / 5, 3 / 5]


def test_max_t_does_not_let_wide_methods_decide() -> None:
    """One method has a strong source effect (a wide null distribution), and means nothing for the other."""
    rng = RNG(11)
    own = rng.normal(size=(10, 6))
    y = rng.normal(size=(10, 1)) + own
    clear = own + 0.7 * rng.normal(size=(10, 6))
    wide = np.repeat(rng.normal(size=(10, 1)), 6, axis=1) + 0.01 * rng.normal(size=(10, 6))
    found = nulls(np.stack([clear, wide]), y, permutations=1999, seed=0)
    assert np.std(found.values[1]) > 1.3 * np.std(found.values[0])
    largest, adjusted = max_t(found)[0], holm(found.p_values())[0]
    assert largest is not None
    assert adjusted is not None
    assert largest <= adjusted + 0.01


def test_max_t_of_equal_methods_is_their_own_p() -> None:
    x, y = with_source_effects(RNG(3), 9, 4)
    found = nulls(np.repeat(x, 5, axis=0), y, permutations=499, seed=0)
    assert max_t(found) == found.p_values()
    assert holm(found.p_values())[0] == pytest.approx(min(1.0, 5 * (found.p_values()[0] or 0)))


# --- nothing but the seed ---------------------------------------------------------------------------------------------------------------------


def frame(seed: int = 0, sources: int = 12, targets: int = 4) -> pd.DataFrame:
    x, y = with_source_effects(RNG(seed), sources, targets, 2)
    rows = [{"source": f"s{s}", "target": f"t{t}", "replicate": r, "performance": 0.7 + 0.05 * y[s, t] + 0.01 * r * x[0, s, t], "near": x[0, s, t],
             "far": -x[1, s, t]} for s in range(sources) for t in range(targets) for r in (1, 2) if s != t]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("statistic", ["spearman", "weighted-tau"])
def test_threads_and_processes_change_no_number(statistic: str, tmp_path: Path) -> None:
    options = {"distances": ["far"], "similarities": ["near"], "permutations": 199, "bootstraps": 100, "statistic": statistic}
    table = frame()
    expected = json.dumps(correlate(table, jobs=1, **options).as_dict(), sort_keys=True)
    assert json.dumps(correlate(table, jobs=3, **options).as_dict(), sort_keys=True) == expected
    table.to_csv(tmp_path / "t.csv", index=False)
    code = (f"import json, simkit, pandas as pd; found = simkit.correlate(pd.read_csv('t.csv', float_precision='round_trip'), **{options!r}); "
            "print(json.dumps(found.as_dict(), sort_keys=True))")
    for threads in ("1", "2"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
