"""Folded batch norms: found, and unfolded without a change of the function."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from simkit.errors import NotEnoughData
from simkit.transfer.batch_norm import has_folded_batch_norms, unfold_batch_norms
from simkit.transfer.networks import build_network, load_body
from simkit.transfer.weights import read_weights


def folded() -> nn.Sequential:
    """A network whose inputs of batch norms are far from mean 0 and variance 1; the last channel of the first is constant."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.LazyLinear(2))
    network(torch.zeros(2, 3, 8, 8))
    network[1].reset_running_stats()
    network[4].reset_running_stats()
    with torch.no_grad():
        network[0].weight.mul_(7.0)
        network[0].weight[3] = 0.0
        network[1].bias.copy_(torch.tensor([1.0, -2.0, 0.5, 3.0]))
        network[4].bias.normal_()
    return network


def batches(n: int = 4) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [3.0 + torch.randn(size, 3, 8, 8) for size in (5, 2, 7, 3)[:n]]


def test_folded_batch_norms_are_found():
    network = folded()
    assert has_folded_batch_norms(network)
    assert has_folded_batch_norms(network.half())
    for name, value in (("running_mean", 0.01), ("running_var", 1.01), ("weight", 0.99)):
        other = folded()
        with torch.no_grad():
            getattr(other[4], name)[2] = value
        assert not has_folded_batch_norms(other), name
    assert not has_folded_batch_norms(nn.Sequential(nn.Conv2d(3, 4, 3)))
    exact = folded()
    exact[1].running_var.sub_(exact[1].eps)
    assert has_folded_batch_norms(exact)


def test_the_function_is_unchanged_and_training_starts_at_it():
    network, x = folded().eval(), torch.cat(batches())
    with torch.no_grad():
        before = network(x)
        unfold_batch_norms(network, batches())
        after = network(x)
        trained = network.train()(x)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(trained, before, rtol=1e-3, atol=1e-3)
    assert not has_folded_batch_norms(network)


def test_statistics_are_those_of_all_images_together():
    network = folded()
    with torch.no_grad():
        inputs = network[0](torch.cat(batches())).double()
    unfold_batch_norms(network, iter(batches()))
    torch.testing.assert_close(network[1].running_mean, inputs.mean(dim=(0, 2, 3)).float())
    torch.testing.assert_close(network[1].running_var, inputs.var(dim=(0, 2, 3), unbiased=False).float())
    torch.testing.assert_close(network[1].weight, (network[1].running_var + network[1].eps).sqrt() / (1 + network[1].eps) ** 0.5)


def test_a_constant_channel_divides_by_nothing():
    network = folded()
    unfold_batch_norms(network, batches())
    assert network[1].running_var[3] == 0
    assert all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())


def test_a_batch_norm_that_was_not_folded_keeps_its_function_too():
    network = folded().eval()
    with torch.no_grad():
        network[1].running_mean.copy_(torch.tensor([0.3, -0.2, 0.1, 0.0]))
        network[1].running_var.fill_(4.0)
        network[1].weight.fill_(-1.5)
        before = network(batches()[0])
        unfold_batch_norms(network, batches())
        torch.testing.assert_close(network(batches()[0]), before, rtol=1e-4, atol=1e-4)


def test_modes_and_hooks_are_left_as_they_were():
    network = folded().train()
    network[4].eval()
    unfold_batch_norms(network, batches())
    assert [module.training for module in network] == [True, True, True, True, False, True, True]
    assert not network[1]._forward_pre_hooks

    with pytest.raises(RuntimeError, match="expected input"):
        unfold_batch_norms(network, [torch.zeros(2, 5, 8, 8)])
    assert not network[1]._forward_pre_hooks
    assert network.training


def test_no_image_at_all():
    network = folded()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(NotEnoughData, match=r"SK501\] batch norms: no image to estimate"):
        unfold_batch_norms(network, [])
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.shared
def test_a_real_network_with_folded_batch_norms(shared):
    from PIL import Image
    from torchvision.transforms.functional import normalize, pil_to_tensor

    network, head = build_network("mobilenet_v2", 3, dropout=0.0, image_size=64)
    state = read_weights(shared / "data" / "weights" / "mobilenet_v2_tvquant.pth", "here")
    load_body(network, head, state, "here")
    assert has_folded_batch_norms(network)
    paths = sorted((shared / "data" / "cifar10").rglob("*.jp*g"))[::50][:40]
    assert len(paths) == 40
    images = torch.stack([pil_to_tensor(Image.open(path).convert("RGB").resize((64, 64))) for path in paths]).float() / 255
    x = normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    body = nn.Sequential(network.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        wanted = body.eval()(x)
        wrong = gap(body.train()(x), wanted)
        load_body(network, head, state, "here")  # that pass has moved the statistics
        unfold_batch_norms(network, x.split(16))
        assert gap(body.eval()(x), wanted) < 1e-4
        right = gap(body.train()(x), wanted)
    assert right < 0.01
    assert wrong > 0.3


def gap(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())
