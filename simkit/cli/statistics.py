"""correlate."""

from __future__ import annotations

from typing import Literal

import click

from simkit.cli.output import Output, output_options, width


@click.command()
@click.argument("table", type=click.Path())
@click.option("--performance", default=None, metavar="COLUMN|PATTERN|FILE",
              help="Column of the performance; a pattern such as 'fold_*' averages its columns as replicates; or a second file with the transfer results.")
@click.option("--method", "methods", multiple=True, metavar="NAME[=COLUMN|PATTERN]", help="Column of a method's values; a pattern is averaged.")
@click.option("--distance", "distances", multiple=True, metavar="NAME", help="State that a method is a distance: lower means more similar.")
@click.option("--similarity", "similarities", multiple=True, metavar="NAME", help="State that a method is a similarity: higher means more similar.")
@click.option("--metric", default=None, help="What the performance is, such as auc (then it must lie in 0..1).")
@click.option("--include-self", is_flag=True, help="Keep pairs of a data set with itself (left out by default); the result shows both.")
@click.option("--pooled", is_flag=True, help="Also correlate over all pairs of all targets at once (Pearson, as the seed study did).")
@click.option("--alias", "alias", multiple=True, metavar="A=B", help="Two names that mean the same data set: their pairs count as self pairs.")
@click.option("--allow-missing", is_flag=True, help="Leave out rows with empty cells and pairs without a partner, counted (default: an error that lists them).")
@click.option("--aggregate", type=click.Choice(["mean"]), default=None, help="Average rows with the same key (default: an error that names them).")
@click.option("--permutations", type=click.IntRange(99), default=9999, show_default=True, help="Joint permutations of the source labels.")
@click.option("--bootstraps", type=click.IntRange(100), default=2000, show_default=True, help="Two-way bootstrap draws.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of permutations and bootstrap.")
@click.option("--out", type=click.Path(), default=None, help="Also write one row a method to this CSV file.")
@output_options
def correlate(
    table: str, performance: str | None, methods: tuple[str, ...], distances: tuple[str, ...], similarities: tuple[str, ...], metric: str | None,
    include_self: bool, pooled: bool, alias: tuple[str, ...], allow_missing: bool, aggregate: Literal["mean"] | None, permutations: int,
    bootstraps: int, seed: int, out: str | None, json_target: str | None, quiet: bool, no_color: bool,
) -> int:
    """Does similarity predict transfer? TABLE is a CSV: long (source, target, method, value, performance) or wide (one column a method).

    Works within each target and averages over targets; pairs of a data set with itself are left out unless --include-self.
    """
    from simkit.correlation import correlate as correlate_table
    from simkit.study import aliases

    output = Output(json_target, quiet)
    result = correlate_table(
        table, performance=performance, methods=list(methods), distances=list(distances), similarities=list(similarities), include_self=include_self,
        pooled=pooled, alias=aliases(alias, "--alias"), allow_missing=allow_missing, aggregate=aggregate, metric=metric, permutations=permutations,
        bootstraps=bootstraps, seed=seed,
    )
    if out:
        from simkit.files import write_text
        from simkit.tables import csv_text

        frame = result.frame
        write_text(out, csv_text(list(frame.columns), frame.astype(object).where(frame.notna(), None).values.tolist()))
    output.result(result.text(width()), result.as_dict(), [m.method for m in result.methods])
    return 0
