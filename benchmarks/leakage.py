"""Copies that were planted among real images: how many `simkit leakage` finds, and how much of what it finds is right; and 100,000 x 100,000 neighbours.

500 images are drawn from nine data sets and changed, 100 in each of five ways: JPEG of quality 50, half the side, cropped by 5 % (half of them at every
border, half at two borders, in a corner), mirrored, 10 % brighter. They are one data set, the target; the nine sets are the sources. A pair of a planted
image and its original is right. A pair with another image is false, unless that image is a copy of the original in the set itself: the sets hold such copies
(look at --pictures), and what is found within a set is found by the same thresholds, so both counts are shown: strict (every other image is false) and with
the sets' own copies set aside.

The thresholds were chosen on imagenet_groups, cifar10, pneumonia and isic7 (other images); dtd10, fashion, busi, lclung and brainmri4 check them.

    python benchmarks/leakage.py --data FOLDER [--seed 1] [--pictures FOLDER] [--store FOLDER] [--csv FILE]
    python benchmarks/leakage.py --large [--images 100000] [--features 512]
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

import simkit
from simkit.dataset import Dataset
from simkit.files import write_text
from simkit.leakage.pairs import CopyPair
from simkit.pipeline.leakage import leakage_between, leakage_within
from simkit.pipeline.progress import Progress
from simkit.recipe import rng_for
from simkit.store import Store
from simkit.tables import csv_text

SETS = {"imagenet_groups": "imagenet_groups", "cifar10": "cifar10", "pneumonia": "pneumonia.npz", "isic7": "isic7/isic7.csv",
        "dtd10": "dtd10", "fashion": "fashion.npz", "busi": "busi/busi.csv", "lclung": "lclung", "brainmri4": "brainmri4"}
CHOSEN_ON = ("imagenet_groups", "cifar10", "pneumonia", "isic7")
KINDS = ("jpeg", "half", "crop", "flip", "bright")
EACH = 100


def altered(image: np.ndarray, kind: str, corner: int) -> bytes:
    """A changed image as the bytes of a PNG (or JPEG) file. ``corner``: 0..3 crops there, above that at every border."""
    from PIL import Image

    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    wide, high = picture.size
    if kind == "half":
        picture = picture.resize((wide // 2, high // 2), Image.Resampling.BILINEAR)
    elif kind == "crop" and corner > 3:
        picture = picture.crop((round(0.05 * wide), round(0.05 * high), round(0.95 * wide), round(0.95 * high)))
    elif kind == "crop":
        left, top = (corner & 1) * (wide - round(0.95 * wide)), (corner >> 1) * (high - round(0.95 * high))
        picture = picture.crop((left, top, left + round(0.95 * wide), top + round(0.95 * high)))
    elif kind == "flip":
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    elif kind == "bright":
        picture = Image.fromarray(np.clip(np.asarray(picture) * 1.1, 0, 255).astype(np.uint8))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=50) if kind == "jpeg" else picture.save(out, "PNG")
    return out.getvalue()


def plant(sets: dict[str, Dataset], folder: Path, seed: int) -> dict[str, tuple[str, str, str]]:
    """Writes the planted images; key -> (data set, key of the original, kind)."""
    truth = {}
    for number, kind in enumerate(KINDS):
        for place, (name, dataset) in enumerate(sets.items()):
            count = EACH // len(sets) + ((place + number) % len(sets) < EACH % len(sets))
            rng = rng_for(seed, "planted", name, kind)
            for index in rng.choice(len(dataset), count, replace=False):
                file = f"{kind}/{name}-{index:05d}.{'jpg' if kind == 'jpeg' else 'png'}"
                (folder / kind).mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(altered(dataset.read(int(index)), kind, int(rng.integers(8))))
                truth[file] = (name, dataset.keys[int(index)], kind)
    return truth


def own_copies(sets: dict[str, Dataset], store: Store) -> dict[str, set[frozenset[str]]]:
    """Pairs of keys that are copies within a set, whatever its split says."""
    from dataclasses import replace

    out = {}
    for name, dataset in sets.items():
        found = leakage_within(replace(dataset, splits=None, groups=None), store, Progress())
        out[name] = {frozenset((pair.first_key, pair.second_key)) for pair in found.pairs}
    return out


def judged(
    pairs: list[CopyPair], truth: dict[str, tuple[str, str, str]], own: dict[str, set[frozenset[str]]],
) -> tuple[list[str], list[CopyPair], list[CopyPair]]:
    """Planted images that were found; pairs with the originals' own copies; false pairs."""
    right, copies, false = [], [], []
    for pair in pairs:
        name, original, _ = truth[pair.first_key]
        if pair.second == name and pair.second_key == original:
            right.append(pair.first_key)
        elif pair.second == name and frozenset((original, pair.second_key)) in own[name]:
            copies.append(pair)
        else:
            false.append(pair)
    return right, copies, false


def table(truth: dict[str, tuple[str, str, str]], right: list[str], copies: list[CopyPair], false: list[CopyPair]) -> list[list[object]]:
    """Recall and precision in total, by kind, by data set, and for the sets that thresholds were chosen on and those that check them."""
    groups: dict[str, set[str]] = defaultdict(set)
    for key, (name, _, kind) in truth.items():
        part = "sets that thresholds were chosen on" if name in CHOSEN_ON else "sets that check them"
        for group in ("all", f"kind {kind}", f"set {name}", part):
            groups[group].add(key)
    rows: list[list[object]] = []
    for group, keys in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        hits = len(keys & set(right))
        own, wrong = (sum(pair.first_key in keys for pair in some) for some in (copies, false))
        rows.append([group, len(keys), hits, own, wrong, round(hits / len(keys), 3), round(hits / max(hits + wrong, 1), 3),
                     round(hits / max(hits + wrong + own, 1), 3)])
    return rows


def pictures(pairs: list[tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """Pairs side by side, eight a row, as PNG."""
    from PIL import Image

    from simkit.report.thumbnails import Thumbnail

    make = Thumbnail()
    rows = -(-len(pairs) // 8)
    canvas = np.full((max(rows, 1) * 104, 8 * 204, 3), 255, dtype=np.uint8)
    for number, (one, two) in enumerate(pairs):
        top, left = number // 8 * 104, number % 8 * 204
        canvas[top : top + 96, left : left + 96], canvas[top : top + 96, left + 98 : left + 194] = make(one), make(two)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(canvas).save(path)


def planted(data: Path, seed: int, folder: Path | None, store: Store, csv: str | None) -> None:
    """The benchmark of planted copies."""
    sets = {name: simkit.load(data / path, name=name) for name, path in SETS.items()}
    with tempfile.TemporaryDirectory() as place:
        truth = plant(sets, Path(place) / "planted", seed)
        target = simkit.load(Path(place) / "planted")
        own = own_copies(sets, store)
        start = time.perf_counter()
        found: list[CopyPair] = []
        for dataset in sets.values():
            found += leakage_between(target, dataset, store, Progress()).pairs
        seconds = time.perf_counter() - start
        weak = sorted(found, key=lambda pair: pair.similarity)[:8]
        print("least similar:", [(pair.first_key, pair.second_key, pair.similarity) for pair in weak])
        right, copies, false = judged(found, truth, own)
        head = ["group", "planted", "found", "own copies", "false", "recall", "precision", "strict precision"]
        rows = table(truth, right, copies, false)
        print(" | ".join(head))
        for row in rows:
            print(" | ".join(str(cell) for cell in row))
        print("copies within the sets: " + ", ".join(f"{name} {len(pairs)}" for name, pairs in own.items()))
        print("false pairs by kind and set:", dict(Counter((truth[pair.first_key][2], pair.second) for pair in false)))
        print(f"{len(target)} x {sum(map(len, sets.values())):,} images in {seconds:.1f} s")
        if csv:
            write_text(csv, csv_text(head, rows))
        if folder is not None:
            draw(folder, sets, target, truth, set(right), copies, false)


def draw(
    folder: Path, sets: dict[str, Dataset], target: Dataset, truth: dict[str, tuple[str, str, str]], right: set[str], copies: list[CopyPair],
    false: list[CopyPair],
) -> None:
    """Misses (planted, original), false pairs and own copies (planted, found) as pictures."""
    places = {key: i for i, key in enumerate(target.keys)}
    at = {name: {key: i for i, key in enumerate(dataset.keys)} for name, dataset in sets.items()}
    missed = [key for key in sorted(truth) if key not in right]
    pictures([(target.read(places[key]), sets[truth[key][0]].read(at[truth[key][0]][truth[key][1]])) for key in missed], folder / "missed.png")
    for name, pairs in (("false", false), ("own-copies", copies)):
        pictures([(target.read(places[p.first_key]), sets[p.second].read(at[p.second][p.second_key])) for p in pairs], folder / f"{name}.png")
    print("missed:", missed)


def large(images: int, features: int) -> None:
    """Embedding neighbours of so many images in as many others (random vectors, exact search), and the same number of perceptual hashes."""
    from simkit.leakage.hashing import hash_candidates
    from simkit.leakage.neighbours import Features, embedding_candidates

    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal((images, features), dtype=np.float32) for _ in range(2))
    copies = rng.choice(images, images // 100, replace=False)
    first[copies] = second[copies] + 0.1 * rng.standard_normal((len(copies), features), dtype=np.float32)
    start = time.perf_counter()
    found, limit, said = embedding_candidates(Features("first", first), Features("second", second), same=False)
    seconds = time.perf_counter() - start
    hits = len(set(copies.tolist()) & set(found.first[found.first == found.second].tolist()))
    print(f"{images:,} x {images:,} at d = {features}: {seconds:.1f} s on {os.cpu_count()} cores; {hits} of {len(copies)} planted found, "
          f"{len(found)} candidates above {limit:.3f}")
    print(said)
    del first, second, found
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32))) + 1 / 32
    pictures = []
    for _ in range(2):
        parts = [np.fft.ifft2(np.fft.fft2(rng.standard_normal((1000, 32, 32))) / frequency**1.2).real for _ in range(images // 1000)]
        pictures.append(np.concatenate([(128 + 40 * part / part.std()).astype(np.float32) for part in parts]))
    start = time.perf_counter()
    candidates = hash_candidates(*pictures, same=False, least=0.6)
    print(f"{images:,} x {images:,} perceptual hashes, eight orientations: {time.perf_counter() - start:.1f} s, {len(candidates):,} candidates")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the nine development data sets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures", type=Path, help="folder for pictures of misses, false pairs and own copies")
    parser.add_argument("--store", type=Path, help="store that is kept (default: a new one)")
    parser.add_argument("--csv", help="also write the table to this file")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=512)
    options = parser.parse_args()
    if options.large:
        large(options.images, options.features)
    if options.data is not None:
        with tempfile.TemporaryDirectory() as place:
            planted(options.data, options.seed, options.pictures, Store(options.store or place), options.csv)


if __name__ == "__main__":
    main()
