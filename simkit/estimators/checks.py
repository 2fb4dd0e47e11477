"""The promises of a measure, as a check that can be run: on the measures of simkit, on a plug-in, in a notebook.

    >>> check_estimator(MeanGap)           # silent, or ContractError with every broken promise

A measure is tried on small examples: a target, a data set near it and one far from it (and, for measures that are relative to the
run, two more). A measure that cannot be judged on the default examples brings its own: a classmethod ``examples(folder)`` that returns
:class:`Examples`; ``folder`` is a temporary folder for files that it needs.
"""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from simkit.embedding import Embedding
from simkit.errors import UsageError
from simkit.estimators.base import Estimator
from simkit.estimators.examples import Examples, example_cards, example_embeddings, example_seen, example_tasks
from simkit.estimators.promises import PROMISES, Broken, Trial, finite_value
from simkit.registry import ESTIMATORS, build_options

__all__ = ["PROMISES", "ContractError", "Examples", "check_estimator", "example_cards", "example_embeddings"]


class ContractError(AssertionError):
    """A measure breaks promises. ``broken`` holds (promise, what happened and how to mend it) of each."""

    def __init__(self, name: str, broken: list[tuple[str, str]]):
        self.name, self.broken = name, tuple(broken)
        count = "a promise" if len(broken) == 1 else f"{len(broken)} promises"
        super().__init__("\n".join([f"{name} breaks {count} of a measure:", *(f"- {promise}: {text}" for promise, text in broken)]))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.name, list(self.broken)))


def check_estimator(
    estimator: str | type[Estimator] | Estimator, *, options: Mapping[str, Any] | None = None, views: Mapping[str, Any] | None = None,
) -> None:
    """Runs every promise of :data:`PROMISES` on a measure; silent when all hold.

    Args:
        estimator: a name, "module:Class", a class, or an instance (whose options are then tried).
        options: options of the measure; they add to those of its own ``examples``.
        views: data sets to try it on: "target", "near", "far" (farther from the target than "near"), and any others for the run.
            Embeddings, arrays or pairs for a measure of embeddings, DatasetCards for a measure of cards.

    Raises:
        ContractError: naming each promise that is broken, the values, and how to mend it. It is an AssertionError.
        UsageError: the name is not known, an option is wrong, or ``views`` lacks one of the three.
    """
    cls: Any  # anything may be handed in: the declaration is the first thing that is checked
    if isinstance(estimator, Estimator):
        if options:
            raise UsageError("SK102", estimator.name, "options were given beside an estimator that is already built", "give them to its constructor")
        cls, name = type(estimator), estimator.name or type(estimator).__name__
    elif isinstance(estimator, str):
        cls, name = ESTIMATORS.get(estimator), estimator
    else:
        cls, name = estimator, getattr(estimator, "name", "") or getattr(estimator, "__name__", repr(estimator))
    if broken := _declaration(cls, name if isinstance(estimator, str) else None):
        raise ContractError(name, broken)
    with tempfile.TemporaryDirectory(prefix="simkit-check-") as folder:
        made = estimator if isinstance(estimator, Estimator) else None
        if made is None and options and not hasattr(cls, "examples"):  # an option may decide what the measure reads
            made = cls(**build_options(cls, options, name))
        examples = _examples(cls if made is None else made, Path(folder), views)
        built = made or cls(**build_options(cls, {**examples.options, **(options or {})}, name))
        broken = _run(built, examples, {"finite value": finite_value}) or _run(built, examples, PROMISES)
    if broken:
        raise ContractError(name, broken)


def _examples(cls: type[Estimator] | Estimator, folder: Path, views: Mapping[str, Any] | None) -> Examples:
    own: Callable[[Path], Examples] | None = getattr(cls, "examples", None)
    examples = own(folder) if own else EXAMPLES[cls.view]()
    if views is None:
        return examples
    if lacking := [role for role in ("target", "near", "far") if role not in views]:
        raise UsageError("SK104", "views", f"{', '.join(lacking)} missing", 'give views = {"target": ..., "near": ..., "far": ...}')
    given = {role: Embedding.of(view, role) if cls.view == "embedding" else view for role, view in views.items()}
    if len({view.name for view in given.values()}) < len(given):
        raise UsageError("SK105", "views", f"names repeat: {', '.join(view.name for view in given.values())}", "give each data set its own name")
    others = tuple(view for role, view in given.items() if role not in ("target", "near", "far"))
    return Examples(given["target"], given["near"], given["far"], others, examples.options)


def _run(estimator: Estimator, examples: Examples, promises: Mapping[str, Callable[[Trial], None]]) -> list[tuple[str, str]]:
    """Every promise on data of its own, so that a measure that writes into its input spoils neither the next promise nor the caller's."""
    broken = []
    for promise, check in promises.items():
        try:
            check(Trial(estimator, copy.deepcopy(examples)))
        except Broken as error:
            broken.append((promise, str(error)))
        except Exception as error:  # a plug-in may fail in any way: the message says in which, the other promises are still tried
            first = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
            broken.append((promise, f"{type(error).__name__} was raised: {first}"))
    return broken


EXAMPLES: dict[str, Callable[[], Examples]] = {
    "embedding": example_embeddings, "card": example_cards, "network": example_seen, "task": example_tasks,
}

CONTRACT = (
    "name", "kind", "symmetric", "higher_is_better", "view", "needs", "needs_of_source", "bounds", "pool_relative", "reads_class_names", "unit", "citation",
    "version",
)
NEED = r"labels|tags|attributes(\.\w+)?"


def _declaration(cls: Any, name: str | None) -> list[tuple[str, str]]:
    """The frozen dataclass, and every attribute of the contract, before anything is computed."""
    if not (isinstance(cls, type) and issubclass(cls, Estimator)):
        return [("declaration", f"{cls!r} is not a measure: subclass FeatureEstimator, CardEstimator or NetworkEstimator")]
    own = vars(cls)  # not inherited: a subclass without its own decorator would lose its options
    if "__dataclass_fields__" not in own or not own["__dataclass_params__"].frozen:
        return [("declaration", f"{cls.__name__} is not a frozen dataclass: put @dataclass(frozen=True) above the class; its fields are the options")]
    found = []
    if fields := [field for field in own["__dataclass_fields__"] if field in CONTRACT]:
        found.append(f"{', '.join(fields)} became an option: write it without annotation")
    if not isinstance(cls.name, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", cls.name):
        found.append(f"name is {cls.name!r}: use small letters, digits and hyphens")
    elif name is not None and ":" not in name and name != cls.name:
        found.append(f"it is registered as '{name}' but calls itself '{cls.name}': use one name")
    for attribute, allowed in (("kind", ("distance", "transferability", "prior")), ("view", ("embedding", "card", "network", "task"))):
        if getattr(cls, attribute) not in allowed:
            found.append(f"{attribute} is {getattr(cls, attribute)!r}: choose one of {', '.join(allowed)}")
    flags, needs = ("symmetric", "higher_is_better", "pool_relative", "reads_class_names"), ("needs", "needs_of_source")
    found += [f"{flag} is {getattr(cls, flag)!r}: declare True or False" for flag in flags if not isinstance(getattr(cls, flag), bool | property)]
    for need in needs:
        if not isinstance(value := getattr(cls, need), tuple) or not all(re.fullmatch(NEED, str(what)) for what in value):
            found += [f'{need} is {value!r}: declare a tuple of "labels", "tags", "attributes", "attributes.NOTION"']
    if not isinstance(cls.bounds, property) and not (isinstance(cls.bounds, tuple) and len(cls.bounds) == 2):
        found.append(f"bounds is {cls.bounds!r}: declare (lowest, highest), None where there is none")
    if not isinstance(cls.version, int) or cls.version < 1:
        found.append(f"version is {cls.version!r}: declare a whole number from 1, raised with every change that moves a number")
    if not cls.__doc__ or cls.__doc__.startswith(f"{cls.__name__}("):
        found.append("no docstring: say what the number means, its unit and range, and what zero means")
    return [("declaration", text) for text in found]
