"""Extractors: the right pixels in, the right layer out, and clear words where something is missing."""

from __future__ import annotations

import hashlib
import http.server
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from images import write_images
from PIL import Image
from torchvision import transforms
from torchvision.models import SqueezeNet1_1_Weights, get_model

import simkit
from simkit.errors import DataError, IntegrityError, ResourceError, UsageError
from simkit.extractors.base import Extractor, extract
from simkit.extractors.layers import channels_last_layer, check_layer, pooled
from simkit.extractors.pixels import Pixels
from simkit.extractors.torchvision import Torchvision
from simkit.networks import build_network, head_of, weights_enum
from simkit.recipe import digest, rng_for

TINY = "squeezenet1_1"


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    small = rng_for("picture", seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    return image if channels == 3 else image[:, :, :1]


def checkpoint(folder: Path, network: str, classes: int = 7, *, wrap: bool = False) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(3)
    model = get_model(network, weights=None, num_classes=classes).eval()
    path = folder / f"{network}.pth"
    state = {f"module.{k}": v for k, v in model.state_dict().items()} if wrap else model.state_dict()
    torch.save({"state_dict": state} if wrap else state, path)
    return path, model


@pytest.mark.parametrize(("height", "width"), [(300, 400), (90, 60), (224, 224)])
def test_preprocessing_is_that_of_torchvision(height: int, width: int) -> None:
    image = picture(height, width)
    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])(Image.fromarray(image))
    ours = Torchvision(network=TINY, weights="random").session("cpu").prepare(image)
    np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_grey_images_are_repeated_to_three_channels() -> None:
    session = Torchvision(network=TINY, weights="random", image_size=64).session("cpu")
    ours = session.prepare(picture(80, 80, 1))
    assert ours.shape == (64, 64, 3)
    assert (ours[..., 0] == ours[..., 1]).all()
    assert (ours[..., 0] == ours[..., 2]).all()


@pytest.mark.parametrize("network", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "efficientnet_b0", "vgg11", "densenet121", "vit_b_32"])
def test_features_are_the_input_of_the_last_layer(tmp_path: Path, network: str) -> None:
    path, model = checkpoint(tmp_path, network)
    size = 224 if network.startswith("vit") else 64
    extractor = Torchvision(network=network, checkpoint=path, image_size=size)
    extractor.check()
    session = extractor.session("cpu")
    batch = [session.prepare(picture(size + 10, size + 30, seed=i)) for i in range(2)]
    ours = session.features(batch)
    pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2) / 255
    normal = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(pixels)
    head = head_of(model)[1]
    with torch.inference_mode():
        if isinstance(head, torch.nn.Linear):
            logits = model(normal)
            np.testing.assert_allclose(ours @ head.weight.numpy().T + head.bias.numpy(), logits, atol=2e-4)
        else:
            np.testing.assert_allclose(ours, model.features(normal).mean((2, 3)), atol=2e-4)


def test_batches_do_not_change_features() -> None:
    session = Torchvision(network=TINY, weights="random", image_size=64).session("cpu")
    batch = [session.prepare(picture(70, 80, seed=i)) for i in range(5)]
    together = session.features(batch)
    alone = np.concatenate([session.features([one]) for one in batch])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_a_layer_by_name_and_its_pooling() -> None:
    images = [picture(64, 64, seed=i) for i in range(2)]
    average, largest = (Torchvision(network=TINY, weights="random", image_size=64, layer="features.4", pool=pool).session("cpu") for pool in ("average", "max"))
    a, b = (s.features([s.prepare(i) for i in images]) for s in (average, largest))
    assert a.shape == b.shape == (2, 128)
    assert (b >= a).all()
    tokens = Torchvision(network="vit_b_32", weights="random", layer="encoder.ln", pool="cls").session("cpu")
    assert tokens.features([tokens.prepare(picture(224, 224))]).shape == (1, 768)
    wrong = Torchvision(network=TINY, weights="random", image_size=64, layer="features.4", pool="cls")
    with pytest.raises(UsageError, match="cls needs a layer of tokens"):
        wrong.check()
    with pytest.raises(UsageError, match="cls needs a layer of tokens"):
        wrong.session("cpu").features([average.prepare(images[0])])


def test_pooling_by_hand() -> None:
    maps = torch.tensor(rng_for("maps").random((2, 5, 3, 4)), dtype=torch.float32)  # (n, c, h, w)
    tokens = maps.flatten(2).transpose(1, 2)
    for pool, wanted in (("average", maps.numpy().mean((2, 3))), ("max", maps.numpy().max((2, 3))),
                         ("gem", (maps.numpy().astype(np.float64) ** 3).mean((2, 3)) ** (1 / 3))):
        for value, last in ((maps, False), (maps.permute(0, 2, 3, 1), True), (tokens, False)):
            np.testing.assert_allclose(pooled(value, pool, "test", channels_last=last), wanted, rtol=1e-5)  # type: ignore[arg-type]
    np.testing.assert_array_equal(pooled(tokens, "cls", "test"), tokens[:, 0])
    np.testing.assert_array_equal(pooled(maps[:, :, 0, 0], "average", "test"), maps[:, :, 0, 0])
    np.testing.assert_allclose(pooled(-maps, "gem", "test"), np.full((2, 5), 1e-6), rtol=1e-4)
    with pytest.raises(UsageError, match=r"test: the value of the layer has shape \(2,\), wanted"):
        pooled(maps[:, 0, 0, 0], "average", "test")
    with pytest.raises(UsageError, match=r"test: the value of the layer has type tuple"):
        pooled((maps,), "average", "test")


def by_size(build: Callable[[], torch.nn.Module], size: int) -> dict[str, bool]:
    """Whether a module's maps have their channels last, from outside: the axes that grow with the image are its height and width."""
    shapes: list[dict[str, tuple[int, ...]]] = []
    for side in (size, 2 * size):
        with torch.device("meta"):
            model, found = build().eval(), {}
        for name, module in model.named_modules():
            module.register_forward_hook(lambda m, i, out, n=name, f=found: f.__setitem__(n, tuple(out.shape)) if isinstance(out, torch.Tensor) else None)
        with torch.inference_mode():
            model(torch.empty(1, 3, side, side, device="meta"))
        shapes.append(found)
    grown = {name: [axis for axis in range(4) if shape[axis] != shapes[1][name][axis]] for name, shape in shapes[0].items() if len(shape) == 4}
    return {name: axes == [1, 2] for name, axes in grown.items() if axes in ([1, 2], [2, 3]) and name}


@pytest.mark.parametrize(("name", "last"), [
    ("swin_t", 100), ("swin_v2_t", 100), ("convnext_tiny", 50), ("resnet18", 0), ("densenet121", 0), ("efficientnet_b0", 0), ("mobilenet_v3_small", 0),
    ("timm:convnext_tiny", 50), ("timm:swin_tiny_patch4_window7_224", 50), ("timm:test_resnet", 0), ("timm:poolformer_s12", 0),
])
def test_the_channels_of_every_layer_are_where_they_are_said_to_be(name: str, last: int) -> None:
    def build() -> torch.nn.Module:
        if not name.startswith("timm:"):
            return build_network(name)
        model: torch.nn.Module = pytest.importorskip("timm").create_model(name[5:], **({"strict_img_size": False} if "swin" in name else {}))
        return model

    found = by_size(build, 224)
    model = build()
    wrong = [layer for layer, truth in found.items() if channels_last_layer(model, layer) != truth]
    assert not wrong
    assert len(found) > 30
    assert sum(found.values()) >= last


def test_a_swin_layer_is_pooled_over_its_places() -> None:
    session = Torchvision(network="swin_t", weights="random", layer="features.1").session("cpu")
    batch = [session.prepare(picture(230, 240))]
    with torch.inference_mode():
        pixels = (torch.from_numpy(batch[0].copy()).permute(2, 0, 1)[None] / 255 - session.mean) / session.std  # type: ignore[attr-defined]
        maps = session.model.features[:2](pixels)  # type: ignore[attr-defined]
    assert maps.shape == (1, 56, 56, 96)
    np.testing.assert_allclose(session.features(batch), maps.mean((1, 2)), atol=1e-4)


def test_the_untrained_network_is_the_same_every_time_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(11)
    before = torch.rand(1)
    torch.manual_seed(11)
    one, two, other = (Torchvision(network=TINY, weights="random", image_size=64, seed=s).session("cpu") for s in (0, 0, 1))
    assert torch.rand(1) == before
    batch = [one.prepare(picture(64, 64))]
    np.testing.assert_array_equal(one.features(batch), two.features(batch))
    assert not np.allclose(one.features(batch), other.features(batch))


def test_recipes_hold_digests_and_no_paths(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, TINY)
    moved = tmp_path / "elsewhere.pth"
    moved.write_bytes(path.read_bytes())
    one, two = Torchvision(network=TINY, checkpoint=path), Torchvision(network=TINY, checkpoint=moved)
    assert digest(one.recipe()) == digest(two.recipe())
    assert str(tmp_path) not in str(one.recipe())
    assert digest(one.recipe()) != digest(Torchvision(network=TINY, checkpoint=path, image_size=96).recipe())
    assert digest(one.recipe()) != digest(Torchvision(network=TINY, weights="random").recipe())


def test_wrapped_and_safetensors_checkpoints_give_the_same_features(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    plain, model = checkpoint(tmp_path, TINY)
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    (tmp_path / "w").mkdir()
    wrapped, _ = checkpoint(tmp_path / "w", TINY, wrap=True)
    sessions = [Torchvision(network=TINY, checkpoint=p, image_size=64).session("cpu") for p in (plain, wrapped, tmp_path / "net.safetensors")]
    batch = [sessions[0].prepare(picture(64, 64))]
    for session in sessions[1:]:
        np.testing.assert_array_equal(session.features(batch), sessions[0].features(batch))


@pytest.mark.parametrize(("options", "kind", "message"), [
    ({"network": "quantized_resnet50"}, UsageError, r"'quantized_resnet50' is quantised(.|\n)*fix: give resnet50"),
    ({"network": "fcn_resnet50"}, UsageError, r"unknown network 'fcn_resnet50'"),
    ({"network": "resnet18", "weights": "ResNet50_Weights.IMAGENET1K_V1"}, UsageError, r"'ResNet50_Weights' is not the class of resnet18's weights, "),
    ({"network": "vgg16", "weights": "IMAGENET1K_FEATURES"}, UsageError, r"VGG16_Weights.IMAGENET1K_FEATURES has no values for the layers after 'features'"),
    ({"network": "resnet18", "weights": "random", "pool": "gem"}, UsageError, r"torchvision.pool: .*pool = 'gem' has nothing to pool"),
    ({"network": "vit_b_16", "weights": "IMAGENET1K_SWAG_E2E_V1", "image_size": 224}, UsageError, r"torchvision.image_size: .*not take images of 224 x 224"),
    ({"network": "googlenet", "weights": "random", "layer": "aux1"}, UsageError, r"'aux1' is not computed"),
    ({"network": "resnet19"}, UsageError, r"unknown network 'resnet19' \(did you mean 'resnet18'\?\)"),
    ({"network": TINY, "weights": "IMAGENET1K_V9"}, UsageError, r"has no weights 'IMAGENET1K_V9' \(did you mean 'IMAGENET1K_V1'\?\)"),
    ({"network": TINY, "weights": "random", "layer": "feature.4"}, UsageError, r"has no module 'feature.4' \(did you mean 'features.4'\?\)"),
    ({"network": TINY, "checkpoint": Path("nowhere.pth")}, ResourceError, "nowhere.pth: the weights file does not exist"),
])
def test_what_is_wrong_is_known_before_the_work(options: dict[str, object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Torchvision(**options).check()  # type: ignore[arg-type]


def test_damaged_and_foreign_weights_are_named(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, TINY)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(IntegrityError, match=r"cut\.pth: cannot be read as weights"):
        Torchvision(network=TINY, checkpoint=cut).check()
    code = tmp_path / "code.pth"
    torch.save({"state_dict": {"w": torch.zeros(1)}, "run": Pixels()}, code)
    with pytest.raises(DataError, match=r"code\.pth: is a pickle that holds more than tensors \(.*Pixels\): reading it would run code.*\n *fix: .*safetensors"):
        Torchvision(network=TINY, checkpoint=code).check()
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(IntegrityError, match="holds no state dict"):
        Torchvision(network=TINY, checkpoint=tmp_path / "list.pth").check()
    with pytest.raises(IntegrityError, match=r"does not fit resnet18: no tensor 'conv1\.weight'(.|\n)*fix: its tensors fit torchvision's squeezenet1_1"):
        Torchvision(network="resnet18", checkpoint=path).session("cpu")
    with pytest.raises(IntegrityError, match="does not fit squeezenet1_0"):
        Torchvision(network="squeezenet1_0", checkpoint=path).session("cpu")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[dict[str, bytes], str]]:
    """A server on loopback instead of torchvision's: name -> content; and the address of the weights."""
    files: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path[1:])
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"")

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    buffer = io.BytesIO()
    torch.save(get_model(TINY, weights=None).state_dict(), buffer)
    content = buffer.getvalue()
    name = f"{TINY}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    weights = SqueezeNet1_1_Weights.IMAGENET1K_V1.value
    old = weights.url
    object.__setattr__(weights, "url", f"http://127.0.0.1:{server.server_port}/{name}")
    files["name"], files[name] = name.encode(), content
    yield files, weights.url
    object.__setattr__(weights, "url", old)
    server.shutdown()
    server.server_close()
    thread.join()


def test_named_weights_are_downloaded_once_with_their_own_preprocessing(hub: tuple[dict[str, bytes], str], tmp_path: Path) -> None:
    files, _ = hub
    extractor = Torchvision(network=TINY)
    extractor.check()
    session = extractor.session("cpu")
    assert session.prepare(picture(300, 300)).shape == (224, 224, 3)
    assert extractor.recipe()["weights"] == files["name"].decode()
    files.clear()
    extractor.check()
    damaged = tmp_path / "hub" / "hub" / "checkpoints" / extractor.recipe()["weights"]
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1])  # truncated by one byte
    both = rf"its SHA-256 is {hashlib.sha256(content[:-1]).hexdigest()}, wanted one that begins with {hashlib.sha256(content).hexdigest()[:8]}"
    for work in (extractor.check, lambda: extractor.session("cpu")):
        with pytest.raises(IntegrityError, match=both):
            work()
    assert damaged.read_bytes() == content[:-1]
    damaged.write_bytes(content)
    assert Torchvision(network=TINY).session("cpu").features([session.prepare(picture(300, 300))]).shape == (1, 512)


def all_weights() -> list[tuple[str, str]]:
    """Every classification weight of the installed torchvision."""
    from torchvision import models

    return [(network, weights.name) for network in models.list_models(module=models) for weights in models.get_model_weights(network)]


@pytest.mark.parametrize(("network", "weights"), all_weights())
def test_every_named_weight_gets_its_own_preprocessing(network: str, weights: str) -> None:
    """The same pixels, to the last bit before normalisation, as torchvision's own transforms give."""
    enum = weights_enum(network, weights, "test")
    assert weights_enum(network, str(enum), "test") is enum
    rule = enum.transforms()
    ours = Torchvision(network=network, weights=weights)._preprocessing()
    for height, width in ((500, 375), (201, 640), (90, 61)):
        image = picture(height, width)
        pixels = rule(Image.fromarray(image))
        shown = torch.from_numpy(ours.cropped(image).copy()).permute(2, 0, 1)
        normal = (shown / 255 - torch.tensor(ours.mean).view(3, 1, 1)) / torch.tensor(ours.std).view(3, 1, 1)
        torch.testing.assert_close(normal, pixels, rtol=1e-6, atol=1e-6 / min(ours.std))
        raw = transforms.CenterCrop(rule.crop_size)(transforms.Resize(rule.resize_size, rule.interpolation)(Image.fromarray(image)))
        np.testing.assert_array_equal(ours.cropped(image), np.asarray(raw))


@pytest.mark.parametrize("network", sorted({network for network, _ in all_weights()} - {"regnet_y_128gf"}))  # whose size alone makes it slow
def test_every_network_takes_its_weights_images(network: str) -> None:
    """By shapes alone: the network is built, its images have the right size, and its last layer is given rows or maps."""
    own = weights_enum(network, "imagenet", "test").transforms().crop_size[0]
    width = check_layer(lambda: build_network(network, image_size=own), own, layer="", pool="average", where="test")
    with torch.device("cpu" if network.startswith("regnet") else "meta"):
        head = head_of(build_network(network))[1]
    assert width == (head.in_features if isinstance(head, torch.nn.Linear) else head.in_channels)


def test_recipes_state_preprocessing_with_antialiasing() -> None:
    recipe = Torchvision(network="vit_l_16", weights="IMAGENET1K_SWAG_E2E_V1").recipe()
    assert recipe["weights"] == "vit_l_16_swag-4f3808c9.pth"
    assert (recipe["preprocessing"]["crop"], recipe["preprocessing"]["interpolation"], recipe["preprocessing"]["antialias"]) == (512, "bicubic", True)


def test_weights_that_cannot_be_reached_say_where_to_put_them(hub: tuple[dict[str, bytes], str], tmp_path: Path) -> None:
    files, url = hub
    name = url.rsplit("/", 1)[1]
    del files[name]
    with pytest.raises(ResourceError, match=rf"{name}: the weights are not on this machine.*(\n.*)*put it at .*{name}"):
        Torchvision(network=TINY).check()


def test_a_damaged_download_is_refused(hub: tuple[dict[str, bytes], str]) -> None:
    files, url = hub
    files[url.rsplit("/", 1)[1]] = b"x" * 2000
    with pytest.raises(IntegrityError, match="the weights file is damaged: invalid hash value"):
        Torchvision(network=TINY).session("cpu")


def test_pixels_are_resized_and_scaled() -> None:
    session = Pixels(size=2, colour=False).session("cpu")
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    image[:2] = 255
    np.testing.assert_allclose(session.features([session.prepare(image)]), [[1, 1, 0, 0]], atol=0.2)
    assert Pixels(size=3).session("cpu").features([Pixels(size=3).session("cpu").prepare(picture(20, 20))]).shape == (1, 27)


class _Broken(Extractor):
    name = "broken"

    def __init__(self, rows: object):
        self.rows = rows

    def session(self, device: str) -> _Broken:
        return self

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return image

    def features(self, batch: object) -> np.ndarray:
        return np.asarray(self.rows)


@pytest.mark.parametrize(("rows", "kind", "message"), [
    ([[np.nan], [1.0], [np.inf]], IntegrityError, r"2 rows of features are NaN or infinite \(demo: a/000\.png, a/002\.png\)"),
    ([[1.0]], UsageError, "returned 1 rows for 3 images"),
])
def test_an_extractor_that_breaks_its_word_is_caught(tmp_path: Path, rows: object, kind: type[Exception], message: str) -> None:
    dataset = simkit.load(write_images(tmp_path / "demo", {"a": 3}))
    with pytest.raises(kind, match=message):
        list(extract(_Broken(rows), dataset, range(3), batch_size=4, workers=1))
    with pytest.raises(UsageError, match="batch size -1, workers 1: out of range"):
        list(extract(_Broken(rows), dataset, range(3), batch_size=-1, workers=1))


def test_embedding_goes_on_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards that were written stay; only the rest is embedded by the second call."""
    from simkit.pipeline import stages

    folder = write_images(tmp_path / "demo", {"a": 6, "b": 6})
    monkeypatch.setattr(stages, "ROWS_PER_SHARD", 4)
    calls: list[int] = []
    real = Pixels.session

    def session(self: Pixels, device: str) -> object:
        inner = real(self, device)

        class Counting:
            prepare = staticmethod(inner.prepare)

            @staticmethod
            def features(batch: list[np.ndarray]) -> np.ndarray:
                calls.append(len(batch))
                if sum(calls) > 8:
                    raise KeyboardInterrupt
                return inner.features(batch)

        return Counting()

    monkeypatch.setattr(Pixels, "session", session)
    with pytest.raises(KeyboardInterrupt):
        simkit.embed(folder, extractor="pixels", batch_size=4)
    monkeypatch.setattr(Pixels, "session", real)
    calls.clear()
    from simkit.pipeline.commands import embedded, extractor_of

    effort = stages.Effort(batch_size=4, workers=1)
    done, = embedded([simkit.load(folder)], extractor_of("pixels"), device="cpu", effort=effort, store=None, strict=False, progress=None)
    assert (done.computed, done.stored) == (4, 8)
    np.testing.assert_array_equal(done.embedding.features, simkit.embed(folder, extractor="pixels", store=tmp_path / "fresh").features)


@pytest.mark.shared
def test_real_weights_tell_real_textures_apart(shared: Path) -> None:
    """Frozen ImageNet features of textures: a 1-nearest-neighbour rule must do far better than with an untrained network."""
    dataset = simkit.load(shared / "data" / "dtd10")
    chosen = dataset.take(np.arange(0, len(dataset), 6))
    weights = shared / "data" / "weights" / "squeezenet1_1_ncnn_tv.pth"
    accuracy = []
    for options in ({"checkpoint": str(weights)}, {"weights": "random"}):
        e = simkit.embed(chosen, extractor={"torchvision": {"network": TINY, "image_size": 128, **options}})
        x = e.features / np.linalg.norm(e.features, axis=1, keepdims=True)
        similarity = x @ x.T
        np.fill_diagonal(similarity, -1)
        accuracy.append(float((e.labels[similarity.argmax(1)] == e.labels).mean()))
    assert accuracy[0] > accuracy[1] + 0.15


@pytest.mark.parametrize("layer", ["bn1", "layer1.0.bn2", "layer2.0.bn1", "layer1.0.conv1"])
def test_a_layer_before_an_operation_in_place_gives_its_own_values(layer: str) -> None:
    session = Torchvision(network="resnet18", weights="random", image_size=64, layer=layer, pool="average").session("cpu")
    model = get_model("resnet18", weights=None)
    model.load_state_dict(Torchvision(network="resnet18", weights="random", image_size=64)._build().state_dict())
    caught: list[torch.Tensor] = []
    model.eval().get_submodule(layer).register_forward_hook(lambda module, inputs, output: caught.append(output.clone()))
    image = session.prepare(picture(64, 64))
    with torch.inference_mode():
        model(transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(torch.from_numpy(image[None].copy()).permute(0, 3, 1, 2) / 255))
    wanted = caught[0].mean((2, 3)).numpy()
    assert wanted.min() < 0
    np.testing.assert_allclose(session.features([image]), wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
