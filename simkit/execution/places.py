"""What all places of work have in common: types, and the two values that mean something by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from simkit.errors import Problem

__all__ = ["DEVICE", "LATER", "POLL_SECONDS", "RETRIES", "Anything", "Check", "Say", "Task", "Workers", "duration", "with_device"]

RETRIES = 3
"""How often work is started again whose worker was lost: on a cluster each task, on this machine all that is unfinished."""

POLL_SECONDS = 0.1
Anything = TypeVar("Anything")
Task = Callable[..., Any]
Say = Callable[[str], None]
Check = Callable[[], Sequence[Problem]]


class _Sign:
    """A value that means something by itself; also in another process it is the one object of its name in this module."""

    def __init__(self, name: str):
        self._name = name

    def __repr__(self) -> str:
        return self._name

    def __reduce__(self) -> str:
        return self._name


DEVICE: Any = _Sign("DEVICE")
"""Stands for the device of a task among its arguments."""

LATER: Any = _Sign("LATER")
"""What a task returns that did nothing, since somebody else is doing the same; given on like any result."""


def duration(seconds: float) -> str:
    """Seconds in words: ``about 8 s``, ``about 3 min``, ``about 2 h 10 min``."""
    if seconds < 90:
        return f"about {seconds:.0f} s" if seconds >= 1 else "less than a second"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 90 else f"about {minutes // 60} h {minutes % 60} min"


class Workers(Protocol):
    """What carries tasks out.

    Attributes:
        jobs: how many tasks run at a time.
    """

    jobs: int

    def share(self, value: Anything) -> Anything:
        """A stand-in to pass to any number of tasks, which receive the value itself; handed over once."""
        ...

    def require(self, check: Check) -> None:
        """Runs a check on each machine that gets work, other than this one: now, and on a machine that joins later before each of its tasks.

        Raises:
            ResourceError: with all problems found, each with the machine's name.
        """
        ...

    def results(self, task: Task, arguments: Iterable[Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        """``(position, task(live, *arguments))`` of each, as they come.

        Raises:
            ResourceError: SK301 when worker processes were killed again and again. What a task raises comes through.
        """
        ...


def with_device(arguments: Sequence[Any], device: str | None) -> list[Any]:
    """The arguments of a task with its device in the place of DEVICE."""
    if device is None and any(one is DEVICE for one in arguments):
        raise ValueError("a task asks for a device, and workers() was given none")
    return [device if one is DEVICE else one for one in arguments]
