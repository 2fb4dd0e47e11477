"""Sources: what is read comes out pixel by pixel, what cannot be read is named, and nothing is lost in between."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import corpus
import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from simkit.dataset import Dataset, card_of
from simkit.errors import DataError, ResourceError, SimkitError, UsageError
from simkit.registry import SOURCES, Spec
from simkit.sources import Source, detect
from simkit.sources.base import is_inside, located, text_of
from simkit.sources.decode import Decoding, decode, decode_remarked, looks_like
from simkit.sources.folder import Folder
from simkit.sources.npz import Npz
from simkit.sources.readers import FileReader
from simkit.sources.table import Table


def image(path: Path, value: int = 0, size: int = 4) -> Path:
    """A small grey PNG, different for every value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size), value, np.uint8)).save(path)
    return path


def failure(source: Source, base: Path, kind: type[SimkitError] = DataError) -> SimkitError:
    with pytest.raises(kind) as caught:
        source.load("d", base)
    return caught.value


def codes(error: SimkitError) -> list[str]:
    return [problem.code for problem in error.problems]


# ---------------------------------------------------------------- decoding


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[corpus.Case]]:
    folder = tmp_path_factory.mktemp("corpus") / "odd"
    return folder, corpus.make(folder)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_every_file_of_the_corpus_gives_its_exact_pixels_or_an_error_that_names_it(odd: tuple[Path, list[corpus.Case]]) -> None:
    folder, cases = odd
    decodable = [case for case in cases if case.read is not None or case.refuse]
    assert len({case.file for case in decodable}) >= 40
    for case in decodable:
        path = folder / case.file
        if case.read is not None:
            out, remarks = decode_remarked(path, case.rules)
            assert case.remarks is None or remarks == case.remarks, case.file
            assert out.dtype == np.uint8, case.file
            assert out.flags.c_contiguous, case.file
            assert out.shape == case.read.shape, case.file
            assert np.array_equal(out, case.read), case.file
        else:
            assert case.refuse is not None
            with pytest.raises(DataError) as caught:
                decode(path, case.rules)
            problem = caught.value.problems[0]
            assert problem.code == case.refuse[0], case.file
            assert problem.where == text_of(path)
            assert re.search(case.refuse[1], problem.message), (case.file, problem.message)
            assert problem.fix


def test_a_bomb_is_refused_where_warnings_are_errors_too(odd: tuple[Path, list[corpus.Case]]) -> None:
    for file in ("bomb.png", "slide.png"):
        with pytest.raises(DataError, match=rf"{file}: has [0-9,]+ pixels, the limit is 89,478,485"):
            decode(odd[0] / file)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_folder_of_the_corpus_ends_in_pixels_problems_or_skipped_entries_and_loses_nothing(odd: tuple[Path, list[corpus.Case]]) -> None:
    folder, cases = odd
    dataset = Folder(folder.parent).load("odd", Path())
    skipped = {entry.key: entry.reason for entry in dataset.skipped}
    for case in cases:
        key = f"odd/{text_of(case.file)}"
        assert sum([case.read is not None, case.refuse is not None, bool(case.skip), case.ignore]) == 1
        if case.skip:
            assert re.search(case.skip, skipped[key]), (key, skipped[key])
        assert (key in dataset.keys) == (case.read is not None or case.refuse is not None), key
        assert (key in skipped) == bool(case.skip), key
    assert len(set(dataset.keys)) == len(dataset)
    assert json.loads(json.dumps(dataset.keys)) == list(dataset.keys)
    assert "odd/caf\\xe9.png" in dataset.keys
    card, kept = card_of(dataset)
    default = [case for case in cases if case.rules == Decoding()]
    assert {entry.key for entry in kept.skipped} == {f"odd/{case.file}" for case in default if case.refuse or case.skip}
    assert card.images == len({case.file for case in default if case.read is not None})
    assert all(entry.reason and entry.dataset == "odd" for entry in kept.skipped)


def test_orientation_agrees_with_pillow_for_all_eight() -> None:
    for orientation in range(1, 9):
        data, pixels = corpus.oriented(orientation)
        with Image.open(corpus.io.BytesIO(data)) as stored:
            assert np.array_equal(np.asarray(ImageOps.exif_transpose(stored)), pixels)


def test_truncated_images_are_not_filled_because_another_library_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(UsageError, match="lets Pillow fill truncated images with grey"):
        decode(image(tmp_path / "a.png"))


def test_decoding_changes_no_setting_of_pillow(odd: tuple[Path, list[corpus.Case]]) -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK)
    for file in ("plain.png", "bomb.png", "cut.jpg"):
        try:
            decode(odd[0] / file)
        except DataError:
            assert file != "plain.png"
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK)


def test_every_cut_of_an_image_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        out = corpus.io.BytesIO()
        Image.fromarray(corpus.smooth(32)).save(out, kind)
        data = out.getvalue()
        for length in range(0, len(data) * 3 // 4, max(1, len(data) // 25)):
            path.write_bytes(data[:length])
            with pytest.raises(DataError, match=r"cut\.jpg"):
                decode(path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on what was damaged
def test_damaged_bytes_give_pixels_or_an_error_that_names_the_file(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "damaged"
    picture = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    outcomes: list[np.ndarray | str] = []
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"):
        out = corpus.io.BytesIO()
        picture.save(out, kind)
        for _ in range(60):
            data = bytearray(out.getvalue())
            for _ in range(4):
                data[rng.integers(min(len(data), 200))] = rng.integers(256)
            path.write_bytes(data)
            try:
                outcomes.append(decode(path, Decoding(frames="first", intensity="full-range")))
            except DataError as error:
                outcomes.append(error.problems[0].where)
    read = [out for out in outcomes if isinstance(out, np.ndarray)]
    assert 0 < len(read) < len(outcomes) == 420
    assert all(out.dtype == np.uint8 and out.shape[2] in (1, 3) for out in read)
    assert {out for out in outcomes if isinstance(out, str)} == {str(path)}


@pytest.mark.parametrize(("values", "options", "words"), [
    ("int8", {}, "holds 8-bit signed values"), ("int16", {}, "holds 16-bit signed values"), ("uint32", {}, "holds 32-bit unsigned values"),
    ("uint16", {"photometric": "rgb", "planarconfig": "separate"}, "16 bits per sample with colour in planes"),
    ("uint8", {"photometric": "cielab", "planarconfig": "contig"}, "has the colour model LAB"),
])
def test_kinds_of_tiff_that_pillow_would_reduce_silently_are_refused(tmp_path: Path, values: str, options: dict[str, str], words: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    shape = {"separate": (3, 4, 5), "contig": (4, 5, 3)}.get(options.get("planarconfig", ""), (4, 5))
    tifffile.imwrite(tmp_path / "a.tif", np.arange(60)[: np.prod(shape)].reshape(shape).astype(values), **options)
    with pytest.raises(DataError, match=rf"a\.tif: .*{words}") as caught:
        decode(tmp_path / "a.tif", Decoding(intensity="full-range"))
    assert codes(caught.value) == ["SK207"]


def test_white_is_zero_is_inverted_and_16_bit_byte_orders_agree(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "w.tif", corpus.grey(), photometric="miniswhite")
    assert np.array_equal(decode(tmp_path / "w.tif")[..., 0], 255 - corpus.grey())
    deep = corpus.grey().astype(np.uint16) * 257
    for order in "<>":
        tifffile.imwrite(tmp_path / "o.tif", deep, byteorder=order)
        assert np.array_equal(decode(tmp_path / "o.tif", Decoding(intensity="full-range"))[..., 0], corpus.grey())


def test_multi_picture_jpeg_gives_its_representative_image(tmp_path: Path) -> None:
    first, second = Image.fromarray(corpus.smooth()), Image.fromarray(255 - corpus.smooth())
    first.save(tmp_path / "m.jpg", "MPO", save_all=True, append_images=[second])
    assert np.abs(decode(tmp_path / "m.jpg").astype(int) - corpus.smooth()).max() < 20


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: cannot be read \(No such file"):
        decode(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"is not a regular file"):
        decode(tmp_path)
    reader = FileReader((str(tmp_path / "gone.png"),), Decoding())
    with pytest.raises(DataError, match=r"gone\.png: cannot be read"):
        reader.digest(0)


def test_background_needs_one_or_three_values() -> None:
    with pytest.raises(UsageError, match="2 values, expected 1 or 3"):
        Decoding(background=(1, 2))
    with pytest.raises(UsageError, match="out of range"):
        SOURCES.build(Spec("folder", {"path": "x", "background": [0, 0, 256]}))


def test_digest_is_of_content_and_rules_not_of_place(tmp_path: Path) -> None:
    a, b, other = image(tmp_path / "a.png"), image(tmp_path / "deep" / "b.png"), image(tmp_path / "c.png", 9)
    reader = FileReader((str(a), str(b), str(other)), Decoding())
    assert reader.digest(0) == reader.digest(1) != reader.digest(2)
    assert re.fullmatch("[0-9a-f]{64}", reader.digest(0))
    for rules in (Decoding(intensity="full-range"), Decoding(frames="middle"), Decoding(background=(255,))):
        assert FileReader((str(a),), rules).digest(0) != reader.digest(0)
    assert FileReader((str(a),), Decoding(max_pixels=1000)).digest(0) == reader.digest(0)
    source = Folder(tmp_path, intensity="full-range")
    assert source.rules == Decoding(intensity="full-range")
    assert type(source.rules) is Decoding


@pytest.mark.parametrize(("head", "words"), [
    (b"", "an empty file"), (b"GIF89a", "a GIF file"), (b"RIFF0000WEBPVP8 ", "a WebP file"), (b"\0\0\0\x18ftypavif", "an AVIF, HEIF or video file"),
    (b"<svg xmlns=", "an XML or SVG file"), (b"P6\n1 1 255\n", "a PPM file"), (b"PK\x03\x04", "a zip archive"), (b"%PDF-1.7", "a PDF file"),
    (bytes(348), "zeros only"), (b"\x5c" + bytes(343) + b"n+1\0", "a NIfTI volume"), (b"\xff\xfe\x00", r"unknown bytes \(0xfffe00"),
])
def test_bytes_are_described(head: bytes, words: str) -> None:
    assert re.search(words, looks_like(head, len(head)))


# ---------------------------------------------------------------- folder


def two_classes(root: Path) -> Path:
    for i, name in enumerate(["b/2.png", "a/1.png", "a/deep/er/3.png"]):
        image(root / name, i)
    return root


def test_folder_gives_sorted_keys_classes_and_labels(tmp_path: Path) -> None:
    two_classes(tmp_path / "set")
    (tmp_path / "set" / "empty").mkdir()
    dataset = Folder(Path("set")).load("d", tmp_path)
    assert dataset.keys == ("a/1.png", "a/deep/er/3.png", "b/2.png")
    assert dataset.classes == ("a", "b", "empty")
    assert dataset.label_names == ("a", "a", "b")
    assert dataset.class_counts == {"a": 2, "b": 1, "empty": 0}
    assert [int(dataset.read(i)[0, 0, 0]) for i in range(3)] == [1, 2, 0]
    assert dataset.groups is None
    assert dataset.skipped == ()
    assert dataset.origin == str(tmp_path / "set")


def test_folder_without_labels_reads_everything_below(tmp_path: Path) -> None:
    two_classes(tmp_path)
    image(tmp_path / "root.png", 9)
    dataset = Folder(tmp_path, labels=False).load("d", Path())
    assert dataset.labels is None
    assert dataset.classes == ()
    assert dataset.keys == ("a/1.png", "a/deep/er/3.png", "b/2.png", "root.png")


def test_fingerprint_does_not_depend_on_the_place_or_the_name(tmp_path: Path) -> None:
    one = Folder(two_classes(tmp_path / "x")).load("one", Path())
    two = Folder(two_classes(tmp_path / "y" / "z")).load("two", Path())
    assert one.fingerprint == two.fingerprint
    (tmp_path / "x/a/1.png").rename(tmp_path / "x/b/1.png")
    assert Folder(tmp_path / "x").load("one", Path()).fingerprint != two.fingerprint


def test_missing_folder_names_the_nearest(tmp_path: Path) -> None:
    two_classes(tmp_path / "dermoscopy")
    with pytest.raises(DataError, match=r"dermoscopi: the folder does not exist \(did you mean '.*/dermoscopy'\?\)"):
        Folder(Path("dermoscopi")).load("d", tmp_path)
    with pytest.raises(DataError, match=r"the folder does not exist \(.* holds: dermoscopy\)"):
        Folder(Path("xyz")).load("d", tmp_path)
    with pytest.raises(DataError, match=r"did you mean '.*/dermoscopy'"):
        Folder(Path("dermoscop/a/deep")).load("d", tmp_path)


def test_file_instead_of_folder_names_the_source_that_reads_it(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path\nx\n")
    error = failure(Folder(tmp_path / "a.csv"), tmp_path)
    assert re.search(r"is a file, wanted a folder\nfix: read it with the source 'table'", str(error))
    assert "name the folder" in str(failure(Folder(image(tmp_path / "a.png")), tmp_path))


def test_nothing_that_is_read_names_what_is_there_with_counts(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / f"{i}.dcm").write_bytes(b"")
        (tmp_path / "a" / f"{i}.NII.GZ").write_bytes(b"")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / "bare").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(DataError, match=r"no image in it that simkit reads; found: 3 \.dcm \(DICOM\), 3 \.nii\.gz \(NIfTI\), 1 \(no extension\), 1 \.txt"):
        Folder(tmp_path).load("d", Path())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image in it that simkit reads, and no other file"):
        Folder(tmp_path / "empty").load("d", Path())


def test_only_bad_entries_are_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "x.png")
    with pytest.raises(DataError, match=r"no image in it that simkit reads; 1 skipped \(a/x\.png: not a regular file \(FIFO\)"):
        Folder(tmp_path).load("d", Path())


def test_images_beside_class_folders_are_refused(tmp_path: Path) -> None:
    two_classes(tmp_path)
    image(tmp_path / "stray.png", 9)
    image(tmp_path / "flat" / "1.png", 8)
    with pytest.raises(DataError, match=r"1 images lie directly in the folder beside 3 class folders: stray\.png"):
        Folder(tmp_path).load("d", Path())
    with pytest.raises(DataError, match=r"1 images lie directly in the folder, there are no class folders: 1\.png(.|\n)*labels = false"):
        Folder(tmp_path / "flat").load("d", Path())


def test_splits_are_not_classes(tmp_path: Path) -> None:
    for split in ("train", "Val"):
        image(tmp_path / split / "cat" / "1.png")
    with pytest.raises(DataError, match=r"the folders are splits \(Val, train\), not classes"):
        Folder(tmp_path).load("d", Path())
    image(tmp_path / "car" / "1.png", 3)
    assert Folder(tmp_path).load("d", Path()).classes == ("Val", "car", "train")


def test_links_count_once_and_do_not_leave(tmp_path: Path) -> None:
    root, outside = two_classes(tmp_path / "root"), image(tmp_path / "outside" / "o.png", 50)
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "here").symlink_to(root / "a")
    (root / "a" / "more").symlink_to(root / "b")
    dataset = Folder(root).load("d", Path())
    assert dataset.keys == ("a/1.png", "a/deep/er/3.png", "b/2.png")
    assert {s.key: s.reason for s in dataset.skipped} == {"a/more": "a symbolic link to the folder b, whose images are counted there"}
    (root / "b" / "far.png").symlink_to(outside)
    (root / "c").symlink_to(outside.parent)
    error = failure(Folder(root), Path())
    assert codes(error) == ["SK205", "SK205"]
    assert re.search(r"b/far\.png: is a symbolic link that leaves the folder \(to .*/outside/o\.png\)", str(error))
    (root / "b" / "far.png").unlink()
    assert "c/o.png" in Folder(root, allow_outside=True).load("d", Path()).keys


def test_one_file_in_two_classes_is_refused_and_in_one_class_counts_once(tmp_path: Path) -> None:
    root = two_classes(tmp_path)
    os.link(root / "a" / "1.png", root / "a" / "same.png")
    dataset = Folder(root).load("d", Path())
    assert [s.reason for s in dataset.skipped] == ["the same file as a/1.png, counted once"]
    (root / "b" / "other.png").symlink_to(root / "a" / "1.png")
    with pytest.raises(DataError, match=r"b/other\.png: is the same file as a/1\.png but lies in another class \('b' and 'a'\)") as caught:
        Folder(root).load("d", Path())
    assert codes(caught.value) == ["SK204"]
    assert len(Folder(root, labels=False).load("d", Path())) == 3


def test_files_and_folders_that_may_not_be_read_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_classes(tmp_path)
    may, scan = os.access, os.scandir
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("2.png") and may(path, mode))

    def forbidden(path: str) -> object:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    dataset = Folder(tmp_path).load("d", Path())
    assert dataset.keys == ("a/1.png",)
    assert {s.key: s.reason for s in dataset.skipped} == {
        "a/deep": "the folder cannot be read (Permission denied)", "b/2.png": "no permission to read it",
    }


def test_a_folder_named_like_an_image_that_holds_something_is_listed(tmp_path: Path) -> None:
    two_classes(tmp_path)
    image(tmp_path / "a" / "tiles.png" / "1.png")
    (tmp_path / "x.jpg").mkdir()
    dataset = Folder(tmp_path).load("d", Path())
    assert dataset.classes == ("a", "b")
    assert [(s.key, s.reason) for s in dataset.skipped] == [("a/tiles.png", "a folder that is named like an image: what it holds was not read")]


# ---------------------------------------------------------------- table


def manifest(folder: Path, text: str, name: str = "m.csv") -> Path:
    for i in range(4):
        image(folder / "img" / f"{i}.png", i)
    path = folder / name
    path.write_text(text)
    return path


def test_table_reads_text_as_text(tmp_path: Path) -> None:
    rows = ["\ufeffpath;label;group;split;age", "img/0.png;NA;001;train;3", "img/1.png; null ;01;test;4", '"img/2.png";NA;001;train;5', ""]
    (manifest(tmp_path, "")).write_bytes("\r\n".join(rows).encode())
    dataset = Table(Path("m.csv")).load("d", tmp_path)
    assert dataset.keys == ("img/0.png", "img/1.png", "img/2.png")
    assert dataset.classes == ("NA", "null")
    assert dataset.label_names == ("NA", "null", "NA")
    assert dataset.groups == ("001", "01", "001")
    assert dataset.splits == ("train", "test", "train")
    assert int(dataset.read(1)[0, 0, 0]) == 1


def test_table_columns_are_chosen_by_name_and_group_and_split_can_be_left_out(tmp_path: Path) -> None:
    manifest(tmp_path, "file,diagnosis,patient,group,split\nimg/0.png,x,p1,g,train\nimg/1.png,y,p2,g,test\n")
    dataset = Table(tmp_path / "m.csv", image="file", label="diagnosis", group="patient", split="").load("d", tmp_path)
    assert dataset.groups == ("p1", "p2")
    assert dataset.splits is None
    plain = Table(tmp_path / "m.csv", image="file", label="").load("d", tmp_path)
    assert plain.labels is None
    assert plain.groups == ("g", "g")


def test_table_names_every_missing_column(tmp_path: Path) -> None:
    manifest(tmp_path, "paths,labels\nimg/0.png,x\n")
    error = failure(Table(tmp_path / "m.csv", group="patient", tags=("organ",)), tmp_path)
    assert codes(error) == ["SK202"] * 4
    for words in (r"column 'path' is missing \(did you mean 'paths'\?\); columns found: 'paths', 'labels'", r"column 'label' is missing.*\n.*label = \"\"",
                  "column 'patient' is missing", "column 'organ' is missing"):
        assert re.search(words, str(error)), words


def test_table_collects_the_problems_of_all_rows(tmp_path: Path) -> None:
    image(tmp_path / "elsewhere" / "e.png")
    (tmp_path / "set").mkdir()
    rows = ["path,label,group", "img/0.png,a,p1", "img/9.png,a,p1", "../elsewhere/e.png,b,p2", "/etc/passwd,b,p2", ",b,p2", "img/1.png,,p3", "img/2.png,b,",
            "img,b,p3", "img\\3.png,b,p3", "img/out.png,a,p3", "img/0.png/x,a,p3"]
    path = manifest(tmp_path / "set", "\n".join(rows) + "\n", "isic.csv")
    (tmp_path / "set" / "img" / "out.png").symlink_to(tmp_path / "elsewhere" / "e.png")
    error = failure(Table(path), tmp_path)
    expected = [
        ("SK205", r"isic\.csv:3 \(column 'path'\): 'img/9\.png' does not exist\nfix: correct the path, or set root: paths start at .*/set"),
        ("SK205", r"isic\.csv:4 \(column 'path'\): '\.\./elsewhere/e\.png' lies outside the root folder"),
        ("SK205", r"isic\.csv:5 \(column 'path'\): '/etc/passwd' lies outside the root folder"),
        ("SK203", r"isic\.csv:6 \(column 'path'\): the cell is empty"),
        ("SK203", r"isic\.csv:7 \(column 'label'\): the cell is empty"),
        ("SK203", r"isic\.csv:8 \(column 'group'\): the cell is empty"),
        ("SK205", r"isic\.csv:9 \(column 'path'\): 'img' is a folder, wanted an image file"),
        ("SK205", r"isic\.csv:10 \(column 'path'\): 'img\\3\.png' does not exist\nfix: write / instead of \\"),
        ("SK205", r"isic\.csv:11 \(column 'path'\): 'img/out\.png' leads outside the root folder by a symbolic link"),
        ("SK205", r"isic\.csv:12 \(column 'path'\): 'img/0\.png/x' cannot be read \(Not a directory\)"),
    ]
    assert codes(error) == [code for code, _ in expected]
    for problem, (_, words) in zip(error.problems, expected, strict=True):
        assert re.search(words, str(problem)), str(problem)
    good = manifest(tmp_path / "set", "path,label\n../elsewhere/e.png,a\nimg/1.png,b\n", "ok.csv")
    assert Table(good, allow_outside=True).load("d", tmp_path).keys == ("../elsewhere/e.png", "img/1.png")
    assert len(Table(manifest(tmp_path / "set", "path,label\nset/img/1.png,b\n", "r.csv"), root=Path(".")).load("d", tmp_path)) == 1


def test_table_outside_is_by_whole_path_parts(tmp_path: Path) -> None:
    image(tmp_path / "set_evil" / "e.png")
    path = manifest(tmp_path / "set", "path,label\n../set_evil/e.png,a\n")
    with pytest.raises(DataError, match="lies outside the root folder"):
        Table(path).load("d", tmp_path)
    assert is_inside("/a/b/c", "/a/b")
    assert not is_inside("/a/bc", "/a/b")
    assert is_inside("/a", "/")


def test_table_repeated_rows_count_once_and_conflicts_are_refused(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,label,split\nimg/0.png,a,train\nimg/1.png,b,train\nimg/../img/0.png,a,train\n")
    dataset = Table(path).load("d", tmp_path)
    assert len(dataset) == 2
    assert [(s.key, s.reason) for s in dataset.skipped] == [("img/../img/0.png", "repeated row: line 4 names the same file as line 2, counted once")]
    path = manifest(tmp_path, "path,label\nimg/0.png,a\nimg/1.png,b\nimg/0.png,b\n")
    words = r"m\.csv:4 \(column 'label'\): 'img/0\.png' appears in lines 2 and 4 with different values: 'a' in line 2, 'b' in line 4"
    with pytest.raises(DataError, match=words):
        Table(path).load("d", tmp_path)
    path = manifest(tmp_path, "path,label,split\nimg/0.png,a,train\nimg/0.png,a,test\n")
    assert codes(failure(Table(path), tmp_path)) == ["SK204"]


def test_table_keeps_the_splits_that_are_asked_for(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,label,split\nimg/0.png,a,train\nimg/1.png,b,test\nimg/none.png,b,extra\n")
    dataset = Table(path, keep_splits=("train", "test")).load("d", tmp_path)
    assert dataset.splits == ("train", "test")
    with pytest.raises(DataError, match=r"no row of split 'tests' \(did you mean 'test'\?\); splits found: extra, test, train"):
        Table(path, keep_splits=("tests",)).load("d", tmp_path)
    with pytest.raises(DataError, match="keep_splits is given, but there is no split column"):
        Table(path, split="", keep_splits=("train",)).load("d", tmp_path)


def test_table_of_measurements_is_not_a_table_of_classes(tmp_path: Path) -> None:
    for i in range(60):
        image(tmp_path / "img" / f"{i}.png", i)
    rows = "".join(f"img/{i}.png,{i / 7:.3f}\n" for i in range(60))
    (tmp_path / "m.csv").write_text("path,label\n" + rows)
    with pytest.raises(DataError, match=r"m\.csv \(column 'label'\): 60 different numbers in 60 rows \(0\.000, .*regression"):
        Table(tmp_path / "m.csv").load("d", tmp_path)
    (tmp_path / "m.csv").write_text("path,label\n" + "".join(f"img/{i}.png,case {i}\n" for i in range(60)))
    assert len(Table(tmp_path / "m.csv").load("d", tmp_path).classes) == 60


def test_table_tags_describe_the_set(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,label,modality,organ\nimg/0.png,a,MRI,brain\nimg/1.png,b,MRI,spine\n")
    dataset = Table(path, tags=("organ", "modality")).load("d", tmp_path)
    assert dataset.tags == ("brain", "spine", "MRI")
    assert dataset.attributes == {"modality": "MRI"}
    path = manifest(tmp_path, "path,label,modality\nimg/0.png,a,MRI\nimg/1.png,b,CT\n")
    with pytest.raises(DataError, match=r"m\.csv:3 \(column 'modality'\): 'CT' here, 'MRI' in line 2: 'modality' describes the whole data set"):
        Table(path, tags=("modality",)).load("d", tmp_path)
    path = manifest(tmp_path, "path,label,organ\nimg/0.png,a,\n")
    with pytest.raises(DataError, match=r"m\.csv:2 \(column 'organ'\): the cell is empty"):
        Table(path, tags=("organ",)).load("d", tmp_path)


def test_table_missing_file_root_and_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = manifest(tmp_path, "path,label\nimg/0.png,a\nimg/1.png,b\n", "isic.csv")
    with pytest.raises(DataError, match=r"the table does not exist \(did you mean '.*/isic\.csv'\?\)"):
        Table(tmp_path / "isik.csv").load("d", tmp_path)
    with pytest.raises(DataError, match="the root folder does not exist"):
        Table(path, root=Path("nowhere")).load("d", tmp_path)
    monkeypatch.setattr(os, "access", lambda file, mode: not str(file).endswith("1.png"))
    dataset = Table(path).load("d", tmp_path)
    assert [(s.key, s.reason) for s in dataset.skipped] == [("img/1.png", "no permission to read it")]
    monkeypatch.setattr(os, "access", lambda file, mode: False)
    with pytest.raises(DataError, match="no images in"):
        Table(path).load("d", tmp_path)


def test_classes_that_differ_only_by_case_or_blanks_are_named(tmp_path: Path) -> None:
    path = manifest(tmp_path, 'path,label\nimg/0.png,Cat\nimg/1.png,"cat"\nimg/2.png,No  Finding\nimg/3.png,no finding\n')
    error = failure(Table(path), tmp_path)
    assert codes(error) == ["SK203", "SK203"]
    assert re.search(r"m\.csv \(column 'label'\): the classes 'Cat' and 'cat' differ only by case or blanks\nfix: give them one name", str(error))
    assert re.search("'No  Finding' and 'no finding'", str(error))
    image(tmp_path / "set" / "Cat" / "1.png")
    image(tmp_path / "set" / "cat " / "2.png", 1)
    with pytest.raises(DataError, match=r"set: the classes 'Cat' and 'cat ' differ only by case or blanks"):
        Folder(tmp_path / "set").load("d", Path())
    assert Folder(tmp_path / "set", labels=False).load("d", Path()).labels is None
    letters = manifest(tmp_path, "path,label\nimg/0.png,a\nimg/1.png,A\n")
    assert Table(letters).load("d", tmp_path).classes == ("A", "a")


def test_a_folder_of_data_sets_is_not_one_data_set(tmp_path: Path) -> None:
    for name in ("site one/benign/1.png", "site one/malignant/2.png", "site two/benign/3.png", "site two/malignant/4.png"):
        image(tmp_path / name, int(name[-5]))
    words = r"looks like a folder of data sets \(site one, site two\): the folders 'benign', 'malignant' recur in each(.|\n)*declare nested = true"
    with pytest.raises(DataError, match=words):
        Folder(tmp_path).load("d", Path())
    assert Folder(tmp_path, nested=True).load("d", Path()).classes == ("site one", "site two")
    assert Folder(tmp_path / "site one").load("d", Path()).classes == ("benign", "malignant")


@pytest.mark.parametrize("names", [
    ("benign/40X/1.png", "benign/100X/2.png", "malignant/40X/3.png", "malignant/100X/4.png"),  # magnifications, or numbered patients
    ("a/left/1.png", "a/right/2.png", "b/left/3.png", "b/4.png"), ("a/left/1.png", "a/right/2.png", "b/left/3.png", "b/other/4.png"),
    ("a/left/1.png", "a/right/2.png"),
])
def test_folders_inside_classes_are_mostly_fine(tmp_path: Path, names: tuple[str, ...]) -> None:
    for number, name in enumerate(names):
        image(tmp_path / name, number)
    assert len(Folder(tmp_path).load("d", Path())) == len(names)


# ---------------------------------------------------------------- several classes an image


def test_several_label_columns_are_several_classes_an_image(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,Mass,Effusion,Edema\nimg/0.png,1,No,false\nimg/1.png, TRUE ,yes,0.0\nimg/2.png,0,0,0\n")
    dataset = SOURCES.build(Spec("table", {"path": str(path), "label": ["Mass", "Effusion", "Edema"]})).load("d", tmp_path)
    assert dataset.labels is None
    assert dataset.classes == ("Mass", "Effusion", "Edema")
    assert dataset.indicators is not None
    assert dataset.indicators.tolist() == [[True, False, False], [True, True, False], [False, False, False]]
    assert dataset.class_counts == {"Mass": 2, "Effusion": 1, "Edema": 0}
    one = SOURCES.build(Spec("table", {"path": str(path), "label": ["Mass"]})).load("d", tmp_path)
    assert one.classes == ("0", "1", "TRUE")  # one column is one class an image, as the cells say
    bad = manifest(tmp_path, "path,Mass,Edema\nimg/0.png,-1,1\nimg/1.png,,0\nimg/2.png,1,maybe\n")
    error = failure(Table(bad, label=("Mass", "Edema")), tmp_path)
    assert re.search(r"m\.csv:3 \(column 'Mass'\): the cell is empty", str(error))
    bad = manifest(tmp_path, "path,Mass,Edema\nimg/0.png,-1,1\nimg/2.png,1,maybe\n")
    error = failure(Table(bad, label=("Mass", "Edema")), tmp_path)
    assert codes(error) == ["SK203", "SK203"]
    assert re.search(r"m\.csv:2 \(column 'Mass'\): '-1' is neither yes nor no\nfix: write 1 or 0", str(error))
    assert re.search(r"m\.csv:3 \(column 'Edema'\): 'maybe' is neither yes nor no", str(error))
    with pytest.raises(DataError, match=r"column 'Oedema' is missing \(did you mean 'Edema'\?\)"):
        Table(bad, label=("Mass", "Oedema")).load("d", tmp_path)


def test_one_label_column_with_a_separator(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,finding\nimg/0.png,Effusion|Mass\nimg/1.png,No Finding\nimg/2.png,Mass \n")
    dataset = Table(path, label="finding", separator="|").load("d", tmp_path)
    assert dataset.classes == ("Effusion", "Mass", "No Finding")
    assert dataset.label_names == ("Effusion + Mass", "No Finding", "Mass")
    dataset = Table(path, label="finding", separator="|", none_label="No Finding").load("d", tmp_path)
    assert dataset.classes == ("Effusion", "Mass")
    assert dataset.indicators is not None
    assert dataset.indicators.tolist() == [[True, True], [False, False], [False, True]]
    with pytest.raises(DataError, match=r"column 'finding'\): no cell says 'no finding' \(did you mean 'No Finding'\?\)"):
        Table(path, label="finding", separator="|", none_label="no finding").load("d", tmp_path)


@pytest.mark.parametrize(("cell", "words"), [
    ("Mass|", "'Mass|' names an empty class"), ("Mass|Mass", "'Mass|Mass' names a class twice"), ("None|Mass", "'None|Mass' says 'None' and names a class"),
])
def test_cells_of_several_classes_that_contradict_themselves_are_named(tmp_path: Path, cell: str, words: str) -> None:
    path = manifest(tmp_path, f"path,label\nimg/0.png,None\nimg/1.png,{cell}\n")
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        Table(path, separator="|", none_label="None").load("d", tmp_path)
    assert caught.value.problems[0].where.endswith("m.csv:3 (column 'label')")


@pytest.mark.parametrize(("options", "words"), [
    ({"label": ("a", "b"), "separator": "|"}, "separator: is for one label column, 2 are named"), ({"label": ("a", "a")}, "label: names a column twice: a, a"),
    ({"none_label": "x"}, "none_label: needs a separator"), ({"label": "", "separator": "|"}, "is for one label column, 0 are named"),
])
def test_label_options_that_contradict_each_other(tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Table(manifest(tmp_path, "path,label\nimg/0.png,a\n"), **options).load("d", tmp_path)  # type: ignore[arg-type]


# ---------------------------------------------------------------- Parquet


def parquet(path: Path, columns: dict[str, list[object]]) -> Path:
    pa = pytest.importorskip("pyarrow")
    for i in range(4):
        image(path.parent / "img" / f"{i}.png", i)
    pytest.importorskip("pyarrow.parquet").write_table(pa.table(columns), path)
    return path


def test_parquet_gives_the_data_set_of_the_csv_file(tmp_path: Path) -> None:
    path = parquet(tmp_path / "m.parquet", {
        "path": ["img/0.png", "img/1.png"], "label": ["NA", "b"], "group": ["001", "01"], "split": ["train", "test"], "age": [3.5, None], "bytes": [b"x", b"y"],
    })
    csv = manifest(tmp_path, "path,label,group,split\nimg/0.png,NA,001,train\nimg/1.png,b,01,test\n")
    one, two = Table(path).load("d", tmp_path), Table(csv).load("d", tmp_path)
    assert (one.keys, one.classes, one.groups, one.splits) == (two.keys, ("NA", "b"), ("001", "01"), two.splits)
    assert one.fingerprint == two.fingerprint
    several = parquet(tmp_path / "s.parquet", {"path": ["img/0.png", "img/1.png"], "Mass": [True, False], "Edema": [1, 0]})
    dataset = Table(several, label=("Mass", "Edema")).load("d", tmp_path)
    assert dataset.indicators is not None
    assert dataset.indicators.tolist() == [[True, True], [False, False]]


def test_parquet_problems_name_file_row_and_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "m.parquet", {"path": ["img/0.png", "img/9.png", None], "label": ["a", None, "b"]})
    error = failure(Table(path), tmp_path)
    assert re.search(r"m\.parquet row 1 \(column 'label'\): the cell is empty", str(error))
    assert re.search(r"m\.parquet row 1 \(column 'path'\): 'img/9\.png' does not exist", str(error))
    assert re.search(r"m\.parquet row 2 \(column 'path'\): the cell is empty", str(error))
    embedded = parquet(tmp_path / "hub.parquet", {"image": [{"bytes": b"x", "path": "a"}], "label": [1]})
    with pytest.raises(DataError, match=r"column 'image' holds struct<.*>, wanted text\nfix: images inside Parquet are read by the source 'huggingface'"):
        Table(embedded, image="image").load("d", tmp_path)
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"cut\.parquet: is not a readable Parquet file: "):
        Table(tmp_path / "cut.parquet").load("d", tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ResourceError, match=r"m\.parquet: Parquet files need pyarrow(.|\n)*pip install 'simkit\[parquet\]'"):
        Table(path).load("d", tmp_path)


# ---------------------------------------------------------------- npz


def medmnist(path: Path, **changes: object) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, object] = {}
    for split, n in (("train", 4), ("val", 2), ("test", 3)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 6, 5), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(n, dtype=np.uint8)[:, None] % 2
    arrays |= changes
    np.savez_compressed(path, **{key: np.asarray(value) for key, value in arrays.items() if value is not None})
    return path


def test_npz_reads_all_splits_in_order(tmp_path: Path) -> None:
    path = medmnist(tmp_path / "m.npz", test_labels=np.array([0, 1, 3]))
    dataset = Npz(Path("m.npz")).load("d", tmp_path)
    with np.load(path) as arrays:
        for split, start in (("train", 0), ("val", 4), ("test", 6)):
            for i, expected in enumerate(arrays[f"{split}_images"]):
                assert dataset.keys[start + i] == f"{split}/{i}"
                assert np.array_equal(dataset.read(start + i), expected[..., None])
    assert dataset.splits == ("train",) * 4 + ("val",) * 2 + ("test",) * 3
    assert dataset.classes == ("0", "1", "2", "3")
    assert dataset.class_counts == {"0": 4, "1": 4, "2": 0, "3": 1}
    part = Npz(path, splits=("val",)).load("d", tmp_path)
    assert part.keys == ("val/0", "val/1")
    assert part.classes == dataset.classes
    assert part.digests == dataset.digests[4:6]
    with pytest.raises(IndexError):
        dataset.reader.read(9)


def test_npz_digest_is_of_type_shape_and_bytes(tmp_path: Path) -> None:
    flat = np.zeros((1, 4, 6), np.uint8)
    one = Npz(medmnist(tmp_path / "a.npz", train_images=flat, train_labels=[0]), splits=("train",)).load("d", tmp_path)
    two = Npz(medmnist(tmp_path / "b.npz", train_images=flat.reshape(1, 6, 4), train_labels=[0]), splits=("train",)).load("d", tmp_path)
    assert one.digests != two.digests
    copy = pickle.loads(pickle.dumps(one.reader))
    assert copy.digest(0) == one.reader.digest(0)
    first = one.read(0)
    first[:] = 7
    assert one.read(0).max() == 0


def test_npz_colour_images_keep_three_channels(tmp_path: Path) -> None:
    colour = np.arange(4 * 6 * 5 * 3, dtype=np.uint8).reshape(4, 6, 5, 3)
    dataset = Npz(medmnist(tmp_path / "c.npz", train_images=colour), splits=("train",)).load("d", tmp_path)
    assert np.array_equal(dataset.read(2), colour[2])


@pytest.mark.parametrize(("changes", "code", "words"), [
    ({"val_images": None}, "SK202", r"array 'val_images' is missing.*; arrays found: 'train_images' \(4, 6, 5\)"),
    ({"val_labels": None, "val_label": [0, 1]}, "SK202", r"array 'val_labels' is missing \(did you mean '(val_label|test_labels|train_labels)'\?\)"),
    ({"train_labels": np.zeros((4, 14), np.uint8)}, "SK202", "differ in the number of label columns: 'train_labels' 14, 'val_labels' 1, 'test_labels' 1"),
    ({"train_labels": np.zeros((4, 1), np.float32)}, "SK202", r"'train_labels' has shape \(4, 1\) and type float32, wanted whole numbers"),
    ({"train_labels": [0, 1, -1, 0]}, "SK203", "'train_labels' holds -1, wanted class indices"),
    ({"train_labels": [0, 1, 123456, 0]}, "SK203", "'train_labels' holds 123456, wanted class indices from 0 to 9999"),
    ({"train_labels": [0, 1]}, "SK202", "'train_images' has 4 images, 'train_labels' 2 labels"),
    ({"train_images": np.zeros((4, 6, 5), np.uint16)}, "SK207", r"'train_images' has type uint16 and shape \(4, 6, 5\), wanted uint8"),
    ({"train_images": np.zeros((4, 6, 6, 6), np.uint8)}, "SK202", r"'train_images' has shape \(4, 6, 6, 6\).*volumes are not supported"),
    ({"train_images": np.zeros((4, 30), np.uint8)}, "SK202", r"'train_images' has shape \(4, 30\), wanted"),
    ({"train_images": np.array([None] * 4, dtype=object)}, "SK207", "'train_images' has type object"),
])
def test_npz_problems_name_the_array_and_its_shape(tmp_path: Path, changes: dict[str, object], code: str, words: str) -> None:
    error = failure(Npz(medmnist(tmp_path / "bad.npz", **changes)), tmp_path)
    assert codes(error) == [code]
    assert re.search(words, str(error)), str(error)
    assert "bad.npz" in str(error)


def test_npz_damaged_files_are_named(tmp_path: Path) -> None:
    path = medmnist(tmp_path / "m.npz")
    data = path.read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cut\.npz: is not a readable \.npz file"):
        Npz(tmp_path / "cut.npz").load("d", tmp_path)
    with pytest.raises(DataError, match=r"the file does not exist \(did you mean '.*/(m|cut)\.npz'"):
        Npz(tmp_path / "mm.npz").load("d", tmp_path)
    with pytest.raises(DataError, match=r"is a folder, wanted an \.npz file"):
        Npz(tmp_path).load("d", tmp_path)
    with pytest.raises(DataError, match="0 images in train"):
        Npz(medmnist(tmp_path / "none.npz", train_images=np.zeros((0, 2, 2), np.uint8), train_labels=np.zeros(0, int)), splits=("train",)).load("d", tmp_path)
    np.savez(tmp_path / "plain.npz", train_images=np.ones((2, 300, 300), np.uint8), train_labels=np.array([0, 1]))
    broken = bytearray((tmp_path / "plain.npz").read_bytes())
    broken[broken.rindex(bytes([1] * 50))] ^= 255
    (tmp_path / "plain.npz").write_bytes(broken)
    dataset = Npz(tmp_path / "plain.npz", splits=("train",)).load("d", tmp_path)
    with pytest.raises(DataError, match=r"plain\.npz: array 'train_images' cannot be read: Bad CRC-32"):
        dataset.read(0)


# ---------------------------------------------------------------- which source


def test_detect_chooses_the_source(tmp_path: Path) -> None:
    two_classes(tmp_path / "set")
    (tmp_path / "M.CSV").write_text("path\nx\n")
    np.savez(tmp_path / "m.npz", x=1)
    assert detect(str(tmp_path / "set")) == Spec("folder", {"path": str(tmp_path / "set")})
    assert detect(str(tmp_path / "set" / "b")) == Spec("folder", {"path": str(tmp_path / "set" / "b"), "labels": False})
    assert detect(str(tmp_path / "M.CSV")).name == "table"
    assert detect(str(tmp_path / "m.npz")) == Spec("npz", {"path": str(tmp_path / "m.npz")})
    assert detect("samples:digits") == Spec("samples", {"set": "digits"})
    for text in (str(tmp_path / "set"), str(tmp_path / "set" / "b")):
        assert isinstance(SOURCES.build(detect(text)).load("d", Path()), Dataset)


def test_detect_names_what_exists(tmp_path: Path) -> None:
    two_classes(tmp_path / "retina")
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"retinas: does not exist \(did you mean '.*/retina'\?\)"):
        detect(str(tmp_path / "retinas"))
    with pytest.raises(DataError, match=r"a\.xlsx: is a file with the extension '\.xlsx': no source reads it"):
        detect(str(tmp_path / "a.xlsx"))
    with pytest.raises(DataError, match="is neither a file nor a folder"):
        detect(str(tmp_path / "pipe"))
    with pytest.raises(UsageError, match=r"did you mean 'digits'"):
        SOURCES.build(detect("samples:digit"))


def test_detect_does_not_take_a_folder_for_a_class_where_a_table_holds_the_labels(tmp_path: Path) -> None:
    manifest(tmp_path, "path,label\nimg/0.png,a\n", "labels.csv")
    with pytest.raises(DataError, match=r"holds one folder \('img'\) and a table \(labels\.csv\)(.|\n)*name the table: .*labels\.csv"):
        detect(str(tmp_path))


def test_sources_import_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, simkit.sources, simkit.sources.folder, simkit.sources.table, simkit.sources.npz, simkit.sources.samples\n"
        "print([m for m in ('torch', 'sklearn', 'skimage', 'scipy', 'pandas', 'matplotlib', 'PIL') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_contract() -> None:
    for name in ("folder", "table", "npz", "samples"):
        cls = SOURCES.get(name)
        assert issubclass(cls, Source)
        assert cls.name == name
        assert isinstance(cls.citation, str)
    with pytest.raises(NotImplementedError):
        Source().load("d", Path())
    assert located(Path("a"), Path("/b")) == Path("/b/a")
    assert located(Path("/a"), Path("/b")) == Path("/a")
    assert located(Path("~/a"), Path("/b")) == Path.home() / "a"


# ---------------------------------------------------------------- real data


@pytest.mark.shared
@pytest.mark.parametrize(("folder", "images", "classes"), [("cifar10", 2000, 10), ("dtd10", 1200, 10), ("lclung", 749, 3), ("brainmri4", 930, 4)])
def test_real_folders(shared: Path, folder: str, images: int, classes: int) -> None:
    dataset = Folder(Path("data") / folder).load(folder, shared)
    assert (len(dataset), len(dataset.classes), dataset.skipped) == (images, classes, ())
    assert dataset.read(0).shape[2] in (1, 3)


@pytest.mark.shared
def test_real_imbalanced_folder(shared: Path) -> None:
    dataset = Folder(shared / "data" / "imagenet_groups").load("imagenet", Path())
    counts = dataset.class_counts
    assert (len(dataset), len(counts), min(counts.values()), max(counts.values())) == (698, 7, 16, 300)


@pytest.mark.shared
def test_real_tables(shared: Path) -> None:
    for file, images, classes, channels in (("isic7/isic7.csv", 1643, 7, 3), ("busi/busi.csv", 778, 3, 1)):
        dataset = SOURCES.build(detect(str(shared / "data" / file))).load("d", shared)
        assert (len(dataset), len(dataset.classes), dataset.skipped) == (images, classes, ())
        assert dataset.read(0).shape == (128, 128, channels)
    assert any(" " in name for name in Table(shared / "data/isic7/isic7.csv").load("d", shared).classes)
    with pytest.raises(DataError, match=r"name the table: .*isic7\.csv"):
        detect(str(shared / "data" / "isic7"))


@pytest.mark.shared
def test_real_npz(shared: Path) -> None:
    for file, images, classes in (("fashion", 900, 10), ("pneumonia", 999, 2)):
        dataset = SOURCES.build(detect(str(shared / "data" / f"{file}.npz"))).load("d", shared)
        assert (len(dataset), len(dataset.classes)) == (images, classes)
        assert dataset.read(len(dataset) - 1).shape == (28, 28, 1)


def test_a_prefix_names_a_source() -> None:
    assert detect("dicom:studies/a") == Spec("dicom", {"path": "studies/a"})
    assert detect("medmnist:pneumoniamnist") == Spec("medmnist", {"set": "pneumoniamnist"})
    assert detect("huggingface:owner/name") == Spec("huggingface", {"path": "owner/name"})
