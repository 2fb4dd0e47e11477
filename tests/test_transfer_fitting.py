"""Search, early stopping and refit of one unit: the same for every pair, kept choice by choice, chosen by the inner validation alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from transfer_study import PROTOCOL, FolderResults, drawn, study

from simkit.errors import UsageError
from simkit.transfer import Protocol, plan_units, protocol_of, run_units
from simkit.transfer.checkpoint import Checkpoints
from simkit.transfer.fitting import Fitting
from simkit.transfer.predictions import read_predictions
from simkit.transfer.training import Trained, Training

SEARCH = replace(PROTOCOL, search={"lr": (1e-3, 1e-5), "weight_decay": (0.0, 0.1)}, finetune_epochs=2, validation=0.3)
TARGET = {"target": drawn("target", 24)}


def record_of(folder, key):
    return FolderResults(folder).load_json("finetune", key)


def planned(folder, protocol, **datasets):
    datasets = datasets or TARGET
    return plan_units(protocol, datasets, [name for name in datasets if name != "target"], ["target"], 1, FolderResults(folder))


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    plan = planned(folder, SEARCH)
    return folder, plan, run_units(plan)


def test_every_choice_is_tried_and_the_best_of_the_inner_validation_is_taken(searched):
    folder, plan, result = searched
    for run in plan.runs:
        record = record_of(folder, run.key)
        assert [(trial["lr"], trial["weight_decay"]) for trial in record["trials"]] == [(1e-3, 0.0), (1e-3, 0.1), (1e-5, 0.0), (1e-5, 0.1)]
        best = max(range(4), key=lambda number: record["trials"][number]["value"])
        tied = [number for number in range(4) if record["trials"][number]["value"] == record["trials"][best]["value"]]
        chosen = [number for number in tied if record["choice"] == {key: record["trials"][number][key] for key in ("lr", "weight_decay")}]
        assert chosen
        assert record["epochs"] == record["trials"][chosen[0]]["epoch"]
        rows = [row for row in result.table.records if row["recipe"] == run.key[:16]]
        assert {(row["lr"], row["choices"], row["n_train"]) for row in rows} == {(record["choice"]["lr"], 4, len(plan.inner(run)[0]))}


def test_the_inner_split_is_the_same_for_every_source_and_never_tests(searched):
    _, plan, _ = searched
    both = planned(searched[0], replace(SEARCH, sources=("scratch",)), source=drawn("source", 8, 3, seed=1), **TARGET)
    by_fold = {}
    for run in both.runs:
        inner, held = plan_inner = both.inner(run) or plan.inner(run)
        test = both.folds["target", 0].test[run.fold]
        assert not set(inner) & set(held)
        assert not (set(inner) | set(held)) & set(test)
        assert sorted([*inner, *held, *test]) == list(range(24))
        by_fold.setdefault(run.fold, []).append([part.tolist() for part in plan_inner])
    assert all(one == found[0] for found in by_fold.values() for one in found)


def test_nothing_is_left_behind_of_a_finished_search(searched):
    folder, *_ = searched
    for kind in ("trial", "checkpoint", "claims"):
        assert not [path for path in (folder / kind).rglob("*") if path.is_file()], kind


def test_an_interrupted_search_goes_on_with_the_next_choice_and_ends_with_the_same_numbers(searched, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    begun = []
    real = Training.run

    def stop_at_the_third(self):
        begun.append(self.choice)
        if len(begun) == 3:
            raise Stopped
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "run", stop_at_the_third)
        with pytest.raises(Stopped):
            run_units(planned(tmp_path, SEARCH))
    assert len(list((tmp_path / "trial").glob("*.json"))) == 2
    begun.clear()
    monkeypatch.setattr(Training, "run", lambda self: begun.append(self.choice) or real(self))
    result = run_units(planned(tmp_path, SEARCH))
    assert len(begun) == 2 + 4  # two of the first fold were there
    assert [row["value"] for row in result.table.records] == [row["value"] for row in searched[2].table.records]


def test_a_damaged_network_of_a_choice_is_trained_again_and_said(tmp_path, monkeypatch):
    cleared = []
    monkeypatch.setattr(Fitting, "clear", lambda self: cleared.append(self.key))
    plan = planned(tmp_path, SEARCH)
    run_units(plan)
    lines: list[str] = []
    victim = tmp_path / "trial" / f"{plan.runs[0].key}-1.safetensors"
    victim.write_bytes(victim.read_bytes()[:100])
    (tmp_path / "finetune" / f"{plan.runs[0].key}.json").unlink()
    run_units(planned(tmp_path, SEARCH), progress=lines.append)
    assert [line for line in lines if "the network of choice 2 is missing or damaged" in line and line.endswith("trained again")]


def test_a_choice_that_diverges_is_recorded_and_another_one_taken(tmp_path):
    protocol = replace(PROTOCOL, search={"lr": (1e30, 1e-3)}, optimizer="sgd", finetune_epochs=3, folds=2)
    plan = planned(tmp_path, protocol)
    result = run_units(plan)
    assert not result.failures
    for run in plan.runs:
        record = record_of(tmp_path, run.key)
        assert record["trials"][0]["failed"].startswith("training diverged: the loss is ")
        assert record["choice"]["lr"] == 1e-3
    hopeless = run_units(planned(tmp_path, replace(protocol, search={"lr": (1e30, 1e29)})))
    assert len(hopeless.failures) == 2
    assert "lr 1e+30" in hopeless.failures[0].reason
    assert "lr 1e+29" in hopeless.failures[0].reason


def test_a_refit_trains_on_everything_for_the_epochs_that_were_best(tmp_path, monkeypatch):
    seen = []
    real = Training.run

    def noted(self):
        seen.append((len(self.data), self.stop_after, self.validation is None))
        return real(self)

    monkeypatch.setattr(Training, "run", noted)
    plan = planned(tmp_path, replace(SEARCH, search={"lr": (1e-3,)}, early_stopping=2, finetune_epochs=4, refit=True))
    result = run_units(plan)
    record = record_of(tmp_path, plan.runs[0].key)
    inner = len(plan.inner(plan.runs[0])[0])
    assert seen[:2] == [(inner, None, False), (12, record["epochs"], True)]
    assert {row["n_train"] for row in result.table.records} == {12}


def test_early_stopping_works_in_pretraining_too(tmp_path):
    protocol = replace(PROTOCOL, early_stopping=1, pretrain_epochs=6, sources=())
    plan = planned(tmp_path, protocol, source=drawn("source", 24, 3, seed=1), **TARGET)
    run_units(plan)
    (record,) = [FolderResults(tmp_path).load_json("pretrain", unit.key) for unit in plan.pretrainings]
    assert record["n_train"] < 24
    assert 1 <= record["epochs"] <= len(record["losses"])


def test_the_search_of_the_pretraining_is_an_option(tmp_path):
    datasets = {"source": drawn("source", 24, 3, seed=1), **TARGET}
    protocol = replace(SEARCH, search={"lr": (1e-3, 1e-4)}, search_pretraining=True, sources=())
    plan = planned(tmp_path, protocol, **datasets)
    assert [len(unit.budget.choices) for unit in plan.pretrainings] == [2]
    run_units(plan)
    assert len(FolderResults(tmp_path).load_json("pretrain", plan.pretrainings[0].key)["trials"]) == 2


def test_too_few_images_for_an_inner_split_are_refused_before_any_training(tmp_path):
    with pytest.raises(Exception, match=r"SK501\] target: ") as error:
        planned(tmp_path, SEARCH, target=drawn("target", 4))
    assert error.value.exit_status == 7
    assert {path.name for path in tmp_path.iterdir()} == {"pixels"}


@pytest.mark.parametrize(("search", "match"), [
    ({"learning_rate": (1e-3,)}, r"SK101\] finetune.search.learning_rate: cannot be searched"),
    ({"lr": ()}, r"SK102\] finetune.search.lr: \[\]: wanted positive numbers, each once"),
    ({"lr": (1e-3, 1e-3)}, r"SK102\] finetune.search.lr: \[0.001, 0.001\]: wanted positive numbers, each once"),
    ({"lr": (0.0, 1e-3)}, r"SK102\] finetune.search.lr"),
    ({"weight_decay": (-1.0,)}, r"SK102\] finetune.search.weight_decay"),
])
def test_what_cannot_be_searched(search, match):
    with pytest.raises(UsageError, match=match):
        Protocol(search=search)


def test_a_warm_up_must_be_shorter_than_every_training():
    with pytest.raises(UsageError, match=r"SK102\] finetune.warmup_epochs: 2 is not less than pretrain_epochs = 1\nfix: give fewer, or more pretrain_epochs"):
        Protocol(warmup_epochs=2, pretrain_epochs=1, finetune_epochs=3)


# --- protocols -------------------------------------------------------------------------------------------------------------------------


def test_the_papers_protocol_is_a_preset_below_the_own_values():
    paper = protocol_of({"protocol": "cats-scans", "image_size": 96})
    assert (paper.network, paper.image_size, paper.optimizer, paper.folds, paper.batch_size) == ("resnet50", 96, "adam", 5, 128)
    assert (paper.groups, paper.overlap, paper.self_pairs, paper.baseline, paper.pretrain_share) == ("ignore", "mark", True, "self", 0.8)
    assert (paper.average, paper.class_weights, paper.dropout, paper.early_stopping) == ("weighted", "balanced", 0.5, 0)
    assert paper.sources == ("imagenet",)
    assert protocol_of({}) == protocol_of({"protocol": "fair"}) == Protocol()


def test_unknown_protocols_and_their_errors_together():
    with pytest.raises(UsageError, match=r"SK101\] study: finetune.protocol: unknown protocol 'cats-scan' \(did you mean 'cats-scans'\?\)") as error:
        protocol_of({"protocol": "cats-scan", "folds": 1, "search": {"lr": []}}, "study: finetune")
    assert "study: finetune.folds: 1 is out of range" in str(error.value)
    with pytest.raises(UsageError, match=r"SK101\] study: finetune.search.dropout: cannot be searched"):
        protocol_of({"search": {"dropout": [0.1]}}, "study: finetune")


def test_the_papers_baseline_is_leaky_and_says_so(tmp_path):
    """80 % of the target is pretrained on, test images among them, as in arXiv 2107.05940; image-level folds are flagged."""
    groups = tuple(f"patient{i // 2}" for i in range(24))
    small = {"network": "shufflenet_v2_x0_5", "image_size": 32, "folds": 2, "pretrain_epochs": 1, "finetune_epochs": 1, "batch_size": 8, "sources": [],
             "learning_rate": 1e-3, "device": "cpu"}
    protocol = protocol_of({"protocol": "cats-scans", **small})
    target = drawn("target", 24, groups=groups)
    plan = plan_units(protocol, {"target": target}, ["target"], ["target"], 1, FolderResults(tmp_path))
    assert any("patients are split over folds" in note for note in plan.notes)
    assert any("target -> target: LEAKY: its pretraining sees " in note for note in plan.notes)
    result = run_units(plan)
    seen = next(iter(plan.origins.values())).rows
    assert len(seen) == 20  # 80 % of 12 images of each class, rounded
    assert result.leaky == {("target", "target"): 20}
    main = result.table.of_metric()
    assert all("leaky: " in row["flags"] and "folds ignore patients" in row["flags"] for row in main)
    assert [row["value"] for row in result.table.records if row["metric"] == "relative-gain"] == [0.0, 0.0]


# --- right -----------------------------------------------------------------------------------------------------------------------------


def test_a_tiny_set_reaches_an_auc_of_one_on_its_training_images(tmp_path):
    """The same images under other digests are the test fold: what was learned by heart is known there."""
    one = drawn("one", 12, noise=5.0)
    images = np.concatenate([one.reader.images, one.reader.images])
    images[12:, 0, 0] ^= 1  # another content, the same picture
    twice = replace(drawn("target", 24), reader=type(one.reader)(images), splits=("train",) * 12 + ("test",) * 12)
    protocol = replace(PROTOCOL, network="squeezenet1_1", finetune_epochs=25, augmentation="none", dropout=0.0, learning_rate=5e-4, schedule="none")
    result = study(tmp_path, target=twice, protocol=protocol)
    assert [(row["fold"], row["performance"]) for row in result.table.of_metric()] == [("given", 1.0)]


@pytest.mark.slow
def test_shuffled_labels_give_a_half_within_error(tmp_path):
    """Null test: with labels that mean nothing, the mean AUC of many folds is 0.5 within three standard errors."""
    rng = np.random.default_rng(5)
    base = drawn("target", 80)
    labels = rng.permutation(base.labels)
    shuffled = replace(base, labels=labels)
    protocol = replace(PROTOCOL, folds=4, seeds=(0, 1, 2), finetune_epochs=4)
    values = np.array([row["performance"] for row in study(tmp_path, target=shuffled, protocol=protocol).table.of_metric()])
    per_fold = np.sqrt((20 + 1) / (12 * 10 * 10))  # of an AUC over 10 + 10 images under the null hypothesis
    assert len(values) == 12
    assert abs(values.mean() - 0.5) < 3 * per_fold / np.sqrt(4)  # the three seeds score the same images: counted as one


def test_the_predictions_are_there_for_every_test_image_once(searched):
    folder, plan, _ = searched
    seen = [image for run in plan.runs for image in read_predictions(FolderResults(folder).path("finetune", run.key, ".parquet")).images]
    assert sorted(seen) == sorted(TARGET["target"].digests)


def test_a_trained_note_survives_json():
    one = Trained([0.5], [[0.7, -0.2]], {"epoch": 1, "value": [0.7, -0.2], "slot": 0}, 1.5, 2)
    assert Trained(**one.note()) == one
    assert one.epochs == 1
    assert Trained([0.5, 0.4]).epochs == 2


def test_checkpoints_of_a_refit_are_removed(tmp_path):
    plan = planned(tmp_path, replace(SEARCH, search={"lr": (1e-3,)}, early_stopping=1, finetune_epochs=3, refit=True))
    run_units(plan)
    assert not list((tmp_path / "checkpoint").glob("*"))
    assert Checkpoints(FolderResults(tmp_path), plan.runs[0].key, print)._paths[0].parent == tmp_path / "checkpoint"
