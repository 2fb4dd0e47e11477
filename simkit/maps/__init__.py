"""Where images and data sets lie: projections to a plane, and how much they distort."""

from __future__ import annotations

from simkit.maps.content import DatasetMap, ImageMap, MapSet
from simkit.maps.distances import Distances, distances_of, map_of, measures_of
from simkit.maps.layouts import METHODS, Layout, MapMethod, check_layout, layout
from simkit.maps.majorisation import Scaling, scaling
from simkit.maps.neighbourhoods import Distortion, distortion
from simkit.maps.sampling import RULE, spread_sample

__all__ = [
    "METHODS", "RULE", "DatasetMap", "Distances", "Distortion", "ImageMap", "Layout", "MapMethod", "MapSet", "Scaling", "check_layout", "distances_of",
    "distortion", "layout", "map_of", "measures_of", "scaling", "spread_sample",
]
