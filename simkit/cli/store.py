"""store list, show, verify, prune: look at, check and clean the store of finished work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from simkit.cli.output import Output, output_options
from simkit.errors import UsageError, nearest

if TYPE_CHECKING:
    from pathlib import Path

    from simkit.store import Store

F = TypeVar("F", bound=Callable[..., Any])
SHOWN = 50
"""Artefacts of a kind that `show` prints; --json and -q give all."""


def _place(command: F) -> F:
    text = "Root of the store (default: SIMKIT_STORE or the user's cache folder)."
    return click.option("--store", type=click.Path(), default=None, help=text)(command)


@click.group()
def store() -> None:
    """Look at, check and clean the store of finished work.

    \b
    simkit store list                       # what is there, how large, when last used
    simkit store show 3f9a                  # one extractor or artefact by the start of its key
    simkit store verify --repair            # read everything; set damaged files aside
    simkit store prune --kind all --older-than 90 --dry-run
    """


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _day(seconds: float | None) -> str:
    return "-" if seconds is None else time.strftime("%Y-%m-%d", time.localtime(seconds))


@store.command("list")
@_place
@output_options
def list_(store: str | None, json_target: str | None, quiet: bool, no_color: bool) -> int:
    """What is in the store: extractors with their recipe in one line, rows, bytes, last use; and the other kinds.

    The last use of an extractor is when its rows were last written or gathered; of other kinds, when they were written. Example: `simkit store list --json`.
    """
    from simkit.store import Store

    place = Store(store)
    rows = place.contents()
    lines = [_line(row) for row in rows]
    total = sum(row["bytes"] for row in rows)
    text = "\n".join([f"store {place.root} ({_size(total)})", "", *(lines or ["empty"])])
    Output(json_target, quiet).result(text, rows, [row["key"] or row["kind"] for row in rows])
    return 0


def _line(row: dict[str, Any]) -> str:
    head = f"{row['kind']:<12} {row['key'][:12]:<12}"
    tail = f"{_size(row['bytes']):>10}  {_day(row['last_use'])}"
    if row["kind"] != "embeddings":
        return f"{head} {row['files']:>9,} files{tail}"
    bad = f"; {row['unreadable']} damaged: simkit store verify" if row["unreadable"] else ""
    return f"{head} {row['rows']:>9,} rows {tail}  {row['what']}{bad}"


@store.command()
@click.argument("key")
@_place
@output_options
def show(key: str, store: str | None, json_target: str | None, quiet: bool, no_color: bool) -> int:
    """One extractor (recipe, shards, rows, size) or one artefact, by the start of its KEY; or the artefacts of a kind.

    Example: `simkit store show embeddings`, then `simkit store show 3f9a`.
    """
    from simkit.store import Store

    place, output = Store(store), Output(json_target, quiet)
    rows = place.contents()
    kinds = sorted({row["kind"] for row in rows})
    if key in kinds:
        _show_kind(output, place, key, rows)
        return 0
    shelves = [row for row in rows if row["kind"] == "embeddings" and row["key"].startswith(key)]
    files = [path for kind in kinds if kind not in ("embeddings", "quarantine") for path in _artefacts(place, kind) if path.name.startswith(key)]
    names = [*(row["key"] for row in shelves), *(path.name for path in files)]
    if not names:
        fix = f"`simkit store list` shows extractors; kinds: {', '.join(kinds) or 'none'}"
        raise UsageError("SK101", "simkit store show", f"the store holds no kind or key '{key}'{nearest(key, kinds)}", fix)
    if len(names) > 1:
        raise UsageError("SK101", "simkit store show", f"'{key}' is the start of {len(names)} keys: {', '.join(names[:5])}", "give more of the key")
    if shelves:
        _show_extractor(output, place, shelves[0])
    else:
        _show_artefact(output, files[0])
    return 0


def _artefacts(place: Store, kind: str) -> list[Path]:
    from simkit.files import TEMPORARY
    from simkit.store.care import files_below

    return [path for path in files_below(place.root / kind) if not path.name.startswith(TEMPORARY)]


def _show_kind(output: Output, place: Store, kind: str, rows: list[dict[str, Any]]) -> None:
    if kind == "embeddings":
        chosen = [row for row in rows if row["kind"] == kind]
        output.result("\n".join(_line(row) for row in chosen), chosen, [row["key"] for row in chosen])
        return
    paths = _artefacts(place, kind)
    values: list[dict[str, Any]] = [{"kind": kind, "file": path.relative_to(place.root).as_posix(), "bytes": path.lstat().st_size} for path in paths]
    lines = [f"{value['file']}  {_size(value['bytes'])}" for value in values[:SHOWN]]
    more = [f"... and {len(values) - SHOWN} more (-q lists all)"] if len(values) > SHOWN else []
    output.result("\n".join([*lines, *more]), values, [path.name for path in paths])


def _show_extractor(output: Output, place: Store, row: dict[str, Any]) -> None:
    from simkit.files import json_text
    from simkit.store.shards import read_json

    path = place.root / "embeddings" / row["key"] / "recipe.json"
    recipe = read_json(path) if path.is_file() else None
    facts = {"key": row["key"], "shards": row["shards"], "rows": row["rows"], "dimension": row["dimension"], "damaged shards": row["unreadable"],
             "size": _size(row["bytes"]), "last use": _day(row["last_use"])}
    text = "\n".join([*(f"{name:<15} {value}" for name, value in facts.items()), "", "recipe", "no recipe.json" if recipe is None else json_text(recipe)])
    output.result(text, row | {"recipe": recipe}, [row["key"]])


def _show_artefact(output: Output, path: Path) -> None:
    from simkit.files import json_text
    from simkit.store.shards import read_header, read_json

    if path.suffix == ".json":
        value: Any = read_json(path)
    else:
        header = read_header(path)
        value = {"file": str(path), "bytes": path.stat().st_size, "metadata": header.metadata, "tensors": {k: v["shape"] for k, v in header.tensors.items()}}
    output.result(json_text(value), value, [path.name])


def _ask(question: str) -> None:
    """Goes on after a yes. A terminal that gives no answer is an error, an interruption is one."""
    try:
        click.confirm(question, abort=True, err=True)
    except click.Abort as stop:
        if isinstance(stop.__context__, EOFError):
            raise UsageError("SK104", "simkit store prune", "no answer was given, nothing was deleted", "answer y, or add --yes") from None
        raise


def _is_store(root: Path) -> None:
    """Refuses to clean or repair a folder that is something else: its files are the user's."""
    if root.exists() and not root.is_dir():
        raise UsageError("SK102", str(root), "is a file, the root of a store is a folder", "give the folder by --store")
    if root.is_dir() and any(root.iterdir()) and not (root / "store.json").exists():
        fix = "give the folder that simkit wrote to by --store (or SIMKIT_STORE); nothing was touched"
        raise UsageError("SK102", str(root), "is no store of simkit: it holds files, and no store.json", fix)


@store.command()
@_place
@click.option("--repair", is_flag=True, help="Move damaged files to quarantine/ (nothing is deleted), so that their content is made again.")
@output_options
def verify(store: str | None, repair: bool, json_target: str | None, quiet: bool, no_color: bool) -> int:
    """Read every file of the store and check its digest; exit status 6 when one is damaged (0 after --repair).

    Files of a newer simkit are listed and never moved. Example: `simkit store verify --repair`.
    """
    from simkit.store import Store

    place = Store(store, check=False)
    _is_store(place.root)
    findings = place.verify()
    moved = {f.path: place.quarantine(f.path) for f in findings if repair and not f.newer}
    lines = [f"{f.path}: {f.problem}" + (f" -> {moved[f.path]}" if f.path in moved else "") for f in findings]
    value = [{"path": str(f.path), "problem": f.problem, "newer": f.newer, "moved_to": str(moved[f.path]) if f.path in moved else None} for f in findings]
    fix = [] if len(moved) == len(findings) else ["", "fix: simkit store verify --repair sets damaged files aside; a newer simkit reads what is newer"]
    Output(json_target, quiet).result("\n".join([*lines, *fix]) or f"store {place.root}: every file is whole", value, [str(f.path) for f in findings])
    return 6 if len(moved) < len(findings) else 0


@store.command()
@_place
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="What to delete, as `simkit store list` names it, or temporaries, or all. "
              "Default: what no later command misses (claims, gathered, pixels, quarantine, temporaries).")
@click.option("--extractor", default="", metavar="PREFIX", help="Only embeddings of the extractor whose key starts so.")
@click.option("--older-than", type=click.FloatRange(0), default=0.0, metavar="DAYS", help="Only what was not used for so many days.")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_options
def prune(
    store: str | None, kinds: tuple[str, ...], extractor: str, older_than: float, dry_run: bool, yes: bool, json_target: str | None, quiet: bool,
    no_color: bool,
) -> int:
    """Delete finished work; it is made again when it is needed. Says what goes and how many bytes, and asks first.

    Example: `simkit store prune --extractor 3f9a --dry-run`. Links are never followed: nothing outside the store is touched.
    """
    from simkit.store import Store
    from simkit.store.care import prunable, remove

    place, output = Store(store), Output(json_target, quiet)
    _is_store(place.root)
    chosen, shelf = _chosen(place, kinds, extractor)
    found = prunable(place.root, chosen, extractor=shelf, older_than=older_than)
    parts = {kind: [one for one in found if one.kind == kind] for kind in sorted({one.kind for one in found})}
    size = sum(one.size for one in found)
    lines = [f"{kind:<12} {len(part):>9,} files {_size(sum(one.size for one in part)):>10}" for kind, part in parts.items()]
    if found and not dry_run and not yes:
        click.echo("\n".join(lines), err=True)
        _ask(f"Delete {len(found):,} files ({_size(size)}) of {place.root}?")
    freed = 0 if dry_run else remove(place.root, found)
    said = f"would free {_size(size)}" if dry_run else f"freed {_size(freed)}"
    value = {"dry_run": dry_run, "files": len(found), "bytes": size, "freed": freed, "kinds": {kind: len(part) for kind, part in parts.items()}}
    output.result("\n".join([*lines, said if found else "nothing to delete"]), value, [str(one.path) for one in found])
    return 0


def _chosen(place: Store, kinds: tuple[str, ...], extractor: str) -> tuple[list[str], str]:
    """The kinds to prune, and the whole key of the extractor ("" for all)."""
    from simkit.store.care import EXPENDABLE

    rows = place.contents()
    known = sorted({row["kind"] for row in rows} | {"temporaries"})
    for kind in kinds:
        if kind != "all" and kind not in (*known, *EXPENDABLE):
            raise UsageError("SK101", "--kind", f"the store holds no '{kind}'{nearest(kind, known)}", f"kinds: all, {', '.join(known)}")
    if not extractor:
        return (known if "all" in kinds else list(kinds or EXPENDABLE)), ""
    if set(kinds) - {"embeddings"}:
        raise UsageError("SK102", "--kind, --extractor", "an extractor has embeddings only", "give one of the two options")
    keys = [row["key"] for row in rows if row["key"] and row["key"].startswith(extractor)]
    if len(keys) != 1:
        message = f"{len(keys)} extractors have a key that starts with '{extractor}'"
        raise UsageError("SK101", "--extractor", message, "`simkit store list` shows the keys")
    return ["embeddings"], keys[0]
