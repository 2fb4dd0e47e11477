"""Which class of the source feeds which class of the target, how sure that is, and which classes of the target nothing covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from simkit.embedding import Embedding
from simkit.errors import NotEnoughData
from simkit.estimators.base import Estimator
from simkit.estimators.uncertainty import excess_share
from simkit.explanation.plans import Plan, class_number, explained_by_plan, half_samples, plan_of
from simkit.explanation.results import Cell, Coupling, Interval, PairOfImages, TargetClass
from simkit.transport import squared_distances
from simkit.transport.interruption import go_on

__all__ = ["PAIRED_CELLS", "PAIRS", "Repeated", "class_coupling", "class_coverage", "repeated"]

PAIRED_CELLS, PAIRS = 8, 3
"""Cells with image pairs, and pairs of each."""

NEIGHBOUR = 5
"""A ball around a target image reaches to its 5th nearest other target image, as the measure coverage has it."""


@dataclass
class Repeated:
    """What half-samples give, one entry a repeat.

    Attributes:
        shares: of each target class's mass by source class, (K1, K2).
        costs, floors: per target class, from the source and from the target's other half; NaN where the class has no image in a part.
        reached, reached_floors: share of a class's images that have a neighbour there.
        sizes: images of the smallest of the parts.
        problem: why there are none.
    """

    shares: list[np.ndarray] = field(default_factory=list)
    costs: list[np.ndarray] = field(default_factory=list)
    floors: list[np.ndarray] = field(default_factory=list)
    reached: list[np.ndarray] = field(default_factory=list)
    reached_floors: list[np.ndarray] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    problem: str = ""


def repeated(measure: Estimator, source: Embedding, target: Embedding, *, seed: int, repeats: int) -> Repeated:
    """Plans and neighbours between random halves; a data set that cannot be halved gives none, and the reason."""
    out = Repeated()
    planned = explained_by_plan(measure)
    try:
        for part, half, held in half_samples(source, target, seed=seed, repeats=repeats):
            go_on()
            out.sizes.append(min(len(part), len(half), len(held)))
            if planned:
                plan, floor = plan_of(measure, part, held), plan_of(measure, half, held)
                out.shares.append(_shares(plan.mass))
                out.costs.append(plan.class_costs)
                out.floors.append(floor.class_costs)
            for views, place in ((part, out.reached), (half, out.reached_floors)):
                place.append(_reached(views, held))
    except NotEnoughData as error:
        out.problem = f"no intervals and no floor: {error.problems[0].message}"
    return out


def _shares(mass: np.ndarray) -> np.ndarray:
    """Share of each column's mass; NaN in columns without any."""
    total = mass.sum(0)
    return np.asarray(np.divide(mass, total, out=np.full(mass.shape, np.nan), where=total > 0))


def _reached(source: Embedding, target: Embedding) -> np.ndarray:
    """Share of each target class's images with a source image in their ball, (K,); NaN for a class without images."""
    labels, k = class_number(target), len(target.classes)
    counts = np.bincount(labels, minlength=k)
    if len(target) <= NEIGHBOUR:
        return np.full(k, np.nan)
    own = squared_distances(target.features, target.features)
    np.fill_diagonal(own, np.inf)
    radii = np.partition(own, NEIGHBOUR - 1, axis=1)[:, NEIGHBOUR - 1]
    near = squared_distances(source.features, target.features).min(0)
    hits = np.bincount(labels, weights=(near < radii) | (near <= 1e-12 * float(radii.max())), minlength=k)
    return np.asarray(np.divide(hits, counts, out=np.full(k, np.nan), where=counts > 0))


def _quantile(freedom: int, tests: int = 1) -> float:
    """Student's t quantile of a 95 % interval, for one of several tests by Bonferroni."""
    from scipy.stats import t

    return float(t.ppf(1 - 0.025 / tests, freedom))


# --- coupling --------------------------------------------------------------------------------------------------------------------------


def class_coupling(
    measure: Estimator, plan: Plan, source: Embedding, target: Embedding, halves: Repeated, *, value: float, solver: str,
) -> Coupling:
    """The coupling between classes, with intervals from half-samples and image pairs of the largest cells."""
    rows, columns = plan.mass.sum(1), plan.mass.sum(0)
    shares = _shares(plan.mass)
    spread = np.full(shares.shape, np.nan)
    if len(halves.shares) >= 3:
        stack = np.stack(halves.shares)
        complete = np.isfinite(stack).all(0)
        spread[complete] = stack[:, complete].std(0, ddof=1)
    margin = spread * (_quantile(len(halves.shares) - 1) if len(halves.shares) >= 3 else np.nan)
    largest = np.lexsort((-plan.contribution.ravel(), -np.round(plan.mass.ravel(), 12)))[:PAIRED_CELLS]  # equal masses: the dearer first, whatever the names
    cells = []
    for position in range(plan.mass.size):
        i, j = np.unravel_index(position, plan.mass.shape)
        interval = None
        if np.isfinite(margin[i, j]):
            interval = (float(max(0.0, shares[i, j] - margin[i, j])), float(min(1.0, shares[i, j] + margin[i, j])))
        pairs = _pairs(plan, source, target, int(i), int(j)) if position in largest and plan.mass[i, j] > 0 else ()
        mass, contribution = float(plan.mass[i, j]), float(plan.contribution[i, j])
        cells.append(Cell(
            source.classes[i], target.classes[j], mass, float(shares[i, j]), interval, float(spread[i, j]) if interval else None, float(rows[i]),
            None if interval is None else bool(interval[0] > rows[i]), contribution / mass if mass > 0 else None, contribution, pairs))
    return Coupling(source.classes, target.classes, tuple(rows.tolist()), tuple(columns.tolist()), tuple(cells), float(plan.contribution.sum()), value,
                    solver, measure.unit)


def _pairs(plan: Plan, source: Embedding, target: Embedding, i: int, j: int) -> tuple[PairOfImages, ...]:
    """Image pairs that stand for a cell, no image twice.

    Of the pairs that the plan couples within the cell, those that cost at most the median; of these the pairs whose images lie nearest to the middle of
    what the cell couples on each side. Plans between classes couple no images: there the images nearest to the middle of each class are put together.
    """
    if plan.rows is None or plan.masses is None or plan.costs is None:
        sides = [_middle(view, np.flatnonzero(class_number(view) == k))[0] for view, k in ((source, i), (target, j))]
        table = np.full(plan.mass.shape, np.nan) if plan.table is None else plan.table
        return tuple(PairOfImages(source.keys[a], target.keys[b], float(table[i, j]), 0.0) for a, b in zip(*sides, strict=False))[:PAIRS]
    inside = np.flatnonzero((class_number(source)[plan.rows[0]] == i) & (class_number(target)[plan.rows[1]] == j))
    cheap = inside[plan.costs[inside] <= np.median(plan.costs[inside])]
    away = sum(_away(view.features, plan.rows[side], inside)[np.searchsorted(inside, cheap)] for side, view in enumerate((source, target)))
    out: list[PairOfImages] = []
    used: tuple[set[int], set[int]] = (set(), set())
    for at in cheap[np.lexsort((plan.costs[cheap], away))].tolist():
        a, b = int(plan.rows[0, at]), int(plan.rows[1, at])
        if a in used[0] or b in used[1]:
            continue
        used[0].add(a)
        used[1].add(b)
        out.append(PairOfImages(source.keys[a], target.keys[b], float(plan.costs[at]), float(plan.masses[at])))
        if len(out) == PAIRS:
            break
    return tuple(out)


def _away(features: np.ndarray, rows: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Squared distance of the images at ``rows[inside]`` from their mean, relative to the mean of these distances."""
    own = features[rows[inside]].astype(np.float64)
    squared = ((own - own.mean(0)) ** 2).sum(1)
    mean = float(squared.mean())
    return np.asarray(squared / mean if mean > 0 else squared)


def _middle(view: Embedding, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows, nearest to their mean first, and the squared distances."""
    own = view.features[rows].astype(np.float64)
    squared = ((own - own.mean(0)) ** 2).sum(1)
    order = np.argsort(squared, kind="stable")
    return rows[order], squared[order]


# --- coverage --------------------------------------------------------------------------------------------------------------------------


def class_coverage(plan: Plan | None, source: Embedding, target: Embedding, halves: Repeated, *, source_labels: bool) -> tuple[TargetClass, ...]:
    """How well the source covers each class of the target, the least covered first: the largest excess over the floor, or the least reached.

    Args:
        plan: of all images; None for measures without one.
        source, target: of :func:`~simkit.explanation.plans.present`.
        halves: of :func:`repeated`.
        source_labels: whether the source has classes of its own.
    """
    counts = np.bincount(class_number(target), minlength=len(target.classes))
    tests = len(target.classes)
    out = []
    for k, name in enumerate(target.classes):
        half, floor = _mean(halves.costs, k), _mean(halves.floors, k)
        excess, interval = _excess(halves, k, tests, (len(source), len(target)))
        reached, own = _mean(halves.reached, k), _mean(halves.reached_floors, k)
        far = None if interval is None else interval[0] > 0
        uncovered = None if far is None or reached is None or own is None else far and reached < 0.5 * own
        out.append(TargetClass(
            name, int(counts[k]), None if plan is None else float(plan.class_costs[k]), half, floor, excess, interval, far, reached, own, uncovered,
            _nearest(plan, source, target, k) if source_labels else None))
    return tuple(sorted(out, key=lambda c: (-(c.excess if c.excess is not None else c.cost or 0.0), 1.0 if c.reached is None else c.reached, c.name)))


def _mean(values: Sequence[np.ndarray], k: int) -> float | None:
    """Mean over the repeats in which the class has images; None where there are fewer than three."""
    found = [float(one[k]) for one in values if np.isfinite(one[k])]
    return float(np.mean(found)) if len(found) >= 3 else None


def _excess(halves: Repeated, k: int, tests: int, full: tuple[int, int]) -> tuple[float | None, Interval | None]:
    """Mean excess of a class over its floor at the size of the parts, and its interval.

    The spread over repeats is that of parts; it is taken to the full sizes (see :func:`~simkit.estimators.uncertainty.excess_share`), and the chance of
    so few repeats is added.
    """
    gaps = np.array([a[k] - b[k] for a, b in zip(halves.costs, halves.floors, strict=True) if np.isfinite(a[k]) and np.isfinite(b[k])])
    if len(gaps) < 3:
        return None, None
    share = excess_share(*full, round(float(np.mean(halves.sizes)))) + 1 / len(gaps)
    mean, margin = float(gaps.mean()), _quantile(len(gaps) - 1, tests) * float(gaps.std(ddof=1)) * float(np.sqrt(share))
    return mean, (mean - margin, mean + margin)


def _nearest(plan: Plan | None, source: Embedding, target: Embedding, k: int) -> tuple[str, float]:
    """The source class nearest to a target class."""
    if plan is not None and plan.table is not None:
        costs = plan.table[:, k]
    else:
        middle = target.features[class_number(target) == k].mean(0, dtype=np.float64)
        means = np.stack([source.features[class_number(source) == c].mean(0, dtype=np.float64) for c in range(len(source.classes))])
        costs = ((means - middle) ** 2).sum(1)
    best = int(np.nanargmin(costs))
    return source.classes[best], float(costs[best])
