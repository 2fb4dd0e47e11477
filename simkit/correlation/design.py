"""One rectangle of sources and targets with its permutations: what is computed for every method alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from simkit.correlation.joining import Rectangle
from simkit.correlation.reliability import ceiling_of_mean, noise_ceiling
from simkit.correlation.results import MethodResult, Pooled, TargetResult, Within
from simkit.correlation.statistics import (
    EXACT_JOINT,
    best_of_top,
    bonett_wright,
    exact_or_sampled_orders,
    joint_permutation,
    line,
    pearson,
    spearman,
    static_permutation_p,
    static_scores,
    two_sided,
    two_way_bootstrap,
    within_correlation,
    within_target_p,
)
from simkit.recipe import rng_for

__all__ = ["FEWEST", "Design"]

FEWEST = 3
"""Sources of a target below which no correlation is given."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """The performances of sources on targets, and how they are resampled.

    Attributes:
        rectangle: performances and scores, (S, T).
        source_size: source -> number of images, where known.
        seed: of permutations and bootstrap.
        permutations: random permutations where not all are enumerated.
        bootstraps: resamples of the interval; 0 for no interval.
    """

    rectangle: Rectangle
    source_size: Mapping[str, float]
    seed: int
    permutations: int
    bootstraps: int

    @cached_property
    def orders(self) -> tuple[NDArray[np.int64], bool]:
        """Permutations of the sources, the same for all methods; and whether they are all there are."""
        rng = rng_for("correlate", "sources", self.seed)
        return exact_or_sampled_orders(len(self.rectangle.sources), most=EXACT_JOINT, permutations=self.permutations, rng=rng)

    @cached_property
    def static(self) -> Floats:
        """(S, T) mean rank of each source in the other targets."""
        return static_scores(self.rectangle.performance)

    def method(self, name: str, raw: Floats, *, higher_is_better: bool) -> tuple[MethodResult, Floats | None]:
        """The result of a method, and its mean Spearman in every permutation of the sources; None where it is undefined."""
        y = self.rectangle.performance
        x = raw if higher_is_better else -raw
        targets = tuple(self.target(t, x[:, t], raw[:, t]) for t in range(len(self.rectangle.targets)))
        mean = _mean(one.spearman for one in targets)
        if mean is None:
            why = "; ".join(f"{one.target}: {one.undefined}" for one in targets)
            return MethodResult(name, higher_is_better, None, None, None, None, _mean(one.regret for one in targets), None, 0, targets, why), None
        orders, exact = self.orders
        null = joint_permutation(x, y, orders)
        masked = np.where(np.isfinite(raw), self.static, np.nan)
        interval, versus = (two_way_bootstrap(x, y, versus=other, bootstraps=self.bootstraps, rng=rng_for("correlate", "bootstrap", self.seed))
                            for other in (None, masked))
        result = MethodResult(
            name, higher_is_better, mean, interval, two_sided(mean, null, exact=exact), None, _mean(one.regret for one in targets),
            _mean(_less(one.spearman, _defined(spearman(masked[:, t], y[:, t])[0])) for t, one in enumerate(targets)),
            sum(one.spearman is not None and one.spearman > 0 for one in targets), targets, versus_static_interval=versus,
        )
        return result, null

    def target(self, t: int, x: Floats, raw: Floats) -> TargetResult:
        """One method in one target; ``x`` is the oriented column, ``raw`` the one that is shown."""
        from scipy.stats import kendalltau, weightedtau

        name, y = self.rectangle.targets[t], self.rectangle.performance[:, t]
        rows = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        points = tuple((self.rectangle.sources[row], float(raw[row]), float(y[row])) for row in rows)
        chosen = self.choice(x, y)
        x, y, n = x[rows], y[rows], len(rows)
        why = _undefined(x, y)
        if why:
            return TargetResult(name, n, None, None, None, None, None, None, *chosen, points, why)
        rho = float(spearman(x, y)[0])
        rng = rng_for("correlate", "target", self.seed, name)
        p = within_target_p(x, y, permutations=self.permutations, rng=rng)
        tau, weighted = float(kendalltau(x, y, method="asymptotic").statistic), float(weightedtau(x, y).statistic)
        return TargetResult(name, n, rho, bonett_wright(rho, n), tau, weighted, pearson(x, y), p, *chosen, points)

    def choice(self, x: Floats, y: Floats) -> tuple[str, str, float | None, float | None, float | None, float | None]:
        """Best source, chosen source, regret, regret of a random pick, and relative performance of the first and the best of three.

        The best is that of all sources with a performance, also when ``x`` (S,) has no score for it: a method that cannot see the best
        source does not choose it, and pays for that.
        """
        measured = np.isfinite(y)
        if not measured.any():
            return "", "", None, None, None, None
        best, mean = float(y[measured].max()), float(y[measured].mean())
        best_names = self._named(measured & (y == best))
        scored = measured & np.isfinite(x)
        if not scored.any():
            return best_names, "", None, best - mean, None, None
        first = scored & (x == x[scored].max())
        relative = [best_of_top(x[scored], y[scored], k) / best if y[measured].min() > 0 else None for k in (1, 3)]
        return best_names, self._named(first), best - float(y[first].mean()), best - mean, relative[0], relative[1]

    def _named(self, those: NDArray[np.bool_]) -> str:
        return " or ".join(source for source, is_it in zip(self.rectangle.sources, those, strict=True) if is_it)

    def static_result(self) -> MethodResult:
        """The baseline that knows how good each source is in the other targets, and nothing about the target."""
        y = self.rectangle.performance
        targets = tuple(self.target(t, self.static[:, t], self.static[:, t]) for t in range(len(self.rectangle.targets)))
        mean = _mean(one.spearman for one in targets)
        p = None if mean is None else static_permutation_p(y, permutations=self.permutations, rng=rng_for("correlate", "static", self.seed))
        why = "; ".join(f"{one.target}: {one.undefined}" for one in targets) if mean is None else ""
        positive = sum(one.spearman is not None and one.spearman > 0 for one in targets)
        return MethodResult("static", True, mean, None, p, None, _mean(one.regret for one in targets), None, positive, targets, why)

    def size_result(self) -> MethodResult | None:
        """The baseline that takes the largest source, where sizes are known."""
        sizes = np.array([self.source_size.get(source, math.nan) for source in self.rectangle.sources])
        if not np.isfinite(sizes).any():
            return None
        return self.method("source-size", np.repeat(sizes[:, None], len(self.rectangle.targets), axis=1), higher_is_better=True)[0]

    def random_result(self) -> MethodResult:
        """The expected values of a source picked at random; nothing is drawn."""
        targets = []
        for t, name in enumerate(self.rectangle.targets):
            column = self.rectangle.performance[:, t]
            best, _, regret, random_regret, one, three = self.choice(np.zeros(len(column)), column)
            targets.append(TargetResult(name, int(np.isfinite(column).sum()), 0.0, None, 0.0, 0.0, 0.0, None, best, "", regret, random_regret, one, three, ()))
        return MethodResult("random", True, 0.0, None, None, None, _mean(one.regret for one in targets), None, 0, tuple(targets))

    def agreement(self) -> tuple[dict[str, float], dict[str, float]]:
        """Target -> agreement of one replicate with the others, and target -> ceiling of the mean, where there are replicates."""
        columns = {name: _present(self.rectangle.replicates[:, :, t]) for t, name in enumerate(self.rectangle.targets)}
        one, mean = ({name: value for name, column in columns.items() if (value := statistic(column)) is not None}
                     for statistic in (noise_ceiling, ceiling_of_mean))
        return one, mean

    def within(self, raw: Floats) -> Within | None:
        """The correlation of a raw column after each target's mean is subtracted."""
        found = within_correlation(raw, self.rectangle.performance)
        return None if found is None else Within(*found)

    def pooled(self, raw: Floats, *, includes_self: bool) -> Pooled:
        """Pearson's correlation of a raw column over all pairs."""
        available = np.isfinite(raw) & np.isfinite(self.rectangle.performance)
        r, p, slope, intercept = line(raw[available], self.rectangle.performance[available]) or (None, None, None, None)
        return Pooled(r, p, slope, intercept, int(available.sum()), includes_self)


def _present(replicates: Floats) -> Floats:
    """(R, S) without the sources and replicates that are missing altogether."""
    kept = replicates[np.isfinite(replicates).any(1)]
    return kept[:, np.isfinite(kept).any(0)]


def _undefined(x: Floats, y: Floats) -> str:
    if len(x) < FEWEST:
        return f"{len(x)} sources with score and performance, {FEWEST} are needed"
    if np.all(x == x[0]):
        return f"the score is constant ({len(x)} sources)"
    return f"the performance is constant ({len(y)} sources)" if np.all(y == y[0]) else ""


def _defined(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined else None
