"""Images that source and target share: what is taken out of pretraining, and what is left."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simkit.errors import NotEnoughData
from simkit.transfer.folds import make_folds
from simkit.transfer.overlap import Removal, check_remaining, shared_rows


def test_test_images_are_found_in_the_source():
    removal = shared_rows(["a", "b", "c", "b"], None, {"b", "x"})
    assert removal.rows.tolist() == [1, 3]
    assert (len(removal), removal.identical, removal.related, removal.patients) == (2, 2, 0, 0)
    assert removal.text == "2 images are the same as test images"


def test_sets_that_share_nothing_lose_nothing():
    removal = shared_rows(["a", "b"], ["p", "p"], ["c"])
    assert removal.rows.tolist() == []
    assert (len(removal), removal.patients) == (0, 0)
    assert check_remaining(np.array([0, 1]), ("x", "y"), removal, where="s -> t, fold 1") == ()


def test_the_whole_patient_of_a_test_image_is_taken_out():
    removal = shared_rows(list("abcdef"), ["p", "q", "p", "r", "q", "p"], ["a"])
    assert removal.rows.tolist() == [0, 2, 5]
    assert (removal.identical, removal.related, removal.patients) == (1, 2, 1)
    assert removal.text == "1 image is the same as test images, 2 more are of the same patient"


def test_a_patient_who_shares_an_image_with_such_a_patient_is_taken_out_too():
    # p holds the test image a; p and q hold the same image c: one person under two names, as in the folds
    removal = shared_rows(["a", "c", "c", "d", "e"], ["p", "p", "q", "q", "r"], ["a"])
    assert removal.rows.tolist() == [0, 1, 2, 3]
    assert removal.text == "1 image is the same as test images, 3 more are of the same 2 patients"


def test_a_class_that_loses_all_of_its_images_is_named():
    removal = Removal(np.array([0, 1, 4, 5]), identical=4)
    notes = check_remaining(np.array([0, 0, 1, 2, 2, 3]), ("birds", "cats", "dogs", "emus"), removal, where="big -> small, fold 2")
    assert notes == (
        "big -> small, fold 2: all 2 images of class 'birds' are taken out of pretraining, as the target tests on them or on their patients: "
        "the class takes no part",
        "big -> small, fold 2: the one image of class 'emus' is taken out of pretraining, as the target tests on it or on its patient: "
        "the class takes no part",
    )


@pytest.mark.parametrize(("rows", "left"), [
    ([0, 1, 2], r"images of 1 class are left .*needs two \(3 images are the same as test images; left: x 0 of 3, y 2 of 2, z 0 of 0\)"),
    ([0, 1, 2, 3, 4], r"images of 0 classes are left .*left: x 0 of 3, y 0 of 2, z 0 of 0\)"),
])
def test_fewer_than_two_classes_are_refused_with_the_remedy(rows, left):
    removal = Removal(np.array(rows), identical=len(rows))
    with pytest.raises(NotEnoughData, match=r"SK501\] source -> target, fold given: without the images .*" + left) as error:
        check_remaining(np.array([0, 0, 0, 1, 1]), ("x", "y", "z"), removal, where="source -> target, fold given")
    assert 'overlap = "mark", or leave this pair out' in str(error.value)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 60), patients=st.integers(0, 30))
def test_property_what_is_left_shares_no_image_and_no_patient_with_what_is_taken_out(seed, n, patients):
    rng = np.random.default_rng(seed)
    digests = [f"image{d}" for d in rng.integers(0, 2 * n, n)]
    groups = [f"p{g}" for g in rng.integers(0, patients, n)] if patients else None
    tested = {f"image{d}" for d in rng.integers(0, 4 * n, 3)}
    removal = shared_rows(digests, groups, tested)
    out, left = removal.rows, np.setdiff1d(np.arange(n), removal.rows)
    assert np.array_equal(out, np.unique(out))
    assert removal.identical == sum(digest in tested for digest in digests)
    assert not {digests[i] for i in left} & (tested | {digests[i] for i in out})
    if groups is None:
        assert len(out) == removal.identical
    else:
        assert not {groups[i] for i in left} & {groups[i] for i in out}
        assert removal.patients == len({groups[i] for i in out})
        assert bool(len(out)) == bool(removal.identical)


@pytest.mark.parametrize("seed", range(4))
def test_a_self_pair_is_pretrained_on_the_training_part_of_the_fold(seed):
    rng = np.random.default_rng(seed)
    labels, digests = np.arange(60) % 2, [f"image{d}" for d in rng.integers(0, 90, 60)]
    groups = [f"p{g}" for g in rng.integers(0, 25, 60)]
    split = make_folds(labels, digests=digests, groups=groups, classes=("x", "y"), folds=3, names=(seed,), where="here")
    for fold, test in enumerate(split.test):
        removal = shared_rows(digests, groups, [digests[i] for i in test])
        assert np.array_equal(removal.rows, test)
        assert np.array_equal(np.setdiff1d(np.arange(60), removal.rows), split.train(fold))
