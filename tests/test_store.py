"""The store: nothing half, nothing wrong, everything found again."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from simkit.errors import IntegrityError, ResourceError
from simkit.files import write_bytes, write_text
from simkit.recipe import digest
from simkit.store import Store

RECIPE = {"type": "pixels", "size": 4}


def ids(n: int, start: int = 0) -> list[str]:
    return [digest(i) for i in range(start, start + n)]


def filled(root: Path) -> Store:
    store = Store(root)
    store.prepare()
    store.shelf(RECIPE).add(ids(10), np.arange(40, dtype=np.float32).reshape(10, 4))
    store.save_json("score", digest("a"), {"value": 0.1 + 0.2, "nothing": None})
    return store


def test_rows_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.shelf(RECIPE).add(ids(3, 10), np.full((3, 4), 7, dtype=np.float32))
    shelf = Store(tmp_path).shelf(RECIPE)
    assert shelf.known() == set(ids(13))
    wanted = [12, 3, 0]
    np.testing.assert_array_equal(shelf.gather([ids(13)[i] for i in wanted]), [[7] * 4, [12, 13, 14, 15], [0, 1, 2, 3]])


def test_json_keeps_every_digit_and_another_recipe_finds_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert store.load_json("score", digest("a")) == {"value": 0.1 + 0.2, "nothing": None}
    assert store.load_json("score", digest("b")) is None
    assert Store(tmp_path).shelf({**RECIPE, "size": 5}).known() == set()


def test_opening_a_store_writes_nothing(tmp_path: Path) -> None:
    Store(tmp_path / "none").shelf(RECIPE).known()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", ["flip", "truncate", "foreign"])
def test_a_damaged_shard_is_named_and_set_aside(tmp_path: Path, kind: str) -> None:
    store = filled(tmp_path)
    shard = next((tmp_path / "embeddings").rglob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    if kind == "flip":
        content[-3] ^= 1
    shard.write_bytes({"flip": bytes(content), "truncate": bytes(content[:-5]), "foreign": b"<html>"}[kind])
    with pytest.raises(IntegrityError, match=shard.name) as caught:
        Store(tmp_path).shelf(RECIPE).known()
    assert "store verify --repair" in str(caught.value)
    assert [f.path for f in store.verify()] == [shard]
    content_before = shard.read_bytes()
    assert store.quarantine(shard).read_bytes() == content_before
    assert store.verify() == []
    assert Store(tmp_path).shelf(RECIPE).known() == set()


@pytest.mark.parametrize("text", ["{", "[]", '{"value": {"value": 1}, "sha256": "0"}'])
def test_a_damaged_json_file_is_named(tmp_path: Path, text: str) -> None:
    store = filled(tmp_path)
    path = store.path("score", digest("a"), ".json")
    path.write_text(text)
    with pytest.raises(IntegrityError, match=path.name):
        store.load_json("score", digest("a"))


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "store.json").write_text('{"schema": 99}')
    with pytest.raises(IntegrityError, match="schema 99"):
        Store(tmp_path)


def test_features_that_are_not_finite_are_never_stored(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="NaN or infinite"):
        filled(tmp_path).shelf(RECIPE).add(ids(1, 50), np.array([[1, np.inf, 0, 0]], dtype=np.float32))


def test_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="5 features, the shelf has 4"):
        filled(tmp_path).shelf(RECIPE).add(ids(1, 50), np.zeros((1, 5), dtype=np.float32))


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_fault_in_any_call_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")
    real = getattr(os, call)
    seen = []

    def fails(*args: object, **options: object) -> object:
        seen.append(args)
        if len(seen) == 1:
            raise OSError(number, os.strerror(number))
        return real(*args, **options)

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(ResourceError, match=r"a\.json.*(ENOSPC|EIO)"):
        write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, view: real(handle, bytes(view[:3])))
    write_bytes(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_too_little_space_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="MB are needed"):
        Store(tmp_path).prepare(need=10**18)


WRITER = """
import sys, numpy as np
from simkit.recipe import digest
from simkit.store import Store
store = Store(sys.argv[1]); store.prepare()
shelf = store.shelf({"type": "pixels", "size": 4})
print("ready", flush=True)
for block in range(200):
    names = [digest([block, i]) for i in range(64)]
    shelf.add(names, np.array([[block, i, 0, 0] for i in range(64)], dtype=np.float32))
    store.save_json("score", digest(["s", block]), {"value": block})
"""


def test_kills_at_random_moments_lose_no_committed_row_and_store_no_wrong_one(tmp_path: Path) -> None:
    rng = random.Random(1)
    before: set[str] = set()
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        store = Store(tmp_path)
        assert store.verify() == []
        shelf = store.shelf(RECIPE)
        known = shelf.known()
        assert before <= known
        before = known
        for block in range(200):
            names = [digest([block, i]) for i in range(64)]
            if names[0] in known:
                np.testing.assert_array_equal(shelf.gather(names)[:, :2], [[block, i] for i in range(64)])
            value = store.load_json("score", digest(["s", block]))
            assert value in (None, {"value": block})
    assert before
