"""Pages that are made from the code when the site is built: commands, study file, error codes, public names, changelog, and the pages about measures."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def on_files(files: Any, config: Any) -> Any:
    """mkdocs: the files of the site, with the generated pages among them."""
    from mkdocs.structure.files import File

    for path, text in {**generated_pages(), **_measures().documentation_pages()}.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """mkdocs: roles of Sphinx in docstrings (``:func:`load```) are shown as the name alone."""
    return re.sub(r":(?:func|class|meth|attr|mod|data|exc):\s*(?=<code>)", "", html)


def _measures() -> Any:
    return importlib.import_module("simkit.report.catalogue_text")


def generated_pages() -> dict[str, str]:
    """Path of each page, with its Markdown."""
    return {"reference/commands.md": commands(), "reference/study-file.md": study_file(), "reference/errors.md": errors(),
            "reference/python.md": python_names(), "changelog.md": changelog(), "notebooks.md": notebooks()}


def commands() -> str:
    """--help of every command, and of every command below it."""
    import click

    from simkit.cli import COMMANDS, cli

    out = ["# Commands", "", "Results go to stdout, everything else to stderr. `--json` prints the result as JSON, `-q` only ids.", ""]
    context = click.Context(cli, info_name="simkit", max_content_width=80, terminal_width=80)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        out += [f"## simkit {name}", "", _help(command, context, name)]
        if isinstance(command, click.Group):
            inner = click.Context(command, info_name=name, parent=context, max_content_width=80, terminal_width=80)
            for below in command.list_commands(inner):
                found = command.get_command(inner, below)
                assert found is not None
                out += [f"### simkit {name} {below}", "", _help(found, inner, below)]
    return "\n".join(out)


def _help(command: Any, parent: Any, name: str) -> str:
    import click

    with click.Context(command, info_name=name, parent=parent, max_content_width=80, terminal_width=80) as context:
        return f"```text\n{command.get_help(context)}\n```\n"


def study_file() -> str:
    """Every key of the study file, from its JSON Schema."""
    from simkit.study import json_schema

    schema = json_schema()
    parts = schema["properties"]
    plain = {key: one for key, one in parts.items() if key not in ("datasets", "networks", "finetune", "correlate", "methods", "extractor")}
    beside = parts["datasets"]["additionalProperties"]["properties"]
    out = ["# Study file", "", "A study file is TOML. `simkit schema > study.schema.json` gives editors this as JSON Schema. Sources, extractors and measures "
           'are written `"name"` or `{name = {option = value}}`; `methods` is a list of them, or "all". Their options: [sources](../generated/sources.md), '
           "[extractors](../generated/extractors.md), [measures](../measures/index.md).", "", "## Top level", "", *_options(plain)]
    out += ["", "## [datasets.NAME]", "", "One source, and beside it:", "", *_options({key: beside[key] for key in ("tags", "attributes", "exclude")})]
    out += ["", "## [networks]", "", "Source = the network that was trained on it: `NAME = {torchvision = {...}}`, with `images = N` beside it.", "",
            "## [finetune]", "", *_options(parts["finetune"]["properties"]), "", "## [correlate]", "", *_options(parts["correlate"]["properties"]), ""]
    return "\n".join(out)


def _options(properties: dict[str, Any]) -> list[str]:
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, one in properties.items():
        kind = " or ".join(_kinds(one))
        default = one.get("default")
        shown = "" if default is None else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        rows.append(f"| `{name}` | {kind} | {shown} | {_cell(one.get('description', ''))} |")
    return rows


def _kinds(one: dict[str, Any]) -> list[str]:
    if "enum" in one:
        values = [f"`{value}`" for value in one["enum"]]
        return [", ".join(values[:8]) + (" ..." if len(values) > 8 else "")]
    if "anyOf" in one:
        return list(dict.fromkeys(kind for part in one["anyOf"] for kind in _kinds(part)))
    kind = one.get("type", "text")
    return [{"string": "text", "integer": "whole number", "array": "list", "object": "table", "boolean": "true or false"}.get(kind, str(kind))]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def errors() -> str:
    """Every error code with its explanation."""
    from simkit.errors import EXPLANATIONS

    out = ["# Error codes", "", "`simkit explain SK206` prints the same.", ""]
    for code, text in sorted(EXPLANATIONS.items()):
        out += [f"## {code}", "", _cell(text), ""]
    return "\n".join(out)


def python_names() -> str:
    """A directive of mkdocstrings for every public name."""
    import simkit

    out = ["# Python", "", "Public names, `simkit.NAME`; each is loaded on first use.", ""]
    for name, module in sorted(simkit._PUBLIC.items(), key=lambda item: item[0].lower()):
        thing = getattr(simkit, name)
        place = getattr(thing, "__module__", module) if inspect.isclass(thing) or inspect.isfunction(thing) else module
        own = getattr(thing, "__name__", name) if inspect.isclass(thing) or inspect.isfunction(thing) else name
        out += [f"::: {place}.{own}", ""]
    return "\n".join(out)


def notebooks() -> str:
    """notebooks/README.md as a page; the notebooks themselves are read in the repository."""
    text = (HERE.parent / "notebooks" / "README.md").read_text(encoding="utf-8")
    return re.sub(r"\[([\w ]+)\]\(([\w.]+\.ipynb)\)", r"`notebooks/\2`", text)


def changelog() -> str:
    """CHANGELOG.md as a page."""
    return (HERE.parent / "CHANGELOG.md").read_text(encoding="utf-8")
