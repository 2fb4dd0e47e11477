"""TensorBoard logs of trainings, as an option (extra ``tensorboard``); its package is imported when a log is opened.

Records are written as they come, by the package's own writer of records and not through torch's ``SummaryWriter``, which holds them back for
up to two minutes in a thread: a kill would lose them, and its file names do not sort two sittings of one second.
"""

from __future__ import annotations

import hashlib
import re
import time
import unicodedata
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from simkit.errors import ResourceError
from simkit.files import resource_errors

__all__ = ["ScalarLog", "check_tensorboard"]

EVENTS = re.compile(r"events\.out\.tfevents\.(\d{10})\.simkit")


def check_tensorboard() -> None:
    """Raises, before any work, when logs could not be written.

    Raises:
        ResourceError: SK303, the package tensorboard is missing or broken.
    """
    _tensorboard()


class ScalarLog:
    """The numbers of one run, step by step, in a folder that ``tensorboard --logdir`` shows.

    A run that goes on after a kill, or goes back to an earlier step, takes its later steps back: no step is shown twice.

        with ScalarLog.open(folder, "birds -> busi, fold 1 of 5") as log:
            log.add(1, loss=0.7)
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._file: BinaryIO | None = None
        self._step = 0

    @classmethod
    def open(cls, folder: Path | None, run: str) -> ScalarLog:
        """The log of a run; a file is made with the first number.

        Args:
            folder: of all logs; None: nothing is written and nothing imported.
            run: the run's name. Its folder below is named by what is safe in it and a digest, so that names that differ have their own.

        Raises:
            ResourceError: SK303, the package tensorboard is missing.
        """
        if folder is None:
            return cls(None)
        check_tensorboard()
        return cls(folder / _folder_name(run))

    def add(self, step: int, **values: float) -> None:
        """Writes the values of one step (an epoch) by name; they are in the file when this returns.

        Raises:
            ResourceError: SK301, the file cannot be written.
        """
        if self.folder is None:
            return
        if self._file is None or step <= self._step:
            self._begin(step)
        event_pb2, summary_pb2, _ = _tensorboard()
        scalars = [summary_pb2.Summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
        self._write(event_pb2.Event(wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=scalars)))
        self._step = step

    def close(self) -> None:
        """Ends the file; another ``add`` begins a new one."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def __enter__(self) -> ScalarLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _begin(self, step: int) -> None:
        """A new file, read after all that are there, whose first record takes back their steps from ``step`` on."""
        event_pb2, _, _ = _tensorboard()
        assert self.folder is not None
        self.close()
        with resource_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            before = [int(match[1]) for path in self.folder.iterdir() if (match := EVENTS.fullmatch(path.name))]
            number = max([int(time.time()), *(last + 1 for last in before)])
            self._file = (self.folder / f"events.out.tfevents.{number:010d}.simkit").open("xb", buffering=0)
        now = time.time()
        self._write(event_pb2.Event(wall_time=now, file_version="brain.Event:2"))
        self._write(event_pb2.Event(wall_time=now, step=step, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START)))

    def _write(self, event: Any) -> None:
        assert self._file is not None
        _, _, record_writer = _tensorboard()
        with resource_errors(self._file.name):
            record_writer.RecordWriter(self._file).write(event.SerializeToString())


def _tensorboard() -> tuple[Any, Any, Any]:
    """Of the package tensorboard: the messages Event and Summary, and the writer of records. None of it loads TensorFlow or torch."""
    try:
        from tensorboard.compat.proto import event_pb2, summary_pb2  # type: ignore[import-untyped]
        from tensorboard.summary.writer import record_writer  # type: ignore[import-untyped]
    except ImportError as error:
        raise ResourceError("SK303", "logs", f"the package tensorboard cannot be imported ({error})", "pip install 'simkit[tensorboard]'") from error
    return event_pb2, summary_pb2, record_writer


def _folder_name(run: str) -> str:
    """``run`` as a folder name on any system: ASCII letters, digits, - and _, then eight digits of its digest."""
    plain = unicodedata.normalize("NFKD", run).encode("ascii", "ignore").decode("ascii")
    words = re.sub("[^A-Za-z0-9_]+", "-", plain).strip("-")[:80].rstrip("-")
    digest = hashlib.sha256(run.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"{words}-{digest}" if words else digest
