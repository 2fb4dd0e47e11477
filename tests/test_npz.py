"""Npz files: several labels per image, no labels, images that are not 8-bit; medmnist's multi-label sets."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simkit.dataset import Dataset
from simkit.errors import DataError, UsageError
from simkit.recipe import rng_for
from simkit.sources.medmnist import Medmnist
from simkit.sources.npz import Npz


def npz_file(path: Path, kind: Any = np.uint8, high: int = 256, labels: Any = None, **changes: Any) -> Path:
    arrays: dict[str, Any] = {}
    for number, (split, n) in enumerate((("train", 4), ("val", 2), ("test", 3))):
        arrays[f"{split}_images"] = rng_for("npz", number).integers(0, high, (n, 6, 5)).astype(kind)
        arrays[f"{split}_labels"] = labels[:n] if labels is not None else np.arange(n)[:, None] % 2
    arrays |= changes
    np.savez_compressed(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def loaded(path: Path, **options: Any) -> Dataset:
    return Npz(path, **options).load("d", path.parent)


SEVERAL = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])


@pytest.mark.parametrize("kind", [np.uint8, np.int64, bool])
def test_columns_of_labels_are_classes_of_which_an_image_may_have_several(kind: Any, tmp_path: Path) -> None:
    dataset = loaded(npz_file(tmp_path / "m.npz", labels=SEVERAL.astype(kind)))
    assert dataset.labels is None
    assert dataset.indicators is not None
    np.testing.assert_array_equal(dataset.indicators, np.concatenate([SEVERAL, SEVERAL[:2], SEVERAL[:3]]).astype(bool))
    assert dataset.classes == ("0", "1", "2")
    assert dataset.label_names is not None
    assert dataset.label_names[:2] == ("0 + 2", "")
    part = loaded(tmp_path / "m.npz", splits=("val",))
    assert part.indicators is not None
    assert part.indicators.shape == (2, 3)


def test_columns_that_are_no_indicators_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"SK203\] .*m.npz: 'train_labels' has 3 columns, which are classes of which an image may have several, and holds 4"):
        loaded(npz_file(tmp_path / "m.npz", labels=SEVERAL * 4))
    with pytest.raises(DataError, match=r"SK202\] .*: the splits differ in the number of label columns: 'train_labels' 3, 'val_labels' 3, 'test_labels' 1"):
        loaded(npz_file(tmp_path / "m.npz", labels=SEVERAL, test_labels=np.zeros(3, int)))


def test_a_set_without_labels_says_so(tmp_path: Path) -> None:
    path = npz_file(tmp_path / "m.npz", train_labels=None, val_labels=None, test_labels=None)
    with pytest.raises(DataError, match=r"SK202\] .*array 'train_labels' is missing.*\n.*or declare labels = false for an unlabelled set"):
        loaded(path)
    dataset = loaded(path, labels=False)
    assert (dataset.labels, dataset.indicators, dataset.classes, len(dataset)) == (None, None, (), 9)
    assert loaded(npz_file(tmp_path / "l.npz"), labels=False).fingerprint == dataset.fingerprint


def test_16_bit_images_by_every_rule(tmp_path: Path) -> None:
    path = npz_file(tmp_path / "deep.npz", np.uint16, 4096)
    values = np.load(path)["train_images"].astype(float)
    every = np.sort(np.concatenate([array.ravel() for key, array in np.load(path).items() if key.endswith("_images")]))

    def wanted(low: float, high: float) -> Any:
        return np.floor(np.clip((values[1] - low) * 255 / (high - low), 0, 255) + 0.5)

    with pytest.raises(DataError, match=r"SK207\] .*'train_images' has type uint16 and shape .*, wanted uint8: how the values become 8 bit is not declared"):
        loaded(path)
    own = np.sort(values[1].ravel())
    cases: dict[str, tuple[dict[str, Any], tuple[float, float]]] = {
        "full-range": ({}, (0, 65535)), "12-bit": ({}, (0, 4095)), "window": ({"window": (100.0, 2000.0)}, (100, 2000)),
        "percentile": ({"percentiles": (10.0, 90.0)}, (every[26], every[242])), "image-percentile": ({"percentiles": (10.0, 90.0)}, (own[2], own[26])),
    }
    digests = set()
    for rule, (options, ends) in cases.items():
        dataset = loaded(path, intensity=rule, **options)
        image, remarks = dataset.remarked(1)
        np.testing.assert_array_equal(image[:, :, 0], wanted(*ends))
        assert remarks[0] == f"uint16 values by intensity = '{rule}'"
        assert ("more than 1% of its pixels lie outside the window: black or white" in remarks) == bool(options)
        digests.add(dataset.digests[1])
    assert len(digests) == 5
    together = loaded(path, intensity="percentile", percentiles=(10.0, 90.0))
    copy = pickle.loads(pickle.dumps(together))
    assert copy.reader.windows == [(float(every[26]), float(every[242]))]
    assert copy.fingerprint == together.fingerprint
    other = npz_file(tmp_path / "more.npz", np.uint16, 4096, test_images=np.full((3, 6, 5), 60000, np.uint16))
    assert loaded(other, intensity="percentile").digests[1] != loaded(path, intensity="percentile").digests[1]  # the window is part of the content
    with pytest.raises(DataError, match=r"SK207\] .*more.npz: test/0: holds the value 60000, outside the 0 to 4095 of intensity = '12-bit'"):
        loaded(other, intensity="12-bit").read(6)


def test_float_images_and_rules_that_do_not_fit(tmp_path: Path) -> None:
    path = npz_file(tmp_path / "f.npz", np.float32, 200)
    values = np.load(path)["train_images"].astype(float)
    np.testing.assert_array_equal(
        loaded(path, intensity="window", window=(0.0, 255.0)).read(0)[:, :, 0], np.floor(values[0] + 0.5))
    with pytest.raises(DataError, match=r"SK207\] .*has type float32 and shape \(4, 6, 5\), which intensity = 'full-range' does not cover"):
        loaded(path, intensity="full-range")
    broken = np.load(path)["val_images"]
    broken[1, 0, 0] = np.inf
    holes = loaded(npz_file(tmp_path / "h.npz", np.float32, 200, val_images=broken), intensity="percentile")
    assert holes.read(0).shape == (6, 5, 1)
    with pytest.raises(DataError, match=r"SK207\] .*h.npz: val/1: holds 1 values that are NaN or infinite"):
        holes.read(5)
    flat = npz_file(tmp_path / "flat.npz", np.uint16, 1)
    with pytest.raises(DataError, match=r"SK207\] .*flat.npz: no window for the data set: both percentiles of all pixels are 0"):
        loaded(flat, intensity="percentile").read(0)
    deep = npz_file(tmp_path / "c.npz", train_images=np.zeros((4, 6, 5, 3), np.uint16))
    with pytest.raises(DataError, match=r"SK207\] .*'train_images' has type uint16 and shape \(4, 6, 5, 3\), wanted uint8"):
        loaded(deep, intensity="full-range")
    with pytest.raises(UsageError, match=r"SK102\] npz.window: intensity = 'window' without the window"):
        Npz(path, intensity="window")
    with pytest.raises(UsageError, match=r"SK102\] npz.percentiles: \[90.0, 10.0\], expected two values"):
        Npz(path, intensity="percentile", percentiles=(90.0, 10.0))


def test_8_bit_images_are_left_alone_by_any_rule(tmp_path: Path) -> None:
    path = npz_file(tmp_path / "m.npz")
    assert loaded(path, intensity="image-percentile").fingerprint == loaded(path).fingerprint
    assert loaded(path).remarked(0)[1] == ()


def test_multi_label_sets_of_medmnist_have_the_names_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("medmnist")
    labels = rng_for("chest").integers(0, 2, (4, 14))
    path = npz_file(tmp_path / "chestmnist.npz", labels=labels)
    monkeypatch.setitem(package.INFO["chestmnist"], "MD5", hashlib.md5(path.read_bytes()).hexdigest())
    dataset = Medmnist(set="chestmnist", root=tmp_path).load("d", tmp_path)
    assert dataset.classes[:3] == ("atelectasis", "cardiomegaly", "effusion")
    assert len(dataset.classes) == 14
    assert dataset.indicators is not None
    np.testing.assert_array_equal(dataset.indicators[:4], labels.astype(bool))
    npz_file(tmp_path / "chestmnist.npz")
    monkeypatch.setitem(package.INFO["chestmnist"], "MD5", hashlib.md5(path.read_bytes()).hexdigest())
    with pytest.raises(DataError, match=r"SK203\] .*chestmnist.npz: holds the label 1, the package names 14 classes \(multi-label, binary-class\)"):
        Medmnist(set="chestmnist", root=tmp_path).load("d", tmp_path)
