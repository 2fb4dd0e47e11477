"""Lists of images to leave out on purpose: what ``exclude`` of a data set names, as ``simkit leakage --exclude`` writes them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from simkit.dataset import Dataset
from simkit.errors import DataError, Problems, UsageError, nearest
from simkit.tables import read_table, unguarded

__all__ = ["COLUMN", "without"]

COLUMN = "key"
"""Column of the list that names images, as tables of simkit name them; others, such as the reason, are for people."""

LISTED = 2000
"""Keys among which the nearest spelling of an unknown one is looked for."""


def without(dataset: Dataset, path: str | os.PathLike[str]) -> Dataset:
    """The data set without the images that a list names; ``excluded`` counts them.

    What is left out on purpose is no image that was skipped: it changes no exit status, and every card counts it.

    Args:
        dataset: any.
        path: a CSV file with a column ``key``. A key twice counts once; one of a file that the reader skipped is no mistake.

    Raises:
        UsageError: the file does not exist (SK103).
        DataError: no column ``key`` (SK202), a key that the data set does not have (SK205), with its line; nothing is left (SK201).
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError("SK103", f"{dataset.name}: exclude", f"{path} is a folder, a CSV file is wanted", "name the file, such as exclude-NAME.csv in it")
    if not path.is_file():
        fix = "check the path, or make the list: simkit leakage TARGET --source SOURCE --exclude FOLDER"
        raise UsageError("SK103", f"{dataset.name}: exclude", f"the list {path} does not exist", fix)
    table = read_table(path)
    table.require(COLUMN)
    places = {key: position for position, key in enumerate(dataset.keys)}
    skipped = {one.key for one in dataset.skipped}
    listed = [cell if cell in places else unguarded(cell) for cell in table.column(COLUMN)]
    problems = Problems()
    for row, key in enumerate(listed):
        if key not in places and key not in skipped:
            message = f"'{key}' is no image of {dataset.name}{nearest(key, dataset.keys[:LISTED])}"
            fix = "is it the list of another data set? keys are those of leakage.csv; remove the row, or make the list again"
            problems.add("SK205", table.where(row, COLUMN), message, fix)
    problems.raise_if_any(DataError)
    gone = {places[key] for key in listed if key in places}
    left = np.array([position for position in range(len(dataset)) if position not in gone], dtype=np.int64)
    if not len(left):
        raise DataError("SK201", f"{dataset.name}: exclude", f"{path} names all {len(dataset)} images: nothing is left", "shorten the list")
    return replace(dataset.take(left), excluded=dataset.excluded + len(gone)) if gone else dataset
