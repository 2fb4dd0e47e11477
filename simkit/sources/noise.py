"""Pictures of noise: a data set that resembles nothing, which is what the ceilings of scores are measured with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simkit.dataset import Dataset
from simkit.recipe import rng_for
from simkit.registry import option
from simkit.sources.arrays import ArrayReader
from simkit.sources.base import Source

__all__ = ["Noise"]

CLASSES = ("blobs", "grey noise", "colour noise", "stripes")


@dataclass(frozen=True)
class Noise(Source):
    """Synthetic pictures of four kinds (colour noise, grey noise, soft blobs, stripes), which show no object, texture or organ.

    The same options give the same pictures everywhere.
    """

    name = "noise"

    images: int = option(256, "number of pictures, in equal shares of the four classes", minimum=8)
    size: int = option(64, "side of a picture in pixels", minimum=8)
    seed: int = option(0, "of the pictures", minimum=0)

    def load(self, name: str, base: Path) -> Dataset:
        """See :meth:`Source.load`; ``base`` plays no part."""
        labels = np.arange(self.images) % len(CLASSES)
        pictures = tuple(self._picture(CLASSES[label], rng_for("noise", self.seed, self.size, i)) for i, label in enumerate(labels))
        keys = tuple(f"noise {i}" for i in range(self.images))
        return Dataset(name, keys, ArrayReader(pictures), labels.astype(np.int64), CLASSES, None, tags=("noise",), attributes={}, origin="noise")

    def _picture(self, kind: str, rng: np.random.Generator) -> np.ndarray:
        side = self.size
        if kind == "grey noise":
            return rng.integers(0, 256, (side, side, 1), dtype=np.uint8)
        if kind == "colour noise":
            return rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        y, x = np.mgrid[0:side, 0:side] / side
        waves = 3 if kind == "blobs" else 1
        levels = np.zeros((side, side, 3))
        for channel in range(3):
            for _ in range(waves):
                angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
                frequency = rng.uniform(1.0, 3.0) if kind == "blobs" else rng.uniform(4.0, 16.0)
                levels[:, :, channel] += np.sin(2 * np.pi * frequency * (np.cos(angle) * x + np.sin(angle) * y) + phase) / waves
        return np.clip(np.round(127.5 * (1.0 + levels)), 0, 255).astype(np.uint8)
