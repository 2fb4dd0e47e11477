"""Units of work of a transfer grid, the store they are found in, and what a grid returns.

A unit's ``key`` is the digest of what moves its numbers: content of the data, weights, budget, folds, seeds. Names and paths are only
carried along for messages. A renamed or moved data set therefore finds its finished work again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from simkit.recipe import digest
from simkit.registry import option
from simkit.tables import TransferTable
from simkit.transfer.protocol import Budget

__all__ = ["SCRATCH", "Failure", "Finetune", "Pretrain", "Results", "Say", "TransferResult"]

SCRATCH = "scratch"
"""Start of a run that begins with random weights."""

Say = Callable[[str], None]
"""Receives short lines of text about what happens."""


class Results(Protocol):
    """Where finished work is kept. Must be picklable when runs go in parallel processes; writes must be atomic."""

    def load_json(self, kind: str, key: str) -> dict[str, Any] | None:
        """The record of a kind under a key, or None when there is none."""
        ...

    def save_json(self, kind: str, key: str, value: dict[str, Any]) -> None:
        """Stores a record atomically."""
        ...

    def path(self, kind: str, key: str, suffix: str) -> Path:
        """Where a binary file belongs; its folder need not exist."""
        ...


@dataclass(frozen=True)
class Pretrain:
    """Training on one source, or on what is left of it without a target's test images; makes the network's weights, head included.

    Attributes:
        source: name, for messages.
        fingerprint: content of the source.
        removed: digest of the images that are taken out because a target tests on them, "" for none.
        share: of the rest that is trained on.
        budget: how it is trained.
        repeat: one of the protocol's seeds: each repeat pretrains anew, so that intervals over repeats hold what pretraining adds to chance.
        seed: of the study.
        without: whose test images are taken out, for messages.
    """

    source: str = option(recipe=False)
    fingerprint: str = option()
    removed: str = option()
    share: float = option()
    budget: Budget = option()
    repeat: int = option()
    seed: int = option()
    without: str = option("", recipe=False)

    kind = "pretrain"
    version = 2

    @cached_property
    def key(self) -> str:
        """Digest of the recipe."""
        return digest(self)

    @property
    def label(self) -> str:
        """The run in words."""
        words = f"pretraining on {self.source}" + (f" without the test images of {self.without}" if self.without else "")
        return words + (f", seed {self.repeat}" if self.repeat else "")

    def random(self, *names: Any) -> tuple[Any, ...]:
        """The names that a random choice of this run is seeded by.

        Images that are taken out change none of them, so that a source with and without them differs in these images alone.
        """
        return ("pretrain", self.seed, self.repeat, self.fingerprint, *names)


@dataclass(frozen=True)
class Finetune:
    """Training on a target's training images from the start that the source gives, scored on the held-out fold.

    Attributes:
        source: name, for messages.
        target: name, for messages.
        start: what the run starts from: "scratch", "weights:<digest of the file>" or "pretrain:<key>".
        fingerprint: content of the target.
        budget: how it is trained.
        split: "dealt": cross-validation; "image-level": the same without regard to patients; "given": the data set's own test part.
        folds: number of folds (1 for a given split).
        fold: which one is held out, 0 to folds - 1.
        repeat: one of the protocol's seeds.
        seed: of the study.
    """

    source: str = option(recipe=False)
    target: str = option(recipe=False)
    start: str = option()
    fingerprint: str = option()
    budget: Budget = option()
    split: str = option()
    folds: int = option()
    fold: int = option()
    repeat: int = option()
    seed: int = option()

    kind = "finetune"
    version = 3

    @cached_property
    def key(self) -> str:
        """Digest of the recipe."""
        return digest(self)

    @property
    def fold_name(self) -> str:
        """How tables call the fold: "1" to "k", or "given"."""
        return "given" if self.split == "given" else str(self.fold + 1)

    @property
    def label(self) -> str:
        """The run in words."""
        fold = "given test part" if self.split == "given" else f"fold {self.fold + 1} of {self.folds}"
        return f"{self.source} -> {self.target}, {fold}" + (f", seed {self.repeat}" if self.repeat else "")

    def random(self, *names: Any) -> tuple[Any, ...]:
        """The names that a random choice of this run is seeded by.

        What the run starts from is not among them: all sources of a fold get the same new head, the same order of images and the same augmentation,
        so that they differ in their weights alone.
        """
        return ("finetune", self.seed, self.repeat, self.fingerprint, self.split, self.folds, self.fold, *names)


@dataclass(frozen=True)
class Failure:
    """A run that has no result, with the reason in words."""

    source: str
    target: str
    fold: str
    seed: int
    code: str
    reason: str

    @property
    def text(self) -> str:
        """The failure in one line."""
        return f"{self.source} -> {self.target}, fold {self.fold}, seed {self.seed}: {self.reason}"


@dataclass(frozen=True)
class TransferResult:
    """What a grid returns.

    Attributes:
        table: one row a run and metric, in the order of the plan; a run that failed has no value and its reason in ``flags``.
        failures: the runs without a value of their main metric.
        leaky: (source, target) -> test images of the target that the source's pretraining has seen, summed over the folds of one seed.
        made: runs (pretraining and fine-tuning) that were computed now, by this process or another one.
        found: fine-tuning runs that were already there.
        seconds: wall time.
        notes: what a reader should know beside the numbers.
        predictions: writes the predictions of all runs into one parquet file.
    """

    table: TransferTable
    failures: tuple[Failure, ...] = ()
    leaky: Mapping[tuple[str, str], int] = field(default_factory=dict)
    made: int = 0
    found: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    predictions: Callable[[Path], None] | None = None
