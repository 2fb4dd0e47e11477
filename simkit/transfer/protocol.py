"""The protocol of a transfer experiment: the ``[finetune]`` table of a study file. Every pair gets the same one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from simkit.errors import Problem, SimkitError, UsageError, nearest
from simkit.registry import build_options, option

__all__ = ["PRESETS", "SEARCHED", "Budget", "Choice", "Mode", "Protocol", "is_path", "presets", "protocol_of"]

Mode = Literal["full", "frozen", "probe-then-full", "last-stages"]
"""What is trained: everything; the head alone; first the head alone, then everything (LP-FT, Kumar et al. 2022); the last stages and the head."""

SEARCHED = ("lr", "weight_decay")
"""What ``search`` may list values of."""


@dataclass(frozen=True)
class Choice:
    """What a search chooses between: one learning rate and one weight decay."""

    lr: float
    weight_decay: float

    @property
    def text(self) -> str:
        return f"lr {self.lr:g}, weight decay {self.weight_decay:g}"


@dataclass(frozen=True)
class Budget:
    """What one unit of work (a pretraining, or a fine-tuning with its search) may spend and how: all of the protocol that moves its numbers.

    Part of every recipe. Attributes are those of :class:`Protocol`; ``epochs`` is the largest number of passes of one training, ``choices``
    what is searched (one: nothing is).
    """

    network: str
    image_size: int
    channels: int
    epochs: int
    batch_size: int
    accumulate: int
    choices: tuple[Choice, ...]
    validation: float
    early_stopping: int
    selection: str
    refit: bool
    optimizer: str
    schedule: str
    warmup_epochs: int
    augmentation: str
    class_weights: str
    label_smoothing: float
    dropout: float
    mode: str
    last_stages: int
    probe_epochs: int
    probe_lr: float
    batch_norm: str
    precision: str
    threads: int

    @property
    def validates(self) -> bool:
        """Whether part of the training images is held back to choose by."""
        return self.early_stopping > 0 or len(self.choices) > 1


@dataclass(frozen=True)
class Protocol:
    """How transfer is measured: pretrain once per source and seed, fine-tune on the target's training folds, score the held-out fold.

    It follows the seed study (arXiv 2107.05940, section "experiments") with its unfairness removed: there, learning rate and epochs differ
    between pairs, the baseline was pretrained on the test images, and patients are split over folds; here all runs share one budget (fixed, or one
    search that all pairs get), test images are taken out of pretraining, and patients stay together. The defaults are a small set-up for a
    laptop; ``protocol = "cats-scans"`` in a study file (or :func:`protocol_of`) gives the paper's own.
    """

    network: str = option("resnet18", "any torchvision classification network, or timm:NAME")
    image_size: int = option(64, "side of the square to which images are resized [pixels]", minimum=8)
    channels: int = option(3, "channels of the network's input; grey images are repeated to 3, colour becomes grey for 1; weights are adapted", minimum=1)
    folds: int = option(5, "number of cross-validation folds of the target", minimum=2)
    splits: Literal["given", "ignore"] = option(
        "given", "given: a target with a test split is scored on it alone, in one fold; ignore: all is dealt into folds")
    groups: Literal["keep", "ignore"] = option("keep", "keep: a patient is never split over folds; ignore: dealt image by image, which is flagged")
    overlap: Literal["remove", "mark"] = option(
        "remove", "images shared by source and target: test images are taken out of pretraining, or the run is marked leaky")
    seeds: tuple[int, ...] = option((0,), "repeats, each with its own folds and its own pretraining (on a given test part: training noise only)", minimum=0)
    pretrain_epochs: int = option(20, "passes over the source, at most", minimum=1)
    pretrain_share: float = option(1.0, "share of the source that is pretrained on (the paper: 0.8), stratified", above=0, maximum=1)
    finetune_epochs: int = option(20, "passes over the target's training folds, at most", minimum=1)
    mode: Mode = option("full", "full; frozen: only the head; probe-then-full: first the head alone; last-stages: the last stages and the head")
    last_stages: int = option(1, "how many stages of the network mode = \"last-stages\" trains", minimum=1)
    probe_epochs: int = option(5, "passes of mode = \"probe-then-full\" in which only the head is trained, before finetune_epochs", minimum=1)
    probe_lr: float = option(1e-3, "learning rate of these", above=0)
    batch_size: int = option(32, "images a step, at most; images are dealt evenly, none is dropped", minimum=2)
    accumulate: int = option(1, "parts in which a step's images go through the network (gradients are added), for small memories", minimum=1)
    learning_rate: float = option(1e-3, "highest learning rate, the same for every run", above=0)
    weight_decay: float = option(0.01, "weight decay (decoupled for adamw, an L2 penalty for adam and sgd)", minimum=0)
    search: dict[str, tuple[float, ...]] = option(
        default_factory=dict, help="values of lr and weight_decay that every fine-tuning tries on an inner validation split: {lr = [1e-3, 1e-4]}")
    search_pretraining: bool = option(False, "the same search for every pretraining")
    validation: float = option(0.2, "share of the training images held back to choose by (search, early stopping); patients stay whole", above=0, maximum=0.5)
    early_stopping: int = option(
        0, "epochs without a better inner validation after which a training stops, and its best epoch is taken; 0: never, and the last is taken", minimum=0)
    selection: Literal["auc", "log-loss"] = option("auc", "what is best on the inner validation; equal AUCs: the lower log loss")
    refit: bool = option(False, "train again on all training images with what was chosen, instead of taking the network that was validated")
    optimizer: Literal["adamw", "adam", "sgd"] = option("adamw", "sgd has momentum 0.9")
    schedule: Literal["none", "cosine", "step"] = option(
        "cosine", "cosine: to zero over the epochs; step: a tenth after 1/2, a hundredth after 3/4 of them")
    warmup_epochs: int = option(0, "epochs over which the learning rate rises from zero, before the schedule", minimum=0)
    augmentation: Literal["none", "paper", "randaugment"] = option(
        "paper", "paper: rotation up to 10 degrees, shift up to 0.1 of the side, horizontal flip; randaugment: 2 operations of magnitude 9")
    class_weights: Literal["balanced", "none"] = option("balanced", "balanced: each class counts the same in the loss")
    label_smoothing: float = option(0.0, "share of the label that is spread over all classes", minimum=0, maximum=0.9)
    dropout: float = option(0.5, "dropout before the head", minimum=0, maximum=0.95)
    batch_norm: Literal["auto", "train", "frozen"] = option(
        "auto", "in fine-tuning; auto: as usual, but those folded into weights are unfolded on training images first; train: as usual; frozen: fixed")
    average: Literal["weighted", "macro"] = option("weighted", "first metric of more than two classes: one-vs-rest AUCs averaged by prevalence, or plain")
    baseline: Literal["none", "self", "scratch"] = option("none", "also give the relative gain over pretraining on the target itself, or over scratch")
    sources: tuple[str, ...] = option((), "sources beside the data sets: scratch (random weights), imagenet (the network's default weights)")
    weights: dict[str, str] = option(
        default_factory=dict, help="sources that are weights: name = path of a state dict (.pth, .safetensors), torchvision:ENTRY or timm:NAME")
    self_pairs: bool = option(False, "also pretrain each target on itself (without the test fold, unless overlap = \"mark\")")
    keep_networks: bool = option(False, "keep the fine-tuned networks in the store too", recipe=False)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = option("auto", "of the forward pass in training; auto: bfloat16 on CUDA, else float32")
    deterministic: bool = option(True, "only deterministic algorithms; false is a little faster on a GPU, and repeats differ in the last digits", recipe=False)
    compile: bool = option(False, "torch.compile; pays off in long trainings on a GPU", recipe=False)
    device: str = option("auto", "auto, cpu, cuda, cuda:0, mps", recipe=False)
    threads: int = option(1, "CPU threads of one run; a fixed number, so that results do not depend on the machine; runs go in parallel instead", minimum=1)

    def __post_init__(self) -> None:
        problems = []
        for key, values in self.search.items():
            if key not in SEARCHED:
                problems.append(Problem("SK101", f"finetune.search.{key}", f"cannot be searched{nearest(key, SEARCHED)}", f"search {' and '.join(SEARCHED)}"))
            elif not values or len(set(values)) < len(values) or min(values) < 0 or (key == "lr" and min(values) == 0):
                problems.append(Problem("SK102", f"finetune.search.{key}", f"{list(values)}: wanted positive numbers, each once", f"give {key} = [1e-3, 1e-4]"))
        needed = {"self": self.self_pairs, "scratch": "scratch" in self.sources, "none": True}
        if not needed[self.baseline]:
            fix = "add self_pairs = true" if self.baseline == "self" else 'add "scratch" to sources'
            problems.append(Problem("SK104", "finetune.baseline", f"gains over '{self.baseline}' need its runs, and the grid has none", fix))
        shortest = min(self.pretrain_epochs, self.finetune_epochs)
        if self.warmup_epochs >= shortest and self.warmup_epochs:
            what = "pretrain_epochs" if shortest == self.pretrain_epochs else "finetune_epochs"
            problems.append(Problem("SK102", "finetune.warmup_epochs", f"{self.warmup_epochs} is not less than {what} = {shortest}",
                                    f"give fewer, or more {what}"))
        if self.batch_norm == "frozen" and "scratch" in self.sources:
            problems.append(Problem("SK102", "finetune.batch_norm", "random weights (scratch) have no statistics that could stay frozen",
                                    'take scratch out of sources, or give batch_norm = "auto"'))
        if problems:
            raise UsageError("", "", "", problems=problems)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What a searched training tries; one choice where nothing is searched."""
        rates, decays = self.search.get("lr", (self.learning_rate,)), self.search.get("weight_decay", (self.weight_decay,))
        return tuple(Choice(rate, decay) for rate in rates for decay in decays)

    def pretraining(self) -> Budget:
        """What a pretraining depends on."""
        return self._budget(self.pretrain_epochs, self.choices if self.search_pretraining else (Choice(self.learning_rate, self.weight_decay),), mode="full",
                            batch_norm="train")

    def finetuning(self) -> Budget:
        """What a fine-tuning depends on."""
        return self._budget(self.finetune_epochs, self.choices, mode=self.mode, batch_norm=self.batch_norm)

    def _budget(self, epochs: int, choices: tuple[Choice, ...], *, mode: str, batch_norm: str) -> Budget:
        """Options that do nothing here are at their defaults, so that they change no recipe."""
        validates = self.early_stopping > 0 or len(choices) > 1
        probes = mode == "probe-then-full"
        return Budget(
            network=self.network, image_size=self.image_size, channels=self.channels, epochs=epochs, batch_size=self.batch_size, accumulate=self.accumulate,
            choices=choices, validation=self.validation if validates else 0.0, early_stopping=self.early_stopping,
            selection=self.selection if validates else "", refit=self.refit and validates, optimizer=self.optimizer, schedule=self.schedule,
            warmup_epochs=self.warmup_epochs, augmentation=self.augmentation, class_weights=self.class_weights, label_smoothing=self.label_smoothing,
            dropout=self.dropout, mode=mode, last_stages=self.last_stages if mode == "last-stages" else 0, probe_epochs=self.probe_epochs if probes else 0,
            probe_lr=self.probe_lr if probes else 0.0, batch_norm=batch_norm, precision=self.precision, threads=self.threads,
        )


PRESETS: dict[str, Mapping[str, Any]] = {
    "fair": {},
    "cats-scans": {
        "network": "resnet50", "image_size": 112, "folds": 5, "splits": "ignore", "groups": "ignore", "overlap": "mark", "self_pairs": True,
        "baseline": "self", "pretrain_epochs": 50, "pretrain_share": 0.8, "finetune_epochs": 50, "batch_size": 128, "learning_rate": 1e-5,
        "weight_decay": 0.0, "optimizer": "adam", "schedule": "none", "augmentation": "paper", "class_weights": "balanced", "dropout": 0.5,
        "average": "weighted", "sources": ("imagenet",),
    },
}
"""Values of ``protocol = ...``. ``cats-scans`` is arXiv 2107.05940: image-level folds, the target pretrained on 80 % of itself as the baseline, its test
images among them (marked leaky). The paper's learning rates differ between pairs (1e-4 to 1e-6 in fine-tuning, 1e-3 to 1e-6 in pretraining), its
pretraining epochs (30 to 100) and image sizes (96 to 600) between sources; here one value holds for all, and ``search`` finds it where that matters."""


def presets() -> tuple[str, ...]:
    """Names of the presets."""
    return tuple(PRESETS)


def is_path(weights: str) -> bool:
    """Whether a value of ``weights`` is a file, and not imagenet, torchvision:ENTRY or timm:NAME."""
    return weights != "imagenet" and not weights.startswith(("torchvision:", "timm:"))


def protocol_of(values: Mapping[str, Any], where: str = "finetune") -> Protocol:
    """A protocol from a ``[finetune]`` table: the values of its preset (``protocol = "fair"`` or ``"cats-scans"``) below its own.

    Raises:
        UsageError: all that is wrong in the table at once.
    """
    values = dict(values)
    name = values.pop("protocol", "fair")
    problems = []
    if not isinstance(name, str) or name not in PRESETS:
        near = nearest(name, PRESETS) if isinstance(name, str) else ""
        problems.append(Problem("SK101", f"{where}.protocol", f"unknown protocol {name!r}{near}", f"give one of {', '.join(PRESETS)}"))
    search = values.get("search")
    for key, listed in search.items() if isinstance(search, Mapping) else ():
        if not isinstance(listed, list | tuple) or not all(isinstance(one, int | float) and math.isfinite(one) for one in listed):
            problems.append(Problem("SK102", f"{where}.search.{key}", f"{listed!r} is not a list of numbers", f"write {key} = [1e-3, 1e-4]"))
            values.pop("search", None)
    merged = {**PRESETS.get(name if isinstance(name, str) else "", {}), **values}
    try:
        protocol = Protocol(**build_options(Protocol, merged, where))
    except SimkitError as error:
        problems += [replace(one, where=one.where.replace("finetune", where, 1) if one.where.startswith("finetune") else one.where) for one in error.problems]
    if problems:
        raise UsageError("", "", "", problems=problems)
    return protocol
