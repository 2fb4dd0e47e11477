"""Rules for what is not 8 bit: exact pixels by each, one window for a whole data set, and what is said of it."""

from __future__ import annotations

import os
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import corpus
import numpy as np
import pytest
from PIL import Image

from simkit.dataset import RemarkingReader, card_of
from simkit.errors import DataError, UsageError
from simkit.registry import SOURCES, Spec
from simkit.sources import intensity
from simkit.sources.decode import Decoding, decode, decode_bytes, decode_remarked, deep_samples
from simkit.sources.folder import Folder
from simkit.sources.intensity import percentiles_of
from simkit.sources.readers import FileReader


def windowed(low: float, high: float) -> Decoding:
    return Decoding(intensity="window", window=(low, high))


def tiff(path: Path, values: np.ndarray, byteorder: str = "<", **options: str) -> Path:
    ordered = values.astype(f"{byteorder}{values.dtype.str[1:]}")
    pytest.importorskip("tifffile").imwrite(path, ordered, byteorder=byteorder, **options)
    return path


@pytest.mark.parametrize(("kind", "values"), [
    ("int8", [-128, -1, 0, 127]), ("int16", [-32768, -1000, 0, 32767]), ("int32", [-(2**31), -1, 0, 2**31 - 1]), ("uint32", [0, 1, 2**31, 2**32 - 1]),
    ("uint16", [0, 1, 40000, 65535]), ("float32", [-2.5, -0.0, 0.25, 1e6]),
])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_kind_of_number_goes_through_a_window_exactly(tmp_path: Path, order: str, kind: str, values: list[float]) -> None:
    if (kind, order) == ("uint32", ">"):
        order = "<"  # Pillow does not read these; see the next test
    path = tiff(tmp_path / "a.tif", np.array([values], kind), order)
    low, high = float(min(values)), float(max(values))
    expected = [[round((value - low) * 255 / (high - low)) for value in values]]
    out, remarks = decode_remarked(path, windowed(low, high))
    assert out[..., 0].tolist() == expected
    assert len(remarks) == 1
    assert re.fullmatch(r"\d+-bit (un)?(signed|float) values by intensity = 'window'", remarks[0])
    own = decode(path, Decoding(intensity="image-percentile", percentiles=(0, 100)))
    assert np.array_equal(own, out)


@pytest.mark.parametrize(("kind", "order"), [("uint32", ">"), ("float64", "<"), ("float64", ">"), ("uint64", "<"), ("float16", "<")])
def test_kinds_of_number_that_pillow_does_not_read_are_refused_by_name(tmp_path: Path, kind: str, order: str) -> None:
    path = tiff(tmp_path / "a.tif", np.array([[1, 2]], kind), order)
    with pytest.raises(DataError, match=r"a\.tif: cannot be opened: it looks like a TIFF file, damaged or of a rare kind"):
        decode(path, windowed(0, 9))


def test_a_window_cuts_rounds_and_says_when_more_than_one_percent_is_lost(tmp_path: Path) -> None:
    values = np.arange(1000, dtype=np.uint16).reshape(10, 100)
    corpus.png16(tmp_path / "a.png", values)
    out, remarks = decode_remarked(tmp_path / "a.png", windowed(10, 999))
    assert remarks == ("16-bit unsigned values by intensity = 'window'",)  # 10 of 1000 are below: 1 %
    out, remarks = decode_remarked(tmp_path / "a.png", windowed(11, 999))
    assert remarks[1:] == ("more than 1% of its pixels lie outside the window: black or white",)
    assert out[0, :12, 0].tolist() == [0] * 12
    assert out[..., 0].ravel()[11:].tolist() == [int((v - 11) * 255 / 988 + 0.5) for v in range(11, 1000)]


def test_a_constant_image_has_no_window_of_its_own_and_that_is_said(tmp_path: Path) -> None:
    corpus.png16(tmp_path / "a.png", np.full((3, 3), 500, np.uint16))
    out, remarks = decode_remarked(tmp_path / "a.png", Decoding(intensity="image-percentile"))
    assert not out.any()
    assert remarks == ("16-bit unsigned values by intensity = 'image-percentile'", "all pixels between its percentiles are equal: black")


def test_16_bit_white_is_zero_is_inverted_and_said(tmp_path: Path) -> None:
    values = np.array([[0, 257, 65535]], np.uint16)
    path = tiff(tmp_path / "a.tif", values, photometric="miniswhite")
    out, remarks = decode_remarked(path, Decoding(intensity="full-range"))
    assert out[..., 0].tolist() == [[255, 254, 0]]
    assert remarks == ("16-bit unsigned values by intensity = 'full-range'", "white at the value 0: inverted")


def test_8_bit_images_stay_as_they_are_under_every_rule(tmp_path: Path) -> None:
    Image.fromarray(corpus.grey()).save(tmp_path / "a.png")
    for rules in (windowed(3, 9), Decoding(intensity="image-percentile"), Decoding(intensity="percentile"), Decoding(intensity="12-bit")):
        assert np.array_equal(decode(tmp_path / "a.png", rules)[..., 0], corpus.grey())


def test_colour_of_16_bit_has_no_window(tmp_path: Path) -> None:
    corpus.png16(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint16), 2)
    with pytest.raises(DataError, match=r"a\.png: has 16 bits per sample with colour, which intensity = 'window' does not cover"):
        decode(tmp_path / "a.png", windowed(0, 9))
    assert decode_remarked(tmp_path / "a.png", Decoding(intensity="full-range"))[1] == ("16-bit colour by its upper 8 bits",)


def test_12_bit_values_read_by_the_full_range_are_said_to_lose_their_levels(tmp_path: Path) -> None:
    full = Decoding(intensity="full-range")
    corpus.png16(tmp_path / "a.png", np.arange(4096, dtype=np.uint16).reshape(64, 64))
    out, remarks = decode_remarked(tmp_path / "a.png", full)
    assert len(np.unique(out)) == 17
    assert remarks[1:] == ("no value above 1/16 of the full range: 17 grey levels at most",)
    corpus.png16(tmp_path / "a.png", np.arange(1, 4097, dtype=np.uint16).reshape(64, 64))
    assert len(decode_remarked(tmp_path / "a.png", full)[1]) == 1


@pytest.mark.parametrize("white", [256, 1000, 4095, 65534, 65535])
def test_pgm_values_are_those_of_the_file_although_pillow_scales_them(white: int) -> None:
    values = np.unique(np.append(np.arange(0, white, max(1, white // 999)), white))
    data = b"P5\n%d 1\n%d\n" % (len(values), white) + values.astype(">u2").tobytes()
    stored = deep_samples(data, Decoding(), where="a.pgm")
    assert stored is not None
    assert np.array_equal(stored[0], values)
    assert np.array_equal(decode_bytes(data, "a.pgm", Decoding(intensity="full-range"))[0, :, 0], (2 * 255 * values + white) // (2 * white))
    cut = decode_bytes(data, "a.pgm", windowed(0, 255))[0, :, 0]
    assert np.array_equal(cut, np.minimum(values, 255))


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_of_no_stated_meaning_are_left_out_and_that_is_said(tmp_path: Path, channels: int) -> None:
    values = np.dstack([corpus.grey() + i for i in range(channels)])
    tifffile = pytest.importorskip("tifffile")
    kind = "minisblack" if channels == 2 else "rgb"
    tifffile.imwrite(tmp_path / "a.tif", values, photometric=kind, planarconfig="contig", extrasamples=["unspecified"])
    out, remarks = decode_remarked(tmp_path / "a.tif")
    assert np.array_equal(out, values[..., : channels - 1])
    assert remarks == ("extra channels of no stated meaning left out",)


def test_refusal_says_which_rules_there_are(tmp_path: Path) -> None:
    corpus.png16(tmp_path / "a.png", np.zeros((2, 2), np.uint16))
    with pytest.raises(DataError, match=r'declare intensity = "full-range".*"12-bit".*"window".*"percentile" .one window for the data set.*"image-percentile"'):
        decode(tmp_path / "a.png")


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(("options", "words"), [
    ({"intensity": "window"}, "window: intensity = 'window' without the window"), ({"window": [0, 9]}, r"window = \[0.0, 9.0\] beside intensity = 'refuse'"),
    ({"intensity": "window", "window": [9, 0]}, r"window: \[9.0, 0.0\], expected two values, the lower first"),
    ({"intensity": "window", "window": [1, 2, 3]}, r"window: \[1.0, 2.0, 3.0\], expected two values"),
    ({"percentiles": [1, 99]}, "percentiles: given beside intensity = 'refuse', which has none"),
    ({"intensity": "percentile", "percentiles": [99, 1]}, r"percentiles: \[99.0, 1.0\], expected two values, the lower first"),
    ({"intensity": "percentile", "percentiles": [1, 101]}, "out of range"), ({"frames": "last"}, "expected one of: first, middle, refuse"),
    ({"max_pixels": 0}, "out of range"),
])
def test_options_that_contradict_each_other_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SOURCES.build(Spec("folder", {"path": "x", **options}))


def test_the_limit_of_pixels_is_raised_for_one_run_and_no_setting_of_pillow_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # as if Pillow had been told so elsewhere: simkit has its own limit
    Image.new("L", (20, 20), 7).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png").shape == (20, 20, 1)
    with pytest.raises(DataError, match=r"a\.png: has 400 pixels, the limit is 399 (.|\n)*declare max_pixels = 400 for this run"):
        decode(tmp_path / "a.png", Decoding(max_pixels=399))
    assert Image.MAX_IMAGE_PIXELS == 50


def test_a_larger_later_page_is_held_to_the_limit(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.tif", save_all=True, append_images=[Image.new("L", (30, 30)), Image.new("L", (4, 4))])
    assert decode(tmp_path / "a.tif", Decoding(max_pixels=100)).shape == (4, 4, 1)
    with pytest.raises(DataError, match="has 900 pixels, the limit is 100"):
        decode(tmp_path / "a.tif", Decoding(max_pixels=100, frames="middle"))


# ---------------------------------------------------------------- one window for a data set


@pytest.mark.parametrize("kind", ["uint16", "int16", "int32", "uint32", "float32", "float64"])
@pytest.mark.parametrize("percentiles", [(0.0, 100.0), (0.5, 99.5), (25.0, 75.0), (49.0, 50.0)])
def test_percentiles_are_those_of_numpy_over_all_values_at_once(monkeypatch: pytest.MonkeyPatch, kind: str, percentiles: tuple[float, float]) -> None:
    monkeypatch.setattr(intensity, "CHUNK", 64)
    rng = np.random.default_rng(3)
    spread = 3e4 if "16" in kind else 1e9
    images = [(rng.normal(size=(7, 9 + i)) * spread / 5 + (0 if "u" not in kind else spread)).astype(kind) for i in range(5)]
    images[2][:3] = 17
    every = np.concatenate([values.ravel() for values in images])
    found = percentiles_of(lambda: iter(images), percentiles)
    assert found == tuple(float(v) for v in np.percentile(every.astype(np.float64), percentiles, method="inverted_cdf"))


def test_percentiles_of_mixed_kinds_and_of_nothing() -> None:
    images: list[np.ndarray] = [np.array([[1, 2]], np.uint16), np.array([[-0.5, 1e9]], np.float32), np.array([[3]], np.int32)]
    assert percentiles_of(lambda: iter(images), (0.0, 100.0)) == (-0.5, 1e9)
    assert percentiles_of(lambda: iter([]), (0.0, 100.0)) is None


def scans(folder: Path) -> tuple[FileReader, np.ndarray]:
    """Three 16-bit images, one of 8 bit and one that is damaged; and all 16-bit values."""
    rng = np.random.default_rng(0)
    values = [rng.integers(1000 * i, 1000 * (i + 3), (20, 20)).astype(np.uint16) for i in range(3)]
    paths = [folder / f"{i}.png" for i in range(5)]
    for path, one in zip(paths, values, strict=False):
        corpus.png16(path, one)
    Image.fromarray(corpus.grey()).save(paths[3])
    paths[4].write_bytes(paths[0].read_bytes()[:100])
    return FileReader(tuple(map(str, paths)), Decoding(intensity="percentile", percentiles=(1.0, 99.0))), np.stack(values)


def test_one_window_for_the_data_set_is_exact_and_part_of_every_digest(tmp_path: Path) -> None:
    reader, values = scans(tmp_path)
    low, high = (float(v) for v in np.percentile(values, (1, 99), method="inverted_cdf"))
    declared = FileReader(reader.paths, windowed(low, high))
    assert isinstance(reader, RemarkingReader)
    for i in range(3):
        assert np.array_equal(reader.read(i), declared.read(i))
        assert reader.digest(i) == declared.digest(i)
    assert reader.resolved == windowed(low, high)
    assert np.array_equal(reader.read(3)[..., 0], corpus.grey())
    with pytest.raises(DataError, match=r"4\.png: cannot be decoded"):
        reader.read(4)
    fewer = FileReader(reader.paths[:2], reader.rules)
    assert fewer.digest(0) != reader.digest(0)  # another data set, another window, other pixels
    only = FileReader(reader.paths[3:4], reader.rules)
    assert only.digest(0) == FileReader(reader.paths[3:4], Decoding()).digest(0)  # no window was needed


def test_the_window_is_sought_once_by_many_threads_and_travels_with_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, _ = scans(tmp_path)
    calls: list[int] = []
    sought = FileReader._with_window

    def counted(self: FileReader) -> Decoding:
        calls.append(1)
        return sought(self)

    monkeypatch.setattr(FileReader, "_with_window", counted)
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(reader.read, [0] * 16))
    assert all(np.array_equal(one, images[0]) for one in images)
    copy = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(copy.read(0), images[0])
    assert calls == [1]
    fresh, _ = scans(tmp_path)
    copy = pickle.loads(pickle.dumps(fresh))
    assert calls == [1, 1]  # before it was sent, not in every process again
    assert copy.resolved == reader.resolved
    assert calls == [1, 1]


def test_percentiles_that_are_one_value_give_no_window(tmp_path: Path) -> None:
    corpus.png16(tmp_path / "a.png", np.full((4, 4), 9, np.uint16))
    with pytest.raises(DataError, match=r"the percentiles 0.5 and 99.5 of all pixels are the same value, 9(.|\n)*fix: widen percentiles"):
        FileReader((str(tmp_path / "a.png"),), Decoding(intensity="percentile")).read(0)


def test_one_image_alone_has_no_window_of_a_data_set(tmp_path: Path) -> None:
    corpus.png16(tmp_path / "a.png", np.arange(4, dtype=np.uint16).reshape(2, 2))
    with pytest.raises(UsageError, match="intensity = 'percentile' needs all images of the data set"):
        decode_bytes((tmp_path / "a.png").read_bytes(), "a.png", Decoding(intensity="percentile"))


# ---------------------------------------------------------------- what changes, what is said


def test_a_file_that_changes_after_it_was_listed_is_named(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.fromarray(corpus.grey()).save(tmp_path / "set" / name / "1.png")
    dataset = Folder(tmp_path / "set").load("d", Path())
    one, two = tmp_path / "set/a/1.png", tmp_path / "set/b/1.png"
    Image.fromarray(corpus.grey()[:2]).save(one)
    status = os.stat(two)
    os.utime(two, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    for act in (dataset.read, lambda i: dataset.reader.digest(i)):
        with pytest.raises(DataError, match=r"a/1\.png: changed since the data set was listed \(\d+ bytes then, \d+ now\)"):
            act(0)
        with pytest.raises(DataError, match=r"b/1\.png: changed since the data set was listed \(same size, another time\)"):
            act(1)
    _, kept = card_of(dataset)
    assert kept.keys == ("c/1.png",)
    assert [entry.key for entry in kept.skipped] == ["a/1.png", "b/1.png"]
    (tmp_path / "set/c/1.png").unlink()
    with pytest.raises(DataError, match=r"c/1\.png: cannot be read \(No such file"):
        dataset.read(2)


def test_remarks_are_counted_in_the_card(tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    for orientation in (1, 6, 8):
        (tmp_path / "odd" / f"{orientation}.png").write_bytes(corpus.oriented(orientation)[0])
    Image.fromarray(corpus.grey()).save(tmp_path / "odd" / "moving.gif", save_all=True, append_images=[Image.fromarray(255 - corpus.grey())])
    card, _ = card_of(Folder(tmp_path).load("d", Path()))
    assert card.remarks == {"EXIF orientation applied": 2, "first of several frames": 1}


def test_bytes_and_file_give_the_same(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([corpus.colour(), np.full((5, 7), 100, np.uint8)])).save(tmp_path / "a.png")
    image, remarks = decode_remarked(tmp_path / "a.png")
    again, said = decode_remarked((tmp_path / "a.png").read_bytes(), where="x")
    assert np.array_equal(image, again)
    assert remarks == said == ("transparency composited on the background",)
    with pytest.raises(DataError, match=r"error\[SK206\] member 7: .*an empty file"):
        decode_remarked(b"", where="member 7")


def test_multi_picture_jpeg_says_that_it_holds_several(tmp_path: Path) -> None:
    first = Image.fromarray(corpus.smooth())
    first.save(tmp_path / "m.jpg", "MPO", save_all=True, append_images=[first])
    assert decode_remarked(tmp_path / "m.jpg")[1] == ("representative picture of several",)


def test_a_real_ct_slice_of_16_bit_keeps_its_levels(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    values = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm")).pixel_array
    assert values.dtype == np.int16
    path = tiff(tmp_path / "ct.tif", values)
    with pytest.raises(DataError, match=r"holds 16-bit signed values \(values from 128 to 2191\)"):
        decode(path)
    low, high = np.percentile(values, (0.5, 99.5), method="inverted_cdf")
    out = FileReader((str(path),), Decoding(intensity="percentile")).read(0)[..., 0]
    assert np.array_equal(out, np.clip(np.floor((values - low) * (255 / (high - low)) + 0.5), 0, 255).astype(np.uint8))
    assert len(np.unique(out)) > 200  # where the usual loaders leave a dozen
    assert np.array_equal(out, decode(path, replace(Decoding(), intensity="image-percentile"))[..., 0])
