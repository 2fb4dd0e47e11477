"""Squared maximum mean discrepancies by any kernel: sums of the kernel tile by tile, and a permutation test in one pass over it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from simkit.embedding import Embedding, row_digests
from simkit.errors import NotEnoughData
from simkit.estimators.label_permutations import Parts
from simkit.estimators.pairwise import Points, announced, pairwise_seconds, points
from simkit.transport.arrays import beside, namespace, numpy_of

__all__ = ["KernelRows", "Tested", "discrepancy", "kernel_rows", "permutation_test"]

Tiles = Callable[[Points, Points], Iterator[tuple[slice, slice, Any]]]
"""Of two sets, (rows of the first, rows of the second, kernel); of a set with itself tiles on and above the diagonal only."""

COLUMNS = 2**26
"""Numbers in the products of the kernel with the permuted sides that are held at a time (256 to 512 MiB)."""


@dataclass(frozen=True, eq=False)
class KernelRows:
    """A data set as kernel measures see it.

    Attributes:
        points: the rows.
        own_sum: sum of the kernel over all ordered pairs of different rows.
        own_diagonal: sum of the kernel of each row with itself.
        digests: of each row's content.
        units: what a permutation moves as one, as text per row: the group (patient), or the content where there are no groups.
        grouped: whether units are groups.
    """

    points: Points
    own_sum: float
    own_diagonal: float
    digests: np.ndarray
    units: np.ndarray
    grouped: bool

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class Tested:
    """Outcome of a permutation test.

    Attributes:
        statistic: the squared discrepancy of the two sides as they are.
        p: (1 + number of permutations that reach it) / (1 + permutations) (Phipson and Smyth 2010); None where no unit can change sides.
        resolution: smallest p that so many permutations of so many units can give.
        units: moved, of both sides.
        shared: units of both sides: groups that exchange their two parts, or images that have nothing to exchange.
    """

    statistic: float
    p: float | None
    resolution: float
    units: tuple[int, int]
    shared: int


def kernel_rows(view: Embedding, name: str, device: str, tiles: Tiles, *, unit: bool = False) -> KernelRows:
    """A data set with the sums of its own kernel.

    Args:
        view: the embedding.
        name: of the measure, for messages.
        device: where it is computed.
        tiles: of the kernel.
        unit: divide each row by its length.

    Raises:
        NotEnoughData: one image, which has no pair (SK501).
    """
    if len(view) < 2:
        raise NotEnoughData("SK501", name, f"'{view.name}' has 1 image, an unbiased estimate needs at least 2 on each side", "give more images")
    rows = points(view, device, unit=unit)
    total, diagonal = 0.0, 0.0
    announced(name, view.name, view.name, pairwise_seconds(len(view) ** 2 / 2, view.dimension), f"{len(view):,} x {len(view):,} kernel of the data set itself")
    for r, c, tile in tiles(rows, rows):
        if r == c:
            trace = float(namespace(tile).linalg.diagonal(tile).sum())
            total, diagonal = total + _sum(tile) - trace, diagonal + trace
        else:
            total += 2.0 * _sum(tile)
    digests = row_digests(view.features)[view.by_content]
    units = np.array([f"group {view.groups[i]}" for i in view.by_content] if view.groups else [f"image {d.hex()}" for d in digests.tolist()])
    return KernelRows(rows, total, diagonal, digests, units, bool(view.groups))


def _sum(tile: Any) -> float:
    xp = namespace(tile)
    return float(xp.sum(xp.astype(xp.sum(tile, axis=1), xp.float64)))


def _cross_sum(first: Points, second: Points, tiles: Tiles) -> float:
    return math.fsum(_sum(tile) for _, _, tile in tiles(first, second))


def discrepancy(first: KernelRows, second: KernelRows, name: str, tiles: Tiles, *, biased: bool = False) -> float:
    """Squared maximum mean discrepancy: E k(X, X') + E k(Y, Y') - 2 E k(X, Y).

    Unbiased (a U-statistic, Gretton et al. 2012, eq. 3: rows are not paired with themselves; below 0 by chance where the laws are equal), or the biased
    V-statistic (eq. 5). The same rows on both sides give 0.
    """
    if first.points.digest == second.points.digest:
        return 0.0
    n, m = len(first), len(second)
    what = f"{n:,} x {m:,} kernel of the pair"
    announced(name, first.points.name, second.points.name, pairwise_seconds(n * m, first.points.rows.shape[1]), what)
    if first.points.digest > second.points.digest:  # summed in one order, so that the two can be swapped to the last bit
        first, second, n, m = second, first, m, n
    cross = _cross_sum(first.points, second.points, tiles)
    if biased:
        own = [(one.own_sum + one.own_diagonal) / len(one) ** 2 for one in (first, second)]
    else:
        own = [one.own_sum / (len(one) * (len(one) - 1)) for one in (first, second)]
    return own[0] + own[1] - 2.0 * cross / (n * m)


def permutation_test(
    first: KernelRows, second: KernelRows, name: str, tiles: Tiles, permutations: int, rng: np.random.Generator, *, biased: bool = False,
) -> Tested:
    """Whether the sides can be swapped: the statistic against its values for random assignments of the units to the sides.

    A unit is a group, or all copies of an image; a group of both sets exchanges its two parts, an image of both has nothing to exchange. Assignments that
    leave fewer than two rows on a side have no statistic and are not counted. Exact where equal laws make all assignments equally likely; where
    groups of one side are larger by design it is conservative.

    One pass over the kernel K of all N rows: with the sides of all permutations as columns of Z, the sums over the first side are
    diag(Z' K Z), those between the sides follow from K 1. Cost: the kernel, and 2 N² B operations of one matrix product.

    Args:
        first, second: the two sides, from :func:`kernel_rows`.
        name: of the measure, for messages.
        tiles: of the kernel.
        permutations: B.
        rng: of the assignments.
        biased: the V-statistic instead of the U-statistic.
    """
    if first.points.digest > second.points.digest:
        first, second = second, first
    n, m = len(first), len(second)
    pooled = _pooled(first.points, second.points)
    size, features = n + m, pooled.rows.shape[1]
    seconds = pairwise_seconds(size**2 / 2, features) + 2.0 * size**2 * permutations / 1e11
    announced(name, first.points.name, second.points.name, seconds, f"{size:,} x {size:,} kernel with {permutations} permutations")
    side = np.repeat([1, 0], [n, m])
    units = np.unique(np.concatenate([first.units, second.units]), return_inverse=True)[1]
    parts = Parts.of(np.concatenate([first.digests, second.digests]), units, side, grouped=(second.grouped, first.grouped))
    sides = parts.permuted_sides(1, permutations, rng, dtype=np.uint8).astype(bool)
    diagonal = (first.own_diagonal + second.own_diagonal) / size
    block = max(64, COLUMNS // size)
    found = np.concatenate([_statistics(pooled, tiles, sides[:, at : at + block], diagonal if biased else None) for at in range(0, permutations + 1, block)])
    observed, permuted = float(found[0]), found[1:][np.isfinite(found[1:])]
    tolerance = 1e-9 * max(abs(observed), float(np.abs(permuted).max(initial=0.0)))  # an assignment that comes up twice is a tie
    moved = (sides[:, 1:] != sides[:, :1]).any(0) & np.isfinite(found[1:])
    p = (1 + int((permuted >= observed - tolerance).sum())) / (1 + len(permuted)) if moved.any() else None
    lowest = max(1.0 / (1 + len(permuted)), parts.smallest_p(1))
    return Tested(observed, p, lowest, parts.counts[::-1], len(set(first.units) & set(second.units)))


def _pooled(first: Points, second: Points) -> Points:
    xp = namespace(first.rows)
    return Points("", xp.concat([first.rows, second.rows], axis=0), "", first.device)


def _statistics(pooled: Points, tiles: Tiles, sides: np.ndarray, diagonal: float | None) -> np.ndarray:
    """The statistic of each column of sides; U-statistics, or with the mean of the kernel's diagonal V-statistics."""
    xp = namespace(pooled.rows)
    exact = len(pooled) ** 2 <= 2**24
    dtype = xp.float64 if exact else xp.float32
    marked = np.concatenate([np.ones((len(sides), 1), dtype=np.float32), sides.astype(np.float32)], axis=1)
    z = xp.astype(beside(marked, pooled.rows), dtype)
    product = xp.zeros_like(z)
    for r, c, tile in tiles(pooled, pooled):
        tile = xp.astype(tile, dtype)
        if r == c:
            tile = tile - xp.linalg.diagonal(tile)[:, None] * xp.eye(tile.shape[0], dtype=dtype, device=z.device)
            product[r] += tile @ z[c]
        else:
            product[r] += tile @ z[c]
            product[c] += tile.T @ z[r]
    rows = xp.astype(product[:, :1], xp.float64)
    total = float(xp.sum(rows))
    within = numpy_of(xp.sum(xp.astype(product[:, 1:] * z[:, 1:], xp.float64), axis=0))
    touching = numpy_of(xp.sum(rows * xp.astype(z[:, 1:], xp.float64), axis=0))
    n = sides.sum(0).astype(np.float64)
    m = len(sides) - n
    between, other = touching - within, total - 2.0 * touching + within
    n, m = (np.where(np.minimum(n, m) >= 2, count, np.nan) for count in (n, m))
    if diagonal is None:
        return np.asarray(within / (n * (n - 1)) + other / (m * (m - 1)) - 2.0 * between / (n * m))
    return np.asarray((within + n * diagonal) / n**2 + (other + m * diagonal) / m**2 - 2.0 * between / (n * m))
