"""The images by which two data sets are told apart: what a cross-validated classifier gives to images that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simkit.embedding import Embedding, row_digests
from simkit.estimators.domain_classifier import DomainClassifier
from simkit.estimators.linear_classifier import Features, TrainingRows, balanced_weights, fit_linear
from simkit.estimators.neighbour_classifier import neighbour_shares
from simkit.explanation.results import ImageScore, ToldApart
from simkit.recipe import rng_for

__all__ = ["SHOWN", "told_apart"]

SHOWN = 8
"""Images of a row of pictures."""


@dataclass(frozen=True)
class _Witness(DomainClassifier):
    """The domain classifier, which also keeps its decision on each held-out image, in the order of its rows."""

    kept: dict[int, np.ndarray] = field(default_factory=dict)

    def _linear_fold(self, features: Features, pair: Any, train: np.ndarray, test: np.ndarray) -> tuple[float, float, float, bool]:
        found = super()._linear_fold(features, pair, train, test)
        side = pair.side[train]
        weights = balanced_weights(side)
        rows = TrainingRows(features, train, weights)
        fit = fit_linear(rows, side, weights[:, None], np.array([found[2] * pair.rows.shape[1]]), self._loss, exact=True)
        self.kept[len(self.kept)] = _placed((rows.everywhere(fit.coefficients) + fit.intercepts)[test, 0], test)
        return found

    def _neighbour_fold(self, pair: Any, train: np.ndarray, test: np.ndarray) -> tuple[float, float, int, bool]:
        shares, _ = neighbour_shares(pair.rows[train], pair.rows[test], self.neighbours)
        self.kept[len(self.kept)] = _placed(shares @ pair.side[train].astype(np.float64) - pair.side[train].mean(), test)
        return super()._neighbour_fold(pair, train, test)


def _placed(values: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Values of the held-out rows, NaN elsewhere."""
    out = np.full(len(test), np.nan)
    out[test] = values
    return out


def told_apart(source: Embedding, target: Embedding, *, seed: int, options: dict[str, Any] | None = None) -> ToldApart:
    """Decisions of the domain classifier on images that it was not trained on, and those images that are worth a look.

    Patients (groups) are never in training and test at once, and show one image each among the pictures.

    Args:
        source, target: embeddings with keys.
        seed: of the permutations.
        options: of the domain classifier.

    Raises:
        NotEnoughData: fewer than 10 images on a side, or fewer groups than folds (SK501).
    """
    witness = _Witness(**(options or {}))
    rows = witness.summarize(source), witness.summarize(target)
    score = witness.tested(*rows, rng_for("explanation", seed, "domain classifier"))
    stack = np.stack([witness.kept[k] for k in sorted(witness.kept)][: witness.folds])
    fold = np.argmax(np.isfinite(stack), axis=0)
    decision = stack[fold, np.arange(stack.shape[1])]
    swapped = rows[0].digest > rows[1].digest  # the side of the smaller digest comes first
    if swapped:
        decision = -decision
    scores: list[ImageScore] = []
    start = len(target) if swapped else 0
    for side, view, at in (("source", source, start), ("target", target, 0 if swapped else len(source))):
        order = np.argsort(row_digests(view.features), kind="stable")
        for place, row in enumerate(order.tolist()):
            label = view.classes[int(view.labels[row])] if view.labels is not None else ""
            scores.append(ImageScore(side, view.keys[row], label, view.groups[row] if view.groups else "", float(decision[at + place]), int(fold[at + place])))
    sign = {"source": -1.0, "target": 1.0}
    detail = score.detail
    return ToldApart(
        float(detail["auc"]), tuple(float(one) for one in detail["fold_auc"]), score.p, tuple(scores),
        _chosen(scores, lambda s: -sign[s.side] * s.decision), _chosen(scores, lambda s: abs(s.decision)),
        _chosen(scores, lambda s: sign[s.side] * s.decision), score.flags)


def _chosen(scores: Sequence[ImageScore], rank: Callable[[ImageScore], float]) -> dict[str, tuple[ImageScore, ...]]:
    """Side -> its first images by rank, one of each group."""
    out = {}
    for side in ("source", "target"):
        used: set[str] = set()
        found: list[ImageScore] = []
        for one in sorted((s for s in scores if s.side == side), key=lambda s: (rank(s), s.key)):
            if one.group and one.group in used:
                continue
            used.add(one.group)
            found.append(one)
            if len(found) == SHOWN:
                break
        out[side] = tuple(found)
    return out
