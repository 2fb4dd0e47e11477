"""Makes the plan of a transfer grid: resolves every name, splits every target, and reports every problem before any training.

A grid that is finished is recognised without torch: only the recipes of its runs are made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from simkit.dataset import Dataset
from simkit.errors import Problem, SimkitError, UsageError, nearest
from simkit.recipe import digest
from simkit.transfer.base import SCRATCH, Finetune, Pretrain, Results, Say
from simkit.transfer.folds import Folds, given_folds, inner_split, make_folds, merged_groups, stratified_share
from simkit.transfer.images import Listing, listing
from simkit.transfer.notes import plan_notes
from simkit.transfer.overlap import check_remaining, shared_rows
from simkit.transfer.pixels import looks_of
from simkit.transfer.plan import Source, TransferPlan
from simkit.transfer.protocol import Budget, Protocol
from simkit.transfer.units import Start, missing_files, pretrained

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["plan_units"]

IMAGENET, IMAGE_LEVEL = "imagenet", "folds ignore patients"
Anything = TypeVar("Anything")
Key = TypeVar("Key")


class _Errors:
    """Collects the errors of the checks; fails once, in the kind of the first."""

    def __init__(self) -> None:
        self.kind: type[SimkitError] | None = None
        self.problems: list[Problem] = []

    def catch(self, work: Callable[[], Anything]) -> Anything | None:
        try:
            return work()
        except SimkitError as error:
            self.kind = self.kind or type(error)
            self.problems.extend(problem for problem in error.problems if problem not in self.problems)
            return None

    def all(self, work: Mapping[Key, Callable[[], Anything]]) -> dict[Key, Anything]:
        """What each piece of work returns, without those that failed."""
        out = {}
        for key, one in work.items():
            value = self.catch(one)
            if value is not None:
                out[key] = value
        return out

    def raise_if_any(self) -> None:
        if self.kind is not None:
            raise self.kind("", "", "", problems=self.problems)


def plan_units(
    protocol: Protocol, datasets: Mapping[str, Dataset], sources: Sequence[str], targets: Sequence[str], seed: int, results: Results, *,
    progress: Say | None = None, networks: Collection[str] = (),
) -> TransferPlan:
    """Checks everything that a grid needs, before any training, and lists its runs.

    Checked: names, device, network, image size, labels and classes of every data set, folds and inner splits of every target, weights files and
    their fit (named weights are downloaded here when they are not there). All problems are reported at once.

    Args:
        protocol: the ``[finetune]`` table.
        datasets: name -> data set; those without unreadable images (see ``card_of``).
        sources: names of data sets to pretrain on. ``protocol.sources`` and ``protocol.weights`` come in addition.
        targets: names of data sets to fine-tune on.
        seed: of the study.
        results: where finished work is found and kept; images are decoded into it here.
        progress: told how far that is.
        networks: sources whose pretraining on all of their images is wanted as well (``TransferPlan.wholes``).

    Raises:
        UsageError, DataError, NotEnoughData, ResourceError, IntegrityError: with all problems; the kind is that of the first.
    """
    return _Planner(protocol, datasets, tuple(dict.fromkeys(sources)), tuple(dict.fromkeys(targets)), seed, results,
                    progress or _silent, tuple(networks)).plan()


def _silent(line: str) -> None:
    """Takes no notice of a line of progress."""


@dataclass(eq=False)
class _Planner:
    protocol: Protocol
    datasets: Mapping[str, Dataset]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    seed: int
    results: Results
    say: Say
    networks: tuple[str, ...] = ()
    errors: _Errors = field(default_factory=_Errors)
    notes: list[str] = field(default_factory=list)
    inners: dict[tuple[Any, ...], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    folds: dict[tuple[str, int], Folds] = field(default_factory=dict)
    made: dict[tuple[str, int, frozenset[str]], tuple[Pretrain, np.ndarray, int]] = field(default_factory=dict)

    def plan(self) -> TransferPlan:
        self.names = tuple(dict.fromkeys((*self.sources, *self.protocol.sources, *self.protocol.weights)))
        self.errors.catch(self.check_names)
        self.errors.raise_if_any()
        used = [name for name in dict.fromkeys((*self.sources, *self.targets)) if name in self.datasets]
        self.listings = self.errors.all({name: partial(self.listed, name) for name in used})
        self.files = self.errors.all({name: partial(self.start_of, name) for name in self.names if name not in self.sources})
        complete = not self.errors.problems
        origins, runs = self.grid() if complete else ({}, ())
        records = {run.key: self.results.load_json(Finetune.kind, run.key) for run in runs}
        finished = {key: record for key, record in records.items() if record is not None and self.whole(key, record)}
        done = frozenset(finished)
        failed = sum("failed" in record for record in finished.values())
        todo = [run for run in runs if run.key not in done]
        wholes = self.errors.all({name: partial(self.whole_of, name) for name in self.networks if name in self.listings})
        if todo or not complete:  # of a finished grid nobody needs to know the folds
            for target in self.targets:
                if target in self.listings:
                    self.errors.all({repeat: partial(self.split, target, repeat) for repeat in self.protocol.seeds})
        complete = not self.errors.problems
        plan = TransferPlan(protocol=self.protocol, runs=tuple(runs), origins=origins, done=done, pretrainings=(), listings=self.listings,
                            folds=self.folds, results=self.results, seed=self.seed, failed=failed, wholes=wholes,
                            starts=self.files)
        if complete and not todo and all(pretrained(self.results, unit.key) for unit, _ in wholes.values()):
            return replace(plan, notes=plan_notes(plan, self.notes, None))
        return self.with_work(plan, todo, complete=complete)

    def whole_of(self, source: str) -> tuple[Pretrain, np.ndarray]:
        """The pretraining on all images of a source by the first seed, and its rows."""
        unit, rows, _ = self.pretraining(source, self.protocol.seeds[0], frozenset(), "")
        return unit, rows

    def whole(self, key: str, record: Mapping[str, Any]) -> bool:
        """Whether all that a finished run leaves is there; else it is done again."""
        missing = missing_files(self.results, key, record, keep_networks=self.protocol.keep_networks)
        if missing:
            run = f"{record['source']} -> {record['target']}, fold {record['fold']}"
            self.note([f"{run}: its {' and '.join(missing)} {'are' if missing[0] == 'predictions' else 'is'} not in the store: the run is done again"])
        return not missing

    def listed(self, name: str) -> Listing:
        """A data set in canonical order, decoded: images that look the same to the network are one image, in whatever files they lie."""
        one = listing(self.datasets[name])
        return replace(one, looks=looks_of(one, self.protocol.image_size, self.protocol.channels, self.results, self.say))

    def check_names(self) -> None:
        protocol, problems = self.protocol, []
        for role, given in (("source", self.sources), ("target", self.targets)):
            problems += [Problem("SK101", "finetune", f"{role} '{name}' is not a data set{nearest(name, self.datasets)}",
                                 f"data sets: {', '.join(self.datasets) or 'none'}") for name in given if name not in self.datasets]
        for name in protocol.sources:
            if name not in (SCRATCH, IMAGENET):
                problems.append(Problem("SK101", "finetune.sources", f"unknown source '{name}'{nearest(name, (SCRATCH, IMAGENET))}",
                                        "scratch and imagenet are known; data sets are sources by themselves; other weights go into [finetune.weights]"))
        clashes = (("finetune.sources", protocol.sources, {*self.sources}), ("finetune.weights", tuple(protocol.weights), {*self.sources, *protocol.sources}))
        for where, taken, others in clashes:
            problems += [Problem("SK105", where, f"'{name}' names two sources", "rename one of them") for name in taken if name in others]
        if len(set(protocol.seeds)) < len(protocol.seeds) or not protocol.seeds:
            problems.append(Problem("SK102", "finetune.seeds", f"{list(protocol.seeds)}: wanted at least one seed, each once", "give different whole numbers"))
        if not problems and not any(protocol.self_pairs or name != target for name in self.names for target in self.targets):
            problems.append(Problem("SK104", "finetune", f"no source-target pair ({len(self.names)} sources, {len(self.targets)} targets; "
                                    "a target is no source of itself)",
                                    "name targets, and at least one other data set, scratch, imagenet or weights file as a source"))
        lacking = [target for target in self.targets if protocol.baseline == "self" and target not in self.sources]
        if lacking:
            problems.append(Problem("SK104", "finetune.baseline", f"gains over 'self' need each target among the sources: {', '.join(lacking)} "
                                    f"{'is' if len(lacking) == 1 else 'are'} not", "add them to sources"))
        if problems:
            raise UsageError("", "", "", problems=problems)

    def given(self, target: str) -> Folds | None:
        """The target's own split, where it has a test part and the protocol respects it."""
        one, protocol = self.listings[target], self.protocol
        if protocol.splits == "ignore" or one.splits is None:
            return None
        found = given_folds(one.labels, one.splits, digests=one.identities, groups=one.groups if protocol.groups == "keep" else None, classes=one.classes,
                            where=target, use_validation=protocol.finetuning().validates)
        if found is None:
            self.note([f"{target}: its given split names no test part: all images are dealt into folds"])
            return None
        self.note([f"{target}: scored on its given test part ({len(found.test[0])} images), in one fold instead of {protocol.folds}; "
                   'splits = "ignore" deals all images into folds'])
        return found

    def split(self, target: str, repeat: int) -> Folds:
        """The checked split of a target for one seed, made when it is needed first."""
        if (target, repeat) not in self.folds:
            one, protocol = self.listings[target], self.protocol
            self.folds[target, repeat] = self.given(target) or make_folds(
                one.labels, digests=one.identities, groups=one.groups, classes=one.classes, folds=protocol.folds,
                names=(self.seed, repeat, one.dataset.fingerprint), where=target, keep_groups=protocol.groups == "keep")
        return self.folds[target, repeat]

    def start_of(self, name: str) -> Start:
        """Where the weights of a source that is no data set come from."""
        if name == SCRATCH and name in self.protocol.sources:
            return Start(SCRATCH)
        from simkit.transfer.weights import named_weights

        given = name in self.protocol.weights
        found = named_weights(self.protocol.weights[name] if given else IMAGENET, self.protocol.network,
                              f"finetune.weights.{name}" if given else f"finetune.sources: {name}")
        return Start(found.identity, str(found.path))

    # --- the grid ----------------------------------------------------------------------------------------------------------------------

    def grid(self) -> tuple[dict[str, Source], tuple[Finetune, ...]]:
        """Every run with what it starts from."""
        origins: dict[str, Source] = {}
        runs = []
        budget = self.protocol.finetuning()
        self.contents = {name: frozenset(one.identities) for name, one in self.listings.items()}
        for target in self.targets:
            given = self.errors.catch(partial(self.given, target))
            kind = "given" if given is not None else "dealt" if self.protocol.groups == "keep" or self.listings[target].groups is None else "image-level"
            folds = 1 if given is not None else self.protocol.folds
            for source in self.names:
                if source == target and not self.protocol.self_pairs:
                    continue
                for repeat, fold in ((repeat, fold) for repeat in self.protocol.seeds for fold in range(folds)):
                    origin = self.errors.catch(partial(self.origin, source, target, repeat, fold))
                    if origin is not None:
                        crossing = kind == "image-level" or (given is not None and self.protocol.groups == "ignore" and self.crossing(target, given))
                        origin = replace(origin, remarks=(*origin.remarks, IMAGE_LEVEL)) if crossing else origin
                        run = Finetune(source, target, origin.start.identity, self.datasets[target].fingerprint, budget, kind, folds, fold, repeat, self.seed)
                        runs.append(run)
                        origins[run.key] = origin
        return origins, tuple(runs)

    def crossing(self, target: str, given: Folds) -> bool:
        """Whether patients have images on both sides of a given split."""
        groups = self.listings[target].groups
        return groups is not None and bool({groups[i] for i in given.test[0]} & {groups[i] for i in given.train(0)})

    def origin(self, source: str, target: str, repeat: int, fold: int) -> Source:
        """What a run starts from; a source that shares images with the test fold is pretrained without them, or the run is leaky."""
        if source not in self.sources:
            start = self.files[source]
            return Source(start, leaked=0 if start.identity == SCRATCH else None)
        protocol, one, tested = self.protocol, self.listings[source], self.listings[target]
        where, asked = "", frozenset[str]()
        common = self.contents[source] & self.contents[target]
        if common:
            split = self.split(target, repeat)
            where, asked = f"{target}, fold {split.names[fold]}", frozenset(tested.identities[i] for i in split.test[fold])
        shared = asked & common
        unit, rows, removed = self.pretraining(source, repeat, shared if protocol.overlap == "remove" else frozenset(), where)
        seen = {one.identities[i] for i in rows} if shared else set()
        leaked = sum(tested.identities[i] in seen for i in self.split(target, repeat).test[fold]) if shared else 0
        remarks = [f"pretrained without {removed} images that it tests on, or that are of their patients"] if removed else []
        if common and protocol.finetuning().validates:
            remarks.append("what is chosen is chosen on images that the source holds")
        patients = set(one.groups or ()) & set(tested.groups or ()) if source != target else ()
        if patients:
            remarks.append(f"{len(patients)} patient names are in source and target")
            self.note([f"{source} -> {target}: {len(patients)} patient names are in both (such as '{min(patients)}'): if they are the same people, "
                       "test patients are in the pretraining; give names that tell them apart if they are not"])
        return Source(Start(f"pretrain:{unit.key}"), unit, rows, removed, leaked, tuple(remarks))

    def pretraining(self, source: str, repeat: int, without: frozenset[str], where: str) -> tuple[Pretrain, np.ndarray, int]:
        """The pretraining of a source without some images; the rows that it is done on; and how many images are taken out."""
        if (source, repeat, without) in self.made:
            return self.made[source, repeat, without]
        one, protocol = self.listings[source], self.protocol
        rows, removed, removal = np.arange(len(one)), "", shared_rows(one.identities, one.groups, without)
        if without:
            self.note(check_remaining(one.labels, one.classes, removal, where=f"{source} -> {where}"))
            removed = digest(sorted(one.digests[i] for i in removal.rows))
            rows = np.setdiff1d(rows, removal.rows)
        if protocol.pretrain_share < 1:
            names = (self.seed, repeat, one.dataset.fingerprint, removed)
            members = merged_groups(one.identities, one.groups if protocol.groups == "keep" else None)
            rows = stratified_share(one.labels, rows, members=members, share=protocol.pretrain_share, names=names)
        unit = Pretrain(source, one.dataset.fingerprint, removed, protocol.pretrain_share, protocol.pretraining(), repeat, self.seed, where if without else "")
        self.made[source, repeat, without] = unit, rows, len(removal)
        return self.made[source, repeat, without]

    def note(self, lines: Sequence[str]) -> None:
        self.notes += [line for line in lines if line not in self.notes]

    # --- the work ----------------------------------------------------------------------------------------------------------------------

    def with_work(self, plan: TransferPlan, todo: Sequence[Finetune], *, complete: bool) -> TransferPlan:
        """What is left: its checks (device, network, weights, inner splits), its cost."""
        from simkit.device import describe_device, resolve_device

        protocol, errors = self.protocol, self.errors
        device = errors.catch(lambda: resolve_device(protocol.device, where="finetune.device"))
        if errors.catch(lambda: _network(protocol)) is not None:
            errors.all({name: partial(self.check_weights, name) for name, start in self.files.items() if start.path})
            errors.catch(self.check_stages)
        pretrainings: dict[str, Pretrain] = {}
        for run in todo:
            unit = plan.origins[run.key].pretraining
            if unit is not None and unit.key not in pretrainings and not pretrained(self.results, unit.key):
                pretrainings[unit.key] = unit
        pretrainings |= {unit.key: unit for unit, _ in plan.wholes.values() if not pretrained(self.results, unit.key)}
        units: list[Finetune | Pretrain] = [*pretrainings.values(), *todo]
        inner = errors.all({unit.key: partial(self.inner, plan, unit) for unit in units if unit.budget.validates}) if complete else {}
        errors.raise_if_any()
        assert device is not None
        images = {unit.key: _images(plan, unit, inner.get(unit.key)) for unit in units}
        rates = {mode: _measured(protocol, budget, device) for mode, budget in {unit.budget.mode: unit.budget for unit in units}.items()}
        costs = {unit.key: images[unit.key] * rates[unit.budget.mode] for unit in units}
        plan = replace(
            plan, pretrainings=tuple(pretrainings.values()), device=describe_device(device), devices=_devices(device, protocol.device), images=images,
            inners=inner, costs=costs, bytes=self.disk(plan, units),
        )
        return replace(plan, notes=plan_notes(plan, self.notes, device))

    def inner(self, plan: TransferPlan, unit: Finetune | Pretrain) -> tuple[np.ndarray, np.ndarray]:
        """The inner split of a unit; one for all sources of a fold."""
        if isinstance(unit, Pretrain):
            one, rows = plan.listings[unit.source], plan.rows(unit)
            names: tuple[Any, ...] = (unit.repeat, unit.fingerprint, unit.removed)
        else:
            one, split = plan.listings[unit.target], plan.folds[unit.target, unit.repeat]
            rows, given = split.train(unit.fold), split.validation(unit.fold)
            if given is not None:
                return rows, given
            names = (unit.repeat, unit.fingerprint, unit.split, unit.folds, unit.fold)
        if names not in self.inners:
            members = merged_groups(one.identities, one.groups if self.protocol.groups == "keep" else None)
            self.inners[names] = inner_split(one.labels, rows, members=members, fraction=unit.budget.validation, classes=one.classes,
                                             names=("inner", self.seed, *names), where=one.name)
        return self.inners[names]

    def check_weights(self, name: str) -> None:
        """Reads a weights file and tries it on the network."""
        from simkit.transfer.networks import load_body
        from simkit.transfer.weights import read_start

        protocol, path = self.protocol, self.files[name].path
        where = f"finetune.weights.{name}" if name in protocol.weights else f"finetune.sources: {name}"
        state = read_start(path, protocol.network, protocol.image_size, where)
        network, head = _network(protocol)
        load_body(network, head, state, f"{where}: {path}")

    def check_stages(self) -> None:
        from simkit.transfer.stages import set_trainable

        network, head = _network(self.protocol)
        set_trainable(network, head, "full" if self.protocol.mode == "probe-then-full" else self.protocol.mode, self.protocol.last_stages)

    def disk(self, plan: TransferPlan, units: Sequence[Finetune | Pretrain]) -> int:
        """Bytes: decoded images, the weights of the pretrainings, and the checkpoints of one run at a time (weights, optimizer, twice)."""
        import torch

        protocol = self.protocol
        names = {unit.source if isinstance(unit, Pretrain) else unit.target for unit in units}
        pixels = sum(len(plan.listings[name]) for name in names) * protocol.channels * protocol.image_size**2
        with torch.device("meta"):
            network, _ = _network(protocol)
        weights = 4 * sum(value.numel() for value in network.state_dict().values())
        kept = sum(isinstance(unit, Pretrain) or protocol.keep_networks for unit in units)
        return int(pixels + weights * (kept + 8))


def _network(protocol: Protocol, classes: int = 2) -> tuple[nn.Module, str]:
    from simkit.transfer.networks import build_network

    return build_network(protocol.network, classes, dropout=protocol.dropout, image_size=protocol.image_size, channels=protocol.channels)


def _images(plan: TransferPlan, unit: Finetune | Pretrain, inner: tuple[np.ndarray, np.ndarray] | None) -> int:
    """Training images times epochs (times choices) of a unit, at most; an image that is validated counts as a third."""
    rows = plan.rows(unit) if isinstance(unit, Pretrain) else plan.folds[unit.target, unit.repeat].train(unit.fold)
    budget: Budget = unit.budget
    epochs = budget.epochs + budget.probe_epochs
    if inner is None:
        return len(rows) * epochs
    once = (len(inner[0]) + len(inner[1]) // 3) * epochs
    return once * len(budget.choices) + (len(rows) * epochs if budget.refit else 0)


def _devices(device: torch.device, named: str) -> tuple[str, ...]:
    """One name for each device that runs can use: all GPUs where none was named."""
    import torch

    if device.type == "cuda" and device.index is None and ":" not in named:
        return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    return (named if named != "auto" else str(device),)


def _measured(protocol: Protocol, budget: Budget, device: torch.device) -> float:
    """Seconds of training per image, measured; refuses an image size that the network cannot take."""
    import torch

    from simkit.transfer.networks import check_forward
    from simkit.transfer.training import reproducible, seconds_per_image

    with reproducible(device, protocol.threads, deterministic=protocol.deterministic):
        network, head = _network(protocol, 10)
        network = network.to(device).to(memory_format=torch.channels_last)
        check_forward(network, protocol.network, protocol.image_size, device, channels=protocol.channels)
        return seconds_per_image(network, head, budget, device)
