"""Local weights for a named architecture, and untrained networks: what fits, what does not, and what is said of it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import get_model

from simkit.errors import DataError, IntegrityError, ResourceError, SimkitError, UsageError
from simkit.extractors.checkpoint import Checkpoint
from simkit.extractors.random import Random
from simkit.extractors.torchvision import Torchvision
from simkit.networks import fitting_network, head_of
from simkit.recipe import digest, rng_for
from simkit.registry import EXTRACTORS, Spec

TINY = "squeezenet1_1"


def picture(height: int = 70, width: int = 90, seed: int = 0) -> np.ndarray:
    return rng_for("picture", seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def network(name: str, classes: int = 3) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return get_model(name, weights=None, num_classes=classes).eval()


def saved(path: Path, state: dict[str, Any]) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def rows(extractor: Any, images: list[np.ndarray]) -> np.ndarray:
    session = extractor.session("cpu")
    out: np.ndarray = session.features([session.prepare(image) for image in images])
    return out


def test_they_are_built_by_name(tmp_path: Path) -> None:
    built = EXTRACTORS.build(Spec("checkpoint", {"network": TINY, "path": str(tmp_path / "w.pth"), "mean": [0.1, 0.2, 0.3]}))
    assert built == Checkpoint(network=TINY, path=tmp_path / "w.pth", mean=(0.1, 0.2, 0.3))
    assert EXTRACTORS.build(Spec("random", {"network": "resnet18", "seed": 3})) == Random(network="resnet18", seed=3)
    with pytest.raises(UsageError, match=r"option 'network' is required"):
        EXTRACTORS.build(Spec("checkpoint", {"path": "w.pth"}))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_features_are_the_input_of_the_last_layer_of_the_file(tmp_path: Path, suffix: str) -> None:
    model = network("resnet18")
    path = saved(tmp_path / f"net.{suffix}", model.state_dict())
    mean, std = (0.2, 0.3, 0.4), (0.5, 0.6, 0.7)
    extractor = Checkpoint(network="resnet18", path=path, image_size=64, resize=64, mean=mean, std=std, interpolation="bicubic")
    extractor.check()
    session = extractor.session("cpu")
    batch = [session.prepare(picture(seed=i)) for i in range(2)]
    normal = (torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2) / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    head = head_of(model)[1]
    with torch.inference_mode():
        np.testing.assert_allclose(session.features(batch) @ head.weight.numpy().T + head.bias.numpy(), model(normal), atol=1e-4)  # type: ignore[operator]


def test_a_file_may_wrap_and_prefix_its_tensors_or_have_no_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = dict(network("resnet18").state_dict())
    body = {key: value for key, value in state.items() if not key.startswith("fc.")}
    other = {"projector.weight": torch.zeros(2, 2)}
    files: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "plain": (state, {}), "headless": (body, {}), "parallel": ({"state_dict": {f"module.{key}": value for key, value in state.items()}}, {}),
        "found": ({f"backbone.{key}": value for key, value in body.items()} | other, {}),
        "stated": ({"epoch": 3, "teacher": {f"encoder.{key}": value for key, value in body.items()} | other}, {"key": "teacher", "prefix": "encoder."}),
        "old": ({key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}, {}),
    }
    found = {}
    options: Any
    for name, (content, options) in files.items():
        with caplog.at_level(logging.INFO):
            found[name] = rows(Checkpoint(network="resnet18", path=saved(tmp_path / f"{name}.pth", content), image_size=64, **options), [picture()])
        np.testing.assert_array_equal(found[name], found["plain"])
    assert "found.pth: prefix 'backbone.' taken off, 1 tensors without it left aside" in caplog.text
    assert "stated.pth: prefix 'encoder.' taken off, 1 tensors without it left aside" in caplog.text


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    state = {key: value.half() if value.is_floating_point() else value for key, value in network("resnet18").state_dict().items()}
    session = Checkpoint(network="resnet18", path=saved(tmp_path / "half.safetensors", state), image_size=64).session("cpu")
    out = session.features([session.prepare(picture())])
    assert out.dtype == np.float32
    assert session.model.conv1.weight.dtype == torch.float32  # type: ignore[attr-defined]
    full = rows(Checkpoint(network="resnet18", path=saved(tmp_path / "full.pth", dict(network("resnet18").state_dict())), image_size=64), [picture()])
    np.testing.assert_allclose(out, full, rtol=0.05, atol=0.02)


def test_layer_and_pooling(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pth", dict(network(TINY).state_dict()))
    average, largest, gem = (rows(Checkpoint(network=TINY, path=path, image_size=64, layer="features.4", pool=pool), [picture()])  # type: ignore[arg-type]
                             for pool in ("average", "max", "gem"))
    assert average.shape == (1, 128)
    assert (average <= gem + 1e-5).all()
    assert (gem <= largest + 1e-5).all()
    assert (gem > average + 1e-4).any()


def test_a_network_of_timm_by_name(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = timm.create_model("test_vit", num_classes=7).eval()
    path = saved(tmp_path / "net.pth", dict(model.state_dict()))
    extractor = Checkpoint(network="timm:test_vit", path=path, image_size=160, resize=160)
    extractor.check()
    session = extractor.session("cpu")
    batch = [session.prepare(picture(170, 180))]
    with torch.inference_mode():
        normal = (torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2) / 255 - session.mean) / session.std  # type: ignore[attr-defined]
        tokens = model.forward_features(normal)
        wanted = model.forward_head(tokens, pre_logits=True)
    np.testing.assert_allclose(session.features(batch), wanted, atol=1e-4)
    cls = Checkpoint(network="timm:test_vit", path=path, image_size=160, resize=160, layer="norm", pool="cls")
    np.testing.assert_allclose(rows(cls, [picture(170, 180)]), tokens[:, 0], atol=1e-4)


def test_recipes_hold_digests_and_no_paths(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pth", dict(network(TINY).state_dict()))
    moved = tmp_path / "moved.pth"
    moved.write_bytes(path.read_bytes())
    one = Checkpoint(network=TINY, path=path)
    assert digest(one.recipe()) == digest(Checkpoint(network=TINY, path=moved).recipe())
    assert str(tmp_path) not in str(one.recipe())
    others: list[dict[str, Any]] = [{"image_size": 96}, {"mean": (0.5, 0.5, 0.5)}, {"layer": "features.4"}, {"pool": "gem"}, {"interpolation": "bicubic"},
                                    {"prefix": "x."}]
    assert len({digest(one.recipe()), *(digest(Checkpoint(network=TINY, path=path, **other).recipe()) for other in others)}) == 7
    content = bytearray(path.read_bytes())
    content[-30] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))  # a digest is remembered by size and time of the file
    assert digest(one.recipe()) != digest(Checkpoint(network=TINY, path=moved).recipe())


@pytest.mark.parametrize(("options", "message"), [
    ({"network": "resnet19"}, r"checkpoint.network: unknown network 'resnet19' \(did you mean 'resnet18'\?\)"),
    ({"network": "timm:resnet51"}, r"unknown model 'resnet51' \(did you mean 'resnet5"),
    ({"layer": "feature.4"}, r"checkpoint.layer: .*no module 'feature.4' \(did you mean 'features.4'\?\)"),
    ({"layer": "features.4", "pool": "cls"}, r"checkpoint.pool: cls needs a layer of tokens"),
    ({"mean": (0.5,)}, r"checkpoint.mean: has 1 values, wanted 3"),
    ({"mean": (123.0, 117.0, 104.0)}, r"checkpoint.mean: \[123.0, 117.0, 104.0\] is not of values in 0..1"),
    ({"image_size": 224, "resize": 200}, r"checkpoint.resize: 200 is less than image_size = 224"),
])
def test_what_is_wrong_is_known_before_the_work(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = saved(tmp_path / "net.pth", dict(network(TINY).state_dict()))
    with pytest.raises(UsageError, match=message):
        Checkpoint(**({"network": TINY, "path": path} | options)).check()


def failure(kind: type[SimkitError], path: Path, **options: Any) -> SimkitError:
    with pytest.raises(kind) as caught:
        Checkpoint(**({"network": "resnet18", "path": path, "image_size": 64} | options)).check()
    return caught.value


def test_weights_of_another_architecture_are_named_with_the_one_that_fits(tmp_path: Path) -> None:
    error = failure(IntegrityError, saved(tmp_path / "net.pth", dict(network("resnet34").state_dict())))
    assert "net.pth: does not fit resnet18: unknown tensor 'layer1.2.conv1.weight'" in str(error)
    assert "more" in error.problems[0].message
    assert error.problems[0].fix == "its tensors fit torchvision's resnet34"
    assert (error.exit_status, error.problems[0].code) == (6, "SK402")
    state = dict(network("resnet18").state_dict())
    shape = failure(IntegrityError, saved(tmp_path / "shape.pth", state | {"conv1.weight": torch.zeros(64, 1, 7, 7)}))
    assert "'conv1.weight' has shape (64, 1, 7, 7), wanted (64, 3, 7, 7)" in str(shape)
    missing = failure(IntegrityError, saved(tmp_path / "missing.pth", {key: value for key, value in state.items() if key != "bn1.weight"}))
    assert "no tensor 'bn1.weight'" in str(missing)
    nan = failure(IntegrityError, saved(tmp_path / "nan.pth", state | {"bn1.weight": torch.full((64,), torch.nan)}))
    assert "1 tensors hold NaN or infinite values: bn1.weight" in str(nan)
    wrong = failure(IntegrityError, saved(tmp_path / "prefix.pth", state), prefix="backbone.")
    assert "no tensor 'conv1.weight'" in str(wrong)
    key = failure(DataError, saved(tmp_path / "key.pth", {"teacher": state}), key="techer")
    assert "has no state dict 'techer' (did you mean 'teacher'?)" in str(key)


@pytest.mark.parametrize("name", ["vgg11", "densenet121", "mobilenet_v2", "squeezenet1_0", "vit_b_32", "regnet_x_400mf", "googlenet"])
def test_the_network_that_fits_is_found(name: str) -> None:
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model = get_model(name, weights=None, **({"init_weights": True} if name == "googlenet" else {}))
    assert fitting_network(model.state_dict()) == name
    assert fitting_network({"features.0.weight": torch.zeros(1)}) == ""


class Ran:
    """What a hostile pickle does when it is loaded."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


def test_a_checkpoint_that_needs_pickle_is_refused_with_the_way_out(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = saved(tmp_path / "code.pth", {"state_dict": {"w": torch.zeros(1)}, "run": Ran(marker)})
    error = failure(DataError, path)
    assert "code.pth: is a pickle that holds more than tensors" in str(error)
    assert "reading it would run code, which simkit never does" in str(error)
    assert "safetensors.torch.save_file(model.state_dict()" in error.problems[0].fix
    assert error.exit_status == 3
    assert not marker.exists()
    whole = tmp_path / "whole.pth"
    torch.save(torch.nn.Linear(2, 2), whole)  # a pickled module, as many tutorials save it
    assert "holds more than tensors (torch.nn.modules.linear.Linear)" in str(failure(DataError, whole))


def test_damaged_files_are_integrity_errors_and_missing_ones_are_not(tmp_path: Path) -> None:
    state = dict(network(TINY).state_dict())
    for suffix in ("pth", "safetensors"):
        path = saved(tmp_path / f"net.{suffix}", state)
        path.write_bytes(path.read_bytes()[:-1000])
        error = failure(IntegrityError, path, network=TINY)
        assert f"net.{suffix}: cannot be read as weights" in str(error)
        assert path.exists()
    empty = tmp_path / "empty.pth"
    empty.write_bytes(b"")
    assert "cannot be read as weights" in str(failure(IntegrityError, empty))
    assert "none.pth: the weights file does not exist" in str(failure(ResourceError, tmp_path / "none.pth"))


def test_untrained_networks_are_seeded_and_those_of_torchvision(tmp_path: Path) -> None:
    one, same, other = (rows(Random(network=TINY, image_size=64, seed=seed), [picture()]) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    theirs = Torchvision(network=TINY, weights="random", image_size=64).session("cpu")
    session = Random(network=TINY, image_size=64).session("cpu")
    batch = [session.prepare(picture())]
    np.testing.assert_array_equal(session.features(batch), theirs.features(batch))


def test_untrained_networks_of_timm_and_of_any_image_size() -> None:
    timm = pytest.importorskip("timm")
    extractor = Random(network="timm:test_vit", image_size=96, layer="blocks.1", pool="cls")
    extractor.check()
    assert rows(extractor, [picture()]).shape == (1, 64)
    assert extractor.recipe()["timm"] == timm.__version__
    assert extractor.recipe()["torch"] == torch.__version__.split("+")[0]
    vit = Random(network="vit_b_32", image_size=64)
    vit.check()
    assert digest(vit.recipe()) != digest(Random(network="vit_b_32", image_size=64, seed=1).recipe())
    with pytest.raises(UsageError, match=r"random.image_size: .*not made for images of 50 x 50 px: Input shape indivisible"):
        Random(network="vit_b_32", image_size=50).check()


@pytest.mark.shared
def test_real_weights_load_by_name_and_give_the_same_features_as_through_torchvision(shared: Path) -> None:
    path = shared / "data" / "weights" / "squeezenet1_1_ncnn_tv.pth"
    one = rows(Checkpoint(network=TINY, path=path, image_size=64, resize=64), [picture()])
    np.testing.assert_array_equal(one, rows(Torchvision(network=TINY, checkpoint=path, image_size=64), [picture()]))
