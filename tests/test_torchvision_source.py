"""Sets of torchvision by name, on files that the tests write in the formats of the sets; images and labels are compared with torchvision's own."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import pickle
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simkit.errors import DataError, ResourceError, UsageError
from simkit.networks import host_error
from simkit.recipe import rng_for
from simkit.registry import SOURCES, Spec
from simkit.sources.folder import Folder
from simkit.sources.torchvision import SETS, OpenedReader, Torchvision

OFFLINE = OSError("no route to host")


def noise(*shape: int) -> np.ndarray:
    return rng_for("torchvision", list(shape)).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simkit.sources.torchvision.host_error", lambda url: OFFLINE)


def picture(path: Path, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(6 + number % 3, 8, 3) + np.uint8(number)).save(path)
    return path


def mnist_files(folder: Path, counts: dict[str, int], *, zipped: bool = False) -> None:
    """MNIST's idx files: images 28 x 28 and labels."""
    folder.mkdir(parents=True)
    for split, count in counts.items():
        images, labels = noise(count, 28, 28), np.arange(count, dtype=np.uint8) % 10
        for name, data in ((f"{split}-images-idx3-ubyte", struct.pack(">IIII", 2051, count, 28, 28) + images.tobytes()),
                           (f"{split}-labels-idx1-ubyte", struct.pack(">II", 2049, count) + labels.tobytes())):
            (folder / f"{name}{'.gz' if zipped else ''}").write_bytes(gzip.compress(data, mtime=0) if zipped else data)


def compared(source: Torchvision, base: Path, **arguments: Any) -> Any:
    """The data set, whose images and labels must be what torchvision hands out, split by split."""
    import torchvision.datasets

    dataset = source.load("d", base)
    kind = getattr(torchvision.datasets, source.set)
    splits = list(dict.fromkeys(key.partition("/")[0] for key in dataset.keys))
    for split in splits:
        chosen = {name: value[split] if isinstance(value, dict) else value for name, value in arguments.items()}
        theirs = kind(str(base / (source.root or "")), **chosen)
        rows = [index for index, key in enumerate(dataset.keys) if key.startswith(f"{split}/")]
        assert len(rows) == len(theirs) > 0
        for number, index in enumerate(rows):
            image, label = theirs[number][:2]
            image = Image.fromarray(image.numpy().squeeze()) if hasattr(image, "numpy") else image
            np.testing.assert_array_equal(dataset.read(index).squeeze(), np.asarray(image))
            assert dataset.labels[index] == label
    return dataset


# ---------------------------------------------------------------- sets in arrays


def test_mnist_is_read_as_torchvision_reads_it(tmp_path: Path) -> None:
    mnist_files(tmp_path / "MNIST" / "raw", {"train": 12, "t10k": 5})
    dataset = compared(Torchvision(set="MNIST", root=tmp_path), tmp_path, train={"train": True, "test": False})
    assert dataset.splits == ("train",) * 12 + ("test",) * 5
    assert dataset.keys[11:13] == ("train/11", "test/0")
    assert dataset.classes[:2] == ("0 - zero", "1 - one")
    again = pickle.loads(pickle.dumps(dataset))
    assert again.fingerprint == dataset.fingerprint
    one = SOURCES.build(Spec("torchvision", {"set": "MNIST", "splits": ["test"], "root": "."})).load("d", tmp_path)
    assert one.splits == ("test",) * 5
    assert one.digests == dataset.digests[12:]


def test_a_worker_needs_no_torch_for_arrays_and_files(tmp_path: Path) -> None:
    mnist_files(tmp_path / "MNIST" / "raw", {"train": 3, "t10k": 2})
    dataset = Torchvision(set="MNIST", root=tmp_path).load("d", tmp_path)
    for reader in (dataset.reader, eurosat(tmp_path).load("d", tmp_path).reader):
        (tmp_path / "reader").write_bytes(pickle.dumps(reader))
        code = f"import pickle, sys; r = pickle.load(open({str(tmp_path / 'reader')!r}, 'rb')); r.read(0); print('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_cifar_is_read_after_the_check_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = ["airplane", "bird", "cat"]

    def stored(name: str, content: dict[str, Any]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    kind = torchvision.datasets.CIFAR10
    train = stored("data_batch_1", {"data": noise(4, 3072), "labels": [0, 2, 1, 0]})
    test = stored("test_batch", {"data": noise(2, 3072), "labels": [1, 1]})
    monkeypatch.setattr(kind, "train_list", [["data_batch_1", train]])
    monkeypatch.setattr(kind, "test_list", [["test_batch", test]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": stored("batches.meta", {"label_names": names})})
    dataset = compared(Torchvision(set="CIFAR10", root=tmp_path), tmp_path, train={"train": True, "test": False})
    assert dataset.classes == tuple(names)
    assert dataset.read(0).shape == (32, 32, 3)
    stored("test_batch", {"data": noise(2, 3072), "labels": [0, 1]})
    with pytest.raises(ResourceError, match=r"SK302\] torchvision CIFAR10: is not in .* \(no route to host\)"):
        Torchvision(set="CIFAR10", root=tmp_path).load("d", tmp_path)


def test_arrays_with_channels_first_are_turned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets
    from scipy.io import savemat

    kind = torchvision.datasets.SVHN
    for split, count in (("train", 4), ("test", 3)):
        path = tmp_path / f"{split}_32x32.mat"
        savemat(path, {"X": noise(32, 32, 3, count), "y": np.arange(8, 8 + count, dtype=np.uint8)[:, None] % 10 + 1})
        url = [kind.split_list[split][0], path.name, hashlib.md5(path.read_bytes()).hexdigest()]
        monkeypatch.setitem(kind.split_list, split, url)
    dataset = compared(Torchvision(set="SVHN", root=tmp_path), tmp_path, split={"train": "train", "test": "test"})
    assert dataset.classes == tuple("0123456789")[: int(dataset.labels.max()) + 1]


def test_images_that_torchvision_keeps_as_text_are_read_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    path = tmp_path / "fer2013" / "train.csv"
    path.parent.mkdir()
    rows = ["emotion,pixels", *(f"{index % 7},{' '.join(map(str, noise(48 * 48) + np.uint8(index)))}" for index in range(3))]
    path.write_text("\n".join(rows) + "\n")
    monkeypatch.setitem(torchvision.datasets.FER2013._RESOURCES, "train", ("train.csv", hashlib.md5(path.read_bytes()).hexdigest()))
    dataset = compared(Torchvision(set="FER2013", root=tmp_path), tmp_path, split={"train": "train"})
    reader = pickle.loads(pickle.dumps(dataset.reader))
    reader = reader if isinstance(reader, OpenedReader) else reader.readers[0]
    assert isinstance(reader, OpenedReader)
    np.testing.assert_array_equal(reader.read(2), dataset.read(2))
    assert reader.digest(1) == dataset.digests[1]


# ---------------------------------------------------------------- sets in files


def eurosat(folder: Path) -> Torchvision:
    if not (folder / "eurosat").exists():
        for index in range(6):
            picture(folder / "eurosat" / "2750" / ("Forest", "River")[index % 2] / f"{index}.png", index)
    return Torchvision(set="EuroSAT", root=folder)


def test_files_have_the_digests_of_a_folder(tmp_path: Path) -> None:
    dataset = compared(eurosat(tmp_path), tmp_path)
    folder = Folder(path=tmp_path / "eurosat" / "2750").load("f", tmp_path)
    assert dataset.digests == folder.digests
    assert dataset.label_names == folder.label_names
    assert dataset.splits is None
    assert dataset.keys[0] == "all/0"


def test_splits_by_lists_of_files(tmp_path: Path) -> None:
    root = tmp_path / "dtd" / "dtd"
    (root / "labels").mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test")):
        names = [f"{kind}/{kind}_{number}.jpg" for kind in ("banded", "dotted")]
        for index, name in enumerate(names):
            picture(root / "images" / name, index)
        (root / "labels" / f"{split}1.txt").write_text("\n".join(names) + "\n")
    dataset = compared(Torchvision(set="DTD", root=tmp_path), tmp_path, split={split: split for split in ("train", "val", "test")})
    assert dataset.classes == ("banded", "dotted")
    assert dataset.splits == ("train", "train", "val", "val", "test", "test")
    assert len(Torchvision(set="DTD", root=tmp_path, splits=("test",)).load("d", tmp_path)) == 2
    with pytest.raises(DataError, match=r"SK203\] torchvision DTD: Unknown value 'tset' for argument split. Valid values are"):
        Torchvision(set="DTD", root=tmp_path, splits=("tset",)).load("d", tmp_path)


def test_gtsrb_and_caltech_which_keep_their_files_in_other_ways(tmp_path: Path) -> None:
    for index in range(4):
        picture(tmp_path / "gtsrb" / "GTSRB" / "Training" / f"{index % 2:05d}" / f"{index}.ppm", index)
        picture(tmp_path / "gtsrb" / "GTSRB" / "Final_Test" / "Images" / f"{index:05d}.ppm", index)
    rows = "".join(f"{index:05d}.ppm;{index}\n" for index in range(3))
    (tmp_path / "gtsrb" / "GT-final_test.csv").write_text(f"Filename;ClassId\n{rows}")
    signs = compared(Torchvision(set="GTSRB", root=tmp_path), tmp_path, split={"train": "train", "test": "test"})
    assert signs.classes == ("0", "1", "2")
    for kind in ("BACKGROUND_Google", "ant", "Faces"):
        for index in range(1, 3):
            picture(tmp_path / "caltech101" / "101_ObjectCategories" / kind / f"image_{index:04d}.jpg", index)
    animals = compared(Torchvision(set="Caltech101", root=tmp_path), tmp_path)
    assert animals.classes == ("Faces", "ant")
    assert len(animals.reader.paths) == 4


def test_sets_with_several_kinds_of_labels(tmp_path: Path) -> None:
    folder = tmp_path / "oxford-iiit-pet"
    lines = ["Abyssinian_1 1 1 1", "Abyssinian_2 1 1 1", "beagle_1 2 2 1"]
    for name in ("trainval", "test"):
        (folder / "annotations").mkdir(parents=True, exist_ok=True)
        (folder / "annotations" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    for number, line in enumerate(lines):
        picture(folder / "images" / f"{line.split()[0]}.jpg", number)
    breeds = compared(Torchvision(set="OxfordIIITPet", root=tmp_path), tmp_path, split={"trainval": "trainval", "test": "test"})
    assert breeds.classes == ("Abyssinian", "Beagle")
    species = Torchvision(set="OxfordIIITPet", root=tmp_path, target="binary-category", splits=("test",)).load("d", tmp_path)
    assert species.classes == ("Cat", "Dog")
    assert species.label_names == ("Cat", "Cat", "Dog")
    with pytest.raises(UsageError, match=r"SK102\] torchvision\.target: MNIST has one kind of labels"):
        Torchvision(set="MNIST", root=tmp_path, target="x").load("d", tmp_path)


# ---------------------------------------------------------------- downloads


@pytest.fixture
def server() -> Iterator[Callable[[Path], str]]:
    """Serves a folder on this machine; gives its address."""
    running: list[http.server.ThreadingHTTPServer] = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None: ...

    def serve(folder: Path) -> str:
        running.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)))
        threading.Thread(target=running[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{running[-1].server_port}"

    yield serve
    for one in running:
        one.shutdown()
        one.server_close()


def test_torchvision_downloads_what_is_missing(
    tmp_path: Path, server: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    import torchvision.datasets

    kind = torchvision.datasets.FashionMNIST
    mnist_files(tmp_path / "away", {"train": 4, "t10k": 3}, zipped=True)
    monkeypatch.setattr(kind, "mirrors", [server(tmp_path / "away") + "/"])
    monkeypatch.setattr(kind, "resources", [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in sorted((tmp_path / "away").iterdir())])
    monkeypatch.setattr("simkit.sources.torchvision.host_error", host_error)
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(ResourceError, match=r"SK302\] torchvision FashionMNIST: is not in .*root"):
        Torchvision(set="FashionMNIST", root=root, download=False).load("d", tmp_path)
    dataset = Torchvision(set="FashionMNIST", root=root).load("d", tmp_path)
    assert len(dataset) == 7
    assert capsys.readouterr().out == ""
    assert Torchvision(set="FashionMNIST", root=root, download=False).load("d", tmp_path).fingerprint == dataset.fingerprint
    monkeypatch.setattr(kind, "resources", [(name, "0" * 32) for name, _ in kind.resources])
    (tmp_path / "other").mkdir()
    with pytest.raises(ResourceError, match=r"SK302\] torchvision FashionMNIST: is not in .*other and cannot be downloaded"):
        Torchvision(set="FashionMNIST", root=tmp_path / "other").load("d", tmp_path)


def test_a_host_that_is_out_of_reach_is_asked_once_and_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("simkit.sources.torchvision.host_error", lambda url: asked.append(url) or OFFLINE)
    for name, address in (("MNIST", "train-images-idx3-ubyte.gz"), ("EuroSAT", "EuroSAT"), ("DTD", "dtd"), ("Food101", "food-101"), ("STL10", "stl10_binary"),
                          ("GTSRB", "daaeac0d7ce1152aea9b61d9f1e19370"), ("USPS", "usps"), ("CIFAR100", "cifar-100"), ("KMNIST", "kmnist")):
        with pytest.raises(ResourceError, match=rf"SK302\] torchvision {name}: is not in .* \(no route to host\)") as caught:
            Torchvision(set=name, root=tmp_path).load("d", tmp_path)
        assert address in asked[-1]
        fix = caught.value.problems[0].fix
        assert f"download {asked[-1]} on a machine with internet" in fix
        assert f"copy the folder to {tmp_path}, or name it by root = PATH" in fix
    assert len(asked) == 9


def test_archives_are_unpacked_by_torchvision(tmp_path: Path, server: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import utils

    files = eurosat(tmp_path / "away").load("d", tmp_path)
    with zipfile.ZipFile(tmp_path / "away" / "EuroSAT.zip", "w") as archive:
        for path in files.reader.paths:  # type: ignore[attr-defined]
            archive.write(path, Path(path).relative_to(tmp_path / "away" / "eurosat"))
    address = f"{server(tmp_path / 'away')}/EuroSAT.zip"

    def fetch(url: str, download_root: str, **options: Any) -> None:
        utils.download_and_extract_archive(address, download_root)

    monkeypatch.setattr("simkit.sources.torchvision.host_error", lambda url: None)
    monkeypatch.setattr("torchvision.datasets.eurosat.download_and_extract_archive", fetch)
    root = tmp_path / "root"
    root.mkdir()
    assert Torchvision(set="EuroSAT", root=root).load("d", tmp_path).fingerprint == files.fingerprint
    whole = (tmp_path / "away" / "EuroSAT.zip").read_bytes()
    (tmp_path / "away" / "EuroSAT.zip").write_bytes(whole[:-200])
    (tmp_path / "new").mkdir()
    with pytest.raises(ResourceError, match=r"SK302\] torchvision EuroSAT: is not in .*new and cannot be downloaded \(File is not a zip file\)"):
        Torchvision(set="EuroSAT", root=tmp_path / "new").load("d", tmp_path)


# ---------------------------------------------------------------- what is wrong


def test_every_name_is_a_set_of_torchvision() -> None:
    import torchvision.datasets

    assert [name for name in SETS if not hasattr(torchvision.datasets, name)] == []


@pytest.mark.parametrize(("options", "message"), [
    ({"set": "CIFAR11"}, r"SK101\] torchvision\.set: 'CIFAR11' is not a set of torchvision \(did you mean 'CIFAR10'\?\)"),
    ({"set": "FakeData"}, r"SK101\] torchvision\.set: 'FakeData' has no single class per image, or is made up"),
    ({"set": "CocoDetection"}, r"SK101\] torchvision\.set: 'CocoDetection' has no single class per image"),
    ({"set": "EuroSAT", "splits": ("train",)}, r"SK102\] torchvision\.splits: EuroSAT has no splits"),
])
def test_names_that_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        Torchvision(root=tmp_path, **options).load("d", tmp_path)


def test_a_split_or_a_root_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"SK203\] torchvision MNIST: no split 'tset' \(did you mean 'test'\?\)"):
        Torchvision(set="MNIST", root=tmp_path, splits=("tset",)).load("d", tmp_path)
    with pytest.raises(DataError, match=r"SK201\] .*rot: the root folder does not exist"):
        Torchvision(set="MNIST", root=Path("rot")).load("d", tmp_path)
    assert not (tmp_path / "rot").exists()


def test_damaged_files_are_not_taken_for_missing_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simkit.sources.torchvision.host_error", lambda url: pytest.fail(f"asked for {url}"))
    mnist_files(tmp_path / "MNIST" / "raw", {"train": 3, "t10k": 2})
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    whole = path.read_bytes()
    for data in (whole[:-100], whole[:10], b"", b"<html>" * 9):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"SK201\] torchvision MNIST: torchvision cannot read the files in .*\nfix: delete the files of the set there"):
            Torchvision(set="MNIST", root=tmp_path).load("d", tmp_path)


def test_pickles_of_old_versions_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "MNIST" / "processed").mkdir(parents=True)
    for name in ("training", "test"):
        (tmp_path / "MNIST" / "processed" / f"{name}.pt").write_bytes(b"x")
    with pytest.raises(DataError, match=r"SK201\] .*\.pt: is a pickle that an old torchvision wrote"):
        Torchvision(set="MNIST", root=tmp_path).load("d", tmp_path)


def test_a_missing_package_and_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(ResourceError, match=r"SK302\] torchvision MNIST") as caught:
        Torchvision(set="MNIST").load("d", tmp_path)
    assert str(tmp_path / "torch" / "datasets") in caught.value.problems[0].fix
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ResourceError, match=r"SK303\] torchvision PCAM: .*h5py is not found(.|\n)*pip install h5py"):
        Torchvision(set="PCAM", root=tmp_path).load("d", tmp_path)
