"""The figures: heat maps, scatter plots and a forest plot, drawn without pyplot's global state.

SVG keeps text as text: it can be selected, searched, and takes the colour of the page. The price is that the viewer's font decides the
width of a label; labels therefore stand free (never in a box that they could overflow), and the drawing is laid out with DejaVu Sans,
which is wider than the sans-serif fonts that browsers put in its place. PNG has the glyphs drawn in.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
    number,
    p_text,
    score_cells,
    signed,
    transfer_cells,
)
from simkit.report.content import Content, MethodInfo
from simkit.report.layout import visible, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NamedFigure", "figures", "save_figures", "svg_text"]

INK, FAINT, PAPER = "#1b1f24", "#6e7781", "#fefefe"
"""Text and axes, grid and hatching, background: these three the page replaces by its own colours, which follow light and dark."""

POINT, ACCENT = "#0f7fc0", "#d9660a"
"""Blue and orange of about the same lightness: told apart by colour-blind readers, and readable on white and on near-black."""

MEASURES_IN_ROW = 8
SCATTER_MEASURES = 4
ROW, COLUMN = 0.36, 1.2
"""Height and width of a heat map's cell, inches."""

PANEL = 2.2
"""Side of a scatter plot, inches."""

PANELS_IN_ROW = 3

SHADES = "viridis"


@dataclass(frozen=True)
class NamedFigure:
    """A figure with its file name, title and caption; ``figure`` is None when there is nothing to draw, and ``missing`` says why."""

    name: str
    title: str
    caption: str
    figure: Figure | None = None
    missing: str = ""


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib as mpl

    settings: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": "simkit", "text.parse_math": False, "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9.0, "axes.titlesize": 9.5, "axes.labelsize": 9.0, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "hatch.linewidth": 0.6,
        "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.facecolor": PAPER,
        "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "grid.color": FAINT, "axes.spines.top": False, "axes.spines.right": False,
        "axes.unicode_minus": False, "axes.formatter.useoffset": False,
    }
    with mpl.rc_context(settings):
        yield


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _fixed_axes(width: float, height: float, extra: float = 0.0) -> tuple[Figure, Axes]:
    """Axes of a size in inches; labels stand outside and are included when the figure is cropped to its ink."""
    figure = _figure(width + 2 + extra, height + 2)
    total_width, total_height = width + 2 + extra, height + 2
    return figure, figure.add_axes((1 / total_width, 1 / total_height, width / total_width, height / total_height))


def _label(name: str, width: int = 26) -> str:
    """A name for an axis: lines of at most ``width`` columns; nothing is cut off."""
    return "\n".join(wrapped(visible(name), width))


@dataclass(frozen=True)
class _Cell:
    shade: float | None
    text: str


def _heat_map(rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[_Cell | None]], *, column_width: float = COLUMN) -> tuple[Figure, Axes]:
    """Cells shaded by ``shade`` in 0..1 (1 is best), their text printed; None is hatched, a shade of None is left plain."""
    import matplotlib as mpl
    from matplotlib.patches import Rectangle

    row_labels = [_label(name) for name in rows]
    lines = max((label.count("\n") + 1 for label in row_labels), default=1)
    lines = max([lines, *(cell.text.count("\n") + 1 for line in cells for cell in line if cell)])
    height = ROW if lines == 1 else 0.17 * lines + 0.12
    figure, axes = _fixed_axes(column_width * len(columns), height * len(rows))
    shades = mpl.colormaps[SHADES]
    for i, line in enumerate(cells):
        for j, cell in enumerate(line):
            if cell is None:
                axes.add_patch(Rectangle((j + 0.02, i + 0.04), 0.96, 0.92, facecolor="none", edgecolor=FAINT, hatch="////", linewidth=0))
                axes.text(j + 0.5, i + 0.5, "no value", ha="center", va="center", fontsize=8, bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5})
                continue
            colour = INK
            if cell.shade is not None:
                face = shades(_position(cell.shade))
                axes.add_patch(Rectangle((j, i), 1, 1, facecolor=face, edgecolor=PAPER, linewidth=1.2))
                colour = "#000000" if _luminance(face) > 0.18 else "#ffffff"
            axes.text(j + 0.5, i + 0.5, cell.text, ha="center", va="center", fontsize=8, color=colour, linespacing=1.15)
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    axes.set_xticks([j + 0.5 for j in range(len(columns))], [_label(name, int(column_width * 13)) for name in columns])
    axes.set_yticks([i + 0.5 for i in range(len(rows))], row_labels)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure, axes


def _position(shade: float) -> float:
    """Place of a shade (0 worst, 1 best) in the colour map, without its darkest end, which vanishes on a dark page."""
    return 0.14 + 0.82 * shade


def _luminance(colour: tuple[float, ...]) -> float:
    """Relative luminance (WCAG 2.1): above 0.18, black has the higher contrast on it."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _shade_bar(figure: Figure, axes: Axes, low: str, high: str, title: str) -> None:
    """A legend of the shades under a heat map."""
    import matplotlib as mpl
    from matplotlib.patches import Rectangle

    width, height = figure.get_size_inches()
    bar = figure.add_axes((axes.get_position().x0, axes.get_position().y0 - 0.42 / height, 1.6 / width, 0.12 / height))
    for step in range(32):
        bar.add_patch(Rectangle((step / 32, 0), 1 - step / 32, 1, facecolor=mpl.colormaps[SHADES](_position(step / 31)), linewidth=0))
    bar.set_axis_off()
    bar.text(0, -0.5, low, ha="left", va="top", fontsize=8)
    bar.text(1, -0.5, high, ha="right", va="top", fontsize=8)
    bar.text(1.06, 0.5, title, ha="left", va="center", fontsize=8)


def _names(keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:8])
    return shown if len(keys) <= 8 else f"{shown} and {len(keys) - 8} more"


def _transfer_figure(content: Content) -> NamedFigure:
    cells, metric = transfer_cells(content), metric_of(content)
    title = f"Mean {metric} of each source on each target"
    means = [cell.mean for cell in cells.values() if cell.mean is not None]
    if not means:
        return NamedFigure("transfer", title, "", missing="No transfer was measured, so there is no map of it.")
    targets = [target for target in content.targets if any(key[0] == target for key in cells)]
    sources = [source for source in dict.fromkeys((*content.sources, *(key[1] for key in cells))) if any((target, source) in cells for target in targets)]
    low, high = min(means), max(means)
    rows, missing = [], []
    for source in sources:
        line: list[_Cell | None] = []
        for target in targets:
            cell = cells.get((target, source))
            if cell is None and source == target:
                line.append(_Cell(None, "itself"))
            elif cell is None or cell.mean is None:
                line.append(None)
                missing.append(f"{source} -> {target}")
            else:
                line.append(_Cell((cell.mean - low) / (high - low) if high > low else 1.0, _transfer_label(cell)))
        rows.append(line)
    figure, axes = _heat_map(sources, targets, rows, column_width=1.35)
    _shade_bar(figure, axes, f"{low:.3f}", f"{high:.3f}", metric)
    caption = f"Mean {metric} over replicates, 95 % interval, and rank within the target (#1 is best; = is not distinguishable from the best)."
    return NamedFigure("transfer", title, caption + (f" Hatched: no value ({_names(missing)})." if missing else ""), figure)


def _transfer_label(cell: TransferCell) -> str:
    return "\n".join(part for part in (f"{cell.mean:.3f}  {cell.rank_text}".rstrip(), interval_text(cell.interval, 3)) if part)


def _measure_figures(content: Content) -> list[NamedFigure]:
    cells, infos = score_cells(content), method_infos(content)
    out = []
    for number_of, target in enumerate(content.targets, 1):
        methods = [info for info in infos if any(key[:2] == (info.name, target) for key in cells)]
        if not methods:
            missing = f"No measure has a value for {target}."
            out.append(NamedFigure(f"measures-{number_of}", f"Similarity to {target}", "", missing=missing))
        blocks = [methods[start : start + MEASURES_IN_ROW] for start in range(0, len(methods), MEASURES_IN_ROW)]
        for part, block in enumerate(blocks, 1):
            of = f" ({part} of {len(blocks)})" if len(blocks) > 1 else ""
            name = f"measures-{number_of}" + (f"-{part}" if len(blocks) > 1 else "")
            out.append(_measure_figure(content, cells, target, block, name, f"Similarity to {target} by every measure{of}"))
    return out


def _measure_figure(
    content: Content, cells: dict[tuple[str, str, str], ScoreCell], target: str, methods: Sequence[MethodInfo], name: str, title: str,
) -> NamedFigure:
    sources = [s for s in dict.fromkeys((*content.sources, *(key[2] for key in cells))) if any((info.name, target, s) in cells for info in methods)]
    grid, missing, unconverged = [], [], False
    for source in sources:
        line: list[_Cell | None] = []
        for info in methods:
            cell = cells.get((info.name, target, source))
            if cell is None:
                line.append(_Cell(None, "itself") if source == target else None)
                missing += [] if source == target else [f"{info.name} of {source}"]
                continue
            unconverged = unconverged or not cell.converged
            line.append(_Cell((cell.of - cell.rank) / (cell.of - 1) if cell.of > 1 else 1.0, f"{number(cell.value)}{'' if cell.converged else ' !'}"))
        grid.append(line)
    floors = [next((c.floor for key, c in cells.items() if key[:2] == (info.name, target) and c.floor is not None), None) for info in methods]
    labels = list(sources)
    if any(floor is not None for floor in floors):
        labels.append("floor")
        grid.append([_Cell(None, "none" if floor is None else number(floor)) for floor in floors])
    heads = [f"{info.name}\n{'higher = better' if info.higher_is_better else 'lower = closer'}" for info in methods]
    figure, axes = _heat_map(labels, heads, grid)
    _shade_bar(figure, axes, "last", "first", "rank within the measure")
    caption = "Values as each measure defines them; the shade is the rank of the source within one measure, so that units do not matter."
    if "floor" in labels[len(sources):]:
        caption += " The last row is the floor: the value between two halves of the target. A distance that is not above it cannot be told from no distance."
    caption += " A ! marks a solver that did not converge." if unconverged else ""
    return NamedFigure(name, title, caption + (f" Hatched: no value ({_names(missing)})." if missing else ""), figure)


def _scatter_figures(content: Content) -> list[NamedFigure]:
    """One figure a measure, for the few that agree best with transfer."""
    cells, transfers = score_cells(content), transfer_cells(content)
    out: list[NamedFigure] = []
    for method in best_methods(content, SCATTER_MEASURES):
        found = {target: _points(cells, transfers, method, target) for target in content.targets}
        panels = {target: points for target, points in found.items() if len(points) > 1}
        if panels:
            without = [target for target in content.targets if target not in panels]
            out.append(_scatter_figure(content, method, panels, without, f"scatter-{len(out) + 1}"))
    if not out:
        why = "No target has both similarity and transfer of two sources, so one cannot be held against the other."
        out.append(NamedFigure("scatter-1", "Similarity against transfer", "", missing=why))
    return out


def _scatter_figure(content: Content, method: str, panels: Mapping[str, Sequence[Point]], without: Sequence[str], name: str) -> NamedFigure:
    info = next(info for info in method_infos(content) if info.name == method)
    numbers = {source: i for i, source in enumerate(dict.fromkeys((*content.sources, *(s for points in panels.values() for s, _, _ in points))), 1)}
    used = {source for points in panels.values() for source, _, _ in points}
    key = [(str(i), _label(source, 34)) for source, i in numbers.items() if source in used]
    columns = min(len(panels), PANELS_IN_ROW)
    key_height = 0.16 * max(sum(text.count("\n") + 1 for _, text in key[start::columns]) for start in range(columns)) + 0.35
    head = 0.2 + 0.17 * max(_label(target).count("\n") + 1 for target in panels)
    each = PANEL + 0.62 + head
    width, height = 0.9 + 2.9 * columns, each * math.ceil(len(panels) / columns) + key_height
    figure = _figure(width, height)
    for place, (target, points) in enumerate(panels.items()):
        row, column = divmod(place, columns)
        axes = figure.add_axes(((0.8 + 2.9 * column) / width, (height - (row + 1) * each + 0.62) / height, PANEL / width, PANEL / height))
        _scatter(axes, points, info, numbers)
        axes.set_title("\n".join(part for part in (_label(target), _verdict(content, method, target)) if part), loc="left")
        axes.set_ylabel(metric_of(content) if column == 0 else "")
    _key(figure, key, columns, width, height, key_height)
    caption = "One point a source, numbered as below; one panel a target. Right is always more similar"
    caption += "" if info.higher_is_better else ": the axis of a distance runs backwards"
    caption += ". Bars are 95 % intervals. Targets are not pooled, because each has its own difficulty."
    if any(cell.floor is not None for points in panels.values() for _, cell, _ in points):
        caption += " The dashed line is the floor, the value between two halves of the target."
    caption += f" No panel, because fewer than two sources have both numbers: {_names(without)}." if without else ""
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
    axes.set_xlabel(_label(f"{info.name} ({'higher = better' if info.higher_is_better else 'lower = closer'})", 34))
    axes.grid(alpha=0.25, linewidth=0.6)
    _number_points(axes, points, numbers)


def _number_points(axes: Axes, points: Sequence[Point], numbers: dict[str, int]) -> None:
    """Writes each point's number beside it, where it covers no other point or number as far as that can be."""
    axes.autoscale_view()
    to_share = axes.transAxes.inverted().transform
    shares = [to_share(axes.transData.transform((cell.value, transfer.mean or 0.0))) for _, cell, transfer in points]
    dots = [(float(x) * PANEL * 72, float(y) * PANEL * 72) for x, y in shares]  # in points, as the offsets are
    taken = list(dots)
    places = [(radius * math.cos(angle), radius * math.sin(angle)) for radius in (8.5, 15.0, 22.0) for angle in (math.pi * (k / 4 + 1 / 8) for k in range(8))]
    for (source, cell, transfer), (x, y) in zip(points, dots, strict=True):

        def crowding(place: tuple[float, float], x: float = x, y: float = y) -> float:
            near = sum(max(0.0, 9.0 - math.hypot(x + place[0] - a, y + place[1] - b)) for a, b in taken)
            return near + 0.02 * math.hypot(*place)

        dx, dy = min(places, key=crowding)
        taken.append((x + dx, y + dy))
        line = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2} if math.hypot(dx, dy) > 9 else None
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
    title, found = "Does similarity predict transfer?", content.correlation
    results = [] if found is None else [*((r, False) for r in found.methods), *((r, True) for r in found.baselines)]
    defined = [(result, baseline) for result, baseline in results if result.mean_spearman is not None]
    if not defined:
        why = "Whether similarity predicts transfer was not computed." if found is None else "No measure has a defined rank correlation with transfer."
        return NamedFigure("forest", title, "", missing=why)
    defined.sort(key=lambda item: (item[1], -(item[0].mean_spearman or 0.0)))
    labels = [_label(result.method + (" (baseline)" if baseline else ""), 30) for result, baseline in defined]
    heights = [0.3 + 0.15 * label.count("\n") for label in labels]
    figure, axes = _fixed_axes(4.2, sum(heights) + 0.15)
    positions = [sum(heights[:i]) + heights[i] / 2 for i in range(len(heights))]
    axes.axvline(0, color=FAINT, linewidth=1)
    for position, (result, baseline) in zip(positions, defined, strict=True):
        colour = ACCENT if baseline else POINT
        if result.interval:
            axes.plot(result.interval, [position, position], color=colour, linewidth=1.6, solid_capstyle="butt")
        style = {"marker": "D", "markerfacecolor": PAPER} if baseline else {"marker": "o", "markerfacecolor": colour}
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
    return NamedFigure("forest", title, caption + (f" Not drawn because undefined: {_names(undefined)}." if undefined else ""), figure)


def figures(content: Content) -> tuple[NamedFigure, ...]:
    """Every figure of the report in its order; one without data has no figure and says why."""
    with _style():
        return (_transfer_figure(content), *_measure_figures(content), *_scatter_figures(content), _forest_figure(content))


def svg_text(figure: Figure) -> str:
    """The figure as SVG, cropped to its ink; the same figure gives the same bytes."""
    out = io.StringIO()
    with _style(), warnings.catch_warnings():
        # text stays text in SVG: a script that the layout font lacks is drawn by the viewer's own font (PNG does warn)
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font", category=UserWarning)
        figure.savefig(out, format="svg", bbox_inches="tight", pad_inches=0.08, metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _png(figure: Figure, dpi: int) -> bytes:
    out = io.BytesIO()
    with _style():
        figure.savefig(out, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.08, metadata={"Software": None})
    return out.getvalue()


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
        for kind, data in (("svg", svg_text(item.figure).encode("utf-8")), ("png", _png(item.figure, dpi))):
            path = Path(folder) / f"{item.name}.{kind}"
            write_bytes(path, data)
            paths.append(path)
    return tuple(paths)
