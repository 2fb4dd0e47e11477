"""How sure a score is: values at one common size, interval, floor, ceiling, and the verdict whether a pair is above its floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from simkit.embedding import Embedding
from simkit.errors import NotEnoughData, SimkitError
from simkit.estimators.base import Estimator, Score
from simkit.estimators.subsamples import Subsamples, named_rng

__all__ = [
    "CHANCE", "FEW_GROUPS", "INDISTINCT", "UNCERTAINTY_VERSION", "UNEQUAL", "Ceiling", "ceiling_of", "excess_share", "matched_score", "unequal", "with_chance",
    "with_uncertainty",
]

UNCERTAINTY_VERSION = 2
"""Part of the recipe of scores with intervals: raised with every change of the procedure below."""

INDISTINCT = "not distinguishable from the target"
CHANCE = "not above what shuffled labels give"
UNEQUAL = "sample sizes differ by more than half, and this measure depends on them"


def unequal(estimator: Estimator, score: Score, n_source: int, n_target: int) -> Score:
    """The score with a flag where sample sizes differ so much that a size-biased measure says more about them than about the data."""
    used = score.detail.get("n")  # a measure may take a sample
    sizes = used if isinstance(used, tuple) and len(used) == 2 else (n_source, n_target)
    if estimator.size_biased and estimator.kind != "prior" and max(sizes) > 1.5 * min(sizes):
        return replace(score, flags=(*score.flags, UNEQUAL))
    return score


def matched_score(estimator: Estimator, source: Subsamples, target: Subsamples, size: int) -> Score:
    """The measure at one size a side: mean over random samples of ``size`` images of each set, drawn without replacement.

    A set that has no more images than that takes part whole; rows are drawn whatever their groups and classes. The p-value, where the measure has one,
    belongs to the first sample; the detail is that of the first sample, with all values as ``draw_values``.
    """
    sides = [list(one.drawn(size)) for one in (source, target)]
    count = max(len(side) for side in sides)
    values, scores = [], []
    for draw in range(count):
        one, other = (side[draw % len(side)] for side in sides)
        rng = named_rng(estimator, source.view.name, target.view.name, target.seed, "size match", draw)
        scores.append(estimator.tested(one, other, rng) if draw == 0 else estimator.compare(one, other, rng))
        values.append(scores[-1].value)
    later = [flag for score in scores[1:] for flag in score.flags if flag.startswith("not converged")]
    flags = dict.fromkeys([*scores[0].flags, *later])
    detail = {**scores[0].detail, "draws": count, "draw_values": values}
    mean = float(np.mean(values))
    return replace(scores[0], value=mean, converged=all(score.converged for score in scores), detail=detail, flags=tuple(flags), matched=size)


def with_uncertainty(estimator: Estimator, score: Score, source: Subsamples, target: Subsamples) -> Score:
    """The score with an interval from half-samples, a floor, and a verdict whether the pair is above it.

    Interval: value +- t(R-1, 0.975) times a standard error. The standard deviation over R random parts of b of n images, taken without
    replacement from both sides, times sqrt(b / (n - b)) (the larger of both sides), estimates the standard error at the full size
    (delete-d jackknife, Shao and Wu 1989; subsampling, Politis and Romano 1994); parts are halves, or smaller where the value was computed at one
    common size, whose own Monte-Carlo error is then added. With few groups (patients) the t quantile has as many degrees of freedom as there are
    groups less one, and a flag says so. It is the spread of the value *at these sample sizes*: it is conservative for pairs near their floor, and it
    does not contain the distance between the populations when the bias of small samples is larger than the spread.

    Floor and verdict: source and target halves are cut to one common size m, so that the bias is the same on both sides. The mean excess of d(S, T)
    over d(T', T) is held against its standard error, from its variance V over the R repeats as above: V ((1/n_S + 2/n_T) / (1/m - 1/n_S +
    2 (1/m - 1/n_T)) + 1/R), where all three samples vary alike, as they do when S is a second sample of the target. Unless it exceeds
    t(R-1, 0.95) standard errors in the measure's own direction, the source is called not distinguishable from such a sample. For distances that are
    quadratic near 0 this errs in one direction only: it calls equal what is equal in more than 95 % of cases.
    """
    from scipy.stats import t

    size = score.matched or max(len(source.view), len(target.view))
    try:
        values, share = _parts(estimator, source, target, size)
        excess = _excess(estimator, source, target, size, values) if estimator.kind == "distance" else None
        floors = target.floors(size) if estimator.kind == "distance" else None
    except NotEnoughData as error:
        return replace(score, flags=(*score.flags, f"no interval: {error.problems[0].message}"))
    variance = float(np.var(values, ddof=1))
    error_ = float(np.sqrt(share * variance + _draw_noise(score.detail.get("draw_values", ()), values)))
    freedom = min([target.repeats, *(one.groups for one in (source, target) if one.groups is not None)]) - 1
    spread = error_ * float(t.ppf(0.975, freedom))
    low, high = estimator.bounds
    lower = score.value - spread if low is None else max(low, score.value - spread)
    upper = score.value + spread if high is None else min(high, score.value + spread)
    detail = {**score.detail, "standard_error": error_, "half_sample_mean": float(np.mean(values)), "repeats": target.repeats}
    flags = (*score.flags, *_few_groups(source, target))
    if excess is not None and floors is not None:
        sign = -1.0 if estimator.higher_is_better else 1.0
        common = _common(source, target, size)
        used = detail.get("n")  # fewer where the measure takes a sample
        detail["matched_images"] = min((common, *(used if isinstance(used, tuple) and len(used) == 2 else ())))
        detail["floor_images"] = min(size, min(target.half_sizes))
        detail["excess_over_floor"] = float(np.mean(excess))
        margin = float(t.ppf(0.95, target.repeats - 1) * np.std(excess, ddof=1) * np.sqrt(excess_share(len(source.view), len(target.view), common)
                                                                                           + 1 / target.repeats))
        if sign * float(np.mean(excess)) <= margin and source.view is not target.view:
            best = high if estimator.higher_is_better else low
            saturated = best is not None and score.value == best and all(one == best for one in floors)
            flags = (*flags, f"at its bound of {best:g}, as is the floor: with these options the measure tells nothing apart" if saturated else INDISTINCT)
    floor = None if floors is None else float(np.mean(floors))
    return replace(score, interval=(lower, upper), floor=floor, flags=flags, detail=detail)


FEW_GROUPS = 6
"""Groups from which on nothing is said about their number."""


def _few_groups(source: Subsamples, target: Subsamples) -> list[str]:
    """A flag for each data set whose halves are made of a handful of groups."""
    sides = (source, target) if source.view is not target.view else (source,)
    return [f"interval from {one.groups} groups of {one.view.name} only" for one in sides if one.groups is not None and one.groups < FEW_GROUPS]


def _draw_noise(draws: Sequence[float], values: Sequence[float]) -> float:
    """Variance that a mean over few random samples has by itself; from the samples and the parts together, as one sample alone shows none."""
    if not len(draws):
        return 0.0
    within = float(np.var(draws, ddof=1)) * (len(draws) - 1) if len(draws) > 1 else 0.0
    pooled = (within + float(np.var(values, ddof=1)) * (len(values) - 1)) / (len(draws) + len(values) - 2)
    return pooled / len(draws)


def _parts(estimator: Estimator, source: Subsamples, target: Subsamples, size: int) -> tuple[list[float], float]:
    """Values of the pair's parts, and the factor that takes their variance to that of the full size."""
    pairs = zip(source.halved(size), target.halved(size), strict=True)
    rngs = [named_rng(estimator, source.view.name, target.view.name, target.seed, repeat + 1) for repeat in range(target.repeats)]
    values = [estimator.compare(half_s, half_t, rng).value for ((half_s, _), (half_t, _)), rng in zip(pairs, rngs, strict=True)]
    shares = []
    for one in (source, target):
        part = min(size, float(np.mean(one.half_sizes)))
        shares.append(part / max(len(one.view) - part, 1.0))
    return values, min(1.0, max(shares))


def excess_share(n_source: int, n_target: int, common: int) -> float:
    """Factor that takes the variance of the excess of parts of ``common`` images to that of the full sizes."""
    return (1 / n_source + 2 / n_target) / max(1 / common - 1 / n_source + 2 * (1 / common - 1 / n_target), 1e-300)


def _common(source: Subsamples, target: Subsamples, size: int) -> int:
    return min(size, *source.half_sizes, *target.half_sizes)


def _excess(estimator: Estimator, source: Subsamples, target: Subsamples, size: int, values: Sequence[float]) -> np.ndarray:
    """Per repeat d(S, T) - d(T', T) at one common size."""
    common = _common(source, target, size)
    if min(size, max(*source.half_sizes, *target.half_sizes)) <= common + 1:  # parts of one size: nothing to cut
        return np.asarray(np.array(values) - np.array(target.floors(size)))
    rngs = [named_rng(estimator, source.view.name, target.view.name, target.seed, -repeat - 1) for repeat in range(target.repeats)]
    pairs = zip(source.halved(common), target.halved(common), rngs, strict=True)
    matched = [estimator.compare(half_s, half_t, rng).value for (half_s, _), (half_t, _), rng in pairs]
    return np.asarray(np.array(matched) - np.array(target.floors(common)))


@dataclass(frozen=True)
class Ceiling:
    """The value of one unrelated data set for a target: what "far" is in the measure's own unit.

    Attributes:
        value: the measure from the unrelated set to the target; None where it cannot be computed.
        images: of each set that were used.
        reason: why there is none.
    """

    value: float | None
    images: int
    reason: str = ""


def ceiling_of(estimator: Estimator, unrelated: Embedding, target: Embedding, size: int | None, seed: int) -> Ceiling:
    """The ceiling of a target: both sets cut to ``size`` images (None: to the smaller of both)."""
    common = min(len(unrelated), len(target), size or len(target))
    rng = named_rng(estimator, unrelated.name, target.name, seed, "ceiling")
    try:
        sides = [next(iter(Subsamples(estimator, view, seed=seed, repeats=0, draws=1).drawn(common))) for view in (unrelated, target)]
        return Ceiling(estimator.compare(sides[0], sides[1], rng).value, common)
    except SimkitError as error:
        return Ceiling(None, common, error.problems[0].message)


def with_chance(measure: Estimator, score: Score, chance: Sequence[Score | SimkitError]) -> Score:
    """The score with what shuffled labels give, and the verdict; or with the reason why there is none."""
    from scipy.stats import t

    if failed := next((one for one in chance if isinstance(one, SimkitError)), None):
        return replace(score, flags=(*score.flags, f"no floor: {failed.problems[0].message}"))
    values = [one.value for one in chance if isinstance(one, Score)]
    floor, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    sign = 1.0 if measure.higher_is_better else -1.0
    margin = float(t.ppf(0.95, len(values) - 1)) * deviation * float(np.sqrt(1 + 1 / len(values)))
    flags = (*score.flags, CHANCE) if sign * (score.value - floor) <= margin else score.flags
    return replace(score, floor=floor, detail={**score.detail, "floor_deviation": deviation}, flags=flags)
