"""Ways to read a data set. Each source is one module, imported when its name is used; :func:`detect` chooses one for a path."""

from __future__ import annotations

import os
from pathlib import Path

from simkit.errors import DataError
from simkit.registry import Spec
from simkit.sources.base import Source, nearest_entry, text_of

__all__ = ["Source", "detect"]

READ = {".csv": "table", ".tsv": "table", ".npz": "npz"}
PREFIXES = {"samples": "set", "medmnist": "set", "huggingface": "path", "dicom": "path"}
"""Sources that are named by a prefix, ``samples:digits``, and the option that the rest stands for."""


def detect(text: str) -> Spec:
    """The source for what a user typed: a folder, a ``.csv`` or ``.tsv`` table, an ``.npz`` file, or a prefix (``samples:digits``,
    ``medmnist:pneumoniamnist``, ``dicom:studies/``, ``huggingface:owner/name``).

    A folder that holds no folder is read without labels. Relative paths are looked up from the working directory.

    Raises:
        DataError: nothing is there (naming what is), a file of another kind, or a folder that is described by a table inside it.
    """
    prefix, colon, rest = text.partition(":")
    if colon and prefix in PREFIXES:
        return Spec(prefix, {PREFIXES[prefix]: rest})
    path = Path(text).expanduser()
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        fix = "give a folder, a .csv or .tsv table, an .npz file, samples:NAME, or a name from a study file"
        raise DataError("SK201", text_of(path), f"does not exist{nearest_entry(path)}", fix)
    source = READ.get(path.suffix.lower()) if path.is_file() else None
    if source is None:
        kind = f"is a file with the extension '{path.suffix}'" if path.is_file() else "is neither a file nor a folder"
        raise DataError("SK201", text_of(path), f"{kind}: no source reads it", "give a folder, a .csv or .tsv table, or an .npz file")
    return Spec(source, {"path": str(path)})


def _folder(path: Path) -> Spec:
    try:
        with os.scandir(path) as entries:
            seen = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError("SK201", text_of(path), f"the folder cannot be read ({error.strerror})", "check its permissions") from error
    folders = sorted(name for name, is_folder in seen if is_folder and name != "__MACOSX")
    tables = sorted(name for name, is_folder in seen if not is_folder and READ.get(os.path.splitext(name)[1].lower()) == "table")
    if len(folders) == 1 and tables:
        message = f"holds one folder ('{text_of(folders[0])}') and a table ({', '.join(map(text_of, tables))}): the labels are probably in the table"
        raise DataError("SK201", text_of(path), message, f"name the table: {text_of(path / tables[0])}")
    return Spec("folder", {"path": str(path)} if folders else {"path": str(path), "labels": False})
