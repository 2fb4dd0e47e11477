"""A network with its classification layer: what transferability and task embeddings are computed from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simkit.extractors.layers import Pool
from simkit.extractors.network_session import Precision, Preprocessing

if TYPE_CHECKING:
    import torch

__all__ = ["Classifier"]


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network of a source, ready to be looked into: nothing is folded, all in evaluation mode, on the CPU, without gradients.

    Attributes:
        model: the network with its weights.
        preprocessing: what its weights want: ``preprocessing(image)`` gives uint8 (crop, crop, 3); mean and std are its own.
        head: name of the module that makes the outputs from the features (a linear layer, a 1x1 convolution, or a sequence that ends in one).
        outputs: how many the head has; 0 where the weights hold no head (the module then has random weights).
        classes: names of the outputs, () where they are not known.
        layer: name of the module whose output are the features; empty: what the head is given.
        pool: how maps and tokens of that layer become rows.
        where: for messages.
        precision: of the arithmetic of forward passes.
        recipe: what identifies all this, and what is computed from it.
    """

    model: torch.nn.Module
    preprocessing: Preprocessing
    head: str
    outputs: int = 0
    classes: tuple[str, ...] = ()
    layer: str = ""
    pool: Pool = "average"
    where: str = "network"
    precision: Precision = "float32"
    recipe: dict[str, Any] = field(default_factory=dict)
