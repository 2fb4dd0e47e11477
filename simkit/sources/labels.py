"""Images with several classes in a table: one column per class, or one column whose cells name several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simkit.errors import DataError, Problems, nearest
from simkit.tables import BadCell, RawTable

__all__ = ["indicators_of_cells", "indicators_of_columns"]

YES = frozenset({"1", "1.0", "true", "yes"})
NO = frozenset({"0", "0.0", "false", "no"})


def indicators_of_columns(table: RawTable, columns: Sequence[str], rows: Sequence[int]) -> np.ndarray:
    """bool (rows, columns): what each cell says; 1, 1.0, true and yes, or 0, 0.0, false and no, in any case.

    Raises:
        DataError: SK203, every other cell.
    """
    out, bad = np.zeros((len(rows), len(columns)), bool), []
    for number, column in enumerate(columns):
        cells = table.column(column)
        for at, row in enumerate(rows):
            cell = cells[row].strip().lower()
            out[at, number] = cell in YES
            if cell not in YES and cell not in NO:
                message = f"'{cells[row].strip()}' is neither yes nor no"
                bad.append(BadCell(row, column, "neither yes nor no", message, "write 1 or 0 (uncertain is neither: decide, or leave the row out)"))
    problems = Problems()
    table.report(problems, bad)
    problems.raise_if_any(DataError)
    return out


def indicators_of_cells(table: RawTable, column: str, rows: Sequence[int], separator: str, none: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """bool (rows, classes) and the classes, sorted, of cells such as "Effusion|Mass".

    Args:
        table: the table.
        column: that holds the cells.
        rows: which rows.
        separator: what stands between two classes.
        none: what stands in a cell for no class; "" for nothing.

    Raises:
        DataError: SK203, a cell with an empty or repeated class, or with ``none`` beside a class; or no cell holds ``none``.
    """
    cells, bad, named = table.column(column), [], []
    for row in rows:
        classes = [part.strip() for part in cells[row].split(separator)]
        if "" in classes:
            bad.append(BadCell(row, column, "an empty class", f"'{cells[row]}' names an empty class", f"remove the '{separator}' without a class"))
        elif len(set(classes)) < len(classes):
            bad.append(BadCell(row, column, "a class twice", f"'{cells[row]}' names a class twice", "name it once"))
        elif none in classes and len(classes) > 1:
            bad.append(BadCell(row, column, "a class beside none", f"'{cells[row]}' says '{none}' and names a class", "correct the cell"))
        named.append(set(classes))
    problems = Problems()
    table.report(problems, bad)
    problems.raise_if_any(DataError)
    every = set().union(*named)
    if none and none not in every:
        message = f"no cell says '{none}'{nearest(none, every)}"
        raise DataError("SK203", f"{table.path} (column '{column}')", message, "correct none_label, or leave it out")
    names = tuple(sorted(every - {none}))
    return np.array([[name in classes for name in names] for classes in named], dtype=bool).reshape(len(rows), len(names)), names
