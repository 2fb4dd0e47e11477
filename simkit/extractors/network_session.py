"""A network at work: images resized as its weights want them, batches on its device. Shared by the extractors that hold a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from simkit.errors import ResourceError

if TYPE_CHECKING:
    import torch

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "NetworkSession", "Preprocessing"]

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

    def cropped(self, image: np.ndarray) -> np.ndarray:
        """Image uint8 (height, width, 1 or 3) as uint8 (crop, crop, 3), by the arithmetic of torchvision's Resize and CenterCrop.

        Grey images are repeated to three channels. A side that would be shorter than the crop is stretched to it.
        """
        from PIL import Image

        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("RGB")
        width, height = picture.size
        if not self.keep_aspect:
            size = (self.resize, self.resize)
        elif width <= height:
            size = (self.resize, int(self.resize * height / width))
        else:
            size = (int(self.resize * width / height), self.resize)
        size = (max(self.crop, size[0]), max(self.crop, size[1]))
        picture = picture.resize(size, Image.Resampling[self.interpolation.upper()])
        left, top = round((size[0] - self.crop) / 2), round((size[1] - self.crop) / 2)
        return np.asarray(picture.crop((left, top, left + self.crop, top + self.crop)))


class NetworkSession:
    """A network on its device (a Session). Subclasses say which of its values are the features.

    Args:
        model: the network with its weights.
        preprocessing: what its weights want.
        device: where it runs.
    """

    def __init__(self, model: torch.nn.Module, preprocessing: Preprocessing, device: str):
        import torch

        self.device = torch.device(device)
        self.model = model.eval().to(self.device).to(memory_format=torch.channels_last)
        self.preprocessing = preprocessing
        self.mean = torch.tensor(preprocessing.mean, device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(preprocessing.std, device=self.device).view(1, 3, 1, 1)

    def rows(self, images: torch.Tensor) -> torch.Tensor:
        """Features (n, d) of normalised images, float32 (n, 3, height, width)."""
        raise NotImplementedError

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """See :meth:`Preprocessing.cropped`. Normalisation follows on the device."""
        return self.preprocessing.cropped(image)

    def features(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Features of prepared images: float32 (n, d).

        Raises:
            ResourceError: the batch does not fit into the device's memory.
        """
        import torch

        try:
            with torch.inference_mode():
                pixels = torch.from_numpy(np.stack(batch)).to(self.device, non_blocking=True).permute(0, 3, 1, 2)
                images = (pixels.float().div_(255) - self.mean) / self.std
                rows = self.rows(images.contiguous(memory_format=torch.channels_last))
                return np.asarray(rows.float().cpu().numpy())
        except torch.OutOfMemoryError as error:
            fix = "give a smaller --batch-size, or --device cpu"
            raise ResourceError("SK301", str(self.device), f"out of memory with a batch of {len(batch)} images", fix) from error
