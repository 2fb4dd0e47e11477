"""The study file (TOML): one grammar, ``"name"`` or ``{name = {option = value}}``, checked whole before any work."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from simkit.dataset import NOTIONS, Dataset
from simkit.errors import DataError, Problems, SimkitError, UsageError, nearest
from simkit.estimators.comparison import Sampling, SizeMatch
from simkit.registry import ESTIMATORS, EXTRACTORS, SOURCES, OptionInfo, Registry, Spec, build_options, option, options_of, parse_spec, union_members
from simkit.sources.exclusion import without
from simkit.transfer import Protocol, is_path, presets, protocol_of

__all__ = [
    "CorrelateOptions", "DatasetSpec", "Leakages", "NetworkSpec", "Study", "aliases", "json_schema", "network_of", "read_study", "study_from", "toml_text",
]

CEILING = "(ceiling: noise)"
"""Name of the synthetic unrelated data set; no data set of a user is called so."""

PRESETS_HELP = "values that the other options start from; cats-scans: the set-up of arXiv 2107.05940"

Leakages = Literal["near", "exact", "off"]
"""Which copies of target images are looked for: also changed ones, those of equal bytes or pixels, none."""

DEFAULT_METHODS: tuple[str, ...] = ("otdd", "frechet", "domain-classifier")


def aliases(texts: Sequence[str], where: str) -> tuple[tuple[str, str], ...]:
    """``("a=b", ...)`` as pairs of names that mean the same data set.

    Raises:
        UsageError: a text that is not of the form a=b.
    """
    pairs = []
    for text in texts:
        first, equals, second = (part.strip() for part in text.partition("="))
        if not (first and equals and second) or "=" in second:
            raise UsageError("SK102", where, f"'{text}' is not of the form a=b", "write name=other")
        pairs.append((first, second))
    return tuple(pairs)


@dataclass(frozen=True)
class CorrelateOptions:
    """The ``[correlate]`` table of a study file."""

    permutations: int = option(9999, "joint permutations of the source labels for the p-value", minimum=99)
    bootstraps: int = option(2000, "two-way bootstrap draws for the intervals", minimum=100)
    alias: tuple[str, ...] = option((), "pairs 'a=b' of names that mean the same data set; such pairs count as self pairs")

    def __post_init__(self) -> None:
        aliases(self.alias, "correlate.alias")


@dataclass(frozen=True)
class DatasetSpec:
    """One entry of ``[datasets]``: a source with its options, keywords, answers to the questions of the questionnaire, and a list of images to leave out."""

    name: str
    source: Any
    tags: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    exclude: Path | None = None

    def load(self, base: Path) -> Dataset:
        """Reads the data set (labels and paths; images only when they are needed)."""
        dataset: Dataset = self.source.load(self.name, base)
        if self.exclude is not None:
            dataset = without(dataset, base / self.exclude)
        tags = tuple(dict.fromkeys((*dataset.tags, *self.tags)))
        return replace(dataset, tags=tags, attributes={**dataset.attributes, **self.attributes})


@dataclass(frozen=True)
class NetworkSpec:
    """One entry of ``[networks]``: the network that was trained on a source.

    Attributes:
        name: of the source; one of the data sets, or the name of a source that is known by its network alone.
        extractor: the network.
        images: that it was trained on, for ``source-size``; None where nobody said so.
    """

    name: str
    extractor: Any
    images: int | None = None


@dataclass(frozen=True)
class Study:
    """A study, every name resolved and every option checked.

    Attributes:
        name: of the study; names the output folder.
        base: folder that relative paths start from (that of the file).
        datasets: by name.
        sources: names of the candidate sources that are data sets.
        targets: names of the targets.
        extractor: of the embeddings.
        projection: that reduces the features ("pca:64", "random:64"), fitted on the sources and targets; or None.
        methods: the measures, in order.
        all_methods: whether ``methods`` was "all": then those that cannot be computed are listed instead of refused.
        seed: of every random choice.
        repeats: half-samples for intervals and floors (0: none).
        size_match: images a side at which every pair is measured; "auto" or "off": see :class:`~simkit.estimators.comparison.Sampling`.
        draws: random samples of that size.
        ceiling: the unrelated data set that is scored against each target as well: "noise" (synthetic), "none", or one of ``datasets``.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        protocol: of the fine-tuning, or None.
        transfer: table of transfer results that were measured elsewhere, or None.
        correlate: options of the statistics.
        store: root of the store, or None for the default.
        out: output folder.
        text: the study file as it was read ("" for a study made in Python).
        networks: source -> the network that was trained on it, for measures of transferability; those of ``[finetune]`` come in addition.
        sources_named: whether ``sources`` was given, or all data sets are taken.
        leakage: which copies of target images are looked for: "near" (also changed ones), "exact", "off".
    """

    name: str
    base: Path
    datasets: Mapping[str, DatasetSpec]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    extractor: Any
    methods: tuple[Any, ...]
    all_methods: bool = False
    seed: int = 0
    repeats: int = 10
    size_match: SizeMatch = "auto"
    draws: int = 5
    ceiling: str = "noise"
    device: str = "auto"
    protocol: Protocol | None = None
    transfer: Path | None = None
    correlate: CorrelateOptions = field(default_factory=CorrelateOptions)
    store: Path | None = None
    out: Path = Path("results")
    text: str = ""
    projection: Any = None
    networks: Mapping[str, NetworkSpec] = field(default_factory=dict)
    sources_named: bool = True
    leakage: Leakages = "near"

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(source, target) names in order, without self pairs."""
        return tuple((s, t) for t in self.targets for s in self.sources if s != t)

    @property
    def sampling(self) -> Sampling:
        """How sure scores are made."""
        return Sampling(self.seed, self.repeats, self.size_match, self.draws)

    @property
    def unrelated(self) -> DatasetSpec | None:
        """The data set whose scores are the ceilings; None where there is none, or no score that could have one."""
        if self.ceiling == "none" or not self.repeats or not any(m.view == "embedding" and m.kind == "distance" for m in self.methods):
            return None
        if self.ceiling in self.datasets:
            return self.datasets[self.ceiling]
        return DatasetSpec(CEILING, SOURCES.build(Spec("noise", {}), "ceiling"))


@dataclass(frozen=True)
class _Top:
    """The simple keys of a study file."""

    study: str = option("", "name of the study; default: the file's name")
    seed: int = option(0, "seed of every random choice", minimum=0)
    repeats: int = option(10, "half-samples for intervals and floors; 0: none", minimum=0)
    size_match: Literal["auto", "off"] | int = option(
        "auto", "images a side at which each pair is measured; auto: the smallest set among a target and its sources, for measures that depend on n", minimum=2)
    draws: int = option(5, "random samples of that size, over which a score is averaged", minimum=1)
    ceiling: str = option("noise", "unrelated data set scored against each target: noise, none, or the name of a data set")
    projection: str = option("", 'features are reduced to so many dimensions by "pca:64" (fitted on all sources and targets) or "random:64"; empty: not at all')
    leakage: Leakages = option("near", "copies of target images looked for in sources and target: near (also changed ones), exact, off")
    device: str = option("auto", "auto, cpu, cuda, cuda:1 or mps")
    targets: tuple[str, ...] = option((), "names of the target data sets")
    sources: tuple[str, ...] = option((), "names of the candidate sources; default: all data sets")
    transfer: Path | None = option(None, "table of transfer results that were measured elsewhere (instead of [finetune])")
    store: Path | None = option(None, "root of the store; default: SIMKIT_STORE or the user's cache folder")
    out: Path | None = option(None, "output folder; default: results/<study> beside the file")


_BESIDE = ("tags", "attributes", "exclude")
"""Keys of a data set beside its source."""

_SPECIAL = ("datasets", "extractor", "methods", "networks", "finetune", "correlate")


def read_study(path: str | os.PathLike[str]) -> Study:
    """The study in a TOML file.

    Raises:
        UsageError: all that is wrong in the file at once, each with its path inside it: syntax (with line and column), unknown keys and
            names (with the nearest right one), wrong types, missing parts.
    """
    path = Path(path)
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        kind = "is not a file" if path.exists() else f"does not exist{nearest(path.name, siblings)}"
        raise UsageError("SK103", str(path), f"the study file {kind}", "check the path; `simkit init` writes a commented study file")
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
        content = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise UsageError("SK103", str(path), f"is not UTF-8 text (byte {error.start})", "save the file as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise _syntax(path, text, error) from error
    return study_from(content, base=path.parent.resolve(), where=path.name, text=text, default_name=path.stem)


def _syntax(path: Path, text: str, error: tomllib.TOMLDecodeError) -> UsageError:
    found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
    lines = text.splitlines() or [""]
    line, column = (int(found[1]), int(found[2])) if found else (len(lines), len(lines[-1]) + 1)
    shown = lines[min(line, len(lines)) - 1].strip()
    reason = re.sub(r" \(at .*\)", "", str(error))
    if "Cannot declare" in reason or "Cannot overwrite" in reason:
        message = f"the same name is given twice: {shown!r}"
        return UsageError("SK105", f"{path}:{line}:{column}", message, "every data set and every option needs a name of its own")
    return UsageError("SK103", f"{path}:{line}:{column}", f"is not valid TOML: {reason}: {shown!r}", "texts need quotes; lists look like [\"a\", \"b\"]")


def study_from(content: Mapping[str, Any], *, base: Path, where: str = "study", text: str = "", default_name: str = "study") -> Study:
    """The study in a parsed file (or a dict of the same form). Raises UsageError with all problems at once."""
    problems = Problems()
    names = [f.name for f in fields(_Top)]
    for key in content:
        if key not in (*names, *_SPECIAL):
            problems.add("SK103", f"{where}: {key}", f"unknown key{nearest(key, (*names, *_SPECIAL))}", f"keys: {', '.join((*names, *_SPECIAL))}")
    top = _top(content, where, problems)
    datasets = _datasets(content.get("datasets"), base, where, problems)
    declared = content.get("datasets") if isinstance(content.get("datasets"), Mapping) else {}
    for key in ("targets", "sources"):
        _check_names(getattr(top, key), tuple(declared or ()), f"{where}: {key}", problems)
    if top.repeats in (1, 2):
        problems.add("SK102", f"{where}: repeats", f"{top.repeats} half-samples give no interval", "give 0 (no interval) or at least 3")
    if top.ceiling not in ("noise", "none"):
        _check_names((top.ceiling,), ("noise", "none", *(declared or ())), f"{where}: ceiling", problems)
    if "targets" not in content:
        problems.add("SK104", f"{where}: targets", "no target is named", 'add targets = ["name of a data set"]')
    extractor = _component(EXTRACTORS, content.get("extractor", "torchvision"), f"{where}: extractor", base, problems)
    projection = _projection(top.projection, f"{where}: projection", problems)
    methods, everything = _methods(content.get("methods", list(DEFAULT_METHODS)), f"{where}: methods", base, problems)
    networks = _networks(content.get("networks", {}), base, f"{where}: networks", problems)
    protocol = _protocol(content, where, base, problems)
    correlate = _table(CorrelateOptions, content, "correlate", where, base, problems) or CorrelateOptions()
    if protocol is not None and top.transfer is not None:
        problems.add("SK103", f"{where}: transfer", "both [finetune] and transfer are given", "keep one: simkit trains, or the table holds the results")
    only_data = all(problem.code.startswith("SK2") for problem in problems.found)  # such as a ratings table that is not there
    problems.raise_if_any(DataError if only_data else UsageError)
    name = top.study or default_name
    return Study(
        name=name, base=base, datasets=datasets, sources=top.sources or tuple(datasets), targets=top.targets, extractor=extractor,
        methods=methods, all_methods=everything, seed=top.seed, repeats=top.repeats, size_match=top.size_match, draws=top.draws, ceiling=top.ceiling,
        device=top.device, protocol=protocol,
        transfer=_absolute(top.transfer, base), correlate=correlate, store=_absolute(top.store, base),
        out=_absolute(top.out, base) or base / "results" / re.sub(r"[^\w.-]+", "-", name), text=text,
        projection=projection, networks=networks, sources_named=bool(top.sources),
        leakage=top.leakage,
    )


def _top(content: Mapping[str, Any], where: str, problems: Problems) -> _Top:
    """The simple keys; one that is wrong is reported and left at its default, so that the rest can still be checked."""
    good = {}
    for info in options_of(_Top):
        if info.name in content:
            try:
                good[info.name] = info.check(content[info.name], f"{where}: {info.name}")
            except UsageError as error:
                problems.catch(error)
    return _Top(**good)


def _projection(text: str, where: str, problems: Problems) -> Any:
    if not text:
        return None
    from simkit.extractors.projection import projection_of

    try:
        return projection_of(text, where)
    except SimkitError as error:
        problems.catch(error)
        return None


def _absolute(path: Path | None, base: Path) -> Path | None:
    return None if path is None else Path(os.path.normpath(base / path.expanduser()))


def _options(cls: Any, values: Any, where: str, problems: Problems) -> Any:
    if not isinstance(values, Mapping):
        problems.add("SK103", where, f"{values!r} is not a table", f"write [{where.split(': ')[-1]}] with one option a line")
        return None
    try:
        return cls(**build_options(cls, values, where))
    except SimkitError as error:
        problems.catch(error)
        return None


def _rooted(cls: Any, options: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The options with relative paths made absolute, from the folder of the study file; before anything reads them."""
    paths = {info.name for info in options_of(cls) if Path in union_members(info.type)}
    rooted: dict[str, Any] = dict(options)
    for key in paths & options.keys():
        if isinstance(options[key], str) and options[key]:
            rooted[key] = str(base / Path(options[key]).expanduser())
    return rooted


def _protocol(content: Mapping[str, Any], where: str, base: Path, problems: Problems) -> Protocol | None:
    """The ``[finetune]`` table: its preset with its own values; paths of weights from the folder of the study file."""
    values = content.get("finetune")
    if values is None:
        return None
    if not isinstance(values, Mapping):
        problems.add("SK103", f"{where}: finetune", f"{values!r} is not a table", "write [finetune] with one option a line")
        return None
    values = dict(values)
    if isinstance(values.get("weights"), Mapping):
        values["weights"] = {name: str(base / Path(value).expanduser()) if isinstance(value, str) and is_path(value) else value
                             for name, value in values["weights"].items()}
    try:
        return protocol_of(values, f"{where}: finetune")
    except SimkitError as error:
        problems.catch(error)
        return None


def _table(cls: Any, content: Mapping[str, Any], key: str, where: str, base: Path, problems: Problems) -> Any:
    if key not in content:
        return None
    values = content[key]
    return _options(cls, _rooted(cls, values, base) if isinstance(values, Mapping) else values, f"{where}: {key}", problems)


def _component(registry: Registry, value: Any, where: str, base: Path, problems: Problems) -> Any:
    try:
        spec = parse_spec(value, where)
        return registry.build(Spec(spec.name, _rooted(registry.get(spec.name, where), spec.options, base)), where)
    except SimkitError as error:
        problems.catch(error)
        return None


def _methods(value: Any, where: str, base: Path, problems: Problems) -> tuple[tuple[Any, ...], bool]:
    """The measures; "all" (or a list with "all" in it) adds every registered measure whose options all have defaults."""
    values = value if isinstance(value, list) else [value]
    everything = "all" in values
    made = [_component(ESTIMATORS, v, f"{where}[{i}]", base, problems) for i, v in enumerate(values) if v != "all"]
    chosen = [m for m in made if m is not None]
    if everything:
        chosen += [m for m in all_methods() if m.name not in {c.name for c in chosen}]
    names = [m.name for m in chosen]
    for name in sorted({n for n in names if names.count(n) > 1}):
        problems.add("SK105", where, f"the method '{name}' is named {names.count(name)} times", "keep one; a second study file can hold other options")
    if not values:
        problems.add("SK104", where, "no method is named", 'write methods = ["otdd", "frechet"] or methods = "all"')
    return tuple(chosen), everything


def all_methods() -> list[Any]:
    """Every registered measure whose options all have defaults (one that needs a file must be named with it); bounds of other measures, the random
    order, and measures that take minutes a pair (task2vec, lp, lp-fu) are left out.
    """
    made = []
    for name in ESTIMATORS.names():
        try:
            cls = ESTIMATORS.get(name)
        except UsageError:  # a broken plug-in: `simkit list` shows it with its reason
            continue
        if not any(info.required for info in options_of(cls)) and not (getattr(cls, "bound_of", "") or getattr(cls, "only_by_name", False)):
            made.append(ESTIMATORS.build(Spec(name, {})))
    return made


def _datasets(value: Any, base: Path, where: str, problems: Problems) -> dict[str, DatasetSpec]:
    if not isinstance(value, Mapping) or not value:
        problems.add("SK104", f"{where}: datasets", "no data set is given", 'add [datasets.NAME] with a source, such as folder = {path = "images/"}')
        return {}
    made = {name: _dataset(str(name), entry, base, f"{where}: datasets.{name}", problems) for name, entry in value.items()}
    return {name: spec for name, spec in made.items() if spec is not None}


def _dataset(name: str, entry: Any, base: Path, where: str, problems: Problems) -> DatasetSpec | None:
    if not isinstance(entry, Mapping):
        problems.add("SK103", where, f"{entry!r} is not a table", 'write [datasets.NAME] with a source, such as folder = {path = "images/"}')
        return None
    keys = [key for key in entry if key not in _BESIDE]
    if len(keys) != 1:
        known = ", ".join(SOURCES.names())
        found = f"{len(keys)} sources ({', '.join(keys)})" if keys else "no source"
        problems.add("SK103", where, f"has {found}, wanted one{nearest(keys[1], _BESIDE) if len(keys) > 1 else ''}", f"sources: {known}")
        return None
    source = _component(SOURCES, {keys[0]: entry[keys[0]]}, where, base, problems)
    tags, attributes = entry.get("tags", []), entry.get("attributes", {})
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        problems.add("SK102", f"{where}.tags", f"{tags!r} is not a list of texts", 'write tags = ["medical", "skin"]')
        tags = []
    if not isinstance(attributes, Mapping):
        problems.add("SK102", f"{where}.attributes", f"{attributes!r} is not a table", 'write attributes = {modality = "dermoscopy"}')
        attributes = {}
    for key, answer in attributes.items():
        if key not in NOTIONS:
            problems.add("SK101", f"{where}.attributes.{key}", f"unknown attribute{nearest(key, NOTIONS)}", f"attributes: {', '.join(NOTIONS)}")
        elif not isinstance(answer, str) or not answer.strip():
            problems.add("SK102", f"{where}.attributes.{key}", f"{answer!r} is not a text", f"answer in words: {NOTIONS[key]}")
    exclude = entry.get("exclude")
    if exclude is not None and (not isinstance(exclude, str) or not exclude.strip()):
        problems.add("SK102", f"{where}.exclude", f"{exclude!r} is not the path of a list", 'write exclude = "exclude-NAME.csv" (a CSV with a column key)')
        exclude = None
    return None if source is None else DatasetSpec(name, source, tuple(tags), dict(attributes), None if exclude is None else _absolute(Path(exclude), base))


def _networks(value: Any, base: Path, where: str, problems: Problems) -> dict[str, NetworkSpec]:
    """The ``[networks]`` table: source -> extractor (torchvision, timm, checkpoint, random), and the number of images that it was trained on."""
    from simkit.extractors.base import Extractor

    example = 'write NAME = {torchvision = {network = "resnet18"}} or NAME = {checkpoint = {network = "resnet18", path = "weights.pth"}}'
    if not isinstance(value, Mapping):
        problems.add("SK103", where, f"{value!r} is not a table", example)
        return {}
    made = {}
    for name, entry in value.items():
        here = f"{where}.{name}"
        keys = [key for key in entry if key != "images"] if isinstance(entry, Mapping) else [entry]
        known = EXTRACTORS.names()
        if len(keys) > 1 and (odd := [key for key in keys if isinstance(key, str) and key not in known and ":" not in key]):
            problems.add("SK103", f"{here}.{odd[0]}", f"unknown key{nearest(odd[0], ('images', *known))}", f"keys: images, or one network: {', '.join(known)}")
            continue
        if len(keys) != 1 or not isinstance(keys[0], str):
            problems.add("SK103", here, f"names {len(keys)} networks, wanted one", example)
            continue
        extractor = _component(EXTRACTORS, {keys[0]: entry[keys[0]]} if isinstance(entry, Mapping) else keys[0], here, base, problems)
        images = entry.get("images") if isinstance(entry, Mapping) else None
        if images is not None and (isinstance(images, bool) or not isinstance(images, int) or images < 1):
            problems.add("SK102", f"{here}.images", f"{images!r} is not a number of images", "give the number of images that the network was trained on")
            images = None
        if extractor is not None and isinstance(extractor, Extractor) and type(extractor).classifier is Extractor.classifier:
            problems.add("SK108", here, f"'{extractor.name}' is no network with a classification layer", "give torchvision, timm, checkpoint or random")
        elif extractor is not None:
            made[str(name)] = NetworkSpec(str(name), extractor, images)
    return made


def network_of(text: str, options: Mapping[str, Any] | None = None) -> NetworkSpec:
    """The network of a source, written in short: ``NAME=ARCHITECTURE``, ``NAME=ARCHITECTURE:WEIGHTS``.

    Args:
        text: the architecture is of torchvision, or ``timm:MODEL``; weights are the path of a state dict, "random" (untrained), or a name of
            torchvision's weights; without them the recommended ones.
        options: of the extractor, such as image_size.

    Raises:
        UsageError: another form, or a name that is not known.
    """
    name, equals, network = (part.strip() for part in text.partition("="))
    if not (name and equals and network):
        fix = "write NAME=resnet18, NAME=resnet18:weights.pth, NAME=timm:vit_small_patch16_224 or NAME=resnet18:random"
        raise UsageError("SK102", "--network", f"'{text}' is not of the form NAME=ARCHITECTURE[:WEIGHTS]", fix)
    prefix = "timm:" if network.startswith("timm:") else ""
    architecture, _, weights = network.removeprefix(prefix).partition(":")
    file = weights.endswith((".pth", ".pt", ".safetensors", ".bin")) or "/" in weights
    if file:
        chosen: dict[str, Any] = {"checkpoint": {"network": f"{prefix}{architecture}", "path": str(Path(weights).expanduser())}}
    elif weights == "random":
        chosen = {"random": {"network": f"{prefix}{architecture}"}}
    elif prefix:
        chosen = {"timm": {"model": architecture + (f".{weights}" if weights else "")}}
    else:
        chosen = {"torchvision": {"network": architecture} | ({"weights": weights} if weights else {})}
    (kind, own), = chosen.items()
    return NetworkSpec(name, EXTRACTORS.build(Spec(kind, {**own, **(options or {})}), f"--network {name}"))


def _check_names(names: Sequence[str], known: Sequence[str], where: str, problems: Problems) -> None:
    for name in names:
        if name not in known:
            problems.add("SK101", where, f"'{name}' is not a data set of the study{nearest(name, known)}", f"data sets: {', '.join(known) or 'none'}")
    for name in sorted({n for n in names if list(names).count(n) > 1}):
        problems.add("SK105", where, f"'{name}' is named twice", "name each data set once")


def load_datasets(study: Study, names: Sequence[str]) -> dict[str, Dataset]:
    """The named data sets; all that is wrong with any of them at once.

    Raises:
        DataError: with the problems of every data set.
    """
    problems, loaded = Problems(), {}
    for name in names:
        try:
            loaded[name] = study.datasets[name].load(study.base)
        except DataError as error:
            problems.found += [replace(p, where=p.where if p.where.startswith(name) else f"{name}: {p.where}") for p in error.problems]
    problems.raise_if_any(DataError)
    return loaded


# --- JSON Schema and TOML --------------------------------------------------------------------------------------------------------------


def _json_type(annotation: Any) -> dict[str, Any]:
    members = [member for member in union_members(annotation) if member is not type(None)]
    if len(members) > 1:
        return {"anyOf": [_json_type(member) for member in members]}
    one = members[0]
    origin = get_origin(one)
    if origin is Literal:
        return {"enum": list(get_args(one))}
    if origin is tuple:
        return {"type": "array", "items": _json_type(get_args(one)[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _json_type(get_args(one)[1])}
    return {"type": {int: "integer", float: "number", bool: "boolean"}.get(one, "string")}


def _json_option(info: OptionInfo) -> dict[str, Any]:
    schema = _json_type(info.type) | ({"description": info.help} if info.help else {})
    ranged = schema["items"] if schema.get("type") == "array" else schema
    ranged |= {key: value for key, value in (("minimum", info.minimum), ("exclusiveMinimum", info.above), ("maximum", info.maximum)) if value is not None}
    if info.default is not None and not info.required:
        default = list(info.default) if isinstance(info.default, tuple) else info.default
        schema["default"] = str(default) if isinstance(default, Path) else default
    return schema


def _json_object(cls: Any) -> dict[str, Any]:
    infos = options_of(cls)
    required = [info.name for info in infos if info.required]
    schema: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": {info.name: _json_option(info) for info in infos}}
    return schema | ({"required": required} if required else {})


def _json_finetune() -> dict[str, Any]:
    """Schema of ``[finetune]``: the protocol's options, below the values of a preset."""
    schema = _json_object(Protocol)
    options = schema["properties"]
    values = {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"type": "number", "minimum": 0}}
    options["search"] |= {"additionalProperties": False, "properties": {
        "lr": {**values, "items": {"type": "number", "exclusiveMinimum": 0}, "description": "learning rates that are tried"},
        "weight_decay": {**values, "description": "weight decays that are tried"},
    }}
    options["seeds"] |= {"minItems": 1, "uniqueItems": True}
    return schema | {"properties": {"protocol": {"enum": list(presets()), "default": "fair", "description": PRESETS_HELP}, **options}}


def _json_components(registry: Registry) -> dict[str, Any]:
    """name -> schema of its options; names of the form module:Class are allowed with any options."""
    known = {}
    for name in registry.names():
        try:
            cls = registry.get(name)
        except UsageError:  # a broken plug-in has no options to complete
            continue
        summary = (cls.__doc__ or "").strip().split("\n\n")[0]
        known[name] = _json_object(cls) | {"description": " ".join(summary.split())}
    return known


def _json_spec(registry: Registry, extra: Sequence[str] = ()) -> dict[str, Any]:
    known = _json_components(registry)
    names = {"anyOf": [{"enum": [*known, *extra]}, {"type": "string", "pattern": "^[\\w.]+:\\w+$"}]}
    table = {"type": "object", "minProperties": 1, "maxProperties": 1, "properties": known, "patternProperties": {"^[\\w.]+:\\w+$": {"type": "object"}},
             "additionalProperties": False}
    return {"anyOf": [names, table]}


def _json_network() -> dict[str, Any]:
    """Schema of one entry of ``[networks]``."""
    images = {"type": "integer", "minimum": 1, "description": "images that the network was trained on"}
    table = {"type": "object", "minProperties": 1, "maxProperties": 2, "properties": _json_components(EXTRACTORS) | {"images": images},
             "patternProperties": {"^[\\w.]+:\\w+$": {"type": "object"}}, "additionalProperties": False}
    return {"anyOf": [{"enum": list(EXTRACTORS.names())}, table]}


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the study file, from the code itself: editors complete and check the file with it."""
    method = _json_spec(ESTIMATORS, ("all",))
    dataset = {
        "type": "object",
        "properties": _json_components(SOURCES) | {
            "tags": {"type": "array", "items": {"type": "string"}, "description": "keywords of the data set"},
            "exclude": {"type": "string", "minLength": 1, "description": "CSV (column key) of images to leave out; `simkit leakage --exclude` writes it"},
            "attributes": {"type": "object", "additionalProperties": False,
                           "properties": {key: {"type": "string", "description": text} for key, text in NOTIONS.items()}},
        },
        "patternProperties": {"^[\\w.]+:\\w+$": {"type": "object"}},
        "additionalProperties": False,
    }
    top = _json_object(_Top)
    top["properties"] |= {
        "datasets": {"type": "object", "minProperties": 1, "additionalProperties": dataset},
        "extractor": _json_spec(EXTRACTORS),
        "networks": {"type": "object", "additionalProperties": _json_network()},
        "methods": {"anyOf": [{"type": "array", "minItems": 1, "items": method}, method]},
        "finetune": _json_finetune(),
        "correlate": _json_object(CorrelateOptions),
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "simkit study", **top, "required": ["targets", "datasets"]}


def toml_text(value: Mapping[str, Any], path: str = "") -> str:
    """A dict as TOML: plain keys first, then tables. None is left out (TOML has no nothing)."""
    plain = [f"{_key(k)} = {_toml(v)}" for k, v in value.items() if v is not None and not isinstance(v, Mapping)]
    parts = ["\n".join(plain) + "\n" if plain else ""]
    for key, item in value.items():
        if isinstance(item, Mapping):
            name = f"{path}.{_key(key)}" if path else _key(key)
            parts.append(f"\n[{name}]\n{toml_text(item, name)}")
    return "".join(parts)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items() if v is not None) + "}"
    escaped = "".join({'"': '\\"', "\\": "\\\\"}.get(c, c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}") for c in str(value))
    return f'"{escaped}"'
