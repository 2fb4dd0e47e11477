"""The whole of `simkit.correlate` on tables of the sizes that studies have, and its resampling against a loop over scipy.

    python benchmarks/correlate.py [--quick] [--json FILE]

Every case runs in a process of its own, so that peak memory is that of the case. "study": 10 methods, 15 sources, 12 targets, 3 replicates of
performance and score; "survey": 1,000 methods, 71 sources, 43 targets, 3 replicates of the performance. Both with 9,999 joint permutations and 2,000
two-way bootstraps, self pairs missing, from the CSV file to the printed text. "loop" is what a careful analyst writes: for each permutation, method and
target scipy.stats.spearmanr of the cells that are there; a few permutations are timed and scaled, and must give the same statistics.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"study": (10, 15, 12, 3), "survey": (1000, 71, 43, 1), "quick": (10, 15, 12, 3)}
"""Methods, sources, targets, replicates of the scores."""

FOLDS, PERMUTATIONS, BOOTSTRAPS = 3, 9999, 2000


def numbers(methods: int, sources: int, targets: int, replicates: int) -> tuple[np.ndarray, np.ndarray]:
    """Performances (S, T, folds) and scores (M, S, T, replicates) with source effects, some of them informative; self pairs are NaN."""
    rng = np.random.default_rng(0)
    good = rng.normal(size=(sources, 1)) + rng.normal(size=(sources, targets))
    y = 0.8 + 0.03 * (good[..., None] + 0.3 * rng.normal(size=(sources, targets, FOLDS)))
    strength = np.linspace(0, 0.6, methods)[:, None, None]
    x = strength * good + np.sqrt(1 - strength**2) * (rng.normal(size=(methods, sources, 1)) + rng.normal(size=(methods, sources, targets)))
    x = x[..., None] + 0.2 * rng.normal(size=(*x.shape, replicates))
    own = range(min(sources, targets))
    y[own, own], x[:, own, own] = np.nan, np.nan
    return y, x


def write(path: Path, y: np.ndarray, x: np.ndarray) -> None:
    """A wide table: folds are columns, methods are columns (several where the score has replicates)."""
    methods, sources, targets, replicates = x.shape
    names = [f"m{m}_{r}" if replicates > 1 else f"m{m}" for m in range(methods) for r in range(replicates)]
    with path.open("w") as file:
        file.write(",".join(["source", "target", *(f"fold_{f}" for f in range(FOLDS)), *names]) + "\n")
        for s, t in np.ndindex(sources, targets):
            if np.isfinite(y[s, t, 0]):
                cells = [*y[s, t], *x[:, s, t].ravel()]
                file.write(f"d{s},d{t}," + ",".join(repr(float(cell)) for cell in cells) + "\n")


def whole(case: str) -> dict[str, Any]:
    """Seconds and peak memory of correlate, from the file to the text."""
    import simkit

    methods, sources, targets, replicates = SIZES[case]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.csv"
        write(path, *numbers(methods, sources, targets, replicates))
        simkit.correlate  # noqa: B018 - the import is no part of the work
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        wide = [f"m{m}=m{m}_?" for m in range(methods)] if replicates > 1 else []
        start, cpu = time.perf_counter(), time.process_time()
        found = simkit.correlate(path, performance="fold_*", methods=wide, similarities=[f"m{m}" for m in range(methods)], metric="auc",
                                 permutations=999 if case == "quick" else PERMUTATIONS, bootstraps=200 if case == "quick" else BOOTSTRAPS)
        text = found.text()
        seconds, spent = time.perf_counter() - start, time.process_time() - cpu
    seen = sum(one.p_max is not None and one.p_max <= 0.05 for one in found.methods)
    return {"case": case, "methods": methods, "sources": sources, "targets": targets, "seconds": seconds, "cpu_seconds": spent,
            "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "before_gib": before, "lines": text.count("\n") + 1, "p_max<=0.05": seen}


def loop(permutations: int) -> dict[str, Any]:
    """Resampling alone: simkit against scipy in a loop, the same permutations and weights; the loop is scaled from a few of them."""
    from scipy.stats import spearmanr

    from simkit.correlation.resampling import Permutations, Weights, means_over_targets

    y, x = numbers(*SIZES["study"])
    y, x = y.mean(-1), x.mean(-1)
    rng = np.random.default_rng(1)
    orders = rng.permuted(np.tile(np.arange(len(y)), (PERMUTATIONS, 1)), axis=1)
    weights = rng.multinomial(len(y), np.full(len(y), 1 / len(y)), size=BOOTSTRAPS).astype(float)
    means_over_targets(x, y, Permutations(orders[:10]))  # loads the libraries
    start = time.perf_counter()
    ours, _ = means_over_targets(x, y, Permutations(orders))
    means_over_targets(x, y, Weights(weights))
    mine = time.perf_counter() - start
    start = time.perf_counter()
    theirs = np.empty((len(x), permutations))
    for m, b in np.ndindex(len(x), permutations):
        each = []
        for t in range(y.shape[1]):
            moved = x[m, orders[b], t]
            both = np.isfinite(moved) & np.isfinite(y[:, t])
            each.append(spearmanr(moved[both], y[both, t]).statistic)
        theirs[m, b] = np.mean(each)
    scaled = (time.perf_counter() - start) / permutations * (PERMUTATIONS + BOOTSTRAPS)
    return {"case": "loop", "simkit_s": mine, "scipy_loop_s": scaled, "timed_permutations": permutations, "ratio": scaled / mine,
            "largest_difference": float(np.abs(ours[:, :permutations] - theirs).max())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="seconds: a smaller number of resamples, and no survey")
    parser.add_argument("--json", help="write the numbers to this file")
    arguments = parser.parse_args()
    cases: list[tuple[Any, Any]] = [(whole, "quick"), (loop, 3)] if arguments.quick else [(whole, "study"), (whole, "survey"), (loop, 20)]
    results = []
    for work, argument in cases:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            results.append(pool.submit(work, argument).result())
        print("  ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in results[-1].items()), flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
