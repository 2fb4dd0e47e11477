"""A data set as a vector: the diagonal Fisher information of a probe network that was fitted to its labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["TaskEmbedding"]


@dataclass(frozen=True, eq=False)
class TaskEmbedding:
    """The task embedding of a data set.

    Attributes:
        fisher: float64 (D,), mean diagonal Fisher information of each channel (a filter's weights averaged), not negative.
        halves: (2, D), the same of two halves of the images, each with a head of its own; None where the data set is too small to be halved.
        name: of the data set.
        images: that it is computed from.
        classes: number of classes with images.
        probe: digest of what made it (network, weights, options, not the data set); embeddings of different probes are never compared.
        detail: how the head fits, what was sampled.
    """

    fisher: np.ndarray
    halves: np.ndarray | None = None
    name: str = "task"
    images: int = 0
    classes: int = 0
    probe: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.images
