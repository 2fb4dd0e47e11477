"""Transfer tables that are long in metric, as the fine-tuning runner writes them: which rows count, and what tells runs apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from simkit.correlation.metrics import GAIN, canonical, kind_of_metric
from simkit.correlation.names import closest, shortened
from simkit.errors import DataError, Problems, UsageError
from simkit.tables import MISSING, BadCell, RawTable, TransferTable, counted, replicate_of

if TYPE_CHECKING:
    from simkit.correlation.recognition import Layout

__all__ = ["no_scores", "of_metric", "run_columns"]

AREAS = ("auc", "auc-ovr-weighted", "auc-ovr-macro")
"""Areas under the ROC curve, the first that a target has is taken: of two classes, else of each class against the rest."""

COUNTS, AMOUNTS, WORDS = ("epochs", "n_train", "n_test", "leaky"), ("lr", "weight_decay", "seconds"), ("baseline", "recipe")
"""What a run's row says beside its value: whole numbers, numbers, text."""


def no_scores(raw: RawTable, *, by_metric: bool) -> None:
    """UsageError for a transfer table where scores belong: one with all columns of the fine-tuning runner, or whose values are the performance."""
    columns, known = set(raw.columns) - {"replicate", ""}, set(TransferTable.COLUMNS)
    if columns == known or (by_metric and columns <= known):
        fix = "give the scores first, and the transfers as performance=... (--performance FILE)"
        raise UsageError("SK102", raw.path, "a transfer table holds no scores", fix)


def of_metric(raw: RawTable, columns: Mapping[str, str], metric: str | None) -> tuple[RawTable, dict[str, str], list[str]]:
    """The rows that count: of each target those of one metric.

    Args:
        raw: the table, with columns "value" and "metric".
        columns: role -> column; where no column is the replicate, "fold" and "seed" together are.
        metric: None takes the area under the ROC curve of targets with several metrics; "auc" takes it of all.

    Returns:
        These rows, roles that they have besides, and what was taken, as notes.

    Raises:
        UsageError: a metric that no row has (SK101), or several in one target of which none is an area under the ROC curve (SK104).
        DataError: a value whose metric is empty, a seed that is no whole number, gains over different baselines (SK203).
    """
    more: dict[str, str] = {}
    notes: list[str] = []
    if "replicate" not in columns and {"fold", "seed"} <= set(raw.columns):
        raw, more = _with_replicate(raw), {"replicate": "replicate", "fold": "fold", "seed": "seed"}
        notes.append(f"{raw.path}: columns 'fold' and 'seed' are read as the replicate")
    if "leaky" in raw.columns:
        more["leaky"] = "leaky"
    cells, targets = _metrics(raw, columns["value"]), [cell.strip() for cell in raw.column(columns["target"])]
    there: dict[str, dict[str, None]] = {}
    for target, cell in zip(targets, cells, strict=True):
        if cell:
            there.setdefault(target, {})[cell] = None
    chosen = _chosen(raw, there, metric)
    keep = [row for row, (target, cell) in enumerate(zip(targets, cells, strict=True)) if cell in ("", chosen.get(target))]
    kept = replace(raw, rows=tuple(raw.rows[row] for row in keep), lines=tuple(raw.lines[row] for row in keep))
    notes += _notes(raw.path, there, chosen)
    roles = {**columns, **more}
    notes += _lacking(raw, kept, [roles[role] for role in ("source", "target", "replicate") if role in roles], chosen)
    notes += _baseline(kept, columns["target"])
    return kept, more, notes


def _with_replicate(raw: RawTable) -> RawTable:
    """The table with a column "replicate" made of fold and seed."""
    seeds = _seeds(raw)
    labels = [replicate_of(fold.strip(), seed) for fold, seed in zip(raw.column("fold"), seeds, strict=True)]
    return replace(raw, columns=(*raw.columns, "replicate"), rows=tuple((*row, label) for row, label in zip(raw.rows, labels, strict=True)))


def _seeds(raw: RawTable) -> list[int | None]:
    out: list[int | None] = []
    bad = []
    for row, cell in enumerate(raw.column("seed")):
        text = cell.strip().removesuffix(".0")  # a DataFrame with empty cells has whole numbers as 1.0
        whole = text.removeprefix("-").isdecimal()
        out.append(int(text) if whole else None)
        if text and not whole:
            what = "no whole number"
            bad.append(BadCell(row, "seed", what, f"'{cell.strip()}' is {what}", "number the seeds, or call the column that tells runs apart 'replicate'"))
    problems = Problems()
    raw.report(problems, bad)
    problems.raise_if_any(DataError)
    return out


def _metrics(raw: RawTable, value: str) -> list[str]:
    """The metric of each row; "" only where the value is empty too: a pair that was scored and not measured."""
    cells = [cell.strip() for cell in raw.column("metric")]
    unnamed = (row for row, (cell, said) in enumerate(zip(cells, raw.column(value), strict=True)) if not cell and said.strip().lower() not in MISSING)
    problems = Problems()
    raw.report(problems, (BadCell(row, "metric", "no name", "the cell is empty", "name the metric of the value") for row in unnamed))
    problems.raise_if_any(DataError)
    return cells


def _area(metrics: Sequence[str]) -> str | None:
    """The area under the ROC curve among metrics; None where there is none."""
    named = [metric for name in AREAS for metric in metrics if canonical(metric) == name]
    return next(iter([*named, *(metric for metric in metrics if kind_of_metric(metric) == "auc")]), None)


def _chosen(raw: RawTable, there: Mapping[str, Mapping[str, None]], wanted: str | None) -> dict[str, str]:
    """Target -> the metric whose rows count."""
    found = list(dict.fromkeys(metric for metrics in there.values() for metric in metrics))
    if wanted is None:
        areas = {target: next(iter(metrics)) if len(metrics) == 1 else _area([*metrics]) for target, metrics in there.items()}
        for target, area in areas.items():
            if area is None:
                message = f"target '{target}' is measured by {', '.join(there[target])}, and none is an area under the ROC curve"
                first = next(iter(there[target]))
                raise UsageError("SK104", raw.path, message, f"choose one: metric='{first}' (--metric {first})")
        return {target: area for target, area in areas.items() if area is not None}
    chosen: dict[str, str] = {}
    for target, metrics in there.items():
        same = _area([*metrics]) if canonical(wanted) == "auc" else next((metric for metric in metrics if canonical(metric) == canonical(wanted)), None)
        chosen |= {target: same} if same is not None else {}
    if not chosen and there:
        raise UsageError("SK101", "metric", f"no row of {raw.path} is of the metric '{wanted}'{closest(wanted, found)}", f"metrics found: {', '.join(found)}")
    return chosen


def _notes(path: str, there: Mapping[str, Mapping[str, None]], chosen: Mapping[str, str]) -> list[str]:
    taken = list(dict.fromkeys(chosen.values()))
    others = list(dict.fromkeys(metric for target, metrics in there.items() for metric in metrics if metric != chosen.get(target)))
    notes = []
    if others:
        notes.append(f"{path}: the metric is {', '.join(taken)}; rows of {', '.join(others)} are not used (another one: metric='NAME', --metric NAME)")
    if gone := [target for target in there if target not in chosen]:
        verb = "has" if len(gone) == 1 else "have"
        notes.append(f"{path}: {counted(len(gone), 'target')} {verb} no row of the metric {', '.join(taken)} and {'is' if len(gone) == 1 else 'are'} left out "
                     f"({shortened(gone)})")
    return notes


def _lacking(raw: RawTable, kept: RawTable, names: Sequence[str], chosen: Mapping[str, str]) -> list[str]:
    """A note on the runs that other metrics measure and the chosen one does not."""
    every, there = (dict.fromkeys(zip(*([cell.strip() for cell in one.column(name)] for name in names), strict=True)) for one in (raw, kept))
    lacking = [run for run in every if run not in there and run[1].strip() in chosen]
    if not lacking:
        return []
    each = shortened(f"{run[0]} -> {' '.join(run[1:])}" for run in lacking)
    return [f"{raw.path}: {counted(len(lacking), 'run')} {'has' if len(lacking) == 1 else 'have'} rows of other metrics only, left out ({each})"]


def _baseline(kept: RawTable, target_column: str) -> list[str]:
    """A note on what gains are relative to, which must be one thing within a target."""
    if "baseline" not in kept.columns or not any(canonical(cell) == GAIN for cell in kept.column("metric")):
        return []
    first: dict[str, str] = {}
    bad = []
    for row, (target, cell) in enumerate(zip(kept.column(target_column), kept.column("baseline"), strict=True)):
        if first.setdefault(target.strip(), cell.strip()) != cell.strip():
            message = f"the gain is over '{cell.strip()}', and over '{first[target.strip()]}' in a row above"
            bad.append(BadCell(row, "baseline", "another baseline than a row above says", message, "keep the gains over one baseline"))
    problems = Problems()
    kept.report(problems, bad)
    problems.raise_if_any(DataError)
    over = sorted({name or "a baseline that is not named" for name in first.values()})
    return [f"{kept.path}: {GAIN} is in percent, over {' and '.join(over)}"]


def run_columns(layout: Layout) -> dict[tuple[str, str, str], dict[str, Any]]:
    """(source, target, replicate) -> what :class:`~simkit.tables.TransferTable` holds of the run beside its value, where the table has it."""
    raw = layout.raw
    names = [layout.columns.get(role) for role in ("source", "target", "replicate")]
    keys = zip(*([cell.strip() for cell in raw.column(name)] if name is not None else [""] * len(raw) for name in names), strict=True)
    own = {name: [cell.strip() for cell in raw.column(name)] for name in ("metric", *WORDS) if name in raw.columns}
    both = "seed" in layout.columns
    folds = [cell.strip() for cell in raw.column("fold")] if both else [""] * len(raw)
    seeds = _seeds(raw) if both else [None] * len(raw)
    numbers: list[tuple[str, list[float], Callable[[float], float]]] = [
        (name, raw.numbers(name, low=0, empty=True), kind) for some, kind in ((COUNTS, int), (AMOUNTS, float)) for name in some if name in raw.columns]
    flags = [cell.strip() for cell in raw.column("flags")] if "flags" in raw.columns else [""] * len(raw)
    out: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row, key in enumerate(keys):
        fold = folds[row] if both else key[2]
        said: dict[str, Any] = {"fold": fold or "1", "seed": seeds[row]} | {name: cells[row] for name, cells in own.items()}
        said |= {name: kind(values[row]) for name, values, kind in numbers if values[row] == values[row]}
        out[key] = said | {"flags": tuple(part for part in flags[row].split("; ") if part)}
    return out
