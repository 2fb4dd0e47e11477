"""A Correlation for the terminal and for a notebook cell."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from html import escape

from simkit.correlation.lines import NONE, plain, short, signed, table, united, wrapped
from simkit.correlation.power import power_at, power_text
from simkit.correlation.results import Correlation, Interval, MethodResult, Range, TargetResult

__all__ = ["correlation_html", "correlation_text"]

NAMES = {"spearman": "Spearman", "kendall": "Kendall", "weighted-tau": "weighted tau"}
MOST_METHODS, MOST_LISTED, MOST_LINES, MOST_DETAILS = 40, 12, 30, 12
"""Rows of the main table, methods in a list within a line, warnings and notes, and rows of the details that are printed unasked."""

BASELINES = {"static": "mean rank in the other targets", "source-size": "number of images of the source", "random": "expected values of a random source"}

LEGEND = (">0: targets with a positive Spearman; CI: {units} and targets resampled together, for other sources and targets; p: of no association in any of "
          "these targets, {units} permuted jointly in all of them (of static: performances permuted within targets); Holm, max-T: p adjusted for the "
          "number of methods (max-T decides); regret: performance lost by taking the first source, mean over targets")


def correlation_text(found: Correlation, width: int = 100, *, details: bool | None = None) -> str:
    """The tables of a Correlation in plain text, wrapped to ``width`` columns."""
    width = max(40, width)
    lines = [wrapped(_reading(found), width), "", wrapped(_title(found), width), ""]
    shown = found.methods[:MOST_METHODS]
    rows = [_cells(result) for result in shown] + [_cells(result, star="*") for result in found.baselines]
    lines += _main_table(found, rows, width)
    if len(shown) < len(found.methods):
        lines.append(wrapped(f"... {len(found.methods) - len(shown)} more methods (--json and --out have all)", width))
    lines.append(wrapped("* baseline: " + "; ".join(_baseline(one) for one in found.baselines), width))
    lines.append(wrapped(_legend(found), width))
    lines += [wrapped(line, width) for line in _differences(found)]
    lines += ["", *_stability(found, width)]
    lines += ["", wrapped("Spearman per target, n sources (* p <= 0.05, not adjusted):", width), *_per_target(found, width)]
    lines += _details(found, width, details)
    lines += ["", *(wrapped(line, width) for line in _linear(found)), *(wrapped(line, width) for line in _replicates(found))]
    lines.append(wrapped(f"resolution: {found.resolution}", width))
    lines += [wrapped(line, width) for line in _power(found)]
    lines += _with_self(found, width)
    names = [one.method for one in found.methods]
    lines += ["", *_capped("warning", found.warnings, names, width), *_capped("note", found.notes, names, width)]
    return "\n".join(lines)


def correlation_html(found: Correlation) -> str:
    """The main table of a Correlation as an HTML fragment; every name is escaped."""
    rows = [_cells(result) for result in found.methods[:MOST_METHODS]] + [_cells(result, star="*") for result in found.baselines]
    head = "".join(f"<th>{escape(name)}</th>" for name in _head(found))
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    more = [f"{len(found.methods) - MOST_METHODS} more methods in .frame"] if len(found.methods) > MOST_METHODS else []
    baselines = "* baseline: " + "; ".join(_baseline(one) for one in found.baselines)
    lines = (_reading(found), *more, baselines, _legend(found), *_differences(found), *_linear(found), *_replicates(found), found.resolution, *_power(found),
             *found.warnings, *found.notes)
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<p>{escape(_title(found))}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><ul>{items}</ul>"


def _title(found: Correlation) -> str:
    own = len(found.self_pairs)
    total = f"{found.n_pairs + own} pairs" if own else f"{found.n_pairs} pairs"
    left = f"; {own} self pair{'s' if own > 1 else ''} left out" if own else ""
    metric = "" if found.metric == "performance" else f"; performance: {plain(found.metric)}"
    units = "groups of sources" if found.grouped else "sources"
    how = f"all {'permitted ' if found.grouped else ''}orders of the {units}" if found.joint_exact else f"{found.permutations} permutations of the {units}"
    logit = "; logit for Pearson's r" if found.logit else ""
    return (f"{total}, {found.n_sources} sources, {found.n_targets} target{'s' if found.n_targets > 1 else ''}{left}{metric}{logit}; {how}; "
            f"{found.bootstraps} bootstraps of sources and targets; seed {found.seed}")


def _head(found: Correlation) -> tuple[str, ...]:
    return ("method", ">0", f"mean {NAMES[found.statistic]}", "95 % CI", "p", "Holm", "max-T", "regret", "vs static")


def _main_table(found: Correlation, rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """The main table; on a narrow terminal with shorter heads, then without the columns that can be spared."""
    head = _head(found)
    narrow = [*head]
    narrow[2] = {"spearman": "mean rho", "kendall": "mean tau", "weighted-tau": "mean tau_w"}[found.statistic]
    narrow[-1] = "static"
    for names, spared in ((head, ()), (narrow, ()), (narrow, ("Holm",)), (narrow, ("Holm", ">0")), (narrow, ("Holm", ">0", "static"))):
        kept = [i for i, name in enumerate(names) if name not in spared]
        lines = table([names[i] for i in kept], [[row[i] for i in kept] for row in rows], width)
        if len(lines) == len(rows) + 1:
            missing = {"static": "vs static"}
            left = f"not shown for want of width: {', '.join(missing.get(name, name) for name in spared)} (--out, --json)"
            return [*lines, *([wrapped(left, width)] if spared else [])]
    return table(head, rows, width)


def _cells(result: MethodResult, star: str = "") -> list[str]:
    if result.mean is None:
        return [short(result.method) + star, NONE, "undefined", *[NONE] * 6]
    defined = sum(one.spearman is not None for one in result.targets)
    positive = NONE if result.method == "random" and star else f"{result.positive_targets}/{defined}"
    positive += f" of {len(result.targets)}" if defined < len(result.targets) and positive != NONE else ""
    return [short(result.method) + star, positive, signed(result.mean), _interval(result.interval), _p(result.p_value), _p(result.p_holm), _p(result.p_max),
            _three(result.regret), signed(result.versus_static)]


def _legend(found: Correlation) -> str:
    text = LEGEND.format(units="groups of sources" if found.grouped else "sources")
    if found.statistic != "spearman":
        text = text.replace("(of static: performances permuted within targets)", "(of static: only with Spearman)")
    return text if found.n_targets > 1 else text.replace(" and targets resampled together, for other sources and targets", " resampled, for this target")


def _baseline(one: MethodResult) -> str:
    return f"{one.method} = {BASELINES[one.method]}" + (f" (undefined: {one.undefined.split('; ')[0]})" if one.undefined else "")


def _differences(found: Correlation) -> list[str]:
    """Intervals that do not fit the table: of differences, and of the mean for these sources alone."""
    versus = [f"{plain(one.method)} {signed(one.versus_static)} {_interval(one.versus_static_interval)}"
              for one in (*found.methods, *found.baselines) if one.versus_static_interval is not None]
    common = [f"{plain(one.method)} {signed(one.versus_static_common)} {_interval(one.versus_static_common_interval)}"
              for one in (*found.methods, *found.baselines) if one.versus_static_common is not None]
    best = [f"{plain(one.method)} {signed(one.versus_best)} {_interval(one.versus_best_interval)}"
            for one in found.methods[1:] if one.versus_best_interval is not None]
    fixed = [f"{plain(one.method)} {_interval(one.fixed_sources_interval)}" for one in found.methods if one.fixed_sources_interval is not None]
    return [f"{what}: {_listed(each)}" for what, each in (
        ("vs static, 95 % CI, wide, not adjusted for the number of methods", versus),
        ("vs static on the sources that the static list knows (those of two targets or more), 95 % CI", common),
        (f"vs {plain(found.methods[0].method)}, which was picked by these data for its highest mean, 95 % CI", best),
        ("these sources fixed, only targets resampled, 95 % CI, too narrow for few targets", fixed)) if each]


def _stability(found: Correlation, width: int) -> list[str]:
    """Ranges of the mean when one thing is left out, one row a method."""
    rows = []
    results = [one for one in found.methods[:MOST_METHODS] if one.mean is not None]
    grouped = any(one.stability.groups is not None for one in results)
    for one in results:
        s = one.stability
        influence = NONE if s.most_influential is None else (
            f"{s.most_influential.kind} {short(s.most_influential.name)} ({signed(s.most_influential.without)} without)")
        rows.append([short(one.method), _range(s.sources), *([_range(s.groups)] if grouped else []), _range(s.targets), influence])
    if not rows:
        return []
    head = ("method", "one source", *(["one group"] if grouped else []), "one target", "most influential")
    return [wrapped(f"Range of the mean {NAMES[found.statistic]} when one is left out:", width), *table(head, rows, width)]


def _details(found: Correlation, width: int, wanted: bool | None) -> list[str]:
    """Every coefficient of every method in every target."""
    results = [*((one, "") for one in found.methods), *((one, "*") for one in found.baselines if one.method != "random" and not one.undefined)]
    count = sum(len(one.targets) for one, _ in results)
    if wanted is False or (wanted is None and count > MOST_DETAILS):
        return [wrapped(f"all coefficients per target ({count} rows): --details, --out or --json", width)]
    first = "Within each target (p: exact permutation test up to 9 sources; tau_w: weighted Kendall's tau, hyperbolic, additive, mean of both orders):"
    second = ("Taking the first source (Rel@k: best performance among the first k over the best of all; regret: beside that expected of a random source "
              "and that of the static list's first):")
    rows = [(short(result.method) + star, one) for result, star in results for one in result.targets]
    return ["", wrapped(first, width), *_by_target(("n", "Spearman", "95 % CI", "p", "Kendall", "tau_w", "Pearson"), rows, _coefficients, width),
            "", wrapped(second, width), *_by_target(("chosen", "Rel@1", "Rel@3", "regret", "random", "static"), rows, _choice, width)]


def _by_target(
    head: tuple[str, ...], rows: Sequence[tuple[str, TargetResult]], cells: Callable[[TargetResult], list[str]], width: int,
) -> list[str]:
    """One table with a column of targets; where that is too wide, one a target under its name."""
    whole = table(("method", "target", *head), [[name, short(one.target), *cells(one)] for name, one in rows], width)
    if len(whole) == len(rows) + 1:
        return whole
    lines = []
    for target in dict.fromkeys(one.target for _, one in rows):
        lines += [wrapped(f"target {target}:", width), *table(("method", *head), [[name, *cells(one)] for name, one in rows if one.target == target], width)]
    return lines


def _coefficients(one: TargetResult) -> list[str]:
    if one.undefined:
        return [str(one.n), "undefined", *[NONE] * 5]
    return [str(one.n), signed(one.spearman), _interval(one.interval), _p(one.p_value), signed(one.kendall),
            signed(one.weighted_tau), signed(one.pearson)]


def _choice(one: TargetResult) -> list[str]:
    numbers = (one.relative_at_1, one.relative_at_3, one.regret, one.random_regret, one.static_regret)
    return [short(one.chosen_source) or NONE, *(_three(number) for number in numbers)]


def _linear(found: Correlation) -> list[str]:
    """Correlations of values instead of ranks: within targets, pooled, and the mixed model."""
    lines = []
    order = [one.method for one in found.methods]
    values = "value and logit(performance)" if found.logit else "value and performance"
    signs = "" if all(one.higher_is_better for one in found.methods) else "; of a distance, negative is as hoped"
    if found.within:
        each = [f"{plain(name)} {one.r:+.2f} ({one.n} pairs{_self_within(found, name)})" for name in order if (one := found.within.get(name))]
        lines.append(f"within-target r of {values}, as they stand{signs}: {_listed(each)}")
    pools = [found.pooled, {} if found.with_self is None else found.with_self.pooled]
    for name, pool in ((name, pools[i][name]) for name in order[:MOST_LISTED] for i in range(2) if name in pools[i]):
        p = "" if pool.p_value is None else "p < 0.0001" if pool.p_value < 0.00005 else f"p = {pool.p_value:.4f}"
        value = "undefined" if pool.pearson is None else f"r = {pool.pearson:+.4f}, {p}"
        of = f"{pool.n} pairs, self pairs {'in' if pool.includes_self else 'left out'}"
        lines.append(f"pooled r of {values} as they stand, {plain(name)}: {value} ({of})")
    each = []
    for name in [name for name in order if name in found.mixed]:
        model = found.mixed[name]
        if model.slope is None or model.p_value is None:
            each.append(f"{plain(name)}: {model.problem or 'no standard error'}")
            continue
        state = "converged" if model.converged else "NOT converged"
        state += ", source variance at its boundary 0" if model.boundary else ""
        each.append(f"{plain(name)}: slope {model.slope:+.2f} (se {model.standard_error:.2f}, p about {_p(model.p_value)}, normal approximation; "
                    f"source variance {model.source_variance:.2f}, residual {model.residual_variance:.2f}; {state})")
    if each:
        lines.append(f"mixed model z(performance) ~ z(score) + target + (1 | source), REML: {_listed(each, '; ')}")
    return lines


def _self_within(found: Correlation, method: str) -> str:
    if found.with_self is None or method not in found.with_self.within:
        return ""
    return f", with self pairs {found.with_self.within[method].r:+.2f}"


def _replicates(found: Correlation) -> list[str]:
    """What replicates of performances and scores say about their noise."""
    lines = [f"{what}: " + _listed(f"{plain(target)} {value:.2f}" for target, value in values.items()) for what, values in (
        ("noise ceiling, one replicate of the performance against the mean of the others", found.noise_ceiling),
        ("ceiling of Spearman with the mean performance (sqrt of its reliability; noise that replicates share, such as training images and the "
         "pretrained network, is not in it)", found.ceiling_of_mean)) if values]
    name = NAMES[found.statistic]
    for what, key in (("performance", "performance_replicates"), ("score", "score_replicates")):
        each = [f"{plain(one.method)} {_range(getattr(one.stability, key))}" for one in found.methods if getattr(one.stability, key) is not None]
        lines += [f"mean {name} with one replicate of the {what} alone: {_listed(each)}"] if each else []
    each = [f"{plain(one.method)} {one.stability.score_reliability:.2f}" for one in found.methods if one.stability.score_reliability is not None]
    return lines + ([f"agreement of one replicate of the score with the others: {_listed(each)}"] if each else [])


def _power(found: Correlation) -> list[str]:
    """What a single method would have to be to be seen."""
    text = power_text(found.power)
    what = "chance of p <= 0.05, unadjusted, by the true mean Spearman of a method (about, simulated; half of the noise belongs to the source)"
    return [f"power: {what}: {text}"] if text else []


def _with_self(found: Correlation, width: int) -> list[str]:
    """The main figures with self pairs, where they were asked for."""
    if found.with_self is None or not found.self_pairs:
        return []
    rows = [_cells(one) for one in found.with_self.methods[:MOST_METHODS]] + [_cells(one, star="*") for one in found.with_self.baselines]
    head, kept = _head(found), (0, 1, 2, 3, 7, 8)
    why = "no p-values, because a data set is nearest to itself and mostly transfers best to itself, whatever the measure"
    return ["", wrapped(f"With the {len(found.self_pairs)} self pairs ({found.with_self.n_pairs} pairs; {why}):", width),
            *table([head[i] for i in kept], [[row[i] for i in kept] for row in rows], width)]


def _reading(found: Correlation) -> str:
    """The answer in one sentence or two. The max-T p-value decides, because it was chosen before the data were seen."""
    tested = [result for result in found.methods if result.p_max is not None]
    seen = [result for result in tested if (result.p_max or 0.0) <= 0.05]
    size = f"{found.n_sources} sources and {found.n_targets} target{'s' if found.n_targets > 1 else ''}"
    if not tested:
        return f"No method has a defined correlation with {size}."
    if not seen:
        power = power_at(found.power, 0.3)
        chance = "" if power is None else f" (power {power:.0%} for a true mean Spearman of 0.3)"
        return f"No method is distinguishable from chance with {size}{chance}."
    each = _listed(f"{plain(r.method)} (more similar sources transfer {'better' if (r.mean or 0.0) > 0 else 'WORSE'})" for r in seen)
    better = [r for r in seen if r.versus_static_interval is not None and r.versus_static_interval[0] > 0
              and (r.versus_static_common is None or (r.versus_static_common_interval or (0.0, 0.0))[0] > 0)]
    static = ""
    if better:
        static = f" Better than the static list: {_listed(plain(r.method) for r in better)}."
    elif worse := [r for r in seen if _below_zero(r.versus_static_interval)
                   and (r.versus_static_common is None or _below_zero(r.versus_static_common_interval))]:
        static = f" Worse than the static list, which ignores the target: {_listed(plain(r.method) for r in worse)}."
    elif any(r.versus_static_interval is not None for r in seen):
        static = " None is distinguishable from the static list, which ignores the target (weak evidence that they are equal: the interval is wide)."
    return f"Distinguishable from chance with {size} (max-T p <= 0.05): {each}.{static}"


def _below_zero(interval: Interval | None) -> bool:
    return interval is not None and interval[1] < 0


def _per_target(found: Correlation, width: int) -> list[str]:
    """One block of columns per as many targets as fit."""
    results = [*((result, "") for result in found.methods[:MOST_METHODS]),
               *((result, "*") for result in found.baselines if result.method != "random" and not result.undefined)]
    columns = [[f"{short(target)} ({max((result.targets[t].n for result, _ in results), default=0)})", *(_one(result.targets[t]) for result, _ in results)]
               for t, target in enumerate(found.targets)]
    names = ["", *(short(result.method) + star for result, star in results)]
    lines: list[str] = []
    block: list[list[str]] = []
    for column in [*columns, []]:
        if block and (not column or sum(2 + max(map(len, cells)) for cells in (names, *block, column)) > width):
            rows = list(zip(names, *block, strict=True))
            lines += table(rows[0], rows[1:], max(width, sum(2 + max(map(len, cells)) for cells in (names, *block))))
            block = []
        block.append(column)
    return lines


def _one(one: TargetResult) -> str:
    return "undefined" if one.spearman is None else f"{one.spearman:+.2f}{'*' if one.p_value is not None and one.p_value <= 0.05 else ' '}"


def _capped(word: str, lines: Sequence[str], names: Collection[str], width: int) -> list[str]:
    """Lines with a word before them; what is said of several methods alike is said once."""
    said = [f"{_listed(plain(name) for name in who)}: {what}" if who else what for what, who in united(lines, names).items()]
    out = [wrapped(f"{word}: {line}", width) for line in said[:MOST_LINES]]
    return out + ([wrapped(f"{word}: ... and {len(said) - MOST_LINES} more (--json has all)", width)] if len(said) > MOST_LINES else [])


def _listed(items: Iterable[str], separator: str = ", ") -> str:
    items = list(items)
    return separator.join(items[:MOST_LISTED]) + (f"{separator}... and {len(items) - MOST_LISTED} more" if len(items) > MOST_LISTED else "")


def _interval(value: Interval | None) -> str:
    return NONE if value is None else f"[{value[0]:+.2f}, {value[1]:+.2f}]"


def _range(value: Range | None) -> str:
    return NONE if value is None else f"{value.low:+.2f} to {value.high:+.2f}"


def _three(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _p(value: float | None) -> str:
    if value is None or value < 0.0005:
        return NONE if value is None else "<.001"
    return f"{value:.3f}" if value < 0.0995 else f"{value:.2f}"
