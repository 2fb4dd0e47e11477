"""Shared fixtures: where development data lie, and one thread a worker."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest

Labelled = tuple[np.ndarray, np.ndarray]
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


@pytest.fixture(scope="session")
def digits() -> dict[str, tuple[Labelled, Labelled]]:
    """Halves of scikit-learn's digits by default_rng(0).permutation: the cases of the reference values."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, p = (x / 16).astype(np.float32), np.random.default_rng(0).permutation(1797)
    a, b = (x[p[:898]], y[p[:898]]), (x[p[898:1796]], y[p[898:1796]])
    low, high = a[1] < 5, b[1] >= 5
    return {
        "halves": (a, b), "relabelled": (a, (a[0], (a[1] + 3) % 10)), "inverted": (a, (1 - b[0], b[1])),
        "disjoint": ((a[0][low], a[1][low]), (b[0][high], b[1][high])),
    }


@pytest.fixture(scope="session")
def raw64() -> Labelled:
    """scikit-learn's digits divided by 16, (1797, 64) float64: the first case of the reference values of transferability."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x / 16, y


@pytest.fixture(scope="session")
def few(raw64: Labelled) -> Labelled:
    """The first four digits of each class, 40 images: fewer than features."""
    x, y = raw64
    rows = np.sort(np.concatenate([np.flatnonzero(y == c)[:4] for c in range(10)]))
    return x[rows], y[rows]
