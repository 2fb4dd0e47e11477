"""MedMNIST's file layout: one .npz with {train,val,test}_images and {train,val,test}_labels."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from simkit.dataset import Dataset
from simkit.errors import DataError, Problems, nearest
from simkit.registry import option
from simkit.sources.arrays import array_digest
from simkit.sources.base import Source, located, nearest_entry, text_of

__all__ = ["Npz", "NpzReader"]

MOST_CLASSES = 10_000
"""A larger label is taken for something else than a class index."""

BROKEN = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)
"""What reading a damaged zip or array raises."""


@dataclass(frozen=True)
class Npz(Source):
    """An .npz file in the layout of MedMNIST: for each split, images uint8 (n, height, width) or (n, height, width, 3) and labels (n, 1) or (n,).

    Classes are named "0", "1", ... up to the largest label in any split of the file. Nothing is unpickled.
    """

    name = "npz"
    citation = "layout: J. Yang et al., MedMNIST v2, Scientific Data 10, 41 (2023)"

    path: Path = option(help="the .npz file")
    splits: tuple[str, ...] = option(("train", "val", "test"), "splits that are read")

    def load(self, name: str, base: Path) -> Dataset:
        """See :meth:`Source.load`; keys are ``split/index``. Image arrays are decompressed when the first image of a split is read."""
        path = located(self.path, base)
        where = text_of(path)
        if not path.is_file():
            message = "is a folder, wanted an .npz file" if path.is_dir() else f"the file does not exist{nearest_entry(path)}"
            raise DataError("SK201", where, message, "check the path; relative paths start at the study file")
        shapes = _headers(path, where)
        splits = tuple(dict.fromkeys(self.splits))
        labels = _all_labels(path, where, shapes, splits)
        _check_images(where, shapes, splits, labels)
        counts = {split: shapes[f"{split}_images"][0][0] for split in splits}
        if not sum(counts.values()):
            raise DataError("SK201", where, f"0 images in {', '.join(splits)}", "name other splits, or another file")
        classes = max(int(values.max(initial=0)) for values in labels.values()) + 1
        return Dataset(
            name, tuple(f"{split}/{i}" for split in splits for i in range(counts[split])), NpzReader(str(path), counts),
            np.concatenate([labels[split] for split in splits]), tuple(str(c) for c in range(classes)),
            splits=tuple(split for split in splits for _ in range(counts[split])), origin=where,
        )


@dataclass(frozen=True, eq=False)
class NpzReader:
    """Images of an .npz file (an ImageReader); the array of a split is read when its first image is asked for, and kept.

    Attributes:
        path: the file.
        counts: images per split, in the order of the positions.
    """

    path: str
    counts: Mapping[str, int]
    arrays: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def read(self, index: int) -> np.ndarray:
        """Image as uint8 (height, width, 1 or 3)."""
        for split, count in self.counts.items():
            if index < count:
                image = np.array(self._array(split)[index])
                return image[:, :, None] if image.ndim == 2 else image
            index -= count
        raise IndexError(index)

    def digest(self, index: int) -> str:
        """SHA-256 over type, shape and bytes of the image."""
        return array_digest(self.read(index))

    def _array(self, split: str) -> np.ndarray:
        if split not in self.arrays:
            self.arrays[split] = _read_array(Path(self.path), text_of(self.path), f"{split}_images")
        return self.arrays[split]

    def __getstate__(self) -> dict[str, Any]:
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


def _all_labels(path: Path, where: str, shapes: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], splits: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Labels (n,) of every split of the file, those that are not wanted included: they may hold the highest class."""
    problems, out = Problems(), {}
    found = ", ".join(f"'{key}' {shape}" for key, (shape, _) in shapes.items()) or "none"
    for key in (f"{split}_{what}" for split in splits for what in ("images", "labels")):
        if key not in shapes:
            fix = "the layout of MedMNIST is {train,val,test}_images and {train,val,test}_labels; name the splits that are there by splits = [...]"
            problems.add("SK202", where, f"array '{key}' is missing{nearest(key, shapes)}; arrays found: {found}", fix)
    for key, (shape, kind) in shapes.items():
        if not key.endswith("_labels"):
            continue
        if len(shape) == 2 and shape[1] > 1:
            fix = "reduce the labels to one class per image; multi-label data sets are not supported yet"
            problems.add("SK202", where, f"'{key}' has shape {shape}: {shape[1]} labels per image (multi-label)", fix)
        elif len(shape) not in (1, 2) or kind.kind not in "ui":
            message = f"'{key}' has shape {shape} and type {kind}, wanted whole numbers of shape (n,) or (n, 1)"
            problems.add("SK202", where, message, "store class indices 0, 1, ...")
        else:
            out[key.removesuffix("_labels")] = _read_array(path, where, key).reshape(-1).astype(np.int64)
    for split, values in out.items():
        if values.size and (values.min() < 0 or values.max() >= MOST_CLASSES):
            extreme = values.min() if values.min() < 0 else values.max()
            message = f"'{split}_labels' holds {extreme}, wanted class indices from 0 to {MOST_CLASSES - 1}"
            problems.add("SK203", where, message, "store class indices 0, 1, ...")
    problems.raise_if_any(DataError)
    return out


def _check_images(
    where: str, shapes: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], splits: tuple[str, ...], labels: Mapping[str, np.ndarray],
) -> None:
    problems = Problems()
    for split in splits:
        key = f"{split}_images"
        shape, kind = shapes[key]
        if kind != np.uint8:
            fix = "convert the images to 8 bit by one rule for all images"
            problems.add("SK207", where, f"'{key}' has type {kind} and shape {shape}, wanted uint8", fix)
        elif len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)) or 0 in shape[1:]:
            hint = ": volumes are not supported, store slices" if len(shape) == 4 and shape[1] == shape[2] == shape[3] else ""
            message = f"'{key}' has shape {shape}, wanted (n, height, width) or (n, height, width, 3){hint}"
            problems.add("SK202", where, message, "store 8-bit grey or RGB images")
        elif shape[0] != len(labels[split]):
            problems.add("SK202", where, f"'{key}' has {shape[0]} images, '{split}_labels' {len(labels[split])} labels", "store one label per image")
    problems.raise_if_any(DataError)
