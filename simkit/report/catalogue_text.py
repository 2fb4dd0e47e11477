"""The catalogue of measures as Markdown: an index, a page for each measure, tables of sources and extractors, the README's table.

Everything follows from the code, so that it is the same on every machine; formulas are plain text in a code block, which needs no script to be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from simkit.registry import EXTRACTORS, SOURCES, OptionInfo, Registry, describe_component, options_of
from simkit.report.catalogue import FAMILIES, MeasureEntry, catalogue

__all__ = ["BEGIN", "END", "component_markdown", "documentation_pages", "index_markdown", "markdown", "measure_markdown", "readme_block", "table"]

BEGIN, END = "<!-- measures:begin -->", "<!-- measures:end -->"
"""Lines of the README between which its table stands."""

_CODE = re.compile(r"(``[^`]+``|:\w+:`~?[^`]+`|`[^`]+`)")


def markdown(text: str) -> str:
    """Text of a docstring as Markdown: code in one pair of backticks, and nothing outside of code that Markdown would take for its own."""
    parts = _CODE.split(text)
    for place, part in enumerate(parts):
        if place % 2:
            name = part.strip("`").split("`")[-1].lstrip("~")
            parts[place] = f"`{name.split('.')[-1] if part.startswith(':') else name}`"
        else:
            parts[place] = re.sub(r"([\\_\[\]])", r"\\\1", part).replace("<", "&lt;").replace(">", "&gt;")
    return "".join(parts)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells are Markdown already, only their pipes and line ends are guarded."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)


def _yes(value: bool | str) -> str:
    return "by option" if isinstance(value, str) else "yes" if value else "no"


def index_markdown(entries: Sequence[MeasureEntry]) -> str:
    """The page that lists all measures: a table for each family, with links to their pages; without a table of contents, so that it has room."""
    columns = ("measure", "better", "kind", "symmetric", "needs", "depends on n", "p-value", "published")
    lines = [
        "---", "hide:", "  - toc", "---", "", "# Measures", "",
        f"All {len(entries)} measures, as the code describes them (`simkit list NAME` shows it on the terminal). *Better* says which values promise "
        "transfer; *depends on n*: the expected value depends on the numbers of images, so pairs are compared at one common size (*same n*: all sources of a "
        "target are judged on the same images); *p-value*: there is a permutation test; *published*: year of the first source that is cited.", "",
    ]
    for family in FAMILIES:
        rows = [(f"[{one.name}]({one.name}.md)", one.better, one.kind, _yes(one.symmetric), markdown(one.needs),
                 "same n" if one.view == "network" else _yes(one.size_biased), _yes(one.p_value), one.year) for one in entries if one.family == family]
        lines += [f"## {family.title}", "", f"{family.about} Worked through in `{family.notebook}`.", "", table(columns, rows), ""]
    return "\n".join(lines)


def measure_markdown(entry: MeasureEntry) -> str:
    """The page of one measure."""
    lines = [
        f"# {entry.name}", "", markdown(entry.summary), "", "```text", *re.split(r"(?<=[,;])  ", entry.formula), "```", "", "## At a glance", "",
        table(("property", "value"), [(f"**{name}**", text) for name, text in _facts(entry)]), "",
        "## Hazards", "", *(f"- {markdown(one)}" for one in entry.hazards), "",
    ]
    if entry.reading:
        lines += ["## Reading the number", "", *(line for one in entry.reading for line in (*_paragraph(one), ""))]
    if entry.refusals:
        lines += ["## When it refuses", "", *(f"- {markdown(one)}" for one in _items(entry.refusals)), ""]
    lines += ["## Options", "", _options(entry.options) if entry.options else "None.", ""]
    for title, text in (("Cost", entry.cost.removeprefix("Cost: ")), ("Detail", entry.detail)):
        lines += [f"## {title}", "", markdown(text), ""] if text else []
    return "\n".join([*lines, "## Source", "", markdown(entry.citation) + ".", ""])


def _paragraph(text: str) -> list[str]:
    return ["```text", *(line.removeprefix("    ") for line in text.splitlines()), "```"] if text.startswith("    ") else [markdown(text)]


def _items(text: str) -> list[str]:
    """Items of a list of errors, of which lines that go on are indented."""
    return [" ".join(item.split()) for item in re.split(r"\n(?=\S)", text.strip())]


def _facts(entry: MeasureEntry) -> list[tuple[str, str]]:
    relative = entry.pool_relative if isinstance(entry.pool_relative, str) else "yes: values of two runs do not compare" if entry.pool_relative else ""
    rows = [
        ("family", f"{entry.family.title} ([all measures](index.md))"),
        ("kind", entry.kind), ("direction", markdown(entry.direction)), ("range", _range(entry)), ("unit", markdown(entry.unit)),
        ("needs", markdown(entry.needs)), ("symmetric", _yes(entry.symmetric)),
        ("depends on the number of images", markdown(_size_bias(entry))),
        ("depends on the other data sets of the run", markdown(relative)),
        ("p-value", "of a permutation test (`permutations`)" if entry.p_value else ""),
        ('part of `methods = "all"`', f"no: {entry.by_name}" if entry.by_name else ""), ("version", str(entry.version)),
    ]
    return [(name, text) for name, text in rows if text]


def _size_bias(entry: MeasureEntry) -> str:
    if isinstance(entry.size_biased, str):
        return entry.size_biased
    if entry.view == "network":
        return "all sources of a target are judged on the same images; values of two targets do not compare"
    return "yes: pairs are measured at one common size" if entry.size_biased else "no"


def _range(entry: MeasureEntry) -> str:
    low, high = entry.bounds
    if low is None:
        return "without bounds" if high is None else f"up to {high:g}"
    return f"{low:g} upwards" if high is None else f"{low:g} to {high:g}"


def _options(options: Sequence[OptionInfo]) -> str:
    rows = []
    for info in sorted(options, key=lambda info: not info.required):
        kind = info.type_text + (f", {info.range_text}" if info.range_text else "")
        rows.append((f"**{markdown(info.name)}**", markdown(kind), "required" if info.required else _default(info.default), markdown(info.help)))
    return table(("option", "type", "default", "meaning"), rows)


def _default(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    if isinstance(value, (list, tuple)):
        return f"`[{', '.join(str(_bare(one)) for one in value)}]`" if value else "empty"
    if isinstance(value, dict):
        return "empty" if not value else f"`{value}`"
    return f"`{_bare(value)}`" if str(value) else "empty"


def _bare(value: Any) -> Any:
    return value.as_posix() if isinstance(value, Path) else f"{value:g}" if isinstance(value, float) else value


def component_markdown(registry: Registry, title: str, about: str) -> str:
    """The page of all sources or extractors of simkit's own: a table, then the options of each."""
    names = [name for name in registry.names() if registry.origin(name) == "simkit"]
    rows = {name: describe_component(registry, name) for name in names}
    overview = table((registry.kind, "what it is"), [(f"[{name}](#{name})", markdown(rows[name]["summary"])) for name in names])
    lines = [f"# {title}", "", about, "", overview, ""]
    for name in names:
        options = options_of(registry.get(name))
        lines += [f"## {name}", "", markdown(rows[name]["summary"]), "", _options(options) if options else "No options.", ""]
    return "\n".join(lines)


def documentation_pages() -> dict[str, str]:
    """All generated pages of the documentation: path below its folder -> Markdown."""
    entries = catalogue()
    sources = "Where images come from: a table in `[datasets.NAME]` of a study file, such as `folder = {path = \"images/\"}`."
    extractors = "What turns images into features: `extractor = {NAME = {option = value}}` in a study file."
    return {
        "measures/index.md": index_markdown(entries),
        **{f"measures/{entry.name}.md": measure_markdown(entry) for entry in entries},
        "generated/sources.md": component_markdown(SOURCES, "Sources", sources),
        "generated/extractors.md": component_markdown(EXTRACTORS, "Extractors", extractors),
    }


def readme_block(entries: Sequence[MeasureEntry]) -> str:
    """The README's tables, one a family, with the marks around them."""
    lines = [BEGIN]
    for family in FAMILIES:
        rows = [(f"`{one.name}`", markdown(one.summary), one.better, markdown(one.needs), _notes(one), one.year) for one in entries if one.family == family]
        lines += ["", f"**{family.title}.** {family.about}", "", table(("Measure", "What it says", "Better", "Needs", "Notes", "Published"), rows)]
    return "\n".join([*lines, "", END])


def _notes(entry: MeasureEntry) -> str:
    notes = ("n" if entry.size_biased else "", "p" if entry.p_value else "", "run" if entry.pool_relative else "", "prior" if entry.kind == "prior" else "")
    return ", ".join(note for note in notes if note)
