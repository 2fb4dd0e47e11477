"""Wasserstein distance between the images of two data sets, without labels."""

from __future__ import annotations

from dataclasses import dataclass

from simkit.estimators.point_transport import TransportEstimator

__all__ = ["Wasserstein"]


@dataclass(frozen=True)
class Wasserstein(TransportEstimator):
    """Squared 2-Wasserstein distance W2² between the features of two data sets; labels play no part.

    The minimum over couplings P of sum P_ij |x_i - x'_j|²: 0 for the same images, unbounded above, in squared units of the features. It is
    the feature part of ``otdd`` and a lower bound of it. Solvers, sampling and detail as for ``otdd``. The value falls with n even for equal
    distributions (as n^(-2/d), d the intrinsic dimension): compare values at equal n, and look at the floor.
    """

    name = "wasserstein"
    formula = "min_P Σ_ij P_ij |x_i − x'_j|²"
    hazards = (
        "It falls with the number of images even for equal distributions, as n^(−2/d): compare values at equal n only, beside the floor.",
        "Labels play no part: the same images with other classes are at 0. `otdd` reads labels.",
        "Lengths are squared, so few far images can make up most of it.",
        "The solvers differ: sinkhorn reads below exact, so pairs above `exact_up_to` do not compare with smaller ones; set one `solver` for all.",
    )
    citation = "Kantorovich 1942; Peyré and Cuturi 2019, Computational Optimal Transport (arXiv 1803.00567), eq. 2.11 and 4.2"
