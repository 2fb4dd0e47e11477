"""TransRate: how many fewer nats code the features once the classes are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simkit.estimators.base import NetworkEstimator, Score
from simkit.estimators.decomposition import Rows, class_counts, rank_tolerance
from simkit.estimators.seen import Seen
from simkit.registry import option
from simkit.transport.interruption import go_on

__all__ = ["TransRate", "coding_rate"]


def coding_rate(rows: Rows, *, epsilon: float) -> float:
    """R(Z, e) = 1/2 log det(I + Z'Z / (n e)), in nats, from the smaller of Z'Z and ZZ'."""
    return _rate(rows.smaller_gram, len(rows), epsilon)


def _rate(gram: np.ndarray, n: int, epsilon: float) -> float:
    inside = gram / (n * epsilon)
    inside[np.diag_indices_from(inside)] += 1.0
    return float(np.log(np.diag(np.linalg.cholesky(inside))).sum())


@dataclass(frozen=True)
class TransRate(NetworkEstimator):
    """TransRate: the mutual information between features and classes, by coding rates: R(Z, e) - (1/C) sum_c R(Z_c, e).

    R(Z, e) = 1/2 log det(I + Z'Z / (n e)), in nats, is the length of a code of the features with distortion ``epsilon`` e; Z holds the features minus their
    mean over all images, Z_c those of class c (minus the same mean). Near 0: the features of a class are spread as all are. It has no upper limit and can
    fall below 0, as classes of different size weigh the same. Higher promises better transfer.

    It is not scale invariant: features that are ten times larger act as an epsilon that is a hundred times smaller (on digits 29.8 becomes 46.3), so
    networks whose features have different scales are not comparable. ``normalise = true`` is the authors' published program: the centred rows at length
    one, classes weighing by their images, and the value over the rank of Z, so it is the same for any factor. Both are the same for any shift or rotation
    of the features. The authors chose epsilon, projection and normalisation anew for each target; epsilon is in squared feature units here.

    The detail holds epsilon, normalise, rate (of all features), rate_of_classes (mean), rank and zero_rows (with ``normalise``; images at the mean, which
    have no direction), n, d, classes.

    Cost: O(n d min(n, d)) for the Gram matrices of all images and of each class, O(min(n, d)³) for their determinants.
    """

    name = "transrate"
    unit = "nats (with normalise: nats a dimension)"
    formula = "R(Z, ε) − (1/C) Σ_c R(Z_c, ε),  R(Z, ε) = ½ ln det(I + Z'Z / (n ε))"
    hazards = (
        "Unless all directions are far above `epsilon` it depends on the features' scale: networks of other scales do not compare. Set `normalise = true`.",
        "With fewer images than features it is high for any labels (flag): read it beside the value of shuffled labels.",
        "`epsilon` decides what counts as noise; the authors chose it for each target, and the order of networks can change with it.",
    )
    citation = ("Huang et al. 2022, Frustratingly easy transferability estimation (arXiv 2106.09362), eq. 3 and 4; normalise as in the authors' program "
                "(Long-Kai/TransRate)")

    epsilon: float = option(1e-4, "distortion of the code, in squared feature units", above=0.0)
    normalise: bool = option(False, "rows at length one, classes weighing by their images, value over the rank: the authors' program")

    def unsound(self, images: int, features: int, classes: int) -> str:
        """The rate of a half-sample depends on its size more than on anything else where it has fewer images than twice the features."""
        return f"half-samples of {images} images have another rate with {features} features" if images < 2 * features else ""

    def assess(self, seen: Seen, rng: np.random.Generator) -> Score:
        """Coding rate of all features minus the mean of the classes'; ``rng`` is not used.

        Raises:
            DataError: numbers or several labels an image instead of classes.
            NotEnoughData: one class only.
        """
        labels, counts = class_counts(self.name, seen)
        rows, zero = Rows.of(seen.features, centred=True, where=seen.target), 0
        if self.normalise:
            rows, zero = rows.unit
        n, d, present = len(seen), seen.dimension, np.flatnonzero(counts)
        gram = seen.once("gram", lambda: rows.smaller_gram)
        whole, parts = _rate(gram, n, self.epsilon), np.zeros(len(present))
        for place, one in enumerate(present):
            go_on()
            parts[place] = coding_rate(rows.take(np.flatnonzero(labels == one)), epsilon=self.epsilon)
        within = float(parts @ counts[present]) / n if self.normalise else float(parts.mean())
        value, detail = whole - within, {"epsilon": self.epsilon, "normalise": self.normalise, "rate": whole, "rate_of_classes": within}
        more: dict[str, Any] = {"n": n, "d": d, "classes": len(present)}
        if self.normalise:
            eigenvalues = np.linalg.eigvalsh(gram)
            rank = int((eigenvalues > rank_tolerance(n, d) * eigenvalues[-1]).sum()) if eigenvalues[-1] > 0.0 else 0
            value, more = value / max(rank, 1), more | {"rank": rank, "zero_rows": zero}
        flags = []
        if n <= d:
            flags.append(f"{n} images for {d} features: high for any labels")
        if not gram.any():
            flags.append("all images have equal features")
        return Score(value, True, detail | more, flags=tuple(flags))
