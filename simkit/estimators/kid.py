"""Kernel inception distance: the maximum mean discrepancy with a cubic kernel, over all pairs of images instead of random subsets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from simkit.estimators.mmd import KernelEstimator
from simkit.estimators.pairwise import Points, products
from simkit.registry import option

__all__ = ["Kid"]


@dataclass(frozen=True)
class Kid(KernelEstimator):
    """Squared maximum mean discrepancy with the polynomial kernel (x.y / d + 1)³: the kernel inception distance, on any features.

    0 for equal laws (below 0 by chance), unbounded above. Other tools average random subsets of 1,000 images; this is the mean over all subsets, exactly.
    The kernel grows with the sixth power of the features' scale, and a few long rows dominate it: it is here to be compared with published
    values, not to rank far sources.

    Cost: as ``mmd``.
    """

    name = "kid"
    unit = "squared kernel mean difference (KID)"
    formula = "E k(x, x') + E k(y, y') − 2 E k(x, y),  k(x, y) = (x·y / d + 1)³, over pairs of different images"
    hazards = (
        "The kernel grows with the sixth power of the features' scale: few long rows can make up the value. `energy` or `mmd` rank more steadily.",
        "Published values are of one network's features: those of another extractor do not compare.",
        "A small p says that the sets differ, not how much. Values below 0 are chance around 0.",
    )
    citation = "Bińkowski et al. 2018, Demystifying MMD GANs (arXiv 1801.01401), section 4"

    degree: int = option(3, "of the polynomial", minimum=1)
    constant: float = option(1.0, "added to x.y / d", minimum=0.0)

    def tiles(self, first: Points, second: Points) -> Iterator[tuple[slice, slice, Any]]:
        d = first.rows.shape[1]
        for rows, columns, tile in products(first, second):
            tile /= d
            tile += self.constant
            power = tile
            for _ in range(self.degree - 1):
                power = power * tile
            yield rows, columns, power
