"""Columns of a recognised table: cells with their place, numbers, and the facts of a source or a pair that its rows repeat."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from simkit.correlation.names import shortened
from simkit.correlation.numerals import DecimalMark, has_decimal_comma, in_percent, numbers
from simkit.correlation.recognition import Layout
from simkit.errors import DataError, Problems
from simkit.tables import IF_OUTSIDE, BadCell, counted

__all__ = ["SAME", "Columns", "Pair", "shortened"]

Pair: TypeAlias = tuple[str, str]
"""(source, target)."""

SAME = 1e-9
"""Relative difference up to which a number that is repeated in several rows counts as the same number."""


@dataclass
class Columns:
    """The columns of a table; what is wrong with their cells is collected in ``problems`` and ``bad``, what was left out in ``notes`` and ``missing``."""

    layout: Layout
    allow_missing: bool
    decimal: DecimalMark = "."
    problems: Problems = field(default_factory=Problems)
    notes: list[str] = field(default_factory=list)
    missing: dict[str, list[int]] = field(default_factory=dict)
    bad: list[BadCell] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.raw = self.layout.raw
        self.pairs: list[Pair] = list(zip(self.names("source"), self.names("target"), strict=True))
        if self.decimal == ",":
            self.decimal = self._decimal()

    def names(self, role: str) -> list[str]:
        """A column of names, none of which may be empty."""
        column = self.layout.columns[role]
        names = [cell.strip() for cell in self.raw.column(column)]
        empty = (row for row, name in enumerate(names) if not name)
        self.raw.report(self.problems, (BadCell(row, column, "no name", "the cell is empty", f"give the name of the {role}") for row in empty))
        return names

    def optional(self, role: str) -> list[str]:
        """The cells of a column, all empty where the table has none of that role."""
        column = self.layout.columns.get(role)
        return [cell.strip() for cell in self.raw.column(column)] if column is not None else [""] * len(self.raw)

    def numbers(self, column: str) -> list[float]:
        """A column as numbers; bad cells become problems. NaN only where missing cells are allowed."""
        return self._less_missing(column, self._numbers(column, -math.inf, math.inf, self.allow_missing))

    def shares(self, column: str, say_percent: str) -> list[float]:
        """:meth:`numbers` that must lie in 0..1; ``say_percent`` is how one says that they are percent."""
        fix = f"they look like percent: divide them by 100, or say what they are ({say_percent})" if in_percent(self.raw.column(column)) else IF_OUTSIDE
        return self._less_missing(column, self._numbers(column, 0.0, 1.0, self.allow_missing, fix))

    def _less_missing(self, column: str, values: list[float]) -> list[float]:
        missing = [self.raw.lines[row] for row, value in enumerate(values) if math.isnan(value)]
        if missing:
            self.missing[column] = missing
        return values

    def _decimal(self) -> DecimalMark:
        """How this table writes numbers where decimal commas are stated, which holds for all tables of a call: one that has none is read with points."""
        roles = ("source", "target", "method", "replicate", "value_replicate", "performance_metric", "source_group")
        words = {self.layout.columns[role] for role in roles if role in self.layout.columns}
        held = any(has_decimal_comma(cell) for column in self.raw.columns if column and column not in words for cell in self.raw.column(column))
        self.notes.append(f"{self.raw.path}: {'numbers have a decimal comma (stated)' if held else 'no number has a decimal comma: read with decimal points'}")
        return "," if held else "."

    def _numbers(self, column: str, low: float, high: float, empty: bool, if_outside: str = IF_OUTSIDE) -> list[float]:
        try:
            return numbers(self.raw, column, decimal=self.decimal, low=low, high=high, empty=empty, if_outside=if_outside)
        except DataError as error:
            self.problems.catch(error)
            return [math.nan] * len(self.raw)

    def at(self, row: int) -> str:
        """Where a row stands, without the name of the table: "line 17"."""
        return f"{self.raw.unit} {self.raw.lines[row]}"

    def missing_note(self) -> None:
        """Notes how many cells are empty, and where."""
        if self.missing:
            count = sum(len(lines) for lines in self.missing.values())
            alike: dict[tuple[int, ...], list[str]] = {}
            for column, lines in self.missing.items():
                alike.setdefault(tuple(lines), []).append(f"'{column}'")
            where = "; ".join(f"{', '.join(columns)} in {self.raw.unit}{'s' if len(lines) > 1 else ''} {shortened(map(str, lines))}"
                              for lines, columns in alike.items())
            self.notes.append(f"{self.raw.path}: {counted(count, 'empty cell')} left out ({where})")

    def source_sizes(self) -> dict[str, float]:
        """Source -> number of images: what ``source_size`` says, else ``n_source`` of a long table where all rows of the source agree."""
        column = self.layout.columns.get("source_size")
        if not self.layout.methods:
            return {}
        if column is None:
            return self._images() if self.layout.form == "long" and "n_source" in self.layout.columns else {}
        out: dict[str, tuple[float, int]] = {}
        for row, value in enumerate(self.numbers(column)):
            if math.isnan(value):
                continue
            source = self.pairs[row][0]
            size, first = out.setdefault(source, (value, row))
            if size != value:
                message = f"source '{source}' has size {value:g}, and {size:g} in {self.at(first)}"
                self.bad.append(BadCell(row, column, "another size than a line above says", message, "a source has one size"))
        return {source: size for source, (size, _) in out.items()}

    def _images(self) -> dict[str, float]:
        """Sizes from ``n_source``, the images that a measure read: it may read fewer than there are, so rows of one source may differ."""
        column = self.layout.columns["n_source"]
        said: dict[str, set[float]] = {}
        for (source, _), value in zip(self.pairs, self._numbers(column, 0.0, math.inf, True), strict=True):
            if not math.isnan(value):
                said.setdefault(source, set()).add(value)
        out = {source: min(values) for source, values in said.items() if len(values) == 1}
        if out:
            self.notes.append(f"{self.raw.path}: the size of a source is taken from column '{column}'")
        if len(out) < len(said):
            names = shortened(sorted(set(said) - set(out)))
            unknown = counted(len(said) - len(out), "source")
            self.notes.append(f"{self.raw.path}: no size is known for {unknown}, whose rows differ in column '{column}' ({names})")
        return out

    def source_groups(self) -> dict[str, str]:
        """Source -> group, for the sources that are given one; a source with empty cells only is a group of its own."""
        column = self.layout.columns.get("source_group")
        out: dict[str, tuple[str, int]] = {}
        for row, group in enumerate(self.optional("source_group")):
            if column is None or not group:
                continue
            source = self.pairs[row][0]
            first_group, first = out.setdefault(source, (group, row))
            if first_group != group:
                message = f"source '{source}' is in group '{group}', and in '{first_group}' in {self.at(first)}"
                self.bad.append(BadCell(row, column, "another group than a line above says", message, "a source belongs to one group"))
        return {source: group for source, (group, _) in out.items()}

    def performance_sds(self, performance: Mapping[Pair, Collection[str]]) -> dict[Pair, float]:
        """Pair -> standard deviation of the noise of its performance; ``performance`` holds the replicates of each pair."""
        column = self.layout.columns.get("performance_sd")
        if column is None or not self.layout.performance:
            return {}
        out: dict[Pair, tuple[float, int]] = {}
        for row, value in enumerate(self._numbers(column, 0.0, math.inf, True)):
            if math.isnan(value):
                continue
            pair = self.pairs[row]
            sd, first = out.setdefault(pair, (value, row))
            if not math.isclose(sd, value, rel_tol=SAME, abs_tol=0.0):
                message = f"the standard deviation of {pair[0]} -> {pair[1]} is {value:.10g}, and {sd:.10g} in {self.at(first)}"
                self.bad.append(BadCell(row, column, "another standard deviation than a line above says", message, "a pair has one performance_sd"))
        several = next((pair for pair, replicates in performance.items() if len(replicates) > 1), None)
        if out and several is not None:
            message = f"column '{column}' stands beside replicates of the performance ({several[0]} -> {several[1]} has {len(performance[several])})"
            fix = "leave the column out: replicates show the noise themselves; or give one mean performance per pair with its performance_sd"
            self.problems.add("SK202", self.raw.path, message, fix)
        unknown = len(set(performance) - set(out))
        if out and unknown:
            self.notes.append(f"{self.raw.path}: '{column}' is empty for {unknown} of {len(performance)} pairs: the noise of these is not known")
        return {pair: sd for pair, (sd, _) in out.items() if pair in performance}

    def leaky_runs(self) -> list[str]:
        """A warning where sources were pretrained on images that the target is tested on, in a table that says so."""
        column = self.layout.columns.get("leaky")
        if column is None or not self.layout.performance:
            return []
        seen = self._numbers(column, 0.0, math.inf, True)
        leaky = Counter(pair for pair, count in zip(self.pairs, seen, strict=True) if count > 0)
        if not leaky:
            return []
        each = shortened(f"{source} -> {target} {count}" for (source, target), count in leaky.items())
        return [f"{leaky.total()} of {counted(len(seen), 'run')} {'is' if leaky.total() == 1 else 'are'} leaky: the pretraining of the source has seen images "
                f"that the target is tested on, so that the performance may be too high ({each})"]
