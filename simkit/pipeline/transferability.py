"""Scores of the network view: every pair of a network and a target by every measure, found in the store, or computed in threads and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from simkit.dataset import Dataset
from simkit.errors import DataError, NotEnoughData, SimkitError, UsageError
from simkit.estimators.assessment import ASSESSMENT_VERSION, assessed_all
from simkit.estimators.base import NetworkEstimator, Score
from simkit.estimators.comparison import Sampling
from simkit.estimators.seen import Seen
from simkit.extractors.triplet_gradients import GRADIENTS_VERSION
from simkit.pipeline.networks import SourceNetwork
from simkit.pipeline.progress import Progress
from simkit.pipeline.scoring import PairScore, in_threads, refuse, score_from
from simkit.recipe import digest
from simkit.report.content import Unavailable
from simkit.store import Store

__all__ = ["Pair", "score_networks", "transferability_key"]

Pair = tuple[str, str]


def transferability_key(
    method: NetworkEstimator, pair: Pair, networks: Mapping[str, SourceNetwork], target: Dataset, pool: Sequence[str], sampling: Sampling,
) -> str:
    """Recipe digest of a score: the measure, the network, the target's content, and what makes it sure; the names name the random numbers."""
    recipe: dict[str, Any] = {
        "method": method.recipe(), "source": [pair[0], networks[pair[0]].key], "target": [pair[1], target.fingerprint], "seed": sampling.seed,
        "sampling": [sampling.repeats, ASSESSMENT_VERSION],
    }
    if "gradients" in method.reads:
        recipe["gradients"] = GRADIENTS_VERSION
    if method.pool_relative:
        recipe["pool"] = sorted(networks[name].key for name in pool)
    return digest(recipe)


@dataclass(frozen=True, eq=False)
class _Task:
    """One measure, and the pairs of one target that are computed together: one, or all of them where it is relative to the pool."""

    method: NetworkEstimator
    pairs: tuple[Pair, ...]


def score_networks(
    methods: Sequence[NetworkEstimator], pairs: Mapping[str, Sequence[Pair]], networks: Mapping[str, SourceNetwork], datasets: Mapping[str, Dataset],
    store: Store, *, sampling: Sampling, views: Callable[[Mapping[Pair, set[str]]], Callable[[Pair], Seen]], progress: Progress,
) -> tuple[list[PairScore], list[Unavailable]]:
    """Scores of all pairs by all measures of the network view.

    Args:
        methods: the measures.
        pairs: method -> (source, target) that it can have.
        networks: source -> its network.
        datasets: the targets, without unreadable images.
        store: where scores are kept, one by one.
        sampling: seed, half-samples and shuffles.
        views: is told the pairs whose views will be asked for, with the methods that they are for, and returns what makes one (or raises DataError); called
            only where a score is not in the store. Views are large: one is made for all measures of its pair, and let go, but for measures that are relative
            to the pool.
        progress: told what happens.
    """
    keys: dict[tuple[str, Pair], str] = {}
    found: dict[tuple[str, Pair], Score | SimkitError] = {}
    for method in methods:
        for pair in pairs[method.name]:
            pool = [source for source, target in pairs[method.name] if target == pair[1]]
            key = keys[method.name, pair] = transferability_key(method, pair, networks, datasets[pair[1]], pool, sampling)
            value = store.load_json("score", key)
            if value is not None:
                found[method.name, pair] = score_from(value)
    stored = set(found)
    with progress.counting("transferability", len(keys) - len(stored), "pairs") as done:

        def keep(method: NetworkEstimator, pair: Pair, result: Score | SimkitError) -> None:
            if (method.name, pair) in stored:  # computed again as one of a pool
                return
            found[method.name, pair] = result
            if isinstance(result, Score):
                store.save_json("score", keys[method.name, pair], {"pair": pair, "method": method.recipe(), **asdict(result)})
            else:
                refuse(store, keys[method.name, pair], pair, method, result)
            done(1)

        tasks = [task for method in methods for task in _tasks(method, pairs[method.name], stored)]
        wanted: dict[Pair, set[str]] = {}
        for task in tasks:
            for pair in task.pairs:
                wanted.setdefault(pair, set()).add(task.method.name)
        seen_of = views(wanted) if wanted else None
        for group in _grouped(tasks):
            assert seen_of is not None
            there: dict[Pair, Seen] = {}
            for pair in group[0].pairs:
                try:
                    there[pair] = seen_of(pair)
                except DataError as error:
                    for task in group:
                        keep(task.method, pair, error)
            _in_threads([replace(task, pairs=tuple(there)) for task in group if there], there, sampling, keep)
    return _sorted_out(methods, pairs, found, stored)


def _tasks(method: NetworkEstimator, pairs: Sequence[Pair], stored: set[tuple[str, Pair]]) -> list[_Task]:
    """What is left of a measure: one task a pair, or one a target where it is relative to the pool."""
    left = [pair for pair in pairs if (method.name, pair) not in stored]
    if method.pool_relative:
        return [_Task(method, tuple(pair for pair in pairs if pair[1] == target)) for target in dict.fromkeys(pair[1] for pair in left)]
    return [_Task(method, (pair,)) for pair in left]


def _grouped(tasks: Sequence[_Task]) -> list[list[_Task]]:
    """The tasks that need the same views, in the order of their first."""
    groups: dict[tuple[Pair, ...], list[_Task]] = {}
    for task in tasks:
        groups.setdefault(task.pairs, []).append(task)
    return list(groups.values())


ROOM = 3 << 30
"""Bytes that the copies of views which all threads make together may take, roughly."""


def _in_threads(
    tasks: Sequence[_Task], seen: Mapping[Pair, Seen], sampling: Sampling, keep: Callable[[NetworkEstimator, Pair, Score | SimkitError], None],
) -> None:
    """The tasks of some views; fewer at a time where the views are large."""
    def work(task: _Task) -> None:
        for pair, result in zip(task.pairs, assessed_all(task.method, [seen[pair] for pair in task.pairs], sampling), strict=True):
            keep(task.method, pair, result)

    size = sum(one.features.nbytes + (0 if one.probabilities is None else one.probabilities.nbytes) for one in seen.values())
    in_threads(tasks, work, modules={"scipy.linalg"}, workers=max(1, ROOM // (2 * max(size, 1))))


def _sorted_out(
    methods: Sequence[NetworkEstimator], pairs: Mapping[str, Sequence[Pair]], found: Mapping[tuple[str, Pair], Score | SimkitError],
    stored: set[tuple[str, Pair]],
) -> tuple[list[PairScore], list[Unavailable]]:
    """The scores, and what could not be computed with its reason; anything that is no fault of the data is raised."""
    scores, refused = [], []
    for method in methods:
        for pair in pairs[method.name]:
            one = found[method.name, pair]
            if isinstance(one, Score):
                scores.append(PairScore(*pair, method, one, (method.name, pair) in stored))
            elif isinstance(one, (NotEnoughData, DataError, UsageError)):
                refused.append(Unavailable(method.name, *pair, one.problems[0].message))
            else:
                raise one
    return scores, refused
