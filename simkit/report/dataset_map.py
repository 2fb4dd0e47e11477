"""The map of data sets: points placed by metric scaling, names that do not overlap, circles of the floors, a scale bar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from simkit.maps import DatasetMap
from simkit.report.drawing import ACCENT, FAINT, INK, POINT, NamedFigure, blank, label, style
from simkit.report.layout import safe_name, text_width, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["dataset_figure", "place_names"]

WIDTH, HEIGHT = 6.4, 5.2
"""Room of the points, inches; circles that reach farther make the scale smaller."""

LETTER, LINE = 0.067, 0.155
"""Width of a letter and height of a line of a name, inches, at 8 points."""

RADII = (0.1, 0.17, 0.27, 0.4, 0.55, 0.75, 1.0, 1.3)
"""Distances of a name from its point that are tried, inches; beyond the first a line leads to it."""

NAMES = 24
"""Letters of a line of a name."""


@dataclass(frozen=True)
class Placed:
    """A name: its text, the centre and size of its box, and whether a line leads to it."""

    text: str
    centre: tuple[float, float]
    size: tuple[float, float]
    distant: bool


def _name(measure: str) -> str:
    return f"map-{safe_name(measure, otherwise='measure')}"


def dataset_figure(found: DatasetMap) -> NamedFigure:
    """A map of data sets as a figure."""
    with style():
        points, scale = _inches(found)
        radii = [None if floor is None else floor * scale for floor in found.floors]
        names = place_names(points, [label(name, NAMES) for name in found.names], _rims(points, radii))
        left, right, bottom, top = _extent(points, radii, names)
        foot = 0.75 if any(radius is not None for radius in radii) else 0.6
        width, height = max(right - left, 3.2), top - bottom + foot
        figure = blank(width + 0.4, height + 0.4)
        axes = figure.add_axes((0.2 / (width + 0.4), 0.2 / (height + 0.4), width / (width + 0.4), height / (height + 0.4)))
        middle = (left + right) / 2
        axes.set_xlim(middle - width / 2, middle + width / 2)
        axes.set_ylim(bottom - foot, top)
        axes.set_axis_off()
        _draw(axes, found, points, radii, names)
        _key(axes, found, scale, (middle - width / 2, bottom), radii)
    return NamedFigure(_name(found.measure), f"Map of the data sets by {found.measure}", _caption(found), figure)


def _caption(found: DatasetMap) -> str:
    text = f"Diamonds are targets, dots are sources only; the bar is a distance in the unit of the map ({found.unit})."
    if any(found.floors):
        text += (" The circle around a target is its floor, the distance between two halves of it, to scale (a floor of 0 has none). Halves are smaller than "
                 "the sets, so measures that fall with n have circles that are too wide: the flag of its score says whether a source can be told from the "
                 "target, not the circle.")
        without = [name for name, target, floor in zip(found.names, found.targets, found.floors, strict=True) if target and floor is None]
        text += f" No floor is known of {', '.join(without)}." if without else ""
    elif any(found.targets):
        text += " No floor is known."
    return " ".join([text, *found.said])


def _inches(found: DatasetMap) -> tuple[np.ndarray, float]:
    """The points in inches, and inches a unit of distance."""
    radius = np.array([floor or 0.0 for floor in found.floors])[:, None]
    low, high = (found.points - radius).min(axis=0), (found.points + radius).max(axis=0)
    side = high - low
    longest = max(float(side[0]) / WIDTH, float(side[1]) / HEIGHT)
    scale = 1.0 if longest == 0 else 1 / longest
    return found.points * scale, scale


def _extent(points: np.ndarray, radii: Sequence[float | None], names: Sequence[Placed]) -> tuple[float, float, float, float]:
    reach = np.array([0.1 if radius is None else max(radius, 0.1) for radius in radii])
    boxes = np.array([(*one.centre, *one.size) for one in names])
    left = min((points[:, 0] - reach).min(), (boxes[:, 0] - boxes[:, 2] / 2).min())
    right = max((points[:, 0] + reach).max(), (boxes[:, 0] + boxes[:, 2] / 2).max())
    bottom = min((points[:, 1] - reach).min(), (boxes[:, 1] - boxes[:, 3] / 2).min())
    top = max((points[:, 1] + reach).max(), (boxes[:, 1] + boxes[:, 3] / 2).max())
    return float(left), float(right), float(bottom), float(top)


def _rims(points: np.ndarray, radii: Sequence[float | None]) -> np.ndarray:
    """Places along the circles, a twentieth of an inch apart, (m, 2)."""
    out = [np.zeros((0, 2))]
    for point, radius in zip(points, radii, strict=True):
        if radius:
            angles = np.linspace(0, 2 * math.pi, max(8, int(2 * math.pi * radius / 0.05)), endpoint=False)
            out.append(point + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1))
    return np.concatenate(out)


def place_names(points: np.ndarray, texts: Sequence[str], avoided: np.ndarray | None = None) -> list[Placed]:
    """Where each name stands (inches): near its point, on no point and on no other name as far as that can be; those in the thick of it choose first.

    ``avoided``: places (m, 2) that a name had better not cover, such as the lines of circles.
    """
    lines = np.zeros((0, 2)) if avoided is None else avoided
    sizes = [(LETTER * max(text_width(line) for line in text.split("\n")), LINE * (text.count("\n") + 1)) for text in texts]
    apart = np.hypot(points[:, None, 0] - points[None, :, 0], points[:, None, 1] - points[None, :, 1])
    order = sorted(range(len(texts)), key=lambda i: (-int((apart[i] < 0.8).sum()), i))
    out: dict[int, Placed] = {}
    for i in order:
        best, least = None, math.inf
        for placed in _candidates(points[i], texts[i], sizes[i]):
            cost = round(_cost(placed, points, i, list(out.values())) + 0.03 * float(_inside(lines, placed, 0.0).sum()), 6)
            if cost < least:
                best, least = placed, cost
        assert best is not None
        out[i] = best
    return [out[i] for i in range(len(texts))]


def _candidates(point: np.ndarray, text: str, size: tuple[float, float]) -> list[Placed]:
    out = []
    for ring, radius in enumerate(RADII):
        for step in range(16):
            angle = math.pi * step / 8
            across, up = math.cos(angle), math.sin(angle)
            # from the edge of the box, so that long names stand no nearer than short ones
            centre = (float(point[0]) + across * radius + np.sign(round(across, 6)) * size[0] / 2 * min(1.0, abs(across) * 1.6),
                      float(point[1]) + up * radius + up * size[1] / 2)
            out.append(Placed(text, (float(centre[0]), float(centre[1])), size, ring > 0))
    return out


def _overlap(a: Placed, b: Placed) -> float:
    across = (a.size[0] + b.size[0]) / 2 + 0.06 - abs(a.centre[0] - b.centre[0])
    up = (a.size[1] + b.size[1]) / 2 + 0.02 - abs(a.centre[1] - b.centre[1])
    return across * up if across > 0 and up > 0 else 0.0


def _inside(points: np.ndarray, box: Placed, margin: float) -> np.ndarray:
    return np.asarray((np.abs(points[:, 0] - box.centre[0]) < box.size[0] / 2 + margin) & (np.abs(points[:, 1] - box.centre[1]) < box.size[1] / 2 + margin))


def _cost(placed: Placed, points: np.ndarray, own: int, others: Sequence[Placed]) -> float:
    """What is bad about a place: covered names and points, lines that cross names, and distance."""
    hidden = float(_inside(points, placed, 0.07).sum())
    covered = sum(1.0 + 10 * area for other in others if (area := _overlap(placed, other)))
    end = _edge(points[own], placed)
    way = points[own] + np.linspace(0, 1, 9)[:, None] * (end - points[own])
    crossed = sum(float(_inside(way, other, 0.02).any()) for other in others)
    length = float(np.hypot(*(end - points[own])))
    return 3 * covered + 3 * hidden + 1.5 * crossed + length


def _edge(point: np.ndarray, placed: Placed) -> np.ndarray:
    """The place on a name's box that is nearest to its point."""
    half = np.array(placed.size) / 2
    centre = np.array(placed.centre)
    return np.asarray(np.clip(point, centre - half, centre + half))


def _draw(axes: Axes, found: DatasetMap, points: np.ndarray, radii: Sequence[float | None], names: Sequence[Placed]) -> None:
    from matplotlib.patches import Circle

    for point, radius in zip(points, radii, strict=True):
        if radius:
            centre = float(point[0]), float(point[1])
            axes.add_patch(Circle(centre, radius, fill=False, edgecolor=ACCENT, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.75, zorder=1))
    for point, one in zip(points, names, strict=True):
        if one.distant:
            end = _edge(point, one)
            axes.plot([point[0], end[0]], [point[1], end[1]], color=FAINT, linewidth=0.5, zorder=2)
        axes.text(*one.centre, one.text, ha="center", va="center", fontsize=8, color=INK, zorder=4, linespacing=1.05)
    targets = np.array(found.targets)
    for which, marker, colour in ((~targets, "o", POINT), (targets, "D", ACCENT)):
        axes.plot(points[which, 0], points[which, 1], marker=marker, color=colour, linestyle="none", markersize=6, zorder=3)


def _nice(value: float) -> float:
    """1, 2 or 5 times a power of ten, at most ``value``."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (5.0, 2.0, 1.0) if step * power <= value * (1 + 1e-9))


def _key(axes: Axes, found: DatasetMap, scale: float, corner: tuple[float, float], radii: Sequence[float | None]) -> None:
    """The scale bar, and what marks mean, below the map."""
    from matplotlib.lines import Line2D

    left, top = corner
    length = _nice(1.8 / scale)
    axes.plot([left, left + length * scale], [top - 0.2, top - 0.2], color=INK, linewidth=1.6, solid_capstyle="butt")
    axes.text(left + length * scale + 0.08, top - 0.2, f"{length:g} {visible(found.unit)}", ha="left", va="center", fontsize=8)
    targets = any(found.targets)
    marks = [Line2D([], [], marker="D", color=ACCENT, linestyle="none", markersize=5, label="target")] if targets else []
    if not all(found.targets):
        marks.append(Line2D([], [], marker="o", color=POINT, linestyle="none", markersize=5, label="source"))
    if any(radii):
        marks.append(Line2D([], [], color=ACCENT, linewidth=0.8, linestyle=(0, (4, 3)), label="floor"))
    axes.legend(handles=marks, loc="upper left", bbox_to_anchor=(left, top - 0.36), bbox_transform=axes.transData, ncols=3, frameon=False, fontsize=8,
                borderpad=0, borderaxespad=0, handletextpad=0.5, columnspacing=1.2)
