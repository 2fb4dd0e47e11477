"""A Recommendation for the terminal and for a notebook cell: the answer first, then the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from simkit.correlation.combination import WAYS
from simkit.correlation.lines import LONGEST, NONE, short, signed, table, wrapped
from simkit.correlation.predictive import DISTINGUISHED
from simkit.correlation.recommendation import Candidate, Recommendation, Strategy
from simkit.tables import counted

__all__ = ["answer", "recommendation_html", "recommendation_text"]

HEAD = ("place", "source", "predicted", "expected place", "P(best)", "P(top 3)", "first better", "static list")
EVIDENCE = ("taken", "regret", "mean Spearman", "targets", "difference", "95 % interval")
MEASURES = ("measure", "mean Spearman", "targets>0", "weight")

NAMED = 5
"""Sources that a sentence names."""

SHORTEST = 12
"""Characters to which names are shortened at most, for a table to fit."""

TAKEN = 0.5
"""Probability of being best from which a source is recommended that others are not told apart from."""

NOTHING = 0.005
"""Reliability below which predictions were worth nothing: it is printed as 0.00."""

FEW_DIFFERENCES = 10
"""Past targets below which the interval of a difference in regret is indicative: its coverage is .71 to .78 with 3 to 5, .84 with 10."""


def answer(found: Recommendation) -> str:
    """Which source to take, what cannot be told apart from it, and how the static list did; recommends none where none stands out."""
    if found.candidates[0].probability_best is None:
        return (f"{found.target}: no source can be recommended: with {counted(len(found.targets), 'past target')} nothing is known about how well the "
                f"measures predict transfer; by their rank average, {_first(found)}.")
    static = next((one for one in found.strategies if one.name == "static"), None)
    against = "" if static is None else f"; on {counted(static.targets, 'past target')} {_against(static, found)}"
    return f"{found.target}: {_lead(found)}{against}."


def _lead(found: Recommendation) -> str:
    """The source to take, or that none stands out."""
    if found.reliability is not None and found.reliability < NOTHING:
        return (f"no source stands out: the predictions were worth nothing on {counted(len(found.targets), 'past target')}, and the order below is no better "
                "than chance")
    others = [one for one in found.candidates if one.place > 1]
    tied, apart = ([one.source for one in others if one.tied is which] for which in (True, False))
    first = found.candidates[0]
    if not apart and not _taken(found):
        rest = "" if not tied else f", not distinguishable from {f'any of the {len(tied)} others' if len(tied) > 1 else tied[0]}"
        return f"no source stands out; {_first(found)}{rest}"
    if not _taken(found):
        told = f"{'only ' if len(apart) < len(tied) else ''}{_some(apart)} {_are(apart)} told apart"
        return f"{_first(found)}, not distinguishable from {len(tied)} of {len(others)} others ({_some(tied)}); {told}"
    rest = f"not distinguishable from {_some(tied)}" if tied else f"told apart from {'all others' if len(apart) > 1 else apart[0]}"
    return f"take {first.source} (probability of being best {_share(first.probability_best)}), {rest}"


def _taken(found: Recommendation) -> bool:
    """Whether the first is recommended: no other is tied with it, or it is the best with a probability of a half, and of twice that of chance.

    With 2 past targets, which chose the way themselves, that probability is not enough.
    """
    first, *others = found.candidates
    if others[0].place == 1:
        return False
    likely = round(first.probability_best or 0.0, 2) >= max(TAKEN, 2 / len(found.candidates)) and len(found.targets) > 2
    return likely or not any(one.tied for one in others)


def _first(found: Recommendation) -> str:
    """The first of the order, or those that share its place."""
    top = [one for one in found.candidates if one.place == 1]
    chance = "" if top[0].probability_best is None else f" (probability of being best {', '.join(_share(one.probability_best) for one in top[:NAMED])})"
    if len(top) == 1:
        return f"first is {top[0].source}{chance}"
    return f"{_some([one.source for one in top])} share the first place{chance}"


def verdict(found: Recommendation) -> str:
    """What taking a random source, or always the same, lost on past targets, against the first source of this ranking."""
    if len(found.targets) < 2:
        return ""
    parts = [_against(one, found) for one in found.strategies if one.name not in ("own", "static") and one.regret is not None]
    how = "each past target was left out of all that was learned" if len(found.targets) > 2 else "the way was chosen by these same past targets"
    how += ", and the other two chose between static list and rank average only" if len(found.targets) == 3 else ""
    return f"{'; '.join(parts)} ({how})." if parts else ""


def _against(one: Strategy, found: Recommendation) -> str:
    """What one way to take a source lost on past targets, against this ranking."""
    here = _here(one, found)
    name = f"{_named(one)}{_on(one, found)}{here}"
    if one.regret is None or one.difference is None:
        return f"nothing is known about {name}"
    if one.same:
        return f"this ranking took the same sources as {name}"
    name, own = f"{name}{',' if here else ''}", abs(round(one.regret + one.difference, 12))
    gap = round(one.regret, 3) - round(own, 3)  # of what is printed
    less = "less than" if gap < 0 else "more than" if gap > 0 else "as much as"
    unit = next((word for key, word in (("auc", "AUC"), ("accuracy", "accuracy")) if key in found.metric.casefold()), "of the performance")
    return f"{name} lost {less} this ranking ({one.regret:.3f} against {own:.3f} {unit}): {_apart(one)}"


def _here(one: Strategy, found: Recommendation) -> str:
    """What the static list takes for the new target."""
    top = [each.source for each in found.candidates if each.static_place == 1]
    if one.name != "static" or not top:
        return ""
    return f", which takes {top[0]} too" if top == [found.candidates[0].source] else f", which would take {_some(top, 'or')}"


def _apart(one: Strategy) -> str:
    if one.distinguishable is None:
        return "too few targets to tell the two apart" if one.targets < 3 else "the same difference on every target"
    return "the two are told apart" if one.distinguishable else "the two could not be told apart"


def recommendation_text(found: Recommendation, width: int = 100) -> str:
    """The whole Recommendation in plain text, wrapped to ``width`` columns."""
    width = max(40, width)
    lines = [wrapped(found.answer, width)]
    if said := verdict(found):
        lines.append(wrapped(f"evidence: {said}", width))
    lines += ["", *_table(*_order(found), width, 1), *([wrapped(_legend(found), width)] if _legend(found) else [])]
    if len(found.targets) > 1:
        lines += ["", *_table(EVIDENCE, [_strategy_cells(one) for one in found.strategies], width, 0), wrapped(_regret(found), width)]
    lines += ["", wrapped(_how(found), width)]
    used = [one for one in found.measures if not one.left_out]
    if found.targets:
        rows = [[one.method, signed(one.spearman), f"{one.positive}/{one.targets}", signed(one.weight)] for one in used]
        lines += ["", *_table(MEASURES, rows, width, 0)]
    lines += ["", wrapped(_size(found), width)]
    lines += [wrapped(f"warning: {warning}", width) for warning in found.warnings]
    lines += [wrapped(f"note: {note}", width) for note in found.notes]
    return "\n".join(lines)


def recommendation_html(found: Recommendation) -> str:
    """Answer and tables as an HTML fragment; every name is escaped."""
    tables: list[tuple[Sequence[str], list[list[str]], str]] = [(*_order(found), _legend(found))]
    if len(found.targets) > 1:
        tables.append((EVIDENCE, [_strategy_cells(one) for one in found.strategies], _regret(found)))
    page = f"<p><b>{escape(found.answer)}</b></p>"
    for head, rows, legend in tables:
        cells = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        page += f"<table><thead><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr></thead><tbody>{cells}</tbody></table>"
        page += f"<p>{escape(legend)}</p>" if legend else ""
    items = "".join(f"<li>{escape(line)}</li>" for line in (verdict(found), _how(found), *found.warnings, *found.notes) if line)
    return f"{page}<ul>{items}</ul>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int, name: int) -> list[str]:
    """The table, with the names in one column shortened as far as it takes to fit, where they stay different."""
    others = sum(2 + max(len(row[i]) for row in (head, *rows)) for i in range(len(head)) if i != name)
    most = min(LONGEST, width - others) if width - others >= SHORTEST else LONGEST
    names = [short(row[name], most) for row in rows]
    if len(set(names)) < len(names):
        names = [row[name] for row in rows]
    shown = [[*row[:name], one, *row[name + 1 :]] for row, one in zip(rows, names, strict=True)]
    return table(head, shown, width, left=(name,))


def _order(found: Recommendation) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the candidates, without columns of which nothing is known."""
    rows = [_cells(one, found) for one in found.candidates]
    kept = [i for i in range(len(HEAD)) if any(row[i] != NONE for row in rows)]
    return [HEAD[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _cells(one: Candidate, found: Recommendation) -> list[str]:
    shared = "=" if sum(other.place == one.place for other in found.candidates) > 1 else ""
    interval = NONE if one.place_interval is None else f"{one.expected_place:.1f} [{one.place_interval[0]}, {one.place_interval[1]}]"
    static = NONE if one.static_place is None else str(one.static_place) if one.past_targets else "never tried"
    return [f"{one.place}{shared}", one.source, NONE if one.predicted is None else f"{one.predicted:.2f}", interval,
            _share(one.probability_best), _share(one.probability_top3), _share(one.probability_worse), static]


def _legend(found: Recommendation) -> str:
    if found.candidates[0].probability_best is None:
        return ""
    predicted = "" if found.reliability is None else "predicted: relative rank, 1 best, 0.50 nothing known; "
    return (f"{predicted}expected place: mean [95 % interval] of {found.bootstraps} draws of past sources and targets; first better: share of draws in which "
            f"the first is better than it, told apart from {DISTINGUISHED:.2f} on; static list: place by the mean over past targets. All this is for a target "
            "that is like the past ones: that it is unlike them would show in no past target")


def _strategy_cells(one: Strategy) -> list[str]:
    gap = NONE if one.difference is None else f"{one.difference:+.3f}"
    interval = NONE if one.interval is None else f"[{one.interval[0]:+.3f}, {one.interval[1]:+.3f}]"
    return [_named(one), NONE if one.regret is None else f"{one.regret:.3f}", signed(one.spearman), str(one.targets), gap,
            "took the same sources" if one.same else interval]


def _regret(found: Recommendation) -> str:
    """What the columns of the evidence mean."""
    few = "" if len(found.targets) >= FEW_DIFFERENCES else (
        f"; with fewer than {FEW_DIFFERENCES} past targets its interval is indicative, and too narrow where few of them differ")
    return ("regret: performance lost against the best measured source, mean over past targets; difference: regret of this ranking less that of the row, "
            f"negative where this ranking lost less{few}")


def _named(one: Strategy) -> str:
    return {"own": "this ranking", "static": "the static list", "random": "a random source"}.get(one.name, one.name)


def _on(one: Strategy, found: Recommendation) -> str:
    return "" if one.targets == len(found.targets) else f" (on the {counted(one.targets, 'target')} where it was measured)"


def _how(found: Recommendation) -> str:
    words = f"ordered by: {WAYS[found.way]}"
    if found.way == "single":
        words += f" ({next(iter(found.coefficients))})"
    if not found.ways:
        return words
    if len(found.targets) < 3:
        words += ", of static list and rank average the better on these 2 past targets"
    else:
        words += ", the simplest within one standard error of the best"
    each = ", ".join(f"{WAYS[way]} {value:+.2f}" for way, value in found.ways.items())
    words += f"; mean Spearman on past targets left out: {each}"
    if found.alpha is not None:
        words += f"; penalty {found.alpha:.3g}, coefficient of the static list {found.coefficients.get('static list', 0.0):+.2f}" if (
            "static list" in found.coefficients) else f"; penalty {found.alpha:.3g}"
    if found.reliability is not None:
        return f"{words}; reliability of the predictions {found.reliability:.2f} (0 nothing, 1 full)"
    return f"{words}; reliability of the predictions: not estimable with {counted(len(found.targets), 'past target')}, so that all places are equally likely"


def _size(found: Recommendation) -> str:
    past = f"{counted(len(found.targets), 'past target')}, {counted(len(found.sources), 'past source')}"
    metric = f"; performance: {found.metric}" if found.metric else ""
    return f"{counted(len(found.candidates), 'candidate')}; {past}{metric}; {found.bootstraps} draws; seed {found.seed}"


def _are(names: Sequence[str]) -> str:
    return "are" if len(names) > 1 else "is"


def _some(names: Sequence[str], last: str = "and") -> str:
    """The names, or the first few and how many more."""
    if len(names) > NAMED:
        return f"{', '.join(names[:NAMED])} {last} {len(names) - NAMED} more"
    return f" {last} ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def _share(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"
