"""Tables whose rows contradict each other in one of several label columns, and Parquet files that are damaged, empty, or no files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simkit.dataset import card_of
from simkit.errors import DataError
from simkit.sources.table import Table


def manifest(folder: Path, *lines: str) -> Path:
    """A table beside four images, img/0.png to img/3.png."""
    (folder / "img").mkdir(exist_ok=True)
    for i in range(4):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(folder / "img" / f"{i}.png")
    path = folder / "m.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def parquet(file: Path, **columns: object) -> Path:
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), file)
    return file


def test_several_classes_are_counted_in_the_card_and_change_the_fingerprint(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,Mass,Edema,label", "img/0.png,1,0,Mass", "img/1.png,1,1,Mass|Edema", "img/2.png,0,0,None")
    columns = Table(path, label=("Mass", "Edema")).load("d", tmp_path)
    cells = Table(path, separator="|", none_label="None").load("d", tmp_path)
    card = card_of(columns)[0]
    assert card.multilabel
    assert card.class_counts == {"Mass": 2, "Edema": 1}
    assert columns.label_names == ("Mass", "Mass + Edema", "")
    assert cells.label_names == ("Mass", "Edema + Mass", "")
    assert Table(path, separator="|").load("d", tmp_path).fingerprint != cells.fingerprint
    assert columns.take([1, 2]).indicators is not None
    assert columns.take([1, 2]).class_counts == {"Mass": 1, "Edema": 1}


def test_every_missing_label_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"column 'Edem' is missing \(did you mean 'Edema'\?\)(.|\n)*column 'Cyst' is missing"):
        Table(manifest(tmp_path, "path,Mass,Edema", "img/0.png,1,0"), label=("Mass", "Edem", "Cyst")).load("d", tmp_path)


def test_repeated_rows_with_other_indicators_are_refused_and_equal_ones_count_once(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,a,b", "img/0.png,1,0", "img/0.png,1,1")
    with pytest.raises(DataError, match=r"m\.csv:3 \(column 'b'\): 'img/0\.png' appears in lines 2 and 3 with different values: '0' in line 2, '1' in line 3"):
        Table(path, label=("a", "b")).load("d", tmp_path)
    dataset = Table(manifest(tmp_path, "path,a,b", "img/0.png,1,0", "img/0.png,1,0"), label=("a", "b")).load("d", tmp_path)
    assert len(dataset) == len(dataset.skipped) == 1


def test_classes_of_one_cell_that_differ_only_by_case_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"m\.csv: the classes 'Mass' and 'mass' differ only by case or blanks"):
        Table(manifest(tmp_path, "path,label", "img/0.png,Mass|mass"), separator="|").load("d", tmp_path)


def test_numbers_in_parquet_are_classes_and_indicators(tmp_path: Path) -> None:
    manifest(tmp_path)
    path = parquet(tmp_path / "m.parquet", path=["img/0.png", "img/1.png"], label=[3, 10], a=[True, False], b=[1, 0], c=[0.0, 1.0])
    assert Table(path).load("d", tmp_path).classes == ("10", "3")
    several = Table(path, label=("a", "b", "c")).load("d", tmp_path)
    assert several.indicators is not None
    assert several.indicators.tolist() == [[True, True, False], [False, False, True]]


def test_parquet_that_is_empty_damaged_or_no_file_is_named(tmp_path: Path) -> None:
    manifest(tmp_path)
    with pytest.raises(DataError, match=r"none\.parquet: the table is empty \(0 rows\)"):
        Table(parquet(tmp_path / "none.parquet", path=np.array([], str), label=np.array([], str))).load("d", tmp_path)
    path = parquet(tmp_path / "m.parquet", path=["img/0.png"] * 50, label=["a"] * 50)
    data = path.read_bytes()
    for length in (0, 3, len(data) // 2, len(data) - 5):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"m\.parquet: is not a readable Parquet file"):
            Table(path).load("d", tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"m\.parquet: is not a file"):
        Table(path).load("d", tmp_path)
