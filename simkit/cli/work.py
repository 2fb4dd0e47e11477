"""run, embed, distance, finetune."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from simkit.cli.output import Output, check_outputs, data_options, device_options, figure_options, output_options, settings, width
from simkit.errors import UsageError

cluster_option = click.option(
    "--cluster", default=None, metavar="ray[:ADDRESS]",
    help="Fine-tune on a Ray cluster: ray:auto (the one this machine is part of), ray:HOST:PORT, or ray (one of its own here). "
         "All machines must see the store under the same path.")


@click.command()
@click.argument("study", type=click.Path())
@click.option("--dry-run", is_flag=True, help="Print the plan: what will be computed, what is stored, what cannot be and why, an estimate of the work.")
@click.option("--out", type=click.Path(), default=None, help="Output folder (default: the study's `out`, or results/<study> beside the file).")
@click.option("--overwrite", is_flag=True, help="Allow an output folder that another configuration made.")
@click.option("--jobs", type=click.IntRange(0), default=0, show_default=True, help="Fine-tuning runs at a time; 0: one a core (one on a GPU).")
@cluster_option
@click.option("--device", default=None, help="auto, cpu, cuda, cuda:1 or mps, instead of the study's.")
@figure_options
@device_options
@output_options
def run(
    study: str, dry_run: bool, out: str | None, overwrite: bool, jobs: int, cluster: str | None, device: str | None,
    figure_size: Literal["page", "single", "double"], dpi: int, thumbnails: bool | None, batch_size: int | None,
    workers: int | None, backend: str, store: str | None, strict: bool, json_target: str | None, quiet: bool, no_color: bool,
) -> int:
    """Run the study in the TOML file STUDY: embed, distance, finetune, correlate, report.

    Finished work is found in the store, so a second run does nothing twice and an interrupted one goes on.
    """
    from dataclasses import replace

    from simkit.execution import Where
    from simkit.pipeline import plan
    from simkit.pipeline import run as run_study
    from simkit.study import read_study

    output = Output(json_target, quiet)
    made = read_study(study)
    made = replace(made, device=device or made.device, protocol=made.protocol and replace(made.protocol, device=device or made.protocol.device))
    if dry_run:
        Where.parse(cluster, jobs=jobs)
        made = replace(made, store=Path(store) if store else made.store, out=Path(out) if out else made.out)
        planned = plan(made, strict=strict)
        output.result(planned.text(), planned.as_dict(), [f"{s.stage} {s.item}" for s in planned.steps if s.todo])
        return 0
    results = run_study(made, out=out, store=store, overwrite=overwrite, strict=strict, batch_size=batch_size, workers=workers, backend=backend, jobs=jobs,
                        cluster=cluster, figure_size=figure_size, dpi=dpi, thumbnails=thumbnails, progress=output)
    from simkit.report import summary_text

    text = "\n".join([summary_text(results.content, width()), "", results.done_line, f"report: {results.page}"])
    value = {
        "study": made.name, "out": str(results.out), "page": str(results.page), "answers": dict(results.content.answers),
        "scores": list(results.scores.records), "transfer": list(results.performance.records) if results.performance else None,
        "correlation": results.correlation.as_dict() if results.correlation else None, "done": results.done_line, "incomplete": list(results.incomplete),
    }
    output.result(text, value, [str(results.page)])
    return output.finish(results.incomplete, failed=results.failed)


@click.command()
@click.argument("data", nargs=-1, required=True)
@click.option("--extractor", default="torchvision", show_default=True, help="Name of the extractor (`simkit list`), or module:Class.")
@click.option("--set", "pairs", multiple=True, metavar="K=V", help="Option of the extractor, such as network=resnet18.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--projection", default=None, metavar="pca:K|random:K", help="Reduce the features in --out to K dimensions (PCA: fitted on all of DATA).")
@click.option("--out", type=click.Path(), default=None, help="Also write NAME.npz per data set into this folder: features, labels, classes, keys, groups.")
@data_options
@device_options
@output_options
def embed(
    data: tuple[str, ...], extractor: str, pairs: tuple[str, ...], device: str, projection: str | None, out: str | None, study: str | None,
    data_settings: tuple[str, ...], batch_size: int | None, workers: int | None, backend: str, store: str | None, strict: bool, json_target: str | None,
    quiet: bool, no_color: bool,
) -> int:
    """Embed each of DATA: a folder with one folder per class, a table, a zip, an .npz, tar shards, DICOM or NIfTI folders, samples:NAME, or a
    study's name (`simkit list` shows all sources).

    Rows are stored by the recipe of the extractor and the content of the images: what is there is not embedded again, and a run that was
    stopped goes on where it was. Images that cannot be read are named, skipped and counted (exit status 4).
    """
    from simkit.extractors.projection import projection_of
    from simkit.files import check_writable
    from simkit.pipeline.commands import embedded, extractor_of, load
    from simkit.pipeline.stages import Effort
    from simkit.study import read_study

    output = Output(json_target, quiet)
    reduced = projection_of(projection, "--projection")
    if reduced is not None and out is None:
        raise UsageError("SK104", "--projection", "reduces the features that --out writes, and there is no --out", "add --out FOLDER")
    if out is not None:
        if Path(out).is_file():
            raise UsageError("SK102", "--out", f"{out} is a file, a folder is wanted", "name a folder; one .npz per data set is written there")
        check_writable(Path(out) / "embedding.npz")
    made = extractor_of({extractor: settings(pairs, "--set")})
    read = read_study(study) if study else None
    options = settings(data_settings, "--data-set")
    datasets = [load(one, study=read, **options) for one in data]
    _unique([d.name for d in datasets])
    for dataset in datasets:
        if empty := [name for name, count in dataset.class_counts.items() if not count]:
            output.say(f"{dataset.name}: no image of {', '.join(empty[:5])}{' ...' if len(empty) > 5 else ''}")
    done = embedded(datasets, made, device=device, effort=Effort(batch_size, workers, backend), store=store, strict=strict, progress=output, projection=reduced)
    rows: list[dict[str, Any]] = []
    skipped: list[str] = []
    for one in done:
        skipped += [f"{s.dataset}: {s.key} skipped: {s.reason}" for s in one.dataset.skipped]
        for remark, count in one.remarks.items():
            output.say(f"{one.dataset.name}: {remark}: {count:,} image{'' if count == 1 else 's'}")
        rows.append({
            "name": one.dataset.name, "images": len(one.embedding), "features": one.embedding.dimension, "embedded": one.computed, "stored": one.stored,
            "skipped": len(one.dataset.skipped), "seconds": round(one.seconds, 2), "extractor": one.embedding.extractor,
            "fingerprint": one.dataset.fingerprint, "remarks": dict(one.remarks),
            "skipped_images": [{"key": s.key, "reason": s.reason} for s in one.dataset.skipped],
        })
        if out is not None:
            path = one.embedding.to_npz(Path(out) / f"{_file_name(one.dataset.name)}.npz", skipped=len(one.dataset.skipped))
            output.say(f"wrote {path}")
    lines = [f"{r['name']}  {r['images']} images  {r['features']} features  extractor {r['extractor'][:12]}"
             + (f"  ({r['skipped']} skipped)" if r["skipped"] else "") for r in rows]
    output.result("\n".join(lines), rows, [str(r["name"]) for r in rows])
    return output.finish(skipped)


def _file_name(name: str) -> str:
    """A data set's name as a file name."""
    import re

    return re.sub(r"[^\w.-]+", "-", name)


def _unique(names: list[str]) -> None:
    for name in sorted({n for n in names if names.count(n) > 1}):
        raise UsageError("SK105", "DATA", f"two data sets are called '{name}'", "give them different folder names, or name them in a study file")


@click.command()
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--target", "targets", multiple=True, required=True, help="Target data set; may be given several times.")
@click.option("--method", "methods", multiple=True, default=("otdd",), show_default=True, help="Measure (`simkit list`), module:Class, or all.")
@click.option("--set", "pairs", multiple=True, metavar="[METHOD.]K=V", help="Option of a method, such as otdd.label_cost=exact.")
@click.option("--network", "networks", multiple=True, metavar="NAME=ARCH[:WEIGHTS]",
              help="The network that was trained on source NAME, for measures of transferability: resnet18, resnet18:weights.pth, timm:MODEL, "
                   "resnet18:random. NAME may be one of the SOURCEs, or a source that is known by its network alone. May be given several times.")
@click.option("--network-set", "network_pairs", multiple=True, metavar="K=V", help="Option of every network, such as image_size=64.")
@click.option("--extractor", default="torchvision", show_default=True, help="Name of the extractor (`simkit list`), or module:Class.")
@click.option("--extractor-set", "extractor_pairs", multiple=True, metavar="K=V", help="Option of the extractor, such as network=resnet18.")
@click.option("--projection", default=None, metavar="pca:K|random:K", help="Reduce the features to K dimensions (PCA: fitted on all data sets).")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of every random choice.")
@click.option("--repeats", type=click.IntRange(0), default=10, show_default=True, help="Half-samples for intervals and floors; 0: none.")
@click.option("--size-match", default="auto", show_default=True, metavar="auto|off|N",
              help="Images a side at which each pair is measured; auto: the smallest set among a target and its sources, for measures that depend on n.")
@click.option("--draws", type=click.IntRange(1), default=5, show_default=True, help="Random samples of that size, over which a score is averaged.")
@click.option("--ceiling", default="noise", show_default=True,
              help="Unrelated data set scored as well, to read the scale: noise, none, or a data set's name; with --repeats.")
@click.option("--leakage", type=click.Choice(["near", "exact", "off"]), default="near", show_default=True,
              help="Copies of target images that are looked for in the sources, whose scores are flagged: near (also changed ones), exact, off.")
@click.option("--out", type=click.Path(), default=None, help="Also write the scores to this CSV file.")
@click.option("--study", type=click.Path(), default=None, help="Study file whose data set names may be used.")
@device_options
@output_options
def distance(
    sources: tuple[str, ...], targets: tuple[str, ...], methods: tuple[str, ...], pairs: tuple[str, ...], networks: tuple[str, ...],
    network_pairs: tuple[str, ...], extractor: str, extractor_pairs: tuple[str, ...], projection: str | None, device: str, seed: int, repeats: int,
    size_match: str, draws: int, ceiling: str, leakage: Literal["near", "exact", "off"],
    out: str | None, study: str | None, batch_size: int | None, workers: int | None, backend: str, store: str | None, strict: bool,
    json_target: str | None, quiet: bool, no_color: bool,
) -> int:
    """Score every SOURCE against every target: paths, samples:NAME or names of --study.

    Each score comes with its number of images, a 95 % interval, the floor (the value between two halves of the target; of a measure of transferability,
    the value that shuffled labels give), the ceiling (the value of pictures of noise) and, where the measure has a test, a permutation p-value; with --json,
    also with the evidence behind it (parts, bounds, errors). Measures of transferability (logme, leep, knn ...) look at the target through the network
    that was trained on each source: name it with --network, or in [networks] of --study.
    """
    from simkit.estimators.comparison import Sampling
    from simkit.extractors.projection import projection_of
    from simkit.pipeline.commands import scored, study_of
    from simkit.pipeline.contents import method_info
    from simkit.pipeline.stages import Effort
    from simkit.report import scores_text

    output = Output(json_target, quiet)
    specs = with_settings(methods, pairs)
    given = _networks(networks, network_pairs)
    if not sources and not given:
        raise UsageError("SK104", "SOURCE", "no source is named", "name data sets, or networks with --network NAME=ARCH[:WEIGHTS]")
    chosen = {extractor: settings(extractor_pairs, "--extractor-set")}
    _check_common(specs, extractor != "torchvision" or bool(extractor_pairs), projection)
    sampling = Sampling(seed, repeats, _size_match(size_match), draws)
    made = study_of(sources, list(targets), specs, extractor=chosen, study=study, sampling=sampling, ceiling=ceiling, device=device, store=store,
                    projection=projection_of(projection, "--projection"), networks=given, leakage=leakage)
    table, unavailable, kept, details = scored(made, effort=Effort(batch_size, workers, backend), strict=strict, progress=output)
    if out:
        table.to_csv(out)
        output.say(f"wrote {len(table)} scores to {out}")
    for name in (name for name in made.targets if name in made.sources):
        output.say(f"{name} -> {name}: left out, a data set is no source for itself")
    named = {m.name for m in made.methods} if not made.all_methods else set()
    left_out = [f"{u.method} {u.source} -> {u.target}: {u.reason}" for u in unavailable]
    skipped = [f"{s.dataset}: {s.key} skipped: {s.reason}" for d in kept.values() for s in d.skipped]
    text = scores_text(table, width(), methods=[method_info(m) for m in made.methods]) if len(table) else "no score could be computed"
    if left_out:
        text += "\n\ncannot be computed:\n" + "\n".join(f"  {line}" for line in _grouped(unavailable))
    rows = [{**record, "detail": dict(detail)} for record, detail in zip(table.records, details, strict=True)]
    value = {"scores": rows, "unavailable": left_out, "skipped": skipped}
    ids = [f"{r['source']}\t{r['target']}\t{r['method']}\t{r['value']!r}" + ("" if r["converged"] else "\tnot converged") for r in table.records]
    output.result(text, value, ids)
    status = output.finish([*skipped, *(f"{u.method} {u.source} -> {u.target}: {u.reason}" for u in unavailable if u.method in named)])
    return status if len(table) else NOTHING


NOTHING = 7
"""Exit status where not one score could be computed."""


def _check_common(specs: list[Any], extractor: bool, projection: str | None) -> None:
    """Refuses options of the common space where every measure looks through a network: they would change nothing."""
    from simkit.registry import ESTIMATORS

    if (extractor or projection) and "all" not in specs and all(ESTIMATORS.build(spec, "methods").view == "network" for spec in specs):
        given = "--projection" if projection else "--extractor and --extractor-set"
        message = f"{given}: the methods look through the network of each source and do not use a common space"
        raise UsageError("SK108", "distance", message, "leave it out; options of the networks are given by --network-set")


def _networks(texts: tuple[str, ...], pairs: tuple[str, ...]) -> dict[str, Any]:
    """Source -> its network, of --network and --network-set."""
    from simkit.study import network_of

    options = settings(pairs, "--network-set")
    if options and not texts:
        raise UsageError("SK102", "--network-set", "no --network is given", "give --network NAME=ARCH[:WEIGHTS], or leave it out")
    made: dict[str, Any] = {}
    for text in texts:
        one = network_of(text, options)
        if one.name in made:
            raise UsageError("SK105", "--network", f"'{one.name}' is given twice", "give each source one network")
        made[one.name] = one
    return made


def _size_match(text: str) -> Any:
    """auto, off, or a number of images."""
    return int(text) if text.isdigit() else text


def _grouped(unavailable: Any) -> list[str]:
    reasons: dict[tuple[str, str], int] = {}
    for u in unavailable:
        reasons[u.method, u.reason] = reasons.get((u.method, u.reason), 0) + 1
    return [f"{method}: {reason} ({count} pair{'s' if count > 1 else ''})" for (method, reason), count in reasons.items()]


def with_settings(methods: tuple[str, ...], pairs: tuple[str, ...]) -> list[Any]:
    """Methods with the options of --set; an option without a method's name belongs to the only method."""
    options: dict[str, dict[str, Any]] = {name: {} for name in methods if name != "all"}
    for key, value in settings(pairs, "--set").items():
        method, dot, name = key.partition(".")
        if not dot and len(methods) == 1 and methods[0] != "all":
            method, name = methods[0], key
        if method not in options and "all" in methods and dot:
            options[method] = {}
        if method not in options or not name:
            known = ", ".join(options) or "none"
            fix = f"write --set METHOD.option=value; methods: {known}; options of the extractor: --extractor-set"
            raise UsageError("SK101", "--set", f"'{key}' does not name one of the methods", fix)
        options[method][name] = value
    return [*({name: chosen} for name, chosen in options.items()), *(["all"] if "all" in methods else [])]


@click.command()
@click.argument("study", type=click.Path())
@click.option("--dry-run", is_flag=True, help="Print the plan: runs, images, minutes (measured on a few batches), disk; train nothing.")
@click.option("--out", type=click.Path(), default=None, help="Also write the results to this CSV file (one row a fold and metric).")
@click.option("--predictions", type=click.Path(), default=None, help="Also write the prediction of each test image to this Parquet file.")
@click.option("--tensorboard", type=click.Path(), default=None, metavar="FOLDER", help="Write TensorBoard logs of every training into this folder.")
@click.option("--jobs", type=click.IntRange(0), default=0, show_default=True,
              help="Runs at a time, in processes of their own; 0: one per GPU, or one per `threads` cores.")
@cluster_option
@click.option("--store", type=click.Path(), default=None, help="Root of the store.")
@click.option("--strict", is_flag=True, help="Stop before the work when an image cannot be read.")
@click.option("--device", default=None, help="auto, cpu, cuda, cuda:1 or mps, instead of the study's.")
@output_options
def finetune(
    study: str, dry_run: bool, out: str | None, predictions: str | None, tensorboard: str | None, jobs: int, cluster: str | None, store: str | None,
    strict: bool, device: str | None, json_target: str | None, quiet: bool, no_color: bool,
) -> int:
    """Pretrain on each source of STUDY, fine-tune on each target in k folds, and report the AUC of each held-out fold.

    Every finished run is kept, and each epoch of the others: after a kill the same command goes on. Several of these commands, on one or more
    machines, share the work when they share the store. Exit status 1, with a list, when runs failed (such as a loss that became NaN); 4 when images
    could not be read.
    """
    from dataclasses import replace

    from simkit.files import check_writable
    from simkit.pipeline.commands import finetuned, transfer_plan
    from simkit.study import read_study

    output = Output(json_target, quiet)
    made = read_study(study)
    made = replace(made, device=device or made.device)
    made = replace(made, protocol=made.protocol and replace(made.protocol, device=device or made.protocol.device))
    check_outputs([out, json_target], [study])
    _check_predictions(predictions, [out, json_target, study])
    if tensorboard is not None:
        check_writable(Path(tensorboard) / "events")
    if dry_run:
        _, planned, _ = transfer_plan(made, store=store, jobs=jobs, cluster=cluster, strict=strict, progress=output)
        output.result("\n".join(planned.lines()), planned.as_dict(), [run.label for run in planned.todo])
        return 0
    result, skipped = finetuned(made, store=store, jobs=jobs, cluster=cluster, strict=strict, logs=tensorboard, progress=output)
    if out:
        result.table.to_csv(out)
        output.say(f"wrote {len(result.table)} rows to {out}")
    if predictions and result.predictions is not None:
        result.predictions(Path(predictions))
        output.say(f"wrote the predictions to {predictions}")
    text, answers = _transfer_text(made.name, made.targets, made.seed, result)
    value = {
        "transfer": list(result.table.records), "answers": answers, "trained": result.made, "found": result.found,
        "leaky": [{"source": s, "target": t, "images": count} for (s, t), count in result.leaky.items()], "failures": [one.text for one in result.failures],
        "skipped": [f"{one.dataset}: {one.key} skipped: {one.reason}" for one in skipped], "notes": list(result.notes),
    }
    ids = [f"{r['source']}\t{r['target']}\t{r['seed']}\t{r['fold']}\t{r['metric']}\t{r['value']!r}" for r in result.table.records]
    output.result(text, value, ids)
    return output.finish([f"{one.dataset}: {one.key} skipped: {one.reason}" for one in skipped], failed=[one.text for one in result.failures])


def _check_predictions(path: str | None, others: list[str | None]) -> None:
    """The Parquet file can be written, and is none of the other files of the command."""
    from simkit.files import check_writable

    if path is None:
        return
    if any(other is not None and Path(other).resolve() == Path(path).resolve() for other in others):
        raise UsageError("SK107", "--predictions", f"{path} is named for something else too", "give the predictions a file of their own")
    check_writable(path)


def _transfer_text(name: str, targets: tuple[str, ...], seed: int, result: Any) -> tuple[str, dict[str, str]]:
    """The ranking per target, and what was trained, for the terminal; and the answers by target."""
    from simkit.correlation import answer, rank_sources
    from simkit.report import Content, ranking_text
    from simkit.tables import ScoreTable

    ranking = rank_sources(result.table, seed=seed)
    answers = {target: answer(target, ranked) for target, ranked in ranking.items()}
    sources = tuple(dict.fromkeys(str(r["source"]) for r in result.table.records))
    content = Content(name, (), sources, targets, "", ScoreTable(()), transfer=result.table, ranking=ranking, answers=answers)
    leaky = [f"leaky: {source} -> {target}: the pretraining has seen {count} test images" for (source, target), count in result.leaky.items()]
    return "\n".join([ranking_text(content, width()), "", *leaky, f"trained {result.made} networks ({result.found} found in the store)"]), answers
