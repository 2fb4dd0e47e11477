"""8-bit samples of any colour model as grey or RGB, composited and turned upright, with what was done in words."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from simkit.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["colours", "orientation_of", "upright"]


def colours(image: Image.Image, background: tuple[int, ...], where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """uint8 (height, width, 1 or 3): palettes resolved, transparency composited, CMYK converted; and what was done."""
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        if image.mode in ("La", "RGBa"):  # premultiplied: Pillow converts only to the plain form of the same model
            image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
        samples = np.asarray(image.convert("LA" if grey else "RGBA"))
        said = ("transparency composited on the background",) if samples[:, :, -1].min() < 255 else ()
        return _composited(samples, background), said
    if grey:
        return np.asarray(image if image.mode == "L" else image.convert("L"))[:, :, None], ()
    if image.mode == "CMYK":
        return _inks(image)
    if image.mode in ("P", "RGB", "RGBX", "YCbCr"):
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB")), ()
    raise DataError("SK207", where, f"has the colour model {image.mode}, for which no conversion is declared", "convert the data set to RGB")


def _inks(image: Image.Image) -> tuple[np.ndarray, tuple[str, ...]]:
    """CMYK to sRGB by the profile in the file (perceptual intent); without one as (1 - ink) * (1 - black)."""
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if not profile:
        return np.asarray(image.convert("RGB")), ("CMYK without a colour profile: converted by the plain formula",)
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        rgb = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), ImageCms.Intent.PERCEPTUAL, outputMode="RGB")
    except (OSError, ValueError, ImageCms.PyCMSError):
        return np.asarray(image.convert("RGB")), ("CMYK with a broken colour profile: converted by the plain formula",)
    assert rgb is not None
    return np.asarray(rgb), ("CMYK converted by its colour profile",)


def _composited(image: np.ndarray, background: tuple[int, ...]) -> np.ndarray:
    """(alpha * image + (255 - alpha) * background) / 255, rounded; grey images stay grey on a grey background."""
    colour, alpha = image[:, :, :-1].astype(np.int64), image[:, :, -1:].astype(np.int64)
    under = np.array(background[:1] if len(set(background)) == 1 else background)
    blend: np.ndarray = (2 * (alpha * colour + (255 - alpha) * under) + 255) // 510
    return blend.astype(np.uint8)


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation 1..8. Pillow applies and removes that of TIFF on loading. Metadata that cannot be read hold no orientation: 1."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # broken metadata fail in many ways and do not make the pixels wrong
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """The image as it was meant to be seen (EXIF 2.32, section 4.6.4 A, tag 274)."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image[:, ::-1] if orientation in (2, 3, 6, 7) else image
