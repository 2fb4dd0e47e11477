"""What backward passes through a source's network say of a target, kept in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simkit.dataset import Dataset
from simkit.errors import NotEnoughData, UsageError
from simkit.extractors.triplet_gradients import GRADIENTS_VERSION
from simkit.pipeline.networks import SourceNetwork
from simkit.pipeline.progress import Progress
from simkit.recipe import digest
from simkit.store import Store

__all__ = ["gradients_of", "stored_gradients"]

KIND = "gradients"

class _Images(Sequence[np.ndarray]):
    """The images of a data set as a network takes them; read when they are asked for."""

    def __init__(self, dataset: Dataset, prepare: Any):
        self.dataset, self.prepare = dataset, prepare

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self.prepare(self.dataset.read(int(index)))


def _key(network: SourceNetwork, dataset: Dataset) -> str:
    return digest({"gradients": GRADIENTS_VERSION, "network": network.key, "dataset": dataset.fingerprint})


def stored_gradients(network: SourceNetwork, dataset: Dataset, store: Store) -> dict[str, Any] | None:
    """What the backward passes of a pair gave, or None."""
    return store.load_json(KIND, _key(network, dataset))


def gradients_of(
    networks: Mapping[str, SourceNetwork], pairs: Sequence[tuple[str, str]], datasets: Mapping[str, Dataset], store: Store, progress: Progress, device: str,
) -> dict[tuple[str, str], Mapping[str, Any] | str]:
    """The gradient norms of each pair: from the store, or by a few backward passes. A text says why a pair has none: a network without two convolutions,
    no triplet, no gradient.
    """
    from simkit.extractors.triplet_gradients import gradient_norms

    out: dict[tuple[str, str], Mapping[str, Any] | str] = {}
    if not pairs:
        return out
    with progress.counting("gradients", len(pairs), "pairs") as done:
        for source in dict.fromkeys(source for source, _ in pairs):
            network = networks[source]
            for target in [target for one, target in pairs if one == source]:
                dataset = datasets[target]
                found = stored_gradients(network, dataset, store)
                if found is None:
                    classifier = network.classifier
                    images = _Images(dataset, classifier.preprocessing)
                    try:
                        found = gradient_norms(classifier, images, np.asarray(dataset.labels), device=device, names=dataset.digests)
                    except (NotEnoughData, UsageError) as error:
                        found = {"reason": error.problems[0].message}
                    else:
                        store.save_json(KIND, _key(network, dataset), found)
                out[source, target] = found.get("reason") or found
                done(1)
            network.release()
    return out
