"""Networks: heads of every family, weights that fit or are refused by name."""

from __future__ import annotations

import hashlib
import urllib.error
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from simkit.errors import IntegrityError, ResourceError, UsageError
from simkit.transfer.networks import body_state, build_network, check_forward, imagenet_file, interpolated_positions, load_body, network_names, read_weights

FAMILIES = {
    "resnet18": "fc", "squeezenet1_1": "classifier.1", "mobilenet_v3_small": "classifier.3", "shufflenet_v2_x0_5": "fc", "efficientnet_b0": "classifier.1",
    "densenet121": "classifier", "convnext_tiny": "classifier.2", "swin_t": "head", "vit_b_16": "heads.head", "alexnet": "classifier.6",
    "mnasnet0_5": "classifier.1", "googlenet": "fc", "inception_v3": "fc", "maxvit_t": "classifier.5", "vgg11": "classifier.6", "mobilenet_v2": "classifier.1",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_head_of_each_family_is_replaced(name):
    size = 224 if name == "maxvit_t" else 96
    with torch.device("meta"):  # shapes only
        network, head = build_network(name, 3, dropout=0.25, image_size=size)
        network.eval()
        assert network(torch.zeros(2, 3, size, size)).shape == (2, 3)
        options = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
        plain = torchvision.models.get_model(name, weights=None, **options)
    assert head == FAMILIES[name]
    body = body_state(network, head)
    theirs = {key for key in plain.state_dict() if not key.startswith(head)}
    assert set(body) == theirs
    last = [module for module in network.modules() if isinstance(module, nn.Dropout)][-1]
    assert last.p == 0.25


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
    state["features.0.weight"] = torch.zeros(64, 1, 3, 3)
    state["features.3.squeeze.bias"] = torch.full((16,), float("nan"))
    with pytest.raises(IntegrityError, match=r"SK402\] weights.birds: does not fit the network") as error:
        load_body(network, head, state, "weights.birds")
    text = str(error.value)
    assert "1 missing: features.0.bias" in text
    assert "1 not part of the network: module.extra.weight" in text
    assert "features.0.weight is 64x1x3x3, wanted 64x3x3x3" in text
    assert "1 with NaN or infinite values: features.3.squeeze.bias" in text
    assert all(torch.equal(value, before[key]) for key, value in body_state(network, head).items())


def test_another_network_is_refused(small):
    network, head = small
    with pytest.raises(IntegrityError, match=r"missing: features.0.bias, .* and \d+ more; \d+ not part of the network: "):
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


def test_a_missing_file(tmp_path):
    with pytest.raises(ResourceError, match=r"SK302\] finetune.weights.birds: the weights file '.*birds.pth' does not exist"):
        read_weights(tmp_path / "birds.pth", "finetune.weights.birds")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    state = trained_elsewhere()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(IntegrityError, match=r"SK402\] here: '.*' cannot be read as weights"):
        read_weights(path, "here")


class Payload:
    """What a pickle from a stranger could run."""

    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_pickled_objects_are_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(1), "payload": Payload()}, "evil.pth")
    with pytest.raises(IntegrityError, match=r"SK402.*'evil.pth' cannot be read as weights(.|\n)*never executed"):
        read_weights("evil.pth", "here")
    assert not Path("executed").exists()


def test_a_training_checkpoint_is_not_a_state_dict(tmp_path):
    torch.save({"epoch": 3, "model": trained_elsewhere()}, tmp_path / "a.pth")
    with pytest.raises(IntegrityError, match=r"is not a state dict: it holds entries that are not tensors: epoch, model"):
        read_weights(tmp_path / "a.pth", "here")
    torch.save([torch.zeros(1)], tmp_path / "b.pth")
    with pytest.raises(IntegrityError, match=r"is not a state dict: it holds 'list'"):
        read_weights(tmp_path / "b.pth", "here")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torchvision whose weights of every network are a small file with its digest in the name, and a hub folder of our own."""
    content = b"weights"
    sha = hashlib.sha256(content).hexdigest()
    entry = SimpleNamespace(DEFAULT=SimpleNamespace(url=f"https://download.example.org/models/net-{sha[:8]}.pth"))
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: entry)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints" / f"net-{sha[:8]}.pth", content


def test_imagenet_weights_without_a_network_connection(hub, monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ResourceError, match=r"SK302\] finetune.sources: the weights of source 'imagenet' are not on this machine") as error:
        imagenet_file("resnet18")
    assert "no route to host" in str(error.value)
    assert "https://download.example.org/models/net-" in str(error.value)
    assert f"put it at {hub[0]}" in str(error.value)
    assert error.value.exit_status == 5


def test_imagenet_weights_are_downloaded_once(hub, monkeypatch):
    path, content = hub
    asked = []

    def download(url, target, hash_prefix, progress):
        asked.append((url, hash_prefix))
        Path(target).write_bytes(content)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert imagenet_file("resnet18") == path
    assert imagenet_file("resnet18") == path
    assert len(asked) == 1
    assert asked[0][1] == path.stem[4:]


def test_a_damaged_download_is_refused(hub):
    path, content = hub
    path.parent.mkdir(parents=True)
    path.write_bytes(content[:-1])
    with pytest.raises(IntegrityError, match=r"SK402\] .*net-.*\.pth: its SHA-256 begins with [0-9a-f]{8}, its name promises"):
        imagenet_file("resnet18")


def test_positions_of_a_vision_transformer_fit_another_image_size():
    with torch.device("meta"):
        network, head = build_network("vit_b_16", 2, dropout=0.0, image_size=64)
        state = torchvision.models.vit_b_16(weights=None).state_dict()
    state = {key: torch.zeros(value.shape) for key, value in state.items() if "pos_embedding" in key or key == "class_token"}
    resized = interpolated_positions("vit_b_16", state, 64)
    assert resized["encoder.pos_embedding"].shape == body_state(network, head)["encoder.pos_embedding"].shape == (1, 17, 768)
    assert interpolated_positions("resnet18", state, 64) is state


@pytest.mark.shared
def test_real_checkpoints_fit(shared):
    network, head = build_network("mobilenet_v2", 3, dropout=0.2, image_size=64)
    for name in ("mobilenet_v2_tvquant", "mobilenet_v2_inat_bird"):  # 1000 and 965 classes
        load_body(network, head, read_weights(shared / "data" / "weights" / f"{name}.pth", name), name)
        assert network.features[0][0].weight.any()
