"""Contents for tests of the report: synthetic numbers, hostile and long names, a missing cell, an undefined measure, a tie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from simkit.correlation import Correlation, MethodResult, TargetResult, answer, rank_sources
from simkit.correlation.results import Influence, Range, Stability
from simkit.dataset import DatasetCard, Skipped
from simkit.leakage.pairs import CopyPair, Leakage
from simkit.recipe import rng_for
from simkit.report import Content, MethodInfo, Unavailable
from simkit.report.cells import flags_of
from simkit.tables import ScoreTable, TransferTable

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(2)>'
LONG = "a-data-set-whose-name-is-forty-five-chars-lon"
HOSTILE = (SCRIPT, IMAGE, LONG)


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
    odd = number % 2
    return DatasetCard(
        name=name, fingerprint=f"{number:064x}", images=sum(counts.values()), class_counts=counts, groups=12 * odd, channels=3 if odd else 1,
        grey_share=0.25 if odd else 1.0, height=64.0, width=72.0, tags=("skin", "dermoscopy") if odd else (), skipped=skipped)


def content(names: tuple[str, ...] = (*HOSTILE, "isic", "busi", "stl10"), targets: int = 2, methods: int = 4, thumbnails: int = 8) -> Content:
    """A whole content. The pair (last source, first target) has no score by the first method, the last method is undefined."""
    rng = rng_for("report", len(names), targets, methods)
    target_names, sources = names[:targets], (*names, "scratch")
    kinds = [("otdd", False, "distance"), ("frechet", False, "distance"), ("logme", True, "transferability"), ("log-size", True, "prior")]
    infos = tuple(
        MethodInfo(kinds[i][0] if i < 4 else f"measure-{i}", kinds[i % 4][2], kinds[i % 4][1], "squared feature units" if i == 0 else "", i % 2 == 0,
                   f"Measure number {i}: <b>what</b> it means.", f"Author (20{i:02d}), https://example.org/{i}", "label_cost=gaussian" if i == 0 else "")
        for i in range(methods))
    scores, transfers = [], []
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
                    "ceiling": value * 3 if info is infos[1] else None, "p": 0.012 if info is infos[0] else None, "matched": 240 if info is infos[1] else None,
                    "n_source": 240, "n_target": 300, "converged": not (info.name == "frechet" and source == names[-1]),
                    "flags": ("n < d (240 < 512)",) if source == names[-1] else (), "extractor": "abc"})
        for source in sources:
            for fold in range(5 if source != target else 0):
                value, broken = min(1.0, quality[source] + float(rng.normal(0, 0.02))), source == names[-2] and fold == 4
                transfers.append({"source": source, "target": target, "fold": f"fold {fold}", "value": None if broken else value, "metric": "auc",
                                  "n_train": 240, "n_test": 60, "flags": ("one class only in the test fold",) if broken else ()})
    transfer = TransferTable(tuple(transfers))
    ranking = {}
    for target, rows in rank_sources(transfer).items():
        second = [row.source for row in rows if not row.baseline][1]
        ranking[target] = tuple(replace(row, tied=row.source == second) for row in rows)
    return Content(
        study=f"study & {SCRIPT}", cards=tuple(card(name, i, 3 + 9 * (i == 1), 2 * (i == 0)) for i, name in enumerate(names)), sources=sources,
        targets=target_names, extractor="torchvision resnet18, ImageNet weights, 512 features", scores=ScoreTable(tuple(scores)), methods=infos,
        thumbnails={name: images(name) for name in names[:-1]} if thumbnails else {},
        unavailable=(Unavailable(infos[0].name, names[-1], target_names[0], "only one class has two images"),), transfer=transfer, ranking=ranking,
        answers={target: answer(target, rows) for target, rows in ranking.items()}, correlation=correlation(infos, target_names, names),
        skipped=tuple(Skipped(names[0], f"img/{i}{IMAGE}.png", "truncated") for i in range(2)),
        provenance={"seed": 1, "versions": {"numpy": "2.0"}, "study": f'study = "x"\nnote = "{SCRIPT}"\n', "hardware": "CPU, 2 cores"},
    )


def correlation(infos: tuple[MethodInfo, ...], targets: tuple[str, ...], names: tuple[str, ...]) -> Correlation:
    """Made-up coefficients; the last of several measures is undefined."""
    rng, n = rng_for("correlation", len(infos)), len(names) - 1
    results = []
    for i, info in enumerate(infos):
        if i and i == len(infos) - 1:
            ones = tuple(_target(t, n, None, names, "the score is the same for every source") for t in targets)
            results.append(MethodResult(info.name, info.higher_is_better, None, None, None, None, None, None, 0, ones, "constant in every target"))
            continue
        mean = float(rng.uniform(-0.4, 0.8))
        interval = max(-1.0, mean - 0.6), min(1.0, mean + 0.5)
        results.append(MethodResult(
            info.name, info.higher_is_better, mean, interval, 0.0451 + i / 100, 0.0902 + i / 100, 0.0153, mean - 0.35, int(mean > 0) * len(targets),
            tuple(_target(t, n, mean, names) for t in targets), mean=mean, p_max=0.0801 + i / 100, fixed_sources_interval=(mean - 0.2, mean + 0.15),
            versus_static_interval=(mean - 0.85, mean + 0.15), stability=_stability(mean, targets, names), mean_relative_at_1=0.951, mean_relative_at_3=0.987))
    baselines = (MethodResult("static", True, 0.35, None, 0.27, None, 0.0, None, 1, (), mean=0.35),
                 MethodResult("source-size", True, None, None, None, None, None, None, 0, (), "the sizes of the sources are not known"),
                 MethodResult("random", True, 0.0, None, None, None, 0.043, None, 0, (), mean=0.0))
    return Correlation(
        methods=tuple(results), baselines=baselines, n_pairs=n * len(targets), n_sources=len(names), n_targets=len(targets), targets=targets, sources=names,
        metric="auc", notes=("self pairs left out",), warnings=(f"few targets: {SCRIPT} the interval is indicative",), pooled={}, with_self=None, seed=0,
        permutations=9999, bootstraps=2000, resolution=f"With {n} sources a target, |Spearman| below 0.90 cannot be told from chance.",
        noise_ceiling=dict.fromkeys(targets, 0.91), power=((0.0, 0.05), (0.5, 0.38), (1.0, 1.0)))


def _stability(mean: float, targets: tuple[str, ...], names: tuple[str, ...]) -> Stability:
    return Stability(sources=Range(mean - 0.12, mean + 0.11, names[0], names[-1]), targets=Range(mean - 0.21, mean + 0.05, targets[-1], targets[0]),
                     most_influential=Influence("target", targets[-1], mean - 0.21))


def _target(target: str, n: int, value: float | None, names: tuple[str, ...], undefined: str = "") -> TargetResult:
    if value is None:
        return TargetResult(target, n, None, None, None, None, None, None, names[-1], names[-2], None, None, None, None, (), undefined)
    interval = max(-1.0, value - 0.5), min(1.0, value + 0.4)
    return TargetResult(target, n, value, interval, value * 0.8, value * 0.7, value * 0.9, 0.123, names[-1], names[-2], 0.031, 0.05, 0.95, 1.0, ())


def leaking(full: Content) -> Content:
    """The same with copies of images of the first target in the last source, and flags on the scores and transfers that they touch."""
    source, target = full.sources[-2], full.targets[0]
    pairs = tuple(CopyPair(target, f"img/{i}.png", source, f"copy/{i}{IMAGE}.png", "near" if i else "bytes", 0.98, "mirrored" if i else "", ("hash",))
                  for i in range(3))
    found = Leakage(target, source, 240, 255, pairs)
    flag = f"leak: 3 of 240 target images have a copy in {source} (1 exact, 2 near)"

    def flagged(records: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
        hit = {"source": source, "target": target}.items()
        return tuple({**one, "flags": "; ".join((*flags_of(one), flag))} if hit <= one.items() else dict(one) for one in records)

    return replace(full, leakage=(found,), scores=ScoreTable(flagged(full.scores.records)),
                   transfer=None if full.transfer is None else TransferTable(flagged(full.transfer.records)))


def partial(full: Content) -> Content:
    """The same without transfer, ranking, correlation and thumbnails."""
    return replace(full, transfer=None, ranking={}, answers={}, correlation=None, thumbnails={}, skipped=(), unavailable=(), provenance={})
