"""Folders of DICOM files: stored values to 8 bit by a declared window, patients as groups, labels by folder or from a table."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from simkit.dataset import Dataset, Skipped
from simkit.errors import DataError, Problems
from simkit.registry import option
from simkit.sources.base import Source, located, nearest_entry, text_of
from simkit.sources.decode import EXTENSIONS, looks_like
from simkit.sources.dicom_pixels import DicomReader, Window, damaged, header_of, import_pydicom, problem_of
from simkit.sources.folder import Search, check_classes, no_folder
from simkit.tables import RawTable, read_table

__all__ = ["Dicom"]

DICOM_EXTENSIONS = frozenset({".dcm", ".dicom", ".ima"})
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
HEADER = ("PatientID", "NumberOfFrames", "Rows", "Columns", "PixelData", "FloatPixelData", "DoubleFloatPixelData", *UIDS)


@dataclass(frozen=True)
class Dicom(Source, Window):
    """A folder of single-frame DICOM files: one folder per class, labels from a table, or unlabelled.

    Grey images take the standard's path: modality (rescale slope and intercept, or table), window (linear, linear exact or sigmoid, as
    the file says; an explicit center and width are linear), 8 bit with rounding; MONOCHROME1 is inverted, so that high is bright in every
    image (this is not counted anywhere). Without a declared rule nothing is guessed: a file without a window is an error, unless its
    values are 8 bit already. Colour images of 8 bit become RGB, windows do not touch them. Several frames, no pixels, and compression for
    which no package is installed are named in ``skipped``.

    The patient id (0010,0020) is the group, so that folds never split a patient. Neither it nor any other entry of the header leaves the
    file: the group is called by the first 16 digits of the SHA-256 of the id. That hides names from tables and reports, it is no
    anonymisation (short ids can be tried out); and the same patient has the same group in every data set. Keys are paths of files.
    """

    name = "dicom"
    citation = "DICOM PS3.3, sections C.11.1 (modality) and C.11.2 (window); read by pydicom, https://pydicom.github.io"

    path: Path = option(help="the folder; files are found by extension or content, anywhere below")
    labels: bool = option(True, "one folder per class; false: one unlabelled set (with a table, folders play no part)")
    table: Path | None = option(None, "CSV or TSV file that holds the labels")
    key: str = option("path", "column of the table that says which file a row is about")
    match: Literal["path", "stem", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"] = option(
        "path", "what that column holds: the path below the folder, the file name without extension, or an entry of the header",
    )
    label: str = option("label", "column of the table that holds the class")
    groups: bool = option(True, "patient ids as groups; false: none, for files without ids (folds then do not keep a patient together)")
    allow_outside: bool = option(False, "follow symbolic links that leave the folder")

    def load(self, name: str, base: Path) -> Dataset:
        """See :meth:`Source.load`; reads the header of every file. Keys are paths relative to the folder.

        Raises:
            ResourceError: pydicom is missing.
        """
        import_pydicom()
        path = located(self.path, base)
        if not path.is_dir():
            raise no_folder(path)
        search = _DicomSearch(os.path.realpath(path), self.allow_outside, self.labels and self.table is None)
        search.run()
        search.problems.raise_if_any(DataError)
        if search.labelled:
            check_classes(search, text_of(path))
        skipped = {**search.skipped, **search.unsupported}
        files = _readable(search, skipped, text_of(path))
        if self.table is not None:
            named = _from_table(read_table(_existing(self.table, base)), files, self)
            skipped |= {file.key: f"no row of {text_of(self.table)} is about it" for file in files if file.key not in named}
            files = [file for file in files if file.key in named]
            classes = tuple(sorted(set(named.values())))
        else:
            named = {file.key: file.key.partition("/")[0] for file in files}
            classes = tuple(sorted(search.classes)) if self.labels else ()
        number = {label: index for index, label in enumerate(classes)}
        return Dataset(
            name, tuple(file.key for file in files), DicomReader(tuple(file.path for file in files), self.rules),
            np.array([number[named[file.key]] for file in files], dtype=np.int64) if classes else None, classes,
            _groups(files, text_of(path)) if self.groups else None, origin=text_of(path),
            skipped=tuple(Skipped(name, key, reason) for key, reason in sorted(skipped.items())),
        )


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


def _readable(search: Search, skipped: dict[str, str], where: str) -> list[_File]:
    """Files whose headers promise an image, by key; the others are added to ``skipped``.

    Raises:
        DataError: there is none, with the problem of every file.
    """
    files, problems = [], Problems()
    for image in sorted(search.images, key=lambda image: image.key):
        try:
            header = header_of(image.path, HEADER)
            problem = problem_of(header, text_of(image.path))
            if problem is None:
                entries = {tag: str(header.get(tag) or "").strip() for tag in ("PatientID", *UIDS)}
                files.append(_File(image.key, image.path, entries))
                continue
        except DataError as error:
            problem = error.problems[0]
        except Exception as error:  # a damaged entry of the header
            problem = damaged(error, text_of(image.path)).problems[0]
        problems.found.append(problem)
        skipped[image.key] = problem.message
    if not files:
        problems.raise_if_any(DataError)
        found = ", ".join(f"{count} {extension}" for extension, count in search.extensions.most_common()) or "no file"
        raise DataError("SK201", where, f"no DICOM file in it; found: {found}", "name the folder that holds the DICOM files")
    return files


def _groups(files: Sequence[_File], where: str) -> tuple[str, ...]:
    missing = [file.key for file in files if not file.header["PatientID"]]
    if missing:
        shown = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        message = f"{len(missing)} of {len(files)} files have no patient id (0010,0020): {shown}"
        fix = "add the ids, leave the files out, or declare groups = false (folds then do not keep a patient together)"
        raise DataError("SK203", where, message, fix)
    return tuple(hashlib.sha256(file.header["PatientID"].encode()).hexdigest()[:16] for file in files)


def _existing(table: Path, base: Path) -> Path:
    path = located(table, base)
    if not path.is_file():
        raise DataError("SK201", text_of(path), f"the table does not exist{nearest_entry(path)}", "check the option table")
    return path


def _from_table(table: RawTable, files: Sequence[_File], options: Dicom) -> dict[str, str]:
    """The class of each file that a row is about, by the file's key. What a row says of a patient is never repeated in a message.

    Raises:
        DataError: empty cells, rows about no file, one key with two classes, one stem that two files have.
    """
    table.require(options.key, options.label)
    problems, rows = Problems(), dict[str, tuple[int, str]]()
    for row, (key, label) in enumerate(zip(table.column(options.key), table.column(options.label), strict=True)):
        key, label = key.strip(), label.strip()
        if not key or not label:
            column = options.label if key else options.key
            problems.add("SK203", table.where(row, column), "the cell is empty", "fill it in, or remove the row")
            continue
        first, known = rows.setdefault(key, (row, label))
        if known != label:
            message = f"is about the same {options.match} as {table.unit} {table.lines[first]}, with another class ('{label}' and '{known}')"
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
