"""DICOM: several frames, the window of a data set, tables, remarks; real images written by pydicom, and the public samples that it ships."""

from __future__ import annotations

import hashlib
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simkit.dataset import Dataset, card_of
from simkit.errors import DataError, UsageError
from simkit.recipe import digest_file, rng_for
from simkit.sources import dicom_pixels
from simkit.sources.dicom import Dicom
from simkit.sources.dicom_pixels import Window, decode_dicom

pydicom = pytest.importorskip("pydicom")
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
SATURATED = "more than 1% of its pixels lie outside the window: black or white"


def dicom_file(path: Path, stored: np.ndarray, **entries: Any) -> Path:
    """A file of one frame (height, width), or of several (frames, height, width[, 3]), of patient 4711."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.SOPClassUID = pydicom.uid.CTImageStorage
    data.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[str(path)])
    data.StudyInstanceUID = data.SeriesInstanceUID = pydicom.uid.generate_uid(entropy_srcs=["study"])
    data.PatientName, data.PatientID = "Doe^Jane", "4711"
    colour = stored.shape[-1] == 3
    size = stored.shape[-3:-1] if colour else stored.shape[-2:]
    if stored.ndim > 2 + colour:
        data.NumberOfFrames = len(stored)
    data.Rows, data.Columns = size
    data.SamplesPerPixel, data.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        data.PlanarConfiguration = 0
    data.BitsAllocated = 8 * stored.dtype.itemsize
    data.BitsStored = 12 if stored.dtype.itemsize == 2 else 8
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    for name, value in entries.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def stored(*shape: int, last: int = 4096) -> np.ndarray:
    return rng_for("stored", last).integers(0, last, shape, dtype=np.uint16)


def item(**entries: Any) -> Any:
    data = pydicom.Dataset()
    for name, value in entries.items():
        setattr(data, name, value)
    return data


def linear(values: np.ndarray, center: float, width: float) -> Any:
    """PS3.3, C.11.2.1.2.1."""
    return np.floor(np.clip(((values - (center - 0.5)) / (width - 1) + 0.5) * 255, 0, 255) + 0.5)


def loaded(path: Path, **options: Any) -> Dataset:
    return Dicom(path=path, labels=False, **options).load("d", path.parent)


CT: dict[str, Any] = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 600, "WindowWidth": 2000}


# ---------------------------------------------------------------- frames


def test_every_frame_is_an_image_of_the_files_patient(tmp_path: Path) -> None:
    frames = stored(12, 5, 7)
    dicom_file(tmp_path / "cine.dcm", frames, **CT)
    dicom_file(tmp_path / "one.dcm", frames[0], **CT)
    dataset = loaded(tmp_path)
    assert dataset.keys == (*(f"cine.dcm#{i:04d}" for i in range(1, 13)), "one.dcm")
    assert set(dataset.groups or ()) == {hashlib.sha256(b"4711").hexdigest()[:16]}
    for index in range(12):
        np.testing.assert_array_equal(dataset.read(index)[:, :, 0], linear(frames[index] * 2.0 - 1024, 600, 2000))
    assert dataset.remarked(0)[1][:2] == ("frame of a multi-frame file", "window of the file")
    assert dataset.remarked(12)[1][:1] == ("window of the file",)
    assert len(set(dataset.digests)) == 13
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.fingerprint == dataset.fingerprint
    assert card_of(dataset)[0].remarks["frame of a multi-frame file"] == 12


@pytest.mark.parametrize(("frames", "wanted", "said"), [("first", 0, "first of several frames"), ("middle", 2, "middle of several frames")])
def test_one_frame_of_each_file(frames: Any, wanted: int, said: str, tmp_path: Path) -> None:
    values = stored(5, 4, 6)
    dicom_file(tmp_path / "cine.dcm", values, **CT)
    dataset = loaded(tmp_path, frames=frames)
    assert dataset.keys == ("cine.dcm",)
    np.testing.assert_array_equal(dataset.read(0)[:, :, 0], linear(values[wanted] * 2.0 - 1024, 600, 2000))
    assert dataset.remarked(0)[1][0] == said
    with pytest.raises(DataError, match=r'SK207\] .*cine.dcm: holds 5 frames: which one is the image is not known\nfix: read them all \(frames = "all"\)'):
        loaded(tmp_path, frames="refuse")
    with pytest.raises(DataError, match=r"SK206\] .*cine.dcm: holds 5 frames, wanted number 6"):
        decode_dicom(tmp_path / "cine.dcm", frame=5)


def test_a_frame_is_read_without_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dicom_file(tmp_path / "cine.dcm", stored(300, 64, 64), **CT)
    dataset = loaded(tmp_path)
    dataset.read(0)
    read: list[Any] = []
    digested: list[str] = []

    def digest_once(file: str) -> str:
        digested.append(file)
        return digest_file(file)

    monkeypatch.setattr(dicom_pixels, "header_of", lambda *given: read.append(given))
    monkeypatch.setattr("simkit.sources.levels.digest_file", digest_once)
    tracemalloc.start()
    dataset.read(299)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 4
    assert read == []  # the header is kept
    assert len(set(dataset.digests)) == 300
    assert len(digested) == 1


def test_enhanced_files_hold_slope_and_window_of_each_frame(tmp_path: Path) -> None:
    values = stored(3, 4, 6)
    shared = item(PixelValueTransformationSequence=[item(RescaleSlope=3, RescaleIntercept=-10, RescaleType="US")])
    per_frame = [item(FrameVOILUTSequence=[item(WindowCenter=1000 + 500 * i, WindowWidth=3000)]) for i in range(3)]
    per_frame[2].PixelValueTransformationSequence = [item(RescaleSlope=1, RescaleIntercept=7, RescaleType="US")]
    dicom_file(tmp_path / "e.dcm", values, SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=per_frame)
    dataset = loaded(tmp_path)
    np.testing.assert_array_equal(dataset.read(0)[:, :, 0], linear(values[0] * 3.0 - 10, 1000, 3000))
    np.testing.assert_array_equal(dataset.read(1)[:, :, 0], linear(values[1] * 3.0 - 10, 1500, 3000))
    np.testing.assert_array_equal(dataset.read(2)[:, :, 0], linear(values[2] + 7.0, 2000, 3000))


def test_colour_frames_and_frames_that_are_cut_off(tmp_path: Path) -> None:
    frames = rng_for("colour").integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
    path = dicom_file(tmp_path / "us.dcm", frames)
    dataset = loaded(tmp_path)
    np.testing.assert_array_equal(dataset.read(2), frames[2])
    assert dataset.remarked(2)[1] == ("frame of a multi-frame file",)
    path.write_bytes(path.read_bytes()[:-80])
    with pytest.raises(DataError, match=r"SK206\] .*us.dcm: cannot be decoded: "):
        loaded(tmp_path).read(2)


# ---------------------------------------------------------------- windows and remarks


def test_one_of_several_windows(tmp_path: Path) -> None:
    values = stored(5, 7)
    dicom_file(tmp_path / "two.dcm", values, **(CT | {"WindowCenter": [600, 40], "WindowWidth": [2000, 400]}))
    first, second = loaded(tmp_path), loaded(tmp_path, which_window=2)
    np.testing.assert_array_equal(first.read(0)[:, :, 0], linear(values * 2.0 - 1024, 600, 2000))
    np.testing.assert_array_equal(second.read(0)[:, :, 0], linear(values * 2.0 - 1024, 40, 400))
    assert first.remarked(0)[1] == ("first of several windows of the file", SATURATED)
    assert second.remarked(0)[1] == ("number 2 of several windows of the file", SATURATED)
    assert first.digests != second.digests
    with pytest.raises(DataError, match=r"SK207\] .*two.dcm: has 2 windows, which_window = 3 asks for another"):
        loaded(tmp_path, which_window=3).read(0)


def test_one_window_of_the_whole_data_set(tmp_path: Path) -> None:
    a, b = stored(5, 7), stored(6, 6, last=3000)
    b[0, 0] = 4095  # padding, outside of the body
    dicom_file(tmp_path / "a.dcm", a, **CT)
    dicom_file(tmp_path / "b.dcm", b, RescaleSlope=1, RescaleIntercept=0, PixelPaddingValue=4095, PhotometricInterpretation="MONOCHROME1")
    dicom_file(tmp_path / "c.dcm", np.zeros((4, 4, 3), np.uint8))
    dataset = loaded(tmp_path, window="percentile", percentiles=(5.0, 95.0))
    every = np.concatenate([a.ravel() * 2.0 - 1024, b.ravel()[b.ravel() != 4095]])
    low, high = np.percentile(every, (5, 95), method="inverted_cdf")

    def wanted(values: np.ndarray) -> Any:
        return np.floor(np.clip((values - low) * 255 / (high - low), 0, 255) + 0.5)

    np.testing.assert_array_equal(dataset.read(0)[:, :, 0], wanted(a * 2.0 - 1024))
    np.testing.assert_array_equal(dataset.read(1)[:, :, 0], 255 - wanted(b.astype(float)))
    assert (dataset.remarked(0)[1], dataset.remarked(1)[1]) == ((SATURATED,), ("MONOCHROME1 inverted",))
    assert dataset.read(2).shape == (4, 4, 3)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.reader.__dict__["_ends"] == (low, high)
    before = dataset.digests[0]
    dicom_file(tmp_path / "d.dcm", np.full((6, 6), 4095, np.uint16), **CT)
    assert loaded(tmp_path, window="percentile", percentiles=(5.0, 95.0)).digests[0] != before  # the window is part of the content
    with pytest.raises(UsageError, match=r"SK108\] .*a.dcm: window = 'percentile' needs all images of the data set"):
        decode_dicom(tmp_path / "a.dcm", Window(window="percentile"))
    with pytest.raises(UsageError, match=r"center and width contradict window = 'percentile'"):
        Window(window="percentile", center=40, width=400)
    with pytest.raises(UsageError, match=r"SK102\] dicom.percentiles: \[99.0, 1.0\], expected two values"):
        Window(percentiles=(99.0, 1.0))
    dicom_file(tmp_path / "flat" / "f.dcm", np.full((5, 5), 7, np.uint16))
    with pytest.raises(DataError, match=r"SK207\] .*f.dcm: no window for the data set: both percentiles of all pixels are 7"):
        loaded(tmp_path / "flat", window="percentile").read(0)


# ---------------------------------------------------------------- tables


def test_a_table_alone_names_files_labels_groups_and_splits(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        dicom_file(tmp_path / "scans" / f"{name}.dcm", stored(3, 5, 7) if name == "b" else stored(5, 7), PatientID=f"p{name}", **CT)
    (tmp_path / "scans" / "broken.dcm").write_bytes(b"nothing")
    rows = "scans/a.dcm,ill,P1,train\nscans/b.dcm,well,P2,test\nscans/broken.dcm,ill,P3,test\n"
    (tmp_path / "t.csv").write_text(f"path,label,person,part\n{rows}")
    dataset = Dicom(path=Path("t.csv"), group="person", split="part").load("d", tmp_path)
    assert dataset.keys == ("scans/a.dcm", "scans/b.dcm#0001", "scans/b.dcm#0002", "scans/b.dcm#0003")  # c is not named, and not missed
    assert dataset.label_names == ("ill", "well", "well", "well")
    assert dataset.splits == ("train", "test", "test", "test")
    one, two = (hashlib.sha256(patient).hexdigest()[:16] for patient in (b"P1", b"P2"))
    assert dataset.groups == (one, two, two, two)
    assert [(left.key, left.reason) for left in dataset.skipped] == [("scans/broken.dcm", "is not a DICOM file: it looks like text ('nothing'...)")]
    plain = Dicom(path=Path("t.csv"), label="").load("d", tmp_path)
    assert (plain.labels, plain.splits) == (None, None)
    assert plain.groups is not None
    assert plain.groups[0] == hashlib.sha256(b"pa").hexdigest()[:16]
    for options, message in (
        ({"table": Path("t.csv")}, r"SK102\] dicom.table: given, but path is a table already"),
        ({"match": "stem"}, r"SK102\] dicom.match: 'stem' needs the folder of the files"),
    ):
        with pytest.raises(UsageError, match=message):
            Dicom(path=Path("t.csv"), **options).load("d", tmp_path)
    (tmp_path / "t.csv").write_text("path,label\nscans/z.dcm,ill\n")
    with pytest.raises(DataError, match=r"SK205\] .*t.csv:2 \(column 'path'\): 'scans/z.dcm' does not exist"):
        Dicom(path=Path("t.csv")).load("d", tmp_path)


def test_a_table_beside_a_folder_may_carry_groups_and_splits(tmp_path: Path) -> None:
    for name in ("a", "b"):
        dicom_file(tmp_path / "scans" / f"{name}.dcm", stored(5, 7), **CT)
    table = tmp_path / "t.csv"
    table.write_text("id,label,person,part\na,ill,P1,train\nb,well,P2,test\n")
    options: dict[str, Any] = {"table": Path("t.csv"), "key": "id", "match": "stem", "group": "person", "split": "part"}
    dataset = Dicom(path=Path("scans"), **options).load("d", tmp_path)
    assert dataset.groups == tuple(hashlib.sha256(patient).hexdigest()[:16] for patient in (b"P1", b"P2"))
    assert dataset.splits == ("train", "test")
    table.write_text("id,label,person,part\na,ill,P1,train\na,ill,P2,train\na,ill,P1,test\nb,well,,test\n")
    with pytest.raises(DataError, match=r"(?s)t.csv:3 \(column 'id'\): is about the same stem as line 2, with another group.*"
                                        r"t.csv:4 .*with another split.*t.csv:5 \(column 'person'\): the cell is empty"):
        Dicom(path=Path("scans"), **options).load("d", tmp_path)
    with pytest.raises(UsageError, match=r"SK102\] dicom: group and split name columns of a table, and there is none"):
        Dicom(path=Path("scans"), labels=False, group="person").load("d", tmp_path)


# ---------------------------------------------------------------- real images and public samples


@pytest.mark.shared
def test_real_images_survive_the_way_through_dicom(shared: Path, tmp_path: Path) -> None:
    slices = sorted(path for path in (shared / "data" / "brainmri4").rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))[:3]
    assert len(slices) == 3
    images = [np.asarray(Image.open(path).convert("L")) for path in slices]
    with np.load(shared / "data" / "pneumonia.npz") as file:
        key = next(key for key in file.files if key.endswith("_images"))
        images += list(file[key][:3])
    for index, image in enumerate(images):
        deep = image.astype(np.uint16) * 16  # as 12-bit values in Hounsfield units
        dicom_file(tmp_path / f"patient{index}" / "scan.dcm", deep, PatientID=f"patient{index}", RescaleSlope=1, RescaleIntercept=-1024,
                   WindowCenter=2040 - 1024 + 0.5, WindowWidth=4081)
        white = 4080 - deep if index % 2 else deep
        dicom_file(tmp_path / f"patient{index}" / "white.dcm", white, PatientID=f"patient{index}", RescaleSlope=1, RescaleIntercept=-1024,
                   WindowCenter=2040 - 1024 + 0.5, WindowWidth=4081, PhotometricInterpretation="MONOCHROME1" if index % 2 else "MONOCHROME2")
    dicom_file(tmp_path / "cine" / "c.dcm", np.stack(images[3:]), PatientID="cine")
    dataset = Dicom(path=tmp_path).load("d", tmp_path)
    assert len(dataset) == 2 * len(images) + 3
    assert len(set(dataset.groups or ())) == len(images) + 1
    for index, image in enumerate(images):
        for name in ("scan", "white"):
            np.testing.assert_array_equal(dataset.read(dataset.keys.index(f"patient{index}/{name}.dcm"))[:, :, 0], image)
    for index in range(3):
        np.testing.assert_array_equal(dataset.read(dataset.keys.index(f"cine/c.dcm#{index + 1:04d}"))[:, :, 0], images[3 + index])
    assert card_of(dataset)[0].remarks["MONOCHROME1 inverted"] == 3


def sample(name: str) -> Path:
    path = SAMPLES / name
    if not path.is_file():
        pytest.skip(f"this pydicom does not ship {name}")
    return path


def test_the_public_ct_slice_in_hounsfield_units() -> None:
    path = sample("CT_small.dcm")
    header = pydicom.dcmread(path)
    assert (float(header.RescaleIntercept), float(header.RescaleSlope)) == (-1024, 1)
    units = header.pixel_array.astype(float) - 1024
    np.testing.assert_array_equal(decode_dicom(path, Window(center=40, width=400))[:, :, 0], linear(units, 40, 400))
    with pytest.raises(DataError, match=r"SK207\] .*CT_small.dcm: has no window \(values from -896 to 1167\)"):
        decode_dicom(path)


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm"])
def test_the_public_mr_slice_by_its_window_in_every_transfer_syntax(name: str) -> None:
    header = pydicom.dcmread(sample(name))
    ours = decode_dicom(sample(name))[:, :, 0]
    theirs = pydicom.pixels.apply_voi_lut(pydicom.pixels.apply_rescale(header.pixel_array, header), header)  # to the range of the stored bits
    low, high = (-32768.0, 32767.0) if header.PixelRepresentation else (0.0, 65535.0)
    np.testing.assert_allclose(ours, (theirs - low) / (high - low) * 255, atol=0.5 + 1e-6)
    np.testing.assert_array_equal(ours, decode_dicom(sample("MR_small.dcm"))[:, :, 0])


@pytest.mark.parametrize(("one", "other"), [("SC_rgb_rle_2frame.dcm", "SC_rgb_rle.dcm")])
def test_frames_of_public_colour_files(one: str, other: str) -> None:
    frames = pydicom.dcmread(sample(one)).pixel_array
    assert frames.shape[0] == 2
    for index in range(2):
        np.testing.assert_array_equal(decode_dicom(sample(one), frame=index), frames[index])
    np.testing.assert_array_equal(decode_dicom(sample(one), frame=0), decode_dicom(sample(other)))
    with pytest.raises(DataError, match=r"holds 2 frames: which one is the image is not known"):
        decode_dicom(sample(one))


def test_the_public_dose_of_many_frames_needs_a_rule(tmp_path: Path) -> None:
    (tmp_path / "rtdose.dcm").write_bytes(sample("rtdose.dcm").read_bytes())
    frames = pydicom.dcmread(sample("rtdose.dcm")).pixel_array
    dataset = loaded(tmp_path, groups=False, window="percentile", percentiles=(0.0, 100.0))
    assert len(dataset) == len(frames) == 15
    low, high = float(frames.min()), float(frames.max())
    for index in (0, 7, 14):
        wanted = np.floor((frames[index] - low) * 255 / (high - low) + 0.5)
        np.testing.assert_array_equal(dataset.read(index)[:, :, 0], wanted)
    with pytest.raises(DataError, match=r"SK207\] .*rtdose.dcm: has no window"):
        loaded(tmp_path, groups=False).read(0)


def test_a_public_medium_of_files_without_pixels_names_each(tmp_path: Path) -> None:
    for name in ("rtplan.dcm", "CT_small.dcm"):
        (tmp_path / name).write_bytes(sample(name).read_bytes())
    dataset = loaded(tmp_path, window="full-range")
    assert dataset.keys == ("CT_small.dcm",)
    assert [(one.key, one.reason) for one in dataset.skipped] == [("rtplan.dcm", "holds no pixels (no PixelData): a report, a structure set or an index")]
