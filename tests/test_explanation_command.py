"""`simkit explain`: a pair of data sets, its page and files; and error codes, as before."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from images import write_images

import simkit
from simkit.cli import entry
from simkit.errors import DataError
from simkit.explanation import Explanation
from simkit.report.explanation_page import explanation_page
from simkit.report.explanation_text import csv_files, explanation_text

PIXELS = ("--extractor", "pixels", "--extractor-set", "size=4")
FAST = (*PIXELS, "--repeats", "3", "--permutations", "99", "--dpi", "60")


def run(*arguments: object) -> int:
    return entry([str(a) for a in arguments])


def explained(pair: tuple[Path, Path], method: str, *, out: Path | None = None, max_images: int = 2000) -> Explanation:
    found: Explanation = simkit.explain(
        pair[0], pair[1], method=method, extractor={"pixels": {"size": 4}}, repeats=3, permutations=99, out=out, max_images=max_images, thumbnails=False)
    return found


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    source = write_images(tmp_path / "near", {"dark": 30, "light": 24})
    return source, write_images(tmp_path / "goal", {"dark": 24, "light": 26, "odd <b>": 22}, shift=30)


def test_a_pair_gives_an_answer_a_page_and_files(pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run("explain", *pair, "--out", out, *FAST) == 0
    text = capsys.readouterr().out
    assert text.startswith("otdd from near to goal is ")
    assert "A classifier tells images of the two sets apart" in text
    assert {p.name for p in out.iterdir()} == {"explanation.html", "explanation.json", "coupling.csv", "classes.csv", "images.csv", "features.csv", "figures"}
    assert {p.name for p in (out / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("coupling", "contribution", "classes", "decisions", "features") for kind in ("svg", "png")}
    page = (out / "explanation.html").read_text()
    assert page.count("data:image/webp") > 50
    assert "odd &lt;b&gt;" in page
    assert "odd <b>" not in page
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert str(tmp_path) not in page
    value = json.loads((out / "explanation.json").read_text())
    rows = list(csv.DictReader((out / "coupling.csv").open()))
    assert len(rows) == 6
    assert sum(float(r["contribution"]) for r in rows) == pytest.approx(value["score"]["value"], rel=1e-9)
    for name, count in (("dark", 24), ("light", 26), ("odd <b>", 22)):
        assert sum(float(r["mass"]) for r in rows if r["target_class"] == name) == pytest.approx(count / 72)
    assert len(list(csv.DictReader((out / "images.csv").open()))) == 126
    assert len(list(csv.DictReader((out / "classes.csv").open()))) == 3


def test_the_same_input_gives_the_same_bytes(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert run("explain", *pair, "--out", tmp_path / name, "-q", *FAST) == 0
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert len(files) == 16
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path


def test_without_thumbnails_no_picture_leaves_the_data(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert run("explain", *pair, "--out", tmp_path / "out", "--no-thumbnails", "-q", *FAST) == 0
    page = (tmp_path / "out" / "explanation.html").read_text()
    assert "<img" not in page
    assert "dark/0" in page


@pytest.mark.parametrize(("method", "said", "coupled"), [
    ("wasserstein", "Most of it is carried by", True), ("class-frechet", "class", True), ("class-mean-emd", "class", True),
    ("frechet", "of it are differences of the means", False), ("domain-classifier", "couples no classes", False), ("source-size", "without a floor", False),
])
def test_every_kind_of_measure_is_explained(pair: tuple[Path, Path], method: str, said: str, coupled: bool) -> None:
    found = explained(pair, method)
    assert (found.coupling is not None) is coupled
    assert ("coupling.csv" in csv_files(found)) is coupled
    assert found.classes
    assert found.told_apart is not None
    assert len(found.told_apart.scores) == 126
    assert said in " ".join(explanation_text(found, 100).split())
    assert "<svg" in explanation_page(found, None)
    if found.coupling is not None:
        assert sum(c.contribution for c in found.coupling.cells) == pytest.approx(found.coupling.value, rel=1e-6)


def test_files_of_an_older_explanation_do_not_stay(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("coupling.csv", "images.csv", "figures/coupling.svg", "figures/classes.png", "mine.csv"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("old")
    explained(pair, "frechet", out=tmp_path / "out")
    left = {p.name for p in (tmp_path / "out").rglob("*")}
    assert not left & {"coupling.csv", "coupling.svg", "classes.png"}
    assert "mine.csv" in left
    assert (tmp_path / "out" / "images.csv").read_text() != "old"


def test_without_labels_the_sections_that_need_them_say_so(pair: tuple[Path, Path], tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in sorted((pair[0] / "dark").iterdir()):
        path.rename(flat / path.name)
    with pytest.raises(DataError, match=r"otdd needs labels, flat has none; wasserstein is a measure without labels"):
        explained((flat, pair[1]), "otdd")
    found = explained((flat, pair[1]), "wasserstein")
    assert found.missing == {"coupling": "a coupling between classes needs labels on both sides: flat has no labels"}
    assert all(c.cost is not None and c.nearest is None for c in found.classes)
    found = explained((pair[1], flat), "wasserstein")
    assert found.missing["classes"] == "flat has no labels, so there are no classes to cover"
    assert "classes.csv" not in csv_files(found)
    assert "Nothing to show: flat has no labels" in explanation_page(found, None)


def test_a_sample_is_said(pair: tuple[Path, Path]) -> None:
    found = explained(pair, "otdd", max_images=40)
    assert found.taken == (40, 40)
    assert found.notes == ("40 of 54 images of near: a random sample in which classes keep their shares (max_images)",
                           "40 of 72 images of goal: a random sample in which classes keep their shares (max_images)")
    assert found.notes[0] in " ".join(explanation_text(found, 100).split())


@pytest.mark.parametrize(("arguments", "status", "said"), [
    ((), 2, "nothing given"),
    (("a", "b", "c"), 2, "3 names given"),
    (("SK2O3",), 2, "unknown code 'SK2O3' (did you mean 'SK203'?)"),
    (("SK2O3",), 2, "or name two data sets: simkit explain SOURCE TARGET"),
    (("nowhere", "neither"), 3, "nowhere"),
    (("samples:digits", "samples:digits"), 2, "'digits' is both source and target"),
    (("samples:digits", "nowhere", "--method", "logme"), 2, "logme looks at the target through a network"),
    (("samples:digits", "nowhere", "--repeats", "2"), 2, "2 half-samples give no interval"),
    (("samples:digits", "nowhere", "--max-images", "3"), 2, "max-images"),
    (("samples:digits", "nowhere", "--set", "nonsense=1"), 2, "nonsense"),
    (("samples:digits", "nowhere", "--method", "odtt"), 2, "unknown method 'odtt'"),
])
def test_what_cannot_be_explained_is_refused(
    arguments: tuple[str, ...], status: int, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("explain", *arguments) == status
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("explain-*"))


def test_codes_are_explained_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "sk203") == 0
    assert "A field of a table" in capsys.readouterr().out


def test_a_file_is_no_folder(pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("mine")
    assert run("explain", *pair, "--out", tmp_path / "out", *FAST) == 2
    assert "is a file, a folder is wanted" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_too_few_images_are_a_statistical_refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, other = write_images(tmp_path / "small", {"a": 3}), write_images(tmp_path / "other", {"a": 12})
    assert run("explain", small, other, "--method", "wasserstein", "--out", tmp_path / "out", *FAST) == 7
    assert "'small' has 3 images, at least 4 are needed" in capsys.readouterr().err


def test_few_images_leave_out_the_classifier_and_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, other = write_images(tmp_path / "small", {"a": 6}), write_images(tmp_path / "other", {"a": 12})
    assert run("explain", small, other, "--method", "wasserstein", "--out", tmp_path / "out", *FAST) == 0
    assert "images: 'small' has 6 images, a cross-validated classifier needs at least 10" in " ".join(capsys.readouterr().out.split())


def test_many_classes_are_cut_on_the_map_and_whole_in_the_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sides = []
    for name, classes in (("many", 30), ("more", 100)):
        labels = np.arange(classes * 4) % classes
        images = np.clip(rng.integers(0, 60, (len(labels), 8, 8, 3)) + labels[:, None, None, None], 0, 255).astype(np.uint8)
        sides.append(simkit.from_arrays(images, [f"class number {k}" for k in labels], name=name))
    found = simkit.explain(*sides, extractor={"pixels": {"size": 4}}, repeats=0, permutations=19, out=tmp_path / "out", thumbnails=False)
    assert found.coupling is not None
    assert len(found.coupling.cells) == 3000
    page = (tmp_path / "out" / "explanation.html").read_text()
    assert "15 other classes" in page
    assert "Shown are 15 of 30 source classes and 15 of 100 target classes, those of the largest cells" in page
    assert len((tmp_path / "out" / "coupling.csv").read_text().splitlines()) == 3001
    assert (tmp_path / "out" / "explanation.html").stat().st_size < 2_000_000
