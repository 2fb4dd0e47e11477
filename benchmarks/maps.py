"""Maps: CPU seconds and memory of the projections, of their distortion against scikit-learn's, and of metric scaling against scikit-learn's. One thread.

    python benchmarks/maps.py [layouts|distortion|scaling|page] [--images N] [--quick]

Every case runs in a process of its own, so that peak memory is that of the case. Features are 20 clusters in 512 dimensions. The page is that of a map of
6,000 images in 6 data sets with a picture each (budget: 15 MB). Exit status 1 where a budget or an agreement is missed.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import resource
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

from simkit.maps import ImageMap, MapSet, distortion, layout, scaling
from simkit.recipe import rng_for

DIMENSION, CLUSTERS = 512, 20
MOST_MEGABYTES = 15.0


def features(n: int) -> np.ndarray:
    """Clusters whose centres are as far apart as their images are spread."""
    rng = rng_for("benchmark of maps", n)
    centres = rng.normal(0, 1, (CLUSTERS, DIMENSION))
    return np.asarray(centres[np.arange(n) % CLUSTERS] + rng.normal(0, 1, (n, DIMENSION)), dtype=np.float32)


def measured(case: Callable[..., Any], *arguments: Any) -> tuple[Any, float, float]:
    """What a case returns, its CPU seconds, and the peak memory of its process in MiB."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_timed, case, *arguments).result()


def _timed(case: Callable[..., Any], *arguments: Any) -> tuple[Any, float, float]:
    started = time.process_time()  # not the clock: other work on the machine would count
    value = case(*arguments)
    return value, time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def lay_out(method: Any, n: int) -> int:
    return len(layout(features(n), method).points)


def ours(n: int) -> float:
    x = features(n)
    return distortion(x, x[:, :2], ["a"] * n).trustworthiness


def theirs(n: int) -> float:
    from sklearn.manifold import trustworthiness

    x = features(n)
    return float(trustworthiness(x, x[:, :2], n_neighbors=15))


def apart(k: int) -> np.ndarray:
    points = rng_for("benchmark of scaling", k).normal(size=(k, 6))
    return np.asarray(np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1)))


def our_scaling(k: int) -> float:
    return scaling(apart(k)).raw


def their_scaling(k: int) -> float:
    from sklearn.manifold import MDS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of defaults that change
        return float(MDS(2, dissimilarity="precomputed", n_init=8, max_iter=3000, eps=1e-9, random_state=0, normalized_stress=False).fit(apart(k)).stress_)


def page_size() -> tuple[float, float]:
    """Megabytes of the page, and seconds that it takes, of 6 data sets of 1,000 images whose pictures have edges and noise."""
    from simkit.report.map_figures import image_figures
    from simkit.report.map_page import image_page

    rng, y, x = rng_for("pictures"), *np.mgrid[0:40, 0:40]
    sets = []
    for number in range(6):
        pictures = {}
        for i in range(1000):
            waves = [np.sin(x / rng.uniform(2, 9)) * np.cos(y / rng.uniform(2, 9)) + rng.normal(0, 0.2, x.shape) for _ in range(3)]
            pictures[i] = np.clip(127 + 70 * np.stack(waves, axis=2), 0, 255).astype(np.uint8)
        keys = tuple(f"class-{i % 9}/a-file-name-of-usual-length-{i:06d}.png" for i in range(1000))
        sets.append(MapSet(f"data-set-{number}", 1000, keys, tuple(f"class {i % 9}" for i in range(1000)), thumbnails=pictures))
    points = features(6000)
    placed = layout(points, "pca")
    kept = distortion(points, placed.points, [one.name for one in sets for _ in one.keys])
    found = ImageMap(tuple(sets), placed, kept, "benchmark", DIMENSION)
    started = time.process_time()
    page = image_page(found, image_figures(found))
    return len(page.encode()) / 1e6, time.process_time() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=["layouts", "distortion", "scaling", "page"])
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--quick", action="store_true", help="1,000 images, fewer data sets")
    given = parser.parse_args()
    n, missed = 1000 if given.quick else given.images, []

    def wanted(part: str) -> bool:
        return given.part in (None, part)

    if wanted("layouts"):
        for method in ("pca", "umap", "tsne"):
            _, seconds, memory = measured(lay_out, method, n)
            print(f"{method:5} {n:,} images, {DIMENSION} features: {seconds:6.1f} CPU s, {memory:6.0f} MiB (imports included)", flush=True)
    if wanted("distortion"):
        (own, seconds, memory), (other, slow, large) = measured(ours, n), measured(theirs, n)
        print(f"trustworthiness and continuity, with those by chance: {seconds:.1f} s, {memory:.0f} MiB", flush=True)
        print(f"scikit-learn's trustworthiness alone: {slow:.1f} s, {large:.0f} MiB; difference {abs(own - other):.1e}", flush=True)
        missed += [] if abs(own - other) < 1e-6 else ["trustworthiness"]
    if wanted("scaling"):
        for k in (7, 15) if given.quick else (7, 15, 30, 60):
            (own, seconds, _), (other, slow, _) = measured(our_scaling, k), measured(their_scaling, k)
            print(f"{k} data sets: raw stress {own:.4f} in {seconds:.2f} s; scikit-learn (8 starts) {other:.4f} in {slow:.2f} s", flush=True)
            missed += [] if own <= other * (1 + 1e-6 if k <= 30 else 1.002) else [f"stress of {k}"]  # many objects have many minima
    if wanted("page"):
        (size, seconds), _, memory = measured(page_size)
        print(f"page of 6,000 images with pictures: {size:.1f} MB, built in {seconds:.1f} s, {memory:.0f} MiB", flush=True)
        missed += [] if size <= MOST_MEGABYTES else ["page"]
    for one in missed:
        print(f"missed: {one}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
