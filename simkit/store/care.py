"""Care of the store: what is in it, which files are damaged, what may go. Links are never followed."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simkit.errors import IntegrityError
from simkit.files import TEMPORARY, abandoned, resource_errors
from simkit.recipe import digest, digest_file
from simkit.store.shards import SHARD_NAME, check_digest, check_schema, damaged, read_header, read_ids, read_json, value_digest

__all__ = ["EXPENDABLE", "Finding", "Removal", "contents", "extractor_line", "files_below", "prunable", "quarantine", "remove", "verify"]

EXPENDABLE = ("claims", "gathered", "pixels", "quarantine", "temporaries")
"""Kinds that no later command misses: marks of who does what now, copies, decoded images, damaged files that were set aside, what killed processes left."""


@dataclass(frozen=True)
class Finding:
    """What `simkit store verify` found in one file; a file of a newer simkit is whole, and stays where it is."""

    path: Path
    problem: str
    newer: bool = False


@dataclass(frozen=True)
class Removal:
    """A file that prune removes: its kind and its size."""

    path: Path
    kind: str
    size: int


def files_below(folder: Path) -> Iterator[Path]:
    """Every file and link below a folder, sorted; links are named, never followed."""
    if folder.is_symlink() or not folder.is_dir():
        return
    with resource_errors(folder, "read"):
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from files_below(Path(entry.path))
        else:
            yield Path(entry.path)


def own_kinds(root: Path) -> list[Path]:
    """The folders of a store that are simkit's own, sorted: whatever else lies below the root is never moved and never deleted."""

    def own(folder: Path) -> bool:
        if folder.name in ("embeddings", "gathered", "quarantine"):
            return True
        entries = [entry.name for entry in folder.iterdir() if not entry.name.startswith(TEMPORARY) and not entry.is_symlink()]
        return bool(entries) and all(re.fullmatch(r"[0-9a-f]{2}", name) for name in entries)

    return sorted(path for path in root.glob("*") if path.is_dir() and not path.is_symlink() and own(path))


def verify(root: Path) -> list[Finding]:
    """Reads every file below the root and checks its digest; returns the files that are damaged or foreign."""
    findings = []
    kinds = {path.name for path in own_kinds(root)}
    for path in files_below(root):
        parts = path.relative_to(root).parts
        if path.name.startswith(TEMPORARY) or parts[0] == "quarantine":
            continue
        if parts[0] not in kinds and parts != ("store.json",):
            findings.append(Finding(path, "is not a file that simkit writes: it is left where it is", newer=True))
            continue
        try:
            _verify_file(path, path.relative_to(root).parts[0])
        except IntegrityError as error:
            problem = error.problems[0]
            findings.append(Finding(path, problem.message, newer=problem.fix.startswith("update simkit")))
    return findings


def _verify_file(path: Path, kind: str) -> None:
    if path.is_symlink():
        raise damaged(path, "is a symbolic link; simkit makes none in the store")
    if path.suffix == ".json":
        content = read_json(path)
        if kind == "embeddings" and path.name == "recipe.json" and digest(content)[:24] != path.parent.name:
            raise damaged(path, "is not the recipe of the folder that it lies in")
        if "sha256" in content:
            check_schema(path, content.get("schema"))
            if content["sha256"] != value_digest(content.get("value")):
                raise damaged(path, "its digest does not match its content")
    elif (kind, path.suffix) in (("pixels", ".npy"), ("task", ".safetensors"), ("finetune", ".parquet"), ("claims", ".lock")):
        _verify_beside(path, kind)
    elif path.suffix != ".safetensors" or (kind == "embeddings" and not SHARD_NAME.fullmatch(path.name)):
        raise damaged(path, "is not a file that simkit writes")
    elif kind == "embeddings":
        read_ids(path)
    elif kind == "gathered":
        check_digest(path, read_header(path), ("x",))
    elif kind in ("checkpoint", "finetune", "pretrain", "trial"):
        from simkit.transfer.checkpoint import read_tensors

        read_tensors(path)
    else:
        read_header(path)


def _verify_beside(path: Path, kind: str) -> None:
    """Files with a form of their own: decoded images and task embeddings, whose digest is in their record, and predictions, which hold theirs; claims are
    passing marks.
    """
    if kind in ("pixels", "task"):
        beside = path.with_suffix(".json")
        if not beside.is_file():
            raise damaged(path, "has no record beside it that tells its digest")
        value = read_json(beside).get("value")
        with resource_errors(path, "read"):
            if digest_file(path) != (value.get("sha256") if isinstance(value, dict) else None):
                raise damaged(path, "its digest does not match its content")
    elif kind == "finetune":
        from simkit.transfer.predictions import read_predictions

        read_predictions(path)


def quarantine(root: Path, path: Path) -> Path:
    """Moves a damaged file below ``quarantine/`` (never deletes it), so that its content is made again."""
    place = root / "quarantine" / path.relative_to(root)
    with resource_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, place)
    return place


# --- contents --------------------------------------------------------------------------------------------------------------------------


def contents(root: Path) -> list[dict[str, Any]]:
    """One row per kind (and per extractor for embeddings).

    Keys: kind, key (of an extractor), what (its recipe in one line), files, shards, rows, dimension, unreadable (shards whose header is damaged), bytes,
    last_use (seconds since 1970: when a file was last written, or rows of the extractor were last gathered).
    """
    rows = []
    for kind in own_kinds(root):
        parts = sorted(path for path in kind.iterdir() if path.is_dir() and not path.is_symlink()) if kind.name == "embeddings" else [kind]
        rows += [_content(kind.name, part) for part in parts]
    return rows


def _content(kind: str, part: Path) -> dict[str, Any]:
    files = list(files_below(part))
    statuses = [status for path in files if (status := _status(path)) is not None]
    row: dict[str, Any] = {"kind": kind, "key": "", "what": "", "files": len(files), "bytes": sum(status.st_size for status in statuses)}
    row["last_use"] = max((status.st_mtime for status in statuses), default=None)
    if kind != "embeddings":
        return row
    shards = [path for path in files if SHARD_NAME.fullmatch(path.name)]
    count, dimension, unreadable = 0, None, 0
    for path in shards:
        try:
            rows, dimension = read_header(path).tensors["x"]["shape"]
            count += rows
        except (IntegrityError, KeyError, TypeError, ValueError):
            unreadable += 1
    return row | {"key": part.name, "what": extractor_line(part), "shards": len(shards), "rows": count, "dimension": dimension, "unreadable": unreadable}


def _status(path: Path) -> os.stat_result | None:
    """Status of a file, or None where another process has removed it meanwhile."""
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def extractor_line(folder: Path) -> str:
    """The recipe of an extractor in one line: type and the options that are set; digests are shortened."""
    path = folder / "recipe.json"
    if not path.is_file():
        return "(no recipe.json)"
    try:
        recipe = read_json(path)
    except IntegrityError as error:
        return f"(recipe.json {error.problems[0].message})"
    shown = [f"{key}={_short(value)}" for key, value in recipe.items() if key not in ("type", "version") and value not in (None, "", 0, False)]
    return f"{recipe.get('type', '?')} {' '.join(shown)}".strip()


def _short(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "{...}" if isinstance(value, dict) else ",".join(_short(item) for item in value)
    text = str(value)
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text


# --- removal ---------------------------------------------------------------------------------------------------------------------------


def prunable(root: Path, kinds: Sequence[str], *, extractor: str = "", older_than: float = 0.0) -> list[Removal]:
    """Files of these kinds that may go.

    Args:
        root: of the store.
        kinds: names of folders, and "temporaries": what killed processes left.
        extractor: of embeddings, only the shelf of this name.
        older_than: days since the file (of embeddings: any shard of the shelf) was last used; 0 for all.
    """
    limit = time.time() - older_than * 86400
    found = []
    if "temporaries" in kinds:
        found += [Removal(path, "temporaries", size) for path, size in _temporaries(root, limit)]
    for kind in sorted({*kinds} - {"temporaries"}):
        part = root / kind
        groups = [list(files_below(path)) for path in sorted(part.glob(extractor or "*"))] if kind == "embeddings" else [[path] for path in files_below(part)]
        for group in groups:
            statuses = {path: status for path in group if not path.name.startswith(TEMPORARY) and (status := _status(path)) is not None}
            if not older_than or all(status.st_mtime < limit for status in statuses.values()):
                found += [Removal(path, kind, status.st_size) for path, status in statuses.items()]
    return found


def _temporaries(root: Path, limit: float) -> Iterator[tuple[Path, int]]:
    for path in files_below(root):
        status = _status(path) if path.name.startswith(TEMPORARY) else None
        if status is not None and stat.S_ISREG(status.st_mode) and status.st_mtime <= limit and abandoned(path):
            yield path, status.st_size


def remove(root: Path, removals: Sequence[Removal]) -> int:
    """Deletes the files and the folders that they leave empty; returns the bytes that became free. A link goes, not what it leads to."""
    freed = 0
    for one in removals:
        with resource_errors(one.path, "delete"):
            one.path.unlink(missing_ok=True)
        freed += one.size
    for folder in sorted({parent for one in removals for parent in one.path.parents if root in parent.parents}, key=lambda path: -len(path.parts)):
        with resource_errors(folder, "delete"):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    return freed
