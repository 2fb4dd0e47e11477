"""The linear mixed model with a random effect of the source: a second opinion with more assumptions than the permutation test. Needs statsmodels."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from simkit.correlation.results import Mixed
from simkit.errors import ResourceError

__all__ = ["FEWEST_SOURCES", "FEWEST_TARGETS", "mixed_model", "require_statsmodels"]

Floats: TypeAlias = NDArray[np.float64]

FEWEST_SOURCES, FEWEST_TARGETS = 8, 3
"""Below these the variance of the source effects cannot be estimated to any use."""

ZERO = 1e-4
"""Share of the residual variance below which a source variance counts as zero."""


def require_statsmodels() -> None:
    """Raises ResourceError, before any work, when the package is not installed."""
    if importlib.util.find_spec("statsmodels") is None:
        raise ResourceError("SK303", "mixed model", "statsmodels is not installed", "pip install 'simkit[stats]'")


def mixed_model(x: Floats, y: Floats) -> Mixed:
    """z(performance) ~ z(score) + target + (1 | source) by REML (statsmodels), both sides standardised within each target.

    Args:
        x: (S, T) oriented scores, NaN where missing.
        y: (S, T) performances (or their logits), NaN where missing.

    Returns:
        Mixed, with ``problem`` where there are fewer than 8 sources or 3 targets, or where nothing varies within targets.
    """
    sources, targets, scores, performances = _standardised(x, y)
    n, n_sources, n_targets = len(scores), len(set(sources)), len(set(targets))
    if n_sources < FEWEST_SOURCES or n_targets < FEWEST_TARGETS:
        why = f"{n_sources} sources and {n_targets} targets: a mixed model needs {FEWEST_SOURCES} sources and {FEWEST_TARGETS} targets"
        return Mixed(None, None, None, None, None, False, False, n, why)
    design = np.column_stack([scores, (targets[:, None] == np.unique(targets)[None, :]).astype(float)])
    try:
        return _fitted(performances, design, sources)
    except (np.linalg.LinAlgError, ValueError) as error:
        return Mixed(None, None, None, None, None, False, False, n, f"the model could not be fitted: {error}")


def _fitted(performances: Floats, design: Floats, sources: NDArray[np.int64]) -> Mixed:
    from scipy.stats import norm
    from statsmodels.regression.mixed_linear_model import MixedLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say is told by ``converged`` and ``boundary``
        model = MixedLM(performances, design, groups=sources)
        fit: Any = model.fit(reml=True)
        if not fit.converged:
            fit = model.fit(reml=True, method="powell")
    ratio = float(np.asarray(fit.cov_re)[0, 0]) / float(fit.scale)
    found, at_zero = (_generalised_least_squares(performances, design, sources, one) for one in (ratio, 0.0))
    if at_zero[0] <= found[0]:  # the optimiser stopped short of the boundary
        ratio, found = 0.0, at_zero
    _, slope, error, residual = found
    p = float(2 * norm.sf(abs(slope) / error))
    return Mixed(slope, error, p, ratio * residual, residual, bool(fit.converged), ratio <= ZERO, len(performances))


def _generalised_least_squares(performances: Floats, design: Floats, sources: NDArray[np.int64], ratio: float) -> tuple[float, float, float, float]:
    """For a ratio of source to residual variance: -2 log of the restricted likelihood (up to a constant), slope, its standard error, residual variance.

    statsmodels takes the error from a Hessian that fails at the boundary.
    """
    covariance = np.eye(len(sources)) + ratio * (sources[:, None] == sources[None, :])
    weighted = np.linalg.solve(covariance, np.column_stack([design, performances]))
    information = design.T @ weighted[:, :-1]
    coefficients = np.linalg.solve(information, design.T @ weighted[:, -1])
    degrees = len(performances) - design.shape[1]
    scale = float((performances - design @ coefficients) @ (weighted[:, -1] - weighted[:, :-1] @ coefficients)) / degrees
    deviance = degrees * np.log(scale) + np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(information)[1]
    return float(deviance), float(coefficients[0]), float(np.sqrt(scale * np.linalg.inv(information)[0, 0])), scale


def _standardised(x: Floats, y: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]:
    """Source, target, z(score) and z(performance) of every pair, from targets in which both vary over at least three sources."""
    parts = []
    for t in range(y.shape[1]):
        rows = np.flatnonzero(np.isfinite(x[:, t]) & np.isfinite(y[:, t]))
        a, b = x[rows, t], y[rows, t]
        if len(rows) >= 3 and not np.all(a == a[0]) and not np.all(b == b[0]):
            parts.append((rows, np.full(len(rows), t), (a - a.mean()) / a.std(ddof=1), (b - b.mean()) / b.std(ddof=1)))
    if not parts:
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0)
    rows, targets, a, b = (np.concatenate(column) for column in zip(*parts, strict=True))
    return rows, targets, a, b
