"""The plan of a transfer grid: every run, what is there already, what it will cost, and every problem before any training."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from simkit.dataset import Dataset
from simkit.device import describe_device, resolve_device
from simkit.errors import IntegrityError, Problem, ResourceError, SimkitError, UsageError, nearest
from simkit.recipe import digest_file
from simkit.transfer.base import SCRATCH, Finetune, Pretrain, Results
from simkit.transfer.checkpoint import read_tensors
from simkit.transfer.folds import Folds, make_folds
from simkit.transfer.images import Listing, listing
from simkit.transfer.networks import build_network, check_forward, imagenet_file, interpolated_positions, load_body, read_weights
from simkit.transfer.protocol import Protocol
from simkit.transfer.training import reproducible, seconds_per_image
from simkit.transfer.units import Start, pretrained_path

if TYPE_CHECKING:
    import torch

__all__ = ["IMAGENET", "TransferPlan", "plan_units"]

IMAGENET = "imagenet"
Anything = TypeVar("Anything")
Key = TypeVar("Key")


@dataclass(frozen=True, eq=False)
class TransferPlan:
    """A checked grid, ready to run.

    Attributes:
        protocol: how transfer is measured.
        runs: every fine-tuning run, in the order of the table.
        done: keys of the runs whose record is there already.
        pretrainings: those still to do, for runs that are still to do.
        starts: where each source's weights come from.
        listings: the data sets that take part, in canonical order.
        folds: (target, protocol seed) -> its checked split.
        results: the store.
        device: what computes, in words.
        images: training images times epochs still to process.
        seconds: estimated time of the rest on one job, from one measured step; 0 when nothing is left.
        bytes: memory of the decoded images.
        notes: what a reader should know beside the numbers.
    """

    protocol: Protocol
    runs: tuple[Finetune, ...]
    done: frozenset[str]
    pretrainings: tuple[Pretrain, ...]
    starts: Mapping[str, Start]
    listings: Mapping[str, Listing]
    folds: Mapping[tuple[str, int], Folds]
    results: Results
    device: str
    images: int
    seconds: float
    bytes: int
    notes: tuple[str, ...] = ()

    @property
    def todo(self) -> tuple[Finetune, ...]:
        """The runs that have no record yet."""
        return tuple(run for run in self.runs if run.key not in self.done)

    def lines(self) -> list[str]:
        """The plan in words, for a dry run."""
        out = [f"transfer: {len(self.runs)} runs, {len(self.runs) - len(self.todo)} already there; "
               f"{len(self.pretrainings)} sources to pretrain, {len(self.todo)} runs to fine-tune"]
        if self.todo:
            out.append(f"  {self.images} training images (times epochs), {self.protocol.network} at {self.protocol.image_size} px on {self.device}: "
                       f"about {self.seconds / 60:.1f} min on one job; {self.bytes / 2**20:.0f} MiB of decoded images")
        return out + [f"  note: {note}" for note in self.notes]


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

    Checked: names, device, network, image size, labels and classes of every data set, folds of every target, weights files and their fit
    (``imagenet`` is downloaded here when it is not there), memory. All problems are reported at once.

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
    errors = _Errors()
    names = tuple(dict.fromkeys((*sources, *protocol.sources, *protocol.weights)))
    targets = tuple(dict.fromkeys(targets))
    errors.catch(lambda: _check_names(protocol, datasets, sources, targets, names))
    errors.raise_if_any()
    device = errors.catch(lambda: resolve_device(protocol.device, where="finetune.device"))
    probed = errors.catch(lambda: build_network(protocol.network, 2, dropout=protocol.dropout, image_size=protocol.image_size)) is not None
    used = [name for name in dict.fromkeys((*sources, *targets)) if name in datasets]
    listings = errors.all({name: partial(listing, datasets[name]) for name in used})
    pairs = [(target, repeat) for target in targets if target in listings for repeat in protocol.seeds]
    folds = errors.all({(target, repeat): partial(_folds, listings[target], protocol, seed, repeat) for target, repeat in pairs})
    # a source that is no sound data set was reported above
    able = [name for name in names if probed and (name in listings or name not in sources)]
    starts = errors.all({name: partial(_start, name, protocol, datasets, seed) for name in able})
    memory = sum(len(one) for one in listings.values()) * 3 * protocol.image_size**2
    errors.catch(lambda: _check_memory(memory, protocol.image_size))
    errors.raise_if_any()
    assert device is not None

    runs = _runs(protocol, names, targets, starts, datasets, seed)
    done = frozenset(run.key for run in runs if results.load_json(Finetune.kind, run.key) is not None)
    todo = [run for run in runs if run.key not in done]
    wanted = {run.start for run in todo}
    pretrainings = tuple(
        unit for name in names if name in sources and starts[name].identity in wanted
        for unit in [_pretrain(name, protocol, datasets, seed)] if not _pretrained(unit, results)
    )
    images = sum(len(listings[unit.source]) * unit.budget.epochs for unit in pretrainings)
    images += sum(len(folds[run.target, run.repeat].train(run.fold)) * run.budget.epochs for run in todo)
    seconds = images * _measured(protocol, device) if todo else 0.0
    return TransferPlan(
        protocol=protocol, runs=runs, done=done, pretrainings=pretrainings, starts=starts, listings=listings, folds=folds, results=results,
        device=describe_device(device), images=images, seconds=seconds, bytes=memory, notes=_notes(protocol, listings, folds, device),
    )


def _check_names(protocol: Protocol, datasets: Mapping[str, Dataset], sources: Sequence[str], targets: Sequence[str], names: Sequence[str]) -> None:
    problems = []
    for role, given in (("source", sources), ("target", targets)):
        problems += [Problem("SK101", "finetune", f"{role} '{name}' is not a data set{nearest(name, datasets)}", f"data sets: {', '.join(datasets) or 'none'}")
                     for name in given if name not in datasets]
    for name in protocol.sources:
        if name not in (SCRATCH, IMAGENET):
            problems.append(Problem("SK101", "finetune.sources", f"unknown source '{name}'{nearest(name, (SCRATCH, IMAGENET))}",
                                    "scratch and imagenet are known; data sets are sources by themselves; checkpoints go into [finetune.weights]"))
    clashes = (("finetune.sources", protocol.sources, {*sources}), ("finetune.weights", tuple(protocol.weights), {*sources, *protocol.sources}))
    for where, taken, others in clashes:
        problems += [Problem("SK105", where, f"'{name}' names two sources", "rename one of them") for name in taken if name in others]
    if len(set(protocol.seeds)) < len(protocol.seeds) or not protocol.seeds:
        problems.append(Problem("SK102", "finetune.seeds", f"{list(protocol.seeds)}: wanted at least one seed, each once", "give different whole numbers"))
    if not problems and not any(protocol.self_pairs or name != target for name in names for target in targets):
        problems.append(Problem("SK104", "finetune", f"no source-target pair ({len(names)} sources, {len(targets)} targets; a target is no source of itself)",
                                "name targets, and at least one other data set, scratch, imagenet or weights file as a source"))
    if problems:
        raise UsageError("", "", "", problems=problems)


def _folds(images: Listing, protocol: Protocol, seed: int, repeat: int) -> Folds:
    return make_folds(images.labels, digests=images.digests, groups=images.groups, classes=images.classes, folds=protocol.folds,
                      names=(seed, repeat, images.dataset.fingerprint), where=images.name)


def _pretrain(name: str, protocol: Protocol, datasets: Mapping[str, Dataset], seed: int) -> Pretrain:
    return Pretrain(name, datasets[name].fingerprint, protocol.budget(protocol.pretrain_epochs), seed)


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


def _start(name: str, protocol: Protocol, datasets: Mapping[str, Dataset], seed: int) -> Start:
    """Where the weights of a source come from; a weights file is read and tried on the network."""
    if name in protocol.weights or (name == IMAGENET and name in protocol.sources):
        path = protocol.weights.get(name) or str(imagenet_file(protocol.network))
        where = f"finetune.weights.{name}" if name in protocol.weights else f"finetune.sources: {name}"
        state = interpolated_positions(protocol.network, read_weights(path, where), protocol.image_size)
        network, head = build_network(protocol.network, 2, dropout=protocol.dropout, image_size=protocol.image_size)
        load_body(network, head, state, f"{where}: {path}")
        return Start(f"weights:{digest_file(path)}", path)
    if name == SCRATCH and name in protocol.sources:
        return Start(SCRATCH)
    return Start(f"pretrain:{_pretrain(name, protocol, datasets, seed).key}")


def _runs(
    protocol: Protocol, names: Sequence[str], targets: Sequence[str], starts: Mapping[str, Start], datasets: Mapping[str, Dataset], seed: int,
) -> tuple[Finetune, ...]:
    budget = protocol.budget(protocol.finetune_epochs)
    return tuple(
        Finetune(source, target, starts[source].identity, datasets[target].fingerprint, budget, protocol.folds, fold, repeat, seed)
        for target in targets for source in names if protocol.self_pairs or source != target
        for repeat in protocol.seeds for fold in range(protocol.folds)
    )


def _check_memory(needed: int, image_size: int) -> None:
    if not hasattr(os, "sysconf"):
        return
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > 0.8 * there:
        message = f"the decoded images need {needed / 2**30:.1f} GiB of memory at {image_size} px, the machine has {there / 2**30:.1f} GiB"
        raise ResourceError("SK301", "finetune.image_size", message, "lower image_size, or use fewer or smaller data sets")


def _measured(protocol: Protocol, device: torch.device) -> float:
    """Seconds of training per image, measured; refuses an image size that the network cannot take."""
    import torch

    with reproducible(device, protocol.threads):
        network, _ = build_network(protocol.network, 10, dropout=protocol.dropout, image_size=protocol.image_size)
        network = network.to(device).to(memory_format=torch.channels_last)
        check_forward(network, protocol.network, protocol.image_size, device)
        return seconds_per_image(network, protocol.budget(1), device)


def _notes(protocol: Protocol, listings: Mapping[str, Listing], folds: Mapping[tuple[str, int], Folds], device: torch.device) -> tuple[str, ...]:
    notes = []
    for name, one in listings.items():
        if one.absent:
            notes.append(f"{name}: no image of class {', '.join(one.absent)}: the class takes no part")
        if len(set(one.digests)) < len(one):
            notes.append(f"{name}: {len(one) - len(set(one.digests))} images are byte-identical to another; copies stay in one fold")
        clash = _conflicting(one)
        if clash:
            notes.append(f"{name}: {clash} images exist with two labels")
        if one.dataset.splits is not None and any(target == name for target, _ in folds):
            notes.append(f"{name}: its given split is not used, all images are dealt into folds")
    notes += [f"{target}: it took {split.shuffles} shuffles until every fold held every class" for (target, _), split in folds.items() if split.shuffles > 1]
    if device.type != "cpu":
        notes.append(f"on {device.type} a few operations have no deterministic form: repeated runs can differ in the last digits")
    return tuple(notes)


def _conflicting(images: Listing) -> int:
    seen: dict[str, set[int]] = {}
    for digest, label in zip(images.digests, images.labels, strict=True):
        seen.setdefault(digest, set()).add(int(label))
    return int(np.sum([len(labels) > 1 for labels in seen.values()], dtype=np.int64))
