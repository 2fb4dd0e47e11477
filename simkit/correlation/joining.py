"""Scores and transfers joined on (source, target): names without a partner are listed, self pairs set apart, the rest made a rectangle."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from simkit.correlation.columns import Pair
from simkit.correlation.names import closest, difference, respellings, similar_data_sets
from simkit.correlation.reading import Reading, average
from simkit.errors import DataError, Problems, UsageError, nearest
from simkit.tables import counted

__all__ = ["SCRATCH", "Joined", "Rectangle", "join", "rectangle", "same_data"]

SCRATCH = "scratch"
"""The source that stands for training from random weights: a baseline, no data set, so it has no similarity to anything."""

GAPS = 5
"""How many pairs without a score the note on a method names."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Joined:
    """Scores and performances under the same names.

    Attributes:
        scores: method -> (source, target) -> score as the method defines it; only sources and targets that have a pair with a performance.
        performance: (source, target) -> replicate -> performance; only sources and targets that have a pair with a score.
        source_size: source -> number of images, where known.
        notes: what was renamed and left out.
        warnings: aliases of names that no table holds, data sets that count twice, and names that are almost the same.
        self_pairs: the pairs whose source and target are the same data.
        score_replicates: method -> (source, target) -> label -> score, of the methods whose score has replicates; only pairs that have a performance.
        source_group: source -> group, where a table names one.
        performance_sd: (source, target) -> standard deviation of the noise of the performance, where known.
    """

    scores: Mapping[str, Mapping[Pair, float]]
    performance: Mapping[Pair, Mapping[str, float]]
    source_size: Mapping[str, float]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    self_pairs: frozenset[Pair]
    score_replicates: Mapping[str, Mapping[Pair, Mapping[str, float]]] = field(default_factory=dict)
    source_group: Mapping[str, str] = field(default_factory=dict)
    performance_sd: Mapping[Pair, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Rectangle:
    """The pairs as matrices, sources by targets, both in order of their names; NaN where there is no pair.

    Attributes:
        sources: names, S.
        targets: names, T.
        performance: (S, T) float64, mean over the replicates that all sources of the target have (over its own ones where there are none).
        replicates: (R, S, T) float64, one layer a replicate.
        scores: method -> (S, T) float64, as the method defines it.
        warnings: targets whose sources do not all have the same replicates.
        score_replicates: method -> (R, S, T) float64, one layer a replicate of the score, in order of their labels; only methods that have some.
        performance_sd: (S, T) float64, standard deviation of the noise of ``performance``; None where it is known for no pair.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    performance: NDArray[np.float64]
    replicates: NDArray[np.float64]
    scores: Mapping[str, NDArray[np.float64]]
    warnings: tuple[str, ...] = ()
    score_replicates: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    performance_sd: NDArray[np.float64] | None = None

    @property
    def n_pairs(self) -> int:
        """Pairs with a performance."""
        return int(np.isfinite(self.performance).sum())


def same_data(alias: Iterable[tuple[str, str]], known: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Name -> the first name (in order) of the data set it stands for, from pairs of names that mean the same data; and warnings.

    Raises:
        UsageError: an alias that is no pair of names.
    """
    known, problems, warnings = set(known), Problems(), []
    first: dict[str, str] = {}
    for pair in alias:
        if isinstance(pair, str) or len(pair) != 2:
            problems.add("SK102", "alias", f"{pair!r} is not a pair of names", "give alias=[('stl10', 'sti10')]")
            continue
        warnings += [f"alias: '{name}' is in no table{nearest(name, known)}" for name in pair if name not in known]
        one, two = sorted(first.get(name, name) for name in pair)
        first = {name: one if root == two else root for name, root in first.items()} | {pair[0]: one, pair[1]: one, one: one, two: one}
    problems.raise_if_any(UsageError)
    return first, warnings


def join(scores: Reading, transfers: Reading, *, alias: Iterable[tuple[str, str]] = (), include_self: bool = False, allow_missing: bool = False) -> Joined:
    """Scores and performances of the same pairs; ``scores`` and ``transfers`` may be one reading of one table.

    Pairs whose source is 'scratch' (training from random weights) are left out of both and counted: whatever stands as their score means nothing.

    Args:
        scores: the scores.
        transfers: the performances.
        alias: pairs of names that mean the same data: they make self pairs, and join names that only one of the tables has.
        include_self: whether self pairs need a partner too.
        allow_missing: pairs without a partner are left out and counted, instead of refused.

    Raises:
        DataError: pairs without a partner (SK209), both ways, with the nearest spelling; a source to which the tables give different groups (SK203).
    """
    scored = _scored(scores)
    performed = set(transfers.performance)
    root, warnings = same_data(alias, {name for pair in scored | performed for name in pair})
    warnings += _name_warnings(scores, transfers, root)
    rename = _renames(scored, performed, root)
    notes = [f"'{old}' of {scores.name} is taken for '{new}' of {transfers.name} (alias)" for old, new in sorted(rename.items())]
    scored = {_renamed(pair, rename) for pair in scored}
    self_pairs = frozenset(pair for pair in scored | performed if root.get(pair[0], pair[0]) == root.get(pair[1], pair[1]))
    scratch = {pair for pair in scored | performed if pair[0] == SCRATCH}
    if scratch:
        notes.append(f"{counted(len(scratch), 'pair')} of the baseline '{SCRATCH}' left out: it is no data set and has no similarity")
    scored, performed = scored - scratch, performed - scratch
    ignored = frozenset() if include_self else self_pairs
    if scores is not transfers:
        notes += _unmatched(scores.name, scored - ignored, transfers.name, performed - ignored, allow_missing)
    both = scored & performed
    if not both:
        message = f"no pair has both a score ({counted(len(scored), 'pair')}) and a performance ({counted(len(performed), 'pair')})"
        raise DataError("SK209", transfers.name, message, "check that both tables name the same sources and targets")
    warnings += _twice(both - ignored, root)
    rows, columns = {source for source, _ in both}, {target for _, target in both}
    # scores of pairs without a performance count where permutations bring them beside one, and performances without a score for the regret
    shown = both | {pair for pair in scored - self_pairs if pair[0] in rows and pair[1] in columns}
    measured = both | {pair for pair in performed - self_pairs if pair[0] in rows and pair[1] in columns}
    kept = {method: _kept(pairs, rename, shown) for method, pairs in scores.scores.items()}
    notes += _gaps(kept, measured - ignored)
    return Joined(
        kept, {pair: transfers.performance[pair] for pair in sorted(measured)},
        {rename.get(name, name): size for name, size in (*scores.source_size.items(), *transfers.source_size.items())}, tuple(notes), tuple(warnings),
        self_pairs & both, {method: _kept(pairs, rename, both) for method, pairs in scores.score_replicates.items()}, _groups(scores, transfers, rename),
        {pair: sd for pair, sd in transfers.performance_sd.items() if pair in both},
    )


def _scored(reading: Reading) -> set[Pair]:
    return {pair for pairs in reading.scores.values() for pair in pairs}


def _kept(values: Mapping[Pair, Value], rename: Mapping[str, str], both: Collection[Pair]) -> dict[Pair, Value]:
    """The values of one method under the names of the transfer table, for the pairs that both tables have."""
    return {new: value for pair, value in values.items() if (new := _renamed(pair, rename)) in both}


def _gaps(scores: Mapping[str, Mapping[Pair, float]], pairs: Collection[Pair]) -> list[str]:
    """Notes on the pairs with a performance that methods do not score; methods that lack the same ones share a note."""
    alike: dict[tuple[Pair, ...], list[str]] = {}
    for method, values in scores.items():
        lacking = tuple(sorted(pair for pair in pairs if pair not in values))
        if lacking:
            alike.setdefault(lacking, []).append(method)
    notes = []
    for lacking, methods in alike.items():
        each = ", ".join(f"{source} -> {target}" for source, target in lacking[:GAPS]) + (", ..." if len(lacking) > GAPS else "")
        notes.append(f"{', '.join(methods)}: no score for {each} ({counted(len(lacking), 'pair')})")
    return notes


def _name_warnings(scores: Reading, transfers: Reading, root: Mapping[str, str]) -> list[str]:
    """The warnings of both tables; names that are almost the same are compared over both, less those that the alias says to be one data set."""
    pairs = [_scored(reading) | set(reading.performance) for reading in (scores, transfers)]
    within_one = {warning for some in pairs for warning in similar_data_sets(some)}
    others = dict.fromkeys(warning for warning in (*scores.warnings, *transfers.warnings) if warning not in within_one)
    return [*others, *similar_data_sets(set().union(*pairs), root)]


def _groups(scores: Reading, transfers: Reading, rename: Mapping[str, str]) -> dict[str, str]:
    """Source -> group of both tables, which must not contradict each other."""
    problems, out = Problems(), {rename.get(source, source): group for source, group in scores.source_group.items()}
    for source, group in transfers.source_group.items():
        if out.setdefault(source, group) != group:
            message = f"source '{source}' is in group '{group}', and in '{out[source]}' in {scores.name}"
            problems.add("SK203", transfers.name, message, "a source belongs to one group")
    problems.raise_if_any(DataError)
    return dict(sorted(out.items()))


def _twice(pairs: Collection[Pair], root: Mapping[str, str]) -> list[str]:
    """Data sets that stay under two names: their rows look like two observations, and are one."""
    warnings = []
    for side, role in enumerate(("source", "target")):
        names: dict[str, set[str]] = {}
        for pair in pairs:
            names.setdefault(root.get(pair[side], pair[side]), set()).add(pair[side])
        for same in sorted(sorted(group) for group in names.values() if len(group) > 1):
            each = " and ".join(f"'{name}'" for name in same)
            times = "twice" if len(same) == 2 else f"{len(same)} times"
            warnings.append(f"alias: {each} are the same data and stay as separate {role}s: that data set counts {times}, and p-values and intervals take "
                            "its rows for independent; leave all but one out")
    return warnings


def _renamed(pair: Pair, rename: Mapping[str, str]) -> Pair:
    return (rename.get(pair[0], pair[0]), rename.get(pair[1], pair[1])) if rename else pair


def _renames(scored: set[Pair], performed: set[Pair], root: Mapping[str, str]) -> dict[str, str]:
    """Names of the score table that only stand in the transfer table under another name of the same data set."""
    here, there = ({name for pair in pairs for name in pair} for pairs in (scored, performed))
    out = {}
    for name in here - there:
        others = {other for other, first in root.items() if name in root and first == root[name] and other in there - here}
        if len(others) == 1:
            out[name] = others.pop()
    return out if len(set(out.values())) == len(out) else {}


def _unmatched(score_name: str, scored: set[Pair], transfer_name: str, performed: set[Pair], allow_missing: bool) -> list[str]:
    """Notes on pairs that only one table has, or DataError; where that is all a matter of spelling, nothing else is said."""
    problems, notes = Problems(), []
    matched = len(scored & performed)
    respelled = _respelled(scored, performed)
    for name, mine, other_name, others, what in (
        (score_name, scored, transfer_name, performed, "performance"), (transfer_name, performed, score_name, scored, "score"),
    ):
        lonely = sorted(mine - others)
        if not lonely or (respelled is not None and problems.found):
            continue
        have = f"{len(lonely)} of {counted(len(mine), 'pair')} {'has' if len(lonely) == 1 else 'have'} no {what} in {other_name}: "
        fix = "correct the names, give alias=[('A', 'B')] (--alias A=B), or leave such pairs out: allow_missing=True (--allow-missing)"
        message, fix = respelled if respelled is not None else (_lonely(lonely, others), fix)
        problems.add("SK209", name, f"{have}{message}; {counted(matched, 'pair')} {'matches' if matched == 1 else 'match'}", fix)
        used = "permutations use the scores" if what == "performance" else "regret and static list use the performances"
        notes.append(f"{name}: {have}{message}; left out of all coefficients ({used}, where source and target stay)")
    if not allow_missing or (respelled is not None and not matched):
        problems.raise_if_any(DataError)
    return notes


def _lonely(lonely: list[Pair], others: Collection[Pair]) -> str:
    """Pairs that the other table lacks, and the names among theirs that it lacks altogether."""
    text = ", ".join(f"{source} -> {target}" for source, target in lonely[:10]) + (", ..." if len(lonely) > 10 else "")
    for role, side in (("source", 0), ("target", 1)):
        known = {pair[side] for pair in others}
        absent = sorted({pair[side] for pair in lonely} - known)
        if absent:
            text += f"; {role}s that are not there: " + ", ".join(f"'{one}'{closest(one, known)}" for one in absent)
    return text


def _respelled(scored: set[Pair], performed: set[Pair]) -> tuple[str, str] | None:
    """What is wrong and the remedy, where all pairs without a partner have one as soon as letter case and the like are set aside; else None."""
    lonely = scored - performed
    sources, targets = (respellings({pair[side] for pair in lonely}, {pair[side] for pair in performed}) for side in (0, 1))
    partners = {(sources.get(source, source), targets.get(target, target)) for source, target in lonely}
    if not lonely or partners != performed - scored or len(partners) < len(lonely):
        return None
    names = {**sources, **targets}
    shown = [difference(here, there) for here, there in names.items()]
    which = " and ".join(counted(len(some), role) for some, role in ((sources, "source"), (targets, "target")) if some)
    verb = "differs" if len(sources) + len(targets) == 1 else "differ"
    more = ", ..." if len(names) > 1 else ""
    message = f"{which} {verb} only by {' or '.join(dict.fromkeys(how for _, _, how in shown))} ({shown[0][0]} here, {shown[0][1]} there{more})"
    (here, there), *_ = names.items()
    alias = f"alias=[({shown[0][0]}, {shown[0][1]}){more}] (--alias {here}={there}{' ...' if more else ''})"
    return message, f"spell the names alike in both tables, or give {alias}"


def rectangle(joined: Joined, *, include_self: bool) -> Rectangle:
    """The joined pairs as matrices, with or without self pairs."""
    pairs = [pair for pair in joined.performance if include_self or pair not in joined.self_pairs]
    sources, targets = sorted({source for source, _ in pairs}), sorted({target for _, target in pairs})
    row, column = ({name: index for index, name in enumerate(names)} for names in (sources, targets))
    performance = np.full((len(sources), len(targets)), math.nan)
    common, warnings = _common_replicates({pair: joined.performance[pair] for pair in pairs})
    for source, target in pairs:
        said = joined.performance[source, target]
        performance[row[source], column[target]] = average(said[label] for label in common[target] or said)
    left_out = frozenset() if include_self else joined.self_pairs
    scores = {method: _matrix(values, left_out, row, column) for method, values in sorted(joined.scores.items())}
    layers = {method: _layers(values, left_out, row, column) for method, values in joined.score_replicates.items()}
    noise = _matrix(joined.performance_sd, left_out, row, column)
    return Rectangle(
        tuple(sources), tuple(targets), performance, _layers(joined.performance, left_out, row, column), scores, tuple(warnings), layers,
        noise if np.isfinite(noise).any() else None,
    )


def _common_replicates(performance: Mapping[Pair, Mapping[str, float]]) -> tuple[dict[str, list[str]], list[str]]:
    """Target -> the replicates that all its sources have, none where they share none; and a warning for each target where some lack any.

    Replicates differ in difficulty (a hard fold lowers all sources), so means over different ones would order sources by luck.
    """
    sources: dict[str, dict[str, set[str]]] = {}
    for (source, target), said in performance.items():
        sources.setdefault(target, {})[source] = set(said)
    common, warnings = {}, []
    for target, labels in sources.items():
        every = set().union(*labels.values())
        common[target] = sorted(every.intersection(*labels.values()))
        lacking = {source: len(every - mine) for source, mine in sorted(labels.items()) if mine != every}
        if lacking:
            each = ", ".join(f"{source} lacks {count}" for source, count in list(lacking.items())[:10]) + (", ..." if len(lacking) > 10 else "")
            how = (f"performances are averaged over the {len(common[target])} that all sources have" if common[target] else
                   "none is common to all sources: each performance is averaged over its own, and sources are not compared like with like")
            warnings.append(f"{target}: {len(lacking)} of {len(labels)} sources do not have all {len(every)} replicates ({each}); {how}")
    return common, warnings


def _matrix(values: Mapping[Pair, float], left_out: Collection[Pair], row: Mapping[str, int], column: Mapping[str, int]) -> NDArray[np.float64]:
    """(S, T) the values of these sources and targets, without those that are left out."""
    out = np.full((len(row), len(column)), math.nan)
    for pair, value in values.items():
        if pair not in left_out and pair[0] in row and pair[1] in column:
            out[row[pair[0]], column[pair[1]]] = value
    return out


def _layers(
    values: Mapping[Pair, Mapping[str, float]], left_out: Collection[Pair], row: Mapping[str, int], column: Mapping[str, int],
) -> NDArray[np.float64]:
    """(R, S, T) one matrix a label, in order of the labels."""
    kept = {pair: labelled for pair, labelled in values.items() if pair not in left_out}
    labels = sorted({label for labelled in kept.values() for label in labelled})
    alone = ({pair: labelled[label] for pair, labelled in kept.items() if label in labelled} for label in labels)
    return np.array([_matrix(of_label, left_out, row, column) for of_label in alone]).reshape(len(labels), len(row), len(column))
