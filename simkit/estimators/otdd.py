"""Optimal transport data set distance (Alvarez-Melis and Fusi 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from simkit.embedding import Embedding, content_order
from simkit.errors import ResourceError
from simkit.estimators.base import FeatureEstimator, Score
from simkit.registry import option
from simkit.transport import (
    Gaussian,
    Transport,
    exact_transport,
    exact_transport_memory,
    exact_transport_seconds,
    gaussian_distances,
    gaussian_of,
    squared_distances,
)

__all__ = ["LabelledCloud", "Otdd"]

LabelCost = Literal["gaussian", "exact", "means", "none"]


@dataclass(frozen=True, eq=False)
class LabelledCloud:
    """A data set as OTDD sees it, in an order that depends on its content only.

    Attributes:
        name: of the data set.
        features: float32 (n, d), rows in the order of their content.
        labels: class index per row (0..K-1, classes without images left out); all 0 when labels play no part.
        classes: names of the classes.
        digest: SHA-256 of the rows, whatever their order.
        gaussians: mean and covariance factor per class (label costs "gaussian" and "means"; without factors for "means"), else ().
    """

    name: str
    features: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    digest: str
    gaussians: tuple[Gaussian, ...]

    @cached_property
    def priors(self) -> np.ndarray:
        """Share of images per class, float64 (K,)."""
        return np.bincount(self.labels, minlength=len(self.classes)) / len(self.labels)

    @property
    def single(self) -> list[str]:
        """Names of the classes with one image."""
        return [name for name, count in zip(self.classes, np.bincount(self.labels), strict=True) if count == 1]


@dataclass(frozen=True)
class Otdd(FeatureEstimator):
    """Optimal transport data set distance: how far images *and* the meaning of their labels must be moved.

    The minimum over couplings P of the two sets' images (each image weighs 1/n) of sum P_ij (|x_i - x'_j|² + W(y_i, y'_j)), where W is the squared
    2-Wasserstein distance between the images of two classes: 0 for data sets with the same images and the same partition into classes, whatever
    the classes are called; unbounded above, in squared units of the features. Reported unhalved and without a root: twice the number of
    microsoft/otdd, which halves both costs.

    Label costs W: ``gaussian``, between Gaussians with the classes' means and covariances (classes may have fewer images
    than features; a class with one image has covariance 0 and is named in a flag); ``exact``, optimal transport between the images of
    the classes; ``means``, squared distance of the class means; ``none``, 0: squared 2-Wasserstein distance of the images alone.

    The value falls with n even for equal distributions: compare values at equal n only, and look at the floor. Cost: see
    :func:`simkit.transport.exact_transport` (11 s and 1 GiB at 5000 images a side, doubled by ``lower_bound``), plus K1 K2 label costs.

    The detail holds: feature_part and label_part of the optimum (their sum is the value), label_bound (transport between classes by W alone),
    lower_bound (label_bound plus transport of the features alone: never above the value), upper_bound (twice label_bound; for ``exact``), marginal_error,
    duality_gap, n and classes of both sides, and class_coupling with the class names on request.
    """

    name = "otdd"
    size_biased = True
    needs = ("labels",)
    unit = "squared feature units"
    citation = "Alvarez-Melis and Fusi 2020, Geometric dataset distances via optimal transport (arXiv 2002.02923)"

    label_cost: LabelCost = option("gaussian", "distance between two classes: of Gaussians, by exact transport, of means, or none")
    solver: Literal["exact"] = option("exact", "of the transport between images; exact: network simplex")
    maximum: int | None = option(5000, "most images a side for the exact solver; more are refused, never subsampled", minimum=1)
    lower_bound: bool = option(True, "also solve transport of the features alone, for the lower bound in the detail (doubles the time)")
    coupling: bool = option(False, "put the class-to-class coupling into the detail")

    def __post_init__(self) -> None:
        if self.label_cost == "none":
            object.__setattr__(self, "needs", ())

    def summarize(self, view: Embedding) -> LabelledCloud:
        """Rows in the order of their content, and mean and covariance factor of each class.

        Raises:
            ResourceError: more images than ``maximum``.
        """
        self._check_size(view)
        order, digest = content_order(view.features)
        features = view.features[order]
        if view.labels is None or self.label_cost == "none":
            return LabelledCloud(view.name, features, np.zeros(len(view), dtype=np.int64), ("all",), digest, ())
        present, labels = np.unique(view.labels[order], return_inverse=True)
        classes = tuple(view.classes[i] if i < len(view.classes) else str(i) for i in present)
        gaussians: tuple[Gaussian, ...] = ()
        if self.label_cost == "gaussian":
            gaussians = tuple(gaussian_of(features[labels == k]) for k in range(len(present)))
        elif self.label_cost == "means":
            means = [features[labels == k].mean(0, dtype=np.float64) for k in range(len(present))]
            gaussians = tuple(Gaussian(mean, np.empty((0, len(mean))), 0.0, int((labels == k).sum())) for k, mean in enumerate(means))
        return LabelledCloud(view.name, features, labels, classes, digest, gaussians)

    def _check_size(self, view: Embedding) -> None:
        n = len(view)
        if self.maximum is not None and n > self.maximum:
            need = f"two sets of {n} need about {exact_transport_memory(n, n) / 2**30:.1f} GiB and {exact_transport_seconds(n, n):.0f} s"
            message = f"'{view.name}' has {n} images, the exact solver takes at most {self.maximum} a side (option maximum): {need}"
            raise ResourceError("SK301", self.name, message, f"set maximum = {n} to allow it, or take fewer images of both data sets")

    def compare(self, source: LabelledCloud, target: LabelledCloud, rng: np.random.Generator) -> Score:
        """OTDD of a pair. Solved in one order of the two, so that source and target can be swapped to the last bit."""
        if source.digest > target.digest:
            solved = self._solve(target, source)
            solved["class_coupling"] = solved["class_coupling"].T
        else:
            solved = self._solve(source, target)
        transport: Transport = solved.pop("transport")
        mass = solved.pop("class_coupling")
        detail: dict[str, Any] = {
            **solved, "label_cost": self.label_cost, "solver": self.solver, "marginal_error": transport.marginal_error,
            "duality_gap": transport.duality_gap, "n": (len(source.features), len(target.features)),
            "classes": (len(source.classes), len(target.classes)) if self.label_cost != "none" else (0, 0),
        }
        if self.coupling:
            detail["class_coupling"] = {"source": source.classes, "target": target.classes, "mass": mass.tolist()}
        flags = [f"not converged: {transport.reason}"] if transport.reason else []
        if self.label_cost == "gaussian":
            flags += [_single(cloud) for cloud in ((source, target) if source is not target else (source,)) if cloud.single]
        return Score(transport.value, transport.converged, detail, flags=tuple(flags))

    def _solve(self, first: LabelledCloud, second: LabelledCloud) -> dict[str, Any]:
        cost = squared_distances(first.features, second.features)
        table = self._label_costs(first, second, cost)
        labelled = self.label_cost != "none"
        joint = cost
        if labelled:
            joint = table[first.labels[:, None], second.labels]
            joint += cost
        transport = exact_transport(joint, keep_plan=True)
        assert transport.plan is not None
        indicators = [np.eye(len(cloud.classes))[cloud.labels] for cloud in (first, second)]
        mass = indicators[0].T @ transport.plan @ indicators[1]
        label_part = float((mass * table).sum())
        solved: dict[str, Any] = {
            "transport": transport, "class_coupling": mass, "feature_part": transport.value - label_part, "label_part": label_part,
        }
        if labelled:
            solved["label_bound"] = exact_transport(table, first.priors, second.priors).value
            if self.lower_bound:
                solved["lower_bound"] = exact_transport(cost).value + solved["label_bound"]
            if self.label_cost == "exact":
                solved["upper_bound"] = 2.0 * solved["label_bound"]
        return solved

    def _label_costs(self, first: LabelledCloud, second: LabelledCloud, cost: np.ndarray) -> np.ndarray:
        """W between the classes of both sets, float64 (K1, K2), in squared feature units."""
        if self.label_cost == "none":
            return np.zeros((1, 1))
        if self.label_cost == "exact":
            rows = [np.flatnonzero(first.labels == k) for k in range(len(first.classes))]
            columns = [np.flatnonzero(second.labels == k) for k in range(len(second.classes))]
            return np.array([[exact_transport(cost[np.ix_(i, j)]).value for j in columns] for i in rows])
        return gaussian_distances(first.gaussians, second.gaussians)


def _single(cloud: LabelledCloud) -> str:
    names = ", ".join(cloud.single[:5]) + (f" and {len(cloud.single) - 5} more" if len(cloud.single) > 5 else "")
    return f"one image in class {names} of {cloud.name} (covariance taken as 0)"
