"""What a report is made from: everything that one run found out, gathered in one place. Text, figures and page read nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from simkit.dataset import DatasetCard, Skipped
from simkit.tables import ScoreTable, TransferTable

if TYPE_CHECKING:
    from simkit.correlation import Correlation, RankedSource
    from simkit.correlation.recommendation import Recommendation
    from simkit.leakage.pairs import Leakage

__all__ = ["Content", "FigureSize", "MethodInfo", "Unavailable"]

FigureSize = Literal["page", "single", "double"]
"""Width of figures in files: as drawn for the page, or that of one or two columns of a journal (89 mm, 183 mm)."""


@dataclass(frozen=True)
class MethodInfo:
    """One measure of the run, as the details of methods show it.

    Attributes:
        name: as the score table names it.
        kind: distance, transferability or prior (a property of the source alone).
        higher_is_better: whether a higher value is expected to mean better transfer.
        unit: of the value; "" when it has none.
        symmetric: whether swapping source and target leaves the value unchanged.
        summary: what the number means, one sentence.
        citation: where it comes from.
        options: the options that were used, as text.
    """

    name: str
    kind: str
    higher_is_better: bool
    unit: str = ""
    symmetric: bool = False
    summary: str = ""
    citation: str = ""
    options: str = ""


@dataclass(frozen=True)
class Unavailable:
    """A number that was asked for and could not be computed, and why. Source or target is "" when it holds for all of them.

    ``implied``: nobody asked for it by name (a target that is a source only because none was named): it is listed, and no reason for another exit status.
    """

    method: str
    source: str
    target: str
    reason: str
    implied: bool = False


@dataclass(frozen=True, eq=False)
class Content:
    """All that a report shows. Two equal contents give the same bytes: times and dates belong in run.json, not here.

    Attributes:
        study: name of the study.
        cards: one card per data set.
        thumbnails: per data set, up to eight images, uint8 (h, w, c) with c of 1 or 3; a data set may be missing.
        sources: names in the order of the study; a baseline such as "scratch" is one of them.
        targets: names in the order of the study.
        extractor: one line that says what made the features.
        scores: values of every measure.
        methods: what the measures are; a measure of ``scores`` that is missing here is described by its rows.
        unavailable: scores and transfers that could not be computed.
        transfer: performance per pair, fold, seed and metric, of which the main metric of each target is shown; or None when no transfer was measured.
        ranking: per target, the sources in order of measured performance (:func:`simkit.correlation.rank_sources`).
        answers: per target, one sentence: which source, and how sure that is (:func:`simkit.correlation.answer`).
        correlation: whether similarity predicts transfer, or None when that was not asked.
        skipped: images that were left out.
        provenance: versions, seed, study text, recipes, hardware: what it takes to do it again.
        score_bars: what the intervals of scores are, as captions say it.
        performance_bars: what the intervals of performances are, as captions say it.
        recommendations: per target without transfers, which source past transfers on other targets speak for; only where there are such.
        leakage: copies of images of a target that a source holds, or that both sides of a split hold.
        work: what took how long: rows of stage, item, count, unit and seconds, over all runs that filled this folder. The only times of a report.
    """

    study: str
    cards: tuple[DatasetCard, ...]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    extractor: str
    scores: ScoreTable
    methods: tuple[MethodInfo, ...] = ()
    thumbnails: Mapping[str, tuple[np.ndarray, ...]] = field(default_factory=dict)
    unavailable: tuple[Unavailable, ...] = ()
    transfer: TransferTable | None = None
    ranking: Mapping[str, tuple[RankedSource, ...]] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)
    correlation: Correlation | None = None
    skipped: tuple[Skipped, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    score_bars: str = "95 % intervals"
    performance_bars: str = "95 % intervals"
    recommendations: Mapping[str, Recommendation] = field(default_factory=dict)
    leakage: tuple[Leakage, ...] = ()
    work: tuple[Mapping[str, Any], ...] = ()
