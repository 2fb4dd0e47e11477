"""Vision networks of transformers as feature extractors, from the Hugging Face hub or a local folder; safetensors only, no code of the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from simkit.errors import IntegrityError, ResourceError, UsageError
from simkit.extractors.base import Extractor, Session
from simkit.extractors.layers import pooled
from simkit.extractors.network_session import PRECISION, NetworkSession, Precision, Preprocessing
from simkit.networks import host_error
from simkit.recipe import digest, digest_file, recipe_of
from simkit.registry import option

if TYPE_CHECKING:
    import torch

__all__ = ["Huggingface", "file_digest", "hub_file"]

CONFIG, PROCESSOR, WEIGHTS, INDEX = "config.json", "preprocessor_config.json", "model.safetensors", "model.safetensors.index.json"
FILTERS: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of its filters."""

UNTOLD = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
"""Entries of a configuration that move no number in float32."""


@dataclass(frozen=True)
class Huggingface(Extractor):
    """Features of a vision network of transformers, such as facebook/dinov2-base, microsoft/rad-dino, google/siglip-base-patch16-224.

    The network is ``AutoModel``'s (the image tower of models with two, such as CLIP). By default the features are its pooled output: the class
    token after the last norm (DINOv2, CLIP), an attention head (SigLIP), a dense layer on the class token (ViT), average and norm (ConvNeXt).
    A network whose weights lack that pooling layer is refused with it. ``average``, ``max`` and ``gem`` take all tokens, class token included.

    Preprocessing is that of ``preprocessor_config.json``, by Pillow. Before any work it is compared with the image processor of transformers
    (its Pillow backend) on made-up images: one that cannot be followed exactly is refused. Weights are safetensors; code from the hub is never run.
    """

    name = "huggingface"
    citation = "T. Wolf et al., Transformers, EMNLP 2020, doi:10.18653/v1/2020.emnlp-demos.6"

    model: str = option(help="name on the Hugging Face hub, such as facebook/dinov2-base, or a local folder with config.json and model.safetensors")
    revision: str | None = option(None, "branch, tag or commit on the hub; empty: main")
    pool: Literal["pooler", "cls", "average", "max", "gem"] = option("pooler", "pooler: the network's own; or how tokens and maps become rows")
    layer: int | None = option(None, "hidden state that is pooled: 0 are the embeddings, -1 is the last block, before the last norm; empty: the last, normed")
    precision: Precision = option("float32", PRECISION)

    def recipe(self) -> dict[str, Any]:
        folder = self._folder()
        config = {key: value for key, value in _json(folder / CONFIG).items() if key not in UNTOLD}
        recipe = recipe_of(self) | {"config": digest(config), "preprocessing": asdict(self._preprocessing(folder)), "weights": _weights_digest(folder)}
        del recipe["revision"]
        return recipe if not self._local else recipe | {"model": str(config.get("model_type", "local"))}

    def check(self) -> None:
        """Files, preprocessing; and, by one image of shapes without values, pooling and layer."""
        import torch

        folder = self._folder()
        _weight_files(folder)
        preprocessing = self._preprocessing(folder)
        if self.pool == "pooler" and self.layer is not None:
            fix = "give pool = cls, average, max or gem with layer"
            raise UsageError("SK108", "huggingface.pool", "the network's own pooling takes the last layer only", fix)
        config = _configuration(folder, self.model)
        with torch.device("meta"):
            model = _tower(_transformers().AutoModel.from_config(config, trust_remote_code=False), self.model)
        model = model.eval()
        try:
            with torch.inference_mode():
                _rows(model, torch.empty(1, 3, preprocessing.crop, preprocessing.crop, device="meta"), self)
        except (ValueError, RuntimeError, AssertionError) as error:  # each network refuses in its own way
            message = f"does not take images of {preprocessing.crop} x {preprocessing.crop} px: {_first_line(error)}"
            raise UsageError("SK108", self.model, message, f"do {CONFIG} and {PROCESSOR} belong together?") from error

    def session(self, device: str) -> Session:
        folder = self._folder()
        return _HuggingfaceSession(_loaded(folder, self.model, self.pool), self._preprocessing(folder), device, self)

    @property
    def _local(self) -> bool:
        return Path(self.model).expanduser().is_dir()

    def _folder(self) -> Path:
        """The folder that holds configuration, preprocessing and weights, downloaded where they are not on this machine yet."""
        if self._local:
            folder = Path(self.model).expanduser()
            for name in (CONFIG, PROCESSOR):
                if not (folder / name).is_file():
                    raise ResourceError("SK302", str(folder), f"has no {name}", f"copy {name} of the model there: weights without it would be used wrongly")
            return folder
        if self.model.count("/") > 1 or self.model.startswith(("/", ".", "~")):
            raise ResourceError("SK302", self.model, "the folder does not exist", "check the path of model, or give a name on the hub")
        folder = hub_file(self.model, (CONFIG,), revision=self.revision).parent
        hub_file(self.model, (PROCESSOR,), revision=self.revision)
        try:
            found = hub_file(self.model, (WEIGHTS, INDEX), revision=self.revision)
        except ResourceError as error:
            if "holds no" in error.problems[0].message:
                raise _pickled(self.model) from error
            raise
        for name in _shards(found):
            hub_file(self.model, (name,), revision=self.revision)
        return folder

    def _preprocessing(self, folder: Path) -> Preprocessing:
        processor = _processor(folder)
        preprocessing = _followed(processor, self.model)
        _prove(preprocessing, processor, self.model)
        return preprocessing


class _HuggingfaceSession(NetworkSession):
    def __init__(self, model: torch.nn.Module, preprocessing: Preprocessing, device: str, options: Huggingface):
        super().__init__(model, preprocessing, device)
        self.precision, self.options = options.precision, options

    def rows(self, images: torch.Tensor) -> torch.Tensor:
        return _rows(self.model, images, self.options)


@dataclass(frozen=True)
class FloorCropped(Preprocessing):
    """The centre is cut out as transformers does: where it lies between two pixels, the upper left one is taken."""

    def corner(self, width: int, height: int) -> tuple[int, int]:
        """See :meth:`Preprocessing.corner`."""
        return (width - self.crop) // 2, (height - self.crop) // 2


# --- the hub ---------------------------------------------------------------------------------------------------------------------------


def hub_file(repository: str, names: Sequence[str], *, revision: str | None = None) -> Path:
    """The first of some files that a repository of the Hugging Face hub holds, from the cache of this machine or downloaded.

    Raises:
        ResourceError: it is not on this machine and the hub cannot be reached (one request, no retries), or holds none of them; or the
            package is not installed.
    """
    try:
        from huggingface_hub import constants, hf_hub_download, hf_hub_url, try_to_load_from_cache
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise ResourceError("SK303", "huggingface_hub", f"cannot be imported ({error})", "pip install 'simkit[huggingface]'") from error
    try:
        for name in names:
            if isinstance(found := try_to_load_from_cache(repository, name, revision=revision), str):
                return Path(found)
        if constants.HF_HUB_OFFLINE:
            raise _unreachable(repository, names, OSError("HF_HUB_OFFLINE is set"), revision)
        for name in names:
            problem = host_error(hf_hub_url(repository, name, revision=revision))
            if getattr(problem, "code", None) == 404:
                continue
            if problem is not None:
                raise _unreachable(repository, names, problem, revision) from problem
            return Path(hf_hub_download(repository, name, revision=revision))
    except HFValidationError as error:
        raise UsageError("SK101", repository, f"is no name on the Hugging Face hub ({_first_line(error)})", "give organisation/name, or a folder") from error
    except (HfHubHTTPError, OSError) as error:
        raise _unreachable(repository, names, error, revision) from error
    fix = "check name and revision on https://huggingface.co"
    raise ResourceError("SK302", repository, f"holds no {' or '.join(names)} (or there is no such repository)", fix)


def _unreachable(repository: str, names: Sequence[str], error: Exception, revision: str | None) -> ResourceError:
    from huggingface_hub import constants

    asked = f" --revision {revision}" if revision else ""
    fix = (f"on a machine with internet, run: hf download {repository}{asked}, and copy its folder into {constants.HF_HUB_CACHE}; "
           "or copy its files into a folder and name that")
    return ResourceError("SK302", repository, f"{' or '.join(names)} is not on this machine and cannot be downloaded ({error})", fix)


def _pickled(model: str) -> UsageError:
    fix = ("give a revision with safetensors (the hub's converter makes one, see the model's pull requests), or load the model on a machine that trusts it "
           "and save it with save_pretrained(FOLDER), then name that folder")
    return UsageError("SK108", model, f"has no {WEIGHTS}: a .bin file is a pickle, which can run code and is not read", fix)


def file_digest(path: Path) -> str:
    """SHA-256 of a weights file; read once while it does not change."""
    status = path.stat()
    return _file_digest(path.resolve(), status.st_size, status.st_mtime_ns)


@cache
def _file_digest(path: Path, size: int, changed: int) -> str:
    return digest_file(path)


def _shards(path: Path) -> list[str]:
    """Names of the weights files, from model.safetensors itself or its index."""
    if path.name != INDEX:
        return [path.name]
    names = _json(path).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors") for name in names.values()):
        raise IntegrityError("SK402", str(path), "is not an index of safetensors files in the same folder", "download it again")
    return sorted(set(names.values()))


def _weight_files(folder: Path) -> list[Path]:
    first = next((folder / name for name in (WEIGHTS, INDEX) if (folder / name).is_file()), None)
    if first is None:
        raise _pickled(str(folder))
    files = [folder / name for name in _shards(first)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ResourceError("SK302", str(folder), f"{', '.join(missing[:4])} of {INDEX} is not there", "copy all parts of the weights")
    return files


def _weights_digest(folder: Path) -> str:
    """SHA-256 of the weights file; of the digests of its parts, by name, where there are several."""
    files = _weight_files(folder)
    return file_digest(files[0]) if len(files) == 1 else digest({file.name: file_digest(file) for file in files})


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IntegrityError("SK402", str(path), f"cannot be read as JSON: {_first_line(error)}", "download it again") from error
    if not isinstance(content, dict):
        raise IntegrityError("SK402", str(path), "holds no JSON object", "download it again")
    return content


# --- preprocessing ---------------------------------------------------------------------------------------------------------------------


def _processor(folder: Path) -> Any:
    """The image processor of transformers, computing with Pillow; where it has none, whatever it has."""
    auto = _transformers().AutoImageProcessor
    chosen: dict[str, Any] = {"backend": "pil"} if int(_transformers().__version__.split(".")[0]) >= 5 else {"use_fast": False}
    try:
        return auto.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **chosen)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        message = f"no image processor of transformers reads {PROCESSOR}: {_first_line(error)}"
        raise UsageError("SK108", str(folder), message, "choose another model, or update transformers") from error


def _followed(processor: Any, where: str) -> Preprocessing:
    """The arithmetic of an image processor as a Preprocessing.

    Raises:
        UsageError: it cannot be expressed so.
    """
    told = {key: value for key, value in processor.to_dict().items() if value is not None}
    filter_ = told.get("resample", 2)
    size: dict[str, Any] = {key: value for key, value in dict(told.get("size") or {}).items() if value is not None}
    crop = told.get("crop_size") if told.get("do_center_crop") else None
    crops: list[Any] = [] if crop is None else [crop] * 2 if isinstance(crop, int) else [dict(crop).get("height"), dict(crop).get("width")]
    if not told.get("do_resize", True):
        raise _unfollowed(where, "images are not resized, so they have no common size")
    if filter_ not in FILTERS:
        raise _unfollowed(where, f"Pillow's filter number {int(filter_)} is neither bilinear nor bicubic")
    if told.get("do_pad"):
        raise _unfollowed(where, "images are padded")
    if set(size) == {"shortest_edge"} and "crop_pct" in told:  # ConvNeXt: cropped below 384 px, squashed from there on
        side = int(size["shortest_edge"])
        resize, cut, aspect = (int(side / told["crop_pct"]), side, True) if side < 384 else (side, side, False)
    elif set(size) == {"shortest_edge"} and crops and crops[0] == crops[1]:
        resize, cut, aspect = int(size["shortest_edge"]), int(crops[0]), True
    elif set(size) == {"height", "width"} and size["height"] == size["width"] and (not crops or crops[0] == crops[1]):
        resize, cut, aspect = int(size["height"]), int(crops[0] if crops else size["height"]), False
    else:
        raise _unfollowed(where, f"size {size} and crop {crops or None} do not make a square")
    if cut > resize:
        raise _unfollowed(where, f"images of {resize} px are padded to {cut} px")
    factor = 255 * (float(told.get("rescale_factor", 1 / 255)) if told.get("do_rescale", True) else 1.0)
    normalised = told.get("do_normalize", True)
    mean, std = (told.get(key) if normalised else None for key in ("image_mean", "image_std"))
    return FloorCropped(resize, cut, _per_channel(mean, 0.0, factor), _per_channel(std, 1.0, factor), FILTERS[filter_], aspect)


def _per_channel(values: Any, otherwise: float, factor: float) -> tuple[float, ...]:
    """Three values, of pixels in 0..1 instead of whatever ``rescale_factor`` makes of them."""
    given = [otherwise] * 3 if values is None else [float(values)] * 3 if isinstance(values, (int, float)) else [float(value) for value in values]
    return tuple(value / factor for value in given)


def _prove(preprocessing: Preprocessing, processor: Any, where: str) -> None:
    """Compares with the image processor itself on images of several aspect ratios.

    Raises:
        UsageError: they differ.
    """
    from PIL import Image

    rng = np.random.default_rng(0)
    for height, width in ((preprocessing.resize + 37, preprocessing.resize + 4), (61, 90), (90, 61), (preprocessing.resize,) * 2):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        wanted = np.asarray(processor(images=Image.fromarray(image), return_tensors="np")["pixel_values"][0], dtype=np.float64)
        got = (preprocessing.cropped(image) / 255.0 - preprocessing.mean) / preprocessing.std
        if wanted.shape != (3, preprocessing.crop, preprocessing.crop) or np.abs(wanted.transpose(1, 2, 0) - got).max() > 1e-4:
            raise _unfollowed(where, f"{type(processor).__name__} makes another image of {width} x {height} pixels")


def _unfollowed(where: str, why: str) -> UsageError:
    fix = "choose another model, or bring it in with the extractor callable"
    return UsageError("SK108", where, f"its preprocessing cannot be followed exactly: {why}", fix)


# --- the network -----------------------------------------------------------------------------------------------------------------------


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ResourceError("SK303", "transformers", f"cannot be imported ({error})", "pip install 'simkit[huggingface]'") from error
    return transformers


def _configuration(folder: Path, where: str) -> Any:
    try:
        return _transformers().AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"transformers knows no network of that {CONFIG} (or it needs code from the hub, which is not run): {_first_line(error)}"
        raise UsageError("SK108", where, message, "choose another model, or update transformers") from error


def _tower(model: Any, where: str) -> Any:
    """The part of a network that takes images."""
    if hasattr(model, "vision_model"):
        return model.vision_model
    if getattr(model, "main_input_name", "") != "pixel_values":
        raise UsageError("SK108", where, f"{type(model).__name__} takes no images alone", "choose a vision model")
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars and reports of transformers: what is wrong is said by simkit."""
    logging = _transformers().utils.logging
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _loaded(folder: Path, where: str, pool: str) -> Any:
    """The network with its weights; every tensor that is used must be there."""
    _weight_files(folder)
    config = _configuration(folder, where)
    try:
        with _quiet():
            model, told = _transformers().AutoModel.from_pretrained(
                str(folder), config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True, output_loading_info=True,
            )
    except Exception as error:  # safetensors and transformers raise many kinds for damaged files
        fix = f"download them again, with the {CONFIG} that they came with"
        raise IntegrityError("SK402", where, f"the weights cannot be loaded: {_first_line(error)}", fix) from error
    tower = _tower(model, where).float()
    prefix = "" if tower is model else "vision_model."
    missing = sorted(key for key in told["missing_keys"] if key.startswith(prefix) and (pool == "pooler" or not key.startswith(f"{prefix}pooler")))
    if missing and all(key.startswith(f"{prefix}pooler") for key in missing):
        message = f"the weights hold no pooling layer ({missing[0]})"
        raise UsageError("SK108", where, message, 'give pool = "cls" (the class token after the last norm), average, max or gem')
    wrong = [f"no tensor '{key}'" for key in missing] + [f"'{key[0] if isinstance(key, tuple) else key}' has another shape" for key in told["mismatched_keys"]]
    if wrong:
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise IntegrityError("SK402", where, f"the weights do not fit: {'; '.join(wrong[:4])}{more}", f"are {WEIGHTS} and {CONFIG} of the same model?")
    return tower


def _rows(model: Any, images: torch.Tensor, options: Huggingface) -> torch.Tensor:
    """Features (n, d) of normalised images."""
    out = model(pixel_values=images, output_hidden_states=True) if options.layer is not None else model(pixel_values=images)
    where = "huggingface"
    if options.pool == "pooler":
        value = getattr(out, "pooler_output", None)
        if value is None:
            raise UsageError("SK108", f"{where}.pool", f"{type(model).__name__} has no pooling of its own", "give pool = cls, average, max or gem")
        rows: torch.Tensor = value.flatten(1)
        return rows
    if options.layer is None:
        value = out.last_hidden_state
    else:
        states = out.hidden_states
        if not states or not -len(states) <= options.layer < len(states):
            count = len(states or ())
            message = f"{type(model).__name__} has {count} hidden states, not one of index {options.layer}"
            raise UsageError("SK101", f"{where}.layer", message, f"give 0 to {count - 1}")
        value = states[options.layer]
    if options.pool == "cls" and value.ndim == 3 and not _class_token(model, value, images):
        raise UsageError("SK108", f"{where}.pool", f"{type(model).__name__} has no class token", "give pool = pooler, average, max or gem")
    return pooled(value, options.pool, where)


def _class_token(model: Any, tokens: torch.Tensor, images: torch.Tensor) -> bool:
    """Whether there are more tokens than patches."""
    patch = getattr(model.config, "patch_size", None)
    if patch is None:
        return False
    high, wide = (patch, patch) if isinstance(patch, int) else tuple(patch)
    return bool(tokens.shape[1] > (images.shape[2] // high) * (images.shape[3] // wide))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
