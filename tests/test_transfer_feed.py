"""Batches on the device: in order, from memory or a map, prepared ahead."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from simkit.transfer.feed import DEPTH, Feed, gathered_rows, prefetched

CPU = torch.device("cpu")
ROWS = np.array([7, 2, 9, 0, 4, 11])
PARTS = [np.array([3, 0]), np.array([5]), np.array([1, 1, 4])]


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (12, 3, 8, 8), dtype=np.uint8), rng.integers(0, 4, 12)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "simkit-feed"]


@pytest.mark.parametrize("resident", [None, False, True])
@pytest.mark.parametrize("mapped", [False, True])
def test_batches_are_the_rows_that_positions_name(tmp_path: Path, resident, mapped):
    pixels, labels = data()
    given = pixels
    if mapped:
        np.save(tmp_path / "x.npy", pixels)
        given = np.load(tmp_path / "x.npy", mmap_mode="r")
    feed = Feed(given, ROWS, labels, CPU, resident=resident)
    assert len(feed) == 6
    assert np.array_equal(feed.labels, labels[ROWS])
    assert feed.resident is bool(resident)
    for part, (x, y) in zip(PARTS, feed.batches(PARTS), strict=True):
        assert x.dtype == torch.uint8
        assert y.dtype == torch.int64
        assert np.array_equal(x.numpy(), pixels[ROWS[part]])
        assert np.array_equal(y.numpy(), labels[ROWS[part]])
    x, y = feed.batch(np.array([2]))
    assert np.array_equal(x.numpy(), pixels[[9]])
    assert y.tolist() == [labels[9]]


@pytest.mark.parametrize("resident", [False, True])
def test_a_batch_may_be_changed_and_the_images_stay(resident):
    pixels, labels = data()
    feed = Feed(pixels, ROWS, labels, CPU, resident=resident)
    before = pixels.copy()
    feed.batch(np.array([0, 1]))[0].zero_()
    assert np.array_equal(pixels, before)
    assert np.array_equal(feed.batch(np.array([0, 1]))[0].numpy(), before[ROWS[:2]])


def test_nothing_gives_nothing():
    pixels, labels = data()
    for resident in (False, True):
        assert list(Feed(pixels, ROWS, labels, CPU, resident=resident).batches([])) == []


def test_a_map_is_read_in_the_order_of_the_file():
    asked: list[int] = []

    class Watched(np.ndarray):
        def __getitem__(self, row):
            asked.append(int(row))
            return np.asarray(self)[row]

    pixels = data()[0]
    assert np.array_equal(gathered_rows(pixels.view(Watched), ROWS), pixels[ROWS])
    assert asked == sorted(ROWS)


def test_a_small_set_lies_on_an_accelerator_and_a_large_one_does_not(monkeypatch):
    pixels, labels = data()
    size = len(ROWS) * 3 * 8 * 8
    for free, resident in ((4 * size, False), (4 * size + 4, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 10 * free))
        assert Feed(pixels, ROWS, labels, torch.device("cuda:0")).resident is resident


def test_what_does_not_lie_on_the_device_is_prepared_by_the_thread():
    pixels, labels = data()
    feed = Feed(pixels, ROWS, labels, torch.device("meta"))
    readers: list[str] = []
    original = feed._read
    feed._read = lambda part: (readers.append(threading.current_thread().name), original(part))[1]  # type: ignore[method-assign]
    shapes = [(tuple(x.shape), tuple(y.shape)) for x, y in feed.batches(PARTS)]
    assert shapes == [((len(part), 3, 8, 8), (len(part),)) for part in PARTS]
    assert set(readers) == {"simkit-feed"}


def test_results_come_in_order_and_only_so_many_ahead():
    made: list[int] = []
    ahead = prefetched(lambda i: made.append(i) or i * i, range(20))
    assert next(ahead) == 0
    time.sleep(0.1)
    assert made == list(range(1 + DEPTH))
    assert list(ahead) == [i * i for i in range(1, 20)]
    assert threads() == []


def test_a_failure_comes_through_where_its_result_would_have_come():
    def make(i: int) -> int:
        if i == 2:
            raise OSError("the disk is gone")
        return i

    ahead, seen = prefetched(make, range(9)), []
    with pytest.raises(OSError, match=r"the disk is gone"):
        seen.extend(iter(ahead))
    assert seen == [0, 1]
    assert threads() == []


def test_closing_ends_the_thread():
    made: list[int] = []
    ahead = prefetched(lambda i: made.append(i) or i, range(10_000))
    next(ahead)
    assert threads() == ["simkit-feed"]
    ahead.close()
    assert threads() == []
    assert len(made) <= 1 + DEPTH + 1


def test_leaving_a_loop_early_ends_the_thread():
    pixels, labels = data()
    batches = Feed(pixels, ROWS, labels, torch.device("meta")).batches([np.array([0])] * 50)
    next(batches)
    batches.close()
    assert threads() == []


@pytest.mark.gpu
@pytest.mark.parametrize("resident", [False, True])
def test_on_a_gpu_the_batches_are_the_same(resident):
    pixels, labels = data()
    feed = Feed(pixels, ROWS, labels, torch.device("cuda:0"), resident=resident)
    for part, (x, y) in zip(PARTS, feed.batches(PARTS), strict=True):
        assert x.device.type == y.device.type == "cuda"
        assert np.array_equal(x.cpu().numpy(), pixels[ROWS[part]])
        assert np.array_equal(y.cpu().numpy(), labels[ROWS[part]])
