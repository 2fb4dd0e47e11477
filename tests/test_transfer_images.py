"""Images on their way into the network: order, decoding, batches, augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import affine, horizontal_flip
from transfer_study import ArrayReader, drawn

from simkit.dataset import Dataset
from simkit.errors import DataError, NotEnoughData
from simkit.transfer.images import MEAN, STD, augment, batches, decode, listing, network_input, warp


def test_the_listing_depends_on_content_only():
    dataset = drawn("moths", 12, 3)
    order = np.random.default_rng(0).permutation(12)
    one, other = listing(dataset), listing(dataset.take(order))
    assert one.digests == other.digests == tuple(sorted(dataset.digests))
    assert np.array_equal(one.labels, other.labels)
    assert np.array_equal(decode(one, 16), decode(other, 16))


def test_class_numbers_follow_names_not_the_order_given():
    reader = drawn("x", 4).reader
    swapped = Dataset("x", ("a", "b", "c", "d"), reader, labels=np.array([0, 1, 0, 1]), classes=("zebra", "ant", "moth"))
    one = listing(swapped)
    assert one.classes == ("ant", "zebra")
    assert one.absent == ("moth",)
    names = {swapped.digests[i]: swapped.classes[swapped.labels[i]] for i in range(4)}
    assert [one.classes[label] for label in one.labels] == [names[digest] for digest in one.digests]


def test_labels_are_needed():
    bare = Dataset("scans", ("a", "b"), drawn("x", 2).reader)
    with pytest.raises(DataError, match=r"SK208\] scans: training needs labels and the data set has none"):
        listing(bare)


def test_two_classes_are_needed():
    single = Dataset("scans", ("a", "b"), drawn("x", 2).reader, labels=np.zeros(2, dtype=np.int64), classes=("healthy",))
    with pytest.raises(DataError, match=r"SK208\] scans: training needs at least two classes and all 2 images are of class 'healthy'"):
        listing(single)


def test_decoding_repeats_grey_and_keeps_what_has_the_right_size():
    dataset = drawn("grey", 4, side=24, channels=1)
    pixels = decode(listing(dataset), 24)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (4, 3, 24, 24)
    order = listing(dataset).order
    for row, position in enumerate(order):
        for channel in range(3):
            assert np.array_equal(pixels[row, channel], dataset.read(position)[:, :, 0])


def test_decoding_averages_when_it_shrinks():
    board = np.indices((32, 32)).sum(0) % 2 * 200  # a checker board: without antialiasing the result would be 0 or 200 (or moire)
    images = np.stack([board, board]).astype(np.uint8)[..., None]
    dataset = Dataset("board", ("a", "b"), ArrayReader(images), labels=np.array([0, 1]), classes=("a", "b"))
    pixels = decode(listing(dataset), 8)
    assert abs(pixels[:, :, 2:-2, 2:-2].astype(int) - 100).max() <= 3


def test_decoding_takes_any_shape():
    class Mixed(ArrayReader):
        def read(self, index: int) -> np.ndarray:
            return np.full((10 + 20 * index, 40, 1 + 2 * (index % 2)), 50 * index, dtype=np.uint8)

    dataset = Dataset("mixed", ("a", "b", "c"), Mixed(np.zeros((3, 1))), labels=np.array([0, 1, 1]), classes=("a", "b"))
    one = listing(dataset)
    pixels = decode(one, 16)
    for row, position in enumerate(one.order):
        assert (pixels[row] == 50 * position).all()


def of_channels(*counts: int, side: int = 20) -> Dataset:
    """Images of noise with so many channels each."""

    class Channels(ArrayReader):
        def read(self, index: int) -> np.ndarray:
            return np.random.default_rng(index).integers(0, 256, (side, side, counts[index]), dtype=np.uint8)

    n = len(counts)
    return Dataset("scans", tuple(f"{i}.png" for i in range(n)), Channels(np.arange(n).reshape(n, 1)), labels=np.arange(n) % 2, classes=("a", "b"))


def test_one_channel_of_colour_is_the_luminance_that_pillow_gives():
    one = listing(of_channels(3, 3, 1))
    pixels, colour = decode(one, 20, 1), decode(one, 20)
    assert pixels.shape == (3, 1, 20, 20)
    for row, position in enumerate(one.order):
        image = one.dataset.read(int(position))
        expected = np.asarray(Image.fromarray(image).convert("L")) if image.shape[2] == 3 else image[..., 0]
        assert np.array_equal(pixels[row, 0], expected)
    shrunk = decode(one, 8, 1)
    for row, square in enumerate(decode(one, 8)):  # the luminance of the resized image, not the resized luminance
        assert np.array_equal(shrunk[row, 0], np.asarray(Image.fromarray(np.moveaxis(square, 0, -1)).convert("L")))
    assert colour.shape == (3, 3, 20, 20)


def test_other_channel_counts_are_kept():
    one = listing(of_channels(5, 5))
    for row, position in enumerate(one.order):
        assert np.array_equal(decode(one, 20, 5)[row], np.moveaxis(one.dataset.read(int(position)), -1, 0))


def test_channels_that_do_not_fit_are_named_image_by_image():
    with pytest.raises(DataError, match=r"SK207\] scans: 1\.png: channels: 4 found, 3 wanted\nfix: set channels = 4 in \[finetune\]") as error:
        decode(listing(of_channels(3, 4, 1, 2)), 16)
    assert sorted(problem.where for problem in error.value.problems) == ["scans: 1.png", "scans: 3.png"]
    with pytest.raises(DataError, match=r"channels: 1 found, 5 wanted"):
        decode(listing(of_channels(5, 1)), 16, 5)


def test_decoding_fills_what_it_is_given_and_counts():
    one = listing(drawn("x", 5))
    out, counted = np.zeros((5, 3, 16, 16), dtype=np.uint8), []
    assert decode(one, 16, out=out, tick=counted.append) is out
    assert np.array_equal(out, decode(one, 16))
    assert counted == [1, 2, 3, 4, 5]


def test_all_unreadable_images_are_named():
    class Broken(ArrayReader):
        def read(self, index: int) -> np.ndarray:
            if index in (1, 3):
                raise DataError("SK206", f"img/{index}.png", "cannot be read: truncated", "replace the file")
            return super().read(index)

    dataset = Dataset("broken", tuple("abcd"), Broken(drawn("x", 4).reader.images), labels=np.array([0, 1, 0, 1]), classes=("a", "b"))
    with pytest.raises(DataError) as error:
        decode(listing(dataset), 16)
    assert sorted(problem.where for problem in error.value.problems) == ["img/1.png", "img/3.png"]


@pytest.mark.parametrize("size", [2, 3, 8, 32])
@pytest.mark.parametrize("n", [2, 3, 5, 9, 33, 64, 65, 97])
def test_batches_drop_nothing_and_leave_no_rest(n, size):
    parts = batches(np.arange(n), size)
    assert np.array_equal(np.concatenate(parts), np.arange(n))
    lengths = [len(part) for part in parts]
    assert min(lengths) >= 2
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) <= max(size, 3)


def test_one_image_is_no_batch():
    with pytest.raises(NotEnoughData, match=r"SK501\].*1 training image: batch normalisation needs two"):
        batches(np.arange(1), 8)


@pytest.mark.parametrize(("degrees", "right", "down", "flip"), [
    (0, 0, 0, False), (10, 0, 0, False), (-7, 0.1, -0.05, False), (5, -0.1, 0.1, True), (0, 0, 0, True),
])
def test_warp_agrees_with_torchvision(degrees, right, down, flip):
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(40, 40), mode="bicubic").clamp(0, 1)
    ours = warp(smooth, degrees=torch.tensor([float(degrees)]), shift=torch.tensor([[right, down]]), flip=torch.tensor([flip]))
    flipped = horizontal_flip(smooth) if flip else smooth
    # torchvision turns clockwise and shifts in whole pixels
    theirs = affine(flipped, angle=-degrees, translate=[int(40 * right), int(40 * down)], scale=1.0, shear=[0.0], interpolation=InterpolationMode.BILINEAR)
    inner = (..., slice(10, 30), slice(10, 30))
    assert torch.allclose(ours[inner], theirs[inner], atol=2e-5)


def test_edges_are_repeated():
    white = torch.ones(2, 3, 16, 16)
    assert torch.allclose(augment(white, torch.Generator().manual_seed(3)), white, atol=1e-6)


def test_each_image_is_moved_by_its_own_amounts_and_the_seed_decides():
    one = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).expand(4, -1, -1, -1).contiguous()
    moved = augment(one, torch.Generator().manual_seed(5))
    assert all(not torch.equal(moved[i], moved[j]) for i in range(4) for j in range(i))
    assert torch.equal(moved, augment(one, torch.Generator().manual_seed(5)))
    assert not torch.equal(moved, augment(one, torch.Generator().manual_seed(6)))


def test_the_network_gets_normalised_pixels():
    pixels = np.full((2, 3, 4, 4), 51, dtype=np.uint8)
    x = network_input(pixels, torch.device("cpu"))
    assert x.dtype == torch.float32
    assert x[0, :, 0, 0].numpy() == pytest.approx([(0.2 - mean) / std for mean, std in zip(MEAN, STD, strict=True)])
    assert (pixels == 51).all()
