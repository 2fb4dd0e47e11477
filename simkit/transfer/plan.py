"""The plan of a transfer grid: every run, what it starts from, what is there already, and what the rest will cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from simkit.transfer.base import Finetune, Pretrain, Results
from simkit.transfer.folds import Folds
from simkit.transfer.images import Listing
from simkit.transfer.protocol import Protocol
from simkit.transfer.units import Start

__all__ = ["Source", "TransferPlan"]


@dataclass(frozen=True, eq=False)
class Source:
    """What one fine-tuning starts from.

    Attributes:
        start: weights file, pretraining, or scratch.
        pretraining: the unit that makes the weights, or None.
        rows: images of the source that are pretrained on.
        removed: images of the source that are left out because the target tests on them (or on images of the same patient).
        leaked: test images of the run that the pretraining sees; None where that cannot be known (weights from elsewhere).
        remarks: what the table says beside the numbers.
    """

    start: Start
    pretraining: Pretrain | None = None
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    removed: int = 0
    leaked: int | None = 0
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class TransferPlan:
    """A checked grid, ready to run.

    Attributes:
        protocol: how transfer is measured.
        runs: every fine-tuning run, in the order of the table.
        origins: key of a run -> what it starts from.
        done: keys of the runs whose record is there already.
        failed: how many of these have no result.
        pretrainings: those still to do, for runs that are still to do.
        listings: the data sets that take part, in canonical order.
        folds: (target, protocol seed) -> its checked split.
        results: the store.
        seed: of the study.
        device: what computes, in words; "" when nothing is left to do.
        devices: names of the devices that runs can use, one run on each.
        inners: key of a unit that validates -> positions of the images to fit and to validate on; the same for every source.
        images: key of a unit -> training images times epochs (times choices), at most.
        costs: key of a unit -> its estimated seconds, from a few batches.
        bytes: disk space that the rest needs, roughly.
        notes: what a reader should know beside the numbers.
        wholes: source -> its pretraining on all of its images (by the first seed), and their rows: whose network measures of transferability look
            through. Only where they were asked for.
        starts: source that is no data set (imagenet, weights) -> where its weights lie.
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
    costs: Mapping[str, float] = field(default_factory=dict)
    bytes: int = 0
    notes: tuple[str, ...] = ()
    failed: int = 0
    wholes: Mapping[str, tuple[Pretrain, np.ndarray]] = field(default_factory=dict)
    starts: Mapping[str, Start] = field(default_factory=dict)

    @property
    def todo(self) -> tuple[Finetune, ...]:
        """The runs that have no record yet."""
        return tuple(run for run in self.runs if run.key not in self.done)

    @property
    def seconds(self) -> float:
        """Estimated time of the rest on one job."""
        return sum(self.costs.values())

    def lines(self) -> list[str]:
        """The plan in words, for a dry run."""
        failed = f" ({self.failed} of them failed: the same recipe is not tried again)" if self.failed else ""
        out = [f"transfer: {len(self.runs)} runs, {len(self.runs) - len(self.todo)} already there{failed}; "
               f"{len(self.pretrainings)} pretrainings and {len(self.todo)} fine-tunings to do"]
        if self.todo:
            search = f", {len(self.protocol.choices)} choices each" if len(self.protocol.choices) > 1 else ""
            most = "at most " if self.protocol.early_stopping else ""
            out.append(f"  {self.protocol.network} at {self.protocol.image_size} px on {self.device}{search}: {most}{sum(self.images.values()):,} training "
                       f"images (times epochs), about {self.seconds / 60:.1f} min on one job, {self.bytes / 1e6:.0f} MB of disk")
            for title, units in (("pretrain", self.pretrainings), ("fine-tune", self.todo)):
                grouped: dict[str, list[str]] = {}
                for unit in units:
                    grouped.setdefault(unit.source if isinstance(unit, Pretrain) else unit.target, []).append(unit.key)
                for name, keys in grouped.items():
                    images, minutes = sum(self.images[key] for key in keys), sum(self.costs[key] for key in keys) / 60
                    out.append(f"  {title} {'on ' if title == 'pretrain' else ''}{name}: {len(keys)} runs, {images:,} images, {minutes:.1f} min")
        return out + [f"  note: {note}" for note in self.notes]

    def as_dict(self) -> dict[str, Any]:
        """The plan in JSON form."""
        return {
            "runs": len(self.runs), "found": len(self.done), "failed": self.failed, "pretrainings": len(self.pretrainings), "finetunings": len(self.todo),
            "choices": len(self.protocol.choices), "images": sum(self.images.values()), "minutes": round(self.seconds / 60, 2), "bytes": self.bytes,
            "device": self.device, "notes": list(self.notes),
        }

    def inner(self, unit: Finetune | Pretrain) -> tuple[np.ndarray, np.ndarray] | None:
        """Positions of the images that a unit fits and validates on, or None where it does not validate."""
        return self.inners.get(unit.key)

    def rows(self, unit: Pretrain) -> np.ndarray:
        """Positions of the images that a source is pretrained on."""
        found = {whole.key: rows for whole, rows in self.wholes.values()}
        found |= {origin.pretraining.key: origin.rows for origin in self.origins.values() if origin.pretraining is not None}
        return found[unit.key]

    @property
    def only_pretrainings(self) -> TransferPlan:
        """The plan without its fine-tunings: of the pretrainings, those of :attr:`wholes`."""
        keys = {unit.key for unit, _ in self.wholes.values()}
        return replace(self, runs=(), origins={}, notes=(), pretrainings=tuple(unit for unit in self.pretrainings if unit.key in keys))
