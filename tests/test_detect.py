"""Which source reads what a user typed: files, patterns, prefixes, and folders by what they hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from corpus import colour
from PIL import Image

from simkit.errors import DataError, ResourceError
from simkit.registry import SOURCES, Spec, options_of
from simkit.sources import PREFIXES, detect, name_for

DICOM = b"\0" * 128 + b"DICM" + b"\0" * 100


def files(folder: Path, names: dict[str, bytes]) -> Path:
    for name, data in names.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def parquet(place: Path, /, **columns: Any) -> str:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    pyarrow.parquet.write_table(arrow.table(columns), place)
    return str(place)


@pytest.mark.parametrize("prefix", sorted(PREFIXES))
def test_a_prefix_stands_for_an_option_that_the_source_has(prefix: str) -> None:
    assert detect(f"{prefix}:some/where:else") == Spec(prefix, {PREFIXES[prefix]: "some/where:else"})
    assert PREFIXES[prefix] in [info.name for info in options_of(SOURCES.get(prefix))]


@pytest.mark.parametrize(("name", "source"), [
    ("a.zip", "zip"), ("A.ZIP", "zip"), ("a.tar", "webdataset"), ("a.npy", "array"), ("a.npz", "npz"), ("a.tsv", "table"),
])
def test_files_by_extension(name: str, source: str, tmp_path: Path) -> None:
    files(tmp_path, {name: b"x"})
    assert detect(str(tmp_path / name)) == Spec(source, {"path": str(tmp_path / name)})


def test_patterns_of_shards_and_parquet_files(tmp_path: Path) -> None:
    for text in ("train-{000..012}.tar", "s-*.tar", str(tmp_path / "{a,b}.tar")):
        assert detect(text) == Spec("webdataset", {"path": text})
    assert detect("data/*.parquet") == Spec("huggingface", {"path": "data/*.parquet"})
    for text in ("train.tar", "{a,b}.png", "*.csv"):
        with pytest.raises(DataError, match=r"SK201\] .*does not exist"):
            detect(str(tmp_path / text))


@pytest.mark.parametrize(("text", "name"), [
    ("train-{000..012}.tar", "train"), ("data/*.parquet", "data"), ("samples:digits", "digits"), ("torchvision:CIFAR10", "CIFAR10"),
    ("huggingface:owner/name", "name"), ("sets/retina.v2", "retina.v2"), ("dicom:studies/a/", "a"), ("webdataset:s_{a,b}.tar", "s"),
])
def test_names_for_data_sets_that_have_none(text: str, name: str) -> None:
    assert name_for(text) == name


def test_names_of_files_are_without_extension(tmp_path: Path) -> None:
    files(tmp_path, {"a.b.npy": b"x", "v.nii.gz": b"x", "README": b"x", "retina.v2/x": b"x"})
    for file, name in (("a.b.npy", "a.b"), ("v.nii.gz", "v"), ("README", "README"), ("retina.v2", "retina.v2")):
        assert name_for(str(tmp_path / file)) == name
    assert name_for(f"nifti:{tmp_path / 'v.nii.gz'}") == "v"


def test_parquet_files_by_their_columns(tmp_path: Path) -> None:
    assert detect(parquet(tmp_path / "t.parquet", path=["a.png"], label=["x"])).name == "table"
    image = [{"bytes": b"x", "path": None}]
    assert detect(parquet(tmp_path / "i.parquet", image=image, label=[0])) == Spec("huggingface", {"path": str(tmp_path / "i.parquet")})
    assert detect(parquet(tmp_path / "b.parquet", scan=[b"x"], path=["a"])) == Spec("huggingface", {"path": str(tmp_path / "b.parquet"), "image": "scan"})
    with pytest.raises(DataError, match=r"SK201\] .*n\.parquet: has no column with images or with names of files; columns: x, y"):
        detect(parquet(tmp_path / "n.parquet", x=[1], y=[0.5]))
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-20])
    with pytest.raises(DataError, match=r"SK201\] .*cut\.parquet: is not a readable parquet file"):
        detect(str(tmp_path / "cut.parquet"))


def test_a_parquet_file_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ResourceError, match=r"SK303\] .*t\.parquet: the package pyarrow cannot be imported(.|\n)*pip install 'simkit\[parquet\]'"):
        detect(str(tmp_path / "t.parquet"))


@pytest.mark.parametrize(("name", "message"), [
    ("a.dcm", r"a\.dcm: is a single DICOM file: a data set is a folder of them\nfix: name the folder that holds it \(.*\), or dicom:PATH"),
    ("a.nii.gz", r"a\.nii\.gz: is a single NIfTI file(.|\n)*or nifti:PATH"), ("a.NII", r"a\.NII: is a single NIfTI file"),
    ("a.tar.gz", r"a\.tar\.gz: is a compressed tar file: an image in it cannot be read without unpacking(.|\n)*gunzip"), ("a.tgz", r"is a compressed tar file"),
    ("a.png", r"a\.png: is a file with the extension '\.png': no source reads it(.|\n)*give a folder, a \.csv"), ("a.gz", r"the extension '\.gz'"),
])
def test_files_that_are_no_data_set_say_how(name: str, message: str, tmp_path: Path) -> None:
    files(tmp_path, {name: b"x"})
    with pytest.raises(DataError, match=r"SK201\] .*" + message):
        detect(str(tmp_path / name))


def test_folders_by_what_they_hold(tmp_path: Path) -> None:
    png = tmp_path / "x.png"
    Image.fromarray(colour()).save(png)
    image = png.read_bytes()
    for name, held, source, labels in (
        ("classes", {"a/0.dcm": DICOM, "b/1.dcm": b"?"}, "dicom", True), ("flat", {"0.dcm": DICOM, "1.DCM": DICOM, "notes.txt": b"x"}, "dicom", False),
        ("bare", {"IM0001": DICOM, "IM0002": DICOM, "1.2.840.1": DICOM, "README": b"x"}, "dicom", False),
        ("volumes", {"a/0.nii.gz": b"x", "b/1.nii": b"x"}, "nifti", True), ("volume", {"0.nii": b"x"}, "nifti", False),
        ("mixed", {"a/0.dcm": DICOM, "a/1.png": image}, "folder", True), ("both", {"0.dcm": DICOM, "0.nii": b"x"}, "folder", False),
        ("images", {"a/0.png": image, "b/1.png": image}, "folder", True), ("other", {"a.txt": b"x"}, "folder", False),
        ("hidden", {"a/0.png": image, ".x/0.dcm": DICOM}, "folder", True),
    ):
        path = str(files(tmp_path / name, held))
        assert detect(path) == Spec(source, {"path": path} if labels else {"path": path, "labels": False}), name
    shards = str(files(tmp_path / "shards", {"s-0.tar": b"x", "s-1.tar": b"x"}))
    assert detect(shards) == Spec("webdataset", {"path": shards})
    rows = str(files(tmp_path / "rows", {"data/train-0.parquet": b"x"}))
    assert detect(rows) == Spec("huggingface", {"path": rows})


def test_sources_import_nothing_heavy() -> None:
    code = (
        "import sys, simkit.sources.array, simkit.sources.webdataset, simkit.sources.torchvision, simkit.sources.huggingface\n"
        "print([m for m in ('torch', 'torchvision', 'datasets', 'pyarrow', 'pandas', 'PIL', 'webdataset', 'scipy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_large_folder_of_images_is_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simkit.sources.LOOKED_AT", 5)
    monkeypatch.setattr("simkit.sources._is_dicom", lambda file: pytest.fail(f"opened {file}"))
    files(tmp_path / "a", {f"{number:02d}.png": b"x" for number in range(3)} | {"IM0": DICOM})
    assert detect(str(tmp_path)).name == "folder"
    files(tmp_path / "b", {f"{number:02d}.dcm": b"x" for number in range(9)})
    assert detect(str(tmp_path / "b")).name == "dicom"
    files(tmp_path / "c", {f"{number:02d}.dcm": b"x" for number in range(3)} | {"04.png": b"x"})
    assert detect(str(tmp_path / "c")).name == "folder"


def test_a_parquet_file_beside_the_images_is_their_table(tmp_path: Path) -> None:
    files(tmp_path, {"images/0.png": b"x", "labels.parquet": b"x"})
    with pytest.raises(DataError, match=r"holds one folder \('images'\) and a table \(labels\.parquet\)(.|\n)*name the table: .*labels\.parquet"):
        detect(str(tmp_path))


def test_a_folder_of_dicom_files_beside_a_table(tmp_path: Path) -> None:
    files(tmp_path, {"scans/0.dcm": DICOM, "labels.csv": b"path,label\n"})
    with pytest.raises(DataError, match=r"holds one folder \('scans'\) and a table \(labels\.csv\)(.|\n)*dicom:.* with the option table = \"labels\.csv\""):
        detect(str(tmp_path))
