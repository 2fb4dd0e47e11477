"""What a map shows, ready to be drawn: points with what they are, how they were made, and how much is distorted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from simkit.maps.layouts import METHODS, Layout
from simkit.maps.neighbourhoods import Distortion
from simkit.tables import csv_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NOT_A_MEASUREMENT", "DatasetMap", "ImageMap", "MapSet"]

NOT_A_MEASUREMENT = "A map is not a measurement: what is near or far in it must be confirmed by the scores."


@dataclass(frozen=True, eq=False)
class MapSet:
    """The images of one data set on a map, in the order of its keys.

    Attributes:
        name: of the data set.
        total: images that it has, without those that were found to be unreadable.
        keys: of the images that are shown.
        labels: class of each ("" for an unlabelled set).
        groups: patient of each, or None.
        splits: of each, or None.
        thumbnails: small pictures uint8 (h, w, 1 or 3) by position among the keys; empty without pictures.
    """

    name: str
    total: int
    keys: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
    thumbnails: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def counted(self) -> str:
        """ "digits 2,000 of 5,620 images"."""
        shown = f"{len(self.keys):,}" if len(self.keys) == self.total else f"{len(self.keys):,} of {self.total:,}"
        return f"{self.name} {shown} image{'' if self.total == 1 else 's'}"


@dataclass(frozen=True, eq=False)
class ImageMap:
    """A map of images.

    Attributes:
        sets: the data sets.
        layout: the points of all sets, one after the other.
        distortion: of the layout.
        extractor: what made the features, in words.
        dimension: number of features.
        pictures: whether thumbnails were asked for.
    """

    sets: tuple[MapSet, ...]
    layout: Layout
    distortion: Distortion
    extractor: str
    dimension: int
    pictures: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Of the data sets."""
        return tuple(one.name for one in self.sets)

    @property
    def rows(self) -> np.ndarray:
        """Number of the data set of each point, (n,)."""
        return np.repeat(np.arange(len(self.sets)), [len(one.keys) for one in self.sets])

    @property
    def labels(self) -> tuple[str, ...]:
        """Class of each point."""
        return tuple(label for one in self.sets for label in one.labels)

    @property
    def sampled(self) -> bool:
        """Whether some data set is not shown whole."""
        return any(len(one.keys) < one.total for one in self.sets)

    @property
    def said(self) -> tuple[str, ...]:
        """What must be said beside the map: method, distortion with what chance gives, remarks."""
        found, n = self.distortion, len(self.rows)
        made = f"{METHODS[self.layout.method]} of {n:,} images, {self.dimension:,} features ({self.layout.settings})."
        if self.layout.explained is not None:
            made += f" The axes hold {self.layout.explained[0]:.1%} and {self.layout.explained[1]:.1%} of the variance."
        k = f"k = {found.k}" + ("" if found.k >= 15 else f" (15 needs 31 images, there are {n})")
        kept = (f"Distortion at {k}: trustworthiness {found.trustworthiness:.3f}, continuity {found.continuity:.3f} (1: every neighbourhood is kept; the same "
                f"points exchanged at random get {found.chance[0]:.3f} and {found.chance[1]:.3f}).")
        return (made, kept, NOT_A_MEASUREMENT, *(f"{METHODS[self.layout.method]} warns: {remark}" for remark in self.layout.remarks))

    def to_csv(self) -> str:
        """dataset, key, class, group, split, x, y: one row a point."""
        return csv_text(["dataset", "key", "class", "group", "split", "x", "y"], self._records())

    def _records(self) -> list[list[Any]]:
        out: list[list[Any]] = []
        for one in self.sets:
            for i, (key, label) in enumerate(zip(one.keys, one.labels, strict=True)):
                x, y = self.layout.points[len(out)]
                out.append([one.name, key, label or None, one.groups[i] if one.groups else None, one.splits[i] if one.splits else None, float(x), float(y)])
        return out

    @property
    def frame(self) -> pd.DataFrame:
        """The rows of :meth:`to_csv` as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self._records(), columns=["dataset", "key", "class", "group", "split", "x", "y"])

    def as_dict(self) -> dict[str, Any]:
        """For JSON: without the points, which are in the CSV."""
        found = self.distortion
        return {
            "method": self.layout.method, "settings": self.layout.settings, "images": len(self.rows), "features": self.dimension, "extractor": self.extractor,
            "explained_variance": None if self.layout.explained is None else list(self.layout.explained), "k": found.k,
            "trustworthiness": found.trustworthiness, "continuity": found.continuity,
            "chance": {"trustworthiness": found.chance[0], "continuity": found.chance[1]},
            "datasets": [{"name": one.name, "shown": len(one.keys), "images": one.total, "trustworthiness": found.per_set[one.name][0],
                          "continuity": found.per_set[one.name][1]} for one in self.sets],
            "remarks": list(self.layout.remarks), "statement": NOT_A_MEASUREMENT,
        }


@dataclass(frozen=True, eq=False)
class DatasetMap:
    """A map of data sets.

    Attributes:
        measure: whose distances it draws.
        names: of the data sets.
        targets: whether each is a target.
        points: float64 (k, 2).
        floors: radius of each target's circle, in the unit of the distances; None where there is none.
        unit: of the distances as drawn.
        stress: stress-1 of the map.
        each: stress-1 of each data set.
        distances: (k, k) as drawn; NaN where not known.
        remarks: what was done to the scores, and what is to be known.
    """

    measure: str
    names: tuple[str, ...]
    targets: tuple[bool, ...]
    points: np.ndarray
    floors: tuple[float | None, ...]
    unit: str
    stress: float
    each: tuple[float, ...]
    distances: np.ndarray
    remarks: tuple[str, ...] = ()

    POOR = 0.2
    """Stress-1 above which a map is poor (Kruskal 1964)."""

    @property
    def missing(self) -> int:
        """Pairs without a distance."""
        return int(np.isnan(self.distances[np.triu_indices(len(self.names), 1)]).sum())

    @property
    def said(self) -> tuple[str, ...]:
        """What must be said beside the map."""
        pairs = len(self.names) * (len(self.names) - 1) // 2
        made = (f"{self.measure}: metric multidimensional scaling of {pairs - self.missing} of {pairs} distances between {len(self.names)} data sets; "
                f"stress {self.stress:.3f} (0: every distance is drawn exactly).")
        poor = (f"Warning: a stress above {self.POOR:g} means that the plane cannot hold these distances; read the scores, not the map."
                if self.stress > self.POOR else "")
        few = (f"With {len(self.names)} data sets, distances without any structure give a stress of less than {self.POOR:g} as well: a small one says little."
               if len(self.names) < 8 else "")
        return (made, *(line for line in (poor, few) if line), *self.remarks, NOT_A_MEASUREMENT)

    def records(self) -> list[list[Any]]:
        """measure, dataset, role, x, y, floor, stress: one row a data set."""
        roles = ["target" if target else "source" for target in self.targets]
        return [[self.measure, name, roles[i], float(self.points[i, 0]), float(self.points[i, 1]), self.floors[i], self.each[i]]
                for i, name in enumerate(self.names)]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        keys = ("dataset", "role", "x", "y", "floor", "stress")
        return {"measure": self.measure, "unit": self.unit, "stress": self.stress, "missing_pairs": self.missing,
                "datasets": [dict(zip(keys, row[1:], strict=True)) for row in self.records()], "remarks": list(self.said)}
