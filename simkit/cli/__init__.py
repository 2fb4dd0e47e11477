"""The command line. Help is answered from the table below; a command's module is imported when it is called, heavy libraries later still.

Results go to stdout, everything else to stderr. Exit status: 0 ok; 1 a bug; 2 usage or configuration; 3 bad input data; 4 finished, but
items were skipped (or, with status 1 and the same list, trainings failed); 5 resource; 6 integrity; 7 not enough data to answer; 130, 143 signals.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import tempfile
from typing import Any, TextIO

import click

from simkit.errors import SHOWN, SimkitError, UsageError, nearest

__all__ = ["cli", "entry"]

COMMANDS: dict[str, tuple[str, str]] = {
    "check": ("simkit.cli.checking:check", "Look at data sets before any GPU hour: balance, copies, unreadable files, thumbnails."),
    "run": ("simkit.cli.work:run", "Run a whole study: embed, distance, finetune, correlate, report."),
    "embed": ("simkit.cli.work:embed", "Embed data sets: images to rows of features, kept in the store."),
    "distance": ("simkit.cli.work:distance", "Score every source-target pair by one or more methods."),
    "finetune": ("simkit.cli.work:finetune", "Pretrain on each source, fine-tune on each target, score by AUC."),
    "correlate": ("simkit.cli.statistics:correlate", "Does similarity predict transfer? Correlate scores with performance."),
    "recommend": ("simkit.cli.recommendation:recommend", "Which source for a target without transfers? Rank them by scores and past transfers."),
    "report": ("simkit.cli.reporting:report", "Make the page and figures of a study, or of tables, from what is there."),
    "map": ("simkit.cli.maps:map_", "Where images and data sets lie: UMAP, PCA, t-SNE, MDS; with its own distortion."),
    "leakage": ("simkit.cli.leakage:leakage", "Find images of the target in the source, or on both sides of a split."),
    "explain": ("simkit.cli.explanation:explain", "Why is a source near to a target, or far? Or: explain an error code such as SK203."),
    "list": ("simkit.cli.inspection:list_", "List sources, extractors and methods, or show one with its options."),
    "init": ("simkit.cli.inspection:init", "Write a commented study file to start from."),
    "schema": ("simkit.cli.inspection:schema", "Print the JSON Schema of the study file, for editors."),
    "store": ("simkit.cli.store:store", "Look at, check and clean the store of finished work."),
    "doctor": ("simkit.cli.inspection:doctor", "Check packages, device and store."),
}

REPLACED = {"cache": "simkit store list, show, verify or prune"}
"""Commands of older versions, and what does their work now."""


class LazyGroup(click.Group):
    """Commands by name; a module is imported when its command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in REPLACED:
            raise UsageError("SK101", "command line", f"'{args[0]}' is not a command any more", f"use {REPLACED[args[0]]}")
        if args and args[0] not in COMMANDS:
            fix = f"commands: {', '.join(COMMANDS)}"
            raise UsageError("SK101", "command line", f"unknown command '{args[0]}'{nearest(args[0], COMMANDS)}", fix)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        import simkit

        click.echo(f"simkit {simkit.__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version.")
def cli() -> None:
    """Which source data set should I transfer from, how sure is that, and why?

    Start with `simkit run examples/quickstart.toml`, or `simkit init` for a study of your own.
    """


class Terminated(BaseException):
    """SIGTERM arrived. Like KeyboardInterrupt no Exception, so that nothing takes it for a failure of its own."""


def _terminate(number: int, frame: Any) -> None:
    raise Terminated


def entry(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        result = cli.main(arguments, prog_name="simkit", standalone_mode=False)
        if sys.stdout is not None:  # it is None where the caller closed it
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except click.UsageError as error:
        return _usage(error)
    except SimkitError as error:
        click.echo(str(error) + _rest(error), err=True)
        return error.exit_status
    except (KeyboardInterrupt, click.Abort):
        return _stopped("interrupted", 130)
    except Terminated:
        return _stopped("terminated", 143)
    except BrokenPipeError:
        _silence(sys.stdout)
        return 141
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # click's own answer to it
            return 141
        raise
    except MemoryError:
        click.echo("error[SK301] out of memory\nfix: use smaller data sets, a smaller batch or `maximum`; finished work is kept", err=True)
        return 5
    except OSError as error:
        return _unwritable(error) or _bug()
    except Exception:  # the last line of defence: a bug must leave a short message and a file
        return _bug()


def _usage(error: click.UsageError) -> int:
    where = error.ctx.command_path if error.ctx else "simkit"
    click.echo(f"error[SK101] {where}: {error.format_message()}\nfix: see `{where} --help`\nmore: simkit explain SK101", err=True)
    return 2


def _silence(stream: TextIO) -> None:
    """What is still in the stream goes nowhere, so that the interpreter's last flush stays quiet."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _unwritable(error: OSError) -> int:
    """Status 5 where the output could not be printed (its disk is full, or its device is gone); 0 for any other error."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    printing = frame is not None and frame.tb_frame.f_globals.get("__name__") in ("click.utils", __name__)
    if not printing or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        return 0
    cause = f"{errno.errorcode[error.errno]}: {os.strerror(error.errno)}"
    fix = "free some space, or send the output to another place; finished work is kept"
    try:
        click.echo(f"error[SK301] output: it cannot be printed ({cause})\nfix: {fix}\nmore: simkit explain SK301", err=True)
    except OSError:
        _silence(sys.stderr)
    if sys.stdout is not None:
        _silence(sys.stdout)
    return 5


def _rest(error: SimkitError) -> str:
    """Where the problems beyond the first twenty were written."""
    if len(error.problems) <= SHOWN:
        return ""
    handle, path = tempfile.mkstemp(prefix="simkit-problems-", suffix=".txt", text=True)
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write("\n".join(str(problem) for problem in error.problems) + "\n")
    return f"\nall {len(error.problems)} problems: {path}"


def _stopped(how: str, status: int) -> int:
    click.echo(f"\n{how}: what is finished is kept in the store; the same command goes on from there", err=True)
    return status


def _bug() -> int:
    import traceback

    handle, path = tempfile.mkstemp(prefix="simkit-bug-", suffix=".txt", text=True)
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"command: {sys.argv}\n{traceback.format_exc()}")
    last = traceback.format_exc().strip().splitlines()[-1]
    click.echo(f"error[SK999] this is a bug in simkit: {last}\nfix: please report it with {path}; finished work is kept\nmore: simkit explain SK999", err=True)
    return 1
