"""What a reader should know beside the numbers of a grid: facts about the data, the folds and shared images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from simkit.transfer.images import Listing
from simkit.transfer.plan import TransferPlan

if TYPE_CHECKING:
    import torch

__all__ = ["plan_notes"]


def plan_notes(plan: TransferPlan, said: Sequence[str], device: torch.device | None) -> tuple[str, ...]:
    """The notes of a plan.

    Args:
        plan: with its folds, as far as they were made.
        said: notes that the planning itself has.
        device: what computes; None where nothing is left to do.
    """
    notes, protocol = list(said), plan.protocol
    for name, one in plan.listings.items():
        notes += _facts(name, one)
    for (target, repeat), split in plan.folds.items():
        notes += [f"{target}: {line}" for line in split.notes if repeat == protocol.seeds[0]]
        if split.shuffles > 1:
            notes.append(f"{target}: it took {split.shuffles} shuffles until every fold held every class")
    image_level = dict.fromkeys(run.target for run in plan.runs if run.split == "image-level")
    notes += [f'{target}: patients are split over folds (groups = "ignore"): its numbers are too good, and are flagged' for target in image_level]
    notes += _overlaps(plan)
    if device is not None and device.type != "cpu":
        notes.append(f"on {device.type} a few operations have no deterministic form: repeated runs can differ in the last digits")
    return tuple(dict.fromkeys(notes))


def _facts(name: str, one: Listing) -> list[str]:
    notes = []
    if one.absent:
        notes.append(f"{name}: no image of class {', '.join(one.absent)}: the class takes no part")
    if len(set(one.identities)) < len(one):
        notes.append(f"{name}: {len(one) - len(set(one.identities))} images are the same as another; copies stay in one fold")
    seen: dict[str, set[int]] = {}
    for image, label in zip(one.identities, one.labels, strict=True):
        seen.setdefault(image, set()).add(int(label))
    clash = sum(len(labels) > 1 for labels in seen.values())
    if clash:
        notes.append(f"{name}: {clash} images exist with two labels")
    return notes


def _overlaps(plan: TransferPlan) -> list[str]:
    """One line for each pair that shares images."""
    removed: dict[tuple[str, str], int] = {}
    leaked: dict[tuple[str, str], int] = {}
    for run in plan.runs:
        origin = plan.origins[run.key]
        if run.repeat == plan.protocol.seeds[0]:
            pair = (run.source, run.target)
            if origin.pretraining is not None and origin.pretraining.removed:
                removed[pair] = removed.get(pair, 0) + origin.removed
            if origin.leaked:
                leaked[pair] = leaked.get(pair, 0) + origin.leaked
    chosen = plan.protocol.finetuning().validates
    notes = [f"{source} -> {target}: the two share images: {count} images of {source} are taken out of its pretraining, over all folds, which is done anew "
             "for each fold" + ("; what is held back to choose by is not taken out: its choices see known images" if chosen else "")
             for (source, target), count in removed.items()]
    return notes + [f"{source} -> {target}: LEAKY: its pretraining sees {count} test images (overlap = \"mark\")" for (source, target), count in leaked.items()]
