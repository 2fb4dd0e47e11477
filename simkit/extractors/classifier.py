"""A network with its classification layer: what transferability and task embeddings are computed from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simkit.errors import IntegrityError, UsageError
from simkit.extractors.layers import Pool, channels_last_layer, layer_of, pooled
from simkit.extractors.network_session import NetworkSession, Precision, Preprocessing

if TYPE_CHECKING:
    import torch

__all__ = ["Classifier", "ClassifierSession", "load_head", "outputs_of"]


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

    def session(self, device: str) -> ClassifierSession:
        """The network at work on a device; the classifier itself stays as it is."""
        return ClassifierSession(self, device)


class ClassifierSession(NetworkSession):
    """One forward pass for features and outputs: rows of a batch are its features, then (where the weights hold a head) the head's outputs.

    Attributes:
        outputs: how many of a row's last values are outputs (logits) of the head.
    """

    def __init__(self, classifier: Classifier, device: str):
        model = copy.deepcopy(classifier.model)
        self.caught: Any = None
        self.layer, self.pool, self.where, self.outputs = classifier.layer, classifier.pool, classifier.where, classifier.outputs
        if classifier.layer:  # named before anything is changed: a wrong name is the user's
            layer_of(model, classifier.layer, classifier.where)
        super().__init__(model, classifier.preprocessing, device, keep=classifier.layer or classifier.head)
        self.at(classifier.precision)
        self.channels_last = channels_last_layer(self.model, self.layer) if self.layer else False
        if self.layer:
            self.model.get_submodule(self.layer).register_forward_hook(self._catch_output)
        else:
            self.model.get_submodule(classifier.head).register_forward_pre_hook(self._catch_input)

    def rows(self, images: torch.Tensor) -> torch.Tensor:
        """Features and outputs (n, d + outputs) of normalised images."""
        import torch

        out = self.model(images)
        value, self.caught = self.caught, None
        if value is None:
            raise UsageError("SK108", f"{self.where}.layer", f"'{self.layer}' is not computed when the network classifies", "choose another layer")
        features = pooled(value, self.pool, self.where, channels_last=self.channels_last)
        return torch.cat([features.float(), out.flatten(1).float()], dim=1) if self.outputs else features

    def _catch_input(self, module: Any, inputs: Any) -> None:
        self.caught = inputs[0].clone()  # an operation that comes later may work in place

    def _catch_output(self, module: Any, inputs: Any, output: Any) -> None:
        value = output[0] if isinstance(output, (tuple, list)) and output else output
        self.caught = value.clone() if hasattr(value, "clone") else value


def outputs_of(layer: torch.nn.Module) -> int:
    """How many outputs a linear layer or a convolution has; 0 for any other module."""
    return int(getattr(layer, "out_features", 0) or getattr(layer, "out_channels", 0))


def load_head(model: torch.nn.Module, state: Mapping[str, torch.Tensor], head: str, where: str, *, prefix: str = "") -> int:
    """Gives a network the classification layer of a state dict, with as many outputs as that has; returns how many.

    Args:
        model: changed in place.
        state: names and tensors.
        head: name of the classification layer: a linear layer or a convolution.
        where: the file, for messages.
        prefix: before the names in the file; empty: found, where there is one.

    Returns:
        Outputs of the head; 0 where the file holds none: then the network keeps its own.

    Raises:
        IntegrityError: the file's layer has another number of inputs than the network gives it, or NaN.
    """
    import torch
    from torch import nn

    named = f"{head}.weight"
    found = [key for key in state if (key == f"{prefix}{named}" if prefix else key == named or key.endswith(f".{named}"))]
    if len(found) != 1:
        return 0
    start = found[0].removesuffix(named)
    weight, bias = state[found[0]], state.get(f"{start}{head}.bias")
    old = model.get_submodule(head)
    new: nn.Module
    if isinstance(old, nn.Linear):
        wanted: tuple[int, ...] = (old.in_features,)
        new = nn.Linear(old.in_features, len(weight), bias=bias is not None)
    elif isinstance(old, nn.Conv2d):
        wanted = (old.in_channels, *old.kernel_size)
        new = nn.Conv2d(old.in_channels, len(weight), old.kernel_size, bias=bias is not None)  # type: ignore[arg-type]
    else:
        return 0
    if tuple(weight.shape[1:]) != wanted:
        message = f"its classification layer {found[0]} has shape {tuple(weight.shape)}, the network gives it {wanted[0]} features"
        raise IntegrityError("SK402", where, message, "give the state dict of this network")
    if not bool(torch.isfinite(weight).all()):
        raise IntegrityError("SK402", where, f"its classification layer {found[0]} holds NaN or infinite values", "use another file")
    new.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    parent, _, leaf = head.rpartition(".")
    model.get_submodule(parent).register_module(leaf, new.to(weight.device))
    return len(weight)
