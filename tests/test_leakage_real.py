"""Copies planted among real images; `benchmarks/leakage.py` is the same with 500 of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import simkit
from simkit.pipeline.leakage import leakage_between, leakage_within
from simkit.pipeline.progress import Progress
from simkit.recipe import rng_for
from simkit.store import Store


def changed(image: np.ndarray, kind: str) -> bytes:
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    wide, high = picture.size
    out = io.BytesIO()
    if kind == "jpeg":
        picture.save(out, "JPEG", quality=50)
        return out.getvalue()
    if kind == "half":
        picture = picture.resize((wide // 2, high // 2), Image.Resampling.BILINEAR)
    elif kind == "crop":
        picture = picture.crop((round(0.05 * wide), round(0.05 * high), round(0.95 * wide), round(0.95 * high)))
    elif kind == "flip":
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    else:
        picture = Image.fromarray(np.clip(np.asarray(picture) * 1.1, 0, 255).astype(np.uint8))
    picture.save(out, "PNG")
    return out.getvalue()


@pytest.mark.shared
@pytest.mark.parametrize("path", ["pneumonia.npz", "isic7/isic7.csv", "brainmri4"])
def test_planted_copies_of_real_images(shared: Path, tmp_path: Path, path: str) -> None:
    whole = simkit.load(shared / "data" / path)
    rng = rng_for(5, "planted", path)
    source = whole.take(np.sort(rng.choice(len(whole), 150, replace=False)))
    truth = {}
    for number, position in enumerate(rng.choice(len(source), 20, replace=False).tolist()):
        kind = ("jpeg", "half", "crop", "flip", "bright")[number % 5]
        key = f"{kind}/{number:02d}.{'jpg' if kind == 'jpeg' else 'png'}"
        (tmp_path / "planted" / kind).mkdir(parents=True, exist_ok=True)
        (tmp_path / "planted" / key).write_bytes(changed(source.read(position), kind))
        truth[key] = source.keys[position]
    found = leakage_between(simkit.load(tmp_path / "planted"), source, Store(), Progress())
    right = {pair.first_key for pair in found.pairs if truth[pair.first_key] == pair.second_key}
    false = [pair for pair in found.pairs if truth[pair.first_key] != pair.second_key]
    assert len(right) >= 19
    assert len(false) <= 1


@pytest.mark.shared
def test_chest_x_rays_of_different_people_are_no_copies(shared: Path) -> None:
    whole = simkit.load(shared / "data" / "pneumonia.npz")
    found = leakage_within(whole.take(np.arange(0, len(whole), 2)), Store(), Progress())
    assert found.pairs == ()
