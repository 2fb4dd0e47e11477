"""The stages of a network from image to head; which of them are trained, and which stand still."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simkit.errors import UsageError, nearest

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TRAINED", "set_trainable", "stages", "train_mode"]

CONTAINERS = ("features", "encoder", "encoder.layers", "trunk_output", "blocks", "layers", "stages")
"""Modules that only hold a sequence of stages, in torchvision and timm."""

TRAINED = ("full", "frozen", "last-stages")
"""What can be trained: everything; the head alone; the last stages and the head."""


def stages(network: nn.Module, head: str) -> tuple[tuple[str, ...], ...]:
    """The stages of the body, in order; each is the names of its modules and parameters.

    A stage is a child of the network, or of one of its containers (:data:`CONTAINERS`). Normalisation layers that stand alone belong to the
    stage before them; parameters that belong to no such child (class tokens, position embeddings) to the first. Linear layers beside the head
    (VGG's and AlexNet's classifier) are one last stage.
    """
    found: list[list[str]] = []
    loose: list[str] = []
    beside: list[str] = []

    def visit(parent: nn.Module, prefix: str) -> None:
        loose.extend(f"{prefix}{name}" for name, _ in parent.named_parameters(recurse=False))
        for child, module in parent.named_children():
            name = f"{prefix}{child}"
            holds_head = head.startswith(f"{name}.")
            if name == head or not any(True for _ in module.parameters()):
                continue
            if name in CONTAINERS or holds_head:
                visit(module, f"{name}.")
            elif _only_vectors(module) and (beside or found):
                (beside or found[-1]).append(name)
            elif prefix and head.startswith(prefix):
                beside.append(name)
            else:
                found.append([name])

    visit(network, "")
    if beside:
        found.append(beside)
    if loose and found:
        found[0] = loose + found[0]
    elif loose:
        found = [loose]
    return tuple(tuple(stage) for stage in found)


def _only_vectors(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer: it has scales and offsets, but no matrix."""
    return all(parameter.ndim <= 1 or parameter.numel() == max(parameter.shape) for parameter in module.parameters())


def set_trainable(network: nn.Module, head: str, mode: str, last_stages: int) -> None:
    """Chooses the parameters that are trained (``requires_grad``).

    Args:
        network: changed in place.
        head: name of its last layer, which is always trained.
        mode: one of :data:`TRAINED`.
        last_stages: how many of :func:`stages` are trained in mode "last-stages".

    Raises:
        UsageError: SK101 an unknown mode; SK102 fewer stages than are to be trained.
    """
    if mode not in TRAINED:
        raise UsageError("SK101", "finetune.mode", f"unknown mode '{mode}'{nearest(mode, TRAINED)}", f"give one of {', '.join(TRAINED)}")
    trained: tuple[str, ...] = (head,)
    if mode == "last-stages":
        known = stages(network, head)
        if not 1 <= last_stages <= len(known):
            names = ", ".join(_title(stage) for stage in known)
            message = f"{last_stages} stages are to be trained, and the network has {len(known)}: {names}"
            raise UsageError("SK102", "finetune.last_stages", message, f"give a number from 1 to {len(known)}, or mode = \"full\"")
        trained += tuple(name for stage in known[-last_stages:] for name in stage)
    inside = tuple(f"{name}." for name in trained)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(mode == "full" or name in trained or name.startswith(inside))


def _title(stage: tuple[str, ...]) -> str:
    return stage[0] if len(stage) == 1 else f"{stage[0]} to {stage[-1]}"


def train_mode(network: nn.Module, *, frozen_batch_norm: bool) -> None:
    """Puts a network into training mode, but for its frozen parts: their batch norms learn no statistics, and their dropouts drop nothing.

    A module is frozen when all its parameters are. A module without parameters (dropout) goes with the module that contains it, and otherwise with the
    next module that has parameters: so the dropout before a trained head drops.

    Args:
        network: its ``requires_grad`` are set already (:func:`set_trainable`).
        frozen_batch_norm: all batch norms stand still, also the trained ones (whose scale and offset still learn).
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    network.train()
    _still(network)
    follows = True  # after the last parameter
    for module in reversed(list(network.modules())):
        if any(True for _ in module.children()):
            continue
        own = list(module.parameters(recurse=False))
        if own:
            follows = any(parameter.requires_grad for parameter in own)
        elif not follows:
            module.eval()
    if frozen_batch_norm:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def _still(module: nn.Module) -> None:
    """Evaluation mode for the outermost modules whose parameters are all frozen."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
        return
    for child in module.children():
        _still(child)
