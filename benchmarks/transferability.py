"""Measures of transferability on arrays: seconds, memory, and the published algorithms beside them.

    python benchmarks/transferability.py [small|large|peers] [--methods knn logme] [--json FILE]

small   n = 2,000, d = 512, C = 10, 100 outputs of the source, one thread: CPU seconds of each measure (median of 5, checks of the input included), and in
        the same run those of the published algorithm, written here from its formula (or scikit-learn's, where that is the algorithm); their ratio.
large   n = 50,000, d = 2,048, C = 100, 1,000 outputs: seconds and peak memory of the tier-1 measures, each in a process of its own. Wanted: 60 s, 4 GiB
        (the features are 0.4 GiB of it, the probabilities another 0.4).
peers   values of both where n > d and where n < d: which agree, and which must not (the published evidence of LogME counts min(n, d) of d eigenvalues).
"""

from __future__ import annotations

import argparse
import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import json
import math
import resource
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import simkit

LARGE = ("knn", "linear-probe", "logme", "leep", "nce", "hscore", "hscore-plain")
"""The tier-1 measures."""


@dataclass(frozen=True)
class Target:
    """Features of a target (float32), its labels, and the probabilities of a source's head."""

    features: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def wide(self) -> np.ndarray:
        return self.features.astype(np.float64)

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1


def target(n: int, d: int, classes: int, outputs: int, seed: int = 0) -> Target:
    """Class clouds with a spectrum that falls by a factor of 20, and a random head that knows a little of the classes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    features = rng.standard_normal((n, d), dtype=np.float32)
    features *= np.geomspace(1.0, 0.05, d, dtype=np.float32)
    features += (0.12 * rng.standard_normal((classes, d))).astype(np.float32)[labels]
    logits = features @ (2.0 * rng.standard_normal((d, outputs)) / math.sqrt(d)).astype(np.float32)
    logits[np.arange(n), labels % outputs] += 1.5
    logits -= logits.max(1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(1, keepdims=True)
    return Target(features, labels, logits)


# The published algorithms, from their formulas.


def evidence(x: Target) -> float:
    """LogME: MacKay's fixed point for each class on its own, the thin SVD once (You et al. 2021, algorithm 1): at most 11 steps, to 1e-3."""
    f, (n, d), found = x.wide, x.features.shape, []
    left, singular, _ = np.linalg.svd(f, full_matrices=False)
    squares = singular**2
    for c in range(x.classes):
        y = (x.labels == c).astype(np.float64)
        along = (left.T @ y) ** 2
        beyond = float(y @ y) - float(along.sum())
        alpha = beta = 1.0
        for _ in range(11):
            ratio = alpha / beta
            gamma = float((squares / (squares + ratio)).sum())
            weights = float((squares * along / (squares + ratio) ** 2).sum())
            misfit = float((along / (1 + squares / ratio) ** 2).sum()) + beyond
            alpha, beta = gamma / (weights + 1e-5), (n - gamma) / (misfit + 1e-5)
            if abs(alpha / beta - ratio) / ratio <= 1e-3:
                break
        logs = d * math.log(alpha) + n * math.log(beta) - float(np.log(alpha + beta * squares).sum())
        found.append((logs - beta * misfit - alpha * weights - n * math.log(2 * math.pi)) / (2 * n))
    return float(np.mean(found))


def leep(x: Target) -> float:
    """LEEP (Nguyen et al. 2020, eq. 1 and 2), class by class."""
    theta = x.probabilities.astype(np.float64)
    joint = np.array([theta[x.labels == c].sum(0) / len(theta) for c in range(x.classes)])
    given = joint / joint.sum(0)
    return float(np.mean([math.log(float(given[y] @ row)) for row, y in zip(theta, x.labels, strict=True)]))


def nce(x: Target) -> float:
    """NCE: -H(Y | Z), Z the likeliest output (Tran et al. 2019), pair of classes by pair of classes."""
    z, n, value = x.probabilities.argmax(1), len(x.labels), 0.0
    for output in np.unique(z):
        chosen = z == output
        for c in range(x.classes):
            joint = float((chosen & (x.labels == c)).sum()) / n
            value += joint * math.log(joint / (float(chosen.sum()) / n)) if joint else 0.0
    return value


def class_means(x: Target) -> np.ndarray:
    """Each row replaced by the mean of its class."""
    f = x.wide
    means = np.array([f[x.labels == c].mean(0) for c in range(x.classes)])
    return np.asarray(means[x.labels])


def hscore_plain(x: Target) -> float:
    """H-score: tr(cov(f)^+ cov(E[f | y])) (Bao et al. 2019, definition 2)."""
    return float(np.trace(np.linalg.pinv(np.cov(x.wide.T, bias=True), rcond=1e-15) @ np.cov(class_means(x).T, bias=True)))


def hscore(x: Target) -> float:
    """Its shrunk variant, by scikit-learn's Ledoit-Wolf (Ibrahim et al. 2021, eq. 7)."""
    from sklearn.covariance import ledoit_wolf

    covariance, share = ledoit_wolf(x.wide)
    return float(np.trace(np.linalg.solve(covariance, (1 - share) * np.cov(class_means(x).T))))


def transrate(x: Target) -> float:
    """TransRate: R(Z) - mean of R(Z_c), by log-determinants, epsilon 1e-4 (Huang et al. 2022, eq. 4)."""
    z = x.wide - x.wide.mean(0)

    def rate(rows: np.ndarray) -> float:
        return float(np.linalg.slogdet(np.eye(rows.shape[1]) + rows.T @ rows / (len(rows) * 1e-4))[1]) / 2

    return rate(z) - float(np.mean([rate(z[x.labels == c]) for c in range(x.classes)]))


def gbc(x: Target) -> float:
    """GBC: diagonal Gaussians on 64 principal components, pair of classes by pair of classes (Pandy et al. 2022, eq. 4)."""
    from sklearn.decomposition import PCA

    f = PCA(64, svd_solver="full").fit_transform(x.wide)
    parts = [(f[x.labels == c].mean(0), np.maximum(f[x.labels == c].var(0), 1e-4)) for c in range(x.classes)]
    value = 0.0
    for (m1, v1), (m2, v2) in combinations(parts, 2):
        v = (v1 + v2) / 2
        value -= 2 * math.exp(-float(((m1 - m2) ** 2 / v).sum()) / 8 - float((np.log(v) - (np.log(v1) + np.log(v2)) / 2).sum()) / 2)
    return value


def parc(x: Target) -> float:
    """PARC: 100 times Spearman's correlation of the two triangles of 1 - Pearson, features standardised (Bolya et al. 2021, section 3)."""
    from scipy.stats import spearmanr

    below = np.tril_indices(len(x.labels), -1)
    f = (x.wide - x.wide.mean(0)) / x.wide.std(0)
    labels = np.round(np.corrcoef(np.eye(x.classes)[x.labels]), 12)  # rounding errors would break ties
    return 100.0 * float(spearmanr((1 - np.corrcoef(f))[below], (1 - labels)[below]).statistic)


def nleep(x: Target) -> float:
    """NLEEP: LEEP of the responsibilities of a Gaussian mixture on principal components, by scikit-learn (Li et al. 2021, section 3.2)."""
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    rows = PCA(0.8, svd_solver="full").fit_transform(x.wide)
    return leep(Target(x.features, x.labels, GaussianMixture(5 * x.classes, random_state=0).fit(rows).predict_proba(rows)))


def knn(x: Target) -> float:
    """Leave-one-out accuracy of the nearest neighbour, by scikit-learn (of several, ties between classes would go to the first class)."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(1, algorithm="brute").fit(x.features, x.labels)
    return float((x.labels[model.kneighbors(return_distance=False)[:, 0]] == x.labels).mean())


def linear_probe(x: Target) -> float:
    """Cross-validated logistic regression of scikit-learn: area under the ROC curve, one class against the others."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    shares = cross_val_predict(model, x.wide, x.labels, cv=5, method="predict_proba")
    if x.classes == 2:
        return float(roc_auc_score(x.labels, shares[:, 1]))
    return float(roc_auc_score(x.labels, shares, multi_class="ovr"))


def lp(x: Target) -> float:
    """LP by scikit-learn, as published (Juodelyte et al. 2024), but from exact principal components instead of scikit-learn's randomised ones."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import KNeighborsClassifier, NeighborhoodComponentsAnalysis

    start = PCA(50, svd_solver="full").fit(x.wide).components_
    rows = NeighborhoodComponentsAnalysis(50, init=start).fit(x.wide, x.labels).transform(x.wide)
    return float(KNeighborsClassifier(5).fit(rows, x.labels).predict_proba(rows)[np.arange(len(rows)), x.labels].mean())


METHODS: dict[str, tuple[str, dict[str, Any], Callable[[Target], float] | None]] = {
    "knn": ("knn", {"neighbours": 1}, knn), "linear-probe": ("linear-probe", {}, linear_probe), "logme": ("logme", {}, evidence), "leep": ("leep", {}, leep),
    "nce": ("nce", {}, nce), "hscore": ("hscore", {}, hscore), "hscore-plain": ("hscore", {"shrinkage": False}, hscore_plain),
    "transrate": ("transrate", {}, transrate), "gbc": ("gbc", {}, gbc), "parc": ("parc", {}, parc), "nleep": ("nleep", {"seed": 0}, nleep),
    "lp": ("lp", {}, None), "lp-published": ("lp", {"validation": "resubstitution"}, lp),
}
"""Name here: (name in simkit, options, the published algorithm)."""


def ours(name: str, x: Target) -> Any:
    method, options, _ = METHODS[name]
    return simkit.transferability(method, x.features, x.labels, x.probabilities if method in ("leep", "nce") else None, **options)


def timed(work: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """Its result, and CPU seconds: the median of so many runs after one that pays for imports (fewer where one takes more than 4 s)."""
    seconds: list[float] = []
    out = work()
    while len(seconds) < repeats and (not seconds or seconds[0] < 4.0):
        start = time.process_time()
        out = work()
        seconds.append(time.process_time() - start)
    return out, median(seconds)


def small(name: str) -> dict[str, Any]:
    x, published = target(2000, 512, 10, 100), METHODS[name][2]
    score, seconds = timed(lambda: ours(name, x), 5)
    row: dict[str, Any] = {"method": name, "simkit_s": seconds, "value": score.value}
    if published is not None:
        value, theirs = timed(lambda: published(x), 5)
        row |= {"published_s": theirs, "ratio": theirs / seconds, "published": value}
    return row


def large(name: str) -> dict[str, Any]:
    ours(name, target(200, 64, 10, 20))  # pays for imports
    x = target(50_000, 2048, 100, 1000 if name in ("leep", "nce") else 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    wall, start = time.perf_counter(), time.process_time()
    score = ours(name, x)
    return {"method": name, "cpu_s": time.process_time() - start, "wall_s": time.perf_counter() - wall, "value": score.value,
            "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "before_gib": before, "flags": list(score.flags)}


def peers(name: str) -> dict[str, Any]:
    published = METHODS[name][2]
    row: dict[str, Any] = {"method": name}
    if published is None:
        return row
    for n, d in ((600, 128), (200, 512)):
        x = target(n, d, 4, 12)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's, of mixtures and regressions that stop early
            mine, theirs = ours(name, x).value, published(x)
        row |= {f"simkit n={n} d={d}": mine, f"published n={n} d={d}": theirs, f"agree n={n} d={d}": math.isclose(mine, theirs, rel_tol=1e-5, abs_tol=1e-7)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", choices=("small", "large", "peers"), default="small")
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), help="only these")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments = parser.parse_args()
    work: Callable[[str], dict[str, Any]] = {"small": small, "large": large, "peers": peers}[arguments.case]
    results = []
    for name in arguments.methods or (LARGE if arguments.case == "large" else METHODS):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            results.append(pool.submit(work, name).result())
        print("  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in results[-1].items()), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
