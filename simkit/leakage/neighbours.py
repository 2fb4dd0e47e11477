"""Candidates by embedding: nearest neighbours by cosine, above a threshold that the data sets themselves give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simkit.leakage.hashing import Candidates
from simkit.leakage.searching import nearest, unit_rows
from simkit.recipe import rng_for

__all__ = ["ABOUT", "CALIBRATED", "HIGHEST", "NEIGHBOURS", "SHARE", "Features", "calibrated", "embedding_candidates"]

NEIGHBOURS = 4
"""So many nearest images are candidates of an image."""

SHARE = 0.05
"""Part of images that are no copies which the calibrated threshold lets through to be verified."""

HIGHEST = 0.98
"""The calibrated threshold is never above: a data set full of near copies would otherwise hide those that it shares."""

ABOUT = "embedding neighbours"
"""How the sentence on the threshold starts, which says nothing about the images."""

CALIBRATED = 2000
"""Images of a data set whose neighbours are looked for, to calibrate."""


@dataclass(frozen=True, eq=False)
class Features:
    """Embedding of a data set: name, and rows float32 (n, d) in its order."""

    name: str
    rows: np.ndarray


def calibrated(name: str, unit: np.ndarray) -> float:
    """The cosine that a share of 5 % of a data set's images reach with another image of the same data set, at most 0.98.

    Two images of one data set are mostly no copies, so of 100 images without a copy about 5 bring a candidate, which the pixels then refuse. Where a data
    set is full of near copies the quantile says nothing, and 0.98 holds.

    Args:
        name: of the data set, for the random choice of 2,000 images where there are more.
        unit: rows of length 1 (n, d).
    """
    chosen = np.arange(len(unit))
    if len(unit) > CALIBRATED:
        chosen = np.sort(rng_for(0, "leakage", name).choice(len(unit), CALIBRATED, replace=False))
    rows, places, values = nearest(unit[chosen], unit, 2, same=False, least=-1.0)
    other = places != chosen[rows]
    best = np.full(len(chosen), -1.0)
    np.maximum.at(best, rows[other], values[other])
    return float(min(np.quantile(best, 1 - SHARE), HIGHEST))


def embedding_candidates(first: Features, second: Features, *, same: bool, least: float | None = None) -> tuple[Candidates, float, str]:
    """Nearest neighbours above the threshold; the threshold; and how it came about, in a sentence.

    Features are centred on the mean of both data sets, so that a cosine of 0 is what two images have by chance.
    """
    centre = 0.5 * (first.rows.mean(0, dtype=np.float64) + second.rows.mean(0, dtype=np.float64))
    a = unit_rows(first.rows, centre)
    b = a if same else unit_rows(second.rows, centre)
    limit = least
    if limit is None:
        each = {first.name: calibrated(first.name, a)} | ({} if same else {second.name: calibrated(second.name, b)})
        crowded = min(each, key=lambda name: each[name])
        limit = round(each[crowded], 4)
        said = f"{ABOUT}: cosine of at least {limit:.3f}, which {SHARE:.0%} of the images of {crowded} reach among themselves (at most {HIGHEST})"
    else:
        said = f"{ABOUT}: cosine of at least {limit:.3f}, as asked"
    at, neighbour, value = nearest(a, b, NEIGHBOURS, same=same, least=limit)
    return Candidates(at, neighbour, np.full(len(at), -1), value), limit, said
