"""How large a report page is and how long it takes to build, by the number of data sets and measures. Two cores.

    python benchmarks/report.py [--sets N ...] [--measures N] [--figures] [--keep FOLDER]

Every data set is a source and a target, up to ``MOST_TARGETS`` targets; each pair has every measure with interval and flags, and five performances.
Names are of two lengths, one cell in fifty is missing. Nothing is read: cards, thumbnails and numbers are synthetic, the correlation is
computed for up to 30 data sets.
Budgets: 30 data sets x 20 measures under 15 MB and 60 s, 500 data sets under 20 MB. Exit status 1 where one is exceeded.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from simkit.correlation import answer, correlate, rank_sources
from simkit.dataset import DatasetCard
from simkit.recipe import rng_for
from simkit.report import Content, MethodInfo, build_page, save_figures
from simkit.tables import ScoreTable, TransferTable

SETS = (2, 7, 30, 500)
MOST_TARGETS = 30
MOST_MEGABYTES = {2: 15.0, 7: 15.0, 30: 15.0, 500: 20.0}
MOST_SECONDS = {2: 60.0, 7: 60.0, 30: 60.0}
KINDS = ("distance", "distance", "transferability", "prior")


def images(name: str, count: int = 8) -> tuple[np.ndarray, ...]:
    """Patterns with edges and noise, so that they take as many bytes as pictures do, uint8 (96, 96, 3)."""
    rng = rng_for("thumbnails", name)
    y, x = np.mgrid[0:96, 0:96]
    out = []
    for _ in range(count):
        waves = [np.sin(x / rng.uniform(2, 12)) * np.cos(y / rng.uniform(2, 12)) + rng.normal(0, 0.3, x.shape) for _ in range(3)]
        out.append(np.clip(127 + 60 * np.stack(waves, axis=2), 0, 255).astype(np.uint8))
    return tuple(out)


def card(name: str, number: int) -> DatasetCard:
    counts = {f"class {i}": 40 * (i + 1) + number for i in range(2 + number % 9)}
    return DatasetCard(name=name, fingerprint=f"{number:064x}", images=sum(counts.values()), class_counts=counts, groups=0, channels=3, grey_share=0.0,
                       height=96.0, width=96.0, tags=(), skipped=0)


def content(sets: int, measures: int) -> Content:
    """A whole report of made-up numbers: measure number k follows the performance less and less closely."""
    rng = rng_for("benchmark of the report", sets, measures)
    names = tuple(f"data-set-{i:03d}" if i % 3 else f"a-data-set-with-a-long-name-{i:03d}" for i in range(sets))
    targets = names[: min(sets, MOST_TARGETS)]
    infos = tuple(MethodInfo(f"measure-{k:02d}", KINDS[k % 4], KINDS[k % 4] != "distance", "", k % 2 == 0, "A number.", "Author (2020)")
                  for k in range(measures))
    scores, transfers = [], []
    for target in targets:
        quality = dict(zip(names, rng.uniform(0.6, 0.95, sets), strict=True))
        for k, info in enumerate(infos):
            noise = rng.normal(0, 0.02 + 0.03 * k, sets)
            for source, error in zip(names, noise, strict=True):
                if source != target and rng.random() > 0.02:
                    value = 10.0 ** (k % 4) * (1 + (quality[source] + error) * (1 if info.higher_is_better else -1))
                    scores.append({
                        "source": source, "target": target, "method": info.name, "value": value, "higher_is_better": info.higher_is_better,
                        "kind": info.kind, "lower": value - 0.05 * abs(value), "upper": value + 0.06 * abs(value), "n_source": 500, "n_target": 500,
                        "floor": 0.2 * 10.0 ** (k % 4) if info.kind == "distance" else None, "converged": True, "extractor": "abc",
                        "flags": ("n < d (500 < 512)",) if rng.random() < 0.02 else ()})
        transfers += [{"source": source, "target": target, "fold": str(fold), "value": float(min(1.0, quality[source] + rng.normal(0, 0.02))), "metric": "auc",
                       "n_train": 400, "n_test": 100, "flags": ()} for source in names if source != target for fold in range(5)]
    table, transfer = ScoreTable(tuple(scores)), TransferTable(tuple(transfers))
    ranking = rank_sources(transfer)
    found = correlate(table, performance=transfer, permutations=99, bootstraps=20, allow_missing=True) if 3 < sets <= 30 else None
    return Content(
        study=f"{sets} data sets", cards=tuple(card(name, i) for i, name in enumerate(names)), sources=names, targets=targets, extractor="none", scores=table,
        methods=infos, thumbnails={name: images(name) for name in names}, transfer=transfer, ranking=ranking,
        answers={target: answer(target, rows) for target, rows in ranking.items()}, correlation=found, provenance={"seed": 0},
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", type=int, nargs="+", default=list(SETS))
    parser.add_argument("--measures", type=int, default=20)
    parser.add_argument("--figures", action="store_true", help="also draws the folder of figures (300 dpi)")
    parser.add_argument("--keep", type=Path, help="folder that the pages are written to")
    options = parser.parse_args()
    print("| data sets | targets | measures | scores | page, MB | built in, s | CPU, s | figures, s |\n|---|---|---|---|---|---|---|---|")
    failed = False
    for sets in options.sets:
        made = content(sets, options.measures if sets <= 30 else 4)
        start, busy = time.perf_counter(), time.process_time()
        page = build_page(made)
        seconds, busy, megabytes = time.perf_counter() - start, time.process_time() - busy, len(page.encode()) / 1e6
        drawing = ""
        if options.figures:
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                save_figures(made, folder, dpi=300)
                drawing = f"{time.perf_counter() - start:.1f}"
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / f"report-{sets}.html").write_text(page, encoding="utf-8")
        scale = f"{sets} | {len(made.targets)} | {len(made.methods)} | {len(made.scores.records):,}"
        print(f"| {scale} | {megabytes:.1f} | {seconds:.1f} | {busy:.1f} | {drawing} |", flush=True)
        failed |= megabytes > MOST_MEGABYTES.get(sets, 20.0) or seconds > MOST_SECONDS.get(sets, 600.0)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
