"""Gaussians of classes and data sets, and the Wasserstein distance between them: no matrix square root, singular covariances included."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from simkit.transport.arrays import eigh, eigvalsh, namespace, numpy_of, singular_values
from simkit.transport.threads import each

__all__ = ["Gaussian", "gaussian_distance", "gaussian_distances", "gaussian_distances_seconds", "gaussian_of", "nuclear_norm"]

ROWS_AT_A_TIME = 8192
"""Rows that are brought to float64 and factorised at once, so that a large class needs no second copy of itself."""

BLOCK = 2**25
"""Numbers in the factors of the classes that are multiplied together (256 MiB)."""

CONDITION = 1e-10
"""Reciprocal condition number of a covariance down to which its Cholesky factor is taken.

The computed factor R of S1 has R' R = S1 + D F D, where D² is the diagonal of S1 and |F_ij| at most (n + d) eps, in practice some eps (Higham 2002, Accuracy
and stability of numerical algorithms, theorem 10.5). To first order tr (S1 S2)^½ moves by tr (A D F D) / 2, where the transport map A is the geometric mean
of S1^-1 and S2. D A D is then that of C^-1 and D S2 D, with C = D^-1 S1 D^-1, so its norm is at most that of (|C^-1| |D S2 D|)^½, and the trace moves by at
most 10^5 |F|_* max D |S2|^½ / 2. Rounding at random makes |F|_* some eps d^1.5; where features have like variances, max D |S2|^½ is at most
(tr S1 tr S2 / d)^½, and the bound 2e-8 of the traces at d = 2048 for a second set in one direction, 5e-10 for one that fills them all. The same holds of S1
over its largest eigenvalue in place of C. Measured on maps of known distance down to this condition, and up to a scale of 2^40 between features: 5e-12
of the traces at most. A worse or singular covariance is factorised by QR of the rows, whose error grows with the condition of the rows, not its square.
"""

ACCURACY = 2.5e-9
"""Error of a nuclear norm that the faster of two ways may have, as a share of the squared distance that is made from it."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean and covariance of a set of rows, the covariance S as a factor: S = R' R.

    Attributes:
        mean: (d,), float64.
        factor: R, float64 (r, d) with r at most min(n - 1, d); no row at all for a single point. On a GPU a tensor of torch.
        trace: tr S, the sum of squares of R.
        count: number of rows n.
        covariance: upper triangle of S, where R is its (square) Cholesky factor; else None.
        shrinkage: share of the identity in S, where S is a shrunk estimate.
    """

    mean: np.ndarray
    factor: Any
    trace: float
    count: int
    covariance: np.ndarray | None = None
    shrinkage: float = 0.0

    @cached_property
    def live(self) -> np.ndarray:
        """Which features vary, bool (d,)."""
        return np.asarray(self.factor.any(0)) if isinstance(self.factor, np.ndarray) else numpy_of((self.factor != 0).any(0))

    @property
    def is_point(self) -> bool:
        """Whether the rows were all equal, up to the rounding of their mean."""
        return self.trace <= 1e-24 * max(float(self.mean @ self.mean), 1e-276)


def gaussian_of(rows: Any) -> Gaussian:
    """Mean and covariance factor of rows (n, d), with the unbiased covariance (divisor n - 1); one row has covariance 0.

    For n - 1 <= the number of features that vary, the factor is the n - 1 Helmert contrasts of the rows, sqrt(i / (i + 1)) (x_i - mean of the rows
    before), whose Gram matrix is the centred scatter: no eigenvalue, no squaring. For more rows it is the Cholesky factor of their covariance where
    that is well conditioned, else the triangular factor of a QR decomposition of these features. Cost: O(n d), or O(n d² + d³) in blocks of 8192 rows;
    QR takes three times as long as Cholesky.

    Args:
        rows: (n, d), numpy, or a tensor of torch, whose factor is made on its device (by ``eigh`` for more rows than features).
    """
    if not isinstance(rows, np.ndarray):
        return _gaussian_on_device(rows)
    n, d = rows.shape
    mean = rows.mean(0, dtype=np.float64)
    if n == 1:
        return Gaussian(mean, np.empty((0, d)), 0.0, 1)
    live = np.flatnonzero(rows.max(0) != rows.min(0))
    if n - 1 <= len(live):
        factor, covariance = _contrasts(rows, mean), None
    else:
        factor, covariance = _triangle(rows, mean, live)
    return Gaussian(mean, factor, float(np.einsum("ij,ij->", factor, factor)), n, covariance)


def _contrasts(rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    centred = rows - mean
    i = np.arange(1, len(rows))[:, None]
    return np.asarray((centred[1:] - np.cumsum(centred, axis=0)[:-1] / i) * np.sqrt(i / ((i + 1.0) * len(i))))


def _triangle(rows: np.ndarray, mean: np.ndarray, live: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The factor of more rows than features that vary, its columns of the other features 0; and the covariance where the factor is that of Cholesky."""
    d = rows.shape[1]
    if not live.size:
        return np.zeros((0, d)), None
    blocks = [slice(start, start + ROWS_AT_A_TIME) for start in range(0, len(rows), ROWS_AT_A_TIME)]
    chosen: Any = slice(None) if len(live) == d else live

    def centred(block: slice) -> np.ndarray:
        return np.asarray(rows[block][:, chosen] - mean[chosen])

    covariance = _covariance(map(centred, blocks), len(live), len(rows) - 1.0)
    triangle = _cholesky(covariance)
    if triangle is None:
        triangle = np.empty((0, len(live)))
        for block in blocks:
            triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, centred(block)]), mode="r"))
        triangle /= np.sqrt(len(rows) - 1.0)
        if len(live) == d:
            return triangle, None
    if len(live) == d:
        return triangle, covariance
    factor = np.zeros((len(live), d))
    factor[:, live] = triangle
    return factor, None


def _covariance(parts: Iterable[np.ndarray], d: int, divisor: float) -> np.ndarray:
    """Upper triangle of the sum of X' X over centred parts X (n, d), over ``divisor``; nothing of it is written twice."""
    from scipy.linalg import blas

    total = np.zeros((d, d), order="F")
    for part in parts:
        total = blas.dsyrk(1.0 / divisor, part.T, beta=1.0, c=total, trans=0, lower=0, overwrite_c=1)
    return total


def _cholesky(covariance: np.ndarray) -> np.ndarray | None:
    """The upper Cholesky factor; None where the covariance is too badly conditioned for it (see :data:`CONDITION`).

    The condition is that of the covariance, or of the correlations where features differ in scale, which Cholesky does not mind.
    """
    from scipy.linalg import lapack

    factor, failed = lapack.dpotrf(covariance, lower=0, clean=1)
    if failed:
        return None
    condition, _ = lapack.dpocon(factor, _largest_column(np.abs(covariance)), uplo="U")
    if condition < CONDITION:
        scale = np.sqrt(np.diagonal(covariance))
        correlation = np.abs(covariance) / scale
        correlation /= scale[:, None]
        condition, _ = lapack.dpocon(np.asfortranarray(factor / scale), _largest_column(correlation), uplo="U")
    return np.asarray(factor) if condition >= CONDITION else None


def _largest_column(upper: np.ndarray) -> float:
    """1-norm of a symmetric matrix of which the upper triangle is given, without negative numbers; the rest is 0."""
    return float((upper.sum(0) + upper.sum(1) - np.diagonal(upper)).max())


def shifted(gaussian: Gaussian, scale: float, shift: float) -> Gaussian:
    """The Gaussian with the covariance scale S + shift I, shift > 0."""
    d = len(gaussian.mean)
    covariance = _covariance([gaussian.factor * np.sqrt(scale)] if scale > 0 and len(gaussian.factor) else [], d, 1.0)
    covariance[np.diag_indices(d)] += shift
    factor = _cholesky(covariance)
    trace = scale * gaussian.trace + d * shift
    if factor is not None:
        return replace(gaussian, factor=factor, trace=trace, covariance=covariance)
    stacked = np.concatenate([gaussian.factor * np.sqrt(scale), np.sqrt(shift) * np.eye(d)])
    return replace(gaussian, factor=np.linalg.qr(stacked, mode="r"), trace=trace, covariance=None)


def _gaussian_on_device(rows: Any) -> Gaussian:
    """:func:`gaussian_of` of a tensor, its factor on the same device."""
    xp = namespace(rows)
    n, d = rows.shape
    mean = xp.mean(xp.astype(rows, xp.float64), axis=0)
    if n == 1:
        return Gaussian(numpy_of(mean), xp.zeros((0, d), dtype=xp.float64, device=rows.device), 0.0, 1)
    centred = xp.astype(rows, xp.float64) - mean
    centred = xp.where(xp.max(rows, axis=0) != xp.min(rows, axis=0), centred, xp.zeros_like(centred))
    if n <= d:
        i = xp.astype(xp.arange(1, n, device=rows.device), xp.float64)[:, None]
        factor = (centred[1:] - xp.cumulative_sum(centred, axis=0)[:-1] / i) * xp.sqrt(i / ((i + 1.0) * (n - 1)))
    else:
        values, vectors = eigh(centred.T @ centred / (n - 1.0))
        kept = values > d * np.finfo(np.float64).eps * xp.max(values)
        factor = (vectors[:, kept] * xp.sqrt(values[kept])).T
    return Gaussian(numpy_of(mean), factor, float(xp.sum(factor * factor)), n)


def nuclear_norm(matrix: np.ndarray, *, tolerance: float = 1e-10) -> float:
    """Sum of singular values, to a relative error of ``tolerance``. See :func:`_nuclear_norms`."""
    if not matrix.size:
        return 0.0
    value, error = (float(one[0]) for one in _nuclear_norms(matrix[None]))
    return value if error <= tolerance * value else float(singular_values(matrix).sum())


def _nuclear_norms(matrices: np.ndarray, nullities: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sums of singular values of a stack of matrices, and a bound of their rounding errors.

    From the eigenvalues of the smaller Gram matrix, which is two to three times faster than the singular values. An eigenvalue is wrong by a few
    eps times the largest; so is a singular value by that over twice itself, or by its square root where nothing else is left. ``nullities``: how
    many singular values of each matrix are known to be 0; they add no error.
    """
    if matrices.shape[1] > matrices.shape[2]:
        matrices = matrices.transpose(0, 2, 1)
    if matrices.shape[1] == 1:
        return np.linalg.norm(matrices[:, 0], axis=1), np.zeros(len(matrices))
    if len(matrices) == 1:
        gram = (matrices[0] @ matrices[0].T)[None]  # one product of a matrix with its own transpose takes half the time
    else:
        gram = matrices @ matrices.transpose(0, 2, 1)
    return _roots(eigvalsh(gram), nullities)


def _roots(values: np.ndarray, nullities: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the singular values whose squares are the eigenvalues of Gram matrices (k, r), and bounds of their errors."""
    singular = np.sqrt(np.maximum(values, 0.0))
    noise = 4 * np.finfo(float).eps * np.maximum(values[:, -1:], 0.0)
    if nullities is not None:
        known = np.arange(values.shape[1]) < nullities[:, None]
        singular = np.where(known, 0.0, singular)
        return singular.sum(1), np.where(known, 0.0, _errors(singular, noise)).sum(1)
    return singular.sum(1), _errors(singular, noise).sum(1)


def _errors(singular: np.ndarray, noise: np.ndarray) -> np.ndarray:
    known = singular**2 > noise
    return np.asarray(np.where(known, noise / (2 * np.where(known, singular, 1.0)), np.sqrt(noise)))


def _nullity(first: Gaussian, second: Gaussian) -> int:
    """Singular values of R1 R2' that must be 0, because the two share fewer features that vary than the product has rows and columns."""
    return max(0, min(len(first.factor), len(second.factor)) - int((first.live & second.live).sum()))


def _before(first: Gaussian, second: Gaussian) -> bool:
    return (len(first.factor), first.trace) <= (len(second.factor), second.trace)


def gaussian_distance(first: Gaussian, second: Gaussian) -> tuple[float, float]:
    """Squared 2-Wasserstein distance of two Gaussians, as (mean part, covariance part).

    |m1 - m2|² and tr S1 + tr S2 - 2 |R1 R2'|_* (nuclear norm): tr (S1^½ S2 S1^½)^½ is the sum of singular values of R1 R2' for any factors with
    R' R = S, so no matrix square root is needed and singular covariances are exact (Dowson and Landau 1982; Gelbrich 1990).
    Equal arguments give exactly (0, 0); the order of the arguments does not matter to the last bit.
    """
    gap = first.mean - second.mean
    mean_part = float(gap @ gap)
    if _equal(first, second):
        return mean_part, 0.0
    if not _before(first, second):
        first, second = second, first
    if not len(first.factor):
        return mean_part, first.trace + second.trace
    nullity = np.array([_nullity(first, second)])
    if first.covariance is not None and second.covariance is not None:
        norm, error = _roots(eigvalsh(_congruence(first.factor, second.covariance))[None], nullity)
        total = first.trace + second.trace
        if error[0] <= ACCURACY * max(mean_part + total - 2.0 * norm[0], 0.0):
            return mean_part, max(0.0, float(total - 2.0 * norm[0]))
        cross = first.factor @ second.factor.T  # for its singular values, below
    else:
        cross = first.factor @ second.factor.T
        norm, error = _nuclear_norms(cross[None], nullity) if isinstance(cross, np.ndarray) else _roots(eigvalsh(cross @ cross.T)[None], nullity)
    return mean_part, float(_covariance_parts(cross[None], norm, error, first.trace, np.array([second.trace]), np.array([mean_part]))[0])


def _congruence(factor: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """R1 S2 R1' for an upper triangular R1: half the work of the two products, as LAPACK does it for generalised eigenvalue problems."""
    from scipy.linalg import lapack

    reduced, _ = lapack.dsygst(covariance, factor, itype=2, lower=0)
    return np.asarray(reduced).T  # eigvalsh reads the lower triangle


def _equal(first: Gaussian, second: Gaussian) -> bool:
    if first.factor is second.factor:
        return True
    same = first.trace == second.trace and first.factor.shape == second.factor.shape
    return same and bool((first.factor == second.factor).all())


def _covariance_parts(
    crosses: Any, norms: np.ndarray, errors: np.ndarray, trace: float, traces: np.ndarray, mean_parts: np.ndarray,
) -> np.ndarray:
    """tr S1 + tr S2 - 2 |R1 R2'|_* for a stack of products; singular values where the eigenvalues were not accurate enough for the distance."""
    total = trace + traces
    values = total - 2.0 * norms
    for at in np.flatnonzero(errors > ACCURACY * np.maximum(mean_parts + values, 0.0)):
        values[at] = total[at] - 2.0 * singular_values(crosses[at]).sum()
    assert (values >= -1e-8 * total).all(), f"squared distances of covariances are {values.min()}, of traces {total.min()}"
    return np.maximum(values, 0.0)


def gaussian_distances(source: Sequence[Gaussian], target: Sequence[Gaussian]) -> np.ndarray:
    """Squared 2-Wasserstein distances (mean plus covariance part) of all pairs, float64 (k, l). See :func:`gaussian_distance`.

    One matrix product a row of the table, and the eigenvalues of all its classes of one rank in one call. With ``source is target`` half of the
    table is computed, and its diagonal is 0.
    """
    table = np.zeros((len(source), len(target)))
    for columns in _column_blocks(target):
        block = list(target[columns])
        stacked = np.concatenate([g.factor for g in block])
        starts = np.cumsum([0, *(len(g.factor) for g in block)])

        def fill(i: int, block: list[Gaussian] = block, stacked: np.ndarray = stacked, starts: np.ndarray = starts, columns: slice = columns) -> None:
            begin = max(0, i + 1 - columns.start) if source is target else 0
            if begin < len(block):
                cross = source[i].factor @ stacked[starts[begin] :].T
                parts = [cross[:, starts[j] - starts[begin] : starts[j + 1] - starts[begin]] for j in range(begin, len(block))]
                table[i, columns.start + begin : columns.stop] = _row(source[i], block[begin:], parts)

        each(fill, range(len(source)))
    return table + table.T if source is target else table


def _row(first: Gaussian, others: Sequence[Gaussian], crosses: Sequence[np.ndarray]) -> np.ndarray:
    """Squared distances of one Gaussian to others, from the products R1 R2'."""
    gaps = np.stack([g.mean for g in others]) - first.mean
    mean_parts = np.einsum("ij,ij->i", gaps, gaps)
    traces = np.array([g.trace for g in others])
    covariance_parts = first.trace + traces
    by_rank: dict[int, list[int]] = {}
    for j, other in enumerate(others):
        if _equal(first, other):
            covariance_parts[j] = 0.0
        elif crosses[j].size:
            by_rank.setdefault(len(other.factor), []).append(j)
    for members in by_rank.values():
        size = max(1, 2**16 // crosses[members[0]].size)  # small matrices by the hundred, large ones one at a time
        for start in range(0, len(members), size):
            chosen = np.array(members[start : start + size])
            stack = np.stack([crosses[j] for j in chosen])
            norms, errors = _nuclear_norms(stack, np.array([_nullity(first, others[j]) for j in chosen]))
            covariance_parts[chosen] = _covariance_parts(stack, norms, errors, first.trace, traces[chosen], mean_parts[chosen])
    return np.asarray(mean_parts + covariance_parts)


def _column_blocks(target: Sequence[Gaussian]) -> list[slice]:
    """Runs of classes whose factors together hold at most ``BLOCK`` numbers (one class at least)."""
    sizes = [g.factor.size for g in target]
    starts, held = [0], 0
    for j, size in enumerate(sizes):
        if held + size > BLOCK and j > starts[-1]:
            starts.append(j)
            held = 0
        held += size
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(sizes)], strict=True)]


def gaussian_distances_seconds(ranks: Sequence[int], others: Sequence[int], dimension: int) -> float:
    """Predicted time of :func:`gaussian_distances` for classes with factors of these ranks, on one core (measured: 17 ms a pair at rank and d of 500)."""
    a, b = np.array(ranks, dtype=float)[:, None], np.array(others, dtype=float)[None, :]
    low, high = np.minimum(a, b), np.maximum(a, b)
    return float((2e-5 + (2 * a * b * dimension + low * low * high) / 6e10 + 8e-11 * low**3).sum())
