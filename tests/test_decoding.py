"""Images decoded in other processes: in order, once copied, and a decoder that crashes or hangs costs one image."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torchvision  # noqa: F401 - its decoder is used where it is imported
from PIL import Image
from strange_reader import Stillborn, Strange

from simkit.dataset import Dataset
from simkit.errors import DataError, Problem, ResourceError
from simkit.extractors import decoding
from simkit.extractors.base import AUTOMATIC, OutOfMemory, extract
from simkit.extractors.network_session import Preprocessing
from simkit.sources.array import from_arrays
from simkit.sources.decode import decode_remarked
from simkit.sources.npz import Npz


def dataset(n: int = 200, **options: object) -> Dataset:
    return Dataset("strange", tuple(f"image {i}" for i in range(n)), Strange(**options))  # type: ignore[arg-type]


RULE = Preprocessing(32, 32)


def all_of(data: Dataset, *, workers: int = 2, shape: tuple[int, ...] | None = (32, 32, 3)) -> list[tuple[int, object, tuple[str, ...]]]:
    return [(item.index, item.pixels if isinstance(item.pixels, Problem) else int(np.asarray(item.pixels)[0, 0, 0]), item.remarks)
            for item in decoding.prepared_images(data, range(len(data)), RULE, workers=workers, shape=shape)]


@pytest.mark.parametrize("shape", [(32, 32, 3), None, (16, 16, 3)])
def test_images_come_in_order_with_their_remarks(shape: tuple[int, ...] | None) -> None:
    assert all_of(dataset(), shape=shape) == [(i, i % 251, ("rotated",) if i % 2 else ()) for i in range(200)]


def test_threads_give_the_same() -> None:
    few = dataset(decoding.FEW)
    assert all_of(few) == [(i, i, ("rotated",) if i % 2 else ()) for i in range(decoding.FEW)]


def test_workers_import_no_torch() -> None:
    code = ("import sys; import simkit.extractors.decoding, simkit.extractors.network_session, simkit.sources.folder; "
            "sys.exit('torch' in sys.modules or 'pandas' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unreadable_images_are_named_and_the_others_come() -> None:
    rows = all_of(dataset(bad=(0, 7, 199)))
    problems = {i: what for i, what, _ in rows if isinstance(what, Problem)}
    assert sorted(problems) == [0, 7, 199]
    assert problems[7].where == "image 7"
    assert [what for i, what, _ in rows if i not in problems] == [i % 251 for i in range(200) if i not in problems]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_image_that_kills_the_decoder_is_named_and_the_others_come(workers: int) -> None:
    rows = all_of(dataset(crash=(13, 120)), workers=workers)
    problems = {i: what for i, what, _ in rows if isinstance(what, Problem)}
    assert sorted(problems) == [13, 120]
    assert "the decoder died on it, twice" in problems[13].message
    assert problems[13].where == "strange: image 13"
    assert [i for i, _, _ in rows] == list(range(200))


def test_a_decoder_that_was_killed_from_outside_loses_nothing(tmp_path: Path) -> None:
    rows = all_of(dataset(crash=(50,), once=str(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()
    assert [(i, what) for i, what, _ in rows] == [(i, i % 251) for i in range(200)]


def test_an_image_that_hangs_the_decoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "SECONDS_PER_IMAGE", 0.5)
    rows = all_of(dataset(80, hang=(41,)))
    problems = [(i, what.message) for i, what, _ in rows if isinstance(what, Problem)]
    assert problems == [(41, "the decoder took more than 0 s on it, twice")]


def test_no_worker_outlives_the_run() -> None:
    stream = decoding.prepared_images(dataset(), range(200), RULE, workers=2, shape=(32, 32, 3))
    next(stream)
    before = children()
    assert len(before) == 2
    stream.close()  # type: ignore[attr-defined]
    assert children() == []


def children() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z" and b"decoding" in (path.parent / "cmdline").read_bytes():
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{"quality": 95}, {"quality": 20, "subsampling": 2}, {"progressive": True}, {"subsampling": 0, "optimize": True}])
def test_the_decoder_of_torchvision_gives_the_bytes_of_pillow(mode: str, options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.io

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((61, 47)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    picture.save(file, "JPEG", exif=exif, **options)
    calls: list[int] = []
    theirs = torchvision.io.decode_jpeg
    monkeypatch.setattr(torchvision.io, "decode_jpeg", lambda data, mode: (calls.append(1), theirs(data, mode=mode))[1])
    fast, said = decode_remarked(file.getvalue())
    assert len(calls) == (mode != "CMYK")
    monkeypatch.delitem(sys.modules, "torchvision.io")
    slow, also_said = decode_remarked(file.getvalue())
    assert len(calls) == (mode != "CMYK")
    assert (fast.shape[:2], said) == ((61, 47), also_said)
    np.testing.assert_array_equal(fast, slow)


def test_a_truncated_file_is_refused_by_both_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(file, "JPEG")
    for cut in (300, len(file.getvalue()) // 2, len(file.getvalue()) - 2):
        with pytest.raises(DataError, match=r"cannot be decoded|cannot be opened"):
            decode_remarked(file.getvalue()[:cut])
    monkeypatch.delitem(sys.modules, "torchvision.io")
    for cut in (300, len(file.getvalue()) // 2):
        with pytest.raises(DataError, match=r"cannot be decoded|cannot be opened"):
            decode_remarked(file.getvalue()[:cut])


class Counting:
    """A session that counts its batches, and has memory for ``most`` images."""

    preferred = 0
    shape = (32, 32, 3)
    preparation = RULE

    def __init__(self, most: int = 10_000, seconds: float = 0.0):
        self.most, self.seconds = most, seconds
        self.sizes: list[int] = []

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return RULE.cropped(image)

    def features(self, batch: object) -> np.ndarray:
        raise AssertionError("launch and collect are used")

    def launch(self, batch: np.ndarray) -> np.ndarray:
        if len(batch) > self.most:
            raise OutOfMemory(f"no room for {len(batch)}")
        self.sizes.append(len(batch))
        time.sleep(self.seconds)
        return batch[:, 0, 0, :1].astype(np.float32)

    def collect(self, pending: np.ndarray) -> np.ndarray:
        return pending


@pytest.mark.parametrize("batch_size", [AUTOMATIC, 1, 7, 64, 500])
def test_rows_are_those_of_their_images_whatever_the_batch_size(batch_size: int) -> None:
    batches = list(extract(Counting(), dataset(bad=(3, 4, 150)), range(200), batch_size=batch_size, workers=2))
    order = np.concatenate([batch.indices for batch in batches])
    rows = np.concatenate([batch.features for batch in batches if len(batch.features)])[:, 0]
    np.testing.assert_array_equal(order, [i for i in range(200) if i not in (3, 4, 150)])
    np.testing.assert_array_equal(rows, order % 251)
    assert sorted(i for batch in batches for i, _ in batch.unreadable) == [3, 4, 150]
    assert sum((batch.remarks["rotated"] for batch in batches), 0) == 99


@pytest.mark.parametrize("batch_size", [AUTOMATIC, 100])
def test_batches_are_halved_where_memory_is_full_and_that_is_said(batch_size: int, caplog: pytest.LogCaptureFixture) -> None:
    session = Counting(most=20 if batch_size else 10, seconds=0.001)
    with caplog.at_level("INFO", logger="simkit"):
        batches = list(extract(session, dataset(), range(200), batch_size=batch_size, workers=1, name="tiny"))
    assert sum(len(batch.indices) for batch in batches) == 200
    assert max(session.sizes) <= session.most
    assert "tiny: out of memory with a batch of" in caplog.text


def test_larger_batches_are_tried_while_they_are_faster(caplog: pytest.LogCaptureFixture) -> None:
    session = Counting(seconds=0.02)  # a batch takes as long whatever its size: the largest wins
    with caplog.at_level("INFO", logger="simkit"):
        list(extract(session, dataset(600), range(600), batch_size=AUTOMATIC, workers=2))
    assert max(session.sizes) >= 64


def test_one_image_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ResourceError, match=r"no memory for one image .*\nfix: give --device cpu"):
        list(extract(Counting(most=0), dataset(), range(200), batch_size=4, workers=1))


def test_any_other_error_of_the_network_is_not_taken_for_memory() -> None:
    class Broken(Counting):
        def launch(self, batch: np.ndarray) -> np.ndarray:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(extract(Broken(), dataset(), range(200), batch_size=4, workers=1))


def test_processes_that_do_not_start_are_no_fault_of_the_images() -> None:
    with pytest.raises(ResourceError, match=r"decoding processes do not start: the last died \(status -9\)"):
        list(decoding.prepared_images(Dataset("strange", tuple(map(str, range(100))), Stillborn()), range(100), RULE, workers=2, shape=(32, 32, 3)))


def test_a_bug_in_a_worker_is_no_fault_of_the_image() -> None:
    with pytest.raises(ResourceError, match=r"decoding failed with ZeroDivisionError: .* \(strange_reader\.py:\d+\)"):
        all_of(dataset(buggy=(7,)))


def test_no_worker_outlives_an_error_that_is_kept() -> None:
    class Broken(Counting):
        def launch(self, batch: np.ndarray) -> np.ndarray:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit") as kept:
        list(extract(Broken(), dataset(), range(200), batch_size=4, workers=2))
    assert kept.value.__traceback__ is not None
    assert children() == []


def test_images_in_memory_are_not_sent_to_other_processes(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (100, 20, 20), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", train_images=images, train_labels=np.zeros((100, 1), np.uint8))
    for data in (from_arrays(images), Npz(path=tmp_path / "set.npz", splits=("train",)).load("set", tmp_path)):
        stream = decoding.prepared_images(data, range(100), RULE, workers=2, shape=(32, 32, 3))
        first = next(stream)
        assert children() == []
        np.testing.assert_array_equal(first.pixels, RULE(images[0][:, :, None]))
        stream.close()


def test_the_batch_size_that_was_found_is_kept_for_the_next_data_set(caplog: pytest.LogCaptureFixture) -> None:
    class Steady(Counting):
        def launch(self, batch: np.ndarray) -> np.ndarray:
            time.sleep(0.002 * len(batch))  # no size is faster than another
            return super().launch(batch)

    session = Steady()
    with caplog.at_level("INFO", logger="simkit"):
        list(extract(session, dataset(600), range(600), batch_size=AUTOMATIC, workers=1))
        assert caplog.text.count("found by trying") == 1
        assert session.preferred > 0
        session.sizes.clear()
        list(extract(session, dataset(200), range(200), batch_size=AUTOMATIC, workers=1))
    assert session.sizes[0] == session.preferred
    assert caplog.text.count("found by trying") == 1
