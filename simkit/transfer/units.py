"""How one unit of work is done: a pretraining, a fine-tuning. These functions run in the worker processes too."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simkit.device import describe_device, resolve_device
from simkit.errors import IntegrityError, NotEnoughData
from simkit.transfer.base import SCRATCH, Finetune, Pretrain, Results, Say
from simkit.transfer.checkpoint import Checkpoints, read_tensors, write_tensors
from simkit.transfer.networks import body_state, build_network, interpolated_positions, load_body, read_weights
from simkit.transfer.training import predict, reproducible, torch_seed, train

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Labelled", "Start", "finetune", "pretrain", "pretrained_path", "starting_network"]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Decoded images of a data set in canonical order: uint8 (n, 3, s, s), class indices (n,), class names, digests."""

    pixels: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    digests: tuple[str, ...]


@dataclass(frozen=True)
class Start:
    """Where the weights of a source lie: a checkpoint file, a pretraining of this grid, or nowhere (scratch).

    Attributes:
        identity: what enters the recipe: "scratch", "weights:<digest>", "pretrain:<key>".
        path: of the weights file, "" for the other two.
    """

    identity: str
    path: str = ""


def pretrained_path(results: Results, key: str) -> Path:
    """Where the weights of a pretraining are kept."""
    return results.path("pretrain", key, ".safetensors")


def starting_network(start: Start, classes: int, unit: Finetune, results: Results, device: torch.device) -> nn.Module:
    """A network with the source's weights and a new head. The head, and the body of ``scratch``, are drawn by the run's own seed."""
    import torch

    torch.manual_seed(torch_seed(*unit.random("weights")))
    network, head = build_network(unit.budget.network, classes, dropout=unit.budget.dropout, image_size=unit.budget.image_size)
    if start.path:
        state = interpolated_positions(unit.budget.network, read_weights(start.path, unit.source), unit.budget.image_size)
        load_body(network, head, state, f"{unit.source}: {start.path}")
    elif start.identity != SCRATCH:
        path = pretrained_path(results, start.identity.partition(":")[2])
        load_body(network, head, read_tensors(path)[0], str(path))
    return network.to(device).to(memory_format=torch.channels_last)


def pretrain(unit: Pretrain, data: Labelled, results: Results, *, device_name: str, say: Say, live: Say | None = None) -> dict[str, Any]:
    """Trains on the whole source and stores the weights; returns the stored record. Nothing is done when it is there already.

    ``say`` receives what a user must know, ``live`` also how a long training goes. A training that diverges is stored too, with its reason
    under ``failed``: by the same recipe it would diverge again.
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
    device = resolve_device(device_name)
    checkpoints = Checkpoints(results, unit.key, say)
    with reproducible(device, unit.budget.threads):
        torch.manual_seed(torch_seed(*unit.random("weights")))
        network, head = build_network(unit.budget.network, len(data.classes), dropout=unit.budget.dropout, image_size=unit.budget.image_size)
        network = network.to(device).to(memory_format=torch.channels_last)
        record = {"source": unit.source, "n_train": len(data.labels), "classes": list(data.classes), **_machine(device)}
        try:
            record |= train(network, data.pixels, data.labels, classes=len(data.classes), budget=unit.budget, random=unit.random(),
                            device=device, checkpoints=checkpoints, tick=_tick(live, f"pretraining on {unit.source}"))
        except NotEnoughData as error:
            record["failed"] = f"pretraining on {unit.source}: {error.problems[0].message}"
        else:
            write_tensors(path, body_state(network, head), {"recipe": unit.key})
    results.save_json(Pretrain.kind, unit.key, record)
    checkpoints.remove()
    return record


def finetune(
    unit: Finetune, start: Start, data: Labelled, test: np.ndarray, source_digests: frozenset[str], results: Results, *,
    device_name: str, say: Say, live: Say | None = None,
) -> dict[str, Any]:
    """Trains on all folds but one and predicts that one; returns the stored record. Nothing is done when it is there already.

    The record holds the probabilities of every test image beside its digest and class, so that any metric can be computed from it.
    """
    record = results.load_json(Finetune.kind, unit.key)
    if record is not None:
        return record
    device = resolve_device(device_name)
    train_rows = np.setdiff1d(np.arange(len(data.labels)), test)
    record = {
        "source": unit.source, "target": unit.target, "replicate": unit.replicate, "n_train": len(train_rows), "n_test": len(test),
        "leaked": sum(data.digests[i] in source_digests for i in test), "classes": list(data.classes), **_machine(device),
    }
    blocked = results.load_json(Pretrain.kind, start.identity.partition(":")[2]) if start.identity.startswith("pretrain:") else None
    if blocked is not None and "failed" in blocked:
        record["failed"] = str(blocked["failed"])
        results.save_json(Finetune.kind, unit.key, record)
        return record
    checkpoints = Checkpoints(results, unit.key, say)
    with reproducible(device, unit.budget.threads):
        network = starting_network(start, len(data.classes), unit, results, device)
        try:
            record |= train(network, data.pixels[train_rows], data.labels[train_rows], classes=len(data.classes), budget=unit.budget,
                            random=unit.random(), device=device, checkpoints=checkpoints, tick=_tick(live, unit.label))
        except NotEnoughData as error:
            record["failed"] = error.problems[0].message
        else:
            probabilities = predict(network, data.pixels[test], batch_size=max(unit.budget.batch_size, 64), device=device)
            finite = bool(np.isfinite(probabilities).all())
            record |= {"images": [data.digests[i] for i in test], "labels": data.labels[test].tolist(), "probabilities": probabilities.tolist()}
            if not finite:
                record = {**record, "failed": "the trained network's output is NaN or infinite"}
                del record["probabilities"]
    results.save_json(Finetune.kind, unit.key, record)
    checkpoints.remove()
    return record


def _tick(live: Say | None, label: str) -> Callable[[str], None]:
    """Passes a line about a training's progress on, at most one every ten seconds."""
    last = time.monotonic()

    def tick(line: str) -> None:
        nonlocal last
        if live is not None and time.monotonic() - last > 10.0:
            last = time.monotonic()
            live(f"{label}: {line}")

    return tick


def _machine(device: torch.device) -> Mapping[str, Any]:
    import torch
    import torchvision

    return {"device": describe_device(device), "torch": str(torch.__version__), "torchvision": str(torchvision.__version__)}
