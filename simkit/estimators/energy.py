"""Energy distance: a kernel measure without a bandwidth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from simkit.estimators.mmd import KernelEstimator
from simkit.estimators.pairwise import Points, squared_distance_tiles
from simkit.transport.arrays import namespace

__all__ = ["Energy"]


@dataclass(frozen=True)
class Energy(KernelEstimator):
    """Energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| between the features of two data sets, unbiased.

    0 for equal laws (below 0 by chance: the estimate is unbiased), unbounded above, in units of the features; it is the squared maximum mean discrepancy of
    the kernel -|x - y| (Sejdinovic et al. 2013). No bandwidth has to be chosen, and far pairs do not saturate. ``biased`` gives the V-statistic
    that other tools report, which is too large by about E|X - X'| (1/n + 1/m).

    The p-value is that of the permutation test: whole groups (patients) change sides where groups exist.

    Cost: as ``mmd``.
    """

    name = "energy"
    unit = "feature units (energy distance, not its root)"
    formula = "2 E|x − y| − E|x − x'| − E|y − y'|, over pairs of different images"
    hazards = (
        "In feature units: features of large scale decide, and values of two extractors do not compare.",
        "A small p says that the sets differ, not how much: with many images every pair differs.",
        "Other tools report the V-statistic (`biased`), which is too large by about E|x − x'| (1/n + 1/m), or its root: their values do not compare.",
        "Values below 0 are chance around 0.",
    )
    citation = "Székely and Rizzo 2013, Energy statistics (J. Stat. Plan. Inference 143), eq. 5; Sejdinovic et al. 2013 (Ann. Stat. 41)"

    def tiles(self, first: Points, second: Points) -> Iterator[tuple[slice, slice, Any]]:
        for rows, columns, tile in squared_distance_tiles(first, second):
            root = np.sqrt(tile, out=tile) if isinstance(tile, np.ndarray) else namespace(tile).sqrt(tile)
            if first is second and rows == columns:  # a row with itself, whatever rounding left
                index = np.arange(len(root))
                root[index, index] = 0.0
            root *= -1.0
            yield rows, columns, root
