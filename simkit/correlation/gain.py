"""The gain of transfer over a baseline of the same target, in percent: over training on the target itself, or over random weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

from simkit.correlation.columns import shortened
from simkit.correlation.joining import SCRATCH, same_data
from simkit.correlation.names import closest
from simkit.correlation.reading import Pair, Reading, average
from simkit.errors import DataError, Problems, UsageError
from simkit.tables import counted

__all__ = ["relative_gain"]


def relative_gain(transfers: Reading, baseline: Literal["self", "scratch"], *, alias: Iterable[tuple[str, str]] = ()) -> Reading:
    """The reading with every performance p as 100 (p - b) / b, where b is the baseline of the same target in the same replicate.

    0 means as good as the baseline, 1 one percent better. Replicates are compared one by one, so that what they share (an easy fold) cancels;
    a replicate that the baseline lacks is left out and counted. Where a pair and its baseline have no replicate in common and one value each,
    these are compared. Pairs of the baseline stay in the reading, with a gain of 0.

    Args:
        transfers: the performances.
        baseline: "self": source is the target itself; "scratch": source is named 'scratch' and stands for random weights.
        alias: pairs of names that mean the same data set.

    Raises:
        UsageError: another baseline, or an alias that is no pair.
        DataError: targets without a baseline, or with several (SK209); a baseline that is not positive (SK203); a pair that shares no replicate
            with its baseline (SK209).
    """
    if baseline not in ("self", "scratch"):
        raise UsageError("SK102", "baseline", f"{baseline!r} is no baseline", "give 'self', 'scratch' or 'none'")
    of_target = _baselines(transfers, baseline, alias)
    _positive(transfers, of_target.values())
    gains, notes = _gains(transfers, of_target)
    noise = {
        pair: 100 * sd / average(transfers.performance[of_target[pair[1]]].values())
        for pair, sd in transfers.performance_sd.items() if pair in gains and pair != of_target[pair[1]]
    }
    who = "of training on the target itself" if baseline == "self" else f"of training from random weights ('{SCRATCH}')"
    how = f"performance: gain in percent of the performance {who}, replicate by replicate; the noise of the baseline's run goes into all pairs of that target"
    metric = f"relative gain of {transfers.metric} over {baseline}, %"
    return replace(transfers, performance=gains, performance_sd=noise, metric=metric, notes=(*transfers.notes, how, *notes))


def _baselines(transfers: Reading, baseline: str, alias: Iterable[tuple[str, str]]) -> dict[str, Pair]:
    """Target -> the pair that is its baseline; DataError listing the targets that have none, or several."""
    root, _ = same_data(alias, {name for pair in transfers.performance for name in pair})
    found: dict[str, list[Pair]] = {target: [] for _, target in sorted(transfers.performance)}
    for source, target in sorted(transfers.performance):
        if source == SCRATCH if baseline == "scratch" else root.get(source, source) == root.get(target, target):
            found[target].append((source, target))
    exact = {target: pairs if (target, target) not in pairs or baseline == "scratch" else [(target, target)] for target, pairs in found.items()}
    problems = Problems()
    missing = [target for target, pairs in exact.items() if not pairs]
    if missing:
        problems.add("SK209", transfers.name, *_no_baseline(transfers, baseline, missing, len(exact)))
    for target, pairs in exact.items():
        if len(pairs) > 1:
            names = " and ".join(f"'{source}'" for source, _ in pairs)
            message = f"target '{target}' has {len(pairs)} rows of the same data ({names}), any of which may be the baseline"
            problems.add("SK209", transfers.name, message, f"leave all but one out, or call the source of the right one '{target}'")
    problems.raise_if_any(DataError)
    return {target: pair for target, (pair,) in exact.items()}


def _no_baseline(transfers: Reading, baseline: str, missing: list[str], count: int) -> tuple[str, str]:
    """Message and remedy for targets without a baseline."""
    empty = {pair[1] for pair, _ in transfers.undefined if pair[0] == (SCRATCH if baseline == "scratch" else pair[1])}
    each = shortened((f"'{target}'" + (" (its performance is empty)" if target in empty else "") for target in missing), 20)
    have = "has" if len(missing) == 1 else "have"
    if baseline == "scratch":
        guess = closest(SCRATCH, {source for source, _ in transfers.performance})
        return (f"{len(missing)} of {counted(count, 'target')} {have} no row with source '{SCRATCH}'{guess}, the baseline: {each}",
                f"add the performance of training from random weights as source '{SCRATCH}', or take another baseline (--baseline self or none)")
    return (f"{len(missing)} of {counted(count, 'target')} {have} no row whose source is the target itself, the baseline: {each}",
            "add the performance of training on the target itself as a row with source = target, name the same data by alias (--alias A=B), "
            "or take another baseline (--baseline scratch or none)")


def _positive(transfers: Reading, baselines: Iterable[Pair]) -> None:
    """A percentage of nothing, or of less than nothing, is no gain: DataError."""
    problems = Problems()
    for pair in baselines:
        for label, value in transfers.performance[pair].items():
            if value <= 0:
                what = f"{pair[0]} -> {pair[1]}" + (f", replicate {label}" if label else "")
                fix = "correct the value, or take a metric that is positive (such as auc), or no baseline (--baseline none)"
                problems.add("SK203", transfers.name, f"the baseline {what} has the performance {value:g}: no gain relative to it is defined", fix)
    problems.raise_if_any(DataError)


def _gains(transfers: Reading, of_target: Mapping[str, Pair]) -> tuple[dict[Pair, dict[str, float]], list[str]]:
    """Pair -> replicate -> gain in percent; and notes on replicates that were left out, or compared under different labels."""
    problems, gains = Problems(), dict[Pair, dict[str, float]]()
    left_out: dict[Pair, int] = {}
    relabelled: list[Pair] = []
    for pair, said in transfers.performance.items():
        before = transfers.performance[of_target[pair[1]]]
        if not said.keys() & before.keys() and len(said) == len(before) == 1:
            before = dict.fromkeys(said, next(iter(before.values())))
            relabelled.append(pair)
        gains[pair] = {label: 100 * (value - before[label]) / before[label] for label, value in said.items() if label in before}
        if not gains[pair]:
            source, target = of_target[pair[1]]
            message = (f"{pair[0]} -> {pair[1]} has no replicate in common with its baseline {source} -> {target} "
                       f"({shortened(said, 5)}; the baseline has {shortened(before, 5)})")
            fix = "give the baseline the same replicates (folds, seeds), or give one mean performance for each pair"
            problems.add("SK209", transfers.name, message, fix)
        elif len(gains[pair]) < len(said):
            left_out[pair] = len(said) - len(gains[pair])
    problems.raise_if_any(DataError)
    notes = []
    if left_out:
        each = shortened(f"{source} -> {target} {count}" for (source, target), count in left_out.items())
        how_many = f"{counted(sum(left_out.values()), 'replicate')} of {counted(len(left_out), 'pair')}"
        notes.append(f"performance: {how_many} left out, which the baseline lacks ({each})")
    if relabelled:
        each = shortened(f"{source} -> {target}" for source, target in relabelled)
        have, their = ("has", "its") if len(relabelled) == 1 else ("have", "their")
        notes.append(f"performance: {counted(len(relabelled), 'pair')} {have} one value under another label than the one value of {their} baseline; "
                     f"compared with it ({each})")
    return gains, notes
