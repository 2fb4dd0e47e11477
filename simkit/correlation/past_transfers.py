"""What is known for a target without transfers: scores of its candidate sources, and scores and transfers of other targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from simkit.correlation.combination import Rows, normal_scores
from simkit.correlation.joining import SCRATCH, join, rectangle, same_data
from simkit.correlation.orientation import directions
from simkit.correlation.reading import Reading, average, read
from simkit.correlation.recognition import Layout, Readable, as_raw, is_column, recognise
from simkit.errors import NotEnoughData, UsageError, nearest
from simkit.tables import MISSING, RawTable, TransferTable

__all__ = ["Evidence", "Options", "evidence_for"]

Floats = NDArray[np.float64]

FEWEST_SOURCES = 3
"""Scored and measured sources below which a past target teaches nothing."""

COVERED = 0.8
"""A measure without a score for more than a fifth of the past pairs is left out."""


@dataclass(frozen=True)
class Options:
    """How tables are read; the arguments of :func:`~simkit.correlation.recommendation.recommend` of these names."""

    methods: tuple[str, ...] = ()
    distances: tuple[str, ...] = ()
    similarities: tuple[str, ...] = ()
    alias: tuple[tuple[str, str], ...] = ()
    allow_missing: bool = False
    aggregate: Literal["mean"] | None = None
    metric: str | None = None
    decimal: Literal[".", ","] = "."


@dataclass(frozen=True)
class Evidence:
    """Candidates and past pairs.

    Attributes:
        candidates: sources that have scores for the new target, in order of their names.
        measures: measures that are used, in order of their names.
        left_out: measure -> why it is not used.
        sources: past sources of the rows.
        targets: past targets.
        rows: scores of ranks; None without any past pair.
        new_x: (C, M) normal scores of the candidates' ranks.
        raw: measure -> (C,) value of each candidate as the measure defines it.
        performance: past target -> source -> mean performance, of all measured sources, scored or not; self pairs and scratch left out.
        metric: of the performance; "" without any.
        notes: what was read, recognised and left out.
        warnings: what limits the reading.
    """

    candidates: tuple[str, ...]
    measures: tuple[str, ...]
    left_out: Mapping[str, str]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    rows: Rows | None
    new_x: Floats
    raw: Mapping[str, tuple[float, ...]]
    performance: Mapping[str, Mapping[str, float]]
    metric: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Tables:
    """The tables as they were cut: scores of the new target, and what there is of other targets."""

    new: Reading
    past: Reading | None
    transfers: Reading | None
    notes: tuple[str, ...]


def evidence_for(target: str, table: Readable, performance: Readable | None, options: Options) -> Evidence:
    """Reads the tables and sets candidates and past pairs apart; see :func:`~simkit.correlation.recommendation.recommend`."""
    tables = _tables(target, table, performance, options)
    past, transfers = tables.past, tables.transfers
    in_table = {**tables.new.higher_is_better, **(past.higher_is_better if past else {})}
    for method, said in tables.new.higher_is_better.items():
        if in_table[method] != said:
            raise UsageError("SK211", tables.new.name, f"'{method}' is {str(said).lower()} in higher_is_better for {target}, and not for other targets",
                             "a method has one direction")
    found = directions(sorted(tables.new.scores), distances=options.distances, similarities=options.similarities, in_table=in_table, table=tables.new.name)
    notes = [*tables.new.notes, *(past.notes if past else ()), *(transfers.notes if transfers and transfers is not past else ()), *tables.notes, *found.notes]
    readings = [one for one in (tables.new, past, transfers) if one is not None]
    named = {name for one in readings for pairs in (*one.scores.values(), one.performance) for pair in pairs for name in pair}
    warnings = [*found.warnings, *tables.new.warnings, *same_data(options.alias, {target, *named})[1]]
    evidence = _Evidence(target, options, tables.new, found.higher_is_better, notes, warnings)
    return evidence.without_past() if past is None or transfers is None else evidence.with_past(past, transfers)


def _tables(target: str, table: Readable, performance: Readable | None, options: Options) -> _Tables:
    if isinstance(table, TransferTable):
        raise UsageError("SK102", "table", "a TransferTable holds no scores", "give the scores first, and the transfers as performance=...")
    raw = as_raw(table, allow_missing=options.allow_missing)
    one = performance is None or (isinstance(performance, str) and is_column(raw, performance))
    if performance is None and not _has_performance(raw):
        one, role = False, "no performance"
    else:
        role = ""
    if one and (performance is None or isinstance(performance, str)):
        scores = transfers = recognise(raw, performance=performance, methods=options.methods)
    else:
        scores = recognise(raw, methods=options.methods, role="scores")
        transfers = None
        if not role and performance is not None:
            second = as_raw(performance, allow_missing=options.allow_missing, name="performance DataFrame")
            transfers = recognise(second, role="transfers")
    names = _same(target, options.alias, scores.raw)
    new = read(replace(_only(scores, {target}), performance=(), notes=()), allow_missing=options.allow_missing, aggregate=options.aggregate,
               decimal=options.decimal)
    unscored = sorted(_row_sources(raw, target) - {source for pairs in new.scores.values() for source, _ in pairs})
    if unscored:
        note = f"{', '.join(unscored)}: rows for {target} and no score of a measure that is used, so no candidate"
        new = replace(new, notes=(*new.notes, note))
    if transfers is None:
        note = f"{raw.path}: no performance is given: nothing is known about how well the measures predict"
        return _Tables(new, None, None, (*scores.notes, note))
    return _cut(target, names, scores, transfers, new, options)


def _cut(target: str, names: set[str], scores: Layout, transfers: Layout, new: Reading, options: Options) -> _Tables:
    """Reads what there is of other targets; rows of the new target and of targets without any transfer are left out, and noted."""
    notes = _measured(target, names, transfers)
    root, _ = same_data(options.alias, ())
    performed = {name for name in _targets(transfers) if _performed(transfers, name)} - names
    roots = {root.get(name, name) for name in performed}
    idle = sorted(name for name in _targets(scores) - names if root.get(name, name) not in roots)
    if idle:
        notes.append(f"{len(idle)} other target{'s have' if len(idle) > 1 else ' has'} scores and no transfers, and {'teach' if len(idle) > 1 else 'teaches'} "
                     f"nothing: {_first(idle)}")
    here = _targets(scores) - names - set(idle)
    if not performed:
        return _Tables(new, None, None, (*scores.notes, *notes, "there is no transfer on another target: nothing is known about how well the measures predict"))
    reading = {"allow_missing": options.allow_missing, "aggregate": options.aggregate, "decimal": options.decimal}
    past = read(_only(scores, here), metric=options.metric if transfers is scores else None, **reading)  # type: ignore[arg-type]
    if transfers is scores:
        return _Tables(new, past, past, tuple(notes))
    return _Tables(new, past, read(_only(transfers, performed), metric=options.metric, **reading), tuple(notes))  # type: ignore[arg-type]


def _first(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _has_performance(raw: RawTable) -> bool:
    """Whether a column of the table is recognised as the performance."""
    try:
        recognise(raw, role="transfers")
    except UsageError as error:
        if any(problem.code == "SK104" for problem in error.problems):
            return False
        raise
    return True


def _same(target: str, alias: Iterable[tuple[str, str]], raw: RawTable) -> set[str]:
    """The names of the new target's data; UsageError where the table has no target of that name."""
    column = next((name for name in raw.columns if name.casefold() == "target"), "target")
    known = sorted({cell.strip() for cell in raw.column(column)})
    if target not in known:
        fix = f"targets found: {', '.join(known)}; score its candidates first (simkit distance SOURCES --target {target} --out scores.csv)"
        raise UsageError("SK101", raw.path, f"there is no target '{target}'{nearest(target, known)}", fix)
    root, _ = same_data(alias, ())
    return {target, *(name for name in root if root[name] == root.get(target, target))}


def _row_sources(raw: RawTable, target: str) -> set[str]:
    """The sources that have rows for a target, whatever stands in them."""
    source, of = (raw.column(next(name for name in raw.columns if name.casefold() == role)) for role in ("source", "target"))
    return {name.strip() for name, one in zip(source, of, strict=True) if one.strip() == target}


def _targets(layout: Layout) -> set[str]:
    return {cell.strip() for cell in layout.raw.column(layout.columns["target"])}


def _only(layout: Layout, targets: set[str]) -> Layout:
    """The rows of some targets."""
    cells = layout.raw.column(layout.columns["target"])
    keep = [row for row, cell in enumerate(cells) if cell.strip() in targets]
    raw = replace(layout.raw, rows=tuple(layout.raw.rows[row] for row in keep), lines=tuple(layout.raw.lines[row] for row in keep))
    return replace(layout, raw=raw)


def _performed(layout: Layout, target: str) -> set[str]:
    """The sources with a performance on a target."""
    rows = _only(layout, {target}).raw
    cells = [rows.column(column) for column in layout.performance]
    sources = rows.column(layout.columns["source"])
    return {source.strip() for row, source in enumerate(sources) if any(column[row].strip().lower() not in MISSING for column in cells)}


def _measured(target: str, names: set[str], transfers: Layout) -> list[str]:
    """A note on measured transfers of the new target, which are not used."""
    sources = sorted({source for name in names for source in _performed(transfers, name)} - names - {SCRATCH})
    if not sources:
        return []
    plural = "s" if len(sources) > 1 else ""
    return [f"{target}: {len(sources)} measured transfer{plural} of it ({_first(sources)}) left out of "
            "everything: this is a prediction without them; the measured order is in the report (simkit run), and simkit correlate holds scores against it"]


@dataclass
class _Evidence:
    """Makes Evidence of readings."""

    target: str
    options: Options
    new: Reading
    higher_is_better: Mapping[str, bool]
    notes: list[str]
    warnings: list[str]

    def candidates(self, known: Iterable[str]) -> dict[str, str]:
        """Candidate, under its name in the past, -> its name in the rows of the target."""
        known = set(known)
        here = {source for pairs in self.new.scores.values() for source, _ in pairs}
        root, _ = same_data(self.options.alias, here | known)
        itself = sorted(name for name in here if root.get(name, name) == root.get(self.target, self.target))
        if itself:
            self.notes.append(f"{self.target}: it is no source of itself ({', '.join(itself)} left out)")
        out: dict[str, str] = {}
        for name in sorted(here - set(itself) - {SCRATCH}):
            others = sorted(other for other in known - here if name not in known and name in root and root.get(other) == root[name])
            if len(others) == 1 and others[0] not in out:
                self.notes.append(f"'{name}' is taken for '{others[0]}' of past transfers (alias)")
            out[others[0] if len(others) == 1 and others[0] not in out else name] = name
        same: dict[str, list[str]] = {}
        for name in sorted(out):
            same.setdefault(root.get(name, name), []).append(name)
        self.warnings += [f"{' and '.join(twice)} are the same data (alias) and are both ranked" for twice in same.values() if len(twice) > 1]
        if len(out) < 2:
            found = f"1 candidate source ({next(iter(out))})" if out else "no candidate source"
            raise NotEnoughData("SK501", self.new.name, f"{self.target} has scores of {found}: there is nothing to rank", "score at least 2 sources for it")
        return dict(sorted(out.items()))

    def covering(self, candidates: Mapping[str, str], left_out: dict[str, str]) -> list[str]:
        """The measures that score every candidate; the others are named in ``left_out``."""
        out = []
        for method in sorted(self.new.scores):
            scored = {source for source, _ in self.new.scores[method]}
            lacking = sorted(name for name, here in candidates.items() if here not in scored)
            if lacking:
                left_out[method] = f"no score for {len(lacking)} of {len(candidates)} candidates ({_first(lacking)})"
            else:
                out.append(method)
        return out

    def values(self, method: str, candidates: Mapping[str, str]) -> tuple[float, ...]:
        scores = {source: value for (source, _), value in self.new.scores[method].items()}
        return tuple(scores[here] for here in candidates.values())

    def oriented(self, method: str, values: Sequence[float] | Floats) -> Floats:
        return np.asarray(values, dtype=np.float64) * (1.0 if self.higher_is_better[method] else -1.0)

    def without_past(self) -> Evidence:
        candidates, left_out = self.candidates(()), dict[str, str]()
        measures = self.covering(candidates, left_out)
        self.enough(measures, left_out)
        return self.made(candidates, measures, left_out)

    def made(self, candidates: Mapping[str, str], measures: Sequence[str], left_out: Mapping[str, str]) -> Evidence:
        raw = {method: self.values(method, candidates) for method in measures}
        constant = [method for method in measures if len(set(raw[method])) == 1]
        self.notes += [f"{method}: the same value for all candidates of {self.target}: it orders nothing here" for method in constant]
        self.notes += [f"{method}: not used: {why}" for method, why in left_out.items()]
        new_x = np.column_stack([normal_scores(self.oriented(method, raw[method])) for method in measures])
        return Evidence(tuple(candidates), tuple(measures), left_out, (), (), None, new_x, raw, {}, "", tuple(self.notes), tuple(self.warnings))

    def enough(self, measures: Sequence[str], left_out: Mapping[str, str]) -> None:
        if not measures:
            each = "; ".join(f"{method}: {why}" for method, why in left_out.items())
            fix = "score all candidates by one measure at least, or leave out the rows of a candidate that lacks scores"
            raise NotEnoughData("SK501", self.new.name, f"no measure is left for {self.target} ({each})", fix)

    def with_past(self, past: Reading, transfers: Reading) -> Evidence:
        joined = join(past, transfers, alias=self.options.alias, allow_missing=self.options.allow_missing)
        self.notes += joined.notes
        data = rectangle(joined, include_self=False)
        of_past = (one for one in joined.warnings if not one.startswith("alias: ") or " is in no table" not in one)  # said of all tables already
        self.warnings += [one for one in (*of_past, *data.warnings) if one not in self.warnings]
        performance = self.performances(transfers, joined.self_pairs, data.targets)
        keep = [s for s, source in enumerate(data.sources) if source != SCRATCH]
        sources = tuple(data.sources[s] for s in keep)
        y = data.performance[keep]
        for s, t in zip(*np.nonzero(np.isfinite(y)), strict=True):  # the mean over the replicates that all sources have
            performance[data.targets[t]][sources[s]] = float(y[s, t])
        candidates, left_out = self.candidates(sources), dict[str, str]()
        measures = [method for method in self.covering(candidates, left_out) if self.covered(method, data.scores[method][keep], y, left_out)]
        self.enough(measures, left_out)
        base = self.made(candidates, measures, left_out)
        x = np.stack([self.oriented(method, data.scores[method][keep]) for method in measures], axis=-1)
        usable = np.isfinite(y) & np.isfinite(x).all(-1)
        lost = int(np.isfinite(y).sum() - usable.sum())
        if lost:
            self.notes.append(f"{lost} past pairs lack a score of a measure that is used, and teach nothing")
        few = [t for t, n in enumerate(usable.sum(0)) if n < FEWEST_SOURCES]
        if few:
            self.notes.append(f"past targets with fewer than {FEWEST_SOURCES} scored and measured sources teach nothing: "
                              f"{', '.join(data.targets[t] for t in few)}")
            usable[:, few] = False
        self.self_pairs_note(joined.self_pairs)
        there = np.flatnonzero(usable.any(0))
        if not len(there):
            return replace(base, notes=tuple(self.notes), warnings=tuple(self.warnings))
        sizes = self.sizes({**self.new.source_size, **joined.source_size}, candidates, [sources[s] for s in np.flatnonzero(usable.any(1))], measures)
        rows = _rows(usable[:, there], x[:, there], y[:, there], base.new_x, sources, tuple(candidates), sizes)
        targets = tuple(data.targets[t] for t in there)
        root, _ = same_data(self.options.alias, ())
        unscored = sorted({source for target in targets for source in performance[target] if root.get(source, source) != root.get(self.target, self.target)}
                          - set(candidates))
        if unscored:
            self.notes.append(f"{', '.join(unscored)}: past transfers and no scores for {self.target}, so no candidate")
        return replace(base, sources=tuple(sources[s] for s in np.flatnonzero(usable.any(1))), targets=targets, rows=rows, metric=transfers.metric,
                       performance={target: performance[target] for target in targets}, notes=tuple(self.notes), warnings=tuple(self.warnings))

    def performances(self, transfers: Reading, self_pairs: frozenset[tuple[str, str]], targets: Sequence[str]) -> dict[str, dict[str, float]]:
        """Past target -> source -> mean performance over its own replicates; self pairs and training from scratch left out."""
        root, _ = same_data(self.options.alias, ())
        out: dict[str, dict[str, float]] = {target: {} for target in targets}
        for (source, target), replicates in transfers.performance.items():
            itself = (source, target) in self_pairs or root.get(source, source) == root.get(target, target)
            if target in out and not itself and source != SCRATCH:
                out[target][source] = average(replicates.values())
        return out

    def covered(self, method: str, scores: Floats, y: Floats, left_out: dict[str, str]) -> bool:
        """Whether a measure scores enough past pairs to be used."""
        measured = np.isfinite(y)
        n, total = int((np.isfinite(scores) & measured).sum()), int(measured.sum())
        if n >= COVERED * total:
            return True
        left_out[method] = f"it scores {n} of {total} past pairs, {COVERED:.0%} are needed"
        return False

    def self_pairs_note(self, self_pairs: frozenset[tuple[str, str]]) -> None:
        if self_pairs:
            names = ", ".join(sorted(source if source == target else f"{source} -> {target}" for source, target in self_pairs))
            self.notes.append(f"{len(self_pairs)} self pairs of past targets are no evidence: {names}")

    def sizes(self, known: Mapping[str, float], candidates: Mapping[str, str], sources: Sequence[str], measures: Sequence[str]) -> Mapping[str, float]:
        """Source -> size, where all have one; else empty."""
        known = {**known, **{name: known[here] for name, here in candidates.items() if here in known}}
        wanted = {*candidates, *sources}
        lacking = sorted(wanted - set(known))
        if lacking and len(lacking) < len(wanted):
            self.notes.append(f"the size of {len(lacking)} of {len(wanted)} sources is not known ({_first(lacking)}): sizes are not used")
        return {} if lacking or "source-size" in measures else {name: known[name] for name in wanted}


def _rows(
    usable: NDArray[np.bool_], x: Floats, y: Floats, new_x: Floats, sources: Sequence[str], candidates: Sequence[str], sizes: Mapping[str, float],
) -> Rows:
    """Normal scores within each target of the usable pairs."""
    kept = np.flatnonzero(usable.any(1))
    number = {int(s): index for index, s in enumerate(kept)}
    names = [sources[int(s)] for s in kept]
    features, performance, source, target, size = [], [], [], [], []
    for t in range(usable.shape[1]):
        rows = np.flatnonzero(usable[:, t])
        features.append(np.column_stack([normal_scores(x[rows, t, m]) for m in range(x.shape[2])]))
        performance.append(normal_scores(y[rows, t]))
        source += [number[int(s)] for s in rows]
        target += [t] * len(rows)
        size.append(normal_scores(np.array([sizes[sources[int(s)]] for s in rows])) if sizes else np.empty(0))
    known = {name: index for index, name in enumerate(names)}
    column = np.concatenate(size)[:, None] if sizes else np.empty((len(source), 0))
    new_size = normal_scores(np.array([sizes[name] for name in candidates]))[:, None] if sizes else np.empty((len(candidates), 0))
    return Rows(np.concatenate(features), np.concatenate(performance), np.array(source), np.array(target), column, new_x, new_size,
                np.array([known.get(name, -1) for name in candidates]), len(kept), usable.shape[1])
