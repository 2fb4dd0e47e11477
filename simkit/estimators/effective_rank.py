"""Effective rank: in how many directions a data set spreads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from simkit.embedding import Embedding, content_order
from simkit.errors import NotEnoughData
from simkit.estimators.base import Score
from simkit.estimators.vendi import Descriptor, effective_number, float64_chunks, gram_eigenvalues, spectrum_seconds
from simkit.registry import option
from simkit.transport.arrays import namespace, placed

__all__ = ["EffectiveRank"]


@dataclass(frozen=True)
class EffectiveRank(Descriptor):
    """Effective rank of the source's features: in how many directions the images spread, from 1 (a line) to d or n - 1 (equally in all).

    The exponential of the Shannon entropy of the singular values s_i / sum s of the centred features, as Roy and Vetterli define it; with ``of =
    "eigenvalues"`` of the shares of the variance s_i² / sum s² (the eigenvalues of the covariance), which is smaller. A property of the source alone,
    the same for every target: it says nothing about similarity. Higher is taken to be better. Below n = d it is bounded by n - 1 and it grows with n, so
    compare sources at equal sizes only.

    Cost: O(n d min(n, d)), in float64.

    The detail holds of, rank, n, d and largest_share (of the first direction).
    """

    name = "effective-rank"
    unit = "effective number of directions"
    formula = "exp(−Σ_i p_i ln p_i),  p_i = s_i / Σ s, s the singular values of the centred features"
    hazards = (
        *Descriptor.hazards,
        "It grows with n and is at most n − 1: compare sources at equal sizes only.",
        "Features of large scale decide, and noise counts as directions: a noisy source scores high.",
    )
    citation = "Roy and Vetterli 2007, The effective rank: a measure of effective dimensionality (EUSIPCO), definition 1"

    of: Literal["singular-values", "eigenvalues"] = option("singular-values", "whose entropy: singular values of the centred features, or their squares")
    device: str = option("auto", "auto, cpu, cuda or cuda:1", recipe=False)

    def describe(self, view: Embedding) -> Score:
        """The effective rank of a data set.

        Raises:
            NotEnoughData: one image, or all images have equal features: there is no direction (SK501).
        """
        features = view.features
        if not (features != features[:1]).any():
            found = "1 image" if len(view) == 1 else f"{len(view)} images of equal features"
            raise NotEnoughData("SK501", self.name, f"'{view.name}' has {found}: they spread in no direction", "give more images, or look at the extractor")
        rows = placed(features[content_order(features)[0]], self.where())
        xp = namespace(rows)
        first = xp.astype(rows[:1], xp.float64)
        mean = first + sum(xp.sum(x - first, axis=0) for x in float64_chunks(rows)) / len(view)
        shares = gram_eigenvalues((x - mean for x in float64_chunks(rows)), len(view), view.dimension)
        if self.of == "singular-values":
            shares = np.sqrt(shares)
        detail: dict[str, Any] = {
            "of": self.of, "rank": len(shares), "n": len(view), "d": view.dimension, "largest_share": float(shares[0] / shares.sum()),
        }
        return Score(effective_number(shares), True, detail)

    def seconds(self, n_source: int, n_target: int) -> float | None:
        """Rough time of one source on one core, at 512 features."""
        return spectrum_seconds(n_source)
