"""Networks of torchvision as feature extractors: pretrained, from a local checkpoint, or untrained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simkit.errors import UsageError
from simkit.extractors.base import Extractor, Session
from simkit.extractors.classifier import Classifier, load_head, outputs_of
from simkit.extractors.layers import LayerSession, Pool, check_layer
from simkit.extractors.network_session import PRECISION, Precision, Preprocessing
from simkit.networks import (
    build_network,
    check_network,
    download_network,
    file_digest,
    head_of,
    load_body,
    state_of,
    weights_enum,
    weights_present,
)
from simkit.recipe import recipe_of, seed_for
from simkit.registry import option

if TYPE_CHECKING:
    import torch

__all__ = ["Torchvision", "untrained"]


@dataclass(frozen=True)
class Torchvision(Extractor):
    """Features of a torchvision classification network: by default the input of its last layer, after pooling.

    Preprocessing belongs to the weights: a named weight brings its own size, crop and normalisation (torchvision's ``transforms()``);
    a checkpoint or an untrained network gets 224 px and ImageNet's channel statistics. Images are resized by Pillow with antialiasing,
    as those weights were evaluated; grey images are repeated to three channels. A named weight is known by the digest in its file's name,
    and a file that has another is refused. Networks that were quantised to integers are not supported.
    """

    name = "torchvision"
    citation = "torchvision model zoo, https://pytorch.org/vision/stable/models.html"

    network: str = option("resnet50", "a classification network of torchvision, such as resnet18, convnext_tiny, vit_b_16")
    weights: str = option("imagenet", "imagenet (the network's recommended weights), a weight name such as IMAGENET1K_V1 or IMAGENET1K_SWAG_LINEAR_V1, "
                          "or random (untrained)")
    checkpoint: Path | None = option(None, "local state dict (.pth, .pt, .safetensors) instead of weights; the head may be any, or missing")
    layer: str = option("", "name of a module whose output is taken instead, such as layer3; empty: input of the last layer")
    pool: Pool = option("average", "how maps (n, c, h, w) and tokens (n, t, c) become rows; average, max and gem take in all tokens, also the class token")
    image_size: int | None = option(None, "short side and centre crop in pixels; empty: as the weights want", minimum=16, maximum=2048)
    seed: int = option(0, "of the untrained network", minimum=0)
    precision: Precision = option("float32", PRECISION)

    def recipe(self) -> dict[str, Any]:
        recipe = recipe_of(self) | {"preprocessing": asdict(self._preprocessing()) | {"antialias": True}}
        del recipe["checkpoint"]
        if self.checkpoint is not None:
            return recipe | {"weights": file_digest(self.checkpoint), "seed": 0}
        if self.weights == "random":
            import torch

            return recipe | {"torch": torch.__version__.split("+")[0]}
        return recipe | {"weights": self._enum().url.rsplit("/", 1)[-1], "seed": 0}

    def check(self) -> None:
        """Names, weights and their digest, and, by shapes alone, layer, pooling and image size."""
        check_network(self.network, "torchvision.network")
        size = self._preprocessing().crop
        named = self.checkpoint is None and self.weights != "random"
        own = int(self._enum().transforms().crop_size[0]) if named else size  # a vision transformer is made for one size
        check_layer(lambda: build_network(self.network, image_size=own), size, layer=self.layer, pool=self.pool, where="torchvision")
        if self.checkpoint is not None:
            self._build()
        elif named:
            if self._enum().name == "IMAGENET1K_FEATURES" and not self.layer.startswith(("features", "avgpool")):
                message = f"{self._enum()} has no values for the layers after 'features' (torchvision fills them with NaN)"
                raise UsageError("SK108", "torchvision.layer", message, 'give layer = "features", or other weights')
            weights_present(self._enum().url)

    def _enum(self) -> Any:
        return weights_enum(self.network, self.weights, "torchvision.weights")

    def _build(self) -> torch.nn.Module:
        if self.checkpoint is None and self.weights != "random":
            return download_network(self.network, self._enum())
        model = untrained(self.network, self.seed, image_size=self._preprocessing().crop)
        if self.checkpoint is not None:
            load_body(model, state_of(self.checkpoint), str(self.checkpoint), name=self.network, heads=[head_of(model)[0]])
        return model

    def _preprocessing(self) -> Preprocessing:
        if self.checkpoint is None and self.weights != "random":
            rule = self._enum().transforms()
            chosen = Preprocessing(int(rule.resize_size[0]), int(rule.crop_size[0]), tuple(rule.mean), tuple(rule.std), rule.interpolation.value)
        else:
            chosen = Preprocessing(256, 224)
        return chosen if self.image_size is None else replace(chosen, resize=self.image_size, crop=self.image_size)

    def session(self, device: str) -> Session:
        session = LayerSession(self._build(), self._preprocessing(), device, layer=self.layer, pool=self.pool, where="torchvision")
        return session.at(self.precision)


    def classifier(self) -> Classifier:
        """The network with its classification layer: that of the weights, or of a checkpoint's file; an untrained network has an untrained one."""
        model = self._build()
        head, layer = head_of(model)
        names: tuple[str, ...] = ()
        if self.checkpoint is not None:
            outputs = load_head(model, state_of(self.checkpoint), head, str(self.checkpoint))
        else:
            outputs = outputs_of(layer)
            names = () if self.weights == "random" else tuple(self._enum().meta.get("categories", ()))
        kept = names if len(names) == outputs else ()
        return Classifier(model.eval().requires_grad_(False), self._preprocessing(), head, outputs, kept, self.layer, self.pool, "torchvision",
                          self.precision, self.recipe())


def untrained(network: str, seed: int, *, image_size: int) -> torch.nn.Module:
    """A network of torchvision without weights: the same for the same seed; torch's global generator is left alone."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("untrained", network, seed) % 2**63)
        return build_network(network, image_size=image_size)
