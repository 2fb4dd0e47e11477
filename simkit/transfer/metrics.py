"""The performance of one fold, from its stored predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["auc", "metric_name"]


def metric_name(classes: int, average: str) -> str:
    """``auc`` for two classes, else ``auc-ovr-weighted`` or ``auc-ovr-macro``."""
    return "auc" if classes == 2 else f"auc-ovr-{average}"


def auc(labels: np.ndarray, probabilities: np.ndarray, *, classes: Sequence[str], average: str) -> tuple[float | None, str]:
    """Area under the ROC curve, 0..1; 0.5 is chance, 1 is a perfect order.

    Two classes: the AUC of the second class. More: the mean of the one-vs-rest AUCs, weighted by prevalence (as in arXiv 2107.05940) or
    plain ("macro").

    Args:
        labels: true class per image (n,).
        probabilities: float64 (n, C), rows sum to 1.
        classes: the C class names.
        average: "weighted" or "macro".

    Returns:
        The value and "", or None and the reason why it is undefined. A missing class is never scored as 0, 0.5 or NaN.
    """
    from sklearn.metrics import roc_auc_score

    missing = [name for index, name in enumerate(classes) if not (labels == index).any()]
    if missing:
        return None, f"undefined: no test image of class {', '.join(missing)}"
    bad = ~np.isfinite(probabilities).all(axis=1)
    if bad.any():
        return None, f"undefined: the network's output is NaN or infinite for {int(bad.sum())} of {len(bad)} test images"
    if len(classes) == 2:
        return float(roc_auc_score(labels, probabilities[:, 1])), ""
    return float(roc_auc_score(labels, probabilities, multi_class="ovr", average=average, labels=np.arange(len(classes)))), ""
