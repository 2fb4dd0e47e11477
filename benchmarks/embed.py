"""Embedding against its limits and its peers, on the same JPEG files and the same network, in one run.

Limits: the bare forward pass on tensors that are on the device already, and decoding alone (decode, resize, crop; no network). Peers: a plain
loop over torch's DataLoader as pytorch-fid has it, timm's own loader and loop, and thingsvision, each with its defaults for loading and the same
batch size. All get the same weights (untrained, one seed). Every measurement is a process of its own; times are wall seconds of the loop,
without imports and loading of the network, and the best of ``--repeats`` runs that take turns.

    python benchmarks/embed.py                                 # ResNet-50 at 224 px, 1,024 photographs of 500 x 375, on the CPU
    python benchmarks/embed.py --network mobilenet_v3_small --images 4096
    python benchmarks/embed.py --device cuda --images 20000 --batch-size 256 --precision bfloat16
    python benchmarks/embed.py backends                        # torch, channels_last, folded, bf16, compiled, OpenVINO, onnxruntime
    python benchmarks/embed.py million                         # memory of 1,000,000 rows of 512 through the store

Peers that are not installed are left out, and named (``pip install 'simkit[bench]'``; thingsvision pins older libraries and may want an
environment of its own: give its Python by ``--peer-python``).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

GIB = 2**30
SIZE = (500, 375)


def photographs(folder: Path, count: int) -> None:
    """JPEG files with the detail of photographs: pictures that ship with scikit-image, cut at random, scaled to 500 x 375, quality 90."""
    import numpy as np
    from PIL import Image
    from skimage import data

    if sum(1 for _ in folder.rglob("*.jpg")) >= count:
        return
    pictures = [Image.fromarray(picture) for picture in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket())]
    rng = np.random.default_rng(0)
    (folder / "photographs").mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture = pictures[i % len(pictures)]
        width = int(rng.integers(200, picture.width))
        height = min(int(width * 0.75), picture.height)
        left, top = int(rng.integers(0, picture.width - width + 1)), int(rng.integers(0, picture.height - height + 1))
        picture.crop((left, top, left + width, top + height)).resize(SIZE, Image.Resampling.BICUBIC).save(
            folder / "photographs" / f"{i:06d}.jpg", quality=90)


# --- what is timed, each in a process of its own: (load) -> loop -> rows -----------------------------------------------------------------


def network(options: argparse.Namespace) -> Any:
    """The network of all peers, without its last layer."""
    import torch
    from torchvision.models import get_model

    torch.manual_seed(0)
    model = get_model(options.network, weights=None)
    if hasattr(model, "fc"):
        model.fc = torch.nn.Identity()
    else:
        model.classifier[-1] = torch.nn.Identity()
    return model.eval().to(options.device)


def autocast(options: argparse.Namespace) -> Any:
    import torch

    kinds = {"bfloat16": torch.bfloat16, "float16": torch.float16}
    return torch.autocast(options.device, dtype=kinds[options.precision]) if options.precision in kinds else contextlib.nullcontext()


def synchronise(options: argparse.Namespace) -> None:
    import torch

    if options.device == "cuda":
        torch.cuda.synchronize()


def warm_up(model: Any, options: argparse.Namespace) -> None:
    """One batch that is not timed."""
    import torch

    with torch.inference_mode(), autocast(options):
        model(torch.zeros(options.batch_size, 3, 224, 224, device=options.device))
    synchronise(options)


def our_session(options: argparse.Namespace) -> Any:
    from simkit.extractors.torchvision import Torchvision

    extra = {} if options.precision == "float32" else {"precision": options.precision}
    return Torchvision(network=options.network, weights="random", **extra).session(options.device)


def bare(options: argparse.Namespace) -> Callable[[], int]:
    """The forward pass of simkit's own network on one batch that is on the device, as often as there are batches."""
    import torch

    session = our_session(options)
    if options.backend != "torch":
        import numpy as np

        session.use(options.backend, np.zeros((options.batch_size, *session.shape), dtype=np.uint8))
    size = options.batch_size
    pixels = torch.randint(0, 256, (size, *session.shape), dtype=torch.uint8)
    images = (pixels.to(options.device).permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=torch.channels_last)

    def loop(images_wanted: int = options.images) -> int:
        done = 0
        with torch.inference_mode(), autocast(options):
            while done < images_wanted:
                if session.backend is not None:
                    session.backend(pixels.numpy())
                else:
                    session.rows(images)
                done += size
        synchronise(options)
        return done

    loop(1)  # to warm up
    return loop


def decoding(options: argparse.Namespace) -> Callable[[], int]:
    """The limit of decoding: as many processes as simkit uses, each decoding, resizing and cropping its share, nothing else."""
    from concurrent.futures import ProcessPoolExecutor

    paths = [str(path) for path in sorted(Path(options.folder).rglob("*.jpg"))[: options.images]]
    pool = ProcessPoolExecutor(options.workers)
    list(pool.map(_decoded, [paths[:8]] * options.workers))
    shares = [paths[i :: options.workers] for i in range(options.workers)]
    return lambda: sum(pool.map(_decoded, shares))


def _decoded(paths: list[str]) -> int:
    from simkit.extractors.network_session import Preprocessing
    from simkit.sources.decode import decode

    rule = Preprocessing(256, 224)
    for path in paths:
        rule(decode(path))
    return len(paths)


def simkit(options: argparse.Namespace) -> Callable[[], int]:
    """The whole way: folder, store, features; the network is loaded before."""
    import numpy as np

    from simkit.extractors.torchvision import Torchvision
    from simkit.pipeline.progress import Progress
    from simkit.pipeline.stages import Effort, Sessions, embed_dataset
    from simkit.sources.folder import Folder
    from simkit.store import Store

    dataset = Folder(path=Path(options.folder)).load("photographs", Path())
    dataset = dataset.take(range(options.images))
    extra = {} if options.precision == "float32" else {"precision": options.precision}
    extractor = Torchvision(network=options.network, weights="random", **extra)
    effort = Effort(None if options.automatic else options.batch_size, options.workers, options.backend)
    sessions = Sessions(extractor, options.device, effort)
    session: Any = sessions.get(dataset, list(range(options.images)), Progress())
    session.features([np.zeros(session.shape, dtype=np.uint8)] * options.batch_size)  # to warm up, as all do
    _ = dataset.digests  # every peer reads the files once before; ours are then in the page cache as well

    def loop() -> int:
        with tempfile.TemporaryDirectory() as folder:
            return embed_dataset(dataset, sessions, Store(folder), Progress()).computed

    return loop


def dataloader(options: argparse.Namespace) -> Callable[[], int]:
    """A plain loop, as pytorch-fid's: Pillow, torchvision's transforms to float tensors, DataLoader, forward, numpy."""
    import torch
    from PIL import Image
    from torchvision import transforms

    paths = sorted(Path(options.folder).rglob("*.jpg"))[: options.images]
    rule = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
                               transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])

    class Files(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, i: int) -> Any:
            return rule(Image.open(paths[i]).convert("RGB"))

    model = network(options)
    warm_up(model, options)

    def loop() -> int:
        loader = torch.utils.data.DataLoader(Files(), batch_size=options.batch_size, num_workers=options.workers, drop_last=False)
        rows = []
        for batch in loader:
            with torch.no_grad(), autocast(options):
                rows.append(model(batch.to(options.device)).float().cpu().numpy())
        return sum(map(len, rows))

    return loop


def timm(options: argparse.Namespace) -> Callable[[], int]:
    """timm's create_dataset and create_loader (uint8 collation, prefetcher on a GPU), and the loop of its inference script."""
    import timm as package
    import torch

    name = {"mobilenet_v3_small": "mobilenetv3_small_100", "mobilenet_v2": "mobilenetv2_100"}.get(options.network, options.network)
    torch.manual_seed(0)
    model = package.create_model(name, pretrained=False, num_classes=0).eval().to(options.device)
    warm_up(model, options)
    config = package.data.resolve_data_config({"input_size": (3, 224, 224), "crop_pct": 224 / 256, "interpolation": "bilinear"}, model=model)

    def loop() -> int:
        holder = package.data.create_dataset("", root=options.folder)
        holder.reader.samples = holder.reader.samples[: options.images]
        chosen = {key: config[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct")}
        loader = package.data.create_loader(holder, batch_size=options.batch_size, num_workers=options.workers, use_prefetcher=options.device == "cuda",
                                            device=torch.device(options.device), **chosen)
        done = 0
        with torch.inference_mode(), autocast(options):
            for batch, _ in loader:
                done += len(model(batch.to(options.device)).float().cpu().numpy())
        return done

    return loop


def thingsvision(options: argparse.Namespace) -> Callable[[], int]:
    """thingsvision: get_extractor, ImageDataset, DataLoader, extract_features."""
    import torch
    from thingsvision import get_extractor
    from thingsvision.utils.data import DataLoader, ImageDataset

    torch.manual_seed(0)
    extractor = get_extractor(model_name=options.network, source="torchvision", device=options.device, pretrained=False)
    warm_up(extractor.model, options)
    module = {"resnet50": "avgpool", "resnet18": "avgpool"}.get(options.network, "avgpool")

    def loop() -> int:
        with tempfile.TemporaryDirectory() as out:
            dataset = ImageDataset(root=options.folder, out_path=out, backend="pt", transforms=extractor.get_transformations())
            batches = DataLoader(dataset=dataset, batch_size=options.batch_size, backend="pt")
            return len(extractor.extract_features(batches=batches, module_name=module, flatten_acts=True, output_type="ndarray"))

    return loop


WAYS: dict[str, Callable[[argparse.Namespace], Callable[[], int]]] = {
    "bare forward": bare, "decoding alone": decoding, "simkit": simkit, "DataLoader loop": dataloader, "timm": timm, "thingsvision": thingsvision,
}


def child(options: argparse.Namespace) -> None:
    """One measurement: prints images, seconds and peak memory as JSON."""
    try:
        loop = WAYS[options.child](options)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}))
        return
    started = time.perf_counter()
    count = loop()
    seconds = time.perf_counter() - started
    print(json.dumps({"images": count, "seconds": seconds, "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB}))


def measured(way: str, options: argparse.Namespace) -> dict[str, Any]:
    python = options.peer_python if way == "thingsvision" and options.peer_python else sys.executable
    command = [python, __file__, "--child", way, "--folder", options.folder, "--images", str(options.images), "--network", options.network, "--device",
               options.device, "--batch-size", str(options.batch_size), "--workers", str(options.workers), "--precision", options.precision,
               "--backend", options.backend, *(["--automatic"] if options.automatic else [])]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return {"missing": (done.stderr.strip().splitlines() or ["no output"])[-1][:120]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def compare(options: argparse.Namespace) -> None:
    photographs(Path(options.folder), options.images)
    best: dict[str, dict[str, Any]] = {}
    ways = [way for way in WAYS if not options.only or way in options.only]
    for _ in range(options.repeats):
        for way in ways:
            found = measured(way, options)
            if "missing" in found:
                best.setdefault(way, found)
            elif "seconds" not in best.get(way, {}) or found["seconds"] / found["images"] < best[way]["seconds"] / best[way]["images"]:
                best[way] = found
    rate = {way: row["images"] / row["seconds"] for way, row in best.items() if "seconds" in row}
    print(f"{options.network}, 224 px, {options.images} JPEG files of {SIZE[0]} x {SIZE[1]}, {options.device}, {options.precision}, backend {options.backend}, "
          f"batch {options.batch_size}, {options.workers} workers, {options.threads} threads; best of {options.repeats}\n")
    print("| way | images/s | simkit is | GiB |\n|---|---|---|---|")
    for way, row in best.items():
        if "missing" in row:
            print(f"| {way} | left out: {row['missing']} | | |")
        else:
            print(f"| {way} | {rate[way]:,.1f} | {rate['simkit'] / rate[way]:.2f}x | {row['gib']:.2f} |" if "simkit" in rate
                  else f"| {way} | {rate[way]:,.1f} | | {row['gib']:.2f} |")


# --- backends ----------------------------------------------------------------------------------------------------------------------------


def backends(options: argparse.Namespace) -> None:
    """Rates of one batch on the CPU, and how far each moves the features (largest difference in units of the largest feature)."""
    import numpy as np
    import torch

    from simkit.errors import SimkitError
    from simkit.extractors.backends import fold_batch_norms
    from simkit.extractors.network_session import NetworkSession, Preprocessing

    torch.set_num_threads(options.threads)
    batch = np.random.default_rng(0).integers(0, 256, (options.batch_size, 224, 224, 3), dtype=np.uint8)
    kinds = ("torch", "channels_last", "folded", "bfloat16", "compile", "openvino", "onnxruntime")
    print(f"| network | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}")
    for name in options.networks:
        cells = []
        wanted: Any = None
        for kind in kinds:
            model = network(argparse.Namespace(network=name, device="cpu"))
            session = NetworkSession(model, Preprocessing(256, 224), "cpu")
            if kind == "torch":
                session.model = session.model.to(memory_format=torch.contiguous_format)
            elif kind != "channels_last":
                fold_batch_norms(session.model)
            last = torch.contiguous_format if kind == "torch" else torch.channels_last
            session.rows = lambda images, model=session.model, last=last: model(images.contiguous(memory_format=last))  # type: ignore[method-assign]
            if kind == "bfloat16":
                session.precision = "bfloat16"
            try:
                session.use(kind if kind in ("compile", "openvino", "onnxruntime") else "torch", batch)
            except SimkitError as error:
                cells.append(error.problems[0].message[:40])
                continue
            rows = session.features(list(batch))
            times = []
            for _ in range(options.repeats):
                started = time.perf_counter()
                session.collect(session.launch(batch))
                times.append(time.perf_counter() - started)
            wanted = rows if wanted is None else wanted
            cells.append(f"{len(batch) / min(times):,.0f} ({np.abs(rows - wanted).max() / np.abs(wanted).max():.0e})")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


# --- a million rows -----------------------------------------------------------------------------------------------------------------------


def million(options: argparse.Namespace) -> None:
    """Rows of a synthetic source through the whole pipeline and back as a memory map; the peak memory of the process."""
    import numpy as np

    from simkit.dataset import Dataset
    from simkit.extractors.base import Extractor
    from simkit.pipeline.progress import Progress
    from simkit.pipeline.stages import Effort, Sessions, embed_dataset
    from simkit.recipe import digest_bytes
    from simkit.store import Store

    class Numbers:
        in_memory = True

        def read(self, index: int) -> Any:
            return np.frombuffer(index.to_bytes(12, "little"), dtype=np.uint8).reshape(2, 2, 3)

        def digest(self, index: int) -> str:
            return digest_bytes(index.to_bytes(8, "little"))

    class Session:
        def __init__(self) -> None:
            self.table = np.random.default_rng(0).standard_normal((256, 512), dtype=np.float32)

        def prepare(self, image: Any) -> Any:
            return image

        def features(self, batch: Any) -> Any:
            return sum(self.table[np.stack(batch)[:, i, j, 0]] * np.float32(i + 2 * j + 1) for i in range(2) for j in range(2))

    class Synthetic(Extractor):
        name, needs_device = "synthetic", False

        def recipe(self) -> dict[str, Any]:
            return {"type": "synthetic", "width": 512}

        def session(self, device: str) -> Any:
            return Session()

    n = options.rows
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        dataset = Dataset("numbers", tuple(f"n{i}" for i in range(n)), Numbers(), np.zeros(n, dtype=np.int64), ("one",))
        for what in ("embedded", "found again"):
            started = time.perf_counter()
            done = embed_dataset(dataset, Sessions(Synthetic(), "cpu", Effort(4096, 1)), Store(folder), Progress())
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
            kind = type(done.embedding.features).__name__
            seconds = time.perf_counter() - started
            print(f"{n:,} rows of {done.embedding.dimension} {what} in {seconds:.0f} s ({done.computed:,} computed), a {kind}, peak {peak:.2f} GiB "
                  f"({before:.2f} before)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="compare", choices=["compare", "backends", "million"])
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--networks", nargs="*", default=["mobilenet_v3_small", "mobilenet_v2", "resnet18", "resnet50"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--automatic", action="store_true", help="simkit finds its batch size")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--peer-python", default="")
    parser.add_argument("--folder", default=str(Path(tempfile.gettempdir()) / "simkit-photographs"))
    parser.add_argument("--child", default="")
    options = parser.parse_args()
    if options.child:
        child(options)
    else:
        {"compare": compare, "backends": backends, "million": million}[options.what](options)


if __name__ == "__main__":
    main()
