"""Which source to take, and what cannot be told apart from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from simkit.correlation import RankedSource, answer, rank_sources, read_transfer
from simkit.correlation.ranking import _probabilities
from simkit.errors import DataError, UsageError
from simkit.tables import TransferTable


def transfers(values: Mapping[str, Sequence[float | None]], *, target: str = "t", metric: str = "auc", **more: Any) -> TransferTable:
    return TransferTable(tuple({"source": source, "target": target, "fold": fold, "value": value, "metric": metric, **more}
                               for source, folds in values.items() for fold, value in enumerate(folds)))


def ranked(values: Mapping[str, Sequence[float | None]], **more: Any) -> dict[str, RankedSource]:
    return {row.source: row for row in rank_sources(transfers(values, **more))["t"]}


FOLDS = {"a": [0.90, 0.92, 0.88, 0.91, 0.89], "b": [0.89, 0.92, 0.89, 0.90, 0.88], "c": [0.70, 0.72, 0.69, 0.71, 0.70]}


def test_sources_are_in_order_of_their_means() -> None:
    rows = rank_sources(transfers(FOLDS))["t"]
    assert [row.source for row in rows] == ["a", "b", "c"]
    assert [row.mean for row in rows] == pytest.approx([0.90, 0.896, 0.704])
    assert [row.best for row in rows] == [True, False, False]
    assert [row.tied for row in rows] == [False, True, False]
    assert {row.n for row in rows} == {5}


def test_intervals_have_the_variance_of_nadeau_and_bengio() -> None:
    rows = ranked(FOLDS)
    half = stats.t.ppf(0.975, 4) * math.sqrt((1 / 5 + 1 / 4) * np.var(FOLDS["a"], ddof=1))
    assert rows["a"].interval == pytest.approx((0.90 - half, 0.90 + half))
    gaps = np.subtract(FOLDS["a"], FOLDS["b"])
    half = stats.t.ppf(0.975, 4) * math.sqrt((1 / 5 + 1 / 4) * np.var(gaps, ddof=1))
    assert rows["b"].gap_to_best == pytest.approx(gaps.mean())
    assert rows["b"].gap_interval == pytest.approx((gaps.mean() - half, gaps.mean() + half))
    assert (rows["a"].gap_to_best, rows["a"].gap_interval) == (0.0, None)
    sized = ranked(FOLDS, n_train=900, n_test=100)["a"]
    half = stats.t.ppf(0.975, 4) * math.sqrt((1 / 5 + 1 / 9) * np.var(FOLDS["a"], ddof=1))
    assert sized.interval == pytest.approx((0.90 - half, 0.90 + half))


def test_an_interval_of_an_auc_is_cut_to_its_range_and_one_of_a_gain_is_not() -> None:
    values = {"a": [0.99, 0.80, 1.0], "b": [0.5, 0.5, 0.5]}
    half = stats.t.ppf(0.975, 2) * math.sqrt((1 / 3 + 1 / 2) * np.var(values["a"], ddof=1))
    assert ranked(values)["a"].interval == (pytest.approx(0.93 - half), 1.0)
    wide = ranked(values, metric="relative gain")["a"].interval
    assert wide is not None
    assert wide[1] > 1.3


def test_folds_are_paired() -> None:
    """Two sources that move together over hard and easy folds are told apart, though their own intervals overlap."""
    hard = np.array([0.6, 0.7, 0.8, 0.9, 0.65])
    rows = ranked({"a": list(hard + 0.02), "b": list(hard + 0.001 * np.array([1, -1, 0, 1, -1]))})
    assert rows["a"].interval is not None
    assert rows["b"].interval is not None
    assert rows["a"].interval[0] < rows["b"].interval[1]
    assert not rows["b"].tied
    assert rows["a"].probability_best == 1.0


def test_probability_of_being_best_has_the_corrected_spread() -> None:
    """For many replicates the bootstrap of a paired difference is normal with the corrected variance."""
    rng = np.random.default_rng(0)
    gap = rng.normal(size=400)
    gap = 0.3 * (gap - gap.mean()) / gap.std(ddof=1) + 0.01
    rows = ranked({"a": list(0.5 + gap), "b": [0.5] * 400}, n_train=100, n_test=1)
    expected = stats.norm.cdf(0.01 / math.sqrt(0.09 * (1 / 400 + 1 / 100)))
    assert rows["a"].probability_best == pytest.approx(expected, abs=0.04)
    assert (rows["a"].probability_best or 0) + (rows["b"].probability_best or 0) == pytest.approx(1.0)


def test_equal_sources_share_the_probability_and_are_tied() -> None:
    rows = ranked({"a": [0.8, 0.9], "b": [0.8, 0.9]})
    assert (rows["a"].probability_best, rows["b"].probability_best) == (0.5, 0.5)
    assert rows["b"].tied
    assert rows["a"].best


def test_undefined_replicates_are_counted_and_left_out() -> None:
    rows = ranked({**FOLDS, "b": [0.89, None, 0.89, 0.90, 0.88], "d": [None] * 5})
    assert (rows["b"].n, rows["b"].undefined, rows["b"].mean) == (4, 1, pytest.approx(0.89))
    assert rows["b"].gap_to_best == pytest.approx(np.mean([0.01, -0.01, 0.01, 0.01]))
    gone = rank_sources(transfers({**FOLDS, "d": [None] * 5}))["t"][-1]
    assert (gone.source, gone.mean, gone.interval, gone.n, gone.undefined, gone.probability_best, gone.gap_to_best) == ("d", None, None, 0, 5, None, None)
    assert "5 replicates are undefined and left out" in answer("t", rank_sources(transfers({**FOLDS, "d": [None] * 5}))["t"])


LUCKY = {"good": [0.920, 0.921, 0.932, 0.923, 0.524], "lucky": [0.900, 0.900, 0.910, 0.900, None]}


def test_a_source_that_failed_on_a_hard_fold_gains_nothing_by_it() -> None:
    """On the four folds that both have, "good" is better on each; its own mean is lower by the fold that "lucky" did not finish."""
    rows = rank_sources(transfers({**LUCKY, "scratch": [0.5] * 5}))["t"]
    good, lucky, scratch = rows
    assert [row.source for row in rows] == ["good", "lucky", "scratch"]
    assert (good.best, good.n, good.n_common, good.mean, good.mean_common) == (True, 5, 4, pytest.approx(0.844), pytest.approx(0.924))
    assert (lucky.n, lucky.mean, lucky.mean_common, lucky.ordered_by) == (4, pytest.approx(0.9025), pytest.approx(0.9025), pytest.approx(0.9025))
    assert lucky.gap_to_best == pytest.approx(np.mean([0.020, 0.021, 0.022, 0.023]))
    assert not lucky.tied
    assert scratch.gap_to_best == pytest.approx(0.924 - 0.5)
    sentence = answer("t", rows)
    assert sentence.startswith("t: take good (mean AUC 0.844 over 5 replicates")
    assert "; lucky is worse" in sentence
    assert "; the order and the comparisons are by the 4 replicates that all of them have (mean 0.924 there)" in sentence
    assert "common" not in answer("t", rank_sources(transfers(FOLDS))["t"])
    assert "that all of them have" not in answer("t", rank_sources(transfers(FOLDS))["t"])


def test_gaps_are_of_the_replicates_that_decide_the_order() -> None:
    """b is better than a on all their five folds, but not on the four that c has too: a gap to the best is never negative."""
    rows = ranked({"a": [0.9, 0.9, 0.9, 0.9, 0.1], "b": [0.8, 0.8, 0.8, 0.8, 0.9], "c": [0.7, 0.7, 0.7, 0.7, None]})
    assert rows["a"].best
    assert rows["b"].gap_to_best == pytest.approx(0.1)
    assert all((row.gap_to_best or 0.0) >= 0 for row in rows.values())


def test_without_a_common_replicate_nothing_is_told_apart_and_that_is_said() -> None:
    rows = rank_sources(transfers({"a": [0.9, 0.9, None, None], "b": [None, None, 0.5, 0.5], "c": [0.4] * 4}))["t"]
    assert [row.source for row in rows] == ["a", "b", "c"]
    assert all((row.n_common, row.mean_common, row.probability_best) == (0, None, None) for row in rows)
    assert [(row.gap_to_best, row.tied) for row in rows[1:]] == [(None, True)] * 2
    sentence = answer("t", rows)
    assert "b, c are not distinguishable from it" in sentence
    assert "; no replicate is common to all of them, so they are ordered by means over different replicates, which is no fair comparison" in sentence
    single = answer("t", rank_sources(transfers({"a": [0.9, 0.9, None], "b": [None, 0.8, 0.8]}))["t"])
    assert "b is not distinguishable from it" in single
    assert "by the 1 replicate that all of them have (mean 0.900 there)" in single


def test_probability_of_being_best_is_not_overconfident_with_five_folds() -> None:
    """Of two sources that are equal in truth, one gets 0.975 or more in 5 % of the cases, as of a two-sided test at that level.

    Differences of folds have the correlation that the corrected variance supposes, n_test / (n_train + n_test) = 0.2.
    """
    rng, sure = np.random.default_rng(1), 0
    for seed in range(600):
        fold = math.sqrt(0.2) * rng.normal() + math.sqrt(0.8) * rng.normal(size=5)
        shares = _probabilities(np.stack([0.8 + 0.01 * fold, np.full(5, 0.8)]), 0.25, np.random.default_rng(seed))
        sure += max(share or 0.0 for share in shares) >= 0.975
    assert 0.02 < sure / 600 < 0.085


@pytest.mark.parametrize("metric", [
    "loss", "log-loss", "val_loss", "valLoss", "logloss", "error", "error_rate", "top-1 error", "RMSE", "mae", "mse", "brier", "Brier score", "nll", "ece",
    "calibration-error", "expected_calibration_error", "hinge", "perplexity", "cross-entropy", "negative log-likelihood", "neg_log_likelihood",
    "false positive rate", "loss_*", "*_loss",
])
def test_metrics_of_which_lower_is_better_are_refused(metric: str) -> None:
    with pytest.raises(UsageError, match=r"error\[SK211\] t: the performance is .* better when lower: higher performance must be better(.|\n)*fix: negate"):
        rank_sources(transfers(FOLDS, metric=metric))


@pytest.mark.parametrize("metric", [
    "auc", "accuracy", "performance", "relative gain", "minus loss", "-loss", "1 - error", "neg_log_loss", "neg_mean_squared_error", "Brier skill score",
    "relative error reduction", "accuracy per class", "minus negative log-likelihood", "f1", "map", "precision", "specificity", "score_*",
])
def test_metrics_of_which_higher_is_better_are_not(metric: str) -> None:
    assert rank_sources(transfers(FOLDS, metric=metric))["t"][0].source == "a"


def test_one_replicate_says_nothing_about_chance() -> None:
    rows = ranked({"a": [0.9], "b": [0.5]})
    assert (rows["a"].interval, rows["a"].probability_best) == (None, None)
    assert (rows["b"].gap_to_best, rows["b"].gap_interval, rows["b"].tied) == (pytest.approx(0.4), None, True)
    assert answer("t", rank_sources(transfers({"a": [0.9], "b": [0.5]}))["t"]) == (
        "t: no source stands out; the highest mean is that of a (mean AUC 0.900 over 1 replicate, no interval from one replicate); "
        "b is not distinguishable from it.")


def test_baselines_are_ranked_and_not_recommended() -> None:
    values = {**FOLDS, "scratch": [0.95, 0.96, 0.94, 0.95, 0.95], "t": [0.5, 0.51, 0.52, 0.5, 0.49]}
    rows = rank_sources(transfers(values))["t"]
    assert [(row.source, row.baseline) for row in rows] == [("scratch", True), ("a", False), ("b", False), ("c", False), ("t", True)]
    assert [row.best for row in rows] == [False, True, False, False, False]
    assert rows[0].gap_to_best == pytest.approx(0.90 - 0.95)
    sentence = answer("t", rows)
    assert sentence.startswith("t: take a (mean AUC 0.900 over 5 replicates, 95 % interval 0.87")
    assert "; b is not distinguishable from it, the other 1 is worse" in sentence
    assert "; training from scratch is better (mean 0.950)" in sentence
    assert "; pretraining on the target itself is worse (mean 0.504)" in sentence
    assert sentence.count(".") - sentence.count("0.") == 1


def test_the_sentence_fits_the_number_of_sources() -> None:
    assert "; it is the only source that was tried." in answer("t", rank_sources(transfers({"a": FOLDS["a"]}))["t"])
    assert "; c is worse." in answer("t", rank_sources(transfers({"a": FOLDS["a"], "c": FOLDS["c"]}))["t"])
    assert "; the other 2 sources are worse." in answer("t", rank_sources(transfers({"a": FOLDS["a"], "c": FOLDS["c"], "d": FOLDS["c"]}))["t"])
    assert answer("t", rank_sources(transfers({"scratch": FOLDS["a"]}))["t"]) == "t: no source has a measured transfer."


def test_order_of_rows_and_other_targets_do_not_matter_and_the_seed_does() -> None:
    table = transfers(FOLDS)
    turned = TransferTable(tuple(reversed(table.records)))
    more = TransferTable((*table.records, *transfers(FOLDS, target="u").records))
    expected = rank_sources(table, seed=3)["t"]
    assert rank_sources(turned, seed=3)["t"] == rank_sources(more, seed=3)["t"] == expected
    assert list(rank_sources(more)) == ["t", "u"]
    assert rank_sources(table, seed=4)["t"][0].probability_best != expected[0].probability_best


def test_mixed_metrics_and_empty_tables_are_refused() -> None:
    mixed = TransferTable((*transfers({"a": [0.5]}).records, *transfers({"b": [0.5]}, metric="accuracy").records))
    with pytest.raises(DataError, match=r"error\[SK203\] t: transfers to it are measured by accuracy and auc"):
        rank_sources(mixed)
    with pytest.raises(DataError, match=r"the table is empty \(0 rows\)"):
        rank_sources(TransferTable(()))


def test_sources_are_ranked_by_the_main_metric_alone() -> None:
    falling = {source: [1 - value for value in folds] for source, folds in FOLDS.items()}
    both = TransferTable((*transfers(FOLDS).records, *transfers(falling, metric="log-loss").records))
    assert rank_sources(both) == rank_sources(transfers(FOLDS))
    with pytest.raises(UsageError, match=r"error\[SK211\] t: the performance is 'log-loss'"):
        rank_sources(TransferTable(both.records[::-1]))


@pytest.mark.shared
def test_the_study_recommends_imagenet_everywhere(shared: Path) -> None:
    found = rank_sources(read_transfer(shared / "reference/cats-scans/auc_folds_means_std.csv", metric="auc", allow_missing=True))
    assert {target: rows[0].source for target, rows in found.items()} == dict.fromkeys(("chest", "isic", "pcam-middle"), "imagenet")
    assert [row.source for row in found["isic"] if row.tied] == ["pcam-middle"]
    assert next(row for row in found["isic"] if row.source == "isic").baseline
    assert (found["chest"][-1].source, found["chest"][-1].undefined) == ("kimia", 5)
