"""Coverage, density, precision, recall and the nearest source image: prdc, torch-fidelity and scipy; ties, copies, large sets, torch, refusals."""

from __future__ import annotations

import contextlib
import io
import logging
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from simkit.embedding import Embedding
from simkit.errors import DataError, NotEnoughData, UsageError
from simkit.estimators import neighbour_balls, pairwise
from simkit.estimators.checks import check_estimator
from simkit.estimators.comparison import compare
from simkit.estimators.neighbour_balls import distinct_rows, nearest
from simkit.registry import ESTIMATORS

MEASURES = ("coverage", "density", "precision", "recall")


def cloud(n: int, d: int = 12, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, d)) + shift).astype(np.float32)


def plainly(name: str, source: np.ndarray, target: np.ndarray, k: int) -> float:
    """The definitions, from whole matrices in float64."""
    between = cdist(target, source, "sqeuclidean")
    of_target, of_source = (np.sort(cdist(x, x, "sqeuclidean"), axis=1)[:, k] for x in (target, source))
    if name in ("coverage", "density"):  # open balls with their centre
        inside = (between < of_target[:, None]) | (between == 0)
        return float(inside.any(1).mean() if name == "coverage" else inside.sum() / k / len(source))
    if name == "precision":
        return float((between <= of_target[:, None]).any(0).mean())
    return float((between <= of_source[None, :]).any(1).mean())


@pytest.fixture(scope="module")
def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(target, source) of digits: halves that grow apart."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    turned = np.rot90(x.reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, 64)
    return {"even/odd": (x[::2], x[1::2]), "halves": (x[:898], x[898:]), "classes": (x[y < 5], x[y >= 5]), "turned": (x, turned)}


@pytest.fixture(params=["small", "large", "torch"])
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All three ways to search: float64 tiles; float32 tiles and faiss, as above 2^24 distances; and float32 tiles of torch."""
    if request.param != "small":
        monkeypatch.setattr(pairwise, "EXACT", 1000)
        monkeypatch.setattr(neighbour_balls, "EXACT", 1000)
        monkeypatch.setattr(pairwise, "TILE", 2**14)
    if request.param == "torch":
        import torch

        monkeypatch.setattr(neighbour_balls, "placed", lambda array, device: torch.from_numpy(np.ascontiguousarray(array)))
    return str(request.param)


@pytest.mark.parametrize(("case", "coverage", "density"), [("even/odd", 0.968, 0.971), ("halves", 0.700, 0.603), ("classes", 0.029, 0.041), ("turned", 0, 0)])
def test_coverage_and_density_of_digits(cases: Any, case: str, coverage: float, density: float) -> None:
    """Values of package prdc 0.2 at k = 5, which also counts balls of the first set that hold images of the second."""
    target, source = cases[case]
    assert compare("coverage", source, target).value == pytest.approx(coverage, abs=6e-4)
    assert compare("density", source, target).value == pytest.approx(density, abs=6e-4)


@pytest.mark.parametrize(("case", "precision"), [("even/odd", 0.894), ("halves", 0.703), ("classes", 0.073), ("turned", 0)])
def test_precision_of_digits(cases: Any, case: str, precision: float) -> None:
    """Values of torch-fidelity 0.4.0 at k = 3; recall is precision the other way round."""
    target, source = cases[case]
    assert compare("precision", source, target).value == pytest.approx(precision, abs=6e-4)
    assert compare("recall", target, source).value == pytest.approx(precision, abs=6e-4)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_all_four_agree_with_prdc(k: int) -> None:
    prdc = pytest.importorskip("prdc")
    source, target = cloud(300), cloud(200, seed=1, shift=0.2)
    with contextlib.redirect_stdout(io.StringIO()):
        peer = prdc.compute_prdc(target, source, k)
    for name in MEASURES:
        assert compare(name, source, target, k=k).value == pytest.approx(float(peer[name]), rel=1e-12), name


def test_precision_and_recall_agree_with_torch_fidelity() -> None:
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    import torch

    source, target = cloud(300), cloud(200, seed=1, shift=0.2)
    precision, recall = prc.calculate_precision_recall_full(torch.from_numpy(source), torch.from_numpy(target), 3)
    assert compare("precision", source, target).value == pytest.approx(precision, abs=1e-6)
    assert compare("recall", source, target).value == pytest.approx(recall, abs=1e-6)


@pytest.mark.parametrize("name", MEASURES)
def test_values_do_not_depend_on_the_way(ways: str, name: str) -> None:
    """Generic data, data of many ties, copies, and an outlier, against the definitions."""
    rng = np.random.default_rng(5)
    integers = rng.integers(0, 4, size=(2, 150, 4)).astype(np.float32)
    copies = cloud(60)[rng.integers(60, size=150)], cloud(60)[rng.integers(60, size=140)]
    outlier = cloud(130), cloud(120, seed=2)
    outlier[0][7] = 1e4
    thirds = rng.integers(0, 3, size=(2, 120, 5)).astype(np.float32) / np.float32(3) + np.float32(7)
    for source, target in (outlier[::-1], outlier, (cloud(150), cloud(130, seed=1)), tuple(integers), copies, tuple(thirds)):
        assert compare(name, source, target, k=3).value == pytest.approx(plainly(name, source.astype(float), target.astype(float), 3), rel=1e-12)


def test_clusters_that_float32_cannot_resolve(ways: str) -> None:
    """Two clouds of width .001 that are 100 apart: their balls are smaller than the noise of float32 tiles."""
    def pair(seed: int) -> np.ndarray:
        x = 0.001 * cloud(160, 6, seed)
        x[80:] += 50.0
        return x

    source, target = pair(0), pair(1)
    for name in MEASURES:
        expected = plainly(name, source.astype(float), target.astype(float), 3)
        assert compare(name, source, target, k=3).value == pytest.approx(expected, rel=1e-12), name
    expected = cdist(target.astype(float), source.astype(float)).min(1).mean()
    assert compare("nearest-neighbour", source, target, normalise=False).value == pytest.approx(expected, rel=1e-12)


def test_nearest_rows_are_those_of_scipy(ways: str) -> None:
    a, b = distinct_rows(Embedding(cloud(150))).points, distinct_rows(Embedding(cloud(140, seed=1))).points
    rows = [np.asarray(one.rows, dtype=float) for one in (a, b)]
    between = cdist(*rows, "sqeuclidean")
    index, squared = nearest(a, b, 4)
    np.testing.assert_array_equal(index, np.argsort(between, axis=1)[:, :4])
    np.testing.assert_allclose(squared, np.sort(between, axis=1)[:, :4], rtol=1e-12)
    within = cdist(rows[0], rows[0], "sqeuclidean")
    np.fill_diagonal(within, np.inf)
    index, squared = nearest(a, a, 3, within=True)
    np.testing.assert_array_equal(index, np.argsort(within, axis=1)[:, :3])
    np.testing.assert_allclose(squared, np.sort(within, axis=1)[:, :3], rtol=1e-12)


def test_neighbours_are_found_across_tiles(ways: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairwise, "TILE", 2**14)  # 1024 columns a tile
    source, target = cloud(2500, 3), cloud(60, 3, 1)
    a, b = distinct_rows(Embedding(target)).points, distinct_rows(Embedding(source)).points
    index, squared = nearest(a, b, 7)
    between = cdist(np.asarray(a.rows, dtype=float), np.asarray(b.rows, dtype=float), "sqeuclidean")
    np.testing.assert_array_equal(index, np.argsort(between, axis=1)[:, :7])
    np.testing.assert_allclose(squared, np.sort(between, axis=1)[:, :7], rtol=1e-12)
    for name in MEASURES:
        for one, other in ((source, target), (target, source)):
            assert compare(name, one, other, k=3).value == pytest.approx(plainly(name, one.astype(float), other.astype(float), 3), rel=1e-12), name


def test_features_that_overflow_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """faiss finds nothing then: searched again in float64; tiles of balls are refused."""
    for module in (pairwise, neighbour_balls):
        monkeypatch.setattr(module, "EXACT", 1000)
    source, target = 1e25 * cloud(60), 1e25 * cloud(50, seed=1)
    expected = cdist(target.astype(float), source.astype(float)).min(1).mean()
    assert compare("nearest-neighbour", source, target, normalise=False).value == pytest.approx(expected, rel=1e-12)
    stranger = np.concatenate([cloud(59, seed=1), np.full((1, 12), 1e30)]).astype(np.float32)
    rows = distinct_rows(Embedding(stranger), k=3)
    radii = np.sort(cdist(stranger.astype(float), stranger.astype(float), "sqeuclidean"), axis=1)[:, 3]
    np.testing.assert_allclose(np.sort(rows.radii), np.sort(radii), rtol=1e-12)
    with pytest.raises(DataError, match=r"SK210.*target: rows lie up to 3e\+30 from the mean, which overflows in float32, in which more than 1000 distances"):
        compare("density", cloud(60), stranger)


def test_a_stranger_that_float64_tiles_cannot_take() -> None:
    target, source = np.concatenate([cloud(59, seed=1), np.full((1, 12), 1e30)]).astype(np.float32), cloud(80)
    for name in MEASURES:
        for one, other in ((source, target), (target, source)):
            assert compare(name, one, other, k=3).value == pytest.approx(plainly(name, one.astype(float), other.astype(float), 3), rel=1e-12), name


def test_a_summary_on_both_sides(ways: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of a set with itself are half of the matrix elsewhere; here all of it is needed."""
    monkeypatch.setattr(pairwise, "TILE", 2**12)
    x = cloud(200, 4)
    for name in MEASURES:
        measure = ESTIMATORS.build({name: {"k": 3}})
        summary = measure.summarize(Embedding(x))
        value = measure.compare(summary, summary, np.random.default_rng(0)).value
        assert value == pytest.approx(plainly(name, x.astype(float), x.astype(float), 3), rel=1e-12), name


def test_faiss_follows_the_threads_of_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss
    from threadpoolctl import threadpool_limits

    before = faiss.omp_get_max_threads()
    with threadpool_limits(1, user_api="blas"), neighbour_balls.threads_of_blas_for(faiss):
        assert faiss.omp_get_max_threads() == 1
    assert faiss.omp_get_max_threads() == before


@pytest.mark.parametrize("k", [1, 5])
def test_equal_distributions_are_covered_as_the_paper_says(k: int) -> None:
    """The k images nearest to a target image are all of the target with chance (m - 1) ... (m - k) / ((n + m - 1) ... (n + m - k)), about 2^-k."""
    n, m = 150, 200
    missed = np.prod([(m - i) / (n + m - i) for i in range(1, k + 1)])
    values = [compare("coverage", cloud(n, 16, 2 * s), cloud(m, 16, 2 * s + 1), k=k).value for s in range(60)]
    assert np.mean(values) == pytest.approx(1 - missed, abs=0.012)


def test_density_of_equal_distributions_is_about_one() -> None:
    values = [compare("density", cloud(800, 4, 2 * s), cloud(800, 4, 2 * s + 1)).value for s in range(4)]
    assert np.mean(values) == pytest.approx(1.0, abs=0.03)


def test_a_set_with_itself() -> None:
    x = cloud(100)
    for name in MEASURES:
        assert compare(name, x, x[::-1]).value == 1.0, name
    embedding = Embedding(x, name="a")
    assert compare("nearest-neighbour", embedding, embedding).value == 0.0
    for name in MEASURES:  # one summary on both sides
        assert compare(name, embedding, embedding).value == 1.0, name
    copies = np.repeat(cloud(12), 9, axis=0)
    for name in ("coverage", "precision", "recall"):
        assert compare(name, copies, copies).value == 1.0, name
    score = compare("density", copies, copies)  # balls of radius 0 hold nine copies each
    assert score.value == pytest.approx(9 / 5)
    assert score.detail["radius_zero"] == 108


def test_all_images_equal() -> None:
    black, near = np.zeros((30, 5), dtype=np.float32), np.full((20, 5), 1e-20, dtype=np.float32)
    for name in MEASURES:
        assert compare(name, black, black[:20]).value == (1.0 if name != "density" else 4.0)
        assert compare(name, near, black).value == 0.0


def test_direction_source_covers_target() -> None:
    """A source that holds the target and as much else covers it; the other way round half of it stays uncovered."""
    part, rest = cloud(200, 6), cloud(200, 6, 1, 30.0)
    whole = np.concatenate([cloud(200, 6, 2), rest])
    assert compare("coverage", whole, part).value > 0.9
    assert compare("coverage", part, whole).value == pytest.approx(0.5, abs=0.05)
    assert 0.4 < compare("precision", whole, part).value <= 0.5
    assert compare("precision", part, whole).value > 0.85
    assert compare("recall", whole, part).value > 0.85
    assert 0.4 < compare("recall", part, whole).value <= 0.5
    assert compare("nearest-neighbour", whole, part).value < 1.3
    assert compare("nearest-neighbour", part, whole).value > 10


def test_balls_belong_to_the_side_that_is_said() -> None:
    """In 1-D by hand, k = 1: target 0, 1, 10 has radii 1, 1, 9; source -0.5, 3 has radius 3.5."""
    target, source = np.array([[0.0], [1.0], [10.0]]), np.array([[-0.5], [3.0]])
    assert compare("coverage", source, target, k=1).value == pytest.approx(2 / 3)  # 1 is 1.5 from its nearest
    assert compare("density", source, target, k=1).value == pytest.approx((1 + 1) / 2)
    assert compare("precision", source, target, k=1).value == 1.0
    assert compare("recall", source, target, k=1).value == pytest.approx(2 / 3)
    border = np.array([[-1.0], [40.0]])  # exactly on the ball of 0
    assert compare("coverage", border, target, k=1).value == 0.0
    assert compare("precision", border, target, k=1).value == 0.5


def test_nearest_distance_by_hand() -> None:
    target, source = np.array([[0.0], [1.0], [10.0]]), np.array([[-0.5], [3.0], [10.0]])
    score = compare("nearest-neighbour", source, target)
    assert score.detail["from_source"] == pytest.approx((0.5 + 1.5 + 0.0) / 3)
    assert score.detail["within_target"] == pytest.approx((1 + 1 + 9) / 3)
    assert score.value == pytest.approx(2 / 11)
    assert score.detail["duplicates"] == pytest.approx(1 / 3)
    plain = compare("nearest-neighbour", source, target, normalise=False)
    assert plain.value == pytest.approx(2 / 3)
    assert plain.detail["within_target"] is None
    assert "feature units" in ESTIMATORS.build({"nearest-neighbour": {"normalise": False}}).unit


def test_nearest_distance_agrees_with_scikit_learn(ways: str) -> None:
    from sklearn.neighbors import NearestNeighbors

    source, target = cloud(140), cloud(150, seed=1, shift=0.3)
    between = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(source.astype(float)).kneighbors(target.astype(float))[0].mean()
    within = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(target.astype(float)).kneighbors()[0].mean()
    assert compare("nearest-neighbour", source, target).value == pytest.approx(between / within, rel=1e-9)


def test_nearest_distance_of_a_new_sample_is_about_one() -> None:
    assert compare("nearest-neighbour", cloud(1000, 6), cloud(1000, 6, 1)).value == pytest.approx(1.0, abs=0.02)


def test_duplicates_up_to_rounding_are_found() -> None:
    target = cloud(50)
    source = np.concatenate([target[:20] * np.float32(1 + 2e-7), cloud(60, seed=1)])
    assert compare("nearest-neighbour", source, target).detail["duplicates"] == pytest.approx(0.4)


def test_copies_count_as_often_as_they_occur() -> None:
    """Weights of distinct rows, against scipy on all rows."""
    target, source = np.repeat(cloud(20), np.arange(20) % 4 + 1, axis=0), cloud(30, seed=1)
    expected = cdist(target.astype(float), source.astype(float)).min(1).mean()
    assert compare("nearest-neighbour", source, target, normalise=False).value == pytest.approx(expected, rel=1e-12)
    rows = distinct_rows(Embedding(target), k=2)
    assert (len(rows), len(rows.points), sorted(rows.counts.tolist())) == (50, 20, [1] * 5 + [2] * 5 + [3] * 5 + [4] * 5)
    all_radii = np.sort(cdist(target.astype(float), target.astype(float), "sqeuclidean"), axis=1)[:, 2]
    np.testing.assert_allclose(np.sort(np.repeat(rows.radii, rows.counts)), np.sort(all_radii), rtol=1e-12)
    signed = np.array([[0.0, 1.0], [-0.0, 1.0]])
    assert len(distinct_rows(Embedding(signed)).points) == 1


def test_order_of_rows_does_not_move_a_digit() -> None:
    source, target = cloud(80), cloud(70, seed=1)
    for name in (*MEASURES, "nearest-neighbour"):
        shuffled = np.random.default_rng(4).permutation(80)
        assert compare(name, source[shuffled], target[::-1], seed=9).detail == compare(name, source, target).detail


@pytest.mark.parametrize("name", MEASURES)
def test_too_few_images_are_refused(name: str) -> None:
    few, many = Embedding(cloud(4), name="few"), Embedding(cloud(30, seed=1), name="many")
    source, target = (few, many) if name == "recall" else (many, few)
    with pytest.raises(NotEnoughData, match=rf"SK501.*{name}: 'few' has 4 images: balls .* need more than k = 4\nfix: set k to at most 3"):
        compare(name, source, target, k=4)
    compare(name, source, target, k=3)
    compare(name, target, source, k=4)  # the side without balls may be small
    one = Embedding(cloud(1), name="one")
    with pytest.raises(NotEnoughData, match=r"'one' has 1 image: .*\nfix: give more images"):
        compare(name, *((one, many) if name == "recall" else (many, one)))


def test_no_distance_within_the_target_is_refused() -> None:
    twice = np.repeat(cloud(10), 2, axis=0)
    with pytest.raises(NotEnoughData, match=r"each of the 20 images of 'target' has an exact copy in it.*\nfix: remove the copies, or set normalise = false"):
        compare("nearest-neighbour", cloud(20, seed=1), twice)
    with pytest.raises(NotEnoughData, match=r"'target' has 1 image: the distance .* needs at least 2"):
        compare("nearest-neighbour", cloud(20, seed=1), cloud(1))
    assert compare("nearest-neighbour", cloud(20, seed=1), cloud(1), normalise=False).value > 0
    assert compare("nearest-neighbour", twice, twice, normalise=False).value == 0.0


def test_options_and_nan_are_checked() -> None:
    with pytest.raises(UsageError, match=r"coverage\.k.*expected whole number >= 1"):
        compare("coverage", cloud(20), cloud(20, seed=1), k=0)
    with pytest.raises(UsageError, match=r"coverage\.device.*'tpu' is not a device"):
        compare("coverage", cloud(20), cloud(20, seed=1), device="tpu")
    spoilt = Embedding(cloud(20), name="spoilt")
    spoilt.features[3, 2] = np.nan
    with pytest.raises(DataError, match=r"SK210.*spoilt: features hold NaN or infinite values"):
        compare("coverage", spoilt, cloud(20, seed=1))


def test_balls_are_made_once_and_only_where_they_are_asked_for() -> None:
    measure = ESTIMATORS.build("coverage")
    source, target = (measure.summarize(Embedding(cloud(40, seed=s))) for s in (0, 1))
    measure.compare(source, target, np.random.default_rng(0))
    assert (source.has_radii, target.has_radii) == (False, True)
    kept = target.radii
    measure.compare(source, target, np.random.default_rng(0))
    assert target.radii is kept


def test_long_pairs_are_announced(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(pairwise, "FLOPS", 1e3)
    with caplog.at_level(logging.INFO, logger="simkit.estimators"):
        compare("density", cloud(20), cloud(30, seed=1))
        compare("nearest-neighbour", cloud(20), cloud(30, seed=1))
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("density between source and target: balls around 30 images, 20 images to place, about ")
    assert said[1].startswith("nearest-neighbour between source and target: nearest of 20 images to each of 30, about ")


def test_cost_of_a_pair_is_predicted() -> None:
    for name in (*MEASURES, "nearest-neighbour"):
        measure = ESTIMATORS.build(name)
        assert 1.3 < measure.seconds(20_000, 20_000) / measure.seconds(20_000, 10_000) < 4.1
    assert ESTIMATORS.build("recall").seconds(20_000, 100) > 10 * ESTIMATORS.build("precision").seconds(20_000, 100)


def test_mixtures_are_ordered_by_their_share(cases: Any) -> None:
    """All but recall: strangers in the source widen the balls around its other images, so it may rise before it falls."""
    low, high = cases["classes"]
    rng = np.random.default_rng(0)
    low, high = rng.permutation(low), rng.permutation(high)
    base, target = low[:400], low[400:800]
    for name, sign in (("coverage", -1), ("precision", -1), ("density", -1), ("nearest-neighbour", 1), ("recall", -1)):
        shares = (0, 100, 200, 300, 400) if name != "recall" else (0, 350, 400)
        values = [sign * compare(name, np.concatenate([base[: 400 - s], high[:s]]), target).value for s in shares]
        assert values == sorted(values), name
        assert len(set(values)) == len(values), name


@pytest.mark.parametrize("name", [*MEASURES, "nearest-neighbour"])
def test_promises(name: str) -> None:
    check_estimator(name)
    if name == "nearest-neighbour":
        check_estimator(name, options={"normalise": False})
