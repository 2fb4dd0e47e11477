"""The contract of a measure.

A measure reads one kind of view: of a data set its *embedding* (features and labels), its *card* (counts, sizes, tags) or its *task* (the
Fisher information of a probe network); or, of a pair, the *network* view: the target as the network sees it that was trained on the source.
``summarize`` is the work that is done once per data set, ``compare`` what is left for a pair; source comes before target, always. A measure of
the network view has ``assess`` instead of both. How pairs are scored is in :mod:`simkit.estimators.comparison` and
:mod:`simkit.estimators.assessment`, how sure a score is in :mod:`simkit.estimators.uncertainty`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from simkit.errors import NotEnoughData
from simkit.recipe import recipe_of

if TYPE_CHECKING:
    from simkit.estimators.seen import Seen

__all__ = ["CardEstimator", "Estimator", "FeatureEstimator", "Kind", "Known", "NetworkEstimator", "Score", "TaskEstimator", "View"]

Kind = Literal["distance", "transferability", "prior"]
View = Literal["embedding", "card", "network", "task"]


@dataclass(frozen=True)
class Score:
    """What a measure says about one source-target pair.

    Attributes:
        value: the number, in the measure's own unit; always finite.
        converged: whether the solver behind it met its tolerance (True for closed forms).
        detail: the evidence: parts, iterations, errors, sample sizes.
        interval: value +- t times the spread over half-samples (delete-half jackknife): how far the value would move in another sample of
            these sizes, or None when it was not asked for. It does not remove the bias that distances have at small n.
        floor: of a distance, the value between two random halves of the target (so at half its size at most), mean over repeats, or None. Whether the
            pair is above it is judged at one common sample size (see :func:`with_uncertainty`); when it is not, a flag says so. Of a measure of the
            network view, the value when the target's labels are shuffled, mean over repeats: what chance gives at this n, d and C.
        ceiling: the value of an unrelated data set (by default pictures of noise) for the same target, or None.
        p: permutation p-value of the hypothesis that both sets are samples of one distribution, (1 + number of permutations that reach the
            value) / (1 + permutations), or None where the measure has none.
        matched: images a side at which the value was computed, where both sides were cut to one size; else None.
        flags: short warnings that go beside the number wherever it is shown.
    """

    value: float
    converged: bool = True
    detail: Mapping[str, Any] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    floor: float | None = None
    ceiling: float | None = None
    p: float | None = None
    matched: int | None = None
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise NotEnoughData("SK502", "", f"the value is undefined ({self.value})", "a measure must refuse with a reason instead of returning NaN")


class Known(Protocol):
    """What a measure may ask of a data set before any work: both Dataset and DatasetCard answer."""

    @property
    def name(self) -> str: ...
    @property
    def tags(self) -> tuple[str, ...]: ...
    @property
    def attributes(self) -> dict[str, str]: ...
    @property
    def class_counts(self) -> dict[str, int]: ...

    @property
    def multilabel(self) -> bool: ...


class Estimator:
    """Base of every measure. Subclass :class:`FeatureEstimator`, :class:`CardEstimator` or :class:`NetworkEstimator` with ``@dataclass(frozen=True)``.

    Class attributes (set in the class body, without annotation):
        name: how the measure is called everywhere.
        kind: "distance" (between the two sets, or their similarity: see ``higher_is_better``), "transferability", or "prior" (a property of the
            source alone).
        symmetric: whether compare(a, b) equals compare(b, a).
        higher_is_better: whether a higher value promises better transfer (False for distances).
        view: "embedding", "card", "network" or "task".
        needs: what it asks of each data set, of: "labels", "tags", "attributes", "attributes.NOTION"; ``missing`` says what is lacking.
        needs_of_source: what it asks of the source only (for priors).
        several_labels: whether images may have several labels.
        reads_source_card: whether sources that are known by their network alone can be scored: "name", if the name is enough; "network", if it takes the
            number of images and classes that an entry of [networks] states.
        bounds: smallest and largest possible value; None where there is none.
        size_biased: whether the expected value depends on the sample sizes; pairs of very unequal sizes are then flagged.
        pool_relative: whether the value depends on the other data sets of the run.
        reads_class_names: whether classes of the two data sets are matched by their names.
        bound_of: the measure of which this one is a bound; "all" leaves bounds out, which say nothing new and add to the tests that are adjusted for.
        only_by_name: whether "all" leaves the measure out for another reason.
        unit: of the value, in words.
        formula: of the value, one line of plain text with the symbols of the docstring.
        hazards: what can make the number misleading, and what to do about it; short sentences.
        citation: source with equation number.
        version: raised with every change that moves a number.
    """

    name = ""
    kind: Kind = "distance"
    symmetric = True
    higher_is_better = False
    view: View = "embedding"
    needs: tuple[str, ...] = ()
    needs_of_source: tuple[str, ...] = ()
    several_labels = False
    reads_source_card: Literal["", "name", "network"] = ""
    bounds: tuple[float | None, float | None] = (0.0, None)
    size_biased = False
    pool_relative = False
    reads_class_names = False
    bound_of = ""
    only_by_name = False
    unit = ""
    formula = ""
    hazards: ClassVar[tuple[str, ...]] = ()
    citation = ""
    version = 1

    def recipe(self) -> dict[str, Any]:
        """What identifies the measure and its options in the store."""
        return recipe_of(self)

    def missing(self, known: Known, role: Literal["source", "target"]) -> str:
        """Why the measure cannot be computed for this data set, in words; "" when it can. Asked before any work."""
        needs = (*self.needs, *(self.needs_of_source if role == "source" else ()))
        present = [name for name, count in known.class_counts.items() if count > 0]
        if "labels" in needs and not known.class_counts:
            return f"{self.name} needs labels, {known.name} has none"
        if "labels" in needs and self.view != "card" and known.multilabel and not self.several_labels:
            return f"{self.name} needs one label an image, {known.name} is multi-label"
        if "labels" in needs and len(present) < 1:
            return f"{self.name} needs at least one class with images in {known.name}"
        return ""

    def settled(self, n_source: int, n_target: int) -> Estimator:
        """The measure with every choice made that it leaves to the sizes of the data sets (a solver), asked before any work on a pair.

        A pair's half-samples are then measured in the same way as the pair. By default the measure itself.

        Raises:
            ResourceError: it cannot be computed for data sets of these sizes.
        """
        return self

    def seconds(self, n_source: int, n_target: int) -> float | None:
        """Rough time of one pair of these sizes on one core, for the plan of a study; None where it is not known."""
        return None

    def fitted(self, views: Sequence[Any]) -> Estimator:
        """The measure with what it takes from all data sets of a run fixed (a bandwidth), so that their subsamples are measured by the same.

        Args:
            views: of all data sets of the run; their order does not matter.
        """
        return self

    def summarize(self, view: Any) -> Any:
        """The work done once per data set; by default the view itself."""
        return view

    def summarize_all(self, views: Sequence[Any]) -> list[Any]:
        """Summaries of all data sets of the run; overridden by measures that are relative to the pool."""
        return [self.summarize(view) for view in views]

    def compare(self, source: Any, target: Any, rng: np.random.Generator) -> Score:
        """The measure of one pair, from the two summaries."""
        raise NotImplementedError

    def assess(self, seen: Seen, rng: np.random.Generator) -> Score:
        """The measure of a pair from the target as the source's network sees it; only measures of the network view have it."""
        raise NotImplementedError

    def label_shuffled(self, summary: Any, rng: np.random.Generator) -> Any:
        """The summary of a target with its labels exchanged between independent images or patients; None where the value of shuffled labels is not given."""
        return None

    def tested(self, source: Any, target: Any, rng: np.random.Generator) -> Score:
        """:meth:`compare`, with a permutation p-value where the measure has one; called once a pair, never for its subsamples."""
        return self.compare(source, target, rng)


class FeatureEstimator(Estimator):
    """A measure of two embeddings."""

    view = "embedding"


class CardEstimator(Estimator):
    """A measure of two data set cards."""

    view = "card"


class NetworkEstimator(Estimator):
    """A measure of the target as the network sees it that was trained on the source (transferability).

    ``assess`` gets a :class:`~simkit.estimators.seen.Seen` in canonical form (:attr:`Seen.canonical`: rows in the order of their content, classes numbered
    by their first row and all present), so that neither the order of images nor the names of classes can move a value. Whole data sets have been
    checked (two classes, two images each); of half-samples a class may be left with one image.

    Class attributes:
        reads: what it takes from the network: "features", "probabilities" (of its head), "gradients".
        resampled: whether halves of the images and shuffled labels say something: not where the value rests on gradients, which are those of the whole
            target with its own labels.
    """

    view: View = "network"
    kind: Kind = "transferability"
    symmetric = False
    higher_is_better = True
    needs: tuple[str, ...] = ("labels",)
    bounds: tuple[float | None, float | None] = (None, None)
    reads: tuple[str, ...] = ("features",)
    resampled = True

    def missing(self, known: Known, role: Literal["source", "target"]) -> str:
        """Of a target also: fewer than two classes, a class with one image, more classes than images."""
        said = super().missing(known, role)
        counts = {name: count for name, count in known.class_counts.items() if count > 0}
        if said or self.view != "network" or role == "source" or known.multilabel or "labels" not in self.needs:
            return said
        if len(counts) < 2:
            only = next(iter(counts))
            return f"{self.name} needs at least two classes, all images of {known.name} are of class '{only}' (check the labels, or leave the target out)"
        if len(counts) >= sum(counts.values()):
            said = f"{self.name} needs images that share a class; {known.name} has {len(counts)} classes for {sum(counts.values())} images"
            return f"{said} (labels that differ from image to image are no classes: choose another label column)"
        single = [name for name, count in counts.items() if count == 1]
        if single:
            more = f" and {len(single) - 1} more" if len(single) > 1 else ""
            fix = "add images, merge the class with another, or leave it out"
            return f"{self.name} needs at least two images of each class; {known.name} has one of '{single[0]}'{more} ({fix})"
        return ""

    def viewed(self, seen: Seen) -> Seen:
        """The view as the measure takes it, before labels are checked; by default as it is."""
        return seen

    def unsound(self, images: int, features: int, classes: int) -> str:
        """Why half-samples of so many images say nothing about the spread of the value, in words; "" where they do."""
        return ""

    def assess_all(self, seen: Sequence[Seen], rngs: Sequence[np.random.Generator]) -> list[Score]:
        """Scores of all sources of one target; overridden by measures that are relative to the pool of sources (``pool_relative``)."""
        return [self.assess(one, rng) for one, rng in zip(seen, rngs, strict=True)]


class TaskEstimator(Estimator):
    """A measure of two task embeddings (:class:`~simkit.estimators.task_embedding.TaskEmbedding`)."""

    view: View = "task"
    needs: tuple[str, ...] = ("labels",)

    def probe(self) -> dict[str, dict[str, Any]]:
        """The probe network as extractors are written in a study file: name -> options."""
        raise NotImplementedError

    def chosen(self, labels: Any, digests: Sequence[str]) -> np.ndarray:
        """Positions of the images that the embedding is made from, in the order of their content."""
        raise NotImplementedError

    def fisher_options(self) -> dict[str, Any]:
        """Options of :func:`simkit.extractors.fisher.task_fisher`."""
        raise NotImplementedError

    def embedding_recipe(self) -> dict[str, Any]:
        """What identifies the task embedding of a data set, beside its content: the probe network and how its Fisher information is computed."""
        raise NotImplementedError
