"""Images of a data set as the training loop wants them: in an order that does not depend on files, decoded once to uint8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from simkit.dataset import Dataset, readable
from simkit.errors import DataError, NotEnoughData, Problem, Problems

if TYPE_CHECKING:
    import torch

__all__ = ["MEAN", "STD", "Listing", "augment", "decode", "listing", "network_input", "warp"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Channel means and standard deviations of ImageNet (on 0..1), as torchvision's weights expect them; used for every source alike."""

ROTATION, SHIFT = 10.0, 0.1
"""Largest rotation [degrees] and shift [fraction of the side] of the seed study's augmentation."""


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
        absent: classes that the data set names and has no image of.
    """

    dataset: Dataset
    order: np.ndarray
    digests: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    groups: tuple[str, ...] | None
    absent: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.dataset.name

    def __len__(self) -> int:
        return len(self.order)


def listing(dataset: Dataset) -> Listing:
    """The data set in canonical order. Reads every file once, to digest it.

    Raises:
        DataError: SK208 when there are no labels or only one class has images.
    """
    names = dataset.label_names
    if names is None:
        message = "training needs labels and the data set has none"
        raise DataError("SK208", dataset.name, message, "give labels, or leave the data set out of sources and targets")
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        message = f"training needs at least two classes and all {len(names)} images are of class '{classes[0]}'"
        raise DataError("SK208", dataset.name, message, "check the labels")
    groups = dataset.groups or ("",) * len(names)
    order = np.array(sorted(range(len(names)), key=lambda i: (dataset.digests[i], names[i], groups[i])), dtype=np.int64)
    number = {name: index for index, name in enumerate(classes)}
    return Listing(
        dataset=dataset, order=order, digests=tuple(dataset.digests[i] for i in order), classes=classes,
        labels=np.array([number[names[i]] for i in order], dtype=np.int64), groups=tuple(groups[i] for i in order) if dataset.groups else None,
        absent=tuple(sorted(set(dataset.classes) - set(classes))),
    )


def decode(images: Listing, size: int) -> np.ndarray:
    """All images as uint8 (n, 3, size, size) in canonical order.

    The whole image is resized to the square (antialiased, bilinear; the aspect ratio is not kept, as in the seed study); grey images are
    repeated to three channels.

    Raises:
        DataError: naming every image that cannot be read. Unreadable images are left out, and counted, where data sets are loaded; one
            that appears only now would silently change the folds.
    """
    import torch
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    out = np.empty((len(images), 3, size, size), dtype=np.uint8)
    problems = Problems()
    row_of = {int(position): row for row, position in enumerate(images.order)}
    for position, image in readable(images.dataset, [int(i) for i in images.order]):
        if isinstance(image, Problem):
            problems.found.append(image)
            continue
        tensor = torch.from_numpy(np.array(np.moveaxis(image, -1, 0)))
        square = resize(tensor, [size, size], interpolation=InterpolationMode.BILINEAR, antialias=True)
        out[row_of[position]] = square.expand(3, size, size).numpy()
    problems.raise_if_any(DataError)
    return out


def batches(order: np.ndarray, size: int) -> list[np.ndarray]:
    """The positions in ceil(n / size) batches of equal size (one more or less).

    No image is dropped and no batch is a small rest: a last batch of one image breaks batch normalisation, one of three distorts it. Where
    equal dealing would still leave one image alone (three images in batches of two), batches are one image larger instead.
    """
    if len(order) < 2:
        raise NotEnoughData("SK501", "", f"{len(order)} training image: batch normalisation needs two", "add images")
    return np.array_split(order, max(1, min(-(-len(order) // size), len(order) // 2)))


def warp(pixels: torch.Tensor, *, degrees: torch.Tensor, shift: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Flips, rotates about the centre, then shifts each image by its own amounts; bilinear, edge pixels repeated outside.

    Args:
        pixels: float (n, channels, s, s).
        degrees: rotation per image (n,), counter-clockwise.
        shift: right and down, as a fraction of the side (n, 2).
        flip: whether the image is mirrored left to right first (n,), bool.
    """
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    # grid_sample maps output to input positions (-1..1): the inverse of "flip, rotate by a, shift by t" is "flip . rotate by -a . (p - t)"
    angle = torch.deg2rad(degrees)
    cos, sin, mirror = angle.cos(), angle.sin(), 1.0 - 2.0 * flip.to(angle.dtype)
    right, down = 2.0 * shift[:, 0], 2.0 * shift[:, 1]
    top = torch.stack([cos * mirror, -sin * mirror, (-cos * right + sin * down) * mirror], dim=1)
    bottom = torch.stack([sin, cos, -sin * right - cos * down], dim=1)
    grid = affine_grid(torch.stack([top, bottom], dim=1).to(pixels), list(pixels.shape), align_corners=False)
    return grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def augment(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The seed study's augmentation, drawn anew for each image: rotation up to 10 degrees, shift up to 0.1, horizontal flip.

    torchvision's v2 transforms draw once per call, so they would move a whole batch alike or need a call per image; this is one call a
    batch on the device, equal to v2's ``affine`` for the same angle and shift. Edges are repeated, as Keras does by default.
    """
    import torch

    draws = torch.rand(len(pixels), 4, generator=generator)
    return warp(pixels, degrees=ROTATION * (2 * draws[:, 0] - 1), shift=SHIFT * (2 * draws[:, 1:3] - 1), flip=draws[:, 3] < 0.5)


def network_input(pixels: np.ndarray, device: torch.device, generator: torch.Generator | None = None) -> torch.Tensor:
    """uint8 (b, 3, s, s) to the network's float32 input on the device, augmented when a generator is given."""
    import torch

    x = torch.from_numpy(pixels)
    x = (x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)).float().div_(255)
    if generator is not None:
        x = augment(x, generator)
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((x - mean) / std).contiguous(memory_format=torch.channels_last)
