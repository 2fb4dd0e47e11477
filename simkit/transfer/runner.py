"""Runs a plan: what is not there yet, in this process, in several or on a cluster, and makes the transfer table."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simkit.device import resolve_device
from simkit.execution import Where, Workers, workers
from simkit.tables import TransferTable
from simkit.transfer.base import Failure, Finetune, Pretrain, Results, Say, TransferResult
from simkit.transfer.images import decode
from simkit.transfer.metrics import auc, metric_name
from simkit.transfer.nodes import node_check
from simkit.transfer.plan import TransferPlan
from simkit.transfer.units import Labelled, Start, finetune, pretrain

__all__ = ["run_units"]

Done = tuple[dict[str, Any], list[str]]
"""The record of a unit, and what was to be said about it."""


def run_units(plan: TransferPlan, *, progress: Say | None = None, jobs: int = 1, cluster: str | None = None) -> TransferResult:
    """Pretrains and fine-tunes what the plan has left to do.

    Each run is stored when it is finished, and its state after each epoch, so an interruption at any moment loses at most one epoch of the
    runs in progress; plan and run again to go on. A run whose loss diverges has no performance and is listed in ``failures``; the others
    go on.

    Args:
        plan: from :func:`~simkit.transfer.plan.plan_units`.
        progress: receives a short line for each finished run and each thing that a user should know.
        jobs: processes on this machine; 0 for one per CPU core (one on an accelerator). Results do not depend on it.
        cluster: None for this machine; "ray" for a Ray of its own on this machine, "ray:auto" for the Ray cluster that this machine is part of,
            "ray:HOST:PORT" for another. Each run is one task with ``protocol.threads`` cores, and one GPU when the plan's device is CUDA. The store
            must lie on a file system that all machines see under the same path, because each writes its results there itself. A run whose
            worker is lost is started again, up to three times, and goes on from its last epoch. Results do not depend on it either, on
            processors and GPUs of one kind.

    Raises:
        UsageError: SK102 for negative ``jobs``, several jobs with a cluster, or a cluster that is not of that form.
        DataError: SK206 naming images that cannot be read.
        ResourceError: SK301 disk or memory, a worker process that was killed, or a machine that does not see the store; SK303 the package ray
            is missing; SK304 no such cluster. Finished runs are kept.
    """
    where = Where.parse(cluster, jobs=jobs)
    started, say = time.perf_counter(), progress or _silent
    todo = list(plan.todo)
    pretrainings = sorted(plan.pretrainings, key=lambda unit: -len(plan.listings[unit.source]))  # the longest first, so that no process ends alone
    units = len(pretrainings) + len(todo)
    outcomes: dict[str, _Outcome] = {}
    made = 0

    def tell(lines: Iterable[str], line: str) -> None:
        nonlocal made
        made += 1
        for one in lines:
            say(one)
        say(f"{line} [{made} of {units}, {time.perf_counter() - started:.0f} s]")

    if units:
        with _workers(plan, where, say) as (place, device):
            data = {name: place.share(_decoded(plan, name)) for name in _names(pretrainings, todo)}
            for index, (record, lines) in place.results(_pretrain_task, ((unit, data[unit.source], plan.results, device) for unit in pretrainings)):
                outcome = record.get("failed") or f"loss {record['losses'][-1]:.3f}"
                tell(lines, f"pretrained on {pretrainings[index].source}: {outcome}")
            digests = {name: place.share(_trained_on(plan, name)) for name in dict.fromkeys(unit.source for unit in todo)}
            runs = ((*_finetune_arguments(plan, unit), data[unit.target], digests[unit.source], plan.results, device) for unit in todo)
            for index, (record, lines) in place.results(_finetune_task, runs):
                one = outcomes[todo[index].key] = _outcome(record, plan.protocol.average)
                tell(lines, f"{todo[index].label}: {one.reason if one.auc is None else f'AUC {one.auc:.3f}'}")
    return _result(plan, outcomes, made, time.perf_counter() - started)


def _silent(line: str) -> None:
    """Takes no notice of a line of progress."""


def _cores(plan: TransferPlan) -> int:
    if resolve_device(plan.protocol.device).type != "cpu":
        return 1
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, there // plan.protocol.threads)


@contextmanager
def _workers(plan: TransferPlan, where: Where, say: Say) -> Iterator[tuple[Workers, str]]:
    """What carries the units out, and the name of the device there."""
    if where.address is None:
        jobs = min(where.jobs or _cores(plan), max(len(plan.pretrainings), len(plan.todo), 1))
        with workers(replace(where, jobs=jobs), say=say) as place:
            yield place, plan.protocol.device
        return
    # each task sees the one GPU that Ray gives it; "auto" is decided here, because a machine could decide otherwise
    device = resolve_device(plan.protocol.device).type
    with node_check(plan) as check, workers(where, cpus=plan.protocol.threads, gpus=int(device == "cuda"), say=say) as place:
        place.require(check)
        yield place, device


def _names(pretrainings: Sequence[Pretrain], todo: Sequence[Finetune]) -> list[str]:
    """The data sets whose pixels are needed."""
    return list(dict.fromkeys([*(unit.source for unit in pretrainings), *(unit.target for unit in todo)]))


def _decoded(plan: TransferPlan, name: str) -> Labelled:
    images = plan.listings[name]
    return Labelled(decode(images, plan.protocol.image_size), images.labels, images.classes, images.digests)


def _trained_on(plan: TransferPlan, source: str) -> frozenset[str]:
    """Digests of the images that a source was trained on here; none for weights that came from elsewhere."""
    return frozenset(plan.listings[source].digests) if plan.starts[source].identity.startswith("pretrain:") else frozenset()


def _finetune_arguments(plan: TransferPlan, unit: Finetune) -> tuple[Finetune, Start, np.ndarray]:
    start = plan.starts[unit.source]
    if start.path:
        start = replace(start, path=os.path.abspath(start.path))  # another process may have another working folder
    return unit, start, plan.folds[unit.target, unit.repeat].test[unit.fold]


def _pretrain_task(live: Say | None, unit: Pretrain, data: Labelled, results: Results, device: str) -> Done:
    lines: list[str] = []
    return pretrain(unit, data, results, device_name=device, say=live or lines.append, live=live), lines


def _finetune_task(
    live: Say | None, unit: Finetune, start: Start, test: np.ndarray, data: Labelled, digests: frozenset[str], results: Results, device: str,
) -> Done:
    lines: list[str] = []
    return finetune(unit, start, data, test, digests, results, device_name=device, say=live or lines.append, live=live), lines


@dataclass(frozen=True)
class _Outcome:
    """What the table needs of a record. Kept from the run itself: a network file system may show a new file to other machines a little later."""

    auc: float | None
    reason: str
    classes: int
    leaked: int
    n_train: int
    n_test: int


def _outcome(record: dict[str, Any], average: str) -> _Outcome:
    """The AUC of a record's predictions, or None and the reason."""
    if "failed" in record:
        value, reason = None, str(record["failed"])
    else:
        labels, probabilities = np.asarray(record["labels"]), np.asarray(record["probabilities"], dtype=np.float64)
        value, reason = auc(labels, probabilities, classes=record["classes"], average=average)
    return _Outcome(value, reason, len(record["classes"]), int(record["leaked"]), int(record["n_train"]), int(record["n_test"]))


def _stored(plan: TransferPlan, unit: Finetune) -> _Outcome:
    record = plan.results.load_json(Finetune.kind, unit.key)
    assert record is not None  # every run was either found or made
    return _outcome(record, plan.protocol.average)


def _result(plan: TransferPlan, outcomes: Mapping[str, _Outcome], made: int, seconds: float) -> TransferResult:
    rows, failures = [], []
    leaky: dict[tuple[str, str], int] = {}
    for unit in plan.runs:
        outcome = outcomes.get(unit.key) or _stored(plan, unit)
        flags = [outcome.reason] if outcome.reason else []
        if outcome.auc is None:
            failures.append(Failure(unit.source, unit.target, unit.replicate, "SK502", outcome.reason))
        if outcome.leaked:
            flags.append(f"leaky: {outcome.leaked} of {outcome.n_test} test images are in the source")
            if unit.repeat == plan.protocol.seeds[0]:
                leaky[unit.source, unit.target] = leaky.get((unit.source, unit.target), 0) + outcome.leaked
        rows.append({
            "source": unit.source, "target": unit.target, "replicate": unit.replicate, "performance": outcome.auc,
            "metric": metric_name(outcome.classes, plan.protocol.average), "n_train": outcome.n_train, "n_test": outcome.n_test,
            "flags": "; ".join(flags),
        })
    return TransferResult(TransferTable(tuple(rows)), tuple(failures), leaky, made, len(plan.runs) - len(plan.todo), seconds)
