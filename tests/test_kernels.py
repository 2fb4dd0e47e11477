"""MMD, KID and energy distance: values of other tools on digits, plain formulas, permutation tests, tiles, refusals."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist
from scipy.stats import binom, energy_distance

from simkit.embedding import Embedding
from simkit.errors import NotEnoughData, UsageError
from simkit.estimators import kernel_statistics, pairwise
from simkit.estimators.comparison import compare, score_pairs
from simkit.estimators.energy import Energy
from simkit.estimators.kernel_statistics import permutation_test
from simkit.estimators.kid import Kid
from simkit.estimators.mmd import Mmd, median_bandwidth

Pair = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def cases() -> list[Pair]:
    """Even and odd rows; first and last half (other writers); classes 0-4 and 5-9; original and turned by 90 degrees."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    turned = np.rot90(x.reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, 64)
    return [(x[::2], x[1::2]), (x[:898], x[898:]), (x[y < 5], x[y >= 5]), (x, turned)]


def cloud(n: int, d: int = 6, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, d)) + shift).astype(np.float32)


def plain(kernel: Any, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The U- and the V-statistic as they are defined, from the three kernel matrices."""
    a, b, c = (kernel(p.astype(float), q.astype(float)) for p, q in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    u = (a.sum() - np.trace(a)) / (n * (n - 1)) + (b.sum() - np.trace(b)) / (m * (m - 1)) - 2 * c.mean()
    return float(u), float(a.mean() + b.mean() - 2 * c.mean())


def test_mmd_has_the_values_and_p_of_alibi_detect_on_digits(cases: list[Pair]) -> None:
    """alibi-detect takes the median distance of its reference set alone; its p counts without the + 1."""
    for (x, y), value, p in zip(cases, (-0.00042, 0.005914, 0.056323, 0.473876), (0.92, 0.0, 0.0, 0.0), strict=True):
        score = compare("mmd", x, y, sigma=median_bandwidth([Embedding(x)], "mmd"))
        assert score.value == pytest.approx(value, abs=1e-6)
        assert score.p == pytest.approx(max(p, 1 / 1000), abs=0.035 if p else 1e-12)


def test_cmmd_is_mmd_of_unit_rows_at_sigma_ten(cases: list[Pair]) -> None:
    for (x, y), value in zip(cases, (0.0031, 0.0434, 0.325, 5.997), strict=True):
        found = 1000 * compare("mmd", x, y, sigma=10.0, normalize=True, biased=True, permutations=0).value
        assert found == pytest.approx(value, abs=6e-4 if value > 0.1 else 2e-4)  # the peer's kernels are float32, of which 1000 times 1e-7 is left


def test_kid_agrees_with_the_subsets_of_three_tools(cases: list[Pair]) -> None:
    """torchmetrics, torch-fidelity and clean-fid average random subsets: they agree among themselves to about 1 %."""
    for (x, y), value, error in zip(cases, (-0.000337, 0.00373, 0.03124, 0.5371), (2e-6, 4e-5, 4e-5, 6e-4), strict=True):
        assert compare("kid", x, y, permutations=0).value == pytest.approx(value, abs=error)


def test_energy_v_statistic_has_the_values_of_dcor_on_digits(cases: list[Pair]) -> None:
    for (x, y), value in zip(cases, (0.00501, 0.02995, 0.2160, 2.5014), strict=True):
        assert compare("energy", x, y, biased=True, permutations=0).value == pytest.approx(value, abs=5.1e-5 if value > 0.1 else 5.1e-6)


def test_energy_in_one_dimension_is_the_square_of_scipy() -> None:
    x, y = cloud(40, 1), cloud(25, 1, 1, 0.5)
    assert compare("energy", x, y, biased=True).value == pytest.approx(energy_distance(x[:, 0], y[:, 0]) ** 2, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(30, 30), (40, 17)])
def test_plain_formulas(n: int, m: int) -> None:
    x, y = cloud(n), cloud(m, seed=1, shift=0.4)
    kernels = {
        "mmd": ({"sigma": 2.0}, lambda p, q: np.exp(-cdist(p, q, "sqeuclidean") / 8)),
        "kid": ({}, lambda p, q: (p @ q.T / p.shape[1] + 1) ** 3),
        "energy": ({}, lambda p, q: -cdist(p, q)),
    }
    for name, (options, kernel) in kernels.items():
        u, v = plain(kernel, x, y)
        assert compare(name, x, y, permutations=0, **options).value == pytest.approx(u, rel=1e-9)
        assert compare(name, x, y, permutations=0, biased=True, **options).value == pytest.approx(v, rel=1e-9)
    scales = [compare("mmd", x, y, sigma=2.0 * s).value for s in (0.5, 1.0, 4.0)]
    assert compare("mmd", x, y, sigma=2.0, scales=(0.5, 1.0, 4.0)).value == pytest.approx(np.mean(scales), rel=1e-12)


def test_unbiased_under_equal_laws_and_biased_by_what_is_stated() -> None:
    u, v = [], []
    for trial in range(200):
        x, y = cloud(20, 3, 2 * trial), cloud(20, 3, 2 * trial + 1)
        u.append(compare("energy", x, y, permutations=0).value)
        v.append(compare("energy", x, y, permutations=0, biased=True).value)
    assert abs(np.mean(u)) < 4 * np.std(u) / np.sqrt(200)
    expected = 4 / np.sqrt(np.pi) * (1 / 20 + 1 / 20)  # E|X - X'| of two normals in three dimensions is 4 / sqrt(pi)
    assert np.mean(v) - np.mean(u) == pytest.approx(expected, rel=0.05)


def test_one_bandwidth_for_all_pairs_of_a_run_whatever_their_order() -> None:
    views = {name: Embedding(cloud(30, seed=i, shift=i), name=name) for i, name in enumerate("abc")}
    scores = score_pairs(Mmd(), views, [("a", "b"), ("b", "c"), ("a", "c")])
    (found,) = {score.detail["sigma"] for score in scores.values()}  # type: ignore[union-attr]
    everything = np.concatenate([view.features for view in views.values()]).astype(float)
    assert found == pytest.approx(np.sqrt(np.median(pdist(everything, "sqeuclidean")) / 2), rel=1e-9)
    turned = score_pairs(Mmd(), dict(reversed(views.items())), [("a", "b")])["a", "b"]
    assert turned == scores["a", "b"]
    far = score_pairs(Mmd(), views | {"d": Embedding(cloud(30, seed=9, shift=50.0), name="d")}, [("a", "b")])["a", "b"]
    assert far.detail["sigma"] > 1.2 * found  # type: ignore[union-attr]
    fixed = score_pairs(Mmd(sigma=1.5), views, [("a", "b")])["a", "b"]
    assert fixed == compare("mmd", views["a"], views["b"], sigma=1.5)


def test_tiles_and_single_precision_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = cloud(90, seed=3), cloud(70, seed=4, shift=0.3)
    names: list[tuple[str, dict[str, Any]]] = [("mmd", {"sigma": 2.0}), ("kid", {}), ("energy", {})]
    before = [compare(name, x, y, **options) for name, options in names]
    monkeypatch.setattr(pairwise, "TILE", 300)
    tiled = [compare(name, x, y, **options) for name, options in names]
    monkeypatch.setattr(pairwise, "EXACT", 0)
    single = [compare(name, x, y, **options) for name, options in names]
    for one, two, three in zip(before, tiled, single, strict=True):
        assert two.value == pytest.approx(one.value, rel=1e-10)
        assert three.value == pytest.approx(one.value, rel=2e-5)
        assert one.p == two.p == three.p


@pytest.mark.parametrize("method", [Mmd(sigma=2.0), Mmd(sigma=2.0, scales=(0.5, 2.0)), Kid(), Energy(), Energy(biased=True)])
def test_tensors_give_the_numbers_of_arrays(method: Any) -> None:
    """The code that runs on a GPU, on tensors in this machine's memory."""
    import torch

    views = [Embedding(cloud(50, seed=5), name="a"), Embedding(cloud(40, seed=6, shift=0.2), name="b")]
    arrays = [method.summarize(view) for view in views]
    moved = [replace(one, points=replace(one.points, rows=torch.from_numpy(one.points.rows))) for one in arrays]
    first, second = (method.tested(*sides, np.random.default_rng(0)) for sides in (arrays, moved))
    assert second.value == pytest.approx(first.value, rel=1e-6)
    assert second.p == first.p
    for one in moved:  # the sums of the own kernel too
        total = sum(2 * float(tile.sum()) if r != c else float(tile.sum()) for r, c, tile in method.tiles(one.points, one.points))
        assert total == pytest.approx(one.own_sum + one.own_diagonal, rel=1e-6)


def test_permutations_give_the_statistic_of_a_gathered_matrix() -> None:
    """Every column of the one matrix product against the statistic computed plainly on the permuted rows."""
    x, y = cloud(12, seed=7), cloud(9, seed=8, shift=0.5)
    method = Mmd(sigma=1.5)
    rows = [method.summarize(Embedding(one, name=name)) for one, name in ((x, "a"), (y, "b"))]
    rows.sort(key=lambda one: one.points.digest)
    pooled = kernel_statistics._pooled(rows[0].points, rows[1].points)
    base = np.repeat([True, False], [len(rows[0]), len(rows[1])])
    sides = np.stack([base, *(np.random.default_rng(seed).permutation(base) for seed in range(30))], axis=1)
    found = kernel_statistics._statistics(pooled, method.tiles, sides, None)
    for column, value in zip(sides.T, found, strict=True):
        u, _ = plain(lambda p, q: np.exp(-cdist(p, q, "sqeuclidean") / 4.5), pooled.rows[column], pooled.rows[~column])
        assert value == pytest.approx(u, rel=1e-9, abs=1e-14)
    assert sides.sum(0).tolist() == [len(rows[0])] * 31


def test_p_has_its_level_and_finds_a_difference() -> None:
    trials = 300
    p = np.array([compare("energy", cloud(15, 2, 2 * t), cloud(10, 2, 2 * t + 1), permutations=99, seed=t).p for t in range(trials)], dtype=float)
    assert binom.cdf((p <= 0.05).sum(), trials, 0.05) > 0.001
    assert binom.sf((p <= 0.05).sum() - 1, trials, 0.05) > 0.001
    assert compare("energy", cloud(40), cloud(40, seed=1, shift=1.0)).p == 1 / 1000


def grouped(seed: int, groups: int, name: str) -> Embedding:
    """Five images of each patient, near to each other."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups, 2))
    members = np.repeat(np.arange(groups), 5)
    rows = centres[members] + 0.1 * rng.normal(size=(len(members), 2))
    return Embedding(rows.astype(np.float32), groups=tuple(f"{name}{g}" for g in members), name=name)


def test_patients_change_sides_as_a_whole() -> None:
    """Between sets of the same law, images as units reject far too often, patients as units keep the level."""
    trials = 150
    whole, single = [], []
    for t in range(trials):
        a, b = grouped(2 * t, 8, "a"), grouped(2 * t + 1, 6, "b")
        whole.append(compare("energy", a, b, permutations=99, seed=t).p)
        single.append(compare("energy", replace(a, groups=None), replace(b, groups=None), permutations=99, seed=t).p)
    assert binom.sf(sum(p <= 0.05 for p in whole) - 1, trials, 0.05) > 0.001
    assert np.mean([p <= 0.05 for p in single]) > 0.3


def test_few_patients_bound_p_and_the_score_says_so() -> None:
    score = compare("energy", grouped(0, 3, "a"), replace(grouped(1, 2, "b"), features=grouped(1, 2, "b").features + 100))
    assert score.detail["permuted_units"] == (3, 2)
    assert score.flags == ("p cannot be below 0.1: 3 and 2 units to permute",)
    assert score.p is not None
    assert 0.08 < score.p < 0.14


def test_the_same_images_are_at_zero_and_swapping_changes_nothing() -> None:
    x, y = Embedding(cloud(30), name="x"), Embedding(cloud(20, seed=1), name="y")
    for name in ("mmd", "kid", "energy"):
        assert compare(name, x, x).value == 0.0
        assert compare(name, x, x).p == 1.0
        there, back = compare(name, x, y), compare(name, y, x)
        assert (there.value, there.p) == (back.value, back.p)


def test_row_order_does_not_move_p() -> None:
    x, y = cloud(25), cloud(30, seed=1, shift=0.2)
    turned = np.random.default_rng(5).permutation(25)
    assert compare("mmd", x, y, sigma=1.0) == compare("mmd", x[turned], y, sigma=1.0)


def test_refusals_and_stated_answers() -> None:
    with pytest.raises(NotEnoughData, match="'source' has 1 image, an unbiased estimate needs at least 2 on each side"):
        compare("mmd", cloud(1), cloud(5), sigma=1.0)
    same = np.ones((8, 3), dtype=np.float32)
    with pytest.raises(NotEnoughData, match=r"half of the images of the run have equal features.*\nfix: set sigma"):
        compare("mmd", same, same + 0)
    assert compare("energy", same, 3 * same).value == pytest.approx(2 * np.sqrt(12), rel=1e-9)
    assert compare("energy", same, same + 0).value == 0.0
    with pytest.raises(UsageError, match=r"mmd\.scales.*the list of scales is empty"):
        compare("mmd", cloud(5), cloud(5, seed=1), scales=())
    with pytest.raises(UsageError, match=r"mmd.sigma"):
        compare("mmd", cloud(5), cloud(5, seed=1), sigma=-1.0)


def test_long_work_is_announced(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(pairwise, "FLOPS", 1e3)
    with caplog.at_level(logging.INFO, "simkit.estimators"):
        compare("energy", Embedding(cloud(50), name="left"), Embedding(cloud(60, seed=1), name="right"), permutations=10)
    said = [record.getMessage() for record in caplog.records]
    assert any("energy between left and right: 50 x 60 kernel of the pair, about" in line for line in said)
    assert any("110 x 110 kernel with 10 permutations" in line for line in said)


def test_no_tile_is_larger_than_stated() -> None:
    x = pairwise.points(Embedding(cloud(3000, 2)))
    y = pairwise.points(Embedding(cloud(2500, 2, 1)))
    for first, second in ((x, y), (x, x)):
        sizes = [tile.size for _, _, tile in pairwise.squared_distance_tiles(first, second)]
        assert max(sizes) <= pairwise.TILE
        assert len(sizes) > 1


def test_the_test_of_a_statistic_without_groups_has_a_unit_per_image() -> None:
    method = Energy()
    sides = [method.summarize(Embedding(cloud(n, seed=n), name=str(n))) for n in (8, 6)]
    found = permutation_test(*sides, "energy", method.tiles, 20, np.random.default_rng(0))
    assert sorted(found.units) == [6, 8]
    assert found.resolution == 1 / 21


def rejected(make: Any, *, trials: int = 150, level: float = 0.05) -> float:
    """Share of pairs made from a seed with p at most the level."""
    return float(np.mean([(compare("energy", *make(t), permutations=99, seed=t).p or 1.0) <= level for t in range(trials)]))


def test_copies_of_an_image_change_sides_together() -> None:
    """Every image twice: copies as units of their own would reject in half of the cases."""
    twice = rejected(lambda t: (np.repeat(cloud(20, 2, 2 * t), 2, axis=0), np.repeat(cloud(20, 2, 2 * t + 1), 2, axis=0)))
    assert binom.sf(round(150 * twice) - 1, 150, 0.05) > 0.001


def test_one_patient_against_many_counts_only_what_has_a_statistic() -> None:
    """A side of a single image has no unbiased estimate: such assignments are left out, and p has the resolution of what is left."""
    def pair(t: int) -> tuple[Embedding, Embedding]:
        one = Embedding(cloud(20, 3, 2 * t), groups=("p",) * 20, name="one")
        return one, Embedding(cloud(30, 3, 2 * t + 1), groups=tuple(f"q{i}" for i in range(30)), name="many")

    assert rejected(pair, trials=40) <= 0.1
    assert compare("energy", *pair(0)).p is None  # every exchange would leave one image on a side
    other = Embedding(cloud(30, 3, 1), groups=tuple(f"q{i // 2}" for i in range(30)), name="pairs")
    score = compare("energy", pair(0)[0], other)
    assert score.p is not None
    assert score.detail["p_resolution"] == pytest.approx(1 / 16)


def test_patients_of_both_sets_exchange_their_two_parts() -> None:
    """The same patients before and after: the shift shows within each of them, and the score says how many there are."""
    rng = np.random.default_rng(0)
    own = 3 * np.repeat(rng.normal(size=(12, 2)), 5, axis=0)
    groups = tuple(f"p{i // 5}" for i in range(60))
    shifts = {"a": 0.0, "b": 0.6}
    before, after = (Embedding((own + 0.3 * rng.normal(size=(60, 2)) + s).astype(np.float32), groups=groups, name=n) for n, s in shifts.items())
    score = compare("energy", before, after)
    assert score.p is not None
    assert score.p <= 0.01
    assert "12 groups are in both sets: p has little power" in score.flags
    image = compare("energy", cloud(20), np.concatenate([cloud(20)[:8], cloud(12, seed=1)]))
    assert "8 images are in both sets: p has little power" in image.flags


def test_the_smallest_p_counts_both_directions_of_a_swap() -> None:
    method = Energy(permutations=99)
    score = compare(method, cloud(3), cloud(3, seed=1, shift=50.0))
    assert score.detail["p_resolution"] == pytest.approx(0.1)
    assert score.flags == ("p cannot be below 0.1: 3 and 3 units to permute",)


def test_without_anything_to_exchange_there_is_no_p() -> None:
    """Copies of one image against others: no assignment but the one that was observed."""
    score = compare("energy", cloud(30), np.full((20, 6), 3.0))
    assert score.p is None
    assert any(flag.startswith("no permutation test: 30 and 1 different images or groups") for flag in score.flags)
