"""Zip archives of images, read without unpacking: one folder per class inside, or all images of the archive without labels."""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simkit.dataset import Dataset
from simkit.errors import DataError, Problems
from simkit.registry import option
from simkit.sources.base import Source, located, nearest_entry, text_of
from simkit.sources.decode import Decoding, unreadable
from simkit.sources.folder import JUNK, UNSUPPORTED, Found, FoundImage, extension_of, found_dataset, kind_of_entry, sniffed
from simkit.sources.formats import EXTENSIONS, looks_like
from simkit.sources.readers import EncodedReader, Stamp, stamp_of

__all__ = ["Zip", "ZipReader"]

ARCHIVES = frozenset({".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"})
SMALL = 2**20
"""Members that unpack to less are no bombs, however well they are compressed."""

UNPACKING = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, OSError)
"""What Python's unpacking raises on damaged members and on methods that it does not know."""


@dataclass(frozen=True)
class Zip(Source, Decoding):
    """A zip archive that holds a folder of images, by the rules of the source ``folder``; nothing is written to disk.

    Keys, digests and so embeddings are those of the unpacked folder. When everything lies in one top folder that holds folders (at any depth),
    the data set is what that folder holds. Members that could write elsewhere or are no files (``..``, absolute paths, drives, links,
    devices), encrypted members, two of one name, and members whose sizes or places speak of a bomb make the whole archive an error,
    before anything is unpacked.
    """

    name = "zip"

    path: Path = option(help="the zip archive")
    folder: str = option("", "folder inside the archive that is the data set; by default the first that holds more than another folder")
    labels: bool = option(True, "one folder per class; false: one unlabelled set of all images below")
    nested: bool = option(False, "the folders inside the class folders bear the same names (views, sites) and are no classes", recipe=False)
    max_ratio: float = option(200.0, "an image, or all images together, may unpack to so many times the packed size", above=1, recipe=False)
    max_member_bytes: int = option(2**30, "images that unpack to more bytes are refused", minimum=1, recipe=False)
    max_total_bytes: int = option(2**41, "archives whose images unpack to more bytes together are refused", minimum=1, recipe=False)

    def load(self, name: str, base: Path) -> Dataset:
        """See :meth:`Source.load`; keys are paths below the data set's folder inside the archive, classes are the folder names, sorted."""
        path = located(self.path, base)
        where = text_of(path)
        if not path.is_file():
            message = "is not a file" if path.exists() else f"the archive does not exist{nearest_entry(path)}"
            raise DataError("SK201", where, message, "check the path; relative paths start at the study file")
        with opened(path) as archive:
            contents = _Contents(archive, where, self)
            contents.run()
            stamp = stamp_of(os.stat(path))
        packed = {image.key: int(image.path) for image in contents.images}

        def reader(images: list[FoundImage]) -> ZipReader:
            remarks = tuple(contents.remarks.get(image.key, "") for image in images)
            return ZipReader(str(path), tuple(packed[image.key] for image in images), self.rules, stamp, remarks)

        return found_dataset(contents, name, contents.origin, labelled=self.labels, nested=self.nested, reader=reader)


def opened(path: str | Path) -> zipfile.ZipFile:
    """The archive, its directory read.

    Raises:
        DataError: SK201, it is cut off, or no zip archive at all.
    """
    try:
        return zipfile.ZipFile(path)
    except UNPACKING as error:
        if isinstance(error, OSError) and error.errno is not None and error.strerror:
            raise unreadable(path, error) from error
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            kind = looks_like(file.read(512), size)
        why = "is cut off: the directory at its end is missing" if kind == "a zip archive" else f"it looks like {kind}"
        message = f"cannot be read as a zip archive: {why} ({error}; {size} bytes)"
        raise DataError("SK201", text_of(path), message, "copy or download it again") from error


def _name_of(info: zipfile.ZipInfo) -> tuple[str, str]:
    """Name of a member with / between folders, and how its letters were read when the archive does not say."""
    name = info.orig_filename.replace("\\", "/")
    if info.flag_bits & 0x800 or name.isascii():
        return name, ""
    raw = info.orig_filename.encode("cp437")  # undoes what Python does with names of no declared encoding
    if declared := _unicode_path(info.extra, raw):
        return declared.replace("\\", "/"), ""
    try:
        return raw.decode("utf-8").replace("\\", "/"), "name in the archive read as UTF-8 (not declared there)"
    except UnicodeError:
        return name, "name in the archive read as code page 437 (no other is declared there)"


def _unicode_path(extra: bytes, raw: bytes) -> str:
    """The name in the extra field 0x7075 (Info-ZIP Unicode Path), where there is one that belongs to this raw name; else ""."""
    while len(extra) >= 4:
        kind, length = struct.unpack("<HH", extra[:4])
        body, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == 0x7075 and len(body) > 5 and body[0] == 1 and struct.unpack("<I", body[1:5])[0] == zlib.crc32(raw):
            return body[5:].decode("utf-8", "backslashreplace")
    return ""


def _danger(info: zipfile.ZipInfo, name: str) -> str:
    """Why a member makes the archive unsafe; "" for most."""
    parts = name.split("/")
    mode = info.external_attr >> 16
    if "\0" in name:
        return "has a zero byte in its name"
    if ".." in parts:
        return "has '..' in its path"
    if name.startswith("/"):
        return "has an absolute path"
    if re.match("[A-Za-z]:", name):
        return "has a drive letter in its path"
    if stat.S_ISLNK(mode):
        return "is a symbolic link"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return f"is not a regular file ({kind_of_entry(mode)})"
    return "is encrypted" if info.flag_bits & 0x1 else ""


@dataclass
class _Member:
    """A member that is a file and no junk: position in the archive's directory, name, how the name was read."""

    position: int
    info: zipfile.ZipInfo
    name: str
    remark: str


class _Contents(Found):
    """What an archive holds; ``run`` fills the lists. The ``path`` of an image is its position in the archive's directory."""

    def __init__(self, archive: zipfile.ZipFile, where: str, options: Zip):
        super().__init__()
        self.archive, self.where, self.options = archive, where, options
        self.origin = where
        self.remarks: dict[str, str] = {}
        self.folders: set[str] = set()

    def run(self) -> None:
        members = self._members()
        self._check_places()
        self.problems.raise_if_any(DataError)
        top = self._top(members)
        if top:
            self.origin = f"{self.where} (folder '{text_of(top.rstrip('/'))}')"
        self.classes = {folder[len(top) :].partition("/")[0] for folder in self.folders if folder.startswith(top) and len(folder) > len(top)}
        wanted = [member for member in members if member.name.startswith(top) and self._accepts(member, member.name[len(top) :])]
        self._check_sizes(wanted)
        for member in wanted:
            key = member.name[len(top) :]
            self.images.append(FoundImage(key, str(member.position), key.partition("/")[0]))
            if "/" not in key:
                self.at_root.append(key)
            if member.remark:
                self.remarks[key] = member.remark

    def _members(self) -> list[_Member]:
        """Files that are no junk; dangerous and repeated members become problems."""
        found: dict[str, _Member] = {}
        for position, info in enumerate(self.archive.infolist()):
            name, remark = _name_of(info)
            danger = _danger(info, name)
            if danger:
                self.problems.add("SK205", f"{self.where}: {text_of(name)}", f"the member {danger}", "make the archive again without it")
                continue
            parts = [part for part in name.split("/") if part not in ("", ".")]
            if any(part.startswith(".") or part.lower() in JUNK for part in parts) or not parts:
                continue
            name = "/".join(parts)
            is_folder = info.is_dir() or info.orig_filename.endswith("\\")
            self._remember_folders(parts if is_folder else parts[:-1])
            if is_folder:
                continue
            first = found.setdefault(name, _Member(position, info, name, remark))
            if first.position != position:
                self.problems.add("SK204", f"{self.where}: {text_of(name)}", "the archive holds two members of this name", "make the archive again with one")
        return list(found.values())

    def _remember_folders(self, parts: list[str]) -> None:
        for length in range(len(parts), 0, -1):
            folder = "/".join(parts[:length]) + "/"
            if folder in self.folders:
                return
            if not any(extension_of(part) in EXTENSIONS for part in parts[:length]):
                self.folders.add(folder)

    def _top(self, members: list[_Member]) -> str:
        """Folder that is the data set, with a slash at its end; "" for the archive itself."""
        wanted = self.options.folder.strip("/")
        if wanted:
            if f"{wanted}/" not in self.folders:
                shown = ", ".join(sorted(folder.rstrip("/") for folder in self.folders)[:8]) or "none"
                raise DataError("SK201", self.where, f"holds no folder '{wanted}'; folders found: {shown}", "correct the option folder")
            return f"{wanted}/"
        images = [member.name for member in members if extension_of(member.name) in EXTENSIONS]
        top = ""
        while True:
            inside = {folder for folder in self.folders if folder.startswith(top) and folder.count("/") == top.count("/") + 1}
            if len(inside) != 1 or any(name.startswith(top) and "/" not in name[len(top) :] for name in images):
                return top
            only = next(iter(inside))
            flat = any(name.startswith(only) and "/" not in name[len(only) :] for name in images)
            if self.options.labels and (flat or not any(folder.startswith(only) and folder != only for folder in self.folders)):
                return top  # a class
            top = only

    def _check_places(self) -> None:
        """Members that share bytes are how a small archive becomes petabytes."""
        end, last = 0, ""
        for info in sorted(self.archive.infolist(), key=lambda one: one.header_offset):
            if info.header_offset < end:
                message = f"the members {last!r} and {info.filename!r} share bytes (an archive bomb, or a damaged archive)"
                self.problems.add("SK205", self.where, message, "make the archive again")
                return
            end, last = info.header_offset + 30 + len(info.orig_filename) + info.compress_size, info.filename

    def _accepts(self, member: _Member, key: str) -> bool:
        """Whether a member is read: by its extension, else by its content; see :meth:`simkit.sources.folder.Search.accepts`."""
        extension = extension_of(key)
        folders = key.split("/")[:-1]
        for depth, folder in enumerate(folders):
            if extension_of(folder) in EXTENSIONS:
                self.skipped["/".join(folders[: depth + 1])] = "a folder that is named like an image: what it holds was not read"
                return False
        if extension in EXTENSIONS:
            return True
        kind = "an archive inside the archive" if extension in ARCHIVES else UNSUPPORTED.get(extension) or self._sniffed(member)
        if kind == "image":
            return True
        self.extensions[extension or "(no extension)"] += 1
        if kind:
            self.unsupported[key] = f"{kind} is not a format that this source reads"
        return False

    def _sniffed(self, member: _Member) -> str:
        try:
            with self.archive.open(member.info) as file:
                return sniffed(file.read(512))
        except UNPACKING as error:
            self.skipped[member.name] = f"cannot be unpacked ({error})"
            return ""

    def _check_sizes(self, members: list[_Member]) -> None:
        """Refuses what would unpack to too much, by the sizes that the directory declares; reading holds every member to them."""
        limits, problems = self.options, Problems()
        total, packed = sum(member.info.file_size for member in members), sum(member.info.compress_size for member in members)
        for member in members:
            size, small = member.info.file_size, member.info.compress_size
            name, fix = f"{self.where}: {text_of(member.name)}", "leave it out; if you trust the archive, declare a higher "
            if size > limits.max_member_bytes:
                problems.add("SK205", name, f"unpacks to {size:,} bytes, the limit is {limits.max_member_bytes:,}", f"{fix}max_member_bytes")
            elif size > SMALL and size > limits.max_ratio * small:
                message = f"unpacks from {small:,} bytes to {size:,}, more than {limits.max_ratio:g} times as many (an archive bomb?)"
                problems.add("SK205", name, message, f"{fix}max_ratio")
        fix = "if you trust the archive, declare a higher "
        if total > limits.max_total_bytes:
            problems.add("SK205", self.where, f"its images unpack to {total:,} bytes, the limit is {limits.max_total_bytes:,}", f"{fix}max_total_bytes")
        elif total > 64 * SMALL and total > limits.max_ratio * packed:
            message = f"its images unpack from {packed:,} bytes to {total:,}, more than {limits.max_ratio:g} times as many (an archive bomb?)"
            problems.add("SK205", self.where, message, f"{fix}max_ratio")
        problems.raise_if_any(DataError)


@dataclass(frozen=True, eq=False)
class ZipReader(EncodedReader):
    """Images inside one zip archive. The archive is opened once per process, and one image at a time is unpacked, into memory.

    Attributes:
        path: the archive.
        members: position of each image in the archive's directory.
        rules: how they become 8 bit.
        stamp: size and time of the archive when it was listed.
        remarks: what is to be said of each image's name; "" for nothing.
    """

    path: str
    members: tuple[int, ...]
    rules: Decoding
    stamp: Stamp
    remarks: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.members)

    def where(self, index: int) -> str:
        return f"{text_of(self.path)}: {text_of(_name_of(self._info(index))[0])}"

    def source(self, index: int) -> bytes:
        return b"".join(self._chunks(index))

    def content(self, index: int) -> str:
        sha = hashlib.sha256()
        for chunk in self._chunks(index):
            sha.update(chunk)
        return sha.hexdigest()

    def remarked(self, index: int) -> tuple[Any, tuple[str, ...]]:
        image, said = super().remarked(index)
        return image, (*said, self.remarks[index]) if self.remarks[index] else said

    def check(self, index: int) -> None:
        try:
            now = stamp_of(os.stat(self.path))
        except OSError as error:
            raise unreadable(self.path, error) from error
        if now != self.stamp:
            raise DataError("SK206", text_of(self.path), "changed since the data set was listed", "leave the archive alone while simkit runs, and run it again")

    def _chunks(self, index: int) -> Iterator[bytes]:
        """The member's bytes, never more than its declared size, checked against its checksum."""
        info, read = self._info(index), 0
        try:
            with self._archive().open(info) as file:
                while chunk := file.read(SMALL):
                    read += len(chunk)
                    if read > info.file_size:
                        raise zipfile.BadZipFile(f"more than the {info.file_size} bytes that the archive declares")
                    yield chunk
            if read != info.file_size:
                raise zipfile.BadZipFile(f"{read} bytes instead of the {info.file_size} that the archive declares")
        except UNPACKING as error:
            message = f"cannot be unpacked: {str(error) or type(error).__name__}"
            raise DataError("SK206", self.where(index), message, "copy or download the archive again, or make it again by deflate") from error

    def _info(self, index: int) -> zipfile.ZipInfo:
        return self._archive().infolist()[self.members[index]]

    def _archive(self) -> zipfile.ZipFile:
        """The open archive of this process: a child made by fork would share the place in the file with its parent."""
        with _OPENING:
            known: tuple[int, zipfile.ZipFile] | None = self.__dict__.get("_open")
            if known is None or known[0] != os.getpid():
                known = self.__dict__["_open"] = os.getpid(), opened(self.path)
        return known[1]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "_open"}


_OPENING = threading.Lock()
"""One thread opens an archive, the others use what it opened."""
