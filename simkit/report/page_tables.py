"""The tables of the page: each with its text for readers, its numbers for sorting, and its CSV with full precision."""

from __future__ import annotations

import base64
import dataclasses
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from simkit.report.cautions import influence_text, range_text, undefined_reason
from simkit.report.cells import (
    TransferCell,
    flags_of,
    interval_text,
    method_infos,
    metric_in_full,
    metric_of,
    number,
    p_text,
    rankings,
    score_cells,
    signed,
    statistic_name,
    transfer_cells,
)
from simkit.report.closeness import closeness
from simkit.report.content import Content
from simkit.report.text import colour_text, has_signs, remark
from simkit.tables import csv_text

if TYPE_CHECKING:
    from simkit.correlation import TargetResult

__all__ = ["PageCell", "PageTable", "closeness_table", "make_table", "number_cell", "packed", "page_tables", "ranking_table", "text_cell"]

PLAIN, LARGEST = 1_000_000, 4_000_000
"""Bytes above which a file inside the page is compressed; bytes, compressed, above which it is not in the page."""

INTERVALS = "95 % intervals allow for the training images that folds share (Nadeau and Bengio 2003)"


@dataclass(frozen=True)
class PageCell:
    """What a cell shows, and the number that it is sorted by (None sorts by the text)."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class PageTable:
    """A table of the page.

    Attributes:
        name: id on the page and name of the CSV file.
        caption: one line.
        columns: headings.
        numeric: whether a column holds numbers, one per heading.
        rows: cells.
        csv: the same numbers in full precision, with their own columns.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[PageCell, ...], ...]
    csv: str

    @cached_property
    def download(self) -> tuple[str, str]:
        """Name and data: address of the CSV, so that it can be saved with scripts off and no network; no address for one too large for a page."""
        return packed(f"{self.name}.csv", self.csv, "text/csv;charset=utf-8")


def text_cell(value: Any) -> PageCell:
    """Text; nothing for None."""
    return PageCell("" if value is None else str(value))


def number_cell(value: float | None, digits: int | None = None) -> PageCell:
    """A number to four significant digits, or to ``digits`` after the point; nothing for None."""
    if value is None:
        return PageCell("")
    return PageCell(number(value) if digits is None else f"{value:.{digits}f}", float(value))


_text, _number = text_cell, number_cell


def packed(name: str, text: str, kind: str) -> tuple[str, str]:
    """A file name and a data: address for a text: as it is, above 1 MB compressed (gzip), and above 4 MB even so no address at all ("")."""
    data = text.encode("utf-8", errors="replace")
    if len(data) > PLAIN:
        name, kind, data = f"{name}.gz", "application/gzip", gzip.compress(data, 6, mtime=0)
    if len(data) > LARGEST:
        return name.removesuffix(".gz"), ""
    return name, f"data:{kind};base64," + base64.b64encode(data).decode("ascii")


def make_table(name: str, caption: str, columns: Sequence[tuple[str, bool]], rows: Sequence[Sequence[PageCell]], csv: str) -> PageTable:
    """A table whose columns are given as (heading, whether they hold numbers)."""
    return PageTable(name, caption, tuple(c for c, _ in columns), tuple(n for _, n in columns), tuple(tuple(row) for row in rows), csv)


def _ends(interval: tuple[float, float] | None) -> tuple[float | None, float | None]:
    return interval or (None, None)


def closeness_table(content: Content, name: str, target: str) -> PageTable | None:
    """The order in which each measure puts the sources of one target."""
    columns = [("measure", False), ("kind", False), ("sources, most similar first", False), ("value of the first", True), ("95 % interval", False),
               ("remark", False)]
    rows, raw = [], []
    for one in closeness(content, target):
        first = one.cells[0]
        rows.append([_text(one.method.name), _text(one.method.kind), _text(one.order), _number(first.value), _text(interval_text(first.interval)),
                     _text(one.remark)])
        raw += [[target, one.method.name, one.method.kind, cell.rank, cell.equal, cell.source, cell.value, *_ends(cell.interval), list(cell.flags)]
                for cell in one.cells]
    if not rows:
        return None
    head = ["target", "method", "kind", "rank", "equal", "source", "value", "lower", "upper", "flags"]
    caption = f"Sources for {target} as each measure orders them (= joins equal values); overlapping intervals do not tell sources apart"
    return make_table(f"closest-{name}", caption, columns, rows, csv_text(head, raw))


def _remark(cell: TransferCell) -> str:
    """What must be said beside a performance, its flags included."""
    said = remark(cell)
    return "; ".join(part for part in (said, *(flag for flag in cell.flags if flag not in said)) if part)


def ranking_table(content: Content, name: str, target: str) -> PageTable | None:
    """The sources of one target in order of measured performance; None when nothing is ranked."""
    cells, metric, rows, raw = transfer_cells(content), metric_of(content), [], []
    for row in rankings(content).get(target, ()):
        cell = cells[target, row.source]
        rank = PageCell("" if cell.rank is None else str(cell.rank), cell.rank)
        rows.append([rank, _text(row.source), _number(cell.mean, 3), _text(interval_text(cell.interval, 3)), _number(cell.n), _number(row.gap_to_best, 3),
                     _text(interval_text(row.gap_interval, 3)), _number(row.probability_best, 2), _text(_remark(cell))])
        raw.append([target, cell.rank, row.source, cell.mean, *_ends(cell.interval), cell.n, row.gap_to_best, *_ends(row.gap_interval),
                    row.probability_best, cell.tied, cell.baseline, _remark(cell)])
    if not rows:
        return None
    columns = [("rank", True), ("source", False), (f"mean {metric}", True), ("95 % interval", False), ("n", True), ("gap to best", True),
               ("95 % of the gap", False), ("P(best)", True), ("remark", False)]
    head = ["target", "rank", "source", "mean", "lower", "upper", "n", "gap_to_best", "gap_lower", "gap_upper", "probability_best", "tied", "baseline",
            "remark"]
    caption = f"Sources for {target}, in order of mean {metric_in_full(content, target)} over n replicates; {INTERVALS}"
    return make_table(f"ranking-{name}", caption, columns, rows, csv_text(head, raw))


def cards_table(content: Content) -> PageTable:
    """One row per data set."""
    columns = [("data set", False), ("images", True), ("classes", True), ("imbalance", True), ("groups", True), ("width", True), ("height", True),
               ("colour", False), ("left out", True), ("tags", False)]
    rows, raw = [], []
    for card in content.cards:
        ratio = card.imbalance if card.classes else None
        rows.append([_text(card.name), _number(card.images), _number(card.classes) if card.classes else _text("no labels"), _number(ratio, 1),
                     _number(card.groups) if card.groups else _text("unknown"), _number(card.width), _number(card.height), _text(colour_text(card)),
                     _number(card.skipped), _text(", ".join(card.tags))])
        raw.append([card.name, card.images, card.classes, ratio, card.groups or None, card.width, card.height, card.channels, card.grey_share, card.skipped,
                    list(card.tags), card.fingerprint])
    head = ["dataset", "images", "classes", "imbalance", "groups", "width", "height", "channels", "grey_share", "skipped", "tags", "fingerprint"]
    return make_table("datasets", "Data sets (imbalance: largest class over smallest; median width and height in pixels)", columns, rows, csv_text(head, raw))


def transfer_table(content: Content) -> PageTable | None:
    """Every measured pair; the CSV has one row per run and metric."""
    cells, metric = transfer_cells(content), metric_of(content)
    if not cells:
        return None
    columns = [("source", False), ("target", False), (f"mean {metric}", True), ("95 % interval", False), ("n", True), ("undefined", True), ("rank", True),
               ("remark", False)]
    rows = [[_text(c.source), _text(c.target), _number(c.mean, 3), _text(interval_text(c.interval, 3)), _number(c.n), _number(c.undefined),
             PageCell(c.rank_text, c.rank), _text(_remark(c))] for c in cells.values()]
    csv = content.transfer.untimed.to_csv() if content.transfer else csv_text(
        ["source", "target", "mean", "lower", "upper", "n"], [[c.source, c.target, c.mean, *_ends(c.interval), c.n] for c in cells.values()])
    return make_table("transfer", f"Measured transfer: mean {metric_in_full(content)} over n replicates; {INTERVALS}", columns, rows, csv)


def scores_table(content: Content) -> PageTable:
    """Every score with interval, floor, n, rank, convergence and flags."""
    columns = [("measure", False), ("source", False), ("target", False), ("value", True), ("95 % interval", False), ("floor", True), ("ceiling", True),
               ("p", True), ("n source", True), ("n target", True), ("measured at n", True), ("rank", True), ("solver", False), ("flags", False)]
    rows = [[_text(c.method), _text(c.source), _text(c.target), _number(c.value), _text(interval_text(c.interval)), _number(c.floor), _number(c.ceiling),
             PageCell(p_text(c.p), c.p), _number(c.n_source), _number(c.n_target), _number(c.matched) if c.matched else _text("all"),
             PageCell(c.rank_text, c.average_rank), _text("converged" if c.converged else "not converged"), _text("; ".join(c.flags))]
            for c in score_cells(content).values()]
    caption = ("Every score; floor: of a distance the value between two halves of the target, of a measure of transferability the value that shuffled labels "
               "give; ceiling: the value of pictures of noise (or of the data set that the study "
               "names); p: permutation test of equal distributions; measured at n: images a side to which both sets were cut, mean over random "
               "samples; the flags say which sources cannot be told from the target")
    return make_table("scores", caption, columns, rows, content.scores.to_csv())


def _signed(value: float | None) -> PageCell:
    return PageCell("" if value is None else signed(value), value)


def _span(interval: tuple[float, float] | None) -> PageCell:
    return _text(interval_text(interval, 2, sign=True))


def _p(value: float | None) -> PageCell:
    return PageCell(p_text(value), value)


def agreement_table(content: Content) -> PageTable | None:
    """Mean correlation of every measure and baseline, its p-values, and what taking the first sources costs."""
    found = content.correlation
    if found is None:
        return None
    columns = [("measure", False), (f"mean {statistic_name(found)}", True), ("95 % interval", False), ("p", True), ("p (Holm)", True), ("p (max-T)", True),
               ("targets above 0", True), ("regret", True), ("Rel@1", True), ("Rel@3", True), ("against static", True), ("95 % of that", False),
               ("remark", False)]
    rows, raw = [], []
    for result, kind in (*((r, "measure") for r in found.methods), *((r, "baseline") for r in found.baselines)):
        note = f"undefined: {undefined_reason(result)}" if result.undefined else ("baseline" if kind == "baseline" else "")
        signs = has_signs(result, baseline=kind == "baseline")
        above = PageCell(f"{result.positive_targets} of {len(result.targets)}", result.positive_targets) if signs else _text("")
        rows.append([_text(result.method), PageCell(signed(result.mean), result.mean), _span(result.interval), _p(result.p_value), _p(result.p_holm),
                     _p(result.p_max), above, _number(result.regret, 3), _number(result.mean_relative_at_1, 3), _number(result.mean_relative_at_3, 3),
                     _signed(result.versus_static), _span(result.versus_static_interval), _text(note)])
        raw.append([result.method, kind, found.statistic, result.mean, result.mean_spearman, *_ends(result.interval), result.p_value, result.p_holm,
                    result.p_max, result.regret, result.mean_relative_at_1, result.mean_relative_at_3, result.versus_static,
                    *_ends(result.versus_static_interval), note])
    head = ["method", "kind", "statistic", "mean", "mean_spearman", "lower", "upper", "p_value", "p_holm", "p_max", "regret", "relative_at_1",
            "relative_at_3", "versus_static", "versus_static_lower", "versus_static_upper", "remark"]
    caption = (f"Agreement of similarity with transfer: {found.n_pairs} pairs, {found.n_sources} sources, {found.n_targets} targets (Holm, max-T: p adjusted "
               "for the number of measures; regret: performance lost by taking the first source; Rel@1, Rel@3: performance of the first source, or of the "
               "best among the first three, over that of the best; static: mean rank of a source in the other targets)")
    return make_table("agreement", caption, columns, rows, csv_text(head, raw))


RANGES = ("sources", "groups", "targets", "performance_replicates", "score_replicates")
"""What is left out, or used alone, in the table of stability: fields of :class:`simkit.correlation.results.Stability`."""


def stability_table(content: Content) -> PageTable | None:
    """What the mean correlation of each measure rests on; None where nothing could be left out."""
    found = content.correlation
    results = [] if found is None else [one for one in found.methods if one.mean is not None]
    shown = [name for name in RANGES if any(getattr(one.stability, name) is not None for one in results)]
    if found is None or not shown:
        return None
    heads = {"sources": "without one source", "groups": "without one group", "targets": "without one target",
             "performance_replicates": "one replicate of the performance", "score_replicates": "one replicate of the score"}
    columns = [("measure", False), (f"mean {statistic_name(found)}", True), *((heads[name], False) for name in shown), ("most influential", False),
               ("only targets resampled, 95 %", False), ("against the highest mean", True), ("95 % of that", False), ("replicates of the score agree", True)]
    rows, raw = [], []
    for one in results:
        ranges = [getattr(one.stability, name) for name in shown]
        rows.append([_text(one.method), _signed(one.mean), *(_text(range_text(each)) for each in ranges), _text(influence_text(one)),
                     _span(one.fixed_sources_interval), _signed(one.versus_best), _span(one.versus_best_interval), _number(one.stability.score_reliability, 2)])
        influence = one.stability.most_influential
        raw.append([one.method, one.mean, *(cell for each in ranges for cell in (dataclasses.astuple(each) if each else (None,) * 4)),
                    *(dataclasses.astuple(influence) if influence else (None,) * 3), *_ends(one.fixed_sources_interval), one.versus_best,
                    *_ends(one.versus_best_interval), one.stability.score_reliability])
    head = ["method", "mean", *(f"{name}_{part}" for name in shown for part in ("low", "high", "low_name", "high_name")), "most_influential_kind",
            "most_influential", "mean_without_it", "fixed_sources_lower", "fixed_sources_upper", "versus_best", "versus_best_lower", "versus_best_upper",
            "score_reliability"]
    caption = (f"What the mean {statistic_name(found)} rests on: its range when one thing at a time is left out, or used alone; the highest mean was found in "
               "these data, so differences to it are descriptive")
    return make_table("agreement-stability", caption, columns, rows, csv_text(head, raw))


def _tied(one: TargetResult) -> PageCell:
    """The share of pairs of sources of the same score."""
    from simkit.correlation.statistics import tied_share

    if len(one.points) < 2:
        return _text("")
    share = tied_share(np.array([value for _, value, _ in one.points], dtype=np.float64))
    return PageCell(f"{share:.0%}", share)


def per_target_table(content: Content) -> PageTable | None:
    """The rank correlations of each measure within each target, and what its choice of a source costs there."""
    found = content.correlation
    if found is None:
        return None
    columns = [("measure", False), ("target", False), ("n", True), ("tied pairs", True), ("Spearman", True), ("95 % interval", False), ("Kendall", True),
               ("weighted tau", True), ("Pearson", True), ("p", True), ("best source", False), ("source chosen by it", False), ("Rel@1", True),
               ("Rel@3", True), ("regret", True), ("of random", True), ("of static", True), ("remark", False)]
    rows, raw = [], []
    for result in (*found.methods, *found.baselines):
        for one in result.targets:
            coefficients = (one.kendall, one.weighted_tau, one.pearson)
            costs = (one.relative_at_1, one.relative_at_3, one.regret, one.random_regret, one.static_regret)
            rows.append([_text(result.method), _text(one.target), _number(one.n), _tied(one), PageCell(signed(one.spearman), one.spearman),
                         _span(one.interval), *(_signed(c) for c in coefficients), _p(one.p_value), _text(one.best_source), _text(one.chosen_source),
                         *(_number(cost, 3) for cost in costs), _text(one.undefined)])
            raw.append([result.method, one.target, one.n, one.spearman, *_ends(one.interval), *coefficients, one.p_value, one.best_source,
                        one.chosen_source, *costs, one.undefined])
    head = ["method", "target", "n", "spearman", "lower", "upper", "kendall", "weighted_tau", "pearson", "p_value", "best_source", "chosen_source",
            "relative_at_1", "relative_at_3", "regret", "random_regret", "static_regret", "undefined"]
    caption = ("Agreement within each target (n sources; tied pairs: share of the pairs of sources to which the measure gives the same value; regret: beside "
               "that expected of a random source and that of the static list's first)")
    return make_table("agreement-per-target", caption, columns, rows, csv_text(head, raw))


def methods_table(content: Content) -> PageTable:
    """What each measure is."""
    rows, raw = [], []
    for info in method_infos(content):
        direction = "higher = better" if info.higher_is_better else "lower = closer"
        kind = f"{info.kind}; {direction}; {'symmetric' if info.symmetric else 'directed'}"
        rows.append([_text(cell) for cell in (info.name, kind, info.unit, info.summary.replace("``", ""), info.options, info.citation)])
        raw.append([info.name, info.kind, direction, info.unit, "yes" if info.symmetric else "no", info.summary, info.options, info.citation])
    columns = [(name, False) for name in ("measure", "kind", "unit", "meaning", "options", "source")]
    head = ["method", "kind", "direction", "unit", "symmetric", "summary", "options", "citation"]
    return make_table("measures", "What each measure is", columns, rows, csv_text(head, raw))


def _listed(name: str, caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> PageTable | None:
    if not rows:
        return None
    return make_table(name, caption, [(column, False) for column in columns], [[_text(cell) for cell in row] for row in rows], csv_text(columns, rows))


def page_tables(content: Content) -> dict[str, PageTable | None]:
    """Every table but the rankings, by name; None for one that has no rows."""
    undefined = [[r["source"], r["target"], str(r["replicate"]), "; ".join(flags_of(r))] for r in (content.transfer.of_metric() if content.transfer else ())
                 if r.get("performance") is None]
    unavailable = [[item.method, item.source or "every source", item.target or "every target", item.reason] for item in content.unavailable]
    return {
        "datasets": cards_table(content), "transfer": transfer_table(content), "scores": scores_table(content), "agreement": agreement_table(content),
        "stability": stability_table(content), "per_target": per_target_table(content), "measures": methods_table(content),
        "unavailable": _listed("unavailable", "What could not be computed, and why", ("measure", "source", "target", "reason"), unavailable),
        "undefined": _listed("undefined", "Replicates of a transfer without a value", ("source", "target", "replicate", "reason"), undefined),
        "skipped": _listed("skipped", "Images that were left out", ("dataset", "image", "reason"), [[s.dataset, s.key, s.reason] for s in content.skipped]),
    }
