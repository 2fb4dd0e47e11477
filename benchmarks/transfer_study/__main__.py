"""Which source transfers best to four medical targets, and does similarity say so beforehand?

    python -m benchmarks.transfer_study --data FOLDER [--quick]

FOLDER holds the data sets and weights that README.md beside this file names. Runs `simkit finetune`, `simkit distance` and `simkit correlate`, and writes
tables, figures and RESULTS.md. Finished work is found again: after an interruption the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from .figures import draw_all
from .study import EXTRACTOR_PX, NETWORK, Setting, study_of, toml_text, write_study
from .words import NAMED, line, machine, results_text

HERE = Path(__file__).parent
LIMITS = (
    "None of the manifests names patients, so folds are dealt image by image; images of one patient can lie on both sides. Byte-identical images do not.",
    "lclung was augmented from few originals (LC25000): near copies lie on both sides of every split, so its AUC is too good for every source.",
    "Subsets of 600 to 2,000 images at low resolution, one small network, one budget for all: other networks, sizes and budgets may order sources otherwise.",
    "The checkpoints differ from the other sources in the number of training images by a factor of hundreds, not only in their domain.",
    "Keywords and answers for the intuitive measures were written by the authors of this study, not by experts.",
    "isic7mn is the melanoma and nevus part of isic7. The measures see all images of isic7, its pretraining never those of the test fold.",
    "The features of the measures come from a network that was trained on ImageNet, which is also one of the sources (but not one that is measured).",
)


class Stages:
    """Minutes of each stage, added up over all sittings on one work folder."""

    def __init__(self, path: Path):
        self.path = path
        self.minutes: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times what is done inside, and says so; an interrupted stage counts too."""
        started = time.perf_counter()
        print(f"-- {name}", flush=True)
        try:
            yield
        finally:
            spent = (time.perf_counter() - started) / 60
            self.minutes[name] = self.minutes.get(name, 0.0) + spent
            self.path.write_text(json.dumps(self.minutes))
            print(f"-- {name}: {spent:.1f} min ({self.minutes[name]:.1f} over all sittings)", flush=True)


def simkit(*arguments: str, allowed: tuple[int, ...] = (0,)) -> str:
    """A command of simkit; its text. Progress goes to the terminal."""
    done = subprocess.run([sys.executable, "-m", "simkit", *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode not in allowed:
        raise SystemExit(f"simkit {arguments[0]} ended with status {done.returncode}; finished work is kept, start the same command again")
    return done.stdout


def trained(setting: Setting, study: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Plan and grid; writes transfer.csv."""
    common = ["--store", str(arguments.store), "--jobs", str(arguments.jobs), "--device", arguments.device]
    plan, outcome = setting.work / "plan.json", setting.work / "finetune.json"
    print(simkit("finetune", str(study), "--dry-run", *common), flush=True)
    simkit("finetune", str(study), "--dry-run", *common, "--json", str(plan))
    text = simkit("finetune", str(study), *common, "--out", str(arguments.out / "transfer.csv"), "--json", str(outcome), allowed=(0, 1))
    (arguments.out / "transfer.txt").write_text(text)
    return {"plan": json.loads(plan.read_text()), **json.loads(outcome.read_text())}


def scored(setting: Setting, study: Path, arguments: argparse.Namespace) -> list[str]:
    """All measures; writes scores.csv, and gives what could not be computed."""
    extractor = [part for key, value in setting.extractor.items() for part in ("--extractor-set", f"{key}={value}")]
    targets = [part for target in setting.targets for part in ("--target", target)]
    outcome = setting.work / "distance.json"
    text = simkit("distance", *setting.sources, *targets, "--study", str(study), "--method", "all", "--extractor", "checkpoint", *extractor, "--seed", "1",
                  "--repeats", str(arguments.repeats), "--device", arguments.device, "--store", str(arguments.store),
                  "--out", str(arguments.out / "scores.csv"), "--json", str(outcome), allowed=(0, 4))
    (arguments.out / "scores.txt").write_text(text)
    return _grouped(json.loads(outcome.read_text())["unavailable"])


def _grouped(unavailable: list[str]) -> list[str]:
    """One line a measure: how many pairs it lacks, and why the first."""
    by_method: dict[str, list[str]] = {}
    for one in unavailable:
        by_method.setdefault(one.split(" ", 1)[0], []).append(one.split(": ", 1)[1].split(" (")[0])
    return [f"`{method}`: {len(reasons)} pairs (such as: {reasons[0]})" for method, reasons in by_method.items()]


def correlated(out: Path) -> tuple[Any, Any | None]:
    """The correlation with all pairs, and without isic7 -> isic7mn; writes the first."""
    import simkit as library

    without = None
    with chdir(out):  # notes name the tables as they are given
        found = library.correlate("scores.csv", performance="transfer.csv", metric="auc", allow_missing=True, seed=1)
        if "isic7mn" in found.targets and "isic7" in found.sources and len(found.targets) > 1:
            without = library.correlate("scores.csv", performance="transfer.csv", metric="auc", allow_missing=True, seed=1, alias=[("isic7", "isic7mn")])
    (out / "correlation.json").write_text(json.dumps(found.as_dict(), indent=1) + "\n")
    (out / "correlation.txt").write_text(found.text(140) + "\n")
    return found, without


def facts_of(setting: Setting, outcome: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Folds, gains, rankings and what else the words and figures need, from transfer.csv."""
    import numpy as np

    from simkit.correlation import rank_sources, read_transfer
    from simkit.tables import read_table

    table = read_transfer(out / "transfer.csv", allow_missing=True)
    folds: dict[tuple[str, str], list[float]] = {}
    for row in table.records:
        if row["value"] is not None:
            folds.setdefault((str(row["source"]), str(row["target"])), []).append(float(row["value"]))
    raw = read_table(out / "transfer.csv")
    columns = {name: raw.column(name) for name in ("source", "target", "fold", "metric", "value", "seconds", "leaky")}
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    gains: dict[str, dict[str, Any]] = {target: {} for target in setting.targets}
    for source, target in folds:
        values = [float(r["value"]) for r in rows if (r["source"], r["target"], r["metric"]) == (source, target, "relative-gain") and r["value"]]
        if values and source != "scratch":
            gains[target][source] = {"mean": float(np.mean(values)), "folds": values}
    runs = {(r["source"], r["target"], r["fold"]): float(r["seconds"] or 0) for r in rows}
    removed = {(found[1], found[2]): found[0] for note in outcome["plan"]["notes"] if (found := re.match(r"(\S+) -> (\S+): the two share images", note))}
    return {
        "setting": setting, "targets": setting.targets, "sources": (*setting.sources, *setting.weights, "scratch"), "folds": folds, "gains": gains,
        "ranking": rank_sources(table, seed=1), "metrics": table.main_metrics, "removed": removed, "failures": outcome["failures"], "leaky": outcome["leaky"],
        "runs": len(runs),
        "training_seconds": sum(runs.values()), "machine": machine(outcome["plan"].get("device") or "CPU"),
        "extractor": f"{NETWORK} with ImageNet weights at {EXTRACTOR_PX} px",
    }


def drawn(facts: Mapping[str, Any], out: Path) -> None:
    """The figures: the best measure and the usual ones beside each other."""
    from simkit.tables import read_table

    from .study import ABOUT

    raw = read_table(out / "scores.csv")
    by_method = {one.method: one for one in facts["correlation"].methods if one.mean is not None}
    shown = list(dict.fromkeys((next(iter(by_method)), *(name for name in NAMED if name in by_method))))
    scores: dict[str, dict[tuple[str, str], float]] = {name: {} for name in shown}
    for source, target, method, value in zip(*(raw.column(name) for name in ("source", "target", "method", "value")), strict=True):
        if method in scores and value:
            scores[method][source, target] = float(value) if by_method[method].higher_is_better else -float(value)
    intervals = {(one.source, target): one.interval for target, ranked in facts["ranking"].items() for one in ranked}
    medical = tuple(name for name, (_, answers) in ABOUT.items() if answers["domain"] == "medical")
    summary = {name: line(by_method[name]) for name in shown}
    draw_all(out, facts["folds"], facts["targets"], intervals, scores, summary, medical)


def refuse_paths(out: Path, *folders: Path) -> None:
    """Results are committed: no path of this machine may stand in them."""
    for path in sorted(out.iterdir()):
        if path.suffix != ".png":
            text = path.read_text()
            bad = [str(folder) for folder in folders if str(folder) in text]
            if bad:
                raise SystemExit(f"{path.name} holds a path of this machine: {bad[0]}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfer_study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = os.environ.get("SIMKIT_SHARED")
    parser.add_argument("--data", type=Path, default=Path(shared) / "data" if shared else None, help="folder of the data sets (default: $SIMKIT_SHARED/data)")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where results go (default: results beside this file)")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "simkit-transfer-study", help="study file, plan, minutes")
    parser.add_argument("--store", type=Path, default=None, help="root of the store (default: $SIMKIT_STORE, or a folder in --work)")
    parser.add_argument("--network", default=NETWORK, help="another network has no checkpoints among its sources")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6, help="of fine-tuning")
    parser.add_argument("--pretrain-epochs", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=0, help="half-samples for the intervals and floors of the scores, which the correlations do not use")
    parser.add_argument("--jobs", type=int, default=0, help="runs at a time; 0: one a core, or one a GPU")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="a smoke test: 1 epoch, 3 data sets and 2 other sources, 1 target")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("name the folder of the data sets: --data FOLDER, or set SIMKIT_SHARED")
    if not (arguments.data / "isic7" / "isic7.csv").is_file():
        parser.error(f"--data {arguments.data}: there is no isic7/isic7.csv in it")
    if arguments.quick and arguments.out == HERE / "results":
        arguments.out = arguments.work / "quick-results"
    arguments.store = arguments.store or Path(os.environ.get("SIMKIT_STORE") or arguments.work / "store")
    return arguments


def _half_samples(repeats: int) -> str:
    """What the scores lack."""
    how = f"with `--repeats {repeats}`"
    return f"The scores were computed {how}, so they have no intervals and no floors; the correlations use their values alone." if not repeats else (
        f"The intervals and floors of the scores come from {repeats} half-samples.")


def main() -> None:
    arguments = parsed()
    setting = Setting(arguments.data.resolve(), arguments.work.resolve(), arguments.network, arguments.image_size, arguments.folds, arguments.epochs,
                      arguments.pretrain_epochs)
    if arguments.quick:
        setting = replace(setting, quick=True, epochs=1, pretrain_epochs=1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    study = write_study(setting)
    (arguments.out / "study.toml").write_text(toml_text(study_of(replace(setting, data=Path("DATA"), work=Path("WORK")))))
    stages = Stages(setting.work / "minutes.json")
    with stages.stage("finetune"):
        outcome = trained(setting, study, arguments)
    with stages.stage("distance"):
        unavailable = scored(setting, study, arguments)
    with stages.stage("correlate"):
        found, without = correlated(arguments.out)
    facts = facts_of(setting, outcome, arguments.out) | {"correlation": found, "without": without, "unavailable": unavailable,
                                                            "limits": (*LIMITS, _half_samples(arguments.repeats))}
    with stages.stage("figures"):
        drawn(facts, arguments.out)
    (arguments.out / "RESULTS.md").write_text(results_text(facts | {"minutes": stages.minutes}))
    refuse_paths(arguments.out, setting.data, setting.work, Path.home(), arguments.store.resolve(), arguments.out.resolve())
    print(f"wrote {arguments.out / 'RESULTS.md'}: {sum(stages.minutes.values()):.1f} min in all")


if __name__ == "__main__":
    main()
