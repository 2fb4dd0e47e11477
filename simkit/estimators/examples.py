"""Small data sets on which a measure is tried: a target, one near it, one far from it, and two more for the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simkit.dataset import DatasetCard
from simkit.embedding import Embedding
from simkit.estimators.seen import Seen
from simkit.estimators.task_embedding import TaskEmbedding
from simkit.recipe import digest, rng_for

__all__ = ["Examples", "example_cards", "example_embeddings", "example_seen", "example_tasks"]


@dataclass(frozen=True)
class Examples:
    """Data sets on which a measure is tried.

    Attributes:
        target: as the measure reads it: an Embedding, a DatasetCard, a TaskEmbedding; or the target as its own network sees it (a Seen).
        near: a data set near the target.
        far: a data set farther from the target than ``near`` in everything that the measure reads.
        others: more data sets of the run, for measures that are relative to it.
        options: options that the measure needs for these data sets.
    """

    target: Any
    near: Any
    far: Any
    others: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def all(self) -> tuple[Any, ...]:
        return (self.target, self.near, self.far, *self.others)


def example_embeddings(*, options: Mapping[str, Any] | None = None) -> Examples:
    """Gaussian clouds of three classes in eight dimensions, about 60 rows each; ``near`` is shifted by 0.6 and ``far`` by 6 deviations."""
    centres = 2.5 * rng_for("examples", "centres").standard_normal((3, 8))
    direction = np.ones(8) / np.sqrt(8.0)

    def cloud(name: str, sizes: tuple[int, ...], shift: float) -> Embedding:
        rng = rng_for("examples", name)
        labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
        features = centres[labels] + rng.standard_normal((len(labels), 8)) + shift * direction
        return Embedding(features, labels, tuple(f"class {i}" for i in range(len(sizes))), name=name)

    others = cloud("other-1", (18, 22, 20), 2.0), cloud("other-2", (22, 18, 20), 4.0)
    return Examples(cloud("target", (22, 20, 18), 0.0), cloud("near", (20, 19, 21), 0.6), cloud("far", (21, 24, 19), 6.0), others, options or {})


def example_cards(*, options: Mapping[str, Any] | None = None) -> Examples:
    """Cards of five data sets: ``near`` resembles the target in everything that a card holds, ``far`` in nothing."""
    notions = ("domain", "modality", "anatomy", "foreground", "objects", "orientation", "colour", "diversity", "task", "content")
    here = dict(zip(notions, ("medical", "X-ray", "chest", "yes", "multiple", "yes", "grey", "not diverse", "binary", "objects"), strict=True))
    away = dict(zip(notions, ("natural", "photograph", "does not apply", "no", "one", "no", "rich", "diverse", "multi-class", "textures"), strict=True))

    def card(name: str, away_by: float, images: int, counts: tuple[int, ...], side: float, tags: tuple[str, ...]) -> DatasetCard:
        levels = np.linspace(1.0, 2.0, 12) * (1.0 + np.array([[0.0], [0.1], [0.2]]) * (away_by > 0)) * (1.0 + away_by * np.linspace(1.0, 3.0, 12))
        histogram = tuple(tuple(float(v) for v in row) for row in (levels if away_by > 0 else levels[:1]))
        return DatasetCard(
            name=name, fingerprint=digest(name), images=images, class_counts={f"{name} {i}": count for i, count in enumerate(counts)}, groups=0,
            channels=3 if away_by > 0 else 1, grey_share=1.0 - min(away_by, 1.0), height=side, width=1.25 * side, tags=tags,
            attributes=dict(here if away_by < 0.5 else away), histogram=histogram,
        )

    return Examples(
        card("target", 0.0, 1000, (700, 300), 200.0, ("medical", "X-ray", "chest")),
        card("near", 0.1, 1200, (600, 350, 250), 224.0, ("medical", "X-ray", "hand")),
        card("far", 1.0, 50000, (20000, 10000, 8000, 6000, 4000, 1900, 100), 32.0, ("animals", "photograph")),
        (card("other-1", 0.3, 3000, (1000, 800, 700, 500), 128.0, ("medical", "CT")),
         card("other-2", 0.7, 9000, (4000, 3000, 1000, 500, 500), 64.0, ("plants", "photograph"))),
        options or {},
    )


def example_seen(*, options: Mapping[str, Any] | None = None) -> Examples:
    """One target of 72 images in three classes, seen through five networks: its own, which tells the classes apart best, one near it, one far, two more.

    Its features are Gaussian clouds in eight dimensions whose centres are as far apart as the network is good; the heads have four outputs.
    """
    rng = rng_for("examples", "seen")
    labels = rng.permutation(np.repeat(np.arange(3), (26, 24, 22)))
    centres = rng.standard_normal((3, 8))
    noise = rng.standard_normal((len(labels), 8))
    images = tuple(digest(["seen", i]) for i in range(len(labels)))
    answers = np.eye(4)[labels] * 4.0

    def seen(name: str, good: float) -> Seen:
        own = rng_for("examples", "seen", name)
        logits = good * answers + own.standard_normal(answers.shape)
        probabilities = np.exp(logits - logits.max(1, keepdims=True))
        gradients = {"fu": 0.2 + 0.1 * good, "first": 1.0, "later": 0.2 + 0.1 * good}
        return Seen(good * 1.2 * centres[labels] + noise + 0.3 * own.standard_normal(noise.shape), labels, ("a", "b", "c"),
                    probabilities / probabilities.sum(1, keepdims=True), gradients=gradients, images=images, source=name, target="target")

    return Examples(seen("target", 1.6), seen("near", 1.2), seen("far", 0.15), (seen("other-1", 0.9), seen("other-2", 0.5)), options or {})


def example_tasks(*, options: Mapping[str, Any] | None = None) -> Examples:
    """Task embeddings of five data sets in 40 channels; ``near`` has the target's pattern with a little noise, ``far`` another pattern."""
    pattern = np.exp(rng_for("examples", "task").standard_normal(40))
    other = np.exp(rng_for("examples", "other task").standard_normal(40))

    def task(name: str, away: float) -> TaskEmbedding:
        rng = rng_for("examples", "task", name)
        fisher = pattern ** (1 - away) * other**away * np.exp(0.05 * rng.standard_normal((3, 40)))
        fisher[:, 7] = 0.0  # a channel that is dead for all
        return TaskEmbedding(fisher[0], fisher[1:], name, 60, 3, "probe")

    return Examples(task("target", 0.0), task("near", 0.1), task("far", 1.0), (task("other-1", 0.4), task("other-2", 0.7)), options or {})
