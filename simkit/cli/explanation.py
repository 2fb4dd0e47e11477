"""explain: a pair of data sets, or an error code."""

from __future__ import annotations

from pathlib import Path

import click

from simkit.cli.output import Output, check_outputs, data_options, device_options, output_options, settings, width
from simkit.errors import EXPLANATIONS, UsageError, nearest

PAIR = "simkit explain SOURCE TARGET"


@click.command()
@click.argument("what", nargs=-1, metavar="SOURCE TARGET | CODE")
@click.option("--method", default="otdd", show_default=True, help="Measure of embeddings or cards (`simkit list`), or module:Class.")
@click.option("--set", "pairs", multiple=True, metavar="[METHOD.]K=V", help="Option of the method, such as label_cost=means.")
@click.option("--extractor", default="torchvision", show_default=True, help="Name of the extractor (`simkit list`), or module:Class.")
@click.option("--extractor-set", "extractor_pairs", multiple=True, metavar="K=V", help="Option of the extractor, such as network=resnet18.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of every random choice.")
@click.option("--repeats", type=click.IntRange(0), default=10, show_default=True, help="Half-samples for intervals and floors; 0: none, else at least 3.")
@click.option("--permutations", type=click.IntRange(0), default=999, show_default=True, help="Exchanges for the p-values of features and classifier; 0: none.")
@click.option("--max-images", type=click.IntRange(10), default=2000, show_default=True,
              help="Images of a side that are looked at; of a larger set a random sample in which classes keep their shares.")
@click.option("--out", type=click.Path(), default=None, help="Output folder (default: explain-SOURCE-TARGET).")
@click.option("--no-thumbnails", "thumbnails", is_flag=True, default=True, flag_value=False, help="Show no images on the page: no picture leaves the data.")
@click.option("--dpi", type=click.IntRange(50, 1200), default=300, show_default=True, help="Of the PNG figures.")
@data_options
@device_options
@output_options
def explain(
    what: tuple[str, ...], method: str, pairs: tuple[str, ...], extractor: str, extractor_pairs: tuple[str, ...], device: str, seed: int, repeats: int,
    permutations: int, max_images: int, out: str | None, thumbnails: bool, dpi: int, study: str | None, data_settings: tuple[str, ...],
    batch_size: int | None, workers: int | None, backend: str, store: str | None, strict: bool, json_target: str | None, quiet: bool, no_color: bool,
) -> int:
    """Why is SOURCE near to TARGET, or far? Or, with one error CODE such as SK203: what it means.

    Writes a folder with explanation.html, figures and CSV files: which class of the source feeds which class of the target, the classes of the
    target that no source class covers, the images that a classifier tells apart best, and the features that differ most; each with its uncertainty. The
    coupling of classes is that of otdd, wasserstein, class-frechet and class-mean-emd; of other measures images and features are explained.
    """
    if len(what) == 1:
        from simkit.cli.inspection import explain as of_code

        return _code(what[0], of_code)
    if len(what) != 2:
        given = "nothing" if not what else f"{len(what)} names"
        raise UsageError("SK104" if not what else "SK101", "simkit explain", f"{given} given", f"write {PAIR}, or simkit explain CODE such as SK203")
    output = Output(json_target, quiet)
    from simkit.cli.work import with_settings
    from simkit.pipeline.explanation import explained, folder_of, save_explanation
    from simkit.pipeline.stages import Effort
    from simkit.report.explanation_text import explanation_text
    from simkit.sources import name_for

    chosen = with_settings((method,), pairs)[0]
    options = settings(data_settings, "--data-set")
    folder = Path(out) if out is not None else folder_of(*(name_for(one) for one in what))
    check_outputs([json_target], [study])
    found = explained(
        *what, method=chosen, extractor={extractor: settings(extractor_pairs, "--extractor-set")}, study=study, max_images=max_images, repeats=repeats,
        permutations=permutations, seed=seed, device=device, effort=Effort(batch_size, workers, backend), store=store, strict=strict, progress=output,
        options=options, out=folder)
    written = save_explanation(found, folder, thumbnails=thumbnails, dpi=dpi, workers=workers)
    text = f"{explanation_text(found.explanation, width())}\n\npage: {written[0]}\nfigures: {folder / 'figures'}"
    output.result(text, {**found.explanation.as_dict(), "page": str(written[0])}, [str(written[0])])
    return output.finish(found.explanation.skipped)


def _code(code: str, of_code: click.Command) -> int:
    """The explanation of an error code; one name that is no code is refused with both usages."""
    if code.upper() in EXPLANATIONS:
        assert of_code.callback is not None
        status: int = of_code.callback(code)
        return status
    fix = f"codes: {', '.join(EXPLANATIONS)}; or name two data sets: {PAIR}"
    raise UsageError("SK101", "simkit explain", f"unknown code '{code}'{nearest(code.upper(), EXPLANATIONS)}", fix)
