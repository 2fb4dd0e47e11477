"""Cross-Learning Score: does a classifier that was trained on one data set work on the other, and back?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from simkit.embedding import Embedding, row_digests
from simkit.errors import DataError, NotEnoughData, UsageError
from simkit.estimators.base import FeatureEstimator, Known, Score
from simkit.registry import option
from simkit.transport.interruption import go_on

__all__ = ["CrossLearning", "NamedRows"]

SMALLEST, FEWEST_UNITS = 5, 2
"""Fewest images of a class on each side, and of groups (distinct images where there are no groups) that hold them: else the class is left out."""

MAX_ITERATIONS = 1000
SEARCH_TOLERANCE, TOLERANCE = 1e-4, 1e-6
"""Largest entry of the gradient (of a mean loss, each unknown in units of its curvature) at which a head counts as fitted."""

EQUAL = 1e-9
"""Log-odds that differ by less are ties."""


@dataclass(frozen=True, eq=False)
class NamedRows:
    """A data set as its head sees it.

    Attributes:
        name: of the data set.
        features: float32 (n, d), rows in the order of their content.
        labels: (n,) index into ``classes``.
        classes: names of the classes with images, sorted.
        units: per row, as text, what a fold never splits: the group (patient), or the row's digest where the set has no groups.
        digests: of each row.
        grouped: whether units are groups.
    """

    name: str
    features: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    units: np.ndarray
    digests: np.ndarray
    grouped: bool
    _heads: dict[Any, Heads] = field(default_factory=dict, repr=False)

    @property
    def usable(self) -> tuple[str, ...]:
        """Names of the classes with enough images and units."""
        rows = [self.labels == k for k in range(len(self.classes))]
        return tuple(name for name, own in zip(self.classes, rows, strict=True) if own.sum() >= SMALLEST and len(np.unique(self.units[own])) >= FEWEST_UNITS)

    def of_classes(self, names: tuple[str, ...]) -> NamedRows:
        """The rows of some classes, which are then numbered as in ``names``."""
        number = np.array([names.index(name) if name in names else -1 for name in self.classes])[self.labels]
        kept = number >= 0
        return NamedRows(self.name, self.features[kept], number[kept], names, self.units[kept], self.digests[kept], self.grouped)

    def heads(self, names: tuple[str, ...], folds: int, penalties: tuple[float, ...]) -> Heads:
        """Heads for these classes; the last ones are kept, since one set meets many others with the same classes."""
        key = (names, folds, penalties)
        found = self._heads.get(key)
        if found is None:
            found = _trained(self.of_classes(names), folds, penalties)
            self._heads.clear()
            self._heads[key] = found
        return found


@dataclass(frozen=True, eq=False)
class Heads:
    """The head of a data set, those of its folds, and how well these do on the images that they have not seen.

    Attributes:
        mean, scale: (d,) of the training images; scale is 0 for a constant feature.
        weights: (F + 1, d, K) of standardised features: without fold 0, 1, ..., and last the head of all images.
        intercepts: (F + 1, K); minus infinity for a class of which a fold has left no image.
        unit_fold, digest_fold: fold of each unit and of each image.
        penalties: chosen penalty of each, (F + 1,), nan for empty folds.
        own: (balanced accuracy, AUC) of the folds' heads, each on its fold.
        converged: whether all fits did.
        incomplete: names of classes that a fold has left without images.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercepts: np.ndarray
    unit_fold: dict[str, int]
    digest_fold: dict[bytes, int]
    penalties: tuple[float, ...]
    own: tuple[float, float]
    converged: bool
    incomplete: tuple[str, ...]

    def scores(self, rows: NamedRows) -> tuple[np.ndarray, int]:
        """(log-probabilities up to a constant a row (n, K), images known from training): an image (a patient) that took part in training is
        scored by the head of the fold that did not hold it, every other by the head of all images."""
        last = len(self.intercepts) - 1
        seen = [self.digest_fold.get(digest, -1) for digest in rows.digests.tolist()]
        if rows.grouped:
            seen = [self.unit_fold.get(unit, fold) for unit, fold in zip(rows.units.tolist(), seen, strict=True)]
        head = np.array([last if fold < 0 else fold for fold in seen])
        standard = (rows.features.astype(np.float64) - self.mean) * self.scale
        out = np.empty((len(standard), self.intercepts.shape[1]))
        for k in np.unique(head):
            out[head == k] = standard[head == k] @ self.weights[k] + self.intercepts[k]
        return out, int((head != last).sum())


@dataclass(frozen=True)
class CrossLearning(FeatureEstimator):
    """How well a classifier trained on the source works on the target, and one trained on the target on the source: the mean of the two directions.

    ``report`` chooses the number, both stand in the detail. ``balanced-accuracy``: mean hit rate of the K shared classes (0 to 1; chance, and features
    that say nothing about the classes: 1/K; ties are shared). ``auc``: mean over the shared classes of the area under the ROC curve of one class
    against the others, by log-odds (0 to 1, chance 1/2). Higher is better; 1: each set's classifier makes no mistake on the other. Below chance
    classes are exchanged: the same names mean other things. How hard the task is counts as well as how similar the sets are: read the value beside
    ``own``, each set's own cross-validated number, and ``ratio``, the cross number over that of the set on which it was tested. It
    rises with the number of images, so compare values at equal n.

    Classes are matched by their exact names. A class takes part if it has at least 5 images on both sides, of at least 2 groups (distinct images, where
    there are no groups); there must be at least 2 such classes. Images of other classes are left out of training and testing, counted in the detail
    (left_out) and named in a flag; so pairs with different shared classes have different tasks, chance levels and scales.

    The head is multinomial logistic regression: features standardised by all training images (not by their labels); all classes weighing the same
    whatever their numbers of images (as class_weight="balanced"), so that prevalence plays no part; a ridge penalty, chosen on the training side alone
    by the log-loss of held-out images in stratified folds (the strongest of equals). The folds keep groups (patients) whole where groups exist, and
    byte-identical images together where they do not. A set's own number is that of its folds, pooled; the penalty of a fold is chosen by the loss of
    the other folds.

    The same image, or a group of the same name, on both sides is never tested by a head that was trained on it, but by that of a fold which left it
    out. So the same set twice gives its own cross-validated number, not 1. Everything follows from the content of the images and the names of their
    classes: neither seed nor the order of rows, nor of source and target, moves the value. Features that are constant on the training side are not
    used; if all are, the direction is at chance, with a flag.

    Cost: an eigenproblem of size min(n, d) a set and folds x (penalties + 1) fits of O(n min(n, d) K) an iteration, some dozen iterations; they are done once a
    data set for all pairs with the same shared classes. At 300 + 300 images of 512 features and 5 classes about 0.2 s on one core.

    The paper trains an ensemble and reports error; here one linear head and its hit rate, both directions weighing the same.
    """

    name = "cross-learning"
    higher_is_better = True
    needs = ("labels",)
    bounds = (0.0, 1.0)
    size_biased = True
    reads_class_names = True
    unit = "balanced accuracy, mean of both directions (chance: 1 / shared classes)"
    formula = "½ (A(source → target) + A(target → source)),  A = balanced accuracy on the classes that both have"
    hazards = (
        "Classes are matched by their exact names: one meaning under two names is left out, two meanings under one name count as mistakes.",
        "Chance is 1 / K for K shared classes, so pairs with other shared classes have other scales; `report = auc` has chance ½ for all.",
        "A hard task scores low however similar the sets are: read ratio and own in the detail beside the value.",
        "It rises with n: compare values at equal n only.",
    )
    citation = ("Sun, Zhang and Watkins 2025, Quantifying data similarity using cross learning (arXiv 2510.10866): mean performance of the decision rules "
                "of two data sets on each other")

    report: Literal["balanced-accuracy", "auc"] = option("balanced-accuracy", "the value: balanced accuracy, or one-vs-rest area under the ROC curve")
    folds: int = option(5, "folds on each side, for the penalty and the side's own performance", minimum=2)
    penalties: tuple[float, ...] = option(
        (0.1, 0.01, 0.001, 0.0001, 0.00001), "ridge penalties to choose from, in units of the d features that vary (mean loss + penalty d / 2 |w|²)", above=0,
    )

    def __post_init__(self) -> None:
        if not self.penalties:
            raise UsageError("SK102", f"{self.name}.penalties", "the list of penalties is empty", "give at least one number > 0")
        if self.report == "auc":
            object.__setattr__(self, "unit", "area under the ROC curve, one class against the others, mean of both directions (chance: 0.5)")

    def missing(self, known: Known, role: Literal["source", "target"]) -> str:
        """Why the measure cannot be computed: no labels, or fewer than 2 classes with 5 images."""
        if reason := super().missing(known, role):
            return f"{reason}; domain-classifier is a measure without labels"
        enough = [name for name, count in known.class_counts.items() if count >= SMALLEST]
        if len(enough) < 2:
            return f"{self.name} needs at least 2 classes with {SMALLEST} images, {known.name} has {len(enough)}"
        return ""

    def summarize(self, view: Embedding) -> NamedRows:
        """Rows in the order of their content, with the names of their classes.

        Raises:
            DataError: NaN or infinite features (SK210), no labels (SK208).
        """
        if view.labels is None:
            raise DataError("SK208", view.name, f"{self.name} needs labels, '{view.name}' has none", "give (array, labels)")
        if not np.isfinite(view.features).all():
            raise DataError("SK210", view.name, "features hold NaN or infinite values", "remove or recompute these rows")
        names, digests = np.array(view.classes)[view.labels], row_digests(view.features)
        units = np.array([f"group {group}" for group in view.groups] if view.groups else [f"image {digest.hex()}" for digest in digests.tolist()])
        order = np.lexsort((names, units, digests))
        classes, labels = np.unique(names[order], return_inverse=True)
        return NamedRows(view.name, view.features[order], labels, tuple(str(name) for name in classes), units[order], digests[order], bool(view.groups))

    def compare(self, source: NamedRows, target: NamedRows, rng: np.random.Generator) -> Score:
        """Both directions of a pair; ``rng`` is not used.

        Raises:
            NotEnoughData: fewer than 2 shared classes with 5 images, of 2 groups, on both sides (SK501).
        """
        shared = self._shared(source, target)
        sides = [side.of_classes(shared) for side in (source, target)]
        heads = [side.heads(shared, self.folds, self.penalties) for side in (source, target)]
        (there, seen_there), (back, seen_back) = (heads[0].scores(sides[1]), heads[1].scores(sides[0]))
        cross = [_performance(scores, side.labels) for scores, side in ((there, sides[1]), (back, sides[0]))]
        which = 1 if self.report == "auc" else 0
        reported, own = [pair[which] for pair in cross], [head.own[which] for head in heads]
        good = heads[0].converged and heads[1].converged
        detail: dict[str, Any] = {
            "source_to_target": reported[0], "target_to_source": reported[1], "own": tuple(own),
            "ratio": tuple(a / b if b > 0 else None for a, b in zip(reported, own[::-1], strict=True)), "chance": 0.5 if which else 1.0 / len(shared),
            "balanced_accuracy": tuple(pair[0] for pair in cross), "auc": tuple(pair[1] for pair in cross),
            "own_balanced_accuracy": tuple(head.own[0] for head in heads), "own_auc": tuple(head.own[1] for head in heads),
            "classes": shared, "left_out": tuple(_left_out(side, shared) for side in (source, target)), "images_on_both_sides": (seen_back, seen_there),
            "penalties": tuple(head.penalties[-1] for head in heads), "fold_penalties": tuple(head.penalties[:-1] for head in heads),
            "n": tuple(len(side.labels) for side in sides), "d": source.features.shape[1], "folds": self.folds, "grouped": (source.grouped, target.grouped),
        }
        return Score(float(0.5 * (reported[0] + reported[1])), good, detail, flags=_flags((source, target), heads, shared))

    def _shared(self, source: NamedRows, target: NamedRows) -> tuple[str, ...]:
        shared = tuple(name for name in source.usable if name in target.usable)
        if len(shared) >= 2:
            return shared
        common = set(source.classes) & set(target.classes)
        what = [f"shared: {_listed([name for name in source.classes if name in common])}"]
        what += [f"only in '{side.name}': {_listed([name for name in side.classes if name not in common])}" for side in (source, target)]
        what += [f"shared but too few in '{side.name}': {_listed(small)}"
                 for side in (source, target) if (small := [name for name in side.classes if name in common and name not in side.usable])]
        message = (f"'{source.name}' and '{target.name}' have {len(shared)} classes in common that have at least {SMALLEST} images of {FEWEST_UNITS} groups "
                   f"(or {FEWEST_UNITS} distinct images) on both sides, {self.name} needs 2 ({'; '.join(what)})")
        fix = "give classes that mean the same the same name in both data sets, or choose a measure that does not read names, such as otdd"
        raise NotEnoughData("SK501", self.name, message, fix)

    def seconds(self, n_source: int, n_target: int) -> float | None:
        """Rough time of one pair on one core, at 512 features and five classes."""
        total = 0.0
        for n in (n_source, n_target):
            short = min(n, 512)
            total += self.folds * (len(self.penalties) + 1) / 30.0 * (0.03 + 8e-7 * n * short) + 3e-10 * short**3
        return total


def _listed(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") if names else "none"


def _left_out(side: NamedRows, shared: tuple[str, ...]) -> dict[str, int]:
    """Images of each class that takes no part."""
    return {name: int((side.labels == k).sum()) for k, name in enumerate(side.classes) if name not in shared}


def _flags(sides: tuple[NamedRows, NamedRows], heads: list[Heads], shared: tuple[str, ...]) -> tuple[str, ...]:
    found = []
    for side, head in zip(sides, heads, strict=True):
        if out := _left_out(side, shared):
            names = f"{'class' if len(out) == 1 else 'classes'} {_listed(sorted(out))}"
            found.append(f"{sum(out.values())} of {len(side.labels)} images of {side.name} left out: {names} not on both sides, or too small")
        if not head.scale.any():
            found.append(f"all features of {side.name} are constant: its classifier guesses")
        if head.incomplete:
            found.append(f"groups of {side.name} are too few: folds without class {_listed(list(head.incomplete))} in training, its own performance is too low")
        if not head.converged:
            found.append(f"not converged: logistic regression on {side.name}")
    return tuple(dict.fromkeys(found))


def _performance(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """(balanced accuracy, macro one-vs-rest AUC) of log-probabilities (n, K); labels are 0..K-1, each present."""
    from scipy.stats import rankdata

    classes = scores.shape[1]
    top = scores >= scores.max(1, keepdims=True) - EQUAL
    hits = top[np.arange(len(labels)), labels] / top.sum(1)
    accuracy, auc = [], []
    for k in range(classes):
        own = labels == k
        count, others = int(own.sum()), int((~own).sum())
        odds = scores[:, k] - np.logaddexp.reduce(np.delete(scores, k, axis=1), axis=1)
        ranks = rankdata(np.round(odds, 9))
        accuracy.append(float(hits[own].mean()))
        auc.append((float(ranks[own].sum()) - count * (count + 1) / 2) / (count * others))
    return float(np.mean(accuracy)), float(np.mean(auc))


def class_folds(units: np.ndarray, labels: np.ndarray, folds: int) -> np.ndarray:
    """Fold of each row, int (n,): whole units, and of each class as equal shares as the units allow.

    Units are placed from the largest to the smallest (in the order of their first row among equals; size is the sum of shares of classes), each where the
    sum of squared shares grows least, then where the fewest rows are.
    """
    _, first, member = np.unique(units, return_index=True, return_inverse=True)
    counts = np.zeros((len(first), int(labels.max()) + 1))
    np.add.at(counts, (member, labels), 1.0)
    shares = counts / np.maximum(counts.sum(0), 1.0)
    loads, rows = np.zeros((folds, counts.shape[1])), np.zeros(folds)
    chosen = np.zeros(len(first), dtype=np.int64)
    for unit in np.lexsort((first, -np.round(shares.sum(1), 12))).tolist():
        growth = np.round((loads * shares[unit]).sum(1), 12)  # rounded, so that equal shares tie
        best = int(np.lexsort((rows, growth))[0])
        chosen[unit] = best
        loads[best] += shares[unit]
        rows[best] += counts[unit].sum()
    return np.asarray(chosen[member])


def _trained(side: NamedRows, folds: int, penalties: tuple[float, ...]) -> Heads:
    """Standardises, chooses penalties and fits all heads. Classes are numbered by their first row, so that their names do not matter."""
    order = np.argsort(np.unique(side.labels, return_index=True)[1])
    labels = np.argsort(order)[side.labels]
    fold, classes = class_folds(side.units, labels, folds), len(order)
    points = _Points.of(side.features)
    grid = [penalty * max(int((points.scale > 0).sum()), 1) for penalty in sorted(penalties, reverse=True)]
    weights = np.zeros((folds + 1, points.rows.shape[1], classes))
    held, converged, incomplete = np.zeros((folds, len(grid))), True, set()
    paths: list[list[np.ndarray]] = []
    used = [k for k in range(folds) if (fold == k).any()]
    for k in used:
        train = fold != k
        go_on()
        path = [np.zeros((points.rows.shape[1], classes))]
        for position, ridge in enumerate(grid):
            fit, good = _fit(points, train, labels, ridge, path[-1], SEARCH_TOLERANCE)
            path.append(fit)
            converged &= good
            held[k, position] = _held_out_loss(points.rows[~train] @ fit, labels, fold == k)
        paths.append(path[1:])
        incomplete |= set(range(classes)) - set(labels[train].tolist())
    total, chosen = held.sum(0), np.full(folds + 1, np.nan)
    out_of_fold = np.zeros((len(labels), classes))
    for k in (*used, folds):
        loss = total if k == folds else total - held[k]
        best = int(np.argmax(loss <= loss.min() + 1e-9))
        start = paths[used.index(k)][best] if k < folds else np.mean([path[best] for path in paths], axis=0)
        start = np.where(np.isfinite(start), start, 0.0)
        weights[k], good = _fit(points, fold != k, labels, grid[best], start, TOLERANCE)
        converged &= good
        chosen[k] = sorted(penalties, reverse=True)[best]
        if k < folds:
            out_of_fold[fold == k] = points.rows[fold == k] @ weights[k]
    named = weights[:, :, np.argsort(order)]
    own = _performance(out_of_fold, labels)
    return Heads(
        points.mean, points.scale, np.stack([points.turn @ w[:-1] for w in named]), named[:, -1], dict(zip(side.units.tolist(), fold.tolist(), strict=True)),
        dict(zip(side.digests.tolist(), fold.tolist(), strict=True)), tuple(chosen.tolist()), own, converged,
        tuple(sorted(side.classes[int(order[c])] for c in incomplete)),
    )


@dataclass(frozen=True, eq=False)
class _Points:
    """Standardised rows X in the coordinates of their principal directions: a ridge solution lies in the span of the rows.

    Attributes:
        mean, scale: (d,); scale is 1 / spread, or 0 for a constant feature (spread below 1e-6 of its size: float32 rounding).
        turn: V, (d, r), orthonormal.
        rows: (n, r + 1): X V, then ones for the intercept.
        bend: (r + 1,) mean squares of the columns.
    """

    mean: np.ndarray
    scale: np.ndarray
    turn: np.ndarray
    rows: np.ndarray
    bend: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> _Points:
        x = features.astype(np.float64)
        n, d = x.shape
        mean = x.mean(0)
        x -= mean
        spread = np.sqrt(np.square(x).mean(0))
        scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-6 * np.abs(mean))
        x *= scale
        values, vectors = np.linalg.eigh(x @ x.T if n < d else x.T @ x)
        kept = values > 1e-10 * max(float(values[-1]), 1e-300)
        turn = (x.T @ vectors[:, kept]) / np.sqrt(values[kept]) if n < d else vectors[:, kept]
        return cls(mean, scale, turn, np.concatenate([x @ turn, np.ones((n, 1))], axis=1), np.append(values[kept] / n, 1.0))


def _held_out_loss(scores: np.ndarray, labels: np.ndarray, held: np.ndarray) -> float:
    """Log-loss of held-out rows, each class weighing the same in all folds together; rows of a class that the head does not know do not count."""
    own = labels[held]
    loss = np.logaddexp.reduce(scores, axis=1) - scores[np.arange(len(own)), own]
    return float(np.sum(np.where(np.isfinite(loss), loss, 0.0) / np.bincount(labels)[own]))


def _fit(points: _Points, train: np.ndarray, labels: np.ndarray, ridge: float, start: np.ndarray, tolerance: float) -> tuple[np.ndarray, bool]:
    """(W (r + 1, K) with the intercepts last, converged) of the multinomial logistic regression

        min  sum_i s_i (log sum_c exp f_ic - f_i,y_i) + ridge / 2 |W|²,   f = X W + b,

    with s_i = 1 / (classes x images of the class), by L-BFGS, unknowns scaled by the curvature at equal probabilities. This is the
    problem of scikit-learn's LogisticRegression with C = 1 / (n ridge) and class_weight="balanced" (for two classes C = 2 / (n ridge): it has one column
    there). scikit-learn's own fit gives no way to scale the unknowns, which takes several times as long, and says by a warning that it did not converge.
    A class without training rows gets the intercept minus infinity.
    """
    from scipy.optimize import minimize

    rows, y = points.rows[train], labels[train]
    counts = np.bincount(y, minlength=start.shape[1])
    known = np.flatnonzero(counts)
    y, at = np.searchsorted(known, y), np.arange(len(y))
    mass = (1.0 / (len(known) * counts[known]))[y]
    penalty = np.full((rows.shape[1], 1), ridge)
    penalty[-1] = 0.0
    unit = 1.0 / np.sqrt(points.bend[:, None] / len(known) + penalty)

    def objective(unknowns: np.ndarray) -> tuple[float, np.ndarray]:
        w = unknowns.reshape(len(unit), len(known)) * unit
        f = rows @ w
        f -= f.max(1, keepdims=True)
        p = np.exp(f)
        sums = p.sum(1)
        loss = mass @ (np.log(sums) - f[at, y]) + 0.5 * np.sum(penalty * w * w)
        p *= (mass / sums)[:, None]
        p[at, y] -= mass
        return float(loss), ((rows.T @ p + penalty * w) * unit).ravel()

    first = np.where(np.isfinite(start[:, known]), start[:, known], 0.0) / unit
    options = {"maxiter": MAX_ITERATIONS, "maxfun": 4 * MAX_ITERATIONS, "gtol": tolerance, "ftol": 0.0, "maxcor": 10}
    found = minimize(objective, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    w = np.zeros(start.shape)
    w[-1] = -np.inf
    w[:, known] = found.x.reshape(first.shape) * unit
    return w, bool(np.abs(found.jac).max() <= tolerance)
