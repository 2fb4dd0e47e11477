"""Reads a table of scores that simkit wrote."""

from __future__ import annotations

import math
import os
from typing import Any

from simkit.errors import DataError, Problems, nearest
from simkit.tables.raw import MISSING, RawTable, read_table
from simkit.tables.records import ScoreTable, unguarded

__all__ = ["is_score_table", "read_scores"]

NUMBERS = ("lower", "upper", "floor", "ceiling", "p")
COUNTS = ("matched", "n_source", "n_target", "skipped_source", "skipped_target")
TEXTS = ("kind", "flags", "extractor")
BESIDE = ("source_size", "source_group")
"""Columns that statistics read, and a score table does not have."""

SWITCHES = {"true": True, "false": False, "1": True, "0": False}


def is_score_table(raw: RawTable) -> bool:
    """Whether a table has the columns that every score table of simkit has, and no others but those that statistics read."""
    return set(ScoreTable.REQUIRED) <= set(raw.columns) <= {*ScoreTable.COLUMNS, *BESIDE}


def read_scores(table: RawTable | str | os.PathLike[str]) -> ScoreTable:
    """The score table in a CSV file (of `simkit distance`, or scores.csv of a run).

    Args:
        table: path, or the table as text; source, target, method, value and higher_is_better must be there, the other columns may be missing;
            source_size and source_group are passed over.

    Raises:
        DataError: a missing or unknown column, a cell that is no number (with its line), a direction that is neither true nor false.
    """
    raw = table if isinstance(table, RawTable) else read_table(table)
    lacking = [name for name in ScoreTable.REQUIRED if name not in raw.columns]
    if lacking:
        message = f"column '{lacking[0]}' is missing{nearest(lacking[0], raw.columns)}; columns found: {', '.join(map(repr, raw.columns))}"
        raise DataError("SK202", raw.path, message, f"a score table of `simkit distance --out` is read here: {', '.join(ScoreTable.REQUIRED)}")
    columns: dict[str, list[Any]] = {name: [_plain(cell) for cell in raw.column(name)] for name in ("source", "target", "method")}
    columns["value"] = list(raw.numbers("value", if_missing="give the number, or remove the row"))
    present = set(raw.columns)
    for name in NUMBERS:
        if name in present:
            columns[name] = [None if math.isnan(value) else value for value in raw.numbers(name, empty=True)]
    for name in COUNTS:
        if name in present:
            columns[name] = [None if math.isnan(value) else int(value) for value in raw.numbers(name, low=0, empty=True)]
    for name in TEXTS:
        if name in present:
            columns[name] = [_plain(cell) for cell in raw.column(name)]
    columns["higher_is_better"] = _switches(raw, "higher_is_better")
    if "converged" in present:
        columns["converged"] = _switches(raw, "converged", empty=True)
    unknown = [name for name in raw.columns if name not in (*ScoreTable.COLUMNS, *BESIDE)]
    if unknown:
        known = ", ".join(ScoreTable.COLUMNS)
        raise DataError("SK202", raw.path, f"column '{unknown[0]}' is none of a score table", f"columns: {known}")
    _once(raw, columns)
    return ScoreTable(tuple({name: values[row] for name, values in columns.items()} for row in range(len(raw))))


def _once(raw: RawTable, columns: dict[str, list[Any]]) -> None:
    """DataError (SK204) naming the lines of rows with one key."""
    problems = Problems()
    seen: dict[tuple[str, ...], int] = {}
    for row, key in enumerate(zip(*(columns[name] for name in ScoreTable.KEY), strict=True)):
        if key in seen:
            message = f"the same source, target, method as in line {raw.lines[seen[key]]}: {', '.join(key)}"
            problems.add("SK204", raw.line(row), message, "remove one of the rows")
        seen.setdefault(key, row)
    problems.raise_if_any(DataError)


def _plain(cell: str) -> str:
    """A text without the apostrophe that guards it from being run as a formula."""
    return unguarded(cell.strip())


def _switches(raw: RawTable, name: str, *, empty: bool = False) -> list[bool | None]:
    problems = Problems()
    out: list[bool | None] = []
    for row, cell in enumerate(raw.column(name)):
        text = cell.strip().lower()
        if empty and text in MISSING:
            out.append(None)
            continue
        if text not in SWITCHES:
            problems.add("SK203", raw.where(row, name), f"'{cell}' is neither true nor false", "write true or false")
        out.append(SWITCHES.get(text, False))
    problems.raise_if_any(DataError)
    return out
