"""Squared gradients of a network's filters, image by image, from one backward pass over a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["Gradients", "filter_norms"]

AGREEMENT = 0.01
"""Relative difference from autograd, in the norm over a module's filters, up to which a module counts as understood: float32 on a GPU may use TF32."""


@dataclass(eq=False)
class _Weighted:
    """A module with a weight: its inputs, and the gradients of its outputs, of every call in a forward pass.

    Attributes:
        name: of the module.
        module: itself.
        inputs: of each call.
        arrived: (call, gradient of its output), until all have come.
        squares: float64 (n, filters), once they have.
        gram: products of the inputs' positions, which all backward passes share.
    """

    name: str
    module: Any
    inputs: list[Any] = field(default_factory=list)
    arrived: list[tuple[int, Any]] = field(default_factory=list)
    squares: Any = None
    gram: Any = None

    @property
    def filters(self) -> int:
        return int(self.module.weight.shape[0])

    def clear(self) -> None:
        self.inputs.clear()
        self.arrived.clear()
        self.squares = self.gram = None

    def take(self, call: int, gradient: torch.Tensor, n: int) -> None:
        """The gradient of the output of one call, in a batch of n images; with the last one squares are made, and the gradients forgotten."""
        self.arrived.append((call, gradient.detach()))
        if n and len(self.arrived) == len(self.inputs):
            self.finish(n)

    def finish(self, n: int) -> None:
        """Squares from what has arrived, float64. Gradients are brought near 1 by a power of two meanwhile, so that their squares do not underflow."""
        import torch
        from torch import nn

        largest = torch.stack([gradient.abs().max() for _, gradient in self.arrived]).max().double()
        scale = torch.exp2(torch.floor(torch.log2(torch.where(largest > 0, largest, 1.0)))).clamp(min=2.0**-120)
        pairs = [(self.inputs[call], gradient / scale.to(gradient.dtype)) for call, gradient in self.arrived]
        self.arrived.clear()
        squares = self._filter_squares(pairs, n) if isinstance(self.module, (nn.Conv2d, nn.Linear)) else _norm_squares(self.module, pairs, n)
        self.squares = squares.double() * scale.square()

    def _filter_squares(self, pairs: list[tuple[Any, Any]], n: int) -> torch.Tensor:
        import torch
        from torch import nn

        taken = _convolution if isinstance(self.module, nn.Conv2d) else _linear
        parts = [taken(self.module, value, gradient, n, inputs=self.gram is None) for value, gradient in pairs]
        gradients = parts[0][1] if len(parts) == 1 else torch.cat([gradient for _, gradient in parts], dim=3)
        values = parts[0][0] if len(parts) == 1 or self.gram is not None else torch.cat([value for value, _ in parts], dim=3)
        squares, self.gram = filter_norms(values, gradients, self.gram)
        size: int = self.module.weight[0].numel()
        return squares / size


def filter_norms(values: torch.Tensor | None, gradients: torch.Tensor, gram: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """|sum over positions of gradient x value|² of each filter: (n, groups * filters), and the products of positions where they were used.

    The filter's gradient is a matrix product over positions P; where these are few, its norm is cheaper by g' (X'X) g, which all g share.

    Args:
        values: (n, groups, K, P), inputs of the filters; not read where ``gram`` is given.
        gradients: (n, groups, filters, P), of the outputs.
        gram: from the first call.
    """
    n, groups, filters, positions = gradients.shape
    if gram is None:
        assert values is not None
        size = values.shape[2]
        if positions * (size + filters) >= filters * size:
            return (gradients @ values.transpose(2, 3)).square().sum(3).reshape(n, groups * filters), None
        gram = values.transpose(2, 3) @ values
    return ((gradients @ gram) * gradients).sum(3).clamp(min=0.0).reshape(n, groups * filters), gram


def _by_image(value: torch.Tensor, n: int) -> torch.Tensor:
    """(n * m, groups, size, positions) as (n, groups, size, m * positions): windows of one image lie together."""
    m = value.shape[0] // n
    if m == 1:
        return value
    return value.reshape(n, m, *value.shape[1:]).permute(0, 2, 3, 1, 4).flatten(3)


def _convolution(module: Any, value: torch.Tensor, gradient: torch.Tensor, n: int, *, inputs: bool) -> tuple[Any, torch.Tensor]:
    """Input patches (n, groups, K, P) and output gradients (n, groups, filters, P) of a convolution."""
    from torch.nn import functional

    groups = module.groups
    gradients = _by_image(gradient.reshape(gradient.shape[0], groups, gradient.shape[1] // groups, -1), n)
    if not inputs:
        return None, gradients
    if any(module._reversed_padding_repeated_twice):
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        value = functional.pad(value, module._reversed_padding_repeated_twice, mode=mode)
    if tuple(module.kernel_size) == (1, 1):
        patches = value[:, :, :: module.stride[0], :: module.stride[1]]
    else:
        patches = functional.unfold(value, module.kernel_size, dilation=module.dilation, stride=module.stride)
    return _by_image(patches.reshape(value.shape[0], groups, module.weight[0].numel(), -1), n), gradients


def _linear(module: Any, value: torch.Tensor, gradient: torch.Tensor, n: int, *, inputs: bool) -> tuple[Any, torch.Tensor]:
    """Inputs (n, 1, K, P) and output gradients (n, 1, filters, P) of a linear layer."""
    def turned(one: torch.Tensor) -> torch.Tensor:
        return one.reshape(n, 1, -1, one.shape[-1]).transpose(2, 3)

    return turned(value) if inputs else None, turned(gradient)


def _norm_squares(module: Any, pairs: list[tuple[Any, Any]], n: int) -> torch.Tensor:
    """(n, channels) of a norm: its weight multiplies what was normalised."""
    total: Any = 0.0
    for value, gradient in pairs:
        product = _normalised(module, value) * gradient
        kept = module.weight.ndim
        if _second_axis(module, value):
            product = product.movedim(1, -1)
        total = total + product.reshape(n, -1, *product.shape[product.ndim - kept :]).sum(1)
    squares: torch.Tensor = total.square().flatten(1).reshape(n, module.weight.shape[0], -1).mean(2)
    return squares


def _second_axis(module: Any, value: torch.Tensor) -> bool:
    """Whether a norm's channels are the second axis: of all but layer norms, and of the layer norms that are named 2d."""
    from torch import nn

    return not isinstance(module, nn.LayerNorm) or (value.ndim == 4 and "2d" in type(module).__name__)


def _normalised(module: Any, value: torch.Tensor) -> torch.Tensor:
    """What a norm makes before its weight and bias."""
    from torch import nn
    from torch.nn import functional

    if isinstance(module, nn.LayerNorm):
        if not _second_axis(module, value):
            return functional.layer_norm(value, module.normalized_shape, eps=module.eps)
        return functional.layer_norm(value.movedim(1, -1), module.normalized_shape, eps=module.eps).movedim(-1, 1)
    if isinstance(module, nn.GroupNorm):
        return functional.group_norm(value, module.num_groups, eps=module.eps)
    return functional.batch_norm(value, module.running_mean, module.running_var, eps=module.eps)


class Gradients:
    """Takes the squared gradient of every filter of a network for each image.

    Hooks keep each module's input; a hook on its output takes the gradient there. So one backward pass gives what else takes one for each image.

    Args:
        model: in evaluation mode, all weights with gradients.
        head: name of the module that takes no part.

    Attributes:
        modules: that take part, in the order of the network.
        ignored: names of modules with a weight that do not, with the reason.
    """

    def __init__(self, model: torch.nn.Module, head: str):
        self.modules: list[_Weighted] = []
        self.active, self.n = False, 0
        refused: list[str] = []
        for name, module in model.named_modules():
            if not _has_weight(module) or name == head or name.startswith(f"{head}."):
                continue
            if not _understood(module):
                refused.append(f"{name} ({type(module).__name__})")
                continue
            weighted = _Weighted(name, module)
            self.modules.append(weighted)
            self._hook(weighted)
        self.ignored: tuple[str, ...] = tuple(refused)

    def _hook(self, weighted: _Weighted) -> None:
        module = weighted.module

        def before(_: Any, inputs: Any) -> None:
            if self.active:
                weighted.inputs.append(inputs[0].detach())

        def after(output: Any) -> None:
            if self.active and output.requires_grad:
                call = len(weighted.inputs) - 1
                output.register_hook(lambda gradient: weighted.take(call, gradient, self.n))

        module.register_forward_pre_hook(before)
        if hasattr(module, "drop") and hasattr(module, "act"):  # timm's norms with an activation: the weight acts before it
            module.drop.register_forward_pre_hook(lambda _, inputs: after(inputs[0]))
        else:
            module.register_forward_hook(lambda _, __, output: after(output))

    @property
    def dimension(self) -> int:
        """D, number of channels."""
        return sum(one.filters for one in self.modules)

    @property
    def slices(self) -> tuple[tuple[str, int, int], ...]:
        """(name, start, stop) of the channels of each module."""
        ends = np.cumsum([one.filters for one in self.modules]).tolist()
        return tuple((one.name, end - one.filters, end) for one, end in zip(self.modules, ends, strict=True))

    @contextlib.contextmanager
    def recording(self, n: int) -> Iterator[None]:
        """Within, one forward pass over n images is watched, and any number of backward passes through it. With n = 0 gradients are kept, not squared."""
        self.clear()
        self.active, self.n = True, n
        try:
            yield
        finally:
            self.active = False
            self.clear()

    def clear(self) -> None:
        """Forgets all inputs and gradients."""
        for one in self.modules:
            one.clear()

    def taken(self) -> np.ndarray:
        """Of the last backward pass float64 (n, D): the mean of the squared gradients of each filter's weights."""
        import torch

        parts = []
        for one in self.modules:
            if one.arrived:  # not every call took part
                one.finish(self.n)
            parts.append(one.squares if one.squares is not None else torch.zeros(self.n, one.filters, device=one.module.weight.device).double())
            one.squares = None
        return np.asarray(torch.cat(parts, dim=1).cpu().numpy())

    def check(self, forward: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Compares with autograd, on two images of which only the second is given a gradient; modules that disagree are taken out.

        Args:
            forward: makes (images, features) of two images.
        """
        import torch

        with self.recording(0), torch.enable_grad():
            images, features = forward()
            seed = torch.zeros_like(features)
            seed[1] = torch.from_numpy(np.random.default_rng(1).standard_normal(features.shape[1])).to(features)
            weights = [one.module.weight for one in self.modules]
            expected = torch.autograd.grad(features, [images, *weights], seed, allow_unused=True)[1:]
            reasons = [_disagreement(one, gradient) for one, gradient in zip(self.modules, expected, strict=True)]
        refused = [f"{one.name} ({type(one.module).__name__}: {reason})" for one, reason in zip(self.modules, reasons, strict=True) if reason]
        self.modules = [one for one, reason in zip(self.modules, reasons, strict=True) if not reason]
        self.ignored += tuple(refused)


def _disagreement(one: _Weighted, gradient: Any) -> str:
    """Why a module does not take part, after the trial pass over two images; "" when it does."""
    import torch

    if gradient is None:
        return "not used before the head"
    if not one.inputs or not one.arrived:
        return "its weight is used outside the module, or not on images"
    try:
        one.finish(2)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError) as error:  # shapes that are not those of its kind of module
        return f"not one row of values an image, or not a plain module of its kind: {str(error).splitlines()[0][:80]}"
    wanted = gradient.double().square().flatten(1).mean(1) if gradient.ndim > 1 else gradient.double().square()
    found = one.squares
    if found.shape != (2, len(wanted)) or float(found[0].sum() + (found[1] - wanted).abs().sum()) > AGREEMENT * float(wanted.sum()):
        return "its gradients are not those of a plain module of its kind"
    return ""


def _has_weight(module: Any) -> bool:
    from torch import nn

    return isinstance(getattr(module, "weight", None), nn.Parameter)


def _understood(module: Any) -> bool:
    from torch import nn

    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.running_mean is not None
    return isinstance(module, (nn.Conv2d, nn.Linear, nn.LayerNorm, nn.GroupNorm))
