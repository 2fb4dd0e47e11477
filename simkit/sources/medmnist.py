"""MedMNIST by name: the package ``medmnist`` knows the sets, their class names and where they are downloaded from."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from simkit.dataset import Dataset
from simkit.errors import DataError, ResourceError, UsageError, nearest
from simkit.files import resource_errors
from simkit.networks import host_error
from simkit.registry import option
from simkit.sources.base import Source, located, nearest_entry, text_of
from simkit.sources.npz import Npz

__all__ = ["Medmnist"]


@dataclass(frozen=True)
class Medmnist(Source):
    """A 2-D data set of MedMNIST, by its name in the package (such as ``pneumoniamnist``), with the package's class names.

    The file is looked for in ``root`` and downloaded there by the package when it is missing. Its MD5 must be the one that the package
    states, so that the name says what the data are; another file of this layout is read by the source ``npz``. Of sets such as chestmnist
    an image may have several classes. Sets of volumes are refused.
    """

    name = "medmnist"
    citation = "J. Yang et al., MedMNIST v2, Scientific Data 10, 41 (2023)"

    set: str = option(help="name of the set, such as pneumoniamnist, breastmnist, bloodmnist")
    size: Literal[28, 64, 128, 224] = option(28, "side of the images in pixels")
    root: Path | None = option(None, "folder of the file; by default the package's own (.medmnist in the home folder)")
    splits: tuple[str, ...] = option(("train", "val", "test"), "splits that are read")

    def load(self, name: str, base: Path) -> Dataset:
        """See :meth:`Source.load`; keys are ``split/index``, classes are the package's, in the order of their numbers.

        Raises:
            ResourceError: the package is missing, or the file is and cannot be downloaded.
        """
        package = _package()
        info = self._info(package)
        root = self._root(package, base)
        path = root / f"{self.set}{self._suffix}.npz"
        if not path.is_file():
            _download(package, info, path, self.size, self._suffix)
        _check_content(path, info[f"MD5{self._suffix}"])
        dataset = Npz(path=path, splits=self.splits).load(name, base)
        names = [info["label"][number] for number in sorted(info["label"], key=int)]
        if len(dataset.classes) > len(names) or dataset.multilabel != info["task"].startswith("multi-label") or (
            dataset.multilabel and len(dataset.classes) != len(names)
        ):
            found = f"{len(dataset.classes)} columns of labels" if dataset.multilabel else f"the label {len(dataset.classes) - 1}"
            message = f"holds {found}, the package names {len(names)} classes ({info['task']})"
            raise DataError("SK203", text_of(path), message, "upgrade the package medmnist, or get the file again")
        return replace(dataset, classes=tuple(names))

    @property
    def _suffix(self) -> str:
        return "" if self.size == 28 else f"_{self.size}"

    def _info(self, package: Any) -> Mapping[str, Any]:
        flat = [flag for flag, info in package.INFO.items() if not info["python_class"].endswith("3D")]
        if self.set not in package.INFO:
            raise UsageError("SK101", "medmnist.set", f"unknown set '{self.set}'{nearest(self.set, flat)}", f"sets: {', '.join(flat)}")
        info: Mapping[str, Any] = package.INFO[self.set]
        if self.set not in flat:
            raise UsageError("SK102", "medmnist.set", f"'{self.set}' is a set of volumes; simkit reads images", f"sets of images: {', '.join(flat)}")
        return info

    def _root(self, package: Any, base: Path) -> Path:
        if self.root is None:
            default = package.info.DEFAULT_ROOT
            if default is None:
                raise ResourceError("SK301", "medmnist.root", "the package could not make its folder (.medmnist in the home folder)", "give root = PATH")
            return Path(default)
        root = located(self.root, base)
        if not root.is_dir():
            raise DataError("SK201", text_of(root), f"the root folder does not exist{nearest_entry(root)}", "make it, or correct the option root")
        return root


def _package() -> Any:
    try:
        import medmnist
        import medmnist.info
    except ImportError as error:
        raise ResourceError("SK303", "medmnist", f"the package medmnist cannot be imported ({error})", "pip install 'simkit[medmnist]'") from error
    return medmnist


def _check_content(path: Path, wanted: str) -> None:
    """The package compares the MD5 only when it downloads; here every file must be what its name says."""
    with resource_errors(path, "read"), open(path, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != wanted:
        message = f"has the MD5 {found}, the package medmnist states {wanted}: copied incompletely, changed, or of another release"
        raise DataError("SK201", text_of(path), message, 'delete it so that it is downloaded again, or read it as it is by npz = {path = "..."}')


def _download(package: Any, info: Mapping[str, Any], path: Path, size: int, suffix: str) -> None:
    """Lets the package download the file into a folder beside its place and moves it there when it is complete."""
    url = info[f"url{suffix}"]
    if (offline := host_error(url)) is not None:
        raise _missing(path, url, info[f"MD5{suffix}"], offline) from offline
    folder = path.parent / f".tmp-{os.getpid()}-{secrets.token_hex(6)}"
    with resource_errors(path):
        folder.mkdir(parents=True)
        try:
            getattr(package, info["python_class"])(split="val", root=str(folder), size=size, download=True)
            os.replace(folder / path.name, path)
        except RuntimeError as error:  # whatever it was, the package makes a RuntimeError of it
            if isinstance(error.__context__, KeyboardInterrupt):
                raise error.__context__ from None
            raise _missing(path, url, info[f"MD5{suffix}"], error.__context__ or error) from error
        finally:
            shutil.rmtree(folder)


def _missing(path: Path, url: str, md5: str, error: BaseException) -> ResourceError:
    fix = f"download {url} on a machine with internet and put it at {text_of(path)} (MD5 {md5}), or name the folder that holds it by root = PATH"
    return ResourceError("SK302", path.name, f"the file is not on this machine and cannot be downloaded ({error})", fix)
