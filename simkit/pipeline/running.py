"""Runs a study: check, embed, score, look for copies, fine-tune, correlate, report. What is in the store is not done again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from simkit.dataset import Dataset, DatasetCard, card_of
from simkit.errors import DataError, UsageError
from simkit.estimators.seen import Seen
from simkit.execution import Where
from simkit.pipeline.contents import Scored, content_of
from simkit.pipeline.copies import copies_of, unseen
from simkit.pipeline.gradients import gradients_of
from simkit.pipeline.networks import leaks, look, network_sources, pairs_of, seen_through, source_cards
from simkit.pipeline.planning import Plan, plan, plan_transfer
from simkit.pipeline.progress import Progress
from simkit.pipeline.results import Results, check_out, old_run, study_config, with_work, write_results
from simkit.pipeline.scoring import PairScore, score_all, view_digest_of
from simkit.pipeline.stages import Effort, Embedded, Sessions, embed_dataset, projected, read_card, space_of
from simkit.pipeline.tasks import task_embeddings
from simkit.pipeline.transferability import score_networks
from simkit.recipe import digest
from simkit.report.content import FigureSize, Unavailable
from simkit.study import Study, read_study
from simkit.transfer import TransferResult, pretrained, run_units

__all__ = ["Results", "run", "score_study", "study_config"]


def run(
    study: str | os.PathLike[str] | Study, *, out: str | os.PathLike[str] | None = None, store: str | os.PathLike[str] | None = None,
    overwrite: bool = False, strict: bool = False, batch_size: int | None = None, workers: int | None = None, backend: str = "auto", jobs: int = 1,
    cluster: str | None = None, finished: bool = False, figure_size: FigureSize = "page", dpi: int = 300, thumbnails: bool | None = None,
    progress: Progress | None = None,
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
        finished: refuse a study of which something is left to do, instead of doing it (`simkit report`).
        figure_size: of the figures in the folder: "page", or the width of a journal's column: "single" (89 mm), "double" (183 mm).
        dpi: of the PNG figures.
        thumbnails: whether the page shows images; without, no picture leaves the data. None: yes, and with ``finished``, as the run before.
        progress: told what happens; silent by default.

    Raises:
        UsageError, DataError, ResourceError, IntegrityError, NotEnoughData: see each; nothing already stored is lost.
    """
    progress = progress or Progress()
    study = study if isinstance(study, Study) else read_study(study)
    study = replace(study, out=Path(out) if out is not None else study.out, store=Path(store) if store is not None else study.store)
    Where.parse(cluster, jobs=jobs)  # what is wrong with it is said before hours of embedding
    started = time.time(), time.process_time()
    check_out(study, overwrite=overwrite, finished=finished)
    if finished and thumbnails is None:
        thumbnails = old_run(study).get("thumbnails") is not False
    made = plan(study, strict=strict, probe=False)
    if finished:
        _check_finished(made)
    made.store.prepare(need=sum(step.todo for step in made.steps if step.stage == "embed") * 8192)
    work: list[dict[str, Any]] = []
    if made.transfer is not None and made.transfer.wholes and not all(pretrained(made.store, unit.key) for unit, _ in made.transfer.wholes.values()):
        progress.say("pretraining the networks that measures look through")
        before = time.monotonic()
        run_units(made.transfer.only_pretrainings, progress=progress.say, jobs=jobs, cluster=cluster)
        left = tuple(unit for unit in made.transfer.pretrainings if not pretrained(made.store, unit.key))
        work.append(_row("pretrain", "networks that measures look through", len(made.transfer.pretrainings) - len(left), "networks", before))
        made = replace(made, transfer=replace(made.transfer, pretrainings=left))
    scored = score_study(made, progress, strict=strict, effort=Effort(batch_size, workers, backend))
    before = time.monotonic()
    transfer = _finetune(made, scored.kept, progress, jobs=jobs, cluster=cluster)
    if transfer is not None and study.protocol is not None:
        work.append(_row("finetune", study.protocol.network, transfer.made, "networks", before))
    progress.say("correlating scores with transfer, writing tables and page")
    content = with_work(content_of(made, scored, transfer, progress, thumbnails=thumbnails is not False), study, (*scored.work, *work))
    asked = frozenset() if study.all_methods else frozenset(m.name for m in study.methods)
    fresh = sum(not s.stored for s in scored.scores)
    results = Results(content, study.out, study.out / "report.html", tuple(scored.embedded), fresh, len(scored.scores) - fresh, transfer, asked, scored.looked)
    write_results(results, made, started, figure_size=figure_size, dpi=dpi)
    return results


def _check_finished(made: Plan) -> None:
    """Refuses a plan of which something is left to do."""
    left = [f"{step.stage} {step.item}: {step.todo:,} of {step.total:,} {step.unit}" for step in made.steps if step.todo]
    if left:
        shown = "; ".join(left[:5]) + (f"; and {len(left) - 5} more" if len(left) > 5 else "")
        fix = "run the study (simkit run, or on a cluster), which finds again what is finished; or make the report of its tables: simkit report scores.csv"
        raise UsageError("SK111", made.study.name, f"the study is not finished: {shown}", fix)


def _row(stage: str, item: str, count: int, unit: str, since: float) -> dict[str, Any]:
    """What took how long, for :attr:`~simkit.report.Content.work`."""
    return {"stage": stage, "item": item, "count": count, "unit": unit, "seconds": time.monotonic() - since}


def score_study(made: Plan, progress: Progress, *, strict: bool, effort: Effort) -> Scored:
    """Cards, embeddings, scores and copies of a plan; the data sets come back without their unreadable images."""
    from simkit.device import resolve_device

    study, store = made.study, made.store
    cards: dict[str, DatasetCard] = {}
    kept: dict[str, Dataset] = {}
    for name, dataset in made.datasets.items():
        cards[name], kept[name] = read_card(dataset, store, progress, strict=strict)
    embedded: list[Embedded] = []
    if any(m.view == "embedding" for m in made.methods):
        sessions = Sessions(study.extractor, str(resolve_device(study.device)), effort)
        for dataset in kept.values():
            embedded.append(embed_dataset(dataset, sessions, store, progress))
            progress.say(embedded[-1].line)
        for one in embedded:  # an image whose decoding failed only now is in no score, and in no key of one
            if len(one.dataset) != len(kept[one.dataset.name]):
                kept[one.dataset.name] = one.dataset
                cards[one.dataset.name] = card_of(one.dataset)[0]
    work: list[dict[str, Any]] = [{"stage": "embed", "item": one.dataset.name, "count": one.computed, "unit": "images", "seconds": one.seconds}
                                  for one in embedded]
    before = time.monotonic()
    looked_at = sum(unseen(study, kept, store).values())
    copies = copies_of(study, kept, {one.dataset.name: one.embedding for one in embedded}, store, progress)
    work.append(_row("look for copies", "targets and sources", looked_at, "images", before))
    in_space = projected(embedded, study.projection, {*study.sources, *study.targets}, progress)
    before = time.monotonic()
    scores, refused = _scores(made, kept, cards, in_space, progress)
    work.append(_row("score", "pairs of data sets", sum(not one.stored for one in scores), "scores", before))
    looked = (0, 0)
    networked = [m for m in made.methods if m.view == "network"]
    if networked:
        before = time.monotonic()
        more, also, looked = scores_of_networks(made, networked, kept, progress, effort)
        work.append(_row("score", "targets through networks of sources", sum(not one.stored for one in more), "scores", before))
        order = {m.name: place for place, m in enumerate(made.methods)}
        scores, refused = sorted([*scores, *more], key=lambda s: order[s.estimator.name]), [*refused, *also]
    if study.unrelated is not None and study.unrelated.name not in {*study.sources, *study.targets}:
        for found in (cards, kept):
            del found[study.unrelated.name]
    fresh = sum(not s.stored for s in scores)
    progress.say(f"{len(scores)} scores of {len(made.methods)} methods ({fresh} computed, {len(scores) - fresh} found in the store)")
    return Scored(cards, kept, in_space, scores, refused, looked, copies, tuple(work))


def _scores(
    made: Plan, kept: Mapping[str, Dataset], cards: Mapping[str, DatasetCard], embedded: list[Embedded], progress: Progress,
) -> tuple[list[PairScore], list[Unavailable]]:
    """Scores of the measures that look through no network, and those that turned out to be impossible."""
    from simkit.device import resolve_device

    study, store = made.study, made.store
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
            for found in (views["embedding"], views["card"]):
                del found[unrelated.name]
    return score_all(others, views, digests, pairs, store, sampling=study.sampling, ceiling=ceiling, progress=progress)


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


def _finetune(made: Plan, kept: Mapping[str, Dataset], progress: Progress, *, jobs: int, cluster: str | None) -> TransferResult | None:
    if made.transfer is None:
        return None
    same = all(len(kept[name]) == len(made.readable[name]) for name in kept)
    units = made.transfer if same else plan_transfer(made.study, kept, made.store, progress)
    return run_units(units, progress=progress.say, jobs=jobs, cluster=cluster)
