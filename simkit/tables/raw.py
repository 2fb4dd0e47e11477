"""Delimited text, read without guessing."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from simkit.errors import DataError, Problems, nearest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["IF_OUTSIDE", "IN_FULL", "LARGEST", "MISSING", "BadCell", "RawTable", "counted", "parse_table", "read_table"]

LARGEST = 512 * 2**20
"""Largest table file that is read, in bytes."""

MISSING = ("", "nan", "na", "n/a", "#n/a", "null")
"""Cells (in lower case) that stand for a missing number where missing numbers are allowed."""

IN_FULL = 3
"""How many cells of one column that have the same fault are reported one by one; the others are one problem with their lines."""

IF_MISSING = "give the number; or, where it can be done without, allow missing values"
IF_OUTSIDE = "correct the value, or state another column"
"""What messages advise for an empty cell and for a number outside its range."""

DELIMITERS = ",;\t|"


class BadCell(NamedTuple):
    """A cell that is wrong: its row (from 0), its column, what is wrong in the words that all cells of the same fault share, message and remedy."""

    row: int
    column: str
    cause: str
    message: str
    fix: str
    code: str = "SK203"


@dataclass(frozen=True)
class RawTable:
    """A delimited text file as text: every cell as it stands there, every row with its line number. Nothing is converted or dropped.

    Attributes:
        path: the file, as messages name it.
        columns: column names; an unnamed index column is called "".
        rows: cells per row.
        lines: line number of each row in the file (1 is the header); the row number, from 0, where the table is no file.
        delimiter: the delimiter that was found.
        short: line numbers of the rows that had fewer fields than the header and were read with empty cells at their end; only
            with ``read_table(..., short_rows="empty")``.
        separator: what stands between path and line number in messages.
    """

    path: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    delimiter: str
    short: tuple[int, ...] = ()
    separator: str = ":"

    @classmethod
    def of_records(cls, records: Iterable[Mapping[str, Any]], columns: Sequence[str], *, name: str) -> RawTable:
        """Records in memory as a table of text: numbers in full precision, None and NaN as empty cells, rows numbered from 0."""
        names = tuple(str(column).strip() for column in columns)
        rows = tuple(tuple(_text(record.get(column)) for column in columns) for record in records)
        return _checked(cls(name, names, rows, tuple(range(len(rows))), ",", separator=" row "))

    @classmethod
    def of_frame(cls, frame: pd.DataFrame, *, name: str = "DataFrame") -> RawTable:
        """A pandas DataFrame as a table of text (see :meth:`of_records`); a named index becomes columns."""
        frame = frame.reset_index() if any(level is not None for level in frame.index.names) else frame
        columns = [str(column).strip() for column in frame.columns]
        rows = tuple(tuple(_text(value) for value in row) for row in frame.itertuples(index=False, name=None))
        return _checked(cls(name, tuple(columns), rows, tuple(range(len(rows))), ",", separator=" row "))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def unit(self) -> str:
        """What ``lines`` counts: "line" of a file, "row" of a table in memory."""
        return "line" if self.separator == ":" else "row"

    def line(self, row: int) -> str:
        """Where a row stands: "pairs.csv:17", or "DataFrame row 15"."""
        return f"{self.path}{self.separator}{self.lines[row]}"

    def where(self, row: int, column: str) -> str:
        """Where a cell stands: "pairs.csv:17 (column 'auc')"."""
        return f"{self.line(row)} (column '{column}')"

    def places(self, rows: Sequence[int], most: int = 10) -> str:
        """Where rows stand, without the name of the table: "line 17", "lines 5, 6, ..."."""
        return f"{self.unit}{'s' if len(rows) > 1 else ''} {', '.join(str(self.lines[row]) for row in rows[:most])}{', ...' if len(rows) > most else ''}"

    def report(self, problems: Problems, cells: Iterable[BadCell]) -> None:
        """Adds bad cells to the problems: of one column and cause the first three in full, the others as one problem with their count and lines."""
        alike: dict[tuple[str, str], list[BadCell]] = {}
        for cell in cells:
            same = alike.setdefault((cell.column, cell.cause), [])
            same.append(cell)
            if len(same) <= IN_FULL:
                problems.add(cell.code, self.where(cell.row, cell.column), cell.message, cell.fix)
        for (column, cause), same in alike.items():
            if rest := same[IN_FULL:]:
                message = f"and {counted(len(rest), 'more cell')} of this column ({self.places([cell.row for cell in rest])}): {cause}"
                problems.add(rest[0].code, f"{self.path} (column '{column}')", message, rest[0].fix)

    def require(self, *columns: str) -> None:
        """DataError naming every missing column, with the nearest that is there."""
        problems = Problems()
        for column in columns:
            if column not in self.columns:
                found = ", ".join(repr(c) for c in self.columns)
                message = f"column '{column}' is missing{nearest(column, self.columns)}; columns found: {found}"
                problems.add("SK202", self.path, message, f"name the column '{column}', or state which column holds it")
        problems.raise_if_any(DataError)

    def column(self, name: str) -> tuple[str, ...]:
        """The cells of a column as text."""
        self.require(name)
        index = self.columns.index(name)
        return tuple(row[index] for row in self.rows)

    @cached_property
    def decimal_comma(self) -> bool:
        """Whether numbers are written 0,93: only where the delimiter is not a comma and no cell holds a decimal point."""
        if self.delimiter == ",":
            return False
        cells = [cell for row in self.rows for cell in row]
        comma = any(_number(cell.replace(",", ".")) is not None and "," in cell for cell in cells)
        point = any(_number(cell) is not None and "." in cell for cell in cells)
        return comma and not point

    def numbers(
        self, name: str, *, low: float = -math.inf, high: float = math.inf, empty: bool = False,
        if_missing: str = IF_MISSING,
        if_outside: str = IF_OUTSIDE,
    ) -> list[float]:
        """A column as finite numbers; an empty cell is NaN when ``empty`` is allowed. ``if_missing`` and ``if_outside`` are remedies in messages.

        Raises:
            DataError: naming line, column and value of the cells that are no number in [low, high]; of a fault that more than three cells
                share, the others are one problem with their lines.
        """
        bad: list[BadCell] = []
        out = []
        for row, cell in enumerate(self.column(name)):
            text = cell.strip()
            missing = text.lower() in MISSING
            if empty and missing:
                out.append(math.nan)
                continue
            value = _number(text.replace(",", ".") if self.decimal_comma else text)
            if value is None or not math.isfinite(value):
                kind = f"not a {'number' if value is None else 'finite number'}"
                message = f"'{text}' is {kind}" if text else "the cell is empty"
                fix = if_missing if missing else "write a finite number with a decimal point"
                bad.append(BadCell(row, name, "no value" if missing else kind, message, fix))
                value = math.nan
            elif not low <= value <= high:
                bad.append(BadCell(row, name, f"outside {low:g}..{high:g}", f"value {text} is outside {low:g}..{high:g}", if_outside))
            out.append(value)
        problems = Problems()
        self.report(problems, bad)
        problems.raise_if_any(DataError)
        return out


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 row", "2 rows"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _number(text: str) -> float | None:
    try:
        return float(text) if "_" not in text else None
    except ValueError:
        return None


def _text(value: Any) -> str:
    """A cell of a table in memory as the text that a file would hold."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def _checked(table: RawTable) -> RawTable:
    """The table, or DataError for repeated column names or no rows."""
    problems = Problems()
    for column in sorted({c for c in table.columns if table.columns.count(c) > 1}):
        problems.add("SK202", table.path, f"column '{column}' appears {table.columns.count(column)} times", "give each column its own name")
    if not table.rows:
        problems.add("SK202", table.path, "the table is empty (0 rows)", "give at least one row")
    problems.raise_if_any(DataError)
    return table


def read_table(path: str | os.PathLike[str], *, short_rows: Literal["error", "empty"] = "error") -> RawTable:
    """A CSV or TSV file: UTF-8 with or without a byte-order mark; comma, semicolon, tab or bar; LF or CRLF.

    Args:
        path: the file.
        short_rows: what a row with fewer fields than the header is: an error, or a row whose last cells are empty (such rows are listed
            in ``RawTable.short``). A row with more fields is always an error: nothing is ever shifted.

    Raises:
        DataError: missing, empty or binary file; repeated column names; a row with more fields than the header, or fewer.
    """
    path = Path(path)
    name = str(path)
    if not path.is_file():
        kind = "is not a file" if path.exists() else "does not exist"
        raise DataError("SK201", name, kind, "check the path")
    if path.stat().st_size > LARGEST:
        raise DataError("SK201", name, f"{path.stat().st_size / 2**20:.0f} MiB is larger than a table may be ({LARGEST // 2**20} MiB)", "split the file")
    raw = path.read_bytes()
    if b"\0" in raw[:65536]:
        raise DataError("SK201", name, "is not text (it holds zero bytes)", "export the table as CSV in UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError("SK201", f"{name}:{line}", f"is not UTF-8 (byte 0x{raw[error.start]:02x})", "save the file as UTF-8 (Excel: 'CSV UTF-8')") from None
    return parse_table(text, name, short_rows=short_rows)


def parse_table(text: str, name: str, *, short_rows: Literal["error", "empty"] = "error") -> RawTable:
    """:func:`read_table` of text that was already read."""
    delimiter = _delimiter(text)
    if not delimiter:
        raise DataError("SK202", name, "the table is empty (0 rows)", "give a header and at least one row")
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        numbered = [(reader.line_num, tuple(row)) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError("SK202", f"{name}:{reader.line_num}", f"cannot be parsed: {error}", "check quotes and delimiters") from None
    if no_header := _no_header([line for line, _ in numbered], [len(row) for _, row in numbered]):
        raise DataError("SK202", name, *no_header)
    columns = tuple(cell.strip() for cell in numbered[0][1])
    rows = numbered[1:]
    problems = Problems()
    for column in sorted({c for c in columns if columns.count(c) > 1}):
        problems.add("SK202", name, f"column '{column}' appears {columns.count(column)} times", "give each column its own name")
    for line, row in rows:
        if len(row) > len(columns):
            fix = "remove the extra field, or quote the field that holds the delimiter"
            problems.add("SK202", f"{name}:{line}", f"{counted(len(row), 'field')}, the header has {len(columns)}", fix)
        elif len(row) < len(columns) and short_rows == "error":
            fix = "add the missing fields; where missing values are allowed, a short row is read as one with empty cells at its end"
            problems.add("SK202", f"{name}:{line}", f"{counted(len(row), 'field')}, the header has {len(columns)}", fix)
    if not rows:
        problems.add("SK202", name, "the table has a header and 0 rows", "give at least one row")
    problems.raise_if_any(DataError)
    short = tuple(line for line, row in rows if len(row) < len(columns))
    filled = tuple(row + ("",) * (len(columns) - len(row)) for _, row in rows)
    return RawTable(name, columns, filled, tuple(line for line, _ in rows), delimiter, short)


def _delimiter(text: str) -> str:
    """The delimiter that the header holds most often; "" of a text without any line.

    A line without any is a title, where the lines below hold the same number of one, and two at least; else the header of a single column.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    start = next((number for number, line in enumerate(lines) if any(one in line for one in DELIMITERS)), 0)
    below = lines[start : start + 20]
    for one in DELIMITERS if start and len(below) > 1 else "":
        if len({line.count(one) for line in below}) == 1 and below[0].count(one) > 1:
            return one
    return max(DELIMITERS, key=lines[0].count) if lines else ""


def _no_header(lines: Sequence[int], counts: Sequence[int]) -> tuple[str, str] | None:
    """Message and remedy where titles stand above the header: lines with fewer fields than every line below them; else None."""
    first = next((number for number, count in enumerate(counts) if count > 1), 0) if counts[0] == 1 else 1
    below = counts[first:]
    short_by_one = bool(below) and min(below) == counts[0] + 1
    if not first or not below or min(below) <= counts[0] or (len(below) == 1 and (counts[0] > 1 or short_by_one or first > 1)):
        return None
    who = f"line {lines[0]} has" if first == 1 else f"lines {lines[0]} to {lines[first - 1]} have"
    rows_have = f"all rows have {min(below)}" + ("" if min(below) == max(below) else f" to {max(below)}")
    message = f"{who} {counted(counts[0], 'field')}{' each' if first > 1 else ''} and {rows_have}: "
    if first == 1 and short_by_one:
        fix = "name every column (R leaves out the name of the row names: write.csv(..., row.names = FALSE)); or delete the lines above the header"
        return f"{message}a name is missing, or it is no header", fix
    return f"{message}{'it is' if first == 1 else 'they are'} no header", "delete the lines above the header"
