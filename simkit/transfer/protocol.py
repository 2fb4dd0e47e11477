"""The protocol of a transfer experiment: the ``[finetune]`` table of a study file. Every pair gets the same one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simkit.registry import option

__all__ = ["Budget", "Protocol"]


@dataclass(frozen=True)
class Budget:
    """What one training run may spend and how: the part of the protocol that moves its numbers. Part of every recipe.

    Attributes are those of :class:`Protocol`; ``epochs`` is the number of passes of this run.
    """

    network: str
    image_size: int
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    optimizer: str
    schedule: str
    augmentation: str
    class_weights: str
    dropout: float
    threads: int


@dataclass(frozen=True)
class Protocol:
    """How transfer is measured: pretrain once per source, fine-tune on the target's training folds, score the held-out fold.

    It follows the seed study (arXiv 2107.05940, section "experiments") with its one unfairness removed: there, learning rate and epochs
    differ between pairs; here all runs share one budget. The defaults are a small set-up for a laptop; the paper's is ResNet-50 at 96 to
    600 px, Adam, dropout 0.5, balanced class weights, the augmentation called ``paper``, five stratified folds.
    """

    network: str = option("resnet18", "any torchvision classification network")
    image_size: int = option(64, "side of the square to which images are resized [pixels]", minimum=8)
    folds: int = option(5, "number of cross-validation folds of the target", minimum=2)
    seeds: tuple[int, ...] = option((0,), "repeats of the cross-validation, each with its own folds", minimum=0)
    pretrain_epochs: int = option(20, "passes over the source", minimum=1)
    finetune_epochs: int = option(20, "passes over the target's training folds", minimum=1)
    batch_size: int = option(32, "images a step, at most; images are dealt evenly, none is dropped", minimum=2)
    learning_rate: float = option(1e-3, "first learning rate, the same for every run", above=0)
    weight_decay: float = option(0.01, "weight decay (decoupled for adamw, an L2 penalty for adam and sgd)", minimum=0)
    optimizer: Literal["adamw", "adam", "sgd"] = option("adamw", "sgd has momentum 0.9")
    schedule: Literal["none", "cosine", "step"] = option("cosine", "cosine: to zero over the epochs; step: a tenth after 1/2, a hundredth after 3/4 of them")
    augmentation: Literal["none", "paper"] = option("paper", "paper: rotation up to 10 degrees, shift up to 0.1 of the side, horizontal flip")
    class_weights: Literal["balanced", "none"] = option("balanced", "balanced: each class counts the same in the loss")
    dropout: float = option(0.5, "dropout before the head", minimum=0, maximum=0.95)
    average: Literal["weighted", "macro"] = option("weighted", "mean of the one-vs-rest AUCs of more than two classes: by prevalence, or plain")
    sources: tuple[str, ...] = option((), "sources beside the data sets: scratch (random weights), imagenet (torchvision's weights)")
    weights: dict[str, str] = option(default_factory=dict, help="sources that are checkpoints: name = path of a state dict (.pth, .safetensors)")
    self_pairs: bool = option(False, "also pretrain each target on itself; its test images are then in the source")
    device: str = option("auto", "auto, cpu, cuda, cuda:0, mps", recipe=False)
    threads: int = option(1, "CPU threads of one run; a fixed number, so that results do not depend on the machine; runs go in parallel instead", minimum=1)

    def budget(self, epochs: int) -> Budget:
        """The part of the protocol that a run of so many epochs depends on."""
        return Budget(
            network=self.network, image_size=self.image_size, epochs=epochs, batch_size=self.batch_size, learning_rate=self.learning_rate,
            weight_decay=self.weight_decay, optimizer=self.optimizer, schedule=self.schedule, augmentation=self.augmentation,
            class_weights=self.class_weights, dropout=self.dropout, threads=self.threads,
        )
