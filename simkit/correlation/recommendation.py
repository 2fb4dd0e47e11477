"""Which source to take for a target that has no transfers yet: from its scores, and from scores and transfers of other targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from simkit.correlation.combination import WAYS, Choice, Learner, LeftOut, left_out, order_quality, reliability, static_scores
from simkit.correlation.evidence import Evidence, Options
from simkit.correlation.past_transfers import evidence_for
from simkit.correlation.predictive import DISTINGUISHED, Interval, Places, mean_interval, places
from simkit.correlation.recognition import Readable, names_of
from simkit.correlation.results import plain
from simkit.errors import Problems, UsageError, nearest
from simkit.recipe import rng_for

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Candidate", "Measure", "Recommendation", "Strategy", "recommend"]

Floats = NDArray[np.float64]

FEW_TARGETS = 5
"""Past targets below which all that is said about them is indicative only."""


@dataclass(frozen=True)
class Candidate:
    """A candidate source of the target.

    Attributes:
        source: its name.
        place: in the predicted order, 1 best; equals share the smallest number.
        predicted: predicted relative rank among the candidates, 0 to 1, 1 best, 0.5 in the middle; drawn towards 0.5 by as much as
            predictions were worth little on past targets. None where that is not known.
        expected_place: mean place over the draws; None without draws.
        place_interval: 2.5 % and 97.5 % quantile of the place.
        probability_best: share of the draws in which it is first, 0 to 1.
        probability_top3: share in which it is among the first three.
        probability_worse: share in which the first of the order is better than it ("first better"); None for the first itself.
        tied: not distinguishable from the first: that share is below 0.95, or there are no draws. False for the first itself.
        static_place: place by the static list (mean score over past targets) among the candidates; equals share the smallest number; None
            without past targets. A source that was never tried has the mean score there.
        past_targets: past targets on which it was measured.
    """

    source: str
    place: int
    predicted: float | None
    expected_place: float | None
    place_interval: tuple[int, int] | None
    probability_best: float | None
    probability_top3: float | None
    probability_worse: float | None
    tied: bool
    static_place: int | None
    past_targets: int


@dataclass(frozen=True)
class Strategy:
    """How a way to take a source did on past targets, each left out of all that was learned.

    Attributes:
        name: "own" (this procedure), "static" (mean score over the other past targets), "random" (expected values of a random scored source), or
            "always NAME".
        regret: mean over targets of the performance of the best measured source less that of the source taken (mean over equals), in units of the
            performance; 0 is perfect. None where it is not defined.
        spearman: mean over targets of Spearman's correlation between its order and the performance; None for a single source.
        targets: past targets that count.
        difference: mean regret of "own" less this, on these targets; negative where own is better.
        interval: its 95 % interval over targets; None for fewer than 3, and where all differences are equal.
        distinguishable: whether the interval leaves out 0; None without one, and for own.
        same: whether it lost as much as own on every target: the two took the same sources, or equally good ones.
    """

    name: str
    regret: float | None
    spearman: float | None
    targets: int
    difference: float | None = None
    interval: Interval | None = None
    distinguishable: bool | None = None
    same: bool = False


@dataclass(frozen=True)
class Measure:
    """A measure, and how it ordered the sources of past targets.

    Attributes:
        method: its name.
        spearman: mean over past targets of Spearman's correlation of the oriented measure with the performance; None without past targets.
        positive: past targets with a positive one; 0 where the measure is not used.
        targets: past targets; 0 where it is not used.
        weight: coefficient of its normal score in the way that is taken; None where that has none.
        left_out: why it is not used; "" where it is.
    """

    method: str
    spearman: float | None
    positive: int
    targets: int
    weight: float | None
    left_out: str = ""


@dataclass(frozen=True)
class Recommendation:
    """The candidate sources of a target in predicted order, and what that order is worth.

    Attributes:
        target: the target.
        candidates: in predicted order.
        strategies: own, static, random, always; by leaving out one past target at a time. Empty without past targets.
        measures: those that are used first, by name.
        way: how measures are combined: "static", "average", "single", "ridge", "ridge+static".
        ways: way -> mean Spearman's correlation on past targets that were left out; empty for fewer than 2 targets.
        way_shares: way -> share of the draws that took it.
        alpha: penalty of the ridge regression that is taken; None for another way.
        coefficients: feature -> coefficient of the way that is taken: measures, "static list", "source size".
        reliability: slope of performance on prediction over past targets left out, 0 to 1; predictions are multiplied by it. None where it cannot
            be estimated: with fewer than 2 past targets, and with 2 for the static list, of which each is the only evidence for the other.
        sources: past sources.
        targets: past targets.
        metric: of the performance.
        notes: what was read, recognised and left out.
        warnings: what limits the reading.
        seed: of the draws.
        bootstraps: draws.
    """

    target: str
    candidates: tuple[Candidate, ...]
    strategies: tuple[Strategy, ...]
    measures: tuple[Measure, ...]
    way: str
    ways: Mapping[str, float]
    way_shares: Mapping[str, float]
    alpha: float | None
    coefficients: Mapping[str, float]
    reliability: float | None
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    metric: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    seed: int
    bootstraps: int

    @property
    def answer(self) -> str:
        """One sentence: which source to take, and what cannot be told apart from it."""
        from simkit.correlation.recommendation_text import answer

        return answer(self)

    @property
    def frame(self) -> pd.DataFrame:
        """One row a candidate, in predicted order."""
        import pandas as pd

        names = [f.name for f in dataclasses.fields(Candidate) if f.name != "place_interval"]
        rows = [{**{name: getattr(one, name) for name in names}, **dict(zip(("place_lower", "place_upper"), one.place_interval or (None, None), strict=True))}
                for one in self.candidates]
        order = names.index("expected_place") + 1
        return pd.DataFrame(rows, columns=[*names[:order], "place_lower", "place_upper", *names[order:]])

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON types in full precision, with the answer and the versions that computed it."""
        from importlib.metadata import version

        from simkit import __version__

        versions = {"simkit": __version__, **{name: version(name) for name in ("numpy", "scipy", "scikit-learn")}}
        return {"answer": self.answer, **{f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}, "versions": versions}

    def text(self, width: int = 100) -> str:
        """The answer and the tables for a terminal of that width."""
        from simkit.correlation.recommendation_text import recommendation_text

        return recommendation_text(self, width)

    def _repr_html_(self) -> str:
        from simkit.correlation.recommendation_text import recommendation_html

        return recommendation_html(self)


def recommend(
    target: str, table: Readable, *, performance: Readable | None = None, methods: Sequence[str] | str = (), distances: Sequence[str] | str = (),
    similarities: Sequence[str] | str = (), alias: Iterable[tuple[str, str]] = (), allow_missing: bool = False, aggregate: Literal["mean"] | None = None,
    metric: str | None = None, decimal: Literal[".", ","] = ".", always: str | None = None, bootstraps: int = 2000, seed: int = 0,
) -> Recommendation:
    """Ranks the candidate sources of a target without transfers, from its scores and from the transfers of other targets.

    Scores and performances become normal scores of ranks within each target. The measures are combined by the simplest of five ways
    within one standard error of the best on past targets, each left out once: the static list (mean score of a source over past targets), the
    rank average of the measures, the best single measure, scikit-learn's ridge regression of the measures, and the same with static list
    and source size. What the whole procedure is worth, the choice included, is measured by leaving out one past target at a time. Intervals and
    probabilities are of draws that resample past sources and targets and add the errors of left-out targets
    (:func:`simkit.correlation.predictive.places`): they hold for a target that is like the past ones, and that a target is unlike them shows in no
    past target. With 2 past targets the better of static list and rank average is taken; with fewer the rank average, and there are no
    intervals and no probabilities.

    Past targets whose images or labels overlap, such as two sizes of one data set, tell each other's performances, and everything looks better
    than it is: say so by ``alias``. Of targets that are the same data, only the one with most pairs is kept.

    Candidates are the sources that have scores for the target. A measure without a score for some candidate, or for more than a fifth of
    the past pairs, is left out and named; past pairs that lack a score of a measure that is left teach nothing and are counted. Self pairs and training
    from scratch are neither candidates nor evidence; measured transfers of the target itself are left out of everything.

    Args:
        target: the target to transfer to. Its rows need scores and no performance.
        table: the scores, of the target and of past targets: a CSV path, a DataFrame, a ScoreTable, or a RawTable, long or wide, as
            :func:`simkit.correlate` reads them.
        performance: the column of the performance, or a pattern such as "fold_*"; or a second table that holds it. None recognises the column.
        methods: which measures: "name", "name=column", or "name=pattern" (columns averaged). Empty for all.
        distances: measures whose lower values mean more similar.
        similarities: measures whose higher values mean more similar.
        alias: pairs of names that mean the same data set, or sets so related that one tells the other's performance.
        allow_missing: leaves out and counts empty cells and past pairs that only one of two tables has, instead of refusing them.
        aggregate: "mean" averages rows of the same key, instead of refusing them.
        metric: of the performance; None takes it from the table. Of a table with one row per run and metric, whose rows are taken, as in
            :func:`simkit.correlate`.
        decimal: decimal mark of the tables.
        always: the source to hold against, taken for every target; None for the one that is called "imagenet" or has it in its name.
        bootstraps: draws, at least 100.
        seed: of the draws.

    Raises:
        UsageError: a target, column, measure or source that is not there (SK101), a direction that is not known (SK211), an option out of range.
        DataError: bad cells, rows of the same key, past pairs without a partner; each with file, line and column.
        NotEnoughData: fewer than 2 candidates, or no measure that scores them all (SK501).

    Example:
        >>> simkit.recommend("isic", "scores.csv", performance="transfer.csv").answer
    """
    _check(target, bootstraps, aggregate)
    options = Options(names_of(methods, "methods"), names_of(distances, "distances"), names_of(similarities, "similarities"),
                      tuple(alias), allow_missing, aggregate, metric, decimal)
    evidence = evidence_for(target, table, performance, options)
    baseline, note = _always(evidence, always)
    evidence = dataclasses.replace(evidence, notes=(*evidence.notes, *note))
    return _Ranking(target, evidence, baseline, bootstraps, seed).recommendation()


def _check(target: str, bootstraps: int, aggregate: str | None) -> None:
    problems = Problems()
    if not isinstance(target, str) or not target.strip():
        problems.add("SK102", "target", f"{target!r} is no name", "give the name of a target of the table")
    if isinstance(bootstraps, bool) or not isinstance(bootstraps, int) or bootstraps < 100:
        problems.add("SK102", "bootstraps", f"{bootstraps!r} is not valid here: expected a whole number >= 100", "give a whole number >= 100")
    if aggregate not in (None, "mean"):
        problems.add("SK102", "aggregate", f"{aggregate!r} is not known", "give 'mean', or nothing to refuse rows of the same key")
    problems.raise_if_any(UsageError)


def _always(evidence: Evidence, always: str | None) -> tuple[str, list[str]]:
    """The source to hold against ("" for none), and a note where there is none."""
    measured = {source for sources in evidence.performance.values() for source in sources}
    known = sorted({*measured, *evidence.candidates})
    if always is not None:
        if always not in known:
            raise UsageError("SK101", "always", f"there is no source '{always}'{nearest(always, known)}", f"sources found: {', '.join(known)}")
        return (always, []) if always in measured else ("", [f"{always} was never transferred from: it cannot be held against"])
    if not measured:
        return "", []
    named = [name for name in sorted(measured) if "imagenet" in name.casefold()]
    exact = [name for name in named if name.casefold() == "imagenet"]
    if len(exact or named) == 1:
        return (exact or named)[0], []
    if named:
        return "", [f"several sources have imagenet in their name ({', '.join(named)}): name the one to hold against (always=, --always)"]
    return "", ["no source with imagenet in its name was transferred from: nothing to hold always-ImageNet against (another one: always=, --always)"]


@dataclass
class _Ranking:
    """Puts evidence in order and says what the order is worth."""

    target: str
    evidence: Evidence
    baseline: str
    bootstraps: int
    seed: int

    def recommendation(self) -> Recommendation:
        evidence, rows = self.evidence, self.evidence.rows
        if rows is None:
            order = evidence.new_x.mean(1)
            return self.made(order, None, None, (), "average", {}, {}, None, {}, None, Learner)
        import sklearn

        learner = Learner(rows)
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            choice, left = learner.choose(range(rows.n_targets)), left_out(learner)
            ones = np.ones((1, rows.n_targets))
            past, new = (one[0] for one in static_scores(rows, ones))
            order, predicted, coefficients = learner.final(choice, np.ones(rows.n_sources), ones[0], past, new)
        worth, found = None, None
        if rows.n_targets > 1:
            worth = None if rows.n_targets == 2 and choice.way == "static" else float(reliability(left, ones)[0])
            predicted = predicted * (worth or 0.0)
            found = places(learner, choice, left, order, predicted, bootstraps=self.bootstraps, seed=self.seed, name=self.target)
        ways = {way: float(choice.spearman[k].mean()) for k, way in enumerate(WAYS)} if rows.n_targets > 1 else {}
        named = dict(zip(self.feature_names(choice, learner), (float(one) for one in coefficients), strict=True))
        return self.made(order, predicted if worth is not None else None, found, self.strategies(left), choice.way, ways,
                         found.ways if found else {}, choice.alphas.get(choice.way), named, worth, learner, new)

    def feature_names(self, choice: Choice, learner: Learner) -> list[str]:
        names = list(self.evidence.measures)
        if choice.way == "static":
            return ["static list"]
        if choice.way == "average":
            return ["rank average"]
        if choice.way == "single":
            return [names[learner.best_single(np.ones(learner.rows.n_targets))]]
        extra = ["static list", *(["source size"] if learner.rows.size.shape[1] else [])] if choice.way == "ridge+static" else []
        return [*names, *extra]

    def made(
        self, order: Floats, predicted: Floats | None, found: Places | None, strategies: tuple[Strategy, ...], way: str, ways: Mapping[str, float],
        shares: Mapping[str, float], alpha: float | None, coefficients: Mapping[str, float], worth: float | None, learner: Any,
        static: Floats | None = None,
    ) -> Recommendation:
        evidence = self.evidence
        candidates = _candidates(evidence, order, predicted, found, static)
        measures = self.measures(learner.single if isinstance(learner, Learner) else None, coefficients)
        return Recommendation(self.target, candidates, strategies, measures, way, ways, shares, alpha, coefficients, worth, evidence.sources,
                              evidence.targets, evidence.metric, evidence.notes, (*self.few(), *evidence.warnings), self.seed, self.bootstraps)

    def measures(self, single: Floats | None, coefficients: Mapping[str, float]) -> tuple[Measure, ...]:
        evidence = self.evidence
        used = [Measure(method, None if single is None else float(single[m].mean()), 0 if single is None else int((single[m] > 0).sum()),
                        len(evidence.targets), coefficients.get(method)) for m, method in enumerate(evidence.measures)]
        return (*used, *(Measure(method, evidence.left_out_spearman.get(method), 0, 0, None, why) for method, why in evidence.left_out.items()))

    def few(self) -> list[str]:
        n = len(self.evidence.targets)
        if n == 0:
            return ["no past target: the order is the rank average of the measures, with no evidence that they predict transfer and no probabilities"]
        if n == 1:
            return ["1 past target: nothing can be learned and checked; the order is the rank average of the measures, without probabilities"]
        if n == 2:
            return ["2 past targets: these same two chose between static list and rank average, so what the choice lost on them is too small; intervals and "
                    "probabilities are indicative only"]
        if n == 3:
            return ["3 past targets: leaving one out leaves two, which can only choose between static list and rank average; what this ranking is said to have "
                    "lost, its reliability and the probabilities are of that choice, so they are mostly too pessimistic"]
        return [f"few past targets ({n}): intervals and probabilities are indicative only"] if n < FEW_TARGETS else []

    def strategies(self, left: Sequence[LeftOut]) -> tuple[Strategy, ...]:
        """Own, static, random and always, on every past target that was left out."""
        evidence, rows = self.evidence, self.evidence.rows
        if rows is None:
            return ()
        regrets: dict[str, dict[int, float]] = {"own": {}, "static": {}, "random": {}, "always": {}}
        orders: dict[str, list[float]] = {"own": [], "static": [], "random": []}
        for one in left:
            measured = evidence.performance[evidence.targets[one.target]]
            best = max(measured.values())
            performance = np.array([measured[evidence.sources[s]] for s in rows.source[rows.target == one.target]])
            for name, order in (("own", one.order), ("static", one.static), ("random", np.zeros(len(performance)))):
                if order is None:
                    continue
                order = np.round(order, 12)
                regrets[name][one.target] = best - float(performance[order == order.max()].mean())
                orders[name].append(order_quality(order, one.y))
            if self.baseline in measured:
                regrets["always"][one.target] = best - measured[self.baseline]
        out = [self.strategy(name, regrets[name], regrets["own"], orders[name]) for name in ("own", "static", "random")]
        return (*out, self.strategy(f"always {self.baseline}", regrets["always"], regrets["own"], [])) if self.baseline else tuple(out)

    def strategy(self, name: str, regrets: Mapping[int, float], own: Mapping[int, float], orders: Sequence[float]) -> Strategy:
        regret = float(np.mean(list(regrets.values()))) if regrets else None
        spearman = float(np.mean(orders)) if orders else None
        if name == "own" or not regrets:
            return Strategy(name, regret, spearman, len(regrets))
        gaps = np.round([own[t] - one for t, one in regrets.items()], 12)
        interval = mean_interval(gaps, bootstraps=self.bootstraps, rng=rng_for("recommend", "regret", self.seed, self.target))
        apart = None if interval is None else not interval[0] <= 0 <= interval[1]
        return Strategy(name, regret, spearman, len(regrets), float(gaps.mean()), interval, apart, not gaps.any())


def _candidates(evidence: Evidence, order: Floats, predicted: Floats | None, found: Places | None, static: Floats | None) -> tuple[Candidate, ...]:
    from scipy.special import ndtr

    order = np.round(order, 12)
    first = int(np.argmax(order))
    tried = [sum(source in measured for measured in evidence.performance.values()) for source in evidence.candidates]
    out = []
    for c, source in enumerate(evidence.candidates):
        worse = None if found is None or c == first else float(found.first_better[c])
        out.append(Candidate(
            source, 1 + int((order > order[c]).sum()), None if predicted is None else float(ndtr(predicted[c])),
            None if found is None else float(found.expected[c]), None if found is None else (int(found.lower[c]), int(found.upper[c])),
            None if found is None else float(found.best[c]), None if found is None else float(found.top3[c]), worse,
            c != first and (worse is None or worse < DISTINGUISHED), None if static is None else 1 + int((static > static[c]).sum()), tried[c],
        ))
    return tuple(sorted(out, key=lambda one: (one.place, one.source)))
