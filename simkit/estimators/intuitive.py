"""Intuitive notions of similarity, one measure each: what an expert would say of two data sets, and what can be counted.

Two families. *Answers*: each data set answers a question (``attributes.modality = "X-ray"``) and two answers are equal, half-way or
different. *Quantities*: a positive number of each data set (images, classes, pixels, imbalance) and the distance of the logarithms.
All read the data set's card: no network, no embedding.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from simkit.dataset import NOTIONS, DatasetCard
from simkit.errors import DataError
from simkit.estimators.base import CardEstimator, Known, Score

__all__ = [
    "SEED_STUDY", "Anatomy", "Channels", "ClassImbalance", "Colour", "Content", "Diversity", "Domain", "Foreground", "ImageSize", "Modality",
    "NumberOfClasses", "Objects", "Orientation", "Size", "Task", "answer", "finite", "mismatch", "unanswered", "word",
]

SEED_STUDY = "van den Brandt et al. 2021, Cats, not CAT scans, arXiv:2107.05940"

HALF_WAY = frozenset({"both", "mixed"})
"""Answers that lie half-way to every other answer."""


def word(text: str) -> str:
    """A text as answers and tags are compared: letter case, spaces, hyphens and underscores do not count ("X-Ray" is "x ray")."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().replace("-", " ").replace("_", " ").split())


def answer(known: Known, notion: str) -> str:
    """What a data set answers to a question of :data:`simkit.dataset.NOTIONS`, as :func:`word`; "" when it gives no answer.

    An answer to "task" that is not given follows from the labels: two classes with images are "binary", more are "multi-class".
    """
    given = word(known.attributes.get(notion, ""))
    if given or notion != "task":
        return given
    classes = sum(count > 0 for count in known.class_counts.values())
    return "" if classes < 2 else word("binary" if classes == 2 else "multi-class")


def mismatch(source: str, target: str) -> float:
    """0 for equal answers, 0.5 when they differ and one of them is "both" (or "mixed"), 1 otherwise."""
    if source == target:
        return 0.0
    return 0.5 if source in HALF_WAY or target in HALF_WAY else 1.0


def unanswered(method: str, known: Known, notions: Sequence[str]) -> str:
    """The questions that a data set does not answer, with the remedy, in words; "" when it answers all."""
    open_questions = [notion for notion in notions if not answer(known, notion)]
    if not open_questions:
        return ""
    remedies = "; ".join(f'attributes.{notion} = "..." ({NOTIONS[notion]})' for notion in open_questions)
    return f"{method} needs answers that data set '{known.name}' does not give: set {remedies}"


def finite(value: float, card: DatasetCard, what: str, *, above: float | None = None) -> float:
    """A number of a card, checked.

    Raises:
        DataError: NaN, infinite, or not above ``above``, naming the data set and the quantity.
    """
    if not math.isfinite(value):
        raise DataError("SK210", card.name, f"{what} is {value}", "make the card again from the images (simkit.card)")
    if above is not None and value <= above:
        raise DataError("SK203", card.name, f"{what} is {value:g}, wanted more than {above:g}", "make the card again from the images (simkit.card)")
    return value


class Notion(CardEstimator):
    """A question answered once for each data set; the measure is named for the question."""

    bounds = (0.0, 1.0)
    unit = "mismatch of answers"
    formula = 'm = 0 if a_source = a_target, ½ if they differ and one of them is "both" or "mixed", else 1'
    hazards: ClassVar[tuple[str, ...]] = (
        "It takes three values, so it ties most sources: do not rank by it alone.",
        "The answer is somebody's opinion: have two people answer.",
    )
    citation = f"{SEED_STUDY}, questionnaire for experts"

    def missing(self, known: Known, role: Literal["source", "target"]) -> str:
        return unanswered(self.name, known, (self.name,))

    def compare(self, source: DatasetCard, target: DatasetCard, rng: np.random.Generator) -> Score:
        answers = answer(source, self.name), answer(target, self.name)
        stated = [bool(word(card.attributes.get(self.name, ""))) for card in (source, target)]
        derived = [role for role, given in zip(("source", "target"), stated, strict=True) if not given]
        detail = {"source_answer": answers[0], "target_answer": answers[1]} | ({"derived_from_labels": derived} if derived else {})
        return Score(mismatch(*answers), detail=detail)


@dataclass(frozen=True)
class Domain(Notion):
    """Whether both data sets come from the same domain (medical, natural).

    0 when the answers ``attributes.domain`` are equal, 1 when they differ, 0.5 when they differ and one of them is "both". Range 0..1,
    without unit; zero means the same domain, not the same data. Question 1 of the seed study's form.
    """

    name = "domain"
    needs = ("attributes.domain",)
    hazards = (
        *Notion.hazards,
        "Two sets of one domain are at 0 however different they are; in the seed study ImageNet was the best source of every medical target.",
    )


@dataclass(frozen=True)
class Modality(Notion):
    """Whether both data sets were made by the same imaging modality (X-ray, CT, microscopy, dermoscopy, photograph).

    0 when the answers ``attributes.modality`` are equal, 1 when they differ, 0.5 when they differ and one of them is "both". "Does not
    apply" is an answer like any other: two data sets that give it are equal. Range 0..1, without unit; zero means the same modality.
    Question 2 of the seed study's form.
    """

    name = "modality"
    needs = ("attributes.modality",)
    hazards = (*Notion.hazards, 'Whoever answers chooses how fine the question is: "MRI" and "MRI, T1" are different answers.')


@dataclass(frozen=True)
class Anatomy(Notion):
    """Whether both data sets show the same body part.

    0 when the answers ``attributes.anatomy`` are equal, 1 when they differ, 0.5 when they differ and one of them is "both". "Does not
    apply" is an answer like any other. Range 0..1, without unit; zero means the same body part. Question 3 of the seed study's form.
    """

    name = "anatomy"
    needs = ("attributes.anatomy",)
    hazards = (*Notion.hazards, '"Does not apply" equals "does not apply": two sets of photographs are at 0.')


@dataclass(frozen=True)
class Foreground(Notion):
    """Whether images of both data sets have (or have not) a clear fore- and background.

    0 when the answers ``attributes.foreground`` are equal, 1 when they differ, 0.5 when they differ and one of them is "both". Range
    0..1, without unit; zero means the same answer. Question 4 of the seed study's form.
    """

    name = "foreground"
    needs = ("attributes.foreground",)
    hazards = (*Notion.hazards, "What a clear foreground is, is a matter of judgement: have two people answer.")


@dataclass(frozen=True)
class Objects(Notion):
    """Whether images of both data sets show as many main objects: one, or multiple.

    0 when the answers ``attributes.objects`` are equal, 1 when they differ, 0.5 when they differ and one of them is "both". Range 0..1,
    without unit; zero means the same answer. Question 5 of the seed study's form.
    """

    name = "objects"
    needs = ("attributes.objects",)
    hazards = (*Notion.hazards, "It asks how many main objects an image shows, not which.")


@dataclass(frozen=True)
class Orientation(Notion):
    """Whether spatial orientation matters (does a rotated image look wrong) in both data sets, or in neither.

    0 when the answers ``attributes.orientation`` are equal, 1 when they differ, 0.5 when they differ and one of them is "both". Range
    0..1, without unit; zero means the same answer. Question 6 of the seed study's form.
    """

    name = "orientation"
    needs = ("attributes.orientation",)
    hazards = (*Notion.hazards, "Augmentation during training can take orientation out of the task; the answer does not know of it.")


@dataclass(frozen=True)
class Colour(Notion):
    """Whether both data sets have the same colour tone: grey, one tone, or rich in colour, as a person judges it.

    0 when the answers ``attributes.colour`` are equal, 1 when they differ, 0.5 when they differ and one of them is "both". Range 0..1,
    without unit; zero means the same answer. Question 7 of the seed study's form. What the pixels say is the measure ``channels``.
    """

    name = "colour"
    needs = ("attributes.colour",)
    hazards = (*Notion.hazards, "It is what a person sees, not what the pixels say: `channels` measures them.")


@dataclass(frozen=True)
class Diversity(Notion):
    """Whether the images within each data set are diverse, in both or in neither.

    0 when the answers ``attributes.diversity`` are equal, 1 when they differ, 0.5 when they differ and one of them is "both". Range
    0..1, without unit; zero means the same answer. Question 8 of the seed study's form.
    """

    name = "diversity"
    needs = ("attributes.diversity",)
    hazards = (*Notion.hazards, "Two diverse sets are at 0 although they need have nothing in common.")


@dataclass(frozen=True)
class Task(Notion):
    """Whether both data sets pose the same kind of task: binary, or multi-class.

    0 when the answers ``attributes.task`` are equal, 1 when they differ, 0.5 when they differ and one of them is "both". An answer that is
    not given follows from the labels: two classes with images are "binary", more are "multi-class" (``detail`` says for which data set).
    Range 0..1, without unit; zero means the same kind of task. Question 9 of the seed study's form.
    """

    name = "task"
    hazards = (
        *Notion.hazards,
        "It follows from the number of classes where no answer is given: ten classes and a thousand are the same kind of task.",
    )


@dataclass(frozen=True)
class Content(Notion):
    """Whether the classes of both data sets are told by objects, by textures, or by both.

    0 when the answers ``attributes.content`` are equal, 0.5 when they differ and one of them is "both", 1 for objects against textures.
    Range 0..1, without unit; zero means the same answer. Question 10 of the seed study's form.
    """

    name = "content"
    needs = ("attributes.content",)
    hazards = (*Notion.hazards, 'Most sets are told by both, and "both" is half-way to everything: it hardly ranks sources.')


@dataclass(frozen=True)
class Channels(CardEstimator):
    """Difference of the shares of grey images, measured from the pixels.

    ``|g_source - g_target|`` with g the share of images that are grey (one channel, or three equal ones). Where a data set is wholly grey
    or wholly in colour, as in the seed study, it is the study's notion: 0 for equal, 1 for different numbers of channels; a few coloured
    images in a grey data set move it a little instead of flipping it. Range 0..1, a share of images; zero means equal shares.
    """

    name = "channels"
    bounds = (0.0, 1.0)
    unit = "share of images"
    formula = "|g_source − g_target|,  g the share of grey images"
    hazards = (
        "It is about file content, not meaning: a grey picture stored as colour is grey here, one with a coloured mark is not.",
        "It takes few different values, so it ties many sources.",
    )
    citation = f"{SEED_STUDY}, Table I"

    def compare(self, source: DatasetCard, target: DatasetCard, rng: np.random.Generator) -> Score:
        shares = [finite(card.grey_share, card, "the share of grey images") for card in (source, target)]
        return Score(abs(shares[0] - shares[1]), detail={"source_grey_share": shares[0], "target_grey_share": shares[1]})


class LogRatio(CardEstimator):
    """Distance of the logarithms of a positive quantity: ``|ln q_source - ln q_target|``."""

    bounds = (0.0, None)
    unit = "natural logarithm of a ratio"
    citation = f"{SEED_STUDY}, Table I"
    quantity_name = ""

    def quantity(self, card: DatasetCard) -> float:
        """The positive number of a data set."""
        raise NotImplementedError

    def compare(self, source: DatasetCard, target: DatasetCard, rng: np.random.Generator) -> Score:
        q_source, q_target = (finite(self.quantity(card), card, self.quantity_name, above=0.0) for card in (source, target))
        return Score(abs(math.log(q_source) - math.log(q_target)), detail={"source": q_source, "target": q_target})


@dataclass(frozen=True)
class ImageSize(LogRatio):
    """Difference of image sizes: ``|ln(A_source / A_target)|``, A the median height times the median width in pixels.

    Range 0 to infinity, in natural logarithms of a ratio (ln 4 = 1.39: twice as high and wide); zero means equal areas.
    """

    name = "image-size"
    quantity_name = "the image area (median height times median width, pixels)"
    formula = "|ln (A_source / A_target)|,  A = median height × median width"
    hazards = (
        "It reads the files as they are stored: a set that was resized for download (MedMNIST) says nothing about its images.",
        "Medians only: sets of mixed sizes look like sets of one size.",
    )

    def quantity(self, card: DatasetCard) -> float:
        return card.height * card.width


@dataclass(frozen=True)
class NumberOfClasses(LogRatio):
    """Difference of the numbers of classes: ``|ln(c_source / c_target)|``, c the number of classes that have images.

    Range 0 to infinity, in natural logarithms of a ratio; zero means equally many classes. Needs labels.
    """

    name = "number-of-classes"
    needs = ("labels",)
    quantity_name = "the number of classes"
    formula = "|ln (c_source / c_target)|"
    hazards = (
        "It compares counts, not content: two classes of cats and two of tumours are at 0.",
        "It follows from how finely the images were labelled.",
    )

    def quantity(self, card: DatasetCard) -> float:
        return float(card.classes)


@dataclass(frozen=True)
class Size(LogRatio):
    """Difference of the data set sizes: ``|ln n_source - ln n_target|``, n the number of readable images.

    Range 0 to infinity, in natural logarithms of a ratio; zero means equally many images. That a large source is good is another
    statement: the prior ``source-size``.
    """

    name = "size"
    quantity_name = "the number of images"
    formula = "|ln n_source − ln n_target|"
    hazards = (
        "Far larger and far smaller sources are equally far: where larger is better, take `source-size`.",
        "It compares counts, not content: sets of the same size are at 0 whatever they show.",
    )

    def quantity(self, card: DatasetCard) -> float:
        return float(card.images)


@dataclass(frozen=True)
class ClassImbalance(LogRatio):
    """Difference of class imbalance: ``|ln r_source - ln r_target|``, r the images of the largest over those of the smallest class.

    Classes without images do not count. Range 0 to infinity, in natural logarithms of a ratio; zero means equally imbalanced, not
    balanced. Needs labels.
    """

    name = "class-imbalance"
    needs = ("labels",)
    quantity_name = "the ratio of the largest to the smallest class"
    formula = "|ln r_source − ln r_target|,  r = n_largest / n_smallest"
    hazards = (
        "0 means equally imbalanced, not balanced.",
        "Two classes decide: one class with a single image moves it much.",
    )

    def quantity(self, card: DatasetCard) -> float:
        return card.imbalance
