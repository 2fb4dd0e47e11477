"""The figures: AUC of every pair, AUC by source with every fold, similarity against AUC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Folds = Mapping[tuple[str, str], Sequence[float]]
"""(source, target) -> AUC of each fold."""

INK, QUIET, MEDICAL, NATURAL, SCRATCH = "#222222", "#b8b8b8", "#1f6f8b", "#c8553d", "#555555"


def colour_of(source: str, medical: Sequence[str]) -> str:
    """Medical, natural, or no source at all."""
    return SCRATCH if source == "scratch" else MEDICAL if source in medical else NATURAL


def ordered(folds: Folds, targets: Sequence[str]) -> list[str]:
    """Sources by their mean gap to the mean of each target, best first."""
    sources = sorted({source for source, _ in folds})
    centre = {target: np.mean([np.mean(folds[s, target]) for s in sources if (s, target) in folds]) for target in targets}
    return sorted(sources, key=lambda s: -np.mean([np.mean(folds[s, t]) - centre[t] for t in targets if (s, t) in folds]))


def save(figure: Any, folder: Path, name: str) -> None:
    """As SVG and PNG, without a date inside."""
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    figure.savefig(folder / f"{name}.png", dpi=130)


def draw_all(folder: Path, folds: Folds, targets: Sequence[str], intervals: Mapping[tuple[str, str], tuple[float, float] | None],
             scores: Mapping[str, Mapping[tuple[str, str], float]], summary: Mapping[str, str], medical: Sequence[str]) -> None:
    """All figures.

    Args:
        folder: where they go.
        folds: AUC of each fold.
        targets: in the order of the panels.
        intervals: of the mean AUC over folds.
        scores: measure -> (source, target) -> value, higher for more similar; one row of panels each.
        summary: measure -> what the correlation says about it, in a line.
        medical: sources that hold medical images.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    look = {"svg.hashsalt": "simkit", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10}
    with mpl.rc_context(look):
        for name, figure in (("auc_heat_map", heat_map(folds, targets)), ("auc_by_source", dots(folds, targets, intervals, medical)),
                             ("similarity_and_auc", scatter(folds, targets, scores, summary, medical))):
            save(figure, folder, name)
            plt.close(figure)


def heat_map(folds: Folds, targets: Sequence[str]) -> Any:
    """Mean AUC with the lowest and highest fold; colour: gap to the mean of the target's column."""
    import matplotlib.pyplot as plt

    sources = ordered(folds, targets)
    mean = np.full((len(sources), len(targets)), np.nan)
    for (source, target), values in folds.items():
        mean[sources.index(source), list(targets).index(target)] = np.mean(values)
    gap = mean - np.nanmean(mean, axis=0)
    limit = float(np.nanmax(np.abs(gap))) or 0.01
    figure, axes = plt.subplots(figsize=(max(6.0, 1.9 + 1.35 * len(targets)), 1.3 + 0.42 * len(sources)), layout="constrained")
    image = axes.imshow(gap, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    axes.spines[:].set_visible(False)
    for s, source in enumerate(sources):
        for t, target in enumerate(targets):
            if (source, target) not in folds:
                axes.text(t, s, "–", ha="center", va="center", color=QUIET)
                continue
            values, dark = folds[source, target], abs(gap[s, t]) > 0.6 * limit
            axes.text(t, s, f"{np.mean(values):.3f}\n{min(values):.3f} to {max(values):.3f}", ha="center", va="center", fontsize=7.5,
                      color="white" if dark else INK, linespacing=1.25)
    axes.set_xticks(range(len(targets)), targets)
    axes.set_yticks(range(len(sources)), sources)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.set_title("Mean AUC of the held-out folds, lowest to highest fold below it (–: the target itself)", pad=22, loc="left")
    figure.colorbar(image, ax=axes, shrink=0.7, label="AUC less the mean of the column")
    return figure


def dots(folds: Folds, targets: Sequence[str], intervals: Mapping[tuple[str, str], tuple[float, float] | None], medical: Sequence[str]) -> Any:
    """One panel a target: sources by mean AUC, with each fold and the interval of the mean."""
    import matplotlib.pyplot as plt

    most = max(sum(target == t for _, t in folds) for target in targets)
    across = min(2, len(targets))
    down = -(-len(targets) // across)
    figure, grid = plt.subplots(down, across, figsize=(max(7.5, 5.2 * across), down * (1.1 + 0.27 * most)), layout="constrained", squeeze=False)
    for axes, target in zip(grid.ravel(), targets):
        rows = sorted((np.mean(values), source) for (source, t), values in folds.items() if t == target)
        every = [value for _, source in rows for value in folds[source, target]]
        low, high = min(every), max(every)
        room = 0.25 * (high - low) or 0.01
        for y, (mean, source) in enumerate(rows):
            colour, interval = colour_of(source, medical), intervals.get((source, target))
            if interval is not None:
                axes.plot(interval, [y, y], color=colour, alpha=0.35, linewidth=1.2, zorder=1)
            axes.plot(folds[source, target], [y] * len(folds[source, target]), "o", markersize=3.5, markerfacecolor="white", color=colour, zorder=2)
            axes.plot(mean, y, "D", markersize=5.5, color=colour, zorder=3)
        scratch = [mean for mean, source in rows if source == "scratch"]
        if scratch:
            axes.axvline(scratch[0], color=SCRATCH, linewidth=0.8, linestyle=":", zorder=0)
        axes.set_xlim(low - room, min(high + room, 1.005))
        axes.set_yticks(range(len(rows)), [source for _, source in rows])
        axes.set_title(f"to {target}", loc="left")
        axes.set_xlabel("AUC of the held-out fold")
    for axes in grid.ravel()[len(targets):]:
        axes.set_visible(False)
    handles = [plt.Line2D([], [], color=c, marker="D", linestyle="", markersize=5) for c in (MEDICAL, NATURAL, SCRATCH)]
    handles += [plt.Line2D([], [], color=INK, marker="o", markerfacecolor="white", linestyle="", markersize=4), plt.Line2D([], [], color=INK, alpha=0.4)]
    names = ["medical source", "natural source", "scratch (dotted: its mean)", "one fold", "95 % interval of the mean, cut at the panel"]
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _labels(placed: Mapping[str, float], means: Mapping[str, float]) -> list[tuple[str, str, bool]]:
    """Source, text, and whether it stands above its point: of neighbours the higher one's does. Of three and more tied sources the ends are named."""
    out = []
    for source, rank in placed.items():
        near = [other for other in placed if other != source and abs(placed[other] - rank) < 1.5]
        tied = sorted((other for other in placed if placed[other] == rank), key=lambda other: means[other])
        if len(tied) < 3:
            out.append((source, source, sum(means[other] > means[source] for other in near) <= len(near) / 2 if near else True))
        elif source == tied[-1]:
            out.append((source, f"{source} (highest of {len(tied)} tied)", True))
        elif source == tied[0]:
            out.append((source, f"{source} (lowest)", False))
    return out


def scatter(folds: Folds, targets: Sequence[str], scores: Mapping[str, Mapping[tuple[str, str], float]], summary: Mapping[str, str],
            medical: Sequence[str]) -> Any:
    """One row a measure, one column a target; each source at its rank (equal values share one), with its mean AUC and the range of its folds."""
    import matplotlib.pyplot as plt
    from scipy.stats import rankdata

    figure, grid = plt.subplots(len(scores), len(targets), figsize=(max(7.0, 3.5 * len(targets)), 2.7 * len(scores)), layout="constrained", squeeze=False)
    for row, (method, values) in enumerate(scores.items()):
        for column, target in enumerate(targets):
            axes = grid[row, column]
            sources = [source for source, t in values if t == target and (source, t) in folds]
            ranks = rankdata([-values[source, target] for source in sources])
            means = {source: float(np.mean(folds[source, target])) for source in sources}
            placed = dict(zip(sources, (float(rank) for rank in ranks), strict=True))
            for source in sources:
                each, colour = folds[source, target], colour_of(source, medical)
                axes.plot([placed[source]] * 2, [min(each), max(each)], color=colour, alpha=0.35, linewidth=1)
                axes.plot(placed[source], means[source], "o", markersize=4.5, color=colour)
            for source, text, above in _labels(placed, means):
                axes.annotate(text, (placed[source], means[source]), xytext=(4, 4 if above else -9), textcoords="offset points", fontsize=6.5, color=INK)
            axes.set_xlim(0.5, len(sources) + 1.5)
            axes.set_xticks(range(1, len(sources) + 1))
            axes.margins(y=0.12)
            axes.tick_params(labelsize=7.5)
            if row == 0:
                axes.set_title(f"to {target}", loc="left")
            if column == 0:
                axes.set_ylabel(f"{method}\nmean AUC (line: folds)")
            if row == len(scores) - 1:
                axes.set_xlabel("rank by the measure (1: most similar)")
    handles = [plt.Line2D([], [], color=c, marker="o", linestyle="", markersize=5) for c in (MEDICAL, NATURAL)]
    figure.legend(handles, ["medical source", "natural source"], loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle("\n".join(f"{method}: {summary[method]}" for method in scores), fontsize=8.5, x=0.01, ha="left")
    return figure
