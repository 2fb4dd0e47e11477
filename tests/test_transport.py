"""Exact transport against closed forms and scipy's assignment; Gaussian distances against known truths and the singular values."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import threadpoolctl
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from simkit.errors import ResourceError, UsageError
from simkit.transport import (
    check_memory,
    exact_transport,
    exact_transport_memory,
    exact_transport_seconds,
    gaussian,
    gaussian_distance,
    gaussian_distances,
    gaussian_distances_seconds,
    gaussian_of,
    memory,
    memory_limit,
    nuclear_norm,
    reserved,
    squared_distances,
)
from simkit.transport.threads import each, one_blas_thread


def points(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def test_one_dimension_is_the_sorted_matching() -> None:
    x, y = points(60, 1), 2.0 * points(60, 1, 1) + 3.0
    expected = np.mean((np.sort(x[:, 0]) - np.sort(y[:, 0])) ** 2)
    result = exact_transport(squared_distances(x, y))
    assert result.value == pytest.approx(expected, rel=1e-12)
    assert result.converged
    assert result.reason == ""


def test_uniform_weights_give_the_assignment_of_scipy() -> None:
    cost = squared_distances(points(80, 5), points(80, 5, 1))
    rows, columns = linear_sum_assignment(cost)
    assert exact_transport(cost).value == pytest.approx(cost[rows, columns].mean(), rel=1e-12)


def test_plan_potentials_and_errors_certify_the_value() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(30), rng.random(45)
    cost = squared_distances(points(30, 4), points(45, 4, 1))
    result = exact_transport(cost, a, b, keep_plan=True)
    assert result.plan is not None
    assert (result.plan * cost).sum() == pytest.approx(result.value, rel=1e-12)
    np.testing.assert_allclose(result.plan.sum(1), a / a.sum(), atol=1e-12)
    np.testing.assert_allclose(result.plan.sum(0), b / b.sum(), atol=1e-12)
    u, v = result.potentials
    assert (u[:, None] + v - cost).max() < 1e-10
    assert a @ u / a.sum() + b @ v / b.sum() == pytest.approx(result.value, rel=1e-12)
    assert abs(result.duality_gap) < 1e-12
    assert result.infeasibility < 1e-10
    assert result.marginal_error < 1e-12
    assert exact_transport(cost, a, b).plan is None


def test_repeated_points_are_weights() -> None:
    x, y = points(20, 3), points(15, 3, 1)
    counts = np.random.default_rng(2).integers(1, 4, size=20)
    repeated = exact_transport(squared_distances(np.repeat(x, counts, axis=0), y)).value
    assert exact_transport(squared_distances(x, y), counts).value == pytest.approx(repeated, rel=1e-12)


def test_weight_zero_takes_no_part() -> None:
    cost = squared_distances(points(6, 2), points(5, 2, 1))
    weights = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    assert exact_transport(cost, weights).value == pytest.approx(exact_transport(cost[[0, 2, 3, 5]]).value, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
def test_scale_of_the_cost_does_not_matter(scale: float) -> None:
    cost = squared_distances(points(300, 3), points(300, 3, 1))
    small, plain = exact_transport(cost * scale), exact_transport(cost)
    assert small.value / scale == pytest.approx(plain.value, rel=1e-12)
    assert small.potentials[0][0] / scale == pytest.approx(plain.potentials[0][0], rel=1e-6)


def test_stopped_early_says_so() -> None:
    result = exact_transport(squared_distances(points(50, 3), points(50, 3, 1)), max_iterations=5)
    assert not result.converged
    assert "numItermax" in result.reason


def test_memory_is_predicted_before_the_work() -> None:
    with pytest.raises(ResourceError, match=r"SK301.*exact transport of 100 x 200 points needs about 0\.00 GiB of memory, the limit is 0\.00 GiB"):
        exact_transport(np.zeros((100, 200)), limit=100_000)
    assert exact_transport_memory(10_000, 10_000) == 4_800_000_000
    with pytest.raises(ResourceError, match=r"needs about 4\.00 GiB of memory, the limit is 2\.00 GiB\nfix: wait"):
        check_memory(4 * 2**30, "here", "it", limit=2 * 2**30, fix="wait")
    check_memory(10, "here", "it", limit=10)


def test_memory_limit_is_a_share_of_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.Path, "read_text", lambda path: "1000000\n")
    assert memory_limit() == 700_000
    monkeypatch.setattr(memory.Path, "read_text", lambda path: "max\n")
    assert memory_limit() > 100_000_000


def test_predicted_time_grows_as_measured() -> None:
    assert exact_transport_seconds(5000, 5000) == pytest.approx(11.0)
    assert exact_transport_seconds(10_000, 10_000) == pytest.approx(11.0 * 2**2.5)


@pytest.mark.parametrize("bad", [np.array([[1.0, np.nan]]), np.array([[np.inf]]), np.zeros((0, 3)), np.zeros(3)])
def test_cost_must_be_a_finite_matrix(bad: np.ndarray) -> None:
    with pytest.raises(UsageError, match="NaN or infinite"):
        exact_transport(bad)


@pytest.mark.parametrize("weights", [np.ones(3), np.array([1.0, -1.0]), np.zeros(2)])
def test_weights_are_checked(weights: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"source weights have shape .* for 2 points"):
        exact_transport(np.ones((2, 2)), weights)


def test_squared_distances_far_from_the_origin() -> None:
    x, y = points(40, 6) + 1e4, points(30, 6, 1) + 1e4
    y[3], y[4] = x[7], x[8] + 1e-7
    out = squared_distances(x, y)
    np.testing.assert_allclose(out, cdist(x, y, "sqeuclidean"), rtol=1e-9, atol=0)
    assert out[7, 3] == 0.0
    assert not squared_distances(np.ones((3, 2)), np.ones((4, 2))).any()


@pytest.mark.parametrize(("n", "d"), [(1, 5), (4, 9), (9, 9), (10, 9), (11, 9), (40, 9)])
def test_factor_gives_the_covariance(n: int, d: int) -> None:
    x = points(n, d) + 5.0
    gaussian = gaussian_of(x)
    covariance = np.cov(x.T) if n > 1 else np.zeros((d, d))
    np.testing.assert_allclose(gaussian.factor.T @ gaussian.factor, covariance, atol=1e-12)
    assert gaussian.factor.shape == (min(n - 1, d), d)
    assert gaussian.trace == pytest.approx(np.trace(covariance), rel=1e-12)
    np.testing.assert_allclose(gaussian.mean, x.mean(0), rtol=1e-12)
    assert gaussian.is_point == (n == 1)


def test_equal_rows_are_a_point() -> None:
    assert gaussian_of(np.full((50, 3), 0.1)).is_point
    assert gaussian_of(np.full((3, 50), 0.1)).is_point
    assert gaussian_of(np.zeros((3, 50))).is_point


@pytest.mark.parametrize(("n", "d"), [(30, 64), (64, 64), (65, 64), (500, 64)])
def test_scaled_and_shifted_gaussian_has_the_known_distance(n: int, d: int) -> None:
    x = points(n, d) @ np.diag(np.geomspace(1.0, 1e-4, d))
    first, second = gaussian_of(x), gaussian_of(1.5 * x + 0.1)
    mean_part, covariance_part = gaussian_distance(first, second)
    assert mean_part == pytest.approx(float(((0.5 * x.mean(0) + 0.1) ** 2).sum()), rel=1e-12)
    assert abs(covariance_part - 0.25 * first.trace) < 1e-9 * first.trace


@pytest.mark.parametrize(("n", "m"), [(8, 12), (12, 300), (300, 12), (300, 250)])
def test_gaussian_distance_against_singular_values(n: int, m: int) -> None:
    x, y = points(n, 40), 2.0 * points(m, 40, 1) @ points(40, 40, 2) / 6.0 + 0.3
    u, v = (x - x.mean(0)) / np.sqrt(n - 1), (y - y.mean(0)) / np.sqrt(m - 1)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + (u**2).sum() + (v**2).sum() - 2 * np.linalg.svd(u @ v.T, compute_uv=False).sum()
    first, second = gaussian_of(x), gaussian_of(y)
    assert sum(gaussian_distance(first, second)) == pytest.approx(expected, rel=1e-9)
    assert gaussian_distance(first, second) == gaussian_distance(second, first)
    np.testing.assert_allclose(gaussian_distances([first], [second, first]), [[expected, 0.0]], rtol=1e-9)
    assert sum(gaussian_distance(gaussian_of(x), gaussian_of(x.copy()))) == 0.0


def test_points_have_the_distance_of_their_means_and_the_spread() -> None:
    point, cloud = gaussian_of(points(1, 4)), gaussian_of(points(9, 4, 1))
    mean_part, covariance_part = gaussian_distance(point, cloud)
    assert covariance_part == pytest.approx(cloud.trace, rel=1e-12)
    assert mean_part == pytest.approx(float(((point.mean - cloud.mean) ** 2).sum()), rel=1e-12)


def oracle(x: np.ndarray, y: np.ndarray) -> float:
    """W2² of the Gaussians of two sets of rows with 60 digits: singular values of the product of the centred rows, from mpmath."""
    import mpmath

    with mpmath.workdps(60):
        def centred(rows: np.ndarray) -> tuple[mpmath.matrix, mpmath.matrix]:
            matrix = mpmath.matrix(rows.tolist())
            mean = mpmath.matrix([[mpmath.fsum(matrix[:, j]) / len(rows) for j in range(rows.shape[1])]])
            return mean, mpmath.matrix([[(matrix[i, j] - mean[j]) / mpmath.sqrt(len(rows) - 1) for j in range(rows.shape[1])] for i in range(len(rows))])

        (m1, u), (m2, v) = centred(x), centred(y)
        traces = mpmath.fsum(c * c for c in u) + mpmath.fsum(c * c for c in v)
        cross = u * v.T
        values = mpmath.eigsy(cross * cross.T, eigvals_only=True)
        norm = mpmath.fsum(mpmath.sqrt(max(value, mpmath.mpf(0))) for value in values)
        return float(mpmath.fsum((a - b) ** 2 for a, b in zip(m1, m2, strict=True)) + traces - 2 * norm)


@pytest.mark.parametrize(("n", "m", "d"), [(5, 7, 12), (9, 14, 12), (16, 15, 12), (13, 13, 12), (2, 30, 8)])
@pytest.mark.parametrize("near", [False, True])
def test_gaussian_label_costs_against_an_oracle_of_60_digits(n: int, m: int, d: int, near: bool) -> None:
    spectrum = np.geomspace(1.0, 1e-4, d)
    x = (points(n, d) * spectrum + 3.0).astype(np.float32)
    y = (x + 1e-3 * points(n, d, 1).astype(np.float32)) if near else (points(m, d, 1) * spectrum[::-1] + 2.5).astype(np.float32)
    expected = oracle(x.astype(float), y.astype(float))
    for a, b in ((x, y), (y, x)):
        assert sum(gaussian_distance(gaussian_of(a), gaussian_of(b))) == pytest.approx(expected, rel=1e-8)
        assert gaussian_distances([gaussian_of(a)], [gaussian_of(b)])[0, 0] == pytest.approx(expected, rel=1e-8)


def test_features_that_do_not_vary_lose_no_digits() -> None:
    x, y = points(30, 40), points(50, 40, 1)
    x[:, :20], y[:, 15:30] = 0.7, 0.0  # each has more images than features that vary, and they share ten of those
    expected = oracle(x, y)
    assert sum(gaussian_distance(gaussian_of(x), gaussian_of(y))) == pytest.approx(expected, rel=1e-8)
    assert len(gaussian_of(x).factor) == 20
    assert gaussian_of(x).live.sum() == 20


def test_factors_of_large_classes_are_made_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = points(500, 9) + 2.0
    whole = gaussian_of(x)
    monkeypatch.setattr(gaussian, "ROWS_AT_A_TIME", 64)
    parts = gaussian_of(x)
    np.testing.assert_allclose(parts.factor.T @ parts.factor, whole.factor.T @ whole.factor, atol=1e-12)


def test_table_of_many_classes_is_that_of_its_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = [[gaussian_of(points(n, 12, seed + n)) for n in (1, 5, 5, 5, 9, 20, 2)] for seed in (0, 100)]
    expected = np.array([[sum(gaussian_distance(a, b)) for b in sides[1]] for a in sides[0]])
    np.testing.assert_allclose(gaussian_distances(*sides), expected, rtol=1e-10)
    own = gaussian_distances(sides[0], sides[0])
    np.testing.assert_allclose(own, [[sum(gaussian_distance(a, b)) for b in sides[0]] for a in sides[0]], rtol=1e-10, atol=1e-12)
    assert not own.diagonal().any()
    monkeypatch.setattr(gaussian, "BLOCK", 100)  # a few classes at a time
    np.testing.assert_allclose(gaussian_distances(*sides), expected, rtol=1e-10)
    np.testing.assert_allclose(gaussian_distances(sides[0], sides[0]), own, rtol=1e-10, atol=1e-12)


def test_predicted_time_of_label_costs_grows_with_rank_and_classes() -> None:
    assert gaussian_distances_seconds([100] * 20, [100] * 20, 512) > 3.9 * gaussian_distances_seconds([100] * 10, [100] * 10, 512)
    assert gaussian_distances_seconds([1000], [1000], 2048) > 20 * gaussian_distances_seconds([100], [100], 2048)


def test_solves_that_do_not_fit_together_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_limit", lambda: 100)
    order: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with reserved(70):
            inside.set()
            leave.wait(10)
            order.append("first out")

    def follow() -> None:
        with reserved(70):
            order.append("second in")

    threads = [threading.Thread(target=hold), threading.Thread(target=follow)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    with reserved(20):  # what fits beside it does not wait
        assert order == []
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first out", "second in"]
    with reserved(10**9):  # more than there is starts when it is alone
        pass


def test_nuclear_norm_keeps_its_digits_when_the_rank_is_low() -> None:
    full = points(60, 80)
    low = points(60, 5) @ points(5, 80, 1)
    for matrix in (full, low, full.T, points(1, 7), points(60, 60) @ np.diag(np.geomspace(1, 1e-9, 60))):
        exact = np.linalg.svd(matrix, compute_uv=False).sum()
        assert nuclear_norm(matrix) == pytest.approx(exact, rel=1e-10)
    plain = np.sqrt(np.maximum(np.linalg.eigvalsh(low @ low.T), 0)).sum()
    assert abs(plain - np.linalg.svd(low, compute_uv=False).sum()) > 1e-8 * plain  # what the check guards against
    assert nuclear_norm(np.empty((0, 4))) == 0.0


def test_small_decompositions_run_with_one_blas_thread_each_and_leave_it_as_it_was() -> None:
    def threads_of_blas() -> list[int]:
        return [library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]

    with threadpoolctl.threadpool_limits(limits=3, user_api="blas"):
        before = threads_of_blas()
        seen = each(lambda item: (item, threads_of_blas()), range(7))
        assert [item for item, _ in seen] == list(range(7))
        assert {count for _, counts in seen for count in counts} == {1}
        with one_blas_thread() as outer, one_blas_thread() as inner:
            assert outer == inner == max(before)
        assert threads_of_blas() == before
        with pytest.raises(ZeroDivisionError):
            each(lambda item: 1 // item, [1, 0])
        assert threads_of_blas() == before


def test_table_is_the_same_with_any_number_of_threads() -> None:
    sides = [[gaussian_of(points(n, 30, seed + n)) for n in range(5, 25)] for seed in (0, 100)]
    tables = []
    for limit in (1, 3):
        with threadpoolctl.threadpool_limits(limits=limit, user_api="blas"):
            tables.append(gaussian_distances(*sides))
    np.testing.assert_array_equal(tables[0], tables[1])
