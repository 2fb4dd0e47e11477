"""Work on a Ray cluster."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from simkit.errors import Problem, ResourceError
from simkit.execution.places import POLL_SECONDS, RETRIES, Check, Say, Task, with_device

__all__ = ["LOCAL", "RUNNING", "Cluster", "connect", "import_ray"]

CONNECT_SECONDS, CANCEL_SECONDS = 10.0, 5.0
LOCAL, RUNNING = "local", "auto"


def _on_cluster(task: Task, check: Check, checked: frozenset[str], *arguments: Any) -> Any:
    """Runs on a machine of the cluster: the task, on a machine that joined after the others were checked only if it passes too."""
    context = import_ray().get_runtime_context()
    problems = () if context.get_node_id() in checked else check()
    if problems:
        raise ResourceError("", "", "", problems=[replace(one, where=f"{socket.gethostname()}: {one.where}") for one in problems])
    return task(None, *arguments)


def _checked(check: Check) -> Sequence[Problem]:
    return check()


def _no_problems() -> Sequence[Problem]:
    return ()


def import_ray() -> Any:
    """The package ray.

    Raises:
        ResourceError: SK303 when it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ResourceError("SK303", "cluster", f"the package ray is needed to run on a cluster ({error})", "pip install 'simkit[ray]'") from error


def connect(ray: Any, address: str) -> None:
    """Connects to a cluster, or starts one of this machine's cores and accelerators.

    Raises:
        ResourceError: SK304 when there is none, or it does not take this process (another version of Ray or Python, another network).
    """
    import logging

    place = os.environ.get("RAY_ADDRESS", RUNNING) if address == RUNNING else address
    host, _, port = place.rpartition(":")
    known: dict[str, Any] = {"address": place}
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a Ray that simkit starts reports nothing to anybody
        known["include_dashboard"] = False
    before = signal.getsignal(signal.SIGTERM)
    try:
        if host and port.isdigit():  # ray.init would wait for minutes for a cluster that is not there
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
        ray.init(**known, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:  # ConnectionError is an OSError
        message = f"cannot {'start Ray on this machine' if address == LOCAL else 'connect to the cluster'}: {_first_line(error)}"
        fix = "start one with `ray start --head` on its first machine and `ray start --address=HOST:PORT` on the others, from the same environment"
        raise ResourceError("SK304", f"cluster {place}", message, "see the message" if address == LOCAL else fix) from error
    finally:
        # Ray puts its own handler there, which would end simkit without its message
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class Cluster:
    """A Ray cluster. A task whose worker was lost is started again, here rather than by Ray, so that it is counted and said."""

    def __init__(self, ray: Any, cpus: int, gpus: int, devices: Sequence[str], say: Say):
        self._ray, self._say = ray, say
        self._device = "cuda" if gpus else next((one.partition(":")[0] for one in devices), None)
        self._options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0}
        self._pending: dict[Any, tuple[int, int]] = {}  # task on its way -> position, how often its worker was lost
        self._check: Check = _no_problems
        self._lost = 0
        alive = [node for node in ray.nodes() if node["Alive"]]
        self._nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in alive if _room(node, cpus, gpus)}
        self.jobs = room = sum(_room(node, cpus, gpus) for node in alive)
        needs = f"{cpus} CPU core{'s' if cpus > 1 else ''}" + (f" and {gpus} GPU" if gpus else "")
        if not room:
            largest = ", ".join(f"{node['NodeManagerHostname']} has {_amount(node, 'CPU')} CPU and {_amount(node, 'GPU')} GPU" for node in alive[:5])
            message = f"no machine of the cluster has {needs}, which one run needs ({largest or 'no machine is alive'})"
            raise ResourceError("SK304", "cluster", message, "add such a machine, lower finetune.threads, or give another device")
        say(f"Ray {ray.__version__}: {len(self._nodes)} machine{'s' if len(self._nodes) > 1 else ''} with room for {room} runs at a time ({needs} each)")

    def share(self, value: Any) -> Any:
        return self._ray.put(value)

    def require(self, check: Check) -> None:
        self._check = check
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        remote = self._ray.remote(num_cpus=0, max_retries=RETRIES)(_checked)
        asked = [
            (host, remote.options(scheduling_strategy=strategies.NodeAffinitySchedulingStrategy(node, soft=False)).remote(check))
            for node, host in self._nodes.items()
        ]
        problems: list[Problem] = []
        for host, answer in asked:
            try:
                problems += [replace(problem, where=f"{host}: {problem.where}") for problem in self._ray.get(answer)]
            except self._ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error
                fix = "install simkit there, in the same version as here, and start Ray from that environment"
                problems.append(Problem("SK304", host, f"work cannot start on this machine: {_first_line(cause)}", fix))
        if problems:
            raise ResourceError("", "", "", problems=problems)

    def results(self, task: Task, arguments: Iterable[Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        ray, errors = self._ray, self._ray.exceptions
        remote, machines = ray.remote(**self._options)(_on_cluster), frozenset(self._nodes)
        calls = [(task, self._check, machines, *with_device(one, self._device)) for one in arguments]
        self._pending = {remote.remote(*call): (index, 0) for index, call in enumerate(calls)}
        try:
            while self._pending:
                ready = self._next()
                index, lost = self._pending.pop(ready)
                try:
                    result = ray.get(ready)
                except (errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError, errors.OutOfMemoryError) as error:
                    self._count(error, lost)
                    self._pending[remote.remote(*calls[index])] = (index, lost + 1)
                    continue
                yield index, result
        except errors.RayTaskError as error:
            raise error.cause from error
        except errors.RayError as error:
            message = f"Ray failed: {_first_line(error)}"
            raise ResourceError("SK304", "cluster", message, "see Ray's logs; the same command goes on: finished runs are kept") from error
        finally:
            self.cancel()

    def _next(self) -> Any:
        """A task that has ended. Waiting is done here and not by Ray, so that Ctrl-C and SIGTERM arrive in Python code."""
        while True:
            ended, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=0, fetch_local=False)
            if ended:
                return ended[0]
            time.sleep(POLL_SECONDS)

    def _count(self, error: Exception, lost: int) -> None:
        """Says that a worker was lost.

        Raises:
            ResourceError: SK301 when it was so once too often for this task.
        """
        kind = type(error).__name__
        if lost == RETRIES:
            message = f"one run lost its worker {lost + 1} times, most likely for lack of memory (last: {kind})"
            fix = "let fewer runs share a machine (a smaller --num-cpus for `ray start`), or add memory; finished runs are kept"
            raise ResourceError("SK301", "cluster", message, fix) from error
        self._lost += 1
        self._say(f"a worker was lost ({kind}): its run is started again and goes on from its last epoch ({self._lost} so far)")

    def cancel(self) -> None:
        """Stops what is on its way; a task that is at work is killed. Returns when they are, since Ray must not be left in between."""
        tasks, self._pending = list(self._pending), {}
        for task in tasks:
            self._ray.cancel(task, force=True)
        if tasks:
            self._ray.wait(tasks, num_returns=len(tasks), timeout=CANCEL_SECONDS, fetch_local=False)


def _amount(node: dict[str, Any], resource: str) -> int:
    return int(node["Resources"].get(resource, 0))


def _room(node: dict[str, Any], cpus: int, gpus: int) -> int:
    """How many tasks fit on a machine at a time."""
    return min(_amount(node, "CPU") // cpus, _amount(node, "GPU") // gpus if gpus else _amount(node, "CPU"))
