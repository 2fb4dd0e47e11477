"""Recall: the share of the target that lies within the source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simkit.estimators.base import Score
from simkit.estimators.neighbour_balls import BallEstimator, DistinctRows, held
from simkit.estimators.pairwise import pairwise_seconds
from simkit.registry import option

__all__ = ["Recall"]


@dataclass(frozen=True)
class Recall(BallEstimator):
    """Does the source contain the target? Share of target images that lie in the ball of some source image.

    A ball reaches from a source image to its k-th nearest other *source* image, that one included (balls are closed, as in the paper). 0: every target
    image lies outside the source; 1: none does; a set with itself gives 1. Equal distributions give less than 1 (.89 for k = 3 on digits), the less the
    fewer the images and the more the dimensions. Balls follow from the source, so a sparse source, or one with strangers in it, has large ones and
    scores high (it can rise when strangers are mixed in): ``coverage`` asks the same question with balls of the target. The target plays the
    part of the real data of the paper and the source that of the generated data.

    Cost: O(n² d) once a source and O(n m d) a pair, in tiles of some MiB.

    The detail holds k, n, d, median_radius and radius_zero (source images).
    """

    name = "recall"
    unit = "share of target images"
    formula = "(1/m) Σ_j [some |t_j − x_i| ≤ r_k(x_i)],  r_k(x) the distance of x to its k-th nearest other source image"
    hazards = (
        "A sparse source, or one with strangers in it, has large balls and scores high: `coverage` asks the same with balls of the target.",
        "It asks what the source can reach, in whatever share: it does not order mixtures of near and far images.",
        "Equal distributions give less than 1, the less the fewer images and the more dimensions: compare values at equal sizes only.",
    )
    citation = "Kynkäänniemi et al. 2019, Improved precision and recall metric for assessing generative models (arXiv 1904.06991), eq. 1 and 2"

    k: int = option(3, "a ball reaches to the k-th nearest other source image", minimum=1)
    device: str = option("auto", "auto, cpu, cuda or cuda:1", recipe=False)

    def compare(self, source: DistinctRows, target: DistinctRows, rng: np.random.Generator) -> Score:
        """Share of target images in a source ball; ``rng`` is not used.

        Raises:
            NotEnoughData: the source has k images or fewer (SK501).
        """
        balls = self.balls(source, target)
        within = held(balls, target, closed=True) > 0
        return Score(float(target.counts @ within) / len(target), True, self.evidence(source, target, balls))

    def seconds(self, n_source: int, n_target: int) -> float | None:
        """Rough time of one pair on one core at 512 features, the source's balls included (they are made once a source)."""
        return 0.005 + pairwise_seconds(float(n_source) * n_target + float(n_source) ** 2, 512)
