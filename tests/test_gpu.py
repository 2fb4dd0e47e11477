"""What must hold on a CUDA device: agreement with the CPU, and no silent change of device. Run with `pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from images import FINETUNE, study_text, write_images

import simkit

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_embeddings_agree_with_the_cpu(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "demo", {"a": 20, "b": 20}, size=64)
    extractor = {"torchvision": {"network": "resnet18", "weights": "random", "image_size": 64}}
    cpu, gpu = (simkit.embed(folder, extractor=extractor, device=d, store=tmp_path / d).features.astype(np.float64) for d in ("cpu", "cuda"))
    cosine = (cpu * gpu).sum(1) / np.linalg.norm(cpu, axis=1) / np.linalg.norm(gpu, axis=1)
    assert cosine.min() >= 0.999


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_reduced_precision_agrees_with_float32_on_the_cpu(tmp_path: Path, precision: str) -> None:
    folder = write_images(tmp_path / "demo", {"a": 40, "b": 40}, size=64)
    options = {"network": "resnet50", "weights": "random", "image_size": 64}
    cpu = simkit.embed(folder, extractor={"torchvision": options}, device="cpu", store=tmp_path / "cpu").features.astype(np.float64)
    gpu = simkit.embed(folder, extractor={"torchvision": options | {"precision": precision}}, device="cuda", store=tmp_path / "gpu").features.astype(np.float64)
    cosine = (cpu * gpu).sum(1) / np.linalg.norm(cpu, axis=1) / np.linalg.norm(gpu, axis=1)
    assert cosine.min() >= 0.999


def test_a_batch_that_does_not_fit_is_halved_and_the_rows_stay_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_images(tmp_path / "demo", {"a": 150, "b": 150}, size=64)
    extractor = {"torchvision": {"network": "resnet18", "weights": "random", "image_size": 224}}
    wanted = simkit.embed(folder, extractor=extractor, device="cuda", batch_size=16, store=tmp_path / "small").features
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.2e9 / torch.cuda.get_device_properties(0).total_memory)
    try:
        with caplog.at_level("INFO", logger="simkit"):
            rows = simkit.embed(folder, extractor=extractor, device="cuda", batch_size=300, store=tmp_path / "large").features
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory with a batch of 300 images" in caplog.text
    np.testing.assert_allclose(rows, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"precision": "float64"}, {"tile": 100}, {"memory": 0.002}, {"label_cost": "none"}, {"debias": False}])
def test_transport_agrees_with_the_cpu(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    sides = [(rng.normal(size=(n, 64)).astype(np.float32) + shift, rng.integers(5, size=n)) for n, shift in ((700, 0.0), (500, 0.3))]
    cpu, gpu = (simkit.compare("otdd", *sides, solver="sinkhorn", device=device, **options) for device in ("cpu", "cuda"))
    assert gpu.converged
    assert gpu.value == pytest.approx(cpu.value, rel=1e-4)
    assert gpu.detail["exact_between"] == pytest.approx(cpu.detail["exact_between"], rel=1e-4)


def test_tf32_does_not_reach_the_distances() -> None:
    rng = np.random.default_rng(0)
    sides = [(100 + rng.normal(size=(600, 256)).astype(np.float32), rng.integers(3, size=600)) for _ in range(2)]
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        fast = simkit.compare("otdd", *sides, solver="sinkhorn", device="cuda").value
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert fast == pytest.approx(simkit.compare("otdd", *sides, solver="sinkhorn", device="cpu").value, rel=1e-4)


def test_out_of_memory_on_the_device_names_what_fits() -> None:
    from simkit.errors import ResourceError

    x = np.zeros((120_000, 8), dtype=np.float32)
    x[:, 0] = np.arange(120_000)
    with pytest.raises(ResourceError, match=r"SK301.*ran out of memory.*\nfix: tiles of \d+ rows fit"):
        simkit.compare("wasserstein", x, x + 1, solver="sinkhorn", device="cuda", memory=10**6, tile=10**9, max_hours=100)


def test_a_study_runs_on_the_device(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(study_text(tmp_path, finetune=FINETUNE, extra='device = "cuda"'))
    results = simkit.run(tmp_path / "s.toml")
    assert results.performance is not None
    assert len(results.performance.of_metric()) == 6
    assert "CUDA" in results.content.provenance["device"]


@pytest.mark.parametrize("method", [
    "frechet", {"frechet": {"covariance": "shrunk"}}, "frechet-infinity", {"mmd": {"sigma": 8.0}}, "kid", "energy", "sliced-wasserstein", "coverage",
    "density", "precision", "recall", "nearest-neighbour", "vendi", "effective-rank", "intrinsic-dimension"])
@pytest.mark.parametrize(("n", "m"), [(700, 500), (40, 60)])
def test_measures_of_features_agree_with_the_cpu(method: Any, n: int, m: int) -> None:
    """float64 `eigh`, tiles in float64 for small sets: the same values to 1e-6, more rows than features and fewer."""
    rng = np.random.default_rng(0)
    sides = [(rng.normal(size=(size, 64)) + shift).astype(np.float32) for size, shift in ((n, 0.0), (m, 0.3))]
    name, options = (method, {}) if isinstance(method, str) else next(iter(method.items()))
    cpu, gpu = (simkit.compare(name, *sides, device=device, **options) for device in ("cpu", "cuda"))
    assert gpu.value == pytest.approx(cpu.value, rel=1e-6, abs=1e-9)
    assert gpu.p == cpu.p


def test_tensors_on_the_device_are_read() -> None:
    rng = np.random.default_rng(0)
    sides = [torch.from_numpy(rng.normal(size=(200, 16)).astype(np.float32)) for _ in range(2)]
    assert simkit.compare("energy", *(side.cuda() for side in sides)).value == pytest.approx(simkit.compare("energy", *sides).value, rel=1e-6)


# --- fine-tuning -----------------------------------------------------------------------------------------------------------------------------


def tiny(folder: Path, **changes: Any) -> Any:
    """A small grid of drawn images on the device."""
    from dataclasses import replace

    from transfer_study import PROTOCOL, drawn, study

    protocol = replace(PROTOCOL, device="cuda", network="resnet18", image_size=64, **changes)
    return study(folder, source=drawn("source", 32, 3, seed=1), target=drawn("target", 48), protocol=protocol)


def values_of(result: Any) -> np.ndarray:
    return np.array([row["performance"] for row in result.table.of_metric()])


def test_training_on_the_device_repeats_itself(tmp_path: Path) -> None:
    assert values_of(tiny(tmp_path / "one")) == pytest.approx(values_of(tiny(tmp_path / "two")), abs=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_training_in_every_precision_learns_what_the_cpu_learns(tmp_path: Path, precision: str) -> None:
    changes = {"finetune_epochs": 12, "pretrain_epochs": 6, "precision": precision}
    assert values_of(tiny(tmp_path / precision, **changes)).mean() > 0.8


@pytest.mark.parametrize("augmentation", ["none", "paper", "randaugment"])
def test_every_augmentation_runs_on_the_device(tmp_path: Path, augmentation: str) -> None:
    result = tiny(tmp_path, augmentation=augmentation, finetune_epochs=1, pretrain_epochs=1)
    assert not result.failures


def test_a_training_set_lies_on_the_device_or_comes_there_in_time() -> None:
    from simkit.transfer.feed import Feed

    pixels = np.random.default_rng(0).integers(0, 256, (100, 3, 8, 8), dtype=np.uint8)
    labels = np.arange(100) % 3
    parts = np.array_split(np.random.default_rng(1).permutation(90), 7)
    resident, travelling = (Feed(pixels, np.arange(5, 95), labels, torch.device("cuda"), resident=whole) for whole in (True, False))
    for (a, la), (b, lb), part in zip(resident.batches(parts), travelling.batches(parts), parts, strict=True):
        assert a.is_cuda
        assert torch.equal(a, b)
        assert torch.equal(la, lb)
        assert np.array_equal(a.cpu().numpy(), pixels[5:95][part])


def test_a_step_that_does_not_fit_is_taken_in_parts(tmp_path: Path) -> None:
    from dataclasses import replace

    from transfer_study import PROTOCOL, drawn, study

    protocol = replace(PROTOCOL, device="cuda", network="resnet18", image_size=224, batch_size=128, finetune_epochs=1, folds=2, augmentation="none")
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2.5e9 / torch.cuda.get_device_properties(0).total_memory)
    lines: list[str] = []
    try:
        result = study(tmp_path, target=drawn("target", 256, side=64), protocol=protocol, progress=lines.append)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert not result.failures
    assert any("out of memory: each step of 128 images is now taken in" in line for line in lines)


def test_what_networks_see_and_task_embeddings_agree_with_the_cpu(tmp_path: Path) -> None:
    goal = simkit.load(write_images(tmp_path / "goal", {"a": 20, "b": 20}, size=64))
    other = simkit.load(write_images(tmp_path / "other", {"a": 20, "b": 20}, size=64, shift=40))
    networks = {"one": {"random": {"network": "resnet18", "image_size": 64}}, "two": {"random": {"network": "resnet18", "image_size": 64, "seed": 1}}}
    task = {"task2vec": {"network": "squeezenet1_1", "weights": "random", "image_size": 64}}
    tables = [simkit.distance([other], [goal], ["logme", "leep", "hscore", "knn", "fu", task], networks=networks, repeats=0, device=device,
                              store=tmp_path / device) for device in ("cpu", "cuda")]
    cpu, gpu = ({(r["source"], r["method"]): r["value"] for r in table.records} for table in tables)
    assert set(cpu) == {(s, m) for s in networks for m in ("logme", "leep", "hscore", "knn", "fu")} | {("other", "task2vec")}
    for key, value in cpu.items():
        assert gpu[key] == pytest.approx(value, rel=0.02, abs=0.02), key
