"""Files of the store as they are read: JSON with a digest, and safetensors files whose header is bounded and whose digest is checked in parts."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simkit.errors import IntegrityError
from simkit.files import resource_errors
from simkit.recipe import digest_bytes

__all__ = ["SCHEMA", "SHARD_NAME", "Header", "check_digest", "damaged", "read_header", "read_ids", "read_json", "rows_of", "value_digest"]

SCHEMA = 1
SHARD_NAME = re.compile(r"[0-9a-f]{24}\.safetensors")
LARGEST_HEADER = 2**20
LARGEST_JSON = 256 * 2**20
CHUNK = 2**20
_checked: set[tuple[str, int, int, int, int]] = set()
"""Files whose digest was found right in this process: path, device, inode, size, time of modification."""


def value_digest(value: Any) -> str:
    """SHA-256 of a JSON value."""
    return digest_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode())


def damaged(path: Path, what: str) -> IntegrityError:
    """The error for a file that is not what simkit wrote, with the remedy."""
    return IntegrityError("SK401", str(path), what, "run `simkit store verify --repair`: it sets the file aside, and its content is made again")


def check_schema(path: Path, schema: Any) -> None:
    """Raises for a file of another schema; a newer one is not damaged, and is never set aside."""
    if isinstance(schema, int) and schema > SCHEMA:
        raise IntegrityError("SK401", str(path), f"has schema {schema}, this simkit knows {SCHEMA}", "update simkit, or give another --store")
    if schema != SCHEMA:
        raise damaged(path, f"has schema {schema}, wanted {SCHEMA}")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        IntegrityError: no JSON object, or larger or deeper than anything that simkit writes.
    """
    if regular(path).st_size > LARGEST_JSON:
        raise damaged(path, "is larger than any JSON file that simkit writes")
    with resource_errors(path, "read"):
        raw = path.read_bytes()
    try:
        content = json.loads(raw)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise damaged(path, f"is not valid JSON ({error})") from error
    except RecursionError as error:
        raise damaged(path, "is nested deeper than any JSON file that simkit writes") from error
    if not isinstance(content, dict):
        raise damaged(path, "holds no JSON object")
    return content


@dataclass(frozen=True)
class Header:
    """What the header of a safetensors file says: where the data start, the metadata, the tensors."""

    start: int
    metadata: dict[str, str]
    tensors: dict[str, dict[str, Any]]


def regular(path: Path) -> os.stat_result:
    """Status of a regular file; anything else would block or never end when it is read."""
    with resource_errors(path, "read"):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise damaged(path, "is no regular file")
    return status


def read_header(path: Path) -> Header:
    """The header of a safetensors file, bounded and checked against the file's length."""
    size = regular(path).st_size
    with resource_errors(path, "read"), path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else -1
        if not 0 < length <= min(size - 8, LARGEST_HEADER):
            raise damaged(path, "is truncated or no safetensors file")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        metadata = header.pop("__metadata__", {})
        end = max(int(tensor["data_offsets"][1]) for tensor in header.values())
        metadata = {str(key): str(value) for key, value in metadata.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise damaged(path, f"has no valid header ({type(error).__name__})") from error
    if 8 + length + end != size:
        raise damaged(path, f"is truncated: {size} bytes, its header asks for {8 + length + end}")
    return Header(8 + length, metadata, header)


def extent(path: Path, header: Header, name: str, kind: str) -> tuple[int, int, int]:
    """Offset in the file, rows and columns of a matrix, checked against its type and length."""
    try:
        tensor = header.tensors[name]
        (start, end), (rows, columns), dtype = tensor["data_offsets"], tensor["shape"], tensor["dtype"]
    except (KeyError, ValueError, TypeError) as error:
        raise damaged(path, f"holds no matrix '{name}'") from error
    size = {"U8": 1, "F32": 4}[kind]
    whole = all(isinstance(value, int) and value >= 0 for value in (start, end, rows, columns))
    if not whole or dtype != kind or end - start != rows * columns * size:
        raise damaged(path, f"its header contradicts itself about '{name}'")
    return header.start + start, rows, columns


def check_digest(path: Path, header: Header, names: tuple[str, ...] = ("ids", "x")) -> None:
    """Compares the digest of the matrices with the one in the metadata; a file is read once in a process, in parts of 1 MiB.

    Raises:
        IntegrityError: of another schema, or a digest that does not match.
    """
    status = regular(path)
    mark = (str(path.absolute()), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if mark in _checked:
        return
    text = header.metadata.get("schema", "")
    check_schema(path, int(text) if text.isdecimal() and len(text) < 9 else text or None)
    sha = hashlib.sha256()
    with resource_errors(path, "read"), path.open("rb") as file:
        for name in names:
            start, rows, columns = extent(path, header, name, "U8" if name == "ids" else "F32")
            left = rows * columns * (1 if name == "ids" else 4)
            file.seek(start)
            while left and (part := file.read(min(CHUNK, left))):
                sha.update(part)
                left -= len(part)
    if sha.hexdigest() != header.metadata.get("sha256"):
        raise damaged(path, "its digest does not match its content")
    _checked.add(mark)


def read_ids(path: Path) -> tuple[np.ndarray, int]:
    """Ids of a shard, (n,) of 32 bytes, and the number of features; the whole shard's digest is checked.

    Raises:
        IntegrityError: truncated, foreign, of another schema, or a digest that does not match.
    """
    header = read_header(path)
    check_digest(path, header)
    start, rows, width = extent(path, header, "ids", "U8")
    _, count, columns = extent(path, header, "x", "F32")
    if width != 32 or rows != count:
        raise damaged(path, f"{rows} ids of {width} bytes for {count} rows")
    with resource_errors(path, "read"), path.open("rb") as file:
        file.seek(start)
        raw = file.read(rows * 32)
    return np.frombuffer(raw, dtype="S32"), columns


def rows_of(path: Path) -> np.ndarray:
    """The features of a file as a read-only memory map (n, d), float32."""
    header = read_header(path)
    start, rows, columns = extent(path, header, "x", "F32")
    with resource_errors(path, "read"):
        return np.memmap(path, dtype=np.float32, mode="r", offset=start, shape=(rows, columns))
