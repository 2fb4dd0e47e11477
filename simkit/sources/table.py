"""Tables (CSV, TSV, Parquet) with one row per image: path, label or labels, and where there are, group and split."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simkit.dataset import NOTIONS, Dataset, Skipped
from simkit.errors import DataError, Problems, UsageError, nearest
from simkit.registry import option
from simkit.sources.base import Source, is_inside, located, nearest_entry, text_of
from simkit.sources.decode import Decoding
from simkit.sources.folder import check_class_names
from simkit.sources.labels import indicators_of_cells, indicators_of_columns
from simkit.sources.parquet import read_parquet
from simkit.sources.readers import FileReader, Stamp, stamp_of
from simkit.tables import RawTable, read_table

__all__ = ["Table"]


@dataclass(frozen=True)
class Table(Source, Decoding):
    """A manifest: a CSV, TSV or Parquet file with one row per image. Every row is checked when it is loaded, all problems are shown.

    Cells are text and stay text: an id ``001`` keeps its zeros, a class may be called ``NA``. Only blanks around a cell are removed.
    An image may have several classes: several label columns that say yes or no, or one column of classes with a separator between them.
    """

    name = "table"

    path: Path = option(help="the CSV, TSV or Parquet file (for Parquet: pip install 'simkit[parquet]')")
    image: str = option("path", "column that holds the path of the image")
    label: tuple[str, ...] | str = option(
        "label", 'column that holds the class; "" for an unlabelled set; several: one per class, with yes or no (1 or 0, true or false)')
    separator: str = option("", 'what stands between the classes of one cell ("|"), where an image may have several')
    none_label: str = option("", 'with a separator: what a cell says when an image has no class ("No Finding"); by default that is a class as others')
    group: str | None = option(None, 'column that holds the patient (or slide, volume); by default the column "group", where there is one; "" for none')
    split: str | None = option(None, 'column that holds train, val or test; by default the column "split", where there is one; "" for none')
    keep_splits: tuple[str, ...] = option((), "splits that are read; none named: all")
    root: Path | None = option(None, "folder that the paths start at; by default the folder of the table")
    tags: tuple[str, ...] = option((), "columns whose values are keywords of the whole set; one that is named like a notion also answers it")
    allow_outside: bool = option(False, "allow paths that lie outside the root")

    def load(self, name: str, base: Path) -> Dataset:
        """See :meth:`Source.load`; keys are the paths as the table writes them, classes are the labels, sorted."""
        self._check_label_options()
        path = located(self.path, base)
        if not path.exists():
            raise DataError("SK201", text_of(path), f"the table does not exist{nearest_entry(path)}", "check the path; relative paths start at the study file")
        root = located(self.root, base) if self.root is not None else path.parent
        if not root.is_dir():
            raise DataError("SK201", text_of(root), f"the root folder does not exist{nearest_entry(root)}", "correct the option root")
        table = read_parquet(path, self._columns) if path.suffix.lower() == ".parquet" else read_table(path)
        columns = _Columns.of(table, self)
        kept = _kept(table, columns.split, self.keep_splits)
        problems = Problems()
        rows = _Rows(table, columns, os.path.realpath(root), self.allow_outside, problems)
        rows.check(kept)
        tags, attributes = _tags(table, self.tags, kept, problems)
        problems.raise_if_any(DataError)
        labels, indicators, classes = self._labelled(table, columns.labels, rows.kept)
        return Dataset(
            name, tuple(rows.keys), FileReader(tuple(rows.paths), self.rules, tuple(rows.stamps)), labels, classes,
            rows.values(columns.group), rows.values(columns.split), tags=tags, attributes=attributes, origin=text_of(path),
            skipped=tuple(Skipped(name, key, reason) for key, reason in rows.skipped), indicators=indicators,
        )

    @property
    def _label_columns(self) -> tuple[str, ...]:
        return tuple(column for column in ((self.label,) if isinstance(self.label, str) else self.label) if column)

    @property
    def _columns(self) -> tuple[str | None, ...]:
        """The columns that the options name."""
        return (self.image, *self._label_columns, self.group, self.split, *self.tags)

    def _check_label_options(self) -> None:
        columns = self._label_columns
        if len(set(columns)) != len(columns):
            raise UsageError("SK102", "label", f"names a column twice: {', '.join(columns)}", "name each column once")
        if self.separator and len(columns) != 1:
            raise UsageError("SK102", "separator", f"is for one label column, {len(columns)} are named", "name one column, or leave the separator out")
        if self.none_label and not self.separator:
            raise UsageError("SK102", "none_label", "needs a separator: without one an image has exactly one class", 'give separator = "|" (or another)')

    def _labelled(self, table: RawTable, columns: Sequence[str], rows: Sequence[int]) -> tuple[np.ndarray | None, np.ndarray | None, tuple[str, ...]]:
        """Labels or indicators, and class names."""
        if len(columns) > 1:
            indicators, classes = indicators_of_columns(table, columns, rows), tuple(columns)
        elif self.separator:
            indicators, classes = indicators_of_cells(table, columns[0], rows, self.separator, self.none_label)
        else:
            labels, classes = _labels(table, columns[0] if columns else "", rows)
            if columns:
                check_class_names(classes, f"{table.path} (column '{columns[0]}')")
            return labels, None, classes
        check_class_names(classes, table.path)
        return None, indicators, classes


@dataclass(frozen=True)
class _Columns:
    """Names of the columns that are used; "" for one that is not."""

    image: str
    labels: tuple[str, ...]
    group: str
    split: str

    @property
    def described(self) -> tuple[str, ...]:
        """Columns that say something of an image, in which no cell may be empty."""
        return tuple(column for column in (*self.labels, self.group, self.split) if column)

    @classmethod
    def of(cls, table: RawTable, options: Table) -> _Columns:
        """The columns, each required when it was named.

        Raises:
            DataError: SK202 for every column that is missing.
        """
        problems, found = Problems(), ", ".join(repr(column) for column in table.columns)
        wanted = {"image": options.image, "group": options.group, "split": options.split}
        names = {role: name if name is not None else role if role in table.columns else "" for role, name in wanted.items()}
        labels = options._label_columns
        fixes = {"label": 'name the column by label = "...", or declare label = "" for an unlabelled set'}
        for role, column in [
            ("image", names["image"]), *(("label", column) for column in labels), ("group", names["group"]), ("split", names["split"]),
            *(("tags", column) for column in options.tags),
        ]:
            if (column or role == "image") and column not in table.columns:
                message = f"column '{column}' is missing{nearest(column, table.columns)}; columns found: {found}"
                problems.add("SK202", table.path, message, fixes.get(role, f'name the column by {role} = "..."'))
        if options.keep_splits and not names["split"]:
            problems.add("SK202", table.path, f"keep_splits is given, but there is no split column; columns found: {found}", 'name it by split = "..."')
        problems.raise_if_any(DataError)
        return cls(names["image"], labels, names["group"], names["split"])


def _kept(table: RawTable, split: str, keep: Sequence[str]) -> list[int]:
    """Rows of the splits that are wanted."""
    if not keep:
        return list(range(len(table)))
    values = [value.strip() for value in table.column(split)]
    problems = Problems()
    for wanted in keep:
        if wanted not in values:
            there = sorted(set(values))
            message = f"no row of split '{wanted}'{nearest(wanted, there)}; splits found: {', '.join(there[:10])}"
            problems.add("SK203", f"{table.path} (column '{split}')", message, "correct keep_splits")
    problems.raise_if_any(DataError)
    return [row for row, value in enumerate(values) if value in keep]


@dataclass
class _Rows:
    """Checks rows one by one and collects what is good, what is left out, and what is wrong."""

    table: RawTable
    columns: _Columns
    root: str
    allow_outside: bool
    problems: Problems

    def __post_init__(self) -> None:
        self.kept: list[int] = []
        self.keys: list[str] = []
        self.paths: list[str] = []
        self.stamps: list[Stamp] = []
        self.skipped: list[tuple[str, str]] = []
        self.first: dict[tuple[int, int], int] = {}

    def cell(self, row: int, column: str) -> str:
        return self.table.rows[row][self.table.columns.index(column)].strip()

    def values(self, column: str) -> tuple[str, ...] | None:
        return tuple(self.cell(row, column) for row in self.kept) if column else None

    def check(self, rows: Sequence[int]) -> None:
        for row in rows:
            for column in self.columns.described:
                if not self.cell(row, column):
                    self.problems.add("SK203", self.table.where(row, column), "the cell is empty", "fill it in, or remove the row")
            self._image(row)

    def _image(self, row: int) -> None:
        cell, where = self.cell(row, self.columns.image), self.table.where(row, self.columns.image)
        if not cell or "\0" in cell:
            message = "the cell is empty" if not cell else "the path holds a zero byte"
            self.problems.add("SK203", where, message, "write the path of the image, or remove the row")
            return
        path = os.path.normpath(os.path.join(self.root, cell))
        if not self.allow_outside and not is_inside(path, self.root):
            fix = "move the file, set root to a folder that holds all files, or declare allow_outside = true"
            self.problems.add("SK205", where, f"'{cell}' lies outside the root folder {text_of(self.root)}", fix)
            return
        try:
            status = os.stat(path)
        except OSError as error:
            self._missing(cell, where, error)
            return
        real = os.path.realpath(path)
        if not self.allow_outside and not is_inside(real, self.root):
            message = f"'{cell}' leads outside the root folder by a symbolic link (to {text_of(real)})"
            self.problems.add("SK205", where, message, "set root to the real folder, or declare allow_outside = true")
        elif not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            self.problems.add("SK205", where, f"'{cell}' is {what}, wanted an image file", "correct the path")
        else:
            self._add(row, cell, path, status)

    def _missing(self, cell: str, where: str, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            self.problems.add("SK205", where, f"'{cell}' cannot be read ({error.strerror})", "check the path and its permissions")
        elif "\\" in cell and os.path.exists(os.path.join(self.root, cell.replace("\\", "/"))):
            self.problems.add("SK205", where, f"'{cell}' does not exist", "write / instead of \\ between folders")
        else:
            fix = f"correct the path, or set root: paths start at {text_of(self.root)}"
            self.problems.add("SK205", where, f"'{cell}' does not exist", fix)

    def _add(self, row: int, key: str, path: str, status: os.stat_result) -> None:
        first = self.first.setdefault((status.st_dev, status.st_ino), row)
        if first != row:
            self._repeated(row, first, key)
        elif not os.access(path, os.R_OK):
            self.skipped.append((key, "no permission to read it"))
        else:
            self.kept.append(row)
            self.keys.append(key)
            self.paths.append(path)
            self.stamps.append(stamp_of(status))

    def _repeated(self, row: int, first: int, key: str) -> None:
        lines = self.table.lines
        for column in self.columns.described:
            if self.cell(row, column) != self.cell(first, column):
                values = f"'{self.cell(first, column)}' in line {lines[first]}, '{self.cell(row, column)}' in line {lines[row]}"
                message = f"'{key}' appears in lines {lines[first]} and {lines[row]} with different values: {values}"
                self.problems.add("SK204", self.table.where(row, column), message, "keep the right row")
                return
        self.skipped.append((key, f"repeated row: line {lines[row]} names the same file as line {lines[first]}, counted once"))


def _labels(table: RawTable, column: str, rows: Sequence[int]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Class indices and class names; a column of measurements is refused."""
    if not column:
        return None, ()
    position = table.columns.index(column)
    values = [table.rows[row][position].strip() for row in rows]
    classes = tuple(sorted(set(values)))
    if len(classes) > max(50, len(values) / 2) and all(_is_number(value) for value in classes):
        some = ", ".join(classes[:3])
        message = f"{len(classes)} different numbers in {len(values)} rows ({some}, ...): is this a measurement (regression)? Labels are classes"
        fix = 'name the column of classes, cut the values into classes, or declare label = ""'
        raise DataError("SK203", f"{table.path} (column '{column}')", message, fix)
    number = {name: index for index, name in enumerate(classes)}
    return np.array([number[value] for value in values], dtype=np.int64), classes


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _tags(table: RawTable, columns: Sequence[str], rows: Sequence[int], problems: Problems) -> tuple[tuple[str, ...], dict[str, str]]:
    """Keywords of the whole set, and answers to the notions whose names the columns bear."""
    tags: list[str] = []
    attributes: dict[str, str] = {}
    for column in columns:
        position = table.columns.index(column)
        first: dict[str, int] = {}
        for row in rows:
            value = table.rows[row][position].strip()
            if not value:
                problems.add("SK203", table.where(row, column), "the cell is empty", "fill it in, or leave the column out of tags")
            first.setdefault(value, row)
        if column in NOTIONS and len(first) > 1:
            (one, row), (other, other_row) = list(first.items())[:2]
            message = f"'{other}' here, '{one}' in line {table.lines[row]}: '{column}' describes the whole data set and can have one value only"
            problems.add("SK203", table.where(other_row, column), message, "split the table into one per data set, or leave the column out of tags")
        elif column in NOTIONS:
            attributes[column] = next(iter(first), "")
        tags += [value for value in sorted(first) if value not in tags]
    return tuple(tags), attributes
