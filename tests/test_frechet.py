"""Fréchet distance: values of other tools on digits, exact truths, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from simkit.embedding import Embedding
from simkit.errors import NotEnoughData, UsageError
from simkit.estimators.base import compare, score_pairs
from simkit.estimators.checks import check_estimator
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


@pytest.mark.parametrize("covariance", ["full", "diagonal", "mean-only"])
def test_promises(covariance: str) -> None:
    check_estimator(Frechet(covariance=covariance))  # type: ignore[arg-type]
