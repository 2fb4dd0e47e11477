"""Networks of timm (PyTorch Image Models) as feature extractors: pretrained, from a local checkpoint, or untrained."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from simkit.errors import DataError, IntegrityError, ResourceError, UsageError, nearest
from simkit.extractors.base import Extractor, Session
from simkit.extractors.classifier import Classifier, load_head, outputs_of
from simkit.extractors.layers import LayerSession, Pool, check_layer, pooled
from simkit.extractors.network_session import PRECISION, NetworkSession, Precision, Preprocessing
from simkit.networks import (
    WEIGHT_FILES,
    file_digest,
    host_error,
    hub_file,
    import_timm,
    load_body,
    state_of,
    timm_cached,
    timm_files,
    timm_repository,
    verified,
    weights_present,
)
from simkit.recipe import recipe_of, seed_for
from simkit.registry import option

if TYPE_CHECKING:
    import torch

__all__ = ["Timm"]

LAYER_POOLS: dict[str, Pool] = {"network": "average", "avg": "average", "max": "max", "token": "cls", "gem": "gem"}
"""What the poolings mean for a layer by name."""


@dataclass(frozen=True)
class Timm(Extractor):
    """Features of a timm network: what its classification layer would get (timm's ``forward_head(forward_features(x), pre_logits=True)``).

    Preprocessing belongs to the weights: size, crop, interpolation and normalisation are those that timm states for the model's name
    (``timm.data.resolve_model_data_config``), also for a checkpoint and for an untrained network. Images are resized by Pillow with
    antialiasing; grey images are repeated to three channels. Names may hold a tag that chooses among a network's weights, such as
    ``resnet50.a1_in1k``; without one, timm's default is taken, and the recipe records which that was, and the SHA-256 of its file (which is
    downloaded for that where it is not on this machine). A repository of the hub or a folder with timm's ``config.json`` beside the weights is
    named ``hf-hub:owner/name`` or ``local-dir:path``.
    """

    name = "timm"
    citation = "R. Wightman, PyTorch Image Models, https://github.com/huggingface/pytorch-image-models, doi:10.5281/zenodo.4414861"

    model: str = option("resnet50", "a model name of timm, with or without a tag, such as resnet50.a1_in1k, vit_small_patch16_224; hf-hub:owner/name; or "
                        "local-dir:path")
    weights: Literal["pretrained", "random"] = option("pretrained", "pretrained (those of the model's name), or random (untrained)")
    checkpoint: Path | None = option(None, "local state dict (.pth, .pt, .safetensors) instead of weights; the head may be any, or missing")
    layer: str = option("", "name of a module whose output is taken instead, such as layer3 or blocks.5; empty: what the last layer is given")
    pool: Literal["network", "avg", "max", "avgmax", "catavgmax", "token", "gem"] = option(
        "network", "timm's global pooling; network: as it was trained; gem: generalised mean of the last maps. Of a layer: network, avg, max, token, gem",
    )
    image_size: int | None = option(None, "short side and centre crop in pixels; empty: as the weights want", minimum=16, maximum=2048)
    seed: int = option(0, "of the untrained network", minimum=0)
    precision: Precision = option("float32", PRECISION)

    def recipe(self) -> dict[str, Any]:
        configuration = self._configuration()
        recipe = recipe_of(self) | {"model": _full_name(configuration), "preprocessing": asdict(self._preprocessing(configuration)) | {"antialias": True}}
        if ":" in self.model:  # a folder or repository brings its own
            recipe["arguments"] = _arguments(self.model)
        del recipe["checkpoint"]
        if self.checkpoint is not None:
            return recipe | {"weights": file_digest(self.checkpoint), "seed": 0}
        if self.weights == "pretrained":
            return recipe | {"weights": file_digest(self._weights_file(configuration)), "seed": 0}
        import torch

        return recipe | {"model": configuration.architecture, "timm": import_timm().__version__, "torch": torch.__version__.split("+")[0]}

    def check(self) -> None:
        """Name, weights, tensor names of the checkpoint; and, by shapes or one blank image, layer, pooling and image size."""
        configuration = self._configuration()
        size = self._preprocessing(configuration).crop
        if self.layer:
            check_layer(lambda: self.fitted(self.untrained()), size, layer=self.layer, pool=self._layer_pool(), where="timm")
        if self.checkpoint is not None:
            self._build()
        elif self.weights == "pretrained":
            _check_weights(self.model, configuration)
        if not self.layer and (self.pool != "network" or self.image_size is not None):
            self._session("cpu", weights=False).features([np.zeros((size, size, 3), np.uint8)])

    def session(self, device: str) -> Session:
        return self._session(device, weights=True).at(self.precision)

    def classifier(self) -> Classifier:
        """The network with its classification layer: that of the weights, or of a checkpoint's file; an untrained one is untrained.

        Raises:
            UsageError: another pooling than the network's own (which its head was trained on) without a layer, or several classification layers.
        """
        if not self.layer and self.pool not in ("network", "gem"):
            message = f"pool = '{self.pool}' takes the classification layer away"
            raise UsageError("SK108", "timm.pool", message, "leave pool out, or name a layer")
        model = self._build()
        heads = heads_of(model)
        if len(heads) != 1:
            message = f"{self.model} has {len(heads)} classification layers ({', '.join(heads)}), wanted one"
            raise UsageError("SK108", "timm.model", message, "choose another model")
        outputs = outputs_of(model.get_submodule(heads[0]))
        if self.checkpoint is not None:
            outputs = load_head(model, state_of(self.checkpoint), heads[0], str(self.checkpoint))
        pool: Pool = self._layer_pool() if self.layer else "gem" if self.pool == "gem" else "average"
        return Classifier(model.eval().requires_grad_(False), self._preprocessing(self._configuration()), heads[0], outputs, (), self.layer, pool, "timm",
                          self.precision, self.recipe())

    def _session(self, device: str, *, weights: bool) -> NetworkSession:
        return self.session_of(self._build(weights=weights), self._preprocessing(self._configuration()), device)

    def session_of(self, model: torch.nn.Module, preprocessing: Preprocessing, device: str) -> NetworkSession:
        """A session of a network of timm, with this layer and pooling."""
        if self.layer:
            return LayerSession(model, preprocessing, device, layer=self.layer, pool=self._layer_pool(), where="timm")
        return _TimmSession(model, preprocessing, device, self)

    def _layer_pool(self) -> Pool:
        if self.pool not in LAYER_POOLS:
            message = f"'{self.pool}' is a pooling of the whole network, not of the layer '{self.layer}'"
            raise UsageError("SK108", "timm.pool", message, f"give one of {', '.join(LAYER_POOLS)}, or leave layer out")
        return LAYER_POOLS[self.pool]

    def _configuration(self) -> Any:
        """What timm knows of the weights that the name stands for (its ``PretrainedCfg``)."""
        timm = import_timm()
        if self.model.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
            return _configured(self.model)
        architecture, _, tag = self.model.partition(".")
        if not timm.is_model(architecture):
            fix = "see timm.list_models(); for weights of the hub write hf-hub:owner/name, for a folder local-dir:path, or give checkpoint = PATH"
            raise UsageError("SK101", "timm.model", f"unknown model '{self.model}'{nearest(architecture, timm.list_models())}", fix)
        try:
            configuration = timm.get_pretrained_cfg(self.model)
        except RuntimeError:
            configuration = None
        if configuration is None:
            known = timm.list_pretrained(f"{architecture}.*")
            message = f"{architecture} has no weights '{tag}'{nearest(self.model, known)}" if tag else f"timm has no configuration of '{self.model}'"
            raise UsageError("SK101", "timm.model", message, f"known: {', '.join(known) or 'none'}")
        if self.weights == "pretrained" and self.checkpoint is None and not (configuration.hf_hub_id or configuration.url):
            raise UsageError("SK101", "timm.weights", f"{self.model} has no pretrained weights", 'give checkpoint = PATH, or weights = "random"')
        return configuration

    def _weights_file(self, configuration: Any) -> Path:
        """Where the weights lie; downloaded where they are not on this machine yet."""
        if self.model.startswith("local-dir:"):
            return _in_folder(_folder(self.model))
        if configuration.hf_hub_id:
            return verified(timm_cached(configuration) or _downloaded(configuration))
        return hub_file(configuration.url)

    def _preprocessing(self, configuration: Any) -> Preprocessing:
        rule = import_timm().data.resolve_data_config(pretrained_cfg=configuration.to_dict())
        channels, height, width = rule["input_size"]
        known = rule["crop_mode"] in ("center", "squash") and rule["interpolation"] in ("bilinear", "bicubic")
        if channels != 3 or height != width or not known:
            message = f"{self.model} wants images of {channels} x {height} x {width}, {rule['interpolation']}, crop mode {rule['crop_mode']}"
            raise UsageError("SK108", "timm.model", f"{message}: simkit makes square colour images, cropped at the centre or squashed", "choose another model")
        chosen = Preprocessing(
            math.floor(height / rule["crop_pct"]), height, tuple(rule["mean"]), tuple(rule["std"]), rule["interpolation"], rule["crop_mode"] == "center",
        )
        return chosen if self.image_size is None else replace(chosen, resize=self.image_size, crop=self.image_size)

    def _build(self, *, weights: bool = True) -> torch.nn.Module:
        """The network with its weights, then fitted to image size and pooling: so the weights meet the network that they were made for."""
        configuration = self._configuration()
        if weights and self.checkpoint is None and self.weights == "pretrained":
            model = self._pretrained(configuration)
        else:
            model = self.untrained()
            if weights and self.checkpoint is not None:
                load_body(model, state_of(self.checkpoint), str(self.checkpoint), name=self.model, heads=heads_of(model))
        fitted: torch.nn.Module = self.fitted(model)
        return fitted

    def untrained(self) -> torch.nn.Module:
        """The network without weights, the same for the same seed; torch's global generator is left alone."""
        import torch

        configuration = self._configuration()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for("untrained", configuration.architecture, self.seed) % 2**63)
            model: torch.nn.Module = self._created(configuration, pretrained=False)
        return model

    def _created(self, configuration: Any, *, pretrained: bool, overlay: Mapping[str, Any] | None = None) -> Any:
        """timm's network; one of the hub or a folder by its configuration, which is on this machine by now."""
        timm = import_timm()
        if ":" not in self.model:
            return timm.create_model(_full_name(configuration), pretrained=pretrained, pretrained_cfg_overlay=dict(overlay or {}))
        own = configuration.to_dict() | {"hf_hub_id": None, "source": "", "file": None} | dict(overlay or {})
        return timm.create_model(configuration.architecture, pretrained=pretrained, pretrained_cfg=own, **_arguments(self.model))

    def _pretrained(self, configuration: Any) -> Any:
        """The network with the weights of its name; every tensor must fit."""
        name = _full_name(configuration)
        file = self._weights_file(configuration)
        overlay: dict[str, Any] = {} if configuration.custom_load and not configuration.hf_hub_id else {"state_dict": state_of(file), "custom_load": False}
        try:
            model = self._created(configuration, pretrained=True, overlay=overlay)
        except OSError as error:
            raise ResourceError("SK302", name, f"the weights cannot be read or downloaded ({error})", f"download {configuration.url} by hand") from error
        except (RuntimeError, KeyError) as error:  # names or shapes of tensors
            said = " ".join(str(error).split())[:400]
            raise IntegrityError("SK402", name, f"the weights do not fit: {said}", f"move {file.name} away so that it is downloaded again") from error
        model.pretrained_cfg.pop("state_dict", None)  # timm keeps its configuration, and with it a second copy of the weights
        return model

    def fitted(self, model: Any) -> Any:
        """The network, made for this image size and pooling."""
        size, configuration = self.image_size, self._configuration()
        try:
            if size is not None and configuration.fixed_input_size and size != configuration.input_size[1]:
                if not hasattr(model, "set_input_size"):
                    raise UsageError("SK108", "timm.image_size", f"{self.model} takes images of {configuration.input_size[1]} px only", "leave image_size out")
                model.set_input_size(img_size=(size, size))
            if not self.layer and self.pool not in ("network", "gem"):
                model.reset_classifier(0, global_pool=self.pool)
        except (AssertionError, RuntimeError, ValueError, TypeError) as error:  # each family of networks refuses in its own way
            raise self._unfit(error) from error
        return model

    def _unfit(self, error: Exception) -> UsageError:
        said = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        message = f"{self.model} does not work with pool = '{self.pool}' and image_size = {self.image_size}: {said}"
        return UsageError("SK108", "timm", message, "choose another pooling or image size, or leave them out")


class _TimmSession(NetworkSession):
    def __init__(self, model: torch.nn.Module, preprocessing: Preprocessing, device: str, options: Timm):
        super().__init__(model, preprocessing, device)
        self.options = options

    def rows(self, images: torch.Tensor) -> torch.Tensor:
        import torch

        model: Any = self.model
        try:
            maps = model.forward_features(images)
            if self.options.pool == "gem":
                return pooled(maps, "gem", "timm", channels_last=str(getattr(model, "output_fmt", "")).endswith("NHWC"))
            out = model.forward_head(maps, pre_logits=True)
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError, ValueError) as error:
            raise self.options._unfit(error) from error
        if not isinstance(out, torch.Tensor) or out.ndim != 2:
            shape = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
            message = f"{self.options.model} with pool = '{self.options.pool}' gives {shape} for {len(images)} images, wanted rows (n, d)"
            raise UsageError("SK108", "timm.pool", message, 'give pool = "avg"')
        return out


def heads_of(model: Any) -> tuple[str, ...]:
    """Names of the classification layers of a network of timm."""
    heads = (model.pretrained_cfg or {}).get("classifier") or ()
    return (heads,) if isinstance(heads, str) else tuple(heads)


def _full_name(configuration: Any) -> str:
    return f"{configuration.architecture}.{configuration.tag}" if configuration.tag else str(configuration.architecture)


def _folder(model: str) -> Path:
    """Of ``local-dir:path``, or where the ``config.json`` of ``hf-hub:owner/name`` lies in the cache; downloaded where it is not there yet."""
    source, _, place = model.partition(":")
    if source == "local-dir":
        if not (Path(place) / "config.json").is_file():
            raise ResourceError("SK302", place, "the folder holds no config.json of timm", "make it with timm.models.save_for_hf, or give checkpoint = PATH")
        return Path(place)
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = place.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UsageError("SK101", "timm.model", f"'{model}' does not name a repository of the hub", "write hf-hub:owner/name or hf-hub:owner/name@revision")
    found = try_to_load_from_cache(name, "config.json", revision=revision or None)
    return (Path(found) if isinstance(found, str) else _fetched(name, revision, ("config.json",), model)).parent


def _parsed(model: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    from timm.models._hub import load_model_config_from_path

    folder = _folder(model)
    try:
        configuration, architecture, arguments = load_model_config_from_path(folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # not JSON, or another layout (a model of transformers)
        message = f"config.json is not timm's ({type(error).__name__}: {error})"
        raise DataError("SK201", f"timm.model: {model}", message, "name a model that was saved by timm, or use the extractor huggingface") from error
    if not import_timm().is_model(architecture):
        raise DataError("SK201", f"timm.model: {model}", f"timm does not know its architecture '{architecture}'", "install a newer timm")
    return configuration, architecture, arguments


def _arguments(model: str) -> dict[str, Any]:
    return _parsed(model)[2]


def _configured(model: str) -> Any:
    """timm's configuration of a repository of the hub or a folder. It names no path."""
    from timm.models import PretrainedCfg

    configuration, architecture, _ = _parsed(model)
    source, _, place = model.partition(":")
    configuration = configuration | {"architecture": architecture, "file": None, "source": None, "hf_hub_id": None if source == "local-dir" else place}
    known = {key: value for key, value in configuration.items() if key in PretrainedCfg.__dataclass_fields__}
    return PretrainedCfg(**known)


def _in_folder(folder: Path) -> Path:
    found = next((folder / file for file in WEIGHT_FILES if (folder / file).is_file()), None)
    if found is None:
        raise ResourceError("SK302", str(folder), f"the folder holds no weights ({' or '.join(WEIGHT_FILES)})", "put them beside config.json")
    return found


def _check_weights(model: str, configuration: Any) -> None:
    """Fails before the work when the weights are damaged, or neither on this machine nor to be had. One request, no retries."""
    if model.startswith("local-dir:"):
        state_of(_in_folder(_folder(model)))
        return
    if not configuration.hf_hub_id:
        weights_present(configuration.url)
        return
    cached = timm_cached(configuration)
    if cached is not None:
        verified(cached)
        return
    name, revision = timm_repository(configuration)
    _check_host(name, revision, timm_files(configuration), _full_name(configuration))


def _check_host(repository: str, revision: str, files: tuple[str, ...], shown: str) -> None:
    """One request, and one more for each file that the repository does not have; no retries."""
    from urllib.error import HTTPError

    from huggingface_hub import constants, hf_hub_url

    error: OSError | None = OSError("HF_HUB_OFFLINE is set") if constants.HF_HUB_OFFLINE else None
    if error is None:
        for file in files:
            error = host_error(hf_hub_url(repository, file, revision=revision or None))
            if not (isinstance(error, HTTPError) and error.code == 404):
                break
    if error is not None:
        raise _unreachable(repository, files[0], error, shown) from error


def _unreachable(repository: str, file: str, error: Exception, shown: str) -> ResourceError:
    from huggingface_hub import constants, hf_hub_url

    address = hf_hub_url(repository, file)
    fix = (f"on a machine with internet, run: hf download {repository}, and copy its folder into {constants.HF_HUB_CACHE}; or download {address} "
           'and give checkpoint = PATH; or give weights = "random"')
    return ResourceError("SK302", shown, f"the weights are not on this machine and cannot be downloaded ({error})", fix)


def _downloaded(configuration: Any) -> Path:
    name, revision = timm_repository(configuration)
    return _fetched(name, revision, timm_files(configuration), _full_name(configuration))


def _fetched(repository: str, revision: str, files: tuple[str, ...], shown: str) -> Path:
    """The first of the files that a repository of the hub has, downloaded."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    last: Exception = OSError(f"the repository holds no {' or '.join(files)}")
    _check_host(repository, revision, files, shown)
    for file in files:
        try:
            return Path(hf_hub_download(repository, file, revision=revision or None))
        except LocalEntryNotFoundError as error:
            raise _unreachable(repository, file, error, shown) from error
        except EntryNotFoundError as error:
            last = error
        except (HfHubHTTPError, OSError) as error:
            raise _unreachable(repository, file, error, shown) from error
    raise _unreachable(repository, files[0], last, shown) from last
