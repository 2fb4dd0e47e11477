"""Task embeddings of a probe network: brute force by autograd, invariances, networks, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional

from simkit.errors import DataError, NotEnoughData, ResourceError, UsageError
from simkit.extractors.classifier import Classifier
from simkit.extractors.fisher import TaskFisher, fit_head, softmax_factor, split_halves, task_fisher
from simkit.extractors.network_session import Preprocessing
from simkit.networks import build_network, head_of


class Tiny(nn.Module):
    """Every kind of module that counts, in-place ReLU, a shared layer, a residual sum, windows folded into the batch; and two that do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 6, 3, padding=1, groups=3)
        self.deep = nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, padding_mode="reflect")
        self.groups = nn.GroupNorm(2, 6)
        self.point = nn.Conv2d(6, 8, 1, stride=2)
        self.tokens = nn.LayerNorm(8)
        self.shared = nn.Linear(8, 8)
        self.windows = nn.Linear(8, 8)
        self.slope = nn.PReLU(8)
        self.unused = nn.Linear(8, 8)
        self.table = nn.Linear(2, 1)
        self.fc = nn.Linear(8, 5)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.first(x)))
        y = self.deep(self.grouped(x))
        y += x
        x = self.relu(self.groups(y))
        x = self.tokens(self.point(x).flatten(2).transpose(1, 2))
        x = self.shared(functional.gelu(self.shared(x)))
        n, t, c = x.shape
        x = self.windows(x.reshape(n * t // 2, 2, c)).reshape(n, t, c)
        x = self.slope(x.mean(1)) + self.table(torch.ones(1, 2, dtype=x.dtype, device=x.device))
        return self.fc(x)  # type: ignore[no-any-return]


COUNTED = ("first", "norm", "grouped", "deep", "groups", "point", "tokens", "shared", "windows")


def classifier(model: nn.Module, head: str = "fc", size: int = 16) -> Classifier:
    return Classifier(model.eval().requires_grad_(False), Preprocessing(size, size), head)


def tiny(dtype: torch.dtype = torch.float64) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Tiny().double()
        model.norm.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
        model.norm.running_var.uniform_(0.2, 1.0)  # type: ignore[union-attr]
        for one in (model.norm, model.groups, model.tokens):
            one.weight.data.uniform_(0.5, 1.5)
    return classifier(model.to(dtype))


def pictures(n: int, size: int = 16, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 200, (n, 1, 1, 3)) + rng.integers(0, 56, (n, size, size, 3))).astype(np.uint8)


LABELS = np.array(["a", "b", "c", "a", "b", "c", "a", "b", "c", "a"])


def features_of(given: Classifier, images: np.ndarray) -> tuple[Any, torch.Tensor]:
    """A copy of the network with weights that take gradients, and its features by a hook of our own."""
    model = given.model.requires_grad_(True)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(next(model.parameters()).dtype) / 255
    mean, std = (torch.tensor(v, dtype=pixels.dtype).view(1, 3, 1, 1) for v in (given.preprocessing.mean, given.preprocessing.std))
    kept: list[torch.Tensor] = []
    handle = model.get_submodule(given.head).register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    model((pixels - mean) / std)
    handle.remove()
    return model, kept[0]


def brute(given: Classifier, images: np.ndarray, labels: np.ndarray, penalty: float, names: tuple[str, ...]) -> np.ndarray:
    """The definition: image by image, label by label, by autograd; the head by scikit-learn on features that are scaled already."""
    _, rows = features_of(given, images)
    raw = rows.detach().numpy()
    spread = np.sqrt(((raw - raw.mean(0)) ** 2).sum(1).mean())
    scaled = (raw - raw.mean(0)) / spread
    two = len(np.unique(labels)) == 2
    head = LogisticRegression(C=(2 if two else 1) / (penalty * len(raw)), tol=1e-12, max_iter=100000).fit(scaled, labels)
    total: list[np.ndarray] = []
    for i in range(len(images)):
        model, row = features_of(given, images[i : i + 1])
        weights = [model.get_submodule(name).weight for name in names]
        if two:
            margin = ((row[0] - torch.from_numpy(raw.mean(0))) / spread) @ torch.from_numpy(head.coef_[0]) + float(head.intercept_[0])
            logits = torch.stack([torch.zeros_like(margin), margin])
        else:
            logits = ((row[0] - torch.from_numpy(raw.mean(0))) / spread) @ torch.from_numpy(head.coef_.T) + torch.from_numpy(head.intercept_)
        log_p = torch.log_softmax(logits, 0)
        own: Any = 0.0
        for k in range(len(log_p)):
            parts = torch.autograd.grad(log_p[k], weights, retain_graph=True)
            own = own + float(log_p[k].detach().exp()) * np.concatenate([part.square().reshape(len(part), -1).mean(1).numpy() for part in parts])
        total.append(own)
    return np.asarray(np.mean(total, axis=0))


@pytest.mark.parametrize("labels", [LABELS, np.where(LABELS == "a", 1, 0)])
def test_equals_autograd_image_by_image_and_label_by_label(labels: np.ndarray) -> None:
    images = pictures(10)
    found = task_fisher(tiny(), images, labels, penalty=0.01, batch_size=4)
    expected = brute(tiny(), images, labels, 0.01, COUNTED)
    np.testing.assert_allclose(found.fisher, expected, rtol=1e-6)  # the head's two fits differ in the seventh digit
    assert found.fisher.min() > 0
    assert found.modules == tuple((name, stop - size, stop) for name, size, stop in
                                  zip(COUNTED, (6, 6, 6, 6, 6, 8, 8, 8, 8), np.cumsum((6, 6, 6, 6, 6, 8, 8, 8, 8)).tolist(), strict=True))
    assert (found.dead, found.converged, found.images, found.classes) == (0, True, 10, len(np.unique(labels)))


def test_with_the_same_head_equals_autograd_to_ten_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head is given, so that nothing but the gradients differs."""
    from simkit.extractors import fisher

    rng = np.random.default_rng(3)
    head = fisher.Head(rng.normal(size=(8, 3)) * 3, rng.normal(size=3), 1.0, True)
    monkeypatch.setattr(fisher, "fit_head", lambda *args, **kwargs: head)
    images, total = pictures(6), []
    for i in range(6):
        model, row = features_of(tiny(), images[i : i + 1])
        log_p = torch.log_softmax(row[0] @ torch.from_numpy(head.weights) + torch.from_numpy(head.intercepts), 0)
        weights = [model.get_submodule(name).weight for name in COUNTED]
        own: Any = 0.0
        for k in range(3):
            parts = torch.autograd.grad(log_p[k], weights, retain_graph=True)
            own = own + float(log_p[k].detach().exp()) * np.concatenate([part.square().reshape(len(part), -1).mean(1).numpy() for part in parts])
        total.append(own)
    found = task_fisher(tiny(), images, LABELS[:6], batch_size=4)
    np.testing.assert_allclose(found.fisher, np.mean(total, axis=0), rtol=1e-10)


def test_modules_that_do_not_count_are_named() -> None:
    found = task_fisher(tiny(), pictures(10), LABELS)
    assert [one.split(" ")[0] for one in found.ignored] == ["slope", "unused", "table"]
    assert "not used before the head" in found.ignored[1]
    assert "not one row of values an image" in found.ignored[2]
    assert found.detail == {"accuracy": found.accuracy, "converged": True, "dead": 0, "modules": 9, "ignored": list(found.ignored), "no_halves": ""}
    assert 0.3 < found.accuracy <= 1


def test_neither_batch_size_nor_order_nor_the_form_of_images_nor_names_of_labels_matter() -> None:
    images, order = pictures(10), np.random.default_rng(1).permutation(10)
    first = task_fisher(tiny(), images, LABELS, batch_size=10)
    for other in (
        task_fisher(tiny(), images, LABELS, batch_size=3),
        task_fisher(tiny(), images[order], LABELS[order], batch_size=4),
        task_fisher(tiny(), lambda i: images[i], LABELS, batch_size=1),
        task_fisher(tiny(), list(images), np.array([{"a": 7, "b": -1, "c": 3}[one] for one in LABELS])),
    ):
        np.testing.assert_allclose(other.fisher, first.fisher, rtol=1e-6)
    single = task_fisher(tiny(torch.float32), images, LABELS, batch_size=3)
    np.testing.assert_allclose(single.fisher, first.fisher, rtol=1e-3)


def test_gradients_whose_squares_float32_cannot_hold_count() -> None:
    """Weights of 2^80 before a batch norm that divides by 2^60 have gradients of about 1e-24; float64 holds their squares without help."""
    found = []
    for dtype in (torch.float64, torch.float32):
        given = tiny(dtype)
        for values, power in ((given.model.first.weight.data, 80), (given.model.norm.running_mean, 80), (given.model.norm.running_var, 120)):  # type: ignore[union-attr]
            values.mul_(2.0 ** (power // 2)).mul_(2.0 ** (power // 2))  # type: ignore[operator]
        found.append(task_fisher(given, pictures(10), LABELS).fisher[:6])
    assert found[0].max() < 1e-45
    np.testing.assert_allclose(found[1], found[0], rtol=0.01)


def test_the_classifier_is_left_as_it_was() -> None:
    given = tiny()
    before = {name: value.clone() for name, value in given.model.state_dict().items()}
    task_fisher(given, pictures(10), LABELS)
    assert all(torch.equal(before[name], value) for name, value in given.model.state_dict().items())
    assert not any(one.requires_grad for one in given.model.parameters())
    assert not given.model.fc._forward_pre_hooks  # type: ignore[union-attr]


def test_gradients_are_those_of_images_not_of_the_batch() -> None:
    """The mean of two images' own Fisher information under one head, which the gradient of a batch mean would not give."""
    images, labels = np.repeat(pictures(3), 4, axis=0), np.tile([0, 1], 6)
    once, often = task_fisher(tiny(), images, labels, batch_size=12), task_fisher(tiny(), np.repeat(images, 2, axis=0), np.repeat(labels, 2), batch_size=24)
    assert [name for name, _, _ in once.modules] == list(COUNTED)
    np.testing.assert_allclose(often.fisher, once.fisher, rtol=1e-5)


def test_montecarlo_approaches_the_expectation_and_depends_on_seed_alone() -> None:
    images = pictures(10)
    exact = task_fisher(tiny(), images, LABELS, penalty=0.05).fisher
    few, many = (task_fisher(tiny(), images, LABELS, penalty=0.05, method="montecarlo", samples=samples).fisher for samples in (1, 150))
    assert np.abs(many / exact - 1).max() < 0.3
    assert np.abs(many - exact).sum() < 0.3 * np.abs(few - exact).sum()
    again = task_fisher(tiny(), images, LABELS, penalty=0.05, method="montecarlo", samples=1, batch_size=3, halves=True).fisher
    np.testing.assert_allclose(again, few, rtol=1e-9)
    other = task_fisher(tiny(), images, LABELS, penalty=0.05, method="montecarlo", samples=1, seed=1).fisher
    assert np.abs(other / few - 1).max() > 0.05


def test_halves_are_the_embeddings_of_the_halves() -> None:
    images, labels = pictures(12), np.tile([0, 1, 2], 4)
    found = task_fisher(tiny(), images, labels, halves=True, batch_size=5, seed=4)
    side = split_halves(labels, None, np.random.default_rng([4, 2]))
    assert found.halves is not None
    assert found.no_halves == ""
    for half in (0, 1):
        alone = task_fisher(tiny(), images[side == half], labels[side == half])
        np.testing.assert_allclose(found.halves[half], alone.fisher, rtol=1e-6)
    np.testing.assert_allclose(found.fisher, task_fisher(tiny(), images, labels).fisher, rtol=1e-9)


def test_halves_where_one_has_fewer_classes() -> None:
    images, labels = pictures(11), np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 1, 0])
    found = task_fisher(tiny(), images, labels, halves=True, batch_size=4)
    side = split_halves(labels, None, np.random.default_rng([0, 2]))
    assert found.halves is not None
    for half in (0, 1):
        alone = task_fisher(tiny(), images[side == half], labels[side == half])
        np.testing.assert_allclose(found.halves[half], alone.fisher, rtol=1e-6)


def test_no_halves_of_one_group_or_too_few_images() -> None:
    one = task_fisher(tiny(), pictures(10), LABELS, groups=["p"] * 10, halves=True)
    assert one.halves is None
    assert "1 groups cannot be split" in one.no_halves
    few = task_fisher(tiny(), pictures(3), np.array([0, 1, 1]), halves=True)
    assert few.halves is None
    assert "3 images cannot be split" in few.no_halves


@pytest.mark.parametrize("seed", range(5))
def test_split_keeps_groups_whole_and_classes_even(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 101)
    side = split_halves(labels, None, rng)
    assert all(abs(int((side[labels == k] == 0).sum()) - int((side[labels == k] == 1).sum())) <= 1 for k in range(4))
    groups = [f"p{i}" for i in rng.integers(0, 15, 101)]
    side = split_halves(labels, groups, np.random.default_rng(seed))
    assert all(len({int(s) for s, g in zip(side, groups, strict=True) if g == name}) == 1 for name in groups)
    assert 35 <= int(side.sum()) <= 66
    assert (side == split_halves(10 - labels, groups, np.random.default_rng(seed))).all()


def test_softmax_factor() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(6) * 0.3, size=50)
    p[0] = np.eye(6)[2]
    p[1] = np.eye(6)[5]
    factor = softmax_factor(p)
    assert factor.shape == (50, 6, 5)
    expected = p[:, :, None] * np.eye(6) - p[:, :, None] * p[:, None, :]
    np.testing.assert_allclose(factor @ factor.transpose(0, 2, 1), expected, atol=1e-14)


def test_head_does_not_depend_on_scale_and_has_two_columns_for_two_classes() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), rng.integers(0, 2, 40)
    small, large = fit_head(x, y, penalty=0.01), fit_head(1000 * x + 5, y, penalty=0.01)
    np.testing.assert_allclose(large.probabilities(1000 * x + 5), small.probabilities(x), atol=1e-6)
    assert small.weights.shape == (6, 2)
    assert small.converged
    assert 0.5 < small.accuracy <= 1
    weights = torch.from_numpy(small.weights).requires_grad_(True)  # the stated objective has no gradient there
    bias = torch.from_numpy(small.intercepts).requires_grad_(True)
    scale = np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean())
    loss = functional.cross_entropy(torch.from_numpy(x) @ weights + bias, torch.from_numpy(y)) + 0.005 * (weights * scale).square().sum()
    loss.backward()
    assert weights.grad is not None
    assert float(weights.grad.abs().max()) < 1e-6


def test_resnet50_has_the_channels_of_the_seed_study() -> None:
    from simkit.extractors.gradients import Gradients

    with torch.device("meta"):
        model = build_network("resnet50")
    found = Gradients(model, head_of(model)[0])
    assert (found.dimension, found.ignored) == (53120, ())
    assert sum(stop - start for name, start, stop in found.slices if "conv" in name or name.endswith("downsample.0")) == 26560


@pytest.mark.parametrize(("network", "without"), [
    ("resnet18", ""), ("squeezenet1_1", ""), ("mobilenet_v3_small", ""), ("shufflenet_v2_x0_5", ""), ("densenet121", ""), ("convnext_tiny", ""),
    ("vit_b_16", "self_attention.out_proj"), ("swin_v2_t", ".attn."), ("googlenet", "aux"),
])
def test_networks_of_torchvision(network: str, without: str) -> None:
    """Every module with a weight takes part but those named; the check against autograd is made for each."""
    from simkit.extractors.gradients import Gradients

    size = 32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_network(network, image_size=size)
    given = classifier(model, head_of(model)[0], size)
    found = task_fisher(given, pictures(4, size), np.array([0, 1, 0, 1]))
    assert all(without and without in one for one in found.ignored), found.ignored
    assert bool(found.ignored) == bool(without)
    assert len(found.fisher) == found.modules[-1][2] > 1000
    assert np.isfinite(found.fisher).all()
    assert found.dead < 0.9 * len(found.fisher)
    assert Gradients(model, given.head).dimension >= len(found.fisher)


def test_norms_with_an_activation_of_timm() -> None:
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("efficientnet_lite0", num_classes=3)
    found = task_fisher(classifier(model, "classifier", 32), pictures(4, 32), np.array([0, 1, 0, 1]))
    assert found.ignored == ()
    assert "bn1" in {name for name, _, _ in found.modules}


def test_a_module_that_changes_its_weight_is_left_out() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self._conv_forward(x, self.weight / self.weight.std(dim=(1, 2, 3), keepdim=True), self.bias)
            return out

    given = tiny()
    given.model.first = Standardised(3, 6, 3, stride=2, padding=1, bias=False).double()
    found = task_fisher(given, pictures(10), LABELS)
    assert "first (Standardised: its gradients are not those of a plain module" in " ".join(found.ignored)


def test_rows_of_another_order_than_images_are_left_out() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.turned, self.fc = nn.Linear(48, 8), nn.Linear(4, 4), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x.flatten(1)).reshape(-1, 2, 4)
            return self.fc(self.turned(y.transpose(0, 1).reshape(-1, 4)).reshape(2, -1, 4).transpose(0, 1).flatten(1))  # type: ignore[no-any-return]

    found = task_fisher(classifier(Turned().double(), size=4), pictures(10, 4), LABELS)
    assert [one.split(" ")[0] for one in found.ignored] == ["turned"]


def test_out_of_memory_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    from simkit.extractors import fisher

    plain, sizes = fisher._Probe._squares, []

    def limited(self: Any, pixels: np.ndarray, directions: Any) -> Any:
        sizes.append(len(pixels))
        if len(pixels) > 3:
            raise torch.OutOfMemoryError("no memory")
        return plain(self, pixels, directions)

    expected = task_fisher(tiny(), pictures(10), LABELS).fisher
    monkeypatch.setattr(fisher._Probe, "_squares", limited)
    np.testing.assert_allclose(task_fisher(tiny(), pictures(10), LABELS, batch_size=8).fisher, expected, rtol=1e-9)
    assert sizes == [8, 4, 2, 2, 2, 2, 2]

    def never(self: Any, pixels: np.ndarray, directions: Any) -> Any:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(fisher._Probe, "_squares", never)
    with pytest.raises(ResourceError, match=r"no memory for one image"):
        task_fisher(tiny(), pictures(10), LABELS)


def test_dead_channels_are_zero_and_counted() -> None:
    given = tiny()
    given.model.norm.weight.data[2] = 0.0  # type: ignore[union-attr, operator]
    given.model.norm.bias.data[2] = -1.0  # type: ignore[union-attr, operator]
    found = task_fisher(given, pictures(10), LABELS)
    assert found.dead == 2
    assert found.fisher[2] == 0
    assert found.fisher[6 + 2] == 0


def refused(**changes: Any) -> TaskFisher:
    given: dict[str, Any] = {"classifier": tiny(), "images": pictures(10), "labels": LABELS} | changes
    return task_fisher(given.pop("classifier"), given.pop("images"), given.pop("labels"), **given)


def test_refusals() -> None:
    with pytest.raises(NotEnoughData, match=r"at least two classes, the 10 images have 1"):
        refused(labels=np.zeros(10))
    with pytest.raises(UsageError, match=r"9 images for 10 labels"):
        refused(images=pictures(9))
    with pytest.raises(UsageError, match=r"2 groups for 10 labels"):
        refused(groups=("a", "b"))
    for change in ({"method": "sampled"}, {"samples": 0}, {"penalty": 0.0}, {"batch_size": -1}):
        with pytest.raises(UsageError, match=r"out of range"):
            refused(**change)
    with pytest.raises(UsageError, match=r"layer = 'first' is set"):
        refused(classifier=replace(tiny(), layer="first"))
    with pytest.raises(DataError, match=r"image 1 is uint8 \(8, 8, 3\).*image 0, \(16, 16, 3\)"):
        refused(images=[pictures(1)[0], *pictures(9, 8)])
    with pytest.raises(DataError, match=r"image 0 is float64"):
        refused(images=pictures(10).astype(float))
    with pytest.raises(DataError, match=r"same features for all 10 images"):
        refused(images=np.repeat(pictures(1), 10, axis=0))
    broken = tiny()
    broken.model.windows.bias.data[0] = np.nan  # type: ignore[union-attr, operator]
    with pytest.raises(DataError, match=r"10 images have NaN"):
        refused(classifier=broken)
