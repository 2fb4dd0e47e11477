"""Fréchet distance extrapolated to infinitely many images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simkit.embedding import Embedding
from simkit.errors import NotEnoughData
from simkit.estimators.base import FeatureEstimator, Score
from simkit.estimators.frechet import frechet_seconds
from simkit.estimators.pairwise import Points, points
from simkit.recipe import rng_for
from simkit.registry import option
from simkit.transport import Gaussian, gaussian_distance, gaussian_of
from simkit.transport.arrays import device_of

__all__ = ["FrechetInfinity"]

SMALLEST = 20
"""Fewest images of a side."""


@dataclass(frozen=True)
class FrechetInfinity(FeatureEstimator):
    """Squared Fréchet distance FD² at infinitely many images: the intercept of a line through its values at several sample sizes n, against 1/n.

    The bias of FD² is about c / n once n exceeds twice the number of features d. With all sizes above 2 d the intercept is nearer to the truth than FD² at all
    images by a factor of 2 to 13 (Gaussians of known distance; it scatters 1.5 to 2 times as much). Below that the line bends (flag): with 2 d images half of
    the bias is left, with n < d nearly all. 0 for equal Gaussians (below 0 by chance), unbounded above, in squared units of the features.

    Both sets are cut to the same sizes: ``steps`` of them, evenly spaced in 1/n, from ``smallest`` of the smaller set to all of it, each a random
    sample without replacement, nested. All pairs of one ``sample_seed`` see the same samples of a data set.

    Cost: ``steps`` times that of ``frechet``.

    The detail holds sizes, values, slope, residual (standard deviation about the line), n and d.
    """

    name = "frechet-infinity"
    size_biased = True
    bounds = (None, None)
    unit = "squared feature units (FD², not its root)"
    formula = "a of the line FD²(n) ≈ a + b / n through FD² at several sample sizes n"
    hazards = (
        "Below twice as many images as features in the smallest sample the line bends and most of the bias stays (flag): raise n, or `smallest`.",
        "It scatters 1.5 to 2 times as much as `frechet` and can fall below 0: look at residual in the detail, and at another `sample_seed`.",
        "Both sets are cut to the size of the smaller one.",
    )
    citation = "Chong and Forsyth 2020, Effectively unbiased FID and Inception Score and where to find them (arXiv 1911.07023), section 3"

    steps: int = option(15, "sample sizes at which FD² is computed", minimum=3)
    smallest: float = option(0.2, "smallest sample, as a share of the smaller set", above=0.0, maximum=0.8)
    sample_seed: int = option(0, "of the samples", minimum=0)
    device: str = option("auto", "auto, cpu, cuda or cuda:1", recipe=False)

    def summarize(self, view: Embedding) -> Points:
        """Rows in an order that is random but follows from their content."""
        return points(view, device_of(self.device, where=f"{self.name}.device"))

    def compare(self, source: Points, target: Points, rng: np.random.Generator) -> Score:
        """The intercept of a pair; ``rng`` is not used.

        Raises:
            NotEnoughData: fewer than 20 images on a side (SK501).
        """
        for side in (source, target):
            if len(side) < SMALLEST:
                message = f"'{side.name}' has {len(side)} images, a line through several sample sizes needs at least {SMALLEST}"
                raise NotEnoughData("SK501", self.name, message, "give more images, or use frechet")
        most, d = min(len(source), len(target)), int(source.rows.shape[1])
        first = max(4, round(self.smallest * most))
        sizes = np.unique(np.round(1.0 / np.linspace(1.0 / first, 1.0 / most, self.steps)).astype(int))
        orders = [rng_for("frechet-infinity", self.sample_seed, side.digest).permutation(len(side)) for side in (source, target)]
        values = np.array([sum(gaussian_distance(*(self._gaussian(side, order[:n]) for side, order in zip((source, target), orders, strict=True))))
                           for n in sizes.tolist()])
        slope, intercept = np.polyfit(1.0 / sizes, values, 1)
        residual = float(np.std(values - intercept - slope / sizes, ddof=2)) if len(sizes) > 2 else 0.0
        flags = () if first >= 2 * d else (f"from {first} images on, the line needs more than twice the {d} features",)
        detail = {"sizes": sizes.tolist(), "values": values.tolist(), "slope": float(slope), "residual": residual, "n": (len(source), len(target)), "d": d}
        return Score(float(intercept), True, detail, flags=flags)

    def _gaussian(self, side: Points, rows: np.ndarray) -> Gaussian:
        return gaussian_of(side.rows[np.sort(rows)])

    def seconds(self, n_source: int, n_target: int) -> float | None:
        """Rough time of one pair on one core, at 512 features."""
        n = min(n_source, n_target)
        return self.steps * frechet_seconds(n // 2, n // 2)
