"""One rectangle of sources and targets with its resamples: what is computed for every method alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from simkit.correlation.exchange import Exchange
from simkit.correlation.inference import Bootstraps, Nulls, bootstraps, max_t, nulls
from simkit.correlation.joining import Rectangle
from simkit.correlation.points import Points
from simkit.correlation.reliability import ceiling_from_sd, ceiling_of_mean, noise_ceiling
from simkit.correlation.resampling import Statistic, Weights, per_target
from simkit.correlation.results import Interval, MethodResult, Mixed, Pooled, TargetResult, Within
from simkit.correlation.stability import stabilities
from simkit.correlation.statistics import (
    Orders,
    best_of_top,
    bonett_wright,
    holm,
    line,
    logit_of,
    mean_defined,
    pearson,
    static_permutation_p,
    static_scores,
    within_correlation,
    within_target_p,
)
from simkit.recipe import rng_for

__all__ = ["FEWEST", "Design", "Options"]

FEWEST = 3
"""Sources of a target below which no correlation is given."""

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """How the statistics are computed.

    Attributes:
        seed: of permutations and bootstrap.
        permutations: random permutations where not all are enumerated.
        bootstraps: resamples of the intervals; 0 for none.
        statistic: the coefficient whose mean over targets is primary.
        logit: whether Pearson's correlations are of logit(performance).
        jobs: threads; 0 for as many as BLAS may use.
        tested: whether there are p-values. Self pairs are nearest and mostly transfer best by construction: two measures that know nothing of each
            other agree on them, so with them there are none.
    """

    seed: int = 0
    permutations: int = 9999
    bootstraps: int = 2000
    statistic: Statistic = "spearman"
    logit: bool = False
    jobs: int = 0
    tested: bool = True


@dataclass(frozen=True)
class Design:
    """The performances of sources on targets, and how they are resampled.

    Attributes:
        rectangle: performances and scores, (S, T).
        source_size: source -> number of images, where known.
        groups: source -> group, where known.
        options: how the statistics are computed.
    """

    rectangle: Rectangle
    source_size: Mapping[str, float]
    groups: Mapping[str, str]
    options: Options

    @cached_property
    def static(self) -> Floats | None:
        """(S, T) mean rank of each source in the other targets; None for a single target."""
        return static_scores(self.rectangle.performance) if len(self.rectangle.targets) >= 2 else None

    @cached_property
    def linear(self) -> Floats:
        """(S, T) the performances for coefficients that are not of ranks: as they are, or their logits."""
        return logit_of(self.rectangle.performance) if self.options.logit else self.rectangle.performance

    @cached_property
    def exchange(self) -> Exchange:
        """Which sources may change places, and which are drawn together."""
        return Exchange.of(self.rectangle.sources, self.groups)

    def methods(self, higher_is_better: Mapping[str, bool]) -> tuple[list[MethodResult], Nulls]:
        """The results of all methods, best first, undefined ones last; and the statistic of each (in that order) in every permutation."""
        data, options = self.rectangle, self.options
        names = list(data.scores)
        signs = [1 if higher_is_better[name] else -1 for name in names]
        oriented = np.stack([sign * data.scores[name] for name, sign in zip(names, signs, strict=True)])
        found = self._nulls(oriented)
        boot = self._bootstraps(oriented)
        plain = found.p_values()
        adjusted, largest = holm(plain), max_t(found)
        stability = stabilities(data, oriented, signs, self.groups, statistic=options.statistic, jobs=options.jobs)
        per = self.targets(oriented, np.stack([data.scores[name] for name in names]))
        versus, common = self._versus_static(oriented)
        results = []
        for m, name in enumerate(names):
            one = self._result(name, bool(signs[m] > 0), per[m], float(found.observed[m]), plain[m], boot, m)
            one = replace(one, p_holm=adjusted[m], p_max=largest[m], stability=stability[m])
            if not one.undefined:
                interval = None if boot is None or common[m] is None else boot.versus_common_interval(m)
                one = replace(one, versus_static=versus[m], versus_static_common=common[m], versus_static_common_interval=interval)
            results.append(one)
        order = sorted(range(len(names)), key=lambda m: (results[m].mean is None, -(results[m].mean or 0.0), names[m]))
        best = order[0]
        for m in order[1:]:
            mean, top = results[m].mean, results[best].mean
            if mean is not None and top is not None:
                interval = None if boot is None else boot.difference_interval(m, best)
                results[m] = replace(results[m], versus_best=mean - top, versus_best_interval=interval)
        if len(names) > 1 and results[best].mean is not None:
            results[best] = replace(results[best], versus_best=0.0)
        ordered = Nulls(found.values[order], found.observed[order], found.exact)
        return [results[m] for m in order], ordered

    def _nulls(self, oriented: Floats) -> Nulls:
        options = self.options
        if not options.tested:
            return Nulls(np.empty((len(oriented), 0)), mean_defined(self._once(oriented).T), exact=False)
        return nulls(oriented, self.rectangle.performance, permutations=options.permutations, seed=options.seed, exchange=self.exchange,
                     statistic=options.statistic, jobs=options.jobs)

    def _bootstraps(self, oriented: Floats) -> Bootstraps | None:
        options = self.options
        return bootstraps(oriented, self.rectangle.performance, static=self.static, count=options.bootstraps, seed=options.seed,
                          exchange=self.exchange, statistic=options.statistic, jobs=options.jobs)

    def _once(self, x: Floats) -> Floats:
        """(M, T) the coefficients of the data themselves."""
        once = Weights(np.ones((1, len(self.rectangle.sources))))
        return per_target(x, self.rectangle.performance, once, statistic=self.options.statistic, jobs=self.options.jobs)[:, :, 0]

    def _versus_static(self, oriented: Floats) -> tuple[list[float | None], list[float | None]]:
        """Mean over targets of the difference to the static baseline on the sources of the method, and on those that both have where that is another.

        One a method.
        """
        nothing: list[float | None] = [None] * len(oriented)
        if self.static is None:
            return nothing, nothing
        static = self._once(np.where(np.isfinite(oriented), self.static, np.nan))
        plain = [_defined(value) for value in mean_defined((self._once(oriented) - static).T)]
        lacking = np.isfinite(oriented) & ~np.isfinite(self.static)
        common = mean_defined((self._once(np.where(lacking, np.nan, oriented)) - static).T)
        return plain, [_defined(value) if lacking[m].any() else None for m, value in enumerate(common)]

    def _result(
        self, name: str, higher: bool, targets: tuple[TargetResult, ...], mean: float, p: float | None, boot: Bootstraps | None, m: int,
    ) -> MethodResult:
        spearman, regret = _mean(one.spearman for one in targets), _mean(one.regret for one in targets)
        relative = [_mean(getattr(one, f"relative_at_{k}") for one in targets) for k in (1, 3)]
        if not math.isfinite(mean):
            why = "; ".join(f"{one.target}: {one.undefined}" for one in targets)
            return MethodResult(name, higher, None, None, None, None, regret, None, 0, targets, why, mean_relative_at_1=relative[0],
                                mean_relative_at_3=relative[1])
        intervals: tuple[Interval | None, Interval | None, Interval | None] = (None, None, None)
        if boot is not None:
            intervals = (boot.interval(m), boot.versus_interval(m), boot.fixed_sources_interval(m))
        positive = sum((one.spearman or 0.0) > 0 for one in targets)
        return MethodResult(name, higher, spearman, intervals[0], p, None, regret, None, positive, targets, versus_static_interval=intervals[1], mean=mean,
                            fixed_sources_interval=intervals[2], mean_relative_at_1=relative[0], mean_relative_at_3=relative[1])

    def targets(self, oriented: Floats, raw: Floats) -> list[tuple[TargetResult, ...]]:
        """One method after the other in every target; ``oriented`` and ``raw`` (M, S, T), the latter as it is shown."""
        data = self.rectangle
        once = Weights(np.ones((1, len(data.sources))))
        kendall = per_target(oriented, data.performance, once, statistic="kendall", jobs=self.options.jobs)[:, :, 0]
        columns = []
        for t, name in enumerate(data.targets):
            rng_name = ("correlate", "target", self.options.seed, name)
            rho, p = within_target_p(oriented[:, :, t], data.performance[:, t], permutations=self.options.permutations, rng_name=rng_name,
                                     orders=self._orders_within if self.exchange.grouped else None)
            static = None if self.static is None else self.choice(self.static[:, t], data.performance[:, t])[2]
            columns.append([self._target(t, x, shown, (float(rho[m]), float(p[m]), float(kendall[m, t])), static)
                            for m, (x, shown) in enumerate(zip(oriented[:, :, t], raw[:, :, t], strict=True))])
        return [tuple(column[m] for column in columns) for m in range(len(oriented))]

    def _orders_within(self, mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[Orders, bool]:
        """Permutations of the sources of one target, by groups."""
        return self.exchange.part(mask).orders(self.options.permutations, rng)

    def _target(self, t: int, x: Floats, raw: Floats, numbers: tuple[float, float, float], static: float | None) -> TargetResult:
        """One method in one target; ``numbers`` are Spearman's correlation, its p-value and Kendall's tau."""
        from scipy.stats import weightedtau

        name, y = self.rectangle.targets[t], self.rectangle.performance[:, t]
        rows = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        points = Points(self.rectangle.sources, rows, raw, y)
        chosen = self.choice(x, y)
        linear = self.linear[rows, t]
        x, y, n = x[rows], y[rows], len(rows)
        why = _undefined(x, y)
        if why:
            return TargetResult(name, n, None, None, None, None, None, None, *chosen, points, why, static)
        rho, p, tau = numbers
        tested = p if self.options.tested else None
        weighted = float(weightedtau(x, y).statistic)
        return TargetResult(name, n, rho, bonett_wright(rho, n), tau, weighted, pearson(x, linear), tested, *chosen, points, "", static)

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

    def baselines(self) -> tuple[MethodResult, ...]:
        """The static list, the size of the source, and a random source: always all three; one that cannot be computed says why."""
        return self._static_result(), self._size_result(), self._random_result()

    def _static_result(self) -> MethodResult:
        """The baseline that knows how good each source is in the other targets, and nothing about the target."""
        data, options = self.rectangle, self.options
        if self.static is None:
            return _without("static", "one target: there are no other targets to learn from", data.targets)
        targets = self.targets(self.static[None], self.static[None])[0]
        result = self._result("static", True, targets, float(mean_defined(self._once(self.static[None]).T)[0]), None, None, 0)
        if result.mean is None or options.statistic != "spearman" or not options.tested:
            return result
        p = static_permutation_p(data.performance, permutations=options.permutations, rng=rng_for("correlate", "static", options.seed))
        return replace(result, p_value=p)

    def _size_result(self) -> MethodResult:
        """The baseline that takes the largest source."""
        data = self.rectangle
        sizes = np.array([self.source_size.get(source, math.nan) for source in data.sources])
        if not np.isfinite(sizes).any():
            return _without("source-size", "the sizes of the sources are not known: give a column source_size", data.targets)
        columns = np.where(np.isfinite(data.performance), sizes[:, None], np.nan)  # as a method has it: none for self pairs
        alone = replace(self, rectangle=replace(data, scores={"source-size": columns}, score_replicates={}))
        result = alone.methods({"source-size": True})[0][0]
        return replace(result, p_holm=None, p_max=None)

    def _random_result(self) -> MethodResult:
        """The expected values of a source picked at random; nothing is drawn."""
        targets = []
        for t, name in enumerate(self.rectangle.targets):
            column = self.rectangle.performance[:, t]
            best, _, regret, random_regret, one, three = self.choice(np.zeros(len(column)), column)
            static = None if self.static is None else self.choice(self.static[:, t], column)[2]
            targets.append(TargetResult(name, int(np.isfinite(column).sum()), 0.0, None, 0.0, 0.0, 0.0, None, best, "", regret, random_regret, one, three, (),
                                        static_regret=static))
        result = self._result("random", True, tuple(targets), 0.0, None, None, 0)
        return replace(result, positive_targets=0)

    def agreement(self) -> tuple[dict[str, float], dict[str, float]]:
        """Target -> agreement of one replicate with the others, and target -> ceiling of the mean, from replicates or from their spread."""
        data = self.rectangle
        columns = {name: _present(data.replicates[:, :, t]) for t, name in enumerate(data.targets)}
        one, mean = ({name: value for name, column in columns.items() if (value := statistic(column)) is not None}
                     for statistic in (noise_ceiling, ceiling_of_mean))
        if data.performance_sd is not None:
            of_sd = {name: ceiling_from_sd(data.performance[:, t], data.performance_sd[:, t]) for t, name in enumerate(data.targets)}
            mean = {name: value for name, value in of_sd.items() if value is not None} | mean
        return one, mean

    def within(self, raw: Floats) -> Within | None:
        """The correlation of a raw column after each target's mean is subtracted."""
        found = within_correlation(raw, self.linear)
        return None if found is None else Within(*found)

    def pooled(self, raw: Floats, *, includes_self: bool) -> Pooled:
        """Pearson's correlation of a raw column over all pairs."""
        available = np.isfinite(raw) & np.isfinite(self.linear)
        r, p, slope, intercept = line(raw[available], self.linear[available]) or (None, None, None, None)
        return Pooled(r, p, slope, intercept, int(available.sum()), includes_self)

    def mixed(self, raw: Floats, *, higher_is_better: bool) -> Mixed:
        """The linear mixed model of a raw column."""
        from simkit.correlation.mixed import mixed_model

        return mixed_model(raw if higher_is_better else -raw, self.linear)


def _without(name: str, why: str, targets: Sequence[str]) -> MethodResult:
    """A baseline that cannot be computed."""
    nothing = (None,) * 6
    each = tuple(TargetResult(target, 0, *nothing, "", "", None, None, None, None, (), why) for target in targets)
    return MethodResult(name, True, None, None, None, None, None, None, 0, each, why)


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


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined else None
