"""More than 8 bits per sample to 8 bit, by a declared rule; and the one window of a whole data set, from the exact distribution of its values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from simkit.errors import DataError, UsageError

if TYPE_CHECKING:
    from PIL import Image

    from simkit.sources.decode import Decoding

__all__ = ["Kind", "deep_values", "percentiles_of", "reduced", "samples_of"]

Kind = Literal["unsigned", "signed", "float"]

SATURATED = 0.01
"""Share of pixels beyond the ends of a window above which it is said."""

RULES = 'declare intensity = "window" with window = [low, high], "percentile" (one window for the data set) or "image-percentile" (each image its own)'
RULES_OF_16_BIT = '"full-range" if the whole range is used, or "12-bit" for values up to 4095'

CHUNK = 2**22
"""Pixels whose keys are made at a time, so that an image costs no multiple of itself."""


def samples_of(image: Image.Image, head: bytes) -> tuple[int, Kind]:
    """Bits per sample and kind of number, as the file itself declares them: Pillow reduces some files to 8 bit silently."""
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        formats, depths = tags.get(339, (1,)), tags.get(258, (1,))
        return max(depths), "float" if 3 in formats else "signed" if 2 in formats else "unsigned"
    if image.format == "PNG":
        return head[24], "unsigned"
    if image.format == "PPM" and head[:2] in (b"P2", b"P3", b"P5", b"P6"):
        image.info["simkit_white"] = white = int(_ppm_fields(head)[3])
        return (16 if white > 255 else 8), "unsigned"
    if image.mode == "F":
        return 32, "float"
    return (32, "signed") if image.mode == "I" else (16 if image.mode.startswith("I;16") else 8, "unsigned")


def _ppm_fields(head: bytes) -> list[bytes]:
    return b"".join(line.split(b"#")[0] + b"\n" for line in head.split(b"\n")).split()


def deep_values(image: Image.Image, bits: int, kind: Kind) -> np.ndarray | None:
    """The values of a grey image as they stand in the file (height, width); None where Pillow does not hand them out (16-bit colour)."""
    values = np.asarray(image)
    if image.mode == "F":
        return values
    white = image.info.get("simkit_white", 65535)
    if white < 65535 and image.mode == "I":  # Pillow scales PGM files of any depth to 16 bit: back to what stands in the file
        stored: np.ndarray = (2 * values.astype(np.int64) * white + 65535) // (2 * 65535)
        return stored
    if image.mode == "L" and kind == "signed":
        return values.view(np.int8)  # Pillow hands out the bytes
    if image.mode == "I" and kind == "unsigned" and bits == 32:
        return values.view(np.uint32)
    if not image.mode.startswith("I"):
        return None
    return values.astype(np.int16) if kind == "signed" and bits <= 16 else values


def reduced(image: Image.Image, bits: int, kind: Kind, rules: Decoding, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """An image of more than 8 bits, or of signed or float values, as uint8 (height, width, 1) by the declared rule, and what was done.

    16-bit colour is not handled here: see :func:`deep_values`.

    Raises:
        DataError: SK207, no rule is declared, or it does not cover the image.
    """
    values = deep_values(image, bits, kind)
    tags = image.tag_v2 if image.format == "TIFF" else {}  # type: ignore[attr-defined]
    _check_covered(values, bits, kind, rules, "transparency" in image.info, tags.get(284) == 2, where)
    assert values is not None
    remarks: tuple[str, ...] = ()
    if rules.intensity in ("full-range", "12-bit"):
        full = 4095 if rules.intensity == "12-bit" else image.info.get("simkit_white", 2**bits - 1)
        out = _by_range(values, full, rules.intensity, where)
        if rules.intensity == "full-range" and full > 255 and values.max() <= full // 16:
            remarks = ("no value above 1/16 of the full range: 17 grey levels at most",)
    else:
        out, remarks = _by_window(values, rules, where)
    said = (f"{bits}-bit {kind} values by intensity = '{rules.intensity}'", *remarks)
    if tags.get(262) == 0:
        return (255 - out)[:, :, None], (*said, "white at the value 0: inverted")
    return out[:, :, None], said


def _check_covered(values: np.ndarray | None, bits: int, kind: Kind, rules: Decoding, keyed: bool, planes: bool, where: str) -> None:
    """DataError where no rule is declared, or the one that is cannot be applied."""
    plain = kind == "unsigned" and bits <= 16
    if values is not None and kind == "float" and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise DataError("SK207", where, f"holds {count} values that are NaN or infinite: no grey level stands for them", "replace them in the file")
    if rules.intensity == "refuse":
        span = "" if values is None else f" (values from {values.min().item()!r} to {values.max().item()!r})"
        if not plain:
            raise DataError("SK207", where, f"holds {bits}-bit {kind} values{span}: how they become 8 bit is not declared", RULES)
        fix = f"declare intensity = {RULES_OF_16_BIT}" + ("" if values is None else f"; or {RULES}")
        raise DataError("SK207", where, f"has {bits} bits per sample{span}: how they become 8 bit is not declared", fix)
    if rules.intensity in ("full-range", "12-bit") and not plain:
        raise DataError("SK207", where, f"holds {bits}-bit {kind} values, which intensity = '{rules.intensity}' does not cover", RULES)
    if values is None or keyed:
        special = "a transparent grey level" if values is not None else "colour in planes" if planes else "colour"
        fix = "convert the data set to 16-bit grey PNG" if values is not None else "convert the data set to 8 bit by one rule"
        raise DataError("SK207", where, f"has {bits} bits per sample with {special}, which intensity = '{rules.intensity}' does not cover", fix)


def _by_range(values: np.ndarray, full: int, intensity: str, where: str) -> np.ndarray:
    """v * 255 / full, rounded."""
    values = values.astype(np.int64)
    if values.max() > full:
        fix = f'declare intensity = "full-range", leave the file out, or {RULES}'
        raise DataError("SK207", where, f"holds the value {values.max()}, above the {full} of intensity = '{intensity}'", fix)
    scaled: np.ndarray = (2 * 255 * values + full) // (2 * full)
    return scaled.astype(np.uint8)


def _by_window(values: np.ndarray, rules: Decoding, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """(v - low) * 255 / (high - low), rounded, ends cut to 0 and 255."""
    if rules.intensity == "percentile":
        message = "intensity = 'percentile' needs all images of the data set, and this source hands out one by one"
        raise UsageError("SK108", where, message, 'declare intensity = "image-percentile", or "window" with window = [low, high]')
    own = rules.intensity == "image-percentile"
    low, high = _own_window(values, rules.percentiles) if own else rules.window
    if high <= low:
        return np.zeros(values.shape, np.uint8), ("all pixels between its percentiles are equal: black",)
    beyond = float(np.mean((values < low) | (values > high)))
    scaled = np.floor((values.astype(np.float64) - low) * (255 / (high - low)) + 0.5)
    remarks = (f"more than {SATURATED:.0%} of its pixels lie outside the window: black or white",) if beyond > SATURATED else ()
    return np.clip(scaled, 0, 255).astype(np.uint8), remarks


def _own_window(values: np.ndarray, percentiles: tuple[float, ...]) -> tuple[float, float]:
    low, high = np.percentile(values, percentiles, method="inverted_cdf")
    return float(low), float(high)


def percentiles_of(images: Callable[[], Iterator[np.ndarray]], percentiles: tuple[float, ...]) -> tuple[float, float] | None:
    """Two percentiles of all values of all images together, exactly, in memory that does not grow with their number.

    A percentile p is the smallest value that at least p % of the values do not exceed: a value that occurs. The values are ordered as
    64-bit keys and counted by their upper 16 bits; then, only within the bin that holds the percentile, by the next 16 bits, and so on: four
    rounds at most, and one for whole numbers that fit into 16 bits.

    Args:
        images: gives all images once more with every call.
        percentiles: lower and upper, 0..100.

    Returns:
        The two values; None when there is no image.
    """
    counts, whole = np.zeros(2**15 + 2**16, np.int64), True
    for values in images():
        whole = values.dtype.kind in "iu" and values.min() >= -(2**15) and values.max() < 2**16
        if not whole:
            break
        counts += np.bincount((values.astype(np.int64) + 2**15).ravel(), minlength=len(counts))
    if whole:
        if not counts.sum():
            return None
        below = np.cumsum(counts)
        low, high = (float(np.searchsorted(below, _rank(p, int(below[-1]))) - 2**15) for p in percentiles)
        return low, high
    low, high = (_selected(images, p) for p in percentiles)
    return low, high


def _rank(percentile: float, count: int) -> int:
    """How many of ``count`` values, at least, a percentile must not be smaller than."""
    return max(1, int(np.ceil(percentile / 100 * count)))


def _selected(images: Callable[[], Iterator[np.ndarray]], percentile: float) -> float:
    """One percentile, 16 bits of its key a round."""
    prefix, rank = 0, 0
    for shift in (48, 32, 16, 0):
        counts = np.zeros(2**16, np.int64)
        for values in images():
            for start in range(0, values.size, CHUNK):
                keys = _keys(values.ravel()[start : start + CHUNK])
                within = keys if shift == 48 else keys[keys >> np.uint64(shift + 16) == np.uint64(prefix)]
                counts += np.bincount((within >> np.uint64(shift) & np.uint64(0xFFFF)).astype(np.int64), minlength=2**16)
        below = np.cumsum(counts)
        rank = rank or _rank(percentile, int(below[-1]))
        place = int(np.searchsorted(below, rank))
        rank -= int(below[place - 1]) if place else 0
        prefix = prefix << 16 | place
    return _value(prefix)


def _keys(values: np.ndarray) -> np.ndarray:
    """Unsigned 64-bit numbers in the order of the values."""
    bits = (values.astype(np.float64) + 0.0).view(np.uint64)  # + 0.0: -0 and 0 are one value
    top = np.uint64(2**63)
    return np.where(bits & top, ~bits, bits | top)


def _value(key: int) -> float:
    bits = key ^ 2**63 if key & 2**63 else ~key & (2**64 - 1)
    return float(np.uint64(bits).view(np.float64))
