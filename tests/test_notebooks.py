"""Notebooks as they are kept: without outputs, linked, complete. ``pytest --nbmake notebooks`` runs them; here, only what that cannot show.

``python tests/test_notebooks.py`` strips the outputs of all notebooks.
"""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = {
    "measures_classifiers_and_neighbours", "measures_distributions", "measures_intuition_and_priors", "measures_optimal_transport",
    "measures_task_embeddings", "measures_transferability", "own_measure", "quickstart", "scores_to_decision", "seed_study",
}
METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"}}
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def source(path: Path, kind: str = "") -> str:
    return "\n".join(cell.source for cell in read(path).cells if kind in ("", cell.cell_type))


def stripped(notebook: Any) -> Any:
    """The notebook without outputs, counts and what editors add."""
    bare = copy.deepcopy(notebook)
    bare.metadata = nbformat.from_dict(METADATA)
    for cell in bare.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return bare


def leftovers(notebook: Any) -> list[str]:
    """What a stripped notebook would not hold."""
    found = [f"cell {i}: outputs" for i, cell in enumerate(notebook.cells) if cell.get("outputs")]
    found += [f"cell {i}: execution count {cell.execution_count}" for i, cell in enumerate(notebook.cells) if cell.get("execution_count") is not None]
    found += [f"cell {i}: metadata {sorted(cell.metadata)}" for i, cell in enumerate(notebook.cells) if cell.metadata]
    return found + ([] if notebook.metadata == METADATA else ["metadata of the notebook"])


def executed(path: Path) -> str:
    """Everything that the notebook prints."""
    notebook = read(path)
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}).execute()
    return "".join(output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "stream")


def test_there_is_a_notebook_for_every_subject_and_the_readme_lists_it() -> None:
    assert {path.stem for path in NOTEBOOKS} == NAMES
    assert set(re.findall(r"\]\((\w+)\.ipynb\)", (FOLDER / "README.md").read_text(encoding="utf-8"))) == NAMES


@every_notebook
def test_outputs_are_stripped(path: Path) -> None:
    assert leftovers(read(path)) == [], "strip it: python tests/test_notebooks.py"


def test_leftovers_are_found_and_stripping_removes_them() -> None:
    notebook = read(NOTEBOOKS[0])
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text="x")], 3
    cell.metadata["execution"] = {"a": "time"}
    notebook.metadata["widgets"] = {}
    assert len(leftovers(notebook)) == 4
    assert leftovers(stripped(notebook)) == []


@every_notebook
def test_no_path_of_a_machine_is_in_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [part for part in ("/tmp/", "/home/", "/root/", "/Users/", "/work/", "site-packages") if part in text] == []


@every_notebook
def test_it_has_a_title_says_what_to_try_next_and_its_links_lead_somewhere(path: Path) -> None:
    cells, text = read(path).cells, source(path, "markdown")
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert "## What to try next" in text
    links = re.findall(r"\]\((?!https:)([^)]+)\)", text)
    assert [link for link in links if not (FOLDER / link).is_file()] == []


@every_notebook
def test_it_leaves_the_store_of_its_reader_alone(path: Path) -> None:
    code = source(path, "code")
    uses = re.search(r"simkit\.(embed|distance|run|card|finetune)\(", code)
    assert not uses or 'os.environ["SIMKIT_STORE"] = workplace.name' in code[: uses.start()]


def test_every_measure_is_in_one_of_them() -> None:
    from simkit.registry import ESTIMATORS

    text = "\n".join(source(path) for path in NOTEBOOKS)
    shown = set(re.findall(r"[`\"]([a-z0-9-]+)[`\"]", text))
    built_in = {name for name in ESTIMATORS.names() if ESTIMATORS.get(name).__module__.startswith("simkit.")}
    assert sorted(built_in - shown) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.shared
def test_the_published_correlations_come_out_of_the_published_table(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CATS_SCANS", raising=False)
    monkeypatch.setenv("SIMKIT_SHARED", str(shared))
    printed = executed(FOLDER / "seed_study.ipynb")
    assert "This is the published table" in printed
    assert "both published correlations come out to six digits" in printed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_without_the_published_table_the_numbers_are_said_to_be_simulated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CATS_SCANS", raising=False)
    monkeypatch.setenv("SIMKIT_SHARED", str(tmp_path))
    printed = executed(FOLDER / "seed_study.ipynb")
    assert "THIS IS NOT THE SEED STUDY" in printed
    assert "SIMULATED" in printed
    assert "come out to six digits" not in printed


@pytest.mark.filterwarnings("ignore")
def test_a_folder_without_the_published_table_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CATS_SCANS", str(tmp_path))
    with pytest.raises(CellExecutionError, match=r"aucs_scores_distances_experts\.csv is not in the folder that was given .*correct it, or leave it empty"):
        executed(FOLDER / "seed_study.ipynb")


@pytest.mark.parametrize(("limit", "status"), [("0.01", 1), ("60.0", 0)])
def test_a_notebook_that_takes_too_long_fails(tmp_path: Path, limit: str, status: int) -> None:
    conftest = (FOLDER / "conftest.py").read_text(encoding="utf-8")
    assert "LIMIT = 60.0" in conftest
    (tmp_path / "conftest.py").write_text(conftest.replace("LIMIT = 60.0", f"LIMIT = {limit}"), encoding="utf-8")
    nbformat.write(nbformat.v4.new_notebook(metadata=METADATA, cells=[nbformat.v4.new_code_cell("sum(range(1000))")]), tmp_path / "slow.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbmake", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    assert ("slow.ipynb took" in done.stdout) == bool(status)


if __name__ == "__main__":
    for file in NOTEBOOKS:
        kept = read(file)
        if leftovers(kept):
            nbformat.write(stripped(kept), file)
            print(f"stripped {file.name}")
