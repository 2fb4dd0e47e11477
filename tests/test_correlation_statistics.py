"""The statistics against scipy, pingouin, closed forms and brute force."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from simkit.correlation import reliability
from simkit.correlation import statistics as own

RNG = np.random.default_rng


def brute_spearman(x: np.ndarray, y: np.ndarray) -> float:
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return math.nan
    return float(stats.spearmanr(x, y).statistic)


def table(seed: int, n_sources: int = 6, n_targets: int = 3, missing: int = 3, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = RNG(seed)
    x, y = (rng.integers(0, 4, (n_sources, n_targets)).astype(float) if ties else rng.normal(size=(n_sources, n_targets)) for _ in "xy")
    for k in range(missing):
        x[k % n_sources, k % n_targets] = np.nan
        y[(k + 1) % n_sources, k % n_targets] = np.nan
    return x, y


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_scipys_with_ties_and_missing_values(seed: int) -> None:
    x, y = table(seed, n_sources=9)
    for t in range(3):
        assert own.spearman(x[:, t], y[:, t])[0] == pytest.approx(brute_spearman(x[:, t], y[:, t]), abs=1e-12, nan_ok=True)


def test_spearman_of_a_constant_or_two_points_is_undefined() -> None:
    assert math.isnan(own.spearman(np.full(5, 0.1), np.arange(5.0))[0])
    assert math.isnan(own.spearman(np.array([1.0, 2.0, np.nan]), np.arange(3.0))[0])


def test_weights_are_repetitions() -> None:
    x, y = table(1, n_sources=8, n_targets=1, missing=1, ties=False)
    counts = RNG(0).multinomial(8, np.full(8, 1 / 8), size=20).astype(float)
    for one, value in zip(counts, own.spearman(x[:, 0], y[:, 0], counts), strict=True):
        rows = np.repeat(np.arange(8), one.astype(int))
        if len({row for row in rows if np.isfinite(x[row, 0] + y[row, 0])}) >= 3:
            assert value == pytest.approx(brute_spearman(x[rows, 0], y[rows, 0]), abs=1e-12)
        else:
            assert math.isnan(value)


def test_all_orders_are_all_permutations() -> None:
    orders = own.all_orders(5)
    assert {tuple(order) for order in orders} == set(itertools.permutations(range(5)))
    assert len(orders) == 120
    assert tuple(orders[0]) == (0, 1, 2, 3, 4)


def test_orders_are_enumerated_while_they_are_few() -> None:
    for n, exact in ((8, True), (9, False)):
        orders, all_of_them = own.exact_or_sampled_orders(n, most=own.EXACT_JOINT, permutations=50, rng=RNG(0))
        assert all_of_them is exact
        assert len(orders) == (math.factorial(8) if exact else 50)
        assert (np.sort(orders, axis=1) == np.arange(n)).all()


@pytest.mark.parametrize("ties", [True, False])
def test_exact_p_is_scipys_permutation_test(ties: bool) -> None:
    x, y = (column[:, 0] for column in table(4, n_sources=6, n_targets=1, missing=0, ties=ties))
    rho, found = (values[0] for values in own.within_target_p(x[None], y, permutations=10, rng_name=("test",)))
    assert rho == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    reference = stats.permutation_test((x,), lambda a: abs(stats.spearmanr(a, y).statistic), permutation_type="pairings", n_resamples=np.inf,
                                       alternative="greater")
    assert found == pytest.approx(reference.pvalue, abs=1e-12)


def test_sampled_p_adds_one_and_agrees_with_the_exact_one() -> None:
    x = np.arange(10.0)
    y = np.array([1, 0, 3, 2, 5, 4, 7, 9, 8, 6.0])
    assert own.within_target_p(x[None], x, permutations=99, rng_name=("test",))[1] == [0.01]
    sampled = own.within_target_p(x[None], y, permutations=9999, rng_name=("test",))[1][0]
    assert sampled == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.003)


def test_methods_of_one_target_are_tested_together_as_each_alone() -> None:
    rng = RNG(5)
    x, y = rng.normal(size=(4, 8)), rng.normal(size=8)
    x[1, 2] = x[2, 2] = x[3, :] = np.nan
    x[2] = np.where(np.isfinite(x[2]), 1.0, np.nan)
    rho, p = own.within_target_p(x, y, permutations=99, rng_name=("test",))
    for m in range(2):
        both = np.isfinite(x[m])
        alone = own.within_target_p(x[m][None, both], y[both], permutations=99, rng_name=("test",))
        assert (rho[m], p[m]) == (alone[0][0], alone[1][0])
    assert np.isnan(rho[2:]).all()
    assert np.isnan(p[2:]).all()


def test_undefined_resamples_count_against_the_method() -> None:
    values = np.array([0.1, -0.9, np.nan, 0.2])
    assert own.two_sided(0.5, values, exact=True) == 0.5
    assert own.two_sided(0.5, values, exact=False) == 3 / 5


def test_bonett_wright_interval_by_hand() -> None:
    low, high = own.bonett_wright(0.5, 20) or (0, 0)
    half = stats.norm.ppf(0.975) * math.sqrt((1 + 0.125) / 17)
    assert (low, high) == pytest.approx((math.tanh(math.atanh(0.5) - half), math.tanh(math.atanh(0.5) + half)))
    assert own.bonett_wright(0.5, 4) is None
    assert own.bonett_wright(1.0, 9) is None


def test_holm_by_hand() -> None:
    assert own.holm([0.04, None, 0.01, 0.03]) == [pytest.approx(0.06), None, pytest.approx(0.03), pytest.approx(0.06)]
    assert own.holm([0.9, 0.8]) == [1.0, 1.0]


def test_repeated_measures_correlation_is_the_ancova_one() -> None:
    rng = RNG(3)
    x, y = rng.normal(size=(7, 4)) + 3 * np.arange(4), rng.normal(size=(7, 4)) - 2 * np.arange(4)
    x[2, 1] = y[0, 3] = y[1, 3] = np.nan
    rows, columns = np.nonzero(np.isfinite(x) & np.isfinite(y))
    targets = np.eye(4)[columns]
    full = np.column_stack([targets, x[rows, columns]])
    coefficients, (residual,), *_ = np.linalg.lstsq(full, y[rows, columns], rcond=None)
    _, (without,), *_ = np.linalg.lstsq(targets, y[rows, columns], rcond=None)
    expected = np.sign(coefficients[-1]) * math.sqrt((without - residual) / without)
    f = (without - residual) / (residual / (len(rows) - 5))
    r, p, n, n_targets = own.within_correlation(x, y) or (0, 0, 0, 0)
    assert (r, p) == pytest.approx((expected, stats.f.sf(f, 1, len(rows) - 5)), abs=1e-12)
    assert (n, n_targets) == (25, 4)


def test_repeated_measures_correlation_of_a_constant_within_targets_is_undefined() -> None:
    x = np.tile([0.1, 0.7], (5, 1))
    assert own.within_correlation(x, RNG(0).normal(size=(5, 2))) is None
    assert own.within_correlation(x[:1], x[:1]) is None


def test_repeated_measures_correlation_is_pingouins() -> None:
    pingouin = pytest.importorskip("pingouin")
    rng = RNG(4)
    x, y = rng.normal(size=(9, 5)) + np.arange(5), rng.normal(size=(9, 5)) - np.arange(5)
    x[1, 2] = y[3, 4] = np.nan
    rows, columns = np.nonzero(np.isfinite(x) & np.isfinite(y))
    table = pd.DataFrame({"target": columns, "x": x[rows, columns], "y": y[rows, columns]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = pingouin.rm_corr(table, x="x", y="y", subject="target")
    r, p, *_ = own.within_correlation(x, y) or (0, 0)
    assert r == pytest.approx(float(reference["r"].iloc[0]), abs=1e-12)
    assert p == pytest.approx(float(reference.filter(regex="^p").iloc[0, 0]), abs=1e-12)


def test_logit_by_hand() -> None:
    assert own.logit_of(np.array([0.5, 0.75, np.nan])) == pytest.approx([0.0, math.log(3), np.nan], nan_ok=True)


def test_ceiling_from_the_spread_of_the_noise() -> None:
    """The true values as score: their correlation with noisy ones is the root of the reliability."""
    rng = RNG(3)
    found, reached = [], []
    for _ in range(200):
        truth, noise = rng.normal(size=30), np.full(30, 0.7)
        noisy = truth + noise * rng.normal(size=30)
        found.append(reliability.ceiling_from_sd(noisy, noise))
        reached.append(np.corrcoef(truth, noisy)[0, 1])
    assert np.mean(found) == pytest.approx(np.mean(reached), abs=0.02)
    assert reliability.ceiling_from_sd(np.arange(4.0), np.full(4, 9.0)) == 0.0
    assert reliability.ceiling_from_sd(np.arange(4.0), np.array([0.1, 0.1, np.nan, np.nan])) is None
    assert reliability.ceiling_from_sd(np.ones(4), np.ones(4)) is None


def test_pearson_and_line_are_scipys() -> None:
    x, y = RNG(0).normal(size=(2, 12))
    reference = stats.linregress(x, y)
    assert own.pearson(x, y) == pytest.approx(reference.rvalue, abs=1e-12)
    assert own.line(x, y) == pytest.approx((reference.rvalue, reference.pvalue, reference.slope, reference.intercept))
    assert own.pearson(np.full(12, 0.1), y) is None
    assert own.line(np.full(12, 0.1), y) is None


def test_static_scores_leave_the_target_out() -> None:
    y = np.array([[1.0, 3.0, np.nan], [2.0, 1.0, 5.0], [3.0, 2.0, 4.0]])
    found = own.static_scores(y)
    # relative ranks (rank - 1/2) / n: [1 5 -; 3 1 -; 5 3 -] / 6 and [- 3 1] / 4
    assert found[:, 0] == pytest.approx([5 / 6, (1 / 6 + 3 / 4) / 2, (3 / 6 + 1 / 4) / 2])
    assert found[:, 2] == pytest.approx([(1 / 6 + 5 / 6) / 2, (3 / 6 + 1 / 6) / 2, (5 / 6 + 3 / 6) / 2])
    changed = y.copy()
    changed[:, 1] = changed[::-1, 1]
    assert own.static_scores(changed)[:, 1] == pytest.approx(found[:, 1])


def test_static_p_sees_persistent_sources_and_not_noise() -> None:
    good = np.arange(9.0)[:, None] + RNG(0).normal(scale=0.5, size=(9, 4))
    assert own.static_permutation_p(good, permutations=199, rng=RNG(1)) == 1 / 200
    null = [own.static_permutation_p(RNG(seed).normal(size=(6, 3)), permutations=99, rng=RNG(seed)) or 0 for seed in range(150)]
    assert stats.kstest(null, "uniform").pvalue > 0.01


def test_noise_ceiling_is_the_agreement_of_replicates() -> None:
    replicates = RNG(0).normal(size=(4, 6))
    expected = np.mean([stats.spearmanr(replicates[r], np.delete(replicates, r, axis=0).mean(0)).statistic for r in range(4)])
    assert reliability.noise_ceiling(replicates) == pytest.approx(expected)
    assert reliability.noise_ceiling(replicates[:1]) is None


def test_ceiling_of_the_mean_is_the_root_of_spearman_browns_reliability() -> None:
    replicates = RNG(0).normal(size=(4, 6)) + 2 * np.arange(6)
    r = np.mean([stats.spearmanr(one, other).statistic for one, other in itertools.combinations(replicates, 2)])
    assert reliability.ceiling_of_mean(replicates) == pytest.approx(math.sqrt(4 * r / (1 + 3 * r)))
    assert reliability.ceiling_of_mean(np.stack([np.arange(5.0), -np.arange(5.0)])) == 0.0
    assert reliability.ceiling_of_mean(np.tile(np.arange(5.0), (3, 1))) == 1.0
    assert reliability.ceiling_of_mean(np.ones((3, 5))) is None
    assert reliability.ceiling_of_mean(replicates[:1]) is None
    assert reliability.ceiling_of_mean(replicates[:, :2]) is None


def test_a_score_without_error_reaches_the_ceiling_of_the_mean_and_not_the_agreement_of_one_replicate() -> None:
    """The true performances as score: their correlation with the mean over replicates, against what both quantities promise."""
    rng, reached, ceiling, one = RNG(2), [], [], []
    for _ in range(150):
        truth = rng.normal(size=20)
        replicates = truth + rng.normal(size=(5, 20))
        reached.append(brute_spearman(truth, replicates.mean(0)))
        ceiling.append(reliability.ceiling_of_mean(replicates))
        one.append(reliability.noise_ceiling(replicates))
    assert np.mean(ceiling) == pytest.approx(np.mean(reached), abs=0.03)
    assert np.mean(reached) > np.mean(one) + 0.15


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_best_of_top_is_the_mean_over_tie_breaks(k: int) -> None:
    x, y = np.array([3.0, 1.0, 2.0, 2.0, 2.0, 1.0]), np.array([0.2, 0.9, 0.5, 0.1, 0.7, 0.3])
    tops = [max(y[i] for i in order[:k]) for order in itertools.permutations(range(6)) if list(x[list(order)]) == sorted(x, reverse=True)]
    assert own.best_of_top(x, y, k) == pytest.approx(np.mean(tops))


def test_critical_values_of_spearman() -> None:
    """n = 7: P(|rho| >= 0.786) = 0.048 and P(|rho| >= 0.75) = 0.066 (published tables); n = 4: 2/24 at best."""
    assert own.critical_spearman(4) is None
    assert own.critical_spearman(5) == pytest.approx(0.9)
    assert own.critical_spearman(7) == pytest.approx(0.75)
    assert own.critical_spearman(8) == pytest.approx(0.714, abs=1e-3)
    assert own.critical_spearman(14) == pytest.approx(0.538, abs=0.01)


def test_critical_size_and_tied_share() -> None:
    values = np.arange(-50, 51) / 100
    assert np.mean(np.abs(values) > (own.critical_size(values) or 0)) <= 0.05
    assert own.critical_size(np.array([1.0, -1.0, 1.0])) is None
    for exact in (True, False):  # a value above the critical one has such a p-value, and the critical one has not
        for level in (0.05, 0.05 / 3):
            critical = own.critical_size(values[:-2], level=level, exact=exact) or 0
            assert own.two_sided(critical + 0.001, values[:-2], exact=exact) <= level < own.two_sided(critical, values[:-2], exact=exact)
    assert own.critical_size(values[:-2], level=0.05 / 24) is None
    assert own.critical_size(values, level=0.05 / 24, exact=False) is None  # 1 / 102 is the smallest p-value
    gone = np.where(np.abs(values) == 0.40, np.nan, values)  # undefined resamples count as larger
    assert own.critical_size(gone) == 0.49
    assert own.two_sided(0.5, gone, exact=True) <= 0.05 < own.two_sided(0.49, gone, exact=True)
    assert own.tied_share(np.array([1.0, 1.0, 2.0])) == pytest.approx(1 / 3)
    assert own.tied_share(np.array([1.0])) == 0.0
