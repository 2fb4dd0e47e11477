"""The cells of a recognised table as numbers, one per source-target pair and method (or replicate); every bad cell named at once."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from simkit.correlation.recognition import Layout
from simkit.errors import DataError, Problems, UsageError

__all__ = ["Pair", "Reading", "average", "is_share", "read", "refuse_lower_is_better"]

Pair: TypeAlias = tuple[str, str]
"""(source, target)."""

BETWEEN_0_AND_1 = re.compile(r"(auc|auroc|roc-auc|auc-roc)(-(binary|ovr|ovo|macro|micro|weighted|prevalence))*|(balanced-)?accuracy")
"""Metrics whose values lie between 0 and 1; a relative gain of AUC is not one of them."""

LOWER_IS_BETTER = re.compile(
    r"[a-z]*(loss|losses|errors?|crossentropy)|err|(r|rm|nrm|n)?mse|(n|s)?mae|s?mape|r?msle|wape|rmsd|brier|nll|bce|(t|s|a|m)?ece|eer|hter|[wc]er|hinge"
    r"|perplexity|ppl|deviance|misclassifications?|misclassified|fpr|fnr")
"""Words of a metric's name (without digits) that say: lower is better."""

LOWER_PHRASE = re.compile(r"cross-entropy|(false-(positive|negative|discovery)|miss|failure)-rate")
"""The same in several words."""

TURNED = re.compile(r"(^|-)(neg|negated|negative|minus|inverse|inverted|skill|reduction|improvement|gain)(-|$)")
"""What turns such a name round: "neg-log-loss", "Brier skill score", "relative error reduction"; a minus sign before it does too."""

SAME = 1e-9
"""Relative difference up to which a performance that is repeated in several rows counts as the same number."""


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
    """

    name: str
    scores: Mapping[str, Mapping[Pair, float]]
    higher_is_better: Mapping[str, bool]
    performance: Mapping[Pair, Mapping[str, float]]
    metric: str
    source_size: Mapping[str, float]
    notes: tuple[str, ...]
    undefined: tuple[tuple[Pair, str], ...] = ()


def average(values: Iterable[float]) -> float:
    """The mean, independent of the order of the values; of equal values exactly that value (a rounding error would break ties)."""
    values = list(values)
    return values[0] if all(value == values[0] for value in values) else math.fsum(values) / len(values)


def read(layout: Layout, *, metric: str | None = None, allow_missing: bool = False, aggregate: Literal["mean"] | None = None) -> Reading:
    """The numbers of a table.

    Args:
        layout: the table and the meaning of its columns.
        metric: of the performance; None takes it from the table.
        allow_missing: empty and NaN cells are left out and counted, instead of refused.
        aggregate: "mean" averages rows of the same key, instead of refusing them.

    Raises:
        DataError: text where a number belongs, a performance outside the metric's range, rows with the same key, a performance that
            differs between rows of one pair and replicate, different metrics within a target (or, over targets, others than areas under the ROC
            curve), an empty source or target.
        UsageError: ``metric`` contradicts the table, or the performance is a loss or an error (SK211).
    """
    return _Reader(layout, metric, allow_missing, aggregate).reading()


@dataclass
class _Reader:
    layout: Layout
    wanted_metric: str | None
    allow_missing: bool
    aggregate: Literal["mean"] | None
    problems: Problems = field(default_factory=Problems)
    notes: list[str] = field(default_factory=list)
    missing: dict[str, list[int]] = field(default_factory=dict)
    undefined: dict[tuple[Pair, str], None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.raw = self.layout.raw
        self.pairs: list[Pair] = list(zip(self.names("source"), self.names("target"), strict=True))
        self.methods = self.names("method") if self.layout.form == "long" else [""] * len(self.raw)
        self.replicates = self.optional("replicate")
        self.value_replicates = self.optional("value_replicate")

    def reading(self) -> Reading:
        metric = self.metric()
        self.duplicates()
        performance = self.performances(metric)
        scores = self.scores()
        directions = self.directions()
        sizes = self.sizes()
        self.problems.raise_if_any(DataError)
        self.missing_note()
        return Reading(self.raw.path, scores, directions, performance, metric, sizes, (*self.layout.notes, *self.notes), tuple(self.undefined))

    def names(self, role: str) -> list[str]:
        column = self.layout.columns[role]
        names = [cell.strip() for cell in self.raw.column(column)]
        for row, name in enumerate(names):
            if not name:
                self.problems.add("SK203", self.raw.where(row, column), "the cell is empty", f"give the name of the {role}")
        return names

    def optional(self, role: str) -> list[str]:
        column = self.layout.columns.get(role)
        return [cell.strip() for cell in self.raw.column(column)] if column is not None else [""] * len(self.raw)

    def numbers(self, column: str, low: float = -math.inf, high: float = math.inf) -> list[float]:
        """A column as numbers; every bad cell becomes a problem. NaN only where missing cells are allowed."""
        try:
            values = self.raw.numbers(column, low=low, high=high, empty=self.allow_missing)
        except DataError as error:
            self.problems.catch(error)
            return [math.nan] * len(self.raw)
        missing = [self.raw.lines[row] for row, value in enumerate(values) if math.isnan(value)]
        if missing:
            self.missing[column] = missing
        return values

    def missing_note(self) -> None:
        if self.missing:
            count = sum(len(lines) for lines in self.missing.values())
            alike: dict[tuple[int, ...], list[str]] = {}
            for column, lines in self.missing.items():
                alike.setdefault(tuple(lines), []).append(f"'{column}'")
            where = "; ".join(f"{', '.join(columns)} in {self.raw.unit}s {_shortened(map(str, lines))}" for lines, columns in alike.items())
            self.notes.append(f"{self.raw.path}: {count} empty cells left out ({where})")

    def at(self, row: int) -> str:
        return f"{self.raw.unit} {self.raw.lines[row]}"

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
            if not is_share(metric):
                self.notes.append(f"performance: '{metric}' is no metric that simkit knows: higher performance counts as better")
        return self.wanted_metric or ", ".join(said) or self.layout.performance_label

    def mixed_metrics(self, column: str, cells: list[str]) -> None:
        """One metric per target, and one kind over targets: targets of two and of many classes have different areas under the curve."""
        of_target: dict[str, int] = {}
        first = next(row for row, cell in enumerate(cells) if cell)
        for row, cell in enumerate(cells):
            same_target = of_target.setdefault(self.pairs[row][1], row) if cell else row
            other = same_target if cells[same_target] != cell else first if _kind(cells[first]) != _kind(cell) else row
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
        repeated = 0
        for row, (pair, method, replicate, value_replicate) in enumerate(zip(self.pairs, self.methods, self.replicates, self.value_replicates, strict=True)):
            key = (*pair, method, replicate, value_replicate)
            if key in seen and self.aggregate is None:
                message = f"the same {', '.join(roles)} as in {self.at(seen[key])}: {', '.join(part for part in key if part)}"
                fix = "remove one of the two, tell them apart by a column 'replicate', or average them (aggregate='mean')"
                self.problems.add("SK204", self.raw.line(row), message, fix)
            repeated += key in seen
            seen.setdefault(key, row)
        if repeated and self.aggregate is not None:
            self.notes.append(f"{self.raw.path}: {repeated} rows repeat the {', '.join(roles)} of another row: averaged")

    def performances(self, metric: str) -> dict[Pair, dict[str, float]]:
        bounded = all(BETWEEN_0_AND_1.fullmatch(_canonical(one)) for one in metric.split(", "))
        several = len(self.layout.performance) > 1
        cells: dict[tuple[Pair, str], dict[tuple[str, str], list[tuple[float, int]]]] = {}
        for column in self.layout.performance:
            values = self.numbers(column, 0.0, 1.0) if bounded else self.numbers(column)
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
            names = _shortened(f"{s} -> {t}" for s, t in sorted(set(self.pairs) - set(out)))
            self.notes.append(f"{self.raw.path}: {lost} pairs have no performance ({names})")
        counts = {len(replicates) for replicates in out.values()}
        if len(counts) > 1:
            self.notes.append(f"performance: pairs have {min(counts)} to {max(counts)} replicates")
        return out

    def one_performance(self, pair: Pair, replicate: str, said: list[list[tuple[float, int]]]) -> float:
        """The performance of a pair and replicate, which all rows of the pair must agree on."""
        means = [average(value for value, _ in rows) for rows in said]
        for mean, rows in zip(means[1:], said[1:], strict=True):
            if not math.isclose(mean, means[0], rel_tol=SAME, abs_tol=0.0):
                column = self.layout.performance[0] if len(self.layout.performance) == 1 else replicate
                what = f"{pair[0]} -> {pair[1]}" + (f", replicate {replicate}" if replicate else "")
                message = f"the performance of {what} is {mean:.10g}, and {means[0]:.10g} in {self.at(said[0][0][1])}"
                fix = "a pair has one performance per replicate: correct it, or add a column 'replicate'"
                self.problems.add("SK203", self.raw.where(rows[0][1], column), message, fix)
                break
        return means[0]

    def scores(self) -> dict[str, dict[Pair, float]]:
        cells: dict[str, dict[Pair, dict[tuple[str, str, str], list[float]]]] = {name: {} for name in self.layout.methods}
        long = self.layout.form == "long"
        new_name = {old: new for new, (old, *_) in self.layout.methods.items()}
        named = dict.fromkeys(column for columns in self.layout.methods.values() for column in columns)
        columns = [self.layout.columns["value"]] if long else list(named)
        for column in columns:
            values = self.numbers(column)
            readers = [] if long else [name for name, names in self.layout.methods.items() if column in names]
            for row, value in enumerate(values):
                for method in [new_name[self.methods[row]]] if long and self.methods[row] else readers:
                    if not math.isnan(value):
                        tag = (self.replicates[row], self.value_replicates[row], column)
                        cells[method].setdefault(self.pairs[row], {}).setdefault(tag, []).append(value)
        return {method: {pair: self.one_score(tags) for pair, tags in pairs.items()} for method, pairs in cells.items()}

    @staticmethod
    def one_score(tags: Mapping[tuple[str, str, str], list[float]]) -> float:
        return average(average(values) for values in tags.values())

    def directions(self) -> dict[str, bool]:
        column = self.layout.columns.get("higher_is_better")
        if column is None or self.layout.form == "wide":
            return {}
        words = {"true": True, "1": True, "yes": True, "1.0": True, "false": False, "0": False, "no": False, "0.0": False}
        new_name = {old: new for new, (old, *_) in self.layout.methods.items()}
        first: dict[str, tuple[bool, int]] = {}
        for row, cell in enumerate(self.raw.column(column)):
            text = cell.strip().lower()
            if text in ("", "nan", "na") or not self.methods[row]:
                continue
            if text not in words:
                self.problems.add("SK203", self.raw.where(row, column), f"'{cell.strip()}' is neither true nor false", "write true or false")
                continue
            said, line = first.setdefault(new_name[self.methods[row]], (words[text], self.raw.lines[row]))
            if said != words[text]:
                message = f"'{self.methods[row]}' is {text} here and {str(said).lower()} in {self.raw.unit} {line}"
                self.problems.add("SK211", self.raw.where(row, column), message, "a method has one direction")
        return {method: said for method, (said, _) in first.items()}

    def sizes(self) -> dict[str, float]:
        column = self.layout.columns.get("source_size")
        if column is None or not self.layout.methods:
            return {}
        out: dict[str, tuple[float, int]] = {}
        for row, value in enumerate(self.numbers(column)):
            if math.isnan(value):
                continue
            size, line = out.setdefault(self.pairs[row][0], (value, self.raw.lines[row]))
            if size != value:
                message = f"source '{self.pairs[row][0]}' has size {value:g}, and {size:g} in {self.raw.unit} {line}"
                self.problems.add("SK203", self.raw.where(row, column), message, "a source has one size")
        return {source: size for source, (size, _) in out.items()}


def _canonical(metric: str) -> str:
    return metric.strip().casefold().replace("_", "-")


def is_share(metric: str) -> bool:
    """Whether a performance of this metric lies in 0..1 (AUC, accuracy and their kin)."""
    return BETWEEN_0_AND_1.fullmatch(_canonical(metric)) is not None


def refuse_lower_is_better(metric: str, where: str) -> None:
    """Higher performance counts as better everywhere; a metric whose name says otherwise is refused.

    Raises:
        UsageError: the metric is a loss, an error or their kin (SK211).
    """
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "-", metric).casefold())
    name = re.sub(r"neg(ative)?-log-?likelihood", "nll", "-".join(words))
    lower = LOWER_PHRASE.search(name) or any(LOWER_IS_BETTER.fullmatch(word) for word in name.split("-"))
    if not lower or TURNED.search(name) or re.match(r"\s*1?\s*[-\u2212]", metric):
        return
    message = f"the performance is '{metric}', which by its name is better when lower: higher performance must be better, or the order is upside down"
    fix = f"negate the numbers and say so in the name of the metric ('minus {metric}'), or take another metric (such as metric='auc')"
    raise UsageError("SK211", where, message, fix)


def _kind(metric: str) -> str:
    """The metric, less how it is averaged over classes where it is an area under the ROC curve."""
    name = _canonical(metric)
    return "auc" if BETWEEN_0_AND_1.fullmatch(name) and "accuracy" not in name else name


def _shortened(names: Iterable[str], most: int = 10) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
