"""Plain-text tables that fit a terminal: nothing is cut off; what does not fit in columns is written below each other."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["NARROWEST", "Column", "longest_piece", "paragraph", "safe_name", "table", "text_width", "unique", "visible", "wrapped"]

NARROWEST = 40
"""Columns below which lines are no longer made narrower."""

GAP = "  "
JOINERS = "-_./,:;=>"
"""A word that is longer than a line is broken after one of these."""

LEAST = 10
"""A text column is wrapped down to this width before the table gives up columns."""

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """``text`` with control characters, direction overrides and lone surrogates written out as ``\\x1b``.

    Names come from users: printed as they stand, an escape sequence in a folder's name could repaint the terminal, and a byte that is
    not UTF-8 could not be printed at all.
    """
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def text_width(text: str) -> int:
    """Columns that ``text`` takes on a terminal: two for wide East Asian characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def safe_name(text: str, *, otherwise: str, longest: int = 40) -> str:
    """``text`` as part of a file name on any system: ASCII letters, digits, - and _; ``otherwise`` when nothing is left of it."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    return re.sub("[^A-Za-z0-9_]+", "-", plain).strip("-")[:longest].rstrip("-") or otherwise


def unique(names: Sequence[str]) -> list[str]:
    """The names in order, with -2, -3 ... behind those that stood before, also where they differ in case only (as on macOS and Windows)."""
    used: set[str] = set()
    out = []
    for name in names:
        found = next(text for number in range(1, len(names) + 1) if (text := name if number == 1 else f"{name}-{number}").lower() not in used)
        used.add(found.lower())
        out.append(found)
    return out


def longest_piece(text: str) -> int:
    """Columns that the longest part of ``text`` takes that :func:`wrapped` need not break."""
    return max(text_width(piece) for piece in re.split(f"(?<=[{re.escape(JOINERS)}])|\\s", visible(text)))


def _broken(word: str, width: int) -> list[str]:
    """A word longer than a line in pieces: after a joiner such as - or _ where there is one, else anywhere."""
    parts, line = [], ""
    for character in word:
        if line and text_width(line) + text_width(character) > width:
            cut = max(line.rfind(joiner) for joiner in JOINERS) + 1 or len(line)
            parts.append(line[:cut])
            line = line[cut:]
        line += character
    return [*parts, line]


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` columns; words are broken only when they are longer than a line."""
    lines: list[str] = []
    for piece in visible(text).split("\n"):
        line = ""
        for word in piece.split():
            if line and text_width(line) + 1 + text_width(word) <= width:
                line = f"{line} {word}"
                continue
            if line:
                lines.append(line)
            *whole, line = _broken(word, width)
            lines.extend(whole)
        lines.append(line)
    return lines


def paragraph(text: str, width: int, *, indent: str = "", first: str | None = None) -> str:
    """``text`` wrapped to ``width`` columns, the first line after ``first``, the others after ``indent``."""
    start = indent if first is None else first
    room = max(width, NARROWEST) - max(text_width(indent), text_width(start))
    return "\n".join((indent if number else start) + line for number, line in enumerate(wrapped(text, room)))


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, and whether its cells are numbers (right-aligned, never wrapped) or text."""

    title: str
    number: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int, *, indent: str = "") -> str:
    """A table of at most ``width`` columns (40 at least).

    Text columns are wrapped where needed; when that is not enough, each row becomes a small list "heading: value", so that a narrow
    terminal loses no number.
    """
    room = max(width, NARROWEST) - len(indent)
    cells = [[visible(cell).replace("\n", "\\n") for cell in row] for row in rows]
    widths = _widths(columns, cells, room)
    lines = _records(columns, cells, room) if widths is None else _grid(columns, cells, widths)
    return "\n".join(f"{indent}{line}".rstrip() for line in lines)


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """The width of each column, or None when the table does not fit in ``room``."""
    widths, least = [], []
    for index, column in enumerate(columns):
        words = max((text_width(word) for word in column.title.split()), default=1)
        cells = max((text_width(row[index]) for row in rows), default=0)
        natural = max(cells, words if column.number else text_width(column.title), 1)
        widths.append(natural)
        least.append(natural if column.number else min(natural, max(LEAST, words)))
    available = room - len(GAP) * (len(columns) - 1)
    if sum(least) > available:
        return None
    while sum(widths) > available:
        spare = [now - low for now, low in zip(widths, least, strict=True)]
        widest = max((index for index in range(len(widths)) if spare[index] > 0), key=lambda index: widths[index])
        widths[widest] -= 1
    return widths


def _grid(columns: Sequence[Column], rows: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    def laid_out(cells: Sequence[str], head: bool = False) -> list[str]:
        # a number is never wider than its column; spaces that align it are kept
        parts = [[cell] if column.number and not head else wrapped(cell, size) for cell, size, column in zip(cells, widths, columns, strict=True)]
        lines = []
        for level in range(max(len(part) for part in parts)):
            line = []
            for part, size, column in zip(parts, widths, columns, strict=True):
                text = part[level] if level < len(part) else ""
                space = " " * (size - text_width(text))
                line.append(space + text if column.number else text + space)
            lines.append(GAP.join(line))
        return lines

    head = laid_out([column.title for column in columns], head=True)
    return [*head, GAP.join("-" * size for size in widths), *(line for row in rows for line in laid_out(row))]


def _records(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int) -> list[str]:
    lines: list[str] = []
    for row in rows:
        lines.extend(wrapped(row[0], room))
        for column, cell in zip(columns[1:], row[1:], strict=True):
            if cell.strip():
                whole = wrapped(f"{column.title}: {cell}", room - 4)
                lines.extend(f"{'    ' if number else '  '}{line}" for number, line in enumerate(whole))
    return lines
