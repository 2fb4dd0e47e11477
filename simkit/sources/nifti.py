"""NIfTI volumes as sets of slices: every k-th slice of each volume, volumes as groups, labels by folder or from a table."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from simkit.dataset import Dataset, Skipped, reason_of
from simkit.errors import DataError, Problems
from simkit.registry import option
from simkit.sources.base import Source, located, text_of
from simkit.sources.folder import Search, check_classes, no_folder
from simkit.sources.nifti_volumes import NiftiReader, Slicing, import_nibabel, volume_of
from simkit.sources.readers import FileReader
from simkit.sources.table import Table

__all__ = ["Nifti"]

TABLES = (".csv", ".tsv", ".parquet")
BRIGHT = 26
"""Grey level, a tenth of the range, from which a pixel counts as content."""


@dataclass(frozen=True)
class Nifti(Source, Slicing):
    """Slices of the NIfTI volumes (.nii, .nii.gz) below a folder (one folder per class, or unlabelled), or of those that a table names.

    Slices are turned as radiological viewers show them (the patient's right on the left of axial and coronal pictures); they are not
    resampled. Keys are ``path#axial-012``. All slices of a volume are one group, so that folds never split it; a table can name a better
    one (the patient) in the column "group". Slope and intercept are applied; without a declared rule nothing is guessed: values that are
    not 8 bit are an error. Volumes of 8-bit RGB are read as they are. NaN voxels are black, and this is said.
    """

    name = "nifti"
    citation = "NIfTI-1 data format, https://nifti.nimh.nih.gov/nifti-1; read by nibabel, https://nipy.org/nibabel"

    path: Path = option(help="the folder, or a table (CSV, TSV, Parquet) with the columns path, label, and where there are, group and split")
    labels: bool = option(True, "one folder per class (or the column label of the table); false: one unlabelled set")
    every: int = option(1, "every k-th slice is read: 0, k, 2k ... from inferior, posterior or left", minimum=1)
    content: float = option(
        0.0, "slices with a smaller share of pixels at a tenth of the grey range or above are left out and listed as skipped", minimum=0, maximum=1)
    allow_outside: bool = option(False, "follow paths and symbolic links that leave the folder")

    def load(self, name: str, base: Path) -> Dataset:
        """See :meth:`Source.load`; reads the header of every volume, and its voxels only where ``content`` asks for them.

        Raises:
            ResourceError: nibabel is missing.
        """
        import_nibabel()
        path = located(self.path, base)
        volumes = self._from_table(name, path) if path.suffix.lower() in TABLES and path.is_file() else self._from_folder(name, path)
        assert isinstance(volumes.reader, FileReader)
        chosen, skipped = self._slices(volumes)
        rows = np.array([row for row, index in chosen], dtype=np.int64)
        files = volumes.reader.paths
        reader = NiftiReader(tuple(files[row] for row, _ in chosen), tuple(index for _, index in chosen), self.rules)
        slices = volumes.take(rows, skipped)
        dataset = replace(
            slices, keys=tuple(f"{volumes.keys[row]}#{self._part(index)}" for row, index in chosen), reader=reader, rows=None,
            groups=slices.groups if slices.groups is not None else slices.keys,
        )
        return self._with_content(dataset) if self.content else dataset

    def _part(self, index: int) -> str:
        return f"{self.axis if not self.axis.isdigit() else f'axis{self.axis}'}-{index:03d}"

    def _from_table(self, name: str, path: Path) -> Dataset:
        source = Table(path=path, label="label" if self.labels else "", allow_outside=self.allow_outside)
        return source.load(name, path.parent)

    def _from_folder(self, name: str, path: Path) -> Dataset:
        if not path.is_dir():
            raise no_folder(path)
        search = _VolumeSearch(os.path.realpath(path), self.allow_outside, self.labels)
        search.run()
        search.problems.raise_if_any(DataError)
        if self.labels:
            check_classes(search, text_of(path))
        if not search.images:
            found = ", ".join(f"{count} {extension}" for extension, count in search.extensions.most_common()) or "no file"
            raise DataError("SK201", text_of(path), f"no NIfTI volume in it; found: {found}", "name the folder that holds the .nii or .nii.gz files")
        images = sorted(search.images, key=lambda image: image.key)
        classes = tuple(sorted(search.classes)) if self.labels else ()
        labels = np.array([classes.index(image.label) for image in images], dtype=np.int64) if self.labels else None
        return Dataset(
            name, tuple(image.key for image in images), FileReader(tuple(image.path for image in images), Table(path=path).rules), labels, classes,
            origin=text_of(path), skipped=tuple(Skipped(name, key, reason) for key, reason in sorted(search.skipped.items())),
        )

    def _slices(self, volumes: Dataset) -> tuple[list[tuple[int, int]], list[Skipped]]:
        """Row and slice of every image; volumes that cannot be read are left out by name.

        Raises:
            DataError: no volume can be read.
        """
        assert isinstance(volumes.reader, FileReader)
        chosen, skipped, problems = [], list[Skipped](), Problems()
        for row, (key, path) in enumerate(zip(volumes.keys, volumes.reader.paths, strict=True)):
            try:
                count = volume_of(path, self.volume).count(self.axis)
            except DataError as error:
                problems.catch(error)
                skipped.append(Skipped(volumes.name, key, reason_of(error.problems[0])))
                continue
            chosen += [(row, index) for index in range(0, count, self.every)]
        if not chosen:
            problems.raise_if_any(DataError)
        return chosen, skipped

    def _with_content(self, dataset: Dataset) -> Dataset:
        """The slices that show enough; the others are listed."""
        kept: list[int] = []
        left: list[Skipped] = []
        for index, key in enumerate(dataset.keys):
            try:
                share = float(np.mean(dataset.read(index) >= BRIGHT))
            except DataError:  # it is named when it is read
                share = 1.0
            if share >= self.content:
                kept.append(index)
            else:
                left.append(Skipped(dataset.name, key, f"less than {self.content:g} of the slice is brighter than a tenth of the range (content)"))
        if not kept:
            raise DataError("SK201", dataset.origin, f"none of {len(dataset)} slices has the content {self.content:g}", "ask for less by the option content")
        return dataset.take(kept, left)


class _VolumeSearch(Search):
    """What lies below a folder, NIfTI volumes taken."""

    def accepts(self, path: str, key: str, extension: str) -> bool:
        if extension in (".nii", ".nii.gz"):
            return True
        self.extensions[extension or "(no extension)"] += 1
        return False
