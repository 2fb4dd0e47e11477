"""Scores of pairs of data sets by a measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Literal

import numpy as np

from simkit.dataset import DatasetCard
from simkit.embedding import Embedding
from simkit.errors import DataError, NotEnoughData, SimkitError, UsageError
from simkit.estimators.base import Estimator, Score
from simkit.estimators.subsamples import Subsamples, named_rng
from simkit.estimators.task_embedding import TaskEmbedding
from simkit.estimators.uncertainty import Ceiling, ceiling_of, matched_score, unequal, with_chance, with_uncertainty
from simkit.recipe import rng_for
from simkit.registry import ESTIMATORS, Spec

__all__ = ["Sampling", "SizeMatch", "Summaries", "common_size", "compare", "score_pairs"]

SizeMatch = int | Literal["auto", "off"]


@dataclass(frozen=True)
class Sampling:
    """How sure scores are made.

    Attributes:
        seed: of every random choice.
        repeats: half-samples for interval and floor (0: none, else at least 3); only for embeddings.
        size_match: images a side at which every pair is measured: a number; "auto", for measures that depend on the sample sizes the smallest
            data set among a target and its sources (of those with at least 20 images; pairs with a smaller one are measured whole, and flagged), for
            others all images; "off", all images.
        draws: random samples of that size, over which the value is averaged.
    """

    seed: int = 0
    repeats: int = 0
    size_match: SizeMatch = "off"
    draws: int = 5

    def __post_init__(self) -> None:
        if self.repeats < 0 or self.repeats in (1, 2):
            raise UsageError("SK102", "repeats", f"{self.repeats} half-samples give no interval", "give 0 (no interval) or at least 3")
        if not (self.size_match in ("auto", "off") or (isinstance(self.size_match, int) and self.size_match >= 2)):
            raise UsageError("SK102", "size_match", f"{self.size_match!r} is not a number of images", "give auto, off, or a whole number of at least 2")
        if self.draws < 1:
            raise UsageError("SK102", "draws", f"{self.draws} samples have no mean", "give at least 1")


LEAST = 20
"""Images from which on a data set decides about the common size of all: a handful of images would leave nothing of the others."""


def common_size(estimator: Estimator, sizes: Mapping[str, int], size_match: SizeMatch, *, where: str = "") -> int | None:
    """Images a side at which the pairs of one target are measured; None: all.

    Args:
        estimator: the measure.
        sizes: images of the target and of all its sources, by name.
        size_match: see :class:`Sampling`.
        where: for the message.

    Raises:
        UsageError: a data set has fewer images than the number asked for.
    """
    if estimator.view != "embedding" or size_match == "off" or estimator.kind == "transferability":
        return None
    if isinstance(size_match, int):
        small = {name: n for name, n in sizes.items() if n < size_match}
        if small:
            found = ", ".join(f"'{name}' has {n}" for name, n in sorted(small.items(), key=lambda item: item[1])[:5])
            message = f"{size_match} images a side are more than there are: {found}"
            raise UsageError("SK102", where or "size_match", message, f"give at most {min(small.values())}, or auto, or leave the data set out")
        return size_match
    enough = [n for n in sizes.values() if n >= LEAST]
    return min(enough) if estimator.size_biased and enough else None


def _check_views(estimator: Estimator, source: Any, target: Any) -> None:
    for role, view in (("source", source), ("target", target)):
        if isinstance(view, Embedding):
            wants = (*estimator.needs, *(estimator.needs_of_source if role == "source" else ()))
            if "labels" in wants and view.labels is None:
                message = f"{estimator.name} needs labels, {role} '{view.name}' has none"
                raise DataError("SK208", view.name, message, "give (array, labels), or choose a label-free method, such as wasserstein")
        elif isinstance(view, TaskEmbedding):
            if not np.isfinite(view.fisher).all():
                raise DataError("SK210", view.name, "the task embedding holds NaN or infinite values", "compute it again")
        elif isinstance(view, DatasetCard):
            reason = estimator.missing(view, "source" if role == "source" else "target")
            if reason:
                raise DataError("SK208", view.name, reason, "add it to the data set, or leave the method out")
        else:
            raise UsageError("SK102", estimator.name, f"{role} is a {type(view).__name__}, wanted {_wanted(estimator)}", "see `simkit list`")
    if isinstance(source, TaskEmbedding) and isinstance(target, TaskEmbedding) and (source.probe, len(source.fisher)) != (target.probe, len(target.fisher)):
        message = f"task embeddings of different probes cannot be compared: '{source.name}' {source.probe[:12]}, '{target.name}' {target.probe[:12]}"
        raise UsageError("SK109", estimator.name, message, "compute both with the same probe network and options")
    if isinstance(source, Embedding) and isinstance(target, Embedding):
        fix = "embed both with the same extractor and options"
        if source.extractor != target.extractor:
            made = " and ".join(f"'{view.name}' was embedded by {view.extractor[:12] or 'an unnamed array'}" for view in (source, target))
            raise UsageError("SK109", estimator.name, f"embeddings of different extractors cannot be compared: {made}", fix)
        if source.dimension != target.dimension:
            sizes = f"'{source.name}' has {source.dimension} features, '{target.name}' {target.dimension}"
            raise UsageError("SK109", estimator.name, sizes, fix)


def _can_read(estimator: Estimator, view: Any) -> bool:
    try:
        _check_views(estimator, view, view)
    except SimkitError:
        return False
    return True


def _wanted(estimator: Estimator) -> str:
    return {"embedding": "an Embedding, an array (n, d) or a pair (array, labels)", "card": "a DatasetCard (simkit.card)", "task": "a TaskEmbedding",
            "network": "features and labels (simkit.transferability)"}[estimator.view]


class Summaries:
    """Summaries of the data sets of a run by one measure: each made once, when it is first asked for, also when threads ask.

    Args:
        estimator: the measure.
        views: name -> embedding or card; for a pool-relative measure, the whole pool.

    Attributes:
        priors: (source, images a side) -> score of a measure of the source alone, for any target.
    """

    def __init__(self, estimator: Estimator, views: Mapping[str, Any]):
        self.estimator, self.views = estimator, views
        self._made: dict[str, Any] = {}
        self._locks = {name: Lock() for name in views}
        self._whole = Lock()
        self._fitted: Estimator | None = None
        self.priors: dict[tuple[str, int | None], Score] = {}

    @property
    def fitted(self) -> Estimator:
        """The measure with what it takes from all data sets of the run (those that it can read) fixed."""
        with self._whole:
            if self._fitted is None:
                able = [self.views[name] for name in sorted(self.views) if _can_read(self.estimator, self.views[name])]
                self._fitted = self.estimator.fitted(able)
            return self._fitted

    def of(self, name: str) -> Any:
        """The summary of one data set. Raises what ``summarize`` raises."""
        measure = self.fitted
        with self._whole if measure.pool_relative else self._locks[name]:
            if name not in self._made:
                # a data set that the measure cannot read takes no part in the pool; its own pairs hold the reason
                pool = [n for n in sorted(self.views) if _can_read(measure, self.views[n])] if measure.pool_relative else [name]
                self._made.update(zip(pool, measure.summarize_all([self.views[n] for n in pool]), strict=True))
            return self._made[name]


def score_pairs(
    estimator: Estimator, views: Mapping[str, Any], pairs: Sequence[tuple[str, str]], *, sampling: Sampling | None = None,
    sizes: Mapping[str, int | None] | None = None, ceiling: Embedding | None = None,
    each: Callable[[tuple[str, str], Score | SimkitError], None] | None = None, summaries: Summaries | None = None,
) -> dict[tuple[str, str], Score | SimkitError]:
    """Scores of many pairs; each data set is summarised once. A pair that cannot be scored holds its error, the others their Score.

    Args:
        estimator: the measure.
        views: name -> embedding or card.
        pairs: (source, target) names; put those of one target together, its subsamples are kept for one target at a time.
        sampling: seed, half-samples and common sizes; by default seed 0, values of all images, no intervals.
        sizes: target -> images a side at which its pairs are measured, where that is decided by more pairs than these.
        ceiling: an unrelated data set that is scored as well.
        each: called with each pair and its result as soon as it is known, so that finished pairs can be kept.
        summaries: those of another call with the same measure and views, to share them.
    """
    sampling = sampling or Sampling()
    made = summaries or Summaries(estimator, views)
    scorer = _Scorer(made, pairs, sampling, sizes, ceiling)
    out: dict[tuple[str, str], Score | SimkitError] = {}
    for pair in pairs:
        try:
            out[pair] = scorer.score(*pair)
        except SimkitError as error:
            out[pair] = error
        if each is not None:
            each(pair, out[pair])
    return out


class _Scorer:
    """Scores pairs one after the other; what belongs to a target is kept until the next target."""

    def __init__(
        self, summaries: Summaries, pairs: Sequence[tuple[str, str]], sampling: Sampling, sizes: Mapping[str, int | None] | None, ceiling: Embedding | None,
    ):
        self.summaries, self.views, self.pairs, self.sampling, self.sizes, self.ceiling = summaries, summaries.views, pairs, sampling, sizes, ceiling
        self.target: Subsamples | None = None
        self.ceilings: dict[tuple[Estimator, str, int | None], Ceiling] = {}

    def score(self, source: str, target: str) -> Score:
        """Value, and where embeddings are compared and half-samples wanted, interval, floor and ceiling."""
        views = self.views
        _check_views(self.summaries.estimator, views[source], views[target])
        measure = self.summaries.fitted
        if measure.view != "embedding":
            return measure.compare(self.summaries.of(source), self.summaries.of(target), named_rng(measure, source, target, self.sampling.seed, 0))
        size = self._size(measure, target)
        if measure.kind == "prior":  # a property of the source alone: computed once, whatever the target
            made = self.summaries.priors
            if (source, size) not in made:
                made[source, size] = self._scored(measure, source, source, size)
            return made[source, size]
        return self._scored(measure, source, target, size)

    def _scored(self, measure: Estimator, source: str, target: str, size: int | None) -> Score:
        """The score of a pair at ``size`` images a side (None: all)."""
        views = self.views
        n, m = len(views[source]), len(views[target])
        if size is not None and min(n, m) < size:  # of a handful of images: measured whole, and flagged as unequal
            size = None
        measure = measure.settled(min(n, size or n), min(m, size or m))
        one, other = self._subsamples(measure, source, target)
        if size is not None and max(n, m) > size:
            score = matched_score(measure, one, other, size)
        else:
            made = self.summaries
            score = measure.tested(made.of(source), made.of(target), named_rng(measure, source, target, self.sampling.seed, 0))
            if not isinstance(score, Score):  # a plug-in's mistake, which its promises name
                return score
            score = unequal(measure, replace(score, matched=size), n, m)
        if self.sampling.repeats:
            score = with_uncertainty(measure, score, one, other)
            score = self._with_ceiling(measure, score, target, size)
            if measure.kind == "transferability" and size is None:
                score = self._with_chance(measure, score, source, target)
        return score

    def _with_chance(self, measure: Estimator, score: Score, source: str, target: str) -> Score:
        """The score with what shuffled labels of the target give, where the measure has that."""
        one, other = self.summaries.of(source), self.summaries.of(target)
        values: list[Score | SimkitError] = []
        for repeat in range(1, self.sampling.repeats + 1):
            shuffled = measure.label_shuffled(other, rng_for("shuffle", self.sampling.seed, target, repeat))
            if shuffled is None:
                return score
            try:
                values.append(measure.compare(one, shuffled, named_rng(measure, source, target, self.sampling.seed, "shuffle", repeat)))
            except NotEnoughData as error:
                values.append(error)
        return with_chance(measure, score, values)

    def _size(self, measure: Estimator, target: str) -> int | None:
        if self.sizes is not None:
            return self.sizes.get(target)
        names = {*(() if measure.kind == "prior" else (target,)), *(s for s, t in self.pairs if t == target)}
        return common_size(measure, {name: len(self.views[name]) for name in names}, self.sampling.size_match)

    def _subsamples(self, measure: Estimator, source: str, target: str) -> tuple[Subsamples, Subsamples]:
        given = {"seed": self.sampling.seed, "repeats": self.sampling.repeats, "draws": self.sampling.draws}
        if self.target is None or self.target.view is not self.views[target] or self.target.estimator != measure:  # one target: summaries can be large
            self.target = Subsamples(measure, self.views[target], **given)
        return (self.target if source == target else Subsamples(measure, self.views[source], **given)), self.target

    def _with_ceiling(self, measure: Estimator, score: Score, target: str, size: int | None) -> Score:
        if self.ceiling is None or measure.kind != "distance":
            return score
        key = (measure, target, size)
        if key not in self.ceilings:
            self.ceilings[key] = self._ceiling_of(measure, self.ceiling, self.views[target], size)
        found = self.ceilings[key]
        detail = {**score.detail, "ceiling_images": found.images} | ({"no_ceiling": found.reason} if found.reason else {})
        flags = (*score.flags, f"no ceiling: {found.reason}") if found.reason else score.flags
        return replace(score, ceiling=found.value, detail=detail, flags=flags)

    def _ceiling_of(self, measure: Estimator, unrelated: Embedding, target: Embedding, size: int | None) -> Ceiling:
        if unrelated.name == target.name:
            return Ceiling(None, 0, f"'{target.name}' is the unrelated data set itself")
        try:
            _check_views(measure, unrelated, target)
        except DataError as error:  # it lacks labels; that it has other features is the caller's mistake
            return Ceiling(None, 0, error.problems[0].message)
        return ceiling_of(measure, unrelated, target, size, self.sampling.seed)


def compare(
    method: str | Estimator, source: Any, target: Any, *, seed: int = 0, repeats: int = 0, size_match: SizeMatch = "off", draws: int = 5,
    ceiling: Any = None, **options: Any,
) -> Score:
    """The measure ``method`` of one source-target pair.

    Args:
        method: a name (`simkit list`), "module:Class", or an estimator.
        source: an Embedding, an array (n, d), a pair (array, labels); or a DatasetCard for measures of cards.
        target: the same.
        seed: of every random choice; the same seed gives the same value.
        repeats: half-samples for a 95 % interval and a floor; 0 computes the value only, else at least 3.
        size_match: images a side, to which both are cut: a number, "auto" (the smaller of both, for measures that depend on the sample sizes), or "off".
        draws: random samples of that size over which the value is averaged.
        ceiling: an unrelated data set (as ``source``) that is measured against the target as well, to read the scale.
        **options: the measure's options (`simkit list NAME`).

    Returns:
        Score with value, converged, detail; with p where the measure has a permutation test; with interval, floor and ceiling when
        ``repeats`` is given.

    Raises:
        UsageError: unknown method or option, embeddings of different extractors or dimensions.
        DataError: missing labels, NaN or infinite features.
        NotEnoughData: too few images for the measure.

    Example:
        >>> simkit.compare("otdd", (X, y), (Z, z), label_cost="gaussian", solver="exact").value
    """
    if isinstance(method, Estimator):
        if options:
            raise UsageError("SK102", method.name, "options were given beside an estimator that is already built", "give them to its constructor")
        estimator = method
    else:
        estimator = ESTIMATORS.build(Spec(method, options))
    sampling = Sampling(seed, repeats, size_match, draws)
    if estimator.view == "embedding":
        source, target = Embedding.of(source, "source"), Embedding.of(target, "target")
        ceiling = None if ceiling is None else Embedding.of(ceiling, "ceiling")
    _check_views(estimator, source, target)
    names = (source.name, target.name if source is target or source.name != target.name else f"{target.name} (target)")
    if isinstance(target, Embedding) and target.name != names[1]:
        target = replace(target, name=names[1])
    views = {names[0]: source, names[1]: target}
    if estimator.pool_relative and estimator.fitted(list(views.values())).pool_relative:
        raise UsageError("SK108", estimator.name, "its value depends on all data sets of a run: two are not enough", "use simkit.distance with the whole pool")
    found = score_pairs(estimator, views, [names], sampling=sampling, ceiling=ceiling)[names]
    if isinstance(found, SimkitError):
        raise found
    return found
