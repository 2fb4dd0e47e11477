"""The store: finished work, found again by the recipe that made it.

Layout below the root (``SIMKIT_STORE``, ``--store``, or the user's cache folder):

    store.json                                      schema of the store
    embeddings/<extractor digest[:24]>/recipe.json  what made the features, for people
    embeddings/<extractor digest[:24]>/<content digest[:24]>.safetensors   ids uint8 (n, 32), x float32 (n, d); digest in the metadata
    <kind>/<digest[:2]>/<digest>.json               cards, scores, transfer folds: recipe, value, digest
    <kind>/<digest[:2]>/<digest>.<suffix>           binary files such as checkpoints

Files are immutable and named by content or recipe, so there is no index to keep, readers need no lock and no write permission, two
writers at most do the same work twice, and a kill at any moment loses what was not yet written and nothing else. No file is a pickle.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from simkit.errors import IntegrityError, ResourceError
from simkit.files import json_text, resource_errors, sweep, write_bytes, write_json
from simkit.recipe import digest, digest_bytes

__all__ = ["EmbeddingShelf", "Store", "default_root"]

SCHEMA = 1
ROWS_PER_SHARD = 4096
RESERVE = 32 * 2**20
"""Bytes that must stay free beside what is about to be written."""


def default_root() -> Path:
    """``SIMKIT_STORE``, else ``simkit`` in the user's cache folder (``XDG_CACHE_HOME`` or ~/.cache)."""
    named = os.environ.get("SIMKIT_STORE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "simkit"


@dataclass(frozen=True)
class Finding:
    """What `simkit cache verify` found in one file."""

    path: Path
    problem: str


class Store:
    """The store below ``root``. Opening it writes nothing.

    Raises:
        IntegrityError: the store was made by a newer simkit.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None):
        self.root = Path(root) if root is not None else default_root()
        marker = self.root / "store.json"
        if marker.is_file():
            schema = _read_json(marker).get("schema")
            if not isinstance(schema, int) or schema > SCHEMA:
                message = f"the store has schema {schema}, this simkit knows {SCHEMA}"
                raise IntegrityError("SK401", str(marker), message, "update simkit, or give another --store")

    def __reduce__(self) -> tuple[object, ...]:  # another process may have another working folder
        return (type(self), (self.root.absolute(),))

    def prepare(self, *, need: int = 0) -> None:
        """Makes the root and checks, before any work, that it can be written and that ``need`` bytes are free.

        Raises:
            ResourceError: no permission, or too little space (with needed and free megabytes).
        """
        with resource_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        if not os.access(self.root, os.W_OK):
            fix = "give --store DIR (or SIMKIT_STORE) with a folder that you may write"
            raise ResourceError("SK301", str(self.root), "no permission to write into the store", fix)
        free = shutil.disk_usage(self.root).free
        if free < need + RESERVE:
            message = f"{(need + RESERVE) / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free"
            raise ResourceError("SK301", str(self.root), message, "free some space, or give another --store; nothing already stored was changed")
        marker = self.root / "store.json"
        if not marker.is_file():
            write_json(marker, {"schema": SCHEMA})
        sweep(self.root)

    # --- JSON artefacts -------------------------------------------------------------------------------------------------------------

    def path(self, kind: str, key: str, suffix: str) -> Path:
        """Where a file of ``kind`` with recipe digest ``key`` lies. Names typed by people never become file names."""
        return self.root / kind / key[:2] / f"{key}{suffix}"

    def load_json(self, kind: str, key: str) -> dict[str, Any] | None:
        """The value stored under a recipe digest, or None.

        Raises:
            IntegrityError: the file is damaged, naming it.
        """
        path = self.path(kind, key, ".json")
        if not path.is_file():
            return None
        content = _read_json(path)
        value = content.get("value")
        if content.get("sha256") != _value_digest(value) or not isinstance(value, dict):
            raise _damaged(path, "its digest does not match its content")
        return value

    def save_json(self, kind: str, key: str, value: dict[str, Any]) -> None:
        """Stores a value under a recipe digest, atomically."""
        plain = json.loads(json_text(value))
        write_json(self.path(kind, key, ".json"), {"schema": SCHEMA, "kind": kind, "key": key, "sha256": _value_digest(plain), "value": plain})

    # --- embeddings -----------------------------------------------------------------------------------------------------------------

    def shelf(self, recipe: dict[str, Any]) -> EmbeddingShelf:
        """The embeddings made by one extractor recipe."""
        return EmbeddingShelf(self.root / "embeddings" / digest(recipe)[:24], recipe)

    # --- care -----------------------------------------------------------------------------------------------------------------------

    def verify(self) -> list[Finding]:
        """Reads every file of the store and checks its digest; returns the files that are damaged or foreign."""
        findings = []
        for path in sorted(p for p in self.root.rglob("*") if p.is_file()):
            if path.name.startswith(".tmp-") or "quarantine" in path.relative_to(self.root).parts:
                continue
            try:
                _verify_file(path)
            except IntegrityError as error:
                findings.append(Finding(path, error.problems[0].message))
        return findings

    def quarantine(self, path: Path) -> Path:
        """Moves a damaged file aside (never deletes it), so that its content is made again."""
        place = self.root / "quarantine" / path.relative_to(self.root)
        with resource_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)
        return place

    def contents(self) -> list[dict[str, Any]]:
        """One row per kind (and per extractor for embeddings): kind, what, files, bytes."""
        rows = []
        for kind in sorted(p for p in self.root.glob("*") if p.is_dir()):
            parts = sorted(p for p in kind.iterdir() if p.is_dir()) if kind.name == "embeddings" else [kind]
            for part in parts:
                files = [p for p in part.rglob("*") if p.is_file()]
                what = _extractor_line(part / "recipe.json") if kind.name == "embeddings" else ""
                rows.append({"kind": kind.name, "what": what, "files": len(files), "bytes": sum(p.stat().st_size for p in files)})
        return rows


def _extractor_line(path: Path) -> str:
    if not path.is_file():
        return path.parent.name
    recipe = _read_json(path)
    shown = [f"{key}={value}" for key, value in recipe.items() if key not in ("type", "version") and value not in (None, "", 0)]
    return f"{recipe.get('type', '?')} {' '.join(shown)}"


def _value_digest(value: Any) -> str:
    return digest_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode())


def _damaged(path: Path, what: str) -> IntegrityError:
    return IntegrityError("SK401", str(path), what, "run `simkit cache verify --repair`: it sets the file aside, and its content is made again")


def _read_json(path: Path) -> dict[str, Any]:
    with resource_errors(path, "read"):
        raw = path.read_bytes()
    try:
        content = json.loads(raw)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, f"is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise _damaged(path, "holds no JSON object")
    return content


def _verify_file(path: Path) -> None:
    if path.suffix == ".safetensors" and path.parent.parent.name == "embeddings":
        _read_shard(path)
    elif path.suffix == ".safetensors":
        _read_header(path)
    elif path.suffix == ".json":
        content = _read_json(path)
        if "sha256" in content and content["sha256"] != _value_digest(content.get("value")):
            raise _damaged(path, "its digest does not match its content")
    else:
        raise _damaged(path, "is not a file that simkit writes")


@dataclass(frozen=True)
class _Header:
    start: int
    metadata: dict[str, str]
    tensors: dict[str, dict[str, Any]]


def _read_header(path: Path) -> _Header:
    """The header of a safetensors file, bounded and checked against the file's length."""
    size = path.stat().st_size
    with resource_errors(path, "read"), path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else -1
        if not 0 < length <= min(size - 8, 100 * 2**20):
            raise _damaged(path, "is truncated or no safetensors file")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        metadata = header.pop("__metadata__", {})
        end = max(int(tensor["data_offsets"][1]) for tensor in header.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"has no valid header ({type(error).__name__})") from error
    if 8 + length + end != size:
        raise _damaged(path, f"is truncated: {size} bytes, its header asks for {8 + length + end}")
    return _Header(8 + length, metadata, header)


def _read_shard(path: Path) -> tuple[list[str], np.ndarray]:
    """Ids and features of a shard, with its digest checked.

    Raises:
        IntegrityError: truncated, foreign, of another schema, or a digest that does not match.
    """
    header = _read_header(path)
    if header.metadata.get("schema") != str(SCHEMA):
        raise _damaged(path, f"has schema {header.metadata.get('schema')}, wanted {SCHEMA}")
    with resource_errors(path, "read"):
        raw = path.read_bytes()
    try:
        (id_start, id_end), (n, width) = header.tensors["ids"]["data_offsets"], header.tensors["ids"]["shape"]
        (x_start, x_end), (rows, columns) = header.tensors["x"]["data_offsets"], header.tensors["x"]["shape"]
    except (KeyError, ValueError) as error:
        raise _damaged(path, "holds no ids and features") from error
    ids, x = raw[header.start + id_start : header.start + id_end], raw[header.start + x_start : header.start + x_end]
    if width != 32 or n != rows or digest_bytes(ids, x) != header.metadata.get("sha256"):
        raise _damaged(path, "its digest does not match its content")
    names = [ids[i * 32 : (i + 1) * 32].hex() for i in range(n)]
    return names, np.frombuffer(x, dtype=np.float32).reshape(rows, columns)


class EmbeddingShelf:
    """Rows of features by image content, made by one extractor recipe. Opening reads the ids of all shards, not the features."""

    def __init__(self, folder: Path, recipe: dict[str, Any]):
        self.folder, self.recipe = folder, recipe
        self._loaded: dict[Path, tuple[dict[str, int], np.ndarray]] = {}

    @cached_property
    def digest(self) -> str:
        """Digest of the extractor's recipe: what Embedding.extractor holds."""
        return digest(self.recipe)

    def _shard(self, path: Path) -> tuple[dict[str, int], np.ndarray]:
        if path not in self._loaded:
            ids, x = _read_shard(path)
            self._loaded[path] = ({name: row for row, name in enumerate(ids)}, x)
        return self._loaded[path]

    def _shards(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"))

    def known(self) -> set[str]:
        """Digests of the images that are embedded already.

        Raises:
            IntegrityError: a shard is damaged (named); nothing of it is used.
        """
        return {name for path in self._shards() for name in self._shard(path)[0]}

    def add(self, ids: Sequence[str], features: np.ndarray) -> None:
        """Stores rows as one immutable shard: written beside, flushed, renamed.

        Raises:
            IntegrityError: features that are not finite, or of another width than the shelf's.
        """
        from safetensors.numpy import save

        if not len(ids):
            return
        x = np.ascontiguousarray(features, dtype=np.float32)
        if not np.isfinite(x).all():
            raise IntegrityError("SK210", str(self.folder), "NaN or infinite features are never stored", "check the weights")
        width = next((self._shard(path)[1].shape[1] for path in self._shards()), x.shape[1])
        if width != x.shape[1]:
            message = f"{x.shape[1]} features, the shelf has {width}"
            raise IntegrityError("SK401", str(self.folder), message, "two extractors must not share a recipe: raise the extractor's version")
        if not (self.folder / "recipe.json").is_file():
            write_json(self.folder / "recipe.json", self.recipe)
        raw = np.frombuffer(bytes.fromhex("".join(ids)), dtype=np.uint8).reshape(len(ids), 32)
        sha = digest_bytes(raw.tobytes(), x.tobytes())
        content = save({"ids": raw, "x": x}, metadata={"schema": str(SCHEMA), "sha256": sha})
        write_bytes(self.folder / f"{sha[:24]}.safetensors", content)

    def gather(self, ids: Sequence[str]) -> np.ndarray:
        """Features of the images with these digests, in order: float32 (n, d). Every id must be known."""
        parts = [self._shard(path) for path in self._shards()]
        width = parts[0][1].shape[1]
        out = np.empty((len(ids), width), dtype=np.float32)
        place: dict[str, tuple[int, int]] = {}
        for number, (index, _) in enumerate(parts):
            for name, row in index.items():
                place.setdefault(name, (number, row))
        for i, name in enumerate(ids):
            number, row = place[name]
            out[i] = parts[number][1][row]
        return out
