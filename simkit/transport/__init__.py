"""Optimal transport between point clouds: exact, and entropic for clouds of any size; Gaussians; each with what certifies its result.

Costs are unhalved and squared: values are in squared units of the features.
"""

from simkit.transport.costs import squared_distances
from simkit.transport.exact import (
    MARGINAL_TOLERANCE,
    Transport,
    exact_transport,
    exact_transport_memory,
    exact_transport_seconds,
    point_weights,
)
from simkit.transport.gaussian import (
    Gaussian,
    gaussian_distance,
    gaussian_distances,
    gaussian_distances_seconds,
    gaussian_of,
    nuclear_norm,
)
from simkit.transport.memory import check_memory, memory_limit, reserved

__all__ = [
    "MARGINAL_TOLERANCE", "Gaussian", "Transport", "check_memory", "exact_transport", "exact_transport_memory", "exact_transport_seconds",
    "gaussian_distance", "gaussian_distances", "gaussian_distances_seconds", "gaussian_of", "memory_limit", "nuclear_norm", "point_weights", "reserved",
    "squared_distances",
]
