"""Which way a measure points. A direction is stated, or known from the registry; it is never guessed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from simkit.correlation.names import closest
from simkit.errors import SHOWN, Problems, SimkitError, UsageError
from simkit.registry import ESTIMATORS

__all__ = ["Directions", "directions"]


@dataclass(frozen=True)
class Directions:
    """The direction of each method and where it comes from.

    Attributes:
        higher_is_better: per method, whether higher values mean more similar (or promise better transfer).
        notes: one sentence a method: the direction and who stated it.
        warnings: statements that contradict what simkit knows about a measure of that name.
    """

    higher_is_better: Mapping[str, bool]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def directions(
    methods: Iterable[str], *, distances: Iterable[str] = (), similarities: Iterable[str] = (), in_table: Mapping[str, bool] | None = None,
    table: str = "the table", columns: Collection[str] = (),
) -> Directions:
    """The direction of every method: stated by the caller, else by the table's ``higher_is_better`` column, else known to the registry.

    Args:
        methods: names of the methods of the table.
        distances: methods whose lower values mean more similar.
        similarities: methods whose higher values mean more similar.
        in_table: what the ``higher_is_better`` column says, for the methods for which it says something.
        table: how messages name the table.
        columns: of the table, for the advice on a name that is one of them and no method.

    Raises:
        UsageError: a name that is no method of the table (SK101), stated both ways (SK102), or a method of unknown direction (SK211).
    """
    methods, distances, similarities, in_table = list(methods), list(distances), list(similarities), dict(in_table or {})
    problems = Problems()
    for option, names in (("distances", distances), ("similarities", similarities)):
        for name in names:
            if name not in methods:
                is_column = name in columns
                fix = f"; a column that is not taken for a measure by itself is named by methods=['{name}'] (--method {name})" if is_column else ""
                message = f"'{name}' is not a method of {table}{'' if is_column else closest(name, methods)}"
                problems.add("SK101", option, message, f"methods found: {', '.join(methods)}{fix}")
    for name in sorted(set(distances) & set(similarities)):
        problems.add("SK102", "distances, similarities", f"'{name}' is stated both as a distance and as a similarity", "state one of them")
    stated = dict.fromkeys(similarities, True) | dict.fromkeys(distances, False)
    out: dict[str, bool] = {}
    notes, warnings, unknown = [], [], []
    for name in methods:
        if name in stated and in_table.get(name, stated[name]) != stated[name]:
            message = f"'{name}' is stated as a {_word(stated[name])}, and the column higher_is_better says {str(in_table[name]).lower()}"
            problems.add("SK211", table, message, "correct one of the two")
            continue
        said = stated.get(name, in_table.get(name))
        known = _registered(name, required=said is None)
        if said is None and known is None:
            unknown.append(name)
            continue
        by = "stated" if name in stated else "column higher_is_better" if name in in_table else "known measure"
        out[name] = bool(known if said is None else said)
        notes.append(f"{name}: {'higher' if out[name] else 'lower'} values count as more similar ({by})")
        if known is not None and known != out[name]:
            warnings.append(f"{name}: taken as a {_word(out[name])} ({by}), but simkit's measure of that name is a {_word(known)}")
    if unknown:
        problems.add("SK211", table, *_unknown(unknown))
    problems.raise_if_any(UsageError)
    return Directions(out, tuple(notes), tuple(warnings))


def _unknown(names: Sequence[str]) -> tuple[str, str]:
    """Message and remedy for methods of unknown direction."""
    no_measure = "if a column is no measure, name the measures: methods=[...] (--method NAME)"
    if len(names) == 1:
        (name,) = names
        why = "it depends on the options of that measure" if name in ESTIMATORS.names() else "it is no registered measure"
        fix = (f"give distances=['{name}'] (--distance {name}) if lower values mean more similar, "
               f"similarities=['{name}'] (--similarity {name}) if higher values do; {no_measure}")
        return f"the direction of '{name}' is not known: {why} and nothing states it", fix
    each = ", ".join(f"'{name}'" for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    fix = ("give distances=[...] (--distance NAME,NAME,...) with those whose lower values mean more similar, "
           f"similarities=[...] (--similarity NAME,NAME,...) with those whose higher values do; {no_measure}")
    return f"the direction of {len(names)} methods is not known, and nothing states it: {each}", fix


def _word(higher_is_better: bool) -> str:
    return "similarity" if higher_is_better else "distance"


def _registered(name: str, *, required: bool) -> bool | None:
    """What the registry knows about a method of that name; None when it is not registered, or when the direction depends on options.

    The class is asked, because a table does not hold the options that an instance needs. A direction that is a property belongs to
    instances: on the class it is the property itself, and says nothing.
    """
    if name not in ESTIMATORS.names():
        return None
    try:
        declared = getattr(ESTIMATORS.get(name), "higher_is_better", None)
    except SimkitError:
        if required:
            raise
        return None  # the direction was stated; a plug-in that does not import can only not contradict it
    return declared if isinstance(declared, bool) else None
