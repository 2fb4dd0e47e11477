"""simkit: which source data set to transfer from, how sure that is, and why.

Public names are loaded on first use (PEP 562): ``import simkit`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "CardEstimator": "simkit.estimators.base",
    "Dataset": "simkit.dataset",
    "DatasetCard": "simkit.dataset",
    "Embedding": "simkit.embedding",
    "ESTIMATORS": "simkit.registry",
    "EXTRACTORS": "simkit.registry",
    "FeatureEstimator": "simkit.estimators.base",
    "NetworkEstimator": "simkit.estimators.base",
    "Score": "simkit.estimators.base",
    "ScoreTable": "simkit.tables",
    "Seen": "simkit.estimators.seen",
    "SimkitError": "simkit.errors",
    "SOURCES": "simkit.registry",
    "TransferTable": "simkit.tables",
    "card": "simkit.pipeline",
    "check": "simkit.pipeline",
    "check_estimator": "simkit.estimators.checks",
    "compare": "simkit.estimators.comparison",
    "correlate": "simkit.correlation",
    "distance": "simkit.pipeline",
    "embed": "simkit.pipeline",
    "explain": "simkit.pipeline.explanation",
    "find_leakage": "simkit.pipeline.leakage",
    "finetune": "simkit.pipeline",
    "from_arrays": "simkit.sources.array",
    "load": "simkit.pipeline",
    "map_datasets": "simkit.pipeline.maps",
    "map_images": "simkit.pipeline.maps",
    "option": "simkit.registry",
    "plan": "simkit.pipeline",
    "recommend": "simkit.correlation",
    "report_study": "simkit.pipeline.reporting",
    "report_tables": "simkit.pipeline.reporting",
    "run": "simkit.pipeline",
    "transferability": "simkit.estimators.assessment",
}

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604 - the names are strings

if TYPE_CHECKING:
    pass


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'simkit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
