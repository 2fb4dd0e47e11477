"""A random order of the sources: what no information gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simkit.dataset import DatasetCard
from simkit.estimators.base import CardEstimator, Score
from simkit.recipe import rng_for
from simkit.registry import option

__all__ = ["RandomOrder"]


@dataclass(frozen=True)
class RandomOrder(CardEstimator):
    """A random number for each source, uniform from 0 to 1: what a measure without any information gives.

    It depends on ``seed`` and on the name of the source, and on nothing else: neither on the target nor on the other sources, so that adding a source
    moves no other number. Higher counts as better; zero means nothing. One draw can agree with transfer by luck: look at several seeds, or at
    what `simkit correlate` says of a random source, which averages over all orders.
    """

    name = "random"
    kind = "prior"
    symmetric = False
    higher_is_better = True
    reads_source_card = "name"
    only_by_name = True  # `simkit correlate` always sets a random source beside the measures
    bounds = (0.0, 1.0)
    unit = "uniform random number"
    formula = "u ~ uniform(0, 1), drawn by seed and the source's name"
    hazards = (
        "It holds no information: it is here to show what luck looks like.",
        "One draw can agree with transfer by luck: look at several `seed`s.",
    )
    citation = "simkit; the uninformed choice, a baseline without source"

    seed: int = option(0, "of the order", minimum=0)

    def compare(self, source: DatasetCard, target: DatasetCard, rng: np.random.Generator) -> Score:
        """The number of the source; neither ``rng`` nor the target is used."""
        return Score(float(rng_for("random order", self.seed, source.name).random()), detail={"seed": self.seed})
