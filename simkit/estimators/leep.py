"""LEEP: log expected empirical prediction of the target's labels from the outputs of the source's head (Nguyen et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from simkit.errors import NotEnoughData
from simkit.estimators.base import Score
from simkit.estimators.fitted_head import HeadEstimator

__all__ = ["Leep", "chance_gain", "effective_outputs", "label_entropy", "leep", "output_evidence"]

NOTABLE = 0.1
"""Share of the entropy of the labels from which what chance gives is flagged."""


def _rows_of_classes(labels: np.ndarray) -> Iterator[np.ndarray]:
    order = np.argsort(labels, kind="stable")
    return iter(np.split(order, np.cumsum(np.bincount(labels))[:-1]))


def leep(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """``(1/n) sum_i log sum_z P(y_i | z) theta_i(z)``, P(y | z) from the joint ``P(y, z) = (1/n) sum_i theta_i(z) [y_i = y]``.

    No argument of the logarithm is 0: P(y_i | z) is at least theta_i(z) / n. An output that no image has plays no part.

    Args:
        probabilities: theta, (n, C_s), rows of sum 1.
        labels: y, (n,), class index 0..C-1, every class present.
    """
    classes = list(_rows_of_classes(labels))
    joint = np.stack([probabilities[rows].sum(0) for rows in classes])
    total = joint.sum(0)
    conditional = np.divide(joint, total, out=np.zeros_like(joint), where=total > 0)
    logs = sum(float(np.log(probabilities[rows] @ row).sum()) for rows, row in zip(classes, conditional, strict=True))
    return min(0.0, logs / len(labels))


def label_entropy(labels: np.ndarray) -> float:
    """Entropy H(Y) of the labels in nats."""
    shares = np.bincount(labels) / len(labels)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def effective_outputs(probabilities: np.ndarray) -> float:
    """``sum_z sum_i theta_i(z)² / sum_i theta_i(z)``: 1 for a head that says the same of all images, the outputs in use for one that is always certain.

    The trace of the matrix that makes expected predictions of labels: the degrees of freedom with which the joint fits any labels.
    """
    squares, total = np.einsum("ij,ij->j", probabilities, probabilities), probabilities.sum(0)
    return float(np.divide(squares, total, out=np.zeros_like(total), where=total > 0).sum())


def chance_gain(outputs: float, classes: int, n: int) -> float:
    """By how much LEEP or NCE lies above -H(Y) for labels that have nothing to do with the outputs, in nats, at least: (C - 1)(outputs - 1) / (2 n).

    Of a head that is always certain it is the bias of the plug-in entropy (Miller 1955); of others the expansion of LEEP to the second order gives
    between this and twice this.
    """
    return (classes - 1) * max(0.0, outputs - 1) / (2 * n)


def output_evidence(
    outputs: float, columns: int, labels: np.ndarray, *, method: str, target: str, what: str = "outputs",
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What stands beside a score of outputs against labels: sizes, H(Y), what chance gives; and the flag where that is much.

    Args:
        outputs: effective number of outputs.
        columns: outputs of the head.
        labels: (n,), classes 0..C-1 all present.
        method: name of the measure, for messages.
        target: name of the data set, for messages.
        what: what the outputs are called.

    Raises:
        NotEnoughData: one class (SK501).
    """
    n, classes, entropy = len(labels), int(labels.max()) + 1, label_entropy(labels)
    if classes < 2:
        message = f"{method} is undefined for one class, all {n} images of {target} have the same"
        raise NotEnoughData("SK501", target, message, "check the label column, or give more images")
    gain = chance_gain(outputs, classes, n)
    flags = []
    if columns < 2:
        flags.append("a head of one output says nothing: -H(Y), whatever the labels")
    elif gain > NOTABLE * entropy:
        flags.append(f"{n} images for {outputs:.0f} {what} in use and {classes} classes: chance gives about {min(1.0, gain / entropy):.0%} of H(Y) or more")
    detail = {"n": n, "classes": classes, "outputs": columns, "label_entropy": entropy, "effective_outputs": outputs, "chance_gain": gain}
    return detail, tuple(flags)


@dataclass(frozen=True)
class Leep(HeadEstimator):
    """LEEP: how well the outputs of the source's head, translated into the target's classes, predict the target's labels.

    ``(1/n) sum_i log sum_z P(y_i | z) theta_i(z)``: theta_i(z) is the probability that the source's head gives image i of being of source class z,
    P(y | z) the target classes' shares of output z, from the joint distribution ``P(y, z) = (1/n) sum_i theta_i(z) [y_i = y]``. A mean log-likelihood in
    nats, from -H(Y) (outputs that say nothing about the labels; H(Y) <= log C, the entropy of the labels; by Jensen's inequality no value is
    lower) to 0 (outputs that name the class). Higher is better. Nothing is fitted, so it is evaluated on the images that the joint is made of: labels that
    mean nothing give more than -H(Y), by about (C - 1)(m - 1) / (2 n) or more, m the effective number of outputs; a flag says where that is much.

    ``head = knn`` or ``logistic`` is a bridge for sources without a network, and simkit's own, not Nguyen's: a head is fitted to the source's features
    in the common space (``knn``: shares of the source classes among the k nearest source images; ``logistic``: multinomial logistic regression), and
    theta is what it says of the target's images. It then reads two embeddings, and needs labels of both.

    The detail holds n, d, classes, outputs (C_s), label_entropy H(Y), effective_outputs m, chance_gain, head.
    """

    name = "leep"
    bounds = (None, 0.0)
    unit = "nats (mean log-likelihood)"
    formula = "(1/n) Σ_i ln Σ_z P(y_i | z) θ_i(z),  P(y | z) from P(y, z) = (1/n) Σ_i θ_i(z) [y_i = y]"
    hazards = (
        "Labels without meaning gain about (C − 1)(m − 1) / (2 n) for m effective outputs: sources with many classes look better at small n (flag).",
        "It reads the head, not the features: good features under a head of other classes score low.",
        "`head = knn` and `head = logistic` are simkit's own, not the published measure: do not mix them with `head = network`.",
        "Values compare on one target only: the lowest is minus the entropy of its labels.",
    )
    citation = ("Nguyen, Hassner, Seeger and Archambeau 2020, LEEP: a new measure to evaluate transferability of learned representations "
                "(arXiv 2002.12462), eq. 2")

    def score_of(self, probabilities: np.ndarray, labels: np.ndarray, *, target: str) -> Score:
        """LEEP with its evidence."""
        outputs = effective_outputs(probabilities)
        detail, flags = output_evidence(outputs, probabilities.shape[1], labels, method=self.name, target=target)
        return Score(leep(probabilities, labels), detail=detail, flags=flags)
