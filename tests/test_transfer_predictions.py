"""Stored predictions: to the bit and back, damaged files, and the export of many runs."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from simkit.errors import IntegrityError, NotEnoughData, ResourceError, UsageError
from simkit.transfer.metrics import metrics
from simkit.transfer.predictions import Predictions, export_predictions, read_predictions, write_predictions

CLASSES = ("naevus", "Melanom é", "NA")


def predictions(n: int = 40, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> Predictions:
    rng = np.random.default_rng(seed)
    raw = rng.gamma(0.5, size=(n, len(classes)))
    digests, keys = tuple(rng.bytes(32).hex() for _ in range(n)), tuple(f"class, \"{i % 3}\"/bild ü {i}.png" for i in range(n))
    return Predictions(digests, keys, rng.integers(0, len(classes), n), raw / raw.sum(1, keepdims=True), classes)


def written(path: Path, found: Predictions) -> Path:
    write_predictions(path, images=found.images, keys=found.keys, labels=found.labels, probabilities=found.probabilities, classes=found.classes)
    return path


def assert_equal(found: Predictions, expected: Predictions) -> None:
    assert (found.images, found.keys, found.classes) == (expected.images, expected.keys, expected.classes)
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.probabilities.dtype == np.float64
    assert found.probabilities.shape == expected.probabilities.shape
    assert found.probabilities.tobytes() == expected.probabilities.tobytes()


def test_round_trip_is_exact_to_the_bit(tmp_path: Path) -> None:
    expected = predictions()
    special = [0.0, -0.0, 5e-324, 1 - 2**-53, np.inf, -np.inf, np.nan, 0.1 + 0.2]
    expected.probabilities[: len(special), 1] = special
    expected.probabilities[9, 0] = np.array([0x7FF8DEADBEEF0001], dtype=np.uint64).view(np.float64)[0]  # NaN with a payload
    assert_equal(read_predictions(written(tmp_path / "run.parquet", expected)), expected)


@pytest.mark.parametrize("n", [0, 1, 70000])  # 70000: more than one row group
def test_any_number_of_images(tmp_path: Path, n: int) -> None:
    expected = Predictions(("a",) * n, tuple(map(str, range(n))), np.arange(n) % 2, np.linspace(0, 1, 2 * n).reshape(n, 2), ("no", "yes"))
    path = written(tmp_path / "run.parquet", expected)
    assert_equal(read_predictions(path), expected)
    assert pyarrow.parquet.ParquetFile(path).num_row_groups == (2 if n == 70000 else 1)


def test_arrays_of_other_kinds_and_orders_are_stored_as_doubles(tmp_path: Path) -> None:
    expected = predictions()
    single = expected.probabilities.astype(np.float32)
    write_predictions(tmp_path / "run.parquet", images=list(expected.images), keys=list(expected.keys), labels=expected.labels.astype(np.uint8),
                      probabilities=np.asfortranarray(single), classes=list(CLASSES))
    found = read_predictions(tmp_path / "run.parquet")
    assert found.probabilities.tobytes() == single.astype(np.float64).tobytes()
    assert found.labels.tolist() == expected.labels.tolist()
    found.probabilities[0] = 0  # a reader owns what it got


def test_equal_predictions_give_equal_bytes_and_others_do_not(tmp_path: Path) -> None:
    first, second = (written(tmp_path / f"{name}.parquet", predictions()).read_bytes() for name in "ab")
    assert first == second
    changed = predictions()
    changed.probabilities[3, 1] = np.nextafter(changed.probabilities[3, 1], 1)
    assert written(tmp_path / "a.parquet", changed).read_bytes() != first
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.parquet", "b.parquet"]


def test_other_tools_read_the_columns_and_the_class_names(tmp_path: Path) -> None:
    expected = predictions()
    expected.probabilities[2, 0] = np.nan
    expected.probabilities[4] = [0.5, 0.5, 0.0]
    table = pyarrow.parquet.read_table(written(tmp_path / "run.parquet", expected))
    assert table.schema.names == ["image", "key", "label", "predicted", "probabilities"]
    assert table.schema.field("probabilities").type == pyarrow.list_(pyarrow.float64(), 3)
    assert table["label"].to_pylist() == [CLASSES[i] for i in expected.labels]
    best = [CLASSES[i] for i in expected.probabilities.argmax(1)]
    best[2] = None  # type: ignore[call-overload]
    assert table["predicted"].to_pylist() == best
    assert best[4] == CLASSES[0]
    assert '"classes": ["naevus", "Melanom é", "NA"]' in table.schema.metadata[b"simkit.predictions"].decode()


def test_metrics_come_back_from_a_file(tmp_path: Path) -> None:
    expected = predictions(300)
    found = read_predictions(written(tmp_path / "run.parquet", expected))
    before = metrics(expected.labels, expected.probabilities, classes=CLASSES, average="macro")
    assert metrics(found.labels, found.probabilities, classes=found.classes, average="macro") == before
    assert all(one.value is not None for one in before)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.parquet"):
        read_predictions(tmp_path / "none.parquet")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"SK301\] .*: cannot read it \(EISDIR"):
        read_predictions(tmp_path)


def test_truncated_and_damaged_files_are_never_read(tmp_path: Path) -> None:
    path = written(tmp_path / "run.parquet", expected := predictions(12))
    whole = path.read_bytes()
    for size in (0, 1, 4, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(IntegrityError, match=r"SK401\] .*run\.parquet: is damaged(.|\n)*remove it and run\.json beside it, and run again"):
            read_predictions(path)
    refused = 0
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        try:
            found = read_predictions(path)  # a byte that means nothing (a statistic, a spare field)
        except IntegrityError:
            refused += 1
        else:
            assert_equal(found, expected)
    assert refused > len(whole) / 7 / 3


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.parquet"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(IntegrityError, match=r"run\.parquet: is damaged, or holds no predictions of simkit \(ArrowInvalid"):
        read_predictions(path)
    pyarrow.parquet.write_table(pyarrow.table({"image": ["a"], "label": ["b"]}), path)
    with pytest.raises(IntegrityError, match=r"run\.parquet: is damaged, or holds no predictions of simkit \(KeyError: b'simkit\.predictions'\)"):
        read_predictions(path)


def edited(path: Path, **columns: Any) -> None:
    """Replaces columns of a file and keeps its header, as a tool that edits tables would."""
    table = pyarrow.parquet.read_table(path)
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, values)
    pyarrow.parquet.write_table(table, path)


def test_an_edited_file_is_refused(tmp_path: Path) -> None:
    expected = predictions(3)
    cases = [
        ({"label": pyarrow.array(["naevus", "wart", "NA"])}, r"\(KeyError: 'wart'\)"),
        ({"label": pyarrow.array([CLASSES[(i + 1) % 3] for i in expected.labels])}, "its digest differs"),
        ({"key": pyarrow.array(["a", "b", "c"])}, "its digest differs"),
        ({"key": pyarrow.array([b"a", b"b", b"c"])}, r"\(ValueError: columns are image \(string\), key \(binary\), label"),
        ({"key": pyarrow.array(["a", None, "c"])}, r"\(ValueError: cells are empty\)"),
        ({"predicted": pyarrow.array(["NA", None, "NA"])}, "column 'predicted' is not the class of the highest probability"),
    ]
    for columns, message in cases:
        path = written(tmp_path / "run.parquet", expected)
        edited(path, **columns)
        with pytest.raises(IntegrityError, match=rf"SK401\] .*run\.parquet: is damaged.*{message}"):
            read_predictions(path)


def test_a_newer_form_is_said_to_be_newer(tmp_path: Path) -> None:
    path = written(tmp_path / "run.parquet", predictions())
    table = pyarrow.parquet.read_table(path)
    header = table.schema.metadata[b"simkit.predictions"].replace(b'"version": 1', b'"version": 2')
    pyarrow.parquet.write_table(table.replace_schema_metadata({b"simkit.predictions": header}), path)
    with pytest.raises(IntegrityError, match=r"run\.parquet: holds predictions in form 2, this simkit reads form 1(.|\n)*read it with a newer simkit"):
        read_predictions(path)


@pytest.mark.parametrize(("change", "message"), [
    ({"images": ["a", "b"]}, r"SK102\] .*run\.parquet: 2 images, 3 keys, labels \(3,\), probabilities \(3, 2\) and 2 classes do not fit together"),
    ({"keys": []}, r"SK102\] .*3 images, 0 keys"),
    ({"probabilities": np.ones((3, 3))}, r"SK102\] .*probabilities \(3, 3\) and 2 classes"),
    ({"labels": np.array([0, 1, 2])}, r"SK102\] .*labels do not index the class names"),
    ({"labels": np.array([0, 1, -1])}, r"SK102\] .*labels do not index the class names"),
    ({"classes": ["cat", "cat"]}, r"SK105\] .*two classes have one name: cat, cat"),
])
def test_parts_that_do_not_fit_are_refused_before_a_file_is_made(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    parts: dict[str, Any] = {"images": ["a", "b", "c"], "keys": ["1", "2", "3"], "labels": np.array([0, 1, 0]), "probabilities": np.full((3, 2), 0.5),
                             "classes": ["cat", "dog"]}
    with pytest.raises(UsageError, match=message):
        write_predictions(tmp_path / "run.parquet", **(parts | change))
    assert list(tmp_path.iterdir()) == []


def runs(sizes: list[int]) -> Iterator[tuple[Mapping[str, Any], Predictions]]:
    for number, size in enumerate(sizes):
        classes = CLASSES if number % 2 else ("no", "yes")
        yield {"source": f"s{number}", "target": "birds", "fold": str(number + 1), "seed": number}, predictions(size, number, classes)


def test_many_runs_go_into_one_file(tmp_path: Path) -> None:
    sizes = [30, 20, 0, 5]
    assert export_predictions(tmp_path / "all.parquet", runs(sizes)) == 55
    file = pyarrow.parquet.ParquetFile(tmp_path / "all.parquet")
    assert file.num_row_groups == 3
    rows = file.read().to_pylist()
    assert list(rows[0]) == ["source", "target", "fold", "seed", "image", "key", "label", "predicted", "classes", "probabilities"]
    for run, found in runs(sizes):
        mine = [row for row in rows if row["source"] == run["source"]]
        assert len(mine) == len(found.keys)
        assert all({name: row[name] for name in run} == dict(run) and tuple(row["classes"]) == found.classes for row in mine)
        assert [row["image"] for row in mine] == list(found.images)
        assert [row["key"] for row in mine] == list(found.keys)
        assert [row["label"] for row in mine] == [found.classes[i] for i in found.labels]
        assert [row["predicted"] for row in mine] == list(found.predicted)
        assert np.array([row["probabilities"] for row in mine]).tobytes() == found.probabilities.tobytes()


def test_exports_are_equal_to_the_byte(tmp_path: Path) -> None:
    for name in "ab":
        export_predictions(tmp_path / name, runs([30, 20]))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_export_of_no_runs_has_columns_and_no_rows(tmp_path: Path) -> None:
    assert export_predictions(tmp_path / "all.parquet", iter(())) == 0
    table = pyarrow.parquet.read_table(tmp_path / "all.parquet")
    assert (table.num_rows, table.schema.field("seed").type) == (0, pyarrow.int64())


def test_an_export_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    export_predictions(tmp_path / "all.parquet", runs([4]))
    before = (tmp_path / "all.parquet").read_bytes()

    def broken() -> Iterator[tuple[Mapping[str, Any], Predictions]]:
        yield from runs([30])
        raise NotEnoughData("SK502", "here", "stopped")

    with pytest.raises(NotEnoughData, match=r"SK502\] here: stopped"):
        export_predictions(tmp_path / "all.parquet", broken())
    assert (tmp_path / "all.parquet").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["all.parquet"]


def test_an_export_holds_one_run_at_a_time(tmp_path: Path) -> None:
    alive: list[int] = []

    def peak(count: int) -> int:
        """Memory of Python and numpy, and of arrow's pool, beyond what one run takes."""
        alive.clear()

        def many() -> Iterator[tuple[Mapping[str, Any], Predictions]]:
            for number in range(count):
                yield {"source": "s", "target": "t", "fold": str(number), "seed": 0}, predictions(3000, number)
                alive.append(pyarrow.total_allocated_bytes())

        tracemalloc.start()
        export_predictions(tmp_path / "all.parquet", many())
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most + max(alive)

    assert peak(24) < 1.5 * peak(3)
