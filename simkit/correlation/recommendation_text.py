"""A Recommendation for the terminal and for a notebook cell: the answer first, then the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from simkit.correlation.combination import WAYS
from simkit.correlation.lines import NONE, signed, table, wrapped
from simkit.correlation.recommendation import Candidate, Recommendation, Strategy

__all__ = ["answer", "recommendation_html", "recommendation_text"]

HEAD = ("place", "source", "predicted", "expected place", "P(best)", "P(top 3)", "static list", "")
EVIDENCE = ("taken", "regret", "mean Spearman", "targets", "own less it", "95 % interval")
MEASURES = ("measure", "mean Spearman", "targets>0", "weight")
TIED = "tied"


def answer(found: Recommendation) -> str:
    """Which source to take, and what cannot be told apart from it; recommends none where no other source can."""
    first, *others = found.candidates
    if first.probability_best is None:
        top = [one.source for one in found.candidates if one.place == 1]
        lead = f"{', '.join(top)} share the first place" if len(top) > 1 else f"{first.source} is first"
        return (f"{found.target}: no source can be recommended: with {_count(len(found.targets), 'past target')} nothing is known about how well the "
                f"measures predict transfer; by their rank average {lead}.")
    tied = [one.source for one in others if one.tied]
    chance = f"{first.source} (probability of being best {_share(first.probability_best)})"
    if len(tied) == len(others):
        return f"{found.target}: no source stands out; first is {chance}; {', '.join(tied)} {_are(tied)} not distinguishable from it{_static(found)}."
    clear = len(others) - len(tied)
    worse = f"the other {clear} are expected to be worse" if clear > 1 else f"{next(one.source for one in others if not one.tied)} is expected to be worse"
    same = f"{', '.join(tied)} {_are(tied)} not distinguishable from it, " if tied else ""
    return f"{found.target}: take {chance}; {same}{worse}{_static(found)}."


def verdict(found: Recommendation) -> str:
    """What taking the first source of this procedure was worth on past targets that it had not seen."""
    own = next((one for one in found.strategies if one.name == "own"), None)
    if own is None or own.regret is None:
        return ""
    unit = next((word for name, word in (("auc", "AUC"), ("accuracy", "accuracy")) if name in found.metric.casefold()), "of the performance")
    parts = [f"on {_count(own.targets, 'past target')} left out in turn, taking its first source lost {own.regret:.3f} {unit} against the best"]
    parts += [f"{_named(one)} lost {one.regret:.3f}{_on(one, own)}: {_apart(one)}" for one in found.strategies
              if one.name != "own" and one.regret is not None]
    return "; ".join(parts) + "."


def recommendation_text(found: Recommendation, width: int = 100) -> str:
    """The whole Recommendation in plain text, wrapped to ``width`` columns."""
    width = max(40, width)
    lines = [wrapped(found.answer, width)]
    if said := verdict(found):
        lines.append(wrapped(f"evidence: {said}", width))
    lines += ["", *table(HEAD, [_cells(one, found) for one in found.candidates], width, left=(1, 7)), *_legend(found, width)]
    if found.strategies:
        lines += ["", *table(EVIDENCE, [_strategy_cells(one) for one in found.strategies], width, left=(0,))]
    lines += ["", wrapped(_how(found), width)]
    used = [one for one in found.measures if not one.left_out]
    if found.targets:
        rows = [[one.method, signed(one.spearman), f"{one.positive}/{one.targets}", signed(one.weight)] for one in used]
        lines += ["", *table(MEASURES, rows, width, left=(0,))]
    lines += ["", wrapped(_size(found), width)]
    lines += [wrapped(f"warning: {warning}", width) for warning in found.warnings]
    lines += [wrapped(f"note: {note}", width) for note in found.notes]
    return "\n".join(lines)


def recommendation_html(found: Recommendation) -> str:
    """Answer and tables as an HTML fragment; every name is escaped."""
    tables: list[tuple[Sequence[str], list[list[str]]]] = [(HEAD, [_cells(one, found) for one in found.candidates])]
    if found.strategies:
        tables.append((EVIDENCE, [_strategy_cells(one) for one in found.strategies]))
    page = f"<p><b>{escape(found.answer)}</b></p>"
    for head, rows in tables:
        cells = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        page += f"<table><thead><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr></thead><tbody>{cells}</tbody></table>"
    items = "".join(f"<li>{escape(line)}</li>" for line in (verdict(found), _how(found), *found.warnings, *found.notes) if line)
    return f"{page}<ul>{items}</ul>"


def _cells(one: Candidate, found: Recommendation) -> list[str]:
    n = len(found.candidates)
    shared = "=" if sum(other.place == one.place for other in found.candidates) > 1 else ""
    interval = NONE if one.place_interval is None else f"{one.expected_place:.1f} [{one.place_interval[0]}, {one.place_interval[1]}] of {n}"
    static = NONE if one.static_place is None else f"{one.static_place}{'' if one.past_targets else ' (never tried)'}"
    mark = TIED if one.tied else ""
    return [f"{one.place}{shared}", one.source, NONE if one.predicted is None else f"{one.predicted:.2f}", interval,
            _share(one.probability_best), _share(one.probability_top3), static, mark]


def _legend(found: Recommendation, width: int) -> list[str]:
    if found.candidates[0].probability_best is None:
        return []
    text = ("predicted: relative rank, 1 best, 0.50 nothing known; expected place: mean [95 % interval] of "
            f"{found.bootstraps} draws of past sources and targets; tied: not distinguishable from the first, which is better in fewer than 95 % of them")
    return [wrapped(text, width)]


def _strategy_cells(one: Strategy) -> list[str]:
    gap = NONE if one.difference is None else f"{one.difference:+.3f}"
    interval = NONE if one.interval is None else f"[{one.interval[0]:+.3f}, {one.interval[1]:+.3f}]"
    return [_named(one), NONE if one.regret is None else f"{one.regret:.3f}", signed(one.spearman), str(one.targets), gap, interval]


def _named(one: Strategy) -> str:
    return {"own": "own", "static": "the static list", "random": "a random source"}.get(one.name, one.name)


def _on(one: Strategy, own: Strategy) -> str:
    return "" if one.targets == own.targets else f" (on the {_count(one.targets, 'target')} where it was measured)"


def _apart(one: Strategy) -> str:
    if one.distinguishable is None:
        return "not distinguishable with so few targets"
    if not one.distinguishable:
        return "not distinguishable from it"
    return "more than this procedure" if (one.difference or 0.0) < 0 else "LESS than this procedure"


def _how(found: Recommendation) -> str:
    words = f"ordered by: {WAYS[found.way]}"
    if found.way == "single":
        words += f" ({next(iter(found.coefficients))})"
    if not found.ways:
        return words
    if len(found.targets) < 3:
        words += " (too few past targets to choose)"
    else:
        words += ", the simplest within one standard error of the best"
    each = ", ".join(f"{WAYS[way]} {value:+.2f}" for way, value in found.ways.items())
    words += f"; mean Spearman on past targets left out: {each}"
    if found.alpha is not None:
        words += f"; penalty {found.alpha:.3g}, coefficient of the static list {found.coefficients.get('static list', 0.0):+.2f}" if (
            "static list" in found.coefficients) else f"; penalty {found.alpha:.3g}"
    if found.reliability is not None:
        words += f"; reliability of the predictions {found.reliability:.2f} (0 nothing, 1 full)"
    return words


def _size(found: Recommendation) -> str:
    past = f"{_count(len(found.targets), 'past target')}, {_count(len(found.sources), 'past source')}"
    metric = f"; performance: {found.metric}" if found.metric else ""
    return f"{_count(len(found.candidates), 'candidate')}; {past}{metric}; {found.bootstraps} draws; seed {found.seed}"


def _static(found: Recommendation) -> str:
    """What the static list would take, where that is another source."""
    top = [one.source for one in found.candidates if one.static_place == 1]
    return "" if found.candidates[0].source in top or not top else f"; the static list would take {' or '.join(top)}"


def _are(names: Sequence[str]) -> str:
    return "are" if len(names) > 1 else "is"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _share(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"
