"""Intrinsic dimension: how many coordinates a data set needs locally."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from simkit.embedding import Embedding
from simkit.errors import NotEnoughData
from simkit.estimators.base import Score
from simkit.estimators.neighbour_balls import distinct_rows, nearest, work_seconds
from simkit.estimators.pairwise import announced, pairwise_seconds
from simkit.estimators.vendi import Descriptor
from simkit.registry import option

__all__ = ["IntrinsicDimension"]

DISCARDED = 0.1
"""Share of images with the largest ratio of distances that the fit of two-nn leaves out (Facco et al., section Methods)."""


@dataclass(frozen=True)
class IntrinsicDimension(Descriptor):
    """Intrinsic dimension of the source's features: how many coordinates the images need locally, from their nearest neighbours.

    ``two-nn`` (Facco et al.): the slope through the origin of -log(1 - i / n) against log(r2 / r1), r1 and r2 the distances to the two nearest other images,
    sorted, the largest tenth left out. ``mle`` (Levina and Bickel): one over the mean of log(r_k / r_j) over images and j = 1 ... k - 1, that is,
    their estimates averaged as inverses (MacKay and Ghahramani); smoother, and on a larger scale. From 0 upwards, without upper limit; in high
    dimensions too low at any practical n, and growing with n, so compare sources at equal sizes only. A property of the source alone, the same for
    every target: it says nothing about similarity. Higher is taken to be better, though what is easy to learn often has a low one.

    Images of equal features say nothing about dimension and count once; the detail says how many were left out (duplicates).

    Cost: O(n² d) a source, in tiles of some MiB; above 2^24 distances by faiss on the CPU, one thread where BLAS has one.

    The detail holds estimator, k, images (distinct ones that were used), duplicates, n and d.
    """

    name = "intrinsic-dimension"
    bounds = (0.0, None)
    unit = "dimensions"
    formula = "two-nn: slope through 0 of −ln(1 − i/n) against ln(r₂/r₁);  mle: 1 / mean of ln(r_k / r_j), j < k"
    hazards = (
        *Descriptor.hazards,
        "High dimensions are underestimated at any practical n, and it grows with n: compare sources at equal sizes only.",
        "Higher counts as better here, though what is easy to learn often has a low one: look at its sign in your own results.",
        "Near-copies (video frames, augmented images) pull it towards 0, less so with `estimator = mle`: one in ten is enough. Remove them first.",
    )
    citation = ("Facco et al. 2017, Estimating the intrinsic dimension of datasets by a minimal neighborhood information (Sci. Rep. 7); Levina, Bickel 2004, "
                "Maximum likelihood estimation of intrinsic dimension (NIPS 17), eq. 8; MacKay and Ghahramani 2005, comments on it")

    estimator: Literal["two-nn", "mle"] = option("two-nn", "from the two nearest neighbours, or from k of them")
    k: int = option(20, "neighbours of mle; two-nn always takes 2", minimum=2)
    device: str = option("auto", "auto, cpu, cuda or cuda:1", recipe=False)

    def describe(self, view: Embedding) -> Score:
        """The intrinsic dimension of a data set.

        Raises:
            NotEnoughData: too few distinct images, or each image's neighbours are all equally far (SK501).
        """
        k = 2 if self.estimator == "two-nn" else self.k
        rows = distinct_rows(view, self.where())
        distinct, least = len(rows.points), max(k + 1, 3)
        if distinct < least:
            message = f"'{view.name}' has {distinct} distinct image{'' if distinct == 1 else 's'}: {self.estimator} with {k} neighbours needs at least {least}"
            fix = f"set k to at most {distinct - 1}" if self.estimator == "mle" and distinct > 2 else "give more images"
            raise NotEnoughData("SK501", self.name, message, fix)
        announced(self.name, view.name, view.name, work_seconds(rows, rows), f"{k} nearest neighbours of {distinct} images")
        _, squared = nearest(rows.points, rows.points, k, within=True)
        half_logs = 0.5 * np.log(squared)
        value = _two_nn(half_logs) if self.estimator == "two-nn" else _mle(half_logs)
        if value is None:
            message = f"'{view.name}': the {k} nearest neighbours of each image are equally far, which no dimension explains"
            raise NotEnoughData("SK501", self.name, message, "set estimator = mle with a larger k, or give more images")
        detail: dict[str, Any] = {
            "estimator": self.estimator, "k": k, "images": distinct, "duplicates": len(view) - distinct, "n": len(view), "d": view.dimension,
        }
        return Score(value, True, detail)

    def seconds(self, n_source: int, n_target: int) -> float | None:
        """Rough time of one source on one core, at 512 features."""
        return 0.005 + pairwise_seconds(float(n_source) ** 2, 512)


def _two_nn(logs: np.ndarray) -> float | None:
    """Slope of -log(1 - F) against log(r2 / r1) from logarithms of distances (n, 2); None where all ratios that are used are 1."""
    n = len(logs)
    ratio = np.sort(logs[:, 1] - logs[:, 0])[: max(1, int(n * (1.0 - DISCARDED)))]
    expected = -np.log1p(-np.arange(1, len(ratio) + 1) / n)
    spread = float(ratio @ ratio)
    return float(ratio @ expected) / spread if spread > 1e-20 else None


def _mle(logs: np.ndarray) -> float | None:
    """One over the mean of log(r_k / r_j), j < k, from logarithms of distances (n, k); None where that is 0."""
    mean = float(np.mean(logs[:, -1:] - logs[:, :-1]))
    return 1.0 / mean if mean > 1e-10 else None
