"""The contract of a feature extractor, and the loop that runs one over a data set."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from simkit.dataset import Dataset
from simkit.errors import IntegrityError, Problem, ResourceError, UsageError
from simkit.extractors.decoding import Preparation, Prepared, prepared_images
from simkit.recipe import recipe_of

if TYPE_CHECKING:
    from simkit.extractors.classifier import Classifier

__all__ = ["AUTOMATIC", "Batch", "Extractor", "NetworkSessionLike", "OutOfMemory", "Session", "extract"]

AUTOMATIC = 0
"""The batch size that is found by trying."""

SMALLEST, LARGEST = 8, 1024
"""Between these an automatic batch size lies."""

PLAIN = 64
"""Images a batch where the extractor is no network: it hardly matters."""

WORTHWHILE = 1.05
"""A larger batch must be faster by this factor to be taken."""

logger = logging.getLogger(__name__)


class Session(Protocol):
    """An extractor that is ready to work: network loaded, on its device."""

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """One image, uint8 (height, width, 1 or 3), as the array that ``features`` stacks. Runs in worker threads."""
        ...

    def features(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Features of a batch of prepared images: float32 (n, d)."""
        ...


@runtime_checkable
class NetworkSessionLike(Session, Protocol):
    """A session whose images are prepared in other processes, and which computes one batch while the next is copied.

    Attributes:
        preparation: what is done to each image; picklable, without torch.
        shape: of what the preparation makes (uint8).
        preferred: batch size of an engine that was built for one; AUTOMATIC otherwise.
    """

    preferred: int

    @property
    def preparation(self) -> Preparation: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def launch(self, batch: np.ndarray) -> Any:
        """Starts the computation of a batch, uint8 (n, *shape); raises OutOfMemory when it does not fit."""
        ...

    def collect(self, pending: Any) -> np.ndarray:
        """Waits for what ``launch`` started: float32 (n, d)."""
        ...


class OutOfMemory(Exception):
    """The device has no memory for a batch of this size."""


class Extractor:
    """Base of every extractor: a frozen dataclass whose fields are its options.

    Class attributes:
        name: how the extractor is called everywhere.
        citation: source of the network or method.
        version: raised with every change that moves a feature.
        needs_device: whether it computes on the device (a network) or always on the CPU.
    """

    name = ""
    citation = ""
    version = 1
    needs_device = True

    def recipe(self) -> dict[str, Any]:
        """What identifies the features in the store: options, weights digest, preprocessing; never a path."""
        return recipe_of(self)

    def check(self) -> None:
        """Everything that can be known to be wrong before any work: names, files, tensor names. Raises SimkitError."""

    def session(self, device: str) -> Session:
        """Loads the extractor onto a device ("cpu", "cuda", "cuda:1", "mps")."""
        raise NotImplementedError

    def classifier(self) -> Classifier:
        """The network with its classification layer, for measures of transferability and task embeddings.

        Raises:
            UsageError: the extractor is no network whose layers are known.
        """
        message = f"'{self.name}' is no network with a classification layer that simkit knows"
        raise UsageError("SK108", self.name, message, "give torchvision, timm, checkpoint or random")


@dataclass(frozen=True)
class Batch:
    """Features of some images of a data set, the images among them that could not be read, and what was done to the others."""

    indices: np.ndarray
    features: np.ndarray
    unreadable: tuple[tuple[int, Problem], ...]
    remarks: Counter[str] = field(default_factory=Counter)


def extract(
    session: Session, dataset: Dataset, indices: Sequence[int], *, batch_size: int, workers: int, name: str = "extractor",
) -> Iterator[Batch]:
    """Features batch by batch; images are decoded ahead in ``workers`` processes.

    Args:
        session: the extractor at work.
        dataset: whose images are embedded.
        indices: positions in the data set.
        batch_size: images at a time; AUTOMATIC (0) tries sizes while they get faster. Where a batch does not fit into the device's
            memory it is halved, and that is said.
        workers: decoding processes.
        name: of the extractor, for messages.

    Raises:
        IntegrityError: when the extractor returns NaN or infinite features (naming the images): they are never stored.
        ResourceError: one image does not fit into the device's memory.
        UsageError: for a negative batch size, or less than one worker.
    """
    if batch_size < 0 or workers < 1:
        raise UsageError("SK102", name, f"batch size {batch_size}, workers {workers}: out of range", "give a batch size (or auto), and 1 worker at least")
    preparation = session.preparation if isinstance(session, NetworkSessionLike) else getattr(session, "preparation", session.prepare)
    shape = session.shape if isinstance(session, NetworkSessionLike) else None
    images = prepared_images(dataset, indices, preparation, workers=workers, shape=shape)
    with contextlib.closing(images):  # the processes end with the loop, also where an error is kept
        if isinstance(session, NetworkSessionLike):
            batches = _network_batches(session, images, _Size(batch_size or session.preferred, name, len(indices)))
        else:
            batches = _plain_batches(session, images, batch_size or PLAIN)
        for taken, features in batches:
            yield _batch(dataset, taken, features, name)


@dataclass
class _Taken:
    """Images that were taken from the stream, in order; pixels of the readable ones are in ``pixels``."""

    items: list[Prepared]
    pixels: np.ndarray | list[np.ndarray]


class _Size:
    """How many images the next batch has."""

    def __init__(self, asked: int, name: str, total: int):
        self.name, self.automatic = name, asked == AUTOMATIC
        self.now = min(asked or SMALLEST, max(total, 1))
        self.best, self.rate, self.tried = self.now, 0.0, 0
        self.ceiling = LARGEST

    def measured(self, count: int, seconds: float) -> None:
        """A batch of ``count`` images took so long: go on trying, or stay with the best. The first batch of a size warms up and does not count."""
        if not self.automatic or count < self.now:
            return
        self.tried += 1
        if self.tried < 2:
            return
        rate = count / max(seconds, 1e-9)
        if rate > WORTHWHILE * self.rate and 2 * self.now <= self.ceiling:
            self.best, self.rate, self.tried = self.now, rate, 0
            self.now *= 2
            return
        self.now = self.best if rate <= WORTHWHILE * self.rate else self.now
        self.automatic = False
        logger.info("%s: batches of %d images (found by trying)", self.name, self.now)

    def halve(self, count: int, error: Exception) -> None:
        """After a batch that did not fit.

        Raises:
            ResourceError: it was one image.
        """
        if count <= 1:
            fix = "give --device cpu, or a smaller image_size"
            raise ResourceError("SK301", self.name, f"the device has no memory for one image ({error})", fix) from error
        self.now = self.best = max(1, min(self.now, count) // 2)
        self.ceiling, self.automatic = self.now, False
        logger.info("%s: out of memory with a batch of %d images; batches of %d from here on", self.name, count, self.now)


def _taken(images: Iterator[Prepared], count: int, buffer: Callable[[int], np.ndarray] | None) -> _Taken:
    """The next ``count`` readable images (fewer at the end), copied into a buffer where there is one; unreadable ones on the way are among the items."""
    items: list[Prepared] = []
    filled = 0
    pixels: Any = buffer(count) if buffer else []
    for item in images:
        if isinstance(item.pixels, Problem):
            items.append(item)
            continue
        if buffer:
            pixels[filled] = item.pixels
        else:
            pixels.append(np.array(item.pixels))
        items.append(Prepared(item.index, pixels[filled], item.remarks))
        filled += 1
        if filled == count:
            break
    return _Taken(items, pixels[:filled])


def _plain_batches(session: Session, images: Iterator[Prepared], size: int) -> Iterator[tuple[_Taken, np.ndarray]]:
    """One batch after the other."""
    while (taken := _taken(images, size, None)).items:
        yield taken, np.asarray(session.features(list(taken.pixels)), dtype=np.float32) if len(taken.pixels) else np.empty((0, 0), dtype=np.float32)


def _network_batches(session: NetworkSessionLike, images: Iterator[Prepared], size: _Size) -> Iterator[tuple[_Taken, np.ndarray]]:
    """Two batches under way: while the device computes one, the next is filled. Sizes are tried one batch at a time."""
    pending: tuple[_Taken, Any] | None = None
    while True:
        taken = _taken(images, size.now, lambda count: np.empty((count, *session.shape), dtype=np.uint8))
        if not taken.items:
            break
        if size.automatic:
            started = time.perf_counter()
            features = _features(session, taken, size)
            size.measured(len(taken.pixels), time.perf_counter() - started)
            if not size.automatic:
                session.preferred = size.now  # the next data set need not try again
            yield taken, features
            continue
        try:
            launched = session.launch(np.asarray(taken.pixels)) if len(taken.pixels) else None
        except OutOfMemory as error:
            if pending is not None:
                yield pending[0], _collected(session, pending[1])
                pending = None
            size.halve(len(taken.pixels), error)
            yield taken, _features(session, taken, size)
            continue
        if pending is not None:
            yield pending[0], _collected(session, pending[1])
        pending = taken, launched
    if pending is not None:
        yield pending[0], _collected(session, pending[1])


def _collected(session: NetworkSessionLike, launched: Any) -> np.ndarray:
    return np.empty((0, 0), dtype=np.float32) if launched is None else session.collect(launched)


def _features(session: NetworkSessionLike, taken: _Taken, size: _Size) -> np.ndarray:
    """Features of what was taken, in parts that fit into the device's memory."""
    rows: list[np.ndarray] = []
    done, pixels = 0, np.asarray(taken.pixels)
    while done < len(pixels):
        part = pixels[done : done + size.now]
        try:
            rows.append(session.collect(session.launch(part)))
        except OutOfMemory as error:
            size.halve(len(part), error)
            continue
        done += len(part)
    return np.concatenate(rows) if rows else np.empty((0, 0), dtype=np.float32)


def _batch(dataset: Dataset, taken: _Taken, features: np.ndarray, name: str) -> Batch:
    unreadable = tuple((item.index, item.pixels) for item in taken.items if isinstance(item.pixels, Problem))
    good = [item.index for item in taken.items if not isinstance(item.pixels, Problem)]
    if len(features) != len(good):
        raise UsageError("SK102", name, f"returned {len(features)} rows for {len(good)} images", "an extractor returns one row an image")
    bad = ~np.isfinite(features).all(axis=1) if len(features) else np.zeros(0, dtype=bool)
    if bad.any():
        names = ", ".join(dataset.keys[good[i]] for i in np.flatnonzero(bad)[:5])
        message = f"{int(bad.sum())} rows of features are NaN or infinite ({dataset.name}: {names})"
        raise IntegrityError("SK210", name, message, "check the weights; such rows are never stored")
    remarks = Counter(remark for item in taken.items for remark in item.remarks)
    return Batch(np.array(good, dtype=np.int64), features, unreadable, remarks)
