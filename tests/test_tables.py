"""Tables are read as they stand: nothing shifted, converted or dropped without being said."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from simkit.errors import DataError
from simkit.tables import RawTable, ScoreTable, TransferTable, csv_text, read_table


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(("text", "delimiter"), [
    ("source,auc\na,0.5\nb,1\n", ","), ("source;auc\na;0,5\nb;1\n", ";"), ("source\tauc\r\na\t0.5\r\nb\t1\r\n", "\t"),
    ("source|auc\na|0.5\n\nb|1", "|"), ("\ufeffsource;auc\r\na;0,5\r\nb;1\r\n", ";"),
])
def test_delimiters_byte_order_mark_line_ends_and_decimal_comma_are_read(tmp_path: Path, text: str, delimiter: str) -> None:
    table = read_table(write(tmp_path, text))
    assert (table.columns, table.delimiter) == (("source", "auc"), delimiter)
    assert table.column("source") == ("a", "b")
    assert table.numbers("auc") == [0.5, 1.0]


def test_lines_are_those_of_the_file_and_cells_stay_text(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "id,v\n001,NA\n\nnull,None\n"))
    assert table.column("id") == ("001", "null")
    assert table.lines == (2, 4)
    assert table.where(1, "v") == f"{tmp_path / 't.csv'}:4 (column 'v')"


def test_unnamed_index_column_is_a_column_without_name(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, ",source\n0,a\n")).columns == ("", "source")


def test_rows_with_more_or_fewer_fields_are_refused_with_their_lines(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t.csv:3: 1 field, the header has 2(.|\n)*t.csv:4: 3 fields, the header has 2"):
        read_table(write(tmp_path, "a,b\n1,2\n3\n4,5,6\n"))


def test_short_rows_can_be_read_as_empty_cells_and_are_listed(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "a,b,c\n1,2,3\n4\n5,6\n"), short_rows="empty")
    assert table.rows == (("1", "2", "3"), ("4", "", ""), ("5", "6", ""))
    assert table.short == (3, 4)
    with pytest.raises(DataError, match=r"t.csv:2: 3 fields, the header has 2\nfix: remove the extra field"):
        read_table(write(tmp_path, "a,b\n1,2,3\n"), short_rows="empty")


@pytest.mark.parametrize(("text", "match"), [
    ("", "the table is empty"), ("a,b\n", "a header and 0 rows"), ("a,b,a\n1,2,3\n", "column 'a' appears 2 times"),
    (b"\x00\x01\x02", "is not text"),
    ("a,b\nä,1\n".encode("latin-1"), r"t.csv:2: is not UTF-8 \(byte 0xe4\)\nfix: save the file as UTF-8 \(Excel: 'CSV UTF-8'\)"),
    ('a,b\n"x,1\n', "cannot be parsed"),
])
def test_what_is_no_table_is_refused(tmp_path: Path, text: str | bytes, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_table(write(tmp_path, text))


@pytest.mark.parametrize(("text", "match"), [
    ("Results\na,b,c\n1,2,3\n4,5,6\n", "line 1 has 1 field and all rows have 3: it is no header\nfix: delete the lines above the header"),
    ("Results\na,b,c\n", "line 1 has 1 field and all rows have 3: it is no header"),
    ("Results, mine\n\na,b,c,d\n1,2,3,4\n5,6,7,8,9\n", "line 1 has 2 fields and all rows have 4 to 5: it is no header"),
    ("Results\nof May\na;b;c\n1;2;3\n", "lines 1 to 2 have 1 field each and all rows have 3: they are no header\nfix: delete the lines above the header"),
    ("a,b\nx,1,2\ny,3,4\n", r"line 1 has 2 fields and all rows have 3: a name is missing, or it is no header\nfix: name every column \(R leaves out"),
])
def test_titles_above_the_header_are_one_problem(tmp_path: Path, text: str, match: str) -> None:
    for short_rows in ("error", "empty"):
        with pytest.raises(DataError, match=rf"error\[SK202\] .*t.csv: {match}") as caught:
            read_table(write(tmp_path, text), short_rows=short_rows)  # type: ignore[arg-type]
        assert len(caught.value.problems) == 1


def test_a_single_column_and_its_cells_are_no_titles(tmp_path: Path) -> None:
    assert read_table(write(tmp_path, "a\nx;y\nz;w\n")).rows == (("x;y",), ("z;w",))
    with pytest.raises(DataError, match=r"t.csv:3: 2 fields, the header has 1"):
        read_table(write(tmp_path, "a\nx\ny,z\n"))


def test_a_fault_of_many_cells_is_told_thrice_and_then_counted(tmp_path: Path) -> None:
    cells = [*("few" for _ in range(4)), *("1.5" for _ in range(3)), *("" for _ in range(16)), "inf"]
    with pytest.raises(DataError) as caught:
        read_table(write(tmp_path, "id,auc\n" + "".join(f"x,{cell}\n" for cell in cells))).numbers("auc", high=1)
    said = [str(problem).split("t.csv", 1)[1] for problem in caught.value.problems]
    assert len(said) == 12
    assert said[0] == ":2 (column 'auc'): 'few' is not a number\nfix: write a finite number with a decimal point"
    assert sum("value 1.5 is outside" in one for one in said) == 3
    assert said[9].startswith(":25 (column 'auc'): 'inf' is not a finite number")
    assert said[10].startswith(" (column 'auc'): and 1 more cell of this column (line 5): not a number\nfix: write")
    assert said[11].startswith(" (column 'auc'): and 13 more cells of this column (lines 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, ...): no value\nfix: give")


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.csv: does not exist"):
        read_table(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="is not a file"):
        read_table(tmp_path)


@pytest.mark.parametrize(("cell", "match"), [
    ("good", "'good' is not a number"), ("1_0", "'1_0' is not a number"), ("inf", "'inf' is not a finite number"), ("1.7", r"value 1.7 is outside 0..1"),
    ("", "the cell is empty\nfix: give the number; or"), ("nan", "'nan' is not a finite number\nfix: give the number; or"),
])
def test_cells_that_are_no_numbers_are_named(tmp_path: Path, cell: str, match: str) -> None:
    table = read_table(write(tmp_path, f"id,auc\na,0.5\nb,{cell}\n"))
    with pytest.raises(DataError, match=rf"error\[SK203\] .*t.csv:3 \(column 'auc'\): {match}"):
        table.numbers("auc", low=0, high=1)


def test_missing_numbers_are_nan_only_where_allowed(tmp_path: Path) -> None:
    values = read_table(write(tmp_path, "id,auc\na,0.5\nb,\nc,NaN\nd,N/A\ne,#n/a\nf,Null\n")).numbers("auc", empty=True)
    assert values[0] == 0.5
    assert all(math.isnan(value) for value in values[1:])


def test_missing_column_names_the_nearest() -> None:
    table = RawTable("t.csv", ("sourc", "auc"), (("a", "1"),), (2,), ",")
    with pytest.raises(DataError, match=r"column 'source' is missing \(did you mean 'sourc'\?\); columns found: 'sourc', 'auc'"):
        table.require("source")


def test_a_data_frame_becomes_text_in_full_precision() -> None:
    frame = pd.DataFrame({"source": ["001", "b"], "v": [0.1 + 0.2, np.nan], "n": [1, 2], "flag": [True, False], "gone": [pd.NA, None]})
    table = RawTable.of_frame(frame)
    assert table.rows == (("001", "0.30000000000000004", "1", "true", ""), ("b", "", "2", "false", ""))
    assert table.where(1, "v") == "DataFrame row 1 (column 'v')"
    assert RawTable.of_frame(frame.set_index("source")).columns[0] == "source"
    with pytest.raises(DataError, match=r"DataFrame: the table is empty \(0 rows\)"):
        RawTable.of_frame(frame.iloc[:0])


def score(source: str = "a", target: str = "t", **more: object) -> dict[str, object]:
    return {"source": source, "target": target, "method": "otdd", "value": 1.5, "higher_is_better": False, **more}


def test_score_table_checks_columns_and_keys() -> None:
    with pytest.raises(DataError, match=r"rows 0 and 1: the same source, target, method twice: a, t, otdd"):
        ScoreTable((score(), score()))
    with pytest.raises(DataError, match=r"unknown column 'valu' \(did you mean 'value'\?\)"):
        ScoreTable((score(valu=1),))
    with pytest.raises(DataError, match="row 0: 'value' is missing"):
        ScoreTable((score(value=None),))


def test_tables_round_trip_through_csv(tmp_path: Path) -> None:
    table = TransferTable(({"source": "a", "target": "t", "fold": "1", "seed": 0, "value": 0.1 + 0.2, "metric": "auc"},
                           {"source": "a", "target": "t", "fold": "2", "seed": 0, "value": None, "metric": "auc", "flags": ("one class",)}))
    text = table.to_csv(tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text() == text
    raw = read_table(tmp_path / "x.csv")
    assert raw.columns == table.raw.columns == TransferTable.COLUMNS
    assert raw.column("value") == ("0.30000000000000004", "") == table.raw.column("value")
    assert len(table.frame) == len(table) == 2
    assert "<table" in table._repr_html_()


def transfer(fold: object = "1", seed: int | None = 0, metric: str = "auc", value: float | None = 0.7, target: str = "t") -> dict[str, object]:
    return {"source": "a", "target": target, "fold": fold, "seed": seed, "metric": metric, "value": value}


def test_transfer_table_has_one_row_a_run_and_metric() -> None:
    assert len(TransferTable((transfer(), transfer(metric="brier"), transfer(seed=1), transfer(seed=None), transfer(fold="2")))) == 5
    with pytest.raises(DataError, match=r"rows 0 and 1: the same source, target, fold, seed, metric twice: a, t, 1, 0, auc"):
        TransferTable((transfer(), transfer(value=0.8)))
    with pytest.raises(DataError, match=r"unknown column 'performance'"):
        TransferTable((transfer() | {"performance": 0.7},))
    with pytest.raises(DataError, match=r"row 0: 'fold' is missing"):
        TransferTable((transfer(fold=None),))


def test_the_main_metric_of_a_target_is_that_of_its_first_row() -> None:
    rows = (transfer(), transfer(metric="brier", value=0.2), transfer(seed=1, value=None), transfer(seed=1, metric="brier"),
            transfer(target="u", metric="auc-ovr-macro", fold="given", seed=None), transfer(target="u", fold="given", seed=None))
    table = TransferTable(rows)
    assert table.main_metrics == {"t": "auc", "u": "auc-ovr-macro"}
    assert [(r["target"], r["replicate"], r["performance"], r["metric"]) for r in table.of_metric()] == [
        ("t", "seed0-fold1", 0.7, "auc"), ("t", "seed1-fold1", None, "auc"), ("u", "given", 0.7, "auc-ovr-macro")]
    assert [r["metric"] for r in table.of_metric("auc")] == ["auc"] * 3
    with pytest.raises(DataError, match=r"error\[SK203\] u: transfers to it are measured by auc and auc-ovr-macro and brier; 1 run has no brier "
                       r"\(the first is of a\)\nfix: rank the sources by one metric, which every run has"):
        table.of_metric("brier")


def test_csv_text_disarms_formulas_and_keeps_numbers() -> None:
    assert csv_text(["name", "v"], [["=cmd()", -1.5], ["+a", None], ["ok", True], ["", ""]]) == "name,v\n'=cmd(),-1.5\n'+a,\nok,true\n,\n"
