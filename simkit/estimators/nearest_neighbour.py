"""Distance to the nearest source image: how far the target lies from what the source has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simkit.embedding import Embedding
from simkit.errors import NotEnoughData
from simkit.estimators.base import FeatureEstimator, Score
from simkit.estimators.neighbour_balls import DistinctRows, distinct_rows, nearest, work_seconds
from simkit.estimators.pairwise import announced, pairwise_seconds
from simkit.registry import option
from simkit.transport.arrays import device_of

__all__ = ["NearestNeighbour"]

DUPLICATE = 1e-6
"""Distance up to which two images are the same, relative to the length of their row of features: what batches of another size change in an embedding."""


@dataclass(frozen=True)
class NearestNeighbour(FeatureEstimator):
    """How far the target lies from the source: mean distance of a target image to the nearest source image, D(T|S).

    By default divided by D(T|T), the mean distance of a target image to the nearest *other* target image: 0 where every target image is in the source
    (so for a set with itself), about 1 for another sample of the target of the same size, more where the source is farther off than that, without
    upper limit, without unit. With ``normalise = false`` D(T|S) itself, in units of the features, as published. It asks whether the source
    includes the target: a source with much else besides is not farther for it. It falls as the source grows, so compare values at equal sizes only.

    Cost: O(m² d) once a target (only where it is normalised) and O(n m d) a pair, in tiles of some MiB; above 2^24 distances by faiss on the CPU, one
    thread where BLAS has one.

    The detail holds from_source D(T|S), within_target D(T|T) (None where it is not needed), duplicates (share of target images that are in the source too, up
    to 1e-6 of the length of their features: a pretraining set that holds the test images fakes good transfer), n and d.
    """

    name = "nearest-neighbour"
    symmetric = False
    size_biased = True
    unit = "mean nearest distance, in units of that within the target"
    formula = "D(T|S) / D(T|T),  D(T|S) = (1/m) Σ_j min_i |t_j − x_i|, in D(T|T) each image without itself"
    hazards = (
        "It falls as the source grows, whatever else is in it: compare values at equal sizes only.",
        "Copies of target images in the source lower it and fake good transfer: look at duplicates in the detail, and run `simkit leakage`.",
        "Near-copies within the target make D(T|T) small and every source look far: remove them, or set `normalise = false`.",
    )
    citation = "Mensink et al. 2021, Factors of influence for transfer learning across diverse appearance domains and task types (arXiv 2103.13318), section 3"

    normalise: bool = option(True, "divide by the mean distance of a target image to the nearest other target image")
    device: str = option("auto", "auto, cpu, cuda or cuda:1", recipe=False)

    def __post_init__(self) -> None:
        if not self.normalise:
            object.__setattr__(self, "unit", "feature units (mean nearest distance)")

    def summarize(self, view: Embedding) -> DistinctRows:
        """Distinct rows in the order of their content; distances within the set when they are first asked for.

        Raises:
            DataError: NaN or infinite features (SK210).
        """
        return distinct_rows(view, device_of(self.device, where=f"{self.name}.device"))

    def compare(self, source: DistinctRows, target: DistinctRows, rng: np.random.Generator) -> Score:
        """D(T|S), over D(T|T) by default; ``rng`` is not used.

        Raises:
            NotEnoughData: normalised, and the target has one image, or each of its images has an exact copy in it, so that D(T|T) is 0 (SK501).
        """
        again = work_seconds(target, target) if self.normalise and not target.has_radii else 0.0
        what = f"nearest of {len(source)} images to each of {len(target)}"
        announced(self.name, source.name, target.name, work_seconds(target, source) + again, what)
        within = self._within(target) if self.normalise else None
        _, squared = nearest(target.points, source.points, 1)
        distances = np.sqrt(squared[:, 0])
        from_source = float(target.counts @ distances) / len(target)
        duplicates = distances <= DUPLICATE * target.lengths
        detail: dict[str, Any] = {
            "from_source": from_source, "within_target": within, "duplicates": float(target.counts @ duplicates) / len(target),
            "n": (len(source), len(target)), "d": int(source.points.rows.shape[1]),
        }
        return Score(from_source if within is None else from_source / within, True, detail)

    def _within(self, target: DistinctRows) -> float:
        """D(T|T), each image left out of the set among which its nearest is sought."""
        fix = "give more images, or set normalise = false"
        if len(target) < 2:
            raise NotEnoughData("SK501", self.name, f"'{target.name}' has 1 image: the distance to its nearest other image needs at least 2", fix)
        within = float(target.counts @ np.sqrt(target.radii)) / len(target)
        if within == 0.0:
            message = f"each of the {len(target)} images of '{target.name}' has an exact copy in it: there is no distance between them to divide by"
            raise NotEnoughData("SK501", self.name, message, "remove the copies, or set normalise = false")
        return within

    def seconds(self, n_source: int, n_target: int) -> float | None:
        """Rough time of one pair on one core at 512 features, distances within the target included (they are computed once a target)."""
        return 0.005 + pairwise_seconds(float(n_source) * n_target + (float(n_target) ** 2 if self.normalise else 0.0), 512)
