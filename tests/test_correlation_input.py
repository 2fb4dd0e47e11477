"""Bad input to correlate, one test for each kind, with its exit status; replicates, groups, noise, look-alike names, and gains over a baseline."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

from simkit.cli import entry
from simkit.correlation import Correlation, correlate, read_transfer
from simkit.correlation.gain import relative_gain
from simkit.correlation.joining import Joined, join, rectangle
from simkit.correlation.names import closest, similar_data_sets, similar_names
from simkit.correlation.reading import Reading, read
from simkit.correlation.recognition import Readable, as_raw, recognise
from simkit.errors import DataError, NotEnoughData, UsageError
from simkit.tables import ScoreTable

Write = Callable[..., Path]
SOURCES, TARGETS = ("a", "b", "c", "d"), ("t", "u")
GOOD = {(s, t): 0.5 + 0.1 * i + 0.01 * j * (-1) ** i for i, s in enumerate(SOURCES) for j, t in enumerate(TARGETS)}
FAR = {(s, t): 4.0 - i + (0.5 if (s, t) == ("b", "u") else 0) for i, s in enumerate(SOURCES) for t in TARGETS}
WIDE = "source,target,performance,far"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def file(columns: str, rows: Sequence[Sequence[Any]], *, name: str = "t.csv", end: str = "\n", head: str = "", by: str = ",", comma: bool = False) -> Path:
        lines = [columns.replace(",", by), *(by.join(repr(c).replace(".", ",") if comma and isinstance(c, float) else str(c) for c in row) for row in rows)]
        path = tmp_path / name
        path.write_bytes((head + end.join([*lines, ""])).encode())
        return path
    return file


def rows(**cells: Any) -> list[list[Any]]:
    """source, target, performance, far; single cells replaced by column and line number: rows(far_3="x")."""
    out: list[list[Any]] = [[s, t, GOOD[s, t], FAR[s, t]] for s, t in GOOD]
    for where, value in cells.items():
        column, line = where.rsplit("_", 1)
        out[int(line) - 2][WIDE.split(",").index(column)] = value
    return out


def run(table: Any, **options: Any) -> Correlation:
    return correlate(table, **{"distances": "far", "permutations": 99, "bootstraps": 0, **options})


def reading(
    table: Readable, *, role: Literal["scores", "transfers", "both"] = "both", allow_missing: bool = False, decimal: Any = ".", **options: Any,
) -> Reading:
    return read(recognise(as_raw(table, allow_missing=allow_missing), role=role, **options), allow_missing=allow_missing, decimal=decimal)


def alone(table: Readable, **options: Any) -> Joined:
    one = reading(table, **options)
    return join(one, one)


# --- how a table is written -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [",", ";", "\t", "|"])
@pytest.mark.parametrize("head", ["", "\ufeff"], ids=["plain", "byte-order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_separators_byte_order_mark_and_line_ends_are_recognised(write: Write, by: str, head: str, end: str) -> None:
    found = run(write(WIDE, rows(), by=by, head=head, end=end))
    assert any(f"8 rows, delimiter {by!r}" in note for note in found.notes)
    assert found.methods[0].targets == run(write(WIDE, rows())).methods[0].targets


def test_decimal_commas_are_refused_with_advice_once_a_column(write: Write) -> None:
    with pytest.raises(DataError) as caught:
        run(write(WIDE, rows(far_5="much"), by=";", comma=True))
    first, second, third = map(str, caught.value.problems)
    assert first.endswith("t.csv:2 (column 'performance'): '0,5' holds a comma (and 7 more cells of this column): numbers are read with a decimal point\n"
                          "fix: write 0.5, or state that this table has decimal commas: decimal=',' (--decimal ,)")
    assert "t.csv:2 (column 'far'): '4,0' holds a comma (and 6 more cells" in second
    assert "t.csv:5 (column 'far'): 'much' is not a number" in third


def test_a_single_decimal_comma_is_refused_in_every_kind_of_table(write: Write) -> None:
    for table in (
        write(WIDE, rows(far_4="1,5"), by=";"), write(WIDE, rows(far_4='"1,5"'), name="quoted.csv"),
        pd.DataFrame(rows(far_4="1,5"), columns=WIDE.split(",")),
    ):
        with pytest.raises(DataError, match=r"error\[SK203\] .*[: ][24] \(column 'far'\): '1,5' holds a comma: numbers are read with a decimal point"):
            run(table)


def test_a_column_of_decimal_commas_is_not_left_aside_as_one_of_words(write: Write) -> None:
    quoted = write(WIDE, [[s, t, GOOD[s, t], f'"{FAR[s, t]}"'.replace(".", ",")] for s, t in GOOD])
    with pytest.raises(DataError, match=r"column 'far'\): '4,0' holds a comma \(and 7 more cells"):
        run(quoted)


def test_decimal_commas_are_read_where_they_are_stated(write: Write) -> None:
    plain = reading(write(WIDE, rows()))
    for table in (write(WIDE, rows(), by=";", comma=True), write(WIDE, [[s, t, *(f'"{v}"'.replace(".", ",") for v in rest)] for s, t, *rest in rows()])):
        stated = reading(table, decimal=",")
        assert (stated.scores, stated.performance) == (plain.scores, plain.performance)
        assert any("numbers have a decimal comma (stated)" in note for note in stated.notes)
    points = reading(write(WIDE, rows()), decimal=",")  # the other table of a pair of two
    assert points.performance == plain.performance
    assert any("no number has a decimal comma: read with decimal points" in note for note in points.notes)


def test_correlate_reads_decimal_commas_of_one_or_two_tables(write: Write) -> None:
    expected = run(write(WIDE, rows())).methods
    assert run(write(WIDE, rows(), by=";", comma=True), decimal=",").methods == expected
    scores = write("source,target,far", [[s, t, FAR[s, t]] for s, t in FAR], name="scores.csv")
    transfer = write("source,target,performance", [row[:3] for row in rows()], name="transfer.csv", by=";", comma=True)
    assert run(scores, performance=transfer, decimal=",").methods == expected
    with pytest.raises(DataError, match=r"transfer.csv:2 \(column 'performance'\): '0,5' holds a comma"):
        run(scores, performance=transfer)
    assert read_transfer(transfer, decimal=",").records[0]["value"] == 0.5


def test_decimal_points_are_refused_beside_stated_decimal_commas(write: Write) -> None:
    with pytest.raises(DataError, match=r"t.csv:4 \(column 'far'\): '1.234' holds a point: decimal=',' states(.|\n)*write all numbers of a table in one way"):
        reading(write(WIDE, rows(far_4="1.234"), by=";", comma=True), decimal=",")
    with pytest.raises(DataError, match=r"column 'far'\): '1.234,5' is not a number"):
        reading(write(WIDE, rows(far_4="1.234,5"), by=";", comma=True), decimal=",")
    with pytest.raises(DataError, match=r"column 'performance'\): value 1.7 is outside 0..1"):
        read(recognise(as_raw(write(WIDE, rows(performance_2=1.7), by=";", comma=True))), metric="auc", decimal=",")
    with pytest.raises(UsageError, match="decimal: ';' is no decimal mark"):
        reading(write(WIDE, rows()), decimal=";")


# --- cells and rows -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["", "nan", "NaN", "NA", "n/a", "#N/A", "NULL"])
def test_empty_cells_and_nan_are_refused_or_counted(write: Write, cell: str) -> None:
    table = write(WIDE, rows(far_2=cell, far_5=cell, performance_7=cell))
    with pytest.raises(DataError, match=r"t.csv:7 \(column 'performance'\): .*(.|\n)*t.csv:2 \(column 'far'\)(.|\n)*t.csv:5 \(column 'far'\).*\n"
                       r"fix: give the number, or leave such cells out, which counts them: allow_missing=True \(--allow-missing\)"):
        run(table)
    found = run(table, allow_missing=True)
    assert any("3 empty cells left out ('performance' in line 7; 'far' in lines 2, 5)" in note for note in found.notes)
    assert [one.n for one in found.methods[0].targets] == [3, 2]


@pytest.mark.parametrize("cell", ["inf", "-inf", "1_0", "0x1"])
def test_what_is_no_finite_number_is_refused_even_where_missing_is_allowed(write: Write, cell: str) -> None:
    with pytest.raises(DataError, match=rf"t.csv:3 \(column 'far'\): '{cell}' is not a (finite )?number"):
        run(write(WIDE, rows(far_3=cell)), allow_missing=True)


def test_short_and_long_rows_are_never_shifted(write: Write) -> None:
    short = write(WIDE, [["a", "t", 0.5], *rows()[1:]])
    with pytest.raises(DataError, match=r"error\[SK202\] .*t.csv:2: 3 fields, the header has 4"):
        run(short)
    found = run(short, allow_missing=True)
    assert found.methods[0].targets[0].n == 3
    assert any("1 row is cut short and was read with empty cells at its end (line 2)" in note for note in found.notes)
    for allowed in (False, True):
        with pytest.raises(DataError, match=r"t.csv:9: 5 fields, the header has 4"):
            run(write(WIDE, [*rows()[:-1], [*rows()[-1], "more"]]), allow_missing=allowed)


def test_a_performance_that_differs_within_pair_and_replicate_names_both_lines(write: Write) -> None:
    table = [[s, t, m, FAR[s, t], GOOD[s, t] + 0.01 * fold, fold] for m in ("far", "near") for s, t in GOOD for fold in (1, 2)]
    table[19][4] = 0.9
    message = r"error\[SK203\] .*t.csv:21 \(column 'performance'\): the performance of a -> u, replicate 2 is 0.9, and 0.53 in line 5"
    with pytest.raises(DataError, match=message):
        run(write("source,target,method,value,performance,replicate", table), similarities="near")


def test_a_repeated_fold_of_a_wide_table_names_both_lines(write: Write) -> None:
    table = [[s, t, 0.5, 0.6, FAR[s, t]] for s, t in GOOD]
    with pytest.raises(DataError, match=r"error\[SK204\] .*t.csv:10: the same source, target as in line 3: a, u"):
        run(write("source,target,fold_1,fold_2,far", [*table, table[1]]))


def test_a_score_that_is_constant_in_one_target_is_undefined_there(write: Write) -> None:
    found = run(write(WIDE, [[s, t, GOOD[s, t], 1.0 if t == "u" else FAR[s, t]] for s, t in GOOD]))
    t, u = found.methods[0].targets
    assert (t.undefined, u.undefined) == ("", "the score is constant (4 sources)")
    assert any("far: undefined in 1 of 2 targets (u: the score is constant (4 sources))" in line for line in found.warnings)


def test_fewer_than_three_sources_in_one_target_leave_that_target_undefined(write: Write) -> None:
    found = run(write(WIDE, [*rows(), ["e", "v", 0.5, 1.0], ["f", "v", 0.6, 2.0]]))
    assert any("v: 2 sources with score and performance, 3 are needed" in line for line in found.warnings)
    with pytest.raises(NotEnoughData, match=r"fewer than 3 sources in every target \(t 2, u 2\)"):
        run(write(WIDE, rows()[:4]))


BAD: list[tuple[str, str, list[list[Any]], tuple[str, ...], int, str]] = [
    ("decimal commas", WIDE, rows(far_2='"4,0"'), (), 3, "t.csv:2 (column 'far'): '4,0' holds a comma"),
    ("empty cell", WIDE, rows(far_2=""), (), 3, "t.csv:2 (column 'far'): the cell is empty"),
    ("NaN", WIDE, rows(performance_3="nan"), (), 3, "t.csv:3 (column 'performance'): 'nan' is not a finite number"),
    ("word", WIDE, rows(far_2="x"), ("--allow-missing",), 3, "t.csv:2 (column 'far'): 'x' is not a number"),
    ("short row", WIDE, [["a", "t", 1], *rows()], (), 3, "t.csv:2: 3 fields, the header has 4"),
    ("long row", WIDE, [["a", "t", 1, 2, 3], *rows()], (), 3, "t.csv:2: 5 fields, the header has 4"),
    ("duplicate key", WIDE, [*rows(), *rows()[:1]], (), 3, "t.csv:10: the same source, target as in line 2: a, t"),
    ("AUC outside 0..1", WIDE, rows(performance_4=1.7), ("--metric", "auc"), 3, "t.csv:4 (column 'performance'): value 1.7 is outside 0..1"),
    ("header only", WIDE, [], (), 3, "the table has a header and 0 rows"),
    ("no column", "source,target,performance", [r[:3] for r in rows()], (), 2, "no column is recognised as a method"),
    ("no target", "source,targets,performance,far", rows(), (), 3, "column 'target' is missing (did you mean 'targets'?)"),
    ("mixed metrics", f"{WIDE},performance_metric", [[*r, "auc" if i else "accuracy"] for i, r in enumerate(rows())], (), 3,
     "t.csv:3 (column 'performance_metric'): the metric is 'auc', and 'accuracy' in line 2"),
    ("performance differs", "source,target,method,value,performance", [[s, t, m, x, y if m == "far" else 0.1] for m in ("far", "n") for s, t, y, x in rows()],
     ("--distance", "n"), 3, "the performance of a -> t is 0.1, and 0.5 in line 2"),
    ("unnamed source", WIDE, rows(source_2=" "), (), 3, "t.csv:2 (column 'source'): the cell is empty"),
    ("two sources", WIDE, rows()[:4], (), 7, "fewer than 3 sources in every target (t 2, u 2)"),
]


@pytest.mark.parametrize(("columns", "table", "options", "status", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_the_command_line_refuses_bad_tables_with_their_status(
    write: Write, capsys: pytest.CaptureFixture[str], columns: str, table: list[list[Any]], options: tuple[str, ...], status: int, message: str,
) -> None:
    assert entry(["correlate", str(write(columns, table)), "--distance", "far", *options]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "\nfix: " in err
    assert "Traceback" not in err


def test_the_command_line_asks_for_an_unknown_direction(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry(["correlate", str(write(WIDE, rows()))]) == 2
    assert "error[SK211]" in (err := capsys.readouterr().err)
    assert "similarities=['far'] (--similarity far) if higher values do" in err


def test_the_command_line_reads_what_is_only_written_otherwise(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--distance", "far", "--permutations", "99", "--bootstraps", "100")
    for by in (";", "\t", "|"):
        assert entry(["correlate", str(write(WIDE, rows(), by=by, head="\ufeff", end="\r\n")), *options]) == 0
    assert entry(["correlate", str(write(WIDE, rows(far_2="", performance_6="NaN"))), *options, "--allow-missing"]) == 0
    assert "2 empty cells left out" in "".join(capsys.readouterr())


# --- names that are almost the same ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "two", "how"), [
    ("ISIC", "isic", "letter case"), ("ham 10k", "ham10k", "spaces, underscores or hyphens"), ("pcam-small", "pcam_small", "spaces, underscores or hyphens"),
    ("PCam-small", "pcam small", "letter case and spaces, underscores or hyphens"), ("STRASSE", "straße", "letter case"),
])
def test_sources_that_differ_only_in_spelling_are_warned_of_with_both(write: Write, one: str, two: str, how: str) -> None:
    names = {"a": one, "b": two}
    found = run(write(WIDE, [[names.get(s, s), t, *rest] for s, t, *rest in rows()]))
    first, second = sorted((one, two))
    warning = (f"'{first}' and '{second}' are taken for two sources, and differ only by {how}; if they are one, correct the table, "
               f"or give alias=[('{first}', '{second}')] (--alias {first}={second})")
    assert [line for line in found.warnings if "differ only" in line] == [warning]


def test_unicode_forms_are_written_out_because_they_look_alike(write: Write) -> None:
    names = {"a": "caf\u00e9", "b": "cafe\u0301"}
    found = run(write(WIDE, [[names.get(s, s), t, *rest] for s, t, *rest in rows()]))
    assert [line for line in found.warnings if r"'cafe\u0301' and 'caf\xe9' are taken for two sources, and differ only by Unicode form" in line]


def test_a_source_and_a_target_that_differ_only_in_spelling_hide_a_self_pair(write: Write) -> None:
    table = [[{"a": "T"}.get(s, s), t, *rest] for s, t, *rest in rows()]
    (warning,) = [line for line in run(write(WIDE, table)).warnings if "differ only" in line]
    assert warning.startswith("'T' and 't' are taken for two data sets, a source and a target, and differ only by letter case; "
                              "the pair of the two would be a self pair, and counts as any other")
    assert not [line for line in run(write(WIDE, table), alias=[("T", "t")]).warnings if "differ only" in line]


def test_targets_and_methods_that_differ_only_in_spelling_are_warned_of(write: Write) -> None:
    table = [[s, {"u": "T"}.get(t, t), *rest, rest[-1] + 1] for s, t, *rest in rows()]
    found = run(write(f"{WIDE},Far", table), distances=["far", "Far"])
    assert [line.split(",")[0] for line in found.warnings if "differ only" in line] == [
        "'Far' and 'far' are taken for two methods", "'T' and 't' are taken for two targets"]


def test_names_are_compared_over_two_tables_and_each_pair_is_named_once(write: Write) -> None:
    scores = write("source,target,far", [[s, t, FAR[s, t]] for s, t in FAR], name="scores.csv")
    other = write("source,target,performance", [[{"a": "A"}.get(s, s), t, GOOD[s, t]] for s, t in GOOD], name="transfer.csv")
    with pytest.raises(DataError, match=r"1 source differs only by letter case \('a' here, 'A' there\); 6 pairs match"):
        run(scores, performance=other)
    found = run(scores, performance=other, allow_missing=True)
    assert [line.split(",")[0] for line in found.warnings if "differ only" in line] == ["'A' and 'a' are taken for two sources"]
    named = run(scores, performance=other, alias=[("a", "A")])
    assert named.n_pairs == 8
    assert not [line for line in named.warnings if "differ only" in line]
    both = [["A", t, value] for (s, t), value in GOOD.items() if s == "a"] + [[s, t, value] for (s, t), value in GOOD.items()]
    found = run(write("source,target,far", both, name="far.csv"), performance=write("source,target,performance", both, name="good.csv"))
    assert len([line for line in found.warnings if "differ only" in line]) == 1


def test_names_that_differ_by_more_are_left_alone() -> None:
    assert similar_data_sets([("part 1 1", "part 11"), ("busi", "busis"), ("a", "a"), ("x-1", "x-2")]) == []
    assert similar_names(["otdd", "otdd 2"], "methods") == []
    assert len(similar_data_sets([("a b", "t"), ("A-b", "t"), ("ab", "t")])) == 3
    assert closest("ISIC", ["isic", "busi"]) == " (did you mean 'isic'?)"
    assert closest("sti10", ["stl10", "busi"]) == " (did you mean 'stl10'?)"
    assert closest("isic", ["brain"]) == ""


# --- replicates, sizes, groups, noise -------------------------------------------------------------------------------------------------------


def test_the_columns_of_a_method_are_its_replicates_and_scores_stay_their_mean(write: Write) -> None:
    table = write("source,target,performance,d_1,d_2,far", [[s, t, GOOD[s, t], FAR[s, t] - 1, FAR[s, t] + 1, FAR[s, t]] for s, t in GOOD])
    found = reading(table, methods=["two=d_*", "far"])
    assert found.scores["two"] == found.scores["far"] == FAR
    assert found.score_replicates == {"two": {pair: {"d_1": value - 1, "d_2": value + 1} for pair, value in FAR.items()}}
    joined = join(found, found)
    layers = rectangle(joined, include_self=False).score_replicates
    assert list(layers) == ["two"]
    assert layers["two"].shape == (2, 4, 2)
    assert layers["two"][1, 1, 1] == FAR["b", "u"] + 1


def test_value_replicates_of_a_long_table_are_averaged_over_replicates_of_the_performance(write: Write) -> None:
    table = [[s, t, "far", FAR[s, t] + shift, GOOD[s, t] + 0.01 * fold, fold, v] for s, t in GOOD for fold in (1, 2) for v, shift in (("x", -1), ("y", 1))]
    table[0][3] += 1  # replicate 1 of a -> t, subset x
    found = reading(write("source,target,method,value,performance,replicate,value_replicate", table))
    assert found.score_replicates["far"]["a", "t"] == {"x": FAR["a", "t"] - 0.5, "y": FAR["a", "t"] + 1}
    assert found.score_replicates["far"]["b", "u"] == {"x": FAR["b", "u"] - 1, "y": FAR["b", "u"] + 1}
    assert found.scores["far"]["a", "t"] == FAR["a", "t"] + 0.25


def test_replicates_of_the_performance_are_replicates_of_a_score_only_where_it_differs(write: Write) -> None:
    columns = "source,target,method,value,performance,replicate"
    table = [[s, t, m, FAR[s, t] + (fold if m == "own" else 0), GOOD[s, t] + 0.01 * fold, fold] for m in ("far", "own") for s, t in GOOD for fold in (1, 2)]
    found = reading(write(columns, table))
    assert list(found.score_replicates) == ["own"]
    assert found.score_replicates["own"]["a", "t"] == {"1": FAR["a", "t"] + 1, "2": FAR["a", "t"] + 2}
    assert reading(write(WIDE, rows())).score_replicates == {}


def test_a_replicate_that_some_pairs_lack_is_nan_in_the_rectangle(write: Write) -> None:
    table = [[s, t, GOOD[s, t], FAR[s, t], "" if s == "a" else FAR[s, t] + 1] for s, t in GOOD]
    found = reading(write("source,target,performance,d_1,d_2", table), methods=["two=d_*"], allow_missing=True)
    layers = rectangle(join(found, found), include_self=False).score_replicates["two"]
    assert np.isnan(layers[1, 0]).all()
    assert np.isfinite(layers[0]).all()
    assert np.isfinite(layers[1, 1:]).all()


def test_n_source_gives_the_size_where_rows_agree_and_source_size_is_absent(write: Write) -> None:
    columns = "source,target,method,value,performance,n_source"
    table = [[s, t, m, FAR[s, t], GOOD[s, t], 100 * i + (50 if m == "near" and s == "d" else 0)]
             for m in ("far", "near") for i, s in enumerate(SOURCES, 1) for t in TARGETS]
    found = reading(write(columns, table))
    assert found.source_size == {"a": 100, "b": 200, "c": 300}
    assert any("the size of a source is taken from column 'n_source'" in note for note in found.notes)
    assert any("no size is known for 1 source, whose rows differ in column 'n_source' (d)" in note for note in found.notes)
    assert not any("not used" in note for note in found.notes)
    stated = reading(write(f"{columns},source_size", [[*row, 7] for row in table]))
    assert stated.source_size == dict.fromkeys(SOURCES, 7.0)
    assert any("not used: n_source" in note for note in stated.notes)
    wide = reading(write(f"{WIDE},n_source", [[*row, 7] for row in rows()]))
    assert wide.source_size == {}


def test_a_score_table_of_simkit_brings_the_sizes(write: Write) -> None:
    said = {"method": "far", "higher_is_better": False}
    records = [{"source": s, "target": t, **said, "value": v, "n_source": None if s == "d" else 10} for (s, t), v in FAR.items()]
    found = reading(ScoreTable(tuple(records)), role="scores")
    assert found.source_size == dict.fromkeys("abc", 10.0)
    transfers = reading(write("source,target,performance", [row[:3] for row in rows()]), role="transfers")
    assert join(found, transfers).source_size == dict.fromkeys("abc", 10.0)


def test_groups_of_sources_are_carried_on_and_must_agree(write: Write) -> None:
    group = {"a": "medical", "b": "medical", "c": "natural", "d": ""}
    table = write(f"{WIDE},source_group", [[*row, group[row[0]]] for row in rows()])
    expected = {"a": "medical", "b": "medical", "c": "natural"}
    assert reading(table).source_group == expected
    assert alone(table).source_group == expected
    assert not any("not used" in note for note in reading(table).notes)
    with pytest.raises(DataError, match=r"error\[SK203\] .*t.csv:3 \(column 'source_group'\): source 'a' is in group 'x1', and in 'x0' in line 2"):
        run(write(f"{WIDE},source_group", [[*row, f"x{i}"] for i, row in enumerate(rows())]))
    alike = run(write(f"{WIDE},source_group", [[*row, "Medical" if row[0] == "a" else "medical"] for row in rows()]))
    assert any("'Medical' and 'medical' are taken for two groups of sources, and differ only by letter case" in line for line in alike.warnings)


def test_groups_of_two_tables_join_and_must_agree(write: Write) -> None:
    scores = reading(write("source,target,far,source_group", [[s, t, v, "x"] for (s, t), v in FAR.items()], name="scores.csv"), role="scores")
    transfers = write("source,target,performance,source_group", [[{"a": "A"}.get(s, s), t, v, "" if s == "b" else "x"] for (s, t), v in GOOD.items()])
    joined = join(scores, reading(transfers, role="transfers"), alias=[("a", "A")])
    assert joined.source_group == dict.fromkeys(("A", "b", "c", "d"), "x")
    other = reading(write("source,target,performance,source_group", [[s, t, v, "y" if s == "b" else "x"] for (s, t), v in GOOD.items()]), role="transfers")
    with pytest.raises(DataError, match=r"error\[SK203\] .*t.csv: source 'b' is in group 'y', and in 'x' in .*scores.csv"):
        join(scores, other)


def test_the_noise_of_a_performance_is_carried_on_and_must_agree(write: Write) -> None:
    columns = "source,target,method,value,performance,performance_sd"
    table = [[s, t, m, FAR[s, t], GOOD[s, t], "" if s == "d" else 0.02] for m in ("far", "near") for s, t in GOOD]
    joined = alone(write(columns, table))
    assert joined.performance_sd == {pair: 0.02 for pair in GOOD if pair[0] != "d"}
    noise = rectangle(joined, include_self=False).performance_sd
    assert noise is not None
    assert np.array_equal(noise, [[0.02] * 2] * 3 + [[math.nan] * 2], equal_nan=True)
    assert any("'performance_sd' is empty for 2 of 8 pairs: the noise of these is not known" in note for note in reading(write(columns, table)).notes)
    assert rectangle(alone(write(WIDE, rows())), include_self=False).performance_sd is None
    table[9][-1] = 0.03
    with pytest.raises(DataError, match=r"t.csv:11 \(column 'performance_sd'\): the standard deviation of a -> u is 0.03, and 0.02 in line 3"):
        run(write(columns, table), similarities="near")
    table[9][-1] = -0.02
    with pytest.raises(DataError, match=r"column 'performance_sd'\): value -0.02 is outside 0..inf"):
        run(write(columns, table), similarities="near")


def test_noise_beside_replicates_is_refused_because_they_show_it(write: Write) -> None:
    message = r"error\[SK202\] .*column 'performance_sd' stands beside replicates of the performance \(a -> t has 2\)\nfix: leave the column out"
    long = [[s, t, "far", FAR[s, t], GOOD[s, t] + 0.01 * fold, fold, 0.1] for s, t in GOOD for fold in (1, 2)]
    with pytest.raises(DataError, match=message):
        run(write("source,target,method,value,performance,replicate,performance_sd", long))
    wide = [[s, t, 0.5, 0.6, 0.1, FAR[s, t]] for s, t in GOOD]
    with pytest.raises(DataError, match=message):
        run(write("source,target,performance_1,performance_2,performance_sd,far", wide), performance="performance_*")


# --- gains over a baseline ------------------------------------------------------------------------------------------------------------------


TRANSFER = "source,target,replicate,performance,metric"


def transfers(write: Write, table: Sequence[Sequence[Any]], columns: str = TRANSFER, **options: Any) -> Reading:
    return reading(write(columns, table), role="transfers", **options)


@pytest.mark.shared
def test_gains_over_self_are_the_scores_of_the_seed_study(shared: Path) -> None:
    path = shared / "reference" / "cats-scans" / "aucs_scores_distances_experts.csv"
    gains = relative_gain(reading(path, role="transfers", performance="fold_*"), "self")
    assert gains.metric == "relative gain of fold_* over self, %"
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            said = gains.performance[row["source"], row["target"]]
            assert [said[f"fold_{f}"] for f in range(1, 6)] == pytest.approx([float(row[f"score_{f}"]) for f in range(1, 6)], abs=1e-9)
    assert len(gains.performance) > 20


def test_gains_compare_replicate_by_replicate_and_count_what_is_left_out(write: Write) -> None:
    table = [["t", "t", 1, 0.5, "auc"], ["t", "t", 2, 0.8, "auc"], ["a", "t", 1, 0.6, "auc"], ["a", "t", 2, 0.6, "auc"], ["a", "t", 3, 0.9, "auc"]]
    gains = relative_gain(transfers(write, table), "self")
    assert gains.metric == "relative gain of auc over self, %"
    assert gains.performance["a", "t"] == {"1": pytest.approx(20.0), "2": pytest.approx(-25.0)}
    assert gains.performance["t", "t"] == {"1": 0.0, "2": 0.0}
    assert any("1 replicate of 1 pair left out, which the baseline lacks (a -> t 1)" in note for note in gains.notes)
    assert any("the noise of the baseline's run goes into all pairs of that target" in note for note in gains.notes)


def test_single_values_are_compared_under_different_labels(write: Write) -> None:
    table = [["scratch", "t", "r", 0.5, "auc"], ["a", "t", "s", 0.6, "auc"]]
    gains = relative_gain(transfers(write, table), "scratch")
    assert gains.performance == {("a", "t"): {"s": pytest.approx(20.0)}, ("scratch", "t"): {"r": 0.0}}
    assert any("1 pair has one value under another label than the one value of its baseline; compared with it (a -> t)" in note for note in gains.notes)
    with pytest.raises(DataError, match=r"error\[SK209\] .*a -> t has no replicate in common with its baseline scratch -> t \(s, u; the baseline has r\)"):
        relative_gain(transfers(write, [*table, ["a", "t", "u", 0.7, "auc"]]), "scratch")


def test_the_baseline_may_have_another_name_for_the_same_data(write: Write) -> None:
    table = [["t_small", "t", 1, 0.5, "auc"], ["a", "t", 1, 0.6, "auc"]]
    with pytest.raises(DataError, match=r"1 of 1 target has no row whose source is the target itself, the baseline: 't'"):
        relative_gain(transfers(write, table), "self")
    assert relative_gain(transfers(write, table), "self", alias=[("t", "t_small")]).performance["a", "t"]["1"] == pytest.approx(20)
    exact = [*table, ["t", "t", 1, 0.6, "auc"]]
    assert relative_gain(transfers(write, exact), "self", alias=[("t", "t_small")]).performance["a", "t"]["1"] == 0.0
    two = [*table, ["t_large", "t", 1, 0.6, "auc"]]
    with pytest.raises(DataError, match=r"target 't' has 2 rows of the same data \('t_large' and 't_small'\), any of which may be the baseline"):
        relative_gain(transfers(write, two), "self", alias=[("t", "t_small"), ("t", "t_large")])


def test_targets_without_a_baseline_are_listed_with_the_remedy(write: Write) -> None:
    table = [[s, t, 1, GOOD[s, t], "auc"] for s, t in GOOD] + [["Scratch", "t", 1, 0.5, "auc"], ["t", "t", 1, "", "auc"]]
    found = transfers(write, table, allow_missing=True)
    message = (r"error\[SK209\] .*2 of 2 targets have no row whose source is the target itself, the baseline: 't' \(its performance is empty\), 'u'"
               r"\nfix: add .* source = target, name the same data by alias \(--alias A=B\), or take another baseline \(--baseline scratch or none\)")
    with pytest.raises(DataError, match=message):
        relative_gain(found, "self")
    with pytest.raises(DataError, match=r"2 of 2 targets have no row with source 'scratch' \(did you mean 'Scratch'\?\), the baseline: 't', 'u'\nfix: add "):
        relative_gain(found, "scratch")
    with pytest.raises(UsageError, match="baseline: 'none' is no baseline"):
        relative_gain(found, "none")  # type: ignore[arg-type]


def test_a_baseline_that_is_not_positive_is_refused(write: Write) -> None:
    for value in (0, -0.5):
        table = [["t", "t", 1, value, "r2"], ["a", "t", 1, 0.6, "r2"]]
        with pytest.raises(DataError, match=rf"error\[SK203\] .*the baseline t -> t, replicate 1 has the performance {value}: no gain relative to it"):
            relative_gain(transfers(write, table), "self")


def test_the_noise_is_in_percent_of_the_baseline_too(write: Write) -> None:
    table = [["t", "t", 0.5, 0.1], ["a", "t", 0.6, 0.05]]
    gains = relative_gain(transfers(write, table, "source,target,performance,performance_sd"), "self")
    assert gains.performance_sd == {("a", "t"): pytest.approx(10.0)}


def test_gains_of_one_table_keep_its_scores_and_self_pairs_are_set_apart(write: Write) -> None:
    table = [*rows(), ["t", "t", 0.5, 0.0], ["u", "u", 0.4, 0.0]]
    found = relative_gain(reading(write(WIDE, table)), "self")
    joined = join(found, found)
    assert joined.self_pairs == {("t", "t"), ("u", "u")}
    plain = rectangle(joined, include_self=False)
    assert plain.n_pairs == 8
    assert plain.performance[:, 0] == pytest.approx([100 * (GOOD[s, "t"] - 0.5) / 0.5 for s in SOURCES])
    assert rectangle(joined, include_self=True).n_pairs == 10


@pytest.mark.parametrize("baseline", ["self", "scratch"])
def test_correlate_holds_scores_against_gains_over_a_baseline(write: Write, baseline: Literal["self", "scratch"]) -> None:
    scores = write("source,target,far", [[s, t, FAR[s, t]] for s, t in FAR], name="scores.csv")
    extra = [[s, t, 0.5] for t in TARGETS for s in (t, "scratch")]
    transfer = write("source,target,auc", [*(row[:3] for row in rows()), *extra], name="transfer.csv")
    found = run(scores, performance=transfer, baseline=baseline)
    assert found.metric == f"relative gain of auc over {baseline}, %"
    assert found.n_pairs == 8
    assert found.methods[0].targets[0].points[1] == ("b", FAR["b", "t"], pytest.approx(100 * (GOOD["b", "t"] - 0.5) / 0.5))
    assert found.methods[0].mean_spearman == run(write(WIDE, rows())).methods[0].mean_spearman


def test_the_command_line_lists_targets_without_a_baseline(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry(["correlate", str(write(WIDE, rows())), "--distance", "far", "--baseline", "scratch"]) == 3
    assert "error[SK209] " in (err := capsys.readouterr().err)
    assert "2 of 2 targets have no row with source 'scratch', the baseline: 't', 'u'" in err
    assert "(--baseline self or none)" in err


def test_numbers_whose_squares_overflow_are_refused(write: Write) -> None:
    table = rows()
    table[1][2] = 1e200
    with pytest.raises(DataError, match=r"value 1e\+200 is too large: its square overflows"):
        run(write(WIDE, table))
