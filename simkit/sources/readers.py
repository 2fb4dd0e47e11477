"""Readers of encoded images: what makes rules and content into pixels, remarks and digests, wherever the bytes lie."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from simkit.errors import DataError
from simkit.recipe import canonical, digest_bytes, digest_file
from simkit.sources.base import text_of
from simkit.sources.decode import Decoding, decode_remarked, deep_samples, unreadable
from simkit.sources.intensity import percentiles_of

__all__ = ["EncodedReader", "FileReader", "Stamp", "stamp_of"]

Stamp = tuple[int, int]
"""Size in bytes and time of the last change in ns of a file: what tells that it is not the one that was found."""

_RESOLVING = threading.RLock()
"""One thread at a time looks for a window, and the others wait for it. Not part of a reader: locks cannot be sent to other processes."""


def stamp_of(status: os.stat_result) -> Stamp:
    """See :data:`Stamp`."""
    return status.st_size, status.st_mtime_ns


class EncodedReader:
    """Base of readers of encoded images (a RemarkingReader). A subclass gives ``__len__``, ``source``, ``where`` and ``content``.

    Attributes:
        rules: how images become 8 bit, as declared.
    """

    rules: Decoding

    def __len__(self) -> int:
        raise NotImplementedError

    def source(self, index: int) -> str | bytes:
        """Path of the image's file, or its bytes."""
        raise NotImplementedError

    def where(self, index: int) -> str:
        """What messages call the image."""
        raise NotImplementedError

    def content(self, index: int) -> str:
        """SHA-256 of the file's bytes."""
        raise NotImplementedError

    def check(self, index: int) -> None:
        """DataError when the image is no longer what was found. Called before and after it is read."""

    def read(self, index: int) -> np.ndarray:
        """Image as uint8 (height, width, 1 or 3); see :func:`simkit.sources.decode.decode`."""
        return self.remarked(index)[0]

    def remarked(self, index: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """The image and what was done to it; see :func:`simkit.sources.decode.decode_remarked`."""
        rules = self.resolved
        self.check(index)
        out = decode_remarked(self.source(index), rules, where=self.where(index))
        self.check(index)
        return out

    def digest(self, index: int) -> str:
        """SHA-256 over the file's bytes and the rules, with the window that was found. Where the image lies does not matter."""
        rules = self.resolved
        self.check(index)
        content = self.content(index)
        self.check(index)
        return digest_bytes(content.encode(), canonical(rules).encode())

    @cached_property
    def resolved(self) -> Decoding:
        """The rules that are applied: ``intensity = "percentile"`` becomes the window of all images of this reader, found on first use.

        Images that cannot be read do not count. Where no image needs a window, the rule is "refuse", as if none had been declared.

        Raises:
            DataError: both percentiles are the same value.
        """
        if self.rules.intensity != "percentile":
            return self.rules
        with _RESOLVING:
            if "resolved" not in self.__dict__:  # else another thread has found it meanwhile
                self.__dict__["resolved"] = self._with_window()
        found: Decoding = self.__dict__["resolved"]
        return found

    def _with_window(self) -> Decoding:
        found = percentiles_of(self._deep_images, self.rules.percentiles)
        default = tuple(Decoding.percentiles)
        if found is None:
            return replace(self.rules, intensity="refuse", percentiles=default)
        if found[0] >= found[1]:
            low, high = self.rules.percentiles
            message = f"the percentiles {low:g} and {high:g} of all pixels are the same value, {found[0]:g}"
            raise DataError("SK207", self.where(0), message, 'widen percentiles, or declare intensity = "window" with window = [low, high]')
        return replace(self.rules, intensity="window", window=found, percentiles=default)

    def _deep_images(self) -> Iterator[np.ndarray]:
        for index in range(len(self)):
            try:
                values = deep_samples(self.source(index), self.rules, where=self.where(index))
            except DataError:  # it is named when it is read
                continue
            if values is not None and values.size and np.isfinite(values).all():
                yield values

    def __getstate__(self) -> dict[str, Any]:
        _ = self.resolved  # once here, not once in every process
        return dict(self.__dict__)


@dataclass(frozen=True, eq=False)
class FileReader(EncodedReader):
    """Images that lie in files.

    Attributes:
        paths: one file per image, absolute or relative to the working directory.
        rules: how they become 8 bit.
        stamps: size and time of each file when it was found; empty: not checked.
    """

    paths: tuple[str, ...]
    rules: Decoding
    stamps: tuple[Stamp, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def source(self, index: int) -> str:
        return self.paths[index]

    def where(self, index: int) -> str:
        return text_of(self.paths[index])

    def content(self, index: int) -> str:
        try:
            return digest_file(self.paths[index])
        except OSError as error:
            raise unreadable(self.paths[index], error) from error

    def check(self, index: int) -> None:
        if not self.stamps:
            return
        try:
            now, then = stamp_of(os.stat(self.paths[index])), self.stamps[index]
        except OSError as error:
            raise unreadable(self.paths[index], error) from error
        if now != then:
            size = f"{then[0]} bytes then, {now[0]} now" if now[0] != then[0] else "same size, another time"
            fix = "leave the files alone while simkit runs, and run it again"
            raise DataError("SK206", self.where(index), f"changed since the data set was listed ({size})", fix)
