"""OTDD against its peers in one run: label costs, whole distance, large sets, many pairs, growth with n, d and K.

Every measurement is a process of its own (so that memory can be told apart), on the same arrays for all, with the same number of threads.
Times are CPU seconds of the work, without imports and data; memory is the peak of the process less what it held before the work.

Peers: for the label costs, scipy's ``sqrtm`` and two eigendecompositions of each pair of classes, written from the formula as the reference
implementation does it (in float64; timed on a sample of pairs and scaled up unless ``--full``); for the transport, POT's ``emd2`` on the dense cost and
geomloss's ``SamplesLoss`` with its defaults on the reference implementation's cost and blur (``pip install 'simkit[bench]'``), with the L1 error of
the marginals of its plan.

    python benchmarks/otdd.py                        # labels, whole, pairs; about 15 minutes
    python benchmarks/otdd.py labels --threads 2
    python benchmarks/otdd.py large --n 60000        # all of MNIST against all of Fashion-MNIST in size
    python benchmarks/otdd.py growth --plot otdd.svg
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

GIB = 2**30


def data(n: int, d: int, classes: int, seed: int) -> tuple[Any, Any]:
    """Features like those behind a ReLU, classes of unequal size, a decaying spectrum; sets with other seeds are shifted and have other class sizes."""
    import numpy as np

    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((classes, d)).astype(np.float32)
    labels = rng.choice(classes, size=n, p=rng.dirichlet(np.full(classes, 10.0)))
    labels[:classes] = np.arange(classes)
    features = rng.standard_normal((n, d), dtype=np.float32) * np.geomspace(2, 0.1, d, dtype=np.float32)
    features += centres[labels]
    return np.maximum(features, 0, out=features) + np.float32(0.1 * seed), labels


def embedding(n: int, d: int, classes: int, seed: int) -> Any:
    from simkit.embedding import Embedding

    features, labels = data(n, d, classes, seed)
    return Embedding(features, labels, tuple(str(k) for k in range(classes)), name=f"set{seed}")


# --- what is timed, each in a process of its own ----------------------------------------------------------------------------------------


def simkit_labels(n: int, d: int, k: int) -> Callable[[], dict[str, Any]]:
    from simkit.estimators.otdd import Otdd

    method, sides = Otdd(), [embedding(n, d, k, seed) for seed in (0, 1)]

    def work() -> dict[str, Any]:
        return {"value": float(method.tables(*(method.summarize(side) for side in sides)).sum()), "share": 1.0}

    return work


def peer_labels(n: int, d: int, k: int, way: str, most: int) -> Callable[[], dict[str, Any]]:
    """W between class Gaussians from covariance matrices: tr (S1 + S2 - 2 (S1^½ S2 S1^½)^½) by ``eigh`` twice, or tr (S1 S2)^½ by ``sqrtm``."""
    import numpy as np
    from scipy.linalg import eigh, sqrtm

    sides = [data(n, d, k, seed) for seed in (0, 1)]

    def root(matrix: Any) -> Any:
        values, vectors = eigh(matrix)
        return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T

    def work() -> dict[str, Any]:
        moments = [[(x[y == c].mean(0, dtype=float), np.cov(x[y == c].T.astype(float)) if (y == c).sum() > 1 else np.zeros((d, d))) for c in range(k)]
                   for x, y in sides]
        chosen = [(i, j) for i in range(k) for j in range(k)][:: max(1, k * k // most)]
        total = 0.0
        for i, j in chosen:
            (m1, s1), (m2, s2) = moments[0][i], moments[1][j]
            if way == "eigh":
                half = root(s1)
                cross = np.trace(root(half @ s2 @ half))
            else:
                cross = np.trace(sqrtm(s1 @ s2).real)
            total += ((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * cross
        return {"value": float(total) * k * k / len(chosen), "share": len(chosen) / k**2}

    return work


def simkit_whole(n: int, d: int, k: int, **options: Any) -> Callable[[], dict[str, Any]]:
    import numpy as np

    from simkit.estimators.otdd import Otdd

    a, b = (embedding(n, d, k, seed) for seed in (0, 1))
    method, rng = Otdd(**{"exact_up_to": 10**6, "device": "cpu", **options}), np.random.default_rng(0)
    if options.get("solver") == "sinkhorn":
        import torch  # noqa: F401 - an import is not part of the work

    def work() -> dict[str, Any]:
        score = method.compare(method.summarize(a), method.summarize(b), rng)
        kept = ("marginal_error", "iterations", "exact_between")
        return {"value": score.value, "converged": score.converged, **{key: score.detail[key] for key in kept if key in score.detail}}

    return work


def pot_whole(n: int, d: int, k: int) -> Callable[[], dict[str, Any]]:
    """POT's emd2 on the dense cost, with our label costs (their time is not counted)."""
    import numpy as np
    import ot

    from simkit.transport import gaussian_distances, gaussian_of

    (x, y), (z, w) = (data(n, d, k, seed) for seed in (0, 1))
    table = gaussian_distances(*[[gaussian_of(f[c == i]) for i in range(k)] for f, c in ((x, y), (z, w))])

    def work() -> dict[str, Any]:
        cost = ot.dist(x.astype(float), z.astype(float)) + table[y[:, None], w]
        return {"value": float(ot.emd2(np.full(n, 1 / n), np.full(n, 1 / n), cost, numItermax=10**8))}

    return work


def geomloss_whole(n: int, d: int, k: int) -> Callable[[], dict[str, Any]]:
    """geomloss's debiased divergence on half the cost with blur² = 0.1, as the reference implementation calls it, with our label costs (not counted)."""
    import numpy as np
    import torch
    from geomloss import SamplesLoss

    from simkit.transport import gaussian_distances, gaussian_of

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    sides = [data(n, d, k, seed) for seed in (0, 1)]
    gaussians = [gaussian_of(f[c == i]) for f, c in sides for i in range(k)]
    table = torch.as_tensor(gaussian_distances(gaussians, gaussians), dtype=torch.float32)
    centre = (sides[0][0].mean(0) + sides[1][0].mean(0)) / 2
    x, z = (torch.cat([torch.as_tensor(f - centre), torch.as_tensor(c + shift)[:, None].float()], 1) for (f, c), shift in zip(sides, (0, k), strict=True))

    def cost(one: Any, other: Any) -> Any:
        squares = (one[..., :-1] ** 2).sum(-1)[..., :, None] + (other[..., :-1] ** 2).sum(-1)[..., None, :] - 2 * one[..., :-1] @ other[..., :-1].mT
        labels = table[one[..., -1].long().flatten()][:, other[..., -1].long().flatten()].reshape(squares.shape)
        return (squares.clamp_min(0) + labels) / 2

    blur = float(np.sqrt(0.1))

    def work() -> dict[str, Any]:
        return {"value": 2 * float(SamplesLoss("sinkhorn", p=2, blur=blur, cost=cost, backend="tensorized")(x, z))}

    def check() -> dict[str, Any]:
        f, g = SamplesLoss("sinkhorn", p=2, blur=blur, cost=cost, backend="tensorized", potentials=True, debias=False)(x, z)
        plan = torch.exp((f.flatten()[:, None] + g.flatten() - cost(x[None], z[None])[0]) / blur**2).double() / n**2
        return {"marginal_error": float((plan.sum(1) - 1 / n).abs().sum() + (plan.sum(0) - 1 / n).abs().sum())}

    work.check = check  # type: ignore[attr-defined]
    return work


def simkit_pairs(sets: int, n: int, d: int, k: int) -> Callable[[], dict[str, Any]]:
    from itertools import combinations

    from simkit.estimators.comparison import score_pairs
    from simkit.estimators.otdd import Otdd

    views = {f"set{seed}": embedding(n, d, k, seed) for seed in range(sets)}
    import torch  # noqa: F401 - an import is not part of the work

    def work() -> dict[str, Any]:
        pairs = list(combinations(views, 2))
        scores = score_pairs(Otdd(solver="sinkhorn", device="cpu"), views, pairs)
        return {"pairs": len(pairs), "value": sum(score.value for score in scores.values())}  # type: ignore[union-attr]

    return work


CASES: dict[str, Callable[..., Callable[[], dict[str, Any]]]] = {
    "simkit labels": simkit_labels, "eigh": lambda *a: peer_labels(*a[:3], "eigh", a[3]), "sqrtm": lambda *a: peer_labels(*a[:3], "sqrtm", a[3]),
    "simkit exact": lambda *a: simkit_whole(*a, solver="exact"), "simkit sinkhorn": lambda *a: simkit_whole(*a, solver="sinkhorn"),
    "simkit cuda": lambda *a: simkit_whole(*a, solver="sinkhorn", device="cuda"),
    "POT emd2": pot_whole, "geomloss": geomloss_whole, "simkit pairs": simkit_pairs,
}


def one(name: str, arguments: list[int]) -> None:
    """Runs one case in this process and prints what it took as JSON."""
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    small = [min(size, limit) for size, limit in zip(arguments, (2, 64, 8, 2) if name == "simkit pairs" else (64, 8, 2, 4), strict=False)]
    CASES[name](*small)()  # imports, thread pools and first calls are not part of the work
    work = CASES[name](*arguments)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time(), time.perf_counter()
    found = work()
    took = {"cpu": time.process_time() - start[0], "wall": time.perf_counter() - start[1]}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found |= getattr(work, "check", dict)()
    print(json.dumps({**found, **took, "peak": (peak - before) / 2**20, "process": peak / 2**20}))


def measured(name: str, *arguments: int, threads: int) -> dict[str, Any]:
    """One case in a fresh process; {} when the process failed (memory, a missing package)."""
    environment = os.environ | {variable: str(threads) for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, __file__, "one", "--case", name, "--arguments", ",".join(map(str, arguments))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        print(f"  {name}: {last[0][:150]}", file=sys.stderr)
        return {}
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if "share" in result:
        result["cpu"] /= result["share"]
    return result


# --- tables -------------------------------------------------------------------------------------------------------------------------------


def _ratio(peer: dict[str, Any], ours: dict[str, Any]) -> str:
    return f"{peer['cpu'] / ours['cpu']:.1f}x" if peer and ours else "-"


def _seconds(result: dict[str, Any]) -> str:
    return f"{result['cpu']:.2f}" if result else "-"


def labels(threads: int, *, full: bool, quick: bool) -> Iterator[str]:
    yield "label costs, gaussian, all pairs of classes of two sets, class factors included (peers scaled up from a sample of pairs, unless --full)"
    yield f"{'n':>6} {'d':>5} {'K':>3} | {'simkit s':>9} | {'eigh s':>8} {'ratio':>8} {'difference':>11} | {'sqrtm s':>8} {'ratio':>8}"
    sizes = [(500, 64, 10), (1000, 128, 10)] if quick else [(2000, 512, 10), (2000, 512, 50), (2000, 2048, 50), (5000, 512, 10), (20000, 512, 10)]
    for n, d, k in sizes:
        most = k * k if full or d <= 128 else 10 if d <= 512 else 2
        ours = measured("simkit labels", n, d, k, threads=threads)
        eigh, sqrtm = (measured(name, n, d, k, most, threads=threads) for name in ("eigh", "sqrtm"))
        gap = f"{eigh['value'] / ours['value'] - 1:.1e}" if most == k * k and eigh and ours else "sampled"
        peers = f"{_seconds(eigh):>8} {_ratio(eigh, ours):>8} {gap:>11} | {_seconds(sqrtm):>8} {_ratio(sqrtm, ours):>8}"
        yield f"{n:6d} {d:5d} {k:3d} | {_seconds(ours):>9} | {peers}"


def whole(threads: int, *, quick: bool) -> Iterator[str]:
    yield "whole OTDD (label costs included for simkit, not for the peers); error: L1 error of the marginals, of a mass of 1; MiB beyond data and imports"
    yield f"{'n = m':>6} {'d':>5} {'K':>3} {'solver':>16} | {'CPU s':>7} {'MiB':>6} | {'value':>10} {'error':>8} | against simkit sinkhorn"
    sizes = [(500, 64, 10), (1000, 128, 10)] if quick else [(1000, 512, 10), (2000, 512, 10), (2000, 512, 50), (5000, 512, 10)]
    for n, d, k in sizes:
        found = {name: measured(name, n, d, k, threads=threads) for name in ("simkit sinkhorn", "simkit exact", "POT emd2", "geomloss")}
        for name, result in found.items():
            if result:
                error = "" if result.get("marginal_error") is None else f"{result['marginal_error']:.1e}"
                against = _ratio(result, found["simkit sinkhorn"])
                yield f"{n:6d} {d:5d} {k:3d} {name:>16} | {result['cpu']:7.2f} {1024 * result['peak']:6.0f} | {result['value']:10.4f} {error:>8} | {against}"
                if "exact_between" in result:
                    low, high = result["exact_between"]
                    yield f"{'':33} |                | certified: the exact value lies in [{low:.4f}, {high:.4f}]"


def large(threads: int, n: int, d: int, k: int, case: str) -> Iterator[str]:
    yield f"sinkhorn to a marginal error of 1e-2, whole: n = m = {n}, d = {d}, K = {k}"
    found = measured(case, n, d, k, threads=threads)
    if found:
        low, high = found["exact_between"]
        yield f"{case}: CPU {found['cpu']:.1f} s, wall {found['wall']:.1f} s, {found['iterations']} passes, marginal error {found['marginal_error']:.1e}"
        yield f"memory: {found['peak']:.2f} GiB for the work, {found['process']:.2f} GiB the whole process"
        yield f"value {found['value']:.4f}; certified: the exact value lies in [{low:.4f}, {high:.4f}]"


def pairs(threads: int, *, quick: bool) -> Iterator[str]:
    yield "all pairs of S sets of 2000 x 512, K = 10, sinkhorn: class factors once a set"
    yield f"{'sets':>4} {'pairs':>5} | {'CPU s':>7} {'a pair':>7}"
    for sets in (2, 3) if quick else (3, 6, 12):
        found = measured("simkit pairs", sets, 2000, 512, 10, threads=threads)
        if found:
            yield f"{sets:4d} {found['pairs']:5d} | {found['cpu']:7.2f} {found['cpu'] / found['pairs']:7.3f}"


GROWTH = {
    "n": [(n, 512, 10) for n in (500, 1000, 2000, 5000, 10000, 20000)],
    "d": [(5000, d, 10) for d in (64, 128, 256, 512, 1024, 2048)],
    "K": [(5000, 512, k) for k in (2, 5, 10, 20, 50, 100)],
}
LIMITS = {"simkit exact": 5000, "POT emd2": 5000, "geomloss": 5000, "simkit sinkhorn": 10**9}


def growth(threads: int, plot: str | None, *, quick: bool) -> Iterator[str]:
    """CPU seconds against n, d and K with the exponents of a straight line through the last half of the points, on logarithms."""
    import numpy as np

    yield "CPU s against n (d = 512, K = 10), d (n = 5000, K = 10) and K (n = 5000, d = 512)"
    times: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for axis, (name, sizes) in enumerate(GROWTH.items()):
        for solver, limit in LIMITS.items():
            if solver == "POT emd2" or (name != "n" and solver == "geomloss"):
                continue
            chosen = [size for size in (sizes[:3] if quick else sizes) if size[0] <= limit]
            points = [(size[axis], measured(solver, *size, threads=threads).get("cpu", np.nan)) for size in chosen]
            points = [(at, value) for at, value in points if np.isfinite(value)]
            times.setdefault(name, {})[solver] = points
            yield f"{name:>2} {solver:>16} | exponent {exponent(points):5.2f} | " + "  ".join(f"{at}: {value:.2f}" for at, value in points)
    if plot:
        draw(times, plot, threads)
        yield f"wrote {plot}"


def exponent(points: list[tuple[int, float]]) -> float:
    """Slope of the last half of the points on logarithms."""
    import numpy as np

    tail = np.log([p for p in points[len(points) // 2 :] if p[1] > 0])
    return float(np.polyfit(tail[:, 0], tail[:, 1], 1)[0]) if len(tail) > 1 else float("nan")


def draw(times: dict[str, dict[str, list[tuple[int, float]]]], path: str, threads: int) -> None:
    import matplotlib.pyplot as plt
    import seaborn as sns

    sns.set_theme(context="paper", style="whitegrid")
    colours = dict(zip(LIMITS, sns.color_palette("colorblind", len(LIMITS)), strict=True))
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.8), sharey=True, layout="constrained")
    fixed = {"n": "d = 512, K = 10", "d": "n = 5000, K = 10", "K": "n = 5000, d = 512"}
    for ax, (name, solvers) in zip(axes, times.items(), strict=True):
        for solver, points in solvers.items():
            label = f"{solver} (not converged)" if solver == "geomloss" else solver
            above = points[-1][1] >= max(other[-1][1] for other in solvers.values() if other[-1][0] == points[-1][0])
            ax.annotate(f"{name}$^{{{exponent(points):.2f}}}$", points[-1], xytext=(6, 3 if above else -3), textcoords="offset points", ha="left", va="center",
                        color=colours[solver], fontsize=8)
            ax.plot(*zip(*points, strict=True), marker="o", markersize=4, label=label, color=colours[solver], linestyle="--" if solver == "geomloss" else "-")
        ticks = sorted({at for points in solvers.values() for at, _ in points})
        ax.set(xscale="log", yscale="log", xlabel=name, title=fixed[name])
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks], rotation=45)
        ax.minorticks_off()
        ax.margins(x=0.16, y=0.08)
    axes[0].set_ylabel(f"CPU seconds, {threads} thread{'s' if threads > 1 else ''}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(LIMITS), frameon=False)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.endswith(".svg") else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["labels", "whole", "pairs", "large", "growth", "one", []], help="default: labels whole pairs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="small sizes, a minute")
    parser.add_argument("--full", action="store_true", help="labels: peers on all pairs of classes")
    parser.add_argument("--n", type=int, default=20000, help="large: images a side")
    parser.add_argument("--d", type=int, default=512, help="large: features")
    parser.add_argument("--k", type=int, default=10, help="large: classes")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="large: where")
    parser.add_argument("--plot", help="growth: write the figure to this file")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--arguments", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == ["one"]:
        one(options.case, [int(text) for text in options.arguments.split(",")])
        return
    print(f"CPU seconds on {options.threads} thread{'s' if options.threads > 1 else ''}")
    case = "simkit cuda" if options.device == "cuda" else "simkit sinkhorn"
    parts = {
        "labels": lambda: labels(options.threads, full=options.full, quick=options.quick), "whole": lambda: whole(options.threads, quick=options.quick),
        "pairs": lambda: pairs(options.threads, quick=options.quick), "large": lambda: large(options.threads, options.n, options.d, options.k, case),
        "growth": lambda: growth(options.threads, options.plot, quick=options.quick),
    }
    for what in options.what or ["labels", "whole", "pairs"]:
        print()
        for line in parts[what]():
            print(line, flush=True)


if __name__ == "__main__":
    main()
