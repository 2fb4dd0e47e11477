"""LP: how likely nearest neighbours in a learned space are of an image's own class (the feature part of LP x FU)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from simkit.errors import NotEnoughData
from simkit.estimators.base import NetworkEstimator, Score
from simkit.estimators.seen import Seen
from simkit.estimators.stratified_folds import stratified_folds
from simkit.registry import option
from simkit.transport.interruption import go_on

__all__ = ["Lp", "learned_space", "neighbour_probabilities", "stratified_rows"]

TIE = 1e-9
"""Difference of squared distances, relative to the squared lengths, up to which neighbours are equally near."""

BLOCK = 2**22
"""Distances that are held at once when neighbours are sought."""


def learned_space(train: np.ndarray, labels: np.ndarray, test: np.ndarray, dimensions: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Training and test rows in the space of a neighbourhood components analysis, and the number of its iterations.

    It maximises, over linear maps to ``dimensions`` coordinates, the expected number of training images whose stochastic neighbour has their class
    (Goldberger et al. 2004, eq. 5), from the leading principal components on, in at most 50 iterations of L-BFGS. It is computed in the coordinates of
    the principal components, which span what the data span: neither shift nor rotation of the features moves it, and its cost depends on min(n, d) only.

    Args:
        train: (n, d).
        labels: (n,) whole numbers; with a single class nothing is learned and the principal components are returned.
        test: (m, d).
        dimensions: of the space; at most min(n, d) are used.
    """
    from sklearn.neighbors import NeighborhoodComponentsAnalysis

    mean = train.mean(axis=0, dtype=np.float64)
    rows = train - mean
    if rows.shape[1] <= len(rows):
        basis = np.linalg.eigh(rows.T @ rows)[1][:, ::-1]
    else:
        values, left = np.linalg.eigh(rows @ rows.T)
        values, left = values[::-1], left[:, ::-1]
        kept = values > max(float(values[0]), 0.0) * 1e-12
        basis = rows.T @ (left[:, kept] / np.sqrt(values[kept])) if kept.any() else np.eye(rows.shape[1], 1)
    rows, others = rows @ basis, (test - mean) @ basis
    wanted = min(dimensions, rows.shape[1])
    if len(np.unique(labels)) < 2:
        return rows[:, :wanted], others[:, :wanted], 0
    analysis = NeighborhoodComponentsAnalysis(n_components=wanted, init=np.eye(wanted, rows.shape[1]), callback=lambda _, __: go_on())
    analysis.fit(rows, labels)
    learned = analysis.components_.T
    return rows @ learned, others @ learned, int(analysis.n_iter_)


def neighbour_probabilities(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray, neighbours: int) -> np.ndarray:
    """Share of the nearest training rows that are of the true class of each test row, float64 (m,).

    Rows that are as near as the k-th share its place. A test row that is itself a training row is its own nearest neighbour.

    Args:
        train: (n, k).
        labels: (n,) of the training rows.
        test: (m, k).
        truth: (m,) of the test rows.
        neighbours: how many vote; at most n.
    """
    k = min(neighbours, len(train))
    lengths = (train**2).sum(1)
    out = np.empty(len(test))
    step = max(1, BLOCK // len(train))
    for start in range(0, len(test), step):
        go_on()
        some = test[start : start + step]
        own = (some**2).sum(1)[:, None]
        squared = np.maximum(own + lengths - 2.0 * (some @ train.T), 0.0)
        radius = np.partition(squared, k - 1, axis=1)[:, k - 1, None]
        tolerance = TIE * (own + float(lengths.max()))
        nearer, tied = squared < radius - tolerance, np.abs(squared - radius) <= tolerance
        same = labels == truth[start : start + step, None]
        left = (k - nearer.sum(1)) / tied.sum(1)
        out[start : start + step] = ((nearer & same).sum(1) + left * (tied & same).sum(1)) / k
    return out


def stratified_rows(labels: np.ndarray, count: int) -> np.ndarray:
    """The first rows of every class in proportion to its size, at least two of each (where it has them), ``count`` in all (more where two of
    each are more), in order.

    Args:
        labels: (n,) whole numbers.
        count: how many; all where there are no more.
    """
    n = len(labels)
    if n <= count:
        return np.arange(n)
    sizes = np.bincount(labels)
    least, share = np.minimum(sizes, 2), sizes * (count / n)
    taken = np.maximum(np.floor(share).astype(int), least)
    while (missing := count - int(taken.sum())) != 0:  # at most one step a class
        if missing < 0 and (taken == least).all():
            break
        gap = np.where(taken < sizes, share - taken, -np.inf) if missing > 0 else np.where(taken > least, taken - share, -np.inf)
        taken[int(np.argmax(gap))] += 1 if missing > 0 else -1
    order = np.argsort(labels, kind="stable")
    within = np.empty(n, dtype=int)
    within[order] = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.flatnonzero(within < taken[labels])


@dataclass(frozen=True)
class Lp(NetworkEstimator):
    """Learned-space probability: mean share of an image's 5 nearest neighbours that are of its own class, in a space learned from the labels.

    LP = (1/n) sum_i (1/k) #{j among the k nearest of i : y_j = y_i}, after a neighbourhood components analysis (NCA) of the features to 50 dimensions.
    Between 0 and 1; chance is the sum of squared class shares, so compare it with the floor.

    ``validation``: ``cross-validated`` (default) learns the space and seeks the neighbours among images of the other folds; folds hold equal shares of
    every class and keep groups (patients) whole. ``resubstitution`` is the published score: learned and read on the same images, each its own nearest
    neighbour, so that at least 1/k is given away: random labels of two classes score 0.72 at 60 images of 64 features.

    NCA stops after at most 50 iterations, as published: that is part of the definition, not a failure to converge; the iterations are in the detail. The
    value does not depend on shift and rotation of the features, but on their scale (NCA weighs neighbours by exp(-distance²)).

    Cost O(n²) time and memory a fold: above ``max_images`` a stratified subset is used, the same for all sources, chosen by the images' digests
    (no random numbers). ``images`` in the detail says how many.

    Raises:
        NotEnoughData: cross-validated, and all images belong to one group, or are copies of one image.
    """

    name = "lp"
    only_by_name = True  # a space is learnt for each fold of each half-sample and shuffle
    bounds = (0.0, 1.0)
    unit = "probability of the true class (share of the nearest neighbours)"
    formula = "(1/n) Σ_i (1/k) #{j among the k nearest of i: y_j = y_i}, in a space that NCA learns from the labels"
    hazards = (
        "Chance is the sum of squared class shares, not 1 / C: read it beside the value of shuffled labels.",
        "`validation = resubstitution`, as published, gives away at least 1 / k: labels without meaning score .72 on 60 images of 64 features.",
        "It depends on the features' scale, as NCA weighs neighbours by exp(−distance²).",
        "Above `max_images` only a part of the images is read (images in the detail).",
    )
    citation = ("Juodelyte et al. 2024, On dataset transferability in medical image classification (arXiv 2412.20172), section 3 (and its code: 5 neighbours, "
                "50 dimensions); Goldberger et al. 2004, Neighbourhood components analysis, eq. 5")

    validation: Literal["cross-validated", "resubstitution"] = option("cross-validated", "on images of other folds, or (as published) on the same images")
    dimensions: int = option(50, "of the learned space", minimum=1)
    neighbours: int = option(5, "nearest neighbours that vote", minimum=1)
    folds: int = option(5, "of the cross-validation", minimum=2)
    max_images: int = option(2000, "a stratified subset of so many images is used of larger sets (memory and time grow with its square)", minimum=10)

    def assess(self, seen: Seen, rng: np.random.Generator) -> Score:
        """LP of one pair; ``rng`` is not used."""
        assert seen.labels is not None
        order = np.argsort(np.array(seen.images), kind="stable") if seen.images else np.arange(len(seen))  # the same for all sources
        rows = order[stratified_rows(seen.labels[order], self.max_images)]
        features, labels = seen.features[rows].astype(np.float64), seen.labels[rows]
        detail: dict[str, Any] = {"n": len(seen), "d": seen.dimension, "classes": len(seen.classes), "images": len(rows), "validation": self.validation}
        if self.validation == "resubstitution":
            space, _, iterations = learned_space(features, labels, features[:0], self.dimensions)
            found = neighbour_probabilities(space, labels, space, labels, self.neighbours)
            detail |= {"iterations": [iterations], "neighbours": min(self.neighbours, len(rows)), "dimensions": space.shape[1]}
        else:
            found, evidence = self._cross_validated(features, labels, seen.units[rows], seen)
            detail |= evidence
        return Score(float(found.mean()), True, detail, flags=self._flags(seen, len(rows)))

    def _cross_validated(self, features: np.ndarray, labels: np.ndarray, units: np.ndarray, seen: Seen) -> tuple[np.ndarray, dict[str, Any]]:
        """P(true class) of every row from the rows of the other folds, and what was done."""
        folds = min(self.folds, len(np.unique(units)))
        if folds < 2:
            what = "belong to one group (patient)" if seen.groups is not None else "are copies of one image"
            message = f"all {len(labels)} images of {seen.target} {what}: there is nothing to cross-validate on"
            raise NotEnoughData("SK501", self.name, message, "give images of several groups, or set validation = resubstitution")
        fold = stratified_folds(np.unique(units, return_inverse=True)[1], labels, folds)
        found, iterations, used = np.empty(len(labels)), [], []
        for k in np.unique(fold):
            go_on()
            train, test = fold != k, fold == k
            space, others, steps = learned_space(features[train], labels[train], features[test], self.dimensions)
            found[test] = neighbour_probabilities(space, labels[train], others, labels[test], self.neighbours)
            iterations.append(steps)
            used.append((min(self.neighbours, len(space)), space.shape[1]))
        neighbours, dimensions = (int(min(one)) for one in zip(*used, strict=True))
        return found, {"folds": folds, "iterations": iterations, "neighbours": neighbours, "dimensions": dimensions}

    def _flags(self, seen: Seen, images: int) -> tuple[str, ...]:
        flags = []
        if images < len(seen):
            flags.append(f"{images} of {len(seen)} images (max_images)")
        if self.validation == "resubstitution":
            flags.append("scored on the images that it was learned from")
        if images <= seen.dimension:
            flags.append(f"{images} images for {seen.dimension} features: the learned space overfits")
        return tuple(flags)
