"""NIfTI volumes as sets of slices: orientation, windows, faults; against nibabel's own canonical form and values written by hand."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simkit.dataset import card_of
from simkit.errors import DataError, ResourceError, UsageError
from simkit.recipe import rng_for
from simkit.registry import SOURCES, Spec
from simkit.sources import nifti_volumes
from simkit.sources.nifti import Nifti

nibabel = pytest.importorskip("nibabel")
SAMPLES = Path(nibabel.__file__).parent / "tests" / "data"


def voxels(shape: tuple[int, ...] = (4, 5, 6), kind: Any = np.int16) -> np.ndarray:
    return rng_for("voxels").integers(0, 200, shape).astype(kind)


def nifti_file(path: Path, values: np.ndarray, affine: np.ndarray | None = None, scaling: tuple[float, float] | None = None) -> Path:
    image = nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine)
    if scaling:
        image.header.set_slope_inter(*scaling)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    if scaling:  # saving recomputes them: slope and intercept stand at bytes 112 and 116
        data = bytearray(path.read_bytes())
        data[112:120] = np.array(scaling, "<f4").tobytes()
        data[352:] = values.tobytes(order="F")
        path.write_bytes(data)
    return path


def rescaled(picture: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.floor(np.clip((picture - low) * 255 / (high - low), 0, 255) + 0.5)


def test_a_marked_corner_lies_where_a_radiologist_looks_for_it(tmp_path: Path) -> None:
    values = np.zeros((4, 5, 6), np.uint8)
    values[3, 4, 5] = 255  # right, anterior, superior
    nifti_file(tmp_path / "v.nii", values)
    axial = Nifti(path=tmp_path, labels=False).load("d", tmp_path)
    assert axial.keys == tuple(f"v.nii#axial-{i:03d}" for i in range(6))
    assert axial.read(5).shape == (5, 4, 1)
    assert np.argwhere(axial.read(5)).tolist() == [[0, 0, 0]]  # anterior is above, the right is on the left
    coronal = Nifti(path=tmp_path, labels=False, axis="coronal").load("d", tmp_path)
    assert (len(coronal), coronal.read(4).shape) == (5, (6, 4, 1))
    assert np.argwhere(coronal.read(4)).tolist() == [[0, 0, 0]]
    sagittal = Nifti(path=tmp_path, labels=False, axis="sagittal").load("d", tmp_path)
    assert (len(sagittal), sagittal.read(3).shape) == (4, (6, 5, 1))
    assert np.argwhere(sagittal.read(3)).tolist() == [[0, 0, 0]]
    assert not sagittal.read(0).any()
    stored = Nifti(path=tmp_path, labels=False, axis="2").load("d", tmp_path)
    np.testing.assert_array_equal(stored.read(5)[:, :, 0], values[:, :, 5].T)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR", "ILA", "PSR"])
@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_every_voxel_order_gives_the_pictures_of_the_canonical_one(codes: str, extension: str, tmp_path: Path) -> None:
    plain = nibabel.Nifti1Image(voxels(kind=np.uint8), np.diag([1.0, 2.0, 3.0, 1.0]))
    orientations = nibabel.orientations
    turned = plain.as_reoriented(orientations.ornt_transform(orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(codes)))
    nibabel.save(turned, tmp_path / f"v{extension}")
    canonical = np.asarray(nibabel.as_closest_canonical(nibabel.load(tmp_path / f"v{extension}")).dataobj)
    for axis, number in (("sagittal", 0), ("coronal", 1), ("axial", 2)):
        dataset = Nifti(path=tmp_path, labels=False, axis=axis).load("d", tmp_path)  # type: ignore[arg-type]
        for index in range(len(dataset)):
            picture = np.rot90(np.take(canonical, index, axis=number))[:, ::-1]
            np.testing.assert_array_equal(dataset.read(index)[:, :, 0], picture)
        assert dataset.remarked(0)[1] == ("pixels of the slice are not square: not resampled",)


def test_slope_intercept_and_windows(tmp_path: Path) -> None:
    values = voxels()
    nifti_file(tmp_path / "ct.nii", values, scaling=(2.0, -100.0))
    units = np.rot90(values[:, :, 1].astype(float) * 2 - 100)[:, ::-1]
    window = Nifti(path=tmp_path, labels=False, intensity="window", window=(0.0, 200.0)).load("d", tmp_path)
    image, remarks = window.remarked(1)
    np.testing.assert_array_equal(image[:, :, 0], rescaled(units, 0, 200))
    assert remarks == ("more than 1% of its pixels lie outside the window: black or white",)
    nifti_file(tmp_path / "second.nii", np.full((2, 2, 2), 2000, np.int16))
    own = Nifti(path=tmp_path, labels=False, intensity="volume-percentile", percentiles=(10.0, 90.0)).load("d", tmp_path)
    low, high = np.sort(values.ravel())[[int(np.ceil(0.1 * 120)) - 1, int(np.ceil(0.9 * 120)) - 1]] * 2.0 - 100
    np.testing.assert_array_equal(own.read(1)[:, :, 0], rescaled(units, low, high))
    assert own.remarked(6)[1] == ("all pixels between its percentiles are equal: black",)
    together = Nifti(path=tmp_path, labels=False, intensity="percentile", percentiles=(0.0, 100.0)).load("d", tmp_path)
    np.testing.assert_array_equal(together.read(1)[:, :, 0], rescaled(units, values.min() * 2 - 100, 2000))
    assert together.read(6).min() == 255
    copy = pickle.loads(pickle.dumps(together))
    assert copy.reader.__dict__["resolved"].window == (float(values.min() * 2 - 100), 2000.0)
    assert copy.fingerprint == together.fingerprint
    assert len({one.digests[1] for one in (window, own, together)}) == 3
    nifti_file(tmp_path / "falling.nii", values, scaling=(-1.0, 0.0))
    falling = Nifti(path=tmp_path, labels=False, intensity="volume-percentile", percentiles=(0.0, 100.0)).load("d", tmp_path)
    wanted = rescaled(np.rot90(-values[:, :, 2].astype(float))[:, ::-1], -values.max(), -values.min())
    np.testing.assert_array_equal(falling.read(falling.keys.index("falling.nii#axial-002"))[:, :, 0], wanted)


def test_nothing_is_guessed_where_no_rule_is_declared(tmp_path: Path) -> None:
    nifti_file(tmp_path / "mr.nii.gz", voxels())
    dataset = Nifti(path=tmp_path, labels=False).load("d", tmp_path)
    message = r"SK207\] .*mr.nii.gz: holds int16 values \(from \d+ to \d+\): how they become 8 bit is not declared\n.*volume-percentile"
    with pytest.raises(DataError, match=message):
        dataset.read(0)
    for options, message in (
        ({"intensity": "window"}, r"SK102\] nifti.window: intensity = 'window' without the window"),
        ({"window": (0.0, 1.0)}, r"SK102\] nifti.window: window = \[0.0, 1.0\] beside intensity = 'refuse'"),
        ({"percentiles": (9.0, 1.0)}, r"SK102\] nifti.percentiles: \[9.0, 1.0\], expected two values"),
    ):
        with pytest.raises(UsageError, match=message):
            Nifti(path=tmp_path, **options)


def test_nan_is_black_and_said(tmp_path: Path) -> None:
    values = voxels(kind=np.float32)
    values[0, 0, 0] = np.nan
    nifti_file(tmp_path / "z.nii", values)
    dataset = Nifti(path=tmp_path, labels=False, intensity="volume-percentile", percentiles=(0.0, 100.0)).load("d", tmp_path)
    image, remarks = dataset.remarked(0)
    assert image[-1, -1, 0] == 0
    assert remarks == ("NaN pixels: black",)
    assert dataset.remarked(1)[1] == ()
    assert card_of(dataset)[0].remarks == {"NaN pixels: black": 1}


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_one_of_several_volumes_must_be_named(extension: str, tmp_path: Path) -> None:
    values = voxels((3, 4, 5, 2), np.uint8)
    nifti_file(tmp_path / f"bold{extension}", values)
    with pytest.raises(DataError, match=r"SK207\] .*: holds 2 volumes: which one is meant is not known\nfix: declare volume = 0"):
        Nifti(path=tmp_path, labels=False).load("d", tmp_path)
    second = Nifti(path=tmp_path, labels=False, volume=1).load("d", tmp_path)
    np.testing.assert_array_equal(second.read(2)[:, :, 0], np.rot90(values[:, :, 2, 1])[:, ::-1])
    assert second.digests[0] != Nifti(path=tmp_path, labels=False, volume=0).load("d", tmp_path).digests[0]
    with pytest.raises(DataError, match=r"SK207\] .*: holds 2 volumes: there is no volume 2"):
        Nifti(path=tmp_path, labels=False, volume=2).load("d", tmp_path)


def test_a_folder_has_classes_volumes_are_groups_and_every_kth_slice_is_taken(tmp_path: Path) -> None:
    for key in ("ill/a.nii", "ill/b.nii.gz", "well/c.nii"):
        nifti_file(tmp_path / key, voxels(kind=np.uint8))
    dataset = SOURCES.build(Spec("nifti", {"path": str(tmp_path), "every": 4})).load("d", tmp_path)
    assert dataset.keys == tuple(f"{key}#axial-{i:03d}" for key in ("ill/a.nii", "ill/b.nii.gz", "well/c.nii") for i in (0, 4))
    assert dataset.label_names == ("ill",) * 4 + ("well",) * 2
    assert dataset.groups == ("ill/a.nii",) * 2 + ("ill/b.nii.gz",) * 2 + ("well/c.nii",) * 2
    np.testing.assert_array_equal(dataset.read(1), dataset.read(3))
    assert dataset.digests[0] != dataset.digests[1]


def test_a_table_names_volumes_labels_patients_and_splits(tmp_path: Path) -> None:
    for name in ("a", "b"):
        nifti_file(tmp_path / "scans" / f"{name}.nii.gz", voxels(kind=np.uint8))
    (tmp_path / "t.csv").write_text("path,label,group,split\nscans/a.nii.gz,ill,p1,train\nscans/b.nii.gz,well,p2,test\n")
    dataset = Nifti(path=tmp_path / "t.csv", every=5).load("d", tmp_path)
    assert dataset.keys == ("scans/a.nii.gz#axial-000", "scans/a.nii.gz#axial-005", "scans/b.nii.gz#axial-000", "scans/b.nii.gz#axial-005")
    assert (dataset.groups, dataset.splits) == (("p1", "p1", "p2", "p2"), ("train", "train", "test", "test"))
    assert dataset.label_names == ("ill", "ill", "well", "well")
    (tmp_path / "t.csv").write_text("path,label\nscans/a.nii.gz,ill\nscans/z.nii.gz,well\n")
    with pytest.raises(DataError, match=r"SK205\] .*t.csv:3 \(column 'path'\): 'scans/z.nii.gz' does not exist"):
        Nifti(path=tmp_path / "t.csv").load("d", tmp_path)


def test_slices_without_content_are_listed(tmp_path: Path) -> None:
    values = voxels(kind=np.uint8) // 2 + 100
    values[:, :, :2] = 25
    nifti_file(tmp_path / "v.nii", values)
    dataset = Nifti(path=tmp_path, labels=False, content=0.5).load("d", tmp_path)
    assert dataset.keys == tuple(f"v.nii#axial-{i:03d}" for i in range(2, 6))
    assert [(one.key, one.reason) for one in dataset.skipped] == [
        (f"v.nii#axial-{i:03d}", "less than 0.5 of the slice is brighter than a tenth of the range (content)") for i in range(2)]
    nifti_file(tmp_path / "v.nii", values * 0)
    with pytest.raises(DataError, match=r"SK201\] .*: none of 6 slices has the content 0.5"):
        Nifti(path=tmp_path, labels=False, content=0.5).load("d", tmp_path)


def test_colour_volumes_are_read_and_other_kinds_refused_by_name(tmp_path: Path) -> None:
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    values = np.zeros((2, 3, 4), kind)
    values["R"], values["B"][1, 2, 3] = 7, 200
    nifti_file(tmp_path / "rgb" / "v.nii.gz", values)
    dataset = Nifti(path=tmp_path / "rgb", labels=False).load("d", tmp_path)
    assert dataset.read(3).shape == (3, 2, 3)
    assert dataset.read(3)[0, 0].tolist() == [7, 0, 200]
    nifti_file(tmp_path / "other" / "v.nii", np.zeros((2, 2, 2), np.complex64))
    with pytest.raises(DataError, match=r"SK207\] .*v.nii: holds voxels of the type complex64, which have no single grey level"):
        Nifti(path=tmp_path / "other", labels=False).load("d", tmp_path)


def test_damaged_volumes_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    nifti_file(tmp_path / "good.nii", voxels(kind=np.uint8))
    packed = nifti_file(tmp_path / "cut.nii.gz", rng_for("noise").integers(0, 256, (30, 30, 30), dtype=np.uint8))
    packed.write_bytes(packed.read_bytes()[:9000])
    plain = nifti_file(tmp_path / "short.nii", voxels(kind=np.uint8))
    plain.write_bytes(plain.read_bytes()[:-20])
    (tmp_path / "empty.nii").write_bytes(b"")
    (tmp_path / "text.nii").write_text("hello " * 100)
    (tmp_path / "readme.txt").write_text("hello")
    dataset = Nifti(path=tmp_path, labels=False, every=3).load("d", tmp_path)
    assert {one.key for one in dataset.skipped} == {"empty.nii", "text.nii"}
    _, kept = card_of(dataset)
    assert kept.keys == ("good.nii#axial-000", "good.nii#axial-003")
    assert {one.key for one in kept.skipped} == {"empty.nii", "text.nii", "short.nii#axial-000", "short.nii#axial-003"} | {
        f"cut.nii.gz#axial-{i:03d}" for i in range(0, 30, 3)}
    with pytest.raises(DataError, match=r"SK206\] .*cut.nii.gz: cannot be read: "):
        dataset.read(0)
    for name in ("good.nii", "cut.nii.gz", "short.nii", "empty.nii", "text.nii"):
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match=r"SK206\] .*good.nii: cannot be read \(No such file"):
        dataset.read(dataset.keys.index("good.nii#axial-000"))
    with pytest.raises(DataError, match=r"SK201\] .*: no NIfTI volume in it; found: 1 .txt"):
        Nifti(path=tmp_path, labels=False).load("d", tmp_path)


def test_a_volume_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nifti_file(tmp_path / "v.nii.gz", voxels(kind=np.uint8))
    monkeypatch.setattr(nifti_volumes, "LARGEST", 100)
    with pytest.raises(DataError, match=r"SK206\] .*v.nii.gz: holds 120 bytes when it is unpacked.*the limit is 100\nfix: unpack it to .nii"):
        Nifti(path=tmp_path, labels=False).load("d", tmp_path).read(0)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    with pytest.raises(ResourceError, match=r"SK303\] nifti: the package nibabel cannot be imported(.|\n)*pip install 'simkit\[nifti\]'"):
        Nifti(path=tmp_path).load("d", tmp_path)


def test_the_public_sample_of_nibabel(tmp_path: Path) -> None:
    for name in ("anatomical.nii", "example4d.nii.gz"):
        if not (SAMPLES / name).is_file():
            pytest.skip("this nibabel ships no samples")
        (tmp_path / name).write_bytes((SAMPLES / name).read_bytes())
    dataset = Nifti(path=tmp_path, labels=False, volume=0, intensity="volume-percentile", every=4).load("d", tmp_path)
    assert dataset.skipped == ()
    for name in ("anatomical.nii", "example4d.nii.gz"):
        values = nibabel.as_closest_canonical(nibabel.load(SAMPLES / name)).get_fdata()
        values = values[..., 0] if values.ndim == 4 else values
        low, high = np.percentile(values, (0.5, 99.5), method="inverted_cdf")
        for index in range(0, values.shape[2], 4):
            read = dataset.read(dataset.keys.index(f"{name}#axial-{index:03d}"))[:, :, 0]
            np.testing.assert_allclose(read, rescaled(np.rot90(values[:, :, index])[:, ::-1], low, high), atol=1)
