"""The networks of a study's sources: from ``[networks]``, or from ``[finetune]``; and one forward pass of each over a target, kept in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from simkit.dataset import Dataset, DatasetCard
from simkit.errors import DataError, IntegrityError, Problems, SimkitError
from simkit.estimators.base import Estimator
from simkit.estimators.seen import Seen
from simkit.extractors.base import Extractor, Session
from simkit.extractors.classifier import Classifier
from simkit.extractors.network_session import Preprocessing
from simkit.pipeline.progress import Progress
from simkit.pipeline.stages import Effort, Sessions, embed_dataset
from simkit.recipe import digest, recipe_of
from simkit.store import Store
from simkit.study import Study
from simkit.transfer import SCRATCH, Pretrain, TransferPlan, named_network, pretrained, pretrained_network

__all__ = [
    "SourceNetwork", "check_networks", "leaks", "look", "network_names", "network_sources", "pairs_of", "seen_through", "source_cards", "wanted_pretrainings",
]

SEEN_VERSION = 1
"""Part of the recipe of what a network gives: raised with every change that moves a feature or an output."""

_HEADS: dict[str, tuple[int, tuple[str, ...]]] = {}
"""Heads of the networks that this process has loaded."""

KIND = "network"
"""Of the store's records: what is known of a network without loading it."""


class _Look(Extractor):
    """A source's network as an extractor: rows are its features, then its head's outputs."""

    def __init__(self, network: SourceNetwork):
        self.network = network
        self.name = f"network of {network.source}"

    def recipe(self) -> dict[str, Any]:
        return {"seen": SEEN_VERSION, **self.network.recipe}

    def session(self, device: str) -> Session:
        return self.network.classifier.session(device)


@dataclass(frozen=True, eq=False)
class SourceNetwork:
    """The network that was trained on a source.

    Attributes:
        source: name.
        recipe: what identifies the network and its features, whether it is there already or still to be trained.
        make: loads it.
        origin: in words, for messages and plans.
        images: that it was trained on; None where that is not known.
        pretraining: key of the pretraining that makes it; "" for one that is there.
    """

    source: str
    recipe: Mapping[str, Any]
    make: Callable[[], Classifier]
    origin: str
    images: int | None = None
    pretraining: str = ""

    @cached_property
    def classifier(self) -> Classifier:
        """The network, loaded when it is first asked for."""
        return self.make()

    @cached_property
    def key(self) -> str:
        """Digest of the recipe of what it gives."""
        return digest(_Look(self).recipe())

    @property
    def extractor(self) -> Extractor:
        """The network as an extractor."""
        return _Look(self)

    def head(self, store: Store) -> tuple[int, tuple[str, ...]]:
        """How many outputs the head has (0: none), and their names where they are known: from the store, where the network was looked through before, else
        the network is loaded for it, once in a process.
        """
        record = store.load_json(KIND, self.key)
        if record is not None:
            return int(record["outputs"]), tuple(record["classes"])
        if self.key not in _HEADS:
            loaded = "classifier" in vars(self)
            _HEADS[self.key] = self.classifier.outputs, self.classifier.classes
            if not loaded:
                self.release()
        return _HEADS[self.key]

    def release(self) -> None:
        """Lets go of the loaded network."""
        self.__dict__.pop("classifier", None)


def network_names(study: Study) -> tuple[str, ...]:
    """Sources that have a network: those of ``[networks]`` and of ``[finetune]``, data sets first. ``scratch`` has none: no source trained it."""
    names = dict.fromkeys(study.networks)
    if study.protocol is not None:
        others = (name for name in study.protocol.sources if name != SCRATCH)
        names |= dict.fromkeys((*study.sources, *others, *study.protocol.weights))
    order = [*(name for name in study.sources if name in names), *(name for name in names if name not in study.sources)]
    return tuple(order)


def pairs_of(study: Study, method: Estimator) -> tuple[tuple[str, str], ...]:
    """(source, target) names that a measure is asked for, without self pairs: of the network view those whose source has a network, of a measure that
    can read a source's network or name alone those of both kinds, else those of two data sets.
    """
    if method.view == "network":
        return tuple((s, t) for t in study.targets for s in network_names(study) if s != t)
    if method.reads_source_card:
        alone = network_names(study) if method.reads_source_card == "name" else tuple(study.networks)
        names = dict.fromkeys((*study.sources, *(name for name in alone if name not in study.datasets)))
        return tuple((s, t) for t in study.targets for s in names if s != t)
    return study.pairs


def source_cards(study: Study, networks: Mapping[str, SourceNetwork], store: Store) -> dict[str, DatasetCard]:
    """What is known of the sources that are no data sets: name, the number of images that was stated, and the outputs of the network in ``[networks]``."""
    out = {}
    for name in network_names(study):
        if name in study.datasets:
            continue
        network = networks[name] if name in study.networks else None
        count, classes = network.head(store) if network is not None else (0, ())
        names = classes or tuple(f"output {i}" for i in range(count))
        out[name] = DatasetCard(
            name=name, images=(network.images if network else None) or 0,
            fingerprint=digest(["network", name, network.key if network else "", network.images if network else None, names]),
            class_counts=dict.fromkeys(names, 1), groups=0, channels=0, grey_share=0.0, height=0.0, width=0.0)
    return out


def wanted_pretrainings(study: Study) -> tuple[str, ...]:
    """Sources whose pretrained networks measures look through: those that are data sets, have no entry in ``[networks]``, and are in a pair."""
    if study.protocol is None or not any(method.view == "network" for method in study.methods):
        return ()
    return tuple(name for name in study.sources if name not in study.networks and any(name != target for target in study.targets))


def network_sources(study: Study, transfer: TransferPlan | None) -> dict[str, SourceNetwork]:
    """Source -> its network, in the order of :func:`network_names`."""
    found = {name: _named(one) for name, one in study.networks.items()}
    if transfer is not None:
        found |= {name: _of_pretraining(name, unit, len(rows), transfer) for name, (unit, rows) in transfer.wholes.items() if name not in found}
        found |= {name: _of_weights(name, start.identity, start.path, transfer) for name, start in transfer.starts.items() if start.path and name not in found}
    return {name: found[name] for name in network_names(study) if name in found}


def leaks(transfer: TransferPlan | None, networks: Mapping[str, SourceNetwork], targets: Sequence[str]) -> dict[tuple[str, str], int]:
    """(source, target) -> images of the target that the source's pretraining has seen; only pairs that have some."""
    out = {}
    for source, (_, rows) in (transfer.wholes if transfer is not None else {}).items():
        assert transfer is not None
        one = transfer.listings[source]
        seen = {one.identities[row] for row in rows}
        for target in targets:
            if source in networks and networks[source].pretraining and source != target:
                count = sum(identity in seen for identity in transfer.listings[target].identities)
                if count:
                    out[source, target] = count
    return out


def _named(spec: Any) -> SourceNetwork:
    extractor: Extractor = spec.extractor
    return SourceNetwork(spec.name, extractor.recipe(), extractor.classifier, f"[networks] {extractor.name}", spec.images)


def _of_pretraining(source: str, unit: Pretrain, images: int, transfer: TransferPlan) -> SourceNetwork:
    """The network that the runner pretrains on a whole source."""

    def make() -> Classifier:
        model, head, classes = pretrained_network(transfer.results, unit)
        return Classifier(model, _squashed(unit.budget), head, len(classes), classes, where=f"network of {source}", recipe=dict(recipe))

    recipe = {"pretrain": unit.key, "preprocessing": recipe_of(_squashed(unit.budget))}
    return SourceNetwork(source, recipe, make, "pretrained by [finetune]", images, unit.key)


def _of_weights(source: str, identity: str, path: str, transfer: TransferPlan) -> SourceNetwork:
    """Weights that ``[finetune]`` names, seen as its trainings see them."""
    budget = transfer.protocol.finetuning()

    def make() -> Classifier:
        model, head, outputs = named_network(path, budget, source)
        return Classifier(model, _squashed(budget), head, outputs, where=f"network of {source}", recipe=dict(recipe))

    recipe = {"weights": identity, "network": budget.network, "channels": budget.channels, "preprocessing": recipe_of(_squashed(budget))}
    return SourceNetwork(source, recipe, make, "weights of [finetune]")


def _squashed(budget: Any) -> Preprocessing:
    """The whole image as a square, as the runner decodes it, and normalised as there."""
    from simkit.transfer.augmentation import channel_statistics

    mean, std = channel_statistics(budget.channels)
    return Preprocessing(budget.image_size, budget.image_size, mean, std, keep_aspect=False)


def check_networks(networks: Mapping[str, SourceNetwork], datasets: Mapping[str, Dataset], study: Study, store: Store) -> None:
    """Loads every network that is there already, and refuses a head that does not belong to its source; all problems at once.

    Raises:
        UsageError, DataError, ResourceError, IntegrityError: of the first kind of problem that was found.
    """
    problems, kind = Problems(), None
    for name, network in networks.items():
        if network.pretraining and not pretrained(store, network.pretraining):
            continue
        try:
            if name in study.networks:
                study.networks[name].extractor.check()
            outputs, _ = network.head(store)
            classes = [one for one, count in datasets[name].class_counts.items() if count > 0] if name in datasets else []
            if outputs and classes and outputs != len(classes) and not network.pretraining:
                message = f"the head of its network has {outputs} outputs, the source has {len(classes)} classes"
                fix = "give the network that was trained on this source; or name the entry after what the network was trained on"
                raise DataError("SK202", f"networks.{name}", message, fix)
        except SimkitError as error:
            kind = kind or type(error)
            problems.catch(error)
        finally:
            network.release()
    if kind is not None:
        problems.raise_if_any(kind)


def look(
    networks: Mapping[str, SourceNetwork], pairs: Iterable[tuple[str, str]], datasets: Mapping[str, Dataset], store: Store, progress: Progress, *,
    device: str, effort: Effort,
) -> tuple[int, int, dict[str, DataError]]:
    """One forward pass of each network over each of its targets, unless it is in the store. A network is loaded once, and let go after its last target.

    Returns:
        Images that networks looked at now, and those found in the store, over all pairs; and of networks whose features or outputs are not finite, the reason.

    Raises:
        DataError: an image that was readable when its card was made no longer is.
    """
    made = found = 0
    broken: dict[str, DataError] = {}
    targets: dict[str, list[str]] = {}
    for source, target in pairs:
        targets.setdefault(source, []).append(target)
    for source, names in targets.items():
        network = networks[source]
        sessions = Sessions(network.extractor, device, effort)
        for target in names:
            try:
                done = embed_dataset(datasets[target], sessions, store, progress)
            except IntegrityError as error:
                if error.problems[0].code != "SK210":
                    raise
                broken[source] = DataError("SK210", source, error.problems[0].message, "check the weights, or how the network was trained")
                break
            progress.say(f"{source} sees {done.line}")
            made, found = made + done.computed, found + done.stored
            if len(done.dataset) != len(datasets[target]):
                lost = done.dataset.skipped[-1]
                message = f"{len(datasets[target]) - len(done.dataset)} images can no longer be read, such as {lost.key}: {lost.reason}"
                raise DataError("SK206", target, message, "run the command again: they are then skipped, named and counted from the start")
        if store.load_json(KIND, network.key) is None:
            outputs, classes = network.head(store)
            store.save_json(KIND, network.key, {"outputs": outputs, "classes": list(classes), "recipe": network.extractor.recipe()})
        network.release()
    return made, found, broken


def seen_through(network: SourceNetwork, dataset: Dataset, store: Store, gradients: Mapping[str, Any] | str | None = None) -> Seen:
    """The network view of a pair, from what :func:`look` left in the store; a text instead of gradients says why there are none."""
    outputs, classes = network.head(store)
    second = dataset.labels if dataset.labels is not None else np.zeros(len(dataset), dtype=np.int64)
    dataset = dataset.take(np.lexsort((second, np.array(dataset.digests))))  # the order that all sources share: no other copy is made for it
    rows = store.shelf(network.extractor.recipe()).gather(dataset.digests)
    width = rows.shape[1] - outputs
    return Seen(
        np.ascontiguousarray(rows[:, :width]), dataset.labels, dataset.classes, softmax(rows[:, width:]) if outputs else None, classes, dataset.indicators,
        groups=dataset.groups, gradients=None if isinstance(gradients, str) else gradients, no_gradients=gradients if isinstance(gradients, str) else "",
        images=tuple(dataset.digests), source=network.source, target=dataset.name, network=network.key,
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities float64 (n, C) of logits."""
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
