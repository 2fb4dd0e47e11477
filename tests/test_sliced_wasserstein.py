"""Sliced Wasserstein distance: POT, closed forms, sizes, tensors, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import ot
import pytest
from scipy.stats import wasserstein_distance

from simkit.embedding import Embedding
from simkit.estimators import sliced_wasserstein
from simkit.estimators.comparison import compare
from simkit.estimators.sliced_wasserstein import Projections, SlicedWasserstein
from simkit.recipe import rng_for


def cloud(n: int, d: int = 6, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, d)) + shift).astype(np.float32)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 27)])
def test_pot_with_the_same_directions(n: int, m: int) -> None:
    x, y = cloud(n), cloud(m, seed=1, shift=0.4)
    theta = np.concatenate([rng_for("sliced-wasserstein", 0, chunk).standard_normal((128, 6)) for chunk in range(2)])[:200]
    theta /= np.linalg.norm(theta, axis=1, keepdims=True)
    expected = ot.sliced_wasserstein_distance(x.astype(float), y.astype(float), projections=theta.T, p=2)
    score = compare("sliced-wasserstein", x, y, projections=200)
    assert score.detail["root"] == pytest.approx(expected, rel=1e-5)
    assert score.value == pytest.approx(expected**2, rel=1e-5)


def test_values_of_pot_on_digits() -> None:
    """Roots with 200 random projections: what the choice of projections leaves is the Monte-Carlo error."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    turned = np.rot90(x.reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, 64)
    for (a, b), root in (((x[::2], x[1::2]), 0.0189), ((x[:898], x[898:]), 0.0404), ((x[y < 5], x[y >= 5]), 0.1105), ((x, turned), 0.3876)):
        score = compare("sliced-wasserstein", a, b)
        error = score.detail["monte_carlo_error"] * np.sqrt(500 / 200)
        assert abs(score.value - root**2) < 3 * error + 2e-4 * root


def test_a_shift_gives_its_square_over_the_dimension() -> None:
    x = cloud(60, 8)
    score = compare("sliced-wasserstein", x, x + 2.0, projections=4000)
    assert abs(score.value - 4.0) < 4 * score.detail["monte_carlo_error"]  # |shift|² / d = 4 * 8 / 8


def test_one_dimension_needs_one_direction() -> None:
    x, y = cloud(30, 1), cloud(30, 1, 1, 0.5)
    value = compare("sliced-wasserstein", x, y).value
    assert value == pytest.approx(float(np.mean((np.sort(x[:, 0]) - np.sort(y[:, 0])) ** 2)), rel=1e-5)
    assert np.sqrt(value) >= wasserstein_distance(x[:, 0], y[:, 0]) - 1e-6


def test_the_same_images_are_at_zero_and_swapping_changes_nothing() -> None:
    x, y = cloud(30), cloud(20, seed=1)
    assert compare("sliced-wasserstein", x, x[::-1]).value == 0.0
    assert compare("sliced-wasserstein", x, y).value == compare("sliced-wasserstein", y, x).value
    same = np.ones((5, 3), dtype=np.float32)
    assert compare("sliced-wasserstein", same, same + 1).value > 0.5


def test_directions_are_shared_by_pairs_and_not_by_seeds_and_more_go_on_where_fewer_ended() -> None:
    x, y = cloud(30), cloud(20, seed=1)
    assert compare("sliced-wasserstein", x, y, seed=1).value == compare("sliced-wasserstein", x, y, seed=2).value
    assert compare("sliced-wasserstein", x, y, slice_seed=1).value != compare("sliced-wasserstein", x, y).value
    few, many = (SlicedWasserstein(projections=count).summarize(Embedding(x)) for count in (50, 100))
    np.testing.assert_array_equal(few.kept[0], many.kept[0][:50])


def test_projections_of_large_sets_are_made_again_and_give_the_same_number(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = cloud(30), cloud(20, seed=1)
    kept = compare("sliced-wasserstein", x, y)
    monkeypatch.setattr(sliced_wasserstein, "KEPT_BYTES", 0)
    assert compare("sliced-wasserstein", x, y) == kept


def test_tensors_give_the_numbers_of_arrays() -> None:
    import torch

    method = SlicedWasserstein(projections=150)
    sides = [method.summarize(Embedding(cloud(n, seed=n))) for n in (30, 20)]
    moved = []
    for one in sides:
        points = replace(one.points, rows=torch.from_numpy(one.points.rows))
        bare = Projections(points)
        moved.append(bare)
    values = [np.concatenate([method._sorted(side, chunk) for chunk in range(2)]) for side in (sides[0], moved[0])]
    np.testing.assert_allclose(values[1], values[0], rtol=1e-5, atol=1e-6)
