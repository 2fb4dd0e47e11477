"""Copies in words for the terminal, and as rows for CSV and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simkit.leakage.pairs import CopyPair, Leakage
from simkit.report.layout import Column, table, wrapped

__all__ = ["COLUMNS", "LISTED", "groups_line", "leakage_dict", "leakage_text", "pair_row"]

COLUMNS = ("first", "first_key", "second", "second_key", "how", "similarity", "transform", "found_by", "first_label", "second_label", "first_split",
           "second_split", "first_group", "second_group")
"""Columns of leakage.csv."""

LISTED = 10
"""Pairs of a comparison that are printed; the CSV holds all."""

NAMED = 5
"""Groups that are named."""


def pair_row(pair: CopyPair) -> list[Any]:
    """One row of leakage.csv."""
    return [getattr(pair, column) if column != "found_by" else " ".join(pair.found_by) for column in COLUMNS]


def groups_line(one: Leakage) -> str:
    """What is said of groups that both sides have, by name; "" where there are none."""
    if not one.groups:
        return ""
    count = f"{len(one.groups):,} group{'' if len(one.groups) == 1 else 's'}"
    named = ", ".join(one.groups[:NAMED]) + (" ..." if len(one.groups) > NAMED else "")
    if one.within:
        return f"{count} of {one.first} (patients) {'stands' if len(one.groups) == 1 else 'stand'} on several sides of its split: {named}"
    return f"{count} (patients) of {one.first} and {one.second} have equal names, which may be chance: {named}"


def leakage_dict(one: Leakage) -> dict[str, Any]:
    """A comparison for JSON, with all pairs."""
    return {
        "first": one.first, "second": one.second, "n_first": one.n_first, "n_second": one.n_second, "split": one.split, "line": one.line,
        "images": len(one.first_keys), "exact": one.exact, "near": one.near, "groups": list(one.groups), "notes": list(one.notes),
        "thresholds": dict(one.thresholds), "pairs": [dict(zip(COLUMNS, pair_row(pair), strict=True)) for pair in one.pairs],
    }


def leakage_text(found: Sequence[Leakage], width: int) -> str:
    """Each comparison: its sentence, the first pairs, the notes."""
    parts = []
    for one in found:
        lines = wrapped(one.line, width)
        if one.pairs:
            shown = one.pairs[:LISTED]
            names = ("image", "copy", "how", "similarity", "change", "remark")
            numeric = {"similarity"}
            cells = [[pair.first_key, pair.second_key, pair.how, f"{pair.similarity:.3f}", pair.transform or "-", _remark(pair)]
                     for pair in shown]
            lines += table([Column(name, number=name in numeric) for name in names], cells, width).split("\n")
            if len(one.pairs) > LISTED:
                lines.append(f"... and {len(one.pairs) - LISTED:,} more pairs (--out FOLDER writes all, --json lists them)")
        for note in (groups_line(one), *one.notes):
            lines += [f"  {line}" for line in wrapped(note, width - 2)] if note else []
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _remark(pair: CopyPair) -> str:
    """Labels and splits of a pair, where they say something."""
    parts = []
    if pair.contradiction:
        parts.append(f"labels {pair.first_label} / {pair.second_label}")
    if pair.first == pair.second and pair.first_split != pair.second_split:
        parts.append(f"{pair.first_split or 'no split'} / {pair.second_split or 'no split'}")
    return ", ".join(parts) or "-"
