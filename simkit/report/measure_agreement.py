"""Whether the measures agree with each other: rank correlations between them, a tree of which are alike, and the order on which they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simkit.report.cells import ScoreCell, is_self_pair, method_infos, plural, score_cells, shortened, signed
from simkit.report.content import Content
from simkit.report.drawing import FAINT, PAGE, PAPER, Format, NamedFigure, blank, label, luminance
from simkit.report.layout import text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Consensus", "MeasureAgreement", "consensus", "disagreements", "measure_agreement", "measure_agreement_figure"]

Floats = NDArray[np.float64]

LEAST_SOURCES = 3
"""Sources that two measures must have in common in a target, for their orders to be held against each other."""

NUMBERED = 40
"""Measures beyond which the matrix has colours only; the numbers are in the table."""

SHADES = "PuOr"
"""Orange for opposite orders, violet for equal ones: told apart by colour-blind readers, light in the middle."""

CELL, DENSE_CELL, TREE = 0.4, 0.14, 0.9
"""Side of a cell, side where there are no numbers, width of the tree; inches."""

TITLE = "Agreement between the measures"


@dataclass(frozen=True, eq=False)
class MeasureAgreement:
    """Rank correlations between measures, in the order of a tree of them.

    Attributes:
        measures: (M) names, like ones beside each other.
        rho: (M, M) mean over targets of Spearman's correlation between the orders in which two measures put the same sources, -1..1; NaN where no target has
            three sources with both and both put them in some order.
        targets: (M, M) targets that went into each mean.
        pairs: (M, M) source-target pairs that went into it.
        tree: linkage of scipy over the measures in the order of ``given``: average of 1 - rho; an undefined rho counts as 0.
        given: (M) the names in the order of the study, as the tree numbers them.
        constant: measures that have the same value for every source in every target: they order nothing and are left out.
    """

    measures: tuple[str, ...]
    rho: Floats
    targets: NDArray[np.int64]
    pairs: NDArray[np.int64]
    tree: Floats
    given: tuple[str, ...]
    constant: tuple[str, ...] = ()


@dataclass(frozen=True)
class Consensus:
    """The order on which the measures agree for one target.

    Attributes:
        target: name.
        order: sources that all these measures score, with their mean relative rank among them, 0 first to 1 last, best first; every measure counts once.
        firsts: source -> measures that put it first, most measures first; equal values share.
        measures: that order the sources of this target: neither constant nor a property of the source alone.
    """

    target: str
    order: tuple[tuple[str, float], ...]
    firsts: Mapping[str, tuple[str, ...]]
    measures: tuple[str, ...]

    @property
    def agreed(self) -> bool:
        """Whether more than half of the measures put the same source first."""
        return bool(self.firsts) and 2 * len(next(iter(self.firsts.values()))) > len(self.measures)


def _oriented(content: Content) -> dict[str, dict[str, dict[str, ScoreCell]]]:
    """target -> measure -> source -> cell, without the target itself."""
    out: dict[str, dict[str, dict[str, ScoreCell]]] = {}
    for (method, target, source), cell in score_cells(content).items():
        if not is_self_pair(content, source, target):
            out.setdefault(target, {}).setdefault(method, {})[source] = cell
    return out


def _ranks(cells: Sequence[ScoreCell], higher: bool) -> Floats:
    """Average ranks, 1 the most similar."""
    from scipy.stats import rankdata

    values = np.array([cell.value for cell in cells])
    return np.asarray(rankdata(-values if higher else values), dtype=np.float64)


def measure_agreement(content: Content) -> MeasureAgreement | None:
    """Mean rank correlation of every two measures over the sources of a target; None with fewer than two measures that order sources."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    higher = {info.name: info.higher_is_better for info in method_infos(content)}
    cells = _oriented(content)
    moving = {method for own in cells.values() for method, found in own.items() if len({cell.value for cell in found.values()}) > 1}
    scored = [info for info in higher if any(info in own for own in cells.values())]
    names = tuple(name for name in scored if name in moving)
    constant = tuple(name for name in scored if name not in moving and any(len(own.get(name, ())) > 1 for own in cells.values()))
    if len(names) < 2:
        return None
    size = len(names)
    total, targets, pairs = np.zeros((size, size)), np.zeros((size, size), dtype=np.int64), np.zeros((size, size), dtype=np.int64)
    for own in cells.values():
        for i in range(size):
            for j in range(i):
                value, count = _spearman(own.get(names[i], {}), own.get(names[j], {}), higher[names[i]], higher[names[j]])
                if value is not None:
                    total[i, j] += value
                    targets[i, j] += 1
                    pairs[i, j] += count
    total, targets, pairs = total + total.T, targets + targets.T, pairs + pairs.T
    rho = np.where(targets > 0, total / np.maximum(targets, 1), np.nan)
    np.fill_diagonal(rho, 1.0)
    upper = np.triu_indices(size, 1)
    tree = linkage(np.clip(1 - np.nan_to_num(rho[upper]), 0, 2), "average")
    order = leaves_list(tree)
    grid = np.ix_(order, order)
    return MeasureAgreement(tuple(names[k] for k in order), rho[grid], targets[grid], pairs[grid], tree, names, constant)


def _spearman(first: Mapping[str, ScoreCell], second: Mapping[str, ScoreCell], higher: bool, other_higher: bool) -> tuple[float | None, int]:
    """Spearman's correlation of two orders of the same sources, and their number; None where it is not defined."""
    common = [source for source in first if source in second]
    if len(common) < LEAST_SOURCES:
        return None, 0
    a, b = _ranks([first[source] for source in common], higher), _ranks([second[source] for source in common], other_higher)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return (None, 0) if norm == 0 else (float(np.clip(a @ b / norm, -1, 1)), len(common))


def consensus(content: Content) -> tuple[Consensus, ...]:
    """The common order of the measures for every target that at least two of them order."""
    infos = {info.name: info for info in method_infos(content)}
    cells, out = _oriented(content), []
    for target in content.targets:
        own = {method: found for method, found in cells.get(target, {}).items()
               if infos[method].kind != "prior" and len({cell.value for cell in found.values()}) > 1}
        if len(own) < 2:
            continue
        relative: dict[str, list[float]] = {}
        firsts: dict[str, list[str]] = {}
        common = set.intersection(*(set(found) for found in own.values()))
        if len(common) < 2:  # there is no common order
            continue
        for method, found in own.items():
            ranks = _ranks(list(found.values()), infos[method].higher_is_better)
            for source, rank in zip(found, ranks, strict=True):
                if rank == ranks.min():
                    firsts.setdefault(source, []).append(method)
            shared = [source for source in found if source in common]
            for source, rank in zip(shared, _ranks([found[source] for source in shared], infos[method].higher_is_better), strict=True):
                relative.setdefault(source, []).append((float(rank) - 1) / max(len(shared) - 1, 1))
        order = sorted(((source, round(float(np.mean(places)), 12)) for source, places in relative.items()), key=lambda item: (item[1], item[0]))
        counted = sorted(firsts.items(), key=lambda item: (-len(item[1]), item[0]))
        out.append(Consensus(target, tuple(order), {source: tuple(methods) for source, methods in counted}, tuple(own)))
    return tuple(out)


def disagreements(found: Sequence[Consensus], *, most: int = 6) -> list[str]:
    """One sentence for each target where half of the measures or fewer put the same source first; many targets share one."""
    split = [one for one in found if not one.agreed]
    if len(split) > most:
        names = shortened([one.target for one in split], most)
        return [f"Measures disagree about the first source for {len(split)} of {plural(len(found), 'target')}: no source is first by more than half of them "
                f"({names}). The table of the common order says by how many."]
    lines = []
    for one in split:
        source, methods = next(iter(one.firsts.items()))
        lines.append(f"{one.target}: measures disagree about the first source: {plural(len(one.measures), 'measure')} put {len(one.firsts)} different ones "
                     f"first, {source} by the most ({len(methods)} of {len(one.measures)}).")
    return lines


def measure_agreement_figure(content: Content, form: Format = PAGE) -> NamedFigure:
    """The matrix of rank correlations between measures, like ones beside each other, with their tree."""
    found = measure_agreement(content)
    if found is None:
        return NamedFigure("measure-agreement", TITLE, "", missing="Fewer than two measures put the sources of a target in an order.")
    return NamedFigure("measure-agreement", TITLE, _caption(found, form), _figure(found, form))


def _side(found: MeasureAgreement, form: Format) -> float:
    """Side of a cell, inches."""
    if form.width is None:
        return CELL if len(found.measures) <= NUMBERED else DENSE_CELL
    longest = min(max(text_width(name) for name in found.measures), form.name)
    return max(DENSE_CELL, min(CELL, (form.width / 25.4 - TREE - 0.4 - 0.075 * longest) / len(found.measures)))


def _figure(found: MeasureAgreement, form: Format) -> Figure:
    count, side = len(found.measures), _side(found, form)
    matrix = count * side
    width, height = matrix + TREE + 4.4, matrix + 3.6
    figure = blank(width, height)
    axes = figure.add_axes((3.0 / width, 1.0 / height, matrix / width, matrix / height))
    tree = figure.add_axes(((3.06 + matrix) / width, 1.0 / height, TREE / width, matrix / height))
    _matrix(axes, found, side)
    _tree(tree, found)
    font = 8.0 if form is PAGE and side > DENSE_CELL else 7.0
    wrap = form.name + 8 if side > 0.25 else 60
    axes.set_xticks(np.arange(count) + 0.5, [label(name, wrap) for name in found.measures], rotation=90, fontsize=font, linespacing=0.95)
    axes.set_yticks(np.arange(count) + 0.5, [label(name, wrap) for name in found.measures], fontsize=font, linespacing=0.95)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    _legend(figure, 3.0 / width, 0.4 / height, width, height, font)
    return figure


def _matrix(axes: Axes, found: MeasureAgreement, side: float) -> None:
    import matplotlib as mpl
    from matplotlib.patches import Rectangle

    count, shades = len(found.measures), mpl.colormaps[SHADES]
    for i in range(count):
        for j in range(count):
            value = found.rho[i, j]
            if not np.isfinite(value):
                axes.add_patch(Rectangle((j + 0.02, i + 0.02), 0.96, 0.96, facecolor="none", edgecolor=FAINT, hatch="////", linewidth=0))
                continue
            face = shades(_position(value))
            axes.add_patch(Rectangle((j, i), 1, 1, facecolor=face, edgecolor=PAPER, linewidth=0.6 if side > DENSE_CELL else 0))
            if side >= 0.3:
                colour = "#000000" if luminance(face) > 0.18 else "#ffffff"
                text = "1" if i == j else signed(round(float(value), 2) + 0.0)
                axes.text(j + 0.5, i + 0.5, text, ha="center", va="center_baseline", fontsize=7, color=colour)
    axes.set_xlim(0, count)
    axes.set_ylim(count, 0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _position(rho: float) -> float:
    """Place of a correlation in the colours, without their darkest ends, which vanish on a dark page."""
    return 0.5 + 0.42 * float(rho)


def _tree(axes: Axes, found: MeasureAgreement) -> None:
    """The tree beside the rows: joints stand at 1 less the mean correlation of what they join."""
    from matplotlib.collections import LineCollection

    count = len(found.given)
    place = {found.given.index(name): row + 0.5 for row, name in enumerate(found.measures)}
    depth = dict.fromkeys(range(count), 0.0)
    lines = []
    for step, (a, b, distance, _) in enumerate(found.tree):
        one, two = int(a), int(b)
        lines.append([(depth[one], place[one]), (distance, place[one]), (distance, place[two]), (depth[two], place[two])])
        place[count + step], depth[count + step] = (place[one] + place[two]) / 2, float(distance)
    axes.add_collection(LineCollection(lines, colors=FAINT, linewidths=1.0), autolim=False)
    most = max(float(found.tree[:, 2].max()), 0.05)
    axes.set_xlim(0, most * 1.05)
    axes.set_ylim(count, 0)
    axes.set_yticks([])
    axes.set_xticks([0, round(most, 2)], ["1", f"{1 - most:.2f}"], fontsize=7)
    axes.set_xlabel("mean rho", fontsize=7)
    axes.spines["left"].set_visible(False)


def _legend(figure: Figure, left: float, bottom: float, width: float, height: float, font: float) -> None:
    import matplotlib as mpl
    from matplotlib.patches import Rectangle

    bar = figure.add_axes((left, bottom, 1.6 / width, 0.12 / height))
    for step in range(33):
        bar.add_patch(Rectangle((step / 33, 0), 1 - step / 33, 1, facecolor=mpl.colormaps[SHADES](_position(step / 16 - 1)), linewidth=0))
    bar.set_axis_off()
    for place, text, side in ((0.0, "-1", "left"), (0.5, "0", "center"), (1.0, "+1", "right")):
        bar.text(place, -0.5, text, ha=side, va="top", fontsize=font)
    bar.text(1.06, 0.5, "Spearman", ha="left", va="center", fontsize=font)


def _caption(found: MeasureAgreement, form: Format) -> str:
    upper = np.triu_indices(len(found.measures), 1)
    targets, pairs = found.targets[upper], found.pairs[upper]
    said = [_span(values[targets > 0], what) for values, what in ((targets, "target"), (pairs, "source-target pair"))] if (targets > 0).any() else []
    text = ("Spearman's correlation between the orders in which two measures put the sources of a target, each in its own direction, mean over targets"
            + (f" ({said[0]}, {said[1]} a number)." if said else ".")
            + " Like measures stand beside each other: tree of average linkage of 1 - correlation. Measures that agree may be wrong together.")
    if (targets == 0).any():
        text += (f" Hatched: {plural(int((targets == 0).sum()), 'combination')} without a target in which both order {LEAST_SOURCES} sources (0 in the tree).")
    if _side(found, form) < 0.3:
        text += " There are too many measures to print the numbers in the cells; the table has them."
    return text + (f" Left out, because the value is the same for every source: {shortened(found.constant)}." if found.constant else "")


def _span(values: NDArray[np.int64], what: str) -> str:
    low, high = int(values.min()), int(values.max())
    return plural(high, what) if low == high else f"{low} to {plural(high, what)}"
