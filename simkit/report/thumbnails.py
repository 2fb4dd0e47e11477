"""A sheet of thumbnails: up to eight images of each class, chosen by their content, so that equal data give an equal sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simkit.dataset import Dataset
from simkit.errors import Problem
from simkit.files import write_bytes
from simkit.report.check_content import counted
from simkit.report.drawing import blank, label, png_bytes, style

__all__ = ["CLASSES_PER_SHEET", "PER_CLASS", "SHEETS", "Thumbnail", "chosen", "save_sheets"]

PER_CLASS = 8
"""Images of a class."""

CLASSES_PER_SHEET = 25
"""Rows of one file."""

SHEETS = 4
"""Files of one data set; classes beyond them are not drawn, which is said."""

SIDE, GAP, DPI = 96, 6, 100
"""Pixels of a thumbnail and between two; pixels per inch of the file, so that a thumbnail's pixel is one of the file's."""

LABEL_INCHES = 2.4


@dataclass(frozen=True)
class Thumbnail:
    """An image made small: uint8 (SIDE, SIDE, 3), its proportions kept, on light grey. Small images are enlarged by whole numbers, without blur."""

    side: int = SIDE

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The thumbnail of an image, uint8 (height, width, 1 or 3)."""
        from PIL import Image

        colour = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
        small = Image.fromarray(np.ascontiguousarray(colour))
        times = self.side // max(small.size)
        if times >= 1:
            small = small.resize((small.width * times, small.height * times), Image.Resampling.NEAREST)
        else:
            small.thumbnail((self.side, self.side), Image.Resampling.LANCZOS)
        out = np.full((self.side, self.side, 3), 235, dtype=np.uint8)
        top, left = (self.side - small.height) // 2, (self.side - small.width) // 2
        out[top : top + small.height, left : left + small.width] = np.asarray(small)
        return out


@dataclass(frozen=True)
class _Row:
    """One line of the sheet: what it is called, how many images there are, and the positions of those that are shown."""

    name: str
    images: int
    positions: tuple[int, ...]


def chosen(positions: Sequence[int], contents: Sequence[str], count: int = PER_CLASS) -> tuple[int, ...]:
    """At most ``count`` of the positions, evenly spaced in the order of their contents' digests: a fixed sample that no file name decides."""
    ordered = sorted(positions, key=lambda position: (contents[position], position))
    if len(ordered) <= count:
        return tuple(ordered)
    return tuple(ordered[index * len(ordered) // count] for index in range(count))


def save_sheets(dataset: Dataset, contents: Sequence[str], path: Path, *, workers: int, say: Callable[[str], None] = lambda _: None) -> tuple[str, ...]:
    """Draws the sheets of a data set whose images can all be read, and returns their paths: ``path``, then ``NAME-2.png`` ...

    Args:
        dataset: whose images.
        contents: digest of each image's content.
        path: of the first file.
        workers: processes that decode.
        say: told what was written and what was left out.
    """
    rows = _rows(dataset, contents)
    most = CLASSES_PER_SHEET * SHEETS
    if len(rows) > most:
        say(f"{dataset.name}: thumbnails show the first {most} of {len(rows):,} classes")
    pages = [rows[start : start + CLASSES_PER_SHEET] for start in range(0, min(len(rows), most), CLASSES_PER_SHEET)]
    written = []
    for number, page in enumerate(pages, 1):
        place = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        title = f"{dataset.name}: {counted(len(dataset), 'image')}" + (f" (sheet {number} of {len(pages)})" if len(pages) > 1 else "")
        write_bytes(place, _sheet(title, page, _pictures(dataset, page, workers)))
        say(f"wrote {place}")
        written.append(str(place))
    return tuple(written)


def _rows(dataset: Dataset, contents: Sequence[str]) -> list[_Row]:
    everything = range(len(dataset))
    if dataset.indicators is not None:
        members = [np.flatnonzero(dataset.indicators[:, number]).tolist() for number in range(len(dataset.classes))]
    elif dataset.labels is not None:
        members = [np.flatnonzero(dataset.labels == number).tolist() for number in range(len(dataset.classes))]
    else:
        picked = chosen(everything, contents, 3 * PER_CLASS)
        lines = [picked[start : start + PER_CLASS] for start in range(0, len(picked), PER_CLASS)]
        return [_Row("" if number else "no labels", 0 if number else len(dataset), line) for number, line in enumerate(lines)]
    return [_Row(name, len(found), chosen(found, contents)) for name, found in zip(dataset.classes, members, strict=True)]


def _pictures(dataset: Dataset, rows: Sequence[_Row], workers: int) -> dict[int, np.ndarray]:
    """The thumbnails by position; an image that cannot be read any more has none."""
    from simkit.extractors.decoding import prepared_images

    wanted = sorted({position for row in rows for position in row.positions})
    made = prepared_images(dataset, wanted, Thumbnail(), workers=workers, shape=(SIDE, SIDE, 3))
    return {one.index: np.array(one.pixels) for one in made if not isinstance(one.pixels, Problem)}


def _sheet(title: str, rows: Sequence[_Row], pictures: dict[int, np.ndarray]) -> bytes:
    """One PNG: a line per class, its name and number of images at the left."""
    step = SIDE + GAP
    canvas = np.full((len(rows) * step, PER_CLASS * step, 3), 255, dtype=np.uint8)
    for line, row in enumerate(rows):
        for column, position in enumerate(row.positions):
            if position in pictures:
                canvas[line * step : line * step + SIDE, column * step : column * step + SIDE] = pictures[position]
    wide, high = canvas.shape[1] / DPI, canvas.shape[0] / DPI
    total_wide, total_high = wide + LABEL_INCHES, high + 0.5
    with style():
        figure = blank(total_wide, total_high)
        axes = figure.add_axes((LABEL_INCHES / total_wide, 0.05 / total_high, wide / total_wide, high / total_high))
        axes.imshow(canvas, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        axes.text(0, -0.12 * DPI, label(title, 110), fontsize=11, va="bottom")
        for line, row in enumerate(rows):
            if row.name or row.images:
                text = f"{_fitting(row.name)}\n{counted(row.images, 'image')}"
                axes.text(-0.12 * DPI, line * step + SIDE / 2, text, ha="right", va="center", fontsize=9)
        return png_bytes(figure, DPI)


def _fitting(name: str) -> str:
    """A class name in at most four lines; a longer one ends in "..."."""
    lines = label(name, 30).split("\n")
    return "\n".join(lines if len(lines) <= 4 else [*lines[:3], lines[3][:27] + "..."])
