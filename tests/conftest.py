"""Shared fixtures: where development data lie, and one thread a worker."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

SHARED = Path(os.environ.get("SIMKIT_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture
def shared() -> Path:
    """The folder of development data; the test is skipped where it is missing."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"development data not found at {SHARED} (set SIMKIT_SHARED)")
    return SHARED


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMKIT_STORE", str(tmp_path / "store"))
