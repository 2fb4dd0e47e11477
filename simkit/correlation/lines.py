"""Lines for a terminal: wrapped text, aligned tables, numbers. Names are printed without characters that would move the cursor."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Sequence

__all__ = ["LONGEST", "NONE", "about", "plain", "short", "signed", "table", "united", "wrapped"]

NONE = "-"

LONGEST = 30
"""Characters of a name in a table."""


def about(line: str, names: Iterable[str]) -> tuple[str, str]:
    """The name that a line "name: what" is about (the longest that it begins with) and what it says; "" and the line when it is about none."""
    name = max((name for name in names if line.startswith(f"{name}: ")), key=len, default="")
    return (name, line[len(name) + 2 :]) if name else ("", line)


def united(lines: Iterable[str], names: Collection[str]) -> dict[str, list[str]]:
    """What is said -> the names it is said of, for lines "name: what"; a line that begins with none of the names is said of nobody."""
    said: dict[str, list[str]] = {}
    for line in lines:
        name, what = about(line, names)
        said.setdefault(what, []).extend([name] if name else [])
    return said


def plain(name: str) -> str:
    """A name without characters that would move the cursor of a terminal."""
    return "".join(character if character.isprintable() else "?" for character in name)


def short(name: str, most: int = LONGEST) -> str:
    """A name for a table; of one longer than ``most`` characters, the beginning and the end."""
    name = plain(name)
    return name if len(name) <= most else f"{name[: most // 2]}...{name[len(name) - (most - 3 - most // 2) :]}"


def wrapped(text: str, width: int) -> str:
    """The text in lines of at most ``width`` columns."""
    return "\n".join(textwrap.wrap(plain(text), width, subsequent_indent="  ", break_on_hyphens=False))


def signed(value: float | None) -> str:
    """Two digits with a sign."""
    return NONE if value is None else f"{value + 0.0:+.2f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, left: Sequence[int] = (0,)) -> list[str]:
    """Aligned rows; where they are wider than the terminal, a line "name: value, ..." per row.

    Args:
        head: names of the columns.
        rows: cells.
        width: columns of the terminal.
        left: columns that are aligned to the left; a row is called by its cells up to the first of them.
    """
    cells = [[plain(cell) for cell in row] for row in (head, *rows)]
    sizes = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(size) if i in left else cell.rjust(size) for i, (cell, size) in enumerate(zip(row, sizes, strict=True))).rstrip()
             for row in cells]
    if max(map(len, lines)) <= width:
        return lines
    start = left[0] + 1
    return [wrapped(f"{' '.join(row[:start])}: " + ", ".join(f"{name} {cell}".strip() for name, cell in zip(head[start:], row[start:], strict=True)
                                                             if cell not in (NONE, "")), width) for row in cells[1:]]
