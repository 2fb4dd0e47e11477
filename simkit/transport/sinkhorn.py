"""Entropic optimal transport for clouds of any size: few passes over the kernel, bounded memory, a certificate with every value.

The problem is ``OT_eps = min <C, P> + eps KL(P | a b')`` over couplings P (Cuturi 2013; Feydy et al. 2019 for the debiased divergence). P_ij =
a_i b_j 2^E_ij with E = (f + g - C) / eps in base 2. What makes it fast and safe:

* potentials in float64, the kernel 2^E in float32 at these potentials, scalings as vectors (absorption, Schmitzer 2019): a step is a
  matrix-vector product, without an exponential, and nothing under- or overflows for good;
* one pass over the tiles is a whole iteration: a tile's rows are scaled first, and its columns are summed with the new scalings;
* the masses between classes are balanced exactly in every pass (see :class:`~simkit.transport.acceleration.Groups`): with separated classes of
  unequal size plain Sinkhorn moves mass between them by e^(-gap / eps) a step, hundreds of passes that this saves; what is left is
  extrapolated (Anderson 1965), with a safeguard;
* large problems start from the potentials of a part of 1024 points, extended to all; small ones from a sequence of epsilons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simkit.transport.costs import Cloud, mean_cost
from simkit.transport.measures import Entropic
from simkit.transport.solver import Settings, Solver, predicted_seconds

__all__ = ["Divergence", "Entropic", "LabelCosts", "Settings", "entropic_transport", "predicted_seconds", "sinkhorn_divergence"]


@dataclass(frozen=True, eq=False)
class LabelCosts:
    """W between the classes of source and target, and within each; zeros (1, 1) where labels play no part."""

    cross: np.ndarray
    source: np.ndarray
    target: np.ndarray


@dataclass(frozen=True, eq=False)
class Divergence:
    """Debiased Sinkhorn divergence S = OT_eps(a, b) - OT_eps(a, a) / 2 - OT_eps(b, b) / 2, or the certified lower bound of the unregularised optimum.

    Attributes:
        value: S, 0 for equal clouds, and not negative at epsilons that are small against the cost; or ``cross.lower`` where the clouds were not
            held against themselves.
        cross: the problem between the clouds.
        source, target: each cloud against itself; None for the lower bound.
        epsilon: regularisation, in units of the cost.
        mean_cost: mean of the cost over all pairs, of which ``epsilon`` is a share.
    """

    value: float
    cross: Entropic
    source: Entropic | None
    target: Entropic | None
    epsilon: float
    mean_cost: float

    @property
    def problems(self) -> tuple[Entropic, ...]:
        """What was solved."""
        return tuple(one for one in (self.cross, self.source, self.target) if one is not None)

    @property
    def feature_part(self) -> float:
        """w <|x - x'|², P>, less half of that of each cloud with itself."""
        return self.cross.feature_part - sum(one.feature_part for one in self.problems[1:]) / 2

    @property
    def label_part(self) -> float:
        """<W, P>, less half of that of each cloud with itself."""
        return self.cross.label_part - sum(one.label_part for one in self.problems[1:]) / 2

    @property
    def entropy_part(self) -> float:
        """What is left of the value: of S, the entropies of the plans, debiased alike; of the lower bound, minus the gap to the plan's cost."""
        return self.value - self.feature_part - self.label_part

    @property
    def marginal_error(self) -> float:
        """The largest of the problems."""
        return max(one.marginal_error for one in self.problems)

    @property
    def converged(self) -> bool:
        """Whether all problems did."""
        return all(one.converged for one in self.problems)

    @property
    def bias_bound(self) -> float:
        """How far the value can lie from the unregularised optimum: the farther end of the certified bracket."""
        return max(self.value - self.cross.lower, self.cross.upper - self.value)


def sinkhorn_divergence(
    source: Cloud, target: Cloud, costs: LabelCosts, *, epsilon: float = 0.01, absolute: float | None = None, feature_weight: float = 1.0,
    debias: bool = True, settings: Settings | None = None,
) -> Divergence:
    """The debiased divergence between two labelled clouds for the cost w |x - x'|² + W.

    Args:
        source, target: the clouds.
        costs: W between and within them (only between them without ``debias``).
        epsilon: regularisation as a share of the mean cost between the two clouds.
        absolute: regularisation in units of the cost, instead of ``epsilon``.
        feature_weight: w.
        debias: solve each cloud against itself as well; else the value is the lower bound of the unregularised optimum.
        settings: how it is solved.

    Raises:
        ResourceError: not even the smallest tile fits, or the device ran out of memory (SK301, with the tile that fits).
    """
    settings = settings or Settings()
    mean = mean_cost(source, target, costs.cross, feature_weight=feature_weight)
    chosen = absolute if absolute is not None else epsilon * mean
    size = float(source.mean @ source.mean + target.mean @ target.mean)
    if chosen <= 0 or (mean <= 1e-24 * feature_weight * size and not np.any(costs.cross)):  # all points of both clouds are one, up to rounding
        nothing = [_nothing(*pair) for pair in ((source, target, costs.cross), (source, source, costs.source), (target, target, costs.target))]
        return Divergence(0.0, nothing[0], nothing[1], nothing[2], 0.0, 0.0)
    cross = entropic_transport(source, target, costs.cross, epsilon=chosen, feature_weight=feature_weight, settings=settings)
    if not debias:
        return Divergence(cross.lower, cross, None, None, chosen, mean)
    one = entropic_transport(source, source, costs.source, epsilon=chosen, feature_weight=feature_weight, settings=settings)
    other = entropic_transport(target, target, costs.target, epsilon=chosen, feature_weight=feature_weight, settings=settings)
    return Divergence(cross.value - one.value / 2 - other.value / 2, cross, one, other, chosen, mean)


def _nothing(one: Cloud, other: Cloud, table: np.ndarray) -> Entropic:
    mass = np.outer(one.masses(len(table)), other.masses(table.shape[1]))
    return Entropic(0.0, 0.0, 0.0, 0.0, (np.zeros(len(one)), np.zeros(len(other))), mass, 0.0, 0.0, 0.0, 0, True)


def entropic_transport(
    source: Cloud, target: Cloud, table: np.ndarray, *, epsilon: float, feature_weight: float = 1.0, settings: Settings | None = None,
) -> Entropic:
    """Entropic transport between two clouds, or of one with itself (the same object twice), for the cost w |x - x'|² + W.

    Args:
        source, target: the clouds.
        table: W between their classes, (K1, K2); zeros (1, 1) for none.
        epsilon: regularisation > 0 in units of the cost.
        feature_weight: w >= 0.
        settings: how it is solved.

    Raises:
        ResourceError: see :func:`sinkhorn_divergence`.
    """
    return Solver(source, target, table, epsilon, feature_weight, settings or Settings()).solve()
