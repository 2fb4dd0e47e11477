"""The figures of a report: heat maps, scatter plots of similarity against transfer, and a forest plot of the measures."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simkit.files import write_bytes
from simkit.report.cells import (
    ScoreCell,
    TransferCell,
    best_methods,
    interval_text,
    method_infos,
    metric_of,
    p_text,
    score_cells,
    shortened,
    signed,
    transfer_cells,
)
from simkit.report.content import Content, MethodInfo
from simkit.report.drawing import ACCENT, FAINT, PAPER, POINT, NamedFigure, blank, fixed_axes, label, png_bytes, style, svg_text
from simkit.report.heat_maps import measure_figures, transfer_figures
from simkit.report.layout import safe_name, unique

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NamedFigure", "figures", "save_figures"]

SCATTER_MEASURES = 4
"""Measures that are plotted against transfer: those that agree best with it."""

PANELS_IN_ROW = 3
PANEL = 2.2
"""Side of a scatter plot, inches."""


def _scatter_figures(content: Content) -> list[NamedFigure]:
    """One figure a measure, for the few that agree best with transfer."""
    cells, transfers = score_cells(content), transfer_cells(content)
    out: list[NamedFigure] = []
    for method in best_methods(content, SCATTER_MEASURES):
        found = {target: _points(cells, transfers, method, target) for target in content.targets}
        panels = {target: points for target, points in found.items() if len(points) > 1}
        if panels:
            without = [target for target in content.targets if target not in panels]
            out.append(_scatter_figure(content, method, panels, without, f"scatter-{safe_name(method, otherwise=str(len(out) + 1))}"))
    if not out:
        why = "No target has both similarity and transfer of two sources, so one cannot be held against the other."
        out.append(NamedFigure("scatter", "Similarity against transfer", "", missing=why))
    return out


def _scatter_figure(content: Content, method: str, panels: Mapping[str, Sequence[Point]], without: Sequence[str], name: str) -> NamedFigure:
    info = next(info for info in method_infos(content) if info.name == method)
    numbers = {source: i for i, source in enumerate(dict.fromkeys((*content.sources, *(s for points in panels.values() for s, _, _ in points))), 1)}
    used = {source for points in panels.values() for source, _, _ in points}
    key = [(str(i), label(source, 34)) for source, i in numbers.items() if source in used]
    columns = min(len(panels), PANELS_IN_ROW)
    key_height = 0.16 * max(sum(text.count("\n") + 1 for _, text in key[start::columns]) for start in range(columns)) + 0.35
    head = 0.2 + 0.17 * max(label(target).count("\n") + 1 for target in panels)
    each = PANEL + 0.62 + head
    width, height = 0.9 + 2.9 * columns, each * math.ceil(len(panels) / columns) + key_height
    figure = blank(width, height)
    for place, (target, points) in enumerate(panels.items()):
        row, column = divmod(place, columns)
        axes = figure.add_axes(((0.8 + 2.9 * column) / width, (height - (row + 1) * each + 0.62) / height, PANEL / width, PANEL / height))
        _scatter(axes, points, info, numbers)
        axes.set_title("\n".join(part for part in (label(target), _verdict(content, method, target)) if part), loc="left", fontsize=8.5)
        axes.set_ylabel(metric_of(content) if column == 0 else "")
    _key(figure, key, columns, width, height, key_height)
    caption = "One point a source, numbered as in the key; one panel a target. Right is always more similar"
    caption += "" if info.higher_is_better else ": the axis of a distance runs backwards"
    caption += ". Bars are 95 % intervals. Targets are not pooled, because each has its own difficulty."
    if any(cell.floor is not None for points in panels.values() for _, cell, _ in points):
        caption += " The dashed line is the floor, the value between two halves of the target (at half its size or less, where many distances are larger)."
    caption += f" No panel, because fewer than two sources have both numbers: {shortened(without)}." if without else ""
    return NamedFigure(name, f"Similarity against transfer: {method}", caption, figure)


Point = tuple[str, ScoreCell, TransferCell]


def _points(cells: dict[tuple[str, str, str], ScoreCell], transfers: dict[tuple[str, str], TransferCell], method: str, target: str) -> list[Point]:
    """Sources with both numbers; the target itself is left out, as in the statistics."""
    found = [(cell, transfers.get((target, cell.source))) for key, cell in cells.items() if key[:2] == (method, target) and cell.source != target]
    return [(cell.source, cell, transfer) for cell, transfer in found if transfer is not None and transfer.mean is not None]


def _verdict(content: Content, method: str, target: str) -> str:
    results = content.correlation.methods if content.correlation else ()
    found = next((t for result in results if result.method == method for t in result.targets if t.target == target), None)
    if found is None:
        return ""
    if found.spearman is None:
        return f"n = {found.n}, undefined"
    return f"n = {found.n}, Spearman {signed(found.spearman)} {interval_text(found.interval, 2, sign=True)}".rstrip()


def _scatter(axes: Axes, points: Sequence[Point], info: MethodInfo, numbers: dict[str, int]) -> None:
    for _, cell, transfer in points:
        mean = transfer.mean or 0.0
        if cell.interval:
            axes.plot(cell.interval, [mean, mean], color=FAINT, linewidth=0.8, zorder=1)
        if transfer.interval:
            axes.plot([cell.value, cell.value], transfer.interval, color=FAINT, linewidth=0.8, zorder=1)
        axes.plot([cell.value], [mean], marker="o", markersize=5, color=FAINT if transfer.baseline else POINT, zorder=2)
    floors = {cell.floor for _, cell, _ in points if cell.floor is not None}
    for floor in sorted(floors):
        axes.axvline(floor, color=ACCENT, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    axes.margins(0.12)
    if not info.higher_is_better:
        axes.invert_xaxis()
    axes.locator_params(axis="x", nbins=4)
    axes.locator_params(axis="y", nbins=5)
    axes.set_xlabel(label(f"{info.name} ({'higher = better' if info.higher_is_better else 'lower = closer'})", 34))
    axes.grid(alpha=0.25, linewidth=0.6)
    _number_points(axes, points, numbers)


def _number_points(axes: Axes, points: Sequence[Point], numbers: dict[str, int]) -> None:
    """Writes each point's number beside it, where it covers no other point or number as far as that can be."""
    axes.autoscale_view()
    to_share = axes.transAxes.inverted().transform
    shares = [to_share(axes.transData.transform((cell.value, transfer.mean or 0.0))) for _, cell, transfer in points]
    dots = [(float(x) * PANEL * 72, float(y) * PANEL * 72) for x, y in shares]  # in points, as the offsets are
    taken = list(dots)
    places = [(radius * math.cos(angle), radius * math.sin(angle)) for radius in (9.5, 15.0, 22.0) for angle in (math.pi * (k / 4 + 1 / 8) for k in range(8))]
    for (source, cell, transfer), (x, y) in zip(points, dots, strict=True):

        def crowding(place: tuple[float, float], x: float = x, y: float = y) -> float:
            near = sum(max(0.0, 9.0 - math.hypot(x + place[0] - a, y + place[1] - b)) for a, b in taken)
            return near + 0.02 * math.hypot(*place)

        dx, dy = min(places, key=crowding)
        taken.append((x + dx, y + dy))
        line = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2} if math.hypot(dx, dy) > 10 else None
        axes.annotate(str(numbers[source]), (cell.value, transfer.mean or 0.0), (dx, dy), textcoords="offset points", ha="center", va="center", fontsize=7.5,
                      arrowprops=line, zorder=3)


def _key(figure: Figure, key: Sequence[tuple[str, str]], columns: int, width: float, height: float, room: float) -> None:
    """Number and name of every source, in columns under the plots."""
    for column in range(columns):
        top = room - 0.15
        for mark, name in key[column::columns]:
            left = 0.8 + 2.9 * column
            figure.text((left + 0.14) / width, top / height, mark, ha="right", va="top", fontsize=8)
            figure.text((left + 0.22) / width, top / height, name, ha="left", va="top", fontsize=8)
            top -= 0.16 * (name.count("\n") + 1)


def _forest_figure(content: Content) -> NamedFigure:
    title, found = "Mean rank correlation of each measure with transfer", content.correlation
    results = [] if found is None else [*((r, False) for r in found.methods), *((r, True) for r in found.baselines)]
    defined = [(result, baseline) for result, baseline in results if result.mean_spearman is not None]
    if not defined:
        why = "Whether similarity predicts transfer was not computed." if found is None else "No measure has a defined rank correlation with transfer."
        return NamedFigure("forest", title, "", missing=why)
    defined.sort(key=lambda item: (item[1], -(item[0].mean_spearman or 0.0)))
    labels = [label(result.method + (" (baseline)" if baseline else ""), 30) for result, baseline in defined]
    heights = [0.3 + 0.15 * label.count("\n") for label in labels]
    figure, axes = fixed_axes(4.2, sum(heights) + 0.15)
    positions = [sum(heights[:i]) + heights[i] / 2 for i in range(len(heights))]
    axes.axvline(0, color=FAINT, linewidth=1)
    for position, (result, baseline) in zip(positions, defined, strict=True):
        colour = ACCENT if baseline else POINT
        if result.interval:
            axes.plot(result.interval, [position, position], color=colour, linewidth=1.6, solid_capstyle="butt")
        style: dict[str, Any] = {"marker": "D", "markerfacecolor": PAPER} if baseline else {"marker": "o", "markerfacecolor": colour}
        axes.plot([result.mean_spearman or 0.0], [position], markersize=6, color=colour, **style)
        p = f"p {p_text(result.p_value)}".replace("p <", "p < ") if result.p_value is not None else ""
        text = "  ".join(part for part in (signed(result.mean_spearman), interval_text(result.interval, 2, sign=True), p) if part)
        axes.text(1.06, position, text, va="center", fontsize=8)
    axes.set_xlim(-1.03, 1.03)
    axes.set_ylim(sum(heights) + 0.05, -0.1)
    axes.set_yticks(positions, labels)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("mean Spearman correlation with performance, over targets")
    undefined = [result.method for result, _ in results if result.mean_spearman is None]
    caption = ("Mean over targets of the rank correlation between similarity and performance, with 95 % intervals; diamonds are baselines. "
               "Right of zero: more similar sources transfer better.")
    return NamedFigure("forest", title, caption + (f" Not drawn because undefined: {shortened(undefined)}." if undefined else ""), figure)


def figures(content: Content) -> tuple[NamedFigure, ...]:
    """Every figure of the report in its order; one without data has no figure and says why.

    They are named for what they show ("measures-retina-2", "scatter-otdd"): safe as file names, and each name once.
    """
    with style():
        found = (*transfer_figures(content), *measure_figures(content), *_scatter_figures(content), _forest_figure(content))
    return tuple(replace(item, name=name) for item, name in zip(found, unique([item.name for item in found]), strict=True))


def save_figures(content: Content, folder: str | os.PathLike[str], *, dpi: int = 200) -> tuple[Path, ...]:
    """Writes every figure that has data as SVG and PNG into ``folder``, each file whole or not at all.

    Args:
        content: of the report.
        folder: is made when missing.
        dpi: of the PNG files.

    Returns:
        The paths, in the order of the report.

    Raises:
        ResourceError: when the folder cannot be written.
    """
    paths = []
    for item in figures(content):
        if item.figure is None:
            continue
        for kind, data in (("svg", svg_text(item.figure).encode("utf-8")), ("png", png_bytes(item.figure, dpi))):
            path = Path(folder) / f"{item.name}.{kind}"
            write_bytes(path, data)
            paths.append(path)
    return tuple(paths)
