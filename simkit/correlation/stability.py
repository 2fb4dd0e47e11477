"""What a mean correlation rests on: single sources, groups, targets and replicates left out or taken alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from simkit.correlation.joining import Rectangle
from simkit.correlation.reliability import noise_ceiling
from simkit.correlation.resampling import Statistic, Weights, per_target
from simkit.correlation.results import Influence, Range, Stability
from simkit.correlation.statistics import mean_defined

__all__ = ["stabilities"]

Floats: TypeAlias = NDArray[np.float64]


def stabilities(
    data: Rectangle, oriented: Floats, signs: Sequence[int], groups: Mapping[str, str], *, statistic: Statistic = "spearman", jobs: int = 0,
) -> list[Stability]:
    """One a method, in the order of ``data.scores``.

    Args:
        data: the rectangle.
        oriented: (M, S, T) its scores, oriented.
        signs: 1 or -1 for each method, as its scores were oriented.
        groups: source -> group; a source that is not in it is a group of its own.
        statistic: whose mean is taken.
        jobs: threads; 0 for as many as BLAS may use.
    """
    y, n_sources = data.performance, len(data.sources)
    each = per_target(oriented, y, Weights(np.ones((1, n_sources))), statistic=statistic, jobs=jobs)[:, :, 0]
    whole = mean_defined(each.T)
    without = {"source": (data.sources, _means(oriented, y, 1.0 - np.eye(n_sources), statistic, jobs))}
    members = _members(data.sources, groups)
    if members:
        kept = np.array([[float(source not in sources) for source in data.sources] for sources in members.values()])
        without["group"] = (tuple(members), _means(oriented, y, kept, statistic, jobs))
    if len(data.targets) > 1:
        left = [mean_defined(np.delete(each, t, axis=1).T) for t in range(len(data.targets))]
        without["target"] = (data.targets, np.stack(left, axis=1))
    layers = _performance_layers(data, oriented, statistic, jobs)
    out = []
    for m, method in enumerate(data.scores):
        ranges = {kind: _range(names, values[m]) for kind, (names, values) in without.items()}
        alone, reliability = _score_layers(data, method, signs[m], statistic, jobs)
        out.append(Stability(
            ranges["source"], ranges.get("group"), ranges.get("target"), _influence(float(whole[m]), {k: (n, v[m]) for k, (n, v) in without.items()}),
            None if layers is None else _span(layers[m]), alone, reliability,
        ))
    return out


def _members(sources: Sequence[str], groups: Mapping[str, str]) -> dict[str, list[str]]:
    """Group -> its sources, for groups of more than one source; none when all sources are of one group."""
    members: dict[str, list[str]] = {}
    for source in sources:
        if source in groups:
            members.setdefault(groups[source], []).append(source)
    several = {group: names for group, names in sorted(members.items()) if len(names) > 1}
    return {} if any(len(names) == len(sources) for names in several.values()) else several


def _means(x: Floats, y: Floats, weights: Floats, statistic: Statistic, jobs: int) -> Floats:
    """(M, B) means over targets."""
    return mean_defined(np.moveaxis(per_target(x, y, Weights(weights), statistic=statistic, jobs=jobs), 1, 0))


def _range(names: Sequence[str], values: Floats) -> Range | None:
    defined = np.flatnonzero(np.isfinite(values))
    if len(defined) == 0:
        return None
    low, high = defined[np.argmin(values[defined])], defined[np.argmax(values[defined])]
    return Range(float(values[low]), float(values[high]), names[low], names[high])


def _span(values: Floats) -> Range | None:
    """The range over replicates, whose names say nothing: their order must not matter."""
    return _range([""] * len(values), values)


def _influence(whole: float, without: Mapping[str, tuple[Sequence[str], Floats]]) -> Influence | None:
    """What moves the mean most; among equals the first of sources, groups, targets."""
    if not np.isfinite(whole):
        return None
    found = [(abs(float(value) - whole), kind, name, float(value)) for kind, (names, values) in without.items()
             for name, value in zip(names, values, strict=True) if np.isfinite(value)]
    if not found:
        return None
    _, kind, name, value = max(found, key=lambda one: round(one[0], 12))
    return Influence(kind, name, value)


def _performance_layers(data: Rectangle, oriented: Floats, statistic: Statistic, jobs: int) -> Floats | None:
    """(M, R) the mean with each replicate of the performance alone; None without replicates."""
    if len(data.replicates) < 2:
        return None
    once = Weights(np.ones((1, len(data.sources))))
    return np.stack([mean_defined(per_target(oriented, layer, once, statistic=statistic, jobs=jobs)[:, :, 0].T) for layer in data.replicates], axis=1)


def _score_layers(data: Rectangle, method: str, sign: int, statistic: Statistic, jobs: int) -> tuple[Range | None, float | None]:
    """The range of the mean over replicates of the score taken alone, and how well they agree."""
    layers = data.score_replicates.get(method)
    if layers is None or len(layers) < 2:
        return None, None
    once = Weights(np.ones((1, len(data.sources))))
    means = mean_defined(per_target(sign * layers, data.performance, once, statistic=statistic, jobs=jobs)[:, :, 0].T)
    agreement = [noise_ceiling(_present(layers[:, :, t])) for t in range(len(data.targets))]
    defined = [value for value in agreement if value is not None]
    return _span(np.asarray(means)), (sum(defined) / len(defined) if defined else None)


def _present(layers: Floats) -> Floats:
    """(R, S) without the sources and replicates that are missing altogether."""
    kept = layers[np.isfinite(layers).any(1)]
    return kept[:, np.isfinite(kept).any(0)]
