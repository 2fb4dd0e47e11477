"""Candidates of a new target and past pairs, as scores of ranks, from tables that were read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from simkit.correlation.combination import Rows, normal_scores, order_quality
from simkit.correlation.joining import SCRATCH, join, rectangle, same_data
from simkit.correlation.reading import Reading, average
from simkit.errors import NotEnoughData

__all__ = ["Evidence", "EvidenceMaker", "Options", "first_names"]

Floats = NDArray[np.float64]

FEWEST_SOURCES = 3
"""Scored and measured sources below which a past target teaches nothing."""

COVERED = 0.8
"""A measure without a score for more than a fifth of the past pairs is left out."""


def first_names(names: Sequence[str], most: int = 10) -> str:
    """The first names of a list, and a sign that there are more."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


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
        left_out_spearman: measure that is not used -> mean over past targets of Spearman's correlation with the performance; without those for
            which it is not defined.
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
    left_out_spearman: Mapping[str, float]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    rows: Rows | None
    new_x: Floats
    raw: Mapping[str, tuple[float, ...]]
    performance: Mapping[str, Mapping[str, float]]
    metric: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass
class EvidenceMaker:
    """Makes Evidence of readings.

    Attributes:
        target: the new target.
        options: how tables are read.
        new: scores of the new target.
        higher_is_better: of each measure.
        notes: what was read, recognised and left out; it grows.
        warnings: what limits the reading; it grows.
        lacking: measure -> candidates without a score of it.
    """

    target: str
    options: Options
    new: Reading
    higher_is_better: Mapping[str, bool]
    notes: list[str]
    warnings: list[str]
    lacking: dict[str, list[str]] = field(default_factory=dict)

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
                self.lacking[method] = lacking
                left_out[method] = f"no score for {len(lacking)} of {len(candidates)} candidates ({first_names(lacking)})"
            else:
                out.append(method)
        return out

    def values(self, method: str, candidates: Mapping[str, str]) -> tuple[float, ...]:
        scores = {source: value for (source, _), value in self.new.scores[method].items()}
        return tuple(scores[here] for here in candidates.values())

    def oriented(self, method: str, values: Sequence[float] | Floats) -> Floats:
        return np.asarray(values, dtype=np.float64) * (1.0 if self.higher_is_better[method] else -1.0)

    def without_past(self) -> Evidence:
        self.note_scratch(0)
        candidates, left_out = self.candidates(()), dict[str, str]()
        measures = self.covering(candidates, left_out)
        self.enough(measures, left_out)
        return self.made(candidates, measures, left_out, {})

    def made(self, candidates: Mapping[str, str], measures: Sequence[str], left_out: Mapping[str, str], quality: Mapping[str, float]) -> Evidence:
        raw = {method: self.values(method, candidates) for method in measures}
        constant = [method for method in measures if len(set(raw[method])) == 1]
        self.notes += [f"{method}: the same value for all candidates of {self.target}: it orders nothing here" for method in constant]
        for method, why in left_out.items():
            worth = f"; its mean Spearman on past targets is {quality[method] + 0.0:+.2f}" if method in quality else ""
            if method in self.lacking:
                lacking = first_names(self.lacking[method])
                rows = "its rows" if len(self.lacking[method]) == 1 else "their rows"
                self.warnings.append(f"{method}: not used: {why}{worth}: score {lacking} by {method}, or leave {rows} out")
            else:
                self.notes.append(f"{method}: not used: {why}{worth}")
        new_x = np.column_stack([normal_scores(self.oriented(method, raw[method])) for method in measures])
        return Evidence(tuple(candidates), tuple(measures), left_out, quality, (), (), None, new_x, raw, {}, "", tuple(self.notes), tuple(self.warnings))

    def enough(self, measures: Sequence[str], left_out: Mapping[str, str]) -> None:
        if not measures:
            each = "; ".join(f"{method}: {why}" for method, why in left_out.items())
            fix = "score all candidates by one measure at least, or leave out the rows of a candidate that lacks scores"
            raise NotEnoughData("SK501", self.new.name, f"no measure is left for {self.target} ({each})", fix)

    def with_past(self, past: Reading, transfers: Reading) -> Evidence:
        joined = join(past, transfers, alias=self.options.alias, allow_missing=self.options.allow_missing)
        self.notes += joined.notes
        data = rectangle(joined, include_self=False)
        if not data.targets:
            self.notes.append("all past pairs are self pairs: nothing is known about how well the measures predict")
            return self.without_past()
        of_past = (one for one in joined.warnings if not one.startswith("alias: ") or " is in no table" not in one)  # said of all tables already
        self.warnings += [one for one in (*of_past, *data.warnings) if one not in self.warnings]
        performance = self.performances(transfers, joined.self_pairs, data.targets)
        keep = [s for s, source in enumerate(data.sources) if source != SCRATCH]
        sources, y = tuple(data.sources[s] for s in keep), data.performance[keep]
        for s, t in zip(*np.nonzero(np.isfinite(y)), strict=True):  # the mean over the replicates that all sources have
            performance[data.targets[t]][sources[s]] = float(y[s, t])
        said = any(f"'{SCRATCH}'" in note for note in joined.notes)
        self.note_scratch(0 if said else sum(source == SCRATCH for source, _ in transfers.performance))
        scores = {method: self.oriented(method, data.scores[method][keep]) if method in data.scores else np.full(y.shape, np.nan)
                  for method in self.new.scores}
        candidates, left_out = self.candidates(sources), dict[str, str]()
        measures = [method for method in self.covering(candidates, left_out) if self.covered(method, scores[method], y, left_out)]
        self.enough(measures, left_out)
        base = self.made(candidates, measures, left_out, {method: r for method in left_out if (r := _mean_spearman(scores[method], y)) is not None})
        x = np.stack([scores[method] for method in measures], axis=-1)
        usable = self.usable(x, y, data.targets)
        self.note_self_pairs(joined.self_pairs)
        if not usable.any():
            return replace(base, notes=tuple(self.notes), warnings=tuple(self.warnings))
        known_sizes = {**self.new.source_size, **joined.source_size}
        return self.learnt(base, known_sizes, candidates, (usable, x, y), sources, data.targets, performance, transfers.metric)

    def usable(self, x: Floats, y: Floats, targets: Sequence[str]) -> NDArray[np.bool_]:
        """(S, T) the past pairs that teach something."""
        usable = np.isfinite(y) & np.isfinite(x).all(-1)
        lost = int(np.isfinite(y).sum() - usable.sum())
        if lost:
            pairs = f"{lost} past pairs lack" if lost > 1 else "1 past pair lacks"
            self.notes.append(f"{pairs} a score of a measure that is used, and {'teach' if lost > 1 else 'teaches'} nothing")
        few = [t for t, n in enumerate(usable.sum(0)) if n < FEWEST_SOURCES]
        equal = [t for t in range(len(targets)) if t not in few and len(set(y[usable[:, t], t].tolist())) == 1]
        for which, what in ((few, f"with fewer than {FEWEST_SOURCES} scored and measured sources"), (equal, "with the same performance for all sources")):
            if which:
                plural, verb = ("s", "teach") if len(which) > 1 else ("", "teaches")
                self.warnings.append(f"{len(which)} past target{plural} {what} {verb} nothing: {first_names([targets[t] for t in which])}")
                usable[:, which] = False
        return usable

    def learnt(
        self, base: Evidence, known_sizes: Mapping[str, float], candidates: Mapping[str, str], pairs: tuple[NDArray[np.bool_], Floats, Floats],
        sources: Sequence[str], targets: Sequence[str], performance: Mapping[str, Mapping[str, float]], metric: str,
    ) -> Evidence:
        """The evidence with the past targets that teach something."""
        usable, x, y = pairs
        there = [int(t) for t in np.flatnonzero(usable.any(0))]
        kept, taught = tuple(sources[int(s)] for s in np.flatnonzero(usable.any(1))), tuple(targets[t] for t in there)
        sizes = self.sizes(known_sizes, candidates, kept, base.measures)
        rows = _rows(usable[:, there], x[:, there], y[:, there], base.new_x, sources, tuple(candidates), sizes)
        root, _ = same_data(self.options.alias, ())
        unscored = sorted({source for target in taught for source in performance[target] if root.get(source, source) != root.get(self.target, self.target)}
                          - set(candidates))
        if unscored:
            self.notes.append(f"{', '.join(unscored)}: past transfers and no scores for {self.target}, so no candidate")
        return replace(base, sources=kept, targets=taught, rows=rows, metric=metric, performance={target: performance[target] for target in taught},
                       notes=tuple(self.notes), warnings=tuple(self.warnings))

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

    def note_self_pairs(self, self_pairs: frozenset[tuple[str, str]]) -> None:
        if self_pairs:
            names = ", ".join(sorted(source if source == target else f"{source} -> {target}" for source, target in self_pairs))
            what = f"{len(self_pairs)} self pairs of past targets are" if len(self_pairs) > 1 else "1 self pair of a past target is"
            self.notes.append(f"{what} no evidence: {names}")

    def note_scratch(self, transfers: int) -> None:
        """A note on training from scratch, which is no source."""
        scored = any(source == SCRATCH for pairs in self.new.scores.values() for source, _ in pairs)
        each = [*([f"{transfers} past transfer{'s' if transfers > 1 else ''}"] if transfers else []), *([f"scores for {self.target}"] if scored else [])]
        if each:
            self.notes.append(f"'{SCRATCH}' is training without a source, and neither candidate nor evidence: {' and '.join(each)} left out")

    def sizes(self, known: Mapping[str, float], candidates: Mapping[str, str], sources: Sequence[str], measures: Sequence[str]) -> Mapping[str, float]:
        """Source -> size, where all have one; else empty."""
        known = {**known, **{name: known[here] for name, here in candidates.items() if here in known}}
        wanted = {*candidates, *sources}
        lacking = sorted(wanted - set(known))
        if lacking and len(lacking) < len(wanted):
            self.notes.append(f"the size of {len(lacking)} of {len(wanted)} sources is not known ({first_names(lacking)}): sizes are not used")
        return {} if lacking or "source-size" in measures else {name: known[name] for name in wanted}


def _mean_spearman(scores: Floats, y: Floats) -> float | None:
    """Mean over targets of Spearman's correlation of (S, T) scores with (S, T) performances; None where no target has enough pairs of both."""
    both = np.isfinite(scores) & np.isfinite(y)
    each = [order_quality(scores[both[:, t], t], y[both[:, t], t]) for t in range(y.shape[1]) if both[:, t].sum() >= FEWEST_SOURCES]
    return float(np.mean(each)) if each else None


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
