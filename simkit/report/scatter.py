"""Scatter plots of similarity against transfer: one figure a measure, one panel a target."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
    p_text,
    score_cells,
    shortened,
    signed,
    statistic_name,
    transfer_cells,
)
from simkit.report.content import Content, MethodInfo
from simkit.report.drawing import ACCENT, FAINT, PAGE, POINT, Format, NamedFigure, blank, label
from simkit.report.heat_maps import LEAK_MARK, is_leak, score_tip
from simkit.report.layout import safe_name, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["SCATTER_MEASURES", "scatter_figures"]

SCATTER_MEASURES = 4
"""Measures that are plotted against transfer: those that agree best with it."""

MOST_PANELS, FULL_PANELS = 30, 6
"""Targets that one figure has panels for, the first of the study; targets where some panel has more than ``MOST_NUMBERED`` points."""

WIDE_PANEL, MANY_POINTS = 3.4, 16
"""Side of a panel in inches where some panel has more than so many points, whose numbers need room (where the format leaves it)."""

WIDE_IN_ROW = 2
"""Such panels in a row."""

MOST_NUMBERED = 60
"""Points of a panel beyond which none has its number: they would hide each other."""

GUTTER = 0.7
"""Between the panels of a row, inches."""

MARK, LETTER, LINE = 0.45, 0.07, 0.16
"""Room that the number, a letter of a name and a line take in the key, inches."""

Point: TypeAlias = tuple[str, ScoreCell, TransferCell]


@dataclass(frozen=True)
class Layout:
    """What the figures of one measure have in common, lengths in inches.

    Attributes:
        numbers: source -> number beside its points and in the key; empty where the panels are too full for numbers.
        titles: target -> title of its panel.
        side: of a panel.
        columns: panels in a row.
        head: room above a panel.
        foot: room below it.
        over: the verdict over all targets, above the panels.
        font: points of the text.
    """

    numbers: dict[str, int]
    titles: dict[str, str]
    side: float
    columns: int
    head: float
    foot: float
    over: str
    font: float

    @property
    def each(self) -> float:
        """Height of a row."""
        return self.side + self.foot + self.head

    @property
    def across(self) -> float:
        """Width of a row."""
        return (self.side + GUTTER) * self.columns


def scatter_figures(content: Content, form: Format = PAGE) -> list[NamedFigure]:
    """A figure a measure, or several where one would be too high, for the few that agree best with transfer."""
    cells, transfers = score_cells(content), transfer_cells(content)
    out: list[NamedFigure] = []
    measures = 0
    for method in best_methods(content, SCATTER_MEASURES):
        found = {target: _points(content, cells, transfers, method, target) for target in content.targets}
        panels = {target: points for target, points in found.items() if len(points) > 1}
        if panels:
            measures += 1
            without = [target for target in content.targets if target not in panels]
            out += _scatter_figures(content, method, panels, without, f"scatter-{safe_name(method, otherwise=str(measures))}", form)
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


def _scatter_figures(
    content: Content, method: str, every: Mapping[str, Sequence[Point]], without: Sequence[str], name: str, form: Format,
) -> list[NamedFigure]:
    """The figures of one measure: as many of its panels in each as are not too high."""
    info = next(info for info in method_infos(content) if info.name == method)
    crowded = max(len(points) for points in every.values()) > MOST_NUMBERED
    panels = dict(list(every.items())[: FULL_PANELS if crowded else MOST_PANELS])
    layout = _layout(content, info, panels, form, crowded=crowded)
    rows = math.ceil(len(panels) / layout.columns)
    if form.height is not None:
        room = form.height / 25.4 - _key_columns(layout, (source for points in panels.values() for source, _, _ in points))[1] - 0.35
        rows = max(1, min(rows, int(room / layout.each)))
    targets, most = list(panels), rows * layout.columns
    blocks = [targets[start : start + most] for start in range(0, len(targets), most)]
    out = []
    for part, block in enumerate(blocks, 1):
        own = {target: panels[target] for target in block}
        figure, tips = _scatter_figure(content, info, own, layout)
        caption = _caption(content, info, own, without, numbered=not crowded)
        if crowded:
            caption += f" Points have no numbers, tooltips and bars, because there are more than {MOST_NUMBERED} in a panel; the tables name them."
        caption += f" Drawn are the first {len(panels)} of {len(every)} targets." if len(every) > len(panels) else ""
        of = f" ({part} of {len(blocks)})" if len(blocks) > 1 else ""
        out.append(NamedFigure(f"{name}-{part}" if of else name, f"Similarity against transfer: {method}{of}", caption, figure, tips={} if crowded else tips))
    return out


def _layout(content: Content, info: MethodInfo, panels: Mapping[str, Sequence[Point]], form: Format, *, crowded: bool) -> Layout:
    used = {source for points in panels.values() for source, _, _ in points}
    numbers = {source: i for i, source in enumerate(dict.fromkeys((*content.sources, *(s for points in panels.values() for s, _, _ in points))), 1)}
    most = max(len(points) for points in panels.values())
    side = WIDE_PANEL if most > MANY_POINTS and form is PAGE else form.panel
    columns = min(len(panels), form.panels if side == form.panel else WIDE_IN_ROW)
    titles = {target: "\n".join(part for part in (label(target), _verdict(content, info.name, target)) if part) for target in panels}
    font = 9.0 if form is PAGE else form.font
    return Layout({} if crowded else {source: i for source, i in numbers.items() if source in used}, titles, side, columns,
                  0.2 + 0.17 * max(title.count("\n") for title in titles.values()), 0.46 + 0.16 * (_x_label(info, "1e-10").count("\n") + 1),
                  _over_all(content, info.name, int((side + GUTTER) * columns * 115 / font)), font)


def _key_columns(layout: Layout, used: Iterable[str]) -> tuple[list[list[tuple[str, str]]], float]:
    """The key of the sources of a figure, (number, name) in columns, and its height."""
    shown = set(used)
    key = [(str(i), label(source, 34)) for source, i in layout.numbers.items() if source in shown]
    longest = max((text_width(line) for _, text in key for line in text.split("\n")), default=1)
    count = max(1, min(len(key), int(layout.across / (MARK + LETTER * longest))))
    columns = [key[start::count] for start in range(count)]
    return columns, LINE * max(sum(text.count("\n") + 1 for _, text in column) for column in columns) + 0.35


def _scatter_figure(
    content: Content, info: MethodInfo, panels: Mapping[str, Sequence[Point]], layout: Layout,
) -> tuple[Figure, dict[str, tuple[str, ...]]]:
    """One figure, and what its groups of points are."""
    side, columns, each = layout.side, layout.columns, layout.each
    key, key_height = _key_columns(layout, (source for points in panels.values() for source, _, _ in points))
    width, height = 0.9 + layout.across, each * math.ceil(len(panels) / columns) + key_height
    figure = blank(width, height)
    if layout.over:
        figure.text(0.8 / width, 1 + 0.12 / height, layout.over, ha="left", va="bottom", fontsize=layout.font)
    tips: dict[str, tuple[str, ...]] = {}
    for place, (target, points) in enumerate(panels.items()):
        row, column = divmod(place, columns)
        corner = (0.8 + (side + GUTTER) * column) / width, (height - (row + 1) * each + layout.foot) / height
        axes = figure.add_axes((*corner, side / width, side / height))
        tips |= _scatter(axes, points, info, layout.numbers, side, place)
        axes.set_title(layout.titles[target], loc="left", fontsize=min(8.5, layout.font))
        axes.set_ylabel(label(metric_of(content), 30) if column == 0 else "")
    _key(figure, key, layout.across / len(key), key_height)
    return figure, tips


def _caption(content: Content, info: MethodInfo, panels: Mapping[str, Sequence[Point]], without: Sequence[str], *, numbered: bool) -> str:
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
    text += f" No panel, because fewer than two sources have both numbers: {shortened(without)}." if without else ""
    leaks = numbered and any(is_leak((*cell.flags, *transfer.flags)) for _, cell, transfer in points)
    return text + (f" {LEAK_MARK} marks a pair that copies of images touch." if leaks else "")


def _verdict(content: Content, method: str, target: str) -> str:
    """n and the primary coefficient of the target, with its interval and p where there are such (Spearman's)."""
    found = content.correlation
    one = next((t for result in (found.methods if found else ()) if result.method == method for t in result.targets if t.target == target), None)
    if found is None or one is None:
        return ""
    value, interval, p = {"kendall": (one.kendall, None, None), "weighted-tau": (one.weighted_tau, None, None)}.get(
        found.statistic, (one.spearman, one.interval, one.p_value))
    if value is None:
        return f"n = {one.n}, undefined"
    first = f"n = {one.n}, {statistic_name(found)} {signed(value)} {interval_text(interval, 2, sign=True)}".rstrip()
    return first if p is None else f"{first}\np {p_text(p)}"


def _over_all(content: Content, method: str, letters: int) -> str:
    """The verdict over all targets: mean coefficient, its interval, and p, also adjusted for the number of measures."""
    found = content.correlation
    one = next((result for result in (found.methods if found else ()) if result.method == method), None)
    if found is None or one is None or one.mean is None or len(one.targets) < 2:
        return ""
    said = f"All {len(one.targets)} targets: mean {statistic_name(found)} {signed(one.mean)} {interval_text(one.interval, 2, sign=True)}".rstrip()
    parts = (said, f"p {p_text(one.p_value)}" if one.p_value is not None else "",
             f"p {p_text(one.p_max)} adjusted for {len(found.methods)} measures" if one.p_max is not None and len(found.methods) > 1 else "")
    return label(", ".join(part for part in parts if part), letters)


def _x_label(info: MethodInfo, power: str = "") -> str:
    unit = f", times {power}" if power else ""
    return label(f"{info.name} ({'higher = better' if info.higher_is_better else 'lower = closer'}{unit})", 34)


def _scatter(axes: Axes, points: Sequence[Point], info: MethodInfo, numbers: dict[str, int], side: float, place: int) -> dict[str, tuple[str, ...]]:
    """Points, bars and floor of one panel; returns what each group of points is, in the order in which its points are drawn."""
    means = [transfer.mean or 0.0 for _, _, transfer in points]
    across = [(mean, *cell.interval) for mean, (_, cell, _) in zip(means, points, strict=True) if cell.interval]
    upright = [(cell.value, *transfer.interval) for _, cell, transfer in points if transfer.interval]
    bars = len(points) <= MOST_NUMBERED
    if across and bars:
        axes.hlines(*zip(*across, strict=True), color=FAINT, linewidth=0.8, zorder=1)
    if upright and bars:
        axes.vlines(*zip(*upright, strict=True), color=FAINT, linewidth=0.8, zorder=1)
    tips = {}
    for baseline, colour in ((True, FAINT), (False, POINT)):
        own = [(cell, transfer) for _, cell, transfer in points if transfer.baseline == baseline]
        if own:
            name = f"points-{place}-{'baseline' if baseline else 'sources'}"
            axes.plot([cell.value for cell, _ in own], [transfer.mean or 0.0 for _, transfer in own], marker="o", color=colour, linestyle="none", zorder=2,
                      markersize=3.5 if side == WIDE_PANEL else 5, gid=name)
            tips[name] = tuple(_tip(cell, transfer) for cell, transfer in own)
    floors = {cell.halves for _, cell, _ in points if cell.halves is not None}
    for floor in sorted(floors):
        axes.axvline(floor, color=ACCENT, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    axes.margins(0.12)
    if not info.higher_is_better:
        axes.invert_xaxis()
    axes.locator_params(axis="x", nbins=4)
    axes.locator_params(axis="y", nbins=5)
    axes.grid(alpha=0.25, linewidth=0.6)
    if numbers:
        _number_points(axes, points, numbers, side)
    axes.set_xlabel(_x_label(info, _power_of_ten(axes)))
    return tips


def _tip(cell: ScoreCell, transfer: TransferCell) -> str:
    """What a point is: both numbers with what is known about them."""
    flags = "".join(f", {flag}" for flag in transfer.flags if flag not in cell.flags)
    return f"{score_tip(cell)}; performance {transfer.text} {transfer.rank_text}".rstrip() + f", n {transfer.n}{flags}"


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
    letters = 6.0 if len(points) > MANY_POINTS else 7.5
    data = np.array([(cell.value, transfer.mean or 0.0) for _, cell, transfer in points])
    dots = axes.transAxes.inverted().transform(axes.transData.transform(data)) * size
    angles = math.pi * (np.arange(8) / 4 + 1 / 8)
    offsets = np.concatenate([radius * np.stack([np.cos(angles), np.sin(angles)], axis=1) for radius in (1.27 * letters, 2 * letters, 3 * letters)])
    taken, leaders = dots, []
    touched = {source for source, cell, transfer in points if is_leak((*cell.flags, *transfer.flags))}
    for (source, _, _), dot in zip(points, dots, strict=True):
        distances = np.hypot(*np.moveaxis((dot + offsets)[:, None] - taken[None], 2, 0))
        crowding = np.maximum(0.0, 1.2 * letters - distances).sum(1) + 0.02 * np.hypot(*offsets.T)
        offset = offsets[np.argmin(np.round(crowding, 9))]  # rounded: places that are equally good are so on every machine
        length = float(np.hypot(*offset))
        if length > 1.5 * letters:
            leaders.append([(dot + share * offset) / size for share in (0.0, 1 - letters / 2 / length)])
        x, y = (dot + offset) / size
        mark = f"{numbers[source]}{LEAK_MARK if source in touched else ''}"
        axes.text(float(x), float(y), mark, transform=axes.transAxes, ha="center", va="center", fontsize=letters, zorder=3)
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
            top -= LINE * (name.count("\n") + 1)
