"""Fréchet distance against scipy's matrix square root and POT's Bures distance, in one run: time and error.

The second set is 1.5 X + 0.1 of the first, so the true value is known: |0.5 m + 0.1|² + tr S / 4.

    python benchmarks/frechet.py [--quick]
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
import warnings
from collections.abc import Callable

import numpy as np
import ot
from scipy.linalg import sqrtm

from simkit.embedding import Embedding
from simkit.estimators.frechet import Frechet

Pair = tuple[np.ndarray, np.ndarray]


def ours(x: np.ndarray, y: np.ndarray) -> float:
    method, rng = Frechet(), np.random.default_rng(0)
    return method.compare(method.summarize(Embedding(x)), method.summarize(Embedding(y)), rng).value


def moments(x: np.ndarray, y: np.ndarray) -> tuple[Pair, Pair]:
    x, y = x.astype(np.float64), y.astype(np.float64)
    return (x.mean(0), np.cov(x.T)), (y.mean(0), np.cov(y.T))


def by_square_root(x: np.ndarray, y: np.ndarray) -> float:
    """As FID tools compute it: real part of the trace of sqrtm(S1 S2)."""
    (m1, s1), (m2, s2) = moments(x, y)
    return float(((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(sqrtm(s1 @ s2)).real)


def by_pot(x: np.ndarray, y: np.ndarray) -> float:
    (m1, s1), (m2, s2) = moments(x, y)
    return float(ot.gaussian.bures_wasserstein_distance(m1, m2, s1, s2)) ** 2


def timed(work: Callable[[], float], repeats: int) -> tuple[float, float]:
    """(value, CPU seconds of the fastest run)."""
    best, value = np.inf, float("nan")
    for _ in range(repeats):
        start = time.process_time()
        value = work()
        best = min(best, time.process_time() - start)
    return value, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes only, a few seconds")
    quick = parser.parse_args().quick
    sizes = [(100, 512), (300, 512), (512, 512), (2000, 512)] + ([] if quick else [(1000, 2048), (5000, 2048)])
    warnings.simplefilter("ignore")  # the peers warn on singular covariances: what comes out is in the table
    print(f"threads: {os.environ['OMP_NUM_THREADS']}; moments of the data included everywhere; errors relative to the trace of both covariances")
    peers = " | ".join(f"{name + ' s':>9} {'ratio':>6} {'error':>9}" for name in ("sqrtm", "POT"))
    print(f"{'n':>6} {'d':>5} {'true FD²':>12} | {'simkit s':>9} {'error':>9} | {peers}")
    for n, d in sizes:
        rng = np.random.default_rng(0)
        x = np.round(rng.normal(size=(n, d)) * np.geomspace(2, 0.1, d) * 4096) / 4096  # 1.5 x is then exact in float32
        x = x.astype(np.float32)
        y = 1.5 * x + np.float32(0.125)
        wide = x.astype(np.float64)
        trace = float(wide.var(0, ddof=1).sum())
        truth = float(((0.5 * wide.mean(0) + 0.125) ** 2).sum()) + 0.25 * trace
        cells = []
        first = 0.0
        for work in (ours, by_square_root, by_pot):
            value, seconds = timed(lambda work=work, x=x, y=y: work(x, y), 1 if d > 1000 else 3)
            error = f"{(value - truth) / (3.25 * trace):9.1e}"
            first = first or seconds
            cells.append(f"{seconds:9.3f} {error}" if work is ours else f"{seconds:9.3f} {seconds / first:6.1f} {error}")
        print(f"{n:6d} {d:5d} {truth:12.4f} | " + " | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
