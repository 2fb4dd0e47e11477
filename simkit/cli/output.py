"""What commands share: --json, -q, progress on a terminal, --set."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from simkit.errors import UsageError
from simkit.files import check_writable, json_text, write_text
from simkit.pipeline.progress import Progress
from simkit.registry import Text

__all__ = ["Output", "check_outputs", "data_options", "device_options", "output_options", "performance_of", "settings", "split", "table_options"]

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
        if not self.quiet:
            click.echo(text, err=True)

    @contextmanager
    def counting(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        if self.quiet or total == 0 or not sys.stderr.isatty():
            yield lambda _: None
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

    def finish(self, incomplete: Sequence[str]) -> int:
        """Exit status 4, with the list, when items were skipped or failed; else 0."""
        if not incomplete:
            return 0
        click.echo(f"error[SK601] finished, but {len(incomplete)} item{'s were' if len(incomplete) > 1 else ' was'} skipped or failed:", err=True)
        for line in incomplete[:20]:
            click.echo(f"  {line}", err=True)
        if len(incomplete) > 20:
            click.echo(f"  ... and {len(incomplete) - 20} more (run.json lists all)", err=True)
        click.echo("more: simkit explain SK601", err=True)
        return 4


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
        click.option("--metric", default=None, help="What the performance is, such as auc (then it must lie in 0..1)."),
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
    """--device, --batch-size, --workers, --store, --strict."""
    command = click.option("--strict", is_flag=True, help="Stop before the work when an image cannot be read (default: skip, name, count, exit 4).")(command)
    command = click.option("--store", type=click.Path(), default=None, help="Root of the store (default: SIMKIT_STORE or the user's cache folder).")(command)
    command = click.option("--workers", type=click.IntRange(1), default=None, help="Decoding threads (default: the CPU cores).")(command)
    return click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Images per batch; does not change the result.")(command)


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
