"""Images that are arrays already: in memory, or in an .npz file that is opened when an image is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simkit.recipe import digest_bytes

__all__ = ["ArrayReader", "array_digest"]


def array_digest(image: np.ndarray) -> str:
    """SHA-256 over type, shape and bytes of an image (height, width, channels)."""
    image = np.ascontiguousarray(image)
    return digest_bytes(f"{image.dtype.str} {image.shape} ".encode(), image.tobytes())


@dataclass(frozen=True, eq=False)
class ArrayReader:
    """Images in memory (an ImageReader).

    Attributes:
        images: uint8 (height, width, 1 or 3) each.
    """

    images: Sequence[np.ndarray]

    def read(self, index: int) -> np.ndarray:
        """A copy of the image: what the caller does to it changes nothing here."""
        return np.array(self.images[index])

    def digest(self, index: int) -> str:
        """See :func:`array_digest`."""
        return array_digest(self.images[index])
