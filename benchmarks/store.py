"""The store with a million rows: write shards, be killed, go on, gather as a memory map; peak memory stays far below the features.

    python benchmarks/store.py [--rows 1000000] [--columns 512] [--folder DIR] [--json FILE]

Writing, gathering (in a random order) and reading the gathered rows each run in a process of their own, so that peak memory (ru_maxrss, which counts
the pages of memory maps that were touched) is that of the step. Before the writing a writer is killed (SIGKILL) in its work: the next one finds every
row that was committed, and writes the rest. Twice the size of the features is needed on disk. Rows are a function of their number, and are checked.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from simkit.embedding import release
from simkit.recipe import digest_bytes
from simkit.store import ROWS_PER_SHARD, EmbeddingShelf, Store

RECIPE = {"type": "synthetic", "version": 1}


def name(row: int) -> str:
    """The digest of an image, one for each number."""
    return digest_bytes(row.to_bytes(8, "little"))


def features(rows: np.ndarray, columns: int) -> np.ndarray:
    """Features of rows: cheap, and told from their number."""
    return (rows[:, None] % 65521 + np.arange(columns) / 1024).astype(np.float32)


def shelf_of(root: str) -> EmbeddingShelf:
    """The shelf of the synthetic extractor."""
    return Store(root).shelf(RECIPE)


def write(root: str, rows: int, columns: int) -> dict[str, Any]:
    """Writes what is missing, shard by shard."""
    Store(root).prepare(need=rows * columns * 4)
    shelf = shelf_of(root)
    todo = np.array(shelf.missing([name(row) for row in range(rows)]), dtype=np.int64)
    for start in range(0, len(todo), ROWS_PER_SHARD):
        part = todo[start : start + ROWS_PER_SHARD]
        shelf.add([name(int(row)) for row in part], features(part, columns))
    return {"written": len(todo)}


def gather(root: str, rows: int, columns: int) -> dict[str, Any]:
    """Opens the shelf (every digest is checked) and gathers all rows in a random order; the second time the file is there."""
    shelf, order = shelf_of(root), np.random.default_rng(0).permutation(rows)
    started = time.perf_counter()
    known = len(shelf.known())
    opened = time.perf_counter() - started
    found = shelf.gather([name(int(row)) for row in order])
    assert known == rows
    assert found.shape == (rows, columns)
    return {"opening_s": opened}


def read(root: str, rows: int, columns: int) -> dict[str, Any]:
    """Gathers again (the file's digest is checked) and compares every value, in parts whose pages are given back."""
    order = np.random.default_rng(0).permutation(rows)
    found = shelf_of(root).gather([name(int(row)) for row in order])
    wrong = 0
    for start in range(0, rows, 16384):
        wrong += int((found[start : start + 16384] != features(order[start : start + 16384], columns)).sum())
        release(found)
    return {"wrong_values": wrong}


def _measured(connection: Any, step: Callable[[str, int, int], dict[str, Any]], root: str, rows: int, columns: int) -> None:
    started = time.perf_counter()
    facts = step(root, rows, columns)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    connection.send({"seconds": seconds, "GB/s": rows * columns * 4 / 1e9 / seconds, "peak_MiB": peak, **facts})


def alone(step: Callable[[str, int, int], dict[str, Any]], root: str, rows: int, columns: int) -> dict[str, Any]:
    """What a step reports from a process of its own."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_measured, args=(there, step, root, rows, columns))
    process.start()
    there.close()
    facts: dict[str, Any] = here.recv()
    process.join()
    return facts


def killed(root: str, rows: int, columns: int) -> dict[str, Any]:
    """Kills a writer when the third shard is there: what is lost is at most the shard that it was at."""
    process = get_context("spawn").Process(target=write, args=(root, rows, columns))
    process.start()
    shelf = shelf_of(root)
    while process.is_alive() and len(list(shelf.folder.glob("*.safetensors"))) < 3:
        time.sleep(0.002)
    if process.pid is not None and process.is_alive():
        process.kill()
    process.join()
    return {"killed": process.exitcode == -signal.SIGKILL, "rows_kept": len(shelf.known()), "damaged": len(Store(root).verify())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results = {"killed": killed(folder, options.rows, options.columns)}
        for step in (write, gather, read):
            results[step.__name__] = alone(step, folder, options.rows, options.columns)
    for step_name, facts in results.items():
        print(f"{step_name:<8} " + "  ".join(f"{key} {value:,.2f}" if isinstance(value, float) else f"{key} {value}" for key, value in facts.items()))
    if options.json:
        Path(options.json).write_text(json.dumps({"rows": options.rows, "columns": options.columns, **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
