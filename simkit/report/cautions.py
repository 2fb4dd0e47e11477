"""What must be said beside the numbers: what limits their reading, how they came about, what was left out. Like things in one line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from simkit.report.cells import metric_of, p_text, plural, shortened, signed
from simkit.report.content import Content

if TYPE_CHECKING:
    from simkit.correlation import Correlation, MethodResult

__all__ = ["agreement_notes", "agreement_warnings", "count_gaps", "undefined_reason"]

_TIES = re.compile(r"more than (\d+) ?% of the pairs of sources are tied\b")


def agreement_warnings(found: Correlation, *, most: int | None = None) -> list[str]:
    """What limits the reading of a correlation, one line for all measures that share it: general things first, then ties, then the rest.

    Args:
        found: the correlation; its own warnings are one per measure.
        most: measures that a line names; None names all.
    """
    undefined = _undefined(found)
    own = {name for names in undefined.values() for name in names}
    general: list[str] = []
    ties: dict[str, list[str]] = {}
    shared: dict[str, list[str]] = {}
    for line in found.warnings:
        name, rest = _split(line, (*(result.method for result in found.methods), "performance"))
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


def _split(line: str, names: Iterable[str]) -> tuple[str, str]:
    """The measure that a line is about (the longest name that it starts with) and what it says; "" and the line when it is about none."""
    name = max((name for name in names if line.startswith(f"{name}: ")), key=len, default="")
    return (name, line[len(name) + 2 :]) if name else ("", line)


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
    """What stands under the table of agreement: how replicates agree, within-target and pooled correlations, and how the numbers came about."""
    lines = []
    if found.noise_ceiling:
        ceilings = ", ".join(f"{target} {value:.2f}" for target, value in found.noise_ceiling.items())
        lines.append(f"Agreement of one replicate of the performance with the others (rank correlation): {ceilings}.")
    if found.ceiling_of_mean:
        ceilings = ", ".join(f"{target} {value:.2f}" for target, value in found.ceiling_of_mean.items())
        lines.append(f"Ceiling of the rank correlation with the mean performance (square root of its reliability): {ceilings}.")
    for pairs in dict.fromkeys(within.n for within in found.within.values()):
        each = ", ".join(f"{method} {signed(within.r)}" for method, within in found.within.items() if within.n == pairs)
        lines.append(f"Within-target r of the values as each measure defines them ({plural(pairs, 'pair')}): {each}.")
    for method, pooled in found.pooled.items():
        what = "with" if pooled.includes_self else "without"
        lines.append(f"{method}: pooled r {signed(pooled.pearson)}, p {p_text(pooled.p_value) or 'undefined'} ({plural(pooled.n, 'pair')} {what} self pairs): "
                     "differences between targets go into it.")
    said: dict[str, list[str]] = {}
    for note in found.notes:
        name, rest = _split(note, [result.method for result in found.methods])
        said.setdefault(rest, []).extend([name] if name else [])
    return [*lines, *(f"{rest}: {', '.join(names)}" if names else rest for rest, names in said.items())]


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
    undefined = [r for r in (content.transfer.records if content.transfer else ()) if r.get("performance") is None]
    if undefined:
        parts = ", ".join(f"{source} -> {target} {n}" for (source, target), n in Counter((r["source"], r["target"]) for r in undefined).items())
        lines.append(f"{plural(len(undefined), 'replicate')} of a transfer without a defined {metric_of(content)} ({parts}).")
    return lines
