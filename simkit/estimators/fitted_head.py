"""A head for sources without a network: k nearest neighbours or logistic regression, fitted to the source in the common space of features."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Literal

import numpy as np

from simkit.embedding import Embedding
from simkit.errors import DataError, NotEnoughData
from simkit.estimators.base import NetworkEstimator, Score
from simkit.estimators.neighbour_classifier import neighbour_shares
from simkit.estimators.seen import Seen
from simkit.estimators.subsamples import exchanged
from simkit.registry import option
from simkit.transport.interruption import go_on

__all__ = ["HeadEstimator", "HeadRows", "LogisticHead", "fitted_logistic", "logistic_probabilities", "neighbour_probabilities"]

ENTRIES = 2**23
"""Distances between source and target that are held at a time."""

ITERATIONS = 2000
"""Of the logistic head, at most."""

ROWS = 4096
"""Target images whose probabilities a logistic head gives at a time."""


def neighbour_probabilities(source: np.ndarray, labels: np.ndarray, target: np.ndarray, neighbours: int | None) -> tuple[np.ndarray, int]:
    """(probabilities (m, C_s), k): the share of each source class among the k nearest source images of each target image.

    Distances and ties as :func:`~simkit.estimators.neighbour_classifier.neighbour_shares`. Shares are not smoothed: LEEP and NCE take no logarithm of
    a probability of the head, only of mixtures that are positive. O(n m d) time, tiles of some 64 MiB a copy.

    Args:
        source: (n, d).
        labels: class index of each source image, 0..C_s-1.
        target: (m, d).
        neighbours: k, at most n; None: the whole part of the root of n.
    """
    one_hot = np.eye(int(labels.max()) + 1)[labels]
    out, k = np.empty((len(target), one_hot.shape[1])), 0
    step = max(16, ENTRIES // len(source))
    for start in range(0, len(target), step):
        go_on()
        shares, k = neighbour_shares(source, target[start : start + step], neighbours)
        out[start : start + step] = shares @ one_hot
    return out / out.sum(1, keepdims=True), k


@dataclass(frozen=True, eq=False)
class LogisticHead:
    """Multinomial logistic regression on standardised features.

    Attributes:
        mean: (d,) of the source's features.
        scale: (d,) one over their spread; 0 for a feature that is constant.
        weights: (C_s, d).
        intercepts: (C_s,).
        converged: whether the solver met its tolerance.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercepts: np.ndarray
    converged: bool


def fitted_logistic(source: np.ndarray, labels: np.ndarray, penalty: float) -> LogisticHead:
    """The minimum of mean cross-entropy + penalty / 2 |w|² over the source's images, by scikit-learn's L-BFGS.

    Features are standardised by the source's images; one whose spread is below 1e-6 of its size is constant and left out.

    Args:
        source: (n, d).
        labels: class index of each image; two classes at least.
        penalty: > 0.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, spread = source.mean(0, dtype=np.float64), source.std(0, dtype=np.float64)
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-6 * np.abs(mean))
    model = LogisticRegression(C=1.0 / (penalty * len(source)), tol=1e-6, max_iter=ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((source - mean) * scale, labels)
    converged = int(np.max(model.n_iter_)) < model.max_iter  # not by the warning: threads share what catches warnings
    weights, intercepts = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(weights) == 1:  # two classes: the log-odds of the second, shared out between both
        weights, intercepts = np.concatenate([-weights / 2, weights / 2]), np.concatenate([-intercepts / 2, intercepts / 2])
    return LogisticHead(mean, scale, weights, intercepts, converged)


def logistic_probabilities(head: LogisticHead, target: np.ndarray) -> np.ndarray:
    """Softmax of the head's outputs, float64 (m, C_s)."""
    out = np.empty((len(target), len(head.intercepts)))
    for start in range(0, len(target), ROWS):
        go_on()
        logits = ((target[start : start + ROWS] - head.mean) * head.scale) @ head.weights.T + head.intercepts
        powers = np.exp(logits - logits.max(1, keepdims=True))
        out[start : start + ROWS] = powers / powers.sum(1, keepdims=True)
    return out


@dataclass(frozen=True, eq=False)
class HeadRows:
    """A labelled data set in the common space, rows in the order of their content, and the logistic head that is fitted to it when first asked for.

    Attributes:
        name: of the data set.
        features: float32 (n, d).
        labels: class index, int64 (n,), classes numbered by their first row and all present.
        classes: number of classes.
        digests: of each row.
        units: what tells independent images apart (see ``Seen.units``).
        last: measure -> the last source whose head looked at these images, and what it gave; copies with other labels share it.
    """

    name: str
    features: np.ndarray
    labels: np.ndarray
    classes: int
    digests: np.ndarray
    units: np.ndarray
    last: dict[Any, Any] = field(default_factory=dict, repr=False)
    _fitted: dict[float, LogisticHead] = field(default_factory=dict, repr=False)
    _lock: Any = field(default_factory=Lock, repr=False)

    def __len__(self) -> int:
        return len(self.features)

    def __getstate__(self) -> dict[str, Any]:  # a lock does not travel
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in {**state, "_lock": Lock()}.items():
            object.__setattr__(self, name, value)

    def logistic(self, penalty: float) -> LogisticHead:
        """The logistic head, fitted once, also when threads ask."""
        with self._lock:
            if penalty not in self._fitted:
                self._fitted[penalty] = fitted_logistic(self.features, self.labels, penalty)
            return self._fitted[penalty]


@dataclass(frozen=True)
class HeadEstimator(NetworkEstimator):
    """A measure of the target's labels against the probabilities of the source's head: of its network, or one that is fitted to its features.

    With ``head = "network"`` it reads the network view; with ``knn`` or ``logistic`` two embeddings in one common space (``view`` of the instance).
    """

    name = ""
    reads = ("probabilities",)

    head: Literal["network", "knn", "logistic"] = option(
        "network", "network: of the source's network; knn, logistic: fitted to the source's features in the common space (simkit's own)")
    neighbours: int | None = option(None, "k of head = knn; nothing: the root of the number of source images", minimum=1)
    penalty: float = option(0.01, "of head = logistic: mean cross-entropy + penalty / 2 |w|², on standardised features", above=0.0)

    def __post_init__(self) -> None:
        if self.head != "network":
            object.__setattr__(self, "view", "embedding")
            object.__setattr__(self, "reads", ())

    def score_of(self, probabilities: np.ndarray, labels: np.ndarray, *, target: str) -> Score:
        """The measure from the head's probabilities on the target (n, C_s) and the target's labels (n,), classes 0..C-1 all present."""
        raise NotImplementedError

    def assess(self, seen: Seen, rng: np.random.Generator) -> Score:
        """The score from the probabilities of the network's head; ``rng`` is not used.

        Raises:
            NotEnoughData: one class (SK501).
        """
        assert seen.probabilities is not None
        assert seen.labels is not None
        score = self.score_of(seen.probabilities, seen.labels, target=seen.target)
        return Score(score.value, detail={**score.detail, "d": seen.dimension, "head": "network"}, flags=score.flags)

    def summarize(self, view: Embedding) -> HeadRows:
        """Rows in the order of their content, with their classes; the head is fitted when the data set is first a source.

        Raises:
            DataError: no labels (SK208), NaN or infinite features (SK210).
            NotEnoughData: one class (SK501).
        """
        if view.labels is None:
            raise DataError("SK208", view.name, f"{self.name} needs labels, '{view.name}' has none", "give labels (a folder per class, or a label column)")
        one = Seen(view.features, view.labels, view.classes, groups=view.groups, source=view.name, target=view.name).canonical
        assert one.labels is not None
        if len(one.classes) < 2:
            raise NotEnoughData("SK501", view.name, f"{self.name} needs at least two classes, '{view.name}' has one", "check the label column, or leave it out")
        return HeadRows(view.name, one.features, one.labels, len(one.classes), one.digests, one.units)

    def label_shuffled(self, summary: HeadRows, rng: np.random.Generator) -> HeadRows:
        """The target with its labels exchanged."""
        return replace(summary, labels=summary.labels[exchanged(summary.units, rng)])

    def compare(self, source: HeadRows, target: HeadRows, rng: np.random.Generator) -> Score:
        """The score of the target's labels by the head of the source; ``rng`` is not used.

        Raises:
            NotEnoughData: more neighbours than source images (SK501).
        """
        probabilities, converged, fitted = self._given(source, target)
        score = self.score_of(probabilities, target.labels, target=target.name)
        detail = {**score.detail, "n": (len(source), len(target)), "classes": (source.classes, target.classes), "d": int(source.features.shape[1]),
                  "head": self.head, **fitted}
        flags = score.flags if converged else (*score.flags, "not converged: the logistic head")
        shared = int(np.isin(target.digests, source.digests).sum())
        if shared:
            detail["shared_images"] = shared
            flags = (*flags, f"{shared} of {len(target)} target images are in the source: its head was fitted to them")
        return Score(score.value, converged, detail, flags=flags)

    def _given(self, source: HeadRows, target: HeadRows) -> tuple[np.ndarray, bool, dict[str, Any]]:
        """Probabilities of the target's images, whether the head converged, and what was fitted; kept for the last source, for shuffled labels to share."""
        last = target.last.get(self)
        if last is None or last[0] is not source:
            target.last[self] = last = (source, *self._made(source, target))
        return last[1], last[2], last[3]

    def _made(self, source: HeadRows, target: HeadRows) -> tuple[np.ndarray, bool, dict[str, Any]]:
        converged, fitted = True, dict[str, Any]()
        if self.head == "knn":
            if self.neighbours is not None and self.neighbours > len(source):
                message = f"{self.neighbours} neighbours of {len(source)} images of '{source.name}'"
                raise NotEnoughData("SK501", self.name, message, f"set neighbours to at most {len(source)}, or leave it out (the root of the number)")
            probabilities, fitted["neighbours"] = neighbour_probabilities(source.features, source.labels, target.features, self.neighbours)
        else:
            head = source.logistic(self.penalty)
            probabilities, converged, fitted["penalty"] = logistic_probabilities(head, target.features), head.converged, self.penalty
        return probabilities, converged, fitted
