"""What is known for a target without transfers: scores of its candidate sources, and scores and transfers of other targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from simkit.correlation.evidence import Evidence, EvidenceMaker, Options, first_names
from simkit.correlation.joining import SCRATCH, same_data
from simkit.correlation.orientation import directions
from simkit.correlation.reading import Reading, read
from simkit.correlation.recognition import Layout, Readable, as_raw, is_column, recognise
from simkit.errors import UsageError, nearest
from simkit.tables import MISSING, RawTable, TransferTable, counted

__all__ = ["evidence_for"]


@dataclass(frozen=True)
class _Tables:
    """The tables as they were cut: scores of the new target, and what there is of other targets; and all names in them, for aliases."""

    new: Reading
    past: Reading | None
    transfers: Reading | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    named: frozenset[str] = frozenset()


def evidence_for(target: str, table: Readable, performance: Readable | None, options: Options) -> Evidence:
    """Reads the tables and sets candidates and past pairs apart; see :func:`~simkit.correlation.recommendation.recommend`."""
    tables = _tables(target, table, performance, options)
    past, transfers = tables.past, tables.transfers
    in_table = {**tables.new.higher_is_better, **(past.higher_is_better if past else {})}
    for method, said in tables.new.higher_is_better.items():
        if in_table[method] != said:
            raise UsageError("SK211", tables.new.name, f"'{method}' is {str(said).lower()} in higher_is_better for {target}, and not for other targets",
                             "a method has one direction")
    found = directions(sorted(tables.new.scores), distances=options.distances, similarities=options.similarities, in_table=in_table, table=tables.new.name,
                       columns=tables.new.columns)
    notes = [*tables.new.notes, *(past.notes if past else ()), *(transfers.notes if transfers and transfers is not past else ()), *tables.notes, *found.notes]
    warnings = [*found.warnings, *tables.new.warnings, *tables.warnings, *same_data(options.alias, {target, *tables.named})[1]]
    evidence = EvidenceMaker(target, options, tables.new, found.higher_is_better, notes, warnings)
    return evidence.without_past() if past is None or transfers is None else evidence.with_past(past, transfers)


def _tables(target: str, table: Readable, performance: Readable | None, options: Options) -> _Tables:
    if isinstance(table, TransferTable):
        raise UsageError("SK102", "table", "a TransferTable holds no scores", "give the scores first, and the transfers as performance=...")
    raw = as_raw(table, allow_missing=options.allow_missing)
    one = performance is None or (isinstance(performance, str) and is_column(raw, performance))
    if performance is None and not _has_performance(raw, options.metric):
        one, role = False, "no performance"
    else:
        role = ""
    if one and (performance is None or isinstance(performance, str)):
        scores = transfers = recognise(raw, performance=performance, methods=options.methods, metric=options.metric)
    else:
        scores = recognise(raw, methods=options.methods, role="scores")
        transfers = None
        if not role and performance is not None:
            second = as_raw(performance, allow_missing=options.allow_missing, name="performance DataFrame")
            transfers = recognise(second, role="transfers", metric=options.metric)
    written, names = _same(target, options.alias, scores.raw)
    new = read(replace(_only(scores, {written}), performance=(), notes=()), allow_missing=options.allow_missing, aggregate=options.aggregate,
               decimal=options.decimal)
    notes = [] if written == target else [f"'{target}' is taken for the target '{written}' of {raw.path} (alias)"]
    unscored = sorted(_row_sources(raw, written) - {source for pairs in new.scores.values() for source, _ in pairs})
    if unscored:
        notes.append(f"{', '.join(unscored)}: rows for {target} and no score of a measure that is used, so no candidate")
    new = replace(new, notes=(*new.notes, *notes))
    if transfers is None:
        note = f"{raw.path}: no performance is given: nothing is known about how well the measures predict"
        found = _Tables(new, None, None, (*scores.notes, note))
    else:
        found = _cut(target, names, scores, transfers, new, options)
    return replace(found, named=frozenset(name for one in (scores, transfers) if one is not None for name in _named(one)))


def _cut(target: str, names: set[str], scores: Layout, transfers: Layout, new: Reading, options: Options) -> _Tables:
    """Reads what there is of other targets; rows of the new target and of targets without any transfer are left out, and noted."""
    notes = _measured(target, names, transfers)
    root, _ = same_data(options.alias, ())
    performed = {name for name in _targets(transfers) if _performed(transfers, name) - {SCRATCH, name}} - names
    roots = {root.get(name, name) for name in performed}
    idle = sorted(name for name in _targets(scores) - names if root.get(name, name) not in roots)
    if idle:
        notes.append(f"{len(idle)} other target{'s have' if len(idle) > 1 else ' has'} scores and no transfers, and {'teach' if len(idle) > 1 else 'teaches'} "
                     f"nothing: {first_names(idle)}")
    if not performed:
        return _Tables(new, None, None, (*scores.notes, *notes, "there is no transfer on another target: nothing is known about how well the measures predict"))
    twice, warnings = _twice(performed, _targets(scores) - names, root, scores, transfers)
    here, performed = _targets(scores) - names - set(idle) - twice, performed - twice
    reading = {"allow_missing": options.allow_missing, "aggregate": options.aggregate, "decimal": options.decimal}
    past = read(_only(scores, here), metric=options.metric if transfers is scores else None, **reading)  # type: ignore[arg-type]
    if transfers is scores:
        return _Tables(new, past, past, tuple(notes), warnings)
    return _Tables(new, past, read(_only(transfers, performed), metric=options.metric, **reading), tuple(notes), warnings)  # type: ignore[arg-type]


def _twice(
    performed: set[str], scored: set[str], root: Mapping[str, str], scores: Layout, transfers: Layout,
) -> tuple[set[str], tuple[str, ...]]:
    """Past targets that an alias declares to be the data of another one, and a warning for each.

    Of such targets the one with most pairs stays, the first by name of equals: two would be left out one at a time, and each would tell
    the performances of the other.
    """
    of: dict[str, list[str]] = {}
    for name in sorted(performed & scored):
        of.setdefault(root.get(name, name), []).append(name)
    out: set[str] = set()
    warnings = []
    for names in (names for names in of.values() if len(names) > 1):
        pairs = {name: len(_performed(transfers, name) & _row_sources(scores.raw, name)) for name in names}
        kept = max(names, key=lambda name: pairs[name])
        warnings += [f"past targets '{kept}' and '{name}' are the same data (alias): '{kept}' with {counted(pairs[kept], 'pair')} is kept, "
                     f"'{name}' with {counted(pairs[name], 'pair')} is left out" for name in names if name != kept]
        out |= {name for name in performed | scored if root.get(name, name) == root.get(kept, kept)} - {kept}
    return out, tuple(warnings)


def _named(layout: Layout) -> set[str]:
    """The names of all sources and targets."""
    return {cell.strip() for role in ("source", "target") for cell in layout.raw.column(layout.columns[role])}


def _has_performance(raw: RawTable, metric: str | None) -> bool:
    """Whether a column of the table is recognised as the performance."""
    try:
        recognise(raw, role="transfers", metric=metric)
    except UsageError as error:
        if any(problem.code == "SK104" for problem in error.problems):
            return False
        raise
    return True


def _same(target: str, alias: Iterable[tuple[str, str]], raw: RawTable) -> tuple[str, set[str]]:
    """The name that the table has for the new target, and all names of its data.

    Raises:
        UsageError: the table has no target of that name, and none or several that an alias declares to be the same data (SK101).
    """
    column = next((name for name in raw.columns if name.casefold() == "target"), "target")
    known = sorted({cell.strip() for cell in raw.column(column)})
    root, _ = same_data(alias, ())
    names = {target, *(name for name in root if root[name] == root.get(target, target))}
    if target in known:
        return target, names
    others = sorted(names & set(known))
    if len(others) == 1:
        return others[0], names
    if others:
        raise UsageError("SK101", raw.path, f"there is no target '{target}', and its aliases {' and '.join(others)} are there", "give the one that you mean")
    fix = f"targets found: {', '.join(known)}; score its candidates first (simkit distance SOURCES --target {target} --out scores.csv)"
    raise UsageError("SK101", raw.path, f"there is no target '{target}'{nearest(target, known)}", fix)


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
    return [f"{target}: {len(sources)} measured transfer{plural} of it ({first_names(sources)}) left out of "
            "everything: this is a prediction without them; the measured order is in the report (simkit run), and simkit correlate holds scores against it"]


