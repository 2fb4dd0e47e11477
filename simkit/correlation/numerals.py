"""How the numbers of a table are written: with a decimal point, or, where the caller states it, with a decimal comma."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, TypeAlias

from simkit.errors import DataError, Problems
from simkit.tables import IF_OUTSIDE, RawTable, counted

__all__ = ["DecimalMark", "has_decimal_comma", "in_percent", "is_number", "numbers"]

LARGEST = 1e150
"""Numbers beyond are refused: their squares overflow."""

DecimalMark: TypeAlias = Literal[".", ","]
"""What stands between the whole and the fractional part of a number."""

IF_MISSING = "give the number, or leave such cells out, which counts them: allow_missing=True (--allow-missing)"
"""What messages advise for an empty cell."""


def is_number(cell: str) -> bool:
    """Whether a cell is a number that is written with a decimal point, or without a fractional part."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def has_decimal_comma(cell: str) -> bool:
    """Whether a cell is a number once its comma is taken for a decimal point: 0,93."""
    return "," in cell and is_number(cell.replace(",", "."))


def in_percent(cells: Iterable[str]) -> bool:
    """Whether the cells of a column, which should hold shares of 1, look like percent: those outside 0..1 lie in (1, 100], and are half or more."""
    values = [float(cell.replace(",", ".") if has_decimal_comma(cell) else cell) for cell in cells if is_number(cell) or has_decimal_comma(cell)]
    finite = [value for value in values if math.isfinite(value)]
    outside = [value for value in finite if not 0 <= value <= 1]
    return bool(outside) and 2 * len(outside) >= len(finite) and all(1 < value <= 100 for value in outside)


def numbers(
    raw: RawTable, column: str, *, decimal: DecimalMark = ".", low: float = -math.inf, high: float = math.inf, empty: bool = False,
    if_outside: str = IF_OUTSIDE,
) -> list[float]:
    """A column as finite numbers; an empty cell is NaN when ``empty`` is allowed.

    A comma is never taken for a decimal point unless that was stated: 1,234 may be a little more than one, or a thousand.

    Raises:
        DataError: naming line, column and value of the cells that are no number in [low, high] (see :meth:`RawTable.numbers`); the cells of a
            column that are written with the other decimal mark are one problem with their count.
    """
    cells = raw.column(column)
    other = [row for row, cell in enumerate(cells) if (has_decimal_comma(cell) if decimal == "." else "." in cell and is_number(cell))]
    problems, out = Problems(), [math.nan] * len(raw)
    if other:
        problems.add("SK203", raw.where(other[0], column), *_other_mark(cells[other[0]].strip(), len(other), decimal))
    kept = sorted(set(range(len(raw))) - set(other))
    texts = [cells[row].replace(",", ".") if has_decimal_comma(cells[row]) else cells[row] for row in kept]
    # a delimiter that is a comma keeps the table from deciding by itself how its numbers are written
    plain = replace(raw, columns=(column,), rows=tuple((text,) for text in texts), lines=tuple(raw.lines[row] for row in kept), delimiter=",")
    try:
        for row, value in zip(kept, plain.numbers(column, low=low, high=high, empty=empty, if_missing=IF_MISSING, if_outside=if_outside), strict=True):
            out[row] = value
    except DataError as error:
        problems.catch(error)
    huge = [row for row, value in enumerate(out) if abs(value) > LARGEST]
    if huge:
        also = f" (and {len(huge) - 1} more cells of this column)" if len(huge) > 1 else ""
        problems.add("SK203", raw.where(huge[0], column), f"value {cells[huge[0]].strip()} is too large: its square overflows{also}", "correct the value")
    problems.raise_if_any(DataError)
    return out


def _other_mark(cell: str, count: int, decimal: DecimalMark) -> tuple[str, str]:
    """Message and remedy for a column that is written with the decimal mark that was not stated."""
    also = f" (and {counted(count - 1, 'more cell')} of this column)" if count > 1 else ""
    if decimal == ".":
        return (f"'{cell}' holds a comma{also}: numbers are read with a decimal point",
                f"write {cell.replace(',', '.')}, or state that this table has decimal commas: decimal=',' (--decimal ,)")
    return (f"'{cell}' holds a point{also}: decimal=',' states that numbers have a decimal comma, and a point may separate thousands",
            "write all numbers of a table in one way; leave decimal=',' (--decimal ,) out where they have a decimal point")
