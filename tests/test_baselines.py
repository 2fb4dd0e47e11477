"""The baselines: a random order, the static list against the correlation's own, and sizes of sources that are known by their network alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from simkit.correlation.analysis import read_transfer
from simkit.correlation.statistics import static_scores
from simkit.dataset import DatasetCard
from simkit.errors import DataError, UsageError
from simkit.estimators.checks import check_estimator
from simkit.estimators.comparison import compare
from simkit.estimators.priors import SourceClasses, SourceImbalance, SourceSize
from simkit.estimators.random_order import RandomOrder
from simkit.estimators.static import Static, relative_ranks, static_score
from simkit.recipe import digest
from simkit.registry import build_options

EXAMPLE = Path(__file__).parents[1] / "examples/transfer.csv"


def card(name: str, *, images: int = 100, counts: tuple[int, ...] = (60, 40)) -> DatasetCard:
    return DatasetCard(name, digest(name), images, {f"{name} {i}": count for i, count in enumerate(counts)}, 0, 3, 0.0, 64.0, 64.0)


# --- random --------------------------------------------------------------------------------------------------------------------------------------


def test_random_depends_on_seed_and_name_only() -> None:
    value = compare(RandomOrder(), card("a"), card("t")).value
    assert 0 <= value < 1
    assert compare(RandomOrder(), card("a", images=7, counts=()), card("u"), seed=9).value == value
    assert compare(RandomOrder(), card("b"), card("t")).value != value
    assert compare(RandomOrder(seed=1), card("a"), card("t")).value != value
    assert compare(RandomOrder(seed=1), card("a"), card("t")).detail == {"seed": 1}


def test_random_is_uniform_and_tells_nothing() -> None:
    values = np.array([[compare(RandomOrder(seed=seed), card(f"source {i}"), card("t")).value for i in range(40)] for seed in range(25)])
    assert np.histogram(values, 4, (0, 1))[0] == pytest.approx(250, abs=60)  # four standard deviations
    assert values.mean(0).std() < 0.12  # no source is always good: 0.058 is expected
    assert abs(np.corrcoef(values[0], values[1])[0, 1]) < 0.5


def test_random_promises() -> None:
    check_estimator(RandomOrder)
    check_estimator(RandomOrder(seed=5))
    assert (RandomOrder.name, RandomOrder.kind, RandomOrder.reads_source_card) == ("random", "prior", "name")


# --- static --------------------------------------------------------------------------------------------------------------------------------------


def table(path: Path, text: str, **options: Any) -> Static:
    path.write_text(text, encoding="utf-8")
    return Static(path, **options)


def scored(measure: Static, sources: list[str], targets: list[str]) -> np.ndarray:
    """(S, T) values; NaN where the measure has none."""
    out = np.full((len(sources), len(targets)), np.nan)
    for i, source in enumerate(sources):
        for j, target in enumerate(targets):
            try:
                out[i, j] = compare(measure, card(source), card(target)).value
            except DataError as error:
                assert "there is no other target to rank it by" in str(error)  # noqa: PT017 - a cell without a value
    return out


def test_the_static_list_is_that_of_correlate() -> None:
    records = [dict(zip(("source", "target", "value"), (r["source"], r["target"], r["value"]), strict=True)) for r in read_transfer(EXAMPLE).records]
    sources, targets = (sorted({record[what] for record in records}) for what in ("source", "target"))
    performance = np.full((len(sources), len(targets)), np.nan)
    for i, source in enumerate(sources):
        for j, target in enumerate(targets):
            runs = [record["value"] for record in records if (record["source"], record["target"]) == (source, target)]
            if runs:
                performance[i, j] = np.mean(runs)
    expected = static_scores(performance)
    found = scored(Static(EXAMPLE), sources, targets)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-12)
    for j in range(len(targets)):
        np.testing.assert_array_equal(rankdata(found[:, j]), rankdata(expected[:, j]))
    detail = compare(Static(EXAMPLE), card("imagenet"), card("chest")).detail
    assert (detail["targets"], detail["number_of_targets"], detail["rows"], detail["rows_left_out"]) == (
        ["histology-small", "mri", "retina", "skin"], 4, len(records), 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.integers(2, 5))
def test_static_scores_with_gaps_and_ties(seed: int, sources: int, targets: int) -> None:
    rng = np.random.default_rng(seed)
    performance = np.round(rng.random((sources, targets)), 1)  # ties
    performance[rng.random((sources, targets)) < 0.3] = np.nan
    values = {(f"s{i}", f"t{j}"): float(performance[i, j]) for i in range(sources) for j in range(targets) if np.isfinite(performance[i, j])}
    ranks = relative_ranks(values)
    assert all(0 < rank < 1 for rank in ranks.values())
    for j in range(targets):
        rows = np.flatnonzero(np.isfinite(performance[:, j]))
        expected = (rankdata(performance[rows, j]) - 0.5) / max(1, len(rows))
        assert [ranks[f"s{i}", f"t{j}"] for i in rows] == pytest.approx(expected.tolist())
    found = np.array([[(static_score(ranks, f"s{i}", f"t{j}") or (np.nan, 0))[0] for j in range(targets)] for i in range(sources)])
    np.testing.assert_allclose(found, static_scores(performance), rtol=0, atol=2e-12)


ROWS = "source,target,performance\na,t,0.9\nb,t,0.8\nc,t,0.7\na,u,0.6\nb,u,0.7\na,v,0.5\nb,v,0.9\nc,v,0.9\n"


def test_the_target_itself_is_left_out(tmp_path: Path) -> None:
    measure = table(tmp_path / "t.csv", ROWS)
    assert compare(measure, card("a"), card("t")).value == pytest.approx((0.25 + 1 / 6) / 2)  # worst of two, worst of three
    assert compare(measure, card("b"), card("t")).value == pytest.approx((0.75 + 2 / 3) / 2)  # best of two, best of three with another
    changed = table(tmp_path / "u.csv", ROWS.replace("a,t,0.9", "a,t,0.1"))
    assert compare(changed, card("a"), card("t")).value == compare(measure, card("a"), card("t")).value
    assert compare(changed, card("a"), card("u")).value < compare(measure, card("a"), card("u")).value
    everything = compare(measure, card("a"), card("somewhere new"))
    assert everything.value == pytest.approx((5 / 6 + 0.25 + 1 / 6) / 3)
    assert everything.detail["number_of_targets"] == 3


def test_lower_can_be_better(tmp_path: Path) -> None:
    higher, lower = table(tmp_path / "t.csv", ROWS), Static(tmp_path / "t.csv", better="lower")
    for name in "abc":
        assert compare(lower, card(name), card("x")).value == pytest.approx(1 - compare(higher, card(name), card("x")).value)


def test_runs_are_averaged_and_what_is_no_transfer_is_left_out(tmp_path: Path) -> None:
    runs = "".join(f"{source},{target},{fold},{value}\n" for source, target, values in (
        ("a", "t", (0.9, 0.1)), ("b", "t", (0.6, 0.6)), ("t", "t", (1.0, 1.0)), ("scratch", "t", (0.2, 0.2))) for fold, value in enumerate(values))
    measure = table(tmp_path / "t.csv", f"source,target,fold,auc\n{runs}", value="auc")
    assert compare(measure, card("a"), card("x")).value == 0.25
    assert compare(measure, card("b"), card("x")).value == 0.75
    assert compare(measure, card("b"), card("x")).detail["rows_left_out"] == 4


def test_other_columns_and_delimiters(tmp_path: Path) -> None:
    measure = table(tmp_path / "t.csv", "von;nach;AUC\na;t;0,5\nb;t;0,6\n", source="von", target="nach", value="AUC")
    assert compare(measure, card("b"), card("x")).value == 0.75


METRICS = "source,target,metric,performance\na,t,auc,0.9\nb,t,auc,0.8\na,t,loss,0.5\nb,t,loss,0.9\na,u,accuracy,0.9\nb,u,accuracy,0.8\n"


def test_one_metric_for_each_target(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.csv: target 't' has results of the metrics auc, loss\nfix: set metric = auc"):
        table(tmp_path / "t.csv", METRICS)
    assert compare(table(tmp_path / "t.csv", METRICS, metric="auc"), card("a"), card("x")).value == 0.75
    assert compare(table(tmp_path / "t.csv", METRICS, metric="loss"), card("a"), card("x")).value == 0.25
    several = table(tmp_path / "u.csv", "\n".join(line for line in METRICS.splitlines() if "loss" not in line))
    assert compare(several, card("a"), card("x")).detail["number_of_targets"] == 2
    with pytest.raises(DataError, match=r"no row has the metric 'aucc' \(did you mean 'auc'\?\); the table has accuracy, auc, loss"):
        table(tmp_path / "t.csv", METRICS, metric="aucc")
    with pytest.raises(DataError, match=r"metric = 'auc' was chosen, and there is no column 'metric'"):
        table(tmp_path / "v.csv", ROWS, metric="auc")


def test_what_is_lacking_is_said_by_name(tmp_path: Path) -> None:
    measure = table(tmp_path / "t.csv", ROWS + "bones,u,0.9\n")
    with pytest.raises(DataError, match=r"bone: static has no row whose source is 'bone' \(did you mean 'bones'\?\); .*t\.csv has the sources a, b, bones, c"):
        compare(measure, card("bone"), card("t"))
    assert measure.missing(card("bone"), "target") == ""
    with pytest.raises(DataError, match=r"SK209\] .*the source 'bones' has a result for the target 'u' only: there is no other target"):
        compare(measure, card("bones"), card("u"))
    assert compare(measure, card("bones"), card("t")).value == pytest.approx(5 / 6)
    many = table(tmp_path / "many.csv", "source,target,performance\n" + "".join(f"s{i:02},t,0.5\n" for i in range(11)))
    assert many.missing(card("z"), "source").endswith("has the sources s00, s01, s02, s03, s04, s05, s06, s07 and 3 more")


@pytest.mark.parametrize(("text", "options", "message"), [
    (ROWS + "a,t,0.3\n", {}, r"t\.csv:10: source 'a' and target 't' appear twice \(first in line 2\)\nfix: keep one row per run"),
    (ROWS + ",t,0.3\n", {}, r"t\.csv:10 \(column 'source'\): the cell is empty"),
    (ROWS + "d,,0.3\n", {}, r"t\.csv:10 \(column 'target'\): the cell is empty"),
    (ROWS + "d,t,nan\n", {}, r"t\.csv:10 \(column 'performance'\): 'nan' is not a finite number"),
    (ROWS, {"value": "performence"}, r"column 'performence' is missing \(did you mean 'performance'\?\)"),
    ("source,target,performance\na,a,0.5\nscratch,a,0.5\n", {}, r"t\.csv: no row has a source other than its target"),
])
def test_a_wrong_table_is_found_before_any_work(tmp_path: Path, text: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        table(tmp_path / "t.csv", text, **options)


def test_a_missing_table_and_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv: does not exist"):
        Static(tmp_path / "nowhere.csv")
    with pytest.raises(UsageError, match=r"static: option 'path' is required"):
        build_options(Static, {}, "static")


def test_the_recipe_holds_the_content_and_not_the_path(tmp_path: Path) -> None:
    one, two, other = table(tmp_path / "one.csv", ROWS), table(tmp_path / "two.csv", ROWS), table(tmp_path / "other.csv", ROWS.replace("0.9", "0.91"))
    assert digest(one.recipe()) == digest(two.recipe()) != digest(other.recipe())
    assert str(tmp_path) not in str(one.recipe())


def test_static_promises() -> None:
    check_estimator(Static)
    assert (Static.name, Static.kind, Static.symmetric, Static.higher_is_better) == ("static", "transferability", False, True)
    assert Static.reads_source_card


# --- sizes of sources that are known by their network -------------------------------------------------------------------------------------------


def test_a_network_whose_images_are_not_known_has_no_size() -> None:
    message = r"the number of training images of 'resnet' is not known: state images = N in \[networks\.resnet\]"
    with pytest.raises(DataError, match=message):
        compare(SourceSize(), card("resnet", images=0, counts=()), card("t"))
    assert compare(SourceSize(), card("resnet", images=10_000, counts=()), card("t")).value == 4.0
    assert compare(SourceSize(), card("a"), card("t", images=0)).value == 2.0  # of the target nothing is asked


def test_what_a_name_and_two_counts_are_enough_for() -> None:
    assert SourceSize.reads_source_card
    assert SourceClasses.reads_source_card
    assert not SourceImbalance.reads_source_card
    assert compare(SourceClasses(), card("birds", images=0, counts=(1,) * 10), card("t")).value == 1.0
    check_estimator(SourceSize)
    check_estimator(SourceClasses)
