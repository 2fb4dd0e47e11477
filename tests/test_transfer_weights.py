"""Named weights: each kind is found, known by its digest, read without running code; what is missing is said with its place."""

from __future__ import annotations

import hashlib
import urllib.error
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from simkit.errors import DataError, IntegrityError, ResourceError, UsageError
from simkit.transfer.networks import body_state, build_network, load_body
from simkit.transfer.weights import named_weights, read_start, read_weights


def state_dict(classes: int = 7) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return torchvision.models.squeezenet1_1(weights=None, num_classes=classes).state_dict()


def written(path: Path, state: dict[str, torch.Tensor]) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


# --- files


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_is_known_by_its_digest(tmp_path, suffix):
    path = written(tmp_path / f"birds{suffix}", {key: value.half() for key, value in state_dict().items()})
    found = named_weights(str(path), "squeezenet1_1", "finetune.weights.birds")
    assert found.identity == f"weights:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert found.path == path
    state = read_weights(found.path, "birds")
    assert all(value.dtype == torch.float32 for value in state.values())
    assert torch.equal(state["features.0.bias"], state_dict()["features.0.bias"].half().float())


def test_a_missing_file(tmp_path):
    said = r"SK302\] finetune.weights.birds: the weights file '.*birds.pth' does not exist(.|\n)*timm:MODEL"
    with pytest.raises(ResourceError, match=said):
        named_weights(str(tmp_path / "birds.pth"), "resnet18", "finetune.weights.birds")
    with pytest.raises(ResourceError, match=said):
        read_weights(tmp_path / "birds.pth", "finetune.weights.birds")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file(tmp_path, suffix):
    path = written(tmp_path / f"weights{suffix}", state_dict())
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(IntegrityError, match=r"SK402\] here: .*weights\.\w+: cannot be read as weights"):
        read_weights(path, "here")


class Payload:
    """What a pickle from a stranger could run."""

    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_pickled_objects_are_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(1), "payload": Payload()}, "evil.pth")
    said = r"SK201\] here: evil.pth: is a pickle that holds more than tensors.*which simkit never does(.|\n)*safetensors"
    with pytest.raises(DataError, match=said) as error:
        read_weights("evil.pth", "here")
    assert error.value.exit_status == 3
    assert not Path("executed").exists()


def test_what_is_no_state_dict(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "b.pth")
    with pytest.raises(IntegrityError, match=r"SK402\] here: .*b.pth: holds no state dict"):
        read_weights(tmp_path / "b.pth", "here")


def test_the_state_dict_of_a_training_checkpoint_is_taken(tmp_path):
    torch.save({"epoch": 3, "model": {f"module.{key}": value for key, value in state_dict().items()}}, tmp_path / "a.pth")
    assert read_weights(tmp_path / "a.pth", "here").keys() == state_dict().keys()


# --- torchvision


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A network of torchvision whose weights are a small file with its digest in the name, and a hub folder of our own."""
    content = written(tmp_path / "source.pth", state_dict()).read_bytes()
    sha = hashlib.sha256(content).hexdigest()
    url = f"https://download.example.org/models/net-{sha[:8]}.pth"
    monkeypatch.setattr("simkit.transfer.weights.weights_enum", lambda network, entry, where: SimpleNamespace(url=url))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints" / f"net-{sha[:8]}.pth", content, url


def test_imagenet_weights_without_a_network_connection(hub, monkeypatch):
    path, _, url = hub
    asked = []
    monkeypatch.setattr("simkit.networks.host_error", lambda one: asked.append(one) or urllib.error.URLError("no route to host"))
    with pytest.raises(ResourceError, match=r"SK302\] finetune.sources: imagenet: the weights are not on this machine .*no route to host") as error:
        named_weights("imagenet", "squeezenet1_1", "finetune.sources: imagenet")
    assert f"download {url} " in str(error.value)
    assert f"put it at {path}" in str(error.value)
    assert error.value.exit_status == 5
    assert asked == [url]


@pytest.mark.parametrize("value", ["imagenet", "torchvision:IMAGENET1K_V1"])
def test_weights_are_downloaded_once(hub, monkeypatch, value):
    path, content, url = hub
    asked = []

    def download(url, target, hash_prefix, progress):
        asked.append((url, hash_prefix))
        Path(target).write_bytes(content)

    monkeypatch.setattr("simkit.networks.host_error", lambda url: None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    first, second = (named_weights(value, "squeezenet1_1", "here") for _ in range(2))
    assert first == second
    assert first.path == path
    assert first.identity == f"weights:{hashlib.sha256(content).hexdigest()}"
    assert asked == [(url, path.stem[4:])]


def test_a_download_that_breaks_off(hub, monkeypatch):
    def download(*args, **kwargs):
        raise TimeoutError("timed out")

    monkeypatch.setattr("simkit.networks.host_error", lambda url: None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(ResourceError, match=r"SK302\] here: .*\(net-.*\.pth: timed out\)"):
        named_weights("imagenet", "squeezenet1_1", "here")


def test_a_damaged_file_is_refused_and_kept(hub):
    path, content, _ = hub
    path.parent.mkdir(parents=True)
    path.write_bytes(content[:-1])
    said = r"SK402\] here: .*net-.*\.pth: the weights file is damaged .* its SHA-256 is [0-9a-f]{64}, wanted one that begins"
    with pytest.raises(IntegrityError, match=said):
        named_weights("imagenet", "squeezenet1_1", "here")
    assert path.exists()


@pytest.mark.parametrize(("value", "network", "said"), [
    ("torchvision:IMAGENET1K_V3", "resnet50", r"SK101\] here: resnet50 has no weights 'IMAGENET1K_V3' \(did you mean .*\n.*torchvision:IMAGENET1K_V2"),
    ("torchvision:IMAGENET1K_V1", "timm:resnet18", r"SK108\] here: .*belongs to networks of torchvision, and the network is timm:resnet18"),
    ("timm:resnet19", "resnet18", r"SK101\] here: timm has no network 'resnet19' \(did you mean"),
    ("timm:resnet18.nothing", "resnet18", r"SK101\] here: timm's resnet18 has no weights 'nothing'(.|\n)*timm:resnet18.a1_in1k"),
    ("timm:mixer_s32_224", "resnet18", r"SK101\] here: timm has no pretrained weights of mixer_s32_224\n"),
])
def test_weights_that_do_not_exist(value, network, said):
    pytest.importorskip("timm")
    with pytest.raises(UsageError, match=said):
        named_weights(value, network, "here")


# --- timm


def hub_cache(folder: Path, repository: str, state: dict[str, torch.Tensor], monkeypatch) -> Path:
    """A repository in a cache of the Hugging Face hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    place = folder / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    file = place / "snapshots" / ("0" * 40) / "model.safetensors"
    file.parent.mkdir(parents=True)
    save_file(state, file)
    return file


@pytest.mark.parametrize("network", ["timm:resnet18", "resnet18"])
def test_weights_of_timm_fit_networks_of_the_same_names(tmp_path, monkeypatch, network):
    timm = pytest.importorskip("timm")
    state = timm.create_model("resnet18", num_classes=10).state_dict()
    file = hub_cache(tmp_path / "hub", "timm/resnet18.a1_in1k", state, monkeypatch)
    monkeypatch.setattr("simkit.transfer.weights.host_error", lambda url: pytest.fail(f"asked for {url}"))
    found = named_weights("imagenet" if network.startswith("timm:") else "timm:resnet18", network, "here")
    assert found.path == file
    built, head = build_network(network, 3, dropout=0.5, image_size=32, channels=1)
    load_body(built, head, read_start(found.path, network, 32, "here"), "here")
    assert torch.equal(built.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


def test_weights_of_timm_without_a_network_connection(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    asked = []
    monkeypatch.setattr("simkit.transfer.weights.host_error", lambda url: asked.append(url) or urllib.error.URLError("no route to host"))
    said = r"SK302\] here: .*model.safetensors of timm/resnet18.a1_in1k: .*no route to host(.|\n)*hf download timm/resnet18.a1_in1k"
    with pytest.raises(ResourceError, match=said):
        named_weights("timm:resnet18", "resnet18", "here")
    assert len(asked) == 1


def test_a_damaged_file_of_the_hub(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    file = hub_cache(tmp_path / "hub", "timm/resnet18.a1_in1k", {"fc.weight": torch.zeros(2, 2)}, monkeypatch)
    blob = file.rename(tmp_path / ("0" * 64))
    file.symlink_to(blob)
    with pytest.raises(IntegrityError, match=r"SK402\] here: .*the weights file is damaged: its SHA-256 is [0-9a-f]{64}, wanted 0{64}"):
        named_weights("timm:resnet18", "resnet18", "here")


# --- position embeddings


def test_positions_of_a_vision_transformer_fit_another_image_size(tmp_path):
    torch.manual_seed(0)
    state = {"encoder.pos_embedding": torch.randn(1, 197, 768), "class_token": torch.zeros(1, 1, 768)}
    path = written(tmp_path / "vit.pth", state)
    with torch.device("meta"):
        network, head = build_network("vit_b_16", 2, dropout=0.0, image_size=64)
    resized = read_start(path, "vit_b_16", 64, "here")["encoder.pos_embedding"]
    assert resized.shape == body_state(network, head)["encoder.pos_embedding"].shape == (1, 17, 768)
    assert torch.equal(resized[:, 0], state["encoder.pos_embedding"][:, 0])
    assert torch.equal(read_start(path, "vit_b_16", 224, "here")["encoder.pos_embedding"], state["encoder.pos_embedding"])
    assert torch.equal(read_start(path, "resnet18", 64, "here")["encoder.pos_embedding"], state["encoder.pos_embedding"])


def test_positions_that_are_no_square(tmp_path):
    path = written(tmp_path / "vit.pth", {"encoder.pos_embedding": torch.zeros(1, 12, 768)})
    with pytest.raises(IntegrityError, match=r"SK402\] here: .*vit.pth: does not fit vit_b_16 at 64 px: "):
        read_start(path, "vit_b_16", 64, "here")


def test_positions_of_timms_vision_transformers(tmp_path):
    timm = pytest.importorskip("timm")
    state = timm.create_model("test_vit", num_classes=10).state_dict()
    path = written(tmp_path / "vit.safetensors", state)
    network, head = build_network("timm:test_vit", 3, dropout=0.5, image_size=64)
    assert network.pos_embed.shape != state["pos_embed"].shape
    load_body(network, head, read_start(path, "timm:test_vit", 64, "here"), "here")
    assert torch.equal(network.blocks[5].mlp.fc1.weight, state["blocks.5.mlp.fc1.weight"])
    assert torch.equal(network.pos_embed[:, 0] if network.pos_embed.shape[1] % 2 else network.cls_token[:, 0],
                       state["pos_embed"][:, 0] if network.pos_embed.shape[1] % 2 else state["cls_token"][:, 0])
