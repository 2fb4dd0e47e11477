"""The documentation: commands, study files and links that it shows are real, and the site is built without a warning and asks the network for nothing."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from types import ModuleType

import click
import pytest

import simkit
from simkit.cli import cli
from simkit.report.catalogue_text import documentation_pages
from simkit.study import json_schema, read_study

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s#]*)(#[^)\s]*)?\)")
FRAGMENT = "# fragment"
PICTURE_LIMIT, PICTURES_LIMIT = 200_000, 1_500_000

named = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def command_lines(text: str) -> list[str]:
    """Lines that begin with ``simkit`` in blocks of commands: fenced (console, bash) or indented by four."""
    blocks = [block for language, block in FENCE.findall(text) if language in ("console", "bash")]
    rest = FENCE.sub("", text)
    blocks.append("\n".join(line[4:] for line in rest.splitlines() if line.startswith("    ")))
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [found.strip() for line in lines if (found := re.sub(r"^\s*(\$ |srun |\.venv/bin/)*", "", line)).startswith("simkit ")]


def problem(line: str) -> str:
    """What the command line does not know of a command; nothing where it knows all of it."""
    words = shlex.split(re.split(r"\s[|>]\s", line)[0], comments=True)[1:]
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        if name not in command.list_commands(context):
            return f"no command '{name}' in: {line}"
        found = command.get_command(context, name)
        assert found is not None
        command = found
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help", "-h"}
    unknown = [word for word in words if re.match(r"--?[a-z]", word) and word.partition("=")[0].strip("[]") not in known]
    return f"no option {', '.join(unknown)} in: {line}" if unknown else ""


@cache
def hooks() -> ModuleType:
    """docs/hooks.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("documentation_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def generated() -> dict[str, str]:
    pages: dict[str, str] = hooks().generated_pages()
    return {**documentation_pages(), **pages}


@named
def test_every_command_that_is_shown_exists(page: Path) -> None:
    assert [found for line in command_lines(page.read_text(encoding="utf-8")) if (found := problem(line))] == []


def test_commands_are_found_and_wrong_ones_are_noticed() -> None:
    fenced = "```console\nsimkit lst otdd\n```\n\n```bash\n.venv/bin/simkit store list\nsrun simkit run x.toml \\\n  --clustr ray\n```\n"
    text = fenced + "\n    simkit map a --metod umap | less\n"
    lines = command_lines(text)
    assert len(lines) == 4
    assert [problem(line).partition(" in:")[0] for line in lines] == ["no command 'lst'", "", "no option --clustr", "no option --metod"]
    assert sum(len(command_lines(page.read_text(encoding="utf-8"))) for page in PAGES) > 60


@named
def test_study_files_that_are_shown_are_valid(page: Path, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    for number, (language, block) in enumerate(FENCE.findall(page.read_text(encoding="utf-8"))):
        if language != "toml":
            continue
        content = tomllib.loads(block)
        if not set(content) <= set(json_schema()["properties"]):
            pytest.fail(f"keys that no study file has: {set(content) - set(json_schema()['properties'])}")
        if "targets" in content:
            without_files = block.replace(', {ratings = {path = "experts.csv"}}', "")  # a measure that reads its file at once
            (tmp_path / f"{number}.toml").write_text(without_files, encoding="utf-8")
            read_study(tmp_path / f"{number}.toml")
        for part in ("finetune", "correlate"):
            if part in content:
                jsonschema.validate(content[part], json_schema()["properties"][part])
        assert "targets" in content or block.startswith((FRAGMENT, "[finetune]", "[networks]")), f"say {FRAGMENT!r} in block {number}"


@named
def test_links_lead_somewhere(page: Path) -> None:
    missing = []
    for target, _ in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        place = (page.parent / target).resolve()
        made = place.is_relative_to(DOCS) and str(place.relative_to(DOCS)) in generated()
        if target and not made and not place.exists():
            missing.append(target)
    assert missing == []


@named
def test_no_page_names_a_path_of_a_machine(page: Path) -> None:
    _no_machine(page.read_text(encoding="utf-8"))


def test_no_generated_page_names_a_path_of_a_machine() -> None:
    for text in generated().values():
        _no_machine(text)


def _no_machine(text: str) -> None:
    assert re.findall(r"(?<![\w.~-])/(?:work|home|root|tmp|Users|mnt)/[\w./-]*", text) == []


def test_generated_pages_hold_every_command_code_and_public_name() -> None:
    from simkit.cli import COMMANDS
    from simkit.errors import EXPLANATIONS

    pages = generated()
    assert [name for name in COMMANDS if f"\n## simkit {name}\n" not in pages["reference/commands.md"]] == []
    assert "### simkit store verify" in pages["reference/commands.md"]
    assert [code for code in EXPLANATIONS if f"\n## {code}\n" not in pages["reference/errors.md"]] == []
    assert pages["reference/python.md"].count("\n::: simkit.") == len(simkit._PUBLIC)
    assert [key for key in json_schema()["properties"]["finetune"]["properties"] if f"| `{key}` |" not in pages["reference/study-file.md"]] == []
    assert generated()["changelog.md"].startswith("# Changelog")


def test_generated_pages_are_the_same_twice() -> None:
    assert hooks().generated_pages() == {path: text for path, text in generated().items() if path not in documentation_pages()}


def test_citation_has_what_readers_of_the_format_need() -> None:
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"]
    assert str(citation["version"]) == simkit.__version__


def test_pictures_are_small_and_shown() -> None:
    pictures = sorted((DOCS / "pictures").iterdir())
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [picture.name for picture in pictures if picture.stat().st_size >= PICTURE_LIMIT] == []
    assert sum(picture.stat().st_size for picture in pictures) < PICTURES_LIMIT
    assert [picture.name for picture in pictures if picture.name not in text] == []
    assert re.findall(r"!\[\s*\]", text) == [], "a picture without a text for those who cannot see it"


def test_the_site_is_built_without_a_warning_and_asks_for_nothing(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings", "playwright"):
        pytest.importorskip(package)
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed: the site is built, but not opened")
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    said: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 400, "height": 900})
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: said.append(str(error)))
        for page in ("index.html", "faq.html", "howto/cluster.html", "reference/commands.html", "measures/otdd.html"):
            tab.goto((site / page).as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth") <= 400, page
        tab.set_viewport_size({"width": 1280, "height": 900})
        tab.goto((site / "index.html").as_uri())
        tab.locator("input.md-search__input").press_sequentially("regret", delay=50)
        tab.wait_for_selector(".md-search-result__link", timeout=10_000)
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert said == []
