"""What must hold on a CUDA device: agreement with the CPU, and no silent change of device. Run with `pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path

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


def test_a_study_runs_on_the_device(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(study_text(tmp_path, finetune=FINETUNE, extra='device = "cuda"'))
    results = simkit.run(tmp_path / "s.toml")
    assert results.performance is not None
    assert len(results.performance) == 6
    assert "CUDA" in results.content.provenance["device"]
