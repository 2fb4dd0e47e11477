"""Networks from elsewhere: TorchScript, ONNX, and functions of the user's."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from images import write_images
from torch import nn

import simkit
from simkit.errors import DataError, IntegrityError, ResourceError, UsageError
from simkit.extractors.base import NetworkSessionLike
from simkit.extractors.callable import Callable
from simkit.extractors.onnx import Onnx
from simkit.extractors.torchscript import Torchscript
from simkit.recipe import digest, rng_for
from simkit.registry import EXTRACTORS, Spec

SIZE = 32


def picture(height: int = 40, width: int = 50, seed: int = 0) -> np.ndarray:
    return rng_for("picture", seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Small(nn.Module):
    """A convolution; gives its map, or more."""

    def __init__(self, outputs: str = "map"):
        super().__init__()
        self.outputs = outputs
        self.layer = nn.Conv2d(3, 5, 3, stride=2)
        with torch.no_grad():
            for number, values in enumerate(self.parameters()):
                values.copy_(torch.from_numpy(rng_for("small", number).normal(size=values.shape)))

    def forward(self, images: torch.Tensor) -> Any:
        maps = self.layer(images).relu()
        if self.outputs == "tuple":
            return maps.mean((2, 3)), maps
        if self.outputs == "one":
            return maps.mean((0, 2, 3))[None]
        if self.outputs == "scalars":
            return maps.mean((1, 2, 3))
        return maps


class Dictionary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.small = Small()

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"maps": self.small(images)}


def normal(batch: list[np.ndarray], mean: Any = (0.485, 0.456, 0.406), std: Any = (0.229, 0.224, 0.225)) -> torch.Tensor:
    pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2) / 255
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


# ---------------------------------------------------------------- TorchScript


def script(path: Path, model: nn.Module, *, frozen: bool = False) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.jit.trace(model.eval(), torch.zeros(2, 3, SIZE, SIZE), strict=False)
        torch.jit.save(torch.jit.freeze(made) if frozen else made, path)
    return path


@pytest.mark.parametrize("frozen", [False, True])
def test_torchscript_gives_the_pooled_output_of_the_network(tmp_path: Path, frozen: bool) -> None:
    extractor = Torchscript(path=script(tmp_path / "net.pt", Small(), frozen=frozen), image_size=SIZE, pool="max", mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5))
    extractor.check()
    session = extractor.session("cpu")
    batch = [session.prepare(picture(seed=i)) for i in range(3)]
    assert batch[0].shape == (SIZE, SIZE, 3)
    with torch.inference_mode():
        wanted = Small()(normal(batch, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))).amax((2, 3))
    np.testing.assert_allclose(session.features(batch), wanted, rtol=1e-4, atol=1e-4)


def test_torchscript_chooses_among_outputs(tmp_path: Path) -> None:
    path = script(tmp_path / "two.pt", Small("tuple"))
    with pytest.raises(UsageError, match=r"torchscript.output: the network gives 2 outputs(.|\n)*give output = 0 to 1"):
        Torchscript(path=path, image_size=SIZE).check()
    with pytest.raises(UsageError, match=r"'2' is not the position of one"):
        Torchscript(path=path, image_size=SIZE, output="2").check()
    batch = [picture(SIZE, SIZE)]
    first, second = (Torchscript(path=path, image_size=SIZE, output=output).session("cpu").features(batch) for output in ("0", "1"))
    np.testing.assert_allclose(first, second, rtol=1e-5)
    named = script(tmp_path / "named.pt", Dictionary())
    with pytest.raises(UsageError, match=r"the network gives maps, not 'map'"):
        Torchscript(path=named, image_size=SIZE, output="map").check()
    np.testing.assert_allclose(Torchscript(path=named, image_size=SIZE, output="maps").session("cpu").features(batch), second, rtol=1e-5)
    with pytest.raises(UsageError, match=r"gives one output, there is no '1'"):
        Torchscript(path=script(tmp_path / "one.pt", Small()), image_size=SIZE, output="1").check()


def test_torchscript_that_does_not_give_rows_is_known_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"torchscript: the value of the layer has shape \(1,\)"):
        Torchscript(path=script(tmp_path / "scalars.pt", Small("scalars")), image_size=SIZE).check()
    session = Torchscript(path=script(tmp_path / "one.pt", Small("one")), image_size=SIZE).session("cpu")
    with pytest.raises(UsageError, match=r"one.pt: gives 1 rows for 2 images"):
        session.features([picture(SIZE, SIZE)] * 2)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 4))
    with pytest.raises(UsageError, match=r"flat.pt: does not take images \(n, 3, 64, 64\): .*shapes"):
        Torchscript(path=script(tmp_path / "flat.pt", flat), image_size=64).check()
    with pytest.raises(UsageError, match=r"torchscript.resize: 16 is less than image_size = 32"):
        Torchscript(path=tmp_path / "flat.pt", image_size=SIZE, resize=16).check()


def test_files_that_are_no_torchscript(tmp_path: Path) -> None:
    path = script(tmp_path / "net.pt", Small())
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(IntegrityError, match=r"SK402.*net.pt: cannot be read as TorchScript"):
        Torchscript(path=path).check()
    state = tmp_path / "state.pt"
    torch.save(Small().state_dict(), state)
    junk = tmp_path / "junk.pt"
    junk.write_bytes(b"not an archive")
    for file in (state, junk):
        with pytest.raises(DataError, match=rf"SK201.*{file.name}: is no TorchScript archive(.|\n)*extractor checkpoint"):
            Torchscript(path=file).check()
    with pytest.raises(ResourceError, match=r"none.pt: the weights file does not exist"):
        Torchscript(path=tmp_path / "none.pt").recipe()


# ---------------------------------------------------------------- ONNX


def export(path: Path, model: nn.Module, *, batch: int = 2, dynamic: bool = True, size: int = SIZE, channels: int = 3, last: bool = False) -> Path:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    shape = (batch, size, size, channels) if last else (batch, channels, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (torch.zeros(shape),), path, dynamo=False, input_names=["images"], output_names=["out"],
                          dynamic_axes={"images": {0: "n"}, "out": {0: "n"}} if dynamic else None)
    return path


class Last(nn.Module):
    """Takes (n, h, w, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.small = Small()

    def forward(self, images: torch.Tensor) -> Any:
        return self.small(images.permute(0, 3, 1, 2))


@pytest.mark.parametrize(("kind", "dynamic"), [("first", True), ("first", False), ("last", True)])
def test_onnx_gives_the_pooled_output_of_the_network(tmp_path: Path, kind: str, dynamic: bool) -> None:
    """Also where the file fixes the batch size (2, for 5 images), and for channels in the last axis."""
    path = export(tmp_path / "net.onnx", Last() if kind == "last" else Small(), dynamic=dynamic, last=kind == "last")
    extractor = Onnx(path=path, pool="gem", mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5))
    extractor.check()
    session = extractor.session("cpu")
    assert isinstance(session, NetworkSessionLike)
    batch = [session.prepare(picture(seed=i)) for i in range(5)]
    with torch.inference_mode():
        wanted = Small()(normal(batch, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))).clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)
    out = session.features(batch)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(session.collect(session.launch(np.stack(batch))), out)


def graph(path: Path, kind: str, outputs: int = 1, shape: Any = ("n", 3, SIZE, SIZE)) -> Path:
    """A network that averages its input, of a given type."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    number = getattr(onnx.TensorProto, kind)
    nodes = [onnx.helper.make_node("Cast", ["images"], ["numbers"], to=onnx.TensorProto.FLOAT)]
    nodes += [onnx.helper.make_node("GlobalAveragePool", ["numbers"], [f"out{i}"]) for i in range(outputs)]
    made = onnx.helper.make_graph(nodes, "g", [onnx.helper.make_tensor_value_info("images", number, shape)],
                                  [onnx.helper.make_tensor_value_info(f"out{i}", onnx.TensorProto.FLOAT, None) for i in range(outputs)])
    onnx.save(onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize("kind", ["UINT8", "FLOAT16", "DOUBLE"])
def test_onnx_gets_images_of_the_type_that_it_wants(tmp_path: Path, kind: str) -> None:
    session = Onnx(path=graph(tmp_path / "mean.onnx", kind)).session("cpu")
    batch = [session.prepare(picture(SIZE, SIZE))]
    raw = np.stack(batch).mean((1, 2))
    wanted = raw if kind == "UINT8" else (raw / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(session.features(batch), wanted, rtol=2e-2 if kind == "FLOAT16" else 1e-5, atol=2e-3)


def test_what_an_onnx_file_does_not_fit_is_known_before_the_work(tmp_path: Path) -> None:
    path = graph(tmp_path / "two.onnx", "FLOAT", outputs=2)
    with pytest.raises(UsageError, match=r"onnx.output: two.onnx has 2 outputs(.|\n)*out0, out1"):
        Onnx(path=path).check()
    with pytest.raises(UsageError, match=r"two.onnx has no output 'out3' \(did you mean 'out"):
        Onnx(path=path, output="out3").check()
    Onnx(path=path, output="out1").check()
    with pytest.raises(UsageError, match=r"onnx.image_size: two.onnx wants images of 32 px, not 64"):
        Onnx(path=path, output="out1", image_size=64).check()
    with pytest.raises(UsageError, match=r"onnx.pool: cls needs a layer of tokens"):
        Onnx(path=path, output="out1", pool="cls").check()
    with pytest.raises(UsageError, match=r"grey.onnx: wants images of shape .*; simkit gives three channels"):
        Onnx(path=export(tmp_path / "grey.onnx", nn.Conv2d(1, 2, 3), channels=1)).check()
    with pytest.raises(UsageError, match=r"oblong.onnx: wants images of 32 x 48 px; simkit makes square ones"):
        Onnx(path=graph(tmp_path / "oblong.onnx", "FLOAT", shape=("n", 3, 32, 48))).check()
    with pytest.raises(UsageError, match=r"whole.onnx: wants images: tensor\(int64\)"):
        Onnx(path=graph(tmp_path / "whole.onnx", "INT64")).check()
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 4))
    assert Onnx(path=export(tmp_path / "flat.onnx", flat)).session("cpu").features([picture(SIZE, SIZE)] * 3).shape == (3, 4)


def test_onnx_files_that_cannot_be_read_and_devices_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = pytest.importorskip("onnxruntime")
    path = export(tmp_path / "net.onnx", Small())
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"SK201.*cut.onnx: cannot be read as an ONNX network"):
        Onnx(path=cut).check()
    with pytest.raises(ResourceError, match=r"none.onnx: the weights file does not exist"):
        Onnx(path=tmp_path / "none.onnx").check()
    monkeypatch.setattr(runtime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for device in ("cuda", "cuda:1", "mps"):
        with pytest.raises(ResourceError, match=rf"SK106.*this build of onnxruntime cannot compute on {device}"):
            Onnx(path=path).session(device)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ResourceError, match=r"SK303\] onnx: the package onnxruntime cannot be imported(.|\n)*pip install 'simkit\[onnx\]'"):
        Onnx(path=path).check()


def test_weights_beside_an_onnx_file_are_part_of_its_recipe(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = export(tmp_path / "net.onnx", Small())
    whole = Onnx(path=path).recipe()["weights"]
    assert whole == [hashlib.sha256(path.read_bytes()).hexdigest()]
    beside = tmp_path / "beside" / "net.onnx"
    beside.parent.mkdir()
    onnx.save_model(onnx.load(path), beside, save_as_external_data=True, location="net.weights", size_threshold=0)
    one = Onnx(path=beside).recipe()
    assert one["weights"] == [hashlib.sha256(file.read_bytes()).hexdigest() for file in (beside, beside.parent / "net.weights")]
    np.testing.assert_allclose(Onnx(path=beside).session("cpu").features([picture(SIZE, SIZE)]), Onnx(path=path).session("cpu").features([picture(SIZE, SIZE)]))
    weights = bytearray((beside.parent / "net.weights").read_bytes())
    weights[0] ^= 1
    (beside.parent / "net.weights").write_bytes(weights + b"\0")
    assert digest(Onnx(path=beside).recipe()) != digest(one)


@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
def test_recipes_hold_digests_and_no_paths(tmp_path: Path, kind: str) -> None:
    path = script(tmp_path / "net.x", Small()) if kind == "torchscript" else export(tmp_path / "net.x", Small())
    (tmp_path / "moved.x").write_bytes(path.read_bytes())
    one, moved, larger = (EXTRACTORS.build(Spec(kind, options)) for options in (
        {"path": str(path)}, {"path": str(tmp_path / "moved.x")}, {"path": str(path), "image_size": 64}))
    assert digest(one.recipe()) == digest(moved.recipe())
    assert str(tmp_path) not in str(one.recipe())
    assert digest(one.recipe()) != digest(larger.recipe())


# ---------------------------------------------------------------- functions

FUNCTIONS = '''
import numpy as np

def means(images):
    assert images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3
    return images.mean((1, 2))

def flat(images):
    return images.mean((1, 2, 3))

def short(images):
    return images[:-1].mean((1, 2))

def words(images):
    return np.array([["a"]] * len(images))

def nan(images):
    return images.mean((1, 2)) * np.nan

def white(images):
    return np.where(images == 255, np.nan, images).mean((1, 2))

def broken(images):
    raise ValueError("no such thing")

number = 3
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module beside the user, called own_features."""
    path = tmp_path / "own_features.py"
    path.write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield path
    sys.modules.pop("own_features", None)


def test_a_function_gets_images_of_one_size(module: Path, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "demo", {"a": 3, "b": 2})
    embedding = simkit.embed(folder, extractor={"callable": {"function": "own_features:means", "size": 8}})
    assert embedding.features.shape == (5, 3)
    session = Callable(function="own_features:means", size=8, fit="squash").session("cpu")
    batch = [session.prepare(picture(8, 8, seed=i)) for i in range(2)]
    np.testing.assert_allclose(session.features(batch), np.stack(batch).mean((1, 2)), rtol=1e-6)
    assert session.features(batch).dtype == np.float32


def test_a_changed_function_is_another_recipe(module: Path) -> None:
    one = Callable(function="own_features:means")
    first = digest(one.recipe())
    assert one.recipe()["source"] == hashlib.sha256(module.read_bytes()).hexdigest()
    assert str(module.parent) not in str(one.recipe())
    assert digest(Callable(function="own_features:means", revision="2").recipe()) != first
    module.write_text(FUNCTIONS + "\n# changed\n")
    assert digest(one.recipe()) != first
    with pytest.raises(UsageError, match=r"SK104.*callable.revision: .*log has no source file"):
        Callable(function="math:log").recipe()
    assert Callable(function="math:log", revision="1").recipe()["source"]


@pytest.mark.parametrize(("function", "message"), [
    ("own_features", r"callable.function: 'own_features' is not module:function"),
    ("no_such_module:means", r"SK110.*the module 'no_such_module' could not be imported: ModuleNotFoundError"),
    ("own_features:mean", r"own_features has no function 'mean' \(did you mean 'means'\?\)"),
    ("own_features:number", r"'number' of own_features is not a function"),
    ("own_features:flat", r"the function returned float64 of shape \(2,\) for 2 images(.|\n)*return numbers of shape \(2, d\)"),
    ("own_features:short", r"the function returned float64 of shape \(1, 3\) for 2 images"),
    ("own_features:words", r"the function returned <U1 of shape \(2, 1\) for 2 images"),
    ("own_features:nan", r"the function returned NaN, infinite values or values beyond float32 for a black image"),
    ("own_features:broken", r"the function failed on 2 images: ValueError: no such thing"),
])
def test_functions_that_do_not_fit_are_known_before_the_work(module: Path, function: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Callable(function=function, size=8).check()


def test_images_for_which_a_function_returns_nan_are_named(module: Path, tmp_path: Path) -> None:
    from PIL import Image

    folder = write_images(tmp_path / "demo", {"a": 3})
    Image.new("RGB", (20, 20), (255, 255, 255)).save(folder / "a" / "white.png")
    with pytest.raises(IntegrityError, match=r"SK210.*NaN or infinite \(demo: a/white\.png\)"):
        simkit.embed(folder, extractor={"callable": {"function": "own_features:white", "size": 8}})
