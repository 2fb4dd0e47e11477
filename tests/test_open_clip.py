"""Image towers of open_clip: preprocessing, weights and recipe, on a tiny network made here."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from simkit.errors import IntegrityError, ResourceError, UsageError
from simkit.extractors import open_clip as module
from simkit.extractors.open_clip import OpenClip

open_clip = pytest.importorskip("open_clip")

NETWORK: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}
SIGLIP = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An architecture that open_clip knows during the test."""
    from open_clip import factory

    (tmp_path / "tiny.json").write_text(json.dumps(NETWORK), encoding="utf-8")
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    open_clip.add_model_config(tmp_path / "tiny.json")
    return "tiny"


@pytest.fixture
def whole(tiny: str) -> Any:
    """Image and text tower, as open_clip itself makes them."""
    torch.manual_seed(3)
    return open_clip.create_model(tiny).eval()


@pytest.fixture
def checkpoint(whole: Any, tmp_path: Path) -> Path:
    torch.save(whole.state_dict(), tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


@pytest.fixture
def folder(whole: Any, tmp_path: Path) -> Path:
    from safetensors.torch import save_file

    path = tmp_path / "model"
    path.mkdir()
    save_file(whole.state_dict(), path / "open_clip_model.safetensors")
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": NETWORK, "preprocess_cfg": SIGLIP}), encoding="utf-8")
    return path


def photograph(height: int = 90, width: int = 70, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def features(extractor: OpenClip, *images: np.ndarray) -> np.ndarray:
    session = extractor.session("cpu")
    return session.features([session.prepare(image) for image in images])


def tags(monkeypatch: pytest.MonkeyPatch, known: dict[str, dict[str, Any]]) -> None:
    """The weights that open_clip knows of the tiny architecture."""
    from open_clip import pretrained

    monkeypatch.setitem(pretrained._PRETRAINED, "tiny", known)


def test_features_are_those_of_open_clip(tiny: str, whole: Any, checkpoint: Path) -> None:
    images = [photograph(90, 70), photograph(50, 120, seed=1)]
    transform = open_clip.image_transform(64, is_train=False)
    with torch.inference_mode():
        wanted = whole.encode_image(torch.stack([transform(Image.fromarray(image)) for image in images]))
    extractor = OpenClip(tiny, checkpoint=checkpoint)
    extractor.check()
    np.testing.assert_allclose(features(extractor, *images), wanted.numpy(), atol=1e-5)
    lengths = np.linalg.norm(features(replace(extractor, normalise=True), *images), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)
    assert np.abs(np.linalg.norm(wanted.numpy(), axis=1) - 1).max() > 0.01


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(64, 64), (90, 71), (71, 90), (300, 65), (20, 33), (64, 65), (67, 64)])
def test_preprocessing_is_that_of_open_clip(folder: Path, mode: str, interpolation: str, shape: tuple[int, int]) -> None:
    rule = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": interpolation, "resize_mode": mode}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": NETWORK, "preprocess_cfg": rule}), encoding="utf-8")
    preprocessing = OpenClip(f"local-dir:{folder}")._preprocessing()
    image = photograph(*shape)
    transform = open_clip.image_transform(64, is_train=False, **rule)  # type: ignore[arg-type]
    got = (preprocessing.cropped(image) / 255.0 - preprocessing.mean) / preprocessing.std
    np.testing.assert_allclose(got, transform(Image.fromarray(image)).permute(1, 2, 0).numpy(), atol=1e-6)


def test_grey_images_are_repeated(folder: Path) -> None:
    grey = photograph()[:, :, :1]
    extractor = OpenClip(f"local-dir:{folder}")
    np.testing.assert_array_equal(features(extractor, grey), features(extractor, np.repeat(grey, 3, axis=2)))


def test_preprocessing_of_tags() -> None:
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    named = [("ViT-B-32", "openai"), ("ViT-B-32", "laion2b_s34b_b79k"), ("ViT-B-16-SigLIP", "webli"), ("RN50", "openai"), ("MobileCLIP-S1", "datacompdr")]
    for model, tag in named:
        got = OpenClip(model, tag)._preprocessing()
        wanted = merge_preprocess_dict(PreprocessCfg(), open_clip.get_pretrained_cfg(model, tag))
        assert got.mean == tuple(wanted["mean"])
        assert got.std == tuple(wanted["std"])
        assert got.interpolation == wanted["interpolation"]
        assert got.keep_aspect == (wanted["resize_mode"] == "shortest")
        assert got.crop == open_clip.get_model_config(model)["vision_cfg"]["image_size"]
    assert OpenClip("ViT-B-16-SigLIP", "webli")._preprocessing() != OpenClip("ViT-B-16", "openai")._preprocessing()


def test_preprocessing_stands_in_the_recipe_and_is_never_open_clips_default_by_accident(
    tiny: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """open_clip issue 1068: a local file of SigLIP weights is used with OpenAI's normalisation, without a word."""
    tags(monkeypatch, {"webli": {"url": "https://example.org/tiny.pt", **SIGLIP}})
    extractor = OpenClip(tiny, checkpoint=checkpoint)
    wanted = {"resize": 64, "crop": 64, "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "keep_aspect": False}
    assert extractor.recipe()["preprocessing"] == wanted
    tags(monkeypatch, {"webli": {"url": "https://example.org/tiny.pt", **SIGLIP}, "openai": {"url": "https://example.org/other.pt"}})
    with pytest.raises(UsageError, match=r"the weights of tiny want different preprocessing(.|\n)*give pretrained = the tag whose preprocessing"):
        OpenClip(tiny, checkpoint=checkpoint).check()
    named = [OpenClip(tiny, tag, checkpoint=checkpoint).recipe() for tag in ("webli", "openai")]
    assert named[0]["preprocessing"]["mean"] == (0.5,) * 3
    assert named[1]["preprocessing"]["mean"] == open_clip.OPENAI_DATASET_MEAN
    assert named[0]["weights"] == named[1]["weights"]


def test_folder(tiny: str, folder: Path, checkpoint: Path) -> None:
    from simkit.recipe import digest_file

    extractor = OpenClip(f"local-dir:{folder}")
    extractor.check()
    recipe = extractor.recipe()
    assert recipe["weights"] == digest_file(folder / "open_clip_model.safetensors")
    assert recipe["preprocessing"]["mean"] == (0.5, 0.5, 0.5)
    assert str(folder) not in json.dumps(recipe)
    assert recipe != OpenClip(tiny, checkpoint=checkpoint).recipe()
    with torch.inference_mode():
        loaded, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        wanted = loaded.eval().encode_image(transform(Image.fromarray(photograph())).unsqueeze(0))
    np.testing.assert_allclose(features(extractor, photograph()), wanted.numpy(), atol=1e-5)


def test_weights_by_tag_come_from_the_cache_of_open_clip(tiny: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tags(monkeypatch, {"mine": {"url": "https://example.org/tiny.pt", **SIGLIP}})
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(module, "host_error", lambda address: OSError("no network"))
    with pytest.raises(ResourceError, match=r"SK302\] tiny, mine: the weights are not on this machine.*no network.*\nfix: download https://example\.org/tiny\.pt"):
        OpenClip(tiny, "mine").check()
    (tmp_path / ".cache" / "clip").mkdir(parents=True)
    checkpoint.rename(tmp_path / ".cache" / "clip" / "tiny.pt")
    OpenClip(tiny, "mine").check()
    assert features(OpenClip(tiny, "mine"), photograph()).shape == (1, 24)


def test_the_hub_out_of_reach_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for extractor in (OpenClip("hf-hub:someone/no-such-clip-model"), OpenClip("ViT-B-32", "laion400m_e32")):
        with pytest.raises(ResourceError, match=r"SK302\].*is not on this machine and cannot be downloaded \(HF_HUB_OFFLINE is set\)\nfix: .*hf download"):
            extractor.check()


def test_models_of_the_hub_come_from_its_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    local = OpenClip(f"local-dir:{folder}")
    wanted, recipe = features(local, photograph()), local.recipe()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--someone--clip"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40, encoding="utf-8")
    folder.rename(repository / "snapshots" / ("a" * 40))
    extractor = OpenClip("hf-hub:someone/clip")
    extractor.check()
    np.testing.assert_array_equal(features(extractor, photograph()), wanted)
    assert extractor.recipe() == recipe | {"model": "hf-hub:someone/clip"}


@pytest.mark.parametrize(("quick", "trained"), [(False, True), (True, True), (False, False), (True, False)])
def test_activation_is_that_of_the_weights(tiny: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, quick: bool, trained: bool) -> None:
    from open_clip import factory

    tags(monkeypatch, {"mine": {"url": "https://example.org/tiny.pt", "quick_gelu": trained}})
    monkeypatch.setitem(factory._MODEL_CONFIGS, "tiny", {**NETWORK, "quick_gelu": quick})
    kinds = {type(m).__name__ for m in OpenClip(tiny, "mine", checkpoint=checkpoint)._build().modules()}
    assert ("QuickGELU" in kinds) == (quick or trained)


def test_quick_network_with_other_weights_is_refused(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from open_clip import factory, pretrained

    monkeypatch.setitem(factory._MODEL_CONFIGS, "tiny-quickgelu", {**NETWORK, "quick_gelu": True})
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-quickgelu", {"mine": {"url": "https://example.org/tiny.pt"}})
    with pytest.raises(UsageError, match=r"tiny-quickgelu computes QuickGELU, the weights mine were trained with GELU\nfix: give model = tiny"):
        OpenClip("tiny-quickgelu", "mine").check()


def test_untrained(tiny: str) -> None:
    first, again, other = (features(OpenClip(tiny, "random", seed=seed), photograph()) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    recipe = OpenClip(tiny, "random").recipe()
    assert "weights" not in recipe
    assert recipe["torch"]
    assert recipe["seed"] == 0
    OpenClip(tiny, "random").check()


def test_precision_reaches_the_session(tiny: str) -> None:
    assert OpenClip(tiny, "random", precision="bfloat16").session("cpu").precision == "bfloat16"  # type: ignore[attr-defined]
    assert OpenClip(tiny, "random", precision="bfloat16").recipe() != OpenClip(tiny, "random").recipe()


def test_image_tower_alone_and_training_checkpoints_are_read(tiny: str, whole: Any, checkpoint: Path, tmp_path: Path) -> None:
    wanted = features(OpenClip(tiny, checkpoint=checkpoint), photograph())
    torch.save(whole.visual.state_dict(), tmp_path / "tower.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in whole.state_dict().items()}}, tmp_path / "training.pt")
    for name in ("tower.pt", "training.pt"):
        np.testing.assert_array_equal(features(OpenClip(tiny, checkpoint=tmp_path / name), photograph()), wanted)


def test_wrong_weights(tiny: str, whole: Any, tmp_path: Path) -> None:
    state = whole.state_dict()
    broken = {key: value for key, value in state.items() if key != "visual.proj"} | {"visual.ln_post.bias": torch.zeros(7), "visual.more": torch.zeros(1)}
    torch.save(broken, tmp_path / "broken.pt")
    tensors = r"no tensor 'visual\.proj'; unknown tensor 'visual\.more'; 'visual\.ln_post\.bias' has shape \(7,\), wanted \(32,\)"
    wanted = r"SK402\].*broken\.pt: does not fit tiny: " + tensors
    with pytest.raises(IntegrityError, match=wanted):
        OpenClip(tiny, checkpoint=tmp_path / "broken.pt").check()
    (tmp_path / "cut.pt").write_bytes((tmp_path / "broken.pt").read_bytes()[:3000])
    with pytest.raises(IntegrityError, match=r"cut\.pt: cannot be read as weights"):
        OpenClip(tiny, checkpoint=tmp_path / "cut.pt").check()
    with pytest.raises(ResourceError, match=r"none\.pt: the weights file does not exist"):
        OpenClip(tiny, checkpoint=tmp_path / "none.pt").check()


def test_wrong_names(tiny: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown model 'ViT-B-33' \(did you mean 'ViT-B-32'\?\)"):
        OpenClip("ViT-B-33").check()
    with pytest.raises(UsageError, match=r"ViT-B-32 has no weights 'openia' \(did you mean 'openai'\?\)\nfix: known: openai, laion400m_e31"):
        OpenClip("ViT-B-32", "openia").check()
    with pytest.raises(UsageError, match=r"SK104\].*tiny has no weights of OpenAI, so name others\nfix: known: none"):
        OpenClip(tiny).check()
    with pytest.raises(UsageError, match=r"'openai' is a tag, and local-dir:.* has weights of its own"):
        OpenClip(f"local-dir:{folder}", "openai").check()


def test_the_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ResourceError, match=r"SK303\] open_clip: the package open_clip_torch cannot be imported .*\nfix: pip install 'simkit\[open-clip\]'"):
        OpenClip().check()


def test_wrong_folder(folder: Path, tmp_path: Path) -> None:
    config = folder / "open_clip_config.json"
    extractor = f"local-dir:{folder}"
    bare = json.dumps({"model_cfg": NETWORK})
    for content, wanted in (("{", r"cannot be read as JSON"), ("{}", r"has no model_cfg"), (bare, r"has no preprocess_cfg: nothing says")):
        config.write_text(content, encoding="utf-8")
        with pytest.raises(IntegrityError, match=wanted):
            OpenClip(extractor).check()
    longest = {"model_cfg": NETWORK, "preprocess_cfg": {**SIGLIP, "resize_mode": "longest"}}
    config.write_text(json.dumps(longest), encoding="utf-8")
    with pytest.raises(UsageError, match=r"resized by 'longest': simkit makes square images"):
        OpenClip(extractor).check()
    strange = {"model_cfg": {**NETWORK, "vision_cfg": {"colour": 1}}, "preprocess_cfg": SIGLIP}
    config.write_text(json.dumps(strange), encoding="utf-8")
    with pytest.raises(UsageError, match=r"open_clip builds no image tower of that configuration: .*colour"):
        OpenClip(extractor).check()
    with pytest.raises(ResourceError, match=r"holds no open_clip_config\.json\nfix: copy the files"):
        OpenClip(f"local-dir:{tmp_path / 'none'}").check()
