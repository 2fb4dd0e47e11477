"""How much memory a solve may take: predicted, refused before the work, and shared out among threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simkit.errors import ResourceError

__all__ = ["check_memory", "memory_limit", "reserved", "size_text"]

MEMORY_SHARE = 0.7
"""Share of this machine's memory that one problem may take, unless the caller sets a limit."""


def size_text(size: float) -> str:
    """Bytes in words: ``12 MiB``, ``3.20 GiB``."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"


def memory_limit() -> int:
    """Bytes that one problem may take: 70 % of the memory of this machine, or of the control group (container) around this process."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 16 * 2**30
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:  # no such control group on this system
            continue
        if text.isdigit():
            total = min(total, int(text))
    return int(total * MEMORY_SHARE)


def check_memory(needed: int, where: str, what: str, *, limit: int | None = None, fix: str = "") -> None:
    """Refuses work that would not fit, before it starts.

    Args:
        needed: bytes that the work is predicted to take.
        where: who asks, for the message ("otdd").
        what: the work in words ("exact transport of 9000 x 9000 images").
        limit: bytes allowed; by default :func:`memory_limit`.
        fix: the remedy.

    Raises:
        ResourceError: SK301 with both numbers.
    """
    limit = memory_limit() if limit is None else limit
    if needed > limit:
        message = f"{what} needs about {needed / 2**30:.2f} GiB of memory, the limit is {limit / 2**30:.2f} GiB"
        raise ResourceError("SK301", where, message, fix or "use fewer images, or a machine with more memory")


_room = threading.Condition()
_taken = 0


@contextmanager
def reserved(needed: int) -> Iterator[None]:
    """Holds ``needed`` bytes of :func:`memory_limit` while a solve runs: threads that would together exceed it wait for each other.

    A solve that runs alone always starts: whether it fits at all is the question of :func:`check_memory`.
    """
    global _taken
    with _room:
        _room.wait_for(lambda: _taken == 0 or _taken + needed <= memory_limit())
        _taken += needed
    try:
        yield
    finally:
        with _room:
            _taken -= needed
            _room.notify_all()
