"""Runs a study: check, embed, score, fine-tune, correlate, report. What is in the store is not done again."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import simkit
from simkit.dataset import Dataset, DatasetCard, Skipped, card_of
from simkit.errors import DataError, NotEnoughData, UsageError
from simkit.estimators.seen import Seen
from simkit.execution import Where
from simkit.files import resource_errors, write_json, write_text
from simkit.pipeline.gradients import gradients_of
from simkit.pipeline.networks import SourceNetwork, leaks, look, network_sources, pairs_of, seen_through, source_cards
from simkit.pipeline.planning import Plan, plan, plan_transfer
from simkit.pipeline.progress import Progress
from simkit.pipeline.scoring import PairScore, score_all, view_digest_of
from simkit.pipeline.stages import Effort, Embedded, Sessions, embed_dataset, projected, read_card, space_of
from simkit.pipeline.tasks import task_embeddings
from simkit.pipeline.transferability import score_networks
from simkit.recipe import describe, digest, recipe_of
from simkit.report.content import Content, MethodInfo, Unavailable
from simkit.study import Study, aliases, read_study, toml_text
from simkit.tables import ScoreTable, TransferTable, csv_text
from simkit.transfer import TransferResult, pretrained, run_units

if TYPE_CHECKING:
    from simkit.correlation import Correlation, RankedSource

__all__ = ["Results", "run", "score_study", "study_config"]

PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "torchvision", "pot", "pandas", "pillow", "matplotlib", "seaborn")


@dataclass(frozen=True)
class Results:
    """What a run of a study found.

    Attributes:
        content: everything the report shows: cards, scores, transfer, ranking, correlation.
        out: the output folder.
        page: the HTML page.
        embedded: what embedding took, per data set.
        scores_made: scores computed now.
        scores_found: scores found in the store.
        transfer: what fine-tuning took, or None.
        asked: names of the measures that were asked for by name.
        looked: images that networks of sources looked at now, and those found in the store, over all pairs whose scores were not there.
    """

    content: Content
    out: Path
    page: Path
    embedded: tuple[Embedded, ...]
    scores_made: int
    scores_found: int
    transfer: TransferResult | None = None
    asked: frozenset[str] = field(default_factory=frozenset)
    looked: tuple[int, int] = (0, 0)

    @property
    def scores(self) -> ScoreTable:
        """Scores of all pairs."""
        return self.content.scores

    @property
    def performance(self) -> TransferTable | None:
        """Transfer results of all pairs, folds, seeds and metrics, or None."""
        return self.content.transfer

    @property
    def correlation(self) -> Correlation | None:
        """Whether similarity predicts transfer, or None."""
        return self.content.correlation

    @property
    def frame(self) -> Any:
        """The scores as a pandas DataFrame."""
        return self.scores.frame

    @property
    def incomplete(self) -> tuple[str, ...]:
        """What was skipped or failed although it was asked for, in words; empty when nothing was."""
        lines = [f"{s.dataset}: {s.key} skipped: {s.reason}" for s in self.content.skipped]
        lines += [f"{u.method} {u.source} -> {u.target}: {u.reason}" for u in self.content.unavailable if u.method in self.asked and not u.implied]
        return (*lines, *self.failed)

    @property
    def failed(self) -> tuple[str, ...]:
        """The trainings that failed, in words."""
        return () if self.transfer is None else tuple(f"fine-tuning {f.text}" for f in self.transfer.failures)

    @property
    def done_line(self) -> str:
        """What was computed and what was found in the store."""
        images, found = sum(e.computed for e in self.embedded), sum(e.stored for e in self.embedded)
        parts = [f"embedded {images:,} images ({found:,} found in the store)", f"computed {self.scores_made:,} scores ({self.scores_found:,} found)"]
        if self.transfer is not None:
            parts.append(f"trained {self.transfer.made:,} networks ({self.transfer.found:,} found)")
        if any(self.looked):
            parts.insert(1, f"looked at {self.looked[0]:,} images through networks of sources ({self.looked[1]:,} found)")
        nothing = images == 0 and self.looked[0] == 0 and self.scores_made == 0 and (self.transfer is None or self.transfer.made == 0)
        return ("nothing was done twice: " if nothing else "") + ", ".join(parts)


def run(
    study: str | os.PathLike[str] | Study, *, out: str | os.PathLike[str] | None = None, store: str | os.PathLike[str] | None = None,
    overwrite: bool = False, strict: bool = False, batch_size: int | None = None, workers: int | None = None, backend: str = "auto", jobs: int = 1,
    cluster: str | None = None, progress: Progress | None = None,
) -> Results:
    """Runs a whole study and writes its tables, figures and page. Finished work is found in the store; an interrupted run goes on.

    Args:
        study: path of a study file, or a Study.
        out: output folder instead of the study's.
        store: root of the store instead of the study's.
        overwrite: allow an output folder that another configuration made.
        strict: refuse images that cannot be read instead of skipping and counting them.
        batch_size: images per batch while embedding; default: found by trying. workers: decoding processes; default: one a core. backend: what
            computes a network on the CPU ("auto", "torch", "compile", "openvino", "onnxruntime"). None of them changes a recipe.
        jobs: fine-tuning runs at a time, each in its own process.
        cluster: "ray", "ray:auto" or "ray:HOST:PORT": fine-tuning runs go to a Ray cluster, whose machines must all see the store (see
            :func:`~simkit.transfer.run_units`); the rest of the study runs here.
        progress: told what happens; silent by default.

    Raises:
        UsageError, DataError, ResourceError, IntegrityError, NotEnoughData: see each; nothing already stored is lost.
    """
    progress = progress or Progress()
    study = study if isinstance(study, Study) else read_study(study)
    study = replace(study, out=Path(out) if out is not None else study.out, store=Path(store) if store is not None else study.store)
    Where.parse(cluster, jobs=jobs)  # what is wrong with it is said before hours of embedding
    started = time.time(), time.process_time()
    _check_out(study, overwrite=overwrite)
    made = plan(study, strict=strict, probe=False)
    made.store.prepare(need=sum(step.todo for step in made.steps if step.stage == "embed") * 8192)
    if made.transfer is not None and made.transfer.wholes and not all(pretrained(made.store, unit.key) for unit, _ in made.transfer.wholes.values()):
        progress.say("pretraining the networks that measures look through")
        run_units(made.transfer.only_pretrainings, progress=progress.say, jobs=jobs, cluster=cluster)
        left = tuple(unit for unit in made.transfer.pretrainings if not pretrained(made.store, unit.key))
        made = replace(made, transfer=replace(made.transfer, pretrainings=left))
    cards, kept, embedded, scores, refused, looked = score_study(made, progress, strict=strict, effort=Effort(batch_size, workers, backend))
    transfer = _finetune(made, kept, progress, jobs=jobs, cluster=cluster)
    progress.say("correlating scores with transfer, writing tables and page")
    content = _content(made, cards, kept, scores, (*made.impossible, *refused), transfer, progress)
    asked = frozenset() if study.all_methods else frozenset(m.name for m in study.methods)
    fresh = sum(not s.stored for s in scores)
    results = Results(content, study.out, study.out / "report.html", tuple(embedded), fresh, len(scores) - fresh, transfer, asked, looked)
    _write(results, made, started)
    return results


def score_study(
    made: Plan, progress: Progress, *, strict: bool, effort: Effort,
) -> tuple[dict[str, DatasetCard], dict[str, Dataset], list[Embedded], list[PairScore], list[Unavailable], tuple[int, int]]:
    """Cards, embeddings and scores of a plan, and how many images networks of sources looked at (now, and found in the store); the data sets come back
    without their unreadable images.
    """
    from simkit.device import resolve_device

    study, store = made.study, made.store
    cards: dict[str, DatasetCard] = {}
    kept: dict[str, Dataset] = {}
    for name, dataset in made.datasets.items():
        cards[name], kept[name] = read_card(dataset, store, progress, strict=strict)
    embedded = []
    if any(m.view == "embedding" for m in made.methods):
        sessions = Sessions(study.extractor, str(resolve_device(study.device)), effort)
        for dataset in kept.values():
            embedded.append(embed_dataset(dataset, sessions, store, progress))
            progress.say(embedded[-1].line)
        for one in embedded:  # an image whose decoding failed only now is in no score, and in no key of one
            if len(one.dataset) != len(kept[one.dataset.name]):
                kept[one.dataset.name] = one.dataset
                cards[one.dataset.name] = card_of(one.dataset)[0]
        embedded = projected(embedded, study.projection, {*study.sources, *study.targets}, progress)
    networked = [m for m in made.methods if m.view == "network"]
    others = [m for m in made.methods if m.view != "network"]
    named = source_cards(study, {**network_sources(study, None), **made.networks}, store) if any(m.reads_source_card for m in others) else {}
    views: dict[str, dict[str, Any]] = {"embedding": {e.dataset.name: e.embedding for e in embedded}, "card": {**cards, **named}}
    extractor = space_of(study, store, kept)
    pairs = {m.name: made.pairs(m) for m in made.methods}
    for method in others:
        if method.view == "task":
            wanted = {name: kept[name] for pair in pairs[method.name] for name in pair}
            views[method.name] = task_embeddings(method, wanted, store, progress, device=str(resolve_device(study.device)))
    digests = {(m.name, name): view_digest_of(m, named.get(name) or kept[name], extractor) for m in others for name in {n for p in pairs[m.name] for n in p}}
    unrelated = study.unrelated
    ceiling = None
    if unrelated is not None:
        ceiling = views["embedding"][unrelated.name], digest(["embedding", kept[unrelated.name].fingerprint, extractor])
        if unrelated.name not in {*study.sources, *study.targets}:
            for found in (views["embedding"], views["card"], cards, kept):
                del found[unrelated.name]
    scores, refused = score_all(others, views, digests, pairs, store, sampling=study.sampling, ceiling=ceiling, progress=progress)
    looked = (0, 0)
    if networked:
        more, also, looked = scores_of_networks(made, networked, kept, progress, effort)
        order = {m.name: place for place, m in enumerate(made.methods)}
        scores, refused = sorted([*scores, *more], key=lambda s: order[s.estimator.name]), [*refused, *also]
    fresh = sum(not s.stored for s in scores)
    progress.say(f"{len(scores)} scores of {len(made.methods)} methods ({fresh} computed, {len(scores) - fresh} found in the store)")
    return cards, kept, embedded, scores, refused, looked


def scores_of_networks(
    made: Plan, methods: list[Any], kept: Mapping[str, Dataset], progress: Progress, effort: Effort,
) -> tuple[list[PairScore], list[Unavailable], tuple[int, int]]:
    """Scores of the network view, and images looked at now and before: each network looks once at each target, whatever the number of measures."""
    from simkit.device import resolve_device

    study, store, networks = made.study, made.store, made.networks
    device = str(resolve_device(study.device))
    lost = {name: str((store.load_json("pretrain", networks[name].pretraining) or {}).get("failed", "")) for name in made.diverged}
    refused = [Unavailable(m.name, s, t, f"the pretraining on {s} has no result: {lost[s]}") for m in methods for s, t in pairs_of(study, m) if s in lost]
    pairs = {m.name: made.pairs(m) for m in methods}
    by_name = {m.name: m for m in methods}

    seen_images: list[tuple[int, int]] = []
    broken: dict[str, DataError] = {}

    def views(wanted: Mapping[tuple[str, str], set[str]]) -> Callable[[tuple[str, str]], Seen]:
        looked_now, looked_before, without = look(networks, wanted, kept, store, progress, device=device, effort=effort)
        seen_images.append((looked_now, looked_before))
        broken.update(without)
        backward = [pair for pair, names in wanted.items() if pair[0] not in broken and any("gradients" in by_name[name].reads for name in names)]
        gradients = gradients_of(networks, backward, kept, store, progress, device)

        def seen(pair: tuple[str, str]) -> Seen:
            if pair[0] in broken:
                raise broken[pair[0]]
            return seen_through(networks[pair[0]], kept[pair[1]], store, gradients.get(pair))

        return seen

    scores, also = score_networks(methods, pairs, networks, kept, store, sampling=study.sampling, views=views, progress=progress)
    seen = leaks(made.transfer, networks, study.targets)
    flagged = [replace(one, score=replace(one.score, flags=(*one.score.flags, f"leaky: the source's network has seen {seen[one.source, one.target]} images")))
               if (one.source, one.target) in seen else one for one in scores]
    made_now, found = (sum(counts[which] for counts in seen_images) for which in (0, 1))
    return flagged, [*refused, *also], (made_now, found)


def score_table(scores: list[PairScore], kept: Mapping[str, Dataset], extractor: str, networks: Mapping[str, SourceNetwork]) -> ScoreTable:
    """The scores as a table; what made the features stands in ``extractor``: the common one, or the source's network.

    Values of one measure and target that two solvers found are flagged: they cannot be ranked together."""
    records = []
    keys = {name: network.key for name, network in networks.items()}
    solvers: dict[tuple[str, str], set[str]] = {}
    for s in scores:
        if "solver" in s.score.detail and not s.score.detail.get("identical"):
            solvers.setdefault((s.estimator.name, s.target), set()).add(str(s.score.detail["solver"]))
    for s in scores:
        lower, upper = s.score.interval or (None, None)
        said = s.score.converged or any(flag.startswith("not converged") for flag in s.score.flags)
        flags = s.score.flags if said else (*s.score.flags, "not converged")
        found = solvers.get((s.estimator.name, s.target), set())
        if len(found) > 1 and s.score.detail.get("solver") == "sinkhorn":
            flags = (*flags, f"other sources of this target were solved by {', '.join(sorted(found - {'sinkhorn'}))}: set one solver to rank them together")
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


def _finetune(made: Plan, kept: Mapping[str, Dataset], progress: Progress, *, jobs: int, cluster: str | None) -> TransferResult | None:
    if made.transfer is None:
        return None
    same = all(len(kept[name]) == len(made.readable[name]) for name in kept)
    units = made.transfer if same else plan_transfer(made.study, kept, made.store, progress)
    return run_units(units, progress=progress.say, jobs=jobs, cluster=cluster)


def _content(
    made: Plan, cards: Mapping[str, DatasetCard], kept: Mapping[str, Dataset], scores: list[PairScore], unavailable: tuple[Unavailable, ...],
    transfer: TransferResult | None, progress: Progress,
) -> Content:
    from simkit.correlation import answer, correlate, rank_sources

    study = made.study
    extractor = space_of(study, made.store, kept)
    table = score_table(scores, kept, extractor[:12], made.networks)
    performance = transfer.table if transfer is not None else made.measured
    correlation: Correlation | None = None
    ranking: dict[str, tuple[RankedSource, ...]] = {}
    answers: dict[str, str] = {}
    if performance is not None and len(performance):
        ranking = rank_sources(performance, seed=study.seed)
        answers = {target: answer(target, ranked) for target, ranked in ranking.items()}
        options = study.correlate
        try:
            correlation = correlate(table, performance=performance, alias=aliases(options.alias, "correlate.alias"), permutations=options.permutations,
                                    bootstraps=options.bootstraps, seed=study.seed, allow_missing=True)
        except (DataError, NotEnoughData) as error:
            if isinstance(error, DataError) and any(row["performance"] is not None for row in performance.of_metric()):
                raise  # not for want of values
            unavailable = (*unavailable, Unavailable("correlation", "", "", error.problems[0].message))
            progress.say(f"no correlation: {error.problems[0].message}")
        measured = {(str(row["source"]), str(row["target"])) for row in performance.records}
        alone = {(str(row["source"]), str(row["target"])) for row in table.records} - measured
        for source in sorted({source for source, _ in alone} - {source for source, _ in measured}):
            reason = "it has scores and no transfer: it is not in the correlation"
            unavailable = (*unavailable, *(Unavailable("correlation", *pair, reason) for pair in sorted(alone) if pair[0] == source))
    skipped: tuple[Skipped, ...] = tuple(s for dataset in kept.values() for s in dataset.skipped)
    extra = tuple(dict.fromkeys((*(study.protocol.sources if study.protocol else ()), *(n for n in made.networks if n not in study.sources))))
    paired = {source for method in study.methods for source, _ in pairs_of(study, method)} or set(study.sources)
    if performance is not None:
        paired |= {str(row["source"]) for row in performance.records}
    return Content(
        study=study.name, cards=tuple(cards.values()), sources=tuple(name for name in (*study.sources, *extra) if name in paired), targets=study.targets,
        extractor=_features_line(made), scores=table, methods=tuple(method_info(m) for m in made.methods),
        thumbnails={name: thumbnails(dataset) for name, dataset in kept.items()}, unavailable=unavailable, transfer=performance, ranking=ranking,
        answers=answers, correlation=correlation, skipped=skipped, provenance=provenance(made),
    )


def method_info(method: Any) -> MethodInfo:
    """What a measure is, for the report."""
    summary = " ".join((type(method).__doc__ or "").strip().split("\n\n")[0].split())
    options = {k: v for k, v in describe(method).items() if k not in ("type", "version")}
    return MethodInfo(method.name, method.kind, method.higher_is_better, method.unit, method.symmetric, summary, method.citation,
                      ", ".join(f"{k} = {v}" for k, v in options.items()))


def _features_line(made: Plan) -> str:
    """What made the features: the common extractor, where a measure reads its embeddings, and the network of each source, where one looks through it."""
    parts = [_extractor_line(made.study.extractor)] if any(method.view == "embedding" for method in made.methods) else []
    for name, network in made.networks.items():
        options = {key: value for key, value in network.recipe.items() if key in ("network", "model", "weights", "pretrain") and value}
        parts.append(f"{name} seen by {network.origin} ({', '.join(f'{key} = {str(value)[:40]}' for key, value in options.items())})")
    return "; ".join(parts) or "none"


def _extractor_line(extractor: Any) -> str:
    options = {k: v for k, v in extractor.recipe().items() if k not in ("type", "version") and v not in (None, "")}
    return f"{extractor.name}: " + ", ".join(f"{k} = {str(v)[:40]}" for k, v in options.items())


def thumbnails(dataset: Dataset, count: int = 8) -> tuple[np.ndarray, ...]:
    """Up to ``count`` images, spread over the classes, in an order that the content decides."""
    order = sorted(range(len(dataset)), key=lambda i: dataset.digests[i])
    if dataset.labels is None:
        return tuple(dataset.read(i) for i in order[:count])
    by_class: dict[int, list[int]] = {}
    for i in order:
        by_class.setdefault(int(dataset.labels[i]), []).append(i)
    rounds = [i for depth in range(count) for members in (by_class[c] for c in sorted(by_class)) for i in members[depth : depth + 1]]
    return tuple(dataset.read(i) for i in rounds[:count])


def provenance(made: Plan) -> dict[str, Any]:
    """What it takes to do it again: versions, seed, study text, recipes, hardware. No times: equal runs give equal pages."""
    study = made.study
    return {
        "simkit": simkit.__version__, "python": platform.python_version(), "packages": {name: metadata.version(name) for name in PACKAGES},
        "device": made.device, "platform": f"{platform.system()} {platform.machine()}", "seed": study.seed, "half-samples": study.repeats,
        "size match": study.size_match, "draws": study.draws, "ceiling": study.ceiling,
        "extractor": study.extractor.recipe(),
        "projection": None if study.projection is None else recipe_of(study.projection), "methods": [m.recipe() for m in made.methods],
        "finetune": describe(study.protocol) if study.protocol else None,
        "networks": {name: dict(network.recipe) for name, network in made.networks.items()},
        "data sets": {name: dataset.fingerprint for name, dataset in made.datasets.items()}, "study file": study.text,
    }


def study_config(study: Study) -> dict[str, Any]:
    """The study, resolved: every option spelled out and every path absolute, in the form of a study file."""
    def component(thing: Any) -> dict[str, Any]:
        options = {k: v for k, v in vars(thing).items() if v is not None}
        return {thing.name: {k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v for k, v in options.items()}}

    datasets = {
        name: component(spec.source) | {"tags": list(spec.tags), "attributes": dict(spec.attributes)} | ({"exclude": str(spec.exclude)} if spec.exclude else {})
        for name, spec in study.datasets.items()
    }
    top: dict[str, Any] = {
        "study": study.name, "seed": study.seed, "repeats": study.repeats, "size_match": study.size_match,
        "draws": study.draws, "ceiling": study.ceiling, "device": study.device, "targets": list(study.targets),
        "sources": list(study.sources), "transfer": None if study.transfer is None else str(study.transfer), "extractor": component(study.extractor),
        "methods": [component(m) for m in study.methods], "correlate": {k: v for k, v in describe(study.correlate).items() if k not in ("type", "version")},
    }
    if study.protocol is not None:
        top["finetune"] = {k: v for k, v in describe(study.protocol).items() if k not in ("type", "version")}
    if study.networks:
        top["networks"] = {name: component(one.extractor) | ({} if one.images is None else {"images": one.images}) for name, one in study.networks.items()}
    return top | {"datasets": datasets}


def _check_out(study: Study, *, overwrite: bool) -> None:
    """Refuses, before any work, an output folder that cannot be written or that another configuration made."""
    path = study.out / "run.json"
    with resource_errors(study.out):
        study.out.mkdir(parents=True, exist_ok=True)
        if not os.access(study.out, os.W_OK):
            raise PermissionError(13, "not writable")
    if not path.is_file() or overwrite:
        return
    try:
        old = json.loads(path.read_text()).get("config", {})
    except (ValueError, AttributeError):
        return
    new = json.loads(json.dumps(study_config(study), default=str))
    keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    if keys:
        message = f"holds the results of another configuration (different: {', '.join(keys)})"
        raise UsageError("SK107", str(study.out), message, "give --overwrite (the store keeps all finished work), or another --out")


def _write(results: Results, made: Plan, started: tuple[float, float]) -> None:
    """Tables, figures, page and run.json, each atomically; run.json last, so that it stands for a complete folder."""
    from simkit.report import build_page, save_figures

    out, content = results.out, results.content
    content.scores.to_csv(out / "scores.csv")
    if content.transfer is not None:
        content.transfer.to_csv(out / "transfer.csv")
    if content.ranking:
        columns = ("target", "rank", "source", "mean", "lower", "upper", "probability_best", "tied")
        rows = [(target, rank, r.source, r.mean, *(r.interval or (None, None)), r.probability_best, r.tied)
                for target, ranked in content.ranking.items() for rank, r in enumerate(ranked, 1)]
        write_text(out / "ranking.csv", csv_text(columns, rows))
    if content.correlation is not None:
        write_json(out / "correlation.json", content.correlation.as_dict())
    drawn = set(save_figures(content, out / "figures"))
    for old in {*(out / "figures").glob("*.svg"), *(out / "figures").glob("*.png")} - drawn:  # figures of an earlier run under other names
        old.unlink()
    write_text(results.page, build_page(content))
    config = study_config(made.study)
    write_text(out / "config.toml", toml_text(config))
    write_json(out / "run.json", {
        "command": sys.argv, "config": config, "config_digest": digest(json.loads(json.dumps(config, default=str))), **content.provenance,
        "skipped": [{"dataset": s.dataset, "key": s.key, "reason": s.reason} for s in content.skipped], "incomplete": list(results.incomplete),
        "embedded": sum(e.computed for e in results.embedded), "looked_at": results.looked[0],
        "scores_computed": results.scores_made, "scores_found": results.scores_found,
        "networks_trained": results.transfer.made if results.transfer else 0, "networks_found": results.transfer.found if results.transfer else 0,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started[0])), "wall_seconds": round(time.time() - started[0], 2),
        "cpu_seconds": round(time.process_time() - started[1], 2), "deterministic": "same seed and device give the same numbers",
    })
