"""Task embeddings of data sets: the Fisher information of a probe network, made once for each data set and probe, and kept in the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from simkit.dataset import Dataset
from simkit.errors import DataError, SimkitError
from simkit.estimators.base import TaskEstimator
from simkit.estimators.seen import joined
from simkit.estimators.task_embedding import TaskEmbedding
from simkit.extractors.base import Extractor
from simkit.pipeline.progress import Progress
from simkit.recipe import digest, digest_bytes
from simkit.registry import EXTRACTORS
from simkit.store import Store

__all__ = ["probe_of", "stored_task", "task_embeddings", "task_key"]

KIND = "task"
TASK_VERSION = 1
"""Part of the recipe of task embeddings: raised with every change that moves one."""


def probe_of(method: TaskEstimator) -> Extractor:
    """The probe network of a measure.

    Raises:
        UsageError: a name that is not known. ResourceError: weights that are not there.
    """
    made: Extractor = EXTRACTORS.build(method.probe(), f"methods: {method.name}")
    return made


def task_key(method: TaskEstimator, dataset: Dataset, probe: Extractor) -> str:
    """Recipe digest of a task embedding: the probe with its weights, how it is computed, and the data set's content."""
    return digest({"task": TASK_VERSION, "options": method.embedding_recipe(), "probe": probe.recipe(), "dataset": dataset.fingerprint})


def stored_task(method: TaskEstimator, dataset: Dataset, probe: Extractor, store: Store) -> TaskEmbedding | None:
    """The task embedding from the store, or None."""
    from safetensors.numpy import load

    key = task_key(method, dataset, probe)
    record, path = store.load_json(KIND, key), store.path(KIND, key, ".safetensors")
    if record is None or not path.is_file():
        return None
    data = path.read_bytes()
    if digest_bytes(data) != record.get("sha256"):
        return None  # damaged: it is made again
    tensors = load(data)
    return TaskEmbedding(tensors["fisher"], tensors.get("halves"), dataset.name, record["images"], record["classes"], record["probe"], record["detail"])


def task_embeddings(method: TaskEstimator, datasets: Mapping[str, Dataset], store: Store, progress: Progress, *, device: str) -> dict[str, TaskEmbedding]:
    """Name -> task embedding by the probe of a measure; from the store, or computed (the whole data set, and two halves of it for its self distance)."""
    probe = probe_of(method)
    out: dict[str, TaskEmbedding] = {}
    classifier = None
    for name, dataset in datasets.items():
        found = stored_task(method, dataset, probe, store)
        if found is None:
            classifier = classifier or probe.classifier()
            with progress.counting(f"{method.name}: {name}", 1, "data sets") as done:
                found = _made(method, dataset, probe, classifier, store, device)
                done(1)
        out[name] = found
    return out


def _made(method: TaskEstimator, dataset: Dataset, probe: Extractor, classifier: Any, store: Store, device: str) -> TaskEmbedding:
    from safetensors.numpy import save

    from simkit.extractors.fisher import task_fisher
    from simkit.files import write_bytes

    if dataset.labels is None:
        raise DataError("SK208", dataset.name, f"{method.name} needs labels, {dataset.name} has none", "give labels, or leave the method out")
    rows = method.chosen(dataset.labels, dataset.digests)
    labels = np.asarray(dataset.labels)[rows]
    groups = _units(dataset, rows)
    try:
        made = task_fisher(classifier, lambda position: classifier.preprocessing(dataset.read(int(rows[position]))), labels, groups=groups, halves=True,
                           device=device, **method.fisher_options())
    except SimkitError as error:
        raise type(error)("", "", "", problems=[_placed(problem, dataset.name) for problem in error.problems]) from error
    detail: dict[str, Any] = {"accuracy": made.accuracy, "converged": made.converged, "dead": made.dead, "ignored": len(made.ignored), "of": len(dataset)}
    if made.no_halves:
        detail["no_halves"] = made.no_halves
    name = digest([probe.recipe(), method.embedding_recipe()])  # of the probe, whatever the data set
    key, arrays = task_key(method, dataset, probe), {"fisher": made.fisher} | ({} if made.halves is None else {"halves": made.halves})
    data = save(arrays)
    write_bytes(store.path(KIND, key, ".safetensors"), data)
    store.save_json(KIND, key, {"images": made.images, "classes": made.classes, "probe": name, "detail": detail, "sha256": digest_bytes(data),
                                "recipe": method.embedding_recipe(), "modules": [list(one) for one in made.modules]})
    return TaskEmbedding(made.fisher, made.halves, dataset.name, made.images, made.classes, name, detail)


def _units(dataset: Dataset, rows: np.ndarray) -> list[str] | None:
    """What stays whole in the halves: patients, and copies of an image; None where every image is on its own."""
    _, copies = np.unique(np.array([dataset.digests[int(i)] for i in rows]), return_inverse=True)
    if not dataset.groups and len(set(copies.tolist())) == len(rows):
        return None
    groups = np.unique(np.array([dataset.groups[int(i)] for i in rows]), return_inverse=True)[1] if dataset.groups else copies
    return [str(one) for one in joined(groups, copies)]


def _placed(problem: Any, name: str) -> Any:
    """The problem with the data set's name before its place."""
    from dataclasses import replace

    return problem if problem.where.startswith(name) else replace(problem, where=f"{name}: {problem.where}".rstrip(": "))
