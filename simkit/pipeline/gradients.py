"""What backward passes through a source's network say of a target, kept in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simkit.dataset import Dataset
from simkit.pipeline.networks import SourceNetwork
from simkit.pipeline.progress import Progress
from simkit.store import Store

__all__ = ["gradients_of"]


def gradients_of(
    methods: Sequence[Any], networks: Mapping[str, SourceNetwork], pairs: Sequence[tuple[str, str]], datasets: Mapping[str, Dataset], store: Store,
    progress: Progress, device: str,
) -> dict[tuple[str, str], Mapping[str, float]]:
    """The gradient norms of each pair, where one of the measures reads them."""
    return {}
