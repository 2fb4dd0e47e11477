"""The first stages of a study: cards and embeddings. Each looks into the store first."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from simkit.dataset import Dataset, DatasetCard, Skipped, card_of, reason_of
from simkit.embedding import Embedding
from simkit.errors import DataError, Problem
from simkit.extractors.base import Extractor, Session, extract
from simkit.pipeline.progress import Progress
from simkit.recipe import digest
from simkit.store import ROWS_PER_SHARD, Store

__all__ = [
    "CARD_VERSION", "Embedded", "Sessions", "card_key", "cores", "embed_dataset", "missing_images", "read_card", "stored_card", "strictly",
]

CARD_VERSION = 1
FLUSH_SECONDS = 60.0


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def strictly(dataset: Dataset) -> None:
    """DataError naming every image that was or would be left out (``--strict``)."""
    if dataset.skipped:
        fix = "repair or remove them, or run without --strict: then they are skipped, named and counted"
        raise DataError("", "", "", problems=[Problem("SK206", f"{s.dataset}: {s.key}", s.reason, fix) for s in dataset.skipped])


# --- cards -----------------------------------------------------------------------------------------------------------------------------


def card_key(dataset: Dataset) -> str:
    """Recipe digest of a data set's card: content and version, not the name."""
    return digest({"card": CARD_VERSION, "fingerprint": dataset.fingerprint})


def stored_card(dataset: Dataset, store: Store) -> tuple[DatasetCard, Dataset] | None:
    """The card from the store, with the data set without its unreadable images; or None."""
    value = store.load_json("card", card_key(dataset))
    if value is None:
        return None
    unreadable = value["unreadable"]
    bad = {i: unreadable[d] for i, d in enumerate(dataset.digests) if d in unreadable}
    kept = dataset
    if bad:
        skipped = [Skipped(dataset.name, dataset.keys[i], reason) for i, reason in bad.items()]
        kept = dataset.take([i for i in range(len(dataset)) if i not in bad], skipped)
    content = value["card"] | {"histogram": tuple(tuple(row) for row in value["card"]["histogram"])}
    content |= {"name": dataset.name, "tags": dataset.tags, "attributes": dict(dataset.attributes), "skipped": len(kept.skipped)}
    return DatasetCard(**content), kept


def read_card(dataset: Dataset, store: Store, progress: Progress, *, strict: bool = False) -> tuple[DatasetCard, Dataset]:
    """Card of a data set, and the data set without the images that cannot be read; decodes every image unless that is stored."""
    found = stored_card(dataset, store)
    if found is None:
        with progress.counting(f"reading {dataset.name}", len(dataset), "images") as done:
            card, kept = card_of(dataset, done)
        digests = dict(zip(dataset.keys, dataset.digests, strict=True))
        new = kept.skipped[len(dataset.skipped) :]
        unreadable = {digests[s.key]: s.reason for s in new}
        store.save_json("card", card_key(dataset), {"card": asdict(card), "unreadable": unreadable})
        found = replace(card, skipped=len(kept.skipped)), kept
    if strict:
        strictly(found[1])
    return found


# --- embeddings ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Embedded:
    """An embedding with what it took: images computed now, images found in the store, seconds."""

    embedding: Embedding
    dataset: Dataset
    computed: int
    stored: int
    seconds: float

    @property
    def line(self) -> str:
        """One line: counts and images per second."""
        head = f"{self.dataset.name}: {len(self.embedding)} images, {self.embedding.dimension} features"
        if not self.computed:
            return f"{head} (all found in the store)"
        rate = f"{self.computed} embedded in {self.seconds:.1f} s, {self.computed / max(self.seconds, 1e-9):.0f} images/s"
        return f"{head} ({rate}{f'; {self.stored} found in the store' if self.stored else ''})"


class Sessions:
    """Loads the extractor once, and only when an image has to be embedded."""

    def __init__(self, extractor: Extractor, device: str):
        self.extractor, self.device = extractor, device
        self._session: Session | None = None

    def get(self) -> Session:
        if self._session is None:
            self._session = self.extractor.session(self.device)
        return self._session


def missing_images(dataset: Dataset, known: set[str]) -> list[int]:
    """One position for every distinct image content that is not embedded yet."""
    first: dict[str, int] = {}
    for index, name in enumerate(dataset.digests):
        if name not in known:
            first.setdefault(name, index)
    return list(first.values())


def embed_dataset(dataset: Dataset, sessions: Sessions, store: Store, progress: Progress, *, batch_size: int, workers: int) -> Embedded:
    """Embeds what is not in the store yet, in shards that are safe as soon as they are written, and gathers all rows."""
    shelf = store.shelf(sessions.extractor.recipe())
    todo = missing_images(dataset, shelf.known())
    started, computed = time.monotonic(), 0
    problems: dict[str, Problem] = {}
    if todo:
        session = sessions.get()
        started = time.monotonic()
        with progress.counting(f"embedding {dataset.name}", len(todo), "images") as done:
            ids: list[str] = []
            rows: list[np.ndarray] = []
            flushed = time.monotonic()
            for batch in extract(session, dataset, todo, batch_size=batch_size, workers=workers, name=sessions.extractor.name):
                ids += [dataset.digests[i] for i in batch.indices]
                rows += list(batch.features)
                problems |= {dataset.digests[i]: problem for i, problem in batch.unreadable}
                done(len(batch.indices) + len(batch.unreadable))
                if len(ids) >= ROWS_PER_SHARD or time.monotonic() - flushed > FLUSH_SECONDS:
                    shelf.add(ids, np.stack(rows))
                    computed, ids, rows, flushed = computed + len(ids), [], [], time.monotonic()
            if ids:
                shelf.add(ids, np.stack(rows))
                computed += len(ids)
    kept = _without(dataset, problems)
    features = shelf.gather(kept.digests)
    embedding = Embedding(features, kept.labels, kept.classes, kept.groups, kept.keys, kept.name, shelf.digest)
    return Embedded(embedding, kept, computed, len(set(kept.digests)) - computed, time.monotonic() - started)


def _without(dataset: Dataset, problems: Mapping[str, Problem]) -> Dataset:
    if not problems:
        return dataset
    good = [i for i, d in enumerate(dataset.digests) if d not in problems]
    if not good:
        raise DataError("", "", "", problems=list(problems.values()))
    bad = [Skipped(dataset.name, dataset.keys[i], reason_of(problems[d])) for i, d in enumerate(dataset.digests) if d in problems]
    return dataset.take(good, bad)
