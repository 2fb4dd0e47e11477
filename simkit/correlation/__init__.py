"""Does similarity predict transfer? Tables of scores and transfers are read, oriented, joined and held against each other."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simkit.correlation.analysis import correlate, read_transfer
    from simkit.correlation.ranking import RankedSource, answer, rank_sources
    from simkit.correlation.recommendation import Recommendation, recommend
    from simkit.correlation.results import Correlation, MethodResult, Pooled, TargetResult, Within

__all__ = [
    "Correlation", "MethodResult", "Pooled", "RankedSource", "Recommendation", "TargetResult", "Within", "answer", "correlate", "rank_sources",
    "read_transfer", "recommend",
]

_MODULES = {"correlate": "analysis", "read_transfer": "analysis", "rank_sources": "ranking", "answer": "ranking", "RankedSource": "ranking",
            "recommend": "recommendation", "Recommendation": "recommendation"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(f"simkit.correlation.{_MODULES.get(name, 'results')}"), name)
    raise AttributeError(f"module 'simkit.correlation' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
