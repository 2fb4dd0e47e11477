"""Features reduced to fewer dimensions: principal components common to several data sets, or a random projection."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from simkit.embedding import Embedding, release
from simkit.errors import NotEnoughData, ResourceError, UsageError
from simkit.recipe import digest, recipe_of, rng_for
from simkit.registry import option

__all__ = ["Fitted", "Projection", "projection_of"]

Method = Literal["pca", "random"]

PART_BYTES = 2**26
"""Rows are taken in parts of so many bytes (in float64)."""

LARGEST_MATRIX = 2**32
"""Bytes of the matrix whose eigenvalues are sought, at most."""


@dataclass(frozen=True)
class Projection:
    """A linear map of features to k dimensions, the same for every data set that is compared.

    ``pca``: the k directions of largest variance of all data sets that it is fitted on. Each data set weighs the same, whatever its size:
    the centre is the mean of the data sets' means, the covariance the mean over data sets of ``E[(x - centre)(x - centre)^T]`` (divided by
    n), so it holds the differences between data sets too. Features are centred there and not scaled, unless ``whiten`` divides each
    by its standard deviation. The largest coefficient of every direction is positive. The order of data sets and rows plays no part, up to rounding.

    ``random``: ``x R / sqrt(k)`` with R standard normal (d, k): squared distances are kept in expectation, and within 1 +- e for all of n images
    when k is about ``8 ln(n) / e^2`` (Johnson and Lindenstrauss 1984; Dasgupta and Gupta 2003, doi:10.1002/rsa.10073). It sees no data.

    Attributes:
        method: "pca" or "random".
        dimensions: k.
        seed: of the random projection.
        whiten: every principal component has variance 1 over the data sets that it was fitted on.

    Raises:
        UsageError: an unknown method, k < 1, or ``whiten`` with a random projection.
    """

    name = "projection"
    version = 1

    method: Method = option("pca", "pca (principal components of all data sets together, each weighing the same) or random (Gaussian)")
    dimensions: int = option(64, "number of dimensions k", minimum=1)
    seed: int = option(0, "of the random projection", minimum=0)
    whiten: bool = option(False, "principal components are scaled to variance 1")

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise UsageError("SK102", "projection.method", f"'{self.method}' is not a projection", 'give "pca" or "random"')
        if self.dimensions < 1:
            raise UsageError("SK102", "projection.dimensions", f"{self.dimensions} dimensions", "give an integer >= 1")
        if self.whiten and self.method == "random":
            raise UsageError("SK102", "projection.whiten", "a random projection knows no variances to divide by", 'leave whiten out, or take method "pca"')

    def __str__(self) -> str:
        """As it is written: "pca:64"."""
        return f"{self.method}:{self.dimensions}"

    def fit(self, embeddings: Sequence[Embedding]) -> Fitted:
        """The projection in the common space of some embeddings.

        Memory-mapped features are read in parts (twice, for principal components), and never copied whole.

        Raises:
            UsageError: no embeddings, embeddings of different extractors, or more dimensions than there are features.
            NotEnoughData: more principal components than the images have; the message says how many they have.
            ResourceError: the covariance would not fit into memory.
        """
        if not embeddings:
            raise UsageError("SK104", str(self), "there are no embeddings to fit the projection on", "give one at least")
        first = embeddings[0]
        for other in embeddings[1:]:
            _same_space(first.extractor, first.dimension, first.name, other)
        if self.dimensions > first.dimension:
            message = f"{self.dimensions} dimensions of features that have {first.dimension}"
            raise UsageError("SK102", str(self), message, f"give {first.dimension} at most, or no projection")
        names = tuple(embedding.name for embedding in embeddings)
        if self.method == "random":
            rng = rng_for("projection", "random", first.dimension, self.dimensions, self.seed)
            matrix = rng.standard_normal((first.dimension, self.dimensions)) / math.sqrt(self.dimensions)
            space = digest([first.extractor, recipe_of(self)])
            return Fitted(self, np.zeros(first.dimension), matrix, first.extractor, space, names, None)
        return self._principal(embeddings, names)

    def _principal(self, embeddings: Sequence[Embedding], names: tuple[str, ...]) -> Fitted:
        looked = [_content(embedding.features) for embedding in embeddings]
        order = sorted(range(len(embeddings)), key=lambda i: looked[i][0])  # sums do not depend on the order in which data sets are named
        sets = [embeddings[i].features for i in order]
        centre = np.mean([looked[i][1] for i in order], axis=0)
        variances, directions = _principal_axes(sets, centre, str(self))
        threshold = variances[0] * max(centre.size, sum(map(len, sets))) * np.finfo(np.float64).eps
        rank = int((variances > threshold).sum())
        if self.dimensions > rank:
            message = f"the {sum(map(len, sets))} images of {', '.join(names)} vary in {rank} dimensions only"
            fix = f"give pca:{rank} at most, or random:{self.dimensions}" if rank else "the images all have the same features: give no projection"
            raise NotEnoughData("SK501", str(self), message, fix)
        kept = directions[:, : self.dimensions]
        largest = kept[np.abs(kept).argmax(axis=0), np.arange(self.dimensions)]
        matrix = kept * np.sign(largest)
        if self.whiten:
            matrix = matrix / np.sqrt(variances[: self.dimensions])
        space = digest([embeddings[0].extractor, recipe_of(self), [looked[i][0] for i in order]])
        share = float(variances[: self.dimensions].sum() / variances[:rank].sum())
        return Fitted(self, centre, matrix, embeddings[0].extractor, space, names, share)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A projection that knows its space.

    Attributes:
        projection: the options.
        centre: taken off the features, float64 (d,); zeros for a random projection.
        matrix: float64 (d, k); ``(x - centre) @ matrix`` are the new features.
        extractor: digest of the extractor whose features it takes.
        space: digest of that extractor, the options and, for principal components, the content of the features it was fitted on.
        names: of the data sets that it was fitted on.
        explained: share of the variance that the k principal components hold, 0..1; None for a random projection.
    """

    projection: Projection
    centre: np.ndarray
    matrix: np.ndarray
    extractor: str
    space: str
    names: tuple[str, ...]
    explained: float | None

    @property
    def line(self) -> str:
        """One line of text: dimensions, share of the variance, data sets."""
        before, after = self.matrix.shape
        head = f"projection {self.projection}: {before} features to {after} dimensions"
        if self.explained is None:
            return f"{head}, random directions (seed {self.projection.seed}), independent of the data"
        weights = " (each weighs the same)" if len(self.names) > 1 else ""
        scaled = ", scaled to variance 1" if self.projection.whiten else ""
        return f"{head} that hold {100 * self.explained:.1f} % of the variance of {', '.join(self.names)}{weights}{scaled}"

    def apply(self, embedding: Embedding) -> Embedding:
        """The embedding in the space of the projection; labels, groups and keys stay.

        Raises:
            UsageError: it comes from another extractor than those that the projection was fitted on.
        """
        _same_space(self.extractor, len(self.matrix), ", ".join(self.names), embedding)
        out = np.empty((len(embedding), self.matrix.shape[1]), dtype=np.float32)
        start = 0
        for part in _parts(embedding.features):
            out[start : start + len(part)] = (part - self.centre) @ self.matrix
            start += len(part)
        return replace(embedding, features=out, extractor=self.space)


def projection_of(text: str | None, where: str) -> Projection | None:
    """From what a user writes: "pca:64" or "random:128"; None and "" are no projection.

    Raises:
        UsageError: any other text, naming ``where``.
    """
    if text is None or text == "":
        return None
    found = re.fullmatch(r"(pca|random):(\d{1,9})", text)
    if found is None or int(found[2]) < 1:
        raise UsageError("SK102", where, f"'{text}' is not a projection", "give pca:K or random:K with the number of dimensions, such as pca:64")
    return Projection("pca" if found[1] == "pca" else "random", int(found[2]))


def _same_space(extractor: str, dimension: int, name: str, other: Embedding) -> None:
    if other.extractor != extractor or other.dimension != dimension:
        message = f"its features come from another extractor than those of {name} ({other.dimension} and {dimension} features)"
        raise UsageError("SK109", other.name, message, "embed all data sets with one extractor")


def _parts(features: np.ndarray) -> Iterator[np.ndarray]:
    """The rows in float64, some at a time; pages of a memory map are given back."""
    size = max(1, PART_BYTES // (8 * features.shape[1]))
    for start in range(0, len(features), size):
        yield features[start : start + size].astype(np.float64)
        release(features)


def _content(features: np.ndarray) -> tuple[str, np.ndarray]:
    """SHA-256 of the features, and their mean, float64 (d,)."""
    sha = hashlib.sha256(f"{features.shape}".encode())
    total = np.zeros(features.shape[1])
    for part in _parts(features):
        sha.update(part.astype(np.float32).tobytes())
        total += part.sum(axis=0)
    return sha.hexdigest(), total / len(features)


def _principal_axes(sets: Sequence[np.ndarray], centre: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Variances, falling, (r,) and directions, float64 (d, r): eigenvectors of the covariance, or singular vectors of the rows where those are fewer."""
    count, dimension = sum(map(len, sets)), centre.size
    bytes_needed = 8 * dimension * min(count, dimension)
    if bytes_needed > LARGEST_MATRIX:
        sizes = f"{bytes_needed / 2**30:.1f} GiB, at most {LARGEST_MATRIX / 2**30:.1f} are taken"
        message = f"principal components of {dimension} features need a matrix of {sizes}"
        raise ResourceError("SK301", where, message, "give random:K, or an extractor of fewer features")
    if count < dimension:
        rows = np.concatenate([(part - centre) / math.sqrt(len(sets) * len(features)) for features in sets for part in _parts(features)])
        _, values, axes = np.linalg.svd(rows, full_matrices=False)
        return values**2, axes.T
    covariance = np.zeros((dimension, dimension))
    for features in sets:
        weight = 1 / (len(sets) * len(features))
        for part in _parts(features):
            part -= centre
            covariance += weight * (part.T @ part)
    variances, directions = np.linalg.eigh(covariance)
    return np.maximum(variances[::-1], 0.0), directions[:, ::-1]
