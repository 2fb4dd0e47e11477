"""What the terminal shows: plain text that fits its width, every number with its interval, n, floor and flags."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from simkit.dataset import DatasetCard
from simkit.report.cautions import agreement_warnings, comparison_lines, count_gaps, noise_lines, power_lines
from simkit.report.cells import (
    ScoreCell,
    TransferCell,
    answer_of,
    interval_text,
    method_infos,
    metric_in_full,
    metric_of,
    number,
    p_text,
    plural,
    rankings,
    score_cells,
    signed,
    size_line,
    statistic_name,
    transfer_cells,
)
from simkit.report.closeness import REMEDY, closeness, closeness_answer
from simkit.report.content import Content, MethodInfo
from simkit.report.layout import GAP, LEAST, NARROWEST, Column, paragraph, table, text_width
from simkit.tables import ScoreTable

if TYPE_CHECKING:
    from simkit.correlation import MethodResult

__all__ = ["cards_text", "ranking_text", "scores_text", "summary_text"]

UNCONVERGED = "!"
BEST = "*"

SCALES = {"halves": "floor", "chance": "shuffled labels", "ceiling": "ceiling", "matched": "images a side"}
"""Rows below the sources: field of a cell, and its name."""

MOST_WARNINGS, MOST_NAMES, MOST_COMPARED = 6, 6, 3
"""Warnings in a summary, measures that one of them names, and measures of which more is said than fits the table; the page has all."""


def cards_text(cards: Sequence[DatasetCard], width: int = 80) -> str:
    """One row per data set: images, classes and their balance, groups, size, colour, images left out.

    Args:
        cards: of the data sets, in the order to show.
        width: of the terminal; below 40 it is taken as 40.
    """
    columns = [Column("data set"), Column("images", True), Column("classes", True), Column("per class", True), Column("groups", True),
               Column("median size", True), Column("colour", True), Column("left out", True)]
    rows = []
    for card in cards:
        counts = [count for count in card.class_counts.values() if count > 0]
        span = "no labels" if not counts else f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}-{max(counts)}"
        rows.append([card.name, str(card.images), str(card.classes), span, str(card.groups) if card.groups else "-", f"{card.width:.0f}x{card.height:.0f}",
                     colour_text(card), str(card.skipped)])
    tags = [paragraph(f"tags of {card.name}: {', '.join(card.tags)}", width, indent="    ", first="  ") for card in cards if card.tags]
    lists = [paragraph(f"{card.name}: {plural(card.excluded, 'image')} left out by its list (exclude)", width, indent="    ", first="  ")
             for card in cards if card.excluded]
    return "\n".join([table(columns, rows, width), *tags, *lists])


def colour_text(card: DatasetCard) -> str:
    """``grey``, ``colour``, or how many of the images are grey."""
    return "grey" if card.channels == 1 else "colour" if card.grey_share == 0 else f"{card.grey_share:.0%} grey"


class _Notes:
    """Footnotes: the same text gets the same letter, in the order of appearance."""

    def __init__(self) -> None:
        self.letters: dict[str, str] = {}

    def mark(self, texts: Iterable[str]) -> str:
        return "".join(self.letters.setdefault(text, f"({len(self.letters) + 1})") for text in texts)

    def lines(self, width: int) -> list[str]:
        return [paragraph(text, width, indent="      ", first=f"  {letter} ") for text, letter in self.letters.items()]


def scores_text(scores: ScoreTable, width: int = 80, *, methods: Sequence[MethodInfo] = ()) -> str:
    """One block per target: sources in rows, measures in columns; as many blocks below each other as the width asks for.

    The best value of a measure has a ``*``, one whose solver did not converge a ``!``; numbers in brackets behind the interval point to
    the flags below. The row "floor" is the value between two halves of the target, at half its size or less; whether a source can be told from a
    second sample of the target is decided at that size and said by a flag. "shuffled labels" is the floor of measures of transferability,
    "ceiling" is the value of an unrelated data set, "images a side" the
    common size at which the pairs were measured.

    Args:
        scores: the table.
        width: of the terminal; below 40 it is taken as 40.
        methods: descriptions of the measures, for their units.
    """
    content = Content("", (), (), (), "", scores, tuple(methods))
    cells, infos = score_cells(content), {info.name: info for info in method_infos(content)}
    targets = dict.fromkeys(record["target"] for record in scores.records)
    return "\n\n".join(_target_scores([cell for cell in cells.values() if cell.target == target], infos, width) for target in targets)


def _range(counts: Iterable[int | None]) -> str:
    known = sorted({count for count in counts if count is not None})
    return "" if not known else f"{known[0]}" if len(known) == 1 else f"{known[0]}-{known[-1]}"


def _direction(info: MethodInfo) -> str:
    return "higher = better" if info.higher_is_better else "lower = closer"


def _target_scores(cells: Sequence[ScoreCell], infos: dict[str, MethodInfo], width: int) -> str:
    target, notes = cells[0].target, _Notes()
    sources = list(dict.fromkeys(cell.source for cell in cells))
    methods = [name for name in infos if any(cell.method == name for cell in cells)]
    sizes = {source: _range(cell.n_source for cell in cells if cell.source == source) for source in sources}
    scales = [name for name in SCALES if any(getattr(cell, name) is not None for cell in cells)]
    filled = {method: _score_column([cell for cell in cells if cell.method == method], sources, scales, notes) for method in methods}
    names = [*sources, *(SCALES[name] for name in scales)]
    room = max(width, NARROWEST) - min(max(text_width(name) for name in names), LEAST) - max(5, *(len(size) for size in sizes.values())) - len(GAP)
    blocks = []
    for block in _blocks(methods, filled, room):
        head = [Column("source"), Column("n", True), *(Column(f"{method} ({_direction(infos[method])})", True) for method in block)]
        rows = [[name, sizes.get(name, ""), *(filled[method][index] for method in block)] for index, name in enumerate(names)
                if name in sizes or any(filled[method][index] for method in block)]
        blocks.append(table(head, rows, width))
    size = _range(cell.n_target for cell in cells)
    units = "; ".join(f"{name} in {infos[name].unit}" for name in methods if infos[name].unit)
    legends = [f"{BEST} best of the target; {UNCONVERGED} the solver did not converge: do not trust the value"]
    if "matched" in scales:
        legends.append("images a side: both sets were cut to so many images, mean over random samples, because the value depends on the sample size or because "
                       "it was asked for; a p-value is then that of the first sample")
    if any(cell.p is not None for cell in cells):
        legends.append("p: permutation test of equal distributions; with many images it is small for any pair: read the value first")
    if "ceiling" in scales:
        legends.append("ceiling: the value of an unrelated data set (pictures of noise, unless another was named); a source can lie beyond it")
    if "chance" in scales:
        legends.append("shuffled labels: the value when the target's labels are shuffled (lowest to highest of the sources): what chance gives at this "
                       "number of images, features and classes. A value that is not above its own by more than their spread (one-sided 95 %) is flagged")
    if "halves" in scales:
        legends.append("floor: the value between two halves of the target, at half its size or the images a side, whichever is less. It is held against parts "
                       "of each pair, not against the values above it: the flag \"not distinguishable from the target\" is what counts")
    legends += [f"units: {units}"] if units else []
    title = paragraph(f"Target {target}{f' (n = {size})' if size else ''}", width)
    return "\n".join([title, "\n\n".join(blocks), *(paragraph(line, width, indent="    ", first="  ") for line in legends), *notes.lines(width)])


def _score_column(cells: Sequence[ScoreCell], sources: Sequence[str], scales: Sequence[str], notes: _Notes) -> list[str]:
    by_source = {cell.source: cell for cell in cells}
    column: list[tuple[str, str]] = []
    for source in sources:
        cell = by_source.get(source)
        if cell is None:
            column.append(("missing", ""))
            continue
        best = BEST if cell.rank == 1 and cell.of > 1 and not cell.constant else ""
        column.append((cell.text, best + ("" if cell.converged else UNCONVERGED) + notes.mark(cell.flags)))
    for name in scales:
        values = sorted({getattr(cell, name) for cell in cells if getattr(cell, name) is not None})
        column.append(("" if not values else " to ".join(dict.fromkeys(number(value) for value in (values[0], values[-1]))), ""))
    return _aligned(column)


def _aligned(column: Sequence[tuple[str, str]]) -> list[str]:
    """Numbers with the marks behind them, padded so that the numbers end below each other."""
    room = max((len(mark) for _, mark in column), default=0)
    return [f"{text} {mark:<{room}}" if text and room else text for text, mark in column]


def _blocks(methods: Sequence[str], filled: dict[str, list[str]], room: int) -> list[list[str]]:
    """Measures in order, as many in a block as fit beside each other."""
    blocks: list[list[str]] = [[]]
    used = 0
    for method in methods:
        words = [*method.split(), "(lower", "(higher", "better)", "closer)"]
        size = len(GAP) + max(text_width(text) for text in (*words, *filled[method]))
        if blocks[-1] and used + size > room:
            blocks.append([])
            used = 0
        blocks[-1].append(method)
        used += size
    return blocks


def ranking_text(content: Content, width: int = 80) -> str:
    """Per target: the answer, and the sources in order of measured performance with interval, n, gap to the best and its interval.

    A target without a ranking is named with the reason.

    Args:
        content: of the report.
        width: of the terminal; below 40 it is taken as 40.
    """
    cells, ranking, metric, parts = transfer_cells(content), rankings(content), metric_of(content), []
    columns = [Column("#", True), Column("source"), Column(f"mean {metric} [95 %]", True), Column("n", True), Column("gap to best [95 %]", True),
               Column("P best", True)]
    for target in content.targets:
        rows, notes = [], []
        for row in ranking.get(target, ()):
            cell = cells[target, row.source]
            gap = "" if row.gap_to_best is None else f"{row.gap_to_best:.3f} {interval_text(row.gap_interval, 3)}".rstrip()
            best = "" if row.probability_best is None else f"{row.probability_best:.2f}"
            value = "undefined" if cell.mean is None else cell.text
            name = f"{row.source} (baseline)" if cell.baseline else row.source
            rank = "-" if cell.rank is None else str(cell.rank)
            rows.append([f"{rank}=" if cell.tied else rank, name, value, str(cell.n), gap, best])
            if cell.undefined:
                notes.append(f"{row.source}: {plural(cell.undefined, 'replicate')} undefined" + (f": {cell.reason}" if cell.reason else ""))
        if any(cell.tied for key, cell in cells.items() if key[0] == target):
            notes.insert(0, "= not distinguishable from the best")
        text = table(columns, rows, width) if rows else paragraph("No transfer to this target was measured, so nothing is ranked.", width)
        lines = [paragraph(note, width, indent="    ", first="  ") for note in notes]
        parts.append("\n".join([paragraph(f"Target {target}", width), *_answer(content, target, width), text, *lines]))
    return "\n\n".join(parts)


def remark(cell: TransferCell) -> str:
    """What must be said beside a mean: tied, baseline, undefined and why."""
    words = []
    if cell.baseline:
        words.append("baseline")
    if cell.tied:
        words.append("not distinguishable from the best")
    if cell.mean is None:
        words.append(f"undefined: {cell.reason}" if cell.reason else "undefined")
    elif cell.undefined:
        words.append(f"{plural(cell.undefined, 'replicate')} undefined" + (f": {cell.reason}" if cell.reason else ""))
    return "; ".join(words)


def _answer(content: Content, target: str, width: int) -> list[str]:
    answer = answer_of(content, target)
    return [paragraph(answer, width, indent="  ")] if answer else []


MOST_GAPS = 6
"""Lines of gaps, and of leakage, that the terminal shows; the page shows all."""

LEAKAGE = "Leakage (the scores and performances that it touches are flagged; `simkit leakage` shows the pairs and lists what to leave out)"


def summary_text(content: Content, width: int = 80) -> str:
    """What `simkit run` ends with: the answer per target, mean performance of every pair, whether similarity predicts it, what is missing.

    Where no transfer was measured: the order of every measure, and that similarity is all there is.

    Args:
        content: of the report.
        width: of the terminal; below 40 it is taken as 40.
    """
    answers = [paragraph(_named(target, answer_of(content, target) or closeness_answer(content, target) or "no answer."), width, indent="    ", first="  ")
               for target in content.targets]
    measured = bool(content.transfer or content.ranking)
    gaps = count_gaps(content) or ["Nothing was left out, and everything asked for was computed."]
    if len(gaps) > MOST_GAPS:
        gaps = [*gaps[:MOST_GAPS], f"{len(gaps) - MOST_GAPS} more on the page"]
    leaks = [one.line for one in content.leakage]
    if len(leaks) > MOST_GAPS:
        leaks = [*leaks[:MOST_GAPS], f"{len(leaks) - MOST_GAPS} more on the page"]
    return "\n\n".join([
        "\n".join([paragraph(f"Study {content.study}: {size_line(content)}", width), *answers]),
        *([_transfer_text(content, width), agreement_text(content, width)] if measured else _closeness_texts(content, width)),
        *(["\n".join([LEAKAGE, *(paragraph(line, width, indent="    ", first="  ") for line in leaks)])] if leaks else []),
        "\n".join(["Gaps", *(paragraph(line, width, indent="    ", first="  ") for line in gaps)]),
    ])


def _named(target: str, answer: str) -> str:
    return answer if answer.startswith(f"{target}:") else f"{target}: {answer}"


def _closeness_texts(content: Content, width: int) -> list[str]:
    """The order of every measure, one table a target; after them what that does not say."""
    out = []
    for target in content.targets:
        rows = [[one.method.name, one.order, number(one.cells[0].value), one.remark] for one in closeness(content, target)]
        if rows:
            columns = [Column("measure"), Column("most similar first"), Column("value", True), Column("remark")]
            head = paragraph(f"Target {target}: sources as each measure orders them (= joins equal values), value of the first", width)
            out.append(f"{head}\n{table(columns, rows, width)}")
    return [*out, paragraph(f"No transfer was measured, so whether similarity predicts it between these data sets is not known. {REMEDY}", width)]


def _transfer_text(content: Content, width: int) -> str:
    cells = transfer_cells(content)
    targets = [target for target in content.targets if any(key[0] == target for key in cells)]
    sources = [source for source in dict.fromkeys((*content.sources, *(key[1] for key in cells))) if any((target, source) in cells for target in targets)]
    columns = {target: _aligned([_transfer_text_cell(cells.get((target, source)), source == target) for source in sources]) for target in targets}
    room = max(width, NARROWEST) - min(max((text_width(name) for name in sources), default=1), LEAST)
    blocks = []
    for block in _blocks(targets, columns, room):
        rows = [[source, *(columns[target][index] for target in block)] for index, source in enumerate(sources)]
        blocks.append(table([Column("source"), *(Column(target, True) for target in block)], rows, width))
    ties = any(cell.tied for cell in cells.values())
    head = f"Mean {metric_in_full(content)} of source (row) on target (column), 95 % interval, rank"
    head += "; = is not distinguishable from the best" if ties else ""
    head += "; base is a baseline" if any(cell.baseline for cell in cells.values()) else ""
    return "\n".join([paragraph(head, width), "\n\n".join(blocks)])


def _transfer_text_cell(cell: TransferCell | None, same: bool) -> tuple[str, str]:
    """Mean with interval, and the rank. The ends of the interval are printed, as it need not lie evenly about the mean (an AUC ends at 1)."""
    if cell is None or cell.mean is None:
        return "undefined" if cell else "itself" if same else "missing", ""
    return cell.text, "base" if cell.baseline else cell.rank_text


def has_signs(result: MethodResult, *, baseline: bool) -> bool:
    """Whether there is a correlation in some target, so that it can be said in how many it is positive; that of a random source is 0 by definition."""
    return not (baseline and result.method == "random") and any(one.spearman is not None for one in result.targets)


def agreement_text(content: Content, width: int = 80) -> str:
    """Whether similarity predicts transfer: mean correlation of every measure and baseline with interval, p, regret; and the caveats."""
    found = content.correlation
    if found is None:
        return paragraph("Whether similarity predicts transfer was not computed.", width)
    columns = [Column("measure"), Column(f"mean {statistic_name(found)} [95 %]", True), Column("p", True), Column("Holm", True), Column("max-T", True),
               Column("above 0", True), Column("regret", True), Column("vs static", True)]
    rows = []
    for result, suffix in (*((r, "") for r in found.methods), *((r, " (baseline)") for r in found.baselines)):
        value = f"{signed(result.mean)} {interval_text(result.interval, 2, sign=True)}".rstrip()
        above = f"{result.positive_targets}/{len(result.targets)}" if has_signs(result, baseline=bool(suffix)) else ""
        rows.append([result.method + suffix, value, p_text(result.p_value), p_text(result.p_holm), p_text(result.p_max), above,
                     "" if result.regret is None else f"{result.regret:.3f}", "" if result.versus_static is None else signed(result.versus_static)])
    head = (f"Does similarity predict transfer? {found.n_pairs} pairs, {found.n_sources} sources, {found.n_targets} targets. Holm, max-T: p adjusted for the "
            "number of measures; above 0: targets with a positive Spearman")
    warnings = agreement_warnings(found, most=MOST_NAMES)
    notes = [*([f"Resolution: {found.resolution}"] if found.resolution else []), *power_lines(found), *comparison_lines(found, most=MOST_COMPARED)]
    notes += noise_lines(found)
    notes += warnings if len(warnings) <= MOST_WARNINGS else [*warnings[:MOST_WARNINGS], f"{len(warnings) - MOST_WARNINGS} more on the page"]
    return "\n".join([paragraph(head, width), table(columns, rows, width), *(paragraph(note, width, indent="    ", first="  ") for note in notes)])
