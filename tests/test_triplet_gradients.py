"""Gradients of a triplet loss: autograd on a loop over triplets, batches, layers, refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import get_model

from simkit.errors import DataError, NotEnoughData, UsageError
from simkit.extractors.classifier import Classifier
from simkit.extractors.network_session import Preprocessing
from simkit.extractors.triplet_gradients import gradient_layers, gradient_norms, triplet_batches, triplet_gradient
from simkit.recipe import rng_for


def triplet_loss(rows: torch.Tensor, labels: Any, margin: float = 0.05) -> torch.Tensor:
    """As defined, one triplet after the other: the mean of the terms above zero, on rows of length 1."""
    z = rows / rows.norm(dim=1, keepdim=True)
    triplets = [(a, p, q) for a, p, q in product(range(len(z)), repeat=3) if a != p and labels[a] == labels[p] and labels[a] != labels[q]]
    terms = [(z[a] - z[p]).norm() - (z[a] - z[q]).norm() + margin for a, p, q in triplets]
    above = [term for term in terms if term > 0]
    return torch.stack(above).mean() if above else rows.sum() * 0


def tiny(seed: int = 0, features: int = 5) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, features, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(features, 3))


def classifier(model: nn.Module | None = None, *, side: int = 12, head: str = "6", **options: Any) -> Classifier:
    return Classifier((model or tiny()).eval().requires_grad_(False), Preprocessing(side, side), head, 3, **options)


def pictures(n: int = 24, side: int = 12, classes: int = 3, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return [rng.integers(0, 256 - 30 * int(label), (side, side, 3), dtype=np.uint8) for label in labels], labels


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(3, 9), d=st.integers(1, 4), margin=st.sampled_from([0.05, 0.5]))
def test_loss_and_gradient_are_those_of_autograd_over_all_triplets(seed: int, n: int, d: int, margin: float) -> None:
    rng = np.random.default_rng(seed)
    rows, labels = rng.normal(size=(n, d + 1)), rng.integers(0, 3, n)
    leaf = torch.tensor(rows, requires_grad=True)
    loss = triplet_loss(leaf, labels, margin)
    loss.backward()
    ours, gradient, active = triplet_gradient(rows, labels, margin=margin)
    assert ours == pytest.approx(float(loss.detach()), abs=1e-12)
    assert leaf.grad is not None
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), atol=1e-10)
    assert (active > 0) == (ours > 0)


def test_loss_of_three_rows_by_hand() -> None:
    """Anchor a: |a - p| = sqrt 2, |a - q| = 2; anchor p: sqrt 2 twice, which leaves the margin; q has no positive."""
    loss, gradient, active = triplet_gradient(np.array([[3.0, 0.0], [0.0, 1.0], [-2.0, 0.0]]), np.array([0, 0, 1]))
    assert loss == pytest.approx(0.05)
    assert active == 1
    np.testing.assert_allclose(gradient[:, 1] * [3, 0, 2], [-np.sqrt(0.5), 0, -np.sqrt(0.5) * -1], atol=1e-12)


def test_equal_rows_give_a_finite_gradient() -> None:
    loss, gradient, active = triplet_gradient(np.ones((6, 4)), np.array([0, 0, 0, 1, 1, 1]))
    assert loss == pytest.approx(0.05)
    assert active == 6 * 2 * 3
    assert not gradient.any()


def test_norms_of_a_small_network_are_those_of_autograd() -> None:
    images, labels = pictures(20)
    network = classifier()
    found = gradient_norms(network, images, labels, batches=1, batch_size=20)
    model = tiny().eval()
    x = (torch.tensor(np.stack(images)).permute(0, 3, 1, 2) / 255 - torch.tensor(network.preprocessing.mean).view(3, 1, 1)) / torch.tensor(
        network.preprocessing.std).view(3, 1, 1)
    loss = triplet_loss(model[:6](x), labels)
    loss.backward()
    first, later = (float(model[i].weight.grad.norm()) for i in (0, 3))  # type: ignore[union-attr,operator]
    assert (found["first"], found["later"], found["loss"]) == pytest.approx((first, later, float(loss.detach())), rel=1e-5)
    assert found["fu"] == pytest.approx(later / first, rel=1e-5)
    assert (found["first_layer"], found["later_layer"], found["batches"], found["images"]) == ("0", "3", 1, 20)
    assert found["triplets"] > 0


def test_ratio_is_that_of_the_mean_norms() -> None:
    images, labels = pictures(60)
    found = gradient_norms(classifier(), images, labels, batches=3, batch_size=12)
    assert found["batches"] == found["batches_drawn"] == 3
    assert found["fu"] == pytest.approx(found["later"] / found["first"], rel=1e-12)


def test_neither_order_nor_names_of_classes_move_it_and_the_model_stays_as_it_was() -> None:
    images, labels = pictures(40)
    network = classifier()
    before = {name: value.clone() for name, value in network.model.state_dict().items()}
    found = gradient_norms(network, images, labels, batches=2, batch_size=10)
    order = np.random.default_rng(1).permutation(40)
    again = gradient_norms(network, [images[i] for i in order], (labels[order] + 1) % 3, batches=2, batch_size=10)
    assert again == found
    assert gradient_norms(network, images, labels, batches=2, batch_size=10, names=[f"{i:02}" for i in range(40)])["fu"] != found["fu"]  # another order
    assert gradient_norms(network, images, labels, batches=2, batch_size=10, seed=1)["fu"] != found["fu"]
    assert all(torch.equal(value, before[name]) for name, value in network.model.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in network.model.parameters())
    assert not network.model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.model.modules())


def test_only_drawn_images_are_read() -> None:
    images, labels = pictures(90)
    read = []

    class Lazy(list[np.ndarray]):
        def __getitem__(self, i: Any) -> Any:
            read.append(i)
            return super().__getitem__(i)

    found = gradient_norms(classifier(), Lazy(images), labels, batches=2, batch_size=9, names=[f"{i:03}" for i in range(90)])
    assert len(read) == found["images"] == len(set(read)) <= 18


@pytest.mark.parametrize(("network", "first", "later", "head"), [
    ("resnet18", "conv1", "layer1.0.conv1", "fc"), ("squeezenet1_1", "features.0", "features.3.squeeze", "classifier.1"),
    ("mobilenet_v3_small", "features.0.0", "features.1.block.0.0", "classifier.3"),
    ("densenet121", "features.conv0", "features.denseblock1.denselayer1.conv1", ""),
    ("googlenet", "conv1.conv", "conv2.conv", ""), ("shufflenet_v2_x0_5", "conv1.0", "stage2.0.branch1.0", ""),
    ("convnext_tiny", "features.0.0", "features.1.0.block.0", ""), ("vgg11", "features.0", "features.3", ""), ("mnasnet1_0", "layers.0", "layers.3", ""),
])
def test_layers_are_those_of_the_publication(network: str, first: str, later: str, head: str) -> None:
    with torch.device("cpu" if head else "meta"):
        torch.manual_seed(0)
        model = get_model(network, weights=None, **({"init_weights": False, "aux_logits": False} if network == "googlenet" else {}))
    assert gradient_layers(model) == (first, later)
    if not head:
        return
    images, labels = pictures(12, side=40)
    found = gradient_norms(classifier(model, side=40, head=head), images, labels, batches=1, batch_size=12)
    assert found["fu"] > 0
    assert np.isfinite(found["fu"])
    assert (found["first_layer"], found["later_layer"]) == (first, later)


def test_named_layers_and_named_features() -> None:
    images, labels = pictures(12)
    network = classifier()
    swapped = gradient_norms(network, images, labels, batches=1, batch_size=12, first="3", later="0")
    assert swapped["fu"] == pytest.approx(1 / gradient_norms(network, images, labels, batches=1, batch_size=12)["fu"], rel=1e-6)
    assert gradient_layers(network.model, later="6") == ("0", "6")
    assert gradient_layers(network.model, first="3", later="6") == ("3", "6")
    pooled = gradient_norms(classifier(layer="3"), images, labels, batches=1, batch_size=12)  # whose average the head is given
    assert pooled["fu"] == pytest.approx(gradient_norms(network, images, labels, batches=1, batch_size=12)["fu"], rel=1e-5)


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6), batches=st.integers(1, 6), batch_size=st.integers(3, 40), seed=st.integers(0, 99))
def test_batches_hold_no_image_twice_and_classes_in_proportion(sizes: list[int], batches: int, batch_size: int, seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    found = triplet_batches(labels, batches=batches, batch_size=batch_size, rng=rng_for(seed))
    rows = np.concatenate(found)
    assert len(np.unique(rows)) == len(rows)
    assert 1 <= len(found) <= batches
    assert max(map(len, found)) <= batch_size
    if len(labels) <= len(found) * batch_size and max(map(len, found)) < batch_size:
        assert len(rows) == len(labels)  # no batch was full: nothing was left out


def test_batches_of_a_rare_class_hold_it_in_pairs() -> None:
    labels = np.array([0] * 180 + [1] * 12)
    found = triplet_batches(labels, batches=6, batch_size=32, rng=rng_for(0))
    assert [int((labels[rows] == 1).sum()) for rows in found] == [2] * 6
    assert [len(rows) for rows in found] == [32] * 6


def sequence(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*layers)


REFUSALS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: gradient_norms(classifier(), *pictures(12), first="conv"), UsageError, r"SK101.*has no module 'conv'"),
    (lambda: gradient_norms(classifier(), *pictures(12), later="2"), UsageError, r"SK108.*module '2' has no weights"),
    (lambda: gradient_norms(classifier(), *pictures(12), first="3", later="3"), UsageError, r"SK108.*same layer '3'"),
    (lambda: gradient_norms(classifier(), *pictures(12), later="6"), UsageError, r"SK108.*features do not depend on layer '6'"),
    (lambda: gradient_layers(sequence(nn.Conv2d(3, 4, 3), nn.ReLU())), UsageError, r"SK108.*has 1 convolution, the ratio"),
    (lambda: gradient_layers(sequence(nn.Linear(3, 4))), UsageError, r"SK108.*has 0 convolutions"),
    (lambda: gradient_layers(tiny(), first="3"), UsageError, r"SK108.*has 2 convolutions, the ratio"),
    (lambda: gradient_norms(classifier(), pictures(12)[0], np.zeros(11, int)), UsageError, r"SK102.*12 images, 11 labels"),
    (lambda: gradient_norms(classifier(), *pictures(12, side=13)), UsageError, r"SK102.*an image has shape \(13, 13, 3\).*takes \(12, 12, 3\)"),
    (lambda: gradient_norms(classifier(), *pictures(12), batch_size=2), UsageError, r"SK102.*6 batches of 2 images"),
    (lambda: gradient_norms(classifier(), pictures(12)[0], np.zeros(12, int)), NotEnoughData, r"SK501.*no two images of a class with one of another"),
    (lambda: gradient_norms(classifier(), pictures(5)[0], np.arange(5)), NotEnoughData, r"SK501.*no two images of a class"),
]


@pytest.mark.parametrize(("call", "kind", "match"), REFUSALS)
def test_refused(call: Callable[[], Any], kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        call()


def test_a_loss_of_zero_is_said() -> None:
    """Two classes whose features point in opposite directions: nothing to learn."""
    model = sequence(nn.Conv2d(3, 1, 1, bias=False), nn.Conv2d(1, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    images = [np.full((8, 8, 3), value, dtype=np.uint8) for value in (0, 5, 10, 250, 245, 240)]
    with pytest.raises(NotEnoughData, match=r"SK502.*nearer to all of its class.*the loss is 0"):
        gradient_norms(classifier(model, side=8, head="4"), images, np.array([0, 0, 0, 1, 1, 1]))


def test_a_network_that_gives_nan_is_refused() -> None:
    model = tiny()
    nn.init.constant_(model[0].weight, float("nan"))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"SK210.*gives NaN"):
        gradient_norms(replace(classifier(), model=model.eval()), *pictures(12))
