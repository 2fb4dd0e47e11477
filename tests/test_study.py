"""The study file: one grammar, all errors at once, a schema that agrees with the code."""

from __future__ import annotations

import tomllib
from pathlib import Path

import jsonschema
import pytest

from simkit.errors import UsageError
from simkit.pipeline.running import study_config
from simkit.study import json_schema, read_study, study_from, toml_text

GOOD = """
study = "demo"
seed = 3
targets = ["b"]
extractor = {pixels = {size = 8}}
methods = ["frechet", {otdd = {label_cost = "means"}}]
[datasets.a]
samples = {set = "digits"}
tags = ["natural"]
[datasets.b]
samples = {set = "textures"}
attributes = {domain = "natural"}
[finetune]
folds = 3
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_study_is_resolved(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, GOOD))
    assert (study.name, study.seed, study.sources, study.targets, study.pairs) == ("demo", 3, ("a", "b"), ("b",), (("a", "b"),))
    assert study.extractor.size == 8
    assert [m.name for m in study.methods] == ["frechet", "otdd"]
    assert study.methods[1].label_cost == "means"
    assert study.protocol is not None
    assert study.protocol.folds == 3
    assert study.datasets["b"].attributes == {"domain": "natural"}
    assert study.out == tmp_path / "results" / "demo"


def test_all_errors_come_at_once_each_with_its_path_and_the_nearest_name(tmp_path: Path) -> None:
    text = """
sede = 1
repeats = "ten"
targets = ["bb"]
extractor = {pixel = {size = 8}}
methods = ["freche", {otdd = {label_cst = "gaussian"}}, {otdd = {label_cost = "gausian"}}]
[datasets.a]
foldr = {path = "x"}
[datasets.b]
folder = {}
atributes = {domain = "x"}
[datasets.c]
samples = {set = "digits"}
attributes = {modalty = "x"}
[finetune]
folds = 1
"""
    with pytest.raises(UsageError) as caught:
        read_study(write(tmp_path, text))
    message = "\n".join(str(p) for p in caught.value.problems)
    for part in (
        "study.toml: sede: unknown key (did you mean 'seed'?)", "study.toml: repeats: 'ten' is not valid here: expected whole number",
        "study.toml: targets: 'bb' is not a data set of the study", "unknown extractor 'pixel' (did you mean 'pixels'?)",
        "study.toml: methods[0]: unknown method 'freche' (did you mean 'frechet'?)", "methods[1].otdd.label_cst: unknown option (did you mean 'label_cost'?)",
        "methods[2].otdd.label_cost: 'gausian' is not valid here: expected one of: gaussian", "(did you mean 'gaussian'?)",
        "study.toml: datasets.a: unknown source 'foldr' (did you mean 'folder'?)",
        "datasets.b: has 2 sources (folder, atributes), wanted one (did you mean 'attributes'?)",
        "datasets.c.attributes.modalty: unknown attribute (did you mean 'modality'?)",
        "study.toml: finetune.folds: 1 is out of range: expected whole number >= 2",
    ):
        assert part in message, part
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(("text", "message"), [
    ("seed = \n", r"study\.toml:1:8: is not valid TOML"),
    ("seed = 1\nname = no\n", r"study\.toml:2:8: is not valid TOML.*name = no"),
    ("[datasets.a]\nsamples={set='digits'}\n[datasets.a]\nx=1\n", r"study\.toml:3:\d+: the same name is given twice"),
    ("targets=['a']", r"study\.toml: datasets: no data set is given"),
    ("[datasets.a]\nsamples={set='digits'}", r"study\.toml: targets: no target is named"),
    ("targets=['a']\n[datasets.a]\ntags=['x']", r"datasets\.a: has no source, wanted one"),
    ("targets=['a']\n[datasets.a]\nfolder={}", r"datasets\.a\.folder: option 'path' is required"),
    ("targets=['a']\n[datasets]\na='x'", r"datasets\.a: 'x' is not a table"),
    ("targets=['a']\nmethods=[]\n[datasets.a]\nsamples={set='digits'}", "no method is named"),
    ("targets=['a']\nmethods=['otdd','otdd']\n[datasets.a]\nsamples={set='digits'}", "'otdd' is named 2 times"),
    ("targets=['a']\nmethods=[{otdd=1}]\n[datasets.a]\nsamples={set='digits'}", r"methods\[0\]: .* is neither a name nor one name with a table"),
    ("targets=['a','a']\n[datasets.a]\nsamples={set='digits'}", "'a' is named twice"),
    ("targets=['a']\ntransfer='x.csv'\n[finetune]\n[datasets.a]\nsamples={set='digits'}", r"both \[finetune\] and transfer"),
    ("targets=['a']\n[datasets.a]\nsamples={set='digits'}\ntags='x'", r"datasets\.a\.tags: 'x' is not a list of texts"),
    ("targets=['a']\n[datasets.a]\nsamples={set='digits'}\nattributes={domain=1}", r"attributes\.domain: 1 is not a text"),
    ("targets=['a']\nrepeats=2\n[datasets.a]\nsamples={set='digits'}", r"study\.toml: repeats: 2 half-samples give no interval"),
    ("targets=['a']\nfinetune=3\n[datasets.a]\nsamples={set='digits'}", "3 is not a table"),
])
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_study(write(tmp_path, text))


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with pytest.raises(UsageError, match=r"does not exist \(did you mean 'study.toml'\?\)"):
        read_study(tmp_path / "studi.toml")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, GOOD.replace('samples = {set = "digits"}', 'folder = {path = "images"}')
                             .replace("folds = 3", 'folds = 3\nweights = {own = "net.pth"}')))
    assert study.datasets["a"].source.path == tmp_path / "images"
    assert study.protocol is not None
    assert study.protocol.weights == {"own": str(tmp_path / "net.pth")}


def test_all_takes_every_method_that_needs_no_file(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, GOOD.replace('methods = ["frechet", {otdd = {label_cost = "means"}}]', 'methods = "all"')))
    names = {m.name for m in study.methods}
    assert {"otdd", "frechet", "domain-classifier", "questionnaire", "source-size"} <= names
    assert "ratings" not in names
    assert study.all_methods
    assert {"wasserstein", "sotdd"} <= names
    assert not {"otdd-lower", "otdd-upper"} & names  # bounds of another measure


def test_the_schema_accepts_what_the_reader_accepts_and_refuses_what_it_refuses() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(tomllib.loads(GOOD))
    for wrong in (GOOD.replace("seed", "sede"), GOOD.replace("size = 8", "size = 0"), GOOD.replace("means", "median"), GOOD.replace("folds = 3", "fold = 3"),
                  GOOD.replace("pixels", "pixel"), GOOD.replace('targets = ["b"]', ""), GOOD.replace("domain", "demain")):
        assert not validator.is_valid(tomllib.loads(wrong)), wrong
        with pytest.raises(UsageError):
            study_from(tomllib.loads(wrong), base=Path())


def test_every_option_of_every_component_is_in_the_schema_with_its_help() -> None:
    finetune = json_schema()["properties"]["finetune"]["properties"]
    assert finetune["folds"] == {"type": "integer", "description": finetune["folds"]["description"], "minimum": 2, "default": 5}
    assert "one-vs-rest" in finetune["average"]["description"]


def test_the_resolved_configuration_is_a_study_file_that_gives_the_same_study(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, GOOD))
    config = study_config(study)
    again = study_from(tomllib.loads(toml_text(config)), base=tmp_path)
    assert study_config(again) == config


def test_toml_text_keeps_every_kind_of_value() -> None:
    value = {"a b": 'quote " and \\ and \n', "n": 1, "x": 0.1, "yes": True, "list": [1, 2], "table": {"inner": {"k": "v"}, "z": ["a"]}}
    assert tomllib.loads(toml_text(value)) == value
