"""Heat maps: performance of every pair, and every measure of the sources of one target, for the page (as tables) and for files (as figures)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from simkit.report.cells import (
    ScoreCell,
    TransferCell,
    interval_text,
    is_self_pair,
    method_infos,
    metric_in_full,
    metric_of,
    number,
    p_text,
    score_cells,
    shortened,
    transfer_cells,
)
from simkit.report.closeness import AT_CHANCE, AT_FLOOR
from simkit.report.content import Content, MethodInfo
from simkit.report.drawing import PAGE, Format, NamedFigure
from simkit.report.heat_drawing import MANY_ROWS, STEPS, draw_heat_map
from simkit.report.layout import safe_name

__all__ = ["LEAK_MARK", "HeatCell", "HeatMap", "is_leak", "measure_maps", "score_tip", "transfer_figures", "transfer_maps", "transfer_tip"]

NOT_TOLD = "≈"
"""Behind the value of a source that cannot be told from the target."""

CHANCE_MARK = "°"
"""Behind a value that shuffled labels give as well."""

LEAK_MARK = "†"
"""Behind a value that copies of the target's images touch."""

LEAK_TEXT = f"{LEAK_MARK} marks a number that copies of the target's images touch (warnings about copies): do not read it as similarity or transfer."


@dataclass(frozen=True)
class HeatCell:
    """A cell: its shade in 0..1 (1 is best) or None for a plain one, its text, and all that is known about it in one line."""

    shade: float | None
    text: str
    tip: str = ""

    @property
    def step(self) -> int | None:
        """Number of the shade on the page (:func:`simkit.report.heat_drawing.shade_rules`), 0 worst."""
        return None if self.shade is None else round(self.shade * (STEPS - 1))


@dataclass(frozen=True)
class HeatMap:
    """A heat map; without rows there is nothing to draw, and ``missing`` says why.

    Attributes:
        name: of its file, and id on the page.
        title: what it shows.
        caption: how it is read.
        rows: names.
        columns: names; a second line says what is better.
        cells: one line a row; None where a value is missing.
        ends: text of the worst and of the best shade, and what is shaded.
        target: that it is about; "" for several.
        missing: why there is no map.
    """

    name: str
    title: str
    caption: str = ""
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    cells: tuple[tuple[HeatCell | None, ...], ...] = ()
    ends: tuple[str, str, str] = ("", "", "")
    target: str = ""
    missing: str = ""

    @property
    def shaded(self) -> bool:
        """Whether any cell has a shade, so that the shades need a legend."""
        return any(cell is not None and cell.shade is not None for line in self.cells for cell in line)

    def figure(self, form: Format = PAGE) -> NamedFigure:
        """Drawn for a file."""
        return NamedFigure(self.name, self.title, self.caption, draw_heat_map(self, form) if self.rows else None, self.missing)


def is_leak(flags: Iterable[str]) -> bool:
    """Whether flags say that copies of the target's images touch a number."""
    return any(flag.startswith("leak") for flag in flags)  # "leak:" of the search for copies, "leaky:" of the runner


def transfer_figures(content: Content, form: Format = PAGE) -> list[NamedFigure]:
    """:func:`transfer_maps` drawn for files."""
    return [found.figure(form) for found in transfer_maps(content, form.columns)]


def transfer_maps(content: Content, columns: int = PAGE.columns) -> list[HeatMap]:
    """Performance of every source on every target with its rank; more targets than ``columns`` make several maps."""
    cells, metric = transfer_cells(content), metric_of(content)
    averaged = any(cell.n > 1 for cell in cells.values())
    title = f"{'Mean ' + metric if averaged or not cells else metric[:1].upper() + metric[1:]} of each source on each target"
    means = [cell.mean for cell in cells.values() if cell.mean is not None]
    if not means:
        return [HeatMap("transfer", title, missing="No transfer was measured, so there is no map of it.")]
    targets = [target for target in content.targets if any(key[0] == target for key in cells)]
    blocks = [targets[start : start + columns] for start in range(0, len(targets), columns)]
    if len(blocks) == 1:
        return [_transfer_map(content, cells, targets, (min(means), max(means)), "transfer", title)]
    return [_transfer_map(content, cells, block, (min(means), max(means)), f"transfer-{part}", f"{title} ({part} of {len(blocks)})")
            for part, block in enumerate(blocks, 1)]


def _transfer_map(
    content: Content, cells: Mapping[tuple[str, str], TransferCell], targets: Sequence[str], ends: tuple[float, float], name: str, title: str,
) -> HeatMap:
    low, high = ends
    sources = [source for source in dict.fromkeys((*content.sources, *(key[1] for key in cells))) if any((target, source) in cells for target in targets)]
    dense, digits = len(sources) > MANY_ROWS, _digits(cells.values())
    rows, missing = [], []
    for source in sources:
        line: list[HeatCell | None] = []
        for target in targets:
            cell = cells.get((target, source))
            if cell is None and is_self_pair(content, source, target):
                line.append(HeatCell(None, "itself"))
            elif cell is None or cell.mean is None:
                line.append(None)
                missing.append(f"{source} -> {target}")
            else:
                shade = (cell.mean - low) / (high - low) if high > low else 1.0
                line.append(HeatCell(shade, _transfer_label(cell, digits, interval=not dense), transfer_tip(cell, metric_of(content), digits)))
        rows.append(tuple(line))
    caption = _transfer_caption(content, [cell for (target, _), cell in cells.items() if target in targets], dense=dense)
    caption += f" Hatched: no value ({shortened(missing)})." if missing else ""
    return HeatMap(name, title, caption, tuple(sources), tuple(targets), tuple(rows), (f"{low:.{digits}f}", f"{high:.{digits}f}", metric_of(content)))


def transfer_tip(cell: TransferCell, metric: str, digits: int = 3) -> str:
    """``isic -> busi: AUC 0.912 [0.880, 0.940], rank 2 (not distinguishable from the best), n 5``."""
    value = "undefined" if cell.mean is None else f"{metric} {cell.mean:.{digits}f} {interval_text(cell.interval, digits)}".strip()
    rank = "" if cell.rank is None else f"rank {cell.rank}{' (not distinguishable from the best)' if cell.tied else ''}"
    return ", ".join(part for part in (f"{cell.source} -> {cell.target}: {value}", "baseline" if cell.baseline else rank, f"n {cell.n}", *cell.flags) if part)


def score_tip(cell: ScoreCell) -> str:
    """``isic -> busi, otdd: 12.3 [11.2, 13.4], rank 2 of 6, n 240 and 300``, with floor, p and flags where there are such."""
    sizes = "" if cell.n_source is None or cell.n_target is None else f"n {cell.n_source} and {cell.n_target}"
    floor = "" if cell.floor is None else f"{'shuffled labels' if cell.kind == 'transferability' else 'floor'} {number(cell.floor)}"
    parts = (f"{cell.source} -> {cell.target}, {cell.method}: {number(cell.value)} {interval_text(cell.interval)}".strip(), f"rank {cell.rank_text}", floor,
             f"p {p_text(cell.p)}" if cell.p is not None else "", sizes, "" if cell.converged else "solver did not converge", *cell.flags)
    return ", ".join(part for part in parts if part)


def _transfer_caption(content: Content, cells: Sequence[TransferCell], *, dense: bool) -> str:
    metric = metric_in_full(content)
    text = f"Mean {metric} over replicates" if any(cell.n > 1 for cell in cells) else f"{metric[:1].upper()}{metric[1:]}"
    text += f", {content.performance_bars}" if any(cell.interval for cell in cells) and not dense else ""
    tied = "; = is not distinguishable from the best" if any(cell.tied for cell in cells) else ""
    text += f", and rank within the target (#1 is best{tied})."
    if not any(cell.interval for cell in cells):
        text += " Nothing is known of the noise of these values, so ranks may differ by it alone."
    text += f" {LEAK_TEXT}" if any(is_leak(cell.flags) for cell in cells) else ""
    return text + (f" Intervals are not printed, because there are more than {MANY_ROWS} sources." if dense else "")


def _digits(cells: Iterable[TransferCell]) -> int:
    """Digits behind the point: three, as of an AUC, fewer for values of ten or a hundred and more (a relative gain in percent)."""
    largest = max((abs(cell.mean) for cell in cells if cell.mean is not None), default=0.0)
    return 3 if largest < 10 else 2 if largest < 100 else 1


def _transfer_label(cell: TransferCell, digits: int, *, interval: bool) -> str:
    first = f"{cell.mean:.{digits}f}  {cell.rank_text}{LEAK_MARK if is_leak(cell.flags) else ''}".rstrip()
    return "\n".join(part for part in (first, interval_text(cell.interval, digits) if interval else "") if part)


def measure_maps(content: Content, columns: int = PAGE.columns) -> list[HeatMap]:
    """Per target every measure of its sources, at most ``columns`` of them in a map."""
    cells, infos = score_cells(content), method_infos(content)
    out = []
    for number_of, target in enumerate(content.targets, 1):
        name = f"measures-{safe_name(target, otherwise=str(number_of))}"
        own = {(key[0], key[2]): cell for key, cell in cells.items() if key[1] == target}
        scored = {method for method, _ in own}
        methods = [info for info in infos if info.name in scored]
        if not methods:
            out.append(HeatMap(name, f"Similarity to {target}", target=target, missing=f"No measure has a value for {target}."))
        blocks = [methods[start : start + columns] for start in range(0, len(methods), columns)]
        for part, block in enumerate(blocks, 1):
            of = f" ({part} of {len(blocks)})" if len(blocks) > 1 else ""
            found = _measure_map(content, own, target, block, f"{name}-{part}" if of else name, f"Similarity to {target} by every measure{of}")
            out.append(replace(found, caption=f"{_reading(own.values(), target)} {found.caption}".strip()) if part == 1 else found)
    return out


def _reading(cells: Iterable[ScoreCell], target: str) -> str:
    """How the maps of a target are read: said once, under the first of them."""
    own = [cell for cell in cells if cell.target == target]
    text = "Values as each measure defines them"
    if any(cell.of > 1 and not cell.constant for cell in own):
        text += "; the shade is the rank of the source within one measure, so that units do not matter"
        text += "; sources of equal value share the mean of their ranks" if any(cell.equal for cell in own) else ""
    text += "."
    if any(cell.chance is not None for cell in own):
        text += (" The row shuffled is the value when the target's labels are shuffled, lowest to highest of the sources: what chance gives. "
                 f"{CHANCE_MARK} marks a value that is not above its own by more than their spread (one-sided 95 %).")
    if any(cell.halves is not None for cell in own):
        text += (" The row floor is the value between two halves of the target, so at half its size or less: what is held against it is the mean of a pair "
                 "over half-samples (half_sample_mean in the details of a score), not the value printed above it.")
        text += f" {NOT_TOLD} marks a source that was found {AT_FLOOR} in this way." if any(AT_FLOOR in cell.flags for cell in own) else ""
    if any(cell.ceiling is not None for cell in own):
        text += " The row ceiling is the value of an unrelated data set (pictures of noise, unless the study names another); a source can lie beyond it."
    text += f" {LEAK_TEXT}" if any(is_leak(cell.flags) for cell in own) else ""
    sizes = sorted({cell.matched for cell in own if cell.matched is not None})
    if sizes:
        shown = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} or {sizes[-1]:,}"
        text += f" Measures that depend on the sample size were computed at {shown} images a side, mean over random samples (table of every score)."
    return text


def _measure_map(
    content: Content, cells: Mapping[tuple[str, str], ScoreCell], target: str, methods: Sequence[MethodInfo], name: str, title: str,
) -> HeatMap:
    sources = [s for s in dict.fromkeys((*content.sources, *(source for _, source in cells))) if any((info.name, s) in cells for info in methods)]
    grid: list[tuple[HeatCell | None, ...]] = []
    missing = []
    for source in sources:
        found = [cells.get((info.name, source)) for info in methods]
        itself = is_self_pair(content, source, target)
        missing += [f"{info.name} of {source}" for info, cell in zip(methods, found, strict=True) if cell is None and not itself]
        grid.append(tuple(_score_cell(cell, itself=itself) for cell in found))
    columns = [[cell for (method, _), cell in cells.items() if method == info.name] for info in methods]
    labels = list(sources)
    for scale, label_of in (("halves", "floor"), ("chance", "shuffled"), ("ceiling", "ceiling")):
        values = [sorted({getattr(cell, scale) for cell in column if getattr(cell, scale) is not None}) for column in columns]
        if any(values):
            labels.append(label_of)
            grid.append(tuple(HeatCell(None, _range(value)) for value in values))
    heads = tuple(f"{info.name}\n{'higher = better' if info.higher_is_better else 'lower = closer'}" for info in methods)
    constant = [column[0].method for column in columns if column[0].constant]
    parts = [f"Not shaded, because the value is the same for every source: {', '.join(constant)}." if constant else "",
             "! marks a solver that did not converge." if any(not cell.converged for column in columns for cell in column) else "",
             f"Hatched: no value ({shortened(missing)})." if missing else ""]
    caption = " ".join(part for part in parts if part)
    return HeatMap(name, title, caption, tuple(labels), heads, tuple(grid), ("last", "first", "rank within the measure"), target)


def _range(values: Sequence[float]) -> str:
    """The value, or the lowest and the highest below each other."""
    return "none" if not values else "\n".join(dict.fromkeys(number(value) for value in (values[0], values[-1])))


def _score_cell(cell: ScoreCell | None, *, itself: bool) -> HeatCell | None:
    if cell is None:
        return HeatCell(None, "itself") if itself else None
    marks = (NOT_TOLD if AT_FLOOR in cell.flags else "") + (CHANCE_MARK if AT_CHANCE in cell.flags else "") + (LEAK_MARK if is_leak(cell.flags) else "")
    shade = None if cell.constant or cell.of == 1 else (cell.of - cell.average_rank) / (cell.of - 1)
    return HeatCell(shade, f"{number(cell.value)} {marks}{'' if cell.converged else '!'}".rstrip(), score_tip(cell))
