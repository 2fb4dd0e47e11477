"""Task embeddings: the diagonal Fisher information of a probe network whose head was fitted to a data set's labels (Task2Vec).

The probe's own weights stay as they are; only its classification layer is replaced. With p(y|x) the probabilities of the new head, the embedding holds
for each filter of the probe

    F = mean over images x and over the filter's weights w of  E_{y ~ p(y|x)} (d log p(y|x) / d w)^2

which is large where the probe's filter matters for this task (Achille et al. 2019, section 2; the filter means are those of the authors' code).
Gradients are those of single images, never of the mean of a batch.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from simkit.errors import DataError, NotEnoughData, ResourceError, UsageError
from simkit.extractors.classifier import Classifier
from simkit.extractors.gradients import Gradients
from simkit.transport.interruption import go_on

if TYPE_CHECKING:
    import torch

__all__ = ["Head", "Images", "Method", "TaskFisher", "fit_head", "softmax_factor", "split_halves", "task_fisher"]

Images = np.ndarray | Sequence[np.ndarray] | Callable[[int], np.ndarray]
"""Prepared images, uint8 (height, width, 3) all of one shape: a sequence (or array), or a function of the position."""

Method = Literal["exact", "montecarlo"]

MAX_ITERATIONS, TOLERANCE = 5000, 1e-8
"""Of the head; the tolerance is of the largest entry of the gradient of the mean loss."""

ON_CPU, ON_DEVICE = 8, 64
"""Images at a time when no batch size is given."""


@dataclass(frozen=True, eq=False)
class Head:
    """A softmax classification layer, logits = features @ weights + intercepts.

    Attributes:
        weights: float64 (d, C) for raw features.
        intercepts: float64 (C,).
        accuracy: share of the images it was fitted to that it tells right.
        converged: whether the solver met its tolerance.
    """

    weights: np.ndarray
    intercepts: np.ndarray
    accuracy: float
    converged: bool

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Float64 (n, C)."""
        from scipy.special import softmax

        return np.asarray(softmax(features.astype(np.float64) @ self.weights + self.intercepts, axis=1))


@dataclass(frozen=True, eq=False)
class TaskFisher:
    """The task embedding of a data set, and how it came about.

    Attributes:
        fisher: float64 (D,), mean diagonal Fisher information of each channel (filter), not negative.
        halves: float64 (2, D), the same of two halves of the images, each with a head of its own; None where that was not asked for or is not possible.
        no_halves: why there are none, in words; "" where there are, or they were not asked for.
        modules: (name, start, stop) of the modules that take part: their channels are ``fisher[start:stop]``.
        dead: how many channels are exactly zero.
        accuracy: of the head, on the images that it was fitted to.
        converged: whether the solvers of all heads met their tolerance.
        ignored: modules with a weight that take no part, each with the reason; the head is not among them.
        images: that took part.
        classes: with images.
    """

    fisher: np.ndarray
    halves: np.ndarray | None
    no_halves: str
    modules: tuple[tuple[str, int, int], ...]
    dead: int
    accuracy: float
    converged: bool
    ignored: tuple[str, ...]
    images: int
    classes: int

    @property
    def detail(self) -> dict[str, Any]:
        """How the embedding came about, as plain values, for the detail of a task embedding."""
        return {"accuracy": self.accuracy, "converged": self.converged, "dead": self.dead, "modules": len(self.modules), "ignored": list(self.ignored),
                "no_halves": self.no_halves}


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Heads that share the images out among them: ``heads[of[i]]`` is that of image i (-1: of none)."""

    heads: tuple[Head, ...]
    of: np.ndarray


def task_fisher(
    classifier: Classifier, images: Images, labels: np.ndarray, *, groups: Sequence[str] | None = None, halves: bool = False, device: str = "cpu",
    method: Method = "exact", samples: int = 1, penalty: float = 1e-3, batch_size: int = 0, seed: int = 0,
) -> TaskFisher:
    """The diagonal Fisher information of a probe network for the task that a data set's labels state.

    One forward pass makes the features (what the head is given; the whole network in evaluation mode, batch norms with their running statistics); a new
    softmax head is fitted on them (:func:`fit_head`); a second pass over the images takes the gradients. All modules with a weight count that are
    convolutions (grouped ones too), linear layers, batch, layer or group norms, apart from the head: one channel for each filter, or each weight of a
    norm. Whether the gradients that are taken are those of autograd is checked on two images of noise, module by module; modules that fail (weights that
    are standardised before use, or used outside their module, as in torch's attention) are named in ``ignored``. All images weigh the same.

    Args:
        classifier: the probe.
        images: prepared by ``classifier.preprocessing``, in an order that does not depend on how they are stored (montecarlo and halves draw by position).
        labels: (n,) class of each image, of any kind that can be sorted.
        groups: patient of each image: stays whole in the halves.
        halves: whether to compute also the embeddings of two stratified halves; costs about as much again.
        device: where the network runs.
        method: "exact" takes the expectation over the C labels in closed form, by C - 1 backward passes; "montecarlo" draws labels from p(y|x), as the
            paper does, by ``samples`` backward passes.
        samples: labels drawn for each image.
        penalty: ridge of the head, see :func:`fit_head`.
        batch_size: images at a time; 0: 8 on the CPU, 64 elsewhere. Halved where a batch does not fit into the device's memory. Moves no number but the
            last digits.
        seed: of the drawn labels and of the halves.

    Raises:
        UsageError: lengths that differ; a classifier with a layer of its own; method, samples, penalty or batch size out of range.
        NotEnoughData: one class.
        DataError: images of another shape or type than the first; features that are all alike, or NaN.
        ResourceError: the device has no memory for one image.
    """
    labels = np.asarray(labels)
    _check(classifier, images, labels, groups, method=method, samples=samples, penalty=penalty, batch_size=batch_size)
    probe = _Probe(classifier, images, len(labels), device, batch_size or (ON_CPU if device == "cpu" else ON_DEVICE))
    features = probe.features()
    whole = fit_head(features, labels, penalty=penalty, where=classifier.where)
    fitted, reason = [_Fitted((whole,), np.zeros(len(labels), dtype=int))], ""
    if halves:
        split, reason = _half_heads(features, labels, groups, penalty, seed, classifier.where)
        fitted += [split] if split is not None else []
    draws = None
    if method == "montecarlo":  # one stream for each set of heads, so that halves do not move the whole
        draws = [np.random.default_rng([seed, which]).random((len(labels), samples)) for which in range(len(fitted))]
    found = probe.fishers(features, fitted, draws)
    fisher = found[0][0]
    heads = [head for one in fitted for head in one.heads]
    return TaskFisher(
        fisher, found[1] if len(fitted) > 1 else None, reason, probe.gradients.slices, int((fisher == 0).sum()), whole.accuracy,
        all(head.converged for head in heads), probe.gradients.ignored, len(labels), len(np.unique(labels)),
    )


def _check(
    classifier: Classifier, images: Images, labels: np.ndarray, groups: Sequence[str] | None, *, method: str, samples: int, penalty: float, batch_size: int,
) -> None:
    where, n = classifier.where, len(labels)
    if classifier.layer:
        message = f"a task embedding reads what the network's head is given, and layer = '{classifier.layer}' is set"
        raise UsageError("SK108", where, message, "leave layer out")
    if method not in ("exact", "montecarlo") or samples < 1 or not penalty > 0 or batch_size < 0:
        message = f"method = {method!r}, samples = {samples}, penalty = {penalty}, batch_size = {batch_size}: out of range"
        raise UsageError("SK102", where, message, "give exact or montecarlo, samples >= 1, penalty > 0, batch_size >= 0")
    for what, given in (("images", None if callable(images) else images), ("groups", groups)):
        if given is not None and len(given) != n:
            raise UsageError("SK102", where, f"{len(given)} {what} for {n} labels", "give one per image")
    if len(np.unique(labels)) < 2:
        message = f"a task embedding needs at least two classes, the {n} images have {len(np.unique(labels))}"
        raise NotEnoughData("SK501", where, message, "check the label column, or leave the data set out")


def fit_head(features: np.ndarray, labels: np.ndarray, *, penalty: float, where: str = "network") -> Head:
    """A softmax head by multinomial logistic regression: mean cross-entropy + penalty / 2 |weights|².

    The weights of the penalty are those for features centred and divided by one number, the root mean square distance of a row from the mean row, so
    that neither the scale nor the width of a layer moves the fit; intercepts are not penalised. Two classes have two columns like any others.
    Deterministic: the problem is strictly convex.

    Args:
        features: (n, d).
        labels: (n,), at least two kinds.
        penalty: > 0.
        where: for messages.

    Raises:
        DataError: features that are NaN, or all alike.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    rows = np.asarray(features, dtype=np.float64)
    if not np.isfinite(rows).all():
        raise DataError("SK210", where, f"{int((~np.isfinite(rows).all(1)).sum())} images have NaN or infinite features", "check the network's weights")
    centre = rows.mean(0)
    scale = float(np.sqrt(((rows - centre) ** 2).sum(1).mean()))
    if scale <= 1e-9 * float(np.abs(centre).max()):
        message = f"the network gives the same features for all {len(rows)} images"
        raise DataError("SK210", where, message, "choose another probe network, or look at the images")
    classes, index = np.unique(labels, return_inverse=True)
    two = len(classes) == 2  # then scikit-learn has one column, the difference of two
    solver = LogisticRegression(C=(2 if two else 1) / (len(rows) * penalty), tol=TOLERANCE, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        solver.fit((rows - centre) / scale, index)
    converged = int(np.max(solver.n_iter_)) < solver.max_iter
    weights, bias = solver.coef_, solver.intercept_
    if two:
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    weights = weights.T / scale
    bias = bias - centre @ weights
    return Head(weights, bias, float(((rows @ weights + bias).argmax(1) == index).mean()), converged)


def split_halves(labels: np.ndarray, groups: Sequence[str] | None, rng: np.random.Generator) -> np.ndarray:
    """In which of two halves each image is, 0 or 1, (n,): random, whole groups, classes shared out as evenly as groups allow.

    Units (groups, or images) come in random order, large ones first; each goes where there are fewer images of its classes, then where there are fewer.
    """
    _, unit = np.unique(np.arange(len(labels)) if groups is None else np.asarray(groups, dtype=str), return_inverse=True)
    classes, label = np.unique(labels, return_inverse=True)
    counts = np.zeros((int(unit.max()) + 1, len(classes)))
    np.add.at(counts, (unit, label), 1)
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    filled, side = np.zeros((2, len(classes))), np.zeros(len(counts), dtype=int)
    for one in order:
        load = filled @ counts[one]
        if load[0] == load[1]:
            load = filled.sum(1)
        side[one] = int(load[1] < load[0])
        filled[side[one]] += counts[one]
    return np.asarray(side[unit])


def _half_heads(
    features: np.ndarray, labels: np.ndarray, groups: Sequence[str] | None, penalty: float, seed: int, where: str,
) -> tuple[_Fitted | None, str]:
    """A head for each half, or why there is none."""
    side = split_halves(labels, groups, np.random.default_rng([seed, 2]))
    for half in (0, 1):
        own = labels[side == half]
        if len(np.unique(own)) < 2:
            what = f"{len(set(groups))} groups" if groups is not None else f"{len(labels)} images"
            return None, f"{what} cannot be split in two halves that both hold two classes"
    try:
        heads = tuple(fit_head(features[side == half], labels[side == half], penalty=penalty, where=where) for half in (0, 1))
    except DataError as error:
        return None, f"of a half: {error.problems[0].message}"
    return _Fitted(heads, side), ""


def softmax_factor(probabilities: np.ndarray) -> np.ndarray:
    """S (n, C, C - 1) with S S' = diag(p) - p p', the covariance of a one-hot label, for each row p.

    diag(sqrt p) - p sqrt(p)' is such a factor with C columns; it maps sqrt(p) to zero, and the Householder reflection that turns sqrt(p) into the last
    axis therefore leaves its last column zero.
    """
    root = np.sqrt(probabilities)
    normal = root.copy()
    normal[:, -1] += 1.0
    factor = root[:, :, None] * np.eye(root.shape[1]) - probabilities[:, :, None] * root[:, None, :]
    turned = factor - (factor @ normal[:, :, None]) * (2.0 * normal / (normal**2).sum(1, keepdims=True))[:, None, :]
    return np.asarray(turned[:, :, :-1])


def _directions(head: Head, features: np.ndarray, draws: np.ndarray | None) -> np.ndarray:
    """(n, columns, d): gradients of the features whose squares, propagated to the weights and summed, are the Fisher information of each image."""
    p = head.probabilities(features)
    if draws is None:
        return np.asarray(np.einsum("nck,dc->nkd", softmax_factor(p), head.weights))
    drawn = np.minimum((draws[:, :, None] > np.cumsum(p, axis=1)[:, None, :]).sum(2), p.shape[1] - 1)  # (n, samples)
    errors = np.eye(p.shape[1])[drawn] - p[:, None, :]
    return np.asarray(errors @ head.weights.T / np.sqrt(draws.shape[1]))


class _Reached(Exception):
    """The forward pass has come to the head: nothing behind it is needed."""


class _Probe:
    """The network on its device, and the images in batches.

    Attributes:
        gradients: what takes the squared gradients of its modules.
    """

    def __init__(self, classifier: Classifier, images: Images, n: int, device: str, size: int):
        import torch

        self.where, self.pool, self.n, self.size, self.device = classifier.where, classifier.pool, n, size, device
        self.image: Callable[[int], np.ndarray] = images if callable(images) else images.__getitem__
        self.model = copy.deepcopy(classifier.model).eval().requires_grad_(True).to(device)
        self.dtype = next(self.model.parameters()).dtype
        self.mean, self.std = (torch.tensor(one, device=device, dtype=self.dtype).view(1, -1, 1, 1)
                               for one in (classifier.preprocessing.mean, classifier.preprocessing.std))
        self.caught: Any = None
        self.model.get_submodule(classifier.head).register_forward_pre_hook(self._catch)
        self.shape = np.asarray(self.image(0)).shape
        self.gradients = Gradients(self.model, classifier.head)
        noise = np.random.default_rng(0).integers(0, 256, (2, *self.shape), dtype=np.uint8)
        self.gradients.check(lambda: self._forward(self._normalised(noise)))

    def _catch(self, module: Any, inputs: Any) -> None:
        self.caught = inputs[0]
        raise _Reached

    def _normalised(self, pixels: np.ndarray) -> torch.Tensor:
        import torch

        images = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).to(self.dtype).div_(255)
        return ((images - self.mean) / self.std).requires_grad_(torch.is_grad_enabled())

    def _batch(self, rows: range) -> np.ndarray:
        out = np.empty((len(rows), *self.shape), dtype=np.uint8)
        for place, row in enumerate(rows):
            image = np.asarray(self.image(row))
            if image.dtype != np.uint8 or image.shape != self.shape or image.ndim != 3 or image.shape[2] != 3:
                message = f"image {row} is {image.dtype} {image.shape}, wanted uint8 (height, width, 3), all of the shape of image 0, {self.shape}"
                raise DataError("SK203", self.where, message, "prepare the images by classifier.preprocessing")
            out[place] = image
        return out

    def _forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(images, features (n, d)), still joined by the graph."""
        from simkit.extractors.layers import pooled

        try:
            self.model(images)
        except _Reached:
            value, self.caught = self.caught, None
            return images, pooled(value, self.pool, self.where)
        raise UsageError("SK108", self.where, "the network's forward pass does not use its head", "choose another network")

    def features(self) -> np.ndarray:
        """(n, d) of all images."""
        import torch

        def work(rows: range) -> np.ndarray:
            with torch.no_grad():
                return np.asarray(self._forward(self._normalised(self._batch(rows)))[1].cpu().numpy())

        return np.concatenate(self._in_batches(work))

    def fishers(self, features: np.ndarray, fitted: Sequence[_Fitted], draws: Sequence[np.ndarray] | None) -> list[np.ndarray]:
        """Of each set of heads float64 (heads, D): the mean over the images of each head."""
        def work(rows: range) -> list[np.ndarray]:
            own, chosen = features[rows.start : rows.stop], slice(rows.start, rows.stop)
            directions = [_of_heads(one, chosen, own, None if draws is None else draws[which][chosen]) for which, one in enumerate(fitted)]
            squares = self._squares(self._batch(rows), directions)
            return [np.stack([square[one.of[chosen] == k].sum(0) for k in range(len(one.heads))]) for one, square in zip(fitted, squares, strict=True)]

        parts = self._in_batches(work)
        counts = [np.bincount(one.of, minlength=len(one.heads)) for one in fitted]
        return [sum(part[which] for part in parts) / counts[which][:, None] for which in range(len(fitted))]

    def _squares(self, pixels: np.ndarray, directions: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Of each set of directions float64 (n, D): mean squared gradient of each filter's weights, summed over the directions of an image."""
        import torch

        out = [np.zeros((len(pixels), self.gradients.dimension)) for _ in directions]
        with self.gradients.recording(len(pixels)), torch.enable_grad():
            images, features = self._forward(self._normalised(pixels))
            for which, one in enumerate(directions):
                for column in range(one.shape[1]):
                    go_on()
                    seed = one[:, column]
                    size = np.linalg.norm(seed, axis=1)  # gradients are taken at unit length, so that their squares do not underflow
                    if not size.any():
                        continue
                    unit = torch.from_numpy(seed / np.where(size > 0, size, 1.0)[:, None]).to(self.device, self.dtype)
                    torch.autograd.grad(features, images, unit, retain_graph=True)
                    out[which] += self.gradients.taken() * (size**2)[:, None]
        return out

    def _in_batches(self, work: Callable[[range], Any]) -> list[Any]:
        """What ``work`` makes of each batch; batches are halved where they do not fit into the device's memory."""
        import torch

        out, done = [], 0
        while done < self.n:
            go_on()
            rows = range(done, min(done + self.size, self.n))
            try:
                with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                    out.append(work(rows))
            except torch.OutOfMemoryError as error:
                if len(rows) == 1:
                    message = f"the device has no memory for one image ({str(error).splitlines()[0]})"
                    raise ResourceError("SK301", self.where, message, "give --device cpu, or a smaller image_size") from error
                self.size = len(rows) // 2
                self.gradients.clear()
                torch.cuda.empty_cache()
                continue
            done = rows.stop
        return out


def _of_heads(fitted: _Fitted, chosen: slice, features: np.ndarray, draws: np.ndarray | None) -> np.ndarray:
    """Directions of each image by its own head; a head with fewer classes has fewer, and zeros instead."""
    of = fitted.of[chosen]
    made = [(of == k, _directions(head, features[of == k], None if draws is None else draws[of == k])) for k, head in enumerate(fitted.heads)]
    out = np.zeros((len(features), max(one.shape[1] for _, one in made), features.shape[1]))
    for rows, one in made:
        out[rows, : one.shape[1]] = one
    return out
