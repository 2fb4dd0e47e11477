"""How figures are drawn and written: without pyplot's global state, the same bytes twice.

SVG keeps text as text: it can be selected, searched, and takes the colour of the page. The price is that the viewer's font decides the
width of a label; labels therefore stand free (never in a box that they could overflow), and the drawing is laid out with DejaVu Sans,
which is wider than the sans-serif fonts that browsers put in its place. PNG has the glyphs drawn in.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simkit.report.layout import visible, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "ACCENT", "FAINT", "FORMATS", "INK", "LEAST_SCALE", "PAGE", "PAPER", "POINT", "Format", "NamedFigure", "blank", "cropped", "fixed_axes", "label",
    "luminance", "png_bytes", "style", "svg_text",
]

INK, FAINT, PAPER = "#1b1f24", "#6e7781", "#fefefe"
"""Text and axes, grid and hatching, background: these three the page replaces by its own colours, which follow light and dark."""

POINT, ACCENT = "#0f7fc0", "#d9660a"
"""Blue and orange of about the same lightness: told apart by colour-blind readers, and readable on white and on near-black."""

MARGIN = 0.08
"""Around the ink of a figure, inches."""

LEAST_SCALE = 0.875
"""Figures are made smaller by at most this: their 8 pt become 7 pt."""


@dataclass(frozen=True)
class Format:
    """How wide a figure may be, and how it is laid out for that.

    Attributes:
        width: of the file, mm; None leaves it as wide as its content.
        columns: of a heat map; more make more maps.
        column: least width of a heat map's column, inches.
        panels: of scatter plots in a row.
        panel: side of a panel, inches.
        height: that a figure of scatter plots may have, mm; more panels make more figures. None leaves it as high as its content.
        name: letters of a line of a row's name.
        axis: width of the axis of a forest plot, inches.
        font: points of the text in a drawing.
    """

    width: float | None = None
    columns: int = 6
    column: float = 1.2
    panels: int = 3
    panel: float = 2.2
    height: float | None = None
    name: int = 26
    axis: float = 4.2
    font: float = 8.0


PAGE = Format()

FORMATS = {"page": PAGE, "double": Format(183.0, 5, 0.95, 2, 2.2, 240.0, 22, 2.6, 7.5), "single": Format(89.0, 2, 0.75, 1, 2.2, 240.0, 16, 1.1, 7.0)}
"""As drawn for the page; two columns of a journal; one column."""


@dataclass(frozen=True)
class NamedFigure:
    """A figure with its file name, title and caption; ``figure`` is None when there is nothing to draw, and ``missing`` says why.

    ``tips``: gid of a group of points -> what each of them is, in the order in which they are drawn.
    """

    name: str
    title: str
    caption: str
    figure: Figure | None = None
    missing: str = ""
    tips: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@contextmanager
def style() -> Iterator[None]:
    import matplotlib as mpl

    settings: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": "simkit", "text.parse_math": False, "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9.0, "axes.titlesize": 9.5, "axes.labelsize": 9.0, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "hatch.linewidth": 0.6,
        "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.facecolor": PAPER,
        "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "grid.color": FAINT, "axes.spines.top": False, "axes.spines.right": False,
        "axes.unicode_minus": False, "axes.formatter.useoffset": False,
    }
    with mpl.rc_context(settings):
        yield


def blank(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def fixed_axes(width: float, height: float, extra: float = 0.0) -> tuple[Figure, Axes]:
    """Axes of a size in inches; labels stand outside and are included when the figure is cropped to its ink."""
    figure = blank(width + 2 + extra, height + 2)
    total_width, total_height = width + 2 + extra, height + 2
    return figure, figure.add_axes((1 / total_width, 1 / total_height, width / total_width, height / total_height))


def label(name: str, width: int = 26) -> str:
    """A name for an axis: lines of at most ``width`` columns; nothing is cut off."""
    return "\n".join(wrapped(visible(name), width))


def luminance(colour: tuple[float, ...]) -> float:
    """Relative luminance (WCAG 2.1) of red, green, blue in 0..1: above 0.18, black has the higher contrast on it."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def cropped(figure: Figure, width: float | None, dpi: float = 72) -> tuple[Any, float]:
    """Where a figure of a given width (mm) is cut out, and by what it is then made smaller or larger; too wide ones keep their size.

    Returns:
        The box in inches and the scale, 0.875 to 1.
    """
    from matplotlib.transforms import Bbox

    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font", category=UserWarning)
        before = figure.dpi
        figure.set_dpi(dpi)  # letters are a little wider at some resolutions
        box = figure.get_tightbbox().padded(MARGIN)
        figure.set_dpi(before)
    if width is None:
        return box, 1.0
    scale = min(1.0, width / 25.4 / box.width)
    if scale < LEAST_SCALE:
        return box, 1.0
    spare = width / 25.4 / scale - box.width
    return Bbox.from_extents(box.x0 - spare / 2, box.y0, box.x1 + spare / 2, box.y1), scale


def svg_text(figure: Figure, *, width: float | None = None) -> str:
    """The figure as SVG, cropped to its ink, ``width`` mm wide where it can be; the same figure gives the same bytes."""
    out = io.StringIO()
    box, scale = cropped(figure, width)
    with style(), warnings.catch_warnings():
        # text stays text in SVG: a script that the layout font lacks is drawn by the viewer's own font (PNG does warn)
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font", category=UserWarning)
        figure.savefig(out, format="svg", bbox_inches=box, metadata={"Date": None, "Creator": None})
    if scale == 1:
        return out.getvalue()
    return re.sub(r'(?<=\s)(width|height)="([0-9.]+)pt"', lambda size: f'{size[1]}="{float(size[2]) * scale:.6f}pt"', out.getvalue(), count=2)


def png_bytes(figure: Figure, dpi: int, *, width: float | None = None) -> bytes:
    """The figure as PNG, ``width`` mm wide where it can be. Characters that the font lacks are drawn as boxes, which is said once a figure."""
    out = io.BytesIO()
    box, scale = cropped(figure, width, dpi)
    with style(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        figure.savefig(out, format="png", dpi=dpi * scale, bbox_inches=box, metadata={"Software": None}, pil_kwargs={"dpi": (dpi, dpi)})
    lacking = [warning for warning in said if "missing from font" in str(warning.message)]
    if lacking:
        count = len({str(warning.message).split()[1] for warning in lacking})
        logging.getLogger("simkit").info("characters of names that the font of the PNG lacks (%d) are drawn as boxes; an SVG has them right", count)
    for warning in said:
        if warning not in lacking:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return out.getvalue()
