"""Task2Vec: how different two labelled data sets are as tasks, by the Fisher information of a probe network fitted to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from simkit.errors import DataError, NotEnoughData, UsageError
from simkit.estimators.base import Known, Score, TaskEstimator
from simkit.estimators.task_embedding import TaskEmbedding
from simkit.networks import file_digest
from simkit.recipe import digest
from simkit.registry import option

__all__ = ["Task2Vec", "cosine_distance", "scaled_cosine_distance"]

INDISTINCT = "not distinguishable from the target"


def cosine_distance(a: np.ndarray, b: np.ndarray) -> float:
    """1 - a'b / (|a| |b|): 0 for vectors of one direction; of vectors that are not negative 1 at most, when they share no channel.

    Args:
        a: (D,).
        b: (D,).

    Raises:
        NotEnoughData: a vector of zeros has no direction.
    """
    one, other = _unit(np.asarray(a, dtype=np.float64)), _unit(np.asarray(b, dtype=np.float64))
    return float(min(2.0, 0.5 * ((one - other) ** 2).sum()))  # exact for near vectors, where 1 - a'b loses all digits


def scaled_cosine_distance(a: np.ndarray, b: np.ndarray, epsilon: float = 1e-8) -> float:
    """The cosine distance of a / (a + b + epsilon) and b / (a + b + epsilon): the channels count alike, however large their information is.

    0 for equal vectors, 1 when they share no channel. It is not invariant to the scale of one vector, and to that of both only without ``epsilon``:
    channels in which both lie below ``epsilon`` hardly count (Achille et al. 2019, section 3, the symmetric distance; ``epsilon`` is that of the authors'
    code).

    Args:
        a: (D,), not negative.
        b: (D,), not negative.
        epsilon: >= 0. Channels that are zero in both take no part.

    Raises:
        NotEnoughData: a vector of zeros has no direction.
    """
    one, other = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    kept = (one > 0) | (other > 0)
    one, other = one[kept], other[kept]
    total = one + other + epsilon
    return cosine_distance(one / total, other / total)


def _unit(vector: np.ndarray) -> np.ndarray:
    largest = float(np.abs(vector).max(initial=0.0))
    if largest == 0.0:
        message = "a task embedding of zeros has no direction"
        raise NotEnoughData("SK502", "task2vec", message, "choose another probe network or a smaller penalty")
    scaled = vector / largest  # squares of small numbers do not underflow
    return np.asarray(scaled / np.linalg.norm(scaled))


@dataclass(frozen=True)
class Task2Vec(TaskEstimator):
    """Distance between two data sets as tasks: between their task embeddings, the diagonal Fisher information of a probe network's filters.

    The same probe is given to both; a new head is fitted to each data set's labels. The embedding says for each filter how much the labels' probabilities
    would change with it: it is large where the filter matters for the task. So it reads images and labels, but neither names nor the number of classes.

    ``scaled-cosine`` (the paper's distance) compares filter by filter, all alike: 0 for equal embeddings, at most 1, when no filter matters for both. It
    grows also with the ratio of the two embeddings' sizes, which is larger for harder labels and less certain heads. ``cosine`` (the seed study's) is the
    angle of the raw embeddings: 0 to 1, invariant to the size of each, and dominated by the filters with the most information. The two may disagree about
    which source is near.

    A value says something only above what two samples of one data set give. So the embedding is made for two halves of each data set as well, each with
    its own head; ``floor`` is the distance between the target's halves, and a pair that is not farther apart than the halves of source and target are is
    flagged. That compares one number with two: it has no stated error rate (in simulations two samples of one law were told apart in 8 to 30 % of cases), so
    read values near the floor as no difference.

    Filters whose information is zero for both data sets (dead filters) take no part and are counted (zero_both); one that is zero for one data set only
    counts like any other (zero_one). The authors' code gives NaN for other distances there.

    It differs from the published code: batch norms are in evaluation mode; the expectation over the labels is exact (``montecarlo`` draws them, as the
    paper does); the head is fitted to the end instead of ten epochs; images weigh alike instead of being drawn by class; of large data sets a fixed,
    stratified sample of ``images`` is taken. The variational embedding of the paper is not computed.

    Symmetric. Cost: for each data set, forward and backward passes over ``images`` images, (C - 1) times (exact) or ``samples`` times (montecarlo), and as
    much again for the halves; a pair costs nothing.
    """

    network: str = option("resnet18", "probe network, of torchvision (resnet18, squeezenet1_1) or of timm (timm:NAME)")
    weights: str = option("imagenet", "of the probe: imagenet, a weight name of torchvision, or random (untrained); for timm pretrained is meant by imagenet")
    checkpoint: None | Path = option(  # noqa: RUF036 - in this order "none" on the command line is nothing, not a file
        None, "local state dict of the probe (.pth, .pt, .safetensors) instead of weights", recipe=False)
    distance: Literal["scaled-cosine", "cosine"] = option("scaled-cosine", "of a / (a + b) and b / (a + b), as the paper; or of the raw embeddings")
    epsilon: float = option(1e-8, "of the scaled cosine, in units of the embedding: a / (a + b + epsilon)", minimum=0)
    method: Literal["exact", "montecarlo"] = option("exact", "expectation over the labels in closed form, or over labels drawn from the head")
    samples: int = option(1, "labels drawn for each image (montecarlo)", minimum=1)
    images: int = option(500, "images of a data set that are read at most, each class by its share; 0: all", minimum=0)
    image_size: int | None = option(None, "short side and centre crop in pixels; empty: as the weights want", minimum=16, maximum=2048)
    penalty: float = option(1e-3, "ridge of the head, on features of unit variance in all (mean loss + penalty / 2 |w|²)", above=0)
    seed: int = option(0, "of the choice of images, the halves, drawn labels and untrained weights", minimum=0)

    name = "task2vec"
    only_by_name = True  # it takes minutes a data set, and the weights of its probe
    bounds = (0.0, 1.0)
    size_biased = True
    unit = "cosine distance of task embeddings"
    formula = "1 − cos(a / (a + b + ε), b / (a + b + ε)),  a and b the diagonal Fisher information of a probe's filters on both tasks"
    hazards = (
        "Values near the floor mean no difference, and that verdict has no stated error rate.",
        "It depends on the probe: `network`, `weights` and `images` must be the same for all pairs, and another probe can rank otherwise.",
        "`distance = scaled-cosine` grows with the ratio of both sizes (harder labels) too, `distance = cosine` is decided by few filters: they can disagree.",
        "It is symmetric: it cannot say that one direction of transfer is better.",
    )
    citation = ("Achille et al. 2019, Task2Vec (arXiv 1902.03545): the diagonal Fisher information, section 2, and the symmetric distance, section 3; "
                "filter means and epsilon by the authors' code; cosine of raw embeddings by Cheplygina et al. 2021 (arXiv 2107.05940)")

    def recipe(self) -> dict[str, Any]:
        """Options; a weights file by its digest, never by its path."""
        return super().recipe() | ({} if self.checkpoint is None else {"weights": file_digest(self.checkpoint)})

    def probe(self) -> dict[str, dict[str, Any]]:
        """The probe network as extractors are written in a study file: name -> options.

        Raises:
            UsageError: a weight name of torchvision for a network of timm.
        """
        size: dict[str, Any] = {} if self.image_size is None else {"image_size": self.image_size}
        if self.checkpoint is not None:
            whole = {} if self.image_size is None else {"resize": self.image_size}  # nothing is cut off, as with named weights
            return {"checkpoint": {"network": self.network, "path": str(self.checkpoint), **size, **whole}}
        seed = {"seed": self.seed} if self.weights == "random" else {}
        if not self.network.startswith("timm:"):
            return {"torchvision": {"network": self.network, "weights": self.weights, **size, **seed}}
        named = {"imagenet": "pretrained", "pretrained": "pretrained", "random": "random"}
        if self.weights not in named:
            message = f"'{self.weights}' is no weights of a network of timm"
            fix = f"give imagenet, random or a file; other weights of timm have names of their own, such as {self.network}.a1_in1k"
            raise UsageError("SK101", f"{self.name}.weights", message, fix)
        return {"timm": {"model": self.network.removeprefix("timm:"), "weights": named[self.weights], **size, **seed}}

    def embedding_recipe(self) -> dict[str, Any]:
        """The options that make the embedding: all but those of the distance, and without ``samples`` where nothing is sampled."""
        without = {"distance", "epsilon", *(() if self.method == "montecarlo" else ("samples",))}
        return {name: value for name, value in self.recipe().items() if name not in without}

    def fisher_options(self) -> dict[str, Any]:
        """How the Fisher information is computed: options of ``task_fisher``."""
        return {"method": self.method, "samples": self.samples, "penalty": self.penalty, "seed": self.seed}

    def missing(self, known: Known, role: Literal["source", "target"]) -> str:
        """Why the measure cannot be computed: no labels, several an image, fewer than two classes."""
        if reason := super().missing(known, role):
            return reason
        present = [name for name, count in known.class_counts.items() if count > 0]
        return f"{self.name} needs at least two classes with images, {known.name} has {len(present)}" if len(present) < 2 else ""

    def chosen(self, labels: Sequence[Any] | np.ndarray, digests: Sequence[str]) -> np.ndarray:
        """Positions of the images that are read, in the order of their content: all, or a random sample that keeps the classes' shares.

        Depends on content, labels and seed only: neither on the order of the images nor on the names of the classes. Every class keeps at least two
        of its images (all of them, where it has fewer), so that with many classes there can be more than ``images``.

        Args:
            labels: (n,) class of each image.
            digests: of each image's content.

        Raises:
            UsageError: lengths that differ.
        """
        if len(labels) != len(digests):
            raise UsageError("SK102", self.name, f"{len(labels)} labels for {len(digests)} images", "give one per image")
        names = np.asarray(digests)
        _, index = np.unique(np.asarray(labels), return_inverse=True)
        order = np.lexsort((index, names))
        if self.images == 0 or len(order) <= self.images:
            return order
        lots = np.array([digest([self.name, self.seed, str(name)]) for name in names.tolist()])  # an image's lot does not depend on the others
        take = _shares(np.bincount(index), self.images, [min(lots[index == k].tolist()) for k in range(int(index.max()) + 1)])
        kept = np.zeros(len(order), dtype=bool)
        for k, count in enumerate(take):
            own = np.flatnonzero(index == k)
            kept[own[np.argsort(lots[own], kind="stable")[:count]]] = True
        return order[kept[order]]

    def compare(self, source: TaskEmbedding, target: TaskEmbedding, rng: np.random.Generator) -> Score:
        """The distance of two embeddings; ``rng`` is not used.

        Raises:
            UsageError: embeddings of different probes (SK109).
            DataError: NaN, infinite or negative values (SK210).
            NotEnoughData: an embedding of zeros (SK502).
        """
        for one in (source, target):
            _check(one)
        if len(source.fisher) != len(target.fisher) or source.probe != target.probe:
            message = f"task embeddings of different probes cannot be compared: '{source.name}' has {len(source.fisher)} channels, '{target.name}' "
            raise UsageError("SK109", self.name, f"{message}{len(target.fisher)}", "compute both with the same probe network and options")
        value = self._between(source.fisher, target.fisher)
        selves = [self._of_halves(one) for one in (source, target)]
        zero = (source.fisher == 0).astype(int) + (target.fisher == 0)
        sides = (source, target)
        detail: dict[str, Any] = {
            "n": tuple(one.images for one in sides), "d": len(target.fisher), "classes": tuple(one.classes for one in sides),
            "zero_both": int((zero == 2).sum()), "zero_one": int((zero == 1).sum()), "self_distance": tuple(selves),
            "total": tuple(float(one.fisher.sum()) for one in sides), "distance": self.distance,
            **({"epsilon": self.epsilon} if self.distance == "scaled-cosine" else {}),
            **{what: tuple(one.detail.get(what) for one in sides) for what in ("accuracy", "converged", "ignored") if any(what in one.detail for one in sides)},
        }
        converged = all(bool(one.detail.get("converged", True)) for one in sides)
        return Score(value, converged, detail, floor=selves[1], flags=self._flags(sides, value, selves))

    def _between(self, a: np.ndarray, b: np.ndarray) -> float:
        distance = cosine_distance(a, b) if self.distance == "cosine" else scaled_cosine_distance(a, b, self.epsilon)
        return min(1.0, distance)

    def _of_halves(self, one: TaskEmbedding) -> float | None:
        if one.halves is None or not one.halves.any(axis=1).all():
            return None
        return self._between(one.halves[0], one.halves[1])

    def _flags(self, sides: tuple[TaskEmbedding, TaskEmbedding], value: float, selves: list[float | None]) -> tuple[str, ...]:
        flags = []
        for one, own in zip(sides, selves, strict=True):
            if own is None:
                what = "no floor" if one is sides[1] else f"no self distance of {one.name}"
                reason = "a half's embedding is zero" if one.halves is not None else one.detail.get("no_halves") or "there are no embeddings of its halves"
                flags.append(f"{what}: {reason}")
        known = [own for own in selves if own is not None]
        if known and value <= max(known):
            flags.append(INDISTINCT)
        flags += [f"a head of {one.name} did not converge" for one in sides if not one.detail.get("converged", True)]
        return tuple(dict.fromkeys(flags))


def _shares(counts: np.ndarray, total: int, ties: Sequence[str]) -> np.ndarray:
    """How many images of each class are taken: its share of ``total`` by largest remainders, but two at least (where it has two).

    Args:
        counts: (C,) images of each class.
        total: to be taken.
        ties: (C,) what decides between equal remainders.
    """
    share = total * counts / counts.sum()
    take = np.minimum(counts, np.maximum(np.floor(share).astype(int), 2))
    for k in sorted(range(len(counts)), key=lambda k: (np.floor(share[k]) - share[k], ties[k])):
        if take.sum() < total and take[k] < counts[k]:
            take[k] += 1
    return np.asarray(take)


def _check(one: TaskEmbedding) -> None:
    parts = [one.fisher] if one.halves is None else [one.fisher, one.halves]
    for part in parts:
        if not np.isfinite(part).all():
            raise DataError("SK210", one.name, "the task embedding holds NaN or infinite values", "compute it again")
        if (part < 0).any():
            raise DataError("SK210", one.name, f"the task embedding holds negative values (smallest {part.min():.3g}), Fisher information has none",
                            "compute it again")
    if not one.fisher.any():
        message = f"the task embedding is zero in all {len(one.fisher)} channels"
        raise NotEnoughData("SK502", one.name, message, "choose another probe network or a smaller penalty")
