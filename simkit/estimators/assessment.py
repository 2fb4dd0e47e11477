"""Scores of the target as a source's network sees it: the value, what chance gives, and how far the value would move in another sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simkit.embedding import plain_array
from simkit.errors import DataError, NotEnoughData, SimkitError, UsageError
from simkit.estimators.base import Estimator, NetworkEstimator, Score
from simkit.estimators.comparison import Sampling
from simkit.estimators.seen import Seen
from simkit.estimators.subsamples import exchanged, half_mask, named_rng
from simkit.estimators.uncertainty import CHANCE, FEW_GROUPS, with_chance
from simkit.recipe import rng_for
from simkit.registry import ESTIMATORS, Spec

__all__ = ["ASSESSMENT_VERSION", "CHANCE", "assessed", "assessed_all", "check_seen", "seen_of", "transferability"]

ASSESSMENT_VERSION = 1
"""Part of the recipe of scores of the network view with intervals: raised with every change of the procedure below."""

TRIES = 20
"""How often labels are shuffled again that lost a class."""

UNSURE = "no interval and no floor: the gradients are those of the whole target"


def check_seen(measure: NetworkEstimator, seen: Seen) -> None:
    """Refuses what a measure cannot work with, before any work.

    Raises:
        DataError: no labels; several labels an image for a measure of one; more classes than images.
        NotEnoughData: one class, or a class with one image.
        UsageError: no probabilities or gradients for a measure that reads them.
    """
    if not np.isfinite(seen.features).all():
        raise DataError("SK210", seen.target, "features hold NaN or infinite values", "remove or recompute these rows")
    if seen.indicators is not None and not measure.several_labels:
        message = f"{measure.name} needs one label an image, {seen.target} is multi-label"
        raise DataError("SK208", seen.target, message, "use logme or linear-probe, or give one label column")
    if "labels" in measure.needs:
        seen.check_labels(measure.name)
    if "probabilities" in measure.reads and seen.probabilities is None:
        message = f"{measure.name} needs the probabilities of the network's head, and the network of '{seen.source}' has none"
        fix = "give weights that hold the head, or (leep, nce) set head = knn, which fits one on the source's features in the common space"
        raise UsageError("SK108", measure.name, message, fix)
    if "gradients" in measure.reads and seen.gradients is None:
        message = f"{measure.name} needs gradients of the network of '{seen.source}': {seen.no_gradients or 'arrays have none'}"
        raise UsageError("SK108", measure.name, message, "run it in a study with [networks], or `simkit distance --network`")


def assessed(measure: NetworkEstimator, seen: Seen, sampling: Sampling) -> Score:
    """The score of one pair: value, and with ``sampling.repeats`` an interval and the floor (see :func:`assessed_all`)."""
    found = assessed_all(measure, [seen], sampling)[0]
    if isinstance(found, SimkitError):
        raise found
    return found


def assessed_all(measure: NetworkEstimator, seen: Sequence[Seen], sampling: Sampling) -> list[Score | SimkitError]:
    """Scores of all sources of one target. A pair that cannot be scored holds its error.

    With ``sampling.repeats`` R each value comes with

    - an interval: value +- t(R-1, 0.975) times the standard deviation over R random halves of the target's images (whole groups where groups exist;
      b of n images, taken without replacement), times sqrt(b / (n - b)): the delete-half jackknife (Shao and Wu 1989). It says how far the value would
      move in another sample of the target of this size, for this network; all sources of a target are measured on the same halves. With few groups t has
      as many degrees of freedom as there are groups less one, and a flag says so. There is none, with the reason, where halves say nothing about the whole
      (they saturate, are all equal, or hold one class).
    - a floor: the mean over R random shuffles of the labels, at the full size; patients, and copies of an image, exchange theirs as a whole. A value that is
      not more than t(R-1, 0.95) standard deviations of one shuffle away from it, in the measure's own direction, is flagged.

    A measure that rests on gradients has neither, and says so.
    """
    whole: list[Seen | SimkitError] = []
    for one in seen:
        try:
            view = measure.viewed(one)
            check_seen(measure, view)
            whole.append(view.ordered)
        except SimkitError as error:
            whole.append(error)
    good = [one for one in whole if isinstance(one, Seen)]
    fresh = [replace(one.canonical, memo={}) for one in good]  # what this measure keeps of the features ends with it
    values = _scored(measure, fresh, sampling.seed, 0) if good else []
    if sampling.repeats and good and measure.resampled:
        values = _with_uncertainty(measure, good, fresh, values, sampling)
    elif sampling.repeats:
        values = [replace(one, flags=(*one.flags, UNSURE)) if isinstance(one, Score) else one for one in values]
    left = iter(values)
    return [one if isinstance(one, SimkitError) else next(left) for one in whole]


def _scored(measure: NetworkEstimator, seen: Sequence[Seen], seed: int, repeat: int) -> list[Score | SimkitError]:
    rngs = [named_rng(measure, one.source, one.target, seed, repeat) for one in seen]
    if measure.pool_relative:
        try:
            return list(measure.assess_all(seen, rngs))
        except SimkitError as error:
            return [error] * len(seen)
    out: list[Score | SimkitError] = []
    for one, rng in zip(seen, rngs, strict=True):
        try:
            out.append(measure.assess(one, rng))
        except SimkitError as error:
            out.append(error)
    return out


@dataclass(frozen=True, eq=False)
class _Halves:
    """The measure on random halves of the target's images.

    Attributes:
        scores: one list of the sources a half.
        sizes: images of each half.
        lacking: halves that lost a class.
    """

    scores: list[list[Score | SimkitError]]
    sizes: list[int]
    lacking: int


def _halves(measure: NetworkEstimator, seen: Sequence[Seen], sampling: Sampling) -> _Halves:
    scores: list[list[Score | SimkitError]] = []
    sizes: list[int] = []
    lacking = 0
    for repeat in range(1, sampling.repeats + 1):
        rng = rng_for("halves", sampling.seed, seen[0].target, repeat)
        try:
            rows = np.flatnonzero(half_mask(seen[0].units, seen[0].target, rng, grouped=seen[0].groups is not None))
        except NotEnoughData as error:
            return _Halves([[error] * len(seen)], [], 0)
        parts = [one.part(rows) for one in seen]
        sizes.append(len(rows))
        lacking += len(parts[0].classes) < len(seen[0].numbered.classes)
        if parts[0].labels is not None and len(parts[0].classes) < 2:
            message = "a half-sample holds one class only"
            scores.append([NotEnoughData("SK501", seen[0].target, message, "give more images, or groups (patients) of each class")] * len(seen))
        else:
            scores.append(_scored(measure, parts, sampling.seed, repeat))
    return _Halves(scores, sizes, lacking)


def _with_uncertainty(
    measure: NetworkEstimator, seen: Sequence[Seen], canonical: Sequence[Seen], scores: Sequence[Score | SimkitError], sampling: Sampling,
) -> list[Score | SimkitError]:
    """Scores with interval, floor and verdict; a pair whose half-samples cannot be measured says why it has none."""
    halves = _halves(measure, seen, sampling)
    shuffles: list[list[Score | SimkitError]] = []
    if "labels" in measure.needs:
        shuffles = [_scored(measure, _shuffled(seen, canonical, sampling.seed, repeat), sampling.seed, -repeat) for repeat in range(1, sampling.repeats + 1)]
    out: list[Score | SimkitError] = []
    for place, score in enumerate(scores):
        if isinstance(score, Score):
            score = _with_interval(measure, score, [row[place] for row in halves.scores], halves, seen[place])
            score = with_chance(measure, score, [row[place] for row in shuffles]) if shuffles else score
            score = replace(score, detail={**score.detail, "repeats": sampling.repeats})
        out.append(score)
    return out


def _with_interval(measure: NetworkEstimator, score: Score, parts: Sequence[Score | SimkitError], halves: _Halves, seen: Seen) -> Score:
    """The score with its interval, or with the reason why it has none."""
    from scipy.stats import t

    n, flags = len(seen), list(score.flags)
    groups = len(np.unique(seen.units)) if seen.groups is not None else None
    failed = next((one.problems[0].message for one in parts if isinstance(one, SimkitError)), "")
    values = [one.value for one in parts if isinstance(one, Score)]
    if not failed:
        failed = measure.unsound(int(min(halves.sizes)), seen.dimension, len(seen.classes))
    if not failed and max(values) == min(values):
        failed = f"every half-sample gives {values[0]:.6g}"
    if failed:
        return replace(score, flags=(*flags, f"no interval: {failed}"))
    share, freedom = float(np.mean(halves.sizes)), min(len(values), groups or len(values)) - 1
    deviation = float(np.std(values, ddof=1)) * float(np.sqrt(share / (n - share)))
    reach = deviation * float(t.ppf(0.975, freedom))
    low, high = measure.bounds
    lower, upper = score.value - reach, score.value + reach
    if halves.lacking:
        flags.append(f"{halves.lacking} of {len(values)} half-samples lack a class")
    if groups is not None and groups < FEW_GROUPS:
        flags.append(f"interval from {groups} groups of {seen.target} only")
    detail = {**score.detail, "standard_error": deviation, "half_sample_mean": float(np.mean(values))}
    return replace(score, interval=(lower if low is None else max(low, lower), upper if high is None else min(high, upper)), detail=detail, flags=tuple(flags))


def _shuffled(seen: Sequence[Seen], canonical: Sequence[Seen], seed: int, repeat: int) -> list[Seen]:
    """The pairs with shuffled labels, alike for all sources.

    Units (patients, and copies of an image) exchange their labels as a whole, because their images are no independent images: each takes its labels from
    the images of one other unit, at random and as often as it has images. Where a class is lost in this way it is drawn again.
    """
    one, rng = seen[0], rng_for("shuffle", seed, seen[0].target, repeat)
    classes = len(one.numbered.classes)
    for _ in range(TRIES):
        order = exchanged(one.units, rng)
        made = [rows.with_labels(order[other.canonical_rows], other) for rows, other in zip(canonical, seen, strict=True)]
        if len(made[0].classes) == classes:
            break
    return made


def transferability(
    method: str | NetworkEstimator, features: Any, labels: Any, probabilities: Any = None, *, groups: Sequence[str] | None = None, seed: int = 0,
    repeats: int = 0, **options: Any,
) -> Score:
    """A measure of transferability on arrays: how well the target's labels fit what a source's network makes of the target's images.

    Args:
        method: name of a measure of the network view (`simkit list`: logme, leep, hscore, ...), "module:Class", or such a measure.
        features: the target's, from the source's network: array or tensor (n, d).
        labels: the target's: one label an image (n,) of any kind; indicators (n, classes) of 0 and 1 for a multi-label target; numbers, with
            ``task="regression"`` (logme), (n,) or (n, k).
        probabilities: the target's, from the head of the source's network: (n, classes of the source), rows adding up to one.
        groups: patient (or slide, volume) of each image: a patient is never on both sides of a split, nor its own neighbour.
        seed: of every random choice.
        repeats: random halves and shuffles for a 95 % interval and a floor (what shuffled labels give); 0: the value only, else at least 3.
        **options: the measure's options (`simkit list NAME`).

    Returns:
        Score: value, detail, flags; with interval and floor when ``repeats`` is given.

    Raises:
        UsageError: unknown method or option, a measure of another view, lengths that differ, probabilities that are missing.
        DataError: NaN, no labels, more classes than images, probabilities that do not add up to one.
        NotEnoughData: one class, or a class with one image.

    Example:
        >>> simkit.transferability("logme", features, labels).value
    """
    if isinstance(method, Estimator):
        if options:
            raise UsageError("SK102", method.name, "options were given beside an estimator that is already built", "give them to its constructor")
        measure: Any = method
    else:
        measure = ESTIMATORS.build(Spec(method, options))
    if measure.view != "network":
        message = f"reads the {measure.view} view of two data sets, not the target as a network sees it"
        raise UsageError("SK108", measure.name, message, "use simkit.compare (on arrays) or simkit.distance")
    task = getattr(measure, "task", "classification")
    return assessed(measure, seen_of(features, labels, probabilities, groups=groups, task=task), Sampling(seed, repeats))


def seen_of(
    features: Any, labels: Any, probabilities: Any = None, *, groups: Sequence[str] | None = None, task: str = "classification",
) -> Seen:
    """The network view of arrays; tensors are taken from whatever device they are on."""
    rows = plain_array(features)
    given: dict[str, Any] = {"groups": None if groups is None else tuple(map(str, groups))}
    if probabilities is not None:
        given["probabilities"] = plain_array(probabilities)
    if labels is None:
        return Seen(rows, **given)
    raw = plain_array(labels)
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        message = f"{int((~np.isfinite(raw)).sum())} labels are NaN or infinite"
        raise DataError("SK210", "labels", message, "remove these rows, or name their class")
    if task == "regression":
        if raw.dtype.kind not in "fiub" or raw.ndim > 2:
            raise DataError("SK203", "labels", f"are of type {raw.dtype} and shape {raw.shape}, a regression wants numbers (n,) or (n, k)", "give numbers")
        return Seen(rows, values=raw.astype(np.float64).reshape(len(raw), -1), **given)
    if raw.ndim == 2:
        if not np.isin(raw, (0, 1)).all():
            raise DataError("SK203", "labels", f"of shape {raw.shape} hold other values than 0 and 1", "give one label an image (n,), or indicators of 0 and 1")
        return Seen(rows, indicators=raw.astype(bool), classes=tuple(str(i) for i in range(raw.shape[1])), **given)
    if raw.ndim != 1:
        raise DataError("SK202", "labels", f"have shape {raw.shape}, wanted (n,) or (n, classes)", "one label an image")
    names, index = np.unique(raw, return_inverse=True)
    return Seen(rows, index.astype(np.int64), tuple(str(name) for name in names), **given)
