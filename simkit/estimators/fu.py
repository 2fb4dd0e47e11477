"""FU: how much of the gradient reaches the second convolution (the gradient part of LP x FU)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simkit.errors import NotEnoughData, UsageError
from simkit.estimators.base import NetworkEstimator, Score
from simkit.estimators.seen import Seen

__all__ = ["Fu"]

GRADIENTS = "fu"
"""What :func:`simkit.extractors.triplet_gradients.gradient_norms` calls the ratio."""


@dataclass(frozen=True)
class Fu(NetworkEstimator):
    """Feature update: the gradient that a target's labels send to a network's second convolution, in units of that of its first.

    FU = sum_b |dL_b / dW_2| / sum_b |dL_b / dW_1| over batches b of the target's images: Euclidean norms of the gradients of a triplet loss on the network's
    features with respect to the weights of its first two convolutions. 0: only the first would change; without upper limit; no unit. Its authors read
    a high value as features that can still adapt. It depends on the architecture (on the number of weights of both layers), so compare
    networks of one architecture only.

    The detail holds first and later, the mean norms, with the layers, batches, images and triplets where they are known. The features' values play no part.
    """

    name = "fu"
    bounds = (0.0, None)
    reads = ("gradients",)
    resampled = False
    unit = "ratio of gradient norms (second to first convolution)"
    formula = "Σ_b |∂L_b / ∂W₂| / Σ_b |∂L_b / ∂W₁|,  L_b the triplet loss of batch b, W₁ and W₂ the first two convolutions"
    hazards = (
        "It depends on the numbers of weights of both layers: compare networks of one architecture only.",
        "It has neither an interval nor a floor of shuffled labels: there is no saying how far chance moves it.",
        "0 may be a branch that begins at zero (a residual block at its initialisation), not a network that cannot adapt (flag).",
    )
    citation = "Juodelyte et al. 2024, On dataset transferability in medical image classification (arXiv 2412.20172), section 3 (and its code)"

    def assess(self, seen: Seen, rng: np.random.Generator) -> Score:
        """FU of one pair; ``rng`` is not used.

        Raises:
            UsageError: no gradients were made.
            NotEnoughData: the ratio is not finite or negative, as where no gradient reaches the first convolution.
        """
        found: dict[str, Any] = dict(seen.gradients or {})
        if GRADIENTS not in found:
            message = f"needs gradients of the network of '{seen.source}' (there are: {', '.join(found) or 'none'})"
            raise UsageError("SK108", self.name, message, "run it in a study with [networks], or `simkit distance --network`")
        value = float(found[GRADIENTS])
        if not np.isfinite(value) or value < 0:
            message = f"the ratio of gradients of the network of '{seen.source}' is {value}"
            raise NotEnoughData("SK502", self.name, message, "name other layers, or leave this source out")
        flags = (f"no gradient reaches {found.get('later_layer', 'the second convolution')}: its branch begins at zero, perhaps",) if value == 0.0 else ()
        return Score(value, True, {"n": len(seen), "d": seen.dimension, "classes": len(seen.classes), **found}, flags=flags)
