"""OTDD with the exact solver against the same formulas written plainly with scipy and POT, in one run: time of each stage and difference.

The peer takes two eigendecompositions for each pair of classes, as the reference implementation does (in float64 here), and POT's
``ot.emd2`` on the dense cost. simkit solves the outer problem by the same network simplex, so that what differs is the label stage.

    python benchmarks/otdd_exact.py [--quick]
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
import warnings

import numpy as np
import ot
from scipy.linalg import eigh

from simkit.embedding import Embedding
from simkit.estimators.otdd import Otdd
from simkit.transport import gaussian_distances


def data(n: int, d: int, classes: int, seed: int) -> Embedding:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(classes, d))
    labels = np.arange(n) % classes
    features = rng.normal(size=(n, d)) * np.geomspace(2, 0.1, d) + centres[labels] + 0.05 * seed
    return Embedding(features.astype(np.float32), labels, tuple(str(k) for k in range(classes)), name=f"set{seed}")


def root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def peer_labels(a: Embedding, b: Embedding) -> np.ndarray:
    """W between class Gaussians by two eigendecompositions a pair: |m1 - m2|² + tr (S1 + S2 - 2 (S1^½ S2 S1^½)^½)."""
    table = np.empty((len(a.classes), len(b.classes)))
    rows = [[e.features[e.labels == k].astype(float) for k in range(len(e.classes))] for e in (a, b)]
    first, second = ([(x.mean(0), np.cov(x.T)) for x in part] for part in rows)
    for i, (m1, s1) in enumerate(first):
        for j, (m2, s2) in enumerate(second):
            half = root(s1)
            table[i, j] = ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * root(half @ s2 @ half))
    return table


def peer_solve(a: Embedding, b: Embedding, table: np.ndarray) -> float:
    cost = ot.dist(a.features.astype(float), b.features.astype(float)) + table[a.labels[:, None], b.labels]
    return float(ot.emd2(ot.unif(len(a)), ot.unif(len(b)), cost, numItermax=10**8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes only, under a minute")
    quick = parser.parse_args().quick
    sizes = [(250, 64, 10), (500, 64, 10), (500, 512, 2), (1000, 128, 10)]
    sizes += [] if quick else [(1000, 512, 10), (2000, 512, 10), (5000, 64, 10)]
    warnings.simplefilter("ignore")
    print(f"CPU seconds, threads: {os.environ['OMP_NUM_THREADS']}; label_cost gaussian, solver exact, no lower bound; peer: eigendecompositions and POT emd2")
    stages = " | ".join(f"{name + ' s':>9} {'peer s':>8} {'ratio':>6}" for name in ("labels", "whole"))
    print(f"{'n = m':>6} {'d':>5} {'K':>3} | {stages} | {'OTDD':>12} {'relative difference':>20}")
    method, rng = Otdd(lower_bound=False), np.random.default_rng(0)
    for n, d, classes in sizes:
        a, b = data(n, d, classes, 0), data(n, d, classes, 1)
        clock = [time.process_time()]
        first, second = method.summarize(a), method.summarize(b)
        gaussian_distances(first.gaussians, second.gaussians)
        clock.append(time.process_time())
        score = method.compare(method.summarize(a), method.summarize(b), rng)
        clock.append(time.process_time())
        table = peer_labels(a, b)
        clock.append(time.process_time())
        value = peer_solve(a, b, table)
        clock.append(time.process_time())
        labels, whole, peer, solve = np.diff(clock)
        print(
            f"{n:6d} {d:5d} {classes:3d} | {labels:9.3f} {peer:8.2f} {peer / labels:6.1f} | {whole:9.2f} {peer + solve:8.2f} {(peer + solve) / whole:6.1f} | "
            f"{score.value:12.6f} {score.value / value - 1:20.1e}", flush=True,
        )


if __name__ == "__main__":
    main()
