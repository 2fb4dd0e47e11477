"""The training loop, plain PyTorch, and what surrounds one training: seeds, threads, precision, checkpoints, prediction.

Every random draw of an epoch is seeded by what the run is and by the epoch's number. A run that was killed and goes on from a checkpoint
is therefore, on a CPU, equal bit by bit to one that was never interrupted.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from simkit.errors import NotEnoughData, ResourceError
from simkit.recipe import seed_for
from simkit.transfer.base import Say
from simkit.transfer.checkpoint import SLOTS, Checkpoints
from simkit.transfer.feed import Feed
from simkit.transfer.images import batches, network_input
from simkit.transfer.metrics import selection_value
from simkit.transfer.protocol import Budget, Choice
from simkit.transfer.stages import set_trainable, train_mode

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Trained", "Training", "autocast_of", "class_weights", "is_full", "learning_rate", "predict", "reproducible", "seconds_per_image", "torch_seed"]


def torch_seed(*names: Any) -> int:
    """A seed that torch takes, from names."""
    return seed_for(*names) % 2**63


def is_full(error: BaseException) -> bool:
    """Whether an error of torch says that memory is full."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


@contextmanager
def reproducible(device: torch.device, threads: int, *, deterministic: bool = True) -> Iterator[None]:
    """Deterministic algorithms, a fixed number of CPU threads and torch's random state to itself; all as before afterwards.

    On CUDA a few operations have no deterministic form; torch would warn at each, so the plan says it once instead.
    """
    import torch

    if device.type == "cuda" and deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch asks for it; read when cuBLAS starts
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, switch = torch.backends.cudnn.benchmark, torch.utils.deterministic
    fill = switch.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        torch.backends.cudnn.benchmark = not deterministic
        switch.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, and nothing here reads uninitialised memory
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
            yield
    except RuntimeError as error:
        if not is_full(error):
            raise
        message = f"the device is out of memory: {str(error).splitlines()[0]}"
        raise ResourceError("SK301", "finetune", message, "lower batch_size or image_size, or run fewer jobs at once; finished runs are kept") from error
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        torch.backends.cudnn.benchmark = benchmark
        switch.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def learning_rate(budget: Budget, choice: Choice, epoch: int, done: float = 0.0, step: float = 1.0) -> float:
    """The learning rate of the step after ``epoch`` finished epochs and a share ``done`` of the next one; a step is a share ``step`` of an epoch.

    Epochs in which only the head is trained (``probe_epochs``) have the constant ``probe_lr``. Then it rises in equal parts over the steps of
    ``warmup_epochs``, the first of which is not zero and the last of which is the whole rate; over the rest it is constant, half a cosine that
    reaches zero at the end, or (``step``) a tenth from half of it on and a hundredth from three quarters on.
    """
    at = epoch - budget.probe_epochs + done
    if at < 0:
        return budget.probe_lr
    if at < budget.warmup_epochs:
        return choice.lr * (at + step) / budget.warmup_epochs
    progress = (at - budget.warmup_epochs) / (budget.epochs - budget.warmup_epochs)
    if budget.schedule == "cosine":
        return choice.lr * 0.5 * (1 + math.cos(math.pi * progress))
    if budget.schedule == "step":
        return choice.lr * (0.01 if progress >= 0.75 else 0.1 if progress >= 0.5 else 1.0)
    return choice.lr


def _optimizer(network: nn.Module, budget: Budget, choice: Choice) -> torch.optim.Optimizer:
    import torch

    if budget.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), lr=choice.lr, momentum=0.9, weight_decay=choice.weight_decay)
    kind = torch.optim.AdamW if budget.optimizer == "adamw" else torch.optim.Adam
    return kind(network.parameters(), lr=choice.lr, weight_decay=choice.weight_decay)


def class_weights(labels: np.ndarray, classes: int, how: str) -> np.ndarray:
    """Weight per class in the loss: n / (C n_c) for "balanced" (mean 1 over the images), else 1. float32 (C,)."""
    if how == "none":
        return np.ones(classes, dtype=np.float32)
    return np.asarray(len(labels) / (classes * np.bincount(labels, minlength=classes)), dtype=np.float32)


def autocast_of(precision: str, device: torch.device) -> torch.autocast:
    """The context in which the forward pass runs: ``auto`` is bfloat16 on CUDA (float16 where that GPU has none), float32 elsewhere."""
    import torch

    if precision == "auto":
        has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bfloat16" if has_bfloat16 else "float16" if device.type == "cuda" else "float32"
    kind = torch.float16 if precision == "float16" else torch.bfloat16
    return torch.autocast(device.type, kind, enabled=precision != "float32")


@dataclass
class Trained:
    """What a training left: mean loss of each epoch, the value of each inner validation, the epoch that was best, seconds over all sittings."""

    losses: list[float] = field(default_factory=list)
    validations: list[list[float]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    seconds: float = 0.0
    parts: int = 1

    @property
    def epochs(self) -> int:
        """Epochs whose result is taken: the best one's number, else all."""
        return int(self.best["epoch"]) if self.best is not None else len(self.losses)

    def note(self) -> dict[str, Any]:
        """In JSON form."""
        return {"losses": self.losses, "validations": self.validations, "best": self.best, "seconds": self.seconds, "parts": self.parts}


@dataclass(eq=False)
class Training:
    """One training of one network.

    Attributes:
        network: on the device; changed in place.
        head: name of its classification layer.
        data: the training images.
        validation: the images that are held back to choose by, or None.
        budget: how.
        choice: with which learning rate and weight decay.
        random: names that every draw is seeded by, together with the epoch.
        device: where.
        checkpoints: of this training; the newest one is taken up.
        tick: receives a line after each epoch, and its values for a log.
        say: receives what a user must know.
        stop_after: epochs after which it ends, although the schedule is made for all.
        compiled: whether the network is compiled.
    """

    network: nn.Module
    head: str
    data: Feed
    validation: Feed | None
    budget: Budget
    choice: Choice
    random: tuple[Any, ...]
    device: torch.device
    checkpoints: Checkpoints
    tick: Callable[[str, int, Mapping[str, float]], None]
    say: Say
    stop_after: int | None = None
    compiled: bool = False

    def run(self) -> Trained:
        """Trains; the network is then that of the best epoch where there is an inner validation, else that of the last.

        Raises:
            NotEnoughData: SK502 when the loss is NaN or infinite after an epoch.
            ResourceError: SK301 when two images are too many for the device's memory.
        """
        import torch

        budget = self.budget
        optimizer = _optimizer(self.network, budget, self.choice)
        forward = torch.compile(self.network) if self.compiled else self.network
        scaler = torch.amp.GradScaler(self.device.type, enabled=autocast_of(budget.precision, self.device).fast_dtype == torch.float16)
        done = self._taken_up(optimizer, scaler)
        epochs = budget.probe_epochs + budget.epochs if self.stop_after is None else self.stop_after
        initial = None if done.losses else {name: value.detach().to("cpu", copy=True) for name, value in self.network.state_dict().items()}
        while len(done.losses) < epochs and not self._stale(done):
            started = time.perf_counter()
            try:
                loss = self._epoch(forward, optimizer, scaler, done)
            except RuntimeError as error:
                if not is_full(error):
                    raise
                optimizer, done = self._smaller(error, done, scaler, initial)
                continue
            done.losses.append(loss)
            self._check(done)
            self._validate(done)
            done.seconds += time.perf_counter() - started
            initial = None
            if len(done.losses) < epochs and not self._stale(done):  # after the last epoch the result itself is stored
                self.checkpoints.save(len(done.losses), self.network, optimizer, {**done.note(), "scaler": scaler.state_dict()})
            self._tell(done)
        if done.best is not None and not self.checkpoints.load_best(int(done.best["slot"]), self.network):
            raise ResourceError("SK301", "finetune", "the best network of this training was removed while it went on", "start the same command again")
        return done

    def _taken_up(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> Trained:
        """What earlier sittings have done."""
        note = self.checkpoints.load(self.network, optimizer)
        if note is None:
            return Trained()
        if note["scaler"]:
            scaler.load_state_dict(note["scaler"])
        return Trained(**{name: note[name] for name in ("losses", "validations", "best", "seconds", "parts")})

    def _epoch(self, forward: Callable[..., Any], optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, done: Trained) -> float:
        """One pass over the training images; returns the mean loss."""
        import torch
        from torch.nn.functional import cross_entropy

        budget, epoch = self.budget, len(done.losses)
        draws = torch.Generator().manual_seed(torch_seed(*self.random, "epoch", epoch))
        torch.manual_seed(torch_seed(*self.random, "dropout", epoch))  # dropout and stochastic depth draw from torch's own state, forked by the caller
        mode = "frozen" if epoch < budget.probe_epochs else "full" if budget.mode == "probe-then-full" else budget.mode
        set_trainable(self.network, self.head, mode, budget.last_stages)
        train_mode(self.network, frozen_batch_norm=budget.batch_norm == "frozen")
        labels = self.data.labels
        weights = torch.from_numpy(class_weights(labels, int(labels.max()) + 1, budget.class_weights)).to(self.device)
        steps = batches(torch.randperm(len(labels), generator=draws).numpy(), budget.batch_size)
        parts = [np.array_split(rows, max(1, min(budget.accumulate * done.parts, len(rows) // 2))) for rows in steps]
        feed = self.data.batches([part for step in parts for part in step])
        total = torch.zeros((), device=self.device)
        with closing(feed):
            for number, step in enumerate(parts):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(budget, self.choice, epoch, number / len(parts), 1 / len(parts))
                size = sum(len(part) for part in step)
                optimizer.zero_grad()
                for _ in step:
                    pixels, y = next(feed)
                    x = network_input(pixels, self.device, draws, budget.augmentation)
                    with autocast_of(budget.precision, self.device):
                        logits = forward(x)
                    # class weights have mean 1 over the images: no second normalisation
                    loss = cross_entropy(logits.float(), y, weight=weights, reduction="none", label_smoothing=budget.label_smoothing).sum() / size
                    scaler.scale(loss).backward()
                    total += loss.detach() * size
                scaler.step(optimizer)
                scaler.update()
        return float(total) / len(labels)

    def _smaller(
        self, error: RuntimeError, done: Trained, scaler: torch.amp.GradScaler, initial: Mapping[str, torch.Tensor] | None,
    ) -> tuple[torch.optim.Optimizer, Trained]:
        """Takes the state before the epoch up again, to do it with half as many images at a time; says so."""
        import torch

        at_a_time = self.budget.batch_size // (self.budget.accumulate * done.parts)
        if at_a_time < 4:
            message = f"the device is out of memory with {max(at_a_time, 2)} images at a time: {str(error).splitlines()[0]}"
            raise ResourceError("SK301", "finetune", message, "lower image_size, take a smaller network, or run fewer jobs at once; finished runs are kept")
        parts = done.parts * 2
        optimizer = _optimizer(self.network, self.budget, self.choice)
        if initial is not None:
            self.network.load_state_dict(initial)
            before = Trained()
        else:
            before = self._taken_up(optimizer, scaler)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.say(f"out of memory: each step of {self.budget.batch_size} images is now taken in {self.budget.accumulate * parts} parts "
                 "(the gradients are added: the same step; batch norm sees the parts)")
        return optimizer, replace(before, parts=parts)

    def _check(self, done: Trained) -> None:
        if not math.isfinite(done.losses[-1]):
            where = f"after epoch {len(done.losses)} of {self.budget.probe_epochs + self.budget.epochs} ({self.choice.text})"
            raise NotEnoughData("SK502", "", f"training diverged: the loss is {done.losses[-1]} {where}", "lower learning_rate, for all runs alike")

    def _validate(self, done: Trained) -> None:
        """Scores the images that are held back, and keeps the network when it is the best so far; without early stopping only the last."""
        last = len(done.losses) == self.budget.probe_epochs + self.budget.epochs
        if self.validation is None or not (self.budget.early_stopping or last):
            return
        labels = self.validation.labels
        probabilities = predict(self.network, self.validation, batch_size=max(self.budget.batch_size, 64), device=self.device)
        value = list(selection_value(labels, probabilities, probabilities.shape[1], self.budget.selection))
        done.validations.append(value)
        if done.best is None or tuple(value) > tuple(done.best["value"]):
            slot = 0 if done.best is None else (int(done.best["slot"]) + 1) % SLOTS
            self.checkpoints.save_best(slot, self.network)
            done.best = {"epoch": len(done.losses), "value": value, "slot": slot}

    def _stale(self, done: Trained) -> bool:
        """Whether early stopping ends the training here. The epochs of the probe do not count."""
        if not self.budget.early_stopping or done.best is None:
            return False
        since = max(int(done.best["epoch"]), self.budget.probe_epochs)
        return len(done.losses) - since >= self.budget.early_stopping

    def _tell(self, done: Trained) -> None:
        epoch, epochs = len(done.losses), self.budget.probe_epochs + self.budget.epochs
        values = {"loss": done.losses[-1], "learning rate": learning_rate(self.budget, self.choice, epoch - 1)}
        line = f"epoch {epoch} of {epochs}, loss {done.losses[-1]:.3f}"
        if done.validations:
            names = ("AUC", "minus log loss") if self.budget.selection == "auc" else ("minus log loss", "AUC")
            values |= {f"validation {name}": value for name, value in zip(names, done.validations[-1], strict=True)}
            line += f", validation {names[0]} {done.validations[-1][0]:.3f}"
        self.tick(line, epoch, values)


def predict(network: nn.Module, data: Feed, *, batch_size: int, device: torch.device) -> np.ndarray:
    """Class probabilities in evaluation mode, float64 (n, C): softmax of float32 logits, without autocast (which moves an AUC by up to 0.01).

    Batches are halved where memory is full, which changes no number beyond rounding: batch norms stand still.
    """
    while True:
        try:
            return _probabilities(network, data, batch_size, device)
        except RuntimeError as error:
            if batch_size == 1 or not is_full(error):
                raise
            batch_size //= 2


def _probabilities(network: nn.Module, data: Feed, batch_size: int, device: torch.device) -> np.ndarray:
    import torch

    network.eval()
    parts = []
    rows = np.arange(len(data.labels))
    with torch.inference_mode():
        for pixels, _ in data.batches([rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]):
            logits = network(network_input(pixels, device))
            parts.append(logits.float().cpu().double().softmax(dim=1))
    return np.asarray(torch.cat(parts).numpy())


def seconds_per_image(network: nn.Module, head: str, budget: Budget, device: torch.device) -> float:
    """Time of one training step on noise, per image: the shorter of two after one to warm up."""
    import torch
    from torch.nn.functional import cross_entropy

    optimizer = _optimizer(network, budget, budget.choices[0])
    n = max(2, min(budget.batch_size, 32))
    pixels = np.random.default_rng(0).integers(0, 256, (n, budget.channels, budget.image_size, budget.image_size), dtype=np.uint8)
    draws = torch.Generator().manual_seed(0)
    y = torch.zeros(n, dtype=torch.int64, device=device)
    set_trainable(network, head, budget.mode if budget.mode != "probe-then-full" else "full", budget.last_stages)
    train_mode(network, frozen_batch_norm=False)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        x = network_input(torch.from_numpy(pixels).to(device), device, draws, budget.augmentation)
        with autocast_of(budget.precision, device):
            logits = network(x)
        optimizer.zero_grad()
        cross_entropy(logits.float(), y).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:]) / n
