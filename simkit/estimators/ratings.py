"""Distances judged by people, read from a table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from simkit.dataset import DatasetCard
from simkit.errors import DataError, Problems, nearest
from simkit.estimators.base import CardEstimator, Known, Score
from simkit.estimators.intuitive import SEED_STUDY
from simkit.recipe import digest_file
from simkit.registry import option
from simkit.tables import RawTable, csv_text, read_table

if TYPE_CHECKING:
    from simkit.estimators.examples import Examples

__all__ = ["Ratings"]


@dataclass(frozen=True)
class _Judged:
    """The table: the digest of the file's content, and the value of each (source, target)."""

    content: str
    values: dict[tuple[str, str], float]

    @property
    def sources(self) -> list[str]:
        return sorted({source for source, _ in self.values})

    @property
    def targets(self) -> list[str]:
        return sorted({target for _, target in self.values})


@dataclass(frozen=True)
class Ratings(CardEstimator):
    """What people judged: the value that a table gives for the source-target pair, unchanged.

    One row per pair, with the names of the data sets as in the study. Any delimited text (comma, semicolon, tab; UTF-8 with or without a
    byte-order mark). Distances or similarities, as ``kind_of_value`` says; it is never guessed, and no value is inverted or rescaled.
    Range, unit and the meaning of zero are those of the table (0 to 6 mismatches in the seed study). Not symmetric: the row of
    (source, target) counts, never that of (target, source). A pair without a row has no value.

    The table is read when the measure is made; its content, not its path, is part of the recipe.

    Raises:
        DataError: the file is missing or no table, a column is missing, a name is empty, a value is no finite number, or a pair
            appears twice.
    """

    path: Path = option(help="the table; a relative path starts at the current folder", recipe=False)
    source: str = option("source", "column of the source's name", recipe=False)
    target: str = option("target", "column of the target's name", recipe=False)
    value: str = option("distance", "column of the value")
    kind_of_value: Literal["distance", "similarity"] = option("distance", "whether a higher value means less similar, or more similar")

    name = "ratings"
    symmetric = False
    bounds = (None, None)
    unit = "as in the table"
    formula = "d(source, target) of the table, unchanged"
    hazards = (
        "Whether a high value is near or far is what `kind_of_value` says: it is never guessed, and wrong where the option is.",
        "Opinions of few people: average the raters beforehand, and state how far they agree.",
        "In the seed study the distances of experts did not predict transfer.",
    )
    citation = f"{SEED_STUDY}, experts_clean.csv of its repository (vcheplygina/cats-scans)"

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        _ = self._judged  # a wrong table is an error of the set-up: found before any work

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """as the option kind_of_value says: lower is better for a distance, higher for a similarity"""
        return self.kind_of_value == "similarity"

    @cached_property
    def _judged(self) -> _Judged:
        pairs = self._pairs(read_table(self.path))  # first: it says in words what is wrong with the file
        return _Judged(digest_file(self.path), pairs)

    def _pairs(self, table: RawTable) -> dict[tuple[str, str], float]:
        table.require(self.source, self.target, self.value)
        problems, lines, pairs = Problems(), dict[tuple[str, str], int](), dict[tuple[str, str], float]()
        sources, targets = ([cell.strip() for cell in table.column(column)] for column in (self.source, self.target))
        for row, (key, value) in enumerate(zip(zip(sources, targets, strict=True), table.numbers(self.value), strict=True)):
            for name, column in zip(key, (self.source, self.target), strict=True):
                if not name:
                    problems.add("SK203", table.where(row, column), "the cell is empty", "write the name of the data set")
            if key in lines:
                message = f"source '{key[0]}' and target '{key[1]}' appear twice (first in line {lines[key]})"
                problems.add("SK204", f"{table.path}:{table.lines[row]}", message, "keep one row per pair, or average the raters beforehand")
            lines.setdefault(key, table.lines[row])
            pairs[key] = value
        problems.raise_if_any(DataError)
        return pairs

    def recipe(self) -> dict[str, Any]:
        """The options without the path, and the digest of the file's content."""
        return super().recipe() | {"content": self._judged.content}

    def missing(self, known: Known, role: Literal["source", "target"]) -> str:
        names = self._judged.sources if role == "source" else self._judged.targets
        if known.name in names:
            return ""
        return f"{self.name} has no row whose {role} is '{known.name}'{nearest(known.name, names)}; {self.path} has the {role}s {', '.join(names)}"

    def compare(self, source: DatasetCard, target: DatasetCard, rng: np.random.Generator) -> Score:
        value = self._judged.values.get((source.name, target.name))
        if value is None:
            known = [name for name, other in self._judged.values if other == target.name]
            others = f"rows of target '{target.name}' have the sources {', '.join(known)}" if known else f"no row has the target '{target.name}'"
            message = f"no row has source '{source.name}'{nearest(source.name, known)} and target '{target.name}'; {others}"
            raise DataError("SK209", str(self.path), message, "add the row, or leave the pair out")
        return Score(value, detail={"content": self._judged.content})

    @classmethod
    def examples(cls, folder: Path) -> Examples:
        """Three data sets and a table that judges all pairs of them, for the contract check."""
        from simkit.estimators.examples import example_cards

        places = {"target": 0.0, "near": 1.0, "far": 5.0}
        rows = [(a, b, abs(places[a] - places[b]) + (0.5 if a > b else 0.0)) for a in places for b in places]
        path = folder / "ratings.csv"
        path.write_text(csv_text(("source", "target", "distance"), rows), encoding="utf-8")
        return example_cards(options={"path": path})
