"""A measure of one's own: twelve lines, three ways in, and what happens when a plug-in is broken."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simkit
from simkit.errors import UsageError
from simkit.estimators import checks
from simkit.registry import ESTIMATORS, SOURCES, Registry, describe_component

MEAN_GAP = '''
from dataclasses import dataclass

import numpy as np

from simkit import Embedding, FeatureEstimator, Score


@dataclass(frozen=True)
class MeanGap(FeatureEstimator):
    """Distance between mean feature vectors, in units of the target's spread. Zero means equal means."""

    name, kind, symmetric = "mean-gap", "distance", False
    scaled: bool = True

    def compare(self, source: Embedding, target: Embedding, rng: np.random.Generator) -> Score:
        gap = source.features.mean(0) - target.features.mean(0)
        spread = target.features.std() if self.scaled else 1.0
        return Score(float(np.linalg.norm(gap) / spread))
'''
"""The example of the documentation."""

SOURCE, TARGET = np.array([[4.0, 4.0], [4.0, 4.0]]), np.array([[1.0, 0.0], [1.0, 0.0]])
UNSCALED = 5.0  # the means are (4, 4) and (1, 0)
SCALED = 10.0  # the target's values 1, 0, 1, 0 have standard deviation 0.5


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules, paths and names that a test adds are gone after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(ESTIMATORS, "_classes", dict(ESTIMATORS._classes))
    for name in ("mean_gap", "plug_broken", "plug_odd"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a distribution with one module and its entry points where Python finds it, as pip would."""

    def install(distribution: str, module: str, text: str, points: dict[str, str], group: str = "simkit.estimators") -> Path:
        site = tmp_path / f"site-{distribution}"
        info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *(f"{name} = {target}" for name, target in points.items()), ""]))
        (site / f"{module}.py").write_text(text)
        monkeypatch.syspath_prepend(str(site))
        return site

    return install


def fresh() -> Registry:
    """A registry that has not read the entry points yet, with a few of the names of simkit."""
    return Registry("method", {name: ESTIMATORS._targets[name] for name in ("frechet", "modality", "size")}, "simkit.estimators")


# --- three ways in ----------------------------------------------------------------------------------------------------------------


def test_way_one_an_entry_point_of_an_installed_package(install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    install("gap-measures", "mean_gap", MEAN_GAP, {"mean-gap": "mean_gap:MeanGap"})
    registry = fresh()
    assert "mean-gap" in registry.names()
    assert "mean_gap" not in sys.modules, "a name is listed without importing it"
    assert registry.origin("mean-gap") == "gap-measures"
    estimator = registry.build({"mean-gap": {"scaled": False}})
    assert simkit.compare(estimator, SOURCE, TARGET).value == UNSCALED
    monkeypatch.setattr(checks, "ESTIMATORS", registry)
    simkit.check_estimator("mean-gap")


def test_an_installed_plug_in_is_found_by_a_new_process(install: Callable[..., Path], tmp_path: Path) -> None:
    site = install("gap-measures", "mean_gap", MEAN_GAP, {"mean-gap": "mean_gap:MeanGap"})
    program = "import simkit; print(simkit.compare('mean-gap', [[4.0, 4.0], [4.0, 4.0]], [[1.0, 0.0], [1.0, 0.0]], scaled=True).value)"
    path = os.pathsep.join([str(site), str(Path(simkit.__file__).parents[1])])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert (done.stdout.strip(), done.stderr) == (str(SCALED), "")


def test_way_two_a_file_beside_you(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mean_gap.py").write_text(MEAN_GAP)
    monkeypatch.chdir(tmp_path)
    assert simkit.compare("mean_gap:MeanGap", SOURCE, TARGET).value == SCALED
    assert simkit.compare("mean_gap:MeanGap", SOURCE, TARGET, scaled=False).value == UNSCALED
    simkit.check_estimator("mean_gap:MeanGap")
    simkit.check_estimator("mean_gap:MeanGap", options={"scaled": False})
    assert describe_component(ESTIMATORS, "mean_gap:MeanGap")["options"][0]["name"] == "scaled"


def test_way_three_a_class_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mean_gap.py").write_text(MEAN_GAP)
    monkeypatch.syspath_prepend(str(tmp_path))
    import mean_gap

    assert ESTIMATORS.register(mean_gap.MeanGap) is mean_gap.MeanGap, "usable as a decorator"
    ESTIMATORS.register(mean_gap.MeanGap)  # a notebook cell that is run twice
    assert "mean-gap" in ESTIMATORS.names()
    assert ESTIMATORS.origin("mean-gap") == "this process"
    assert simkit.compare("mean-gap", SOURCE, TARGET).value == SCALED
    simkit.check_estimator("mean-gap")
    simkit.check_estimator(mean_gap.MeanGap)


def test_options_of_a_plug_in_are_checked_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mean_gap.py").write_text(MEAN_GAP)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"SK101\] .*MeanGap\.scale: unknown option \(did you mean 'scaled'\?\)"):
        simkit.compare("mean_gap:MeanGap", SOURCE, TARGET, scale=False)
    with pytest.raises(UsageError, match=r"SK102\] .*MeanGap\.scaled: 'no' is not valid here: expected true or false"):
        simkit.compare("mean_gap:MeanGap", SOURCE, TARGET, scaled="no")


# --- clashes ----------------------------------------------------------------------------------------------------------------------


def test_two_plug_ins_of_one_name_are_refused_naming_both(install: Callable[..., Path]) -> None:
    install("gap-measures", "mean_gap", MEAN_GAP, {"mean-gap": "mean_gap:MeanGap"})
    install("other-measures", "plug_odd", MEAN_GAP, {"mean-gap": "plug_odd:MeanGap"})
    registry = fresh()
    with pytest.raises(UsageError, match=r"SK105\].*(gap-measures and other-measures|other-measures and gap-measures) both provide the method 'mean-gap'"):
        registry.get("mean-gap")
    assert registry.get("size").name == "size"  # type: ignore[attr-defined]
    assert "both provide" in describe_component(registry, "mean-gap")["broken"]


def test_a_plug_in_cannot_take_a_name_of_simkit(install: Callable[..., Path]) -> None:
    install("gap-measures", "mean_gap", MEAN_GAP, {"size": "mean_gap:MeanGap"})
    with pytest.raises(UsageError, match="simkit and gap-measures both provide the method 'size'"):
        fresh().get("size")


def test_register_refuses_a_name_that_is_taken(install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    install("gap-measures", "mean_gap", MEAN_GAP, {"mean-gap": "mean_gap:MeanGap"})
    install("other-measures", "plug_odd", MEAN_GAP, {})
    import plug_odd

    for registry in (fresh(), ESTIMATORS):
        name = "mean-gap" if registry is not ESTIMATORS else "otdd"
        monkeypatch.setattr(plug_odd.MeanGap, "name", name)
        with pytest.raises(UsageError, match=rf"SK105\] MeanGap: the method name '{name}' is taken"):
            registry.register(plug_odd.MeanGap)


@pytest.mark.parametrize(("body", "message"), [
    ({}, r"SK104\] Mine: the class has no name"),
    ({"name": "mine"}, r"SK110\] Mine: the class is not a dataclass"),
])
def test_register_refuses_what_is_no_measure(body: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ESTIMATORS.register(type("Mine", (), body))


# --- broken plug-ins --------------------------------------------------------------------------------------------------------------


def test_a_plug_in_that_does_not_import_leaves_the_rest_working(install: Callable[..., Path]) -> None:
    install("gap-measures", "mean_gap", MEAN_GAP, {"mean-gap": "mean_gap:MeanGap"})
    install("sad-measures", "plug_broken", "raise RuntimeError('no licence found')\n", {"sad": "plug_broken:Sad"})
    registry = fresh()
    with pytest.raises(UsageError, match=r"SK110\].*the method 'sad' could not be imported: RuntimeError: no licence found") as caught:
        registry.get("sad")
    assert caught.value.exit_status == 2
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert registry.names() == ["frechet", "mean-gap", "modality", "sad", "size"]
    assert simkit.compare(registry.build("mean-gap"), SOURCE, TARGET).value == SCALED
    rows = {name: describe_component(registry, name) for name in registry.names()}
    assert [name for name, row in rows.items() if "broken" in row] == ["sad"]
    broken = "the method 'sad' could not be imported: RuntimeError: no licence found"
    assert rows["sad"] == {"name": "sad", "component": "method", "origin": "sad-measures", "broken": broken}


@pytest.mark.parametrize(("target", "message"), [
    ("plug_odd:Nothing", "AttributeError: module 'plug_odd' has no attribute 'Nothing'"),
    ("plug_odd:function", "'plug_odd:function' is not a class"),
    ("plug_odd:Plain", "the class is not a dataclass"),
    ("plug_odd:Riddle", "NameError: name 'Sphinx' is not defined"),
    ("plug_missing:Gone", "ModuleNotFoundError: No module named 'plug_missing'"),
])
def test_an_odd_plug_in_is_described_as_broken(install: Callable[..., Path], target: str, message: str) -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\ndef function(): ...\n\nclass Plain: ...\n\n"
        "@dataclass(frozen=True)\nclass Riddle:\n    answer: Sphinx = 1\n"
    )
    install("odd-measures", "plug_odd", text, {"odd": target})
    assert message in describe_component(fresh(), "odd")["broken"]


def test_a_bug_of_simkit_is_not_called_a_broken_plug_in() -> None:
    registry = Registry("method", {"gone": "simkit.estimators.gone:Gone"}, "simkit.nothing")
    with pytest.raises(ModuleNotFoundError):
        describe_component(registry, "gone")


# --- what `simkit list NAME` shows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATORS.names())
def test_every_measure_describes_itself(name: str) -> None:
    row = describe_component(ESTIMATORS, name)
    assert "broken" not in row
    assert (row["name"], row["component"], row["origin"]) == (name, "method", "simkit")
    for field in ("summary", "unit", "citation", "direction"):
        assert len(row[field]) > 5, f"{name} has no {field}"
    assert all(option["help"] for option in row["options"]), f"an option of {name} has no help"


def test_the_description_comes_from_the_code() -> None:
    row = describe_component(ESTIMATORS, "questionnaire")
    assert row["summary"] == "Distance between the answers that two data sets give to a form of up to ten questions."
    (questions,) = row["options"]
    assert questions["type"].startswith("list of one of: domain, modality")
    assert (questions["required"], questions["range"]) == (False, "")
    assert (row["kind"], row["view"], row["symmetric"], row["direction"], row["needs"]) == ("distance", "card", True, "lower is better", ("attributes",))
    assert describe_component(ESTIMATORS, "source-size")["direction"] == "higher is better"
    assert describe_component(ESTIMATORS, "ratings")["direction"].startswith("as the option kind_of_value says")


def test_a_source_has_no_direction() -> None:
    row = describe_component(SOURCES, "table")
    assert row["component"] == "source"
    assert "direction" not in row


def test_describing_an_unknown_name() -> None:
    with pytest.raises(UsageError, match=r"SK101.*unknown method 'modalty' \(did you mean 'modality'\?\)"):
        describe_component(ESTIMATORS, "modalty")
