"""Scores of all pairs by all measures: found in the store, or computed in threads and kept pair by pair."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from simkit.dataset import Dataset, DatasetCard
from simkit.embedding import Embedding
from simkit.errors import DataError, NotEnoughData, SimkitError
from simkit.estimators.base import Estimator, Score, TaskEstimator
from simkit.estimators.comparison import Sampling, Summaries, common_size, score_pairs
from simkit.estimators.uncertainty import UNCERTAINTY_VERSION
from simkit.pipeline.progress import Progress
from simkit.pipeline.stages import CARD_VERSION, cores
from simkit.pipeline.tasks import probe_of, task_key
from simkit.recipe import digest
from simkit.report.content import Unavailable
from simkit.store import Store
from simkit.transport.interruption import stopped

__all__ = ["PairScore", "common_sizes", "in_threads", "refuse", "score_all", "score_from", "score_key", "settled", "view_digest_of"]

Anything = TypeVar("Anything")


@dataclass(frozen=True)
class PairScore:
    """One score with what it belongs to, and whether it came from the store."""

    source: str
    target: str
    estimator: Estimator
    score: Score
    stored: bool


def view_digest_of(estimator: Estimator, dataset: Dataset | DatasetCard, extractor: str) -> str:
    """What identifies a data set's view in the recipe of a score: content and extractor, content and probe, or content, tags and attributes.

    The data set is the one without unreadable images: the same files give the same digest, wherever they lie.
    """
    if estimator.view == "embedding":
        return digest(["embedding", dataset.fingerprint, extractor])
    if isinstance(estimator, TaskEstimator):
        assert isinstance(dataset, Dataset)
        return task_key(estimator, dataset, probe_of(estimator))
    return digest(["card", CARD_VERSION, dataset.fingerprint, dataset.tags, dataset.attributes])


def common_sizes(
    estimator: Estimator, pairs: Sequence[tuple[str, str]], counts: Mapping[str, int], sampling: Sampling, *, where: str = "",
) -> dict[str, int | None]:
    """Target -> images a side at which its pairs are measured; None: all.

    Raises:
        UsageError: a data set has fewer images than the study asks for.
    """
    members: dict[str, set[str]] = {}
    for source, target in pairs:
        members.setdefault(target, set() if estimator.kind == "prior" else {target}).add(source)
    return {target: common_size(estimator, {name: counts[name] for name in names}, sampling.size_match, where=where) for target, names in members.items()}


def score_key(
    estimator: Estimator, views: Mapping[str, str], source: str, target: str, *, sampling: Sampling, size: int | None = None, ceiling: str = "",
) -> str:
    """Recipe digest of a score. The names are part of it because they name the random numbers.

    Args:
        estimator: the measure.
        views: data set -> digest of its view.
        source: name.
        target: name.
        sampling: seed, half-samples, draws.
        size: images a side at which the pair is measured.
        ceiling: digest of the unrelated data set's view.
    """
    recipe = {"method": estimator.recipe(), "source": [source, views[source]], "target": [target, views[target]], "seed": sampling.seed}
    if estimator.view == "embedding":
        recipe["sampling"] = [sampling.repeats, UNCERTAINTY_VERSION, *((size, sampling.draws) if size else ())]
        if sampling.repeats and estimator.kind == "distance":
            recipe["ceiling"] = ceiling
    if estimator.pool_relative:
        recipe["pool"] = sorted(views.values())
    return digest(recipe)


def score_all(
    methods: Sequence[Estimator], views: Mapping[str, Mapping[str, Any]], digests: Mapping[tuple[str, str], str],
    pairs: Mapping[str, Sequence[tuple[str, str]]], store: Store, *, sampling: Sampling, ceiling: tuple[Embedding, str] | None, progress: Progress,
) -> tuple[list[PairScore], list[Unavailable]]:
    """Scores of all pairs by all measures: from the store where they are, else computed, and stored pair by pair.

    Each (measure, target) is a task; tasks run in threads, one a core, with the linear algebra's own threads shared out among them. The
    numbers do not depend on it: every random choice is named by measure and pair.

    Args:
        methods: the measures.
        views: "embedding", "card" or the name of a measure of tasks -> name -> view.
        digests: (method, data set) -> digest of the view.
        pairs: method -> the pairs it can have.
        store: where scores are kept.
        sampling: seed, half-samples, common sizes.
        ceiling: embedding of the unrelated data set, and its digest.
        progress: told what happens.
    """
    found: dict[tuple[str, str, str], Score | SimkitError] = {}
    keys: dict[tuple[str, str, str], str] = {}
    sizes: dict[str, dict[str, int | None]] = {}
    own = {method.name: views[method.name if method.view == "task" else method.view] for method in methods}
    for method in methods:
        counts = {name: len(view) for name, view in own[method.name].items()} if method.view == "embedding" else {}
        sizes[method.name] = common_sizes(method, pairs[method.name], counts, sampling) if counts else {}
        known = {name: digests[method.name, name] for name in own[method.name] if (method.name, name) in digests}
        for pair in pairs[method.name]:
            size = sizes[method.name].get(pair[1])
            key = keys[method.name, *pair] = score_key(method, known, *pair, sampling=sampling, size=size, ceiling=ceiling[1] if ceiling else "")
            value = store.load_json("score", key)
            if value is not None:
                found[method.name, *pair] = score_from(value)
    stored = set(found)
    tasks = _tasks(methods, pairs, stored)
    with progress.counting("scoring", len(keys) - len(stored), "pairs") as done:

        def keep(method: Estimator, pair: tuple[str, str], result: Score | SimkitError) -> None:
            found[method.name, *pair] = result
            if isinstance(result, Score):
                store.save_json("score", keys[method.name, *pair], {"pair": pair, "method": method.recipe(), **asdict(result)})
            else:
                refuse(store, keys[method.name, *pair], pair, method, result)
            done(1)

        pools = {m.name: {n: v for n, v in own[m.name].items() if (m.name, n) in digests} for m in methods}
        summaries = {m.name: Summaries(m, pools[m.name]) for m in methods}
        _in_threads(tasks, summaries, sampling=sampling, sizes=sizes, ceiling=ceiling[0] if ceiling else None, keep=keep)
    for result in found.values():
        if isinstance(result, SimkitError) and not isinstance(result, (NotEnoughData, DataError)):
            raise result
    scores, refused = [], []
    for method in methods:
        for pair in pairs[method.name]:
            one = found[method.name, *pair]
            if isinstance(one, Score):
                scores.append(PairScore(*pair, method, one, (method.name, *pair) in stored))
            else:
                refused.append(Unavailable(method.name, *pair, one.problems[0].message))
    return scores, refused


Task = tuple[Estimator, list[tuple[str, str]]]


def _tasks(methods: Sequence[Estimator], pairs: Mapping[str, Sequence[tuple[str, str]]], stored: set[tuple[str, str, str]]) -> list[Task]:
    """The pairs that are left, by measure and target."""
    tasks: dict[tuple[str, str], Task] = {}
    for method in methods:
        for source, target in pairs[method.name]:
            if (method.name, source, target) not in stored:
                tasks.setdefault((method.name, target), (method, []))[1].append((source, target))
    return list(tasks.values())


def _in_threads(
    tasks: Sequence[Task], summaries: Mapping[str, Summaries], *, sampling: Sampling, sizes: Mapping[str, Mapping[str, int | None]],
    ceiling: Embedding | None, keep: Callable[[Estimator, tuple[str, str], Score | SimkitError], None],
) -> None:
    def work(task: Task) -> None:
        method, pairs = task
        shared = summaries[method.name]
        score_pairs(method, shared.views, pairs, sampling=sampling, sizes=sizes[method.name], ceiling=ceiling,
                    each=lambda pair, result: keep(method, pair, result), summaries=shared)

    in_threads(tasks, work, modules={"scipy.linalg", "ot"} if any(m.view == "embedding" for m, _ in tasks) else set())


def in_threads(tasks: Sequence[Anything], work: Callable[[Anything], None], *, modules: Collection[str], workers: int = 0) -> None:
    """Does the work in threads, one a core, with the linear algebra's own threads (as many as are allowed) shared out among them.

    Args:
        tasks: arguments of ``work``.
        work: done for each.
        modules: imported before, so that a BLAS that they load knows the limit.
        workers: threads at most; 0: one a core.
    """
    from threadpoolctl import threadpool_info, threadpool_limits

    if not tasks:
        return
    for module in modules:
        importlib.import_module(module)
    count = min(cores(), len(tasks), workers or len(tasks))
    share = max(1, cores() // count)
    torch = sys.modules.get("torch")  # its threads are counted per thread that calls it, so each worker sets its own share
    whole = torch.get_num_threads() if torch else 0

    def limit() -> None:
        if torch:
            torch.set_num_threads(min(share, whole))

    allowed = max((library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"), default=share)
    with threadpool_limits(limits=min(share, allowed)), ThreadPoolExecutor(count, thread_name_prefix="simkit-score", initializer=limit) as pool:
        futures = [pool.submit(work, task) for task in tasks]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            with stopped():
                pool.shutdown(wait=True, cancel_futures=True)
            raise
        finally:
            if torch:
                torch.set_num_threads(whole)


def refuse(store: Store, key: str, pair: tuple[str, str], method: Estimator, error: SimkitError) -> None:
    """Keeps that a score is undefined for these data, so that a plan knows that nothing is left to do; the reason is found anew where it is wanted."""
    if isinstance(error, NotEnoughData):
        store.save_json("undefined", key, {"pair": pair, "method": method.recipe(), "reason": error.problems[0].message})


def settled(store: Store, key: str) -> bool:
    """Whether a score is in the store, or that it is undefined."""
    return store.load_json("score", key) is not None or store.load_json("undefined", key) is not None


def score_from(value: Mapping[str, Any]) -> Score:
    interval = value["interval"]
    return Score(
        value["value"], value["converged"], value["detail"], tuple(interval) if interval else None, value["floor"],
        value.get("ceiling"), value.get("p"), value.get("matched"),  # measures of cards may have been stored before there were these
        tuple(value["flags"]),
    )
