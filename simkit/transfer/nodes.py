"""What another machine must have before it gets work: this store, the weights files, the same versions."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import metadata

import simkit
from simkit.errors import Problem, SimkitError
from simkit.files import resource_errors
from simkit.recipe import digest_file
from simkit.transfer.base import Finetune, Results
from simkit.transfer.plan import TransferPlan

__all__ = ["node_check"]

PACKAGES = ("numpy", "torch", "torchvision")
"""Packages whose version moves a number."""


@contextmanager
def node_check(plan: TransferPlan) -> Iterator[Callable[[], Sequence[Problem]]]:
    """A check that another machine runs on itself, which returns what is missing there. It holds while the context is open.

    A record is written where the results will lie, to be read there: a folder of the same name on that machine's own disk is not the store.
    """
    key = secrets.token_hex(32)
    starts = [plan.origins[run.key].start for run in plan.todo]
    weights = {os.path.abspath(start.path): start.identity.partition(":")[2] for start in starts if start.path}
    plan.results.save_json(Finetune.kind, key, {"probe": key})
    try:
        yield partial(_missing, plan.results, key, weights, _versions())
    finally:
        path = plan.results.path(Finetune.kind, key, ".json")
        with resource_errors(path, "remove"):
            path.unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    return {"simkit": simkit.__version__, **{name: metadata.version(name) for name in PACKAGES}}


def _missing(results: Results, key: str, weights: Mapping[str, str], versions: Mapping[str, str]) -> list[Problem]:
    """Runs on the other machine."""
    problems = []
    if not _readable(results, key):
        message = "this machine does not see the store: what was just written there cannot be read here"
        fix = "every machine stores its results itself: give --store DIR (or SIMKIT_STORE) on a file system that all of them see under the same path"
        problems.append(Problem("SK301", str(results.path(Finetune.kind, key, ".json").parent), message, fix))
    for path, digest in weights.items():
        if not os.path.isfile(path) or digest_file(path) != digest:
            message = "this machine does not have the weights file, or has another one of that name"
            problems.append(Problem("SK301", path, message, "put it on a file system that all machines see under the same path"))
    here = _versions()
    other = [f"{name} {here[name]} instead of {version}" for name, version in versions.items() if here[name] != version]
    if other:
        problems.append(Problem("SK304", "versions", f"this machine has {', '.join(other)}: numbers could differ", "install the same versions everywhere"))
    return problems


def _readable(results: Results, key: str) -> bool:
    try:
        return results.load_json(Finetune.kind, key) == {"probe": key}
    except (SimkitError, OSError):
        return False
