"""`simkit map`: the folder that it writes, what it says, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from images import study_text, write_images
from PIL import Image

import simkit
from simkit.cli import entry
from simkit.errors import NotEnoughData, UsageError
from simkit.pipeline.maps import MOST_THUMBNAILS, map_datasets, map_images, small_picture
from simkit.tables import ScoreTable

PIXELS = ("--extractor", "pixels", "--set", "size=4", "--method", "pca", "--dpi", "60")
SAMPLE = {"source": "a", "target": "b", "method": "otdd", "value": 4.0, "higher_is_better": False, "floor": 1.0}


def two(folder: Path) -> tuple[str, str]:
    return str(write_images(folder / "near", {"dark": 14, "light": 8})), str(write_images(folder / "far", {"dark": 9, "light": 5}, shift=60))


def run(*arguments: str) -> int:
    try:
        return entry(list(arguments)) or 0
    except SystemExit as stopped:
        return int(stopped.code or 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def scores(folder: Path, rows: list[dict[str, object]] | None = None) -> str:
    three = [SAMPLE, {**SAMPLE, "source": "c", "value": 9.0}, {**SAMPLE, "source": "a", "target": "c", "value": 25.0}]
    ScoreTable(tuple(rows or three)).to_csv(folder / "scores.csv")
    return str(folder / "scores.csv")


def test_a_map_of_images_is_a_folder_that_is_the_same_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    near, far = two(tmp_path)
    assert run("map", near, far, *PIXELS, "--out", str(tmp_path / "one")) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "PCA of 36 images, 48 features" in said
    assert "A map is not a measurement" in said
    assert "exchanged at random" in said
    assert "The axes hold" in said
    assert run("map", near, far, *PIXELS, "--out", str(tmp_path / "two")) == 0
    assert "(all found in the store)" in capsys.readouterr().err
    first = contents(tmp_path / "one")
    assert set(first) == {"map.html", "map.csv", "figures/map-captions.txt",
                          *(f"figures/map-{w}.{k}" for w in ("data-sets", "classes") for k in ("svg", "png"))}
    assert contents(tmp_path / "two") == first
    rows = list(csv.DictReader(first["map.csv"].decode().splitlines()))
    assert list(rows[0]) == ["dataset", "key", "class", "group", "split", "x", "y"]
    assert sorted((row["dataset"], row["class"]) for row in rows) == sorted(
        [("near", "dark")] * 14 + [("near", "light")] * 8 + [("far", "dark")] * 9 + [("far", "light")] * 5)
    assert all(str(tmp_path).encode() not in content for content in first.values())


def test_a_large_set_is_sampled_by_content_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    near, far = two(tmp_path)
    assert run("map", near, far, *PIXELS, "--max-images", "11", "--out", str(tmp_path / "map"), "--json") == 0
    out = capsys.readouterr()
    assert "near: 11 of 22 images, chosen by their content" in out.err
    value = json.loads(out.out)
    assert [(one["name"], one["shown"], one["images"]) for one in value["datasets"]] == [("near", 11, 22), ("far", 11, 14)]
    assert value["k"] == 10
    assert value["page"] == str(tmp_path / "map" / "map.html")
    rows = list(csv.DictReader((tmp_path / "map" / "map.csv").read_text().splitlines()))
    assert [row["class"] for row in rows if row["dataset"] == "near"].count("dark") == 7
    page = (tmp_path / "map" / "map.html").read_text()
    assert "near 11 of 22 images" in page
    assert "smallest SHA-256 digest" in page
    assert "near 11 of 22 images" in (tmp_path / "map" / "figures" / "map-captions.txt").read_text()


def test_no_picture_leaves_the_data_when_that_is_asked(tmp_path: Path) -> None:
    near, far = two(tmp_path)
    assert run("map", near, far, *PIXELS, "--out", str(tmp_path / "with"), "-q") == 0
    assert run("map", near, far, *PIXELS, "--no-thumbnails", "--out", str(tmp_path / "without"), "-q") == 0
    assert "data:image/webp" in (tmp_path / "with" / "map.html").read_text()
    assert "data:image" not in (tmp_path / "without" / "map.html").read_text()
    assert "this page holds no pictures" in (tmp_path / "without" / "map.html").read_text().lower()


def test_names_of_a_study_and_the_function(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(study_text(tmp_path))
    found = map_images(["near", "goal"], study=tmp_path / "study.toml", extractor={"pixels": {"size": 4}}, method="pca", thumbnails=False)
    assert found.names == ("near", "goal")
    assert len(found.frame) == 52
    assert found.layout.points.mean(axis=0) == pytest.approx([0, 0], abs=1e-9)
    assert simkit.map_images is map_images
    reduced = map_images(["near", "goal"], study=tmp_path / "study.toml", extractor={"pixels": {"size": 4}}, method="pca", projection="pca:5", thumbnails=False)
    assert reduced.dimension == 5
    assert "reduced by pca:5" in reduced.extractor


def test_an_unreadable_image_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    near, far = two(tmp_path)
    (tmp_path / "near" / "dark" / "bad.png").write_bytes(b"no image")
    assert run("map", near, far, *PIXELS, "--out", str(tmp_path / "map")) == 4
    out = capsys.readouterr()
    assert "near: dark/bad.png skipped" in out.err
    assert "PCA of 36 images" in out.out
    assert "near 22 images; far 14 images." in (tmp_path / "map" / "map.html").read_text()


def test_what_cannot_be_mapped_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    near, far = two(tmp_path)

    def refused(status: int, *arguments: str) -> str:
        assert run("map", *arguments, "--out", str(tmp_path / "out")) == status
        return capsys.readouterr().err

    assert "'near' is given twice" in refused(2, near, near, *PIXELS)
    (tmp_path / "other").mkdir()
    again = str(write_images(tmp_path / "other" / "near", {"dark": 3, "light": 3}))
    assert "two data sets are called 'near'" in refused(2, near, again, *PIXELS)
    (tmp_path / "copy").symlink_to(tmp_path / "near")
    assert "holds the same images and labels as near" in refused(2, near, str(tmp_path / "copy"), *PIXELS)
    assert "40 neighbours, and each of 36 images has 35 others" in refused(2, near, far, "--neighbours", "40", "--extractor", "pixels")
    assert "give 1 to 11" in refused(2, near, far, "--method", "tsne", "--extractor", "pixels")
    assert "a map needs 3 at least" in refused(7, near, "--max-images", "2", *PIXELS)
    assert "no data set is named" in refused(2)
    assert "DATA and --scores are given" in refused(2, near, "--scores", scores(tmp_path))
    assert "--measure: is an option of --scores, and DATA is mapped" in refused(2, near, "--measure", "otdd")
    assert "--neighbours: is an option of maps of images" in refused(2, "--scores", scores(tmp_path), "--neighbours", "5")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    (tmp_path / "file").write_text("")
    assert run("map", near, *PIXELS, "--out", str(tmp_path / "file")) == 2
    assert "is a file, a folder is wanted" in capsys.readouterr().err


def test_equal_features_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "flat" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((8, 8 + i, 3), 90, dtype=np.uint8)).save(tmp_path / "flat" / name / f"{i}.png")
    with pytest.raises(NotEnoughData, match=r"SK502.*features of all 6 images are equal"):
        map_images([tmp_path / "flat"], extractor={"pixels": {"size": 2}}, method="pca")


def test_pictures_are_whole_and_of_one_size() -> None:
    wide = np.zeros((10, 100, 1), dtype=np.uint8)
    small = small_picture(wide)
    assert small.shape == (40, 40, 3)
    assert (small[18:22] == 0).all()
    assert (small[:17] == 127).all()
    assert MOST_THUMBNAILS == 6000


def test_a_map_of_data_sets_is_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("map", "--scores", scores(tmp_path), "--out", str(tmp_path / "map"), "--dpi", "60") == 0
    said = capsys.readouterr().out
    assert "otdd is a squared distance: drawn is its root." in said
    assert "stress 0.000" in said
    assert set(contents(tmp_path / "map")) == {"map.html", "map.csv", "figures/map-captions.txt", "figures/map-otdd.svg", "figures/map-otdd.png"}
    rows = {row["dataset"]: row for row in csv.DictReader((tmp_path / "map" / "map.csv").read_text().splitlines())}
    where = {name: np.array([float(row["x"]), float(row["y"])]) for name, row in rows.items()}
    assert np.hypot(*(where["a"] - where["b"])) == pytest.approx(2, abs=1e-3)
    assert np.hypot(*(where["a"] - where["c"])) == pytest.approx(5, abs=1e-3)
    assert {name: row["role"] for name, row in rows.items()} == {"a": "source", "b": "target", "c": "target"}
    assert float(rows["b"]["floor"]) == 1.0
    assert rows["a"]["floor"] == ""


def test_measures_that_are_no_distance_are_left_out_unless_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [SAMPLE, {**SAMPLE, "method": "logme", "higher_is_better": True}, {**SAMPLE, "method": "frechet"}]
    path = scores(tmp_path, rows)
    assert run("map", "--scores", path, "--out", str(tmp_path / "map"), "--dpi", "60", "--json") == 0
    out = capsys.readouterr()
    assert "left out: logme: is a transferability measure" in out.err
    assert [one["measure"] for one in json.loads(out.out)["maps"]] == ["otdd", "frechet"]
    assert run("map", "--scores", path, "--measure", "frechet", "--out", str(tmp_path / "map"), "--dpi", "60", "-q") == 0
    assert not (tmp_path / "map" / "figures" / "map-otdd.png").exists()  # of the run before
    with pytest.raises(UsageError, match=r"SK108.*logme: is a transferability measure"):
        map_datasets(path, ["logme"])
    with pytest.raises(UsageError, match=r"SK108.*the table has no distance \(logme"):
        map_datasets(ScoreTable((rows[1],)))
    with pytest.raises(UsageError, match=r"SK105.*'otdd' is given twice"):
        map_datasets(path, ["otdd", "otdd"])
    assert simkit.map_datasets is map_datasets


def test_the_table_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path(scores(tmp_path)).rename(tmp_path / "map.csv")
    assert run("map", "--scores", str(tmp_path / "map.csv"), "--out", str(tmp_path)) == 2
    assert "is read by this command and would be overwritten" in capsys.readouterr().err
