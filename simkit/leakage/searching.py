"""Nearest neighbours by inner product, exact: every pair is compared, block by block, so memory does not grow with the square."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from simkit.estimators.neighbour_balls import threads_of_blas_for

__all__ = ["nearest", "threads_of_blas", "unit_rows"]

BLOCK = 4096
"""Queries at a time."""


def unit_rows(features: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Rows less the centre, of length 1: float32 (n, d). A row at the centre stays zero, and is near to nothing."""
    out = np.asarray(features, dtype=np.float32) - centre.astype(np.float32)
    norm = np.linalg.norm(out, axis=1, keepdims=True)
    out /= np.where(norm > 1e-12, norm, 1.0)
    return np.ascontiguousarray(out)


def nearest(
    queries: np.ndarray, base: np.ndarray, count: int, *, same: bool, least: float, done: Callable[[int], None] = lambda _: None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ``count`` rows of the base with the largest inner product with each query, those of at least ``least``.

    Exact (faiss IndexFlatIP): no pair is left out by an index.

    Args:
        queries: float32 (n, d).
        base: float32 (m, d).
        count: neighbours of a query.
        same: queries and base are the same rows in the same order: a row is no neighbour of itself.
        least: smallest inner product.
        done: told how many queries were just finished.

    Returns:
        (query, neighbour, inner product) of each found pair.
    """
    import faiss

    index = faiss.IndexFlatIP(base.shape[1])
    index.add(np.ascontiguousarray(base, dtype=np.float32))
    count = min(count + same, len(base))
    out: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    with threads_of_blas_for(faiss):
        for start in range(0, len(queries), BLOCK):
            part = np.ascontiguousarray(queries[start : start + BLOCK], dtype=np.float32)
            values, places = index.search(part, count)
            rows = np.broadcast_to(np.arange(start, start + len(part))[:, None], places.shape)
            good = (places >= 0) & (values >= least)
            if same:
                good &= places != rows
            out.append((rows[good], places[good], values[good]))
            done(len(part))
    first, second, value = (np.concatenate([one[i] for one in out]) if out else np.array([]) for i in range(3))
    return first.astype(np.int64), second.astype(np.int64), value.astype(np.float64)


@contextmanager
def threads_of_blas() -> Iterator[int]:
    """As many threads as numpy's BLAS may take now: the block starts them itself, and BLAS takes one in each."""
    from threadpoolctl import threadpool_info, threadpool_limits

    allowed = max((library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"), default=1)
    with threadpool_limits(1, user_api="blas"):
        yield allowed
