"""Hand-made features: grey value statistics, co-occurrence and local binary patterns. The baseline of texture that needs no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simkit.errors import UsageError
from simkit.extractors.base import Extractor, Session
from simkit.registry import option

__all__ = ["RadiomicsLite", "TexturePreparation"]

FIRST_ORDER = ("mean", "standard deviation", "minimum", "percentile 10", "percentile 25", "median", "percentile 75", "percentile 90", "maximum",
               "mean absolute deviation", "skewness", "kurtosis", "entropy", "uniformity")
CO_OCCURRENCE = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation", "entropy")
ANGLES = (0.0, math.pi / 4, math.pi / 2, 3 * math.pi / 4)
FLAT = {"contrast": 0.0, "dissimilarity": 0.0, "homogeneity": 1.0, "energy": 1.0, "correlation": 1.0, "entropy": 0.0}
"""Co-occurrence of an image of one grey value: also of one that has no two pixels at a distance."""


@dataclass(frozen=True)
class RadiomicsLite(Extractor):
    """Grey value statistics, co-occurrence (GLCM) and local binary patterns (LBP) of the image, by scikit-image: all in -1..1.

    Only the range of a correlation may reach 2.

    First order, of values in 0..1: mean, standard deviation, minimum, maximum, percentiles, mean absolute deviation; entropy and uniformity
    (sum of squares) of the histogram with ``levels`` bins, entropy as a share of the largest; skewness s and excess kurtosis as
    ``s / (1 + |s|)``, 0 for an image of one value.

    Co-occurrence: contrast, dissimilarity, homogeneity, energy, correlation, entropy (Haralick 1973) of the image with ``levels`` grey
    values (equal bins of 0..255, the same for every image), for each of ``distances`` the mean and the range (maximum - minimum) over 0, 45, 90
    and 135 degrees, so that turning an image by 90 degrees, or mirroring it, changes nothing. Contrast is divided by (levels - 1)^2,
    dissimilarity by levels - 1, entropy by 2 ln(levels). The correlation of an image of one value is 1, by convention (scikit-image's).
    A diagonal step goes round(distance / sqrt(2)) pixels either way. Angles at which a narrow image has no pair are left out.

    Local binary patterns: for each of ``radii`` R the shares of the P + 2 rotation-invariant uniform patterns with P = 8 R points
    (Ojala, Pietikäinen, Mäenpää 2002, eq. 9). Beyond the edge the nearest pixel counts.

    The image is resized with antialiasing (bilinear) to about size * size pixels, in its own aspect ratio: texture depends on scale.
    """

    name = "radiomics-lite"
    citation = ("R. Haralick et al. 1973, doi:10.1109/TSMC.1973.4309314; T. Ojala et al. 2002, doi:10.1109/TPAMI.2002.1017623; scikit-image, "
                "doi:10.7717/peerj.453")
    needs_device = False

    size: int = option(224, "about size * size pixels, in the image's aspect ratio; 0: as it is", minimum=0, maximum=4096)
    levels: int = option(32, "grey values of the co-occurrence matrix", minimum=2, maximum=256)
    distances: tuple[int, ...] = option((1, 2, 4), "of the pixels whose co-occurrence is counted", minimum=1, maximum=64)
    radii: tuple[int, ...] = option((1, 2), "of the local binary patterns, with 8 points a radius", minimum=1, maximum=16)
    colour: bool = option(False, "each of red, green and blue (true), or grey values only (false: ITU-R 601-2 luma)")

    def check(self) -> None:
        for what, values in (("distances", self.distances), ("radii", self.radii)):
            if len(set(values)) < len(values):
                raise UsageError("SK102", f"radiomics-lite.{what}", f"{list(values)} names a number twice", "name each once")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """What each feature is, such as "co-occurrence contrast, distance 1, mean"."""
        names = [f"first order {what}" for what in FIRST_ORDER]
        names += [f"co-occurrence {what}, distance {distance}, {which}" for distance in self.distances for what in CO_OCCURRENCE for which in ("mean", "range")]
        for radius in self.radii:
            patterns = [f"{ones} of {8 * radius} points" for ones in range(8 * radius + 1)]
            names += [f"local binary pattern, radius {radius}, {pattern}" for pattern in [*patterns, "not uniform"]]
        return tuple(f"{channel} {name}" for channel in ("red", "green", "blue") for name in names) if self.colour else tuple(names)

    def session(self, device: str) -> Session:
        return _TextureSession(self)


class _TextureSession:
    def __init__(self, options: RadiomicsLite):
        self.preparation = TexturePreparation(options.size, options.levels, options.distances, options.radii, options.colour)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return self.preparation(image)

    def features(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(batch).astype(np.float32, copy=False)


@dataclass(frozen=True)
class TexturePreparation:
    """All features of one image, so that they are computed where images are decoded. See :class:`RadiomicsLite`."""

    size: int
    levels: int
    distances: tuple[int, ...]
    radii: tuple[int, ...]
    colour: bool

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Features, float32 (d,), of an image, uint8 (height, width, 1 or 3)."""
        pixels = np.asarray(self._resized(image))
        channels = [pixels] if pixels.ndim == 2 else [pixels[:, :, i] for i in range(3)]
        rows = [part for channel in channels for part in (self.first_order(channel), self.co_occurrence(channel), self.patterns(channel))]
        return np.concatenate(rows).astype(np.float32)

    def _resized(self, image: np.ndarray) -> np.ndarray:
        from PIL import Image

        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert("RGB" if self.colour else "L")
        if self.size == 0:
            return np.asarray(picture)
        factor = self.size / math.sqrt(picture.width * picture.height)
        size = (max(1, min(self.size**2, round(picture.width * factor))), max(1, min(self.size**2, round(picture.height * factor))))
        return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))

    def first_order(self, channel: np.ndarray) -> np.ndarray:
        """Statistics of the values, float64, in the order of FIRST_ORDER."""
        counts = np.bincount(channel.ravel(), minlength=256)
        share, values = counts / channel.size, np.arange(256) / 255
        mean = float(share @ values)
        moments = [float(share @ (values - mean) ** power) for power in (2, 3, 4)]
        flat = int((counts > 0).sum()) == 1
        skewness = 0.0 if flat else moments[1] / moments[0] ** 1.5
        kurtosis = 0.0 if flat else moments[2] / moments[0] ** 2 - 3
        low, ten, quarter, median, three, ninety, high = np.percentile(channel, [0, 10, 25, 50, 75, 90, 100]) / 255
        binned = np.bincount(np.arange(256) * self.levels // 256, weights=share, minlength=self.levels)
        filled = binned[binned > 0]
        entropy = float(-(filled * np.log(filled)).sum()) / math.log(self.levels)
        deviation = float(share @ np.abs(values - mean))
        return np.array([mean, 0.0 if flat else math.sqrt(moments[0]), low, ten, quarter, median, three, ninety, high, 0.0 if flat else deviation,
                         skewness / (1 + abs(skewness)), kurtosis / (1 + abs(kurtosis)), abs(entropy), float((binned**2).sum())])

    def co_occurrence(self, channel: np.ndarray) -> np.ndarray:
        """Mean and range over the angles of each property at each distance, float64."""
        from skimage.feature import graycomatrix, graycoprops

        if not self.distances:
            return np.empty(0)
        quantised = (channel.astype(np.uint16) * self.levels // 256).astype(np.uint8)
        counts = graycomatrix(quantised, self.distances, ANGLES, levels=self.levels, symmetric=True, normed=False)
        paired = counts.sum(axis=(0, 1)) > 0
        scale = {"contrast": (self.levels - 1) ** 2, "dissimilarity": self.levels - 1, "entropy": 2 * math.log(self.levels)}
        properties = {what: graycoprops(counts, what) / scale.get(what, 1) for what in CO_OCCURRENCE}
        out: list[float] = []
        for row in range(len(self.distances)):
            for what in CO_OCCURRENCE:
                values = properties[what][row][paired[row]]
                out += [float(values.mean()), float(np.ptp(values))] if values.size else [FLAT[what], 0.0]
        return np.array(out)

    def patterns(self, channel: np.ndarray) -> np.ndarray:
        """Shares of the uniform local binary patterns at each radius, float64."""
        from skimage.feature import local_binary_pattern

        out = [np.empty(0)]
        for radius in self.radii:
            padded = np.pad(channel, radius, mode="edge")
            codes = local_binary_pattern(padded, 8 * radius, radius, "uniform")[radius:-radius, radius:-radius]
            out.append(np.bincount(codes.astype(np.int64).ravel(), minlength=8 * radius + 2) / channel.size)
        return np.concatenate(out)
