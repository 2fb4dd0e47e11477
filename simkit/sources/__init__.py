"""Ways to read a data set. Each source is one module, imported when its name is used; :func:`detect` chooses one for a path."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from simkit.errors import DataError, ResourceError
from simkit.registry import Spec
from simkit.sources.base import Source, nearest_entry, text_of

__all__ = ["PREFIXES", "Source", "detect", "name_for"]

READ = {".csv": "table", ".tsv": "table", ".npz": "npz", ".npy": "array", ".zip": "zip", ".tar": "webdataset"}
PREFIXES = {
    "array": "path", "dicom": "path", "huggingface": "path", "medmnist": "set", "nifti": "path", "samples": "set", "torchvision": "set",
    "webdataset": "path", "zip": "path",
}
"""Sources that are named by a prefix, ``samples:digits``, and the option that the rest stands for."""

KINDS = {".dcm": "DICOM", ".dicom": "DICOM", ".ima": "DICOM", ".nii": "NIfTI", ".nii.gz": "NIfTI", ".tar": "tar", ".parquet": "parquet"}
LOOKED_AT = 2000
"""Files of a folder that are looked at to find out what it holds."""

WAYS = "give a folder, a .csv, .tsv or .parquet table, an .npz, .npy, .zip or .tar file"


def detect(text: str) -> Spec:
    """The source for what a user typed: a folder, a file, a pattern (``train-{000..012}.tar``, ``data/*.parquet``), or a prefix
    (``samples:digits``, ``medmnist:pneumoniamnist``, ``dicom:studies/``, ``huggingface:owner/name``, ``torchvision:CIFAR10``).

    A folder that holds no folder is read without labels. A folder in which all images are DICOM (or NIfTI) files is read by that source. A
    parquet file that holds images is read by ``huggingface``, one that names files by ``table``. Relative paths are looked up from the
    working directory.

    Raises:
        DataError: nothing is there (naming what is), a file of another kind, or a folder that is described by a table inside it.
    """
    prefix, colon, rest = text.partition(":")
    if colon and prefix in PREFIXES:
        folder = Path(rest).expanduser()
        flat = prefix in ("dicom", "nifti") and folder.is_dir() and not any(entry.is_dir() for entry in folder.iterdir() if not entry.name.startswith("."))
        return Spec(prefix, {PREFIXES[prefix]: rest, **({"labels": False} if flat else {})})
    path = Path(text).expanduser()
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        return _pattern(text, path)
    if not path.is_file():
        raise DataError("SK201", text_of(path), "is neither a file nor a folder: no source reads it", WAYS)
    return _file(path)


def name_for(text: str) -> str:
    """What a data set is called whose user gave no name: the last part of its path, or of what follows a prefix, without the extension of a file.

    ``train-{000..012}.tar`` is "train", ``data/*.parquet`` is "data": what stands for several files is no name.
    """
    prefix, _, rest = text.partition(":")
    path = Path(rest if prefix in PREFIXES else text).expanduser().absolute()
    if not path.exists() and any(sign in path.name for sign in "*?[{"):
        start = re.split(r"[*?\[{]", path.name)[0].rstrip("-_. ")
        return start or path.parent.name
    if path.is_file() or _extension(path.name) in READ:
        return path.name[: -len(_extension(path.name))] if _extension(path.name) else path.name
    return path.name


def _pattern(text: str, path: Path) -> Spec:
    """What does not exist as it stands: a pattern of shards or parquet files, or nothing."""
    patterned = glob.has_magic(text) or ("{" in text and "}" in text)
    source = {".tar": "webdataset", ".parquet": "huggingface"}.get(path.suffix.lower())
    if patterned and source:
        return Spec(source, {"path": str(path)})
    fix = f"{WAYS}, samples:NAME, torchvision:NAME, or a name from a study file"
    raise DataError("SK201", text_of(path), f"does not exist{nearest_entry(path)}", fix)


def _file(path: Path) -> Spec:
    extension = _extension(path.name)
    if extension == ".parquet":
        return _parquet(path)
    if extension in READ:
        return Spec(READ[extension], {"path": str(path)})
    kind = KINDS.get(extension)
    if kind:
        fix = f"name the folder that holds it ({text_of(path.absolute().parent)}), or {kind.lower()}:PATH"
        raise DataError("SK201", text_of(path), f"is a single {kind} file: a data set is a folder of them", fix)
    if extension in (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"):
        fix = "unpack the compression once (gunzip keeps the .tar) and name the .tar file; or unpack it all and name the folder"
        raise DataError("SK201", text_of(path), "is a compressed tar file: an image in it cannot be read without unpacking all before it", fix)
    raise DataError("SK201", text_of(path), f"is a file with the extension '{path.suffix}': no source reads it", WAYS)


def _extension(name: str) -> str:
    """The extension, lower case; of compressed files both (``.nii.gz``)."""
    stem, last = os.path.splitext(name.lower())
    first = os.path.splitext(stem)[1]
    return first + last if first in (".nii", ".tar") and last in (".gz", ".bz2", ".xz", ".zst") else last


def _parquet(path: Path) -> Spec:
    """By its columns: images in it, or names of files."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ResourceError("SK303", text_of(path), f"the package pyarrow cannot be imported ({error})", "pip install 'simkit[parquet]'") from error
    try:
        schema = pyarrow.parquet.read_schema(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise DataError("SK201", text_of(path), f"is not a readable parquet file ({error})", "get the file again") from error
    types = pyarrow.types

    def holds_images(kind: pyarrow.DataType) -> bool:
        struct = types.is_struct(kind) and {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)}
        return struct or types.is_binary(kind) or types.is_large_binary(kind)

    images = [column.name for column in schema if holds_images(column.type)]
    if images:
        options = {"path": str(path)} | ({"image": images[0]} if "image" not in images and len(images) == 1 else {})
        return Spec("huggingface", options)
    if any(types.is_string(column.type) or types.is_large_string(column.type) for column in schema):
        return Spec("table", {"path": str(path)})
    message = f"has no column with images or with names of files; columns: {', '.join(schema.names)}"
    raise DataError("SK201", text_of(path), message, "give a table with a column path, or a parquet file that holds the images")


def _folder(path: Path) -> Spec:
    try:
        with os.scandir(path) as entries:
            seen = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError("SK201", text_of(path), f"the folder cannot be read ({error.strerror})", "check its permissions") from error
    folders = sorted(name for name, is_folder in seen if is_folder and name != "__MACOSX")
    kind = _kind(path)
    as_table = {".csv", ".tsv"} | ({".parquet"} if kind != "parquet" else set())
    tables = sorted(name for name, is_folder in seen if not is_folder and _extension(name) in as_table)
    if len(folders) == 1 and tables:
        message = f"holds one folder ('{text_of(folders[0])}') and a table ({', '.join(map(text_of, tables))}): the labels are probably in the table"
        shown = text_of(path / tables[0])
        way = f"name the folder with the table: dicom:{text_of(path)} with the option table = \"{text_of(tables[0])}\"" if kind == "DICOM" else ""
        raise DataError("SK201", text_of(path), message, way or f"name the table: {shown}")
    if kind == "tar" and not folders:
        return Spec("webdataset", {"path": str(path)})
    if kind == "parquet":
        return Spec("huggingface", {"path": str(path)})
    source = {"DICOM": "dicom", "NIfTI": "nifti"}.get(kind, "folder")
    return Spec(source, {"path": str(path)} if folders else {"path": str(path), "labels": False})


def _kind(path: Path) -> str:
    """"DICOM", "NIfTI", "tar" or "parquet" where no other kind of image is among the first files; else "".

    An image file that the source ``folder`` reads ends the search, so that folders of such images cost nothing.
    """
    from simkit.sources.formats import EXTENSIONS

    counts: Counter[str] = Counter()
    for number, file in enumerate(_files(path)):
        extension = _extension(file)
        if extension in EXTENSIONS or number >= LOOKED_AT:
            break
        counts[KINDS.get(extension) or ("DICOM" if not extension.strip(".0123456789") and _is_dicom(file) else "")] += 1
    else:
        kinds = [kind for kind in counts if kind]
        return kinds[0] if len(kinds) == 1 else ""
    kinds = [kind for kind in counts if kind]
    return kinds[0] if len(kinds) == 1 and sum(counts.values()) >= LOOKED_AT else ""


def _files(path: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        yield from (os.path.join(folder, name) for name in sorted(files) if not name.startswith("."))


def _is_dicom(file: str) -> bool:
    """Whether a file without extension (or with a number as one) is DICOM."""
    try:
        if not os.path.isfile(file):
            return False
        with open(file, "rb") as opened:
            return opened.read(132)[128:] == b"DICM"
    except OSError:
        return False
