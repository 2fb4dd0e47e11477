"""Networks with their classification layer: features and outputs from one forward pass, heads of any size, named weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import get_model

from simkit.errors import IntegrityError, UsageError
from simkit.extractors.checkpoint import Checkpoint
from simkit.extractors.classifier import load_head
from simkit.extractors.pixels import Pixels
from simkit.extractors.random import Random
from simkit.extractors.timm import Timm
from simkit.extractors.torchvision import Torchvision
from simkit.networks import head_of
from simkit.recipe import rng_for


def picture(height: int = 70, width: int = 90, seed: int = 0) -> np.ndarray:
    return rng_for("picture", seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


PICTURES = [picture(seed=seed) for seed in range(3)]


def network(name: str, classes: int) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return get_model(name, weights=None, num_classes=classes).eval()


def seen(extractor: Any) -> tuple[np.ndarray, Any]:
    classifier = extractor.classifier()
    session = classifier.session("cpu")
    return session.features([session.prepare(image) for image in PICTURES]), classifier


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2", "resnet18", "shufflenet_v2_x0_5", "efficientnet_b0", "densenet121"])
def test_rows_are_the_features_and_then_the_outputs_of_the_network_itself(tmp_path: Path, name: str) -> None:
    model = network(name, 5)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    extractor = Checkpoint(network=name, path=tmp_path / "w.pth", image_size=64)
    rows, classifier = seen(extractor)
    assert classifier.outputs == 5
    session = extractor.session("cpu")
    features = session.features([session.prepare(image) for image in PICTURES])
    np.testing.assert_allclose(rows[:, :-5], features, rtol=0, atol=1e-5)
    batch = torch.from_numpy(np.stack([classifier.preprocessing(image) for image in PICTURES])).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (classifier.preprocessing.mean, classifier.preprocessing.std))
    with torch.inference_mode():
        np.testing.assert_allclose(rows[:, -5:], model((batch - mean) / std).numpy(), rtol=1e-4, atol=1e-4)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in classifier.model.modules()) == any(
        isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()), "the classifier itself is not folded"


def test_a_file_without_a_head_gives_features_only(tmp_path: Path) -> None:
    model = network("resnet18", 5)
    torch.save({key: value for key, value in model.state_dict().items() if not key.startswith("fc.")}, tmp_path / "w.pth")
    rows, classifier = seen(Checkpoint(network="resnet18", path=tmp_path / "w.pth", image_size=64))
    assert (classifier.outputs, rows.shape) == (0, (3, 512))


def test_prefixes_before_the_names_hold_for_the_head_too(tmp_path: Path) -> None:
    torch.save({f"backbone.{key}": value for key, value in network("resnet18", 7).state_dict().items()}, tmp_path / "w.pth")
    rows, classifier = seen(Checkpoint(network="resnet18", path=tmp_path / "w.pth", image_size=64))
    assert (classifier.outputs, rows.shape) == (7, (3, 519))


def test_a_head_of_other_features_is_refused() -> None:
    model = network("resnet18", 5)
    state = model.state_dict() | {"fc.weight": torch.zeros(5, 100)}
    with pytest.raises(IntegrityError, match=r"w.pth: its classification layer fc.weight has shape \(5, 100\), the network gives it 512 features"):
        load_head(model, state, "fc", "w.pth")
    with pytest.raises(IntegrityError, match=r"classification layer fc.weight holds NaN"):
        load_head(model, state | {"fc.weight": torch.full((5, 512), torch.nan)}, "fc", "w.pth")


def test_a_layer_by_name_gives_its_features_and_the_outputs() -> None:
    extractor = Random(network="resnet18", layer="layer3", image_size=64)
    rows, classifier = seen(extractor)
    assert (classifier.outputs, rows.shape) == (1000, (3, 1256))
    session = extractor.session("cpu")
    np.testing.assert_allclose(rows[:, :256], session.features([session.prepare(image) for image in PICTURES]), atol=1e-5)
    with pytest.raises(UsageError, match=r"has no module 'layer9'.*layer"):
        Random(network="resnet18", layer="layer9", image_size=64).classifier().session("cpu")


def test_networks_of_timm_give_their_head(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18", pretrained=False, num_classes=4).eval()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    rows, classifier = seen(Timm(model="resnet18", checkpoint=tmp_path / "w.pth", image_size=64))
    assert (classifier.head, classifier.outputs, rows.shape) == ("fc", 4, (3, 516))
    rows, classifier = seen(Checkpoint(network="timm:resnet18", path=tmp_path / "w.pth", image_size=64))
    assert (classifier.outputs, rows.shape) == (4, (3, 516))
    with pytest.raises(UsageError, match=r"pool = 'catavgmax' takes the classification layer away"):
        Timm(model="resnet18", checkpoint=tmp_path / "w.pth", pool="catavgmax").classifier()


def test_the_caller_s_network_is_left_alone_and_untrained_ones_have_untrained_heads() -> None:
    classifier = Torchvision(network="squeezenet1_1", weights="random", image_size=64).classifier()
    before = {key: value.clone() for key, value in classifier.model.state_dict().items()}
    session = classifier.session("cpu")
    session.features([session.prepare(image) for image in PICTURES])
    assert classifier.outputs == 1000
    assert all(torch.equal(value, before[key]) for key, value in classifier.model.state_dict().items())
    assert not head_of(classifier.model)[1].weight.requires_grad


def test_what_is_no_network_has_no_head() -> None:
    with pytest.raises(UsageError, match=r"'pixels' is no network with a classification layer.*(?s:.*)give torchvision, timm, checkpoint or random"):
        Pixels().classifier()
