"""Folders of DICOM files: stored values to 8 bit by a declared window, patients as groups, labels by folder or from a table."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from simkit.dataset import Dataset, Skipped
from simkit.errors import DataError, Problems, UsageError
from simkit.registry import option
from simkit.sources.base import Source, located, nearest_entry, text_of
from simkit.sources.decode import EXTENSIONS, looks_like
from simkit.sources.dicom_pixels import DicomReader, Window, damaged, frames_of, header_of, import_pydicom, problem_of
from simkit.sources.folder import Search, check_classes, no_folder
from simkit.sources.readers import FileReader
from simkit.sources.table import Table
from simkit.tables import RawTable, read_table

__all__ = ["Dicom"]

DICOM_EXTENSIONS = frozenset({".dcm", ".dicom", ".ima"})
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
TABLES = (".csv", ".tsv", ".parquet")
CHOSEN = {"all": "frame of a multi-frame file", "first": "first of several frames", "middle": "middle of several frames"}
HEADER = ("PatientID", "NumberOfFrames", "Rows", "Columns", "PixelData", "FloatPixelData", "DoubleFloatPixelData", *UIDS)


@dataclass(frozen=True)
class Dicom(Source, Window):
    """DICOM files below a folder (one folder per class, labels from a table, or unlabelled), or those that a table names (path = "table.csv").

    Grey images take the standard's path: modality (rescale slope and intercept, or table), window (linear, linear exact or sigmoid, as
    the file says; an explicit center and width are linear), 8 bit with rounding; MONOCHROME1 is inverted, so that high is bright in every
    image. Without a declared rule nothing is guessed: a file without a window is an error, unless its
    values are 8 bit already. Colour images of 8 bit become RGB, windows do not touch them. No pixels, and compression for which no package
    is installed are named in ``skipped``. With window = "percentile" one window is found for the whole data set, on first use.

    Of files with several frames every frame is an image, as a viewer shows them (``frames``): keys are ``path#0001`` and so on, one frame is
    decoded at a time, and windows and slopes of enhanced files are those of the frame. The frames of a file have the patient of the file as
    their group; with groups = false nothing keeps them together.

    The patient id (0010,0020) is the group, so that folds never split a patient. Neither it nor any other entry of the header leaves the
    file: the group is called by the first 16 digits of the SHA-256 of the id. That hides names from tables and reports, it is no
    anonymisation (short ids can be tried out); and the same patient has the same group in every data set. Keys are paths of files.
    """

    name = "dicom"
    citation = "DICOM PS3.3, sections C.11.1 (modality) and C.11.2 (window); read by pydicom, https://pydicom.github.io"

    path: Path = option(help="the folder; files are found by extension or content, anywhere below. Or a table whose rows name the files, from its folder")
    labels: bool = option(True, "one folder per class; false: one unlabelled set (with a table, folders play no part)")
    table: Path | None = option(None, "CSV or TSV file that holds the labels")
    key: str = option("path", "column of the table that says which file a row is about")
    match: Literal["path", "stem", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"] = option(
        "path", "what that column holds: the path below the folder, the file name without extension, or an entry of the header",
    )
    label: str = option("label", 'column of the table that holds the class; "" for an unlabelled set')
    group: str = option("", "column of the table that holds the patient; by default the patient id in the files")
    split: str = option("", "column of the table that holds train, val or test")
    frames: Literal["all", "first", "middle", "refuse"] = option("all", "which frames of multi-frame files are images; refuse: such files are skipped")
    groups: bool = option(True, "patient ids as groups; false: none, for files without ids (folds then do not keep a patient together)")
    allow_outside: bool = option(False, "follow symbolic links that leave the folder")

    def load(self, name: str, base: Path) -> Dataset:
        """See :meth:`Source.load`; reads the header of every file. Keys are paths relative to the folder.

        Raises:
            ResourceError: pydicom is missing.
        """
        import_pydicom()
        path = located(self.path, base)
        if path.is_file() and path.suffix.lower() in TABLES:
            if self.table is not None:
                raise UsageError("SK102", "dicom.table", "given, but path is a table already", "name the folder as path, or leave table out")
            files, dataset = self._listed(name, path)
        else:
            files, dataset = self._found(name, path, base)
        if self.group:
            assert dataset.groups is not None
            dataset = replace(dataset, groups=tuple(map(_hashed, dataset.groups)))
        elif self.groups:
            dataset = replace(dataset, groups=_groups(files, text_of(path)))
        return self._with_frames(files, dataset)

    def _listed(self, name: str, path: Path) -> tuple[list[_File], Dataset]:
        """The files that the rows of a table name, each with its row."""
        if self.match != "path":
            fix = "name the folder as path and the table as table"
            raise UsageError("SK102", "dicom.match", f"'{self.match}' needs the folder of the files, path is a table", fix)
        label = self.label if self.labels else ""
        listed = Table(path=path, image=self.key, label=label, group=self.group, split=self.split, allow_outside=self.allow_outside).load(name, path.parent)
        assert isinstance(listed.reader, FileReader)
        skipped: dict[str, str] = {}
        files = _readable(list(zip(listed.keys, listed.reader.paths, strict=True)), skipped, self.frames != "refuse")
        row = {key: index for index, key in enumerate(listed.keys)}
        return files, listed.take([row[file.key] for file in files], [Skipped(name, key, why) for key, why in sorted(skipped.items())])

    def _found(self, name: str, path: Path, base: Path) -> tuple[list[_File], Dataset]:
        """The files below a folder, with what folders or a table say of them."""
        if not path.is_dir():
            raise no_folder(path)
        if self.table is None and (self.group or self.split):
            raise UsageError("SK102", "dicom", "group and split name columns of a table, and there is none", "give table = PATH, or leave them out")
        search = _DicomSearch(os.path.realpath(path), self.allow_outside, self.labels and self.table is None)
        search.run()
        search.problems.raise_if_any(DataError)
        if search.labelled:
            check_classes(search, text_of(path))
        skipped = {**search.skipped, **search.unsupported}
        images = sorted((image.key, image.path) for image in search.images)
        files = _readable(images, skipped, self.frames != "refuse")
        if not files:
            found = ", ".join(f"{count} {extension}" for extension, count in search.extensions.most_common()) or "no file"
            raise DataError("SK201", text_of(path), f"no DICOM file in it; found: {found}", "name the folder that holds the DICOM files")
        if self.table is not None:
            rows = _from_table(read_table(_existing(self.table, base)), files, self)
            skipped |= {file.key: f"no row of {text_of(self.table)} is about it" for file in files if file.key not in rows}
            files = [file for file in files if file.key in rows]
            classes = tuple(sorted({row.label for row in rows.values()})) if self.label else ()
        else:
            rows = {file.key: _Row(file.key.partition("/")[0], "", "") for file in files}
            classes = tuple(sorted(search.classes)) if self.labels else ()
        return files, self._dataset(name, path, files, rows, classes, skipped)

    def _dataset(
        self, name: str, path: Path, files: Sequence[_File], rows: Mapping[str, _Row], classes: tuple[str, ...], skipped: Mapping[str, str],
    ) -> Dataset:
        """One image a file, with what its row says."""
        number = {label: index for index, label in enumerate(classes)}
        return Dataset(
            name, tuple(file.key for file in files), DicomReader(tuple(file.path for file in files), self.rules),
            np.array([number[rows[file.key].label] for file in files], dtype=np.int64) if classes else None, classes,
            tuple(rows[file.key].group for file in files) if self.group else None, tuple(rows[file.key].split for file in files) if self.split else None,
            origin=text_of(path), skipped=tuple(Skipped(name, key, reason) for key, reason in sorted(skipped.items())),
        )

    def _with_frames(self, files: Sequence[_File], dataset: Dataset) -> Dataset:
        """One image for each frame that is wanted, instead of one for each file."""
        chosen: list[tuple[int, int]] = []
        for row, file in enumerate(files):
            wanted = {"all": range(file.frames), "first": (0,), "middle": (file.frames // 2,)}.get(self.frames, (0,))
            chosen += [(row, frame) for frame in wanted] if file.frames > 1 else [(row, -1)]
        keys = []
        for row, frame in chosen:
            digits = max(4, len(str(files[row].frames)))
            keys.append(files[row].key if frame < 0 or self.frames != "all" else f"{files[row].key}#{frame + 1:0{digits}d}")
        frames = tuple(frame for _, frame in chosen)
        reader = DicomReader(tuple(files[row].path for row, _ in chosen), self.rules, frames if max(frames) >= 0 else (), CHOSEN.get(self.frames, ""))
        return replace(dataset.take([row for row, _ in chosen]), keys=tuple(keys), reader=reader, rows=None)


@dataclass
class _DicomSearch(Search):
    """What lies below a folder, DICOM files taken."""

    def accepts(self, path: str, key: str, extension: str) -> bool:
        if os.path.basename(path).upper() == "DICOMDIR":
            return False  # the index of a medium
        if extension in DICOM_EXTENSIONS:
            return True
        try:
            with open(path, "rb") as file:
                head = file.read(512)
        except OSError as error:
            self.skipped[key] = f"cannot be read ({error.strerror})"
            return False
        if looks_like(head, len(head)) == "a DICOM file":
            return True
        self.extensions[extension or "(no extension)"] += 1
        if extension in EXTENSIONS:
            self.unsupported[key] = "not a DICOM file; the source 'folder' reads such images"
        return False


@dataclass(frozen=True)
class _File:
    """A file that will be read, with what its header says."""

    key: str
    path: str
    header: Mapping[str, str]
    frames: int


@dataclass(frozen=True)
class _Row:
    """What a table says of a file; "" for a column that is not used."""

    label: str
    group: str
    split: str


def _readable(images: Sequence[tuple[str, str]], skipped: dict[str, str], several: bool) -> list[_File]:
    """Of files (key and path) those whose headers promise an image; the others are added to ``skipped``.

    Raises:
        DataError: there are files, and none promises one; with the problem of every file.
    """
    files, problems = [], Problems()
    for key, path in images:
        try:
            header = header_of(path, HEADER)
            problem = problem_of(header, text_of(path), several=several)
            if problem is None:
                entries = {tag: str(header.get(tag) or "").strip() for tag in ("PatientID", *UIDS)}
                files.append(_File(key, path, entries, frames_of(header)))
                continue
        except DataError as error:
            problem = error.problems[0]
        except Exception as error:  # a damaged entry of the header
            problem = damaged(error, text_of(path)).problems[0]
        problems.found.append(problem)
        skipped[key] = problem.message
    if not files:
        problems.raise_if_any(DataError)
    return files


def _groups(files: Sequence[_File], where: str) -> tuple[str, ...]:
    missing = [file.key for file in files if not file.header["PatientID"]]
    if missing:
        shown = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        message = f"{len(missing)} of {len(files)} files have no patient id (0010,0020): {shown}"
        fix = "add the ids, leave the files out, or declare groups = false (folds then do not keep a patient together)"
        raise DataError("SK203", where, message, fix)
    return tuple(_hashed(file.header["PatientID"]) for file in files)


def _hashed(patient: str) -> str:
    return hashlib.sha256(patient.encode()).hexdigest()[:16]


def _existing(table: Path, base: Path) -> Path:
    path = located(table, base)
    if not path.is_file():
        raise DataError("SK201", text_of(path), f"the table does not exist{nearest_entry(path)}", "check the option table")
    return path


def _from_table(table: RawTable, files: Sequence[_File], options: Dicom) -> dict[str, _Row]:
    """What a table says of each file that a row is about, by the file's key. What a row says of a patient is never repeated in a message.

    Raises:
        DataError: empty cells, rows about no file, one key with two classes, one stem that two files have.
    """
    columns = (options.key, options.label, options.group, options.split)
    table.require(*(column for column in columns if column))
    problems, rows = Problems(), dict[str, tuple[int, _Row]]()
    for row in range(len(table)):
        key, label, group, split = (table.column(column)[row].strip() if column else "" for column in columns)
        empty = [column for column, cell in zip(columns, (key, label, group, split), strict=True) if column and not cell]
        if empty:
            problems.add("SK203", table.where(row, empty[0]), "the cell is empty", "fill it in, or remove the row")
            continue
        first, known = rows.setdefault(key, (row, _Row(label, group, split)))
        if known != _Row(label, group, split):
            other = f"class ('{label}' and '{known.label}')" if label != known.label else "group" if group != known.group else "split"
            message = f"is about the same {options.match} as {table.unit} {table.lines[first]}, with another {other}"
            problems.add("SK204", table.where(row, options.key), message, "keep the right row")
    about: dict[str, list[_File]] = {}
    for file in files:
        about.setdefault(_key_of(file, options.match), []).append(file)
    for key, (row, _) in rows.items():
        where = table.where(row, options.key)
        if key not in about:
            shown = f" '{key}'" if options.match in ("path", "stem") else ""
            problems.add("SK205", where, f"no readable DICOM file has the {options.match}{shown}", "correct the row, or the options key and match")
        elif options.match == "stem" and len(about[key]) > 1:
            problems.add("SK204", where, f"'{key}' is the name of {len(about[key])} files", 'use paths: match = "path"')
    problems.raise_if_any(DataError)
    return {file.key: rows[key][1] for key, found in about.items() if key in rows for file in found}


def _key_of(file: _File, match: str) -> str:
    if match == "path":
        return file.key
    if match == "stem":
        stem, extension = os.path.splitext(os.path.basename(file.key))
        return stem if extension.lower() in DICOM_EXTENSIONS else stem + extension
    return file.header[match]
