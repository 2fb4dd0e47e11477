"""What holding scores against transfers says: per target, per method, and as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simkit.correlation.joining import Rectangle
from simkit.correlation.points import Points

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Correlation", "Influence", "MethodResult", "Mixed", "Pooled", "Range", "Stability", "TargetResult", "Within", "plain"]

Interval = tuple[float, float]


@dataclass(frozen=True)
class TargetResult:
    """How one method orders the sources of one target. Coefficients are of the oriented score: positive means more similar transfers better.

    Attributes:
        target: the target.
        n: sources with a score and a performance.
        spearman: Spearman's rank correlation (mid-ranks); None where undefined.
        interval: its 95 % interval (Fisher z, Bonett and Wright's standard error); None for fewer than 5 sources or a perfect order.
        kendall: Kendall's tau-b.
        weighted_tau: weighted Kendall's tau (hyperbolic, additive, mean of both orders: the defaults of scipy.stats.weightedtau).
        pearson: Pearson's correlation.
        p_value: two-sided permutation p-value of Spearman's correlation (exact up to 9 sources), of groups where there are any. Interval
            and resolution of one target take sources singly.
        best_source: the source with the best performance of all, whether the method scores it or not; joined by " or " when tied.
        chosen_source: the source that the method puts first; joined by " or " when tied.
        regret: performance of the best source less that of the chosen one (mean over tied ones), in units of the performance.
        random_regret: the expected regret of a source picked at random.
        relative_at_1: Rel@1, performance of the chosen source divided by that of the best; None where a performance is not positive.
        relative_at_3: Rel@3, best performance among the method's first three divided by the best (ties broken at random, expected value).
        points: (source, score as the method defines it, mean performance) of each source.
        undefined: why there is no correlation; "" where there is one.
        static_regret: the regret of the source that the static list puts first (the best over the other targets); None without one.
    """

    target: str
    n: int
    spearman: float | None
    interval: Interval | None
    kendall: float | None
    weighted_tau: float | None
    pearson: float | None
    p_value: float | None
    best_source: str
    chosen_source: str
    regret: float | None
    random_regret: float | None
    relative_at_1: float | None
    relative_at_3: float | None
    points: Sequence[tuple[str, float, float]]
    undefined: str = ""
    static_regret: float | None = None


@dataclass(frozen=True)
class Range:
    """The lowest and the highest value of a statistic when one thing at a time is left out, and which thing that was ("" for replicates)."""

    low: float
    high: float
    low_name: str
    high_name: str


@dataclass(frozen=True)
class Influence:
    """The one source, group or target whose removal moves the statistic most.

    Attributes:
        kind: "source", "group" or "target".
        name: which one.
        without: the statistic without it.
    """

    kind: str
    name: str
    without: float


@dataclass(frozen=True)
class Stability:
    """How much the mean correlation of a method rests on single things.

    Attributes:
        sources: range when one source is left out of every target.
        groups: when one group of sources is left out (groups of the table's ``source_group`` column); None without groups.
        targets: when one target is left out; None for one target.
        most_influential: what moves the mean most when it is left out.
        performance_replicates: range when one replicate of the performance is used alone; None without replicates.
        score_replicates: range when one replicate of the score is used alone; None without replicates.
        score_reliability: agreement of one replicate of the score with the mean of the others (mean Spearman over replicates and targets):
            the noisier a score, the less it can agree with transfer. None without replicates.
    """

    sources: Range | None = None
    groups: Range | None = None
    targets: Range | None = None
    most_influential: Influence | None = None
    performance_replicates: Range | None = None
    score_replicates: Range | None = None
    score_reliability: float | None = None


@dataclass(frozen=True)
class MethodResult:
    """How one method predicts transfer, over all targets.

    Attributes:
        method: its name.
        higher_is_better: its direction; distances (False) are negated before anything is computed.
        mean_spearman: unweighted mean over targets of Spearman's correlation; None where no target defines it.
        interval: 95 % percentile bootstrap interval of ``mean``, sources and targets resampled together.
        p_value: two-sided p-value of ``mean`` from permuting the source labels of the scores jointly in all targets; of the static baseline,
            from permuting the performances within each target.
        p_holm: adjusted for the number of methods (Holm).
        regret: mean over targets of the top-1 regret.
        versus_static: mean over targets of the correlation less that of the static baseline on the sources that the method scores.
        versus_static_interval: its 95 % percentile bootstrap interval, sources and targets resampled together; the static scores are kept.
        positive_targets: targets with a positive Spearman's correlation.
        targets: per target, in order of their names.
        undefined: why there is no mean correlation; "" where there is one.
        versus_static_common: the same difference with the method, too, on the sources that the static list knows; None where that is no other
            (the static list knows no source that occurs in one target only).
        versus_static_common_interval: its interval.
        mean: the primary statistic: ``mean_spearman``, or the unweighted mean over targets of the coefficient that was asked for.
        p_max: adjusted for the number of methods by the step-down maximum over methods in the same permutations (Westfall and Young 1993,
            max-T, of standardised means): it knows how much the methods have in common, so it is mostly smaller than Holm's.
        fixed_sources_interval: 95 % percentile bootstrap interval of ``mean`` when only targets are resampled: these sources, other targets.
            None for fewer than 5 targets.
        versus_best: ``mean`` less that of the method with the highest mean; 0 for that one, None without another.
        versus_best_interval: its 95 % percentile interval in the same resamples. The best was picked by the same data: descriptive.
        stability: what the mean rests on.
        mean_relative_at_1: Rel@1, mean over the targets that define it.
        mean_relative_at_3: Rel@3, likewise.
    """

    method: str
    higher_is_better: bool
    mean_spearman: float | None
    interval: Interval | None
    p_value: float | None
    p_holm: float | None
    regret: float | None
    versus_static: float | None
    positive_targets: int
    targets: tuple[TargetResult, ...]
    undefined: str = ""
    versus_static_interval: Interval | None = None
    versus_static_common: float | None = None
    versus_static_common_interval: Interval | None = None
    mean: float | None = None
    p_max: float | None = None
    fixed_sources_interval: Interval | None = None
    versus_best: float | None = None
    versus_best_interval: Interval | None = None
    stability: Stability = field(default_factory=Stability)
    mean_relative_at_1: float | None = None
    mean_relative_at_3: float | None = None


@dataclass(frozen=True)
class Pooled:
    """Pearson's correlation over the pairs of all targets together, as published figures have it: differences between targets go into it.

    r, slope and intercept are of the raw column: a distance is not negated, so for a distance a negative r means that more similar
    sources transfer better. The p-value takes all pairs for independent, which they are not (each source and target comes back).

    Attributes:
        pearson: r; None for a constant column or fewer than 3 pairs.
        p_value: two-sided, from Student's t with n - 2 degrees of freedom.
        slope: of the least-squares line of performance on the raw value.
        intercept: of that line.
        n: pairs.
        includes_self: whether self pairs are among them.
    """

    pearson: float | None
    p_value: float | None
    slope: float | None
    intercept: float | None
    n: int
    includes_self: bool

    @property
    def r(self) -> float | None:
        """Pearson's correlation."""
        return self.pearson

    @property
    def p(self) -> float | None:
        """Its p-value."""
        return self.p_value


@dataclass(frozen=True)
class Within:
    """Repeated-measures correlation: Pearson's r after each target's mean is subtracted, of the raw column as in :class:`Pooled`.

    Its p-value (n - targets - 1 degrees of freedom) ignores that sources come back in every target.

    Attributes:
        r: the correlation.
        p_value: two-sided.
        n: pairs.
        targets: targets with at least two pairs.
    """

    r: float
    p_value: float
    n: int
    targets: int


@dataclass(frozen=True)
class Mixed:
    """The linear mixed model z(performance) ~ z(score) + target + (1 | source), fitted by REML; both sides standardised within each target.

    It asks the question of the permutation test with more assumptions (linear, normal, additive source effects) and, for few sources, too
    small p-values: those here are from the normal distribution, without a correction for few degrees of freedom.

    Attributes:
        slope: standard deviations of performance per standard deviation of the oriented score; None where the model could not be fitted.
        standard_error: of the slope.
        p_value: two-sided, normal approximation.
        source_variance: variance of the source effects.
        residual_variance: variance of what is left.
        converged: whether the optimiser says so.
        boundary: whether the source variance was estimated as zero, the edge of what it can be.
        n: pairs.
        problem: why there is no model; "" where there is one.
    """

    slope: float | None
    standard_error: float | None
    p_value: float | None
    source_variance: float | None
    residual_variance: float | None
    converged: bool
    boundary: bool
    n: int
    problem: str = ""


@dataclass(frozen=True)
class Correlation:
    """Whether similarity predicts transfer. All figures leave self pairs out, except those of ``with_self``.

    Attributes:
        methods: by the primary statistic, best first; undefined ones last.
        baselines: "static" (mean rank of a source in the other targets), "source-size", "random" (expected values); all three are there
            always, one that cannot be computed is undefined and says why.
        n_pairs: pairs with a performance.
        n_sources: sources among them.
        n_targets: targets among them.
        targets: their names, in order.
        sources: their names, in order.
        metric: of the performance.
        notes: what was recognised, oriented, averaged, left out.
        warnings: what limits the reading of the numbers.
        pooled: per method, the pooled correlation; only when it was asked for.
        with_self: the same with self pairs, without p-values; only when they were asked for.
        seed: of permutations and bootstrap.
        permutations: random permutations where not all are enumerated.
        bootstraps: resamples of the interval.
        resolution: what could have been seen with so few sources and targets.
        noise_ceiling: per target, the agreement of one replicate of the performance with the others (mean Spearman). No ceiling of the
            correlations here, which are with the mean over replicates.
        ceiling_of_mean: per target, the Spearman's correlation with that mean which is expected of a score without error
            (:func:`simkit.correlation.reliability.ceiling_of_mean`).
        within: per method, the within-target (repeated-measures) correlation.
        joint_exact: whether all (permitted) orders of the sources were enumerated for the p-values.
        statistic: the coefficient whose mean over targets is primary: "spearman", "kendall" or "weighted-tau".
        baseline: what performances are relative to: "none", "self" or "scratch".
        logit: whether Pearson's correlations, within, pooled and mixed, are of logit(performance). Ranks do not change by it.
        power: (true mean Spearman, probability that p <= 0.05) of a single method in a table like this one; simulated.
        mixed: per method, the linear mixed model; only when it was asked for.
        groups: source -> group, where the table has them.
        grouped: whether groups of sources are permuted and drawn together, because some sources share one.
        self_pairs: pairs of a data set with itself that were found, "source -> target".
        data: the numbers behind all this (not part of ``as_dict``, which has them as points).
    """

    methods: tuple[MethodResult, ...]
    baselines: tuple[MethodResult, ...]
    n_pairs: int
    n_sources: int
    n_targets: int
    targets: tuple[str, ...]
    sources: tuple[str, ...]
    metric: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    pooled: Mapping[str, Pooled]
    with_self: Correlation | None
    seed: int
    permutations: int
    bootstraps: int
    resolution: str
    noise_ceiling: Mapping[str, float]
    within: Mapping[str, Within] = field(default_factory=dict)
    joint_exact: bool = False
    ceiling_of_mean: Mapping[str, float] = field(default_factory=dict)
    statistic: str = "spearman"
    baseline: str = "none"
    logit: bool = False
    power: tuple[tuple[float, float], ...] = ()
    mixed: Mapping[str, Mixed] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    grouped: bool = False
    self_pairs: tuple[str, ...] = ()
    data: Rectangle | None = field(default=None, repr=False, compare=False)

    @property
    def frame(self) -> pd.DataFrame:
        """One row a method, best first, and one a baseline behind them (``kind``)."""
        import pandas as pd

        rows = [{"kind": kind, **_row(result)} for kind, results in (("method", self.methods), ("baseline", self.baselines)) for result in results]
        return pd.DataFrame(rows, columns=["method", "kind", *(name for name in _row(self.baselines[-1]) if name != "method")])

    @property
    def per_target(self) -> pd.DataFrame:
        """One row a method and target, baselines after the methods."""
        import pandas as pd

        rows = []
        for kind, results in (("method", self.methods), ("baseline", self.baselines)):
            for result in results:
                for one in result.targets:
                    cells = {f.name: getattr(one, f.name) for f in dataclasses.fields(one) if f.name not in ("points", "interval", "undefined")}
                    lower, upper = one.interval or (None, None)
                    rows.append({"method": result.method, "kind": kind, **cells, "lower": lower, "upper": upper, "undefined": one.undefined})
        columns = ["method", "kind", "target", "n", "spearman", "lower", "upper", "kendall", "weighted_tau", "pearson", "p_value", "best_source",
                   "chosen_source", "regret", "random_regret", "static_regret", "relative_at_1", "relative_at_3", "undefined"]
        return pd.DataFrame(rows, columns=columns)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON types in full precision, with the versions that computed it."""
        from importlib.metadata import version

        from simkit import __version__

        out = {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name not in ("with_self", "data")}
        out["with_self"] = None if self.with_self is None else self.with_self.as_dict()
        out["versions"] = {"simkit": __version__, "numpy": version("numpy"), "scipy": version("scipy")}
        return out

    def text(self, width: int = 100, *, details: bool | None = None) -> str:
        """The tables for a terminal of that width.

        Args:
            width: columns of the terminal.
            details: whether every coefficient of every method in every target is printed; None prints them where they are few.
        """
        from simkit.correlation.text import correlation_text

        return correlation_text(self, width, details=details)

    def _repr_html_(self) -> str:
        from simkit.correlation.text import correlation_html

        return correlation_html(self)


def _row(result: MethodResult) -> dict[str, Any]:
    stability = result.stability
    influence = stability.most_influential
    out: dict[str, Any] = {"method": result.method, "higher_is_better": result.higher_is_better, "mean": result.mean}
    out |= {"mean_spearman": result.mean_spearman, **_ends("", result.interval), **_ends("fixed_sources_", result.fixed_sources_interval)}
    out |= {"p_value": result.p_value, "p_holm": result.p_holm, "p_max": result.p_max, "regret": result.regret}
    out |= {"mean_relative_at_1": result.mean_relative_at_1, "mean_relative_at_3": result.mean_relative_at_3}
    out |= {"versus_static": result.versus_static, **_ends("versus_static_", result.versus_static_interval)}
    out |= {"versus_static_common": result.versus_static_common, **_ends("versus_static_common_", result.versus_static_common_interval)}
    out |= {"versus_best": result.versus_best, **_ends("versus_best_", result.versus_best_interval)}
    for name in ("sources", "groups", "targets"):
        left_out = getattr(stability, name)
        out |= _ends(f"without_one_of_{name}_", None if left_out is None else (left_out.low, left_out.high))
    out["most_influential"] = "" if influence is None else f"{influence.kind} {influence.name}"
    out["without_it"] = None if influence is None else influence.without
    return out | {"positive_targets": result.positive_targets, "n_targets": len(result.targets), "undefined": result.undefined}


def _ends(prefix: str, interval: Interval | None) -> dict[str, float | None]:
    lower, upper = interval or (None, None)
    return {f"{prefix}lower": lower, f"{prefix}upper": upper}


def plain(value: Any) -> Any:
    """Dataclasses, mappings and sequences as JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, Points)):
        return [plain(item) for item in value]
    return value
