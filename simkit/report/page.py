"""The report as one HTML file: no network, no script needed to read it, and the same bytes for the same content."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from simkit.files import json_text, write_text
from simkit.report.cautions import agreement_notes, agreement_warnings, count_gaps
from simkit.report.cells import answer_of, size_line
from simkit.report.closeness import REMEDY, closeness_answer
from simkit.report.content import Content
from simkit.report.figures import page_plots
from simkit.report.heat_drawing import shade_rules
from simkit.report.heat_maps import HeatMap, measure_maps, transfer_maps
from simkit.report.html import drawn, html_page, image_uri, json_for_script
from simkit.report.measure_agreement import consensus, disagreements, measure_agreement
from simkit.report.page_findings import (
    answer_tables,
    consensus_table,
    leak_lines,
    leakage_table,
    measure_agreement_table,
    recommendation_lines,
    work_table,
)
from simkit.report.page_tables import PageTable, packed, page_tables

if TYPE_CHECKING:
    from simkit.dataset import DatasetCard

__all__ = ["build_page", "content_json", "write_page"]

CLASSES_SHOWN = 8

ROWS_SHOWN, SKIPPED_SHOWN, ANSWERS_SHOWN = 2000, 200, 40
"""Rows of a table on the page, of the list of skipped images, and of the sources of one target; the CSV has all."""

TARGETS_SHOWN, OPEN_TARGETS = 30, 6
"""Targets with tables and heat maps of their own on the page: the first of the study; up to so many they stand open."""

MAP_ROWS, MAP_BEST = 100, 60
"""A heat map of more sources than the first number shows the second number of them, those with the best mean shade."""

MANY_SETS, FEW_IMAGES, SMALL = 60, 2, 56
"""Above so many data sets, each has only so many thumbnails, of this side in pixels."""

JSON_IN_PAGE = 2_000_000
"""Characters up to which all numbers also stand in the page as plain JSON, for programs."""


def content_json(content: Content) -> str:
    """All numbers of the report as JSON; what is undefined is null."""
    value = {
        "study": content.study, "sources": content.sources, "targets": content.targets, "extractor": content.extractor,
        "answers": dict(content.answers), "scores": list(content.scores.records),
        "transfer": list(content.transfer.untimed.records) if content.transfer else None,
        "ranking": {target: [dataclasses.asdict(row) for row in rows] for target, rows in content.ranking.items()},
        "recommendations": {target: found.as_dict() for target, found in content.recommendations.items()},
        "correlation": None if content.correlation is None else content.correlation.as_dict(),
        "leakage": [{"first": one.first, "second": one.second, "images": one.n_first, "exact": one.exact, "near": one.near, "found": one.line}
                    for one in content.leakage],
        "methods": [dataclasses.asdict(info) for info in content.methods], "unavailable": [dataclasses.asdict(item) for item in content.unavailable],
        "datasets": [dataclasses.asdict(card) for card in content.cards], "skipped": [dataclasses.asdict(item) for item in content.skipped],
        "provenance": dict(content.provenance), "work": [dict(row) for row in content.work],
    }
    return json_text(value, indent=None)


def _card(card: DatasetCard, images: tuple[np.ndarray, ...], *, many: bool) -> dict[str, Any]:
    counts = sorted(card.class_counts.items(), key=lambda item: (-item[1], item[0]))
    largest = max((count for _, count in counts), default=0)
    bars = [{"name": name, "count": count, "share": f"{100 * count / largest if largest else 0:.1f}"} for name, count in counts]
    return {
        "card": card, "thumbnails": [image_uri(image, SMALL) for image in images[:FEW_IMAGES]] if many else [image_uri(image) for image in images],
        "bars": bars[:CLASSES_SHOWN], "more": bars[CLASSES_SHOWN:],
    }


def _shown(table: PageTable | None, most: int = ROWS_SHOWN) -> PageTable | None:
    """A long table cut to what is worth reading on a page; its CSV stays whole, and the caption says so."""
    if table is None or len(table.rows) <= most:
        return table
    caption = f"{table.caption} (the first {most:,} of {len(table.rows):,}; all are in the CSV)"
    return dataclasses.replace(table, rows=table.rows[:most], caption=caption)


def _cut(found: HeatMap) -> HeatMap:
    """A heat map of very many sources reduced to the best ones, which its caption says; rows without shades (floors) stay."""
    if len(found.rows) <= MAP_ROWS:
        return found
    shades = [[cell.shade for cell in line if cell is not None and cell.shade is not None] for line in found.cells]
    ranked = sorted((i for i, line in enumerate(shades) if line), key=lambda i: (-sum(shades[i]) / len(shades[i]), i))
    kept = sorted({*ranked[:MAP_BEST], *(i for i, line in enumerate(found.cells) if all(cell and not cell.tip and cell.shade is None for cell in line))})
    caption = f"{found.caption} Shown are the {MAP_BEST} sources with the best mean shade, of {len(ranked)}; the CSV has all."
    return dataclasses.replace(found, rows=tuple(found.rows[i] for i in kept), cells=tuple(found.cells[i] for i in kept), caption=caption)


def _maps(content: Content) -> dict[str, Any]:
    """Heat maps of performance, and those of the measures by target."""
    of_target: dict[str, list[HeatMap]] = {}
    few = dataclasses.replace(content, targets=content.targets[:TARGETS_SHOWN])
    for found in measure_maps(few):
        of_target.setdefault(found.target, []).append(_cut(found))
    return {"transfers": [_cut(found) for found in transfer_maps(few)], "measures": list(of_target.items()), "shades": shade_rules()}


def _answers(content: Content) -> list[dict[str, Any]]:
    """Per target its sentence, what limits it, and its tables."""
    out = []
    for number, (target, tables) in enumerate(answer_tables(content)):
        found = content.recommendations.get(target)
        text = answer_of(content, target) or (closeness_answer(content, target) if found is None else found.answer)
        lines = [] if found is None else [*recommendation_lines(found), closeness_answer(content, target)]
        out.append({"target": target, "text": text, "lines": [line for line in lines if line],
                    "tables": [_shown(table, ANSWERS_SHOWN) for table in tables] if number < TARGETS_SHOWN else []})
    return out


def _provenance(provenance: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """(key, text, whether it is a block) of each entry."""
    rows = []
    for key, value in provenance.items():
        text = value if isinstance(value, str) else str(value) if isinstance(value, (int, float)) else json_text(value)
        rows.append((key, text, "\n" in text))
    return rows


def _limits(content: Content) -> list[str]:
    """What the page leaves to the files beside it, because there is so much."""
    lines = []
    if len(content.targets) > TARGETS_SHOWN:
        lines.append(f"{len(content.targets)} targets: tables and heat maps are shown for the first {TARGETS_SHOWN}; the CSV files and the JSON have all.")
    if len(content.cards) > MANY_SETS:
        lines.append(f"{len(content.cards)} data sets: {FEW_IMAGES} example images are shown of each.")
    return lines


def build_page(content: Content) -> str:
    """The whole report as one self-contained HTML text.

    It loads nothing: figures are inline SVG or tables, thumbnails WebP in data: addresses, tables can be saved as CSV and everything as JSON. Its
    content security policy forbids any load and any script but those that sort tables and show what a point is; all numbers can be read without them.

    Args:
        content: of the report.

    Returns:
        HTML; the same bytes for an equal content.
    """
    tables = {name: _shown(table, SKIPPED_SHOWN if name == "skipped" else ROWS_SHOWN) for name, table in page_tables(content).items()}
    pictures = {item.name: drawn(item) for item in page_plots(content)}
    between, agreed, found = measure_agreement(content), consensus(content), content.correlation
    tables |= {"between": _shown(measure_agreement_table(between)), "consensus": _shown(consensus_table(agreed)), "copies": _shown(leakage_table(content)),
               "work": work_table(content)}
    json = content_json(content)
    return html_page(
        "page.html.j2", title=f"{content.study}: which source to transfer from", scripts=("tooltips.js",), content=content, gaps=count_gaps(content),
        tables=tables, notes=agreement_notes(found) if found else [], size_line=size_line(content), warnings=agreement_warnings(found) if found else [],
        measured=bool(content.transfer or content.ranking), remedy=REMEDY, answers=_answers(content), leaks=leak_lines(content), limits=_limits(content),
        disagreements=disagreements(agreed), collapsed=len(content.targets) > OPEN_TARGETS, forest=pictures["forest"], between=pictures["measure-agreement"],
        scatters=[item for name, item in pictures.items() if name.startswith("scatter")], **_maps(content),
        cards=[_card(card, tuple(content.thumbnails.get(card.name, ())), many=len(content.cards) > MANY_SETS) for card in content.cards],
        provenance=_provenance(content.provenance),
        json_file=packed("report.json", json, "application/json"), json=json_for_script(json) if len(json) <= JSON_IN_PAGE else None,
    )


def write_page(content: Content, path: str | os.PathLike[str]) -> None:
    """:func:`build_page` into a file: the old report stays whole until the new one is.

    Raises:
        ResourceError: when the file cannot be written.
    """
    write_text(path, build_page(content))
