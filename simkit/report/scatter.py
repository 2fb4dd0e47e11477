"""Scatter plots of similarity against transfer: one figure a measure, one panel a target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from simkit.report.cells import (
    ScoreCell,
    TransferCell,
    best_methods,
    interval_text,
    is_self_pair,
    method_infos,
    metric_of,
    score_cells,
    shortened,
    signed,
    statistic_name,
    transfer_cells,
)
from simkit.report.content import Content, MethodInfo
from simkit.report.drawing import ACCENT, FAINT, POINT, NamedFigure, blank, label
from simkit.report.layout import safe_name, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["SCATTER_MEASURES", "scatter_figures"]

SCATTER_MEASURES = 4
"""Measures that are plotted against transfer: those that agree best with it."""

PANELS_IN_ROW = 3

PANEL, WIDE_PANEL, MANY_POINTS = 2.2, 3.4, 16
"""Side of a panel, inches; its side where some panel has more than so many points, whose numbers need room."""

GUTTER = 0.7
"""Between the panels of a row, inches."""

MARK, LETTER = 0.45, 0.07
"""Room that the number and a letter of a name take in the key, inches."""

Point: TypeAlias = tuple[str, ScoreCell, TransferCell]


def scatter_figures(content: Content) -> list[NamedFigure]:
    """One figure a measure, for the few that agree best with transfer."""
    cells, transfers = score_cells(content), transfer_cells(content)
    out: list[NamedFigure] = []
    for method in best_methods(content, SCATTER_MEASURES):
        found = {target: _points(content, cells, transfers, method, target) for target in content.targets}
        panels = {target: points for target, points in found.items() if len(points) > 1}
        if panels:
            without = [target for target in content.targets if target not in panels]
            out.append(_scatter_figure(content, method, panels, without, f"scatter-{safe_name(method, otherwise=str(len(out) + 1))}"))
    if not out:
        undefined = content.correlation is not None and not best_methods(content, 1)
        why = ("No measure has a defined rank correlation with transfer." if undefined else
               "No target has both similarity and transfer of two sources, so one cannot be held against the other.")
        out.append(NamedFigure("scatter", "Similarity against transfer", "", missing=why))
    return out


def _points(
    content: Content, cells: dict[tuple[str, str, str], ScoreCell], transfers: dict[tuple[str, str], TransferCell], method: str, target: str,
) -> list[Point]:
    """Sources with both numbers; the target itself is left out, as in the statistics."""
    own = [cell for key, cell in cells.items() if key[:2] == (method, target) and not is_self_pair(content, cell.source, target)]
    found = [(cell, transfers.get((target, cell.source))) for cell in own]
    return [(cell.source, cell, transfer) for cell, transfer in found if transfer is not None and transfer.mean is not None]


def _scatter_figure(content: Content, method: str, panels: Mapping[str, Sequence[Point]], without: Sequence[str], name: str) -> NamedFigure:
    info = next(info for info in method_infos(content) if info.name == method)
    numbers = {source: i for i, source in enumerate(dict.fromkeys((*content.sources, *(s for points in panels.values() for s, _, _ in points))), 1)}
    used = {source for points in panels.values() for source, _, _ in points}
    key = [(str(i), label(source, 34)) for source, i in numbers.items() if source in used]
    columns = min(len(panels), PANELS_IN_ROW)
    side = WIDE_PANEL if max(len(points) for points in panels.values()) > MANY_POINTS else PANEL
    longest = max(text_width(line) for _, text in key for line in text.split("\n"))
    key_columns = max(1, min(len(key), int(columns * (side + GUTTER) / (MARK + LETTER * longest))))
    key_height = 0.16 * max(sum(text.count("\n") + 1 for _, text in key[start::key_columns]) for start in range(key_columns)) + 0.35
    head = 0.2 + 0.17 * max(label(target).count("\n") + 1 for target in panels)
    foot = 0.46 + 0.16 * (_x_label(info, "1e-10").count("\n") + 1)
    each = side + foot + head
    width, height = 0.9 + (side + GUTTER) * columns, each * math.ceil(len(panels) / columns) + key_height
    figure = blank(width, height)
    for place, (target, points) in enumerate(panels.items()):
        row, column = divmod(place, columns)
        axes = figure.add_axes(((0.8 + (side + GUTTER) * column) / width, (height - (row + 1) * each + foot) / height, side / width, side / height))
        _scatter(axes, points, info, numbers, side)
        axes.set_title("\n".join(part for part in (label(target), _verdict(content, method, target)) if part), loc="left", fontsize=8.5)
        axes.set_ylabel(label(metric_of(content), 30) if column == 0 else "")
    _key(figure, [key[start::key_columns] for start in range(key_columns)], (side + GUTTER) * columns / key_columns, key_height)
    return NamedFigure(name, f"Similarity against transfer: {method}", _caption(content, info, panels, without), figure)


def _caption(content: Content, info: MethodInfo, panels: Mapping[str, Sequence[Point]], without: Sequence[str]) -> str:
    points = [point for panel in panels.values() for point in panel]
    text = "One point a source, numbered as in the key; one panel a target. Right is always more similar"
    text += "." if info.higher_is_better else ": the axis of a distance runs backwards."
    bars = {"Horizontal": content.score_bars if any(cell.interval for _, cell, _ in points) else "",
            "Vertical": content.performance_bars if any(transfer.interval for _, _, transfer in points) else ""}
    if bars["Horizontal"] == bars["Vertical"]:
        text += f" Bars are {bars['Vertical']}." if bars["Vertical"] else ""
    else:
        text += "".join(f" {way} bars are {what}." for way, what in bars.items() if what)
    text += " Targets are not pooled, because each has its own difficulty."
    if any(cell.halves is not None for _, cell, _ in points):
        text += " The dashed line is the floor, the value between two halves of the target (at half its size or less, where many distances are larger)."
    return text + (f" No panel, because fewer than two sources have both numbers: {shortened(without)}." if without else "")


def _verdict(content: Content, method: str, target: str) -> str:
    """n and the primary coefficient of the target, with its interval where there is one (Spearman's)."""
    found = content.correlation
    one = next((t for result in (found.methods if found else ()) if result.method == method for t in result.targets if t.target == target), None)
    if found is None or one is None:
        return ""
    value, interval = {"kendall": (one.kendall, None), "weighted-tau": (one.weighted_tau, None)}.get(found.statistic, (one.spearman, one.interval))
    if value is None:
        return f"n = {one.n}, undefined"
    return f"n = {one.n}, {statistic_name(found)} {signed(value)} {interval_text(interval, 2, sign=True)}".rstrip()


def _x_label(info: MethodInfo, power: str = "") -> str:
    unit = f", times {power}" if power else ""
    return label(f"{info.name} ({'higher = better' if info.higher_is_better else 'lower = closer'}{unit})", 34)


def _scatter(axes: Axes, points: Sequence[Point], info: MethodInfo, numbers: dict[str, int], side: float) -> None:
    means = [transfer.mean or 0.0 for _, _, transfer in points]
    across = [(mean, *cell.interval) for mean, (_, cell, _) in zip(means, points, strict=True) if cell.interval]
    upright = [(cell.value, *transfer.interval) for _, cell, transfer in points if transfer.interval]
    if across:
        axes.hlines(*zip(*across, strict=True), color=FAINT, linewidth=0.8, zorder=1)
    if upright:
        axes.vlines(*zip(*upright, strict=True), color=FAINT, linewidth=0.8, zorder=1)
    for baseline, colour in ((True, FAINT), (False, POINT)):
        own = [(cell.value, mean) for mean, (_, cell, transfer) in zip(means, points, strict=True) if transfer.baseline == baseline]
        if own:
            axes.plot(*zip(*own, strict=True), marker="o", markersize=5 if side == PANEL else 3.5, color=colour, linestyle="none", zorder=2)
    floors = {cell.halves for _, cell, _ in points if cell.halves is not None}
    for floor in sorted(floors):
        axes.axvline(floor, color=ACCENT, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    axes.margins(0.12)
    if not info.higher_is_better:
        axes.invert_xaxis()
    axes.locator_params(axis="x", nbins=4)
    axes.locator_params(axis="y", nbins=5)
    axes.grid(alpha=0.25, linewidth=0.6)
    _number_points(axes, points, numbers, side)
    axes.set_xlabel(_x_label(info, _power_of_ten(axes)))


def _power_of_ten(axes: Axes) -> str:
    """``1e6`` where the numbers of the x axis are to be multiplied by it; the axis itself no longer says so, where its name would cover it."""
    ticks = axes.xaxis.get_major_formatter()
    ticks.set_locs(list(axes.xaxis.get_majorticklocs()))
    axes.xaxis.get_offset_text().set_visible(False)
    return str(ticks.get_offset())


def _number_points(axes: Axes, points: Sequence[Point], numbers: dict[str, int], side: float) -> None:
    """Writes each point's number beside it, where it covers no other point or number as far as that can be; a line leads to a distant one."""
    from matplotlib.collections import LineCollection

    axes.autoscale_view()
    size = side * 72  # places are in points (1/72 inch) from the corner of the panel
    letters = 7.5 if side == PANEL else 6.0
    data = np.array([(cell.value, transfer.mean or 0.0) for _, cell, transfer in points])
    dots = axes.transAxes.inverted().transform(axes.transData.transform(data)) * size
    angles = math.pi * (np.arange(8) / 4 + 1 / 8)
    offsets = np.concatenate([radius * np.stack([np.cos(angles), np.sin(angles)], axis=1) for radius in (1.27 * letters, 2 * letters, 3 * letters)])
    taken, leaders = dots, []
    for (source, _, _), dot in zip(points, dots, strict=True):
        distances = np.hypot(*np.moveaxis((dot + offsets)[:, None] - taken[None], 2, 0))
        crowding = np.maximum(0.0, 1.2 * letters - distances).sum(1) + 0.02 * np.hypot(*offsets.T)
        offset = offsets[np.argmin(np.round(crowding, 9))]  # rounded: places that are equally good are so on every machine
        length = float(np.hypot(*offset))
        if length > 1.5 * letters:
            leaders.append([(dot + share * offset) / size for share in (0.0, 1 - letters / 2 / length)])
        x, y = (dot + offset) / size
        axes.text(float(x), float(y), str(numbers[source]), transform=axes.transAxes, ha="center", va="center", fontsize=letters, zorder=3)
        taken = np.concatenate([taken, [dot + offset]])
    axes.add_collection(LineCollection(leaders, colors=FAINT, linewidths=0.5, transform=axes.transAxes, zorder=1), autolim=False)


def _key(figure: Figure, columns: Sequence[Sequence[tuple[str, str]]], pitch: float, room: float) -> None:
    """Number and name of every source, in columns ``pitch`` inches apart under the plots."""
    width, height = figure.get_size_inches()
    for number, column in enumerate(columns):
        top, left = room - 0.15, 0.8 + pitch * number
        for mark, name in column:
            figure.text((left + 0.14) / width, top / height, mark, ha="right", va="top", fontsize=8)
            figure.text((left + 0.22) / width, top / height, name, ha="left", va="top", fontsize=8)
            top -= 0.16 * (name.count("\n") + 1)
