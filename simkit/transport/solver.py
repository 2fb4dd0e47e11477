"""The solver of one entropic problem: where it starts, how it iterates, and the pass that measures what it found."""

from __future__ import annotations

import logging
import math
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from simkit.errors import ResourceError
from simkit.transport.acceleration import Extrapolation, Groups, grouped
from simkit.transport.costs import Cloud, mean_cost
from simkit.transport.kernel import ABSORB, LARGEST_EXPONENT, Kernel, full_precision, kernel_bytes, times
from simkit.transport.measures import Entropic, Measures
from simkit.transport.memory import reserved
from simkit.transport.threads import one_thread

__all__ = ["Settings", "Solver", "predicted_seconds"]

log = logging.getLogger("simkit.transport")

GIB = 2**30
_one_at_a_time = threading.Lock()  # solves on one GPU: each takes what memory is free
PART = 1024
"""Points of each cloud whose solution starts that of a larger one (of at least three times as many)."""
STEPS_A_STAGE = 3
"""Passes at each of the epsilons that lead to the last one, each a quarter of the one before."""
SHARED_FROM = 2**22
"""Entries of the cost from which several threads work on one problem."""
SAY_EVERY = 10.0
"""Seconds between two lines about a long solve."""


@dataclass(frozen=True)
class Settings:
    """How an entropic problem is solved.

    Attributes:
        tolerance: where the solver stops: L1 error of the plan's marginals, of a mass of 1, and what that error costs, as a share of the value.
        passes: most passes over the kernel at the last epsilon.
        device: "cpu" or a CUDA device of torch.
        precision: of the kernel: "float32" or "float64"; values agree to 1e-4 of themselves.
        memory: bytes for one solve; None: 2 GiB on a CPU, 60 % of what is free on a GPU.
        tile: rows of a tile; None: what suits the device.
    """

    tolerance: float = 1e-2
    passes: int = 1000
    device: torch.device = torch.device("cpu")
    precision: str = "float32"
    memory: int | None = None
    tile: int | None = None

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.precision == "float64" else torch.float32

    @property
    def itemsize(self) -> int:
        """Bytes of one entry of the kernel."""
        return 8 if self.precision == "float64" else 4

    def budget(self) -> int:
        """Bytes that one solve may take."""
        if self.memory is not None:
            return self.memory
        if self.device.type != "cuda":
            return 2 * GIB
        cached = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)  # torch holds it, and gives it out again
        return int(0.6 * (torch.cuda.mem_get_info(self.device)[0] + cached))


class Solver:
    """One problem, from the first potentials to the certificate.

    Args:
        source, target: the clouds; the same object twice for one cloud against itself.
        table: W between classes.
        epsilon: regularisation in units of the cost.
        feature_weight: of |x - x'|².
        settings: how it is solved.
    """

    def __init__(self, source: Cloud, target: Cloud, table: np.ndarray, epsilon: float, feature_weight: float, settings: Settings):
        self.source, self.target, self.table = source, target, table
        self.epsilon, self.feature_weight, self.settings = epsilon, feature_weight, settings
        self.passes = 0
        self.groups = (np.zeros(0, dtype=np.int64),) * 2 if source is target else (grouped(source), grouped(target))
        self.ratio: Tensor | None = None
        self.watch = _Watch(len(source), len(target))

    def solve(self) -> Entropic:
        """Solves the problem and measures the solution."""
        try:
            if self.settings.device.type == "cuda":
                with _one_at_a_time, full_precision():
                    return self._solve()
            small = len(self.source) * len(self.target) < SHARED_FROM
            with reserved(self._taken()), one_thread() if small else nullcontext():
                return self._solve()
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
                raise self._out_of_memory() from error
            raise

    def _taken(self) -> int:
        n, m = len(self.source), len(self.target)
        whole = kernel_bytes(n, m, self.source.features.shape[1] + 2, self.settings.itemsize, 64) + self.settings.itemsize * n * m
        return min(whole, self.settings.budget())

    def _out_of_memory(self) -> ResourceError:
        n, m, width = len(self.source), len(self.target), self.source.features.shape[1] + len(self.table) + 2
        free = torch.cuda.mem_get_info(self.settings.device)[0] if self.settings.device.type == "cuda" else self.settings.budget() // 2
        rows = next((r for r in (8192, 4096, 2048, 1024, 512, 256, 128, 64) if kernel_bytes(n, m, width, self.settings.itemsize, r) < 0.8 * free), 0)
        fits = f"tiles of {rows} rows fit: set tile = {rows} and memory = {0.8 * free / GIB:.2f}" if rows else "use fewer images (max_images)"
        message = f"{n} x {m} points: {self.settings.device} ran out of memory, {free / GIB:.2f} GiB are free"
        return ResourceError("SK301", "sinkhorn", message, fits)

    def _solve(self) -> Entropic:
        kernel = self._kernel(self.source, self.target, self.epsilon)
        if kernel.symmetric:
            self._symmetric(kernel)
        else:
            self._balanced(kernel, *self._start(kernel), last=True)
        found = Measures(kernel, None if kernel.symmetric else self.ratio)
        for index in range(len(kernel.tiles)):
            found.add(index)
        return found.result(self.passes, self.settings.tolerance, self.feature_weight)

    def _kernel(self, source: Cloud, target: Cloud, epsilon: float) -> Kernel:
        s = self.settings
        return Kernel(
            source, target, self.table, epsilon=epsilon, feature_weight=self.feature_weight, device=s.device, dtype=s.dtype, memory=s.budget(), tile=s.tile,
        )

    # --- where to start ------------------------------------------------------------------------------------------------------------------

    def _start(self, kernel: Kernel) -> tuple[Tensor, Tensor]:
        """Potentials near the solution: from larger epsilons, or, for large clouds, from the solution of a part of each, extended to all points.

        The extension ends with a pass over the whole: a point that the part has nothing like would otherwise start anywhere.
        """
        if max(len(self.source), len(self.target)) < 3 * PART:
            return self._annealed(self.source, self.target)
        source, target = self.source.head(PART), self.target.head(PART)
        _, g = self._balanced(self._kernel(source, target, self.epsilon), *self._annealed(source, target), last=True)
        self.passes = 1  # passes over the part are as nothing against those over the whole
        f = kernel.rows_from(g, size=len(g))
        return f, kernel.columns_from(f)

    def _annealed(self, source: Cloud, target: Cloud) -> tuple[Tensor, Tensor]:
        largest = mean_cost(source, target, self.table, feature_weight=self.feature_weight)
        f, g = (torch.zeros(len(cloud), dtype=torch.float64, device=self.settings.device) for cloud in (source, target))
        for stage in range(math.ceil(math.log(max(largest / self.epsilon, 1.0), 4)) - 1, 0, -1):
            f, g = self._balanced(self._kernel(source, target, self.epsilon * 4.0**stage), f, g, last=False)
        self.passes = 0  # counted are those at the last epsilon
        return f, g

    # --- iterations ----------------------------------------------------------------------------------------------------------------------

    def _balanced(self, kernel: Kernel, f: Tensor, g: Tensor, *, last: bool) -> tuple[Tensor, Tensor]:
        """Sinkhorn's iteration from (f, g); the new potentials.

        At the last epsilon it goes on until the columns' marginals are off by less than the tolerance (the rows' are exact), and what they are off
        by costs less than that share of the value; before it, for a few passes.
        """
        groups = Groups(kernel, self.groups[0][: len(kernel.a)], self.groups[1][: len(kernel.b)])
        history = Extrapolation(kernel.b)
        kernel.set_potentials(f, g)
        v = torch.zeros_like(kernel.b)  # log2 of the column scalings
        most = self.settings.passes if last else STEPS_A_STAGE
        for index in range(most):
            u, columns = _pass(kernel, groups, v)
            self.passes += 1
            marginal = torch.exp2(v) * columns.sum(1)
            excess = kernel.b * (marginal - 1)
            error = float(excess.abs().sum())
            self.ratio = marginal
            self.watch.tell(self.passes, error)
            if last and (index == most - 1 or (not kernel.cut and error < self.settings.tolerance and self._settled(kernel, u, v, excess))):
                break
            v = history.next(v, -_log2(groups.balance(columns, v)), error)
            if kernel.cut or max(float(u.abs().max()), float(v.abs().max())) > ABSORB:
                kernel.set_potentials(kernel.f + u / kernel.scale, kernel.g + v / kernel.scale)
                u, v = torch.zeros_like(u), torch.zeros_like(v)
                history.forget()
        if kernel.cut:  # it ended before the kernel could be built: rows that hold, made in logarithms
            g = kernel.g + v / kernel.scale
            kernel.set_potentials(kernel.rows_from(g), g)
            self.ratio = torch.ones_like(marginal)
        else:
            kernel.finish(u, v)
        return kernel.f, kernel.g

    def _settled(self, kernel: Kernel, u: Tensor, v: Tensor, excess: Tensor) -> bool:
        """Whether what the marginals are off by costs little. A few points far out hold next to no mass and nearly all of the cost.

        With exact rows the plan's own objective exceeds the dual value by sum_j (column j's mass - b_j) g_j.
        """
        f, g = kernel.f + u / kernel.scale, kernel.g + v / kernel.scale
        value = float(kernel.a @ f + kernel.b @ g)
        return abs(float(excess @ g)) <= self.settings.tolerance * abs(value)

    def _symmetric(self, kernel: Kernel) -> None:
        """The potential of a cloud against itself: each step goes half the way (Knight, Ruiz and Ucar 2014), which converges in a few passes."""
        kernel.set_potentials(kernel.f, kernel.g)
        u = torch.zeros_like(kernel.a)
        for index in range(self.settings.passes):
            mass = kernel.a * torch.exp2(u)
            rows = torch.zeros_like(u)
            for tile, block in kernel.blocks():
                rows[tile.start : tile.stop] += times(block, mass[tile.first :])
                rows[tile.stop :] += times(block[:, tile.stop - tile.first :].T, mass[tile.start : tile.stop])
            self.passes += 1
            excess = kernel.a * (torch.exp2(u) * rows - 1)
            error = 2 * float(excess.abs().sum())
            self.watch.tell(self.passes, error)
            if index == self.settings.passes - 1 or (error < self.settings.tolerance and self._settled(kernel, u, u, 2 * excess)):
                break
            u = (u - _log2(rows)) / 2
            if float(u.abs().max()) > ABSORB:
                kernel.set_potentials(kernel.f + u / kernel.scale, kernel.f + u / kernel.scale)
                u = torch.zeros_like(u)
        kernel.finish(u, u)


def _log2(sums: Tensor) -> Tensor:
    """log2 of sums of the kernel, kept where the next kernel can be built: a sum that under- or overflowed is repaired by moving the potentials."""
    return torch.log2(sums.clamp(2.0**-LARGEST_EXPONENT, 2.0**LARGEST_EXPONENT))


def _pass(kernel: Kernel, groups: Groups, v: Tensor) -> tuple[Tensor, Tensor]:
    """New row scalings (log2) for the column scalings v, and with them the sums of each column by the source's groups, (m, groups)."""
    mass = kernel.b * torch.exp2(v)
    u = torch.empty_like(kernel.a)
    columns = torch.zeros((len(kernel.b), groups.members.shape[1]), dtype=torch.float64, device=kernel.device)
    for tile, block in kernel.blocks():
        rows = slice(tile.start, tile.stop)
        u[rows] = -_log2(times(block, mass))
        columns += times(block.T, groups.members[rows] * (kernel.a[rows] * torch.exp2(u[rows])).unsqueeze(1))
    return u, columns


class _Watch:
    """Says how far a long solve has come, on the logger ``simkit.transport``."""

    def __init__(self, n: int, m: int):
        self.size = f"{n:,} x {m:,}"
        self.begun = self.said = time.monotonic()

    def tell(self, passes: int, error: float) -> None:
        now = time.monotonic()
        if now - self.said > SAY_EVERY:
            self.said = now
            log.info("transport of %s points: pass %d, marginals off by %.2g of the mass, %.0f s", self.size, passes, error, now - self.begun)


def predicted_seconds(n: int, m: int, width: int, settings: Settings, *, debias: bool = True) -> float:
    """Predicted time of a divergence, from the speed of this device on a piece of the kernel (some milliseconds).

    Five passes over the kernel between the clouds and four over each half kernel within them; those that are not stored are computed in every pass,
    and each is computed once more for the measures. Without ``debias``, the problem between the clouds alone.
    """
    total = 0.0
    for rows, columns, share, passes in ((n, m, 1.0, 5), *(((n, n, 0.5, 4), (m, m, 0.5, 4)) if debias else ())):
        entries = float(rows) * columns
        stored = max(0.0, min(1.0, settings.budget() / (settings.itemsize * entries * share)))
        built, product = _speed(width, settings)
        total += share * entries * (built * (1 + stored + (1 - stored) * passes) + product * passes)
    return total


def _speed(width: int, settings: Settings) -> tuple[float, float]:
    """Seconds per entry of building the kernel, and of multiplying it, on this device now."""
    rows, columns = (512, 4096) if settings.device.type == "cpu" else (4096, 16384)
    left, right = (torch.ones((size, width), dtype=settings.dtype, device=settings.device) for size in (rows, columns))
    vectors = torch.ones((columns, 8), dtype=torch.float64, device=settings.device)

    def clock() -> float:
        if settings.device.type == "cuda":
            torch.cuda.synchronize(settings.device)
        return time.perf_counter()

    def build() -> Tensor:
        made = torch.from_numpy(left.numpy() @ right.numpy().T) if settings.device.type == "cpu" else left @ right.T
        return made.exp2_()

    build()
    times_taken = []
    for _ in range(2):
        start = clock()
        block = build()
        middle = clock()
        times(block, vectors)
        times(block, vectors[:, 0])
        times_taken.append((middle - start, clock() - middle))
    entries = rows * columns
    return min(t[0] for t in times_taken) / entries, min(t[1] for t in times_taken) / entries
