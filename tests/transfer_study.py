"""A tiny transfer study on drawn images: what the transfer tests run, in this process and in processes that they kill."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from simkit.dataset import Dataset
from simkit.files import write_json
from simkit.recipe import digest_bytes, rng_for
from simkit.transfer import Protocol, TransferResult, plan_units, run_units


class ArrayReader:
    """Images that lie in memory."""

    def __init__(self, images: np.ndarray):
        self.images = images

    def read(self, index: int) -> np.ndarray:
        return self.images[index]

    def digest(self, index: int) -> str:
        return digest_bytes(str(self.images[index].shape).encode(), self.images[index].tobytes())


class FolderResults:
    """The smallest store there is: JSON and binary files in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def load_json(self, kind: str, key: str) -> dict[str, Any] | None:
        path = self.path(kind, key, ".json")
        return json.loads(path.read_text()) if path.is_file() else None

    def save_json(self, kind: str, key: str, value: dict[str, Any]) -> None:
        write_json(self.path(kind, key, ".json"), value)

    def path(self, kind: str, key: str, suffix: str) -> Path:
        return self.folder / kind / f"{key}{suffix}"


def drawn(name: str, n: int = 24, classes: int = 2, *, side: int = 32, channels: int = 1, seed: int = 0, noise: float = 30.0, **parts: Any) -> Dataset:
    """n images with stripes whose direction and width are the class, plus noise."""
    rng = rng_for("drawn", name, seed)
    labels = np.arange(n) % classes
    y, x = np.mgrid[0:side, 0:side]
    images = []
    for label in labels:
        angle = np.pi * label / classes
        stripes = 128 + 90 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * (0.6 + 0.3 * seed) + rng.uniform(0, 6.28))
        images.append(np.clip(stripes[..., None] + rng.normal(0, noise, (side, side, channels)), 0, 255).astype(np.uint8))
    keys, names = tuple(f"{name}/{i}" for i in range(n)), tuple(f"stripes{c}" for c in range(classes))
    return Dataset(name, keys, ArrayReader(np.stack(images)), labels=labels, classes=names, **parts)


PROTOCOL = Protocol(
    network="shufflenet_v2_x0_5", image_size=32, folds=2, pretrain_epochs=3, finetune_epochs=3, batch_size=8, sources=("scratch",), device="cpu",
)


def study(
    folder: Path, *, progress: Callable[[str], None] | None = None, jobs: int = 1, cluster: str | None = None, results: FolderResults | None = None,
    protocol: Protocol = PROTOCOL, **datasets: Dataset,
) -> TransferResult:
    """Every data set but ``target`` is a source; ``target`` is the target."""
    datasets = datasets or {"source": drawn("source", 16, 3, seed=1), "target": drawn("target", 12)}
    plan = plan_units(protocol, datasets, [name for name in datasets if name != "target"], ["target"], 1, results or FolderResults(folder))
    return run_units(plan, progress=progress, jobs=jobs, cluster=cluster)


def study_killed_at(folder: Path, moment: int) -> None:
    """The study in a process that ends itself by SIGKILL at its ``moment``-th event: a step of training, or a write, flush or rename of a file.

    Each step that is taken adds a byte to the file ``steps``; the process that comes through writes the file ``events``.
    """
    import torch

    count = 0
    steps = (folder / "steps").open("ab", buffering=0)

    def before(call: Callable[..., Any], note: Callable[[bytes], Any] = len) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            note(b".")
            return call(*args, **kwargs)

        return counted

    os.write, os.fsync, os.replace = before(os.write), before(os.fsync), before(os.replace)
    torch.Tensor.backward = before(torch.Tensor.backward, steps.write)  # type: ignore[method-assign]
    study(folder)
    (folder / "events").write_text(str(count))
