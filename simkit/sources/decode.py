"""Image files to 8-bit arrays by declared rules: nothing is saturated, rotated, truncated or composited without being asked for.

The content decides what a file is, never its extension. What has one right conversion to 8 bit is converted; what has none (16-bit,
float, several frames) is refused until a rule is declared, because the usual guess (clipping) turns a 16-bit X-ray into 11 grey levels.
No global setting of Pillow is changed.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np

from simkit.errors import DataError, SimkitError, UsageError
from simkit.recipe import canonical, digest_bytes, digest_file
from simkit.registry import option
from simkit.sources.base import text_of

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["EXTENSIONS", "FORMATS", "Decoding", "FileReader", "decode", "decode_bytes", "looks_like"]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are read, by Pillow's names. Pillow tries only these, so no other decoder ever sees the bytes."""

EXTENSIONS = frozenset({".apng", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"})
"""Usual extensions of these formats, lower case: what a folder is searched for first."""

MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "a JPEG file"), (b"\x89PNG\r\n\x1a\n", "a PNG file"), (b"GIF8", "a GIF file"), (b"BM", "a BMP file"),
    (b"II*\0", "a TIFF file"), (b"MM\0*", "a TIFF file"), (b"II+\0", "a BigTIFF file"), (b"MM\0+", "a BigTIFF file"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 file"), (b"\xff\x4f\xff\x51", "a JPEG 2000 file"), (b"%PDF", "a PDF file"),
    (b"PK\x03\x04", "a zip archive"), (b"\x1f\x8b", "a gzip file"), (b"\x93NUMPY", "a NumPy array"), (b"\x89HDF", "an HDF5 file"),
    (b"version https://git-lfs", "a Git LFS pointer (the file itself was not fetched)"), (b"8BPS", "a Photoshop file"),
)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """The declared rules that turn a file into 8 bit. They are part of every image's digest: other rules, other data set.

    Attributes:
        intensity: how more than 8 bits per sample become 8. "refuse": not at all. "full-range": v * 255 / (2^bits - 1), rounded; for 16 bit
            that is a division by 257. (Pillow hands out only the upper 8 bits of 16-bit colour, so there it is v // 256.)
            "12-bit": v * 255 / 4095 for 12-bit values in a 16-bit file, the usual case of CT and X-ray; a larger value is an error.
        frames: "refuse" files that hold several frames or pages, or read the "first".
        background: grey level, or red, green, blue (0..255) that transparent pixels are composited on.
    """

    intensity: Literal["refuse", "full-range", "12-bit"] = option("refuse", "how more than 8 bits per sample become 8; refused until declared")
    frames: Literal["refuse", "first"] = option("refuse", "what to read of animated and multi-page files; refused until declared")
    background: tuple[int, ...] = option((0, 0, 0), "colour under transparent pixels: one grey level, or red, green, blue", minimum=0, maximum=255)

    def __post_init__(self) -> None:
        if len(self.background) not in (1, 3):
            raise UsageError("SK102", "background", f"{len(self.background)} values, expected 1 or 3", "give one grey level, or red, green, blue (0..255)")

    @property
    def rules(self) -> Decoding:
        """These rules alone, without the other options of a source that inherits them."""
        return Decoding(**{f.name: getattr(self, f.name) for f in fields(Decoding)})


@dataclass(frozen=True, eq=False)
class FileReader:
    """Images that lie in files (an ImageReader).

    Attributes:
        paths: one file per image, absolute or relative to the working directory.
        rules: how they become 8 bit.
    """

    paths: tuple[str, ...]
    rules: Decoding

    def read(self, index: int) -> np.ndarray:
        """Image as uint8 (height, width, 1 or 3); see :func:`decode`."""
        return decode(self.paths[index], self.rules)

    def digest(self, index: int) -> str:
        """SHA-256 over the file's bytes and the declared rules. Where the file lies does not matter."""
        path = self.paths[index]
        try:
            return digest_bytes(digest_file(path).encode(), canonical(self.rules).encode())
        except OSError as error:
            raise _unreadable(path, error) from error


def decode(path: str | os.PathLike[str], rules: Decoding | None = None) -> np.ndarray:
    """An image file as uint8 (height, width, channels): 1 channel for grey and 1-bit images, 3 for all others.

    EXIF orientation is applied, palettes are resolved, transparency is composited on the declared background (also that of palettes and
    of single transparent colours), CMYK and YCbCr become RGB (without colour profiles). Of multi-picture JPEG files (many
    cameras write them) the representative image is read, as every viewer does.

    Raises:
        DataError: SK206 when the file cannot be read (saying what its bytes look like), SK207 when no declared rule covers it.
        UsageError: when Pillow was told elsewhere in this process to fill truncated images with grey.
    """
    return _decoded(lambda: _regular(path), text_of(path), rules or Decoding())


def decode_bytes(data: bytes, where: str, rules: Decoding | None = None) -> np.ndarray:
    """An image file that is in memory, by the same rules as :func:`decode`.

    Args:
        data: the file's bytes.
        where: what messages call it.
        rules: how it becomes 8 bit.
    """
    return _decoded(lambda: io.BytesIO(data), where, rules or Decoding())


def _decoded(opened: Callable[[], BinaryIO], where: str, rules: Decoding) -> np.ndarray:
    from PIL import Image, ImageFile, UnidentifiedImageError

    if ImageFile.LOAD_TRUNCATED_IMAGES:
        fix = "set PIL.ImageFile.LOAD_TRUNCATED_IMAGES = False before simkit reads images"
        raise UsageError("SK102", "PIL.ImageFile.LOAD_TRUNCATED_IMAGES", "this process lets Pillow fill truncated images with grey, silently", fix)
    head, size = b"", 0
    try:
        with opened() as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(512)
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                _check_pixels(image.size[0] * image.size[1], where)
                _check_frames(image, rules, where)
                image.load()
                return _array(image, head, rules, where)
    except (SimkitError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        found = re.search(r"\((\d+) pixels\)", str(error))
        raise _too_large(int(found[1]) if found else None, where) from error
    except UnidentifiedImageError as error:
        found_kind = looks_like(head, size)
        why = f"is not an image that simkit reads: it looks like {found_kind}"
        if found_kind in ("a JPEG file", "a PNG file", "a GIF file", "a BMP file", "a TIFF file", "a WebP file", "a BigTIFF file"):
            why = f"cannot be opened: it looks like {found_kind}, damaged or of a rare kind ({size} bytes)"
        raise DataError("SK206", where, why, f"replace or remove the file; formats read: {', '.join(FORMATS)}") from error
    except OSError as error:
        if error.errno is not None:
            raise _unreadable(where, error) from error
        raise _damaged(error, head, size, where) from error
    except Exception as error:  # a decoder can fail in any way on damaged bytes; whatever it is, the file must be named
        raise _damaged(error, head, size, where) from error


def _regular(path: str | os.PathLike[str]) -> BinaryIO:
    """The file, open for reading. A FIFO, socket or device is never opened: reading one may block for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise DataError("SK206", text_of(path), "is not a regular file", "replace or remove it")
    return open(path, "rb")


def _unreadable(path: str | os.PathLike[str], error: OSError) -> DataError:
    return DataError("SK206", text_of(path), f"cannot be read ({error.strerror})", "check that the file exists and that you may read it")


def _damaged(error: Exception, head: bytes, size: int, where: str) -> DataError:
    message = f"cannot be decoded: {str(error) or type(error).__name__} (it looks like {looks_like(head, size)}, {size} bytes)"
    return DataError("SK206", where, message, "replace or remove the file: it is damaged or was not copied completely")


def _too_large(pixels: int | None, where: str) -> DataError:
    from PIL import Image

    count = "too many" if pixels is None else f"{pixels:,}"
    message = f"has {count} pixels, the limit is {Image.MAX_IMAGE_PIXELS or 0:,} (a decompression bomb, or a slide)"
    fix = "cut it into tiles or shrink it; in Python, set PIL.Image.MAX_IMAGE_PIXELS higher if you trust the file"
    return DataError("SK206", where, message, fix)


def _check_pixels(pixels: int, where: str) -> None:
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        raise _too_large(pixels, where)


def _check_frames(image: Image.Image, rules: Decoding, where: str) -> None:
    frames = getattr(image, "n_frames", 1)
    if image.format == "MPO" or frames <= 1:
        return
    if rules.frames == "refuse":
        what = "pages" if image.format == "TIFF" else "frames"
        fix = f'declare frames = "first" to read the first of the {what}, or split the file'
        raise DataError("SK207", where, f"holds {frames} {what}: which one is the image is not known", fix)
    image.seek(0)


def looks_like(head: bytes, size: int) -> str:
    """What the first bytes of a file look like, in words: "a PNG file", "an HTML page", "text", "unknown bytes (0x00112233...)"."""
    if size == 0:
        return "an empty file (0 bytes)"
    if not head.strip(b"\0"):
        return "zeros only (not copied completely?)" if len(head) <= 132 or head[128:132] != b"DICM" else "a DICOM file"
    if head[128:132] == b"DICM":
        return "a DICOM file"
    if head[344:348] in (b"n+1\0", b"ni1\0"):
        return "a NIfTI volume"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "a WebP file"
    if head[4:8] == b"ftyp":
        return "an AVIF, HEIF or video file"
    for magic, words in MAGIC:
        if head.startswith(magic):
            return words
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page (an error page saved under the image's name?)"
    if start.startswith((b"<?xml", b"<svg")):
        return "an XML or SVG file"
    if re.match(rb"p[1-7]\s", head.lower()):
        return "a PPM file"
    if all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return f"text ({head[:24].decode('utf-8', 'backslashreplace')!r}...)"
    return f"unknown bytes (0x{head[:8].hex()}...)"


def _samples(image: Image.Image, head: bytes) -> tuple[int, Literal["unsigned", "signed", "float"]]:
    """Bits per sample and kind of number, as the file itself declares them: Pillow reduces some files to 8 bit silently."""
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        formats, depths = tags.get(339, (1,)), tags.get(258, (1,))
        kind: Literal["unsigned", "signed", "float"] = "float" if 3 in formats else "signed" if 2 in formats else "unsigned"
        return max(depths), kind
    if image.format == "PNG":
        return head[24], "unsigned"
    if image.format == "PPM" and head[:2] in (b"P2", b"P3", b"P5", b"P6"):
        fields_found = re.sub(rb"#[^\n]*", b"", head).split()
        return (16 if int(fields_found[3]) > 255 else 8), "unsigned"
    return {"F": (32, "float"), "I": (32, "signed")}.get(image.mode, (16 if image.mode.startswith("I;16") else 8, "unsigned"))  # type: ignore[return-value]


def _array(image: Image.Image, head: bytes, rules: Decoding, where: str) -> np.ndarray:
    bits, kind = _samples(image, head)
    if kind != "unsigned" or bits > 16 or image.mode == "F":
        fix = "convert the data set to 8-bit or 16-bit PNG by one window for all images"
        raise DataError("SK207", where, f"holds {bits}-bit {kind} values: their range has no single mapping to 0..255", fix)
    out = _reduced(image, bits, rules, where) if bits > 8 else _colours(image, rules, where)
    return np.ascontiguousarray(_upright(out, _orientation(image)))


def _reduced(image: Image.Image, bits: int, rules: Decoding, where: str) -> np.ndarray:
    """More than 8 bits per sample, by the declared rule."""
    grey = image.mode.startswith("I")
    values = np.asarray(image).astype(np.int64) if grey else None
    if rules.intensity == "refuse":
        span = "" if values is None else f" (values from {values.min()} to {values.max()})"
        fix = 'declare intensity = "full-range" if the whole range is used, or "12-bit" for values up to 4095'
        raise DataError("SK207", where, f"has {bits} bits per sample{span}: how they become 8 bit is not declared", fix)
    tags = image.tag_v2 if image.format == "TIFF" else {}  # type: ignore[attr-defined]
    planes = tags.get(284) == 2  # Pillow 13 reads such files wrongly when they are not compressed
    if values is None and rules.intensity == "full-range" and not planes:
        return _colours(image, rules, where)
    minimum_is_white = tags.get(262) == 0
    if values is None or "transparency" in image.info or minimum_is_white:
        colour = "colour in planes" if planes else "colour"
        special = "white at the value 0" if minimum_is_white else "a transparent grey level" if values is not None else colour
        fix = "convert the data set to 16-bit grey PNG" if values is not None else "convert the data set to 8 bit by one rule"
        raise DataError("SK207", where, f"has {bits} bits per sample with {special}, which intensity = {rules.intensity!r} does not cover", fix)
    # Pillow scales PGM files of any depth to 16 bit itself; other files hold their values as they are
    full = 4095 if rules.intensity == "12-bit" else 65535 if image.format == "PPM" else 2**bits - 1
    if values.max() > full:
        fix = 'declare intensity = "full-range", or leave the file out'
        raise DataError("SK207", where, f"holds the value {values.max()}, above the {full} of intensity = '12-bit'", fix)
    return ((2 * 255 * values + full) // (2 * full)).astype(np.uint8)[:, :, None]


def _colours(image: Image.Image, rules: Decoding, where: str) -> np.ndarray:
    """8-bit samples of any colour model as grey or RGB, transparency composited."""
    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        if image.mode in ("La", "RGBa"):  # premultiplied: Pillow converts only to the plain form of the same model
            image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
        return _composited(np.asarray(image.convert("LA" if grey else "RGBA")), rules.background)
    if grey:
        return np.asarray(image.convert("L"))[:, :, None]
    if image.mode in ("P", "RGB", "RGBX", "CMYK", "YCbCr"):
        return np.asarray(image.convert("RGB"))
    raise DataError("SK207", where, f"has the colour model {image.mode}, for which no conversion is declared", "convert the data set to RGB")


def _composited(image: np.ndarray, background: tuple[int, ...]) -> np.ndarray:
    """(alpha * image + (255 - alpha) * background) / 255, rounded; grey images stay grey on a grey background."""
    colour, alpha = image[:, :, :-1].astype(np.int64), image[:, :, -1:].astype(np.int64)
    under = np.array(background[:1] if len(set(background)) == 1 else background)
    blend: np.ndarray = (2 * (alpha * colour + (255 - alpha) * under) + 255) // 510
    return blend.astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8. Pillow has applied and removed it for TIFF. Metadata that cannot be read hold no orientation: 1."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # broken metadata fail in many ways and do not make the pixels wrong
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """The image as it was meant to be seen (EXIF 2.32, section 4.6.4 A, tag 274)."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image[:, ::-1] if orientation in (2, 3, 6, 7) else image
