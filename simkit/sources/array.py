"""Data sets from arrays: made in Python from numpy arrays, tensors or Pillow images; or read from .npy files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from simkit.dataset import Dataset
from simkit.errors import DataError, Problems, UsageError
from simkit.registry import option
from simkit.sources.arrays import ArrayReader, array_digest, labels_of
from simkit.sources.base import Source, located, nearest_entry, text_of

__all__ = ["Array", "ArrayRules", "MappedReader", "from_arrays"]

Intensity = Literal["refuse", "unit", "full-range", "12-bit", "window"]


@dataclass(frozen=True, kw_only=True)
class ArrayRules:
    """The declared rules that turn the values of an array into an image of 8 bit. uint8 stays as it is.

    Attributes:
        intensity: how other types become uint8, v the value. "refuse": not at all. "unit": floats from 0 to 1, v * 255. "full-range":
            unsigned whole numbers, v * 255 / largest of the type. "12-bit": whole numbers, v * 255 / 4095. "window": any type,
            (v - low) * 255 / (high - low), what lies outside becomes 0 or 255. All are rounded. A value outside its range is an error.
        window: low and high of "window".
        channels_first: images are (channels, height, width), as torch has them.
    """

    intensity: Intensity = option("refuse", "how types other than uint8 become uint8; refused until declared")
    window: tuple[float, ...] = option((), 'low and high value that become 0 and 255, for intensity = "window"')
    channels_first: bool = option(False, "images are (channels, height, width)")

    def __post_init__(self) -> None:
        if (self.intensity == "window") != bool(self.window) or (self.window and (len(self.window) != 2 or self.window[0] >= self.window[1])):
            message = f"window = {list(self.window)} with intensity = '{self.intensity}'"
            raise UsageError("SK102", "window", message, 'give both: intensity = "window" and window = [low, high], the lower first')


@dataclass(frozen=True)
class Array(Source, ArrayRules):
    """Images in an .npy file, uint8 (n, height, width) or (n, height, width, 1 or 3), and labels in another.

    The file of images is mapped into memory: an image is read when it is asked for. Arrays of Python objects are refused, because
    reading them would run a pickle. In Python, :func:`from_arrays` makes a data set of arrays in memory.
    """

    name = "array"

    path: Path = option(help="the .npy file with the images")
    labels: Path | None = option(None, "the .npy file with the labels: whole numbers or text (n,), or 0 and 1 (n, classes) for a multi-label set")
    groups: Path | None = option(None, "the .npy file with the patient (or slide, volume) of each image, (n,)")
    classes: tuple[str, ...] = option((), "class names; whole-number labels index into them")

    def load(self, name: str, base: Path) -> Dataset:
        """See :meth:`Source.load`; keys are the positions."""
        path = located(self.path, base)
        where, images = text_of(path), _mapped(path)
        rules = ArrayRules(intensity=self.intensity, window=self.window, channels_first=self.channels_first)
        _check_shape(images, rules, where)
        _check_type(images.dtype, rules, where)
        labels = _mapped(located(self.labels, base)) if self.labels else None
        groups = _mapped(located(self.groups, base)) if self.groups else None
        return _dataset(name, MappedReader(str(path), rules), len(images), where, labels, self.classes, groups, None)


@dataclass(frozen=True, eq=False)
class MappedReader:
    """Images of an .npy file that is mapped into memory when the first is asked for (an ImageReader).

    Attributes:
        path: the file.
        rules: how its values become images.
    """

    path: str
    rules: ArrayRules
    mapped: list[np.ndarray] = field(default_factory=list, repr=False)

    def read(self, index: int) -> np.ndarray:
        """Image as uint8 (height, width, 1 or 3)."""
        if not self.mapped:
            self.mapped.append(_mapped(Path(self.path)))
        return _as_image(np.array(self.mapped[0][index]), self.rules, f"{text_of(self.path)}: image {index}")

    def digest(self, index: int) -> str:
        """SHA-256 over type, shape and bytes of the image, as 8 bit."""
        return array_digest(self.read(index))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"mapped": []}  # another process maps the file itself


def from_arrays(
    images: Any, labels: Any = None, *, groups: Sequence[Any] | None = None, splits: Sequence[str] | None = None,
    classes: Sequence[str] | None = None, name: str = "array", tags: Sequence[str] = (), attributes: Mapping[str, str] | None = None,
    intensity: Intensity = "refuse", window: tuple[float, ...] = (), channels_first: bool = False,
) -> Dataset:
    """A data set of images that are in memory.

    Args:
        images: numpy array or tensor (n, height, width) or (n, height, width, 1 or 3); or a list of arrays, tensors or Pillow images, of
            any sizes. uint8 arrays are used as they are, without a copy. Pillow images are converted as files are (palettes resolved,
            EXIF orientation applied).
        labels: (n,) whole numbers or text; or (n, classes) of 0 and 1 for a multi-label set; None for an unlabelled set.
        groups: patient (or slide, volume) of each image.
        splits: "train", "val", "test" or another word for each image.
        classes: class names; whole-number labels index into them. By default the values that occur, sorted.
        name: of the data set.
        tags: keywords, for the keyword distance.
        attributes: answers to the questions of :data:`simkit.dataset.NOTIONS`.
        intensity: how types other than uint8 become uint8; see :class:`ArrayRules`.
        window: low and high of intensity "window".
        channels_first: images are (channels, height, width).

    Raises:
        DataError: naming the images and labels that are wrong, all of them at once.
        UsageError: counts that differ, or rules that do not fit together.
    """
    rules = ArrayRules(intensity=intensity, window=window, channels_first=channels_first)
    values = _numbers(images, f"{name}: images")
    if isinstance(values, np.ndarray) and values.dtype != object:
        _check_shape(values, rules, f"{name}: images")
        _check_type(values.dtype, rules, f"{name}: images")
    elif not isinstance(values, (np.ndarray, Sequence)):
        raise UsageError("SK102", f"{name}: images", f"{type(images).__name__} is no array, tensor or list of images", "give one of these")
    pixels = _stack(values, rules) if isinstance(values, np.ndarray) and values.dtype == np.uint8 else _list(values, rules, name)
    made = _dataset(name, ArrayReader(pixels), len(pixels), "arrays in memory", labels, tuple(classes or ()), groups, splits)
    return Dataset(
        name, made.keys, made.reader, made.labels, made.classes, made.groups, made.splits, tuple(tags), dict(attributes or {}), made.origin,
        indicators=made.indicators,
    )


def _stack(values: np.ndarray, rules: ArrayRules) -> Any:
    """Images of one size as a view (n, height, width, channels)."""
    if values.ndim == 3:
        return values[:, :, :, None]
    return values.transpose(0, 2, 3, 1) if rules.channels_first else values


def _list(values: Any, rules: ArrayRules, name: str) -> list[np.ndarray]:
    """Images of any size and type; what is wrong is said of all of them at once."""
    problems, pixels = Problems(), []
    for index, one in enumerate(values):
        try:
            pixels.append(_image(one, rules, f"{name}: images[{index}]"))
        except DataError as error:
            problems.catch(error)
    problems.raise_if_any(DataError)
    return pixels


def _dataset(
    name: str, reader: Any, count: int, origin: str, labels: Any, classes: tuple[str, ...], groups: Any, splits: Sequence[str] | None,
) -> Dataset:
    indices, indicators, names = _labels(name, labels, classes, count)
    owners = None if groups is None else tuple(str(group) for group in _column(f"{name}: groups", groups, count))
    parts = None if splits is None else tuple(str(split) for split in _column(f"{name}: splits", splits, count))
    keys = tuple(str(index) for index in range(count))
    return Dataset(name, keys, reader, indices, names, owners, parts, origin=origin, indicators=indicators)


def _numbers(values: Any, where: str) -> Any:
    """Tensors as arrays; everything else as it is."""
    if not hasattr(values, "detach"):
        return values
    try:
        return values.detach().cpu().numpy()
    except TypeError as error:
        raise DataError("SK207", where, f"the tensor has the type {values.dtype}, which numpy does not have", "convert it: tensor.float()") from error


def _mapped(path: Path) -> np.ndarray:
    """An .npy file, mapped into memory; nothing is unpickled."""
    if not path.is_file():
        raise DataError("SK201", text_of(path), f"the file does not exist{nearest_entry(path)}", "check the path; relative paths start at the study file")
    try:
        out: np.ndarray = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        message = f"cannot be read as an .npy file: {error}"
        raise DataError("SK201", text_of(path), message, "save a plain array by numpy.save; arrays of objects (pickles) are not read") from error
    return out


def _check_shape(images: np.ndarray, rules: ArrayRules, where: str) -> None:
    """The shape of all images at once, so that a wrong axis is said once."""
    if images.ndim not in (3, 4) or 0 in images.shape[1:]:
        hint = " (one image? put it into a list)" if images.ndim == 2 else ""
        message = f"has the shape {images.shape}, wanted (n, height, width) or (n, height, width, 1 or 3){hint}"
        raise DataError("SK207", where, message, "give one image a row; volumes as slices")
    if images.ndim == 4:
        _channels(images.shape[1:], rules, f"{where} {images.shape}")


def _channels(shape: tuple[int, ...], rules: ArrayRules, where: str) -> None:
    at, other = (shape[0], shape[2]) if rules.channels_first else (shape[2], shape[0])
    if at in (1, 3):
        return
    declared = "channels_first = true" if rules.channels_first else "channels last"
    fix = f"declare channels_first = {'false' if rules.channels_first else 'true'}" if other in (1, 3) else "give grey or RGB images"
    raise DataError("SK207", where, f"{at} channels with {declared}: an image has 1 or 3", fix)


def _check_type(kind: np.dtype[Any], rules: ArrayRules, where: str) -> None:
    if kind == np.uint8:
        return
    fits = {"unit": "f", "full-range": "u", "12-bit": "ui", "window": "uif", "refuse": ""}[rules.intensity]
    if kind.kind in fits:
        return
    fixes = {
        "f": 'declare intensity = "unit" for values from 0 to 1, or "window" with window = [low, high]',
        "u": 'declare intensity = "full-range" if the whole range is used, "12-bit" for values up to 4095, or "window" with window = [low, high]',
        "i": 'declare intensity = "window" with window = [low, high], or "12-bit" for values from 0 to 4095; for 0 to 255, convert to uint8',
    }
    said = "how they become 8 bit is not declared" if rules.intensity == "refuse" else f"which intensity = '{rules.intensity}' does not cover"
    raise DataError("SK207", where, f"holds {kind} values: {said}", fixes.get(kind.kind, "give uint8 images"))


def _image(value: Any, rules: ArrayRules, where: str) -> np.ndarray:
    """An array, a tensor or a Pillow image as uint8 (height, width, 1 or 3)."""
    if hasattr(value, "getbands"):
        return _pillow(value, rules, where)
    value = _numbers(value, where)
    if not isinstance(value, np.ndarray):
        raise DataError("SK206", where, f"is {type(value).__name__}, wanted an array, a tensor or a Pillow image", "convert it, or leave it out")
    return _as_image(value, rules, where)


def _pillow(image: Any, rules: ArrayRules, where: str) -> np.ndarray:
    from simkit.sources.colours import colours, orientation_of, upright

    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        values = values.astype(np.uint16) if image.mode.startswith("I;16") else values
        return upright(_as_image(values, ArrayRules(intensity=rules.intensity, window=rules.window), where), orientation_of(image))
    return np.ascontiguousarray(upright(colours(image, (0, 0, 0), where)[0], orientation_of(image)))


def _as_image(values: np.ndarray, rules: ArrayRules, where: str) -> np.ndarray:
    """The values of one image as uint8 (height, width, 1 or 3), by the rules."""
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise DataError("SK207", where, f"has the shape {values.shape}, wanted (height, width) or (height, width, 1 or 3)", "give grey or RGB images")
    _check_type(values.dtype, rules, where)
    if values.ndim == 2:
        values = values[:, :, None]
    else:
        _channels(values.shape, rules, where)
        values = values.transpose(1, 2, 0) if rules.channels_first else values
    return values if values.dtype == np.uint8 else _scaled(values, rules, where)


def _scaled(values: np.ndarray, rules: ArrayRules, where: str) -> np.ndarray:
    """(v - low) * 255 / (high - low), rounded; see :class:`ArrayRules`."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise DataError("SK207", where, f"holds {count} values that are NaN or infinite: no grey level stands for them", "replace them")
    low, high = (0.0, {"unit": 1.0, "12-bit": 4095.0}.get(rules.intensity, 0.0))
    if rules.intensity == "full-range":
        high = float(np.iinfo(values.dtype).max)
    if rules.window:
        low, high = rules.window
    elif values.min() < low or values.max() > high:
        extreme = values.min() if values.min() < low else values.max()
        fix = 'declare the rule that fits, or intensity = "window" with window = [low, high]'
        raise DataError("SK207", where, f"holds the value {extreme:g}, outside {low:g} to {high:g} of intensity = '{rules.intensity}'", fix)
    scaled = np.floor((values.astype(np.float64) - low) * (255 / (high - low)) + 0.5)
    return np.clip(scaled, 0, 255).astype(np.uint8)


def _column(where: str, values: Any, count: int) -> list[Any]:
    """A value for each image, as Python values; empty ones are named."""
    values = _numbers(values, where)
    rows = values.tolist() if isinstance(values, np.ndarray) else [value.item() if isinstance(value, np.generic) else value for value in values]
    if len(rows) != count:
        raise UsageError("SK102", where, f"{len(rows)} values for {count} images", "give one for each image")
    problems = Problems()
    for index, value in enumerate(rows):
        if value is None or value == "" or not isinstance(value, (int, str)):
            problems.add("SK203", f"{where}[{index}]", f"is {value!r}, wanted text or a whole number", "fill it in, or leave the image out")
    problems.raise_if_any(DataError)
    return rows


def _labels(name: str, labels: Any, classes: tuple[str, ...], count: int) -> tuple[np.ndarray | None, np.ndarray | None, tuple[str, ...]]:
    """Class indices or indicators, and the class names."""
    if labels is None:
        return None, None, ()
    if len(set(classes)) < len(classes):
        raise UsageError("SK102", f"{name}: classes", "a class name occurs twice", "give every class a name of its own")
    where = f"{name}: labels"
    values = _numbers(labels, where)
    table = values if isinstance(values, np.ndarray) else None
    if table is not None and table.ndim == 2 and table.shape[1] == 1:
        values = table[:, 0]
    elif table is not None and table.ndim == 2:
        return None, *_indicators(where, table, classes, count)
    elif table is not None and table.ndim != 1:
        raise UsageError("SK102", where, f"the shape {table.shape}, wanted (n,) or (n, classes)", "give one label for each image")
    rows = _column(where, values, count)
    indices, names = labels_of(rows, classes or None, [f"{where}[{index}]" for index in range(count)])
    return indices, None, names


def _indicators(where: str, table: np.ndarray, classes: tuple[str, ...], count: int) -> tuple[np.ndarray, tuple[str, ...]]:
    if len(table) != count:
        raise UsageError("SK102", where, f"{len(table)} rows for {count} images", "give one for each image")
    if classes and len(classes) != table.shape[1]:
        raise UsageError("SK102", where, f"{table.shape[1]} columns for {len(classes)} class names", "give one column for each class")
    problems = Problems()
    for index in np.flatnonzero(~np.isin(table, (0, 1)).all(axis=1)):
        problems.add("SK203", f"{where}[{index}]", f"is {table[index].tolist()}, wanted 0 or 1 for each class", "give indicators, or one label for each image")
    problems.raise_if_any(DataError)
    return table.astype(bool), classes or tuple(str(index) for index in range(table.shape[1]))
