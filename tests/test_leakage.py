"""Copies of images: exact ones by bytes and pixels, near ones by hash, embedding and pixels; what is no copy; within splits and groups."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import simkit
from simkit.dataset import Dataset
from simkit.embedding import Embedding
from simkit.errors import UsageError
from simkit.leakage.exact import exact_between, exact_within
from simkit.leakage.hashing import hash_candidates
from simkit.leakage.looks import LOOK, Looks
from simkit.leakage.near import Square, near_pairs
from simkit.leakage.neighbours import HIGHEST, Features, calibrated, embedding_candidates
from simkit.leakage.searching import nearest, unit_rows
from simkit.leakage.verification import ORIENTATIONS, aligned, turned
from simkit.pipeline.leakage import find_leakage, leakage_between, leakage_within
from simkit.pipeline.progress import Progress
from simkit.recipe import rng_for
from simkit.sources.exclusion import without
from simkit.store import Store


def scene(seed: int, side: int = 96) -> np.ndarray:
    """A picture with structure at every scale, as photographs have: noise whose power falls with the frequency, uint8 (side, side, 3)."""
    rng = rng_for(seed, "scene")
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side))) + 1 / side
    planes = [np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) / frequency**1.2).real for _ in range(3)]
    grey = planes[0]
    picture = np.stack([grey + 0.3 * plane for plane in planes], axis=2)
    picture = (picture - picture.mean()) / picture.std()
    return np.clip(128 + 45 * picture, 0, 255).astype(np.uint8)


def save(image: np.ndarray, path: Path, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


def jpeg(image: np.ndarray) -> np.ndarray:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=50)
    return np.asarray(Image.open(out))


def half(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((48, 48), Image.Resampling.BILINEAR))


CHANGES = {
    "jpeg": jpeg, "half": half, "crop": lambda x: x[5:91, 5:91], "corner": lambda x: x[:91, 5:], "flip": lambda x: x[:, ::-1],
    "bright": lambda x: np.clip(x * 1.1, 0, 255).astype(np.uint8), "upside": lambda x: x[::-1], "clockwise": lambda x: np.rot90(x, -1),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``source``: 40 scenes; ``target``: 20 other scenes, and each change of one of the first eight scenes of the source."""
    for number in range(40):
        save(scene(number), tmp_path / "source" / "abc"[number % 3] / f"{number:02d}.png")
    for number in range(20):
        save(scene(1000 + number), tmp_path / "target" / "ab"[number % 2] / f"other-{number:02d}.png")
    for number, (name, change) in enumerate(CHANGES.items()):
        save(np.ascontiguousarray(change(scene(number))), tmp_path / "target" / "a" / f"{name}.png")
    return tmp_path


def both(folder: Path) -> tuple[Dataset, Dataset]:
    return simkit.load(folder / "target"), simkit.load(folder / "source")


def test_planted_copies_are_found_and_nothing_else(folder: Path) -> None:
    found = leakage_between(*both(folder), Store(), Progress())
    pairs = {pair.first_key: pair for pair in found.pairs}
    assert {key: pair.second_key for key, pair in pairs.items()} == {
        f"a/{name}.png": f"{'abc'[number % 3]}/{number:02d}.png" for number, name in enumerate(CHANGES)}
    assert all(pair.how == "near" and 0.9 <= pair.similarity <= 1 and pair.found_by == ("hash",) for pair in found.pairs)
    changes = {Path(key).stem: pair.transform for key, pair in pairs.items()}
    assert changes == dict.fromkeys(CHANGES, "") | {"flip": "mirrored", "upside": "upside down", "clockwise": "rotated 270"}
    assert (found.exact, found.near, found.n_first, found.n_second) == (0, 8, 28, 40)
    assert found.line == "8 of 28 images of target (28.6 %) have a near copy or a look-alike in source: 8 near"


def test_exact_copies_by_bytes_and_by_pixels(folder: Path) -> None:
    shutil.copy(folder / "source" / "a" / "09.png", folder / "target" / "b" / "same.png")
    save(scene(10), folder / "target" / "b" / "again.bmp")
    found = leakage_between(*both(folder), Store(), Progress(), near=False)
    assert [(pair.first_key, pair.second_key, pair.how, pair.similarity) for pair in found.pairs] == [
        ("b/again.bmp", "b/10.png", "pixels", 1.0), ("b/same.png", "a/09.png", "bytes", 1.0)]
    assert found.line == "2 of 30 images of target (6.7 %) have a copy in source: 2 exact"
    assert found.thresholds == {}
    assert found.pairs[0].first_label == "b"
    assert found.pairs[1].second_label == "a"


def test_pixels_are_decoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, source = both(folder)
    first = leakage_between(target, source, Store(), Progress(), near=False)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr("simkit.pipeline.looking.prepared_images", fail)
    assert leakage_between(target, source, Store(), Progress(), near=False) == first


def test_an_image_that_shows_nothing_is_no_evidence(tmp_path: Path) -> None:
    for name in ("one", "two"):
        for number in range(3):
            save(scene(number + 10 * (name == "two")), tmp_path / name / "x" / f"{number}.png")
        save(np.full((40, 40, 3), 7, np.uint8), tmp_path / name / "x" / "blank.png")
    found = leakage_between(simkit.load(tmp_path / "one"), simkit.load(tmp_path / "two"), Store(), Progress())
    assert found.pairs == ()
    assert "1 image of one shows one grey level only: no evidence of copying, left out" in found.notes
    assert found.line == "no image of one has a copy in two (4 compared)"


def test_images_that_look_alike_are_no_copies(tmp_path: Path) -> None:
    """Chest X-rays in small: one broad shape that all share, with details of their own."""
    broad = np.exp(-((np.linspace(-1, 1, 96)[:, None] ** 2) * 3 + np.linspace(-1, 1, 96)[None] ** 2 * 2)) * 150
    for number in range(30):
        grey = np.clip(broad + (scene(number)[..., 0].astype(float) - 128) * 0.25 + 40, 0, 255).astype(np.uint8)
        save(grey, tmp_path / ("one" if number % 2 else "two") / "x" / f"{number}.png")
    one, two = simkit.load(tmp_path / "one"), simkit.load(tmp_path / "two")
    assert leakage_between(one, two, Store(), Progress()).pairs == ()
    assert leakage_within(one, Store(), Progress()).pairs == ()


def test_within_a_split_only_pairs_on_two_sides_count(folder: Path) -> None:
    shutil.copy(folder / "target" / "a" / "jpeg.png", folder / "target" / "a" / "same-side.png")
    shutil.copy(folder / "target" / "a" / "jpeg.png", folder / "target" / "b" / "other-side.png")
    dataset = simkit.load(folder / "target")
    dataset = replace(dataset, splits=tuple("test" if key == "b/other-side.png" else "train" for key in dataset.keys))
    found = leakage_within(dataset, Store(), Progress())
    assert {(pair.first_key, pair.second_key) for pair in found.pairs} == {("a/jpeg.png", "b/other-side.png"), ("a/same-side.png", "b/other-side.png")}
    assert all(pair.first_split == "train" and pair.second_split == "test" and pair.contradiction for pair in found.pairs)
    assert found.line == "3 of 30 images of target (10.0 %) have a copy on another side of its split: 3 exact"


def test_without_a_split_copies_in_one_group_are_counted_not_listed(folder: Path) -> None:
    for name in ("again", "third"):
        shutil.copy(folder / "target" / "a" / "jpeg.png", folder / "target" / "a" / f"{name}.png")
    dataset = simkit.load(folder / "target")
    alone = leakage_within(dataset, Store(), Progress(), near=False)
    assert [(pair.first_key, pair.second_key) for pair in alone.pairs] == [("a/again.png", "a/jpeg.png"), ("a/again.png", "a/third.png")]
    grouped = replace(dataset, groups=tuple("p" if key in ("a/again.png", "a/jpeg.png") else key for key in dataset.keys))
    found = leakage_within(grouped, Store(), Progress(), near=False)
    assert [(pair.first_key, pair.second_key) for pair in found.pairs] == [("a/again.png", "a/third.png")]
    assert found.notes == ("1 more pair of copies lies within one group, which folds never part",)


def test_groups_of_one_name_are_reported(folder: Path) -> None:
    target, source = both(folder)
    target = replace(target, groups=tuple(f"p{i}" for i in range(len(target))))
    source = replace(source, groups=tuple(f"p{i + 26}" for i in range(len(source))))
    assert leakage_between(target, source, Store(), Progress(), near=False).groups == ("p26", "p27")
    split = replace(target, groups=("same", "same", *target.groups[2:]), splits=("train", "test", *["test"] * 26))
    assert leakage_within(split, Store(), Progress(), near=False).groups == ("same",)


def test_embedding_neighbours_find_what_the_hash_does_not(folder: Path) -> None:
    """A copy whose hash is not near: the hash is told to look for nothing."""
    from simkit.leakage.near import DEFAULTS

    target, source = both(folder)
    rng = np.random.default_rng(0)
    features = {dataset.name: rng.normal(size=(len(dataset), 16)).astype(np.float32) for dataset in (target, source)}
    at, of = target.keys.index("a/flip.png"), source.keys.index("b/04.png")
    features["target"][at] = features["source"][of] * 1.01
    embeddings = [Embedding(features[d.name], d.labels, d.classes, None, d.keys, d.name, "x") for d in (target, source)]
    blind = replace(DEFAULTS, hash_cosine=1.01)
    found = leakage_between(target, source, Store(), Progress(), embeddings=(embeddings[0], embeddings[1]), thresholds=blind)
    assert [(pair.first_key, pair.second_key, pair.transform, pair.found_by) for pair in found.pairs] == [
        ("a/flip.png", "b/04.png", "mirrored", ("embedding",))]
    assert any(note.startswith("embedding neighbours: cosine of at least") for note in found.notes)
    assert found.thresholds["embedding cosine"] < 0.98
    assert leakage_between(target, source, Store(), Progress(), thresholds=blind).pairs == ()


def test_every_embedded_image_is_needed(folder: Path) -> None:
    target, source = both(folder)
    short = Embedding(np.eye(3, dtype=np.float32), None, (), None, target.keys[:3], "target", "x")
    whole = Embedding(np.zeros((40, 3), dtype=np.float32), None, (), None, source.keys, "source", "x")
    with pytest.raises(UsageError, match=r"25 images have no row in the embedding"):
        leakage_between(target, source, Store(), Progress(), embeddings=(short, whole))


def test_candidates_that_cannot_be_read_again_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (np.stack([LOOK(change(scene(seed))) for seed in range(6)]) for change in (np.asarray, jpeg))
    looks = Looks(tuple("abcdef"), first), Looks(tuple("ghijkl"), second)

    def read(side: int, positions: Sequence[int]) -> dict[int, np.ndarray]:
        return {position: Square()((jpeg if side else np.asarray)(scene(position))) for position in positions if position != 2}

    whole = near_pairs(*looks, read, same=False)
    assert [(pair.first, pair.second) for pair in whole.pairs] == [(0, 0), (1, 1), (3, 3), (4, 4), (5, 5)]
    assert "1 candidate was not verified: an image could not be read again" in whole.notes
    monkeypatch.setattr("simkit.leakage.near.AT_A_TIME", 2)
    assert near_pairs(*looks, read, same=False) == whole


def test_search_equals_comparing_everything() -> None:
    rng = np.random.default_rng(1)
    a, b = (unit_rows(rng.normal(size=(n, 12)), np.zeros(12)) for n in (50, 70))
    rows, places, values = nearest(a, b, 3, same=False, least=0.3)
    every = a @ b.T
    expected = {(i, int(j)) for i in range(50) for j in np.argsort(-every[i])[:3] if every[i, j] >= 0.3}
    assert set(zip(rows.tolist(), places.tolist(), strict=True)) == expected
    assert np.allclose(values, every[rows, places], atol=1e-6)
    rows, places, _ = nearest(a, a, 2, same=True, least=-1.0)
    assert (rows != places).all()
    assert len(rows) == 100


def test_threshold_is_the_quantile_of_nearest_neighbours_and_capped() -> None:
    unit = unit_rows(np.random.default_rng(2).normal(size=(300, 20)), np.zeros(20))
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1)
    assert calibrated("any", unit) == pytest.approx(np.quantile(cosines.max(1), 0.95), abs=1e-5)
    assert calibrated("doubled", np.concatenate([unit, unit])) == HIGHEST


def test_a_data_set_full_of_copies_does_not_hide_those_that_it_shares() -> None:
    rng = np.random.default_rng(3)
    original = rng.normal(size=(60, 24))
    augmented = np.repeat(original, 5, axis=0) + 0.02 * rng.normal(size=(300, 24))
    other = np.concatenate([rng.normal(size=(90, 24)), original[:5] + 0.15 * rng.normal(size=(5, 24))])
    found, limit, _ = embedding_candidates(Features("other", other), Features("augmented", augmented), same=False)
    assert limit < HIGHEST
    assert set(range(90, 95)) <= set(found.first.tolist())


@pytest.mark.parametrize("number", range(8))
def test_orientations_and_hash_agree(number: int) -> None:
    rows = np.stack([LOOK(scene(seed)) for seed in range(12)])
    looks = Looks(tuple("abcdefghijkl"), rows)
    moved = turned(looks.pictures, number)
    found = hash_candidates(looks.pictures, moved, same=False, least=0.99)
    sure = found.similarity > 0.9999
    best = {int(a): (int(b), int(turn)) for a, b, turn in zip(found.first[sure], found.second[sure], found.orientation[sure], strict=True)}
    assert best == {position: (position, number) for position in range(12)}
    fit = aligned(turned(looks.pictures, number), moved)
    assert fit.fine == pytest.approx(np.ones(12), abs=1e-4)
    assert len(ORIENTATIONS) == 8


def test_rotation_is_named_clockwise() -> None:
    picture = np.arange(9.0).reshape(1, 3, 3)
    assert np.array_equal(turned(picture, ORIENTATIONS.index("rotated 90"))[0], np.rot90(picture[0], -1))
    assert np.array_equal(turned(picture, ORIENTATIONS.index("mirrored"))[0], picture[0][:, ::-1])
    assert np.array_equal(turned(picture, ORIENTATIONS.index("upside down"))[0], picture[0][::-1])


def looks_of(groups: list[str], contents: list[str] | None = None) -> Looks:
    """Looks whose pixels are equal where ``groups`` are."""
    rows = np.stack([LOOK(scene(ord(one), 40)) for one in groups])
    return Looks(tuple(contents or [f"{one}{i}" for i, one in enumerate(groups)]), rows)


def test_every_image_with_a_copy_stands_in_a_pair() -> None:
    first, second = looks_of(list("aab"), ["1", "2", "3"]), looks_of(list("caac"), ["4", "5", "2", "6"])
    assert exact_between(first, second) == [(0, 1, "pixels"), (1, 2, "bytes")]
    many = looks_of(list("aaa"))
    assert {b for _, b, _ in exact_between(looks_of(["a"]), many)} == {0, 1, 2}
    assert exact_within(looks_of(list("abab")), None) == [(0, 2, "pixels"), (1, 3, "pixels")]
    assert exact_within(looks_of(list("aaa")), ["train", "train", "test"]) == [(0, 2, "pixels"), (1, 2, "pixels")]
    assert exact_within(looks_of(list("aa")), ["train", "train"]) == []


def test_find_leakage_compares_each_pair_once(folder: Path) -> None:
    result = find_leakage([folder / "target", folder / "source"], [folder / "source", folder / "target"], near=False)
    assert [(one.first, one.second) for one in result.found] == [("target", "source")]
    result = find_leakage(folder / "target")
    assert [(one.first, one.second) for one in result.found] == [("target", "target")]
    result = find_leakage(folder / "target", folder / "source", within=True, near=False)
    assert [(one.first, one.second) for one in result.found] == [("target", "target"), ("target", "source")]


def test_wrong_use_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"1\.5 is outside 0\.\.1"):
        find_leakage(folder / "target", threshold=1.5)
    with pytest.raises(UsageError, match=r"exact copies need no extractor and no threshold"):
        find_leakage(folder / "target", near=False, extractor="pixels")
    with pytest.raises(UsageError, match=r"nothing embeds"):
        find_leakage(folder / "target", embedding_cosine=0.9)
    with pytest.raises(UsageError, match=r"no data set is named"):
        find_leakage([])
    with pytest.raises(UsageError, match=r"target can be compared with itself only"):
        find_leakage(folder / "target", folder / "target", within=False)


def test_what_is_left_out(folder: Path) -> None:
    result = find_leakage(folder / "target", folder / "source")
    lists = result.exclusions()
    assert list(lists) == ["source"]
    assert [key for key, _ in lists["source"]] == [key for key in simkit.load(folder / "source").keys if int(Path(key).stem) < 8]
    assert dict(lists["source"])["a/00.png"] == "copy (near) of a/jpeg.png of target"
    shutil.copy(folder / "target" / "a" / "jpeg.png", folder / "target" / "b" / "zz.png")
    dataset = simkit.load(folder / "target")
    tested = replace(dataset, splits=tuple("test" if key == "a/jpeg.png" else "train" for key in dataset.keys))
    assert find_leakage(tested, near=False).exclusions() == {"target": [("b/zz.png", "copy (bytes) of a/jpeg.png")]}


def test_a_pale_patch_is_no_copy_of_a_picture_whose_border_it_is_laid_beside() -> None:
    """Alignment can move a picture's strong border out of the overlap; its details reach inside all the same."""
    network = {"torchvision": {"network": "squeezenet1_1", "weights": "random", "image_size": 64}}
    result = find_leakage("samples:retina", "samples:faces", extractor=network)
    assert result.found[0].n_first > 100
    assert result.pairs == ()


def test_the_number_of_images_with_a_copy_does_not_depend_on_the_direction(tmp_path: Path) -> None:
    """One image of the source has ten copies in the target: more than are looked for at first."""
    for number in range(6):
        for name in ("target", "source"):
            (tmp_path / name / "a").mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene(100 * (name == "source") + number)).save(tmp_path / name / "a" / f"{number:02d}.png")
    original = Image.fromarray(scene(7))
    original.save(tmp_path / "source" / "a" / "one.png")
    for quality in range(50, 90, 4):
        original.save(tmp_path / "target" / "a" / f"q{quality}.jpg", quality=quality)
    target, source = (simkit.load(tmp_path / name) for name in ("target", "source"))
    there = leakage_between(target, source, Store(), Progress())
    back = leakage_between(source, target, Store(), Progress())
    assert len(there.first_keys) == len(back.second_keys) == 10
    assert there.second_keys == back.first_keys == ("a/one.png",)


def test_a_list_that_a_study_uses_only_grows(folder: Path, tmp_path: Path) -> None:
    """What a study leaves out is not found again; writing the list anew must not bring it back."""
    lists = tmp_path / "lists"
    first = find_leakage(folder / "target", folder / "source", near=True)
    first.write_exclusions(lists)
    before = (lists / "exclude-source.csv").read_text().splitlines()
    source = without(simkit.load(folder / "source"), lists / "exclude-source.csv")
    assert source.excluded == 8
    second = find_leakage(folder / "target", source)
    assert second.pairs == ()
    second.write_exclusions(lists)
    first.write_exclusions(lists)
    assert (lists / "exclude-source.csv").read_text().splitlines() == before
    own = next(key for key in simkit.load(folder / "target").keys if key not in first.found[0].first_keys)
    shutil.copy(folder / "target" / own, folder / "source" / "a" / "new.png")
    third = find_leakage(folder / "target", without(simkit.load(folder / "source"), lists / "exclude-source.csv"))
    third.write_exclusions(lists)
    assert (lists / "exclude-source.csv").read_text().splitlines() == [*before, f"a/new.png,copy (bytes) of {own} of target"]
