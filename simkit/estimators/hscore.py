"""H-score: how much of the features' variance the classes explain, in units of their covariance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simkit.estimators.base import NetworkEstimator, Score
from simkit.estimators.decomposition import Basis, Rows, Spectrum, basis, class_counts
from simkit.estimators.seen import Seen
from simkit.registry import option

__all__ = ["HScore", "ledoit_wolf_share", "plain_score", "shrunk_score"]


def ledoit_wolf_share(found: Spectrum, squares: np.ndarray) -> float:
    """Share a of the multiple of the identity in Ledoit and Wolf's covariance (1 - a) S + a tr(S) / d I, S with divisor n, as in scikit-learn.

    Args:
        found: spectrum of the centred features.
        squares: (n,) squared length of each centred row.
    """
    n, d = found.shape
    trace, square = found.trace / n, float((found.eigenvalues / n) @ (found.eigenvalues / n))
    distance = square / d - (trace / d) ** 2
    error = (float(squares @ squares) / n - square) / (d * n)
    if distance <= 0.0 or error <= 0.0:
        return 0.0
    return min(error / distance, 1.0)


def plain_score(found: Spectrum, counts: np.ndarray) -> float:
    """tr(cov(f)^+ cov(E[f|y])) from coordinates of the classes' indicators: sum_c sum_j (u_j'1_c)² / n_c."""
    return float(((found.coordinates**2).sum(0) / counts).sum())


def shrunk_score(found: Spectrum, counts: np.ndarray, share: float) -> float:
    """tr(cov_a(f)^-1 (1 - a) cov(E[f|y])), cov_a with divisor n and cov(E[f|y]) with divisor n - 1, as in the authors' code."""
    n, d = found.shape
    spread = (1.0 - share) * found.eigenvalues / n + share * found.trace / (n * d)
    weights = (1.0 - share) * found.eigenvalues / (n - 1.0) / spread
    return float((weights @ found.coordinates**2 / counts).sum())


@dataclass(frozen=True)
class HScore(NetworkEstimator):
    """H-score: variance of the class means in units of the features' covariance, tr(cov(f)^-1 cov(E[f|y])).

    0: all classes have the same mean features; C - 1 (or d, if that is less): the classes' means tell everything. Higher promises better transfer; it has
    no unit.

    By default with Ledoit and Wolf's covariance, tr(cov_a(f)^-1 (1 - a) cov(E[f|y])), whose share a of a multiple of the identity follows from the data: it
    stays useful where images are few (cov(E[f|y]) has divisor n - 1 and cov_a(f) divisor n, as in the authors' code, so values reach at most (C - 1) n / (n
    - 1)). With ``shrinkage = false`` as first published, with the pseudo-inverse: the same for every invertible affine map of the features, but where n <=
    d + 1 it is C - 1 for any labels, and too high below n = 2 d; flags say so. Both are the same for any factor, shift or rotation of the features.

    The detail holds shrinkage (a, or None), rank (of the centred features), n, d, classes.

    Cost: O(n d min(n, d)) for the Gram matrix, in tiles, and its eigenvalues.
    """

    name = "hscore"
    bounds = (0.0, None)
    unit = "variance explained by the classes, in units of the covariance (0 to C - 1; shrunk, to (C - 1) n / (n - 1))"
    formula = "tr(cov_a(f)⁻¹ (1 − a) cov(E[f|y])),  a the share of Ledoit and Wolf (0 with shrinkage = false)"
    hazards = (
        "With `shrinkage = false` it is C − 1 for any labels where n ≤ d + 1, and too high below 2 d images (flag).",
        "With fewer images than features the value follows the shrinkage (in the detail) as much as the classes: read it beside the value of shuffled labels.",
        "Values compare on one target only: the largest possible one depends on the number of classes.",
    )
    citation = ("Bao et al. 2019, An information-theoretic approach to transferability in task transfer learning (arXiv 2212.10082), definition 2; "
                "Ibrahim, Ponomareva and Mazumder 2021, Newer is not always better (arXiv 2110.06893), eq. 4")

    shrinkage: bool = option(True, "Ledoit-Wolf covariance; false: the plain covariance and its pseudo-inverse")

    def assess(self, seen: Seen, rng: np.random.Generator) -> Score:
        """The H-score; ``rng`` is not used.

        Raises:
            DataError: numbers or several labels an image instead of classes.
            NotEnoughData: one class only.
        """
        _, counts = class_counts(self.name, seen)
        present = np.flatnonzero(counts)
        whole, squares = seen.once("basis", lambda: self._basis(seen))
        found = whole.spectrum(seen.one_hot[:, present])
        share = ledoit_wolf_share(found, squares) if self.shrinkage else None
        limit = min(len(present) - 1, found.rank)
        value = min(plain_score(found, counts[present]), float(limit)) if share is None else shrunk_score(found, counts[present], share)
        detail: dict[str, Any] = {"shrinkage": share, "rank": found.rank, "n": len(seen), "d": seen.dimension, "classes": len(present)}
        return Score(value, True, detail, flags=_flags(found, share, len(present)))

    def unsound(self, images: int, features: int, classes: int) -> str:
        """The plain score of half-samples saturates where they have no more images than features and one."""
        return f"half-samples of {images} images saturate at C - 1 with {features} features" if not self.shrinkage and images <= features + 1 else ""

    def _basis(self, seen: Seen) -> tuple[Basis, np.ndarray]:
        """The directions of the features, and the squared length of each row."""
        rows = Rows.of(seen.features, centred=True, where=seen.target)
        if not self.shrinkage:  # the value does not change, and features of small scale count as others do
            lengths = np.sqrt(rows.column_squares)
            rows = replace(rows, factors=1.0 / np.where(lengths > 0.0, lengths, 1.0))
        return basis(rows), rows.squares if self.shrinkage else np.empty(0)


def _flags(found: Spectrum, share: float | None, classes: int) -> tuple[str, ...]:
    n, d = found.shape
    few = f"{n} images for {d} features"
    if found.rank == 0:
        return ("all images have equal features",)
    if share is None:
        return (f"{few}: saturates at C - 1 = {classes - 1}",) if n <= d + 1 else (f"{few}: too high below {2 * d} images",) if n < 2 * d else ()
    return (f"{few}: depends on the shrinkage ({share:.3g})",) if n <= d else ()
