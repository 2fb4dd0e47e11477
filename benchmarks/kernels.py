"""Kernel measures: permutations as one matrix product against gathering the matrix, tiles against the whole matrix. One thread.

    python benchmarks/kernels.py [permutations|memory] [--quick] [--json FILE]

Every case runs in a process of its own, so that peak memory is that of the case.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import json
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

from simkit.embedding import Embedding
from simkit.estimators.energy import Energy
from simkit.estimators.kid import Kid
from simkit.estimators.mmd import Mmd
from simkit.estimators.sliced_wasserstein import SlicedWasserstein

METHODS: dict[str, Callable[[], Any]] = {
    "mmd": lambda: Mmd(sigma=16.0, device="cpu"), "energy": lambda: Energy(device="cpu"), "kid": lambda: Kid(device="cpu"),
    "sliced-wasserstein": lambda: SlicedWasserstein(device="cpu"),
}


def clouds(n: int, d: int) -> tuple[Embedding, Embedding]:
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((n, d), dtype=np.float32) for _ in range(2))
    return Embedding(x, name="x"), Embedding(y + np.float32(0.05), name="y")


def cpu(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    out = work()
    return out, time.process_time() - start


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def permutations(n: int, d: int, count: int) -> dict[str, Any]:
    """MMD with its test, and per permutation the gathered matrix (what alibi-detect and hyppo do), in one process."""
    x, y = clouds(n // 2, d)
    method = Mmd(sigma=16.0, permutations=count, device="cpu")
    sides = [method.summarize(x), method.summarize(y)]
    _, value = cpu(lambda: method.compare(*sides, np.random.default_rng(0)))
    _, whole = cpu(lambda: method.tested(*sides, np.random.default_rng(0)))
    rows = np.concatenate([x.features, y.features])
    norms = (rows**2).sum(1)
    kernel = np.exp(-(norms[:, None] + norms[None] - 2 * rows @ rows.T) / (2 * 16.0**2))
    np.fill_diagonal(kernel, 0.0)
    rng = np.random.default_rng(1)
    tries = 20

    def gathered() -> list[float]:
        out = []
        for _ in range(tries):
            order = rng.permutation(n)
            k = kernel[order][:, order]
            a, b, c = k[: n // 2, : n // 2], k[n // 2 :, n // 2 :], k[: n // 2, n // 2 :]
            out.append(float(a.sum() / (len(a) * (len(a) - 1)) + b.sum() / (len(b) * (len(b) - 1)) - 2 * c.mean()))
        return out

    _, slow = cpu(gathered)
    ours = (whole - value) / count
    return {"n": n, "d": d, "permutations": count, "seconds": whole, "per permutation, kernel included": ours, "gathering, kernel not included": slow / tries,
            "ratio": slow / tries / ours, "GiB": peak()}


def memory(name: str, n: int, d: int) -> dict[str, Any]:
    """One pair without permutations: time, and what the process takes beyond its data."""
    x, y = clouds(n, d)
    before, method = peak(), METHODS[name]()
    (sides, once), rng = cpu(lambda: [method.summarize(x), method.summarize(y)]), np.random.default_rng(0)
    _, pair = cpu(lambda: method.compare(*sides, rng))
    whole = 3 * n * n * 8 / 2**30
    return {"measure": name, "n": n, "d": d, "both sets once": once, "pair": pair, "predicted": method.seconds(n, n) if name == "sliced-wasserstein" else None,
            "GiB beyond the data": peak() - before, "three n x n matrices of float64, GiB": whole}


def apart(case: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(case, *arguments).result()


def shown(row: dict[str, Any]) -> None:
    print("  ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items() if value is not None), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", choices=("permutations", "memory"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if given.case in (None, "permutations"):
        for n in (1000, 2000) if given.quick else (1796, 5000):
            rows.append(apart(permutations, n, 64 if n == 1796 else 512, 1000))
            shown(rows[-1])
    if given.case in (None, "memory"):
        for name in METHODS:
            rows.append(apart(memory, name, 3000 if given.quick else 50000, 512))
            shown(rows[-1])
    if given.json:
        with open(given.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
