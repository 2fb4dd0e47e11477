"""From a study to its answer: plan what is to be done, do what is not done yet, put the tables together.

Public: :func:`run`, :func:`plan`, :func:`check`, :func:`load`, :func:`card`, :func:`embed`, :func:`distance`, :func:`finetune`. Modules are imported when
one of these names is used, so that the command line's help stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simkit.pipeline.checking import check
    from simkit.pipeline.commands import card, distance, embed, finetune, load
    from simkit.pipeline.planning import Plan, Step, plan
    from simkit.pipeline.progress import Progress
    from simkit.pipeline.running import Results, run

__all__ = ["Plan", "Progress", "Results", "Step", "card", "check", "distance", "embed", "finetune", "load", "plan", "run"]

_MODULES = {"Plan": "planning", "Step": "planning", "plan": "planning", "Progress": "progress", "Results": "running", "run": "running",
            "check": "checking"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(f"simkit.pipeline.{_MODULES.get(name, 'commands')}"), name)
    raise AttributeError(f"module 'simkit.pipeline' has no attribute '{name}'")
