"""Networks of torchvision as feature extractors: pretrained, from a local checkpoint, or untrained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from simkit.errors import ResourceError, UsageError, nearest
from simkit.extractors.base import Extractor, Session
from simkit.extractors.network_session import NetworkSession, Preprocessing
from simkit.networks import build_network, check_network, download_network, head_of, load_state, state_of, weights_enum, weights_present
from simkit.recipe import digest_file, recipe_of, seed_for
from simkit.registry import option

if TYPE_CHECKING:
    import torch

__all__ = ["Torchvision"]


@dataclass(frozen=True)
class Torchvision(Extractor):
    """Features of a torchvision classification network: by default the input of its last layer, after pooling.

    Preprocessing belongs to the weights: a named weight brings its own size, crop and normalisation (torchvision's ``transforms()``);
    a checkpoint or an untrained network gets 224 px and ImageNet's channel statistics. Images are resized by Pillow with antialiasing,
    as those weights were evaluated; grey images are repeated to three channels.
    """

    name = "torchvision"
    citation = "torchvision model zoo, https://pytorch.org/vision/stable/models.html"

    network: str = option("resnet50", "a classification network of torchvision, such as resnet18, convnext_tiny, vit_b_16")
    weights: str = option("imagenet", "imagenet (the network's recommended weights), a weight name such as IMAGENET1K_V1, or random (untrained)")
    checkpoint: Path | None = option(None, "local state dict (.pth, .pt, .safetensors) instead of weights; the head may have any number of classes")
    layer: str = option("", "name of a module whose output is taken instead, such as layer3; empty: input of the last layer")
    pool: Literal["average", "max", "cls"] = option("average", "how maps (n, c, h, w) and tokens (n, t, c) become rows")
    image_size: int | None = option(None, "short side and centre crop in pixels; empty: as the weights want", minimum=16, maximum=2048)
    seed: int = option(0, "of the untrained network", minimum=0)

    def recipe(self) -> dict[str, Any]:
        recipe = recipe_of(self)
        del recipe["checkpoint"]
        if self.checkpoint is not None:
            if not self.checkpoint.is_file():
                raise ResourceError("SK302", str(self.checkpoint), "the weights file does not exist", "check the path of checkpoint")
            return recipe | {"weights": digest_file(self.checkpoint), "seed": 0}
        if self.weights == "random":
            import torch

            return recipe | {"torch": torch.__version__.split("+")[0]}
        return recipe | {"weights": self._enum().url.rsplit("/", 1)[-1], "seed": 0}

    def check(self) -> None:
        check_network(self.network, "torchvision.network")
        if self.checkpoint is not None:
            state_of(self.checkpoint)
        elif self.weights != "random":
            weights_present(self._enum().url)
        if self.layer:
            modules = dict(self._build(weights=False).named_modules())
            if self.layer not in modules:
                fix = f"modules: {', '.join(name for name in modules if name and name.count('.') < 2)}"
                raise UsageError("SK101", "torchvision.layer", f"{self.network} has no module '{self.layer}'{nearest(self.layer, modules)}", fix)

    def _enum(self) -> Any:
        return weights_enum(self.network, self.weights, "torchvision.weights")

    def _build(self, *, weights: bool = True) -> torch.nn.Module:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for("untrained", self.network, self.seed) % 2**63)
            if weights and self.checkpoint is not None:
                return load_state(self.network, state_of(self.checkpoint), str(self.checkpoint))
            if weights and self.weights != "random":
                return download_network(self.network, self._enum())
            return build_network(self.network)

    def _preprocessing(self) -> Preprocessing:
        if self.checkpoint is None and self.weights != "random":
            rule = self._enum().transforms()
            chosen = Preprocessing(int(rule.resize_size[0]), int(rule.crop_size[0]), tuple(rule.mean), tuple(rule.std), rule.interpolation.value)
        else:
            chosen = Preprocessing(256, 224)
        return chosen if self.image_size is None else replace(chosen, resize=self.image_size, crop=self.image_size)

    def session(self, device: str) -> Session:
        return _HookedSession(self, device)


class _HookedSession(NetworkSession):
    """The network with a hook on the layer whose values are taken."""

    def __init__(self, options: Torchvision, device: str):
        super().__init__(options._build(), options._preprocessing(), device)
        self.options = options
        self.caught: torch.Tensor | None = None
        if options.layer:
            dict(self.model.named_modules())[options.layer].register_forward_hook(self._catch_output)
        else:
            head_of(self.model)[1].register_forward_pre_hook(self._catch_input)

    def rows(self, images: torch.Tensor) -> torch.Tensor:
        self.model(images)
        return self._pooled(self.caught)

    def _catch_input(self, module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        self.caught = inputs[0]

    def _catch_output(self, module: Any, inputs: Any, output: Any) -> None:
        self.caught = output

    def _pooled(self, caught: Any) -> torch.Tensor:
        import torch

        if not isinstance(caught, torch.Tensor) or caught.ndim not in (2, 3, 4):
            what = f"shape {tuple(caught.shape)}" if isinstance(caught, torch.Tensor) else type(caught).__name__
            message = f"the value of '{self.options.layer}' has {what}, wanted (n, c), (n, t, c) or (n, c, h, w)"
            raise UsageError("SK108", "torchvision.layer", message, "choose another layer")
        if caught.ndim == 2:
            return caught
        if caught.ndim == 3 and self.options.pool == "cls":
            return caught[:, 0]
        if self.options.pool == "cls":
            raise UsageError("SK108", "torchvision.pool", "cls needs a layer of tokens (n, t, c); this one is a map (n, c, h, w)", "use average or max")
        axes = (2, 3) if caught.ndim == 4 else (1,)
        return caught.amax(axes) if self.options.pool == "max" else caught.mean(axes)
