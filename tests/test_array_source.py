"""Data sets from arrays in memory and from .npy files: the pixels that are given, labels of every kind, and errors that name the row."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus import colour, grey
from PIL import Image

from simkit.dataset import Dataset
from simkit.errors import DataError, UsageError
from simkit.recipe import rng_for
from simkit.registry import SOURCES, Spec
from simkit.sources.array import Array, ArrayRules, from_arrays
from simkit.sources.npz import Npz


def pictures(*shape: int) -> np.ndarray:
    return rng_for("arrays", list(shape)).integers(0, 256, shape, dtype=np.uint8)


def same(dataset: Dataset, wanted: np.ndarray) -> None:
    for index, image in enumerate(wanted):
        np.testing.assert_array_equal(dataset.read(index), image if image.ndim == 3 else image[:, :, None])


# ---------------------------------------------------------------- images


def test_uint8_arrays_are_the_images_without_a_copy() -> None:
    for shape in ((4, 5, 6), (4, 5, 6, 1), (4, 5, 6, 3)):
        values = pictures(*shape)
        dataset = from_arrays(values, [0, 1, 0, 1])
        same(dataset, values)
        assert np.shares_memory(dataset.reader.images[0], values)  # type: ignore[attr-defined]
        assert dataset.keys == ("0", "1", "2", "3")
        assert pickle.loads(pickle.dumps(dataset)).fingerprint == dataset.fingerprint
    assert repr(from_arrays(pictures(2, 3, 3), name="mine")) == "Dataset('mine', 2 images, unlabelled)"


def test_tensors_and_channels_first_must_be_said() -> None:
    import torch

    values = pictures(3, 3, 8, 9)
    message = r"SK207\] array: images \(3, 3, 8, 9\): 9 channels with channels last: an image has 1 or 3\nfix: declare channels_first = true"
    with pytest.raises(DataError, match=message):
        from_arrays(values)
    for given in (values, torch.from_numpy(values), [torch.from_numpy(image) for image in values]):
        same(from_arrays(given, channels_first=True), values.transpose(0, 2, 3, 1))
    with pytest.raises(DataError, match=r"8 channels with channels_first = true: an image has 1 or 3\nfix: declare channels_first = false"):
        from_arrays(pictures(2, 8, 9, 3), channels_first=True)
    with pytest.raises(DataError, match=r"SK207\] array: images: the tensor has the type torch\.bfloat16"):
        from_arrays(torch.zeros(2, 4, 4, dtype=torch.bfloat16))


def test_lists_of_images_of_any_size() -> None:
    rotated = Image.fromarray(colour())
    rotated.getexif()[0x0112] = 6
    transparent = Image.fromarray(np.dstack([colour(), np.zeros((5, 7), np.uint8)]))
    palette = Image.fromarray(colour()).quantize(64)
    images = [grey(), colour(3, 9), Image.fromarray(grey()), rotated, transparent, palette]
    dataset = from_arrays(images)
    np.testing.assert_array_equal(dataset.read(0)[:, :, 0], grey())
    np.testing.assert_array_equal(dataset.read(1), colour(3, 9))
    np.testing.assert_array_equal(dataset.read(2)[:, :, 0], grey())
    np.testing.assert_array_equal(dataset.read(3), np.rot90(colour(), -1))
    assert not dataset.read(4).any()
    np.testing.assert_array_equal(dataset.read(5), np.asarray(palette.convert("RGB")))
    assert dataset.digests[0] == dataset.digests[2]


@pytest.mark.parametrize(("values", "rules", "wanted"), [
    (np.array([0, 0.5, 1 / 255, 1], np.float32), {"intensity": "unit"}, [0, 128, 1, 255]),
    (np.array([0, 257, 65535, 32768], np.uint16), {"intensity": "full-range"}, [0, 1, 255, 128]),
    (np.array([0, 4095, 2048, 16], np.uint16), {"intensity": "12-bit"}, [0, 255, 128, 1]),
    (np.array([-1000, 400, -300, 3000], np.int16), {"intensity": "window", "window": (-1000, 400)}, [0, 255, 128, 255]),
])
def test_other_types_become_8_bit_by_the_declared_rule(values: np.ndarray, rules: dict[str, Any], wanted: list[int]) -> None:
    image = values.reshape(1, 2, 2)
    assert from_arrays(image, **rules).read(0).ravel().tolist() == wanted
    assert from_arrays([image[0]], **rules).read(0).ravel().tolist() == wanted
    with pytest.raises(DataError, match=r"SK207\] array: images: holds \w+ values: how they become 8 bit is not declared\nfix: declare intensity"):
        from_arrays(image)


def test_a_16_bit_picture_of_pillow_follows_the_rule(tmp_path: Path) -> None:
    Image.fromarray(grey().astype(np.uint16) * 257).save(tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as image:
        image.load()
        np.testing.assert_array_equal(from_arrays([image], intensity="full-range").read(0)[:, :, 0], grey())
        with pytest.raises(DataError, match=r"SK207\] array: images\[0\]: holds uint16 values"):
            from_arrays([image])


def test_images_that_no_rule_covers_are_named_all_at_once() -> None:
    good = np.full((4, 4), 0.5, np.float32)
    large, holes = good + 1, good.copy()
    holes[0, :2] = np.nan
    with pytest.raises(DataError) as caught:
        from_arrays([good, large, holes, "x.png", np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8), good.astype(bool)], intensity="unit")
    found = [f"{problem.where}: {problem.message}" for problem in caught.value.problems]
    assert found == [
        "array: images[1]: holds the value 1.5, outside 0 to 1 of intensity = 'unit'",
        "array: images[2]: holds 2 values that are NaN or infinite: no grey level stands for them",
        "array: images[3]: is str, wanted an array, a tensor or a Pillow image",
        "array: images[4]: 2 channels with channels last: an image has 1 or 3",
        "array: images[5]: has the shape (0, 4), wanted (height, width) or (height, width, 1 or 3)",
        "array: images[6]: holds bool values: which intensity = 'unit' does not cover",
    ]
    for values, message in (
        (np.zeros((5, 6), np.uint8), r"has the shape \(5, 6\), wanted \(n, height, width\).* \(one image\? put it into a list\)"),
        (np.zeros((2, 3, 4, 5, 6), np.uint8), r"has the shape \(2, 3, 4, 5, 6\)"), (np.zeros((2, 0, 4), np.uint8), r"has the shape \(2, 0, 4\)"),
        (np.zeros((0, 3, 4), np.uint8), r"SK201\] array: no images in arrays in memory"),
    ):
        with pytest.raises(DataError, match=message):
            from_arrays(values)
    with pytest.raises(UsageError, match=r"SK102\] array: images: int is no array"):
        from_arrays(7)


@pytest.mark.parametrize("rules", [{"intensity": "window"}, {"window": (0.0, 1.0)}, {"intensity": "window", "window": (2.0, 1.0)}])
def test_rules_that_do_not_fit_together(rules: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"SK102\] window: window = .* with intensity = "):
        ArrayRules(**rules)


# ---------------------------------------------------------------- labels, groups, splits


def test_labels_of_every_kind() -> None:
    import torch

    images = pictures(3, 4, 4)
    for given in ([2, 10, 2], np.array([2, 10, 2]), np.array([[2], [10], [2]], np.uint8), torch.tensor([2, 10, 2]), [np.int64(2), 10, 2]):
        dataset = from_arrays(images, given)
        assert dataset.classes == ("2", "10")
        assert dataset.label_names == ("2", "10", "2")
    words = from_arrays(images, ["b", "a", "b"])
    assert words.classes == ("a", "b")
    assert from_arrays(images, np.array(["b", "a", "b"]), classes=["b", "c", "a"]).labels.tolist() == [0, 2, 0]  # type: ignore[union-attr]
    named = from_arrays(images, [1, 0, 1], classes=("benign", "malignant", "other"), groups=[7, 7, 8], splits=["train", "test", "train"], tags=["x"],
                        attributes={"modality": "MRI"})
    assert named.label_names == ("malignant", "benign", "malignant")
    assert named.class_counts == {"benign": 1, "malignant": 2, "other": 0}
    assert (named.groups, named.splits, named.tags, named.attributes) == (("7", "7", "8"), ("train", "test", "train"), ("x",), {"modality": "MRI"})


def test_indicators_make_a_multi_label_set() -> None:
    images = pictures(3, 4, 4)
    for kind in (bool, np.uint8, np.float64):
        dataset = from_arrays(images, np.array([[1, 0], [1, 1], [0, 0]], kind), classes=("effusion", "mass"))
        assert dataset.multilabel
        assert dataset.label_names == ("effusion", "effusion + mass", "")
    assert from_arrays(images, np.eye(3, dtype=int)).classes == ("0", "1", "2")
    with pytest.raises(DataError, match=r"SK203\] array: labels\[1\]: is \[1, 2\], wanted 0 or 1 for each class"):
        from_arrays(images, np.array([[1, 0], [1, 2], [0, 0]]))
    with pytest.raises(UsageError, match=r"SK102\] array: labels: 2 columns for 3 class names"):
        from_arrays(images, np.zeros((3, 2)), classes="abc")


@pytest.mark.parametrize(("options", "kind", "message"), [
    ({"labels": [0, -1, 1]}, DataError, r"SK203\] array: labels\[1\]: the label -1 is negative"),
    ({"labels": [0, 1, 2], "classes": ("a", "b")}, DataError, r"SK203\] array: labels\[2\]: the label 2 is not one of 0 to 1"),
    ({"labels": ["a", "bb", "a"], "classes": ("a", "b")}, DataError, r"SK203\] array: labels\[1\]: the class 'bb' is not among the 2 named \(did you mean 'b'"),
    ({"labels": ["a", None, ""]}, DataError, r"labels\[1\]: is None, wanted text or a whole number(.|\n)*labels\[2\]: is ''"),
    ({"labels": np.array([0.0, np.nan, 1.0])}, DataError, r"labels\[0\]: is 0\.0(.|\n)*labels\[1\]: is nan"),
    ({"labels": [0, 1]}, UsageError, r"SK102\] array: labels: 2 values for 3 images"),
    ({"labels": np.zeros((2, 2))}, UsageError, r"SK102\] array: labels: 2 rows for 3 images"),
    ({"labels": np.zeros((3, 2, 2))}, UsageError, r"SK102\] array: labels: the shape \(3, 2, 2\)"),
    ({"labels": [0, 1, 0], "classes": ("a", "a")}, UsageError, r"SK102\] array: classes: a class name occurs twice"),
    ({"groups": ["p", None, "q"]}, DataError, r"SK203\] array: groups\[1\]: is None"),
    ({"splits": ["train"]}, UsageError, r"SK102\] array: splits: 1 values for 3 images"),
])
def test_what_is_wrong_beside_the_images_is_named_with_its_row(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        from_arrays(pictures(3, 4, 4), **options)


# ---------------------------------------------------------------- files


def test_npy_files_are_mapped_and_give_the_digests_of_the_arrays(tmp_path: Path) -> None:
    images, labels = pictures(5, 6, 7, 3), np.array([0, 1, 1, 0, 2])
    for name, values in (("x", images), ("y", labels), ("groups", np.array(["p", "p", "q", "q", "r"]))):
        np.save(tmp_path / f"{name}.npy", values)
    options = {"path": "x.npy", "labels": "y.npy", "groups": "groups.npy", "classes": ["a", "b", "c"]}
    dataset = SOURCES.build(Spec("array", options)).load("d", tmp_path)
    same(dataset, images)
    assert dataset.label_names == ("a", "b", "b", "a", "c")
    assert dataset.groups == ("p", "p", "q", "q", "r")
    assert isinstance(dataset.reader.mapped[0], np.memmap)
    assert dataset.digests == from_arrays(images).digests
    again = pickle.loads(pickle.dumps(dataset))
    assert again.fingerprint == dataset.fingerprint
    assert len(pickle.dumps(dataset.reader)) < 1000
    np.savez(tmp_path / "m.npz", train_images=images, train_labels=labels)
    assert Npz(path=tmp_path / "m.npz", splits=("train",)).load("n", tmp_path).digests == dataset.digests
    np.save(tmp_path / "deep.npy", images[..., 0].astype(np.uint16) * 257)
    same(Array(path=Path("deep.npy"), intensity="full-range").load("d", tmp_path), images[..., 0])
    np.save(tmp_path / "first.npy", images.transpose(0, 3, 1, 2))
    assert Array(path=Path("first.npy"), channels_first=True).load("d", tmp_path).digests == dataset.digests


def test_npy_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", pictures(3, 40, 40))
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-100])
    (tmp_path / "text.npy").write_text("hello")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "y.npy", np.array([0, 1]))
    np.save(tmp_path / "deep.npy", np.zeros((2, 3, 4), np.int32))
    for name, message in (
        ("cut", r"SK201\] .*cut\.npy: cannot be read as an \.npy file"), ("text", r"SK201\] .*text\.npy: cannot be read as an \.npy file"),
        ("objects", r"SK201\] .*objects\.npy: cannot be read as an \.npy file.*(.|\n)*pickles\) are not read"),
        ("z", r"SK201\] .*z\.npy: the file does not exist \(did you mean"), ("y", r"SK207\] .*y\.npy: has the shape \(2,\)"),
        ("deep", r"SK207\] .*deep\.npy: holds int32 values: how they become 8 bit is not declared"),
    ):
        with pytest.raises(DataError, match=message):
            Array(path=Path(f"{name}.npy")).load("d", tmp_path)
    with pytest.raises(UsageError, match=r"SK102\] d: labels: 2 values for 3 images"):
        Array(path=Path("x.npy"), labels=Path("y.npy")).load("d", tmp_path)
