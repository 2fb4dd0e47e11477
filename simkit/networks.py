"""Networks of torchvision: named, checked, built, loaded from weights that run no code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simkit.errors import IntegrityError, ResourceError, UsageError, nearest

if TYPE_CHECKING:
    import torch

__all__ = [
    "build_network", "check_network", "download_network", "head_of", "host_error", "import_torchvision", "load_state", "state_of", "weights_enum",
    "weights_present",
]


def check_network(network: str, where: str) -> None:
    """UsageError with the nearest name when torchvision has no classification network of that name."""
    import_torchvision()
    from torchvision.models import list_models

    known = [name for name in list_models() if "/" not in name]
    if network not in list_models():
        raise UsageError("SK101", where, f"unknown network '{network}'{nearest(network, known)}", "see torchvision's model zoo")


def weights_enum(network: str, weights: str, where: str) -> Any:
    """The weights entry of a network: "imagenet" is torchvision's recommended one, else a name such as IMAGENET1K_V1."""
    from torchvision.models import get_model_weights

    enum = get_model_weights(network)
    if weights == "imagenet":
        return enum.DEFAULT
    try:
        return enum[weights]
    except KeyError:
        names = [w.name for w in enum]
        fix = f"give imagenet, random, or one of {', '.join(names)}; for a local file use checkpoint = ..."
        raise UsageError("SK101", where, f"{network} has no weights '{weights}'{nearest(weights, names)}", fix) from None


def build_network(network: str, *, classes: int = 1000) -> torch.nn.Module:
    """An untrained network; its values come from torch's global generator (seed it, or load a state)."""
    from torchvision.models import get_model

    model: torch.nn.Module = get_model(network, weights=None, num_classes=classes, **_quiet(network))
    return model


def _quiet(network: str) -> dict[str, Any]:
    """GoogLeNet and Inception warn unless told whether to initialise; everything else takes no such argument."""
    return {"init_weights": True} if network in ("googlenet", "inception_v3") else {}


def import_torchvision() -> None:
    """Imports torchvision; a build that does not match torch is named with the remedy.

    Raises:
        ResourceError: torch and torchvision do not fit together.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        import importlib.metadata as metadata

        versions = " and ".join(f"{name} {metadata.version(name)}" for name in ("torch", "torchvision"))
        fix = "install matching builds, for example: pip install 'torch==2.14.1' 'torchvision==0.29.1'"
        raise ResourceError("SK303", "torchvision", f"{versions} do not work together: {error}", fix) from error


def _hub_path(url: str) -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def host_error(url: str) -> OSError | None:
    """Why an address cannot be reached, found out by one request that waits ten seconds at most; None when it can."""
    import urllib.request

    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10):  # noqa: S310 - an https address of a model zoo
            return None
    except OSError as error:  # URLError, HTTPError and timeouts are kinds of it
        return error


def weights_present(url: str) -> None:
    """Fails before the work when weights are not on this machine and their host cannot be reached.

    Raises:
        ResourceError: naming the file, its address, and where to put it.
    """
    if not _hub_path(url).exists() and (error := host_error(url)) is not None:
        raise _unreachable(url, error) from error


def _unreachable(url: str, error: Exception) -> ResourceError:
    path = _hub_path(url)
    fix = f"download {url} on a machine with internet and put it at {path}, or give checkpoint = PATH, or weights = \"random\""
    return ResourceError("SK302", path.name, f"the weights are not on this machine and cannot be downloaded ({error})", fix)


def download_network(network: str, enum: Any) -> torch.nn.Module:
    """The network with a named weights entry, downloaded by torch.hub where it is not on this machine yet.

    Raises:
        ResourceError: the weights cannot be reached.
        IntegrityError: the file is damaged.
    """
    from torchvision.models import get_model

    try:
        model: torch.nn.Module = get_model(network, weights=enum)
        return model
    except OSError as error:
        raise _unreachable(enum.url, error) from error
    except RuntimeError as error:  # torch.hub: "invalid hash value", or a truncated zip archive
        fix = f"delete {_hub_path(enum.url)} so that it is downloaded again"
        raise IntegrityError("SK402", str(_hub_path(enum.url)), f"the weights file is damaged: {error}", fix) from error


def state_of(path: Path) -> dict[str, torch.Tensor]:
    """A state dict from a local file, without running any code in it (``weights_only``).

    Accepts a bare state dict or one below the key "state_dict" or "model"; the prefix "module." of parallel training is taken off.

    Raises:
        ResourceError: the file is missing or may not be read.
        IntegrityError: truncated, not a state dict, or a pickle that holds more than tensors.
    """
    import torch

    if not path.is_file():
        raise ResourceError("SK302", str(path), "the weights file does not exist", "check the path of checkpoint")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for damaged files; all mean the same here
        first = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        fix = "give a state dict of tensors (.pth or .safetensors), complete and from a trusted tool"
        raise IntegrityError("SK402", str(path), f"cannot be read as weights: {first}", fix) from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise IntegrityError("SK402", str(path), "holds no state dict (names with tensors)", "save it with torch.save(model.state_dict(), ...)")
    return {str(k).removeprefix("module."): v.float() if v.is_floating_point() else v for k, v in state.items()}


def head_of(model: torch.nn.Module) -> tuple[str, torch.nn.Module]:
    """Name and module of the classification layer: the last Linear, or the last convolution where there is none (SqueezeNet)."""
    import torch

    auxiliary = ("aux1", "aux2", "AuxLogits")
    kinds: tuple[type[torch.nn.Module], ...] = (torch.nn.Linear, torch.nn.Conv2d)
    modules = [(n, m) for n, m in model.named_modules() if not n.startswith(auxiliary)]
    layers = next((found for kind in kinds if (found := [(n, m) for n, m in modules if isinstance(m, kind)])), [])
    if not layers:
        raise UsageError("SK108", type(model).__name__, "the network has no linear or convolutional layer", "choose another network")
    return layers[-1]


def load_state(network: str, state: Mapping[str, torch.Tensor], where: str) -> torch.nn.Module:
    """The network with the state loaded strictly; the number of classes is read off the head's tensor.

    Raises:
        IntegrityError: names or shapes of tensors do not fit, naming the first few.
    """
    head = head_of(build_network(network))[0]
    weight = state.get(f"{head}.weight")
    if weight is None:
        message = f"has no tensor '{head}.weight', the head of {network}; it holds {', '.join(list(state)[:4])} ..."
        raise IntegrityError("SK402", where, message, f"is it a state dict of {network}?")
    model = build_network(network, classes=int(weight.shape[0]))
    try:
        model.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:4]]
        raise IntegrityError("SK402", where, f"does not fit {network}: {'; '.join(lines)[:400]}", f"is it a state dict of {network}?") from error
    return model
