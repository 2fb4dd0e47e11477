"""Folders of images: one folder per class, or all images below one folder without labels."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from simkit.dataset import Dataset, Skipped
from simkit.errors import DataError, Problems
from simkit.registry import option
from simkit.sources.base import Source, is_inside, located, nearest_entry, text_of
from simkit.sources.decode import Decoding
from simkit.sources.formats import EXTENSIONS, FORMATS, looks_like
from simkit.sources.readers import EncodedReader, FileReader, Stamp, stamp_of

__all__ = [
    "JUNK", "UNSUPPORTED", "Folder", "Found", "FoundImage", "Search", "check_class_names", "check_classes", "check_nesting", "extension_of", "found_dataset",
    "kind_of_entry", "no_folder", "sniffed",
]

UNSUPPORTED: dict[str, str] = {
    ".dcm": "DICOM", ".dicom": "DICOM", ".ima": "DICOM", ".nii": "NIfTI", ".nii.gz": "NIfTI", ".mha": "MetaImage", ".mhd": "MetaImage", ".nrrd": "NRRD",
    ".svs": "whole-slide image", ".ndpi": "whole-slide image", ".mrxs": "whole-slide image", ".scn": "whole-slide image", ".czi": "microscopy image",
    ".lif": "microscopy image", ".nd2": "microscopy image", ".jp2": "JPEG 2000", ".j2k": "JPEG 2000", ".jxl": "JPEG XL", ".heic": "HEIF", ".heif": "HEIF",
    ".avif": "AVIF", ".svg": "drawing", ".psd": "Photoshop", ".tga": "Targa", ".exr": "OpenEXR", ".npy": "NumPy array", ".raw": "raw image",
    ".cr2": "raw image", ".nef": "raw image", ".dng": "raw image",
}
"""Image formats that are not read: named with their counts, never ignored silently."""

JUNK = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin"})
SNIFFED = {"a DICOM file": "DICOM", "a NIfTI volume": "NIfTI"} | {f"a {kind} file": "image" for kind in ("JPEG", "PNG", "GIF", "TIFF", "WebP")}
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})


@dataclass(frozen=True)
class Folder(Source, Decoding):
    """A folder with one folder per class, or (``labels = false``) a folder of unlabelled images.

    Images anywhere below a class folder belong to the class; a class folder without an image is kept as a class with 0 images. Hidden
    files, what operating systems leave behind (``Thumbs.db``, ``__MACOSX``) and folders that are named like an image are ignored. Every
    real file counts once, however many links lead to it. What cannot be read is listed in the data set's ``skipped``. Class names that
    differ only by case or blanks are an error, except single characters ("a" and "A" are classes of handwriting).
    """

    name = "folder"

    path: Path = option(help="the folder")
    labels: bool = option(True, "one folder per class; false: one unlabelled set of all images below")
    nested: bool = option(False, "the folders inside the class folders bear the same names (views, sites) and are no classes", recipe=False)
    allow_outside: bool = option(False, "follow symbolic links that leave the folder")

    def load(self, name: str, base: Path) -> Dataset:
        """See :meth:`Source.load`; keys are paths relative to the folder, classes are the folder names, sorted."""
        path = located(self.path, base)
        where = text_of(path)
        if not path.is_dir():
            raise no_folder(path)
        search = Search(os.path.realpath(path), self.allow_outside, self.labels)
        search.run()
        search.problems.raise_if_any(DataError)
        return found_dataset(search, name, where, labelled=self.labels, nested=self.nested, reader=self._reader)

    def _reader(self, images: list[FoundImage]) -> FileReader:
        return FileReader(tuple(image.path for image in images), self.rules, tuple(image.stamp for image in images))


@dataclass(frozen=True)
class FoundImage:
    """An image that will be read: its key, where it lies, its class, and what its file was like when it was found."""

    key: str
    path: str
    label: str
    stamp: Stamp = (0, 0)


@dataclass(kw_only=True)
class Found:
    """What was found below a folder or in an archive.

    Attributes:
        images: what will be read.
        skipped: what will not, although it is named like an image, with the reason.
        unsupported: images of other formats.
        extensions: how often each extension occurs among files that are not read.
        classes: class folders.
        at_root: images in no class folder.
        problems: what makes the whole an error.
    """

    images: list[FoundImage] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    unsupported: dict[str, str] = field(default_factory=dict)
    extensions: Counter[str] = field(default_factory=Counter)
    classes: set[str] = field(default_factory=set)
    at_root: list[str] = field(default_factory=list)
    problems: Problems = field(default_factory=Problems)


@dataclass
class Search(Found):
    """What lies below a folder; ``run`` fills the lists. Real entries are looked at first, then symbolic links, so that a link never takes a file's place."""

    root: str
    allow_outside: bool
    labelled: bool
    files: dict[tuple[int, int], FoundImage] = field(default_factory=dict)
    folders: dict[tuple[int, int], str] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)

    def run(self) -> None:
        self._folder(self.root, os.stat(self.root))
        while self.links:
            waiting, self.links = sorted(self.links), []
            for link in waiting:
                self._link(link)

    def key(self, path: str) -> str:
        return text_of(os.path.relpath(path, self.root)).replace(os.sep, "/")

    def _folder(self, path: str, status: os.stat_result) -> None:
        """Walks without recursion: a tree may be deeper than Python's stack."""
        stack = [(path, status)]
        while stack:
            folder, status = stack.pop()
            self.folders[status.st_dev, status.st_ino] = folder
            for entry in self._entries(folder):
                if entry.is_symlink():
                    self.links.append(entry.path)
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError as error:  # it vanished since the folder was listed
                    self.skipped[self.key(entry.path)] = f"cannot be read ({error.strerror})"
                    continue
                if not stat.S_ISDIR(status.st_mode):
                    self._file(entry.path, status)
                elif self._is_folder_of_images(entry.path):
                    stack.append((entry.path, status))

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                yield from sorted((e for e in entries if not e.name.startswith(".") and e.name.lower() not in JUNK), key=lambda e: e.name)
        except OSError as error:
            self.skipped[self.key(folder)] = f"the folder cannot be read ({error.strerror})"

    def _is_folder_of_images(self, path: str) -> bool:
        """Registers a class; False for a folder that is named like an image."""
        if extension_of(path) in EXTENSIONS:
            if any(self._entries(path)):
                self.skipped[self.key(path)] = "a folder that is named like an image: what it holds was not read"
            return False
        if self.labelled and os.path.dirname(path) == self.root:
            self.classes.add(self.key(path))
        return True

    def _link(self, link: str) -> None:
        key = self.key(link)
        try:
            status, target = os.stat(link), os.path.realpath(link)
        except OSError as error:
            loop = "a symbolic link that leads to itself" if not isinstance(error, FileNotFoundError) else "a dangling symbolic link"
            self.skipped[key] = f"{loop} (to {text_of(os.readlink(link))})"
            return
        if not is_inside(target, self.root) and not self.allow_outside:
            fix = "allow it with allow_outside = true, or replace the link by the file"
            self.problems.add("SK205", text_of(link), f"is a symbolic link that leaves the folder (to {text_of(target)})", fix)
            return
        if not stat.S_ISDIR(status.st_mode):
            self._file(link, status)
            return
        known = self.folders.get((status.st_dev, status.st_ino))
        if known is None:
            if self._is_folder_of_images(link):
                self._folder(link, status)
        elif not is_inside(link, known):  # a link to a folder above itself is a loop and adds nothing
            self.skipped[key] = f"a symbolic link to the folder {self.key(known)}, whose images are counted there"

    def _file(self, path: str, status: os.stat_result) -> None:
        key, extension = self.key(path), extension_of(path)
        if not stat.S_ISREG(status.st_mode):
            self.skipped[key] = f"not a regular file ({kind_of_entry(status.st_mode)}), never opened"
            return
        if not os.access(path, os.R_OK):
            self.skipped[key] = "no permission to read it"
            return
        if not self.accepts(path, key, extension):
            return
        if "/" not in key:
            self.at_root.append(key)
        image = FoundImage(key, path, key.partition("/")[0], stamp_of(status))
        first = self.files.setdefault((status.st_dev, status.st_ino), image)
        if first is image:
            self.images.append(image)
        elif first.label == image.label or not self.labelled:
            self.skipped[key] = f"the same file as {first.key}, counted once"
        else:
            fix = "leave the file in one class only"
            self.problems.add("SK204", text_of(path), f"is the same file as {first.key} but lies in another class ('{image.label}' and '{first.label}')", fix)

    def accepts(self, path: str, key: str, extension: str) -> bool:
        """Whether a file is read: by its extension, else by its content. What is refused is counted, and named when it is an image."""
        if extension in EXTENSIONS:
            return True
        kind = UNSUPPORTED.get(extension) or _sniffed_file(path)
        if kind == "image":
            return True
        self.extensions[extension or "(no extension)"] += 1
        if kind:
            self.unsupported[key] = f"{kind} is not a format that this source reads"
        return False


def extension_of(path: str) -> str:
    """The extension in lower case, as text; ".nii.gz" counts as one."""
    name = os.path.basename(path).lower()
    return ".nii.gz" if name.endswith(".nii.gz") else os.path.splitext(text_of(name))[1]


def kind_of_entry(mode: int) -> str:
    """What an entry that is no regular file is, in words."""
    return "FIFO" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"


def sniffed(head: bytes) -> str:
    """For a file whose extension says nothing, by its first 512 bytes: "image" when it is one that is read, "DICOM", "NIfTI", or ""."""
    return SNIFFED.get(looks_like(head, len(head)), "")


def _sniffed_file(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return sniffed(file.read(512))
    except OSError:
        return ""


def no_folder(path: Path) -> DataError:
    """The error for a path that is no folder."""
    if not path.exists():
        return DataError("SK201", text_of(path), f"the folder does not exist{nearest_entry(path)}", "check the path; relative paths start at the study file")
    reader = {".csv": "table", ".tsv": "table", ".parquet": "table", ".npz": "npz", ".zip": "zip"}.get(path.suffix.lower())
    fix = f"read it with the source '{reader}'" if reader else "name the folder that holds the images"
    return DataError("SK201", text_of(path), "is a file, wanted a folder", fix)


def found_dataset(
    found: Found, name: str, where: str, *, labelled: bool, nested: bool, reader: Callable[[list[FoundImage]], EncodedReader],
) -> Dataset:
    """The data set of what was found: keys sorted, classes are the folder names, sorted.

    Args:
        found: images, classes and what is left out.
        name: of the data set.
        where: what messages call the folder or archive.
        labelled: whether class folders are classes.
        nested: whether folders of equal names inside the class folders are declared to be no classes.
        reader: makes the reader of the images, in their order.

    Raises:
        DataError: images outside class folders, folders that are no classes, or no image at all.
    """
    found.problems.raise_if_any(DataError)
    if labelled:
        check_classes(found, where)
        check_class_names(found.classes, where)
        check_nesting(found, where, nested=nested)
    if not found.images:
        raise nothing_read(found, where)
    images = sorted(found.images, key=lambda image: image.key)
    skipped = tuple(Skipped(name, key, reason) for key, reason in sorted({**found.skipped, **found.unsupported}.items()))
    classes = tuple(sorted(found.classes)) if labelled else ()
    number = {label: index for index, label in enumerate(classes)}
    labels = np.array([number[image.label] for image in images], dtype=np.int64) if labelled else None
    return Dataset(name, tuple(image.key for image in images), reader(images), labels, classes, origin=where, skipped=skipped)


def check_classes(found: Found, where: str) -> None:
    """Images must lie in class folders, and the folders must be classes."""
    if found.at_root:
        shown = ", ".join(sorted(found.at_root)[:5]) + (" ..." if len(found.at_root) > 5 else "")
        beside = f" beside {len(found.classes)} class folders" if found.classes else ", there are no class folders"
        fix = "move them into class folders, or declare labels = false for an unlabelled set"
        raise DataError("SK201", where, f"{len(found.at_root)} images lie directly in the folder{beside}: {shown}", fix)
    if len(found.classes) > 1 and {name.lower() for name in found.classes} <= SPLITS:
        names = ", ".join(sorted(found.classes))
        fix = "name one of them as the folder, or write a table with a split column"
        raise DataError("SK201", where, f"the folders are splits ({names}), not classes", fix)


def check_class_names(names: Iterable[str], where: str) -> None:
    """Class names must differ by more than case and blanks; single characters may ("a" and "A")."""
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        alike.setdefault(" ".join(name.split()).casefold() if len(name) > 1 else name, []).append(name)
    problems = Problems()
    for same in alike.values():
        if len(same) > 1:
            shown = " and ".join(f"'{name}'" for name in same)
            problems.add("SK203", where, f"the classes {shown} differ only by case or blanks", "give them one name, or names that differ by more")
    problems.raise_if_any(DataError)


def check_nesting(found: Found, where: str, *, nested: bool) -> None:
    """Folders of the same names in every class folder are probably classes themselves, and the whole is a folder of data sets.

    Said only where it is likely: no image lies directly in a class folder, each holds two folders with images at least, and two
    names without digits (so no patients, no magnifications) recur in every one of them.
    """
    inside: dict[str, set[str]] = {}
    for image in found.images:
        label, _, rest = image.key.partition("/")
        inside.setdefault(label, set()).add(rest.partition("/")[0] if "/" in rest else "")
    if nested or len(inside) < 2 or any("" in names or len(names) < 2 for names in inside.values()):
        return
    common = set.intersection(*inside.values())
    shared = sorted(name for name in common if not any(character.isdigit() for character in name))
    if len(shared) > 1:
        some, sets = ", ".join(f"'{name}'" for name in shared[:3]), ", ".join(sorted(inside)[:3])
        fix = "name one of the folders as the data set; or, if the inner folders are no classes, declare nested = true"
        raise DataError("SK201", where, f"looks like a folder of data sets ({sets}): the folders {some} recur in each, so they are the classes", fix)


def nothing_read(search: Found, where: str) -> DataError:
    found = []
    for extension, count in sorted(search.extensions.items(), key=lambda item: (-item[1], item[0])):
        kind = UNSUPPORTED.get(extension, "")
        found.append(f"{count} {extension}{f' ({kind})' if kind else ''}")
    message = "no image in it that simkit reads" + (f"; found: {', '.join(found)}" if found else "" if search.skipped else ", and no other file")
    if search.skipped:
        some = "; ".join(f"{key}: {reason}" for key, reason in sorted(search.skipped.items())[:5])
        message += f"; {len(search.skipped)} skipped ({some})"
    dicom = "DICOM files are read by the source 'dicom'; " if any(UNSUPPORTED.get(extension) == "DICOM" for extension in search.extensions) else ""
    return DataError("SK201", where, message, f"{dicom}formats read: {', '.join(FORMATS)}; convert other formats, or name another folder")
