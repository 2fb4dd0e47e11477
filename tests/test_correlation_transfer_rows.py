"""Transfer tables with one row per run and metric: whose rows count, what a replicate is, and what is said of leaky runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from simkit.correlation import Correlation, correlate, read_transfer, recommend
from simkit.errors import DataError, UsageError
from simkit.tables import ScoreTable, TransferTable

SOURCES, TARGETS = ("a", "b", "c", "d"), ("t", "u")
AUC = {(s, t): 0.9 - 0.05 * i - 0.01 * (t == "u") for i, s in enumerate(SOURCES) for t in TARGETS}
AREA = {"t": "auc", "u": "auc-ovr-weighted"}
OTHERS = ("balanced-accuracy", "log-loss")
FAST: dict[str, Any] = {"permutations": 99, "bootstraps": 0}


def run_rows(source: str, target: str, fold: int, seed: int | None = 0, **more: Any) -> list[dict[str, Any]]:
    """The rows of one run: AUC that falls, balanced accuracy that rises from source a to d."""
    shift = 0.002 * fold + 0.001 * (seed or 0)
    run = {"source": source, "target": target, "fold": str(fold), "seed": seed, "lr": 0.001, "epochs": 20, "n_train": 80, "n_test": 20, "seconds": 1.5,
           "leaky": 0, "recipe": "abc", **more}
    values = {AREA[target]: AUC[source, target] + shift, "balanced-accuracy": 1.5 - AUC[source, target] - shift, "log-loss": 0.5}
    return [{**run, "metric": metric, "value": value} for metric, value in values.items()]


def records(**more: Any) -> list[dict[str, Any]]:
    return [row for s, t in AUC for seed in (0, 1) for fold in (1, 2) for row in run_rows(s, t, fold, seed, **more)]


def transfers(rows: Iterable[Mapping[str, Any]]) -> TransferTable:
    return TransferTable(tuple(rows))


def scores(targets: Iterable[str] = TARGETS) -> ScoreTable:
    return ScoreTable(tuple({"source": s, "target": t, "method": "far", "value": 1.0 + i, "higher_is_better": False}
                            for t in targets for i, s in enumerate(SOURCES)))


def run(table: Any, **options: Any) -> Correlation:
    return correlate(scores(), performance=table, **FAST, **options)


def test_file_frame_and_table_are_read_alike_and_as_the_same_numbers_in_the_old_form(tmp_path: Path) -> None:
    table = transfers(records())
    table.to_csv(tmp_path / "transfer.csv")
    old = tmp_path / "old.csv"
    old.write_text("source,target,replicate,performance,metric\n" + "".join(
        f"{r['source']},{r['target']},seed{r['seed']}-fold{r['fold']},{r['value']!r},{r['metric']}\n" for r in records() if r["metric"].startswith("auc")))
    expected = run(old)
    assert expected.methods[0].mean == 1.0
    assert expected.data is not None
    for form in (table, table.frame, tmp_path / "transfer.csv"):
        found = run(form)
        assert found.data is not None
        assert found.data.replicates.tolist() == expected.data.replicates.tolist()
        assert found.data.replicates.shape == (4, 4, 2)
        assert (found.metric, found.methods[0].mean) == (expected.metric, 1.0) == ("auc, auc-ovr-weighted", 1.0)


def test_of_several_metrics_the_area_under_the_curve_is_taken_and_the_others_are_named() -> None:
    notes = run(transfers(records())).notes
    assert ("TransferTable: the metric is auc, auc-ovr-weighted; rows of balanced-accuracy, log-loss are not used (another one: metric='NAME', "
            "--metric NAME)") in notes
    assert "TransferTable: columns 'fold' and 'seed' are read as the replicate" in notes
    alone = run(transfers(row for row in records() if row["metric"].startswith("auc")))
    assert not any("are not used (another one" in note for note in alone.notes)


def test_the_weighted_area_goes_before_the_macro_one_whatever_stands_first() -> None:
    rows = [row for row in records() if row["target"] == "u"]
    macro = [{**row, "metric": "auc-ovr-macro", "value": 0.5 + 0.01 * i} for i, row in enumerate(rows) if row["metric"] == "auc-ovr-weighted"]
    assert read_transfer(transfers([*macro, *rows]).frame).main_metrics == {"u": "auc-ovr-weighted"}
    without = [row for row in rows if row["metric"] != "auc-ovr-weighted"]
    assert read_transfer(transfers([*without, *macro]).frame).main_metrics == {"u": "auc-ovr-macro"}
    assert read_transfer(transfers([*without, *macro]), metric="auc").main_metrics == {"u": "auc-ovr-macro"}


def test_a_metric_that_is_asked_for_picks_its_rows() -> None:
    assert run(transfers(records()), metric="balanced_accuracy").methods[0].mean == -1.0
    area = run(transfers(records()), metric="auc")
    assert (area.methods[0].mean, area.metric) == (1.0, "auc, auc-ovr-weighted")
    one = read_transfer(transfers(records()), metric="auc-ovr-weighted")
    assert one.main_metrics == {"u": "auc-ovr-weighted"}
    with pytest.raises(UsageError, match=r"error\[SK101\] metric: no row of TransferTable is of the metric 'balanced-acuracy' \(did you mean "
                       r"'balanced-accuracy'\?\)\nfix: metrics found: auc, balanced-accuracy, log-loss, auc-ovr-weighted"):
        run(transfers(records()), metric="balanced-acuracy")
    with pytest.raises(UsageError, match=r"error\[SK211\] TransferTable: the performance is 'log-loss', which by its name is better when lower(.|\n)*fix: "
                       r"negate the numbers"):
        run(transfers(records()), metric="log-loss")


def test_targets_and_runs_without_the_metric_are_counted() -> None:
    found = correlate(scores(("u",)), performance=transfers(records()), metric="auc-ovr-weighted", **FAST)
    assert "TransferTable: 1 target has no row of the metric auc-ovr-weighted and is left out (t)" in found.notes
    rows = [row for row in records() if (row["source"], row["fold"], row["seed"], row["metric"]) != ("a", "1", 0, "balanced-accuracy")]
    found = run(transfers(rows), metric="balanced-accuracy")
    assert "TransferTable: 2 runs have rows of other metrics only, left out (a -> t seed0-fold1, a -> u seed0-fold1)" in found.notes


def test_several_metrics_without_an_area_under_the_curve_must_be_chosen_from() -> None:
    rows = [row | {"metric": "f1" if row["metric"].startswith("auc") else row["metric"]} for row in records()]
    with pytest.raises(UsageError, match=r"error\[SK104\] TransferTable: target 't' is measured by f1, balanced-accuracy, log-loss, and none is an area under "
                       r"the ROC curve\nfix: choose one: metric='f1' \(--metric f1\)"):
        run(transfers(rows))
    assert run(transfers(rows), metric="f1").methods[0].mean == 1.0


def test_undefined_rows_are_as_empty_performances() -> None:
    rows = [row | ({"value": None, "flags": "one class only; x"} if (row["source"], row["fold"], row["seed"]) == ("a", "1", 0) else {}) for row in records()]
    with pytest.raises(DataError, match=r"TransferTable row 0 \(column 'value'\): the cell is empty"):
        run(transfers(rows))
    found = run(transfers(rows), allow_missing=True)
    assert any("t: 1 of 4 sources do not have all 4 replicates (a lacks 1)" in line for line in found.warnings)
    kept = read_transfer(transfers(rows).frame, allow_missing=True)
    undefined = [record for record in kept.records if record["value"] is None]
    assert [(r["source"], r["target"], r["fold"], r["seed"], r["flags"]) for r in undefined] == [
        ("a", t, "1", 0, ("one class only", "x")) for t in TARGETS]


def test_leaky_runs_are_counted_in_a_warning() -> None:
    rows = [row | {"leaky": 3 if row["source"] == "a" and row["target"] == "t" else None if row["source"] == "b" else 0} for row in records()]
    found = run(transfers(rows))
    assert ("4 of 32 runs are leaky: the pretraining of the source has seen images that the target is tested on, so that the performance may be too high "
            "(a -> t 4)") in found.warnings
    assert not any("leaky" in line for line in run(transfers(records())).warnings)
    with pytest.raises(DataError, match=r"\(column 'leaky'\): value -1 is outside 0..inf"):
        run(transfers(records(leaky=-1)))


def test_a_gain_names_its_baseline_and_baselines_are_not_mixed() -> None:
    rows = [row | {"metric": "relative-gain", "baseline": "self", "value": 100 * row["value"] - 90} for row in records() if row["metric"].startswith("auc")]
    found = run(transfers(rows))
    assert "TransferTable: relative-gain is in percent, over self" in found.notes
    assert not any("no metric that simkit knows" in note for note in found.notes)
    with pytest.raises(DataError, match=r"row 1 \(column 'baseline'\): the gain is over 'self', and over 'scratch' in a row above"):
        run(transfers([rows[0] | {"baseline": "scratch"}, *rows[1:]]))


def test_read_transfer_gives_the_rows_of_the_metric_with_all_that_is_known_of_their_runs(tmp_path: Path) -> None:
    table = transfers(records())
    table.to_csv(tmp_path / "t.csv")
    read = read_transfer(tmp_path / "t.csv")
    expected = {(r["source"], r["target"], r["fold"], r["seed"]): r for r in table.of_metric()}
    assert len(read) == len(expected) == 32
    for record in read.records:
        said = expected[record["source"], record["target"], record["fold"], record["seed"]]
        assert all(record[name] == said[name] for name in ("metric", "value", "lr", "epochs", "n_train", "n_test", "seconds", "leaky", "recipe"))
    assert read_transfer(table) is table


def test_without_seeds_the_fold_is_the_replicate_and_a_seed_is_a_whole_number(tmp_path: Path) -> None:
    rows = [row | {"seed": None} for row in records() if row["seed"] == 0]
    assert {r["replicate"] for r in transfers(rows).of_metric()} == {"1", "2"}
    assert run(transfers(rows)).methods[0].mean == 1.0
    path = tmp_path / "t.csv"
    path.write_text("source,target,fold,seed,metric,value\na,t,1,x,auc,0.5\n")
    with pytest.raises(DataError, match=r"error\[SK203\] .*t.csv:2 \(column 'seed'\): 'x' is no whole number\nfix: number the seeds"):
        read_transfer(path)
    path.write_text("source,target,fold,metric,value\na,t,1,,0.5\n")
    with pytest.raises(DataError, match=r"t.csv:2 \(column 'metric'\): the cell is empty\nfix: name the metric"):
        read_transfer(path)
    path.write_text("source,target,fold,metric,value\na,t,left,auc,0.5\n")
    assert [(r["fold"], r["seed"], r["value"]) for r in read_transfer(path).records] == [("left", None, 0.5)]


def test_a_transfer_table_holds_no_scores(tmp_path: Path) -> None:
    transfers(records()).to_csv(tmp_path / "t.csv")
    for options in ({}, {"performance": str(tmp_path / "t.csv")}):
        with pytest.raises(UsageError, match=r"error\[SK102\] .*t.csv: a transfer table holds no scores\nfix: give the scores first"):
            correlate(tmp_path / "t.csv", **FAST, **options)  # type: ignore[arg-type]


def test_scores_may_stand_beside_the_runs(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("source,target,fold,seed,metric,value,far\n" + "".join(
        f"{r['source']},{r['target']},{r['fold']},{r['seed']},{r['metric']},{r['value']!r},{SOURCES.index(r['source'])}\n" for r in records()))
    found = correlate(path, distances=["far"], **FAST)
    assert [(one.method, one.mean) for one in found.methods] == [("far", 1.0)]


def test_a_target_that_was_scored_and_not_measured_needs_no_metric(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("source,target,fold,seed,metric,value,far\n" + "".join(
        f"{r['source']},{r['target']},{r['fold']},{r['seed']},{r['metric']},{r['value']!r},{SOURCES.index(r['source'])}\n" for r in records())
        + "".join(f"{s},new,,,,,{i}\n" for i, s in enumerate(SOURCES)))
    found = recommend("new", path, distances=["far"], bootstraps=100)
    assert sorted(one.source for one in found.candidates) == list(SOURCES)
    assert "2 past targets" in found.answer


def test_a_column_value_stays_a_score_where_something_else_is_the_performance(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("source,target,metric,performance,value\n" + "".join(f"{s},{t},auc,{v!r},{SOURCES.index(s)}\n" for (s, t), v in AUC.items()))
    found = correlate(path, distances=["value"], **FAST)
    assert [(one.method, one.mean) for one in found.methods] == [("value", 1.0)]


def test_recommend_learns_from_such_a_table(tmp_path: Path) -> None:
    table = transfers(records(leaky=2))
    table.to_csv(tmp_path / "t.csv")
    everything = scores((*TARGETS, "new"))
    found = [recommend("new", everything, performance=form, bootstraps=100) for form in (table, tmp_path / "t.csv")]
    assert found[0].answer == found[1].answer
    assert any("rows of balanced-accuracy, log-loss are not used" in note for note in found[0].notes)
    assert any("32 of 32 runs are leaky" in line for line in found[0].warnings)
    with pytest.raises(UsageError, match=r"no row of TransferTable is of the metric 'f1'"):
        recommend("new", everything, performance=table, metric="f1", bootstraps=100)
