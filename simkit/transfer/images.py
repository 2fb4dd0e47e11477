"""Images of a data set as the training loop wants them: in an order that does not depend on files, decoded once to uint8."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from simkit.dataset import Dataset, readable
from simkit.errors import DataError, NotEnoughData, Problem, Problems
from simkit.transfer.augmentation import MEAN, STD, augment, network_input, warp

__all__ = ["MEAN", "STD", "Listing", "augment", "batches", "decode", "listing", "network_input", "warp"]


@dataclass(frozen=True, eq=False)
class Listing:
    """What is known of a labelled data set before its images are decoded, in canonical order (by content, not by file).

    Attributes:
        dataset: where the images are read from.
        order: position in the data set of each row.
        digests: content of each image.
        labels: class index per image, int64 (n,), into ``classes``.
        classes: names of the classes that have images, sorted.
        groups: patient per image, or None.
        splits: given part ("train", "test", ...) per image, or None.
        keys: name of each image in the data set.
        absent: classes that the data set names and has no image of.
        looks: digest of each image as the network gets it, where the images were decoded already.
    """

    dataset: Dataset
    order: np.ndarray
    digests: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    groups: tuple[str, ...] | None
    absent: tuple[str, ...]
    splits: tuple[str, ...] | None = None
    keys: tuple[str, ...] = ()
    looks: tuple[str, ...] = ()

    @property
    def identities(self) -> tuple[str, ...]:
        """What makes two images the same one: how they look to the network, in whatever file they lie; their content where that is not known."""
        return self.looks or self.digests

    @property
    def name(self) -> str:
        return self.dataset.name

    def __len__(self) -> int:
        return len(self.order)


def listing(dataset: Dataset) -> Listing:
    """The data set in canonical order. Reads every file once, to digest it.

    Raises:
        DataError: SK208 when there are no labels, several an image, or only one class has images.
    """
    if dataset.multilabel:
        message = "images have several labels each, and the runner trains for one"
        raise DataError("SK208", dataset.name, message, "give one label column, or leave the data set out of sources and targets")
    names = dataset.label_names
    if names is None:
        message = "training needs labels and the data set has none"
        raise DataError("SK208", dataset.name, message, "give labels, or leave the data set out of sources and targets")
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        message = f"training needs at least two classes and all {len(names)} images are of class '{classes[0]}'"
        raise DataError("SK208", dataset.name, message, "check the labels")
    nothing = ("",) * len(names)
    groups, splits = dataset.groups or nothing, dataset.splits or nothing
    order = np.array(sorted(range(len(names)), key=lambda i: (dataset.digests[i], names[i], groups[i], splits[i])), dtype=np.int64)
    number = {name: index for index, name in enumerate(classes)}
    return Listing(
        dataset=dataset, order=order, digests=tuple(dataset.digests[i] for i in order), classes=classes,
        labels=np.array([number[names[i]] for i in order], dtype=np.int64), groups=tuple(groups[i] for i in order) if dataset.groups else None,
        absent=tuple(sorted(set(dataset.classes) - set(classes))), splits=tuple(splits[i] for i in order) if dataset.splits else None,
        keys=tuple(dataset.keys[i] for i in order),
    )


def decode(
    images: Listing, size: int, channels: int = 3, *, out: np.ndarray | None = None, tick: Callable[[int], None] | None = None,
) -> np.ndarray:
    """All images as uint8 (n, channels, size, size) in canonical order.

    The whole image is resized to the square (antialiased, bilinear; the aspect ratio is not kept, as in the seed study). Grey images are
    repeated to three channels; of colour images one channel is made by luminance (ITU-R 601, rounded as Pillow does), after resizing.

    Args:
        images: what is decoded.
        size: side of the square [pixels].
        channels: that are wanted.
        out: array (or memory map) that is filled and returned; a new one by default.
        tick: is called with the number of images done, after each.

    Raises:
        DataError: naming every image that cannot be read, or that has other channels than can be made into the wanted ones. Unreadable images
            are left out, and counted, where data sets are loaded; one that appears only now would silently change the folds.
    """
    import torch
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    shape = (len(images), channels, size, size)
    out = np.empty(shape, dtype=np.uint8) if out is None else out
    assert out.shape == shape, f"an array {out.shape} for images {shape}"
    problems = Problems()
    row_of = {int(position): row for row, position in enumerate(images.order)}
    for done, (position, image) in enumerate(readable(images.dataset, [int(i) for i in images.order]), start=1):
        if isinstance(image, Problem):
            problems.found.append(image)
        elif not _convertible(image.shape[2], channels):
            message = f"channels: {image.shape[2]} found, {channels} wanted"
            fix = f"set channels = {image.shape[2]} in [finetune]; only grey images become colour (3) and colour images grey (1)"
            problems.add("SK207", f"{images.name}: {images.dataset.keys[position]}", message, fix)
        else:
            tensor = torch.from_numpy(np.array(np.moveaxis(image, -1, 0)))
            square = resize(tensor, [size, size], interpolation=InterpolationMode.BILINEAR, antialias=True).numpy()
            out[row_of[position]] = _luminance(square) if channels == 1 and len(square) == 3 else square
        if tick is not None:
            tick(done)
    problems.raise_if_any(DataError)
    return out


def _convertible(found: int, wanted: int) -> bool:
    return found == wanted or (found, wanted) in ((1, 3), (3, 1))


def _luminance(colour: np.ndarray) -> np.ndarray:
    """uint8 (3, s, s) to (1, s, s) by ITU-R 601 in 16-bit fixed point: to the bit what Pillow's ``convert("L")`` gives."""
    red, green, blue = colour.astype(np.uint32)
    grey: np.ndarray = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return grey.astype(np.uint8)[None]


def batches(order: np.ndarray, size: int) -> list[np.ndarray]:
    """The positions in ceil(n / size) batches of equal size (one more or less).

    No image is dropped and no batch is a small rest: a last batch of one image breaks batch normalisation, one of three distorts it. Where
    equal dealing would still leave one image alone (three images in batches of two), batches are one image larger instead.
    """
    if len(order) < 2:
        raise NotEnoughData("SK501", "", f"{len(order)} training image: batch normalisation needs two", "add images")
    return np.array_split(order, max(1, min(-(-len(order) // size), len(order) // 2)))
