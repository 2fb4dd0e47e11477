"""Classification networks of torchvision and timm: a new head for each, any number of input channels, and weights copied into them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from simkit.errors import IntegrityError, SimkitError, UsageError, nearest
from simkit.networks import AUXILIARY, check_network, densenet_name, fitting_network, import_timm, network_names

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["TIMM", "adapted_inputs", "body_state", "build_network", "check_forward", "first_convolution", "load_body", "network_names"]

TIMM = "timm:"
"""Begin of the names of timm's networks."""

NORMALISING = ("googlenet", "inception_v3")
"""Networks of torchvision that bring ImageNet's normalisation of three channels to their own: ``2 x - 1``."""

SHOWN = 5


def build_network(name: str, classes: int, *, dropout: float, image_size: int, channels: int = 3) -> tuple[nn.Module, str]:
    """A network with random weights, its last layer replaced by dropout and a layer for ``classes``; and that head's name.

    torchvision's head is the network's last linear layer (SqueezeNet: its 1x1 convolution). A dropout that stands directly before it is set to
    ``dropout`` instead of adding a second one. SqueezeNet's ReLU after the head is taken out: logits are linear in every other network,
    and a ReLU there can die and tie all scores. timm makes its own head, with its own dropout before it.

    Args:
        name: a classification network of torchvision, or ``timm:NAME``.
        classes: outputs.
        dropout: share of the head's inputs that training zeroes.
        image_size: side of the images, for networks that are made for one (vision transformers).
        channels: inputs of the first convolution. GoogLeNet and Inception v3 take their images as they are where these are not three.

    Raises:
        UsageError: SK101 unknown name, SK102 an image size that the network cannot take, SK108 a network of timm with another kind of head.
        ResourceError: SK303 timm is not installed.
    """
    from torch import nn

    if name.startswith(TIMM):
        return _build_timm(name, classes, dropout=dropout, image_size=image_size, channels=channels)
    check_network(name, "finetune.network")
    network = _plain(name, image_size)
    if channels != 3:
        _replace_inputs(network, channels)
    head = [key for key, module in network.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]
    old = network.get_submodule(head)
    parent = network.get_submodule(head.rpartition(".")[0])
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, classes)
    else:
        assert isinstance(old, nn.Conv2d)
        new = nn.Conv2d(old.in_channels, classes, kernel_size=1)
        if isinstance(parent, nn.Sequential):
            parent[-2] = nn.Identity()  # between the convolution and the pooling
    children = list(parent.named_children())
    place = [key for key, _ in children].index(head.rpartition(".")[2])
    before = children[place - 1][1] if place else None
    if isinstance(before, nn.Dropout):
        before.p = dropout
    else:
        new = nn.Sequential(nn.Dropout(dropout), new)
    parent.register_module(children[place][0], new)
    return network, head


def _plain(name: str, image_size: int) -> nn.Module:
    """torchvision's own network, without training aids."""
    import torch
    import torchvision

    options: dict[str, object] = {}
    if name.startswith("vit_"):
        options["image_size"] = image_size
    elif name.startswith("maxvit"):
        options["input_size"] = (image_size, image_size)
    elif name in NORMALISING:
        options.update(aux_logits=False, init_weights=True, transform_input=True)
    network: nn.Module
    if name.startswith("regnet") and torch.get_default_device().type == "meta":  # it computes its widths by tensors, which have no values there
        with torch.device("cpu"):
            network = torchvision.models.get_model(name, weights=None)
        return network.to("meta")
    try:
        network = torchvision.models.get_model(name, weights=None, **options)
    except (AssertionError, RuntimeError, ValueError) as error:
        if "image_size" in options or "input_size" in options:
            raise wrong_size(name, image_size, error) from error
        raise
    return network


def _build_timm(name: str, classes: int, *, dropout: float, image_size: int, channels: int) -> tuple[nn.Module, str]:
    timm = import_timm()
    model = name.removeprefix(TIMM)
    architecture = model.partition(".")[0]
    if not timm.is_model(architecture):
        fix = "`python -c 'import timm; print(timm.list_models())'` lists all"
        raise UsageError("SK101", "finetune.network", f"timm has no network '{model}'{nearest(architecture, timm.list_models())}", fix)
    configuration = timm.get_pretrained_cfg(architecture)
    options: dict[str, Any] = {"img_size": image_size} if configuration is not None and configuration.fixed_input_size else {}
    try:
        network = timm.create_model(architecture, pretrained=False, num_classes=classes, in_chans=channels, drop_rate=dropout, **options)
    except TypeError as error:  # an option that this family does not have
        message = f"{name} cannot be made with {channels} channels, dropout and images of {image_size} px: {error}"
        raise UsageError("SK108", "finetune.network", message, "choose another network") from error
    except (AssertionError, RuntimeError, ValueError) as error:
        raise wrong_size(name, image_size, error) from error
    heads = (network.pretrained_cfg or {}).get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    if len(heads) != 1:
        message = f"{name} has {len(heads)} classification layers{': ' if heads else ''}{', '.join(heads)}; wanted one"
        raise UsageError("SK108", "finetune.network", message, "choose another network")
    return network, heads[0]


def wrong_size(name: str, image_size: int, error: Exception) -> UsageError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    message = f"{name} cannot take images of {image_size} x {image_size} px: {reason}"
    return UsageError("SK102", "finetune.image_size", message, "choose another image_size (a larger one, or a multiple of the network's patch size)")


# --- inputs --------------------------------------------------------------------------------------------------------------------------------


def first_convolution(network: nn.Module) -> str:
    """Name of the first convolution, which takes the image; empty where there is none."""
    from torch import nn

    return next((key for key, module in network.named_modules() if isinstance(module, nn.Conv2d)), "")


def _replace_inputs(network: nn.Module, channels: int) -> None:
    """A first convolution with another number of inputs, its weights drawn anew as torch draws them."""
    from torch import nn

    name = first_convolution(network)
    old = network.get_submodule(name)
    assert isinstance(old, nn.Conv2d)
    assert isinstance(old.padding, tuple)  # not "same"
    size: Any = {key: getattr(old, key) for key in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
    new = nn.Conv2d(channels, old.out_channels, bias=old.bias is not None, device=old.weight.device, **size)
    parent, _, child = name.rpartition(".")
    network.get_submodule(parent).register_module(child, new)
    if hasattr(network, "transform_input"):
        vars(network)["transform_input"] = False  # it is written for three channels


def adapted_inputs(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Weights (outputs, inputs, height, width) of a convolution, made for another number of inputs.

    For one input, the sum over the old ones: on a grey image the convolution then gives what the old one gives on the image repeated. For
    more, the old inputs repeated cyclically, and scaled so that the weights of each output add up to what they did: a constant image gives the
    same. (That is old / new where all inputs repeat equally often; otherwise the scale of each input is divided by its number of copies.)
    """
    import torch

    old = weight.shape[1]
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    taken = torch.arange(channels, device=weight.device) % old
    repeated = weight[:, taken]
    if channels % old == 0:
        return repeated * (old / channels)
    if channels < old:  # some inputs have no copy: their mass goes evenly to those that stay
        return repeated + (weight[:, channels:].sum(dim=1, keepdim=True) / channels)
    copies = torch.bincount(taken, minlength=old)[taken]
    return repeated / copies[None, :, None, None].to(weight.dtype)


# --- weights -------------------------------------------------------------------------------------------------------------------------------


def body_state(network: nn.Module, head: str) -> dict[str, torch.Tensor]:
    """The weights and buffers of everything but the head."""
    return {key: value for key, value in network.state_dict().items() if not key.startswith(f"{head}.")}


def load_body(network: nn.Module, head: str, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Copies a state dict into everything but the head. The head of the file, whatever its size, is left out.

    A first convolution with another number of inputs than the network's is adapted (:func:`adapted_inputs`).

    Args:
        network: changed in place.
        head: name of its last layer.
        state: names and tensors.
        where: the file, for messages.

    Raises:
        IntegrityError: SK402 naming the tensors that are missing, not expected, of another shape, or not finite; and the network of torchvision
            that does fit.
    """
    import torch

    wanted = body_state(network, head)
    given = {densenet_name(key): value for key, value in state.items() if not key.startswith((f"{head}.", *AUXILIARY))}
    _adapt(network, given)
    wrong = _misfits(wanted, given)
    if wrong:
        fits = "" if any("NaN" in one for one in wrong) else fitting_network(state)
        own = "give a state dict of the network that [finetune] names (its head may have any number of classes)"
        fix = f"its tensors fit torchvision's {fits}: name that as network" if fits else own
        raise IntegrityError("SK402", where, f"does not fit the network: {'; '.join(wrong)}", fix)
    with torch.no_grad():
        for key in wanted.keys() & given.keys():
            wanted[key].copy_(given[key])


def _misfits(wanted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> list[str]:
    """What does not fit, by kind, in words."""
    import torch

    optional = {key for key in wanted if key.endswith("num_batches_tracked")}  # absent from files of before 2018; only counts
    wrong: list[str] = []
    for title, keys in (("missing", sorted(wanted.keys() - given.keys() - optional)), ("not part of the network", sorted(given.keys() - wanted.keys()))):
        if keys:
            wrong.append(f"{len(keys)} {title}: {_some(keys)}")
    both = sorted(wanted.keys() & given.keys())
    shapes = [f"{key} is {_shape(given[key])}, wanted {_shape(wanted[key])}" for key in both if given[key].shape != wanted[key].shape]
    if shapes:
        wrong.append(f"{len(shapes)} of another shape: {_some(shapes)}")
    broken = [key for key in both if given[key].is_floating_point() and not bool(torch.isfinite(given[key]).all())]
    if broken:
        wrong.append(f"{len(broken)} with NaN or infinite values: {_some(broken)}")
    return wrong


def _adapt(network: nn.Module, given: dict[str, torch.Tensor]) -> None:
    """Adapts the file's first convolution where it differs from the network's in its number of inputs alone."""
    name = first_convolution(network)
    key = f"{name}.weight"
    if not name or key not in given:
        return
    old, new = given[key], network.get_parameter(key)
    if old.ndim != 4 or old.shape[1] == new.shape[1] or (old.shape[0], *old.shape[2:]) != (new.shape[0], *new.shape[2:]):
        return
    if hasattr(network, "transform_input") and old.shape[1] == 3:
        old = _renormalised(name, old, given)
    given[key] = adapted_inputs(old, new.shape[1])


def _renormalised(name: str, weight: torch.Tensor, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Weights of GoogLeNet and Inception v3 for images of ImageNet's normalisation, which three channels get by ``transform_input``.

    The scale of each channel goes into the weights; its offset into the mean of the batch norm that follows (exact but for GoogLeNet's zero padding).
    """
    import torch

    deviation, mean = torch.tensor([0.229, 0.224, 0.225], dtype=weight.dtype), torch.tensor([0.485, 0.456, 0.406], dtype=weight.dtype)
    norm = f"{name.removesuffix('conv')}bn.running_mean"
    if norm in given:
        given[norm] = given[norm] - (weight.sum(dim=(2, 3)) @ ((mean - 0.5) / 0.5)).to(given[norm].dtype)
    return weight * (deviation / 0.5)[None, :, None, None]


def _some(items: list[str]) -> str:
    return ", ".join(items[:SHOWN]) + (f" and {len(items) - SHOWN} more" if len(items) > SHOWN else "")


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(str(n) for n in tensor.shape) or "a single number"


def check_forward(network: nn.Module, name: str, image_size: int, device: torch.device, *, channels: int = 3) -> None:
    """UsageError SK102 when the network cannot take two images of this size in training."""
    import torch

    network.train()
    try:
        with torch.no_grad():
            network(torch.zeros(2, channels, image_size, image_size, device=device))
    except SimkitError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        raise wrong_size(name, image_size, error) from error
