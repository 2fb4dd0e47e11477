"""The entropic solver: against POT and a plain solver in logarithms, its certificate, its memory, and what happens when it does not converge."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

import numpy as np
import ot
import pytest
import torch
from scipy.special import logsumexp

from simkit.errors import ResourceError
from simkit.transport import acceleration, exact_transport, kernel, solver, squared_distances
from simkit.transport.acceleration import Extrapolation, balanced_rows, grouped
from simkit.transport.costs import Cloud, mean_cost, product_cost
from simkit.transport.interruption import Interrupted, stopped
from simkit.transport.sinkhorn import Divergence, LabelCosts, Settings, entropic_transport, predicted_seconds, sinkhorn_divergence

TIGHT = Settings(tolerance=1e-9, precision="float64", passes=5000)


def cloud(n: int, *, seed: int, d: int = 5, classes: int = 3, shift: float = 0.0, gap: float = 3.0, skew: float = 5.0) -> Cloud:
    """Separated classes of unequal size (unlike in two clouds with other seeds), weights that differ."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, size=n, p=rng.dirichlet(np.full(classes, skew)))
    labels[:classes] = np.arange(classes)
    features = rng.normal(size=(n, d)) + gap * np.eye(classes, d)[labels] + shift
    weights = rng.uniform(0.5, 1.5, size=n)
    return Cloud(features.astype(np.float32), labels, weights / weights.sum())


def problem(n: int = 60, m: int = 80, classes: int = 3, **options: float) -> tuple[Cloud, Cloud, LabelCosts, np.ndarray]:
    source, target = cloud(n, seed=1, classes=classes, **options), cloud(m, seed=2, shift=0.7, classes=classes, **options)  # type: ignore[arg-type]
    costs = LabelCosts(*(np.random.default_rng(k).uniform(0, 5, size=(classes, classes)) for k in range(3)))
    own = [np.triu(table, 1) + np.triu(table, 1).T for table in (costs.source, costs.target)]
    costs = LabelCosts(costs.cross, *own)
    return source, target, costs, squared_distances(source.features, target.features) + costs.cross[source.labels[:, None], target.labels]


def plain(cost: np.ndarray, a: np.ndarray, b: np.ndarray, epsilon: float, steps: int = 20000) -> tuple[float, np.ndarray]:
    """OT_eps and its plan by Sinkhorn's iteration in logarithms, nothing else."""
    f, g = np.zeros(len(a)), np.zeros(len(b))
    for _ in range(steps):
        before = f
        f = -epsilon * logsumexp((g - cost) / epsilon + np.log(b), axis=1)
        g = -epsilon * logsumexp((f[:, None] - cost) / epsilon + np.log(a)[:, None], axis=0)
        if np.abs(f - before).max() < 1e-13 * np.abs(cost).max():
            break
    plan = a[:, None] * b * np.exp((f[:, None] + g - cost) / epsilon)
    return float(a @ f + b @ g), plan


@pytest.mark.parametrize("share", [0.3, 0.05, 0.01])
def test_value_and_plan_are_those_of_a_plain_solver(share: float) -> None:
    source, target, costs, cost = problem()
    epsilon = share * float(source.weights @ cost @ target.weights)
    found = entropic_transport(source, target, costs.cross, epsilon=epsilon, settings=TIGHT)
    value, plan = plain(cost, source.weights, target.weights, epsilon)
    assert found.converged
    assert found.value == pytest.approx(value, rel=1e-8)
    assert found.feature_part + found.label_part == pytest.approx((plan * cost).sum(), rel=1e-7)
    assert found.entropy_part == pytest.approx(epsilon * (plan * np.log(plan / np.outer(source.weights, target.weights))).sum(), rel=1e-6)
    mass = np.eye(3)[source.labels].T @ plan @ np.eye(3)[target.labels]
    np.testing.assert_allclose(found.class_mass, mass, atol=1e-8)


def test_plan_is_that_of_pot() -> None:
    source, target, costs, cost = problem()
    epsilon = 0.05 * cost.mean()
    plan = ot.sinkhorn(source.weights, target.weights, cost, epsilon, method="sinkhorn_log", numItermax=20000, stopThr=1e-12)
    found = entropic_transport(source, target, costs.cross, epsilon=epsilon, settings=TIGHT)
    assert found.feature_part + found.label_part == pytest.approx((plan * cost).sum(), rel=1e-7)


def test_divergence_is_that_of_three_plain_problems() -> None:
    source, target, costs, cost = problem()
    found = sinkhorn_divergence(source, target, costs, epsilon=0.02, settings=TIGHT)
    own = [squared_distances(c.features, c.features) + t[c.labels[:, None], c.labels] for c, t in ((source, costs.source), (target, costs.target))]
    values = [plain(c, a, b, found.epsilon)[0] for c, a, b in (
        (cost, source.weights, target.weights), (own[0], source.weights, source.weights), (own[1], target.weights, target.weights))]
    assert found.value == pytest.approx(values[0] - values[1] / 2 - values[2] / 2, rel=1e-7)
    assert found.mean_cost == pytest.approx(source.weights @ cost @ target.weights, rel=1e-10)
    assert found.epsilon == pytest.approx(0.02 * found.mean_cost)
    assert found.feature_part + found.label_part + found.entropy_part == pytest.approx(found.value, rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("passes", [1, 3, 1000])
def test_bracket_holds_the_exact_value_converged_or_not(seed: int, passes: int) -> None:
    source, target = cloud(50, seed=seed), cloud(70, seed=seed + 10, shift=0.5)
    table = np.random.default_rng(seed).uniform(0, 4, size=(3, 3))
    cost = squared_distances(source.features, target.features) + table[source.labels[:, None], target.labels]
    exact = exact_transport(cost, source.weights, target.weights).value
    found = entropic_transport(source, target, table, epsilon=0.02 * cost.mean(), settings=Settings(passes=passes))
    assert found.lower <= exact * (1 + 1e-6)
    assert found.upper >= exact * (1 - 1e-6)
    if passes == 1000:
        assert found.converged
        assert found.lower > 0.97 * exact
        assert found.upper < 1.1 * exact


def test_stated_bound_of_the_bias_holds() -> None:
    source, target, costs, cost = problem()
    exact = exact_transport(cost, source.weights, target.weights).value
    for share in (0.1, 0.01):
        found = sinkhorn_divergence(source, target, costs, epsilon=share)
        assert abs(found.value - exact) <= found.bias_bound * (1 + 1e-6)
    lower = sinkhorn_divergence(source, target, costs, debias=False)
    assert lower.value == lower.cross.lower <= exact
    assert lower.source is None
    assert lower.feature_part + lower.label_part + lower.entropy_part == pytest.approx(lower.value)


def test_marginal_error_is_that_of_the_plan_and_unconverged_says_so() -> None:
    source, target, costs, cost = problem()
    epsilon = 0.01 * cost.mean()
    found = entropic_transport(source, target, costs.cross, epsilon=epsilon, settings=Settings(passes=1, precision="float64"))
    f, g = found.potentials
    plan = source.weights[:, None] * target.weights * np.exp((f[:, None] + g - cost) / epsilon)
    error = np.abs(plan.sum(1) - source.weights).sum() + np.abs(plan.sum(0) - target.weights).sum()
    assert found.marginal_error == pytest.approx(error, rel=1e-6)
    assert error > 0.01
    assert not found.converged


def test_float32_agrees_with_float64() -> None:
    source, target, costs, _ = problem(200, 150)
    single, double = (sinkhorn_divergence(source, target, costs, settings=Settings(tolerance=1e-5, precision=p)) for p in ("float32", "float64"))
    assert single.value == pytest.approx(double.value, rel=1e-4)
    far = [replace(c, features=c.features + np.float32(1000.0)) for c in (source, target)]  # an offset costs digits unless the clouds are centred
    assert sinkhorn_divergence(*far, costs).value == pytest.approx(sinkhorn_divergence(source, target, costs).value, rel=1e-3)


@pytest.mark.parametrize("options", [{"tile": 7}, {"tile": 64, "memory": 92_000}, {"tile": 64, "memory": 130_000}])
def test_tiles_and_memory_do_not_move_the_value(options: dict[str, int]) -> None:
    source, target, costs, _ = problem(150, 130)
    whole = sinkhorn_divergence(source, target, costs, settings=Settings(tolerance=1e-4))
    tiled = sinkhorn_divergence(source, target, costs, settings=Settings(tolerance=1e-4, **options))  # type: ignore[arg-type]
    assert tiled.value == pytest.approx(whole.value, rel=1e-5)
    assert tiled.cross.lower == pytest.approx(whole.cross.lower, rel=1e-5)
    np.testing.assert_allclose(tiled.cross.class_mass, whole.cross.class_mass, atol=1e-5)


def test_kernels_are_kept_only_as_far_as_memory_allows() -> None:
    source, target, costs, _ = problem(150, 130)
    made = [kernel.Kernel(source, target, costs.cross, epsilon=1.0, feature_weight=1.0, device=torch.device("cpu"), dtype=torch.float32, memory=m, tile=10)
            for m in (25_000, 60_000, 10**9)]
    assert [one.stored for one in made] == [0, made[1].stored, 15]
    assert 0 < made[1].stored < 15
    assert len(made[0].tiles) == 15


def test_memory_that_does_not_suffice_is_refused_with_what_does() -> None:
    source, target, costs, _ = problem(300, 300)
    message = r"SK301.*300 x 300 points need at least 0\.\d+ MiB, in tiles of 64 rows; the limit is 0\.000954 MiB\nfix: set memory = 0\.25"
    with pytest.raises(ResourceError, match=message):
        entropic_transport(source, target, costs.cross, epsilon=1.0, settings=Settings(memory=1000))


def test_out_of_memory_names_the_tile_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, which: object, out: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 14.00 GiB")

    monkeypatch.setattr(kernel.Kernel, "exponents", fail)
    source, target, costs, _ = problem()
    with pytest.raises(ResourceError, match=r"SK301.*60 x 80 points: cpu ran out of memory.*\nfix: tiles of 8192 rows fit: set tile = 8192 and memory = "):
        entropic_transport(source, target, costs.cross, epsilon=1.0)


def test_other_errors_are_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, which: object, out: object) -> None:
        raise RuntimeError("expected scalar type Float")

    monkeypatch.setattr(kernel.Kernel, "exponents", fail)
    source, target, costs, _ = problem()
    with pytest.raises(RuntimeError, match="expected scalar type"):
        entropic_transport(source, target, costs.cross, epsilon=1.0)


def test_classes_of_unequal_size_take_few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, costs, cost = problem(300, 300, skew=1.0, gap=8.0)
    balanced = entropic_transport(source, target, costs.cross, epsilon=0.01 * cost.mean())
    monkeypatch.setattr(acceleration.Groups, "balance", lambda self, columns, v: columns.sum(1))
    monkeypatch.setattr(acceleration.Extrapolation, "next", lambda self, v, w, error: w)
    without = entropic_transport(source, target, costs.cross, epsilon=0.01 * cost.mean())
    assert balanced.converged
    assert without.passes > 4 * balanced.passes


def test_large_clouds_start_from_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, costs, cost = problem(400, 500)
    epsilon, settings = 0.02 * cost.mean(), Settings(tolerance=1e-6, precision="float64")
    direct = entropic_transport(source, target, costs.cross, epsilon=epsilon, settings=settings)
    monkeypatch.setattr(solver, "PART", 100)
    parts: list[int | None] = []
    rows_from = kernel.Kernel.rows_from
    monkeypatch.setattr(kernel.Kernel, "rows_from", lambda self, g, size=None: (parts.append(size), rows_from(self, g, size=size))[1])
    from_part = entropic_transport(source, target, costs.cross, epsilon=epsilon, settings=settings)
    assert from_part.value == pytest.approx(direct.value, rel=1e-8)
    assert parts == [100]


def test_cloud_with_itself_is_at_zero_and_order_does_not_matter() -> None:
    source, target, costs, _ = problem()
    again = replace(source)
    table = costs.source
    own = sinkhorn_divergence(source, again, LabelCosts(table, table, table), settings=TIGHT)
    assert own.value == pytest.approx(0.0, abs=1e-7 * own.mean_cost)
    there = sinkhorn_divergence(source, target, costs, settings=TIGHT).value
    back = sinkhorn_divergence(target, source, LabelCosts(costs.cross.T, costs.target, costs.source), settings=TIGHT).value
    assert back == pytest.approx(there, rel=1e-9)
    assert there > 0


def test_points_all_in_one_place() -> None:
    one = Cloud(np.ones((4, 3), dtype=np.float32), np.zeros(4, dtype=int), np.full(4, 0.25))
    zero = np.zeros((1, 1))
    found = sinkhorn_divergence(one, replace(one, features=one.features.copy()), LabelCosts(zero, zero, zero))
    assert found.value == 0.0
    assert found.converged
    apart = sinkhorn_divergence(one, replace(one, features=one.features + 2), LabelCosts(zero, zero, zero))
    assert apart.value == pytest.approx(12.0, rel=1e-5)


def test_single_points_and_outliers() -> None:
    zero = np.zeros((1, 1))
    x, y = (Cloud(np.full((1, 2), v, dtype=np.float32), np.zeros(1, dtype=int), np.ones(1)) for v in (0.0, 3.0))
    assert sinkhorn_divergence(x, y, LabelCosts(zero, zero, zero)).value == pytest.approx(18.0, rel=1e-6)
    source, target, costs, _ = problem(100, 100)
    features = target.features.copy()
    features[5] += 3000.0  # most kernel entries of this column underflow at the start
    wild = replace(target, features=features)
    cost = squared_distances(source.features, wild.features) + costs.cross[source.labels[:, None], wild.labels]
    exact = exact_transport(cost, source.weights, wild.weights).value
    for share in (0.01, 1e-5):
        found = sinkhorn_divergence(source, wild, costs, epsilon=share)
        assert found.cross.converged
        assert found.cross.lower <= exact * (1 + 1e-5)
        assert exact <= found.cross.upper * (1 + 1e-5)


def test_weight_of_features_scales_their_part() -> None:
    source, target, costs, _ = problem()
    scaled = sinkhorn_divergence(source, target, costs, feature_weight=4.0, settings=TIGHT)
    double = [replace(c, features=2 * c.features) for c in (source, target)]
    assert scaled.value == pytest.approx(sinkhorn_divergence(*double, costs, settings=TIGHT).value, rel=1e-7)
    labels_only = sinkhorn_divergence(source, target, costs, feature_weight=0.0, epsilon=0.02)
    exact = exact_transport(costs.cross, source.masses(3), target.masses(3)).value
    assert labels_only.cross.lower <= exact * (1 + 1e-6)
    assert labels_only.cross.feature_part == pytest.approx(0.0, abs=1e-4)


def test_more_classes_on_one_side_and_many_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = cloud(90, seed=1, classes=5), cloud(80, seed=2, classes=2)
    table = np.random.default_rng(0).uniform(0, 5, size=(5, 2))
    for one, other, costs in ((source, target, table), (target, source, table.T)):
        dense = squared_distances(one.features, other.features) + costs[one.labels[:, None], other.labels]
        found = entropic_transport(one, other, costs, epsilon=0.05 * dense.mean(), settings=TIGHT)
        assert found.value == pytest.approx(plain(dense, one.weights, other.weights, 0.05 * dense.mean())[0], rel=1e-7)
    many = cloud(300, seed=3, d=50, classes=40)
    assert (grouped(many) == many.labels).all()
    monkeypatch.setattr(acceleration, "MOST_GROUPS", 8)
    groups = grouped(many)
    assert len(np.unique(groups)) == 8
    assert all(len(np.unique(groups[many.labels == k])) == 1 for k in range(40))


def test_groups_without_labels_are_groups_of_near_points() -> None:
    bare = replace(cloud(200, seed=4, classes=2, gap=50.0), labels=np.zeros(200, dtype=int))
    groups = grouped(bare)
    assert len(np.unique(groups)) == acceleration.UNLABELLED_GROUPS
    side = bare.features[:, 0] > 25
    assert not set(groups[side]) & set(groups[~side])
    assert not grouped(replace(bare, features=np.ones_like(bare.features))).any()
    assert not grouped(bare.head(10)).any()


def test_balanced_rows_meet_the_marginals() -> None:
    rng = np.random.default_rng(0)
    mass, rows, columns = rng.uniform(size=(4, 6)) ** 8, rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(6))
    scaled = np.exp2(balanced_rows(mass, rows, columns))[:, None] * mass
    scaled *= columns / scaled.sum(0)
    np.testing.assert_allclose(scaled.sum(1), rows, atol=1e-4)
    assert np.isfinite(balanced_rows(np.eye(2), np.array([0.3, 0.7]), np.array([0.6, 0.4]))).all()


def test_extrapolation_forgets_when_it_makes_things_worse() -> None:
    made = Extrapolation(torch.ones(3, dtype=torch.float64) / 3)
    v, w = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    assert torch.equal(made.next(v, w, 0.5), w)
    assert len(made.points) == 1
    made.next(w, w + 0.5, 0.4)
    assert len(made.points) == 2
    assert torch.equal(made.next(w, w + 2, 1.0), w + 2)
    assert len(made.points) == 1


def test_closed_forms_of_the_mean_cost_and_of_product_couplings() -> None:
    source, target, costs, cost = problem()
    assert mean_cost(source, target, costs.cross) == pytest.approx(source.weights @ cost @ target.weights, rel=1e-6)
    rows, columns = np.random.default_rng(0).uniform(size=60), np.random.default_rng(1).uniform(size=80)
    columns *= rows.sum() / columns.sum()
    assert product_cost(source, target, costs.cross, rows, columns) == pytest.approx(rows @ cost @ columns / rows.sum(), rel=1e-6)
    assert product_cost(source, target, costs.cross, np.zeros(60), np.zeros(80)) == 0.0


def test_long_solves_say_how_far_they_are(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "SAY_EVERY", -1.0)
    source, target, costs, cost = problem()
    with caplog.at_level(logging.INFO, logger="simkit"):
        entropic_transport(source, target, costs.cross, epsilon=0.05 * cost.mean())
    assert any("transport of 60 x 80 points: pass" in line and "of the mass" in line for line in caplog.messages)


def test_predicted_time_grows_with_the_problem_and_with_what_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(speed > 0 for speed in solver._speed(64, Settings()))
    monkeypatch.setattr(solver, "_speed", lambda width, settings: (1e-8, 1e-9))
    kept, streamed = Settings(memory=10**12), Settings(memory=1)
    small, large = predicted_seconds(2000, 2000, 64, kept), predicted_seconds(20000, 20000, 64, kept)
    assert large == pytest.approx(100 * small)
    assert predicted_seconds(20000, 20000, 64, streamed) == pytest.approx(4e8 * (1e-8 * 11 + 1e-9 * 9))  # 5 + 1 passes, and 4 + 1 over two halves
    assert predicted_seconds(20000, 20000, 64, streamed, debias=False) == pytest.approx(4e8 * (1e-8 * 6 + 1e-9 * 5))


def test_interface_types() -> None:
    source, target, costs, _ = problem()
    found = sinkhorn_divergence(source, target, costs)
    assert isinstance(found, Divergence)
    assert len(found.problems) == 3
    assert found.marginal_error == max(one.marginal_error for one in found.problems)
    assert found.cross.potentials[0].dtype == np.float64


def test_a_solve_in_a_thread_stops_when_its_run_ends() -> None:
    source, target, costs, cost = problem(200, 200)
    ended: list[BaseException] = []
    started = threading.Event()

    def solve() -> None:
        started.set()
        try:
            entropic_transport(source, target, costs.cross, epsilon=1e-4 * cost.mean(), settings=Settings(tolerance=1e-12, passes=10**8))
        except Interrupted as error:
            ended.append(error)

    thread = threading.Thread(target=solve, daemon=True)
    thread.start()
    assert started.wait(10)
    with stopped():
        thread.join(20)
    assert not thread.is_alive()
    assert ended
    assert entropic_transport(source, target, costs.cross, epsilon=0.05 * cost.mean()).converged  # the next one is not stopped


# --- what a reviewer broke --------------------------------------------------------------------------------------------------------------------


def bare(x: np.ndarray) -> Cloud:
    return Cloud(x.astype(np.float32), np.zeros(len(x), dtype=int), np.full(len(x), 1 / len(x)))


ZERO = LabelCosts(*(np.zeros((1, 1)) for _ in range(3)))


@pytest.mark.parametrize("seed", range(5))
def test_points_that_the_part_has_nothing_like(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """A rare pair far out that neither part holds: its kernel entry overflowed at potentials extended from the parts, and the value was -7e6."""
    monkeypatch.setattr(solver, "PART", 50)
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=(300, 8)), rng.normal(size=(300, 8)) + 0.3
    x[-1, 0] += 60
    z[-1, 0] += 60
    found = sinkhorn_divergence(bare(x), bare(z), ZERO)
    exact = exact_transport(squared_distances(x, z)).value
    assert found.converged
    assert found.cross.lower <= exact * (1 + 1e-5)
    assert exact <= found.cross.upper * (1 + 1e-5)
    assert 0.8 * exact < found.value < exact


def test_a_solve_that_ends_with_a_kernel_that_was_cut_is_finite_and_bracketed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver.Solver, "_start", lambda self, kernel: (torch.full_like(kernel.a, 1e4), torch.full_like(kernel.b, 1e4)))
    source, target, costs, cost = problem()
    exact = exact_transport(cost, source.weights, target.weights).value
    for passes in (1, 2, 1000):
        found = entropic_transport(source, target, costs.cross, epsilon=0.05 * cost.mean(), settings=Settings(passes=passes))
        assert np.isfinite([found.value, found.lower, found.upper, found.marginal_error]).all()
        assert found.lower <= exact <= found.upper
        assert found.converged == (passes == 1000)


@pytest.mark.parametrize("seed", range(30))
def test_bracket_holds_where_little_else_does(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Heavy tails, lattices, outliers, few passes, tiny epsilons, small tiles that are not stored."""
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(solver, "PART", (10, 10**6)[seed % 2])
    n, m = rng.integers(1, 80, 2)
    x, z = ((rng.standard_cauchy((n, 3)), rng.standard_cauchy((m, 3))), (np.round(rng.normal(size=(n, 2))), np.round(rng.normal(size=(m, 2)))),
            (rng.normal(size=(n, 4)) * np.where(rng.random(n) < 0.1, 1e3, 1)[:, None], rng.normal(size=(m, 4))))[seed % 3]
    source, target = bare(x), bare(z)
    cost = squared_distances(source.features, target.features)
    exact = exact_transport(cost).value
    memory = int((4, 8)[seed % 2] * ((n + m) * 8 + 2 * 64 * max(n, m))) + 4000 if seed % 5 == 0 else None
    settings = Settings(passes=(1, 2, 7, 300)[seed % 4], precision=("float32", "float64")[seed % 2], memory=memory, tile=7 if seed % 5 == 1 else None)
    found = entropic_transport(source, target, ZERO.cross, epsilon=cost.mean() * 10.0 ** -(seed % 7) + 1e-30, settings=settings)
    slack = 1e-5 * exact + 1e-9 * cost.max()
    assert np.isfinite([found.value, found.upper, found.marginal_error, found.feature_part]).all()
    assert found.lower - slack <= exact <= found.upper + slack


def test_a_few_points_far_out_are_transported_before_it_stops() -> None:
    """They hold 0.4 % of the mass and most of the cost: the marginal error alone would let them go."""
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(500, 8)), rng.normal(size=(500, 8))
    z[:2, 0] += 300
    found, tight = (sinkhorn_divergence(bare(x), bare(z), ZERO, settings=Settings(tolerance=t)) for t in (1e-2, 1e-5))
    assert found.converged
    assert found.value == pytest.approx(tight.value, rel=0.02)
    assert found.feature_part == pytest.approx(tight.feature_part, rel=0.03)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-12, 1e12, 1e17, 1e30])
def test_scale_of_the_features_does_not_matter(scale: float) -> None:
    source, target, _, _ = problem()
    plain = sinkhorn_divergence(*(replace(c, labels=np.zeros(len(c), dtype=int)) for c in (source, target)), ZERO)
    scaled = [replace(c, labels=np.zeros(len(c), dtype=int), features=(c.features * scale).astype(np.float32)) for c in (source, target)]
    found = sinkhorn_divergence(*scaled, ZERO)
    assert found.converged
    for part in ("value", "feature_part"):
        assert getattr(found, part) / scale**2 == pytest.approx(getattr(plain, part), rel=1e-3)
    assert found.cross.upper / scale**2 == pytest.approx(plain.cross.upper, rel=1e-3)


def test_equal_points_up_to_rounding_are_at_zero() -> None:
    found = sinkhorn_divergence(bare(np.full((7, 5), 3.33e-6)), bare(np.full((11, 5), 3.33e-6)), ZERO)
    assert found.value == 0.0
    assert found.cross.upper == 0.0


def test_rest_without_mass_on_one_side_costs_nothing() -> None:
    source, target, costs, _ = problem()
    rows = np.zeros(60)
    rows[3] = 1e-17
    assert product_cost(source, target, costs.cross, rows, np.zeros(80)) == 0.0


def test_full_precision_restores_what_was_set() -> None:
    settings = torch.backends.cuda.matmul
    name, loose = ("fp32_precision", "tf32") if hasattr(settings, "fp32_precision") else ("allow_tf32", True)
    before = getattr(settings, name)
    setattr(settings, name, loose)
    try:
        with kernel.full_precision():
            assert getattr(settings, name) in ("ieee", False)
        assert getattr(settings, name) == loose
    finally:
        setattr(settings, name, before)
