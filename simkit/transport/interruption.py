"""Stopping long solves in worker threads, which Ctrl-C does not reach: they look between two tiles whether they should go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Interrupted", "go_on", "stopped"]

_stop = threading.Event()


class Interrupted(Exception):
    """A solve was stopped from outside; it left nothing behind."""


def go_on() -> None:
    """Called between two pieces of a long computation.

    Raises:
        Interrupted: the run that it belongs to has ended.
    """
    if _stop.is_set():
        raise Interrupted


@contextmanager
def stopped() -> Iterator[None]:
    """While the block waits for worker threads to end, their solves stop at the next piece."""
    _stop.set()
    try:
        yield
    finally:
        _stop.clear()
