"""Data sets of the Hugging Face hub by name, and local files of the library ``datasets``: parquet, image folders, saved sets."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simkit.dataset import Dataset, Skipped
from simkit.errors import DataError, Problems, ResourceError, nearest
from simkit.files import resource_errors
from simkit.networks import host_error
from simkit.recipe import digest_bytes, digest_file
from simkit.registry import option
from simkit.sources.arrays import indicators_of, labels_of
from simkit.sources.base import Source, located, nearest_entry, text_of
from simkit.sources.decode import EXTENSIONS, Decoding
from simkit.sources.readers import EncodedReader

__all__ = ["Huggingface", "RowReader"]

WHOLE = "all"
"""Stands in keys where a set has no splits."""


@dataclass(frozen=True)
class Huggingface(Source, Decoding):
    """A data set that the library ``datasets`` reads: from the Hugging Face hub by name, or from local files.

    A path that exists is local: a parquet file (or a pattern such as ``data/*.parquet``), a folder that the library understands (parquet
    files, or images in one folder per class), or one written by ``save_to_disk``. Anything else is a name on the hub. The library keeps
    its own copy of what it reads (``HF_HOME``). It never decodes an image here: the bytes are decoded by the rules of the source
    ``folder``, and have the same digests. No code of a data set is run. Image files of a local folder that the library passes over are
    listed in ``skipped``.
    """

    name = "huggingface"
    citation = "Q. Lhoest et al., Datasets: A Community Library for Natural Language Processing, EMNLP 2021 (demonstrations)"

    path: str = option(help="name on the hub, such as ylecun/mnist; or a local parquet file, pattern of parquet files, or folder")
    config: str | None = option(None, "configuration of the data set, where it has several")
    revision: str | None = option(None, "commit, tag or branch on the hub; by default the newest")
    splits: tuple[str, ...] = option((), "splits that are read, by the library's names; none named: all")
    image: str = option("image", "column that holds the image")
    label: str = option("label", 'column that holds the class, or a list of classes (multi-label); "" for an unlabelled set')
    group: str | None = option(None, 'column that holds the patient (or slide, volume); by default the column "group", where there is one; "" for none')

    def load(self, name: str, base: Path) -> Dataset:
        """See :meth:`Source.load`; keys are ``split/index``. The library's split "validation" is called "val".

        Raises:
            ResourceError: the package is missing, or the data set is not on this machine and the hub cannot be reached.
        """
        package = _package()
        parts = self._chosen(self._read(package, base))
        where = text_of(self.path)
        group = _columns(where, parts, self)
        images = {split: _images(package, part, f"{where}: split '{split}'", self.image) for split, part in parts.items()}
        labels, indicators, classes = _labels(package, parts, where, self.label)
        groups = _groups(parts, where, group) if group else None
        reader = RowReader(rules=self.rules, origin=where, parts=images, column=self.image)
        return Dataset(
            name, tuple(f"{split}/{i}" for split, part in parts.items() for i in range(len(part))), reader, labels, classes, groups,
            _splits(parts), origin=where, skipped=tuple(_passed_over(name, located(Path(self.path), base), reader)), indicators=indicators,
        )

    def _read(self, package: Any, base: Path) -> dict[str, Any]:
        path = located(Path(self.path), base)
        files = [str(path)] if path.is_file() else sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(self.path) else []
        like_a_path = self.path.startswith((".", "/", "~")) or self.path.count("/") > 1 or Path(self.path).suffix.lower() in (".parquet", ".csv", ".zip")
        if not files and not path.is_dir() and (glob.has_magic(self.path) or like_a_path):
            raise DataError("SK201", text_of(path), f"does not exist{nearest_entry(path)}", "check the path; relative paths start at the study file")
        other = [file for file in files if not file.lower().endswith(".parquet")]
        if other:
            raise DataError("SK201", text_of(other[0]), "is not a parquet file", "give parquet files, or a folder; images and tables have sources of their own")
        with _quiet(package), _explained(package, self.path):
            if files:
                found = package.load_dataset("parquet", data_files=files, split="train")  # how the library calls files without splits
            elif path.is_dir() and any((path / file).is_file() for file in ("dataset_dict.json", "state.json")):
                found = package.load_from_disk(str(path))
            elif path.is_dir():
                found = package.load_dataset(str(path), self.config)
            else:
                _reachable(package, self.path)
                found = package.load_dataset(self.path, self.config, revision=self.revision)
        return dict(found) if isinstance(found, Mapping) else {WHOLE: found}

    def _chosen(self, parts: dict[str, Any]) -> dict[str, Any]:
        problems = Problems()
        for split in self.splits:
            if split not in parts:
                message = f"no split '{split}'{nearest(split, parts)}; splits found: {', '.join(parts)}"
                problems.add("SK203", text_of(self.path), message, "correct splits")
        problems.raise_if_any(DataError)
        return {split: parts[split] for split in dict.fromkeys(self.splits)} if self.splits else parts


@dataclass(frozen=True, eq=False)
class RowReader(EncodedReader):
    """Images in rows of Arrow tables.

    Attributes:
        rules: how they become 8 bit.
        origin: what messages call the data set.
        parts: split -> rows, whose images are bytes or the path of a file.
        column: that holds the images.
    """

    rules: Decoding
    origin: str
    parts: Mapping[str, Any]
    column: str

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts.values())

    def where(self, index: int) -> str:
        for split, part in self.parts.items():
            if index < len(part):
                return f"{self.origin}: {split}/{index}"
            index -= len(part)
        raise IndexError(index)

    def source(self, index: int) -> str | bytes:
        _, data, path = self.row(index)
        return path if data is None else data

    def content(self, index: int) -> str:
        where, data, path = self.row(index)
        if data is not None:
            return digest_bytes(data)
        try:
            return digest_file(path)
        except OSError as error:
            raise DataError("SK206", where, f"{text_of(path)} cannot be read ({error.strerror})", "check that the file exists") from error

    def row(self, index: int) -> tuple[str, bytes | None, str]:
        """What messages call the row, and its bytes or else the path of its file."""
        for split, part in self.parts.items():
            if index < len(part):
                where, value = f"{self.origin}: {split}/{index}", part[index][self.column]
                if value is None or (value["bytes"] is None and not value["path"]):
                    raise DataError("SK206", where, "the cell holds no image", "remove the row, or choose another image column")
                return where, value["bytes"], value["path"] or ""
            index -= len(part)
        raise IndexError(index)


def _package() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ResourceError("SK303", "huggingface", f"the package datasets cannot be imported ({error})", "pip install 'simkit[huggingface]'") from error
    return datasets


@contextmanager
def _quiet(package: Any) -> Iterator[None]:
    """No progress bars of the library where nobody watches."""
    silence = not sys.stderr.isatty() and not package.are_progress_bars_disabled()
    if silence:
        package.disable_progress_bars()
    try:
        yield
    finally:
        if silence:
            package.enable_progress_bars()


@contextmanager
def _explained(package: Any, path: str) -> Iterator[None]:
    """The library's errors, with the data set's name and a remedy."""
    where, errors = text_of(path), package.exceptions
    with resource_errors(where, "read"):
        try:
            yield
        except ConnectionError as error:
            raise _offline(package, path, error) from error
        except errors.DatasetNotFoundError as error:
            message = "is neither a local path nor a data set that the hub shows you"
            raise DataError("SK201", where, message, "check the name; for private and gated sets, log in with: hf auth login") from error
        except (ValueError, RuntimeError, FileNotFoundError, errors.DatasetsError) as error:
            cause = error.__cause__ if isinstance(error, errors.DatasetGenerationError) and error.__cause__ else error
            text = " ".join(str(cause).split())[:300] or type(cause).__name__
            fix = "check path, config and revision, and that the files are complete"
            raise DataError("SK201", where, f"the library datasets cannot read it: {text}", fix) from error


def _reachable(package: Any, path: str) -> None:
    """Fails at once, instead of after the library's retries, where the set is not in its cache and the hub is out of reach."""
    kept = Path(package.config.HF_DATASETS_CACHE) / path.replace("/", "___")
    if kept.is_dir():
        return
    error = ConnectionError("HF_HUB_OFFLINE is set") if package.config.HF_HUB_OFFLINE else host_error(package.config.HF_ENDPOINT)
    if error is not None:
        raise _offline(package, path, error) from error


def _offline(package: Any, path: str, error: Exception) -> ResourceError:
    fix = (f"on a machine with internet, run: hf download --repo-type dataset {path} --local-dir FOLDER, and give path = FOLDER; "
           f"or copy the library's own copy of it into {package.config.HF_DATASETS_CACHE}")
    return ResourceError("SK302", text_of(path), f"is not on this machine and the hub cannot be reached ({error})", fix)


def _columns(where: str, parts: Mapping[str, Any], options: Huggingface) -> str:
    """Checks that every split has the columns; returns that of the groups, or ""."""
    problems = Problems()
    first = next(iter(parts.values()))
    group = options.group if options.group is not None else "group" if "group" in first.column_names else ""
    for split, part in parts.items():
        for role, column in (("image", options.image), ("label", options.label), ("group", group)):
            if (column or role == "image") and column not in part.column_names:
                message = f"column '{column}' is missing{nearest(column, part.column_names)}; columns found: {', '.join(part.column_names)}"
                extra = ', or declare label = "" for an unlabelled set' if role == "label" else ""
                problems.add("SK202", f"{where}: split '{split}'", message, f'name the column by {role} = "..."{extra}')
    problems.raise_if_any(DataError)
    return group


def _images(package: Any, part: Any, where: str, column: str) -> Any:
    """The image column alone, as bytes and paths."""
    feature = part.features[column]
    holds_bytes = (isinstance(feature, dict) and set(feature) == {"bytes", "path"}) or getattr(feature, "dtype", "") in ("binary", "large_binary")
    if not isinstance(feature, package.Image) and not holds_bytes:
        raise DataError("SK202", where, f"column '{column}' holds {feature}, wanted images", 'name the column of images by image = "..."')
    return part.select_columns([column]).cast_column(column, package.Image(decode=False))


def _labels(
    package: Any, parts: Mapping[str, Any], where: str, column: str,
) -> tuple[np.ndarray | None, np.ndarray | None, tuple[str, ...]]:
    """Class indices or (of a column of lists) indicators; and names: the library's of a ClassLabel, else the values, sorted."""
    if not column:
        return None, None, ()
    columns = {split: part[column][:] for split, part in parts.items()}
    features = {split: part.features[column] for split, part in parts.items()}
    _check_labels(package, columns, features, where, column)
    values = [value for split in parts for value in columns[split]]
    places = [f"{where}: {split}/{index}" for split in parts for index in range(len(columns[split]))]
    kind, several = _inner(next(iter(features.values())))
    names = tuple(kind.names) if isinstance(kind, package.ClassLabel) else None
    if several:
        indicators, classes = indicators_of(values, names, places)
        return None, indicators, classes
    labels, classes = labels_of(values, names, places) if names else _numbered(values)
    return labels, None, classes


def _numbered(values: Sequence[Any]) -> tuple[np.ndarray, tuple[str, ...]]:
    known = sorted(set(values))
    number = {value: index for index, value in enumerate(known)}
    return np.array([number[value] for value in values], dtype=np.int64), tuple(str(value) for value in known)


def _inner(feature: Any) -> tuple[Any, bool]:
    """The feature of one class, and whether an image may have several (a list)."""
    if isinstance(feature, list) and len(feature) == 1:
        return feature[0], True
    lists = type(feature).__name__ in ("List", "LargeList", "Sequence")  # which of them there are depends on the library's version
    return (feature.feature, True) if lists and not isinstance(feature.feature, dict) else (feature, False)


def _check_labels(package: Any, columns: Mapping[str, Any], features: Mapping[str, Any], where: str, column: str) -> None:
    problems = Problems()
    first = next(iter(features.values()))
    wanted, wanted_several = _inner(first)
    for split, feature in features.items():
        place, (kind, several) = f"{where}: split '{split}'", _inner(feature)
        named, plain = isinstance(kind, package.ClassLabel), getattr(kind, "dtype", "")
        if not named and not (isinstance(kind, package.Value) and plain.startswith(("int", "uint", "bool", "string", "large_string"))):
            fix = 'name a column with one class per image, or a list of classes, or declare label = ""'
            problems.add("SK203", place, f"column '{column}' holds {feature}, wanted one class per image (ClassLabel, whole numbers or text)", fix)
            continue
        rows = [value if several and value is not None else [value] for value in columns[split]]
        empty = sum(any(value is None or (named and value < 0) or value == "" for value in row) for row in rows)
        if empty:
            fix = 'leave the split out by splits = [...], or declare label = ""'
            problems.add("SK203", place, f"{empty} of {len(rows)} images have no label in column '{column}'", fix)
        differs = named != isinstance(wanted, package.ClassLabel) or (named and kind.names != wanted.names)
        if differs or several != wanted_several:
            problems.add("SK203", place, f"the classes of column '{column}' differ from those of split '{next(iter(features))}'", "read one of them")
    problems.raise_if_any(DataError)


def _groups(parts: Mapping[str, Any], where: str, column: str) -> tuple[str, ...]:
    values = [value for part in parts.values() for value in part[column][:]]
    empty = sum(value is None or value == "" for value in values)
    if empty:
        message = f"{empty} of {len(values)} images have no value in the group column '{column}'"
        raise DataError("SK203", where, message, 'fill it in, or declare group = "" (folds then do not keep a patient together)')
    return tuple(str(value) for value in values)


def _splits(parts: Mapping[str, Any]) -> tuple[str, ...] | None:
    if list(parts) == [WHOLE]:
        return None
    return tuple({"validation": "val"}.get(split, split) for split, part in parts.items() for _ in range(len(part)))


def _passed_over(name: str, folder: Path, reader: RowReader) -> Sequence[Skipped]:
    """Image files of a local folder that are no row: the library leaves out what it does not know, without a word."""
    if not folder.is_dir():
        return []
    rows = sum(len(part) for part in reader.parts.values())
    read = {os.path.realpath(path) for _, data, path in map(reader.row, range(rows)) if data is None}
    if not read:
        return []
    found = (file for file in folder.rglob("*") if file.suffix.lower() in EXTENSIONS and os.path.realpath(file) not in read)
    files = sorted(file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts))
    return [Skipped(name, text_of(file.relative_to(folder)), "the library datasets did not read it") for file in files]
