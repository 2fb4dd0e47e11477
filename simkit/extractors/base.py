"""The contract of a feature extractor, and the loop that runs one over a data set."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from simkit.dataset import Dataset
from simkit.errors import DataError, IntegrityError, Problem, UsageError
from simkit.recipe import recipe_of

__all__ = ["Batch", "Extractor", "Session", "extract"]


class Session(Protocol):
    """An extractor that is ready to work: network loaded, on its device."""

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """One image, uint8 (height, width, 1 or 3), as the array that ``features`` stacks. Runs in worker threads."""
        ...

    def features(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Features of a batch of prepared images: float32 (n, d)."""
        ...


class Extractor:
    """Base of every extractor: a frozen dataclass whose fields are its options.

    Class attributes:
        name: how the extractor is called everywhere.
        citation: source of the network or method.
        version: raised with every change that moves a feature.
        needs_device: whether it computes on the device (a network) or always on the CPU.
    """

    name = ""
    citation = ""
    version = 1
    needs_device = True

    def recipe(self) -> dict[str, Any]:
        """What identifies the features in the store: options, weights digest, preprocessing; never a path."""
        return recipe_of(self)

    def check(self) -> None:
        """Everything that can be known to be wrong before any work: names, files, tensor names. Raises SimkitError."""

    def session(self, device: str) -> Session:
        """Loads the extractor onto a device ("cpu", "cuda", "cuda:1", "mps")."""
        raise NotImplementedError


@dataclass(frozen=True)
class Batch:
    """Features of some images of a data set, and the images among them that could not be read."""

    indices: np.ndarray
    features: np.ndarray
    unreadable: tuple[tuple[int, Problem], ...]


def _prepared(session: Session, dataset: Dataset, index: int) -> np.ndarray | Problem:
    try:
        return session.prepare(dataset.read(index))
    except DataError as error:
        return error.problems[0]


def extract(
    session: Session, dataset: Dataset, indices: Sequence[int], *, batch_size: int, workers: int, name: str = "extractor",
) -> Iterator[Batch]:
    """Features batch by batch; images are decoded ahead in ``workers`` threads.

    Raises:
        IntegrityError: when the extractor returns NaN or infinite features (naming the images): they are never stored.
        UsageError: for a batch size or number of workers below 1.
    """
    if batch_size < 1 or workers < 1:
        raise UsageError("SK102", name, f"batch size {batch_size}, workers {workers}: both must be at least 1", "give positive numbers")
    chunks = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    with ThreadPoolExecutor(workers, thread_name_prefix="simkit-decode") as pool:
        waiting: deque[tuple[Sequence[int], list[Future[np.ndarray | Problem]]]] = deque()
        following = iter(chunks)

        def ahead() -> None:
            chunk = next(following, None)
            if chunk is not None:
                waiting.append((chunk, [pool.submit(_prepared, session, dataset, int(i)) for i in chunk]))

        for _ in range(3):
            ahead()
        while waiting:
            chunk, futures = waiting.popleft()
            prepared = [future.result() for future in futures]
            ahead()
            yield _batch(session, dataset, chunk, prepared, name)


def _batch(session: Session, dataset: Dataset, chunk: Sequence[int], prepared: list[np.ndarray | Problem], name: str) -> Batch:
    unreadable = tuple((int(i), p) for i, p in zip(chunk, prepared, strict=True) if isinstance(p, Problem))
    good = [int(i) for i, p in zip(chunk, prepared, strict=True) if not isinstance(p, Problem)]
    images = [p for p in prepared if not isinstance(p, Problem)]
    features = np.asarray(session.features(images), dtype=np.float32) if images else np.empty((0, 0), dtype=np.float32)
    if len(features) != len(good):
        raise UsageError("SK102", name, f"returned {len(features)} rows for {len(good)} images", "an extractor returns one row an image")
    bad = ~np.isfinite(features).all(axis=1) if len(features) else np.zeros(0, dtype=bool)
    if bad.any():
        names = ", ".join(dataset.keys[good[i]] for i in np.flatnonzero(bad)[:5])
        message = f"{int(bad.sum())} rows of features are NaN or infinite ({dataset.name}: {names})"
        raise IntegrityError("SK210", name, message, "check the weights; such rows are never stored")
    return Batch(np.array(good, dtype=np.int64), features, unreadable)
