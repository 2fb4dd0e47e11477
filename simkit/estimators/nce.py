"""NCE: negative conditional entropy of the target's labels given what the source's head takes the images for (Tran et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simkit.estimators.base import Score
from simkit.estimators.fitted_head import HeadEstimator
from simkit.estimators.leep import output_evidence

__all__ = ["Nce", "answered_joint", "negative_conditional_entropy"]


def answered_joint(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """(P(y, z) (C, C_s), effective number of outputs), z the output with the largest probability; outputs that tie share an image in equal parts.

    Args:
        probabilities: theta, (n, C_s).
        labels: y, (n,), class index 0..C-1.
    """
    outputs = probabilities.shape[1]
    row, answer = np.nonzero(probabilities == probabilities.max(1, keepdims=True))
    share = 1.0 / np.bincount(row)[row]
    cell = labels[row] * outputs + answer
    joint = np.bincount(cell, share, (int(labels.max()) + 1) * outputs).reshape(-1, outputs)
    squares, total = np.bincount(answer, share**2, outputs), joint.sum(0)
    effective = float(np.divide(squares, total, out=np.zeros(outputs), where=total > 0).sum())
    return joint / len(labels), effective


def negative_conditional_entropy(joint: np.ndarray) -> float:
    """``-H(Y | Z) = sum_{y,z} P(y, z) log(P(y, z) / P(z))`` in nats, from the joint distribution (C, C_s), of mass 1."""
    total = np.broadcast_to(joint.sum(0), joint.shape)
    full = joint > 0
    return min(0.0, float((joint[full] * np.log(joint[full] / total[full])).sum()))


@dataclass(frozen=True)
class Nce(HeadEstimator):
    """NCE: what is left unknown of the target's labels once it is known which source class the source's head takes each image for, negated.

    ``-H(Y | Z) = sum_{y,z} P(y, z) log(P(y, z) / P(z))``, z the output with the largest probability, P(y, z) the shares of the images. Outputs that
    are equal to the last bit share an image in equal parts, so that their order plays no part (thuml's code takes the first). In nats, from -H(Y) (the
    answers say nothing about the labels; H(Y) <= log C, the entropy of the labels) to 0 (each answer belongs to one class). Higher is better.
    Labels that mean nothing give more than -H(Y), by about (C - 1)(m - 1) / (2 n), m the outputs that are ever the answer; a flag says where that is much.

    The paper compares two labellings of the same images; taking the source's labels from its head follows Nguyen et al. 2020 (the LEEP paper).
    ``head = knn`` or ``logistic``: a head fitted to the source's features, simkit's own (see ``leep``).

    The detail holds n, d, classes, outputs (C_s), label_entropy H(Y), effective_outputs m, chance_gain, head.
    """

    name = "nce"
    bounds = (None, 0.0)
    unit = "nats (negative conditional entropy)"
    formula = "Σ_{y,z} P(y, z) ln(P(y, z) / P(z)),  z the class that the source's head answers"
    hazards = (
        "Labels without meaning gain about (C − 1)(m − 1) / (2 n) for m answers: sources with many classes look better at small n (flag).",
        "Only the answer counts, not how sure the head is: a head that gives one answer for all images is at the lower end. `leep` reads probabilities.",
        "`head = knn` and `head = logistic` are simkit's own: do not mix them with `head = network`.",
        "Values compare on one target only: the lowest is minus the entropy of its labels.",
    )
    citation = "Tran, Nguyen and Hassner 2019, Transferability and hardness of supervised classification tasks (arXiv 1908.08142)"

    def score_of(self, probabilities: np.ndarray, labels: np.ndarray, *, target: str) -> Score:
        """NCE with its evidence."""
        joint, outputs = answered_joint(probabilities, labels)
        detail, flags = output_evidence(outputs, probabilities.shape[1], labels, method=self.name, target=target)
        return Score(negative_conditional_entropy(joint), detail=detail, flags=flags)
