"""Domain classifier: CPU seconds of the value and of its test with 999 permutations, beside scikit-learn in the same process. One thread.

    python benchmarks/domain_classifier.py [--quick] [--json FILE]

Peers: for the value a pipeline of StandardScaler and LogisticRegressionCV (the same five penalties, 3 inner folds, log-loss) in 5 stratified folds; for
the test a pipeline of StandardScaler and RidgeCV (leave-one-out error, the same five penalties) in the same 5 folds, refitted for 5 permutations and
scaled up to 999 from there. A refit of the logistic pipeline for every permutation would take 999 times its value.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from simkit.embedding import Embedding
from simkit.estimators.domain_classifier import DomainClassifier

PERMUTATIONS, REFITS = 999, 5
PENALTIES = np.array(DomainClassifier().penalties)


def clouds(n: int, d: int) -> tuple[Embedding, Embedding]:
    """Features as after a ReLU, with a spectrum that falls as in embeddings of networks; the second set is shifted a little."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((d, d)) / np.sqrt(d) * np.arange(1, d + 1) ** -0.5
    x, y = (np.maximum(rng.standard_normal((n, d)) @ mixing + shift, 0.0).astype(np.float32) for shift in (0.0, mixing[0]))
    return Embedding(x, name="x"), Embedding(y, name="y")


def cpu(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    out = work()
    return out, time.process_time() - start


def logistic_peer(x: np.ndarray, side: np.ndarray) -> float:
    d, n = x.shape[1], int(0.8 * len(x))
    model = LogisticRegressionCV(Cs=1.0 / (PENALTIES * d * n), cv=3, scoring="neg_log_loss", class_weight="balanced", max_iter=2000)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its options are being renamed; what it computes is not
        return float(cross_val_score(make_pipeline(StandardScaler(), model), x, side, cv=folds, scoring="roc_auc").mean())


def ridge_peer(x: np.ndarray, side: np.ndarray) -> list[float]:
    """The companion's AUC for some permutations, refitted each time."""
    rng, out = np.random.default_rng(1), []
    d, n = x.shape[1], int(0.8 * len(x))
    for _ in range(REFITS):
        permuted = rng.permutation(side)
        areas = []
        for train, test in StratifiedKFold(5).split(x, permuted):
            model = make_pipeline(StandardScaler(), RidgeCV(alphas=PENALTIES * d * n)).fit(x[train], permuted[train])
            areas.append(roc_auc_score(permuted[test], model.predict(x[test])))
        out.append(float(np.mean(areas)))
    return out


def case(classifier: Any, n: int, d: int, *, peers: bool) -> dict[str, Any]:
    source, target = clouds(n, d)
    method = DomainClassifier(classifier=classifier, permutations=PERMUTATIONS)
    first, second = method.summarize(source), method.summarize(target)
    value, seconds = cpu(lambda: method.compare(first, second, np.random.default_rng(0)))
    score, whole = cpu(lambda: method.tested(first, second, np.random.default_rng(0)))
    row = {"classifier": classifier, "n": f"{n} + {n}", "d": d, "AUC": value.value, "value s": seconds, "p": score.p,
           f"{PERMUTATIONS} permutations s": whole - seconds, "predicted s (512 features)": method.seconds(n, n)}
    if peers:
        x, side = np.concatenate([source.features, target.features]).astype(np.float64), np.repeat([0, 1], n)
        area, peer = cpu(lambda: logistic_peer(x, side))
        _, refits = cpu(lambda: ridge_peer(x, side))
        scaled = refits / REFITS * PERMUTATIONS
        row |= {"scikit-learn AUC": area, "scikit-learn value s": peer, "ratio": peer / seconds,
                f"scikit-learn {PERMUTATIONS} ridge refits s (scaled from {REFITS})": scaled, "ratio of tests": scaled / (whole - seconds)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json")
    given = parser.parse_args()
    sizes = [(200, 64), (300, 512)] if given.quick else [(250, 512), (500, 512), (1000, 512), (2000, 512), (1000, 64), (1000, 2048)]
    rows = []
    for classifier in ("logistic", "svm", "knn"):
        for n, d in sizes:
            rows.append(case(classifier, n, d, peers=classifier == "logistic"))
            print("  ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if given.json:
        with open(given.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
