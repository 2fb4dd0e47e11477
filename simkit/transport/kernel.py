"""The Gibbs kernel of an entropic transport problem in tiles of rows: kept in memory as far as it fits, computed again where it does not.

A tile of the exponents E_ij = (f_i + g_j - C_ij) / eps, in base 2, is one matrix product: the columns [2 x, one-hot class, f - |x|², 1] of
the source times [x', -W, 1, g - |x'|²] of the target hold features, label costs and potentials together. The kernel is K = 2^E.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from simkit.errors import ResourceError
from simkit.transport.costs import Cloud
from simkit.transport.interruption import go_on
from simkit.transport.memory import size_text

__all__ = ["ABSORB", "LARGEST_EXPONENT", "LOG2_E", "Kernel", "Tile", "full_precision", "kernel_bytes", "times"]

LOG2_E = math.log2(math.e)
TILE_ENTRIES = {"cpu": 2**23, "cuda": 2**27}
"""Entries of one tile: large enough for fast matrix products, small against the whole."""
SMALLEST_TILE = 64
LARGEST_EXPONENT = 100.0
"""Exponents of the kernel are cut here (float32 ends at 127); scalings beyond ``ABSORB`` are moved into the potentials, and the kernel is built again."""
ABSORB = 60.0
SMALLEST = 2.0**-126
"""Smallest normal float32: entries of the kernel below it hold no mass."""


@dataclass(frozen=True)
class Tile:
    """Rows start:stop of the kernel, from column ``first`` on (only the upper triangle of tiles is used where source and target are one)."""

    start: int
    stop: int
    first: int


def kernel_bytes(n: int, m: int, width: int, itemsize: int, rows: int) -> int:
    """Bytes that a kernel takes without any stored tile: both factors, and two tiles to work with."""
    return itemsize * ((n + m) * width + 2 * rows * m)


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products in true float32 on CUDA (TF32 keeps 10 bits: too few for distances), whatever the process has set. One user at a time."""
    settings = torch.backends.cuda.matmul
    name, value = ("fp32_precision", "ieee") if hasattr(settings, "fp32_precision") else ("allow_tf32", False)  # torch from 2.9 on, and before
    before = getattr(settings, name)
    setattr(settings, name, value)
    try:
        yield
    finally:
        setattr(settings, name, before)


class Kernel:
    """Kernel of one problem on one device.

    Args:
        source, target: the clouds; the same object twice means one cloud against itself, of which half is computed.
        table: W between classes, (K1, K2); symmetric for one cloud.
        epsilon: of the regularisation, in units of the cost.
        feature_weight: of |x - x'|².
        device, dtype: where and in which precision the kernel is computed; potentials are float64.
        memory: bytes that it may take.
        tile: rows of a tile; by default what suits the device.

    Raises:
        ResourceError: not even the smallest tile fits (SK301).
    """

    def __init__(
        self, source: Cloud, target: Cloud, table: np.ndarray, *, epsilon: float, feature_weight: float, device: torch.device, dtype: torch.dtype,
        memory: int, tile: int | None = None,
    ):
        self.source, self.target, self.table = source, target, table
        self.symmetric = source is target
        self.epsilon, self.scale = epsilon, LOG2_E / epsilon
        self.device, self.dtype = device, dtype
        n, m = len(source), len(target)
        transposed = table.shape[0] > table.shape[1]  # one-hot columns for the side with fewer classes
        one_hot = min(table.shape) if np.any(table) else 0
        self.width = source.features.shape[1] + one_hot + 2
        itemsize = torch.empty(0, dtype=dtype).element_size()
        rows = self._tile_rows(n, m, itemsize, memory, tile)
        self.tiles = [Tile(i, min(i + rows, n), i if self.symmetric else 0) for i in range(0, n, rows)]
        free = memory - kernel_bytes(n, m, self.width, itemsize, rows)
        self.stored = 0
        for one in self.tiles:
            free -= itemsize * (one.stop - one.start) * (m - one.first)
            self.stored += free >= 0
        centre = (source.mean + target.mean) / 2
        weight = math.sqrt(feature_weight * self.scale)  # both sides in units in which epsilon is near 1: no scale of the features under- or overflows
        self.left, self.source_norms = self._factor(source, centre, weight)
        self.right, self.target_norms = (self._factor(target, centre, weight)) if not self.symmetric else (self.left.clone(), self.source_norms)
        d = source.features.shape[1]
        self.left[:, :d] *= 2
        if one_hot:
            hot, cold = (self.right, self.left) if transposed else (self.left, self.right)
            self._label_columns(hot, cold, source, target, d, transposed=transposed)
        self.left[:, -1], self.right[:, -2] = 1.0, 1.0
        self.a, self.b = self._vector(source.weights), self._vector(target.weights)
        self.f, self.g = torch.zeros_like(self.a), torch.zeros_like(self.b)
        self.kept: list[Tensor | None] = [None] * len(self.tiles)
        self._fresh = [False] * len(self.tiles)
        self.cut = False  # whether an exponent was too large, so that sums of this kernel are not what they seem
        self._shift: tuple[Tensor, Tensor] | None = None
        self._scratch: list[Tensor] = []

    def _tile_rows(self, n: int, m: int, itemsize: int, memory: int, tile: int | None) -> int:
        rows = min(n, tile or max(SMALLEST_TILE, TILE_ENTRIES.get(self.device.type, 2**23) // m))
        while rows > SMALLEST_TILE and kernel_bytes(n, m, self.width, itemsize, rows) > memory:
            rows = max(SMALLEST_TILE, rows // 2)
        needed = kernel_bytes(n, m, self.width, itemsize, rows)
        if needed > memory:
            message = f"{n} x {m} points need at least {size_text(needed)}, in tiles of {rows} rows; the limit is {size_text(memory)}"
            raise ResourceError("SK301", "sinkhorn", message, f"set memory = {math.ceil(needed / 2**28) / 4:g}, or use fewer images")
        return rows

    def _vector(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float64).to(self.device)

    def _factor(self, cloud: Cloud, centre: np.ndarray, weight: float) -> tuple[Tensor, Tensor]:
        """The columns of one side: scaled features, room for classes, two columns for potentials; and |x|² of them in float64."""
        n, d = cloud.features.shape
        out = torch.zeros((n, self.width), dtype=self.dtype, device=self.device)
        norms = np.empty(n)
        for start in range(0, n, 4096):
            block = weight * (cloud.features[start : start + 4096] - centre)
            norms[start : start + 4096] = np.einsum("ij,ij->i", block, block)
            out[start : start + 4096, :d] = torch.from_numpy(block).to(self.device, self.dtype)
        return out, self._vector(norms)

    def _label_columns(self, hot: Tensor, cold: Tensor, source: Cloud, target: Cloud, d: int, *, transposed: bool) -> None:
        hot_labels, cold_labels = (target.labels, source.labels) if transposed else (source.labels, target.labels)
        costs = self.table if transposed else self.table.T
        index = torch.as_tensor(hot_labels, device=self.device)
        hot[:, d:-2] = torch.nn.functional.one_hot(index, costs.shape[1]).to(self.dtype)
        rows = torch.as_tensor(-self.scale * costs, dtype=self.dtype, device=self.device)
        cold[:, d:-2] = rows[torch.as_tensor(cold_labels, device=self.device)]

    # --- building -----------------------------------------------------------------------------------------------------------------------

    def set_potentials(self, f: Tensor, g: Tensor) -> None:
        """The kernel at potentials (f, g), float64: stored tiles are made when they are next asked for."""
        self.f, self.g = f.clone(), g.clone()
        self.left[:, -2] = (self.scale * f - self.source_norms).to(self.dtype)
        self.right[:, -1] = (self.scale * g - self.target_norms).to(self.dtype)
        self._fresh = [False] * len(self.tiles)
        self.cut, self._shift = False, None

    def finish(self, u: Tensor, v: Tensor) -> None:
        """The potentials moved by the scalings (u, v), log2: what is stored stays as it is, and :meth:`final_exponents` starts from it."""
        fresh, cut = self._fresh, self.cut
        self.set_potentials(self.f + u / self.scale, self.g + v / self.scale)
        self._fresh, self.cut, self._shift = fresh, cut, (u.to(self.dtype), v.to(self.dtype))

    def final_exponents(self, index: int, out: Tensor) -> Tensor:
        """E of a tile after :meth:`finish`: from the stored kernel where there is one, which is ten times faster than from the features."""
        tile, kept = self.tiles[index], self.kept[index]
        if kept is None or not self._fresh[index] or self.cut or self._shift is None:
            return self.exponents(tile, out)
        u, v = self._shift
        torch.log2(torch.clamp(kept, min=SMALLEST, out=out), out=out)
        return out.add_(u[tile.start : tile.stop].unsqueeze(1)).add_(v[tile.first :])

    def exponents(self, tile: Tile, out: Tensor, size: int | None = None) -> Tensor:
        """E of a tile (of its first ``size`` columns), written into ``out``."""
        go_on()
        left, right = self.left[tile.start : tile.stop], self.right[tile.first : size]
        if out.device.type == "cpu":  # numpy's BLAS: twice as fast as torch's on AMD, the same on Intel
            np.matmul(left.numpy(), right.numpy().T, out=out.numpy())
        else:
            torch.mm(left, right.T, out=out)
        return out

    # --- potentials from potentials, in logarithms: slower than products with the kernel, and safe wherever it starts ------------------------

    def rows_from(self, g: Tensor, *, size: int | None = None) -> Tensor:
        """f_i = -eps log sum_j b_j exp((g_j - C_ij) / eps) for all rows, from the potentials of all columns or of the first ``size``."""
        size = len(self.b) if size is None else size
        weights = self.b[:size] / self.b[:size].sum()
        self.set_potentials(torch.zeros_like(self.a), torch.zeros_like(self.b))
        self.right[:size, -1] = (self.scale * g - self.target_norms[:size] + torch.log2(weights)).to(self.dtype)
        f = torch.empty_like(self.a)
        for tile in self.tiles:
            exponents = self.exponents(Tile(tile.start, tile.stop, 0), self._room(tile.stop - tile.start, size), size)
            largest = exponents.amax(1, keepdim=True)
            sums = (exponents - largest).exp2_().sum(1).double()
            f[tile.start : tile.stop] = -(largest[:, 0].double() + torch.log2(sums)) / self.scale
        return f

    def columns_from(self, f: Tensor) -> Tensor:
        """g_j = -eps log sum_i a_i exp((f_i - C_ij) / eps) for all columns, tile by tile."""
        self.set_potentials(f, torch.zeros_like(self.b))
        top = torch.full_like(self.b, -math.inf)
        sums = torch.zeros_like(self.b)
        for tile in self.tiles:
            exponents = self.exponents(tile, self.scratch(tile, 0))
            higher = torch.maximum(top, exponents.amax(0).double())
            shifted = torch.sub(exponents, higher.to(self.dtype), out=self.scratch(tile, 1)).exp2_()
            sums = sums * torch.exp2(top - higher) + times(shifted.T, self.a[tile.start : tile.stop])
            top = higher
        return -(top + torch.log2(sums)) / self.scale

    def blocks(self) -> Iterator[tuple[Tile, Tensor]]:
        """Every tile of K in turn. A tile that is not stored is valid until the next one is asked for."""
        for index, tile in enumerate(self.tiles):
            kept = self.kept[index]
            if kept is not None and self._fresh[index]:
                go_on()
                yield tile, kept
                continue
            if index < self.stored:
                if kept is None:
                    kept = self.kept[index] = torch.empty((tile.stop - tile.start, len(self.b) - tile.first), dtype=self.dtype, device=self.device)
                self._fresh[index] = True
            else:
                kept = self.scratch(tile, 0)
            exponents = self.exponents(tile, kept)
            if float(exponents.max()) > LARGEST_EXPONENT:
                self.cut = True
                exponents.clamp_(max=LARGEST_EXPONENT)
            yield tile, exponents.exp2_()

    def scratch(self, tile: Tile, which: int) -> Tensor:
        """Room for a tile (0 or 1), used again and again."""
        return self._room(tile.stop - tile.start, len(self.b) - tile.first, which)

    def _room(self, rows: int, columns: int, which: int = 0) -> Tensor:
        if not self._scratch:
            largest = max((one.stop - one.start) * (len(self.b) - one.first) for one in self.tiles)
            self._scratch = [torch.empty(largest, dtype=self.dtype, device=self.device) for _ in range(2)]
        return self._scratch[which][: rows * columns].view(rows, columns)


def times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """``matrix @ vectors`` in float64, the products in the matrix's precision; one vector (m,) or several (m, k)."""
    lowered = vectors.to(matrix.dtype)
    if matrix.device.type == "cpu" and vectors.dim() == 2:
        return torch.from_numpy(matrix.numpy() @ lowered.numpy()).double()
    return (matrix @ lowered).double()
