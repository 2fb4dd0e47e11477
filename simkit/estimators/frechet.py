"""Fréchet distance between the Gaussians fitted to two embeddings (the F in FID)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from simkit.embedding import Embedding
from simkit.errors import NotEnoughData
from simkit.estimators.base import FeatureEstimator, Score
from simkit.registry import option
from simkit.transport import Gaussian, gaussian_distance, gaussian_of
from simkit.transport.arrays import device_of, placed
from simkit.transport.gaussian import shifted

__all__ = ["Frechet", "frechet_seconds"]


@dataclass(frozen=True)
class Frechet(FeatureEstimator):
    """Squared Fréchet distance FD² between Gaussians fitted to the two embeddings, as FID tools report it (not its root).

    |m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½ with unbiased covariances: 0 for equal means and covariances, unbounded above, in squared units of the
    features. The trace term is the nuclear norm of a product of covariance factors, in float64: exact for singular covariances, never negative.

    ``covariance`` chooses what is compared: ``full``; ``diagonal``, sum (s1 - s2)² of the features' standard deviations in place of the trace terms;
    ``mean-only``, |m1 - m2|² alone; ``shrunk``, full covariances shrunk towards a multiple of the identity by Ledoit and Wolf's share, with divisor n as in
    scikit-learn. The share depends on n, so shrinking makes sizes no less important. With fewer images than features the full covariance is
    singular and the value far too high (flag ``n<d``): it falls with n, so compare values at equal n only, and look at the floor.

    Cost: O(n d) for fewer images than features and O(n d² + d³) for more, once a data set; O(r³ + r² d) a pair, with r = min(n - 1, d).

    The detail holds mean_part and covariance_part (their sum is the value), trace (of both covariances), n and d; for ``shrunk`` the shrinkage of both.
    """

    name = "frechet"
    size_biased = True
    unit = "squared feature units (FD², not its root)"
    version = 3
    formula = "|m₁ − m₂|² + tr S₁ + tr S₂ − 2 tr (S₁ S₂)^½"
    hazards = (
        "With fewer images than features it is far too high (flag n<d), and it falls with n: compare values at equal n only, beside the floor.",
        "Only means and covariances count: sets that differ in clusters or tails alone are at 0.",
        "In squared feature units: values of two extractors, and published FID values of another network, do not compare.",
    )
    citation = ("Dowson and Landau 1982, The Fréchet distance between multivariate normal distributions; Heusel et al. 2017 (arXiv 1706.08500), eq. 6; "
                "Ledoit and Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices")

    covariance: Literal["full", "diagonal", "mean-only", "shrunk"] = option(
        "full", "what of the covariances is compared: all, standard deviations, nothing, or all after shrinking (Ledoit-Wolf)")
    device: str = option("auto", "auto, cpu, cuda or cuda:1 (for full covariances)", recipe=False)

    def summarize(self, view: Embedding) -> Gaussian:
        """Mean and covariance factor.

        For ``diagonal`` the factor is one row, the standard deviations: the distance of two such factors is the sum of their squared differences.

        Raises:
            NotEnoughData: one image, which has no covariance (SK501).
        """
        n = len(view)
        if self.covariance != "mean-only" and n < 2:
            message = f"'{view.name}' has 1 image: a covariance needs at least 2"
            raise NotEnoughData("SK501", self.name, message, "give more images, or set covariance = mean-only")
        if self.covariance == "full":
            return gaussian_of(placed(view.features, device_of(self.device, where=f"{self.name}.device")))
        if self.covariance == "shrunk":
            return shrunk_gaussian(view.features)
        x = view.features.astype(np.float64)
        spread = x.std(0, ddof=1) if self.covariance == "diagonal" else np.zeros(x.shape[1])
        return Gaussian(x.mean(0), spread[None, :], float(spread @ spread), n)

    def compare(self, source: Gaussian, target: Gaussian, rng: np.random.Generator) -> Score:
        """FD² of a pair."""
        if self.covariance in ("full", "shrunk"):
            mean_part, covariance_part = gaussian_distance(source, target)
        else:
            gap, difference = source.mean - target.mean, source.factor - target.factor
            mean_part, covariance_part = float(gap @ gap), float(np.vdot(difference, difference))
        d = len(source.mean)
        detail: dict[str, Any] = {
            "mean_part": mean_part, "covariance_part": covariance_part, "trace": (source.trace, target.trace),
            "n": (source.count, target.count), "d": d, "covariance": self.covariance,
        }
        if self.covariance == "shrunk":
            detail["shrinkage"] = (source.shrinkage, target.shrinkage)
        flags = ["n<d"] if self.covariance == "full" and min(source.count, target.count) < d else []
        if self.covariance != "mean-only" and (source.is_point or target.is_point):
            flags.append("all images of a data set have equal features")
        return Score(mean_part + covariance_part, True, detail, flags=tuple(flags))

    def seconds(self, n_source: int, n_target: int) -> float | None:
        """Rough time of one pair on one core, at 512 features."""
        return frechet_seconds(n_source, n_target)


def frechet_seconds(n_source: int, n_target: int) -> float:
    """Rough time of two Gaussians of 512 features and their distance on one core."""
    rank = min(n_source, n_target, 512)
    return 0.003 + 6e-6 * (n_source + n_target) + 1.2e-10 * rank**3


def shrunk_gaussian(rows: np.ndarray) -> Gaussian:
    """Mean and Ledoit and Wolf's covariance of rows (n, d), with divisor n: (1 - s) S + s tr(S) / d I."""
    from sklearn.covariance import ledoit_wolf_shrinkage

    n, d = rows.shape
    plain = gaussian_of(rows)
    scale = (n - 1.0) / n
    share = float(ledoit_wolf_shrinkage(rows.astype(np.float64)))
    shift = share * scale * plain.trace / d
    if shift == 0.0:
        return replace(plain, factor=plain.factor * np.sqrt(scale), trace=plain.trace * scale, covariance=None, shrinkage=share)
    return replace(shifted(plain, (1.0 - share) * scale, shift), shrinkage=share)
