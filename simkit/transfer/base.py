"""Units of work of a transfer grid, the store they are found in, and what a grid returns.

A unit's ``key`` is the digest of what moves its numbers: content of the data, weights, budget, folds, seeds. Names and paths are only
carried along for messages. A renamed or moved data set therefore finds its finished work again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
    """Training on the whole of one source; makes the network's weights without the head.

    Attributes:
        source: name, for messages.
        fingerprint: content of the source.
        budget: how it is trained.
        seed: of the study.
    """

    source: str = option(recipe=False)
    fingerprint: str = option()
    budget: Budget = option()
    seed: int = option()

    kind = "pretrain"
    version = 1

    @property
    def key(self) -> str:
        """Digest of the recipe."""
        return digest(self)

    def random(self, *names: Any) -> tuple[Any, ...]:
        """The names that a random choice of this run is seeded by."""
        return ("pretrain", self.seed, self.fingerprint, *names)


@dataclass(frozen=True)
class Finetune:
    """Training on all folds of the target but one, from the start that the source gives; makes one AUC.

    Attributes:
        source: name, for messages.
        target: name, for messages.
        start: what the run starts from: "scratch", "weights:<digest of the file>" or "pretrain:<key>".
        fingerprint: content of the target.
        budget: how it is trained.
        folds: number of folds.
        fold: which one is held out, 0 to folds - 1.
        repeat: one of the protocol's seeds.
        seed: of the study.
    """

    source: str = option(recipe=False)
    target: str = option(recipe=False)
    start: str = option()
    fingerprint: str = option()
    budget: Budget = option()
    folds: int = option()
    fold: int = option()
    repeat: int = option()
    seed: int = option()

    kind = "finetune"
    version = 1

    @property
    def key(self) -> str:
        """Digest of the recipe."""
        return digest(self)

    @property
    def replicate(self) -> str:
        """How the transfer table calls this repeat of the pair; folds count from 1."""
        return f"seed{self.repeat}-fold{self.fold + 1}"

    @property
    def label(self) -> str:
        """The run in words."""
        return f"{self.source} -> {self.target}, fold {self.fold + 1} of {self.folds}" + (f", seed {self.repeat}" if self.repeat else "")

    def random(self, *names: Any) -> tuple[Any, ...]:
        """The names that a random choice of this run is seeded by."""
        return ("finetune", self.seed, self.repeat, self.start, self.fingerprint, self.folds, self.fold, *names)


@dataclass(frozen=True)
class Failure:
    """A run that has no result, with the reason in words."""

    source: str
    target: str
    replicate: str
    code: str
    reason: str


@dataclass(frozen=True)
class TransferResult:
    """What a grid returns.

    Attributes:
        table: one row a run, in the order of the plan; a run that failed has no performance and its reason in ``flags``.
        failures: the runs without performance.
        leaky: (source, target) -> test images of the target that the source also holds, summed over the folds of one seed.
        made: runs (pretraining and fine-tuning) that were computed now.
        found: fine-tuning runs that were already there.
        seconds: wall time.
    """

    table: TransferTable
    failures: tuple[Failure, ...] = ()
    leaky: Mapping[tuple[str, str], int] = field(default_factory=dict)
    made: int = 0
    found: int = 0
    seconds: float = 0.0
