"""`simkit leakage`: what it prints and writes, the page, lists to leave out that a study takes, exit status, wrong use."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from test_leakage import jpeg, save, scene

import simkit
from simkit.cli.leakage import leakage
from simkit.errors import DataError, UsageError
from simkit.leakage.pairs import CopyPair, Leakage
from simkit.report.leakage_page import PICTURES, TABLE_ROWS, leakage_csv, leakage_page, pictured
from simkit.report.leakage_text import LISTED, groups_line, leakage_text


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``goal`` holds a re-encoded and a copied image of ``big``."""
    for number in range(8):
        save(scene(number), tmp_path / "big" / "ab"[number % 2] / f"{number}.png")
        save(scene(100 + number), tmp_path / "goal" / "ab"[number % 2] / f"{number}.png")
    save(jpeg(scene(3))[:, ::-1].copy(), tmp_path / "goal" / "a" / "near.png")
    shutil.copy(tmp_path / "big" / "a" / "4.png", tmp_path / "goal" / "b" / "same.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(leakage, list(arguments), standalone_mode=False)


def test_text_json_and_ids(folder: Path) -> None:
    result = call("goal", "--source", "big")
    assert result.exception is None
    assert result.return_value == 0
    assert "2 of 10 images of goal (20.0 %) have a copy in big: 1 exact, 1 near" in result.stdout
    assert re.search(r"a/near\.png\s+b/3\.png\s+near\s+0\.9\d\d\s+mirrored", result.stdout)
    value = json.loads(call("goal", "--source", "big", "--json").stdout)
    assert [(pair["first_key"], pair["how"], pair["found_by"]) for pair in value["found"][0]["pairs"]] == [
        ("a/near.png", "near", "hash"), ("b/same.png", "bytes", "bytes")]
    assert (value["found"][0]["exact"], value["found"][0]["near"], value["skipped"]) == (1, 1, [])
    assert call("goal", "--source", "big", "-q").stdout.splitlines()[1] == "goal\tb/same.png\tbig\ta/4.png\tbytes"


def test_exact_only_and_exit_status(folder: Path) -> None:
    result = call("goal", "--source", "big", "--exact-only", "--fail")
    assert result.return_value == 3
    assert "1 of 10 images of goal (10.0 %) has a copy in big: 1 exact" in result.stdout
    result = call("big", "--fail")
    assert result.return_value == 0
    assert "no image of big has a copy in the same data set (8 compared)" in result.stdout


def test_unreadable_images_are_named_and_counted(folder: Path) -> None:
    (folder / "goal" / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    result = call("goal", "--source", "big", "--out", "out")
    assert result.return_value == 4
    assert "goal: a/broken.png skipped" in result.stderr
    assert "of 10 images of goal" in result.stdout
    page = (folder / "out" / "leakage.html").read_text()
    assert "1 image could not be read and was compared with nothing" in page
    result = call("goal", "--source", "big", "--strict")
    assert isinstance(result.exception, DataError)


def test_the_page_and_the_table(folder: Path) -> None:
    assert call("goal", "--source", "big", "--out", "out").return_value == 0
    page = (folder / "out" / "leakage.html").read_text()
    assert page.count('<figure class="pair">') == 2
    assert page.count("data:image/webp") == 4
    assert 'alt="image a/near.png of goal"' in page
    assert 'alt="its copy b/3.png of big"' in page
    assert str(folder) not in page
    rows = list(csv.DictReader(io.StringIO((folder / "out" / "leakage.csv").read_text())))
    assert [(row["first_key"], row["second_key"], row["how"], row["first_label"], row["second_label"]) for row in rows] == [
        ("a/near.png", "b/3.png", "near", "a", "b"), ("b/same.png", "a/4.png", "bytes", "b", "a")]
    assert call("goal", "--source", "big", "--out", "again").return_value == 0
    assert (folder / "again" / "leakage.html").read_text() == page
    assert call("goal", "--source", "big", "--out", "bare", "--no-thumbnails").return_value == 0
    bare = (folder / "bare" / "leakage.html").read_text()
    assert "data:image" not in bare
    assert "<details open>" in bare


def test_a_study_takes_the_list(folder: Path) -> None:
    result = call("goal", "--source", "big", "--exclude", "lists")
    assert result.return_value == 0
    assert (folder / "lists" / "exclude-big.csv").read_text().replace("\r", "") == (
        "key,reason\na/4.png,copy (bytes) of b/same.png of goal\nb/3.png,copy (near) of a/near.png of goal\n")
    study = '[datasets.goal]\nfolder = {path = "goal"}\n[datasets.big]\nfolder = {path = "big"}\nexclude = "lists/exclude-big.csv"\n'
    (folder / "study.toml").write_text(f'study = "s"\ntargets = ["goal"]\nextractor = "pixels"\nmethods = ["frechet"]\n{study}')
    assert simkit.load("big", study="study.toml").excluded == 2
    result = call("--study", "study.toml")
    assert result.return_value == 0
    assert "no image of goal has a copy in big" in result.stdout


def test_wrong_use_is_refused_before_any_work(folder: Path) -> None:
    for arguments, message in (
        (("goal", "--set", "size=4"), r"sets an option of an extractor"), (("goal", "--no-thumbnails"), r"there is no --out"),
        (("goal", "--threshold", "2"), r"2\.0 is outside 0\.\.1"), ((), r"no data set is named"), (("goal", "--cosine", "0.9"), r"nothing embeds"),
    ):
        result = call(*arguments)
        assert isinstance(result.exception, UsageError), arguments
        assert re.search(message, str(result.exception))
    (folder / "file").write_text("")
    result = call("goal", "--out", "file")
    assert re.search(r"file is a file, a folder is wanted", str(result.exception))


def test_embedding_neighbours_from_the_command_line(folder: Path) -> None:
    result = call("goal", "--source", "big", "--extractor", "pixels", "--set", "size=8", "--cosine", "0.9", "--json")
    assert result.return_value == 0
    found = json.loads(result.stdout)["found"][0]
    assert found["thresholds"]["embedding cosine"] == 0.9
    assert [pair["found_by"] for pair in found["pairs"]] == ["hash", "bytes"]


def pair(number: int, **changes: object) -> CopyPair:
    values = {"first": "a", "first_key": f"<i>{number:04d}", "second": "b", "second_key": f"=2+{number}", "how": "near", "similarity": 0.9 + number / 1e5,
              "transform": "", "found_by": ("hash",)}
    return CopyPair(**{**values, **changes})  # type: ignore[arg-type]


def test_what_is_shown_of_many_pairs_is_stated() -> None:
    pairs = (pair(0, how="bytes", similarity=1.0, found_by=("bytes",)), *(pair(number) for number in range(1, TABLE_ROWS + 10)))
    one = Leakage("a", "b", 5000, 6000, pairs)
    assert len(pictured(one)) == PICTURES
    assert pictured(one)[0] == pair(1)
    page = leakage_page([one], {("a", "<i>0001"): "data:image/webp;base64,AA"})
    assert f"{PICTURES} of {len(pairs):,} pairs are shown." in page
    assert f"the first {TABLE_ROWS} of {len(pairs):,} pairs" in page
    assert "<i>" not in page
    assert page.count("not read") == 2 * PICTURES - 1
    assert "'=2+3" in leakage_csv([one])
    text = leakage_text([one], 100)
    assert f"... and {len(pairs) - LISTED:,} more pairs" in text


def test_many_comparisons_without_a_copy_are_counted_in_one_sentence() -> None:
    found = [Leakage("a", "b", 5000, 6000, (pair(1),)), *(Leakage("a", f"c{number}", 5000, 10) for number in range(9))]
    page = leakage_page(found, {})
    assert page.count('class="answer"') == 2
    assert "in 9 other comparisons no copy was found" in page
    assert page.count('class="answer"') + 4 == leakage_page(found[:6], {}).count('class="answer"')


def test_a_comparison_without_a_copy_has_a_section_only_where_something_is_to_be_said() -> None:
    plain = Leakage("a", "b", 5, 6, notes=("embedding neighbours: cosine of at least 0.9, as asked",))
    assert 'id="a-b"' not in leakage_page([plain], {})
    assert 'id="a-b"' in leakage_page([Leakage("a", "b", 5, 6, notes=("1 image of a shows nothing",))], {})


def test_equal_names_of_groups_may_be_chance() -> None:
    one = Leakage("a", "b", 5, 6, groups=("p1", "p2"))
    assert groups_line(one) == "2 groups (patients) of a and b have equal names, which may be chance: p1, p2"
    split = Leakage("a", "a", 5, 5, groups=("p1",), split=True)
    assert groups_line(split) == "1 group of a (patients) stands on several sides of its split: p1"
    assert "which may be chance" in leakage_page([one], {})
    assert groups_line(Leakage("a", "b", 5, 6)) == ""
