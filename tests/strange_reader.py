"""A reader that fails in the ways that decoders fail; in a module of its own, which other processes import without torch."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from simkit.errors import DataError
from simkit.sources.arrays import array_digest


@dataclass(frozen=True)
class Strange:
    """A reader that fails in the ways that decoders fail; numbers are positions."""

    size: int = 40
    crash: tuple[int, ...] = ()
    once: str = ""
    waits_for: str = ""
    bad: tuple[int, ...] = ()
    hang: tuple[int, ...] = ()
    buggy: tuple[int, ...] = ()
    pids: dict[int, int] = field(default_factory=dict)

    def read(self, index: int) -> np.ndarray:
        if index in self.crash:
            if self.once and os.path.exists(self.once):
                return self._image(index)
            if self.once:
                Path(self.once).write_text("died here", encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)
        if index in self.buggy:
            return np.zeros(1 // 0)
        if index in self.hang:
            time.sleep(60)
        if index in self.bad and not (self.waits_for and os.path.exists(self.waits_for)):
            raise DataError("SK206", f"image {index}", "is truncated", "get it again")
        return self._image(index)

    def _image(self, index: int) -> np.ndarray:
        return np.full((self.size, self.size + index % 3, 3), index % 251, dtype=np.uint8)

    def remarked(self, index: int) -> tuple[np.ndarray, tuple[str, ...]]:
        return self.read(index), ("rotated",) if index % 2 else ()

    def digest(self, index: int) -> str:
        return array_digest(np.array([index]))


class Stillborn(Strange):
    """A reader that kills the process that loads it."""

    def __setstate__(self, state: dict[str, object]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
