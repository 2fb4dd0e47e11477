"""What may go wrong with a store: faults in every call, links, newer files, read-only folders, two writers, features larger than memory."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simkit.errors import IntegrityError, ResourceError
from simkit.files import sweep
from simkit.recipe import digest
from simkit.store import Store, gathering, shelf

RECIPE = {"type": "pixels", "size": 4}


def ids(n: int, start: int = 0) -> list[str]:
    return [digest(i) for i in range(start, start + n)]


def values(n: int, start: int = 0) -> np.ndarray:
    return np.arange(start * 4, (start + n) * 4, dtype=np.float32).reshape(n, 4)


def filled(root: Path, shards: int = 3) -> Store:
    store = Store(root)
    store.prepare()
    for number in range(shards):
        store.shelf(RECIPE).add(ids(10, 10 * number), values(10, 10 * number))
    return store


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are gathered into a file however few they are."""
    monkeypatch.setattr(shelf, "IN_MEMORY", 0)


def failing(monkeypatch: pytest.MonkeyPatch, call: str, number: int, kth: int) -> Callable[[], int]:
    """The kth call of os.<call> that writes fails; returns how many there were."""
    real, seen = getattr(os, call), [0]

    def fails(*args: object, **options: object) -> object:
        if call == "open" and not (isinstance(args[1], int) and args[1] & os.O_CREAT):
            return real(*args, **options)
        seen[0] += 1
        if seen[0] == kth:
            raise OSError(number, os.strerror(number))
        return real(*args, **options)

    monkeypatch.setattr(os, call, fails)
    return lambda: seen[0]


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_fault_in_any_call_of_any_write_leaves_what_was_stored_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: None, call: str, number: int,
) -> None:
    for kth in range(1, 20):
        caught: ResourceError | None = None
        root = tmp_path / str(kth)
        before = files(filled(root).root)
        store, wanted = Store(root), ids(40)[::-1]
        with monkeypatch.context() as patch:
            calls = failing(patch, call, number, kth)
            try:
                store.shelf(RECIPE).add(ids(10, 30), values(10, 30))
                store.shelf(RECIPE).gather(wanted)
                store.save_json("score", digest("a"), {"value": 1})
            except ResourceError as error:
                caught = error
            done = calls() < kth
        assert (caught is None) == done
        if caught is not None:
            assert caught.exit_status == 5
            assert errno.errorcode[number] in str(caught)
            assert number != errno.ENOSPC or "MB free" in str(caught)
        after = files(root)
        assert {name: after[name] for name in before} == before
        assert not [name for name in after if ".tmp-" in name]
        assert Store(root).verify() == []
        store.shelf(RECIPE).add(ids(10, 30), values(10, 30))
        np.testing.assert_array_equal(Store(root).shelf(RECIPE).gather(wanted), values(40)[::-1])
        if done:
            assert kth > 2
            return
    pytest.fail("more calls than expected")


def test_a_full_disk_is_said_with_what_is_needed_and_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)
    failing(monkeypatch, "write", errno.ENOSPC, 1)
    with pytest.raises(ResourceError, match=r"ENOSPC; 0\.\d MB needed, [\d.]+ MB free"):
        store.shelf(RECIPE).add(ids(5000, 30), values(5000, 30))


def test_features_beyond_the_limit_are_mapped_from_one_file_that_is_used_again(tmp_path: Path, on_disk: None) -> None:
    wanted = [ids(30)[i] for i in (29, 3, 3, 17, 0)]
    first = filled(tmp_path).shelf(RECIPE).gather(wanted)
    assert isinstance(first, np.memmap)
    assert not first.flags.writeable
    np.testing.assert_array_equal(first, values(30)[[29, 3, 3, 17, 0]])
    made = next((tmp_path / "gathered").rglob("*.safetensors"))
    stamp = made.stat().st_mtime_ns
    np.testing.assert_array_equal(Store(tmp_path).shelf(RECIPE).gather(wanted), first)
    assert made.stat().st_mtime_ns == stamp
    assert Store(tmp_path).verify() == []


def test_many_parts_and_one_part_are_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: None) -> None:
    store, wanted = filled(tmp_path), np.random.default_rng(0).permutation(30)
    monkeypatch.setattr(shelf, "PART", 7)
    names = [ids(30)[i] for i in wanted]
    np.testing.assert_array_equal(store.shelf(RECIPE).gather(names), values(30)[wanted])
    assert store.shelf(RECIPE).missing([*names, digest("x"), digest("y"), digest("x")]) == [30, 31]


def test_a_damaged_gathered_file_is_named(tmp_path: Path, on_disk: None) -> None:
    store = filled(tmp_path)
    store.shelf(RECIPE).gather(ids(30)[::-1])
    made = next((tmp_path / "gathered").rglob("*.safetensors"))
    content = bytearray(made.read_bytes())
    content[-1] ^= 1
    made.write_bytes(bytes(content))
    with pytest.raises(IntegrityError, match=rf"{made.name}: its digest does not match"):
        Store(tmp_path).shelf(RECIPE).gather(ids(30)[::-1])
    store.quarantine(made)
    np.testing.assert_array_equal(store.shelf(RECIPE).gather(ids(30)[::-1]), values(30)[::-1])


def test_rows_of_one_shard_in_order_are_a_view(tmp_path: Path) -> None:
    view = filled(tmp_path).shelf(RECIPE).gather(ids(5, 12))
    assert isinstance(view, np.memmap)
    np.testing.assert_array_equal(view, values(5, 12))
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1


def test_a_read_only_store_is_read_without_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: None, caplog: pytest.LogCaptureFixture,
) -> None:
    filled(tmp_path / "store")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and real(path, mode))
    before = files(tmp_path / "store")
    store = Store(tmp_path / "store")
    with caplog.at_level(logging.INFO, "simkit"):
        np.testing.assert_array_equal(store.shelf(RECIPE).gather(ids(30)[::-1]), values(30)[::-1])
    assert "cannot be written: 0 MB of features are gathered in a temporary file" in caplog.text
    assert store.shelf(RECIPE).missing(ids(31)) == [30]
    assert store.verify() == []
    assert files(tmp_path / "store") == before
    with pytest.raises(ResourceError, match="no permission to write into the store"):
        store.prepare()


def test_too_little_space_for_gathered_features_is_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: None) -> None:
    store = filled(tmp_path)
    monkeypatch.setattr(gathering, "RESERVE", 10**18)
    with pytest.raises(ResourceError, match=r"MB are needed for the gathered features, .* MB are free"):
        store.shelf(RECIPE).gather(ids(30)[::-1])


def _shard(root: Path) -> Path:
    return sorted((root / "embeddings").rglob("*.safetensors"))[0]


def test_a_shard_of_a_newer_simkit_is_refused_and_not_repaired(tmp_path: Path) -> None:
    store = filled(tmp_path)
    shard = _shard(tmp_path)
    shard.write_bytes(shard.read_bytes().replace(b'"schema":"1"', b'"schema":"7"'))
    with pytest.raises(IntegrityError, match=r"has schema 7, this simkit knows 1(.|\n)*update simkit"):
        Store(tmp_path).shelf(RECIPE).known()
    assert [finding.newer for finding in store.verify()] == [True]


def test_every_damaged_shard_is_named_at_once(tmp_path: Path) -> None:
    filled(tmp_path)
    shards = sorted((tmp_path / "embeddings").rglob("*.safetensors"))
    for shard in shards[:2]:
        shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=rf"{shards[0].name}: is truncated(.|\n)*{shards[1].name}: is truncated"):
        Store(tmp_path).shelf(RECIPE).missing(ids(1))


@pytest.mark.parametrize("change", [{"shape": [10, 5]}, {"shape": [-1, 4]}, {"dtype": "F64"}, {"data_offsets": [0]}, {"shape": "x"}])
def test_a_header_that_contradicts_itself_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    filled(tmp_path, 1)
    shard = _shard(tmp_path)
    raw = shard.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header["x"] |= change
    text = json.dumps(header).encode()
    shard.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    with pytest.raises(IntegrityError, match=rf"{shard.name}: (its header contradicts|has no valid header|holds no matrix)"):
        Store(tmp_path).shelf(RECIPE).known()


@pytest.mark.parametrize("raw", [b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}", b"", (10**5 * 2).to_bytes(8, "little") + b"[" * 10**5 * 2])
def test_hostile_headers_are_refused(tmp_path: Path, raw: bytes) -> None:
    filled(tmp_path, 1)
    _shard(tmp_path).write_bytes(raw)
    with pytest.raises(IntegrityError, match=r"is truncated or no safetensors file|has no valid header"):
        Store(tmp_path).shelf(RECIPE).known()


def test_json_nested_too_deep_is_damaged(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.save_json("score", digest("a"), {"value": 1})
    store.path("score", digest("a"), ".json").write_text("[" * 200000)
    with pytest.raises(IntegrityError, match="nested deeper"):
        store.load_json("score", digest("a"))


def test_a_pipe_in_the_place_of_a_shard_does_not_hang(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    shard = _shard(tmp_path)
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(IntegrityError, match="is no regular file"):
        Store(tmp_path).shelf(RECIPE).known()


def test_foreign_files_are_ignored_aloud_and_found_by_verify(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = filled(tmp_path, 1)
    foreign = _shard(tmp_path).parent / "._copy.safetensors"
    foreign.write_bytes(b"\0" * 40)
    with caplog.at_level(logging.INFO, "simkit"):
        assert len(store.shelf(RECIPE).known()) == 10
    assert "ignored" in caplog.text
    assert foreign.name in caplog.text
    assert [(f.path, f.problem) for f in store.verify()] == [(foreign, "is not a file that simkit writes")]


def test_links_are_named_by_verify_and_not_followed(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", 1)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.bin").write_bytes(b"x")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "out").symlink_to(tmp_path / "outside")
    assert [f.path.name for f in store.verify()] == ["loop", "out"]


def test_temporaries_are_swept_when_old_and_their_process_is_gone(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    old, running, young = (tmp_path / f".tmp-{number}-{name}" for number, name in ((gone.pid, "a"), (os.getpid(), "b"), (gone.pid, "c")))
    for path in (old, running, young):
        path.write_bytes(b"")
    for path in (old, running):
        os.utime(path, (time.time() - 90000,) * 2)
    assert sweep(tmp_path) == 1
    assert sorted(tmp_path.iterdir()) == sorted([running, young])


def test_rows_made_twice_are_taken_from_the_same_shard_whoever_looks(tmp_path: Path) -> None:
    early = filled(tmp_path, 0).shelf(RECIPE)
    seen = []
    for value in range(6):
        early.add(ids(3), np.full((3, 4), value, dtype=np.float32))
        seen.append(early.gather(ids(3)[::-1])[0, 0] == Store(tmp_path).shelf(RECIPE).gather(ids(3)[::-1])[0, 0])
    assert all(seen)
    assert early.known() == set(ids(3))


def test_an_unknown_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="is not on the shelf"):
        filled(tmp_path).shelf(RECIPE).gather(ids(1, 99))


WRITER = """
import sys, numpy as np
from simkit.recipe import digest
from simkit.store import Store
store = Store(sys.argv[1]); store.prepare()
for block in range(40):
    names = [digest([block, i]) for i in range(32)]
    shelf = store.shelf({"type": "pixels", "size": 4})
    todo = shelf.missing(names)
    if todo:
        rows = np.array([[block, i, 0, 0] for i in todo], dtype=np.float32)
        shelf.add([names[i] for i in todo], rows)
"""

READER = """
import sys, numpy as np
from simkit.recipe import digest
from simkit.store import Store
blocks = 0
while blocks < 40:
    shelf = Store(sys.argv[1]).shelf({"type": "pixels", "size": 4})
    known = shelf.known()
    blocks = 0
    for block in range(40):
        names = [digest([block, i]) for i in range(32)]
        if names[0] in known:
            blocks += 1
            assert (shelf.gather(names)[:, :2] == [[block, i] for i in range(32)]).all()
"""


def test_two_writers_and_two_readers_at_once(tmp_path: Path) -> None:
    start = lambda code: subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE)  # noqa: E731
    running = [start(WRITER), start(WRITER), start(READER), start(READER)]
    assert [(process.communicate(timeout=120)[1], process.returncode) for process in running] == [(b"", 0)] * 4
    assert Store(tmp_path).verify() == []
    assert len(Store(tmp_path).shelf(RECIPE).known()) == 40 * 32
