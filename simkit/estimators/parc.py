"""PARC: do images that the network sees alike have like labels?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simkit.errors import NotEnoughData
from simkit.estimators.base import NetworkEstimator, Score
from simkit.estimators.seen import Seen
from simkit.registry import option
from simkit.transport.interruption import go_on

__all__ = ["Parc", "label_rank_correlation", "principal_components", "row_correlations", "standardised_columns"]

DIGITS = 12
"""Correlations are compared to this many digits, so that pairs that are equal up to rounding are ties."""


def standardised_columns(features: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and spread 1, float64; constant columns (a spread below 1e-6 of their size) are 0."""
    mean = features.mean(0, dtype=np.float64)
    rows = features.astype(np.float64)
    rows -= mean
    spread = np.sqrt(np.einsum("ij,ij->j", rows, rows) / len(rows))
    rows *= np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-6 * np.abs(mean))
    return rows


def principal_components(features: np.ndarray, dimensions: int) -> np.ndarray:
    """Coordinates along the leading principal directions, float64 (n, dimensions); the largest entry of each direction is positive.

    The sign matters: a correlation of two rows is taken about the rows' own means, which the sign of a column moves.

    Args:
        features: (n, d).
        dimensions: at most min(n - 1, d).
    """
    rows = features.astype(np.float64)
    rows -= rows.mean(0)
    if len(rows) < rows.shape[1]:
        vectors = np.linalg.svd(rows, full_matrices=False)[2][:dimensions].T
    else:
        vectors = np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :dimensions]
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(dimensions)])
    return np.asarray(rows @ (vectors * signs))


def row_correlations(rows: np.ndarray) -> np.ndarray:
    """Pearson correlations of all pairs of rows i > j, float64 (n (n - 1) / 2,), row after row.

    Args:
        rows: (n, k), no row constant.
    """
    unit = rows - rows.mean(1, keepdims=True)
    unit /= np.sqrt((unit**2).sum(1))[:, None]
    n, size = len(unit), 512
    out = np.empty(n * (n - 1) // 2)
    for start in range(0, n, size):
        go_on()
        block = unit[start:start + size] @ unit[:start + size].T
        for i, row in enumerate(block, start):
            out[i * (i - 1) // 2:i * (i + 1) // 2] = row[:i]
    return np.round(out, DIGITS, out=out)


def label_rank_correlation(values: np.ndarray, same: np.ndarray) -> float:
    """Spearman correlation, -1 to 1, of 1 - values with 1 - same: Pearson's of their mean ranks, ties included.

    ``same`` knows two levels, so that the ranks of one of them are enough: they are looked up in the sorted values. NaN where all values, or all of ``same``,
    are equal.

    Args:
        values: (m,).
        same: bool (m,).
    """
    order = np.sort(values)
    m, k = len(values), int(same.sum())
    inside = np.sort(values[same])  # in order: neighbouring look-ups are fast
    ranks = 0.5 * (np.searchsorted(order, inside, "left") + np.searchsorted(order, inside, "right") + 1.0)
    edges = np.flatnonzero(np.concatenate([[True], order[1:] != order[:-1], [True]]))
    ties = np.diff(edges).astype(np.float64)
    spread = (m * (float(m) * m - 1.0) - float((ties * (ties**2 - 1.0)).sum())) / 12.0
    if k in (0, m) or spread <= 0.0:
        return float("nan")
    covariance = float((ranks - 0.5 * (m + 1.0)).sum())
    return covariance / float(np.sqrt(spread * k * (1.0 - k / m)))


@dataclass(frozen=True)
class Parc(NetworkEstimator):
    """Pairwise annotation representation comparison: whether pairs of images that the network sees alike have the same label.

    100 times the Spearman correlation, over all pairs of images, of two distances: 1 - Pearson correlation of the two images' features (each feature
    standardised over the images), and 1 - Pearson correlation of their one-hot labels (Bolya et al. 2021, section 4.2). -100 to 100; zero: the features
    say nothing about the labels. Few pairs have the same label and the others are not equally unlike, so features that tell C equal classes apart fully give
    about 100 sqrt(3 (C - 1)) / C: 52 at C = 10. Values compare on one target only.

    One-hot labels know two distances, of the same and of different classes, and are compared as such. The published code leaves them to rounding (two images of
    a class correlate by 1, give or take 1e-16), so that its ranks, and its value in the third digit, depend on the machine: 39.45 for
    scikit-learn's digits, whose value is 39.33.

    ``dimensions`` > 0 keeps so many principal components (32 in the paper), each of which then counts alike. The value is not moved by scale and shift of
    a feature (of all features alike, with ``dimensions``); it is moved by a rotation.

    All pairs of more than ``max_images`` images are not formed: a random part is taken, each class by its share, and flagged. (Published copies draw such
    a part and then score all images.) Cost: n² d operations and n² / 2 numbers of 8 bytes, twice.
    """

    name = "parc"
    bounds = (-100.0, 100.0)
    version = 1
    unit = "Spearman correlation times 100 (-100 to 100)"
    formula = "100 × Spearman correlation over pairs of images of 1 − corr(f_i, f_j) and 1 − corr(y_i, y_j)"
    hazards = (
        "Features that tell C equal classes apart fully give about 100 (3 (C − 1))^½ / C, not 100: values compare on one target only.",
        "Large classes decide, as nearly all pairs are theirs: rare classes hardly count.",
        "Above `max_images` a random part of the images is read (flag).",
        "Features are standardised but not decorrelated: many copies of one feature decide. `dimensions` = 32 is the paper's own.",
    )
    citation = "Bolya, Mittapalli and Hoffman 2021, Scalable diverse model selection for accessible transfer learning (arXiv 2111.06977), section 4.2"

    dimensions: int = option(0, "principal components to keep before; 0: all features as they are", minimum=0)
    max_images: int = option(5000, "images of which all pairs are formed; of more, a random part with each class by its share", minimum=10)

    def assess(self, seen: Seen, rng: np.random.Generator) -> Score:
        """The correlation; ``rng`` draws the part of a large set.

        Raises:
            NotEnoughData: fewer than two features, more dimensions than the images span (SK501); an image whose standardised features are all equal, no
                pair of one class, all pairs equally alike (SK502).
        """
        assert seen.labels is not None
        where = f"{self.name}: {seen.target}"
        chosen = stratified_part(seen.labels, self.max_images, rng)
        labels = seen.labels[chosen]
        if len(chosen) == len(seen):  # all of them: the labels play no part so far
            rows, correlations = seen.once("correlations", lambda: self._correlations(seen.features, where))
        else:
            rows, correlations = self._correlations(seen.features[chosen], where)
        same = np.concatenate([labels[:i] == labels[i] for i in range(len(labels))])  # in the order of row_correlations
        value = label_rank_correlation(correlations, same)
        if not np.isfinite(value):
            alone = not same.any() or same.all()
            what = f"{int(same.sum())} of {len(same)} pairs of images are of one class" if alone else "all pairs of images are equally alike"
            fix = "give images of two classes, two of a class" if alone else "give features that tell images apart"
            raise NotEnoughData("SK502", where, f"the rank correlation is undefined: {what}", fix)
        detail: dict[str, Any] = {
            "n": len(seen), "d": seen.dimension, "classes": len(np.unique(labels)), "images": len(rows), "pairs": len(same),
            "same_class_pairs": int(same.sum()), "dimensions": self.dimensions, "constant_features": int((~rows.any(axis=0)).sum()),
        }
        return Score(100.0 * value, detail=detail, flags=self._flags(len(seen), len(rows)))

    def _correlations(self, features: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
        """Standardised rows, and the correlations of all pairs of them."""
        rows = standardised_columns(self._reduced(features, where))
        self._check_rows(rows, where)
        return rows, row_correlations(rows)

    def _reduced(self, features: np.ndarray, where: str) -> np.ndarray:
        if not self.dimensions:
            return features
        most = min(len(features) - 1, features.shape[1])
        if self.dimensions > most:
            message = f"{self.dimensions} dimensions were asked for, {len(features)} images of {features.shape[1]} features span at most {most}"
            raise NotEnoughData("SK501", where, message, f"set dimensions to at most {most}, or to 0")
        return principal_components(features, self.dimensions)

    def _check_rows(self, rows: np.ndarray, where: str) -> None:
        if rows.shape[1] < 2:
            raise NotEnoughData("SK501", where, "one feature: the correlation of two images needs at least two", "choose another layer, or another measure")
        flat = int((np.ptp(rows, axis=1) <= 1e-12 * np.abs(rows).max(initial=1.0)).sum())
        if flat:
            message = f"the standardised features of {flat} of {len(rows)} images are all equal: they have no correlation with others"
            raise NotEnoughData("SK502", where, message, "leave these images out (are they blank?), or choose another layer")

    def _flags(self, n: int, used: int) -> tuple[str, ...]:
        flags: tuple[str, ...] = (f"a random part of {used} of {n} images (max_images)",) if used < n else ()
        if self.dimensions and used < 2 * self.dimensions:
            flags += (f"{used} images for {self.dimensions} components: the last of them are noise, and count like the first",)
        return flags


def stratified_part(labels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of a random part, ascending: each class by its share (largest remainders), at least two of it where it has two; all where there are no more."""
    n = len(labels)
    if n <= size:
        return np.arange(n)
    counts = np.bincount(labels)
    exact = counts * (size / n)
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[:size - int(quota.sum())]] += 1
    quota = np.maximum(quota, np.minimum(counts, 2))
    parts = [rng.choice(np.flatnonzero(labels == c), quota[c], replace=False) for c in np.flatnonzero(counts)]
    return np.sort(np.concatenate(parts))
