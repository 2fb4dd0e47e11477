"""The score and transfer tables: rows whose columns and keys were checked when they were made."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from simkit.errors import DataError, Problems, nearest
from simkit.files import write_text
from simkit.tables.raw import RawTable, counted

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ScoreTable", "TransferTable", "csv_text", "replicate_of", "unguarded"]


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV with full-precision numbers; None is empty; text that a spreadsheet would run as a formula is prefixed with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    return out.getvalue()


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        value = "; ".join(str(item) for item in value)
    text = str(value)
    return f"'{text}" if text.startswith(FORMULAS) else text


FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""What a cell may not begin with, or a spreadsheet runs it."""


def unguarded(cell: str) -> str:
    """A text of :func:`csv_text` without the apostrophe that guards it."""
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(FORMULAS) else cell


@dataclass(frozen=True, eq=False)
class _Table:
    """Rows whose columns and keys were checked when they were made."""

    records: tuple[Mapping[str, Any], ...]
    COLUMNS: ClassVar[tuple[str, ...]] = ()
    KEY: ClassVar[tuple[str, ...]] = ()
    REQUIRED: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        problems = Problems()
        seen: dict[tuple[Any, ...], int] = {}
        for number, record in enumerate(self.records):
            for column in self.REQUIRED:
                if record.get(column) is None:
                    problems.add("SK202", f"row {number}", f"'{column}' is missing", f"every row needs {', '.join(self.REQUIRED)}")
            for column in record:
                if column not in self.COLUMNS:
                    problems.add("SK202", f"row {number}", f"unknown column '{column}'{nearest(column, self.COLUMNS)}", f"columns: {', '.join(self.COLUMNS)}")
            key = tuple(record.get(column) for column in self.KEY)
            if key in seen:
                message = f"the same {', '.join(self.KEY)} twice: {', '.join(str(k) for k in key)}"
                problems.add("SK204", f"rows {seen[key]} and {number}", message, "remove one of the rows")
            seen[key] = number
        problems.raise_if_any(DataError)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def raw(self) -> RawTable:
        """The table as text with row numbers, as if it had been read from a file."""
        return RawTable.of_records(self.records, self.COLUMNS, name=type(self).__name__)

    @property
    def frame(self) -> pd.DataFrame:
        """The table as a pandas DataFrame, one row a record, columns in the documented order."""
        import pandas as pd

        return pd.DataFrame([{column: record.get(column) for column in self.COLUMNS} for record in self.records], columns=list(self.COLUMNS))

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """CSV text (full precision); written to ``path`` atomically when one is given."""
        text = csv_text(self.COLUMNS, ([record.get(column) for column in self.COLUMNS] for record in self.records))
        if path is not None:
            write_text(path, text)
        return text

    def _repr_html_(self) -> str:
        return str(self.frame.to_html(index=False))


@dataclass(frozen=True, eq=False)
class ScoreTable(_Table):
    """Scores of source-target pairs: one row per (source, target, method).

    Columns: source, target, method; value; higher_is_better; kind (distance, transferability, prior); lower, upper (95 % interval or
    empty); floor (split-half value of the target or empty); ceiling (value of an unrelated data set or empty); p (of a permutation test or empty);
    matched (images a side at which the value was computed, or empty: all); n_source, n_target (images); skipped_source, skipped_target (images that
    were left out because they cannot be read); converged; flags; extractor (recipe digest).
    """

    COLUMNS = ("source", "target", "method", "value", "higher_is_better", "kind", "lower", "upper", "floor", "ceiling", "p", "matched", "n_source", "n_target",
               "skipped_source", "skipped_target", "converged", "flags", "extractor")
    KEY = ("source", "target", "method")
    REQUIRED = ("source", "target", "method", "value", "higher_is_better")


@dataclass(frozen=True, eq=False)
class TransferTable(_Table):
    """Performance of transfers: one row per (source, target, fold, seed, metric); the rows of a run's main metric stand before those of its others.

    Columns: source, target; fold ("1" to "k", "given", or any label); seed (whole number or empty); metric, value; baseline (what the metric
    "relative-gain" is relative to, "self" or "scratch"; empty for others); lr, weight_decay, epochs (of the run); choices (of learning rate and
    weight decay that were tried for it; 1: fixed); n_train, n_test (images); seconds (all choices together); leaky (test images that the source's
    pretraining has seen; empty: not known); flags; recipe (digest of the run). A value of None is undefined, with the reason in flags.
    """

    COLUMNS = ("source", "target", "fold", "seed", "metric", "value", "baseline", "lr", "weight_decay", "epochs", "choices", "n_train", "n_test", "seconds",
               "leaky", "flags", "recipe")
    KEY = ("source", "target", "fold", "seed", "metric")
    REQUIRED = ("source", "target", "fold", "metric")

    @property
    def untimed(self) -> TransferTable:
        """The table without the seconds, which differ between equal runs."""
        return TransferTable(tuple({**record, "seconds": None} for record in self.records))

    @property
    def main_metrics(self) -> dict[str, str]:
        """Target -> its main metric: that of its first row."""
        out: dict[str, str] = {}
        for record in self.records:
            out.setdefault(str(record["target"]), str(record["metric"]))
        return out

    def of_metric(self, metric: str | None = None) -> tuple[Mapping[str, Any], ...]:
        """The rows of one metric, each with "replicate" (see :func:`replicate_of`) and "performance" (its value) beside its columns.

        Args:
            metric: None takes the main metric of each target.

        Raises:
            DataError: runs that have no row of the metric: no other metric of theirs can stand in for it.
        """
        wanted = self.main_metrics if metric is None else dict.fromkeys(self.main_metrics, metric)
        rows = [record for record in self.records if str(record["metric"]) == wanted[str(record["target"])]]
        there = {_run(record) for record in rows}
        lacking: dict[str, dict[tuple[Any, ...], set[str]]] = {}
        for record in self.records:
            if _run(record) not in there:
                lacking.setdefault(str(record["target"]), {}).setdefault(_run(record), set()).add(str(record["metric"]))
        problems = Problems()
        for target, runs in sorted(lacking.items()):
            others = sorted({wanted[target]}.union(*runs.values()))
            lack = f"{counted(len(runs), 'run')} {'has' if len(runs) == 1 else 'have'} no {wanted[target]} (the first is of {next(iter(runs))[0]})"
            message = f"transfers to it are measured by {' and '.join(others)}; {lack}"
            problems.add("SK203", target, message, "rank the sources by one metric, which every run has")
        problems.raise_if_any(DataError)
        return tuple({**record, "replicate": replicate_of(record["fold"], record.get("seed")), "performance": record.get("value")} for record in rows)


def _run(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record.get(column) for column in ("source", "target", "fold", "seed"))


def replicate_of(fold: Any, seed: Any) -> str:
    """What tells repeated runs of a pair apart: "seed0-fold1", or the fold alone where there is no seed."""
    return str(fold) if seed in (None, "") else f"seed{seed}" + (f"-fold{fold}" if fold not in (None, "") else "")
