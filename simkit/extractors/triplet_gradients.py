"""Backward passes through a source's network: the gradients that a target's labels send to its first two convolutions (the FU of LP x FU)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from simkit.errors import DataError, NotEnoughData, ResourceError, UsageError
from simkit.extractors.classifier import Classifier
from simkit.extractors.layers import channels_last_layer, layer_of, pooled
from simkit.recipe import digest_bytes, rng_for
from simkit.transport.interruption import go_on

if TYPE_CHECKING:
    import torch

__all__ = ["GRADIENTS_VERSION", "MARGIN", "gradient_layers", "gradient_norms", "triplet_batches", "triplet_gradient"]

GRADIENTS_VERSION = 1
"""Part of the recipe of gradient norms: raised with every change that moves one."""

MARGIN = 0.05
"""By which an image of another class should be farther off than one of the same class, on features of length 1 (Juodelyte et al. 2024, their code)."""

SMALLEST = 8
"""Fewest images in a batch, where there are as many."""


def triplet_gradient(rows: np.ndarray, labels: np.ndarray, *, margin: float = MARGIN) -> tuple[float, np.ndarray, int]:
    """Triplet loss of a batch, its gradient with respect to the rows (n, d) float64, and the number of triplets with a loss above zero.

    L = mean, over the triplets (a, p, q) with y_p = y_a, y_q != y_a whose term is above zero, of max(0, |z_a - z_p| - |z_a - z_q| + margin), with
    z = x / |x|. All triplets of the batch take part. Without a term above zero loss and gradient are zero. The distance of equal rows has gradient zero.

    Args:
        rows: (n, d).
        labels: (n,) whole numbers.
        margin: in units of the rows' length 1.
    """
    from scipy.spatial.distance import cdist

    x = np.asarray(rows, dtype=np.float64)
    lengths = np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    z = x / lengths
    distances = cdist(z, z)
    weights, total, active = np.zeros_like(distances), 0.0, 0
    for anchor in range(len(x)):
        same = labels == labels[anchor]
        others = np.flatnonzero(~same)
        same[anchor] = False
        alike = np.flatnonzero(same)
        terms = distances[anchor][alike][:, None] - distances[anchor][others] + margin
        above = terms > 0
        weights[anchor, alike] += above.sum(1)
        weights[anchor, others] -= above.sum(0)
        total += float(terms[above].sum())
        active += int(above.sum())
    if not active:
        return 0.0, np.zeros_like(x), 0
    slopes = np.divide(weights + weights.T, distances * active, out=np.zeros_like(distances), where=distances > 0)
    along = slopes.sum(1, keepdims=True) * z - slopes @ z
    return total / active, (along - z * (z * along).sum(1, keepdims=True)) / lengths, active


def triplet_batches(labels: np.ndarray, *, batches: int, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows of each batch: a stratified sample without replacement, dealt so that images of a class lie in pairs in a batch.

    Classes are taken in proportion, at least two images of each where there are two. A batch holds at least 8 images, and two of each class, as far as
    ``batch_size`` allows: of few images there are fewer batches.

    Args:
        labels: (n,) whole numbers.
        batches: at most so many.
        batch_size: at most so many rows in one.
        rng: random numbers.
    """
    n, sizes = len(labels), np.bincount(labels)
    least = max(min(SMALLEST, batch_size), min(batch_size, 2 * int((sizes > 0).sum())))
    count = max(1, min(batches, n // least))
    order = np.concatenate([rng.permutation(np.flatnonzero(labels == c)) for c in range(len(sizes))])
    wanted = _shares(sizes, min(n, count * batch_size))
    units: list[np.ndarray] = []
    for c in rng.permutation(np.flatnonzero(sizes)):
        start = int(sizes[:c].sum())
        units += np.array_split(order[start : start + wanted[c]], max(1, int(wanted[c]) // 2))  # pairs; of an odd number one of three
    out: list[list[int]] = [[] for _ in range(count)]
    for number, unit in enumerate(units):
        out[number % count] += unit.tolist()
    return [np.array(rows[:batch_size]) for rows in out if rows]


def _shares(sizes: np.ndarray, room: int) -> np.ndarray:
    """How many of each class: in proportion, rounded to the largest remainders, at least two where the class has them."""
    share = sizes * (room / sizes.sum())
    out = np.maximum(np.floor(share).astype(int), np.minimum(sizes, 2))
    for place in np.argsort(out - share, kind="stable")[: max(0, room - int(out.sum()))]:
        out[place] += out[place] < sizes[place]
    return np.asarray(out)


def gradient_layers(model: torch.nn.Module, *, first: str = "", later: str = "", where: str = "network") -> tuple[str, str]:
    """Names of the two layers whose gradients are compared.

    By default the first two convolutions in the order of ``named_modules``: conv1 and layer1.0.conv1 of a ResNet, as published for nine architectures.

    Raises:
        UsageError: no such layer (SK101), one without weights, twice the same, or a network with fewer than two convolutions (SK108).
    """
    from torch import nn

    found = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    for name, what in ((first, "first"), (later, "later")):
        if name and getattr(layer_of(model, name, f"{where}.{what}"), "weight", None) is None:
            message = f"{type(model).__name__}'s module '{name}' has no weights of its own"
            example = f": {', '.join(found[:4])}" if found else ""
            raise UsageError("SK108", f"{where}.{what}", message, f"name a convolution or a linear layer{example}")
    if first and first == later:
        raise UsageError("SK108", where, f"first and later are the same layer '{first}'", "name two different layers")
    after = found[found.index(first) + 1 :] if first in found else found
    one = first or next((name for name in found if name != later), "")
    two = later or next((name for name in after if name != one), "")
    if not one or not two:
        message = f"{type(model).__name__} has {len(found)} convolution{'' if len(found) == 1 else 's'}, the ratio of gradients needs two layers"
        raise UsageError("SK108", where, message, "name two layers with weights: first = ..., later = ...")
    return one, two


def gradient_norms(
    classifier: Classifier, images: Sequence[np.ndarray], labels: np.ndarray, *, device: str = "cpu", names: Sequence[str] | None = None, batches: int = 6,
    batch_size: int = 32, first: str = "", later: str = "", seed: int = 0,
) -> dict[str, Any]:
    """Norms of the gradients of a triplet loss with respect to the weights of two layers, and their ratio.

    fu = sum_b |dL_b/dW_later| / sum_b |dL_b/dW_first| over batches b: the ratio of the mean norms, as in the published code (not a mean of ratios).
    The loss is that of :func:`triplet_gradient` on the network's features (by default what its head is given), with batch norms as in evaluation. The
    backward pass starts from its closed form in float64, so that it is the same on every device; convolutions are computed in float32, deterministically.

    Batches follow from ``seed`` and the images' digests alone: neither the order of the images nor the names of the classes nor the network moves them. They
    differ from the published ones, which follow the order of the files and hold a sixth of the data each (and a seventh the remainder).

    The classifier's model stays as it is: a copy works.

    Args:
        classifier: of the source.
        images: of the target as ``classifier.preprocessing`` gives them, uint8 (crop, crop, 3); only those that are drawn are read.
        labels: (n,) class of each, whole numbers.
        device: cpu, cuda, cuda:1, mps.
        names: digest of each image; None: made here, for which all are read.
        batches: at most so many.
        batch_size: images in a batch, at most.
        first: layer of the denominator; empty: the first convolution.
        later: layer of the numerator; empty: the second convolution.
        seed: of the sample.

    Returns:
        fu; first and later, the mean norms; first_layer and later_layer, names; loss, mean; batches with a loss above zero; batches_drawn; images;
        triplets with a term above zero.

    Raises:
        UsageError: see :func:`gradient_layers`; the features do not depend on a layer; lengths that differ; images that were not prepared.
        DataError: the network gives NaN.
        NotEnoughData: no triplet (one class, or no two images of a class in a batch), or no gradient: every image is nearer to all of its class.
        ResourceError: the batch does not fit into the device's memory.
    """
    where = classifier.where
    if len(images) != len(labels) or (names is not None and len(names) != len(labels)):
        raise UsageError("SK102", where, f"{len(images)} images, {len(labels)} labels, {len(labels if names is None else names)} names", "give one an image")
    if batches < 1 or batch_size < 3:
        raise UsageError("SK102", where, f"{batches} batches of {batch_size} images", "give at least one batch of three")
    order, classes = _canonical(images, np.asarray(labels), names)
    chosen = triplet_batches(classes, batches=batches, batch_size=batch_size, rng=rng_for("gradients", seed))
    network = _Backward(classifier, device, gradient_layers(classifier.model, first=first, later=later, where=where))
    rows = []
    for batch in chosen:
        go_on()
        found = network.norms(_prepared([images[int(order[i])] for i in batch], classifier), classes[batch])
        rows += [found] if found[3] else []
    norms = np.array(rows, dtype=np.float64).reshape(-1, 4)
    _check(norms, [classes[batch] for batch in chosen], network.layers[0], where)
    return {
        "fu": float(norms[:, 1].sum() / norms[:, 0].sum()), "first": float(norms[:, 0].mean()), "later": float(norms[:, 1].mean()),
        "first_layer": network.layers[0], "later_layer": network.layers[1], "loss": float(norms[:, 2].mean()), "batches": len(rows),
        "batches_drawn": len(chosen), "images": int(sum(len(batch) for batch in chosen)), "triplets": int(norms[:, 3].sum()),
    }


def _prepared(images: Sequence[np.ndarray], classifier: Classifier) -> np.ndarray:
    """The images of a batch, uint8 (n, crop, crop, channels)."""
    wanted = (classifier.preprocessing.crop, classifier.preprocessing.crop, len(classifier.preprocessing.mean))
    for one in images:
        if one.shape != wanted or one.dtype != np.uint8:
            message = f"an image has shape {one.shape} and type {one.dtype}, the network takes {wanted} of uint8"
            raise UsageError("SK102", classifier.where, message, "give what classifier.preprocessing makes of each image")
    return np.stack(images)


def _check(norms: np.ndarray, batches: Sequence[np.ndarray], first: str, where: str) -> None:
    """Refuses batches from which no gradient reaches the first layer, saying why."""
    if norms[:, 0].sum() > 0:
        return
    drawn = f"{len(batches)} batch{'es' if len(batches) > 1 else ''} of up to {max(len(batch) for batch in batches)} images"
    if not any(len(np.unique(batch)) > 1 and int(np.bincount(batch).max()) > 1 for batch in batches):
        message = f"{drawn} hold no two images of a class with one of another"
        raise NotEnoughData("SK501", where, message, "give at least two classes of two images, and a larger batch size")
    if not len(norms):
        message = f"in {drawn} every image is nearer to all of its class than to any other by the margin of {MARGIN}: the loss is 0, and so are all gradients"
        raise NotEnoughData("SK502", where, message, "there is nothing that this network would change: leave the source out, or take lp alone")
    raise NotEnoughData("SK502", where, f"no gradient reaches '{first}' from {drawn}", "name another layer: first = ...")


def _canonical(images: Sequence[np.ndarray], labels: np.ndarray, names: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """Order of the images by their digests (equal ones: as given), and the class of each in that order, numbered by its first image."""
    keys = [digest_bytes(str(one.shape).encode(), one.tobytes()) for one in images] if names is None else [str(name) for name in names]
    order = np.argsort(np.array(keys), kind="stable")
    _, place, number = np.unique(labels[order], return_index=True, return_inverse=True)
    return order, np.argsort(np.argsort(place))[number]


class _Backward:
    """A copy of a classifier's network on a device, from whose features gradients flow back to two weights."""

    def __init__(self, classifier: Classifier, device: str, layers: tuple[str, str]):
        import torch

        self.layers, self.device, self.classifier = layers, torch.device(device), classifier
        self.model = copy.deepcopy(classifier.model).eval().requires_grad_(False).to(self.device)
        self.weights: list[Any] = [self.model.get_submodule(name).weight.requires_grad_(True) for name in layers]
        self.caught: Any = None
        layer = classifier.layer
        self.channels_last = channels_last_layer(self.model, layer) if layer else False
        if layer:
            layer_of(self.model, layer, classifier.where).register_forward_hook(lambda _, __, output: self._catch(output))
        else:
            self.model.get_submodule(classifier.head).register_forward_pre_hook(lambda _, inputs: self._catch(inputs[0]))
        shape = (1, -1, 1, 1)
        self.mean, self.std = (torch.tensor(value, device=self.device).view(shape) for value in (classifier.preprocessing.mean, classifier.preprocessing.std))

    def _catch(self, value: Any) -> None:
        value = value[0] if isinstance(value, (tuple, list)) else value
        self.caught = value.clone()  # an operation that comes later may work in place

    def norms(self, batch: np.ndarray, labels: np.ndarray) -> tuple[float, float, float, int]:
        """|dL/dW_first|, |dL/dW_later|, L and the number of triplets of one batch, uint8 (n, height, width, 3)."""
        import torch

        where = self.classifier.where
        try:
            with torch.enable_grad(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                pixels = torch.from_numpy(batch).to(self.device)
                self.model((pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std)
                if self.caught is None:
                    message = f"'{self.classifier.layer}' is not computed when the network classifies"
                    raise UsageError("SK108", f"{where}.layer", message, "choose another layer")
                features, self.caught = pooled(self.caught, self.classifier.pool, where, channels_last=self.channels_last), None
                values = features.detach().cpu().double().numpy()
                if not np.isfinite(values).all():
                    raise DataError("SK210", where, "the network gives NaN or infinite features", "use other weights")
                loss, gradient, active = triplet_gradient(values, labels)
                start = torch.from_numpy(gradient).to(dtype=features.dtype).to(self.device)
                found = torch.autograd.grad(features, self.weights, start, allow_unused=True)
        except torch.OutOfMemoryError as error:
            fix = "give a smaller batch, smaller images (image_size), or --device cpu"
            raise ResourceError("SK301", str(self.device), f"out of memory with the gradients of a batch of {len(batch)} images", fix) from error
        for name, one in zip(self.layers, found, strict=True):
            if one is None:
                fix = "name layers that come before that of the features"
                raise UsageError("SK108", where, f"the features do not depend on layer '{name}'", fix)
        first, later = (float(one.cpu().double().norm()) for one in found)
        return first, later, loss, active
