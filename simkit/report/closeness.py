"""The answer where no transfer was measured: which source each measure puts first, and what it cannot tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simkit.report.cells import ScoreCell, method_infos, score_cells
from simkit.report.content import Content, MethodInfo

__all__ = ["AT_CHANCE", "AT_FLOOR", "REMEDY", "Closeness", "closeness", "closeness_answer"]

AT_FLOOR = "not distinguishable from the target"
"""The flag of a score that is no further from the target than a second sample of the target would be."""

AT_CHANCE = "not above what shuffled labels give"
"""The flag of a score of transferability that shuffled labels reach as well."""

REMEDY = ('To find out, give the study a table [finetune], or measured performances with transfer = "FILE" (for tables alone: `simkit report TABLE '
          '--performance FILE`).')


@dataclass(frozen=True)
class Closeness:
    """How one measure orders the sources of one target.

    Attributes:
        method: the measure.
        cells: its scores of the target's sources (never of the target itself), the most similar first.
    """

    method: MethodInfo
    cells: tuple[ScoreCell, ...]

    @property
    def first(self) -> tuple[str, ...]:
        """The most similar source; several of an equal value."""
        return tuple(cell.source for cell in self.cells if cell.value == self.cells[0].value)

    @property
    def constant(self) -> bool:
        """Whether the value is the same for every one of several sources."""
        return len(self.first) == len(self.cells) > 1

    @property
    def order(self) -> str:
        """``a = b, c``: the most similar first, equal ones joined."""
        groups: dict[float, list[str]] = {}
        for cell in self.cells:
            groups.setdefault(cell.value, []).append(cell.source)
        return ", ".join(" = ".join(group) for group in groups.values())

    @property
    def overlapping(self) -> tuple[str, ...]:
        """Sources behind the first whose 95 % interval overlaps with that of the first (of one of the first)."""
        ahead = [cell.interval for cell in self.cells if cell.source in self.first and cell.interval]
        return tuple(cell.source for cell in self.cells if cell.source not in self.first and cell.interval
                     and any(cell.interval[0] <= high and low <= cell.interval[1] for low, high in ahead))

    @property
    def at_floor(self) -> tuple[str, ...]:
        """Sources that cannot be told from a second sample of the target."""
        return tuple(cell.source for cell in self.cells if AT_FLOOR in cell.flags)

    @property
    def remark(self) -> str:
        """What must be said beside the order."""
        unsolved = [cell.source for cell in self.cells if not cell.converged]
        parts = ["a property of the source alone" if self.method.kind == "prior" else "", "the same for every source: no order" if self.constant else ""]
        if self.overlapping:
            parts.append(f"interval overlaps with that of the first: {', '.join(self.overlapping)}")
        elif not any(cell.interval for cell in self.cells):
            parts.append("no intervals")
        parts.append(f"{AT_FLOOR}: {', '.join(self.at_floor)}" if self.at_floor else "")
        chance = [cell.source for cell in self.cells if AT_CHANCE in cell.flags]
        parts.append(f"{AT_CHANCE}: {', '.join(chance)}" if chance else "")
        parts.append(f"solver did not converge: {', '.join(unsolved)}" if unsolved else "")
        return "; ".join(part for part in parts if part)


def closeness(content: Content, target: str) -> tuple[Closeness, ...]:
    """What every measure with a score for the target says about its sources, in the order of the measures."""
    cells = [cell for cell in score_cells(content).values() if cell.target == target and cell.source != target]
    out = []
    for info in method_infos(content):
        own = sorted((cell for cell in cells if cell.method == info.name), key=lambda cell: cell.rank)
        if own:
            out.append(Closeness(info, tuple(own)))
    return tuple(out)


def closeness_answer(content: Content, target: str) -> str:
    """One sentence or a few: that no transfer was measured, and the first source of every measure; "" when there is no score either."""
    found = closeness(content, target)
    if not found:
        return ""
    text = f"{target}: no transfer to it was measured, so similarity is all there is, and that alone does not say which source transfers best."
    judged = [one for one in found if one.method.kind != "prior" and not one.constant]
    by_first: dict[tuple[str, ...], list[str]] = {}
    for one in judged:
        if len(one.first) == 1:
            overlap = f" (its interval overlaps with that of {_joined(one.overlapping)})" if one.overlapping else ""
            by_first.setdefault(one.first, []).append(one.method.name + overlap)
    if by_first:
        text += f" Most similar: {'; '.join(f'{first[0]} by {_joined(names)}' for first, names in by_first.items())}."
    several, constant = [one.method.name for one in judged if len(one.first) > 1], [one.method.name for one in found if one.constant]
    text += f" Several sources are equally first by {_joined(several)}." if several else ""
    text += f" The same for every source: {_joined(constant)}." if constant else ""
    floor = [f"{source} ({', '.join(names)})" for source, names in _at_floor(found).items()]
    return text + (f" Not distinguishable from {target} itself: {_joined(floor)}." if floor else "")


def _at_floor(found: Sequence[Closeness]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for one in found:
        for source in one.at_floor:
            out.setdefault(source, []).append(one.method.name)
    return out


def _joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
