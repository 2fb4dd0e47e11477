"""How one unit of work is done: a pretraining, a fine-tuning. These functions run in the worker processes too."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simkit.device import describe_device, resolve_device
from simkit.errors import IntegrityError, NotEnoughData
from simkit.recipe import describe
from simkit.transfer.base import SCRATCH, Finetune, Pretrain, Results, Say
from simkit.transfer.checkpoint import read_tensors, write_tensors
from simkit.transfer.fitting import Fitting, Labelled, Place
from simkit.transfer.networks import build_network, load_body
from simkit.transfer.predictions import write_predictions
from simkit.transfer.protocol import Budget
from simkit.transfer.training import predict, reproducible, torch_seed

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "Labelled", "Setting", "Start", "Work", "finetune", "missing_files", "named_network", "pretrain", "pretrained", "pretrained_network", "pretrained_path",
    "starting_network",
]

UNFOLDED_ON = 256
"""Most images over which the statistics of folded batch norms are estimated."""


@dataclass(frozen=True)
class Start:
    """Where the weights of a source come from: a weights file, a pretraining of this grid, or nowhere (scratch).

    Attributes:
        identity: what enters the recipe: "scratch", "weights:<digest>", "pretrain:<key>".
        path: of the weights file, "" for the other two.
    """

    identity: str
    path: str = ""

    @property
    def pretraining(self) -> str:
        """Key of the pretraining, "" where there is none."""
        return self.identity.partition(":")[2] if self.identity.startswith("pretrain:") else ""


@dataclass(frozen=True, eq=False)
class Work:
    """What a unit needs besides its recipe.

    Attributes:
        data: images and labels.
        rows: positions of the training images.
        test: positions of the test images (of a pretraining: none).
        inner: positions of the images to fit and to validate on, where the budget validates.
        leaked: test images that the source's pretraining has seen; None where that cannot be known.
    """

    data: Labelled
    rows: np.ndarray
    test: np.ndarray
    inner: tuple[np.ndarray, np.ndarray] | None = None
    leaked: int | None = 0

    def trained_on(self, budget: Budget) -> int:
        """Images that the final network has seen: those that are held back to choose by are trained on in a refit only."""
        return len(self.rows) if self.inner is None or budget.refit else len(self.inner[0])


@dataclass(frozen=True)
class Setting:
    """How units are done here; none of it is part of a recipe. On CPUs only ``compiled`` can move a number, in its last digits."""

    device: str
    deterministic: bool = True
    compiled: bool = False
    keep_networks: bool = False
    logs: Path | None = None


def pretrained_path(results: Results, key: str) -> Path:
    """Where the weights of a pretraining are kept."""
    return results.path(Pretrain.kind, key, ".safetensors")


def pretrained(results: Results, key: str) -> bool:
    """Whether nothing is left to do for a pretraining: its weights are there and sound, or it is known to diverge."""
    record = results.load_json(Pretrain.kind, key)
    if record is None or "failed" in record:
        return record is not None
    try:
        read_tensors(pretrained_path(results, key))
    except (FileNotFoundError, IntegrityError):
        return False
    return True


def pretrained_network(results: Results, unit: Pretrain) -> tuple[nn.Module, str, tuple[str, ...]]:
    """The network that a pretraining made, in evaluation mode; the name of its head (dropout and the layer behind it); and the names of its outputs.

    Raises:
        FileNotFoundError: it has not been pretrained, or its training diverged.
        IntegrityError: the file is damaged.
    """
    tensors, note = read_tensors(pretrained_path(results, unit.key))
    budget, classes = unit.budget, tuple(str(name) for name in note["classes"])
    network, head = build_network(budget.network, len(classes), dropout=budget.dropout, image_size=budget.image_size, channels=budget.channels)
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False), head, classes


def named_network(path: str, budget: Budget, where: str) -> tuple[nn.Module, str, int]:
    """The network of a weights file as a grid starts from it, but with the file's own head; the name of that, and its outputs (0: the file has none).

    Raises:
        DataError, IntegrityError, ResourceError: as :func:`~simkit.transfer.weights.read_start` and
            :func:`~simkit.transfer.networks.load_body`.
    """
    import torch

    from simkit.transfer.weights import read_start

    state = read_start(path, budget.network, budget.image_size, where)
    options: dict[str, Any] = {"dropout": budget.dropout, "image_size": budget.image_size, "channels": budget.channels}
    _, head = build_network(budget.network, 2, **options)
    weight, bias = state.get(f"{head}.weight"), state.get(f"{head}.bias")
    network, head = build_network(budget.network, 2 if weight is None else len(weight), **options)
    load_body(network, head, state, f"{where}: {path}")
    layer = list(network.get_submodule(head).modules())[-1]
    fits = weight is not None and getattr(layer, "weight", weight).shape == weight.shape
    if fits:
        with torch.no_grad():
            layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return network.eval().requires_grad_(False), head, len(weight) if fits and weight is not None else 0


def missing_files(results: Results, key: str, record: Mapping[str, Any], *, keep_networks: bool) -> list[str]:
    """What a finished run should have left beside its record and has not, in words: such a run is done again."""
    if "failed" in record:
        return []
    wanted = {"predictions": ".parquet"} | ({"network": ".safetensors"} if keep_networks else {})
    return [what for what, suffix in wanted.items() if not results.path(Finetune.kind, key, suffix).is_file()]


def starting_network(
    start: Start, unit: Finetune, data: Labelled, rows: np.ndarray, results: Results, device: torch.device,
) -> tuple[nn.Module, str, list[str]]:
    """A network with the source's weights and a new head; the head's name; and what was done to it, in words.

    The head, and the body of ``scratch``, are drawn by the run's own seed.
    """
    import torch

    from simkit.transfer.batch_norm import has_folded_batch_norms, unfold_batch_norms
    from simkit.transfer.images import network_input
    from simkit.transfer.weights import read_start

    budget = unit.budget
    torch.manual_seed(torch_seed(*unit.random("weights")))
    network, head = build_network(budget.network, len(data.classes), dropout=budget.dropout, image_size=budget.image_size, channels=budget.channels)
    if start.path:
        load_body(network, head, read_start(start.path, budget.network, budget.image_size, unit.source), f"{unit.source}: {start.path}")
    elif start.identity != SCRATCH:
        path = pretrained_path(results, start.pretraining)
        load_body(network, head, read_tensors(path)[0], str(path))
    network = network.to(device).to(memory_format=torch.channels_last)
    done = []
    if budget.batch_norm == "auto" and start.identity != SCRATCH and has_folded_batch_norms(network):
        chosen = rows[:: max(1, len(rows) // UNFOLDED_ON)]
        feed = data.feed(chosen, device)
        parts = np.array_split(np.arange(len(chosen)), max(1, len(chosen) // 32))
        unfold_batch_norms(network, (network_input(pixels, device) for pixels, _ in feed.batches(parts)))
        done.append(f"batch norms were folded into the weights: unfolded on {len(chosen)} training images")
    return network, head, done


def pretrain(unit: Pretrain, work: Work, results: Results, *, setting: Setting, say: Say, live: Say | None = None) -> dict[str, Any]:
    """Trains on the source and stores the weights; returns the stored record. Nothing is done when it is there already.

    ``say`` receives what a user must know, ``live`` also how a long training goes. A training that diverges is stored too, with its reason under
    ``failed``: by the same recipe it would diverge again.
    """
    import torch

    record, path = results.load_json(Pretrain.kind, unit.key), pretrained_path(results, unit.key)
    if record is not None and "failed" in record:
        return record
    if record is not None:
        try:
            read_tensors(path)
        except FileNotFoundError:
            say(f"weights of {unit.source} are missing ({path}): pretrained again")
        except IntegrityError as error:
            say(f"{error.problems[0].where} {error.problems[0].message}: pretrained again")
        else:
            return record
    device, budget, classes = resolve_device(setting.device), unit.budget, work.data.classes
    with reproducible(device, budget.threads, deterministic=setting.deterministic):

        def build(rows: np.ndarray) -> tuple[nn.Module, str]:
            # the same first weights for every source of a repeat
            torch.manual_seed(torch_seed("pretrain", unit.seed, unit.repeat, "weights"))
            network, head = build_network(budget.network, len(classes), dropout=budget.dropout, image_size=budget.image_size, channels=budget.channels)
            return network.to(device).to(memory_format=torch.channels_last), head

        place = Place(results, device, say, _tick(live), setting.logs, setting.compiled)
        fitting = Fitting(unit.key, unit.label, build, work.data, work.rows, work.inner, budget, unit.random(), place)
        record = {"source": unit.source, "n_train": work.trained_on(budget), "classes": list(classes), **_machine(device)}
        try:
            network, done = fitting.run()
        except NotEnoughData as error:
            record["failed"] = f"{unit.label}: {error.problems[0].message}"
        else:
            record |= done
            write_tensors(path, network.state_dict(), {"recipe": describe(unit), "key": unit.key, "source": unit.source, "classes": list(classes)})
    results.save_json(Pretrain.kind, unit.key, record)
    fitting.clear()
    return record


def finetune(
    unit: Finetune, start: Start, work: Work, results: Results, *, average: str, setting: Setting, say: Say, live: Say | None = None,
) -> dict[str, Any]:
    """Trains on the target's training images and predicts the fold that is held out; returns the stored record, or the one that is there already.

    The probabilities of every test image are stored beside it (parquet), so that any metric can be computed from them.
    """
    from simkit.transfer.metrics import metrics

    record = results.load_json(Finetune.kind, unit.key)
    if record is not None and not missing_files(results, unit.key, record, keep_networks=setting.keep_networks):
        return record
    device, data, test = resolve_device(setting.device), work.data, work.test
    record = {
        "source": unit.source, "target": unit.target, "fold": unit.fold_name, "seed": unit.repeat, "n_train": work.trained_on(unit.budget), "n_test": len(test),
        "leaked": work.leaked, "classes": list(data.classes), **_machine(device),
    }
    blocked = results.load_json(Pretrain.kind, start.pretraining) if start.pretraining else None
    if blocked is not None and "failed" in blocked:
        record["failed"] = str(blocked["failed"])
        results.save_json(Finetune.kind, unit.key, record)
        return record
    with reproducible(device, unit.budget.threads, deterministic=setting.deterministic):
        done: list[str] = []

        def build(rows: np.ndarray) -> tuple[nn.Module, str]:
            network, head, done[:] = starting_network(start, unit, data, rows, results, device)
            return network, head

        place = Place(results, device, say, _tick(live), setting.logs, setting.compiled)
        fitting = Fitting(unit.key, unit.label, build, data, work.rows, work.inner, unit.budget, unit.random(), place)
        try:
            network, trained = fitting.run()
        except NotEnoughData as error:
            record["failed"] = error.problems[0].message
        else:
            record |= trained | {"done": done}
            probabilities = predict(network, data.feed(test, device), batch_size=max(unit.budget.batch_size, 64), device=device)
            write_predictions(results.path(Finetune.kind, unit.key, ".parquet"), images=[data.digests[i] for i in test], keys=[data.keys[i] for i in test],
                              labels=data.labels[test], probabilities=probabilities, classes=data.classes)
            found = metrics(data.labels[test], probabilities, classes=data.classes, average=average)
            record["metrics"] = [{"name": one.name, "value": one.value, "reason": one.reason} for one in found]
            if not np.isfinite(probabilities).all():
                record["failed"] = "the trained network's output is NaN or infinite"
            if setting.keep_networks:
                write_tensors(results.path(Finetune.kind, unit.key, ".safetensors"), network.state_dict(), {"recipe": describe(unit), "key": unit.key})
    results.save_json(Finetune.kind, unit.key, record)
    fitting.clear()
    return record


def _tick(live: Say | None) -> Say:
    """Passes a line about a training's progress on, at most one every ten seconds."""
    last = time.monotonic()

    def tick(line: str) -> None:
        nonlocal last
        if live is not None and time.monotonic() - last > 10.0:
            last = time.monotonic()
            live(line)

    return tick


def _machine(device: torch.device) -> Mapping[str, Any]:
    import torch
    import torchvision

    return {"device": describe_device(device), "torch": str(torch.__version__), "torchvision": str(torchvision.__version__)}
