"""Cross-validation folds: stratified by class, whole patients, identical images together, and every fold checked.

scikit-learn's splitters may return test folds that lack a class, or hold nothing, without an error. Here every split is checked, other
shuffles are tried, and if none is sound the answer is a refusal that states the counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simkit.errors import NotEnoughData
from simkit.recipe import seed_for

__all__ = ["SHUFFLES", "Folds", "make_folds", "merged_groups"]

SHUFFLES = 50
"""How many seeded shuffles are tried before a number of folds is refused."""


@dataclass(frozen=True, eq=False)
class Folds:
    """A checked split.

    Attributes:
        test: positions of the test images of each fold, ascending; together every image once.
        shuffles: how many shuffles it took (1: the first was sound).
        grouped: whether whole groups were kept together.
    """

    test: tuple[np.ndarray, ...]
    shuffles: int
    grouped: bool

    def train(self, fold: int) -> np.ndarray:
        """Positions of the training images of a fold, ascending."""
        return np.sort(np.concatenate([part for k, part in enumerate(self.test) if k != fold]))


def merged_groups(digests: Sequence[str], groups: Sequence[str] | None) -> np.ndarray:
    """Group number per image such that images of one group, and byte-identical images, share a number (union-find).

    Two patients who share an identical image become one group: neither can be in training while the other is in the test.
    """
    parent = list(range(len(digests)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for values in (digests, groups or ()):
        first: dict[str, int] = {}
        for i, value in enumerate(values):
            a, b = root(first.setdefault(value, i)), root(i)
            parent[max(a, b)] = min(a, b)
    return np.unique([root(i) for i in range(len(digests))], return_inverse=True)[1]


def make_folds(
    labels: np.ndarray, *, digests: Sequence[str], groups: Sequence[str] | None, classes: Sequence[str], folds: int, names: Sequence[Any], where: str,
) -> Folds:
    """Stratified folds in which every class is in the training and in the test part of every fold.

    Args:
        labels: class index per image (n,), every class at least once; images in an order that does not depend on files.
        digests: content of each image.
        groups: patient per image, or None.
        classes: class names, for messages.
        folds: how many.
        names: what the shuffle is seeded by.
        where: data set, for messages.

    Raises:
        NotEnoughData: SK501 with the counts and the largest number of folds that works.
    """
    members = merged_groups(digests, groups)
    grouped = len(np.unique(members)) < len(labels)
    found = _split(labels, members, grouped, folds, names)
    if found is not None:
        return found
    works = next((k for k in range(min(folds - 1, _fewest(labels, members)), 1, -1) if _split(labels, members, grouped, k, names)), None)
    counts = []
    for index, name in enumerate(classes):
        mine = labels == index
        units = len(np.unique(members[mine]))
        counts.append(f"{name} {int(mine.sum())}" + (f" in {units} group{'' if units == 1 else 's'}" if grouped else ""))
    short = _fewest(labels, members) < folds
    unit = "groups (patients, or sets of identical images)" if grouped else "images"
    reason = f"a class has fewer {unit} than folds" if short else f"none of {SHUFFLES} shuffles puts every class into both parts of every fold"
    fix = f"the largest number of folds that works is {works}" if works else "no number of folds works: add images, or merge or leave out the smallest class"
    raise NotEnoughData("SK501", where, f"{folds} folds are not possible: {reason} (images per class: {', '.join(counts)})", fix)


def _fewest(labels: np.ndarray, members: np.ndarray) -> int:
    return min(len(np.unique(members[labels == label])) for label in np.unique(labels))


def _split(labels: np.ndarray, members: np.ndarray, grouped: bool, folds: int, names: Sequence[Any]) -> Folds | None:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if _fewest(labels, members) < folds:
        return None
    kind = StratifiedGroupKFold if grouped else StratifiedKFold
    for attempt in range(SHUFFLES):
        splitter = kind(n_splits=folds, shuffle=True, random_state=seed_for("folds", *names, folds, attempt) % 2**32)
        split = Folds(tuple(np.sort(test) for _, test in splitter.split(np.zeros(len(labels)), labels, members if grouped else None)), attempt + 1, grouped)
        if _sound(split, labels, members):
            return split
    return None


def _sound(split: Folds, labels: np.ndarray, members: np.ndarray) -> bool:
    """Every class on both sides of every fold, and no group on both."""
    classes = np.unique(labels)
    for fold, test in enumerate(split.test):
        train = split.train(fold)
        if not (np.array_equal(np.unique(labels[test]), classes) and np.array_equal(np.unique(labels[train]), classes)):
            return False
        if np.intersect1d(members[test], members[train]).size:
            return False
    return True
