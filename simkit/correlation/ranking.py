"""Which source to take: sources in order of measured transfer, with what cannot be told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simkit.correlation.joining import SCRATCH
from simkit.correlation.metrics import is_share, refuse_lower_is_better
from simkit.errors import DataError
from simkit.recipe import rng_for
from simkit.tables import TransferTable

__all__ = ["RankedSource", "answer", "rank_sources"]

BOOTSTRAPS = 2000
"""Resamples behind the probability of being best."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RankedSource:
    """One source of a target, as its transfers were measured.

    The training sets of folds overlap, so folds are not independent and the plain variance of their mean is too small. All intervals use
    the corrected variance s^2 (1/J + n_test/n_train) of Nadeau and Bengio (2003) with J - 1 degrees of freedom; where the table does
    not hold n_train and n_test, n_test/n_train is 1/(J - 1), as in J-fold cross-validation.

    Replicates differ in difficulty, so sources are chosen, ordered and compared on the replicates that all sources with a performance have
    (baselines too): a source that failed on a hard fold gains nothing by it. Where no replicate is common to all, the order is that of the
    own means, ``n_common`` is 0, and nothing is told apart.

    Attributes:
        source: its name.
        target: the target.
        metric: of the performance.
        mean: mean performance over its own defined replicates; None when none is defined.
        interval: 95 % interval of the mean, cut to 0..1 for metrics of that range (AUC, accuracy); None for fewer than 2 replicates.
        n: defined replicates.
        undefined: replicates without a performance.
        probability_best: the share of bootstrap samples of the replicates (paired: all sources on the same replicates) in which this
            source has the highest mean, ties shared; the spread of the samples is widened to the corrected variance, and by the factor
            sqrt((J - 1) / chi2) with J - 1 degrees of freedom, drawn for each sample, because a variance from J replicates is itself
            uncertain. None when fewer than 2 replicates are common to all sources.
        gap_to_best: mean of the best source less this mean, over the replicates common to all sources; negative only for a baseline that
            does better. None without a common replicate.
        gap_interval: its 95 % interval from paired differences; None for fewer than 2 common replicates, and for the best itself. The best
            was picked by the same data and comparisons are not adjusted for their number: read the intervals as descriptive.
        tied: not distinguishable from the best: the interval of the gap holds 0, or there is none.
        best: whether it is the source with the highest mean (over the common replicates) that is no baseline.
        baseline: "scratch" (no pretraining) or the target itself: ranked, but no source to recommend.
        mean_common: mean over the replicates common to all sources; None without one.
        n_common: how many these are; fewer than ``n`` where some source lacks some.
    """

    source: str
    target: str
    metric: str
    mean: float | None
    interval: tuple[float, float] | None
    n: int
    undefined: int
    probability_best: float | None
    gap_to_best: float | None
    gap_interval: tuple[float, float] | None
    tied: bool
    best: bool
    baseline: bool
    mean_common: float | None = None
    n_common: int | None = None

    @property
    def ordered_by(self) -> float | None:
        """The mean by which sources are in order: over the common replicates, or over its own where there are none."""
        return self.mean if self.mean_common is None else self.mean_common


def rank_sources(transfer: TransferTable, *, seed: int = 0) -> dict[str, tuple[RankedSource, ...]]:
    """The sources of every target, best mean performance (over the replicates that all have) first; undefined ones last.

    Higher performance counts as better.

    Args:
        transfer: performances; of each target its main metric counts, that of its first row. Replicates (fold and seed) of the same name are
            paired over sources.
        seed: of the bootstrap.

    Returns:
        Target -> its sources in order.

    Raises:
        DataError: an empty table, or runs without a row of the main metric of their target.
        UsageError: a metric of which lower is better by its name (SK211).
    """
    if len(transfer) == 0:
        raise DataError("SK202", "TransferTable", "the table is empty (0 rows)", "give at least one transfer")
    by_target: dict[str, list[Mapping[str, Any]]] = {}
    for record in transfer.of_metric():
        by_target.setdefault(str(record["target"]), []).append(record)
    for target, records in sorted(by_target.items()):
        refuse_lower_is_better(str(records[0]["metric"]), target)
    return {target: _ranked(target, by_target[target], seed) for target in sorted(by_target)}


def _ranked(target: str, records: Sequence[Mapping[str, Any]], seed: int) -> tuple[RankedSource, ...]:
    sources = sorted({str(record["source"]) for record in records})
    replicates = sorted({str(record["replicate"]) for record in records})
    values = np.full((len(sources), len(replicates)), np.nan)
    rows = np.zeros(len(sources), dtype=int)
    for record in records:
        s, r = sources.index(str(record["source"])), replicates.index(str(record["replicate"]))
        rows[s] += 1
        if record.get("performance") is not None:
            values[s, r] = float(record["performance"])
    ratio = _test_to_train(records)
    means = [float(one[np.isfinite(one)].mean()) if np.isfinite(one).any() else None for one in values]
    baseline = [source in (SCRATCH, target) for source in sources]
    measured = [s for s, mean in enumerate(means) if mean is not None]
    common = values[:, np.isfinite(values[measured]).all(0)] if measured else values[:, :0]
    shared = [float(common[s].mean()) if s in measured and common.shape[1] else None for s in range(len(sources))]
    order = shared if common.shape[1] else means
    candidates = [s for s in measured if not baseline[s]] or measured
    best = max(candidates, key=lambda s: (order[s], -s)) if candidates else None
    probabilities = _probabilities(common, ratio, rng_for("rank", seed, target))
    out = []
    for s, source in enumerate(sources):
        n = int(np.isfinite(values[s]).sum())
        interval = _within_range(_interval(values[s][np.isfinite(values[s])], ratio), str(records[0]["metric"]))
        row = RankedSource(source, target, str(records[0]["metric"]), means[s], interval, n, int(rows[s]) - n, probabilities[s], None, None, False,
                           s == best and not baseline[s], baseline[s], shared[s], common.shape[1])
        out.append(row if best is None or means[s] is None else _with_gap(row, common[best] - common[s], ratio, is_best=s == best))
    return tuple(sorted(out, key=lambda one: (one.ordered_by is None, -(one.ordered_by or 0.0), one.source)))


def _with_gap(row: RankedSource, gaps: Floats, ratio: float | None, *, is_best: bool) -> RankedSource:
    """The row with its gap; ``gaps`` are those of the common replicates."""
    if is_best:
        return replace(row, gap_to_best=0.0)
    if len(gaps) == 0:
        return replace(row, tied=True)
    interval = _interval(gaps, ratio)
    tied = interval is None or interval[0] <= 0 <= interval[1]
    return replace(row, gap_to_best=float(gaps.mean()), gap_interval=interval, tied=tied)


def _test_to_train(records: Sequence[Mapping[str, Any]]) -> float | None:
    """n_test / n_train of the replicates, where the table holds both."""
    ratios = [record["n_test"] / record["n_train"] for record in records if record.get("n_train") and record.get("n_test")]
    return math.fsum(ratios) / len(ratios) if ratios else None


def _corrected(n: int, ratio: float | None) -> float:
    """The factor of s^2 in the variance of the mean of n replicates (Nadeau and Bengio 2003)."""
    return 1 / n + (ratio if ratio is not None else 1 / (n - 1))


def _interval(values: Floats, ratio: float | None) -> tuple[float, float] | None:
    """95 % t interval of the mean with the corrected variance; None for fewer than 2 values."""
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return None
    half = float(t.ppf(0.975, n - 1)) * math.sqrt(_corrected(n, ratio) * float(values.var(ddof=1)))
    mean = float(values.mean())
    return mean - half, mean + half


def _within_range(interval: tuple[float, float] | None, metric: str) -> tuple[float, float] | None:
    """The interval cut to 0..1 for AUC and accuracy: a t interval of few folds can reach beyond what the metric can be."""
    if interval is None or not is_share(metric):
        return interval
    return max(0.0, interval[0]), min(1.0, interval[1])


def _probabilities(values: Floats, ratio: float | None, rng: np.random.Generator) -> list[float | None]:
    """Per source, the share of paired bootstrap samples in which its mean is highest; sources without any performance have none.

    Args:
        values: (S, J) performances on the common replicates; a row of NaN is a source without any.
    """
    defined: NDArray[np.bool_] = np.asarray(np.any(np.isfinite(values), axis=1))
    common, n = values[defined], values.shape[1]
    if len(common) == 0 or n < 2:
        return [None] * len(values)
    means = common.mean(1)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=BOOTSTRAPS) / n
    # the bootstrap variance of a mean is s^2 (n - 1) / n^2; chi2 makes the samples as wide as Student's t, as the intervals are
    widening = np.sqrt(_corrected(n, ratio) * n * n / rng.chisquare(n - 1, size=(BOOTSTRAPS, 1)))
    sampled: Floats = np.asarray(means + widening * (weights @ common.T - means), dtype=np.float64)
    peak = np.max(sampled, axis=1, keepdims=True) - 1e-12
    highest = np.asarray(np.greater_equal(sampled, peak), dtype=np.float64)
    shares = np.mean(highest / np.sum(highest, axis=1, keepdims=True), axis=0)
    place = np.cumsum(defined) - 1
    return [float(shares[place[s]]) if defined[s] else None for s in range(len(values))]


def answer(target: str, ranked: Sequence[RankedSource]) -> str:
    """One sentence: which source to take for a target, how good it was, and what cannot be told apart from it.

    Where no other source can be told apart from the best, it recommends none and says which has the highest mean.
    """
    best = next((row for row in ranked if row.best), None)
    if best is None or best.mean is None:
        return f"{target}: no source has a measured transfer."
    spread = "no interval from one replicate" if best.interval is None else f"95 % interval {best.interval[0]:.3f} to {best.interval[1]:.3f}"
    metric = "AUC" if best.metric.startswith("auc") else best.metric
    others = [row for row in ranked if not row.baseline and not row.best and row.mean is not None]
    tied = [row.source for row in others if row.tied]
    lead = "no source stands out; the highest mean is that of" if others and len(tied) == len(others) else "take"
    text = f"{target}: {lead} {best.source} (mean {metric} {best.mean:.3f} over {best.n} replicate{'s' if best.n != 1 else ''}, {spread})"
    if not others:
        text += "; it is the only source that was tried"
    elif tied:
        clear = len(others) - len(tied)
        text += f"; {', '.join(tied)} {'are' if len(tied) > 1 else 'is'} not distinguishable from it"
        text += f", the other {clear} {'are' if clear > 1 else 'is'} worse" if clear else ""
    else:
        text += f"; the other {len(others)} source{'s are' if len(others) > 1 else ' is'} worse" if len(others) > 1 else f"; {others[0].source} is worse"
    return text + _beside(ranked) + _gone(ranked) + _order(best, ranked) + "."


def _beside(ranked: Sequence[RankedSource]) -> str:
    """How the baselines compare with the recommended source."""
    out = ""
    for row in ranked:
        if not row.baseline or row.gap_to_best is None:
            continue
        name = "training from scratch" if row.source == SCRATCH else "pretraining on the target itself"
        verdict = "not distinguishable from it" if row.tied else "better" if row.gap_to_best < 0 else "worse"
        out += f"; {name} is {verdict} (mean {row.mean:.3f})"
    return out


def _gone(ranked: Sequence[RankedSource]) -> str:
    lost = sum(row.undefined for row in ranked)
    return f"; {lost} replicate{'s are' if lost > 1 else ' is'} undefined and left out" if lost else ""


def _order(best: RankedSource, ranked: Sequence[RankedSource]) -> str:
    """On which replicates the sources were compared, where not all have all."""
    measured = [row for row in ranked if row.mean is not None]
    if best.n_common is None or all(row.n == best.n_common for row in measured):
        return ""
    if best.n_common == 0:
        return "; no replicate is common to all of them, so they are ordered by means over different replicates, which is no fair comparison"
    number = f"{best.n_common} replicate{'s' if best.n_common > 1 else ''}"
    return f"; the order and the comparisons are by the {number} that all of them have (mean {best.mean_common:.3f} there)"
