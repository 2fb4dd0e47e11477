"""The page of an explanation: the answer first, then classes, images and features with what they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simkit.explanation import Explanation, ImageScore
from simkit.report.cells import interval_text, number, p_text, plural
from simkit.report.drawing import style
from simkit.report.explanation_figures import FIGURES, heat_maps, plots
from simkit.report.explanation_text import answer, classes_csv, coupling_csv, features_csv, images_csv, nothing_to_see, section_texts, verdict
from simkit.report.heat_drawing import shade_rules
from simkit.report.html import drawn, html_page, image_uri
from simkit.report.page_tables import PageCell, PageTable, make_table, number_cell, text_cell

__all__ = ["FIGURES", "explanation_page"]

ROWS = 40
"""Rows of a table on the page; its CSV has all."""

Pictures = Mapping[tuple[str, str], np.ndarray]


def explanation_page(found: Explanation, pictures: Pictures | None) -> str:
    """A self-contained HTML page.

    Args:
        found: the explanation.
        pictures: (side, key) -> thumbnail, uint8 (h, w, 3); None shows no images.
    """
    uris = {} if pictures is None else {key: image_uri(pixels) for key, pixels in sorted(pictures.items())}
    with style():
        maps, figures = heat_maps(found), [drawn(one) for one in plots(found)]
    return html_page(
        "explanation.html.j2", title=f"{found.source} to {found.target}: why near or far", scripts=("tooltips.js",), found=found, answer=answer(found),
        texts=section_texts(found), size_line=_size_line(found), coupling_map=maps[0], part_map=maps[1], class_plot=figures[0], decision_plot=figures[1],
        feature_plot=figures[2],
        tables={"coupling": _cells(found), "classes": _classes(found), "images": _images(found), "features": _features(found)},
        pairs=_pairs(found, uris), rows=_rows(found, uris), features=_feature_pictures(found, uris), shown=pictures is not None,
        nothing=found.told_apart is not None and nothing_to_see(found.told_apart), shades=shade_rules(), detail=_detail(found))


def _size_line(found: Explanation) -> str:
    sides = " and ".join(
        f"{taken:,} images of {name}" if taken == size else f"{taken:,} of {size:,} images of {name}"
        for name, taken, size in zip((found.source, found.target), found.taken, found.images, strict=True))
    return f"{found.method}; {sides}; {found.dimension:,} features of {found.extractor}; seed {found.seed}, {plural(found.repeats, 'half-sample')}"


def _detail(found: Explanation) -> list[tuple[str, str]]:
    """Entries of the score's detail that fit a line."""
    rows = []
    for key, value in found.score.detail.items():
        if isinstance(value, (bool, int, str)) or value is None:
            rows.append((key, str(value)))
        elif isinstance(value, float):
            rows.append((key, number(value)))
        elif isinstance(value, (list, tuple)) and len(value) <= 10 and all(isinstance(one, (int, float, str)) for one in value):
            rows.append((key, ", ".join(number(one) if isinstance(one, float) else str(one) for one in value)))
    return rows


# --- tables ----------------------------------------------------------------------------------------------------------------------------


def _table(name: str, caption: str, columns: Sequence[tuple[str, bool]], rows: Sequence[Sequence[PageCell]], csv: str) -> PageTable:
    """A table of the first rows; the caption says how many there are."""
    cut = f" (the first {ROWS} of {len(rows):,}; all are in the CSV)" if len(rows) > ROWS else ""
    return make_table(name, caption + cut, columns, rows[:ROWS], csv)


def _interval(interval: tuple[float, float] | None, digits: int | None = None) -> PageCell:
    return PageCell(interval_text(interval, digits), None if interval is None else interval[0])


def _cells(found: Explanation) -> PageTable | None:
    coupling = found.coupling
    if coupling is None:
        return None
    columns = [("source class", False), ("target class", False), ("share of the target class", True), ("95 %", False), ("independence", True),
               ("above it", False), ("mass", True), ("cost of a unit", True), ("contribution", True), ("of the value", True)]
    rows = []
    for c in coupling.largest:
        percent = 100 * c.contribution / coupling.cost if coupling.cost > 0 else 0.0
        rows.append([text_cell(c.source), text_cell(c.target), number_cell(c.share, 3), _interval(c.interval, 3), number_cell(c.independent, 3),
                     text_cell({True: "yes", False: "no", None: ""}[c.above]), number_cell(c.mass, 4), number_cell(c.cost), number_cell(c.contribution),
                     PageCell(f"{percent:.1f} %", percent)])
    empty = sum(c.mass == 0 for c in coupling.cells)
    caption = f"Cells of the coupling by mass; {empty:,} of {len(coupling.cells):,} cells are empty"
    return _table("coupling", caption, columns, rows, coupling_csv(coupling))


def _classes(found: Explanation) -> PageTable | None:
    if not found.classes:
        return None
    parts = {} if found.parts is None else found.parts.by_class
    planned = any(c.cost is not None for c in found.classes)
    costs = [("cost, all images", True), ("cost at half size", True), ("floor", True), ("excess", True), ("95 %, adjusted", False)] if planned else []
    columns = [("target class", False), ("images", True), ("verdict", False), *costs, ("reached", True), ("by the target itself", True),
               ("nearest source class", False), ("its distance", True), *([("part of the mean difference", True)] if parts else [])]
    rows = []
    for c in found.classes:
        numbers = [number_cell(c.cost), number_cell(c.half_cost), number_cell(c.floor), number_cell(c.excess), _interval(c.interval)] if planned else []
        rows.append([text_cell(c.name), number_cell(c.images), text_cell(verdict(c)), *numbers, number_cell(c.reached, 2), number_cell(c.reached_floor, 2),
                     text_cell(c.nearest[0] if c.nearest else None), number_cell(c.nearest[1] if c.nearest else None),
                     *([number_cell(parts.get(c.name))] if parts else [])])
    return _table("classes", "Classes of the target, the least covered first", columns, rows, classes_csv(found))


def _images(found: Explanation) -> PageTable | None:
    apart = found.told_apart
    if apart is None:
        return None
    columns = [("side", False), ("image", False), ("class", False), ("group", False), ("decision", True), ("fold", True)]
    rows = [[text_cell(s.side), text_cell(s.key), text_cell(s.label), text_cell(s.group), PageCell(f"{s.decision:+.3f}", s.decision), number_cell(s.fold + 1)]
            for side in ("source", "target") for s in apart.clearest[side]]
    return make_table("images", f"Images told apart best, of {len(apart.scores):,} (all are in the CSV)", columns, rows, images_csv(apart))


def _features(found: Explanation) -> PageTable | None:
    gap = found.features
    if not gap.features:
        return None
    parts = found.parts
    columns = [("feature", False), ("difference, sd", True), ("95 %", False), ("p, max-T", True), ("source mean", True), ("target mean", True),
               ("of the squared difference", True), *([("mean part", True), ("sd part", True)] if parts else [])]
    rows = []
    for f in gap.features:
        extra = [number_cell(value) for value in parts.by_feature[f.number]] if parts else []
        rows.append([text_cell(f.name), PageCell(f"{f.difference:+.2f}", f.difference), _interval(f.interval, 2), PageCell(p_text(f.p), f.p),
                     number_cell(f.source_mean), number_cell(f.target_mean), PageCell(f"{100 * f.share:.1f} %", f.share), *extra])
    return _table("features", "Features, the largest standardised difference first", columns, rows, features_csv(found))


# --- pictures --------------------------------------------------------------------------------------------------------------------------


def _picture(uris: Mapping[tuple[str, str], str], side: str, key: str, said: str) -> dict[str, str]:
    return {"uri": uris.get((side, key), ""), "key": key, "alt": f"{said}: {key}"}


def _pairs(found: Explanation, uris: Mapping[tuple[str, str], str]) -> list[dict[str, Any]]:
    """Cells with their image pairs."""
    out = []
    for cell in found.coupling.largest if found.coupling else ():
        if cell.pairs:
            pairs = [(_picture(uris, "source", p.source, f"source, {cell.source}"), _picture(uris, "target", p.target, f"target, {cell.target}"),
                      number(p.cost)) for p in cell.pairs]
            cost = "" if cell.cost is None else f", mean cost {number(cell.cost)}"
            out.append({"title": f"{cell.source} → {cell.target}", "text": f"share {cell.share:.2f}{cost}", "pairs": pairs})
    return out


def _rows(found: Explanation, uris: Mapping[tuple[str, str], str]) -> list[dict[str, Any]]:
    """Rows of images by the classifier's decision."""
    apart = found.told_apart
    if apart is None:
        return []
    kinds: tuple[tuple[str, Mapping[str, tuple[ImageScore, ...]]], ...] = (
        ("told apart best", apart.clearest), ("nearest to the border", apart.ambiguous), ("look most like the other side", apart.mistaken))
    return [{"title": f"{side.capitalize()} images that are {what}" if what != kinds[2][0] else f"{side.capitalize()} images that {what}",
             "images": [{**_picture(uris, side, s.key, f"{side}, decision {s.decision:+.2f}"), "text": f"{s.decision:+.2f}"} for s in images[side]]}
            for what, images in kinds for side in ("source", "target")]


def _feature_pictures(found: Explanation, uris: Mapping[tuple[str, str], str]) -> list[dict[str, Any]]:
    """The top features with the images of both sides that have them lowest and highest."""
    out = []
    for feature in found.features.features:
        if feature.images:
            rows = [{"title": f"{side}, {end}", "images": [_picture(uris, side, key, f"{side}, {feature.name} {end}") for key in feature.images[side][number_]]}
                    for side in ("source", "target") for number_, end in enumerate(("lowest", "highest"))]
            p = "" if feature.p is None else f", p {p_text(feature.p)}"
            out.append({"title": feature.name, "text": f"{feature.difference:+.2f} sd{p}", "rows": rows})
    return out
