"""Predictions of a run, image by image, in parquet: any metric can be computed from them again. pyarrow is imported when a file is touched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simkit.errors import IntegrityError, UsageError
from simkit.files import resource_errors, write_bytes

__all__ = ["Predictions", "export_predictions", "read_predictions", "write_predictions"]

HEADER = b"simkit.predictions"
"""Key of the schema's metadata: JSON of the form's version, the class names and the SHA-256 of the content."""

VERSION = 1

GROUP = 65536
"""Rows of a row group, at most: what a writer holds at a time."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a trained network says of each test image of one run.

    Attributes:
        images: digest of each image's content.
        keys: key of each image in its data set.
        labels: true class, int64 (n,); an index into ``classes``.
        probabilities: float64 (n, C), as the network gave them (NaN included).
        classes: the C class names.
    """

    images: tuple[str, ...]
    keys: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]

    @property
    def predicted(self) -> tuple[str | None, ...]:
        """The class of the highest probability (the first of equal ones); None where a probability is NaN or infinite."""
        sure = np.isfinite(self.probabilities).all(axis=1)
        return tuple(self.classes[best] if fine else None for best, fine in zip(self.probabilities.argmax(axis=1), sure, strict=True))


def write_predictions(
    path: Path, *, images: Sequence[str], keys: Sequence[str], labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str],
) -> None:
    """Writes the predictions of one run, atomically; the same predictions give the same bytes.

    Columns: image (digest), key, label and predicted (class names; predicted is null where a probability is NaN or infinite), probabilities (a list of
    C doubles in the order of the class names, which stand in the schema's metadata).

    Args:
        path: the file; one that is there is replaced.
        images: digest of each image (n).
        keys: key of each image (n).
        labels: true class per image (n,), indices into ``classes``.
        probabilities: float64 (n, C).
        classes: the C class names.

    Raises:
        UsageError: the parts do not fit together.
        ResourceError: the file cannot be written.
    """
    import pyarrow
    import pyarrow.parquet

    found = Predictions(tuple(images), tuple(keys), np.asarray(labels, dtype=np.int64), np.ascontiguousarray(probabilities, dtype=np.float64), tuple(classes))
    _check(found, str(path))
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(found.probabilities.ravel()), len(found.classes))
    header = json.dumps({"version": VERSION, "classes": found.classes, "sha256": _checksum(found)}, ensure_ascii=False)
    table = pyarrow.table({**_columns(found), "probabilities": lists}).replace_schema_metadata({HEADER: header.encode()})
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, row_group_size=GROUP, compression="zstd", use_dictionary=["label", "predicted"])
    write_bytes(path, sink.getvalue().to_pybytes())


def read_predictions(path: Path) -> Predictions:
    """What :func:`write_predictions` wrote, to the bit.

    Raises:
        FileNotFoundError: there is no such file.
        IntegrityError: SK401, the file is truncated, foreign, of a newer form, or not what was written.
    """
    import pyarrow
    import pyarrow.parquet

    with resource_errors(path, "read"):
        try:
            data: bytes | None = path.read_bytes()
        except FileNotFoundError:
            data = None
    if data is None:
        raise FileNotFoundError(path)
    fix = f"remove it and {path.with_suffix('.json').name} beside it, and run again"
    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(data), use_threads=False)
        header = json.loads((table.schema.metadata or {})[HEADER])
        version, expected = header["version"], header["sha256"]
        if version == VERSION:
            found = _of_table(table, tuple(header["classes"]))
            intact = _checksum(found) == expected
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise IntegrityError("SK401", str(path), f"is damaged, or holds no predictions of simkit ({type(error).__name__}: {reason})", fix) from error
    if version != VERSION:
        raise IntegrityError("SK401", str(path), f"holds predictions in form {version}, this simkit reads form {VERSION}", "read it with a newer simkit")
    if not intact:
        raise IntegrityError("SK401", str(path), "is damaged: its digest differs from the one it was written with", fix)
    return found


def export_predictions(path: Path, rows: Iterable[tuple[Mapping[str, Any], Predictions]]) -> int:
    """Writes the predictions of many runs into one parquet file, atomically, run by run: one run at a time is in memory.

    Columns: source, target, fold, seed (of the run), image, key, label, predicted, classes (list of C names), probabilities (list of C doubles).

    Args:
        path: the file; one that is there is replaced.
        rows: of each run its "source", "target", "fold" and "seed", and its predictions. Read once.

    Returns:
        The number of images written, over all runs.

    Raises:
        ResourceError: the file cannot be written.
        SimkitError: what ``rows`` raises. In both cases an older file of that name is left as it was.
    """
    import pyarrow
    import pyarrow.parquet

    written = 0
    kinds = {
        "source": pyarrow.string(), "target": pyarrow.string(), "fold": pyarrow.string(), "seed": pyarrow.int64(), "image": pyarrow.string(),
        "key": pyarrow.string(), "label": pyarrow.string(), "predicted": pyarrow.string(), "classes": pyarrow.list_(pyarrow.string()),
        "probabilities": pyarrow.list_(pyarrow.float64()),
    }
    schema = pyarrow.schema(list(kinds.items()))

    def write(temporary: Path) -> None:
        nonlocal written
        plain = ["image", "key", "probabilities.list.element"]
        repeated = ["source", "target", "fold", "seed", "label", "predicted", "classes.list.element"]
        with pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd", use_dictionary=repeated, use_byte_stream_split=plain[2:]) as writer:
            for run, found in rows:
                for start in range(0, len(found.keys), GROUP):
                    writer.write_table(_exported(run, _part(found, slice(start, start + GROUP)), schema))
                written += len(found.keys)

    write_bytes(path, b"", writer=write)
    return written


def _check(found: Predictions, where: str) -> None:
    """Raises where the parts of predictions do not fit together."""
    n, fix = len(found.labels), "give one image digest, key, label and row of probabilities for each image"
    if len(found.images) != n or len(found.keys) != n or found.labels.shape != (n,) or found.probabilities.shape != (n, len(found.classes)):
        counts = f"{len(found.images)} images, {len(found.keys)} keys, labels {found.labels.shape}, probabilities {found.probabilities.shape}"
        raise UsageError("SK102", where, f"{counts} and {len(found.classes)} classes do not fit together", fix)
    if len(set(found.classes)) < len(found.classes):
        raise UsageError("SK105", where, f"two classes have one name: {', '.join(found.classes)}", "rename one of them")
    if n and (found.labels.min() < 0 or found.labels.max() >= len(found.classes)):
        raise UsageError("SK102", where, "labels do not index the class names", "labels run from 0 to len(classes) - 1")


def _columns(found: Predictions) -> dict[str, Any]:
    """The columns of text."""
    import pyarrow

    text = {"image": found.images, "key": found.keys, "label": [found.classes[label] for label in found.labels], "predicted": found.predicted}
    return {name: pyarrow.array(values, pyarrow.string()) for name, values in text.items()}


def _of_table(table: Any, classes: tuple[str, ...]) -> Predictions:
    """The predictions in a table that was read.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it has other columns, kinds or classes than were written.
    """
    import pyarrow

    text = pyarrow.string()
    wanted = {"image": text, "key": text, "label": text, "predicted": text, "probabilities": pyarrow.list_(pyarrow.float64(), len(classes))}
    kinds = {field.name: field.type for field in table.schema}
    if kinds != wanted:
        raise ValueError(f"columns are {', '.join(f'{name} ({kind})' for name, kind in kinds.items())}")
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[name] for name in table["label"].to_pylist()], dtype=np.int64)
    flat = table["probabilities"].combine_chunks().flatten()
    if flat.null_count or table["image"].null_count or table["key"].null_count:
        raise ValueError("cells are empty")
    probabilities = np.array(flat.to_numpy(zero_copy_only=False), dtype=np.float64).reshape(len(labels), len(classes))
    found = Predictions(tuple(table["image"].to_pylist()), tuple(table["key"].to_pylist()), labels, probabilities, classes)
    if tuple(table["predicted"].to_pylist()) != found.predicted:
        raise ValueError("column 'predicted' is not the class of the highest probability")
    return found


def _checksum(found: Predictions) -> str:
    """SHA-256 of all that is in predictions, whatever the file's compression."""
    sha = hashlib.sha256(json.dumps([found.classes, found.images, found.keys], ensure_ascii=False).encode())
    sha.update(np.ascontiguousarray(found.labels, dtype="<i8").tobytes())
    sha.update(np.ascontiguousarray(found.probabilities, dtype="<f8").tobytes())
    return sha.hexdigest()


def _part(found: Predictions, rows: slice) -> Predictions:
    return Predictions(found.images[rows], found.keys[rows], found.labels[rows], found.probabilities[rows], found.classes)


def _exported(run: Mapping[str, Any], found: Predictions, schema: Any) -> Any:
    """One row group of the file of many runs."""
    import pyarrow

    n, count = len(found.keys), len(found.classes)
    ends = pyarrow.array(np.arange(n + 1, dtype=np.int32) * count)
    numbers = np.tile(np.arange(count, dtype=np.int32), n)
    names = pyarrow.array(found.classes, pyarrow.string()).take(pyarrow.array(numbers))
    columns = {
        "source": pyarrow.array([str(run["source"])] * n, pyarrow.string()), "target": pyarrow.array([str(run["target"])] * n, pyarrow.string()),
        "fold": pyarrow.array([str(run["fold"])] * n, pyarrow.string()), "seed": pyarrow.array([int(run["seed"])] * n, pyarrow.int64()), **_columns(found),
        "classes": pyarrow.ListArray.from_arrays(ends, names), "probabilities": pyarrow.ListArray.from_arrays(ends, pyarrow.array(found.probabilities.ravel())),
    }
    return pyarrow.table([columns[name] for name in schema.names], schema=schema)
