"""Named weights: found or downloaded before any training, known by the digest of their file, read without running code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simkit.errors import IntegrityError, ResourceError, SimkitError, UsageError, nearest
from simkit.networks import (
    check_network,
    file_digest,
    host_error,
    hub_file,
    import_timm,
    state_of,
    timm_cached,
    timm_files,
    timm_repository,
    verified,
    weights_enum,
    weights_present,
)
from simkit.transfer.networks import TIMM, build_network

if TYPE_CHECKING:
    import torch

__all__ = ["IMAGENET", "TORCHVISION", "Weights", "interpolated_positions", "named_weights", "read_start", "read_weights"]

IMAGENET = "imagenet"
"""The default weights of the network itself."""

TORCHVISION = "torchvision:"
"""Begin of the names of torchvision's weights, such as torchvision:IMAGENET1K_V2."""


@dataclass(frozen=True)
class Weights:
    """A weights file on this machine.

    Attributes:
        identity: "weights:" and the SHA-256 of the file; part of every recipe.
        path: of the file.
    """

    identity: str
    path: Path


def named_weights(value: str, network: str, where: str) -> Weights:
    """The file of weights; downloaded where it is not on this machine yet (once, without repeating what failed).

    Args:
        value: "imagenet" (the network's default weights), "torchvision:ENTRY" (of its weights enum), "timm:MODEL" or "timm:MODEL.TAG" (timm's
            pretrained weights, which may fit a network of torchvision too), or the path of a state dict (.pth, .safetensors).
        network: as ``[finetune]`` names it.
        where: what has the value, for messages.

    Raises:
        UsageError: SK101 weights that the network or timm does not have.
        ResourceError: SK302 the file does not exist, or is not here and cannot be downloaded: the message names the file, its address and its place.
        IntegrityError: SK402 a file whose digest is not the one that its name states.
    """
    if value == IMAGENET:
        value = network if network.startswith(TIMM) else f"{TORCHVISION}{IMAGENET}"
    with _placed(where):
        if value.startswith(TORCHVISION):
            path = _torchvision_file(value.removeprefix(TORCHVISION), network, where)
        elif value.startswith(TIMM):
            path = _timm_file(value.removeprefix(TIMM), where)
        else:
            path = _local_file(value, where)
        return Weights(f"weights:{file_digest(path)}", path)


@contextmanager
def _placed(where: str) -> Iterator[None]:
    """Puts what has the weights before the file that an error names."""
    try:
        yield
    except SimkitError as error:
        problems = [one if one.where.startswith(where) else replace(one, where=f"{where}: {one.where}") for one in error.problems]
        raise type(error)("", "", "", problems=problems) from error


def _local_file(value: str, where: str) -> Path:
    path = Path(value)
    if path.is_file():
        return path
    fix = f"put the file there, or correct the path; or give {IMAGENET}, {TORCHVISION}ENTRY or {TIMM}MODEL"
    raise ResourceError("SK302", where, f"the weights file '{path}' does not exist", fix)


def _torchvision_file(entry: str, network: str, where: str) -> Path:
    """The file of an entry of the network's weights enum."""
    from torchvision.models import get_model_weights

    if network.startswith(TIMM):
        message = f"'{TORCHVISION}{entry}' belongs to networks of torchvision, and the network is {network}"
        raise UsageError("SK108", where, message, f"give {IMAGENET}, {TIMM}MODEL, or the path of a file")
    check_network(network, "finetune.network")
    try:
        url = str(weights_enum(network, entry, where).url)
    except UsageError as error:
        known = ", ".join(f"{TORCHVISION}{one.name}" for one in get_model_weights(network))
        raise UsageError("SK101", where, error.problems[0].message, f"give {IMAGENET}, or one of {known}; or the path of a file") from error
    return _from_hub(url, where)


def _from_hub(url: str, where: str) -> Path:
    """A file of torch's cache, or downloaded into it; one request says beforehand whether its host can be reached."""
    try:
        weights_present(url)
        return hub_file(url)
    except ResourceError as error:
        import torch

        place = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
        raise _absent(f"{place.name}: {_reason(error)}", url, f"put it at {place}", where) from error


def _reason(error: SimkitError) -> str:
    return str(error.__cause__) if error.__cause__ is not None else error.problems[0].message


def _absent(said: str, url: str, place: str, where: str) -> ResourceError:
    message = f"the weights are not on this machine and cannot be downloaded ({said})"
    return ResourceError("SK302", where, message, f"download {url} on a machine with internet and {place}, or name its path in [finetune.weights]")


def _timm_file(model: str, where: str) -> Path:
    """The file of timm's pretrained weights."""
    timm = import_timm()
    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        fix = "`python -c 'import timm; print(timm.list_pretrained())'` lists all"
        raise UsageError("SK101", where, f"timm has no network '{model}'{nearest(architecture, timm.list_models())}", fix)
    try:
        configuration = timm.get_pretrained_cfg(model)
    except RuntimeError:  # a tag that it does not have
        configuration = None
    if configuration is None or not (configuration.hf_hub_id or configuration.url):
        known = timm.list_pretrained(f"{architecture}.*")
        message = f"timm's {architecture} has no weights '{tag}'{nearest(model, known)}" if tag else f"timm has no pretrained weights of {architecture}"
        raise UsageError("SK101", where, message, f"known: {', '.join(f'{TIMM}{one}' for one in known) or 'none'}; or give the path of a file")
    if not configuration.hf_hub_id:
        return _from_hub(str(configuration.url), where)
    cached = timm_cached(configuration)
    return verified(cached if cached is not None else _from_repository(configuration, where))


def _from_repository(configuration: Any, where: str) -> Path:
    """timm's weights, downloaded into the cache of the Hugging Face hub."""
    from urllib.error import HTTPError

    from huggingface_hub import constants, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    name, revision = timm_repository(configuration)
    error: Exception = OSError("HF_HUB_OFFLINE is set")
    url = hf_hub_url(name, timm_files(configuration)[0], revision=revision or None)
    for file in () if constants.HF_HUB_OFFLINE else timm_files(configuration):
        unreachable = host_error(hf_hub_url(name, file, revision=revision or None))
        if unreachable is not None:
            error = unreachable
            if isinstance(unreachable, HTTPError) and unreachable.code == 404:  # of another name
                continue
            break
        try:
            return Path(hf_hub_download(name, file, revision=revision or None))
        except (HfHubHTTPError, OSError) as caught:
            error = caught
            break
    place = f"put it into {constants.HF_HUB_CACHE} (`hf download {name}` does both)"
    raise _absent(f"{url.rsplit('/', 1)[-1]} of {name}: {error}", url, place, where) from error


# --- reading -------------------------------------------------------------------------------------------------------------------------------


def read_weights(path: str | Path, where: str) -> dict[str, torch.Tensor]:
    """A state dict from a ``.safetensors`` file or one written by ``torch.save``, as float32; nothing in the file is executed.

    Raises:
        ResourceError: SK302 when the file does not exist.
        DataError: SK201 when it is a pickle that holds more than tensors: reading it would run code.
        IntegrityError: SK402 when it is truncated, or no state dict.
    """
    path = Path(path)
    _local_file(str(path), where)
    with _placed(where):
        return state_of(path)


def read_start(path: str | Path, network: str, image_size: int, where: str) -> dict[str, torch.Tensor]:
    """A state dict as a network for this image size takes it: position embeddings are interpolated, timm's files renamed as timm does it.

    Raises:
        ResourceError, DataError, IntegrityError: as :func:`read_weights`.
    """
    state = read_weights(path, where)
    try:
        if network.startswith(TIMM):
            return _as_timm_names(network, state, image_size)
        return interpolated_positions(network, state, image_size)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:  # each family has its own functions for it
        said = " ".join(str(error).split())[:160] or type(error).__name__
        message = f"does not fit {network} at {image_size} px: {said}"
        raise IntegrityError("SK402", f"{where}: {path}", message, f"give a state dict of {network}") from error


def interpolated_positions(network: str, state: dict[str, torch.Tensor], image_size: int) -> dict[str, torch.Tensor]:
    """Position embeddings of a vision transformer of torchvision, resampled to another image size; other networks' weights as they are."""
    if not network.startswith("vit_") or "encoder.pos_embedding" not in state:  # load_body names what does not fit
        return state
    from torchvision.models.vision_transformer import interpolate_embeddings

    patch = int(network.rpartition("_")[2])
    return dict(interpolate_embeddings(image_size, patch, state))


def _as_timm_names(network: str, state: dict[str, torch.Tensor], image_size: int) -> dict[str, torch.Tensor]:
    """What timm's own reader makes of a file before it copies: names of older files, position embeddings of another image size."""
    import torch

    module = sys.modules[import_timm().models.model_entrypoint(network.removeprefix(TIMM).partition(".")[0]).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return state
    with torch.device("meta"):  # it looks at shapes only
        model, _ = build_network(network, 2, dropout=0.0, image_size=image_size)
    return dict(convert(state, model))
