"""Names that are almost the same: two spellings of one thing count as two things, and nothing in the numbers shows it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import combinations

from simkit.errors import nearest

__all__ = ["closest", "difference", "respellings", "shortened", "similar_data_sets", "similar_names"]

SEPARATORS = re.compile(r"[\s_\-\u2010-\u2015]+")
"""What words of a name are joined with: spaces, underscores, hyphens and dashes."""


def similar_data_sets(pairs: Collection[tuple[str, str]], root: Mapping[str, str] | None = None) -> list[str]:
    """A warning for every two names of sources and targets that differ only by letter case, separators or Unicode form.

    Sources and targets are compared together: a source 'ISIC' and a target 'isic' would hide a self pair.

    Args:
        pairs: (source, target).
        root: name -> the data set it stands for; names that are said to mean the same data need no warning.
    """
    root = root or {}
    sources, targets = {source for source, _ in pairs}, {target for _, target in pairs}
    warnings = []
    for one, two in _look_alikes(sources | targets):
        if root.get(one, one) == root.get(two, two):
            continue
        both = [f"two {role}s" for role, names in (("source", sources), ("target", targets)) if one in names and two in names]
        crossed = (one in sources and two in targets) or (two in sources and one in targets)
        taken = " and ".join(both) or "two data sets, a source and a target"
        hidden = "; the pair of the two would be a self pair, and counts as any other" if crossed else ""
        shown_one, shown_two, how = difference(one, two)
        warnings.append(f"{shown_one} and {shown_two} are taken for {taken}, and differ only by {how}{hidden}; if they are one, correct the table, "
                        f"or give alias=[({shown_one}, {shown_two})] (--alias {one}={two})")
    return warnings


def similar_names(names: Iterable[str], role: str) -> list[str]:
    """A warning for every two names, of methods or of groups, that differ only by letter case, separators or Unicode form."""
    warnings = []
    for one, two in _look_alikes(set(names)):
        shown_one, shown_two, how = difference(one, two)
        warnings.append(f"{shown_one} and {shown_two} are taken for two {role}, and differ only by {how}; if they are one, correct the table")
    return warnings


def closest(name: str, known: Collection[str]) -> str:
    """``" (did you mean 'isic'?)"`` for a known name that differs by letter case and the like, else for the nearest spelling, or ``""``."""
    same = sorted(other for other in known if other != name and _key(other) == _key(name))
    return f" (did you mean {difference(name, same[0])[1]}?)" if same else nearest(name, known)


def respellings(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Name -> the one known name that differs from it only by letter case, separators or Unicode form; of the names that are not known."""
    known = set(known)
    alike: dict[str, list[str]] = {}
    for name in known:
        alike.setdefault(_key(name), []).append(name)
    return {name: alike[_key(name)][0] for name in sorted(set(names) - known) if len(alike.get(_key(name), ())) == 1}


def _look_alikes(names: Collection[str]) -> Iterator[tuple[str, str]]:
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        alike.setdefault(_key(name), []).append(name)
    for group in alike.values():
        yield from combinations(group, 2)


def _key(name: str) -> str:
    """The name without what two spellings of it may differ by. Between digits a separator stays: 'part 1 1' is not 'part 11'."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    return SEPARATORS.sub("", re.sub(rf"(?<=\d){SEPARATORS.pattern}(?=\d)", "|", folded))


def difference(one: str, two: str) -> tuple[str, str, str]:
    """Both names as messages show them, and by what they differ; other forms of the same characters look alike, so they are written out."""
    plain_one, plain_two = (unicodedata.normalize("NFC", name) for name in (one, two))
    if plain_one == plain_two:
        return ascii(one), ascii(two), "Unicode form"
    parted = plain_one.casefold() != plain_two.casefold()
    bare_one, bare_two = (SEPARATORS.sub("", name) for name in (plain_one, plain_two))
    how = [*(["letter case"] if bare_one != bare_two else []), *(["spaces, underscores or hyphens"] if parted else [])]
    return f"'{one}'", f"'{two}'", " and ".join(how)


def shortened(names: Iterable[str], most: int = 10) -> str:
    """The first names, and how many there are in all where some are left out."""
    names = list(names)
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
