"""Slices of NIfTI volumes as 8-bit pictures: turned as radiological viewers show them, by a declared rule of grey levels."""

from __future__ import annotations

import functools
import gzip
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from simkit.errors import DataError, ResourceError, SimkitError, UsageError
from simkit.recipe import canonical, digest_bytes
from simkit.registry import option
from simkit.sources.base import text_of
from simkit.sources.intensity import percentiles_of
from simkit.sources.levels import content_digest, levels_between

__all__ = ["NiftiReader", "Slicing", "Volume", "import_nibabel", "volume_of"]

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
LARGEST = 4 * 2**30
"""Bytes that one compressed volume may have when it is unpacked: it is kept in memory."""

NO_ORIENTATION = "no orientation in the header: that of the voxel order assumed"
NOT_SQUARE = "pixels of the slice are not square: not resampled"
RULES = 'declare intensity = "volume-percentile" (MRI: each volume its own window), "percentile" (one for the data set) or "window" with window = [low, high]'


@dataclass(frozen=True, kw_only=True)
class Slicing:
    """The declared rules that turn volumes into pictures. Part of every image's digest: another rule, another data set.

    Attributes:
        axis: "axial", "coronal", "sagittal": turned by the orientation in the header; "0", "1", "2": across that axis of the file, as stored.
        volume: which 3-D volume of a 4-D file, from 0; None: such files are refused.
        intensity: "refuse": only volumes of unsigned 8-bit values without scaling are read, as they are. The other rules are applied to every
            volume, 8-bit ones too, after slope and intercept. "window": low and high become 0 and 255. "volume-percentile": each volume its own
            window (MRI has no unit). "percentile": one window, from all volumes of the data set, found on first use.
        window: low and high of "window", in the unit of the volume (CT: Hounsfield units).
        percentiles: lower and upper, in percent of the voxels that are not NaN; each is a value that occurs.
    """

    axis: Literal["axial", "coronal", "sagittal", "0", "1", "2"] = option("axial", "plane of the slices; 0, 1, 2: across that axis of the file, as stored")
    volume: int | None = option(None, "which volume of files that hold several (4-D), from 0; refused until declared", minimum=0)
    intensity: Literal["refuse", "window", "volume-percentile", "percentile"] = option(
        "refuse", "how values become 8-bit; refused until declared, except for 8-bit volumes")
    window: tuple[float, ...] = option((), 'low and high value that become 0 and 255, for intensity = "window"')
    percentiles: tuple[float, ...] = option((0.5, 99.5), "lower and upper percentile, for the intensities that are named so", minimum=0, maximum=100)

    def __post_init__(self) -> None:
        if (self.intensity == "window") != bool(self.window):
            given = f"window = {list(self.window)} beside intensity = '{self.intensity}'" if self.window else "intensity = 'window' without the window"
            raise UsageError("SK102", "nifti.window", given, 'give both: intensity = "window" and window = [low, high]')
        for name, pair in (("window", self.window), ("percentiles", self.percentiles)):
            if pair and (len(pair) != 2 or pair[0] >= pair[1]):
                raise UsageError("SK102", f"nifti.{name}", f"{list(pair)}, expected two values, the lower first", f"give {name} = [low, high]")

    @property
    def rules(self) -> Slicing:
        """These rules alone, without the other options of a source that inherits them."""
        return Slicing(**{f.name: getattr(self, f.name) for f in fields(Slicing)})


def import_nibabel() -> Any:
    """The package nibabel.

    Raises:
        ResourceError: it is not installed.
    """
    try:
        import nibabel
        import nibabel.fileslice
    except ImportError as error:
        raise ResourceError("SK303", "nifti", f"the package nibabel cannot be imported ({error})", "pip install 'simkit[nifti]'") from error
    return nibabel


@dataclass(frozen=True, eq=False)
class Volume:
    """One 3-D volume of a file, its values read when they are needed.

    Attributes:
        path: the file.
        image: nibabel's image: header and proxy.
        number: which volume of a 4-D file; 0 otherwise.
        oriented: axis of the file and direction (1 or -1) for each of right, anterior, superior.
    """

    path: str
    image: Any
    number: int
    oriented: tuple[tuple[int, int], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the three axes of the file."""
        return tuple(self.image.shape[:3])

    @property
    def colour(self) -> bool:
        """Whether the voxels are 8-bit RGB."""
        return bool(self.image.get_data_dtype().names == ("R", "G", "B"))

    @property
    def scaling(self) -> tuple[float, float]:
        """Slope and intercept of the header; 1 and 0 where it has none."""
        return float(self.image.dataobj.slope), float(self.image.dataobj.inter)

    @cached_property
    def stored(self) -> np.ndarray:
        """Stored values (three axes of the file). Of an uncompressed file only the parts that are looked at are read."""
        proxy = self.image.dataobj
        if not self.path.lower().endswith(".gz"):
            values = np.asanyarray(proxy.get_unscaled())
            return np.asanyarray(values.reshape(*self.shape, -1)[..., self.number] if values.ndim > 3 else values)
        kind = self.image.get_data_dtype()
        size = int(np.prod(self.shape, dtype=np.int64)) * kind.itemsize
        if size > LARGEST:
            message = f"holds {size:,} bytes when it is unpacked, and is kept in memory; the limit is {LARGEST:,}"
            raise DataError("SK206", text_of(self.path), message, "unpack it to .nii, of which only slices are read")
        rest = tuple(1 for _ in self.image.shape[4:])
        which = (slice(None),) * 3 + ((self.number, *(0 for _ in rest)) if len(self.image.shape) > 3 else ())
        with gzip.open(self.path) as file:
            return np.asarray(import_nibabel().fileslice.fileslice(file, which, self.image.shape, kind, proxy.offset, order="F"))

    def count(self, axis: str) -> int:
        """Number of slices along an axis."""
        return int(self.shape[self._axis(axis)[0]])

    def _axis(self, axis: str) -> tuple[int, int]:
        return self.oriented[PLANES[axis]] if axis in PLANES else (int(axis), 1)

    def _kept(self, axis: str) -> list[tuple[int, int]]:
        """The axes of the picture, columns first."""
        if axis in PLANES:
            return [one for plane, one in enumerate(self.oriented) if plane != PLANES[axis]]
        return [(one, -1) for one in range(3) if one != int(axis)]

    def values(self, axis: str, index: int) -> np.ndarray:
        """Values of one slice, scaled, as a picture: rows downwards, columns to the right.

        Axial: anterior above, the patient's right on the left. Coronal: superior above, the right on the left. Sagittal: superior above,
        anterior on the left. Slices count from inferior, posterior and left.
        """
        across, direction = self._axis(axis)
        kept = self._kept(axis)
        place = index if direction == 1 else self.shape[across] - 1 - index
        picture = np.take(self.stored, place, axis=across)
        if kept[0][0] > kept[1][0]:
            picture = picture.T
        # canonical axes run to the right, anterior and superior: in the picture each runs the other way
        picture = picture[:: -kept[0][1], :: -kept[1][1]].T
        slope, intercept = self.scaling
        plain = self.colour or (slope, intercept) == (1, 0)
        return np.asarray(picture) if plain else picture.astype(np.float64) * slope + intercept

    def window(self, percentiles: tuple[float, ...]) -> tuple[float, float]:
        """Two percentiles of the volume's values that are not NaN."""
        if percentiles not in self._windows:
            values = np.asarray(self.stored)
            values = values[~np.isnan(values)] if values.dtype.kind == "f" else values
            slope, intercept = self.scaling
            ends = percentiles if slope > 0 else tuple(100 - p for p in percentiles)
            low, high = np.percentile(values, ends, method="inverted_cdf") if values.size else (0.0, 0.0)
            self._windows[percentiles] = (float(low) * slope + intercept, float(high) * slope + intercept)
        return self._windows[percentiles]

    @cached_property
    def _windows(self) -> dict[tuple[float, ...], tuple[float, float]]:
        return {}

    def remarks(self, axis: str) -> tuple[str, ...]:
        """What a viewer of its slices should know."""
        header = self.image.header
        said = [NO_ORIENTATION] if axis in PLANES and not int(header["qform_code"]) and not int(header["sform_code"]) else []
        first, second = (float(header.get_zooms()[one]) for one, _ in self._kept(axis))
        return (*said, NOT_SQUARE) if abs(first - second) > 0.01 * max(first, second) else tuple(said)


def volume_of(path: str, number: int | None) -> Volume:
    """The volume of a file; the last two are kept, so that slices of one file are read in turn at the price of one.

    Raises:
        DataError: SK206 when it cannot be read, SK207 when it holds several volumes and none is declared, or values of a kind that is not read.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError("SK206", text_of(path), f"cannot be read ({error.strerror})", "check that the file exists and that you may read it") from error
    return _volume(path, number, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _volume(path: str, number: int | None, size: int, changed: int) -> Volume:
    volume: Volume = _guarded(path, lambda: _opened(path, number))
    return volume


def _guarded(path: str, work: Callable[[], Any]) -> Any:
    """What ``work`` gives; whatever fails in nibabel on damaged bytes, the file is named."""
    try:
        return work()
    except (SimkitError, MemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:240] or type(error).__name__
        fix = "replace or remove the file: it is damaged, was not copied completely, or is no NIfTI volume"
        raise DataError("SK206", text_of(path), f"cannot be read: {text}", fix) from error


def _opened(path: str, number: int | None) -> Volume:
    nibabel, where = import_nibabel(), text_of(path)
    image = nibabel.load(path)
    if not isinstance(image, nibabel.Nifti1Pair):
        raise DataError("SK206", where, f"is no NIfTI volume ({type(image).__name__})", "convert it to NIfTI, or leave it out")
    shape = image.shape
    several = int(np.prod(shape[3:], dtype=np.int64)) if len(shape) > 3 else 1
    if len(shape) < 3 or 0 in shape or (len(shape) > 3 and several != shape[3]):
        raise DataError("SK207", where, f"has the shape {shape}, wanted (x, y, z) or (x, y, z, volumes)", "split it into volumes")
    if several > 1 and number is None:
        raise DataError("SK207", where, f"holds {several} volumes: which one is meant is not known", "declare volume = 0 (the first), or split the file")
    if number is not None and number >= several:
        raise DataError("SK207", where, f"holds {several} volumes: there is no volume {number} (from 0)", "correct the option volume")
    kind = image.get_data_dtype()
    if kind.names not in (None, ("R", "G", "B")) or (kind.names is None and kind.kind not in "iuf"):
        what = "RGBA" if kind.names else str(kind)
        raise DataError("SK207", where, f"holds voxels of the type {what}, which have no single grey level", "convert it to grey or RGB, or leave it out")
    turns = nibabel.orientations.io_orientation(image.affine)
    if np.isnan(turns).any():
        raise DataError("SK206", where, "has an affine matrix that flattens an axis: its orientation is not known", 'correct the header, or declare axis = "2"')
    oriented = tuple((int(np.flatnonzero(turns[:, 0] == plane)[0]), int(turns[turns[:, 0] == plane, 1][0])) for plane in range(3))
    return Volume(path, image, number or 0, oriented)


@dataclass(frozen=True, eq=False)
class NiftiReader:
    """Slices of NIfTI volumes (a RemarkingReader).

    Attributes:
        paths: the file of each image.
        slices: which slice of it.
        rules: how it becomes a picture, as declared.
    """

    paths: tuple[str, ...]
    slices: tuple[int, ...]
    rules: Slicing

    def read(self, index: int) -> np.ndarray:
        """Image as uint8 (height, width, 1 or 3)."""
        return self.remarked(index)[0]

    def remarked(self, index: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """The image, and what was done to it."""
        path, rules = self.paths[index], self.resolved
        out: tuple[np.ndarray, tuple[str, ...]] = _guarded(path, lambda: picture_of(volume_of(path, rules.volume), self.slices[index], rules))
        return out

    def digest(self, index: int) -> str:
        """SHA-256 over the file's bytes, the slice and the rules, with the window that was found."""
        return digest_bytes(content_digest(self.paths[index]).encode(), canonical([self.slices[index], self.resolved]).encode())

    @cached_property
    def resolved(self) -> Slicing:
        """The rules that are applied: ``intensity = "percentile"`` becomes the window of all slices of this reader, found on first use.

        Raises:
            DataError: both percentiles are the same value, or no volume can be read.
        """
        if self.rules.intensity != "percentile":
            return self.rules
        found = percentiles_of(self._values, self.rules.percentiles)
        if found is None or found[0] >= found[1]:
            what = "no volume can be read" if found is None else f"both percentiles of all voxels are {found[0]:g}"
            raise DataError("SK207", text_of(self.paths[0]), f"no window for the data set: {what}", 'declare intensity = "window" with window = [low, high]')
        return replace(self.rules, intensity="window", window=found)

    def _values(self) -> Iterator[np.ndarray]:
        for path, index in zip(self.paths, self.slices, strict=True):
            try:
                volume = volume_of(path, self.rules.volume)
                values = _guarded(path, functools.partial(volume.values, self.rules.axis, index))
            except DataError:  # it is named when it is read
                continue
            values = values[~np.isnan(values)] if values.dtype.kind == "f" else values
            if values.size and not volume.colour:
                yield values

    def __getstate__(self) -> dict[str, Any]:
        _ = self.resolved  # once here, not once in every process
        return dict(self.__dict__)


def picture_of(volume: Volume, index: int, rules: Slicing) -> tuple[np.ndarray, tuple[str, ...]]:
    """A slice as uint8 (height, width, 1 or 3), and remarks.

    Raises:
        DataError: SK207, no rule is declared for its values.
    """
    values, said = volume.values(rules.axis, index), volume.remarks(rules.axis)
    if volume.colour:
        return np.ascontiguousarray(np.stack([values[name] for name in "RGB"], axis=-1)), said
    if rules.intensity == "refuse":
        if values.dtype != np.uint8:
            low, high = volume.window((0.0, 100.0))
            message = f"holds {volume.image.get_data_dtype()} values (from {low:g} to {high:g}): how they become 8 bit is not declared"
            raise DataError("SK207", text_of(volume.path), message, RULES)
        return np.ascontiguousarray(values[:, :, None]), said
    low, high = rules.window if rules.intensity == "window" else volume.window(tuple(rules.percentiles))
    levels, remarks = levels_between(values, low, high)
    return np.ascontiguousarray(levels[:, :, None]), (*said, *remarks)
