"""What holding scores against transfers says: per target, per method, and as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Correlation", "MethodResult", "Pooled", "TargetResult", "Within"]

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
        p_value: two-sided permutation p-value of Spearman's correlation (exact up to 9 sources).
        best_source: the source with the best performance of all, whether the method scores it or not; joined by " or " when tied.
        chosen_source: the source that the method puts first; joined by " or " when tied.
        regret: performance of the best source less that of the chosen one (mean over tied ones), in units of the performance.
        random_regret: the expected regret of a source picked at random.
        relative_at_1: performance of the chosen source divided by that of the best; None where a performance is not positive.
        relative_at_3: best performance among the method's first three divided by the best (ties broken at random, expected value).
        points: (source, score as the method defines it, mean performance) of each source.
        undefined: why there is no correlation; "" where there is one.
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
    points: tuple[tuple[str, float, float], ...]
    undefined: str = ""


@dataclass(frozen=True)
class MethodResult:
    """How one method predicts transfer, over all targets.

    Attributes:
        method: its name.
        higher_is_better: its direction; distances (False) are negated before anything is computed.
        mean_spearman: unweighted mean over targets of Spearman's correlation; None where no target defines it.
        interval: 95 % percentile bootstrap interval, sources and targets resampled together.
        p_value: two-sided p-value from permuting the source labels of the scores jointly in all targets; of the static baseline, from
            permuting the performances within each target.
        p_holm: adjusted for the number of methods (Holm).
        regret: mean over targets of the top-1 regret.
        versus_static: mean over targets of Spearman's correlation less that of the static baseline on the sources that the method scores.
        versus_static_interval: its 95 % percentile bootstrap interval, sources and targets resampled together; the static scores are kept.
        positive_targets: targets with a positive correlation.
        targets: per target, in order of their names.
        undefined: why there is no mean correlation; "" where there is one.
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
class Correlation:
    """Whether similarity predicts transfer. All figures leave self pairs out, except ``pooled`` when they were asked for, and ``with_self``.

    Attributes:
        methods: by mean Spearman, best first; undefined ones last.
        baselines: "static" (mean rank of a source in the other targets), "source-size" where sizes are known, "random" (expected values).
        n_pairs: pairs with a performance and at least one score.
        n_sources: sources among them.
        n_targets: targets among them.
        targets: their names, in order.
        sources: their names, in order.
        metric: of the performance.
        notes: what was recognised, oriented, averaged, left out.
        warnings: what limits the reading of the numbers.
        pooled: per method, the pooled correlation; only when it was asked for.
        with_self: the same with self pairs; only when they were asked for.
        seed: of permutations and bootstrap.
        permutations: random permutations where not all are enumerated.
        bootstraps: resamples of the interval.
        resolution: what could have been seen with so few sources and targets.
        noise_ceiling: per target, the agreement of one replicate of the performance with the others (mean Spearman). No ceiling of the
            correlations here, which are with the mean over replicates.
        ceiling_of_mean: per target, the Spearman's correlation with that mean which is expected of a score without error
            (:func:`simkit.correlation.reliability.ceiling_of_mean`).
        within: per method, the within-target (repeated-measures) correlation.
        joint_exact: whether all orders of the sources were enumerated for the p-values.
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

    @property
    def frame(self) -> pd.DataFrame:
        """One row a method, best first; the baselines are not in it."""
        import pandas as pd

        columns = ["method", "higher_is_better", "mean_spearman", "lower", "upper", "p_value", "p_holm", "regret", "versus_static",
                   "versus_static_lower", "versus_static_upper", "positive_targets", "n_targets", "undefined"]
        return pd.DataFrame([_row(result) for result in self.methods], columns=columns)

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
                   "chosen_source", "regret", "random_regret", "relative_at_1", "relative_at_3", "undefined"]
        return pd.DataFrame(rows, columns=columns)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON types in full precision, with the versions that computed it."""
        from importlib.metadata import version

        from simkit import __version__

        out = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "with_self"}
        out["with_self"] = None if self.with_self is None else self.with_self.as_dict()
        out["versions"] = {"simkit": __version__, "numpy": version("numpy"), "scipy": version("scipy")}
        return out

    def text(self, width: int = 100) -> str:
        """The table for a terminal of that width."""
        from simkit.correlation.text import correlation_text

        return correlation_text(self, width)

    def _repr_html_(self) -> str:
        from simkit.correlation.text import correlation_html

        return correlation_html(self)


def _row(result: MethodResult) -> dict[str, Any]:
    lower, upper = result.interval or (None, None)
    versus_lower, versus_upper = result.versus_static_interval or (None, None)
    return {"method": result.method, "higher_is_better": result.higher_is_better, "mean_spearman": result.mean_spearman, "lower": lower, "upper": upper,
            "p_value": result.p_value, "p_holm": result.p_holm, "regret": result.regret, "versus_static": result.versus_static,
            "versus_static_lower": versus_lower, "versus_static_upper": versus_upper, "positive_targets": result.positive_targets,
            "n_targets": len(result.targets), "undefined": result.undefined}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
