"""The points behind a correlation, made when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["Points"]


class Points(Sequence[tuple[str, float, float]]):
    """(source, score as the method defines it, mean performance) of each source of a target; made when they are asked for.

    A table of a thousand methods has millions of them.
    """

    def __init__(self, sources: Sequence[str], rows: NDArray[np.int64], scores: NDArray[np.float64], performances: NDArray[np.float64]):
        self._sources, self._rows, self._scores, self._performances = sources, rows, scores, performances

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> tuple[str, float, float]: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[str, float, float], ...]: ...

    def __getitem__(self, index: int | slice) -> tuple[str, float, float] | tuple[tuple[str, float, float], ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        row = self._rows[index]
        return self._sources[row], float(self._scores[row]), float(self._performances[row])

    def __iter__(self) -> Iterator[tuple[str, float, float]]:
        for row in self._rows:
            yield self._sources[row], float(self._scores[row]), float(self._performances[row])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Points, tuple)) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))
