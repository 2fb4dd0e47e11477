"""Tar shards in the layout of webdataset, read where they lie: an index of the members, nothing unpacked."""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from simkit.dataset import Dataset, Skipped
from simkit.errors import DataError, Problems, UsageError
from simkit.recipe import digest_bytes
from simkit.registry import option
from simkit.sources.arrays import indicators_of, labels_of
from simkit.sources.base import Source, located, nearest_entry, text_of
from simkit.sources.decode import EXTENSIONS, Decoding
from simkit.sources.readers import EncodedReader, Stamp, stamp_of

__all__ = ["ShardReader", "Webdataset", "expanded"]

LARGEST_TEXT = 2**20
"""A label or metadata part of more bytes is taken for something else."""

BLOCK = 512
PARTS = re.compile(r"^((?:.*/|)[^./][^./]*)\.([^/]+)$")
"""A member's name: the key is all before the first dot of the file name, folder included; the rest is the extension."""


@dataclass(frozen=True)
class Webdataset(Source, Decoding):
    """Tar shards as the package ``webdataset`` writes them: members with one key (the name up to its first dot) are one sample.

    Nothing is unpacked: the headers are read once, and each image from its place. Image bytes are decoded by the rules of the source
    ``folder`` and have the same digests. Compressed shards are refused, because an image in them has no place of its own.
    """

    name = "webdataset"
    citation = "layout: the package webdataset (T. Breuel)"

    path: str | tuple[str, ...] = option(help="a shard, a pattern such as train-{000..012}.tar or train-*.tar, a folder of .tar files, or a list of these")
    image: tuple[str, ...] = option((), "extensions of the image, such as jpg or left.png; by default every one that simkit reads")
    label: str = option("cls", 'part that holds the class: an extension (cls, txt), or json:field; "" for an unlabelled set')
    group: str | None = option(None, "part that holds the patient (or slide, volume): an extension, or json:field such as json:patient")
    classes: Path | None = option(None, "text file with one class name a line, for labels that are numbers")

    def load(self, name: str, base: Path) -> Dataset:
        """See :meth:`Source.load`; keys are those of the samples.

        Labels that are whole numbers index the lines of ``classes``, where it is given, else they name themselves. A JSON list of labels
        makes a multi-label set.
        """
        shards = _shards((self.path,) if isinstance(self.path, str) else self.path, base)
        where = text_of(self.path if isinstance(self.path, str) else ", ".join(self.path))
        index = _Index(self)
        for number, shard in enumerate(shards):
            index.read(number, shard)
        index.problems.raise_if_any(DataError)
        if not index.keys:
            raise DataError("SK201", where, f"no sample in {len(shards)} shards", "check the path; members are named KEY.jpg, KEY.cls, ...")
        reader = ShardReader(
            rules=self.rules, shards=tuple(shards), stamps=tuple(index.stamps), shard=np.array(index.shard, np.int32),
            offsets=np.array(index.offsets, np.int64), sizes=np.array(index.sizes, np.int64), keys=tuple(index.keys),
        )
        names = _names(located(self.classes, base)) if self.classes else None
        labels, indicators, classes = _labels(index, shards, names) if self.label else (None, None, ())
        skipped = tuple(Skipped(name, key, reason) for key, reason in sorted(index.skipped.items()))
        groups = tuple(str(value) for value in index.groups) if self.group else None
        return Dataset(name, tuple(index.keys), reader, labels, classes, groups, origin=where, skipped=skipped, indicators=indicators)


@dataclass(frozen=True, eq=False)
class ShardReader(EncodedReader):
    """Images that are members of tar files, each read from its place.

    Attributes:
        rules: how they become 8 bit.
        shards: paths of the tar files.
        stamps: size and time of each tar file when its members were listed.
        shard: (n,) number of the tar file of each image.
        offsets: (n,) where its bytes begin.
        sizes: (n,) how many they are.
        keys: (n) of the samples, for messages.
    """

    rules: Decoding
    shards: tuple[str, ...]
    stamps: tuple[Stamp, ...]
    shard: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def where(self, index: int) -> str:
        return f"{text_of(self.shards[self.shard[index]])}: {self.keys[index]}"

    def source(self, index: int) -> bytes:
        size = int(self.sizes[index])
        try:
            with open(self.shards[self.shard[index]], "rb") as file:
                file.seek(int(self.offsets[index]))
                data = file.read(size)
        except OSError as error:
            raise DataError("SK206", self.where(index), f"the shard cannot be read ({error.strerror})", "check that the file exists") from error
        if len(data) < size:
            raise DataError("SK206", self.where(index), f"the shard ends within the image ({len(data)} of {size} bytes)", "get the shard again")
        return data

    def content(self, index: int) -> str:
        return digest_bytes(self.source(index))

    def check(self, index: int) -> None:
        number = int(self.shard[index])
        try:
            now = stamp_of(os.stat(self.shards[number]))
        except OSError as error:
            raise DataError("SK206", self.where(index), f"the shard cannot be read ({error.strerror})", "check that the file exists") from error
        if now != self.stamps[number]:
            raise DataError("SK206", self.where(index), "the shard changed since its members were listed", "leave it alone while simkit runs; run it again")


def expanded(pattern: str) -> list[str]:
    """Braces written out, as a shell does: ``a-{08..10}.tar`` is three names, ``{train,val}.tar`` two."""
    pieces: list[list[str]] = []
    for piece in re.split(r"(\{[^{}]*\})", pattern):
        span = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", piece)
        if span:
            first, last = span.groups()
            width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
            pieces.append([f"{number:0{width}d}" for number in range(int(first), int(last) + 1)])
        else:
            pieces.append(piece[1:-1].split(",") if piece.startswith("{") and "," in piece else [piece])
    return ["".join(parts) for parts in product(*pieces)]


def _shards(patterns: Sequence[str], base: Path) -> list[str]:
    """The tar files, in the order of the patterns; every name that is not there is an error."""
    problems, found = Problems(), []
    for pattern in patterns:
        if re.match(r"(pipe|https?|s3|gs|hdfs|ais|file):", pattern):
            fix = "download the shards, and name the files; commands behind pipe: are never run"
            raise UsageError("SK102", "webdataset.path", f"'{pattern}' is not a local path", fix)
        names = expanded(pattern)
        if not names:
            problems.add("SK201", pattern, "the pattern stands for no name: its range is empty", "write the smaller number first")
        for path in (located(Path(name), base) for name in names):
            if path.is_dir():
                inside = sorted(str(entry) for entry in path.iterdir() if entry.suffix.lower() == ".tar" and not entry.name.startswith("."))
                if not inside:
                    problems.add("SK201", text_of(path), f"no .tar file in the folder{nearest_entry(path / 'x.tar')}", "name the folder that holds the shards")
                found += inside
            elif path.is_file():
                found.append(str(path))
            else:
                matches = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(str(path)) else []
                if not matches:
                    problems.add("SK201", text_of(path), f"does not exist{nearest_entry(path)}", "check the path; relative paths start at the study file")
                found += matches
    problems.raise_if_any(DataError)
    return list(dict.fromkeys(found))


@dataclass
class _Index:
    """What the headers of the shards say; ``read`` adds a shard."""

    options: Webdataset
    keys: list[str] = field(default_factory=list)
    shard: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    groups: list[Any] = field(default_factory=list)
    stamps: list[Stamp] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)
    seen: dict[str, str] = field(default_factory=dict)

    def read(self, number: int, path: str) -> None:
        """All samples of one shard."""
        where = text_of(path)
        try:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                self.stamps.append(stamp_of(status))
                _check_plain(file.read(BLOCK), where)
                file.seek(0)
                self._samples(number, where, _members(file, where, status.st_size, self.problems), file)
        except OSError as error:
            self.problems.add("SK201", where, f"cannot be read ({error.strerror or error})", "check that the file exists and that you may read it")
        except DataError as error:
            self.problems.catch(error)

    def _samples(self, number: int, where: str, members: Iterator[tarfile.TarInfo], file: Any) -> None:
        key, parts = "", dict[str, tarfile.TarInfo]()
        for member in members:
            place = f"{where}: {text_of(member.name)}"
            match = PARTS.match(member.name.removeprefix("./"))
            if match is None or "__MACOSX" in member.name:
                if not os.path.basename(member.name).startswith("."):
                    self.skipped[place] = "not part of a sample: its name is not KEY.EXTENSION"
                continue
            found, extension = text_of(match[1]), match[2].lower()
            if found != key:
                self._sample(number, where, key, parts, file)
                key, parts = found, {}
            if extension in parts:
                self.problems.add("SK204", place, f"the sample '{key}' has two parts '{extension}'", "write every sample under a key of its own")
            parts[extension] = member
        self._sample(number, where, key, parts, file)

    def _sample(self, number: int, where: str, key: str, parts: Mapping[str, tarfile.TarInfo], file: Any) -> None:
        if not parts:
            return
        place = f"{where}: {key}"
        if key in self.seen:
            other = "the same shard, not beside its other parts" if self.seen[key] == where else self.seen[key]
            fix = "write every sample under a key of its own, its parts together"
            self.problems.add("SK204", place, f"the key occurs a second time; the first is in {other}", fix)
            return
        self.seen[key] = where
        try:
            image = parts[_image_part(place, parts, self.options.image)]
            label = _value(place, parts, self.options.label, file, "label") if self.options.label else None
            group = _value(place, parts, self.options.group, file, "group") if self.options.group else None
        except DataError as error:
            self.problems.catch(error)
            return
        self.keys.append(key)
        self.shard.append(number)
        self.offsets.append(image.offset_data)
        self.sizes.append(image.size)
        self.labels.append(label)
        self.groups.append(group)


def _check_plain(head: bytes, where: str) -> None:
    kinds = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
    for magic, kind in kinds.items():
        if head.startswith(magic):
            message = f"is compressed ({kind}): an image in it cannot be read without unpacking all before it"
            raise DataError("SK201", where, message, "unpack the compression once (gunzip keeps the .tar) and name the .tar file; images gain nothing from it")
    if not head:
        raise DataError("SK201", where, "is empty (0 bytes)", "get the shard again")


def _members(file: Any, where: str, size: int, problems: Problems) -> Iterator[tarfile.TarInfo]:
    """The regular files of a tar file; what could write or read elsewhere is refused by name, and a tar file that does not end as it must is an error."""
    last = "no member"
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or a million headers stay in memory
                if member.size < 0:  # the next header would lie before this one
                    raise tarfile.ReadError(f"'{text_of(member.name)}' has the size {member.size}")
                if member.isdir():
                    continue
                refused = _refused(member)
                if refused:
                    problems.add("SK205", f"{where}: {text_of(member.name)}", refused, "write the shard again, with regular files and relative names only")
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                yield member
                last = f"'{text_of(member.name)}'"
            end = tar.offset
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        fix = "get the shard again: it was not copied completely, or is damaged"
        raise DataError("SK201", where, f"is not a complete tar file ({error}); the last good member is {last}", fix) from error
    file.seek(end)
    rest = file.read(2**20)
    if rest[:BLOCK] != bytes(BLOCK) or rest.strip(b"\0"):
        what = "data follow its end (tar files joined by cat?)" if rest[:BLOCK] == bytes(BLOCK) else f"it ends or is damaged at byte {end} of {size}"
        raise DataError("SK201", where, f"is not a complete tar file ({what}); the last good member is {last}", "get the shard again, or write it again")


def _refused(member: tarfile.TarInfo) -> str:
    parts = member.name.replace("\\", "/").split("/")
    if member.issym() or member.islnk():
        return f"is a link (to {text_of(member.linkname)}): links in archives are never followed"
    if not member.isreg() or member.issparse():
        return "is not a plain file (a device, a FIFO, or of a rare kind)"
    if member.name.startswith("/") or ".." in parts:
        return "has a name that leads out of the archive"
    return ""


def _image_part(place: str, parts: Mapping[str, tarfile.TarInfo], wanted: tuple[str, ...]) -> str:
    """The extension of the sample's image."""
    known = [one.lower().removeprefix(".") for one in wanted] or [one[1:] for one in EXTENSIONS]
    found = [extension for extension in parts if extension in known]
    names = ", ".join(parts)
    if not found:
        nested = [extension for extension in parts if f".{extension.rpartition('.')[2]}" in EXTENSIONS]
        fix = f'name it by image = ["{nested[0]}"]' if nested else "write the image into the shard, or name its extension by image = [...]"
        raise DataError("SK205", place, f"the sample has no image; its parts: {names}", fix)
    if len(found) > 1:
        raise DataError("SK205", place, f"the sample has {len(found)} images ({', '.join(found)})", f'name the one by image = ["{found[0]}"]')
    return found[0]


def _value(place: str, parts: Mapping[str, tarfile.TarInfo], wanted: str, file: Any, role: str) -> Any:
    """What stands in a part ("cls") or in a field of a JSON part ("json:patient")."""
    extension, _, name = wanted.partition(":")
    extension = extension.lower().removeprefix(".")
    if extension not in parts:
        extra = ', or declare label = "" for an unlabelled set' if role == "label" else ""
        message = f"the sample has no part '{extension}', which holds the {role}; its parts: {', '.join(parts)}"
        raise DataError("SK205", place, message, f'name the part by {role} = "..."{extra}')
    member = parts[extension]
    if member.size > LARGEST_TEXT:
        raise DataError("SK203", place, f"the part '{extension}' has {member.size} bytes: not a {role}", f'name the part by {role} = "..."')
    position = file.tell()
    file.seek(member.offset_data)
    data = file.read(member.size)
    file.seek(position)
    try:
        text = data.decode("utf-8").strip()
        value = json.loads(text) if name else int(text) if re.fullmatch(r"-?[0-9]+", text) else text
    except ValueError as error:
        raise DataError("SK203", place, f"the part '{extension}' is not {'JSON' if name else 'text'}: {error}", "write the shard again") from error
    for step in name.split(".") if name else ():
        if not isinstance(value, dict) or step not in value:
            held = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
            raise DataError("SK203", place, f"the part '{extension}' has no field '{name}'; it holds {held}", f'name the field by {role} = "{extension}:..."')
        value = value[step]
    good = isinstance(value, (int, str)) or (role == "label" and isinstance(value, list) and all(isinstance(one, (int, str)) for one in value))
    if not good or value == "":
        raise DataError("SK203", place, f"the {role} in '{wanted}' is {value!r}", f"write a {role} as text or a whole number")
    return value


def _names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise DataError("SK201", text_of(path), f"the file of class names does not exist{nearest_entry(path)}", "check the option classes")
    try:
        return tuple(line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("SK201", text_of(path), f"the file of class names cannot be read ({error})", "give a UTF-8 text file, one name a line") from error


def _labels(index: _Index, shards: Sequence[str], names: tuple[str, ...] | None) -> tuple[np.ndarray | None, np.ndarray | None, tuple[str, ...]]:
    """Class indices or indicators, and the class names. Numbers in one shard and text in another are an error that names both."""
    kinds: dict[str, tuple[str, str]] = {}
    for key, number, value in zip(index.keys, index.shard, index.labels, strict=True):
        kind = "a list" if isinstance(value, list) else "text" if isinstance(value, str) else "a number"
        kinds.setdefault(kind, (f"{text_of(shards[number])}: {key}", repr(value)))
    if len(kinds) > 1:
        shown = "; ".join(f"{kind} ({value}) in {place}" for kind, (place, value) in kinds.items())
        raise DataError("SK203", next(iter(kinds.values()))[0], f"labels are of several kinds: {shown}", "write all shards with the same kind of label")
    places = [f"{text_of(shards[number])}: {key}" for key, number in zip(index.keys, index.shard, strict=True)]
    if "a list" in kinds:
        indicators, classes = indicators_of(index.labels, names, places)
        return None, indicators, classes
    labels, classes = labels_of(index.labels, names, places)
    return labels, None, classes
