"""A check of data sets as plain text: one card each, then what they share. Nothing is cut off; what is shortened says so."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from simkit.dataset import Skipped
from simkit.report.check_content import Check, Checked, Finding, Span, counted
from simkit.report.layout import NARROWEST, Column, paragraph, table, text_width, visible

__all__ = ["check_text"]

SHOWN = 10
"""Files and examples that are listed; the others are counted."""

EXAMPLES = 3
"""Examples of a finding."""

CLASSES_SHOWN = 40
"""Rows of classes: beyond it, the largest and the smallest ones are shown."""

BAR = 30
"""Columns of the longest bar."""

LABEL = 12


def check_text(check: Check, width: int = 100) -> str:
    """A card for each data set and what they share.

    Args:
        check: what was found.
        width: of the terminal; below 40 it is taken as 40.
    """
    width = max(width, NARROWEST)
    blocks = ["\n".join(_card(checked, width)) for checked in check.datasets]
    if check.shared:
        lines = ["between data sets"]
        for one in check.shared:
            lines.append(paragraph(one.message, width, indent="    ", first="  ! "))
            lines += _listed([f"{a} = {b}" for a, b in one.pairs], EXAMPLES, width)
        blocks.append("\n".join(lines))
    elif len(check.datasets) > 1:
        blocks.append(paragraph("between data sets: no image is in two of them", width))
    return "\n\n".join([*blocks, paragraph(_summary(check), width)])


def _summary(check: Check) -> str:
    images = sum(checked.images for checked in check.datasets)
    parts = [f"{counted(len(check.left_out), 'file')} left out" if check.left_out else "every image can be read"]
    parts.append(counted(len(check.cautions), "caution") if check.cautions else "no caution")
    return f"{counted(len(check.datasets), 'data set')}, {counted(images, 'image')}: {', '.join(parts)}"


def _card(checked: Checked, width: int) -> Iterator[str]:
    classes = sum(count > 0 for count in checked.class_counts.values())
    kind = " (several per image)" if checked.multilabel else ""
    head = f"{counted(classes, 'class', 'classes')}{kind}" if checked.class_counts else "no labels"
    yield paragraph(f"{checked.name}: {counted(checked.images, 'image')}, {head}", width, indent="  ", first="")
    for label, text in _facts(checked):
        yield _line(label, text, width)
    if checked.class_counts:
        yield from _classes(checked, width)
    for label, left_out in (("left out", checked.skipped), ("unreadable", checked.unreadable)):
        if left_out:
            yield from _left_out(label, left_out, width)
    for finding in checked.findings:
        yield from _finding(finding, width)
    for sheet in checked.sheets:
        yield _line("thumbnails", sheet, width)


def _line(label: str, text: str, width: int) -> str:
    return paragraph(text, width, indent="  " + " " * LABEL, first=f"  {label:<{LABEL}}")


def _facts(checked: Checked) -> Iterator[tuple[str, str]]:
    yield "source", f"{checked.source}: {checked.origin}" if checked.origin else checked.source
    yield from _appearance(checked)
    if checked.group_sizes is not None:
        yield "groups", f"{checked.groups:,}; images per group: {_span(checked.group_sizes)}"
    if checked.splits:
        yield "splits", ", ".join(f"{name} {count:,}" for name, count in checked.splits.items())
    if checked.labels_per_image:
        yield "labels", "per image: " + ", ".join(f"{labels}: {counted(count, 'image')}" for labels, count in checked.labels_per_image.items())
    if checked.imbalance is not None:
        present = {name: count for name, count in checked.class_counts.items() if count > 0}
        smallest = min(present, key=lambda name: present[name])
        most, least = max(present.values()), present[smallest]
        spread = f"ratio {checked.imbalance:.3g}: {most:,} images in the largest class, {least:,} in the smallest ({smallest})"
        yield "balance", "balanced" if most == least else spread


def _appearance(checked: Checked) -> Iterator[tuple[str, str]]:
    seen = checked.pictures
    if seen is not None:
        yield "width", f"{_span(seen.width)} px"
        yield "height", f"{_span(seen.height)} px"
        shown = ", ".join(f"{size} ({count:,})" for size, count in seen.sizes)
        more = f", and {seen.different_sizes - len(seen.sizes):,} more" if seen.different_sizes > len(seen.sizes) else ""
        yield "sizes", shown + more
        colours = (("grey", seen.grey), ("grey stored as colour", seen.grey_as_colour), ("colour", seen.colour))
        yield "colours", ", ".join(f"{what} {count:,}" for what, count in colours if count)
    for remark, count in checked.remarks.items():
        yield "reading", f"{remark}: {counted(count, 'image')}"


def _span(span: Span) -> str:
    if span.least == span.most:
        return f"{span.least:,g} (all)"
    return f"{span.least:,g} to {span.most:,g}, median {span.median:,g}"


def _classes(checked: Checked, width: int) -> Iterator[str]:
    rows = list(checked.class_counts.items())
    if len(rows) > CLASSES_SHOWN:
        ordered = sorted(rows, key=lambda row: -row[1])
        half = CLASSES_SHOWN // 2
        rows = [*ordered[:half], *ordered[-half:]]
        yield paragraph(f"the {half} largest and the {half} smallest of {len(ordered)} classes (--json has all):", width, indent="    ", first="  ")
    most, total = max(max(count for _, count in rows), 1), max(checked.images, 1)
    names = max(text_width(visible(name)) for name, _ in rows)
    room = min(BAR, width - 4 - names - 22)  # 22: counts, shares and gaps
    columns = [Column("class"), Column("images", True), Column("share", True)]
    cells = [[name, f"{count:,}", f"{count / total:.1%}"] for name, count in rows]
    if room >= 5:
        columns.append(Column(""))
        cells = [[*row, _bar(count / most, room)] for row, (_, count) in zip(cells, rows, strict=True)]
    yield table(columns, cells, width, indent="    ")


def _bar(share: float, room: int) -> str:
    return "#" * (max(1, round(share * room)) if share > 0 else 0)


def _left_out(label: str, skipped: Sequence[Skipped], width: int) -> Iterator[str]:
    """Files under the reason that they share, up to its numbers (each file has its own range of values)."""
    yield _line(label, counted(len(skipped), "file"), width)
    reasons: dict[str, list[Skipped]] = {}
    for one in skipped:
        reasons.setdefault(re.sub(r"\d+(?:[.,]\d+)*", "0", one.reason), []).append(one)
    for files in list(reasons.values())[:SHOWN]:
        first = files[0]
        if len(files) == 1:
            yield from _listed([f"{first.key}: {first.reason}"], 1, width)
            continue
        alike = len({one.reason for one in files}) == 1
        yield paragraph(f"{counted(len(files), 'file')}{'' if alike else ', the first'}: {first.reason}", width, indent="        ", first="      ")
        yield from _listed([one.key for one in files], SHOWN, width, "        ")
    rest = [one for files in list(reasons.values())[SHOWN:] for one in files]
    if rest:
        yield paragraph(f"and {len(rest):,} more for other reasons (--json has all)", width, indent="        ", first="      ")


def _finding(finding: Finding, width: int) -> Iterator[str]:
    yield paragraph(finding.message, width, indent="    ", first="  ! " if finding.caution else "  - ")
    yield from _listed(finding.examples, EXAMPLES, width)


def _listed(lines: Sequence[str], most: int, width: int, first: str = "      ") -> list[str]:
    out = [paragraph(line, width, indent=f"{first}  ", first=first) for line in lines[:most]]
    if len(lines) > most:
        out.append(paragraph(f"and {len(lines) - most:,} more (--json has all)", width, indent=f"{first}  ", first=first))
    return out
