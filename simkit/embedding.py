"""Embeddings: one row of features per image, with labels and groups, and the recipe of the extractor that made them."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simkit.errors import DataError, UsageError
from simkit.files import write_bytes
from simkit.recipe import digest, digest_bytes

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Embedding", "content_order", "plain_array", "release", "row_digests"]


def row_digests(features: np.ndarray) -> np.ndarray:
    """Digest of each row's values, (n,) of 16 bytes: equal for equal rows, otherwise in random order."""
    rows = np.ascontiguousarray(features, dtype=np.float32) + np.float32(0.0)  # -0.0 becomes 0.0
    return np.array([hashlib.blake2b(row.data, digest_size=16).digest() for row in rows], dtype="S16")


def plain_array(thing: Any) -> np.ndarray:
    """An array in numpy; a tensor of torch is detached, taken from its device, and its half precision (which numpy may not have) made single."""
    if hasattr(thing, "detach") and hasattr(thing, "cpu"):
        thing = thing.detach().cpu()
        thing = thing.float() if thing.is_floating_point() and thing.element_size() < 4 else thing
    return np.asarray(thing)


def _not_finite(features: np.ndarray) -> np.ndarray:
    """Rows that hold NaN or infinity, (n,); looked at in parts, whose pages of a memory map are given back."""
    out = np.zeros(len(features), dtype=bool)
    for start in range(0, len(features), 65536):
        out[start : start + 65536] = ~np.isfinite(features[start : start + 65536]).all(axis=1)
        release(features)
    return out


def release(features: np.ndarray) -> None:
    """Gives the pages of a memory map that were read back to the system; does nothing to other arrays."""
    mapped = getattr(features, "_mmap", None) if getattr(features, "mode", "") == "r" else None  # what was changed in memory only stays
    if mapped is not None and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _bytes_of(features: np.ndarray) -> Iterator[memoryview]:
    """The bytes of an array, row by row in parts, whose pages of a memory map are given back."""
    for start in range(0, len(features), 65536):
        yield np.ascontiguousarray(features[start : start + 65536]).data.cast("B")
        release(features)


def content_order(features: np.ndarray) -> tuple[np.ndarray, str]:
    """An order of the rows that depends on their content only, and the digest of the rows in that order.

    Used where a computation would otherwise depend (in its last digits, or through folds) on the order in which images were read.
    """
    digests = row_digests(features)
    order = np.argsort(digests, kind="stable")
    return order, hashlib.sha256(digests[order].tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class Embedding:
    """A data set in feature space.

    Attributes:
        features: float32 (n, d), finite; memory-mapped where they are large.
        labels: class index per row, int64 (n,), or None.
        classes: class names that ``labels`` index into.
        groups: patient (or slide, volume) per row, or None.
        keys: one text per row, or () for bare arrays.
        name: of the data set.
        indicators: bool (n, classes) of a multi-label set, True where an image has the class; else None. Then ``labels`` is None.
        extractor: digest of the extractor's recipe; "" for bare arrays. Embeddings of different extractors are never compared.
    """

    features: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None
    keys: tuple[str, ...] = ()
    name: str = "array"
    extractor: str = ""
    indicators: np.ndarray | None = None

    def __post_init__(self) -> None:
        features = self.features if isinstance(self.features, np.memmap) else np.ascontiguousarray(self.features)
        if features.ndim != 2 or features.shape[0] == 0 or features.shape[1] == 0:
            raise DataError("SK202", self.name, f"features have shape {features.shape}, wanted (n, d) with n, d >= 1", "one row an image")
        if features.dtype.kind not in "fiub":
            raise DataError("SK203", self.name, f"features are of type {features.dtype}, wanted numbers", "convert them to float32")
        features = features.astype(np.float32, copy=False)
        bad = _not_finite(features)
        if bad.any():
            rows = ", ".join(self.keys[i] if self.keys else str(i) for i in np.flatnonzero(bad)[:5])
            message = f"{int(bad.sum())} of {len(bad)} rows hold NaN or infinite values (rows {rows})"
            raise DataError("SK210", self.name, message, "remove or recompute these rows")
        object.__setattr__(self, "features", features)
        for what, values in (("labels", self.labels), ("groups", self.groups), ("indicators", self.indicators)):
            if values is not None and len(values) != len(features):
                raise UsageError("SK102", self.name, f"{len(values)} {what} for {len(features)} rows of features", "give one per row")

    def __len__(self) -> int:
        return len(self.features)

    @property
    def dimension(self) -> int:
        """Number of features d."""
        return int(self.features.shape[1])

    def __repr__(self) -> str:
        return f"Embedding({self.name!r}, {len(self)} x {self.dimension}{'' if self.labels is None else f', {len(self.classes)} classes'})"

    @classmethod
    def of(cls, thing: Any, name: str = "array") -> Embedding:
        """An Embedding from an Embedding, an array (n, d), or a pair (array, labels); labels may be of any kind.

        Tensors of torch are taken from whatever device they are on. float64 input is rounded to float32, as features are stored.
        """
        if isinstance(thing, Embedding):
            return thing
        if isinstance(thing, tuple) and len(thing) == 2 and thing[1] is None:
            return cls(plain_array(thing[0]), name=name)
        if isinstance(thing, tuple) and len(thing) == 2 and hasattr(thing[0], "ndim") and thing[0].ndim != 2:
            raise DataError("SK202", name, f"features have shape {thing[0].shape}, wanted (n, d)", "give one row an image: reshape(-1, 1) for one feature")
        if isinstance(thing, (tuple, list)) and len(thing) == 2 and np.ndim(thing[0]) == 2:
            features, raw = plain_array(thing[0]), plain_array(thing[1])
            if raw.ndim != 1:
                raise DataError("SK202", name, f"labels have shape {raw.shape}, wanted (n,)", "one label a row")
            if raw.dtype.kind == "f" and np.isnan(raw).any():
                raise DataError("SK210", name, f"{int(np.isnan(raw).sum())} labels are NaN", "remove these rows, or name their class")
            values, labels = np.unique(raw, return_inverse=True)
            return cls(features, labels.astype(np.int64), tuple(str(v) for v in values), name=name)
        return cls(plain_array(thing), name=name)

    def take(self, indices: np.ndarray) -> Embedding:
        """The rows at ``indices``; class names are kept."""
        pick = lambda values: values if not values else tuple(values[i] for i in indices)  # noqa: E731
        return replace(self, features=self.features[indices], labels=None if self.labels is None else self.labels[indices],
                       groups=pick(self.groups), keys=pick(self.keys), indicators=None if self.indicators is None else self.indicators[indices])

    def to_npz(self, path: str | os.PathLike[str], *, skipped: int = 0) -> Path:
        """Writes features, labels (or indicators), classes, keys, groups, extractor and the number of images that were left out; returns the path.

        ``numpy.load`` reads the file without pickle. It is written atomically.
        """
        content: dict[str, Any] = {"features": self.features, "keys": np.array(self.keys, dtype=str), "classes": np.array(self.classes, dtype=str),
                                   "extractor": np.array(self.extractor), "skipped": np.array(skipped)}
        if self.labels is not None:
            content["labels"] = self.labels
        if self.indicators is not None:
            content["indicators"] = self.indicators
        if self.groups is not None:
            content["groups"] = np.array(self.groups, dtype=str)

        def write(temporary: Path) -> None:
            with open(temporary, "wb") as file:
                np.savez(file, allow_pickle=False, **content)

        write_bytes(path, b"", writer=write)
        return Path(path)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of features, labels (or indicators), groups and extractor."""
        labels = b"" if self.labels is None else np.ascontiguousarray(self.labels).tobytes()
        shape = f"{self.features.shape}".encode()
        content = digest_bytes(shape, *_bytes_of(self.features), labels)
        several = [] if self.indicators is None else [digest_bytes(np.packbits(self.indicators).tobytes())]
        return digest([content, self.classes, self.groups, self.extractor, *several])

    @cached_property
    def by_content(self) -> np.ndarray:
        """An order of the rows that depends on their features only, so that random splits do not depend on the order of reading."""
        return content_order(self.features)[0]

    @property
    def frame(self) -> pd.DataFrame:
        """One row an image: key, label, group, then the features f0, f1, ..."""
        import pandas as pd

        head: dict[str, Any] = {}
        if self.keys:
            head["key"] = self.keys
        if self.labels is not None:
            head["label"] = [self.classes[i] for i in self.labels]
        if self.groups:
            head["group"] = self.groups
        return pd.concat([pd.DataFrame(head, index=range(len(self))), pd.DataFrame(self.features).add_prefix("f")], axis=1)
