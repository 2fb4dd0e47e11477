"""Where work runs: in this process, in processes of this machine, or on a Ray cluster.

    where = Where.parse("ray:auto", jobs=0)
    with workers(where, cpus=1, gpus=0, say=print) as place:
        images = place.share(images)                      # handed over once, not once a task
        for index, result in place.results(task, arguments):
            ...

``task(live, *arguments)`` is a function of a module, its arguments and its result can be pickled. ``live`` receives lines of progress when the
task runs in this process and is None elsewhere. A task must come to the same result wherever, whenever and however often it is started, and
must store what it finished itself: an interruption then loses nothing that is finished, and a lost worker costs only the task it was at.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from simkit.errors import Problem, ResourceError, UsageError

__all__ = ["RETRIES", "Where", "Workers", "workers"]

RETRIES = 3
"""How often a task is started again whose worker was lost."""

CONNECT_SECONDS, POLL_SECONDS, CANCEL_SECONDS = 10.0, 0.1, 5.0
LOCAL, RUNNING = "local", "auto"
Anything = TypeVar("Anything")
Task = Callable[..., Any]
Say = Callable[[str], None]
Check = Callable[[], Sequence[Problem]]


@dataclass(frozen=True)
class Where:
    """Where work runs.

    Attributes:
        jobs: processes on this machine; 1: this process; 0: as many as fit (whoever starts the work counts them). At most 1 with a cluster,
            whose resources decide how many tasks run at a time.
        address: None for this machine; "local" for a Ray that is started here and stopped afterwards; "auto" for the cluster that this
            machine is part of (or that RAY_ADDRESS names); else "host:port" of a running cluster.
    """

    jobs: int = 1
    address: str | None = None

    @classmethod
    def parse(cls, cluster: str | None, *, jobs: int = 1) -> Where:
        """From what a user writes: None or ``here``, ``ray``, ``ray:auto``, ``ray:HOST:PORT``. Nothing is started.

        Raises:
            UsageError: SK102 for other text, negative ``jobs``, or several jobs with a cluster.
            ResourceError: SK303 when the package ray is not installed.
        """
        if jobs < 0:
            raise UsageError("SK102", "jobs", f"{jobs} processes", "give a number >= 1, or 0 for one per CPU core")
        if cluster in (None, "here"):
            return cls(jobs)
        kind, colon, address = str(cluster).partition(":")
        fix = "give ray (a Ray of its own on this machine), ray:auto (the cluster that runs here) or ray:HOST:PORT"
        if address.startswith("//"):
            message = f"'{cluster}' is an address of Ray Client, over which every data set would travel"
            raise UsageError("SK102", "cluster", message, "start simkit on a machine of the cluster, with --cluster ray:auto")
        if kind != "ray" or (colon and not re.fullmatch(r"auto|([^\s:/\[\]]+|\[[0-9a-fA-F:]+\]):\d{1,5}", address)):
            raise UsageError("SK102", "cluster", f"'{cluster}' is not a place where work can run", fix)
        if jobs > 1:
            message = f"{jobs} jobs were asked for, which count processes of this machine; a cluster runs as many as it has room for"
            raise UsageError("SK102", "jobs", message, "leave --jobs out, or run without --cluster")
        _ray()
        return cls(jobs, address or LOCAL)


class Workers(Protocol):
    """What carries tasks out."""

    def share(self, value: Anything) -> Anything:
        """A stand-in to pass to any number of tasks, which receive the value itself; handed over once."""
        ...

    def require(self, check: Check) -> None:
        """Runs a check on each machine that gets work, other than this one: now, and on a machine that joins later before each of its tasks.

        Raises:
            ResourceError: with all problems found, each with the machine's name.
        """
        ...

    def results(self, task: Task, arguments: Iterable[Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        """``(position, task(live, *arguments))`` of each, as they come.

        Raises:
            ResourceError: SK301 when a worker process was killed (on a cluster: again and again). What a task raises comes through.
        """
        ...


@contextmanager
def workers(where: Where, *, cpus: int = 1, gpus: int = 0, say: Say) -> Iterator[Workers]:
    """Starts (or connects to) what carries tasks out. Outstanding tasks are cancelled at the end, also when it comes by an error or Ctrl-C.

    Args:
        where: from :meth:`Where.parse`.
        cpus: CPU cores that one task keeps busy; counted by a cluster only.
        gpus: accelerators that one task needs for itself; counted by a cluster only.
        say: receives what a user should know, and the progress of tasks of this process.

    Raises:
        ResourceError: SK303 package missing, SK304 cluster not reachable or without a machine for such a task.
    """
    if where.address is None:
        yield _Here(say) if where.jobs == 1 else _Processes(where.jobs)
        return
    ray, own = _ray(), False
    if ray.is_initialized():  # by the notebook or program that simkit is used from: it stays as it is
        say(f"Ray {ray.__version__}: this process is connected already, to {ray.get_runtime_context().gcs_address}; that cluster is used")
    else:
        _connect(ray, where.address)
        own = True
    try:
        cluster = _Cluster(ray, cpus, gpus, say)
        try:
            yield cluster
        except SystemError as error:
            if error.__cause__ is None:
                raise
            raise error.__cause__ from None  # what a signal handler raised while Ray's compiled code was at work
        finally:
            cluster.cancel()
    finally:
        if own:
            ray.shutdown()


class _Here:
    """One task after the other, in this process."""

    def __init__(self, say: Say):
        self._say = say

    def share(self, value: Anything) -> Anything:
        return value

    def require(self, check: Check) -> None:
        """This machine was checked by whoever made the plan."""

    def results(self, task: Task, arguments: Iterable[Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        for index, one in enumerate(arguments):
            yield index, task(self._say, *one)


class _Processes:
    """joblib's processes, which share arrays by a memory map."""

    def __init__(self, jobs: int):
        self._jobs = jobs

    def share(self, value: Anything) -> Anything:
        return value

    def require(self, check: Check) -> None:
        """This machine was checked by whoever made the plan."""

    def results(self, task: Task, arguments: Iterable[Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        try:
            parallel = Parallel(n_jobs=self._jobs, return_as="generator_unordered", batch_size=1)
            yield from parallel(delayed(_numbered)(index, task, *one) for index, one in enumerate(arguments))
        except TerminatedWorkerError as error:
            message = "a worker process was killed, most likely for lack of memory"
            raise ResourceError("SK301", "finetune", message, "run fewer jobs at once, or lower image_size; finished runs are kept") from error


def _numbered(index: int, task: Task, *arguments: Any) -> tuple[int, Any]:
    return index, task(None, *arguments)


def _on_cluster(task: Task, check: Check, checked: frozenset[str], *arguments: Any) -> Any:
    """Runs on a machine of the cluster: the task, on a machine that joined after the others were checked only if it passes too."""
    context = _ray().get_runtime_context()
    problems = () if context.get_node_id() in checked else check()
    if problems:
        raise ResourceError("", "", "", problems=[replace(one, where=f"{socket.gethostname()}: {one.where}") for one in problems])
    return task(None, *arguments)


def _checked(check: Check) -> Sequence[Problem]:
    return check()


def _no_problems() -> Sequence[Problem]:
    return ()


def _ray() -> Any:
    """The package ray.

    Raises:
        ResourceError: SK303 when it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ResourceError("SK303", "cluster", f"the package ray is needed to run on a cluster ({error})", "pip install 'simkit[ray]'") from error


def _connect(ray: Any, address: str) -> None:
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


class _Cluster:
    """A Ray cluster. A task whose worker was lost is started again, here rather than by Ray, so that it is counted and said."""

    def __init__(self, ray: Any, cpus: int, gpus: int, say: Say):
        self._ray, self._say = ray, say
        self._options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0}
        self._pending: dict[Any, tuple[int, int]] = {}  # task on its way -> position, how often its worker was lost
        self._check: Check = _no_problems
        self._lost = 0
        alive = [node for node in ray.nodes() if node["Alive"]]
        self._nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in alive if _room(node, cpus, gpus)}
        room = sum(_room(node, cpus, gpus) for node in alive)
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
        calls = [(task, self._check, machines, *one) for one in arguments]
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
