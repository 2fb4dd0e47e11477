"""Which device computes: a name resolved once, and never another device than the one that was asked for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from simkit.errors import UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["describe_device", "resolve_device"]


def resolve_device(name: str, *, where: str = "device") -> torch.device:
    """The torch device behind ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    ``auto`` takes the first that is there of CUDA, MPS, CPU. Any other name is taken literally.

    Args:
        name: the device as the user wrote it.
        where: how messages call the place it was written in.

    Raises:
        UsageError: SK102 for text that names no device, SK106 for a device that this machine does not have.
    """
    import torch

    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise UsageError("SK102", where, f"'{name}' is not a device", "give auto, cpu, cuda, cuda:0 (any index) or mps")
    mps = bool(torch.backends.mps.is_available())
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    if name == "mps" and not mps:
        raise UsageError("SK106", where, "'mps' was asked for and this machine has no Metal device", "ask for cpu, or auto")
    if name.startswith("cuda"):
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        wanted = int(name.partition(":")[2] or 0)
        if wanted >= found:
            build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
            message = f"'{name}' was asked for and this machine has {found} CUDA device{'' if found == 1 else 's'} (torch {torch.__version__}, {build})"
            fix = f"ask for one of cuda:0 to cuda:{found - 1}, or auto" if found else "ask for cpu, or auto; or install a driver and a torch build with CUDA"
            raise UsageError("SK106", where, message, fix)
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """The device in words, for messages and records: ``CPU``, ``CUDA NVIDIA H100``, ``MPS``."""
    import torch

    if device.type == "cuda":
        return f"CUDA {torch.cuda.get_device_name(device)}"
    return device.type.upper()
