"""Distances of classes: POT, scipy, closed forms, names, refusals."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import ot
import pytest
from scipy.linalg import sqrtm
from scipy.stats import wasserstein_distance

from simkit.embedding import Embedding
from simkit.errors import DataError
from simkit.estimators.checks import check_estimator
from simkit.estimators.class_frechet import ClassFrechet
from simkit.estimators.class_mean_emd import ClassMeanEmd
from simkit.estimators.comparison import compare

Labelled = tuple[np.ndarray, np.ndarray]


def blobs(sizes: tuple[int, ...], d: int = 5, seed: int = 0, shift: float = 0.0) -> Labelled:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    centres = 3 * np.random.default_rng(99).normal(size=(9, d))[: len(sizes)]
    return (centres[labels] + rng.normal(size=(len(labels), d)) * (1 + labels[:, None] / 3) + shift).astype(np.float32), labels


def moments(side: Labelled) -> list[tuple[np.ndarray, np.ndarray, float]]:
    x, y = side[0].astype(float), side[1]
    return [(x[y == k].mean(0), np.cov(x[y == k].T), float(np.mean(y == k))) for k in np.unique(y)]


def test_class_frechet_is_pot_on_distances_by_the_matrix_square_root() -> None:
    a, b = blobs((30, 40, 20)), blobs((25, 25), seed=1, shift=0.5)
    cost = np.array([[((m - k) ** 2).sum() + np.trace(s + t) - 2 * np.trace(sqrtm(s @ t).real) for k, t, _ in moments(b)] for m, s, _ in moments(a)])
    masses = [np.array([w for _, _, w in moments(side)]) for side in (a, b)]
    score = compare("class-frechet", a, b)
    assert score.value == pytest.approx(ot.emd2(*masses, cost), rel=1e-9)
    coupling = np.array(score.detail["class_coupling"]["mass"])
    assert (coupling * cost).sum() == pytest.approx(score.value, rel=1e-9)
    assert coupling.sum(1) == pytest.approx(masses[0])
    balanced = compare("class-frechet", a, b, class_weights="balanced")
    assert balanced.value == pytest.approx(ot.emd2(np.full(3, 1 / 3), np.full(2, 1 / 2), cost), rel=1e-9)


def test_diagonal_and_means_are_what_they_say() -> None:
    a, b = blobs((30, 40)), blobs((25, 25), seed=1, shift=0.5)
    for covariance in ("diagonal", "means"):
        spread = 1.0 if covariance == "diagonal" else 0.0
        cost = np.array([[((m - k) ** 2).sum() + spread * ((np.sqrt(np.diag(s)) - np.sqrt(np.diag(t))) ** 2).sum() for k, t, _ in moments(b)]
                         for m, s, _ in moments(a)])
        masses = [np.array([w for _, _, w in moments(side)]) for side in (a, b)]
        assert compare("class-frechet", a, b, covariance=covariance).value == pytest.approx(ot.emd2(*masses, cost), rel=1e-6)


def test_one_class_is_frechet() -> None:
    a, b = blobs((40,)), blobs((30,), seed=1, shift=1.0)
    assert compare("class-frechet", a, b).value == pytest.approx(compare("frechet", a[0], b[0]).value, rel=1e-9)


def test_names_do_not_matter_and_the_same_classes_are_at_zero() -> None:
    x, y = blobs((30, 40, 20))
    for method in ("class-frechet", "class-mean-emd"):
        assert compare(method, (x, y), (x[::-1], (2 - y)[::-1])).value == pytest.approx(0.0, abs=1e-6)
        assert compare(method, (x, y), (x, y)).value == 0.0
        there, back = (compare(method, *sides) for sides in ((blobs((9, 8)), blobs((7, 9), seed=3)), (blobs((7, 9), seed=3), blobs((9, 8)))))
        assert there.value == back.value
        assert np.array(there.detail["class_coupling"]["mass"]).T.tolist() == back.detail["class_coupling"]["mass"]


def test_few_images_per_class_are_said_and_one_is_counted() -> None:
    a, b = blobs((30, 4)), blobs((20, 1), seed=1)
    flags = compare("class-frechet", a, b).flags
    assert "n<d in a class" in flags
    assert any(flag.startswith("one image in class 1 of target") for flag in flags)
    assert compare("class-frechet", a, blobs((20, 10), seed=1), covariance="means").flags == ()


def test_class_mean_emd_is_pot_on_lengths_and_the_published_similarity() -> None:
    a, b = blobs((30, 40, 20)), blobs((25, 35), seed=1, shift=0.5)
    cost = np.array([[np.linalg.norm(m - k) for k, _, _ in moments(b)] for m, _, _ in moments(a)])
    masses = [np.array([w for _, _, w in moments(side)]) for side in (a, b)]
    expected = ot.emd2(*masses, cost)
    assert compare("class-mean-emd", a, b).value == pytest.approx(expected, rel=1e-6)
    score = compare("class-mean-emd", a, b, similarity=True)
    assert score.value == pytest.approx(np.exp(-0.01 * expected), rel=1e-8)
    assert compare("class-mean-emd", a, b, similarity=True, gamma=0.5).value == pytest.approx(np.exp(-0.5 * expected), rel=1e-6)


def test_class_mean_emd_on_a_line_is_the_distance_of_scipy() -> None:
    a, b = (np.array([[0.0], [0.0], [1.0], [4.0]]), [0, 0, 1, 2]), (np.array([[0.5], [2.0], [2.0]]), [0, 1, 1])
    expected = wasserstein_distance([0, 1, 4], [0.5, 2.0], [0.5, 0.25, 0.25], [1 / 3, 2 / 3])
    assert compare("class-mean-emd", a, b).value == pytest.approx(expected, rel=1e-9)


def test_labels_are_needed() -> None:
    for method in ("class-frechet", "class-mean-emd"):
        with pytest.raises(DataError, match=f"{method} needs labels, source 'source' has none"):
            compare(method, blobs((5, 5))[0], blobs((5, 5)))


def test_class_frechet_is_the_label_bound_of_otdd() -> None:
    """Transport between the classes by the label costs alone, as OTDD reports it beside its value."""
    a, b = blobs((30, 40, 20)), blobs((25, 25), seed=1, shift=0.5)
    assert compare("class-frechet", a, b).value == pytest.approx(compare("otdd", a, b, solver="exact").detail["label_bound"], rel=1e-9)


@pytest.mark.parametrize("measure", [ClassMeanEmd(), ClassFrechet(covariance="diagonal")])
def test_a_table_of_many_classes_takes_no_cube_of_memory(measure: ClassFrechet | ClassMeanEmd) -> None:
    """300 classes a side, 128 features: the gaps of all pairs at once would be 92 MB."""
    sides = [measure.summarize(Embedding.of(blobs((2,) * 9, d=128, seed=seed))) for seed in (0, 1)]
    sides = [replace(side, gaussians=tuple(side.gaussians[i % 9] for i in range(300))) for side in sides]
    tracemalloc.start()
    table = measure.table(*sides)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert table.shape == (300, 300)
    assert peak < 10e6
    np.testing.assert_allclose(table[9:18, :9], table[:9, :9])


@pytest.mark.parametrize("measure", [
    ClassFrechet(covariance="diagonal"), ClassFrechet(covariance="means"), ClassFrechet(class_weights="balanced"), ClassMeanEmd(similarity=True),
    ClassMeanEmd(class_weights="balanced"),
])
def test_promises_hold_for_every_option(measure: ClassFrechet | ClassMeanEmd) -> None:
    check_estimator(measure)
