"""Training by simkit against the bare loop; time between the jobs of a grid; a finished grid asked for again.

    python benchmarks/finetune.py [speed] [overhead] [resume] [--device cuda] [--quick] [--json FILE]

speed     images/s of simkit's training as a run does it (uint8 memory map to the device, augmentation, normalisation, balanced loss, a checkpoint at
          the end of each epoch) against the bare loop of the same network: forward, loss, backward and AdamW on float batches that are on the device
          already, same memory format, same precision, without determinism. Epochs alternate in one process (ABAB ...); medians and their ratio.
overhead  wall time of a grid of tiny jobs beyond the seconds of training that their records state, per job: building the network, predicting the test
          fold, writing; in one process and in two, whose start is given apart.
resume    wall time of the command `simkit finetune` on a finished grid of 100 jobs, and where it goes.
"""

from __future__ import annotations

import argparse
import json
import os
import pstats
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

CPU_CASES = (("mobilenet_v2", "paper"), ("mobilenet_v2", "none"), ("mobilenet_v2", "randaugment"), ("resnet18", "paper"), ("shufflenet_v2_x1_0", "paper"))
GPU_CASES = tuple((size, augmentation, deterministic) for size in (128, 224) for augmentation in ("paper", "none", "randaugment")
                  for deterministic in (True, False))
TINY = "shufflenet_v2_x0_5"


# --- speed -----------------------------------------------------------------------------------------------------------------------------


class BareLoop:
    """What anybody writes first: batches of floats that are there, no checkpoint, no augmentation."""

    def __init__(self, network: str, *, size: int, images: int, batch: int, device: Any):
        import torch

        from simkit.transfer.networks import build_network

        built, _ = build_network(network, 2, dropout=0.2, image_size=size)
        self.network = built.to(device).to(memory_format=torch.channels_last).train()
        x = torch.randn(min(images, 16 * batch), 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
        y = torch.arange(len(x), device=device) % 2
        self.batches = [(x[i : i + batch], y[i : i + batch]) for i in range(0, len(x) - batch + 1, batch)]
        self.steps, self.device = images // batch, device
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3)

    def epoch(self) -> float:
        """Seconds per image of one pass."""
        import torch
        from torch.nn.functional import cross_entropy

        from simkit.transfer.training import autocast_of

        before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = True
        started, seen = time.perf_counter(), 0
        for step in range(self.steps):
            x, y = self.batches[step % len(self.batches)]
            self.optimizer.zero_grad()
            with autocast_of("auto", self.device):
                logits = self.network(x)
            cross_entropy(logits.float(), y).backward()
            self.optimizer.step()
            seen += len(y)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        spent = time.perf_counter() - started
        torch.use_deterministic_algorithms(before, warn_only=True)
        torch.backends.cudnn.benchmark = benchmark
        return spent / seen


def speed(network: str, augmentation: str, *, size: int, images: int, batch: int, rounds: int, device: Any, deterministic: bool) -> dict[str, Any]:
    """One case. The first epoch warms up and the last writes no checkpoint: both are left out."""
    import torch

    from simkit.store import Store
    from simkit.transfer import protocol_of
    from simkit.transfer.checkpoint import Checkpoints
    from simkit.transfer.feed import Feed
    from simkit.transfer.networks import build_network
    from simkit.transfer.training import Training, reproducible

    protocol = protocol_of({"network": network, "image_size": size, "batch_size": batch, "augmentation": augmentation, "finetune_epochs": rounds + 2,
                            "dropout": 0.2})
    budget = protocol.finetuning()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pixels.npy"
        np.save(path, np.random.default_rng(0).integers(0, 256, (images, 3, size, size), dtype=np.uint8))
        feed = Feed(np.load(path, mmap_mode="r"), np.arange(images), np.arange(images) % 2, device)
        ours, theirs, saving = [], [], []
        bare = BareLoop(network, size=size, images=images, batch=batch, device=device)

        class Timed(Checkpoints):
            """Also notes how long saving takes."""

            def save(self, *arguments: Any) -> None:
                began = time.perf_counter()
                super().save(*arguments)
                saving.append(time.perf_counter() - began)

        def tick(line: str, epoch: int, values: Mapping[str, float]) -> None:
            nonlocal mark
            ours.append((time.perf_counter() - mark) / images)
            theirs.append(bare.epoch())
            mark = time.perf_counter()

        with reproducible(device, budget.threads, deterministic=deterministic):
            built, head = build_network(network, 2, dropout=0.2, image_size=size)
            built = built.to(device).to(memory_format=torch.channels_last)
            checkpoints = Timed(Store(folder), "benchmark", print)
            training = Training(built, head, feed, None, budget, budget.choices[0], ("benchmark",), device, checkpoints, tick, print)
            mark = time.perf_counter()
            training.run()
    a, b = statistics.median(ours[1:-1]), statistics.median(theirs[1:-1])
    ratios = [theirs[i] / ours[i] for i in range(1, len(ours) - 1)]
    return {"network": network, "px": size, "batch": batch, "augmentation": augmentation, "deterministic": deterministic, "images": images,
            "simkit": 1 / a, "bare": 1 / b, "share": b / a, "shares": ratios, "checkpoint_s": statistics.median(saving[1:] or saving)}


def all_speeds(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from simkit.device import resolve_device

    device = resolve_device(arguments.device)
    rounds = 2 if arguments.quick else 6
    if device.type == "cuda":
        cases = [("resnet50", augmentation, {"size": size, "images": 4096, "batch": 128, "deterministic": fixed}) for size, augmentation, fixed in GPU_CASES]
        cases = cases[:2] if arguments.quick else cases
    else:
        images = arguments.images or (192 if arguments.quick else 640)
        cases = [(network, augmentation, {"size": 64, "images": images, "batch": 32, "deterministic": True}) for network, augmentation in CPU_CASES]
    out = []
    print(f"{'network':<20}{'px':>4} {'augmentation':<13}{'deterministic':<14}{'simkit':>9}{'bare':>9} {'share':>6}  lowest and highest round; checkpoint")
    for network, augmentation, rest in cases:
        one = speed(network, augmentation, rounds=rounds, device=device, **rest)
        out.append(one)
        print(f"{network:<20}{one['px']:>4} {augmentation:<13}{one['deterministic']!s:<14}{one['simkit']:>7.0f}/s{one['bare']:>7.0f}/s {one['share']:>6.0%}  "
              f"{min(one['shares']):.0%} to {max(one['shares']):.0%}; {one['checkpoint_s']:.2f} s", flush=True)
    return out


# --- grids -----------------------------------------------------------------------------------------------------------------------------


def write_grid(folder: Path, *, sources: int, targets: int, folds: int, seeds: int, images: int = 60, scratch: bool = False) -> Path:
    """A study of drawn sets: class 1 is brighter than class 0. Returns the study file."""
    from simkit.study import toml_text

    rng = np.random.default_rng(0)
    names = [f"source{i}" for i in range(sources)] + [f"target{i}" for i in range(targets)]
    for name in names:
        labels = np.arange(images) % 2
        pictures = np.clip(rng.normal(100 + 50 * labels[:, None, None, None], 30, (images, 32, 32, 3)), 0, 255).astype(np.uint8)
        np.savez(folder / f"{name}.npz", train_images=pictures, train_labels=labels[:, None])
    content = {
        "study": "benchmark", "sources": names[:sources] if sources else names[:1], "targets": names[sources:],
        "datasets": {name: {"npz": {"path": f"{name}.npz", "splits": ["train"]}} for name in names},
        "finetune": {"network": TINY, "image_size": 32, "folds": folds, "seeds": list(range(seeds)), "pretrain_epochs": 1, "finetune_epochs": 1,
                     "sources": ["scratch"] if scratch else []},
    }
    path = folder / "study.toml"
    path.write_text(toml_text(content))
    return path


class Lines:
    """Notes when each run was reported as finished."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def say(self, line: str) -> None:
        if re.search(r"\[\d+ of \d+", line):
            self.times.append(time.perf_counter())


def overhead(jobs: int, seeds: int) -> dict[str, Any]:
    """One source, two targets, three folds: six fine-tunings a seed and one pretraining."""
    from simkit.pipeline.commands import transfer_plan
    from simkit.transfer import run_units

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study, lines = write_grid(folder, sources=1, targets=2, folds=3, seeds=seeds), Lines()
        began = time.perf_counter()
        store, plan = transfer_plan(study, store=folder / "store")
        planned = time.perf_counter() - began
        store.prepare(need=plan.bytes)
        began = time.perf_counter()
        result = run_units(plan, progress=lines.say, jobs=jobs)
        wall = time.perf_counter() - began
        records = [json.loads(path.read_text()) for kind in ("pretrain", "finetune") for path in (folder / "store").rglob("*.json") if kind in path.parts]
        seconds = [float(found) for record in records if (found := _seconds(record)) is not None]
    units = len(plan.runs) + 1
    assert len(lines.times) == len(seconds) == units, (len(lines.times), len(seconds), units)
    assert not result.failures
    start = lines.times[0] - began  # the pretraining, and in two processes their start
    half = units // 2  # by then every process has started
    between = jobs * (lines.times[-1] - lines.times[half]) / (units - 1 - half) - statistics.mean(seconds)
    return {"jobs": jobs, "units": units, "wall_s": wall, "planned_s": planned, "first_unit_s": start, "training_s": sum(seconds),
            "between_s": between, "whole_s": (wall * jobs - sum(seconds)) / units}


def _seconds(record: Any) -> float | None:
    """The seconds of training of a record, wherever the store keeps its content."""
    if isinstance(record, dict):
        if isinstance(record.get("seconds"), (int, float)):
            return float(record["seconds"])
        return next((found for value in record.values() if (found := _seconds(value)) is not None), None)
    return None


def all_overheads(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    out = []
    overhead(1, 1)  # loads the libraries
    for jobs in (1, 2):
        one = overhead(jobs, 1 if arguments.quick else 2 * jobs)
        out.append(one)
        print(f"{jobs} process{'es' if jobs > 1 else ''}: {one['units']} units in {one['wall_s']:.1f} s, {one['training_s']:.1f} s of training; "
              f"planned in {one['planned_s']:.1f} s, first after {one['first_unit_s']:.1f} s; beyond training {one['between_s']:.2f} s a unit "
              f"in the second half, {one['whole_s']:.2f} s with the start of the processes", flush=True)
    return out


def resume(arguments: argparse.Namespace) -> dict[str, Any]:
    """5 sources, 4 targets, 5 folds: 100 fine-tunings, done once, then asked for again."""
    sources, targets, folds = (2, 1, 2) if arguments.quick else (5, 4, 5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = write_grid(folder, sources=sources, targets=targets, folds=folds, seeds=1)
        command = [sys.executable, "-m", "simkit", "finetune", str(study), "--store", str(folder / "store")]
        began = time.perf_counter()
        subprocess.run([*command, "--jobs", "2", "--quiet"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        made = time.perf_counter() - began
        times = []
        for _ in range(2 if arguments.quick else 5):
            began = time.perf_counter()
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            times.append(time.perf_counter() - began)
        last = done.stdout.strip().splitlines()[-1]
        print(f"{sources * targets * folds} runs, made in {made:.0f} s; again: {statistics.median(times):.2f} s (median of {len(times)}: "
              f"{', '.join(f'{t:.2f}' for t in times)}); it says: {last}")
        slow = _imports(command)
        print("modules by own import time [ms] (python -X importtime; cumulative in brackets):")
        for own, cumulative, module in slow:
            print(f"  {own / 1000:6.0f} ({cumulative / 1000:.0f})  {module}")
        print("functions of simkit by cumulative time, in one process, imports included:")
        for line in _profile(study, folder / "store"):
            print(f"  {line}")
    return {"runs": sources * targets * folds, "made_s": made, "seconds": times, "median_s": statistics.median(times), "imports": slow}


def _imports(command: list[str]) -> list[tuple[int, int, str]]:
    """(own, cumulative microseconds, module): the ten modules that take longest themselves, then the ten packages that do as a whole."""
    done = subprocess.run([command[0], "-X", "importtime", *command[1:]], check=True, capture_output=True, text=True)
    rows = [(int(m[1]), int(m[2]), m[3].strip()) for m in re.finditer(r"import time:\s+(\d+) \|\s+(\d+) \|(.*)", done.stderr)]
    whole = [row for row in sorted(rows, key=lambda row: -row[1]) if "." not in row[2]]
    return list(dict.fromkeys([*sorted(rows, reverse=True)[:10], *whole[:10]]))


def _profile(study: Path, store: Path) -> list[str]:
    """The functions of simkit that take longest, of the same work in this process."""
    code = ("import cProfile, sys; p = cProfile.Profile(); p.enable(); from simkit.cli import entry\n"
            "entry(['finetune', sys.argv[1], '--store', sys.argv[2], '--quiet'])\np.disable(); p.dump_stats(sys.argv[3])")
    file = store.parent / "profile"
    subprocess.run([sys.executable, "-c", code, str(study), str(store), str(file)], check=True, stdout=subprocess.DEVNULL)
    stats: Any = pstats.Stats(str(file)).stats  # type: ignore[attr-defined]
    rows = []
    for (where, _, function), (_, calls, _, cumulative, _) in stats.items():
        if f"{os.sep}simkit{os.sep}" in where:
            rows.append((cumulative, calls, f"{Path(where).parent.name}/{Path(where).name}:{function}"))
    return [f"{cumulative:6.2f} s {calls:>6} calls  {what}" for cumulative, calls, what in sorted(rows, reverse=True)[:25]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="speed, overhead, resume; default: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=None, help="images an epoch of speed on a CPU (640)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller grids")
    parser.add_argument("--json", help="write the numbers to this file")
    arguments = parser.parse_args()
    known = {"speed": all_speeds, "overhead": all_overheads, "resume": resume}
    unknown = [part for part in arguments.parts if part not in known]
    if unknown:
        parser.error(f"unknown part '{unknown[0]}': {', '.join(known)}")
    found = {}
    for part in arguments.parts or known:
        print(f"# {part}", flush=True)
        found[part] = known[part](arguments)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
