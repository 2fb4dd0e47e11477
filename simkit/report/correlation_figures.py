"""The figures of a Correlation without a study: scatter plots, forest plot, heat map, drawn as in the report of one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simkit.files import write_text
from simkit.report.cells import best_methods
from simkit.report.content import Content
from simkit.report.drawing import NamedFigure, style
from simkit.report.figures import named_once, write_figures
from simkit.report.forest import forest_figure
from simkit.report.heat_maps import transfer_figures
from simkit.report.layout import visible
from simkit.report.scatter import SCATTER_MEASURES, scatter_figures
from simkit.tables import ScoreTable, TransferTable

if TYPE_CHECKING:
    from simkit.correlation import Correlation, RankedSource
    from simkit.correlation.joining import Rectangle

__all__ = ["correlation_content", "correlation_figures", "save_correlation_figures"]

Floats = NDArray[np.float64]

NORMAL = 1.96
"""Standard deviations to either side of an interval whose standard deviation is known."""

BARS_OF_SCORES = "from the lowest to the highest replicate of the score"
BARS_OF_REPLICATES = "95 % intervals that allow for the images that folds share (Nadeau and Bengio 2003)"
BARS_OF_NOISE = "1.96 standard deviations of the noise (performance_sd) to either side"


def correlation_figures(found: Correlation) -> tuple[NamedFigure, ...]:
    """Similarity against transfer of the best methods (one panel a target), the forest plot, and the performance of every pair with ranks.

    Args:
        found: what :func:`simkit.correlate` returned.

    Returns:
        The figures, each name once; one without data has no figure and says why.
    """
    content = correlation_content(found)
    with style():
        return named_once((*scatter_figures(content), forest_figure(content), *transfer_figures(content)))


def save_correlation_figures(found: Correlation, folder: str | os.PathLike[str], *, dpi: int = 200) -> tuple[Path, ...]:
    """Writes :func:`correlation_figures` as SVG and PNG into ``folder``, and what they show into captions.txt, each file whole or not at all.

    Args:
        found: what :func:`simkit.correlate` returned.
        folder: is made when missing.
        dpi: of the PNG files.

    Returns:
        The paths, two a figure, and that of the captions.

    Raises:
        ResourceError: when the folder cannot be written.
    """
    drawn = correlation_figures(found)
    captions = Path(folder) / "captions.txt"
    write_text(captions, "\n\n".join(visible(f"{item.name}: {item.title}\n{item.caption or item.missing}") for item in drawn) + "\n")
    return (*write_figures(drawn, folder, dpi=dpi), captions)


def correlation_content(found: Correlation, *, every_method: bool = False) -> Content:
    """The correlation as a report has it: the scores of the methods that are plotted (or of all), all performances, sources ranked by them.

    Each target has the replicates that all its sources have, as the correlation does, so that its points stand where the correlation saw them.
    """
    data = found.data
    if data is None:
        return Content("", (), found.sources, found.targets, "", ScoreTable(()), correlation=found)
    layers, replicated = _layers(data), len(data.replicates) > 1
    transfer = _transfer(data, layers, _metric(found))
    content = Content("", (), data.sources, data.targets, "", ScoreTable(()), correlation=found)
    shown = tuple(data.scores) if every_method else best_methods(content, SCATTER_MEASURES)
    scores = ScoreTable(tuple(record for method in shown for record in _scores(found, data, method)))
    ranking = {} if replicated else _ranking(data, _metric(found))
    return Content("", (), data.sources, data.targets, "", scores, transfer=transfer, ranking=ranking, correlation=found, score_bars=BARS_OF_SCORES,
                   performance_bars=BARS_OF_REPLICATES if replicated else BARS_OF_NOISE)


def _metric(found: Correlation) -> str:
    """The metric; a column or pattern that names none ("mean", "fold_*") is called performance."""
    return "performance" if found.metric == "mean" or set(found.metric) & set("*?[") else found.metric


def _layers(data: Rectangle) -> Floats:
    """(R, S, T) the replicates, of each target only those that all its sources have, where there are such."""
    finite = np.isfinite(data.replicates)
    measured = np.isfinite(data.performance)
    common = (finite | ~measured).all(axis=1, keepdims=True) & finite.any(axis=1, keepdims=True)  # (R, 1, T)
    kept = np.where(common.any(axis=0, keepdims=True), common, True)
    return np.where(kept, data.replicates, np.nan)


def _transfer(data: Rectangle, layers: Floats, metric: str) -> TransferTable:
    rows = ({"source": data.sources[s], "target": data.targets[t], "fold": f"{r:04d}", "metric": metric, "value": float(layers[r, s, t])}
            for r, s, t in np.argwhere(np.isfinite(layers)))
    return TransferTable(tuple(rows))


def _scores(found: Correlation, data: Rectangle, method: str) -> Sequence[dict[str, Any]]:
    """Scores of one method on the pairs with a performance, with the range of their replicates."""
    values, layers = data.scores[method], data.score_replicates.get(method)
    higher = next(result.higher_is_better for result in found.methods if result.method == method)
    rows = []
    for s, t in np.argwhere(np.isfinite(values) & np.isfinite(data.performance)):
        row: dict[str, Any] = {"source": data.sources[s], "target": data.targets[t], "method": method, "value": float(values[s, t]), "higher_is_better": higher}
        several = [] if layers is None else [float(value) for value in layers[:, s, t] if np.isfinite(value)]
        rows.append(row | ({"lower": min(several), "upper": max(several)} if len(several) > 1 else {}))
    return rows


def _ranking(data: Rectangle, metric: str) -> dict[str, tuple[RankedSource, ...]]:
    """Sources in order of their one performance; told apart only by its noise, where that is known."""
    return {target: _ranked(data, t, metric) for t, target in enumerate(data.targets)}


def _ranked(data: Rectangle, t: int, metric: str) -> tuple[RankedSource, ...]:
    from simkit.correlation import RankedSource
    from simkit.correlation.joining import SCRATCH
    from simkit.correlation.metrics import is_share

    target, means = data.targets[t], data.performance[:, t]
    noise = np.full(len(means), np.nan) if data.performance_sd is None else data.performance_sd[:, t]
    rows = sorted((int(s) for s in np.flatnonzero(np.isfinite(means))), key=lambda s: (-means[s], s))
    best = next((s for s in rows if data.sources[s] != SCRATCH), None)
    out = []
    for s in rows:
        interval = _around(float(means[s]), float(noise[s]))
        if interval is not None and is_share(metric):
            interval = max(0.0, interval[0]), min(1.0, interval[1])
        gap = None if best is None else float(means[best] - means[s])
        of_gap = None if best is None or gap is None or s == best else _around(gap, float(np.hypot(noise[best], noise[s])))
        tied = of_gap is not None and of_gap[0] <= 0 <= of_gap[1]
        out.append(RankedSource(data.sources[s], target, metric, float(means[s]), interval, 1, 0, None, gap, of_gap, tied, s == best,
                                data.sources[s] == SCRATCH, float(means[s]), 1))
    return tuple(out)


def _around(value: float, deviation: float) -> tuple[float, float] | None:
    return (value - NORMAL * deviation, value + NORMAL * deviation) if np.isfinite(deviation) else None
