"""Networks in the ONNX format, computed by onnxruntime."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from simkit.errors import DataError, ResourceError, UsageError, nearest
from simkit.extractors.base import Extractor, OutOfMemory
from simkit.extractors.checkpoint import stated_preprocessing
from simkit.extractors.layers import Pool, pooled
from simkit.extractors.network_session import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from simkit.networks import file_digest
from simkit.recipe import recipe_of
from simkit.registry import option

__all__ = ["Onnx"]

TYPES: dict[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(uint8)": np.uint8}
"""What a network may want of its images."""


@dataclass(frozen=True)
class Onnx(Extractor):
    """Output of an ONNX network, pooled to one row per image; computed by onnxruntime on the CPU, or on a GPU where that build of it can.

    What the network is given is read from the file: channels first (n, 3, h, w) or last (n, h, w, 3), and the type. Numbers get values in 0..1, mean
    taken off, divided by std; uint8 networks get the pixels as they are, and mean and std play no part. The file does not state the normalisation: give
    that of the training, else ImageNet's is taken. Images are resized by Pillow with antialiasing, short side first, and cropped at the centre; grey
    images are repeated to three channels. Where the file fixes the batch size, the last batch is filled up with black images, whose rows are left out.
    """

    name = "onnx"
    citation = "https://onnx.ai, https://onnxruntime.ai"

    path: Path = option(help="the file (.onnx); weights beside it belong to it")
    output: str = option("", "name of the output that is taken; empty: the only one")
    pool: Pool = option("average", "how maps (n, c, h, w) and tokens (n, t, c) become rows; average, max and gem take in all tokens")
    image_size: int | None = option(None, "side of the square that is cut from the centre, in pixels; empty: the file's, else 224", minimum=1, maximum=4096)
    resize: int | None = option(None, "short side before the cut, in pixels; empty: 8/7 of image_size (256 for 224)", minimum=1, maximum=8192)
    mean: tuple[float, ...] = option(IMAGENET_MEAN, "of each channel, for values in 0..1; taken off")
    std: tuple[float, ...] = option(IMAGENET_STD, "of each channel; divided by", above=0)
    interpolation: Literal["bilinear", "bicubic"] = option("bilinear", "how images are resized")

    def recipe(self) -> dict[str, Any]:
        recipe = recipe_of(self) | {"weights": [file_digest(self.path), *(file_digest(part) for part in _parts(self.path))], "antialias": True}
        del recipe["path"]
        return recipe

    def check(self) -> None:
        """File, preprocessing, and by one blank image on the CPU: size, output and pooling."""
        session = self.session("cpu")
        session.features([np.zeros((session.preparation.crop,) * 2 + (3,), np.uint8)])

    def session(self, device: str) -> _OnnxSession:
        return _OnnxSession(self, _engine(self.path, device))


class _OnnxSession:
    """onnxruntime at work."""

    def __init__(self, options: Onnx, engine: Any):
        self.options, self.engine = options, engine
        inputs = engine.get_inputs()
        self.input, shape = inputs[0].name, list(inputs[0].shape)
        if len(inputs) != 1 or len(shape) != 4 or inputs[0].type not in TYPES:
            listed = "; ".join(f"{one.name}: {one.type} {one.shape}" for one in inputs)
            message = f"wants {listed}; simkit gives one batch of images, (n, 3, h, w) or (n, h, w, 3)"
            raise UsageError("SK108", str(options.path), message, "export the part of the network that takes images alone")
        self.type = TYPES[inputs[0].type]
        self.last = shape[3] == 3 and shape[1] != 3
        height, width = shape[1:3] if self.last else shape[2:4]
        if (shape[3] if self.last else shape[1]) not in (3, None) and not isinstance(shape[3 if self.last else 1], str):
            message = f"wants images of shape {shape}; simkit gives three channels"
            raise UsageError("SK108", str(options.path), message, "export the network for colour images (grey ones are repeated to three channels)")
        self.preparation = self._preprocessing(height, width)
        self.shape = (self.preparation.crop, self.preparation.crop, 3)
        self.fixed = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
        self.preferred = self.fixed or 0
        self.output = self._output([one.name for one in engine.get_outputs()])

    def _preprocessing(self, height: Any, width: Any) -> Preprocessing:
        options, size = self.options, self.options.image_size
        fixed = [side for side in (height, width) if isinstance(side, int)]
        if len(set(fixed)) > 1:
            raise UsageError("SK108", str(options.path), f"wants images of {height} x {width} px; simkit makes square ones", "export it for square images")
        if fixed and size not in (None, fixed[0]):
            raise UsageError("SK102", "onnx.image_size", f"{options.path.name} wants images of {fixed[0]} px, not {size}", "leave image_size out")
        return stated_preprocessing(fixed[0] if fixed else size or 224, options.resize, options.mean, options.std, options.interpolation, "onnx")

    def _output(self, names: list[str]) -> str:
        wanted = self.options.output
        if wanted in names:
            return wanted
        if not wanted and len(names) == 1:
            return names[0]
        message = f"has no output '{wanted}'{nearest(wanted, names)}" if wanted else f"has {len(names)} outputs"
        raise UsageError("SK101", "onnx.output", f"{self.options.path.name} {message}", f"name one of them: {', '.join(names)}")

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """See :meth:`Preprocessing.cropped`."""
        return self.preparation.cropped(image)

    def launch(self, batch: np.ndarray) -> np.ndarray:
        """Rows of prepared images, uint8 (n, height, width, 3); computed when this returns.

        Raises:
            OutOfMemory: the batch does not fit into the device's memory.
        """
        size = self.fixed or len(batch)
        rows = []
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            full = part if len(part) == size else np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), np.uint8)])
            value = self._run(full)
            if len(value) != size:
                fix = "export it with a batch axis, dynamic or fixed"
                raise UsageError("SK108", str(self.options.path), f"gives {len(value)} rows for {size} images", fix)
            rows.append(value[: len(part)])
        return np.concatenate(rows)

    def collect(self, pending: np.ndarray) -> np.ndarray:
        """What ``launch`` computed."""
        return pending

    def features(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Features of prepared images: float32 (n, d).

        Raises:
            ResourceError: the batch does not fit into the device's memory.
        """
        try:
            return self.launch(np.stack(batch))
        except OutOfMemory as error:
            fix = "give a smaller --batch-size, or --device cpu"
            raise ResourceError("SK301", "onnx", f"out of memory with a batch of {len(batch)} images", fix) from error

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        import torch

        if self.type is np.uint8:
            images = pixels
        else:
            mean, std = (np.array(values, dtype=np.float32) for values in (self.preparation.mean, self.preparation.std))
            images = ((pixels.astype(np.float32) / 255 - mean) / std).astype(self.type)
        images = np.ascontiguousarray(images if self.last else images.transpose(0, 3, 1, 2))
        try:
            value = self.engine.run([self.output], {self.input: images})[0]
        except Exception as error:  # onnxruntime has a kind of its own for everything
            said = " ".join(str(error).split())
            if "allocate memory" in said or "out of memory" in said:
                raise OutOfMemory(said[:200]) from error
            raise UsageError("SK108", str(self.options.path), f"fails on images of shape {images.shape}: {said[:300]}", "give another image_size") from error
        out: np.ndarray = pooled(torch.from_numpy(np.asarray(value, dtype=np.float32)), self.options.pool, "onnx").numpy()
        return out


def _engine(path: Path, device: str) -> Any:
    """onnxruntime's session.

    Raises:
        ResourceError: onnxruntime is not installed, or is a build without the device; the file is missing.
        DataError: it is no ONNX network, or one that onnxruntime does not know.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ResourceError("SK303", "onnx", f"the package onnxruntime cannot be imported ({error})", "pip install 'simkit[onnx]'") from error
    file_digest(path)
    provider: Any = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device.partition(":")[0], device)
    if provider not in onnxruntime.get_available_providers():
        fix = "give --device cpu, or install a build that has it (pip install onnxruntime-gpu, instead of onnxruntime)"
        raise ResourceError("SK106", "onnx", f"this build of onnxruntime cannot compute on {device}", fix)
    if ":" in device:
        provider = (provider, {"device_id": device.partition(":")[2]})
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
    try:
        return onnxruntime.InferenceSession(path, settings, providers=[provider])
    except Exception as error:  # onnxruntime has a kind of its own for everything
        said = " ".join(str(error).split())[:300]
        raise DataError("SK201", str(path), f"cannot be read as an ONNX network: {said}", "check it with onnx.checker.check_model; is it complete?") from error


def _parts(path: Path) -> list[Path]:
    """Files beside the network that hold its weights: ONNX names them in ``external_data``, as text with the key "location"."""
    content = path.read_bytes() if path.is_file() else b""
    names = set()
    for found in re.finditer(rb"\x0a\x08location\x12([\x01-\x7f])", content):
        name = content[found.end() : found.end() + found[1][0]].decode("utf-8", "replace")
        if (path.parent / name).is_file():
            names.add(name)
    return [path.parent / name for name in sorted(names)]
