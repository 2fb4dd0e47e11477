"""Tar shards: written by the package webdataset and by hand, read in place, compared with that package and with a folder of the same files."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus import colour, grey, png16
from PIL import Image

from simkit.dataset import card_of
from simkit.errors import DataError, UsageError
from simkit.registry import SOURCES, Spec
from simkit.sources.folder import Folder
from simkit.sources.webdataset import Webdataset, expanded


def png(index: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(colour() + np.uint8(index)).save(out, "PNG")
    return out.getvalue()


def shard(path: Path, members: Mapping[str, bytes] | list[tuple[str, bytes]]) -> Path:
    """A tar file with members of these names and bytes, in order; a name may occur twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def sample(key: str, index: int, label: Any = 0, **parts: bytes) -> dict[str, bytes]:
    return {f"{key}.png": png(index), f"{key}.cls": str(label).encode()} | {f"{key}.{name}": data for name, data in parts.items()}


def load(path: Path | str, base: Path = Path(), **options: Any) -> Any:
    return Webdataset(path=str(path), **options).load("d", base)


def refused(path: Path, message: str, **options: Any) -> None:
    with pytest.raises(DataError, match=message):
        load(path, **options)


# ---------------------------------------------------------------- the package's own shards


def test_shards_of_the_package_give_its_images_and_labels_and_the_digests_of_the_files(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "train-%03d.tar"), maxcount=4, verbose=0) as writer:
        for index in range(10):
            writer.write({"__key__": f"p{index // 3}/{index:04d}", "png": png(index), "cls": index % 3, "json": {"patient": f"p{index // 3}"}})
    dataset = load("train-{000..002}.tar", tmp_path, group="json:patient")
    urls = [str(tmp_path / f"train-{number:03d}.tar") for number in range(3)]
    theirs = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("rgb8").to_tuple("__key__", "png", "cls", "json"))
    assert len(dataset) == len(theirs) == 10
    for index, (key, image, label, fields) in enumerate(theirs):
        assert dataset.keys[index] == key
        np.testing.assert_array_equal(dataset.read(index), image)
        assert dataset.label_names[index] == str(label)
        assert dataset.groups[index] == fields["patient"]
        path = tmp_path / "files" / str(label) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(index))
    folder = Folder(path=tmp_path / "files").load("f", tmp_path)
    assert set(dataset.digests) == set(folder.digests)
    assert dataset.classes == folder.classes == ("0", "1", "2")
    again = pickle.loads(pickle.dumps(dataset))
    assert again.fingerprint == dataset.fingerprint
    np.testing.assert_array_equal(again.read(9), dataset.read(9))
    assert len(pickle.dumps(dataset.reader)) < 2000


def test_every_way_to_name_shards_finds_the_same_samples(tmp_path: Path) -> None:
    for number in range(12):
        shard(tmp_path / f"s-{number:02d}.tar", sample(f"k{number}", number, number % 2))
    keys = [f"k{number}" for number in range(12)]
    for path in ("s-{00..11}.tar", "s-*.tar", str(tmp_path), "."):
        assert list(load(path, tmp_path).keys) == keys
    some = Webdataset(path=("s-03.tar", "s-{01,02}.tar")).load("d", tmp_path)
    assert some.keys == ("k3", "k1", "k2")
    built = SOURCES.build(Spec("webdataset", {"path": ["s-03.tar"]}))
    assert built.load("d", tmp_path).keys == ("k3",)
    assert expanded("a-{8..10}-{x,y}.tar") == [f"a-{number}-{letter}.tar" for number in (8, 9, 10) for letter in "xy"]
    assert expanded("a{1}.tar") == ["a{1}.tar"]


# ---------------------------------------------------------------- labels, groups, rules


def test_labels_are_text_numbers_with_names_json_fields_or_absent(tmp_path: Path) -> None:
    text = shard(tmp_path / "text.tar", sample("a", 0, "nevus") | sample("b", 1, "melanoma\n"))
    assert load(text).classes == ("melanoma", "nevus")
    assert load(text).label_names == ("nevus", "melanoma")
    (tmp_path / "names.txt").write_text("benign\nmalignant\nother\n")
    numbers = shard(tmp_path / "numbers.tar", sample("a", 0, 1) | sample("b", 1, 0))
    named = load(numbers, tmp_path, classes=Path("names.txt"))
    assert named.classes == ("benign", "malignant", "other")
    assert named.label_names == ("malignant", "benign")
    records = {"a": {"label": {"name": "x"}, "all": ["x", "y"]}, "b": {"label": {"name": "y"}, "all": []}}
    rows = {name: data for key, record in records.items() for name, data in sample(key, 0, json=json.dumps(record).encode()).items()}
    path = shard(tmp_path / "json.tar", rows)
    assert load(path, label="json:label.name").label_names == ("x", "y")
    several = load(path, label="json:all")
    assert several.multilabel
    assert several.indicators.tolist() == [[True, True], [False, False]]
    assert several.class_counts == {"x": 1, "y": 1}
    unlabelled = load(path, label="")
    assert unlabelled.labels is None
    assert unlabelled.groups is None


def test_the_rules_of_files_hold(tmp_path: Path) -> None:
    png16(tmp_path / "deep.png", grey().astype(np.uint16) * 257)
    deep = (tmp_path / "deep.png").read_bytes()
    path = shard(tmp_path / "s.tar", {"a.png": deep, "b.png": png(1)[:-30], "c.png": png(2)})
    dataset = load(path, label="")
    with pytest.raises(DataError, match=r"SK207\] .*s\.tar: a: has 16 bits per sample"):
        dataset.read(0)
    with pytest.raises(DataError, match=r"SK206\] .*s\.tar: b: cannot be decoded"):
        dataset.read(1)
    _, kept = card_of(dataset)
    assert [one.key for one in kept.skipped] == ["a", "b"]
    declared = load(path, label="", intensity="full-range")
    np.testing.assert_array_equal(declared.read(0)[:, :, 0], grey())
    assert "16-bit unsigned values by intensity = 'full-range'" in declared.remarked(0)[1]
    assert declared.digests[2] != dataset.digests[2]


def test_a_shard_that_changes_while_it_is_used_is_said(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", sample("a", 0))
    dataset = load(path)
    shard(path, sample("a", 0) | sample("b", 1) | sample("c", 2))
    path.write_bytes(path.read_bytes() + bytes(10240))
    with pytest.raises(DataError, match=r"SK206\] .*s\.tar: a: the shard changed since its members were listed"):
        dataset.read(0)
    path.unlink()
    with pytest.raises(DataError, match=r"SK206\] .*s\.tar: a: the shard cannot be read \(No such file"):
        dataset.read(0)


def test_the_image_is_named_where_a_sample_has_several(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", {"a.left.png": png(0), "a.right.png": png(1), "a.cls": b"0"})
    refused(path, r"SK205\] .*s\.tar: a: the sample has no image; its parts: left\.png, right\.png, cls(.|\n)*image = \[\"left\.png\"\]")
    np.testing.assert_array_equal(load(path, image=("right.png",)).read(0), colour() + np.uint8(1))
    two = shard(tmp_path / "two.tar", {"a.png": png(0), "a.JPG": png(1), "a.cls": b"0"})
    refused(two, r"SK205\] .*two\.tar: a: the sample has 2 images \(png, jpg\)")
    assert len(load(two, image=(".png",))) == 1


# ---------------------------------------------------------------- what is wrong with shards


def linked(path: Path, name: str, **entries: Any) -> Path:
    """A shard with a good sample and one member of another type."""
    with tarfile.open(path, "w") as tar:
        for member, data in sample("a", 0).items():
            header = tarfile.TarInfo(member)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
        header = tarfile.TarInfo(name)
        for entry, value in entries.items():
            setattr(header, entry, value)
        tar.addfile(header)
    return path


@pytest.mark.parametrize(("name", "entries", "message"), [
    ("b.png", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, r"b\.png: is a link \(to /etc/passwd\)"),
    ("b.png", {"type": tarfile.LNKTYPE, "linkname": "a.png"}, r"b\.png: is a link \(to a\.png\)"),
    ("b.png", {"type": tarfile.CHRTYPE}, r"b\.png: is not a plain file"),
    ("b.png", {"type": tarfile.FIFOTYPE}, r"b\.png: is not a plain file"),
    ("../b.png", {}, r"\.\./b\.png: has a name that leads out of the archive"),
    ("x/..\\..\\b.png", {}, r"has a name that leads out of the archive"),
    ("/etc/b.png", {}, r"/etc/b\.png: has a name that leads out of the archive"),
])
def test_members_that_lead_elsewhere_are_refused_by_name(name: str, entries: dict[str, Any], message: str, tmp_path: Path) -> None:
    refused(linked(tmp_path / "s.tar", name, **entries), r"SK205\] .*s\.tar: .*" + message)


def test_a_truncated_shard_is_named_with_its_last_good_member(tmp_path: Path) -> None:
    whole = shard(tmp_path / "s.tar", {**sample("a", 0), **sample("b", 1)}).read_bytes()
    with tarfile.open(tmp_path / "s.tar") as tar:
        places = {member.name: (member.offset, member.offset_data) for member in tar}
    for end, last in (
        (places["b.png"][1] + 20, r"'a\.cls'"), (places["b.png"][0] + 100, r"'a\.cls'"), (places["b.png"][0], r"'a\.cls'"), (300, "no member"),
    ):
        cut = tmp_path / "cut.tar"
        cut.write_bytes(whole[:end])
        refused(cut, r"SK201\] .*cut\.tar: is not a complete tar file \(.*the last good member is " + last)
    broken = bytearray(whole)
    broken[places["b.png"][0] + 150] ^= 255
    (tmp_path / "cut.tar").write_bytes(broken)
    refused(tmp_path / "cut.tar", r"is not a complete tar file \(it ends or is damaged at byte 2048 of 10240\); the last good member is 'a\.cls'")
    (tmp_path / "cut.tar").write_bytes(whole + whole)
    refused(tmp_path / "cut.tar", r"data follow its end \(tar files joined by cat\?\)")
    (tmp_path / "cut.tar").write_bytes(b"")
    refused(tmp_path / "cut.tar", r"SK201\] .*cut\.tar: is empty \(0 bytes\)")
    (tmp_path / "cut.tar").write_bytes(b"<html>" * 200)
    refused(tmp_path / "cut.tar", r"SK201\] .*cut\.tar: is not a complete tar file")


@pytest.mark.parametrize(("size", "message"), [
    ("-5", r"'b\.png' has the size -5"), ("-1536", r"'b\.png' has the size -1536"), ("99999999999999", "unexpected end of data"),
])
def test_sizes_that_cannot_be_are_damage(size: str, message: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, entries in (("a.cls", {}), ("b.png", {"size": size})):
            header = tarfile.TarInfo(name)
            header.size, header.pax_headers = 3, entries
            tar.addfile(header, io.BytesIO(b"abc"))
    refused(tmp_path / "s.tar", r"SK201\] .*s\.tar: is not a complete tar file \(" + message + r"\); the last good member is 'a\.cls'")


def test_compressed_shards_are_refused_with_the_reason(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.cls"), io.BytesIO())
    refused(tmp_path / "s.tar.gz", r"SK201\] .*s\.tar\.gz: is compressed \(gzip\): an image in it cannot be read without unpacking")


def test_all_that_is_wrong_with_samples_is_said_at_once(tmp_path: Path) -> None:
    four, five = sample("d", 4), sample("e", 5)
    shard(tmp_path / "s-0.tar", [*sample("a", 0).items(), ("b.cls", b"1"), ("c.png", png(3)), *four.items(), *five.items(), ("d.json", b"{}")])
    shard(tmp_path / "s-1.tar", [*sample("a", 0).items(), ("f.png", png(0)), ("f.png", png(1)), ("f.cls", b"0"), *sample("g", 0, "\xff").items()])
    with pytest.raises(DataError) as caught:
        load("s-*.tar", tmp_path)
    found = [f"{problem.where}: {problem.message}" for problem in caught.value.problems]
    for wanted in (
        "s-0.tar: b: the sample has no image; its parts: cls", "s-0.tar: c: the sample has no part 'cls', which holds the label; its parts: png",
        "s-0.tar: d: the key occurs a second time; the first is in the same shard, not beside its other parts", "s-1.tar: a: the key occurs a second time",
        "s-1.tar: f.png: the sample 'f' has two parts 'png'",
    ):
        assert any(wanted in text for text in found), wanted
    assert len(found) == 5


def test_what_is_wrong_with_labels_is_named(tmp_path: Path) -> None:
    shard(tmp_path / "s-0.tar", sample("a", 0, 1) | sample("b", 0, -1))
    shard(tmp_path / "s-1.tar", sample("c", 0, "nevus"))
    (tmp_path / "one.txt").write_text("benign\n")
    refused(tmp_path, r"SK203.*labels are of several kinds: a number \(1\) in .*s-0\.tar: a; text \('nevus'\) in .*s-1\.tar: c")
    refused(tmp_path / "s-0.tar", r"s-0\.tar: a: the label 1 is not one of 0 to 0, the classes named", classes=tmp_path / "one.txt")
    refused(tmp_path / "s-0.tar", r"s-0\.tar: b: the label -1 is negative", classes=tmp_path / "one.txt")
    refused(tmp_path / "s-1.tar", r"s-1\.tar: c: the class 'nevus' is not among the 1 named", classes=tmp_path / "one.txt")
    refused(tmp_path / "s-1.tar", r"the file of class names does not exist", classes=tmp_path / "two.txt")
    for content, message in (
        (b"{", r"the part 'json' is not JSON"), (b"[1]", r"the part 'json' has no field 'x'; it holds list"),
        (b'{"y": 1}', r"the part 'json' has no field 'x'; it holds y"),
        (b'{"x": null}', r"the label in 'json:x' is None"), (b'{"x": 0.5}', r"the label in 'json:x' is 0\.5"), (b'{"x": ""}', r"the label in 'json:x' is ''"),
        (b" " * 2**21, r"the part 'json' has 2097152 bytes: not a label"), (b"\xff", r"the part 'json' is not JSON"),
    ):
        refused(shard(tmp_path / "bad.tar", {"a.png": png(0), "a.json": content}), r"SK203\] .*bad\.tar: a: " + message, label="json:x")


def test_members_that_belong_to_no_sample_are_listed(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", {"README": b"hello", "._a.png": b"x", **sample("./x/a", 0)})
    dataset = load(path)
    assert dataset.keys == ("x/a",)
    assert [(one.key.rpartition("/")[2], one.reason) for one in dataset.skipped] == [("s.tar: README", "not part of a sample: its name is not KEY.EXTENSION")]


def test_shards_that_are_not_there(tmp_path: Path) -> None:
    shard(tmp_path / "s-0.tar", sample("a", 0))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"s-1\.tar: does not exist \(did you mean '.*s-0\.tar'\?\)(.|\n)*s-2\.tar: does not exist"):
        load("s-{0..2}.tar", tmp_path)
    refused(tmp_path / "t-*.tar", r"SK201\] .*t-\*\.tar: does not exist")
    refused(tmp_path / "empty", r"SK201\] .*empty: no \.tar file in the folder")
    refused(tmp_path / "s-{3..1}.tar", r"SK201\] .*the pattern stands for no name")
    shard(tmp_path / "none.tar", {"README": b""})
    refused(tmp_path / "none.tar", r"SK201\] .*no sample in 1 shards")
    with pytest.raises(UsageError, match=r"SK102\] webdataset\.path: 'pipe:cat s\.tar' is not a local path(.|\n)*never run"):
        load("pipe:cat s.tar")


# ---------------------------------------------------------------- real data


@pytest.mark.shared
def test_a_real_folder_written_as_shards_is_the_same_data_set(shared: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    folder = Folder(path=shared / "data" / "lclung").load("f", shared)
    with webdataset.ShardWriter(str(tmp_path / "s-%02d.tar"), maxcount=300, verbose=0) as writer:
        for key, label in zip(folder.keys, folder.label_names, strict=True):  # type: ignore[arg-type]
            stem, _, extension = key.rpartition(".")
            writer.write({"__key__": stem.replace(".", "_"), extension: (shared / "data" / "lclung" / key).read_bytes(), "cls": label})
    dataset = load("s-{00..02}.tar", tmp_path)
    assert dataset.classes == folder.classes
    assert dataset.label_names == folder.label_names
    assert dataset.fingerprint == folder.fingerprint
    np.testing.assert_array_equal(dataset.read(700), folder.read(700))
