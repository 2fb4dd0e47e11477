"""What the sources of measured values (DICOM, NIfTI, npz) share: values to grey levels between two ends, and digests of large files."""

from __future__ import annotations

import functools
import os

import numpy as np

from simkit.errors import DataError
from simkit.recipe import digest_file
from simkit.sources.base import text_of

__all__ = ["OUTSIDE", "SATURATED", "content_digest", "levels_between"]

SATURATED = 0.01
"""Share of pixels beyond the ends of a window above which it is said."""

OUTSIDE = f"more than {SATURATED:.0%} of its pixels lie outside the window: black or white"
NAN = "NaN pixels: black"
FLAT = "all pixels between its percentiles are equal: black"


def levels_between(values: np.ndarray, low: float, high: float) -> tuple[np.ndarray, tuple[str, ...]]:
    """(v - low) * 255 / (high - low), rounded half up, as uint8; the ends are cut to 0 and 255, NaN is 0. And what was done, in words."""
    values = values.astype(np.float64)
    missing = np.isnan(values)
    remarks = [NAN] if missing.any() else []
    if high <= low:
        return np.zeros(values.shape, np.uint8), (*remarks, FLAT)
    if float(np.mean((values < low) | (values > high))) > SATURATED:
        remarks.append(OUTSIDE)
    scaled = np.floor(np.clip((np.where(missing, low, values) - low) * 255 / (high - low), 0, 255) + 0.5)
    return scaled.astype(np.uint8), tuple(remarks)


def content_digest(path: str) -> str:
    """SHA-256 of a file's bytes. A file of many images is read once, as long as neither its size nor its time changes.

    Raises:
        DataError: SK206, it cannot be read.
    """
    try:
        status = os.stat(path)
        return _digest(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise DataError("SK206", text_of(path), f"cannot be read ({error.strerror})", "check that the file exists and that you may read it") from error


@functools.lru_cache(maxsize=16)
def _digest(path: str, size: int, changed: int) -> str:
    return digest_file(path)
