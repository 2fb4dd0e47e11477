"""What measures by optimal transport share: labelled clouds, samples, predicted times, and the two solvers."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np

from simkit.embedding import Embedding
from simkit.errors import ResourceError, UsageError
from simkit.estimators.base import Estimator, FeatureEstimator, Known, Score
from simkit.estimators.labelled_cloud import ClassWeights, LabelCost, LabelledCloud, label_costs_seconds, labelled_cloud, shared_label_costs, single_image_flag
from simkit.registry import option
from simkit.transport import exact_transport, exact_transport_memory, exact_transport_seconds, squared_distances
from simkit.transport.memory import size_text

__all__ = ["LABEL_FREE", "CloudEstimator", "TransportEstimator"]

log = logging.getLogger("simkit.estimators")

GIB = 2**30
SINKHORN_SECONDS = 8e-8
"""Measured: seconds of a debiased divergence per entry of the cost, 512 features, on one core."""
LABEL_FREE = "wasserstein is a measure without labels"


@dataclass(frozen=True)
class CloudEstimator(FeatureEstimator):
    """A measure of two labelled clouds: what OTDD, its bounds and the Wasserstein distance share. Subclasses say how a pair is solved."""

    name = ""
    size_biased = True
    unit = "squared feature units"
    label_cost = "none"  # a field of the measures that have labels
    label_weight = 1.0
    class_weights = "empirical"

    max_images: int | None = option(None, "take a random sample of at most so many images of a data set, classes in proportion; flagged", minimum=1)
    sample_seed: int = option(0, "of the sample that max_images takes", minimum=0)
    feature_weight: float = option(1.0, "factor of the squared distance between features", minimum=0.0)
    max_hours: float = option(2.0, "longest predicted time of one pair that is started", above=0.0, recipe=False)
    coupling: bool = option(False, "put the class-to-class coupling into the detail")

    def __post_init__(self) -> None:
        if self.label_cost == "none" and self.class_weights == "balanced":
            raise UsageError("SK102", self.name, "label_cost = none ignores labels: there are no classes to balance", "leave class_weights")
        if self.feature_weight == 0 and (self.label_cost == "none" or self.label_weight == 0):
            both = "feature_weight is 0 and there are no label costs" if self.label_cost == "none" else "feature_weight and label_weight are both 0"
            raise UsageError("SK102", self.name, f"{both}: nothing costs anything", "give a positive weight")

    def missing(self, known: Known, role: Literal["source", "target"]) -> str:
        """Why the measure cannot be computed: labels."""
        reason = super().missing(known, role)
        return f"{reason}; {LABEL_FREE}" if reason and "labels" in self.needs else reason

    def summarize(self, view: Embedding) -> LabelledCloud:
        """Rows in the order of their content, weights, and mean and covariance factor of each class."""
        weights = cast(ClassWeights, self.class_weights)
        return labelled_cloud(view, cast(LabelCost, self.label_cost), class_weights=weights, max_images=self.max_images, seed=self.sample_seed)

    def compare(self, source: LabelledCloud, target: LabelledCloud, rng: np.random.Generator) -> Score:
        """The measure of a pair. Solved in one order of the two, so that source and target can be swapped to the last bit."""
        chosen: Any = self.settled(len(source), len(target))
        swapped = source.digest > target.digest
        found = chosen.solved(target, source) if swapped else chosen.solved(source, target)
        mass, potentials, flags = found.pop("class_mass"), found.pop("potentials", ()), found.pop("flags")
        value, converged = found.pop("value"), found.pop("converged")
        if swapped:
            mass, potentials = mass.T, potentials[::-1]
        detail: dict[str, Any] = {**found, "n": (len(source), len(target))}
        if self.label_cost != "none":
            detail |= {"label_cost": self.label_cost, "classes": (len(source.classes), len(target.classes))}
        if self.coupling:
            detail["class_coupling"] = {"source": source.classes, "target": target.classes, "mass": mass.tolist()}
        if len(potentials):
            detail["potentials"] = {"source": source.in_order(potentials[0]), "target": target.in_order(potentials[1])}
        return Score(value, converged, detail, flags=(*flags, *_sampled_flags(source, target), *self._single_flags(source, target)))

    def _single_flags(self, source: LabelledCloud, target: LabelledCloud) -> list[str]:
        if self.label_cost != "gaussian":
            return []
        return [single_image_flag(cloud) for cloud in ((source, target) if source is not target else (source,)) if cloud.single]

    def tables(self, first: LabelledCloud, second: LabelledCloud) -> np.ndarray:
        """W between the classes of a pair, times its weight."""
        return self.label_weight * shared_label_costs(first, second, cast(LabelCost, self.label_cost))

    @property
    def entropic(self) -> bool:
        """Whether the clouds are also held against themselves, by sinkhorn."""
        return False

    def predicted_seconds(self, first: LabelledCloud, second: LabelledCloud) -> tuple[float, float]:
        """Predicted times of the label costs and of the transport of a pair."""
        return label_costs_seconds([(first, second)], cast(LabelCost, self.label_cost)), 0.0

    def solved(self, first: LabelledCloud, second: LabelledCloud) -> dict[str, Any]:
        """Value, convergence, class masses and evidence of a pair, in this order of the two."""
        raise NotImplementedError

    def check_time(self, first: LabelledCloud, second: LabelledCloud) -> None:
        """Says how long a pair will take when that is more than some seconds; refuses it beyond ``max_hours``.

        Raises:
            ResourceError: SK301 with the estimate and what makes it shorter.
        """
        labels, transport = self.predicted_seconds(first, second)
        sizes = f"{len(first):,} x {len(second):,} images", f"{len(first.classes)} x {len(second.classes)} classes"
        parts = f"label costs of {sizes[1]} {_duration(labels)}, transport of {sizes[0]} {_duration(transport)}"
        where = _between(self.name, first, second)
        hours = (labels + transport) / 3600
        if hours > self.max_hours:
            remedies = ["label_cost = means"] if labels > 3600 * self.max_hours / 2 else []
            remedies += ["debias = false"] if self.entropic and len(first) != len(second) and transport > labels else []
            remedies += ["max_images = 5000"] if transport > 60 or self.label_cost == "exact" else []
            fix = f"set {', '.join([*remedies, f'or max_hours = {1.2 * hours:.2g} to wait'])}"
            raise ResourceError("SK301", where, f"would take {_duration(labels + transport)}, the limit is {self.max_hours:g} h: {parts}", fix)
        if labels + transport > 10:
            log.info("%s: %s", where, parts)

    def identical(self, first: LabelledCloud, second: LabelledCloud) -> dict[str, Any]:
        """The result for the same images with the same partition: nothing has to be moved."""
        mass = np.zeros((len(first.classes), len(second.classes)))
        np.add.at(mass, (first.labels, second.labels), first.weights)
        return {
            "value": 0.0, "converged": True, "flags": [], "class_mass": mass, "identical": True, "feature_part": 0.0, "label_part": 0.0,
            "marginal_error": 0.0, "duality_gap": 0.0, "iterations": 0, "epsilon": None,
        }


@dataclass(frozen=True)
class TransportEstimator(CloudEstimator):
    """Transport between the images of two data sets, exact or entropic."""

    convention = "paper"

    solver: Literal["auto", "exact", "sinkhorn"] = option(
        "auto", "exact: network simplex; sinkhorn: debiased entropic divergence, for any size; auto: exact up to exact_up_to images a side, else sinkhorn")
    exact_up_to: int = option(5000, "most images a side that are solved exactly (5000 take 1.1 GiB and about 10 s); solver = exact refuses more", minimum=1)
    epsilon: float = option(0.01, "sinkhorn: regularisation, as a share of the mean cost between the two data sets", above=0.0)
    absolute_epsilon: float | None = option(None, "sinkhorn: regularisation in units of the value, instead of epsilon", above=0.0)
    debias: bool = option(True, "sinkhorn: report the debiased divergence; false: the lower bound of the exact value, at half the time")
    tolerance: float = option(0.01, "sinkhorn: marginal error (of a mass of 1), and its share of the value, that count as converged", above=0.0, maximum=0.1)
    passes: int = option(1000, "sinkhorn: most passes over the cost at the last epsilon", minimum=1)
    precision: Literal["float32", "float64"] = option("float32", "sinkhorn: of the kernel (potentials and sums are float64); both agree to 1e-4 of the value")
    device: str = option("auto", "sinkhorn: auto, cpu, cuda or cuda:1", recipe=False)
    memory: float | None = option(None, "sinkhorn: most memory of a solve in GiB; nothing: 2 on a CPU, 60 % of what is free on a GPU", above=0.0, recipe=False)
    tile: int | None = option(None, "sinkhorn: rows of the cost computed at a time; nothing: what suits the device", minimum=1, recipe=False)
    potentials: bool = option(False, "put the dual potential of every image into the detail")

    @property
    def half(self) -> float:
        """Factor of the convention: 1/2 for microsoft/otdd, which halves both costs."""
        return 0.5 if self.convention == "microsoft" else 1.0

    @property
    def entropic(self) -> bool:
        """Whether the clouds are also held against themselves, by sinkhorn."""
        return self.solver == "sinkhorn" and self.debias

    def settled(self, n_source: int, n_target: int) -> Estimator:
        """The measure with its solver chosen.

        Raises:
            ResourceError: more images than ``solver = exact`` takes (SK301, with the price of solving them).
        """
        n, m = (min(size, self.max_images or size) for size in (n_source, n_target))
        if self.solver == "auto":
            return replace(self, solver="exact" if max(n, m) <= self.exact_up_to else "sinkhorn")
        if self.solver == "exact" and max(n, m) > self.exact_up_to:
            price = f"{n} x {m} need {size_text(exact_transport_memory(n, m))} and {_duration(exact_transport_seconds(n, m))}"
            message = f"{max(n, m)} images, the exact solver takes at most {self.exact_up_to} a side (option exact_up_to): {price}"
            fix = f"set exact_up_to = {max(n, m)} to allow it, solver = sinkhorn, or max_images = {self.exact_up_to}"
            raise ResourceError("SK301", self.name, message, fix)
        return self

    def seconds(self, n_source: int, n_target: int) -> float | None:
        """Rough time of the transport of one pair on one core, at 512 features."""
        n, m = (min(size, self.max_images or size) for size in (n_source, n_target))
        chosen: Any = self.settled(n, m)
        return 0.05 + exact_transport_seconds(n, m) if chosen.solver == "exact" else 0.2 + SINKHORN_SECONDS * max(n, m) ** 2

    def predicted_seconds(self, first: LabelledCloud, second: LabelledCloud) -> tuple[float, float]:
        """Predicted times of the label costs and of the transport of a pair."""
        pairs = [(first, second)]
        if self.entropic:
            pairs += [(one, one) for one in (first, second)]
        labels = label_costs_seconds(pairs, cast(LabelCost, self.label_cost))
        n, m = len(first), len(second)
        if self.solver == "exact":
            return labels, exact_transport_seconds(n, m)
        largest = max(n, m) if self.entropic else min(n, m)
        if max(n, m) * largest < 10**8:
            return labels, SINKHORN_SECONDS * max(n, m) * largest
        from simkit.transport.sinkhorn import predicted_seconds

        width = first.features.shape[1] + 2 + min(len(first.classes), len(second.classes))
        return labels, predicted_seconds(n, m, width, self._settings(), debias=self.entropic)

    def solved(self, first: LabelledCloud, second: LabelledCloud) -> dict[str, Any]:
        """Value, convergence and evidence of a pair, in this order of the two."""
        if first.digest == second.digest:
            return {"solver": self.solver, **self.identical(first, second)}
        self.check_time(first, second)
        table = self.tables(first, second)
        found = self._exact(first, second, table) if self.solver == "exact" else self._entropic(first, second, table)
        if self.label_cost != "none":
            bound = self.half * exact_transport(table, first.priors, second.priors).value
            found["label_bound"] = bound
            if self.label_cost == "exact" and self.label_weight > 0:
                found["upper_bound"] = bound * (1 + self.feature_weight / self.label_weight)
        return found

    def _exact(self, first: LabelledCloud, second: LabelledCloud, table: np.ndarray) -> dict[str, Any]:
        cost = squared_distances(first.features, second.features)
        cost *= self.feature_weight
        if self.label_cost != "none":
            for k, row in enumerate(table):
                cost[first.labels == k] += row[second.labels]
        transport = exact_transport(cost, first.weights, second.weights, keep_plan=True)
        assert transport.plan is not None
        indicators = [np.eye(len(cloud.classes))[cloud.labels] for cloud in (first, second)]
        mass = indicators[0].T @ transport.plan @ indicators[1]
        label_part = float((mass * table).sum())
        return {
            "value": self.half * transport.value, "converged": transport.converged,
            "flags": [f"not converged: {transport.reason}"] if transport.reason else [], "class_mass": mass,
            "potentials": tuple(self.half * one for one in transport.potentials) if self.potentials else (), "solver": "exact",
            "feature_part": self.half * (transport.value - label_part), "label_part": self.half * label_part, "marginal_error": transport.marginal_error,
            "duality_gap": self.half * transport.duality_gap, "iterations": transport.iterations, "epsilon": None,
        }

    def _settings(self) -> Any:
        from simkit.device import resolve_device
        from simkit.transport.sinkhorn import Settings

        device = resolve_device(self.device, where=f"{self.name}.device")
        if device.type == "mps":  # no float64 there, which potentials need
            if self.device == "mps":
                raise UsageError("SK106", f"{self.name}.device", "the solver needs float64, which Metal (mps) does not have", "set device = cpu")
            device = resolve_device("cpu")
        memory = None if self.memory is None else int(self.memory * GIB)
        return Settings(self.tolerance, self.passes, device, self.precision, memory, self.tile)

    def _entropic(self, first: LabelledCloud, second: LabelledCloud, table: np.ndarray) -> dict[str, Any]:
        from simkit.transport import sinkhorn

        absolute = None if self.absolute_epsilon is None else self.absolute_epsilon / self.half
        clouds = (first, second) if self.debias else ()
        own = [self.label_weight * one.own_label_costs(cast(LabelCost, self.label_cost)) for one in clouds] or [np.zeros((1, 1))] * 2
        costs, settings = sinkhorn.LabelCosts(table, *own), self._settings()
        try:
            found = sinkhorn.sinkhorn_divergence(
                first.cloud, second.cloud, costs, epsilon=self.epsilon, absolute=absolute, feature_weight=self.feature_weight, debias=self.debias,
                settings=settings,
            )
        except ResourceError as error:
            problem = error.problems[0]
            raise ResourceError(problem.code, _between(self.name, first, second), problem.message, problem.fix) from error
        share = found.epsilon / found.mean_cost if found.mean_cost else 0.0
        entropic = f"entropic (epsilon {share:.2g} of the mean cost)" if absolute is None else f"entropic (epsilon {self.absolute_epsilon:g})"
        flags = [entropic if self.debias else f"lower bound of the exact value, {entropic}"]
        if not found.converged:
            off = f"marginals off by {found.marginal_error:.2g} (L1, of a mass of 1) after {found.cross.passes} passes (tolerance {self.tolerance:g})"
            flags.append(f"not converged: {off}")
        if found.value < 0:  # by less than what is left of the tolerance, between data sets that are nearly the same
            flags.append(f"below what the solver tells from 0 ({self.half * found.value:.1e}): reported as 0")
        half = self.half
        return {
            "value": max(0.0, half * found.value), "converged": found.converged, "flags": flags, "class_mass": found.cross.class_mass, "solver": "sinkhorn",
            "potentials": tuple(half * one for one in found.cross.potentials) if self.potentials else (), "feature_part": half * found.feature_part,
            "label_part": half * found.label_part, "entropy_part": half * found.entropy_part, "marginal_error": found.marginal_error,
            "exact_between": (half * found.cross.lower, half * found.cross.upper), "bias_bound": half * found.bias_bound,
            "iterations": found.cross.passes, "epsilon": share, "epsilon_absolute": half * found.epsilon, "mean_cost": half * found.mean_cost,
        }


def _between(name: str, first: LabelledCloud, second: LabelledCloud) -> str:
    return f"{name} between {' and '.join(sorted((first.name, second.name)))}"


def _sampled_flags(source: LabelledCloud, target: LabelledCloud) -> list[str]:
    clouds = (source, target) if source is not target else (source,)
    return [f"{len(one)} of {one.total} images of {one.name} (max_images)" for one in clouds if len(one) < one.total]


def _duration(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
