"""Density: how many target neighbourhoods each source image falls into."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simkit.estimators.base import Score
from simkit.estimators.neighbour_balls import BallEstimator, DistinctRows, held
from simkit.registry import option

__all__ = ["Density"]


@dataclass(frozen=True)
class Density(BallEstimator):
    """How densely the source lies where the target lies: mean number of target balls that hold a source image, divided by k.

    A ball reaches from a target image to its k-th nearest other *target* image. 0: no source image lies near a target image; about 1 for equal
    distributions of equal size; above 1, without limit, where the source crowds into the densest part of the target: it says nothing about how much of
    the target is covered (see ``coverage``). The target plays the part of the real data of the paper and the source that of the generated data.
    Balls are open, as in the authors' code (an image exactly on the border is outside), but always hold their centre, so that a set without
    copies with itself gives 1. Copies on both sides (black images) lift it far above 1: each then lies in the ball of every other.

    Cost: O(m² d) once a target and O(n m d) a pair, in tiles of some MiB.

    The detail holds k, n, d, median_radius and radius_zero (target images), and most_balls (of one source image).
    """

    name = "density"
    bounds = (0.0, None)
    unit = "target balls a source image, over k (equal distributions: about 1)"
    formula = "(1 / (k n)) Σ_i Σ_j [|x_i − t_j| < r_k(t_j)],  r_k(t) the distance of t to its k-th nearest other target image"
    hazards = (
        "It says nothing about how much of the target is reached: a source crowded into one dense spot scores above 1. Read it beside `coverage`.",
        "Copies on both sides (black images) lift it far above 1.",
        "For far sets it is 0, and cannot rank them: take `nearest-neighbour` or `energy`.",
    )
    citation = "Naeem et al. 2020, Reliable fidelity and diversity metrics for generative models (arXiv 2002.09797), section 3.1"

    k: int = option(5, "a ball reaches to the k-th nearest other target image", minimum=1)
    device: str = option("auto", "auto, cpu, cuda or cuda:1", recipe=False)

    def compare(self, source: DistinctRows, target: DistinctRows, rng: np.random.Generator) -> Score:
        """Mean number of target balls around a source image, over k; ``rng`` is not used.

        Raises:
            NotEnoughData: the target has k images or fewer (SK501).
        """
        balls = self.balls(target, source)
        times = held(balls, source, closed=False)
        detail = {**self.evidence(source, target, balls), "most_balls": int(times.max())}
        return Score(float(source.counts @ times) / (self.k * len(source)), True, detail)
