"""An explanation in words: the sentences that come first, the tables of the terminal, the CSV files."""

from __future__ import annotations

from simkit.explanation import Cell, Coupling, Explanation, TargetClass, ToldApart
from simkit.report.cells import interval_text, number, p_text, plural
from simkit.report.closeness import AT_FLOOR
from simkit.report.layout import Column, paragraph, table
from simkit.tables import csv_text

__all__ = ["TABLES", "answer", "csv_files", "explanation_text", "features_found", "named", "pictured", "section_texts"]

TABLES = ("coupling.csv", "classes.csv", "images.csv", "features.csv")
"""Names of the CSV files."""

CHANCE = 0.05
"""Largest p at which two data sets count as told apart."""

CLOSE = 0.6
"""AUC below which little is told apart, whatever its p."""


def named(names: list[str], most: int = 5) -> str:
    """Names in a sentence; of many the first, and the number of the others."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def answer(found: Explanation) -> list[str]:
    """Why near or far, in a few sentences: the score, the classes that carry it, the classes that are not covered, the images, the features."""
    return [sentence for sentence in (
        _score_sentence(found), _parts_sentence(found), coupling_sentence(found), coverage_sentence(found.classes), images_sentence(found),
        features_sentence(found)) if sentence]


def _score_sentence(found: Explanation) -> str:
    score = found.score
    head = f"{found.method} from {found.source} to {found.target} is {number(score.value)}"
    head += f" {interval_text(score.interval)}" if score.interval else ""
    if score.p is not None:
        head += f", p {p_text(score.p)}"
    if score.floor is None:
        return f"{head} ({found.unit}); without a floor that number says neither near nor far."
    if any(AT_FLOOR in flag for flag in score.flags):
        return (f"{head}; two halves of {found.target} give {number(score.floor)}: the source was not shown to be farther than a second sample of the target "
                "would be (small differences are missed).")
    times = score.value / score.floor if score.floor > 0 and not found.higher_is_better else None
    far = f", {times:.1f} times as much" if times is not None and times >= 1.05 else ""
    return f"{head}; two halves of {found.target}, at half its size, give {number(score.floor)}{far}."


def _parts_sentence(found: Explanation) -> str:
    detail, parts = found.score.detail, found.parts
    if parts is not None:
        total = parts.mean_part + parts.covariance_part
        return f"{_percent(parts.mean_part, total)} of it are differences of the means, the rest of the covariances." if total > 0 else ""
    label, feature = detail.get("label_part"), detail.get("feature_part")
    if label is None or feature is None or not found.score.value > 0 or label == 0:
        return ""
    rest = "" if not detail.get("entropy_part") else f", {_percent(detail['entropy_part'], found.score.value)} of the solver's regularisation"
    images, classes = _percent(feature, found.score.value), _percent(label, found.score.value)
    return f"{images} of it are distances of images, {classes} distances of the classes they belong to{rest}."


def _percent(part: float, total: float) -> str:
    share = 100 * part / total
    return f"{share:.0f} %" if abs(share) >= 0.95 or share == 0 else f"{share:.1f} %"


def coupling_sentence(found: Explanation) -> str:
    """Which classes carry the value."""
    coupling = found.coupling
    if coupling is None or not coupling.cost > 0:
        return ""
    top = sorted(coupling.cells, key=lambda c: (-c.contribution, c.target, c.source))[:3]
    listed = ", ".join(f"{c.source} to {c.target} ({_percent(c.contribution, coupling.cost)})" for c in top if c.contribution > 0)
    text = f"Most of it is carried by {listed}" if sum(c.contribution for c in top) > 0.5 * coupling.cost else f"The largest parts of it are {listed}"
    judged = [c for c in coupling.cells if c.above is not None]
    if not judged:
        return f"{text}; how stable that is was not looked at."
    fed = {c.target for c in judged if c.above}
    without = [name for name in coupling.target_classes if name not in fed]
    if not without:
        return f"{text}; every class of the target takes more from some class of the source than chance would give."
    return f"{text}. For {len(without)} of {len(coupling.target_classes)} classes of the target ({named(without)}) no source class stands out from chance."


def coverage_sentence(classes: tuple[TargetClass, ...]) -> str:
    """Which classes of the target nothing covers."""
    judged = [c for c in classes if c.uncovered is not None]
    if not judged:
        return ""
    bare, far = [c for c in judged if c.uncovered], [c for c in judged if c.far]
    left = len(classes) - len(judged)
    rest = f" {plural(left, 'class has', 'classes have')} too few images to judge." if left else ""
    if bare:
        first = bare[0]
        listed = named([c.name for c in bare])
        return (f"{len(bare)} of {plural(len(judged), 'class', 'classes')} of the target {'is' if len(bare) == 1 else 'are'} not covered by the source, the "
                f"least covered first: {listed}. {first.name} costs {_times(first)}, and {_share(first.reached)} of its images have a source image among their "
                f"nearest neighbours ({_share(first.reached_floor)} by the target itself).{rest}")
    if far:
        return (f"No class of the target is out of the source's reach, but {named([c.name for c in far])} {'lies' if len(far) == 1 else 'lie'} farther off "
                f"than the target's own halves are from each other.{rest}")
    return f"No class of the target was shown to be farther from the source than chance allows; only large differences are found.{rest}"


def _times(one: TargetClass) -> str:
    if one.half_cost is None or one.floor is None or not one.floor > 0:
        return "more than its floor"
    return f"{one.half_cost / one.floor:.1f} times its floor"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def images_sentence(found: Explanation) -> str:
    """How well images are told apart."""
    apart = found.told_apart
    if apart is None:
        return ""
    head = f"A classifier tells images of the two sets apart with AUC {apart.auc:.2f}{'' if apart.p is None else f' (p {p_text(apart.p)})'}"
    if apart.p is not None and apart.p > CHANCE:
        return f"{head}: not shown to be better than chance, so pictures of single images mean little."
    if apart.auc < CLOSE:
        return f"{head}: barely; the pictures of single images mean little."
    return f"{head}: nearly every image gives its data set away." if apart.auc > 0.98 else f"{head}."


def nothing_to_see(apart: ToldApart) -> bool:
    """Whether the classifier finds nothing."""
    return apart.auc < CLOSE or (apart.p is not None and apart.p > CHANCE)


def features_found(found: Explanation) -> str:
    """How many features differ."""
    gap = found.features
    if not gap.permutations:
        return "features were not tested"
    return f"{len(gap.found)} of {len(gap.features):,} features differ (p of max-T at most 0.05)"


def features_sentence(found: Explanation) -> str:
    """Which features differ most."""
    gap = found.features
    if not gap.features:
        return "No feature varies within the two sets."
    listed = ", ".join(f"{f.name} ({f.difference:+.2f} sd)" for f in (gap.found or gap.features)[:3])
    if gap.permutations and not gap.found:
        return f"No feature differs by more than chance among {len(gap.features):,} would; the largest differences are {listed}."
    text = f"{features_found(found)}, most of all {listed}; half of the squared difference of the means lies in {plural(gap.half, 'feature')}"
    times = gap.squared / gap.expected if gap.expected > 0 else None
    return text[0].upper() + text[1:] + ("." if times is None else f", and it is {times:.1f} times what chance gives.")


def section_texts(found: Explanation) -> dict[str, str]:
    """How each section of the page was made, and how far it can be trusted."""
    score, coupling = found.score, found.coupling
    spread = f"Intervals: {found.repeats} random half-samples of both sides (delete-half jackknife, t), one cell at a time." if found.repeats else ""
    sums, of_classes = "", coupling is not None and coupling.solver == "classes"
    if coupling is not None:
        gap = abs(coupling.cost - coupling.value)
        same = gap <= 1e-6 * max(abs(coupling.value), 1e-300)
        sums = (f"Contributions (mass times cost) add up to {number(coupling.cost)}, "
                + ("the value of the measure." if same else f"the exact value; the measure's own solver ({coupling.solver}) gives {number(coupling.value)}."))
    return {
        "coupling": " ".join(part for part in (
            f"The cheapest way to move the source onto the target couples their {'classes' if of_classes else 'images'}; the map shows, for each class of "
            "the target, the share of its mass that comes from each class of the source.", sums, spread,
            "A share that its interval does not put above the source class's share of all images (independence) is marked °: at this number of images it may "
            "be noise. Which images are coupled depends on the features of this extractor; a coupling is no proof that classes mean the same.") if part),
        "pairs": "The measure couples classes, not images: side by side are the images nearest to the middle of each class." if of_classes else
                 "Of the image pairs that the plan couples within a cell, those that cost at most the median; of these the ones nearest to the middle of what "
                 "the cell couples: typical pairs, not the extreme ones. No image is shown twice in a cell.",
        "classes": "Cost: mean cost of a unit of the class's mass under the plan. Floor: the same when the target's other half takes the source's place, "
                   "both cut to the same size. A class is far when its excess over the floor is above 0 (95 % interval over half-samples, adjusted for the "
                   "number of classes), and not covered when moreover fewer than half as many of its images have a source image nearer than their 5th "
                   "nearest target image as have one of the target's other half. A class that is rarer in the source than in the target costs more too: "
                   "its mass must come from other classes.",
        "images": "Each image was judged by a classifier that was trained on other images (and other patients, where there are groups). Shown are those told "
                  "apart best, those nearest to the border, and those that most look like the other side; one image of a patient. That an image is told apart "
                  "says that something differs, not that it matters for transfer: scanners, borders and compression are told apart as well.",
        "features": "Standardised difference: target less source, in standard deviations within the sets. p: adjusted for the number of features (max-T "
                    f"over {found.features.permutations:,} exchanges of {'whole groups' if found.features.grouped else 'images'}). Features of a network "
                    "have numbers, not meanings: look at the images that have one lowest and highest. Correlated features differ together.",
        "score": "" if not score.flags else "Flags of the score: " + "; ".join(score.flags) + ".",
    }


# --- terminal --------------------------------------------------------------------------------------------------------------------------


def explanation_text(found: Explanation, width: int) -> str:
    """The answer, then short tables, for the terminal."""
    parts = ["\n".join(paragraph(sentence, width) for sentence in answer(found))]
    if found.coupling is not None:
        parts.append(_cells_text(found.coupling, width))
    if found.classes:
        parts.append(_classes_text(found.classes, width))
    parts.append(_features_text(found, width))
    parts += ["\n".join(paragraph(f"{section}: {why}", width, indent="  ", first="") for section, why in found.missing.items())] if found.missing else []
    flags = [*found.score.flags, *found.notes]
    parts += ["\n".join(paragraph(f"note: {flag}", width, indent="  ", first="") for flag in flags)] if flags else []
    return "\n\n".join(parts)


def _cells_text(coupling: Coupling, width: int) -> str:
    rows = [(c.source, c.target, _share_text(c), "" if c.cost is None else number(c.cost),
             _percent(c.contribution, coupling.cost) if coupling.cost > 0 else "") for c in coupling.largest[:8]]
    heads = [Column("source class"), Column("target class"), Column("share of it"), Column("cost", number=True), Column("of the value", number=True)]
    return "largest cells of the coupling (° not above independence):\n" + table(heads, rows, width, indent="  ")


def _share_text(cell: Cell) -> str:
    mark = "°" if cell.above is False else ""
    return f"{cell.share:.2f}{mark} {interval_text(cell.interval, 2)}".strip()


def _classes_text(classes: tuple[TargetClass, ...], width: int) -> str:
    heads = [Column("target class"), Column("images", number=True), Column("cost at half size", number=True), Column("floor", number=True),
             Column("excess 95 %"), Column("reached", number=True), Column("by itself", number=True), Column("verdict")]
    rows = [(c.name, str(c.images), _number(c.half_cost), _number(c.floor), interval_text(c.interval), _share(c.reached), _share(c.reached_floor), verdict(c))
            for c in classes[:8]]
    more = f" (first 8 of {len(classes)})" if len(classes) > 8 else ""
    return f"classes of the target, the least covered first{more}:\n" + table(heads, rows, width, indent="  ")


def verdict(one: TargetClass) -> str:
    """What is said about a class of the target."""
    if one.uncovered is None:
        return "not judged"
    return "not covered" if one.uncovered else "far" if one.far else "not beyond chance"


def _number(value: float | None) -> str:
    return "" if value is None else number(value)


def _features_text(found: Explanation, width: int) -> str:
    heads = [Column("feature"), Column("difference (sd)"), Column("p, max-T", number=True), Column("of the means", number=True)]
    rows = [(f.name, f"{f.difference:+.2f} {interval_text(f.interval, 2, sign=True)}", p_text(f.p), f"{100 * f.share:.1f} %")
            for f in found.features.features[:6]]
    return f"features that differ most ({features_found(found)}):\n" + table(heads, rows, width, indent="  ")


# --- files -----------------------------------------------------------------------------------------------------------------------------


def csv_files(found: Explanation) -> dict[str, str]:
    """File name -> CSV of every number: coupling (where there is one), classes (where there are), images, features."""
    out = {}
    if found.coupling is not None:
        out["coupling.csv"] = coupling_csv(found.coupling)
    if found.classes:
        out["classes.csv"] = classes_csv(found)
    if found.told_apart is not None:
        out["images.csv"] = images_csv(found.told_apart)
    out["features.csv"] = features_csv(found)
    return out


def coupling_csv(coupling: Coupling) -> str:
    """Every cell of the coupling."""
    head = ["source_class", "target_class", "mass", "share_of_target_class", "lower", "upper", "sd", "share_if_independent", "above_independence", "cost",
            "contribution", "pairs"]
    rows = [[c.source, c.target, c.mass, c.share, *(c.interval or (None, None)), c.spread, c.independent, c.above, c.cost, c.contribution,
             [f"{p.source} | {p.target}" for p in c.pairs]] for c in coupling.cells]
    return csv_text(head, rows)


def classes_csv(found: Explanation) -> str:
    """Every class of the target, the least covered first."""
    head = ["target_class", "images", "cost", "cost_at_half_size", "floor", "excess", "lower", "upper", "far", "reached", "reached_by_target", "uncovered",
            "nearest_source_class", "nearest_distance", "mean_part"]
    by_class = {} if found.parts is None else found.parts.by_class
    rows = [[c.name, c.images, c.cost, c.half_cost, c.floor, c.excess, *(c.interval or (None, None)), c.far, c.reached, c.reached_floor, c.uncovered,
             *(c.nearest or (None, None)), by_class.get(c.name)] for c in found.classes]
    return csv_text(head, rows)


def images_csv(apart: ToldApart) -> str:
    """The classifier's decision on every image, each side by how clearly it is told apart."""
    order = sorted(apart.scores, key=lambda s: (s.side, s.decision if s.side == "source" else -s.decision, s.key))
    return csv_text(["side", "image", "class", "group", "decision", "fold"], [[s.side, s.key, s.label, s.group, s.decision, s.fold + 1] for s in order])


def features_csv(found: Explanation) -> str:
    """Every feature that varies, the largest standardised difference first."""
    head = ["feature", "name", "source_mean", "target_mean", "difference_sd", "lower", "upper", "p_max_t", "share_of_squared_mean_difference",
            *(("mean_part", "sd_part") if found.parts else ())]
    parts = found.parts
    rows = [[f.number, f.name, f.source_mean, f.target_mean, f.difference, *f.interval, f.p, f.share, *(parts.by_feature[f.number] if parts else ())]
            for f in found.features.features]
    return csv_text(head, rows)


def pictured(found: Explanation) -> dict[str, list[str]]:
    """Side -> keys of the images that the page shows."""
    out: dict[str, list[str]] = {"source": [], "target": []}
    for cell in found.coupling.largest if found.coupling else ():
        for pair in cell.pairs:
            out["source"].append(pair.source)
            out["target"].append(pair.target)
    if found.told_apart is not None:
        for rows in (found.told_apart.clearest, found.told_apart.ambiguous, found.told_apart.mistaken):
            for side, images in rows.items():
                out[side] += [image.key for image in images]
    for feature in found.features.features:
        for side, ends in feature.images.items():
            out[side] += [key for keys in ends for key in keys]
    return {side: sorted(set(keys)) for side, keys in out.items()}
