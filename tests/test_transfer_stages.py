"""Stages: what is trained in each mode, and that the rest does not move."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from simkit.errors import UsageError
from simkit.transfer.networks import build_network
from simkit.transfer.stages import set_trainable, stages, train_mode

LAST = {
    "resnet18": ("layer4",), "mobilenet_v2": ("features.18",), "efficientnet_b0": ("features.8",), "convnext_tiny": ("features.7", "classifier.0"),
    "vit_b_16": ("encoder.layers.encoder_layer_11", "encoder.ln"), "swin_t": ("features.7", "norm"), "densenet121": ("features.denseblock4", "features.norm5"),
    "vgg11": ("classifier.0", "classifier.3"), "squeezenet1_1": ("features.12",),
}
COUNTS = {"resnet18": 5, "mobilenet_v2": 19, "efficientnet_b0": 9, "convnext_tiny": 8, "vit_b_16": 13, "swin_t": 8, "densenet121": 8, "vgg11": 9,
          "squeezenet1_1": 9}


def inside(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def small_size(name: str) -> int:
    return 32 if name != "vit_b_16" else 16


@pytest.mark.parametrize("name", LAST)
def test_stages_cover_the_body_once_and_in_order(name):
    with torch.device("meta"):
        network, head = build_network(name, 3, dropout=0.5, image_size=224)
    found = stages(network, head)
    assert len(found) == COUNTS[name]
    assert found[-1] == LAST[name]
    for key, _ in network.named_parameters():
        assert sum(inside(key, stage) for stage in found) == (0 if inside(key, (head,)) else 1), key


def test_parameters_of_no_module_are_in_the_first_stage():
    with torch.device("meta"):
        network, head = build_network("vit_b_16", 3, dropout=0.5, image_size=64)
    assert stages(network, head)[0] == ("class_token", "encoder.pos_embedding", "conv_proj")


def test_normalisation_belongs_to_the_stage_before():
    with torch.device("meta"):
        network, head = build_network("resnet18", 3, dropout=0.5, image_size=64)
        grouped, grouped_head = build_network("vgg11_bn", 3, dropout=0.5, image_size=64)
    assert stages(network, head) == (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
    assert stages(grouped, grouped_head)[0] == ("features.0", "features.1")


@pytest.mark.parametrize(("name", "last"), [
    ("test_vit", ("blocks.5", "norm")), ("test_convnext", ("stages.3", "head.norm")), ("test_efficientnet", ("conv_head", "bn2")), ("resnet18", ("layer4",)),
])
def test_stages_of_timm(name, last):
    pytest.importorskip("timm")
    with torch.device("meta"):
        network, head = build_network(f"timm:{name}", 3, dropout=0.5, image_size=64)
    found = stages(network, head)
    assert found[-1] == last
    for key, _ in network.named_parameters():
        assert sum(inside(key, stage) for stage in found) == (0 if inside(key, (head,)) else 1), key


def one_step(network: nn.Module, size: int) -> None:
    """A step of SGD on noise."""
    optimizer = torch.optim.SGD([one for one in network.parameters() if one.requires_grad], lr=0.1)
    cross_entropy(network(torch.randn(2, 3, size, size)), torch.tensor([0, 1])).backward()
    optimizer.step()


@pytest.mark.parametrize("mode", ["full", "frozen", "last-stages"])
@pytest.mark.parametrize("name", LAST)
def test_only_the_chosen_parts_move(name, mode):
    torch.manual_seed(0)
    size = small_size(name)
    network, head = build_network(name, 3, dropout=0.0, image_size=size)
    set_trainable(network, head, mode, 1)
    train_mode(network, frozen_batch_norm=False)
    trained = (head, *LAST[name]) if mode == "last-stages" else (head,)
    wanted = {key for key, _ in network.named_parameters() if mode == "full" or inside(key, trained)}
    before = {key: value.clone() for key, value in network.state_dict().items()}
    one_step(network, size)
    assert {key for key, one in network.named_parameters() if one.grad is not None} == wanted
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    allowed = {key for key in before if mode == "full" or inside(key, trained)}
    assert moved <= allowed
    norms = {key for key in allowed if key.endswith("num_batches_tracked")}
    assert norms <= moved
    assert moved & {key for key, _ in network.get_submodule(head).named_parameters(prefix=head)}


def test_the_mode_can_change_from_head_to_everything():
    network, head = build_network("squeezenet1_1", 3, dropout=0.0, image_size=32)
    set_trainable(network, head, "frozen", 1)
    train_mode(network, frozen_batch_norm=False)
    assert not network.features.training
    set_trainable(network, head, "full", 1)
    train_mode(network, frozen_batch_norm=False)
    assert all(one.requires_grad for one in network.parameters())
    assert all(module.training for module in network.modules())


def test_dropout_drops_only_before_what_is_trained():
    with torch.device("meta"):
        network, head = build_network("vgg11", 3, dropout=0.5, image_size=64)
    set_trainable(network, head, "frozen", 1)
    train_mode(network, frozen_batch_norm=False)
    assert (network.classifier[2].training, network.classifier[5].training) == (False, True)
    set_trainable(network, head, "last-stages", 1)
    train_mode(network, frozen_batch_norm=False)
    assert (network.classifier[2].training, network.classifier[5].training) == (True, True)
    assert not network.features[-1].training


def test_stochastic_depth_of_frozen_blocks_is_off():
    with torch.device("meta"):
        network, head = build_network("swin_t", 3, dropout=0.5, image_size=64)
    set_trainable(network, head, "last-stages", 1)
    train_mode(network, frozen_batch_norm=False)
    assert network.features[7][1].stochastic_depth.training
    assert not network.features[5][5].stochastic_depth.training
    assert not network.features[6].training


def test_frozen_batch_norms_keep_statistics_and_learn_scales():
    torch.manual_seed(0)
    network, head = build_network("resnet18", 3, dropout=0.0, image_size=32)
    set_trainable(network, head, "full", 1)
    train_mode(network, frozen_batch_norm=True)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    one_step(network, 32)
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert not any(key.endswith(("running_mean", "running_var", "num_batches_tracked")) for key in moved)
    assert "layer1.0.bn1.weight" in moved
    assert network.training


@pytest.mark.parametrize("count", [6, 0])
def test_more_stages_than_there_are(count):
    with torch.device("meta"):
        network, head = build_network("resnet18", 3, dropout=0.5, image_size=64)
    said = rf"SK102\] finetune.last_stages: {count} stages .* the network has 5: conv1 to bn1, layer1, layer2, layer3, layer4\n"
    with pytest.raises(UsageError, match=said):
        set_trainable(network, head, "last-stages", count)
    set_trainable(network, head, "last-stages", 5)
    assert all(one.requires_grad for one in network.parameters())


def test_an_unknown_mode():
    with torch.device("meta"):
        network, head = build_network("resnet18", 3, dropout=0.5, image_size=64)
    with pytest.raises(UsageError, match=r"SK101\] finetune.mode: unknown mode 'frosen' \(did you mean 'frozen'\?\)"):
        set_trainable(network, head, "frosen", 1)
