"""map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from simkit.cli.output import Output, check_outputs, data_options, device_options, output_options, settings, split, width
from simkit.errors import UsageError

if TYPE_CHECKING:
    from simkit.maps import DatasetMap, ImageMap

OF_IMAGES = ("method", "extractor", "pairs", "projection", "max_images", "neighbours", "perplexity", "thumbnails", "device", "study", "data_settings",
             "batch_size", "workers", "backend", "store", "strict")
OF_SCORES = ("measures", "allow_missing")


@click.command("map")
@click.argument("data", nargs=-1)
@click.option("--method", type=click.Choice(["umap", "pca", "tsne"]), default="umap", show_default=True, help="Projection of the images.")
@click.option("--extractor", default="torchvision", show_default=True, help="Name of the extractor (`simkit list`), or module:Class.")
@click.option("--set", "pairs", multiple=True, metavar="K=V", help="Option of the extractor, such as network=resnet18.")
@click.option("--projection", default=None, metavar="pca:K|random:K", help="Reduce the features to K dimensions before (PCA: fitted on all of DATA).")
@click.option("--max-images", type=click.IntRange(1), default=2000, show_default=True,
              help="Images of a data set; of a larger one those with the smallest digests, spread over the classes in their shares.")
@click.option("--neighbours", type=click.IntRange(2), default=15, show_default=True, help="Neighbours that UMAP keeps together.")
@click.option("--perplexity", type=click.FloatRange(1), default=30.0, show_default=True, help="Of t-SNE: about how many neighbours it keeps together.")
@click.option("--scores", type=click.Path(), default=None, help="Map the data sets of this score table (CSV of `simkit distance`) instead of images.")
@click.option("--measure", "measures", multiple=True, metavar="NAME[,...]", help="Measure of --scores; one map each (default: every distance).")
@click.option("--allow-missing", is_flag=True, help="Also place data sets of --scores of which fewer than two distances are known.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of every random choice.")
@click.option("--out", type=click.Path(), default="map", show_default=True, help="Output folder: map.html, map.csv, figures (SVG and PNG).")
@click.option("--dpi", type=click.IntRange(50, 1200), default=300, show_default=True, help="Of the PNG figures.")
@click.option("--no-thumbnails", "thumbnails", is_flag=True, default=True, flag_value=False, help="Show no images on the page: no picture leaves the data.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@data_options
@device_options
@output_options
def map_(
    data: tuple[str, ...], method: Literal["umap", "pca", "tsne"], extractor: str, pairs: tuple[str, ...], projection: str | None, max_images: int,
    neighbours: int, perplexity: float, scores: str | None, measures: tuple[str, ...], allow_missing: bool, seed: int, out: str, dpi: int, thumbnails: bool,
    device: str, study: str | None, data_settings: tuple[str, ...], batch_size: int | None, workers: int | None, backend: str, store: str | None, strict: bool,
    json_target: str | None, quiet: bool, no_color: bool,
) -> int:
    """Where images and data sets lie, on a page with figures and CSV; with how much the map distorts.

    Of DATA (as for `simkit embed`): all images in one plane, by data set and class. Of --scores FILE: the data sets, placed by their distances (metric
    multidimensional scaling), with a circle of the floor around each target. A map is not a measurement: the scores are.
    """
    from simkit.pipeline.commands import extractor_of, load
    from simkit.pipeline.maps import mapped, write_image_map
    from simkit.pipeline.stages import Effort
    from simkit.study import read_study

    output = Output(json_target, quiet)
    _check_options(click.get_current_context(), data, scores)
    folder = Path(out)
    if folder.is_file():
        raise UsageError("SK102", "--out", f"{folder} is a file, a folder is wanted", "name a folder; it is made when missing")
    check_outputs([folder / "map.html", folder / "map.csv", json_target], [scores, study])
    if scores is not None:
        return _of_scores(output, scores, split(measures), folder, allow_missing=allow_missing, seed=seed, dpi=dpi)
    made = extractor_of({extractor: settings(pairs, "--set")})
    read = read_study(study) if study else None
    options = settings(data_settings, "--data-set")
    datasets = [load(one, study=read, **options) for one in data]
    found, skipped = mapped(
        datasets, made, method=method, projection=projection, max_images=max_images, neighbours=neighbours, perplexity=perplexity, seed=seed,
        thumbnails=thumbnails, device=device, effort=Effort(batch_size, workers, backend), store=store, strict=strict, progress=output)
    page = write_image_map(found, folder, dpi=dpi)
    lines = [f"{one.dataset}: {one.key} skipped: {one.reason}" for one in skipped]
    output.result(image_text(found, page), {**found.as_dict(), **_paths(page), "skipped": lines}, [str(page)])
    return output.finish(lines)


def _check_options(context: click.Context, data: tuple[str, ...], scores: str | None) -> None:
    """Either data sets or a table of scores, with the options that belong to it."""
    from click.core import ParameterSource

    if bool(data) == (scores is not None):
        if data:
            raise UsageError("SK102", "--scores", "DATA and --scores are given: a map shows images or data sets", "give one of them")
        raise UsageError("SK104", "DATA", "no data set is named", "name data sets, or a table of scores with --scores")
    names = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name in OF_SCORES if data else OF_IMAGES:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            belongs = "of --scores, and DATA is mapped" if data else "of maps of images, and --scores is given"
            raise UsageError("SK102", names[name], f"is an option {belongs}", "leave it out")


def _of_scores(output: Output, scores: str, measures: list[str], folder: Path, *, allow_missing: bool, seed: int, dpi: int) -> int:
    from simkit.pipeline.maps import mapped_scores, write_dataset_maps

    found, left_out = mapped_scores(scores, measures, allow_missing=allow_missing, seed=seed)
    for line in left_out:
        output.say(f"left out: {line}")
    page = write_dataset_maps(found, folder, dpi=dpi)
    output.result(dataset_text(found, page), {"maps": [one.as_dict() for one in found], "left_out": list(left_out), **_paths(page)}, [str(page)])
    return 0


def _paths(page: Path) -> dict[str, Any]:
    return {"page": str(page), "csv": str(page.parent / "map.csv"), "figures": str(page.parent / "figures")}


def image_text(found: ImageMap, page: Path) -> str:
    """The distortion of a map of images, overall and per data set, for the terminal."""
    from simkit.report.layout import Column, paragraph, table

    kept, rows = found.distortion, []
    for one in found.sets:
        shown = f"{len(one.keys):,}" if len(one.keys) == one.total else f"{len(one.keys):,} of {one.total:,}"
        rows.append([one.name, shown, f"{kept.per_set[one.name][0]:.3f}", f"{kept.per_set[one.name][1]:.3f}"])
    rows.append(["all images", f"{len(found.rows):,}", f"{kept.trustworthiness:.3f}", f"{kept.continuity:.3f}"])
    rows.append(["exchanged at random", "", f"{kept.chance[0]:.3f}", f"{kept.chance[1]:.3f}"])
    columns = [Column("data set"), Column("images", number=True), Column("trustworthiness", number=True), Column("continuity", number=True)]
    said = "\n".join(paragraph(line, width()) for line in found.said)
    rule = "\n" + paragraph(_rule(), width()) if found.sampled else ""
    return f"{table(columns, rows, width())}\n\n{said}{rule}\n\n{_written(page)}"


def _rule() -> str:
    from simkit.maps import RULE

    return f"Shown are, {RULE}."


def dataset_text(found: tuple[DatasetMap, ...], page: Path) -> str:
    """Stress and places of maps of data sets, for the terminal."""
    from simkit.report.cells import number
    from simkit.report.layout import Column, paragraph, table

    parts = []
    for one in found:
        rows = [[row[1], row[2], number(row[3]), number(row[4]), "" if row[5] is None else number(row[5]), f"{row[6]:.3f}"] for row in one.records()]
        columns = [Column("data set"), Column("role"), *(Column(name, number=True) for name in ("x", "y", "floor", "stress"))]
        said = one.said if one is found[-1] else one.said[:-1]
        parts.append(table(columns, rows, width()) + "\n\n" + "\n".join(paragraph(line, width()) for line in said))
    return "\n\n".join(parts) + f"\n\n{_written(page)}"


def _written(page: Path) -> str:
    return f"page: {page}\ntable: {page.parent / 'map.csv'}\nfigures: {page.parent / 'figures'}"
