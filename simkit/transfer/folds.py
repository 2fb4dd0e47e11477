"""Cross-validation folds: stratified by class, whole patients, identical images together, and every fold checked.

scikit-learn's splitters may return test folds that lack a class, or hold nothing, without an error. Here every split is checked, other
shuffles are tried, and if none is sound the answer is a refusal that states the counts. The same holds for a split that the data set
brings (train, val, test), for the part of the training images that is held back to choose by, and for a share of a source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simkit.errors import DataError, NotEnoughData, nearest
from simkit.recipe import rng_for, seed_for

__all__ = ["SHUFFLES", "Folds", "given_folds", "inner_split", "make_folds", "merged_groups", "stratified_share"]

SHUFFLES = 50
"""How many seeded shuffles are tried before a number of folds is refused."""

PARTS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
"""What the words of a given split mean, letter case aside."""


@dataclass(frozen=True, eq=False)
class Folds:
    """A checked split.

    Attributes:
        test: positions of the test images of each fold, ascending; of dealt folds together every image once.
        shuffles: how many shuffles it took (1: the first was sound; 0: given, not dealt).
        grouped: whether whole groups were kept together.
        trains: positions of the training images of each fold, where they are given; else they are all that the fold does not test.
        validations: positions of the images of each fold that are given to choose by, or None.
        given: whether the data set brought the split.
        notes: what a reader should know of the split.
    """

    test: tuple[np.ndarray, ...]
    shuffles: int
    grouped: bool
    trains: tuple[np.ndarray, ...] | None = None
    validations: tuple[np.ndarray | None, ...] | None = None
    given: bool = False
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What each fold is called: "1", "2" ..., or "given"."""
        return ("given",) if self.given else tuple(str(k + 1) for k in range(len(self.test)))

    def train(self, fold: int) -> np.ndarray:
        """Positions of the training images of a fold, ascending."""
        if self.trains is not None:
            return self.trains[fold]
        return np.sort(np.concatenate([part for k, part in enumerate(self.test) if k != fold]))

    def validation(self, fold: int) -> np.ndarray | None:
        """Positions of the images of a fold that are given to choose by, ascending; None where none are."""
        return None if self.validations is None else self.validations[fold]


def merged_groups(digests: Sequence[str], groups: Sequence[str] | None) -> np.ndarray:
    """Group number per image such that images of one group, and identical images, share a number (union-find).

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
    keep_groups: bool = True,
) -> Folds:
    """Stratified folds in which every class is in the training and in the test part of every fold.

    Args:
        labels: class index per image (n,), every class at least once; images in an order that does not depend on files.
        digests: of each image: equal for identical ones (see :attr:`~simkit.transfer.images.Listing.identities`).
        groups: patient per image, or None.
        classes: class names, for messages.
        folds: how many.
        names: what the shuffle is seeded by.
        where: data set, for messages.
        keep_groups: False deals image by image, whatever the patient: only identical images stay together.

    Raises:
        NotEnoughData: SK501 with the counts and the largest number of folds that works.
    """
    members = merged_groups(digests, groups if keep_groups else None)
    grouped = len(np.unique(members)) < len(labels)
    _refuse_one_class(labels, classes, where)
    found = _split(labels, members, grouped, folds, names)
    if found is not None:
        return found
    works = next((k for k in range(min(folds - 1, _fewest(labels, members)), 1, -1) if _split(labels, members, grouped, k, names)), None)
    short = _fewest(labels, members) < folds
    unit = "groups (patients, or sets of identical images)" if grouped else "images"
    reason = f"a class has fewer {unit} than folds" if short else f"none of {SHUFFLES} shuffles puts every class into both parts of every fold"
    fix = f"the largest number of folds that works is {works}" if works else "no number of folds works: add images, or merge or leave out the smallest class"
    message = f"{folds} folds are not possible: {reason} (images per class: {_counts(labels, members, classes, grouped=grouped)})"
    raise NotEnoughData("SK501", where, message, fix)


def given_folds(
    labels: np.ndarray, splits: Sequence[str], *, digests: Sequence[str], groups: Sequence[str] | None, classes: Sequence[str], where: str,
    use_validation: bool,
) -> Folds | None:
    """The split that a data set brings: trained on its part "train", scored on its part "test" alone. None where no image is in a part "test".

    The test part stays as it is given. Images of the other parts that are the same as a test image, or whose patient has one (as in
    :func:`merged_groups`: directly, or by an image that two patients share), are left out; ``notes`` of the result counts them.

    Args:
        labels: class index per image (n,).
        splits: "train", "val" (or "validation") or "test" per image, letter case aside.
        digests: of each image: equal for identical ones (see :attr:`~simkit.transfer.images.Listing.identities`).
        groups: patient per image, or None.
        classes: class names, for messages.
        where: data set, for messages.
        use_validation: True keeps the part "val" to choose by, False trains on it too.

    Raises:
        DataError: SK203 where there is a test part and other words beside train, val and test.
        NotEnoughData: SK501 with the counts of each part where a class is missing in one.
    """
    words = [PARTS.get(split.strip().casefold(), "") for split in splits]
    if "test" not in words:
        return None
    _refuse_other_words([split for split, word in zip(splits, words, strict=True) if not word], where)
    _refuse_one_class(labels, classes, where)
    parts = np.array(words)
    keeps = use_validation and "val" in words
    test, members = np.flatnonzero(parts == "test"), merged_groups(digests, groups)
    clean = ~np.isin(members, members[test])
    notes = _left_out(np.flatnonzero(~clean & (parts != "test")), test, digests, groups, "training and validation" if keeps else "training")
    train = np.flatnonzero(clean & ((parts == "train") | ((parts == "val") & (not keeps))))
    validation = np.flatnonzero(clean & (parts == "val")) if keeps else None
    used = {"train": train, **({} if validation is None else {"val": validation}), "test": test}
    _refuse_missing_class(labels, used, classes, notes, where)
    if validation is not None:
        shared = int(np.isin(members[validation], members[train]).sum())
        if shared:
            of = "the same as training images" if groups is None else "byte-identical to training images, or of their patients"
            notes += (f"{_images(shared, 'validation')} {_be(shared)} {of}: what is chosen on the given validation part may be too optimistic",)
    elif "val" in words:
        count = int((clean & (parts == "val")).sum())
        notes += (f"nothing is chosen on a validation part: its {_images(count)} {_be(count)} trained on too",)
    grouped = len(np.unique(members)) < len(labels)
    return Folds((test,), 0, grouped, trains=(train,), validations=None if validation is None else (validation,), given=True, notes=notes)


def inner_split(
    labels: np.ndarray, rows: np.ndarray, *, members: np.ndarray, fraction: float, classes: Sequence[str], names: Sequence[Any], where: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Divides training images into those to fit and those to choose by (search, early stopping): stratified, whole groups, every class in both.

    Args:
        labels: class index per image (n,) of the whole data set.
        rows: positions of the training images.
        members: group number per image (n,), see :func:`merged_groups`.
        fraction: share of the images of each class that is held back, 0..0.5; at least one group of each class, however small the share.
        classes: class names, for messages.
        names: what the shuffle is seeded by, and all it depends on.
        where: data set, for messages.

    Returns:
        Positions of the images to fit and of the images to choose by, ascending.

    Raises:
        NotEnoughData: SK501 with the counts, where a class lies in one group, or no shuffle is sound.
    """
    rows = np.sort(rows)
    _refuse_one_class(labels[rows], classes, where)
    held = _share(labels[rows], members[rows], fraction, 1, ("inner split", *names))
    if held is not None:
        return rows[~held], rows[held]
    grouped = len(np.unique(members[rows])) < len(rows)
    alone = [classes[int(label)] for label in np.unique(labels[rows]) if len(np.unique(members[rows][labels[rows] == label])) == 1]
    if alone:
        unit = "one group of images (a patient, or identical images)" if grouped else "one image"
        reason = f"there is {unit} of class {', '.join(repr(name) for name in alone)}, and both parts need it"
    else:
        reason = f"none of {SHUFFLES} shuffles puts every class into both parts"
    counts = _counts(labels[rows], members[rows], classes, grouped=grouped)
    message = f"{_images(len(rows), 'training')} cannot be divided into those to fit and those to choose by: {reason} (training images per class: {counts})"
    fix = "do without search and early_stopping, train on more of each class (add images; more folds leave more of them), or leave out the smallest class"
    raise NotEnoughData("SK501", where, message, fix)


def stratified_share(labels: np.ndarray, rows: np.ndarray, *, members: np.ndarray, share: float, names: Sequence[Any]) -> np.ndarray:
    """A share of some images, the same of each class as nearly as whole groups allow; of every class at least one group.

    Args:
        labels: class index per image (n,) of the whole data set.
        rows: positions of the images.
        members: group number per image (n,), see :func:`merged_groups`. Groups stay whole: where they are few and large, the share is another.
        share: what is kept, 0..1.
        names: what the shuffle is seeded by, and all it depends on.

    Returns:
        Positions of the images that are kept, ascending.
    """
    rows = np.sort(rows)
    if share >= 1:
        return rows
    kept = _share(labels[rows], members[rows], share, 0, ("share", *names))
    assert kept is not None  # nothing need be left out, so every shuffle is sound
    return np.asarray(rows[kept])


def _share(labels: np.ndarray, members: np.ndarray, fraction: float, spare: int, names: Sequence[Any]) -> np.ndarray | None:
    """Whether each image belongs to a stratified share of whole groups (n,), bool; every class in it, and ``spare`` groups of each class not in it.

    The first shuffle whose share of every class is near the fraction (within half of its distance from 0 or 1, or one image); where groups are
    too coarse for that, the nearest of all. None where no shuffle is sound.
    """
    members = np.unique(members, return_inverse=True)[1]
    present, labels = np.unique(labels, return_inverse=True)
    wanted = fraction * np.bincount(labels)
    allowed = np.maximum(np.bincount(labels) * min(fraction, 1 - fraction) / 2, 1.0)
    held = [np.unique(members[labels == label], return_counts=True) for label in range(len(present))]
    best: np.ndarray | None = None
    least = np.inf
    for attempt in range(SHUFFLES):
        chosen = _dealt(held, wanted, spare, rng_for(*names, attempt).permutation(members.max() + 1))
        if chosen is None:
            continue
        off = np.abs(np.bincount(labels[chosen[members]], minlength=len(present)) - wanted)
        if (off <= allowed).all():
            best = chosen
            break
        if off.sum() < least:
            best, least = chosen, off.sum()
    return None if best is None else np.asarray(best[members])


def _dealt(held: Sequence[tuple[np.ndarray, np.ndarray]], wanted: np.ndarray, spare: int, rank: np.ndarray) -> np.ndarray | None:
    """One try: class by class, that in the fewest groups first, the undecided groups in shuffled order until the share is met.

    Args:
        held: for each class its groups and how many of its images are in each.
        wanted: images of each class.
        spare: groups that each class must leave out.
        rank: place of each group in the shuffle.

    Returns:
        Whether each group is chosen, bool; None where a class came out with too few groups on one side (with nothing to spare: never).
    """
    chosen, decided = np.zeros(len(rank), dtype=bool), np.zeros(len(rank), dtype=bool)
    for label in sorted(range(len(held)), key=lambda c: len(held[c][0])):
        groups, sizes = held[label]
        have, left = int(sizes[chosen[groups]].sum()), int((decided & ~chosen)[groups].sum())
        free = np.flatnonzero(~decided[groups])
        free = free[np.argsort(rank[groups[free]])]
        low, high = int(have == 0), len(free) - max(0, spare - left)
        if low > high:
            if spare:
                return None
            chosen[groups[np.argmin(rank[groups])]] = True  # other classes left all of its groups out
            continue
        reached = have + np.concatenate([[0], np.cumsum(sizes[free])])
        take = low + int(np.argmin(np.abs(reached[low : high + 1] - wanted[label])))
        chosen[groups[free[:take]]] = True
        decided[groups] = True
    return chosen


def _left_out(rows: np.ndarray, test: np.ndarray, digests: Sequence[str], groups: Sequence[str] | None, part: str) -> tuple[str, ...]:
    """Why images outside the test part may not be trained on, counted: each image under the first reason that holds."""
    tested = {digests[i] for i in test}
    copies = [i for i in rows if digests[i] in tested]
    notes = []
    if copies:
        notes.append(f"{_images(len(copies), part)} {_be(len(copies))} the same as test images: left out of training")
    if groups is None:
        return tuple(notes)
    patients = {groups[i] for i in test}
    theirs = [i for i in rows if digests[i] not in tested and groups[i] in patients]
    linked = [i for i in rows if digests[i] not in tested and groups[i] not in patients]
    if theirs:
        both = {groups[i] for i in theirs}
        who = "1 patient is" if len(both) == 1 else f"{len(both)} patients are"
        other = "other " if any(groups[i] in both for i in copies) else ""
        notes.append(f"{who} in {part} and test: their {other}{_images(len(theirs), part)} {_be(len(theirs))} left out of training")
    if linked:
        notes.append(f"{_images(len(linked), part)} {_be(len(linked))} of patients who share an image with patients of the test part: "
                     "left out of training")
    return tuple(notes)


def _refuse_other_words(words: Sequence[str], where: str) -> None:
    if words:
        found = ", ".join(f"'{word}' {count}{nearest(word, PARTS)}" for word, count in sorted(Counter(words).items()))
        fix = 'call them train, val or test, or deal all images into folds with splits = "ignore"'
        raise DataError("SK203", where, f"the split has a test part, and words that are not train, val or test (images: {found})", fix)


def _refuse_one_class(labels: np.ndarray, classes: Sequence[str], where: str) -> None:
    present = np.unique(labels)
    if len(present) < 2:
        of = f"all {_images(len(labels))} are of class '{classes[int(present[0])]}'" if len(present) else "there are no images"
        raise NotEnoughData("SK501", where, f"training needs at least two classes and {of}", "add images of another class, or leave the data set out")


def _refuse_missing_class(labels: np.ndarray, parts: Mapping[str, np.ndarray], classes: Sequence[str], notes: Sequence[str], where: str) -> None:
    """Every class must be in every part."""
    missing = [f"'{name}' in {part}" for part, rows in parts.items() for label, name in enumerate(classes) if label not in labels[rows]]
    if missing:
        counts = [f"{part} {len(rows)}: {', '.join(f'{name} {int((labels[rows] == label).sum())}' for label, name in enumerate(classes))}"
                  for part, rows in parts.items()]
        after = f"; {'; '.join(notes)}" if notes else ""
        message = f"the given split cannot be used: no image of class {', '.join(missing)} (images: {'; '.join(counts)}{after})"
        raise NotEnoughData("SK501", where, message, 'deal all images into folds with splits = "ignore", or correct the split')


def _counts(labels: np.ndarray, members: np.ndarray, classes: Sequence[str], *, grouped: bool) -> str:
    """Images per class, and groups where there are some: "benign 12 in 3 groups, malignant 4 in 1 group"."""
    counts = []
    for index, name in enumerate(classes):
        mine = labels == index
        units = len(np.unique(members[mine]))
        counts.append(f"{name} {int(mine.sum())}" + (f" in {units} group{'' if units == 1 else 's'}" if grouped else ""))
    return ", ".join(counts)


def _images(count: int, kind: str = "") -> str:
    return f"{count} {f'{kind} ' if kind else ''}image{'' if count == 1 else 's'}"


def _be(count: int) -> str:
    return "is" if count == 1 else "are"


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
