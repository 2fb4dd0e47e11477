"""Bounds of the optimal transport data set distance that need no transport between labelled images."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from simkit.errors import UsageError
from simkit.estimators.labelled_cloud import ClassWeights, LabelledCloud, label_costs_seconds, shared_label_costs
from simkit.estimators.point_transport import CloudEstimator, TransportEstimator
from simkit.estimators.wasserstein import Wasserstein
from simkit.registry import option
from simkit.transport import Gaussian, exact_transport, gaussian_distance, gaussian_of

__all__ = ["OtddLower", "OtddUpper"]


@dataclass(frozen=True)
class OtddLower(TransportEstimator):
    """Lower bound of OTDD: transport of the features alone plus transport of the classes alone.

    min sum P C + min sum Q W over separate couplings never exceeds the minimum over one coupling of both, for every label cost W. It costs what
    OTDD costs without labels (``features = transport``), and is then within 0.1 to 5 % of it; or next to nothing (``features = gaussian``: the
    Gelbrich bound from means and covariances of the whole sets), and is then loose. With ``solver = sinkhorn`` the feature part is the
    certified lower bound, so that the sum stays below the exact OTDD. 0 for the same images and partition; in squared units of the features.

    The detail holds feature_part and label_part (their sum is the value).
    """

    name = "otdd-lower"
    bound_of = "otdd"
    needs = ("labels",)
    formula = "min_P Σ_ij P_ij w_x |x_i − x'_j|² + min_Q Σ_kl Q_kl w_y W(k, l)"
    hazards = (
        "A bound, not the distance: pairs closer together than the gap (0.1 to 5 %, far more with `features = gaussian`) may be ordered otherwise by `otdd`.",
        "The two plans are separate, so it does not see whether images and labels can be moved together.",
        "It falls with the number of images: compare values at equal n only.",
    )
    citation = "Alvarez-Melis and Fusi 2020 (arXiv 2002.02923); Gelbrich 1990 for features = gaussian"

    label_cost: Literal["gaussian", "exact", "means"] = option("gaussian", "distance between two classes: of Gaussians, by exact transport, or of means")
    label_weight: float = option(1.0, "factor of the distance between classes", minimum=0.0)
    class_weights: ClassWeights = option("empirical", "mass of a class: its share of the images (empirical), or the same for all (balanced)")
    features: Literal["transport", "gaussian"] = option("transport", "bound of the feature part: its optimal transport, or that of Gaussians of the whole sets")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features == "gaussian" and (self.class_weights != "empirical" or self.max_images is not None):
            fix = "set features = transport, or leave class_weights and max_images"
            raise UsageError("SK102", self.name, "features = gaussian knows neither class_weights = balanced nor max_images", fix)

    def settled(self, n_source: int, n_target: int) -> Any:
        """The measure with its solver chosen; Gaussians of any size are allowed."""
        return replace(self, solver="exact") if self.features == "gaussian" else super().settled(n_source, n_target)

    @property
    def entropic(self) -> bool:
        """No cloud is held against itself: a lower bound is not debiased."""
        return False

    def predicted_seconds(self, first: LabelledCloud, second: LabelledCloud) -> tuple[float, float]:
        """Predicted times of the label costs and of the transport of a pair; Gaussians of the whole sets take none."""
        labels, transport = super().predicted_seconds(first, second)
        return labels, 0.0 if self.features == "gaussian" else transport

    def solved(self, first: LabelledCloud, second: LabelledCloud) -> dict[str, Any]:
        """The two transport problems of a pair."""
        if first.digest == second.digest:
            return self.identical(first, second)
        self.check_time(first, second)
        table = self.tables(first, second)
        labels = exact_transport(table, first.priors, second.priors, keep_plan=True)
        if self.features == "gaussian":
            part = self.feature_weight * sum(gaussian_distance(*(_population(one) for one in (first, second))))
            found: dict[str, Any] = {"value": part, "converged": True, "flags": [], "marginal_error": 0.0}
        else:
            found = _without_labels(self).solved(_unlabelled(first), _unlabelled(second))
        part = found["value"]
        kept = ("converged", "flags", "potentials", "solver", "marginal_error", "iterations", "epsilon")
        evidence: dict[str, Any] = {key: found[key] for key in kept if key in found}
        return {**evidence, "value": part + labels.value, "feature_part": part, "label_part": labels.value, "class_mass": labels.plan}


def _without_labels(measure: TransportEstimator) -> Wasserstein:
    """Transport of the features with the same options, as its lower bound where it is entropic."""
    return Wasserstein(**{field.name: getattr(measure, field.name) for field in fields(TransportEstimator)} | {"debias": False})


def _unlabelled(cloud: LabelledCloud) -> LabelledCloud:
    return replace(cloud, labels=np.zeros_like(cloud.labels), classes=("all",), gaussians=())


def _population(cloud: LabelledCloud) -> Gaussian:
    """Gaussian of all rows with the covariance of the points themselves (divisor n), for which the bound holds."""
    made = gaussian_of(cloud.features)
    shrink = (made.count - 1) / made.count
    return Gaussian(made.mean, made.factor * np.sqrt(shrink), made.trace * shrink, made.count)


@dataclass(frozen=True)
class OtddUpper(CloudEstimator):
    """Upper bound of OTDD: the best plan among those that are put together from class to class.

    The classes are coupled by their transport under the cost w_x F + w_y W, where F is the mean cost of moving the images of one class to those of
    another: by their product coupling (``within = product``; closed form, no transport between images at all), |m - m'|² plus both traces; or by
    their optimal coupling (``within = transport``; K1 K2 small exact problems), which is within 0 to 7 % of OTDD. The product bound holds the
    spread of the classes in full: it is not 0 for a data set with itself, and tight only where images of a class are about as far from each
    other as from their match (high dimension, few images). In squared units of the features.
    """

    name = "otdd-upper"
    bound_of = "otdd"
    needs = ("labels",)
    formula = "min_Q Σ_kl Q_kl (w_x F(k, l) + w_y W(k, l)),  F = |m_k − m'_l|² + tr S_k + tr S'_l (within = product)"
    hazards = (
        "With `within = product` it is not 0 for a data set with itself: the classes' spread stays in it. Take `within = transport`.",
        "A bound, not the distance: its order of sources need not be that of `otdd`.",
        "Label costs of classes with few images are too high: compare values at equal n only.",
    )
    citation = "Alvarez-Melis and Fusi 2020 (arXiv 2002.02923): a feasible coupling for their eq. 5"

    label_cost: Literal["gaussian", "exact", "means"] = option("gaussian", "distance between two classes: of Gaussians, by exact transport, or of means")
    label_weight: float = option(1.0, "factor of the distance between classes", minimum=0.0)
    class_weights: ClassWeights = option("empirical", "mass of a class: its share of the images (empirical), or the same for all (balanced)")
    within: Literal["product", "transport"] = option("product", "coupling of the images of two classes: all with all, or optimal")

    def predicted_seconds(self, first: LabelledCloud, second: LabelledCloud) -> tuple[float, float]:
        """Predicted times of the label costs and of the transport within pairs of classes."""
        return super().predicted_seconds(first, second)[0], label_costs_seconds([(first, second)], "exact") if self.within == "transport" else 0.0

    def solved(self, first: LabelledCloud, second: LabelledCloud) -> dict[str, Any]:
        """The transport of classes of a pair."""
        self.check_time(first, second)
        table = self.tables(first, second)
        features = self.feature_weight * (_product_costs(first, second) if self.within == "product" else shared_label_costs(first, second, "exact"))
        solved = exact_transport(features + table, first.priors, second.priors, keep_plan=True)
        assert solved.plan is not None
        label_part = float((solved.plan * table).sum())
        return {
            "value": solved.value, "converged": solved.converged, "flags": [f"not converged: {solved.reason}"] if solved.reason else [],
            "class_mass": solved.plan, "feature_part": solved.value - label_part, "label_part": label_part,
            "marginal_error": solved.marginal_error,
        }


def _product_costs(first: LabelledCloud, second: LabelledCloud) -> np.ndarray:
    """Mean of |x - x'|² over all pairs of images of two classes: |m - m'|² plus the mean squares around both means, float64 (K1, K2)."""
    moments = [[_moments(one.features[one.labels == k]) for k in range(len(one.classes))] for one in (first, second)]
    means, spreads = ([np.array([m[part] for m in side]) for side in moments] for part in (0, 1))
    gaps = means[0][:, None, :] - means[1][None, :, :]
    return np.asarray(np.einsum("kld,kld->kl", gaps, gaps) + spreads[0][:, None] + spreads[1])


def _moments(rows: np.ndarray) -> tuple[np.ndarray, float]:
    mean = rows.mean(0, dtype=np.float64)
    centred = rows - mean
    return mean, float(np.vdot(centred, centred) / len(rows))
