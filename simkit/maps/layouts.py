"""Features laid out in a plane: UMAP, principal components, t-SNE."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from simkit.errors import DataError, NotEnoughData, UsageError, nearest
from simkit.recipe import rng_for, seed_for

__all__ = ["METHODS", "Layout", "MapMethod", "check_layout", "layout", "principal_axes"]

MapMethod = Literal["umap", "pca", "tsne"]

METHODS: dict[str, str] = {"umap": "UMAP", "pca": "PCA", "tsne": "t-SNE"}

FEWEST = 3
"""Images below which there is nothing to lay out."""

MINIMUM_DISTANCE = 0.1
"""Of UMAP: how close points may lie in the plane."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Points of a plane.

    Attributes:
        points: float64 (n, 2), centred.
        method: what made them.
        settings: its options, in words.
        explained: share of the variance along both axes, 0..1; None where axes mean nothing (UMAP, t-SNE).
        remarks: what the method warned of.
    """

    points: np.ndarray
    method: MapMethod
    settings: str
    explained: tuple[float, float] | None = None
    remarks: tuple[str, ...] = ()


def check_layout(method: str, n: int, *, neighbours: int = 15, perplexity: float = 30.0) -> None:
    """Refuses, before any work, options that do not fit n images.

    Raises:
        UsageError: an unknown method (SK101); neighbours or a perplexity that n images do not have, naming the largest valid value (SK102).
        NotEnoughData: fewer than 3 images, or than t-SNE needs (SK501).
    """
    if method not in get_args(MapMethod):
        raise UsageError("SK101", "--method", f"'{method}' is not a projection{nearest(method, METHODS)}", f"give one of: {', '.join(METHODS)}")
    if n < FEWEST:
        raise NotEnoughData("SK501", "map", f"{n} image{'' if n == 1 else 's'}, a map needs {FEWEST} at least", "give more images")
    if method == "umap" and not 2 <= neighbours <= n - 1:
        fix = f"give --neighbours 2 to {n - 1}, or --method pca"
        raise UsageError("SK102", "--neighbours", f"{neighbours} neighbours, and each of {n} images has {n - 1} others", fix)
    if method != "tsne":
        return
    largest = (n - 1) / 3
    if largest < 1:
        raise NotEnoughData("SK501", "map", f"{n} images, t-SNE needs 4 at least", "give more images, or take --method pca")
    if not 1 <= perplexity <= largest:
        message = f"a perplexity of {perplexity:g} does not fit {n} images: three times as many neighbours must exist"
        raise UsageError("SK102", "--perplexity", message, f"give 1 to {int(largest)}")


def layout(features: np.ndarray, method: MapMethod, *, neighbours: int = 15, perplexity: float = 30.0, seed: int = 0) -> Layout:
    """Features (n, d) in a plane, n >= 3.

    ``pca``: the two directions of largest variance of all images together; distances in the plane are never larger than in the space, and both axes have the
    unit of the features. ``umap`` (McInnes, Healy and Melville 2018, arXiv 1802.03426) and ``tsne`` (van der Maaten and Hinton 2008) keep neighbours, not
    distances: neither axes nor gaps between clusters nor sizes of clusters have a unit. Both start from the principal components (Kobak and Linderman 2021,
    doi:10.1038/s41587-020-00809-z), are seeded, and run in one thread, so that the same input gives the same map.

    Raises:
        DataError: NaN or infinite features (SK210).
        NotEnoughData: features that are all equal (SK502).
        UsageError, NotEnoughData: as :func:`check_layout`.
    """
    points = np.asarray(features, dtype=np.float64)
    check_layout(method, len(points), neighbours=neighbours, perplexity=perplexity)
    if not np.isfinite(points).all():
        raise DataError("SK210", "map", f"{int((~np.isfinite(points)).any(axis=1).sum())} rows hold NaN or infinite values", "remove these rows")
    scale = float(np.abs(points).max())
    if (points == points[0]).all():
        raise NotEnoughData("SK502", "map", f"the features of all {len(points)} images are equal: there is nothing to lay out", "take another extractor")
    axes, explained = principal_axes(points / scale)
    if method == "pca":
        return Layout(axes * scale, "pca", "principal components of all images together", explained)
    start = axes / axes[:, 0].std() + rng_for(seed, "map", "start").normal(0, 1e-4, axes.shape)  # equal images must not lie on one point at the start
    small = (points / scale).astype(np.float32)
    if method == "tsne":
        return _tsne(small, start, perplexity, seed)
    return _umap(small, start, neighbours, seed)


def principal_axes(points: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Coordinates (n, 2) along the two directions of largest variance, and the shares of the variance along them.

    The largest coefficient of each direction is positive. A single feature gives a second coordinate of 0.
    """
    centred = points - points.mean(axis=0)
    n, d = centred.shape
    if d <= n:
        _, vectors = np.linalg.eigh(centred.T @ centred)
        directions = vectors[:, ::-1][:, :2]
    else:
        _, vectors = np.linalg.eigh(centred @ centred.T)
        directions = centred.T @ vectors[:, ::-1][:, :2]
        directions /= np.maximum(np.linalg.norm(directions, axis=0), np.finfo(float).tiny)
    largest = directions[np.abs(directions).argmax(axis=0), np.arange(directions.shape[1])]
    coordinates = centred @ (directions * np.where(largest < 0, -1.0, 1.0))
    total = float((centred**2).sum())
    shares = [*((coordinates**2).sum(axis=0) / total), 0.0][:2]
    if coordinates.shape[1] < 2:
        coordinates = np.column_stack([coordinates, np.zeros(n)])
    return coordinates, (float(shares[0]), float(shares[1]))


def _umap(points: np.ndarray, start: np.ndarray, neighbours: int, seed: int) -> Layout:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is said on import is about parts that are not used
        import umap

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        reducer = umap.UMAP(n_neighbors=neighbours, min_dist=MINIMUM_DISTANCE, init=start.astype(np.float32), n_jobs=1,
                            random_state=seed_for(seed, "map", "umap") % 2**32)
        found = np.asarray(reducer.fit_transform(points), dtype=np.float64)
    settings = f"{neighbours} neighbours, minimum distance {MINIMUM_DISTANCE:g}, Euclidean, started from the principal components, seed {seed}"
    return Layout(found - found.mean(axis=0), "umap", settings, remarks=_remarks(said))


def _tsne(points: np.ndarray, start: np.ndarray, perplexity: float, seed: int) -> Layout:
    from sklearn.manifold import TSNE

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made = TSNE(perplexity=perplexity, init=(start * 1e-4).astype(np.float32), learning_rate="auto", n_jobs=1,
                    random_state=seed_for(seed, "map", "tsne") % 2**32)
        found = np.asarray(made.fit_transform(points), dtype=np.float64)
    settings = f"perplexity {perplexity:g}, Euclidean, started from the principal components, seed {seed}"
    return Layout(found - found.mean(axis=0), "tsne", settings, remarks=_remarks(said))


def _remarks(said: list[warnings.WarningMessage]) -> tuple[str, ...]:
    """What was warned of, each once, on one line; notes about coming versions of packages are not about the map."""
    about = [one for one in said if not issubclass(one.category, (DeprecationWarning, FutureWarning, PendingDeprecationWarning))]
    return tuple(dict.fromkeys(" ".join(str(one.message).split()) for one in about))
