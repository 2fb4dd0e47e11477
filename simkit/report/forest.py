"""The forest plot: mean correlation of every measure and baseline with transfer, its intervals and p-values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simkit.report.cells import interval_text, p_text, shortened, signed, statistic_name
from simkit.report.content import Content
from simkit.report.drawing import ACCENT, FAINT, PAGE, PAPER, POINT, Format, NamedFigure, fixed_axes, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from simkit.correlation import Correlation, MethodResult

__all__ = ["MOST_IN_FOREST", "forest_figure"]

MOST_IN_FOREST = 40
"""Measures of one plot: those with the highest mean."""

ROW, DENSE_ROW, MANY_ROWS = 0.3, 0.22, 20
"""Height of a row, inches; its height where there are more rows than that."""

NUMBERS, P_VALUE, P_MAX = 1.06, 1.94, 2.26
"""Where the printed numbers stand, in units of the correlation: left end of the mean, right ends of the p-values."""


WITH_INTERVALS = 2.0
"""Inches of an axis below which the intervals are drawn and not printed: one column of a journal has no room."""


def forest_figure(content: Content, form: Format = PAGE) -> NamedFigure:
    """Mean correlations with intervals, best first, baselines last; the p-values are printed beside them."""
    title, found = "Mean rank correlation of each measure with transfer", content.correlation
    methods = [] if found is None else sorted((r for r in found.methods if r.mean is not None), key=lambda result: -(result.mean or 0.0))
    baselines = [] if found is None else sorted((r for r in found.baselines if r.mean is not None), key=lambda result: -(result.mean or 0.0))
    if found is None or not (methods or baselines):
        why = "Whether similarity predicts transfer was not computed." if found is None else "No measure has a defined rank correlation with transfer."
        return NamedFigure("forest", title, "", missing=why)
    shown = [*((result, False) for result in methods[:MOST_IN_FOREST]), *((result, True) for result in baselines)]
    letters = form.name if form is not PAGE else 30 if len(shown) <= MANY_ROWS else 60
    labels = [label(result.method + (" (baseline)" if baseline else ""), letters) for result, baseline in shown]
    row = ROW if len(shown) <= MANY_ROWS else DENSE_ROW
    heights = [row + 0.15 * text.count("\n") for text in labels]
    figure, axes = fixed_axes(form.axis, sum(heights) + 0.15)
    positions = [sum(heights[:i]) + heights[i] / 2 for i in range(len(heights))]
    adjusted = any(result.p_max is not None for result, _ in shown)
    axes.axvline(0, color=FAINT, linewidth=1)
    for position, (result, baseline) in zip(positions, shown, strict=True):
        _row(axes, position, result, baseline, adjusted=adjusted, form=form)
    _frame(axes, sum(heights), found, adjusted=adjusted, form=form)
    axes.set_yticks(positions, labels)
    narrow = " Intervals are drawn and not printed; the table of agreement has them." if _is_narrow(form) else ""
    return NamedFigure("forest", title, _caption(found, len(methods), adjusted=adjusted) + narrow, figure)


def _row(axes: Axes, position: float, result: MethodResult, baseline: bool, *, adjusted: bool, form: Format) -> None:
    colour = ACCENT if baseline else POINT
    if result.fixed_sources_interval:
        axes.plot(result.fixed_sources_interval, [position, position], color=colour, alpha=0.3, linewidth=6, solid_capstyle="butt", zorder=1)
    if result.interval:
        axes.plot(result.interval, [position, position], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
    marker: dict[str, Any] = {"marker": "D", "markerfacecolor": PAPER} if baseline else {"marker": "o", "markerfacecolor": colour}
    axes.plot([result.mean or 0.0], [position], markersize=6, color=colour, zorder=3, **marker)
    numbers, p_value, p_max = _places(form)
    interval = "" if _is_narrow(form) else interval_text(result.interval, 2, sign=True)
    axes.text(numbers, position, "  ".join(part for part in (signed(result.mean), interval) if part), va="center", fontsize=form.font)
    for place, p in ((p_value, result.p_value), (p_max, result.p_max if adjusted else None)):
        axes.text(place, position, p_text(p).replace("<", "< "), va="center", ha="right", fontsize=form.font)


def _is_narrow(form: Format) -> bool:
    """Whether there is no room for printed intervals."""
    return form.axis < WITH_INTERVALS


def _places(form: Format) -> tuple[float, float, float]:
    """Where the printed numbers stand for an axis of this width: as far from it as on the page, in inches."""
    stretch = PAGE.axis / form.axis * form.font / 8
    if _is_narrow(form):
        return 1.1, 1.1 + 2.06 * 0.95 / form.axis, 1.1 + 2.06 * 1.4 / form.axis
    return 1 + (NUMBERS - 1) * stretch, 1 + (P_VALUE - 1) * stretch, 1 + (P_MAX - 1) * stretch


def _frame(axes: Axes, height: float, found: Correlation, *, adjusted: bool, form: Format) -> None:
    """Axes, grid, and the heads of the printed columns."""
    axes.set_xlim(-1.03, 1.03)
    axes.set_ylim(height + 0.05, -0.1)
    axes.tick_params(axis="y", length=0)
    if form is not PAGE:
        axes.tick_params(labelsize=form.font)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(label(f"mean {statistic_name(found)} correlation with performance, over targets", 70 if form is PAGE else 15 * int(form.axis + 1)),
                    fontsize=9 if form is PAGE else form.font)
    numbers, p_value, p_max = _places(form)
    mean = "mean" if _is_narrow(form) else "mean  [95 %]"
    for place, head, side in ((numbers, mean, "left"), (p_value, "p", "right"), (p_max, "max-T" if adjusted else "", "right")):
        axes.text(place, -0.12, head, va="bottom", ha=side, fontsize=form.font)


def _caption(found: Correlation, defined: int, *, adjusted: bool) -> str:
    results = (*found.methods, *found.baselines)
    text = (f"Mean over targets of the rank correlation ({statistic_name(found)}) between similarity and performance; diamonds are baselines. "
            "Right of zero: more similar sources transfer better.")
    if any(result.interval for result in results):
        text += " Lines are 95 % intervals, sources and targets resampled together."
    if any(result.fixed_sources_interval for result in results):
        text += " Pale bands are those for these sources alone, only targets resampled."
    text += " p: source labels permuted jointly in all targets (of static: performances within targets)"
    text += "; max-T: adjusted for the number of measures." if adjusted else "."
    if defined > MOST_IN_FOREST:
        text += f" Drawn are the {MOST_IN_FOREST} measures with the highest mean; {defined - MOST_IN_FOREST} more are not."
    undefined = [result.method for result in results if result.mean is None]
    return text + (f" Not drawn because undefined: {shortened(undefined)}." if undefined else "")
