"""The keyword distance: how few tags two data sets share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from simkit.dataset import DatasetCard
from simkit.estimators.base import CardEstimator, Known, Score
from simkit.estimators.intuitive import word

__all__ = ["Keywords"]


def _keywords(known: Known) -> frozenset[str]:
    return frozenset(word(tag) for tag in known.tags) - {""}


@dataclass(frozen=True)
class Keywords(CardEstimator):
    """Jaccard distance between the tags of two data sets: ``1 - |A & B| / |A | B|``.

    Tags are compared without regard to letter case, spaces, hyphens and their order; a tag given twice counts once. Range 0..1, without
    unit; zero means the same tags, 1 no tag in common. The number depends on how the tags were chosen: give every data set tags of the
    same vocabulary and depth.
    """

    name = "keywords"
    needs = ("tags",)
    bounds = (0.0, 1.0)
    unit = "share of tags that are not shared"
    formula = "1 − |A ∩ B| / |A ∪ B|"
    hazards = (
        "It depends on who chose the tags: a finer vocabulary, or more tags for one set, moves it. Give all sets tags of one vocabulary and depth.",
        'Words are compared, not meanings: "x-ray" and "radiograph" share nothing.',
        "Sets without a tag in common are all at 1 and cannot be ranked.",
    )
    citation = "Jaccard 1912, New Phytologist 11(2); on tags of medical imaging tasks: Godau et al. 2024, arXiv:2412.08763"

    def missing(self, known: Known, role: Literal["source", "target"]) -> str:
        return "" if _keywords(known) else f'{self.name} needs tags, data set \'{known.name}\' has none: set tags = ["...", "..."]'

    def compare(self, source: DatasetCard, target: DatasetCard, rng: np.random.Generator) -> Score:
        a, b = _keywords(source), _keywords(target)
        detail = {"shared": sorted(a & b), "source_only": sorted(a - b), "target_only": sorted(b - a)}
        return Score(1.0 - len(a & b) / len(a | b), detail=detail)
