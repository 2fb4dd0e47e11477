"""Coverage, density, precision and recall against prdc in one run: CPU seconds, and memory beyond that of the data; growth with n and d; descriptors.

Each figure comes from a process of its own: peak resident memory less that before the work, one thread. For a pair simkit computes the balls and the pair,
for each of the four measures on its own; prdc computes all four at once. --large adds n = 50,000.

    python benchmarks/neighbours.py [--quick] [--large] [--json FILE]
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import contextlib
import io
import json
import multiprocessing
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

FOUR = ("coverage", "density", "precision", "recall")


class Peak:
    """The highest resident memory of this process while the block runs, beyond that at its start."""

    def __enter__(self) -> Peak:
        self.process, self.over = psutil.Process(), threading.Event()
        self.before = self.highest = self.process.memory_info().rss
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.over.wait(0.005):
            self.highest = max(self.highest, self.process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    @property
    def mib(self) -> float:
        return (self.highest - self.before) / 2**20


def data(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Two samples of correlated features with a small shift between them."""
    rng = np.random.default_rng(0)
    scale = (np.geomspace(2, 0.2, d)).astype(np.float32)
    return rng.standard_normal((n, d), dtype=np.float32) * scale, rng.standard_normal((n, d), dtype=np.float32) * scale + np.float32(0.02)


def measured(who: str, n: int, d: int) -> dict[str, Any]:
    """One figure, in the process that was started for it."""
    x, y = data(n, d)
    if who == "prdc":
        import prdc
        from joblib import parallel_backend

        with contextlib.redirect_stdout(io.StringIO()), parallel_backend("threading", n_jobs=1), Peak() as peak:
            start = time.process_time()
            values = prdc.compute_prdc(y, x, 5)
            seconds = time.process_time() - start
        return {"who": who, "n": n, "d": d, "seconds": seconds, "mib": peak.mib, "value": {name: float(v) for name, v in values.items()}}
    import faiss  # noqa: F401 - loaded before the clock starts

    from simkit.embedding import Embedding
    from simkit.registry import ESTIMATORS

    options = {"k": 5} if who in FOUR else {}
    measure = ESTIMATORS.build({who: {**options, "device": "cpu"}})
    source, target, rng = Embedding(x, name="source"), Embedding(y, name="target"), np.random.default_rng(0)
    with Peak() as peak:
        start = time.process_time()
        score = measure.compare(measure.summarize(source), measure.summarize(target), rng)
        seconds = time.process_time() - start
    return {"who": who, "n": n, "d": d, "seconds": seconds, "mib": peak.mib, "value": score.value, "predicted": measure.seconds(n, n)}


def apart(who: str, n: int, d: int) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        row = pool.apply(measured, (who, n, d))
    value = ", ".join(f"{v:.4f}" for v in row["value"].values()) if isinstance(row["value"], dict) else f"{row['value']:.4f}"
    print(f"{who:20} {n:7d} {d:5d} {row['seconds']:9.2f} {row['mib']:9.0f}   {value}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes only, some seconds")
    parser.add_argument("--large", action="store_true", help="n = 50,000 too: some minutes")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    given = parser.parse_args()
    print(f"{'measure':20} {'n = m':>7} {'d':>5} {'CPU s':>9} {'MiB':>9}   value (prdc: precision, recall, density, coverage)")
    rows = []
    for n in (1000,) if given.quick else (2000, 5000):
        rows += [apart(who, n, 512) for who in ("prdc", *FOUR, "nearest-neighbour")]
    sizes = [(1000, 128), (1000, 2048)] if given.quick else [(5000, 128), (5000, 2048), (20_000, 512)]
    for n, d in sizes + ([(50_000, 512)] if given.large else []):
        rows += [apart(who, n, d) for who in (*FOUR, "nearest-neighbour")]
    for n, d in [(1000, 512)] if given.quick else [(5000, 512), (5000, 2048), (20_000, 512)] + ([(50_000, 512)] if given.large else []):
        rows += [apart(who, n, d) for who in ("vendi", "effective-rank", "intrinsic-dimension")]
    print("growth of CPU time (exponent):")
    found = {(row["who"], row["n"], row["d"]): row["seconds"] for row in rows}
    ends = [((1000, 128), (1000, 2048), "d")] if given.quick else [((5000, 512), (20_000, 512), "n"), ((5000, 128), (5000, 2048), "d")]
    for small, large, what in ends:
        factor = np.log(large[what == "d"] / small[what == "d"])
        for who in (*FOUR, "nearest-neighbour"):
            print(f"  {who:20} {what}: {np.log(found[who, *large] / found[who, *small]) / factor:.2f}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
