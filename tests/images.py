"""Small image folders for tests: classes that differ in colour and texture, written as PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from simkit.recipe import rng_for


def write_images(folder: Path, classes: dict[str, int], *, shift: int = 0, size: int = 12, seed: int = 0) -> Path:
    """One folder per class with random textured images; ``shift`` moves all grey levels, so that data sets differ."""
    for number, (name, count) in enumerate(classes.items()):
        place = folder / name
        place.mkdir(parents=True)
        rng = rng_for("images", seed, folder.name, name)
        for i in range(count):
            base = np.array([40 + 50 * number + shift, 90, 160 - 40 * number], dtype=float)
            pixels = np.clip(base + rng.normal(0, 25, (size, size + 2, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{i:03d}.png")
    return folder


def study_text(folder: Path, *, finetune: str = "", extra: str = "") -> str:
    """Three data sets below ``folder`` and a study of them with the pixels extractor."""
    for number, name in enumerate(("near", "far", "goal")):
        if not (folder / name).exists():
            write_images(folder / name, {"dark": 14, "light": 12}, shift=(0, 60, 5)[number])
    return f"""
study = "small"
targets = ["goal"]
extractor = {{pixels = {{size = 4}}}}
methods = ["frechet", "domain-classifier", "source-size"]
repeats = 3
{extra}
[datasets.near]
folder = {{path = "near"}}
tags = ["a", "b"]
[datasets.far]
folder = {{path = "far"}}
tags = ["c"]
[datasets.goal]
folder = {{path = "goal"}}
tags = ["a"]
{finetune}
"""


FINETUNE = """
[finetune]
network = "squeezenet1_1"
image_size = 32
folds = 2
pretrain_epochs = 1
finetune_epochs = 1
sources = ["scratch"]
"""
