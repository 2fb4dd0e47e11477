"""torchvision's classification networks: a new head for each, and where their first weights come from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from simkit.errors import IntegrityError, ResourceError, SimkitError, UsageError, nearest
from simkit.recipe import digest_file

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["body_state", "build_network", "imagenet_file", "load_body", "network_names", "read_weights"]

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Training aids of GoogLeNet and Inception v3 that are not used here: left out of networks and of weights files."""

SHOWN = 5


def network_names() -> list[str]:
    """All classification networks of the installed torchvision."""
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def build_network(name: str, classes: int, *, dropout: float, image_size: int) -> tuple[nn.Module, str]:
    """A network with random weights, its last layer replaced by dropout and a layer for ``classes``; and that head's name.

    The head is the network's last linear layer (SqueezeNet: its 1x1 convolution). A dropout that stands directly before it is set to
    ``dropout`` instead of adding a second one. SqueezeNet's ReLU after the head is taken out: logits are linear in every other network,
    and a ReLU there can die and tie all scores.

    Raises:
        UsageError: SK101 unknown name, SK102 an image size that the network cannot take.
    """
    import torchvision
    from torch import nn

    if name not in network_names():
        fix = "`python -c 'import torchvision; print(torchvision.models.list_models(module=torchvision.models))'` lists all"
        raise UsageError("SK101", "finetune.network", f"unknown network '{name}'{nearest(name, network_names())}", fix)
    options: dict[str, object] = {}
    if name.startswith("vit_"):
        options["image_size"] = image_size
    elif name.startswith("maxvit"):
        options["input_size"] = (image_size, image_size)
    elif name in ("googlenet", "inception_v3"):  # transform_input: their weights expect another normalisation
        options.update(aux_logits=False, init_weights=True, transform_input=True)
    try:
        network = torchvision.models.get_model(name, weights=None, **options)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise wrong_size(name, image_size, error) from error
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


def wrong_size(name: str, image_size: int, error: Exception) -> UsageError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    message = f"{name} cannot take images of {image_size} x {image_size} px: {reason}"
    return UsageError("SK102", "finetune.image_size", message, "choose another image_size (a larger one, or a multiple of the network's patch size)")


def body_state(network: nn.Module, head: str) -> dict[str, torch.Tensor]:
    """The weights and buffers of everything but the head."""
    return {key: value for key, value in network.state_dict().items() if not key.startswith(f"{head}.")}


def load_body(network: nn.Module, head: str, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Copies a state dict into everything but the head. The head of the file, whatever its size, is left out.

    Raises:
        IntegrityError: SK402 naming the tensors that are missing, not expected, of another shape, or not finite.
    """
    import torch

    wanted = body_state(network, head)
    given = {key: value for key, value in state.items() if not key.startswith((f"{head}.", *AUXILIARY))}
    given = {_densenet_name(key): value for key, value in given.items()}
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
    if wrong:
        fix = "give a state dict of the network that [finetune] names (its head may have any number of classes)"
        raise IntegrityError("SK402", where, f"does not fit the network: {'; '.join(wrong)}", fix)
    with torch.no_grad():
        for key in both:
            wanted[key].copy_(given[key])


def _some(items: list[str]) -> str:
    return ", ".join(items[:SHOWN]) + (f" and {len(items) - SHOWN} more" if len(items) > SHOWN else "")


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(str(n) for n in tensor.shape) or "a single number"


def _densenet_name(key: str) -> str:
    """torchvision's DenseNet files hold ``norm.1`` where the modules are called ``norm1``."""
    return re.sub(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key)


def read_weights(path: str | Path, where: str) -> dict[str, torch.Tensor]:
    """A state dict from a ``.safetensors`` file or one written by ``torch.save``; nothing in the file is executed.

    Raises:
        ResourceError: SK302 when the file does not exist.
        IntegrityError: SK402 when it is truncated, or holds more than tensors.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        raise ResourceError("SK302", where, f"the weights file '{path}' does not exist", "put the file there, or correct the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise many kinds; each of them means that the file is not what it should be
        lines = str(error).strip().splitlines()
        message = f"'{path}' cannot be read as weights: {type(error).__name__}: {lines[0] if lines else ''}"
        fix = "it is truncated, or holds pickled objects, which are never executed: save the network's state_dict() again, best as .safetensors"
        raise IntegrityError("SK402", where, message, fix) from error
    odd = [] if not isinstance(state, dict) else [str(key) for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if not isinstance(state, dict) or odd or not state:
        found = f"'{type(state).__name__}'" if not isinstance(state, dict) else f"entries that are not tensors: {_some(odd)}" if odd else "nothing"
        raise IntegrityError("SK402", where, f"'{path}' is not a state dict: it holds {found}", "save only the network's state_dict(): names and tensors")
    return {str(key): value.float() if value.is_floating_point() else value for key, value in state.items()}


def imagenet_file(network: str) -> Path:
    """torchvision's default ImageNet weights of a network, downloaded by torch.hub when they are not there yet.

    Raises:
        ResourceError: SK302 with the file's address and the place to put it, when it can be neither found nor downloaded.
        IntegrityError: SK402 when the file does not have the digest that is part of its name.
    """
    import socket

    import torch
    import torchvision

    weights = torchvision.models.get_model_weights(network).DEFAULT
    url = str(weights.url)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    prefix = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if not path.is_file():
        patience = socket.getdefaulttimeout()
        socket.setdefaulttimeout(20.0)  # torch.hub has no timeout of its own: a machine without network would wait for ever
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix.group(1) if prefix else None, progress=False)
        except (OSError, RuntimeError) as error:
            message = f"the weights of source 'imagenet' are not on this machine and cannot be downloaded ({type(error).__name__}: {error}): {url}"
            raise ResourceError("SK302", "finetune.sources", message, f"download that file elsewhere and put it at {path}") from error
        finally:
            socket.setdefaulttimeout(patience)
    found = digest_file(path)
    if prefix and not found.startswith(prefix.group(1)):
        message = f"its SHA-256 begins with {found[:len(prefix.group(1))]}, its name promises {prefix.group(1)}"
        raise IntegrityError("SK402", str(path), message, "delete the file and download it again")
    return path


def interpolated_positions(network: str, state: dict[str, torch.Tensor], image_size: int) -> dict[str, torch.Tensor]:
    """Position embeddings of a vision transformer, resampled to another image size; other networks' weights as they are."""
    if not network.startswith("vit_"):
        return state
    from torchvision.models.vision_transformer import interpolate_embeddings

    patch = int(network.rpartition("_")[2])
    return dict(interpolate_embeddings(image_size, patch, state))


def check_forward(network: nn.Module, name: str, image_size: int, device: torch.device) -> None:
    """UsageError SK102 when the network cannot take two images of this size in training."""
    import torch

    network.train()
    try:
        with torch.no_grad():
            network(torch.zeros(2, 3, image_size, image_size, device=device))
    except SimkitError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        raise wrong_size(name, image_size, error) from error
