"""Sliced optimal transport data set distance (Nguyen et al. 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simkit.embedding import Embedding, content_order
from simkit.errors import NotEnoughData
from simkit.estimators.base import FeatureEstimator, Known, Score
from simkit.estimators.point_transport import LABEL_FREE
from simkit.recipe import rng_for
from simkit.registry import option
from simkit.transport.line import squared_line_distances

__all__ = ["Slices", "Sotdd"]

KEPT_BYTES = 2**28
"""Projections of a data set up to this size are kept for all of its pairs; larger ones are made again for each."""
AT_A_TIME = 128
"""Projections that are made and sorted together."""


@dataclass(frozen=True, eq=False)
class Slices:
    """A data set as s-OTDD sees it.

    Attributes:
        features: float32 (n, d), rows by class and within it in the order of their content.
        labels: class index per row, ascending.
        classes: number of classes with images.
        moment_share: share of the mean square of the first slices that is due to the class moments.
        kept: sorted projections of every chunk, float32 (projections of the chunk, n); () where they would take too much memory.
    """

    features: np.ndarray
    labels: np.ndarray
    classes: int
    moment_share: float = 0.0
    kept: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class Sotdd(FeatureEstimator):
    """Sliced optimal transport data set distance: OTDD's idea in one dimension at a time, for very large data sets and many classes.

    Each of L random slices sends an image x of class y to the number psi_0 theta.x + sum_k psi_k E[(theta.X)^o_k | y] / o_k!: theta and psi are uniform
    on spheres, the orders o_k of the moments of the class are zero-truncated Poisson(k), k = 1..M. The value is the root of the mean over slices of the squared
    1-D Wasserstein distance W2² between the two sets of numbers: 0 for the same data, unbounded above, *in units of its own* (moments of all orders are
    mixed): compare it with values of s-OTDD only. All pairs share the slices of one ``slice_seed``, so that differences between sources are
    not blurred by them.

    The cost is O(L n (d + log n)), whatever the number of classes. Raw moments grow with the features' scale to the power of their order: with
    features far larger than 1 the moments drown the images (flag).

    The detail holds monte_carlo_error (standard error of the value over slices; their squares have heavy tails, so take it as a lower bound),
    moment_share (share of the mean square of the slices that is due to the class moments), n and classes of both sides.
    """

    name = "sotdd"
    size_biased = True
    needs = ("labels",)
    unit = "own units (projected features and class moments)"
    formula = "(mean over slices of W2²)^½ between the sets of numbers ψ₀ θ·x_i + Σ_k ψ_k E[(θ·X)^o_k | y_i] / o_k!"
    hazards = (
        "Moments grow with powers of the features' scale: features far above 1 drown the images (flag). Scale features to a norm near 1, or set `moments = 1`.",
        "Its unit is its own: values compare with other values of this measure, at one `moments` and one extractor, never with `otdd`.",
        "Its squares over slices have heavy tails: monte_carlo_error in the detail is a lower bound of the error; raise `projections`.",
        "It depends on the number of images: compare values at equal n only.",
    )
    citation = "Nguyen et al. 2025, Lightspeed geometric dataset distance via sliced optimal transport (arXiv 2501.18901)"

    projections: int = option(1000, "number of random slices", minimum=2)
    moments: int = option(5, "moments of the classes in a slice", minimum=1, maximum=20)
    slice_seed: int = option(0, "of the slices", minimum=0)

    def missing(self, known: Known, role: Any) -> str:
        """Why the measure cannot be computed: labels."""
        reason = super().missing(known, role)
        return f"{reason}; {LABEL_FREE}" if reason else reason

    def summarize(self, view: Embedding) -> Slices:
        """Rows in the order of their content; their sorted projections where they take at most 256 MiB."""
        order, _ = content_order(view.features)
        assert view.labels is not None
        order = order[np.argsort(view.labels[order], kind="stable")]
        present, labels = np.unique(view.labels[order], return_inverse=True)
        bare = Slices(view.features[order], labels, len(present))
        with np.errstate(over="ignore", invalid="ignore"):  # compare refuses what overflows
            return self._made(bare)

    def _made(self, bare: Slices) -> Slices:
        image, moment = self._parts(bare, 0)
        images, moments = float((image**2).mean()), float((moment[:, bare.labels] ** 2).mean())
        share = moments / (images + moments) if images + moments > 0 else 0.0
        few = 4 * len(bare.labels) * self.projections <= KEPT_BYTES
        return replace(bare, moment_share=share, kept=tuple(self._projected(bare, chunk) for chunk in range(self._chunks)) if few else ())

    @property
    def _chunks(self) -> int:
        return math.ceil(self.projections / AT_A_TIME)

    def _slices(self, chunk: int, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """theta (L, d), psi (L, M + 1) and the orders (L, M) of one chunk."""
        rng = rng_for("sotdd", self.slice_seed, self.moments, chunk)
        size = min(AT_A_TIME, self.projections - chunk * AT_A_TIME)
        psi = rng.standard_normal((size, self.moments + 1))
        orders = _truncated_poisson(np.arange(1.0, self.moments + 1), size, rng)
        theta = rng.standard_normal((size, d))
        return theta / np.linalg.norm(theta, axis=1, keepdims=True), psi / np.linalg.norm(psi, axis=1, keepdims=True), orders

    def _projected(self, data: Slices, chunk: int) -> np.ndarray:
        """Sorted numbers of all images in each slice of a chunk, float32 (L, n)."""
        image, moment = self._parts(data, chunk)
        image += moment[:, data.labels]
        return np.asarray(np.sort(image.astype(np.float32), axis=1))

    def _parts(self, data: Slices, chunk: int) -> tuple[np.ndarray, np.ndarray]:
        """What the images (L, n) and what the classes (L, K) add to the numbers of a chunk's slices."""
        theta, psi, orders = self._slices(chunk, data.features.shape[1])
        numbers = (theta.astype(np.float32) @ data.features.T).astype(np.float64)
        starts, counts = np.searchsorted(data.labels, np.arange(data.classes)), np.bincount(data.labels)
        moment, power = np.zeros((len(theta), data.classes)), np.ones_like(numbers)
        for order in range(1, int(orders.max()) + 1):  # powers one after the other: a product each, where ** takes twenty times as long
            power *= numbers
            factor = (psi[:, 1:] * (orders == order)).sum(1) / math.factorial(order)
            moment += factor[:, None] * np.add.reduceat(power, starts, axis=1) / counts
        return numbers * psi[:, :1], moment

    def compare(self, source: Slices, target: Slices, rng: np.random.Generator) -> Score:
        """s-OTDD of a pair."""
        with np.errstate(over="ignore", invalid="ignore"):  # said below
            squares = np.concatenate([squared_line_distances(self._chunk(source, c), self._chunk(target, c)) for c in range(self._chunks)])
        mean = float(squares.mean())
        if not math.isfinite(mean):
            largest = max(float(np.abs(side.features).max()) for side in (source, target))
            message = f"the class moments overflow: features of up to {largest:.3g} are raised to high powers"
            raise NotEnoughData("SK502", self.name, message, "scale the features to a norm near 1, or set moments = 1")
        value = math.sqrt(mean)
        error = float(squares.std(ddof=1) / math.sqrt(len(squares)) / (2 * value)) if value > 0 else 0.0
        share = max(source.moment_share, target.moment_share)
        flags = (f"class moments make {share:.0%} of the slices: scale the features down",) if share > 0.9 else ()
        detail = {
            "monte_carlo_error": error, "moment_share": share, "projections": self.projections, "n": (len(source.labels), len(target.labels)),
            "classes": (source.classes, target.classes),
        }
        return Score(value, True, detail, flags=flags)

    def _chunk(self, data: Slices, chunk: int) -> np.ndarray:
        return data.kept[chunk] if data.kept else self._projected(data, chunk)


def _truncated_poisson(rates: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Poisson variables given that they are at least 1, (size, len(rates)): 1 + Poisson(rate - time of the first event)."""
    uniform = rng.random((size, len(rates)))
    first = -np.log(uniform * -np.expm1(-rates) + np.exp(-rates))
    return np.asarray(1 + rng.poisson(np.maximum(rates - first, 0.0)))
