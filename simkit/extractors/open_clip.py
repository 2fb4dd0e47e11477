"""Image towers of open_clip as feature extractors: weights by tag, from the Hugging Face hub, from a local file, or untrained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simkit.errors import IntegrityError, ResourceError, UsageError, nearest
from simkit.extractors.base import Extractor, Session
from simkit.extractors.huggingface import file_digest, hub_file
from simkit.extractors.network_session import PRECISION, NetworkSession, Precision, Preprocessing
from simkit.networks import host_error, state_of
from simkit.recipe import digest, recipe_of, seed_for
from simkit.registry import option

if TYPE_CHECKING:
    import torch

__all__ = ["OpenClip"]

HUB, FOLDER, RANDOM = "hf-hub:", "local-dir:", "random"
CONFIG = "open_clip_config.json"
HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
"""What the weights are called in a repository or folder, in the order in which they are looked for."""


@dataclass(frozen=True)
class _Source:
    """Where network, preprocessing and weights come from."""

    network: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    quick_gelu: bool
    tag: str


@dataclass(frozen=True)
class OpenClip(Extractor):
    """Image embeddings of a CLIP network (contrastive image and text) of open_clip; the text tower is neither built nor downloaded.

    Models: an architecture of open_clip with a tag of its weights, such as ViT-B-32 and laion2b_s34b_b79k; one on the Hugging Face hub, such as
    hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224; or a folder with open_clip_config.json, local-dir:PATH.

    Preprocessing belongs to the weights and stands in the recipe: the tag's, or that of open_clip_config.json. open_clip itself takes OpenAI's
    normalisation for every local file; here a ``checkpoint`` takes that of its tag (``pretrained``), or that of all tags of the architecture
    where they agree, and else is refused. The activation function is QuickGELU where the tag or the architecture says so.
    """

    name = "open-clip"
    citation = "G. Ilharco et al., OpenCLIP, doi:10.5281/zenodo.5143773; A. Radford et al. 2021, arXiv:2103.00020"

    model: str = option("ViT-B-32", "an architecture of open_clip, hf-hub:ORGANISATION/NAME, or local-dir:PATH")
    pretrained: str = option("", "tag of the weights, such as openai or laion2b_s34b_b79k; empty: openai, where there is that; random: untrained")
    checkpoint: Path | None = option(None, "local state dict (.pt, .bin, .safetensors) of the architecture instead of the tag's weights")
    normalise: bool = option(False, "embeddings have length 1, as they are compared in CLIP")
    precision: Precision = option("float32", PRECISION)
    seed: int = option(0, "of the untrained network", minimum=0)

    def recipe(self) -> dict[str, Any]:
        recipe = recipe_of(self) | {"preprocessing": asdict(self._preprocessing()), "network": digest(self._source.network)}
        recipe |= {"model": "local-dir" if self.model.startswith(FOLDER) else self.model, "pretrained": self._source.tag, "quick_gelu": self._source.quick_gelu}
        del recipe["checkpoint"]
        if self._untrained:
            import torch

            return recipe | {"open_clip": _open_clip().__version__, "torch": torch.__version__.split("+")[0]}
        return recipe | {"weights": file_digest(self._weights()), "seed": 0}

    def check(self) -> None:
        """Names, preprocessing, weights, tensor names and shapes."""
        self._preprocessing()
        if not self._untrained:
            _load(self._build(), state_of(self._weights()), str(self.checkpoint or self.model), self.model)

    def session(self, device: str) -> Session:
        model = self._build()
        if not self._untrained:
            _load(model, state_of(self._weights()), str(self.checkpoint or self.model), self.model)
        return _OpenClipSession(model, self._preprocessing(), device, self)

    @property
    def _untrained(self) -> bool:
        return self.pretrained == RANDOM and self.checkpoint is None

    @cached_property
    def _source(self) -> _Source:
        if self.model.startswith((HUB, FOLDER)):
            if self.pretrained not in ("", RANDOM):
                message = f"'{self.pretrained}' is a tag, and {self.model} has weights of its own"
                raise UsageError("SK102", "open-clip.pretrained", message, "leave pretrained out, or name an architecture as model")
            path = self._file(CONFIG)
            content = _configuration(path)
            network = content["model_cfg"]
            return _Source(network, content.get("preprocess_cfg") or {}, bool(network.get("quick_gelu")), "")
        network = _architecture(self.model)
        tags = {tag: _open_clip().get_pretrained_cfg(self.model, tag) for tag in _open_clip().list_pretrained_tags_by_model(self.model)}
        tag = self._tag(tags)
        if tag:
            quick = bool(tags[tag].get("quick_gelu"))
            if self.model.endswith("-quickgelu") and not quick:
                fix = f"give model = {self.model.removesuffix('-quickgelu')}"
                raise UsageError("SK108", "open-clip", f"{self.model} computes QuickGELU, the weights {tag} were trained with GELU", fix)
            return _Source(network, tags[tag], quick or bool(network.get("quick_gelu")), tag)
        return _Source(network, self._agreed(tags), bool(network.get("quick_gelu")), RANDOM if self._untrained else "")

    def _tag(self, tags: Mapping[str, Any]) -> str:
        """The tag whose preprocessing and weights are taken; "" for none."""
        known = f"known: {', '.join(tags) or 'none'}; or give checkpoint = PATH, or pretrained = {RANDOM}"
        if self.pretrained in tags or self.pretrained == RANDOM:
            return "" if self.pretrained == RANDOM else self.pretrained
        if self.pretrained:
            raise UsageError("SK101", "open-clip.pretrained", f"{self.model} has no weights '{self.pretrained}'{nearest(self.pretrained, tags)}", known)
        if self.checkpoint is not None:
            return ""
        if "openai" not in tags:
            raise UsageError("SK104", "open-clip.pretrained", f"{self.model} has no weights of OpenAI, so name others", known)
        return "openai"

    def _agreed(self, tags: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        """The preprocessing of all tags of an architecture; open_clip's own where there are none."""
        rules = {repr(_rule(tag, self._image_size(_architecture(self.model)))): tag for tag in tags.values()}
        if len(rules) > 1 and not self._untrained:
            message = f"the weights of {self.model} want different preprocessing ({'; '.join(rules)})"
            fix = f"give pretrained = the tag whose preprocessing the checkpoint wants: {', '.join(tags)}"
            raise UsageError("SK104", "open-clip.pretrained", message, fix)
        return next(iter(rules.values())) if len(rules) == 1 else {}

    @staticmethod
    def _image_size(network: Mapping[str, Any]) -> Any:
        return network["vision_cfg"].get("image_size", 224)

    def _preprocessing(self) -> Preprocessing:
        rule = _rule(self._source.preprocessing, self._image_size(self._source.network))
        square = isinstance(rule["size"], int) or len(set(rule["size"])) == 1
        if not square or rule["resize_mode"] not in ("shortest", "squash") or rule["interpolation"] not in ("bilinear", "bicubic"):
            message = f"{self.model} wants images of {rule['size']} px, {rule['interpolation']}, resized by '{rule['resize_mode']}'"
            raise UsageError("SK108", "open-clip.model", f"{message}: simkit makes square images, cropped at the centre or squashed", "choose another model")
        side = int(rule["size"] if isinstance(rule["size"], int) else rule["size"][0])
        return Preprocessing(side, side, tuple(rule["mean"]), tuple(rule["std"]), rule["interpolation"], rule["resize_mode"] == "shortest")

    def _file(self, *names: str) -> Path:
        """A file of the model's repository or folder."""
        if self.model.startswith(HUB):
            return hub_file(self.model.removeprefix(HUB), names)
        folder = Path(self.model.removeprefix(FOLDER)).expanduser()
        found = next((folder / name for name in names if (folder / name).is_file()), None)
        if found is None:
            raise ResourceError("SK302", str(folder), f"holds no {' or '.join(names)}", "copy the files of the model there")
        return found

    def _weights(self) -> Path:
        """The file with the weights, downloaded where it is not on this machine yet."""
        if self.checkpoint is not None:
            if not self.checkpoint.is_file():
                raise ResourceError("SK302", str(self.checkpoint), "the weights file does not exist", "check the path of checkpoint")
            return self.checkpoint
        if self.model.startswith((HUB, FOLDER)):
            return self._file(*HUB_WEIGHTS)
        rule = self._source.preprocessing
        if rule.get("hf_hub"):
            repository, _, name = str(rule["hf_hub"]).rpartition("/")
            return hub_file(repository, HUB_WEIGHTS if not name else (str(Path(name).with_suffix(".safetensors")), name))
        return _from_address(str(rule.get("url", "")), f"{self.model}, {self._source.tag}")

    def _build(self) -> torch.nn.Module:
        """The image tower, untrained."""
        import torch

        _open_clip()
        from open_clip.model import _build_vision_tower

        network = self._source.network
        vision = {**network["vision_cfg"]}
        if "timm_model_name" in vision:
            vision["timm_model_pretrained"] = False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for("untrained", self.model, self.seed) % 2**63)
            try:
                tower: torch.nn.Module = _build_vision_tower(network["embed_dim"], vision, quick_gelu=self._source.quick_gelu)
            except (TypeError, KeyError, ValueError, RuntimeError, AssertionError) as error:  # of a configuration from elsewhere
                message = f"open_clip builds no image tower of that configuration: {str(error).splitlines()[0][:200]}"
                raise UsageError("SK108", self.model, message, "update open_clip_torch, or choose another model") from error
        return tower


class _OpenClipSession(NetworkSession):
    def __init__(self, model: torch.nn.Module, preprocessing: Preprocessing, device: str, options: OpenClip):
        super().__init__(model, preprocessing, device)
        self.precision, self.normalise = options.precision, options.normalise

    def rows(self, images: torch.Tensor) -> torch.Tensor:
        import torch

        out = self.model(images)
        rows: torch.Tensor = out[0] if isinstance(out, (tuple, list)) else out  # CoCa's tower gives its tokens too
        return torch.nn.functional.normalize(rows.float(), dim=-1) if self.normalise else rows


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise ResourceError("SK303", "open_clip", f"the package open_clip_torch cannot be imported ({error})", "pip install 'simkit[open-clip]'") from error
    return open_clip


def _architecture(model: str) -> dict[str, Any]:
    known = _open_clip().list_models()
    if model not in known:
        fix = "see open_clip.list_models(); for one of the hub write hf-hub:ORGANISATION/NAME, for a folder local-dir:PATH"
        raise UsageError("SK101", "open-clip.model", f"unknown model '{model}'{nearest(model, known)}", fix)
    found: dict[str, Any] = _open_clip().get_model_config(model)
    return found


def _configuration(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError("SK402", str(path), f"cannot be read as JSON: {str(error).splitlines()[0]}", "copy the file again") from error
    network = content.get("model_cfg") if isinstance(content, dict) else None
    if not isinstance(network, dict) or not isinstance(network.get("vision_cfg"), dict) or "embed_dim" not in network:
        raise IntegrityError("SK402", str(path), "has no model_cfg with vision_cfg and embed_dim", "is it a model of open_clip?")
    if not content.get("preprocess_cfg"):
        message = "has no preprocess_cfg: nothing says how images become the network's input"
        raise IntegrityError("SK402", str(path), message, "add it (size, mean, std, interpolation, resize_mode)")
    whole: dict[str, Any] = content
    return whole


def _rule(given: Mapping[str, Any], size: Any) -> dict[str, Any]:
    """Preprocessing as open_clip completes it, and with the size that the network takes."""
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    rule: dict[str, Any] = merge_preprocess_dict(PreprocessCfg(), dict(given))
    return {key: rule[key] for key in ("mean", "std", "interpolation", "resize_mode")} | {"size": size}


def _from_address(address: str, where: str) -> Path:
    """A file that open_clip downloads by its address, into its own cache; one request first, no retries."""
    path = Path("~/.cache/clip").expanduser() / address.rpartition("/")[2]
    if not path.is_file():
        error = host_error(address) if address else OSError("open_clip knows no address")
        if error is None:
            try:
                return Path(_open_clip().download_pretrained_from_url(address))
            except (OSError, RuntimeError) as raised:
                error = OSError(str(raised))
        fix = f"download {address} on a machine with internet and put it at {path}, or give checkpoint = PATH"
        raise ResourceError("SK302", where, f"the weights are not on this machine and cannot be downloaded ({error})", fix) from error
    return path


def _load(model: torch.nn.Module, state: Mapping[str, torch.Tensor], where: str, name: str) -> None:
    """Loads the image tower's part of a state strictly.

    Raises:
        IntegrityError: naming tensors that are missing, too many, or of another shape.
    """
    own = model.state_dict()
    inner = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    given = inner or dict(state)
    wrong = [f"no tensor 'visual.{key}'" for key in own if key not in given] + [f"unknown tensor 'visual.{key}'" for key in given if key not in own]
    wrong += [f"'visual.{key}' has shape {tuple(given[key].shape)}, wanted {tuple(value.shape)}" for key, value in own.items()
              if key in given and given[key].shape != value.shape]
    if wrong:
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise IntegrityError("SK402", where, f"does not fit {name}: {'; '.join(wrong[:4])}{more}", f"is it a state dict of open_clip's {name}?")
    model.load_state_dict(given, strict=True)
