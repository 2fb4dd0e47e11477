"""The figures of maps of images, coloured by data set and by class."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from simkit.maps import METHODS, RULE, ImageMap, MapSet
from simkit.recipe import rng_for
from simkit.report.drawing import FAINT, POINT, NamedFigure, blank, label, style
from simkit.report.layout import text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "MOST_COLOURS", "OTHER", "SHAPES", "class_ranks", "frame_of", "image_figures"]

COLOURS = ("#0f7fc0", "#d9660a", "#11875d", "#c4568f", "#8b7d12", "#7a66d6", "#d0413e", "#1d8d9c", "#a0662d", "#76808b")
"""Told apart by colour-blind readers as far as ten can be, and readable on white and on near-black; shapes tell them apart as well."""

SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<", "p", ">")

MOST_COLOURS = len(COLOURS)
"""Data sets beyond which each has a panel of its own, instead of a colour."""

MOST_CLASSES = 8
"""Classes that have a colour: the largest; the others share one."""

OTHER = "other"

MOST_PANELS = 30

MOST_VECTORS = 5000
"""Points beyond which a figure has them as pixels (in the SVG as well), so that it can be opened."""

PIXELS_PER_INCH = 300
"""Of such points in an SVG."""

WIDTH = 6.5
"""Of the map, inches."""


def image_figures(image_map: ImageMap) -> tuple[NamedFigure, NamedFigure]:
    """The map coloured by data set (panels where there are more than ten), and by class with a panel a data set."""
    with style():
        return _by_set(image_map), _by_class(image_map)


def frame_of(points: np.ndarray) -> tuple[float, float, float, float]:
    """Limits (left, right, bottom, top) with a margin, neither side more than twice the other."""
    low, high = points.min(axis=0), points.max(axis=0)
    side = (high - low) * 1.06
    side = np.maximum(side, side.max() / 2)
    side = np.where(side == 0, 1.0, side)
    middle = (low + high) / 2
    return float(middle[0] - side[0] / 2), float(middle[0] + side[0] / 2), float(middle[1] - side[1] / 2), float(middle[1] + side[1] / 2)


def sample_text(image_map: ImageMap) -> str:
    """How many images of each data set are shown."""
    text = f"Shown: {'; '.join(one.counted for one in image_map.sets)}."
    return f"{text} The rule: {RULE}." if image_map.sampled else text


def _caption(image_map: ImageMap, what: str) -> str:
    return " ".join([what, *image_map.said, sample_text(image_map)])


def _axes(image_map: ImageMap, axes: Axes, *, named: bool) -> None:
    left, right, bottom, top = frame_of(image_map.layout.points)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    explained, method = image_map.layout.explained, METHODS[image_map.layout.method]
    if explained is None or not named:
        axes.set_xticks([])
        axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(FAINT)
        spine.set_linewidth(0.6)
    if named:
        unit = [f"{share:.1%} of the variance" for share in explained] if explained else ["no unit", "no unit"]
        axes.set_xlabel(f"{method} 1 ({unit[0]})")
        axes.set_ylabel(f"{method} 2 ({unit[1]})")


def _size(n: int) -> float:
    return float(np.clip(150 / math.sqrt(n), 1.6, 5.0))


def _points(axes: Axes, points: np.ndarray, marks: Sequence[tuple[np.ndarray, str, str]], *, size: float, pixels: bool) -> None:
    """Points of several groups (rows, colour, shape), in rounds, so that no group lies on top of the others."""
    rounds = 8
    orders = [rng_for("drawing order", len(rows)).permutation(rows) for rows, _, _ in marks]
    for number in range(rounds):
        for order, (_, colour, shape) in zip(orders, marks, strict=True):
            rows = order[number::rounds]
            if len(rows):
                axes.plot(points[rows, 0], points[rows, 1], marker=shape, color=colour, linestyle="none", markersize=size, markeredgewidth=0, alpha=0.8,
                          rasterized=pixels)


def _columns(names: Sequence[str], width: float, font: float) -> tuple[int, int]:
    """Columns of a legend that fit into ``width`` inches, and the lines of the longest one."""
    longest = max(text_width(line) for name in names for line in name.split("\n"))
    columns = max(1, min(len(names), int(width * 72 / (font * (0.62 * longest + 3.2)))))
    each = math.ceil(len(names) / columns)
    return columns, max(sum(name.count("\n") + 1 for name in names[start : start + each]) for start in range(0, len(names), each))


def _legend(axes: Axes, entries: Sequence[tuple[str, str, str]], *, width: float, below: float, font: float) -> None:
    """Names (name, colour, shape) under a panel, in as many columns as fit."""
    from matplotlib.lines import Line2D

    columns, _ = _columns([name for name, _, _ in entries], width, font)
    handles = [Line2D([], [], marker=shape, color=colour, linestyle="none", markersize=5, markeredgewidth=0, label=name) for name, colour, shape in entries]
    height = axes.bbox.height / axes.figure.dpi
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.0, -below / height), ncols=columns, frameon=False, fontsize=font, borderaxespad=0,
                handletextpad=0.3, columnspacing=1.2, borderpad=0, labelspacing=0.35)


def _by_set(image_map: ImageMap) -> NamedFigure:
    title = f"{METHODS[image_map.layout.method]} of the images, by data set"
    if len(image_map.sets) > MOST_COLOURS:
        return _highlighted(image_map, title)
    points, rows = image_map.layout.points, image_map.rows
    left, right, bottom, top = frame_of(points)
    height = WIDTH * (top - bottom) / (right - left)
    figure = blank(WIDTH + 2, height + 2)
    figure.set_dpi(PIXELS_PER_INCH)
    axes = figure.add_axes((1 / (WIDTH + 2), 1 / (height + 2), WIDTH / (WIDTH + 2), height / (height + 2)))
    marks = [(np.flatnonzero(rows == i), COLOURS[i], SHAPES[i]) for i in range(len(image_map.sets))]
    _points(axes, points, marks, size=_size(len(points)), pixels=len(points) > MOST_VECTORS)
    _axes(image_map, axes, named=True)
    _legend(axes, [(label(name, 34), COLOURS[i], SHAPES[i]) for i, name in enumerate(image_map.names)], width=WIDTH, below=0.62, font=8.5)
    what = "One point an image; colour and shape are its data set." + (
        " The numbers of the axes have the unit of the features." if image_map.layout.explained is not None else "")
    return NamedFigure("map-data-sets", title, _caption(image_map, what), figure)


def _highlighted(image_map: ImageMap, title: str) -> NamedFigure:
    """A panel a data set, which is drawn over the others in grey."""
    points, rows = image_map.layout.points, image_map.rows
    shown = list(range(len(image_map.sets)))[:MOST_PANELS]
    figure, panels = _panels(image_map, [label(image_map.names[i], 22) for i in shown], side=1.75, columns=4, foot=0.0)
    pixels = len(points) * len(shown) > MOST_VECTORS
    for i, axes in zip(shown, panels, strict=True):
        axes.plot(*points[rows != i].T, marker="o", color=FAINT, linestyle="none", markersize=1.4, markeredgewidth=0, alpha=0.8, rasterized=pixels)
        axes.plot(*points[rows == i].T, marker="o", color=POINT, linestyle="none", markersize=1.6, markeredgewidth=0, rasterized=pixels)
        _axes(image_map, axes, named=False)
    what = f"One panel a data set: its images in blue, those of all {len(image_map.sets)} data sets in grey behind them; all panels show the same map."
    what += f" Drawn are the first {len(shown)} data sets." if len(shown) < len(image_map.sets) else ""
    return NamedFigure("map-data-sets", title, _caption(image_map, what), figure)


def _panels(image_map: ImageMap, titles: Sequence[str], *, side: float, columns: int, foot: float) -> tuple[Figure, list[Axes]]:
    """Axes in rows, each with its title above and ``foot`` inches below."""
    left, right, bottom, top = frame_of(image_map.layout.points)
    columns = min(columns, len(titles))
    tall = side * min(1.0, (top - bottom) / (right - left))
    wide = tall * (right - left) / (top - bottom)
    gap = 0.3 if foot == 0 else 0.35
    head = 0.12 + 0.16 * max(title.count("\n") + 1 for title in titles)
    lines = math.ceil(len(titles) / columns)
    width, height = 1 + columns * (wide + gap), 1 + lines * (tall + head + foot + 0.1)
    figure = blank(width, height)
    figure.set_dpi(PIXELS_PER_INCH)
    out = []
    for i, title in enumerate(titles):
        row, column = divmod(i, columns)
        low = height - 0.5 - row * (tall + head + foot + 0.1) - head - tall
        axes = figure.add_axes(((0.5 + column * (wide + gap)) / width, low / height, wide / width, tall / height))
        axes.set_title(title, loc="left", fontsize=8.5)
        out.append(axes)
    return figure, out


def class_ranks(one: MapSet) -> tuple[dict[str, int], int]:
    """The classes that have a colour, largest first (of equally large ones, by name), and how many others there are."""
    order = sorted(Counter(one.labels).items(), key=lambda item: (-item[1], item[0]))
    if len(order) <= MOST_CLASSES + 1:
        return {name: i for i, (name, _) in enumerate(order)}, 0
    return {name: i for i, (name, _) in enumerate(order[:MOST_CLASSES])}, len(order) - MOST_CLASSES


def _by_class(image_map: ImageMap) -> NamedFigure:
    title = f"{METHODS[image_map.layout.method]} of the images, by class"
    labelled = [i for i, one in enumerate(image_map.sets) if any(one.labels)]
    if not labelled:
        return NamedFigure("map-classes", title, "", missing="No data set has labels.")
    shown = labelled[:MOST_PANELS]
    side = 3.0 if len(shown) > 1 else 4.5
    ranks = {i: class_ranks(image_map.sets[i]) for i in shown}
    most = max(_columns(_class_names(*one), side, 7.5)[1] for one in ranks.values())
    figure, panels = _panels(image_map, [label(image_map.names[i], 34) for i in shown], side=side, columns=3, foot=0.2 + 0.155 * most)
    rows, points = image_map.rows, image_map.layout.points
    pixels = len(points) * len(shown) > MOST_VECTORS
    for i, axes in zip(shown, panels, strict=True):
        _classes(image_map, axes, i, ranks[i], points, rows, pixels)
    what = "One panel a data set, its images by class over those of the other data sets in grey; colours mean another class in each panel."
    if any(others for _, others in ranks.values()):
        what += f" Of a data set with more than {MOST_CLASSES + 1} classes the {MOST_CLASSES} largest have a colour, the rest is '{OTHER}'."
    unlabelled = [image_map.names[i] for i in range(len(image_map.sets)) if i not in labelled]
    what += f" Without labels: {', '.join(unlabelled)}." if unlabelled else ""
    what += f" Drawn are the first {len(shown)} of {len(labelled)} data sets with labels." if len(shown) < len(labelled) else ""
    return NamedFigure("map-classes", title, _caption(image_map, what), figure)


def _class_names(found: dict[str, int], others: int) -> list[str]:
    """Entries of a panel's legend."""
    return [label(name or "no class", 22) for name in found] + ([f"{OTHER} ({others} classes)"] if others else [])


def _classes(image_map: ImageMap, axes: Axes, i: int, ranks: tuple[dict[str, int], int], points: np.ndarray, rows: np.ndarray, pixels: bool) -> None:
    """One panel: the classes of data set ``i``, with their legend."""
    found, others = ranks
    own = np.flatnonzero(rows == i)
    number = np.array([found.get(name, MOST_CLASSES) for name in image_map.sets[i].labels])
    axes.plot(*points[rows != i].T, marker="o", color=FAINT, linestyle="none", markersize=1.4, markeredgewidth=0, alpha=0.8, rasterized=pixels)
    marks = [(own[number == rank], COLOURS[rank], SHAPES[rank]) for rank in found.values()]
    if others:
        marks.append((own[number == MOST_CLASSES], COLOURS[-1], "."))
    entries = [(name, colour, shape) for name, (_, colour, shape) in zip(_class_names(found, others), marks, strict=True)]
    _points(axes, points, marks, size=float(np.clip(90 / math.sqrt(len(own)), 1.5, 3.8)), pixels=pixels)
    _axes(image_map, axes, named=False)
    _legend(axes, entries, width=axes.bbox.width / axes.figure.dpi, below=0.08, font=7.5)
