"""The catalogue of measures: every measure says formula, direction, hazards and source; what it names exists; README and documentation follow from the code."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner

from simkit.cli import COMMANDS
from simkit.cli.inspection import list_
from simkit.estimators.base import FeatureEstimator
from simkit.recipe import digest
from simkit.registry import ESTIMATORS, EXTRACTORS, SOURCES, Registry, option, options_of, union_members
from simkit.report.catalogue import FAMILIES, MeasureEntry, catalogue, measure_entry, sections
from simkit.report.catalogue_text import BEGIN, END, documentation_pages, markdown, measure_markdown, readme_block, table

ROOT = Path(__file__).parents[1]
ENTRIES = catalogue()

FAMILY_OF = {
    "optimal_transport": "class-mean-emd otdd otdd-lower otdd-upper sliced-wasserstein sotdd wasserstein",
    "distributions": "class-frechet energy frechet frechet-infinity kid mmd",
    "classifiers_and_neighbours": "coverage cross-learning density domain-classifier nearest-neighbour precision recall",
    "transferability": "fu gbc hscore knn leep linear-probe logme lp lp-fu nce nleep otce parc transrate",
    "task_embeddings": "task2vec",
}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_measure_says_formula_hazards_direction_and_source(entry: MeasureEntry) -> None:
    assert entry.formula
    assert "\n" not in entry.formula
    assert "$" not in entry.formula
    assert entry.formula.count("(") == entry.formula.count(")")
    assert 1 <= len(entry.hazards) <= 4
    assert all(hazard[0].isupper() or hazard[0] in "0\"`" for hazard in entry.hazards)
    assert all(hazard.endswith(".") for hazard in entry.hazards)
    assert len(set(entry.hazards)) == len(entry.hazards)
    assert entry.better in ("lower", "higher", "by option")
    assert re.search(r"(18|19|20)\d\d|^simkit", entry.citation)
    assert entry.unit
    assert entry.needs


def admitted(entry: MeasureEntry, code: str) -> bool:
    """Whether what a hazard sets in code exists: a measure, an option, an option with one of its values, or a command."""
    name, _, value = (part.strip() for part in code.partition("="))
    found = {info.name: info for info in entry.options}.get(name)
    if not value:
        return found is not None or name in ESTIMATORS.names() or (name.startswith("simkit ") and name.split()[1] in COMMANDS)
    if found is None:
        return False
    choices = [one for member in union_members(found.type) for one in get_args(member)]
    return value in map(str, choices) if choices else value in ("true", "false") if found.type is bool else value.isnumeric()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_names_in_hazards_exist(entry: MeasureEntry) -> None:
    named = [code for hazard in entry.hazards for code in re.findall(r"`([^`]+)`", hazard)]
    assert [code for code in named if not admitted(entry, code)] == []


def test_wrong_names_in_hazards_would_be_found() -> None:
    entry = next(one for one in ENTRIES if one.name == "otdd")
    assert admitted(entry, "label_cost = means")
    assert not admitted(entry, "label_cost = medians")
    assert not admitted(entry, "labels_cost = means")
    assert not admitted(entry, "otdd-middle")
    assert not admitted(entry, "simkit guess")


def test_all_measures_are_there_in_their_family() -> None:
    assert sorted(entry.name for entry in ENTRIES) == [name for name in ESTIMATORS.names() if ESTIMATORS.origin(name) == "simkit"]
    for family in FAMILIES[:-1]:
        assert [entry.name for entry in ENTRIES if entry.family == family] == FAMILY_OF[family.slug].split()
    others = {name for names in FAMILY_OF.values() for name in names.split()}
    assert {entry.name for entry in ENTRIES if entry.family == FAMILIES[-1]} == {entry.name for entry in ENTRIES} - others


def test_what_measures_need_is_said_of_the_right_side() -> None:
    needs = {entry.name: entry.needs for entry in ENTRIES}
    assert needs["otdd"] == "features and labels of both"
    assert needs["energy"] == "features of both"
    assert needs["vendi"] == "features of the source"
    assert needs["lp-fu"] == "features and gradients of the source's network, labels of the target"
    assert needs["static"] == needs["ratings"] == "a table"
    assert needs["source-imbalance"] == "labels of the source"
    assert needs["task"] == "the answer attributes.task, or labels"
    assert needs["size"] == "images of both"


def test_years_are_those_of_the_first_source() -> None:
    years = {entry.name: entry.year for entry in ENTRIES}
    assert (years["otdd"], years["knn"], years["domain"], years["static"], years["random"]) == ("2020", "1967", "2021", "simkit", "simkit")
    assert years["class-mean-emd"] == "2018"  # not the 1806 of its arXiv number


def test_readme_holds_the_table_of_the_code() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.count(BEGIN) == readme.count(END) == 1
    found = readme[readme.index(BEGIN) : readme.index(END) + len(END)]
    assert found == readme_block(ENTRIES), "README.md is behind the code: run python docs/generate_measures.py --readme"
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", found, flags=re.MULTILINE)
    assert sorted(rows) == sorted(entry.name for entry in ENTRIES)


def test_tables_keep_their_columns() -> None:
    for path, text in {**documentation_pages(), "README.md": readme_block(ENTRIES)}.items():
        width = 0
        for line in text.splitlines():
            columns = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("| ") else 0
            assert columns in (0, width) or width == 0, f"{path}: {line}"
            width = columns


def test_pages_say_what_the_code_says() -> None:
    pages = documentation_pages()
    assert {path for path in pages if path.startswith("measures/")} == {"measures/index.md", *(f"measures/{entry.name}.md" for entry in ENTRIES)}
    for entry in ENTRIES:
        page = pages[f"measures/{entry.name}.md"]
        assert f"]({entry.name}.md)" in pages["measures/index.md"]
        assert all(markdown(hazard) in page for hazard in entry.hazards)
        assert markdown(entry.citation) in page
        assert all(f"| **{markdown(info.name)}** |" in page for info in entry.options)
        assert all(part in page for part in re.split(r"(?<=[,;])  ", entry.formula))
        assert set(re.findall(r"\]\(([^)]*)\)", page)) == {"index.md"}
    for registry, path in ((SOURCES, "generated/sources.md"), (EXTRACTORS, "generated/extractors.md")):
        assert re.findall(r"^## (\S+)$", pages[path], flags=re.MULTILINE) == [name for name in registry.names() if registry.origin(name) == "simkit"]


def test_pages_name_no_machine_and_follow_from_the_code_alone() -> None:
    first, second = documentation_pages(), documentation_pages()
    assert first == second
    assert not [path for path, text in first.items() if str(ROOT) in text or str(Path.home()) in text]


def test_docstrings_become_markdown() -> None:
    text = "``label_cost`` of P_ij <= [y_i], see :func:`~simkit.a.maximum_evidence`"
    assert markdown(text) == "`label_cost` of P\\_ij &lt;= \\[y\\_i\\], see `maximum_evidence`"
    assert table(("a", "b"), [("|x|", "1\n2")]) == "| a | b |\n| --- | --- |\n| \\|x\\| | 1 2 |"


def test_docstrings_fall_into_sections() -> None:
    paragraphs = ("Summary.", "Zero means\nnothing.", "    y = 2 x\n    z = 3", "Cost: little.", "The detail holds n.",
                  "Raises:\n    DataError: a\n        b.\n    UsageError: c.")
    found = sections("\n\n".join(paragraphs))
    assert found == {
        "reading": ["Zero means nothing.", "    y = 2 x\n    z = 3"], "cost": ["Cost: little."], "detail": ["The detail holds n."],
        "refusals": ["DataError: a\n    b.\nUsageError: c."],
    }


@dataclass(frozen=True)
class Gap(FeatureEstimator):
    """Gap between means."""

    name = "gap"
    formula = "|m - m'|"
    hazards = ("Means only.",)
    citation = "nobody 2001"
    power: float = option(2.0, "of the | gap", above=0.0)


def test_measures_of_others_have_a_page_and_are_not_in_the_catalogue() -> None:
    registry = Registry("method", {"energy": "simkit.estimators.energy:Energy"}, "simkit.tests.nothing")
    registry.register(Gap)
    assert [entry.name for entry in catalogue(registry)] == ["energy"]
    page = measure_markdown(measure_entry("gap", registry))
    assert "```text\n|m - m'|\n```" in page
    assert "| **power** | number, &gt; 0 | `2` | of the \\| gap |" in page
    assert "nobody 2001." in page


def test_formula_and_hazards_are_no_part_of_a_recipe() -> None:
    @dataclass(frozen=True)
    class Plain(FeatureEstimator):
        """Gap between means."""

        name = "gap"
        power: float = 2.0

    assert "hazards" not in Gap().recipe()
    assert "formula" not in Gap().recipe()
    assert digest({**Gap().recipe(), "module": ""}) == digest({**Plain().recipe(), "module": ""})
    assert not {"formula", "hazards"} & {info.name for name in ESTIMATORS.names() for info in options_of(ESTIMATORS.get(name))}


def test_list_shows_formula_and_hazards() -> None:
    shown = CliRunner().invoke(list_, ["gbc"]).output
    assert "  formula    −Σ_{c ≠ c'} exp(−D_B),\n             D_B = Σ_k" in shown
    assert "\nhazards\n  - It saturates at 0 with few images a class" in shown
    assert "hazards" not in CliRunner().invoke(list_, ["folder"]).output


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate_measures", ROOT / "docs" / "generate_measures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generator_writes_pages_and_the_readme(tmp_path: Path) -> None:
    made = generator()
    made.main([str(tmp_path)])
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.md")} == set(documentation_pages())
    assert (tmp_path / "measures" / "otdd.md").read_text(encoding="utf-8") == documentation_pages()["measures/otdd.md"]
    assert made.with_table(f"before\n{BEGIN}\nold\n{END}\nafter") == f"before\n{readme_block(ENTRIES)}\nafter"
    with pytest.raises(ValueError, match=r"README.md must hold <!-- measures:begin --> and <!-- measures:end --> once each"):
        made.with_table("no marks")


def test_catalogue_can_be_written_as_json() -> None:
    names = [entry["name"] for entry in json.loads(CliRunner().invoke(list_, ["--json", "-"]).output)]
    assert set(names) >= {entry.name for entry in ENTRIES}
