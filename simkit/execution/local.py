"""Work on this machine: in this process, or in processes of which each has a device of its own."""

from __future__ import annotations

import os
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from simkit.errors import ResourceError
from simkit.execution.places import POLL_SECONDS, RETRIES, Anything, Check, Say, Task, with_device

__all__ = ["Here", "Processes", "Slots", "device_folder"]


def device_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder of this run for the files that its processes lock.

    Raises:
        ResourceError: SK301 when it cannot be made.
    """
    try:
        return tempfile.TemporaryDirectory(prefix="simkit-devices-", ignore_cleanup_errors=True)
    except OSError as error:
        message = f"cannot make a temporary folder, by which processes share the devices ({error})"
        raise ResourceError("SK301", "jobs", message, "free some space there, or name another folder by TMPDIR") from error


class Here:
    """One task after the other, in this process."""

    def __init__(self, devices: Sequence[str], say: Say):
        self.jobs = 1
        self._device, self._say = next(iter(devices), None), say

    def share(self, value: Anything) -> Anything:
        return value

    def require(self, check: Check) -> None:
        """This machine was checked by whoever made the plan."""

    def results(self, task: Task, arguments: Iterable[Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        for index, one in enumerate(arguments):
            yield index, task(self._say, *with_device(one, self._device))


@dataclass(frozen=True)
class Slots:
    """Places of a run on this machine's devices, one a job: files that a worker process locks for as long as it works for the run.

    The system gives the lock of a killed process back. A process keeps its place, so that it holds memory of one device only.
    """

    folder: str
    jobs: int
    devices: tuple[str, ...]

    def device(self) -> str | None:
        """The device of this process."""
        if not self.devices:
            return None
        global _slot
        if _slot is None or _slot.folder != self.folder:
            first = 0 if _slot is None else _slot.number % self.jobs
            if _slot is not None:
                os.close(_slot.handle)  # of an earlier run; the process lives on
                _slot = None
            _slot = self._locked(first)
        return self.devices[_slot.number % len(self.devices)]

    def _locked(self, first: int) -> _Slot:
        """A free place, ``first`` if it is (where the process was in an earlier run). There are as many as processes, so one is or soon will be."""
        import fcntl

        while True:
            for number in (*range(first, self.jobs), *range(first)):
                handle = os.open(os.path.join(self.folder, str(number)), os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(handle)
                    continue
                return _Slot(self.folder, number, handle)
            time.sleep(POLL_SECONDS)  # a killed process has not quite ended


@dataclass(frozen=True)
class _Slot:
    """The place of this process: which run, which number, the open file that is locked."""

    folder: str
    number: int
    handle: int


_slot: _Slot | None = None


class Processes:
    """joblib's processes, which share arrays by a memory map. When one is killed, all are started anew, as its executor cannot go on."""

    def __init__(self, jobs: int, slots: Slots, say: Say):
        self.jobs = jobs
        self._slots, self._say = slots, say
        self._lost = 0

    def share(self, value: Anything) -> Anything:
        return value

    def require(self, check: Check) -> None:
        """This machine was checked by whoever made the plan."""

    def results(self, task: Task, arguments: Iterable[Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        # loky starts a worker anew whose memory has grown, which training does, and warns of it
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given to the executor", category=UserWarning)
        left = dict(enumerate(arguments))
        while left:
            parallel = Parallel(n_jobs=self.jobs, return_as="generator_unordered", batch_size=1)
            try:
                with closing(parallel(delayed(_numbered)(index, task, self._slots, *one) for index, one in list(left.items()))) as results:
                    for index, result in results:
                        del left[index]
                        yield index, result
            except TerminatedWorkerError as error:
                self._count(error, min(self.jobs, len(left)))

    def _count(self, error: Exception, running: int) -> None:
        """Says that a process was killed.

        Raises:
            ResourceError: SK301 when it was so once too often.
        """
        if self._lost == RETRIES:
            message = f"a worker process was killed, most likely for lack of memory ({self._lost + 1} times in this run)"
            raise ResourceError("SK301", "finetune", message, "run fewer jobs at once, or lower image_size; finished runs are kept") from error
        self._lost += 1
        again = f"{running} runs are started again and go on from their last epoch" if running > 1 else "1 run is started again and goes on from its last epoch"
        self._say(f"a worker process was killed (most likely for lack of memory): {again}")


def _end_with(parent: int) -> None:
    """Ends this process when the one that started it is gone: a killed simkit leaves nothing behind that holds memory or claims."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


_watched = False


def _watch() -> None:
    """Starts to look after the parent process, once."""
    global _watched
    if not _watched:
        _watched = True
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _numbered(index: int, task: Task, slots: Slots, *arguments: Any) -> tuple[int, Any]:
    _watch()
    return index, task(None, *with_device(arguments, slots.device()))
