"""The seed study's statistical meta-features: counts, and moments of the grey-level histograms, set on one scale across the data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from simkit.dataset import DatasetCard
from simkit.errors import DataError, NotEnoughData, Problems
from simkit.estimators.base import CardEstimator, Known, Score
from simkit.estimators.intuitive import SEED_STUDY
from simkit.registry import option

__all__ = ["FEATURES", "Histogram"]

_STATISTICS = ("entropy", "skewness", "kurtosis", "median absolute deviation", "mean", "variance")
FEATURES: tuple[str, ...] = ("images", "classes", *(f"mean of {s}" for s in _STATISTICS), *(f"standard deviation of {s}" for s in _STATISTICS))
"""The 14 meta-features, in the order of the vector."""

_CONSTANT = 1e-12
"""A feature whose standard deviation across data sets is below this share of its largest magnitude is constant up to rounding."""


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a data set lies among those of the run: scores (3, 14), NaN-free; constant features are 0 for every data set."""

    scores: np.ndarray
    constant: tuple[str, ...]
    pool: int


@dataclass(frozen=True)
class Histogram(CardEstimator):
    """Distance between the statistical meta-features of two data sets, relative to all data sets of the run.

    Each data set is a vector of 14 features per colour channel: number of images, number of classes, and mean and standard deviation over
    images of entropy, skewness, excess kurtosis, median absolute deviation, mean and variance of the 256-bin grey-level histogram.
    Each feature x becomes a z-score across the k data sets of the run, ``z = (x - mean) / sd`` (sd with divisor k); the distance is the
    Euclidean distance of the two z-vectors per channel, averaged over the three channels.

    Differences from the study, which normalised within each vector, across features, so that the number of images outweighed
    everything else: features are scaled across data sets. As in the study, counts enter as they are (``counts = "log"`` takes their
    logarithms), and grey images count as three equal channels. A feature that is equal in all data sets says nothing and drops out;
    ``detail`` names it.

    Range 0 to infinity, in standard deviations across the data sets of the run; zero means equal meta-features. The value of a pair
    changes when a data set joins or leaves the run. Needs labels, and at least three data sets.
    """

    counts: Literal["plain", "log"] = option("plain", "numbers of images and classes as they are, as in the seed study, or their logarithms")

    name = "histogram"
    needs = ("labels",)
    pool_relative = True
    unit = "standard deviations across the data sets of the run"
    formula = "mean over channels of |z_source − z_target|,  z = (x − mean) / sd over the data sets of the run, of 14 features"
    hazards = (
        "It is relative to the data sets of the run: adding one moves all values, and values of two runs do not compare.",
        "With few data sets a z-score is mostly an order: one extreme set squeezes all others together.",
        "Numbers of images and classes enter as they are, so one huge set can decide: try `counts = log`.",
    )
    citation = f"{SEED_STUDY}, meta-features of its repository (vcheplygina/cats-scans), scaled across data sets"

    def missing(self, known: Known, role: Literal["source", "target"]) -> str:
        if isinstance(known, DatasetCard) and not known.histogram:
            return f"{self.name} needs the grey-level statistics of the images, the card of '{known.name}' has none: make it with simkit.card"
        return super().missing(known, role)

    def summarize_all(self, views: Sequence[DatasetCard]) -> list[_Place]:
        """The z-scores of every data set.

        Raises:
            NotEnoughData: fewer than three data sets (with two, every z-score is 1 or -1), or all features equal in all of them.
            DataError: a statistic that is NaN or infinite, naming data set and feature.
        """
        if len(views) < 3:
            names = ", ".join(f"'{card.name}'" for card in views) or "none"
            message = f"{len(views)} data sets ({names}): z-scores across data sets need at least 3"
            raise NotEnoughData("SK501", self.name, message, "add data sets to the run, or leave the method out")
        features = self._features(views)
        centred = features - features.mean(axis=0)
        spread = features.std(axis=0)
        constant = spread <= _CONSTANT * np.abs(features).max(axis=0)
        if constant.all():
            message = f"all {len(FEATURES)} features are equal in all {len(views)} data sets: the distance is undefined"
            raise NotEnoughData("SK502", self.name, message, "leave the method out, or give data sets that differ")
        scores = np.where(constant, 0.0, centred / np.where(constant, 1.0, spread))
        dropped = tuple(name for name, everywhere in zip(FEATURES, constant.all(axis=0), strict=True) if everywhere)
        return [_Place(row, dropped, len(views)) for row in scores]

    def _features(self, views: Sequence[DatasetCard]) -> np.ndarray:
        """(data sets, 3, 14) in float64."""
        problems, rows = Problems(), []
        for card in views:
            statistics = np.array(card.histogram, dtype=np.float64)
            if card.histogram and statistics.shape not in ((1, len(FEATURES) - 2), (3, len(FEATURES) - 2)):
                wanted = f"wanted (1 or 3, {len(FEATURES) - 2})"
                problems.add("SK202", card.name, f"the grey-level statistics have shape {statistics.shape}, {wanted}", "make the card again (simkit.card)")
                continue
            if reason := self.missing(card, "source"):
                problems.add("SK208", card.name, reason, "give labels, or leave the data set out of this measure")
                continue
            counts = np.array([card.images, card.classes], dtype=np.float64)
            row = np.column_stack([np.tile(np.log(counts) if self.counts == "log" else counts, (3, 1)), np.broadcast_to(statistics, (3, len(FEATURES) - 2))])
            bad = [name for name, fine in zip(FEATURES, np.isfinite(row).all(axis=0), strict=True) if not fine]
            if bad:
                problems.add("SK210", card.name, f"not finite: {', '.join(bad)}", "make the card again from the images (simkit.card)")
            rows.append(row)
        problems.raise_if_any(DataError)
        return np.stack(rows)

    def compare(self, source: _Place, target: _Place, rng: np.random.Generator) -> Score:
        per_channel = np.sqrt(((source.scores - target.scores) ** 2).sum(axis=1))
        detail = {
            "per_channel": [float(distance) for distance in per_channel], "data_sets": source.pool,
            "features": len(FEATURES) - len(source.constant), "constant_features": list(source.constant),
        }
        return Score(float(per_channel.mean()), detail=detail)
