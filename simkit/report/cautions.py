"""What must be said beside the numbers: what limits their reading, how they came about, what was left out. Like things in one line."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from simkit.report.cells import interval_text, metric_of, p_text, plural, shortened, signed, statistic_name
from simkit.report.content import Content

if TYPE_CHECKING:
    from simkit.correlation import Correlation, MethodResult
    from simkit.correlation.results import Range

__all__ = [
    "agreement_notes", "agreement_warnings", "comparison_lines", "count_gaps", "influence_text", "noise_lines", "power_lines", "range_text",
    "undefined_reason",
]

_TIES = re.compile(r"more than (\d+) ?% of the pairs of sources are tied\b")


def agreement_warnings(found: Correlation, *, most: int | None = None) -> list[str]:
    """What limits the reading of a correlation, one line for all measures that share it: general things first, then ties, then the rest.

    Args:
        found: the correlation; its own warnings are one per measure.
        most: measures that a line names; None names all.
    """
    from simkit.correlation.lines import about

    undefined = _undefined(found)
    own = {name for names in undefined.values() for name in names}
    general: list[str] = []
    ties: dict[str, list[str]] = {}
    shared: dict[str, list[str]] = {}
    for line in found.warnings:
        name, rest = about(line, (*(result.method for result in found.methods), "performance"))
        tied = _TIES.match(rest)
        if not name:
            general.append(line)
        elif tied:
            ties.setdefault(tied[1], []).append(name)
        elif not (name in own and rest.startswith("undefined in ")):  # those are told from the results themselves, below
            shared.setdefault(rest, []).append(name)

    def listed(names: list[str]) -> str:
        return shortened(names, len(names) if most is None else most)

    lines = [f"ties: more than {share} % of the source pairs are tied for {listed(names)} (shares in the page's table \"Within each target\")"
             for share, names in ties.items()]
    lines += [f"{rest}: {listed(names)}" for rest, names in shared.items()]
    lines += [f"{what} for {listed(names)}: {reason}" for (what, reason), names in undefined.items()]
    return [*general, *lines]


def _undefined(found: Correlation) -> dict[tuple[str, str], list[str]]:
    """(in which targets, why) -> the measures."""
    out: dict[tuple[str, str], list[str]] = {}
    for result in found.methods:
        where = [one.target for one in result.targets if one.undefined]
        if where or result.undefined:
            everywhere = len(where) == len(result.targets)
            what = "undefined" if everywhere else f"undefined in {len(where)} of {plural(len(result.targets), 'target')} ({', '.join(where)})"
            out.setdefault((what, undefined_reason(result)), []).append(result.method)
    return out


def undefined_reason(result: MethodResult) -> str:
    """Why a measure has no correlation in some target: the reason once where all share it, else each with its target."""
    reasons = {one.target: one.undefined for one in result.targets if one.undefined}
    if len(set(reasons.values())) == 1:
        return next(iter(reasons.values()))
    return "; ".join(f"{target}: {reason}" for target, reason in reasons.items()) or result.undefined


def agreement_notes(found: Correlation) -> list[str]:
    """What stands under the table of agreement: noise of the performance, power, correlations of values, and how the numbers came about."""
    from simkit.correlation.lines import united

    lines = [*noise_lines(found), *power_lines(found)]
    for pairs in dict.fromkeys(within.n for within in found.within.values()):
        each = ", ".join(f"{method} {signed(within.r)}" for method, within in found.within.items() if within.n == pairs)
        lines.append(f"Within-target r of the values as each measure defines them ({plural(pairs, 'pair')}): {each}.")
    for method, pooled in found.pooled.items():
        what = "with" if pooled.includes_self else "without"
        lines.append(f"{method}: pooled r {signed(pooled.pearson)}, p {p_text(pooled.p_value) or 'undefined'} ({plural(pooled.n, 'pair')} {what} self pairs): "
                     "differences between targets go into it.")
    lines += _mixed_lines(found)
    said = united(found.notes, [result.method for result in found.methods])
    return [*lines, *(f"{what}: {', '.join(names)}" if names else what for what, names in said.items())]


def noise_lines(found: Correlation) -> list[str]:
    """How far replicates of the performance agree, and what correlation a score without error could reach."""
    return [f"{what}: {', '.join(f'{target} {value:.2f}' for target, value in values.items())}." for what, values in (
        ("Noise ceiling, one replicate of the performance against the mean of the others (Spearman)", found.noise_ceiling),
        ("Ceiling of Spearman with the mean performance (square root of its reliability)", found.ceiling_of_mean)) if values]


def power_lines(found: Correlation) -> list[str]:
    """The chance that a measure of a given strength would be seen in a table of this size; nothing where that was not simulated."""
    from simkit.correlation.power import power_text

    text = power_text(found.power)
    return [f"Power, the chance that one measure of a given true mean Spearman has p <= 0.05 in this table (simulated): {text}."] if text else []


def comparison_lines(found: Correlation, *, most: int) -> list[str]:
    """What the terminal's table has no room for: differences to the static list, ranges when one thing is left out, Rel@k. Tables of the page have all.

    Args:
        found: the correlation.
        most: measures that a line names, of those with the highest mean.
    """
    static = [f"{one.method} {signed(one.versus_static)} {interval_text(one.versus_static_interval, 2, sign=True)}"
              for one in found.methods if one.versus_static_interval is not None]
    relative = [f"{one.method} {'-' if one.mean_relative_at_1 is None else f'{one.mean_relative_at_1:.3f}'}, {one.mean_relative_at_3:.3f}"
                for one in found.methods if one.mean_relative_at_3 is not None]
    left_out = [f"{one.method} {span} ({influence_text(one)})" if influence_text(one) else f"{one.method} {span}"
                for one in found.methods if (span := range_text(_widest(one)))]
    return [f"{what}: {shortened(each, most, separator='; ')}." for what, each in (
        ("Difference to the static list, 95 % interval", static),
        (f"Range of the mean {statistic_name(found)} when one source, group or target is left out", left_out),
        ("Performance of the first source over that of the best (Rel@1), of the best among the first three (Rel@3)", relative)) if each]


def _widest(result: MethodResult) -> Range | None:
    """The lowest and highest mean of a measure when any one source, group or target is left out."""
    ranges = [one for one in (result.stability.sources, result.stability.groups, result.stability.targets) if one is not None]
    if not ranges:
        return None
    low, high = min(ranges, key=lambda one: one.low), max(ranges, key=lambda one: one.high)
    return replace(low, high=high.high, high_name=high.high_name)


def range_text(value: Range | None) -> str:
    """``-0.30 to +0.09``; "" for None."""
    return "" if value is None else f"{value.low:+.2f} to {value.high:+.2f}"


def influence_text(result: MethodResult) -> str:
    """``+0.43 without target chest``: what moves the mean most when it is left out; "" where that is not known."""
    one = result.stability.most_influential
    return "" if one is None else f"{one.without:+.2f} without {one.kind} {one.name}"


def _mixed_lines(found: Correlation) -> list[str]:
    """The linear mixed models, one line for all measures that share a reason to have none."""
    lines, problems = [], dict[str, list[str]]()
    for method, model in found.mixed.items():
        if model.slope is None or model.p_value is None:
            problems.setdefault(model.problem or "no standard error", []).append(method)
            continue
        state = ("" if model.converged else ", NOT converged") + (", source variance at its boundary 0" if model.boundary else "")
        lines.append(f"{method}: mixed model slope {model.slope:+.2f} (standard error {model.standard_error:.2f}, p about {p_text(model.p_value)}, normal "
                     f"approximation{state}).")
    return [*lines, *(f"No mixed model for {', '.join(names)}: {reason}" for reason, names in problems.items())]


def count_gaps(content: Content) -> list[str]:
    """What was left out or could not be computed, one counted sentence each; empty when there is nothing."""
    lines = []
    images = Counter(item.dataset for item in content.skipped)
    if images:
        parts = ", ".join(f"{name} {count}" for name, count in images.items())
        lines.append(f"{plural(sum(images.values()), 'image')} left out ({parts}).")
    reasons: dict[str, Counter[str]] = {}
    for item in content.unavailable:
        reasons.setdefault(item.method, Counter())[item.reason] += 1
    for method, counts in reasons.items():
        first, more = next(iter(counts)), len(counts) - 1
        others = f" (and {plural(more, 'other reason')}, in the table of what could not be computed)" if more else ""
        lines.append(f"{method}: {plural(counts.total(), 'value')} could not be computed: {first}{others}")
    bad = [record for record in content.scores.records if record.get("converged") is False]
    if bad:
        parts = ", ".join(f"{name} {count}" for name, count in Counter(record["method"] for record in bad).items())
        lines.append(f"{plural(len(bad), 'score')} from a solver that did not converge ({parts}): do not trust {'it' if len(bad) == 1 else 'them'}.")
    undefined = [r for r in (content.transfer.of_metric() if content.transfer else ()) if r.get("performance") is None]
    if undefined:
        parts = ", ".join(f"{source} -> {target} {n}" for (source, target), n in Counter((r["source"], r["target"]) for r in undefined).items())
        lines.append(f"{plural(len(undefined), 'replicate')} of a transfer without a defined {metric_of(content)} ({parts}).")
    return lines
