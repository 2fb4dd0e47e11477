"""What a check of data sets finds: each finding on a data set made for it, and none on a clean one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from images import write_images
from PIL import Image

from simkit.dataset import Dataset, card_of
from simkit.errors import DataError, UsageError
from simkit.extractors import decoding
from simkit.pipeline.checking import check
from simkit.pipeline.commands import load
from simkit.recipe import rng_for
from simkit.report.check_content import Checked, Finding, Span
from simkit.report.layout import text_width
from simkit.report.thumbnails import CLASSES_PER_SHEET, SHEETS, SIDE, Thumbnail, chosen
from simkit.sources.arrays import ArrayReader, array_digest


@dataclass(frozen=True)
class Failing:
    """A reader whose images crash or hang the decoder; numbers are positions."""

    crash: tuple[int, ...] = ()
    hang: tuple[int, ...] = ()

    def read(self, index: int) -> np.ndarray:
        if index in self.crash:
            os.kill(os.getpid(), signal.SIGKILL)
        if index in self.hang:
            time.sleep(60)
        return np.full((9, 9, 1), index, dtype=np.uint8) + np.arange(9, dtype=np.uint8)[:, None, None]

    def digest(self, index: int) -> str:
        return array_digest(np.array([index]))


def pictures(count: int, *, size: int = 10, seed: int = 0) -> list[np.ndarray]:
    """Different colour images."""
    rng = rng_for("check", seed)
    return [rng.integers(0, 256, (size, size, 3)).astype(np.uint8) for _ in range(count)]


def in_memory(images: list[np.ndarray], **parts: object) -> Dataset:
    return Dataset("made", tuple(f"image {i}" for i in range(len(images))), ArrayReader(images), **parts)  # type: ignore[arg-type]


def only(data: object, **options: object) -> Checked:
    return check(data, **options).datasets[0]  # type: ignore[arg-type]


def finding(checked: Checked, kind: str) -> Finding:
    return next(one for one in checked.findings if one.kind == kind)


def kinds(checked: Checked) -> set[str]:
    return {one.kind for one in checked.findings}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "set", {"cat": 12, "dog": 6})


def test_a_clean_folder_has_no_finding(folder: Path) -> None:
    result = check(folder)
    one = result.datasets[0]
    assert (one.name, one.source, one.images, one.class_counts, one.imbalance) == ("set", "folder", 18, {"cat": 12, "dog": 6}, 2.0)
    assert one.pictures is not None
    assert (one.pictures.height, one.pictures.width, one.pictures.sizes) == (Span(12, 12, 12), Span(14, 14, 14), (("14x12", 18),))
    assert (one.pictures.grey, one.pictures.grey_as_colour, one.pictures.colour) == (0, 0, 18)
    assert (one.findings, one.copies, result.left_out, result.cautions, result.status(), result.status(strict=True)) == ((), (), (), (), 0, 0)
    assert "every image can be read, no caution" in result.text()


def test_numbers_are_those_of_the_card(folder: Path) -> None:
    (folder / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    Image.new("L", (30, 40), 7).save(folder / "dog" / "grey.png")
    shutil.copy(folder / "dog" / "000.png", folder / "dog" / "again.png")
    card, kept = card_of(load(folder))
    one = only(folder)
    assert one.pictures is not None
    assert (one.images, one.class_counts, len(one.left_out), one.imbalance) == (card.images, card.class_counts, len(kept.skipped), card.imbalance)
    assert (one.pictures.height.median, one.pictures.width.median, one.remarks) == (card.height, card.width, card.remarks)
    assert (one.pictures.grey + one.pictures.grey_as_colour) / one.images == pytest.approx(card.grey_share)
    assert {(s.key, s.reason) for s in one.left_out} == {(s.key, s.reason) for s in kept.skipped}


def test_unreadable_and_unsupported_files_are_named_with_the_reason(folder: Path) -> None:
    whole = (folder / "cat" / "000.png").read_bytes()
    (folder / "cat" / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "dog" / "text.png").write_text("no image", encoding="utf-8")
    (folder / "dog" / "slide.svs").write_bytes(b"II*\0")
    result = check(folder)
    reasons = {one.key: one.reason for one in result.left_out}
    assert set(reasons) == {"cat/half.png", "dog/text.png", "dog/slide.svs"}
    assert "is not an image that simkit reads: it looks like" in reasons["dog/text.png"]
    assert (result.status(), result.status(strict=True)) == (4, 3)
    assert result.datasets[0].images == 18
    assert "cat/half.png: " in result.text()
    assert "3 files left out" in result.text()


def test_a_long_list_is_shortened_in_text_and_whole_in_json(folder: Path) -> None:
    for number in range(14):
        (folder / "cat" / f"bad{number:02d}.png").write_bytes(b"")
    result = check(folder)
    assert "      14 files: is not an image that simkit reads: it looks like an empty file" in result.text()
    assert "        cat/bad09.png\n        and 4 more (--json has all)\n" in result.text()
    assert len(result.as_dict()["datasets"][0]["unreadable"]) == 14


def test_a_set_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "set" / "cat"
    place.mkdir(parents=True)
    (place / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = check(tmp_path / "set")
    assert (result.status(), result.datasets[0].images, result.datasets[0].class_counts) == (3, 0, {"cat": 0})
    assert "set: 0 images" in result.text(40)


@pytest.mark.skipif(os.name != "posix", reason="processes decode on POSIX systems")
def test_images_that_kill_or_hang_the_decoder_are_named_and_the_others_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "SECONDS_PER_IMAGE", 0.3)
    data = Dataset("failing", tuple(f"image {i}" for i in range(100)), Failing(crash=(3, 70), hang=(41,)))
    result = check(data, workers=2)
    reasons = {one.key: one.reason for one in result.datasets[0].unreadable}
    assert set(reasons) == {"image 3", "image 41", "image 70"}
    assert "the decoder died on it" in reasons["image 3"]
    assert "the decoder took more than" in reasons["image 41"]
    assert (result.datasets[0].images, result.status()) == (97, 4)


def test_an_image_that_vanishes_after_it_was_decoded_is_named() -> None:
    @dataclass(frozen=True)
    class Vanishing:
        def read(self, index: int) -> np.ndarray:
            return pictures(3)[index]

        def digest(self, index: int) -> str:
            if index == 1:
                raise DataError("SK206", "image 1", "cannot be read (No such file or directory)", "check that the file exists")
            return str(index)

    one = only(Dataset("vanishing", ("a", "b", "c"), Vanishing()))
    assert (one.images, [(s.key, s.reason) for s in one.unreadable]) == (
        2, [("b", "cannot be read (No such file or directory) (check that the file exists)")])


# --- copies ----------------------------------------------------------------------------------------------------------------------------


def test_byte_identical_files_are_found_with_their_keys(folder: Path) -> None:
    shutil.copy(folder / "cat" / "000.png", folder / "cat" / "copy.png")
    result = check(folder)
    one = result.datasets[0]
    assert [(c.keys, c.same_bytes, c.labels) for c in one.copies] == [(("cat/000.png", "cat/copy.png"), True, ("cat",))]
    assert finding(one, "copies").message == "2 images in 1 set of copies are byte-identical"
    assert (result.cautions, result.status(strict=True)) == ((), 0)


def test_copies_under_two_labels_are_a_caution_that_names_them(folder: Path) -> None:
    shutil.copy(folder / "cat" / "003.png", folder / "dog" / "x.png")
    result = check(folder)
    said = finding(result.datasets[0], "copies under different labels")
    assert said.examples == ("cat/003.png = dog/x.png (cat, dog)",)
    assert said.caution
    assert (result.status(), result.status(strict=True)) == (0, 3)
    assert "  ! 2 images in 1 set of copies are byte-identical under different labels: at least one label is wrong" in result.text(200)


def test_equal_pixels_in_different_files_are_found(folder: Path) -> None:
    Image.open(folder / "cat" / "001.png").save(folder / "dog" / "other.bmp")
    one = only(folder)
    assert [(c.keys, c.same_bytes) for c in one.copies] == [(("cat/001.png", "dog/other.bmp"), False)]
    assert kinds(one) == {"equal pixels", "equal pixels under different labels"}


def test_grey_stored_as_colour_is_the_same_picture_as_grey() -> None:
    grey = pictures(1)[0][..., :1]
    one = only(in_memory([grey, np.repeat(grey, 3, axis=2), *pictures(3, seed=1)]))
    assert one.pictures is not None
    assert (one.pictures.grey, one.pictures.grey_as_colour, one.pictures.colour) == (1, 1, 3)
    assert [c.keys for c in one.copies] == [("image 0", "image 1")]


def test_equal_pixels_of_another_shape_are_another_image() -> None:
    flat = np.arange(24, dtype=np.uint8)
    assert only(in_memory([flat.reshape(4, 6, 1), flat.reshape(6, 4, 1)])).copies == ()


def test_copies_in_two_splits_and_groups_and_a_patient_in_two_splits_are_cautions() -> None:
    images = pictures(6)
    images[5] = images[0]
    data = in_memory(images, splits=("train", "train", "train", "test", "test", "test"), groups=("p1", "p1", "p2", "p2", "p3", "p4"))
    result = check(data)
    one = result.datasets[0]
    assert finding(one, "copies under different splits").examples == ("image 0 = image 5 (train, test)",)
    assert finding(one, "copies under different groups").examples == ("image 0 = image 5 (p1, p4)",)
    assert finding(one, "groups in several splits").examples == ("p2",)
    assert "1 group stands in more than one split" in finding(one, "groups in several splits").message
    assert (one.splits, one.groups, one.group_sizes) == ({"train": 3, "test": 3}, 4, Span(1, 1.5, 2))
    assert len(result.cautions) == 3
    assert "4; images per group: 1 to 2, median 1.5" in result.text()


def test_images_that_two_data_sets_share_are_counted_for_each_pair(tmp_path: Path) -> None:
    first, second = write_images(tmp_path / "a", {"x": 5}), write_images(tmp_path / "b", {"x": 5}, seed=1)
    third = write_images(tmp_path / "c", {"x": 5}, seed=2)
    shutil.copy(first / "x" / "000.png", second / "x" / "same.png")
    Image.open(first / "x" / "001.png").save(second / "x" / "pixels.bmp")
    result = check([first, second, third])
    assert [(s.first, s.second, s.same_bytes, s.same_pixels) for s in result.shared] == [("a", "b", 1, 2)]
    assert result.shared[0].pairs == (("x/000.png", "x/same.png"), ("x/001.png", "x/pixels.bmp"))
    assert "a and b share 1 image to the byte and 1 image by pixels only" in result.cautions[0]
    assert (result.status(), result.status(strict=True)) == (0, 3)
    assert "between data sets: no image is in two of them" in check([first, third]).text()


def test_shared_bytes_are_found_where_the_rules_of_reading_differ(tmp_path: Path) -> None:
    first = write_images(tmp_path / "a", {"x": 3})
    shutil.copytree(first, tmp_path / "b")
    loaded = [load(first), load(tmp_path / "b", background=[255])]
    assert loaded[0].digests != loaded[1].digests
    assert check(loaded).shared[0].same_bytes == 3


# --- what images look like -------------------------------------------------------------------------------------------------------------


def test_constant_images_are_a_caution_above_five_percent() -> None:
    few = only(in_memory([np.full((9, 9, 3), 7, dtype=np.uint8), *pictures(19)]))
    many = only(in_memory([np.full((9, 9, 3), 7, dtype=np.uint8), *pictures(18)]))
    assert finding(few, "constant images").message == "1 image (5.0%) holds one colour and nothing else"
    assert not finding(few, "constant images").caution
    assert finding(many, "constant images").caution
    assert finding(many, "constant images").examples == ("image 0",)


def test_one_colour_is_constant_and_a_row_of_another_is_not() -> None:
    colour = np.tile(np.array([1, 2, 3], dtype=np.uint8), (9, 9, 1))
    striped = colour.copy()
    striped[8] = 9
    one = only(in_memory([colour, striped]))
    assert one.pictures is not None
    assert one.pictures.constant == ("image 0",)


def test_elongated_and_tiny_images_are_named() -> None:
    images = [np.zeros(shape, dtype=np.uint8) + np.arange(shape[0], dtype=np.uint8)[:, None, None] for shape in ((210, 10, 1), (200, 10, 1), (7, 9, 1))]
    one = only(in_memory(images))
    assert finding(one, "elongated images").examples == ("image 0",)
    assert finding(one, "tiny images").examples == ("image 2",)


def test_what_readers_did_is_counted_and_mixed_bit_depths_are_a_caution(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(2):
        Image.fromarray(pictures(1, seed=number)[0]).save(folder / "dog" / f"turned{number}.jpg", exif=exif)
    Image.fromarray(np.arange(100, dtype=np.uint16).reshape(10, 10) * 600).save(folder / "cat" / "deep.png")
    one = only(folder, intensity="full-range")
    assert sorted(one.remarks.values()) == [1, 2]
    assert any(remark.startswith("16-bit") and count == 1 for remark, count in one.remarks.items())
    assert any("orientation" in remark and count == 2 for remark, count in one.remarks.items())
    assert "1 image of more than 8 bit beside 20 of 8 bit" in finding(one, "mixed bit depths").message


def test_images_that_need_a_rule_are_named_with_the_rule(folder: Path) -> None:
    Image.fromarray(np.arange(100, dtype=np.uint16).reshape(10, 10) * 600).save(folder / "cat" / "deep.png")
    one = only(folder)
    assert [(s.key, "intensity" in s.reason) for s in one.unreadable] == [("cat/deep.png", True)]


def test_classes_without_and_with_few_images_are_named(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "rare").mkdir()
    shutil.copy(folder / "cat" / "000.png", folder / "rare" / "a.png")
    (folder / "cat" / "000.png").unlink()
    one = only(folder)
    assert finding(one, "classes without images").examples == ("empty",)
    assert finding(one, "classes without images").caution
    assert finding(one, "small classes").examples == ("rare (1)",)
    assert one.imbalance == 11


def test_multi_label_sets_are_counted_by_class_and_by_labels_per_image() -> None:
    indicators = np.array([[True, True], [True, False], [False, False], [True, False]])
    images = pictures(4)
    images[3] = images[0]
    result = check(in_memory(images, classes=("mass", "cyst"), indicators=indicators))
    one = result.datasets[0]
    assert (one.class_counts, one.labels_per_image, one.multilabel) == ({"mass": 3, "cyst": 1}, {0: 1, 1: 2, 2: 1}, True)
    assert finding(one, "copies under different labels").examples == ("image 0 = image 3 (mass + cyst, mass)",)
    assert "2 classes (several per image)" in result.text()
    assert "per image: 0: 1 image, 1: 2 images, 2: 1 image" in result.text()


# --- text and JSON ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 57, 100])
def test_text_fits_the_width_and_keeps_every_number(width: int, folder: Path) -> None:
    long = folder / "a class with a very long name, as tables from hospitals have them"
    long.mkdir()
    for number, image in enumerate(pictures(5)):
        Image.fromarray(image).save(long / f"{number}.png")
    shutil.copy(folder / "cat" / "000.png", folder / "dog" / "copy.png")
    (folder / "dog" / ("n" * 90 + ".png")).write_bytes(b"")
    text = check(folder).text(width)
    path = str(folder)
    assert all(text_width(line) <= width for line in text.splitlines())
    joined = "".join(text.split())
    for part in ("set:24images,3classes", "cat", "12", "50.0%", "".join(long.name.split()), "20.8%", "n" * 90, path):
        assert part in joined


def test_bars_are_as_long_as_the_shares(folder: Path) -> None:
    rows = {line.split()[0]: line.count("#") for line in check(folder).text(100).splitlines() if line.strip().startswith(("cat ", "dog "))}
    assert rows == {"cat": 30, "dog": 15}


def test_many_classes_are_shortened_in_text_only() -> None:
    images = pictures(100, size=8)
    labels = np.arange(100)
    result = check(in_memory(images, labels=labels, classes=tuple(f"class {i}" for i in range(100))))
    text = result.text(100)
    assert "the 20 largest and the 20 smallest of 100 classes (--json has all):" in text
    assert len(result.as_dict()["datasets"][0]["class_counts"]) == 100


def test_names_cannot_repaint_the_terminal() -> None:
    text = check(in_memory(pictures(2), labels=np.array([0, 1]), classes=("\x1b[2J", "b"))).text()
    assert "\x1b" not in text
    assert "\\x1b[2J" in text


def test_json_values_survive_a_round_trip(folder: Path) -> None:
    from simkit.files import json_text

    shutil.copy(folder / "cat" / "000.png", folder / "dog" / "copy.png")
    value = json.loads(json_text(check(folder).as_dict()))
    assert value["datasets"][0]["class_counts"] == {"cat": 12, "dog": 7}
    assert value["datasets"][0]["copies"][0]["keys"] == ["cat/000.png", "dog/copy.png"]
    assert value["datasets"][0]["imbalance"] == pytest.approx(12 / 7)
    assert value["cautions"] == [f"set: {finding(only(folder), 'copies under different labels').message}"]


# --- thumbnails ------------------------------------------------------------------------------------------------------------------------


def test_the_sheet_is_the_same_whatever_the_files_are_called(tmp_path: Path) -> None:
    first = write_images(tmp_path / "one" / "set", {"cat": 12, "dog": 9})
    second = tmp_path / "two" / "set"
    shutil.copytree(first, second)
    for number, file in enumerate(sorted((second / "cat").iterdir())):
        file.rename(file.with_name(f"renamed{50 - number}.png"))
    made = [only(place, thumbnails=tmp_path / f"{place.parent.name}.png").sheets for place in (first, second)]
    sheets = [Path(names[0]).read_bytes() for names in made]
    assert sheets[0] == sheets[1]
    with Image.open(made[0][0]) as sheet:
        assert sheet.width > 8 * SIDE
        assert sheet.height > 2 * SIDE


def test_chosen_images_are_spread_evenly_by_content() -> None:
    contents = [f"{number:03d}" for number in reversed(range(100))]
    assert chosen(range(100), contents, 4) == (99, 74, 49, 24)
    assert chosen([5, 3], contents, 4) == (5, 3)
    assert chosen([3, 5], contents, 4) == (5, 3)


@pytest.mark.parametrize(("shape", "where"), [((28, 28, 1), (6, 90)), ((300, 100, 3), (0, 96)), ((2, 200, 1), (47, 48))])
def test_thumbnails_keep_proportions(shape: tuple[int, int, int], where: tuple[int, int]) -> None:
    made = Thumbnail()(np.zeros(shape, dtype=np.uint8))
    assert made.shape == (SIDE, SIDE, 3)
    rows = np.flatnonzero((made == 0).all(2).any(1))
    assert (int(rows[0]), int(rows[-1]) + 1) == where


def test_several_data_sets_and_many_classes_make_several_sheets(tmp_path: Path) -> None:
    many = CLASSES_PER_SHEET + 2
    data = in_memory(pictures(many), labels=np.arange(many), classes=tuple(f"c{i}" for i in range(many)))
    other = write_images(tmp_path / "other", {"x": 3})
    result = check([data, other], thumbnails=tmp_path / "sheet.png")
    assert [[Path(name).name for name in one.sheets] for one in result.datasets] == [["sheet-made.png", "sheet-made-2.png"], ["sheet-other.png"]]
    assert all(Path(name).exists() for one in result.datasets for name in one.sheets)
    assert "sheet-made-2.png" in "".join(result.text(100).split())


def test_classes_beyond_the_last_sheet_are_said(tmp_path: Path) -> None:
    from simkit.pipeline import Progress

    class Said(Progress):
        lines: list[str] = []  # noqa: RUF012 - one test

        def say(self, text: str) -> None:
            self.lines.append(text)

    many = CLASSES_PER_SHEET * SHEETS + 1
    data = in_memory(pictures(many, size=4), labels=np.arange(many), classes=tuple(f"c{i}" for i in range(many)))
    one = only(data, thumbnails=tmp_path / "s.png", progress=Said())
    assert len(one.sheets) == SHEETS
    assert f"made: thumbnails show the first {many - 1} of {many} classes" in Said.lines


def test_unlabelled_and_multi_label_sets_have_sheets(tmp_path: Path) -> None:
    assert len(only(in_memory(pictures(30)), thumbnails=tmp_path / "a.png").sheets) == 1
    indicators = np.ones((4, 2), dtype=bool)
    assert len(only(in_memory(pictures(4), classes=("m", "c"), indicators=indicators), thumbnails=tmp_path / "b.png").sheets) == 1


# --- what is refused -------------------------------------------------------------------------------------------------------------------


def test_wrong_arguments_are_refused_before_the_work(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'sheet.jpg' does not end in .png"):
        check(folder, thumbnails="sheet.jpg")
    with pytest.raises(UsageError, match=r"no data set is named"):
        check([])
    shutil.copytree(folder, tmp_path / "other" / "set")
    with pytest.raises(UsageError, match=r"2 data sets are called 'set'"):
        check([folder, tmp_path / "other" / "set"])


def test_everything_that_cannot_be_listed_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)nowhere.*neither"):
        check([tmp_path / "nowhere", tmp_path / "neither"])


def test_nothing_heavy_is_imported(folder: Path) -> None:
    code = ("import sys; from simkit.pipeline.checking import check; check(sys.argv[1]); "
            "print([m for m in ('torch', 'torchvision', 'pandas', 'scipy', 'sklearn', 'matplotlib') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


NINE = {"brainmri4": 930, "cifar10": 2000, "dtd10": 1200, "imagenet_groups": 698, "lclung": 749, "fashion.npz": 900, "pneumonia.npz": 999,
        "isic7/isic7.csv": 1643, "busi/busi.csv": 778}


@pytest.mark.shared
def test_the_nine_sets_are_readable_and_share_nothing(shared: Path) -> None:
    result = check([shared / "data" / name for name in NINE])
    assert [one.images for one in result.datasets] == list(NINE.values())
    assert (result.left_out, result.shared, result.status()) == ((), (), 0)
    textures = result.datasets[2].pictures
    assert textures is not None
    assert (textures.grey, textures.grey_as_colour) == (0, 77)  # counted with numpy.ptp over the channels
