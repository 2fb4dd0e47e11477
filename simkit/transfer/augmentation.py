"""uint8 images to the network's input: augmented, normalised and laid out on the device, a batch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from simkit.errors import UsageError, nearest

if TYPE_CHECKING:
    import torch

__all__ = [
    "AUGMENTATIONS", "MEAN", "STD", "Operation", "augment", "channel_statistics", "drawn_operations", "network_input", "operations_of", "randaugment",
    "to_device", "warp",
]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Channel means and standard deviations of ImageNet (on 0..1), as torchvision's weights expect them; used for every source alike."""

ROTATION, SHIFT = 10.0, 0.1
"""Largest rotation [degrees] and shift [fraction of the side] of the seed study's augmentation."""

AUGMENTATIONS = ("none", "paper", "randaugment")

Operation = tuple[str, float]
"""Name of an operation of RandAugment, and its signed magnitude (0 where it has none)."""


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device; to a CUDA device through pinned memory, without waiting for what the device is doing."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
    return pinned.to(device, non_blocking=True)


# --- the seed study's augmentation -----------------------------------------------------------------------------------------------------


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
    matrices = to_device(torch.stack([top, bottom], dim=1).to(pixels.dtype), pixels.device)
    grid = affine_grid(matrices, list(pixels.shape), align_corners=False)
    return grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def augment(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The seed study's augmentation, drawn anew for each image: rotation up to 10 degrees, shift up to 0.1, horizontal flip.

    torchvision's v2 transforms draw once per call, so they would move a whole batch alike or need a call per image; this is one call a
    batch on the device, equal to v2's ``affine`` for the same angle and shift. Edges are repeated, as Keras does by default.
    """
    import torch

    draws = torch.rand(len(pixels), 4, generator=generator)
    return warp(pixels, degrees=ROTATION * (2 * draws[:, 0] - 1), shift=SHIFT * (2 * draws[:, 1:3] - 1), flip=draws[:, 3] < 0.5)


# --- RandAugment -----------------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def operations_of(magnitude: int, bins: int, side: int) -> tuple[tuple[Operation, ...], ...]:
    """The operations that RandAugment chooses between, each with one signed magnitude or, where the sign is drawn, two (plus, minus).

    Names, magnitudes and signs are those of ``torchvision.transforms.v2.RandAugment``.
    """
    import torch

    if not 0 <= magnitude < bins or bins < 2:
        message = f"magnitude {magnitude} is not one of {bins} bins"
        raise UsageError("SK102", "randaugment", message, "give a magnitude from 0 to bins - 1, of two bins at least")

    def level(last: float, first: float = 0.0) -> float:
        return float(torch.linspace(first, last, bins)[magnitude])

    signed = {
        "ShearX": level(0.3), "ShearY": level(0.3), "TranslateX": level(150.0 / 331.0 * side), "TranslateY": level(150.0 / 331.0 * side),
        "Rotate": level(30.0), "Brightness": level(0.9), "Color": level(0.9), "Contrast": level(0.9), "Sharpness": level(0.9),
    }
    bits = float((8 - (torch.arange(bins) / ((bins - 1) / 4))).round().int()[magnitude])
    plain = {"Posterize": bits, "Solarize": level(0.0, first=1.0), "AutoContrast": 0.0, "Equalize": 0.0}
    return ((("Identity", 0.0),), *(((name, size), (name, -size)) for name, size in signed.items()), *(((name, size),) for name, size in plain.items()))


def drawn_operations(n: int, draws: torch.Generator, *, operations: int, magnitude: int, bins: int, side: int) -> list[list[Operation]]:
    """What is done to each of n images, one after the other: drawn for a position of the batch, whatever image is there."""
    import torch

    known = operations_of(magnitude, bins, side)
    chosen = torch.randint(len(known), (n, operations), generator=draws).tolist()
    minus = (torch.rand(n, operations, generator=draws) <= 0.5).tolist()
    return [[known[c][int(sign) % len(known[c])] for c, sign in zip(*row, strict=True)] for row in zip(chosen, minus, strict=True)]


def apply_operation(images: torch.Tensor, operation: Operation) -> torch.Tensor:
    """One operation on uint8 images (n, 1 or 3, s, s), each for itself."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as v2

    name, size = operation
    bilinear = InterpolationMode.BILINEAR

    def moved(*, across: int = 0, down: int = 0, shear: tuple[float, float] = (0.0, 0.0), center: list[float] | None = None) -> torch.Tensor:
        out: torch.Tensor = v2.affine(images, angle=0.0, translate=[across, down], scale=1.0, shear=list(shear), interpolation=bilinear, center=center)
        return out

    slant = math.degrees(math.atan(size))
    table: dict[str, Callable[[], Any]] = {
        "Identity": lambda: images,
        "ShearX": lambda: moved(shear=(slant, 0.0), center=[0, 0]),
        "ShearY": lambda: moved(shear=(0.0, slant), center=[0, 0]),
        "TranslateX": lambda: moved(across=int(size)),
        "TranslateY": lambda: moved(down=int(size)),
        "Rotate": lambda: v2.rotate(images, angle=size, interpolation=bilinear),
        "Brightness": lambda: v2.adjust_brightness(images, brightness_factor=1.0 + size),
        "Color": lambda: v2.adjust_saturation(images, saturation_factor=1.0 + size),
        "Contrast": lambda: v2.adjust_contrast(images, contrast_factor=1.0 + size),
        "Sharpness": lambda: v2.adjust_sharpness(images, sharpness_factor=1.0 + size),
        "Posterize": lambda: v2.posterize(images, bits=int(size)),
        "Solarize": lambda: v2.solarize(images, threshold=255 * size),
        "AutoContrast": lambda: v2.autocontrast(images),
        "Equalize": lambda: v2.equalize(images),
    }
    changed: torch.Tensor = table[name]()
    return changed


def randaugment(pixels: torch.Tensor, draws: torch.Generator, *, operations: int = 2, magnitude: int = 9, bins: int = 31) -> torch.Tensor:
    """RandAugment (Cubuk et al. 2020), drawn anew for each image, as ``torchvision.transforms.v2.RandAugment`` does it to one image.

    Images of a batch that draw the same operation and sign go through torchvision's function together. Moved images are interpolated
    bilinearly (as in torchvision's own training recipes; the class alone would take the nearest pixel) and black outside. Of grey images
    "Color" changes nothing.

    Args:
        pixels: uint8 (n, 1 or 3, s, s) on any device; not changed.
        draws: on the CPU.
        operations: done to each image, one after the other.
        magnitude: of the operations, 0 to ``bins`` - 1.
        bins: number of magnitudes.
    """
    import torch

    if pixels.shape[1] not in (1, 3):
        message = f"randaugment changes colours: it is defined for 1 or 3 channels, and the images have {pixels.shape[1]}"
        raise UsageError("SK102", "finetune.augmentation", message, 'set augmentation = "paper" or "none"')
    plans = drawn_operations(len(pixels), draws, operations=operations, magnitude=magnitude, bins=bins, side=pixels.shape[-1])
    for step in range(operations):
        order = sorted(range(len(plans)), key=lambda i: plans[i][step])
        together: dict[Operation, int] = {}
        for i in order:
            together[plans[i][step]] = together.get(plans[i][step], 0) + 1
        there = torch.tensor(order)
        back = torch.empty_like(there).scatter_(0, there, torch.arange(len(order)))
        there, back = to_device(torch.stack([there, back]), pixels.device)
        groups = pixels[there].split(list(together.values()))
        pixels = torch.cat([apply_operation(group, operation) for group, operation in zip(groups, together, strict=True)])[back]
    return pixels


# --- normalisation ---------------------------------------------------------------------------------------------------------------------


def channel_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, for values in 0..1: those of three channels, or for any other number the mean of these."""
    if channels == len(MEAN):
        return MEAN, STD
    return (float(np.mean(MEAN)),) * channels, (float(np.mean(STD)),) * channels


@lru_cache(maxsize=32)
def _scaling(channels: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(factor, offset), each (1, channels, 1, 1): grey level g becomes g * factor + offset."""
    import torch

    mean, std = (np.array(values) for values in channel_statistics(channels))
    with torch.inference_mode(False):  # kept for trainings, whoever asks first
        factor, offset = (torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1).to(device) for values in (1 / (255 * std), -mean / std))
    return factor, offset


def network_input(
    pixels: torch.Tensor | np.ndarray, device: torch.device, draws: torch.Generator | None = None, augmentation: str = "paper",
) -> torch.Tensor:
    """uint8 (b, channels, s, s) to the network's float32 input on the device, channels last; augmented when ``draws`` are given.

    Three channels are normalised by :data:`MEAN` and :data:`STD`; of any other number, each by the mean of the three means (0.449) and of the
    three standard deviations (0.226).

    Args:
        pixels: grey levels, not changed; on the device already, or not.
        device: where the input is wanted.
        draws: on the CPU; None for an evaluation, which is never augmented.
        augmentation: one of :data:`AUGMENTATIONS`.
    """
    import torch

    if augmentation not in AUGMENTATIONS:
        known = f"known: {', '.join(AUGMENTATIONS)}"
        raise UsageError("SK101", "finetune.augmentation", f"'{augmentation}' is not an augmentation{nearest(augmentation, AUGMENTATIONS)}", known)
    levels = to_device(torch.from_numpy(pixels) if isinstance(pixels, np.ndarray) else pixels, device)
    if draws is not None and augmentation == "randaugment":
        levels = randaugment(levels, draws)
    x = levels.float()
    if draws is not None and augmentation == "paper":
        x = augment(x, draws)
    factor, offset = _scaling(x.shape[1], x.device)
    out = torch.empty_like(x, memory_format=torch.channels_last)
    torch.addcmul(offset, x, factor, out=out)  # after the augmentation: bilinear weights add up to one, so this is the same and one pass less
    return out
