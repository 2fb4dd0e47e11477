"""Which column of a table is what. Everything that is recognised is reported; what cannot be recognised is asked for."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, Union

from simkit.correlation.names import closest
from simkit.correlation.numerals import has_decimal_comma, is_number
from simkit.correlation.transfer_rows import no_scores, of_metric
from simkit.errors import DataError, Problems, UsageError
from simkit.tables import RawTable, ScoreTable, TransferTable, counted, read_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Layout", "Readable", "as_raw", "is_column", "is_pattern", "long_in_disguise", "names_of", "recognise"]

Readable: TypeAlias = Union[str, "os.PathLike[str]", "pd.DataFrame", RawTable, ScoreTable, TransferTable]
"""What is read as a table: a path, a DataFrame, or a table of simkit."""

REPLICATE = re.compile(r"(fold|replicate|seed|run|split)[ _-]?\d+", re.IGNORECASE)
"""Columns that are replicates of the performance when nobody says which column holds it."""

REPLICATE_COLUMN = ("fold", "seed", "run", "split")
"""Names (in lower case) of a column that is read as the replicate where it is the only one of them and none is called "replicate"."""

METHOD_COLUMN = ("measure", "measures", "method_name", "estimator", "metric_name")
"""Names (in lower case) under which the column of the methods of a long table stands in tables of other programs."""

ROLES = ("source", "target", "method", "value", "higher_is_better", "replicate", "value_replicate", "performance_metric", "performance_sd", "source_size",
         "source_group", "n_source")
"""Names of the columns that mean the same in every table."""

PERFORMANCE = ("auc", "auroc", "balanced_accuracy", "accuracy", "mean")
"""Names under which a single performance column is recognised, after "performance" and the replicates."""

COMPANION = re.compile(
    r"|unnamed: \d+|index|id|mean|std|sd|se|sem|var|min|max|median|n|n_.*|.*_(std|sd|se|sem)|performance(_.*)?|auc|auroc|(balanced_)?accuracy"
    r"|source_size|source_group|"
    r"fold|seed|run|split|replicate|value_replicate|metric|flags|extractor|kind|lower|upper|floor|converged|higher_is_better|"
    + REPLICATE.pattern, re.IGNORECASE)
"""Columns that are never taken for a method unless they are named as one."""


@dataclass(frozen=True)
class Layout:
    """A table and the meaning of its columns.

    Attributes:
        raw: the table; of a long table, only the rows of the methods that were asked for.
        form: "long" has one row per (source, target, method), "wide" one column per method.
        columns: role -> column, for the roles that are there (source, target, method, value, replicate, ...).
        performance: columns of the performance; several are replicates. Empty when the table holds none.
        methods: wide: method -> the columns that are averaged for it; long: method -> its name in the method column.
        performance_label: the performance as the caller or the header calls it.
        notes: what was recognised.
        by_metric: whether it is a transfer table of which the rows of one metric were taken, so that nothing is left to ask of ``metric``.
    """

    raw: RawTable
    form: Literal["long", "wide"]
    columns: Mapping[str, str]
    performance: tuple[str, ...]
    methods: Mapping[str, tuple[str, ...]]
    performance_label: str
    notes: tuple[str, ...]
    by_metric: bool = False


def is_pattern(text: str) -> bool:
    """Whether a name is a glob pattern such as ``fold_*``."""
    return any(character in text for character in "*?[")


def is_column(raw: RawTable, text: str) -> bool:
    """Whether a text that says where the performance is names columns of the table; else it is the path of a second one."""
    if text in raw.columns or is_pattern(text):
        return True
    looks_like_path = os.sep in text or Path(text).suffix.lower() in (".csv", ".tsv", ".txt")
    return not looks_like_path and not Path(text).is_file()


def names_of(value: Sequence[str] | str, option: str) -> tuple[str, ...]:
    """One name or several; UsageError for anything else."""
    names = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(name, str) for name in names):
        raise UsageError("SK102", option, f"{names!r} is not a list of names", f"give {option}=['name', ...]")
    return names


def as_raw(table: Readable, *, allow_missing: bool = False, name: str = "DataFrame") -> RawTable:
    """The table as text with line numbers. With ``allow_missing``, rows that are cut short count as rows with empty cells at their end.

    Raises:
        UsageError: something that is no table.
        DataError: a file that cannot be read as one.
    """
    if isinstance(table, RawTable):
        return table
    if isinstance(table, (ScoreTable, TransferTable)):
        return table.raw
    if isinstance(table, (str, os.PathLike)):
        try:
            return read_table(table, short_rows="empty" if allow_missing else "error")
        except DataError as error:
            told = (replace(one, fix=f"{one.fix}: allow_missing=True (--allow-missing)") if one.fix.startswith("add the missing fields") else one
                    for one in error.problems)
            raise DataError("", "", "", problems=tuple(told)) from None
    if any(one.__name__ == "DataFrame" and one.__module__.startswith("pandas") for one in type(table).__mro__):
        return RawTable.of_frame(table, name=name)
    raise UsageError("SK102", name, f"a {type(table).__name__} is no table", "give a path, a DataFrame, a ScoreTable or a TransferTable")


def recognise(
    raw: RawTable, *, performance: str | None = None, methods: Sequence[str] = (), role: Literal["scores", "transfers", "both"] = "both",
    metric: str | None = None,
) -> Layout:
    """The meaning of the columns of a table.

    Args:
        raw: the table.
        performance: the column of the performance, or a pattern of columns that are its replicates; None to recognise it.
        methods: "name", "name=column" or "name=pattern"; empty for all.
        role: whether the table holds scores, transfers or both; what it holds besides is left aside.
        metric: whose rows are taken of a transfer table that is long in metric; see :func:`~simkit.correlation.transfer_rows.of_metric`.

    Raises:
        UsageError: a column, pattern or method that is not there, or that cannot be told from the header.
        DataError: no column source or target.
    """
    columns = _roles(raw)
    fold = _replicate(raw, {performance, *(text.rpartition("=")[2].strip() for text in methods)}) if "replicate" not in columns else None
    columns |= {"replicate": fold} if fold is not None else {}
    form: Literal["long", "wide"] = "long" if role != "transfers" and "method" in columns and "value" in columns else "wide"
    delimiter = f", delimiter {raw.delimiter!r}" if raw.separator == ":" else ""
    notes = [f"{raw.path}: {counted(len(raw), 'row')}{delimiter}"]
    if raw.short:
        where = f"line{'s' if len(raw.short) > 1 else ''} {', '.join(map(str, raw.short))}"
        are = "rows are cut short and were" if len(raw.short) > 1 else "row is cut short and was"
        notes.append(f"{raw.path}: {len(raw.short)} {are} read with empty cells at {'their' if len(raw.short) > 1 else 'its'} end ({where})")
    if fold is not None:
        notes.append(f"{raw.path}: column '{fold}' is read as the replicate")
    performing: tuple[str, ...]
    by_metric = role != "scores" and performance is None and _is_long_in_metric(raw, columns)
    if by_metric:
        raw, more, taken = of_metric(raw, columns, metric)
        columns, performing = columns | more, (columns["value"],)
        notes += taken
    else:
        performing = () if role == "scores" else _performance(raw, performance, set(columns.values()), notes)
    if not performing and role != "scores":
        found = ", ".join(repr(column) for column in raw.columns if column)
        fix = ("name its column, performance='auc' (--performance auc), its replicates, performance='fold_*' (--performance 'fold_*'), "
               "or the transfer table, performance='transfer.csv' (--performance transfer.csv)")
        raise UsageError("SK104", raw.path, f"no column is recognised as the performance; columns found: {found}", fix)
    chosen: dict[str, tuple[str, ...]] = {}
    if role != "transfers" and form == "long":
        raw, chosen = _long_methods(raw, columns, methods)
    elif role != "transfers":
        no_scores(raw, by_metric=by_metric)
        run = set(TransferTable.COLUMNS) if by_metric and not methods else {fold} if fold is not None else set()
        chosen = _wide_methods(raw, {columns["source"], columns["target"], *performing, *run}, methods)
    notes += _summary(raw, form, columns, chosen, performing, role)
    label = performance if performance is not None else performing[0] if len(performing) == 1 else "performance" if performing else ""
    return Layout(raw, form, columns, performing, chosen, label, tuple(notes), by_metric)


def _roles(raw: RawTable) -> dict[str, str]:
    """Role -> column for the columns with a fixed name, letter case aside."""
    out = {}
    for role in ROLES:
        matches = [column for column in raw.columns if column == role] or [column for column in raw.columns if column.casefold() == role]
        if len(matches) == 1:
            out[role] = matches[0]
    _require(raw, *(role for role in ("source", "target") if role not in out))
    if "performance_metric" not in out and "metric" in raw.columns:
        out["performance_metric"] = "metric"
    if "method" in out and "value" not in out:
        _require(raw, "value")
    return out


def _require(raw: RawTable, *missing: str) -> None:
    """DataError for roles that no column has, with the column that is called almost so."""
    problems, found = Problems(), ", ".join(repr(column) for column in raw.columns)
    if len(missing) > 1 and any(is_number(column) for column in raw.columns):
        message = f"columns {' and '.join(map(repr, missing))} are missing; columns found: {found}"
        name_them = "give the columns names: source, target, ..."
        fix = "the first line looks like data: add a line with the names of the columns" if raw.unit == "line" else name_them
        raise DataError("SK202", raw.path, message, fix)
    for role in missing:
        message = f"column '{role}' is missing{_almost(role, raw.columns)}; columns found: {found}"
        problems.add("SK202", raw.path, message, f"name the column '{role}'")
    problems.raise_if_any(DataError)


def _almost(role: str, columns: Collection[str]) -> str:
    """``" (did you mean 'sources'?)"`` for a column whose name holds that of the role, or differs from it by a slip; else ``""``."""
    words = {column: column.casefold() for column in columns if column.casefold() not in ROLES}
    close = [column for column, word in words.items() if role in word] or [column for column, word in words.items() if _slip(role, word)]
    return f" (did you mean '{close[0]}'?)" if close else ""


def _slip(one: str, two: str) -> bool:
    return SequenceMatcher(None, one, two).ratio() >= 0.8


def _replicate(raw: RawTable, named: Collection[str | None]) -> str | None:
    """The column called fold, seed, run or split, where it is the only one of them and the caller does not name it as something else."""
    found = [column for column in raw.columns if column.casefold() in REPLICATE_COLUMN]
    return found[0] if len(found) == 1 and found[0] not in named else None


def long_in_disguise(raw: RawTable) -> str | None:
    """The column of a table without a column 'method' that seems to hold the names of methods."""
    return next((column for column in raw.columns if column.casefold() in METHOD_COLUMN and not _has_numbers(raw, column)), None)


def _performance(raw: RawTable, wanted: str | None, known: Collection[str], notes: list[str]) -> tuple[str, ...]:
    """The columns of the performance; a pattern never takes a column of ``known``, which has a meaning of its own (performance_sd)."""
    found = ", ".join(repr(column) for column in raw.columns if column)
    if wanted is not None and wanted in raw.columns:
        return (wanted,)
    if wanted is not None and is_pattern(wanted):
        matched = tuple(column for column in raw.columns if fnmatchcase(column, wanted) and column not in known)
        if not matched:
            raise UsageError("SK101", "performance", f"no column of {raw.path} matches '{wanted}'", f"columns found: {found}")
        notes.append(f"performance: the {len(matched)} columns matching '{wanted}' are replicates, averaged per pair ({', '.join(matched)})")
        return matched
    if wanted is not None:
        message = f"'{wanted}' is neither a column of {raw.path}{closest(wanted, raw.columns)} nor a file"
        raise UsageError("SK101", "performance", message, f"columns found: {found}")
    if "performance" in raw.columns:
        return ("performance",)
    replicates = tuple(column for column in raw.columns if REPLICATE.fullmatch(column))
    if replicates:
        notes.append(f"performance: recognised {len(replicates)} replicates, averaged per pair ({', '.join(replicates)})")
        return replicates
    named = [column for name in PERFORMANCE for column in raw.columns if column.casefold() == name]
    if named:
        notes.append(f"performance: recognised column '{named[0]}'")
    return tuple(named[:1])


def _is_long_in_metric(raw: RawTable, columns: Mapping[str, str]) -> bool:
    """Whether it is a transfer table with one row per run and metric: "value" and "metric", no "method", and nothing else that is the performance."""
    return "value" in columns and "metric" in raw.columns and "method" not in columns and not _performance(raw, None, (), [])


def _parse(methods: Sequence[str]) -> dict[str, str]:
    """Method -> column, pattern or name in the table."""
    problems, out = Problems(), {}
    for text in methods:
        name, equals, column = text.partition("=")
        name, column = name.strip(), column.strip() if equals else name.strip()
        if not name or not column:
            problems.add("SK102", "methods", f"'{text}' names no method", "write NAME, NAME=COLUMN or NAME=PATTERN")
        elif is_pattern(name):
            problems.add("SK102", "methods", f"'{text}' is a pattern without a name", f"name the method whose columns are averaged: NAME={column}")
        elif name in out:
            problems.add("SK105", "methods", f"two methods are called '{name}'", "give each its own name")
        out[name] = column
    problems.raise_if_any(UsageError)
    return out


def _long_methods(raw: RawTable, columns: Mapping[str, str], methods: Sequence[str]) -> tuple[RawTable, dict[str, tuple[str, ...]]]:
    """The rows of the methods that are asked for, and new name -> name in the table."""
    cells = [cell.strip() for cell in raw.column(columns["method"])]
    known = list(dict.fromkeys(cell for cell in cells if cell))
    if not methods:
        return raw, {name: (name,) for name in known}
    problems, chosen = Problems(), _parse(methods)
    for old in chosen.values():
        if old not in known:
            problems.add("SK101", "methods", f"'{old}' is not a method of {raw.path}{closest(old, known)}", f"methods found: {', '.join(known)}")
    for old in sorted({old for old in chosen.values() if list(chosen.values()).count(old) > 1}):
        problems.add("SK105", "methods", f"'{old}' is taken for two methods", "name it once")
    problems.raise_if_any(UsageError)
    keep = [row for row, cell in enumerate(cells) if cell in chosen.values()]
    kept = replace(raw, rows=tuple(raw.rows[row] for row in keep), lines=tuple(raw.lines[row] for row in keep))
    return kept, {new: (old,) for new, old in chosen.items()}


def _wide_methods(raw: RawTable, used: set[str], methods: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Method -> its columns: those that are asked for, else every column of numbers that is nothing else."""
    free = [column for column in raw.columns if column and column not in used]
    if not methods:
        out: dict[str, tuple[str, ...]] = {column: (column,) for column in free if not COMPANION.fullmatch(column) and _has_numbers(raw, column)}
        if not out:
            found = ", ".join(repr(column) for column in raw.columns if column)
            fix = "name the methods: methods=['otdd', 'task2vec=distance_*'] (--method otdd --method 'task2vec=distance_*')"
            raise UsageError("SK104", raw.path, f"no column is recognised as a method; columns found: {found}", fix)
        return out
    problems, out = Problems(), {}
    for name, wanted in _parse(methods).items():
        exact = wanted in raw.columns
        matched = (wanted,) if exact else tuple(column for column in free if fnmatchcase(column, wanted)) if is_pattern(wanted) else ()
        if not matched:
            message = f"no column of {raw.path} {'matches' if is_pattern(wanted) else 'is called'} '{wanted}'{closest(wanted, free)}"
            problems.add("SK101", "methods", message, f"columns found: {', '.join(map(repr, free))}")
        elif exact and wanted in used:
            problems.add("SK102", "methods", f"'{wanted}' is source, target or performance already", "a method needs a column of its own")
        out[name] = matched
    problems.raise_if_any(UsageError)
    return out


def _has_numbers(raw: RawTable, column: str) -> bool:
    """Whether a column is one of numbers: at least one cell is a number (other cells are then errors, not words)."""
    return any(is_number(cell) or has_decimal_comma(cell) for cell in raw.column(column))


def _summary(raw: RawTable, form: str, columns: Mapping[str, str], methods: Mapping[str, tuple[str, ...]], performance: Sequence[str], role: str) -> list[str]:
    notes = []
    used = {columns["source"], columns["target"], *performance}
    used |= {columns[name] for name in ("replicate", "performance_metric", "leaky", "fold", "seed") if name in columns and performance}
    if role != "transfers" and form == "long":
        used |= {columns[name] for name in ("method", "value", "higher_is_better", "value_replicate", "replicate") if name in columns}
        notes.append(f"{raw.path}: long form, one row per source, target and method; methods: {', '.join(methods)}")
    elif role != "transfers":
        used |= {column for names in methods.values() for column in names} | {columns[n] for n in ("value_replicate", "replicate") if n in columns}
        words = ", ".join(_columns_of(name, names) for name, names in methods.items())
        notes.append(f"{raw.path}: wide form, one column a method: {words}")
    if role != "transfers" and "source_size" in columns:
        used.add(columns["source_size"])
    elif role != "transfers" and form == "long" and "n_source" in columns:
        used.add(columns["n_source"])
    used |= {columns[name] for name in ("source_group", *(["performance_sd"] if performance else [])) if name in columns}
    if "" in raw.columns and _has_numbers(raw, ""):
        notes.append(f"{raw.path}: column {raw.columns.index('') + 1} has no name and is not used")
    unused = [column for column in raw.columns if column and column not in used]
    if unused:
        notes.append(f"{raw.path}: not used: {', '.join(unused)}")
    return notes


def _columns_of(method: str, columns: Sequence[str]) -> str:
    if len(columns) > 1:
        return f"{method} (mean of {', '.join(columns)})"
    return method if columns[0] == method else f"{method} (column '{columns[0]}')"
