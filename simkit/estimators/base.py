"""The contract of a measure, and how pairs of data sets are scored by it.

A measure reads one kind of view of a data set: the *embedding* (features and labels) or the *card* (counts, sizes, tags). ``summarize``
is the work that is done once per data set, ``compare`` what is left for a pair; source comes before target, always.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import Any, Literal, Protocol

import numpy as np

from simkit.dataset import DatasetCard
from simkit.embedding import Embedding
from simkit.errors import DataError, NotEnoughData, SimkitError, UsageError
from simkit.recipe import recipe_of, rng_for
from simkit.registry import ESTIMATORS, Spec

__all__ = ["CardEstimator", "Estimator", "FeatureEstimator", "Known", "Score", "Summaries", "compare", "halves", "score_pairs"]

Kind = Literal["distance", "transferability", "prior"]


@dataclass(frozen=True)
class Score:
    """What a measure says about one source-target pair.

    Attributes:
        value: the number, in the measure's own unit; always finite.
        converged: whether the solver behind it met its tolerance (True for closed forms).
        detail: the evidence: parts, iterations, errors, sample sizes.
        interval: value +- t times the spread over half-samples (delete-half jackknife): how far the value would move in another sample of
            these sizes, or None when it was not asked for. It does not remove the bias that distances have at small n.
        floor: the value between two random halves of the target (so at half its size), mean over repeats, or None. Whether the pair is
            above it is judged at one common sample size (see :func:`with_uncertainty`); when it is not, a flag says so.
        flags: short warnings that go beside the number wherever it is shown.
    """

    value: float
    converged: bool = True
    detail: Mapping[str, Any] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    floor: float | None = None
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise NotEnoughData("SK502", "", f"the value is undefined ({self.value})", "a measure must refuse with a reason instead of returning NaN")


class Known(Protocol):
    """What a measure may ask of a data set before any work: both Dataset and DatasetCard answer."""

    @property
    def name(self) -> str: ...
    @property
    def tags(self) -> tuple[str, ...]: ...
    @property
    def attributes(self) -> dict[str, str]: ...
    @property
    def class_counts(self) -> dict[str, int]: ...


class Estimator:
    """Base of every measure. Subclass :class:`FeatureEstimator` or :class:`CardEstimator` with ``@dataclass(frozen=True)``.

    Class attributes (set in the class body, without annotation):
        name: how the measure is called everywhere.
        kind: "distance", "transferability", or "prior" (a property of the source alone: no similarity).
        symmetric: whether compare(a, b) equals compare(b, a).
        higher_is_better: whether a higher value promises better transfer (False for distances).
        view: "embedding" or "card".
        needs: what it asks of each data set, of: "labels", "tags", "attributes", "attributes.NOTION"; ``missing`` says what is lacking.
        needs_of_source: what it asks of the source only (for priors).
        bounds: smallest and largest possible value; None where there is none.
        size_biased: whether the expected value depends on the sample sizes; pairs of very unequal sizes are then flagged.
        pool_relative: whether the value depends on the other data sets of the run.
        bound_of: the measure of which this one is a bound; "all" leaves bounds out, which say nothing new and add to the tests that are adjusted for.
        unit: of the value, in words.
        citation: source with equation number.
        version: raised with every change that moves a number.
    """

    name = ""
    kind: Kind = "distance"
    symmetric = True
    higher_is_better = False
    view: Literal["embedding", "card"] = "embedding"
    needs: tuple[str, ...] = ()
    needs_of_source: tuple[str, ...] = ()
    bounds: tuple[float | None, float | None] = (0.0, None)
    size_biased = False
    pool_relative = False
    bound_of = ""
    unit = ""
    citation = ""
    version = 1

    def recipe(self) -> dict[str, Any]:
        """What identifies the measure and its options in the store."""
        return recipe_of(self)

    def missing(self, known: Known, role: Literal["source", "target"]) -> str:
        """Why the measure cannot be computed for this data set, in words; "" when it can. Asked before any work."""
        needs = (*self.needs, *(self.needs_of_source if role == "source" else ()))
        present = [name for name, count in known.class_counts.items() if count > 0]
        if "labels" in needs and not known.class_counts:
            return f"{self.name} needs labels, {known.name} has none"
        if "labels" in needs and len(present) < 1:
            return f"{self.name} needs at least one class with images in {known.name}"
        return ""

    def settled(self, n_source: int, n_target: int) -> Estimator:
        """The measure with every choice made that it leaves to the sizes of the data sets (a solver), asked before any work on a pair.

        A pair's half-samples are then measured in the same way as the pair. By default the measure itself.

        Raises:
            ResourceError: it cannot be computed for data sets of these sizes.
        """
        return self

    def seconds(self, n_source: int, n_target: int) -> float | None:
        """Rough time of one pair of these sizes on one core, for the plan of a study; None where it is not known."""
        return None

    def summarize(self, view: Any) -> Any:
        """The work done once per data set; by default the view itself."""
        return view

    def summarize_all(self, views: Sequence[Any]) -> list[Any]:
        """Summaries of all data sets of the run; overridden by measures that are relative to the pool."""
        return [self.summarize(view) for view in views]

    def compare(self, source: Any, target: Any, rng: np.random.Generator) -> Score:
        """The measure of one pair, from the two summaries."""
        raise NotImplementedError


class FeatureEstimator(Estimator):
    """A measure of two embeddings."""

    view = "embedding"


class CardEstimator(Estimator):
    """A measure of two data set cards."""

    view = "card"


def _check_views(estimator: Estimator, source: Any, target: Any) -> None:
    for role, view in (("source", source), ("target", target)):
        if isinstance(view, Embedding):
            wants = (*estimator.needs, *(estimator.needs_of_source if role == "source" else ()))
            if "labels" in wants and view.labels is None:
                message = f"{estimator.name} needs labels, {role} '{view.name}' has none"
                raise DataError("SK208", view.name, message, "give (array, labels), or choose a label-free method, such as wasserstein")
        elif isinstance(view, DatasetCard):
            reason = estimator.missing(view, "source" if role == "source" else "target")
            if reason:
                raise DataError("SK208", view.name, reason, "add it to the data set, or leave the method out")
        else:
            raise UsageError("SK102", estimator.name, f"{role} is a {type(view).__name__}, wanted {_wanted(estimator)}", "see `simkit list`")
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
    return "an Embedding, an array (n, d) or a pair (array, labels)" if estimator.view == "embedding" else "a DatasetCard (simkit.card)"


def halves(view: Embedding, rng: np.random.Generator) -> tuple[Embedding, Embedding]:
    """A random split in two: whole groups where groups exist, else half of each class (classes of odd size alternate sides).

    Raises:
        NotEnoughData: for fewer than four rows or two groups.
    """
    if view.groups:
        names = sorted(set(view.groups))
        if len(names) < 2:
            raise NotEnoughData("SK501", view.name, "1 group cannot be split in two halves", "an interval needs at least two groups (patients)")
        members = np.array([names.index(g) for g in view.groups]) if len(names) < 50 else np.unique(view.groups, return_inverse=True)[1]
        sizes = np.bincount(members, minlength=len(names))
        side, filled = np.zeros(len(names), dtype=int), [0, 0]
        for g in rng.permutation(len(names)):
            side[g] = int(filled[1] < filled[0])
            filled[side[g]] += sizes[g]
        mask = side[members] == 0
    else:
        if len(view) < 4:
            raise NotEnoughData("SK501", view.name, f"{len(view)} images cannot be split in two halves", "an interval needs at least four images")
        order = view.by_content[rng.permutation(len(view))]
        if view.labels is not None:
            order = order[np.argsort(view.labels[order], kind="stable")]
        mask = np.zeros(len(view), dtype=bool)
        mask[order[int(rng.integers(2)) :: 2]] = True
    return view.take(np.flatnonzero(mask)), view.take(np.flatnonzero(~mask))


def _rng(estimator: Estimator, source: str, target: str, seed: int, repeat: int = 0) -> np.random.Generator:
    names = sorted([source, target]) if estimator.symmetric else [source, target]
    return rng_for(seed, *names, estimator.name, repeat)


def shortened(view: Embedding, size: int, rng: np.random.Generator) -> Embedding:
    """At most ``size`` random rows: whole groups where groups exist (at least one), else evenly from each class."""
    if len(view) <= size:
        return view
    if view.groups:
        names = sorted(set(view.groups))
        rows: list[int] = []
        for g in rng.permutation(len(names)):
            members = [i for i, name in enumerate(view.groups) if name == names[g]]
            if not rows or len(rows) + len(members) <= size:
                rows += members
        return view.take(np.array(sorted(rows)))
    order = view.by_content[rng.permutation(len(view))]
    if view.labels is not None:
        order = order[np.argsort(view.labels[order], kind="stable")]
    return view.take(order[np.linspace(0, len(view), size, endpoint=False).astype(int)])


KEPT_HALVES = 2**30
"""Bytes of features in all halves of a data set up to which they and their summaries are kept for its next pair."""


class HalfSamples:
    """Random halves of a data set with their summaries and the floor: made once per data set and measure, used for every pair
    (unless they would take too much memory: then once a pair).

    Args:
        estimator: the measure.
        view: the embedding that is halved.
        seed: of the study; halves depend on it, on the data set's name and on the content of its rows, not on their order.
        repeats: number of splits, at least 3.
    """

    def __init__(self, estimator: Estimator, view: Embedding, *, seed: int, repeats: int):
        self.estimator, self.view, self.seed, self.repeats = estimator, view, seed, repeats

    @property
    def splits(self) -> Iterable[tuple[Embedding, Embedding]]:
        """Both halves of each split; of large data sets one after the other."""
        return self._made_splits() if self._large else self._kept_splits

    @cached_property
    def _large(self) -> bool:
        return 2 * self.repeats * self.view.features.nbytes > KEPT_HALVES

    @cached_property
    def _kept_splits(self) -> list[tuple[Embedding, Embedding]]:
        return list(self._made_splits())

    def _made_splits(self) -> Iterator[tuple[Embedding, Embedding]]:
        for repeat in range(self.repeats):
            yield halves(self.view, rng_for("halves", self.seed, self.view.name, repeat))

    @cached_property
    def sizes(self) -> list[int]:
        """Images in each half."""
        return [len(half) for split in self.splits for half in split]

    @property
    def size(self) -> int:
        """Images in the smallest half."""
        return min(self.sizes)

    def cut(self, size: int) -> Iterable[tuple[Any, Any]]:
        """Summaries of both halves of each split, cut to at most ``size`` images each; of large data sets made one after the other, and not kept."""
        if self._large:
            return self._made_cut(size)
        if size not in self._cut:
            for other in [one for one in self._cut if one != len(self.view)]:
                del self._cut[other]  # the whole halves and one cut are kept: summaries can be large
            self._cut[size] = list(self._made_cut(size))
        return self._cut[size]

    def _made_cut(self, size: int) -> Iterator[tuple[Any, Any]]:
        for repeat, split in enumerate(self.splits):
            one, other = (shortened(half, size, rng_for("cut", self.seed, self.view.name, repeat, side)) for side, half in enumerate(split))
            yield self.estimator.summarize(one), self.estimator.summarize(other)

    @cached_property
    def _cut(self) -> dict[int, list[tuple[Any, Any]]]:
        return {}

    @property
    def summaries(self) -> Iterable[tuple[Any, Any]]:
        """Summaries of both halves of each split, whole."""
        return self.cut(len(self.view))

    def floors(self, size: int) -> list[float]:
        """The measure between the two halves of each split, cut to at most ``size`` images each."""
        name = self.view.name
        rngs = [_rng(self.estimator, name, name, self.seed, repeat + 1) for repeat in range(self.repeats)]
        return [self.estimator.compare(other, one, rng).value for (one, other), rng in zip(self.cut(size), rngs, strict=True)]

    @cached_property
    def whole_floors(self) -> list[float]:
        """:meth:`floors` of the whole halves."""
        return self.floors(len(self.view))


UNCERTAINTY_VERSION = 1
"""Part of the recipe of scores with intervals: raised with every change of the procedure below."""

INDISTINCT = "not distinguishable from the target"
UNEQUAL = "sample sizes differ by more than half, and this measure depends on them"


def with_uncertainty(estimator: Estimator, score: Score, source: HalfSamples, target: HalfSamples) -> Score:
    """The score with an interval from half-samples, a floor, and a verdict whether the pair is above it.

    The standard deviation over R random half-samples, taken without replacement from both sides, estimates the standard error at the
    full size (delete-d jackknife with d = n/2, Shao and Wu 1989); the interval is value +- t(R-1, 0.975) times it. It is the spread of the
    value *at these sample sizes*: it is conservative for pairs near their floor, and it does not contain the distance between the
    populations when the bias of small samples is larger than the spread.

    For the verdict, source and target halves are cut to one common size m, so that the bias is the same on both sides, and the excess of
    d(S, T) over d(T', T) is held against its own spread over the repeats: unless it exceeds t(R-1, 0.95) standard deviations, the source
    is called not distinguishable from a second sample of the target.
    """
    from scipy.stats import t

    try:
        pairs = zip(source.summaries, target.summaries, strict=True)
        rngs = [_rng(estimator, source.view.name, target.view.name, target.seed, repeat + 1) for repeat in range(target.repeats)]
        values = [estimator.compare(half_s, half_t, rng).value for ((half_s, _), (half_t, _)), rng in zip(pairs, rngs, strict=True)]
        excess, floor = _excess(estimator, values, source, target) if estimator.kind == "distance" else (None, None)
    except NotEnoughData as error:
        return replace(score, flags=(*score.flags, f"no interval: {error.problems[0].message}"))
    spread = float(np.std(values, ddof=1) * t.ppf(0.975, target.repeats - 1))
    low, high = estimator.bounds
    lower = score.value - spread if low is None else max(low, score.value - spread)
    upper = score.value + spread if high is None else min(high, score.value + spread)
    detail = {**score.detail, "half_sample_mean": float(np.mean(values)), "repeats": target.repeats}
    flags = score.flags
    if excess is not None:
        detail["excess_over_floor"] = float(np.mean(excess))
        used = detail.get("n")  # fewer where the measure takes a sample
        detail["matched_images"] = min(source.size, target.size, *(used if isinstance(used, tuple) and len(used) == 2 else ()))
        margin = float(t.ppf(0.95, target.repeats - 1) * np.std(excess, ddof=1))
        if float(np.mean(excess)) <= margin and source.view is not target.view:
            flags = (*flags, INDISTINCT)
    return replace(score, interval=(lower, upper), floor=floor, flags=flags, detail=detail)


def _excess(estimator: Estimator, values: list[float], source: HalfSamples, target: HalfSamples) -> tuple[np.ndarray, float]:
    """Per repeat d(S, T) - d(T', T) at one common size; and the floor of the whole halves."""
    floor = float(np.mean(target.whole_floors))
    common = min(source.size, target.size)
    if max(*source.sizes, *target.sizes) <= common + 1:  # halves of one size: nothing to cut
        return np.array(values) - np.array(target.whole_floors), floor
    rngs = [_rng(estimator, source.view.name, target.view.name, target.seed, -repeat - 1) for repeat in range(target.repeats)]
    pairs = zip(source.cut(common), target.cut(common), rngs, strict=True)
    matched = [estimator.compare(half_s, half_t, rng).value for (half_s, _), (half_t, _), rng in pairs]
    return np.array(matched) - np.array(target.floors(common)), floor


def _flagged(estimator: Estimator, score: Score, source: Any, target: Any) -> Score:
    """The score with a flag where sample sizes differ so much that a size-biased measure says more about them than about the data."""
    used = score.detail.get("n") if isinstance(score, Score) else None  # a measure may take a sample
    sizes = used if isinstance(used, tuple) and len(used) == 2 else (len(source), len(target)) if isinstance(source, Embedding) else (1, 1)
    if estimator.size_biased and isinstance(source, Embedding) and max(sizes) > 1.5 * min(sizes):
        return replace(score, flags=(*score.flags, UNEQUAL))
    return score


class Summaries:
    """Summaries of the data sets of a run by one measure: each made once, when it is first asked for, also when threads ask.

    Args:
        estimator: the measure.
        views: name -> embedding or card; for a pool-relative measure, the whole pool.
    """

    def __init__(self, estimator: Estimator, views: Mapping[str, Any]):
        self.estimator, self.views = estimator, views
        self._made: dict[str, Any] = {}
        self._locks = {name: Lock() for name in views}
        self._whole = Lock()

    def of(self, name: str) -> Any:
        """The summary of one data set. Raises what ``summarize`` raises."""
        with self._whole if self.estimator.pool_relative else self._locks[name]:
            if name not in self._made:
                # a data set that the measure cannot read takes no part in the pool; its own pairs hold the reason
                pool = [n for n in sorted(self.views) if _can_read(self.estimator, self.views[n])] if self.estimator.pool_relative else [name]
                self._made.update(zip(pool, self.estimator.summarize_all([self.views[n] for n in pool]), strict=True))
            return self._made[name]


def score_pairs(
    estimator: Estimator, views: Mapping[str, Any], pairs: Sequence[tuple[str, str]], *, seed: int = 0, repeats: int = 0,
    each: Callable[[tuple[str, str], Score | SimkitError], None] | None = None, summaries: Summaries | None = None,
) -> dict[tuple[str, str], Score | SimkitError]:
    """Scores of many pairs; each data set is summarised once. A pair that cannot be scored holds its error, the others their Score.

    Args:
        estimator: the measure.
        views: name -> embedding or card.
        pairs: (source, target) names; put those of one target together, its half-samples are kept for one target at a time.
        seed: of every random choice.
        repeats: half-samples for interval and floor (0: none, else at least 3); only for embeddings.
        each: called with each pair and its result as soon as it is known, so that finished pairs can be kept.
        summaries: those of another call with the same measure and views, to share them.
    """
    out: dict[tuple[str, str], Score | SimkitError] = {}
    made = summaries or Summaries(estimator, views)
    halved: HalfSamples | None = None
    for source, target in pairs:
        try:
            _check_views(estimator, views[source], views[target])
            measure = estimator.settled(len(views[source]), len(views[target])) if estimator.view == "embedding" else estimator
            score = measure.compare(made.of(source), made.of(target), _rng(measure, source, target, seed))
            score = _flagged(measure, score, views[source], views[target])
            if repeats and measure.view == "embedding":
                if halved is None or halved.view is not views[target] or halved.estimator != measure:  # kept for one target: summaries can be large
                    halved = HalfSamples(measure, views[target], seed=seed, repeats=repeats)
                other = halved if source == target else HalfSamples(measure, views[source], seed=seed, repeats=repeats)
                score = with_uncertainty(measure, score, other, halved)
            out[source, target] = score
        except SimkitError as error:
            out[source, target] = error
        if each is not None:
            each((source, target), out[source, target])
    return out


def compare(method: str | Estimator, source: Any, target: Any, *, seed: int = 0, repeats: int = 0, **options: Any) -> Score:
    """The measure ``method`` of one source-target pair.

    Args:
        method: a name (`simkit list`), "module:Class", or an estimator.
        source: an Embedding, an array (n, d), a pair (array, labels); or a DatasetCard for measures of cards.
        target: the same.
        seed: of every random choice; the same seed gives the same value.
        repeats: half-samples for a 95 % interval and a floor; 0 computes the value only, else at least 3.
        **options: the measure's options (`simkit list NAME`).

    Returns:
        Score with value, converged, detail; and interval and floor when ``repeats`` is given.

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
    if repeats < 0 or repeats in (1, 2):
        raise UsageError("SK102", "repeats", f"{repeats} half-samples give no interval", "give 0 (no interval) or at least 3")
    if estimator.view == "embedding":
        source, target = Embedding.of(source, "source"), Embedding.of(target, "target")
    if isinstance(source, Embedding) and isinstance(target, Embedding) and source.name == target.name and source is not target:
        target = replace(target, name=f"{target.name} (target)")
    _check_views(estimator, source, target)
    if estimator.pool_relative:
        raise UsageError("SK108", estimator.name, "its value depends on all data sets of a run: two are not enough", "use simkit.distance with the whole pool")
    if isinstance(source, Embedding) and isinstance(target, Embedding):
        estimator = estimator.settled(len(source), len(target))
    summaries = estimator.summarize(source), estimator.summarize(target)
    score = _flagged(estimator, estimator.compare(*summaries, _rng(estimator, source.name, target.name, seed)), source, target)
    if repeats and isinstance(source, Embedding) and isinstance(target, Embedding):
        halved = HalfSamples(estimator, target, seed=seed, repeats=repeats)
        other = halved if source is target else HalfSamples(estimator, source, seed=seed, repeats=repeats)
        score = with_uncertainty(estimator, score, other, halved)
    return score


