"""How much a layout distorts: trustworthiness and continuity (Venna and Kaski 2001), exact, in blocks of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simkit.errors import NotEnoughData
from simkit.recipe import rng_for

__all__ = ["NEIGHBOURS", "Distortion", "distortion", "kept_neighbours", "usable_neighbours"]

NEIGHBOURS = 15
"""k of the reported values."""

BLOCK_BYTES = 2**26
"""Of one (rows, n) matrix of distances in float64; about six exist at a time."""

EQUAL = 1e-9
"""Relative difference of squared distances up to which they count as equal: what rounding leaves of equal ones."""


@dataclass(frozen=True)
class Distortion:
    """What a layout keeps of the neighbourhoods of the features, 0..1: 1 is all, and a layout at random gets about 0.5.

    Attributes:
        k: neighbours that are looked at.
        trustworthiness: low where images are neighbours in the plane that are none in the features.
        continuity: low where images are neighbours in the features that are none in the plane.
        per_set: data set -> (trustworthiness, continuity), means over its images.
        chance: both of the same layout with its images exchanged at random.
    """

    k: int
    trustworthiness: float
    continuity: float
    per_set: dict[str, tuple[float, float]]
    chance: tuple[float, float]


def usable_neighbours(n: int, wanted: int = NEIGHBOURS) -> int:
    """The largest k <= ``wanted`` for which the values are defined, k < n / 2."""
    return min(wanted, (n - 1) // 2)


def distortion(features: np.ndarray, points: np.ndarray, sets: Sequence[str], *, k: int = NEIGHBOURS, seed: int = 0) -> Distortion:
    """Trustworthiness and continuity at ``k`` of points (n, 2) that lay out features (n, d), over all images and per data set.

    T = 1 - 2 / (n k (2n - 3k - 1)) sum_i sum_{j in U_i} (r_ij - k), where U_i are those of the k nearest of i in the plane that are not among its k nearest
    in the features, and r_ij is the rank of j by its distance from i in the features; continuity exchanges plane and features (Venna and Kaski 2001, eq. 1 and
    2). The neighbours of an image come from all data sets; the value of a data set is the mean over its images of what each contributes.

    Ties: images at equal distance share the best rank, and where they stand at place k each counts for its share of the places that are left. So neither the
    order of the rows nor chance decides, and equal images are no distortion.

    Raises:
        NotEnoughData: k is not below n / 2 (SK501).
    """
    n = len(features)
    if not 1 <= k < n / 2:
        raise NotEnoughData("SK501", "distortion", f"{k} neighbours of {n} images: defined for fewer than half of the images", f"give 1 to {(n - 1) // 2}")
    names = np.array(sets, dtype=object)
    kept = kept_neighbours(features, points, k)
    permuted = points[rng_for(seed, "map", "chance").permutation(n)]
    chance = kept_neighbours(features, permuted, k).mean(axis=0)
    per_set = {str(name): (float(kept[names == name, 0].mean()), float(kept[names == name, 1].mean())) for name in dict.fromkeys(sets)}
    return Distortion(k, float(kept[:, 0].mean()), float(kept[:, 1].mean()), per_set, (float(chance[0]), float(chance[1])))


def kept_neighbours(features: np.ndarray, points: np.ndarray, k: int) -> np.ndarray:
    """Trustworthiness and continuity of each image, (n, 2); their means are those of the layout."""
    high = np.asarray(features, dtype=np.float64)
    high = high - high.mean(axis=0)
    low = np.asarray(points, dtype=np.float64)
    n = len(high)
    lengths = (high**2).sum(axis=1)
    out = np.empty((n, 2))
    step = max(1, BLOCK_BYTES // (8 * n))
    for first in range(0, n, step):
        rows = np.arange(first, min(first + step, n))
        apart = high[rows] @ high.T
        apart *= -2.0
        apart += lengths
        apart += lengths[rows, None]
        np.maximum(apart, 0.0, out=apart)
        near = (low[rows, None, 0] - low[:, 0]) ** 2 + (low[rows, None, 1] - low[:, 1]) ** 2
        apart[np.arange(len(rows)), rows] = near[np.arange(len(rows)), rows] = np.inf
        # what rounding leaves of a distance of 0: the squared lengths cancel
        noise = 1e-13 * (lengths[rows, None] + lengths.mean())
        out[rows, 0] = _excess(near, apart, k, 0.0, noise)
        out[rows, 1] = _excess(apart, near, k, noise, 0.0)
    return 1.0 - out * (2.0 / (k * (2 * n - 3 * k - 1)))


def _excess(chosen: np.ndarray, ranked: np.ndarray, k: int, noise_chosen: np.ndarray | float, noise_ranked: np.ndarray | float) -> np.ndarray:
    """Per row: by how much the ranks (in ``ranked``) of its k nearest (in ``chosen``) exceed k, summed."""
    limit = np.partition(chosen, k - 1, axis=1)[:, k - 1, None]
    slack = limit * EQUAL + noise_chosen
    candidates = chosen <= limit + slack
    nearer = chosen < limit - slack
    inside, tied = nearer.sum(axis=1), (candidates & ~nearer).sum(axis=1)
    share = (k - inside) / tied
    order = np.sort(ranked, axis=1)
    out = np.empty(len(chosen))
    for row in range(len(chosen)):
        columns = np.flatnonzero(candidates[row])
        values = ranked[row, columns]
        slack_row = float(np.broadcast_to(noise_ranked, (len(chosen), 1))[row, 0])
        ranks = 1 + np.searchsorted(order[row], values * (1 - EQUAL) - slack_row, side="left")
        out[row] = (np.maximum(ranks - k, 0) * np.where(nearer[row, columns], 1.0, share[row])).sum()
    return out
