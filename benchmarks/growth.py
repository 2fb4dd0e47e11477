"""How the cost of a pair grows with the number of images and of features, for every measure of distributions. One thread.

    python benchmarks/growth.py [NAME ...] [--quick] [--json FILE] [--plot FILE]

Every measure runs in a process of its own, after a small pair that pays for imports. Both data sets are summarised once and compared once, without
permutations; time is CPU time. Exponents are those of the last two points.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

from simkit.embedding import Embedding
from simkit.registry import ESTIMATORS

FAMILIES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "moments": [("frechet", {}), ("frechet-infinity", {}), ("class-frechet", {}), ("class-mean-emd", {})],
    "kernels": [("mmd", {"sigma": 20.0, "permutations": 0}), ("kid", {"permutations": 0}), ("energy", {"permutations": 0}), ("sliced-wasserstein", {})],
    "neighbours": [("coverage", {}), ("density", {}), ("precision", {}), ("recall", {}), ("nearest-neighbour", {})],
    "classifiers": [("domain-classifier", {}), ("cross-learning", {})],
    "one set": [("vendi", {}), ("effective-rank", {}), ("intrinsic-dimension", {})],
}
SIZES = {False: (500, 1000, 2000, 4000, 8000, 16000), True: (250, 500, 1000)}
DIMENSIONS = {False: (128, 256, 512, 1024, 2048), True: (64, 128, 256)}
FIXED_SIZE, FIXED_DIMENSION = 2000, 512
MOST_SECONDS = 60.0


def clouds(n: int, d: int) -> tuple[Embedding, Embedding]:
    """Two labelled data sets whose features have variances that fall off, as those of networks do."""
    rng = np.random.default_rng(0)
    scale = np.exp(-np.linspace(0.0, 3.0, d)).astype(np.float32)
    labels = np.arange(n) % 10
    centres = rng.standard_normal((10, d), dtype=np.float32)
    sides = [(rng.standard_normal((n, d), dtype=np.float32) + centres[labels] + np.float32(shift)) * scale for shift in (0.0, 0.1)]
    classes = tuple(f"class {k}" for k in range(10))
    return Embedding(sides[0], labels, classes, name="x"), Embedding(sides[1], labels, classes, name="y")


def measured(name: str, options: dict[str, Any], points: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """CPU seconds of one pair at each (n, d); stops before a point that would take minutes."""
    measure = ESTIMATORS.build({name: options})
    rows: list[dict[str, Any]] = []
    for n, d in [(100, 32), *points]:
        if rows and rows[-1]["d"] == d and rows[-1]["seconds"] > MOST_SECONDS:
            continue
        x, y = clouds(n, d)
        start = time.process_time()
        measure.compare(measure.summarize(x), measure.summarize(y), np.random.default_rng(0))
        rows.append({"measure": name, "n": n, "d": d, "seconds": time.process_time() - start})
    return rows[1:]


def exponent(rows: list[dict[str, Any]], along: str) -> str:
    (a, s), (b, t) = [(row[along], row["seconds"]) for row in rows][-2:]
    return f"{along}^{np.log(t / s) / np.log(b / a):.2f} ({a} to {b}: {s:.3f} s to {t:.3f} s)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json")
    parser.add_argument("--plot")
    given = parser.parse_args()
    by_n = [(n, FIXED_DIMENSION) for n in SIZES[given.quick]]
    by_d = [(FIXED_SIZE if not given.quick else 500, d) for d in DIMENSIONS[given.quick]]
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name, options in (one for family in FAMILIES.values() for one in family if not given.names or one[0] in given.names):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found[name] = {along: pool.submit(measured, name, options, points).result() for along, points in (("n", by_n), ("d", by_d))}
        print(f"{name:<20} {exponent(found[name]['n'], 'n'):<44} {exponent(found[name]['d'], 'd')}", flush=True)
    if given.json:
        with open(given.json, "w") as file:
            json.dump(found, file, indent=1)
    if given.plot:
        plot(found, given.plot)


def plot(found: dict[str, dict[str, list[dict[str, Any]]]], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    families = {family: [name for name, _ in names if name in found] for family, names in FAMILIES.items()}
    families = {family: names for family, names in families.items() if names}
    figure, axes = pyplot.subplots(2, len(families), figsize=(3.1 * len(families), 6.2), sharey="row", layout="constrained", squeeze=False)
    for column, (family, names) in enumerate(families.items()):
        for row, along in enumerate(("n", "d")):
            axis = axes[row, column]
            for name in names:
                axis.loglog([r[along] for r in found[name][along]], [r["seconds"] for r in found[name][along]], marker="o", markersize=3, label=name)
            axis.set_xlabel("images a side (d = 512)" if along == "n" else "features (n = 2,000)")
            ticks = sorted({r[along] for name in names for r in found[name][along]})
            axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=45)
            axis.minorticks_off()
            axis.grid(alpha=0.3)
        axes[0, column].set_title(family)
        axes[0, column].legend(frameon=False, fontsize=8)
    for row in (0, 1):
        axes[row, 0].set_ylabel("CPU seconds of a pair, one thread")
    figure.savefig(path)


if __name__ == "__main__":
    main()
