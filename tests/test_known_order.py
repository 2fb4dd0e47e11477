"""Mixtures of two real data sets in shares 0, 1/4, 1/2, 3/4, 1 are put in order by every measure of features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import SHARED

import simkit
from simkit.embedding import Embedding
from simkit.errors import SimkitError
from simkit.estimators.base import Score
from simkit.estimators.comparison import Sampling, score_pairs
from simkit.registry import ESTIMATORS, options_of

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def measures() -> list[str]:
    """Every registered measure between two embeddings whose options all have defaults."""
    found = []
    for name in ESTIMATORS.names():
        cls: Any = ESTIMATORS.get(name)
        if cls.view == "embedding" and cls.kind != "prior" and not any(info.required for info in options_of(cls)):
            found.append(name)
    return found


def mixtures(first: Embedding, second: Embedding, size: int) -> dict[str, Embedding]:
    """A target from the first set, and sources of ``size`` images whose share of the second set grows; no image is in two of them with the target."""
    order = [np.random.default_rng(seed).permutation(len(one)) for seed, one in enumerate((first, second))]
    rest = order[0][size:]
    views = {"target": first.take(order[0][:size])}
    for share in SHARES:
        count = round(share * size)
        rows = np.concatenate([first.features[rest[: size - count]], second.features[order[1][:count]]])
        labels = np.concatenate([first.labels[rest[: size - count]], second.labels[order[1][:count]]])  # type: ignore[index]
        views[f"{share:.0%}"] = Embedding(rows, labels, first.classes, name=f"{share:.0%}")
    return {name: Embedding(view.features, view.labels, view.classes, name=name) for name, view in views.items()}


@pytest.fixture(scope="module")
def digits() -> dict[str, Embedding]:
    """Handwritten digits, and the same turned by 90 degrees."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    turned = np.ascontiguousarray(np.rot90(x.reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, 64))
    classes = tuple(str(k) for k in range(10))
    return mixtures(Embedding(x, y, classes), Embedding(turned, y, classes), 300)


def ordered(name: str, views: dict[str, Embedding]) -> list[float]:
    pairs = [(f"{share:.0%}", "target") for share in SHARES]
    scores = score_pairs(ESTIMATORS.build(name), views, pairs, sampling=Sampling(seed=1))
    values = []
    for pair in pairs:
        score = scores[pair]
        assert isinstance(score, Score), str(score) if isinstance(score, SimkitError) else score
        values.append(-score.value if ESTIMATORS.build(name).higher_is_better else score.value)
    return values


SUPPORT = {"recall"}
"""Measures of what a source can reach, whatever the share: every mixture with some images like the target reaches all of it."""


def check_order(name: str, values: list[float]) -> None:
    if name in SUPPORT:
        assert max(values[:-1]) < values[-1], values
        assert np.ptp(values[:-1]) < 0.1, values  # four standard errors of a share of 300 images
    else:
        assert np.all(np.diff(values) > 0), values


@pytest.mark.parametrize("name", measures())
def test_digits_and_turned_digits(name: str, digits: dict[str, Embedding]) -> None:
    check_order(name, ordered(name, digits))


@pytest.fixture(scope="module")
def photographs() -> dict[str, Embedding]:
    """Dermoscopy, and textures in growing shares, as pixels."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"development data not found at {SHARED} (set SIMKIT_SHARED)")
    sets = [simkit.embed(SHARED / "data" / path, extractor={"pixels": {"size": 8}}) for path in ("isic7/isic7.csv", "dtd10")]
    names = tuple(f"class {k}" for k in range(10))
    return mixtures(*(Embedding(one.features, one.labels, names) for one in sets), 300)


@pytest.mark.shared
@pytest.mark.parametrize("name", measures())
def test_dermoscopy_and_textures(name: str, photographs: dict[str, Embedding]) -> None:
    check_order(name, ordered(name, photographs))
