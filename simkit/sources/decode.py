"""Image files to 8-bit arrays by declared rules: nothing is saturated, rotated, truncated or composited without being asked for or said.

The content decides what a file is, never its extension. What has one right conversion to 8 bit is converted; what has none (16-bit, signed,
float) is refused until a rule is declared, because the usual guess (clipping) turns a 16-bit X-ray into 11 grey levels. What was
done to an image is said in remarks. No global setting of Pillow is changed.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import stat
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar

import numpy as np

from simkit.errors import DataError, SimkitError, UsageError
from simkit.registry import option
from simkit.sources.base import text_of
from simkit.sources.colours import colours, orientation_of, upright
from simkit.sources.formats import EXTENSIONS, FORMATS, OPENABLE, looks_like
from simkit.sources.intensity import deep_values, reduced, samples_of

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["EXTENSIONS", "FORMATS", "Decoding", "decode", "decode_bytes", "decode_remarked", "deep_samples", "looks_like", "unreadable"]

MODULES = {"BMP": "Bmp", "GIF": "Gif", "JPEG": "Jpeg", "PNG": "Png", "PPM": "Ppm", "TIFF": "Tiff", "WEBP": "WebP"}
"""Where Pillow keeps the decoder of each format."""

Remarked = tuple[np.ndarray, tuple[str, ...]]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """The declared rules that turn a file into 8 bit. They are part of every image's digest: other rules, other data set.

    Attributes:
        intensity: how samples that are not 8-bit become 8-bit. "refuse": not at all. "full-range": v * 255 / (2^bits - 1), rounded; for 16 bit
            that is a division by 257, for PGM files by the white that the file declares. (Pillow hands out only the upper 8 bits of
            16-bit colour, so there it is v // 256.)
            "12-bit": v * 255 / 4095 for 12-bit values in a 16-bit file, the usual case of CT and X-ray; a larger value is an error.
            "window": (v - low) * 255 / (high - low), rounded; what lies outside becomes 0 or 255. "percentile": the window from the
            lower to the upper percentile of all such pixels of the whole data set, computed exactly when the first image is read.
            "image-percentile": each image its own percentiles (levels of different images then mean different values). The last three
            are also for signed, 32-bit and float values. Images of 8 bit stay as they are. The rule is said in a remark.
        window: low and high of "window", in the units of the file.
        percentiles: lower and upper, in percent of the pixels; each is a value that occurs.
        frames: of animated and multi-page files, the "first" or the "middle" one (the earlier of two middles) is read, or "refuse" them.
        background: grey level, or red, green, blue (0..255) that transparent pixels are composited on.
        max_pixels: images with more pixels are not decoded (decompression bombs, slides).
    """

    intensity: Literal["refuse", "full-range", "12-bit", "window", "percentile", "image-percentile"] = option(
        "refuse", "how samples that are not 8-bit become 8-bit; refused until declared")
    window: tuple[float, ...] = option((), 'low and high value that become 0 and 255, for intensity = "window"')
    percentiles: tuple[float, ...] = option((0.5, 99.5), "lower and upper percentile, for the intensities that are named so", minimum=0, maximum=100)
    frames: Literal["first", "middle", "refuse"] = option("first", "what to read of animated and multi-page files")
    background: tuple[int, ...] = option((0, 0, 0), "colour under transparent pixels: one grey level, or red, green, blue", minimum=0, maximum=255)
    max_pixels: int = option(89_478_485, "images with more pixels are not decoded", minimum=1, recipe=False)

    def __post_init__(self) -> None:
        if len(self.background) not in (1, 3):
            raise UsageError("SK102", "background", f"{len(self.background)} values, expected 1 or 3", "give one grey level, or red, green, blue (0..255)")
        if (self.intensity == "window") != bool(self.window):
            given = f"window = {list(self.window)} beside intensity = '{self.intensity}'" if self.window else "intensity = 'window' without the window"
            raise UsageError("SK102", "window", given, 'give both: intensity = "window" and window = [low, high]')
        named = "percentile" in self.intensity
        if not named and tuple(self.percentiles) != Decoding.percentiles:
            fix = 'give intensity = "percentile" or "image-percentile" with them'
            raise UsageError("SK102", "percentiles", f"given beside intensity = '{self.intensity}', which has none", fix)
        for name, pair in (("window", self.window), ("percentiles", self.percentiles)):
            if pair and (len(pair) != 2 or pair[0] >= pair[1]):
                raise UsageError("SK102", name, f"{list(pair)}, expected two values, the lower first", f"give {name} = [low, high]")

    @property
    def rules(self) -> Decoding:
        """These rules alone, without the other options of a source that inherits them."""
        return Decoding(**{f.name: getattr(self, f.name) for f in fields(Decoding)})


def decode(path: str | os.PathLike[str], rules: Decoding | None = None) -> np.ndarray:
    """An image file as uint8 (height, width, channels): 1 channel for grey and 1-bit images, 3 for all others.

    EXIF orientation is applied, palettes are resolved, transparency is composited on the declared background (also that of palettes and
    of single transparent colours), CMYK becomes sRGB by the colour profile in the file (by the plain formula where there is none), YCbCr
    becomes RGB. Profiles of RGB and grey images are not used. Of multi-picture JPEG files (many cameras write them) the
    representative image is read, as every viewer does.

    Raises:
        DataError: SK206 when the file cannot be read (saying what its bytes look like), SK207 when no declared rule covers it.
        UsageError: when Pillow was told elsewhere in this process to fill truncated images with grey.
    """
    return decode_remarked(path, rules)[0]


def decode_bytes(data: bytes, where: str, rules: Decoding | None = None) -> np.ndarray:
    """An image file that is in memory, by the same rules as :func:`decode`.

    Args:
        data: the file's bytes.
        where: what messages call it.
        rules: how it becomes 8 bit.
    """
    return decode_remarked(data, rules, where=where)[0]


def decode_remarked(source: str | os.PathLike[str] | bytes, rules: Decoding | None = None, *, where: str = "") -> Remarked:
    """An image as :func:`decode` gives it, and what was done to it beyond reading: short phrases, equal for equal treatment.

    Args:
        source: path of a file, or a file's bytes.
        rules: how it becomes 8 bit.
        where: what messages call it; by default the path.
    """
    rules = rules or Decoding()
    return _opened(source, rules, where, lambda image, head, name: _array(image, head, rules, name))


def deep_samples(source: str | os.PathLike[str] | bytes, rules: Decoding, *, where: str = "") -> np.ndarray | None:
    """The values of an image to which a rule of ``intensity`` applies, as they stand in the file; None for any other image."""

    def values(image: Image.Image, head: bytes, name: str) -> np.ndarray | None:
        bits, kind = samples_of(image, head)
        return deep_values(image, bits, kind) if (bits > 8 or kind != "unsigned") and "transparency" not in image.info else None

    return _opened(source, rules, where, values)


def _opened(source: str | os.PathLike[str] | bytes, rules: Decoding, where: str, use: Callable[[Image.Image, bytes, str], T]) -> T:
    """What ``use`` makes of the loaded image, the first bytes of the file and its name in messages; every failure names the file."""
    from PIL import Image, ImageFile

    where = where or ("bytes in memory" if isinstance(source, bytes) else text_of(source))
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        fix = "set PIL.ImageFile.LOAD_TRUNCATED_IMAGES = False before simkit reads images"
        raise UsageError("SK102", "PIL.ImageFile.LOAD_TRUNCATED_IMAGES", "this process lets Pillow fill truncated images with grey, silently", fix)
    head, size = b"", 0
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else _regular(source, where) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(512)
            with _image(file, head, size, where) as image:
                _check_pixels(image.size[0] * image.size[1], rules, where)
                _choose_frame(image, rules, where)
                return use(image, head, where)
    except (SimkitError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        found = re.search(r"\((\d+) pixels\)", str(error))
        raise _too_large(int(found[1]) if found else None, rules, where) from error
    except OSError as error:
        if error.errno is not None:
            raise unreadable(where, error) from error
        raise _damaged(error, head, size, where) from error
    except Exception as error:  # a decoder can fail in any way on damaged bytes; whatever it is, the file must be named
        raise _damaged(error, head, size, where) from error


def _image(file: BinaryIO, head: bytes, size: int, where: str) -> Image.Image:
    """The image in the file, not yet decoded. Pillow's own ``open`` has one limit of pixels for the process, so it is not used."""
    from PIL import Image

    for name in FORMATS:
        importlib.import_module(f"PIL.{MODULES[name]}ImagePlugin")
        factory, accept = Image.OPEN[name]
        if accept is None or accept(head[:16]) is True:
            file.seek(0)
            try:
                return factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error):  # how Pillow says that it is none of this format
                continue
    found = looks_like(head, size)
    why = f"is not an image that simkit reads: it looks like {found}"
    if found in OPENABLE:
        why = f"cannot be opened: it looks like {found}, damaged or of a rare kind ({size} bytes)"
    raise DataError("SK206", where, why, f"replace or remove the file; formats read: {', '.join(FORMATS)}")


def _regular(path: str | os.PathLike[str], where: str) -> BinaryIO:
    """The file, open for reading. A FIFO, socket or device is never opened: reading one may block for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise DataError("SK206", where, "is not a regular file", "replace or remove it")
    return open(path, "rb")


def unreadable(path: str | os.PathLike[str], error: OSError) -> DataError:
    """The error for a file that the system does not hand out."""
    return DataError("SK206", text_of(path), f"cannot be read ({error.strerror})", "check that the file exists and that you may read it")


def _damaged(error: Exception, head: bytes, size: int, where: str) -> DataError:
    message = f"cannot be decoded: {str(error) or type(error).__name__} (it looks like {looks_like(head, size)}, {size} bytes)"
    return DataError("SK206", where, message, "replace or remove the file: it is damaged or was not copied completely")


def _too_large(pixels: int | None, rules: Decoding, where: str) -> DataError:
    count = "too many" if pixels is None else f"{pixels:,}"
    message = f"has {count} pixels, the limit is {rules.max_pixels:,} (a decompression bomb, or a slide)"
    raised = f"max_pixels = {pixels}" if pixels else "a higher max_pixels"
    return DataError("SK206", where, message, f"cut it into tiles or shrink it; if you trust the file, declare {raised} for this run")


def _check_pixels(pixels: int, rules: Decoding, where: str) -> None:
    if pixels > rules.max_pixels:
        raise _too_large(pixels, rules, where)


def _several(image: Image.Image) -> int:
    """Number of frames or pages where there are several, else 0."""
    frames = getattr(image, "n_frames", 1)
    return 0 if image.format == "MPO" or frames <= 1 else frames


def _choose_frame(image: Image.Image, rules: Decoding, where: str) -> None:
    """The frame that is wanted, loaded."""
    frames = _several(image)
    if frames and rules.frames == "refuse":
        what = "pages" if image.format == "TIFF" else "frames"
        fix = f'declare frames = "first" or "middle" to read one of the {what}, or split the file'
        raise DataError("SK207", where, f"holds {frames} {what}: which one is the image is not known", fix)
    if frames:
        image.seek((frames - 1) // 2 if rules.frames == "middle" else 0)
        _check_pixels(image.size[0] * image.size[1], rules, where)  # pages differ in size
    image.info["simkit_turned"] = image.format == "TIFF" and orientation_of(image) > 1  # Pillow turns these on loading
    if not _plain_jpeg(image):
        image.load()


def _plain_jpeg(image: Image.Image) -> bool:
    """Whether the image is a JPEG file of one picture, grey or in colour, and torchvision has been imported by this process.

    Its decoder has the same libjpeg-turbo as Pillow's, gives the same bytes, refuses what is truncated, and is 1.7 times as fast.
    """
    return image.format == "JPEG" and image.mode in ("RGB", "L") and "torchvision.io" in sys.modules


def _jpeg(image: Image.Image) -> np.ndarray | None:
    """The pixels by torchvision's decoder; None where it fails: then Pillow says what is wrong."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    file: Any = image.fp  # type: ignore[attr-defined]
    file.seek(0)
    mode = ImageReadMode.RGB if image.mode == "RGB" else ImageReadMode.GRAY
    try:
        return np.ascontiguousarray(decode_jpeg(torch.frombuffer(bytearray(file.read()), dtype=torch.uint8), mode=mode).numpy().transpose(1, 2, 0))
    except RuntimeError:
        file.seek(0)
        return None


def _array(image: Image.Image, head: bytes, rules: Decoding, where: str) -> Remarked:
    bits, kind = samples_of(image, head)
    planes = image.format == "TIFF" and image.tag_v2.get(284) == 2  # type: ignore[attr-defined]  # Pillow 13 reads such files wrongly when uncompressed
    upper = bits == 16 and kind == "unsigned" and rules.intensity == "full-range" and not planes and not image.mode.startswith("I")
    if (bits > 8 or kind != "unsigned") and not upper:
        out, said = reduced(image, bits, kind, rules, where)
    else:
        fast = _jpeg(image) if _plain_jpeg(image) else None
        out, said = (fast, ()) if fast is not None else colours(image, rules.background, where)
        said = ("16-bit colour by its upper 8 bits", *said) if upper else said
    if image.format == "TIFF" and 0 in image.tag_v2.get(338, ()):  # type: ignore[attr-defined]
        said = (*said, "extra channels of no stated meaning left out")
    if image.format == "MPO":
        said = ("representative picture of several", *said)
    elif _several(image):
        said = (f"{rules.frames} of several {'pages' if image.format == 'TIFF' else 'frames'}", *said)
    orientation = orientation_of(image)
    if orientation > 1 or image.info["simkit_turned"]:
        said = (*said, "EXIF orientation applied")
    return np.ascontiguousarray(upright(out, orientation)), said
