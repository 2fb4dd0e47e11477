"""OTCE: transport between the images of two data sets, and what it leaves unknown of the target's labels (Tan et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simkit.embedding import Embedding
from simkit.errors import DataError, NotEnoughData, ResourceError, UsageError
from simkit.estimators.base import Estimator, FeatureEstimator, Score
from simkit.estimators.labelled_cloud import LabelledCloud, labelled_cloud
from simkit.estimators.leep import label_entropy
from simkit.estimators.nce import negative_conditional_entropy
from simkit.estimators.point_transport import SINKHORN_SECONDS
from simkit.registry import option
from simkit.transport import exact_transport, exact_transport_memory, exact_transport_seconds, squared_distances
from simkit.transport.memory import size_text

__all__ = ["Otce", "target_spread"]


def target_spread(cloud: LabelledCloud) -> float:
    """Mean squared distance between two different images of a data set, in squared units of the features; 0 for one image."""
    n = len(cloud)
    return 2.0 * cloud.cloud.spread * n / (n - 1) if n > 1 else 0.0


@dataclass(frozen=True)
class Otce(FeatureEstimator):
    """OTCE: how far the source's images are from the target's, and how little the source's labels say about the target's, negated.

    The images of both sets are coupled by optimal transport of squared Euclidean distances: W is its cost, and the coupling tells which source images
    stand for which target images, so that ``CE = H(Y_t | Y_s)``, the entropy (nats) of the target's labels given the source's under the coupling.
    The value is ``-(transport_weight W / S + entropy_weight CE / H(Y_t))``, S the mean squared distance between two target images and H(Y_t) the
    entropy of the target's labels. 0 for the same images with the same partition into classes, without lower limit, without unit; higher is better.
    W / S is about 1 where a target image is as far from its source images as from another target image; CE / H(Y_t) is 1 where the source's labels
    say nothing about the target's.

    The paper weights W and CE by coefficients that it fits to transfer results on auxiliary tasks of the same kind, after standardising both over
    tasks. There are none to fit to here. So both parts are brought to a natural unit of the target, which is the same for all of its sources, and
    weigh the same by default. That is a choice, and the weights are options: ``transport_weight = 0`` ranks as F-OTCE (Tan et al. 2024), which needs
    no auxiliary tasks; fitted coefficients can be stated, with ``normalise = false``, for which the value is -(transport_weight W + entropy_weight CE)
    in squared feature units and nats (with weights of 1 the negative of what public code returns, where lower is better). Both parts are in the detail.

    ``regularisation`` 0 couples exactly (network simplex, up to ``exact_up_to`` images a side), as the authors' code does; their paper regularises by
    entropy: any number above 0 is the regularisation as a share of the mean cost between the two sets, for any size, flagged. W is then the cost of
    the regularised coupling, above the exact one, and CE is larger, as masses are spread. W falls with n even for equal distributions: compare values
    at equal n.

    The detail holds transport W, transport_part W / S, conditional_entropy CE, entropy_part CE / H(Y_t), target_spread S, label_entropy H(Y_t), n, d and
    classes of both sides, solver, marginal_error, duality_gap or iterations, and joint, the mass between source and target classes.
    """

    name = "otce"
    kind = "transferability"
    symmetric = False
    higher_is_better = True
    needs = ("labels",)
    bounds = (None, 0.0)
    size_biased = True
    unit = "transport in units of the target's spread + share of label entropy left, negated"
    formula = "−(w_W W / S + w_CE H(Y_t | Y_s) / H(Y_t)),  W the cost and H under the coupling min_P Σ_ij P_ij |x_i − x'_j|²"
    hazards = (
        "The paper fits the weights of both parts to transfer results; here they weigh alike, which is a choice: look at both parts in the detail.",
        "W falls with n even for equal distributions: compare values at equal n only.",
        "A far source can have a low conditional entropy by chance where it has many classes and the target few images.",
        "`regularisation` above 0 raises W and mostly the entropy: do not mix pairs that are coupled exactly and entropically.",
    )
    citation = ("Tan, Li and Huang 2021, OTCE: a transferability metric for cross-domain cross-task representations (arXiv 2103.13843); "
                "Tan et al. 2024, Transferability-guided cross-domain cross-task transfer learning (arXiv 2207.05510), F-OTCE")

    transport_weight: float = option(1.0, "factor of the transport part", minimum=0.0)
    entropy_weight: float = option(1.0, "factor of the conditional entropy part", minimum=0.0)
    normalise: bool = option(True, "divide W by the target's mean squared distance and CE by the entropy of its labels")
    regularisation: float = option(0.0, "0: exact coupling; else entropic, as a share of the mean cost between the two sets", minimum=0.0)
    exact_up_to: int = option(5000, "most images a side that are coupled exactly (5000 take 1.1 GiB and about 10 s)", minimum=1)
    max_images: int | None = option(None, "take a random sample of at most so many images of a data set, classes in proportion; flagged", minimum=2)
    sample_seed: int = option(0, "of the sample that max_images takes", minimum=0)
    tolerance: float = option(0.001, "entropic: marginal error (of a mass of 1) that counts as converged", above=0.0, maximum=0.1)
    passes: int = option(1000, "entropic: most passes over the cost", minimum=1)
    device: str = option("auto", "entropic: auto, cpu, cuda or cuda:1", recipe=False)

    def __post_init__(self) -> None:
        if self.transport_weight == 0 and self.entropy_weight == 0:
            raise UsageError("SK102", self.name, "transport_weight and entropy_weight are both 0: the value is 0 whatever the data", "give a positive weight")
        if not self.normalise:
            object.__setattr__(self, "unit", "squared feature units + nats, negated")

    def settled(self, n_source: int, n_target: int) -> Estimator:
        """The measure itself, where its solver takes data sets of these sizes.

        Raises:
            ResourceError: more images than are coupled exactly (SK301, with the price).
        """
        n, m = (min(size, self.max_images or size) for size in (n_source, n_target))
        if self.regularisation == 0 and max(n, m) > self.exact_up_to:
            price = f"{n} x {m} need {size_text(exact_transport_memory(n, m))} and about {exact_transport_seconds(n, m):.0f} s"
            message = f"{max(n, m)} images, an exact coupling takes at most {self.exact_up_to} a side (option exact_up_to): {price}"
            fix = f"set regularisation = 0.01 (entropic, any size), max_images = {self.exact_up_to}, or exact_up_to = {max(n, m)} to allow it"
            raise ResourceError("SK301", self.name, message, fix)
        return self

    def seconds(self, n_source: int, n_target: int) -> float | None:
        """Rough time of one pair on one core, at 512 features."""
        n, m = (min(size, self.max_images or size) for size in (n_source, n_target))
        return 0.2 + SINKHORN_SECONDS * n * m if self.regularisation else 0.05 + exact_transport_seconds(n, m)

    def summarize(self, view: Embedding) -> LabelledCloud:
        """Rows in the order of their content, with their classes.

        Raises:
            DataError: no labels (SK208), NaN or infinite features (SK210).
        """
        if view.labels is None:
            raise DataError("SK208", view.name, f"{self.name} needs labels, '{view.name}' has none", "give labels (a folder per class, or a label column)")
        if not np.isfinite(view.features).all():
            raise DataError("SK210", view.name, "features hold NaN or infinite values", "remove or recompute these rows")
        return labelled_cloud(view, "exact", max_images=self.max_images, seed=self.sample_seed)

    def compare(self, source: LabelledCloud, target: LabelledCloud, rng: np.random.Generator) -> Score:
        """The score of a pair with both parts; ``rng`` is not used.

        Raises:
            NotEnoughData: one class in the target (SK501); target images that are all alike (SK502).
            ResourceError: too many images for an exact coupling (SK301).
        """
        self.settled(len(source), len(target))
        entropy, spread = label_entropy(target.labels), target_spread(target)
        if len(target.classes) < 2:
            message = f"{self.name} needs at least two classes of the target, all {len(target)} images of '{target.name}' have one"
            raise NotEnoughData("SK501", target.name, message, "check the label column, or leave the target out")
        if self.normalise and spread <= 0:
            message = f"{self.name}: all images of '{target.name}' have the same features, which gives no unit for W"
            raise NotEnoughData("SK502", target.name, message, "check the extractor, or set normalise = false")
        found = self._entropic(source, target) if self.regularisation else self._exact(source, target)
        cost, mass, converged = found.pop("transport"), found.pop("mass"), found.pop("converged")
        left = 0.0 - negative_conditional_entropy(mass.T / mass.sum())  # given the source's class
        parts = (cost / spread, left / entropy) if self.normalise else (cost, left)
        value = 0.0 - (self.transport_weight * parts[0] + self.entropy_weight * parts[1])
        detail: dict[str, Any] = {
            "transport": cost, "conditional_entropy": left, "transport_part": parts[0], "entropy_part": parts[1], "target_spread": spread,
            "label_entropy": entropy, "n": (len(source), len(target)), "d": int(target.features.shape[1]),
            "classes": (len(source.classes), len(target.classes)), **found,
            "joint": {"source": source.classes, "target": target.classes, "mass": mass.tolist()},
        }
        return Score(value, converged, detail, flags=tuple(self._flags(source, target, converged=converged)))

    def _flags(self, source: LabelledCloud, target: LabelledCloud, *, converged: bool) -> list[str]:
        clouds = (source, target) if source is not target else (source,)
        flags = [f"{len(one)} of {one.total} images of {one.name} (max_images)" for one in clouds if len(one) < one.total]
        if self.regularisation:
            flags.append(f"entropic coupling ({self.regularisation:g} of the mean cost)")
        if not converged:
            flags.append("not converged: the coupling")
        return flags

    def _exact(self, source: LabelledCloud, target: LabelledCloud) -> dict[str, Any]:
        found = exact_transport(squared_distances(source.features, target.features), source.weights, target.weights, keep_plan=True)
        assert found.plan is not None
        rows = np.zeros((len(source.classes), len(target)))
        for k in range(len(source.classes)):
            rows[k] = found.plan[source.labels == k].sum(0)
        mass = rows @ np.eye(len(target.classes))[target.labels]
        return {"transport": found.value, "mass": mass, "converged": found.converged, "solver": "exact", "marginal_error": found.marginal_error,
                "duality_gap": found.duality_gap}

    def _entropic(self, source: LabelledCloud, target: LabelledCloud) -> dict[str, Any]:
        from simkit.device import resolve_device
        from simkit.transport.sinkhorn import LabelCosts, Settings, sinkhorn_divergence

        device = resolve_device(self.device, where=f"{self.name}.device")
        if device.type == "mps":  # no float64 there, which potentials need
            if self.device == "mps":
                raise UsageError("SK106", f"{self.name}.device", "the solver needs float64, which Metal (mps) does not have", "set device = cpu")
            device = resolve_device("cpu")
        nothing = np.zeros((len(source.classes), len(target.classes)))
        costs = LabelCosts(nothing, np.zeros((1, 1)), np.zeros((1, 1)))
        settings = Settings(self.tolerance, self.passes, device)
        found = sinkhorn_divergence(source.cloud, target.cloud, costs, epsilon=self.regularisation, debias=False, settings=settings).cross
        return {"transport": max(0.0, found.feature_part), "mass": found.class_mass, "converged": found.converged, "solver": "sinkhorn",
                "marginal_error": found.marginal_error, "iterations": found.passes}
