"""The study: data sets, protocol, measures, and the study file that holds them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simkit.study import toml_text

SOURCES = ("cifar10", "dtd10", "fashion", "imagenet_groups", "isic7", "lclung", "brainmri4", "pneumonia", "busi")
"""Data sets that a network is pretrained on here."""

TARGETS = ("busi", "isic7mn", "lclung", "pneumonia")
WEIGHTS = {"imagenet": "mobilenet_v2_tvquant.pth", "birds": "mobilenet_v2_inat_bird.pth", "insects": "mobilenet_v2_inat_insect.pth"}
"""Sources that are checkpoints, all of this network."""

NETWORK, EXTRACTOR_PX = "mobilenet_v2", 128
KEPT = ("melanoma", "nevus")
"""Classes of isic7 that make isic7mn."""

FOLDERS = ("cifar10", "dtd10", "imagenet_groups", "lclung", "brainmri4")
ARCHIVES = ("fashion", "pneumonia")

_NOTIONS = ("domain", "modality", "anatomy", "colour", "task", "content", "foreground", "objects", "orientation", "diversity")
_ROWS = {
    "cifar10": ("natural objects animals vehicles", "natural, photograph, none, rich, multi-class, objects, yes, one, yes, diverse"),
    "dtd10": ("natural texture material", "natural, photograph, none, rich, multi-class, textures, no, multiple, no, diverse"),
    "fashion": ("products clothes objects", "natural, photograph, none, grey, multi-class, objects, yes, one, yes, not diverse"),
    "imagenet_groups": ("natural objects animals", "natural, photograph, none, rich, multi-class, objects, yes, one, yes, diverse"),
    "isic7": ("medical dermoscopy skin lesion", "medical, dermoscopy, skin, same tone, multi-class, both, yes, one, no, not diverse"),
    "isic7mn": ("medical dermoscopy skin lesion", "medical, dermoscopy, skin, same tone, binary, both, yes, one, no, not diverse"),
    "lclung": ("medical microscopy histology lung", "medical, microscopy, lung, same tone, multi-class, textures, no, multiple, no, not diverse"),
    "brainmri4": ("medical mri brain tumour", "medical, MRI, brain, grey, multi-class, objects, yes, one, yes, not diverse"),
    "pneumonia": ("medical xray chest lung", "medical, X-ray, chest, grey, binary, textures, no, multiple, yes, not diverse"),
    "busi": ("medical ultrasound breast lesion", "medical, ultrasound, breast, grey, multi-class, objects, yes, one, yes, not diverse"),
}
ABOUT: dict[str, tuple[str, dict[str, str]]] = {
    name: (tags, dict(zip(_NOTIONS, answers.split(", "), strict=True))) for name, (tags, answers) in _ROWS.items()
}
"""Keywords and answers for the intuitive measures: by the authors of this study, before it was run."""


@dataclass(frozen=True)
class Setting:
    """What the command line can change."""

    data: Path
    work: Path
    network: str = NETWORK
    image_size: int = 64
    folds: int = 3
    epochs: int = 6
    pretrain_epochs: int = 8
    quick: bool = False

    @property
    def sources(self) -> tuple[str, ...]:
        """Data sets among the sources."""
        return ("fashion", "isic7", "lclung") if self.quick else SOURCES

    @property
    def targets(self) -> tuple[str, ...]:
        return ("isic7mn",) if self.quick else TARGETS

    @property
    def weights(self) -> dict[str, str]:
        """Checkpoints among the sources; they are of one network, so another has none."""
        if self.network != NETWORK:
            return {}
        return {name: str(self.data / "weights" / file) for name, file in WEIGHTS.items() if not self.quick or name == "imagenet"}

    @property
    def extractor(self) -> dict[str, Any]:
        """Of the measures' features."""
        return {"network": NETWORK, "path": str(self.data / "weights" / WEIGHTS["imagenet"]), "image_size": EXTRACTOR_PX}


def write_study(setting: Setting) -> Path:
    """Writes isic7mn.csv and study.toml into the work folder; returns the study file."""
    setting.work.mkdir(parents=True, exist_ok=True)
    content = study_of(setting)
    if "isic7mn" in setting.targets:
        _write_melanoma_nevus(setting.data / "isic7" / "isic7.csv", setting.work / "isic7mn.csv")
    path = setting.work / "study.toml"
    path.write_text(toml_text(content))
    return path


def study_of(setting: Setting) -> dict[str, Any]:
    """The study file as a dict."""
    names = dict.fromkeys((*setting.sources, *setting.targets))
    finetune = {
        "network": setting.network, "image_size": setting.image_size, "folds": setting.folds, "splits": "ignore", "overlap": "remove",
        "pretrain_epochs": setting.pretrain_epochs, "finetune_epochs": setting.epochs, "batch_size": 32, "optimizer": "adamw", "learning_rate": 1e-3,
        "schedule": "cosine", "warmup_epochs": 0 if setting.quick else 1, "augmentation": "paper", "class_weights": "balanced", "dropout": 0.2,
        "sources": ["scratch"], "baseline": "scratch", "weights": setting.weights,
    }
    return {
        "study": "transfer-study", "seed": 1, "sources": list(setting.sources), "targets": list(setting.targets),
        "methods": ["all"], "extractor": {"checkpoint": setting.extractor}, "datasets": {name: _dataset(setting, name) for name in names}, "finetune": finetune,
    }


def _dataset(setting: Setting, name: str) -> dict[str, Any]:
    tags, attributes = ABOUT[name]
    if name in FOLDERS:
        source: dict[str, Any] = {"folder": {"path": str(setting.data / name)}}
    elif name in ARCHIVES:
        source = {"npz": {"path": str(setting.data / f"{name}.npz")}}
    elif name == "isic7mn":
        source = {"table": {"path": str(setting.work / "isic7mn.csv"), "root": str(setting.data / "isic7")}}
    else:
        source = {"table": {"path": str(setting.data / name / f"{name}.csv")}}
    return source | {"tags": tags.split(), "attributes": attributes}


def _write_melanoma_nevus(manifest: Path, path: Path) -> None:
    """The rows of two classes; all columns, so that a patient column would come along."""
    with manifest.open(newline="") as file:
        reader = csv.DictReader(file)
        columns, rows = list(reader.fieldnames or ()), [row for row in reader if row["label"] in KEPT]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
