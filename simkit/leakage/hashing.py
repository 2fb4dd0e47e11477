"""Candidates by perceptual hash: the lowest frequencies of the small grey picture (discrete cosine transform), compared as numbers.

A mirrored picture has the same numbers with other signs, a turned one the transposed ones: all eight orientations are compared for the price of two. A
cropped picture is looked for among the middles of the others. What a data set has in common is taken off and each frequency divided by its spread, so that
what all chest X-rays share finds nobody; both in a way that no orientation changes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np

from simkit.leakage.looks import SIDE
from simkit.leakage.searching import threads_of_blas

__all__ = ["CROP", "NEIGHBOURS", "Candidates", "best_of", "hash_candidates", "hash_numbers"]

FREQUENCIES = 8
"""Frequencies along each axis; all but the constant one count: 63 numbers an image."""

CROP = 0.925
"""Middle that a cropped copy is looked for in, in parts of the side."""

NEIGHBOURS = 4
"""So many nearest images are candidates of an image."""

QUERIES, TILE = 128, 4096
"""Images of the first and of the second data set that are compared at a time."""

VIEWS = ((1.0, 1.0), (CROP, 1.0), (1.0, CROP))
"""Crops of the first and of the second picture that are compared."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs of images that may be copies.

    Attributes:
        first: position in the first data set (m,).
        second: position in the second.
        orientation: number of what is done to the first to get the second, or -1 where it is not known.
        similarity: cosine by which they were found.
    """

    first: np.ndarray
    second: np.ndarray
    orientation: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


@cache
def _cosines(crop: float) -> np.ndarray:
    """Matrix (8, 32) that takes one axis of a picture, or of its middle part, to its lowest frequencies."""
    at = (np.arange(SIDE) + 0.5) / SIDE
    order = np.arange(FREQUENCIES)[:, None]
    wave = np.cos(np.pi * order * at) * np.where(order == 0, np.sqrt(1 / SIDE), np.sqrt(2 / SIDE))
    places = (SIDE - 1) / 2 + crop * (np.arange(SIDE) - (SIDE - 1) / 2)
    resampled = np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(SIDE)))
    out: np.ndarray = (wave @ resampled).astype(np.float32)
    return out


def hash_numbers(pictures: np.ndarray, crop: float = 1.0) -> np.ndarray:
    """Lowest frequencies of pictures (n, 32, 32) or of their middles: float32 (n, 8, 8), without the constant one and of norm 1."""
    matrix = _cosines(crop)
    out: np.ndarray = matrix @ pictures @ matrix.T
    out[:, 0, 0] = 0
    out /= np.maximum(np.linalg.norm(out, axis=(1, 2), keepdims=True), 1e-6)
    return out


def oriented(numbers: np.ndarray, orientation: int) -> np.ndarray:
    """The numbers of the pictures in another orientation: signs of odd frequencies, and transposition, which comes first."""
    signs = np.where(np.arange(FREQUENCIES) % 2, -1.0, 1.0).astype(np.float32)
    out = numbers.swapaxes(1, 2) if orientation & 4 else numbers
    out = out * signs[:, None] if orientation & 2 else out
    return out * signs if orientation & 1 else out


def _whitening(first: np.ndarray, second: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Takes the common part off numbers (n, 8, 8) and divides by the spread, the same for all eight orientations of a picture; rows of norm 1."""
    mean = 0.5 * (first.mean(0) + second.mean(0))
    mean[1::2] = mean[:, 1::2] = 0  # mirroring changes the sign of odd frequencies: over both, their mean is zero
    mean = 0.5 * (mean + mean.T)
    square = sum(0.25 * (part + part.T) for part in (((x - mean) ** 2).mean(0) for x in (first, second)))
    spread = np.sqrt(square)
    spread = np.maximum(spread, 1e-4 + 0.02 * spread.max())

    def white(numbers: np.ndarray) -> np.ndarray:
        out = (numbers - mean) / spread
        out[:, 0, 0] = 0
        scaled: np.ndarray = out / np.maximum(np.linalg.norm(out, axis=(1, 2), keepdims=True), 1e-6)
        return scaled.astype(np.float32)

    return white


def _parts(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies that are even or odd along both axes, and those that are odd along one: (n, 32) each, the second half of each with odd rows."""
    n = len(numbers)
    even, odd = numbers[:, ::2], numbers[:, 1::2]
    alike = [even[:, :, ::2].reshape(n, -1), odd[:, :, 1::2].reshape(n, -1)]
    mixed = [even[:, :, 1::2].reshape(n, -1), odd[:, :, ::2].reshape(n, -1)]
    return np.concatenate(alike, axis=1), np.concatenate(mixed, axis=1)


def _best_flip(queries: tuple[np.ndarray, np.ndarray], base: tuple[np.ndarray, np.ndarray], out: np.ndarray) -> None:
    """Raises ``out`` (q, b) to the largest cosine over the four flips of the queries, which differ in the signs of parts of the sum."""
    half = FREQUENCIES**2 // 4
    sign = np.repeat(np.array([1, -1], dtype=np.float32), half)
    for turned in (1, sign):
        alike, mixed = (queries[0] * turned) @ base[0].T, (queries[1] * turned) @ base[1].T
        np.abs(mixed, out=mixed)
        np.add(alike, mixed, out=alike)
        np.maximum(out, alike, out=out)


def hash_candidates(
    first: np.ndarray, second: np.ndarray, *, same: bool, least: float, done: Callable[[int], None] = lambda _: None,
    rows: np.ndarray | None = None, count: int = NEIGHBOURS,
) -> Candidates:
    """The images of the second data set nearest to each of the first by perceptual hash, in any of eight orientations, whole or cropped.

    Every pair is compared; memory does not grow with their number.

    Args:
        first: small grey pictures (n, 32, 32).
        second: those of the other data set, or the same.
        same: whether both are one data set: an image is then no candidate of itself.
        least: cosine below which a pair is no candidate.
        done: told how many images of the first data set were just compared.
        rows: positions in the first data set that are looked at; None: all.
        count: so many nearest images are candidates of an image.
    """
    asked = np.arange(len(first)) if rows is None else rows
    numbers = [{crop: hash_numbers(x, crop) for crop in (1.0, CROP)} for x in (first, second)]
    white = _whitening(numbers[0][1.0], numbers[1][1.0])
    a, b = ({crop: white(x) for crop, x in one.items()} for one in numbers)
    queries = {crop: [_parts(x[asked]), _parts(x[asked].swapaxes(1, 2))] for crop, x in a.items()}
    base = {crop: _parts(x) for crop, x in b.items()}

    def search(start: int) -> Candidates:
        here = slice(start, start + QUERIES)
        found = Candidates(*(np.empty(0, dtype=kind) for kind in (np.int64, np.int64, np.int64, np.float64)))
        limit = np.full(len(asked[here]), least, dtype=np.float32)
        for begin in range(0, len(second), TILE):
            columns = slice(begin, begin + TILE)
            value = np.full((len(limit), len(second[columns])), -1, dtype=np.float32)
            for crop, other in VIEWS:
                for way in queries[crop]:
                    _best_flip((way[0][here], way[1][here]), (base[other][0][columns], base[other][1][columns]), value)
            if same:
                own = np.flatnonzero((asked[here] >= begin) & (asked[here] < begin + value.shape[1]))
                value[own, asked[here][own] - begin] = -1
            i, j = np.nonzero(value >= limit[:, None])
            if len(i):
                more = Candidates(i, j + begin, np.full(len(i), -1), value[i, j].astype(np.float64))
                found = best_of([found, more], count)
                full = np.bincount(found.first, minlength=len(limit)) >= count
                worst = np.full(len(limit), np.inf)
                np.minimum.at(worst, found.first, found.similarity)
                limit = np.where(full, worst, least).astype(np.float32)
        return _with_orientation(Candidates(asked[here][found.first], found.second, found.orientation, found.similarity), a, b)

    starts = range(0, len(asked), QUERIES)
    with threads_of_blas() as threads, ThreadPoolExecutor(threads) as pool:
        parts = []
        for start, part in zip(starts, pool.map(search, starts), strict=True):
            parts.append(part)
            done(len(asked[start : start + QUERIES]))
    return best_of(parts, count)


def _with_orientation(found: Candidates, first: dict[float, np.ndarray], second: dict[float, np.ndarray]) -> Candidates:
    """Candidates with the orientation in which they are most alike."""
    if not len(found):
        return found
    values = np.stack([
        np.max([np.einsum("nij,nij->n", oriented(first[crop][found.first], turn), second[other][found.second]) for crop, other in VIEWS], axis=0)
        for turn in range(8)])
    return Candidates(found.first, found.second, values.argmax(0), found.similarity)


def best_of(found: list[Candidates], count: int | None) -> Candidates:
    """Each pair once, with its best orientation, and of each image of the first data set the ``count`` best pairs."""
    if not found:
        return Candidates(*(np.empty(0, dtype=kind) for kind in (np.int64, np.int64, np.int64, np.float64)))
    first, second, orientation, value = (np.concatenate([getattr(one, name) for one in found]) for name in ("first", "second", "orientation", "similarity"))
    order = np.lexsort((orientation, -value, second, first))
    keep = np.ones(len(order), dtype=bool)
    keep[1:] = (first[order][1:] != first[order][:-1]) | (second[order][1:] != second[order][:-1])
    order = order[keep]
    if count is not None and len(order):
        order = order[np.lexsort((second[order], -value[order], first[order]))]
        starts = np.flatnonzero(np.r_[True, first[order][1:] != first[order][:-1]])
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
        order = order[rank < count]
    return Candidates(first[order], second[order], orientation[order], value[order])
