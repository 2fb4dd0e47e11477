"""Rows of many shards in one file, in the order of a data set: written once in parts, then memory-mapped."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from simkit.errors import ResourceError
from simkit.files import resource_errors, write_all, write_bytes
from simkit.store.shards import SCHEMA, check_digest, damaged, read_header, rows_of

__all__ = ["IN_MEMORY", "gathered", "gathered_path"]

IN_MEMORY = 256 * 10**6
"""Bytes up to which rows are gathered in memory."""
RESERVE = 32 * 2**20
"""Bytes that must stay free beside what is about to be written."""


def gathered_path(root: Path, key: str) -> Path:
    """Where the rows of an extractor in an order of images lie."""
    return root / "gathered" / key[:2] / f"{key}.safetensors"


def gathered(root: Path, key: str, parts: Iterator[np.ndarray], rows: int, columns: int) -> np.ndarray:
    """A read-only memory map (rows, columns) of the file under ``key``; the file is written first where it is missing.

    Raises:
        IntegrityError: the file is there, and is damaged.
        ResourceError: no space for it.
    """
    path = gathered_path(root, key)
    if path.is_file():
        check_digest(path, read_header(path), ("x",))
        found = rows_of(path)
        if found.shape != (rows, columns):
            raise damaged(path, f"holds {found.shape[0]} x {found.shape[1]} features, wanted {rows} x {columns}")
        return found
    if not os.access(root, os.W_OK):
        return _temporary(root, parts, rows, columns)
    _check_space(root, rows * columns * 4)
    write_bytes(path, b"", writer=lambda temporary: _write(temporary, parts, rows, columns))
    return rows_of(path)


def _check_space(folder: Path, size: int) -> None:
    with resource_errors(folder):
        free = shutil.disk_usage(folder).free
    if free < size + RESERVE:
        message = f"{(size + RESERVE) / 1e6:.0f} MB are needed for the gathered features, {free / 1e6:.0f} MB are free"
        raise ResourceError("SK301", str(folder), message, "free some space, or give another --store; nothing already stored was changed")


def _header(rows: int, columns: int, sha: str) -> bytes:
    tensors = {"__metadata__": {"schema": str(SCHEMA), "sha256": sha}, "x": {"dtype": "F32", "shape": [rows, columns], "data_offsets": [0, rows * columns * 4]}}
    text = json.dumps(tensors).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _write(path: Path, parts: Iterator[np.ndarray], rows: int, columns: int) -> None:
    """The header is written last, over one of the same length: its digest is known then."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        write_all(handle, _header(rows, columns, "0" * 64))
        sha = hashlib.sha256()
        for part in parts:
            content = np.ascontiguousarray(part).data.cast("B")
            sha.update(content)
            write_all(handle, content)
        os.lseek(handle, 0, os.SEEK_SET)
        write_all(handle, _header(rows, columns, sha.hexdigest()))
    finally:
        os.close(handle)


def _temporary(root: Path, parts: Iterator[np.ndarray], rows: int, columns: int) -> np.ndarray:
    """Rows in a file that has no name and goes when they are no longer used: for a store that may only be read."""
    folder = Path(tempfile.gettempdir())
    size = rows * columns * 4
    _check_space(folder, size)
    message = "the store %s cannot be written: %.0f MB of features are gathered in a temporary file in %s, for this run only"
    logging.getLogger("simkit").warning(message, root, size / 1e6, folder)
    with resource_errors(folder), tempfile.TemporaryFile(dir=folder) as file:
        for part in parts:
            write_all(file.fileno(), np.ascontiguousarray(part).data.cast("B"))
        return np.memmap(file, dtype=np.float32, mode="r", shape=(rows, columns))
