"""Images that are arrays already, in memory or in an .npy file; and labels that are values already, as class indices or indicators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from simkit.errors import DataError, Problems, nearest
from simkit.recipe import digest_bytes

__all__ = ["ArrayReader", "array_digest", "indicators_of", "labels_of"]


def array_digest(image: np.ndarray) -> str:
    """SHA-256 over type, shape and bytes of an image (height, width, channels)."""
    image = np.ascontiguousarray(image)
    return digest_bytes(f"{image.dtype.str} {image.shape} ".encode(), image.tobytes())


@dataclass(frozen=True, eq=False)
class ArrayReader:
    """Images in memory (an ImageReader).

    Attributes:
        images: uint8 (height, width, 1 or 3) each.
    """

    in_memory: ClassVar = True
    images: Sequence[np.ndarray]

    def read(self, index: int) -> np.ndarray:
        """A copy of the image: what the caller does to it changes nothing here."""
        return np.array(self.images[index])

    def digest(self, index: int) -> str:
        """See :func:`array_digest`."""
        return array_digest(self.images[index])


def labels_of(values: Sequence[Any], classes: Sequence[str] | None, places: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class index of each image, int64 (n,), and the class names.

    Args:
        values: whole numbers, or text.
        classes: names; numbers index into them, and text must be among them. None: the values that occur, sorted, name the classes.
        places: what messages call each image.

    Raises:
        DataError: SK203 for every value that is negative, or not among the classes.
    """
    problems, known = Problems(), _known(values, classes)
    for value, place in zip(values, places, strict=True):
        _check(value, known, classes, place, problems)
    problems.raise_if_any(DataError)
    return np.array([known[value] for value in values], dtype=np.int64), tuple(classes) if classes else tuple(map(str, known))


def indicators_of(values: Sequence[Sequence[Any]], classes: Sequence[str] | None, places: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Bool (n, classes), True where an image has the class, and the class names; ``values`` are the classes of each image (see :func:`labels_of`)."""
    problems, known = Problems(), _known([one for row in values for one in row], classes)
    out = np.zeros((len(values), len(classes) if classes else len(known)), dtype=bool)
    for number, (row, place) in enumerate(zip(values, places, strict=True)):
        for value in row:
            if _check(value, known, classes, place, problems):
                out[number, known[value]] = True
    problems.raise_if_any(DataError)
    return out, tuple(classes) if classes else tuple(map(str, known))


def _known(values: Sequence[Any], classes: Sequence[str] | None) -> dict[Any, int]:
    """The index of each value."""
    if not classes:
        kinds = {isinstance(value, str) for value in values}
        return {value: index for index, value in enumerate(sorted(set(values), key=str if len(kinds) > 1 else None))}
    return {name: index for index, name in enumerate(classes)} | {index: index for index in range(len(classes))}


def _check(value: Any, known: dict[Any, int], classes: Sequence[str] | None, place: str, problems: Problems) -> bool:
    if value in known and (isinstance(value, str) or value >= 0):
        return True
    if isinstance(value, str):
        message = f"the class '{value}' is not among the {len(classes or ())} named{nearest(value, classes or ())}"
        problems.add("SK203", place, message, "correct it, or name the class")
    elif value < 0:
        message = f"the label {value} is negative, which often stands for no label"
        problems.add("SK203", place, message, "leave these images out, or read the set without labels")
    else:
        message = f"the label {value} is not one of 0 to {len(classes or ()) - 1}, the classes named"
        problems.add("SK203", place, message, "name all classes, in the order of their numbers")
    return False
