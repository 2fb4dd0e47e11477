"""`simkit check` as a user meets it: text, JSON, files, exit status."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from images import study_text, write_images
from PIL import Image

from simkit.cli import COMMANDS, entry


def run(*arguments: object) -> int:
    return entry(["check", *(str(a) for a in arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "set", {"cat": 12, "dog": 6})


def test_a_clean_set_gives_its_card_and_status_0(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder) == 0
    out, err = capsys.readouterr()
    assert out.startswith("set: 18 images, 2 classes\n")
    assert "1 data set, 18 images: every image can be read, no caution" in out
    assert "set: 18 images read in" in err
    assert "images/s" in err


def test_unreadable_files_give_status_4_and_3_when_strict(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cat" / "bad.png").write_bytes(b"")
    assert run(folder) == 4
    out, err = capsys.readouterr()
    assert "error[SK601] check: 1 file was left out\nfix: repair or remove them; --json lists all" in err
    assert "cat/bad.png: " in out
    assert run(folder, "--strict") == 3
    out, err = capsys.readouterr()
    assert "error[SK206] check: 1 file was left out\nfix: repair or remove what is listed\n" in err
    assert "cat/bad.png: " in out


def test_cautions_change_the_status_only_when_strict(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(folder / "cat" / "000.png", folder / "dog" / "copy.png")
    assert run(folder) == 0
    assert "! 2 images in 1 set of copies are byte-identical under different labels" in capsys.readouterr().out
    assert run(folder, "--strict") == 3
    assert "error[SK206] check: 1 caution\n" in capsys.readouterr().err


def test_a_set_without_a_readable_image_gives_status_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "set" / "cat").mkdir(parents=True)
    (tmp_path / "set" / "cat" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert run(tmp_path / "set") == 3
    assert "error[SK206] check: no image of set can be read" in capsys.readouterr().err


def test_what_is_no_data_set_gives_status_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "nowhere") == 3
    assert "nowhere" in capsys.readouterr().err


def test_json_goes_to_stdout_or_a_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cat" / "bad.png").write_bytes(b"")
    assert run(folder, "--json") == 4
    value = json.loads(capsys.readouterr().out)
    assert (value["status"], value["datasets"][0]["images"], value["datasets"][0]["unreadable"][0]["key"]) == (4, 18, "cat/bad.png")
    assert run(folder, "--json", tmp_path / "card.json") == 4
    assert json.loads((tmp_path / "card.json").read_text(encoding="utf-8"))["datasets"][0]["class_counts"] == {"cat": 12, "dog": 6}


def test_quiet_prints_what_is_wrong_one_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(folder / "cat" / "000.png", folder / "dog" / "copy.png")
    (folder / "cat" / "bad.png").write_bytes(b"")
    assert run(folder, "-q") == 4
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[:2] for line in lines] == [["set", "cat/bad.png"], ["caution", lines[1].split("\t")[1]]]
    assert "under different labels" in lines[1]


def test_thumbnails_are_written_and_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--thumbnails", tmp_path / "sheet.png") == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
    assert f"wrote {tmp_path / 'sheet.png'}" in capsys.readouterr().err


def test_outputs_are_checked_before_the_work(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--thumbnails", tmp_path / "sheet.jpg") == 2
    assert "does not end in .png" in capsys.readouterr().err
    assert run(tmp_path / "set" / "cat" / "000.png", "--thumbnails", tmp_path / "set" / "cat" / "000.png") == 2
    assert "is read by this command and would be overwritten" in capsys.readouterr().err


def test_options_of_the_reader_and_names_of_a_study(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--data-set", "labels=false") == 0
    assert capsys.readouterr().out.startswith("set: 18 images, no labels\n")
    study = tmp_path / "study.toml"
    study.write_text(study_text(tmp_path), encoding="utf-8")
    assert run("near", "far", "--study", study, "--workers", 1) == 0
    out = capsys.readouterr().out
    assert "near: 26 images, 2 classes" in out
    assert "far: 26 images, 2 classes" in out


def test_help_states_the_exit_status_and_loads_nothing_heavy() -> None:
    code = "import sys; from simkit.cli import entry; entry(['check', '--help']); print([m for m in ('numpy', 'torch', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Exit status: 0, also with cautions; 4 when files are left out" in done.stdout
    assert done.stdout.strip().endswith("[]")
    assert "check" in COMMANDS


@pytest.mark.shared
def test_the_nine_sets_on_the_command_line(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = shared / "data"
    names = ["brainmri4", "cifar10", "dtd10", "imagenet_groups", "lclung", "fashion.npz", "pneumonia.npz", "isic7/isic7.csv", "busi/busi.csv"]
    assert run(*(data / name for name in names), "--thumbnails", tmp_path / "s.png", "--json", tmp_path / "c.json") == 0
    assert "9 data sets, 9,897 images: every image can be read" in capsys.readouterr().out
    assert len(list(tmp_path.glob("s-*.png"))) == 9
