"""What is kept of an image to find its copies: a small grey picture and the digest of its pixels; made once an image, and kept in the store."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["LOOK", "PICTURE", "SIDE", "Look", "Looks", "grey_square"]

SIDE = 32
"""Side of the small picture, pixels."""

PICTURE = SIDE * SIDE
"""Its numbers; behind them stand the 32 bytes of the digest of the pixels."""


def grey_square(image: np.ndarray, side: int) -> np.ndarray:
    """An image as grey levels of a square, float32 (side, side) in 0..255: luminance (ITU-R 601), antialiased, its proportions not kept.

    Args:
        image: uint8 (height, width, 1 or 3).
        side: pixels.
    """
    from PIL import Image

    picture = Image.fromarray(image[:, :, 0]) if image.shape[2] == 1 else Image.fromarray(np.ascontiguousarray(image)).convert("L")
    if max(picture.size) > 8 * side:  # whole-number averaging first: much faster, and as good
        picture = picture.reduce((max(picture.width // (4 * side), 1), max(picture.height // (4 * side), 1)))
    return np.asarray(picture.convert("F").resize((side, side), Image.Resampling.BILINEAR), dtype=np.float32)


@dataclass(frozen=True)
class Look:
    """Makes an image's row for the store: float32 (1056,), the small grey picture and the digest of its decoded pixels, one byte a number.

    Grey stored as colour has the digest of grey. Runs in the processes that decode.
    """

    name = "look"
    version = 1
    side: int = SIDE

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The row of an image, uint8 (height, width, 1 or 3)."""
        grey = image.shape[2] == 1 or bool((image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all())
        shown = np.ascontiguousarray(image[..., :1] if grey else image)
        sha = hashlib.sha256(f"{shown.shape} ".encode())
        sha.update(shown.data)
        return np.concatenate([grey_square(shown, self.side).ravel(), np.frombuffer(sha.digest(), np.uint8).astype(np.float32)])


LOOK = Look()
"""The one that is in use; its recipe names the shelf of the store."""


@dataclass(frozen=True, eq=False)
class Looks:
    """What is known of the images of a data set, in its order.

    Attributes:
        contents: digest of each image's bytes, without the rules of decoding, so that data sets can be compared.
        rows: float32 (n, 1056), as :class:`Look` makes them.
    """

    contents: tuple[str, ...]
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.contents)

    @property
    def pictures(self) -> np.ndarray:
        """Small grey pictures, float32 (n, 32, 32), in 0..255."""
        return self.rows[:, :PICTURE].reshape(-1, SIDE, SIDE)

    @cached_property
    def pixels(self) -> tuple[bytes, ...]:
        """SHA-256 of each image's decoded pixels."""
        raw = self.rows[:, PICTURE:].astype(np.uint8)
        return tuple(row.tobytes() for row in raw)

    @cached_property
    def blank(self) -> np.ndarray:
        """Images that show nothing, bool (n,): one grey level in the small picture. That two of them are equal is no evidence of copying."""
        small = self.rows[:, :PICTURE]
        out: np.ndarray = small.max(1) - small.min(1) < 1.0
        return out
