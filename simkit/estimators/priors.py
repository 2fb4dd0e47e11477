"""Priors: what is known of the source alone. No similarity, but what every similarity has to beat.

A prior gives one number per source, the same for every target. Size alone ranks sources about as well as measures that are far dearer,
so that these numbers belong beside every other score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from simkit.dataset import DatasetCard
from simkit.estimators.base import CardEstimator, Kind, Known, Score
from simkit.estimators.intuitive import SEED_STUDY, finite

__all__ = ["SourceClasses", "SourceImbalance", "SourceSize"]


class Prior(CardEstimator):
    """The decimal logarithm of a positive quantity of the source; the target is not read."""

    kind: Kind = "prior"
    symmetric = False
    bounds = (0.0, None)
    hazards: ClassVar[tuple[str, ...]] = ("A property of the source alone: it says nothing about similarity, and gives every target the same order.",)
    citation = f"{SEED_STUDY}, Table I"
    quantity_name = ""

    def quantity(self, card: DatasetCard) -> float:
        """The positive number of the source."""
        raise NotImplementedError

    def compare(self, source: DatasetCard, target: DatasetCard, rng: np.random.Generator) -> Score:
        quantity = finite(self.quantity(source), source, self.quantity_name, above=0.0)
        return Score(math.log10(quantity), detail={"source": quantity})


@dataclass(frozen=True)
class SourceSize(Prior):
    """Size of the source: ``log10 n``, n its number of readable images.

    Range 0 to infinity, in powers of ten (4 means 10,000 images); zero means one image. Higher is taken to be better. A property of the
    source alone, the same for every target: it says nothing about similarity. Of a source that is known by its network, the images that the network was
    trained on, where they are stated.
    """

    name = "source-size"
    higher_is_better = True
    reads_source_card = "network"
    unit = "powers of ten (images)"
    quantity_name = "the number of images"
    formula = "log₁₀ n"
    hazards = (
        *Prior.hazards,
        "It counts images, not patients: many slices of few patients are fewer than they seem.",
        "It is the rule that a measure of similarity has to beat; read every other score beside it.",
    )

    def missing(self, known: Known, role: Literal["source", "target"]) -> str:
        """Why there is no value: a network whose number of training images is not known."""
        if role == "source" and getattr(known, "images", None) == 0:
            return f"the number of training images of '{known.name}' is not known: state images = N in [networks.{known.name}]"
        return super().missing(known, role)

    def quantity(self, card: DatasetCard) -> float:
        return float(card.images)


@dataclass(frozen=True)
class SourceClasses(Prior):
    """Number of classes of the source: ``log10 c``, c the number of classes that have images.

    Range 0 to infinity, in powers of ten (3 means 1,000 classes); zero means one class. Higher is taken to be better. A property of the
    source alone, the same for every target: it says nothing about similarity. Needs labels of the source.
    """

    name = "source-classes"
    needs_of_source = ("labels",)
    higher_is_better = True
    reads_source_card = "network"
    unit = "powers of ten (classes)"
    quantity_name = "the number of classes"
    formula = "log₁₀ c"
    hazards = (
        *Prior.hazards,
        "It follows from how finely somebody labelled the images: merging classes lowers it, and the images stay the same.",
    )

    def quantity(self, card: DatasetCard) -> float:
        return float(card.classes)


@dataclass(frozen=True)
class SourceImbalance(Prior):
    """Class imbalance of the source: ``log10 r``, r the images of its largest class over those of its smallest.

    Classes without images do not count. Range 0 to infinity, in powers of ten; zero means balanced. Lower is taken to be better. A
    property of the source alone, the same for every target: it says nothing about similarity. Needs labels of the source.
    """

    name = "source-imbalance"
    needs_of_source = ("labels",)
    higher_is_better = False
    unit = "powers of ten (ratio of class sizes)"
    quantity_name = "the ratio of the largest to the smallest class"
    formula = "log₁₀ (n_largest / n_smallest)"
    hazards = (
        *Prior.hazards,
        "Two classes decide: one class with a single image makes any source look imbalanced. Merge or leave out rare classes first.",
    )

    def quantity(self, card: DatasetCard) -> float:
        return card.imbalance
