"""Folds: stratified, whole groups, identical images together, checked, and refused with counts."""

from __future__ import annotations

import numpy as np
import pytest
from transfer_study import drawn

from simkit.errors import NotEnoughData
from simkit.recipe import rng_for
from simkit.transfer.folds import Folds, make_folds, merged_groups
from simkit.transfer.images import listing


def folds_of(labels, *, folds, groups=None, digests=None, seed=0) -> Folds:
    labels = np.asarray(labels)
    digests = digests or [f"image{i}" for i in range(len(labels))]
    classes = [f"class{c}" for c in range(labels.max() + 1)]
    return make_folds(labels, digests=digests, groups=groups, classes=classes, folds=folds, names=(seed, "data"), where="here")


def test_every_image_is_tested_once_and_classes_are_dealt_evenly():
    labels = np.array([0] * 21 + [1] * 9)
    split = folds_of(labels, folds=3)
    assert sorted(np.concatenate(split.test)) == list(range(30))
    assert [np.bincount(labels[test]).tolist() for test in split.test] == [[7, 3]] * 3
    assert not split.grouped
    for fold in range(3):
        assert sorted([*split.train(fold), *split.test[fold]]) == list(range(30))


def test_the_seed_decides_the_folds():
    labels = np.arange(40) % 2
    same = [folds_of(labels, folds=4).test[0].tolist() for _ in range(2)]
    assert same[0] == same[1]
    assert folds_of(labels, folds=4, seed=1).test[0].tolist() != same[0]


def test_the_order_of_the_files_does_not_matter():
    dataset = drawn("birds", 20)
    shuffled = dataset.take(rng_for("shuffle").permutation(20))
    for one in (listing(dataset), listing(shuffled)):
        split = make_folds(one.labels, digests=one.digests, groups=None, classes=one.classes, folds=4, names=(0,), where="birds")
        digests = [sorted(one.digests[i] for i in test) for test in split.test]
        if one.dataset is dataset:
            expected = digests
    assert digests == expected


def test_groups_and_identical_images_are_merged():
    # a-b share patient p, b-c are the same image, d shares a patient with c: one group; e stands alone
    numbers = merged_groups(["1", "2", "2", "4", "5"], ["p", "p", "q", "q", "r"])
    assert numbers[:4].tolist() == [numbers[0]] * 4
    assert numbers[4] != numbers[0]


@pytest.mark.parametrize("seed", range(6))
def test_no_patient_and_no_copy_is_on_both_sides(seed):
    rng = rng_for("patients", seed)
    labels = np.arange(60) % 3
    groups = [f"patient{g}" for g in rng.integers(0, 25, 60)]
    digests = [f"image{i}" for i in range(60)]
    digests[10] = digests[50] = digests[0]
    split = folds_of(labels, folds=3, groups=groups, digests=digests, seed=seed)
    assert split.grouped
    for fold, test in enumerate(split.test):
        train = split.train(fold)
        assert not {groups[i] for i in test} & {groups[i] for i in train}
        assert not {digests[i] for i in test} & {digests[i] for i in train}
        assert set(labels[test]) == set(labels[train]) == {0, 1, 2}


def test_unsound_shuffles_are_passed_over():
    # found by search: scikit-learn's first shuffle leaves a test fold without the rare class
    labels = np.array([0, 0, 1, 1, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0])
    groups = [str(g) for g in [5, 0, 1, 1, 1, 4, 2, 5, 1, 2, 1, 1, 5, 4, 1, 3]]
    tries = [folds_of(labels, folds=3, groups=groups, seed=seed) for seed in range(30)]
    assert max(split.shuffles for split in tries) > 1
    for split in tries:
        assert all(set(labels[test]) == {0, 1} for test in split.test)


def test_fewer_images_than_folds_is_refused_with_the_largest_number_that_works():
    with pytest.raises(NotEnoughData, match=r"SK501\] here: 5 folds are not possible: a class has fewer images than folds") as error:
        folds_of([0] * 12 + [1] * 3, folds=5)
    assert "(images per class: class0 12, class1 3)\nfix: the largest number of folds that works is 3" in str(error.value)
    assert folds_of([0] * 12 + [1] * 3, folds=3).test


def test_fewer_patients_than_folds_is_refused_in_patients():
    groups = [f"p{i % 3}" for i in range(12)] + [f"q{i % 2}" for i in range(12)]
    with pytest.raises(NotEnoughData, match=r"fewer groups .*per class: class0 12 in 3 groups, class1 12 in 2 groups\)") as error:
        folds_of([0] * 12 + [1] * 12, folds=4, groups=groups)
    assert "the largest number of folds that works is 2" in str(error.value)


def test_a_class_of_one_image_allows_no_folds():
    with pytest.raises(NotEnoughData, match=r"class1 1\)\nfix: no number of folds works"):
        folds_of([0] * 8 + [1], folds=2)


def test_a_split_that_no_shuffle_finds_is_refused():
    # every class is in two patients, but one patient of each class is the same: the other must hold all of both in training
    labels = np.array([0, 1, 2, 0, 1, 2])
    groups = ["a", "a", "a", "b", "c", "d"]
    match = r"2 folds are not possible: none of 50 shuffles puts every class into both parts of every fold \(images per class: class0 2 in 2 groups"
    with pytest.raises(NotEnoughData, match=match) as error:
        folds_of(labels, folds=2, groups=groups)
    assert "no number of folds works" in str(error.value)
