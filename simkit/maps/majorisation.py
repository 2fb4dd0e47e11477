"""Metric multidimensional scaling by majorisation (SMACOF), with missing distances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simkit.recipe import rng_for

__all__ = ["Scaling", "classical_scaling", "scaling"]

MOST_STEPS, SMALLEST_GAIN = 1000, 1e-9
"""Steps of one start, and the relative decrease of the stress in one step below which it is finished; :data:`LAST_STEPS` are those of the best start."""

LAST_STEPS, LAST_GAIN = 5000, 1e-13

PERFECT = 1e-20
"""Raw stress of distances of at most 1 that rounding leaves."""

STARTS, FIRST_STEPS, FOLLOWED = 100, 60, 8
"""Random starts beside the classical one, the steps that all of them take, and how many of them, the best, then go on to the end."""

PLACES, MOST_ROUNDS, PATIENCE = 4, 10, 2
"""What keeps a configuration from the best is often one object on the wrong side: each is put at so many other places, in so many rounds at most, until so
many have led to nothing better."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """A configuration of k objects in the plane.

    Attributes:
        points: float64 (k, 2), centred, along its principal axes.
        raw: sum over known pairs of (d_ij - delta_ij)², in squared units of the distances.
        stress: Kruskal's stress-1, the root of ``raw`` over the sum of d_ij²; 0: every distance is drawn exactly, above 0.2: poor.
        each: stress-1 of the pairs of each object.
    """

    points: np.ndarray
    raw: float
    stress: float
    each: np.ndarray


def scaling(distances: np.ndarray, *, seed: int = 0, starts: int = STARTS) -> Scaling:
    """The plane configuration of least raw stress that was found: SMACOF (de Leeuw 1977; Borg and Groenen 2005, chapter 8) from the classical scaling and from
    ``starts`` random configurations; the best is kept.

    Args:
        distances: (k, k), symmetric, >= 0; NaN where a pair is not known (weight 0). The known pairs must connect all objects. At least 2 objects.
        seed: of the random starts.
        starts: how many.
    """
    known = np.isfinite(distances) & ~np.eye(len(distances), dtype=bool)
    size = float(distances[known].max())
    if size == 0:
        return Scaling(np.zeros((len(distances), 2)), 0.0, 0.0, np.zeros(len(distances)))
    scaled = np.where(known, distances / size, 0.0)
    weights = known.astype(np.float64)
    inverse = np.linalg.pinv(np.diag(weights.sum(axis=1)) - weights)
    configurations = [classical_scaling(_completed(np.where(known, scaled, np.nan)))]
    configurations += [rng_for(seed, "map", "scaling", i).normal(0, 0.5, (len(distances), 2)) for i in range(starts)]
    begun = _stepped(scaled, weights, inverse, np.stack(configurations), FIRST_STEPS)
    order = np.argsort([round(_raw(scaled, weights, one), 6) for one in begun], kind="stable")
    found = [_majorised(scaled, weights, inverse, begun[i], MOST_STEPS, SMALLEST_GAIN) for i in order[:FOLLOWED]]
    best = _rehoused(scaled, weights, inverse, *found[int(np.argmin([round(one[1], 6) for one in found]))], seed)  # of equally good ones, the first
    points, raw = _majorised(scaled, weights, inverse, best, LAST_STEPS, LAST_GAIN)
    apart = _apart(points)
    errors, squares = weights * (apart - scaled) ** 2, weights * apart**2
    each = np.sqrt(errors.sum(axis=1) / np.maximum(squares.sum(axis=1), np.finfo(float).tiny))
    each = np.where(errors.sum(axis=1) == 0, 0.0, each)
    stress = float(np.sqrt(errors.sum() / max(float(squares.sum()), np.finfo(float).tiny))) if raw > 0 else 0.0
    return Scaling(_along_axes(points) * size, raw * size**2, stress, each)


def classical_scaling(distances: np.ndarray) -> np.ndarray:
    """Torgerson's configuration (k, 2): the two largest axes of the doubly centred squared distances."""
    k = len(distances)
    centre = np.eye(k) - 1 / k
    values, vectors = np.linalg.eigh(-0.5 * centre @ distances**2 @ centre)
    points = vectors[:, ::-1][:, :2] * np.sqrt(np.maximum(values[::-1][:2], 0.0))
    return points if points.shape[1] == 2 else np.column_stack([points, np.zeros(k)])


def _completed(distances: np.ndarray) -> np.ndarray:
    """Missing distances as the length of the shortest way over known ones: a start, no more."""
    out = np.where(np.isnan(distances), np.inf, distances)
    np.fill_diagonal(out, 0.0)
    for middle in range(len(out)):
        out = np.minimum(out, out[:, middle, None] + out[None, middle])
    return out


def _apart(points: np.ndarray) -> np.ndarray:
    """Distances (..., k, k) of configurations (..., k, 2)."""
    x, y = points[..., 0], points[..., 1]
    return np.asarray(np.sqrt((x[..., :, None] - x[..., None, :]) ** 2 + (y[..., :, None] - y[..., None, :]) ** 2))


def _raw(distances: np.ndarray, weights: np.ndarray, points: np.ndarray) -> float:
    return float((weights * (_apart(points) - distances) ** 2).sum() / 2)


def _transformed(target: np.ndarray, inverse: np.ndarray, points: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Guttman's transform of configurations (..., k, 2) whose distances are ``apart``."""
    ratio = np.divide(target, apart, out=np.zeros_like(apart), where=apart > 1e-300)
    return np.asarray(inverse @ (ratio.sum(axis=-1)[..., None] * points - ratio @ points))


def _stepped(distances: np.ndarray, weights: np.ndarray, inverse: np.ndarray, starts: np.ndarray, steps: int) -> np.ndarray:
    """All starts (s, k, 2) after so many steps, in groups that are small in memory."""
    target, out = weights * distances, []
    size = max(1, 2**21 // distances.size)
    for first in range(0, len(starts), size):
        points = starts[first : first + size]
        for _ in range(steps):
            points = _transformed(target, inverse, points, _apart(points))
        out.append(points)
    return np.concatenate(out)


def _majorised(distances: np.ndarray, weights: np.ndarray, inverse: np.ndarray, start: np.ndarray, steps: int, gain: float) -> tuple[np.ndarray, float]:
    """The configuration that Guttman transforms lead to, and its raw stress, which no step increases."""
    points, apart = start, _apart(start)
    raw = float((weights * (apart - distances) ** 2).sum() / 2)
    target = weights * distances
    for _ in range(steps):
        moved = _transformed(target, inverse, points, apart)
        apart = _apart(moved)
        now = float((weights * (apart - distances) ** 2).sum() / 2)
        points, before, raw = moved, raw, now
        if now <= PERFECT or before - now <= gain * before:
            break
    return points, raw


def _rehoused(distances: np.ndarray, weights: np.ndarray, inverse: np.ndarray, best: np.ndarray, raw: float, seed: int) -> np.ndarray:
    """The best configuration that putting single objects at other places leads to, starting from ``best``."""
    k, failed = len(best), 0
    for number in range(MOST_ROUNDS):
        if raw <= PERFECT or failed == PATIENCE:
            break
        others = np.repeat(best[None], k * PLACES, axis=0)
        others[np.arange(k * PLACES), np.repeat(np.arange(k), PLACES)] = rng_for(seed, "map", "places", number).normal(0, 0.5, (k * PLACES, 2))
        moved = _stepped(distances, weights, inverse, others, FIRST_STEPS)
        order = np.argsort([round(_raw(distances, weights, one), 6) for one in moved], kind="stable")[:3]
        found = min((_majorised(distances, weights, inverse, moved[i], MOST_STEPS, SMALLEST_GAIN) for i in order), key=lambda one: round(one[1], 6))
        failed = failed + 1 if found[1] > raw - 1e-6 else 0
        best, raw = (best, raw) if failed else found
    return best


def _along_axes(points: np.ndarray) -> np.ndarray:
    """Centred, turned to its principal axes; the farthest object along each axis has a positive coordinate (the first of equally far ones)."""
    centred = points - points.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    turned = centred @ vectors[:, ::-1]
    far = np.round(np.abs(turned), 9).argmax(axis=0)
    return np.asarray(turned * np.where(turned[far, [0, 1]] < 0, -1.0, 1.0))
