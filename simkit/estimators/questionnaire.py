"""The questionnaire distance of the seed study: how many of an expert's answers about two data sets differ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from simkit.dataset import NOTIONS, DatasetCard
from simkit.errors import Problems, UsageError, nearest
from simkit.estimators.base import CardEstimator, Known, Score
from simkit.estimators.intuitive import SEED_STUDY, answer, mismatch, unanswered
from simkit.registry import option

__all__ = ["Question", "Questionnaire"]

Question = Literal["domain", "modality", "anatomy", "foreground", "objects", "orientation", "colour", "diversity", "task", "content"]
ALL: tuple[Question, ...] = ("domain", "modality", "anatomy", "foreground", "objects", "orientation", "colour", "diversity", "task", "content")


@dataclass(frozen=True)
class Questionnaire(CardEstimator):
    """Distance between the answers that two data sets give to a form of up to ten questions.

    ``sqrt(sum over questions of m_q^2)``, with the mismatch m_q = 0 for equal answers, 0.5 when they differ and one of them is "both", 1
    otherwise. "Does not apply" is an answer like any other. An answer to "task" that is not given follows from the labels.
    Range 0 to the square root of the number of questions (3.16 for ten), without unit; zero means the same answer to every question.
    The seed study showed these distances rescaled (divided by the largest, inverted); here they are left as they are.
    """

    questions: tuple[Question, ...] = option(ALL, "the questions that count; each data set must answer all of them")

    name = "questionnaire"
    needs = ("attributes",)
    bounds = (0.0, math.sqrt(len(ALL)))
    unit = "root of summed squared mismatches"
    formula = "(Σ_q m_q²)^½,  m_q = 0, ½ or 1 for equal, half-way and different answers"
    hazards = (
        "Answers are somebody's opinion: have two people answer, and state the answers beside the number.",
        "All questions weigh the same, whatever they matter; in the seed study such distances did not predict transfer.",
        "Its range depends on `questions`: values of two forms do not compare.",
    )
    citation = f"{SEED_STUDY}, questionnaire for experts"

    def __post_init__(self) -> None:
        problems, where = Problems(), f"{self.name}.questions"
        if not self.questions:
            problems.add("SK102", where, "no question is asked", f"name at least one of: {', '.join(NOTIONS)}")
        for question in dict.fromkeys(self.questions):
            if question not in NOTIONS:
                problems.add("SK101", where, f"unknown question '{question}'{nearest(question, NOTIONS)}", f"questions: {', '.join(NOTIONS)}")
            elif self.questions.count(question) > 1:
                problems.add("SK102", where, f"'{question}' is asked {self.questions.count(question)} times", "name each question once")
        problems.raise_if_any(UsageError)

    def missing(self, known: Known, role: Literal["source", "target"]) -> str:
        return unanswered(self.name, known, self.questions)

    def compare(self, source: DatasetCard, target: DatasetCard, rng: np.random.Generator) -> Score:
        mismatches = {question: mismatch(answer(source, question), answer(target, question)) for question in self.questions}
        return Score(math.sqrt(sum(m * m for m in mismatches.values())), detail={"mismatches": mismatches})
