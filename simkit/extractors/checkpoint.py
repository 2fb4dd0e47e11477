"""Weights from a local file for a named architecture: a network that the user, or somebody whom the user trusts, has trained."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from simkit.errors import UsageError
from simkit.extractors.base import Extractor, Session
from simkit.extractors.classifier import Classifier, load_head
from simkit.extractors.layers import LayerSession, Pool, check_layer
from simkit.extractors.network_session import IMAGENET_MEAN, IMAGENET_STD, PRECISION, NetworkSession, Precision, Preprocessing
from simkit.extractors.timm import Timm, heads_of
from simkit.extractors.torchvision import untrained
from simkit.networks import build_network, check_network, file_digest, head_of, load_body, state_of
from simkit.recipe import recipe_of
from simkit.registry import option

if TYPE_CHECKING:
    import torch

__all__ = ["Architecture", "Checkpoint", "stated_preprocessing"]

TIMM_POOLS: dict[Pool, Literal["network", "max", "token", "gem"]] = {"average": "network", "max": "max", "cls": "token", "gem": "gem"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Architecture:
    """A network without weights, by name: "resnet50" is torchvision's, "timm:vit_small_patch16_224" timm's.

    Attributes:
        name: as the user writes it.
        layer: whose output is taken; empty: input of the last layer.
        pool: how it becomes rows.
        image_size: side of the images.
        where: the extractor, for messages.
    """

    name: str
    layer: str
    pool: Pool
    image_size: int
    where: str

    @property
    def timm(self) -> Timm | None:
        """The extractor of timm that builds it; None for a network of torchvision."""
        if not self.name.startswith("timm:"):
            return None
        pool = TIMM_POOLS[self.pool]
        return Timm(model=self.name.removeprefix("timm:"), weights="random", layer=self.layer, pool=pool, image_size=self.image_size)

    def check(self) -> None:
        """Name, layer, pooling and image size. Raises UsageError."""
        if self.timm is not None:
            self.timm.check()
            return
        check_network(self.name, f"{self.where}.network")
        check_layer(lambda: build_network(self.name, image_size=self.image_size), self.image_size, layer=self.layer, pool=self.pool, where=self.where)

    def network(self, seed: int) -> torch.nn.Module:
        """The untrained network, the same for the same seed."""
        if self.timm is not None:
            return Timm(model=self.timm.model, weights="random", seed=seed).untrained()
        return untrained(self.name, seed, image_size=self.image_size)

    def session(self, model: torch.nn.Module, preprocessing: Preprocessing, device: str) -> NetworkSession:
        """The network at work."""
        if self.timm is not None:
            return self.timm.session_of(self.timm.fitted(model), preprocessing, device)
        return LayerSession(model, preprocessing, device, layer=self.layer, pool=self.pool, where=self.where)

    def heads(self, model: torch.nn.Module) -> tuple[str, ...]:
        """Names of the classification layers."""
        return heads_of(model) if self.timm is not None else (head_of(model)[0],)

    def classifier(
        self, model: torch.nn.Module, preprocessing: Preprocessing, outputs: int, recipe: dict[str, Any], precision: Precision = "float32",
    ) -> Classifier:
        """The network with its classification layer.

        Raises:
            UsageError: a network of timm with several such layers.
        """
        heads = self.heads(model)
        if len(heads) != 1:
            message = f"{self.name} has {len(heads)} classification layers ({', '.join(heads)}), wanted one"
            raise UsageError("SK108", f"{self.where}.network", message, "choose another network")
        return Classifier(model, preprocessing, heads[0], outputs, (), self.layer, self.pool, self.where, precision, recipe)


@dataclass(frozen=True)
class Checkpoint(Extractor):
    """Features of a named architecture with weights from a local file: by default the input of its last layer, after pooling.

    Nothing in the file is executed: ``.safetensors``, or what ``torch.save(model.state_dict(), path)`` wrote. Every tensor must fit, apart from the
    classification layer, which may be any or missing; half precision becomes float32. Preprocessing belongs to the weights, and the file does not
    state it: give that of the training, else ImageNet's is taken. Images are resized by Pillow with antialiasing, short side first, and cropped at
    the centre; grey images are repeated to three channels. GoogLeNet and Inception v3 take ImageNet's normalisation and turn it into their own.
    """

    name = "checkpoint"
    citation = "torchvision and timm, whose architectures these are"

    network: str = option(help="architecture: of torchvision (resnet50) or of timm (timm:vit_small_patch16_224)")
    path: Path = option(help="state dict: .safetensors, .pth or .pt")
    key: str = option("", "where in the file the state dict lies, such as teacher; empty: the whole file, or state_dict or model")
    prefix: str = option("", "before the names of tensors, such as backbone. ; tensors without it are left aside; empty: found where there is one such prefix")
    layer: str = option("", "name of a module whose output is taken instead, such as layer3; empty: input of the last layer")
    pool: Pool = option("average", "how maps and tokens become rows; average, max and gem take in all tokens; for timm without layer, average is as trained")
    image_size: int = option(224, "side of the square that is cut from the centre, in pixels", minimum=16, maximum=2048)
    resize: int | None = option(None, "short side before the cut, in pixels; empty: 8/7 of image_size (256 for 224)", minimum=16, maximum=4096)
    mean: tuple[float, ...] = option(IMAGENET_MEAN, "of each channel, for values in 0..1; taken off")
    std: tuple[float, ...] = option(IMAGENET_STD, "of each channel; divided by", above=0)
    interpolation: Literal["bilinear", "bicubic"] = option("bilinear", "how images are resized")
    precision: Precision = option("float32", PRECISION)

    def recipe(self) -> dict[str, Any]:
        recipe = recipe_of(self) | {"weights": file_digest(self.path), "antialias": True}
        del recipe["path"]
        return recipe

    def check(self) -> None:
        """Names, preprocessing, and every tensor of the file."""
        self._preprocessing()
        self._architecture().check()
        self._network()

    def session(self, device: str) -> Session:
        return self._architecture().session(self._network(), self._preprocessing(), device).at(self.precision)

    def classifier(self) -> Classifier:
        """The network with the file's classification layer, which may have any number of outputs, or be missing."""
        architecture, model = self._architecture(), self._network()
        heads = architecture.heads(model)
        outputs = load_head(model, state_of(self.path, key=self.key), heads[0], str(self.path), prefix=self.prefix) if len(heads) == 1 else 0
        return architecture.classifier(model.eval().requires_grad_(False), self._preprocessing(), outputs, self.recipe(), self.precision)

    def _architecture(self) -> Architecture:
        return Architecture(self.network, self.layer, self.pool, self.image_size, self.name)

    def _network(self) -> torch.nn.Module:
        architecture = self._architecture()
        model = architecture.network(0)
        state = state_of(self.path, key=self.key)
        said = load_body(model, state, str(self.path), name=self.network, heads=architecture.heads(model), prefix=self.prefix)
        if said:
            logger.info("%s: %s", self.path.name, said)
        return model

    def _preprocessing(self) -> Preprocessing:
        return stated_preprocessing(self.image_size, self.resize, self.mean, self.std, self.interpolation, self.name)


def stated_preprocessing(
    image_size: int, resize: int | None, mean: tuple[float, ...], std: tuple[float, ...], interpolation: Literal["bilinear", "bicubic"], where: str,
) -> Preprocessing:
    """Preprocessing that the user states.

    Raises:
        UsageError: not three channels, values that are not of 0..1, or a cut that is larger than the image.
    """
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != 3:
            raise UsageError("SK102", f"{where}.{name}", f"has {len(values)} values, wanted 3 (red, green, blue)", f"give {name} = [r, g, b]")
    if max(mean) > 1 or min(mean) < 0:
        raise UsageError("SK102", f"{where}.mean", f"{list(mean)} is not of values in 0..1", "divide the mean and the std of 0..255 by 255")
    short = round(image_size * 8 / 7) if resize is None else resize
    if short < image_size:
        raise UsageError("SK102", f"{where}.resize", f"{short} is less than image_size = {image_size}", f"give at least {image_size}")
    return Preprocessing(short, image_size, mean, std, interpolation)
