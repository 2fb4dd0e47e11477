"""The cells of a recognised table as numbers, one per source-target pair and method (or replicate); every bad cell named at once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from simkit.correlation.columns import SAME, Columns, Pair, shortened
from simkit.correlation.metrics import GAIN, canonical, is_share, kind_of_metric, refuse_lower_is_better
from simkit.correlation.names import similar_data_sets, similar_names
from simkit.correlation.numerals import DecimalMark
from simkit.correlation.recognition import Layout, is_pattern, long_in_disguise
from simkit.errors import DataError, UsageError
from simkit.tables import IN_FULL, MISSING, BadCell, counted

__all__ = ["Pair", "Reading", "average", "read"]

Tags: TypeAlias = Mapping[tuple[str, str, str], list[float]]
"""(replicate, value_replicate, column) -> the values of one method and pair that stand there; several where rows repeat."""


@dataclass(frozen=True)
class Reading:
    """What one table says, with replicates of a score averaged.

    Attributes:
        name: the table, as messages name it.
        scores: method -> (source, target) -> score as the method defines it.
        higher_is_better: method -> direction, where the table states it.
        performance: (source, target) -> replicate -> performance.
        metric: of the performance; the column's name where the table does not say.
        source_size: source -> number of images, where the table holds it.
        notes: what was recognised, averaged and left out.
        undefined: the pairs and replicates whose performance is an empty cell.
        score_replicates: method -> (source, target) -> label -> score, of the methods whose score has several values for a pair; ``scores``
            holds their averages. The label is the column of a wide table, ``value_replicate``, or ``replicate`` where the score differs with it.
        source_group: source -> group, of the sources for which the table names one.
        performance_sd: (source, target) -> standard deviation of the noise of the performance as it is given.
        warnings: names that are almost the same, and runs that are leaky.
        columns: of the table; those of a wide one are methods as soon as they are named.
    """

    name: str
    scores: Mapping[str, Mapping[Pair, float]]
    higher_is_better: Mapping[str, bool]
    performance: Mapping[Pair, Mapping[str, float]]
    metric: str
    source_size: Mapping[str, float]
    notes: tuple[str, ...]
    undefined: tuple[tuple[Pair, str], ...] = ()
    score_replicates: Mapping[str, Mapping[Pair, Mapping[str, float]]] = field(default_factory=dict)
    source_group: Mapping[str, str] = field(default_factory=dict)
    performance_sd: Mapping[Pair, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


def average(values: Iterable[float]) -> float:
    """The mean, independent of the order of the values; of equal values exactly that value (a rounding error would break ties)."""
    values = list(values)
    return values[0] if all(value == values[0] for value in values) else math.fsum(values) / len(values)


def read(
    layout: Layout, *, metric: str | None = None, allow_missing: bool = False, aggregate: Literal["mean"] | None = None, decimal: DecimalMark = ".",
) -> Reading:
    """The numbers of a table.

    Args:
        layout: the table and the meaning of its columns.
        metric: of the performance; None takes it from the table.
        allow_missing: empty and NaN cells are left out and counted, instead of refused.
        aggregate: "mean" averages rows of the same key, instead of refusing them.
        decimal: "," states that numbers are written 0,93. A table in which no number is written so is read with decimal points.

    Raises:
        DataError: text where a number belongs, a performance outside the metric's range, rows with the same key, a performance that
            differs between rows of one pair and replicate, different metrics within a target (or, over targets, others than areas under the ROC
            curve), an empty source or target, sizes, groups or noise on which rows do not agree, numbers with the other decimal mark.
        UsageError: ``metric`` contradicts the table, the performance is a loss or an error (SK211), or another decimal mark.
    """
    if decimal not in (".", ","):
        raise UsageError("SK102", "decimal", f"{decimal!r} is no decimal mark", "give '.' or ','")
    return _Reader(layout, allow_missing, decimal, wanted_metric=metric, aggregate=aggregate).reading()


@dataclass
class _Reader(Columns):
    wanted_metric: str | None = None
    aggregate: Literal["mean"] | None = None
    undefined: dict[tuple[Pair, str], None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.methods = self.names("method") if self.layout.form == "long" else [""] * len(self.raw)
        self.replicates = self.optional("replicate")
        if self.layout.by_metric:
            self.wanted_metric = None  # its rows were chosen
        self.value_replicates = self.optional("value_replicate")

    def reading(self) -> Reading:
        metric = self.metric()
        self.duplicates()
        performance = self.performances(metric)
        scores, replicates = self.scores()
        directions = self.directions()
        sizes, groups, noise = self.source_sizes(), self.source_groups(), self.performance_sds(performance)
        leaky = self.leaky_runs()
        self.raw.report(self.problems, self.bad)
        self.problems.raise_if_any(DataError)
        self.missing_note()
        named = {*performance, *(pair for pairs in scores.values() for pair in pairs)}
        warnings = (*similar_data_sets(named), *similar_names(scores, "methods"), *similar_names(groups.values(), "groups of sources"), *leaky)
        return Reading(
            self.raw.path, scores, directions, performance, metric, sizes, (*self.layout.notes, *self.notes), tuple(self.undefined),
            replicates, groups, noise, warnings, self.raw.columns,
        )

    def metric(self) -> str:
        if not self.layout.performance:
            return ""
        column = self.layout.columns.get("performance_metric")
        cells = [cell.strip() for cell in self.raw.column(column)] if column is not None else []
        said = sorted({cell for cell in cells if cell})
        if len(said) > 1 and column is not None:
            self.mixed_metrics(column, cells)
        if said and self.wanted_metric is not None and said != [self.wanted_metric]:
            message = f"'{self.wanted_metric}' is asked for, {self.raw.path} holds '{', '.join(said)}'"
            raise UsageError("SK102", "metric", message, "leave the option out, or give the other table")
        for metric in [self.wanted_metric] if self.wanted_metric else said or [self.layout.performance_label]:
            refuse_lower_is_better(metric, self.raw.path)
            if is_share(metric) or (self.layout.by_metric and canonical(metric) == GAIN):
                continue
            named = metric in said or metric == self.wanted_metric or not (is_pattern(metric) or metric.casefold() == "performance")
            what = f"'{metric}' is no metric that simkit knows" if named else "no metric is stated (metric='auc', --metric auc)"
            self.notes.append(f"performance: {what}: higher performance counts as better")
        return self.wanted_metric or ", ".join(said) or self.layout.performance_label

    def mixed_metrics(self, column: str, cells: list[str]) -> None:
        """One metric per target, and one kind over targets: targets of two and of many classes have different areas under the curve."""
        of_target: dict[str, int] = {}
        first = next(row for row, cell in enumerate(cells) if cell)
        for row, cell in enumerate(cells):
            same_target = of_target.setdefault(self.pairs[row][1], row) if cell else row
            other = same_target if cells[same_target] != cell else first if kind_of_metric(cells[first]) != kind_of_metric(cell) else row
            if cell and other != row:
                message = f"the metric is '{cell}', and '{cells[other]}' in {self.at(other)}"
                fix = "keep the rows of one metric: numbers of different metrics cannot be ranked or averaged together"
                self.problems.add("SK203", self.raw.where(row, column), message, fix)
                return
        self.notes.append(f"{self.raw.path}: the metric differs between targets ({', '.join(sorted({cell for cell in cells if cell}))}), not within one")

    def duplicates(self) -> None:
        columns = self.layout.columns
        roles = ["source", "target", *(["method"] if self.layout.form == "long" else []), *(r for r in ("replicate", "value_replicate") if r in columns)]
        seen: dict[tuple[str, ...], int] = {}
        repeated: list[int] = []
        fix = "remove one of the two, tell them apart by a column 'replicate', or average them: aggregate='mean' (--aggregate mean)"
        if self.layout.form == "wide" and (column := long_in_disguise(self.raw)):
            fix += f"; for a long table, call the column '{column}' 'method' and that of its numbers 'value'"
        for row, (pair, method, replicate, value_replicate) in enumerate(zip(self.pairs, self.methods, self.replicates, self.value_replicates, strict=True)):
            key = (*pair, method, replicate, value_replicate)
            if key not in seen:
                seen[key] = row
                continue
            repeated.append(row)
            if self.aggregate is None and len(repeated) <= IN_FULL:
                message = f"the same {', '.join(roles)} as in {self.at(seen[key])}: {', '.join(part for part in key if part)}"
                self.problems.add("SK204", self.raw.line(row), message, fix)
        if self.aggregate is None and (rest := repeated[IN_FULL:]):
            message = f"and {counted(len(rest), 'more row')} ({self.raw.places(rest)}): the same {', '.join(roles)} as in a row above"
            self.problems.add("SK204", self.raw.path, message, fix)
        elif repeated and self.aggregate is not None:
            verb = "repeats" if len(repeated) == 1 else "repeat"
            self.notes.append(f"{self.raw.path}: {counted(len(repeated), 'row')} {verb} the {', '.join(roles)} of another row: averaged")

    def performances(self, metric: str) -> dict[Pair, dict[str, float]]:
        bounded = all(is_share(one) for one in metric.split(", "))
        several = len(self.layout.performance) > 1
        cells: dict[tuple[Pair, str], dict[tuple[str, str], list[tuple[float, int]]]] = {}
        for column in self.layout.performance:
            values = self.shares(column, self.in_percent(metric)) if bounded else self.numbers(column)
            for row, value in enumerate(values):
                replicate = "/".join(part for part in (self.replicates[row], column if several else "") if part)
                if math.isnan(value):
                    self.undefined[self.pairs[row], replicate] = None
                else:
                    said = cells.setdefault((self.pairs[row], replicate), {})
                    said.setdefault((self.methods[row], self.value_replicates[row]), []).append((value, row))
        out: dict[Pair, dict[str, float]] = {}
        for (pair, replicate), said in cells.items():
            out.setdefault(pair, {})[replicate] = self.one_performance(pair, replicate, list(said.values()))
        lost = len(set(self.pairs) - set(out)) if self.layout.performance and not self.problems.found else 0
        if lost:
            names = shortened(f"{s} -> {t}" for s, t in sorted(set(self.pairs) - set(out)))
            self.notes.append(f"{self.raw.path}: {counted(lost, 'pair')} {'has' if lost == 1 else 'have'} no performance ({names})")
        counts = {len(replicates) for replicates in out.values()}
        if len(counts) > 1:
            self.notes.append(f"performance: pairs have {min(counts)} to {max(counts)} replicates")
        return out

    def in_percent(self, metric: str) -> str:
        """How one says that performances are percent: where the metric is stated."""
        said = any(self.optional("performance_metric"))
        column = self.layout.columns.get("performance_metric")
        return f"'{metric} in percent' in column '{column}'" if said else f"metric='{metric} in percent', --metric '{metric} in percent'"

    def one_performance(self, pair: Pair, replicate: str, said: list[list[tuple[float, int]]]) -> float:
        """The performance of a pair and replicate, which all rows of the pair must agree on."""
        means = [average(value for value, _ in rows) for rows in said]
        for mean, rows in zip(means[1:], said[1:], strict=True):
            if not math.isclose(mean, means[0], rel_tol=SAME, abs_tol=0.0):
                column = self.layout.performance[0] if len(self.layout.performance) == 1 else replicate
                what = f"{pair[0]} -> {pair[1]}" + (f", replicate {replicate}" if replicate else "")
                message = f"the performance of {what} is {mean:.10g}, and {means[0]:.10g} in {self.at(said[0][0][1])}"
                fix = "a pair has one performance per replicate: correct it, or add a column 'replicate'"
                self.bad.append(BadCell(rows[0][1], column, "another performance than a line above says", message, fix))
                break
        return means[0]

    def scores(self) -> tuple[dict[str, dict[Pair, float]], dict[str, dict[Pair, dict[str, float]]]]:
        """Method -> pair -> score, and the replicates of the scores that have some.

        One method after the other: the cells of a table of a thousand methods, each with what tells it apart, would take gigabytes.
        """
        scores, replicates = {}, {}
        for method, cells in self.score_cells():
            scores[method] = {pair: _score(tags) for pair, tags in cells.items()}
            if any(len(tags) > 1 for tags in cells.values()) and (labelled := self.labelled(method, cells)):
                replicates[method] = labelled
        return scores, replicates

    def score_cells(self) -> Iterator[tuple[str, Mapping[Pair, Tags]]]:
        """Each method with the values of its pairs and what tells them apart."""
        columns = self.layout.methods
        if self.layout.form == "wide":
            uses = Counter(column for names in columns.values() for column in names)
            read = {column: self.numbers(column) for column, count in uses.items() if count > 1}  # what is wrong with a column is said once
            for method, names in columns.items():
                rows = ((row, column, value) for column in names for row, value in enumerate(read[column] if column in read else self.numbers(column)))
                yield method, self.tagged(rows)
            return
        column = self.layout.columns["value"]
        values = self.numbers(column)
        new_name = {old: new for new, (old, *_) in columns.items()}
        rows_of: dict[str, list[int]] = {method: [] for method in columns}
        for row, name in enumerate(self.methods):
            if name:
                rows_of[new_name[name]].append(row)
        for method, own in rows_of.items():
            yield method, self.tagged((row, column, values[row]) for row in own)

    def tagged(self, rows: Iterable[tuple[int, str, float]]) -> Mapping[Pair, Tags]:
        cells: dict[Pair, dict[tuple[str, str, str], list[float]]] = {}
        for row, column, value in rows:
            if not math.isnan(value):
                cells.setdefault(self.pairs[row], {}).setdefault((self.replicates[row], self.value_replicates[row], column), []).append(value)
        return cells

    def labelled(self, method: str, cells: Mapping[Pair, Tags]) -> dict[Pair, dict[str, float]]:
        """Pair -> label -> score of a method of which some pair has several labels; else empty.

        A replicate of the performance is one of the score only where the score differs with it (a measure of each fold's network); where it
        is the same number in every row, it is one value that was repeated.
        """
        several = self.layout.form == "wide" and len(self.layout.methods[method]) > 1
        by_replicate = not any(self.value_replicates) and any(_differs(tags) for tags in cells.values())
        out: dict[Pair, dict[str, float]] = {}
        for pair, tags in cells.items():
            alike: dict[str, dict[tuple[str, str, str], list[float]]] = {}
            for (replicate, value_replicate, column), values in tags.items():
                parts = (replicate if by_replicate else value_replicate, column if several else "")
                alike.setdefault("/".join(part for part in parts if part), {})[replicate, value_replicate, column] = values
            out[pair] = {label: _score(same) for label, same in alike.items()}
        return out if any(len(labels) > 1 for labels in out.values()) else {}

    def directions(self) -> dict[str, bool]:
        column = self.layout.columns.get("higher_is_better")
        if column is None or self.layout.form == "wide":
            return {}
        words = {"true": True, "1": True, "yes": True, "1.0": True, "false": False, "0": False, "no": False, "0.0": False}
        new_name = {old: new for new, (old, *_) in self.layout.methods.items()}
        first: dict[str, tuple[bool, int]] = {}
        for row, cell in enumerate(self.raw.column(column)):
            text = cell.strip().lower()
            if text in MISSING or not self.methods[row]:
                continue
            if text not in words:
                what = "neither true nor false"
                self.bad.append(BadCell(row, column, what, f"'{cell.strip()}' is {what}", "write true or false"))
                continue
            said, line = first.setdefault(new_name[self.methods[row]], (words[text], self.raw.lines[row]))
            if said != words[text]:
                message = f"'{self.methods[row]}' is {text} here and {str(said).lower()} in {self.raw.unit} {line}"
                self.bad.append(BadCell(row, column, "another direction than a line above says", message, "a method has one direction", "SK211"))
        return {method: said for method, (said, _) in first.items()}


def _score(tags: Tags) -> float:
    return average(average(values) for values in tags.values())


def _differs(tags: Tags) -> bool:
    """Whether the score of a pair differs between replicates of the performance, within a column."""
    first: dict[str, float] = {}
    return any(not math.isclose(first.setdefault(column, average(values)), average(values), rel_tol=SAME, abs_tol=0.0)
               for (_, _, column), values in tags.items())
