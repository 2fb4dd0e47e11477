"""What is seen of the images of a data set to find copies: read from the store, or decoded once and kept there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simkit.dataset import Dataset, Skipped, reason_of
from simkit.errors import DataError, Problem
from simkit.extractors.decoding import prepared_images
from simkit.leakage.looks import LOOK, Looks
from simkit.leakage.near import Square
from simkit.pipeline.progress import Progress
from simkit.pipeline.stages import FLUSH_SECONDS, cores
from simkit.recipe import recipe_of
from simkit.store import ROWS_PER_SHARD, Store

__all__ = ["Seen", "pictures_of", "seen_of"]


@dataclass(frozen=True, eq=False)
class Seen:
    """A data set without its unreadable images, and what was seen of each of the others."""

    dataset: Dataset
    looks: Looks


def seen_of(dataset: Dataset | Seen, store: Store, progress: Progress, *, workers: int | None = None) -> Seen:
    """What is kept of each image of a data set; images that are in the store are not decoded again. Unreadable ones are skipped. What was seen already is
    given back.

    Raises:
        DataError: no image can be read.
    """
    if isinstance(dataset, Seen):
        return dataset
    shelf = store.shelf(recipe_of(LOOK))
    todo = shelf.missing(dataset.digests)
    problems: dict[str, Problem] = {}
    if todo:
        store.prepare(need=len(todo) * 4400)
        ids: list[str] = []
        rows: list[np.ndarray] = []
        flushed = time.monotonic()
        try:
            with progress.counting(f"looking at {dataset.name}", len(todo), "images") as done:
                for one in prepared_images(dataset, todo, LOOK, workers=workers or cores(), shape=None):
                    done(1)
                    if isinstance(one.pixels, Problem):
                        problems[dataset.digests[one.index]] = one.pixels
                        continue
                    ids.append(dataset.digests[one.index])
                    rows.append(np.array(one.pixels))
                    if len(ids) >= ROWS_PER_SHARD or time.monotonic() - flushed > FLUSH_SECONDS:
                        written, ids, rows, flushed = (ids, rows), [], [], time.monotonic()
                        shelf.add(written[0], np.stack(written[1]))
        finally:  # also after Ctrl-C: what was seen is kept
            if ids:
                shelf.add(ids, np.stack(rows))
    kept = _without(dataset, problems)
    return Seen(kept, Looks(_contents(kept), shelf.gather(kept.digests)))


def _without(dataset: Dataset, problems: Mapping[str, Problem]) -> Dataset:
    if not problems:
        return dataset
    good = [i for i, digest in enumerate(dataset.digests) if digest not in problems]
    if not good:
        raise DataError("", "", "", problems=list(problems.values()))
    bad = [Skipped(dataset.name, dataset.keys[i], reason_of(problems[d])) for i, d in enumerate(dataset.digests) if d in problems]
    return dataset.take(good, bad)


def _contents(dataset: Dataset) -> tuple[str, ...]:
    """Digest of each image's bytes: without the rules of decoding where the reader tells them apart, so that data sets can be compared."""
    reader: Any = dataset.reader
    if not hasattr(reader, "content"):
        return dataset.digests
    assert dataset.rows is not None
    return tuple(str(reader.content(int(row))) for row in dataset.rows)


def pictures_of(seen: tuple[Seen, Seen], workers: int | None) -> Callable[[int, Sequence[int]], dict[int, np.ndarray]]:
    """What reads pixels of the first (0) or the second (1) data set again, for :func:`simkit.leakage.near.near_pairs`."""

    def read(side: int, positions: Sequence[int]) -> dict[int, np.ndarray]:
        made = prepared_images(seen[side].dataset, positions, Square(), workers=workers or cores(), shape=None)
        return {one.index: np.asarray(one.pixels, dtype=np.float16) for one in made if not isinstance(one.pixels, Problem)}

    return read
