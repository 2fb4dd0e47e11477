"""The unrelated data set: pictures of noise."""

from __future__ import annotations

import numpy as np

import simkit
from simkit.sources.noise import CLASSES, Noise


def test_the_same_options_give_the_same_pictures_and_more_go_on_where_fewer_ended(tmp_path: object) -> None:
    few, many = Noise(images=16, size=16).load("noise", None), Noise(images=24, size=16).load("noise", None)  # type: ignore[arg-type]
    assert few.classes == CLASSES
    assert few.digests == many.digests[:16]
    assert len(set(many.digests)) == 24
    assert Noise(images=16, size=16, seed=1).load("noise", None).digests != few.digests  # type: ignore[arg-type]
    assert few.labels is not None
    assert np.bincount(few.labels).tolist() == [4, 4, 4, 4]


def test_pictures_are_what_their_classes_say() -> None:
    data = Noise(images=40, size=32).load("noise", None)  # type: ignore[arg-type]
    assert data.labels is not None
    smooth = {name: [] for name in CLASSES}  # type: dict[str, list[float]]
    for index in range(40):
        picture = data.read(index).astype(float)
        smooth[CLASSES[data.labels[index]]].append(float(np.abs(np.diff(picture, axis=0)).mean()))
        assert picture.shape[2] == (1 if CLASSES[data.labels[index]] == "grey noise" else 3)
        assert picture.std() > 20
    assert max(smooth["blobs"]) < min(smooth["colour noise"])


def test_it_is_a_source_like_any_other() -> None:
    assert "noise" in simkit.SOURCES.names()
