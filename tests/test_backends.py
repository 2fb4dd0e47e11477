"""Folding, engines and precision: faster, with the same numbers, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models import get_model

from simkit.errors import UsageError
from simkit.extractors import backends
from simkit.extractors.backends import chosen, fold_batch_norms
from simkit.extractors.network_session import NetworkSession, Preprocessing


class Whole(NetworkSession):
    """All of a network's output as features."""

    def rows(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.model(images)
        return out


def made(network: str = "resnet18", *, timm: bool = False) -> torch.nn.Module:
    """A network whose batch norms hold statistics as after training: not zero and one."""
    torch.manual_seed(0)
    model: torch.nn.Module = pytest.importorskip("timm").create_model(network, num_classes=20) if timm else get_model(network, weights=None, num_classes=20)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()


def session(network: str = "resnet18", size: int = 64) -> Whole:
    return Whole(made(network), Preprocessing(size, size), "cpu")


def images(n: int = 5, size: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


FOLDED = ("resnet18", "mobilenet_v2", "efficientnet_b0", "densenet121", "vgg11_bn", "timm resnet18", "timm efficientnet_b0", "timm mobilenetv3_small_100")


@pytest.mark.parametrize("network", [*FOLDED, "squeezenet1_1", "vit_b_32", "convnext_tiny"])
def test_folding_changes_only_the_last_digits(network: str) -> None:
    size = 224 if network.startswith("vit") else 64
    model = made(network.removeprefix("timm "), timm=network.startswith("timm"))
    pixels = torch.from_numpy(images(2, size)).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        before = model(pixels)
    assert (fold_batch_norms(model) > 0) == (network in FOLDED)
    left = sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    assert left == 0 or network == "densenet121"  # there most norms stand before their convolution
    with torch.inference_mode():
        np.testing.assert_allclose(model(pixels), before, rtol=1e-4, atol=2e-5 * float(before.abs().max()))


@pytest.mark.parametrize(("layer", "norm", "kept"), [
    ("layer1.0.conv1", "layer1.0.bn1", True), ("layer1.0.bn1", "layer1.0.bn1", False), ("layer1", "layer1.0.bn1", False), ("conv1", "bn1", True),
])
def test_a_layer_whose_output_is_wanted_gives_what_it_gave(layer: str, norm: str, kept: bool) -> None:
    model = made()
    caught: list[torch.Tensor] = []
    pixels = torch.from_numpy(images()).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        hook = model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: caught.append(output.clone()))
        model(pixels)
        hook.remove()
        one = Whole(model, Preprocessing(64, 64), "cpu", keep=layer)
        one.model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: caught.append(output.clone()))
        one.model(pixels)
    torch.testing.assert_close(caught[0], caught[1], rtol=1e-4, atol=1e-5)
    assert isinstance(one.model.get_submodule(norm), torch.nn.BatchNorm2d) == kept


def test_a_network_that_cannot_be_traced_is_left_alone() -> None:
    class Depends(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.convolution(x)) if x.sum() > 0 else x

    assert fold_batch_norms(Depends().eval()) == 0


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_engines_give_the_same_rows_for_any_number_of_images(backend: str) -> None:
    pytest.importorskip(backend)
    one = session("mobilenet_v3_small")
    wanted = one.features(list(images(11)))
    said = one.use(backend, images(4))
    assert said.startswith(f"{backend} (agrees with torch to ")
    assert one.preferred == 4
    np.testing.assert_allclose(one.collect(one.launch(images(11))), wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_an_engine_that_computes_other_numbers_is_refused(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = session("squeezenet1_1")
    monkeypatch.setattr(backends, f"_{backend}", lambda session, example: lambda batch: session.features(list(batch)) * np.float32(1.01))
    with pytest.raises(UsageError, match=rf"{backend} computes other features than torch \(by 0\.01 of the largest\)"):
        chosen(one, backend, images(2))


def test_auto_takes_the_fastest_that_agrees_and_says_the_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    one = session("squeezenet1_1")
    right = one.features(list(images(2)))
    monkeypatch.setattr(backends, "PACKAGES", {"openvino": (), "onnxruntime": ()})
    monkeypatch.setattr(backends, "_openvino", lambda session, example: lambda batch: right * np.float32(2))  # fastest, and wrong
    monkeypatch.setattr(backends, "_onnxruntime", lambda session, example: lambda batch: right)
    engine, said = chosen(one, "auto", images(2))
    assert engine is not None
    assert said.startswith("onnxruntime (images/s on a trial batch: torch ")
    monkeypatch.setattr(backends, "PACKAGES", {})
    assert chosen(one, "auto", images(2)) == (None, "torch")


def test_an_engine_is_not_taken_for_half_precision_or_another_device() -> None:
    one = session("squeezenet1_1")
    one.precision = "bfloat16"
    with pytest.raises(UsageError, match="computes on the CPU in float32; the device is cpu, the precision bfloat16"):
        chosen(one, "openvino", images(2))
    assert chosen(one, "auto", images(2)) == (None, "torch")


def test_bfloat16_agrees_with_float32() -> None:
    one = session("resnet18")
    wanted = one.features(list(images()))
    one.precision = "bfloat16"
    rows = one.features(list(images()))
    cosine = (rows * wanted).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(wanted, axis=1)
    assert rows.dtype == np.float32
    assert not np.array_equal(rows, wanted)
    assert cosine.min() >= 0.999


def test_rows_that_overflow_in_half_precision_are_computed_again(caplog: pytest.LogCaptureFixture) -> None:
    class Large(NetworkSession):
        def rows(self, pixels: torch.Tensor) -> torch.Tensor:
            rows: torch.Tensor = torch.nn.functional.linear(pixels.flatten(1)[:, :4], torch.full((2, 4), 1e4))
            return rows

    one = Large(torch.nn.Identity(), Preprocessing(8, 8, (0.0, 0.0, 0.0), (0.1, 0.1, 0.1)), "cpu")
    batch = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    batch[1] = 255
    wanted = one.features(list(batch))
    one.precision = "float16"
    with caplog.at_level("INFO", logger="simkit"):
        rows = one.features(list(batch))
    np.testing.assert_allclose(rows, wanted)
    assert wanted[1, 0] > 65504
    assert one.repeated == 1
    assert "overflow in float16, computed again in float32: 1 of 3 images" in caplog.text
