"""The figures of a report: heat maps, scatter plots of similarity against transfer, and a forest plot of the measures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from simkit.files import write_bytes
from simkit.report.content import Content
from simkit.report.drawing import NamedFigure, png_bytes, style, svg_text
from simkit.report.forest import forest_figure
from simkit.report.heat_maps import measure_figures, transfer_figures
from simkit.report.layout import unique
from simkit.report.scatter import scatter_figures

__all__ = ["NamedFigure", "figures", "named_once", "save_figures", "write_figures"]


def figures(content: Content) -> tuple[NamedFigure, ...]:
    """Every figure of the report in its order; one without data has no figure and says why.

    They are named for what they show ("measures-retina-2", "scatter-otdd"): safe as file names, and each name once.
    """
    with style():
        return named_once((*transfer_figures(content), *measure_figures(content), *scatter_figures(content), forest_figure(content)))


def named_once(found: Sequence[NamedFigure]) -> tuple[NamedFigure, ...]:
    """The figures with a number behind names that stood before."""
    return tuple(replace(item, name=name) for item, name in zip(found, unique([item.name for item in found]), strict=True))


def save_figures(content: Content, folder: str | os.PathLike[str], *, dpi: int = 200) -> tuple[Path, ...]:
    """Writes every figure that has data as SVG and PNG into ``folder``, each file whole or not at all.

    Args:
        content: of the report.
        folder: is made when missing.
        dpi: of the PNG files.

    Returns:
        The paths, in the order of the report.

    Raises:
        ResourceError: when the folder cannot be written.
    """
    return write_figures(figures(content), folder, dpi=dpi)


def write_figures(found: Iterable[NamedFigure], folder: str | os.PathLike[str], *, dpi: int) -> tuple[Path, ...]:
    """Figures as files (see :func:`save_figures`)."""
    paths = []
    for item in found:
        if item.figure is None:
            continue
        for kind, data in (("svg", svg_text(item.figure).encode("utf-8")), ("png", png_bytes(item.figure, dpi))):
            path = Path(folder) / f"{item.name}.{kind}"
            write_bytes(path, data)
            paths.append(path)
    return tuple(paths)
