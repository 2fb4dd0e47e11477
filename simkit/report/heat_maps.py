"""Heat maps: performance of every pair, and every measure of the sources of one target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from simkit.report.cells import (
    ScoreCell,
    TransferCell,
    interval_text,
    is_self_pair,
    method_infos,
    metric_in_full,
    metric_of,
    number,
    score_cells,
    shortened,
    transfer_cells,
)
from simkit.report.closeness import AT_CHANCE, AT_FLOOR
from simkit.report.content import Content, MethodInfo
from simkit.report.drawing import FAINT, INK, PAPER, NamedFigure, fixed_axes, label
from simkit.report.layout import longest_piece, safe_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["measure_figures", "transfer_figures"]

COLUMNS_IN_MAP = 6
"""Columns of one heat map; more measures or targets make more maps, so that each fits a page."""

ROW, COLUMN = 0.36, 1.2
"""Height and width of a heat map's cell, inches."""

MANY_ROWS, DENSE_ROW = 40, 0.21
"""More rows than that are this high (inches), hold one line each, and no intervals: else the map is longer than anybody scrolls."""

NAME, DENSE_NAME = 26, 60
"""Letters of a line of a row's name; where there are many rows."""

LETTERS = 13
"""Letters of a column's head that fit an inch."""

WIDEST = 60
"""Letters of the longest word of a head for which columns are still made wider."""

SHADES = "viridis"

NOT_TOLD = "≈"
"""Behind the value of a source that cannot be told from the target."""

CHANCE_MARK = "°"
"""Behind a value that shuffled labels give as well."""


@dataclass(frozen=True)
class _Cell:
    shade: float | None
    text: str


def _heat_map(rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[_Cell | None]], *, column_width: float = COLUMN) -> tuple[Figure, Axes]:
    """Cells shaded by ``shade`` in 0..1 (1 is best), their text printed; None is hatched, a shade of None is left plain.

    Columns are made as wide as the longest word of their heads, so that no name is broken inside a word.
    """
    import matplotlib as mpl
    from matplotlib.patches import Rectangle

    dense = len(rows) > MANY_ROWS
    row_labels = [label(name, DENSE_NAME if dense else NAME) for name in rows]
    lines = max((text.count("\n") + 1 for text in row_labels), default=1)
    lines = max([lines, *(cell.text.count("\n") + 1 for line in cells for cell in line if cell)])
    height = (DENSE_ROW if dense else ROW) if lines == 1 else 0.17 * lines + 0.12
    column_width = max([column_width, *((min(longest_piece(name), WIDEST) + 1) / LETTERS for name in columns)])
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
    axes.set_xticks([j + 0.5 for j in range(len(columns))], [label(name, int(column_width * LETTERS)) for name in columns])
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
    """Performance of every source on every target with its rank; more targets than fit a page make several maps."""
    cells, metric = transfer_cells(content), metric_of(content)
    averaged = any(cell.n > 1 for cell in cells.values())
    title = f"{'Mean ' + metric if averaged or not cells else metric[:1].upper() + metric[1:]} of each source on each target"
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
    low, high = ends
    sources = [source for source in dict.fromkeys((*content.sources, *(key[1] for key in cells))) if any((target, source) in cells for target in targets)]
    dense, digits = len(sources) > MANY_ROWS, _digits(cells.values())
    rows, missing = [], []
    for source in sources:
        line: list[_Cell | None] = []
        for target in targets:
            cell = cells.get((target, source))
            if cell is None and is_self_pair(content, source, target):
                line.append(_Cell(None, "itself"))
            elif cell is None or cell.mean is None:
                line.append(None)
                missing.append(f"{source} -> {target}")
            else:
                text = _transfer_label(cell, digits, interval=not dense)
                line.append(_Cell((cell.mean - low) / (high - low) if high > low else 1.0, text))
        rows.append(line)
    longest = max(len(part) for line in rows for one in line if one for part in one.text.split("\n"))
    figure, axes = _heat_map(sources, targets, rows, column_width=max(1.35, (longest + 2) / LETTERS))
    _shade_bar(figure, axes, f"{low:.{digits}f}", f"{high:.{digits}f}", metric_of(content))
    caption = _transfer_caption(content, [cell for (target, _), cell in cells.items() if target in targets], dense=dense)
    return NamedFigure(name, title, caption + (f" Hatched: no value ({shortened(missing)})." if missing else ""), figure)


def _transfer_caption(content: Content, cells: Sequence[TransferCell], *, dense: bool) -> str:
    metric = metric_in_full(content)
    text = f"Mean {metric} over replicates" if any(cell.n > 1 for cell in cells) else f"{metric[:1].upper()}{metric[1:]}"
    text += f", {content.performance_bars}" if any(cell.interval for cell in cells) and not dense else ""
    tied = "; = is not distinguishable from the best" if any(cell.tied for cell in cells) else ""
    text += f", and rank within the target (#1 is best{tied})."
    if not any(cell.interval for cell in cells):
        text += " Nothing is known of the noise of these values, so ranks may differ by it alone."
    return text + (f" Intervals are not printed, because there are more than {MANY_ROWS} sources." if dense else "")


def _digits(cells: Iterable[TransferCell]) -> int:
    """Digits behind the point: three, as of an AUC, fewer for values of ten or a hundred and more (a relative gain in percent)."""
    largest = max((abs(cell.mean) for cell in cells if cell.mean is not None), default=0.0)
    return 3 if largest < 10 else 2 if largest < 100 else 1


def _transfer_label(cell: TransferCell, digits: int, *, interval: bool) -> str:
    first = f"{cell.mean:.{digits}f}  {cell.rank_text}".rstrip()
    return "\n".join(part for part in (first, interval_text(cell.interval, digits) if interval else "") if part)


def measure_figures(content: Content) -> list[NamedFigure]:
    cells, infos = score_cells(content), method_infos(content)
    out = []
    for number_of, target in enumerate(content.targets, 1):
        name = f"measures-{safe_name(target, otherwise=str(number_of))}"
        methods = [info for info in infos if any(key[:2] == (info.name, target) for key in cells)]
        if not methods:
            out.append(NamedFigure(name, f"Similarity to {target}", "", missing=f"No measure has a value for {target}."))
        blocks = [methods[start : start + COLUMNS_IN_MAP] for start in range(0, len(methods), COLUMNS_IN_MAP)]
        for part, block in enumerate(blocks, 1):
            of = f" ({part} of {len(blocks)})" if len(blocks) > 1 else ""
            figure = _measure_figure(content, cells, target, block, f"{name}-{part}" if of else name, f"Similarity to {target} by every measure{of}")
            out.append(replace(figure, caption=f"{_reading(cells.values(), target)} {figure.caption}".strip()) if part == 1 else figure)
    return out


def _reading(cells: Iterable[ScoreCell], target: str) -> str:
    """How the maps of a target are read: said once, under the first of them."""
    own = [cell for cell in cells if cell.target == target]
    text = "Values as each measure defines them; the shade is the rank of the source within one measure, so that units do not matter"
    text += "; sources of equal value share the mean of their ranks." if any(cell.equal for cell in own) else "."
    if any(cell.chance is not None for cell in own):
        text += (" The row shuffled is the value when the target's labels are shuffled, lowest to highest of the sources: what chance gives. "
                 f"{CHANCE_MARK} marks a value that is not above its own by more than their spread (one-sided 95 %).")
    if any(cell.halves is not None for cell in own):
        text += (" The row floor is the value between two halves of the target, so at half its size or less: what is held against it is the mean of a pair "
                 "over half-samples (half_sample_mean in the details of a score), not the value printed above it.")
        text += f" {NOT_TOLD} marks a source that was found {AT_FLOOR} in this way." if any(AT_FLOOR in cell.flags for cell in own) else ""
    if any(cell.ceiling is not None for cell in own):
        text += " The row ceiling is the value of an unrelated data set (pictures of noise, unless the study names another); a source can lie beyond it."
    sizes = sorted({cell.matched for cell in own if cell.matched is not None})
    if sizes:
        shown = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} or {sizes[-1]:,}"
        text += f" Measures that depend on the sample size were computed at {shown} images a side, mean over random samples (table of every score)."
    return text


def _measure_figure(
    content: Content, cells: dict[tuple[str, str, str], ScoreCell], target: str, methods: Sequence[MethodInfo], name: str, title: str,
) -> NamedFigure:
    sources = [s for s in dict.fromkeys((*content.sources, *(key[2] for key in cells))) if any((info.name, target, s) in cells for info in methods)]
    grid, missing = [], []
    for source in sources:
        found = [cells.get((info.name, target, source)) for info in methods]
        itself = is_self_pair(content, source, target)
        missing += [f"{info.name} of {source}" for info, cell in zip(methods, found, strict=True) if cell is None and not itself]
        grid.append([_score_cell(cell, itself=itself) for cell in found])
    columns = [[cell for key, cell in cells.items() if key[:2] == (info.name, target)] for info in methods]
    labels = list(sources)
    for scale, label_of in (("halves", "floor"), ("chance", "shuffled"), ("ceiling", "ceiling")):
        values = [sorted({getattr(cell, scale) for cell in column if getattr(cell, scale) is not None}) for column in columns]
        if any(values):
            labels.append(label_of)
            grid.append([_Cell(None, _range(value)) for value in values])
    heads = [f"{info.name}\n{'higher = better' if info.higher_is_better else 'lower = closer'}" for info in methods]
    figure, axes = _heat_map(labels, heads, grid)
    _shade_bar(figure, axes, "last", "first", "rank within the measure")
    constant = [column[0].method for column in columns if column[0].constant]
    parts = [f"Not shaded, because the value is the same for every source: {', '.join(constant)}." if constant else "",
             "! marks a solver that did not converge." if any(not cell.converged for column in columns for cell in column) else "",
             f"Hatched: no value ({shortened(missing)})." if missing else ""]
    return NamedFigure(name, title, " ".join(part for part in parts if part), figure)


def _range(values: Sequence[float]) -> str:
    """The value, or the lowest and the highest below each other."""
    return "none" if not values else "\n".join(dict.fromkeys(number(value) for value in (values[0], values[-1])))


def _score_cell(cell: ScoreCell | None, *, itself: bool) -> _Cell | None:
    if cell is None:
        return _Cell(None, "itself") if itself else None
    marks = (NOT_TOLD if AT_FLOOR in cell.flags else "") + (CHANCE_MARK if AT_CHANCE in cell.flags else "") + ("" if cell.converged else "!")
    shade = None if cell.constant or cell.of == 1 else (cell.of - cell.average_rank) / (cell.of - 1)
    return _Cell(shade, f"{number(cell.value)} {marks}".rstrip())
