"""Scatter of features and its eigenvalues, in float64 and in tiles: what LogME, H-score, TransRate and GBC share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from simkit.errors import DataError, NotEnoughData
from simkit.estimators.seen import Seen
from simkit.transport.interruption import go_on

__all__ = ["EXTREME", "Basis", "Rows", "Spectrum", "basis", "class_counts", "rank_tolerance", "spectrum"]

TILE = 4 << 20
"""Numbers that are in float64 at one time (32 MiB)."""

EXTREME = 1e100
"""Features beyond this size (or all below its inverse) have no squares in float64."""


def class_counts(method: str, seen: Seen) -> tuple[np.ndarray, np.ndarray]:
    """Class index of each image, and images of each class.

    Raises:
        DataError: the target has numbers instead of labels (SK208).
        NotEnoughData: one class only, as a half-sample may have (SK501).
    """
    if seen.labels is None:
        what = "numbers to be predicted" if seen.values is not None else "several labels an image"
        raise DataError("SK208", seen.target, f"{method} needs one label an image, {seen.target} has {what}", "give classes, or use logme")
    counts = np.bincount(seen.labels, minlength=len(seen.classes))
    if int((counts > 0).sum()) < 2:
        message = f"{method} needs at least two classes, all {len(seen)} images of {seen.target} are of one class"
        raise NotEnoughData("SK501", seen.target, message, "give more images of the other classes")
    return seen.labels, counts


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of features, changed on their way into float64: (x - centre) * factors / length of the row.

    Attributes:
        features: (n, d), never copied as a whole.
        centre: (d,), or None for rows as they are.
        factors: (d,), or None.
        lengths: (n,), or None.
    """

    features: np.ndarray
    centre: np.ndarray | None = None
    factors: np.ndarray | None = None
    lengths: np.ndarray | None = None

    @classmethod
    def of(cls, features: np.ndarray, *, centred: bool, where: str) -> Rows:
        """The rows, checked, with their mean as the centre or without one.

        Raises:
            DataError: features so large or so small that their squares are no numbers (SK203), NaN (SK210).
        """
        high, low = features.max(0), features.min(0)
        largest = float(max(high.max(), -low.min()))
        if not np.isfinite(largest):
            raise DataError("SK210", where, "features hold NaN or infinite values", "recompute these rows")
        if largest > EXTREME or 0.0 < largest < 1.0 / EXTREME:
            raise DataError("SK203", where, f"the largest feature is {largest:.3g}: its square is no number in float64", "rescale the features")
        if not centred:
            return cls(features)
        return cls(features, np.where(high == low, high, features.mean(0, dtype=np.float64)))  # a constant feature becomes zero, not rounding

    def __len__(self) -> int:
        return len(self.features)

    @property
    def dimension(self) -> int:
        return int(self.features.shape[1])

    def take(self, chosen: np.ndarray) -> Rows:
        """Some rows, with the centre and the factors of all."""
        return replace(self, features=self.features[chosen], lengths=None if self.lengths is None else self.lengths[chosen])

    @property
    def unit(self) -> tuple[Rows, int]:
        """The rows at length one, and how many have no length but rounding (they become zero)."""
        lengths = np.sqrt(self.squares)
        zero = lengths <= 2.0**-40 * lengths.max()
        return replace(self, lengths=np.where(zero, np.inf, lengths)), int(zero.sum())

    def tiles(self) -> Iterator[tuple[slice, np.ndarray]]:
        """The rows in float64, some at a time."""
        step = max(1, TILE // self.dimension)
        for start in range(0, len(self), step):
            go_on()
            rows = slice(start, start + step)
            yield rows, self._part(rows, slice(None))

    def _part(self, rows: slice, columns: slice) -> np.ndarray:
        x = self.features[rows, columns].astype(np.float64)
        if self.centre is not None:
            x -= self.centre[columns]
        if self.factors is not None:
            x *= self.factors[columns]
        if self.lengths is not None:
            x /= self.lengths[rows, None]
        return x

    @property
    def squares(self) -> np.ndarray:
        """(n,) squared length of each row."""
        out = np.empty(len(self))
        for rows, x in self.tiles():
            out[rows] = np.einsum("ij,ij->i", x, x)
        return out

    @property
    def column_squares(self) -> np.ndarray:
        """(d,) squared length of each column."""
        out = np.zeros(self.dimension)
        for _, x in self.tiles():
            out += np.einsum("ij,ij->j", x, x)
        return out

    @property
    def inner(self) -> np.ndarray:
        """X'X, (d, d)."""
        gram = np.zeros((self.dimension, self.dimension))
        for _, x in self.tiles():
            gram += x.T @ x
        return gram

    @property
    def outer(self) -> np.ndarray:
        """XX', (n, n)."""
        gram, step = np.zeros((len(self), len(self))), max(1, TILE // len(self))
        for start in range(0, self.dimension, step):
            go_on()
            x = self._part(slice(None), slice(start, start + step))
            gram += x @ x.T
        return gram

    @property
    def smaller_gram(self) -> np.ndarray:
        """X'X or XX', whichever is smaller: they have the same eigenvalues but for zeros."""
        return self.outer if len(self) < self.dimension else self.inner


def rank_tolerance(n: int, d: int) -> float:
    """Share of the largest eigenvalue of X'X up to which an eigenvalue is rounding: max(n, d) times float64's, but at least float32's squared."""
    return max(max(n, d) * 2.0**-52, 2.0**-44)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Thin singular value decomposition X = U S V', as far as columns Y need it.

    Attributes:
        eigenvalues: (k,) squared singular values above the tolerance, rising; k is the numerical rank.
        coordinates: (k, m), U'Y.
        trace: of X'X, the sum of all eigenvalues.
        shape: (n, d) of X.
    """

    eigenvalues: np.ndarray
    coordinates: np.ndarray
    trace: float
    shape: tuple[int, int]

    @property
    def rank(self) -> int:
        return len(self.eigenvalues)


@dataclass(frozen=True, eq=False)
class Basis:
    """The eigenvectors of the smaller of X'X and XX', and what is needed to take columns into them. It knows nothing of the columns.

    Attributes:
        rows: X.
        eigenvalues: (k,) of X'X above the tolerance, rising.
        vectors: (n, k) of XX' where there are fewer images than features, else (d, k) of X'X.
        trace: of X'X.
    """

    rows: Rows
    eigenvalues: np.ndarray
    vectors: np.ndarray
    trace: float

    def spectrum(self, columns: np.ndarray) -> Spectrum:
        """The thin decomposition as far as columns Y (n, m) need it."""
        shape = (len(self.rows), self.rows.dimension)
        if len(self.rows) < self.rows.dimension:
            return Spectrum(self.eigenvalues, self.vectors.T @ columns, self.trace, shape)
        product = np.zeros((self.rows.dimension, columns.shape[1]))
        for part, x in self.rows.tiles():
            product += x.T @ columns[part]
        return Spectrum(self.eigenvalues, self.vectors.T @ product / np.sqrt(self.eigenvalues)[:, None], self.trace, shape)


def basis(rows: Rows) -> Basis:
    """Eigenvalues above :func:`rank_tolerance` times the largest, and their vectors.

    By the eigenvalues of the smaller of X'X and XX', in float64: O(n d min(n, d)) and no copy of X. Squaring costs digits: a direction whose singular value is
    a share s of the largest is found to a relative 1e-16 / s², and from about s = 2.4e-7 (more for n above 256) down it counts as zero. Features in float32 say
    nothing about such directions.
    """
    gram = rows.smaller_gram
    trace = float(np.trace(gram))
    eigenvalues, vectors = np.linalg.eigh(gram)
    kept = eigenvalues > rank_tolerance(*rows.features.shape) * max(float(eigenvalues[-1]), 0.0)
    return Basis(rows, eigenvalues[kept], vectors[:, kept], trace)


def spectrum(rows: Rows, columns: np.ndarray) -> Spectrum:
    """:func:`basis` and its :meth:`Basis.spectrum`."""
    return basis(rows).spectrum(columns)
