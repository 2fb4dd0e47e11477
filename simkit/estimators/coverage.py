"""Coverage: the share of the target that the source reaches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simkit.estimators.base import Score
from simkit.estimators.neighbour_balls import BallEstimator, DistinctRows, inside, nearest
from simkit.registry import option

__all__ = ["Coverage"]


@dataclass(frozen=True)
class Coverage(BallEstimator):
    """Does the source cover the target? Share of target images near which there is a source image.

    Near means closer than the image's k-th nearest other *target* image. 0: no target image has a source image near it; 1: all have. Equal distributions
    of equal size give about 1 - 2^-k (.969 for k = 5), not 1; a set with itself gives 1. The target plays the part of the real data
    of the paper and the source that of the generated data. It rises with the size of the source, since radii follow from the target alone: compare values at
    equal sizes only. Balls are open, as in the authors' code (an image exactly on the border is outside), but always hold their centre, so that a target
    image with k exact copies, whose radius is 0 (counted in the detail as radius_zero), is covered by one more.

    Cost: O(m² d) once a target and O(n m d) a pair, in tiles of some MiB; above 2^24 distances by faiss on the CPU, one thread where BLAS has one.

    The detail holds k, n, d, median_radius and radius_zero (target images).
    """

    name = "coverage"
    unit = "share of target images"
    formula = "(1/m) Σ_j [some |x_i − t_j| < r_k(t_j)],  r_k(t) the distance of t to its k-th nearest other target image"
    hazards = (
        "It rises with the size of the source, as radii follow from the target alone: compare values at equal sizes only.",
        "Equal distributions give about 1 − 2^−k (.969 at k = 5), not 1.",
        "For far sets it is 0, and cannot rank them: take `nearest-neighbour` or `energy`.",
    )
    citation = "Naeem et al. 2020, Reliable fidelity and diversity metrics for generative models (arXiv 2002.09797), section 3.2"

    k: int = option(5, "a ball reaches to the k-th nearest other target image", minimum=1)
    device: str = option("auto", "auto, cpu, cuda or cuda:1", recipe=False)

    def compare(self, source: DistinctRows, target: DistinctRows, rng: np.random.Generator) -> Score:
        """Share of target images whose ball holds a source image; ``rng`` is not used.

        Raises:
            NotEnoughData: the target has k images or fewer (SK501).
        """
        balls = self.balls(target, source)
        _, squared = nearest(target.points, source.points, 1)
        covered = inside(squared[:, 0], balls.radii, closed=False)
        return Score(float(target.counts @ covered) / len(target), True, self.evidence(source, target, balls))
