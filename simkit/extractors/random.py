"""Untrained networks as feature extractors: what an architecture gives before it has learnt anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from simkit.extractors.base import Extractor, Session
from simkit.extractors.checkpoint import Architecture
from simkit.extractors.classifier import Classifier, outputs_of
from simkit.extractors.layers import Pool
from simkit.extractors.network_session import PRECISION, Precision, Preprocessing
from simkit.networks import import_timm, import_torchvision
from simkit.recipe import recipe_of
from simkit.registry import option

__all__ = ["Random"]


@dataclass(frozen=True)
class Random(Extractor):
    """Features of an untrained network: a baseline, above which the features of trained weights must be to mean anything.

    Values are drawn as the architecture's authors initialise it, from a generator that is seeded by architecture and seed. Another version of torch
    (or timm) may draw others, so it is part of the recipe. ImageNet's preprocessing; images are resized by Pillow with antialiasing.
    """

    name = "random"
    citation = "torchvision and timm, whose architectures these are"

    network: str = option("resnet50", "architecture: of torchvision (resnet50) or of timm (timm:vit_small_patch16_224)")
    seed: int = option(0, "of the values", minimum=0)
    layer: str = option("", "name of a module whose output is taken instead, such as layer3; empty: input of the last layer")
    pool: Pool = option("average", "how maps and tokens become rows; average, max and gem take in all tokens; for timm without layer, average is as designed")
    image_size: int = option(224, "side of the square that is cut from the centre, in pixels; the short side before is 8/7 of it", minimum=16, maximum=2048)
    precision: Precision = option("float32", PRECISION)

    def recipe(self) -> dict[str, Any]:
        import torch

        timm = {"timm": import_timm().__version__} if self.network.startswith("timm:") else {}
        return recipe_of(self) | timm | {"torch": torch.__version__.split("+")[0], "antialias": True}

    def check(self) -> None:
        """Name, layer, pooling and image size."""
        import_torchvision()
        self._architecture().check()

    def session(self, device: str) -> Session:
        architecture = self._architecture()
        session = architecture.session(architecture.network(self.seed), Preprocessing(round(self.image_size * 8 / 7), self.image_size), device)
        return session.at(self.precision)

    def classifier(self) -> Classifier:
        """The network with its classification layer, which has learnt nothing either."""
        architecture = self._architecture()
        model = architecture.network(self.seed).eval().requires_grad_(False)
        heads = architecture.heads(model)
        outputs = outputs_of(model.get_submodule(heads[0])) if len(heads) == 1 else 0
        return architecture.classifier(model, Preprocessing(round(self.image_size * 8 / 7), self.image_size), outputs, self.recipe(), self.precision)

    def _architecture(self) -> Architecture:
        return Architecture(self.network, self.layer, self.pool, self.image_size, self.name)
