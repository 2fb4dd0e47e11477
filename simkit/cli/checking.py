"""check."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from simkit.cli.output import Output, check_outputs, data_options, output_options, settings, width

if TYPE_CHECKING:
    from simkit.report.check_content import Check

__all__ = ["check"]


@click.command()
@click.argument("data", nargs=-1, required=True)
@click.option("--thumbnails", type=click.Path(), default=None, metavar="FILE.png",
              help="Also draw up to 8 images of each class; several data sets, or many classes, make several files (FILE-NAME.png).")
@click.option("--workers", type=click.IntRange(1), default=None, help="Processes that decode images (default: one a CPU core).")
@click.option("--strict", is_flag=True, help="Exit status 3 for anything that is left out and for any caution (!).")
@data_options
@output_options
def check(
    data: tuple[str, ...], thumbnails: str | None, workers: int | None, strict: bool, study: str | None, data_settings: tuple[str, ...],
    json_target: str | None, quiet: bool, no_color: bool,
) -> int:
    """Look at each of DATA before any GPU hour: a folder, a table, a zip, an .npz, DICOM or NIfTI folders, samples:NAME, or a study's name.

    Every image is decoded once, in seconds and without a network. Shown are: counts, sizes, grey and colour, class balance, groups, splits, what was
    done to images on reading, files that cannot be read, copies (by bytes and by pixels) under two labels, in two splits, groups or data sets.

    Exit status: 0, also with cautions; 4 when files are left out (they are named); 3 when a data set has no image that can be read. With
    --strict, 3 for anything left out and for any caution: a caution (!) can make results wrong, other findings (-) are good to know.
    """
    from simkit.pipeline.checking import check as checked

    output = Output(json_target, quiet)
    check_outputs([thumbnails, json_target], data)
    result = checked(list(data), study=study, workers=workers, thumbnails=thumbnails, progress=output, **settings(data_settings, "--data-set"))
    status = result.status(strict=strict)
    value = {**result.as_dict(), "status": status}
    ids = [f"{one.dataset}\t{one.key}\t{one.reason}" for one in result.left_out] + [f"caution\t{line}" for line in result.cautions]
    output.result(result.text(width()), value, ids)
    if status:
        click.echo(_why(result, strict), err=True)
    return status


def _why(result: Check, strict: bool) -> str:
    """Why the status is not 0; what is left out stands in the result itself."""
    from simkit.report.check_content import counted
    from simkit.report.layout import visible

    parts = [counted(len(result.left_out), "file was", "files were") + " left out"] if result.left_out else []
    parts += [counted(len(result.cautions), "caution")] if strict and result.cautions else []
    empty = ", ".join(visible(one.name) for one in result.datasets if not one.images)
    what = f"no image of {empty} can be read" if empty else ", ".join(parts)
    code, fix = ("SK206", "repair or remove what is listed") if empty or strict else ("SK601", "repair or remove them; --json lists all, with the reasons")
    return f"error[{code}] check: {what}\nfix: {fix}\nmore: simkit explain {code}"
