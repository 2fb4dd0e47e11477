"""How sure a predicted order of sources is: two-way bootstrap of the past, and the errors that the procedure made on past targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simkit.correlation.combination import FEWEST_TARGETS, WAYS, Choice, Learner, LeftOut, chosen_ways, reliability, static_scores
from simkit.recipe import rng_for

__all__ = ["Interval", "Places", "mean_interval", "places"]

Floats = NDArray[np.float64]
Interval = tuple[float, float]

DISTINGUISHED = 0.95
"""The share of draws in which the first must be better than a source that is told apart from it."""


@dataclass(frozen=True)
class Places:
    """The places of the candidates over draws.

    Attributes:
        expected: (C,) mean place, 1 best.
        lower: (C,) 2.5 % quantile.
        upper: (C,) 97.5 % quantile.
        best: (C,) share of draws in which it is first.
        top3: (C,) share in which it is among the first three.
        first_better: (C,) share in which the first of the predicted order is better than it.
        ways: way -> share of the resamples that took it.
    """

    expected: Floats
    lower: Floats
    upper: Floats
    best: Floats
    top3: Floats
    first_better: Floats
    ways: dict[str, float]


def places(
    learner: Learner, choice: Choice, left: Sequence[LeftOut], order: Floats, predicted: Floats, *, bootstraps: int, seed: int, name: str,
) -> Places:
    """Places of the candidates in draws of what is not known.

    Each draw resamples past sources and past targets (a pair counts as often as its source times its target), takes the way that the
    resampled targets choose by the errors on left-out targets (made once; penalties are kept), and fits it anew. Predictions vary around
    the one of all past pairs, because a target drawn twice teaches less than two. To them are added errors that the whole procedure
    made on one past target that was left out, shared out among the candidates at random: a target that cannot be predicted stays one for all
    its sources, and no source is tied to its past luck. A candidate that was never tried has no static score: where that predicted a left-out
    target, its errors are the performances themselves, as unknown as its own source effect.

    Args:
        learner: fits.
        choice: of all past targets.
        left: every past target left out once.
        order: (C,) by which the candidates are in order.
        predicted: (C,) predicted scores from all past pairs, times their reliability.
        bootstraps: draws.
        seed: of the draws.
        name: of the new target.
    """
    resampled, ways = _resampled(learner, choice, left, bootstraps, rng_for("recommend", "past", seed, name))
    around = resampled - resampled.mean(0)
    never = learner.rows.known < 0
    errors = _errors(left, never, bootstraps, rng_for("recommend", "errors", seed, name))
    for which in (never, ~never):
        errors[:, which] *= _remaining(errors[:, which], around[:, which])
    drawn = predicted + around + errors
    drawn += 1e-9 * rng_for("recommend", "ties", seed, name).random(drawn.shape)
    place = 1 + np.argsort(np.argsort(-drawn, axis=1), axis=1)
    lower, upper = np.quantile(place, [0.025, 0.975], axis=0, method="inverted_cdf")
    shares = {way: float(np.mean(ways == k)) for k, way in enumerate(WAYS) if np.any(ways == k)}
    first = int(np.argmax(order))
    return Places(place.mean(0), lower, upper, np.mean(place == 1, axis=0), np.mean(place <= 3, axis=0),
                  np.mean(place > place[:, [first]], axis=0), shares)


def _resampled(learner: Learner, choice: Choice, left: Sequence[LeftOut], bootstraps: int, rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    """(B, C) predicted scores of the candidates from resampled pasts, and (B,) the way of each."""
    import sklearn

    rows = learner.rows
    sources, targets = (rng.multinomial(n, np.full(n, 1 / n), size=bootstraps).astype(np.float64) for n in (rows.n_sources, rows.n_targets))
    while (empty := (sources[:, rows.source] * targets[:, rows.target]).sum(1) == 0).any():  # a draw without one past pair says nothing: drawn again
        count = int(empty.sum())
        sources[empty], targets[empty] = (rng.multinomial(n, np.full(n, 1 / n), size=count) for n in (rows.n_sources, rows.n_targets))
    few = rows.n_targets < FEWEST_TARGETS
    ways = np.full(bootstraps, list(WAYS).index(choice.way)) if few else chosen_ways(choice.spearman, targets)
    past, new = static_scores(rows, targets)
    out = np.empty((bootstraps, len(rows.known)))
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        for b in range(bootstraps):
            out[b] = learner.final(choice, sources[b], targets[b], past[b], new[b], list(WAYS)[ways[b]])[1]
    return out * reliability(left, targets)[:, None], ways


def _remaining(errors: Floats, around: Floats) -> float:
    """The factor that takes off the errors what the resamples add: errors of left-out targets hold the uncertainty of the fit already.

    With it, the spread of the draws around the prediction is that of the errors. At least half of their variance is kept.
    """
    if not errors.size:
        return 1.0
    square, spread = float(np.mean(errors**2)), float(np.mean(around.var(0)))
    return float(np.sqrt(max(0.5, 1 - spread / square))) if square > 0 else 1.0


def _errors(left: Sequence[LeftOut], never: NDArray[np.bool_], bootstraps: int, rng: np.random.Generator) -> Floats:
    """(B, C) errors: each row those of one past target in random order, drawn with replacement where the target has fewer sources.

    Args:
        left: every past target left out once.
        never: (C,) candidates that no past target has. Sources of a left-out target were tried elsewhere; where their static score took part in
            its prediction, errors of these candidates are the scores of the performance.
        bootstraps: B.
        rng: of the draws.
    """
    worth = reliability(left, np.ones((1, len(left))))[0]
    used = [one for one in left if one.predicted is not None]
    which = rng.integers(len(used), size=bootstraps)
    out = np.empty((bootstraps, len(never)))
    for index, one in enumerate(used):
        rows, pool = np.flatnonzero(which == index), one.y - worth * one.predicted
        if len(pool) >= len(never):
            out[rows] = rng.permuted(np.tile(pool, (len(rows), 1)), axis=1)[:, : len(never)]
        else:
            out[rows] = rng.choice(pool, size=(len(rows), len(never)))
        if one.way in ("static", "ridge+static") and never.any():
            out[np.ix_(rows, np.flatnonzero(never))] = rng.choice(one.y, size=(len(rows), int(never.sum())))
    return out


def mean_interval(values: Floats, *, bootstraps: int, rng: np.random.Generator) -> Interval | None:
    """95 % bootstrap interval of the mean of one number a target, as wide as Student's t for so few; None for fewer than 3, and where all are equal.

    The percentile interval of n values is too narrow by sqrt((n - 1) / n) and by the normal quantile in the place of Student's
    (Hesterberg 2015, "What teachers should know about the bootstrap", section 4.2: the expanded percentile interval).
    """
    from scipy.stats import norm, t

    n = len(values)
    if n < FEWEST_TARGETS or np.ptp(values) == 0:
        return None
    mean = float(values.mean())
    means = rng.multinomial(n, np.full(n, 1 / n), size=bootstraps) @ values / n
    widening = np.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1) / norm.ppf(0.975)
    low, high = mean + widening * (np.quantile(means, [0.025, 0.975]) - mean)
    return float(low), float(high)
