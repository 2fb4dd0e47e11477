"""Networks of timm (PyTorch Image Models) as feature extractors: pretrained, from a local checkpoint, or untrained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from simkit.errors import IntegrityError, ResourceError, UsageError, nearest
from simkit.extractors.base import Extractor, Session
from simkit.extractors.network_session import NetworkSession, Preprocessing
from simkit.networks import host_error, state_of, weights_present
from simkit.recipe import digest_file, recipe_of, seed_for
from simkit.registry import option

if TYPE_CHECKING:
    import torch

__all__ = ["Timm"]

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""What the weights are called in a repository of the Hugging Face hub, in the order in which timm looks for them."""


@dataclass(frozen=True)
class Timm(Extractor):
    """Features of a timm network: what its classification layer would get (timm's ``forward_head(forward_features(x), pre_logits=True)``).

    Preprocessing belongs to the weights: size, crop, interpolation and normalisation are those that timm states for the model's name
    (``timm.data.resolve_model_data_config``), also for a checkpoint and for an untrained network. Images are resized by Pillow with
    antialiasing; grey images are repeated to three channels. Names may hold a tag that chooses among a network's weights, such as
    ``resnet50.a1_in1k``; without one, timm's default is taken, and the recipe records which that was.
    """

    name = "timm"
    citation = "R. Wightman, PyTorch Image Models, https://github.com/huggingface/pytorch-image-models, doi:10.5281/zenodo.4414861"

    model: str = option("resnet50", "a model name of timm, with or without a tag, such as resnet50.a1_in1k, convnext_tiny, vit_small_patch16_224")
    weights: Literal["pretrained", "random"] = option("pretrained", "pretrained (those of the model's name), or random (untrained)")
    checkpoint: Path | None = option(None, "local state dict (.pth, .pt, .safetensors) instead of weights; the head may be any, or missing")
    pool: Literal["network", "avg", "max", "avgmax", "catavgmax", "token"] = option("network", "timm's global pooling; network: as the network was trained")
    image_size: int | None = option(None, "short side and centre crop in pixels; empty: as the weights want", minimum=16, maximum=2048)
    seed: int = option(0, "of the untrained network", minimum=0)

    def recipe(self) -> dict[str, Any]:
        configuration = self._configuration()
        recipe = recipe_of(self) | {"model": _full_name(configuration), "preprocessing": asdict(self._preprocessing(configuration))}
        del recipe["checkpoint"]
        if self.checkpoint is not None:
            return recipe | {"weights": digest_file(self.checkpoint), "seed": 0}
        if self.weights == "pretrained":
            return recipe | {"seed": 0}
        import torch

        return recipe | {"model": configuration.architecture, "timm": _timm().__version__, "torch": torch.__version__.split("+")[0]}

    def check(self) -> None:
        """Name, weights, tensor names of the checkpoint; and, by one blank image through the untrained network, pooling and image size."""
        configuration = self._configuration()
        self._preprocessing(configuration)
        if self.checkpoint is not None:
            self._build()
        elif self.weights == "pretrained":
            _check_weights(configuration)
        if self.pool != "network" or self.image_size is not None:
            session = self._session("cpu", weights=False)
            session.features([np.zeros((session.preprocessing.crop,) * 2 + (3,), np.uint8)])

    def session(self, device: str) -> Session:
        return self._session(device, weights=True)

    def _session(self, device: str, *, weights: bool) -> _TimmSession:
        return _TimmSession(self._build(weights=weights), self._preprocessing(self._configuration()), device, self)

    def _configuration(self) -> Any:
        """What timm knows of the weights that the name stands for (its ``PretrainedCfg``)."""
        timm = _timm()
        architecture, _, tag = self.model.partition(".")
        if not timm.is_model(architecture):
            fix = "see timm.list_models(); to use weights from elsewhere, name the architecture and give checkpoint = PATH"
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

    def _preprocessing(self, configuration: Any) -> Preprocessing:
        rule = _timm().data.resolve_data_config(pretrained_cfg=configuration.to_dict())
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
        import torch

        configuration = self._configuration()
        model: torch.nn.Module
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for("untrained", configuration.architecture, self.seed) % 2**63)
            if weights and self.checkpoint is None and self.weights == "pretrained":
                model = _pretrained(configuration)
            else:
                model = _timm().create_model(self.model, pretrained=False)
            if weights and self.checkpoint is not None:
                _load(model, state_of(self.checkpoint), str(self.checkpoint), self.model)
            self._fit(model, configuration)
        return model

    def _fit(self, model: Any, configuration: Any) -> None:
        size = self.image_size
        try:
            if size is not None and configuration.fixed_input_size and size != configuration.input_size[1]:
                if not hasattr(model, "set_input_size"):
                    raise UsageError("SK108", "timm.image_size", f"{self.model} takes images of {configuration.input_size[1]} px only", "leave image_size out")
                model.set_input_size(img_size=(size, size))
            if self.pool != "network":
                model.reset_classifier(0, global_pool=self.pool)
        except (AssertionError, RuntimeError, ValueError, TypeError) as error:  # each family of networks refuses in its own way
            raise self._unfit(error) from error

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
            out = model.forward_head(model.forward_features(images), pre_logits=True)
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError, ValueError) as error:
            raise self.options._unfit(error) from error
        if not isinstance(out, torch.Tensor) or out.ndim != 2:
            shape = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
            message = f"{self.options.model} with pool = '{self.options.pool}' gives {shape} for {len(images)} images, wanted rows (n, d)"
            raise UsageError("SK108", "timm.pool", message, 'give pool = "avg"')
        return out


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ResourceError("SK303", "timm", f"the package timm cannot be imported ({error})", "pip install 'simkit[timm]'") from error
    return timm


def _full_name(configuration: Any) -> str:
    return f"{configuration.architecture}.{configuration.tag}" if configuration.tag else str(configuration.architecture)


def _cached(configuration: Any) -> Path | None:
    """The weights file in the cache of the Hugging Face hub."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(configuration.hf_hub_id, file) for file in WEIGHT_FILES)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _check_weights(configuration: Any) -> None:
    """Fails before the work when the weights are neither on this machine nor to be had. One request, no retries."""
    if not configuration.hf_hub_id:
        weights_present(configuration.url)
        return
    from huggingface_hub import constants, hf_hub_url

    if _cached(configuration) is None:
        offline = OSError("HF_HUB_OFFLINE is set") if constants.HF_HUB_OFFLINE else None
        error = offline or host_error(hf_hub_url(configuration.hf_hub_id, WEIGHT_FILES[0]))
        if error is not None:
            raise _unreachable(configuration, error) from error


def _unreachable(configuration: Any, error: Exception) -> ResourceError:
    from huggingface_hub import constants, hf_hub_url

    address = hf_hub_url(configuration.hf_hub_id, WEIGHT_FILES[0])
    fix = (f"on a machine with internet, run: hf download {configuration.hf_hub_id}, and copy its folder into {constants.HF_HUB_CACHE}; or download {address} "
           'and give checkpoint = PATH; or give weights = "random"')
    return ResourceError("SK302", _full_name(configuration), f"the weights are not on this machine and cannot be downloaded ({error})", fix)


def _pretrained(configuration: Any) -> Any:
    """The network with the weights of its name, downloaded where they are not on this machine yet; every tensor must fit."""
    name = _full_name(configuration)
    overlay: dict[str, Any] = {}
    _check_weights(configuration)
    if configuration.hf_hub_id:
        overlay = {"state_dict": state_of(_cached(configuration) or _downloaded(configuration)), "custom_load": False}
    try:
        model = _timm().create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except OSError as error:
        raise ResourceError("SK302", name, f"the weights cannot be read or downloaded ({error})", f"download {configuration.url} by hand") from error
    except (RuntimeError, KeyError) as error:  # names or shapes of tensors
        said = " ".join(str(error).split())[:400]
        raise IntegrityError("SK402", name, f"the weights do not fit: {said}", "delete them so that they are downloaded again") from error
    model.pretrained_cfg.pop("state_dict", None)  # timm keeps its configuration, and with it a second copy of the weights
    return model


def _downloaded(configuration: Any) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    last: Exception = OSError("the repository holds no weights file")
    for file in WEIGHT_FILES:
        try:
            return Path(hf_hub_download(configuration.hf_hub_id, file))
        except LocalEntryNotFoundError as error:
            raise _unreachable(configuration, error) from error
        except EntryNotFoundError as error:
            last = error
        except (HfHubHTTPError, OSError) as error:
            raise _unreachable(configuration, error) from error
    raise _unreachable(configuration, last) from last


def _load(model: Any, state: Mapping[str, torch.Tensor], where: str, name: str) -> None:
    """Loads a state strictly, apart from the classification layer, which plays no part in features.

    Raises:
        IntegrityError: naming tensors that are missing, too many, or of another shape.
    """
    heads = (model.pretrained_cfg or {}).get("classifier") or ()
    prefixes = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    own = {key: value for key, value in model.state_dict().items() if not key.startswith(prefixes)}
    given = {key: value for key, value in state.items() if not key.startswith(prefixes)}
    wrong = [f"no tensor '{key}'" for key in own if key not in given] + [f"unknown tensor '{key}'" for key in given if key not in own]
    wrong += [f"'{key}' has shape {tuple(given[key].shape)}, wanted {tuple(value.shape)}" for key, value in own.items()
              if key in given and given[key].shape != value.shape]
    if wrong:
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise IntegrityError("SK402", where, f"does not fit {name}: {'; '.join(wrong[:4])}{more}", f"is it a state dict of timm's {name}?")
    model.load_state_dict(given, strict=False)
