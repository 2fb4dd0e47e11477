"""Sliced Wasserstein distance: optimal transport in one dimension at a time, averaged over random directions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from simkit.embedding import Embedding
from simkit.estimators.base import FeatureEstimator, Score
from simkit.estimators.pairwise import Points, points
from simkit.recipe import rng_for
from simkit.registry import option
from simkit.transport.arrays import beside, device_of, namespace, numpy_of
from simkit.transport.interruption import go_on
from simkit.transport.line import squared_line_distances

__all__ = ["SlicedWasserstein"]

AT_A_TIME = 128
"""Projections at a time."""

KEPT_BYTES = 2**28
"""Largest table of sorted projections that is kept with a data set; that of a larger one is made again for each pair."""


@dataclass(frozen=True, eq=False)
class Projections:
    """A data set and, where they fit, its sorted projections, float32 (L, n) a chunk."""

    points: Points
    kept: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class SlicedWasserstein(FeatureEstimator):
    """Mean over random directions of the squared 1-D Wasserstein distance W2² between the projected features (SW2², not its root).

    0 for the same images, unbounded above, in squared units of the features; about W2² / d where the sets differ by a shift. It is biased upward by about
    1/n. All pairs share the directions of one ``slice_seed``, so that differences between sources are not blurred by them; the detail holds
    monte_carlo_error, the standard error over directions, and root.

    Cost: O(L n (d + log n)) a data set, O(L (n + m)) a pair, with L projections.
    """

    name = "sliced-wasserstein"
    size_biased = True
    unit = "squared feature units (SW2², not its root)"
    formula = "(1/L) Σ_θ W2²(θ·X, θ·X'),  θ uniform on the unit sphere, L directions"
    hazards = (
        "It is too high by an amount that falls about as 1/n: compare values at equal n only, beside the floor.",
        "Directions are random: a difference that lies in few of d directions is thinned to about 1/d of `wasserstein`.",
        "It is a mean over random directions: differences below monte_carlo_error in the detail say nothing; raise `projections`.",
    )
    citation = "Rabin et al. 2011, Wasserstein barycenter and its application to texture mixing; Bonneel et al. 2015 (J. Math. Imaging Vis. 51), section 2"

    projections: int = option(500, "number of random directions", minimum=2)
    slice_seed: int = option(0, "of the directions", minimum=0)
    device: str = option("auto", "auto, cpu, cuda or cuda:1", recipe=False)

    def summarize(self, view: Embedding) -> Projections:
        """Rows in the order of their content; their sorted projections where they take at most 256 MiB."""
        bare = Projections(points(view, device_of(self.device, where=f"{self.name}.device")))
        few = 4 * len(view) * self.projections <= KEPT_BYTES
        return Projections(bare.points, tuple(self._sorted(bare, chunk) for chunk in range(self._chunks)) if few else ())

    @property
    def _chunks(self) -> int:
        return math.ceil(self.projections / AT_A_TIME)

    def _sorted(self, data: Projections, chunk: int) -> np.ndarray:
        """Sorted projections of all images on a chunk's directions, float32 (L, n)."""
        if data.kept:
            return data.kept[chunk]
        go_on()
        rng = rng_for("sliced-wasserstein", self.slice_seed, chunk)
        rows = data.points.rows
        theta = rng.standard_normal((AT_A_TIME, rows.shape[1]))[: self.projections - chunk * AT_A_TIME]  # the first directions are the same for any number
        theta /= np.linalg.norm(theta, axis=1, keepdims=True)
        numbers = beside(theta.astype(np.float32), rows) @ rows.T
        return numpy_of(namespace(numbers).sort(numbers, axis=1))

    def compare(self, source: Projections, target: Projections, rng: np.random.Generator) -> Score:
        """SW2² of a pair; ``rng`` is not used."""
        squares = np.concatenate([squared_line_distances(self._sorted(source, c), self._sorted(target, c)) for c in range(self._chunks)])
        value = float(squares.mean())
        detail = {
            "monte_carlo_error": float(squares.std(ddof=1) / math.sqrt(len(squares))), "root": math.sqrt(value), "projections": self.projections,
            "n": (len(source.points), len(target.points)), "d": int(source.points.rows.shape[1]),
        }
        return Score(value, True, detail)

    def seconds(self, n_source: int, n_target: int) -> float | None:
        """Rough time of one pair on one core, at 512 features."""
        return 0.01 + self.projections * (n_source + n_target) * (1024 / 5e10 + 6e-8)
