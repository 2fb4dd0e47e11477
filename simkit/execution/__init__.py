"""Where work runs: in this process, in processes of this machine, or on a Ray cluster.

    where = Where.parse("ray:auto", jobs=0)
    with workers(where, cpus=1, gpus=0, say=print) as place:
        images = place.share(images)                      # handed over once, not once a task
        for index, result in place.results(task, arguments):
            ...

``task(live, *arguments)`` is a function of a module, its arguments and its result can be pickled. ``live`` receives lines of progress when the
task runs in this process and is None elsewhere. A task must come to the same result wherever, whenever and however often it is started, and
must store what it finished itself: an interruption then loses nothing that is finished, and a lost worker costs only the task it was at.

An argument that is DEVICE is replaced by the name of the device that the task has; a result that is LATER says that somebody else is at it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from simkit.errors import UsageError
from simkit.execution.cluster import LOCAL, Cluster, connect, import_ray
from simkit.execution.local import Here, Processes, Slots, device_folder
from simkit.execution.places import DEVICE, LATER, RETRIES, Say, Workers, duration

__all__ = ["DEVICE", "LATER", "RETRIES", "Where", "Workers", "duration", "workers"]


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
        import_ray()
        return cls(jobs, address or LOCAL)


@contextmanager
def workers(where: Where, *, cpus: int = 1, gpus: int = 0, devices: Sequence[str] = (), say: Say) -> Iterator[Workers]:
    """Starts (or connects to) what carries tasks out. Outstanding tasks are cancelled at the end, also when it comes by an error or Ctrl-C.

    Args:
        where: from :meth:`Where.parse`. With 0 jobs: one per device.
        cpus: CPU cores that one task keeps busy; counted by a cluster only.
        gpus: accelerators that one task needs for itself; counted by a cluster only.
        devices: names of this machine's devices, of which each task gets one in the place of DEVICE. Two tasks are at one device at a time only
            when there are more jobs than devices. In this process it is the first; on a cluster "cuda" for a task with a GPU, as it sees
            that one only, else the first without its number.
        say: receives what a user should know, and the progress of tasks of this process.

    Raises:
        ResourceError: SK301 no space for the files by which processes share devices, SK303 package missing, SK304 cluster not reachable or
            without a machine for such a task.
    """
    if where.address is None:
        jobs = where.jobs or len(devices)
        if jobs == 1:
            yield Here(devices, say)
            return
        with device_folder() as folder:
            yield Processes(jobs, Slots(folder, jobs, tuple(devices)), say)
        return
    ray, own = import_ray(), False
    if ray.is_initialized():  # by the notebook or program that simkit is used from: it stays as it is
        say(f"Ray {ray.__version__}: this process is connected already, to {ray.get_runtime_context().gcs_address}; that cluster is used")
    else:
        connect(ray, where.address)
        own = True
    try:
        cluster = Cluster(ray, cpus, gpus, devices, say)
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
