"""DICOM files to 8-bit arrays by a declared window: the standard's grey path, nothing guessed, nothing saturated without being asked for."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np

from simkit.errors import DataError, Problem, ResourceError, SimkitError, UsageError
from simkit.recipe import canonical, digest_bytes
from simkit.registry import option
from simkit.sources.base import text_of
from simkit.sources.decode import looks_like
from simkit.sources.intensity import percentiles_of
from simkit.sources.levels import OUTSIDE, SATURATED, content_digest, levels_between

__all__ = ["DicomReader", "Window", "damaged", "decode_dicom", "frames_of", "header_of", "import_pydicom", "problem_of"]

LARGE = 4096
"""Larger values (the pixels) are not read with the header, in bytes."""

OF_A_FRAME = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
"""Functional groups of enhanced multi-frame files that say how the values of a frame become grey levels (PS3.3, C.7.6.16.2.9 and 10)."""

Said = tuple[str, ...]
"""Remarks."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """The declared rule that turns stored values into grey levels. Part of every image's digest: another rule, another data set.

    Attributes:
        window: "dicom", "full-range" or "percentile"; see :class:`simkit.sources.dicom.Dicom`.
        which_window: which of several windows of a file, from 1.
        percentiles: lower and upper of "percentile", in percent of the pixels of all grey images, padding left out; each is a value that occurs.
        center: of a window for all images, in the unit of the rescaled values; None: ``window`` holds.
        width: of that window.
    """

    window: Literal["dicom", "full-range", "percentile"] = option(
        "dicom", "dicom: the file's own window, or its VOI table; full-range: of the stored bits; percentile: one window, of the whole data set")
    which_window: int = option(1, "which of the windows of a file that has several, from 1", minimum=1)
    percentiles: tuple[float, ...] = option((0.5, 99.5), 'lower and upper percentile, for window = "percentile"', minimum=0, maximum=100)
    center: float | None = option(None, "centre of one window for all images, in rescaled values (CT: Hounsfield units); with width, instead of window")
    width: float | None = option(None, "width of one window for all images", minimum=1)

    def __post_init__(self) -> None:
        if (self.center is None) != (self.width is None):
            raise UsageError("SK104", "dicom", "center and width belong together, one of them is missing", "give both, or neither")
        if self.center is not None and self.window != "dicom":
            raise UsageError("SK102", "dicom", f"center and width contradict window = '{self.window}'", "give one of the two")
        if len(self.percentiles) != 2 or self.percentiles[0] >= self.percentiles[1]:
            fix = "give percentiles = [low, high]"
            raise UsageError("SK102", "dicom.percentiles", f"{list(self.percentiles)}, expected two values, the lower first", fix)

    @property
    def rules(self) -> Window:
        """These rules alone, without the other options of a source that inherits them."""
        return Window(**{f.name: getattr(self, f.name) for f in fields(Window)})


@dataclass(frozen=True, eq=False)
class DicomReader:
    """Images that lie in DICOM files (a RemarkingReader).

    Attributes:
        paths: the file of each image.
        rules: how they become 8 bit.
        frames: for each image, which frame of the file it is, from 0; -1 for a file of one frame. Empty: all files are of one frame.
        chosen: what an image of a file of several frames is called in remarks.
    """

    paths: tuple[str, ...]
    rules: Window
    frames: tuple[int, ...] = ()
    chosen: str = "frame of a multi-frame file"

    def read(self, index: int) -> np.ndarray:
        """Image as uint8 (height, width, 1 or 3); see :func:`decode_dicom`."""
        return self.remarked(index)[0]

    def remarked(self, index: int) -> tuple[np.ndarray, Said]:
        """The image, and what was done to it."""
        frame = self._frame(index)
        image, said = _decoded(self.paths[index], self.rules, frame, self._ends)
        return image, said if frame is None else (self.chosen, *said)

    def digest(self, index: int) -> str:
        """SHA-256 over the file's bytes, the declared rules, the frame, and the window of the data set where there is one."""
        content = content_digest(self.paths[index])
        return digest_bytes(content.encode(), canonical([self.rules, self._frame(index), self._ends]).encode())

    def _frame(self, index: int) -> int | None:
        return self.frames[index] if self.frames and self.frames[index] >= 0 else None

    @cached_property
    def _ends(self) -> tuple[float, float] | None:
        """The window of all images of this reader, found on first use; None where the rules ask for none.

        Images that cannot be read do not count.

        Raises:
            DataError: there is no grey image, or both percentiles are the same value.
        """
        if self.rules.window != "percentile":
            return None
        found = percentiles_of(self._values, self.rules.percentiles)
        if found is None or found[0] >= found[1]:
            what = "no grey image can be read" if found is None else f"both percentiles of all pixels are {found[0]:g}"
            raise DataError("SK207", text_of(self.paths[0]), f"no window for the data set: {what}", "give center and width")
        return found

    def _values(self) -> Iterator[np.ndarray]:
        for index, path in enumerate(self.paths):
            try:
                values, header = _pixels(path, self._frame(index))
            except DataError:  # it is named when it is read
                continue
            if not str(header.PhotometricInterpretation).startswith("MONOCHROME"):
                continue
            rescaled = _rescaled(values, header)
            padding = header.get("PixelPaddingValue")
            rescaled = rescaled.ravel() if padding is None else rescaled[values != int(padding)]
            if rescaled.size:
                whole = bool((rescaled == np.rint(rescaled)).all()) and float(np.abs(rescaled).max()) < 2**31
                yield rescaled.astype(np.int64) if whole else rescaled

    def __getstate__(self) -> dict[str, Any]:
        _ = self._ends  # once here, not once in every process
        return dict(self.__dict__)


def decode_dicom(path: str | os.PathLike[str], rules: Window | None = None, frame: int | None = None) -> np.ndarray:
    """A DICOM file, or one frame of it (from 0), as uint8 (height, width, channels): 1 channel for grey images, 3 for colour.

    Raises:
        DataError: SK206 when the file cannot be read, SK207 when the declared rule does not cover it, or it holds several frames and none is named.
        UsageError: SK108, the rule needs a whole data set.
    """
    rules = rules or Window()
    if rules.window == "percentile":
        fix = "read it by the source dicom, or give center and width"
        raise UsageError("SK108", text_of(path), "window = 'percentile' needs all images of the data set", fix)
    return _decoded(path, rules, frame, None)[0]


def _decoded(path: str | os.PathLike[str], rules: Window, frame: int | None, ends: tuple[float, float] | None) -> tuple[np.ndarray, Said]:
    where = text_of(path)
    values, header = _pixels(path, frame)
    try:
        kind = str(header.PhotometricInterpretation)
        if kind not in ("MONOCHROME1", "MONOCHROME2"):
            return _colour(values, header, kind, where), ()
        levels, said = levels_between(_rescaled(values, header), *ends) if ends else _grey(values, header, rules, where)
        if kind == "MONOCHROME1":
            levels, said = 255 - levels, (*said, "MONOCHROME1 inverted")
        return np.ascontiguousarray(levels[:, :, None]), said
    except (SimkitError, MemoryError):
        raise
    except Exception as error:  # see _pixels
        raise damaged(error, where) from error


def _pixels(path: str | os.PathLike[str], frame: int | None) -> tuple[np.ndarray, Any]:
    """Stored values of an image, and the entries of the header that hold for it. Of several frames only one is read and decoded."""
    where = text_of(path)
    header = header_of(path) if frame is None else _cached_header(path)
    try:
        problem = problem_of(header, where, several=frame is not None)
        if problem is not None:
            raise DataError("", "", "", problems=[problem])
        if frame is None:
            return import_pydicom().pixels.pixel_array(header), _of_frame(header, 0)
        if frame >= frames_of(header):
            raise DataError("SK206", where, f"holds {frames_of(header)} frames, wanted number {frame + 1}", "leave the file alone while simkit runs")
        return import_pydicom().pixels.pixel_array(path, index=frame), _of_frame(header, frame)
    except (SimkitError, MemoryError):
        raise
    except Exception as error:  # pydicom fails in many ways on damaged files; whatever it is, the file must be named
        raise damaged(error, where, _further_packages(header)) from error


def _cached_header(path: str | os.PathLike[str]) -> Any:
    """The header of a file of many frames, which is read once for frames that are read in turn."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError("SK206", text_of(path), f"cannot be read ({error.strerror})", "check that the file exists and that you may read it") from error
    return _header_at(os.fspath(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _header_at(path: str, size: int, changed: int) -> Any:
    return header_of(path, ())


def frames_of(header: Any) -> int:
    """Number of frames that a header states."""
    return int(header.get("NumberOfFrames") or 1)


def _of_frame(header: Any, frame: int) -> Any:
    """The header with what the functional groups say of one frame (those of the frame over those that all frames share)."""
    groups = [header[name][0 if name.startswith("Shared") else frame]
              for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence") if header.get(name)]
    macros = [group[name][0] for group in groups for name in OF_A_FRAME if group.get(name)]
    if not macros:
        return header
    out = import_pydicom().Dataset()
    for entries in (header, *macros):
        out.update({element.tag: element for element in entries if element.keyword not in ("PixelData", "PerFrameFunctionalGroupsSequence")})
    return out


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
    if packages:
        fix = f"install a package that may read it: {packages}; if it still fails, the file is damaged"
        return DataError("SK206", where, f"cannot be decoded with the packages that are installed: {text}", fix)
    return DataError("SK206", where, f"cannot be decoded: {text}", "replace or remove the file: it is damaged or was not copied completely")


def _further_packages(header: Any) -> str:
    """For a compressed file: packages that are not installed and decode its kind, as pydicom names them."""
    try:
        decoder = import_pydicom().pixels.get_decoder(header.file_meta.TransferSyntaxUID)
    except (NotImplementedError, AttributeError):
        return ""
    return "; ".join(decoder.missing_dependencies) if decoder.is_encapsulated else ""


def header_of(path: str | os.PathLike[str], tags: Sequence[str] | None = None) -> Any:
    """A pydicom Dataset. With ``tags``, only these (all, where none is named), and large values (the pixels) are left in the file.

    Raises:
        DataError: SK206 when the file is missing, damaged, or no DICOM file (saying what its bytes look like).
    """
    pydicom, where = import_pydicom(), text_of(path)
    try:
        return pydicom.dcmread(path, specific_tags=list(tags) or None, defer_size=LARGE) if tags is not None else pydicom.dcmread(path)
    except pydicom.errors.InvalidDicomError as error:
        with open(path, "rb") as file:
            head = file.read(512)
        raise DataError("SK206", where, f"is not a DICOM file: it looks like {looks_like(head, os.path.getsize(path))}", "replace or remove it") from error
    except OSError as error:
        raise DataError("SK206", where, f"cannot be read ({error.strerror or error})", "check that the file exists and that you may read it") from error
    except Exception as error:  # see decode_dicom
        raise damaged(error, where) from error


def problem_of(header: Any, where: str, *, several: bool) -> Problem | None:
    """Why a file with this header holds no image that simkit reads; ``several`` frames may be wanted."""
    if "PixelData" not in header:
        floats = [name for name in ("FloatPixelData", "DoubleFloatPixelData") if name in header]
        if floats:
            return Problem("SK207", where, f"holds floating-point values ({floats[0]}): their range has no single mapping to 0..255", "leave the file out")
        return Problem("SK206", where, "holds no pixels (no PixelData): a report, a structure set or an index", "leave the file out")
    if not several and frames_of(header) > 1:
        fix = 'read them all (frames = "all"), or the "first" or "middle" one'
        return Problem("SK207", where, f"holds {frames_of(header)} frames: which one is the image is not known", fix)
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


def _rescaled(values: np.ndarray, header: Any) -> np.ndarray:
    """Stored values through the modality step: a table, or slope and intercept."""
    return np.asarray(import_pydicom().pixels.apply_modality_lut(values, header), dtype=np.float64)


def _grey(values: np.ndarray, header: Any, rules: Window, where: str) -> tuple[np.ndarray, Said]:
    """Stored values (height, width) as grey levels 0..255, before inversion, and what was done."""
    rescaled = _rescaled(values, header)
    if rules.center is not None and rules.width is not None:
        return _windowed(rescaled, rules.center, rules.width, "LINEAR", where)
    if rules.window == "full-range":
        return _full_range(rescaled, header), ()
    centers, widths = _several(header, "WindowCenter"), _several(header, "WindowWidth")
    count = min(len(centers), len(widths))
    if count and rules.which_window > count:
        fix = "ask for one that every file has, or give center and width"
        raise DataError("SK207", where, f"has {count} windows, which_window = {rules.which_window} asks for another", fix)
    if count:
        function = str(header.get("VOILUTFunction") or "LINEAR").upper()
        levels, said = _windowed(rescaled, centers[rules.which_window - 1], widths[rules.which_window - 1], function, where)
        ordinal = "first" if rules.which_window == 1 else f"number {rules.which_window}"
        return levels, ("window of the file" if count == 1 else f"{ordinal} of several windows of the file", *said)
    if header.get("VOILUTSequence"):
        table = import_pydicom().pixels.apply_voi(np.rint(rescaled).astype(np.int64), header)
        return _levels(table * (255 / (2 ** int(header.VOILUTSequence[0].LUTDescriptor[2]) - 1))), ("table of grey levels of the file",)
    if values.dtype == np.uint8 and int(header.BitsStored) == 8 and np.array_equal(values, rescaled):
        return values, ()  # ultrasound and scans: what is stored are the grey levels
    fix = 'give center and width, or declare window = "full-range" or "percentile"'
    raise DataError("SK207", where, f"has no window (values from {rescaled.min():g} to {rescaled.max():g}): how they become 8 bit is not declared", fix)


def _several(header: Any, entry: str) -> list[float]:
    """The values of an entry that may have one or several; empty where it is missing or empty."""
    value: Any = header.get(entry)
    values: list[Any] = [value] if value is None or isinstance(value, (int, float, str)) else list(value)
    return [float(one) for one in values] if values and values[0] not in (None, "") else []


def _windowed(values: np.ndarray, center: float, width: float, function: str, where: str) -> tuple[np.ndarray, Said]:
    """DICOM PS3.3, C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID) and C.11.2.1.3.2 (LINEAR_EXACT), with output 0..255; saturation is said."""
    least = 1 if function == "LINEAR" else 1e-9
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID") or not (np.isfinite(center) and np.isfinite(width) and width >= least):
        message = f"has a window that the standard does not allow (function {function}, center {center:g}, width {width:g})"
        raise DataError("SK207", where, message, "give center and width")
    if function == "SIGMOID":
        return _levels(255 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))), ()
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return _levels(np.where(values <= center, 0.0, 255.0)), ()
    said = (OUTSIDE,) if float(np.mean(np.abs(values - center) > width / 2)) > SATURATED else ()
    return _levels(((values - center) / width + 0.5) * 255), said


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
