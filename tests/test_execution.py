"""Where work runs does not move a bit: this process, processes, a Ray cluster; and what is lost when a worker, a store or a cluster is."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import fake_ray
import numpy as np
import pytest
from click.testing import CliRunner
from transfer_study import PROTOCOL, FolderResults, drawn, study

from simkit.cli.work import finetune, run
from simkit.errors import Problem, ResourceError, UsageError
from simkit.execution import DEVICE, LATER, RETRIES, Where, duration, workers
from simkit.store import Store
from simkit.transfer import nodes, plan_units, run_units
from simkit.transfer.base import Finetune

SQUARES = [(value,) for value in range(5)]


def squared(live, value):
    if live is not None:
        live(f"squaring {value}")
    return value * value, live is None


def killed(live, value):
    os.kill(os.getpid(), signal.SIGKILL)


def killed_once(live, folder, value):
    """Kills the process that it runs in, the first time."""
    mark = Path(folder) / f"started-{value}"
    if value == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value * value, os.getpid()


def refused(live, value):
    raise UsageError("SK102", "value", f"{value} is refused", "give another")


def summed(live, array, value):
    return float(array.sum()) + value


def killed_when_seen(live, folder, value):
    """Notes that it was started; the first of value 1 kills its process once the result of value 0 has arrived."""
    with (Path(folder) / f"started-{value}").open("a") as file:
        file.write(".")
    if value == 1 and (Path(folder) / "started-1").read_text() == ".":
        while not (Path(folder) / "seen-0").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def somebody_elses(live, value):
    return LATER if value % 2 else value


def at_a_device(live, device, value, seconds=0.2):
    begun = time.monotonic()
    time.sleep(seconds)
    return device, os.getpid(), begun, time.monotonic()


def at_a_device_killed_once(live, folder, device, value):
    killed_once(live, folder, value)
    return at_a_device(live, device, value)


def together(spans):
    """The most that were at work at one moment."""
    return max(sum(begun <= moment < ended for _, _, begun, ended in spans) for _, _, moment, _ in spans)


def nothing_missing():
    return ()


def missing():
    return [Problem("SK301", "/store", "is not there", "mount it")]


def silent(line):
    pass


@pytest.fixture
def ray(monkeypatch):
    return fake_ray.install(monkeypatch)


def records(folder, kind="finetune"):
    """Path -> record without the time it took."""
    out = {}
    for path in sorted((folder / kind).rglob("*.json")):
        record = json.loads(path.read_text())
        out[str(path.relative_to(folder))] = {name: value for name, value in record.items() if name != "seconds"}
    return out


# --- what a user writes -----------------------------------------------------------------------------------------------------------------


def test_where_is_parsed(ray):
    assert Where.parse(None) == Where.parse("here") == Where(1, None)
    assert Where.parse(None, jobs=4) == Where(4, None)
    assert Where.parse("ray", jobs=0) == Where(0, "local")
    assert Where.parse("ray:auto").address == "auto"
    assert Where.parse("ray:node-1.cluster:6379").address == "node-1.cluster:6379"
    assert Where.parse("ray:[fe80::1]:6379").address == "[fe80::1]:6379"
    assert ray.initialised is None  # nothing is started by reading


@pytest.mark.parametrize(("cluster", "jobs", "match"), [
    ("dask", 1, r"SK102\] cluster: 'dask' is not a place where work can run\nfix: give ray \(a Ray of its own on this machine\), ray:auto"),
    ("ray:", 1, r"SK102\] cluster: 'ray:' is not a place"),
    ("ray:somewhere", 1, r"SK102\] cluster: 'ray:somewhere' is not a place"),
    ("ray:host:port", 1, r"SK102\] cluster: 'ray:host:port' is not a place"),
    ("", 1, r"SK102\] cluster: '' is not a place"),
    ("ray://head:10001", 1, r"SK102\] cluster: 'ray://head:10001' is an address of Ray Client(.|\n)*fix: start simkit on a machine of the cluster"),
    ("ray", 2, r"SK102\] jobs: 2 jobs were asked for, which count processes of this machine(.|\n)*fix: leave --jobs out"),
    (None, -1, r"SK102\] jobs: -1 processes"),
])
def test_what_is_no_place_is_refused(ray, cluster, jobs, match):
    with pytest.raises(UsageError, match=match):
        Where.parse(cluster, jobs=jobs)


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ResourceError, match=r"SK303\] cluster: the package ray is needed to run on a cluster(.|\n)*fix: pip install 'simkit\[ray\]'"):
        Where.parse("ray")


def test_the_module_loads_nothing_heavy():
    code = "import simkit.execution, sys; print([m for m in ('torch', 'joblib', 'ray', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# --- this process and processes ---------------------------------------------------------------------------------------------------------


def test_in_this_process_in_order_with_progress():
    lines = []
    with workers(Where(), say=lines.append) as place:
        assert place.share(lines) is lines
        place.require(missing)  # asks other machines only
        assert list(place.results(squared, SQUARES)) == [(i, (i * i, False)) for i in range(5)]
    assert lines == [f"squaring {i}" for i in range(5)]


def test_in_processes_the_same_results():
    with workers(Where(2), say=silent) as place:
        assert sorted(place.results(squared, SQUARES)) == [(i, (i * i, True)) for i in range(5)]
        assert sorted(place.results(summed, [(place.share(np.ones(4)), i) for i in range(3)])) == [(0, 4.0), (1, 5.0), (2, 6.0)]
        with pytest.raises(UsageError, match="0 is refused"):
            list(place.results(refused, [(0,)]))


def test_a_killed_process_costs_the_run_it_was_at(tmp_path):
    lines, found = [], []
    with workers(Where(2), say=lines.append) as place:
        for index, result in place.results(killed_when_seen, [(str(tmp_path), value) for value in range(5)]):
            (tmp_path / f"seen-{index}").touch()
            found.append((index, result))
    assert sorted(found) == [(i, i) for i in range(5)]  # each once
    assert (tmp_path / "started-0").read_text() == "."
    assert (tmp_path / "started-1").read_text() == ".."
    (line,) = lines
    assert re.fullmatch(r"a worker process was killed \(most likely for lack of memory\): "
                        r"(2 runs are started again and go on|1 run is started again and goes on) from (their|its) last epoch", line)


def test_processes_that_are_killed_again_and_again_are_a_clear_error():
    lines = []
    match = r"SK301\] finetune: a worker process was killed, most likely for lack of memory \(4 times in this run\)\nfix: run fewer jobs at once"
    with workers(Where(2), say=lines.append) as place, pytest.raises(ResourceError, match=match):
        list(place.results(killed, SQUARES))
    assert lines == ["a worker process was killed (most likely for lack of memory): 2 runs are started again and go on from their last epoch"] * RETRIES


def test_what_somebody_else_is_at_comes_as_a_sign():
    assert pickle.loads(pickle.dumps((LATER, DEVICE))) == (LATER, DEVICE)
    for where in (Where(), Where(2)):
        with workers(where, say=silent) as place:
            found = dict(place.results(somebody_elses, SQUARES))
        assert sorted(index for index, result in found.items() if result is LATER) == [1, 3]
        assert {index: result for index, result in found.items() if result is not LATER} == {0: 0, 2: 2, 4: 4}


# --- devices ----------------------------------------------------------------------------------------------------------------------------


def test_this_process_is_at_the_first_device():
    with workers(Where(), devices=["cuda:0", "cuda:1"], say=silent) as place:
        assert place.jobs == 1
        assert [result[0] for _, result in place.results(at_a_device, [(DEVICE, 0, 0.0), ("cpu", 1, 0.0)])] == ["cuda:0", "cpu"]
    with workers(Where(0), devices=["mps"], say=silent) as place:  # one device, one job
        assert [result[1] for _, result in place.results(at_a_device, [(DEVICE, 0, 0.0)])] == [os.getpid()]


@pytest.mark.parametrize("jobs", [0, 2])
def test_each_process_has_a_device_for_itself(jobs):
    with workers(Where(jobs), devices=["cuda:0", "cuda:1"], say=silent) as place:
        assert place.jobs == 2
        spans = [result for _, result in place.results(at_a_device, [(DEVICE, value) for value in range(6)])]
    assert {device for device, *_ in spans} == {"cuda:0", "cuda:1"}
    assert together(spans) == 2
    for device in ("cuda:0", "cuda:1"):
        assert together([span for span in spans if span[0] == device]) == 1
    assert len({(device, process) for device, process, *_ in spans}) == 2  # a process keeps its device


def test_fewer_jobs_than_devices_leave_some_alone():
    with workers(Where(2), devices=["cuda:0", "cuda:1", "cuda:2"], say=silent) as place:
        spans = [result for _, result in place.results(at_a_device, [(DEVICE, value) for value in range(4)])]
    assert {device for device, *_ in spans} == {"cuda:0", "cuda:1"}


def test_more_jobs_than_devices_share_them_evenly():
    with workers(Where(4), devices=["cuda:0", "cuda:1"], say=silent) as place:
        assert place.jobs == 4
        spans = [result for _, result in place.results(at_a_device, [(DEVICE, value, 0.5) for value in range(12)])]
    processes = {(device, process) for device, process, *_ in spans}
    assert sorted(device for device, _ in processes) == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
    with workers(Where(2), devices=["cpu"], say=silent) as place:
        assert {result[0] for _, result in place.results(at_a_device, [(DEVICE, value) for value in range(4)])} == {"cpu"}


def test_a_killed_process_gives_its_device_back(tmp_path):
    lines = []
    with workers(Where(0), devices=["cuda:0", "cuda:1"], say=lines.append) as place:
        tasks = [(str(tmp_path), DEVICE, value) for value in range(8)]
        spans = [result for _, result in sorted(place.results(at_a_device_killed_once, tasks))]
    assert len(lines) == 1
    assert len(spans) == 8
    assert {device for device, *_ in spans[4:]} == {"cuda:0", "cuda:1"}
    for device in ("cuda:0", "cuda:1"):
        assert together([span for span in spans if span[0] == device]) == 1


def test_a_device_that_nobody_named():
    for where in (Where(), Where(2)):
        with workers(where, say=silent) as place, pytest.raises(ValueError, match=r"a task asks for a device, and workers\(\) was given none"):
            list(place.results(at_a_device, [(DEVICE, 0)]))


def test_no_room_for_the_files_of_the_devices(monkeypatch):
    def full(**options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    match = r"SK301\] jobs: cannot make a temporary folder, by which processes share the devices \(.*No space left on device\)\nfix: free some space"
    with pytest.raises(ResourceError, match=match), workers(Where(2), say=silent):
        pass


def test_durations_in_words():
    assert [duration(seconds) for seconds in (0.4, 8.2, 89.6, 90, 200, 7800)] == [
        "less than a second", "about 8 s", "about 90 s", "about 2 min", "about 3 min", "about 2 h 10 min"]


# --- the Ray path, on a stand-in --------------------------------------------------------------------------------------------------------


def test_tasks_of_a_cluster(ray):
    lines = []
    with workers(Where.parse("ray"), cpus=2, gpus=0, say=lines.append) as place:
        place.require(nothing_missing)
        array = place.share(np.arange(4.0))
        assert sorted(place.results(summed, [(array, value) for value in range(3)])) == [(0, 6.0), (1, 7.0), (2, 8.0)]
        assert ray.puts == 1
    assert ray.started[:2] == [("id-alpha", "_checked"), ("id-beta", "_checked")]
    assert ray.options[-1] == {"num_cpus": 2, "num_gpus": 0, "max_retries": 0}
    assert lines == ["Ray 0.0-fake: 2 machines with room for 3 runs at a time (2 CPU cores each)"]
    assert (ray.stopped, ray.cancelled) == (1, [])


def test_only_the_task_of_a_lost_worker_is_started_again(ray):
    lines = []
    errors = ray.exceptions
    with workers(Where.parse("ray"), say=lines.append) as place:
        ray.losses = [errors.WorkerCrashedError(), errors.NodeDiedError(), errors.ObjectLostError(), errors.OutOfMemoryError()][: RETRIES]
        assert sorted(place.results(squared, SQUARES)) == [(i, (i * i, True)) for i in range(5)]
    assert len([one for one in ray.started if one[1] == "_on_cluster"]) == 5
    assert [line for line in lines if "lost" in line] == [
        f"a worker was lost ({kind}): its run is started again and goes on from its last epoch ({count} so far)"
        for count, kind in enumerate(("WorkerCrashedError", "NodeDiedError", "ObjectLostError"), 1)
    ]


def test_a_task_that_loses_every_worker_is_given_up(ray):
    with workers(Where.parse("ray"), say=silent) as place:
        ray.losses = [ray.exceptions.OutOfMemoryError()] * (RETRIES + 1)
        with pytest.raises(ResourceError, match=r"SK301\] cluster: one run lost its worker 4 times, most likely for lack of memory \(last: OutOfMemoryError\)"):
            list(place.results(squared, SQUARES))
    assert len(ray.cancelled) == 4
    assert ray.stopped == 1


def test_what_a_task_raises_comes_through_as_it_was(ray):
    with workers(Where.parse("ray"), say=silent) as place, pytest.raises(UsageError, match=r"SK102\] value: 4 is refused\nfix: give another") as error:
        list(place.results(refused, SQUARES))
    assert type(error.value) is UsageError
    assert len(ray.cancelled) == 4


def test_what_ray_itself_fails_of_is_said(ray):
    with workers(Where.parse("ray"), say=silent) as place:
        ray.losses = [ray.exceptions.RaySystemError("raylet is gone\nmore")]
        with pytest.raises(ResourceError, match=r"SK304\] cluster: Ray failed: raylet is gone\nfix: see Ray's logs; the same command goes on"):
            list(place.results(squared, SQUARES))


def test_an_interruption_cancels_what_is_on_its_way(ray):
    def interrupted():
        with workers(Where.parse("ray"), say=silent) as place:
            for _ in place.results(squared, SQUARES):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(ray.cancelled) == 4
    assert ray.stopped == 1


class Terminated(Exception):
    """What a handler of SIGTERM raises."""


def test_a_signal_that_arrives_inside_ray_is_what_it_was(ray):
    ray.interrupt = SystemError("<cyfunction CoreWorker.wait> returned a result with an exception set")
    with pytest.raises(SystemError), workers(Where.parse("ray"), say=silent) as place:
        list(place.results(squared, SQUARES))
    ray.interrupt.__cause__ = Terminated()
    with pytest.raises(Terminated), workers(Where.parse("ray"), say=silent) as place:
        list(place.results(squared, SQUARES))
    assert len(ray.cancelled) == 10


def test_accelerators_are_counted(monkeypatch):
    ray = fake_ray.install(monkeypatch, {"big": {"CPU": 16.0, "GPU": 4.0}, "plain": {"CPU": 64.0}})
    lines = []
    with workers(Where.parse("ray"), cpus=2, gpus=1, say=lines.append) as place:
        place.require(nothing_missing)
        assert [result for _, (result, _) in place.results(squared, [(3,)])] == [9]
    assert lines == ["Ray 0.0-fake: 1 machine with room for 4 runs at a time (2 CPU cores and 1 GPU each)"]
    assert ray.started[0] == ("id-big", "_checked")
    assert [one for one in ray.started if one[1] == "_checked"] == [("id-big", "_checked")]  # plain gets no work
    assert ray.options[-1]["num_gpus"] == 1


def test_a_task_of_a_cluster_sees_the_gpu_that_it_was_given(monkeypatch):
    fake_ray.install(monkeypatch, {"big": {"CPU": 16.0, "GPU": 4.0}})
    for gpus, devices, expected in ((1, ["cuda:0", "cuda:1"], "cuda"), (1, [], "cuda"), (0, ["cpu"], "cpu"), (0, ["cuda:1"], "cuda")):
        with workers(Where.parse("ray"), gpus=gpus, devices=devices, say=silent) as place:
            assert place.jobs == (4 if gpus else 16)
            assert [result[0] for _, result in place.results(at_a_device, [(DEVICE, 0, 0.0)])] == [expected]
            assert [result is LATER for _, result in place.results(somebody_elses, [(1,)])] == [True]


def test_a_cluster_without_a_fitting_machine(monkeypatch):
    ray = fake_ray.install(monkeypatch, {"small": {"CPU": 2.0}})
    match = r"SK304\] cluster: no machine of the cluster has 1 CPU core and 1 GPU, which one run needs \(small has 2 CPU and 0 GPU\)"
    with pytest.raises(ResourceError, match=match), workers(Where.parse("ray"), cpus=1, gpus=1, say=silent):
        pass
    assert ray.stopped == 1


def test_every_machine_is_checked_also_one_that_joins_later(ray):
    with workers(Where.parse("ray"), say=silent) as place:
        with pytest.raises(ResourceError) as error:
            place.require(missing)
        assert [problem.where for problem in error.value.problems] == ["alpha: /store", "beta: /store"]
        assert {problem.fix for problem in error.value.problems} == {"mount it"}
        assert [result for _, (result, _) in place.results(squared, [(3,)])] == [9]  # alpha was asked already
        ray.joined = "gamma"
        with pytest.raises(ResourceError, match=r"SK301\] .*: /store: is not there"):
            list(place.results(squared, SQUARES))


def cannot_import():
    raise ModuleNotFoundError("No module named 'simkit'")


def test_a_machine_without_simkit(ray):
    match = r"SK304\] alpha: work cannot start on this machine: No module named 'simkit'\nfix: install simkit there"
    with workers(Where.parse("ray"), say=silent) as place, pytest.raises(ResourceError, match=match):
        place.require(cannot_import)


# --- connecting -------------------------------------------------------------------------------------------------------------------------


def test_a_ray_of_its_own_reports_to_nobody(ray, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # names a cluster, which was not asked for
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    with workers(Where.parse("ray"), say=silent):
        assert ray.initialised["address"] == "local"
        assert ray.initialised["include_dashboard"] is False
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")


def test_the_users_connection_is_used_and_left_alone(ray):
    ray.init(address="mine")
    lines = []
    with workers(Where.parse("ray:auto"), say=lines.append) as place:
        assert len(list(place.results(squared, SQUARES))) == 5
    assert lines[0] == "Ray 0.0-fake: this process is connected already, to 10.0.0.1:6379; that cluster is used"
    assert ray.stopped == 0


def test_a_cluster_that_is_not_there(ray):
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    where = Where.parse(f"ray:127.0.0.1:{port}")
    match = rf"SK304\] cluster 127.0.0.1:{port}: cannot connect to the cluster: .*refused(.|\n)*fix: start one with `ray start --head`"
    with pytest.raises(ResourceError, match=match), workers(where, say=silent):
        pass
    assert ray.initialised is None
    ray.refuse = ConnectionError("Could not find any running Ray instance. Please\nmore")
    match = r"SK304\] cluster auto: cannot connect to the cluster: Could not find any running Ray instance. Please\nfix"
    with pytest.raises(ResourceError, match=match), workers(Where.parse("ray:auto"), say=silent):
        pass
    ray.refuse = RuntimeError("Version mismatch: The cluster was started with:")
    match = r"SK304\] cluster local: cannot start Ray on this machine: Version mismatch"
    with pytest.raises(ResourceError, match=match), workers(Where.parse("ray"), say=silent):
        pass


def test_the_environment_may_name_the_cluster(ray, monkeypatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        with workers(Where.parse("ray:auto"), say=silent):
            assert ray.initialised["address"] == os.environ["RAY_ADDRESS"]


def test_the_handler_of_sigterm_stays(ray, monkeypatch):
    assert threading.current_thread() is threading.main_thread()
    monkeypatch.setattr(ray, "init", lambda **options: signal.signal(signal.SIGTERM, lambda *_: None))
    before = signal.getsignal(signal.SIGTERM)
    with workers(Where.parse("ray"), say=silent):
        assert signal.getsignal(signal.SIGTERM) == before


# --- a transfer study on a cluster ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The small study in this process."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, study(folder)


def test_a_study_on_a_cluster_gives_the_same_bits(whole, tmp_path, ray):
    folder, expected = whole
    lines = []
    ray.losses = [ray.exceptions.WorkerCrashedError()]
    result = study(tmp_path, cluster="ray", progress=lines.append)
    assert records(tmp_path) == records(folder)
    assert records(tmp_path, "pretrain") == records(folder, "pretrain")
    assert result.table.untimed.records == expected.table.untimed.records
    assert (result.made, result.found) == (5, 0)
    assert ray.puts == 2  # two data sets
    assert ray.options[-1] == {"num_cpus": PROTOCOL.threads, "num_gpus": 0, "max_retries": 0}
    assert lines[0].startswith("Ray 0.0-fake: 2 machines")
    assert lines[1].startswith("a worker was lost")
    assert "[5 of 5" in lines[-1]


def test_no_cluster_is_started_for_nothing(whole, ray):
    again = study(whole[0], cluster="ray")
    assert (again.made, again.found, again.table.untimed.records) == (0, 4, whole[1].table.untimed.records)
    assert ray.stopped == 0


class Elsewhere(FolderResults):
    """A store on a disk of each machine's own: there, the folder of the same name is another one."""

    def __reduce__(self):
        return Elsewhere, (self.folder / "own",)


def test_a_store_that_the_machines_do_not_see(tmp_path, ray):
    match = r"SK301\] alpha: .*finetune: this machine does not see the store(.|\n)*fix: every machine stores its results itself: give --store DIR"
    with pytest.raises(ResourceError, match=match) as error:
        study(tmp_path, cluster="ray", results=Elsewhere(tmp_path), target=drawn("target", 12))
    assert len(error.value.problems) == 2
    assert records(tmp_path) == {}  # nothing of the check is left
    assert ray.stopped == 1


def test_versions_and_weights_must_be_the_same(tmp_path, ray, monkeypatch):
    from safetensors.torch import save_file

    from simkit.transfer.networks import build_network

    network, _ = build_network("shufflenet_v2_x0_5", 2, dropout=0.0, image_size=32)
    save_file(network.state_dict(), tmp_path / "birds.safetensors")
    protocol = replace(PROTOCOL, sources=(), weights={"birds": str(tmp_path / "birds.safetensors")})
    plan = plan_units(protocol, {"target": drawn("target", 12)}, [], ["target"], 1, FolderResults(tmp_path))
    own, asked = nodes._versions(), []
    monkeypatch.setattr(nodes, "_versions", lambda: asked.append(1) or {**own, "torch": "0.4" if len(asked) > 1 else own["torch"]})
    (tmp_path / "birds.safetensors").write_bytes(b"other")
    with pytest.raises(ResourceError) as error:
        run_units(plan, cluster="ray")
    text = str(error.value)
    assert f"[SK301] alpha: {tmp_path / 'birds.safetensors'}: this machine does not have the weights file, or has another one of that name" in text
    assert f"[SK304] beta: versions: this machine has torch 0.4 instead of {own['torch']}: numbers could differ" in text
    assert len(error.value.problems) == 4


def test_the_machines_get_the_device_that_was_decided_here(tmp_path, ray, monkeypatch):
    from simkit.transfer import runner

    seen = []
    monkeypatch.setattr(runner, "workers", lambda where, **options: seen.append(options) or workers(where, **{**options, "gpus": 0}))
    plan = plan_units(PROTOCOL, {"target": drawn("target", 12)}, [], ["target"], 1, FolderResults(tmp_path))
    plan = replace(plan, devices=("cuda:1",))
    with runner._Grid(plan, Where.parse("ray"), silent, None).workers(2) as (_, device):
        assert device == "cuda"  # each task sees the one GPU that it was given
    assert (seen[0]["cpus"], seen[0]["gpus"]) == (1, 1)


def test_a_store_is_the_same_folder_in_another_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(Store("results"))
    monkeypatch.chdir("/")
    assert pickle.loads(sent).root == tmp_path / "results"


def test_a_finished_run_is_kept_when_a_study_on_a_cluster_is_interrupted(whole, tmp_path, ray):
    def stop(line):
        if "AUC" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, cluster="ray", progress=stop)
    assert len(ray.cancelled) == 2  # of the pretraining and the two runs from scratch that do not wait for it
    assert len(records(tmp_path)) == 1
    assert study(tmp_path).table.untimed.records == whole[1].table.untimed.records


STUDY = """
study = "tiny"
sources = ["digits"]
targets = ["textures"]
extractor = "pixels"
methods = ["size"]
repeats = 0

[datasets.digits]
samples = {set = "digits", maximum = 20}
[datasets.textures]
samples = {set = "textures", maximum = 12, size = 32}

[finetune]
network = "shufflenet_v2_x0_5"
image_size = 32
folds = 2
pretrain_epochs = 1
finetune_epochs = 1
device = "cpu"
"""


@pytest.mark.parametrize("command", [finetune, run])
def test_the_command_line_refuses_what_is_no_place(command, tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    result = CliRunner().invoke(command, [str(path), "--cluster", "dask"])
    assert isinstance(result.exception, UsageError)
    assert "'dask' is not a place where work can run" in str(result.exception)
    assert "ray[:ADDRESS]" in CliRunner().invoke(command, ["--help"]).output


def test_the_commands_run_on_a_cluster(tmp_path, ray):
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    result = CliRunner().invoke(finetune, [str(path), "--cluster", "ray"], catch_exceptions=False)
    assert "trained 3 networks (0 found in the store)" in result.output
    assert len([one for one in ray.started if one[1] == "_on_cluster"]) == 3
    path.write_text(STUDY.replace("pretrain_epochs = 1", "pretrain_epochs = 2"))
    result = CliRunner().invoke(run, [str(path), "--cluster", "ray"], catch_exceptions=False)
    assert "trained 3 networks (0 found)" in result.output
    assert len([one for one in ray.started if one[1] == "_on_cluster"]) == 6


# --- Ray itself -------------------------------------------------------------------------------------------------------------------------

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the package ray is not installed (285 MB, so not part of the extra 'test')")


@pytest.fixture
def real_ray(monkeypatch):
    """Workers of a Ray that is started here find the modules of the tests."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))


@needs_ray
@pytest.mark.slow
def test_ray_itself_starts_the_task_of_a_killed_worker_again(real_ray, tmp_path):
    lines = []
    with workers(Where.parse("ray"), say=lines.append) as place:
        found = dict(place.results(killed_once, [(str(tmp_path), value) for value in range(5)]))
    assert {index: value for index, (value, _) in found.items()} == {i: i * i for i in range(5)}
    assert os.getpid() not in {process for _, process in found.values()}
    assert [line for line in lines if "lost" in line] == [
        "a worker was lost (WorkerCrashedError): its run is started again and goes on from its last epoch (1 so far)"]


class KillsOnce(FolderResults):
    """Its process is killed once, when the first run is trained and not yet stored."""

    def save_json(self, kind, key, value):
        mark = self.folder / "killed"
        if kind == Finetune.kind and "probabilities" in value and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        super().save_json(kind, key, value)


@needs_ray
@pytest.mark.slow
def test_ray_itself_gives_the_same_bits_also_when_a_worker_is_killed(real_ray, whole, tmp_path):
    folder, expected = whole
    lines = []
    result = study(tmp_path, cluster="ray", results=KillsOnce(tmp_path), progress=lines.append)
    assert (tmp_path / "killed").exists()
    assert sum("a worker was lost" in line for line in lines) == 1
    assert records(tmp_path) == records(folder)
    assert result.table.untimed.records == expected.table.untimed.records
    (ours,), (theirs,) = (list((where / "pretrain").glob("*.safetensors")) for where in (tmp_path, folder))
    assert ours.read_bytes() == theirs.read_bytes()


@needs_ray
@pytest.mark.slow
def test_ray_itself_brings_errors_back(real_ray):
    with workers(Where.parse("ray"), say=silent) as place, pytest.raises(UsageError, match="is refused") as error:
        list(place.results(refused, SQUARES))
    assert type(error.value) is UsageError
