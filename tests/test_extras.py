"""The optional packages: timm, medmnist, datasets, pydicom. Everything is made at test time; nothing is downloaded."""

from __future__ import annotations

import functools
import hashlib
import http.server
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus import colour, grey, png16
from PIL import Image

from simkit.dataset import card_of
from simkit.errors import DataError, IntegrityError, ResourceError, SimkitError, UsageError
from simkit.extractors.network_session import Preprocessing
from simkit.extractors.timm import Timm
from simkit.networks import host_error
from simkit.recipe import digest, rng_for
from simkit.registry import EXTRACTORS, SOURCES, Spec
from simkit.sources import Source
from simkit.sources.dicom import Dicom
from simkit.sources.dicom_pixels import Window, decode_dicom
from simkit.sources.folder import Folder
from simkit.sources.huggingface import Huggingface
from simkit.sources.medmnist import Medmnist
from simkit.sources.npz import Npz

OFFLINE = OSError("no route to host")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return rng_for("picture", seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def failure(source: Source, base: Path, kind: type[SimkitError] = DataError) -> SimkitError:
    with pytest.raises(kind) as caught:
        source.load("d", base)
    return caught.value


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Makes ``import package`` fail as it does where the package is not installed."""
    monkeypatch.setitem(sys.modules, package, None)


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize(("package", "extra", "use"), [
    ("timm", "timm", lambda base: Timm().check()),
    ("medmnist", "medmnist", lambda base: Medmnist(set="pneumoniamnist").load("d", base)),
    ("datasets", "huggingface", lambda base: Huggingface(path="owner/name").load("d", base)),
    ("pydicom", "dicom", lambda base: Dicom(path=base).load("d", base)),
])
def test_a_missing_package_is_named_with_its_extra(
    package: str, extra: str, use: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    without(monkeypatch, package)
    with pytest.raises(ResourceError, match=rf"error\[SK303\] {extra}: the package {package} cannot be imported(.|\n)*fix: pip install 'simkit\[{extra}\]'"):
        use(tmp_path)


def test_they_are_built_by_name() -> None:
    assert EXTRACTORS.build(Spec("timm", {"model": "test_vit", "weights": "random"})) == Timm(model="test_vit", weights="random")
    for name, options in (("medmnist", {"set": "bloodmnist"}), ("huggingface", {"path": "owner/name"}), ("dicom", {"path": "scans"})):
        assert SOURCES.build(Spec(name, options)).name == name


# ---------------------------------------------------------------- preprocessing and timm


@pytest.mark.parametrize("size", [(25, 49), (49, 25), (55, 55), (300, 467), (91, 640), (232, 231)])
def test_resizing_is_torchvisions_to_the_pixel(size: tuple[int, int]) -> None:
    from torchvision import transforms

    image = picture(*size)
    wanted = transforms.Compose([transforms.Resize(232), transforms.CenterCrop(224)])(Image.fromarray(image))
    np.testing.assert_array_equal(Preprocessing(232, 224).cropped(image), np.asarray(wanted))


@pytest.mark.parametrize(("name", "mode"), [("test_resnet", "center"), ("coat_lite_medium_384", "squash")])
def test_preprocessing_is_that_of_timm(name: str, mode: str) -> None:
    timm = pytest.importorskip("timm")
    options = Timm(model=name, weights="random")
    rule = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    assert rule["crop_mode"] == mode
    theirs = timm.data.create_transform(**rule, is_training=False)
    ours = options._preprocessing(options._configuration())
    for height, width in ((90, 133), (500, 411)):
        image = picture(height, width)
        pixels = (ours.cropped(image).astype(np.float32) / 255 - np.float32(ours.mean)) / np.float32(ours.std)
        np.testing.assert_allclose(pixels.transpose(2, 0, 1), theirs(Image.fromarray(image)).numpy(), atol=1e-6)


def timm_checkpoint(path: Path, name: str, **arguments: Any) -> Any:
    """A file with the state of an untrained timm network, and the network."""
    timm = pytest.importorskip("timm")
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = timm.create_model(name, **arguments).eval()
    torch.save(model.state_dict(), path)
    return model


@pytest.mark.parametrize(("name", "classes"), [("test_resnet", 7), ("test_vit", 0), ("test_convnext", 1000)])
def test_features_are_what_timm_calls_pre_logits(name: str, classes: int, tmp_path: Path) -> None:
    import timm
    import torch

    model = timm_checkpoint(tmp_path / "net.pth", name, num_classes=classes)
    extractor = Timm(model=name, checkpoint=tmp_path / "net.pth")
    extractor.check()
    session = extractor.session("cpu")
    images = [picture(170, 200, seed) for seed in range(2)]
    ours = session.features([session.prepare(image) for image in images])
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.inference_mode():
        model.reset_classifier(0)
        wanted = model(torch.stack([theirs(Image.fromarray(image)) for image in images])).numpy()
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


def test_pooling_and_image_size_are_timms(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    import torch

    model = timm_checkpoint(tmp_path / "net.pth", "test_resnet")
    options = {"model": "test_resnet", "checkpoint": tmp_path / "net.pth", "image_size": 64}
    sessions = {pool: Timm(**options, pool=pool).session("cpu") for pool in ("avg", "max", "catavgmax")}
    batch = [sessions["avg"].prepare(picture(70, 90, seed)) for seed in range(2)]
    assert batch[0].shape == (64, 64, 3)
    pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        maps = model.forward_features((pixels - 0.5) / 0.5).numpy()
    average, largest = maps.mean((2, 3)), maps.max((2, 3))
    for pool, wanted in (("avg", average), ("max", largest), ("catavgmax", np.concatenate([average, largest], axis=1))):
        np.testing.assert_allclose(sessions[pool].features(batch), wanted, rtol=1e-4, atol=1e-4)
    transformer = Timm(model="test_vit", weights="random", image_size=64)  # its weights are for 160 px: position embeddings are resampled
    transformer.check()
    fitted = transformer.session("cpu")
    assert fitted.features([fitted.prepare(picture(80, 80))]).shape == (1, 64)


def test_the_untrained_network_is_the_same_every_time_and_leaves_the_global_generator_alone() -> None:
    pytest.importorskip("timm")
    import torch

    torch.manual_seed(11)
    before = torch.rand(1)
    torch.manual_seed(11)
    one, two, other = (Timm(model="test_resnet", weights="random", seed=seed).session("cpu") for seed in (0, 0, 1))
    assert torch.rand(1) == before
    batch = [one.prepare(picture(160, 160))]
    np.testing.assert_array_equal(one.features(batch), two.features(batch))
    assert not np.allclose(one.features(batch), other.features(batch))


def hub_cache(folder: Path, repository: str, state: dict[str, Any]) -> Path:
    """The weights of a repository as the library of the hub keeps them; returns the file."""
    from safetensors.torch import save_file

    place = folder / f"models--{repository.replace('/', '--')}"
    (place / "snapshots" / "0123").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0123")
    save_file(state, place / "snapshots" / "0123" / "model.safetensors")
    return place / "snapshots" / "0123" / "model.safetensors"


def test_pretrained_weights_come_from_the_cache_of_the_hub_without_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm_checkpoint(tmp_path / "net.pth", "test_resnet")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("simkit.extractors.timm.host_error", lambda url: pytest.fail(f"asked for {url}"))
    file = hub_cache(tmp_path / "hub", "timm/test_resnet.r160_in1k", model.state_dict())
    extractor = Timm(model="test_resnet")
    extractor.check()
    session, same = extractor.session("cpu"), Timm(model="test_resnet", checkpoint=tmp_path / "net.pth").session("cpu")
    batch = [session.prepare(picture(160, 170))]
    np.testing.assert_array_equal(session.features(batch), same.features(batch))
    assert "state_dict" not in session.model.pretrained_cfg  # type: ignore[attr-defined]
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(IntegrityError, match=r"SK402.*model.safetensors: cannot be read as weights"):
        extractor.session("cpu")
    state = model.state_dict()
    del state["conv1.0.weight"]
    file.unlink()
    hub_cache(tmp_path / "again", "timm/test_resnet.r160_in1k", state).rename(file)
    with pytest.raises(IntegrityError, match=r"SK402.*test_resnet.r160_in1k: the weights do not fit: .*conv1.0.weight"):
        extractor.session("cpu")


def test_a_damaged_file_of_the_hubs_cache_is_refused_with_both_digests_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm_checkpoint(tmp_path / "net.pth", "test_resnet")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    file = hub_cache(tmp_path / "hub", "timm/test_resnet.r160_in1k", model.state_dict())
    content = file.read_bytes()
    stated = hashlib.sha256(content).hexdigest()
    blob = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k" / "blobs" / stated
    blob.parent.mkdir()
    file.rename(blob)
    file.symlink_to(blob)
    assert Timm(model="test_resnet").recipe()["weights"] == stated
    Timm(model="test_resnet").check()
    blob.write_bytes(content[:-1])
    with pytest.raises(IntegrityError, match=rf"SK402.*its SHA-256 is {hashlib.sha256(content[:-1]).hexdigest()}, wanted {stated}"):
        Timm(model="test_resnet").check()
    assert blob.read_bytes() == content[:-1]


def timm_folder(folder: Path, name: str = "test_resnet", **arguments: Any) -> Any:
    """A folder as timm's save_for_hf makes it; returns the network."""
    timm = pytest.importorskip("timm")
    model = timm.create_model(name, **arguments).eval()
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return model


def test_a_folder_and_a_repository_of_the_hub_give_the_same_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    import torch
    from huggingface_hub import constants

    model = timm_folder(tmp_path / "mine", num_classes=5)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("simkit.extractors.timm.host_error", lambda url: pytest.fail(f"asked for {url}"))
    snapshot = hub_cache(tmp_path / "hub", "owner/name", model.state_dict()).parent
    shutil.copy(tmp_path / "mine" / "config.json", snapshot)
    folder, hub = Timm(model=f"local-dir:{tmp_path / 'mine'}"), Timm(model="hf-hub:owner/name")
    sessions = []
    for extractor in (folder, hub):
        extractor.check()
        sessions.append(extractor.session("cpu"))
    batch = [sessions[0].prepare(picture(170, 180))]
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2) / 255
        wanted = model.forward_head(model.forward_features((pixels - 0.5) / 0.5), pre_logits=True)
    for session in sessions:
        np.testing.assert_allclose(session.features(batch), wanted, rtol=1e-4, atol=1e-4)
    assert str(tmp_path) not in str(folder.recipe())
    assert folder.recipe()["weights"] == hashlib.sha256((tmp_path / "mine" / "model.safetensors").read_bytes()).hexdigest()


def test_folders_and_repositories_that_are_no_models_of_timm(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ResourceError, match=r"the folder holds no config\.json of timm"):
        Timm(model=f"local-dir:{tmp_path}").check()
    with pytest.raises(UsageError, match="'hf-hub:name' does not name a repository of the hub"):
        Timm(model="hf-hub:name").check()
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(DataError, match=r"config.json is not timm's \(KeyError: 'architecture'\)"):
        Timm(model=f"local-dir:{tmp_path}").check()
    (tmp_path / "config.json").write_text('{"architecture": "resnet51", "pretrained_cfg": {}}')
    with pytest.raises(DataError, match="timm does not know its architecture 'resnet51'"):
        Timm(model=f"local-dir:{tmp_path}").check()
    timm_folder(tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    with pytest.raises(ResourceError, match=r"the folder holds no weights \(model.safetensors or pytorch_model.bin\)"):
        Timm(model=f"local-dir:{tmp_path / 'bare'}").check()


def test_layers_and_the_generalised_mean_of_timms_networks() -> None:
    pytest.importorskip("timm")
    import torch

    whole = Timm(model="test_convnext", weights="random", pool="gem")
    layer = Timm(model="test_convnext", weights="random", layer="stages.3", pool="gem")
    mlp = Timm(model="test_convnext", weights="random", layer="stages.0.blocks.0.mlp", pool="max")  # (n, h, w, c)
    for extractor in (whole, layer, mlp):
        extractor.check()
    session = layer.session("cpu")
    batch = [session.prepare(picture(170, 180))]
    with torch.inference_mode():
        pixels = (torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2) / 255 - session.mean) / session.std  # type: ignore[attr-defined]
        maps = session.model.stages(session.model.stem(pixels)).numpy()  # type: ignore[attr-defined]
        final = session.model.forward_features(pixels).numpy()  # type: ignore[attr-defined]
    np.testing.assert_allclose(session.features(batch), (maps.clip(1e-6) ** 3).mean((2, 3)) ** (1 / 3), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(whole.session("cpu").features(batch), (final.clip(1e-6) ** 3).mean((2, 3)) ** (1 / 3), rtol=1e-3, atol=1e-4)
    assert mlp.session("cpu").features(batch).shape == (1, 24)
    tokens = Timm(model="test_vit", weights="random", layer="blocks.1", pool="token")
    assert tokens.session("cpu").features([tokens.session("cpu").prepare(picture(170, 180))]).shape == (1, 64)


def test_recipes_hold_names_and_digests_but_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    file = hub_cache(tmp_path / "hub", "timm/test_resnet.r160_in1k", timm_checkpoint(tmp_path / "net.pth", "test_resnet").state_dict())
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "other.pth").write_bytes((tmp_path / "net.pth").read_bytes())
    one, two = (Timm(model="test_resnet", checkpoint=path) for path in (tmp_path / "net.pth", tmp_path / "moved" / "other.pth"))
    assert digest(one.recipe()) == digest(two.recipe())
    assert str(tmp_path) not in str(one.recipe())
    named = Timm(model="test_resnet").recipe()
    assert named == Timm(model="test_resnet.r160_in1k").recipe()
    assert named["model"] == "test_resnet.r160_in1k"
    assert named["weights"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert named["preprocessing"]["crop"] == 160
    assert Timm(model="test_resnet", weights="random").recipe()["timm"] == timm.__version__
    recipes = [one, Timm(model="test_resnet"), Timm(model="test_resnet", weights="random"), Timm(model="test_resnet", weights="random", seed=1),
               Timm(model="test_resnet", image_size=96), Timm(model="test_resnet", pool="max")]
    assert len({digest(options.recipe()) for options in recipes}) == len(recipes)


@pytest.mark.parametrize(("options", "message"), [
    ({"model": "resnet51"}, r"SK101.*timm.model: unknown model 'resnet51' \(did you mean 'resnet5"),
    ({"model": "resnet50.a1_in1l"}, r"SK101.*resnet50 has no weights 'a1_in1l' \(did you mean 'resnet50.a1_in1k'\?\)"),
    ({"model": "test_vit", "weights": "random", "pool": "catavgmax"}, r"SK108.*test_vit does not work with pool = 'catavgmax' and image_size = None: Only avg"),
    ({"model": "test_resnet", "weights": "random", "pool": "token"}, r"SK108.*Invalid pool type: token"),
    ({"model": "test_vit", "weights": "random", "image_size": 70}, r"SK108.*test_vit does not work with pool = 'network' and image_size = 70"),
    ({"model": "test_resnet", "weights": "random", "layer": "layer5"}, r"SK101.*timm.layer: .*no module 'layer5' \(did you mean 'layer"),
    ({"model": "test_resnet", "weights": "random", "layer": "layer4", "pool": "avgmax"}, r"SK108.*timm.pool: 'avgmax' is a pooling of the whole network"),
    ({"model": "test_resnet", "weights": "random", "layer": "layer4", "pool": "token"}, r"SK108.*timm.pool: "),
    ({"model": "vit_5b_patch16_sapiens2", "weights": "random"}, r"SK108.*wants images of 3 x 1024 x 768"),
])
def test_what_timm_does_not_have_or_cannot_do_is_known_before_the_work(options: dict[str, Any], message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(UsageError, match=message):
        Timm(**options).check()


def test_weights_that_are_out_of_reach_say_where_to_put_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    from huggingface_hub import constants

    asked: list[str] = []
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("simkit.extractors.timm.host_error", lambda url: asked.append(url) or OFFLINE)
    monkeypatch.setattr("simkit.networks.host_error", lambda url: asked.append(url) or OFFLINE)
    with pytest.raises(ResourceError, match=r"SK302\] test_resnet.r160_in1k: .*cannot be downloaded \(no route to host\)") as caught:
        Timm(model="test_resnet").check()
    assert str(tmp_path / "hub") in caught.value.problems[0].fix
    assert "hf download timm/test_resnet.r160_in1k" in caught.value.problems[0].fix
    with pytest.raises(ResourceError, match=r"SK302\] legacy_senet154-e9eb9fe6.pth"):  # weights that are not on the hub
        Timm(model="legacy_senet154").check()
    assert len(asked) == 2  # one request each, no retries


def test_a_checkpoint_that_does_not_fit_is_named_with_its_tensors(tmp_path: Path) -> None:
    model = timm_checkpoint(tmp_path / "net.pth", "test_resnet")
    import torch

    path = tmp_path / "bad.pth"
    for change, message in (
        ({"conv1.0.weight": None}, "no tensor 'conv1.0.weight'"), ({"extra.weight": torch.zeros(2)}, "unknown tensor 'extra.weight'"),
        ({"conv1.0.weight": torch.zeros(1, 3, 3, 3)}, r"'conv1.0.weight' has shape \(1, 3, 3, 3\), wanted"),
    ):
        state = {key: value for key, value in (model.state_dict() | change).items() if value is not None}
        torch.save(state, path)
        with pytest.raises(IntegrityError, match=rf"SK402\] .*bad.pth: does not fit test_resnet: {message}"):
            Timm(model="test_resnet", checkpoint=path).check()
    with pytest.raises(ResourceError, match=r"SK302\] .*none.pth: the weights file does not exist"):
        Timm(model="test_resnet", checkpoint=tmp_path / "none.pth").check()


# ---------------------------------------------------------------- medmnist


@pytest.fixture
def medmnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, whose import makes a folder in the home folder."""
    with pytest.MonkeyPatch.context() as home:
        home.setenv("HOME", str(tmp_path))
        package = pytest.importorskip("medmnist")
    monkeypatch.setattr("simkit.sources.medmnist.host_error", lambda url: OFFLINE)
    return package


def medmnist_file(path: Path, labels: tuple[int, ...] = (0, 1, 1)) -> str:
    """A file in MedMNIST's layout with three images in each split; returns its MD5."""
    arrays: dict[str, np.ndarray] = {}
    for number, split in enumerate(("train", "val", "test")):
        arrays[f"{split}_images"] = rng_for("medmnist", number).integers(0, 256, (3, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.array(labels, dtype=np.uint8)[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_medmnist_is_read_by_the_reader_of_npz_with_the_names_of_the_package(tmp_path: Path, medmnist: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for size, suffix in ((28, ""), (64, "_64")):
        md5 = medmnist_file(tmp_path / "root" / f"pneumoniamnist{suffix}.npz")
        monkeypatch.setitem(medmnist.INFO["pneumoniamnist"], f"MD5{suffix}", md5)
        dataset = Medmnist(set="pneumoniamnist", size=size, root=Path("root")).load("pneumonia", tmp_path)
        plain = Npz(path=tmp_path / "root" / f"pneumoniamnist{suffix}.npz").load("npz", tmp_path)
        assert dataset.classes == ("normal", "pneumonia")
        assert dataset.label_names[:3] == ("normal", "pneumonia", "pneumonia")  # type: ignore[index]
        assert dataset.keys == plain.keys
        assert dataset.splits == plain.splits == ("train",) * 3 + ("val",) * 3 + ("test",) * 3
        assert dataset.digests == plain.digests
        np.testing.assert_array_equal(dataset.read(4), plain.read(4))
    assert len(Medmnist(set="pneumoniamnist", root=Path("root"), splits=("test",)).load("d", tmp_path)) == 3


def test_a_file_that_is_not_the_set_is_refused(tmp_path: Path, medmnist: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    md5 = medmnist_file(tmp_path / "pneumoniamnist.npz")
    error = failure(Medmnist(set="pneumoniamnist", root=tmp_path), tmp_path)
    wanted = medmnist.INFO["pneumoniamnist"]["MD5"]
    assert f"pneumoniamnist.npz: has the MD5 {md5}, the package medmnist states {wanted}" in str(error)
    monkeypatch.setitem(medmnist.INFO["pneumoniamnist"], "MD5", medmnist_file(tmp_path / "pneumoniamnist.npz", (0, 1, 2)))
    with pytest.raises(DataError, match="holds the label 2, the package names 2 classes"):
        Medmnist(set="pneumoniamnist", root=tmp_path).load("d", tmp_path)


@pytest.fixture
def server() -> Iterator[Callable[[Path], str]]:
    """Serves a folder on this machine; gives its address."""
    running: list[http.server.ThreadingHTTPServer] = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None: ...

    def serve(folder: Path) -> str:
        running.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)))
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{running[-1].server_port}"

    yield serve
    for one in running:
        one.shutdown()
        one.server_close()


def test_medmnist_is_downloaded_whole_or_not_at_all(
    tmp_path: Path, medmnist: Any, server: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    info = medmnist.INFO["pneumoniamnist"]
    md5 = medmnist_file(tmp_path / "away" / "pneumoniamnist.npz")
    source = Medmnist(set="pneumoniamnist", root=root)
    with pytest.raises(ResourceError, match=r"SK302\] pneumoniamnist.npz: the file is not on this machine and cannot be downloaded \(no route") as caught:
        source.load("d", tmp_path)
    assert f"put it at {root / 'pneumoniamnist.npz'} (MD5 {info['MD5']})" in caught.value.problems[0].fix
    assert info["url"] in caught.value.problems[0].fix
    monkeypatch.setattr("simkit.sources.medmnist.host_error", host_error)
    monkeypatch.setitem(info, "url", f"{server(tmp_path / 'away')}/pneumoniamnist.npz?download=1")
    with pytest.raises(ResourceError, match=r"SK302\] pneumoniamnist.npz: .*corrupted"):
        source.load("d", tmp_path)
    assert list(root.iterdir()) == []
    monkeypatch.setitem(info, "MD5", md5)
    monkeypatch.setitem(info, "n_samples", {"train": 3, "val": 3, "test": 3})
    assert len(source.load("d", tmp_path)) == 9
    assert [path.name for path in root.iterdir()] == ["pneumoniamnist.npz"]


def test_ctrl_c_in_a_download_stays_ctrl_c(tmp_path: Path, medmnist: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("simkit.sources.medmnist.host_error", lambda url: None)
    monkeypatch.setattr("torchvision.datasets.utils.download_url", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Medmnist(set="pneumoniamnist", root=tmp_path).load("d", tmp_path)
    assert not list(tmp_path.glob("*.npz"))
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize(("name", "message"), [
    ("pneumonia", r"SK101\] medmnist.set: unknown set 'pneumonia' \(did you mean 'pneumoniamnist'\?\)"),
    ("organmnist3d", r"SK102\] medmnist.set: 'organmnist3d' is a set of volumes"),
])
def test_sets_that_simkit_does_not_read_are_refused_by_name(name: str, message: str, tmp_path: Path, medmnist: Any) -> None:
    with pytest.raises(UsageError, match=message):
        Medmnist(set=name, root=tmp_path).load("d", tmp_path)


def test_a_missing_root_is_never_made(tmp_path: Path, medmnist: Any) -> None:
    with pytest.raises(DataError, match=r"SK201\] .*rot: the root folder does not exist"):
        Medmnist(set="pneumoniamnist", root=Path("rot")).load("d", tmp_path)
    assert not (tmp_path / "rot").exists()


# ---------------------------------------------------------------- huggingface


@pytest.fixture
def hf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The library, with its copies in a folder of the test."""
    package = pytest.importorskip("datasets")
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("simkit.sources.huggingface.host_error", lambda url: OFFLINE)
    yield package
    assert not package.are_progress_bars_disabled()


def image_files(folder: Path) -> dict[str, bytes]:
    """Six PNG files in two class folders; their bytes by key."""
    for index in range(6):
        path = folder / ("cat" if index < 2 else "dog") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colour() + np.uint8(index)).save(path)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def table_of(package: Any, files: dict[str, bytes], **columns: Any) -> Any:
    """A data set of the library: images as bytes, labels with names (dog is 0), and further columns."""
    features = {"image": package.Image(), "label": package.ClassLabel(names=["dog", "cat", "fox"])}
    data = {"image": [{"bytes": data, "path": None} for data in files.values()], "label": ["cat" if key.startswith("cat") else "dog" for key in files]}
    rows = package.Dataset.from_dict({**data, **{name: values for name, values in columns.items() if name not in data}})
    rows = package.Dataset.from_dict({**data, **columns}) if columns else rows
    return rows.cast(package.Features({name: features.get(name, feature) for name, feature in rows.features.items()}))


def test_a_parquet_file_gives_the_pixels_digests_labels_and_groups_of_the_files(tmp_path: Path, hf: Any) -> None:
    files = image_files(tmp_path / "images")
    rows = table_of(hf, files, group=["p1", "p1", "p2", "p2", "p3", "p3"])
    rows.to_parquet(tmp_path / "set.parquet")
    dataset = Huggingface(path="set.parquet").load("d", tmp_path)
    folder = Folder(path=tmp_path / "images").load("f", tmp_path)
    assert dataset.digests == folder.digests
    assert dataset.label_names == folder.label_names
    assert dataset.classes == ("dog", "cat", "fox")
    assert dataset.groups == ("p1", "p1", "p2", "p2", "p3", "p3")
    assert dataset.splits is None
    assert dataset.keys[:2] == ("all/0", "all/1")
    for index in range(6):
        np.testing.assert_array_equal(dataset.read(index), folder.read(index))
    again = pickle.loads(pickle.dumps(dataset))
    assert again.fingerprint == dataset.fingerprint
    pattern = Huggingface(path=str(tmp_path / "*.parquet"), label="", group="").load("d", tmp_path)
    assert pattern.labels is None
    assert pattern.groups is None
    assert pattern.digests == dataset.digests


def test_folders_of_parquet_files_of_images_and_saved_sets(tmp_path: Path, hf: Any) -> None:
    files = image_files(tmp_path / "images")
    rows = table_of(hf, files)
    (tmp_path / "hub").mkdir()
    rows.select(range(4)).to_parquet(tmp_path / "hub" / "train-00000-of-00001.parquet")
    rows.select(range(4, 6)).to_parquet(tmp_path / "hub" / "validation-00000-of-00001.parquet")
    parts = Huggingface(path="hub").load("d", tmp_path)
    assert parts.splits == ("train",) * 4 + ("val",) * 2
    assert parts.keys[3:5] == ("train/3", "validation/0")
    np.testing.assert_array_equal(parts.read(5), colour() + np.uint8(5))
    assert len(Huggingface(path="hub", splits=("validation",)).load("d", tmp_path)) == 2
    (tmp_path / "images" / "dog" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    images = Huggingface(path="images").load("d", tmp_path)
    assert images.class_counts == {"cat": 2, "dog": 4}
    assert [(s.key, s.reason) for s in images.skipped] == [("dog/lost.png", "the library datasets did not read it")]
    assert set(images.digests) == set(parts.digests)
    rows.save_to_disk(tmp_path / "one")
    assert Huggingface(path="one").load("d", tmp_path).keys[0] == "all/0"
    hf.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "saved")
    saved = Huggingface(path="saved", splits=("test",)).load("d", tmp_path)
    assert saved.splits == ("test",) * 6
    assert saved.digests == tuple(parts.digests)


def test_labels_without_names_are_their_values(tmp_path: Path, hf: Any) -> None:
    files = image_files(tmp_path / "images")
    rows = table_of(hf, files, number=[10, 9, 9, 10, 2, 2], word=["b", "a", "a", "b", "b", "a"])
    rows.to_parquet(tmp_path / "set.parquet")
    numbers = Huggingface(path="set.parquet", label="number").load("d", tmp_path)
    assert numbers.classes == ("2", "9", "10")
    assert numbers.label_names == ("10", "9", "9", "10", "2", "2")
    assert Huggingface(path="set.parquet", label="word").load("d", tmp_path).label_names == ("b", "a", "a", "b", "b", "a")


def test_lists_of_classes_make_a_multi_label_set(tmp_path: Path, hf: Any) -> None:
    several = [[0, 2], [1], [], [2], [0], [0, 1, 2]]
    rows = table_of(hf, image_files(tmp_path / "images"), numbers=several, words=[["fox", "dog"][: len(row)] for row in several], named=several)
    rows = rows.cast_column("named", hf.Sequence(hf.ClassLabel(names=["dog", "cat", "fox"])))
    rows.to_parquet(tmp_path / "set.parquet")
    wanted = [[number in row for number in range(3)] for row in several]
    named = Huggingface(path="set.parquet", label="named").load("d", tmp_path)
    assert named.labels is None
    assert named.classes == ("dog", "cat", "fox")
    assert named.indicators.tolist() == wanted  # type: ignore[union-attr]
    assert named.label_names[:3] == ("dog + fox", "cat", "")  # type: ignore[index]
    numbers = Huggingface(path="set.parquet", label="numbers").load("d", tmp_path)
    assert numbers.classes == ("0", "1", "2")
    assert numbers.indicators.tolist() == wanted  # type: ignore[union-attr]
    words = Huggingface(path="set.parquet", label="words").load("d", tmp_path)
    assert words.class_counts == {"dog": 2, "fox": 5}
    assert pickle.loads(pickle.dumps(named)).fingerprint == named.fingerprint
    assert named.fingerprint != numbers.fingerprint


def test_the_treatment_of_images_in_rows_is_said(tmp_path: Path, hf: Any) -> None:
    files = image_files(tmp_path / "images")
    png16(tmp_path / "deep.png", grey().astype(np.uint16) * 257)
    table_of(hf, files | {next(iter(files)): (tmp_path / "deep.png").read_bytes()}).to_parquet(tmp_path / "set.parquet")
    dataset = Huggingface(path="set.parquet", intensity="percentile", percentiles=(0.0, 100.0)).load("d", tmp_path)
    image, remarks = dataset.remarked(0)
    assert (image.min(), image.max()) == (0, 255)
    assert remarks
    assert dataset.remarked(1)[1] == ()


def test_the_rules_of_files_hold_for_bytes(tmp_path: Path, hf: Any) -> None:
    files = image_files(tmp_path / "images")
    png16(tmp_path / "deep.png", grey().astype(np.uint16) * 257)
    first = next(iter(files))
    deep = (tmp_path / "deep.png").read_bytes()
    table_of(hf, files | {first: deep, "dog/9.png": files[first][:-30], "dog/10.png": b"<html>"}).to_parquet(tmp_path / "set.parquet")
    dataset = Huggingface(path="set.parquet").load("d", tmp_path)
    with pytest.raises(DataError, match=r"SK207\] set.parquet: all/0: has 16 bits per sample"):
        dataset.read(0)
    with pytest.raises(DataError, match=r"SK206\] set.parquet: all/6: cannot be decoded: .*it looks like a PNG file"):
        dataset.read(6)
    with pytest.raises(DataError, match=r"SK206\] set.parquet: all/7: .*it looks like an HTML page"):
        dataset.read(7)
    _, kept = card_of(dataset)
    assert [s.key for s in kept.skipped] == ["all/0", "all/6", "all/7"]
    declared = Huggingface(path="set.parquet", intensity="full-range").load("d", tmp_path)
    np.testing.assert_array_equal(declared.read(0)[:, :, 0], grey())
    assert declared.digests[0] != dataset.digests[0]


def test_what_is_wrong_with_a_set_of_the_library_is_named(tmp_path: Path, hf: Any) -> None:
    files = image_files(tmp_path / "images")
    columns = {"size": [0.5] * 6, "many": [[0.5, 1.5]] * 6, "holes": [[0], None, [1, None], [], [2], [0, 1]], "group": ["p", None, "p", "q", None, "q"]}
    rows = table_of(hf, files, **columns)
    unlabelled = rows.map(lambda row, i: {"label": -1 if i < 2 else row["label"]}, with_indices=True, load_from_cache_file=False)
    rows.to_parquet(tmp_path / "set.parquet")
    unlabelled.to_parquet(tmp_path / "hidden.parquet")
    (tmp_path / "broken.parquet").write_bytes((tmp_path / "set.parquet").read_bytes()[:200])
    (tmp_path / "notes.txt").write_text("hello")
    for options, message in (
        ({"image": "img"}, r"SK202\] set.parquet: split 'all': column 'img' is missing.*columns found: image, label, size, many, holes, group"),
        ({"label": "lable"}, r"SK202.*column 'lable' is missing \(did you mean 'label'\?\)"),
        ({"image": "label"}, r"SK202.*column 'label' holds ClassLabel.*wanted images"),
        ({"label": "size"}, r"SK203.*column 'size' holds Value\('float64'\), wanted one class per image"),
        ({"label": "many"}, r"SK203.*column 'many' holds List.*wanted one class per image"),
        ({"label": "holes"}, r"SK203.*2 of 6 images have no label in column 'holes'"),
        ({}, r"SK203.*2 of 6 images have no value in the group column 'group'"),
        ({"splits": ("tset",)}, r"SK203.*no split 'tset'; splits found: all"),
        ({"path": "hidden.parquet"}, r"SK203.*2 of 6 images have no label in column 'label'"),
        ({"path": "broken.parquet"}, r"SK201\] broken.parquet: the library datasets cannot read it"),
        ({"path": "sett.parquet"}, r"SK201\] .*sett.parquet: does not exist \(did you mean '.*set.parquet'\?\)"),
        ({"path": "notes.txt"}, r"SK201\] .*notes.txt: is not a parquet file"),
        ({"path": "./nowhere"}, r"SK201\] .*nowhere: does not exist"),
    ):
        with pytest.raises(DataError, match=message):
            Huggingface(**({"path": "set.parquet"} | options)).load("d", tmp_path)  # type: ignore[arg-type]


def test_a_set_of_the_hub_that_is_out_of_reach_says_where_to_put_it(tmp_path: Path, hf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError, match=r"SK302\] owner/name: is not on this machine and the hub cannot be reached \(no route to host\)") as caught:
        Huggingface(path="owner/name").load("d", tmp_path)
    assert str(tmp_path / "cache") in caught.value.problems[0].fix

    def answer(error: Exception) -> None:
        def load_dataset(*arguments: Any, **options: Any) -> None:
            raise error

        monkeypatch.setattr(hf, "load_dataset", load_dataset)

    monkeypatch.setattr("simkit.sources.huggingface.host_error", lambda url: None)
    answer(hf.exceptions.DatasetNotFoundError("Dataset 'owner/name' doesn't exist on the Hub or cannot be accessed."))
    with pytest.raises(DataError, match=r"SK201\] owner/name: is neither a local path nor a data set that the hub shows you"):
        Huggingface(path="owner/name").load("d", tmp_path)
    answer(ValueError("Config name is missing.\nPlease pick one among the available configs: ['a', 'b']"))
    with pytest.raises(DataError, match=r"SK201\] owner/name: .*pick one among the available configs: \['a', 'b'\]"):
        Huggingface(path="owner/name").load("d", tmp_path)
    answer(ConnectionError("connection lost"))
    with pytest.raises(ResourceError, match=r"SK302\] owner/name: .*connection lost"):
        Huggingface(path="owner/name").load("d", tmp_path)


# ---------------------------------------------------------------- dicom


def dicom_file(path: Path, stored: np.ndarray, **entries: Any) -> Path:
    """A single-frame CT slice of 12 bits in 16, of patient 4711, written by pydicom. An entry that is None is left out."""
    pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    data.StudyInstanceUID = data.SeriesInstanceUID = generate_uid(entropy_srcs=["study", path.parent.name])
    data.PatientName, data.PatientID = "Doe^Jane", "4711"
    data.Rows, data.Columns = stored.shape[:2]
    data.SamplesPerPixel = 3 if stored.ndim == 3 and stored.shape[2] == 3 else 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated = 8 * stored.dtype.itemsize
    data.BitsStored = 12 if stored.dtype.itemsize == 2 else 8
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.PixelData = stored.tobytes()
    for name, value in entries.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


CT = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": [40, 600], "WindowWidth": [400, 2000]}


def stored_values(height: int = 5, width: int = 7, last: int = 4095) -> np.ndarray:
    return np.linspace(0, last, height * width).astype(np.uint16).reshape(height, width)


def test_a_ct_slice_goes_through_slope_intercept_and_the_first_window(tmp_path: Path) -> None:
    stored = np.array([[0, 431, 432, 433, 532, 631, 632, 4095]], dtype=np.uint16)
    path = dicom_file(tmp_path / "ct.dcm", stored, **CT)
    # Hounsfield -1024, -162, -160, -158, 40, 238, 240, 7166; PS3.3 C.11.2.1.2.1: ((x - 39.5) / 399 + 0.5) * 255, 0 below -160, 255 above 239
    np.testing.assert_array_equal(decode_dicom(path), np.array([0, 0, 0, 1, 128, 254, 255, 255], dtype=np.uint8)[None, :, None])


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_are_those_of_pydicom(function: str, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.pixels import apply_modality_lut, apply_windowing

    for number, signed in enumerate((np.uint16, np.int16)):
        stored = (stored_values() - (2048 if signed is np.int16 else 0)).astype(signed)
        path = dicom_file(tmp_path / f"{number}.dcm", stored, VOILUTFunction=function, **CT)
        header = pydicom.dcmread(path)
        low, high = (np.array([-2048, 2047] if signed is np.int16 else [0, 4095]) * 2 - 1024).tolist()
        theirs = (apply_windowing(apply_modality_lut(header.pixel_array, header), header) - low) / (high - low) * 255
        np.testing.assert_allclose(decode_dicom(path)[:, :, 0], theirs, atol=0.5 + 1e-6)


def test_a_declared_window_and_the_full_range(tmp_path: Path) -> None:
    stored = stored_values()
    path = dicom_file(tmp_path / "ct.dcm", stored, **CT)
    other = dicom_file(tmp_path / "other.dcm", stored, **(CT | {"WindowCenter": 600, "WindowWidth": 2000}))
    np.testing.assert_array_equal(decode_dicom(path, Window(center=600, width=2000)), decode_dicom(other))
    full = decode_dicom(path, Window(window="full-range"))
    np.testing.assert_array_equal(full[:, :, 0], (stored.astype(np.int64) * 510 + 4095) // 8190)
    falling = dicom_file(tmp_path / "falling.dcm", stored, RescaleSlope=-1, RescaleIntercept=0)
    np.testing.assert_array_equal(decode_dicom(falling, Window(window="full-range"))[:, :, 0], ((4095 - stored.astype(np.int64)) * 510 + 4095) // 8190)
    overlay = dicom_file(tmp_path / "overlay.dcm", stored | 0x8000)  # a drawing in the bits that the values do not use
    np.testing.assert_array_equal(decode_dicom(overlay, Window(window="full-range")), full)
    step = decode_dicom(dicom_file(tmp_path / "step.dcm", stored, WindowCenter=2000, WindowWidth=1))
    np.testing.assert_array_equal(step[:, :, 0], np.where(stored > 1999.5, 255, 0))
    assert len({Dicom(path=tmp_path, labels=False, **options).load("d", tmp_path).digests for options in (
        {}, {"window": "full-range"}, {"center": 600.0, "width": 2000.0}, {"center": 600.0, "width": 2001.0})}) == 4


def test_a_table_of_grey_levels_stands_in_for_a_window(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    item = pydicom.Dataset()
    item.LUTDescriptor = [4, 1, 16]
    item.add_new("LUTData", "US", [0, 257 * 10, 257 * 200, 65535])
    path = dicom_file(tmp_path / "xr.dcm", np.array([[0, 1, 2, 3, 4, 9]], dtype=np.uint16), VOILUTSequence=[item])
    assert decode_dicom(path).ravel().tolist() == [0, 0, 10, 200, 255, 255]


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    stored = stored_values()
    plain = dicom_file(tmp_path / "2.dcm", stored, **CT)
    inverted = dicom_file(tmp_path / "1.dcm", stored, PhotometricInterpretation="MONOCHROME1", **CT)
    np.testing.assert_array_equal(decode_dicom(inverted), 255 - decode_dicom(plain))


def test_colour_images_become_rgb_untouched_by_windows(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    image = colour()
    rgb = dicom_file(tmp_path / "rgb.dcm", image, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    np.testing.assert_array_equal(decode_dicom(rgb), image)
    np.testing.assert_array_equal(decode_dicom(rgb, Window(center=40, width=400)), image)
    indices = np.array([[0, 1, 2]], dtype=np.uint8)
    table = {f"{name}PaletteColorLookupTable{what}": value for name, level in (("Red", 10), ("Green", 100), ("Blue", 200))
             for what, value in (("Descriptor", [4, 0, 8]), ("Data", bytes([level, level + 1, level + 2, 0])))}
    palette = dicom_file(tmp_path / "palette.dcm", indices, PhotometricInterpretation="PALETTE COLOR", **table)
    assert decode_dicom(palette).tolist() == [[[10, 100, 200], [11, 101, 201], [12, 102, 202]]]
    deep = dicom_file(tmp_path / "deep.dcm", colour().astype(np.uint16), PhotometricInterpretation="RGB", PlanarConfiguration=0)
    with pytest.raises(DataError, match=r"SK207\] .*deep.dcm: holds RGB values of type uint16"):
        decode_dicom(deep)


def dicom_folder(folder: Path) -> Path:
    """Two classes, three patients, one file a patient and class; one file has no extension."""
    for index, (key, patient) in enumerate({"ill/a.dcm": "p1", "ill/deep/b": "p2", "well/c.DCM": "p1 ", "well/d.dcm": "p3"}.items()):
        dicom_file(folder / key, stored_values(last=4000 + index), PatientID=patient, **CT)
    return folder


def test_a_folder_of_dicom_files_has_classes_and_hashed_patients(tmp_path: Path) -> None:
    dicom_folder(tmp_path / "scans")
    (tmp_path / "scans" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "scans" / "readme.txt").write_text("hello")
    dataset = Dicom(path=Path("scans")).load("scans", tmp_path)
    assert dataset.keys == ("ill/a.dcm", "ill/deep/b", "well/c.DCM", "well/d.dcm")
    assert dataset.label_names == ("ill", "ill", "well", "well")
    assert dataset.skipped == ()
    assert dataset.groups is not None
    assert dataset.groups[0] == dataset.groups[2] == hashlib.sha256(b"p1").hexdigest()[:16]
    assert len(set(dataset.groups)) == 3
    assert dataset.read(0).shape == (5, 7, 1)
    shown = f"{dataset!r} {dataset.frame.to_dict()}"
    assert "Doe" not in shown
    assert "p1" not in shown
    moved = Dicom(path=dicom_folder(tmp_path / "elsewhere")).load("other", tmp_path)
    assert moved.label_names == dataset.label_names
    assert pickle.loads(pickle.dumps(dataset)).fingerprint == dataset.fingerprint
    unlabelled = Dicom(path=Path("scans"), labels=False, groups=False).load("d", tmp_path)
    assert (unlabelled.labels, unlabelled.groups, len(unlabelled)) == (None, None, 4)


def test_missing_patient_ids_are_counted_and_can_be_done_without(tmp_path: Path) -> None:
    dicom_folder(tmp_path)
    dicom_file(tmp_path / "ill" / "e.dcm", stored_values(), PatientID=None, **CT)
    dicom_file(tmp_path / "ill" / "f.dcm", stored_values(), PatientID="  ", **CT)
    with pytest.raises(DataError, match=r"SK203\] .*: 2 of 6 files have no patient id \(0010,0020\): ill/e.dcm, ill/f.dcm\n.*groups = false"):
        Dicom(path=tmp_path).load("d", tmp_path)
    assert len(Dicom(path=tmp_path, groups=False).load("d", tmp_path)) == 6


def test_files_that_are_no_single_image_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    dicom_folder(tmp_path)
    ill = tmp_path / "ill"
    dicom_file(ill / "cine.dcm", np.stack([stored_values()] * 3), NumberOfFrames=3, Rows=5, Columns=7, **CT)
    dicom_file(ill / "report.dcm", stored_values(), PixelData=None)
    dicom_file(ill / "map.dcm", stored_values(), PixelData=None, FloatPixelData=np.zeros(35, np.float32).tobytes())
    (ill / "fake.dcm").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 200)
    (ill / "cut.dcm").write_bytes((ill / "a.dcm").read_bytes()[:-20])
    (ill / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    squeezed = dicom_file(ill / "jls.dcm", stored_values(), PatientID="p9", **CT)
    packed = pydicom.dcmread(squeezed)
    packed.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    packed["PixelData"].is_undefined_length = True
    packed.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    packed.save_as(squeezed)
    dataset = Dicom(path=tmp_path, frames="refuse").load("d", tmp_path)
    reasons = {skipped.key: skipped.reason for skipped in dataset.skipped}
    assert reasons["ill/cine.dcm"] == "holds 3 frames: which one is the image is not known"
    assert reasons["ill/report.dcm"].startswith("holds no pixels (no PixelData)")
    assert reasons["ill/map.dcm"].startswith("holds floating-point values (FloatPixelData)")
    assert reasons["ill/fake.dcm"] == "is not a DICOM file: it looks like a PNG file"
    assert reasons["ill/photo.png"] == "not a DICOM file; the source 'folder' reads such images"
    assert reasons["ill/jls.dcm"].startswith("is compressed as JPEG-LS Lossless Image Compression; packages that read it: ")
    assert "pylibjpeg" in reasons["ill/jls.dcm"]
    packed.file_meta.TransferSyntaxUID = pydicom.uid.JPEGExtended12Bit  # Pillow is there and reads the 8-bit kind only
    packed.save_as(tmp_path / "twelve.dcm")
    with pytest.raises(DataError, match=r"SK206\] .*twelve.dcm: .*packages that are installed: .*\nfix: install a package that may read it: .*pylibjpeg"):
        decode_dicom(tmp_path / "twelve.dcm")
    (tmp_path / "twelve.dcm").unlink()
    _, kept = card_of(dataset)
    assert set(kept.keys) == {"ill/a.dcm", "ill/deep/b", "well/c.DCM", "well/d.dcm"}
    assert {skipped.key for skipped in kept.skipped} == {*reasons, "ill/cut.dcm"}
    for name, code in (("cine", "SK207"), ("report", "SK206"), ("map", "SK207"), ("fake", "SK206"), ("jls", "SK206"), ("cut", "SK206")):
        with pytest.raises(DataError, match=rf"error\[{code}\] .*{name}.dcm: "):
            decode_dicom(ill / f"{name}.dcm")
    only = tmp_path / "only"
    only.mkdir()
    (ill / "cine.dcm").rename(only / "cine.dcm")
    with pytest.raises(DataError, match=r"SK207\] .*cine.dcm: holds 3 frames"):
        Dicom(path=only, labels=False, frames="refuse").load("d", tmp_path)


def test_a_value_range_without_a_declared_rule_is_refused(tmp_path: Path) -> None:
    plain = dicom_file(tmp_path / "plain.dcm", stored_values(last=900))
    with pytest.raises(DataError, match=r"SK207\] .*plain.dcm: has no window \(values from 0 to 900\)"):
        decode_dicom(plain)
    assert decode_dicom(plain, Window(window="full-range")).max() == 56
    ultrasound = dicom_file(tmp_path / "us.dcm", grey())
    np.testing.assert_array_equal(decode_dicom(ultrasound)[:, :, 0], grey())
    with pytest.raises(DataError, match=r"has no window \(values from -10 to 228\)"):
        decode_dicom(dicom_file(tmp_path / "shifted.dcm", grey(), RescaleSlope=1, RescaleIntercept=-10))
    empty = dicom_file(tmp_path / "empty.dcm", stored_values(), WindowCenter="", WindowWidth="")
    with pytest.raises(DataError, match="has no window"):
        decode_dicom(empty)
    narrow = dicom_file(tmp_path / "narrow.dcm", stored_values(), WindowCenter=40, WindowWidth=0)
    with pytest.raises(DataError, match=r"SK207\] .*narrow.dcm: has a window that the standard does not allow \(function LINEAR, center 40, width 0\)"):
        decode_dicom(narrow)
    with pytest.raises(UsageError, match="center and width belong together"):
        Dicom(path=tmp_path, center=40.0)
    with pytest.raises(UsageError, match="contradict window = 'full-range'"):
        Dicom(path=tmp_path, center=40.0, width=400.0, window="full-range")


@pytest.mark.parametrize(("match", "rows"), [
    ("path", {"ill/a.dcm": "x", "ill/deep/b": "y", "well/c.DCM": "x"}),
    ("stem", {"a": "x", "b": "y", "c": "x"}),
    ("PatientID", {"p1": "x", "p2": "y"}),
])
def test_labels_from_a_table(match: Any, rows: dict[str, str], tmp_path: Path) -> None:
    dicom_folder(tmp_path / "scans")
    (tmp_path / "labels.csv").write_text("id,finding\n" + "".join(f"{key},{label}\n" for key, label in rows.items()))
    source = Dicom(path=Path("scans"), table=Path("labels.csv"), key="id", match=match, label="finding")
    dataset = source.load("d", tmp_path)
    assert dict(zip(dataset.keys, dataset.label_names or (), strict=True)) == {"ill/a.dcm": "x", "ill/deep/b": "y", "well/c.DCM": "x"}
    assert dataset.classes == ("x", "y")
    assert [(s.key, s.reason) for s in dataset.skipped] == [("well/d.dcm", "no row of labels.csv is about it")]


def test_rows_that_fit_no_file_are_named_without_the_patient(tmp_path: Path) -> None:
    dicom_folder(tmp_path / "scans")
    dicom_file(tmp_path / "scans" / "well" / "a.dcm", stored_values(), PatientID="p4", **CT)
    table = tmp_path / "labels.csv"
    table.write_text("id,label\np1,x\np1,y\nsecret,x\np2,\n")
    error = failure(Dicom(path=Path("scans"), table=Path("labels.csv"), key="id", match="PatientID"), tmp_path)
    assert [problem.code for problem in error.problems] == ["SK204", "SK203", "SK205"]
    assert "labels.csv:3 (column 'id'): is about the same PatientID as line 2, with another class ('y' and 'x')" in str(error)
    assert "labels.csv:4 (column 'id'): no readable DICOM file has the PatientID\n" in str(error)
    assert "secret" not in str(error)
    table.write_text("id,label\na,x\nz,y\n")
    error = failure(Dicom(path=Path("scans"), table=Path("labels.csv"), key="id", match="stem"), tmp_path)
    assert "labels.csv:2 (column 'id'): 'a' is the name of 2 files" in str(error)
    assert "labels.csv:3 (column 'id'): no readable DICOM file has the stem 'z'" in str(error)
    with pytest.raises(DataError, match=r"SK202.*column 'path' is missing"):
        Dicom(path=Path("scans"), table=Path("labels.csv")).load("d", tmp_path)
    with pytest.raises(DataError, match=r"SK201\] .*lables.csv: the table does not exist \(did you mean '.*labels.csv'\?\)"):
        Dicom(path=Path("scans"), table=Path("lables.csv")).load("d", tmp_path)


def test_folders_without_dicom_files_say_what_they_hold(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "a.txt").write_text("hello")
    with pytest.raises(DataError, match=r"SK201\] .*: no DICOM file in it; found: 1 .txt"):
        Dicom(path=tmp_path).load("d", tmp_path)
    with pytest.raises(DataError, match=r"SK201\] .*nowhere: the folder does not exist"):
        Dicom(path=tmp_path / "nowhere").load("d", tmp_path)
    dicom_file(tmp_path / "top.dcm", stored_values(), **CT)
    with pytest.raises(DataError, match=r"1 images lie directly in the folder"):
        Dicom(path=tmp_path).load("d", tmp_path)
    with pytest.raises(DataError, match=r"(?s)no image in it that simkit reads.*fix: DICOM files are read by the source 'dicom'"):
        Folder(path=tmp_path, labels=False).load("d", tmp_path)
