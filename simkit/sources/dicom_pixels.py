"""DICOM files to 8-bit arrays by a declared window: the standard's grey path, nothing guessed, nothing saturated without being asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from simkit.errors import DataError, Problem, ResourceError, SimkitError, UsageError
from simkit.recipe import canonical, digest_bytes, digest_file
from simkit.registry import option
from simkit.sources.base import text_of
from simkit.sources.decode import looks_like

__all__ = ["DicomReader", "Window", "damaged", "decode_dicom", "header_of", "import_pydicom", "problem_of"]

LARGE = 4096
"""Larger values (the pixels) are not read with the header, in bytes."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """The declared rule that turns stored values into grey levels. Part of every image's digest: another rule, another data set.

    Attributes:
        window: "dicom" or "full-range"; see :class:`simkit.sources.dicom.Dicom`.
        center: of a window for all images, in the unit of the rescaled values; None: ``window`` holds.
        width: of that window.
    """

    window: Literal["dicom", "full-range"] = option("dicom", "dicom: the file's own first window, or its VOI table; full-range: of the stored bits")
    center: float | None = option(None, "centre of one window for all images, in rescaled values (CT: Hounsfield units); with width, instead of window")
    width: float | None = option(None, "width of one window for all images", minimum=1)

    def __post_init__(self) -> None:
        if (self.center is None) != (self.width is None):
            raise UsageError("SK104", "dicom", "center and width belong together, one of them is missing", "give both, or neither")
        if self.center is not None and self.window == "full-range":
            raise UsageError("SK102", "dicom", "center and width contradict window = 'full-range'", "give one of the two")

    @property
    def rules(self) -> Window:
        """These rules alone, without the other options of a source that inherits them."""
        return Window(window=self.window, center=self.center, width=self.width)


@dataclass(frozen=True, eq=False)
class DicomReader:
    """Images that lie in DICOM files (an ImageReader).

    Attributes:
        paths: one file per image.
        rules: how they become 8 bit.
    """

    paths: tuple[str, ...]
    rules: Window

    def read(self, index: int) -> np.ndarray:
        """Image as uint8 (height, width, 1 or 3); see :func:`decode_dicom`."""
        return decode_dicom(self.paths[index], self.rules)

    def digest(self, index: int) -> str:
        """SHA-256 over the file's bytes and the declared rules."""
        path = self.paths[index]
        try:
            return digest_bytes(digest_file(path).encode(), canonical(self.rules).encode())
        except OSError as error:
            raise DataError("SK206", text_of(path), f"cannot be read ({error.strerror})", "check that the file exists and that you may read it") from error


def decode_dicom(path: str | os.PathLike[str], rules: Window | None = None) -> np.ndarray:
    """A single-frame DICOM file as uint8 (height, width, channels): 1 channel for grey images, 3 for colour.

    Raises:
        DataError: SK206 when the file cannot be read, SK207 when the declared rule does not cover it.
    """
    rules, where = rules or Window(), text_of(path)
    header = header_of(path)
    try:
        problem = problem_of(header, where)
        if problem is not None:
            raise DataError("", "", "", problems=[problem])
        values = import_pydicom().pixels.pixel_array(header)
        kind = str(header.PhotometricInterpretation)
        if kind in ("MONOCHROME1", "MONOCHROME2"):
            levels = _grey(values, header, rules, where)
            return np.ascontiguousarray((255 - levels if kind == "MONOCHROME1" else levels)[:, :, None])
        return _colour(values, header, kind, where)
    except (SimkitError, MemoryError):
        raise
    except Exception as error:  # pydicom fails in many ways on damaged files; whatever it is, the file must be named
        raise damaged(error, where, _further_packages(header)) from error


def import_pydicom() -> Any:
    """The package pydicom.

    Raises:
        ResourceError: it is not installed.
    """
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise ResourceError("SK303", "dicom", f"the package pydicom cannot be imported ({error})", "pip install 'simkit[dicom]'") from error
    return pydicom


def damaged(error: Exception, where: str, packages: str = "") -> DataError:
    """The error for a file on which pydicom failed; ``packages`` may do better."""
    text = " ".join(str(error).split())[:240] or type(error).__name__
    other = f"; packages that may read it: {packages}" if packages else ""
    return DataError("SK206", where, f"cannot be decoded: {text}{other}", "replace or remove the file: it is damaged or was not copied completely")


def _further_packages(header: Any) -> str:
    """For a compressed file: packages that are not installed and decode its kind, as pydicom names them."""
    try:
        decoder = import_pydicom().pixels.get_decoder(header.file_meta.TransferSyntaxUID)
    except (NotImplementedError, AttributeError):
        return ""
    return "; ".join(decoder.missing_dependencies) if decoder.is_encapsulated else ""


def header_of(path: str | os.PathLike[str], tags: Sequence[str] | None = None) -> Any:
    """A pydicom Dataset. With ``tags``, only these, and large values (the pixels) are left in the file.

    Raises:
        DataError: SK206 when the file is missing, damaged, or no DICOM file (saying what its bytes look like).
    """
    pydicom, where = import_pydicom(), text_of(path)
    try:
        return pydicom.dcmread(path, specific_tags=list(tags), defer_size=LARGE) if tags is not None else pydicom.dcmread(path)
    except pydicom.errors.InvalidDicomError as error:
        with open(path, "rb") as file:
            head = file.read(512)
        raise DataError("SK206", where, f"is not a DICOM file: it looks like {looks_like(head, os.path.getsize(path))}", "replace or remove it") from error
    except OSError as error:
        raise DataError("SK206", where, f"cannot be read ({error.strerror or error})", "check that the file exists and that you may read it") from error
    except Exception as error:  # see decode_dicom
        raise damaged(error, where) from error


def problem_of(header: Any, where: str) -> Problem | None:
    """Why a file with this header is no image that simkit reads."""
    if "PixelData" not in header:
        floats = [name for name in ("FloatPixelData", "DoubleFloatPixelData") if name in header]
        if floats:
            return Problem("SK207", where, f"holds floating-point values ({floats[0]}): their range has no single mapping to 0..255", "leave the file out")
        return Problem("SK206", where, "holds no pixels (no PixelData): a report, a structure set or an index", "leave the file out")
    frames = int(header.get("NumberOfFrames") or 1)
    if frames > 1:
        return Problem("SK207", where, f"holds {frames} frames: which one is the image is not known", "split it into single frames")
    return _compression(header, where)


def _compression(header: Any, where: str) -> Problem | None:
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        return Problem("SK206", where, "does not say how its pixels are stored (no transfer syntax)", "get the file again, or leave it out")
    try:
        decoder = import_pydicom().pixels.get_decoder(syntax)
    except NotImplementedError:
        return Problem("SK206", where, f"is stored as {syntax.name}, which pydicom does not read", "convert the file to an uncompressed one")
    if decoder.is_available:
        return None
    packages = "; ".join(decoder.missing_dependencies) or "none is known"
    return Problem("SK206", where, f"is compressed as {syntax.name}; packages that read it: {packages}", "pip install one of them")


def _grey(values: np.ndarray, header: Any, rules: Window, where: str) -> np.ndarray:
    """Stored values (height, width) as grey levels 0..255, before inversion."""
    pixels = import_pydicom().pixels
    rescaled = np.asarray(pixels.apply_modality_lut(values, header), dtype=np.float64)
    if rules.center is not None and rules.width is not None:
        return _windowed(rescaled, rules.center, rules.width, "LINEAR", where)
    if rules.window == "full-range":
        return _full_range(rescaled, header)
    center, width = _first(header, "WindowCenter"), _first(header, "WindowWidth")
    if center is not None and width is not None:
        return _windowed(rescaled, center, width, str(header.get("VOILUTFunction") or "LINEAR").upper(), where)
    if header.get("VOILUTSequence"):
        table = pixels.apply_voi(np.rint(rescaled).astype(np.int64), header)
        return _levels(table * (255 / (2 ** int(header.VOILUTSequence[0].LUTDescriptor[2]) - 1)))
    if values.dtype == np.uint8 and int(header.BitsStored) == 8 and np.array_equal(values, rescaled):
        return values  # ultrasound and scans: what is stored are the grey levels
    fix = 'give center and width, or declare window = "full-range"'
    raise DataError("SK207", where, f"has no window (values from {rescaled.min():g} to {rescaled.max():g}): how they become 8 bit is not declared", fix)


def _first(header: Any, entry: str) -> float | None:
    """The first value of an entry that may have several; None where it is missing or empty."""
    value = header.get(entry)
    values = [value] if value is None or isinstance(value, (int, float, str)) else list(value)
    return float(values[0]) if values and values[0] not in (None, "") else None


def _windowed(values: np.ndarray, center: float, width: float, function: str, where: str) -> np.ndarray:
    """DICOM PS3.3, C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID) and C.11.2.1.3.2 (LINEAR_EXACT), with output 0..255."""
    least = 1 if function == "LINEAR" else 1e-9
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID") or not (np.isfinite(center) and np.isfinite(width) and width >= least):
        message = f"has a window that the standard does not allow (function {function}, center {center:g}, width {width:g})"
        raise DataError("SK207", where, message, "give center and width")
    if function == "SIGMOID":
        return _levels(255 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700))))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return _levels(np.where(values <= center, 0.0, 255.0))
    return _levels(((values - center) / width + 0.5) * 255)


def _full_range(rescaled: np.ndarray, header: Any) -> np.ndarray:
    """The whole range of the stored bits to 0..255, through the same modality step as the values. (pydicom clears unused bits.)"""
    bits, signed = int(header.BitsStored), bool(header.PixelRepresentation)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    ends = np.array([low, high], dtype=np.float64)
    if header.get("ModalityLUTSequence"):
        ends = np.array([0.0, 2.0 ** int(header.ModalityLUTSequence[0].LUTDescriptor[2]) - 1])
    elif "RescaleSlope" in header and "RescaleIntercept" in header:
        ends = ends * float(header.RescaleSlope) + float(header.RescaleIntercept)
    first, last = float(ends.min()), float(ends.max())
    return _levels((rescaled - first) * (255 / (last - first)))


def _levels(values: np.ndarray) -> np.ndarray:
    """0..255, rounded half up."""
    levels: np.ndarray = np.floor(np.clip(values, 0, 255) + 0.5).astype(np.uint8)
    return levels


def _colour(values: np.ndarray, header: Any, kind: str, where: str) -> np.ndarray:
    if kind == "PALETTE COLOR":
        table = np.asarray(import_pydicom().pixels.apply_color_lut(values, header))[:, :, :3]
        return _levels(table * (255 / (2 ** (8 * table.dtype.itemsize) - 1)))
    if values.ndim != 3 or values.shape[2] != 3 or values.dtype != np.uint8:
        message = f"holds {kind} values of type {values.dtype} and shape {values.shape}, wanted 8-bit colour"
        raise DataError("SK207", where, message, "convert the file to 8-bit RGB, or leave it out")
    return np.ascontiguousarray(values)
