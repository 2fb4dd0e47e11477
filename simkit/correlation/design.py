"""One rectangle of sources and targets with its permutations: what is computed for every method alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from simkit.correlation.joining import Rectangle
from simkit.correlation.results import MethodResult, Pooled, TargetResult, Within
from simkit.correlation.statistics import (
    EXACT_JOINT,
    best_of_top,
    bonett_wright,
    critical_size,
    exact_or_sampled_orders,
    joint_permutation,
    line,
    noise_ceiling,
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

    def method(self, name: str, raw: Floats, *, higher_is_better: bool) -> tuple[MethodResult, float | None]:
        """The result of a method, and the mean Spearman that it would have to exceed for p <= 0.05."""
        y = self.rectangle.performance
        x = raw if higher_is_better else -raw
        targets = tuple(self.target(t, x[:, t], raw[:, t]) for t in range(len(self.rectangle.targets)))
        mean = _mean(one.spearman for one in targets)
        if mean is None:
            why = "; ".join(f"{one.target}: {one.undefined}" for one in targets)
            return MethodResult(name, higher_is_better, None, None, None, None, _mean(one.regret for one in targets), None, 0, targets, why), None
        orders, exact = self.orders
        null = joint_permutation(x, y, orders)
        interval = two_way_bootstrap(x, y, bootstraps=self.bootstraps, rng=rng_for("correlate", "bootstrap", self.seed))
        masked = np.where(np.isfinite(raw), self.static, np.nan)
        result = MethodResult(
            name, higher_is_better, mean, interval, two_sided(mean, null, exact=exact), None, _mean(one.regret for one in targets),
            _mean(_less(one.spearman, _defined(spearman(masked[:, t], y[:, t])[0])) for t, one in enumerate(targets)),
            sum(one.spearman is not None and one.spearman > 0 for one in targets), targets,
        )
        return result, critical_size(null)

    def target(self, t: int, x: Floats, raw: Floats) -> TargetResult:
        """One method in one target; ``x`` is the oriented column, ``raw`` the one that is shown."""
        from scipy.stats import kendalltau, weightedtau

        name, y = self.rectangle.targets[t], self.rectangle.performance[:, t]
        rows = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        points = tuple((self.rectangle.sources[row], float(raw[row]), float(y[row])) for row in rows)
        x, y, n = x[rows], y[rows], len(rows)
        sources = [source for source, _, _ in points]
        chosen = self.choice(sources, x, y)
        why = _undefined(x, y)
        if why:
            return TargetResult(name, n, None, None, None, None, None, None, *chosen, points, why)
        rho = float(spearman(x, y)[0])
        rng = rng_for("correlate", "target", self.seed, name)
        p = within_target_p(x, y, permutations=self.permutations, rng=rng)
        tau, weighted = float(kendalltau(x, y, method="asymptotic").statistic), float(weightedtau(x, y).statistic)
        return TargetResult(name, n, rho, bonett_wright(rho, n), tau, weighted, pearson(x, y), p, *chosen, points)

    @staticmethod
    def choice(sources: list[str], x: Floats, y: Floats) -> tuple[str, str, float | None, float | None, float | None, float | None]:
        """Best source, chosen source, regret, regret of a random pick, and relative performance of the first and the best of three."""
        if len(y) == 0:
            return "", "", None, None, None, None
        best = float(y.max())
        first = x == x.max()
        names = [" or ".join(source for source, is_it in zip(sources, those, strict=True) if is_it) for those in (y == best, first)]
        relative = [best_of_top(x, y, k) / best if y.min() > 0 else None for k in (1, 3)]
        return names[0], names[1], best - float(y[first].mean()), best - float(y.mean()), relative[0], relative[1]

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
            rows = np.flatnonzero(np.isfinite(column))
            best, _, regret, random_regret, one, three = self.choice([self.rectangle.sources[row] for row in rows], np.zeros(len(rows)), column[rows])
            targets.append(TargetResult(name, len(rows), 0.0, None, 0.0, 0.0, 0.0, None, best, "", regret, random_regret, one, three, ()))
        return MethodResult("random", True, 0.0, None, None, None, _mean(one.regret for one in targets), None, 0, tuple(targets))

    def ceiling(self) -> dict[str, float]:
        """Target -> agreement of one replicate with the others, where there are replicates."""
        ceilings = {name: noise_ceiling(_present(self.rectangle.replicates[:, :, t])) for t, name in enumerate(self.rectangle.targets)}
        return {name: value for name, value in ceilings.items() if value is not None}

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
