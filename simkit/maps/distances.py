"""Distances between data sets out of a score table: which scores are distances, and what is done to them before they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simkit.errors import DataError, NotEnoughData, SimkitError, UsageError, nearest
from simkit.maps.content import DatasetMap
from simkit.maps.majorisation import scaling
from simkit.registry import ESTIMATORS
from simkit.tables import ScoreTable

__all__ = ["Distances", "distances_of", "map_of", "measures_of"]

MOST_NAMED = 4
"""Names that a message lists."""

ALL_PAIRS = "score every data set against every other: `simkit distance A B C --target A --target B --target C`"


@dataclass(frozen=True)
class Transform:
    """How a score becomes a distance in the plane: a function, in words, and the unit of what comes out."""

    apply: Callable[[float], float]
    said: str
    unit: str


@dataclass(frozen=True, eq=False)
class Distances:
    """Distances between data sets by one measure.

    Attributes:
        measure: its name.
        names: of the data sets, sources and targets.
        targets: whether each is a target.
        values: float64 (k, k), symmetric, 0 on the diagonal; NaN where no score is known.
        floors: of each target, transformed as the values; None without.
        unit: of the values.
        remarks: what was done.
    """

    measure: str
    names: tuple[str, ...]
    targets: tuple[bool, ...]
    values: np.ndarray
    floors: tuple[float | None, ...]
    unit: str
    remarks: tuple[str, ...]


def measures_of(scores: ScoreTable) -> tuple[str, ...]:
    """The measures of a table, in its order."""
    return tuple(dict.fromkeys(str(row["method"]) for row in scores.records))


def map_of(scores: ScoreTable, measure: str, *, allow_missing: bool = False, seed: int = 0) -> DatasetMap:
    """The map of data sets by one measure: distances (:func:`distances_of`), scaled into the plane (:func:`~simkit.maps.majorisation.scaling`)."""
    found = distances_of(scores, measure, allow_missing=allow_missing)
    placed = scaling(found.values, seed=seed)
    return DatasetMap(measure, found.names, found.targets, placed.points, found.floors, found.unit, placed.stress, tuple(float(one) for one in placed.each),
                      found.values, found.remarks)


def distances_of(scores: ScoreTable, measure: str, *, allow_missing: bool = False) -> Distances:
    """Symmetric distances between all data sets that a measure scored.

    Squared measures (OTDD, FD², W2², MMD² and the energy distance, a squared MMD) are drawn by their root: it is the root that a plane can hold. Negative
    values of unbiased estimates count as 0. An AUC of a domain classifier becomes 2 AUC - 1 (0 for one below 0.5), a similarity s that lies within 0..1
    becomes 1 - s; other similarities, measures of transferability and priors are no distances and are refused. Where both directions of a pair are scored,
    the mean is drawn.

    Args:
        scores: of source-target pairs.
        measure: name of the measure.
        allow_missing: draw data sets that have fewer than two known distances, whose place is then not determined.

    Raises:
        UsageError: a measure that the table does not have (SK101), or that is no distance (SK108).
        NotEnoughData: fewer than two data sets, pairs that do not connect all of them, or too few pairs (SK501).
        DataError: a distance below 0 or that is no number (SK203), rows that disagree about the direction of the measure (SK211).
    """
    known = measures_of(scores)
    if measure not in known:
        raise UsageError("SK101", "--measure", f"'{measure}' is no measure of the table{nearest(measure, known)}", f"measures: {', '.join(known) or 'none'}")
    rows = [row for row in scores.records if row["method"] == measure and row["source"] != row["target"]]
    names = tuple(dict.fromkeys([*(str(row["target"]) for row in rows), *(str(row["source"]) for row in rows)]))
    if len(names) < 2:
        raise NotEnoughData("SK501", measure, "no pair of two data sets is scored", ALL_PAIRS)
    _check_rows(rows, measure)
    transform = _transform(measure, rows)
    index = {name: i for i, name in enumerate(names)}
    directed = np.full((len(names), len(names)), np.nan)
    remarks = [transform.said] if transform.said else []
    below = 0
    for row in rows:
        below += float(row["value"]) < 0
        directed[index[str(row["source"])], index[str(row["target"])]] = transform.apply(float(row["value"]))
    if below:
        remarks.append(f"{_count(below, 'value')} below 0 (unbiased estimates, by chance) {'counts' if below == 1 else 'count'} as 0.")
    values, said = _both_ways(directed, names)
    remarks += said
    targets = tuple(name in {str(row["target"]) for row in rows} for name in names)
    remarks += _check_known(values, names, targets, measure, allow_missing)
    floors, said = _floors(rows, names, transform)
    loose = sum(row.get("converged") is False for row in rows)
    said += [f"{_count(loose, 'score')} did not converge."] if loose else []
    return Distances(measure, names, targets, values, floors, transform.unit, (*remarks, *said))


def _check_rows(rows: Sequence[Mapping[str, Any]], measure: str) -> None:
    """Refuses values that are no numbers, and rows that disagree about the direction."""
    for row in rows:
        where = f"{row['source']} -> {row['target']}, {measure}"
        if not np.isfinite(float(row["value"])):
            raise DataError("SK203", where, f"value {row['value']} is no finite number", "remove the row, or score the pair again")
        if bool(row["higher_is_better"]) != bool(rows[0]["higher_is_better"]):
            raise DataError("SK211", where, "higher_is_better is another than in the rows before", "give a measure one direction")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _built(measure: str) -> Any:
    try:
        return ESTIMATORS.build(measure, "methods")
    except SimkitError:  # a measure of another table, or one that needs options
        return None


def _transform(measure: str, rows: Sequence[Mapping[str, Any]]) -> Transform:
    """How the values of a measure become distances; UsageError where they cannot."""
    values = [float(row["value"]) for row in rows]
    estimator = _built(measure)
    kind = str(rows[0].get("kind") or getattr(estimator, "kind", None) or "distance")
    unit = str(getattr(estimator, "unit", "") or "units of the table")
    if kind != "distance":
        what = "a property of the source alone" if kind == "prior" else "how well a source fits the task of the target, no distance between the two sets"
        raise UsageError("SK108", measure, f"is a {kind} measure: {what}", "name a distance, such as otdd or frechet")
    if bool(rows[0]["higher_is_better"]):
        if min(values) < 0 or max(values) > 1:
            message = f"is a similarity without a largest value (values from {min(values):g} to {max(values):g}): no distance can be made of it"
            raise UsageError("SK108", measure, message, "name a distance, such as otdd or frechet; similarities within 0..1 are drawn as 1 - s")
        return Transform(lambda value: 1 - value, "Drawn is 1 - s of the similarity s.", "units of 1 - s")
    if measure == "domain-classifier" and max(values) <= 1:
        return Transform(lambda value: max(0.0, 2 * value - 1),
                         "Drawn is 2 AUC - 1: 0 where the sets cannot be told apart (also for an AUC below 0.5), 1 where fully.", "units of 2 AUC - 1")
    if unit.startswith("squared") or measure == "energy":
        plain = unit.removeprefix("squared ").split(" (")[0].split(", ")[0]
        root = f"root of {plain}" if measure == "energy" else plain
        return Transform(lambda value: max(0.0, value) ** 0.5, f"{measure} is a squared distance: drawn is its root.", root)
    if min(values) < 0:
        row = next(row for row in rows if float(row["value"]) < 0)
        message = f"value {float(row['value']):g} is below 0, which no distance is"
        raise DataError("SK203", f"{row['source']} -> {row['target']}, {measure}", message, "correct the table, or name another measure")
    return Transform(lambda value: value, "", unit.split(" (")[0])


def _both_ways(directed: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Mean of both directions where both are known, else the one; with the largest difference, in words."""
    twice = np.isfinite(directed) & np.isfinite(directed.T)
    one = np.where(np.isfinite(directed), directed, directed.T)
    values = np.where(twice, (directed + directed.T) / 2, one)
    np.fill_diagonal(values, 0.0)
    difference = np.where(twice, np.abs(directed - directed.T), 0.0)
    if not difference.any() or difference.max() <= 1e-9 * np.nanmax(values):
        return values, []
    a, b = divmod(int(difference.argmax()), len(names))
    pairs = int((np.triu(difference) > 1e-9 * np.nanmax(values)).sum())
    said = (f"Both directions differ for {_count(pairs, 'pair')}, by {difference[a, b]:.3g} at most ({names[a]} -> {names[b]} {directed[a, b]:.4g}, back "
            f"{directed[b, a]:.4g}): drawn is their mean.")
    return values, [said]


def _check_known(values: np.ndarray, names: Sequence[str], targets: Sequence[bool], measure: str, allow_missing: bool) -> list[str]:
    """Refuses pairs that do not place every data set; returns what is to be said of missing ones."""
    known = np.isfinite(values) & ~np.eye(len(names), dtype=bool)
    reached, edge = {0}, [0]
    while edge:
        found = set(np.flatnonzero(known[edge].any(axis=0)).tolist()) - reached
        reached |= found
        edge = sorted(found)
    if len(reached) < len(names):
        apart = [name for i, name in enumerate(names) if i not in reached]
        message = f"no scored pair connects {_listed(apart)} with {_listed([names[i] for i in sorted(reached)])}"
        raise NotEnoughData("SK501", measure, message, ALL_PAIRS)
    few = [name for i, name in enumerate(names) if known[i].sum() < 2]
    if few and len(names) > 3 and not allow_missing:
        message = f"{_listed(few)} ha{'s' if len(few) == 1 else 've'} one known distance, which places a data set anywhere on a circle"
        raise NotEnoughData("SK501", measure, message, f"{ALL_PAIRS}; or give --allow-missing")
    missing = int((~known[np.triu_indices(len(names), 1)]).sum())
    if not missing:
        return []
    sources = sum(not one for one in targets)
    between = f", {sources * (sources - 1) // 2} of them between sources that are no targets" if sources > 1 else ""
    said = [f"{_count(missing, 'pair')} {'has' if missing == 1 else 'have'} no score{between}: {'it does' if missing == 1 else 'they do'} not pull or push. "
            f"To know all, {ALL_PAIRS}."]
    return said + ([f"The direction of {_listed(few)} is arbitrary: one distance is known."] if few else [])


def _floors(rows: Sequence[Mapping[str, Any]], names: Sequence[str], transform: Transform) -> tuple[tuple[float | None, ...], list[str]]:
    found: dict[str, set[float]] = {}
    for row in rows:
        if row.get("floor") is not None:
            found.setdefault(str(row["target"]), set()).add(float(row["floor"]))
    floors = tuple(max(0.0, transform.apply(max(found[name]))) if name in found else None for name in names)
    if bool(rows[0]["higher_is_better"]):
        floors = tuple(max(0.0, transform.apply(min(found[name]))) if name in found else None for name in names)
    several = [name for name in names if len(found.get(name, ())) > 1]
    said = [f"{_listed(several)}: the floor differs between sources (other sample sizes); drawn is the largest."] if several else []
    return floors, said
