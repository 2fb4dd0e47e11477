"""Descriptors of one set: closed forms, values on digits, formulas computed plainly, what they do with copies and constant features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simkit.embedding import Embedding
from simkit.errors import DataError, NotEnoughData, UsageError
from simkit.estimators import vendi
from simkit.estimators.checks import check_estimator
from simkit.estimators.comparison import compare
from simkit.registry import ESTIMATORS, Text, build_options

DESCRIPTORS = ("vendi", "effective-rank", "intrinsic-dimension")


def cloud(n: int, d: int = 12, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, d)) + shift).astype(np.float32)


def of(name: str, x: np.ndarray, **options: Any) -> float:
    return compare(name, x, np.ones((3, x.shape[1])), **options).value


def turned(x: np.ndarray, into: int, seed: int = 0) -> np.ndarray:
    """The rows in ``into`` dimensions: an isometry."""
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(into, into)))[0][: x.shape[1]]
    return x @ axes


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32), y


def test_vendi_of_digits(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """Reference values of a survey of other tools (unit rows), to their two digits: even and odd rows, halves, classes, all."""
    x, y = digits
    for part, expected in ((x[::2], 4.64), (x[1::2], 4.69), (x[:898], 4.51), (x[898:], 4.73), (x[y < 5], 4.31), (x[y >= 5], 4.24), (x, 4.68)):
        assert of("vendi", part) == pytest.approx(expected, abs=6e-3)


@pytest.mark.parametrize("q", [0.1, 0.5, 1.0, 1.5, 2.0, 30.0, "inf"])
@pytest.mark.parametrize("shape", [(40, 12), (20, 60)])
def test_vendi_is_its_definition(q: Any, shape: tuple[int, int]) -> None:
    """From the whole n x n kernel, by the definition."""
    x = cloud(*shape, shift=0.5).astype(float)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    p = np.linalg.eigvalsh(unit @ unit.T / len(x))
    p = p[p > 1e-12]
    expected = 1 / p.max() if q == "inf" else np.exp(-(p @ np.log(p))) if q == 1 else (p**q).sum() ** (1 / (1 - q))
    assert of("vendi", x, q=q) == pytest.approx(expected, rel=1e-5)


def test_vendi_closed_forms() -> None:
    orthogonal = np.repeat(3.0 * np.eye(6), 4, axis=0)
    for q in (0.0, 0.3, 1.0, 2.0, "inf"):
        assert of("vendi", orthogonal, q=q) == pytest.approx(6.0, rel=1e-9)  # six kinds of image, equally often
        assert of("vendi", np.outer(np.arange(1, 9), np.ones(5)), q=q) == pytest.approx(1.0, rel=1e-9)  # one direction
    unequal = np.repeat(np.eye(2), [3, 1], axis=0)
    assert of("vendi", unequal) == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)), rel=1e-9)
    assert of("vendi", unequal, q=2.0) == pytest.approx(1 / (0.75**2 + 0.25**2), rel=1e-9)
    assert of("vendi", unequal, q="inf") == pytest.approx(4 / 3, rel=1e-9)
    assert of("vendi", unequal, q=0.0) == pytest.approx(2.0, rel=1e-9)
    assert of("vendi", cloud(1)) == 1.0
    assert of("vendi", np.zeros((7, 3))) == 1.0
    assert of("vendi", 1e-30 * orthogonal) == pytest.approx(6.0, rel=1e-9)
    assert of("vendi", np.concatenate([orthogonal, np.zeros((4, 6))])) == pytest.approx(7.0, rel=1e-9)  # one more direction
    score = compare("vendi", np.concatenate([orthogonal, np.zeros((40, 6))]), np.ones((3, 6)))
    assert (score.detail["zero_rows"], score.detail["rank"]) == (40, 7)
    assert score.detail["largest_eigenvalue"] == pytest.approx(40 / 64)


def test_vendi_of_many_isotropic_rows_is_the_dimension() -> None:
    assert of("vendi", cloud(20_000, 10)) == pytest.approx(10.0, rel=1e-3)


def test_order_near_one_and_infinite_orders_are_the_limits() -> None:
    x = cloud(50)
    for order in (1 - 2e-6, 1 - 1e-9, 1 + 2e-6):
        assert of("vendi", x, q=order) == pytest.approx(of("vendi", x), rel=1e-5)
    assert of("vendi", x, q=1e4) == pytest.approx(of("vendi", x, q="inf"), rel=1e-3)
    assert vendi.Vendi(q=float("inf")) == vendi.Vendi(q="inf")
    assert vendi.Vendi(**build_options(vendi.Vendi, {"q": Text("inf")}, "vendi")).q == "inf"
    assert vendi.Vendi(**build_options(vendi.Vendi, {"q": Text("2")}, "vendi")).q == 2.0
    values = [of("vendi", x, q=order) for order in (0.0, 0.5, 1.0, 2.0, "inf")]
    assert values == sorted(values, reverse=True)
    with pytest.raises(UsageError, match=r"vendi\.q.*>= 0"):
        of("vendi", x, q=-1.0)


@pytest.mark.parametrize("shape", [(50, 12), (20, 60)])
def test_effective_rank_is_its_definition(shape: tuple[int, int]) -> None:
    x = cloud(*shape, shift=3.0).astype(float) * np.geomspace(1, 0.01, shape[1])
    x = x.astype(np.float32).astype(float)
    s = np.linalg.svd(x - x.mean(0), compute_uv=False)
    s = s[s > 1e-9 * s[0]]
    for values, which in ((s, "singular-values"), (s**2, "eigenvalues")):
        p = values / values.sum()
        assert of("effective-rank", x, of=which) == pytest.approx(np.exp(-(p @ np.log(p))), rel=1e-6)


def test_effective_rank_closed_forms() -> None:
    corners = np.concatenate([np.eye(5), -np.eye(5)])  # mean 0, all directions alike
    for which in ("singular-values", "eigenvalues"):
        assert of("effective-rank", turned(corners, 9) + 4.0, of=which) == pytest.approx(5.0, rel=1e-4)
        assert of("effective-rank", np.outer(np.arange(6), np.ones(4)), of=which) == pytest.approx(1.0, rel=1e-6)
    box = corners * np.array([3.0, 1.0, 0, 0, 0])
    p, v = np.array([0.75, 0.25]), np.array([0.9, 0.1])
    assert of("effective-rank", box) == pytest.approx(np.exp(-(p @ np.log(p))), rel=1e-9)
    assert of("effective-rank", box, of="eigenvalues") == pytest.approx(np.exp(-(v @ np.log(v))), rel=1e-9)
    score = compare("effective-rank", box, corners)
    assert (score.detail["rank"], score.detail["largest_share"]) == (2, pytest.approx(0.75))


def test_effective_rank_does_not_see_a_common_offset() -> None:
    x = np.round(cloud(40, 6) * 256) / 256
    assert of("effective-rank", x + 1024.0) == pytest.approx(of("effective-rank", x), rel=1e-9)


def test_no_direction_is_refused() -> None:
    with pytest.raises(NotEnoughData, match=r"SK501.*effective-rank: 'source' has 1 image: they spread in no direction"):
        of("effective-rank", cloud(1))
    with pytest.raises(NotEnoughData, match=r"'source' has 7 images of equal features: they spread in no direction"):
        of("effective-rank", np.full((7, 3), 0.1))


@pytest.mark.parametrize(("estimator", "k"), [("two-nn", 20), ("mle", 10), ("mle", 20)])
@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_intrinsic_dimension_of_a_rotated_cube(estimator: str, k: int, dimension: int) -> None:
    x = turned(np.random.default_rng(0).uniform(size=(2500, dimension)), 20)
    assert of("intrinsic-dimension", x, estimator=estimator, k=k) == pytest.approx(dimension, rel=0.1)


def test_intrinsic_dimension_formulas() -> None:
    """Facco's fit and the averaged maximum likelihood, written out over all distances."""
    x = cloud(200, 4).astype(float)
    r = np.sort(np.linalg.norm(x[:, None] - x[None], axis=2), axis=1)[:, 1:]
    mu = np.sort(r[:, 1] / r[:, 0])[:180]
    design, wanted = np.log(mu), np.array([-np.log(1 - i / 200) for i in range(1, 181)])
    slope = np.linalg.lstsq(design[:, None], wanted, rcond=None)[0][0]
    assert of("intrinsic-dimension", x) == pytest.approx(slope, rel=1e-6)
    inverse = [np.mean([np.log(row[9] / row[j]) for j in range(9)]) for row in r]
    assert of("intrinsic-dimension", x, estimator="mle", k=10) == pytest.approx(1 / np.mean(inverse), rel=1e-6)


def test_copies_are_left_out_and_counted() -> None:
    x = cloud(100, 3)
    copies = np.concatenate([x, x[:30], x[:30]])
    for options in ({}, {"estimator": "mle"}):
        score = compare("intrinsic-dimension", copies, x, **options)
        assert score.value == of("intrinsic-dimension", x, **options)
        assert (score.detail["duplicates"], score.detail["images"], score.detail["n"]) == (60, 100, 160)


def test_too_few_neighbours_are_refused() -> None:
    with pytest.raises(NotEnoughData, match=r"SK501.*'source' has 2 distinct images: two-nn with 2 neighbours needs at least 3\nfix: give more images"):
        of("intrinsic-dimension", np.repeat(cloud(2), 5, axis=0))
    with pytest.raises(NotEnoughData, match=r"'source' has 15 distinct images: mle with 20 neighbours needs at least 21\nfix: set k to at most 14"):
        of("intrinsic-dimension", cloud(15), estimator="mle")
    with pytest.raises(NotEnoughData, match=r"the 2 nearest neighbours of each image are equally far, which no dimension explains"):
        of("intrinsic-dimension", np.eye(6))
    with pytest.raises(NotEnoughData, match=r"the 4 nearest neighbours of each image are equally far"):
        of("intrinsic-dimension", np.eye(6), estimator="mle", k=4)
    with pytest.raises(NotEnoughData, match="'source' has 1 distinct image: "):
        of("intrinsic-dimension", np.ones((9, 2)))


def test_the_target_is_not_read_and_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target of one image will do; a source is described once for all targets."""
    source = Embedding(cloud(40), name="s")
    for name in DESCRIPTORS:
        measure = ESTIMATORS.build(name)
        asked = []
        describe = type(measure).describe
        monkeypatch.setattr(type(measure), "describe", lambda self, view, describe=describe, asked=asked: (asked.append(view.name), describe(self, view))[1])
        one, two = (measure.summarize(Embedding(cloud(1, seed=s), name="t")) for s in (1, 2))
        summary = measure.summarize(source)
        rng = np.random.default_rng(0)
        assert measure.compare(summary, one, rng) is measure.compare(summary, two, rng)
        assert asked == ["s"]


def test_nan_is_refused() -> None:
    spoilt = Embedding(cloud(20), name="spoilt")
    spoilt.features[3, 2] = np.nan
    for name in DESCRIPTORS:
        with pytest.raises(DataError, match=r"SK210.*spoilt: features hold NaN or infinite values"):
            compare(name, spoilt, cloud(5, seed=1))


def test_values_on_torch_are_those_on_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from simkit.estimators import effective_rank, neighbour_balls

    sets = [cloud(40), cloud(20, 60), np.concatenate([cloud(30), np.zeros((3, 12), dtype=np.float32)])]
    plain = [[of(name, x) for x in sets] for name in DESCRIPTORS]
    for module in (vendi, effective_rank, neighbour_balls):
        monkeypatch.setattr(module, "placed", lambda array, device: torch.from_numpy(np.ascontiguousarray(array)))
    for name, values in zip(DESCRIPTORS, plain, strict=True):
        assert [of(name, x) for x in sets] == pytest.approx(values, rel=1e-6)


def test_pieces_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [cloud(40), cloud(20, 60)]
    whole = [[of(name, x) for x in sets] for name in DESCRIPTORS[:2]]
    monkeypatch.setattr(vendi, "CHUNK", 7)
    assert [[of(name, x) for x in sets] for name in DESCRIPTORS[:2]] == [pytest.approx(values, rel=1e-10) for values in whole]


def test_inputs_of_one_feature() -> None:
    x = cloud(30, 1)
    assert of("vendi", x) == pytest.approx(1.0)
    assert of("effective-rank", x) == pytest.approx(1.0)
    assert of("intrinsic-dimension", cloud(2000, 1)) == pytest.approx(1.0, rel=0.1)


def test_cost_is_predicted_and_grows() -> None:
    for name in DESCRIPTORS:
        measure = ESTIMATORS.build(name)
        assert measure.seconds(5000, 10) == measure.seconds(5000, 10_000)
        assert measure.seconds(50_000, 10) > 3 * measure.seconds(5000, 10)


@pytest.mark.parametrize(("name", "options"), [
    ("vendi", {}), ("vendi", {"q": 2.0}), ("vendi", {"q": "inf"}), ("effective-rank", {}), ("effective-rank", {"of": "eigenvalues"}),
    ("intrinsic-dimension", {}), ("intrinsic-dimension", {"estimator": "mle"}),
])
def test_promises(name: str, options: dict[str, Any]) -> None:
    check_estimator(name, options=options)
