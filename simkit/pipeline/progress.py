"""What a long run says while it works. The library is silent; the command line prints lines and bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress"]


class Progress:
    """Silent progress; the command line overrides both methods."""

    def say(self, text: str) -> None:
        """One line about a finished step."""

    @contextmanager
    def counting(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """A counted step: yields a function that is called with the number of items just finished."""
        yield lambda _: None
