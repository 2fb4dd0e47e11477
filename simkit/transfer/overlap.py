"""Images that source and target share: which images of the source may not be pretrained on, so that no run has seen what it is tested on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from simkit.errors import NotEnoughData
from simkit.transfer.folds import merged_groups

__all__ = ["Removal", "check_remaining", "shared_rows"]


@dataclass(frozen=True, eq=False)
class Removal:
    """Images of a source that a target tests on, or that belong to the same patients.

    Attributes:
        rows: positions in the source, ascending.
        identical: how many of them are a test image themselves; the others are of the same patients.
        patients: groups of the source that lose all their images; 0 where the source has no groups.
    """

    rows: np.ndarray
    identical: int = 0
    patients: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def related(self) -> int:
        """How many of the rows are no test image, but of a patient who has one."""
        return len(self.rows) - self.identical

    @property
    def text(self) -> str:
        """In words, such as "12 images are the same as test images, 40 more are of the same 3 patients"."""
        said = f"{self.identical} image{' is' if self.identical == 1 else 's are'} the same as test images"
        if not self.related:
            return said
        who = "patient" if self.patients == 1 else f"{self.patients} patients"
        return f"{said}, {self.related} more {'is' if self.related == 1 else 'are'} of the same {who}"


def shared_rows(source_digests: Sequence[str], source_groups: Sequence[str] | None, test_digests: Collection[str]) -> Removal:
    """What a source must be pretrained without, so that a target's test images stay unseen.

    Where the source has groups, a patient who holds a test image is taken out whole, and so is one who shares an identical image with such
    a patient (see :func:`~simkit.transfer.folds.merged_groups`: the two may be one person under two names).

    Args:
        source_digests: of each image of the source, in canonical order; equal for identical images (``Listing.identities``).
        source_groups: patient of each, or None.
        test_digests: of the images that are tested on.
    """
    tested = frozenset(test_digests)
    same = np.fromiter((digest in tested for digest in source_digests), dtype=bool, count=len(source_digests))
    rows = np.flatnonzero(same)
    if source_groups is None or not len(rows):
        return Removal(rows, identical=len(rows))
    members = merged_groups(source_digests, source_groups)
    rows = np.flatnonzero(np.isin(members, members[same]))
    return Removal(rows, identical=int(same.sum()), patients=len({source_groups[int(i)] for i in rows}))


def check_remaining(labels: np.ndarray, classes: Sequence[str], removal: Removal, *, where: str) -> tuple[str, ...]:
    """Whether a source can still be pretrained on without some images: a note for each class that loses all of its images.

    Args:
        labels: class index per image of the source (n,).
        classes: class names.
        removal: what is taken out.
        where: source, target and fold, for messages.

    Raises:
        NotEnoughData: SK501 when fewer than two classes are left.
    """
    before, lost = np.bincount(labels, minlength=len(classes)), np.bincount(labels[removal.rows], minlength=len(classes))
    gone = [index for index in range(len(classes)) if before[index] and before[index] == lost[index]]
    left = [index for index in range(len(classes)) if before[index] > lost[index]]
    if len(left) < 2:
        counts = ", ".join(f"{name} {before[index] - lost[index]} of {before[index]}" for index, name in enumerate(classes))
        message = (f"without the images that the target tests on, images of {len(left)} class{'' if len(left) == 1 else 'es'} are left to pretrain on and "
                   f"training needs two ({removal.text}; left: {counts})")
        fix = 'mark such runs as leaky with overlap = "mark", or leave this pair out: give the study another source or target'
        raise NotEnoughData("SK501", where, message, fix)
    return tuple(f"{where}: all {before[index]} images of class '{classes[index]}' are taken out of pretraining, as the target tests on them or on their "
                 "patients: the class takes no part" if before[index] > 1 else
                 f"{where}: the one image of class '{classes[index]}' is taken out of pretraining, as the target tests on it or on its patient: the class "
                 "takes no part" for index in gone)
