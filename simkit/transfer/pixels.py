"""Decoded images in the store: made once, then memory-mapped by every fold, process and rerun."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from simkit.errors import IntegrityError, ResourceError
from simkit.files import resource_errors, write_all, write_bytes
from simkit.recipe import digest, digest_file
from simkit.transfer.base import Results, Say
from simkit.transfer.images import Listing, decode

__all__ = ["KIND", "looks_of", "pixels_key", "stored_pixels"]

KIND, SUFFIX, VERSION = "pixels", ".npy", 2
"""Kind of the files in the store, and the version of how images are decoded: raised where decoding gives other grey levels."""

RESERVE = 32 * 2**20
"""Bytes that must stay free beside what is about to be written."""

MANY = 2000
"""Number of images above which is told how far the decoding is."""


def pixels_key(images: Listing, size: int, channels: int) -> str:
    """Digest of what the decoded images depend on: their content in canonical order, the size and the channels."""
    return digest({"type": KIND, "version": VERSION, "images": list(images.digests), "size": size, "channels": channels})


def stored_pixels(images: Listing, size: int, channels: int, results: Results, say: Say, *, trusted: bool = False) -> np.ndarray:
    """The images as uint8 (n, channels, size, size) in canonical order: a read-only memory map of a file in the store.

    The file is written where it is missing. One that is damaged, truncated, or without its record is announced and made again.

    Args:
        images: what is decoded.
        size: side of the square [pixels].
        channels: that are wanted.
        results: the store.
        say: receives what a user must know, and how far the decoding of more than 2,000 images is.
        trusted: the caller has had this file checked: only its size and its shape are looked at, not its SHA-256.

    Raises:
        DataError: images that cannot be read, see :func:`~simkit.transfer.images.decode`.
        ResourceError: no space or no permission; nothing is left behind, and nothing is kept in memory instead.
    """
    key, shape = pixels_key(images, size, channels), (len(images), channels, size, size)
    path = results.path(KIND, key, SUFFIX)
    try:
        found = _opened(path, results.load_json(KIND, key), shape, trusted=trusted)
    except IntegrityError as error:
        problem = error.problems[0]
        say(f"{images.name}: the decoded images {problem.where}: {problem.message}; they are made again")
        found = None
    if found is not None:
        return found
    record = _write(path, images, shape, say)
    results.save_json(KIND, key, record)
    return _checked(path, record, shape)


def looks_of(images: Listing, size: int, channels: int, results: Results, say: Say) -> tuple[str, ...]:
    """A digest of each decoded image: equal for images that the network cannot tell apart, whatever file and format they lie in.

    They are kept in the record of the decoded images, which are made where they are missing.

    Raises:
        DataError, ResourceError: as :func:`stored_pixels`.
    """
    key = pixels_key(images, size, channels)
    record = results.load_json(KIND, key)
    if record is None or len(record.get("looks", ())) != len(images):
        stored_pixels(images, size, channels, results, say)
        record = results.load_json(KIND, key)
        assert record is not None
    return tuple(record["looks"])


def _opened(path: Path, record: dict[str, Any] | None, shape: tuple[int, ...], *, trusted: bool) -> np.ndarray | None:
    """The sound file, or None where there is none.

    Raises:
        IntegrityError: it is not what was written, or nothing tells what was written.
    """
    if not path.is_file():
        return None
    if record is None:
        raise _damaged(path, "nothing beside it tells its digest (a run was stopped while it wrote it)")
    found = _checked(path, record, shape)
    if not trusted:
        with resource_errors(path, "read"):
            sha256 = digest_file(path)
        if sha256 != record.get("sha256"):
            raise _damaged(path, "is damaged: its digest differs from the one it was written with")
    return found


def _damaged(path: Path, message: str) -> IntegrityError:
    return IntegrityError("SK401", str(path), message, "it is made again; remove it if the message stays")


def _checked(path: Path, record: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """The memory map, after a look at the file's size, its shape and its record's."""
    with resource_errors(path, "read"):
        length = path.stat().st_size
        if length != record.get("bytes"):
            raise _damaged(path, f"is damaged: it has {length} bytes and was written with {record.get('bytes')}")
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise _damaged(path, f"is damaged ({str(error).splitlines()[0]})") from error
    if found.dtype != np.uint8 or found.shape != shape or record.get("shape") != list(shape):
        raise _damaged(path, f"holds {found.dtype} {found.shape}, its record says {record.get('shape')}, wanted is uint8 {shape}")
    return np.asarray(found)


# --- writing ---------------------------------------------------------------------------------------------------------------------------


def _write(path: Path, images: Listing, shape: tuple[int, ...], say: Say) -> dict[str, Any]:
    """Decodes into a temporary file that then takes its place; returns the record."""
    size = int(np.prod(shape))
    record: dict[str, Any] = {"shape": list(shape)}

    def writer(temporary: Path) -> None:
        with resource_errors(path, need=size):
            out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            _allocate(temporary)
        decode(images, shape[-1], shape[1], out=out, tick=_announcer(images, shape[-1], say))
        with resource_errors(path, need=size):
            out.flush()
            looks = [hashlib.sha256(image.data).hexdigest()[:32] for image in out]
            record.update(bytes=temporary.stat().st_size, sha256=digest_file(temporary), looks=looks)

    _check_space(path, size)
    write_bytes(path, b"", writer=writer)
    return record


def _check_space(path: Path, size: int) -> None:
    with resource_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    if free < size + RESERVE:
        message = f"{(size + RESERVE) / 1e6:.1f} MB are needed for the decoded images, {free / 1e6:.1f} MB are free"
        raise ResourceError("SK301", str(path), message, "free some space, lower image_size, or give another --store; nothing already stored was changed")


def _allocate(path: Path) -> None:
    """Reserves the disk space of a file that so far is a hole: writing to the map of a hole on a full disk would end the process (SIGBUS)."""
    handle = os.open(path, os.O_RDWR)
    try:
        end = os.fstat(handle).st_size
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(handle, 0, end)
                return
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
        head = os.pread(handle, 4096, 0)  # a file system that cannot reserve: zeros are written, after the header that is there
        os.lseek(handle, len(head), os.SEEK_SET)
        zeros = bytes(2**20)
        for position in range(len(head), end, len(zeros)):
            write_all(handle, zeros[: end - position])
    finally:
        os.close(handle)


def _announcer(images: Listing, size: int, say: Say) -> Callable[[int], None] | None:
    """Tells of many images when they begin to be decoded and after each tenth; None for few."""
    n = len(images)
    if n <= MANY:
        return None
    say(f"{images.name}: decoding {n:,} images to {size} px, once for all runs")
    told = {n * tenth // 10 for tenth in range(1, 11)}

    def tick(done: int) -> None:
        if done in told:
            say(f"{images.name}: {done:,} of {n:,} images decoded")

    return tick
