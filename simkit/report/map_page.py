"""The pages of maps: a drawing that needs no script, and, where scripts run, the picture, class and key of each point."""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from simkit.maps import METHODS, RULE, DatasetMap, ImageMap
from simkit.maps.content import NOT_A_MEASUREMENT
from simkit.report.drawing import NamedFigure
from simkit.report.html import drawn, html_page, json_for_script
from simkit.report.layout import visible
from simkit.report.map_figures import COLOURS, MOST_COLOURS, SHAPES, frame_of
from simkit.report.page_tables import PageTable, make_table, number_cell, text_cell
from simkit.tables import csv_text

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["dataset_page", "image_page", "mark_path"]

WIDTH = 760
"""Of the drawing, in its own units (CSS pixels where there is room)."""

SHEET = 1024
"""Pictures of one sheet, in 32 columns: WebP allows 16,383 pixels a side."""

COLUMNS = 32

QUALITY = 60
"""Of the WebP sheets."""

CORNERS: dict[str, tuple[tuple[float, float], ...]] = {
    "s": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "^": ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
    "v": ((0, 1.2), (1.1, -0.8), (-1.1, -0.8)),
    "<": ((-1.2, 0), (0.8, 1.1), (0.8, -1.1)),
    ">": ((1.2, 0), (-0.8, 1.1), (-0.8, -1.1)),
    "D": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    "P": ((-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4), (1.1, 0.4), (0.4, 0.4), (0.4, 1.1), (-0.4, 1.1), (-0.4, 0.4), (-1.1, 0.4), (-1.1, -0.4),
          (-0.4, -0.4)),
    "X": ((-1.1, -0.6), (-0.6, -1.1), (0, -0.5), (0.6, -1.1), (1.1, -0.6), (0.5, 0), (1.1, 0.6), (0.6, 1.1), (0, 0.5), (-0.6, 1.1), (-1.1, 0.6), (-0.5, 0)),
    "p": ((0, -1.1), (1.05, -0.34), (0.65, 0.9), (-0.65, 0.9), (-1.05, -0.34)),
}
"""Shapes of radius 1; "o" is a circle."""


def mark_path(shape: str, radius: float) -> str:
    """A mark around the current point as relative path commands, which come back to it."""
    if shape == "o":
        r = round(radius, 1)
        return f"m-{r:g} 0a{r:g} {r:g} 0 1 0 {2 * r:g} 0a{r:g} {r:g} 0 1 0-{2 * r:g} 0z"
    corners = [(x * radius, y * radius) for x, y in CORNERS[shape]]
    moves = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(corners)]
    return f"m{corners[0][0]:.2f} {corners[0][1]:.2f}l" + " ".join(f"{x:.2f} {y:.2f}" for x, y in moves) + "z"


def image_page(found: ImageMap, figures: Sequence[NamedFigure]) -> str:
    """The page of a map of images.

    Args:
        found: the map.
        figures: by data set (shown where there are too many data sets for colours) and by class.
    """
    by_set, by_class = figures
    many = len(found.sets) > MOST_COLOURS
    places, height = _places(found)
    sheets, cells = _sheets(found)
    title = f"Map of {len(found.rows):,} images"
    labels = list(dict.fromkeys(found.labels))
    numbers = {name: i for i, name in enumerate(labels)}
    points: dict[str, Any] = {
        "x": places[:, 0].round(1).tolist(), "y": places[:, 1].round(1).tolist(), "counts": [len(one.keys) for one in found.sets],
        "names": [visible(name) for name in found.names], "labels": [visible(name) for name in labels], "label": [numbers[name] for name in found.labels],
        "keys": [visible(key) for one in found.sets for key in one.keys], "cells": cells, "columns": COLUMNS, "each": SHEET, "many": many,
    }
    pictures = sum(len(one.thumbnails) for one in found.sets)
    shown = f"{pictures:,} of {len(found.rows):,} images have a picture here" if found.pictures else "this page holds no pictures"
    plots = [drawn(_shorter(one, found)) for one in ((by_set, by_class) if many else (by_class,))]
    return html_page(
        "map.html.j2", title=title, scripts=("map.js",), styles=("map.css",), said=found.said, svg=_svg(found, places, height, many),
        legend=_legend(found, many), points=json_for_script(points), sheets=sheets, many=many, pictures=found.pictures, figures=plots,
        tables=[_distortion_table(found)], sections=[], facts=_facts(found, f"{shown}; it holds the keys of all."),
    )


def _shorter(figure: NamedFigure, found: ImageMap) -> NamedFigure:
    """The figure without the part of its caption that the page says elsewhere."""
    return replace(figure, caption=figure.caption.partition(f" {found.said[0]}")[0])


def dataset_page(found: Sequence[DatasetMap], figures: Sequence[NamedFigure]) -> str:
    """The page of maps of data sets, one a measure."""
    sections = [{"picture": drawn(figure), "places": _places_table(one, figure.name), "distances": _distances_table(one, figure.name),
                 "poor": one.stress > one.POOR, "measure": one.measure} for one, figure in zip(found, figures, strict=True)]
    said = [f"{one.measure}: stress {one.stress:.3f}" for one in found]
    lead = f"{len(found[0].names) if len(found) == 1 else max(len(one.names) for one in found)} data sets by {', '.join(one.measure for one in found)}."
    return html_page("map.html.j2", title="Map of the data sets", scripts=(), styles=("map.css",), said=(lead, "; ".join(said) + ".", NOT_A_MEASUREMENT),
                     svg=None, legend=[], points=None, sheets=[], many=False, pictures=False, figures=[], tables=[], sections=sections, facts=[])


def _facts(found: ImageMap, shown: str) -> list[tuple[str, str]]:
    facts = [("Method", f"{METHODS[found.layout.method]}: {found.layout.settings}"), ("Features", f"{found.extractor}; {found.dimension:,} features"),
             ("Images", "; ".join(one.counted for one in found.sets) + "."), ("Pictures", shown[0].upper() + shown[1:])]
    if found.sampled:
        facts.append(("Rule of sampling", RULE[0].upper() + RULE[1:] + "."))
    return facts


def _places(found: ImageMap) -> tuple[np.ndarray, float]:
    """The points in units of the drawing, y downwards, and its height."""
    left, right, bottom, top = frame_of(found.layout.points)
    scale = (WIDTH - 2) / (right - left)
    points = found.layout.points
    return np.stack([1 + (points[:, 0] - left) * scale, 1 + (top - points[:, 1]) * scale], axis=1), (top - bottom) * scale + 2


def _svg(found: ImageMap, places: np.ndarray, height: float, many: bool) -> Markup:
    """One path a data set: light enough for tens of thousands of points, and shown without a script."""
    from markupsafe import Markup, escape

    radius = float(np.clip(150 / math.sqrt(len(places)), 2.0, 5.0))
    rows, paths = found.rows, []
    for i in range(len(found.sets)):
        mark = mark_path("o" if many else SHAPES[i], radius)
        path = "".join(f"M{x:.1f} {y:.1f}{mark}" for x, y in places[rows == i])
        paths.append(f'<path id="set-{i}" class="set" fill="{"var(--faint)" if many else COLOURS[i]}" d="{path}"/>')
    label = escape(f"{METHODS[found.layout.method]} of {len(places)} images of {len(found.sets)} data sets; the numbers are in map.csv")
    return Markup(  # noqa: S704 - numbers and our own colours
        f'<svg id="map-points" xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {height:.1f}">'
        f'<rect class="frame" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:.1f}"/>{"".join(paths)}'
        f'<circle id="map-ring" r="{radius + 4:.1f}" cx="0" cy="0" visibility="hidden"/></svg>')


def _legend(found: ImageMap, many: bool) -> list[dict[str, str]]:
    shapes = ["o" if many else SHAPES[i] for i in range(len(found.sets))]
    return [{"name": one.name, "path": f"M7 7{mark_path(shapes[i], 4.5)}", "colour": "var(--faint)" if many else COLOURS[i], "count": f"{len(one.keys):,}"}
            for i, one in enumerate(found.sets)]


def _sheets(found: ImageMap) -> tuple[list[str], list[int]]:
    """Sheets of pictures as data: addresses, and for each point the number of its cell, or -1."""
    from PIL import Image

    pictures: list[np.ndarray] = []
    cells: list[int] = []
    for one in found.sets:
        for i in range(len(one.keys)):
            cells.append(len(pictures) if i in one.thumbnails else -1)
            if i in one.thumbnails:
                pictures.append(one.thumbnails[i])
    sheets = []
    for start in range(0, len(pictures), SHEET):
        part = pictures[start : start + SHEET]
        side = part[0].shape[0]
        sheet = np.zeros((math.ceil(len(part) / COLUMNS) * side, COLUMNS * side, 3), dtype=np.uint8)
        for i, picture in enumerate(part):
            row, column = divmod(i, COLUMNS)
            sheet[row * side : (row + 1) * side, column * side : (column + 1) * side] = picture
        out = io.BytesIO()
        Image.fromarray(sheet).save(out, format="WEBP", quality=QUALITY, method=4)
        sheets.append("data:image/webp;base64," + base64.b64encode(out.getvalue()).decode("ascii"))
    return sheets, cells


def _distortion_table(found: ImageMap) -> PageTable:
    kept = found.distortion
    rows, raw = [], []
    for one in found.sets:
        trust, whole = kept.per_set[one.name]
        rows.append([text_cell(one.name), number_cell(len(one.keys)), number_cell(one.total), number_cell(trust, 3), number_cell(whole, 3)])
        raw.append([one.name, len(one.keys), one.total, trust, whole])
    for name, values in (("all images", (kept.trustworthiness, kept.continuity)), ("exchanged at random", kept.chance)):
        total = sum(one.total for one in found.sets)
        rows.append([text_cell(name), number_cell(len(found.rows)), number_cell(total), number_cell(values[0], 3), number_cell(values[1], 3)])
        raw.append([name, len(found.rows), total, *values])
    columns = [("data set", False), ("shown", True), ("images", True), ("trustworthiness", True), ("continuity", True)]
    caption = (f"What the map keeps of the {kept.k} nearest neighbours: trustworthiness is low where neighbours on the map are none in the features, "
               "continuity where neighbours in the features are none on the map; 1: all are kept. The last row is what the same points get when their images "
               "are exchanged at random")
    return make_table("distortion", caption, columns, rows, csv_text(["dataset", "shown", "images", "trustworthiness", "continuity"], raw))


def _places_table(found: DatasetMap, name: str) -> PageTable:
    columns = [("data set", False), ("role", False), ("x", True), ("y", True), ("floor", True), ("stress", True)]
    records = found.records()
    rows = [[text_cell(row[1]), text_cell(row[2]), *(number_cell(value) for value in row[3:6]), number_cell(row[6], 3)] for row in records]
    caption = f"Places by {found.measure}, in {found.unit}; stress of a data set: how badly its distances are drawn"
    return make_table(f"{name}-places", caption, columns, rows, csv_text(["measure", "dataset", "role", "x", "y", "floor", "stress"], records))


def _distances_table(found: DatasetMap, name: str) -> PageTable:
    """Each pair: its distance, as scored and as drawn."""
    rows, raw = [], []
    for i, first in enumerate(found.names):
        for j in range(i + 1, len(found.names)):
            value = float(found.distances[i, j])
            drawn_at = float(np.hypot(*(found.points[i] - found.points[j])))
            known = None if math.isnan(value) else value
            rows.append([text_cell(first), text_cell(found.names[j]), number_cell(known), number_cell(drawn_at)])
            raw.append([first, found.names[j], known, drawn_at])
    columns = [("data set", False), ("other", False), ("distance", True), ("drawn as", True)]
    return make_table(f"{name}-distances", f"Distances by {found.measure}, in {found.unit}, and as the map draws them; empty: not scored", columns, rows,
                      csv_text(["dataset", "other", "distance", "drawn"], raw))
