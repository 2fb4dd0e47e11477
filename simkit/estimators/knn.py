"""k nearest neighbours, each image left out in turn: do images of a class lie together in the network's features?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from simkit.embedding import row_digests
from simkit.errors import NotEnoughData, ResourceError
from simkit.estimators.base import NetworkEstimator, Score
from simkit.estimators.label_permutations import aucs
from simkit.estimators.seen import Seen, joined
from simkit.registry import option
from simkit.transport.interruption import go_on

__all__ = ["Knn", "Neighbours", "class_credit", "nearest_rows", "one_against_rest", "votes"]

BLOCK = 2048
"""Rows a side of a block of distances."""

TIE = 1e-9
"""Distances that differ by less than this share are equal."""

MOST_CANDIDATES = 40_000_000
"""Pairs that may be the nearest and are kept until their distance is known exactly: about a gigabyte."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Votes of the nearest rows of each row; parallel arrays, one entry a vote.

    Attributes:
        rows: whose neighbour it is, ascending.
        others: the neighbour.
        distances: float64.
        shares: of the vote, adding up to one a row: 1 / k, and rows at the distance of the k-th share what the nearer ones leave.
    """

    rows: np.ndarray
    others: np.ndarray
    distances: np.ndarray
    shares: np.ndarray


def nearest_rows(x: np.ndarray, units: np.ndarray, k: int) -> Neighbours:
    """The k nearest rows of another unit, by Euclidean distance; exact, in O(n² d / 2) products and O(n k) memory beside a float32 copy.

    A search in float32 keeps every pair whose distance, with its error bound, may be among the k smallest; these are measured again in float64 from the
    differences. Distances are symmetric, so each block of them serves both its sides.

    Args:
        x: (n, d), finite.
        units: (n,) whole numbers; rows of one unit are no neighbours. At least k rows are of other units than any row.
        k: >= 1.

    Raises:
        ResourceError: so many distances are equal that the candidates do not fit in memory.
    """
    top = float(np.abs(x).max())
    scale = 2.0 ** -np.ceil(np.log2(top)) if top > 0 else 1.0  # a power of two: exact, and squares neither overflow nor vanish
    order = np.argsort(units, kind="stable")
    search = _Search(x, scale, order, units[order], k)
    rows, others = search.found()
    rows, others = order[rows], order[others]
    squared = np.concatenate([np.zeros(0), *(
        (((x[rows[a:b]].astype(np.float64) - x[others[a:b]]) * scale) ** 2).sum(1) for a, b in _pieces(len(rows), max(1, 2**21 // x.shape[1])))])
    return _shared(rows, others, np.sqrt(squared) / scale, k)


def _pieces(n: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, n, size):
        go_on()
        yield start, min(n, start + size)


def _shared(rows: np.ndarray, others: np.ndarray, distances: np.ndarray, k: int) -> Neighbours:
    """Candidates to votes."""
    order = np.lexsort((distances, rows))
    rows, others, distances = rows[order], others[order], distances[order]
    _, first, member = np.unique(rows, return_index=True, return_inverse=True)
    radius = distances[first + k - 1][member]
    nearer = distances < radius * (1.0 - TIE)
    tied = ~nearer & (distances <= radius * (1.0 + TIE))
    left = (k - np.bincount(member, nearer)) / np.bincount(member, tied)
    shares = np.where(nearer, 1.0, np.where(tied, left[member], 0.0)) / k
    kept = nearer | tied
    return Neighbours(rows[kept], others[kept], distances[kept], shares[kept])


class _Search:
    """Pairs of rows that may be among the k nearest, by lower and upper bounds of their squared distances.

    A float32 product of rows is off by at most c / 2 |x| |y| <= c / 4 (|x|² + |y|²), c = (d + 8) / 2^23 (Higham 2002, section 3.1, and rounding of rows);
    so |x - y|² lies within c (|x|² + |y|²) of what the products give.
    """

    def __init__(self, x: np.ndarray, scale: float, order: np.ndarray, units: np.ndarray, k: int) -> None:
        n, d = x.shape
        self.units, self.k = units, k
        centre = x.mean(0, dtype=np.float64)
        self.rows = np.empty((n, d), np.float32)
        for start, stop in _pieces(n, BLOCK):
            self.rows[start:stop] = (x[order[start:stop]] - centre) * scale
        squares = np.einsum("ij,ij->i", self.rows, self.rows, dtype=np.float64)
        self.slack = ((d + 8) * 2.0**-23 * squares).astype(np.float32)
        self.low = (squares - self.slack).astype(np.float32)
        self.best = np.full((n, k), np.inf, np.float32)  # the k smallest upper bounds so far
        self.kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.count = 0

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows, others) of all candidates, in the order of the search."""
        blocks = list(range(0, len(self.rows), BLOCK))
        for i, start in enumerate(blocks):  # a block with itself first: it gives the thresholds
            for other in blocks[i:]:
                go_on()
                self._block(start, other)
        rows, others, _ = self._narrowed()
        return rows, others

    def _block(self, start: int, other: int) -> None:
        a, b = slice(start, start + BLOCK), slice(other, other + BLOCK)
        lower = self.rows[a] @ self.rows[b].T
        lower *= np.float32(-2.0)
        lower += self.low[a, None]
        lower += self.low[b]
        if self.units[a][-1] >= self.units[b][0]:  # rows are in the order of their units
            lower[self.units[a][:, None] == self.units[b]] = np.inf
        self._keep(start, other, lower)
        if start != other:
            self._keep(other, start, lower.T)

    def _keep(self, start: int, other: int, lower: np.ndarray) -> None:
        """Adds the pairs of a block that may be among the k nearest of its rows."""
        size, width = lower.shape
        threshold = self.best[start:start + size].max(1)
        new = np.flatnonzero(np.isinf(threshold))
        if len(new) and width > self.k:  # no threshold yet: at least the k nearest of this block
            cut = np.partition(lower[new], self.k - 1, axis=1)[:, self.k - 1]
            threshold[new] = cut + 2.0 * (self.slack[start:start + size][new] + self.slack[other:other + width].max())
        within = lower <= threshold[:, None]
        if lower.flags.c_contiguous:
            i, j = np.divmod(np.flatnonzero(within), width)
        else:
            j, i = np.divmod(np.flatnonzero(within.T), size)
        value = lower[i, j]
        real = np.isfinite(value)
        i, j, value = i[real], j[real], value[real]
        upper = value + 2.0 * (self.slack[start + i] + self.slack[other + j])
        self._lower_thresholds(start + i, upper)
        self.kept.append(((start + i).astype(np.int32), (other + j).astype(np.int32), value))
        self.count += len(i)
        if self.count > MOST_CANDIDATES:
            self._narrowed()
            if self.count > MOST_CANDIDATES // 2:
                message = f"{self.count} pairs of {len(self.rows)} images may be among the {self.k} nearest: nearly all distances are equal"
                raise ResourceError("SK301", "knn", message, "give features that tell images apart, or fewer images")

    def _lower_thresholds(self, rows: np.ndarray, upper: np.ndarray) -> None:
        if not len(rows):
            return
        order = np.lexsort((upper, rows))
        rows, upper = rows[order], upper[order]
        which, first, count = np.unique(rows, return_index=True, return_counts=True)
        place = np.arange(len(rows)) - np.repeat(first, count)
        near = place < self.k
        new = np.full((len(which), self.k), np.inf, np.float32)
        new[np.repeat(np.arange(len(which)), count)[near], place[near]] = upper[near]
        self.best[which] = np.partition(np.concatenate([self.best[which], new], axis=1), self.k - 1, axis=1)[:, :self.k]

    def _narrowed(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The candidates that are still within the thresholds; the others are dropped."""
        threshold = self.best.max(1)
        self.kept = [(rows[good], others[good], value[good]) for rows, others, value in self.kept for good in [value <= threshold[rows]]]
        rows, others, value = (np.concatenate(part) for part in zip(*self.kept, strict=True))
        self.kept, self.count = [(rows, others, value)], len(rows)
        return rows, others, value


def votes(near: Neighbours, labels: np.ndarray, classes: int) -> np.ndarray:
    """Share of each class among the neighbours of each row, float64 (n, C)."""
    n = len(labels)
    place = near.rows.astype(np.int64) * classes + labels[near.others]
    return np.asarray(np.bincount(place, near.shares, n * classes).reshape(n, classes))


def class_credit(near: Neighbours, shares: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How much of each row's answer is right, float64 (n,) of 0..1.

    The class with the most votes is the answer; of classes with equally many, that of the nearest neighbour; of classes that are equally near as
    well, each has an equal part. So neither the order of images nor the order of classes decides.

    Args:
        near: the neighbours.
        shares: :func:`votes` of them.
        labels: (n,).
    """
    n, classes = shares.shape
    first = shares >= shares.max(1, keepdims=True) - 1e-9
    credit = first[np.arange(n), labels].astype(np.float64)
    open_ = np.flatnonzero(first.sum(1) > 1)
    if len(open_):
        number = np.full(n, -1)
        number[open_] = np.arange(len(open_))
        part = number[near.rows] >= 0
        distance = np.full((len(open_), classes), np.inf)
        np.minimum.at(distance, (number[near.rows[part]], labels[near.others[part]]), near.distances[part])
        distance[~first[open_]] = np.inf
        nearest = distance <= distance.min(1, keepdims=True) * (1.0 + TIE)
        credit[open_] = nearest[np.arange(len(open_)), labels[open_]] / nearest.sum(1)
    return np.asarray(credit)


def one_against_rest(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes of the area under the ROC curve of a class against all others, by its column of the scores; each class has images."""
    classes = np.unique(labels)
    found = []
    for start in range(0, len(classes), 64):  # columns at a time: memory
        some = classes[start:start + 64]
        found.append(aucs(scores[:, some], labels[:, None] == some))
    return float(np.concatenate(found).mean())


@dataclass(frozen=True)
class Knn(NetworkEstimator):
    """How often the nearest neighbours of an image, in the features of the source's network, are of its own class; each image is left out in turn.

    ``report`` chooses the value; all three stand in the detail. ``accuracy``: share of images that the vote of their k neighbours puts in their own class;
    ``balanced-accuracy``: mean over the classes of that share; ``auc``: mean over the classes of the area under the ROC curve of the class against all
    others, scored by its share of the votes. All lie in 0 to 1. Zero accuracy: no image is put in its class. With many independent images chance gives an
    accuracy of about the sum of squared shares of the classes, a balanced accuracy of 1 / C and an AUC of 0.5; with few patients, who never vote for
    themselves, it gives less: read the value of shuffled labels.

    Each of the k nearest has 1 / k of the vote (Fix and Hodges 1951; Cover and Hart 1967, equation 2). Images at the distance of the k-th share what
    nearer ones leave. Of classes with equally many votes the one with the nearest neighbour counts; of classes that are equally near as well each has an equal
    part. (scikit-learn takes the class whose name comes first: then renaming the classes moves the value.) k = 5: with k = 1 the AUC knows two levels
    only, and large k can never vote for a small class.

    An image is no neighbour of itself, nor of images of its group (patient) where groups exist; without groups, nor of images with the same features, which are
    copies: they would only show that a copy has the label of its original. Copies are counted in the detail.

    ``euclidean`` distances are not moved by a shift or rotation of the features, nor by one scale for all; ``cosine`` (1 - x'y / (|x| |y|)) not by a scale for
    each image, but by a shift.

    Cost: n² d operations, exact: some 0.1 s at n = 2,000, d = 512; memory is a float32 copy of the features.
    """

    name = "knn"
    bounds = (0.0, 1.0)
    version = 1
    unit = "share of images in their own class (0 to 1)"
    formula = "(1/n) Σ_i [the most frequent class among the k nearest of i is y_i]"
    hazards = (
        "Chance depends on the classes' shares: with 90 % of one class an accuracy of .9 says nothing. Take `report = balanced-accuracy` or `report = auc`.",
        "Without groups, other images of the same patient are neighbours and lift it: give groups.",
        "Distances follow the features' scale: one feature of large scale decides. `metric = cosine` takes out the length of each row only.",
        "Classes with fewer than about k / 2 images can hardly win a vote.",
    )
    citation = ("Cover and Hart 1967, Nearest neighbor pattern classification, equation 2; as a score of networks: Sorkhei et al. 2025 (arXiv 2503.18528), "
                "Renggli et al. 2022, Which model to transfer?")

    neighbours: int = option(5, "k, the number of neighbours that vote", minimum=1)
    metric: Literal["euclidean", "cosine"] = option("euclidean", "distance between features: Euclidean, or one minus the cosine")
    report: Literal["accuracy", "balanced-accuracy", "auc"] = option("accuracy", "the value: accuracy, balanced accuracy, or one-against-rest AUC")

    def __post_init__(self) -> None:
        if self.report == "balanced-accuracy":
            object.__setattr__(self, "unit", "mean over classes of the share in their own class (0 to 1)")
        elif self.report == "auc":
            object.__setattr__(self, "unit", "area under the ROC curve, mean over classes (0.5: chance)")

    def assess(self, seen: Seen, rng: np.random.Generator) -> Score:
        """Accuracy, balanced accuracy and AUC; ``rng`` is not used.

        Raises:
            NotEnoughData: an image has fewer than k others outside its group (SK501); an image has no direction, for the cosine (SK502).
            ResourceError: nearly all distances are equal (SK301).
        """
        assert seen.labels is not None
        copies, near = seen.once("nearest", lambda: self._nearest(seen))
        classes = len(seen.classes)
        shares = votes(near, seen.labels, classes)
        credit = class_credit(near, shares, seen.labels)
        counts = np.bincount(seen.labels, minlength=classes)
        recall = np.bincount(seen.labels, credit, classes)[counts > 0] / counts[counts > 0]
        values = {"accuracy": float(credit.mean()), "balanced-accuracy": float(recall.mean()), "auc": one_against_rest(shares, seen.labels)}
        detail: dict[str, Any] = {
            **{name.replace("-", "_"): value for name, value in values.items()}, "n": len(seen), "d": seen.dimension, "classes": int((counts > 0).sum()),
            "neighbours": self.neighbours, "metric": self.metric, "copies": copies, "groups": len(set(seen.groups)) if seen.groups else None,
            "tied_votes": int((credit % 1.0 != 0).sum()),
        }
        return Score(values[self.report], detail=detail, flags=self._flags(counts[counts > 0], copies, len(seen)))

    def _nearest(self, seen: Seen) -> tuple[int, Neighbours]:
        """How many images are copies of another, and the neighbours of each."""
        copies, units = self._units(seen)
        return copies, nearest_rows(self._rows(seen), units, self.neighbours)

    def _units(self, seen: Seen) -> tuple[int, np.ndarray]:
        """(number of images with the same features as an image before, unit of each row)."""
        _, same = np.unique(row_digests(seen.features), return_inverse=True)
        copies = len(same) - int(same.max()) - 1
        units = joined(seen.units, same)
        largest = np.bincount(units)
        others = len(units) - int(largest.max())
        if others < self.neighbours:
            which = f"group '{seen.groups[int(np.argmax(units == largest.argmax()))]}'" if seen.groups else "an image and its copies"
            message = f"outside {which} ({largest.max()} of {len(units)} images) there are {others} images, {self.neighbours} neighbours were asked for"
            fix = f"set neighbours to at most {others}" if others else "give images that differ, of more than one group"
            raise NotEnoughData("SK501", f"{self.name}: {seen.target}", message, fix)
        return copies, np.asarray(units)

    def _rows(self, seen: Seen) -> np.ndarray:
        """What Euclidean distances are taken of: the features, or for the cosine their directions, whose squared distance is twice 1 - cosine."""
        if self.metric == "euclidean":
            return np.asarray(seen.features)
        top = np.abs(seen.features).max(1).astype(np.float64)
        if not top.all():
            message = f"the features of {int((top == 0).sum())} of {len(top)} images are all 0: they have no cosine"
            raise NotEnoughData("SK502", f"{self.name}: {seen.target}", message, "set metric = euclidean, or leave these images out")
        out = seen.features / top[:, None]
        out /= np.sqrt((out**2).sum(1))[:, None]
        return np.asarray(out)

    def _flags(self, counts: np.ndarray, copies: int, n: int) -> tuple[str, ...]:
        flags = []
        small = int((2 * (counts - 1) < self.neighbours).sum())
        if small:
            flags.append(f"{small} of {len(counts)} classes have too few images ({counts.min()} at least) to win a vote of {self.neighbours}")
        if 20 * copies > n:
            flags.append(f"{copies} of {n} images have the same features as another")
        return tuple(flags)
