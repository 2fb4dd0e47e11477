"""Recipes: canonical descriptions of work, their digests, and random generators named by what they are for.

Finished work is found again by the digest of the recipe that made it: never by a name that somebody typed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["canonical", "describe", "digest", "digest_bytes", "digest_file", "recipe_of", "rng_for", "seed_for"]


def describe(thing: Any) -> Any:
    """The JSON form of a value, option object or recipe. Dataclasses become ``{"type": name, "version": v, field: ...}``.

    Raises:
        TypeError: for a value that has no canonical form (a function, an open file): a recipe that cannot be written down
            cannot be found again.
    """
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        head: dict[str, Any] = {"type": getattr(thing, "name", type(thing).__name__), "version": getattr(thing, "version", 1)}
        fields = {f.name: describe(getattr(thing, f.name)) for f in dataclasses.fields(thing) if f.metadata.get("recipe", True)}
        return head | fields
    if thing is None or isinstance(thing, (bool, int, str)):
        return thing
    if isinstance(thing, float):
        if not math.isfinite(thing):
            return {"float": repr(thing)}
        return thing
    if isinstance(thing, Path):
        return thing.as_posix()
    if isinstance(thing, Mapping):
        return {str(key): describe(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [describe(value) for value in thing]
    if isinstance(thing, (set, frozenset)):
        return sorted(describe(value) for value in thing)
    if hasattr(thing, "item") and getattr(thing, "ndim", None) == 0:
        return describe(thing.item())
    raise TypeError(f"{type(thing).__name__} has no canonical form: a recipe holds numbers, text, paths, lists, dicts and dataclasses")


def recipe_of(component: Any) -> dict[str, Any]:
    """The recipe of a component: name, version, options; and for a plug-in its module, so that two of one name never share results."""
    recipe: dict[str, Any] = describe(component)
    kind = type(component)
    return recipe if kind.__module__.startswith("simkit.") else {**recipe, "module": f"{kind.__module__}:{kind.__qualname__}"}


def canonical(thing: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, ASCII, no NaN. Equal recipes give equal text on every machine."""
    return json.dumps(describe(thing), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(thing: Any) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON of ``thing``."""
    return hashlib.sha256(canonical(thing).encode()).hexdigest()


def digest_bytes(*parts: bytes | memoryview) -> str:
    """SHA-256 (64 hex digits) of the concatenated parts."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.hexdigest()


def digest_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 (64 hex digits) of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seed_for(*names: Any) -> int:
    """A 64-bit seed from names such as ``(seed, source, target, method, repeat)``.

    Hashing names instead of counting draws means that adding a data set, or changing the order of work, moves no other number.
    """
    return int.from_bytes(hashlib.sha256(canonical(list(names)).encode()).digest()[:8], "big")


def rng_for(*names: Any) -> np.random.Generator:
    """A numpy Generator seeded by :func:`seed_for`."""
    import numpy as np

    return np.random.default_rng(seed_for(*names))
