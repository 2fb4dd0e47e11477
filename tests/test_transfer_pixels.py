"""Decoded images in the store: made once, checked when opened, never half."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from transfer_study import ArrayReader, drawn

from simkit.dataset import Dataset
from simkit.errors import DataError, ResourceError
from simkit.store import Store
from simkit.transfer import pixels as module
from simkit.transfer.images import Listing, decode, listing
from simkit.transfer.pixels import pixels_key, stored_pixels

SIZE = 16


@pytest.fixture
def images() -> Listing:
    return listing(drawn("moths", 12, channels=3))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def file_of(store: Store, images: Listing, channels: int = 3) -> Path:
    return store.path("pixels", pixels_key(images, SIZE, channels), ".npy")


def left(store: Store) -> list[str]:
    return sorted(path.name for path in (store.root / "pixels").rglob("*") if path.is_file())


def never(*_: object, **__: object) -> None:
    raise AssertionError("decoded again")


@pytest.mark.parametrize("trusted", [False, True])
def test_they_are_made_once_and_are_what_decoding_gives(store, images, monkeypatch, trusted):
    said: list[str] = []
    made = stored_pixels(images, SIZE, 3, store, said.append)
    assert np.array_equal(made, decode(images, SIZE))
    monkeypatch.setattr(module, "decode", never)
    again = stored_pixels(images, SIZE, 3, store, said.append, trusted=trusted)
    assert np.array_equal(again, made)
    assert said == []
    assert not again.flags.writeable
    assert isinstance(again.base, np.memmap)
    assert store.verify() == []


def test_another_order_or_name_finds_them_and_another_size_channel_or_content_does_not(images):
    key = pixels_key(images, SIZE, 3)
    dataset = images.dataset
    turned = Dataset("other", tuple(reversed(dataset.keys)), dataset.reader, labels=dataset.labels[::-1], classes=dataset.classes, rows=np.arange(12)[::-1])
    assert pixels_key(listing(turned), SIZE, 3) == key
    keys = {key, pixels_key(images, SIZE + 1, 3), pixels_key(images, SIZE, 1), pixels_key(listing(drawn("moths", 12, channels=3, seed=1)), SIZE, 3)}
    assert len(keys) == 4


def damage_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def damage_length(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 7)


def damage_all(path: Path) -> None:
    path.write_bytes(b"")


def damage_header(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(b"\x80\x04" + data[2:])


def damage_record(path: Path) -> None:
    beside = path.with_suffix(".json")
    beside.write_text(beside.read_text().replace("16", "17"))


def lose_record(path: Path) -> None:
    path.with_suffix(".json").unlink()


@pytest.mark.parametrize(("damage", "trusted", "message"), [
    (damage_bit, False, "is damaged: its digest differs"), (damage_length, True, "is damaged: it has 9337 bytes and was written with 9344"),
    (damage_all, True, "is damaged: it has 0 bytes"), (damage_header, True, "is damaged ("), (damage_record, False, "its digest does not match its content"),
    (lose_record, False, "nothing beside it tells its digest"),
])
def test_damage_is_announced_and_made_good(store, images, damage, trusted, message):
    stored_pixels(images, SIZE, 3, store, never)
    path = file_of(store, images)
    damage(path)
    assert [finding.path.stem for finding in store.verify()] != []
    said: list[str] = []
    assert np.array_equal(stored_pixels(images, SIZE, 3, store, said.append, trusted=trusted), decode(images, SIZE))
    assert len(said) == 1
    assert message in said[0]
    assert said[0].startswith("moths: the decoded images ")
    assert said[0].endswith("; they are made again")
    stored_pixels(images, SIZE, 3, store, never)
    assert store.verify() == []


def test_a_whole_file_of_another_shape_is_found_out(store, images):
    stored_pixels(images, SIZE, 3, store, never)
    path = file_of(store, images)
    np.save(path, np.zeros((12, 1, SIZE, SIZE * 3), dtype=np.uint8))
    said: list[str] = []
    stored_pixels(images, SIZE, 3, store, said.append, trusted=True)
    assert "holds uint8 (12, 1, 16, 48), its record says [12, 3, 16, 16], wanted is uint8 (12, 3, 16, 16)" in said[0]


def test_a_pickle_is_never_opened(store, images):
    stored_pixels(images, SIZE, 3, store, never)
    path = file_of(store, images)
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    beside = path.with_suffix(".json")
    record = store.load_json("pixels", beside.stem)
    store.save_json("pixels", beside.stem, {**record, "bytes": path.stat().st_size})
    said: list[str] = []
    stored_pixels(images, SIZE, 3, store, said.append, trusted=True)
    assert "is damaged" in said[0]


def test_too_little_space_is_said_before_the_work_with_what_is_needed(store, images, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 5 * 10**6))
    monkeypatch.setattr(module, "decode", never)
    with pytest.raises(ResourceError, match=r"SK301\] .*\.npy: 33\.6 MB are needed for the decoded images, 5\.0 MB are free\nfix: free some space"):
        stored_pixels(images, SIZE, 3, store, never)
    assert left(store) == []


def test_a_disk_that_fills_up_is_an_error_and_leaves_nothing(store, images, monkeypatch):
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(ResourceError, match=r"SK301\] .*\.npy: no space left to write it \(ENOSPC; 0\.0 MB needed, [0-9.]+ MB free\)"):
        stored_pixels(images, SIZE, 3, store, never)
    assert left(store) == []


@pytest.mark.parametrize("reserving", ["refused", "missing"])
def test_where_space_cannot_be_reserved_zeros_are_written_first(store, images, monkeypatch, reserving):
    def refused(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    if reserving == "refused":
        monkeypatch.setattr(os, "posix_fallocate", refused, raising=False)
    else:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    written: list[int] = []
    original = module.write_all
    monkeypatch.setattr(module, "write_all", lambda handle, data: (written.append(len(data)), original(handle, data)))
    assert np.array_equal(stored_pixels(images, SIZE, 3, store, never), decode(images, SIZE))
    path = file_of(store, images)
    assert 0 < path.stat().st_size - sum(written) <= 4096


def test_a_store_that_may_not_be_written_is_refused(store, images, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(np.lib.format, "open_memmap", refused)
    with pytest.raises(ResourceError, match=r"SK301\] .*\.npy: no permission to write it \(EACCES\)"):
        stored_pixels(images, SIZE, 3, store, never)
    assert left(store) == []


def test_an_unreadable_image_leaves_nothing_behind(store):
    class Broken(ArrayReader):
        def read(self, index: int) -> np.ndarray:
            if index == 2:
                raise DataError("SK206", "img/2.png", "cannot be read: truncated", "replace the file")
            return super().read(index)

    dataset = Dataset("broken", tuple("abcd"), Broken(drawn("x", 4).reader.images), labels=np.array([0, 1, 0, 1]), classes=("a", "b"))
    with pytest.raises(DataError, match=r"SK206\] img/2\.png: cannot be read: truncated"):
        stored_pixels(listing(dataset), SIZE, 3, store, never)
    assert left(store) == []


def test_an_interruption_leaves_nothing_behind(store, images, monkeypatch):
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "decode", stopped)
    with pytest.raises(KeyboardInterrupt):
        stored_pixels(images, SIZE, 3, store, never)
    assert left(store) == []


def test_the_record_says_what_was_written(store, images):
    stored_pixels(images, SIZE, 1, store, never)
    record = json.loads(file_of(store, images, 1).with_suffix(".json").read_text())["value"]
    assert record["shape"] == [12, 1, SIZE, SIZE]
    assert record["bytes"] == file_of(store, images, 1).stat().st_size
    assert len(record["sha256"]) == 64


def test_many_images_are_counted_while_they_are_decoded(store, images, monkeypatch):
    monkeypatch.setattr(module, "MANY", 11)
    said: list[str] = []
    stored_pixels(images, SIZE, 3, store, said.append)
    assert said[0] == "moths: decoding 12 images to 16 px, once for all runs"
    assert said[-1] == "moths: 12 of 12 images decoded"
    assert len(said) == 11
