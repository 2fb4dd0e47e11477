"""The static list: how good a source is in general, from transfer results to other targets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from simkit.dataset import DatasetCard
from simkit.errors import DataError, Problems, nearest
from simkit.estimators.base import CardEstimator, Known, Score
from simkit.recipe import digest_file
from simkit.registry import option
from simkit.tables import RawTable, csv_text, read_table

if TYPE_CHECKING:
    from simkit.estimators.examples import Examples

__all__ = ["Static", "relative_ranks", "static_score"]

SCRATCH = "scratch"
"""How a table names training from random weights: no source, and no part of the ranks."""

TELL_APART = ("replicate", "fold", "seed")
"""Columns by which repeated runs of a pair are told apart."""

SHOWN = 8


def relative_ranks(values: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """(rank - 1/2) / n of each source among the n sources of a target, from above 0 (lowest value) to below 1 (highest); equal values share their ranks.

    Args:
        values: of each (source, target); higher is better.
    """
    out: dict[tuple[str, str], float] = {}
    for target in sorted({target for _, target in values}):
        column = {source: value for (source, other), value in values.items() if other == target}
        for source, value in column.items():
            below = sum((other < value) + 0.5 * (other == value) for other in column.values())
            out[source, target] = below / len(column)
    return out


def static_score(ranks: dict[tuple[str, str], float], source: str, target: str) -> tuple[float, int] | None:
    """(mean relative rank of a source in the targets other than ``target``, their number); None where it has no other target.

    The sum runs over the targets in the order of their names, and the mean is rounded to twelve digits, so that equal sums of ranks are equal numbers.
    """
    other = [ranks[pair] for pair in sorted(ranks) if pair[0] == source and pair[1] != target]
    return (round(sum(other) / len(other), 12), len(other)) if other else None


@dataclass(frozen=True)
class _Known:
    """The table: the digest of the file's content, relative ranks of its pairs, and rows that were averaged and left out."""

    content: str
    ranks: dict[tuple[str, str], float]
    rows: int
    left_out: int

    @property
    def sources(self) -> list[str]:
        return sorted({source for source, _ in self.ranks})

    def targets(self, source: str) -> list[str]:
        return sorted(target for name, target in self.ranks if name == source)


@dataclass(frozen=True)
class Static(CardEstimator):
    """The static list: how well the source transferred to the *other* targets of a table of transfer results, the target itself left out.

    Mean over the other targets of (rank - 1/2) / n, rank the source's place among the n sources of that target (1 is the worst; equal values share their
    ranks). Range 0 to 1, without unit; 1/2 is the middle, zero is out of reach (the worst of infinitely many). Higher is better. It knows nothing of the
    target, so a measure of similarity has to beat it. The same order of sources as the static baseline of `simkit correlate` on the same table; a
    target that the table does not hold is ranked by all targets of the table.

    One row a pair, or one row a run: rows of a pair that a column replicate, fold or seed tells apart are averaged first. Rows whose source is the
    target itself, and rows of the source ``scratch``, are left out, and counted in the detail. Where a column ``metric`` holds
    several for one target, ``metric`` says which counts. The table is read when the measure is made; its content, not its path, is part of the recipe.

    Raises:
        DataError: the file is missing or no table, a column is missing, a name is empty, a value is no finite number, a pair appears twice, or a
            target has several metrics and none was chosen.
    """

    path: Path = option(help="table of transfer results; a relative path starts at the current folder", recipe=False)
    source: str = option("source", "column of the source's name", recipe=False)
    target: str = option("target", "column of the target's name", recipe=False)
    value: str = option("performance", "column of the transfer result")
    better: Literal["higher", "lower"] = option("higher", "whether a higher or a lower value of that column is better")
    metric: str = option("", "which rows count, by their column metric; nothing: all, of one metric for each target")

    name = "static"
    kind = "transferability"
    symmetric = False
    higher_is_better = True
    reads_source_card = "name"
    bounds = (0.0, 1.0)
    unit = "mean relative rank in other targets"
    formula = "(1/T) Σ_{t ≠ target} (rank_t(source) − ½) / n_t"
    hazards = (
        "It knows nothing of the target: it says which sources were good elsewhere, and a measure of similarity has to beat it.",
        "Each source is ranked by the other targets of the table: with one or two of them it is mostly luck (number_of_targets in the detail).",
        "The table of `path` may mix protocols: keep to runs that were made alike.",
    )
    citation = "simkit: leave-target-out mean rank, simkit.correlation.statistics.static_scores"

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        _ = self._known  # a wrong table is an error of the set-up: found before any work

    @cached_property
    def _known(self) -> _Known:
        table = read_table(self.path)  # first: it says in words what is wrong with the file
        means, rows, left_out = self._means(table)
        return _Known(digest_file(self.path), relative_ranks(means), rows, left_out)

    def _means(self, table: RawTable) -> tuple[dict[tuple[str, str], float], int, int]:
        """(mean of each pair, negated where lower is better; rows that they are made of; rows left out)."""
        table.require(self.source, self.target, self.value)
        sources, targets = ([cell.strip() for cell in table.column(column)] for column in (self.source, self.target))
        numbers = table.numbers(self.value)
        apart = [table.column(column) for column in TELL_APART if column in table.columns and column not in (self.source, self.target, self.value)]
        problems, lines, runs, left_out = Problems(), dict[tuple[str, ...], int](), dict[tuple[str, str], list[float]](), 0
        for row in self._rows(table):
            pair = (sources[row], targets[row])
            for name, column in zip(pair, (self.source, self.target), strict=True):
                if not name:
                    problems.add("SK203", table.where(row, column), "the cell is empty", "write the name of the data set")
            if pair[0] == SCRATCH or pair[0] == pair[1]:
                left_out += 1
                continue
            key = (*pair, *(cells[row].strip() for cells in apart))
            if key in lines:
                message = f"source '{pair[0]}' and target '{pair[1]}' appear twice (first in line {lines[key]})"
                problems.add("SK204", f"{table.path}:{table.lines[row]}", message, "keep one row per run, or tell runs apart by a column 'replicate'")
            lines.setdefault(key, table.lines[row])
            runs.setdefault(pair, []).append(numbers[row])
        problems.raise_if_any(DataError)
        if not runs:
            raise DataError("SK202", table.path, "no row has a source other than its target", "give results of transfer from one data set to another")
        sign = 1.0 if self.better == "higher" else -1.0
        return {pair: sign * float(np.mean(values)) for pair, values in runs.items()}, sum(map(len, runs.values())), left_out

    def _rows(self, table: RawTable) -> list[int]:
        """Rows of the chosen metric; without a choice all rows, of one metric for each target."""
        if "metric" not in table.columns or "metric" in (self.source, self.target, self.value):
            if self.metric:
                raise DataError("SK202", table.path, f"metric = '{self.metric}' was chosen, and there is no column 'metric'", "leave metric out")
            return list(range(len(table)))
        cells, targets = ([cell.strip() for cell in table.column(column)] for column in ("metric", self.target))
        if self.metric:
            found = sorted(set(cells))
            if self.metric not in found:
                message = f"no row has the metric '{self.metric}'{nearest(self.metric, found)}; the table has {', '.join(found)}"
                raise DataError("SK202", table.path, message, "choose one of them")
            return [row for row, cell in enumerate(cells) if cell == self.metric]
        for target in sorted(set(targets)):
            several = sorted({cell for cell, other in zip(cells, targets, strict=True) if other == target})
            if len(several) > 1:
                message = f"target '{target}' has results of the metrics {', '.join(several)}"
                raise DataError("SK202", table.path, message, f"set metric = {several[0]} (or another of them)")
        return list(range(len(table)))

    def recipe(self) -> dict[str, Any]:
        """The options without the path, and the digest of the file's content."""
        return super().recipe() | {"content": self._known.content}

    def missing(self, known: Known, role: Literal["source", "target"]) -> str:
        """Why there is no value: a source that the table does not hold."""
        names = self._known.sources
        if role == "target" or known.name in names:
            return ""
        listed = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        return f"{self.name} has no row whose source is '{known.name}'{nearest(known.name, names)}; {self.path} has the sources {listed}"

    def compare(self, source: DatasetCard, target: DatasetCard, rng: np.random.Generator) -> Score:
        """The mean relative rank of the source in the targets other than this one; ``rng`` is not used.

        Raises:
            DataError: the source has results for this target only (SK209).
        """
        found = static_score(self._known.ranks, source.name, target.name)
        if found is None:
            message = f"the source '{source.name}' has a result for the target '{target.name}' only: there is no other target to rank it by"
            raise DataError("SK209", str(self.path), message, "add its results for other targets, or leave the pair out")
        value, count = found
        known = self._known
        targets = [name for name in known.targets(source.name) if name != target.name]
        detail = {"targets": targets, "number_of_targets": count, "rows": known.rows, "rows_left_out": known.left_out, "content": known.content}
        return Score(value, detail=detail)

    @classmethod
    def examples(cls, folder: Path) -> Examples:
        """Cards, and a table in which ``near`` transfers better than ``far`` to the other targets, for the contract check."""
        from simkit.estimators.examples import example_cards

        good = {"target": 0.95, "near": 0.9, "other-1": 0.8, "other-2": 0.7, "far": 0.6}
        rows = [(a, b, value - 0.01 * place) for a, value in good.items() for place, b in enumerate(good) if a != b]
        path = folder / "transfer.csv"
        path.write_text(csv_text(("source", "target", "performance"), rows), encoding="utf-8")
        return example_cards(options={"path": path})
