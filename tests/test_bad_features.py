"""What every measure of features does with data that no measure likes: a clear refusal or a stated answer, and never a leaking warning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_known_order import measures

from simkit.embedding import Embedding
from simkit.errors import DataError, NotEnoughData, SimkitError, UsageError
from simkit.estimators.base import Score
from simkit.estimators.comparison import compare
from simkit.registry import ESTIMATORS

DESCRIPTORS = ["effective-rank", "intrinsic-dimension", "vendi"]
EVERYTHING = sorted({*measures(), *DESCRIPTORS})


def labelled(x: np.ndarray) -> Embedding:
    return Embedding(x.astype(np.float32), np.arange(len(x)) % 2, ("a", "b"), name="some")


def tried(name: str, source: Embedding, target: Embedding, **options: Any) -> Score | SimkitError:
    try:
        return compare(name, source, target, **options)
    except SimkitError as error:
        return error


@pytest.mark.parametrize("name", EVERYTHING)
def test_equal_rows(name: str) -> None:
    """All images of a set alike: at distance 0 from themselves and farther from others, or refused with a remedy."""
    same, other = labelled(np.ones((24, 5))), labelled(np.full((24, 5), 3.0))
    own, far = tried(name, same, labelled(np.ones((24, 5)))), tried(name, other, same)
    for found in (own, far):
        if isinstance(found, SimkitError):
            assert isinstance(found, (NotEnoughData, DataError))
            assert all(problem.fix for problem in found.problems)
        else:
            assert np.isfinite(found.value)
    if isinstance(own, Score) and isinstance(far, Score) and name not in DESCRIPTORS:
        sign = -1 if ESTIMATORS.build(name).higher_is_better else 1
        assert sign * own.value <= sign * far.value


@pytest.mark.parametrize("name", EVERYTHING)
def test_constant_features_beside_others_change_nothing_that_matters(name: str) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(80, 6)).astype(np.float32)
    padded = np.concatenate([rows, np.zeros((80, 3), dtype=np.float32)], axis=1)
    before, after = (compare(name, labelled(x[:40]), labelled(x[40:])) for x in (rows, padded))
    if name not in ("kid", "sliced-wasserstein", "sotdd", "frechet-infinity", "domain-classifier"):  # scales by d, directions, samples and folds by content
        assert after.value == pytest.approx(before.value, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("name", EVERYTHING)
def test_a_handful_of_images(name: str, count: int) -> None:
    rng = np.random.default_rng(0)
    found = tried(name, labelled(rng.normal(size=(count, 4))), labelled(rng.normal(size=(30, 4))), repeats=3)
    if isinstance(found, SimkitError):
        assert isinstance(found, (NotEnoughData, DataError))
        assert all(problem.fix for problem in found.problems)
    else:
        assert np.isfinite(found.value)
        if ESTIMATORS.build(name).kind == "distance":
            assert found.interval is None
            assert any(flag.startswith("no interval") for flag in found.flags)


@pytest.mark.parametrize("name", EVERYTHING)
def test_an_empty_class_counts_for_nothing(name: str) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(40, 4)).astype(np.float32) + np.arange(40)[:, None] % 2 for _ in range(2))
    plain = compare(name, labelled(x), labelled(y))
    wide = Embedding(x.astype(np.float32), np.arange(40) % 2, ("a", "b", "empty"), name="some")
    assert compare(name, wide, labelled(y)).value == pytest.approx(plain.value, rel=1e-9)


@pytest.mark.parametrize("name", EVERYTHING)
def test_other_dimensions_extractors_and_nan_are_refused_by_name(name: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 4)).astype(np.float32)
    with pytest.raises(UsageError, match=r"SK109.*'source' has 4 features, 'target' 5\nfix: embed both with the same extractor"):
        compare(name, (x, np.arange(30) % 2), (np.zeros((30, 5)), np.arange(30) % 2))
    made = [Embedding(x, np.arange(30) % 2, ("a", "b"), name=n, extractor=n * 64) for n in "ef"]
    with pytest.raises(UsageError, match=r"SK109.*embeddings of different extractors cannot be compared"):
        compare(name, *made)
    bad = x.copy()
    bad[7, 1] = np.inf
    with pytest.raises(DataError, match=r"SK210.*1 of 30 rows hold NaN or infinite values \(rows 7\)"):
        compare(name, (bad, np.arange(30) % 2), (x, np.arange(30) % 2))
