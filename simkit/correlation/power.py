"""What a table of this size could show: the power of the joint permutation test for a single method, by simulation."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from simkit.correlation.exchange import Exchange
from simkit.correlation.resampling import Permutations, Weights, means_over_targets
from simkit.recipe import rng_for

__all__ = ["POWERFUL", "detectable", "power_at", "power_curve", "power_text"]

Floats: TypeAlias = NDArray[np.float64]

SIMULATED, ORDERS = 200, 499
"""Scores simulated for each strength, and permutations of their tests."""

STRENGTHS = np.linspace(0.0, 1.0, 11)
"""Correlations of the simulated scores with the normal scores of the performances."""

SOURCE_EFFECT = 0.5
"""Share of the noise of a simulated score that a source has in common over targets. It is the rule that sources have such effects."""

POWERFUL = 0.8


def power_curve(y: Floats, *, seed: int, exchange: Exchange | None = None, jobs: int = 0) -> tuple[tuple[float, float], ...]:
    """(true mean Spearman, probability that p <= 0.05), from no to perfect correlation.

    Scores are simulated around the performances of the table, with noise of which half belongs to the source and half to the pair; each is
    tested with joint permutations of the sources (of groups, where there are any). The true mean is that over the simulated scores of a
    strength. The power is that of one method, not adjusted for several, and for a table of just these performances; its Monte-Carlo error is
    about 3 %.

    Args:
        y: (S, T) performances, NaN where missing.
        seed: of the simulation.
        exchange: which sources may change places; None for all.
        jobs: threads; 0 for as many as BLAS may use.
    """
    rng = rng_for("correlate", "power", seed)
    shape = (len(STRENGTHS), SIMULATED, *y.shape)
    exchange = exchange or Exchange(tuple(range(len(y))))
    effect = rng.normal(size=(*shape[:3], 1))[:, :, list(exchange.group) if exchange.grouped else slice(None)]
    noise = np.sqrt(SOURCE_EFFECT) * effect + np.sqrt(1 - SOURCE_EFFECT) * rng.normal(size=shape)
    strength = STRENGTHS[:, None, None, None]
    x = (strength * _normal_scores(y) + np.sqrt(1 - strength**2) * noise).reshape(-1, *y.shape)
    orders, _ = exchange.orders(ORDERS, rng, sampled=True)
    observed = means_over_targets(x, y, Weights(np.ones((1, len(y)))), jobs=jobs)[0]
    resampled = means_over_targets(x, y, Permutations(orders), jobs=jobs)[0]
    larger = (~(np.abs(resampled) < np.abs(observed) - 1e-9)).sum(1)
    found = ((larger + 1) / (ORDERS + 1) <= 0.05).reshape(len(STRENGTHS), SIMULATED).mean(1)
    means = np.nanmean(observed.reshape(len(STRENGTHS), SIMULATED), axis=1) if np.isfinite(observed).any() else np.full(len(STRENGTHS), np.nan)
    return tuple((float(mean), float(power)) for mean, power in zip(means, found, strict=True) if np.isfinite(mean))


def _normal_scores(y: Floats) -> Floats:
    """(S, T) the performances as normal quantiles of their ranks within the target; NaN stays."""
    from scipy.stats import norm, rankdata

    out = np.full(y.shape, np.nan)
    for t in range(y.shape[1]):
        rows = np.flatnonzero(np.isfinite(y[:, t]))
        if len(rows):
            scores = norm.ppf((rankdata(y[rows, t]) - 0.5) / len(rows))
            spread = float(scores.std())
            out[rows, t] = scores / spread if spread > 0 else scores
    return out


def power_at(curve: tuple[tuple[float, float], ...], mean: float) -> float | None:
    """The power for a true mean, between the simulated ones; None beyond them."""
    means, powers = _monotone(curve)
    return float(np.interp(mean, means, powers)) if len(means) and means[0] <= mean <= means[-1] else None


def detectable(curve: tuple[tuple[float, float], ...], power: float = POWERFUL) -> float | None:
    """The smallest true mean with at least that power; None where no simulated one has it."""
    means, powers = _monotone(curve)
    return float(np.interp(power, powers, means)) if len(powers) and powers[-1] >= power else None


def power_text(curve: tuple[tuple[float, float], ...]) -> str:
    """``11% for 0.3, 38% for 0.5, 81% for 0.7; 80 % needs 0.69``; "" without a curve."""
    parts = [f"{power:.0%} for {mean:g}" for mean in (0.3, 0.5, 0.7) if (power := power_at(curve, mean)) is not None]
    enough = detectable(curve)
    high = f"{round(100 * POWERFUL)} %"
    last = f"no true mean has {high}" if enough is None else f"{high} needs {enough:.2f}"
    return f"{', '.join(parts)}; {last}" if parts else ""


def _monotone(curve: tuple[tuple[float, float], ...]) -> tuple[Floats, Floats]:
    """Means and powers in order, the powers without the dips of a simulation."""
    ordered = np.array(sorted(curve)).reshape(-1, 2)
    return ordered[:, 0], np.maximum.accumulate(ordered[:, 1]) if len(ordered) else ordered[:, 1]
