"""Squared distances and inner products between the rows of two sets, tile by tile: nothing of size n x m is ever kept."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from simkit.embedding import Embedding, content_order
from simkit.transport.arrays import namespace, placed
from simkit.transport.interruption import go_on

__all__ = ["Points", "announced", "pairwise_seconds", "points", "products", "squared_distance_tiles"]

log = logging.getLogger("simkit.estimators")

TILE = 2**21
"""Entries of a tile: 8 to 16 MiB, small enough for the cache, large enough for BLAS."""

GPU_TILE = 2**26

EXACT = 2**24
"""Entries up to which distances are computed in float64 throughout; above, products are float32 and sums float64."""

FLOPS = 5e10
"""Measured: float32 multiplications and additions a second, of one core, all of a tile's work besides the product included at 512 features."""


@dataclass(frozen=True, eq=False)
class Points:
    """Rows of a data set in an order that depends on their content only, where they are computed.

    Attributes:
        name: of the data set.
        rows: float32 (n, d), numpy or torch.
        digest: of the rows, whatever their order.
        device: "cpu" or "cuda:0".
    """

    name: str
    rows: Any
    digest: str
    device: str = "cpu"

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def centre(self) -> Any:
        """Mean of the rows, float64 (d,)."""
        xp = namespace(self.rows)
        return xp.mean(xp.astype(self.rows, xp.float64), axis=0)


def points(view: Embedding, device: str = "cpu", *, unit: bool = False) -> Points:
    """The rows of a data set, in the order of their content.

    Args:
        view: the embedding.
        device: where they are computed.
        unit: divide each row by its length (a row of zeros stays).
    """
    order, digest = content_order(view.features)
    rows = view.features[order]
    if unit:
        length = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        rows = (rows / np.where(length > 0, length, 1.0)).astype(np.float32)
    return Points(view.name, placed(rows, device), digest, device)


def products(first: Points, second: Points) -> Iterator[tuple[slice, slice, Any]]:
    """Inner products of all rows, as (rows of the first, rows of the second, tile).

    Of a set with itself (the same object) only tiles on and above the diagonal, as for :func:`squared_distance_tiles`.
    """
    exact = len(first) * len(second) <= EXACT
    xp = namespace(first.rows)
    dtype = xp.float64 if exact else xp.float32
    x, y = xp.astype(first.rows, dtype), xp.astype(second.rows, dtype)
    for rows, columns in _tiles(first, second):
        go_on()
        yield rows, columns, x[rows] @ y[columns].T


def squared_distance_tiles(first: Points, second: Points) -> Iterator[tuple[slice, slice, Any]]:
    """Squared Euclidean distances of all rows, as (rows of the first, rows of the second, tile); never negative.

    |x|² + |y|² - 2 x.y of rows from which the middle of the two means was subtracted, which keeps what cancels small. In float64 up to 2^24 distances,
    else in float32 (relative to |x|² + |y|², 1e-6). Equal rows can have a distance of that size instead of 0.

    Of a set with itself (the same object) only square tiles on and above the diagonal are made: the others are their transposes.
    """
    exact = len(first) * len(second) <= EXACT
    xp = namespace(first.rows)
    dtype = xp.float64 if exact else xp.float32
    middle = 0.5 * (first.centre + second.centre)
    x, y = (xp.astype(xp.astype(one.rows, xp.float64) - middle, dtype) if exact else one.rows - xp.astype(middle, dtype) for one in (first, second))
    a, b = (xp.sum(one * one, axis=1) for one in (x, y))
    for rows, columns in _tiles(first, second):
        go_on()
        tile = x[rows] @ y[columns].T
        tile *= -2.0
        tile += a[rows, None]
        tile += b[None, columns]
        yield rows, columns, np.maximum(tile, 0.0, out=tile) if isinstance(tile, np.ndarray) else tile.clamp_(min=0.0)


def _tiles(first: Points, second: Points) -> Iterator[tuple[slice, slice]]:
    """Tiles of some million entries; of a set with itself, square ones on and above the diagonal."""
    entries = TILE if first.device == "cpu" else GPU_TILE
    if first is second:
        side = int(entries**0.5)
        for top in range(0, len(first), side):
            for left in range(top, len(first), side):
                yield slice(top, min(top + side, len(first))), slice(left, min(left + side, len(first)))
        return
    width = min(len(second), max(1024, entries // 256))
    height = max(1, entries // width)
    for top in range(0, len(first), height):
        for left in range(0, len(second), width):
            yield slice(top, min(top + height, len(first))), slice(left, min(left + width, len(second)))


def pairwise_seconds(entries: float, dimension: int) -> float:
    """Predicted time of so many distances on one core."""
    return entries * (2 * dimension + 150) / FLOPS


def announced(name: str, first: str, second: str, seconds: float, what: str) -> None:
    """Says how long a pair will take when that is more than ten seconds."""
    if seconds > 10:
        log.info("%s between %s and %s: %s, about %.0f s on one core", name, *sorted((first, second)), what, seconds)
