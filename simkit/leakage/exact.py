"""Copies without any doubt: the same bytes, or other files that decode to the same pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from simkit.leakage.looks import Looks
from simkit.leakage.pairs import How

__all__ = ["Exact", "exact_between", "exact_within"]

Exact = tuple[int, int, How]
"""Positions of two images, and what they have in common."""


def exact_between(first: Looks, second: Looks) -> list[Exact]:
    """Each image of one data set that has an exact copy in the other, with the first such copy.

    Of several copies of one image not every combination is listed: every image that has a copy stands in a pair. Blank images are no evidence.
    """
    places = _places(second)
    found: dict[tuple[int, int], How] = {}
    seen: set[int] = set()
    by_pixels: dict[bytes, int] = {}
    pixels = first.pixels
    for position in np.flatnonzero(~first.blank).tolist():
        by_pixels.setdefault(pixels[position], position)
        partners = places.get(pixels[position], [])
        if partners:
            best = _best(first.contents[position], partners, second.contents)
            found[position, best] = _how(first.contents[position], second.contents[best])
            seen.add(best)
    for shown in places.keys() & by_pixels.keys():
        position = by_pixels[shown]
        found |= {(position, other): _how(first.contents[position], second.contents[other]) for other in places[shown] if other not in seen}
    return [(i, j, how) for (i, j), how in sorted(found.items())]


def exact_within(looks: Looks, sides: Sequence[str] | None) -> list[Exact]:
    """Exact copies in one data set: each image with the first of its copies; with ``sides`` (splits), with the first on another side."""
    found: list[Exact] = []
    for places in _places(looks).values():
        done: set[tuple[int, int]] = set()
        for position in places:
            partner = next((one for one in places if one != position and (sides is None or sides[one] != sides[position])), None)
            if partner is None or (sides is None and position == places[0]):
                continue
            pair = (min(position, partner), max(position, partner))
            if pair not in done:
                done.add(pair)
                found.append((*pair, _how(looks.contents[pair[0]], looks.contents[pair[1]])))
    return sorted(found)


def _places(looks: Looks) -> dict[bytes, list[int]]:
    out: dict[bytes, list[int]] = defaultdict(list)
    pixels = looks.pixels
    for position in np.flatnonzero(~looks.blank).tolist():
        out[pixels[position]].append(position)
    return out


def _best(content: str, partners: Sequence[int], contents: Sequence[str]) -> int:
    return next((one for one in partners if contents[one] == content), partners[0])


def _how(first: str, second: str) -> How:
    return "bytes" if first == second else "pixels"
