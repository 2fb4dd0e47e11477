"""Arrays where they are computed: numpy on a CPU, torch on a GPU, one code for both.

Functions that take ``rows`` here and in :mod:`simkit.estimators` ask :func:`namespace` for the functions of the library that the array belongs to
(the Python array API standard), so that the same lines run on either.
"""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

from simkit.device import resolve_device
from simkit.errors import UsageError

__all__ = ["beside", "device_of", "eigh", "eigvalsh", "namespace", "numpy_of", "placed", "singular_values"]


def device_of(name: str, *, where: str = "device") -> str:
    """The device that ``name`` stands for: "cpu" or "cuda:0"; ``auto`` is a CUDA device where there is one, else the CPU.

    Raises:
        UsageError: no such device (SK106), or one without float64 (Metal), which statistics need.
    """
    if name == "cpu":
        return "cpu"
    device = resolve_device(name, where=where)
    if device.type == "mps":
        if name == "mps":
            raise UsageError("SK106", where, "statistics need float64, which Metal (mps) does not have", "set device = cpu")
        return "cpu"
    return str(device)


def placed(array: np.ndarray, device: str) -> Any:
    """The array on a device: itself on the CPU, a tensor of torch on a GPU."""
    if device == "cpu":
        return array
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def beside(array: np.ndarray, other: Any) -> Any:
    """The array in the library and on the device of another one."""
    if isinstance(other, np.ndarray):
        return array
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).to(other.device)


def numpy_of(array: Any) -> np.ndarray:
    """The array in numpy, wherever it was."""
    return array if isinstance(array, np.ndarray) else np.asarray(array.detach().cpu().numpy())


def namespace(array: Any) -> Any:
    """The functions of the library that the array belongs to, under the names of the array API standard."""
    return array_api_compat.array_namespace(array)


def eigvalsh(matrix: Any) -> np.ndarray:
    """Eigenvalues of symmetric matrices, ascending, in numpy; float64 ``eigvalsh``, again on the CPU where a GPU's solver fails."""
    if isinstance(matrix, np.ndarray):
        return np.asarray(np.linalg.eigvalsh(matrix))
    import torch

    try:
        return numpy_of(torch.linalg.eigvalsh(matrix))
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # cuSOLVER gives up on some singular matrices that LAPACK solves
        return np.asarray(np.linalg.eigvalsh(numpy_of(matrix)))


def eigh(matrix: Any) -> tuple[Any, Any]:
    """Eigenvalues (ascending) and eigenvectors of a symmetric matrix, where the matrix is; again on the CPU where a GPU's solver fails."""
    if isinstance(matrix, np.ndarray):
        return tuple(np.linalg.eigh(matrix))  # type: ignore[return-value]
    import torch

    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return tuple(torch.from_numpy(one).to(matrix.device) for one in np.linalg.eigh(numpy_of(matrix)))  # type: ignore[return-value]
    return values, vectors


def singular_values(matrix: Any) -> np.ndarray:
    """Singular values, in numpy."""
    if isinstance(matrix, np.ndarray):
        return np.asarray(np.linalg.svd(matrix, compute_uv=False))
    import torch

    try:
        return numpy_of(torch.linalg.svdvals(matrix))
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return np.asarray(np.linalg.svd(numpy_of(matrix), compute_uv=False))
