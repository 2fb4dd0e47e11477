"""Zip archives: the same data set as the unpacked folder, and refused by name when they are unsafe, damaged or bombs."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import re
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import corpus
import numpy as np
import pytest
from PIL import Image

from simkit.dataset import Dataset, RemarkingReader, card_of
from simkit.errors import DataError, SimkitError
from simkit.registry import SOURCES
from simkit.sources.decode import Decoding
from simkit.sources.folder import Folder
from simkit.sources.zip import Zip


def png(value: int = 0) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(out, "PNG")
    return out.getvalue()


def archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def load(path: Path, **options: object) -> Dataset:
    return Zip(path, **options).load("d", Path())  # type: ignore[arg-type]


def failure(path: Path, **options: object) -> SimkitError:
    with pytest.raises(DataError) as caught:
        load(path, **options)
    assert caught.value.exit_status == 3
    return caught.value


CLASSES = {"b/2.png": png(2), "a/1.png": png(1), "a/deep/er/3.png": png(3)}


def test_an_archive_is_the_data_set_of_the_unpacked_folder(tmp_path: Path) -> None:
    path = archive(tmp_path / "set.zip", {**CLASSES, "empty/": b"", "a/notes.txt": b"n", "a/scan.dcm": b"", "a/more.zip": b"PK", "a/bare": png(9)})
    with zipfile.ZipFile(path) as file:
        file.extractall(tmp_path / "set")
    for labels in (True, False):
        packed, plain = load(path, labels=labels), Folder(tmp_path / "set", labels=labels).load("d", Path())
        assert (packed.keys, packed.classes, packed.label_names) == (plain.keys, plain.classes, plain.label_names)
        assert packed.digests == plain.digests
        assert packed.fingerprint == plain.fingerprint
        assert all(np.array_equal(packed.read(i), plain.read(i)) for i in range(len(plain)))
    assert packed.class_counts == {}
    assert load(path).class_counts == {"a": 3, "b": 1, "empty": 0}
    assert {s.key: s.reason for s in packed.skipped} == {
        "a/scan.dcm": "DICOM is not a format that this source reads", "a/more.zip": "an archive inside the archive is not a format that this source reads",
    }
    assert isinstance(packed.reader, RemarkingReader)


def test_the_corpus_reads_the_same_from_an_archive(tmp_path: Path) -> None:
    cases = [case for case in corpus.make(tmp_path / "set" / "odd") if (case.read is not None or case.refuse) and case.rules == Decoding()]
    names = [case.file for case in cases if case.file.isascii()]
    path = archive(tmp_path / "set.zip", {f"odd/{name}": (tmp_path / "set/odd" / name).read_bytes() for name in names})
    dataset = load(path)
    assert len(dataset) == len(names) > 30
    by_key = {f"odd/{case.file}": case for case in cases}
    for index, key in enumerate(dataset.keys):
        case = by_key[key]
        if case.read is not None:
            image, remarks = dataset.remarked(index)
            assert np.array_equal(image, case.read), key
            assert case.remarks is None or remarks == case.remarks, key
        else:
            with pytest.raises(DataError, match=rf"set\.zip: {re.escape(key)}: ") as caught:
                dataset.read(index)
            assert case.refuse is not None
            assert re.search(case.refuse[1], str(caught.value))


def test_the_window_of_the_data_set_is_the_same_in_an_archive(tmp_path: Path) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    for i in range(2):
        corpus.png16(tmp_path / "set" / "a" / f"{i}.png", np.arange(i * 100, i * 100 + 400, dtype=np.uint16).reshape(20, 20))
    path = archive(tmp_path / "set.zip", {f"a/{i}.png": (tmp_path / f"set/a/{i}.png").read_bytes() for i in range(2)})
    packed, plain = load(path, intensity="percentile"), Folder(tmp_path / "set", intensity="percentile").load("d", Path())
    assert packed.digests == plain.digests
    assert np.array_equal(packed.read(1), plain.read(1))


def test_a_single_top_folder_is_descended_and_one_can_be_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "top.zip", {f"set/{name}": data for name, data in CLASSES.items()} | {"__MACOSX/set/._1.png": b"junk", "README.txt": b"read"})
    assert load(path).keys == ("a/1.png", "a/deep/er/3.png", "b/2.png")
    assert load(path, labels=False).keys == load(path).keys
    one = archive(tmp_path / "one.zip", {"cats/1.png": png(), "cats/old/2.png": png(1)})
    assert load(one).classes == ("cats",)  # the folder holds images: it is a class
    assert load(one, labels=False).keys == ("1.png", "old/2.png")
    split = archive(tmp_path / "split.zip", {f"{split}/{name}": data for split in ("train", "test") for name, data in CLASSES.items()})
    assert "the folders are splits (test, train)" in str(failure(split))
    assert load(split, folder="train").keys == load(path).keys
    assert load(split, folder="train/").classes == ("a", "b")
    with pytest.raises(DataError, match=r"holds no folder 'trian'; folders found: test, test/a"):
        load(split, folder="trian")


def test_images_beside_class_folders_and_empty_archives_are_errors(tmp_path: Path) -> None:
    stray = archive(tmp_path / "stray.zip", {**CLASSES, "stray.png": png(9)})
    assert "1 images lie directly in the folder beside 2 class folders: stray.png" in str(failure(stray))
    nothing = archive(tmp_path / "nothing.zip", {"a/1.dcm": b"", "a/2.txt": b"x"})
    assert "no image in it that simkit reads; found: 1 .dcm (DICOM), 1 .txt" in str(failure(nothing))
    assert "differ only by case or blanks" in str(failure(archive(tmp_path / "case.zip", {"Cat/1.png": png(), "cat/2.png": png(1)})))
    assert "no other file" in str(failure(archive(tmp_path / "none.zip", {})))


def test_junk_is_ignored_and_folders_named_like_images_are_listed(tmp_path: Path) -> None:
    path = archive(tmp_path / "j.zip", {
        **CLASSES, "__MACOSX/a/._1.png": b"j", ".DS_Store": b"j", "a/Thumbs.db": b"j", "a/.hidden/1.png": png(5), "a/x.png/1.png": png(6), "./a/4.png": png(4),
    })
    dataset = load(path)
    assert dataset.keys == ("a/1.png", "a/4.png", "a/deep/er/3.png", "b/2.png")
    assert [(s.key, s.reason) for s in dataset.skipped] == [("a/x.png", "a folder that is named like an image: what it holds was not read")]


# ---------------------------------------------------------------- names


def renamed(path: Path, old: bytes, new: bytes) -> None:
    """Other bytes for a name in both places where it stands, of the same length."""
    assert len(old) == len(new)
    path.write_bytes(path.read_bytes().replace(old, new))


def test_names_in_any_script_are_read_and_guesses_are_said(tmp_path: Path) -> None:
    path = archive(tmp_path / "n.zip", {"肺/胸部.png": png(1), "ascii/xxxxxx.png": png(2), "ascii/yyyy.png": png(3)})
    renamed(path, b"xxxxxx", "été".encode() + b"1")  # UTF-8, as Info-ZIP writes it, without the flag
    renamed(path, b"yyyy", b"\x82t\x82s")  # code page 437
    dataset = load(path)
    assert dataset.keys == ("ascii/été1.png", "ascii/étés.png", "肺/胸部.png")
    said = [dataset.remarked(i)[1] for i in range(3)]
    assert said == [
        ("name in the archive read as UTF-8 (not declared there)",), ("name in the archive read as code page 437 (no other is declared there)",), (),
    ]
    card, _ = card_of(dataset)
    assert sum(card.remarks.values()) == 2


def test_backslashes_of_windows_separate_folders(tmp_path: Path) -> None:
    path = archive(tmp_path / "w.zip", {"a\\1.png": png(), "b\\2.png": png(1), "c\\": b""})
    assert load(path).keys == ("a/1.png", "b/2.png")
    assert load(path).class_counts == {"a": 1, "b": 1, "c": 0}


# ---------------------------------------------------------------- unsafe


def special(mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("a/odd.png")
    info.create_system, info.external_attr = 3, mode << 16
    return info


@pytest.mark.parametrize(("name", "words"), [
    ("../evil.png", r"\.\./evil\.png: the member has '\.\.' in its path"), ("a/../../evil.png", "the member has '..' in its path"),
    ("..\\evil.png", "the member has '..' in its path"), ("/etc/evil.png", "/etc/evil.png: the member has an absolute path"),
    ("\\\\host\\evil.png", "the member has an absolute path"), ("C:\\evil.png", "the member has a drive letter in its path"),
    ("c:evil.txt", "the member has a drive letter in its path"),
    (special(stat.S_IFLNK | 0o777), "a/odd.png: the member is a symbolic link"),
    (special(stat.S_IFCHR | 0o600), r"the member is not a regular file \(device\)"),
    (special(stat.S_IFIFO | 0o600), r"the member is not a regular file \(FIFO\)"),
])
def test_unsafe_members_refuse_the_archive_by_name(tmp_path: Path, name: str | zipfile.ZipInfo, words: str) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/1.png", png())
        file.writestr(name, b"target")
    error = failure(path)
    assert [problem.code for problem in error.problems] == ["SK205"]
    assert re.search(words, str(error)), str(error)
    assert "evil.zip: " in str(error)


def test_all_unsafe_members_are_named_at_once(tmp_path: Path) -> None:
    error = failure(archive(tmp_path / "e.zip", {"../1.png": png(), "a/2.png": png(), "/3.png": png()}))
    assert [problem.where.rpartition(": ")[2] for problem in error.problems] == ["../1.png", "/3.png"]


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "e.zip", {"a/1.png": png()})
    data = bytearray(path.read_bytes())
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + at] |= 1
    path.write_bytes(data)
    assert "a/1.png: the member is encrypted" in str(failure(path))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/1.png", png())
        file.writestr("a/1.png", png(1))
    error = failure(path)
    assert [problem.code for problem in error.problems] == ["SK204"]
    assert "a/1.png: the archive holds two members of this name" in str(error)


# ---------------------------------------------------------------- bombs and damage


def test_bombs_are_refused_by_their_declared_sizes_before_anything_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "bomb.zip", {"a/1.png": bytes(3 * 2**20), "a/2.png": png(), "a/small.png": bytes(2**20)})
    many = archive(tmp_path / "many.zip", {f"a/{i}.png": bytes(2**20) for i in range(80)})
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked"))
    error = failure(path)
    assert len(error.problems) == 1
    assert re.search(r"bomb\.zip: a/1\.png: unpacks from [0-9,]+ bytes to 3,145,728, more than 200 times as many(.|\n)*max_ratio", str(error))
    assert len(load(path, max_ratio=2000.0)) == 3
    assert re.search(r"a/1\.png: unpacks to 3,145,728 bytes, the limit is 2,000,000(.|\n)*max_member_bytes", str(failure(path, max_member_bytes=2_000_000)))
    message = str(failure(path, max_ratio=2000.0, max_total_bytes=4_000_000))
    assert re.search(r"bomb\.zip: its images unpack to 4,194,\d+ bytes, the limit is 4,000,000(.|\n)*max_total_bytes", message)
    assert re.search(r"many\.zip: its images unpack from [0-9,]+ bytes to 83,886,080, more than 200 times as many", str(failure(many)))


@pytest.mark.parametrize("declared", [100, 5000])
def test_a_header_that_lies_about_the_size_is_found_while_reading(tmp_path: Path, declared: int) -> None:
    data = np.random.default_rng(0).bytes(1000)
    path = archive(tmp_path / "lie.zip", {"a/1.png": data, "a/2.png": png()})
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 1000), struct.pack("<I", declared)))
    dataset = load(path)
    for act in (dataset.read, lambda i: dataset.reader.digest(i)):
        with pytest.raises(DataError, match=r"lie\.zip: a/1\.png: cannot be unpacked: "):
            act(0)
    _, kept = card_of(dataset)
    assert kept.keys == ("a/2.png",)


def test_a_member_that_is_damaged_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "d.zip", {"a/1.png": png(1), "a/2.png": png(2)}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 255
    path.write_bytes(data)
    dataset = load(path)
    with pytest.raises(DataError, match=r"d\.zip: a/1\.png: cannot be unpacked: Bad CRC-32"):
        dataset.read(0)
    assert int(dataset.read(1)[0, 0, 0]) == 2


def test_archives_that_are_cut_off_or_no_archives_are_named(tmp_path: Path) -> None:
    data = archive(tmp_path / "set.zip", CLASSES).read_bytes()
    for length in (10, len(data) // 2, len(data) - 30):
        (tmp_path / "cut.zip").write_bytes(data[:length])
        assert re.search(r"cut\.zip: cannot be read as a zip archive: is cut off: the directory at its end is missing", str(failure(tmp_path / "cut.zip")))
    (tmp_path / "page.zip").write_text("<html>404</html>")
    assert "page.zip: cannot be read as a zip archive: it looks like an HTML page" in str(failure(tmp_path / "page.zip"))
    assert "did you mean" in str(failure(tmp_path / "sett.zip"))
    assert "is not a file" in str(failure(tmp_path))


def test_an_archive_that_changes_is_named(tmp_path: Path) -> None:
    dataset = load(archive(tmp_path / "set.zip", CLASSES))
    archive(tmp_path / "set.zip", {**CLASSES, "c/4.png": png(4)})
    with pytest.raises(DataError, match=r"set\.zip: changed since the data set was listed"):
        dataset.read(0)
    (tmp_path / "set.zip").unlink()
    with pytest.raises(DataError, match=r"set\.zip: cannot be read \(No such file"):
        dataset.read(0)


def test_methods_that_are_not_known_are_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.zip", {"a/1.png": png(), "a/2.png": png(1)})
    data = bytearray(path.read_bytes())
    for magic, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data[data.index(magic) + at] = 97
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a/1\.png: cannot be unpacked: That compression method is not supported"):
        load(path).read(0)


# ---------------------------------------------------------------- processes and memory


def digest_in_child(reader: object, index: int, queue: object) -> None:
    queue.put(reader.digest(index))  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_threads_processes_and_copies_read_the_same(tmp_path: Path) -> None:
    members = {f"a/{i:03}.png": png(i) for i in range(100)}
    dataset = load(archive(tmp_path / "set.zip", members))
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda i: int(dataset.read(i)[0, 0, 0]), range(100)))
    assert values == list(range(100))
    copy = pickle.loads(pickle.dumps(dataset.reader))
    assert "_open" not in copy.__dict__
    assert copy.digest(7) == dataset.digests[7]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=digest_in_child, args=(dataset.reader, 9, queue))
    child.start()
    assert queue.get(timeout=60) == dataset.digests[9]
    child.join()


def test_nothing_is_written_and_only_what_is_asked_for_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "set.zip", {**CLASSES, "a/film.mp4": bytes(1000)})
    opened: list[str] = []
    plain = zipfile.ZipFile.open

    def noted(self: zipfile.ZipFile, info: zipfile.ZipInfo) -> object:
        opened.append(info.filename)
        return plain(self, info)

    monkeypatch.setattr(zipfile.ZipFile, "open", noted)
    dataset = load(path)
    assert opened == ["a/film.mp4"]  # its first bytes, to see whether it is an image
    dataset.read(0)
    assert opened == ["a/film.mp4", "a/1.png"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["set.zip"]


def test_the_source_is_known_and_imports_nothing_heavy() -> None:
    assert SOURCES.get("zip") is Zip
    code = "import sys, simkit.sources.zip, simkit.sources.table; print([m for m in ('torch', 'pandas', 'pyarrow', 'PIL', 'scipy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# ---------------------------------------------------------------- more ways to be odd


@pytest.mark.parametrize("top", ["set/", "data/set/", "./data/more/set/"])
def test_top_folders_are_descended_at_any_depth_and_named(tmp_path: Path, top: str) -> None:
    dataset = load(archive(tmp_path / "set.zip", {f"{top}{name}": data for name, data in CLASSES.items()}))
    assert (dataset.keys, dataset.classes) == (("a/1.png", "a/deep/er/3.png", "b/2.png"), ("a", "b"))
    assert dataset.origin == f"{tmp_path / 'set.zip'} (folder '{top.removeprefix('./').rstrip('/')}')"
    one = load(archive(tmp_path / "one.zip", {f"{top}a/1.png": png(), f"{top}a/2.png": png(1)}))
    assert one.classes == ("a",)


def test_members_that_share_bytes_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "overlap.zip", {"a/1.png": png(1), "a/2.png": png(1)})
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = struct.pack("<I", 5)
    path.write_bytes(data)
    error = failure(path)
    assert [problem.code for problem in error.problems] == ["SK205"]
    assert "overlap.zip: the members 'a/1.png' and 'a/2.png' share bytes (an archive bomb" in str(error)


def test_a_zero_byte_in_a_name_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "zero.zip", {"a/1.pngx.txt": png(1)})
    renamed(path, b"a/1.pngx.txt", b"a/1.png\0.txt")
    assert "the member has a zero byte in its name" in str(failure(path))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_method_is_read_and_its_damage_named(tmp_path: Path, method: int) -> None:
    path = archive(tmp_path / "m.zip", {"a/1.png": png(1), "a/2.bmp": np.random.default_rng(0).bytes(3000)}, method)
    assert int(load(path).read(0)[0, 0, 0]) == 1
    data = bytearray(path.read_bytes())
    at = data.index(b"a/2.bmp") + 300
    data[at : at + 20] = bytes(20)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"m\.zip: a/2\.bmp: cannot be unpacked: ") as caught:
        load(path).read(1)
    assert caught.value.problems[0].code == "SK206"


def test_every_cut_of_an_archive_is_an_error_that_names_it(tmp_path: Path) -> None:
    data, path = archive(tmp_path / "whole.zip", CLASSES).read_bytes(), tmp_path / "cut.zip"
    for length in range(0, len(data), 17):
        path.write_bytes(data[:length])
        assert re.search(r"SK201\] .*cut\.zip: cannot be read as a zip archive: (is cut off|it looks like)", str(failure(path))), length


def test_damaged_archives_give_a_data_set_or_an_error_that_names_them(tmp_path: Path) -> None:
    data, path, rng = archive(tmp_path / "whole.zip", CLASSES).read_bytes(), tmp_path / "damaged.zip", np.random.default_rng(0)
    named, read = [], 0
    for _ in range(400):
        broken = bytearray(data)
        for _ in range(3):
            broken[rng.integers(len(broken))] = rng.integers(256)
        path.write_bytes(broken)
        try:
            dataset = load(path)
            for index in range(len(dataset)):
                dataset.read(index)
            read += 1
        except DataError as error:
            named.append(error.problems[0].where)
    assert min(read, len(named)) > 10
    assert all("damaged.zip" in where for where in named)


def test_the_unicode_path_of_info_zip_is_used_when_it_belongs_to_the_name(tmp_path: Path) -> None:
    for checksum_of, meant in ((b"z\x82/5.png", "žž"), (b"other", "zé")):
        info, name = zipfile.ZipInfo("zz/5.png"), "žž/5.png".encode()
        info.extra = struct.pack("<HHBI", 0x7075, 5 + len(name), 1, zlib.crc32(checksum_of)) + name
        with zipfile.ZipFile(tmp_path / "u.zip", "w") as file:
            file.writestr(info, png(5))
        renamed(tmp_path / "u.zip", b"zz/5.png", b"z\x82/5.png")
        dataset = load(tmp_path / "u.zip")
        assert dataset.classes == (meant,)
        assert int(dataset.read(0)[0, 0, 0]) == 5


def test_zip64_data_descriptors_and_bytes_before_the_archive_are_read(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in CLASSES.items():
            with file.open(name, "w", force_zip64=True) as member:
                member.write(data)
    plain = load(archive(tmp_path / "plain.zip", CLASSES))
    stream = io.BufferedWriter(_Unseekable(tmp_path / "stream.zip"))
    with zipfile.ZipFile(stream, "w") as file:  # sizes stand after the bytes, as in an archive that was written to a pipe
        for name, data in CLASSES.items():
            file.writestr(name, data)
    stream.close()
    (tmp_path / "zip64.zip").write_bytes(out.getvalue())
    (tmp_path / "program.zip").write_bytes(b"#!/bin/sh\n" * 100 + out.getvalue())
    for kind in ("zip64", "program", "stream"):
        dataset = load(tmp_path / f"{kind}.zip")
        assert (dataset.keys, dataset.digests) == (plain.keys, plain.digests), kind
        assert all(np.array_equal(dataset.read(i), plain.read(i)) for i in range(3)), kind


class _Unseekable(io.FileIO):
    def __init__(self, path: Path):
        super().__init__(path, "w")

    def seekable(self) -> bool:
        return False

    def seek(self, *_: object) -> int:
        raise OSError("a pipe")

    def tell(self) -> int:
        raise OSError("a pipe")
