"""What a run leaves behind: its results in Python, and the output folder with tables, figures, page and run.json."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simkit.errors import UsageError
from simkit.files import resource_errors, write_json, write_text
from simkit.pipeline.planning import Plan
from simkit.pipeline.stages import Embedded
from simkit.recipe import describe, digest
from simkit.report.content import Content, FigureSize
from simkit.study import Study, toml_text
from simkit.tables import ScoreTable, TransferTable, csv_text
from simkit.transfer import TransferResult

if TYPE_CHECKING:
    from simkit.correlation import Correlation

__all__ = ["Results", "check_out", "old_run", "study_config", "with_work", "write_page_and_figures", "write_results"]


@dataclass(frozen=True)
class Results:
    """What a run of a study found.

    Attributes:
        content: everything the report shows: cards, scores, transfer, ranking, correlation.
        out: the output folder.
        page: the HTML page.
        embedded: what embedding took, per data set.
        scores_made: scores computed now.
        scores_found: scores found in the store.
        transfer: what fine-tuning took, or None.
        asked: names of the measures that were asked for by name.
        looked: images that networks of sources looked at now, and those found in the store, over all pairs whose scores were not there.
    """

    content: Content
    out: Path
    page: Path
    embedded: tuple[Embedded, ...]
    scores_made: int
    scores_found: int
    transfer: TransferResult | None = None
    asked: frozenset[str] = field(default_factory=frozenset)
    looked: tuple[int, int] = (0, 0)

    @property
    def scores(self) -> ScoreTable:
        """Scores of all pairs."""
        return self.content.scores

    @property
    def performance(self) -> TransferTable | None:
        """Transfer results of all pairs, folds, seeds and metrics, or None."""
        return self.content.transfer

    @property
    def correlation(self) -> Correlation | None:
        """Whether similarity predicts transfer, or None."""
        return self.content.correlation

    @property
    def frame(self) -> Any:
        """The scores as a pandas DataFrame."""
        return self.scores.frame

    @property
    def incomplete(self) -> tuple[str, ...]:
        """What was skipped or failed although it was asked for, in words; empty when nothing was."""
        lines = [f"{s.dataset}: {s.key} skipped: {s.reason}" for s in self.content.skipped]
        lines += [f"{u.method} {u.source} -> {u.target}: {u.reason}" for u in self.content.unavailable if u.method in self.asked and not u.implied]
        return (*lines, *self.failed)

    @property
    def failed(self) -> tuple[str, ...]:
        """The trainings that failed, in words."""
        return () if self.transfer is None else tuple(f"fine-tuning {f.text}" for f in self.transfer.failures)

    @property
    def done_line(self) -> str:
        """What was computed and what was found in the store."""
        images, found = sum(e.computed for e in self.embedded), sum(e.stored for e in self.embedded)
        parts = [f"embedded {images:,} images ({found:,} found in the store)", f"computed {self.scores_made:,} scores ({self.scores_found:,} found)"]
        if self.transfer is not None:
            parts.append(f"trained {self.transfer.made:,} networks ({self.transfer.found:,} found)")
        if any(self.looked):
            parts.insert(1, f"looked at {self.looked[0]:,} images through networks of sources ({self.looked[1]:,} found)")
        nothing = images == 0 and self.looked[0] == 0 and self.scores_made == 0 and (self.transfer is None or self.transfer.made == 0)
        return ("nothing was done twice: " if nothing else "") + ", ".join(parts)


def study_config(study: Study) -> dict[str, Any]:
    """The study, resolved: every option spelled out and every path absolute, in the form of a study file."""
    def component(thing: Any) -> dict[str, Any]:
        options = {k: v for k, v in vars(thing).items() if v is not None}
        return {thing.name: {k: str(v) if isinstance(v, Path) else list(v) if isinstance(v, tuple) else v for k, v in options.items()}}

    datasets = {
        name: component(spec.source) | {"tags": list(spec.tags), "attributes": dict(spec.attributes)} | ({"exclude": str(spec.exclude)} if spec.exclude else {})
        for name, spec in study.datasets.items()
    }
    top: dict[str, Any] = {
        "study": study.name, "seed": study.seed, "repeats": study.repeats, "size_match": study.size_match,
        "draws": study.draws, "ceiling": study.ceiling, "leakage": study.leakage, "device": study.device, "targets": list(study.targets),
        "sources": list(study.sources), "transfer": None if study.transfer is None else str(study.transfer), "extractor": component(study.extractor),
        "methods": [*(["all"] if study.all_methods else []), *(component(m) for m in study.methods)],
        "projection": None if study.projection is None else f"{study.projection.method}:{study.projection.dimensions}",
        "correlate": {k: v for k, v in describe(study.correlate).items() if k not in ("type", "version")},
    }
    if study.protocol is not None:
        top["finetune"] = {k: v for k, v in describe(study.protocol).items() if k not in ("type", "version")}
    if study.networks:
        top["networks"] = {name: component(one.extractor) | ({} if one.images is None else {"images": one.images}) for name, one in study.networks.items()}
    return top | {"datasets": datasets}


def check_out(study: Study, *, overwrite: bool, finished: bool = False) -> None:
    """Refuses, before any work, an output folder that cannot be written or that another configuration made."""
    path = study.out / "run.json"
    with resource_errors(study.out):
        study.out.mkdir(parents=True, exist_ok=True)
        if not os.access(study.out, os.W_OK):
            raise PermissionError(13, "not writable")
    if not path.is_file() or overwrite:
        return
    try:
        old = json.loads(path.read_text()).get("config", {})
    except (ValueError, AttributeError):
        return
    new = json.loads(json.dumps(study_config(study), default=str))
    keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    if keys:
        message = f"holds the results of another configuration (different: {', '.join(keys)})"
        fix = ("run the changed study first (simkit run --overwrite), or give another --out" if finished else
               "give --overwrite (the store keeps all finished work), or another --out")
        raise UsageError("SK107", str(study.out), message, fix)


def old_run(study: Study) -> dict[str, Any]:
    """What run.json of the output folder says; empty without one that can be read."""
    try:
        old = json.loads((study.out / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return old if isinstance(old, dict) else {}


def with_work(content: Content, study: Study, rows: Sequence[Mapping[str, Any]]) -> Content:
    """The content with what took how long: that of earlier runs of this configuration in this folder, and what was done now. A run that found everything in
    the store adds nothing, so that its page has the same bytes.
    """
    old = old_run(study)
    same = old.get("config_digest") == _config_digest(study)
    total: dict[tuple[str, str, str], list[float]] = {}
    before = old.get("work") if same else None
    for row in (*(before if isinstance(before, list) else ()), *rows):
        if row["count"]:
            entry = total.setdefault((str(row["stage"]), str(row["item"]), str(row["unit"])), [0, 0.0])
            entry[0] += int(row["count"])
            entry[1] += float(row["seconds"])
    return replace(content, work=tuple({"stage": stage, "item": item, "count": int(count), "unit": unit, "seconds": round(seconds, 1)}
                                       for (stage, item, unit), (count, seconds) in total.items()))


def _config_digest(study: Study) -> str:
    return digest(json.loads(json.dumps(study_config(study), default=str)))


def refuse_foreign(page: Path) -> None:
    """UsageError (SK107) where a page is there that simkit did not make."""
    if page.is_file():
        with resource_errors(page), page.open(encoding="utf-8", errors="replace") as file:
            ours = '<meta name="generator" content="simkit">' in file.read(4096)
        if not ours:
            raise UsageError("SK107", str(page), "is no page of simkit's, and would be replaced", "give another --out, or move the file")


def write_page_and_figures(content: Content, out: Path, *, figure_size: FigureSize, dpi: int) -> None:
    """report.html and the folder figures; figures of an earlier report under other names are removed, and nothing else.

    Raises:
        UsageError: there is a report.html that simkit did not make (SK107).
    """
    from simkit.report import build_page, save_figures

    refuse_foreign(out / "report.html")
    captions = out / "figures" / "captions.txt"
    before = set(re.findall(r"^([\w-]+): ", captions.read_text(encoding="utf-8"), re.MULTILINE)) if captions.is_file() else set()
    drawn = set(save_figures(content, out / "figures", dpi=dpi, size=figure_size))
    ours = {name for name in before if name in ("transfer", "forest", "scatter", "measure-agreement") or
            name.startswith(("transfer-", "measures-", "scatter-"))}
    for old in {out / "figures" / f"{name}.{kind}" for name in ours for kind in ("svg", "png")} - drawn:
        with resource_errors(old):
            old.unlink(missing_ok=True)
    write_text(out / "report.html", build_page(content))


def write_results(results: Results, made: Plan, started: tuple[float, float], *, figure_size: FigureSize = "page", dpi: int = 300) -> None:
    """Tables, figures, page and run.json, each atomically; run.json last, so that it stands for a complete folder."""
    out, content = results.out, results.content
    content.scores.to_csv(out / "scores.csv")
    if content.transfer is not None:
        content.transfer.to_csv(out / "transfer.csv")
    if content.ranking:
        columns = ("target", "rank", "source", "mean", "lower", "upper", "probability_best", "tied")
        rows = [(target, rank, r.source, r.mean, *(r.interval or (None, None)), r.probability_best, r.tied)
                for target, ranked in content.ranking.items() for rank, r in enumerate(ranked, 1)]
        write_text(out / "ranking.csv", csv_text(columns, rows))
    if content.correlation is not None:
        write_json(out / "correlation.json", content.correlation.as_dict())
    write_page_and_figures(content, out, figure_size=figure_size, dpi=dpi)
    config = study_config(made.study)
    write_text(out / "config.toml", toml_text(config | ({"store": str(made.study.store)} if made.study.store else {})))
    write_json(out / "run.json", {
        "command": sys.argv, "config": config, "config_digest": _config_digest(made.study), **content.provenance,
        "thumbnails": bool(content.thumbnails), "work": list(content.work), "leakage": [one.line for one in content.leakage],
        "skipped": [{"dataset": s.dataset, "key": s.key, "reason": s.reason} for s in content.skipped], "incomplete": list(results.incomplete),
        "embedded": sum(e.computed for e in results.embedded), "looked_at": results.looked[0],
        "scores_computed": results.scores_made, "scores_found": results.scores_found,
        "networks_trained": results.transfer.made if results.transfer else 0, "networks_found": results.transfer.found if results.transfer else 0,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started[0])), "wall_seconds": round(time.time() - started[0], 2),
        "cpu_seconds": round(time.process_time() - started[1], 2), "deterministic": "same seed and device give the same numbers",
    })
