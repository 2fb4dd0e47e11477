"""A stand-in for the package ray, with the part of its behaviour that simkit builds on.

Values, functions and results cross a border by pickle, as between machines; tasks run when they are waited for, the newest first; each runs
on one of the nodes, by affinity or in turn; lost workers and cancellations follow a script.
"""

from __future__ import annotations

import pickle
import sys
import types
from typing import Any

import pytest


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception):
        super().__init__(str(cause))
        self.cause = cause


def _error(name: str) -> type[RayError]:
    return type(name, (RayError,), {})


class Reference:
    """What ``put`` and ``remote`` return."""

    def __init__(self, content: bytes | None = None, call: tuple[Any, ...] | None = None):
        self.content, self.call, self.error = content, call, None


class FakeRay(types.ModuleType):
    """The module.

    Attributes:
        machines: host name -> resources.
        losses: errors that the next tasks end with instead of running.
        puts, started, cancelled, options: what was asked for.
        refuse, interrupt: errors that ``init`` and ``wait`` raise.
        joined: a machine that ``nodes`` does not know yet and that runs every task that is bound to none.
    """

    __version__ = "0.0-fake"

    def __init__(self, machines: dict[str, dict[str, float]]):
        super().__init__("ray")
        self.machines, self.losses, self.joined = machines, [], ""
        self.puts, self.started, self.cancelled, self.options = 0, [], [], []
        self.initialised: dict[str, Any] | None = None
        self.stopped = 0
        self.refuse: Exception | None = None
        self.interrupt: Exception | None = None
        self.asked = 0
        self.node = ""
        names = ("WorkerCrashedError", "NodeDiedError", "ObjectLostError", "OutOfMemoryError", "RaySystemError")
        self.exceptions = types.SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError, **{name: _error(name) for name in names})
        self.strategies = types.ModuleType("ray.util.scheduling_strategies")
        self.strategies.NodeAffinitySchedulingStrategy = lambda node, soft: node

    def init(self, **options: Any) -> None:
        if self.refuse is not None:
            raise self.refuse
        assert self.initialised is None
        self.initialised = options

    def is_initialized(self) -> bool:
        return self.initialised is not None

    def shutdown(self) -> None:
        self.initialised = None
        self.stopped += 1

    def nodes(self) -> list[dict[str, Any]]:
        dead = [{"NodeID": "id-dead", "NodeManagerHostname": "dead", "Alive": False, "Resources": {"CPU": 64.0}}]
        return dead + [{"NodeID": f"id-{name}", "NodeManagerHostname": name, "Alive": True, "Resources": has} for name, has in self.machines.items()]

    def get_runtime_context(self) -> Any:
        return types.SimpleNamespace(gcs_address="10.0.0.1:6379", get_node_id=lambda: self.node)

    def put(self, value: Any) -> Reference:
        self.puts += 1
        return Reference(pickle.dumps(value))

    def remote(self, **options: Any) -> Any:
        self.options.append(options)
        return lambda function: _RemoteFunction(self, function, options)

    def wait(self, references: list[Reference], *, num_returns: int, timeout: float, fetch_local: bool) -> tuple[list[Reference], list[Reference]]:
        assert fetch_local is False  # with a timeout, a large result could never arrive
        if set(references) <= set(self.cancelled):
            return references, []
        assert (num_returns, timeout) == (1, 0)
        self.asked += 1
        if self.interrupt is not None:
            raise self.interrupt
        if self.asked % 2:
            return [], references  # nothing has ended yet
        self._run(references[-1])
        return [references[-1]], references[:-1]

    def get(self, reference: Reference) -> Any:
        self._run(reference)
        if reference.error is not None:
            raise reference.error
        return pickle.loads(reference.content)

    def cancel(self, reference: Reference, *, force: bool) -> None:
        assert force
        self.cancelled.append(reference)

    def _run(self, reference: Reference) -> None:
        if reference.content is not None or reference.error is not None:
            return
        options, sent = reference.call
        function, arguments = pickle.loads(sent)
        bound = options.get("scheduling_strategy")
        if bound is None and self.losses:
            reference.error = self.losses.pop(0)
            return
        self.node = bound or f"id-{self.joined or next(iter(self.machines))}"
        self.started.append((self.node, function.__name__))
        try:
            reference.content = pickle.dumps(function(*(pickle.loads(one.content) if isinstance(one, Sent) else one for one in arguments)))
        except Exception as error:
            reference.error = RayTaskError(error)


class Sent:
    """A shared value on its way: opened where the task runs."""

    def __init__(self, content: bytes):
        self.content = content


class _RemoteFunction:
    def __init__(self, ray: FakeRay, function: Any, options: dict[str, Any]):
        self._ray, self._function, self._options = ray, function, options

    def options(self, **more: Any) -> _RemoteFunction:
        return _RemoteFunction(self._ray, self._function, {**self._options, **more})

    def remote(self, *arguments: Any) -> Reference:
        sent = [Sent(one.content) if isinstance(one, Reference) else one for one in arguments]
        return Reference(call=(self._options, pickle.dumps((self._function, sent))))


def install(monkeypatch: pytest.MonkeyPatch, machines: dict[str, dict[str, float]] | None = None) -> FakeRay:
    """Makes ``import ray`` find the stand-in."""
    ray = FakeRay(machines or {"alpha": {"CPU": 2.0}, "beta": {"CPU": 4.0}})
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.util", types.ModuleType("ray.util"))
    monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", ray.strategies)
    return ray
