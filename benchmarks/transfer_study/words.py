"""RESULTS.md: what was found, in words and tables, every number taken from the results."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

LEVEL = 0.05
NAMED = ("otdd", "frechet", "domain-classifier")
"""The measures that most studies take; reported whatever they say."""


def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def span(interval: Sequence[float] | None, digits: int = 2) -> str:
    return "no interval" if interval is None else f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def probability(value: float | None) -> str:
    """A p-value; to three digits where it is small."""
    return "-" if value is None else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def machine(device: str) -> str:
    """Processor, cores, versions; no name of the machine."""
    import torch
    import torchvision

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        model = next((line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")), model)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (f"{model}, {cores} cores; device {device}; {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}, "
            f"torchvision {torchvision.__version__}")


def line(one: Any) -> str:
    """What the correlation says about a measure."""
    if one.mean is None:
        return f"undefined ({one.undefined})"
    return (f"mean Spearman {one.mean:+.2f}, 95 % {span(one.interval)}, p {probability(one.p_value)}, adjusted {probability(one.p_max)}, "
            f"positive in {one.positive_targets} of {len(one.targets)} targets")


def transfer_finding(ranking: Mapping[str, Sequence[Any]], gains: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One paragraph a target."""
    out = []
    for target, ranked in ranking.items():
        sources = [one for one in ranked if not one.baseline and one.mean is not None]
        best = next((one for one in sources if one.best), None)
        if best is None:
            out.append(f"- **{target}**: no source has a value.")
            continue
        tied = [one.source for one in sources if one.tied and not one.best]
        scratch = next((one for one in ranked if one.source == "scratch"), None)
        text = f"- **{target}**: best is `{best.source}`, {best.metric} {number(best.mean, 3)}, 95 % {span(best.interval, 3)}. "
        if scratch is not None and scratch.gap_to_best is not None:
            shown = "" if scratch.gap_interval is None else f", 95 % {span(scratch.gap_interval, 3)}"
            sure = "" if scratch.gap_interval is not None and scratch.gap_interval[0] > 0 else "; that interval holds 0"
            text += f"Scratch has {number(scratch.mean, 3)}; the best source gains {scratch.gap_to_best:+.3f} over it{shown}{sure}. "
        text += f"Not told apart from the best: {', '.join(f'`{name}`' for name in tied) if tied else 'none'} ({len(tied)} of {len(sources) - 1})."
        worse = [source for source, gain in gains.get(target, {}).items() if gain["mean"] < 0]
        text += f" Below scratch on average: {', '.join(f'`{name}`' for name in worse) if worse else 'none'}."
        out.append(text)
    return out


def correlation_finding(found: Any, without: Any | None) -> list[str]:
    """Whether similarity predicted transfer here, and how sure that is."""
    methods = [one for one in found.methods if one.mean is not None]
    nominal, adjusted = ([one for one in methods if value(one) is not None and value(one) <= LEVEL] for value in (lambda o: o.p_value, lambda o: o.p_max))
    best = methods[0]
    if adjusted:
        right, wrong = ([f"`{one.method}`" for one in adjusted if (one.mean > 0) == positive] for positive in (True, False))
        verdict = (f"{len(right)} of {len(methods)} measures order the sources better than chance after adjustment for their number"
                   + (f": {', '.join(right)}." if right else "."))
        verdict += f" In the wrong direction: {', '.join(wrong)}." if wrong else ""
    else:
        verdict = (f"**No measure of {len(methods)} is shown to predict transfer** in this study: none has p <= {LEVEL:g} after adjustment for their number "
                   f"({len(nominal)} without it; {LEVEL * len(methods):.1f} are expected by chance if none does). That is no proof that they do not.")
    out = [verdict, f"Highest mean: `{best.method}`, {line(best)}. It was picked by the same data."]
    out += [f"`{one.method}`: {line(one)}." for one in methods if one.method in NAMED and one is not best]
    for one in found.baselines:
        if one.mean is not None and one.method != "random":
            static = "the order of the sources in the other targets, which needs no measure; its p permutes within each target and is more lenient"
            what = static if one.method == "static" else "the number of images of the source"
            out.append(f"Baseline `{one.method}` ({what}): {line(one)}.")
    share = [(one.method, one.regret) for one in (best, *found.baselines) if one.regret is not None]
    out.append("AUC lost on average by taking the first source of the list: " + ", ".join(f"`{name}` {number(regret, 3)}" for name, regret in share) + ".")
    out.append(f"What could be seen: {found.resolution}.")
    if found.power:
        enough = [true for true, chance in sorted(found.power) if chance >= 0.8]
        what = f"a true mean Spearman of {enough[0]:.2f}" if enough else "more than any true correlation can give"
        out.append(f"A single measure that is tested alone needs {what} to be seen (p <= {LEVEL:g}) with a probability of 80 %.")
    if found.ceiling_of_mean:
        shown = ", ".join(f"{target} {number(value)}" for target, value in found.ceiling_of_mean.items())
        out.append(f"A score without error could reach, because the folds are noisy: {shown}.")
    if without is not None:
        other = {one.method: one for one in without.methods}
        shown = "; ".join(f"`{name}` {line(other[name])}" for name in dict.fromkeys((best.method, *NAMED)) if name in other)
        out.append(f"Without the pair isic7 -> isic7mn (same archive, so as good as a self pair): {shown}.")
    return out


def results_text(facts: Mapping[str, Any]) -> str:
    """The whole file."""
    from simkit import __version__

    found, setting, minutes = facts["correlation"], facts["setting"], facts["minutes"]
    total = sum(minutes.values())
    names = tuple(f"{one.method}:" for one in found.methods)
    warnings = [item for item in found.warnings if not item.startswith(names)]
    warnings.append(f"{len(found.warnings) - len(warnings)} more remarks on single measures stand in `correlation.txt`.")
    seconds = facts["training_seconds"]
    runs = (f"{facts['runs']} fine-tunings on {len(facts['targets'])} targets, {len(facts['sources'])} sources ({len(setting.sources)} data sets that were "
            f"pretrained on here, {len(setting.weights)} checkpoints, scratch), {setting.folds} folds")
    parts = [
        "# Transfer study: results", "",
        f"Written by `python -m benchmarks.transfer_study` on {datetime.now(UTC):%Y-%m-%d}, simkit {__version__}. "
        f"Machine: {facts['machine']}. " + ("**A smoke test: the numbers mean nothing.**" if setting.quick else ""), "",
        f"{setting.network} at {setting.image_size} px, {setting.pretrain_epochs} epochs of pretraining, {setting.epochs} of fine-tuning; {runs}. "
        f"Seconds inside fine-tuning runs, added up: {seconds:,.0f}. Minutes: "
        + ", ".join(f"{stage} {value:.1f}" for stage, value in minutes.items()) + f"; in all {total:.1f}.", "",
        "## How well sources transfer", "", *transfer_finding(facts["ranking"], facts["gains"]), "",
        f"Intervals allow for the overlap of the training folds (Nadeau and Bengio 2003); with {setting.folds} folds they are wide. One seed for the folds and "
        "for each pretraining: another pretraining of the same source could rank elsewhere, which these intervals do not hold. The best source was picked by "
        "the same folds, and comparisons with it are not adjusted for their number.", "",
        "![AUC of every pair](auc_heat_map.png)", "", "![AUC by source](auc_by_source.png)", "", auc_table(facts), "",
        "## Does similarity predict transfer?", "",
        f"{found.n_pairs} pairs of {found.n_sources} sources and {found.n_targets} targets: the data sets alone, because checkpoints and scratch have no "
        f"images to measure. Features: {facts['extractor']}.", "", *(f"{item}\n" for item in correlation_finding(found, facts["without"])),
        "![Similarity against AUC](similarity_and_auc.png)", "", correlation_table(found), "",
        "p permutes source labels jointly in all targets; adjusted: step-down maximum over the measures. Intervals resample sources and targets together. "
        "`correlation.txt` and `correlation.json` hold the rest, `scores.csv` every score.", "",
        "## What limits this", "", *(f"- {item}" for item in (*facts["limits"], *warnings)), "",
    ]
    if facts["unavailable"]:
        parts += ["Not computed: " + "; ".join(facts["unavailable"]) + ".", ""]
    if facts["failures"]:
        parts += ["Failed runs:", "", *(f"- {one}" for one in facts["failures"]), ""]
    return "\n".join(parts)


def auc_table(facts: Mapping[str, Any]) -> str:
    folds, gains = facts["folds"], facts["gains"]
    rows = []
    for source in facts["sources"]:
        cells = []
        for target in facts["targets"]:
            values = folds.get((source, target))
            if values is None:
                cells.append("self" if source == target else "-")
                continue
            gain = gains[target].get(source)
            removed = facts["removed"].get((source, target))
            cells.append(f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})" + ("" if gain is None else f", {gain['mean']:+.1f} %")
                         + ("*" if removed else ""))
        rows.append([source, *cells])
    head = ["source", *(f"{target} ({facts['metrics'][target]})" for target in facts["targets"])]
    text = table(head, rows) + "\n\nMean over folds (lowest to highest fold), mean gain over scratch in percent, fold by fold."
    if facts["removed"]:
        pairs = ", ".join(f"{source} -> {target}" for source, target in facts["removed"])
        text += f"\n\\* {pairs}: the two share images. The source is pretrained anew for each fold without the images of the test fold."
    leaky = ", ".join(f"{one['source']} -> {one['target']} ({one['images']} images)" for one in facts["leaky"])
    text += f"\n\nPretrainings that have seen test images: {leaky or 'none'}" + ("; of the checkpoints that is not known." if facts["setting"].weights else ".")
    return text


def correlation_table(found: Any) -> str:
    rows = []
    for kind, results in (("", found.methods), (" (baseline)", found.baselines)):
        for one in results:
            if one.mean is None:
                rows.append([f"{one.method}{kind}", "-", "-", "-", "-", "-", "-"])
                continue
            interval = span(one.interval) if one.interval else "-"
            rows.append([f"{one.method}{kind}", f"{one.mean:+.2f}", interval, probability(one.p_value), probability(one.p_max),
                         f"{one.positive_targets} of {len(one.targets)}", number(one.regret, 3)])
    return table(["measure", "mean Spearman", "95 %", "p", "p adjusted", "positive targets", "AUC lost"], rows)
