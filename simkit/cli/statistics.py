"""correlate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from simkit.cli.output import Output, check_outputs, output_options, performance_of, split, table_options, width

if TYPE_CHECKING:
    from simkit.correlation import Correlation


@click.command()
@click.argument("table", type=click.Path())
@table_options
@click.option("--baseline", type=click.Choice(["none", "self", "scratch"]), default="none", show_default=True,
              help="Take the gain in percent over the target pretrained on itself, or over training from scratch, instead of the performance.")
@click.option("--statistic", type=click.Choice(["spearman", "kendall", "weighted-tau"]), default="spearman", show_default=True,
              help="The coefficient whose mean over targets is tested. Choose it before you look.")
@click.option("--logit", is_flag=True, help="Pearson, within-target, pooled and mixed on logit(performance), for AUC near 1; ranks do not change.")
@click.option("--mixed", is_flag=True, help="Also fit a linear mixed model with random source effects (needs statsmodels: the extra 'stats').")
@click.option("--include-self", is_flag=True, help="Keep pairs of a data set with itself (left out by default); the result shows both.")
@click.option("--pooled", is_flag=True, help="Also correlate over all pairs of all targets at once (Pearson, as the seed study did).")
@click.option("--permutations", type=click.IntRange(99), default=9999, show_default=True, help="Joint permutations of the source labels.")
@click.option("--bootstraps", type=click.IntRange(100), default=2000, show_default=True, help="Two-way bootstrap draws.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of permutations and bootstrap.")
@click.option("--jobs", type=click.IntRange(0), default=0, show_default=True, help="Threads; 0: one a core. The result is the same for any number.")
@click.option("--details/--no-details", default=None, help="Print every coefficient of every method in every target (default: where they are few).")
@click.option("--out", type=click.Path(), default=None,
              help="Also write FILE.csv, one row a method and baseline, and FILE-targets.csv, one row a method and target.")
@click.option("--plot", type=click.Path(), default=None, metavar="FOLDER",
              help="Also draw, as SVG and PNG, with captions.txt: similarity against transfer (one panel a target), forest plot, heat map of the performance.")
@output_options
def correlate(
    table: str, performance: str | None, replicates: str | None, methods: tuple[str, ...], distances: tuple[str, ...], similarities: tuple[str, ...],
    metric: str | None, baseline: Literal["none", "self", "scratch"], statistic: Literal["spearman", "kendall", "weighted-tau"], logit: bool, mixed: bool,
    include_self: bool, pooled: bool, alias: tuple[str, ...], allow_missing: bool, aggregate: Literal["mean"] | None, decimal: Literal[".", ","],
    permutations: int, bootstraps: int, seed: int, jobs: int, details: bool | None, out: str | None, plot: str | None, json_target: str | None,
    quiet: bool, no_color: bool,
) -> int:
    """Does similarity predict transfer? TABLE is a CSV: long (source, target, method, value, performance) or wide (one column a method).

    Works within each target and averages over targets; pairs of a data set with itself are left out unless --include-self. Beside every
    method stand three baselines: the static list (best source over the other targets), the source size (column source_size, or n_source of
    a score table), a random source.
    """
    from simkit.correlation import correlate as correlate_table
    from simkit.errors import NotEnoughData, UsageError
    from simkit.study import aliases

    output = Output(json_target, quiet)
    performance = performance_of(performance, replicates)
    if plot and Path(plot).is_file():
        raise UsageError("SK102", "--plot", f"{plot} is a file, a folder is wanted", "name a folder; it is made when missing")
    check_outputs([out], [table, performance])
    check_outputs([_targets_file(out) if out else None, json_target, Path(plot) / "captions.txt" if plot else None], [table, performance])
    result = correlate_table(
        table, performance=performance, methods=split(methods), distances=split(distances),
        similarities=split(similarities), include_self=include_self, pooled=pooled, alias=aliases(alias, "--alias"), allow_missing=allow_missing,
        aggregate=aggregate, metric=metric, baseline=baseline, statistic=statistic, logit=logit, mixed=mixed, decimal=decimal, permutations=permutations,
        bootstraps=bootstraps, seed=seed, jobs=jobs,
    )
    if out:
        _write(result, out, output)
    if plot:
        from simkit.report import save_correlation_figures

        paths = save_correlation_figures(result, plot)
        output.say(f"drew {len(paths) // 2} figures, each as SVG and PNG, in {plot}")
    output.result(result.text(width(), details=details), result.as_dict(), [m.method for m in result.methods])
    if all(method.mean is None for method in result.methods):
        why = "; ".join(f"{method.method}: {method.undefined}" for method in result.methods[:3]) + ("; ..." if len(result.methods) > 3 else "")
        fix = "a score and a performance must differ between at least three sources of a target"
        raise NotEnoughData("SK502", table, f"no method has a defined correlation ({why})", fix)
    return 0


def _targets_file(out: str) -> Path:
    path = Path(out)
    return path.with_name(f"{path.stem}-targets{path.suffix or '.csv'}")


def _write(result: Correlation, out: str, output: Output) -> None:
    from simkit.files import write_text
    from simkit.tables import csv_text

    for path, frame in ((Path(out), result.frame), (_targets_file(out), result.per_target)):
        write_text(path, csv_text(list(frame.columns), frame.astype(object).where(frame.notna(), None).values.tolist()))
        output.say(f"wrote {len(frame)} rows to {path}")
