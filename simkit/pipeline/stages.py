"""The first stages of a study: cards and embeddings. Each looks into the store first."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from simkit.dataset import Dataset, DatasetCard, Skipped, card_of, image_facts, reason_of
from simkit.embedding import Embedding
from simkit.errors import DataError, NotEnoughData, Problem, UsageError, nearest
from simkit.extractors.backends import BACKENDS
from simkit.extractors.base import AUTOMATIC, Extractor, Session, extract
from simkit.extractors.decoding import prepared_images
from simkit.extractors.projection import Projection
from simkit.pipeline.progress import Progress
from simkit.recipe import digest, recipe_of
from simkit.store import ROWS_PER_SHARD, Store
from simkit.study import Study

__all__ = [
    "CARD_VERSION", "Effort", "Embedded", "Sessions", "card_key", "check_projection", "cores", "embed_dataset", "projected", "read_card", "space_digest",
    "space_of",
    "stored_card", "strictly",
]

CARD_VERSION = 2
FLUSH_SECONDS = 60.0

WORTH_TRYING = 1000
"""So many images repay the seconds that it takes to try other engines than torch."""

ENGINE_BATCH = 16
"""Images of a batch of such an engine."""


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
    """The card from the store, with the data set without its unreadable images; or None, also where one of those can be read now
    (because a package that decodes it was installed, say).
    """
    value = store.load_json("card", card_key(dataset))
    if value is None:
        return None
    unreadable = value["unreadable"]
    bad = {i: unreadable[d] for i, d in enumerate(dataset.digests) if d in unreadable}
    kept = dataset
    if bad:
        again = prepared_images(dataset, list(bad), image_facts, workers=1, shape=None, few=0)
        if not all(isinstance(one.pixels, Problem) for one in again):
            return None
        skipped = [Skipped(dataset.name, dataset.keys[i], reason) for i, reason in bad.items()]
        kept = dataset.take([i for i in range(len(dataset)) if i not in bad], skipped)
    content = value["card"] | {"histogram": tuple(tuple(row) for row in value["card"]["histogram"])}
    content |= {"name": dataset.name, "tags": dataset.tags, "attributes": dict(dataset.attributes), "skipped": len(kept.skipped), "excluded": kept.excluded}
    return DatasetCard(**content), kept


def _facts(dataset: Dataset, done: Callable[[int], None]) -> Iterator[tuple[int, np.ndarray | Problem, tuple[str, ...]]]:
    for one in prepared_images(dataset, range(len(dataset)), image_facts, workers=cores(), shape=None):
        done(1)
        yield one.index, one.pixels, one.remarks


def read_card(dataset: Dataset, store: Store, progress: Progress, *, strict: bool = False) -> tuple[DatasetCard, Dataset]:
    """Card of a data set, and the data set without the images that cannot be read; decodes every image unless that is stored."""
    found = stored_card(dataset, store)
    if found is None:
        with progress.counting(f"reading {dataset.name}", len(dataset), "images") as done:
            card, kept = card_of(dataset, _facts(dataset, done))
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
    """An embedding with what it took: images computed now, images found in the store, seconds; and what readers did to images on the way."""

    embedding: Embedding
    dataset: Dataset
    computed: int
    stored: int
    seconds: float
    remarks: Mapping[str, int] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """One line: counts, images per second, and what was skipped."""
        head = f"{self.dataset.name}: {len(self.embedding):,} images, {self.embedding.dimension:,} features"
        if self.dataset.skipped:
            head += f", {len(self.dataset.skipped):,} skipped"
        if self.dataset.excluded:
            head += f", {self.dataset.excluded:,} excluded"
        if not self.computed:
            return f"{head} (all found in the store)"
        rate = f"{self.computed:,} embedded in {self.seconds:.1f} s, {self.computed / max(self.seconds, 1e-9):,.0f} images/s"
        return f"{head} ({rate}{f'; {self.stored:,} found in the store' if self.stored else ''})"


@dataclass(frozen=True)
class Effort:
    """How images are embedded: none of it is part of a recipe.

    Attributes:
        batch_size: images at a time; None: found by trying.
        workers: decoding processes; None: one a core.
        backend: what computes a network on the CPU: "auto", "torch", "compile", "openvino" or "onnxruntime".
    """

    batch_size: int | None = None
    workers: int | None = None
    backend: str = "auto"

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise UsageError("SK101", "backend", f"unknown backend '{self.backend}'{nearest(self.backend, BACKENDS)}", f"backends: {', '.join(BACKENDS)}")
        for what, value in (("batch size", self.batch_size), ("workers", self.workers)):
            if value is not None and value < 1:
                raise UsageError("SK102", what, f"{value} is out of range", "give 1 or more")


class Sessions:
    """Loads the extractor once, and only when an image has to be embedded."""

    def __init__(self, extractor: Extractor, device: str, effort: Effort):
        if effort.backend not in ("auto", "torch") and not extractor.needs_device:
            raise UsageError("SK102", "backend", f"{extractor.name} is no network of torch", "leave backend out")
        self.extractor, self.device, self.effort = extractor, device, effort
        self._session: Session | None = None
        self._chosen = False

    def get(self, dataset: Dataset, todo: Sequence[int], progress: Progress) -> Session:
        """The session, ready for the images of a data set; says what computes it when that is no plain torch."""
        if self._session is None:
            self._session = self.extractor.session(self.device)
        if not self._chosen and (self.effort.backend != "auto" or len(todo) >= WORTH_TRYING):
            self._chosen = True
            self._choose(self._session, dataset, todo, progress)
        return self._session

    def _choose(self, session: Session, dataset: Dataset, todo: Sequence[int], progress: Progress) -> None:
        """Another engine than torch: the one that was asked for, or the fastest."""
        if not hasattr(session, "use"):
            if self.effort.backend not in ("auto", "torch"):
                raise UsageError("SK102", "backend", f"{self.extractor.name} is no network of torch", "leave backend out")
            return
        if self.effort.backend == "auto" and not self.device.startswith("cpu"):
            return
        first = prepared_images(dataset, todo[: 2 * ENGINE_BATCH], session.prepare, workers=1, shape=None)
        example = [np.array(one.pixels) for one in first if not isinstance(one.pixels, Problem)][:ENGINE_BATCH]  # the others are named when their turn comes
        if example:
            rest = [example[i % len(example)] for i in range(ENGINE_BATCH)]
            said = session.use(self.effort.backend, np.stack(rest))
            if said != "torch":
                progress.say(f"{self.extractor.name}: computed by {said}")


def embed_dataset(dataset: Dataset, sessions: Sessions, store: Store, progress: Progress) -> Embedded:
    """Embeds what is not in the store yet, in shards that are safe as soon as they are written, and gathers all rows."""
    shelf = store.shelf(sessions.extractor.recipe())
    todo = shelf.missing(dataset.digests)
    started, computed = time.monotonic(), 0
    problems: dict[str, Problem] = {}
    remarks: Counter[str] = Counter()
    if todo:
        store.prepare(need=len(todo) * 8192)
        session = sessions.get(dataset, todo, progress)
        started = time.monotonic()
        effort = sessions.effort
        with progress.counting(f"embedding {dataset.name}", len(todo), "images") as done:
            ids: list[str] = []
            rows: list[np.ndarray] = []
            flushed = time.monotonic()
            try:
                for batch in extract(session, dataset, todo, batch_size=effort.batch_size or AUTOMATIC, workers=effort.workers or cores(),
                                     name=sessions.extractor.name):
                    ids += [dataset.digests[i] for i in batch.indices]
                    rows += list(batch.features)
                    problems |= {dataset.digests[i]: problem for i, problem in batch.unreadable}
                    remarks += batch.remarks
                    done(len(batch.indices) + len(batch.unreadable))
                    if len(ids) >= ROWS_PER_SHARD or time.monotonic() - flushed > FLUSH_SECONDS:
                        written, ids, rows, flushed = (ids, rows), [], [], time.monotonic()
                        shelf.add(written[0], np.stack(written[1]))
                        computed += len(written[0])
            finally:  # also after Ctrl-C: what is computed is kept
                if ids:
                    shelf.add(ids, np.stack(rows))
                    computed += len(ids)
    kept = _without(dataset, problems)
    seconds = time.monotonic() - started
    embedding = Embedding(shelf.gather(kept.digests), kept.labels, kept.classes, kept.groups, kept.keys, kept.name, shelf.digest, kept.indicators)
    return Embedded(embedding, kept, computed, len(set(kept.digests)) - computed, seconds, dict(sorted(remarks.items())))


def space_digest(extractor: str, projection: Projection | None, datasets: Iterable[Dataset]) -> str:
    """What identifies the space of the features: the digest of the extractor, and of the projection with the data sets that it was fitted on."""
    if projection is None:
        return extractor
    fitted = sorted(dataset.fingerprint for dataset in datasets) if projection.method == "pca" else []
    return digest([extractor, recipe_of(projection), fitted])


def space_of(study: Study, store: Store, datasets: Mapping[str, Dataset]) -> str:
    """:func:`space_digest` of a study: a projection is fitted on its sources and targets. "" where no measure reads features."""
    if not any(method.view == "embedding" for method in study.methods):
        return ""
    used = [dataset for name, dataset in datasets.items() if name in {*study.sources, *study.targets}]
    return space_digest(store.shelf(study.extractor.recipe()).digest, study.projection, used)


def check_projection(projection: Projection | None, datasets: Iterable[Dataset]) -> None:
    """Refuses, before any image is embedded, more principal components than there are images."""
    images = sum(len(dataset) for dataset in datasets)
    if projection is not None and projection.method == "pca" and projection.dimensions >= images:
        fix = f"give pca:{images - 1} at most, or random:{projection.dimensions}"
        raise NotEnoughData("SK501", str(projection), f"{images} images vary in {images - 1} dimensions at most", fix)


def projected(embedded: Sequence[Embedded], projection: Projection | None, fitted_on: Collection[str], progress: Progress) -> list[Embedded]:
    """The embeddings in the space of a projection, which is fitted on those whose names are given."""
    if projection is None:
        return list(embedded)
    chosen = [one for one in embedded if one.dataset.name in fitted_on]
    fitted = projection.fit([one.embedding for one in chosen])
    progress.say(fitted.line)
    name = space_digest(embedded[0].embedding.extractor, projection, [one.dataset for one in chosen])
    return [replace(one, embedding=replace(fitted.apply(one.embedding), extractor=name)) for one in embedded]


def _without(dataset: Dataset, problems: Mapping[str, Problem]) -> Dataset:
    if not problems:
        return dataset
    good = [i for i, d in enumerate(dataset.digests) if d not in problems]
    if not good:
        raise DataError("", "", "", problems=list(problems.values()))
    bad = [Skipped(dataset.name, dataset.keys[i], reason_of(problems[d])) for i, d in enumerate(dataset.digests) if d in problems]
    return dataset.take(good, bad)
