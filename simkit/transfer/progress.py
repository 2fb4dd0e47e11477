"""What is left of a grid, in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from simkit.execution import duration

__all__ = ["Clock"]

FIRST_UNITS, FIRST_SECONDS = 2, 5.0
"""Nothing is said of the time left before so many units are finished and so much time is over."""


class Clock:
    """The time left for a grid, from what is finished.

    With D the cost of the finished units, P half the cost of those that are in work beside the one that has just ended (the first of the list that
    are not finished, one a job) and T the time since the clock was made, the work goes on at a rate of (D + P) / T, and all costs - D - P are left.

    Args:
        costs: of each unit, in the order in which they are begun; in any unit (images to train on, say).
        jobs: how many units are in work at a time.
        now: seconds; only differences count.
    """

    def __init__(self, costs: Sequence[float], jobs: int, *, now: Callable[[], float] = time.perf_counter):
        self._costs, self._jobs, self._now = list(costs), jobs, now
        self._open = dict(enumerate(self._costs))
        self._started = now()

    def finished(self, index: int, seconds: float) -> str:
        """``[3 of 40, 120 s, about 30 min left]``: units finished, seconds that this one took, time left for all.

        Raises:
            KeyError: the unit was finished before, or there is none of this number.
        """
        del self._open[index]
        left = self.left()
        return f"[{len(self._costs) - len(self._open)} of {len(self._costs)}, {seconds:.0f} s" + ("]" if left is None else f", {duration(left)} left]")

    def left(self) -> float | None:
        """Seconds left; None when nothing is left, or nothing can be said yet."""
        elapsed, done = self._now() - self._started, sum(self._costs) - sum(self._open.values())
        if not self._open or len(self._costs) - len(self._open) < FIRST_UNITS or elapsed < FIRST_SECONDS or done <= 0:
            return None
        done += sum(list(self._open.values())[: self._jobs - 1]) / 2
        return max(0.0, sum(self._costs) - done) * elapsed / done
