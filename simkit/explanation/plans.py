"""Plans of transport measures between images or classes, exact, with the cost of every cell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from simkit.embedding import Embedding
from simkit.estimators.base import Estimator
from simkit.estimators.class_frechet import ClassEstimator
from simkit.estimators.labelled_cloud import sampled
from simkit.estimators.point_transport import TransportEstimator
from simkit.estimators.subsamples import halves, shortened
from simkit.recipe import rng_for
from simkit.transport import exact_transport, squared_distances

__all__ = ["Plan", "class_number", "explained_by_plan", "half_samples", "plan_of", "present", "taken"]


@dataclass(frozen=True, eq=False)
class Plan:
    """A plan of least cost.

    Attributes:
        mass: float64 (classes of the source, classes of the target), of sum 1.
        contribution: cost of each of these masses; their sum is the cost of the plan.
        rows: (source row, target row) of each coupled pair of images, int (2, p); None for plans between classes.
        masses, costs: of each pair, (p,); the cost is of a unit of mass.
        table: cost between classes, where the measure has one.
    """

    mass: np.ndarray
    contribution: np.ndarray
    rows: np.ndarray | None = None
    masses: np.ndarray | None = None
    costs: np.ndarray | None = None
    table: np.ndarray | None = None

    @property
    def class_costs(self) -> np.ndarray:
        """Mean cost of a unit of mass of each target class; NaN for one without mass."""
        total = self.mass.sum(0)
        return np.asarray(np.divide(self.contribution.sum(0), total, out=np.full(len(total), np.nan), where=total > 0))


def explained_by_plan(measure: Estimator) -> bool:
    """Whether the measure is the cost of a plan."""
    return isinstance(measure, (TransportEstimator, ClassEstimator))


def present(view: Embedding) -> Embedding:
    """The embedding with the classes that have images; one class "all images" where there are no labels (or several an image)."""
    if view.labels is None:
        return replace(view, labels=np.zeros(len(view), dtype=np.int64), classes=("all images",), indicators=None)
    found, labels = np.unique(view.labels, return_inverse=True)
    return replace(view, labels=labels.astype(np.int64), classes=tuple(view.classes[i] if i < len(view.classes) else str(i) for i in found))


def class_number(view: Embedding) -> np.ndarray:
    """Class of each row of an embedding that :func:`present` made."""
    return cast(np.ndarray, view.labels)


def taken(view: Embedding, most: int, seed: int) -> Embedding:
    """At most ``most`` rows: a random sample in which classes keep their shares; it depends on the features and the seed, not on the order of the rows."""
    if len(view) <= most:
        return view
    order = view.by_content
    labels = np.zeros(len(view), dtype=np.int64) if view.labels is None else view.labels
    first = np.unique(labels[order], return_index=True)[1]  # classes in the order in which they come up, whatever they are called
    rank = np.argsort(np.argsort(first))[np.unique(labels, return_inverse=True)[1]]
    return view.take(np.sort(order[sampled(rank[order], most, rng_for("explained images", seed))]))


def half_samples(source: Embedding, target: Embedding, *, seed: int, repeats: int) -> Iterator[tuple[Embedding, Embedding, Embedding]]:
    """(part of the source, part of the target, the target's other half) of each repeat: random halves, whole groups, the first two cut to one size.

    Raises:
        NotEnoughData: a side that cannot be split in halves.
    """
    for repeat in range(repeats):
        one = halves(source, rng_for("explanation", seed, "source", repeat))[0]
        other, held = halves(target, rng_for("explanation", seed, "target", repeat))
        size = min(len(one), len(other))
        yield (shortened(one, size, rng_for("explanation", seed, "cut source", repeat)),
               shortened(other, size, rng_for("explanation", seed, "cut target", repeat)), held)


def plan_of(measure: Estimator, source: Embedding, target: Embedding) -> Plan:
    """The plan of a transport measure, solved exactly.

    Args:
        measure: one for which :func:`explained_by_plan` is true.
        source, target: of :func:`present`, so that classes keep their numbers in parts of a data set.
    """
    return _class_plan(measure, source, target) if isinstance(measure, ClassEstimator) else _image_plan(cast(TransportEstimator, measure), source, target)


def _image_plan(measure: TransportEstimator, source: Embedding, target: Embedding) -> Plan:
    clouds = measure.summarize(source), measure.summarize(target)
    swapped = clouds[0].digest > clouds[1].digest  # the order in which the measure solves it
    first, second = clouds[::-1] if swapped else clouds
    cost = squared_distances(first.features, second.features) * measure.feature_weight
    table = None
    if measure.label_cost != "none":
        table = measure.tables(first, second)
        cost += table[first.labels][:, second.labels]
    cost *= measure.half
    found = exact_transport(cost, first.weights, second.weights, keep_plan=True)
    assert found.plan is not None
    i, j = np.nonzero(found.plan > 0)
    masses, costs = found.plan[i, j], cost[i, j]
    rows = np.stack([first.rows[i], second.rows[j]])
    if swapped:
        rows = rows[::-1]
    shape = len(source.classes), len(target.classes)
    mass, contribution = np.zeros(shape), np.zeros(shape)
    cells = class_number(source)[rows[0]], class_number(target)[rows[1]]
    np.add.at(mass, cells, masses)
    np.add.at(contribution, cells, masses * costs)
    if table is not None:
        table = _whole(measure.half * (table.T if swapped else table), source, target)
    return Plan(mass, contribution, rows, masses, costs, table)


def _class_plan(measure: ClassEstimator, source: Embedding, target: Embedding) -> Plan:
    clouds = measure.summarize(source), measure.summarize(target)
    swapped = clouds[0].digest > clouds[1].digest
    first, second = clouds[::-1] if swapped else clouds
    table = measure.table(first, second)
    found = exact_transport(table, first.priors, second.priors, keep_plan=True)
    assert found.plan is not None
    plan, table = (found.plan.T, table.T) if swapped else (found.plan, table)
    mass = np.nan_to_num(_whole(plan, source, target), nan=0.0)
    whole = _whole(table, source, target)
    return Plan(mass, np.where(mass > 0, mass * whole, 0.0), table=whole)


def _whole(table: np.ndarray, source: Embedding, target: Embedding) -> np.ndarray:
    """A table between the classes that have images, with NaN for those that have none in this part."""
    if table.shape == (len(source.classes), len(target.classes)):
        return table
    out = np.full((len(source.classes), len(target.classes)), np.nan)
    out[np.ix_(np.unique(class_number(source)), np.unique(class_number(target)))] = table
    return out
