"""Claims on units of work: one process at a time, taken over from one that is gone, by one other only."""

from __future__ import annotations

import json
import os
import pickle
import re
import socket
import subprocess
import sys
import time
from datetime import datetime, timedelta

import pytest

from simkit.errors import ResourceError
from simkit.transfer import claims
from simkit.transfer.claims import Claims


class Folder:
    """Where a test's claims lie."""

    def __init__(self, folder):
        self.folder = folder

    def path(self, kind, key, suffix):
        return self.folder / kind / f"{key}{suffix}"


@pytest.fixture
def made(tmp_path):
    return Claims(Folder(tmp_path))


def file_of(made, key="key"):
    return made.results.path("claims", key, ".lock")


def rewritten(path, **changes):
    """A claim in which something else stands."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def aged(path, seconds):
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_one_holds_a_unit_until_it_is_released(made, tmp_path):
    claim = made.take("key")
    content = json.loads(file_of(made).read_text())
    assert set(content) == {"host", "space", "pid", "started", "token", "since"}
    assert (content["host"], content["pid"], content["token"]) == (socket.gethostname(), os.getpid(), claim.token)
    assert made.take("key") is None
    assert pickle.loads(pickle.dumps(made)).take("key") is None
    with made.take("other") as other:
        assert names(tmp_path) == ["key.lock", "other.lock"]
        assert other.token != claim.token
    claim.release()
    claim.release()  # a second time does nothing
    assert names(tmp_path) == []
    assert made.take("key") is not None


def test_an_error_releases_it(made, tmp_path):
    with pytest.raises(ValueError, match="training"), made.take("key"):
        raise ValueError("training")
    assert names(tmp_path) == []


def test_only_ones_own_is_released_and_touched(made, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.0)
    claim = made.take("key")
    rewritten(file_of(made), token="another")
    aged(file_of(made), 500)
    claim.touch()
    claim.release()
    assert time.time() - file_of(made).stat().st_mtime > 400
    file_of(made).unlink()
    claim.touch()
    claim.release()
    assert not file_of(made).exists()


def test_a_touch_costs_a_look_at_the_clock_most_times(made, monkeypatch):
    claim = made.take("key")
    aged(file_of(made), 500)
    monkeypatch.setattr(claims, "_found", None)
    claim.touch()  # touches nothing, or would call it
    assert time.time() - file_of(made).stat().st_mtime > 400
    monkeypatch.undo()
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.0)
    claim.touch()
    assert time.time() - file_of(made).stat().st_mtime < 60


def test_a_process_that_is_gone_is_taken_over_from(made, tmp_path):
    made.take("key")
    rewritten(file_of(made), pid=gone(), token="old")
    claim = made.take("key")
    assert json.loads(file_of(made).read_text())["token"] == claim.token
    assert names(tmp_path) == ["key.lock"]  # nothing of the takeover is left
    assert made.take("key") is None


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="the start of a process is read from /proc")
def test_a_number_that_was_given_out_again_and_a_process_that_only_waits_to_be_waited_for(made):
    made.take("key")
    rewritten(file_of(made), started=json.loads(file_of(made).read_text())["started"] - 1, token="old")
    assert made.take("key") is not None
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its number still answers
    os.kill(process.pid, 0)
    rewritten(file_of(made), pid=process.pid, started=None, token="older")
    assert made.take("key") is not None
    process.wait()


def test_without_proc_the_number_alone_is_asked(made, monkeypatch):
    monkeypatch.setattr(claims, "_stat", lambda pid: None)
    made.take("key")
    assert json.loads(file_of(made).read_text())["started"] is None
    assert made.take("key") is None
    rewritten(file_of(made), pid=gone(), token="old")
    assert made.take("key") is not None


@pytest.mark.parametrize("elsewhere", [{"host": "elsewhere"}, {"space": "pid:[1]"}])
def test_a_process_of_another_machine_is_gone_when_it_was_silent_for_long(made, elsewhere):
    made.take("key")
    rewritten(file_of(made), pid=gone(), token="old", **elsewhere)
    aged(file_of(made), 14 * 60)
    assert made.take("key") is None
    aged(file_of(made), 16 * 60)
    assert made.take("key") is not None


def test_the_clock_of_the_file_system_counts(made, monkeypatch):
    made.take("key")
    rewritten(file_of(made), host="elsewhere", token="old")
    monkeypatch.setattr(time, "time", lambda: 0.0)  # the local clock says nothing
    assert made.take("key") is None
    now = file_of(made).stat().st_mtime
    monkeypatch.setattr(claims, "_file_system_time", lambda folder: now + 16 * 60)
    assert made.take("key") is not None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff\xfe"])
def test_a_damaged_claim_is_held_for_some_seconds(made, tmp_path, content):
    file_of(made).parent.mkdir(parents=True)
    file_of(made).write_bytes(content)
    assert made.take("key") is None
    assert made.holder("key") == f"an unknown process (its claim {file_of(made)} is empty or damaged)"
    aged(file_of(made), 10)
    assert made.take("key") is not None
    assert names(tmp_path) == ["key.lock"]


def test_the_mark_of_a_takeover_that_was_killed(made, tmp_path):
    made.take("key")
    rewritten(file_of(made), pid=gone(), token="old")
    mark = file_of(made).parent / ".tmp-key-old"
    mark.write_text("")
    assert made.take("key") is None  # somebody is taking it over
    aged(mark, 61)
    assert made.take("key") is not None
    assert names(tmp_path) == ["key.lock"]


def test_who_comes_late_to_a_takeover_leaves_the_new_claim_alone(made, tmp_path):
    made.take("key")
    rewritten(file_of(made), pid=gone(), token="old")
    seen = claims._found(file_of(made))  # and before it acts, another one has taken over
    claim = made.take("key")
    assert not claims._taken_over(file_of(made), seen, claims._Owner.this_process())
    assert json.loads(file_of(made).read_text())["token"] == claim.token
    assert names(tmp_path) == ["key.lock"]


def test_the_holder_in_words(made):
    assert made.holder("key") == "nobody"
    made.take("key")
    assert re.fullmatch(rf"process {os.getpid()} on {re.escape(socket.gethostname())}, since \d\d:\d\d", made.holder("key"))
    before = datetime.now().astimezone() - timedelta(days=2)
    rewritten(file_of(made), pid=4711, host="node-3", since=before.isoformat())
    assert made.holder("key") == f"process 4711 on node-3, since {before:%Y-%m-%d %H:%M}"
    rewritten(file_of(made), since="long ago")
    assert made.holder("key").endswith(", since long ago")


def test_a_store_that_cannot_be_written(made, tmp_path, monkeypatch):
    (tmp_path / "claims").write_text("")
    with pytest.raises(ResourceError, match=r"SK301\] .*key\.lock: cannot write it \((EEXIST|ENOTDIR)"):
        made.take("key")
    (tmp_path / "claims").unlink()

    def refused(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(ResourceError, match=r"SK301\] .*key\.lock: no permission to write it \(EACCES\)\nfix: choose a folder that you may write"):
        made.take("key")


def test_a_full_disk_leaves_no_claim(made, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(claims, "write_all", full)
    with pytest.raises(ResourceError, match=r"SK301\] .*key\.lock: no space left to write it"):
        made.take("key")
    assert names(tmp_path) == []


TAKER = """
import sys
from pathlib import Path
from simkit.transfer.claims import Claims

class Folder:
    def path(self, kind, key, suffix):
        return Path(sys.argv[1]) / kind / f"{key}{suffix}"

print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[2])):
    if Claims(Folder()).take(f"key{number}") is not None:
        print(number, flush=True)
print("end", flush=True)
sys.stdin.readline()  # a process that ends has lost what it holds
"""


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_processes_one_gets_a_unit(made, tmp_path, stale):
    count, old = 60, gone()
    for number in range(count if stale else 0):
        made.take(f"key{number}")
        rewritten(file_of(made, f"key{number}"), pid=old, token=f"old{number}")
    command = [sys.executable, "-c", TAKER, str(tmp_path), str(count)]
    takers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    try:
        assert {taker.stdout.readline() for taker in takers} == {"ready\n"}
        for taker in takers:
            taker.stdin.write("\n")
            taker.stdin.flush()
        taken = [int(line) for taker in takers for line in iter(taker.stdout.readline, "end\n")]
    finally:
        for taker in takers:
            taker.communicate()
    assert sorted(taken) == list(range(count))
    assert names(tmp_path) == sorted(f"key{number}.lock" for number in range(count))
