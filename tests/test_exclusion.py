"""Images that are left out on purpose: the list, what it does to a data set, and what is wrong with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from images import write_images

import simkit
from simkit.dataset import card_of
from simkit.errors import DataError, UsageError
from simkit.pipeline.commands import resolve
from simkit.sources.exclusion import without
from simkit.study import json_schema, read_study

STUDY = """
study = "left-out"
targets = ["a"]
extractor = "pixels"
methods = ["frechet"]
[datasets.a]
folder = {path = "a"}
[datasets.b]
folder = {path = "b"}
exclude = "lists/exclude-b.csv"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "a", {"x": 3, "y": 3})
    write_images(tmp_path / "b", {"x": 3, "y": 4}, seed=1)
    (tmp_path / "lists").mkdir()
    return tmp_path


def test_named_images_are_left_out_and_counted(folder: Path) -> None:
    whole = simkit.load(folder / "b")
    first, second = whole.keys[0], whole.keys[5]
    path = folder / "lists" / "exclude-b.csv"
    path.write_text(f"key,reason\n{first},copy of an image of a\n{second},\n{first},again\n")
    left = without(whole, path)
    assert left.excluded == 2
    assert left.skipped == ()
    assert set(left.keys) == set(whole.keys) - {first, second}
    assert left.fingerprint != whole.fingerprint
    assert [left.digests[left.keys.index(key)] for key in left.keys] == [whole.digests[whole.keys.index(key)] for key in left.keys]
    assert card_of(left)[0].excluded == 2


def test_the_study_file_takes_the_list(folder: Path) -> None:
    key = simkit.load(folder / "b").keys[2]
    (folder / "lists" / "exclude-b.csv").write_text(f"key\n{key}\n")
    (folder / "study.toml").write_text(STUDY)
    study = read_study(folder / "study.toml")
    dataset = simkit.load("b", study=study)
    assert key not in dataset.keys
    assert (len(dataset), dataset.excluded) == (6, 1)
    results = simkit.run(study)
    assert {card.name: card.excluded for card in results.content.cards} == {"a": 0, "b": 1, **{c.name: 0 for c in results.content.cards if c.name not in "ab"}}
    assert results.scores.records[0]["n_source"] == 6
    assert results.incomplete == ()
    assert 'exclude = "' in (study.out / "config.toml").read_text()
    assert read_study(study.out / "config.toml").datasets["b"].exclude == folder / "lists" / "exclude-b.csv"


def test_a_path_on_the_command_line_takes_it_as_an_option(folder: Path) -> None:
    key = simkit.load(folder / "b").keys[0]
    (folder / "left.csv").write_text(f"key\n{key}\n")
    spec, base = resolve(folder / "b", options={"exclude": str(folder / "left.csv")})
    assert spec.load(base).excluded == 1


def test_a_key_of_another_data_set_is_an_error_with_its_line(folder: Path) -> None:
    whole = simkit.load(folder / "b")
    path = folder / "wrong.csv"
    path.write_text(f"key,reason\n{whole.keys[0]},\nx/0.png.bak,\n")
    with pytest.raises(DataError, match=r"wrong.csv:3 \(column 'key'\): 'x/0.png.bak' is no image of b.*\n?.*list of another data set"):
        without(whole, path)


def test_a_missing_list_a_missing_column_and_an_empty_rest(folder: Path) -> None:
    whole = simkit.load(folder / "b")
    with pytest.raises(UsageError, match=r"b: exclude: the list .*none.csv does not exist"):
        without(whole, folder / "none.csv")
    (folder / "bad.csv").write_text("image\nx\n")
    with pytest.raises(DataError, match=r"bad.csv.*'key'"):
        without(whole, folder / "bad.csv")
    (folder / "all.csv").write_text("key\n" + "\n".join(whole.keys) + "\n")
    with pytest.raises(DataError, match=r"names all 7 images: nothing is left"):
        without(whole, folder / "all.csv")


def test_keys_that_a_spreadsheet_would_run_are_found_behind_their_apostrophe(folder: Path) -> None:
    dataset = simkit.from_arrays(np.arange(48, dtype=np.uint8).reshape(3, 4, 4), None)
    named = replace(dataset, keys=("=a", "b", "c"))
    (folder / "guarded.csv").write_text("key\n'=a\n")
    assert without(named, folder / "guarded.csv").keys == ("b", "c")


def test_the_study_file_wants_a_path_and_the_schema_knows_the_key(folder: Path) -> None:
    (folder / "study.toml").write_text(STUDY.replace('"lists/exclude-b.csv"', "3"))
    with pytest.raises(UsageError, match=r"datasets.b.exclude: 3 is not the path of a list"):
        read_study(folder / "study.toml")
    assert "exclude" in json_schema()["properties"]["datasets"]["additionalProperties"]["properties"]
