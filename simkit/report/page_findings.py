"""Tables of the page that are findings: the answer for each target, what the measures agree on, copies of images, what took how long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from simkit.report.cells import METRICS, plural, score_cells, shortened, signed, transfer_cells
from simkit.report.content import Content
from simkit.report.heat_maps import is_leak
from simkit.report.layout import safe_name, unique
from simkit.report.measure_agreement import Consensus, MeasureAgreement
from simkit.report.page_tables import PageCell, PageTable, closeness_table, make_table, number_cell, ranking_table, text_cell
from simkit.tables import csv_text

if TYPE_CHECKING:
    from simkit.correlation.recommendation import Recommendation

__all__ = ["answer_tables", "consensus_table", "leak_lines", "leakage_table", "measure_agreement_table", "recommendation_lines", "work_table"]

STAGES = {"embed": "embedding", "score": "scores", "train": "training", "finetune": "fine-tuning"}
"""Stages as readers know them; others are written as they are named."""


def answer_tables(content: Content) -> list[tuple[str, tuple[PageTable, ...]]]:
    """Per target: its sources in order of measured performance; without such, in the order that past transfers speak for, and in that of each measure."""
    names = unique([safe_name(target, otherwise=str(number)) for number, target in enumerate(content.targets, 1)])
    out = []
    for target, name in zip(content.targets, names, strict=True):
        ranked = ranking_table(content, name, target)
        found = content.recommendations.get(target)
        tables = (ranked,) if ranked else (None if found is None else _recommendation_table(found, name), closeness_table(content, name, target))
        out.append((target, tuple(table for table in tables if table is not None)))
    return out


def _recommendation_table(found: Recommendation, name: str) -> PageTable:
    """The candidate sources in predicted order."""
    columns = [("place", True), ("source", False), ("P(best)", True), ("P(top 3)", True), ("expected place", True), ("95 % of the place", False),
               ("first better", True), ("static list", True), ("past targets", True), ("remark", False)]
    rows, raw = [], []
    for one in found.candidates:
        span = "" if one.place_interval is None else f"{one.place_interval[0]} to {one.place_interval[1]}"
        note = "not distinguishable from the first" if one.tied else ""
        rows.append([number_cell(one.place), text_cell(one.source), number_cell(one.probability_best, 2), number_cell(one.probability_top3, 2),
                     number_cell(one.expected_place, 1), text_cell(span), number_cell(one.probability_worse, 2), number_cell(one.static_place),
                     number_cell(one.past_targets), text_cell(note)])
        raw.append([found.target, one.place, one.source, one.probability_best, one.probability_top3, one.expected_place, *(one.place_interval or (None, None)),
                    one.probability_worse, one.static_place, one.past_targets, one.tied])
    head = ["target", "place", "source", "probability_best", "probability_top3", "expected_place", "place_lower", "place_upper", "probability_first_better",
            "static_place", "past_targets", "tied"]
    caption = (f"Sources for {found.target} as transfers to {plural(len(found.targets), 'other target')} speak for them; no transfer to {found.target} was "
               "measured (first better: probability that the first is better than this one; static list: place by mean performance on the other targets)")
    return make_table(f"recommended-{name}", caption, columns, rows, csv_text(head, raw))


def recommendation_lines(found: Recommendation) -> list[str]:
    """What a ranking of this kind lost on past targets, and what limits its reading."""
    metric = METRICS.get(found.metric.lower().replace("_", "-"), "of the performance").split(" (")[0]
    lines = [f"Left out one at a time, {plural(one.targets, 'past target')} lost {one.regret:.3f} {metric} on average by taking the first source of such "
             "a ranking instead of the best." for one in found.strategies if one.name == "own" and one.regret is not None]
    return [*lines, *found.warnings]


def consensus_table(found: Sequence[Consensus]) -> PageTable | None:
    """The common order of the measures, one row per target."""
    if not found:
        return None
    columns = [("target", False), ("common order, first to last", False), ("mean relative rank of the first", True), ("measures", True),
               ("that put it first", True), ("sources that some measure puts first", False)]
    rows, raw = [], []
    for one in found:
        first, place = one.order[0]
        firsts = [f"{source} ({len(methods)})" for source, methods in one.firsts.items()]
        rows.append([text_cell(one.target), text_cell(shortened([source for source, _ in one.order])), number_cell(place, 2),
                     number_cell(len(one.measures)), number_cell(len(one.firsts.get(first, ()))), text_cell(shortened(firsts))])
        raw += [[one.target, rank, source, relative, len(one.firsts.get(source, ())), len(one.measures)]
                for rank, (source, relative) in enumerate(one.order, 1)]
    head = ["target", "rank", "source", "mean_relative_rank", "measures_that_put_it_first", "measures"]
    caption = ("The order on which the measures agree: mean relative rank of a source (0 first, 1 last), every measure counted once, so that measures that are "
               "alike count several times; without measures that are constant or a property of the source alone. Agreement between measures is no evidence of "
               "transfer")
    return make_table("consensus", caption, columns, rows, csv_text(head, raw))


def measure_agreement_table(found: MeasureAgreement | None) -> PageTable | None:
    """Every two measures with their mean rank correlation."""
    if found is None:
        return None
    rows, raw = [], []
    for i, first in enumerate(found.measures):
        for j in range(i + 1, len(found.measures)):
            value = float(found.rho[i, j])
            rho = value if np.isfinite(value) else None
            targets, pairs = int(found.targets[i, j]), int(found.pairs[i, j])
            value_cell = PageCell("undefined" if rho is None else signed(round(rho, 2) + 0.0), rho)
            rows.append([text_cell(first), text_cell(found.measures[j]), value_cell, number_cell(targets), number_cell(pairs)])
            raw.append([first, found.measures[j], rho, targets, pairs])
    columns = [("measure", False), ("other measure", False), ("mean Spearman", True), ("targets", True), ("source-target pairs", True)]
    return make_table("measure-agreement", "Agreement between measures: rank correlation over the sources of a target, mean over targets", columns, rows,
                      csv_text(["method", "other_method", "mean_spearman", "targets", "pairs"], raw))


def leakage_table(content: Content) -> PageTable | None:
    """Data sets that share images."""
    if not content.leakage:
        return None
    columns = [("data set", False), ("other data set", False), ("images with a copy", True), ("exact", True), ("near", True), ("what was found", False)]
    rows, raw = [], []
    for one in content.leakage:
        images, said = len(one.first_keys), "; ".join((one.line, *one.notes))
        rows.append([text_cell(one.first), text_cell("itself" if one.within else one.second), number_cell(images), number_cell(one.exact),
                     number_cell(one.near), text_cell(said)])
        raw.append([one.first, one.second, images, one.n_first, one.exact, one.near, said])
    head = ["dataset", "other", "images_with_a_copy", "images", "exact", "near", "found"]
    return make_table("copies", "Images that data sets have in common, or that a data set has twice", columns, rows, csv_text(head, raw))


def leak_lines(content: Content) -> list[str]:
    """What copies were found, and how many numbers they touch."""
    lines = [one.line for one in content.leakage]
    scores = sum(is_leak(cell.flags) for cell in score_cells(content).values())
    transfers = sum(is_leak(cell.flags) for cell in transfer_cells(content).values())
    if scores or transfers:
        touched = " and ".join(part for part in (plural(scores, "score") if scores else "", plural(transfers, "transfer") if transfers else "") if part)
        lines.append(f"Copies touch {touched}; they are marked † in the heat maps and flagged in the tables.")
    return lines


def work_table(content: Content) -> PageTable | None:
    """What took how long."""
    if not content.work:
        return None
    columns = [("stage", False), ("item", False), ("count", True), ("unit", False), ("seconds", True)]
    rows = [[text_cell(STAGES.get(str(row.get("stage")), str(row.get("stage")))), text_cell(row.get("item")), number_cell(row.get("count")),
             text_cell(row.get("unit")), number_cell(row.get("seconds"), 1)] for row in content.work]
    head = ["stage", "item", "count", "unit", "seconds"]
    return make_table("times", "Times: what was computed, over all runs that filled this folder (not what was found in the store)", columns, rows,
                      csv_text(head, [[row.get(name) for name in head] for row in content.work]))
