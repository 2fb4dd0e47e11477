"""Networks: heads of every family, weights that fit or are refused by name."""

from __future__ import annotations

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from simkit.errors import IntegrityError, ResourceError, UsageError
from simkit.transfer.networks import adapted_inputs, body_state, build_network, check_forward, first_convolution, load_body, network_names
from simkit.transfer.weights import read_weights

FAMILIES = {
    "resnet18": "fc", "squeezenet1_1": "classifier.1", "mobilenet_v3_small": "classifier.3", "shufflenet_v2_x0_5": "fc", "efficientnet_b0": "classifier.1",
    "densenet121": "classifier", "convnext_tiny": "classifier.2", "swin_t": "head", "vit_b_16": "heads.head", "alexnet": "classifier.6",
    "mnasnet0_5": "classifier.1", "googlenet": "fc", "inception_v3": "fc", "maxvit_t": "classifier.5", "vgg11": "classifier.6", "mobilenet_v2": "classifier.1",
}


SLOW = ("regnet_x_16gf", "regnet_x_32gf", "regnet_y_16gf", "regnet_y_32gf", "regnet_y_128gf")
"""Made on the CPU with all their values."""

CASES = [pytest.param(name, channels, marks=[pytest.mark.slow] if name in SLOW else []) for name in network_names() for channels in (3, 1)
         if (name, channels) != ("regnet_y_128gf", 1)]  # 2.6 GB: once is enough


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_the_head_and_the_input_of_every_network_are_replaced(name, channels):
    size = 224 if name.startswith(("maxvit", "vit_")) else 96
    with torch.device("meta"):  # shapes only
        network, head = build_network(name, 3, dropout=0.25, image_size=size, channels=channels)
        assert network.eval()(torch.zeros(2, channels, size, size)).shape == (2, 3)
    assert network.get_submodule(first_convolution(network)).in_channels == channels
    last = [module for module in network.modules() if isinstance(module, nn.Dropout)][-1]
    assert last.p == 0.25
    heads = [module for module in network.get_submodule(head).modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    assert len(heads) == 1
    assert heads[0].weight.shape[0] == 3
    assert all(one.is_meta for one in network.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_everything_but_the_head_is_torchvisions(name):
    with torch.device("meta"):
        network, head = build_network(name, 3, dropout=0.25, image_size=224)
        options = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
        plain = torchvision.models.get_model(name, weights=None, **options)
    assert head == FAMILIES[name]
    theirs = {key: value.shape for key, value in plain.state_dict().items() if not key.startswith(head)}
    assert {key: value.shape for key, value in body_state(network, head).items()} == theirs


TIMM_HEADS = {"test_resnet": "fc", "test_vit": "head", "test_convnext": "head.fc", "test_efficientnet": "classifier", "swin_tiny_patch4_window7_224": "head.fc"}


@pytest.mark.parametrize("name", TIMM_HEADS)
@pytest.mark.parametrize("channels", [3, 1, 4])
def test_networks_of_timm(name, channels):
    pytest.importorskip("timm")
    with torch.device("meta"):
        network, head = build_network(f"timm:{name}", 5, dropout=0.3, image_size=64, channels=channels)
        assert network.eval()(torch.zeros(2, channels, 64, 64)).shape == (2, 5)
    assert head == TIMM_HEADS[name]
    assert network.get_submodule(head).weight.shape[0] == 5
    assert network.get_submodule(first_convolution(network)).in_channels == channels
    rates = {module.p for module in network.modules() if isinstance(module, nn.Dropout)} | {getattr(network, "drop_rate", None)}
    assert 0.3 in rates


def test_networks_that_timm_does_not_have():
    pytest.importorskip("timm")
    with pytest.raises(UsageError, match=r"SK101\] finetune.network: timm has no network 'resnet19' \(did you mean 'resnet1"):
        build_network("timm:resnet19", 2, dropout=0.5, image_size=64)
    with torch.device("meta"), pytest.raises(UsageError, match=r"SK108.*deit_tiny_distilled_patch16_224 has 2 classification layers: head, head_dist"):
        build_network("timm:deit_tiny_distilled_patch16_224", 2, dropout=0.5, image_size=224)
    with torch.device("meta"):
        network, _ = build_network("timm:swin_tiny_patch4_window7_224", 2, dropout=0.5, image_size=64)
    with pytest.raises(UsageError, match=r"SK102\] finetune.image_size: timm:swin_tiny_patch4_window7_224 cannot take images of 50 x 50 px"):
        check_forward(network, "timm:swin_tiny_patch4_window7_224", 50, torch.device("meta"))


def test_without_timm(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ResourceError, match=r"SK303\] timm: (.|\n)*pip install 'simkit\[timm\]'"):
        build_network("timm:resnet18", 2, dropout=0.5, image_size=64)


def test_dropout_stands_once_before_the_head():
    efficient, _ = build_network("mobilenet_v3_small", 2, dropout=0.4, image_size=32)
    kinds = [type(module).__name__ for module in efficient.classifier]
    assert kinds == ["Linear", "Hardswish", "Dropout", "Linear"]
    residual, _ = build_network("resnet18", 2, dropout=0.4, image_size=32)
    assert [type(module).__name__ for module in residual.fc] == ["Dropout", "Linear"]


def test_squeezenet_gives_logits_of_both_signs():
    torch.manual_seed(0)
    network, _ = build_network("squeezenet1_1", 8, dropout=0.0, image_size=32)
    logits = network.eval()(torch.randn(4, 3, 32, 32))
    assert logits.min() < 0 < logits.max()


def test_unknown_network():
    with pytest.raises(UsageError, match=r"SK101\] finetune.network: unknown network 'resnet8' \(did you mean 'resnet18'\?\)"):
        build_network("resnet8", 2, dropout=0.5, image_size=32)
    assert "resnet50" in network_names()
    assert "raft_large" not in network_names()


def test_an_image_size_that_the_network_cannot_take():
    with pytest.raises(UsageError, match=r"SK102\] finetune.image_size: vit_b_16 cannot take images of 50 x 50 px"):
        build_network("vit_b_16", 2, dropout=0.5, image_size=50)
    with torch.device("meta"):
        network, _ = build_network("alexnet", 2, dropout=0.5, image_size=16)
    with pytest.raises(UsageError, match=r"alexnet cannot take images of 16 x 16 px: "):
        check_forward(network, "alexnet", 16, torch.device("meta"))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return build_network("squeezenet1_1", 3, dropout=0.5, image_size=32)


def trained_elsewhere(classes: int = 7) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return torchvision.models.squeezenet1_1(weights=None, num_classes=classes).state_dict()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_gives_the_body_and_keeps_the_head(small, tmp_path, suffix):
    network, head = small
    state = {key: value.half() for key, value in trained_elsewhere().items()}
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    before = network.get_submodule(head).weight.clone()
    load_body(network, head, read_weights(path, "here"), "here")
    for key, value in body_state(network, head).items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[key].float())
    assert torch.equal(before, network.get_submodule(head).weight)
    assert before.shape[0] == 3


def test_tensors_that_do_not_fit_are_named(small):
    network, head = small
    before = {key: value.clone() for key, value in body_state(network, head).items()}
    state = trained_elsewhere()
    state["module.extra.weight"] = torch.zeros(2)
    del state["features.0.bias"]
    state["features.0.weight"] = torch.zeros(64, 3, 5, 5)
    state["features.3.squeeze.bias"] = torch.full((16,), float("nan"))
    with pytest.raises(IntegrityError, match=r"SK402\] weights.birds: does not fit the network") as error:
        load_body(network, head, state, "weights.birds")
    text = str(error.value)
    assert "1 missing: features.0.bias" in text
    assert "1 not part of the network: module.extra.weight" in text
    assert "features.0.weight is 64x3x5x5, wanted 64x3x3x3" in text
    assert "1 with NaN or infinite values: features.3.squeeze.bias" in text
    assert all(torch.equal(value, before[key]) for key, value in body_state(network, head).items())


def test_another_network_is_refused(small):
    network, head = small
    said = r"missing: features.0.bias, .* and \d+ more; \d+ not part of the network: (.|\n)*fix: its tensors fit torchvision's resnet18: name that"
    with pytest.raises(IntegrityError, match=said):
        load_body(network, head, torchvision.models.resnet18(weights=None).state_dict(), "weights.x")


def test_old_densenet_names_are_known():
    with torch.device("meta"):
        network, head = build_network("densenet121", 2, dropout=0.0, image_size=32)
    old = {key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): torch.zeros(value.shape) for key, value in body_state(network, head).items()
           if not key.endswith("num_batches_tracked")}
    assert any(".norm.1." in key for key in old)
    network.to_empty(device="cpu")
    load_body(network, head, old, "weights.x")
    assert not network.features.denseblock1.denselayer1.norm1.weight.any()


# --- inputs of other numbers of channels


GREY = ["resnet18", "squeezenet1_1", "vit_b_32", "convnext_tiny", "inception_v3"]


@pytest.mark.parametrize("name", GREY)
def test_one_channel_gives_what_three_equal_ones_gave(name):
    torch.manual_seed(0)
    size = 80 if name == "inception_v3" else 64
    with torch.random.fork_rng():
        colour, head = build_network(name, 3, dropout=0.0, image_size=size)
        grey, _ = build_network(name, 3, dropout=0.0, image_size=size, channels=1)
    for value in (colour.state_dict()[key] for key in colour.state_dict() if key.endswith("running_mean")):
        value.normal_()
    load_body(grey, head, colour.state_dict(), "here")
    grey.get_submodule(head).load_state_dict(colour.get_submodule(head).state_dict())
    x = torch.randn(2, 1, size, size)
    with torch.no_grad():
        wanted, found = colour.eval()(x.repeat(1, 3, 1, 1)), grey.eval()(x)
    assert wanted.std() > 0
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize(("old", "new"), [(3, 1), (3, 2), (3, 4), (3, 6), (3, 9), (1, 3), (1, 5), (4, 3)])
def test_a_constant_image_gives_the_same_with_any_number_of_channels(old, new):
    torch.manual_seed(0)
    weight = torch.randn(5, old, 3, 3)
    adapted = adapted_inputs(weight, new)
    assert adapted.shape == (5, new, 3, 3)
    torch.testing.assert_close(adapted.sum(dim=1), weight.sum(dim=1))


def test_inputs_are_repeated_cyclically():
    weight = torch.tensor([3.0, 6.0, 9.0])[None, :, None, None]
    assert adapted_inputs(weight, 6).flatten().tolist() == [1.5, 3.0, 4.5, 1.5, 3.0, 4.5]
    assert adapted_inputs(weight, 4).flatten().tolist() == [1.5, 6.0, 9.0, 1.5]
    assert adapted_inputs(weight, 2).flatten().tolist() == [7.5, 10.5]
    assert adapted_inputs(weight, 1).flatten().tolist() == [18.0]


def test_a_grey_checkpoint_fits_a_colour_network(small):
    network, head = small
    grey, _ = build_network("squeezenet1_1", 3, dropout=0.5, image_size=32, channels=1)
    load_body(network, head, grey.state_dict(), "here")
    torch.testing.assert_close(network.features[0].weight.sum(dim=1), grey.features[0].weight.sum(dim=1))
    assert torch.equal(network.features[3].squeeze.weight, grey.features[3].squeeze.weight)


@pytest.mark.shared
def test_real_checkpoints_fit(shared):
    network, head = build_network("mobilenet_v2", 3, dropout=0.2, image_size=64)
    for name in ("mobilenet_v2_tvquant", "mobilenet_v2_inat_bird"):  # 1000 and 965 classes
        load_body(network, head, read_weights(shared / "data" / "weights" / f"{name}.pth", name), name)
        assert network.features[0][0].weight.any()
