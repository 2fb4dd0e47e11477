"""The time left for a grid."""

from __future__ import annotations

import pytest

from simkit.transfer.progress import Clock


class Time:
    """A clock that goes when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_the_time_left_goes_by_cost():
    time = Time()
    clock = Clock([10.0, 10.0, 20.0, 60.0], 1, now=time)
    time.now += 100
    assert clock.finished(0, 99.6) == "[1 of 4, 100 s]"  # one unit says too little
    time.now += 100
    assert clock.finished(1, 100.0) == "[2 of 4, 100 s, about 13 min left]"  # 80 of 100 are left, 10 s each
    time.now += 100
    assert clock.finished(2, 100.0) == "[3 of 4, 100 s, about 8 min left]"  # 60 left at 40 in 300 s
    time.now += 450
    assert clock.finished(3, 450.0) == "[4 of 4, 450 s]"
    assert clock.left() is None


def test_units_that_are_half_done_count_half():
    time = Time()
    clock = Clock([10.0] * 8, 3, now=time)
    time.now += 30
    clock.finished(0, 30.0)
    clock.finished(2, 30.0)
    assert clock.left() == pytest.approx(30 * (80 - 20 - 10) / (20 + 10))  # two of the other six are in work


def test_nothing_is_said_in_the_first_seconds():
    time = Time()
    clock = Clock([1.0] * 4, 1, now=time)
    time.now += 4.9
    assert [clock.finished(index, 2.4) for index in (0, 1)] == ["[1 of 4, 2 s]", "[2 of 4, 2 s]"]
    time.now += 0.1
    assert clock.finished(2, 0.1) == "[3 of 4, 0 s, about 2 s left]"


def test_units_without_cost_say_nothing():
    time = Time()
    clock = Clock([0.0, 0.0, 5.0], 1, now=time)
    time.now += 60
    clock.finished(0, 1.0)
    assert clock.finished(1, 1.0) == "[2 of 3, 1 s]"


def test_a_unit_is_finished_once():
    clock = Clock([1.0, 1.0], 1)
    clock.finished(0, 1.0)
    with pytest.raises(KeyError, match=r"0"):
        clock.finished(0, 1.0)
