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
from simkit.report.figures import figures
from simkit.report.html import drawn, html_page, image_uri, json_for_script, json_uri
from simkit.report.page_tables import PageTable, answer_tables, page_tables

if TYPE_CHECKING:
    from simkit.dataset import DatasetCard

__all__ = ["build_page", "content_json", "write_page"]

CLASSES_SHOWN = 8
SKIPPED_IN_PAGE = 200
"""Longer lists of skipped images are shown up to here; the CSV has all."""


def content_json(content: Content) -> str:
    """All numbers of the report as JSON; what is undefined is null."""
    value = {
        "study": content.study, "sources": content.sources, "targets": content.targets, "extractor": content.extractor,
        "answers": dict(content.answers), "scores": list(content.scores.records),
        "transfer": list(content.transfer.untimed.records) if content.transfer else None,
        "ranking": {target: [dataclasses.asdict(row) for row in rows] for target, rows in content.ranking.items()},
        "correlation": None if content.correlation is None else content.correlation.as_dict(),
        "methods": [dataclasses.asdict(info) for info in content.methods], "unavailable": [dataclasses.asdict(item) for item in content.unavailable],
        "datasets": [dataclasses.asdict(card) for card in content.cards], "skipped": [dataclasses.asdict(item) for item in content.skipped],
        "provenance": dict(content.provenance),
    }
    return json_text(value, indent=None)


def _card(card: DatasetCard, images: tuple[np.ndarray, ...]) -> dict[str, Any]:
    counts = sorted(card.class_counts.items(), key=lambda item: (-item[1], item[0]))
    largest = max((count for _, count in counts), default=0)
    bars = [{"name": name, "count": count, "share": f"{100 * count / largest if largest else 0:.1f}"} for name, count in counts]
    return {"card": card, "thumbnails": [image_uri(image) for image in images], "bars": bars[:CLASSES_SHOWN], "more": bars[CLASSES_SHOWN:]}


def _shown(table: PageTable | None) -> PageTable | None:
    """A long table cut to what is worth reading on a page; its CSV stays whole, and the caption says so."""
    if table is None or len(table.rows) <= SKIPPED_IN_PAGE:
        return table
    caption = f"{table.caption} (the first {SKIPPED_IN_PAGE} of {len(table.rows)}; all are in the CSV)"
    return dataclasses.replace(table, rows=table.rows[:SKIPPED_IN_PAGE], caption=caption)


def _provenance(provenance: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """(key, text, whether it is a block) of each entry."""
    rows = []
    for key, value in provenance.items():
        text = value if isinstance(value, str) else str(value) if isinstance(value, (int, float)) else json_text(value)
        rows.append((key, text, "\n" in text))
    return rows


def build_page(content: Content) -> str:
    """The whole report as one self-contained HTML text.

    It loads nothing: figures are inline SVG, thumbnails WebP in data: addresses, tables can be saved as CSV and everything as JSON. Its
    content security policy forbids any load and any script but the one that sorts tables, and all numbers can be read without it.

    Args:
        content: of the report.

    Returns:
        HTML; the same bytes for an equal content.
    """
    tables = page_tables(content)
    tables["skipped"] = _shown(tables["skipped"])
    pictures = {item.name: drawn(item) for item in figures(content)}
    json = content_json(content)
    return html_page(
        "page.html.j2", title=f"{content.study}: which source to transfer from", content=content, gaps=count_gaps(content), tables=tables,
        notes=agreement_notes(content.correlation) if content.correlation else [], size_line=size_line(content),
        warnings=agreement_warnings(content.correlation) if content.correlation else [], measured=bool(content.transfer or content.ranking), remedy=REMEDY,
        answers=[(target, answer_of(content, target) or closeness_answer(content, target), table) for target, table in answer_tables(content)],
        transfers=[item for name, item in pictures.items() if name.startswith("transfer")], forest=pictures["forest"],
        measures=[item for name, item in pictures.items() if name.startswith("measures-")],
        scatters=[item for name, item in pictures.items() if name.startswith("scatter")],
        cards=[_card(card, tuple(content.thumbnails.get(card.name, ()))) for card in content.cards],
        provenance=_provenance(content.provenance), json_href=json_uri(json), json=json_for_script(json),
    )


def write_page(content: Content, path: str | os.PathLike[str]) -> None:
    """:func:`build_page` into a file: the old report stays whole until the new one is.

    Raises:
        ResourceError: when the file cannot be written.
    """
    write_text(path, build_page(content))
