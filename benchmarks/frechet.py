"""Fréchet distance from features, simkit and its peers in one run on one thread: CPU seconds, and the error against a known truth.

The second set is 1.5 X + 0.125 of the first (exact in float32), so the true value is known: |0.5 m + 0.125|² + tr S / 4.

    python benchmarks/frechet.py                   # pairs: single pairs of several sizes, moments of the data included everywhere
    python benchmarks/frechet.py many              # 27 pairs of 12 sets (9 sources, 3 targets)
    python benchmarks/frechet.py growth            # CPU time of simkit against n and d
    python benchmarks/frechet.py all --quick --json frechet.json

Peers: torchmetrics' FrechetInceptionDistance with an identity in place of the network, torch-fidelity's statistics and FID of features, POT's
Bures distance, and scipy's ``sqrtm`` as pytorch-fid and clean-fid use it.
"""

from __future__ import annotations

import argparse
import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import ot
import torch
from scipy.linalg import sqrtm
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance

from simkit.embedding import Embedding
from simkit.estimators.frechet import Frechet

Moments = tuple[np.ndarray, np.ndarray]
Row = dict[str, Any]

TIMED = 3
"""Pairs of the 27 that a peer's comparison is timed on; their mean stands for all."""


def embedded(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Correlated features with a spectrum that falls by a factor of 20 (400 in variance), on a grid on which 1.5 x + 0.125 is exact in float32."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(10**6 + seed).standard_normal((d, d)))[0] * np.geomspace(2.0, 0.1, d)[:, None]
    return (np.round(rng.standard_normal((n, d)) @ turn * 4096) / 4096).astype(np.float32)


def simkit_distance(x: np.ndarray, y: np.ndarray) -> float:
    method = Frechet(device="cpu")
    return method.compare(method.summarize(Embedding(x)), method.summarize(Embedding(y)), np.random.default_rng(0)).value


def moments(x: np.ndarray) -> Moments:
    wide = x.astype(np.float64)
    return wide.mean(0), np.cov(wide.T)


def root_distance(first: Moments, second: Moments) -> float:
    (m1, s1), (m2, s2) = first, second
    return float(((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(sqrtm(s1 @ s2)).real)


def scipy_distance(x: np.ndarray, y: np.ndarray) -> float:
    return root_distance(moments(x), moments(y))


def pot_distance(x: np.ndarray, y: np.ndarray) -> float:
    (m1, s1), (m2, s2) = moments(x), moments(y)
    return float(ot.gaussian.bures_wasserstein_distance(m1, m2, s1, s2)) ** 2


def torchmetrics_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The metric's own ``update`` and ``compute``, in float64 throughout; the features are their own network."""
    network = torch.nn.Identity()
    network.num_features = x.shape[1]
    metric = FrechetInceptionDistance(feature=network)
    for rows, real in ((x, True), (y, False)):
        metric.update(torch.from_numpy(rows).double(), real=real)
    return float(metric.compute())


def fidelity_distance(x: np.ndarray, y: np.ndarray) -> float:
    sides = [fid_features_to_statistics(torch.from_numpy(rows).double()) for rows in (x, y)]
    return float(fid_statistics_to_metric(*sides, False)["frechet_inception_distance"])


DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "simkit": simkit_distance, "torchmetrics": torchmetrics_distance, "torch-fidelity": fidelity_distance, "POT": pot_distance, "sqrtm": scipy_distance,
}


def timed(work: Callable[[], Any], repeats: int = 1) -> tuple[Any, float]:
    """(result, CPU seconds of the fastest run)."""
    best, value = np.inf, None
    for _ in range(repeats):
        start = time.process_time()
        value = work()
        best = min(best, time.process_time() - start)
    return value, best


def pairs(quick: bool) -> list[Row]:
    """One pair at a time, summaries and comparison; errors are shares of the trace of both covariances."""
    sizes = [(100, 256), (600, 256)] if quick else [(300, 512), (5000, 512), (1000, 2048), (5000, 2048)]
    print(f"{'n':>6} {'d':>5} {'true FD²':>12}  {'':15} {'CPU s':>8} {'ratio':>7} {'error':>9}")
    rows: list[Row] = []
    for n, d in sizes:
        x = embedded(n, d)
        y = 1.5 * x + np.float32(0.125)
        wide = x.astype(np.float64)
        trace = float(wide.var(0, ddof=1).sum())
        truth = float(((0.5 * wide.mean(0) + 0.125) ** 2).sum()) + 0.25 * trace
        ours = 0.0
        for name, distance in DISTANCES.items():
            value, seconds = timed(lambda distance=distance, x=x, y=y: distance(x, y), 3 if name == "simkit" or d < 1000 else 1)
            ours = ours or seconds
            rows.append({"case": "pair", "n": n, "d": d, "tool": name, "seconds": seconds, "ratio": seconds / ours, "value": value, "truth": truth,
                         "error": (value - truth) / (3.25 * trace)})
            print(f"{n:6d} {d:5d} {truth:12.4f}  {name:15} {seconds:8.3f} {seconds / ours:7.1f} {rows[-1]['error']:9.1e}", flush=True)
    return rows


def many(quick: bool) -> list[Row]:
    """9 sources against 3 targets. Every tool makes its summaries once a set; the peers' comparisons are timed on a few pairs and scaled up."""
    n, d = (600, 256) if quick else (5000, 2048)
    method, rng = Frechet(device="cpu"), np.random.default_rng(0)
    gaussians, statistics = [], []
    once = {"simkit": 0.0, "peers": 0.0}
    for seed in range(12):
        view = Embedding(embedded(n, d, seed), name=str(seed))
        made, seconds = timed(lambda view=view: method.summarize(view))
        gaussians.append(made)
        once["simkit"] += seconds
        made, seconds = timed(lambda view=view: moments(view.features))
        once["peers"] += seconds
        if (seed < 9 and len(statistics) < TIMED) or seed == 9:
            statistics.append(made)
    table = [(i, j) for i in range(9) for j in range(9, 12)]
    values, ours = timed(lambda: [method.compare(gaussians[i], gaussians[j], rng).value for i, j in table])
    ours += once["simkit"]
    rows = [{"case": "27 pairs", "n": n, "d": d, "tool": "simkit", "seconds": ours, "ratio": 1.0, "summaries": once["simkit"]}]
    print(f"27 pairs of 12 sets, n = {n}, d = {d}: simkit {ours:.1f} s, of which the 12 summaries {once['simkit']:.1f}", flush=True)
    target = statistics[-1]
    for name, compare in (("sqrtm", root_distance), ("eigvals (torch-fidelity)", fidelity_of)):
        found, seconds = timed(lambda compare=compare: [compare(side, target) for side in statistics[:TIMED]])
        whole = once["peers"] + seconds * len(table) / TIMED
        apart = max(abs(a - b) / b for a, b in zip(found, [values[3 * i] for i in range(TIMED)], strict=True))
        rows.append({"case": "27 pairs", "n": n, "d": d, "tool": name, "seconds": whole, "ratio": whole / ours, "summaries": once["peers"],
                     "timed pairs": TIMED, "largest relative difference": apart})
        print(f"  {name}: {whole:.1f} s ({TIMED} of {len(table)} pairs timed, {seconds / TIMED:.2f} s each; moments {once['peers']:.1f}), "
              f"{whole / ours:.1f} times as long, values differ by {apart:.0e}", flush=True)
    return rows


def fidelity_of(first: Moments, second: Moments) -> float:
    sides = [{"mu": m, "sigma": s} for m, s in (first, second)]
    return float(fid_statistics_to_metric(*sides, False)["frechet_inception_distance"])


def growth(quick: bool) -> list[Row]:
    """CPU time of both summaries and of the comparison, against n at d = 512 and against d at n = 4000 (d = 128 and n = 1000 with --quick)."""
    fixed_d, fixed_n = (128, 1000) if quick else (512, 4000)
    many_n = [64, 256, 1024] if quick else [128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768]
    many_d = [32, 64, 128] if quick else [64, 128, 256, 512, 1024, 2048]
    method, rng = Frechet(device="cpu"), np.random.default_rng(0)
    rows: list[Row] = []
    for what, sizes in (("n", [(n, fixed_d) for n in many_n]), ("d", [(fixed_n, d) for d in many_d])):
        for n, d in sizes:
            views = [Embedding(embedded(n, d, seed), name=str(seed)) for seed in range(2)]
            repeats = 5 if n * d * d < 10**9 else 2
            sides, once = timed(lambda views=views: [method.summarize(view) for view in views], repeats)
            _, pair = timed(lambda sides=sides: method.compare(*sides, rng), repeats)
            rows.append({"case": "growth", "against": what, "n": n, "d": d, "both summaries": once, "comparison": pair, "seconds": once + pair})
            print(f"against {what}: n {n:6d} d {d:5d}  both summaries {once:8.4f} s  comparison {pair:8.4f} s", flush=True)
        one = [row for row in rows if row["against"] == what][-2:]
        for part in ("both summaries", "comparison"):
            exponent = np.log(one[1][part] / one[0][part]) / np.log(one[1][what] / one[0][what])
            print(f"  {part}: grows as {what}^{exponent:.2f} at the end")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = {"pairs": pairs, "many": many, "growth": growth}
    parser.add_argument("case", nargs="?", default="pairs", choices=(*cases, "all"))
    parser.add_argument("--quick", action="store_true", help="small sizes only, a few seconds")
    parser.add_argument("--json", help="write the rows to this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the peers warn on singular covariances: what comes out is in the table
    for distance in DISTANCES.values():
        distance(embedded(9, 4), embedded(9, 4, 1))  # what a first call loads is not timed
    rows = [row for name, case in cases.items() if given.case in (name, "all") for row in case(given.quick)]
    if given.json:
        with open(given.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
