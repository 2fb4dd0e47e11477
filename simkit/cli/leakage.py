"""leakage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from simkit.cli.output import Output, check_outputs, data_options, device_options, output_options, settings, width
from simkit.errors import UsageError

if TYPE_CHECKING:
    from simkit.pipeline.leakage import LeakageResult

FOUND = 3
"""Exit status with --fail, where a copy was found."""


@click.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option("--source", "sources", multiple=True, metavar="DATA", help="Data set that may hold images of a target; may be given several times.")
@click.option("--within", is_flag=True, help="Also look within each target: across its given split, or anywhere (the default where there is no source).")
@click.option("--near/--exact-only", default=True, show_default=True, help="Also look for changed copies: compressed again, resized, cropped, mirrored.")
@click.option("--extractor", default=None, help="Also look among neighbours of embeddings of this extractor (`simkit list`), or module:Class.")
@click.option("--set", "pairs", multiple=True, metavar="K=V", help="Option of the extractor, such as network=resnet18.")
@click.option("--threshold", type=float, default=None, metavar="R", help="Least correlation of the details of a near copy (default: 0.95 at 64 pixels).")
@click.option("--cosine", type=float, default=None, metavar="C",
              help="Least cosine of embedding neighbours that are looked at (default: what 5 % of the images reach within their own data set).")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--exclude", type=click.Path(), default=None, metavar="FOLDER",
              help="Write exclude-NAME.csv per data set: images to leave out, as `exclude` of a study's data set takes them.")
@click.option("--out", type=click.Path(), default=None, metavar="FOLDER", help="Write leakage.html (pictures side by side) and leakage.csv (all pairs).")
@click.option("--no-thumbnails", is_flag=True, help="Leave the pictures out of the page: for images that may not be passed on.")
@click.option("--fail", is_flag=True, help=f"Exit status {FOUND} where a copy is found, for checks that run by themselves.")
@data_options
@device_options
@output_options
def leakage(
    targets: tuple[str, ...], sources: tuple[str, ...], within: bool, near: bool, extractor: str | None, pairs: tuple[str, ...], threshold: float | None,
    cosine: float | None, device: str, exclude: str | None, out: str | None, no_thumbnails: bool, fail: bool, study: str | None,
    data_settings: tuple[str, ...], batch_size: int | None, workers: int | None, backend: str, store: str | None, strict: bool, json_target: str | None,
    quiet: bool, no_color: bool,
) -> int:
    """Find images of each TARGET that a --source holds as well, or that stand on both sides of a split.

    TARGET and DATA are paths, samples:NAME or names of --study; with --study and no TARGET, its targets and sources are taken. Exact copies have the same
    bytes or pixels. Near copies are candidates by perceptual hash (and, with --extractor, by embedding), each verified by laying the two pictures over
    each other; look at them (--out): two slices of one volume can agree as well as copies do.

    Exit status: 0, whether copies are found or not; 3 with --fail where one is found; 4 when images could not be read (they are named).
    """
    from simkit.pipeline.leakage import find_leakage
    from simkit.report.leakage_text import leakage_dict, leakage_text

    output = Output(json_target, quiet)
    if pairs and extractor is None:
        raise UsageError("SK104", "--set", "sets an option of an extractor, and there is no --extractor", "add --extractor NAME")
    if no_thumbnails and out is None:
        raise UsageError("SK104", "--no-thumbnails", "says how the page is made, and there is no --out", "add --out FOLDER")
    _check_folders({"--out": out, "--exclude": exclude})
    check_outputs([json_target], targets)
    chosen = None if extractor is None else {extractor: settings(pairs, "--set")}
    result = find_leakage(list(targets), list(sources), study=study, within=within or None, near=near, extractor=chosen, threshold=threshold,
                          embedding_cosine=cosine, device=device, batch_size=batch_size, workers=workers, backend=backend, store=store, strict=strict,
                          progress=output, **settings(data_settings, "--data-set"))
    written = _written(result, out, exclude, workers, thumbnails=not no_thumbnails)
    for path in written:
        output.say(f"wrote {path}")
    skipped = [f"{one.dataset}: {one.key} skipped: {one.reason}" for one in result.skipped]
    value = {"found": [leakage_dict(one) for one in result.found], "written": written, "skipped": skipped}
    ids = [f"{pair.first}\t{pair.first_key}\t{pair.second}\t{pair.second_key}\t{pair.how}" for pair in result.pairs]
    output.result(leakage_text(result.found, width()), value, ids)
    status = output.finish(skipped)
    return FOUND if fail and result.pairs else status


def _check_folders(folders: Mapping[str, str | None]) -> None:
    """Refuses a folder that is a file or cannot be written, before any work."""
    from simkit.files import check_writable

    for option, folder in folders.items():
        if folder is None:
            continue
        if Path(folder).is_file():
            raise UsageError("SK102", option, f"{folder} is a file, a folder is wanted", "name a folder")
        check_writable(Path(folder) / "leakage.csv")


def _written(result: LeakageResult, out: str | None, exclude: str | None, workers: int | None, *, thumbnails: bool) -> list[str]:
    """Writes what was asked for, and returns the paths."""
    paths: list[Path] = []
    if out is not None:
        paths += result.write(out, thumbnails=thumbnails, workers=workers)
    if exclude is not None:
        paths += result.write_exclusions(exclude)
    return [str(path) for path in paths]
