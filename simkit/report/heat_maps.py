"""Heat maps: performance of every pair, and every measure of the sources of one target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simkit.report.cells import ScoreCell, TransferCell, interval_text, method_infos, metric_of, number, score_cells, transfer_cells
from simkit.report.content import Content, MethodInfo
from simkit.report.drawing import FAINT, INK, PAPER, NamedFigure, fixed_axes, label, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["measure_figures", "transfer_figures"]

COLUMNS_IN_MAP = 6
"""Columns of one heat map; more measures or targets make more maps, so that each fits a page."""

ROW, COLUMN = 0.36, 1.2
"""Height and width of a heat map's cell, inches."""

SHADES = "viridis"


@dataclass(frozen=True)
class _Cell:
    shade: float | None
    text: str


def _heat_map(rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[_Cell | None]], *, column_width: float = COLUMN) -> tuple[Figure, Axes]:
    """Cells shaded by ``shade`` in 0..1 (1 is best), their text printed; None is hatched, a shade of None is left plain."""
    import matplotlib as mpl
    from matplotlib.patches import Rectangle

    row_labels = [label(name) for name in rows]
    lines = max((label.count("\n") + 1 for label in row_labels), default=1)
    lines = max([lines, *(cell.text.count("\n") + 1 for line in cells for cell in line if cell)])
    height = ROW if lines == 1 else 0.17 * lines + 0.12
    figure, axes = fixed_axes(column_width * len(columns), height * len(rows))
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
            middle = "center" if "\n" in cell.text else "center_baseline"
            axes.text(j + 0.5, i + 0.5, cell.text, ha="center", va=middle, fontsize=8, color=colour, linespacing=1.15)
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    axes.set_xticks([j + 0.5 for j in range(len(columns))], [label(name, int(column_width * 13)) for name in columns])
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


def transfer_figures(content: Content) -> list[NamedFigure]:
    cells, title = transfer_cells(content), f"Mean {metric_of(content)} of each source on each target"
    means = [cell.mean for cell in cells.values() if cell.mean is not None]
    if not means:
        return [NamedFigure("transfer", title, "", missing="No transfer was measured, so there is no map of it.")]
    targets = [target for target in content.targets if any(key[0] == target for key in cells)]
    blocks = [targets[start : start + COLUMNS_IN_MAP] for start in range(0, len(targets), COLUMNS_IN_MAP)]
    if len(blocks) == 1:
        return [_transfer_figure(content, cells, targets, (min(means), max(means)), "transfer", title)]
    return [_transfer_figure(content, cells, block, (min(means), max(means)), f"transfer-{part}", f"{title} ({part} of {len(blocks)})")
            for part, block in enumerate(blocks, 1)]


def _transfer_figure(
    content: Content, cells: Mapping[tuple[str, str], TransferCell], targets: Sequence[str], ends: tuple[float, float], name: str, title: str,
) -> NamedFigure:
    metric, (low, high) = metric_of(content), ends
    sources = [source for source in dict.fromkeys((*content.sources, *(key[1] for key in cells))) if any((target, source) in cells for target in targets)]
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
    return NamedFigure(name, title, caption + (f" Hatched: no value ({shortened(missing)})." if missing else ""), figure)


def _transfer_label(cell: TransferCell) -> str:
    return "\n".join(part for part in (f"{cell.mean:.3f}  {cell.rank_text}".rstrip(), interval_text(cell.interval, 3)) if part)


def measure_figures(content: Content) -> list[NamedFigure]:
    cells, infos = score_cells(content), method_infos(content)
    out = []
    for number_of, target in enumerate(content.targets, 1):
        methods = [info for info in infos if any(key[:2] == (info.name, target) for key in cells)]
        if not methods:
            missing = f"No measure has a value for {target}."
            out.append(NamedFigure(f"measures-{number_of}", f"Similarity to {target}", "", missing=missing))
        blocks = [methods[start : start + COLUMNS_IN_MAP] for start in range(0, len(methods), COLUMNS_IN_MAP)]
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
    return NamedFigure(name, title, caption + (f" Hatched: no value ({shortened(missing)})." if missing else ""), figure)
