"""Vendi score: the effective number of different images in a data set. And what descriptors of one data set share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any, ClassVar, Literal

import numpy as np

from simkit.embedding import Embedding, content_order
from simkit.errors import DataError
from simkit.estimators.base import FeatureEstimator, Kind, Score
from simkit.registry import option
from simkit.transport.arrays import device_of, eigvalsh, namespace, placed
from simkit.transport.interruption import go_on

__all__ = ["Described", "Descriptor", "Vendi", "effective_number", "float64_chunks", "gram_eigenvalues", "spectrum_seconds"]

CHUNK = 4096
"""Rows that are in float64 at a time."""


@dataclass(frozen=True, eq=False)
class Described:
    """A data set and the descriptor that will be asked about it; computed once, when it is first asked for, so that a target costs nothing."""

    measure: Descriptor
    view: Embedding
    lock: Any = field(default_factory=Lock, repr=False)

    @property
    def score(self) -> Score:
        """The value, computed once also when threads ask at once."""
        with self.lock:
            return self._score

    @cached_property
    def _score(self) -> Score:
        return self.measure.describe(self.view)


class Descriptor(FeatureEstimator):
    """A property of the source alone, the same for every target. Subclasses are dataclasses with the option ``device``, and give ``describe``."""

    kind: Kind = "prior"
    symmetric = False
    higher_is_better = True
    size_biased = True
    bounds = (1.0, None)
    hazards: ClassVar[tuple[str, ...]] = ("A property of the source alone: it says nothing about similarity, and gives every target the same order.",)

    device: str

    def describe(self, view: Embedding) -> Score:
        """The value of one data set."""
        raise NotImplementedError

    def summarize(self, view: Embedding) -> Described:
        """The data set itself, checked.

        Raises:
            DataError: NaN or infinite features (SK210).
        """
        if not np.isfinite(view.features).all():
            raise DataError("SK210", view.name, "features hold NaN or infinite values", "remove or recompute these rows")
        return Described(self, view)

    def compare(self, source: Described, target: Described, rng: np.random.Generator) -> Score:
        """The value of the source; neither ``target`` nor ``rng`` is used. Raises what ``describe`` raises."""
        return source.score

    def where(self) -> str:
        """The device that the option stands for."""
        return device_of(self.device, where=f"{self.name}.device")


@dataclass(frozen=True)
class Vendi(Descriptor):
    """Vendi score of the source: the effective number of different images, from 1 (all alike) to n (no two have anything in common).

    The exponential of the Shannon entropy of the eigenvalues of K / n, where K holds the cosines between the images' features; with order ``q`` of Rényi's
    entropy: 0 counts the directions (the rank), larger orders look more at what is common, ``inf`` is one over the largest eigenvalue. A
    property of the source alone, the same for every target: it says nothing about similarity. Higher, more diverse, is taken to be better. It
    grows with n, so compare sources at equal sizes only. Features that are all positive (after a ReLU) have much in common: values are then small.
    Images whose features are all 0 (counted in the detail as zero_rows) have no direction and count as one more, orthogonal to all others.

    Cost: O(n d min(n, d)), in float64, from the d x d matrix where there are more images than features (the same eigenvalues).

    The detail holds q, n, d, zero_rows, rank and largest_eigenvalue (the share of the main direction).
    """

    name = "vendi"
    unit = "effective number of images"
    formula = "exp(−Σ_i λ_i ln λ_i),  λ the eigenvalues of K / n, K_ij the cosine of x_i and x_j"
    hazards = (
        *Descriptor.hazards,
        "It grows with n: compare sources at equal sizes only.",
        "Features that are all positive (after a ReLU) have much in common, so values are small: compare within one extractor only.",
        "Noise is diverse: a source of bad images can score high.",
    )
    citation = ("Friedman and Dieng 2022, The Vendi score (arXiv 2210.02410), definition 3.1; "
                "Pasarkar and Dieng 2023, Cousins of the Vendi score (arXiv 2310.12952), for the order q")

    q: float | Literal["inf"] = option(1.0, "order of the entropy; 1: Shannon", minimum=0)
    device: str = option("auto", "auto, cpu, cuda or cuda:1", recipe=False)

    def __post_init__(self) -> None:
        if self.q == math.inf:
            object.__setattr__(self, "q", "inf")

    def describe(self, view: Embedding) -> Score:
        """The Vendi score of a data set."""
        order, _ = content_order(view.features)
        rows = view.features[order]
        zero = ~rows.any(axis=1)
        kept = placed(rows[~zero] if zero.any() else rows, self.where())
        values = gram_eigenvalues(_unit_chunks(kept), len(kept), view.dimension) / len(rows) if len(kept) else np.empty(0)
        if zero.any():
            values = np.sort(np.append(values, zero.sum() / len(rows)))[::-1]
        detail: dict[str, Any] = {
            "q": self.q, "n": len(rows), "d": view.dimension, "zero_rows": int(zero.sum()), "rank": len(values), "largest_eigenvalue": float(values[0]),
        }
        return Score(effective_number(values, math.inf if self.q == "inf" else float(self.q)), True, detail)

    def seconds(self, n_source: int, n_target: int) -> float | None:
        """Rough time of one source on one core, at 512 features."""
        return spectrum_seconds(n_source)


def effective_number(weights: np.ndarray, q: float = 1.0) -> float:
    """Hill number of order q: exp(-sum p log p) for q = 1, else (sum p^q)^(1 / (1 - q)), of weights > 0 taken as shares p of their sum.

    At least 1, at most their number: which they reach when one holds all, and when all are equal.
    """
    p = weights / weights.sum()
    if q == math.inf:
        return max(1.0, float(1.0 / p.max()))
    if abs(q - 1.0) < 1e-6:  # the limit: beyond this the other formula loses digits
        return max(1.0, float(np.exp(-(p @ np.log(p)))))
    log_p = np.log(p)
    top = float((q * log_p).max())  # p^q of a large order is 0 for all p but the largest
    return max(1.0, float(np.exp((top + np.log(np.exp(q * log_p - top).sum())) / (1.0 - q))))


def float64_chunks(rows: Any) -> Iterator[Any]:
    """The rows in float64, some thousand at a time, where they are."""
    xp = namespace(rows)
    for start in range(0, len(rows), CHUNK):
        go_on()
        yield xp.astype(rows[start : start + CHUNK], xp.float64)


def _unit_chunks(rows: Any) -> Iterator[Any]:
    """The rows at length 1 in float64; none of them is 0."""
    xp = namespace(rows)
    for x in float64_chunks(rows):
        yield x / xp.sqrt(xp.sum(x * x, axis=1))[:, None]


def gram_eigenvalues(chunks: Iterable[Any], n: int, d: int) -> np.ndarray:
    """Eigenvalues of X X' for X (n, d) in pieces, descending, float64; those that are 0 up to rounding are left out, so that the rest are the rank.

    Of X' X, which has the same, where there are more rows than columns.
    """
    if n < d:
        pieces = list(chunks)
        x = namespace(pieces[0]).concat(pieces, axis=0)
        gram = x @ x.T
    else:
        gram = sum(piece.T @ piece for piece in chunks)
    values = eigvalsh(gram)[::-1]
    return np.asarray(values[values > max(n, d) * np.finfo(np.float64).eps * max(float(values[0]), 0.0)])


def spectrum_seconds(n: int) -> float:
    """Rough time of the spectrum of n rows of 512 features on one core."""
    short = min(n, 512)
    return 0.005 + 3e-11 * n * 512 * short + 6e-10 * short**3
