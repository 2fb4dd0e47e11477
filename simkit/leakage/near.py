"""Near copies: candidates from perceptual hashes and embeddings, each verified by the pixels themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simkit.leakage.hashing import NEIGHBOURS, Candidates, best_of, hash_candidates
from simkit.leakage.looks import Looks, grey_square
from simkit.leakage.neighbours import Features, embedding_candidates
from simkit.leakage.verification import aligned, turned

__all__ = ["DEFAULTS", "LARGEST", "MOST", "NearPair", "NearPairs", "Square", "Thresholds", "near_pairs"]

LARGEST = 64
"""Longest side of the square pictures that are compared, pixels."""

AT_A_TIME = 16384
"""Candidates whose pictures are in memory at a time: 270 MB at most."""

LEAST_OVERLAP = 0.6
"""A pair whose aligned pictures overlap less is not verified."""

MOST = 1000
"""So many nearest images are candidates of an image all of whose first candidates were copies."""

MOST_CONTRAST = 3.0
"""A pair of which one picture's details are so many times stronger than the other's is not one picture twice."""


@dataclass(frozen=True)
class Square:
    """Makes the picture that a candidate is verified by: grey levels, float32 (s, s), s the shorter side of the image but at most 64."""

    largest: int = LARGEST

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The picture of an image, uint8 (height, width, 1 or 3)."""
        return grey_square(image, max(8, min(self.largest, *image.shape[:2])))


@dataclass(frozen=True)
class Thresholds:
    """What makes a pair a candidate, and a candidate a copy.

    Planted copies of 28 to 128 px have correlations above 0.94 and look-alikes (other chest X-rays, other trousers) below 0.93 or larger rests; slices next
    to each other in a volume, and two photographs of one lesion, lie between 0.85 and 0.96 (benchmarks/leakage.py).

    Attributes:
        hash_cosine: least cosine of two perceptual hashes, -1..1.
        coarse: least correlation of the coarse details of the small pictures, for a candidate to be looked at again; or a cosine of at least ``sure``.
        sure: such a cosine.
        detail: least correlation of the fine details by the side [pixels] at which a pair is compared.
        rest: most that may differ in the fine details [grey levels], by the same sides: in small pictures outlines alone make a high correlation.
    """

    hash_cosine: float = 0.6
    coarse: float = 0.6
    sure: float = 0.95
    detail: tuple[tuple[int, float], ...] = ((16, 0.98), (32, 0.9), (64, 0.95))
    rest: tuple[tuple[int, float], ...] = ((16, 2.5), (32, 4.0), (64, 12.0))

    def at(self, side: int) -> tuple[float, float]:
        """Least correlation and largest rest of fine details of pictures of this side; between the sides that are given, in proportion."""
        return _between(side, self.detail), _between(side, self.rest)

    @property
    def listed(self) -> dict[str, float]:
        """By name, for tables."""
        return {"hash cosine": self.hash_cosine, **{f"detail correlation at {side} px": value for side, value in self.detail},
                **{f"rest in grey levels at {side} px": value for side, value in self.rest}}


def _between(side: int, points: Sequence[tuple[int, float]]) -> float:
    return float(np.interp(side, [at for at, _ in points], [value for _, value in points]))


DEFAULTS = Thresholds()


@dataclass(frozen=True)
class NearPair:
    """A verified near copy: positions, correlation of fine details, number of the orientation, what found it."""

    first: int
    second: int
    similarity: float
    orientation: int
    found_by: tuple[str, ...]


@dataclass(frozen=True)
class NearPairs:
    """Verified near copies, what was tried, and what may be incomplete.

    Attributes:
        pairs: sorted by position.
        candidates: pairs that were looked at.
        full: images with as many copies as are looked for: they may have more.
        thresholds: in force.
        notes: of the calibration of the embedding's threshold.
    """

    pairs: tuple[NearPair, ...]
    candidates: int
    full: int
    thresholds: Mapping[str, float]
    notes: tuple[str, ...] = ()


Pictures = Callable[[int, Sequence[int]], dict[int, np.ndarray]]
"""(0 for the first data set or 1 for the second, positions) -> the pictures that :class:`Square` makes."""


def near_pairs(
    first: Looks, second: Looks, pictures: Pictures, *, same: bool, known: Sequence[tuple[int, int]] = (), features: tuple[Features, Features] | None = None,
    thresholds: Thresholds = DEFAULTS, embedding_cosine: float | None = None, done: Callable[[int], None] = lambda _: None,
) -> NearPairs:
    """Near copies between two data sets, or within one.

    Args:
        first: looks of the first data set.
        second: of the second; the same for copies within one.
        pictures: reads pixels again.
        same: whether both are one data set; each pair is then listed once.
        known: pairs that are exact copies, which are left out.
        features: embeddings of both, for neighbours.
        thresholds: what makes a copy.
        embedding_cosine: least cosine of two embeddings; None: calibrated by the distribution within the data sets.
        done: told how many images of the first data set were just compared by hash.
    """
    hashed = hash_candidates(first.pictures, second.pictures, same=same, least=thresholds.hash_cosine, done=done)
    by_hash = _filtered(hashed, first, second, same, known)
    chosen = _promising(by_hash, first, second, thresholds)
    limits, notes, origins = thresholds.listed, [], [{(int(a), int(b)) for a, b in zip(by_hash.first, by_hash.second, strict=True)}, set()]
    looked = len(by_hash)
    if features is not None:
        neighbours, limit, said = embedding_candidates(*features, same=same, least=embedding_cosine)
        neighbours = _filtered(neighbours, first, second, same, known)
        limits["embedding cosine"] = limit
        notes.append(said)
        origins[1] = {(int(a), int(b)) for a, b in zip(neighbours.first, neighbours.second, strict=True)}
        looked = len(origins[0] | origins[1])
        chosen = best_of([chosen, _promising(_oriented(neighbours, first, second), first, second, thresholds)], None)
    verified, unread = _verified(chosen, pictures, same, thresholds)
    if unread:
        notes.append(f"{unread:,} candidate{' was' if unread == 1 else 's were'} not verified: an image could not be read again")
    verified, origins[0], more = _of_full(verified, origins[0], first, second, pictures, same=same, known=known, thresholds=thresholds)
    looked += more
    pairs = tuple(NearPair(a, b, value, turn, tuple(name for name, found in zip(("hash", "embedding"), origins, strict=True) if (a, b) in found))
                  for a, b, value, turn in verified)
    per_image = np.bincount([pair.first for pair in pairs], minlength=1)
    return NearPairs(pairs, looked, int((per_image >= MOST).sum()), limits, tuple(notes))


Verified = list[tuple[int, int, float, int]]


def _of_full(
    verified: Verified, by_hash: set[tuple[int, int]], first: Looks, second: Looks, pictures: Pictures, *, same: bool, known: Sequence[tuple[int, int]],
    thresholds: Thresholds,
) -> tuple[Verified, set[tuple[int, int]], int]:
    """The pairs with those of images all of whose candidates were copies, of which there may be more: without them, how many images of a data set have a
    copy would depend on the direction of the search. Also the pairs that the hash found, and how many more were looked at.
    """
    count = np.bincount(np.array([one for a, b, _, _ in verified for one in ((a, b) if same else (a,))], dtype=np.int64), minlength=1)
    full = np.flatnonzero(count >= NEIGHBOURS)
    if not len(full):
        return verified, by_hash, 0
    hashed = hash_candidates(first.pictures, second.pictures, same=same, least=thresholds.hash_cosine, rows=full, count=MOST)
    found = _filtered(hashed, first, second, same, known)
    tried = np.array([(a, b) not in by_hash for a, b in zip(found.first.tolist(), found.second.tolist(), strict=True)], dtype=bool)
    found = _taken(found, tried)
    there = {(a, b) for a, b, _, _ in verified}
    more = [one for one in _verified(_promising(found, first, second, thresholds), pictures, same, thresholds)[0] if one[:2] not in there]
    return sorted([*verified, *more]), by_hash | {one[:2] for one in more}, len(found)


def _filtered(found: Candidates, first: Looks, second: Looks, same: bool, known: Sequence[tuple[int, int]]) -> Candidates:
    """Without blank images and exact copies; within one data set each pair once, the earlier image first."""
    if same:
        swap = found.first > found.second
        turn = np.where(swap, _inverse(found.orientation), found.orientation)
        found = best_of([Candidates(np.where(swap, found.second, found.first), np.where(swap, found.first, found.second), turn, found.similarity)], None)
    keep = ~(first.blank[found.first] | second.blank[found.second])
    exact = set(known)
    pixels = first.pixels, second.pixels
    keep &= np.array([(a, b) not in exact and pixels[0][a] != pixels[1][b] for a, b in zip(found.first.tolist(), found.second.tolist(), strict=True)],
                     dtype=bool)
    return _taken(found, keep)


def _taken(found: Candidates, keep: np.ndarray) -> Candidates:
    return Candidates(found.first[keep], found.second[keep], found.orientation[keep], found.similarity[keep])


def _inverse(orientation: np.ndarray) -> np.ndarray:
    """Number of the orientation that undoes another: a transpose exchanges mirror and flip."""
    swapped = (orientation & 4) | ((orientation & 1) << 1) | ((orientation & 2) >> 1)
    return np.where(orientation & 4, swapped, orientation)


def _oriented(found: Candidates, first: Looks, second: Looks) -> Candidates:
    """Candidates of unknown orientation with the one in which the small pictures fit best."""
    if not len(found):
        return found
    best = []
    for start in range(0, len(found), AT_A_TIME):
        here = slice(start, start + AT_A_TIME)
        small = first.pictures[found.first[here]], second.pictures[found.second[here]]
        best.append(np.stack([aligned(turned(small[0], turn), small[1]).coarse for turn in range(8)]).argmax(0))
    return Candidates(found.first, found.second, np.concatenate(best), found.similarity)


def _promising(found: Candidates, first: Looks, second: Looks, thresholds: Thresholds) -> Candidates:
    """The candidates whose small pictures, laid over each other, are alike too."""
    coarse = [np.empty(0)]
    for start in range(0, len(found), AT_A_TIME):
        here = slice(start, start + AT_A_TIME)
        coarse.append(aligned(turned(first.pictures[found.first[here]], found.orientation[here]), second.pictures[found.second[here]]).coarse)
    return _taken(found, (np.concatenate(coarse) >= thresholds.coarse) | (found.similarity >= thresholds.sure))


def _verified(found: Candidates, pictures: Pictures, same: bool, thresholds: Thresholds) -> tuple[list[tuple[int, int, float, int]], int]:
    """(first, second, correlation of fine details, orientation) of the candidates that are copies, and how many could not be read again."""
    copies, unread = [], 0
    for start in range(0, len(found), AT_A_TIME):
        part = _taken(found, np.arange(start, min(start + AT_A_TIME, len(found))))
        by_side, missing = _by_side(part, pictures, same)
        unread += missing
        for side, rows in sorted(by_side.items()):
            numbers = np.array([number for number, _, _ in rows])
            one, two = np.stack([_shrunk(row[1], side) for row in rows]), np.stack([_shrunk(row[2], side) for row in rows])
            fit = aligned(turned(one, part.orientation[numbers]), two)
            detail, rest = thresholds.at(side)
            alike = (fit.contrast >= 1 / MOST_CONTRAST) & (fit.contrast <= MOST_CONTRAST)
            good = (fit.fine >= detail) & (fit.rest <= rest) & (fit.overlap >= LEAST_OVERLAP) & alike
            copies += [(int(part.first[n]), int(part.second[n]), float(value), int(part.orientation[n]))
                       for n, value, yes in zip(numbers, fit.fine, good, strict=True) if yes]
    return sorted(copies), unread


def _by_side(found: Candidates, pictures: Pictures, same: bool) -> tuple[dict[int, list[tuple[int, np.ndarray, np.ndarray]]], int]:
    """Number of each candidate with its two pictures, by the smaller of their sides; and how many have a picture that could not be read."""
    needed = [sorted(set(found.first.tolist())), sorted(set(found.second.tolist()))]
    if same:
        read = pictures(0, sorted({*needed[0], *needed[1]}))
        squares = [read, read]
    else:
        squares = [pictures(0, needed[0]), pictures(1, needed[1])]
    out: dict[int, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    missing = 0
    for number, (a, b) in enumerate(zip(found.first.tolist(), found.second.tolist(), strict=True)):
        if a not in squares[0] or b not in squares[1]:
            missing += 1
            continue
        one, two = squares[0][a], squares[1][b]
        out.setdefault(min(len(one), len(two)), []).append((number, one, two))
    return out, missing


def _shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    """A square picture at a smaller side, so that both of a pair are equally sharp."""
    if len(picture) == side:
        return picture.astype(np.float32)
    from PIL import Image

    resized = Image.fromarray(picture.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32)
