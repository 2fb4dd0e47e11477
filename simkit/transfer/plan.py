"""The plan of a transfer grid: every run, what is there already, what it will cost, and every problem before any training.

A grid that is finished is recognised without torch: only the recipes of its runs are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from simkit.dataset import Dataset
from simkit.errors import IntegrityError, Problem, SimkitError, UsageError, nearest
from simkit.recipe import digest
from simkit.transfer.base import SCRATCH, Finetune, Pretrain, Results
from simkit.transfer.checkpoint import read_tensors
from simkit.transfer.folds import Folds, given_folds, inner_split, make_folds, merged_groups, stratified_share
from simkit.transfer.images import Listing, listing
from simkit.transfer.overlap import Removal, check_remaining, shared_rows
from simkit.transfer.protocol import Budget, Protocol
from simkit.transfer.units import Start, pretrained_path

if TYPE_CHECKING:
    import torch

__all__ = ["IMAGENET", "Source", "TransferPlan", "plan_units"]

IMAGENET = "imagenet"
IMAGE_LEVEL = "folds ignore patients"
Anything = TypeVar("Anything")
Key = TypeVar("Key")


@dataclass(frozen=True, eq=False)
class Source:
    """What one fine-tuning starts from.

    Attributes:
        start: weights file, pretraining, or scratch.
        pretraining: the unit that makes the weights, or None.
        rows: images of the source that are pretrained on.
        removed: images of the source that are left out because the target tests on them (or on images of the same patient).
        leaked: test images of the run that the pretraining sees; None where that cannot be known (weights from elsewhere).
    """

    start: Start
    pretraining: Pretrain | None = None
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    removed: int = 0
    leaked: int | None = 0


@dataclass(frozen=True, eq=False)
class TransferPlan:
    """A checked grid, ready to run.

    Attributes:
        protocol: how transfer is measured.
        runs: every fine-tuning run, in the order of the table.
        origins: key of a run -> what it starts from.
        done: keys of the runs whose record is there already.
        pretrainings: those still to do, for runs that are still to do.
        listings: the data sets that take part, in canonical order.
        folds: (target, protocol seed) -> its checked split.
        results: the store.
        seed: of the study.
        device: what computes, in words; "" when nothing is left to do.
        devices: names of the devices that runs can use, one run on each.
        inners: key of a unit that validates -> positions of the images to fit and to validate on; the same for every source.
        images: key of a unit -> training images times epochs (times choices), at most.
        seconds_per_image: measured on a few batches; 0 when nothing is left to do.
        bytes: disk space that the rest needs, roughly.
        notes: what a reader should know beside the numbers.
    """

    protocol: Protocol
    runs: tuple[Finetune, ...]
    origins: Mapping[str, Source]
    done: frozenset[str]
    pretrainings: tuple[Pretrain, ...]
    listings: Mapping[str, Listing]
    folds: Mapping[tuple[str, int], Folds]
    results: Results
    seed: int
    device: str = ""
    devices: tuple[str, ...] = ()
    inners: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    images: Mapping[str, int] = field(default_factory=dict)
    seconds_per_image: float = 0.0
    bytes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def todo(self) -> tuple[Finetune, ...]:
        """The runs that have no record yet."""
        return tuple(run for run in self.runs if run.key not in self.done)

    @property
    def seconds(self) -> float:
        """Estimated time of the rest on one job."""
        return sum(self.images.values()) * self.seconds_per_image

    def lines(self) -> list[str]:
        """The plan in words, for a dry run."""
        out = [f"transfer: {len(self.runs)} runs, {len(self.runs) - len(self.todo)} already there; "
               f"{len(self.pretrainings)} pretrainings and {len(self.todo)} fine-tunings to do"]
        if self.todo:
            search = f", {len(self.protocol.choices)} choices each" if len(self.protocol.choices) > 1 else ""
            most = "at most " if self.protocol.early_stopping else ""
            out.append(f"  {self.protocol.network} at {self.protocol.image_size} px on {self.device}{search}: {most}{sum(self.images.values()):,} training "
                       f"images (times epochs), about {self.seconds / 60:.1f} min on one job, {self.bytes / 1e6:.0f} MB of disk")
            for title, units in (("pretrain", self.pretrainings), ("fine-tune", self.todo)):
                grouped: dict[str, list[int]] = {}
                for unit in units:
                    name = unit.source if isinstance(unit, Pretrain) else unit.target
                    grouped.setdefault(name, []).append(self.images[unit.key])
                for name, counts in grouped.items():
                    minutes = sum(counts) * self.seconds_per_image / 60
                    out.append(f"  {title} {'on ' if title == 'pretrain' else ''}{name}: {len(counts)} runs, {sum(counts):,} images, {minutes:.1f} min")
        return out + [f"  note: {note}" for note in self.notes]

    def as_dict(self) -> dict[str, Any]:
        """The plan in JSON form."""
        return {
            "runs": len(self.runs), "found": len(self.done), "pretrainings": len(self.pretrainings), "finetunings": len(self.todo),
            "choices": len(self.protocol.choices), "images": sum(self.images.values()), "minutes": round(self.seconds / 60, 2), "bytes": self.bytes,
            "device": self.device, "notes": list(self.notes),
        }

    def inner(self, unit: Finetune | Pretrain) -> tuple[np.ndarray, np.ndarray] | None:
        """Positions of the images that a unit fits and validates on, or None where it does not validate."""
        return self.inners.get(unit.key)

    def rows(self, unit: Pretrain) -> np.ndarray:
        """Positions of the images that a source is pretrained on."""
        return next(origin.rows for origin in self.origins.values() if origin.pretraining is not None and origin.pretraining.key == unit.key)


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
    protocol: Protocol, datasets: Mapping[str, Dataset], sources: Sequence[str], targets: Sequence[str], seed: int, results: Results,
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
        results: where finished work is found and kept.

    Raises:
        UsageError, DataError, NotEnoughData, ResourceError, IntegrityError: with all problems; the kind is that of the first.
    """
    return _Planner(protocol, datasets, tuple(dict.fromkeys(sources)), tuple(dict.fromkeys(targets)), seed, results).plan()


@dataclass(eq=False)
class _Planner:
    protocol: Protocol
    datasets: Mapping[str, Dataset]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    seed: int
    results: Results
    errors: _Errors = field(default_factory=_Errors)
    notes: list[str] = field(default_factory=list)
    inners: dict[tuple[Any, ...], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def plan(self) -> TransferPlan:
        self.names = tuple(dict.fromkeys((*self.sources, *self.protocol.sources, *self.protocol.weights)))
        self.errors.catch(self.check_names)
        self.errors.raise_if_any()
        used = [name for name in dict.fromkeys((*self.sources, *self.targets)) if name in self.datasets]
        self.listings = self.errors.all({name: partial(listing, self.datasets[name]) for name in used})
        pairs = [(target, repeat) for target in self.targets if target in self.listings for repeat in self.protocol.seeds]
        self.folds = self.errors.all({pair: partial(self.folds_of, *pair) for pair in pairs})
        self.files = self.errors.all({name: partial(self.start_of, name) for name in self.names if name not in self.sources})
        complete = not self.errors.problems
        origins, runs = self.grid() if complete else ({}, ())
        complete = not self.errors.problems
        done = frozenset(run.key for run in runs if self.results.load_json(Finetune.kind, run.key) is not None)
        todo = [run for run in runs if run.key not in done]
        plan = TransferPlan(protocol=self.protocol, runs=tuple(runs), origins=origins, done=done, pretrainings=(), listings=self.listings, folds=self.folds,
                            results=self.results, seed=self.seed)
        if complete and not todo:
            return plan_with(plan, notes=tuple(self.all_notes(plan, None)))
        return self.with_work(plan, todo, complete=complete)

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

    def folds_of(self, target: str, repeat: int) -> Folds:
        one, protocol = self.listings[target], self.protocol
        names = (self.seed, repeat, one.dataset.fingerprint)
        splits = one.splits
        if protocol.splits == "given" and splits is not None:
            found = given_folds(one.labels, splits, digests=one.digests, groups=one.groups if protocol.groups == "keep" else None, classes=one.classes,
                                where=target, use_validation=protocol.finetuning().validates)
            if found is not None:
                if len(protocol.seeds) and repeat == protocol.seeds[0]:
                    self.notes.append(f"{target}: scored on its given test part ({len(found.test[0])} images), in one fold instead of {protocol.folds}; "
                                      'splits = "ignore" deals all images into folds')
                return found
            self.notes.append(f"{target}: its given split names no test part: all images are dealt into folds")
        return make_folds(one.labels, digests=one.digests, groups=one.groups, classes=one.classes, folds=protocol.folds, names=names, where=target,
                          keep_groups=protocol.groups == "keep")

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
        for target in self.targets:
            for source in self.names:
                if source == target and not self.protocol.self_pairs:
                    continue
                for repeat in self.protocol.seeds:
                    split = self.folds[target, repeat]
                    kind = "given" if split.given else "dealt" if self.protocol.groups == "keep" or self.listings[target].groups is None else "image-level"
                    for fold in range(len(split.test)):
                        origin = self.errors.catch(partial(self.origin, source, target, repeat, fold))
                        if origin is None:
                            continue
                        run = Finetune(source, target, origin.start.identity, self.datasets[target].fingerprint, budget, kind, len(split.test), fold,
                                       repeat, self.seed)
                        runs.append(run)
                        origins[run.key] = origin
        return origins, tuple(runs)

    def origin(self, source: str, target: str, repeat: int, fold: int) -> Source:
        """What a run starts from; a source that shares images with the test fold is pretrained without them, or the run is leaky."""
        if source not in self.sources:
            start = self.files[source]
            return Source(start, leaked=0 if start.identity == SCRATCH else None)
        one, protocol = self.listings[source], self.protocol
        tested = self.listings[target]
        test = self.folds[target, repeat].test[fold]
        digests = frozenset(tested.digests[i] for i in test)
        removal = shared_rows(one.digests, one.groups if protocol.groups == "keep" else None, digests)
        removed, rows = "", np.arange(len(one))
        leaked = 0
        if len(removal.rows) and protocol.overlap == "remove":
            where = f"{source} -> {target}, fold {self.folds[target, repeat].names[fold]}"
            self.note(check_remaining(one.labels, one.classes, removal, where=where))
            removed = digest(sorted(one.digests[i] for i in removal.rows))
            rows = np.setdiff1d(rows, removal.rows)
        elif len(removal.rows):
            known = set(one.digests)
            leaked = sum(tested.digests[i] in known for i in test)
        if protocol.pretrain_share < 1:
            members = merged_groups(one.digests, one.groups if protocol.groups == "keep" else None)
            rows = stratified_share(one.labels, rows, members=members, share=protocol.pretrain_share, names=(self.seed, one.dataset.fingerprint, removed))
            kept = {one.digests[i] for i in rows}
            leaked = sum(tested.digests[i] in kept for i in test)
        unit = Pretrain(source, one.dataset.fingerprint, removed, protocol.pretrain_share, protocol.pretraining(), self.seed,
                        f"{target}, fold {self.folds[target, repeat].names[fold]}" if removed else "")
        return Source(Start(f"pretrain:{unit.key}"), unit, rows, _count(removal), leaked)

    def note(self, lines: Sequence[str]) -> None:
        self.notes += [line for line in lines if line not in self.notes]

    # --- the work ----------------------------------------------------------------------------------------------------------------------

    def with_work(self, plan: TransferPlan, todo: Sequence[Finetune], *, complete: bool) -> TransferPlan:
        """What is left: its checks (device, network, weights, inner splits), its cost."""
        from simkit.device import describe_device, resolve_device
        from simkit.transfer.networks import build_network

        protocol, errors = self.protocol, self.errors
        device = errors.catch(lambda: resolve_device(protocol.device, where="finetune.device"))
        options = {"dropout": protocol.dropout, "image_size": protocol.image_size, "channels": protocol.channels}
        probed = errors.catch(lambda: build_network(protocol.network, 2, **options)) is not None
        if probed:
            errors.all({name: partial(self.check_weights, name) for name, start in self.files.items() if start.path})
            errors.catch(self.check_stages)
        pretrainings: dict[str, Pretrain] = {}
        for run in todo:
            unit = plan.origins[run.key].pretraining
            if unit is not None and unit.key not in pretrainings and not _pretrained(unit, self.results):
                pretrainings[unit.key] = unit
        units = (*pretrainings.values(), *todo)
        inner = errors.all({unit.key: partial(self.inner, plan, unit) for unit in units if unit.budget.validates}) if complete else {}
        errors.raise_if_any()
        assert device is not None
        images = {unit.key: _images(plan, unit, inner.get(unit.key)) for unit in units}
        plan = plan_with(
            plan, pretrainings=tuple(pretrainings.values()), device=describe_device(device), devices=_devices(device, protocol.device), images=images, inners=inner,
            seconds_per_image=_measured(protocol, device), bytes=self.disk(plan, units),
        )
        return plan_with(plan, notes=tuple(self.all_notes(plan, device)))

    def inner(self, plan: TransferPlan, unit: Finetune | Pretrain) -> tuple[np.ndarray, np.ndarray]:
        """The inner split of a unit; one for all sources of a fold."""
        if isinstance(unit, Pretrain):
            one, rows = plan.listings[unit.source], plan.rows(unit)
            names: tuple[Any, ...] = (unit.fingerprint, unit.removed)
        else:
            one, split = plan.listings[unit.target], plan.folds[unit.target, unit.repeat]
            rows, given = split.train(unit.fold), split.validation(unit.fold)
            if given is not None:
                return rows, given
            names = (unit.repeat, unit.fingerprint, unit.split, unit.folds, unit.fold)
        if names not in self.inners:
            members = merged_groups(one.digests, one.groups if self.protocol.groups == "keep" else None)
            self.inners[names] = inner_split(one.labels, rows, members=members, fraction=unit.budget.validation, classes=one.classes,
                                             names=("inner", self.seed, *names), where=one.name)
        return self.inners[names]

    def check_weights(self, name: str) -> None:
        """Reads a weights file and tries it on the network."""
        from simkit.transfer.networks import build_network, load_body
        from simkit.transfer.weights import read_start

        protocol, path = self.protocol, self.files[name].path
        where = f"finetune.weights.{name}" if name in protocol.weights else f"finetune.sources: {name}"
        state = read_start(path, protocol.network, protocol.image_size, where)
        network, head = build_network(protocol.network, 2, dropout=protocol.dropout, image_size=protocol.image_size, channels=protocol.channels)
        load_body(network, head, state, f"{where}: {path}")

    def check_stages(self) -> None:
        from simkit.transfer.networks import build_network
        from simkit.transfer.stages import set_trainable

        protocol = self.protocol
        network, head = build_network(protocol.network, 2, dropout=protocol.dropout, image_size=protocol.image_size, channels=protocol.channels)
        set_trainable(network, head, "full" if protocol.mode == "probe-then-full" else protocol.mode, protocol.last_stages)

    def disk(self, plan: TransferPlan, units: Sequence[Finetune | Pretrain]) -> int:
        """Bytes: decoded images, the weights of the pretrainings, and the checkpoints of one run at a time (weights, optimizer, twice)."""
        from simkit.transfer.networks import build_network

        import torch

        protocol = self.protocol
        names = {unit.source if isinstance(unit, Pretrain) else unit.target for unit in units}
        pixels = sum(len(plan.listings[name]) for name in names) * protocol.channels * protocol.image_size**2
        with torch.device("meta"):
            network, _ = build_network(protocol.network, 2, dropout=protocol.dropout, image_size=protocol.image_size, channels=protocol.channels)
        weights = 4 * sum(value.numel() for value in network.state_dict().values())
        kept = sum(isinstance(unit, Pretrain) or protocol.keep_networks for unit in units)
        return pixels + weights * (kept + 8)

    def all_notes(self, plan: TransferPlan, device: torch.device | None) -> list[str]:
        notes = list(self.notes)
        for name, one in plan.listings.items():
            notes += _facts(name, one)
        for (target, repeat), split in plan.folds.items():
            notes += [f"{target}: {line}" for line in split.notes if repeat == self.protocol.seeds[0]]
            if split.shuffles > 1:
                notes.append(f"{target}: it took {split.shuffles} shuffles until every fold held every class")
            if self.protocol.groups == "ignore" and plan.listings[target].groups is not None and repeat == self.protocol.seeds[0]:
                notes.append(f"{target}: patients are split over folds (groups = \"ignore\"): its numbers are too good, and are flagged")
        notes += _overlaps(plan)
        if device is not None and device.type != "cpu":
            notes.append(f"on {device.type} a few operations have no deterministic form: repeated runs can differ in the last digits")
        return list(dict.fromkeys(notes))


def plan_with(plan: TransferPlan, **changes: Any) -> TransferPlan:
    """The plan with some attributes changed."""
    from dataclasses import replace

    return replace(plan, **changes)


def _count(removal: Removal) -> int:
    return len(removal.rows)


def _pretrained(unit: Pretrain, results: Results) -> bool:
    """Whether nothing is left to do for it: the weights are there and sound, or the training is known to diverge."""
    record = results.load_json(Pretrain.kind, unit.key)
    if record is None or "failed" in record:
        return record is not None
    try:
        read_tensors(pretrained_path(results, unit.key))
    except (FileNotFoundError, IntegrityError):
        return False  # made again, and said so, by the run
    return True


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


def _measured(protocol: Protocol, device: torch.device) -> float:
    """Seconds of training per image, measured; refuses an image size that the network cannot take."""
    import torch

    from simkit.transfer.networks import build_network, check_forward
    from simkit.transfer.training import reproducible, seconds_per_image

    with reproducible(device, protocol.threads, deterministic=protocol.deterministic):
        network, head = build_network(protocol.network, 10, dropout=protocol.dropout, image_size=protocol.image_size, channels=protocol.channels)
        network = network.to(device).to(memory_format=torch.channels_last)
        check_forward(network, protocol.network, protocol.image_size, device, channels=protocol.channels)
        return seconds_per_image(network, head, protocol.finetuning(), device)


def _facts(name: str, one: Listing) -> list[str]:
    notes = []
    if one.absent:
        notes.append(f"{name}: no image of class {', '.join(one.absent)}: the class takes no part")
    if len(set(one.digests)) < len(one):
        notes.append(f"{name}: {len(one) - len(set(one.digests))} images are byte-identical to another; copies stay in one fold")
    seen: dict[str, set[int]] = {}
    for image, label in zip(one.digests, one.labels, strict=True):
        seen.setdefault(image, set()).add(int(label))
    clash = sum(len(labels) > 1 for labels in seen.values())
    if clash:
        notes.append(f"{name}: {clash} images exist with two labels")
    return notes


def _overlaps(plan: TransferPlan) -> list[str]:
    """One line for each pair that shares images."""
    removed: dict[tuple[str, str], int] = {}
    leaked: dict[tuple[str, str], int] = {}
    for run in plan.runs:
        origin = plan.origins[run.key]
        if run.repeat == plan.protocol.seeds[0]:
            pair = (run.source, run.target)
            if origin.pretraining is not None and origin.pretraining.removed:
                removed[pair] = removed.get(pair, 0) + origin.removed
            if origin.leaked:
                leaked[pair] = leaked.get(pair, 0) + origin.leaked
    notes = [f"{source} -> {target}: the two share images: {count} images of {source} are taken out of its pretraining, over all folds, which is done anew "
             "for each fold" for (source, target), count in removed.items()]
    return notes + [f"{source} -> {target}: LEAKY: its pretraining sees {count} test images (overlap = \"mark\")" for (source, target), count in leaked.items()]

