"""What the name of a metric says: whether its values lie between 0 and 1, and whether it is better when lower (which is refused)."""

from __future__ import annotations

import re

from simkit.errors import UsageError

__all__ = ["GAIN", "canonical", "is_share", "kind_of_metric", "refuse_lower_is_better"]

BETWEEN_0_AND_1 = re.compile(r"(auc|auroc|roc-auc|auc-roc)(-(binary|ovr|ovo|macro|micro|weighted|prevalence))*|(balanced-)?accuracy")
"""Metrics whose values lie between 0 and 1; a relative gain of AUC is not one of them."""

LOWER_IS_BETTER = re.compile(
    r"[a-z]*(loss|losses|errors?|crossentropy)|err|(r|rm|nrm|n)?mse|(n|s)?mae|s?mape|r?msle|wape|rmsd|brier|nll|bce|(t|s|a|m)?ece|eer|hter|[wc]er|hinge"
    r"|perplexity|ppl|deviance|misclassifications?|misclassified|fpr|fnr")
"""Words of a metric's name (without digits) that say: lower is better."""

LOWER_PHRASE = re.compile(r"cross-entropy|(false-(positive|negative|discovery)|miss|failure)-rate")
"""The same in several words."""

TURNED = re.compile(r"(^|-)(neg|negated|negative|minus|inverse|inverted|skill|reduction|improvement|gain)(-|$)")
"""What turns such a name round: "neg-log-loss", "Brier skill score", "relative error reduction"; a minus sign before it does too."""

GAIN = "relative-gain"
"""The metric of a transfer table that is a gain in percent over the baseline that the table names."""


def canonical(metric: str) -> str:
    """The name of a metric without letter case and with hyphens: what two spellings of one have in common."""
    return metric.strip().casefold().replace("_", "-")


def is_share(metric: str) -> bool:
    """Whether a performance of this metric lies in 0..1 (AUC, accuracy and their kin)."""
    return BETWEEN_0_AND_1.fullmatch(canonical(metric)) is not None


def refuse_lower_is_better(metric: str, where: str) -> None:
    """Higher performance counts as better everywhere; a metric whose name says otherwise is refused.

    Raises:
        UsageError: the metric is a loss, an error or their kin (SK211).
    """
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "-", metric).casefold())
    name = re.sub(r"neg(ative)?-log-?likelihood", "nll", "-".join(words))
    lower = LOWER_PHRASE.search(name) or any(LOWER_IS_BETTER.fullmatch(word) for word in name.split("-"))
    if not lower or TURNED.search(name) or re.match(r"\s*1?\s*[-\u2212]", metric):
        return
    message = f"the performance is '{metric}', which by its name is better when lower: higher performance must be better, or the order is upside down"
    fix = f"negate the numbers and say so in the name of the metric ('minus {metric}'), or take another metric (such as metric='auc')"
    raise UsageError("SK211", where, message, fix)


def kind_of_metric(metric: str) -> str:
    """The metric, less how it is averaged over classes where it is an area under the ROC curve."""
    name = canonical(metric)
    return "auc" if BETWEEN_0_AND_1.fullmatch(name) and "accuracy" not in name else name
