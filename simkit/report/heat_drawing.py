"""How a heat map is drawn for files: shaded cells with their text, names beside and above, a legend of the shades below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simkit.report.drawing import FAINT, INK, PAGE, PAPER, Format, fixed_axes, label, luminance
from simkit.report.layout import longest_piece

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from simkit.report.heat_maps import HeatMap

__all__ = ["MANY_ROWS", "STEPS", "draw_heat_map", "shade_rules"]

ROW = 0.36
"""Height of a heat map's cell, inches."""

MANY_ROWS, DENSE_ROW = 40, 0.21
"""More rows than that are this high (inches), hold one line each, and no intervals: else the map is longer than anybody scrolls."""

DENSE_NAME = 60
"""Letters of a line of a row's name where there are many rows."""

LETTERS = 13
"""Letters of a column's head that fit an inch."""

WIDEST = 60
"""Letters of the longest word of a head for which columns are still made wider."""

NARROW_FONT = 7.0
"""Points of the text in a map for one column of a journal, where what is shaded is written above the legend instead of beside it."""

SHADES = "viridis"

STEPS = 33
"""Shades of a heat map on the page."""


def draw_heat_map(found: HeatMap, form: Format = PAGE) -> Figure:
    """Cells shaded by their ``shade``, their text printed; None is hatched, a shade of None is left plain.

    Columns are made as wide as the longest word of their heads, so that no name is broken inside a word.
    """
    dense = len(found.rows) > MANY_ROWS
    names = [label(name, max(DENSE_NAME if dense else 0, form.name) if form is PAGE else form.name) for name in found.rows]
    lines = max([1, *(text.count("\n") + 1 for text in names), *(cell.text.count("\n") + 1 for line in found.cells for cell in line if cell)])
    height = (DENSE_ROW if dense else ROW) if lines == 1 else 0.17 * lines + 0.12
    letters = LETTERS if form is PAGE else LETTERS * 8 / form.font
    longest = max((len(part) for line in found.cells for cell in line if cell for part in cell.text.split("\n")), default=0)
    column_width = max([form.column, (longest + 2) / letters, *((min(longest_piece(name), WIDEST) + 1) / letters for name in found.columns)])
    figure, axes = fixed_axes(column_width * len(found.columns), height * len(found.rows))
    for i, line in enumerate(found.cells):
        for j, cell in enumerate(line):
            _cell(axes, i, j, None if cell is None else (cell.shade, cell.text), form.font)
    axes.set_xlim(0, len(found.columns))
    axes.set_ylim(len(found.rows), 0)
    axes.set_xticks([j + 0.5 for j in range(len(found.columns))], [label(name, int(column_width * letters)) for name in found.columns])
    axes.set_yticks([i + 0.5 for i in range(len(found.rows))], names)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    if form is not PAGE:
        axes.tick_params(labelsize=form.font)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if found.shaded:
        _shade_bar(figure, axes, *found.ends, form.font)
    return figure


def _cell(axes: Axes, i: int, j: int, cell: tuple[float | None, str] | None, font: float) -> None:
    import matplotlib as mpl
    from matplotlib.patches import Rectangle

    if cell is None:
        axes.add_patch(Rectangle((j + 0.02, i + 0.04), 0.96, 0.92, facecolor="none", edgecolor=FAINT, hatch="////", linewidth=0))
        axes.text(j + 0.5, i + 0.5, "no value", ha="center", va="center", fontsize=font, bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5})
        return
    (shade, text), colour = cell, INK
    if shade is not None:
        face = mpl.colormaps[SHADES](_position(shade))
        axes.add_patch(Rectangle((j, i), 1, 1, facecolor=face, edgecolor=PAPER, linewidth=1.2))
        colour = "#000000" if luminance(face) > 0.18 else "#ffffff"
    axes.text(j + 0.5, i + 0.5, text, ha="center", va="center" if "\n" in text else "center_baseline", fontsize=font, color=colour, linespacing=1.15)


def _position(shade: float) -> float:
    """Place of a shade (0 worst, 1 best) in the colour map, without its darkest end, which vanishes on a dark page."""
    return 0.14 + 0.82 * shade


def _shade_bar(figure: Figure, axes: Axes, low: str, high: str, title: str, font: float) -> None:
    """A legend of the shades under a heat map."""
    import matplotlib as mpl
    from matplotlib.patches import Rectangle

    width, height = figure.get_size_inches()
    bar = figure.add_axes((axes.get_position().x0, axes.get_position().y0 - 0.42 / height, 1.6 / width, 0.12 / height))
    for step in range(32):
        bar.add_patch(Rectangle((step / 32, 0), 1 - step / 32, 1, facecolor=mpl.colormaps[SHADES](_position(step / 31)), linewidth=0))
    bar.set_axis_off()
    bar.text(0, -0.5, low, ha="left", va="top", fontsize=font)
    bar.text(1, -0.5, high, ha="right", va="top", fontsize=font)
    beside = font > NARROW_FONT
    bar.text(1.06 if beside else 0, 0.5 if beside else 1.3, title, ha="left", va="center" if beside else "bottom", fontsize=font)


def shade_rules() -> str:
    """The shades as rules of CSS for the classes ``s0`` (worst) to ``s32`` (best), each with the text colour that is read on it."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    rules = []
    for step in range(STEPS):
        face = mpl.colormaps[SHADES](_position(step / (STEPS - 1)))
        rules.append(f".s{step} {{ background: {to_hex(face)}; color: {'#000' if luminance(face) > 0.18 else '#fff'}; }}")
    return "\n".join([*rules, f".shades {{ background: linear-gradient(to right, {', '.join(_stop(k / 8) for k in range(9))}); }}"])


def _stop(shade: float) -> str:
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    return to_hex(mpl.colormaps[SHADES](_position(shade)))
