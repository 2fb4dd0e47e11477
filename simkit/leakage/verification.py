"""Whether two pictures that look alike are copies: they are laid over each other as well as can be, and their details are compared.

Chest X-rays, slices of one organ and photographs of one thing look alike as a whole. What copies have in common, and look-alikes do not, is the detail:
so the pictures are aligned (one of eight orientations, scale and shift of each axis), and the correlation is that of their details, without the broad
shades that all images of a kind share.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache

import numpy as np

__all__ = ["ORIENTATIONS", "Alignment", "aligned", "turned"]

ORIENTATIONS: tuple[str, ...] = (
    "", "mirrored", "upside down", "rotated 180", "transposed", "rotated 90", "rotated 270", "transposed and rotated 180",
)
"""What is done to the first picture to get the second; number = mirror + 2 flip + 4 transpose (the transpose comes first)."""

SCALES = (0.82, 0.88, 0.91, 0.95, 1.0, 1.053, 1.1, 1.136, 1.22)
"""Scales that alignment starts from: one picture may be a part of the other."""

BATCH = 2**17
"""Pixels of the pictures that are aligned at a time: more do not fit into a processor's cache."""

STEPS = 12
"""Steps of the alignment (Gauss-Newton on the squared difference of normalised pictures)."""

LARGEST_SCALE, LARGEST_SHIFT = 1.3, 0.15
"""Beyond these (shift in parts of the side) two pictures are not laid over each other."""

BLUR = 0.03
"""Width (standard deviation of a Gaussian, in parts of the side) of the blur under which pictures are aligned; twice that at first."""

COARSE = (0.03, 0.09)
"""Coarse details are what is between these widths, in parts of the side."""

FINE = (0.7, 2.0)
"""Fine details: between these, in pixels."""

FAINTEST = 0.3
"""Standard deviation of details, grey levels, below which a picture shows nothing to compare."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """How well pictures fit that were laid over each other, one number a pair.

    Attributes:
        fine: correlation of the fine details, -1..1; 0 where there is nothing to compare.
        coarse: of the coarse details.
        rest: standard deviation of what differs in the fine details once contrast is equal, in grey levels.
        overlap: part of the second picture that the first covers, 0..1.
        contrast: spread of the first picture's own fine details over that of the second's, where both lie.
    """

    fine: np.ndarray
    coarse: np.ndarray
    rest: np.ndarray
    overlap: np.ndarray
    contrast: np.ndarray


def turned(pictures: np.ndarray, orientation: np.ndarray | int) -> np.ndarray:
    """Pictures (m, s, s), each in the orientation of its number (see :data:`ORIENTATIONS`)."""
    numbers = np.broadcast_to(np.asarray(orientation), len(pictures))
    out = np.where((numbers & 4 > 0)[:, None, None], pictures.swapaxes(1, 2), pictures)
    out = np.where((numbers & 2 > 0)[:, None, None], out[:, ::-1], out)
    return np.where((numbers & 1 > 0)[:, None, None], out[:, :, ::-1], out)


@cache
def _blur(side: int, width: float) -> np.ndarray:
    """The matrix (s, s) of a Gaussian blur along one axis, edges repeated."""
    at = np.arange(side)
    radius = int(np.ceil(4 * width))
    out = np.zeros((side, side))
    for offset in range(-radius, radius + 1):
        out[at, np.clip(at + offset, 0, side - 1)] += np.exp(-0.5 * (offset / width) ** 2)
    matrix: np.ndarray = (out / out.sum(1, keepdims=True)).astype(np.float32)
    return matrix


def _smooth(pictures: np.ndarray, width: float) -> np.ndarray:
    matrix = _blur(pictures.shape[1], width)
    out: np.ndarray = matrix @ pictures @ matrix.T
    return out


def _details(pictures: np.ndarray, low: float, high: float) -> np.ndarray:
    """What is between two widths of blur, in pixels."""
    out: np.ndarray = _smooth(pictures, low) - _smooth(pictures, high)
    return out


def _sampling(scale: np.ndarray, shift: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Interpolation along one axis, (m, s, s), and which of its places lie inside, (m, s). Scale about the middle; shift in pixels."""
    pixels = np.arange(side, dtype=np.float32)
    middle = np.float32((side - 1) / 2)
    at = middle + scale[:, None] * (pixels - middle) + shift[:, None]
    weights = np.clip(at, 0, side - 1)[:, :, None] - pixels
    np.abs(weights, out=weights)
    np.subtract(np.float32(1), weights, out=weights)
    np.maximum(weights, np.float32(0), out=weights)
    return weights, (at >= -0.25) & (at <= side - 0.75)


def _warped(pictures: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pictures at ``place`` (m, 4): scale and shift down, scale and shift across; and the mask of what lies inside."""
    side = pictures.shape[1]
    down, inside_down = _sampling(place[:, 0], place[:, 1], side)
    across, inside_across = _sampling(place[:, 2], place[:, 3], side)
    moved: np.ndarray = down @ pictures @ across.swapaxes(1, 2)
    return moved, inside_down[:, :, None] & inside_across[:, None, :]


def _standard(pictures: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pictures with mean 0 and norm 1 inside the mask and 0 outside, and their standard deviations there."""
    count = np.maximum(mask.sum((1, 2), dtype=np.float32), 1)[:, None, None]
    mean = (pictures * mask).sum((1, 2), keepdims=True) / count
    centred = (pictures - mean) * mask
    norm = np.sqrt((centred**2).sum((1, 2), keepdims=True))
    return centred / np.maximum(norm, 1e-6), (norm / np.sqrt(count))[:, 0, 0]


def _correlation(first: np.ndarray, second: np.ndarray, mask: np.ndarray) -> np.ndarray:
    a, wide_a = _standard(first, mask)
    b, wide_b = _standard(second, mask)
    out: np.ndarray = np.where((wide_a < FAINTEST) | (wide_b < FAINTEST), 0.0, (a * b).sum((1, 2)))
    return out


def _start(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The best of the starting scales for each pair, as a place (m, 4)."""
    places = np.zeros((len(SCALES), len(first), 4), dtype=np.float32)
    values = np.empty((len(SCALES), len(first)))
    for number, scale in enumerate(SCALES):
        places[number, :, 0] = places[number, :, 2] = scale
        moved, mask = _warped(first, places[number])
        values[number] = _correlation(moved, second, mask)
    out: np.ndarray = places[values.argmax(0), np.arange(len(first))]
    return out


def _step(first: np.ndarray, second: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The change of place (m, 4) that makes the aligned pictures more alike."""
    side = first.shape[1]
    moved, mask = _warped(first, place)
    a, wide = _standard(moved, mask)
    b, _ = _standard(second, mask)
    norm = np.maximum(wide * np.sqrt(mask.sum((1, 2))), 1e-3)[:, None, None]
    at = np.arange(side, dtype=np.float32) - (side - 1) / 2
    inside = mask / norm
    down, across = (slope * inside / place[:, axis, None, None] for axis, slope in zip((0, 2), np.gradient(moved, axis=(1, 2)), strict=True))
    jacobian = np.empty((len(first), 4, side, side), dtype=np.float32)
    jacobian[:, 0], jacobian[:, 1], jacobian[:, 2], jacobian[:, 3] = down * at[:, None], down, across * at, across
    flat = jacobian.reshape(len(first), 4, -1)
    mean, along = flat.mean(2), (flat @ a.reshape(len(first), -1, 1))[:, :, 0]  # brightness and contrast are no change of place
    normal = flat @ flat.swapaxes(1, 2) - side**2 * mean[:, :, None] * mean[:, None] - along[:, :, None] * along[:, None]
    size = np.trace(normal, axis1=1, axis2=2)[:, None, None] / 4
    normal += np.eye(4, dtype=np.float32) * (1e-3 * size + 1e-9) * np.array([side**2 / 50, 1, side**2 / 50, 1], dtype=np.float32)
    gap = (b - a).reshape(len(first), -1, 1)
    right = (flat @ gap)[:, :, 0] - along * ((a * b).sum((1, 2)) - 1)[:, None]
    out: np.ndarray = np.linalg.solve(normal, right[:, :, None])[:, :, 0]
    return out


def aligned(first: np.ndarray, second: np.ndarray) -> Alignment:
    """How alike the details of pictures are that are laid over each other: pair by pair, the first moved onto the second.

    Args:
        first: grey levels, float32 (m, s, s), already in the orientation of the second.
        second: as many.
    """
    step = max(BATCH // first.shape[1] ** 2, 1)
    parts = [_aligned(first[start : start + step], second[start : start + step]) for start in range(0, len(first), step)]
    if not parts:
        return Alignment(*(np.empty(0) for _ in fields(Alignment)))
    return Alignment(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(Alignment)))


def _aligned(first: np.ndarray, second: np.ndarray) -> Alignment:
    side = first.shape[1]
    place = _start(_smooth(first, 2 * BLUR * side), _smooth(second, 2 * BLUR * side))
    edge = LARGEST_SHIFT * side
    for width in (2 * BLUR, BLUR):
        a, b = (_smooth(x, max(width * side, 0.6)) for x in (first, second))
        for _ in range(STEPS // 2):
            step = np.clip(_step(a, b, place), [-0.05, -1.5] * 2, [0.05, 1.5] * 2)
            place = np.clip(place + step, [1 / LARGEST_SCALE, -edge] * 2, [LARGEST_SCALE, edge] * 2).astype(np.float32)
    moved, mask = _warped(first, place)
    filled = np.where(mask, moved, second)  # the broad shades of both are then those of the same area
    details = [(_details(filled, *band), _details(second, *band)) for band in (FINE, (COARSE[0] * side, COARSE[1] * side))]
    fine, coarse = (_correlation(*pair, mask) for pair in details)
    spread = np.maximum(*(_standard(one, mask)[1] for one in details[0]))
    # what lies outside is filled from the second picture, and its details reach inside: a blank picture must not be a copy for their sake
    own = _standard(_details(moved, *FINE), mask)[1] / np.maximum(_standard(details[0][1], mask)[1], 1e-6)
    return Alignment(fine, coarse, spread * np.sqrt(np.clip(1 - fine**2, 0, 1)), mask.mean((1, 2)), own)
