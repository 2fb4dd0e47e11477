"""What an explanation of a pair of data sets holds: plain numbers, names and keys of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from simkit.estimators.base import Score

__all__ = ["Cell", "Coupling", "Explanation", "Feature", "FeatureGap", "FrechetParts", "ImageScore", "Interval", "PairOfImages", "TargetClass", "ToldApart"]

Interval = tuple[float, float]


@dataclass(frozen=True)
class PairOfImages:
    """Two images that the plan couples: their keys, the cost of a unit of mass between them, and the mass that goes from one to the other."""

    source: str
    target: str
    cost: float
    mass: float


@dataclass(frozen=True)
class Cell:
    """Mass that goes from a class of the source to a class of the target.

    Attributes:
        source, target: names of the classes.
        mass: share of all mass, 0..1.
        share: of the target class's mass, 0..1.
        interval: 95 % interval of ``share`` over half-samples, within 0..1, or None.
        spread: standard deviation of ``share`` over half-samples, or None.
        independent: the share that would come from this source class if classes played no part: its share of the source.
        above: whether the interval lies above ``independent``; None where there is no interval.
        cost: mean cost of a unit of this mass, in the measure's unit; None where there is no mass.
        contribution: mass times cost; all contributions add up to the cost of the plan.
        pairs: image pairs that stand for the cell; only of the largest cells.
    """

    source: str
    target: str
    mass: float
    share: float
    interval: Interval | None
    spread: float | None
    independent: float
    above: bool | None
    cost: float | None
    contribution: float
    pairs: tuple[PairOfImages, ...] = ()


@dataclass(frozen=True)
class Coupling:
    """The class-to-class coupling of a transport measure.

    Attributes:
        source_classes, target_classes: names, in the order of the data sets.
        source_masses, target_masses: marginals of the plan.
        cells: every pair of classes, row by row.
        cost: of the plan: the sum of all contributions.
        value: of the measure, as its own solver gave it for the same images.
        solver: of the measure ("exact", "sinkhorn", or "classes" for plans between classes).
        unit: of cost and value.
    """

    source_classes: tuple[str, ...]
    target_classes: tuple[str, ...]
    source_masses: tuple[float, ...]
    target_masses: tuple[float, ...]
    cells: tuple[Cell, ...]
    cost: float
    value: float
    solver: str
    unit: str

    @property
    def largest(self) -> tuple[Cell, ...]:
        """Cells with mass, the largest first."""
        return tuple(sorted((c for c in self.cells if c.mass > 0), key=lambda c: (-c.mass, c.target, c.source)))


@dataclass(frozen=True)
class TargetClass:
    """How well the source covers one class of the target.

    Attributes:
        name: of the class.
        images: of the class.
        cost: mean cost of a unit of its mass, all images; None for measures without a plan.
        half_cost: the same between samples of half the size, mean over repeats.
        floor: the same between two halves of the target, at the same size.
        excess: half_cost - floor, mean over repeats; None where either is missing.
        interval: of the excess; 95 %, adjusted for the number of classes (Bonferroni).
        far: whether the interval lies above 0; None where there is no interval.
        reached: share of its images with a source image nearer than their 5th nearest other target image, at half the size.
        reached_floor: the same for images of the target's other half instead of the source.
        uncovered: far, and reached less than half as often as by the target itself; None where it cannot be judged.
        nearest: source class that is nearest to it, and how far that is in the measure's label cost (of class means where it has none).
    """

    name: str
    images: int
    cost: float | None = None
    half_cost: float | None = None
    floor: float | None = None
    excess: float | None = None
    interval: Interval | None = None
    far: bool | None = None
    reached: float | None = None
    reached_floor: float | None = None
    uncovered: bool | None = None
    nearest: tuple[str, float] | None = None


@dataclass(frozen=True)
class ImageScore:
    """An image as a classifier saw it that had not been trained on it: ``decision`` > 0 says target, < 0 says source."""

    side: str
    key: str
    label: str
    group: str
    decision: float
    fold: int


@dataclass(frozen=True)
class ToldApart:
    """How images are told apart by a cross-validated domain classifier.

    Attributes:
        auc: mean over folds. folds: AUC of each fold. p: of its permutation test.
        scores: every image.
        clearest, ambiguous: side -> images that are told apart best, and those nearest to the border; of a group (patient) one image.
        mistaken: side -> images that most look like the other side.
    """

    auc: float
    folds: tuple[float, ...]
    p: float | None
    scores: tuple[ImageScore, ...]
    clearest: Mapping[str, tuple[ImageScore, ...]]
    ambiguous: Mapping[str, tuple[ImageScore, ...]]
    mistaken: Mapping[str, tuple[ImageScore, ...]]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Feature:
    """One feature on both sides.

    Attributes:
        number: from 0. name: of the feature.
        source_mean, target_mean: means of the images.
        difference: (target mean - source mean) / pooled standard deviation within the sides. interval: 95 %, groups as units.
        p: permutation p-value adjusted for the number of features (max-T), or None.
        share: of the squared difference of the means, 0..1.
        images: side -> (keys of the images that have it lowest, highest); only of the top features.
    """

    number: int
    name: str
    source_mean: float
    target_mean: float
    difference: float
    interval: Interval
    p: float | None
    share: float
    images: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureGap:
    """Features that differ, the largest standardised difference first.

    Attributes:
        features: all that vary.
        constant: features that do not vary within the sides: they have no standardised difference.
        squared: |difference of the means|², in squared feature units.
        expected: what two samples of these sizes from one distribution give.
        half, most: number of features that hold 50 % and 90 % of ``squared``.
        permutations: of the adjusted p-values.
        units: what was permuted: images, or groups where there are groups; numbers of both sides.
        smallest: the smallest p that the permutations could give.
    """

    features: tuple[Feature, ...]
    constant: int
    squared: float
    expected: float
    half: int
    most: int
    permutations: int
    units: tuple[int, int]
    grouped: bool
    smallest: float

    @property
    def found(self) -> tuple[Feature, ...]:
        """Those with an adjusted p of at most 0.05."""
        return tuple(f for f in self.features if f.p is not None and f.p <= 0.05)


@dataclass(frozen=True)
class FrechetParts:
    """What makes up a Fréchet distance.

    Attributes:
        mean_part, covariance_part: they add up to the value.
        by_class: target class -> its part of mean_part (they add up to it; negative: the class lies on the other side).
        by_feature: per feature (part of the means, squared difference of the standard deviations); the first add up to mean_part, and for diagonal
            covariances the second to covariance_part.
        diagonal: whether they do.
    """

    mean_part: float
    covariance_part: float
    by_class: Mapping[str, float]
    by_feature: tuple[tuple[float, float], ...]
    diagonal: bool


@dataclass(frozen=True)
class Explanation:
    """Why a source is near to a target, or far.

    Attributes:
        source, target: names of the data sets.
        method, unit: the measure and its unit. higher_is_better: its direction.
        extractor: of the features. dimension: number of features.
        images: of both sides. taken: how many of them were looked at.
        score: of the measure for these images, with interval and floor.
        coupling, classes, told_apart, features, parts: see the classes; None (or empty) where they do not apply.
        missing: section -> why it is not there.
        notes: what must be known to read the numbers.
        seed, repeats: of the random choices.
        skipped: images that could not be read.
    """

    source: str
    target: str
    method: str
    unit: str
    higher_is_better: bool
    extractor: str
    dimension: int
    images: tuple[int, int]
    taken: tuple[int, int]
    score: Score
    coupling: Coupling | None
    classes: tuple[TargetClass, ...]
    told_apart: ToldApart | None
    features: FeatureGap
    parts: FrechetParts | None
    missing: Mapping[str, str]
    notes: tuple[str, ...]
    seed: int
    repeats: int
    skipped: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        out = dataclasses.asdict(self)
        out["score"] = {**out["score"], "detail": dict(self.score.detail)}
        return out
