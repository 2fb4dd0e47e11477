"""Pixels as features: the baseline that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simkit.extractors.base import Extractor, Session
from simkit.registry import option

__all__ = ["Pixels"]


@dataclass(frozen=True)
class Pixels(Extractor):
    """The image itself, resized: size * size * channels values in 0..1.

    The whole image is resized with antialiasing (bilinear), without keeping the aspect ratio; grey images are repeated to three channels
    when ``colour`` is true, colour images averaged to grey (ITU-R 601-2 luma) when it is false. A baseline: what a network adds to it is
    the network's merit.
    """

    name = "pixels"
    needs_device = False

    size: int = option(16, "height and width in pixels", minimum=1, maximum=512)
    colour: bool = option(True, "three channels (true) or one (false)")

    def session(self, device: str) -> Session:
        return _PixelSession(self)


class _PixelSession:
    def __init__(self, options: Pixels):
        self.options = options

    def prepare(self, image: np.ndarray) -> np.ndarray:
        from PIL import Image

        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        picture = picture.convert("RGB" if self.options.colour else "L")
        side = self.options.size
        return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))

    def features(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(batch).reshape(len(batch), -1).astype(np.float32) / np.float32(255)
