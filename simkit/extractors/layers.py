"""Which of a network's values are the features: a layer by name, or what its last layer is given; and how maps and tokens become rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from simkit.errors import UsageError, nearest
from simkit.extractors.network_session import NetworkSession, Preprocessing
from simkit.networks import head_of

if TYPE_CHECKING:
    import torch

__all__ = ["LayerSession", "Pool", "channels_last_layer", "check_layer", "layer_of", "pooled", "pooled_width"]

Pool = Literal["average", "max", "cls", "gem"]

GEM_POWER, GEM_FLOOR = 3.0, 1e-6
"""p and the smallest value of the generalised mean (Radenovic, Tolias, Chum 2018, arXiv:1711.02512, eq. 4, and the authors' code)."""

CHANNELS_LAST_NETWORKS = ("SwinTransformer", "SwinTransformerV2")
"""Classes, of torchvision and of timm, whose maps are (n, h, w, c)."""


def pooled(value: Any, pool: Pool, where: str, *, channels_last: bool = False) -> torch.Tensor:
    """One row per image: (n, c).

    Args:
        value: rows (n, c), which stay as they are; tokens (n, t, c); or maps (n, c, h, w), or (n, h, w, c) with ``channels_last``.
        pool: "average" and "max" are taken over all places of a map, or over all tokens: a class token and register tokens count like any other.
            "cls" is the first token. "gem" is the generalised mean ``(mean(max(x, 1e-6)^3))^(1/3)`` over the places or tokens: between average
            and maximum; negative values count as 1e-6, so it belongs on layers after a ReLU.
        where: what has the option ``pool``, for messages.
        channels_last: whether maps have their channels in the last axis.

    Raises:
        UsageError: for any other shape, "cls" of a map, and any pool but "average" of rows.
    """
    import torch

    if not isinstance(value, torch.Tensor) or value.ndim not in (2, 3, 4):
        what = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"type {type(value).__name__}"
        raise UsageError("SK108", where, f"the value of the layer has {what}, wanted (n, c), (n, t, c) or (n, c, h, w)", "choose another layer")
    if value.ndim == 2:
        if pool != "average":
            message = f"the value of the layer has one row an image already (shape {tuple(value.shape)}): pool = '{pool}' has nothing to pool"
            raise UsageError("SK108", f"{where}.pool", message, "leave pool out, or name a layer of maps or tokens")
        return value
    if pool == "cls":
        if value.ndim == 4:
            raise UsageError("SK108", f"{where}.pool", "cls needs a layer of tokens (n, t, c); this one is a map (n, c, h, w)", "use average, max or gem")
        return value[:, 0]
    axes = (1,) if value.ndim == 3 else (1, 2) if channels_last else (2, 3)
    if pool == "max":
        return value.amax(axes)
    if pool == "gem":
        return value.float().clamp(min=GEM_FLOOR).pow(GEM_POWER).mean(axes).pow(1 / GEM_POWER)
    return value.mean(axes)


def layer_of(model: torch.nn.Module, layer: str, where: str) -> torch.nn.Module:
    """The module of that name.

    Raises:
        UsageError: there is none, with the nearest name.
    """
    modules: dict[str, torch.nn.Module] = dict(model.named_modules())
    if layer not in modules or not layer:
        short = [name for name in modules if name and name.count(".") < 2]
        shown = ", ".join(short[:60]) + (f" and {len(short) - 60} more" if len(short) > 60 else "")
        raise UsageError("SK101", f"{where}.layer", f"{type(model).__name__} has no module '{layer}'{nearest(layer, modules)}", f"modules: {shown}")
    return modules[layer]


def channels_last_layer(model: torch.nn.Module, layer: str) -> bool:
    """Whether the maps that a module gives are (n, h, w, c) rather than (n, c, h, w).

    A layer norm and a linear layer work on the last axis, a convolution, a batch norm and the "2d" layer norms on the second; a permutation says it
    itself; an activation or dropout keeps what came before it; a sequence ends as its last member. Everything else is as its network is: the last
    axis in Swin transformers, and in the networks of timm that say so (``output_fmt``).
    """
    found = _layout(model, layer)
    if found is not None:
        return found
    return type(model).__name__ in CHANNELS_LAST_NETWORKS or str(getattr(model, "output_fmt", "")).endswith("NHWC")


def _layout(model: torch.nn.Module, layer: str) -> bool | None:
    """True: channels last, False: second; None: the module does not tell."""
    from torch import nn

    module = model.get_submodule(layer)
    kind = type(module).__name__
    if isinstance(module, (nn.Conv2d, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)) or kind.endswith("Norm2d"):
        return False
    if isinstance(module, (nn.LayerNorm, nn.Linear)):
        return True
    if kind == "Permute":
        return tuple(getattr(module, "dims", ())) != (0, 3, 1, 2)
    if isinstance(module, nn.Sequential) and len(module):
        return _layout(model, f"{layer}.{next(reversed(module._modules))}")
    if kind.endswith("Mlp") and hasattr(module, "fc2"):  # timm's
        return _layout(model, f"{layer}.fc2")
    parent_name, _, own = layer.rpartition(".")
    if not list(module.children()) and not list(module.parameters()) and layer:
        before: str | None = None
        parent = model.get_submodule(parent_name)
        if kind in ("Identity", "DropPath") and not (isinstance(parent, nn.Sequential) or type(parent).__name__.endswith("Mlp")):
            return None  # in blocks they do not stand in the order in which they are computed
        for name, _ in parent.named_children():
            if name == own:
                return _layout(model, f"{parent_name}.{before}".lstrip(".")) if before is not None else None
            before = name
    return None


class LayerSession(NetworkSession):
    """A network with a hook on the layer whose values are taken. The whole network runs, also behind that layer.

    Args:
        model: the network with its weights.
        preprocessing: what its weights want.
        device: where it runs.
        layer: name of a module, whose output is taken (the first of several); empty: what the last layer (the head) is given.
        pool: see :func:`pooled`.
        where: name of the extractor, for messages.
    """

    def __init__(self, model: torch.nn.Module, preprocessing: Preprocessing, device: str, *, layer: str = "", pool: Pool = "average", where: str = "extractor"):
        super().__init__(model, preprocessing, device, keep=layer)
        self.layer, self.pool, self.where = layer, pool, where
        self.caught: Any = None
        self.channels_last = _hooked(self.model, layer, pool, where, self._catch)

    def rows(self, images: torch.Tensor) -> torch.Tensor:
        """See :meth:`NetworkSession.rows`."""
        self.model(images)
        value, self.caught = self.caught, None
        return pooled(value, self.pool, self.where, channels_last=self.channels_last)

    def _catch(self, value: Any) -> None:
        self.caught = value


def _hooked(model: torch.nn.Module, layer: str, pool: Pool, where: str, catch: Callable[[Any], None]) -> bool:
    """Puts the hook on a layer; returns whether its maps have their channels in the last axis."""
    if pool == "cls" and getattr(model, "num_prefix_tokens", 1) == 0:
        raise UsageError("SK108", f"{where}.pool", f"{type(model).__name__} has no class token here", "use average, max or gem")

    def copied(value: Any) -> None:  # an operation that comes later may work in place, as ReLU and residual sums do
        catch(value.clone() if hasattr(value, "clone") else value)

    def catch_input(module: Any, inputs: Any) -> None:
        copied(inputs[0])

    def catch_output(module: Any, inputs: Any, output: Any) -> None:
        copied(output[0] if isinstance(output, (tuple, list)) and output else output)

    if not layer:
        head_of(model)[1].register_forward_pre_hook(catch_input)
        return False
    layer_of(model, layer, where).register_forward_hook(catch_output)
    return channels_last_layer(model, layer)


def pooled_width(model: torch.nn.Module, size: int, *, layer: str, pool: Pool, where: str) -> int:
    """How many features there will be, by one image of shapes without values: ``model`` lies on torch's "meta" device and is used up.

    Raises:
        UsageError: no such layer, a layer that is not computed, one that cannot be pooled so, or images of a size that the network does not take.
    """
    import torch

    caught: list[Any] = []
    last = _hooked(model.eval(), layer, pool, where, caught.append)
    try:
        with torch.inference_mode():
            model(torch.empty(1, 3, size, size, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:  # each family of networks refuses in its own way
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        message = f"{type(model).__name__} does not take images of {size} x {size} px: {said}"
        raise UsageError("SK102", f"{where}.image_size", message, "give another image_size, or leave it out") from error
    if not caught:
        raise UsageError("SK108", f"{where}.layer", f"'{layer}' is not computed when features are", "choose another layer")
    return int(pooled(caught[-1], pool, where, channels_last=last).shape[1])


def check_layer(build: Callable[[], torch.nn.Module], size: int, *, layer: str, pool: Pool, where: str) -> int:
    """:func:`pooled_width` of the network that ``build`` makes; it is made without values where its construction needs none (in a moment)."""
    import torch

    try:
        try:
            with torch.device("meta"):
                model = build()
        except (NotImplementedError, RuntimeError):  # RegNet computes its widths with tensors; what is really wrong is raised again
            model = build().to("meta")
    except AssertionError as error:
        message = f"the network is not made for images of {size} x {size} px: {error}"
        raise UsageError("SK102", f"{where}.image_size", message, "give another image_size, or leave it out") from error
    return pooled_width(model, size, layer=layer, pool=pool, where=where)
