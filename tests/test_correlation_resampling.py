"""Many methods in many resamples at once, against scipy on one method and one resample at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from simkit.correlation import resampling
from simkit.correlation.resampling import Permutations, Statistic, Versus, Weights, means_over_targets, per_target

RNG = np.random.default_rng
ORACLES: dict[Statistic, Callable[..., object]] = {"spearman": stats.spearmanr, "kendall": stats.kendalltau, "weighted-tau": stats.weightedtau}


def table(seed: int, *, ties: bool, methods: int = 4, sources: int = 7, targets: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Scores (M, S, T) and performances (S, T) with self pairs missing, and two methods that lack more."""
    rng = RNG(seed)
    x, y = (rng.integers(0, 4, shape).astype(float) if ties else rng.normal(size=shape) for shape in ((methods, sources, targets), (sources, targets)))
    own = range(targets)
    y[own, own] = np.nan
    x[:-1, own, own] = np.nan  # the last method scores self pairs too
    x[1, -1, 1] = x[2, :2, 0] = np.nan
    return x, y


def oracle(statistic: Statistic, x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> float:
    """``rows`` are the sources that were drawn: at least three different ones are needed."""
    both = np.isfinite(x) & np.isfinite(y)
    x, y, rows = x[both], y[both], rows[both]
    if len(set(rows)) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return math.nan
    return float(ORACLES[statistic](x, y).statistic)  # type: ignore[attr-defined]


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("statistic", ["spearman", "kendall", "weighted-tau"])
def test_weights_are_repetitions(statistic: Statistic, ties: bool) -> None:
    x, y = table(1, ties=ties)
    weights = RNG(0).multinomial(7, np.full(7, 1 / 7), size=40).astype(float)
    found = per_target(x, y, Weights(weights), statistic=statistic)
    expected = np.empty_like(found)
    for (m, t), (b, count) in itertools.product(np.ndindex(4, 3), enumerate(weights)):
        rows = np.repeat(np.arange(7), count.astype(int))
        expected[m, t, b] = oracle(statistic, x[m, rows, t], y[rows, t], rows)
    assert np.isnan(expected).any()
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("statistic", ["spearman", "kendall", "weighted-tau"])
def test_permutations_move_scores_to_other_sources_on_the_cells_that_are_then_there(statistic: Statistic, ties: bool) -> None:
    x, y = table(2, ties=ties)
    orders = np.stack([RNG(b).permutation(7) for b in range(40)])
    found = per_target(x, y, Permutations(orders), statistic=statistic)
    expected = np.array([[[oracle(statistic, x[m, order, t], y[:, t], np.arange(7)) for order in orders] for t in range(3)] for m in range(4)])
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("ties", [True, False])
def test_means_are_over_the_targets_that_define_them(ties: bool) -> None:
    x, y = table(3, ties=ties, sources=5)
    x[0, :, 1] = np.where(np.isfinite(x[0, :, 1]), 1.0, np.nan)  # constant: undefined in that target
    orders = np.array(list(itertools.permutations(range(5))))
    found, _ = means_over_targets(x, y, Permutations(orders))
    each = np.array([[[oracle("spearman", x[m, order, t], y[:, t], np.arange(5)) for t in range(3)] for order in orders] for m in range(4)])
    defined = np.isfinite(each)
    expected = np.where(defined.any(2), np.where(defined, each, 0).sum(2) / np.maximum(defined.sum(2), 1), np.nan)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_targets_can_count_more_than_once_and_differences_are_taken_within_targets() -> None:
    x, y = table(4, ties=False)
    once = Weights(np.ones((3, 7)))
    counts = np.array([[1.0, 1, 1], [2, 0, 1], [0, 0, 3]])
    each = per_target(x, y, once)[:, :, 0]
    others = RNG(9).normal(size=(2, 7, 3))
    which = np.array([0, 1, 0, 1])
    means, gaps = means_over_targets(x, y, once, counts=counts, versus=Versus(others, which, x))
    theirs = per_target(others, y, once)[:, :, 0]
    assert gaps is not None
    for b, count in enumerate(counts):
        np.testing.assert_allclose(means[:, b], each @ count / 3, atol=1e-12)
        np.testing.assert_allclose(gaps[:, b], (each - theirs[which]) @ count / 3, atol=1e-12)


@pytest.mark.parametrize("statistic", ["spearman", "kendall"])
def test_sums_are_exact_so_that_threads_and_blocks_change_no_bit(statistic: Statistic, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = table(5, ties=False, methods=9, sources=40, targets=3)
    orders = RNG(0).permuted(np.tile(np.arange(40), (200, 1)), axis=1)
    first = per_target(x, y, Permutations(orders), statistic=statistic, jobs=1)
    monkeypatch.setattr(resampling, "CELLS", 5000)
    monkeypatch.setattr(resampling, "COLUMNS", 3000)
    for jobs in (1, 2, 3):
        assert (per_target(x, y, Permutations(orders), statistic=statistic, jobs=jobs) == first)[np.isfinite(first)].all()
    backwards = per_target(-x, y, Permutations(orders), statistic=statistic)
    assert (backwards == -first)[np.isfinite(first)].all()


def test_more_sources_than_float32_can_count_are_summed_in_float64() -> None:
    rng, n = RNG(6), resampling.EXACT_IN_FLOAT32 + 20
    x, y = np.round(rng.normal(size=(1, n, 1)), 1), rng.normal(size=(n, 1))
    weights = rng.multinomial(n, np.full(n, 1 / n), size=2).astype(float)
    found = per_target(x, y, Weights(weights))
    for b, count in enumerate(weights):
        rows = np.repeat(np.arange(n), count.astype(int))
        assert found[0, 0, b] == pytest.approx(oracle("spearman", x[0, rows, 0], y[rows, 0], rows), abs=1e-12)
