"""Copies of target images in the sources of a study: flagged beside every score and performance that they touch."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from images import FINETUNE, study_text
from PIL import Image

import simkit
from simkit.leakage.pairs import CopyPair, Leakage
from simkit.pipeline.copies import _as_split, copies_by_pair, touched
from simkit.pipeline.looking import seen_of
from simkit.recipe import rng_for
from simkit.study import read_study
from simkit.tables import TransferTable


def picture(seed: int, size: int = 48) -> Image.Image:
    """A smooth random picture, unlike any other."""
    rng = rng_for("copies", seed)
    small = rng.uniform(0, 255, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """goal: 26 pictures; near: pictures of its own, two files of goal, and three of its pictures as JPEG; far: pictures of its own."""
    for number, name in enumerate(("goal", "near", "far")):
        for label, count in (("dark", 14), ("light", 12)):
            place = tmp_path / name / label
            place.mkdir(parents=True)
            for i in range(count):
                picture(1000 * number + 100 * (label == "light") + i).save(place / f"{i:03d}.png")
    for i in range(2):
        shutil.copy(tmp_path / "goal" / "dark" / f"{i:03d}.png", tmp_path / "near" / "dark" / f"copy{i}.png")
    for i in range(3, 6):
        Image.open(tmp_path / "goal" / "light" / f"{i:03d}.png").save(tmp_path / "near" / "light" / f"again{i}.jpg", quality=60)
    return tmp_path


def run(folder: Path, **parts: str) -> simkit.Results:  # type: ignore[name-defined]
    (folder / "study.toml").write_text(study_text(folder, **parts))
    return simkit.run(folder / "study.toml", overwrite=True)


def test_scores_and_transfers_say_what_they_share(folder: Path) -> None:
    results = run(folder, finetune=FINETUNE)
    flags = {(r["source"], r["method"]): r["flags"] for r in results.scores.records}
    said = "leak: 5 of 26 target images have a copy in near (2 exact, 3 near)"
    assert said in flags["near", "frechet"]
    assert said in flags["near", "domain-classifier"]
    assert all("leak" not in flag for (source, _), flag in flags.items() if source == "far")
    assert "leak" not in flags["near", "source-size"]
    transfers = {r["source"]: str(r.get("flags") or "") for r in results.performance.records}
    assert "leak: 3 of 26 target images have a near copy in near, which took part in the pretraining" in transfers["near"]
    assert "leak" not in transfers["far"]
    assert "leak" not in transfers["scratch"]
    assert [(one.first, one.second, one.exact, one.near) for one in results.content.leakage] == [("goal", "near", 2, 3)]
    again = simkit.run(folder / "study.toml")
    assert again.page.read_bytes() == results.page.read_bytes()
    assert again.scores.records == results.scores.records


def test_the_study_says_what_is_looked_for(folder: Path) -> None:
    exact = run(folder, extra='leakage = "exact"')
    assert {r["flags"] for r in exact.scores.records if r["source"] == "near" and r["method"] == "frechet"} == {
        "; ".join(f for f in (*(flag for flag in _flags(exact, "near") if not flag.startswith("leak")),
                              "leak: 2 of 26 target images have a copy in near (2 exact)"))}
    off = run(folder, extra='leakage = "off"')
    assert off.content.leakage == ()
    assert not any("leak" in r["flags"] for r in off.scores.records)


def _flags(results: simkit.Results, source: str) -> list[str]:  # type: ignore[name-defined]
    return next(r["flags"] for r in results.scores.records if r["source"] == source and r["method"] == "frechet").split("; ")


def pairs(*hows: str, splits: tuple[str, str] = ("", "")) -> tuple[CopyPair, ...]:
    return tuple(CopyPair("t", f"t{i}", "s", f"s{i}", how, 1.0, "", ("hash",), *splits) for i, how in enumerate(hows))


def test_counts_stand_in_both_directions() -> None:
    twice = (*pairs("bytes", "near"), CopyPair("t", "t1", "s", "s7", "near", 0.99, "", ("hash",), "", ""))
    shared = copies_by_pair([Leakage("t", "s", 10, 20, twice, {}, ())])
    assert shared["s", "t"].flag == "leak: 2 of 10 target images have a copy in s (1 exact, 1 near)"
    assert shared["t", "s"].flag == "leak: 3 of 20 target images have a copy in t (1 exact, 2 near)"


def test_performances_measured_elsewhere_are_flagged_for_exact_copies_too() -> None:
    table = TransferTable(({"source": "s", "target": "t", "fold": "1", "metric": "auc", "value": 0.9, "flags": "old"},))
    found = [Leakage("t", "s", 10, 20, pairs("bytes"), {}, ())]
    assert touched(table, found, removed=True).records[0]["flags"] == "old"
    assert touched(table, found, removed=False).records[0]["flags"] == (
        "old; leak: 1 of 10 target images have a copy in s (1 exact); whether they were taken out of pretraining is not known")


def test_copies_within_a_target_are_flagged_where_folds_or_splits_part_them() -> None:
    table = TransferTable(({"source": "s", "target": "t", "fold": "1", "metric": "auc", "value": 0.9},))

    def flag(found: tuple[CopyPair, ...], split: bool = False) -> str:
        within = Leakage("t", "t", 10, 10, found, {}, (), split=split)
        return str(touched(table, [within], removed=True).records[0].get("flags") or "")

    assert flag(pairs("near")) == "leak: 2 of 10 target images have a near copy in the target itself, which folds may part"
    assert flag(pairs("bytes")) == ""
    assert flag(tuple(replace(pair, first_group="p1", second_group="p1") for pair in pairs("near"))) == ""
    assert flag(pairs("bytes", splits=("train", "test")), split=True) == ""  # the runner leaves it out of training
    assert flag(pairs("near", splits=("train", "val")), split=True) == ""
    assert flag(pairs("near", splits=("train", "test")), split=True) == (
        "leak: 2 of 10 target images have a near copy on the other side of the split, in training and test")


def test_a_changed_copy_behind_an_exact_one_is_flagged() -> None:
    both = (CopyPair("t", "t0", "s", "s0", "bytes", 1.0, "", ("bytes",)), CopyPair("t", "t0", "s", "s1", "near", 0.99, "", ("hash",)))
    table = TransferTable(({"source": "s", "target": "t", "fold": "1", "metric": "auc", "value": 0.9},))
    assert touched(table, [Leakage("t", "s", 10, 20, both, {}, ())], removed=True).records[0]["flags"] == (
        "leak: 1 of 10 target images have a near copy in s, which took part in the pretraining")


def test_a_split_counts_only_where_transfers_are_scored_by_it(folder: Path) -> None:
    dataset = simkit.load(folder / "goal")
    (folder / "study.toml").write_text(study_text(folder, finetune=FINETUNE))
    study = read_study(folder / "study.toml")
    tested = replace(dataset, splits=tuple("test" if i % 2 else "train" for i in range(len(dataset))))
    assert _as_split(study, tested) is tested
    assert _as_split(study, replace(dataset, splits=tuple("val" if i % 2 else "train" for i in range(len(dataset))))).splits is None
    assert study.protocol is not None
    assert _as_split(replace(study, protocol=replace(study.protocol, splits="ignore")), tested).splits is None


def test_what_was_found_is_found_again_and_follows_keys_and_content(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from simkit.pipeline import leakage

    first = run(folder)
    monkeypatch.setattr(leakage, "near_pairs", lambda *_, **__: pytest.fail("compared again"))
    again = simkit.run(folder / "study.toml")
    assert again.content.leakage == first.content.leakage
    monkeypatch.undo()
    (folder / "near" / "dark" / "copy0.png").rename(folder / "near" / "dark" / "moved.png")
    moved = simkit.run(folder / "study.toml", overwrite=True).content.leakage
    assert {pair.second_key for one in moved for pair in one.pairs if pair.exact} == {"dark/copy1.png", "dark/moved.png"}


def test_a_data_set_is_looked_up_once_and_not_once_a_pair(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from simkit.pipeline import copies

    asked: list[str] = []
    monkeypatch.setattr(copies, "seen_of", lambda dataset, *rest: (asked.append(dataset.name), seen_of(dataset, *rest))[1])
    run(folder)
    assert sorted(asked) == ["far", "goal", "near"]
    asked.clear()
    simkit.run(folder / "study.toml")
    assert asked == []
