"""The figures of a report: heat maps, agreement between measures, scatter plots of similarity against transfer, and a forest plot of the measures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from simkit.errors import UsageError
from simkit.files import write_bytes, write_text
from simkit.report.content import Content, FigureSize
from simkit.report.drawing import FORMATS, LEAST_SCALE, Format, NamedFigure, cropped, png_bytes, style, svg_text
from simkit.report.forest import forest_figure
from simkit.report.heat_maps import measure_maps, transfer_maps
from simkit.report.layout import unique, visible
from simkit.report.measure_agreement import measure_agreement_figure
from simkit.report.scatter import scatter_figures

__all__ = ["NamedFigure", "figures", "named_once", "page_plots", "save_figures", "write_figures"]


def figures(content: Content, size: FigureSize = "page") -> tuple[NamedFigure, ...]:
    """Every figure of the report in its order; one without data has no figure and says why.

    They are named for what they show ("measures-retina-2", "scatter-otdd"): safe as file names, and each name once.

    Args:
        content: of the report.
        size: for what width they are laid out (:func:`save_figures`).
    """
    return tuple(_one_by_one(content, _format(size)))


def _one_by_one(content: Content, form: Format) -> Iterator[NamedFigure]:
    """The figures, each drawn when it is asked for: a hundred heat maps at 300 dpi would take gigabytes."""
    maps = (*transfer_maps(content, form.columns), *measure_maps(content, form.columns))
    with style():
        plots = _plots(content, form)
    names = unique([*(one.name for one in maps), *(one.name for one in plots)])
    for name, found in zip(names, maps, strict=False):
        with style():
            drawn = found.figure(form)
        yield replace(drawn, name=name)
    for name, plot in zip(names[len(maps) :], plots, strict=True):
        yield replace(plot, name=name)


def page_plots(content: Content) -> tuple[NamedFigure, ...]:
    """The figures that the page shows as drawings; heat maps are tables there."""
    with style():
        return named_once(_plots(content, _format("page")))


def _plots(content: Content, form: Format) -> list[NamedFigure]:
    return [measure_agreement_figure(content, form), *scatter_figures(content, form), forest_figure(content, form)]


def _format(size: str) -> Format:
    if size not in FORMATS:
        raise UsageError("SK102", "size", f"{size!r} is no size of figures", f"give one of: {', '.join(FORMATS)}")
    return FORMATS[size]


def named_once(found: Sequence[NamedFigure]) -> tuple[NamedFigure, ...]:
    """The figures with a number behind names that stood before."""
    return tuple(replace(item, name=name) for item, name in zip(found, unique([item.name for item in found]), strict=True))


def save_figures(content: Content, folder: str | os.PathLike[str], *, dpi: int = 300, size: FigureSize = "page") -> tuple[Path, ...]:
    """Writes every figure that has data as SVG and PNG into ``folder``, and what they show into captions.txt, each file whole or not at all.

    Args:
        content: of the report.
        folder: is made when missing.
        dpi: of the PNG files.
        size: "page", as they are drawn for the page; "double" or "single", 183 mm or 89 mm wide, the columns of a journal, with text of 7 to 8 points: heat
            maps are split into more parts, scatter plots have fewer panels in a row and are split where they would be higher than a page. A figure that
            would have smaller text stays wider; its caption says so.

    Returns:
        The paths, in the order of the report, two a figure; that of the captions last.

    Raises:
        UsageError: another size (SK102).
        ResourceError: when the folder cannot be written.
    """
    width, captions, paths = _format(size).width, [], list[Path]()
    for item in _one_by_one(content, _format(size)):
        paths += write_figures([item], folder, dpi=dpi, width=width)
        captions.append(visible(f"{item.name}: {item.title}\n{item.caption or item.missing}{_too_wide(item, width)}").strip())
    path = Path(folder) / "captions.txt"
    write_text(path, "\n\n".join(captions) + "\n")
    return (*paths, path)


def _too_wide(item: NamedFigure, width: float | None) -> str:
    """That a figure is wider than asked; "" for one that is not."""
    if item.figure is None or width is None:
        return ""
    box, _ = cropped(item.figure, width)
    own = box.width * 25.4
    return "" if own * LEAST_SCALE <= width else f" This figure is {own:.0f} mm wide instead of {width:.0f} mm: narrower, its text would be too small."


def write_figures(found: Iterable[NamedFigure], folder: str | os.PathLike[str], *, dpi: int, width: float | None = None) -> tuple[Path, ...]:
    """Figures as files (see :func:`save_figures`), ``width`` mm wide where they can be."""
    paths = []
    for item in found:
        if item.figure is None:
            continue
        drawn = (("svg", svg_text(item.figure, width=width).encode("utf-8")), ("png", png_bytes(item.figure, dpi, width=width)))
        for kind, data in drawn:
            path = Path(folder) / f"{item.name}.{kind}"
            write_bytes(path, data)
            paths.append(path)
    return tuple(paths)
