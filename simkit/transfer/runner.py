"""Runs a plan: what is not there yet, in this process or in several, and makes the transfer table."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from simkit.device import resolve_device
from simkit.errors import ResourceError, UsageError
from simkit.tables import TransferTable
from simkit.transfer.base import Failure, Finetune, Pretrain, Results, Say, TransferResult
from simkit.transfer.images import decode
from simkit.transfer.metrics import auc, metric_name
from simkit.transfer.plan import TransferPlan
from simkit.transfer.units import Labelled, Start, finetune, pretrain

__all__ = ["run_units"]

Done = tuple[int, dict[str, Any], list[str]]
"""Position of a unit, its record, and what was to be said about it."""


def run_units(plan: TransferPlan, *, progress: Say | None = None, jobs: int = 1) -> TransferResult:
    """Pretrains and fine-tunes what the plan has left to do.

    Each run is stored when it is finished, and its state after each epoch, so an interruption at any moment loses at most one epoch of the
    runs in progress; plan and run again to go on. A run whose loss diverges has no performance and is listed in ``failures``; the others
    go on.

    Args:
        plan: from :func:`~simkit.transfer.plan.plan_units`.
        progress: receives a short line for each finished run and each thing that a user should know.
        jobs: processes on this machine; 0 for one per CPU core (one on an accelerator). Results do not depend on it.

    Raises:
        UsageError: SK102 for negative ``jobs``.
        DataError: SK206 naming images that cannot be read.
        ResourceError: SK301 disk or memory, or a worker process that was killed. Finished runs are kept.
    """
    if jobs < 0:
        raise UsageError("SK102", "jobs", f"{jobs} processes", "give a number >= 1, or 0 for one per CPU core")
    started, say = time.perf_counter(), progress or _silent
    todo = list(plan.todo)
    pretrainings = sorted(plan.pretrainings, key=lambda unit: -len(plan.listings[unit.source]))  # the longest first, so that no process ends alone
    names = dict.fromkeys([*(unit.source for unit in pretrainings), *(unit.target for unit in todo)])
    data = {name: _decoded(plan, name) for name in names}
    made = 0

    def tell(lines: Iterable[str], line: str) -> None:
        for one in lines:
            say(one)
        say(f"{line} [{made} of {len(pretrainings) + len(todo)}, {time.perf_counter() - started:.0f} s]")

    count = min(jobs or _cores(plan), max(len(pretrainings), len(todo), 1))
    work = ((unit, data[unit.source], plan.results, plan.protocol.device) for unit in pretrainings)
    for index, record, lines in _carried_out(_pretrain_task, work, count, say):
        made += 1
        outcome = record.get("failed") or f"loss {record['losses'][-1]:.3f}"
        tell(lines, f"pretrained on {pretrainings[index].source}: {outcome}")
    runs = (_finetune_arguments(plan, unit, data[unit.target]) for unit in todo)
    for index, record, lines in _carried_out(_finetune_task, runs, count, say):
        made += 1
        value, reason = _performance(record, plan.protocol.average)
        tell(lines, f"{todo[index].label}: {reason if value is None else f'AUC {value:.3f}'}")
    return _result(plan, made, time.perf_counter() - started)


def _silent(line: str) -> None:
    """Takes no notice of a line of progress."""


def _cores(plan: TransferPlan) -> int:
    if resolve_device(plan.protocol.device).type != "cpu":
        return 1
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, there // plan.protocol.threads)


def _decoded(plan: TransferPlan, name: str) -> Labelled:
    images = plan.listings[name]
    return Labelled(decode(images, plan.protocol.image_size), images.labels, images.classes, images.digests)


def _finetune_arguments(plan: TransferPlan, unit: Finetune, data: Labelled) -> tuple[Any, ...]:
    trained_here = unit.start.startswith("pretrain:")
    digests = frozenset(plan.listings[unit.source].digests) if trained_here else frozenset()
    test = plan.folds[unit.target, unit.repeat].test[unit.fold]
    return unit, plan.starts[unit.source], data, test, digests, plan.results, plan.protocol.device


def _carried_out(task: Callable[..., Done], arguments: Iterable[Sequence[Any]], jobs: int, say: Say) -> Iterator[Done]:
    """The results of the tasks as they come: one after the other here, or in processes (joblib's, which share the pixels by a memory map)."""
    if jobs == 1:
        for index, one in enumerate(arguments):
            yield task(index, say, *one)
        return
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    try:
        parallel = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)
        yield from parallel(delayed(task)(index, None, *one) for index, one in enumerate(arguments))
    except TerminatedWorkerError as error:
        message = "a worker process was killed, most likely for lack of memory"
        raise ResourceError("SK301", "finetune", message, "run fewer jobs at once, or lower image_size; finished runs are kept") from error


def _pretrain_task(index: int, live: Say | None, unit: Pretrain, data: Labelled, results: Results, device: str) -> Done:
    lines: list[str] = []
    return index, pretrain(unit, data, results, device_name=device, say=live or lines.append, live=live), lines


def _finetune_task(
    index: int, live: Say | None, unit: Finetune, start: Start, data: Labelled, test: np.ndarray, digests: frozenset[str], results: Results, device: str,
) -> Done:
    lines: list[str] = []
    return index, finetune(unit, start, data, test, digests, results, device_name=device, say=live or lines.append, live=live), lines


def _performance(record: dict[str, Any], average: str) -> tuple[float | None, str]:
    """The AUC of a record's predictions, or None and the reason."""
    if "failed" in record:
        return None, str(record["failed"])
    return auc(np.asarray(record["labels"]), np.asarray(record["probabilities"], dtype=np.float64), classes=record["classes"], average=average)


def _result(plan: TransferPlan, made: int, seconds: float) -> TransferResult:
    rows, failures = [], []
    leaky: dict[tuple[str, str], int] = {}
    for unit in plan.runs:
        record = plan.results.load_json(Finetune.kind, unit.key)
        assert record is not None  # every run was either found or made
        value, reason = _performance(record, plan.protocol.average)
        flags = [reason] if reason else []
        if value is None:
            failures.append(Failure(unit.source, unit.target, unit.replicate, "SK502", reason))
        if record["leaked"]:
            flags.append(f"leaky: {record['leaked']} of {record['n_test']} test images are in the source")
            if unit.repeat == plan.protocol.seeds[0]:
                leaky[unit.source, unit.target] = leaky.get((unit.source, unit.target), 0) + int(record["leaked"])
        rows.append({
            "source": unit.source, "target": unit.target, "replicate": unit.replicate, "performance": value,
            "metric": metric_name(len(record["classes"]), plan.protocol.average), "n_train": record["n_train"], "n_test": record["n_test"],
            "flags": "; ".join(flags),
        })
    return TransferResult(TransferTable(tuple(rows)), tuple(failures), leaky, made, len(plan.runs) - len(plan.todo), seconds)
