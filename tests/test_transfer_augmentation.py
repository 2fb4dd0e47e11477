"""Augmentation and normalisation on the device: the paper's, RandAugment, none."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode, RandAugment
from torchvision.transforms.v2.functional import adjust_saturation, affine, posterize, rotate

from simkit.errors import UsageError
from simkit.transfer.augmentation import MEAN, STD, apply_operation, augment, drawn_operations, network_input, operations_of, randaugment

CPU = torch.device("cpu")
SPACE = {"operations": 2, "magnitude": 9, "bins": 31}


def noise(n: int = 6, channels: int = 3, side: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_operations_magnitudes_and_signs_are_those_of_torchvision(magnitude, monkeypatch):
    theirs = RandAugment(magnitude=magnitude)
    applied: set[tuple[str, float]] = set()
    monkeypatch.setattr(theirs, "_apply_image_or_video_transform", lambda image, name, size, **_: applied.add((name, float(size))) or image)
    torch.manual_seed(0)
    for _ in range(600):
        theirs(noise(1)[0])
    assert {operation for variants in operations_of(magnitude, 31, 24) for operation in variants} == applied


def whole_space() -> list[tuple[str, float]]:
    return [operation for variants in operations_of(9, 31, 24) for operation in variants]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", whole_space(), ids=lambda one: f"{one[0]}{one[1]:+.2f}")
def test_an_operation_does_to_each_image_what_torchvision_does_to_it_alone(operation, channels):
    theirs = RandAugment(interpolation=InterpolationMode.BILINEAR)
    images = noise(channels=channels)
    ours = apply_operation(images, operation)
    for image, changed in zip(images, ours, strict=True):
        expected = theirs._apply_image_or_video_transform(image, *operation, interpolation=InterpolationMode.BILINEAR, fill=theirs._fill)
        assert torch.equal(changed, expected)
    assert ours.dtype == torch.uint8


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_is_changed_as_if_it_were_alone(channels):
    images = noise(40, channels)
    before = images.clone()
    changed = randaugment(images, seeded())
    plans = drawn_operations(40, seeded(), side=24, **SPACE)
    for image, result, plan in zip(images, changed, plans, strict=True):
        alone = image[None]
        for operation in plan:
            alone = apply_operation(alone, operation)
        assert torch.equal(result, alone[0])
    assert torch.equal(images, before)
    assert not torch.equal(changed, images)


def test_three_operations_by_hand():
    images = noise(3)
    bilinear = InterpolationMode.BILINEAR
    assert torch.equal(apply_operation(images, ("Rotate", -9.0)), rotate(images, -9.0, interpolation=bilinear))
    assert torch.equal(apply_operation(images, ("TranslateX", 3.9)), affine(images, 0.0, [3, 0], 1.0, [0.0, 0.0], interpolation=bilinear))
    assert torch.equal(apply_operation(images, ("Color", 0.27)), adjust_saturation(images, 1.27))
    assert torch.equal(apply_operation(images, ("Posterize", 7.0)), posterize(images, 7))


def test_operations_are_drawn_evenly_and_so_are_signs():
    plans = drawn_operations(7000, seeded(), side=24, **SPACE)
    counts = Counter(name for plan in plans for name, _ in plan)
    assert len(counts) == 14
    assert max(abs(count - 1000) for count in counts.values()) < 130  # four standard errors are 122
    rotations = [size for plan in plans for name, size in plan if name == "Rotate"]
    assert abs(np.mean(np.sign(rotations))) < 0.13


def test_the_generator_decides_and_not_the_other_images():
    images = noise(16)
    changed = randaugment(images, seeded(4))
    assert torch.equal(changed, randaugment(images, seeded(4)))
    assert not torch.equal(changed, randaugment(images, seeded(5)))
    others = noise(16, seed=9)
    others[7] = images[7]
    assert torch.equal(randaugment(others, seeded(4))[7], changed[7])


def test_no_operation_leaves_images_alone():
    assert torch.equal(randaugment(noise(), seeded(), operations=0), noise())


def test_randaugment_refuses_what_has_no_colours():
    with pytest.raises(UsageError, match=r"SK102\] finetune.augmentation: .* defined for 1 or 3 channels, and the images have 5\nfix: set augmentation"):
        randaugment(noise(channels=5), seeded())
    with pytest.raises(UsageError, match=r"SK102\] randaugment: magnitude 31 is not one of 31 bins\nfix: give a magnitude from 0 to bins - 1"):
        randaugment(noise(), seeded(), magnitude=31)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_channel_counts_are_normalised_by_the_mean_of_the_channels(channels):
    x = network_input(np.full((2, channels, 4, 4), 51, dtype=np.uint8), CPU)
    assert x.shape == (2, channels, 4, 4)
    assert x.numpy() == pytest.approx((0.2 - np.mean(MEAN)) / np.mean(STD), rel=1e-5)


def test_the_input_is_the_same_for_arrays_and_tensors_and_lies_channels_last():
    images = noise()
    x = network_input(images, CPU)
    assert torch.equal(x, network_input(images.numpy(), CPU))
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_normalising_after_the_augmentation_is_normalising_before_it():
    images = noise()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    expected = (augment(images.float() / 255, seeded()) - mean) / std
    assert torch.allclose(network_input(images, CPU, seeded()), expected, atol=1e-5)


def test_the_augmentation_is_the_one_that_is_named():
    images, plain = noise(), network_input(noise(), CPU)
    assert torch.equal(network_input(images, CPU, seeded(), "none"), plain)
    assert torch.equal(network_input(images, CPU, None, "randaugment"), plain)
    assert torch.equal(network_input(images, CPU, seeded(), "randaugment"), network_input(randaugment(images, seeded()), CPU))
    assert torch.equal(network_input(images, CPU, seeded()), network_input(images, CPU, seeded(), "paper"))
    assert not torch.equal(network_input(images, CPU, seeded(), "paper"), plain)
    with pytest.raises(UsageError, match=r"SK101\] finetune.augmentation: 'randaugmnt' is not an augmentation \(did you mean 'randaugment'\?\)"):
        network_input(images, CPU, seeded(), "randaugmnt")


def test_an_input_made_in_an_evaluation_first_serves_a_training():
    network_input.__globals__["_scaling"].cache_clear()
    with torch.inference_mode():
        network_input(noise(), CPU)
    x = network_input(noise(), CPU)
    layer = torch.nn.Conv2d(3, 2, 3)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
