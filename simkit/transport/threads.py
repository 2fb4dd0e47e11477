"""Many small decompositions on several cores: one thread of BLAS each, in as many threads as BLAS was allowed.

A threaded BLAS gains nothing on matrices of some hundred rows, and where another process takes a core it loses a factor of thirty: its threads
wait for each other by spinning, thousands of times a decomposition.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

__all__ = ["each", "one_blas_thread", "one_thread"]

T = TypeVar("T")
R = TypeVar("R")

_lock = threading.Lock()
_inside = 0
_allowed = 1
_limits: Any = None


@cache
def _blas() -> Any:
    import numpy.linalg  # noqa: F401 - loads the library that is asked
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@contextmanager
def one_blas_thread() -> Iterator[int]:
    """Limits BLAS to one thread, in the whole process, while any block of this kind is open. Yields the threads it was allowed before."""
    global _inside, _allowed, _limits
    with _lock:
        if _inside == 0:
            _allowed = max((library["num_threads"] for library in _blas().info()), default=1)
            _limits = _blas().limit(limits=1)
        _inside += 1
    try:
        yield _allowed
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _limits.restore_original_limits()


@contextmanager
def one_thread() -> Iterator[None]:
    """Limits BLAS and torch to one thread: for work in pieces too small to share, where threads only wait for each other."""
    import torch

    before = torch.get_num_threads()
    with one_blas_thread():
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def each(work: Callable[[T], R], items: Sequence[T], *, threads: int = 0) -> list[R]:
    """``[work(item) for item in items]``, in ``threads`` threads (0: as many as BLAS was allowed), each with one thread of BLAS."""
    with one_blas_thread() as allowed:
        threads = threads or allowed
        if threads == 1 or len(items) < 2:
            return [work(item) for item in items]
        with ThreadPoolExecutor(min(threads, len(items))) as pool:
            return list(pool.map(work, items))
