"""Names of sources, extractors and estimators, resolved in one place; every option checked before anything is imported or computed twice.

Three ways in, one form (``"module:Class"``): a row of the tables below, an entry point of an installed package (groups
``simkit.sources``, ``simkit.extractors``, ``simkit.estimators``), ``"module:Class"`` typed by a user, or ``register`` in a notebook.
An option is a field of the (frozen) dataclass that the name stands for: in Python, on the command line, in the study file, in the recipe.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from simkit.errors import Problem, SimkitError, UsageError, nearest

__all__ = [
    "ESTIMATORS", "EXTRACTORS", "SOURCES", "OptionInfo", "Registry", "Spec", "build_options", "describe_component", "option",
    "options_of", "parse_spec", "union_members",
]


def option(
    default: Any = MISSING, help: str = "", *, minimum: float | None = None, above: float | None = None, maximum: float | None = None,
    default_factory: Any = MISSING, recipe: bool = True,
) -> Any:
    """A dataclass field with its help text and range. ``recipe=False`` keeps it out of the recipe (it must not move a number)."""
    metadata = {"help": help, "minimum": minimum, "above": above, "maximum": maximum, "recipe": recipe}
    if default_factory is not MISSING:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata) if default is not MISSING else dataclasses.field(metadata=metadata)


@dataclass(frozen=True)
class OptionInfo:
    """One option of a component, as `simkit list NAME` shows it."""

    name: str
    type: Any
    default: Any
    required: bool
    help: str
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None

    @property
    def type_text(self) -> str:
        """The type in words: ``one of: a, b``, ``whole number``, ``number``, ``text``, ``path``, ``true or false``."""
        return _type_text(self.type)

    @property
    def range_text(self) -> str:
        parts = [f">= {self.minimum:g}" if self.minimum is not None else "", f"> {self.above:g}" if self.above is not None else "",
                 f"<= {self.maximum:g}" if self.maximum is not None else ""]
        return ", ".join(part for part in parts if part)

    def check(self, value: Any, where: str) -> Any:
        """The value in the option's type, or UsageError with what was found and wanted."""
        return _checked(value, self, where)


@cache
def options_of(cls: type) -> tuple[OptionInfo, ...]:
    """The options of a dataclass in order, its own before those that it inherits."""
    hints = typing.get_type_hints(cls)
    rows = []
    for f in dataclasses.fields(cls):
        if not f.init:
            continue
        default = f.default if f.default is not MISSING else (f.default_factory() if f.default_factory is not MISSING else None)
        required = f.default is MISSING and f.default_factory is MISSING
        meta = f.metadata
        rows.append(OptionInfo(f.name, hints[f.name], default, required, meta.get("help", ""), meta.get("minimum"), meta.get("above"), meta.get("maximum")))
    own = inspect.get_annotations(cls)
    return tuple(sorted(rows, key=lambda row: row.name not in own))


def union_members(annotation: Any) -> tuple[Any, ...]:
    """The members of ``A | B``; the annotation itself when it is no union."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _type_text(annotation: Any) -> str:
    words = []
    for one in union_members(annotation):
        if get_origin(one) is Literal:
            words.append("one of: " + ", ".join(str(v) for v in get_args(one)))
        elif get_origin(one) is tuple:
            words.append(f"list of {_type_text(get_args(one)[0])}")
        elif get_origin(one) is dict:
            words.append("table")
        else:
            words.append({int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path", type(None): "nothing"}
                         .get(one, getattr(one, "__name__", str(one))))
    return " or ".join(words)


def _convert(value: Any, annotation: Any) -> Any:
    """``value`` as ``annotation``; TypeError or ValueError when it is not one. Text is parsed only for numbers and booleans of `--set`."""
    errors: list[Exception] = []
    for one in union_members(annotation):
        try:
            return _convert_one(value, one)
        except (TypeError, ValueError) as error:
            errors.append(error)
    raise errors[0]


def _convert_one(value: Any, one: Any) -> Any:
    origin = get_origin(one)
    if origin is Literal:
        return _choice(value, one)
    if origin is tuple:
        return _list(value, one)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise TypeError("expected a table")
        return {str(k): _convert(v, get_args(one)[1]) for k, v in value.items()}
    if one in _SCALARS:
        return _SCALARS[one](value)
    if one is Any or isinstance(value, one):
        return value
    raise TypeError("of another type")


def _choice(value: Any, one: Any) -> Any:
    for choice in get_args(one):
        if (value == choice and type(value) is type(choice)) or (isinstance(value, Text) and value == str(choice)):
            return choice
    raise ValueError(nearest(str(value), [str(c) for c in get_args(one)]))


def _list(value: Any, one: Any) -> tuple[Any, ...]:
    items = [Text(item) for item in value.split(",")] if isinstance(value, Text) else value
    if isinstance(items, str) or not isinstance(items, (list, tuple)):
        raise TypeError("expected a list")
    return tuple(_convert(item, get_args(one)[0]) for item in items)


def _nothing(value: Any) -> None:
    if value is not None and not (isinstance(value, Text) and value.lower() in ("none", "")):
        raise TypeError("expected nothing")


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, Text) and value.lower() in ("true", "false", "yes", "no"):
        return value.lower() in ("true", "yes")
    raise TypeError("expected true or false")


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, Text)):
        raise TypeError("expected a whole number")
    return int(value)


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, Text)):
        raise TypeError("expected a number")
    if not math.isfinite(float(value)):
        raise ValueError("expected a finite number")
    return float(value)


def _words(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("expected text")
    return str(value)


def _path(value: Any) -> Path:
    if not isinstance(value, (str, Path)) or not str(value):
        raise TypeError("expected a path")
    return Path(str(value))


_SCALARS: dict[Any, Callable[[Any], Any]] = {bool: _boolean, int: _whole, float: _real, str: _words, Path: _path, type(None): _nothing}


class Text(str):
    """Text typed on a command line (``--set k=v``), which may stand for a number, a boolean or a list; text of a file never does."""


def _checked(value: Any, info: OptionInfo, where: str) -> Any:
    wanted = info.type_text + (f" {info.range_text}" if info.range_text else "")
    shown = f"{str(value)!r}" if isinstance(value, str) else repr(value)
    try:
        out = _convert(value, info.type)
    except (TypeError, ValueError) as error:
        hint = str(error) if str(error).startswith(" (did") else ""
        raise UsageError("SK102", where, f"{shown} is not valid here: expected {wanted}{hint}", f"give {wanted}") from None
    numbers = out if isinstance(out, tuple) else (out,)
    for number in numbers:
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            low = info.minimum is not None and number < info.minimum
            strict = info.above is not None and number <= info.above
            high = info.maximum is not None and number > info.maximum
            if low or strict or high:
                raise UsageError("SK102", where, f"{shown} is out of range: expected {wanted}", f"give {wanted}")
    return out


def build_options(cls: type, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Every option checked against the fields of ``cls``; all errors at once, each with its path."""
    infos = {info.name: info for info in options_of(cls)}
    found: list[Problem] = []
    out: dict[str, Any] = {}
    for key, value in options.items():
        if key not in infos:
            known = ", ".join(infos) or "none"
            found.append(Problem("SK101", f"{where}.{key}", f"unknown option{nearest(key, infos)}", f"options: {known}"))
            continue
        try:
            out[key] = infos[key].check(value, f"{where}.{key}")
        except UsageError as error:
            found.extend(error.problems)
    for info in infos.values():
        if info.required and info.name not in options:
            text = f"option '{info.name}' is required ({info.type_text}{': ' + info.help if info.help else ''})"
            found.append(Problem("SK104", where, text, f"add {info.name} = ..."))
    if found:
        raise UsageError("", "", "", problems=found)
    return out


@dataclass(frozen=True)
class Spec:
    """A name with options, as it stands in a study file or on a command line: ``"otdd"`` or ``{otdd = {label_cost = "gaussian"}}``."""

    name: str
    options: Mapping[str, Any]


def parse_spec(value: Any, where: str) -> Spec:
    """The one grammar: ``"name"`` or ``{name = {option = value}}``."""
    if isinstance(value, str) and value:
        return Spec(value, {})
    if isinstance(value, Mapping) and len(value) == 1:
        (name, options), = value.items()
        if isinstance(name, str) and isinstance(options, Mapping):
            return Spec(name, dict(options))
    raise UsageError("SK103", where, f"{value!r} is neither a name nor one name with a table of options", 'write "name" or {name = {option = value}}')


class Registry:
    """Names of one kind of component. Nothing is imported until its name is used.

    Args:
        kind: what the names stand for, in messages ("method").
        builtin: name -> "module:Class".
        group: entry point group in which installed packages announce more names.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str], group: str):
        self.kind, self.group = kind, group
        self._targets: dict[str, str] = dict(builtin)
        self._classes: dict[str, type] = {}
        self._entry_points_read = False
        self._clashes: dict[str, list[str]] = {}
        self._origin: dict[str, str] = dict.fromkeys(builtin, "simkit")

    def names(self) -> list[str]:
        """All registered names, in order."""
        self._read_entry_points()
        return sorted({*self._targets, *self._classes})

    def register(self, cls: type) -> type:
        """Makes a class known under its ``name`` for this process (a notebook). Usable as a decorator."""
        name = getattr(cls, "name", None)
        if not isinstance(name, str) or not name:
            raise UsageError("SK104", cls.__name__, "the class has no name", 'give it a class attribute: name = "my-measure"')
        self._read_entry_points()
        known = self._classes.get(name)
        clash = name in self._targets or (known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__))
        if clash:
            raise UsageError("SK105", cls.__name__, f"the {self.kind} name '{name}' is taken", "choose another name")
        self._classes[name] = _as_dataclass(cls)
        return cls

    def get(self, name: str, where: str = "") -> type:
        """The class behind a name or ``module:Class``.

        Raises:
            UsageError: unknown name (with the nearest), two plug-ins claiming it, or a plug-in that does not import.
        """
        self._read_entry_points()
        where = where or self.kind
        if name in self._classes:
            return self._classes[name]
        if name in self._clashes:
            raise UsageError("SK105", where, f"{' and '.join(self._clashes[name])} both provide the {self.kind} '{name}'", "uninstall one of them")
        target = self._targets.get(name, name if ":" in name else None)
        if target is None:
            fix = f"`simkit list` shows all; for a class of your own write module:Class; known: {', '.join(self.names())}"
            raise UsageError("SK101", where, f"unknown {self.kind} '{name}'{nearest(name, self.names())}", fix)
        cls = self._import(target, name, where)
        self._classes[name] = cls
        return cls

    def _import(self, target: str, name: str, where: str) -> type:
        module_name, _, attribute = target.partition(":")
        own = name == target
        if own and os.getcwd() not in sys.path:  # a file beside the user, as python -m would find it
            sys.path.insert(0, os.getcwd())
        try:
            module = importlib.import_module(module_name)
            cls = getattr(module, attribute)
        except SimkitError:
            raise
        except Exception as error:  # a plug-in may fail in any way; the rest must go on working
            if self._origin.get(name) == "simkit":
                raise
            message = f"the {self.kind} '{name}' could not be imported: {type(error).__name__}: {error}"
            raise UsageError("SK110", where, message, "repair or uninstall the plug-in; `simkit list` shows the others") from error
        if not inspect.isclass(cls):
            raise UsageError("SK110", where, f"'{target}' is not a class", f"name the class of the {self.kind}: module:Class")
        return _as_dataclass(cls)

    def build(self, spec: Spec | str | Mapping[str, Any], where: str = "") -> Any:
        """An instance from a spec, every option checked."""
        spec = spec if isinstance(spec, Spec) else parse_spec(spec, where or self.kind)
        cls = self.get(spec.name, where)
        path = f"{where}.{spec.name}" if where else spec.name
        return cls(**build_options(cls, spec.options, path))

    def origin(self, name: str) -> str:
        """"simkit", the distribution that provides the name, or "this process"."""
        return self._origin.get(name, "this process")

    def _read_entry_points(self) -> None:
        if self._entry_points_read:
            return
        self._entry_points_read = True
        from importlib.metadata import entry_points

        for point in entry_points(group=self.group):
            dist = point.dist.name if point.dist else "an installed package"
            if point.name in self._targets and self._origin.get(point.name) != dist:
                self._clashes[point.name] = [self._origin[point.name], dist]
                continue
            self._targets[point.name], self._origin[point.name] = point.value, dist


def _as_dataclass(cls: type) -> type:
    if not dataclasses.is_dataclass(cls):
        raise UsageError("SK110", cls.__name__, "the class is not a dataclass", "put @dataclass(frozen=True) above it: its fields are its options")
    return cls


SOURCES = Registry("source", {
    "array": "simkit.sources.array:Array",
    "dicom": "simkit.sources.dicom:Dicom",
    "folder": "simkit.sources.folder:Folder",
    "huggingface": "simkit.sources.huggingface:Huggingface",
    "medmnist": "simkit.sources.medmnist:Medmnist",
    "nifti": "simkit.sources.nifti:Nifti",
    "noise": "simkit.sources.noise:Noise",
    "npz": "simkit.sources.npz:Npz",
    "samples": "simkit.sources.samples:Samples",
    "table": "simkit.sources.table:Table",
    "torchvision": "simkit.sources.torchvision:Torchvision",
    "webdataset": "simkit.sources.webdataset:Webdataset",
    "zip": "simkit.sources.zip:Zip",
}, "simkit.sources")

EXTRACTORS = Registry("extractor", {
    "callable": "simkit.extractors.callable:Callable",
    "checkpoint": "simkit.extractors.checkpoint:Checkpoint",
    "huggingface": "simkit.extractors.huggingface:Huggingface",
    "onnx": "simkit.extractors.onnx:Onnx",
    "open-clip": "simkit.extractors.open_clip:OpenClip",
    "pixels": "simkit.extractors.pixels:Pixels",
    "radiomics-lite": "simkit.extractors.radiomics_lite:RadiomicsLite",
    "random": "simkit.extractors.random:Random",
    "timm": "simkit.extractors.timm:Timm",
    "torchscript": "simkit.extractors.torchscript:Torchscript",
    "torchvision": "simkit.extractors.torchvision:Torchvision",
}, "simkit.extractors")

ESTIMATORS = Registry("method", {
    "anatomy": "simkit.estimators.intuitive:Anatomy",
    "channels": "simkit.estimators.intuitive:Channels",
    "class-frechet": "simkit.estimators.class_frechet:ClassFrechet",
    "class-imbalance": "simkit.estimators.intuitive:ClassImbalance",
    "class-mean-emd": "simkit.estimators.class_mean_emd:ClassMeanEmd",
    "colour": "simkit.estimators.intuitive:Colour",
    "content": "simkit.estimators.intuitive:Content",
    "coverage": "simkit.estimators.coverage:Coverage",
    "cross-learning": "simkit.estimators.cross_learning:CrossLearning",
    "density": "simkit.estimators.density:Density",
    "diversity": "simkit.estimators.intuitive:Diversity",
    "domain": "simkit.estimators.intuitive:Domain",
    "domain-classifier": "simkit.estimators.domain_classifier:DomainClassifier",
    "effective-rank": "simkit.estimators.effective_rank:EffectiveRank",
    "energy": "simkit.estimators.energy:Energy",
    "foreground": "simkit.estimators.intuitive:Foreground",
    "frechet": "simkit.estimators.frechet:Frechet",
    "frechet-infinity": "simkit.estimators.frechet_infinity:FrechetInfinity",
    "fu": "simkit.estimators.fu:Fu",
    "gbc": "simkit.estimators.gbc:Gbc",
    "histogram": "simkit.estimators.histogram:Histogram",
    "hscore": "simkit.estimators.hscore:HScore",
    "image-size": "simkit.estimators.intuitive:ImageSize",
    "intrinsic-dimension": "simkit.estimators.intrinsic_dimension:IntrinsicDimension",
    "keywords": "simkit.estimators.keywords:Keywords",
    "kid": "simkit.estimators.kid:Kid",
    "knn": "simkit.estimators.knn:Knn",
    "leep": "simkit.estimators.leep:Leep",
    "linear-probe": "simkit.estimators.linear_probe:LinearProbe",
    "logme": "simkit.estimators.logme:LogMe",
    "lp": "simkit.estimators.lp:Lp",
    "lp-fu": "simkit.estimators.lp_fu:LpFu",
    "mmd": "simkit.estimators.mmd:Mmd",
    "modality": "simkit.estimators.intuitive:Modality",
    "nce": "simkit.estimators.nce:Nce",
    "nearest-neighbour": "simkit.estimators.nearest_neighbour:NearestNeighbour",
    "nleep": "simkit.estimators.nleep:NLeep",
    "number-of-classes": "simkit.estimators.intuitive:NumberOfClasses",
    "objects": "simkit.estimators.intuitive:Objects",
    "orientation": "simkit.estimators.intuitive:Orientation",
    "otce": "simkit.estimators.otce:Otce",
    "otdd": "simkit.estimators.otdd:Otdd",
    "otdd-lower": "simkit.estimators.otdd_bounds:OtddLower",
    "otdd-upper": "simkit.estimators.otdd_bounds:OtddUpper",
    "parc": "simkit.estimators.parc:Parc",
    "precision": "simkit.estimators.precision:Precision",
    "questionnaire": "simkit.estimators.questionnaire:Questionnaire",
    "random": "simkit.estimators.random_order:RandomOrder",
    "ratings": "simkit.estimators.ratings:Ratings",
    "recall": "simkit.estimators.recall:Recall",
    "size": "simkit.estimators.intuitive:Size",
    "sliced-wasserstein": "simkit.estimators.sliced_wasserstein:SlicedWasserstein",
    "sotdd": "simkit.estimators.sotdd:Sotdd",
    "source-classes": "simkit.estimators.priors:SourceClasses",
    "source-imbalance": "simkit.estimators.priors:SourceImbalance",
    "source-size": "simkit.estimators.priors:SourceSize",
    "static": "simkit.estimators.static:Static",
    "task": "simkit.estimators.intuitive:Task",
    "task2vec": "simkit.estimators.task2vec:Task2Vec",
    "transrate": "simkit.estimators.transrate:TransRate",
    "vendi": "simkit.estimators.vendi:Vendi",
    "wasserstein": "simkit.estimators.wasserstein:Wasserstein",
}, "simkit.estimators")


def describe_component(registry: Registry, name: str) -> dict[str, Any]:
    """What a name stands for, from the code itself: the data of `simkit list NAME`.

    Args:
        registry: SOURCES, EXTRACTORS or ESTIMATORS.
        name: a registered name, or "module:Class".

    Returns:
        name; component (what the registry holds); origin; summary (first paragraph of the docstring); options, each with name, type,
        default, required, range and help. For a measure also kind, view, symmetric, direction, needs, needs_of_source, pool_relative,
        size_biased, permutation_test, unit, bounds, citation and version. For a plug-in that does not load: name, component, origin and ``broken``, the reason.

    Raises:
        UsageError: the name is not known.
    """
    known = name in registry.names()
    head: dict[str, Any] = {"name": name, "component": registry.kind, "origin": registry.origin(name)}
    try:
        cls = registry.get(name)
        rows = [_option_row(info) for info in options_of(cls)]
    except SimkitError as error:
        if not known and ":" not in name:
            raise
        return head | {"broken": error.problems[0].message}
    except Exception as error:  # a plug-in may fail in any way (annotations that do not resolve); the list must go on
        if registry.origin(name) == "simkit":
            raise
        return head | {"broken": f"{type(error).__name__}: {error}"}
    summary = " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())
    return head | {"summary": summary, "options": rows} | (_measure_row(cls) if hasattr(cls, "higher_is_better") else {})


def _option_row(info: OptionInfo) -> dict[str, Any]:
    default = str(info.default) if isinstance(info.default, Path) else info.default
    return {"name": info.name, "type": info.type_text, "default": default, "required": info.required, "range": info.range_text, "help": info.help}


def _measure_row(cls: Any) -> dict[str, Any]:
    def declared(attribute: str) -> Any:
        value = getattr(cls, attribute)
        return inspect.getdoc(value) if isinstance(value, property) else value  # depends on the options: the docstring says how

    higher = declared("higher_is_better")
    direction = {True: "higher is better", False: "lower is better"}.get(higher, higher)
    row = {attribute: declared(attribute) for attribute in ("kind", "view", "symmetric", "needs", "needs_of_source", "pool_relative",
                                                            "size_biased", "unit", "formula", "hazards", "bounds", "citation", "version")}
    return row | {"direction": direction, "permutation_test": any(info.name == "permutations" for info in options_of(cls))}
