"""Reading, orienting and joining: every shape of table, every message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from simkit.correlation import Correlation, correlate, read_transfer
from simkit.correlation.orientation import directions
from simkit.correlation.reading import read
from simkit.correlation.recognition import as_raw, recognise
from simkit.errors import DataError, NotEnoughData, UsageError
from simkit.registry import ESTIMATORS
from simkit.tables import ScoreTable, TransferTable, read_table

Write = Callable[..., Path]
SOURCES, TARGETS = ("a", "b", "c", "d"), ("t", "u")
GOOD = {(s, t): 0.5 + 0.1 * i + 0.01 * j * (-1) ** i for i, s in enumerate(SOURCES) for j, t in enumerate(TARGETS)}
FAR = {(s, t): 4.0 - i + (0.5 if (s, t) == ("b", "u") else 0) for i, s in enumerate(SOURCES) for t in TARGETS}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def file(name: str, columns: str, rows: Sequence[Sequence[Any]]) -> Path:
        path = tmp_path / name
        path.write_text("\n".join([columns, *(",".join(str(cell) for cell in row) for row in rows)]) + "\n")
        return path
    return file


def run(table: Any, **options: Any) -> Correlation:
    return correlate(table, **{"permutations": 99, "bootstraps": 20, **options})


def wide(write: Write, **cells: Any) -> Path:
    """source, target, performance, far; single cells replaced by line number and column: wide(write, far_3="x")."""
    rows = [[s, t, GOOD[s, t], FAR[s, t]] for s, t in GOOD]
    for where, value in cells.items():
        column, line = where.rsplit("_", 1)
        rows[int(line) - 2][("source", "target", "performance", "far").index(column)] = value
    return write("wide.csv", "source,target,performance,far", rows)


def long(write: Write, rows: Sequence[Sequence[Any]] | None = None, columns: str = "source,target,method,value,performance") -> Path:
    return write("long.csv", columns, [[s, t, "far", FAR[s, t], GOOD[s, t]] for s, t in GOOD] if rows is None else rows)


def numbers(result: Correlation) -> dict[str, Any]:
    """Everything but the notes, which name the table."""
    return {key: value for key, value in result.as_dict().items() if key not in ("notes", "metric")}


# --- shapes ---------------------------------------------------------------------------------------------------------------------------------


def test_every_shape_of_the_same_numbers_gives_the_same_result(write: Write, tmp_path: Path) -> None:
    expected = numbers(run(wide(write), distances=["far"]))
    scores = [{"source": s, "target": t, "method": "far", "value": v, "higher_is_better": False} for (s, t), v in FAR.items()]
    transfers = [{"source": s, "target": t, "fold": "1", "seed": 0, "value": v, "metric": "auc"} for (s, t), v in GOOD.items()]
    score_table, transfer_table = ScoreTable(tuple(scores)), TransferTable(tuple(transfers))
    score_table.to_csv(tmp_path / "scores.csv")
    transfer_table.to_csv(tmp_path / "transfer.csv")
    frame = pd.DataFrame([{"source": s, "target": t, "performance": GOOD[s, t], "far": FAR[s, t]} for s, t in GOOD])
    spreadsheet = tmp_path / "spreadsheet.csv"
    spreadsheet.write_bytes(b"\xef\xbb\xbf" + (";target;source;far;performance\r\n" + "".join(
        f"{i};{t};{s};{FAR[s, t]};{GOOD[s, t]!r}\r\n" for i, (s, t) in enumerate(GOOD))).encode())
    for table, options in (
        (long(write), {"distances": "far"}), (frame, {"distances": "far"}), (frame.set_index(["source", "target"]), {"distances": "far"}),
        (read_table(wide(write)), {"distances": "far"}), (spreadsheet, {"distances": "far"}),
        (score_table, {"performance": transfer_table}), (str(tmp_path / "scores.csv"), {"performance": str(tmp_path / "transfer.csv")}),
        (score_table.frame, {"performance": transfer_table.frame}), (tmp_path / "scores.csv", {"performance": tmp_path / "transfer.csv"}),
        (wide(write), {"methods": "near=far", "distances": "near"}),
    ):
        result = run(table, **options)
        if options.get("methods"):
            assert result.methods[0].method == "near"
            assert result.methods[0].targets == tuple(run(wide(write), distances="far").methods[0].targets)
        else:
            assert numbers(result) == expected


def test_what_was_recognised_is_said(write: Write) -> None:
    table = write("t.csv", ",source,target,fold_1,fold_2,std,d_1,d_2,comment",
                  [[i, s, t, GOOD[s, t] - 0.01, GOOD[s, t] + 0.01, 0.01, FAR[s, t] - 1, FAR[s, t] + 1, "x"] for i, (s, t) in enumerate(GOOD)])
    result = run(table, methods=["far=d_*"], distances="far")
    notes = "\n".join(result.notes)
    assert "delimiter ','" in notes
    assert "performance: recognised 2 replicates, averaged per pair (fold_1, fold_2)" in notes
    assert "far (mean of d_1, d_2)" in notes
    assert "not used: std, comment" in notes
    assert "far: lower values count as more similar (stated)" in notes
    assert result.methods[0].mean_spearman == run(wide(write), distances="far").methods[0].mean_spearman
    points = result.methods[0].targets[0].points
    assert [point[0] for point in points] == list(SOURCES)
    assert points[1] == pytest.approx(("b", FAR["b", "t"], GOOD["b", "t"]))
    assert set(result.noise_ceiling) == set(TARGETS)


def test_a_pattern_is_the_performance_and_relative_gains_need_not_lie_in_0_to_1(write: Write) -> None:
    table = write("t.csv", "source,target,score_1,score_2,far", [[s, t, 10 * GOOD[s, t] - 9, 10 * GOOD[s, t] - 7, FAR[s, t]] for s, t in GOOD])
    result = run(table, performance="score_*", methods="far", distances="far")
    assert result.metric == "score_*"
    assert result.methods[0].targets[0].points[0][2] == pytest.approx(10 * GOOD["a", "t"] - 8)
    assert result.methods[0].targets[0].relative_at_1 is None  # a ratio of gains of both signs means nothing


def test_long_form_replicates_are_paired_and_values_averaged(write: Write) -> None:
    rows = [[s, t, m, FAR[s, t] + shift, GOOD[s, t] + 0.01 * fold, fold, v]
            for s, t in GOOD for m in ("far", "farther") for fold in (1, 2, 3) for v, shift in (("x", -1), ("y", 1))]
    result = run(long(write, rows, "source,target,method,value,performance,replicate,value_replicate"), distances=["far", "farther"])
    one = result.methods[0].targets[0].points[0]
    assert one == ("a", FAR["a", "t"], pytest.approx(GOOD["a", "t"] + 0.02))
    assert set(result.noise_ceiling) == set(TARGETS)
    assert [m.method for m in result.methods] == ["far", "farther"]


def test_methods_of_a_long_table_are_chosen_and_renamed(write: Write) -> None:
    rows = [[s, t, m, FAR[s, t], GOOD[s, t]] for s, t in GOOD for m in ("far", "junk")]
    result = run(long(write, rows), methods=["near=far"], distances=["near"])
    assert [m.method for m in result.methods] == ["near"]


def test_equal_replicates_average_to_exactly_that_value(write: Write) -> None:
    rows = [[s, t, 0.1, 0.1, 0.1, FAR[s, t]] for s, t in GOOD]
    result = run(write("t.csv", "source,target,fold_1,fold_2,fold_3,far", rows), distances="far")
    assert {point[2] for one in result.methods[0].targets for point in one.points} == {0.1}
    assert result.methods[0].mean_spearman is None


def test_source_size_becomes_a_baseline(write: Write) -> None:
    rows = [[s, t, "far", FAR[s, t], GOOD[s, t], 10 ** i] for i, s in enumerate(SOURCES) for t in TARGETS]
    result = run(long(write, rows, "source,target,method,value,performance,source_size"), distances="far")
    size = next(one for one in result.baselines if one.method == "source-size")
    assert size.mean_spearman == pytest.approx(1.0)
    rows[1][-1] = 7
    with pytest.raises(DataError, match=r"long.csv:3 \(column 'source_size'\): source 'a' has size 7, and 1 in line 2"):
        run(long(write, rows, "source,target,method,value,performance,source_size"), distances="far")


def test_read_transfer_keeps_undefined_replicates_and_fold_sizes(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text("source,target,fold_1,fold_2,mean\na,t,0.5,0.6,0.55\nb,t,nan\n")
    table = read_transfer(path, metric="auc", allow_missing=True)
    assert [(r["source"], r["fold"], r["value"], r["metric"]) for r in table.records] == [
        ("a", "fold_1", 0.5, "auc"), ("a", "fold_2", 0.6, "auc"), ("b", "fold_1", None, "auc"), ("b", "fold_2", None, "auc")]
    assert "no value in" in table.records[2]["flags"][0]
    sized = TransferTable(({"source": "a", "target": "t", "fold": "0", "value": 0.5, "metric": "auc", "n_train": 80, "n_test": 20},))
    sized.to_csv(tmp_path / "s.csv")
    assert read_transfer(tmp_path / "s.csv").records[0]["n_train"] == 80
    assert read_transfer(sized) is sized


# --- directions -----------------------------------------------------------------------------------------------------------------------------


def test_unknown_direction_is_asked_for_with_both_options(write: Write) -> None:
    with pytest.raises(UsageError, match=r"error\[SK211\] .*the direction of 'far' is not known(.|\n)*distances=\['far'\].*similarities=\['far'\]"):
        run(wide(write))


def test_direction_comes_from_options_then_the_column_then_the_registry(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    class Near:
        name, higher_is_better = "far", True

    monkeypatch.setattr(ESTIMATORS, "names", lambda: ["far"])
    monkeypatch.setattr(ESTIMATORS, "get", lambda name: Near)
    assert run(wide(write)).methods[0].higher_is_better is True
    stated = run(wide(write), distances="far")
    assert stated.methods[0].higher_is_better is False
    assert any("taken as a distance (stated), but simkit's measure of that name is a similarity" in line for line in stated.warnings)
    rows = [[s, t, "far", FAR[s, t], GOOD[s, t], "no"] for s, t in GOOD]
    table = long(write, rows, "source,target,method,value,performance,higher_is_better")
    assert run(table).methods[0].higher_is_better is False
    with pytest.raises(UsageError, match="'far' is stated as a similarity, and the column higher_is_better says false"):
        run(table, similarities="far")


def test_a_direction_that_depends_on_options_is_asked_for_and_does_not_contradict(write: Write) -> None:
    """The ratings measure is a distance or a similarity, as its option says: its class has a property, which is neither."""
    rows = [[s, t, "ratings", FAR[s, t], GOOD[s, t]] for s, t in GOOD]
    with pytest.raises(UsageError, match=r"error\[SK211\] .*the direction of 'ratings' is not known: it depends on the options of that measure"):
        run(long(write, rows))
    for options, higher in (({"distances": "ratings"}, False), ({"similarities": "ratings"}, True)):
        stated = run(long(write, rows), **options)
        assert stated.methods[0].higher_is_better is higher
        assert not any("ratings: taken as" in line for line in stated.warnings)


def test_unknown_directions_of_several_methods_are_one_question(write: Write) -> None:
    table = write("t.csv", "source,target,performance,far,near,x", [[s, t, GOOD[s, t], FAR[s, t], -FAR[s, t], 1] for s, t in GOOD])
    message = (r"the direction of 2 methods is not known, and nothing states it: 'far', 'x'\nfix: give distances=\[...\] \(--distance NAME,.*"
               r"similarities=\[...\] \(--similarity NAME,.*; if a column is no measure, name the measures: methods=\[...\] \(--method NAME\)")
    with pytest.raises(UsageError, match=message) as caught:
        run(table, similarities="near")
    assert len(caught.value.problems) == 1
    with pytest.raises(UsageError, match=r"the direction of 25 methods is not known, .*'m18', 'm19', \.\.\.\n"):
        directions([f"m{i}" for i in range(25)])
    with pytest.raises(UsageError, match=r"if higher values do; if a column is no measure, name the measures: methods=\[...\] \(--method NAME\)"):
        run(table, similarities="near", methods=["near", "far"])


def test_a_column_that_is_no_method_by_itself_is_answered_with_how_to_name_it(write: Write) -> None:
    table = write("t.csv", "source,target,performance,far,mean", [[s, t, GOOD[s, t], FAR[s, t], 1] for s, t in GOOD])
    scores = read(recognise(as_raw(table)))
    assert scores.columns == ("source", "target", "performance", "far", "mean")
    with pytest.raises(UsageError, match=r"similarities: 'mean' is not a method of t.csv\nfix: methods found: far; a column that is not taken for a measure "
                       r"by itself is named by methods=\['mean'\] \(--method mean\)"):
        directions(scores.scores, distances=["far"], similarities=["mean"], table="t.csv", columns=scores.columns)
    with pytest.raises(UsageError, match=r"distances: 'FAR' is not a method of t.csv \(did you mean 'far'\?\)\nfix: methods found: far\n"):
        directions(scores.scores, distances=["FAR"], similarities=["far"], table="t.csv", columns=scores.columns)


def test_options_that_name_no_method_are_answered_with_the_nearest(write: Write) -> None:
    with pytest.raises(UsageError, match=r"error\[SK101\] distances: 'farr' is not a method of .*\(did you mean 'far'\?\)"):
        run(wide(write), distances=["far", "farr"])
    with pytest.raises(UsageError, match="'far' is stated both as a distance and as a similarity"):
        run(wide(write), distances="far", similarities="far")


def test_directions_of_the_table_must_agree(write: Write) -> None:
    rows = [[s, t, "far", FAR[s, t], GOOD[s, t], "true"] for s, t in GOOD]
    columns = "source,target,method,value,performance,higher_is_better"
    rows[3][-1] = "false"
    with pytest.raises(DataError, match=r"long.csv:5 \(column 'higher_is_better'\): 'far' is false here and true in line 2"):
        run(long(write, rows, columns))
    rows[3][-1] = "perhaps"
    with pytest.raises(DataError, match="'perhaps' is neither true nor false"):
        run(long(write, rows, columns))


# --- columns --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "match"), [
    ({"performance": "far_*"}, r"error\[SK101\] performance: no column of .* matches 'far_\*'"),
    ({"performance": "performanc"}, r"'performanc' is neither a column of .* \(did you mean 'performance'\?\) nor a file"),
    ({"methods": "fra"}, r"no column of .* is called 'fra' \(did you mean 'far'\?\)"),
    ({"methods": "x=fa?_*"}, r"no column of .* matches 'fa\?_\*'"),
    ({"methods": "f*"}, r"'f\*' is a pattern without a name"),
    ({"methods": ["far", "far=far"]}, "two methods are called 'far'"),
    ({"methods": "=far"}, "'=far' names no method"),
    ({"methods": "x=performance"}, "'performance' is source, target or performance already"),
    ({"methods": [1]}, "is not a list of names"),
    ({"permutations": 0}, r"permutations: 0 is not valid here: expected a whole number >= 1"),
    ({"bootstraps": -1}, "bootstraps: -1 is not valid here"),
    ({"aggregate": "median"}, "aggregate: 'median' is not known"),
    ({"alias": ["ab"]}, "'ab' is not a pair of names"),
])
def test_wrong_options_are_named(write: Write, options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        run(wide(write), **{"distances": "far", **options})


def test_a_path_that_does_not_exist_is_no_column(write: Write) -> None:
    with pytest.raises(DataError, match=r"error\[SK201\] gone.csv: does not exist"):
        run(wide(write), distances="far", performance="gone.csv")


def test_headers_that_hold_too_little_are_told(write: Write) -> None:
    with pytest.raises(UsageError, match=r"error\[SK104\] .*no column is recognised as the performance; columns found: 'source', 'target', 'far'"):
        run(write("t.csv", "source,target,far", [["a", "t", 1]]), distances="far")
    with pytest.raises(UsageError, match=r"no column is recognised as a method"):
        run(write("t.csv", "source,target,performance", [["a", "t", 1]]))
    with pytest.raises(DataError, match=r"column 'source' is missing \(did you mean 'sources'\?\)"):
        run(write("t.csv", "sources,target,performance,far", [["a", "t", 1, 2]]))
    with pytest.raises(DataError, match="column 'value' is missing"):
        run(write("t.csv", "source,target,method,values,performance", [["a", "t", "far", 1, 2]]))
    with pytest.raises(UsageError, match=r"'fr' is not a method of .* \(did you mean 'far'\?\)"):
        run(long(write), methods="fr")
    with pytest.raises(UsageError, match="'far' is taken for two methods"):
        run(long(write), methods=["x=far", "y=far"])


def test_a_column_of_another_letter_case_is_suggested(write: Write) -> None:
    table = write("t.csv", "source,target,auc,otdd", [[s, t, GOOD[s, t], FAR[s, t]] for s, t in GOOD])
    with pytest.raises(UsageError, match=r"'AUC' is neither a column of .* \(did you mean 'auc'\?\) nor a file"):
        run(table, performance="AUC")
    with pytest.raises(UsageError, match=r"is called 'OTDD' \(did you mean 'otdd'\?\)"):
        run(table, methods="OTDD")


def test_remedies_name_the_options_of_the_command_line_too(write: Write) -> None:
    with pytest.raises(UsageError, match=r"performance='auc' \(--performance auc\), its replicates, .*\(--performance 'fold_\*'\), or .*transfer.csv\)"):
        run(write("t.csv", "source,target,far", [["a", "t", 1]]), distances="far")
    with pytest.raises(UsageError, match=r"methods=\['otdd', 'task2vec=distance_\*'\] \(--method otdd --method 'task2vec=distance_\*'\)"):
        run(write("t.csv", "source,target,performance", [["a", "t", 1]]))


def test_columns_that_are_missing_are_told_without_far_fetched_suggestions(write: Write) -> None:
    with pytest.raises(DataError, match=r"column 'target' is missing; columns found: .*\nfix: name the column 'target'\nmore") as caught:
        run(write("t.csv", "source_name,ImageNet,source_size,auc", [["a", "t", 9, 0.5]]))
    assert "column 'source' is missing (did you mean 'source_name'?)" in str(caught.value)
    with pytest.raises(DataError, match=r"columns 'source' and 'target' are missing; columns found: 'isic', 'chest', '0.93', '12'\n"
                       "fix: the first line looks like data: add a line with the names of the columns\n"):
        run(write("t.csv", "isic,chest,0.93,12", [["isic", "busi", 0.9, 13]]))
    with pytest.raises(DataError, match=r"columns 'source' and 'target' are missing(.|\n)*fix: give the columns names: source, target"):
        run(pd.DataFrame([["isic", "busi", 0.9, 13]]))


def test_a_column_of_numbers_without_a_name_is_noted(write: Write) -> None:
    rows = [[i, s, t, GOOD[s, t], FAR[s, t]] for i, (s, t) in enumerate(GOOD)]
    note = "column 1 has no name and is not used"
    assert any(note in line for line in run(write("t.csv", ",source,target,performance,far", rows), distances="far").notes)
    plain = run(wide(write), distances="far").notes
    words = run(write("t.csv", ",source,target,performance,far", [["x", *row[1:]] for row in rows]), distances="far").notes
    assert not any("has no name" in line for line in (*plain, *words))


@pytest.mark.parametrize("name", ["fold", "Seed", "run", "split"])
def test_a_column_called_fold_is_the_replicate(write: Write, name: str) -> None:
    rows = [[s, t, fold, GOOD[s, t] + 0.01 * fold, FAR[s, t]] for s, t in GOOD for fold in (1, 2)]
    found = run(write("t.csv", f"source,target,{name},performance,far", rows), distances="far")
    assert [method.method for method in found.methods] == ["far"]
    assert any(f"column '{name}' is read as the replicate" in line for line in found.notes)
    assert set(found.noise_ceiling) == set(TARGETS)
    in_long = [[s, t, fold, performance, "far", value] for s, t, fold, performance, value in rows]
    again = run(write("t.csv", f"source,target,{name},performance,method,value", in_long), distances="far")
    assert numbers(again) == numbers(found)


def test_a_fold_is_no_replicate_where_something_else_is_said(write: Write) -> None:
    rows = [[s, t, GOOD[s, t], FAR[s, t], i, 5] for i, (s, t) in enumerate(GOOD)]
    for columns in ("replicate,fold", "fold,seed"):
        found = run(write("t.csv", f"source,target,performance,far,{columns}", rows), distances="far")
        assert not any("is read as the replicate" in line for line in found.notes)
        assert [method.method for method in found.methods] == ["far"]
    named = run(write("t.csv", "source,target,performance,far,run,std", rows), methods=["far", "x=run"], distances=["far", "x"])
    assert [method.method for method in named.methods] == ["far", "x"]
    assert not any("is read as the replicate" in line for line in named.notes)


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(UsageError, match="a list is no table"):
        run([1, 2])
    with pytest.raises(UsageError, match="a TransferTable holds no scores"):
        run(TransferTable(({"source": "a", "target": "t", "fold": "1", "value": 0.5, "metric": "auc"},)))


# --- cells ----------------------------------------------------------------------------------------------------------------------------------


def test_all_bad_cells_are_reported_at_once(write: Write) -> None:
    with pytest.raises(DataError) as caught:
        run(wide(write, far_3="much", performance_5="0;9", source_6=""), distances="far")
    text = str(caught.value)
    assert "wide.csv:3 (column 'far'): 'much' is not a number" in text
    assert "wide.csv:5 (column 'performance'): '0;9' is not a number" in text
    assert "wide.csv:6 (column 'source'): the cell is empty" in text
    assert len(caught.value.problems) == 3


def test_empty_table_is_refused(write: Write) -> None:
    with pytest.raises(DataError, match="the table has a header and 0 rows"):
        run(write("t.csv", "source,target,performance,far", []))


def test_auc_outside_0_to_1_is_refused_where_the_metric_is_auc(write: Write) -> None:
    with pytest.raises(DataError, match=r"wide.csv:4 \(column 'performance'\): value 1.7 is outside 0..1"):
        run(wide(write, performance_4=1.7), distances="far", metric="auc")
    assert run(wide(write, performance_4=1.7), distances="far").metric == "performance"
    named = write("t.csv", "source,target,AUC,far", [[s, t, GOOD[s, t] + 1, FAR[s, t]] for s, t in GOOD])
    with pytest.raises(DataError, match=r"column 'AUC'\): value 1.5 is outside 0..1"):
        run(named, distances="far")
    assert run(named, distances="far", metric="relative gain").metric == "relative gain"


def test_percent_is_told_and_can_be_stated(write: Write) -> None:
    rows = [[s, t, 100 * GOOD[s, t], FAR[s, t]] for s, t in GOOD]
    table = write("t.csv", "source,target,auc,far", rows)
    with pytest.raises(DataError, match=r"t.csv:2 \(column 'auc'\): value 50.0 is outside 0..1\nfix: they look like percent: divide them by 100, or say what "
                       r"they are \(metric='auc in percent', --metric 'auc in percent'\)(.|\n)*and 5 more cells of this column \(lines 5, 6, 7, 8, 9\)"):
        run(table, distances="far")
    assert run(table, distances="far", metric="auc in percent").methods[0].mean_spearman == 1.0
    in_table = write("t.csv", "source,target,auc,far,metric", [[*row, "auc"] for row in rows])
    with pytest.raises(DataError, match=r"fix: they look like percent: divide them by 100, or say what they are \('auc in percent' in column 'metric'\)"):
        run(in_table, distances="far")
    for value in (1.7, 170, -0.5):  # one slip among shares, and numbers that are no percent
        with pytest.raises(DataError, match=rf"value {value} is outside 0..1\nfix: correct the value, or state another column"):
            run(wide(write, performance_4=value), distances="far", metric="auc")
    with pytest.raises(DataError, match=r"value 170.0 is outside 0..1\nfix: correct the value, or state another column"):
        run(write("t.csv", "source,target,auc,far", [[s, t, 170.0 if s == "a" else p, x] for s, t, p, x in rows]), distances="far")


def test_a_performance_of_which_lower_is_better_is_refused_and_an_unknown_one_is_noted(write: Write) -> None:
    refused = r"error\[SK211\] .*the performance is 'loss', which by its name is better when lower(.|\n)*fix: negate the numbers .*'minus loss'"
    named = write("t.csv", "source,target,loss,far", [[s, t, 1 - GOOD[s, t], FAR[s, t]] for s, t in GOOD])
    with pytest.raises(UsageError, match=refused):
        run(named, performance="loss", methods="far", distances="far")
    with pytest.raises(UsageError, match=refused):
        run(wide(write), distances="far", metric="loss")
    with pytest.raises(UsageError, match=refused):
        read_transfer(named, performance="loss")
    records = [{"source": s, "target": t, "fold": "1", "seed": 0, "value": v, "metric": "loss"} for (s, t), v in GOOD.items()]
    with pytest.raises(UsageError, match=refused):
        run(write("s.csv", "source,target,far", [[s, t, FAR[s, t]] for s, t in FAR]), performance=TransferTable(tuple(records)), distances="far")
    assert run(named, performance="loss", methods="far", distances="far", metric="minus loss").metric == "minus loss"
    assert "performance: no metric is stated (metric='auc', --metric auc): higher performance counts as better" in run(wide(write), distances="far").notes
    other = run(wide(write), distances="far", metric="dice").notes
    assert "performance: 'dice' is no metric that simkit knows: higher performance counts as better" in other
    known = run(wide(write), distances="far", metric="auc").notes
    assert not any("no metric" in line for line in known)


def test_duplicate_pairs_name_both_lines_or_are_averaged(write: Write) -> None:
    table = wide(write, source_3="a", target_3="t")
    with pytest.raises(DataError, match=r"error\[SK204\] .*wide.csv:3: the same source, target as in line 2: a, t"):
        run(table, distances="far")
    result = run(table, distances="far", aggregate="mean")
    assert any("1 row repeats the source, target of another row: averaged" in note for note in result.notes)
    point = result.methods[0].targets[0].points[0]
    assert point == pytest.approx(("a", (FAR["a", "t"] + FAR["a", "u"]) / 2, (GOOD["a", "t"] + GOOD["a", "u"]) / 2))


def test_many_duplicates_are_told_thrice_and_then_counted(write: Write) -> None:
    rows = [[s, t, m, FAR[s, t], GOOD[s, t]] for m in ("far", "near") for s, t in GOOD]
    for name, more in (("Measure", "; for a long table, call the column 'Measure' 'method' and that of its numbers 'value'"), ("comment", "")):
        with pytest.raises(DataError) as caught:
            run(write("t.csv", f"source,target,{name},distance,performance", rows), distances="distance")
        problems = caught.value.problems
        assert len(problems) == 4
        assert problems[3].message == "and 5 more rows (lines 13, 14, 15, 16, 17): the same source, target as in a row above"
        fix = "remove one of the two, tell them apart by a column 'replicate', or average them: aggregate='mean' (--aggregate mean)"
        assert {problem.fix for problem in problems} == {fix + more}


def test_duplicates_of_a_long_table_name_method_and_replicate(write: Write) -> None:
    rows = [[s, t, "far", FAR[s, t], GOOD[s, t], 1] for s, t in GOOD]
    with pytest.raises(DataError, match=r"long.csv:10: the same source, target, method, replicate as in line 2: a, t, far, 1"):
        run(long(write, [*rows, rows[0]], "source,target,method,value,performance,replicate"), distances="far")


def test_performance_that_differs_between_methods_is_refused(write: Write) -> None:
    rows = [[s, t, m, FAR[s, t], GOOD[s, t]] for m in ("far", "near") for s, t in GOOD]
    rows[8][-1] = 0.75
    with pytest.raises(DataError, match=r"long.csv:10 \(column 'performance'\): the performance of a -> t is 0.75, and 0.5 in line 2"):
        run(long(write, rows), distances=["far"], similarities=["near"])


def test_mixed_and_contradicting_metrics_are_refused(write: Write) -> None:
    rows = [[s, t, "far", FAR[s, t], GOOD[s, t], "auc"] for s, t in GOOD]
    columns = "source,target,method,value,performance,performance_metric"
    assert run(long(write, rows, columns), distances="far").metric == "auc"
    with pytest.raises(UsageError, match=r"'accuracy' is asked for, .* holds 'auc'"):
        run(long(write, rows, columns), distances="far", metric="accuracy")
    rows[4][-1] = "accuracy"
    with pytest.raises(DataError, match=r"long.csv:6 \(column 'performance_metric'\): the metric is 'accuracy', and 'auc' in line 2"):
        run(long(write, rows, columns), distances="far")


def test_areas_under_the_curve_of_targets_with_two_and_many_classes_go_together(write: Write) -> None:
    columns = "source,target,method,value,performance,performance_metric"
    rows = [[s, t, "far", FAR[s, t], GOOD[s, t], "auc" if t == "t" else "auc-ovr-weighted"] for s, t in GOOD]
    found = run(long(write, rows, columns), distances="far")
    assert found.metric == "auc, auc-ovr-weighted"
    assert any("the metric differs between targets (auc, auc-ovr-weighted), not within one" in note for note in found.notes)
    rows[1][-2] = 1.2
    with pytest.raises(DataError, match=r"value 1.2 is outside 0..1"):
        run(long(write, rows, columns), distances="far")
    rows[1][-2], rows[2][-1] = GOOD["a", "u"], "auc-ovr-macro"
    with pytest.raises(DataError, match=r"long.csv:4 \(column 'performance_metric'\): the metric is 'auc-ovr-macro', and 'auc' in line 2"):
        run(long(write, rows, columns), distances="far")
    rows = [[s, t, "far", FAR[s, t], GOOD[s, t], "auc" if t == "t" else "accuracy"] for s, t in GOOD]
    with pytest.raises(DataError, match=r"long.csv:3 \(column 'performance_metric'\): the metric is 'accuracy', and 'auc' in line 2"):
        run(long(write, rows, columns), distances="far")


def test_missing_cells_are_refused_or_counted(write: Write) -> None:
    table = wide(write, far_2="", performance_5="nan")
    with pytest.raises(DataError, match=r"wide.csv:2 \(column 'far'\): the cell is empty\nfix: .*allow_missing=True \(--allow-missing\)"):
        run(table, distances="far")
    result = run(table, distances="far", allow_missing=True)
    assert any("2 empty cells left out ('performance' in line 5; 'far' in line 2)" in note for note in result.notes)
    assert any("1 pair has no performance (b -> u)" in note for note in result.notes)
    assert {one.target: one.n for one in result.methods[0].targets} == {"t": 3, "u": 3}
    assert result.n_pairs == 7  # one of the two has a performance and no score: it counts for the regret
    assert any("far: has 6 of 7 pairs" in line for line in result.warnings)


def test_short_rows_are_read_where_missing_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("source,target,far,fold_1,fold_2\n" + "".join(f"{s},{t},{FAR[s, t]},{GOOD[s, t]},{GOOD[s, t]}\n" for s, t in GOOD) + "e,t,1,nan\n")
    with pytest.raises(DataError, match=r"t.csv:10: 4 fields, the header has 5"):
        run(path, distances="far")
    result = run(path, distances="far", allow_missing=True)
    assert result.n_pairs == 8
    assert any("1 row is cut short" in note for note in result.notes)


def test_too_few_sources_are_refused(write: Write) -> None:
    rows = [[s, t, 0.5, 1] for s in "ab" for t in "tu"]
    with pytest.raises(NotEnoughData, match=r"error\[SK501\] fewer than 3 sources in every target \(t 2, u 2\)"):
        run(write("t.csv", "source,target,performance,far", rows), distances="far")


# --- joining and self pairs -----------------------------------------------------------------------------------------------------------------


def test_pairs_without_partner_are_listed_both_ways_with_the_nearest_name(write: Write) -> None:
    scores = write("scores.csv", "source,target,far", [[{"a": "sti10"}.get(s, s), t, FAR[s, t]] for s, t in FAR])
    transfers = write("transfer.csv", "source,target,performance", [[{"a": "stl10"}.get(s, s), t, GOOD[s, t]] for s, t in GOOD])
    with pytest.raises(DataError) as caught:
        run(scores, performance=transfers, distances="far")
    one, two = (problem.message for problem in caught.value.problems)
    assert {problem.code for problem in caught.value.problems} == {"SK209"}
    assert "2 of 8 pairs have no performance" in one
    assert "sti10 -> t, sti10 -> u; sources that are not there: 'sti10' (did you mean 'stl10'?); 6 pairs match" in one
    assert "2 of 8 pairs have no score" in two
    assert "'stl10' (did you mean 'sti10'?)" in two
    allowed = run(scores, performance=transfers, distances="far", allow_missing=True)
    assert allowed.n_pairs == 6
    assert sum("left out" in note and "2 of 8 pairs" in note for note in allowed.notes) == 2
    joined = run(scores, performance=transfers, distances="far", alias=[("stl10", "sti10")])
    assert joined.n_pairs == 8
    assert any("'sti10' of" in note and "is taken for 'stl10'" in note for note in joined.notes)


def test_names_that_differ_only_in_spelling_are_one_short_message(write: Write) -> None:
    scores = write("scores.csv", "source,target,far", [[s, t, FAR[s, t]] for s, t in FAR])
    transfers = write("transfer.csv", "source,target,performance", [[s.upper(), t.upper(), GOOD[s, t]] for s, t in GOOD])
    for allow_missing in (False, True):
        with pytest.raises(DataError, match=r"error\[SK209\] .*scores.csv: 8 of 8 pairs have no performance in .*transfer.csv: 4 sources and 2 targets differ "
                           r"only by letter case \('a' here, 'A' there, ...\); 0 pairs match\nfix: spell the names alike in both tables, or give "
                           r"alias=\[\('a', 'A'\), ...\] \(--alias a=A ...\)\n") as caught:
            run(scores, performance=transfers, distances="far", allow_missing=allow_missing)
        assert len(caught.value.problems) == 1
    some = write("transfer.csv", "source,target,performance", [[{"a": "A", "b": "-b"}.get(s, s), t, GOOD[s, t]] for s, t in GOOD])
    with pytest.raises(DataError, match=r"4 of 8 pairs .*2 sources differ only by letter case or spaces, underscores or hyphens \('a' here, 'A' there, ...\)"):
        run(scores, performance=some, distances="far")
    one = write("transfer.csv", "source,target,performance", [["A" if s == "a" else s, t, GOOD[s, t]] for s, t in GOOD])
    allowed = run(scores, performance=one, distances="far", allow_missing=True)
    assert (allowed.n_pairs, sum("1 source differs only by letter case" in note and "left out" in note for note in allowed.notes)) == (6, 1)
    with pytest.raises(DataError, match=r"sources that are not there: 'a' \(did you mean 'A'\?\), 'd'"):
        run(scores, performance=write("transfer.csv", "source,target,performance", [["A" if s == "a" else s, t, GOOD[s, t]] for s, t in GOOD if s != "d"]),
            distances="far")


def test_pairs_that_a_method_does_not_score_are_named(write: Write) -> None:
    gaps = {"one": (("a", "t"),), "two": (("a", "t"),), "many": tuple(GOOD)[:6], "all": ()}
    rows = [[s, t, m, FAR[s, t], GOOD[s, t]] for m, lacking in gaps.items() for s, t in GOOD if (s, t) not in lacking]
    notes = [note for note in run(long(write, rows), distances=list(gaps)).notes if "no score for" in note]
    assert notes == ["one, two: no score for a -> t (1 pair)", "many: no score for a -> t, a -> u, b -> t, b -> u, c -> t, ... (6 pairs)"]
    assert not any("no score for" in note for note in run(long(write), distances="far").notes)


def test_tables_without_a_common_pair_are_refused_even_where_missing_is_allowed(write: Write) -> None:
    scores = write("scores.csv", "source,target,far", [["a", "t", 1]])
    transfers = write("transfer.csv", "source,target,performance", [["b", "u", 1]])
    with pytest.raises(DataError, match=r"error\[SK209\] .*no pair has both a score \(1 pair\) and a performance \(1 pair\)"):
        run(scores, performance=transfers, distances="far", allow_missing=True)


def test_scratch_has_no_similarity_and_needs_none(write: Write) -> None:
    scores = write("scores.csv", "source,target,far", [[s, t, FAR[s, t]] for s, t in FAR])
    transfers = write("transfer.csv", "source,target,performance", [*([s, t, GOOD[s, t]] for s, t in GOOD), ["scratch", "t", 0.1], ["scratch", "u", 0.2]])
    result = run(scores, performance=transfers, distances="far")
    assert "scratch" not in result.sources
    assert any("2 pairs of the baseline 'scratch' left out" in note for note in result.notes)


def test_scratch_is_no_source_even_where_it_is_scored(write: Write) -> None:
    extra = [["scratch", "t", 0.4, 0.0], ["scratch", "u", 0.5, 9.0]]
    table = write("t.csv", "source,target,performance,far", [*([s, t, GOOD[s, t], FAR[s, t]] for s, t in GOOD), *extra])
    found = run(table, distances="far")
    assert found.sources == SOURCES
    assert found.methods == run(wide(write), distances="far").methods
    note = "2 pairs of the baseline 'scratch' left out: it is no data set and has no similarity"
    assert note in found.notes
    gains = run(table, distances="far", baseline="scratch")
    assert (gains.sources, gains.methods[0].targets[0].points[0][2]) == (SOURCES, pytest.approx(25.0))
    scores = write("scores.csv", "source,target,far", [*([s, t, FAR[s, t]] for s, t in FAR), ["scratch", "t", 0.0]])
    two = run(scores, performance=write("transfer.csv", "source,target,performance", [[s, t, GOOD[s, t]] for s, t in GOOD]), distances="far")
    assert (two.sources, sum("1 pair of the baseline 'scratch' left out" in one for one in two.notes)) == (SOURCES, 1)


def test_self_pairs_are_left_out_and_shown_apart(write: Write) -> None:
    rows = [[s, t, GOOD[s, t], FAR[s, t]] for s, t in GOOD] + [["t", "t", 0.9, 0], ["u_small", "u", 0.95, 0.1]]
    table = write("t.csv", "source,target,performance,far", rows)
    plain = run(table, distances="far", alias=[("u", "u_small")])
    assert plain.n_pairs == 8
    assert plain.with_self is None
    assert any("2 self pairs left out: t, u_small -> u" in note for note in plain.notes)
    both = run(table, distances="far", alias=[("u", "u_small")], include_self=True, pooled=True)
    assert both.methods == plain.methods
    assert both.with_self is not None
    assert both.with_self.n_pairs == 10
    assert (both.pooled["far"].n, both.pooled["far"].includes_self) == (8, False)
    apart = both.with_self.pooled["far"]
    assert (apart.n, apart.includes_self) == (10, True)
    assert run(table, distances="far", alias=[("u", "u_small")], pooled=True).pooled["far"].n == 8
    assert run(table, distances="far").n_pairs == 9


def test_an_alias_of_nothing_is_warned_of(write: Write) -> None:
    result = run(wide(write), distances="far", alias=[("a", "target_t"), ("t", "aa")])
    assert any("alias: 'aa' is in no table" in line for line in result.warnings)


def test_two_names_of_one_data_set_that_both_stay_are_warned_of(write: Write) -> None:
    result = run(wide(write), distances="far", alias=[("a", "b")])
    assert result.n_sources == 4
    assert any("alias: 'a' and 'b' are the same data and stay as separate sources: that data set counts twice" in line for line in result.warnings)
    targets = run(wide(write), distances="far", alias=[("t", "u")])
    assert any("alias: 't' and 'u' are the same data and stay as separate targets" in line for line in targets.warnings)
    rows = [[s, t, GOOD[s, t], FAR[s, t]] for s, t in GOOD] + [["u_small", "u", 0.95, 0.1]]  # stands only in a self pair, which is left out
    once = run(write("t.csv", "source,target,performance,far", rows), distances="far", alias=[("u", "u_small")])
    assert not any("counts" in line for line in once.warnings)


def test_performance_is_averaged_over_the_replicates_that_all_sources_have(write: Write) -> None:
    """The worst source lacks the hard fold: over its own folds it would be the best."""
    hard = [0.90, 0.90, 0.91, 0.90, 0.50]
    rows = [[f"s{i}", t, f, "" if (i, t, f) == (0, "t", 4) else hard[f] + 0.005 * i, "m", i] for i in range(6) for t in "tu" for f in range(5)]
    table = write("r.csv", "source,target,replicate,performance,method,value", rows)
    result = run(table, similarities="m", allow_missing=True)
    t, u = result.methods[0].targets
    assert (result.methods[0].mean_spearman, result.methods[0].regret) == (1.0, 0.0)
    assert t.points[1] == ("s1", 1.0, pytest.approx(0.9025 + 0.005))
    assert u.points[1] == ("s1", 1.0, pytest.approx(0.822 + 0.005))
    said = [line for line in result.warnings if "replicates" in line]
    assert said == ["t: 1 of 6 sources do not have all 5 replicates (s0 lacks 1); performances are averaged over the 4 that all sources have"]
    rows = [[f"s{i}", t, f"{i}/{f}", 0.5 + 0.1 * i + 0.01 * f, "m", i] for i in range(4) for t in "tu" for f in range(2)]
    apart = run(write("r.csv", "source,target,replicate,performance,method,value", rows), similarities="m")
    assert apart.methods[0].targets[0].points[1] == ("s1", 1.0, pytest.approx(0.605))
    assert any("none is common to all sources: each performance is averaged over its own" in line for line in apart.warnings)


def test_methods_on_fewer_pairs_are_warned_of(write: Write) -> None:
    rows = [[s, t, "far", FAR[s, t], GOOD[s, t]] for s, t in GOOD] + [[s, "t", "near", -FAR[s, "t"], GOOD[s, "t"]] for s in SOURCES]
    result = run(long(write, rows), distances="far", similarities="near")
    assert any("near: has 4 of 8 pairs" in line for line in result.warnings)
    assert any("near: undefined in 1 of 2 targets (u: 0 sources with score and performance, 3 are needed)" in line for line in result.warnings)
