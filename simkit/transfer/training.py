"""The training loop, plain PyTorch, and what surrounds one run: seeds, threads, checkpoints, prediction.

Every random draw of an epoch is seeded by what the run is and by the epoch's number. A run that was killed and goes on from a checkpoint
is therefore, on a CPU, equal bit by bit to one that was never interrupted.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from simkit.errors import NotEnoughData, ResourceError
from simkit.recipe import seed_for
from simkit.transfer.checkpoint import Checkpoints
from simkit.transfer.images import batches, network_input
from simkit.transfer.protocol import Budget

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["learning_rate", "predict", "reproducible", "seconds_per_image", "torch_seed", "train"]


def torch_seed(*names: Any) -> int:
    """A seed that torch takes, from names."""
    return seed_for(*names) % 2**63


@contextmanager
def reproducible(device: torch.device, threads: int) -> Iterator[None]:
    """Deterministic algorithms, a fixed number of CPU threads and torch's random state to itself; all as before afterwards.

    On CUDA a few operations have no deterministic form; torch would warn at each, so the plan says it once instead.
    """
    import torch

    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch asks for it; read when cuBLAS starts
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, switch = torch.backends.cudnn.benchmark, torch.utils.deterministic
    fill = switch.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        switch.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, and nothing here reads uninitialised memory
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
            yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        message = f"the device is out of memory: {str(error).splitlines()[0]}"
        raise ResourceError("SK301", "finetune", message, "lower batch_size or image_size, or run fewer jobs at once; finished runs are kept") from error
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        torch.backends.cudnn.benchmark = benchmark
        switch.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def learning_rate(budget: Budget, epoch: int) -> float:
    """The learning rate of an epoch (from 0): constant, half a cosine that would reach zero after the last epoch, or steps.

    ``step`` is a tenth from half of the epochs on and a hundredth from three quarters on.
    """
    done = epoch / budget.epochs
    if budget.schedule == "cosine":
        return budget.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    if budget.schedule == "step":
        return budget.learning_rate * (0.01 if done >= 0.75 else 0.1 if done >= 0.5 else 1.0)
    return budget.learning_rate


def _optimizer(network: nn.Module, budget: Budget) -> torch.optim.Optimizer:
    import torch

    rate, decay = budget.learning_rate, budget.weight_decay
    if budget.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=decay)
    kind = torch.optim.AdamW if budget.optimizer == "adamw" else torch.optim.Adam
    return kind(network.parameters(), lr=rate, weight_decay=decay)


def class_weights(labels: np.ndarray, classes: int, how: str) -> np.ndarray:
    """Weight per class in the loss: n / (C n_c) for "balanced" (mean 1 over the images), else 1. float32 (C,)."""
    if how == "none":
        return np.ones(classes, dtype=np.float32)
    return np.asarray(len(labels) / (classes * np.bincount(labels, minlength=classes)), dtype=np.float32)


def train(
    network: nn.Module, pixels: np.ndarray, labels: np.ndarray, *, classes: int, budget: Budget, random: tuple[Any, ...], device: torch.device,
    checkpoints: Checkpoints, tick: Callable[[str], None],
) -> dict[str, Any]:
    """Trains the network in place; inside :func:`reproducible`.

    Args:
        network: on the device.
        pixels: uint8 (n, 3, s, s), the training images.
        labels: int64 (n,), each of the classes at least once.
        classes: C.
        budget: how.
        random: names that every draw is seeded by, together with the epoch.
        device: where.
        checkpoints: of this run; the newest one is taken up.
        tick: receives a line after each epoch.

    Returns:
        ``losses``: mean training loss of each epoch; ``seconds``: time spent, over all sittings.

    Raises:
        NotEnoughData: SK502 when the loss is NaN or infinite after an epoch.
    """
    import torch
    from torch.nn.functional import cross_entropy

    optimizer = _optimizer(network, budget)
    weights = torch.from_numpy(class_weights(labels, classes, budget.class_weights)).to(device)
    note = checkpoints.load(network, optimizer) or {"epoch": 0, "losses": [], "seconds": 0.0}
    losses, seconds = list(note["losses"]), float(note["seconds"])
    for epoch in range(int(note["epoch"]), budget.epochs):
        started = time.perf_counter()
        draws = torch.Generator().manual_seed(torch_seed(*random, "epoch", epoch))
        torch.manual_seed(torch_seed(*random, "dropout", epoch))  # dropout and stochastic depth draw from torch's own state, forked by the caller
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(budget, epoch)
        network.train()
        total = torch.zeros((), device=device)
        for rows in batches(torch.randperm(len(labels), generator=draws).numpy(), budget.batch_size):
            x = network_input(pixels[rows], device, draws if budget.augmentation == "paper" else None)
            y = torch.from_numpy(labels[rows]).to(device)
            with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
                logits = network(x)
            loss = cross_entropy(logits.float(), y, weight=weights, reduction="none").mean()  # weights have mean 1: no second normalisation
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(rows)
        losses.append(float(total) / len(labels))
        if not math.isfinite(losses[-1]):
            message = f"training diverged: the loss is {losses[-1]} after epoch {epoch + 1} of {budget.epochs} (learning rate {budget.learning_rate:g})"
            raise NotEnoughData("SK502", "", message, "lower learning_rate, for all runs alike")
        tick(f"epoch {epoch + 1} of {budget.epochs}, loss {losses[-1]:.3f}")
        seconds += time.perf_counter() - started
        if epoch + 1 < budget.epochs:  # after the last epoch the result itself is stored
            checkpoints.save(epoch + 1, network, optimizer, {"losses": losses, "seconds": seconds})
    return {"losses": losses, "seconds": seconds}


def predict(network: nn.Module, pixels: np.ndarray, *, batch_size: int, device: torch.device) -> np.ndarray:
    """Class probabilities in evaluation mode, float64 (n, C): softmax of float32 logits, without autocast (which moves an AUC by up to 0.01)."""
    import torch

    network.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pixels), batch_size):
            logits = network(network_input(pixels[start : start + batch_size], device))
            parts.append(logits.float().cpu().double().softmax(dim=1))
    return np.asarray(torch.cat(parts).numpy())


def seconds_per_image(network: nn.Module, budget: Budget, device: torch.device) -> float:
    """Time of one training step on noise, per image: the shorter of two after one to warm up."""
    import torch
    from torch.nn.functional import cross_entropy

    optimizer = _optimizer(network, budget)
    n = max(2, min(budget.batch_size, 32))
    pixels = np.random.default_rng(0).integers(0, 256, (n, 3, budget.image_size, budget.image_size), dtype=np.uint8)
    draws = torch.Generator().manual_seed(0)
    y = torch.zeros(n, dtype=torch.int64, device=device)
    network.train()
    times = []
    for _ in range(3):
        started = time.perf_counter()
        x = network_input(pixels, device, draws if budget.augmentation == "paper" else None)
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(x)
        optimizer.zero_grad()
        cross_entropy(logits.float(), y).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:]) / n
