"""MedMNIST's file layout: one .npz with {train,val,test}_images and {train,val,test}_labels."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.lib import format as npy

from simkit.dataset import Dataset
from simkit.errors import DataError, Problems, UsageError, nearest
from simkit.recipe import canonical, digest_bytes
from simkit.registry import option
from simkit.sources.arrays import array_digest
from simkit.sources.base import Source, located, nearest_entry, text_of
from simkit.sources.intensity import percentiles_of
from simkit.sources.levels import levels_between

__all__ = ["Intensity", "Npz", "NpzReader"]

Shapes = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Shape and type of each array."""

MOST_CLASSES = 10_000
"""A larger label is taken for something else than a class index."""

BROKEN = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)
"""What reading a damaged zip or array raises."""


RULES = ('declare intensity = "window" with window = [low, high], "percentile" (one window for the data set) or "image-percentile" (each image its own); '
         'for whole numbers also "full-range" or "12-bit"')


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """The declared rule that turns arrays that are not 8-bit into grey levels; part of the digest of every image of such an array.

    Attributes:
        intensity: "refuse": not at all. "full-range": the whole range of the type to 0..255. "12-bit": 0..4095; a larger value is an error.
            "window": low and high become 0 and 255. "percentile": the window of all images of the splits that are read, found on first use.
            "image-percentile": each image its own.
        window: low and high of "window", in the values of the array.
        percentiles: lower and upper, in percent of the pixels; each is a value that occurs.
    """

    intensity: Literal["refuse", "full-range", "12-bit", "window", "percentile", "image-percentile"] = option(
        "refuse", "how images that are not 8-bit become 8-bit; refused until declared")
    window: tuple[float, ...] = option((), 'low and high value that become 0 and 255, for intensity = "window"')
    percentiles: tuple[float, ...] = option((0.5, 99.5), "lower and upper percentile, for the intensities that are named so", minimum=0, maximum=100)

    def __post_init__(self) -> None:
        if (self.intensity == "window") != bool(self.window):
            given = f"window = {list(self.window)} beside intensity = '{self.intensity}'" if self.window else "intensity = 'window' without the window"
            raise UsageError("SK102", "npz.window", given, 'give both: intensity = "window" and window = [low, high]')
        for name, pair in (("window", self.window), ("percentiles", self.percentiles)):
            if pair and (len(pair) != 2 or pair[0] >= pair[1]):
                raise UsageError("SK102", f"npz.{name}", f"{list(pair)}, expected two values, the lower first", f"give {name} = [low, high]")

    @property
    def rules(self) -> Intensity:
        """These rules alone."""
        return Intensity(intensity=self.intensity, window=self.window, percentiles=self.percentiles)


@dataclass(frozen=True)
class Npz(Source, Intensity):
    """An .npz file in the layout of MedMNIST: for each split, images (n, height, width) or (n, height, width, 3) and labels (n, 1) or (n,).

    Labels (n, k) of zeros and ones are k classes of which an image may have several. Classes are named "0", "1", ... up to the largest label
    in any split of the file. Images are uint8; grey images of other numbers need a declared rule. Nothing is unpickled.
    """

    name = "npz"
    citation = "layout: J. Yang et al., MedMNIST v2, Scientific Data 10, 41 (2023)"

    path: Path = option(help="the .npz file")
    splits: tuple[str, ...] = option(("train", "val", "test"), "splits that are read")
    labels: bool = option(True, "false: an unlabelled set, arrays of labels are not looked at")

    def load(self, name: str, base: Path) -> Dataset:
        """See :meth:`Source.load`; keys are ``split/index``. Image arrays are decompressed when the first image of a split is read."""
        path = located(self.path, base)
        where = text_of(path)
        if not path.is_file():
            message = "is a folder, wanted an .npz file" if path.is_dir() else f"the file does not exist{nearest_entry(path)}"
            raise DataError("SK201", where, message, "check the path; relative paths start at the study file")
        shapes = _headers(path, where)
        splits = tuple(dict.fromkeys(self.splits))
        _check_presence(where, shapes, splits, self.labels)
        labels = _all_labels(path, where, shapes) if self.labels else {}
        _check_images(where, shapes, splits, labels, self.rules)
        counts = {split: shapes[f"{split}_images"][0][0] for split in splits}
        if not sum(counts.values()):
            raise DataError("SK201", where, f"0 images in {', '.join(splits)}", "name other splits, or another file")
        dataset = Dataset(
            name, tuple(f"{split}/{i}" for split in splits for i in range(counts[split])), NpzReader(str(path), counts, self.rules),
            splits=tuple(split for split in splits for _ in range(counts[split])), origin=where,
        )
        return _labelled(dataset, labels, splits) if labels else dataset


def _labelled(dataset: Dataset, labels: Mapping[str, np.ndarray], splits: tuple[str, ...]) -> Dataset:
    wanted = np.concatenate([labels[split] for split in splits])
    if wanted.ndim == 2:
        return replace(dataset, indicators=wanted.astype(bool), classes=tuple(str(c) for c in range(wanted.shape[1])))
    classes = max(int(values.max(initial=0)) for values in labels.values()) + 1
    return replace(dataset, labels=wanted, classes=tuple(str(c) for c in range(classes)))


@dataclass(frozen=True, eq=False)
class NpzReader:
    """Images of an .npz file (a RemarkingReader); the array of a split is read when its first image is asked for, and kept.

    Attributes:
        path: the file.
        counts: images per split, in the order of the positions.
        rules: how images that are not uint8 become so.
        arrays: of the splits that were read.
        windows: the window of all images, once it was found.
    """

    in_memory: ClassVar = True  # every other process would decompress the whole file again
    path: str
    counts: Mapping[str, int]
    rules: Intensity = field(default_factory=Intensity)
    arrays: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    windows: list[tuple[float, float]] = field(default_factory=list, repr=False)

    def read(self, index: int) -> np.ndarray:
        """Image as uint8 (height, width, 1 or 3)."""
        return self.remarked(index)[0]

    def remarked(self, index: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """The image, and what was done to it."""
        split, values = self._values(index)
        if values.dtype == np.uint8:
            return values, ()
        where = f"{text_of(self.path)}: {split}"
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            count = int((~np.isfinite(values)).sum())
            raise DataError("SK207", where, f"holds {count} values that are NaN or infinite: no grey level stands for them", "replace them in the file")
        low, high = self._ends(values, where)
        levels, remarks = levels_between(values, low, high)
        return levels, (f"{values.dtype} values by intensity = '{self.rules.intensity}'", *remarks)

    def digest(self, index: int) -> str:
        """SHA-256 over type, shape and bytes of the image; and, where it is not uint8, over the rules and the window that was found."""
        _, values = self._values(index)
        if values.dtype == np.uint8:
            return array_digest(values)
        window = self._window() if self.rules.intensity == "percentile" else None
        return digest_bytes(array_digest(values).encode(), canonical([self.rules, window]).encode())

    def _values(self, index: int) -> tuple[str, np.ndarray]:
        """Key of an image, and a copy of its values as they are stored (height, width, 1 or 3)."""
        for split, count in self.counts.items():
            if index < count:
                image = np.array(self._array(split)[index])
                return f"{split}/{index}", image[:, :, None] if image.ndim == 2 else image
            index -= count
        raise IndexError(index)

    def _array(self, split: str) -> np.ndarray:
        if split not in self.arrays:
            self.arrays[split] = _read_array(Path(self.path), text_of(self.path), f"{split}_images")
        return self.arrays[split]

    def _ends(self, values: np.ndarray, where: str) -> tuple[float, float]:
        rules = self.rules
        if rules.intensity == "window":
            return rules.window[0], rules.window[1]
        if rules.intensity == "percentile":
            return self._window()
        if rules.intensity == "image-percentile":
            low, high = np.percentile(values, rules.percentiles, method="inverted_cdf")
            return float(low), float(high)
        ends = (0, 4095) if rules.intensity == "12-bit" else (int(np.iinfo(values.dtype).min), int(np.iinfo(values.dtype).max))
        if values.min() < ends[0] or values.max() > ends[1]:
            outside = values.min() if values.min() < ends[0] else values.max()
            raise DataError("SK207", where, f"holds the value {outside}, outside the 0 to 4095 of intensity = '12-bit'", RULES)
        return ends

    def _window(self) -> tuple[float, float]:
        """The percentiles of all images."""
        if not self.windows:
            found = percentiles_of(self._finite, self.rules.percentiles)
            if found is None or found[0] >= found[1]:
                what = "no image is finite" if found is None else f"both percentiles of all pixels are {found[0]:g}"
                fix = 'declare intensity = "window" with window = [low, high]'
                raise DataError("SK207", text_of(self.path), f"no window for the data set: {what}", fix)
            self.windows.append(found)
        return self.windows[0]

    def _finite(self) -> Iterator[np.ndarray]:
        for split in self.counts:
            for values in self._array(split):
                if values.dtype != np.uint8 and np.isfinite(values).all():
                    yield values

    def __getstate__(self) -> dict[str, Any]:
        if self.rules.intensity == "percentile":
            self._window()  # once here, not once in every process
        return self.__dict__ | {"arrays": {}}  # another process reads the file itself: cheaper than sending the images


def _damaged(where: str, error: Exception, key: str = "") -> DataError:
    what = f"array '{key}' cannot be read" if key else "is not a readable .npz file"
    return DataError("SK201", where, f"{what}: {str(error) or type(error).__name__}", "get the file again: it is damaged or was not copied completely")


def _headers(path: Path, where: str) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of every array, without decompressing the arrays."""
    out: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    key = ""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if not member.endswith(".npy"):
                    continue
                key = member.removesuffix(".npy")
                with archive.open(member) as file:
                    version = npy.read_magic(file)
                    header = npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)
                out[key] = (header[0], header[2])
    except BROKEN as error:
        raise _damaged(where, error, key) from error
    return out


def _read_array(path: Path, where: str, key: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as file:
            return np.asarray(file[key])
    except BROKEN as error:
        raise _damaged(where, error, key) from error


def _check_presence(where: str, shapes: Shapes, splits: tuple[str, ...], labelled: bool) -> None:
    problems = Problems()
    found = ", ".join(f"'{key}' {shape}" for key, (shape, _) in shapes.items()) or "none"
    for key in (f"{split}_{what}" for split in splits for what in ("images", "labels")[: 1 + labelled]):
        if key not in shapes:
            fix = "the layout of MedMNIST is {train,val,test}_images and {train,val,test}_labels; name the splits that are there by splits = [...]"
            fix += ", or declare labels = false for an unlabelled set" if key.endswith("_labels") else ""
            problems.add("SK202", where, f"array '{key}' is missing{nearest(key, shapes)}; arrays found: {found}", fix)
    problems.raise_if_any(DataError)


def _all_labels(path: Path, where: str, shapes: Shapes) -> dict[str, np.ndarray]:
    """Labels (n,) or (n, classes) of every split of the file, those that are not wanted included: they may hold the highest class."""
    problems, out = Problems(), {}
    for key, (shape, kind) in shapes.items():
        if not key.endswith("_labels"):
            continue
        if len(shape) not in (1, 2) or 0 in shape[1:] or kind.kind not in "uib":
            message = f"'{key}' has shape {shape} and type {kind}, wanted whole numbers of shape (n,), (n, 1) or (n, classes)"
            problems.add("SK202", where, message, "store class indices 0, 1, ..., or one column of 0 and 1 per class")
            continue
        values = _read_array(path, where, key)
        out[key.removesuffix("_labels")] = values.astype(np.int64) if len(shape) == 2 and shape[1] > 1 else values.reshape(-1).astype(np.int64)
    for split, values in out.items():
        limit = MOST_CLASSES if values.ndim == 1 else 2
        if values.size and (values.min() < 0 or values.max() >= limit):
            extreme = values.min() if values.min() < 0 else values.max()
            if values.ndim == 1:
                message = f"'{split}_labels' holds {extreme}, wanted class indices from 0 to {MOST_CLASSES - 1}"
                problems.add("SK203", where, message, "store class indices 0, 1, ...")
            else:
                message = f"'{split}_labels' has {values.shape[1]} columns, which are classes of which an image may have several, and holds {extreme}"
                problems.add("SK203", where, message, "store 0 and 1; or one class index per image, of shape (n,)")
    widths = {split: values.shape[1:] for split, values in out.items()}
    if len(set(widths.values())) > 1:
        shown = ", ".join(f"'{split}_labels' {width[0] if width else 1}" for split, width in widths.items())
        problems.add("SK202", where, f"the splits differ in the number of label columns: {shown}", "store the same classes in every split")
    problems.raise_if_any(DataError)
    return out


def _check_images(where: str, shapes: Shapes, splits: tuple[str, ...], labels: Mapping[str, np.ndarray], rules: Intensity) -> None:
    problems = Problems()
    for split in splits:
        key = f"{split}_images"
        shape, kind = shapes[key]
        if kind != np.uint8 and (problem := _not_covered(shape, kind, rules)):
            problems.add("SK207", where, f"'{key}' has type {kind} and shape {shape}{problem[0]}", problem[1])
        elif len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)) or 0 in shape[1:]:
            hint = ": volumes are not supported, store slices" if len(shape) == 4 and shape[1] == shape[2] == shape[3] else ""
            message = f"'{key}' has shape {shape}, wanted (n, height, width) or (n, height, width, 3){hint}"
            problems.add("SK202", where, message, "store 8-bit grey or RGB images")
        elif labels and shape[0] != len(labels[split]):
            problems.add("SK202", where, f"'{key}' has {shape[0]} images, '{split}_labels' {len(labels[split])} labels", "store one label per image")
    problems.raise_if_any(DataError)


def _not_covered(shape: tuple[int, ...], kind: np.dtype[Any], rules: Intensity) -> tuple[str, str] | None:
    """Why the declared rule does not turn an array that is not uint8 into grey levels, and the remedy; None where it does."""
    if kind.kind not in "iuf" or (len(shape) == 4 and shape[3] == 3):
        return ", wanted uint8", "convert the images to 8 bit by one rule for all images"
    if rules.intensity == "refuse":
        return ", wanted uint8: how the values become 8 bit is not declared", RULES
    if kind.kind == "f" and rules.intensity in ("full-range", "12-bit"):
        return f", which intensity = '{rules.intensity}' does not cover", RULES
    return None
