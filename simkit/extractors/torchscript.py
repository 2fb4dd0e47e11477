"""Networks that were saved as TorchScript: any architecture, in one file."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from simkit.errors import DataError, IntegrityError, SimkitError, UsageError
from simkit.extractors.base import Extractor, Session
from simkit.extractors.checkpoint import stated_preprocessing
from simkit.extractors.layers import Pool, pooled
from simkit.extractors.network_session import IMAGENET_MEAN, IMAGENET_STD, NetworkSession, Preprocessing
from simkit.networks import file_digest
from simkit.recipe import recipe_of
from simkit.registry import option

if TYPE_CHECKING:
    import torch

__all__ = ["Torchscript"]


@dataclass(frozen=True)
class Torchscript(Extractor):
    """Output of a TorchScript network (``torch.jit.save``), pooled to one row per image.

    The network gets float32 (n, 3, image_size, image_size): values in 0..1, mean taken off, divided by std. The file does not state these: give those of
    the training, else ImageNet's are taken. Images are resized by Pillow with antialiasing, short side first, and cropped at the centre; grey images are
    repeated to three channels. Reading the file runs no Python, but TorchScript is a program of torch's operators, some of which read and write files:
    take it only from somebody whom you trust.
    """

    name = "torchscript"
    citation = "https://docs.pytorch.org/docs/stable/jit.html"

    path: Path = option(help="the file, from torch.jit.save")
    output: str = option("", "of several outputs: position (0, 1, ...) or key; empty: the only one")
    pool: Pool = option("average", "how maps (n, c, h, w) and tokens (n, t, c) become rows; average, max and gem take in all tokens")
    image_size: int = option(224, "side of the square that is cut from the centre, in pixels", minimum=1, maximum=4096)
    resize: int | None = option(None, "short side before the cut, in pixels; empty: 8/7 of image_size (256 for 224)", minimum=1, maximum=8192)
    mean: tuple[float, ...] = option(IMAGENET_MEAN, "of each channel, for values in 0..1; taken off")
    std: tuple[float, ...] = option(IMAGENET_STD, "of each channel; divided by", above=0)
    interpolation: Literal["bilinear", "bicubic"] = option("bilinear", "how images are resized")

    def recipe(self) -> dict[str, Any]:
        recipe = recipe_of(self) | {"weights": file_digest(self.path), "antialias": True}
        del recipe["path"]
        return recipe

    def check(self) -> None:
        """File, preprocessing, and by one blank image on the CPU: size, output and pooling."""
        session = self.session("cpu")
        session.features([np.zeros((self.image_size, self.image_size, 3), np.uint8)])

    def session(self, device: str) -> Session:
        preprocessing = stated_preprocessing(self.image_size, self.resize, self.mean, self.std, self.interpolation, self.name)
        return _ScriptSession(_read(self.path), preprocessing, device, self)


class _ScriptSession(NetworkSession):
    def __init__(self, model: torch.nn.Module, preprocessing: Preprocessing, device: str, options: Torchscript):
        super().__init__(model, preprocessing, device)
        self.options = options

    def rows(self, images: torch.Tensor) -> torch.Tensor:
        import torch

        try:
            value = self.model(images)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # an operator inside: its last line says what it was
            said = ([line for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__])[-1].strip()[:200]
            message = f"does not take images (n, 3, {self.options.image_size}, {self.options.image_size}): {said}"
            raise UsageError("SK102", str(self.options.path), message, "give the image_size that it was made for") from error
        out = pooled(_output(value, self.options.output), self.options.pool, "torchscript")
        if len(out) != len(images):
            message = f"gives {len(out)} rows for {len(images)} images"
            raise UsageError("SK108", str(self.options.path), message, "was it traced for one batch size? Save it again with torch.jit.script")
        return out


def _output(value: Any, output: str) -> Any:
    """The output that is asked for."""
    if isinstance(value, dict):
        if output in value:
            return value[output]
        message = f"the network gives {', '.join(value)}" + (f", not '{output}'" if output else "")
        raise UsageError("SK101", "torchscript.output", message, "name one of them: output = ...")
    if isinstance(value, (tuple, list)):
        if output.isdecimal() and int(output) < len(value):
            return value[int(output)]
        message = f"the network gives {len(value)} outputs" + (f", and '{output}' is not the position of one" if output else "")
        raise UsageError("SK101", "torchscript.output", message, f"give output = 0 to {len(value) - 1}")
    if output not in ("", "0"):
        raise UsageError("SK101", "torchscript.output", f"the network gives one output, there is no '{output}'", "leave output out")
    return value


def _read(path: Path) -> torch.nn.Module:
    """The network, as a module that can be moved and set to evaluation.

    Raises:
        ResourceError: the file is missing or may not be read.
        DataError: it is no TorchScript.
        IntegrityError: it is damaged.
    """
    import torch

    file_digest(path)
    try:
        with warnings.catch_warnings():  # torch advises other formats; files of this one go on existing
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            script = torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise _unread(path, error) from error

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.script = script

        def forward(self, images: torch.Tensor) -> Any:
            return self.script(images)

    return Whole()


def _unread(path: Path, error: Exception) -> SimkitError:
    with path.open("rb") as file:
        archive = file.read(2) == b"PK"
    said = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    if archive and "constants.pkl" not in said:
        return IntegrityError("SK402", str(path), f"cannot be read as TorchScript: {said}", "copy it again from where it was made")
    fix = "make one with torch.jit.script(model).save(PATH); for a state dict use the extractor checkpoint, for ONNX the extractor onnx"
    return DataError("SK201", str(path), "is no TorchScript archive", fix)
