"""Networks of torchvision and timm: named, checked, built, loaded from weights that run no code."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simkit.errors import DataError, IntegrityError, ResourceError, UsageError, nearest
from simkit.recipe import digest_file

if TYPE_CHECKING:
    import torch

__all__ = [
    "AUXILIARY", "WEIGHT_FILES", "build_network", "check_network", "densenet_name", "download_network", "file_digest", "fitting_network", "head_of",
    "host_error", "hub_file", "import_timm", "import_torchvision", "load_body", "network_names", "state_of", "timm_cached", "timm_files",
    "timm_repository", "verified", "weights_enum", "weights_present",
]

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Training aids of GoogLeNet and Inception v3; no features come from them."""

STATED_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")
"""torchvision and timm call their files name-0123abcd.pth, by the first digits of the SHA-256."""

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""What the weights are called in a repository of the Hugging Face hub, in the order in which timm looks for them."""

PATIENCE = 20.0
"""Seconds without an answer after which a download is given up: torch.hub by itself would wait for ever."""

SHOWN = 4

FAMILIES = (
    (r"trunk_output\.", r"regnet"), (r"layer1\.", r"resne"), (r"encoder\.", r"vit_"), (r"stage2\.", r"shufflenet"), (r"layers\.", r"mnasnet"),
    (r"inception3a\.", r"googlenet"), (r"Mixed_5b\.", r"inception"), (r"blocks\.", r"maxvit"), (r"features\.denseblock1\.", r"densenet"),
    (r"features\.3\.squeeze\.", r"squeezenet"), (r"features\.0\.0\.", r"mobilenet|efficientnet|convnext|swin"), (r"features\.0\.", r"alexnet|vgg"),
)
"""How names of tensors of a family of torchvision begin, and what is in the names of its networks."""


def network_names() -> list[str]:
    """All classification networks of the installed torchvision."""
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def check_network(network: str, where: str) -> None:
    """UsageError with the nearest name when torchvision has no classification network of that name."""
    import_torchvision()
    known = network_names()
    if network.startswith("quantized_"):
        plain = network.removeprefix("quantized_")
        message = f"'{network}' is quantised: its values are integers on the CPU only, which simkit does not take as features"
        raise UsageError("SK108", where, message, f"give {plain}" if plain in known else "give a network of floating point numbers")
    if network not in known:
        fix = "`python -c 'import torchvision; print(torchvision.models.list_models(module=torchvision.models))'` lists all classification networks"
        raise UsageError("SK101", where, f"unknown network '{network}'{nearest(network, known)}", fix)


def weights_enum(network: str, weights: str, where: str) -> Any:
    """The weights entry of a network.

    Args:
        network: a classification network of torchvision.
        weights: "imagenet", which is torchvision's recommended entry, or an entry's name: IMAGENET1K_V1, or ResNet50_Weights.IMAGENET1K_V1.
        where: what has the option, for messages.
    """
    from torchvision.models import get_model_weights

    check_network(network, where.replace(".weights", ".network"))
    enum = get_model_weights(network)
    if weights == "imagenet":
        return enum.DEFAULT
    names = [w.name for w in enum]
    owner, dot, name = weights.rpartition(".")
    if dot and owner != enum.__name__:
        fix = f"write {enum.__name__}.{name}" if name in names else f"give one of {', '.join(names)}"
        raise UsageError("SK101", where, f"'{owner}' is not the class of {network}'s weights, which is {enum.__name__}", fix)
    if name not in names:
        fix = f"give imagenet, random, or one of {', '.join(names)}; for a local file use checkpoint = ..."
        raise UsageError("SK101", where, f"{network} has no weights '{weights}'{nearest(name, names)}", fix)
    return enum[name]


def build_network(network: str, *, image_size: int | None = None) -> torch.nn.Module:
    """An untrained network; its values come from torch's global generator (seed it, or load a state).

    Args:
        network: a classification network of torchvision.
        image_size: side of the images, for vision transformers: they have one position embedding for each patch.
    """
    from torchvision.models import get_model

    own: dict[str, Any] = {}
    if network in ("googlenet", "inception_v3"):  # they warn unless told; their weights were trained with another normalisation, which they make themselves
        own = {"init_weights": True, "transform_input": True}
    if image_size is not None and network.startswith("vit_"):
        own["image_size"] = image_size
    model: torch.nn.Module = get_model(network, weights=None, **own)
    return model


def import_timm() -> Any:
    """The package timm.

    Raises:
        ResourceError: it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise ResourceError("SK303", "timm", f"the package timm cannot be imported ({error})", "pip install 'simkit[timm]'") from error
    return timm


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


@lru_cache(maxsize=256)
def _digest(path: Path, size: int, changed: int) -> str:
    return digest_file(path)


def file_digest(path: Path) -> str:
    """SHA-256 of a weights file; computed once in a process for a file that does not change.

    Raises:
        ResourceError: the file is missing or may not be read.
    """
    try:
        status = path.stat()
        return _digest(path, status.st_size, status.st_mtime_ns)
    except FileNotFoundError as error:
        raise ResourceError("SK302", str(path), "the weights file does not exist", "check the path of checkpoint") from error
    except OSError as error:
        raise ResourceError("SK302", str(path), f"the weights file cannot be read ({error.strerror})", "check its permissions") from error


def _check_digest(path: Path, url: str) -> None:
    """Fails when a file is not the one whose digest begins as its address says (torchvision: name-0123abcd.pth)."""
    wanted = STATED_DIGEST.search(url)
    if wanted is None:
        return
    found = file_digest(path)
    if not found.startswith(wanted[1]):
        message = f"the weights file is damaged or another one: its SHA-256 is {found}, wanted one that begins with {wanted[1]}"
        raise IntegrityError("SK402", str(path), message, f"the file was kept; move it away so that {url} is downloaded again")


def weights_present(url: str) -> None:
    """Fails before the work when weights are damaged, or are not on this machine and their host cannot be reached.

    Raises:
        ResourceError: naming the file, its address, and where to put it.
        IntegrityError: the file is there, and its digest is not the one that its name states; both are named.
    """
    path = _hub_path(url)
    if path.exists():
        _check_digest(path, url)
    elif (error := host_error(url)) is not None:
        raise _unreachable(url, error) from error


def hub_file(url: str) -> Path:
    """The file of an address in torch's cache: its digest checked where its name states one; downloaded where it is not there.

    Raises:
        ResourceError: it cannot be downloaded.
        IntegrityError: the digest is another one.
    """
    import socket

    import torch

    path, stated = _hub_path(url), STATED_DIGEST.search(url)
    if path.exists():
        _check_digest(path, url)
        return path
    patience = socket.getdefaulttimeout()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        socket.setdefaulttimeout(PATIENCE)
        torch.hub.download_url_to_file(url, str(path), stated[1] if stated else None, progress=False)
    except OSError as error:
        raise _unreachable(url, error) from error
    except RuntimeError as error:  # "invalid hash value", with both
        raise IntegrityError("SK402", path.name, f"the download is damaged: {error}", f"try again, or put the file of {url} at {path}") from error
    finally:
        socket.setdefaulttimeout(patience)
    return path


def timm_files(configuration: Any) -> tuple[str, ...]:
    """What timm's weights may be called in their repository of the Hugging Face hub."""
    named = configuration.hf_hub_filename
    return (str(Path(named).with_suffix(".safetensors")), named) if named else WEIGHT_FILES


def timm_repository(configuration: Any) -> tuple[str, str]:
    """Repository of the Hugging Face hub that holds timm's weights, and its revision (may be empty)."""
    name, _, revision = str(configuration.hf_hub_id).partition("@")
    return name, revision


def timm_cached(configuration: Any) -> Path | None:
    """The file of timm's weights in the cache of the Hugging Face hub."""
    from huggingface_hub import try_to_load_from_cache

    name, revision = timm_repository(configuration)
    found = (try_to_load_from_cache(name, file, revision=revision or None) for file in timm_files(configuration))
    return next((Path(path) for path in found if isinstance(path, str)), None)


def verified(file: Path) -> Path:
    """A file of the hub's cache, which calls large files by their SHA-256; refused when it is another.

    Raises:
        IntegrityError: naming both digests. The file is kept.
    """
    stated = file.resolve().name
    if re.fullmatch("[0-9a-f]{64}", stated) and (found := file_digest(file)) != stated:
        message = f"the weights file is damaged: its SHA-256 is {found}, wanted {stated}"
        raise IntegrityError("SK402", str(file), message, "the file was kept; move it away so that it is downloaded again")
    return file


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

    path = _hub_path(enum.url)
    if path.exists():
        _check_digest(path, enum.url)
    try:
        model: torch.nn.Module = get_model(network, weights=enum)
        return model
    except OSError as error:
        raise _unreachable(enum.url, error) from error
    except RuntimeError as error:  # torch.hub: "invalid hash value", or a truncated zip archive
        raise IntegrityError("SK402", str(path), f"the weights file is damaged: {error}", f"move {path} away so that it is downloaded again") from error


def state_of(path: Path, *, key: str = "") -> dict[str, torch.Tensor]:
    """A state dict from a local file, without running any code in it (``weights_only``); half precision becomes float32.

    Accepts a bare state dict or one below the key "state_dict" or "model" (or ``key``); the prefix "module." of parallel training is taken off.

    Raises:
        ResourceError: the file is missing or may not be read.
        DataError: a pickle that holds more than tensors, so that reading it would run code.
        IntegrityError: truncated, or not a state dict.
    """
    import torch

    state = _read(path)
    for name in (key,) if key else ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
        elif key:
            known = [str(k) for k, v in state.items() if isinstance(v, Mapping)] if isinstance(state, Mapping) else []
            raise DataError("SK201", str(path), f"has no state dict '{key}'{nearest(key, known)}", f"state dicts in it: {', '.join(known) or 'none'}")
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise IntegrityError("SK402", str(path), "holds no state dict (names with tensors)", "save it with torch.save(model.state_dict(), ...)")
    return {str(k).removeprefix("module."): v.float() if v.is_floating_point() else v for k, v in state.items()}


def _read(path: Path) -> Any:
    import torch

    file_digest(path)  # missing, not readable
    with path.open("rb") as file:
        begin = file.read(16)
    if path.suffix != ".safetensors" and not begin.startswith((b"PK", b"\x80")):  # torch.save writes a zip, or (before 1.6) a pickle
        found = f"begins with {begin!r}" if begin else "is empty"
        raise IntegrityError("SK402", str(path), f"cannot be read as weights: it {found}", "download it again, or give a state dict (.pth or .safetensors)")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the protocol of a pickle that is refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for damaged files
        said = " ".join(str(error).split())
        if "TorchScript archives" in said:
            raise DataError("SK201", str(path), "is a TorchScript archive, not a state dict", "use the extractor torchscript") from error
        needs = re.search(r"[Uu]nsupported (?:global: )?(?:GLOBAL|class) ([\w.]+)|Can only (?:build|create)|reduce for", said)
        if needs is not None or "Weights only load failed" in said:
            what = f" ({needs[1]})" if needs is not None and needs[1] else ""
            message = f"is a pickle that holds more than tensors{what}: reading it would run code, which simkit never does"
            fix = ("in a process that you trust, load it with torch.load(PATH, weights_only=False), save its tensors with "
                   "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors'), and give that file")
            raise DataError("SK201", str(path), message, fix) from error
        first = said[:160] or type(error).__name__
        fix = "give a state dict of tensors (.pth or .safetensors), complete and from a trusted tool"
        raise IntegrityError("SK402", str(path), f"cannot be read as weights: {first}", fix) from error


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


def load_body(model: torch.nn.Module, state: Mapping[str, torch.Tensor], where: str, *, name: str, heads: Iterable[str], prefix: str = "") -> str:
    """Copies a state into a network: strictly, apart from the classification layer, which plays no part in features.

    Args:
        model: changed in place.
        state: names and tensors.
        where: the file, for messages.
        name: of the network, for messages.
        heads: names of the classification layers; their tensors may be missing, or of any shape.
        prefix: before the names in the file, such as "backbone."; only tensors that have it are taken. Empty: found, where exactly one prefix gives
            all names of the network.

    Returns:
        What was left aside or taken off, in words; empty when nothing was.

    Raises:
        IntegrityError: tensors that are missing, too many, or of another shape, or that hold NaN; and the network of torchvision that does fit.
    """
    import torch

    ignored = (*(f"{head}." for head in heads), *AUXILIARY)
    own = {key: value for key, value in model.state_dict().items() if not key.startswith(ignored)}
    state = {densenet_name(key): value for key, value in state.items()}
    prefix = prefix or _prefix(own, state)
    given = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    aside = len(state) - len(given)
    given = {key: value for key, value in given.items() if not key.startswith(ignored)}
    wrong = _misfits(own, given)
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        fits = fitting_network({key.removeprefix(prefix): value for key, value in state.items()})
        fix = f"its tensors fit torchvision's {fits}" if fits else f"is it a state dict of {name}?"
        raise IntegrityError("SK402", where, f"does not fit {name}: {'; '.join(wrong[:SHOWN])}{more}", fix)
    broken = [key for key, value in given.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    if broken:
        raise IntegrityError("SK402", where, f"{len(broken)} tensors hold NaN or infinite values: {', '.join(broken[:SHOWN])}", "use another file")
    model.load_state_dict(given, strict=False)
    return (f"prefix '{prefix}' taken off" + (f", {aside} tensors without it left aside" if aside else "")) if prefix else ""


def _misfits(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> list[str]:
    """What does not fit. Counts of batches may be missing: files of before 2018 have none, and nothing reads them here."""
    wrong = [f"no tensor '{key}'" for key in own if key not in given and not key.endswith("num_batches_tracked")]
    wrong += [f"unknown tensor '{key}'" for key in given if key not in own]
    return wrong + [f"'{key}' has shape {tuple(given[key].shape)}, wanted {tuple(value.shape)}" for key, value in own.items()
                    if key in given and given[key].shape != value.shape]


def _prefix(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> str:
    """The one prefix below which all names of a network are found; empty when they are found as they are, or below none or several."""
    wanted = [key for key in own if not key.endswith("num_batches_tracked")]
    if not wanted or wanted[0] in state:
        return ""
    found = {key.removesuffix(wanted[0]) for key in state if key.endswith(f".{wanted[0]}")}
    full = [prefix for prefix in found if all(f"{prefix}{key}" in state for key in wanted)]
    return full[0] if len(full) == 1 else ""


def densenet_name(key: str) -> str:
    """torchvision's DenseNet files hold ``norm.1`` where the modules are called ``norm1``."""
    return re.sub(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key)


def fitting_network(state: Mapping[str, torch.Tensor]) -> str:
    """The first network of torchvision whose tensors have the names and shapes of a state, apart from the head; empty when there is none."""
    import torch

    family = next((name for start, name in FAMILIES if any(re.match(start, key) for key in state)), None)
    for network in network_names() if family is not None else []:
        if not re.search(str(family), network) or network == "regnet_y_128gf":  # which takes long to build
            continue
        with torch.device("cpu" if family == "regnet" else "meta"):
            model = build_network(network)
        ignored = (f"{head_of(model)[0]}.", *AUXILIARY)
        own = {key: value for key, value in model.state_dict().items() if not key.startswith(ignored)}
        if not _misfits(own, {key: value for key, value in state.items() if not key.startswith(ignored)}):
            return network
    return ""
