"""Every measure that looks through a network, over real checkpoints of one architecture and targets: one table with floors and seconds.

    python benchmarks/checkpoints.py --data FOLDER [--image-size 64] [--repeats 10] [--out FILE.md]

FOLDER holds the data sets and weights that benchmarks/transfer_study/README.md names: mobilenet_v2 trained on ImageNet, on birds, on insects, and
untrained, looking at busi, isic7, lclung and pneumonia. Each network looks at each target once; after that, seconds are those of a measure on all 16 pairs,
with its half-samples and shuffles, and again with the value alone (--repeats 0). task2vec, which needs no network of a source, is the
distance of each target to the other targets, by the ImageNet checkpoint as its probe. Finished work is found in --store.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import simkit
from simkit.estimators.base import NetworkEstimator
from simkit.registry import ESTIMATORS, options_of

WEIGHTS = {"imagenet": "mobilenet_v2_tvquant.pth", "birds": "mobilenet_v2_inat_bird.pth", "insects": "mobilenet_v2_inat_insect.pth"}
IMAGES = {"imagenet": 1_281_167}
TARGETS = {"busi": "busi/busi.csv", "isic7": "isic7/isic7.csv", "lclung": "lclung", "pneumonia": "pneumonia.npz"}
TASK_IMAGES = 200
"""Of each target, for its task embedding."""

LP_IMAGES = 500
"""Of the learned space of LP, which is fitted anew for each half-sample, shuffle and fold."""


def network_methods() -> list[Any]:
    """Every measure of the network view, and the plain H-score beside the shrunk one."""
    names = [name for name in ESTIMATORS.names() if issubclass(ESTIMATORS.get(name), NetworkEstimator)]
    methods: list[Any] = [name for name in names if not any(info.required for info in options_of(ESTIMATORS.get(name)))]
    methods = [{name: {"max_images": LP_IMAGES}} if name in ("lp", "lp-fu") else name for name in methods]
    return [*methods, {"hscore": {"shrinkage": False}}, {"knn": {"report": "auc"}}, {"gbc": {"covariance": "spherical"}}, {"transrate": {"normalise": True}}]


def title(method: Any) -> str:
    if isinstance(method, str):
        return method
    (name, options), = method.items()
    return f"{name} ({', '.join(f'{key} = {value}'.lower() for key, value in options.items())})"


class Clock:
    """Seconds of each table, kept beside the store: a table that is found there was timed when it was made."""

    def __init__(self, path: Path):
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}

    def timed(self, name: str, *arguments: Any, **options: Any) -> tuple[Any, float]:
        started = time.perf_counter()
        table = simkit.distance(*arguments, **options)
        self.seconds.setdefault(name, time.perf_counter() - started)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.seconds))
        return table, self.seconds[name]


def cell(record: dict[str, Any] | None) -> str:
    if record is None:
        return "-"
    text = f"{record['value']:.4g}"
    if record["lower"] is not None:
        text += f" [{record['lower']:.3g}, {record['upper']:.3g}]"
    marks = "°" if "not above what shuffled labels give" in record["flags"] or "not distinguishable" in record["flags"] else ""
    return text + marks + ("!" if not record["converged"] else "")


def rows_of(name: str, table: Any, sources: list[str], seconds: str) -> list[str]:
    found = {(r["source"], r["target"]): r for r in table.records}
    out = []
    for target in TARGETS:
        own = [found[s, target] for s in sources if (s, target) in found]
        floors = sorted(r["floor"] for r in own if r["floor"] is not None)
        floor = "-" if not floors else " to ".join(dict.fromkeys(f"{value:.3g}" for value in (floors[0], floors[-1])))
        out.append(f"| {name} | {target} | {' | '.join(cell(found.get((s, target))) for s in sources)} | {floor} | {seconds} |")
        name, seconds = "", ""
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    size = {"image_size": given.image_size}
    networks: dict[str, Any] = {name: {"checkpoint": {"network": "mobilenet_v2", "path": str(given.data / "weights" / file), **size}}
                                for name, file in WEIGHTS.items()}
    networks["untrained"] = {"random": {"network": "mobilenet_v2", **size}}
    datasets = [simkit.load(given.data / path, name=name) for name, path in TARGETS.items()]
    store = given.store or Path(tempfile.mkdtemp(prefix="simkit-checkpoints-"))
    options: dict[str, Any] = {"networks": networks, "store": store}
    timed = Clock(store / "checkpoints.json").timed
    _, looking = timed("look", [], datasets, ["leep"], repeats=0, **options)
    _, passes = timed("gradients", [], datasets, ["fu"], repeats=0, **options)
    sources = list(networks)
    lines = [f"mobilenet_v2 at {given.image_size} px, {', '.join(f'{d.name} (n = {len(d)}, {len(d.classes)} classes)' for d in datasets)}; d = 1,280; "
             f"{os.cpu_count()} cores. One look of 4 networks at 4 targets {looking:.0f} s, backward passes of fu {passes:.0f} s; found again by every measure "
             f"after that. Seconds: all 16 pairs with {given.repeats} half-samples and shuffles each / the values alone.", "",
             f"| measure | target | {' | '.join(sources)} | shuffled labels | seconds |", "|---|---|" + "---|" * (len(sources) + 2)]
    for method in network_methods():
        name = title(method)
        table, plain = timed(f"{name} alone", [], datasets, [method], repeats=0, **options)
        seconds = plain
        if given.repeats:
            table, seconds = timed(name, [], datasets, [method], repeats=given.repeats, **options)
        lines += rows_of(name, table, sources, f"{seconds:.1f} / {plain:.1f}")
        print(lines[-4], flush=True)
    probe = {"network": "mobilenet_v2", "images": TASK_IMAGES, "checkpoint": str(given.data / "weights" / WEIGHTS["imagenet"]), **size}
    lines += ["", f"| measure | target | {' | '.join(TARGETS)} | halves | seconds |", "|---|---|" + "---|" * (len(TARGETS) + 2)]
    for distance in ("scaled-cosine", "cosine"):
        table, seconds = timed(f"task2vec {distance}", datasets, datasets, [{"task2vec": {**probe, "distance": distance}}], store=store)
        lines += rows_of(f"task2vec ({distance})", table, list(TARGETS), f"{seconds:.0f}")
    for method in ("otce", {"leep": {"head": "knn"}}, {"nce": {"head": "knn"}}):
        table, seconds = timed(title(method), datasets, datasets, [method], extractor=networks["imagenet"], repeats=given.repeats, ceiling="none", store=store)
        lines += rows_of(title(method), table, list(TARGETS), f"{seconds:.0f}")
    text = "\n".join(lines) + "\n"
    if given.out is not None:
        given.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
