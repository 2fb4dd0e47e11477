"""The report as one HTML file: no network, no script needed to read it, and the same bytes for the same content."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import os
import re
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from simkit.files import json_text, write_text
from simkit.report.cautions import agreement_notes, agreement_warnings, count_gaps
from simkit.report.cells import answer_of, plural, size_line
from simkit.report.closeness import REMEDY, closeness_answer
from simkit.report.content import Content
from simkit.report.drawing import FAINT, INK, PAPER, NamedFigure, svg_text
from simkit.report.figures import figures
from simkit.report.layout import visible
from simkit.report.page_tables import PageTable, answer_tables, page_tables

if TYPE_CHECKING:
    from markupsafe import Markup

    from simkit.dataset import DatasetCard

__all__ = ["build_page", "content_json", "write_page"]

THUMBNAIL = 96
"""Longest side of a thumbnail, pixels."""

SCREEN = 1.2
"""Figures are this much larger on the page than on paper: a screen is read from further away."""

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


def _asset(name: str) -> str:
    return resources.files("simkit.report").joinpath(name).read_text(encoding="utf-8")


def inline_svg(svg: str, name: str, label: str) -> Markup:
    """SVG for inside HTML: ids made unique by ``name``, ink and paper in the colours of the page, one label for screen readers.

    Only tags are changed, never the text between them, which may hold anything that a user named.
    """
    from markupsafe import Markup, escape

    colours = {INK: "var(--ink)", FAINT: "var(--faint)", PAPER: "var(--paper)"}

    def tag(match: re.Match[str]) -> str:
        text = re.sub(r'\bid="', f'id="{name}-', match[0])
        text = re.sub(r"url\(#", f"url(#{name}-", text)
        text = re.sub(r'href="#', f'href="#{name}-', text)
        return re.sub("|".join(colours), lambda colour: colours[colour[0]], text)

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r"<[^>]+>", tag, body)
    body = re.sub(r'(?<=\s)(width|height)="([0-9.]+)pt"', lambda size: f'{size[1]}="{float(size[2]) * SCREEN:.1f}pt"', body, count=2)
    return Markup(body.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1))  # noqa: S704 - text was escaped by the SVG writer


def _thumbnail(image: np.ndarray) -> str:
    from PIL import Image

    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("RGB")
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    picture.save(out, format="WEBP", quality=70, method=4)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _card(card: DatasetCard, images: tuple[np.ndarray, ...]) -> dict[str, Any]:
    counts = sorted(card.class_counts.items(), key=lambda item: (-item[1], item[0]))
    largest = max((count for _, count in counts), default=0)
    bars = [{"name": name, "count": count, "share": f"{100 * count / largest if largest else 0:.1f}"} for name, count in counts]
    return {"card": card, "thumbnails": [_thumbnail(image) for image in images], "bars": bars[:CLASSES_SHOWN], "more": bars[CLASSES_SHOWN:]}


def _drawn(item: NamedFigure) -> dict[str, Any]:
    svg = None if item.figure is None else inline_svg(svg_text(item.figure), item.name, f"{item.title}. The numbers are in the tables of this section.")
    return {"name": item.name, "title": item.title, "caption": item.caption, "missing": item.missing, "svg": svg}


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
    import jinja2
    from markupsafe import Markup

    script = _asset("page.js")
    tables = page_tables(content)
    tables["skipped"] = _shown(tables["skipped"])
    drawn = {item.name: _drawn(item) for item in figures(content)}
    json = content_json(content)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=jinja2.FunctionLoader(_asset),
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    return environment.get_template("page.html.j2").render(
        content=content, plural=plural, gaps=count_gaps(content), tables=tables,
        notes=agreement_notes(content.correlation) if content.correlation else [], size_line=size_line(content),
        warnings=agreement_warnings(content.correlation) if content.correlation else [], measured=bool(content.transfer or content.ranking), remedy=REMEDY,
        answers=[(target, answer_of(content, target) or closeness_answer(content, target), table) for target, table in answer_tables(content)],
        transfers=[item for name, item in drawn.items() if name.startswith("transfer")], forest=drawn["forest"],
        measures=[item for name, item in drawn.items() if name.startswith("measures-")],
        scatters=[item for name, item in drawn.items() if name.startswith("scatter")],
        cards=[_card(card, tuple(content.thumbnails.get(card.name, ()))) for card in content.cards],
        provenance=_provenance(content.provenance),
        style=Markup(_asset("page.css")), script=Markup(script), script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),  # noqa: S704 - our own files
        json_href="data:application/json;base64," + base64.b64encode(json.encode("utf-8")).decode("ascii"),
        json=Markup(json.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")),  # noqa: S704 - no character left that HTML reads
    )


def write_page(content: Content, path: str | os.PathLike[str]) -> None:
    """:func:`build_page` into a file: the old report stays whole until the new one is.

    Raises:
        ResourceError: when the file cannot be written.
    """
    write_text(path, build_page(content))
