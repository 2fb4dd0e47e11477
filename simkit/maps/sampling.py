"""Which images of a large data set a map shows: decided by the images' content, spread over the classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["RULE", "shares", "spread_sample"]

RULE = ("of a larger data set those images whose content has the smallest SHA-256 digest, spread over the classes in their shares (at least one of each class "
        "where there is room)")
"""The rule of :func:`spread_sample`, in words."""


def shares(counts: Sequence[int], size: int) -> list[int]:
    """``size`` divided in proportion to ``counts``, by largest remainders, none above its count; where there is room, at least 1 each."""
    total = sum(counts)
    if size >= total:
        return list(counts)
    exact = [size * count / total for count in counts]
    given = [int(one) for one in exact]
    if size >= sum(count > 0 for count in counts):
        given = [max(one, min(1, count)) for one, count in zip(given, counts, strict=True)]
    while sum(given) < size:  # the largest remainder that has images left; the first of equal ones
        room = [(exact[i] - given[i], -i) for i in range(len(counts)) if given[i] < counts[i]]
        given[-max(room)[1]] += 1
    while sum(given) > size:
        given[-max((given[i] - exact[i], -i) for i in range(len(counts)) if given[i] > 1)[1]] -= 1
    return given


def spread_sample(digests: Sequence[str], labels: Sequence[str] | None, size: int) -> np.ndarray:
    """Positions of at most ``size`` images, in the order of their digests: the same images whatever they are called and in whatever order they lie.

    Args:
        digests: SHA-256 of each image's content.
        labels: class of each image, or None for an unlabelled set, which counts as one class.
        size: images wanted; a smaller set is taken whole.
    """
    order = sorted(range(len(digests)), key=lambda i: (digests[i], "" if labels is None else labels[i], i))
    if size >= len(order):
        return np.array(order, dtype=np.int64)
    classes: dict[str, list[int]] = {}
    for i in order:
        classes.setdefault("" if labels is None else labels[i], []).append(i)
    names = sorted(classes)
    taken = shares([len(classes[name]) for name in names], size)
    kept = {i for name, count in zip(names, taken, strict=True) for i in classes[name][:count]}
    return np.array([i for i in order if i in kept], dtype=np.int64)
