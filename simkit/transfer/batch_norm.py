"""Batch norms that were folded into their convolutions: found, and unfolded, so that a network can be trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from simkit.errors import NotEnoughData

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["has_folded_batch_norms", "unfold_batch_norms"]

TOLERANCE = 1e-6


def _batch_norms(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    from torch import nn

    return {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}


def has_folded_batch_norms(network: nn.Module) -> bool:
    """Whether all batch norms of a network have mean 0, variance 1 and scale 1: their statistics were folded into the convolutions before them.

    A variance of 1 - eps counts too: some tools write it, so that the batch norm scales by exactly 1.
    Such a network is right in evaluation mode only: in training mode it would normalise by the batch what was never normalised. An untrained
    network looks the same. False where there is no batch norm.
    """
    norms = list(_batch_norms(network).values())
    return bool(norms) and all(
        _is(one.running_mean, 0.0) and (_is(one.running_var, 1.0) or _is(one.running_var, 1.0 - one.eps)) and _is(one.weight, 1.0) for one in norms)


def _is(values: torch.Tensor | None, wanted: float) -> bool:
    return values is not None and bool(((values - wanted).abs() <= TOLERANCE).all())


class _Moments:
    """Count, mean and variance of each channel over all that was seen, in float64 (merged as by Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self.n = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0

    def add(self, maps: torch.Tensor) -> None:
        values = maps.detach()
        values = (values.cpu() if values.device.type == "mps" else values).double()  # mps has no float64
        mean = values.mean(dim=(0, 2, 3))
        squares = (values - mean[None, :, None, None]).square().sum(dim=(0, 2, 3))
        n = values.numel() // values.shape[1]
        gap, total = mean - self.mean, self.n + n
        self.squares = self.squares + squares + gap * gap * (self.n * n / total)
        self.mean = self.mean + gap * (n / total)
        self.n = total


def unfold_batch_norms(network: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Gives every batch norm the statistics of its inputs, and a scale and offset that undo them: the network computes what it did.

    With the mean m and variance v of a channel over all batches, and the scale s and offset b that the batch norm had in effect:
    ``running_mean = m``, ``running_var = v``, ``weight = s sqrt(v + eps)``, ``bias = b + s m``. Evaluation mode is unchanged, training mode
    starts near it. A channel that is constant (v = 0) divides by nothing. Batch norms that no image passes through are left as they are.

    Args:
        network: changed in place; its modes (training, evaluation) are not.
        batches: images as the network takes them, on its device.

    Raises:
        NotEnoughData: SK501 no batch was given.
    """
    import torch

    norms = _batch_norms(network)
    moments = {name: _Moments() for name in norms}
    modes = {module: module.training for module in network.modules()}
    hooks = [module.register_forward_pre_hook(lambda _, inputs, seen=moments[name]: seen.add(inputs[0])) for name, module in norms.items()]
    count = 0
    try:
        network.eval()
        with torch.no_grad():
            for batch in batches:
                network(batch)
                count += len(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    if count == 0:
        raise NotEnoughData("SK501", "batch norms", "no image to estimate their statistics on", "give at least one training image")
    with torch.no_grad():
        for name, module in norms.items():
            if moments[name].n:
                _unfold(module, moments[name])


def _unfold(norm: nn.BatchNorm2d, seen: _Moments) -> None:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    new_mean, new_variance = seen.mean.to("cpu"), (seen.squares / seen.n).to("cpu")
    scale = norm.weight.cpu().double() / (variance.cpu().double() + norm.eps).sqrt()
    offset = norm.bias.cpu().double() + scale * (new_mean - mean.cpu().double())
    norm.weight.copy_(scale * (new_variance + norm.eps).sqrt())
    norm.bias.copy_(offset)
    mean.copy_(new_mean)
    variance.copy_(new_variance)
