"""The report of a study that was run, or of tables alone: page and figures from what is there, nothing is computed anew but statistics."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from simkit.errors import NotEnoughData, SimkitError, UsageError, nearest
from simkit.pipeline.contents import method_info, predicted_answers, recommended, versions
from simkit.pipeline.progress import Progress
from simkit.pipeline.results import Results, write_page_and_figures
from simkit.pipeline.running import run
from simkit.registry import ESTIMATORS
from simkit.report.content import Content, FigureSize, MethodInfo, Unavailable
from simkit.report.correlation_figures import correlation_content
from simkit.study import Study, read_study
from simkit.tables import RawTable, ScoreTable, TransferTable, is_score_table, read_scores, read_table

__all__ = ["TableReport", "report_study", "report_tables"]

CONFIG = "config.toml"
"""The study in the output folder of a run, every option spelled out."""


@dataclass(frozen=True)
class TableReport:
    """A report of tables.

    Attributes:
        content: everything that it shows.
        out: the folder.
        page: the HTML page.
    """

    content: Content
    out: Path
    page: Path


def report_study(
    what: str | os.PathLike[str] | Study, *, out: str | os.PathLike[str] | None = None, store: str | os.PathLike[str] | None = None,
    figure_size: FigureSize = "page", dpi: int = 300, thumbnails: bool | None = None, progress: Progress | None = None,
) -> Results:
    """Makes page, figures and tables of a study again, from the store: nothing is embedded, scored or trained.

    Args:
        what: a study file, the output folder of a run, or a Study.
        out: output folder instead of the study's (of a folder: that folder).
        store: root of the store instead of the study's.
        figure_size: of the figures in files: "page", or the width of a journal's column, "single" (89 mm) or "double" (183 mm).
        dpi: of the PNG figures.
        thumbnails: whether the page shows images; without, no picture leaves the data. None: as the run before.
        progress: told what happens.

    Raises:
        UsageError: the study is not finished, with what is left to do (SK111); a folder that no run made (SK103).
    """
    study, place = (what, None) if isinstance(what, Study) else _study_of(Path(what))
    return run(study, out=out if out is not None else place, store=store, finished=True, figure_size=figure_size, dpi=dpi,
               thumbnails=thumbnails, progress=progress)


def _study_of(path: Path) -> tuple[Study, Path | None]:
    """The study in a file, or behind the output folder of a run, with that folder."""
    if not path.is_dir():
        return read_study(path), None
    if not (path / CONFIG).is_file():
        fix = "name the folder that `simkit run` filled, the study file, or a table of scores"
        raise UsageError("SK103", str(path), f"is no folder of a run: it has no {CONFIG}", fix)
    return read_study(path / CONFIG), path


def report_tables(
    scores: str | os.PathLike[str], *, performance: str | os.PathLike[str] | None = None, out: str | os.PathLike[str], title: str = "",
    methods: Sequence[str] = (), distances: Sequence[str] = (), similarities: Sequence[str] = (), metric: str | None = None,
    alias: Iterable[tuple[str, str]] = (), allow_missing: bool = False, aggregate: Literal["mean"] | None = None, decimal: Literal[".", ","] = ".",
    permutations: int = 9999, bootstraps: int = 2000, seed: int = 0, figure_size: FigureSize = "page", dpi: int = 300, progress: Progress | None = None,
) -> TableReport:
    """Makes a page and figures of tables: of scores, of performances, or of one table with both.

    Args:
        scores: CSV with the scores: of simkit (then with its intervals, floors and flags), or any table that :func:`simkit.correlate` reads.
        performance: CSV with the transfers, or the column (or pattern of columns) of ``scores`` that holds the performance. None: a table of simkit's scores
            is shown without transfers; in another table the column is recognised.
        out: output folder; it is made when missing, and files of an earlier report in it are replaced.
        title: of the page; default: the file's name.
        methods, distances, similarities, metric, alias, allow_missing, aggregate, decimal, permutations, bootstraps, seed: as for :func:`simkit.correlate`.
        figure_size: of the figures in files: "page", "single" (89 mm wide) or "double" (183 mm).
        dpi: of the PNG figures.
        progress: told what happens.

    Raises:
        UsageError, DataError, NotEnoughData: as :func:`simkit.correlate`, where there are performances.
    """
    progress = progress or Progress()
    raw = read_table(scores)
    ours = is_score_table(raw)
    pairs = tuple(alias)
    table = read_scores(raw) if ours else None
    if table is not None and methods:
        table = _only(table, methods)
    content = Content(title or Path(scores).stem, (), (), (), "not known (a table)", table or ScoreTable(()))
    if not ours or performance is not None:
        content = _correlated(content, raw, performance, methods=methods, distances=distances, similarities=similarities, metric=metric, alias=pairs,
                              allow_missing=allow_missing, aggregate=aggregate, decimal=decimal, permutations=permutations, bootstraps=bootstraps, seed=seed)
    content = _named(content)
    found, refused = recommended(content.targets, content.scores, content.transfer, alias=pairs, bootstraps=max(bootstraps, 100), seed=seed)
    inputs = {"scores": Path(scores).name, "performance": None if performance is None else Path(performance).name}
    content = replace(content, recommendations=found, unavailable=(*content.unavailable, *refused), answers={**content.answers, **predicted_answers(found)},
                      provenance={**versions(), "seed": seed, "tables": inputs,
                      "permutations": permutations, "bootstraps": bootstraps})
    progress.say("drawing figures, writing the page")
    folder = Path(out)
    write_page_and_figures(content, folder, figure_size=figure_size, dpi=dpi)
    return TableReport(content, folder, folder / "report.html")


def _only(table: ScoreTable, methods: Sequence[str]) -> ScoreTable:
    known = list(dict.fromkeys(str(record["method"]) for record in table.records))
    for name in methods:
        if name not in known:
            raise UsageError("SK101", "--method", f"'{name}' is no measure of the table{nearest(name, known)}", f"measures: {', '.join(known)}")
    return ScoreTable(tuple(record for record in table.records if record["method"] in methods))


def _correlated(content: Content, raw: RawTable, performance: Any, **options: Any) -> Content:
    """The content with the correlation, and with the transfers, whether they stand in a file of their own or in the table of scores.

    Scores of targets that have no transfer at all wait for a recommendation; any other pair without a partner is an error, unless that is allowed.
    """
    from simkit.correlation import answer, correlate, rank_sources, read_transfer

    ours = bool(content.scores.records)
    second = performance is not None and Path(performance).is_file()
    transfer: TransferTable | None = None
    if second:
        transfer = read_transfer(performance, metric=options["metric"], allow_missing=options["allow_missing"], aggregate=options["aggregate"],
                                 decimal=options["decimal"])
        measured = {str(record["target"]) for record in transfer.records}
        if ours and any(target in measured for target in raw.column("target")):
            kept = [row for row, target in enumerate(raw.column("target")) if target in measured]
            raw = replace(raw, rows=tuple(raw.rows[row] for row in kept), lines=tuple(raw.lines[row] for row in kept))
    try:
        found = correlate(raw, performance=performance, **options)
    except NotEnoughData as error:
        if not ours or transfer is None:
            raise
        ranking = rank_sources(transfer, seed=options["seed"])
        unavailable = (Unavailable("correlation", "", "", error.problems[0].message),)
        return replace(content, transfer=transfer, ranking=ranking, answers={t: answer(t, rows) for t, rows in ranking.items()}, unavailable=unavailable)
    drawn = correlation_content(found, every_method=True)
    transfer = transfer or drawn.transfer
    ranking = dict(drawn.ranking)
    if transfer is not None and not ranking:
        ranking = rank_sources(transfer, seed=options["seed"])
    # without replicates and noise nothing tells sources apart
    ranking = {target: tuple(row if row.best or row.baseline or row.gap_interval is not None else replace(row, tied=True) for row in rows)
               for target, rows in ranking.items()}
    return replace(content, scores=content.scores if ours else drawn.scores, transfer=transfer, ranking=ranking, correlation=found,
                   answers={target: answer(target, rows) for target, rows in ranking.items()}, score_bars=content.score_bars if ours else drawn.score_bars,
                   performance_bars=content.performance_bars if second else drawn.performance_bars)


def _named(content: Content) -> Content:
    """The content with its sources, targets and measures, in the order of the tables."""
    rows = [*content.scores.records, *(content.transfer.records if content.transfer else ())]
    sources, targets = (tuple(dict.fromkeys(str(row[key]) for row in rows)) for key in ("source", "target"))
    return replace(content, sources=sources, targets=targets, methods=tuple(_info(record) for record in _first_rows(content.scores)))


def _first_rows(table: ScoreTable) -> list[Any]:
    return list({str(record["method"]): record for record in reversed(table.records)}.values())[::-1]


def _info(record: Any) -> MethodInfo:
    """What a measure is: from simkit's own description where it has one of that name and direction, else from its row."""
    name, higher = str(record["method"]), bool(record["higher_is_better"])
    try:
        info = method_info(ESTIMATORS.build(name, "methods"))
        if info.higher_is_better == higher:
            return replace(info, options="not known (a table)")
    except SimkitError:  # another name, or a measure that needs options
        pass
    return MethodInfo(name, record.get("kind") or "distance", higher)
