"""Batches of decoded images on the device, so that it never waits for them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from simkit.transfer.augmentation import to_device

if TYPE_CHECKING:
    import torch

__all__ = ["DEPTH", "Feed", "prefetched"]

DEPTH = 2
"""How many batches are prepared ahead."""

RESIDENT_SHARE = 0.25
"""Share of the device's free memory below which all images are kept on it."""

Task = TypeVar("Task")
Made = TypeVar("Made")


class Feed:
    """Some images of a data set and their labels, handed out in batches on a device.

    On an accelerator all images are kept in its memory where they take less than a quarter of what is free; else a background thread reads the
    next batches into pinned memory. On the CPU a batch is read when it is asked for.

    Args:
        pixels: uint8 (n, channels, s, s), in memory or memory-mapped.
        rows: which of them, and in which order: the positions of a batch index into ``rows``.
        labels: class index of each image (n,).
        device: where batches are wanted.
        resident: whether all images are kept on the device; None decides by its memory (never on the CPU, where they would be copied).

    Attributes:
        labels: class index per row, int64 (len(rows),).
        resident: whether all images are kept on the device.
    """

    def __init__(self, pixels: np.ndarray, rows: np.ndarray, labels: np.ndarray, device: torch.device, *, resident: bool | None = None):
        self.rows = np.asarray(rows, dtype=np.int64)
        self.labels = np.asarray(labels, dtype=np.int64)[self.rows]
        self.device = device
        self._pixels = pixels
        size = len(self.rows) * int(np.prod(pixels.shape[1:])) * pixels.dtype.itemsize
        self.resident = size < RESIDENT_SHARE * _free_memory(device) if resident is None else resident
        self._kept: tuple[torch.Tensor, torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Images uint8 (b, channels, s, s) and class indices int64 (b,) at positions in ``rows``, on the device."""
        (found,) = self.batches([positions])
        return found

    def batches(self, parts: Sequence[np.ndarray]) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
        """:meth:`batch` of each part, in order. Closing the iterator ends the preparation of the next ones."""
        if self.resident:
            yield from self._resident_batches(parts)
        elif self.device.type == "cpu":
            yield from (self._read(part) for part in parts)
        else:
            for pixels, labels in prefetched(self._pinned, parts):
                yield to_device(pixels, self.device), to_device(labels, self.device)

    def _resident_batches(self, parts: Sequence[np.ndarray]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        import torch

        if self._kept is None:
            with torch.inference_mode(False):  # kept for trainings, whoever asks first
                pixels = torch.from_numpy(gathered_rows(self._pixels, self.rows)).to(self.device)
                self._kept = pixels, torch.from_numpy(self.labels).to(self.device)
        pixels, labels = self._kept
        if not parts:
            return
        positions = to_device(torch.from_numpy(np.concatenate(parts).astype(np.int64)), self.device)  # once: a copy for each batch costs more
        for part in positions.split([len(part) for part in parts]):
            yield pixels[part], labels[part]

    def _read(self, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        return torch.from_numpy(gathered_rows(self._pixels, self.rows[positions])), torch.from_numpy(self.labels[positions])

    def _pinned(self, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        pixels, labels = self._read(positions)
        if self.device.type != "cuda":
            return pixels, labels
        with torch.cuda.device(self.device):  # a thread begins on the first device
            return pixels.pin_memory(), labels.pin_memory()


def gathered_rows(pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``pixels[rows]`` in memory; read in the order of the file, as disks like it."""
    order = np.argsort(rows, kind="stable")
    out = np.empty((len(rows), *pixels.shape[1:]), dtype=pixels.dtype)
    for position, row in zip(order, rows[order], strict=True):
        out[position] = pixels[row]
    return out


def _free_memory(device: torch.device) -> int:
    """Bytes that are free on an accelerator; 0 for the CPU, and where the device does not tell."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return 0


def prefetched(make: Callable[[Task], Made], tasks: Sequence[Task], *, depth: int = DEPTH) -> Iterator[Made]:
    """``make`` of each task, in order; a background thread is at most ``depth`` results ahead.

    An exception of ``make`` is raised where its result would have come. The thread ends with the iterator: at its end, when it is closed, when
    it fails.
    """
    made: deque[tuple[Made | None, BaseException | None]] = deque()
    room, ready, closed = threading.Semaphore(depth), threading.Semaphore(0), threading.Event()

    def work() -> None:
        for task in tasks:
            room.acquire()
            if closed.is_set():
                return
            try:
                made.append((make(task), None))
            except BaseException as error:  # whatever it is, the reader raises it
                made.append((None, error))
                return
            finally:
                ready.release()

    thread = threading.Thread(target=work, name="simkit-feed", daemon=True)
    thread.start()
    try:
        for _ in tasks:
            ready.acquire()
            result, error = made.popleft()
            if error is not None:
                raise error
            room.release()
            yield result  # type: ignore[misc]
    finally:
        closed.set()
        room.release()
        thread.join()
