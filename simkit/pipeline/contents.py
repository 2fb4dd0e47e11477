"""What a run found, put together for the report: tables, cards, thumbnails, answers, and what it takes to do it again."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

import simkit
from simkit.dataset import Dataset, DatasetCard
from simkit.errors import DataError, NotEnoughData
from simkit.pipeline.copies import copies_by_pair, touched
from simkit.pipeline.networks import SourceNetwork, pairs_of
from simkit.pipeline.planning import Plan
from simkit.pipeline.progress import Progress
from simkit.pipeline.scoring import PairScore
from simkit.pipeline.stages import Embedded, cores, space_of
from simkit.recipe import describe, recipe_of
from simkit.report.content import Content, MethodInfo, Unavailable
from simkit.study import aliases
from simkit.tables import ScoreTable, TransferTable
from simkit.transfer import TransferResult

if TYPE_CHECKING:
    from simkit.correlation import Correlation, RankedSource
    from simkit.correlation.recommendation import Recommendation
    from simkit.leakage.pairs import Leakage

__all__ = ["Scored", "content_of", "examples", "method_info", "recommended", "score_table", "versions"]

PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "torchvision", "pot", "pandas", "pillow", "matplotlib", "seaborn")


@dataclass(frozen=True)
class Scored:
    """What was found out about the data sets of a plan before anything is trained.

    Attributes:
        cards: by name.
        kept: the data sets without their unreadable images.
        embedded: what embedding took, per data set.
        scores: of all pairs by all measures.
        refused: scores that turned out to be impossible.
        looked: images that networks of sources looked at now, and those found in the store.
        leakage: copies of images of targets.
        work: what took how long.
    """

    cards: Mapping[str, DatasetCard]
    kept: Mapping[str, Dataset]
    embedded: Sequence[Embedded]
    scores: Sequence[PairScore]
    refused: Sequence[Unavailable] = ()
    looked: tuple[int, int] = (0, 0)
    leakage: tuple[Leakage, ...] = ()
    work: tuple[Mapping[str, Any], ...] = field(default=())


def score_table(
    scores: Sequence[PairScore], kept: Mapping[str, Dataset], extractor: str, networks: Mapping[str, SourceNetwork], leakage: Sequence[Leakage] = (),
) -> ScoreTable:
    """The scores as a table; what made the features stands in ``extractor``: the common one, or the source's network.

    Values of one measure and target that two solvers found are flagged: they cannot be ranked together. So are scores of images that source and target
    have in common.
    """
    records = []
    keys = {name: network.key for name, network in networks.items()}
    solvers: dict[tuple[str, str], set[str]] = {}
    for s in scores:
        if "solver" in s.score.detail and not s.score.detail.get("identical"):
            solvers.setdefault((s.estimator.name, s.target), set()).add(str(s.score.detail["solver"]))
    shared = copies_by_pair(leakage)
    for s in scores:
        lower, upper = s.score.interval or (None, None)
        said = s.score.converged or any(flag.startswith("not converged") for flag in s.score.flags)
        flags = s.score.flags if said else (*s.score.flags, "not converged")
        found = solvers.get((s.estimator.name, s.target), set())
        if len(found) > 1 and s.score.detail.get("solver") == "sinkhorn":
            flags = (*flags, f"other sources of this target were solved by {', '.join(sorted(found - {'sinkhorn'}))}: set one solver to rank them together")
        if s.estimator.view != "card" and (s.source, s.target) in shared:
            flags = (*flags, shared[s.source, s.target].flag)
        records.append({
            "source": s.source, "target": s.target, "method": s.estimator.name, "value": s.score.value,
            "higher_is_better": s.estimator.higher_is_better, "kind": s.estimator.kind, "lower": lower, "upper": upper, "floor": s.score.floor,
            "ceiling": s.score.ceiling, "p": s.score.p, "matched": s.score.matched,
            "n_source": len(kept[s.source]) if s.source in kept else None, "n_target": len(kept[s.target]),
            "skipped_source": len(kept[s.source].skipped) if s.source in kept else None, "skipped_target": len(kept[s.target].skipped),
            "converged": s.score.converged, "flags": "; ".join(flags),
            "extractor": extractor if s.estimator.view == "embedding" else keys.get(s.source, "")[:12] if s.estimator.view == "network" else "",
        })
    return ScoreTable(tuple(records))


def content_of(made: Plan, scored: Scored, transfer: TransferResult | None, progress: Progress, *, thumbnails: bool = True) -> Content:
    """Everything that the report shows, from what was computed; without ``thumbnails``, no image is in it."""
    from simkit.correlation import answer, correlate, rank_sources

    study, kept = made.study, scored.kept
    options = study.correlate
    table = score_table(scored.scores, kept, space_of(study, made.store, kept)[:12], made.networks, scored.leakage)
    performance = transfer.table if transfer is not None else made.measured
    performance = performance and touched(performance, scored.leakage, removed=transfer is not None)
    unavailable = (*made.impossible, *scored.refused)
    correlation: Correlation | None = None
    ranking: dict[str, tuple[RankedSource, ...]] = {}
    answers: dict[str, str] = {}
    if performance is not None and len(performance):
        ranking = rank_sources(performance, seed=study.seed)
        answers = {target: answer(target, ranked) for target, ranked in ranking.items()}
        try:
            correlation = correlate(table, performance=performance, alias=aliases(options.alias, "correlate.alias"), permutations=options.permutations,
                                    bootstraps=options.bootstraps, seed=study.seed, allow_missing=True)
        except (DataError, NotEnoughData) as error:
            if isinstance(error, DataError) and any(row["performance"] is not None for row in performance.of_metric()):
                raise  # not for want of values
            unavailable = (*unavailable, Unavailable("correlation", "", "", error.problems[0].message))
            progress.say(f"no correlation: {error.problems[0].message}")
        unavailable = (*unavailable, *_without_transfers(table, performance))
    recommendations, refused = recommended(study.targets, table, performance, alias=aliases(options.alias, "correlate.alias"), bootstraps=options.bootstraps,
                                           seed=study.seed)
    extra = tuple(dict.fromkeys((*(study.protocol.sources if study.protocol else ()), *(n for n in made.networks if n not in study.sources))))
    paired = {source for method in study.methods for source, _ in pairs_of(study, method)} or set(study.sources)
    if performance is not None:
        paired |= {str(row["source"]) for row in performance.records}
    return Content(
        study=study.name, cards=tuple(scored.cards.values()), sources=tuple(name for name in (*study.sources, *extra) if name in paired),
        targets=study.targets, extractor=_features_line(made), scores=table, methods=tuple(method_info(m) for m in made.methods),
        thumbnails={name: examples(dataset) for name, dataset in kept.items()} if thumbnails else {},
        unavailable=(*unavailable, *refused), transfer=performance, ranking=ranking,
        answers={**answers, **predicted_answers(recommendations)}, correlation=correlation,
        skipped=tuple(s for dataset in kept.values() for s in dataset.skipped), provenance=provenance(made), recommendations=recommendations,
        leakage=scored.leakage,
    )


def _without_transfers(table: ScoreTable, performance: TransferTable) -> list[Unavailable]:
    """Pairs of sources that have scores and no transfer at all."""
    measured = {(str(row["source"]), str(row["target"])) for row in performance.records}
    alone = {(str(row["source"]), str(row["target"])) for row in table.records} - measured
    reason = "it has scores and no transfer: it is not in the correlation"
    lacking = sorted({source for source, _ in alone} - {source for source, _ in measured})
    return [Unavailable("correlation", *pair, reason) for source in lacking for pair in sorted(alone) if pair[0] == source]


def recommended(
    targets: Sequence[str], table: ScoreTable, performance: TransferTable | None, *, alias: tuple[tuple[str, str], ...], bootstraps: int, seed: int,
) -> tuple[dict[str, Recommendation], list[Unavailable]]:
    """Recommendations for the targets that have no transfer, where at least two other targets have some; and why there are none for others."""
    from simkit.correlation import recommend

    past = {str(row["target"]) for row in performance.records} if performance is not None else set()
    if performance is None or len(past) < 2:
        return {}, []
    found, refused = {}, []
    for target in (one for one in targets if one not in past):
        try:
            found[target] = recommend(target, table, performance=performance, alias=alias, allow_missing=True, bootstraps=bootstraps, seed=seed)
        except (DataError, NotEnoughData) as error:
            refused.append(Unavailable("recommendation", "", target, error.problems[0].message))
    return found, refused


def predicted_answers(recommendations: Mapping[str, Recommendation]) -> dict[str, str]:
    """The answers for targets without transfers, which say that they are predictions."""
    return {target: f"{one.answer.removesuffix('.')} (predicted from scores: no transfer to {target} was measured)."
            for target, one in recommendations.items()}


def method_info(method: Any) -> MethodInfo:
    """What a measure is, for the report."""
    summary = " ".join((type(method).__doc__ or "").strip().split("\n\n")[0].split())
    options = {k: v for k, v in describe(method).items() if k not in ("type", "version")}
    return MethodInfo(method.name, method.kind, method.higher_is_better, method.unit, method.symmetric, summary, method.citation,
                      ", ".join(f"{k} = {v}" for k, v in options.items()))


def _features_line(made: Plan) -> str:
    """What made the features: the common extractor, where a measure reads its embeddings, and the networks of sources, where one looks through them."""
    parts = [_extractor_line(made.study.extractor)] if any(method.view == "embedding" for method in made.methods) else []
    alike: dict[str, list[str]] = {}
    for name, network in made.networks.items():
        options = ", ".join(f"{key} = {str(value)[:40]}" for key, value in network.recipe.items() if key in ("network", "model", "weights") and value)
        alike.setdefault(f"{network.origin}{f' ({options})' if options else ''}", []).append(name)
    for origin, names in alike.items():
        parts.append(f"{names[0]} seen by {origin}" if len(names) == 1 else f"{len(names)} sources seen by their networks, {origin}")
    return "; ".join(parts) or "none"


SHOWN_OPTIONS = ("network", "model", "weights", "pretrained", "function", "path", "layer", "pool", "image_size", "size")
"""Of an extractor, in the head of the page; its whole recipe stands at the end."""


def _extractor_line(extractor: Any) -> str:
    recipe = extractor.recipe()
    options = {key: recipe[key] for key in SHOWN_OPTIONS if recipe.get(key) not in (None, "")}
    return str(extractor.name) + (": " + ", ".join(f"{key} = {str(value)[:40]}" for key, value in options.items()) if options else "")


def examples(dataset: Dataset, count: int = 8) -> tuple[np.ndarray, ...]:
    """Up to ``count`` images, spread over the classes, in an order that the content decides."""
    order = sorted(range(len(dataset)), key=lambda i: dataset.digests[i])
    if dataset.labels is None:
        return tuple(dataset.read(i) for i in order[:count])
    by_class: dict[int, list[int]] = {}
    for i in order:
        by_class.setdefault(int(dataset.labels[i]), []).append(i)
    rounds = [i for depth in range(count) for members in (by_class[c] for c in sorted(by_class)) for i in members[depth : depth + 1]]
    return tuple(dataset.read(i) for i in rounds[:count])


def hardware() -> dict[str, Any]:
    """The processor, its cores that may be used, and the memory of this machine."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), name)
    except OSError:  # another system than Linux
        pass
    known = {"processor": name, "cores": cores()}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        known["memory"] = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    return known


def versions() -> dict[str, Any]:
    """Of simkit, Python and the packages that make numbers."""
    return {"simkit": simkit.__version__, "python": platform.python_version(), "packages": {name: metadata.version(name) for name in PACKAGES}}


def provenance(made: Plan) -> dict[str, Any]:
    """What it takes to do it again: versions, seed, study text, recipes, hardware. No times, which are in ``work``."""
    study = made.study
    return {
        **versions(), "device": made.device, "platform": f"{platform.system()} {platform.machine()}", "hardware": hardware(),
        "seed": study.seed, "half-samples": study.repeats,
        "size match": study.size_match, "draws": study.draws, "ceiling": study.ceiling,
        "extractor": study.extractor.recipe(),
        "projection": None if study.projection is None else recipe_of(study.projection), "methods": [m.recipe() for m in made.methods],
        "finetune": describe(study.protocol) if study.protocol else None,
        "networks": {name: dict(network.recipe) for name, network in made.networks.items()},
        "data sets": {name: dataset.fingerprint for name, dataset in made.datasets.items()}, "study file": study.text,
    }


