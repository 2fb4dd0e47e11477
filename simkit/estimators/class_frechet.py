"""Fréchet distance class by class: Gaussians of the classes, and optimal transport between the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from simkit.embedding import Embedding
from simkit.estimators.base import FeatureEstimator, Known, Score
from simkit.estimators.labelled_cloud import ClassWeights, LabelledCloud, labelled_cloud, single_image_flag
from simkit.estimators.point_transport import LABEL_FREE
from simkit.registry import option
from simkit.transport import exact_transport, gaussian_distances, gaussian_distances_seconds

__all__ = ["ClassEstimator", "ClassFrechet"]


@dataclass(frozen=True)
class ClassEstimator(FeatureEstimator):
    """A measure that moves the classes of one data set onto those of another: what class-frechet and class-mean-emd share."""

    name = ""
    needs = ("labels",)
    size_biased = True

    class_weights: ClassWeights = option("empirical", "mass of a class: its share of the images, or the same for all")

    def missing(self, known: Known, role: Literal["source", "target"]) -> str:
        """Why the measure cannot be computed: labels."""
        reason = super().missing(known, role)
        return f"{reason}; {LABEL_FREE}" if reason else reason

    def table(self, source: LabelledCloud, target: LabelledCloud) -> np.ndarray:
        """Cost of moving each class of the source onto each of the target, float64 (K1, K2)."""
        raise NotImplementedError

    def transported(self, source: LabelledCloud, target: LabelledCloud) -> tuple[float, bool, dict[str, Any]]:
        """Least cost of moving the masses of the classes, and the evidence. Solved in one order of the two, so that they can be swapped."""
        swapped = source.digest > target.digest
        first, second = (target, source) if swapped else (source, target)
        found = exact_transport(self.table(first, second), first.priors, second.priors, keep_plan=True)
        assert found.plan is not None
        mass = found.plan.T if swapped else found.plan
        detail = {
            "class_coupling": {"source": source.classes, "target": target.classes, "mass": mass.tolist()}, "n": (len(source), len(target)),
            "classes": (len(source.classes), len(target.classes)), "duality_gap": found.duality_gap,
        }
        return found.value, found.converged, detail


@dataclass(frozen=True)
class ClassFrechet(ClassEstimator):
    """Least cost of moving the classes of one data set onto those of the other, where moving a class costs the squared Fréchet distance of the classes.

    Every class is a Gaussian and has the share of its images as mass; the cost of a pair of classes is |m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½, exact for
    classes with fewer images than features. 0 for the same classes, whatever they are called, unbounded above, in squared units of the features. With one
    class on both sides it is ``frechet``. It is the inner problem of OTDD: where the classes lie, without the images in them.

    ``covariance`` chooses what of a class counts: ``full``; ``diagonal``, only standard deviations; ``means``, only where it lies. With few images per class
    full covariances are singular and their distances far too high, so that the floor is enormous: compare at equal sizes, or take ``diagonal`` or ``means``.

    Cost: O(n d min(n_c, d)) a data set with n_c images per class, O(K1 K2 r³) a pair with r = min(n_c - 1, d).

    The detail holds class_coupling (which class of the source feeds which class of the target), n and classes.
    """

    name = "class-frechet"
    unit = "squared feature units (FD², not its root)"
    formula = "min_Q Σ_kl Q_kl (|m_k − m'_l|² + tr S_k + tr S'_l − 2 tr (S_k S'_l)^½)"
    hazards = (
        "Classes with fewer images than features are far too far apart (flag): try `covariance = diagonal`, or `covariance = means`.",
        "Shares of classes are masses, so two sets of the same classes in other shares are apart: try `class_weights = balanced`.",
        "It depends on the number of images in each class: compare values at equal n only, beside the floor.",
    )
    citation = ("Alvarez-Melis and Fusi 2020, Geometric dataset distances via optimal transport (arXiv 2002.02923), section 4 (distances of classes); "
                "Dowson and Landau 1982")

    covariance: Literal["full", "diagonal", "means"] = option("full", "what of the classes' covariances is compared: all, standard deviations, or nothing")

    def summarize(self, view: Embedding) -> LabelledCloud:
        """Mean and covariance factor of each class; one image has covariance 0 (flag)."""
        return labelled_cloud(view, "means" if self.covariance == "means" else "gaussian", class_weights=self.class_weights)

    def table(self, source: LabelledCloud, target: LabelledCloud) -> np.ndarray:
        """Squared distances of all pairs of classes."""
        if self.covariance != "diagonal":
            return gaussian_distances(source.gaussians, target.gaussians)
        sides = []
        for cloud in (source, target):
            spreads = [np.sqrt(np.einsum("ij,ij->j", g.factor, g.factor)) for g in cloud.gaussians]
            sides.append(np.concatenate([np.stack([g.mean for g in cloud.gaussians]), np.stack(spreads)], axis=1))
        return np.stack([((sides[1] - one) ** 2).sum(1) for one in sides[0]])  # a row at a time: a thousand classes a side are no cube of gaps

    def compare(self, source: LabelledCloud, target: LabelledCloud, rng: np.random.Generator) -> Score:
        """The least cost of a pair; ``rng`` is not used."""
        value, converged, detail = self.transported(source, target)
        clouds = (source, target) if source is not target else (source,)
        flags = [] if self.covariance == "means" else [single_image_flag(cloud) for cloud in clouds if cloud.single]
        d = source.features.shape[1]
        if self.covariance == "full" and min(int(cloud.counts.min()) for cloud in clouds) < d:
            flags.append("n<d in a class")
        return Score(value, converged, {**detail, "d": d, "covariance": self.covariance}, flags=tuple(flags))

    def seconds(self, n_source: int, n_target: int) -> float | None:
        """Rough time of one pair on one core, at 512 features and ten classes."""
        return 0.01 + gaussian_distances_seconds([min(n_source // 10 + 1, 512)] * 10, [min(n_target // 10 + 1, 512)] * 10, 512)
