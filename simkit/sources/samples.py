"""Small sets of real images that ship inside scikit-learn and scikit-image: nothing is downloaded.

Pictures are cut into patches that do not overlap. The group of a patch is the block of 4 x 4 patches of its picture, so that folds by
group keep close neighbours together; patches on both sides of a block's edge can still fall into different folds, and all patches of a set
come from one to seven pictures. These sets show that a study runs and what its answer looks like. They are no benchmark.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from simkit.dataset import Dataset
from simkit.errors import ResourceError, UsageError
from simkit.registry import option
from simkit.sources.arrays import ArrayReader
from simkit.sources.base import Source
from simkit.sources.decode import decode

__all__ = ["SETS", "SampleSet", "Samples"]

BLOCK = 4
"""Side of a group, in patches."""


@dataclass(frozen=True)
class _Patch:
    key: str
    image: np.ndarray
    label: str
    group: str


@dataclass(frozen=True)
class SampleSet:
    """One of the sets: how it is made and what is known of it.

    Attributes:
        make: patch size -> all patches, in raster order.
        size: default patch size in pixels; for sets of fixed size, that size.
        fixed: whether the images are stored in that size.
        classes: class names.
        tags: keywords.
        attributes: answers to the notions of the seed study.
    """

    make: Callable[[int], list[_Patch]]
    size: int
    classes: tuple[str, ...]
    tags: tuple[str, ...]
    attributes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    fixed: bool = False


@dataclass(frozen=True)
class Samples(Source):
    """Labelled patches of the pictures inside scikit-learn and scikit-image.

    ``digits``
        Handwritten digits, 8 px, 10 classes (scikit-learn; UCI Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak 1998,
        CC BY 4.0). The writers are not known, so there are no groups.
    ``documents``
        Printed page or handwritten text (scikit-image ``page``; ``text``, public domain). Easy.
    ``faces``
        Face or no face, 25 px (scikit-image ``lfw_subset``: crops of Labeled Faces in the Wild, G. Huang et al. 2012, faces and background).
        The persons are not known, so there are no groups.
    ``histology`` (a target)
        Colonic glands (scikit-image ``ihc``; Center for Microscopy and Molecular Imaging, no known copyright restrictions). Brown DAB marks
        the protein FHL2, blue haematoxylin mostly the nuclei. Colour deconvolution (A. Ruifrok and D. Johnston 2001, in scikit-image ``rgb2hed``) separates
        the two; the label says whether the patch's mean of DAB is high or low, the image shows *haematoxylin only*. So the question is
        whether the marked tissue can be told by its nuclei and texture. The fifth of the patches in the middle of the DAB range is left out.
    ``photographs``
        Which of seven colour photographs a patch is from (scikit-image ``astronaut``, NASA, ``chelsea``, S. van der Walt, ``coffee``, R. Michetti,
        ``rocket``, SpaceX: public domain or CC0; ``motorcycle_left``, Middlebury stereo benchmark, D. Scharstein et al. 2014; scikit-learn
        ``china``, danielbuechele, and ``flower``, vultilion: CC BY 2.0).
    ``retina`` (a target)
        Fundus photograph (scikit-image ``retina``; M. Häggström 2014, CC0). The label says whether the patch holds many or few vessel pixels, by
        a rule on the *green* channel at full resolution (grey closing with a square of 25 px minus the image, both smoothed by a
        Gaussian of 1.5 px, above 6 levels), the image shows the *red* channel at half resolution, where vessels are faint. The tenth of
        the patches in the middle of the range is left out, as are patches that leave the disc of the fundus.
    ``sky``
        The moon's surface or the Hubble deep field (scikit-image ``moon``; ``hubble_deep_field``, NASA, public domain). Easy; grey and colour mixed.
    ``textures``
        Brick, grass or gravel, grey (scikit-image ``brick``, ``grass``, ``gravel``; CC0).
    """

    name = "samples"
    citation = "S. van der Walt et al., scikit-image, PeerJ 2:e453 (2014); F. Pedregosa et al., scikit-learn, JMLR 12 (2011)"

    set: Literal["digits", "documents", "faces", "histology", "photographs", "retina", "sky", "textures"] = option(help="which set")
    size: int | None = option(None, "side of a patch in pixels; by default the size that suits the set", minimum=8)
    maximum: int = option(500, "most images; the largest classes give up images first, evenly over the picture", minimum=2)

    def load(self, name: str, base: Path) -> Dataset:
        """See :meth:`Source.load`; ``base`` plays no part.

        Raises:
            ResourceError: SK303 when the installed package lacks a picture.
            UsageError: SK102 when the patch size does not suit the set, or ``maximum`` is smaller than the number of classes.
        """
        chosen = SETS[self.set]
        size = chosen.size if self.size is None else self.size
        if chosen.fixed and size != chosen.size:
            raise UsageError("SK102", f"samples.{self.set}.size", f"{size}, but its images are stored with {chosen.size} px", "leave the option out")
        if self.maximum < len(chosen.classes):
            raise UsageError("SK102", f"samples.{self.set}.maximum", f"{self.maximum} images for {len(chosen.classes)} classes", "give one per class at least")
        patches = _thinned(chosen.make(size), self.maximum)
        missing = sorted({*chosen.classes} - {patch.label for patch in patches})
        if missing:
            raise UsageError("SK102", f"samples.{self.set}.size", f"no patch of {size} px fits for {', '.join(missing)}", f"the default is {chosen.size}")
        labels = np.array([chosen.classes.index(patch.label) for patch in patches], dtype=np.int64)
        groups = tuple(patch.group for patch in patches) if all(patch.group for patch in patches) else None
        return Dataset(
            name, tuple(patch.key for patch in patches), ArrayReader(tuple(patch.image for patch in patches)), labels, chosen.classes, groups,
            tags=chosen.tags, attributes=dict(chosen.attributes), origin=f"samples:{self.set}",
        )


def _thinned(patches: list[_Patch], maximum: int) -> list[_Patch]:
    """At most ``maximum`` patches: no class gets more than the largest common cap that fits, each class is thinned evenly in raster order."""
    by_class: dict[str, list[int]] = {}
    for index, patch in enumerate(patches):
        by_class.setdefault(patch.label, []).append(index)
    counts = [len(members) for members in by_class.values()]
    cap = max((c for c in range(1, max(counts, default=1) + 1) if sum(min(c, n) for n in counts) <= maximum), default=1)
    kept = [members[i * len(members) // min(cap, len(members))] for members in by_class.values() for i in range(min(cap, len(members)))]
    return [patches[index] for index in sorted(kept)]


def _file(package: str, *parts: str) -> Path:
    """A file of an installed package. The package is not imported."""
    module, distribution = {"skimage": ("skimage", "scikit-image"), "sklearn": ("sklearn", "scikit-learn")}[package]
    spec = importlib.util.find_spec(module)
    path = Path(next(iter(spec.submodule_search_locations or []))).joinpath(*parts) if spec else None
    if path is None or not path.is_file():
        version = importlib.metadata.version(distribution) if spec else "not installed"
        message = f"the installed package ({version}) does not hold the picture {'/'.join(parts)}"
        raise ResourceError("SK303", distribution, message, f"pip install --force-reinstall {distribution}, or choose another set")
    return path


def _picture(name: str) -> np.ndarray:
    """A picture as uint8 (height, width, 1 or 3)."""
    inside = ("sklearn", "datasets", "images", name) if name in ("china.jpg", "flower.jpg") else ("skimage", "data", name)
    return decode(_file(*inside))


def _cut(picture: np.ndarray, size: int) -> list[tuple[int, int, np.ndarray]]:
    """(row, column, patch) of the patches of ``size`` px, side by side from the upper left corner; what is left at the edges is not used."""
    rows, columns = picture.shape[0] // size, picture.shape[1] // size
    return [(r, c, picture[r * size : (r + 1) * size, c * size : (c + 1) * size].copy()) for r in range(rows) for c in range(columns)]


def _by_picture(pictures: Mapping[str, str]) -> Callable[[int], list[_Patch]]:
    """Patches whose class is the picture that they are from: class -> file."""

    def make(size: int) -> list[_Patch]:
        return [
            _Patch(f"{label}/{r}-{c}", image, label, f"{label}/{r // BLOCK}-{c // BLOCK}")
            for label, file in pictures.items() for r, c, image in _cut(_picture(file), size)
        ]

    return make


def _digits(size: int) -> list[_Patch]:
    _file("sklearn", "datasets", "data", "digits.csv.gz")
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # stored as 0..16
    return [_Patch(f"digits/{i:04d}", image, str(label), "") for i, (image, label) in enumerate(zip(images, digits.target, strict=True))]


def _faces(size: int) -> list[_Patch]:
    """The first half of the array are faces, the second half parts of pictures without one (documentation of scikit-image)."""
    images = np.load(_file("skimage", "data", "lfw_subset.npy"), allow_pickle=False)
    images = np.round(images * 255).astype(np.uint8)[..., None]
    return [_Patch(f"faces/{i:03d}", image, "face" if i < len(images) // 2 else "no face", "") for i, image in enumerate(images)]


def _decided(amount: np.ndarray, middle: float) -> np.ndarray:
    """1 for the upper, 0 for the lower part of the amounts, -1 for the share ``middle`` around the median."""
    if not len(amount):
        return np.empty(0, dtype=int)
    low, high = np.quantile(amount, [0.5 - middle / 2, 0.5 + middle / 2])
    return np.where(amount > high, 1, np.where(amount <= low, 0, -1))


def _histology(size: int) -> list[_Patch]:
    from skimage.color import rgb2hed

    stains = rgb2hed(_picture("ihc.png"))
    haematoxylin, dab = stains[..., 0], stains[..., 2]
    picture = np.clip(np.round(haematoxylin * (255 / np.percentile(haematoxylin, 99.9))), 0, 255).astype(np.uint8)[..., None]
    decided = _decided(np.array([amount.mean() for _, _, amount in _cut(dab, size)]), 0.2)
    return [
        _Patch(f"ihc/{r}-{c}", image, ("low DAB", "high DAB")[side], f"ihc/{r // BLOCK}-{c // BLOCK}")
        for (r, c, image), side in zip(_cut(picture, size), decided, strict=True) if side >= 0
    ]


def _retina(size: int) -> list[_Patch]:
    from scipy.ndimage import gaussian_filter, grey_closing

    picture = _picture("retina.jpg")
    green = gaussian_filter(picture[:, :, 1].astype(float), 1.5)
    vessels = grey_closing(green, size=(25, 25)) - green > 6
    height, width = vessels.shape
    y, x = np.mgrid[:height, :width]
    fundus = np.hypot(y - height // 2, x - width // 2) < 640
    red = picture[: height // 2 * 2, : width // 2 * 2, 0].reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    half = np.round(red).astype(np.uint8)[..., None]
    inside = [(r, c) for r, c, patch in _cut(fundus, 2 * size) if patch.all()]
    amounts = {(r, c): patch.mean() for r, c, patch in _cut(vessels, 2 * size)}
    decided = dict(zip(inside, _decided(np.array([amounts[place] for place in inside]), 0.1), strict=True))
    return [
        _Patch(f"retina/{r}-{c}", image, ("few vessels", "many vessels")[decided[r, c]], f"retina/{r // BLOCK}-{c // BLOCK}")
        for r, c, image in _cut(half, size) if decided.get((r, c), -1) >= 0
    ]


def _answers(*values: str) -> Mapping[str, str]:
    keys = ("domain", "modality", "anatomy", "foreground", "objects", "orientation", "colour", "diversity", "task", "content")
    return MappingProxyType(dict(zip(keys, values, strict=True)))


_TEXTURES = {"brick": "brick.png", "grass": "grass.png", "gravel": "gravel.png"}
_DOCUMENTS = {"handwriting": "text.png", "print": "page.png"}
_SKY = {"deep field": "hubble_deep_field.jpg", "moon": "moon.png"}
_PHOTOGRAPHS = {
    "astronaut": "astronaut.png", "cat": "chelsea.png", "coffee": "coffee.png", "flower": "flower.jpg", "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg", "temple": "china.jpg",
}

SETS: dict[str, SampleSet] = {
    "digits": SampleSet(
        _digits, 8, tuple("0123456789"), ("digits", "handwriting", "natural"),
        _answers("natural", "scan", "does not apply", "yes", "one", "yes", "grey", "not diverse", "multi-class", "objects"), fixed=True,
    ),
    "documents": SampleSet(
        _by_picture(_DOCUMENTS), 24, tuple(_DOCUMENTS), ("handwriting", "natural", "print", "text"),
        _answers("natural", "photograph", "does not apply", "yes", "multiple", "yes", "grey", "not diverse", "binary", "objects"),
    ),
    "faces": SampleSet(
        _faces, 25, ("face", "no face"), ("faces", "natural", "people"),
        _answers("natural", "photograph", "does not apply", "yes", "one", "yes", "grey", "diverse", "binary", "objects"), fixed=True,
    ),
    "histology": SampleSet(
        _histology, 24, ("high DAB", "low DAB"), ("colon", "histology", "medical", "microscopy", "tissue"),
        _answers("medical", "microscopy", "colon", "no", "multiple", "no", "grey", "not diverse", "binary", "textures"),
    ),
    "photographs": SampleSet(
        _by_picture(_PHOTOGRAPHS), 48, tuple(_PHOTOGRAPHS), ("natural", "objects", "photographs", "scenes"),
        _answers("natural", "photograph", "does not apply", "no", "multiple", "yes", "rich", "diverse", "multi-class", "both"),
    ),
    "retina": SampleSet(
        _retina, 24, ("few vessels", "many vessels"), ("eye", "fundus", "medical", "retina", "vessels"),
        _answers("medical", "fundus photograph", "eye", "no", "multiple", "no", "grey", "not diverse", "binary", "textures"),
    ),
    "sky": SampleSet(
        _by_picture(_SKY), 32, tuple(_SKY), ("astronomy", "moon", "natural", "sky"),
        _answers("natural", "telescope", "does not apply", "no", "multiple", "no", "same tone", "not diverse", "binary", "both"),
    ),
    "textures": SampleSet(
        _by_picture(_TEXTURES), 32, tuple(_TEXTURES), ("materials", "natural", "textures"),
        _answers("natural", "photograph", "does not apply", "no", "multiple", "no", "grey", "not diverse", "multi-class", "textures"),
    ),
}
"""The sets by name."""
