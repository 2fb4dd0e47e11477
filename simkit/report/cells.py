"""The numbers of a report, one per cell, with what must stand beside them: n, interval, rank, floor, flags. Text, figures and page agree
because they all read these."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from simkit.report.content import Content, MethodInfo

if TYPE_CHECKING:
    from simkit.correlation import Correlation, RankedSource

__all__ = [
    "ScoreCell", "TransferCell", "answer_of", "best_methods", "flags_of", "interval_text", "is_self_pair", "method_infos", "metric_in_full", "metric_of",
    "number", "p_text", "plural", "rankings", "score_cells", "shortened", "signed", "size_line", "statistic_name", "transfer_cells",
]

Interval = tuple[float, float]

METRICS = {
    "auc": "AUC", "auc-ovr-weighted": "AUC (one-vs-rest, prevalence-weighted)", "auc-ovr-macro": "AUC (one-vs-rest, mean over classes)",
    "relative-gain": "relative gain in %",
}
"""Metrics as readers know them; others are written as they are named."""

_GAIN = re.compile(r"relative gain of (.+) over (self|scratch), %")
"""How :mod:`simkit.correlation.gain` names its metric."""


@dataclass(frozen=True)
class TransferCell:
    """Measured performance of one source on one target.

    Attributes:
        source: name.
        target: name.
        mean: over the replicates that have a value; None when there is none.
        interval: 95 % interval of the mean, or None (fewer than two replicates).
        n: replicates with a value.
        undefined: replicates without one.
        rank: 1 is the best of the target; equal means share a rank; None for baselines and where the mean is undefined.
        tied: not distinguishable from the best.
        baseline: a reference such as training from scratch, not a source that one could choose.
        reason: why the mean, or some replicate, is undefined.
        flags: what its replicates are flagged with.
    """

    source: str
    target: str
    mean: float | None
    interval: Interval | None
    n: int
    undefined: int = 0
    rank: int | None = None
    tied: bool = False
    baseline: bool = False
    reason: str = ""
    flags: tuple[str, ...] = ()

    @property
    def rank_text(self) -> str:
        """``#1``; ``#2=`` when not distinguishable from the best; ``baseline``; "" when there is none."""
        if self.baseline:
            return "baseline"
        return "" if self.rank is None else f"#{self.rank}{'=' if self.tied else ''}"

    @property
    def text(self) -> str:
        """``0.912 [0.880, 0.940]``, or the reason why there is no number."""
        if self.mean is None:
            return f"undefined: {self.reason}" if self.reason else "undefined"
        return " ".join(part for part in (f"{self.mean:.3f}", interval_text(self.interval, 3)) if part)


@dataclass(frozen=True)
class ScoreCell:
    """What one measure says about one source-target pair (fields as in the score table).

    ``rank`` is that among the ``of`` sources of the target (1 is the most similar); the ``equal`` other sources of the same value share it.
    """

    source: str
    target: str
    method: str
    value: float
    interval: Interval | None
    floor: float | None
    n_source: int | None
    n_target: int | None
    converged: bool
    flags: tuple[str, ...]
    rank: int
    of: int
    equal: int = 0
    ceiling: float | None = None
    p: float | None = None
    matched: int | None = None
    kind: str = ""

    @property
    def chance(self) -> float | None:
        """The floor where it is the value that shuffled labels give (measures of transferability), else None."""
        return self.floor if self.kind == "transferability" else None

    @property
    def halves(self) -> float | None:
        """The floor where it is the value between two halves of the target (distances), else None."""
        return None if self.kind == "transferability" else self.floor

    @property
    def average_rank(self) -> float:
        """The mean of the ranks that it shares with equal values."""
        return self.rank + self.equal / 2

    @property
    def constant(self) -> bool:
        """Whether the measure has the same value for every source of the target, so that it orders nothing."""
        return self.of > 1 and self.equal == self.of - 1

    @property
    def rank_text(self) -> str:
        """``2 of 6``; ``1 to 3 of 6`` for the first of three equal values."""
        return f"{self.rank}{f' to {self.rank + self.equal}' if self.equal else ''} of {self.of}"

    @property
    def text(self) -> str:
        """``12.34 [11.20, 13.50] p 0.012``: value and interval to the same digits, and the p-value where there is one."""
        test = "" if self.p is None else f"p {p_text(self.p)}"
        return " ".join(part for part in (number(self.value), interval_text(self.interval), test) if part)


def number(value: float) -> str:
    """Four significant digits; whole numbers as such: 0.9123, 12.34, 7, 1234, 1.234e+06."""
    whole = abs(value) < 1e6 and (abs(value) >= 1000 or value == int(value))
    return f"{value:.0f}" if whole else f"{value:#.4g}".removesuffix(".")


def signed(value: float | None) -> str:
    """A coefficient with its sign and two digits; "undefined" for None."""
    return "undefined" if value is None else f"{value:+.2f}"


def p_text(value: float | None) -> str:
    """A p-value to three digits; "" for None."""
    return "" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def interval_text(interval: Interval | None, digits: int | None = None, *, sign: bool = False) -> str:
    """``[low, high]``, "" for None; ``digits`` after the point, four significant ones when not given."""
    if interval is None:
        return ""
    low, high = (number(end) if digits is None else f"{end:{'+' if sign else ''}.{digits}f}" for end in interval)
    return f"[{low}, {high}]"


def plural(count: int, one: str, many: str = "") -> str:
    """``1 image``, ``2 images``."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def flags_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The flags of a table's row, which may be one text or several."""
    flags = record.get("flags") or ()
    return tuple(part for part in flags.split("; ") if part) if isinstance(flags, str) else tuple(str(flag) for flag in flags)


def method_infos(content: Content) -> tuple[MethodInfo, ...]:
    """Every measure that is described, scored or unavailable, in this order; one that nobody described is described by its first row."""
    infos = {info.name: info for info in content.methods}
    for record in content.scores.records:
        if record["method"] not in infos:
            infos[record["method"]] = MethodInfo(record["method"], record.get("kind") or "distance", bool(record["higher_is_better"]))
    return tuple(infos.values())


def score_cells(content: Content) -> dict[tuple[str, str, str], ScoreCell]:
    """(method, target, source) -> cell, in the order of the score table. Equal values share the better rank."""
    return dict(_score_cells(content))


@lru_cache(maxsize=2)
def _score_cells(content: Content) -> dict[tuple[str, str, str], ScoreCell]:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in content.scores.records:
        groups.setdefault((record["method"], record["target"]), []).append(record)
    cells = {}
    for (method, target), records in groups.items():
        ordered = sorted(float(record["value"]) for record in records)
        for record in records:
            value = float(record["value"])
            below, upto = bisect_left(ordered, value), bisect_right(ordered, value)
            better = len(ordered) - upto if record["higher_is_better"] else below
            ends = record.get("lower"), record.get("upper")
            cells[method, target, record["source"]] = ScoreCell(
                source=record["source"], target=target, method=method, value=value,
                interval=None if ends[0] is None or ends[1] is None else (float(ends[0]), float(ends[1])),
                floor=record.get("floor"), n_source=record.get("n_source"), n_target=record.get("n_target"),
                converged=record.get("converged") is not False, flags=flags_of(record), rank=better + 1, of=len(records), equal=upto - below - 1,
                ceiling=record.get("ceiling"), p=record.get("p"), matched=record.get("matched"), kind=record.get("kind") or "",
            )
    return cells


@lru_cache(maxsize=2)
def metric_of(content: Content) -> str:
    """The performance metric as it is written beside numbers, for example ``AUC``; every way to average an AUC over classes is called so."""
    names = {_spelled(record["metric"]).split(" (")[0] for record in content.transfer.of_metric()} if content.transfer else set()
    return " / ".join(sorted(names)) or "performance"


def metric_in_full(content: Content, target: str | None = None) -> str:
    """The performance metric with the way it is averaged over classes, for captions: ``AUC (one-vs-rest, prevalence-weighted)``.

    Args:
        content: of the report.
        target: only the metric of this target; where None and the targets have different ones, each is named with its targets.
    """
    records = [record for record in (content.transfer.of_metric() if content.transfer else ()) if target in (None, record["target"])]
    found: dict[str, dict[str, None]] = {}
    for record in records:
        found.setdefault(_spelled(record["metric"]), {})[record["target"]] = None
    if len(found) > 1:
        return "; ".join(f"{metric} for {', '.join(targets)}" for metric, targets in found.items())
    return next(iter(found), "performance")


def _spelled(metric: str) -> str:
    gain = _GAIN.fullmatch(metric)
    if gain:
        return f"gain of {_spelled(gain[1]).split(' (')[0]} over {gain[2]} in %"
    return METRICS.get(metric.lower().replace("_", "-"), metric.replace("_", " "))


def answer_of(content: Content, target: str) -> str:
    """The answer about a target as the study has it, with the metric as :func:`metric_of` writes it; "" when there is none."""
    return re.sub(r"(?<![\w-])auc[-_]ovr[-_](weighted|macro)(?![\w-])", "AUC", content.answers.get(target, ""), flags=re.IGNORECASE)


def size_line(content: Content) -> str:
    """``7 sources, 2 targets, baseline scratch``."""
    from simkit.correlation.joining import SCRATCH

    baselines = [source for source in content.sources if source == SCRATCH]
    parts = [plural(len(content.sources) - len(baselines), "source"), plural(len(content.targets), "target")]
    return ", ".join([*parts, *(f"baseline {name}" for name in baselines)])


def shortened(names: Sequence[str], most: int = 8, *, separator: str = ", ") -> str:
    """The names, after ``most`` of them only how many there are more."""
    return separator.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def rankings(content: Content) -> dict[str, tuple[RankedSource, ...]]:
    """Target -> its sources, best first. Pairs that were measured but are not in the content's ranking are ranked here, by the same rule."""
    found = dict(content.ranking)
    known = {(target, row.source) for target, rows in found.items() for row in rows}
    if content.transfer and any((record["target"], record["source"]) not in known for record in content.transfer.records):
        from simkit.correlation import rank_sources

        for target, rows in rank_sources(content.transfer).items():
            more = [row for row in rows if (target, row.source) not in known]
            found[target] = (*found.get(target, ()), *more)
    return found


def transfer_cells(content: Content) -> dict[tuple[str, str], TransferCell]:
    """(target, source) -> cell, targets in the order of the ranking, sources best first."""
    return dict(_transfer_cells(content))


@lru_cache(maxsize=2)
def _transfer_cells(content: Content) -> dict[tuple[str, str], TransferCell]:
    reasons: dict[tuple[str, str], dict[str, None]] = {}
    flags: dict[tuple[str, str], dict[str, None]] = {}
    for record in content.transfer.of_metric() if content.transfer else ():
        if record.get("flags"):
            flags.setdefault((record["target"], record["source"]), {}).update(dict.fromkeys(flags_of(record)))
        if record.get("performance") is None:
            reasons.setdefault((record["target"], record["source"]), {}).update(dict.fromkeys(flags_of(record)))
    cells = {}
    for target, rows in rankings(content).items():
        means = [row.ordered_by for row in rows if row.ordered_by is not None and not row.baseline]
        for row in rows:
            ranked = row.mean is not None and not row.baseline
            rank = 1 + sum(mean > (row.ordered_by or 0.0) + 1e-12 for mean in means) if ranked else None
            cells[target, row.source] = TransferCell(row.source, target, row.mean, row.interval, row.n, row.undefined, rank, row.tied, row.baseline,
                                                     "; ".join(reasons.get((target, row.source), ())), tuple(flags.get((target, row.source), ())))
    return cells


def is_self_pair(content: Content, source: str, target: str) -> bool:
    """Whether source and target are the same data: by their names, or because the correlation was told so (``alias``)."""
    return source == target or (content.correlation is not None and f"{source} -> {target}" in content.correlation.self_pairs)


def statistic_name(found: Correlation) -> str:
    """The coefficient whose mean over targets is primary, as it is written: ``Spearman``, ``Kendall`` or ``weighted tau``."""
    from simkit.correlation.text import NAMES

    return NAMES[found.statistic]


def best_methods(content: Content, count: int) -> tuple[str, ...]:
    """The ``count`` measures with the highest mean correlation with transfer; without a correlation, the first of the study."""
    if content.correlation is None:
        return tuple(info.name for info in method_infos(content) if info.kind != "prior")[:count]
    defined = [result for result in content.correlation.methods if result.mean is not None]
    return tuple(result.method for result in sorted(defined, key=lambda result: -(result.mean or 0.0))[:count])
