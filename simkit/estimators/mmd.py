"""Maximum mean discrepancy with a Gaussian kernel whose bandwidth is the same for all pairs of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simkit.embedding import Embedding
from simkit.errors import NotEnoughData, UsageError
from simkit.estimators.base import Estimator, FeatureEstimator, Score
from simkit.estimators.kernel_statistics import KernelRows, discrepancy, kernel_rows, permutation_test
from simkit.estimators.pairwise import Points, pairwise_seconds, points, squared_distance_tiles
from simkit.registry import option
from simkit.transport.arrays import device_of, namespace, numpy_of

__all__ = ["KernelEstimator", "Mmd", "median_bandwidth"]

MEDIAN_ROWS = 4096
"""Most rows of all data sets of a run between which the median distance is taken."""


@dataclass(frozen=True)
class KernelEstimator(FeatureEstimator):
    """A squared maximum mean discrepancy: what mmd, kid and energy share. Subclasses give the kernel."""

    name = ""
    bounds = (None, None)

    biased: bool = option(False, "the V-statistic (never below 0, too large by about 1/n) instead of the unbiased U-statistic")
    permutations: int = option(999, "of the p-value, which only the whole pair gets; 0: no p-value", minimum=0)
    device: str = option("auto", "auto, cpu, cuda or cuda:1", recipe=False)

    def __post_init__(self) -> None:
        if self.biased:
            object.__setattr__(self, "size_biased", True)

    @property
    def unit_rows(self) -> bool:
        """Whether rows are divided by their length first."""
        return False

    def tiles(self, first: Points, second: Points) -> Iterator[tuple[slice, slice, Any]]:
        """Tiles of the kernel."""
        raise NotImplementedError

    def summarize(self, view: Embedding) -> KernelRows:
        """Rows in the order of their content, and the sums of their own kernel.

        Raises:
            NotEnoughData: one image (SK501).
        """
        return kernel_rows(view, self.name, device_of(self.device, where=f"{self.name}.device"), self.tiles, unit=self.unit_rows)

    def compare(self, source: KernelRows, target: KernelRows, rng: np.random.Generator) -> Score:
        """The squared discrepancy of a pair; ``rng`` is not used."""
        return self._score(discrepancy(source, target, self.name, self.tiles, biased=self.biased), source, target)

    def tested(self, source: KernelRows, target: KernelRows, rng: np.random.Generator) -> Score:
        """:meth:`compare` with the p-value of its permutation test."""
        score = self.compare(source, target, rng)
        if not self.permutations:
            return score
        if source.points.digest == target.points.digest:
            return replace(score, p=1.0, detail={**score.detail, "identical": True})
        test = permutation_test(source, target, self.name, self.tiles, self.permutations, rng, biased=self.biased)
        if test.p is None:
            return replace(score, flags=(*score.flags, f"no permutation test: {test.units[0]} and {test.units[1]} different images or groups to exchange"))
        few = test.resolution > 0.05
        flags = (f"p cannot be below {test.resolution:.2g}: {test.units[0]} and {test.units[1]} units to permute",) if few else ()
        if test.shared:
            what = "groups" if source.grouped and target.grouped else "images"
            flags = (*flags, f"{test.shared} {what} are in both sets: p has little power")
        units = test.units if source.points.digest <= target.points.digest else test.units[::-1]
        detail = {**score.detail, "permutations": self.permutations, "p_resolution": test.resolution, "permuted_units": units}
        return replace(score, p=test.p, detail=detail, flags=(*score.flags, *flags))

    def _score(self, value: float, source: KernelRows, target: KernelRows) -> Score:
        detail = {"n": (len(source), len(target)), "d": int(source.points.rows.shape[1]), "statistic": "V" if self.biased else "U", **self.evidence()}
        return Score(value, True, detail)

    def evidence(self) -> dict[str, Any]:
        """What of the kernel goes into the detail."""
        return {}

    def seconds(self, n_source: int, n_target: int) -> float | None:
        """Rough time of one pair on one core, at 512 features, the permutations included."""
        pooled = float(n_source + n_target) ** 2
        return 0.01 + pairwise_seconds(pooled, 512) + pooled * self.permutations * 1.5e-11


@dataclass(frozen=True)
class Mmd(KernelEstimator):
    """Squared maximum mean discrepancy MMD² with the Gaussian kernel exp(-|x - y|² / (2 sigma²)), unbiased.

    0 for equal laws (below 0 by chance: the estimate is unbiased), about 1 for far pairs, where it saturates: sets that are all far cannot be ranked by it.
    Values are comparable only at one sigma. So it is the same for all pairs of a run: by default the median distance between the images of
    all data sets of the run, over the root of two (the median heuristic of Gretton et al.; at most 4,096 rows, as many of each data set). ``scales``
    averages kernels of several bandwidths. ``normalize`` with ``sigma=10`` and ``biased`` is CMMD (Jayasumana et al. 2024) over 1000, on CLIP features.

    The p-value is that of the permutation test: whole groups (patients) change sides where groups exist.

    Cost: O(n² d) once a data set, O(n m d) a pair, O((n + m)² (d + B)) with B permutations, in tiles of some MiB.
    """

    name = "mmd"
    unit = "squared kernel mean difference (MMD²)"
    formula = "E k(x, x') + E k(y, y') − 2 E k(x, y),  k(x, y) = exp(−|x − y|² / (2 σ²)), over pairs of different images"
    hazards = (
        "It saturates: once two sets are far apart in units of σ, it follows from their spreads alone and ranks nothing. `energy` does not saturate.",
        "By default σ follows from all data sets of the run, so values of two runs do not compare: set `sigma`.",
        "A small p says that the sets differ, not how much: with many images every pair differs.",
        "Values below 0 are chance around 0.",
    )
    citation = ("Gretton et al. 2012, A kernel two-sample test (JMLR 13), eq. 3; Phipson and Smyth 2010, Permutation p-values should never be zero; "
                "Jayasumana et al. 2024 (arXiv 2401.09603)")

    sigma: float | None = option(None, "bandwidth in feature units; nothing: the median distance of the run / sqrt 2", above=0.0)
    scales: tuple[float, ...] = option((1.0,), "factors of sigma; the kernel is the mean over them", above=0.0)
    normalize: bool = option(False, "divide each row by its length first")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scales:
            raise UsageError("SK102", f"{self.name}.scales", "the list of scales is empty", "give at least one number > 0")

    @property
    def pool_relative(self) -> bool:  # type: ignore[override]
        """where sigma is not given: it is then the median distance of the run"""
        return self.sigma is None

    @property
    def unit_rows(self) -> bool:
        return self.normalize

    def fitted(self, views: Sequence[Embedding]) -> Estimator:
        """The measure with the bandwidth of the run.

        Raises:
            NotEnoughData: half of the distances are 0 (SK502).
        """
        return self if self.sigma is not None else replace(self, sigma=median_bandwidth(views, self.name, unit=self.normalize))

    def tiles(self, first: Points, second: Points) -> Iterator[tuple[slice, slice, Any]]:
        assert self.sigma is not None
        xp = namespace(first.rows)
        for rows, columns, tile in squared_distance_tiles(first, second):
            parts = []
            for scale in self.scales:
                exponent = tile * (-0.5 / (self.sigma * scale) ** 2)
                parts.append(np.exp(exponent, out=exponent) if isinstance(exponent, np.ndarray) else xp.exp(exponent))
            yield rows, columns, parts[0] if len(parts) == 1 else sum(parts) / len(parts)

    def evidence(self) -> dict[str, Any]:
        return {"sigma": self.sigma}


def median_bandwidth(views: Sequence[Embedding], name: str, *, unit: bool = False) -> float:
    """sqrt(median of |x - y|² / 2) over pairs of different rows of all data sets, as many of each (those that come first in the order of content).

    Raises:
        NotEnoughData: more than half of the distances are 0 (SK502).
    """
    share = max(2, MEDIAN_ROWS // max(len(views), 1))
    sets = sorted((points(view, unit=unit) for view in views), key=lambda one: one.digest)
    rows = np.concatenate([one.rows[:share] for one in sets])
    pooled = Points("", rows, "")
    tiles = [(numpy_of(tile), rows == columns) for rows, columns, tile in squared_distance_tiles(pooled, pooled)]
    distances = np.concatenate([tile[np.triu_indices(len(tile), 1)] if diagonal else tile.ravel() for tile, diagonal in tiles])
    middle = float(np.median(distances)) if len(distances) else 0.0
    if middle <= 1e-12 * float(distances.max(initial=0.0)) or middle == 0.0:
        message = "half of the images of the run have equal features: their median distance is 0 and gives no bandwidth"
        raise NotEnoughData("SK502", name, message, "set sigma, or leave out the data set that repeats itself")
    return float(np.sqrt(middle / 2.0))
