"""Precision: the share of the source that lies within the target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simkit.estimators.base import Score
from simkit.estimators.neighbour_balls import BallEstimator, DistinctRows, held
from simkit.registry import option

__all__ = ["Precision"]


@dataclass(frozen=True)
class Precision(BallEstimator):
    """Does the source stay within the target? Share of source images that lie in the ball of some target image.

    A ball reaches from a target image to its k-th nearest other *target* image, that one included (balls are closed, as in the paper). 0: every source
    image lies outside the target; 1: none does; a set with itself gives 1. Equal distributions give less than 1 (.89 for k = 3 on digits), the less the
    fewer the images and the more the dimensions. One far outlier of the target has a ball that holds everything between (``density`` and
    ``coverage`` are robust against it). The target plays the part of the real data of the paper and the source that of the generated data.

    Cost: O(m² d) once a target and O(n m d) a pair, in tiles of some MiB.

    The detail holds k, n, d, median_radius and radius_zero (target images).
    """

    name = "precision"
    unit = "share of source images"
    formula = "(1/n) Σ_i [some |x_i − t_j| ≤ r_k(t_j)],  r_k(t) the distance of t to its k-th nearest other target image"
    hazards = (
        "One far outlier of the target has a ball that holds everything between: `density` and `coverage` are robust against it.",
        "A source that shows one kind of target image only can have 1: read it beside `recall` or `coverage`.",
        "Equal distributions give less than 1, the less the fewer images and the more dimensions: compare values at equal sizes only.",
    )
    citation = "Kynkäänniemi et al. 2019, Improved precision and recall metric for assessing generative models (arXiv 1904.06991), eq. 1 and 2"

    k: int = option(3, "a ball reaches to the k-th nearest other target image", minimum=1)
    device: str = option("auto", "auto, cpu, cuda or cuda:1", recipe=False)

    def compare(self, source: DistinctRows, target: DistinctRows, rng: np.random.Generator) -> Score:
        """Share of source images in a target ball; ``rng`` is not used.

        Raises:
            NotEnoughData: the target has k images or fewer (SK501).
        """
        balls = self.balls(target, source)
        within = held(balls, source, closed=True) > 0
        return Score(float(source.counts @ within) / len(source), True, self.evidence(source, target, balls))
