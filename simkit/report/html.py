"""What every page of simkit shares: one self-contained file, no network, no script needed to read it, and the same bytes for the same content."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from simkit.files import json_text
from simkit.report.cells import plural
from simkit.report.drawing import FAINT, INK, PAPER, NamedFigure, svg_text
from simkit.report.layout import visible

if TYPE_CHECKING:
    from collections.abc import Mapping

    from markupsafe import Markup

__all__ = ["drawn", "html_page", "image_uri", "inline_svg", "json_for_script"]

THUMBNAIL = 96
"""Longest side of a thumbnail, pixels."""

SCREEN = 1.2
"""Figures are this much larger on the page than on paper: a screen is read from further away."""


def _asset(name: str) -> str:
    return resources.files("simkit.report").joinpath(name).read_text(encoding="utf-8")


def html_page(template: str, *, title: str, scripts: tuple[str, ...] = (), styles: tuple[str, ...] = (), **values: Any) -> str:
    """A self-contained page from a template of this package that extends ``base.html.j2`` (blocks ``header``, ``main`` and ``data``).

    It loads nothing: its content security policy forbids any load but data: addresses, and any script but those given here. Every text is escaped,
    and control characters in it are written out.

    Args:
        template: file name in ``simkit/report``.
        title: of the window.
        scripts: files of this package, after ``page.js``, which sorts tables.
        styles: files of this package, after ``page.css``.
        **values: what the template shows; ``plural`` is there without being given.

    Returns:
        HTML; the same bytes for equal values.
    """
    import jinja2
    from markupsafe import Markup

    texts = [_asset(name) for name in ("page.js", *scripts)]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=jinja2.FunctionLoader(_asset),
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.globals["plural"] = plural
    return environment.get_template(template).render(
        title=title, scripts=[Markup(text) for text in texts], styles=[Markup(_asset(name)) for name in ("page.css", *styles)],  # noqa: S704 - our own files
        script_hashes=[base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts], **values,
    )


def json_for_script(value: Any) -> Markup:
    """A value (or the text of one) as JSON for inside a script element of type application/json."""
    from markupsafe import Markup

    text = value if isinstance(value, str) else json_text(value, indent=None)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704 - no character left that HTML reads


def inline_svg(svg: str, name: str, label: str) -> Markup:
    """SVG for inside HTML: ids made unique by ``name``, ink and paper in the colours of the page, one label for screen readers.

    Only tags are changed, never the text between them, which may hold anything that a user named.
    """
    from markupsafe import Markup, escape

    colours = {INK: "var(--ink)", FAINT: "var(--faint)", PAPER: "var(--paper)"}

    def tag(match: re.Match[str]) -> str:
        text = re.sub(r'(?<=<g) id="[a-z0-9]+_[0-9]+"| transform="rotate\(-0 [^"]*"|font-family: [^;"]*; ', "", match[0])  # what nothing refers to or needs
        text = re.sub(r"(\.[0-9]{2})[0-9]+", r"\1", text)
        text = re.sub(r'\bid="', f'id="{name}-', text)
        text = re.sub(r"url\(#", f"url(#{name}-", text)
        text = re.sub(r'href="#', f'href="#{name}-', text)
        return re.sub("|".join(colours), lambda colour: colours[colour[0]], text)

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r"\n\s*", "\n", re.sub(r"<[^>]+>", tag, body))
    body = re.sub(r'(?<=\s)(width|height)="([0-9.]+)pt"', lambda size: f'{size[1]}="{float(size[2]) * SCREEN:.1f}pt"', body, count=2)
    return Markup(body.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1))  # noqa: S704 - text was escaped by the SVG writer


def _with_tips(svg: Markup, name: str, tips: Mapping[str, tuple[str, ...]]) -> Markup:
    """The drawing with a title on every point: what a browser shows on hovering, and ``tooltips.js`` on focus as well."""
    from markupsafe import Markup, escape

    text = str(svg)
    for group, said in tips.items():
        start = text.index(f'<g id="{name}-{group}"')
        head, *uses = re.split(r"(?=<use )", text[start:], maxsplit=len(said))
        marked = [re.sub(r"^<use [^>]*/>", lambda use, tip=tip: f'<g class="point"><title>{escape(visible(tip))}</title>{use[0]}</g>', one)
                  for one, tip in zip(uses, said, strict=True)]
        text = text[:start] + head + "".join(marked)
    return Markup(text)  # noqa: S704 - only escaped text was added


def image_uri(pixels: np.ndarray, side: int = THUMBNAIL) -> str:
    """An image, uint8 (h, w, 1 or 3), as WebP in a data: address, its longest side at most ``side`` pixels."""
    from PIL import Image

    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    picture.thumbnail((side, side))
    out = io.BytesIO()
    picture.save(out, format="WEBP", quality=70, method=4)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def drawn(item: NamedFigure) -> dict[str, Any]:
    """A figure as the macro ``picture`` takes it."""
    svg = None
    if item.figure is not None:
        label = f"{item.title}. The numbers are in the tables of this section."
        svg = _with_tips(inline_svg(svg_text(item.figure), item.name, label), item.name, item.tips)
    return {"name": item.name, "title": item.title, "caption": item.caption, "missing": item.missing, "svg": svg}
