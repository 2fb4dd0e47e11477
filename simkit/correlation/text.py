"""A Correlation for the terminal and for a notebook cell."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape

from simkit.correlation.results import Correlation, MethodResult

__all__ = ["correlation_html", "correlation_text"]

HEAD = ("method", "targets>0", "mean Spearman", "95 % interval", "p", "Holm", "regret", "vs static")
NONE = "-"


def correlation_text(found: Correlation, width: int = 100) -> str:
    """The tables of a Correlation in plain text, wrapped to ``width`` columns."""
    width = max(40, width)
    lines = [_wrapped(_title(found), width), ""]
    lines += _table(HEAD, [_cells(result) for result in found.methods] + [_cells(result, star="*") for result in found.baselines], width)
    lines.append(_wrapped("* baseline: " + _baselines(found), width))
    versus = ", ".join(f"{_plain(one.method)} [{one.versus_static_interval[0]:+.2f}, {one.versus_static_interval[1]:+.2f}]"
                       for one in found.methods if one.versus_static_interval is not None)
    lines += [_wrapped(f"vs static, 95 % interval: {versus}", width)] if versus else []
    lines += ["", _wrapped("Spearman per target, n sources (* p <= 0.05, not adjusted):", width)]
    lines += _per_target(found, width)
    if found.within:
        each = (f"{_plain(name)} {one.r:+.2f} ({one.n} pairs{_with_self(found, name)})" for name, one in found.within.items())
        lines.append(_wrapped(f"within-target r of the raw values: {', '.join(each)}", width))
    for name, pool in found.pooled.items():
        value = "undefined" if pool.pearson is None else f"r = {pool.pearson:+.4f}, p = {pool.p_value:.4f}"
        of = f"{pool.n} pairs, self pairs {'in' if pool.includes_self else 'left out'}"
        lines.append(_wrapped(f"pooled r of the raw values, {_plain(name)}: {value} ({of})", width))
    lines += [_wrapped(f"{what}: " + ", ".join(f"{_plain(target)} {value:.2f}" for target, value in values.items()), width) for what, values in (
        ("agreement of one replicate of the performance with the others", found.noise_ceiling),
        ("ceiling of Spearman with the mean performance (sqrt of its reliability)", found.ceiling_of_mean)) if values]
    lines.append(_wrapped(f"resolution: {found.resolution}", width))
    if found.with_self is not None:
        values = ", ".join(f"{_plain(result.method)} {_signed(result.mean_spearman)}" for result in found.with_self.methods)
        lines.append(_wrapped(f"mean Spearman with self pairs: {values}", width))
    lines += ["", _wrapped(f"Reading: {_reading(found)}", width)]
    lines += [_wrapped(f"warning: {_plain(warning)}", width) for warning in found.warnings]
    lines += [_wrapped(f"note: {_plain(note)}", width) for note in found.notes]
    return "\n".join(lines)


def _with_self(found: Correlation, method: str) -> str:
    if found.with_self is None or method not in found.with_self.within:
        return ""
    return f", with self pairs {found.with_self.within[method].r:+.2f}"


def correlation_html(found: Correlation) -> str:
    """The main table of a Correlation as an HTML fragment; every name is escaped."""
    rows = [_cells(result) for result in found.methods] + [_cells(result, star="*") for result in found.baselines]
    head = "".join(f"<th>{escape(name)}</th>" for name in HEAD)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    items = "".join(f"<li>{escape(line)}</li>" for line in (_reading(found), found.resolution, *found.warnings, *found.notes))
    return f"<p>{escape(_title(found))}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><ul>{items}</ul>"


def _title(found: Correlation) -> str:
    metric = "" if found.metric == "performance" else f"performance: {_plain(found.metric)}; "
    how = "all orders of the sources" if found.joint_exact else f"{found.permutations} permutations of the sources"
    return (f"{found.n_pairs} pairs without self pairs, {found.n_sources} sources, {found.n_targets} targets; "
            f"{metric}{how}; {found.bootstraps} bootstraps of sources and targets; seed {found.seed}")


def _cells(result: MethodResult, star: str = "") -> list[str]:
    if result.mean_spearman is None:
        return [_plain(result.method) + star, NONE, "undefined", *[NONE] * 5]
    interval = NONE if result.interval is None else f"[{result.interval[0]:+.2f}, {result.interval[1]:+.2f}]"
    positive = NONE if result.method == "random" and star else f"{result.positive_targets}/{len(result.targets)}"
    return [_plain(result.method) + star, positive, _signed(result.mean_spearman), interval, _p(result.p_value), _p(result.p_holm),
            NONE if result.regret is None else f"{result.regret:.3f}", _signed(result.versus_static)]


def _baselines(found: Correlation) -> str:
    words = {"static": "mean rank in the other targets", "source-size": "number of images of the source", "random": "expected values of a random source"}
    return ", ".join(f"{one.method} = {words[one.method]}" for one in found.baselines)


def _signed(value: float | None) -> str:
    return NONE if value is None else f"{value:+.2f}"


def _p(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _reading(found: Correlation) -> str:
    tested = [result for result in found.methods if result.p_holm is not None]
    seen = [result for result in tested if (result.p_holm or 0.0) <= 0.05]
    size = f"{found.n_sources} sources and {found.n_targets} targets"
    if not tested:
        return f"no method has a defined correlation with {size}."
    if not seen:
        return f"no method is distinguishable from chance with {size}."
    each = ", ".join(f"{_plain(r.method)} (more similar sources transfer {'better' if (r.mean_spearman or 0.0) > 0 else 'WORSE'})" for r in seen)
    return f"distinguishable from chance with {size} (Holm-adjusted p <= 0.05): {each}."


def _per_target(found: Correlation, width: int) -> list[str]:
    """One block of columns per as many targets as fit."""
    results = [*((result, "") for result in found.methods), *((result, "*") for result in found.baselines if result.method != "random")]
    columns = [[f"{_plain(target)} ({max((one.n for result, _ in results for one in result.targets if one.target == target), default=0)})",
                *(_one(result, target) for result, _ in results)] for target in found.targets]
    names = ["", *(_plain(result.method) + star for result, star in results)]
    lines: list[str] = []
    block: list[list[str]] = []
    for column in columns:
        if block and sum(2 + max(map(len, cells)) for cells in (names, *block, column)) > width:
            lines += _aligned([names, *block])
            block = []
        block.append(column)
    return lines + _aligned([names, *block])


def _one(result: MethodResult, target: str) -> str:
    one = next(one for one in result.targets if one.target == target)
    return "undefined" if one.spearman is None else f"{one.spearman:+.2f}{'*' if one.p_value is not None and one.p_value <= 0.05 else ' '}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Aligned rows; where they are wider than the terminal, a block of "name: value" lines per row."""
    lines = _aligned([[head[i], *(row[i] for row in rows)] for i in range(len(head))])
    if max(map(len, lines)) <= width:
        return lines
    return [_wrapped(f"{row[0]}: " + ", ".join(f"{name} {cell}" for name, cell in zip(head[1:], row[1:], strict=True) if cell != NONE), width) for row in rows]


def _aligned(columns: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns: the first to the left, numbers to the right."""
    sizes = [max(map(len, cells)) for cells in columns]
    return ["  ".join(cells[row].ljust(size) if i == 0 else cells[row].rjust(size) for i, (cells, size) in enumerate(zip(columns, sizes, strict=True))).rstrip()
            for row in range(len(columns[0]))]


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False))


def _plain(name: str) -> str:
    """A name without characters that would move the cursor of a terminal."""
    return "".join(character if character.isprintable() else "?" for character in name)
