"""LP x FU: learned-space probability times feature update, each relative to the other sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simkit.errors import NotEnoughData
from simkit.estimators.base import Score
from simkit.estimators.fu import Fu
from simkit.estimators.lp import Lp
from simkit.estimators.seen import Seen

__all__ = ["LpFu", "min_max"]


def min_max(values: np.ndarray) -> np.ndarray:
    """Values (S,) mapped linearly so that the smallest is 0 and the largest 1; all alike: NaN."""
    low, high = float(values.min()), float(values.max())
    return np.full(len(values), np.nan) if high == low else (values - low) / (high - low)


@dataclass(frozen=True)
class LpFu(Lp):
    """Feature quality times adaptability: LP x FU of a source, both mapped to 0..1 over the sources of the run.

    LPFU(s) = m(LP)(s) m(FU)(s) with m(v) = (v - min v) / (max v - min v) over all sources of one target; see ``lp`` and ``fu``, whose own values
    stand in the detail as lp and fu, the mapped ones as lp_relative and fu_relative. 1: the best source by both; 0: the worst by one of them, whatever
    the other says. It ranks the sources of one run: with another source in it the values move, so they cannot be compared between runs or between targets.

    Options are those of LP. The published score is ``validation = "resubstitution"``.

    Raises:
        NotEnoughData: one source alone; or LP or FU is the same for all sources.
    """

    name = "lp-fu"
    pool_relative = True
    reads = ("features", "gradients")
    resampled = False
    unit = "product of two ranks within 0..1 over the sources of the run"
    formula = "m(LP) m(FU),  m(v) = (v − min v) / (max v − min v) over the sources of the run"
    hazards = (
        "It is relative to the sources of the run: adding one moves all values, and values of two runs or targets do not compare.",
        "The worst source by one part is 0 whatever the other says; with two sources at least one always is. Read `lp` and `fu` too.",
        "It has neither an interval nor a floor of shuffled labels.",
        "Compare networks of one architecture only, as for `fu`.",
    )
    citation = "Juodelyte et al. 2024, On dataset transferability in medical image classification (arXiv 2412.20172), section 3 (and its notebook)"

    def assess(self, seen: Seen, rng: np.random.Generator) -> Score:
        """One source alone has no value."""
        return self.assess_all([seen], [rng])[0]

    def assess_all(self, seen: Sequence[Seen], rngs: Sequence[np.random.Generator]) -> list[Score]:
        """Scores of all sources of one target."""
        if len(seen) < 2:
            message = f"is relative to the sources of a run, and '{seen[0].source}' is the only one for {seen[0].target}" if seen else "there is no source"
            raise NotEnoughData("SK501", self.name, message, "give two sources at least, or take lp and fu, which are not relative")
        update = Fu()
        quality = [Lp.assess(self, one, rng) for one, rng in zip(seen, rngs, strict=True)]
        updates = [update.assess(one, rng) for one, rng in zip(seen, rngs, strict=True)]
        relative = {}
        for part, scores in (("lp", quality), ("fu", updates)):
            relative[part] = min_max(np.array([score.value for score in scores]))
            if np.isnan(relative[part]).any():
                message = f"{part} is {scores[0].value:.6g} for all {len(scores)} sources of {seen[0].target}: it ranks none above another"
                raise NotEnoughData("SK502", self.name, message, f"take the other part alone (method = {'fu' if part == 'lp' else 'lp'})")
        out = []
        for first, second, a, b in zip(quality, updates, relative["lp"], relative["fu"], strict=True):
            gradients = {f"gradient_{name}": value for name, value in second.detail.items() if name not in ("n", "d", "classes", "fu")}
            parts = {"lp": first.value, "fu": second.value, "lp_relative": float(a), "fu_relative": float(b), "sources": len(seen)}
            out.append(Score(float(a * b), True, {**first.detail, **parts, **gradients}, flags=first.flags))
        return out
