"""Fréchet distance: values of other tools on digits, exact truths, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from simkit.embedding import Embedding
from simkit.errors import NotEnoughData, UsageError
from simkit.estimators.checks import check_estimator
from simkit.estimators.comparison import compare, score_pairs
from simkit.estimators.frechet import Frechet
from simkit.registry import ESTIMATORS


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32), y


def cloud(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / np.sqrt(d)).astype(np.float32)


def test_values_of_four_fid_tools_on_digits(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """pytorch-fid, clean-fid, torch-fidelity and torchmetrics agree on these to six digits; the covariances are singular (three constant pixels)."""
    x, y = digits
    turned = np.rot90(x.reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, 64)
    cases = [(x[::2], x[1::2], 0.070525), (x[:898], x[898:], 0.295212), (x[y < 5], x[y >= 5], 2.088148), (x, turned, 12.064946)]
    for source, target, expected in cases:
        score = compare("frechet", source, target)
        assert score.value == pytest.approx(expected, abs=1e-6)
        assert score.detail["mean_part"] + score.detail["covariance_part"] == score.value
        assert score.flags == ()


@pytest.mark.parametrize(("n", "m"), [(300, 300), (300, 450)])
def test_matrix_square_root_agrees_where_it_works(n: int, m: int) -> None:
    x, y = cloud(n, 20).astype(float), (cloud(m, 20, 1) * 1.3 + 0.2).astype(np.float32).astype(float)
    a, b = np.cov(x.T), np.cov(y.T)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b) - 2 * np.trace(sqrtm(a @ b).real)
    assert compare("frechet", x, y).value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [40, 64, 65, 400])
def test_exact_truths_for_fewer_as_many_and_more_images_than_features(n: int) -> None:
    x = np.round(cloud(n, 64) * 1024) / 1024  # so that 1.5 x is exact in float32
    trace = float(np.var(x.astype(float), axis=0, ddof=1).sum())
    moved = compare("frechet", x, 1.5 * x)
    mean = x.astype(float).mean(0)
    assert abs(moved.value - 0.25 * (mean @ mean) - 0.25 * trace) < 1e-8 * trace
    assert compare("frechet", x, x.copy()).value == 0.0
    shuffled = compare("frechet", x, np.random.default_rng(1).permutation(x)).value
    assert 0.0 <= shuffled < 1e-8 * trace


def test_shift_is_the_squared_shift() -> None:
    x = np.round(cloud(200, 16) * 256) / 256
    assert compare("frechet", x, x + 0.5).value == pytest.approx(16 * 0.25, rel=1e-9)


def test_symmetric_to_the_last_bit() -> None:
    for n, m in [(30, 50), (50, 50), (400, 30), (400, 400)]:
        x, y = cloud(n, 48), cloud(m, 48, 1) * 2
        assert compare("frechet", x, y).value == compare("frechet", y, x).value


def test_invariant_to_rotation_and_order_and_quadratic_in_scale() -> None:
    x, y = cloud(120, 12), cloud(90, 12, 1) + 0.5
    value = compare("frechet", x, y).value
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(12, 12)))[0]
    assert compare("frechet", x @ turn, y @ turn).value == pytest.approx(value, rel=1e-5)
    assert compare("frechet", x[::-1], y).value == pytest.approx(value, rel=1e-12)
    assert compare("frechet", 4 * x, 4 * y).value == pytest.approx(16 * value, rel=1e-12)


def test_diagonal_and_mean_only_are_their_closed_forms() -> None:
    x, y = cloud(80, 10).astype(float), cloud(60, 10, 1).astype(float) * 2 + 1
    y = y.astype(np.float32).astype(float)
    gap = float(((x.mean(0) - y.mean(0)) ** 2).sum())
    spread = float(((x.std(0, ddof=1) - y.std(0, ddof=1)) ** 2).sum())
    assert compare("frechet", x, y, covariance="mean-only").value == pytest.approx(gap, rel=1e-10)
    diagonal = compare("frechet", x, y, covariance="diagonal")
    assert diagonal.value == pytest.approx(gap + spread, rel=1e-10)
    assert diagonal.detail["covariance_part"] == pytest.approx(spread, rel=1e-10)
    assert diagonal.value <= compare("frechet", x, y).value
    independent = np.random.default_rng(0).normal(size=(64, 3)) * [1, 2, 3]
    assert compare("frechet", independent, 3 * independent, covariance="diagonal").value >= compare("frechet", independent, 3 * independent).value - 1e-6


def test_detail_and_flags_say_what_it_rests_on() -> None:
    score = compare("frechet", cloud(20, 30), cloud(25, 30, 1))
    assert score.flags == ("n<d",)
    assert score.detail["n"] == (20, 25)
    assert score.detail["d"] == 30
    assert score.detail["trace"][0] == pytest.approx(np.var(cloud(20, 30).astype(float), axis=0, ddof=1).sum(), rel=1e-9)
    assert compare("frechet", cloud(20, 30), cloud(25, 30, 1), covariance="diagonal").flags == ()
    assert "squared" in Frechet.unit.lower()
    assert "FD²" in Frechet.unit


def test_equal_rows_give_a_defined_result_and_a_flag() -> None:
    constant = np.full((9, 4), 0.1, dtype=np.float32)
    score = compare("frechet", constant, cloud(30, 4))
    trace, gap = np.var(cloud(30, 4).astype(float), axis=0, ddof=1).sum(), cloud(30, 4).astype(float).mean(0) - np.float64(np.float32(0.1))
    assert score.value == pytest.approx(trace + gap @ gap, rel=1e-9)
    assert "all images of a data set have equal features" in score.flags
    assert compare("frechet", constant, constant.copy()).value == 0.0


def test_one_image_is_refused_where_a_covariance_is_needed() -> None:
    for covariance in ("full", "diagonal"):
        with pytest.raises(NotEnoughData, match=r"SK501.*'target' has 1 image: a covariance needs at least 2"):
            compare("frechet", cloud(9, 4), cloud(1, 4), covariance=covariance)
    assert compare("frechet", cloud(9, 4), cloud(1, 4), covariance="mean-only").value > 0


def test_one_small_set_does_not_stop_the_others() -> None:
    views = {"a": Embedding(cloud(9, 4), name="a"), "b": Embedding(cloud(8, 4, 1), name="b"), "one": Embedding(cloud(1, 4), name="one")}
    scores = score_pairs(Frechet(), views, [("one", "b"), ("a", "b")])
    assert isinstance(scores["one", "b"], NotEnoughData)
    assert scores["a", "b"].value > 0  # type: ignore[union-attr]


def test_wrong_option_is_named() -> None:
    with pytest.raises(UsageError, match=r"frechet\.covariance.*expected one of: full, diagonal, mean-only"):
        ESTIMATORS.build({"frechet": {"covariance": "ful"}})


def test_mixtures_are_ordered_by_their_share(digits: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = digits
    mixed = np.random.default_rng(0).permutation(1797)  # the writers change along the file
    x, y = x[mixed], y[mixed]
    base, other, target = x[y < 5][:400], x[y >= 5][:400], x[y < 5][400:800]
    values = [compare("frechet", np.concatenate([base[: 400 - k], other[:k]]), target).value for k in (0, 100, 200, 300, 400)]
    assert values == sorted(values)


@pytest.mark.parametrize("covariance", ["full", "diagonal", "mean-only", "shrunk"])
def test_promises(covariance: str) -> None:
    check_estimator(Frechet(covariance=covariance))  # type: ignore[arg-type]


def root_distance(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> float:
    """FD² by scipy's matrix square root, from means and covariances."""
    (m, a), (k, b) = first, second
    return float(((m - k) ** 2).sum() + np.trace(a + b) - 2 * np.trace(sqrtm(a @ b).real))


@pytest.mark.parametrize(("n", "m"), [(30, 45), (200, 150)])
def test_shrunk_covariances_are_those_of_scikit_learn(n: int, m: int) -> None:
    from sklearn.covariance import ledoit_wolf

    x, y = cloud(n, 40).astype(float), (cloud(m, 40, 1) * 1.3 + 0.2).astype(np.float32).astype(float)
    expected = root_distance(*((side.mean(0), ledoit_wolf(side)[0]) for side in (x, y)))
    score = compare("frechet", x, y, covariance="shrunk")
    assert score.value == pytest.approx(expected, rel=1e-7)
    assert score.detail["shrinkage"] == pytest.approx((ledoit_wolf(x)[1], ledoit_wolf(y)[1]))
    assert score.detail["trace"][0] == pytest.approx(np.trace(ledoit_wolf(x)[0]))


def test_shrinking_equal_rows_leaves_the_distance_of_points() -> None:
    same = np.ones((5, 3), dtype=np.float32)
    score = compare("frechet", same, same + 1, covariance="shrunk")
    assert score.value == pytest.approx(3.0)
    assert score.flags == ("all images of a data set have equal features",)


def hard(kind: str) -> np.ndarray:
    """Rows whose covariance a Cholesky factor would spoil, or that look as if."""
    x = cloud(300, 24)
    rng = np.random.default_rng(7)
    if kind == "scales":
        return (x * np.logspace(-6, 6, 24)).astype(np.float32)
    if kind == "dependent":
        return np.concatenate([x[:, :16], x[:, :4] + x[:, 4:8], x[:, 8:12]], axis=1)
    if kind == "nearly dependent":
        return np.concatenate([x[:, :20], x[:, :4] * (1 + 1e-6 * rng.normal(size=(300, 4)))], axis=1).astype(np.float32)
    if kind == "few distinct rows":
        return np.repeat(x[:10], 30, axis=0)
    if kind == "constant features":
        x[:, ::3] = 2.5
        return x
    return x + np.float32(1000)


@pytest.mark.parametrize("kind", ["scales", "dependent", "nearly dependent", "few distinct rows", "constant features", "offset"])
def test_hard_covariances_are_as_exact_as_easy_ones(kind: str) -> None:
    """Y = 2 X is exact in float32, and the distance is |mean|² + tr S."""
    x = hard(kind)
    trace = float(np.var(x.astype(float), axis=0, ddof=1).sum())
    mean = x.astype(float).mean(0)
    assert abs(compare("frechet", x, 2 * x).value - mean @ mean - trace) < 1e-8 * trace + 1e-13 * (mean @ mean)
    assert 0.0 <= compare("frechet", x, x[::-1]).value < 1e-8 * trace


@pytest.mark.parametrize("spread", [0.0, 3.0, 4.5, 6.0])
@pytest.mark.parametrize("scales", ["none", "between features", "undone by the map"])
def test_maps_of_known_distance_at_every_condition(spread: float, scales: str) -> None:
    """Y = A X with A diagonal and positive is the optimal map: the distance is sum (a - 1)² var. Powers of two make it exact in floating point."""
    rng, d = np.random.default_rng(3), 48
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    x = ((rng.normal(size=(200, d)) * np.geomspace(1, 10.0**-spread, d)) @ turn).astype(np.float32)
    scale = np.ones(d) if scales == "none" else 2.0 ** rng.integers(-15, 16, size=d)
    stretch = 2.0 ** rng.integers(-6, 7, size=d) if scales != "undone by the map" else scale.max() / scale
    x = (x * scale).astype(np.float32)
    wide = x.astype(float)
    expected = ((stretch - 1) ** 2 * wide.var(0, ddof=1)).sum() + ((stretch - 1) * wide.mean(0)) @ ((stretch - 1) * wide.mean(0))
    assert compare("frechet", x, (x * stretch).astype(np.float32)).value == pytest.approx(expected, rel=5e-9)


def test_well_conditioned_covariances_take_the_fast_way_and_agree_with_the_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from simkit.transport import gaussian

    x, y = cloud(400, 48), cloud(300, 48, 1) * 2
    fast = [gaussian.gaussian_of(side) for side in (x, y)]
    assert all(one.covariance is not None for one in fast)
    monkeypatch.setattr(gaussian, "CONDITION", 1.0)
    slow = [gaussian.gaussian_of(side) for side in (x, y)]
    assert all(one.covariance is None for one in slow)
    assert sum(gaussian.gaussian_distance(*fast)) == pytest.approx(sum(gaussian.gaussian_distance(*slow)), rel=1e-10)
    mixed = sum(gaussian.gaussian_distance(fast[0], slow[1]))
    assert mixed == pytest.approx(sum(gaussian.gaussian_distance(*slow)), rel=1e-10)


@pytest.mark.parametrize(("n", "m"), [(300, 200), (20, 30), (40, 300), (1, 50)])
def test_tensors_give_the_numbers_of_arrays(n: int, m: int) -> None:
    """The code that runs on a GPU, on tensors in this machine's memory: factors by eigh, never eigvals."""
    import torch

    from simkit.transport import gaussian

    x, y = cloud(n, 40), (cloud(m, 40, 1) + np.float32(0.3)) * np.float32(1.2)
    y[:, 3] = 1.0
    expected = sum(gaussian.gaussian_distance(gaussian.gaussian_of(x), gaussian.gaussian_of(y)))
    found = [gaussian.gaussian_of(torch.from_numpy(side)) for side in (x, y)]
    assert sum(gaussian.gaussian_distance(*found)) == pytest.approx(expected, rel=1e-6)
    assert sum(gaussian.gaussian_distance(*found[::-1])) == pytest.approx(expected, rel=1e-6)
    assert sum(gaussian.gaussian_distance(found[0], gaussian.gaussian_of(torch.from_numpy(x.copy())))) == 0.0


def test_frechet_infinity_takes_off_most_of_the_bias() -> None:
    """Gaussians of known distance: the intercept is nearer to it than the value at all images, by far."""
    truth, plain, infinite = 12 * 0.25 + 12 * 0.25, [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(300, 12)), 1.5 * rng.normal(size=(300, 12)) + 0.5
        plain.append(compare("frechet", x, y).value)
        score = compare("frechet-infinity", x, y)
        infinite.append(score.value)
        assert score.flags == ()
    assert np.mean(plain) - truth > 0.2
    assert abs(np.mean(infinite) - truth) < 0.3 * (np.mean(plain) - truth)
    assert score.detail["sizes"][0] == 60
    assert score.detail["sizes"][-1] == 300
    slope, intercept = np.polyfit(1 / np.array(score.detail["sizes"]), score.detail["values"], 1)
    assert score.value == pytest.approx(intercept)
    assert score.detail["slope"] == pytest.approx(slope)
    assert score.detail["values"][-1] == pytest.approx(compare("frechet", x, y).value, rel=1e-9)


def test_frechet_infinity_says_where_the_line_bends_and_refuses_a_handful() -> None:
    score = compare("frechet-infinity", cloud(60, 30), cloud(50, 30, 1))
    assert score.flags == ("from 10 images on, the line needs more than twice the 30 features",)
    assert compare("frechet-infinity", cloud(60, 30), cloud(60, 30)).value == 0.0
    with pytest.raises(NotEnoughData, match="'target' has 19 images, a line through several sample sizes needs at least 20"):
        compare("frechet-infinity", cloud(60, 5), cloud(19, 5))
