"""A data set as transport measures see it: points in an order that depends on their content only, classes, weights, Gaussians of the classes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from simkit.embedding import Embedding, row_digests
from simkit.recipe import rng_for
from simkit.transport import Gaussian, exact_transport, exact_transport_seconds, gaussian_distances, gaussian_distances_seconds, gaussian_of, squared_distances
from simkit.transport.costs import Cloud
from simkit.transport.threads import each

__all__ = ["ClassWeights", "LabelCost", "LabelledCloud", "label_costs_seconds", "labelled_cloud", "sampled", "shared_label_costs", "single_image_flag"]

LabelCost = Literal["gaussian", "exact", "means", "none"]
ClassWeights = Literal["empirical", "balanced"]


@dataclass(frozen=True, eq=False)
class LabelledCloud:
    """A data set as transport measures see it.

    Attributes:
        name: of the data set.
        features: float32 (n, d), rows in the order of their content.
        labels: class index per row (0..K-1, classes without images left out); all 0 when labels play no part.
        classes: names of the classes.
        weights: mass per row, of sum 1.
        digest: of the rows, their partition into classes and their weights, whatever their order and the names of the classes.
        gaussians: mean and covariance factor per class (label costs "gaussian" and "means"; without factors for "means"), else ().
        rows: position of each row in the embedding.
        total: images in the embedding, of which ``len(rows)`` are taken.
    """

    name: str
    features: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    weights: np.ndarray
    digest: str
    gaussians: tuple[Gaussian, ...]
    rows: np.ndarray
    total: int
    _own: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def cloud(self) -> Cloud:
        """The weighted points."""
        return Cloud(self.features, self.labels, self.weights)

    @cached_property
    def counts(self) -> np.ndarray:
        """Images per class."""
        return np.bincount(self.labels, minlength=len(self.classes))

    @cached_property
    def priors(self) -> np.ndarray:
        """Mass per class, float64 (K,)."""
        return self.cloud.masses(len(self.classes))

    @property
    def single(self) -> list[str]:
        """Names of the classes with one image."""
        counts = [g.count for g in self.gaussians] if self.gaussians else self.counts
        return [name for name, count in zip(self.classes, counts, strict=True) if count == 1]

    def own_label_costs(self, label_cost: LabelCost) -> np.ndarray:
        """W between the classes of this data set, made once."""
        if label_cost not in self._own:
            self._own[label_cost] = shared_label_costs(self, self, label_cost)
        return self._own[label_cost]

    def in_order(self, values: np.ndarray) -> list[float | None]:
        """Values per row in the order of the embedding; None for images that were not taken."""
        out: list[float | None] = [None] * self.total
        for row, value in zip(self.rows.tolist(), values.tolist(), strict=True):
            out[row] = value
        return out


def labelled_cloud(
    view: Embedding, label_cost: LabelCost, *, class_weights: ClassWeights = "empirical", max_images: int | None = None, seed: int = 0,
) -> LabelledCloud:
    """The data set as transport measures see it.

    Args:
        view: the embedding.
        label_cost: which decides what is made of the classes; "none" ignores labels.
        class_weights: whether each image weighs the same, or each class.
        max_images: most images that are taken, by :func:`sampled`; everything else is made of them alone.
        seed: of the sample.
    """
    labels = np.zeros(len(view), dtype=np.int64)
    classes: tuple[str, ...] = ("all",)
    if view.labels is not None and label_cost != "none":
        present, labels = np.unique(view.labels, return_inverse=True)
        classes = tuple(view.classes[i] if i < len(view.classes) else str(i) for i in present)
    digests = row_digests(view.features)
    order = _content_order(digests, labels)
    labels = labels[order]
    if max_images is not None and len(view) > max_images:
        kept = sampled(_by_appearance(labels), max_images, rng_for("max_images", seed, _digest(digests[order], labels)))
        order = order[kept]
        left, labels = np.unique(labels[kept], return_inverse=True)  # a sample smaller than the number of classes loses some
        classes = tuple(classes[k] for k in left)
    features = view.features[order]
    gaussians: tuple[Gaussian, ...] = ()
    if view.labels is not None and label_cost in ("gaussian", "means"):
        make = gaussian_of if label_cost == "gaussian" else _mean_of
        gaussians = tuple(each(lambda k: make(features[labels == k]), range(len(classes))))
    counts = np.bincount(labels, minlength=len(classes))
    weights = np.full(len(labels), 1.0 / len(labels)) if class_weights == "empirical" else (1.0 / (len(classes) * counts))[labels]
    digest = f"{_digest(digests[order], labels)} {class_weights}"
    return LabelledCloud(view.name, features, labels, classes, weights, digest, gaussians, order, len(view))


def _content_order(digests: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """An order of the rows that depends on their content and on the partition into classes, whatever the order of reading and the names.

    Equal rows in two classes are ordered by the content of their classes.
    """
    content = [hashlib.sha256(np.sort(digests[labels == k]).tobytes()).digest() for k in range(int(labels.max()) + 1)]
    rank = np.unique(np.array(content, dtype="S32"), return_inverse=True)[1]
    return np.lexsort((rank[labels], digests))


def _digest(digests: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of the digests of rows in their order, and of their partition into classes."""
    partition = np.ascontiguousarray(_by_appearance(labels), dtype=np.int64).tobytes()
    return hashlib.sha256(digests.tobytes() + partition).hexdigest()


def _by_appearance(labels: np.ndarray) -> np.ndarray:
    """Classes numbered in the order in which they come up: the same whatever they are called."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse])


def _mean_of(rows: np.ndarray) -> Gaussian:
    return Gaussian(rows.mean(0, dtype=np.float64), np.empty((0, rows.shape[1])), 0.0, len(rows))


def sampled(labels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of a random sample of ``size`` rows in which the classes keep their shares (rounded; each keeps an image where ``size`` allows it)."""
    counts = np.bincount(labels)
    exact = counts * (size / len(labels))
    least = 1 if size >= (counts > 0).sum() else 0
    quota = np.minimum(counts, np.maximum(np.floor(exact), least)).astype(int)
    for k in np.argsort(quota - exact, kind="stable"):  # those that lost most by rounding first
        if quota.sum() < size and quota[k] < counts[k]:
            quota[k] += 1
    while quota.sum() > size:
        quota[np.argmax(np.where(quota > least, quota - exact, -np.inf))] -= 1
    drawn = rng.permutation(len(labels))
    return np.sort(np.concatenate([drawn[labels[drawn] == k][:q] for k, q in enumerate(quota)]))


def single_image_flag(cloud: LabelledCloud) -> str:
    """The flag of a data set with classes of one image."""
    names = ", ".join(cloud.single[:5]) + (f" and {len(cloud.single) - 5} more" if len(cloud.single) > 5 else "")
    return f"one image in class {names} of {cloud.name} (covariance taken as 0)"


def shared_label_costs(first: LabelledCloud, second: LabelledCloud, label_cost: LabelCost) -> np.ndarray:
    """W between the classes of two data sets (or of one: the same object twice), float64 (K1, K2), in squared feature units."""
    if label_cost == "none":
        return np.zeros((1, 1))
    if label_cost == "exact":
        return _exact_costs(first, second)
    return gaussian_distances(first.gaussians, second.gaussians)


def _exact_costs(first: LabelledCloud, second: LabelledCloud) -> np.ndarray:
    """Exact transport between the images of every pair of classes."""
    table = np.zeros((len(first.classes), len(second.classes)))
    rows = [first.features[first.labels == k] for k in range(len(first.classes))]
    columns = rows if first is second else [second.features[second.labels == k] for k in range(len(second.classes))]
    for k, x in enumerate(rows):
        for j in range(k + 1 if first is second else 0, len(columns)):
            table[k, j] = exact_transport(squared_distances(x, columns[j])).value
    return table + table.T if first is second else table


def label_costs_seconds(pairs: Sequence[tuple[LabelledCloud, LabelledCloud]], label_cost: LabelCost) -> float:
    """Predicted time of the label costs of some pairs of data sets on one core."""
    total = 0.0
    for first, second in pairs:
        half = 0.5 if first is second else 1.0
        if label_cost == "gaussian":
            ranks = [[len(g.factor) for g in one.gaussians] for one in (first, second)]
            total += half * gaussian_distances_seconds(ranks[0], ranks[1], first.features.shape[1])
        elif label_cost == "exact":
            total += half * sum(exact_transport_seconds(int(n), int(m)) + 1e-3 for n in first.counts for m in second.counts)
    return total
