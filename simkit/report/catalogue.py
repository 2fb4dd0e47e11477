"""Every measure with formula, direction, hazards and citation, read from the code itself: what the documentation and the README's table are made of."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

from simkit.estimators.base import Estimator
from simkit.registry import ESTIMATORS, OptionInfo, Registry, describe_component, options_of

__all__ = ["FAMILIES", "Family", "MeasureEntry", "catalogue", "family_of", "measure_entry", "sections"]

YEAR = re.compile(r"\b(?:18|19|20)\d\d\b(?![.\d])")


@dataclass(frozen=True)
class Family:
    """Measures that ask the same kind of question.

    Attributes:
        slug: part of addresses and of the notebook's name.
        title: heading.
        about: what these measures have in common and when they are the right ones, in one or two sentences.
    """

    slug: str
    title: str
    about: str

    @property
    def notebook(self) -> str:
        """The notebook that works through the family, from the top of the repository."""
        return f"notebooks/measures_{self.slug}.ipynb"


FAMILIES = (
    Family("optimal_transport", "Optimal transport",
           "How far images, or images and the meaning of their labels, must be moved to turn one data set into the other."),
    Family("distributions", "Distributions", "How far the two sets of features are apart as distributions; labels play no part, but in class-frechet."),
    Family("classifiers_and_neighbours", "Classifiers and neighbours", "Whether a classifier, or an image's nearest neighbours, tell the two data sets apart."),
    Family("transferability", "Transferability", "How well the features or answers of the source's network, on the target's images, fit the target's labels."),
    Family("task_embeddings", "Task embeddings", "How alike two data sets are as tasks: which filters of one probe network matter for their labels."),
    Family("intuition_and_priors", "Intuition and priors",
           "What a person would say, what can be counted, and what is known of the source alone: what every other measure has to beat."),
)
BY_SLUG = {family.slug: family for family in FAMILIES}
OF_FEATURES = {
    "optimal_transport": ("CloudEstimator", "SlicedWasserstein", "Sotdd", "ClassMeanEmd"),
    "classifiers_and_neighbours": ("BallEstimator", "NearestNeighbour", "DomainClassifier", "CrossLearning"),
}
"""Families of distances between features, by the names of their classes or bases; all others are distributions."""


@dataclass(frozen=True)
class MeasureEntry:
    """What the code says of one measure.

    Attributes:
        name: as in study files.
        family: see :data:`FAMILIES`.
        summary: first paragraph of the docstring.
        reading: further paragraphs of the docstring: range, zero, what the options do; those that are indented in it are still indented here.
        cost, detail: its paragraphs on cost and on the evidence in a score's detail; "" where it has none.
        refusals: when it raises, with the class of the error.
        formula, hazards, unit, citation, version: of the class.
        kind: "distance", "transferability" or "prior".
        view: what it reads: "embedding", "card", "network" or "task".
        direction: in words; of a measure whose direction depends on an option, how.
        symmetric: whether source and target can be exchanged.
        needs: what it asks for, in words.
        size_biased, pool_relative: of the class; text where an option decides.
        p_value: whether there is a permutation test.
        bounds: smallest and largest possible value, None where there is none.
        by_name: why "all" leaves it out; "" where it does not.
        options: in order.
    """

    name: str
    family: Family
    summary: str
    reading: tuple[str, ...]
    cost: str
    detail: str
    refusals: str
    formula: str
    hazards: tuple[str, ...]
    unit: str
    citation: str
    version: int
    kind: str
    view: str
    direction: str
    symmetric: bool
    needs: str
    size_biased: bool | str
    pool_relative: bool | str
    p_value: bool
    bounds: tuple[float | None, float | None]
    by_name: str
    options: tuple[OptionInfo, ...]

    @property
    def year(self) -> str:
        """Of the first source that is cited; "simkit" for what is simkit's own."""
        found = YEAR.search(self.citation)
        return "simkit" if self.citation.startswith("simkit") or found is None else found[0]

    @property
    def better(self) -> str:
        """The direction in a word: "lower", "higher" or "by option"."""
        return self.direction.removesuffix(" is better") if self.direction in ("lower is better", "higher is better") else "by option"


def catalogue(registry: Registry = ESTIMATORS) -> tuple[MeasureEntry, ...]:
    """All measures of simkit's own, family by family, in each by name. Measures of plug-ins are left out: the documentation is that of the package."""
    entries = [measure_entry(name, registry) for name in registry.names() if registry.origin(name) == "simkit"]
    return tuple(sorted(entries, key=lambda entry: (FAMILIES.index(entry.family), entry.name)))


def measure_entry(name: str, registry: Registry = ESTIMATORS) -> MeasureEntry:
    """What the code says of one measure.

    Args:
        name: registered, or "module:Class".
        registry: that it is looked up in.

    Raises:
        UsageError: the name is not known, or the class does not load.
    """
    cls: Any = registry.get(name)
    row = describe_component(registry, name)
    parts = sections(inspect.getdoc(cls) or "")
    return MeasureEntry(
        name=name, family=family_of(cls), summary=row["summary"], reading=tuple(parts["reading"]), cost="\n\n".join(parts["cost"]),
        detail="\n\n".join(parts["detail"]), refusals="\n\n".join(parts["refusals"]), formula=cls.formula, hazards=cls.hazards, unit=row["unit"],
        citation=row["citation"], version=row["version"], kind=row["kind"], view=row["view"], direction=row["direction"], symmetric=row["symmetric"],
        needs=needs_of(cls), size_biased=row["size_biased"], pool_relative=row["pool_relative"], p_value=row["permutation_test"],
        bounds=row["bounds"], by_name=_by_name(cls), options=options_of(cls),
    )


def family_of(cls: type[Estimator]) -> Family:
    """The family of a measure, by what it reads; of distances between features by the class that it is made of."""
    if cls.kind == "prior" or cls.view == "card":
        return BY_SLUG["intuition_and_priors"]
    if cls.view == "task":
        return BY_SLUG["task_embeddings"]
    if cls.view == "network" or cls.kind == "transferability":
        return BY_SLUG["transferability"]
    bases = {base.__name__ for base in cls.__mro__}
    return next((BY_SLUG[slug] for slug, names in OF_FEATURES.items() if bases.intersection(names)), BY_SLUG["distributions"])


def needs_of(cls: Any) -> str:
    """What a measure asks for, in words."""
    labels = "labels" in cls.needs
    if cls.view == "network":
        return f"{' and '.join(cls.reads)} of the source's network{', labels of the target' if labels else ''}"
    if cls.view == "task":
        return "images and labels of both, a probe network"
    if cls.view == "embedding":
        return "features of the source" if cls.kind == "prior" else f"features{' and labels' if labels else ''} of both"
    if any(info.required for info in options_of(cls)):
        return "a table"
    if cls.needs_of_source:
        return "labels of the source"
    if cls.needs:
        return "images and labels of both" if cls.name == "histogram" else " and ".join(_need(need) for need in cls.needs)
    if any(base.__name__ == "Notion" for base in cls.__mro__):
        return f"the answer attributes.{cls.name}, or labels"
    if cls.kind == "prior":
        return "the source's name" if cls.reads_source_card == "name" else "images of the source"
    return "images of both"


def _need(need: str) -> str:
    notion = need.removeprefix("attributes.")
    return {"labels": "labels of both", "tags": "tags of both", "attributes": "answers to its questions"}.get(need, f"the answer attributes.{notion}")


def _by_name(cls: Any) -> str:
    if cls.bound_of:
        return f"a bound of {cls.bound_of}"
    return "only when it is named" if cls.only_by_name else ""


def sections(docstring: str) -> dict[str, list[str]]:
    """Paragraphs of a docstring after its first, by what they are about: "reading", "cost", "detail", "refusals".

    Lines of a paragraph are joined; of indented paragraphs (formulas), which keep four spaces, and of lists of errors they stay.
    """
    out: dict[str, list[str]] = {"reading": [], "cost": [], "detail": [], "refusals": []}
    for paragraph in docstring.split("\n\n")[1:]:
        if paragraph.startswith("Raises:"):
            out["refusals"].append(inspect.cleandoc(paragraph.removeprefix("Raises:")))
        elif paragraph.startswith("    "):
            out["reading"].append(paragraph)
        else:
            joined = " ".join(paragraph.split())
            part = "cost" if re.match(r"Cost\b", joined) else "detail" if joined.startswith("The detail holds") else "reading"
            out[part].append(joined)
    return out
