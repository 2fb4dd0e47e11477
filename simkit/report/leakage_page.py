"""The page of copies: a sentence for each comparison, pictures of the pairs side by side, and a table of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simkit.leakage.neighbours import ABOUT
from simkit.leakage.pairs import CopyPair, Leakage
from simkit.report.html import html_page
from simkit.report.layout import safe_name, unique
from simkit.report.leakage_text import COLUMNS, groups_line, pair_row
from simkit.report.page_tables import PageCell, PageTable, make_table
from simkit.tables import csv_text

__all__ = ["PICTURES", "TABLE_ROWS", "leakage_csv", "leakage_page", "pictured"]

PICTURES = 60
"""Pairs of a comparison that are shown as pictures."""

CLEAN_LINES = 5
"""Comparisons without a copy that get a sentence each; more are counted in one, and stand in the first table."""

TABLE_ROWS = 500
"""Pairs of a comparison that stand in the table of the page; the CSV beside it holds all."""


@dataclass(frozen=True)
class _Figure:
    """One pair as the page shows it: addresses of its pictures ("" where one could not be read), and what is said below."""

    first: str
    second: str
    first_key: str
    second_key: str
    first_alt: str
    second_alt: str
    lines: tuple[str, ...]


def pictured(one: Leakage) -> tuple[CopyPair, ...]:
    """The pairs of a comparison that are shown as pictures: those that most need a look first, near ones by rising similarity, then exact ones."""
    return tuple(sorted(one.pairs, key=lambda pair: (pair.exact, pair.similarity, pair.first_key, pair.second_key)))[:PICTURES]


def leakage_csv(found: Sequence[Leakage]) -> str:
    """All pairs of all comparisons."""
    return csv_text(list(COLUMNS), [pair_row(pair) for one in found for pair in one.pairs])


def leakage_page(found: Sequence[Leakage], pictures: Mapping[tuple[str, str], str], *, title: str = "Copies of images", skipped: Sequence[str] = ()) -> str:
    """The page as HTML; the same bytes for the same copies.

    Args:
        found: comparisons, also those without a copy.
        pictures: (data set, key) -> data: address of the image; may be empty, then no pictures are shown.
        title: of the page.
        skipped: images that could not be read, one line each.
    """
    names = unique([safe_name(f"{one.first}-{one.second}", otherwise=str(number)) for number, one in enumerate(found, 1)])
    parts = [_part(one, name, pictures) for one, name in zip(found, names, strict=True)]
    clean = [part["line"] for part in parts if not part["pairs"]]
    if len(clean) > CLEAN_LINES:
        clean = [f"in {len(clean):,} {'other ' if len(clean) < len(parts) else ''}comparisons no copy was found"]
    return html_page("leakage.html.j2", title=title, styles=("leakage.css",), parts=[part for part in parts if _says_something(part)],
                     lines=[*(part["line"] for part in parts if part["pairs"]), *clean], skipped=list(skipped), limit=PICTURES, overview=_overview(found))


def _says_something(part: Mapping[str, Any]) -> bool:
    """Whether a comparison gets a section: it has copies, or remarks beyond that on the threshold."""
    return bool(part["pairs"]) or any(not text.startswith(ABOUT) for text in part["remarks"])


def _overview(found: Sequence[Leakage]) -> PageTable:
    head = ["first", "second", "images", "with_a_copy", "exact", "near", "pairs", "shared_groups"]
    numbers = [[one.n_first, len(one.first_keys), one.exact, one.near, len(one.pairs), len(one.groups)] for one in found]
    rows = [[one.first, one.second, *counts] for one, counts in zip(found, numbers, strict=True)]
    cells = [[PageCell(one.first), PageCell("itself" + (", across its split" if one.split else "") if one.within else one.second),
              *(PageCell(f"{value:,}", float(value)) for value in counts)] for one, counts in zip(found, numbers, strict=True)]
    columns = [("data set", False), ("compared with", False), ("images", True), ("with a copy", True), ("exact", True), ("near", True), ("pairs", True),
               ("shared group names", True)]
    return make_table("overview", "Every comparison", columns, cells, csv_text(head, rows))


def _part(one: Leakage, name: str, pictures: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    shown = [_figure(pair, pictures) for pair in pictured(one)] if pictures else []
    remarks = [text for text in (groups_line(one), *one.notes) if text]
    heading = f"{one.first}, {'across its split' if one.split else 'within itself'}" if one.within else f"{one.first} in {one.second}"
    return {"name": name, "heading": heading, "line": one.line, "pairs": len(one.pairs), "figures": shown,
            "sides": "" if one.within else f"Left: {one.first}; right: {one.second}.", "remarks": remarks,
            "thresholds": [f"{key} {value:.3g}" for key, value in one.thresholds.items()], "table": _table(one, name) if one.pairs else None}


def _figure(pair: CopyPair, pictures: Mapping[tuple[str, str], str]) -> _Figure:
    what = {"bytes": "same bytes", "pixels": "same pixels"}.get(pair.how, f"near, {pair.similarity:.3f}")
    lines = [what + (f", {pair.transform}" if pair.transform else "")]
    for label, values in (("label", (pair.first_label, pair.second_label)), ("split", (pair.first_split, pair.second_split)),
                          ("group", (pair.first_group, pair.second_group))):
        if any(values):
            lines.append(f"{label}: {values[0]}" if values[0] == values[1] else f"{label}: {values[0] or 'none'} / {values[1] or 'none'}")
    return _Figure(pictures.get((pair.first, pair.first_key), ""), pictures.get((pair.second, pair.second_key), ""), pair.first_key, pair.second_key,
                   f"image {pair.first_key} of {pair.first}", f"its copy {pair.second_key} of {pair.second}", tuple(lines))


def _table(one: Leakage, name: str) -> PageTable:
    """The pairs of one comparison; columns that say nothing are left out."""
    shown = one.pairs[:TABLE_ROWS]
    optional = [column for column in COLUMNS[8:] if any(getattr(pair, column) for pair in shown)]
    columns = ["first_key", "second_key", "how", "similarity", "transform", "found_by", *optional]
    rows = [[_cell(pair, column) for column in columns] for pair in shown]
    headings = {"first_key": f"image of {one.first}", "second_key": f"image of {one.second}", "transform": "change", "found_by": "found by"}
    more = f"the first {TABLE_ROWS} of {len(one.pairs):,} pairs; the CSV holds all" if len(one.pairs) > TABLE_ROWS else "one row a pair"
    csv = csv_text(list(COLUMNS), [pair_row(pair) for pair in one.pairs])
    return make_table(f"pairs-{name}", f"Copies: {more}", [(headings.get(c, c.replace("_", " ")), c == "similarity") for c in columns], rows, csv)


def _cell(pair: CopyPair, column: str) -> PageCell:
    if column == "similarity":
        return PageCell(f"{pair.similarity:.3f}", pair.similarity)
    value = getattr(pair, column)
    return PageCell(", ".join(value) if column == "found_by" else str(value))
