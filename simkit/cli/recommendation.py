"""recommend."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from simkit.cli.output import Output, check_outputs, output_options, performance_of, split, table_options, width
from simkit.errors import NotEnoughData, UsageError


@click.command()
@click.argument("target")
@click.argument("table", type=click.Path(), required=False)
@click.option("--study", type=click.Path(), default=None, help="Study file: its scores.csv and transfer.csv (from `simkit run`) stand for TABLE and FILE.")
@table_options
@click.option("--always", default=None, metavar="NAME", help="The source to hold against, always taken (default: the one with imagenet in its name).")
@click.option("--bootstraps", type=click.IntRange(100), default=2000, show_default=True, help="Draws of past sources and targets.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the draws.")
@click.option("--out", type=click.Path(), default=None, help="Also write one row a candidate to this CSV file.")
@output_options
def recommend(
    target: str, table: str | None, study: str | None, performance: str | None, replicates: str | None, methods: tuple[str, ...], distances: tuple[str, ...],
    similarities: tuple[str, ...], metric: str | None, alias: tuple[str, ...], allow_missing: bool, aggregate: Literal["mean"] | None,
    decimal: Literal[".", ","], always: str | None, bootstraps: int, seed: int, out: str | None, json_target: str | None, quiet: bool, no_color: bool,
) -> int:
    """Which source should I take for TARGET, which has no transfers yet?

    Ranks the sources that are scored for TARGET, by how well scores (and past sources) predicted transfer on other targets. TABLE is a CSV
    with the scores of TARGET and of past targets, as `simkit correlate` reads it; rows of TARGET need no performance. Past targets that are one
    collection (two sizes of it) must be named so by --alias, or they confirm each other.
    """
    from simkit.correlation import recommend as recommend_source
    from simkit.study import aliases

    output = Output(json_target, quiet)
    performance = performance_of(performance, replicates)
    pairs = aliases(alias, "--alias")
    if study is not None:
        table, found, of_study = _of_study(study, table)
        performance, pairs, allow_missing = performance or found, (*pairs, *of_study), True
    if Path(target).is_file():
        raise UsageError("SK102", "simkit recommend", f"'{target}' is a file: TARGET comes first", f"write simkit recommend TARGET {target}")
    if table is None:
        fix = f"give the table (simkit recommend {target} scores.csv --performance transfer.csv), or a study that was run (--study study.toml)"
        raise UsageError("SK104", "simkit recommend", "no table of scores is given", fix)
    check_outputs([out, json_target], [table, performance])
    result = recommend_source(
        target, table, performance=performance, methods=split(methods), distances=split(distances), similarities=split(similarities), alias=pairs,
        allow_missing=allow_missing, aggregate=aggregate, metric=metric, decimal=decimal, always=always, bootstraps=bootstraps, seed=seed,
    )
    if out:
        from simkit.files import write_text
        from simkit.tables import csv_text

        frame = result.frame
        write_text(out, csv_text(list(frame.columns), frame.astype(object).where(frame.notna(), None).values.tolist()))
    output.result(result.text(width()), result.as_dict(), [one.source for one in result.candidates])
    if len(result.targets) < 2:
        found = f"{len(result.targets)} past target{'' if len(result.targets) == 1 else 's'}"
        fix = f"add scores and transfers of other targets to the tables: at least 2, better 10, each with 3 or more sources besides {target}"
        raise NotEnoughData("SK501", table, f"no source can be recommended for {target}: {found} to learn from", fix)
    return 0


def _of_study(path: str, table: str | None) -> tuple[str, str | None, tuple[tuple[str, str], ...]]:
    """Scores, transfers (None where the study has none) and aliases of a study that was run."""
    from simkit.study import aliases, read_study

    if table is not None:
        raise UsageError("SK102", "simkit recommend", f"both a table ({table}) and a study ({path}) are given", "give one of them")
    study = read_study(path)
    scores, transfer = Path(study.out) / "scores.csv", Path(study.out) / "transfer.csv"
    if not scores.is_file():
        raise UsageError("SK104", path, f"the study has no scores yet ({scores} does not exist)", f"run it first: simkit run {path}")
    return str(scores), str(transfer) if transfer.is_file() else None, aliases(study.correlate.alias, "correlate.alias")
