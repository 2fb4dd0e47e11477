"""Claims on units of work, by which several processes (also on several machines) that run one plan on one store share it.

    claim = Claims(results).take(unit.key)
    if claim is None:
        ...                                               # another process is doing it
    with claim:
        ...
        claim.touch()                                     # every now and then: this process still lives

A claim is a file beside the results that names the process that took it. It is advice against double work and nothing is wrong without it: two
processes that do the same unit write the same numbers (on processors of one kind). A claim whose process is gone is taken over.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path

from simkit.files import TEMPORARY, resource_errors, write_all
from simkit.transfer.base import Results

__all__ = ["Claim", "Claims"]

KIND, SUFFIX = "claims", ".lock"
HEARTBEAT_SECONDS = 30.0
"""How often :meth:`Claim.touch` touches the file, at most."""

SILENT_SECONDS = 15 * 60.0
"""After how long without a touch the claim of a process of another machine, which cannot be asked, is taken over."""

DAMAGED_SECONDS = 5.0
"""How long a claim that cannot be read is taken for one that is being written."""

TAKEOVER_SECONDS = 60.0
"""How old a mark of a takeover gets only when the process that made it was killed in between."""

ATTEMPTS, MOST_BYTES = 8, 4096


@dataclass(frozen=True)
class _Owner:
    """What a claim holds.

    Attributes:
        host: name of the machine.
        space: which process numbers are meant, where a machine has several sets of them (containers); "" where that is not known.
        pid: number of the process.
        started: when it started, in ticks since the machine did (numbers are given out again); None where that is not known.
        token: different in each claim.
        since: when it was taken, by the machine's own clock; for messages.
    """

    host: str
    space: str
    pid: int
    started: int | None
    token: str
    since: str

    @classmethod
    def this_process(cls) -> _Owner:
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(socket.gethostname(), _process_space(), os.getpid(), _start_of(os.getpid()), secrets.token_hex(8), since)

    @classmethod
    def read(cls, content: bytes) -> _Owner | None:
        """The owner that a file names; None when it is damaged."""
        try:
            values = json.loads(content)
        except ValueError:  # also what is not UTF-8
            return None
        if not isinstance(values, dict) or set(values) != {one.name for one in fields(cls)}:
            return None
        texts = all(isinstance(values[name], str) for name in ("host", "space", "token", "since"))
        numbers = isinstance(values["pid"], int) and isinstance(values["started"], int | None)
        return cls(**values) if texts and numbers and values["pid"] > 0 and values["token"].isalnum() else None

    def is_here(self) -> bool:
        """Whether the process is, or was, one whose number means something to this process."""
        return (self.host, self.space) == (socket.gethostname(), _process_space())

    def lives(self) -> bool:
        """Whether the process runs; for one that :meth:`is_here`."""
        values = _stat(self.pid)
        if values is None:
            return _answers(self.pid)
        return values[0] not in (b"Z", b"X") and self.started in (None, int(values[19]))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {_moment(self.since)}"


def _moment(since: str) -> str:
    """``12:30``, with the day where that is not today."""
    try:
        moment = datetime.fromisoformat(since).astimezone()
    except ValueError:
        return since
    return moment.strftime("%H:%M" if moment.date() == datetime.now().astimezone().date() else "%Y-%m-%d %H:%M")


def _stat(pid: int) -> list[bytes] | None:
    """What the system says of a process: its state first, at 19 when it started; None when it is gone, or hidden, or where there is no /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(b")")[2].split()  # the name before may hold anything


def _start_of(pid: int) -> int | None:
    """When a process started, in ticks since the machine did; None where that is not known."""
    values = _stat(pid)
    return None if values is None else int(values[19])


def _process_space() -> str:
    """Names the set of process numbers that this process sees (a container has its own)."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:  # no such thing on this system
        return ""


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, as another user
        return True
    return True


@dataclass
class Claim:
    """A unit of work that is this process's; as a context manager, released at its end.

    Attributes:
        path: the file.
        token: what it holds as long as it is ours.
    """

    path: Path
    token: str
    _touched: float = field(default_factory=time.monotonic, repr=False)

    def touch(self) -> None:
        """Says that this process lives; cheap, since the file is touched every 30 seconds at most.

        Raises:
            ResourceError: SK301 when the file cannot be touched. That it was removed or taken over is no error: the work is right without.
        """
        now = time.monotonic()
        if now - self._touched < HEARTBEAT_SECONDS:
            return
        self._touched = now
        with resource_errors(self.path, "touch"):
            try:
                if _found(self.path).token == self.token:
                    os.utime(self.path)
            except FileNotFoundError:
                return

    def release(self) -> None:
        """Gives the unit back: removes the file, if it is still ours.

        Raises:
            ResourceError: SK301 when it cannot be removed.
        """
        with resource_errors(self.path, "remove"):
            try:
                if _found(self.path).token == self.token:
                    self.path.unlink()
            except FileNotFoundError:
                return

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


@dataclass(frozen=True)
class Claims:
    """Claims on the units of a store.

    Attributes:
        results: where finished work is kept.
    """

    results: Results

    def take(self, key: str) -> Claim | None:
        """The unit for this process; None when another living process holds it (or this one does already).

        Gone is a process of this machine that does not run any more, and one of another machine whose claim was not touched for 15 minutes by
        the clock of the file system. Its claim is replaced in one rename by the one process that could make the mark of the takeover.

        Raises:
            ResourceError: SK301 when the store cannot be written.
        """
        path, owner = self._path(key), _Owner.this_process()
        with resource_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(ATTEMPTS):
                if _made(path, owner):
                    return Claim(path, owner.token)
                try:
                    found = _found(path)
                except FileNotFoundError:  # released in between
                    continue
                if not found.is_stale():
                    return None
                if _taken_over(path, found, owner):
                    return Claim(path, owner.token)
        return None

    def holder(self, key: str) -> str:
        """Who holds a unit, for messages: ``process 4711 on host, since 12:30``, or ``nobody``.

        Raises:
            ResourceError: SK301 when the claim cannot be read.
        """
        path = self._path(key)
        with resource_errors(path, "read"):
            try:
                found = _found(path)
            except FileNotFoundError:
                return "nobody"
        return str(found.owner) if found.owner is not None else f"an unknown process (its claim {path} is empty or damaged)"

    def _path(self, key: str) -> Path:
        return self.results.path(KIND, key, SUFFIX)


@dataclass(frozen=True)
class _Found:
    """A claim as it was read.

    Attributes:
        path: the file.
        owner: whose; None when it is damaged.
        touched: when, by the clock of the file system.
        token: the owner's; of a damaged one, its place and time on the disk.
    """

    path: Path
    owner: _Owner | None
    touched: float
    token: str

    def is_stale(self) -> bool:
        if self.owner is not None and self.owner.is_here():
            return not self.owner.lives()
        limit = DAMAGED_SECONDS if self.owner is None else SILENT_SECONDS
        return _file_system_time(self.path.parent) - self.touched > limit


def _found(path: Path) -> _Found:
    """The claim in a file.

    Raises:
        OSError: FileNotFoundError when there is none.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        content, status = os.read(handle, MOST_BYTES), os.fstat(handle)
    finally:
        os.close(handle)
    owner = _Owner.read(content)
    return _Found(path, owner, status.st_mtime, owner.token if owner is not None else f"damaged{status.st_ino}at{status.st_mtime_ns}")


def _made(path: Path, owner: _Owner) -> bool:
    """Writes a file that nobody else has; False when it is there."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        write_all(handle, json.dumps(asdict(owner)).encode())
    except OSError:  # a full disk
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    return True


def _taken_over(path: Path, found: _Found, owner: _Owner) -> bool:
    """Replaces a stale claim; False when another process does so, or has.

    The mark bears the token of the stale claim, so that it stands for that claim alone; who made it looks again, as another process may have
    come and gone since the claim was read. The file is never missing in between: nobody can make a new one.
    """
    mark = path.parent / f"{TEMPORARY}{path.stem}-{found.token}"
    if not _made(mark, owner):
        _remove_left(mark)
        return False
    try:
        if _token_in(path) != found.token:
            return False
        own = path.parent / f"{TEMPORARY}{os.getpid()}-{owner.token}"
        try:
            if not _made(own, owner):
                return False
            os.replace(own, path)
        finally:
            own.unlink(missing_ok=True)
        return True
    finally:
        mark.unlink(missing_ok=True)


def _token_in(path: Path) -> str:
    try:
        return _found(path).token
    except FileNotFoundError:
        return ""


def _remove_left(mark: Path) -> None:
    """Removes the mark of a process that was killed during its takeover."""
    try:
        age = _file_system_time(mark.parent) - mark.stat().st_mtime
    except FileNotFoundError:
        return
    if age > TAKEOVER_SECONDS:
        mark.unlink(missing_ok=True)


def _file_system_time(folder: Path) -> float:
    """What time it is for the file system: the clocks of a file server and of its clients differ."""
    probe = folder / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}"
    handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)
        probe.unlink(missing_ok=True)
