"""The embeddings of one extractor: ids in memory (about 100 MB for a million), features in immutable shards that are memory-mapped."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence, Set
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from simkit.errors import IntegrityError, Problems, SimkitError
from simkit.files import resource_errors, write_bytes, write_json
from simkit.recipe import digest, digest_bytes
from simkit.store.gathering import IN_MEMORY, gathered
from simkit.store.shards import SCHEMA, SHARD_NAME, damaged, read_ids, rows_of

__all__ = ["EmbeddingShelf", "Known"]

PART = 65536
"""Ids that are looked up at a time."""


def _packed(digests: Sequence[str]) -> np.ndarray:
    """Digests of 64 hex digits as an array of 32 bytes each."""
    return np.frombuffer(bytes.fromhex("".join(digests)), dtype="S32")


class Known(Set[str]):
    """A set of digests that holds 32 bytes a member."""

    def __init__(self, ids: np.ndarray):
        self.ids = ids

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> frozenset[Any]:
        return frozenset(it)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.places([name])[0] >= 0)

    def __iter__(self) -> Iterator[str]:
        return (one.tobytes().hex() for one in self.ids.view("V32"))

    def __len__(self) -> int:
        return len(self.ids)

    def places(self, digests: Sequence[str]) -> np.ndarray:
        """Position of each digest among the sorted ids, -1 where it is not there."""
        out = np.full(len(digests), -1, dtype=np.int64)
        for start in range(0, len(digests) if len(self.ids) else 0, PART):
            wanted = _packed(digests[start : start + PART])
            at = np.minimum(np.searchsorted(self.ids, wanted), len(self.ids) - 1)
            out[start : start + PART] = np.where(self.ids[at] == wanted, at, -1)
        return out


class EmbeddingShelf:
    """Rows of features by image content, made by one extractor recipe. Opening reads the ids of all shards, not the features.

    Every shard's digest is checked when a process first opens it.
    """

    def __init__(self, root: Path, recipe: dict[str, Any]):
        self.root, self.recipe = root, recipe
        self.folder = root / "embeddings" / digest(recipe)[:24]
        self._paths: list[Path] = []
        self._width = 0
        self._known = Known(np.empty(0, dtype="S32"))
        self._shard = np.empty(0, dtype=np.int32)
        self._row = np.empty(0, dtype=np.int32)

    @cached_property
    def digest(self) -> str:
        """Digest of the extractor's recipe: what Embedding.extractor holds."""
        return digest(self.recipe)

    def _open(self) -> None:
        """Takes up the shards that were written since the last look, by this process or another.

        Raises:
            IntegrityError: shards that are damaged, all of them named; nothing of the shelf is used.
        """
        with resource_errors(self.folder, "read"):
            names = sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []
        there = {path.name for path in self._paths}
        foreign = [name for name in names if name.endswith(".safetensors") and not SHARD_NAME.fullmatch(name)]
        for name in foreign:
            logging.getLogger("simkit").warning("ignored %s: it is not a shard that simkit wrote (`simkit store verify`)", self.folder / name)
        new = [self.folder / name for name in names if SHARD_NAME.fullmatch(name) and name not in there]
        if new:
            self._take_up(new)

    def _take_up(self, new: list[Path]) -> None:
        problems, ids, width = Problems(), [self._known.ids], self._width
        for path in new:
            try:
                names, columns = read_ids(path)
                if width not in (0, columns):
                    raise damaged(path, f"has {columns} features, the other shards of the shelf have {width}")
            except SimkitError as error:
                if not isinstance(error, IntegrityError):
                    raise
                problems.catch(error)
                continue
            width = columns
            ids.append(names)
        problems.raise_if_any(IntegrityError)
        counts, first = [len(names) for names in ids[1:]], len(self._paths)
        self._paths, self._width = [*self._paths, *new], width
        shard = np.concatenate([self._shard, np.repeat(np.arange(first, first + len(new), dtype=np.int32), counts)])
        row = np.concatenate([self._row, *(np.arange(count, dtype=np.int32) for count in counts)])
        self._sort(np.concatenate(ids), shard, row)

    def _sort(self, ids: np.ndarray, shard: np.ndarray, row: np.ndarray) -> None:
        """One entry an id: of rows that two writers both made, the one in the shard that comes first by name, whoever looks."""
        rank = np.empty(len(self._paths), dtype=np.int32)
        rank[np.argsort([path.name for path in self._paths])] = np.arange(len(self._paths), dtype=np.int32)
        order = np.lexsort((row, rank[shard], ids))
        ids = ids[order]
        first = np.ones(len(ids), dtype=bool)
        first[1:] = ids[1:] != ids[:-1]
        order = order[first]
        self._known, self._shard, self._row = Known(ids[first]), shard[order], row[order]

    def known(self) -> Known:
        """Digests of the images that are embedded already.

        Raises:
            IntegrityError: a shard is damaged (named); nothing of it is used.
        """
        self._open()
        return self._known

    def missing(self, digests: Sequence[str]) -> list[int]:
        """One position for every distinct digest that is not on the shelf, in order.

        Raises:
            IntegrityError: a shard is damaged (named).
        """
        self._open()
        first: dict[str, int] = {}
        for index in np.flatnonzero(self._known.places(digests) < 0).tolist():
            first.setdefault(digests[index], index)
        return list(first.values())

    def add(self, ids: Sequence[str], features: np.ndarray) -> None:
        """Stores rows as one immutable shard: written beside, flushed, renamed.

        Raises:
            IntegrityError: features that are not finite, or of another width than the shelf's.
            ResourceError: no space (with needed and free megabytes), no permission.
        """
        from safetensors.numpy import save

        if not len(ids):
            return
        x = np.ascontiguousarray(features, dtype=np.float32)
        if not np.isfinite(x).all():
            raise IntegrityError("SK210", str(self.folder), "NaN or infinite features are never stored", "check the weights")
        if not self._paths:
            self._open()
        if self._width not in (0, x.shape[1]):
            message = f"{x.shape[1]} features, the shelf has {self._width}"
            raise IntegrityError("SK401", str(self.folder), message, "two extractors must not share a recipe: raise the extractor's version")
        if not (self.folder / "recipe.json").is_file():
            write_json(self.folder / "recipe.json", self.recipe)
        raw = _packed(ids).view(np.uint8).reshape(len(ids), 32)
        sha = digest_bytes(raw.tobytes(), x.tobytes())
        content = save({"ids": raw, "x": x}, metadata={"schema": str(SCHEMA), "sha256": sha})
        write_bytes(self.folder / f"{sha[:24]}.safetensors", content)

    def gather(self, digests: Sequence[str]) -> np.ndarray:
        """Features of the images with these digests, in order: float32 (n, d), read-only.

        Up to 256 MB they are in memory. Beyond, they are assembled once into a file of the store (or, where that cannot be written, a temporary
        file, which is said) and memory-mapped. Rows that lie in one shard in this order are mapped where they are.

        Raises:
            KeyError: a digest that is not on the shelf.
            ResourceError: no space for the file, with needed and free megabytes.
        """
        self._open()
        at = self._known.places(digests)
        if (at < 0).any():
            raise KeyError(f"{digests[int(np.flatnonzero(at < 0)[0])]} is not on the shelf {self.folder}")
        self._mark_use()
        shard, row = self._shard[at], self._row[at]
        if len(at) and (shard == shard[0]).all() and (np.diff(row) == 1).all():
            return rows_of(self._paths[int(shard[0])])[int(row[0]) : int(row[0]) + len(row)]
        if len(at) * self._width * 4 <= IN_MEMORY:
            out = self._rows(shard, row)
            out.flags.writeable = False
            return out
        step = max(1, 2**26 // (self._width * 4))
        parts = (self._rows(shard[start : start + step], row[start : start + step]) for start in range(0, len(at), step))
        content = digest_bytes(self.digest.encode(), *(_packed(digests[start : start + PART]).tobytes() for start in range(0, len(digests), PART)))
        return gathered(self.root, content, parts, len(at), self._width)

    def _mark_use(self) -> None:
        """The time of recipe.json is that of the last use, for `simkit store list` and `prune --older-than`; a read-only store keeps the old one."""
        path = self.folder / "recipe.json"
        if os.access(self.root, os.W_OK) and not path.exists():  # it was set aside as damaged
            write_json(path, self.recipe)
        elif os.access(self.root, os.W_OK) and os.access(path, os.W_OK):
            with resource_errors(path):
                os.utime(path)

    def _rows(self, shard: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Some rows, copied; one shard is mapped at a time."""
        out = np.empty((len(row), self._width), dtype=np.float32)
        order = np.argsort(shard, kind="stable")
        for places in np.split(order, np.flatnonzero(np.diff(shard[order])) + 1) if len(order) else []:
            out[places] = rows_of(self._paths[int(shard[places[0]])])[row[places]]
        return out
