"""Runs a plan: what is not there yet, in this process, in several or on a cluster, and makes the transfer table.

Several processes (also on several machines) may run the same plan on one store at the same time: each unit is claimed by whoever begins it, and
the others take another one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from simkit.errors import IntegrityError
from simkit.execution import DEVICE, LATER, Where, Workers, workers
from simkit.tables import TransferTable
from simkit.transfer.base import Failure, Finetune, Pretrain, Results, Say, TransferResult
from simkit.transfer.claims import Claim, Claims
from simkit.transfer.fitting import Labelled
from simkit.transfer.nodes import node_check
from simkit.transfer.pixels import stored_pixels
from simkit.transfer.plan import TransferPlan
from simkit.transfer.progress import Clock
from simkit.transfer.units import Setting, Start, Work, finetune, missing_files, pretrain, pretrained

__all__ = ["run_units"]

Done = tuple[dict[str, Any], list[str]]
"""The record of a unit, and what was to be said about it."""

WAIT_SECONDS, BEAT_SECONDS = 2.0, 60.0
"""How often it is looked whether another process has finished the units that are left; how often a process shows that it is alive."""


def run_units(
    plan: TransferPlan, *, progress: Say | None = None, jobs: int = 1, cluster: str | None = None, logs: str | os.PathLike[str] | None = None,
) -> TransferResult:
    """Pretrains and fine-tunes what the plan has left to do.

    Each run is stored when it is finished, and its state after each epoch, so an interruption at any moment loses at most one epoch of the
    runs in progress; plan and run again to go on. Runs that another process on the same store is doing are left to it, and waited for. A run whose
    loss diverges has no value and is listed in ``failures``; the others go on.

    Args:
        plan: from :func:`~simkit.transfer.grid.plan_units`.
        progress: receives a short line for each finished run (with the time left for the grid) and each thing that a user should know.
        jobs: processes on this machine; 0 for one per GPU, or one per ``protocol.threads`` CPU cores. Results do not depend on it.
        cluster: None for this machine; "ray" for a Ray of its own on this machine, "ray:auto" for the Ray cluster that this machine is part of,
            "ray:HOST:PORT" for another. Each run is one task with ``protocol.threads`` cores, and one GPU when the plan's device is CUDA. The store
            must lie on a file system that all machines see under the same path, because each writes its results there itself. A run whose
            worker is lost is started again, up to three times, and goes on from its last epoch. Results do not depend on it either, on
            processors and GPUs of one kind.
        logs: folder for TensorBoard logs (extra ``tensorboard``): loss, learning rate and inner validation of each epoch of each training.

    Raises:
        UsageError: SK102 for negative ``jobs``, several jobs with a cluster, or a cluster that is not of that form.
        DataError: SK206 naming images that cannot be read.
        ResourceError: SK301 disk or memory, a worker process that was killed again and again, or a machine that does not see the store; SK303 the
            package ray or tensorboard is missing; SK304 no such cluster. Finished runs are kept.
    """
    where = Where.parse(cluster, jobs=jobs)
    if logs is not None:
        from simkit.transfer.logs import check_tensorboard

        check_tensorboard()
    started, say = time.perf_counter(), progress or _silent
    outcomes: dict[str, dict[str, Any]] = {}
    for note in plan.notes:
        say(f"note: {note}")
    if plan.pretrainings or plan.todo:
        outcomes = _Grid(plan, where, say, None if logs is None else Path(logs).absolute()).run()
    return _result(plan, outcomes, time.perf_counter() - started)


def _silent(line: str) -> None:
    """Takes no notice of a line of progress."""


@dataclass(eq=False)
class _Grid:
    """What is left of a plan, at work."""

    plan: TransferPlan
    where: Where
    say: Say
    logs: Path | None

    def run(self) -> dict[str, dict[str, Any]]:
        """Key -> record of every unit that was done."""
        plan = self.plan
        # what others wait for first, the longest first, so that no process ends alone
        pretrainings = sorted(plan.pretrainings, key=lambda unit: -plan.costs[unit.key])
        units: list[Pretrain | Finetune] = [*pretrainings, *plan.todo]
        outcomes: dict[str, dict[str, Any]] = {}
        with self.workers(len(units)) as (place, device):
            data = {name: place.share(self.labelled(name)) for name in dict.fromkeys(_data(unit) for unit in units)}
            clock = Clock([plan.costs[unit.key] for unit in units], place.jobs)
            left, blocked, waiting = list(range(len(units))), list[int](), False
            if self.where.address is not None:  # a cluster takes all tasks at once: those that must wait for a pretraining are sent after it
                blocked = [index for index in left if not self.ready(units[index])]
                left = [index for index in left if index not in blocked]
            while left:
                tasks = [self.arguments(units[index], data[_data(units[index])], device) for index in left]
                again = []
                for position, outcome in place.results(_task, tasks):
                    index = left[position]
                    if outcome is LATER:
                        again.append(index)
                        continue
                    record, lines = outcome
                    outcomes[units[index].key] = record
                    for line in lines:
                        self.say(line)
                    self.say(f"{_said(units[index], record, plan.protocol.average)} {clock.finished(index, float(record.get('seconds', 0.0)))}")
                if again and len(again) == len(left):
                    if not waiting:
                        self.say(f"{len(left)} run{'s are' if len(left) > 1 else ' is'} being done by another process on this store: waiting for "
                                 f"{'them' if len(left) > 1 else 'it'} ({Claims(plan.results).holder(units[again[0]].key)})")
                        waiting = True
                    time.sleep(WAIT_SECONDS)
                left, blocked = sorted([*again, *blocked]), []
        return outcomes

    def ready(self, unit: Pretrain | Finetune) -> bool:
        """Whether nothing else of this grid has to be done first."""
        return isinstance(unit, Pretrain) or not (start := self.plan.origins[unit.key].start).pretraining or pretrained(self.plan.results, start.pretraining)

    @contextmanager
    def workers(self, units: int) -> Iterator[tuple[Workers, Any]]:
        """What carries the units out, and the device of each (a stand-in that is replaced where the unit runs)."""
        plan, protocol = self.plan, self.plan.protocol
        if self.where.address is None:
            jobs = min(self.where.jobs or _room(plan), units)
            with workers(replace(self.where, jobs=jobs), devices=plan.devices, say=self.say) as place:
                yield place, DEVICE
            return
        # each task sees the one GPU that Ray gives it
        device = plan.devices[0].partition(":")[0]
        with node_check(plan) as check, workers(self.where, cpus=protocol.threads, gpus=int(device == "cuda"), say=self.say) as place:
            place.require(check)
            yield place, device

    def labelled(self, name: str) -> Labelled:
        plan, images = self.plan, self.plan.listings[name]
        pixels = stored_pixels(images, plan.protocol.image_size, plan.protocol.channels, plan.results, self.say)
        return Labelled(pixels, images.labels, images.classes, images.digests, images.keys)

    def arguments(self, unit: Pretrain | Finetune, data: Labelled, device: Any) -> tuple[Any, ...]:
        """What a worker needs for a unit: itself, its start, the data, positions."""
        plan, protocol = self.plan, self.plan.protocol
        setting = Setting("", protocol.deterministic, protocol.compile, protocol.keep_networks, self.logs)
        inner, nothing = plan.inner(unit), np.zeros(0, dtype=np.int64)
        if isinstance(unit, Pretrain):
            work = _Positions(plan.rows(unit), nothing, inner, 0)
            start = Start("")
        else:
            origin, split = plan.origins[unit.key], plan.folds[unit.target, unit.repeat]
            given, rows = split.validation(unit.fold), split.train(unit.fold)
            rows = rows if given is None else np.sort(np.concatenate([rows, given]))  # those of a refit
            work = _Positions(rows, split.test[unit.fold], inner, origin.leaked)
            start = replace(origin.start, path=os.path.abspath(origin.start.path)) if origin.start.path else origin.start
        return unit, start, data, work, plan.results, protocol.average, setting, device


@dataclass(frozen=True, eq=False)
class _Positions:
    """:class:`Work` without the data, which are handed over once for all units."""

    rows: np.ndarray
    test: np.ndarray
    inner: tuple[np.ndarray, np.ndarray] | None
    leaked: int | None


def _room(plan: TransferPlan) -> int:
    """How many runs fit on this machine: one a GPU, or one per ``threads`` cores."""
    if not plan.devices[0].startswith("cpu"):
        return len(plan.devices)
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, there // plan.protocol.threads)


def _data(unit: Pretrain | Finetune) -> str:
    """The data set that a unit trains on."""
    return unit.source if isinstance(unit, Pretrain) else unit.target


def _task(
    live: Say | None, unit: Pretrain | Finetune, start: Start, data: Labelled, positions: _Positions, results: Results, average: str, setting: Setting,
    device: str,
) -> Any:
    """One unit, in whatever process; LATER when another process is at it, or when what it starts from is not there yet."""
    lines: list[str] = []
    say, setting = live or lines.append, replace(setting, device=device)
    work = Work(data, positions.rows, positions.test, positions.inner, positions.leaked)
    if isinstance(unit, Pretrain):
        do = partial(pretrain, unit, _compact(work), results, setting=setting)
    else:
        record = results.load_json(Finetune.kind, unit.key)
        done = record is not None and not missing_files(results, unit.key, record, keep_networks=setting.keep_networks)
        if not done and start.pretraining and not pretrained(results, start.pretraining):
            return LATER
        do = partial(finetune, unit, start, work, results, average=average, setting=setting)
    claim = Claims(results).take(unit.key)
    if claim is None:
        return LATER
    with claim, _beating(claim):
        return do(say=say, live=live), lines


@contextmanager
def _beating(claim: Claim) -> Iterator[None]:
    """Shows other machines that this process is alive, however long an epoch takes."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_SECONDS):
            claim.touch()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _compact(work: Work) -> Work:
    """The work of a pretraining with the classes that have images left, numbered anew."""
    present = np.unique(work.data.labels[work.rows])
    if len(present) == len(work.data.classes):
        return work
    number = np.zeros(len(work.data.classes), dtype=np.int64)
    number[present] = np.arange(len(present))
    classes = tuple(work.data.classes[index] for index in present)
    return replace(work, data=replace(work.data, labels=number[work.data.labels], classes=classes))


def _said(unit: Pretrain | Finetune, record: Mapping[str, Any], average: str) -> str:
    """A unit's outcome in one line."""
    if "failed" in record:
        return str(record["failed"]) if isinstance(unit, Pretrain) else f"{unit.label}: FAILED: {record['failed']}"
    if isinstance(unit, Pretrain):
        return f"{unit.label}: loss {record['losses'][-1]:.3f}"
    main = _ordered(record, average)[0]
    chosen = f", {_choice(record)}" if "trials" in record else ""
    return f"{unit.label}: {main['reason'] if main['value'] is None else 'AUC {:.3f}'.format(main['value'])}{chosen}"


def _choice(record: Mapping[str, Any]) -> str:
    return f"lr {record['choice']['lr']:g}, weight decay {record['choice']['weight_decay']:g}, {record['epochs']} epochs"


def _ordered(record: Mapping[str, Any], average: str) -> list[dict[str, Any]]:
    """The metrics of a record, the AUC of that average first."""
    found: list[dict[str, Any]] = list(record["metrics"])
    return sorted(found, key=lambda one: (one["name"] not in ("auc", f"auc-ovr-{average}"), not one["name"].startswith("auc")))


# --- the table -------------------------------------------------------------------------------------------------------------------------


def _result(plan: TransferPlan, outcomes: Mapping[str, dict[str, Any]], seconds: float) -> TransferResult:
    records = {run.key: outcomes.get(run.key) or _stored(plan, run) for run in plan.runs}
    average, rows, failures = plan.protocol.average, [], []
    leaky: dict[tuple[str, str], int] = {}
    values = {(run.source, run.target, run.fold, run.repeat): _main(records[run.key], average)["value"] for run in plan.runs}
    leaks = {(run.source, run.target, run.fold, run.repeat): records[run.key]["leaked"] for run in plan.runs}
    for run in plan.runs:
        record = records[run.key]
        main = _main(record, average)
        if main["value"] is None:
            failures.append(Failure(run.source, run.target, run.fold_name, run.repeat, "SK502", str(main["reason"])))
        if record["leaked"] and run.repeat == plan.protocol.seeds[0]:
            leaky[run.source, run.target] = leaky.get((run.source, run.target), 0) + int(record["leaked"])
        remarks = plan.origins[run.key].remarks
        rows += [_row(run, record, one, remarks) for one in ([main] if "failed" in record else _ordered(record, average))]
        baseline = plan.protocol.baseline
        if baseline != "none":
            place = run.target if baseline == "self" else "scratch", run.target, run.fold, run.repeat
            seen = leaks.get(place)
            said = (*remarks, f"leaky baseline: {seen} of {record['n_test']} test images are in it") if seen and run.source != place[0] else remarks
            rows.append(_row(run, record, _gain(main, values.get(place), baseline), said) | {"baseline": baseline})
    devices = sorted({str(record["device"]) for record in records.values()})
    mixed = [f"the runs were computed on different devices ({', '.join(devices)}): numbers of one pair can differ by precision"] if len(devices) > 1 else []
    return TransferResult(TransferTable(tuple(rows)), tuple(failures), leaky, len(outcomes), len(plan.runs) - len(plan.todo), seconds, (*plan.notes, *mixed),
                          partial(_export, plan, records))


def _stored(plan: TransferPlan, run: Finetune) -> dict[str, Any]:
    record = plan.results.load_json(Finetune.kind, run.key)
    assert record is not None  # every run was either found or made
    return record


def _main(record: Mapping[str, Any], average: str) -> dict[str, Any]:
    """The main metric of a run: its AUC, without a value where it has none."""
    if "failed" in record:
        name = "auc" if len(record["classes"]) == 2 else f"auc-ovr-{average}"
        return {"name": name, "value": None, "reason": record["failed"]}
    return _ordered(record, average)[0]


def _gain(main: Mapping[str, Any], before: float | None, baseline: str) -> dict[str, Any]:
    """100 (a - b) / b in percent, fold by fold, as in the seed study; b is the baseline's value in the same fold."""
    if main["value"] is None or not before:
        reason = main["reason"] if main["value"] is None else f"the baseline '{baseline}' has no value above zero in this fold"
        return {"name": "relative-gain", "value": None, "reason": reason}
    return {"name": "relative-gain", "value": 100 * (main["value"] - before) / before, "reason": ""}


def _row(run: Finetune, record: Mapping[str, Any], metric: Mapping[str, Any], remarks: Sequence[str]) -> dict[str, Any]:
    flags = [str(metric["reason"])] if metric["reason"] else []
    if record["leaked"]:
        flags.append(f"leaky: {record['leaked']} of {record['n_test']} test images are in the source")
    choice = record.get("choice", {})
    return {
        "source": run.source, "target": run.target, "fold": run.fold_name, "seed": run.repeat, "metric": metric["name"], "value": metric["value"],
        "baseline": "", "lr": choice.get("lr"), "weight_decay": choice.get("weight_decay"), "epochs": record.get("epochs"),
        "choices": len(run.budget.choices), "n_train": record["n_train"], "n_test": record["n_test"],
        "seconds": None if "seconds" not in record else round(float(record["seconds"]), 3), "leaky": record["leaked"],
        "flags": "; ".join([*flags, *remarks, *record.get("done", ())]), "recipe": run.key[:16],
    }


def _export(plan: TransferPlan, records: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Writes the predictions of all runs that have some into one parquet file."""
    from simkit.transfer.predictions import export_predictions, read_predictions

    def rows() -> Iterator[tuple[Mapping[str, Any], Any]]:
        for run in plan.runs:
            if "metrics" not in records[run.key]:
                continue
            file = plan.results.path(Finetune.kind, run.key, ".parquet")
            try:
                found = read_predictions(file)
            except FileNotFoundError as error:
                fix = f"remove {file.with_suffix('.json').name} beside it, and run again"
                raise IntegrityError("SK401", str(file), f"the predictions of {run.label} are missing", fix) from error
            yield {"source": run.source, "target": run.target, "fold": run.fold_name, "seed": run.repeat}, found

    export_predictions(path, rows())

