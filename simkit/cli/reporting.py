"""report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from simkit.cli.output import Output, check_outputs, figure_options, output_options, performance_of, split, table_options, width
from simkit.errors import UsageError

if TYPE_CHECKING:
    from simkit.report.content import Content


@click.command()
@click.argument("what", type=click.Path())
@click.option("--out", type=click.Path(), default=None,
              help="Output folder (default: the study's; of tables: report-NAME beside the table).")
@figure_options
@click.option("--store", type=click.Path(), default=None, help="Root of the store (of a study).")
@click.option("--title", default=None, help="Title of the page (of tables; default: the file's name).")
@table_options
@click.option("--permutations", type=click.IntRange(99), default=9999, show_default=True, help="Joint permutations of the source labels (of tables).")
@click.option("--bootstraps", type=click.IntRange(100), default=2000, show_default=True, help="Two-way bootstrap draws (of tables).")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of permutations and bootstrap (of tables).")
@output_options
def report(
    what: str, out: str | None, figure_size: Literal["page", "single", "double"], dpi: int, thumbnails: bool | None, store: str | None, title: str | None,
    performance: str | None, replicates: str | None, methods: tuple[str, ...], distances: tuple[str, ...], similarities: tuple[str, ...],
    metric: str | None, alias: tuple[str, ...], allow_missing: bool, aggregate: Literal["mean"] | None, decimal: Literal[".", ","],
    permutations: int, bootstraps: int, seed: int, json_target: str | None, quiet: bool, no_color: bool,
) -> int:
    """Make the page and the figures of WHAT: a study file, the output folder of a run, or a CSV table of scores.

    Of a study everything must be in the store (`simkit run` does what is left): nothing is embedded, scored or trained. Of tables: scores of
    `simkit distance`, with --performance FILE for the transfers; or any table that `simkit correlate` reads.
    """
    output = Output(json_target, quiet)
    path = Path(what)
    check_outputs([json_target], [what, performance])
    if not path.exists():
        raise UsageError("SK103", what, "does not exist", "name a study file, the folder of a run, or a table of scores (CSV)")
    if path.is_dir() or path.suffix.lower() == ".toml":
        given = _given(click.get_current_context())
        if given:
            raise UsageError("SK102", given[0], f"is an option of tables, and {what} is a study", "leave it out, or name the table of scores")
        from simkit.pipeline.reporting import report_study

        results = report_study(path, out=out, store=store, figure_size=figure_size, dpi=dpi, thumbnails=thumbnails, progress=output)
        _tell(output, results.content, results.page)
        return output.finish(results.incomplete, failed=results.failed)
    if store is not None:
        raise UsageError("SK102", "--store", f"is an option of studies, and {what} is a table", "leave it out")
    from simkit.pipeline.reporting import report_tables
    from simkit.study import aliases

    folder = Path(out) if out is not None else path.parent / f"report-{path.stem}"
    if folder.is_file():
        raise UsageError("SK102", "--out", f"{folder} is a file, a folder is wanted", "name a folder; it is made when missing")
    check_outputs([folder / "report.html"], [what, performance])
    made = report_tables(
        path, performance=performance_of(performance, replicates), out=folder, title=title or "", methods=split(methods), distances=split(distances),
        similarities=split(similarities), metric=metric, alias=aliases(alias, "--alias"), allow_missing=allow_missing, aggregate=aggregate, decimal=decimal,
        permutations=permutations, bootstraps=bootstraps, seed=seed, figure_size=figure_size, dpi=dpi, progress=output)
    _tell(output, made.content, made.page)
    return 0


OF_TABLES = ("title", "performance", "replicates", "methods", "distances", "similarities", "metric", "alias", "allow_missing", "aggregate", "decimal",
             "permutations", "bootstraps", "seed")


def _given(context: click.Context) -> list[str]:
    """Options of tables that were given on the command line, as they are written."""
    from click.core import ParameterSource

    names = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    return [names[name] for name in OF_TABLES if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]


def _tell(output: Output, content: Content, page: Path) -> None:
    from simkit.report import summary_text

    value: dict[str, Any] = {
        "study": content.study, "page": str(page), "figures": str(page.parent / "figures"), "answers": dict(content.answers),
        "correlation": content.correlation.as_dict() if content.correlation else None,
        "recommendations": {target: one.as_dict() for target, one in content.recommendations.items()}, "leakage": [one.line for one in content.leakage],
    }
    output.result(f"{summary_text(content, width())}\n\nreport: {page}\nfigures: {page.parent / 'figures'}", value, [str(page)])
