"""The chain from Python: the same numbers as the commands, nothing done twice, nothing lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from images import FINETUNE, study_text, write_images

import simkit
from simkit.errors import DataError, IntegrityError, NotEnoughData, ResourceError, UsageError
from simkit.estimators.base import Score
from simkit.pipeline import scoring
from simkit.store import Store


def study(folder: Path, **options: str) -> Path:
    path = folder / "s.toml"
    path.write_text(study_text(folder, **options))
    return path


def test_load_gives_a_data_set_with_a_frame(tmp_path: Path) -> None:
    dataset = simkit.load(write_images(tmp_path / "demo", {"a": 3, "b": 2}))
    assert repr(dataset) == "Dataset('demo', 5 images, 2 classes)"
    assert list(dataset.frame.columns) == ["key", "label"]
    assert dataset.frame.label.value_counts().to_dict() == {"a": 3, "b": 2}


def test_fingerprints_follow_content_not_names_or_order(tmp_path: Path) -> None:
    one = simkit.load(write_images(tmp_path / "x" / "demo", {"a": 3, "b": 2}))
    other = simkit.load(write_images(tmp_path / "y" / "demo", {"a": 3, "b": 2}), name="renamed")
    assert one.fingerprint == other.fingerprint
    assert one.take([4, 3, 2, 1, 0]).fingerprint == one.fingerprint
    assert one.take([0, 1, 2, 3]).fingerprint != one.fingerprint
    assert replace(one, groups=("g",) * 5).fingerprint != one.fingerprint


def test_card_says_what_is_there(tmp_path: Path) -> None:
    card = simkit.card(write_images(tmp_path / "demo", {"a": 6, "b": 2}, size=10))
    assert (card.images, card.classes, card.imbalance, card.channels, card.height, card.width) == (8, 2, 3.0, 3, 10.0, 12.0)
    assert np.array(card.histogram).shape == (3, 12)


def test_embedding_the_same_image_twice_costs_once(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "demo", {"a": 4})
    (folder / "a" / "copy.png").write_bytes((folder / "a" / "000.png").read_bytes())
    embedding = simkit.embed(folder, extractor="pixels")
    assert len(embedding) == 5
    np.testing.assert_array_equal(embedding.features[embedding.keys.index("a/copy.png")], embedding.features[embedding.keys.index("a/000.png")])


def test_distance_from_python_is_compare(tmp_path: Path) -> None:
    study_text(tmp_path)
    extractor = {"pixels": {"size": 4}}
    methods = ["frechet", {"otdd": {"label_cost": "means"}}]
    table = simkit.distance([tmp_path / "near", tmp_path / "far"], tmp_path / "goal", methods, extractor=extractor, repeats=4)
    near, goal = (simkit.embed(tmp_path / name, extractor=extractor) for name in ("near", "goal"))
    score = simkit.compare("otdd", near, goal, label_cost="means", repeats=4)
    row = table.frame.set_index(["source", "method"]).loc[("near", "otdd")]
    assert row.value == score.value
    assert (row.lower, row.upper) == score.interval
    assert row.floor == score.floor


def test_run_gives_tables_and_the_page(tmp_path: Path) -> None:
    results = simkit.run(study(tmp_path, finetune=FINETUNE))
    assert list(results.scores.frame.columns) == list(simkit.ScoreTable.COLUMNS)
    assert set(results.performance.frame.source) == {"near", "far", "scratch"}
    assert results.page.is_file()
    assert set(results.content.answers) == {"goal"}
    assert results.incomplete == ()
    saved = json.loads((results.out / "run.json").read_text())
    assert saved["seed"] == 0
    assert saved["networks_trained"] == 8
    again = simkit.run(results.out / "config.toml", out=results.out)
    assert again.done_line.startswith("nothing was done twice")


def test_transfer_measured_elsewhere(tmp_path: Path) -> None:
    for name in ("s1", "s2", "s3", "goal"):
        write_images(tmp_path / name, {"a": 8, "b": 8}, shift=len(name))
    measured = {"s1": (0.7, 0.72), "s2": (0.9, 0.91), "s3": (0.8, 0.79)}
    rows = "\n".join(f"{s},goal,{f},{auc},auc" for s, values in measured.items() for f, auc in enumerate(values))
    (tmp_path / "results.csv").write_text(f"source,target,replicate,performance,metric\n{rows}\n")
    (tmp_path / "s.toml").write_text('targets=["goal"]\nextractor="pixels"\nmethods=["frechet","source-size"]\nrepeats=0\ntransfer="results.csv"\n[datasets]\n'
                                     + "\n".join(f'{n}={{folder={{path="{n}"}}}}' for n in ("s1", "s2", "s3", "goal")))
    results = simkit.run(tmp_path / "s.toml")
    assert results.correlation is not None
    assert results.correlation.n_pairs == 3
    assert results.content.answers["goal"].startswith("goal: take s2 (mean AUC 0.905")


@pytest.mark.parametrize(("table", "kind", "message"), [
    ("source,target,loss\nnear,goal,0.3\nfar,goal,0.4\n", UsageError, "loss"),
    ("source,target,auc\nother,goal,0.3\nfar,elsewhere,0.4\n", DataError, "holds no source-target pair of the study; it holds far -> elsewhere, other -> goal"),
    ("source,target,auc\nnear,goal,0.3\nnear,goal,0.4\n", DataError, "the same source, target as in line 2"),
])
def test_transfer_results_are_checked_before_the_work(tmp_path: Path, table: str, kind: type[Exception], message: str) -> None:
    (tmp_path / "mine.csv").write_text(table)
    with pytest.raises(kind, match=message):
        simkit.run(study(tmp_path, extra='transfer = "mine.csv"'))
    assert not Store().root.exists()


def test_unreadable_images_are_left_out_of_every_stage_and_counted(tmp_path: Path) -> None:
    path = study(tmp_path, finetune=FINETUNE)
    (tmp_path / "near" / "dark" / "003.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    results = simkit.run(path)
    assert results.scores.frame.set_index(["source", "method"]).loc[("near", "frechet"), "n_source"] == 25
    assert [(s.dataset, s.key) for s in results.content.skipped] == [("near", "dark/003.png")]
    assert any("dark/003.png" in line for line in results.incomplete)
    again = simkit.run(path)
    assert again.done_line.startswith("nothing was done twice")
    assert again.content.skipped == results.content.skipped
    with pytest.raises(DataError, match=r"near: dark/003\.png"):
        simkit.run(path, strict=True)


def test_a_data_set_without_any_readable_image_is_an_error(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "demo", {"a": 2})
    for file in (folder / "a").iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"000\.png"):
        simkit.card(folder)


@pytest.mark.parametrize(("change", "kind", "message"), [
    (('folder = {path = "far"}', 'folder = {path = "farr"}'), DataError, r"far: .*farr: the folder does not exist \(did you mean '.*far'"),
    (('targets = ["goal"]', 'targets = ["goal"]\nsources = ["goal"]'), UsageError, "no source-target pair besides self pairs"),
    (('targets = ["goal"]', 'targets = ["goal"]\ndevice = "cuda:99"'), UsageError, "'cuda:99' was asked for"),
    (("folds = 2", "folds = 20"), NotEnoughData, "goal.*folds"),
    (('"source-size"]', '"source-size", "modality"]'), UsageError, r"methods: modality: .*near.*attributes\.modality"),
    (('"source-size"]', '{ratings = {path = "none.csv"}}]'), DataError, r"none\.csv: does not exist"),
    (('network = "squeezenet1_1"', 'network = "squeezenet"'), UsageError, "unknown network 'squeezenet'"),
])
def test_bad_input_is_refused_before_any_work(tmp_path: Path, change: tuple[str, str], kind: type[Exception], message: str) -> None:
    path = study(tmp_path, finetune=FINETUNE)
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(kind, match=message):
        simkit.run(path)
    assert not (Store().root / "embeddings").exists()
    assert not (Store().root / "finetune").exists()


def test_one_class_only_is_refused_where_labels_are_needed(tmp_path: Path) -> None:
    write_images(tmp_path / "goal", {"only": 12})
    with pytest.raises(DataError, match="goal: training needs at least two classes and all 12 images are of class 'only'"):
        simkit.run(study(tmp_path, finetune=FINETUNE))


def test_an_unlabelled_set_is_refused_by_name_for_measures_that_need_labels(tmp_path: Path) -> None:
    study_text(tmp_path)
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, file in enumerate((tmp_path / "near" / "dark").iterdir()):
        (flat / f"{i}.png").write_bytes(file.read_bytes())
    with pytest.raises(NotEnoughData, match="otdd needs labels, flat has none"):
        simkit.distance([flat], tmp_path / "goal", ["otdd"], extractor="pixels", repeats=0)
    table = simkit.distance([flat], tmp_path / "goal", ["otdd", "frechet"], extractor="pixels", repeats=0)
    assert list(table.frame.method) == ["frechet"]


def test_a_damaged_store_is_named_and_nothing_is_overwritten(tmp_path: Path) -> None:
    path = study(tmp_path)
    results = simkit.run(path)
    before = results.page.read_bytes()
    victim = next((Store().root / "score").rglob("*.json"))
    victim.write_text("{")
    with pytest.raises(IntegrityError, match=victim.name):
        simkit.run(path)
    assert results.page.read_bytes() == before


def test_an_output_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path: Path) -> None:
    path = study(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="file"):
        simkit.run(path, out=tmp_path / "file" / "out")
    assert not Store().root.exists()


def test_seed_changes_intervals_and_the_same_seed_does_not(tmp_path: Path) -> None:
    study_text(tmp_path)
    sets = [tmp_path / "near"], tmp_path / "goal"
    one, same, other = (simkit.distance(*sets, ["frechet"], extractor="pixels", repeats=3, seed=s, store=tmp_path / str(i)) for i, s in enumerate((1, 1, 2)))
    assert one.records == same.records
    assert one.records[0]["value"] == other.records[0]["value"]
    assert one.records[0]["lower"] != other.records[0]["lower"]


def untimed(page: Path) -> str:
    """A page without the times, and without the downloads that hold them; all else must not depend on how often a run was interrupted."""
    text = page.read_text()
    assert 'id="table-times"' in text
    for part in (r'<table[^>]*id="table-times".*?</table>', r'href="data:[^"]*"', r'<script type="application/json".*?</script>'):
        text = re.sub(part, "", text, flags=re.S)
    return text


def test_a_killed_run_goes_on_and_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    path = study(tmp_path, finetune=FINETUNE)
    command = [sys.executable, "-m", "simkit", "run", str(path), "--jobs", "1"]
    environment = {**os.environ, "SIMKIT_STORE": str(tmp_path / "killed"), "OMP_NUM_THREADS": "1"}
    for delay in (2.5, 3.5):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert Store(tmp_path / "killed").verify() == []
    subprocess.run([*command, "--out", str(tmp_path / "one")], env=environment, check=True, capture_output=True)
    subprocess.run([*command, "--out", str(tmp_path / "two")], env={**environment, "SIMKIT_STORE": str(tmp_path / "fresh")}, check=True, capture_output=True)
    for name in ("scores.csv", "ranking.csv", "correlation.json", "figures/transfer.png"):
        first, second = ((tmp_path / out / name) for out in ("one", "two"))
        assert first.exists() == second.exists()
        assert not first.exists() or first.read_bytes() == second.read_bytes()
    assert untimed(tmp_path / "one" / "report.html") == untimed(tmp_path / "two" / "report.html")
    one, two = (pd.read_csv(tmp_path / name / "transfer.csv").drop(columns="seconds") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two)


def test_an_interrupt_says_how_to_go_on(tmp_path: Path) -> None:
    path = study(tmp_path, finetune=FINETUNE.replace("pretrain_epochs = 1", "pretrain_epochs = 500"))
    process = subprocess.Popen([sys.executable, "-m", "simkit", "run", str(path), "--jobs", "1"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "scores of" in line:
            break
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait() == 130
    assert "the same command goes on from there" in rest
    assert "Traceback" not in rest


def test_scores_that_were_stored_before_there_were_ceilings_are_read() -> None:
    """Measures of cards have the same recipe as then."""
    stored = {"value": 1.5, "converged": True, "detail": {"source": 30}, "interval": None, "floor": None, "flags": ["small"]}
    assert scoring.score_from(stored) == Score(1.5, detail={"source": 30}, flags=("small",))


def test_an_image_that_can_be_read_again_comes_back_into_its_card(tmp_path: Path) -> None:
    from strange_reader import Strange

    from simkit.dataset import Dataset
    from simkit.pipeline.progress import Progress
    from simkit.pipeline.stages import read_card

    flag, store = tmp_path / "installed", Store(tmp_path / "store")
    data = Dataset("strange", tuple(map(str, range(40))), Strange(waits_for=str(flag), bad=(3,)))
    store.prepare()
    first, kept = read_card(data, store, Progress())
    assert (first.images, first.skipped, len(kept)) == (39, 1, 39)
    assert read_card(data, store, Progress())[0] == first
    flag.write_text("now", encoding="utf-8")
    again, kept = read_card(data, store, Progress())
    assert (again.images, again.skipped, len(kept)) == (40, 0, 40)


def test_a_card_is_the_same_from_processes_and_from_this_one(tmp_path: Path) -> None:
    from dataclasses import asdict

    from simkit.dataset import card_of
    from simkit.pipeline.progress import Progress
    from simkit.pipeline.stages import read_card

    data = simkit.load(write_images(tmp_path / "demo", {"a": 30, "b": 20}))
    store = Store(tmp_path / "store")
    store.prepare()
    assert asdict(read_card(data, store, Progress())[0]) == asdict(card_of(data)[0])


def test_more_components_than_images_are_refused_before_an_image_is_embedded(tmp_path: Path) -> None:
    folders = [write_images(tmp_path / name, {"a": 6, "b": 6}) for name in ("near", "goal")]
    with pytest.raises(NotEnoughData, match=r"pca:40: 24 images vary in 23 dimensions at most\nfix: give pca:23 at most, or random:40"):
        simkit.distance([folders[0]], folders[1], "kid", extractor="pixels", projection="pca:40", store=tmp_path / "store")
    assert not (tmp_path / "store" / "embeddings").exists()
    table = simkit.distance([folders[0]], folders[1], "kid", extractor="pixels", projection="pca:5", repeats=0, store=tmp_path / "store")
    assert len(table) == 1


def test_an_engine_is_chosen_at_the_first_data_set_that_is_large_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from simkit.extractors.torchvision import Torchvision
    from simkit.pipeline import stages
    from simkit.pipeline.progress import Progress

    few, many = (simkit.load(write_images(tmp_path / name, {"a": count, "b": count})) for name, count in (("few", 3), ("many", 9)))
    monkeypatch.setattr(stages, "WORTH_TRYING", 10)
    sessions = stages.Sessions(Torchvision(network="squeezenet1_1", weights="random", image_size=64), "cpu", stages.Effort())
    tried: list[str] = []
    session = sessions.get(few, range(6), Progress())
    monkeypatch.setattr(session, "use", lambda backend, example: (tried.append(f"{backend} {len(example)}"), "torch")[1])
    for data in (few, many, many):
        assert sessions.get(data, range(len(data)), Progress()) is session
    assert tried == [f"auto {stages.ENGINE_BATCH}"]
    with pytest.raises(UsageError, match="pixels is no network of torch"):
        simkit.embed(few, extractor="pixels", backend="openvino", store=tmp_path / "store")
