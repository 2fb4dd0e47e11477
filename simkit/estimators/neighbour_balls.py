"""Nearest neighbours between two sets, and balls around images: what coverage, density, precision, recall and the distance to the nearest image share.

Tiles of distances carry rounding noise, and whether an image lies in a ball is a yes or no. So a tile only proposes: what it cannot decide within its own
error is decided by the distance of the two rows themselves, the sum of (x - y)² in float64. Images of equal features count as often as they occur but are
compared once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np

from simkit.embedding import Embedding, content_order
from simkit.errors import DataError, NotEnoughData
from simkit.estimators.base import FeatureEstimator
from simkit.estimators.pairwise import EXACT, Points, announced, pairwise_seconds, squared_distance_tiles
from simkit.transport.arrays import beside, device_of, namespace, numpy_of, placed
from simkit.transport.interruption import go_on

__all__ = ["BallEstimator", "DistinctRows", "distinct_rows", "held", "inside", "nearest", "threads_of_blas_for", "work_seconds"]

ERROR = {True: 1e-12, False: 1e-5}
"""Bound on the error of a squared distance of a tile, relative to |x|² + |y|²: float64 tiles, float32 tiles (measured: 1e-6)."""

TIE = 1e-12
"""Squared distances that agree to this relative difference are equal."""

LARGEST = 1e36
"""Squared length up to which float32 tiles do not overflow."""

SPARE = 8
"""Neighbours that are looked at beyond those asked for, since noise may have changed their order."""

CHUNK = 2**21
"""Entries of differences of rows at a time (16 MiB)."""


@dataclass(frozen=True, eq=False)
class DistinctRows:
    """The images of a data set, those of equal features as one row.

    Attributes:
        points: the distinct rows, in an order that depends on their content only.
        counts: how many images each stands for, int64.
        k: which neighbour a ball reaches to.
        lock: held while radii are computed, so that threads that ask at once compute them once.
    """

    points: Points
    counts: np.ndarray
    k: int = 1
    lock: Any = field(default_factory=Lock, repr=False)

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.points.name

    @cached_property
    def lengths(self) -> np.ndarray:
        """|x| of each row, float64."""
        rows = self.points.rows
        step = max(1, CHUNK // rows.shape[1])
        xp = namespace(rows)
        parts = (xp.astype(rows[start : start + step], xp.float64) for start in range(0, len(rows), step))
        return np.concatenate([np.sqrt(numpy_of(xp.sum(part * part, axis=1))) for part in parts])

    @property
    def has_radii(self) -> bool:
        """Whether ``radii`` were computed already."""
        return "_radii" in self.__dict__

    @property
    def radii(self) -> np.ndarray:
        """Squared distance from each row to its k-th nearest other image, float64; 0 where an image has k exact copies. Needs more than k images.

        Computed when it is first asked for: a data set that is only ever a source never pays for the balls of a target.
        """
        with self.lock:
            return self._radii

    @cached_property
    def _radii(self) -> np.ndarray:
        others = min(self.k, len(self.points) - 1)
        if others == 0:
            return np.zeros(len(self.points))
        index, squared = nearest(self.points, self.points, others, within=True)
        reached = np.cumsum(self.counts[index], axis=1) + (self.counts - 1)[:, None]
        radii = squared[np.arange(len(squared)), np.argmax(reached >= self.k, axis=1)]
        return np.where(self.counts > self.k, 0.0, radii)


class BallEstimator(FeatureEstimator):
    """What coverage, density, precision and recall share: rows, refusals, cost. Subclasses are dataclasses with the options ``k`` and ``device``."""

    symmetric = False
    higher_is_better = True
    size_biased = True
    bounds: tuple[float | None, float | None] = (0.0, 1.0)

    k: int
    device: str

    def summarize(self, view: Embedding) -> DistinctRows:
        """Distinct rows in the order of their content; radii when they are first asked for.

        Raises:
            DataError: NaN or infinite features (SK210).
        """
        return distinct_rows(view, device_of(self.device, where=f"{self.name}.device"), self.k)

    def balls(self, centres: DistinctRows, others: DistinctRows) -> DistinctRows:
        """The set whose images are centres of balls, checked, the time of the pair announced.

        Raises:
            NotEnoughData: it has no k-th nearest other image (SK501).
        """
        n = len(centres)
        if n <= self.k:
            message = f"'{centres.name}' has {n} image{'' if n == 1 else 's'}: balls up to the k-th nearest other image need more than k = {self.k}"
            raise NotEnoughData("SK501", self.name, message, f"set k to at most {n - 1}" if n > 1 else "give more images")
        seconds = work_seconds(centres, others) + (0.0 if centres.has_radii else work_seconds(centres, centres))
        announced(self.name, centres.name, others.name, seconds, f"balls around {n} images, {len(others)} images to place")
        return centres

    def evidence(self, source: DistinctRows, target: DistinctRows, balls: DistinctRows) -> dict[str, Any]:
        """What goes into the detail of each of the four: k, sizes, the median radius and the images whose ball is a point."""
        radii = np.repeat(np.sqrt(balls.radii), balls.counts)
        return {
            "k": self.k, "n": (len(source), len(target)), "d": int(source.points.rows.shape[1]),
            "median_radius": float(np.median(radii)), "radius_zero": int((radii == 0).sum()),
        }

    def seconds(self, n_source: int, n_target: int) -> float | None:
        """Rough time of one pair on one core at 512 features, the target's balls included (they are made once a target)."""
        return 0.005 + pairwise_seconds(float(n_source) * n_target + float(n_target) ** 2, 512)


def distinct_rows(view: Embedding, device: str = "cpu", k: int = 1) -> DistinctRows:
    """The images of a data set, those of equal features as one row.

    Raises:
        DataError: NaN or infinite features (SK210).
    """
    features = view.features
    if not np.isfinite(features).all():
        raise DataError("SK210", view.name, "features hold NaN or infinite values", "remove or recompute these rows")
    order, digest = content_order(features)
    rows = features[order]
    first = np.concatenate([[True], (rows[1:] != rows[:-1]).any(axis=1)])
    starts = np.flatnonzero(first)
    counts = np.diff(np.append(starts, len(rows)))
    return DistinctRows(Points(view.name, placed(rows if len(starts) == len(rows) else rows[starts], device), digest, device), counts, k)


def work_seconds(first: DistinctRows, second: DistinctRows) -> float:
    """Predicted time of all distances of two sets on one core."""
    return pairwise_seconds(float(len(first.points)) * len(second.points), int(first.points.rows.shape[1]))


def inside(squared: np.ndarray, radii: np.ndarray, *, closed: bool) -> np.ndarray:
    """Whether squared distances lie in balls of squared radii: the border counts in closed balls only, the centre itself always."""
    return squared <= radii * (1.0 + TIE) if closed else (squared < radii * (1.0 - TIE)) | (squared == 0.0)


def held(balls: DistinctRows, others: DistinctRows, *, closed: bool) -> np.ndarray:
    """How many images of ``balls`` hold each row of ``others`` in the ball around them, int64 (distinct rows of ``others``).

    Raises:
        DataError: features so large that more than 2^24 distances overflow in float32 (SK210).
    """
    centres, radii = balls.points, balls.radii
    points = replace(others.points) if others.points is centres else others.points  # tiles of a set with itself are half of them
    error = ERROR[len(centres) * len(points) <= EXACT]
    a, b = _squared_lengths(centres, points)
    if error > ERROR[True] and max(a.max(), b.max()) > LARGEST:
        longest = balls.name if a.max() >= b.max() else others.name
        size = max(a.max(), b.max()) ** 0.5
        message = f"rows lie up to {size:.1g} from the mean, which overflows in float32, in which more than {EXACT} distances are computed"
        raise DataError("SK210", longest, message, "remove or recompute these rows, or scale the features")
    # |y| <= |x| + |x - y|: for whatever lies in the ball, |y|² is at most 2 (|x|² + r²)
    limit = radii + error * (3.0 * a + 2.0 * radii)
    bound = beside(limit if error == ERROR[True] else limit.astype(np.float32), centres.rows)
    out = np.zeros(len(points), dtype=np.int64)
    for rows, columns, tile in squared_distance_tiles(centres, points):
        i, j = namespace(tile).nonzero(tile <= bound[rows, None])
        near = numpy_of(tile[i, j]).astype(np.float64)
        i, j = numpy_of(i) + rows.start, numpy_of(j) + columns.start
        margin = error * (a[i] + b[j])
        holds = near + margin < radii[i]
        unsure = np.flatnonzero(~holds & (near <= radii[i] + margin))
        if error > ERROR[True] and len(unsure) > tile.shape[0] * tile.shape[1] // 32:  # float32 tells too little: the whole tile again in float64
            holds[unsure] = _held_again(balls, points, i[unsure], j[unsure], closed=closed)
        else:
            holds[unsure] = inside(_exact_squared(centres, points, i[unsure], j[unsure]), radii[i[unsure]], closed=closed)
        out += np.bincount(j[holds], weights=balls.counts[i[holds]], minlength=len(points)).astype(np.int64)
    return out


def _held_again(balls: DistinctRows, points: Points, i: np.ndarray, j: np.ndarray, *, closed: bool) -> np.ndarray:
    """Whether balls i hold rows j, from float64 tiles; what these cannot decide, from the rows themselves."""
    centres, radii = balls.points, balls.radii[i]
    holds, unsure = np.zeros(len(i), dtype=bool), np.ones(len(i), dtype=bool)
    step = max(1, EXACT // len(points))
    for top in range(int(i.min()), int(i.max()) + 1, step):
        part = np.flatnonzero((i >= top) & (i < top + step))
        if not len(part):
            continue
        piece = replace(centres, rows=centres.rows[top : top + step])
        error = 4.0 * ERROR[True]
        a, b = _squared_lengths(piece, points)
        for rows, columns, tile in squared_distance_tiles(piece, points):
            chosen = part[(i[part] - top >= rows.start) & (i[part] - top < rows.stop) & (j[part] >= columns.start) & (j[part] < columns.stop)]
            near = numpy_of(tile)[i[chosen] - top - rows.start, j[chosen] - columns.start]
            margin = error * (a[i[chosen] - top] + b[j[chosen]])
            holds[chosen] = near + margin < radii[chosen]
            unsure[chosen] = np.abs(near - radii[chosen]) <= margin
    doubt = np.flatnonzero(unsure)
    holds[doubt] = inside(_exact_squared(centres, points, i[doubt], j[doubt]), radii[doubt], closed=closed)
    return holds


def nearest(queries: Points, base: Points, size: int, *, within: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The nearest rows of ``base`` to each of ``queries``: their indices and squared distances (n, size), ascending, float64.

    Up to 2^24 distances from float64 tiles, above by faiss (IndexFlatL2, exact search in float32; a
    quarter faster than tiles for the nearest one, twice as fast for several) or, on a GPU, float32 tiles. Distances are computed again from the rows
    themselves; a row for which float32 could have missed a neighbour is searched again in float64, and where that is too coarse as well (a stranger
    a hundred million times as far off as the neighbours) over all rows.

    Args:
        queries: rows to find neighbours of.
        base: rows among which they are sought.
        size: how many; at most the rows of ``base``, without the row itself.
        within: both are one set, and a row is not its own neighbour.
    """
    exact = len(queries) * len(base) <= EXACT
    wanted = min(len(base), size + within + SPARE)
    found, worst = _candidates(queries, base, wanted, exact=exact)
    own = np.arange(len(queries)) if within else None
    index, squared = _refined(queries, base, found, own, size)
    if wanted == len(base):
        return index, squared
    a, _ = _squared_lengths(queries, base)
    doubt = np.arange(len(queries))
    if not exact:
        doubt = np.flatnonzero(_doubtful(squared[:, -1], worst, a, exact=False))
        step = max(1, EXACT // len(base))
        for part in (doubt[start : start + step] for start in range(0, len(doubt), step)):
            piece = replace(queries, rows=queries.rows[beside(part, queries.rows)])
            again, worst[part] = _candidates(piece, base, wanted, exact=True)
            index[part], squared[part] = _refined(piece, base, again, None if own is None else part, size)
    for row in doubt[_doubtful(squared[doubt, -1], worst[doubt], a[doubt], exact=True)]:
        piece = replace(queries, rows=queries.rows[int(row) : int(row) + 1])
        whole = np.arange(len(base))[None]
        index[row : row + 1], squared[row : row + 1] = _refined(piece, base, whole, None if own is None else own[row : row + 1], size)
    return index, squared


def _doubtful(last: np.ndarray, worst: np.ndarray, a: np.ndarray, *, exact: bool) -> np.ndarray:
    """Which rows could have missed a neighbour nearer than the last one found (squared distances ``last``), since no candidate beyond ``worst`` was looked at.

    After float64 tiles only those where what was missed could differ from it by more than 1e-9 of its size: data on a grid have many equal distances.
    """
    noise = ERROR[exact] * (3.0 * a + 2.0 * last)
    doubtful = ~(last + noise <= worst)
    return doubtful & (noise > 1e-9 * last) if exact else doubtful


def _refined(queries: Points, base: Points, found: np.ndarray, own: np.ndarray | None, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``size`` nearest of the candidates ``found``, by their true distances; ``own`` are the rows' own indices, which are no neighbours."""
    rows = np.repeat(np.arange(len(found)), found.shape[1])
    squared = _exact_squared(queries, base, rows, found.ravel()).reshape(found.shape)
    if own is not None:
        squared[found == own[:, None]] = np.inf
    order = np.argsort(squared, axis=1, kind="stable")[:, :size]
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(squared, order, axis=1)


def _candidates(queries: Points, base: Points, size: int, *, exact: bool) -> tuple[np.ndarray, np.ndarray]:
    """Indices (n, size) of the rows of ``base`` that seem nearest, and the largest of their squared distances, both with the noise of their tiles."""
    if not exact and isinstance(base.rows, np.ndarray):
        return _candidates_by_faiss(queries, base, size)
    other = replace(base) if queries is base else base
    found, worst = np.empty((len(queries), size), dtype=np.int64), np.empty(len(queries))
    values = index = None
    for rows, columns, tile in squared_distance_tiles(queries, other):
        xp = namespace(tile)
        best, where = _smallest(tile, min(size, tile.shape[1]))
        where = where + columns.start
        if columns.start > 0:
            both, places = xp.concat([values, best], axis=1), xp.concat([index, where], axis=1)
            best, order = _smallest(both, min(size, both.shape[1]))
            where = xp.take_along_axis(places, order, axis=1)
        values, index = best, where
        if columns.stop == len(base):
            found[rows], worst[rows] = numpy_of(index), numpy_of(xp.max(values, axis=1))
    return found, worst


def _smallest(tile: Any, size: int) -> tuple[Any, Any]:
    """The ``size`` smallest values of each row and their columns, in any order."""
    if not isinstance(tile, np.ndarray):
        import torch

        return torch.topk(tile, size, dim=1, largest=False)
    columns = np.argpartition(tile, size - 1, axis=1)[:, :size] if size < tile.shape[1] else np.broadcast_to(np.arange(size), tile.shape)
    return np.take_along_axis(tile, columns, axis=1), columns


def _candidates_by_faiss(queries: Points, base: Points, size: int) -> tuple[np.ndarray, np.ndarray]:
    import faiss

    middle = (0.5 * (queries.centre + base.centre)).astype(np.float32)
    index = faiss.IndexFlatL2(base.rows.shape[1])
    index.add(base.rows - middle)
    found, worst = np.empty((len(queries), size), dtype=np.int64), np.empty(len(queries))
    with threads_of_blas_for(faiss):
        for start in range(0, len(queries), 4096):
            go_on()
            part = slice(start, start + 4096)
            values, found[part] = index.search(queries.rows[part] - middle, size)
            worst[part] = values[:, -1]
    missed = found < 0  # what overflowed in float32
    found[missed] = 0
    worst[missed.any(axis=1)] = -np.inf
    return found, worst


@contextmanager
def threads_of_blas_for(faiss: Any) -> Iterator[None]:
    """Gives faiss as many threads as numpy's BLAS may take now: its own library may have been loaded after a limit was set."""
    from threadpoolctl import threadpool_info

    before = faiss.omp_get_max_threads()
    allowed = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
    faiss.omp_set_num_threads(min([before, *allowed]))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _exact_squared(first: Points, second: Points, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """sum of (x - y)² in float64 of rows i of the first and rows j of the second set."""
    x, y = first.rows, second.rows
    out = np.empty(len(i))
    step = max(1, CHUNK // x.shape[1])
    for start in range(0, len(i), step):
        if start % (16 * step) == 0:
            go_on()
        part = slice(start, start + step)
        if isinstance(x, np.ndarray):
            gap = np.subtract(x[i[part]], y[j[part]], dtype=np.float64)
            out[part] = np.einsum("ij,ij->i", gap, gap)
        else:
            gap = x[beside(i[part], x)].double() - y[beside(j[part], y)].double()
            out[part] = numpy_of((gap * gap).sum(1))
    return out


def _squared_lengths(first: Points, second: Points) -> tuple[np.ndarray, np.ndarray]:
    """|x|² and |y|² of all rows about the middle of the two means, as the tiles take them, float64."""
    middle = 0.5 * (first.centre + second.centre)
    lengths = []
    for rows in (first.rows, second.rows):
        xp = namespace(rows)
        step = max(1, CHUNK // rows.shape[1])
        parts = (xp.astype(rows[start : start + step], xp.float64) - middle for start in range(0, len(rows), step))
        lengths.append(np.concatenate([numpy_of(xp.sum(part * part, axis=1)) for part in parts]))
    return lengths[0], lengths[1]
