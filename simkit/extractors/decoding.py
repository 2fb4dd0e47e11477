"""Images decoded ahead of the network, in processes of their own: a decoder that crashes or hangs costs one image, not the run.

Every worker is a fresh Python (never a fork of a process that runs threads, never a second run of the user's script) that imports no
torch. Tasks and answers go through a socket, pixels through memory that both sides map, so an image is copied once. Where a
worker cannot be had (the reader or the extractor is defined in a notebook, or the system is not POSIX), threads of this process decode.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import mmap
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from simkit.dataset import Dataset
from simkit.errors import DataError, Problem, ResourceError, SimkitError

__all__ = ["Preparation", "Prepared", "prepared_images", "serve"]

CHUNK = 8
"""Images of one task."""

AHEAD = 3
"""Tasks that wait at each worker."""

FEW = 32
"""So many images are decoded sooner by threads than a process starts."""

TURBO = 10_000
"""So many images of a worker repay the seconds that torchvision takes to import, whose JPEG decoder is faster than Pillow's."""

SECONDS_PER_IMAGE = 60.0
"""A decoder that takes longer is stopped."""

SECONDS_TO_START = 300.0
"""So is a process that has not started by then."""

logger = logging.getLogger(__name__)


class Preparation(Protocol):
    """How a decoded image becomes what the network gets; runs in the worker, so it is picklable and needs no torch."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The input made of an image, uint8 (height, width, 1 or 3)."""
        ...


@dataclass(frozen=True)
class Prepared:
    """One image of a data set: what the network gets of it, or the problem that makes it unreadable."""

    index: int
    pixels: np.ndarray | Problem
    remarks: tuple[str, ...] = ()


def prepared_images(
    dataset: Dataset, indices: Sequence[int], preparation: Preparation, *, workers: int, shape: tuple[int, ...] | None, few: int = FEW,
) -> Generator[Prepared, None, None]:
    """The images at ``indices``, in that order, decoded ahead by ``workers`` processes (threads where processes cannot be had).

    Args:
        dataset: whose reader decodes.
        indices: positions in the data set.
        preparation: what is done to each image.
        workers: processes or threads.
        shape: of what the preparation makes (uint8), which then goes through shared memory; None: not known.
        few: so many images are decoded by threads.
    """
    in_memory = getattr(dataset.reader, "in_memory", False)  # nothing to decode, and all of it would be sent to every worker
    if len(indices) > few and os.name == "posix" and not in_memory:
        task = _pickled(dataset, preparation)
        if task is not None:
            yield from _Processes(task, dataset, indices, workers, shape).run()
            return
    yield from _threads(dataset, indices, preparation, workers)


def _pickled(dataset: Dataset, preparation: Preparation) -> bytes | None:
    """Reader and preparation for another process; None where that process could not load them."""
    parts = (dataset.reader, preparation)
    owners = [type(getattr(part, "__self__", part)) for part in parts]
    if hasattr(preparation, "__self__"):  # a method of a session, which would be sent with its network
        return None
    if any(owner.__module__ == "__main__" or "<locals>" in owner.__qualname__ for owner in owners):
        return None
    try:
        return pickle.dumps(parts)
    except (pickle.PicklingError, TypeError, AttributeError):  # a reader that holds an open file or a lambda
        logger.info("%s: its reader cannot be sent to other processes, threads decode the images", dataset.name)
        return None


def _prepared(dataset: Dataset, index: int, preparation: Preparation) -> Prepared:
    try:
        image, remarks = dataset.remarked(index)
        return Prepared(index, preparation(image), remarks)
    except DataError as error:
        return Prepared(index, error.problems[0])


def _threads(dataset: Dataset, indices: Sequence[int], preparation: Preparation, workers: int) -> Iterator[Prepared]:
    with ThreadPoolExecutor(workers, thread_name_prefix="simkit-decode") as pool:
        waiting: deque[Future[Prepared]] = deque()
        for index in indices:
            waiting.append(pool.submit(_prepared, dataset, int(index), preparation))
            if len(waiting) > 2 * CHUNK * workers + 128:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


# --- processes -------------------------------------------------------------------------------------------------------------------------


@dataclass
class _Task:
    """Some images, and the places of their pixels in the shared memory."""

    positions: list[int]
    places: list[int]
    tries: int = 0


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    tasks: deque[_Task] = field(default_factory=deque)
    ready: bool = False
    broken: bool = False
    since: float = field(default_factory=time.monotonic)


class _Processes:
    """Deals images out to workers and hands them on in order.

    The caller must be done with the pixels of an image when it asks for the next: their place is then used again.
    """

    def __init__(self, task: bytes, dataset: Dataset, indices: Sequence[int], workers: int, shape: tuple[int, ...] | None):
        self.task, self.dataset, self.indices, self.shape = task, dataset, indices, shape
        self.count = min(workers, -(-len(indices) // CHUNK))
        self.places = CHUNK * (AHEAD + 2) * self.count
        self.size = int(np.prod(shape)) if shape else 0
        self.free = deque(range(self.places))
        self.next = 0
        self.again: deque[_Task] = deque()
        self.done: dict[int, tuple[Prepared, int]] = {}
        self.workers: list[_Worker] = []
        self.failed_starts = 0

    def run(self) -> Iterator[Prepared]:
        with tempfile.TemporaryFile() if not hasattr(os, "memfd_create") else os.fdopen(os.memfd_create("simkit"), "r+b") as file:
            progress = self.count * 8
            file.truncate(max(progress + self.places * self.size, 1))
            self.memory, self.file = mmap.mmap(file.fileno(), 0), file  # never closed by hand: the caller may still hold a view of it
            try:
                for number in range(self.count):
                    self.workers.append(self._start(number))
                yield from self._ordered()
            finally:
                for worker in self.workers:
                    worker.connection.close()
                    worker.process.kill()
                    worker.process.wait()

    def _start(self, number: int) -> _Worker:
        here, there = socket.socketpair()
        command = "import sys; from simkit.extractors.decoding import serve; serve(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with there:
            process = subprocess.Popen(  # noqa: S603 - this Python, and no text from outside
                [sys.executable, "-c", command, str(there.fileno()), str(self.file.fileno()), str(number)],
                pass_fds=(there.fileno(), self.file.fileno()), env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
            )
        worker = _Worker(process, Connection(here.detach()))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died at once, which the next look at it shows
            worker.connection.send_bytes(self.task)
            worker.connection.send((self.shape, self.size, self.count * 8, len(self.indices) // self.count >= TURBO))
        return worker

    def _ordered(self) -> Iterator[Prepared]:
        for position in range(len(self.indices)):
            while position not in self.done:
                self._deal()
                self._receive()
            item, place = self.done.pop(position)
            yield item
            if place >= 0:
                self.free.append(place)

    def _deal(self) -> None:
        """Gives waiting images to the workers with the fewest tasks."""
        while self.again or self.next < len(self.indices):
            worker = min((one for one in self.workers if one.ready and not one.broken), key=lambda one: len(one.tasks), default=None)
            if worker is None or len(worker.tasks) > AHEAD:
                return
            if self.again:
                task = self.again.popleft()
            else:
                count = min(CHUNK, len(self.indices) - self.next)
                if len(self.free) < count:
                    return
                task = _Task(list(range(self.next, self.next + count)), [self.free.popleft() for _ in range(count)])
                self.next += count
            assert self.dataset.rows is not None
            try:
                worker.connection.send([(int(self.dataset.rows[self.indices[p]]), place) for p, place in zip(task.positions, task.places, strict=True)])
            except (BrokenPipeError, ConnectionResetError):
                self.again.appendleft(task)
                worker.broken = True  # what it has answered is taken in before it is replaced
                continue
            if not worker.tasks:
                worker.since = time.monotonic()
            worker.tasks.append(task)

    def _receive(self) -> None:
        """Takes in what the workers have answered; replaces those that died or hang."""
        ready = wait([worker.connection for worker in self.workers], timeout=1.0)
        for worker in list(self.workers):
            if worker.connection in ready:
                try:
                    answer = worker.connection.recv()
                except (EOFError, ConnectionResetError):
                    self._replace(worker, "died")
                    continue
                if isinstance(answer, BaseException):
                    raise answer
                if answer is None:  # it has started, which may take seconds on a busy machine
                    worker.ready, worker.since = True, time.monotonic()
                    continue
                self._take(worker.tasks.popleft(), answer)
                worker.since = time.monotonic()
            elif worker.tasks and time.monotonic() - worker.since > SECONDS_PER_IMAGE * len(worker.tasks[0].positions):
                self._replace(worker, f"took more than {SECONDS_PER_IMAGE:.0f} s")
            elif not worker.ready and time.monotonic() - worker.since > SECONDS_TO_START:
                self._replace(worker, f"took more than {SECONDS_TO_START:.0f} s")

    def _take(self, task: _Task, answer: list[tuple[Any, tuple[str, ...]]]) -> None:
        for position, place, (pixels, remarks) in zip(task.positions, task.places, answer, strict=True):
            index = int(self.indices[position])
            if isinstance(pixels, Problem) or pixels is not None:
                self.free.append(place)
                self.done[position] = Prepared(index, pixels, remarks), -1
            else:
                start = self.count * 8 + place * self.size
                view = np.frombuffer(self.memory, np.uint8, self.size, start).reshape(self.shape or ())
                self.done[position] = Prepared(index, view, remarks), place

    def _replace(self, worker: _Worker, how: str) -> None:
        """A new worker for one that is gone. The image that it was at is tried once more, alone; what then fails again is named."""
        number = self.workers.index(worker)
        worker.process.kill()
        status = worker.process.wait()
        worker.connection.close()
        tasks = list(worker.tasks)
        if not worker.ready:  # no image had a part in it
            self.failed_starts += 1
            if self.failed_starts > 3:
                message = f"decoding processes do not start: the last {how} (status {status})"
                raise ResourceError("SK301", self.dataset.name, message, "see its output above, if there is any; --workers 1 needs the least memory")
        first = tasks.pop(0) if tasks else None
        if first is not None:
            at = min(int(np.frombuffer(self.memory, np.int64, 1, number * 8)[0]), len(first.positions) - 1)
            position, place = first.positions[at], first.places[at]
            if len(first.positions) == 1 and first.tries:
                key = self.dataset.keys[int(self.indices[position])]
                problem = Problem("SK206", f"{self.dataset.name}: {key}", f"the decoder {how} on it, twice", "replace or remove the file")
                self._take(first, [(problem, ())])
            else:
                rest = [i for i in range(len(first.positions)) if i != at]
                if rest:
                    self.again.append(_Task([first.positions[i] for i in rest], [first.places[i] for i in rest]))
                self.again.append(_Task([position], [place], tries=1))
        self.again.extend(tasks)
        self.memory[number * 8 : number * 8 + 8] = bytes(8)
        self.workers[number] = self._start(number)


def serve(connection_handle: int, memory_handle: int, number: int) -> None:
    """A worker: decodes what it is sent until the other side is gone."""
    connection = Connection(connection_handle)
    try:
        with mmap.mmap(memory_handle, 0) as memory:
            _answer_all(connection, memory, number)
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return


def _answer_all(connection: Connection, memory: mmap.mmap, number: int) -> None:
    raw = connection.recv_bytes()
    shape, size, start, long = connection.recv()
    if long:
        with contextlib.suppress(ImportError, RuntimeError):  # without it, or where it does not fit torch, Pillow decodes
            importlib.import_module("torchvision.io")
    try:
        reader, preparation = pickle.loads(raw)  # noqa: S301 - from the process that started this one
    except Exception as error:  # a class that this process cannot import; the other side must know
        fix = "define the reader and the extractor in a module that can be imported"
        connection.send(ResourceError("SK301", "decoding", f"a decoding process cannot load the reader ({error})", fix))
        return
    connection.send(None)
    while True:
        answer: list[tuple[Any, tuple[str, ...]]] = []
        for at, (row, place) in enumerate(connection.recv()):
            memory[number * 8 : number * 8 + 8] = at.to_bytes(8, sys.byteorder)
            try:
                answer.append(_prepare_into(reader, preparation, row, shape, memory, start + place * size))
            except DataError as error:
                answer.append((error.problems[0], ()))
            except SimkitError as error:
                connection.send(error)
                return
            except Exception as error:  # a bug, or a package that is missing here: it is no fault of the image
                where = traceback.extract_tb(error.__traceback__)[-1]
                message = f"decoding failed with {type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
                connection.send(ResourceError("SK301", "decoding", message, "if a package is missing, install it; else please report this"))
                return
        connection.send(answer)


def _prepare_into(
    reader: Any, preparation: Callable[[np.ndarray], np.ndarray], row: int, shape: tuple[int, ...] | None, memory: mmap.mmap, start: int,
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The prepared image, or None when it lies in the shared memory."""
    image, remarks = reader.remarked(row) if hasattr(reader, "remarked") else (reader.read(row), ())
    pixels = preparation(image)
    if shape is None or pixels.shape != shape or pixels.dtype != np.uint8:
        return pixels, remarks
    memory[start : start + pixels.nbytes] = np.ascontiguousarray(pixels).data.cast("B")
    return None, remarks
