"""Task embeddings of data sets, kept in the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from simkit.dataset import Dataset
from simkit.pipeline.progress import Progress

if TYPE_CHECKING:
    from simkit.pipeline.planning import Plan

__all__ = ["task_embeddings"]


def task_embeddings(method: Any, datasets: Mapping[str, Dataset], made: Plan, progress: Progress) -> dict[str, Any]:
    """Name -> task embedding by the probe of a measure."""
    return {}
