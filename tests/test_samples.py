"""The sample sets: real images from installed packages, deterministic, grouped, and with targets that are neither trivial nor hopeless."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from simkit.dataset import NOTIONS, Dataset
from simkit.errors import ResourceError, UsageError
from simkit.registry import SOURCES, Spec
from simkit.sources import detect, samples
from simkit.sources.decode import decode
from simkit.sources.samples import SETS, Samples

COUNTS = {
    "digits": (500, 10, (8, 8)), "documents": (238, 2, (24, 24)), "faces": (200, 2, (25, 25)), "histology": (353, 2, (24, 24)),
    "photographs": (498, 7, (48, 48)), "retina": (455, 2, (24, 24)), "sky": (500, 2, (32, 32)), "textures": (498, 3, (32, 32)),
}


@pytest.fixture(scope="module")
def sets() -> dict[str, Dataset]:
    return {name: Samples(set=name).load(name, Path()) for name in SETS}  # type: ignore[arg-type]


def test_every_set_has_the_images_classes_and_sizes_that_are_documented(sets: dict[str, Dataset]) -> None:
    assert set(sets) == set(COUNTS)
    for name, dataset in sets.items():
        images, classes, size = COUNTS[name]
        assert len(dataset) == pytest.approx(images, abs=3), name  # quantiles may fall otherwise in another version of a package
        assert len(dataset.classes) == classes
        assert min(dataset.class_counts.values()) >= 50
        assert len(set(dataset.keys)) == len(dataset)
        for index in range(len(dataset)):
            image = dataset.read(index)
            assert image.dtype == np.uint8
            assert image.shape in {(*size, 1), (*size, 3)}
        assert set(dataset.attributes) == set(NOTIONS)
        assert len(dataset.tags) >= 3
        assert dataset.origin == f"samples:{name}"
        assert name in (Samples.__doc__ or "")


def test_the_same_call_gives_the_same_content(sets: dict[str, Dataset]) -> None:
    for name in ("histology", "digits"):
        again = Samples(set=name).load("other name", Path("elsewhere"))  # type: ignore[arg-type]
        assert again.fingerprint == sets[name].fingerprint
    assert len({dataset.fingerprint for dataset in sets.values()}) == len(sets)


def test_groups_are_blocks_of_the_picture_and_no_patch_lies_in_two(sets: dict[str, Dataset]) -> None:
    for name, dataset in sets.items():
        if name in ("digits", "faces"):
            assert dataset.groups is None
            continue
        assert dataset.groups is not None
        for key, group in zip(dataset.keys, dataset.groups, strict=True):
            picture, place = key.rsplit("/", 1)
            row, column = (int(part) // 4 for part in place.split("-"))
            assert group == f"{picture}/{row}-{column}"
        assert len(set(dataset.groups)) >= 16


def test_patches_are_cut_side_by_side_from_the_picture(sets: dict[str, Dataset]) -> None:
    spec = importlib.util.find_spec("skimage")
    assert spec
    assert spec.submodule_search_locations
    picture = decode(Path(spec.submodule_search_locations[0]) / "data" / "brick.png")
    dataset = sets["textures"]
    taken = np.zeros(picture.shape[:2], dtype=int)
    for index, key in enumerate(dataset.keys):
        if key.startswith("brick/"):
            row, column = (int(part) * 32 for part in key.removeprefix("brick/").split("-"))
            assert np.array_equal(dataset.read(index), picture[row : row + 32, column : column + 32])
            taken[row : row + 32, column : column + 32] += 1
    assert taken.max() == 1


def test_targets_are_learnable_but_not_from_the_mean_level_alone(sets: dict[str, Dataset]) -> None:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    for name in ("histology", "retina"):
        dataset = sets[name]
        images = np.stack([dataset.read(i)[..., 0] for i in range(len(dataset))]).astype(float)
        flat = images.reshape(len(images), -1)
        steps = [np.abs(np.diff(images, axis=axis)).reshape(len(images), -1) for axis in (1, 2)]
        texture = np.column_stack([flat.mean(1), flat.std(1), *(np.quantile(part, [0.1, 0.5, 0.9], axis=1).T for part in (flat, *steps))])
        folds = StratifiedGroupKFold(4, shuffle=True, random_state=0)

        def auc(model: object, features: np.ndarray, folds: object = folds, dataset: Dataset = dataset) -> float:
            scores = cross_val_predict(model, features, dataset.labels, groups=dataset.groups, cv=folds, method="predict_proba")  # type: ignore[arg-type]
            return float(roc_auc_score(dataset.labels, scores[:, 1]))

        assert auc(LogisticRegression(), flat.mean(1, keepdims=True) / 255) < 0.7, name
        assert 0.7 < auc(RandomForestClassifier(100, random_state=0), texture) < 0.98, name


def test_maximum_thins_the_largest_classes_first_and_evenly(sets: dict[str, Dataset]) -> None:
    few = Samples(set="photographs", maximum=70).load("d", Path())
    assert set(few.class_counts.values()) == {10}
    assert set(few.keys) <= {f"{patch.label}/{patch.key.split('/')[1]}" for patch in SETS["photographs"].make(48)}
    rows = [int(key.split("/")[1].split("-")[0]) for key in few.keys if key.startswith("temple")]
    assert (min(rows), max(rows)) == (0, 7)  # from the top of the picture to its bottom
    every = Samples(set="photographs", maximum=10_000).load("d", Path())
    assert len(every) == len(SETS["photographs"].make(48)) > 700
    assert sets["photographs"].class_counts["cat"] == every.class_counts["cat"] == 54  # the smallest class loses none


def test_size_is_an_option_of_the_sets_that_are_cut() -> None:
    dataset = Samples(set="textures", size=64).load("d", Path())
    assert dataset.read(0).shape == (64, 64, 1)
    assert len(dataset) == 3 * 8 * 8
    with pytest.raises(UsageError, match=r"samples\.digits\.size: 32, but its images are stored with 8 px"):
        Samples(set="digits", size=32).load("d", Path())
    with pytest.raises(UsageError, match=r"samples\.documents\.size: no patch of 180 px fits for handwriting"):
        Samples(set="documents", size=180).load("d", Path())
    with pytest.raises(UsageError, match=r"samples\.digits\.maximum: 5 images for 10 classes"):
        Samples(set="digits", maximum=5).load("d", Path())
    for name in ("histology", "retina"):
        with pytest.raises(UsageError, match="no patch of 600 px fits for"):
            Samples(set=name, size=600).load("d", Path())  # type: ignore[arg-type]


def test_options_are_checked_by_name() -> None:
    assert isinstance(SOURCES.build(Spec("samples", {"set": "faces"})), Samples)
    assert detect("samples:retina").options == {"set": "retina"}
    with pytest.raises(UsageError, match=r"'histologie' is not valid here.*did you mean 'histology'"):
        SOURCES.build(Spec("samples", {"set": "histologie"}))
    with pytest.raises(UsageError, match="option 'set' is required"):
        SOURCES.build(Spec("samples", {}))
    with pytest.raises(UsageError, match="out of range"):
        SOURCES.build(Spec("samples", {"set": "faces", "size": 4}))


def test_a_picture_that_the_installed_package_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResourceError, match=r"scikit-image: the installed package \([0-9.]+\) does not hold the picture data/nothing\.png") as caught:
        samples._picture("nothing.png")
    assert caught.value.problems[0].code == "SK303"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=r"scikit-learn: the installed package \(not installed\) does not hold the picture"):
        samples._picture("china.jpg")


def test_reading_gives_copies(sets: dict[str, Dataset]) -> None:
    first = sets["faces"].read(0)
    before = first.copy()
    first[:] = 0
    assert np.array_equal(sets["faces"].read(0), before)
