"""NLEEP: LEEP with the components of a Gaussian mixture of the features in the place of the head's outputs (Li et al. 2021)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from simkit.errors import NotEnoughData, ResourceError
from simkit.estimators.base import NetworkEstimator, Score
from simkit.estimators.leep import effective_outputs, leep, output_evidence
from simkit.estimators.seen import Seen
from simkit.registry import option
from simkit.transport.interruption import go_on

__all__ = ["Mixture", "NLeep", "mixture", "mixture_seconds", "principal_components"]

TYPICAL = 20
"""Iterations of expectation-maximisation on which predicted times are based."""


def principal_components(features: np.ndarray, share: float) -> np.ndarray:
    """Scores of the fewest principal components that hold more than ``share`` of the variance, float64 (n, k), in units of the first one's deviation.

    The unit makes what follows independent of the scale of the features: a Gaussian mixture adds 1e-6 to the variances of its components.

    Args:
        features: (n, d).
        share: 0 to 1.

    Raises:
        NotEnoughData: all rows are alike (SK502).
    """
    from sklearn.decomposition import PCA

    rows = features.astype(np.float64)
    rows -= rows.mean(0)
    if float(np.abs(rows).max()) <= 1e-12 * float(np.abs(features).max()):
        raise NotEnoughData("SK502", "nleep", "all images have the same features: they have no principal components", "check the network and its layer")
    scores = PCA(n_components=share if share < 1 else None, copy=False).fit_transform(rows)
    return np.asarray(scores / scores[:, 0].std())


@dataclass(frozen=True, eq=False)
class Mixture:
    """What a Gaussian mixture says of the rows that it was fitted to.

    Attributes:
        responsibilities: float64 (n, K), rows of sum 1.
        converged: whether the lower bound of the likelihood settled.
        iterations: of expectation-maximisation.
    """

    responsibilities: np.ndarray
    converged: bool
    iterations: int


def mixture(
    rows: np.ndarray, components: int, *, covariance: Literal["full", "diag"] = "full", seed: int = 0, starts: int = 1, iterations: int = 100,
) -> Mixture:
    """scikit-learn's GaussianMixture, started from k-means with ``seed``; the result depends on the order of the rows, in which k-means draws.

    Args:
        rows: (n, k).
        components: K, at most n.
        covariance: of each component.
        seed: of the starts.
        starts: of which the one with the highest likelihood is taken.
        iterations: most that are made.

    Raises:
        NotEnoughData: a covariance could not be factorised (SK502).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    go_on()
    model = GaussianMixture(components, covariance_type=covariance, random_state=seed, n_init=starts, max_iter=iterations)
    with threadpool_limits(limits=1, user_api="openmp"), warnings.catch_warnings():  # BLAS inside scikit-learn's own threads may hang (OpenBLAS says)
        warnings.simplefilter("ignore", ConvergenceWarning)  # read from the result instead; k-means warns where rows repeat
        try:
            responsibilities = model.fit(rows).predict_proba(rows)
        except ValueError as error:
            if "covariance" not in str(error):
                raise
            message = f"a mixture of {components} components in {rows.shape[1]} dimensions is not defined on {len(rows)} images (a covariance is singular)"
            raise NotEnoughData("SK502", "nleep", message, "set components to fewer a class, or covariance = diag") from error
    go_on()
    return Mixture(responsibilities / responsibilities.sum(1, keepdims=True), bool(model.converged_), int(model.n_iter_))


def mixture_seconds(n: int, components: int, dimensions: int, covariance: Literal["full", "diag"]) -> float:
    """Rough time of :func:`mixture` on one core: measured 9 s an iteration at n = 2000, 50 components, 302 dimensions (diagonal: 0.12 s)."""
    entries = float(n) * components * dimensions
    return TYPICAL * (2e-9 * entries * dimensions if covariance == "full" else 4e-9 * entries)


@dataclass(frozen=True)
class NLeep(NetworkEstimator):
    """NLEEP: how well the clusters of the target in the features of the source's network predict the target's labels.

    LEEP (see ``leep``) with theta_i(z) the responsibility of component z of a Gaussian mixture for image i. Features are projected on the principal
    components that hold ``variance`` of their variance and divided by the deviation of the first; the mixture has ``components`` for each class of the
    target (5 C, as published). It needs no head. In nats, from -H(Y) (clusters say nothing about the labels) to 0 (each cluster is of one class);
    higher is better. With its logarithm, as published: several public copies leave it out, which gives another order of sources.

    Not determined by the data alone: the mixture is a local optimum, started from k-means with ``seed``, which draws rows in the order of their
    content. Eight seeds gave -0.140 to -0.170 on digits; a difference of that size between two sources says nothing. Features that are scaled, shifted or
    rotated are other content, so they act as another seed; for rows in a given order the value does not change (:func:`principal_components`). Where
    images are few for the number of components, clusters of a few images fit any labels: flagged. Cost: O(n K k²) an iteration for full
    covariances, 18 s at 2,000 images of 512 features in noise (302 components of the variance), 1.4 s with ``covariance = diag``.

    The detail holds n, d, classes, outputs (components), dimensions (k), label_entropy, effective_outputs, chance_gain, iterations.
    """

    name = "nleep"
    bounds = (None, 0.0)
    unit = "nats (mean log-likelihood)"
    formula = "(1/n) Σ_i ln Σ_z P(y_i | z) θ_i(z),  θ_i(z) the responsibilities of a Gaussian mixture of the target's features"
    hazards = (
        "The mixture is a local optimum: eight seeds gave −0.140 to −0.170 on digits. Such differences say nothing; try several `seed`s, or `starts`.",
        "Few images for the number of components: clusters of a few images fit any labels (flag). Lower `components`, or set `covariance = diag`.",
        "Several public copies leave the logarithm out, which gives another order of sources: their values do not compare.",
    )
    citation = "Li et al. 2021, Ranking neural checkpoints (arXiv 2011.11200), N-LEEP"

    components: int = option(5, "components of the mixture for each class of the target", minimum=1)
    variance: float = option(0.8, "share of the variance that the principal components hold", above=0.0, maximum=1.0)
    covariance: Literal["full", "diag"] = option("full", "of each component: full (as published), or diagonal (for few images)")
    iterations: int = option(100, "most iterations of expectation-maximisation", minimum=1)
    starts: int = option(1, "mixtures that are fitted; the one with the highest likelihood counts", minimum=1)
    seed: int = option(0, "of the starts of the mixture", minimum=0)
    max_hours: float = option(2.0, "longest predicted time of a mixture that is started", above=0.0, recipe=False)

    def assess(self, seen: Seen, rng: np.random.Generator) -> Score:
        """The score of the pair; ``rng`` is not used, the mixture starts from ``seed``.

        Raises:
            NotEnoughData: more components than images (SK501); features that are all alike, or a singular mixture (SK502).
            ResourceError: it would take longer than ``max_hours`` (SK301).
        """
        assert seen.labels is not None
        n, classes = len(seen), int(seen.labels.max()) + 1
        count = self.components * classes
        if count > n:
            message = f"{count} components ({self.components} for each of {classes} classes) are more than the {n} images of {seen.target}"
            most = n // classes
            fix = f"set components = {most} or fewer, or give more images" if most else "give more images"
            raise NotEnoughData("SK501", seen.target, f"{self.name}: {message}", fix)
        found, width = seen.once(count, lambda: self._mixture(seen, count))
        outputs = effective_outputs(found.responsibilities)
        detail, flags = output_evidence(outputs, count, seen.labels, method=self.name, target=seen.target, what="components")
        if self.covariance == "full" and n < count * (width + 1):
            flags = (*flags, f"{n} images for {count} full covariances in {width} dimensions: components hold single images (try covariance = diag)")
        if not found.converged:
            flags = (*flags, f"not converged: mixture, after {found.iterations} iterations")
        more: dict[str, Any] = {"d": seen.dimension, "dimensions": width, "iterations": found.iterations, "covariance": self.covariance, "seed": self.seed}
        return Score(leep(found.responsibilities, seen.labels), found.converged, {**detail, **more}, flags=flags)

    def _mixture(self, seen: Seen, count: int) -> tuple[Mixture, int]:
        """The mixture, which does not read the labels, and the number of principal components."""
        rows = principal_components(seen.features, self.variance)
        self._check_time(len(seen), count, rows.shape[1], f"{self.name} of {seen.target} by {seen.source}")
        found = mixture(rows, count, covariance=self.covariance, seed=self.seed, starts=self.starts, iterations=self.iterations)
        return found, int(rows.shape[1])

    def _check_time(self, n: int, count: int, width: int, where: str) -> None:
        hours = self.starts * mixture_seconds(n, count, width, self.covariance) / 3600
        if hours > self.max_hours:
            message = f"would take about {hours:.2g} h, the limit is {self.max_hours:g} h: {count} components of {n} images in {width} dimensions"
            less = "covariance = diag, " if self.covariance == "full" else ""
            raise ResourceError("SK301", where, message, f"set {less}fewer components, a smaller variance, or max_hours = {1.2 * hours:.2g} to wait")
