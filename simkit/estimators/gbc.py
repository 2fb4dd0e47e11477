"""GBC: how much the classes overlap, each taken as a Gaussian (Bhattacharyya coefficient)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from simkit.estimators.base import NetworkEstimator, Score
from simkit.estimators.decomposition import Rows, class_counts, rank_tolerance
from simkit.estimators.seen import Seen
from simkit.registry import option
from simkit.transport.interruption import go_on

__all__ = ["Gbc", "class_overlaps", "class_statistics", "principal_components"]


def principal_components(rows: Rows, dimensions: int) -> np.ndarray:
    """(n, k) coordinates of centred rows along their k directions of largest variance, those of no variance left out: k <= ``dimensions``."""
    from scipy.linalg import eigh

    n, d = rows.features.shape
    gram = rows.smaller_gram
    eigenvalues, vectors = eigh(gram, subset_by_index=[max(0, len(gram) - dimensions), len(gram) - 1], overwrite_a=True, check_finite=False)
    kept = np.flatnonzero(eigenvalues > rank_tolerance(n, d) * max(float(eigenvalues[-1]), 0.0))[::-1][:dimensions]
    if n < d:
        return np.asarray(vectors[:, kept] * np.sqrt(eigenvalues[kept]))
    out, directions = np.empty((n, len(kept))), vectors[:, kept]
    for part, x in rows.tiles():
        out[part] = x @ directions
    return out


def class_statistics(points: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (divisor n_c) of each feature in each class, both (C, k)."""
    means, variances = np.empty((len(classes), points.shape[1])), np.empty((len(classes), points.shape[1]))
    for place, one in enumerate(classes):
        own = points[labels == one]
        means[place], variances[place] = own.mean(0, dtype=np.float64), own.var(0, dtype=np.float64)
    return means, variances


def class_overlaps(means: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Bhattacharyya coefficient exp(-D_B) of each pair of classes, (C, C), 1 on the diagonal.

    D_B = sum_k [(m1 - m2)² / (8 v) + 1/2 log(v / sqrt(v1 v2))] with v = (v1 + v2) / 2. Classes that are points (variance zero) overlap with no other Gaussian
    (coefficient 0, the limit), and fully with a point at the same place.
    """
    out = np.empty((len(means), len(means)))
    with np.errstate(divide="ignore"):
        logs = np.log(variances)
    for place in range(len(means)):
        go_on()
        middle = 0.5 * (variances[place] + variances)
        gaps = (means[place] - means) ** 2
        points = middle == 0.0  # both
        with np.errstate(divide="ignore", invalid="ignore"):
            apart = np.where(points, np.where(gaps > 0.0, np.inf, 0.0), gaps / middle / 8.0)
            wide = np.where(points, 0.0, 0.5 * np.log(middle) - 0.25 * (logs[place] + logs))
        out[place] = np.exp(-(apart + wide).sum(1))
    return np.minimum(out, 1.0)


@dataclass(frozen=True)
class Gbc(NetworkEstimator):
    """GBC, Gaussian Bhattacharyya coefficient: minus the overlap of the classes, -sum_{c != c'} exp(-D_B(c, c')).

    Each class is a Gaussian with a variance of its own for every feature (``diagonal``) or one for all (``spherical``, the mean of these), after projection
    of the features on their ``dimensions`` principal components. D_B = 1/8 dm' S^-1 dm + 1/2 log(|S| / sqrt(|S1| |S2|)), S the mean of the two covariances:
    exact, where the published program leaves the dimension out of the spherical determinant.

    0: no two classes overlap; -C (C - 1): all classes are the same. Higher promises better transfer; it has no unit. It saturates at 0 in many dimensions
    or with few images a class, where every class seems apart.

    Variances below ``smallest_variance`` are set to it, as in the published program: a feature that is constant in a class (a dead channel, a class of one
    image) would keep that class from any overlap. The limit is in squared feature units, so the value depends on the scale of features where it bites
    (counted in the detail, and said in a flag); with 0 the variances stay as they are, and the value is the same for any factor. It is always the same for
    a shift and, with principal components or ``spherical`` where the limit does not bite, for a rotation.

    The detail holds dimensions (used: no more than the rank), raised (variances that were set to the limit), single (classes of one image),
    largest_overlap and closest_classes (the pair that has it), n, d, classes.

    Cost: O(n d min(n, d)) for the principal components, O(C² k) for the pairs.
    """

    name = "gbc"
    bounds = (None, 0.0)
    unit = "overlap of the classes (negative)"
    formula = "−Σ_{c ≠ c'} exp(−D_B),  D_B = Σ_k [(m − m')² / (8 v) + ½ ln(v / (v_c v_c')^½)],  v = (v_c + v_c') / 2"
    hazards = (
        "It saturates at 0 with few images a class or many dimensions, where every class seems apart (flag): set fewer `dimensions`.",
        "Variances below `smallest_variance` are raised to it, so the scale of features counts where that bites (flag); with 0 it does not.",
        "It is a sum over C (C − 1) pairs of classes: values compare on one target only.",
    )
    citation = "Pándy et al. 2022, Transferability estimation using Bhattacharyya class separability (arXiv 2111.12780), eq. 3 to 5"

    covariance: Literal["diagonal", "spherical"] = option("diagonal", "a variance for each feature of a class, or one for all")
    dimensions: int = option(64, "principal components that are kept; 0: the features as they are", minimum=0)
    smallest_variance: float = option(1e-4, "variances below are set to it (published: 1e-4); 0: none", minimum=0.0)

    def assess(self, seen: Seen, rng: np.random.Generator) -> Score:
        """Minus the summed overlap of all ordered pairs of classes; ``rng`` is not used.

        Raises:
            DataError: numbers or several labels an image instead of classes.
            NotEnoughData: one class only.
        """
        labels, counts = class_counts(self.name, seen)
        present = np.flatnonzero(counts)
        points = seen.once("points", lambda: self._points(seen))
        means, variances = class_statistics(points, labels, present)
        raised = int((variances < self.smallest_variance).sum())
        variances = np.maximum(variances, self.smallest_variance)
        if self.covariance == "spherical" and points.shape[1]:
            variances = np.repeat(variances.mean(1, keepdims=True), points.shape[1], axis=1)
        overlaps = class_overlaps(means, variances)
        np.fill_diagonal(overlaps, 0.0)
        first, second = divmod(int(overlaps.argmax()), len(present))
        detail: dict[str, Any] = {
            "dimensions": int(points.shape[1]), "raised": raised, "single": int((counts == 1).sum()), "largest_overlap": float(overlaps.max()),
            "closest_classes": [seen.classes[int(present[first])], seen.classes[int(present[second])]],
            "n": len(seen), "d": seen.dimension, "classes": len(present),
        }
        value = -float(overlaps.sum())
        return Score(value if value else 0.0, True, detail, flags=self._flags(detail, points.shape[1], value))

    def _points(self, seen: Seen) -> np.ndarray:
        """The rows that Gaussians are fitted to."""
        rows = Rows.of(seen.features, centred=True, where=seen.target)
        return principal_components(rows, self.dimensions) if self.dimensions else seen.features

    def _flags(self, detail: dict[str, Any], dimensions: int, value: float) -> tuple[str, ...]:
        n, flags = detail["n"], []
        if dimensions == 0:
            return ("all images have equal features",)
        if n <= detail["d"]:
            flags.append(f"{n} images for {detail['d']} features: variances of few images, overlaps too small")
        if detail["raised"]:
            flags.append(f"{detail['raised']} of {detail['classes'] * dimensions} variances raised to {self.smallest_variance:g}")
        if detail["single"]:
            flags.append(f"{detail['single']} of {detail['classes']} classes have one image and no variance of their own")
        if value == 0.0:
            flags.append("no two classes overlap: saturated at 0")
        return tuple(flags)
