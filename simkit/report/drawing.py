"""How figures are drawn and written: without pyplot's global state, the same bytes twice.

SVG keeps text as text: it can be selected, searched, and takes the colour of the page. The price is that the viewer's font decides the
width of a label; labels therefore stand free (never in a box that they could overflow), and the drawing is laid out with DejaVu Sans,
which is wider than the sans-serif fonts that browsers put in its place. PNG has the glyphs drawn in.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simkit.report.layout import visible, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ACCENT", "FAINT", "INK", "PAPER", "POINT", "NamedFigure", "blank", "fixed_axes", "label", "png_bytes", "style", "svg_text"]

INK, FAINT, PAPER = "#1b1f24", "#6e7781", "#fefefe"
"""Text and axes, grid and hatching, background: these three the page replaces by its own colours, which follow light and dark."""

POINT, ACCENT = "#0f7fc0", "#d9660a"
"""Blue and orange of about the same lightness: told apart by colour-blind readers, and readable on white and on near-black."""

@dataclass(frozen=True)
class NamedFigure:
    """A figure with its file name, title and caption; ``figure`` is None when there is nothing to draw, and ``missing`` says why."""

    name: str
    title: str
    caption: str
    figure: Figure | None = None
    missing: str = ""


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


def svg_text(figure: Figure) -> str:
    """The figure as SVG, cropped to its ink; the same figure gives the same bytes."""
    out = io.StringIO()
    with style(), warnings.catch_warnings():
        # text stays text in SVG: a script that the layout font lacks is drawn by the viewer's own font (PNG does warn)
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font", category=UserWarning)
        figure.savefig(out, format="svg", bbox_inches="tight", pad_inches=0.08, metadata={"Date": None, "Creator": None})
    return out.getvalue()


def png_bytes(figure: Figure, dpi: int) -> bytes:
    """The figure as PNG. Characters that the font lacks are drawn as boxes, which is said once a figure."""
    out = io.BytesIO()
    with style(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        figure.savefig(out, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.08, metadata={"Software": None})
    lacking = [warning for warning in said if "missing from font" in str(warning.message)]
    if lacking:
        count = len({str(warning.message).split()[1] for warning in lacking})
        logging.getLogger("simkit").info("characters of names that the font of the PNG lacks (%d) are drawn as boxes; an SVG has them right", count)
    for warning in said:
        if warning not in lacking:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return out.getvalue()
