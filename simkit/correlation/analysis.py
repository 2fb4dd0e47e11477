"""Does similarity predict transfer? Per target, then averaged; never pooled unless asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from simkit.correlation.design import FEWEST, Design, Options
from simkit.correlation.gain import relative_gain
from simkit.correlation.inference import Nulls
from simkit.correlation.joining import Joined, Rectangle, join, rectangle
from simkit.correlation.orientation import Directions, directions
from simkit.correlation.power import power_curve
from simkit.correlation.reading import Reading, read
from simkit.correlation.recognition import Readable, as_raw, is_column, names_of, recognise
from simkit.correlation.resampling import STATISTICS, Statistic
from simkit.correlation.results import Correlation, MethodResult, Pooled, Within
from simkit.correlation.statistics import critical_size, critical_spearman, tied_share
from simkit.correlation.transfer_rows import run_columns
from simkit.errors import DataError, NotEnoughData, Problems, UsageError
from simkit.tables import RawTable, TransferTable, counted

__all__ = ["correlate", "read_transfer"]

Floats = NDArray[np.float64]

FEW_TARGETS, FEW_SOURCES, MANY_TIES, SIMPSON = 5, 5, 0.2, 0.2
"""Fewer targets or sources, a larger share of ties, and a larger excess of the pooled over the within-target correlation are warned of."""


def correlate(
    table: Readable, *, performance: Readable | None = None, methods: Sequence[str] | str = (), distances: Sequence[str] | str = (),
    similarities: Sequence[str] | str = (), include_self: bool = False, pooled: bool = False, alias: Iterable[tuple[str, str]] = (),
    allow_missing: bool = False, aggregate: Literal["mean"] | None = None, metric: str | None = None, baseline: Literal["none", "self", "scratch"] = "none",
    statistic: Statistic = "spearman", logit: bool = False, mixed: bool = False, decimal: Literal[".", ","] = ".", permutations: int = 9999,
    bootstraps: int = 2000, seed: int = 0, jobs: int = 0,
) -> Correlation:
    """Holds scores of source-target pairs against the performance of transfer: rank correlation within each target, averaged over targets.

    Self pairs (source and target are the same data) are left out. The primary statistic is the unweighted mean over targets of Spearman's
    correlation between the oriented score and the mean performance; its p-value permutes source labels jointly in all targets, its
    interval resamples sources and targets together. Adjusted p-values (Holm, max-T), leave-one-out ranges, the three baselines (static, source
    size, random) and what such a table can show at all stand beside it.

    Args:
        table: the scores: a CSV path, a DataFrame, a ScoreTable, or a RawTable. Long form has the columns source, target, method, value and
            perhaps performance, higher_is_better, replicate, value_replicate, performance_metric, performance_sd, source_size (or n_source,
            where the rows of a source agree), source_group; wide form has source, target, a column per method, and perhaps the
            performance and the last three.
        performance: the column of the performance, or a pattern such as "fold_*" whose columns are replicates and averaged per pair; or a
            second table (path, DataFrame, TransferTable, RawTable) that holds it. None recognises the column, and says which.
        methods: which methods: "name", "name=column", or "name=pattern" (columns averaged). Empty for all.
        distances: methods whose lower values mean more similar.
        similarities: methods whose higher values mean more similar. Methods of neither list need a higher_is_better column or a name
            that simkit knows.
        include_self: adds ``with_self``, the same with self pairs.
        pooled: adds Pearson's correlation over the pairs of all targets together.
        alias: pairs of names that mean the same data set.
        allow_missing: leaves out and counts empty cells, short rows, and pairs that only one of two tables has, instead of refusing them.
        aggregate: "mean" averages rows of the same key, instead of refusing them.
        metric: of the performance ("auc" demands values in 0..1); None takes it from the table. Of a transfer table with one row per run and
            metric (columns source, target, fold, seed, metric, value): whose rows are taken; "auc" means "auc" of two classes and
            "auc-ovr-weighted" of more, and None takes these where a target has several metrics.
        baseline: "self" or "scratch" turns performances into the gain in percent over the target pretrained on itself, or over training
            from scratch, replicate by replicate. With replicates the mean of ratios can order sources otherwise than the mean performance.
        statistic: the coefficient whose mean over targets is primary: "spearman", "kendall" (tau-b) or "weighted-tau".
        logit: takes Pearson's, within-target and pooled correlations and the mixed model on logit(performance), for AUC near 1. Nothing
            that depends on ranks alone changes.
        mixed: adds the linear mixed model with random source effects (needs statsmodels, the extra "stats").
        decimal: the decimal sign of the tables.
        permutations: random permutations where there are too many to enumerate.
        bootstraps: resamples of the interval; 0 for none.
        seed: of permutations and bootstrap.
        jobs: threads; 0 for as many as BLAS may use. Results are the same for any number.

    Returns:
        Correlation; its ``frame`` has one row a method and baseline, ``per_target`` one a method and target.

    Raises:
        UsageError: a name or column that is not there, a direction that is not known (SK211), an option out of range.
        DataError: bad cells, duplicate keys, pairs without a partner; each with file, line and column. A performance of 0 or 1 with ``logit``.
        NotEnoughData: fewer than 3 sources in every target.
        ResourceError: ``mixed`` without statsmodels.

    Example:
        >>> simkit.correlate("results.csv", performance="fold_*", methods=["otdd", "expert=expert_distance"], distances=["expert"]).frame
    """
    _check(permutations=permutations, bootstraps=bootstraps, jobs=jobs, aggregate=aggregate, statistic=statistic, baseline=baseline, logit=logit)
    if mixed:
        from simkit.correlation.mixed import require_statsmodels

        require_statsmodels()
    methods, distances, similarities = names_of(methods, "methods"), names_of(distances, "distances"), names_of(similarities, "similarities")
    alias = tuple(alias)
    reading = {"allow_missing": allow_missing, "aggregate": aggregate, "decimal": decimal}
    scores, transfers = _readings(table, performance, methods, metric, reading)
    found = directions(sorted(scores.scores), distances=distances, similarities=similarities, in_table=scores.higher_is_better, table=scores.name,
                       columns=scores.columns)
    if baseline != "none":
        scores, transfers = _relative(scores, transfers, baseline, alias)
    joined = join(scores, transfers, alias=alias, include_self=include_self, allow_missing=allow_missing)
    plain = rectangle(joined, include_self=False)
    _enough(plain)
    options = Options(seed, permutations, bootstraps, statistic, logit, jobs)
    design = Design(plain, joined.source_size, joined.source_group, options)
    result = _correlation(design, found, transfers.metric, mixed=mixed)
    pools = _pools(design) if pooled else {}
    with_self = None
    if include_self:
        everything = replace(design, rectangle=rectangle(joined, include_self=True), options=replace(options, tested=False))
        with_self = replace(_correlation(everything, found, transfers.metric, mixed=False), baseline=baseline,
                            pooled=_pools(everything, includes_self=True) if pooled else {})
    reading_notes = scores.notes if scores is transfers else (*scores.notes, *transfers.notes)
    notes = (*reading_notes, *found.notes, *joined.notes, _self_note(joined, include_self))
    warnings = (*found.warnings, *joined.warnings, *_simpson(pools, result.within), *result.warnings)
    self_pairs = tuple(f"{source} -> {target}" for source, target in sorted(joined.self_pairs))
    return replace(result, notes=notes, warnings=warnings, pooled=pools, with_self=with_self, baseline=baseline, self_pairs=self_pairs)


def read_transfer(
    table: Readable, *, performance: str | None = None, metric: str | None = None, allow_missing: bool = False, aggregate: Literal["mean"] | None = None,
    decimal: Literal[".", ","] = ".",
) -> TransferTable:
    """A table of transfer performances, one row per (source, target, fold, seed), of one metric for each target.

    Args:
        table: a path, a DataFrame, or a table: long in metric (source, target, fold, seed, metric, value, as a TransferTable), long (source,
            target, replicate, performance, metric), or with one column a replicate, which becomes the fold. A TransferTable is given back as it is
            unless a metric is asked for.
        performance: the column, or a pattern of columns that are replicates; None recognises it.
        metric: of the performance; None takes it from the table, or from the name of the column. Of a table that is long in metric: whose rows are
            taken (see :func:`correlate`).
        allow_missing: an empty performance is kept as undefined, instead of refused.
        aggregate: "mean" averages rows of the same key.
        decimal: the decimal sign of the table.

    Raises:
        UsageError, DataError: as :func:`correlate`.
    """
    if isinstance(table, TransferTable) and metric is None:
        return table
    raw = as_raw(table, allow_missing=allow_missing)
    layout = recognise(raw, performance=performance, role="transfers", metric=metric)
    reading = read(layout, metric=metric, allow_missing=allow_missing, aggregate=aggregate, decimal=decimal)
    runs: Mapping[tuple[str, str, str], Mapping[str, Any]] = run_columns(layout) if layout.by_metric else _fold_sizes(raw)
    cells: dict[tuple[str, str, str], float | None] = {(*pair, replicate): None for pair, replicate in reading.undefined}
    cells |= {(*pair, replicate): value for pair, replicates in reading.performance.items() for replicate, value in replicates.items()}
    records = []
    for (source, target, replicate), value in sorted(cells.items()):
        run = runs.get((source, target, replicate), {})
        flags = run.get("flags") or (() if value is not None else (f"no value in {reading.name}",))
        records.append({"source": source, "target": target, "fold": replicate or "1", "metric": reading.metric, "value": value, **run, "flags": flags})
    return TransferTable(tuple(records))


def _fold_sizes(raw: RawTable) -> dict[tuple[str, str, str], dict[str, int]]:
    """(source, target, replicate) -> n_train and n_test, where a table has these columns."""
    present = [name for name in ("n_train", "n_test") if name in raw.columns]
    if not present or "replicate" not in raw.columns:
        return {}
    keys = zip(*([cell.strip() for cell in raw.column(name)] for name in ("source", "target", "replicate")), strict=True)
    numbers = {name: raw.numbers(name, low=0, empty=True) for name in present}
    return {key: {name: int(values[row]) for name, values in numbers.items() if values[row] == values[row]} for row, key in enumerate(keys)}


def _check(
    *, permutations: int, bootstraps: int, jobs: int, aggregate: str | None, statistic: str, baseline: str, logit: bool,
) -> None:
    problems = Problems()
    for name, value, least in (("permutations", permutations, 1), ("bootstraps", bootstraps, 0), ("jobs", jobs, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            problems.add("SK102", name, f"{value!r} is not valid here: expected a whole number >= {least}", f"give a whole number >= {least}")
    if aggregate not in (None, "mean"):
        problems.add("SK102", "aggregate", f"{aggregate!r} is not known", "give 'mean', or nothing to refuse rows of the same key")
    for option, chosen, known in (("statistic", statistic, STATISTICS), ("baseline", baseline, ("none", "self", "scratch"))):
        if chosen not in known:
            problems.add("SK102", option, f"{chosen!r} is not known", f"give one of {', '.join(known)}")
    if logit and baseline != "none":
        problems.add("SK102", "logit, baseline", "a relative gain can be negative and has no logit", "give one of them")
    problems.raise_if_any(UsageError)


def _readings(table: Readable, performance: Readable | None, methods: Sequence[str], metric: str | None, options: dict[str, Any]) -> tuple[Reading, Reading]:
    """The scores and the performances; one reading twice when one table holds both. ``options`` are those of :func:`read`."""
    allow_missing = options["allow_missing"]
    raw = as_raw(table, allow_missing=allow_missing)
    if isinstance(table, TransferTable):
        raise UsageError("SK102", "table", "a TransferTable holds no scores", "give the scores first, and the transfers as performance=...")
    if performance is None or (isinstance(performance, str) and is_column(raw, performance)):
        reading = read(recognise(raw, performance=performance, methods=methods, metric=metric), metric=metric, **options)
        return reading, reading
    scores = read(recognise(raw, methods=methods, role="scores"), **options)
    second = as_raw(performance, allow_missing=allow_missing, name="performance DataFrame")
    return scores, read(recognise(second, role="transfers", metric=metric), metric=metric, **options)


def _relative(
    scores: Reading, transfers: Reading, baseline: Literal["self", "scratch"], alias: Sequence[tuple[str, str]],
) -> tuple[Reading, Reading]:
    """Both readings with performances relative to a baseline; still one reading where they were one."""
    relative = relative_gain(transfers, baseline, alias=alias)
    return (relative, relative) if scores is transfers else (scores, relative)


def _enough(plain: Rectangle) -> None:
    counts = dict(zip(plain.targets, np.isfinite(plain.performance).sum(0), strict=True))
    if all(count < FEWEST for count in counts.values()):
        each = ", ".join(f"{target} {count}" for target, count in counts.items()) or "no pair is left without self pairs"
        message = f"fewer than {FEWEST} sources in every target ({each}): no rank correlation can be given"
        raise NotEnoughData("SK501", "", message, f"give at least {FEWEST} sources, better 9 or more, for one target at least")


def _self_note(joined: Joined, include_self: bool) -> str:
    names = ", ".join(sorted(source if source == target else f"{source} -> {target}" for source, target in joined.self_pairs))
    if not joined.self_pairs:
        return "no self pairs"
    apart = "left out of all figures but those with self pairs" if include_self else "left out"
    return f"{counted(len(joined.self_pairs), 'self pair')} {apart}: {names}"


def _correlation(design: Design, found: Directions, metric: str, *, mixed: bool) -> Correlation:
    """Methods, baselines and warnings of one rectangle."""
    data, options = design.rectangle, design.options
    if options.logit:
        _check_logit(data)
    results, nulls = design.methods(found.higher_is_better)
    within = {name: one for name, raw in data.scores.items() if (one := design.within(raw)) is not None}
    models = {name: design.mixed(raw, higher_is_better=found.higher_is_better[name]) for name, raw in data.scores.items()} if mixed else {}
    noise_ceiling, ceiling_of_mean = design.agreement()
    power = power_curve(data.performance, seed=options.seed, exchange=design.exchange, jobs=options.jobs) if options.tested else ()
    return Correlation(
        methods=tuple(results), baselines=design.baselines(), n_pairs=data.n_pairs, n_sources=len(data.sources), n_targets=len(data.targets),
        targets=data.targets, sources=data.sources, metric=metric, notes=(), warnings=_warnings(design, results), pooled={}, with_self=None,
        seed=options.seed, permutations=options.permutations, bootstraps=options.bootstraps, resolution=_resolution(design, nulls) if options.tested else "",
        noise_ceiling=noise_ceiling, ceiling_of_mean=ceiling_of_mean, within=within, joint_exact=nulls.exact, statistic=options.statistic,
        logit=options.logit, power=power, mixed=models, groups=design.groups, grouped=design.exchange.grouped,
        data=data,
    )


def _pools(design: Design, *, includes_self: bool = False) -> dict[str, Pooled]:
    return {name: design.pooled(raw, includes_self=includes_self) for name, raw in design.rectangle.scores.items()}


def _check_logit(data: Rectangle) -> None:
    """A logit is finite only strictly between 0 and 1."""
    problems = Problems()
    for s, t in zip(*np.nonzero((data.performance <= 0) | (data.performance >= 1)), strict=True):
        message = f"{data.sources[s]} -> {data.targets[t]}: the performance is {data.performance[s, t]:g}, and a logit needs values strictly between 0 and 1"
        problems.add("SK203", "logit", message, "leave the logit out: ranks and everything made from them do not change by it")
    problems.raise_if_any(DataError)


def _warnings(design: Design, results: Sequence[MethodResult]) -> tuple[str, ...]:
    data = design.rectangle
    out = list(data.warnings)
    n_targets = len(data.targets)
    if n_targets < FEW_TARGETS:
        out.append(f"few targets ({n_targets}): intervals over targets are indicative only")
    exchange = design.exchange
    if not exchange.grouped and len(set(exchange.group)) == 1 < len(exchange):
        out.append("all sources are one group (source_group): no permutation of groups is possible, and they are taken for independent")
    if exchange.grouped:
        fixed = exchange.fixed
        out += [f"{counted(fixed, 'group')} of several sources with no other of that size stay in place: p asks only about the order within and among the "
                "others"] if fixed else []
        out.append(f"the {len(data.sources)} sources are {len(set(exchange.group))} groups (source_group), which are permuted and drawn as a whole: whole "
                   "groups of the same size change places, and sources within a group")
    if n_targets == 2:
        out.append("2 targets: the static baseline ranks the sources of each by the other alone")
    few = [f"{name} ({n})" for name, n in zip(data.targets, np.isfinite(data.performance).sum(0), strict=True) if n < FEW_SOURCES]
    if few:
        out.append(f"fewer than {FEW_SOURCES} sources in {', '.join(few)}: no interval there")
    out += _ties("performance", {name: data.performance[:, t] for t, name in enumerate(data.targets)})
    for result in results:
        undefined = [f"{one.target}: {one.undefined}" for one in result.targets if one.undefined]
        if undefined:
            out.append(f"{result.method}: undefined in {len(undefined)} of {n_targets} targets ({'; '.join(undefined)})")
        if result.mean is not None and result.interval is None and design.options.bootstraps:
            out.append(f"{result.method}: no interval: in more than a tenth of the resamples of the sources it has no correlation "
                       "(fewer than 3 different sources, or a constant score), or it is perfect in all")
        n = sum(one.n for one in result.targets)
        if n < data.n_pairs:
            out.append(f"{result.method}: has {n} of {data.n_pairs} pairs; its correlations are on fewer pairs than others")
        values = {one.target: np.array([value for _, value, _ in one.points]) for one in result.targets if not one.undefined}
        out += _ties(result.method, values)
    return tuple(out)


def _ties(name: str, columns: Mapping[str, np.ndarray]) -> list[str]:
    shares = {target: tied_share(values[np.isfinite(values)]) for target, values in columns.items()}
    many = [f"{target} ({share:.0%})" for target, share in shares.items() if MANY_TIES < share < 1]
    return [f"{name}: more than {MANY_TIES:.0%} of the pairs of sources are tied in {', '.join(many)}"] if many else []


def _simpson(pools: Mapping[str, Pooled], within: Mapping[str, Within]) -> list[str]:
    """Methods whose pooled correlation says something else than the one within targets."""
    out = []
    for name, pool in pools.items():
        if pool.pearson is None or name not in within:
            continue
        inside = within[name].r
        if pool.pearson * inside < 0 or abs(pool.pearson) - abs(inside) > SIMPSON:
            what = "Simpson's paradox" if pool.pearson * inside < 0 else "Simpson warning: it exceeds the one within"
            out.append(f"{name}: pooled over targets r = {pool.pearson:+.2f}, within targets r = {inside:+.2f} ({what}): "
                       "the pooled value mixes in differences between targets; read the one within")
    return out


def _resolution(design: Design, found: Nulls) -> str:
    """What such a table can show at all."""
    nulls = [null for null, observed in zip(found.values, found.observed, strict=True) if np.isfinite(observed)]
    counts = sorted({int(n) for n in np.isfinite(design.rectangle.performance).sum(0) if n >= FEWEST})
    parts = []
    for n in dict.fromkeys((counts[0], counts[-1])):
        critical = critical_spearman(n)
        need = "no value reaches 5 %" if critical is None else f"|Spearman| must exceed {critical:.2f}"
        parts.append(f"with n = {n} sources {need}")
    alone = f"at p <= 0.05, in one target {'; '.join(parts)}"
    size, k = f"over {len(design.rectangle.targets)} targets and {len(design.rectangle.sources)} sources", len(nulls)
    each = _exceeded(nulls, 0.05, exact=found.exact)
    if not each:
        return f"{alone}; no mean {size} can reach 5 %"
    text = f"{alone}; the mean {size} must exceed {each}"
    if k < 2:
        return text
    largest = _exceeded(nulls, 0.05 / k, exact=found.exact)
    return f"{text}; adjusted for {k} measures (Holm, 0.05 / {k}) the largest of them must exceed {largest}" if largest else (
        f"{text}; none can reach it with {k} measures (Holm, 0.05 / {k})")


def _exceeded(nulls: Sequence[Floats], level: float, *, exact: bool) -> str:
    """The mean that must be exceeded for that p-value, over methods; "" where none can."""
    defined = [size for null in nulls if (size := critical_size(null, level=level, exact=exact)) is not None]
    if not defined:
        return ""
    low, high = min(defined), max(defined)
    return f"about {low:.2f}" + (f" to {high:.2f}, by method" if high - low >= 0.01 else "")
