"""Where finished work is kept: JSON artefacts, binary files, and the shelves of embeddings."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from simkit.errors import IntegrityError, ResourceError
from simkit.files import json_text, resource_errors, sweep, write_json
from simkit.store.care import Finding, contents, quarantine, verify
from simkit.store.gathering import RESERVE
from simkit.store.shards import SCHEMA, check_schema, damaged, read_json, value_digest
from simkit.store.shelf import EmbeddingShelf

__all__ = ["Store", "default_root"]


def default_root() -> Path:
    """``SIMKIT_STORE``, else ``simkit`` in the user's cache folder (``XDG_CACHE_HOME`` or ~/.cache)."""
    named = os.environ.get("SIMKIT_STORE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "simkit"


class Store:
    """The store below ``root``. Opening it writes nothing. ``check = False`` opens one whose marker is damaged, to repair it.

    Raises:
        IntegrityError: the store was made by a newer simkit.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, *, check: bool = True):
        self.root = Path(root) if root is not None else default_root()
        marker = self.root / "store.json"
        if check and marker.is_file():
            schema = read_json(marker).get("schema")
            if not isinstance(schema, int) or schema > SCHEMA:
                message = f"the store has schema {schema}, this simkit knows {SCHEMA}"
                raise IntegrityError("SK401", str(marker), message, "update simkit, or give another --store")

    def __reduce__(self) -> tuple[object, ...]:  # another process may have another working folder
        return (type(self), (self.root.absolute(),))

    def prepare(self, *, need: int = 0) -> None:
        """Makes the root and checks, before any work, that it can be written and that ``need`` bytes are free.

        To be called only when something must be written: a store that may only be read is read without it.

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
        content = read_json(path)
        check_schema(path, content.get("schema", SCHEMA))
        value = content.get("value")
        if content.get("sha256") != value_digest(value) or not isinstance(value, dict):
            raise damaged(path, "its digest does not match its content")
        return value

    def save_json(self, kind: str, key: str, value: dict[str, Any]) -> None:
        """Stores a value under a recipe digest, atomically."""
        plain = json.loads(json_text(value))
        write_json(self.path(kind, key, ".json"), {"schema": SCHEMA, "kind": kind, "key": key, "sha256": value_digest(plain), "value": plain})

    def shelf(self, recipe: dict[str, Any]) -> EmbeddingShelf:
        """The embeddings made by one extractor recipe."""
        return EmbeddingShelf(self.root, recipe)

    def verify(self) -> list[Finding]:
        """Reads every file of the store and checks its digest; returns the files that are damaged or foreign."""
        return verify(self.root)

    def quarantine(self, path: Path) -> Path:
        """Moves a damaged file aside (never deletes it), so that its content is made again."""
        return quarantine(self.root, path)

    def contents(self) -> list[dict[str, Any]]:
        """One row per kind (and per extractor for embeddings): kind, key, what, files, rows, bytes, last use."""
        return contents(self.root)
