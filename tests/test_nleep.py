"""NLEEP: the published value, seeds, convergence, invariants of the mixture's rows, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simkit.errors import NotEnoughData, ResourceError
from simkit.estimators.assessment import seen_of, transferability
from simkit.estimators.checks import check_estimator
from simkit.estimators.leep import label_entropy, leep
from simkit.estimators.nleep import NLeep, mixture, mixture_seconds, principal_components
from simkit.recipe import rng_for

RNG = rng_for("nleep")


@pytest.fixture(scope="module")
def clusters() -> tuple[np.ndarray, np.ndarray]:
    """240 images of three classes that overlap."""
    rng = np.random.default_rng(5)
    labels = rng.permutation(np.arange(240) % 3)
    return rng.normal(size=(3, 12))[labels] + rng.normal(size=(240, 12)), labels


def plain(features: np.ndarray, labels: np.ndarray, *, components: int, seed: int) -> float:
    return leep(mixture(principal_components(features, 0.8), components, seed=seed).responsibilities, labels)


def test_value_of_the_peers_code(raw64: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = raw64
    assert principal_components(x, 0.8).shape == (1797, 13)
    assert plain(x, y, components=50, seed=42) == pytest.approx(-0.153713, abs=1e-6)


def test_assess_is_the_same_on_rows_in_canonical_order(raw64: tuple[np.ndarray, np.ndarray]) -> None:
    score = transferability(NLeep(seed=42), *raw64)
    one = seen_of(*raw64).canonical
    assert one.labels is not None
    assert score.value == pytest.approx(plain(one.features, one.labels, components=50, seed=42), abs=1e-12)
    assert score.value == pytest.approx(-0.153713, abs=0.04)  # another order of rows is another start
    assert {"n": 1797, "d": 64, "classes": 10, "outputs": 50, "dimensions": 13, "seed": 42}.items() <= score.detail.items()
    assert score.converged
    assert score.flags == ()


def test_more_components_than_images_is_refused_with_the_remedy(raw64: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = raw64
    few = np.concatenate([np.flatnonzero(y == c)[:4] for c in range(10)])
    message = r"target: nleep: 50 components \(5 for each of 10 classes\) are more than the 40 images of target\nfix: set components = 4 or fewer"
    with pytest.raises(NotEnoughData, match=message):
        transferability(NLeep(), x[few], y[few])
    score = transferability(NLeep(components=1), x[few], y[few])
    assert any(flag.startswith("40 images for 10 full covariances in") for flag in score.flags)


@settings(max_examples=12, deadline=None)
@given(st.integers(-6, 6), st.integers(0, 2**32 - 1))
def test_for_rows_in_a_given_order_neither_scale_nor_shift_nor_rotation_matters(exponent: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.arange(90) % 3
    features = 4 * rng.normal(size=(3, 6))[labels] + rng.normal(size=(90, 6))
    turned = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    changed = 10.0**exponent * (features @ turned + 3.0)
    before, after = (principal_components(rows, 0.8) for rows in (features, changed))
    np.testing.assert_allclose(np.abs(after), np.abs(before), atol=1e-6)  # signs of components are free
    assert before[:, 0].std() == pytest.approx(1.0)
    scaled = leep(mixture(principal_components(10.0**exponent * features, 1.0), 6, seed=1).responsibilities, labels)
    assert scaled == pytest.approx(leep(mixture(principal_components(features, 1.0), 6, seed=1).responsibilities, labels), abs=1e-4)


def test_the_mixture_alone_would_see_the_scale(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = clusters
    assert leep(mixture(1e-4 * x, 15).responsibilities, y) < leep(mixture(x, 15).responsibilities, y) - 0.05
    with pytest.raises(NotEnoughData, match=r"a mixture of 30 components in 12 dimensions is not defined on 240 images \(a covariance is singular\)"):
        mixture(1e9 * x, 30)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 4), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_bounds(classes: int, components: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.arange(60) % classes
    score = transferability(NLeep(components=components), rng.normal(size=(60, 5)), labels, seed=0)
    assert -label_entropy(labels) - 1e-12 <= score.value <= 0


def test_clusters_that_are_classes_are_perfect() -> None:
    labels = np.arange(60) % 3
    far = 100.0 * np.eye(3)[labels] + RNG.normal(size=(60, 3))
    assert transferability(NLeep(components=1), far, labels).value == pytest.approx(0.0, abs=1e-9)
    one = transferability(NLeep(components=1), far, labels[np.argsort(labels, kind="stable")])
    assert one.value < -1.0


def test_the_seed_decides_and_the_random_numbers_of_the_run_do_not(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    values = {seed: [transferability(NLeep(seed=seed), *clusters, seed=run).value for run in (0, 1)] for seed in (0, 1)}
    assert values[0][0] == values[0][1]
    assert values[1][0] == values[1][1]
    assert values[0][0] != values[1][0]


def test_the_likeliest_of_several_starts_counts(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    from sklearn.mixture import GaussianMixture

    rows = principal_components(clusters[0], 0.8)
    expected = GaussianMixture(15, random_state=3, n_init=4).fit(rows)
    np.testing.assert_allclose(mixture(rows, 15, seed=3, starts=4).responsibilities, expected.predict_proba(rows), atol=1e-12)
    assert transferability(NLeep(starts=4), *clusters).value != transferability(NLeep(), *clusters).value


def test_a_mixture_that_did_not_converge_is_flagged(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    score = transferability(NLeep(iterations=1), *clusters)
    assert not score.converged
    assert "not converged: mixture, after 1 iterations" in score.flags


def test_diagonal_covariances(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = clusters
    diagonal = leep(mixture(principal_components(x, 0.8), 15, covariance="diag").responsibilities, y)
    assert diagonal != plain(x, y, components=15, seed=0)
    one = seen_of(x, y).canonical
    assert one.labels is not None
    expected = leep(mixture(principal_components(one.features, 0.8), 15, covariance="diag").responsibilities, one.labels)
    assert transferability(NLeep(covariance="diag"), x, y).value == pytest.approx(expected, abs=1e-12)


def test_all_of_the_variance_keeps_all_components() -> None:
    rows = RNG.normal(size=(30, 4))
    assert principal_components(rows, 1.0).shape == (30, 4)
    assert principal_components(rows[:3], 0.8).shape[0] == 3


def test_images_that_are_all_alike_are_refused() -> None:
    with pytest.raises(NotEnoughData, match=r"nleep: all images have the same features: they have no principal components"):
        transferability(NLeep(components=1), np.full((8, 3), 0.1), np.arange(8) % 2)


def test_repeated_images_give_a_value() -> None:
    features = np.repeat(np.eye(3), 10, axis=0)
    assert transferability(NLeep(components=2), features, np.repeat(np.arange(3), 10)).value == pytest.approx(0.0, abs=1e-9)


def test_a_half_without_a_class_still_has_a_value(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    seen = seen_of(*clusters)
    assert seen.labels is not None
    kept = np.concatenate([np.flatnonzero(seen.labels < 2)[:60], np.flatnonzero(seen.labels == 2)[:1]])
    assert np.isfinite(NLeep().assess(seen.take(kept).canonical, RNG).value)
    alone = replace(seen.take(np.flatnonzero(seen.labels == 1))).canonical
    with pytest.raises(NotEnoughData, match=r"nleep is undefined for one class"):
        NLeep().assess(alone, RNG)


def test_a_mixture_that_would_take_hours_is_refused_with_the_price(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    message = r"nleep of target by source: would take about .* h, the limit is 1e-09 h: 15 components of 240 images in \d+ dimensions\nfix: set covariance ="
    with pytest.raises(ResourceError, match=message):
        transferability(NLeep(max_hours=1e-9), *clusters)
    with pytest.raises(ResourceError, match=r"fix: set fewer components, a smaller variance, or max_hours = "):
        transferability(NLeep(max_hours=1e-9, covariance="diag"), *clusters)
    assert mixture_seconds(50_000, 500, 400, "full") > 7200 > mixture_seconds(50_000, 500, 400, "diag")


def test_floor_and_interval(clusters: tuple[np.ndarray, np.ndarray]) -> None:
    score = transferability(NLeep(), *clusters, repeats=3)
    assert score.floor is not None
    assert score.floor < score.value
    assert score.interval is not None


def test_promises() -> None:
    check_estimator(NLeep)
    check_estimator(NLeep, options={"covariance": "diag", "components": 2})
