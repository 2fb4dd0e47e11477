"""Predicts how sources rank on a target from scores and from other targets, and says how well that worked on targets it had not seen.

Everything is in normal scores of ranks within a target, the normal quantile of (rank - 1/2) / n with mid-ranks: units of a measure and the
difficulty of a target do not matter, nothing is pooled raw, and errors are alike at the ends of an order and in its middle. N rows are the
past pairs of sources and targets, S sources, T past targets, C candidates of the new target, M measures, K ways to combine.

A way to combine turns the features of a pair into the score of its performance by scikit-learn's ridge regression without intercept. Ways of one feature
have a slope of at least 0 (measures are oriented, so a negative slope is chance) and order the sources by the feature itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from simkit.correlation.statistics import spearman

__all__ = [
    "ALPHAS", "FEWEST_TARGETS", "WAYS", "Choice", "Learner", "LeftOut", "Rows", "chosen_ways", "fitted", "left_out", "normal_scores", "order_quality",
    "reliability", "static_scores",
]

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

WAYS: Mapping[str, str] = {
    "static": "static list", "average": "rank average of the measures", "single": "best single measure", "ridge": "ridge regression of the measures",
    "ridge+static": "ridge regression of measures, static list and source size",
}
"""The ways to combine, simplest first, and what the text calls them."""

RIDGES = ("ridge", "ridge+static")

ALPHAS: tuple[float, ...] = tuple(float(alpha) for alpha in np.logspace(0, 4, 9))
"""Penalties that are tried. A column of scores of N pairs has a sum of squares of about N."""

NO_PENALTY = 1e-9
"""Penalty of ways with one feature: it only makes the slope 0 where the feature is 0 everywhere."""

FEWEST_TARGETS = 3
"""Past targets below which the way is not chosen among all: of 2, the better of two ways is taken, of fewer the rank average."""

OF_TWO = ("static", "average")
"""The ways of which 2 past targets choose; neither is fitted. The first of equals is taken."""


@dataclass(frozen=True)
class Rows:
    """The past pairs and the candidates, in normal scores of ranks.

    Attributes:
        x: (N, M) oriented measures, ranked within the target.
        y: (N,) performance, ranked within the target.
        source: (N,) index of the source.
        target: (N,) index of the past target.
        size: (N, 1) size of the source, ranked within the target; (N, 0) where sizes are not known.
        new_x: (C, M) oriented measures of the candidates, ranked among them.
        new_size: (C, 1) or (C, 0) their sizes.
        known: (C,) index of each candidate among the past sources, -1 for one that was never tried.
        n_sources: S.
        n_targets: T.
    """

    x: Floats
    y: Floats
    source: Numbers
    target: Numbers
    size: Floats
    new_x: Floats
    new_size: Floats
    known: Numbers
    n_sources: int
    n_targets: int


def normal_scores(values: Floats) -> Floats:
    """(n,) the normal quantiles of (rank - 1/2) / n with mid-ranks, of values without NaN: highest value highest, mean 0."""
    from scipy.special import ndtri

    below = np.sum(values[None, :] < values[:, None], axis=1)
    equal = np.sum(values[None, :] == values[:, None], axis=1)
    return np.asarray(ndtri((below + 0.5 * equal) / max(1, len(values))), dtype=np.float64)


def static_scores(rows: Rows, weights: Floats) -> tuple[Floats, Floats]:
    """Mean score of each pair's source in the *other* past targets, and of each candidate in all of them.

    A source without any gets 0, the mean. Rounded, so that equal sums are equal numbers.

    Args:
        rows: the past pairs.
        weights: (B, T) how often each past target counts.

    Returns:
        (B, N) and (B, C).
    """
    ranks, there = np.zeros((rows.n_sources, rows.n_targets)), np.zeros((rows.n_sources, rows.n_targets))
    ranks[rows.source, rows.target], there[rows.source, rows.target] = rows.y, 1.0
    total, count = weights @ ranks.T, weights @ there.T
    own = weights[:, rows.target]
    others, n_others = total[:, rows.source] - own * rows.y, count[:, rows.source] - own
    past = np.where(n_others > 0, others / np.maximum(n_others, 1), 0.0)
    n_known = np.where(rows.known >= 0, count[:, rows.known], 0.0)
    new = np.where(n_known > 0, total[:, rows.known] / np.maximum(n_known, 1), 0.0)
    return np.asarray(np.round(past, 12), dtype=np.float64), np.asarray(np.round(new, 12), dtype=np.float64)


def fitted(features: Floats, y: Floats, alphas: Sequence[float], weights: Floats | None = None) -> Floats:
    """(p, A) coefficients of ridge regression without intercept, one column a penalty; of one feature, at least 0.

    Call it within :func:`sklearn.config_context` with ``skip_parameter_validation``: there are thousands of small fits.
    """
    from sklearn.linear_model import ridge_regression

    many = np.repeat(y[:, None], len(alphas), axis=1)
    out = ridge_regression(features, many, np.asarray(alphas), sample_weight=weights, solver="cholesky", check_input=False)
    coefficients = np.asarray(out, dtype=np.float64).reshape(len(alphas), features.shape[1]).T
    return np.maximum(coefficients, 0.0) if features.shape[1] == 1 else coefficients


@dataclass(frozen=True)
class Choice:
    """Which way is taken, by how well each did on past targets that were left out.

    Attributes:
        way: the way.
        alphas: penalty of each ridge, that with the smallest mean squared error.
        spearman: (K, T) of each way on each past target that was left out, in the order of WAYS; 0 for an order of equals.
        targets: the past targets it was chosen by.
    """

    way: str
    alphas: Mapping[str, float]
    spearman: Floats
    targets: tuple[int, ...]


def chosen_ways(spearmans: Floats, weights: Floats) -> Numbers:
    """(B,) the way that is taken in each resample of the targets: the simplest one within one standard error of the best.

    The standard error is that of the paired difference to the best over targets (Breiman et al. 1984, section 3.4.3: the one-standard-error rule).
    The mean Spearman's correlation decides and not the regret, which is one number a target and much noisier.

    Args:
        spearmans: (K, T).
        weights: (B, T) how often each target counts.
    """
    total = weights.sum(1, keepdims=True)
    means = weights @ spearmans.T / total
    gaps = spearmans[np.argmax(means, axis=1)][:, None, :] - spearmans[None]
    mean_gap = (weights[:, None, :] * gaps).sum(-1) / total
    variance = (weights[:, None, :] * (gaps - mean_gap[..., None]) ** 2).sum(-1) / np.maximum(total - 1, 1)
    return np.asarray(np.argmax(mean_gap <= np.sqrt(variance / total) + 1e-12, axis=1), dtype=np.int64)


@dataclass
class Learner:
    """Fits on sets of past targets; every set is fitted once.

    Attributes:
        rows: the past pairs and the candidates.
        single: (M, T) Spearman's correlation of each measure with the performance in each past target; 0 where undefined.
    """

    rows: Rows
    single: Floats = field(init=False)
    _made: dict[frozenset[int], dict[int, dict[str, tuple[Floats, Floats]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = self.rows
        self.single = np.array([[order_quality(rows.x[rows.target == t, m], rows.y[rows.target == t]) for t in range(rows.n_targets)]
                                for m in range(rows.x.shape[1])]).reshape(rows.x.shape[1], rows.n_targets)

    def best_single(self, weights: Floats) -> int:
        """The measure with the highest mean Spearman's correlation over targets that count so often; the first of equal ones."""
        return int(np.argmax(np.round(self.single @ weights / max(1.0, float(weights.sum())), 12)))

    def features(self, way: str, weights: Floats, past: Floats, new: Floats) -> tuple[Floats, Floats]:
        """(N, p) of the past pairs and (C, p) of the candidates, where ``past`` (N,) and ``new`` (C,) are their static scores."""
        rows = self.rows
        if way == "static":
            return past[:, None], new[:, None]
        if way == "average":
            return rows.x.mean(1, keepdims=True), rows.new_x.mean(1, keepdims=True)
        if way == "single":
            best = self.best_single(weights)
            return rows.x[:, [best]], rows.new_x[:, [best]]
        if way == "ridge":
            return rows.x, rows.new_x
        return np.column_stack([rows.x, past, rows.size]), np.column_stack([rows.new_x, new, rows.new_size])

    def without(self, out: Iterable[int]) -> dict[int, dict[str, tuple[Floats, Floats]]]:
        """Per past target that is left out: way -> order (n, A) and predicted score (n, A) of its pairs, one column a penalty."""
        left = frozenset(out)
        if left not in self._made:
            rows = self.rows
            weights = np.array([0.0 if t in left else 1.0 for t in range(rows.n_targets)])
            past, new = (one[0] for one in static_scores(rows, weights[None]))
            kept = weights[rows.target] > 0
            made: dict[int, dict[str, tuple[Floats, Floats]]] = {t: {} for t in left}
            for way in WAYS:
                features, _ = self.features(way, weights, past, new)
                one = features.shape[1] == 1
                coefficients = fitted(features[kept], rows.y[kept], (NO_PENALTY,) if one else ALPHAS)
                for t in left:
                    here = features[rows.target == t]
                    made[t][way] = (here if one else here @ coefficients, here @ coefficients)
            self._made[left] = made
        return self._made[left]

    def choose(self, targets: Iterable[int]) -> Choice:
        """The way and the penalties that these past targets choose, each left out once.

        Of 3 and more targets, :func:`chosen_ways`; of 2, the better of OF_TWO by the mean Spearman's correlation (a standard error of two differences
        decides nothing); of fewer, the rank average.
        """
        targets = tuple(targets)
        outside = frozenset(range(self.rows.n_targets)) - frozenset(targets)
        alphas: dict[str, float] = {}
        spearmans = np.zeros((len(WAYS), len(targets)))
        for k, way in enumerate(WAYS):
            left = [(self.rows.y[self.rows.target == t], *self.without({*outside, t})[t][way]) for t in targets] if len(targets) > 1 else []
            if not left:
                continue
            errors = np.concatenate([(predicted - y[:, None]) ** 2 for y, _, predicted in left]).mean(0)
            column = len(errors) - 1 - int(np.argmin(np.round(errors, 12)[::-1]))  # of equal errors the strongest penalty
            if way in RIDGES and len(errors) == len(ALPHAS):
                alphas[way] = ALPHAS[column]
            spearmans[k] = [order_quality(order[:, column], y) for y, order, _ in left]
        if len(targets) >= FEWEST_TARGETS:
            way = list(WAYS)[int(chosen_ways(spearmans, np.ones((1, len(targets))))[0])]
        else:
            means = np.round([spearmans[list(WAYS).index(way)].mean() for way in OF_TWO], 12) if len(targets) == 2 else None
            way = "average" if means is None else OF_TWO[int(np.argmax(means))]
        return Choice(way, alphas, spearmans, targets)

    def final(self, choice: Choice, source_weights: Floats, weights: Floats, past: Floats, new: Floats, way: str = "") -> tuple[Floats, Floats, Floats]:
        """Order (C,) and predicted score (C,) of the candidates and the coefficients (p,), from all past pairs with weights."""
        rows, way = self.rows, way or choice.way
        features, here = self.features(way, weights, past, new)
        one = features.shape[1] == 1
        alpha = NO_PENALTY if one else choice.alphas.get(way, ALPHAS[-1])
        coefficients = fitted(features, rows.y, (alpha,), source_weights[rows.source] * weights[rows.target])[:, 0]
        predicted = here @ coefficients
        return here[:, 0] if one else predicted, predicted, coefficients


@dataclass(frozen=True)
class LeftOut:
    """What the whole procedure, choice and penalties included, says on one past target that it has not seen.

    Attributes:
        target: index of the past target.
        way: the way that the other targets chose; with 2 past targets, the one that both chose.
        order: (n,) by which it orders the sources of the target.
        y: (n,) score of the performance.
        predicted: (n,) predicted score; None where there is no other target to learn from.
        static: (n,) order of the static list; None where there is no other target.
    """

    target: int
    way: str
    order: Floats
    y: Floats
    predicted: Floats | None
    static: Floats | None


def left_out(learner: Learner) -> list[LeftOut]:
    """Every past target left out once, the choice among ways made anew without it.

    With 2 past targets there is nothing to choose by without one of them: the way is the one that both chose, and looks better than it is.
    """
    rows, out = learner.rows, []
    of_both = learner.choose(range(2)) if rows.n_targets == 2 else None
    for t in range(rows.n_targets):
        here = rows.target == t
        others = [other for other in range(rows.n_targets) if other != t]
        if not others:
            out.append(LeftOut(t, "average", rows.x[here].mean(1), rows.y[here], None, None))
            continue
        choice = of_both or learner.choose(others)
        way = choice.way
        orders, predictions = learner.without({t})[t][way]
        alpha = choice.alphas.get(way)
        column = ALPHAS.index(alpha) if alpha is not None and orders.shape[1] > 1 else orders.shape[1] - 1
        out.append(LeftOut(t, way, orders[:, column], rows.y[here], predictions[:, column], learner.without({t})[t]["static"][0][:, 0]))
    return out


def order_quality(order: Floats, y: Floats) -> float:
    """Spearman's correlation; 0 for an order of equals."""
    value = float(spearman(np.round(order, 12), y)[0])
    return value if math.isfinite(value) else 0.0


def reliability(left: Sequence[LeftOut], weights: Floats) -> Floats:
    """(B,) the slope of performance on prediction over past targets that were left out, between 0 and 1: what predictions are worth.

    Predictions are multiplied by it (van Houwelingen and le Cessie 1990, "Predictive value of statistical models": shrinkage by
    cross-validation): choosing the best of several ways makes them too bold, and where nothing predicts, it is about 0.

    Args:
        left: every past target left out once.
        weights: (B, T) how often each target counts.
    """
    products = np.array([0.0 if one.predicted is None else float(one.predicted @ one.y) for one in left])
    squares = np.array([0.0 if one.predicted is None else float(one.predicted @ one.predicted) for one in left])
    above, below = weights @ products, weights @ squares
    return np.clip(np.where(below > 0, above / np.where(below > 0, below, 1.0), 0.0), 0.0, 1.0)
