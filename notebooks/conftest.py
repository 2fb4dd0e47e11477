"""Notebooks as tests (``pytest --nbmake notebooks``): one thread each, and no more than a minute of one core."""

from __future__ import annotations

import os
import resource
from collections.abc import Generator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

LIMIT = 60.0
"""Seconds of one core that a notebook may take, its kernel and all processes of it together: on idle cores no more by the clock, and the same on busy ones."""


def spent() -> float:
    """CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    before = spent()
    yield
    seconds = spent() - before
    item.user_properties.append(("cpu seconds", round(seconds, 1)))
    if seconds > LIMIT:
        pytest.fail(f"{item.path.name} took {seconds:.0f} seconds of one core, more than {LIMIT:.0f}: make its data smaller", pytrace=False)
