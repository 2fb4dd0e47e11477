"""Vision networks of transformers, on tiny ones made here: preprocessing, pooling, weights, recipe."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from simkit.errors import IntegrityError, ResourceError, UsageError
from simkit.extractors import huggingface as module
from simkit.extractors.huggingface import Huggingface, hub_file

transformers = pytest.importorskip("transformers")
MODEL, WEIGHTS = "config.json", "model.safetensors"
SHAPES = [(32, 32), (90, 71), (71, 90), (300, 40), (20, 33), (37, 36), (64, 65)]


def config_of(kind: str) -> Any:
    common = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    vision = common | {"intermediate_size": 32}
    if kind == "clip":
        text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
        text |= {"bos_token_id": 1, "eos_token_id": 2}
        return transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    return {
        "vit": lambda: transformers.ViTConfig(**vision), "dinov2": lambda: transformers.Dinov2Config(**common),
        "clip-vision": lambda: transformers.CLIPVisionConfig(**vision), "siglip": lambda: transformers.SiglipVisionConfig(**vision),
        "convnext": lambda: transformers.ConvNextConfig(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1]),
    }[kind]()


def processor_of(kind: str) -> dict[str, Any]:
    square, cut = {"height": 32, "width": 32}, {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
    mean = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
    return {
        "vit": {"image_processor_type": "ViTImageProcessor", "size": square},
        "dinov2": {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 37}, "resample": 3, **cut, **mean},
        "clip-vision": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, **cut},
        "clip": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, **cut},
        "siglip": {"image_processor_type": "SiglipImageProcessor", "size": square, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        "convnext": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 64}, "crop_pct": 0.875},
    }[kind]


Maker = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Saves a tiny network with random weights; returns its folder."""

    def made(kind: str = "dinov2", processor: dict[str, Any] | None = None, **saving: Any) -> Path:
        torch.manual_seed(0)
        folder = tmp_path / kind
        with module._quiet():
            transformers.AutoModel.from_config(config_of(kind)).save_pretrained(folder, **saving)
        (folder / "preprocessor_config.json").write_text(json.dumps(processor or processor_of(kind)), encoding="utf-8")
        return folder

    return made


def photograph(height: int = 90, width: int = 71, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def features(extractor: Huggingface, *images: np.ndarray) -> np.ndarray:
    session = extractor.session("cpu")
    return session.features([session.prepare(image) for image in images])


def outputs(folder: Path, *images: np.ndarray) -> Any:
    """What transformers itself computes."""
    with module._quiet():
        model = transformers.AutoModel.from_pretrained(folder).eval()
    model = getattr(model, "vision_model", model)
    pixels = module._processor(folder)(images=[Image.fromarray(image) for image in images], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        return model(pixel_values=pixels, output_hidden_states=True)


@pytest.mark.parametrize("kind", ["vit", "dinov2", "clip-vision", "clip", "siglip", "convnext"])
def test_features_are_those_of_transformers(make: Maker, kind: str) -> None:
    folder, images = make(kind), (photograph(), photograph(40, 200, seed=1))
    wanted = outputs(folder, *images)
    Huggingface(str(folder)).check()
    np.testing.assert_allclose(features(Huggingface(str(folder)), *images), wanted.pooler_output.numpy(), atol=1e-5)
    places = (2, 3) if kind == "convnext" else (1,)
    average = Huggingface(str(folder), pool="average")
    average.check()
    np.testing.assert_allclose(features(average, *images), wanted.last_hidden_state.mean(places).numpy(), atol=1e-5)
    largest = Huggingface(str(folder), pool="max", layer=1)
    np.testing.assert_allclose(features(largest, *images), wanted.hidden_states[1].amax(places).numpy(), atol=1e-5)
    powers = Huggingface(str(folder), pool="gem", layer=-1)
    gem = wanted.hidden_states[-1].clamp(min=1e-6).pow(3).mean(places).pow(1 / 3)
    np.testing.assert_allclose(features(powers, *images), gem.numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", ["vit", "dinov2", "clip-vision"])
def test_class_token(make: Maker, kind: str) -> None:
    folder = make(kind)
    extractor = Huggingface(str(folder), pool="cls")
    extractor.check()
    np.testing.assert_allclose(features(extractor, photograph()), outputs(folder, photograph()).last_hidden_state[:, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["vit", "dinov2", "clip", "siglip", "convnext"])
def test_preprocessing_is_that_of_transformers(make: Maker, kind: str, shape: tuple[int, int]) -> None:
    folder = make(kind)
    preprocessing = Huggingface(str(folder))._preprocessing(folder)
    image = photograph(*shape)
    wanted = np.asarray(module._processor(folder)(images=Image.fromarray(image), return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
    got = (preprocessing.cropped(image) / 255.0 - preprocessing.mean) / preprocessing.std
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert pickle.loads(pickle.dumps(preprocessing)) == preprocessing


@pytest.mark.parametrize("change", [
    {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}, {"do_normalize": False}, {"do_rescale": False, "do_normalize": False},
    {"size": {"shortest_edge": 384}, "crop_pct": 1.0},
])
def test_scale_and_normalisation(make: Maker, change: dict[str, Any]) -> None:
    folder = make("convnext", processor_of("convnext") | change)
    preprocessing = Huggingface(str(folder))._preprocessing(folder)
    image = photograph(101, 80)
    wanted = np.asarray(module._processor(folder)(images=Image.fromarray(image), return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
    got = (preprocessing.cropped(image) / 255.0 - preprocessing.mean) / preprocessing.std
    np.testing.assert_allclose(got, wanted, atol=1e-4)


@pytest.mark.parametrize(("change", "wanted"), [
    ({"do_resize": False}, r"images are not resized"),
    ({"resample": 1}, r"filter number 1 is neither bilinear nor bicubic"),
    ({"crop_size": {"height": 32, "width": 24}}, r"do not make a square"),
    ({"do_center_crop": False}, r"do not make a square"),
    ({"size": {"shortest_edge": 30}}, r"images of 30 px are padded to 32 px"),
    ({"size": {"height": 32, "width": 40}}, r"do not make a square"),
])
def test_other_preprocessing_is_refused(make: Maker, change: dict[str, Any], wanted: str) -> None:
    folder = make("dinov2", processor_of("dinov2") | change)
    with pytest.raises(UsageError, match=rf"SK108\].*preprocessing cannot be followed exactly: .*{wanted}"):
        Huggingface(str(folder)).check()


def test_a_processor_that_does_something_else_is_refused(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("vit")
    processor = module._processor(folder)
    monkeypatch.setattr(type(processor), "rescale", lambda self, image, scale, **more: image * scale * 0.9)
    with pytest.raises(UsageError, match=r"preprocessing cannot be followed exactly: ViTImageProcessor\w* makes another image of 36 x 69 pixels"):
        Huggingface(str(folder)).check()


def test_grey_images_are_repeated(make: Maker) -> None:
    grey, extractor = photograph()[:, :, :1], Huggingface(str(make()))
    np.testing.assert_array_equal(features(extractor, grey), features(extractor, np.repeat(grey, 3, axis=2)))


def test_recipe(make: Maker) -> None:
    from simkit.recipe import digest_file

    folder = make()
    base = Huggingface(str(folder)).recipe()
    assert base["weights"] == digest_file(folder / WEIGHTS)
    assert base["preprocessing"]["resize"] == 37
    assert base["model"] == "dinov2"
    assert str(folder) not in json.dumps(base)
    for other in (Huggingface(str(folder), pool="cls"), Huggingface(str(folder), pool="cls", layer=1), Huggingface(str(folder), precision="float16")):
        assert other.recipe() != base
    moved = folder.rename(folder.with_name("moved"))
    assert Huggingface(str(moved)).recipe() == base
    config = json.loads((moved / MODEL).read_text())
    (moved / MODEL).write_text(json.dumps(config | {"transformers_version": "1.2.3"}))
    assert Huggingface(str(moved)).recipe() == base
    (moved / MODEL).write_text(json.dumps(config | {"layer_norm_eps": 0.1}))
    assert Huggingface(str(moved)).recipe() != base


def test_precision_reaches_the_session(make: Maker) -> None:
    assert Huggingface(str(make()), precision="bfloat16").session("cpu").precision == "bfloat16"  # type: ignore[attr-defined]


def test_weights_in_several_files(make: Maker) -> None:
    one = make("dinov2")
    single = features(Huggingface(str(one)), photograph())
    whole = one.rename(one.with_name("single"))
    folder = make("dinov2", max_shard_size="10KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    np.testing.assert_array_equal(features(Huggingface(str(folder)), photograph()), single)
    assert Huggingface(str(folder)).recipe()["weights"] != Huggingface(str(whole)).recipe()["weights"]
    sorted(folder.glob("*.safetensors"))[0].unlink()
    with pytest.raises(ResourceError, match=r"model-00001-of-\d+\.safetensors of model\.safetensors\.index\.json is not there"):
        Huggingface(str(folder)).recipe()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(IntegrityError, match=r"is not an index of safetensors files in the same folder"):
        Huggingface(str(folder)).recipe()


def test_pickled_weights_are_refused(make: Maker) -> None:
    folder = make()
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    for work in (Huggingface(str(folder)).recipe, Huggingface(str(folder)).check, lambda: Huggingface(str(folder)).session("cpu")):
        with pytest.raises(UsageError, match=r"has no model\.safetensors: a \.bin file is a pickle.*\nfix: give a revision with safetensors.*save_pretrained"):
            work()


def test_code_from_the_hub_is_not_run(make: Maker, tmp_path: Path) -> None:
    folder = make()
    (folder / "modeling_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    own = {"model_type": "own", "auto_map": {"AutoConfig": "modeling_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}}
    (folder / MODEL).write_text(json.dumps(own), encoding="utf-8")
    with pytest.raises(UsageError, match=r"transformers knows no network of that config\.json \(or it needs code from the hub, which is not run\)"):
        Huggingface(str(folder)).check()
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit(make: Maker) -> None:
    from safetensors.torch import load_file, save_file

    folder = make("vit")
    state = load_file(folder / WEIGHTS)
    without = {key: value for key, value in state.items() if "pooler" not in key}
    save_file(without, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r'the weights hold no pooling layer \(pooler\.dense\.bias\)\nfix: give pool = "cls"'):
        Huggingface(str(folder)).session("cpu")
    assert features(Huggingface(str(folder), pool="cls"), photograph()).shape == (1, 16)  # which plays no part in other features
    fewer = {key: value for key, value in without.items() if key != "layernorm.weight"}
    save_file(fewer, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=r"SK402\].*the weights do not fit: no tensor 'layernorm\.weight'"):
        Huggingface(str(folder), pool="cls").session("cpu")
    save_file(state | {"layernorm.weight": torch.zeros(5)}, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=r"SK402\].*the weights"):
        Huggingface(str(folder)).session("cpu")
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:500])
    with pytest.raises(IntegrityError, match=r"SK402\].*the weights cannot be loaded"):
        Huggingface(str(folder)).session("cpu")


def test_wrong_options(make: Maker) -> None:
    siglip, convnext, dinov2 = (str(make(kind)) for kind in ("siglip", "convnext", "dinov2"))
    with pytest.raises(UsageError, match=r"SiglipVision\w* has no class token"):
        Huggingface(siglip, pool="cls").check()
    with pytest.raises(UsageError, match=r"cls needs a layer of tokens"):
        Huggingface(convnext, pool="cls").check()
    with pytest.raises(UsageError, match=r"Dinov2Model has 3 hidden states, not one of index 3\nfix: give 0 to 2"):
        Huggingface(dinov2, pool="cls", layer=3).check()
    with pytest.raises(UsageError, match=r"the network's own pooling takes the last layer only"):
        Huggingface(dinov2, layer=1).check()


def test_image_size_of_another_network_is_refused(make: Maker) -> None:
    folder = make("vit", processor_of("vit") | {"size": {"height": 48, "width": 48}})
    with pytest.raises(UsageError, match=r"does not take images of 48 x 48 px: .*\nfix: do config\.json and preprocessor_config\.json belong together"):
        Huggingface(str(folder)).check()


def test_a_network_of_text_is_refused(make: Maker) -> None:
    folder = make("vit")
    text = transformers.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50)
    text.save_pretrained(folder)
    with pytest.raises(UsageError, match=r"BertModel takes no images alone"):
        Huggingface(str(folder)).check()


def test_the_package_is_not_installed(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ResourceError, match=r"SK303\] transformers: cannot be imported .*\nfix: pip install 'simkit\[huggingface\]'"):
        Huggingface(str(folder)).check()


def test_missing_files(make: Maker) -> None:
    folder = make()
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ResourceError, match=r"has no preprocessor_config\.json\nfix: copy preprocessor_config\.json of the model there"):
        Huggingface(str(folder)).check()
    with pytest.raises(ResourceError, match=r"the folder does not exist"):
        Huggingface("./no/such/folder").check()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_the_hub_out_of_reach_is_said_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    asked: list[str] = []
    monkeypatch.setattr(module, "host_error", lambda address: asked.append(address) or OSError("no network"))
    wanted = r"SK302\] someone/model: config\.json is not on this machine.* \(no network\)\nfix: .*hf download someone/model --revision v1"
    with pytest.raises(ResourceError, match=wanted):
        Huggingface("someone/model", revision="v1").check()
    assert len(asked) == 1
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ResourceError, match=r"\(HF_HUB_OFFLINE is set\)"):
        Huggingface("someone/model").check()
    assert len(asked) == 1
    with pytest.raises(UsageError, match=r"SK101\] some one/model: is no name on the Hugging Face hub"):
        Huggingface("some one/model").check()


def test_models_of_the_hub_come_from_its_cache(make: Maker, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "host_error", lambda address: OSError("no network"))
    repository = cache / "models--someone--model"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    folder = make()
    wanted, recipe = features(Huggingface(str(folder)), photograph()), Huggingface(str(folder)).recipe()
    folder.rename(repository / "snapshots" / ("a" * 40))
    extractor = Huggingface("someone/model")
    extractor.check()
    np.testing.assert_array_equal(features(extractor, photograph()), wanted)
    assert extractor.recipe() == recipe | {"model": "someone/model"}


def test_a_repository_without_safetensors(make: Maker, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import HTTPError

    missing = HTTPError("", 404, "Not Found", None, None)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "host_error", lambda address: missing)
    with pytest.raises(ResourceError, match=r"someone/model: holds no a\.json or b\.json \(or there is no such repository\)"):
        hub_file("someone/model", ("a.json", "b.json"))
    repository = cache / "models--someone--model"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    folder = make()
    (folder / WEIGHTS).unlink()
    folder.rename(repository / "snapshots" / ("a" * 40))
    with pytest.raises(UsageError, match=r"someone/model: has no model\.safetensors: a \.bin file is a pickle"):
        Huggingface("someone/model").check()
