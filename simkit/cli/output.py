"""What commands share: --json, -q, progress on a terminal, --set."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from simkit.errors import UsageError
from simkit.files import check_writable, json_text, write_text
from simkit.pipeline.progress import Progress
from simkit.registry import Text

__all__ = [
    "Output", "check_outputs", "data_options", "device_options", "figure_options", "output_options", "performance_of", "settings",
    "split", "table_options",
]

F = TypeVar("F", bound=Callable[..., Any])


class Output(Progress):
    """Where a command writes: the result to stdout (or a JSON file), progress and remarks to stderr."""

    def __init__(self, json_target: str | None, quiet: bool):
        if json_target not in (None, "-") and not str(json_target).endswith(".json"):
            fix = f"write --json before another option, or --json - {json_target}"
            raise UsageError("SK102", "--json", f"'{json_target}' does not end in .json: is it an argument of the command?", fix)
        if json_target not in (None, "-"):
            check_writable(str(json_target))
        self.json_target, self.quiet = json_target, quiet
        logger = logging.getLogger("simkit")  # what the library says about long work
        logger.handlers = [*(one for one in logger.handlers if not isinstance(one, _Said)), _Said(self)]
        logger.setLevel(logging.INFO)

    def say(self, text: str) -> None:
        if self.quiet:
            return
        try:
            click.echo(text, err=True)
        except BrokenPipeError:  # nobody reads the progress any more; the work goes on
            self.quiet = True

    @contextmanager
    def counting(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        if self.quiet or total == 0:
            yield lambda _: None
            return
        if not sys.stderr.isatty():
            yield _Lines(self, label, total, unit)
            return
        from tqdm import tqdm

        with tqdm(total=total, desc=label, unit=unit.rstrip("s"), leave=False, mininterval=0.5, dynamic_ncols=True) as bar:
            yield lambda n: (bar.update(n), None)[1]

    def result(self, text: str, value: Any, ids: Sequence[str] = ()) -> None:
        """Prints the result: JSON when asked for (to stdout for "-"), one id a line with -q, else text."""
        if self.json_target not in (None, "-"):
            write_text(str(self.json_target), json_text(value) + "\n")
            self.say(f"wrote {self.json_target}")
        if self.json_target == "-":
            click.echo(json_text(value))
        elif self.quiet:
            for one in ids:
                click.echo(one)
        else:
            click.echo(text)

    def finish(self, incomplete: Sequence[str], *, failed: Sequence[str] = ()) -> int:
        """The exit status, with the list: 1 when trainings failed (a loss that is NaN, a fold without a metric), 4 when other items were skipped, else 0."""
        lines = list(dict.fromkeys([*failed, *incomplete]))
        if not lines:
            return 0
        click.echo(f"error[SK601] finished, but {len(lines)} item{'s were' if len(lines) > 1 else ' was'} skipped or failed:", err=True)
        for line in lines[:20]:
            click.echo(f"  {line}", err=True)
        if len(lines) > 20:
            click.echo(f"  ... and {len(lines) - 20} more (--json lists all)", err=True)
        click.echo("more: simkit explain SK601", err=True)
        return 1 if failed else 4


class _Lines:
    """Progress where nobody watches: one line every half minute, with the rate and the time that is left."""

    EVERY = 30.0

    def __init__(self, output: Output, label: str, total: int, unit: str):
        self.output, self.label, self.total, self.unit = output, label, total, unit
        self.done, self.started = 0, time.monotonic()
        self.said = self.started

    def __call__(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.said < self.EVERY or self.done >= self.total:
            return
        self.said = now
        rate = self.done / (now - self.started)
        left = (self.total - self.done) / max(rate, 1e-9)
        span = f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min" if left < 5400 else f"{left / 3600:.1f} h"
        self.output.say(f"{self.label}: {self.done:,} of {self.total:,} {self.unit}, {rate:,.0f} {self.unit}/s, {span} left")


class _Said(logging.Handler):
    """Shows what the library logs as progress of the command."""

    def __init__(self, output: Output):
        super().__init__()
        self.output = output

    def emit(self, record: logging.LogRecord) -> None:
        self.output.say(record.getMessage())


def split(texts: Sequence[str]) -> list[str]:
    """Names given one by one or joined by commas."""
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def check_outputs(outputs: Sequence[str | os.PathLike[str] | None], inputs: Sequence[str | os.PathLike[str] | None]) -> None:
    """Refuses, before any work, a file that could not be written, is one of the inputs, or would hold CSV under another name.

    Raises:
        UsageError: an output that is an input, or that another kind of file is expected to be behind (SK107, SK102).
        ResourceError: an output that cannot be written.
    """
    read = {os.path.realpath(path) for path in inputs if path is not None}
    for path in outputs:
        if path is None or path == "-":
            continue
        if os.path.realpath(path) in read:
            raise UsageError("SK107", str(path), "is read by this command and would be overwritten", "write to another file")
        if os.path.splitext(path)[1].lower() in (".xlsx", ".xls", ".ods", ".parquet"):
            raise UsageError("SK102", str(path), "CSV is written, and the name says otherwise", "let the name end in .csv")
        check_writable(path)


def width() -> int:
    """Columns of the terminal, or 100."""
    import shutil

    return shutil.get_terminal_size((100, 40)).columns


def table_options(command: F) -> F:
    """How tables of scores and performances are read: columns, directions, names, what may be missing."""
    options = (
        click.option("--performance", default=None, metavar="COLUMN|PATTERN|FILE",
                     help="Column of the performance; a pattern such as 'fold_*' takes its columns as replicates; or a second file with the transfers."),
        click.option("--replicates", default=None, metavar="PATTERN", help="The same for a pattern: columns that are replicates of the performance."),
        click.option("--method", "--methods", "methods", multiple=True, metavar="NAME[=COLUMN|PATTERN][,...]",
                     help="Columns of the methods' values; a pattern takes its columns as replicates of the score. Default: every column of numbers left."),
        click.option("--distance", "distances", multiple=True, metavar="NAME[,...]", help="State that a method is a distance: lower means more similar."),
        click.option("--similarity", "similarities", multiple=True, metavar="NAME[,...]",
                     help="State that a method is a similarity: higher means more similar."),
        click.option("--metric", default=None,
                     help="What the performance is, such as auc (then it must lie in 0..1); of a transfer table with several metrics "
                     "(of `simkit finetune`), whose rows are taken (default: those of the AUC)."),
        click.option("--alias", multiple=True, metavar="A=B", help="Two names of the same data set: their pairs count as self pairs."),
        click.option("--allow-missing", is_flag=True, help="Leave out empty cells and pairs without a partner, counted (default: an error that lists them)."),
        click.option("--aggregate", type=click.Choice(["mean"]), default=None, help="Average rows with the same key (default: an error that names them)."),
        click.option("--decimal", type=click.Choice([".", ","]), default=".", show_default=True,
                     help="Decimal mark of the tables; a comma is refused unless stated."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def performance_of(performance: str | None, replicates: str | None) -> str | None:
    """What --performance or --replicates says; UsageError for both."""
    if performance is not None and replicates is not None:
        raise UsageError("SK102", "--replicates, --performance", "both say where the performance is", "give one of them")
    return replicates if performance is None else performance


def output_options(command: F) -> F:
    """--json [FILE], -q, --no-color."""
    command = click.option("-q", "--quiet", is_flag=True, help="Print only ids, one a line, and no progress.")(command)
    command = click.option("--no-color", is_flag=True, help="No colour (simkit prints none; accepted for scripts).")(command)
    return click.option("--json", "json_target", is_flag=False, flag_value="-", default=None, metavar="[FILE.json]",
                        help="Print the result as JSON on stdout ('-', the default), or write it to FILE.json.")(command)


def device_options(command: F) -> F:
    """--batch-size, --workers, --backend, --store, --strict."""
    command = click.option("--strict", is_flag=True, help="Stop before the work when an image cannot be read (default: skip, name, count, exit 4).")(command)
    command = click.option("--store", type=click.Path(), default=None, help="Root of the store (default: SIMKIT_STORE or the user's cache folder).")(command)
    command = click.option("--backend", type=click.Choice(["auto", "torch", "compile", "openvino", "onnxruntime"]), default="auto", show_default=True,
                           help="What computes a network on the CPU; auto (from 1,000 images on): the fastest installed that agrees with torch.")(command)
    command = click.option("--workers", type=click.IntRange(1), default=None, help="Processes that decode images (default: one a CPU core).")(command)
    return click.option("--batch-size", type=BatchSize(), default=None, metavar="N|auto",
                        help="Images per batch; auto (the default) tries sizes while they get faster. Halved, and said, where memory is full.")(command)


class BatchSize(click.ParamType[int | None]):
    """A number of images, or auto (None)."""

    name = "batch size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == "auto":
            return None
        if not (isinstance(value, int) or str(value).isdigit()) or int(value) < 1:
            self.fail(f"'{value}' is neither auto nor a number of images of at least 1", param, ctx)
        return int(value)


def figure_options(command: F) -> F:
    """--figure-size, --dpi, --no-thumbnails."""
    command = click.option("--thumbnails/--no-thumbnails", "thumbnails", default=None,
                           help="Whether the page shows images; without, none leaves the data (default: yes; `simkit report`: as the run before).")(command)
    command = click.option("--dpi", type=click.IntRange(50, 1200), default=300, show_default=True, help="Of the PNG figures.")(command)
    return click.option("--figure-size", type=click.Choice(["page", "single", "double"]), default="page", show_default=True,
                        help="Of the figures in files: as on the page, or the width of one (89 mm) or two (183 mm) columns of a journal.")(command)


def data_options(command: F) -> F:
    """--study, --data-set."""
    command = click.option("--data-set", "data_settings", multiple=True, metavar="K=V",
                           help="Option of the data reader, such as intensity=full-range (`simkit list folder`).")(command)
    return click.option("--study", type=click.Path(), default=None, help="Study file whose data set names may be used.")(command)


def settings(pairs: Sequence[str], where: str) -> dict[str, Any]:
    """``("size=8", "colour=false")`` as a dict of texts that the option's type will parse."""
    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError("SK102", where, f"'{pair}' is not of the form option=value", f"write {where} option=value")
        if key.strip() in out:
            raise UsageError("SK105", where, f"option '{key.strip()}' is given twice", "give it once")
        out[key.strip()] = Text(value)
    return out
