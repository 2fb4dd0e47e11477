"""Why a source is near to a target, or far: classes, images and features behind a score."""

from simkit.explanation.classes import class_coupling, class_coverage, repeated
from simkit.explanation.features import feature_gap, frechet_parts
from simkit.explanation.images import told_apart
from simkit.explanation.plans import Plan, explained_by_plan, plan_of, present, taken
from simkit.explanation.results import Cell, Coupling, Explanation, Feature, FeatureGap, FrechetParts, ImageScore, PairOfImages, TargetClass, ToldApart

__all__ = [
    "Cell", "Coupling", "Explanation", "Feature", "FeatureGap", "FrechetParts", "ImageScore", "PairOfImages", "Plan", "TargetClass", "ToldApart",
    "class_coupling", "class_coverage", "explained_by_plan", "feature_gap", "frechet_parts", "plan_of", "present", "repeated", "taken", "told_apart",
]
