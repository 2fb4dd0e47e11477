"""list, init, schema, doctor, explain."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import click

from simkit.cli.output import Output, output_options, width
from simkit.errors import EXPLANATIONS, UsageError, nearest
from simkit.registry import ESTIMATORS, EXTRACTORS, SOURCES, Registry, describe_component

REGISTRIES: dict[str, Registry] = {"source": SOURCES, "extractor": EXTRACTORS, "method": ESTIMATORS}


@click.command("list")
@click.argument("name", required=False)
@output_options
def list_(name: str | None, json_target: str | None, quiet: bool, no_color: bool) -> int:
    """List sources, extractors and methods; with NAME, show its options, defaults, direction, needs and citation."""
    output = Output(json_target, quiet)
    if name is None:
        rows = [{"component": kind, **describe_component(registry, one)} for kind, registry in REGISTRIES.items() for one in registry.names()]
        output.result(_overview(rows), rows, [str(row["name"]) for row in rows])
        return 0
    if ":" not in name and not any(name in registry.names() for registry in REGISTRIES.values()):
        known = [one for registry in REGISTRIES.values() for one in registry.names()]
        raise UsageError("SK101", "simkit list", f"nothing is called '{name}'{nearest(name, known)}", "`simkit list` shows all names")
    found = [{"component": kind, **describe_component(registry, name)} for kind, registry in REGISTRIES.items() if name in registry.names()]
    if not found:
        cls = ESTIMATORS.get(name)
        kind = "method" if hasattr(cls, "compare") else "extractor" if hasattr(cls, "session") else "source"
        found = [{"component": kind, **describe_component(REGISTRIES[kind], name)}]
    output.result("\n\n".join(_detail(one) for one in found), found, [name])
    return 0


def _overview(rows: list[dict[str, Any]]) -> str:
    columns = width()
    lines: list[str] = []
    for kind in REGISTRIES:
        chosen = [row for row in rows if row["component"] == kind]
        pad = max(len(str(row["name"])) for row in chosen)
        lines += [f"{kind}s", ""]
        for row in chosen:
            text = f"BROKEN: {row['broken']}" if "broken" in row else str(row.get("summary", ""))
            mark = f" [{row['kind']}]" if row.get("kind") in ("prior", "transferability") else ""
            lines.append(_row(str(row["name"]), pad, text + mark, columns))
        lines.append("")
    return "\n".join([*lines, "simkit list NAME shows options, direction, needs and citation."])


def _row(name: str, pad: int, text: str, columns: int) -> str:
    room = max(20, columns - pad - 4)
    wrapped = textwrap.wrap(text, room) or [""]
    return "\n".join([f"  {name:<{pad}}  {wrapped[0]}", *(f"  {'':<{pad}}  {line}" for line in wrapped[1:2])])


def _detail(one: dict[str, Any]) -> str:
    if "broken" in one:
        return f"{one['component']} {one['name']} (from {one['origin']})\n\nBROKEN: {one['broken']}"
    lines = [f"{one['component']} {one['name']} (from {one['origin']})", "", *textwrap.wrap(str(one["summary"]), width()), ""]
    facts = ("kind", "view", "direction", "symmetric", "needs", "unit", "bounds", "citation")
    lines += _measure_formula(one) if one["component"] == "method" else []
    lines += [f"  {key:<10} {_plain(one[key])}" for key in facts if one.get(key) not in (None, "", [], ())]
    if one.get("size_biased") is True and one.get("view") == "embedding":
        lines.append("  sizes      the value depends on the sample sizes: pairs are measured at one common size (--size-match)")
    if one.get("permutation_test"):
        lines.append("  p          of a permutation test (option permutations)")
    lines += _measure_hazards(one) if one["component"] == "method" else []
    lines += ["", "options" if one["options"] else "no options"]
    for info in sorted(one["options"], key=lambda info: not info["required"]):
        default = "required" if info["required"] else f"default {_plain(info['default'])}"
        kind = info["type"] + (f", {info['range']}" if info.get("range") else "")
        lines.append(f"  {info['name']} ({kind}; {default})")
        if info.get("help"):
            lines += textwrap.wrap(str(info["help"]), width(), initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def _measure_formula(one: dict[str, Any]) -> list[str]:
    """A measure's formula, a line for each part, unwrapped so that it can be copied; no line where it states none."""
    formula = str(getattr(ESTIMATORS.get(one["name"]), "formula", ""))
    parts = re.split(r"(?<=[,;])  ", formula) if formula else []
    return [f"  {'' if place else 'formula':<10} {part}" for place, part in enumerate(parts)]


def _measure_hazards(one: dict[str, Any]) -> list[str]:
    """What can make a measure's number misleading, one item a sentence or two; no line where it states nothing."""
    hazards = getattr(ESTIMATORS.get(one["name"]), "hazards", ())
    items = [line for hazard in hazards for line in textwrap.wrap(str(hazard), width(), initial_indent="  - ", subsequent_indent="    ")]
    return ["", "hazards", *items] if items else []


def _plain(value: Any) -> str:
    if value is None or value == "":
        return "nothing" if value is None else '""'
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join("none" if v is None else str(v) for v in value) or "none"
    return str(value)


@click.command()
@output_options
def schema(json_target: str | None, quiet: bool, no_color: bool) -> int:
    """Print the JSON Schema of the study file, made from the code itself."""
    from simkit.files import json_text
    from simkit.study import json_schema

    value = json_schema()
    Output(json_target, quiet=False).result(json_text(value), value)
    return 0


TEMPLATE = '''# A simkit study. `simkit run --dry-run {name}` shows what it will do; `simkit list` shows every source, extractor and method.
study = "my-study"
seed = 0
targets = ["target"]                      # names of data sets below
# sources = ["first", "second"]           # default: all data sets
extractor = {{torchvision = {{network = "resnet50", weights = "imagenet"}}}}
methods = ["otdd", "frechet", "domain-classifier", "source-size"]     # or "all"
repeats = 10                              # half-samples for intervals and floors

[datasets.target]
table = {{path = "target.csv", label = "label", group = "patient"}}     # a manifest: path, label, optional group and split
tags = ["medical", "skin"]
attributes = {{domain = "medical", modality = "dermoscopy", anatomy = "skin"}}

[datasets.first]
folder = {{path = "first/"}}                # one folder per class

[datasets.second]
npz = {{path = "second.npz"}}               # MedMNIST's layout

# Measures of transferability (logme, leep, knn ...) look at the target through the network of each source: those that [finetune] pretrains, or
# [networks]
# first = {{checkpoint = {{network = "resnet18", path = "first.pth"}}}}        # trained on the data set `first`
# imagenet = {{torchvision = {{network = "resnet18"}}, images = 1281167}}      # a source that is known by its network alone

# Transfer results that you have already (source, target, fold, seed, metric, value; or source, target, replicate, performance):
# transfer = "results.csv"
# or let simkit measure them (`simkit finetune {name} --dry-run` tells the time that it will take):
[finetune]
network = "resnet18"                      # any classification network of torchvision, or timm:NAME
image_size = 64
folds = 5                                 # a target with a given test part is scored on that instead; splits = "ignore" deals it too
sources = ["scratch"]                     # random weights; "imagenet" for torchvision's weights
# weights = {{birds = "birds.pth"}}         # weights files, torchvision:ENTRY or timm:NAME as more sources
# seeds = [0, 1, 2]                       # repeats, each with its own folds and pretraining
# pretrain_epochs = 20
# finetune_epochs = 20
# mode = "full"                           # or frozen, probe-then-full, last-stages
# search = {{lr = [1e-3, 1e-4]}}            # the same for every pair, on an inner validation split
# baseline = "scratch"                    # adds the relative gain over it
# protocol = "cats-scans"                 # the set-up of arXiv 2107.05940; the options above override its own
'''


@click.command()
@click.argument("path", type=click.Path(), default="study.toml")
def init(path: str) -> int:
    """Write a commented study file to PATH (default: study.toml); never overwrites."""
    from simkit.files import write_text

    if Path(path).exists():
        raise UsageError("SK107", path, "exists already", "give another name, or remove it")
    write_text(path, TEMPLATE.format(name=Path(path).name))
    click.echo(path)
    return 0


@click.command()
@output_options
def doctor(json_target: str | None, quiet: bool, no_color: bool) -> int:
    """Check packages, whether torch and torchvision match, the device, and the store."""
    import platform
    from importlib import metadata

    from simkit.device import describe_device, resolve_device
    from simkit.errors import SimkitError
    from simkit.networks import import_torchvision
    from simkit.store import Store

    facts: dict[str, Any] = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pot", "faiss-cpu", "umap-learn", "pandas", "pillow"):
        facts[package] = metadata.version(package)
    status = 0
    try:
        import_torchvision()
        facts["device"] = describe_device(resolve_device("auto"))
        place = Store()
        facts["store"] = f"{place.root} ({sum(row['bytes'] for row in place.contents()) / 1e6:.1f} MB)"
    except SimkitError as error:
        facts["problem"], status = str(error), error.exit_status
    for kind, registry in REGISTRIES.items():
        broken = [f"{name}: {info['broken']}" for name in registry.names() if "broken" in (info := describe_component(registry, name))]
        if broken:
            facts[f"broken {kind}s"] = "; ".join(broken)
    Output(json_target, quiet).result("\n".join(f"{key:<14} {value}" for key, value in facts.items()), facts, ["ok" if not status else "problem"])
    return status


@click.command()
@click.argument("code")
def explain(code: str) -> int:
    """Explain an error code such as SK203."""
    known = EXPLANATIONS.get(code.upper())
    if known is None:
        raise UsageError("SK101", "simkit explain", f"unknown code '{code}'{nearest(code.upper(), EXPLANATIONS)}", f"codes: {', '.join(EXPLANATIONS)}")
    click.echo("\n".join([code.upper(), "", *textwrap.wrap(known, width())]))
    return 0
