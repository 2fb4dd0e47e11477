"""A network at work: images resized as its weights want them, batches on its device. Shared by the extractors that hold a network."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from simkit.errors import ResourceError
from simkit.extractors.base import OutOfMemory

if TYPE_CHECKING:
    import torch

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "PRECISION", "NetworkSession", "Precision", "Preprocessing"]

Precision = Literal["float32", "bfloat16", "float16"]
PRECISION = "arithmetic of the network; half precision is for GPUs, where it is several times faster and moves features by up to 2 %"

logger = logging.getLogger(__name__)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's channel statistics, of values in 0..1."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of a network: resized by Pillow with antialiasing, cropped at the centre, normalised.

    Attributes:
        resize: short side after resizing, in pixels; both sides where the aspect ratio is not kept.
        crop: side of the square that is cut from the centre, in pixels.
        mean: per channel, of values in 0..1; taken off.
        std: per channel; divided by.
        interpolation: Pillow's filter.
        keep_aspect: false squashes the image to a square.
    """

    resize: int
    crop: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    keep_aspect: bool = True

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """:meth:`cropped`."""
        return self.cropped(image)

    def cropped(self, image: np.ndarray) -> np.ndarray:
        """Image uint8 (height, width, 1 or 3) as uint8 (crop, crop, 3), by the arithmetic of torchvision's Resize and CenterCrop.

        Grey images are repeated to three channels; for a network of one channel colour becomes grey, (crop, crop, 1). A side that would be shorter than
        the crop is stretched to it.
        """
        from PIL import Image

        grey = len(self.mean) == 1
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("L" if grey else "RGB")
        size = self.resized(*picture.size)
        picture = picture.resize(size, Image.Resampling[self.interpolation.upper()])
        left, top = self.corner(*size)
        out = np.asarray(picture.crop((left, top, left + self.crop, top + self.crop)))
        return out[:, :, None] if grey else out

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after resizing, at least those of the crop."""
        if not self.keep_aspect:
            size = (self.resize, self.resize)
        elif width <= height:
            size = (self.resize, int(self.resize * height / width))
        else:
            size = (int(self.resize * width / height), self.resize)
        return max(self.crop, size[0]), max(self.crop, size[1])

    def corner(self, width: int, height: int) -> tuple[int, int]:
        """Left and top of the crop in the resized image: torchvision's rounding (to the even one of two)."""
        return round((width - self.crop) / 2), round((height - self.crop) / 2)


class NetworkSession:
    """A network on its device (a Session). Subclasses say which of its values are the features.

    Batch norms are folded into the convolutions before them and the memory format is channels_last: both change nothing but the last
    digits. Images go to the device as uint8 and are normalised there.

    Args:
        model: the network with its weights.
        preprocessing: what its weights want.
        device: where it runs.
        keep: name of the module whose output is taken, if one is: it stays as it was.
    """

    precision: Precision = "float32"

    def __init__(self, model: torch.nn.Module, preprocessing: Preprocessing, device: str, *, keep: str = ""):
        import torch

        from simkit.extractors.backends import fold_batch_norms

        self.device = torch.device(device)
        fold_batch_norms(model.eval(), keep)
        self.model = model.eval().requires_grad_(False).to(self.device).to(memory_format=torch.channels_last)
        self.preprocessing = preprocessing
        self.mean = torch.tensor(preprocessing.mean, device=self.device).view(1, -1, 1, 1)
        self.std = torch.tensor(preprocessing.std, device=self.device).view(1, -1, 1, 1)
        self.backend: Any = None
        self.preferred = 0
        self.repeated = 0

    def at(self, precision: Precision) -> Self:
        """This session, computing in another precision."""
        self.precision = precision
        return self

    @property
    def preparation(self) -> Preprocessing:
        """See :meth:`Preprocessing.cropped`. Normalisation follows on the device."""
        return self.preprocessing

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a prepared image."""
        return (self.preprocessing.crop, self.preprocessing.crop, len(self.preprocessing.mean))

    def rows(self, images: torch.Tensor) -> torch.Tensor:
        """Features (n, d) of normalised images, float32 (n, 3, height, width)."""
        raise NotImplementedError

    def whole(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features (n, d) of images on the device, uint8 (n, height, width, 3)."""
        import torch

        images = (pixels.permute(0, 3, 1, 2).float().div_(255) - self.mean) / self.std
        return self.rows(images.contiguous(memory_format=torch.channels_last))

    def use(self, backend: str, example: np.ndarray) -> str:
        """Chooses what computes on the CPU; see :mod:`simkit.extractors.backends`. Returns what is used, in words."""
        from simkit.extractors.backends import chosen

        self.backend, said = chosen(self, backend, example)
        self.preferred = len(example) if self.backend is not None else 0
        return said

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """See :meth:`Preprocessing.cropped`. Normalisation follows on the device."""
        return self.preprocessing.cropped(image)

    def launch(self, batch: np.ndarray) -> Any:
        """Starts the computation of prepared images, uint8 (n, height, width, 3); on a GPU it goes on while the caller does something else.

        Raises:
            OutOfMemory: the batch does not fit into the device's memory.
        """
        import torch

        if self.backend is not None:
            return self.backend(batch), batch
        try:
            with torch.inference_mode(), self._autocast():
                pixels = torch.from_numpy(batch)
                if self.device.type == "cuda":
                    pixels = pixels.pin_memory().to(self.device, non_blocking=True)
                return self.whole(pixels.to(self.device)).float(), batch
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise OutOfMemory(str(error).splitlines()[0]) from error

    def collect(self, pending: Any) -> np.ndarray:
        """What ``launch`` started: float32 (n, d). Rows that reduced precision made infinite are computed again in float32, and counted."""
        rows, batch = pending
        out = np.asarray(rows if isinstance(rows, np.ndarray) else rows.cpu().numpy(), dtype=np.float32)
        bad = np.asarray(~np.isfinite(out).all(axis=1))
        if self.precision != "float32" and bad.any():
            import torch

            with torch.inference_mode():
                again = self.whole(torch.from_numpy(batch[bad]).to(self.device)).float().cpu().numpy()
            out = out.copy()
            out[bad] = again
            self.repeated += int(bad.sum())
            logger.info("overflow in %s, computed again in float32: %d of %d images", self.precision, int(bad.sum()), len(bad))
        return out

    def features(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Features of prepared images: float32 (n, d).

        Raises:
            ResourceError: the batch does not fit into the device's memory.
        """
        try:
            return self.collect(self.launch(np.stack(batch)))
        except OutOfMemory as error:
            fix = "give a smaller --batch-size, or --device cpu"
            raise ResourceError("SK301", str(self.device), f"out of memory with a batch of {len(batch)} images", fix) from error

    def _autocast(self) -> Any:
        import torch

        kind = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[self.precision]
        return torch.autocast(self.device.type, dtype=kind, enabled=self.precision != "float32")
