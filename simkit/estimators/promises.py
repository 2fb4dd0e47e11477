"""What every measure promises, one function each; run by :func:`simkit.check_estimator`."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import random
import types
import warnings
from collections.abc import Callable
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np

from simkit.dataset import DatasetCard
from simkit.embedding import Embedding
from simkit.errors import DataError, SimkitError, UsageError
from simkit.estimators.assessment import assessed_all
from simkit.estimators.base import Estimator, NetworkEstimator, Score
from simkit.estimators.comparison import Sampling, compare, score_pairs
from simkit.estimators.examples import Examples
from simkit.estimators.seen import Seen
from simkit.estimators.task_embedding import TaskEmbedding
from simkit.recipe import digest, rng_for
from simkit.registry import OptionInfo, Text, build_options, options_of

__all__ = ["PROMISES", "Broken", "Trial", "finite_value"]

TOLERANCE = 1e-5
"""Relative difference up to which two values count as equal where only the order of float32 sums may differ."""


class Broken(Exception):
    """A broken promise: what happened, and how to mend it."""


@dataclass(frozen=True)
class Trial:
    """A measure and the data sets on which it is tried."""

    estimator: Estimator
    examples: Examples

    @property
    def source(self) -> Any:
        return self.examples.near

    @property
    def target(self) -> Any:
        return self.examples.target

    def score(self, source: Any, target: Any, *, seed: int = 0, estimator: Estimator | None = None) -> Score:
        """The score of one pair as a run computes it; whatever it raises instead, raised."""
        measure = estimator or self.estimator
        if isinstance(measure, NetworkEstimator) and measure.view == "network":  # the source is the target as its network sees it
            pool = {view.name: view for view in (*self.examples.all, source)} if measure.pool_relative else {source.name: source}
            result: Score | SimkitError = dict(zip(pool, assessed_all(measure, list(pool.values()), Sampling(seed)), strict=True))[source.name]
            if isinstance(result, SimkitError):
                raise result
            return result
        views = {view.name: view for view in (*self.examples.all, source, target)}
        if not measure.pool_relative:
            views = {view.name: view for view in (source, target)}
        score = score_pairs(measure, views, [(source.name, target.name)], sampling=Sampling(seed))[source.name, target.name]
        if isinstance(score, SimkitError):
            raise score
        return score

    def value(self, source: Any, target: Any, *, seed: int = 0, estimator: Estimator | None = None) -> float:
        return self.score(source, target, seed=seed, estimator=estimator).value


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= TOLERANCE * max(abs(a), abs(b)) + 1e-9


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _as_text(value: Any) -> Text | None:
    """The value as ``--set option=value`` writes it; None where a command line has no form for it."""
    if value is None or isinstance(value, bool):
        return Text(str(value).lower())
    if isinstance(value, (str, int, float, Path)):
        return Text(str(value))
    if isinstance(value, tuple) and all(isinstance(item, (str, int, float)) and "," not in str(item) for item in value) and value:
        return Text(",".join(str(item) for item in value))
    return None


def _another(info: OptionInfo, value: Any) -> Any:
    """A valid value of the option that differs from ``value``; MISSING when there is none."""
    candidates: list[Any] = []
    for one in _members(info.type):
        origin = get_origin(one)
        if origin is Literal:
            candidates += [choice for choice in get_args(one) if choice != value]
        elif origin is tuple and isinstance(value, tuple):
            candidates += [value[1:] if len(value) > 1 else value * 2]
        elif one is bool:
            candidates.append(not value)
        elif one in (int, float):
            number = one(value) if isinstance(value, (int, float)) else one(1)
            candidates += [number + 1, number * one(2), number - 1] + ([number / 2, number + 1e-3] if one is float else [])
        elif one in (str, Path):
            candidates.append(one(f"{value}x"))
        elif one is type(None) and value is not None:
            candidates.append(None)
    for candidate in candidates:
        try:
            if info.check(candidate, info.name) != value:
                return candidate
        except UsageError:
            continue
    return MISSING


def _options(trial: Trial) -> None:
    """Options survive a round trip through text and recipe; an option that differs gives another recipe."""
    estimator = trial.estimator
    cls: Any = type(estimator)
    identity = digest(estimator.recipe())
    values = {info.name: getattr(estimator, info.name) for info in options_of(cls)}
    plain = {name: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value for name, value in values.items()}
    typed = {name: text if (text := _as_text(value)) is not None else plain[name] for name, value in values.items()}
    for form, options in (("a study file", {k: v for k, v in plain.items() if v is not None}), ("the command line", typed)):
        again = cls(**build_options(cls, options, cls.name))
        if again != estimator or digest(again.recipe()) != identity:
            raise Broken(f"{estimator!r} became {again!r} on its way through {form}: keep options as given, or normalise them to a fixed form")
    kept = {f.name for f in dataclasses.fields(cls) if f.metadata.get("recipe", True)}
    for info in options_of(cls):
        other = _another(info, values[info.name])
        if info.name not in kept or other is MISSING:
            continue
        changed = copy.copy(estimator)
        object.__setattr__(changed, info.name, other)  # not through the constructor: it may know that the value fits no data
        if digest(changed.recipe()) == identity:
            same = f"{info.name} = {values[info.name]!r} and {info.name} = {other!r} have the same recipe"
            raise Broken(f"{same}: a stored result would be taken for another; let recipe() hold every option that moves the number")


def finite_value(trial: Trial) -> None:
    """A Score whose value is a finite Python float, for each of the examples."""
    for source in (trial.examples.near, trial.examples.far):
        score = trial.score(source, trial.target)
        if not isinstance(score, Score):
            raise Broken(f"compare returned {score!r}: return Score(value)")
        if not isinstance(score.value, float):
            raise Broken(f"the value is a {type(score.value).__name__}: return Score(float(value))")


def _same_seed(trial: Trial) -> None:
    """The same seed gives the same value, whatever the state of global random generators, which are left alone."""
    state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - the promise is that nobody touches them
    try:
        np.random.seed(20210713)  # noqa: NPY002 - a state that no measure would choose, so that seeding shows as well as drawing
        random.seed(20210713)
        before = pickle.dumps((np.random.get_state(), random.getstate()))  # noqa: NPY002
        first = trial.value(trial.source, trial.target, seed=7)
        after = pickle.dumps((np.random.get_state(), random.getstate()))  # noqa: NPY002
    finally:
        np.random.set_state(state)  # noqa: NPY002
        random.setstate(python_state)
    if after != before:
        raise Broken("it draws from (or seeds) the global random generator: draw from the `rng` that compare is given")
    second = trial.value(trial.source, trial.target, seed=7)
    if first != second:
        raise Broken(f"seed 7 gave {first!r}, then {second!r}: take every random choice from the `rng` that compare is given, in a fixed order")


_CACHED = ("canonical", "canonical_rows", "ordered", "units", "rows", "memo")


def _frozen(view: Any) -> Any:
    """The view with arrays that cannot be written to."""
    if isinstance(view, (Seen, TaskEmbedding)):
        arrays: dict[str, Any] = {name: value.copy() for name, value in vars(view).items() if isinstance(value, np.ndarray)}
        view = replace(view, **arrays)
        for name in arrays:
            getattr(view, name).flags.writeable = False
        return view
    if isinstance(view, Embedding):
        view = replace(view, features=view.features.copy(), labels=None if view.labels is None else view.labels.copy())
        for array in (view.features, view.labels):
            if array is not None:
                array.flags.writeable = False
    return view


def _content(view: Any) -> Any:
    if isinstance(view, Embedding):
        return (view.features.tobytes(), None if view.labels is None else view.labels.tobytes(), view.classes, view.groups)
    if isinstance(view, (Seen, TaskEmbedding)):
        return {name: value.tobytes() if isinstance(value, np.ndarray) else value for name, value in vars(view).items() if name not in _CACHED}
    return copy.deepcopy(dataclasses.asdict(view))


def _inputs_untouched(trial: Trial) -> None:
    """The data sets are as before, and a read-only array (as the store hands out) will do."""
    before = [_content(view) for view in trial.examples.all]
    trial.score(trial.source, trial.target)
    for view, old in zip(trial.examples.all, before, strict=True):
        if _content(view) != old:
            raise Broken(f"'{view.name}' was changed: copy what you change")
    try:
        trial.score(_frozen(trial.source), _frozen(trial.target))
    except (ValueError, BufferError) as error:
        raise Broken(f"read-only arrays are refused ({error}): copy what you change") from error


def _symmetric(trial: Trial) -> None:
    """compare(a, b) equals compare(b, a) when the measure says so."""
    if not trial.estimator.symmetric:
        return
    for source in (trial.examples.near, trial.examples.far):
        there, back = trial.value(source, trial.target), trial.value(trial.target, source)
        if not _close(there, back):
            raise Broken(f"from '{source.name}' to '{trial.target.name}' {there!r}, back {back!r}: declare symmetric = False, or make it symmetric")


def _direction(trial: Trial) -> None:
    """Farther data move the value in the declared direction. A prior says nothing about similarity and promises the next one instead."""
    if trial.estimator.kind == "prior":
        return
    near, far = trial.value(trial.examples.near, trial.target), trial.value(trial.examples.far, trial.target)
    if not (far < near if trial.estimator.higher_is_better else far > near):
        wanted = "lower" if trial.estimator.higher_is_better else "higher"
        text = f"near {near!r}, far {far!r}: higher_is_better = {trial.estimator.higher_is_better} wants a {wanted} value for farther data"
        raise Broken(f"{text}; declare the other direction, or bring examples() on which near and far are told apart")


def _source_only(trial: Trial) -> None:
    """A prior depends on the source alone; it differs between sources."""
    if trial.estimator.kind != "prior":
        return
    source, (one, two) = trial.source, (trial.examples.target, trial.examples.far)
    a, b = trial.value(source, one), trial.value(source, two)
    if a != b:
        text = f"source '{source.name}' has {a!r} for target '{one.name}' and {b!r} for '{two.name}'"
        raise Broken(f'{text}: read the source only, or declare kind = "distance"')
    if a == trial.value(trial.examples.far, one):
        raise Broken(f"{a!r} for the sources '{source.name}' and '{trial.examples.far.name}' alike: it tells no source from another")


def _self_is_nearest(trial: Trial) -> None:
    """A data set is not farther from itself than a far data set is."""
    if trial.estimator.kind == "prior":
        return
    own, far = trial.value(trial.target, trial.target), trial.value(trial.examples.far, trial.target)
    if not (own >= far if trial.estimator.higher_is_better else own <= far):
        text = f"'{trial.target.name}' with itself {own!r}, with '{trial.examples.far.name}' {far!r}"
        raise Broken(f"{text}: no data set is farther from itself than from another")


def _shuffled(view: Any) -> Any:
    if isinstance(view, (Embedding, Seen)):
        return view.take(rng_for("order", view.name).permutation(len(view)))
    if isinstance(view, TaskEmbedding):
        return view
    turned = {name: dict(reversed(getattr(view, name).items())) for name in ("class_counts", "attributes")}
    return replace(view, tags=tuple(reversed(view.tags)), **turned)


def _row_order(trial: Trial) -> None:
    """The order of the rows (of classes, tags, answers) does not matter."""
    before, after = trial.value(trial.source, trial.target), trial.value(_shuffled(trial.source), _shuffled(trial.target))
    if not _close(before, after):
        raise Broken(f"{before!r}, with shuffled rows {after!r}: rows have no order; sort by content before anything that depends on it")


def _renamed(view: Any) -> Any:
    if isinstance(view, TaskEmbedding):
        return view
    if isinstance(view, (Embedding, Seen)):
        if view.labels is None:
            return view
        order = np.roll(np.arange(len(view.classes)), 1)
        return replace(view, labels=order[view.labels], classes=(*(f"renamed {i}" for i in range(len(view.classes))), "empty"))
    counts = {f"renamed {i}": count for i, (_, count) in enumerate(reversed(view.class_counts.items()))}
    return replace(view, class_counts=counts | {"empty": 0})


def _label_names(trial: Trial) -> None:
    """Names and numbers of the classes do not matter, and a class without images counts for nothing.

    A measure that matches classes by name keeps its value when they are renamed on both sides alike.
    """
    before = trial.value(trial.source, trial.target)
    pairs = [(_renamed(trial.source), trial.target), (trial.source, _renamed(trial.target))]
    if trial.estimator.reads_class_names:
        pairs = [(_renamed(trial.source), _renamed(trial.target))]
    for source, target in pairs:
        after = trial.value(source, target)
        if not _close(before, after):
            text = f"{before!r}, after classes were renamed, renumbered and joined by one without images {after!r}"
            raise Broken(f"{text}: a label says which rows belong together, no more")


def _unlabelled(view: Any) -> Any:
    return replace(view, labels=None, classes=()) if isinstance(view, (Embedding, Seen)) else replace(view, class_counts={})


def _missing(trial: Trial) -> None:
    """What the measure needs and a data set lacks is said by name, before any work; what it does not need may be missing."""
    if trial.estimator.view == "task":  # without labels there is no task embedding
        return
    bare = (lambda view: replace(view, class_counts={}, tags=(), attributes={}, histogram=())) if trial.estimator.view == "card" else _unlabelled
    for lacking in (_unlabelled, bare):
        pairs = (("source", lacking(trial.source), trial.target), ("target", trial.source, lacking(trial.target)))
        for role, source, target in pairs[:1] if trial.estimator.view == "network" else pairs:
            view = source if role == "source" else target
            needed = "labels" in (*trial.estimator.needs, *(trial.estimator.needs_of_source if role == "source" else ()))
            said = trial.estimator.missing(view, role) if isinstance(view, DatasetCard) else "labels" if needed else ""  # type: ignore[arg-type]
            if isinstance(view, DatasetCard) and needed and not said:
                raise Broken(f"it needs labels, {role} '{view.name}' has none, and missing() says nothing: call super().missing(known, role)")
            try:
                score = trial.score(source, target)
            except SimkitError as error:
                if not said:
                    text = f"{role} '{view.name}' without labels or answers was refused ({error.problems[0].message})"
                    raise Broken(f"{text}: announce it in needs or missing()") from error
                owner = view.target if isinstance(view, Seen) else view.name
                if not isinstance(error, DataError) or owner not in str(error):
                    raise Broken(f"the refusal does not name the {role} '{owner}': {error}") from error
            else:
                if said:
                    raise Broken(f"{role} '{view.name}' lacks something ({said}) and yet the value is {score.value!r}: refuse it")


def _spoilt(view: Any) -> list[Any]:
    """The view with NaN where it must not be."""
    if isinstance(view, TaskEmbedding):
        return [replace(view, fisher=np.where(np.arange(len(view.fisher)) == 2, np.nan, view.fisher))]
    if isinstance(view, (Embedding, Seen)):
        features = view.features.copy()
        features[1, 2] = np.nan
        spoilt = replace(view)
        object.__setattr__(spoilt, "features", features)  # past the door: Embedding itself refuses NaN
        return [spoilt]
    histogram = ((float("nan"), *view.histogram[0][1:]), *view.histogram[1:]) if view.histogram else ()
    return [replace(view, **{name: float("nan")}) for name in ("grey_share", "height", "width")] + [replace(view, histogram=histogram)]


def _refuses_nan(trial: Trial) -> None:
    """A NaN in the data is refused, never turned into a number. (The target's features play no part in a prior.)"""
    alone = trial.estimator.view == "network" or (trial.estimator.kind == "prior" and trial.estimator.view == "embedding")
    for role in ("source",) if alone else ("source", "target"):
        for spoilt in _spoilt(trial.source if role == "source" else trial.target):
            pair = (spoilt, trial.target) if role == "source" else (trial.source, spoilt)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    value = trial.value(*pair)
            except Exception:  # noqa: S112 - any refusal keeps the promise
                continue
            if not isinstance(spoilt, DatasetCard) or value != trial.value(trial.source, trial.target):
                raise Broken(f"NaN in the {role} gave {value!r}: raise DataError (SK210) that names the data set; no nanmean, no nan_to_num")


def _within_bounds(trial: Trial) -> None:
    """Values lie within the declared bounds."""
    low, high = trial.estimator.bounds
    for source in (trial.examples.near, trial.examples.far, trial.target):
        value = trial.value(source, trial.target)
        if (low is not None and value < low) or (high is not None and value > high):
            raise Broken(f"{value!r} for source '{source.name}' is outside bounds = ({low}, {high}): correct the bounds or the value")


def _pool(trial: Trial) -> None:
    """Other data sets of the run do not matter, unless the measure says that it is relative to them."""
    estimator, (source, target) = trial.estimator, (trial.source, trial.target)
    if isinstance(estimator, NetworkEstimator) and estimator.view == "network":
        _pool_of_networks(trial, estimator)
        return
    everybody = {view.name: view for view in trial.examples.all}
    pair = (source.name, target.name)
    inside = score_pairs(estimator, everybody, [pair, (trial.examples.far.name, target.name)])[pair]
    if isinstance(inside, SimkitError):
        raise inside
    if not estimator.pool_relative:
        alone = compare(estimator, source, target).value
        if alone != inside.value:
            raise Broken(f"{alone!r} alone, {inside.value!r} among other data sets: declare pool_relative = True, or use nothing but the pair")
        return
    turned = score_pairs(estimator, dict(reversed(everybody.items())), [pair])[pair]
    if isinstance(turned, SimkitError) or turned.value != inside.value:
        raise Broken(f"{inside.value!r}, with the data sets of the run in another order {turned}: the order must not matter")


def _pool_of_networks(trial: Trial, estimator: NetworkEstimator) -> None:
    everybody = list(trial.examples.all)
    there, turned = ({view.name: found for view, found in zip(order, assessed_all(estimator, order, Sampling(0)), strict=True)}
                     for order in (everybody, everybody[::-1]))
    inside, other = there[trial.source.name], turned[trial.source.name]
    if isinstance(inside, SimkitError):
        raise inside
    if isinstance(other, SimkitError) or other.value != inside.value:
        raise Broken(f"{inside.value!r}, with the sources in another order {other}: the order must not matter")
    if not estimator.pool_relative and (alone := trial.value(trial.source, trial.target)) != inside.value:
        raise Broken(f"{alone!r} alone, {inside.value!r} among other sources: declare pool_relative = True, or use nothing but the pair")


def _pickles(trial: Trial) -> None:
    """The measure and its scores travel to worker processes."""
    try:
        again = pickle.loads(pickle.dumps(trial.estimator))  # noqa: S301 - made one line above
        score = pickle.loads(pickle.dumps(trial.score(trial.source, trial.target)))  # noqa: S301 - likewise
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise Broken(f"cannot be pickled ({error}): define the class at the top level of a module, keep open files and functions out of it") from error
    value = trial.value(trial.source, trial.target, estimator=again)
    if again != trial.estimator or value != score.value:
        raise Broken(f"{trial.estimator!r} came back as {again!r}, with {value!r} for {score.value!r}: all state must be in the fields")


def _p_value(trial: Trial) -> None:
    """Where there is a p-value it lies above 0 and not above 1, is smaller for far data, and comes with the value that compare gives."""
    far, own = trial.score(trial.examples.far, trial.target), trial.score(trial.target, trial.target)
    if far.p is None:
        return
    for score in (far, own):
        if score.p is None or not 0.0 < score.p <= 1.0:
            raise Broken(f"p = {score.p!r}: a permutation p-value is (1 + reached) / (1 + permutations), above 0 and at most 1")
    if own.p is not None and far.p > own.p:
        raise Broken(f"p = {far.p!r} for '{trial.examples.far.name}', {own.p!r} for the target itself: far data must not fit the hypothesis better")
    measure = trial.estimator.fitted(list(trial.examples.all))
    plain = measure.compare(measure.summarize(trial.examples.far), measure.summarize(trial.target), rng_for("p-value"))
    if not _close(plain.value, far.value):
        raise Broken(f"tested gives {far.value!r}, compare {plain.value!r}: the p-value must belong to the same number")


PROMISES: dict[str, Callable[[Trial], None]] = {
    "options": _options,
    "same seed": _same_seed,
    "inputs untouched": _inputs_untouched,
    "symmetric": _symmetric,
    "direction": _direction,
    "source only": _source_only,
    "self is nearest": _self_is_nearest,
    "row order": _row_order,
    "label names": _label_names,
    "missing": _missing,
    "refuses NaN": _refuses_nan,
    "bounds": _within_bounds,
    "pool": _pool,
    "pickle": _pickles,
    "p-value": _p_value,
}
"""What every measure promises beside its declaration and a finite value, in the order in which it is tried."""
