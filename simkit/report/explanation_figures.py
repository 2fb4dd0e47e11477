"""The figures of an explanation: coupling of classes, what each cell contributes, classes against their floor, decisions of the classifier, features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from simkit.explanation import Cell, Coupling, Explanation, TargetClass
from simkit.report.cells import interval_text, number, p_text
from simkit.report.drawing import ACCENT, FAINT, PAGE, PAPER, POINT, NamedFigure, fixed_axes, label, style
from simkit.report.heat_maps import HeatCell, HeatMap
from simkit.report.layout import text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FIGURES", "explanation_figures", "heat_maps", "plots"]

FIGURES = ("coupling", "contribution", "classes", "decisions", "features")
"""Names of the files."""

SHOWN = 15
"""Classes of a side in a heat map; rows of the other plots."""

HEAD = 16
"""Letters of a line of a column's head in files: longer words are broken, fifteen columns would be wider than anybody prints."""

NOISE_MARK = "°"

ROW, NAME = 0.3, 36
"""Height of a row, inches; letters of a line of its name."""

AXIS, BESIDE, BEHIND = 4.2, 1.03, 1.45
"""Width of an axis with texts beside it, inches; where those begin, and where a second column of them does unless the first is wide, in axis widths."""


def explanation_figures(found: Explanation) -> tuple[NamedFigure, ...]:
    """Every figure, for files; one without data has no figure and says why."""
    with style():
        maps = [replace(one, columns=tuple(label(name, HEAD) for name in one.columns)) for one in heat_maps(found)]
        return (*(one.figure(replace(PAGE, column=0.62)) for one in maps), *plots(found))


def plots(found: Explanation) -> tuple[NamedFigure, ...]:
    """The figures that the page shows as drawings."""
    with style():
        return (_class_plot(found), _decision_plot(found), _feature_plot(found))


# --- heat maps -------------------------------------------------------------------------------------------------------------------------


def heat_maps(found: Explanation) -> tuple[HeatMap, HeatMap]:
    """Share of each target class's mass by source class, and contribution of each cell to the value; the largest classes."""
    titles = ("Which source class feeds which target class", "What each pair of classes contributes to the value")
    coupling = found.coupling
    if coupling is None:
        why = found.missing.get("coupling", "there is no coupling")
        return HeatMap("coupling", titles[0], missing=why), HeatMap("contribution", titles[1], missing=why)
    rows = _shown(coupling.source_classes, [c.source for c in coupling.largest])
    columns = _shown(coupling.target_classes, [c.target for c in coupling.largest])
    cells = np.array(coupling.cells, dtype=object).reshape(len(coupling.source_classes), len(coupling.target_classes))
    return _share_map(coupling, cells, rows, columns, titles[0]), _part_map(coupling, cells, rows, columns, titles[1])


def _names(coupling: Coupling, rows: Sequence[int], columns: Sequence[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of rows and columns, with the share of all images of their side."""
    return (tuple(f"{coupling.source_classes[i]} ({_percent(coupling.source_masses[i])})" for i in rows),
            tuple(f"{coupling.target_classes[j]}\n{_percent(coupling.target_masses[j])}" for j in columns))


def _share_map(coupling: Coupling, cells: np.ndarray, rows: Sequence[int], columns: Sequence[int], title: str) -> HeatMap:
    names, heads = _names(coupling, rows, columns)
    shares = [tuple(_share_cell(cells[i, j]) for j in columns) for i in rows]
    if len(rows) < len(coupling.source_classes):
        others = [i for i in range(len(coupling.source_classes)) if i not in rows]
        shares.append(tuple(_others(sum(cells[i, j].share for i in others)) for j in columns))
        names = (*names, f"{len(others)} other classes")
    caption = ("Share of each target class's mass (columns add up to 1) that comes from each source class; beside the names, their share of all images of "
               f"their side. {NOISE_MARK}: a share of at least 0.05 that is not above what independence would give, the source class's share of all "
               f"images.{_cut_text(coupling, len(rows), len(columns))}")
    return HeatMap("coupling", title, caption, names, heads, tuple(shares), ("0", "1", "share of the target class's mass"))


def _part_map(coupling: Coupling, cells: np.ndarray, rows: Sequence[int], columns: Sequence[int], title: str) -> HeatMap:
    names, heads = _names(coupling, rows, columns)
    top, total = max((c.contribution for c in coupling.cells), default=0.0), coupling.cost
    parts = tuple(tuple(_part_cell(cells[i, j], total, top) for j in columns) for i in rows)
    cut = _cut_text(coupling, len(rows), len(columns))
    shown = sum(cells[i, j].contribution for i in rows for j in columns)
    rest = f" The others contribute {100 * (1 - shown / total):.0f} %." if cut and total > 0 else ""
    caption = (f"Percent of the cost of the plan ({number(total)}) that the mass between two classes carries: mass times cost. All cells add up to "
               f"100 %.{cut}{rest}")
    return HeatMap("contribution", title, caption, names, heads, parts, ("0 %", f"{100 * top / total:.0f} %" if total > 0 else "0 %", "of the value"))


def _shown(names: Sequence[str], ranked: Sequence[str]) -> list[int]:
    """Positions of the classes that are shown, in the order of the data set: those of the largest cells."""
    first = dict.fromkeys((*ranked, *names))
    kept = set(list(first)[:SHOWN])
    return [i for i, name in enumerate(names) if name in kept]


def _cut_text(coupling: Coupling, rows: int, columns: int) -> str:
    sides = [(rows, len(coupling.source_classes), "source"), (columns, len(coupling.target_classes), "target")]
    cut = [f"{shown} of {all_} {side} classes" for shown, all_, side in sides if shown < all_]
    return f" Shown are {' and '.join(cut)}, those of the largest cells; coupling.csv has all." if cut else ""


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.005 else "<1 %"


def _share_cell(cell: Cell) -> HeatCell:
    mark = NOISE_MARK if cell.above is False and cell.share >= 0.05 else ""
    text = "0" if cell.share == 0 else f"{cell.share:.2f}{mark}" if cell.share >= 0.005 else "<.01"
    tip = f"{cell.source} to {cell.target}: {cell.share:.3f} {interval_text(cell.interval, 3)}; independence gives {cell.independent:.3f}"
    cost = "" if cell.cost is None else f"; mass {cell.mass:.4f}, cost {number(cell.cost)}"
    return HeatCell(cell.share, text, tip + cost)


def _others(share: float) -> HeatCell:
    return HeatCell(min(1.0, share), f"{share:.2f}")


def _part_cell(cell: Cell, total: float, top: float) -> HeatCell:
    share = cell.contribution / total if total > 0 else 0.0
    text = "0" if cell.contribution == 0 else f"{100 * share:.1f}" if share >= 0.0005 else "<.1"
    cost = "nothing is moved" if cell.cost is None else f"mass {cell.mass:.4f} times cost {number(cell.cost)}"
    return HeatCell(cell.contribution / top if top > 0 else 0.0, text, f"{cell.source} to {cell.target}: {100 * share:.2f} % ({cost})")


# --- plots -----------------------------------------------------------------------------------------------------------------------------


def _rows(axes: Axes, names: Sequence[str]) -> list[float]:
    """Positions of rows with these names, from the top; the axis is set up for them."""
    texts = [label(name, NAME) for name in names]
    heights = [ROW + 0.15 * text.count("\n") for text in texts]
    places = [sum(heights[:i]) + heights[i] / 2 for i in range(len(heights))]
    axes.set_ylim(sum(heights) + 0.05, -0.05)
    axes.set_yticks(places, texts)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    return places


def _height(names: Sequence[str]) -> float:
    return sum(ROW + 0.15 * label(name, NAME).count("\n") for name in names) + 0.1


def _second(texts: Sequence[str]) -> float:
    """Where the column behind these texts begins, in axis widths."""
    return max(BEHIND, BESIDE + (0.068 * max(text_width(text) for text in texts) + 0.1) / AXIS)


def _beside(axes: Axes, at: float, place: float, text: str) -> None:
    """A text in the row of a point, right of the axis."""
    axes.text(at, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)


def _class_plot(found: Explanation) -> NamedFigure:
    """Excess of each target class over its floor."""
    title = "Classes of the target: cost above the floor"
    shown = [c for c in found.classes if c.excess is not None and c.interval is not None][:SHOWN]
    if not shown:
        why = found.missing.get("classes") or found.missing.get("coupling") or "no half-samples were taken, so there is no floor"
        return NamedFigure("classes", title, "", missing=why)
    names = [f"{c.name} (n = {c.images})" for c in shown]
    figure, axes = fixed_axes(AXIS, _height(names))
    places = _rows(axes, names)
    axes.axvline(0, color=FAINT, linewidth=1)
    second = _second([_excess_text(one) for one in shown])
    for place, one in zip(places, shown, strict=True):
        _class_row(axes, place, one, second)
    axes.set_xlabel(label(f"cost less floor, {found.unit}", 60))
    for at, head in ((BESIDE, "excess  [95 %]"), (second, "reached / by itself")):
        axes.text(at, 1.0, head, transform=axes.transAxes, va="bottom", fontsize=8)
    caption = ("How much more a unit of a class's mass costs from the source than from the target's other half, with a 95 % interval that allows for the "
               "number of classes; right of 0 (orange): farther than chance. Filled: not covered. Reached: share of its images with a source image among "
               "their nearest neighbours, beside the same for the target's other half.")
    left = sum(c.excess is not None for c in found.classes) - len(shown)
    return NamedFigure("classes", title, caption + (f" {left} more classes are in classes.csv." if left > 0 else ""), figure)


def _excess_text(one: TargetClass) -> str:
    return "" if one.excess is None else f"{number(one.excess)} {interval_text(one.interval)}"


def _class_row(axes: Axes, place: float, one: TargetClass, second: float) -> None:
    assert one.excess is not None
    assert one.interval is not None
    colour = ACCENT if one.far else POINT
    axes.plot(one.interval, [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot([one.excess], [place], marker="o", markersize=6, color=colour, markerfacecolor=colour if one.uncovered else PAPER)
    _beside(axes, BESIDE, place, _excess_text(one))
    if one.reached is not None and one.reached_floor is not None:
        _beside(axes, second, place, f"{100 * one.reached:.0f} % / {100 * one.reached_floor:.0f} %")


def _decision_plot(found: Explanation) -> NamedFigure:
    """Histogram of the classifier's decisions on both sides."""
    title = "How a classifier judges images that it was not trained on"
    apart = found.told_apart
    if apart is None:
        return NamedFigure("decisions", title, "", missing=found.missing.get("images", "there is no classifier"))
    sides = {side: np.array([s.decision for s in apart.scores if s.side == side]) for side in ("source", "target")}
    low, high = np.percentile(np.concatenate(list(sides.values())), [0.5, 99.5])
    edges = np.linspace(min(low, 0.0), max(high, 0.0), 31) if high > low else np.linspace(low - 1, low + 1, 31)
    figure, axes = fixed_axes(4.8, 2.0)
    for side, colour, line in (("source", POINT, "-"), ("target", ACCENT, "--")):
        counts, _ = np.histogram(np.clip(sides[side], edges[0], edges[-1]), edges)
        axes.stairs(counts / max(len(sides[side]), 1), edges, color=colour, linewidth=1.8, linestyle=line,
                    label=label(f"{side}: {getattr(found, side)} (n = {len(sides[side])})", 40))
    axes.axvline(0, color=FAINT, linewidth=1)
    axes.set_xlabel("decision: left says source, right says target")
    axes.set_ylabel("share of images")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=8)
    p = "" if apart.p is None else f", p {p_text(apart.p)}"
    folds = f"{min(apart.folds):.2f} to {max(apart.folds):.2f} in its folds"
    return NamedFigure("decisions", title, f"AUC {apart.auc:.3f} ({folds}{p}). Images beyond the axis are counted in its last bars.", figure)


def _feature_plot(found: Explanation) -> NamedFigure:
    """Standardised differences of the top features."""
    title, shown = "Features that differ most", found.features.features[:SHOWN]
    if not shown:
        return NamedFigure("features", title, "", missing="no feature varies within the two sets")
    figure, axes = fixed_axes(AXIS, _height([f.name for f in shown]))
    places = _rows(axes, [f.name for f in shown])
    axes.axvline(0, color=FAINT, linewidth=1)
    texts = [f"{one.difference:+.2f} {interval_text(one.interval, 2, sign=True)}" for one in shown]
    second = _second(texts)
    for place, one, text in zip(places, shown, texts, strict=True):
        sure = one.p is not None and one.p <= 0.05
        axes.plot(one.interval, [place, place], color=POINT, linewidth=1.6, solid_capstyle="butt")
        axes.plot([one.difference], [place], marker="o", markersize=6, color=POINT, markerfacecolor=POINT if sure else PAPER)
        _beside(axes, BESIDE, place, text)
        _beside(axes, second, place, p_text(one.p).replace("<", "< "))
    for at, head in ((BESIDE, "sd  [95 %]"), (second, "p, max-T")):
        axes.text(at, 1.0, head, transform=axes.transAxes, va="bottom", fontsize=8)
    axes.set_xlabel("target less source, standard deviations within the sets")
    caption = (f"Standardised differences of the means, the largest {len(shown)} of {len(found.features.features):,}; intervals one by one. Filled: p adjusted "
               "for the number of features is at most 0.05.")
    return NamedFigure("features", title, caption, figure)
