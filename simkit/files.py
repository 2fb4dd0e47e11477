"""Files that are either old or new, never half: written beside their place, flushed, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simkit.errors import ResourceError

__all__ = ["TEMPORARY", "abandoned", "check_writable", "json_text", "resource_errors", "sweep", "write_all", "write_bytes", "write_json", "write_text"]

TEMPORARY = ".tmp-"


@contextmanager
def resource_errors(path: str | os.PathLike[str], what: str = "write", *, need: int = 0) -> Iterator[None]:
    """Turns an OSError into a ResourceError that names the path, the cause, the space that is needed and free, and the remedy."""
    try:
        yield
    except OSError as error:
        folder = Path(path)
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        name = errno.errorcode.get(error.errno or 0, "OSError")
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(folder).free / 1e6
            wanted = f"{need / 1e6:.1f} MB needed, " if need else ""
            message = f"no space left to {what} it ({name}; {wanted}{free:.1f} MB free)"
            fix = "free some space or choose another place; nothing already stored was changed"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            message, fix = f"no permission to {what} it ({name})", "choose a folder that you may write, or change its permissions"
        else:
            message, fix = f"cannot {what} it ({name}: {error.strerror or error})", "check the path and the disk"
        raise ResourceError("SK301", str(path), message, fix) from error


def _destination(path: str | os.PathLike[str]) -> Path:
    """The file that is written: ``path``, or the file that it leads to as a symbolic link.

    Raises:
        OSError: a folder.
        ResourceError: anything else that is no regular file; a rename would put a file in its place.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, a file is wanted")
    if path.exists() and not path.is_file():
        message = "cannot write it: it is no regular file (but a device, a pipe or a socket), and would be replaced by one"
        raise ResourceError("SK301", str(path), message, "name a new file or a regular one")
    real = Path(os.path.realpath(path))
    if real.is_symlink():
        raise OSError(errno.ELOOP, "the symbolic link leads back to itself")
    return real


def write_all(handle: int, data: bytes | memoryview) -> None:
    """Writes all of ``data`` to an open file: a short write is continued."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def write_bytes(path: str | os.PathLike[str], data: bytes, *, writer: Callable[[Path], None] | None = None, durable: bool = True) -> None:
    """Writes a file so that a reader, a kill or a full disk sees the old content or the new, never a mixture.

    Args:
        path: where; its folder is made when missing. A symbolic link stays one: what it leads to is written.
        data: the content; ignored when ``writer`` is given.
        writer: writes the content to the temporary path it is called with (for formats with their own writer).
        durable: wait until the disk has it; without, a kill leaves old or new as ever, but a power cut can leave a damaged file.

    Raises:
        ResourceError: a folder, a device, a pipe or a socket of that name; no space, no permission.
    """
    with resource_errors(path, need=len(data)):
        path = _destination(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}"
        try:
            if writer is not None:
                writer(temporary)
                handle = os.open(temporary, os.O_RDONLY)
            else:
                handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                write_all(handle, data if writer is None else b"")
                if durable:
                    os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        if durable:
            _flush_folder(path.parent)


def _flush_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises, before any work, when a file could not be written. A missing folder is made to try it, and removed again: writing makes it.

    Raises:
        ResourceError: a folder, a device, a pipe or a socket of that name, or a folder that cannot be made or written.
    """
    with resource_errors(path):
        path = _destination(path)
        missing = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if not os.access(path.parent, os.W_OK):
                raise PermissionError(errno.EACCES, "the folder is not writable")
        finally:
            for folder in missing:
                with contextlib.suppress(OSError):  # somebody else put something there
                    folder.rmdir()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """UTF-8 text, atomically."""
    write_bytes(path, text.encode("utf-8", errors="surrogateescape"))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    return value


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """JSON in which NaN and infinity are null; sorted as given, UTF-8 kept, numpy numbers as numbers."""
    text = json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False, default=str)
    return text.encode("utf-8", errors="replace").decode("utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """:func:`json_text`, atomically, with a final newline."""
    write_text(path, json_text(value) + "\n")


def abandoned(path: Path) -> bool:
    """Whether the process that wrote a temporary file (its number is in the name) is gone from this machine."""
    number = path.name.removeprefix(TEMPORARY).partition("-")[0]
    if not number.isdecimal() or len(number) > 9:
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it runs, as another user
        return False
    return False


def sweep(folder: Path, *, older_than: float = 86400.0) -> int:
    """Removes temporary files that a killed process left, when they are older than a day; returns how many."""
    removed = 0
    for path in folder.rglob(f"{TEMPORARY}*"):
        with resource_errors(path, "remove"):
            try:
                status = path.lstat()
            except FileNotFoundError:  # another process has just finished with it
                continue
            if stat.S_ISREG(status.st_mode) and time.time() - status.st_mtime > older_than and abandoned(path):
                path.unlink(missing_ok=True)
                removed += 1
    return removed
