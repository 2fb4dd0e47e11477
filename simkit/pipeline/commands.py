"""The public functions that mirror the commands: load, card, embed, distance, finetune."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from simkit.dataset import Dataset, DatasetCard, Skipped
from simkit.errors import DataError, Problems, UsageError, nearest
from simkit.estimators.comparison import Sampling, SizeMatch
from simkit.execution import Where
from simkit.extractors.base import Extractor
from simkit.extractors.projection import Projection, projection_of
from simkit.pipeline.contents import score_table
from simkit.pipeline.planning import plan, plan_transfer
from simkit.pipeline.progress import Progress
from simkit.pipeline.running import score_study
from simkit.pipeline.stages import Effort, Embedded, Sessions, check_projection, embed_dataset, projected, read_card, space_of, strictly
from simkit.registry import ESTIMATORS, EXTRACTORS, SOURCES, build_options
from simkit.report.content import Unavailable
from simkit.sources import detect, name_for
from simkit.store import Store
from simkit.study import DatasetSpec, Leakages, NetworkSpec, Study, all_methods, load_datasets, network_of, read_study
from simkit.tables import ScoreTable
from simkit.transfer import TransferPlan, TransferResult, run_units

__all__ = ["card", "distance", "embed", "finetune", "load", "resolve", "study_of"]

DataLike = str | os.PathLike[str] | Dataset


def load(data: DataLike, *, name: str | None = None, study: Study | str | os.PathLike[str] | None = None, **options: Any) -> Dataset:
    """A data set from a path or name that one of the sources reads (`simkit list`: folder, table, zip, npz, ...), or a study file's name.

    Args:
        data: path, ``SOURCE:NAME`` such as ``samples:digits``, or a name of ``study``.
        name: what the data set is called in tables; default: the file's or folder's name.
        study: a study file (or Study) whose data set names ``data`` may use.
        **options: options of the source (`simkit list folder`, `table`, `npz`).

    Raises:
        UsageError: unknown name or option. DataError: what is wrong in the data, all of it at once.
    """
    if isinstance(data, Dataset):
        return data
    spec, base = resolve(data, name=name, study=study, options=options)
    return spec.load(base)


def resolve(
    data: DataLike, *, name: str | None = None, study: Study | str | os.PathLike[str] | None = None, options: Mapping[str, Any] | None = None,
) -> tuple[DatasetSpec, Path]:
    """The source behind a path or name, without reading it, and the folder that its relative paths start from."""
    text = os.fspath(data)  # type: ignore[arg-type]
    if study is not None:
        study = study if isinstance(study, Study) else read_study(study)
        if text in study.datasets:
            return study.datasets[text], study.base
    try:
        spec = detect(text)
    except DataError as error:
        if study is None or Path(text).exists():
            raise
        names, networks = ", ".join(study.datasets), ", ".join(study.networks)
        message = f"is neither a data set of the study{nearest(text, (*study.datasets, *study.networks))} nor a path"
        known = f"data sets of {study.name}: {names}" + (f"; networks, as sources of measures that look through one: {networks}" if networks else "")
        raise DataError("SK201", text, message, known) from error
    merged = {**spec.options, **(options or {})}
    exclude = merged.pop("exclude", None)
    source = SOURCES.get(spec.name)(**build_options(SOURCES.get(spec.name), merged, spec.name))
    stem = name or name_for(text)
    return DatasetSpec(stem, source, exclude=None if exclude is None else Path(str(exclude))), Path.cwd()


def card(data: DataLike, *, store: Store | None = None, progress: Progress | None = None, **options: Any) -> DatasetCard:
    """The card of a data set: counts, sizes, colour, tags, histogram statistics; reads every image once.

    Args:
        data: as for :func:`load`.
        store: where the card is kept.
        progress: told what happens.
        **options: options of the source.
    """
    return read_card(load(data, **options), store or Store(), progress or Progress())[0]


def extractor_of(extractor: str | Mapping[str, Any] | Extractor) -> Extractor:
    """An extractor from its name, ``{name = {option = value}}``, or itself; checked."""
    made: Extractor = extractor if isinstance(extractor, Extractor) else EXTRACTORS.build(extractor, "extractor")
    made.check()
    return made


def embed(
    data: DataLike, *, extractor: str | Mapping[str, Any] | Extractor = "torchvision", device: str = "auto", batch_size: int | None = None,
    workers: int | None = None, backend: str = "auto", store: Store | str | os.PathLike[str] | None = None, strict: bool = False,
    progress: Progress | None = None, **options: Any,
) -> Any:
    """The embedding of a data set; images that are in the store already are not embedded again.

    Args:
        data: as for :func:`load`.
        extractor: name, ``{name: {option: value}}`` or an Extractor (`simkit list`).
        device: "auto", "cpu", "cuda", "cuda:1" or "mps"; a device that is not there is an error, never a fallback.
        batch_size: images per batch; default: found by trying, and halved where the device's memory is full. Not part of the recipe.
        workers: decoding processes; default: one a core.
        backend: what computes a network on the CPU: "auto", "torch", "compile", "openvino" or "onnxruntime"; an engine must agree with torch.
        store: the store or its root.
        strict: refuse images that cannot be read, instead of leaving them out (``Embedding.keys`` names those that are in).
        progress: told what happens.
        **options: options of the source.

    Returns:
        Embedding: features float32 (n, d) with labels, groups and keys; ``.frame`` is a pandas DataFrame.
    """
    return embedded([load(data, **options)], extractor_of(extractor), device=device, effort=Effort(batch_size, workers, backend), store=store,
                    strict=strict, progress=progress)[0].embedding


def embedded(
    datasets: Sequence[Dataset], extractor: Extractor, *, device: str, effort: Effort, store: Store | str | os.PathLike[str] | None,
    strict: bool, progress: Progress | None, projection: Projection | None = None,
) -> list[Embedded]:
    """:func:`embed` for several data sets, with what it took: images computed, found, skipped, seconds. A projection is fitted on all of them."""
    from simkit.device import resolve_device

    place = store if isinstance(store, Store) else Store(store)
    chosen = str(resolve_device(device))
    progress = progress or Progress()
    if strict:
        for dataset in datasets:
            strictly(read_card(dataset, place, progress, strict=True)[1])
    sessions = Sessions(extractor, chosen, effort)
    check_projection(projection, datasets)
    done = []
    for dataset in datasets:
        done.append(embed_dataset(dataset, sessions, place, progress))
        progress.say(done[-1].line)
    return projected(done, projection, [dataset.name for dataset in datasets], progress)


def distance(
    sources: Sequence[DataLike], targets: DataLike | Sequence[DataLike], methods: Sequence[str | Mapping[str, Any]] | str = ("otdd",), *,
    networks: Mapping[str, Any] | None = None, extractor: str | Mapping[str, Any] | Extractor = "torchvision",
    study: Study | str | os.PathLike[str] | None = None, seed: int = 0, repeats: int = 10,
    size_match: SizeMatch = "auto", draws: int = 5, ceiling: str = "noise", leakage: Leakages = "near", projection: str | None = None, device: str = "auto",
    batch_size: int | None = None, workers: int | None = None, backend: str = "auto", store: str | os.PathLike[str] | None = None, strict: bool = False,
    progress: Progress | None = None,
) -> ScoreTable:
    """Scores of every source-target pair by every method.

    Args:
        sources: data sets, as for :func:`load`; may be empty where there are ``networks``.
        targets: one or several data sets.
        methods: names or ``{name: {option: value}}``; "all" for every method that the data sets allow.
        networks: source -> the network that was trained on it, for measures of transferability: "resnet18", "resnet18:weights.pth",
            "timm:MODEL", ``{"checkpoint": {"network": ..., "path": ...}}``, or an Extractor. A name that is none of the data sets is a source that is known
            by its network alone. A source that ``study`` has in [networks] brings its own.
        extractor: of the embeddings.
        study: a study file whose data set names may be used.
        seed: of every random choice.
        repeats: half-samples for intervals and floors; 0: none, else at least 3.
        size_match: images a side at which every pair is measured; "auto": for measures that depend on the sample sizes, the smallest data set among a
            target and its sources; "off": all images.
        draws: random samples of that size, over which a score is averaged.
        ceiling: unrelated data set that is scored against each target as well: "noise", "none", or one of the data sets.
        leakage: copies of target images that are looked for in the sources, whose scores are flagged: "near" (also changed copies), "exact", "off".
        projection: "pca:64" or "random:64": features are reduced to so many dimensions; PCA is fitted on all data sets that are named here.
        device, batch_size, workers, backend, store, strict, progress: as for :func:`embed`.

    Returns:
        ScoreTable: one row per (source, target, method); ``.frame`` is a pandas DataFrame.
    """
    made = study_of(sources, targets, methods, extractor=extractor, study=study, sampling=Sampling(seed, repeats, size_match, draws), ceiling=ceiling,
                    device=device, store=store, projection=projection_of(projection, "projection"), networks=specs_of(networks or {}), leakage=leakage)
    return scored(made, effort=Effort(batch_size, workers, backend), strict=strict, progress=progress)[0]


def scored(
    study: Study, *, effort: Effort, strict: bool, progress: Progress | None,
) -> tuple[ScoreTable, tuple[Unavailable, ...], dict[str, Dataset], tuple[Mapping[str, Any], ...]]:
    """The score table of a study, what could not be computed, the data sets without unreadable images, and the evidence behind each score."""
    made = plan(study, strict=strict, probe=False)
    made.store.prepare(need=sum(step.todo for step in made.steps if step.stage == "embed") * 8192)
    found = score_study(made, progress or Progress(), strict=strict, effort=effort)
    extractor = space_of(study, made.store, found.kept)
    table = score_table(found.scores, found.kept, extractor[:12], made.networks, found.leakage)
    return table, (*made.impossible, *found.refused), dict(found.kept), tuple(s.score.detail for s in found.scores)


def study_of(
    sources: Sequence[DataLike], targets: DataLike | Sequence[DataLike], methods: Sequence[str | Mapping[str, Any]] | str, *,
    extractor: str | Mapping[str, Any] | Extractor, study: Study | str | os.PathLike[str] | None, sampling: Sampling, ceiling: str, device: str,
    store: str | os.PathLike[str] | None, projection: Projection | None = None, networks: Mapping[str, NetworkSpec] | None = None,
    leakage: Leakages = "near",
) -> Study:
    """A study made of paths or names instead of a file. Two data sets of one name are refused.

    A source may be the name of one of ``networks``, or of the study's; networks of the study are taken for the sources that are named.
    """
    many: list[DataLike] = list(targets) if isinstance(targets, (list, tuple)) else [targets]  # type: ignore[list-item]
    read = study if isinstance(study, Study) or study is None else read_study(study)
    specs: dict[str, DatasetSpec] = {}
    origin: dict[str, str] = {}
    names: dict[str, list[str]] = {"sources": [], "targets": []}
    problems = Problems()
    offered = {**(read.networks if read is not None else {}), **(networks or {})}
    taken = dict(networks or {})
    for role, group in (("sources", list(sources)), ("targets", many)):
        for data in group:
            alone = isinstance(data, str) and data in offered and (read is None or data not in read.datasets) and not Path(data).exists()
            if role == "sources" and alone:
                taken[str(data)] = offered[str(data)]
                continue
            spec, base = (_given(data), Path.cwd()) if isinstance(data, Dataset) else resolve(data, study=read)
            key = data.name if isinstance(data, Dataset) else str((base / os.fspath(data)).resolve())
            if spec.name in specs and origin[spec.name] != key:
                problems.add("SK105", str(data), f"two data sets are called '{spec.name}'", "give them different folder names, or name them in a study file")
            if spec.name in names[role]:
                problems.add("SK105", str(data), f"'{spec.name}' is given twice as one of the {role}", "give each data set once")
            specs.setdefault(spec.name, _rooted(spec, base))
            origin.setdefault(spec.name, key)
            names[role].append(spec.name)
    taken |= {name: offered[name] for name in names["sources"] if name in offered}
    if ceiling not in ("noise", "none", *specs):
        problems.add("SK101", "ceiling", f"'{ceiling}' is not one of the data sets{nearest(ceiling, specs)}", f"give noise, none, or one of {', '.join(specs)}")
    problems.raise_if_any(UsageError)
    listed = [methods] if isinstance(methods, str) else list(methods)
    built = [ESTIMATORS.build(m, "methods") for m in listed if m != "all"]
    if "all" in listed:
        built += [m for m in all_methods() if m.name not in {b.name for b in built}]
    return Study(
        name="distance", base=Path.cwd(), datasets=specs, sources=tuple(names["sources"]), targets=tuple(names["targets"]),
        extractor=extractor if isinstance(extractor, Extractor) else EXTRACTORS.build(extractor, "extractor"),  # the plan checks it where it is needed
        methods=tuple(built), all_methods="all" in listed, seed=sampling.seed, repeats=sampling.repeats,
        size_match=sampling.size_match, draws=sampling.draws, ceiling=ceiling, device=device, store=None if store is None else Path(store),
        projection=projection, networks=taken, leakage=leakage,
    )


def specs_of(networks: Mapping[str, Any]) -> dict[str, NetworkSpec]:
    """``{name: network}`` as :func:`distance` takes them."""
    out = {}
    for name, value in networks.items():
        if isinstance(value, str):
            out[name] = network_of(f"{name}={value}")
        else:
            made = value if isinstance(value, Extractor) else EXTRACTORS.build(value, f"networks.{name}")
            out[name] = NetworkSpec(name, made)
    return out


class _InMemory:
    """A source that is a data set which was loaded already."""

    name = "in-memory"

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def load(self, name: str, base: Path) -> Dataset:
        return self.dataset


def _given(dataset: Dataset) -> DatasetSpec:
    return DatasetSpec(dataset.name, _InMemory(dataset))


class _Rooted:
    """A source whose relative paths start from a folder of its own."""

    def __init__(self, source: Any, base: Path):
        self.source, self.base, self.name = source, base, source.name

    def load(self, name: str, base: Path) -> Dataset:
        dataset: Dataset = self.source.load(name, self.base)
        return dataset


def _rooted(spec: DatasetSpec, base: Path) -> DatasetSpec:
    return spec if isinstance(spec.source, _InMemory) else replace(spec, source=_Rooted(spec.source, base))


def finetune(
    study: Study | str | os.PathLike[str], *, store: str | os.PathLike[str] | None = None, jobs: int = 1, cluster: str | None = None,
    strict: bool = False, logs: str | os.PathLike[str] | None = None, progress: Progress | None = None,
) -> TransferResult:
    """Pretrains on every source, fine-tunes on every target, and returns the metrics of each fold; finished runs are found in the store.

    Args:
        study: a study file with a ``[finetune]`` table, or a Study.
        store: root of the store.
        jobs: runs at a time, each in its own process; 0: one per GPU, or one per ``threads`` CPU cores.
        cluster: "ray", "ray:auto" or "ray:HOST:PORT": runs go to a Ray cluster, whose machines must all see the store (see
            :func:`~simkit.transfer.run_units`).
        strict: refuse images that cannot be read.
        logs: folder for TensorBoard logs (extra ``tensorboard``).
        progress: told what happens.

    Returns:
        TransferResult: ``.table`` (TransferTable), ``.failures``, ``.leaky``, ``.notes``, ``.predictions`` (writes them to a file) and what was made and found.
    """
    return finetuned(study, store=store, jobs=jobs, cluster=cluster, strict=strict, logs=logs, progress=progress)[0]


def finetuned(
    study: Study | str | os.PathLike[str], *, store: str | os.PathLike[str] | None = None, jobs: int = 1, cluster: str | None = None,
    strict: bool = False, logs: str | os.PathLike[str] | None = None, progress: Progress | None = None,
) -> tuple[TransferResult, tuple[Skipped, ...]]:
    """:func:`finetune`, and the images that were left out because they cannot be read."""
    place, planned, skipped = transfer_plan(study, store=store, jobs=jobs, cluster=cluster, strict=strict, progress=progress)
    if planned.todo:
        place.prepare(need=planned.bytes)
    return run_units(planned, progress=(progress or Progress()).say, jobs=jobs, cluster=cluster, logs=logs), skipped


def transfer_plan(
    study: Study | str | os.PathLike[str], *, store: str | os.PathLike[str] | None = None, jobs: int = 1, cluster: str | None = None,
    strict: bool = False, progress: Progress | None = None,
) -> tuple[Store, TransferPlan, tuple[Skipped, ...]]:
    """The store, the plan of the fine-tuning of a study, and the images that cannot be read; everything is checked, nothing is trained.

    Images are decoded into the store here, and named weights are downloaded.
    """
    made = study if isinstance(study, Study) else read_study(study)
    if made.protocol is None:
        raise UsageError("SK104", f"{made.name}: finetune", "the study has no [finetune] table", "add one, for example: [finetune] with network = \"resnet18\"")
    Where.parse(cluster, jobs=jobs)
    place = Store(store if store is not None else made.store)
    kept = readable_datasets(made, place, progress or Progress(), strict=strict)
    skipped = tuple(one for dataset in kept.values() for one in dataset.skipped)
    return place, plan_transfer(made, kept, place, progress or Progress(), networks=False), skipped


def readable_datasets(study: Study, store: Store, progress: Progress, *, strict: bool) -> dict[str, Dataset]:
    """The data sets of a study without their unreadable images."""
    used = [name for name in study.datasets if name in {*study.sources, *study.targets}]
    return {name: read_card(dataset, store, progress, strict=strict)[1] for name, dataset in load_datasets(study, used).items()}

