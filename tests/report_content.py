"""Contents for tests of the report: synthetic numbers, hostile and long names, a missing cell, an undefined measure, a tie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simkit.dataset import DatasetCard, Skipped
from simkit.recipe import rng_for
from simkit.report import Content, MethodInfo, Unavailable
from simkit.tables import ScoreTable, TransferTable

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(2)>'
LONG = "a-data-set-whose-name-is-forty-five-chars-lon"
HOSTILE = (SCRIPT, IMAGE, LONG)


@dataclass(frozen=True)
class Ranked:
    source: str
    mean: float | None
    interval: Any
    n: int
    probability_best: Any = None
    gap_to_best: Any = None
    gap_interval: Any = None
    tied: bool = False
    baseline: bool = False
    undefined: str = ""


@dataclass(frozen=True)
class TargetR:
    target: str
    n: int
    spearman: Any = None
    interval: Any = None
    kendall: Any = None
    weighted_tau: Any = None
    pearson: Any = None
    p_value: Any = None
    best_source: Any = None
    chosen_source: Any = None
    regret: Any = None
    random_regret: Any = None
    points: tuple = ()
    undefined: str = ""


@dataclass(frozen=True)
class MethodR:
    method: str
    higher_is_better: bool
    mean_spearman: Any
    interval: Any = None
    p_value: Any = None
    p_holm: Any = None
    regret: Any = None
    versus_static: Any = None
    positive_targets: int = 0
    targets: tuple = ()
    undefined: str = ""


@dataclass(frozen=True)
class Corr:
    methods: tuple
    baselines: tuple
    n_pairs: int
    n_sources: int
    n_targets: int
    metric: str
    notes: tuple = ()
    warnings: tuple = ()
    resolution: Any = None
    noise_ceiling: Any = None


def images(name: str, count: int = 8) -> tuple[np.ndarray, ...]:
    """Smooth random patterns, colour and grey, of different shapes."""
    rng = rng_for("thumbnails", name)
    out = []
    for index in range(count):
        y, x = np.mgrid[0 : 40 + 8 * index, 0:64]
        waves = [np.sin(x / rng.uniform(3, 12) + rng.uniform(0, 6)) * np.cos(y / rng.uniform(3, 12)) for _ in range(3 if index % 3 else 1)]
        out.append(np.stack([(127 + 120 * wave) for wave in waves], axis=2).astype(np.uint8))
    return tuple(out)


def card(name: str, number: int, classes: int = 3, skipped: int = 0) -> DatasetCard:
    counts = {f"{name} class {i}" if i else SCRIPT: 40 * (i + 1) + number for i in range(classes)}
    return DatasetCard(name=name, fingerprint=f"{number:064x}", images=sum(counts.values()), class_counts=counts, groups=12 * (number % 2), channels=3 if number % 2 else 1,
                       grey_share=0.25 if number % 2 else 1.0, height=64.0, width=72.0, tags=("skin", "dermoscopy") if number % 2 else (), skipped=skipped)


def content(names: tuple[str, ...] = (*HOSTILE, "isic", "busi", "stl10"), targets: int = 2, methods: int = 4, thumbnails: int = 8) -> Content:
    """A whole content. The pair (last source, first target) has no score by the first method, the last method is undefined."""
    rng = rng_for("report", len(names), targets, methods)
    target_names, sources = names[:targets], (*names, "scratch")
    kinds = [("otdd", False, "distance"), ("frechet", False, "distance"), ("logme", True, "transferability"), ("log-size", True, "prior")]
    infos = tuple(
        MethodInfo(kinds[i][0] if i < 4 else f"measure-{i}", kinds[i % 4][2], kinds[i % 4][1], "squared feature units" if i == 0 else "", i % 2 == 0,
                   f"Measure number {i}: <b>what</b> it means.", f"Author (20{i:02d}), https://example.org/{i}", "label_cost=gaussian" if i == 0 else "")
        for i in range(methods))
    scores, transfers, ranking, answers = [], [], {}, {}
    for target in target_names:
        quality = {source: 0.6 + 0.35 * rng.random() for source in sources}
        for info in infos:
            for source in names:
                if source == target or (source == names[-1] and info is infos[0] and target == target_names[0]):
                    continue
                value = float((quality[source] + rng.normal(0, 0.08)) * (1 if info.higher_is_better else -1) + 2) * 10.0 ** (len(info.name) % 5)
                scores.append({
                    "source": source, "target": target, "method": info.name, "value": value, "higher_is_better": info.higher_is_better, "kind": info.kind,
                    "lower": value * 0.95, "upper": value * 1.06, "floor": value * 0.4 if info.kind == "distance" and source == names[-2] else None,
                    "n_source": 240, "n_target": 300, "converged": not (info.name == "frechet" and source == names[-1]),
                    "flags": ("n < d (240 < 512)",) if source == names[-1] else (), "extractor": "abc"})
        means = {}
        for source in sources:
            if source == target:
                continue
            folds = [min(1.0, quality[source] + float(rng.normal(0, 0.02))) for _ in range(5)]
            for fold, value in enumerate(folds):
                broken = source == names[-2] and fold == 4
                transfers.append({"source": source, "target": target, "replicate": f"fold {fold}", "performance": None if broken else value, "metric": "auc",
                                  "n_train": 240, "n_test": 60, "flags": ("one class only in the test fold",) if broken else ()})
            means[source] = float(np.mean(folds[:4] if source == names[-2] else folds))
        best = max((s for s in means if s != "scratch"), key=means.__getitem__)
        ranking[target] = tuple(
            Ranked(source, mean, (mean - 0.021, min(1.0, mean + 0.021)), 4 if source == names[-2] else 5, None if source == "scratch" else round(0.8 / (1 + i), 2),
                   means[best] - mean, (max(0, means[best] - mean - 0.03), means[best] - mean + 0.03), i == 1, source == "scratch")
            for i, (source, mean) in enumerate(sorted(means.items(), key=lambda item: -item[1])))
        answers[target] = f"Take {best} for {target}: mean AUC {means[best]:.3f}; the second is not distinguishable from it."
    return Content(
        study=f"study & {SCRIPT}", cards=tuple(card(name, i, 3 + 9 * (i == 1), 2 * (i == 0)) for i, name in enumerate(names)), sources=sources, targets=target_names,
        extractor="torchvision resnet18, ImageNet weights, 512 features", scores=ScoreTable(tuple(scores)), methods=infos,
        thumbnails={name: images(name) for name in names[:-1]} if thumbnails else {},
        unavailable=(Unavailable(infos[0].name, names[-1], target_names[0], "only one class has two images"),), transfer=TransferTable(tuple(transfers)),
        ranking=ranking, answers=answers, correlation=correlation(infos, target_names, names),
        skipped=tuple(Skipped(names[0], f"img/{i}{IMAGE}.png", "truncated") for i in range(2)),
        provenance={"seed": 1, "versions": {"numpy": "2.0"}, "study": f'study = "x"\nnote = "{SCRIPT}"\n', "hardware": "CPU, 2 cores"},
    )


def correlation(infos: tuple[MethodInfo, ...], targets: tuple[str, ...], names: tuple[str, ...]) -> Any:
    rng = rng_for("correlation", len(infos))
    results = []
    for i, info in enumerate(infos):
        if i == len(infos) - 1 and i:
            results.append(MethodR(info.name, info.higher_is_better, None, undefined="constant in every target", targets=tuple(TargetR(t, 0, undefined="constant") for t in targets)))
            continue
        mean = float(rng.uniform(-0.4, 0.8))
        ones = tuple(TargetR(t, len(names) - 1, mean, (max(-1.0, mean - 0.5), min(1.0, mean + 0.4)), mean * 0.8, mean * 0.7, mean, 0.123, names[-1], names[-2], 0.031, 0.05)
                     for t in targets)
        results.append(MethodR(info.name, info.higher_is_better, mean, (max(-1.0, mean - 0.6), min(1.0, mean + 0.5)), 0.045 + i / 100, 0.09 + i / 100, 0.015, mean - 0.35,
                               1, ones))
    base = (MethodR("static", True, 0.35, None, 0.27, None, 0.0, None, 1, ()), MethodR("random", True, 0.0, None, None, None, 0.043, None, 0, ()))
    return Corr(tuple(results), base, (len(names) - 1) * len(targets), len(names), len(targets), "auc", ("self pairs left out",),
                ("few targets: the interval is indicative",), "smallest detectable |rho| with n = 5: 1.00", {t: 0.9 for t in targets})


def partial(full: Content) -> Content:
    """The same without transfer, ranking, correlation and thumbnails."""
    return replace(full, transfer=None, ranking={}, answers={}, correlation=None, thumbnails={}, skipped=(), unavailable=(), provenance={})
