"""Image classification sets of torchvision by name: opened by torchvision, read by simkit from the same files or arrays."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import sys
import urllib.error
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simkit.dataset import Dataset, ImageReader
from simkit.errors import DataError, Problems, ResourceError, UsageError, nearest
from simkit.networks import host_error, import_torchvision
from simkit.registry import option
from simkit.sources.arrays import ArrayReader, array_digest
from simkit.sources.base import Source, located, nearest_entry, text_of
from simkit.sources.decode import Decoding
from simkit.sources.readers import FileReader

__all__ = ["SETS", "JoinedReader", "OpenedReader", "Torchvision"]

WHOLE = "all"
"""Stands in keys where a set has no splits."""

SETS: dict[str, tuple[str, ...]] = {
    "CIFAR10": ("train", "test"), "CIFAR100": ("train", "test"), "CLEVRClassification": ("train", "val"), "Caltech101": (), "Caltech256": (),
    "Country211": ("train", "valid", "test"), "DTD": ("train", "val", "test"), "EMNIST": ("train", "test"), "EuroSAT": (),
    "FER2013": ("train",), "FGVCAircraft": ("train", "val", "test"), "FashionMNIST": ("train", "test"), "Flowers102": ("train", "val", "test"),
    "Food101": ("train", "test"), "GTSRB": ("train", "test"), "ImageNet": ("train", "val"), "Imagenette": ("train", "val"), "KMNIST": ("train", "test"),
    "LFWPeople": ("train", "test"), "MNIST": ("train", "test"), "Omniglot": ("background", "evaluation"), "OxfordIIITPet": ("trainval", "test"),
    "PCAM": ("train", "val", "test"), "Places365": ("train-standard", "val"), "QMNIST": ("train", "test"), "RenderedSST2": ("train", "val", "test"),
    "SEMEION": (), "STL10": ("train", "test"), "SUN397": (), "SVHN": ("train", "test"), "StanfordCars": ("train", "test"), "USPS": ("train", "test"),
}
"""Sets with one class per image, and the labelled splits that are read by default."""

TARGETS = {"EMNIST": "split", "FGVCAircraft": "annotation_level", "OxfordIIITPet": "target_types"}
"""Sets with several kinds of labels (or of selections, for EMNIST), and torchvision's argument for it."""


@dataclass(frozen=True)
class Torchvision(Source, Decoding):
    """An image classification set of torchvision, by the name of its class, such as CIFAR10.

    torchvision downloads the set where it is missing, checks it, and says which files or arrays, labels and classes it has. Images that
    lie in files are decoded by the rules of the source ``folder``, and have the digests of these files. The files of CIFAR are pickles:
    torchvision compares their MD5 with its own before it opens them.
    """

    name = "torchvision"
    citation = "the set's own; reader: TorchVision maintainers and contributors, TorchVision: PyTorch's Computer Vision library, 2016"

    set: str = option(help="name of the class in torchvision.datasets, such as CIFAR10, MNIST, EuroSAT, DTD, Food101")
    root: Path | None = option(None, "folder in which torchvision looks for the set; by default datasets/ beside torch's folder of weights")
    splits: tuple[str, ...] = option((), "splits that are read, by torchvision's names; none named: all labelled ones")
    target: str | None = option(None, "which labels, where a set has several: FGVCAircraft family, OxfordIIITPet binary-category, EMNIST letters")
    download: bool = option(True, "let torchvision download the set when it is not in root", recipe=False)

    def load(self, name: str, base: Path) -> Dataset:
        """See :meth:`Source.load`; keys are ``split/index``. Splits called "valid", "validation" become "val", "train-standard" "train".

        Raises:
            ResourceError: torchvision is missing or broken, or the set is not on this machine and cannot be downloaded.
        """
        import_torchvision()
        kind, splits = self._kind(), self._splits()
        root = self._root(base)
        if old := list((root / self.set / "processed").glob("*.pt")):
            message = "is a pickle that an old torchvision wrote, and would be opened without any check"
            raise DataError("SK201", text_of(old[0]), message, "delete the folder 'processed'; the raw files beside it are what is read")
        parts = {split: self._part(kind, root, split) for split in splits}
        classes = _classes(parts, self.target)
        labels = np.concatenate([part.labels for part in parts.values()])
        where = f"torchvision {self.set}"
        if labels.min() < 0 or labels.max() >= len(classes):
            extreme = labels.min() if labels.min() < 0 else labels.max()
            raise DataError("SK203", where, f"the label {extreme} is not one of its {len(classes)} classes", "name labelled splits by splits = [...]")
        keys = tuple(f"{split}/{index}" for split, part in parts.items() for index in range(len(part.labels)))
        renamed = {"valid": "val", "validation": "val", "train-standard": "train"}
        marks = None if splits == (WHOLE,) else tuple(renamed.get(split, split) for split, part in parts.items() for _ in range(len(part.labels)))
        return Dataset(name, keys, _joined([part.reader for part in parts.values()], self.rules), labels, classes, splits=marks, origin=where)

    def _kind(self) -> Any:
        import torchvision.datasets

        if self.set not in SETS:
            known = getattr(torchvision.datasets, self.set, None) is not None
            why = "has no single class per image, or is made up" if known else f"is not a set of torchvision{nearest(self.set, SETS)}"
            raise UsageError("SK101", "torchvision.set", f"'{self.set}' {why}", f"sets: {', '.join(SETS)}")
        if self.target is not None and self.set not in TARGETS:
            raise UsageError("SK102", "torchvision.target", f"{self.set} has one kind of labels", f"leave it out; sets with several: {', '.join(TARGETS)}")
        return getattr(torchvision.datasets, self.set)

    def _splits(self) -> tuple[str, ...]:
        if not self.splits:
            return SETS[self.set] or (WHOLE,)
        if not SETS[self.set]:
            raise UsageError("SK102", "torchvision.splits", f"{self.set} has no splits", "leave the option out")
        return tuple(dict.fromkeys(self.splits))

    def _root(self, base: Path) -> Path:
        if self.root is None:
            import torch.hub

            root = Path(torch.hub.get_dir()).parent / "datasets"
            root.mkdir(parents=True, exist_ok=True)
            return root
        root = located(self.root, base)
        if not root.is_dir():
            raise DataError("SK201", text_of(root), f"the root folder does not exist{nearest_entry(root)}", "make it, or correct the option root")
        return root

    def _arguments(self, kind: Any, split: str) -> dict[str, Any]:
        """The arguments of the class that stand for a split and a target."""
        names = inspect.signature(kind.__init__).parameters
        out: dict[str, Any] = {}
        if self.set in TARGETS:
            default = {"EMNIST": "balanced", "FGVCAircraft": "variant", "OxfordIIITPet": "category"}[self.set]
            out[TARGETS[self.set]] = self.target or default
        if split == WHOLE:
            return out
        flag = {"train": True, "test": False, "background": True, "evaluation": False}
        argument = next(one for one in ("train", "background", "split") if one in names and (one != "split" or "split" not in out))
        if argument != "split" and split not in SETS[self.set]:
            problems = Problems()
            problems.add("SK203", f"torchvision {self.set}", f"no split '{split}'{nearest(split, SETS[self.set])}", f"splits: {', '.join(SETS[self.set])}")
            problems.raise_if_any(DataError)
        return out | {argument: split if argument == "split" else flag[split]}

    def _part(self, kind: Any, root: Path, split: str) -> _Part:
        arguments = self._arguments(kind, split)
        opened = _opened(self.set, kind, root, arguments, self.download)
        if not len(opened):
            raise DataError("SK201", f"torchvision {self.set}: {split}", "holds no image", "name other splits")
        where = f"torchvision {self.set}: {split}"
        reader = _reader(opened, self.rules) or OpenedReader(self.set, str(root), arguments, where, [opened])
        return _Part(opened, reader, _labels(opened, self.target))


@dataclass(frozen=True, eq=False)
class _Part:
    opened: Any
    reader: ImageReader
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class OpenedReader:
    """Images that torchvision itself decodes (an ImageReader): sets that keep them neither in image files nor in one array.

    Attributes:
        set: name of the class.
        root: folder of the set.
        arguments: of the class.
        where: what messages call the split.
        opened: the set, once it is open; another process opens it anew.
    """

    set: str
    root: str
    arguments: Mapping[str, Any]
    where: str
    opened: list[Any] = field(default_factory=list, repr=False)

    def read(self, index: int) -> np.ndarray:
        """Image as uint8 (height, width, 1 or 3)."""
        if not self.opened:
            import torchvision.datasets

            self.opened.append(getattr(torchvision.datasets, self.set)(self.root, **self.arguments))
        try:
            return _pixels(self.opened[0][index][0])
        except (OSError, ValueError, KeyError) as error:
            raise DataError("SK206", f"{self.where}/{index}", f"torchvision cannot read it: {error}", "get the set again") from error

    def digest(self, index: int) -> str:
        """SHA-256 over type, shape and bytes of the image."""
        return array_digest(self.read(index))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"opened": []}


@dataclass(frozen=True, eq=False)
class JoinedReader:
    """Several readers, one after the other (an ImageReader).

    Attributes:
        readers: of the parts.
        counts: images in each.
    """

    readers: tuple[ImageReader, ...]
    counts: tuple[int, ...]

    @property
    def in_memory(self) -> bool:
        """Whether a part holds its images in memory."""
        return any(getattr(reader, "in_memory", False) for reader in self.readers)

    def read(self, index: int) -> np.ndarray:
        """See the readers."""
        reader, row = self._at(index)
        return reader.read(row)

    def digest(self, index: int) -> str:
        """See the readers."""
        reader, row = self._at(index)
        return reader.digest(row)

    def _at(self, index: int) -> tuple[ImageReader, int]:
        for reader, count in zip(self.readers, self.counts, strict=True):
            if index < count:
                return reader, index
            index -= count
        raise IndexError(index)


def _joined(readers: Sequence[ImageReader], rules: Decoding) -> ImageReader:
    """One reader of all splits; files and arrays stay such, so that rules for a whole data set hold for all of it."""
    if all(isinstance(reader, FileReader) for reader in readers):
        return FileReader(rules=rules, paths=tuple(path for reader in readers if isinstance(reader, FileReader) for path in reader.paths))
    if all(isinstance(reader, ArrayReader) for reader in readers):
        return ArrayReader(np.concatenate([np.asarray(reader.images) for reader in readers if isinstance(reader, ArrayReader)]))  # type: ignore[arg-type]
    return JoinedReader(tuple(readers), tuple(_count(reader) for reader in readers))


def _count(reader: ImageReader) -> int:
    if isinstance(reader, OpenedReader):
        return len(reader.opened[0])
    return len(reader.images) if isinstance(reader, ArrayReader) else len(reader.paths) if isinstance(reader, FileReader) else 0


def _opened(name: str, kind: Any, root: Path, arguments: Mapping[str, Any], download: bool) -> Any:
    """The set as it lies in ``root``, downloaded by torchvision where it is missing."""
    fixed = dict(arguments) | ({"download": False} if "download" in inspect.signature(kind.__init__).parameters else {})
    try:
        return kind(str(root), **fixed)
    except Exception as error:  # reading damaged files fails in many ways; each must name the set
        if not _is_missing(error):
            raise _not_opened(name, root, error) from error
        missing = error
    if not download or ("download" not in fixed and name not in ("EMNIST", "QMNIST")):  # these two hand it on
        raise _missing(name, kind, root, missing) from missing
    for url in _addresses(kind)[:1]:
        offline = host_error(url)
        if offline is not None and not isinstance(offline, urllib.error.HTTPError):  # an answer of any kind shows that the host is there
            raise _missing(name, kind, root, offline) from offline
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torchvision reports the download on standard output
            return kind(str(root), **{**fixed, "download": True})
    except Exception as error:  # archives that are cut off fail in as many ways as there are formats
        raise _missing(name, kind, root, error) from error


def _is_missing(error: Exception) -> bool:
    """Whether an error of torchvision says that the files are not there, or not those that it knows."""
    text = str(error).lower()
    return isinstance(error, FileNotFoundError) or (isinstance(error, RuntimeError) and ("not found" in text or "corrupt" in text) and "h5py" not in text)


def _not_opened(name: str, root: Path, error: Exception) -> DataError | ResourceError:
    text = " ".join(str(error).split())[:300] or type(error).__name__
    if "h5py" in text or isinstance(error, ImportError):
        return ResourceError("SK303", f"torchvision {name}", f"a package that this set needs cannot be imported ({text})", "pip install h5py scipy")
    if text.startswith("Unknown value"):
        return DataError("SK203", f"torchvision {name}", text, "correct splits or target")
    fix = "delete the files of the set there, so that they are downloaded again"
    return DataError("SK201", f"torchvision {name}", f"torchvision cannot read the files in {text_of(root)}: {text}", fix)


def _missing(name: str, kind: Any, root: Path, error: Exception) -> ResourceError:
    addresses = _addresses(kind)
    what = f"download {addresses[0]}" if addresses else "get the files as the documentation of the class says"
    text = " ".join(str(error).split())[:300]
    message = f"is not in {text_of(root)} and cannot be downloaded ({text})"
    fix = (f"{what} on a machine with internet, or let torchvision do it there: torchvision.datasets.{name}(FOLDER, download=True); "
           f"copy the folder to {text_of(root)}, or name it by root = PATH")
    return ResourceError("SK302", f"torchvision {name}", message, fix)


def _addresses(kind: Any) -> list[str]:
    """Where torchvision downloads a set from: the addresses among the attributes of its class, else in the code of it."""
    mirrors, resources = getattr(kind, "mirrors", ()), getattr(kind, "resources", ())
    if mirrors and isinstance(resources, list) and resources:
        return [mirror + resources[0][0] for mirror in mirrors]
    for one in kind.__mro__:
        if one.__module__.startswith("torchvision.datasets.") and one.__name__ != "VisionDataset":
            found = re.findall(r"https?://[^\s\"'`>)]+", str({key: value for key, value in vars(one).items() if not key.startswith("__")}))
            code = inspect.getsource(one).replace(inspect.getdoc(one) or "\0", "")
            found += re.findall(r"[\"'](https?://[^\s\"'{}]+)[\"']", code)
            if found:
                return found
    return []


def _pixels(image: Any) -> np.ndarray:
    """What torchvision hands out as uint8 (height, width, 1 or 3)."""
    if hasattr(image, "detach"):
        image = image.numpy().squeeze()
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    values = np.array(image)
    if values.dtype != np.uint8:
        raise ValueError(f"the image has the type {values.dtype}, wanted uint8")
    return values[:, :, None] if values.ndim == 2 else values


def _reader(opened: Any, rules: Decoding) -> ImageReader | None:
    """The files or the array behind the set; None where there is neither."""
    paths = _paths(opened)
    if paths is not None:
        return FileReader(rules=rules, paths=paths)
    data: Any = getattr(opened, "data", None)
    values = data.numpy() if hasattr(data, "numpy") else data
    if not isinstance(values, np.ndarray) or values.dtype != np.uint8 or len(values) != len(opened):
        return None
    wanted = _pixels(opened[0][0])
    for shaped in (values[..., None] if values.ndim == 3 else values, values.transpose(0, 2, 3, 1) if values.ndim == 4 else values):
        if shaped.ndim == 4 and np.array_equal(shaped[0], wanted):  # the order of the axes is what torchvision makes of it
            return ArrayReader(shaped)  # type: ignore[arg-type]
    return None


def _paths(opened: Any) -> tuple[str, ...] | None:
    """One file per image, from the lists that sets of torchvision keep."""
    rows: Any = None
    for attribute in ("_image_files", "_images", "samples", "_samples", "imgs", "data"):
        rows = getattr(opened, attribute, None)
        if isinstance(rows, (list, tuple)) and len(rows) == len(opened) and rows:
            found = [row[0] if isinstance(row, (list, tuple)) else row for row in rows]
            if all(isinstance(one, (str, os.PathLike)) for one in found) and os.path.isfile(found[0]):
                return tuple(os.fspath(one) for one in found)
    if type(opened).__name__ not in ("Caltech101", "Caltech256"):
        return None
    out = []
    for index in range(len(opened)):  # these keep numbers; the image that they open, without decoding it, knows its file
        image = opened[index][0]
        out.append(image.filename)
        image.close()
    return tuple(out)


def _labels(opened: Any, target: str | None) -> np.ndarray:
    """Class index of each image, int64 (n,)."""
    own = "_bin_labels" if target == "binary-category" else "_labels"
    for attribute in (own, "targets", "labels", "y", "samples", "_samples", "imgs"):
        rows: Any = getattr(opened, attribute, None)
        if rows is None or len(rows) != len(opened):
            continue
        if isinstance(rows[0], (tuple, list)):
            rows = [row[1] for row in rows]
        values = np.asarray(rows)
        values = values[:, 0] if values.ndim == 2 else values  # QMNIST keeps further columns
        if values.ndim == 1 and values.dtype.kind in "iu" and int(values[0]) == int(_target(opened, 0)):
            return values.astype(np.int64)
    return np.array([int(_target(opened, index)) for index in range(len(opened))], dtype=np.int64)


def _target(opened: Any, index: int) -> Any:
    image, target = opened[index][:2]
    if hasattr(image, "close"):
        image.close()
    return target


def _classes(parts: Mapping[str, _Part], target: str | None) -> tuple[str, ...]:
    """Names by torchvision, in the order of the indices; sets that it gives no names have their numbers."""
    opened = next(iter(parts.values())).opened
    for attribute in ("bin_classes",) if target == "binary-category" else ("classes", "categories", "class_to_idx"):
        found: Any = getattr(opened, attribute, None)
        if isinstance(found, dict):
            found = sorted(found, key=lambda one: found[one])
        if found:
            names = tuple(", ".join(one) if isinstance(one, (tuple, list)) else str(one) for one in found)
            if len(set(names)) == len(names):
                return names
    return tuple(str(number) for number in range(max(int(part.labels.max()) for part in parts.values()) + 1))
