"""The grid: planned whole, found again by content, killed at any moment, honest about leaks and failures."""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from transfer_study import PROTOCOL, FolderResults, drawn, study, study_killed_at

from simkit.dataset import Dataset
from simkit.errors import DataError, NotEnoughData, ResourceError, SimkitError, UsageError
from simkit.recipe import describe, digest_bytes
from simkit.registry import build_options
from simkit.transfer import Protocol, plan_units, run_units, runner
from simkit.transfer import grid as planning
from simkit.transfer.folds import make_folds
from simkit.transfer.predictions import read_predictions
from simkit.transfer.units import Start


def records(folder, kind="finetune"):
    """key -> record without the time it took; with the predictions of a fine-tuning."""
    out = {}
    for path in sorted((folder / kind).glob("*.json")):
        record = json.loads(path.read_text())
        out[path.stem] = {name: value for name, value in record.items() if name != "seconds"}
        if kind == "finetune" and "failed" not in record:
            found = read_predictions(path.with_suffix(".parquet"))
            out[path.stem] |= {"images": list(found.images), "labels": found.labels.tolist(), "probabilities": found.probabilities.tolist()}
    return out


def main_rows(result):
    """The rows of the main metric, as consumers of the table read them."""
    return result.table.of_metric()


def replicate(record):
    return f"seed{record['seed']}-fold{record['fold']}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The small study, run without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    lines: list[str] = []
    return folder, study(folder, progress=lines.append), lines


def test_the_table_holds_every_pair_and_fold(whole):
    _, result, lines = whole
    frame = result.table.frame
    metrics = ["auc", "balanced-accuracy", "log-loss", "brier", "calibration-error"]
    assert list(zip(frame.source, frame.target, frame.fold, frame.seed, frame.metric)) == [
        (source, "target", fold, 0, metric) for source in ("source", "scratch") for fold in ("1", "2") for metric in metrics
    ]
    assert frame.n_train.tolist() == frame.n_test.tolist() == [6] * 20
    assert frame[frame.metric == "auc"].value.between(0, 1).all()
    assert set(frame["flags"]) == {""}
    assert set(frame.leaky) == {0}
    assert set(frame.epochs) == {3}
    assert set(frame.lr) == {1e-3}
    assert frame.seconds.gt(0).all()
    assert frame.recipe.nunique() == 4
    assert (result.made, result.found, result.failures, dict(result.leaky)) == (5, 0, (), {})
    assert lines[0].startswith("pretraining on source: loss ")
    assert lines[1].startswith("source -> target, fold 1 of 2: AUC 0.")
    assert "[5 of 5" in lines[4]


def test_the_aucs_are_those_of_the_stored_predictions(whole):
    folder, result, _ = whole
    target = drawn("target", 12)
    names = dict(zip(target.digests, target.label_names, strict=True))
    found = {}
    for record in records(folder).values():
        positive = np.array(record["probabilities"])[:, 1]
        truth = [names[digest] == record["classes"][1] for digest in record["images"]]
        found[record["source"], replicate(record)] = roc_auc_score(truth, positive)
    for row in main_rows(result):
        assert row["performance"] == found[row["source"], row["replicate"]]


def test_all_predictions_come_in_one_file(whole, tmp_path):
    import pandas as pd

    _, result, _ = whole
    result.predictions(tmp_path / "all.parquet")
    frame = pd.read_parquet(tmp_path / "all.parquet")
    assert len(frame) == 4 * 6
    for row in main_rows(result):
        mine = frame[(frame.source == row["source"]) & (frame.fold == row["fold"])]
        assert roc_auc_score(mine.label == "stripes1", [p[1] for p in mine.probabilities]) == row["performance"]
        assert set(mine.key) <= {f"target/{i}" for i in range(12)}


def test_the_folds_are_the_same_for_every_source(whole):
    tested: dict[str, set[str]] = {}
    for record in records(whole[0]).values():
        tested.setdefault(replicate(record), set()).add(" ".join(record["images"]))
    assert all(len(sets) == 1 for sets in tested.values())
    assert len(tested) == 2


def test_nothing_is_done_twice(whole):
    folder, result, _ = whole
    lines: list[str] = []
    again = study(folder, progress=lines.append)
    assert (again.made, again.found, lines) == (0, 4, [])
    assert again.table.records == result.table.records
    assert not list((folder / "checkpoint").iterdir())


def test_names_and_order_do_not_matter_content_does(whole):
    folder, result, _ = whole
    source, target = drawn("source", 16, 3, seed=1), drawn("target", 12)
    renamed = replace(source, name="elsewhere", keys=tuple(f"new{i}" for i in range(16)))
    turned = target.take(np.arange(12)[::-1])
    again = study(folder, elsewhere=renamed, target=turned)
    assert again.made == 0
    assert [row["value"] for row in again.table.records] == [row["value"] for row in result.table.records]
    assert {row["source"] for row in again.table.records} == {"elsewhere", "scratch"}
    changed = target.take(np.arange(11))
    plan = plan_units(PROTOCOL, {"source": source, "target": changed}, ["source"], ["target"], 1, FolderResults(folder))
    assert len(plan.todo) == 4
    assert plan.pretrainings == ()  # the source is as it was


def test_another_seed_makes_other_folds_and_numbers(whole):
    folder, *_ = whole
    plan = plan_units(PROTOCOL, {"source": drawn("source", 16, 3, seed=1), "target": drawn("target", 12)}, ["source"], ["target"], 2, FolderResults(folder))
    assert (len(plan.todo), len(plan.pretrainings)) == (4, 1)


def test_processes_give_the_same_bits(whole, tmp_path):
    study(tmp_path, jobs=2)
    assert records(tmp_path) == records(whole[0])


def test_what_moves_a_number_is_in_the_key():
    other = {
        "network": "resnet18", "image_size": 48, "channels": 1, "batch_size": 16, "learning_rate": 0.1, "weight_decay": 0.5, "optimizer": "sgd",
        "schedule": "none", "warmup_epochs": 1, "augmentation": "none", "class_weights": "none", "label_smoothing": 0.1, "dropout": 0.1, "threads": 2,
        "precision": "bfloat16", "batch_norm": "train", "accumulate": 2, "early_stopping": 3, "seeds": (1,), "folds": 3, "finetune_epochs": 9,
        "mode": "frozen", "search": {"lr": (1e-3, 1e-4)},
    }
    of_pretraining_too = set(other) - {"folds", "finetune_epochs", "mode", "search", "batch_norm"}
    datasets = {"source": drawn("source", 8, seed=1), "target": drawn("target", 12)}
    results = FolderResults.__new__(FolderResults)
    results.folder = None
    results.load_json = lambda kind, key: None

    def keys(protocol):
        planner = planning._Planner(protocol, datasets, ("source",), ("target",), 1, results, print)
        planner.names = ("source", "scratch")
        planner.listings = {name: planning.listing(one) for name, one in datasets.items()}
        planner.files = {"scratch": Start("scratch")}
        origins, runs = planner.grid()
        return {run.key for run in runs}, {origin.pretraining.key for origin in origins.values() if origin.pretraining}

    runs, pretrainings = keys(PROTOCOL)
    assert (len(runs), len(pretrainings)) == (4, 1)
    for field, value in other.items():
        changed, changed_pretrainings = keys(replace(PROTOCOL, **{field: value}))
        assert not changed & runs, field
        assert (not changed_pretrainings & pretrainings) == (field in of_pretraining_too), field
    nothing = {"average": "macro", "device": "auto", "validation": 0.3, "refit": True, "selection": "log-loss", "probe_epochs": 2, "last_stages": 2,
               "deterministic": False, "keep_networks": True, "compile": True, "baseline": "scratch", "overlap": "mark", "search": {"lr": (1e-3,)}}
    for field, value in nothing.items():  # what does nothing here, or moves no number
        assert keys(replace(PROTOCOL, **{field: value})) == (runs, pretrainings), field
    searched = replace(PROTOCOL, search={"lr": (1e-3, 1e-4)})
    assert not keys(replace(searched, search_pretraining=True))[1] & pretrainings
    for field, value in {"validation": 0.3, "refit": True, "selection": "log-loss"}.items():
        assert not keys(replace(searched, **{field: value}))[0] & keys(searched)[0], field


def test_both_averages_are_there_the_protocols_first(tmp_path):
    target = drawn("target", 18, 3).take([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15])  # classes of unequal size
    weighted = study(tmp_path, target=target)
    macro = study(tmp_path, target=target, protocol=replace(PROTOCOL, average="macro"))
    assert macro.made == 0
    assert weighted.table.main_metrics == {"target": "auc-ovr-weighted"}
    assert macro.table.main_metrics == {"target": "auc-ovr-macro"}
    assert {row["metric"] for row in macro.table.records} == {row["metric"] for row in weighted.table.records}
    expected = {}
    for record in records(tmp_path).values():
        probabilities, labels = np.array(record["probabilities"]), np.array(record["labels"])
        expected[replicate(record)] = np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in range(3)])
    for row in main_rows(macro):
        if row["source"] == "scratch":
            assert row["performance"] == pytest.approx(expected[row["replicate"]])
    assert [row["performance"] for row in main_rows(macro)] != [row["performance"] for row in main_rows(weighted)]


def test_each_seed_is_a_repeat_with_folds_of_its_own(tmp_path):
    result = study(tmp_path, target=drawn("target", 12), protocol=replace(PROTOCOL, seeds=(0, 5)))
    assert [row["replicate"] for row in main_rows(result)] == ["seed0-fold1", "seed0-fold2", "seed5-fold1", "seed5-fold2"]
    tested = {replicate(record): set(record["images"]) for record in records(tmp_path).values()}
    assert tested["seed0-fold1"] | tested["seed0-fold2"] == tested["seed5-fold1"] | tested["seed5-fold2"]
    assert tested["seed0-fold1"] not in (tested["seed5-fold1"], tested["seed5-fold2"])


def overlapping():
    """A target of 12 images, and a source of 13 that holds 5 of them."""
    target, other = drawn("target", 12), drawn("other", 8, seed=1)
    images = np.concatenate([target.reader.images[:5], other.reader.images])
    return {"overlap": replace(drawn("overlap", 13), reader=type(other.reader)(images)), "target": target}


def test_test_images_in_the_source_are_counted_when_they_are_only_to_be_marked(tmp_path):
    result = study(tmp_path, protocol=replace(PROTOCOL, overlap="mark"), **overlapping())
    rows = [row for row in main_rows(result) if row["source"] == "overlap"]
    assert sum(row["leaky"] for row in rows) == 5
    assert result.leaky == {("overlap", "target"): 5}
    assert all(row["flags"] == f"leaky: {row['leaky']} of 6 test images are in the source" for row in rows if row["leaky"])
    assert all(not row["flags"] and row["leaky"] == 0 for row in result.table.records if row["source"] == "scratch")
    assert len(list((tmp_path / "pretrain").glob("*.json"))) == 1


def test_test_images_are_taken_out_of_pretraining(tmp_path):
    datasets, lines = overlapping(), []
    plan = plan_units(PROTOCOL, datasets, ["overlap"], ["target"], 1, FolderResults(tmp_path))
    assert any("the two share images: 5 images of overlap are taken out of its pretraining" in note for note in plan.notes)
    result = run_units(plan, progress=lines.append)
    assert result.leaky == {}
    assert {row["leaky"] for row in result.table.records} == {0}
    tested = {record["fold"]: set(record["images"]) for record in records(tmp_path).values() if record["source"] == "overlap"}
    sizes = {record["n_train"] for record in records(tmp_path, "pretrain").values()}
    shared = set(datasets["overlap"].digests)
    assert sizes == {13 - len(images & shared) for images in tested.values()}
    assert len(list((tmp_path / "pretrain").glob("*.json"))) == 2
    for origin in plan.origins.values():
        if origin.pretraining is not None:
            seen = {plan.listings["overlap"].digests[row] for row in origin.rows}
            fold = next(run for run in plan.runs if plan.origins[run.key] is origin)
            assert not seen & tested[fold.fold_name]
    assert any(line.startswith("pretraining on overlap without the test images of target, fold 1: loss") for line in lines)


def test_self_pairs_are_left_out_unless_asked_for(tmp_path):
    datasets = {"a": drawn("a", 8), "b": drawn("b", 8, seed=1)}
    plan = plan_units(PROTOCOL, datasets, ["a", "b"], ["a", "b"], 1, FolderResults(tmp_path))
    assert {(run.source, run.target) for run in plan.runs} == {("b", "a"), ("a", "b"), ("scratch", "a"), ("scratch", "b")}
    clean = run_units(plan_units(replace(PROTOCOL, self_pairs=True, sources=()), datasets, ["a"], ["a"], 1, FolderResults(tmp_path)))
    assert {(row["source"], row["target"], row["leaky"]) for row in clean.table.records} == {("a", "a", 0)}
    assert clean.made == 4
    marked = replace(PROTOCOL, self_pairs=True, sources=(), overlap="mark")
    assert run_units(plan_units(marked, datasets, ["a"], ["a"], 1, FolderResults(tmp_path))).leaky == {("a", "a"): 8}


def test_the_gain_is_relative_to_the_named_baseline_fold_by_fold(tmp_path):
    datasets = {"source": drawn("source", 8, 3, seed=1), "target": drawn("target", 12)}
    protocol = replace(PROTOCOL, self_pairs=True, baseline="self")
    result = run_units(plan_units(protocol, datasets, ["source", "target"], ["target"], 1, FolderResults(tmp_path)))
    value = {(row["source"], row["fold"]): row["value"] for row in result.table.records if row["metric"] == "auc"}
    gains = [row for row in result.table.records if row["metric"] == "relative-gain"]
    assert len(gains) == 6
    for row in gains:
        assert row["baseline"] == "self"
        base = value["target", row["fold"]]
        if base:
            assert row["value"] == pytest.approx(100 * (value[row["source"], row["fold"]] - base) / base)
        else:
            assert (row["value"], row["flags"].split(";")[0]) == (None, "the baseline 'self' has no value above zero in this fold")
    assert {row["value"] for row in gains if row["source"] == "target"} <= {0.0, None}
    scratch = run_units(plan_units(replace(protocol, baseline="scratch"), datasets, ["source", "target"], ["target"], 1, FolderResults(tmp_path)))
    assert scratch.made == 0
    assert {row["value"] for row in scratch.table.records if row["metric"] == "relative-gain" and row["source"] == "scratch"} <= {0.0, None}
    with pytest.raises(UsageError, match=r"SK104\] finetune.baseline: gains over 'self' need each target among the sources: target is not"):
        plan_units(protocol, datasets, ["source"], ["target"], 1, FolderResults(tmp_path))


def test_a_diverging_run_has_no_number_and_the_others_go_on(tmp_path):
    lines: list[str] = []
    protocol = replace(PROTOCOL, learning_rate=1e30, optimizer="sgd", pretrain_epochs=4)
    first = study(tmp_path, protocol=protocol, progress=lines.append)
    again = study(tmp_path, protocol=protocol)
    assert first.made == 5
    assert again.made == 0
    for result in (first, again):
        assert len(result.failures) == len(result.table) == 4
        assert all(row["value"] is None for row in result.table.records)
        by_source = {failure.source: failure for failure in result.failures}
        assert by_source["source"].reason.startswith("pretraining on source: training diverged: the loss is ")
        assert by_source["scratch"].reason.startswith("training diverged: the loss is ")
        assert by_source["scratch"].code == "SK502"
        assert result.table.records[-1]["flags"] == by_source["scratch"].reason
    assert any("scratch -> target, fold 1 of 2: FAILED: training diverged" in line for line in lines)


def test_damaged_pretrained_weights_are_made_again(whole, tmp_path):
    _, result, _ = whole
    study(tmp_path, source=drawn("source", 16, 3, seed=1), target=drawn("target", 12), protocol=replace(PROTOCOL, sources=()))
    for record in (tmp_path / "finetune").iterdir():
        record.unlink()
    (claims,) = [list((tmp_path / "claims").iterdir()) if (tmp_path / "claims").is_dir() else []]
    assert claims == []
    (weights,) = (tmp_path / "pretrain").glob("*.safetensors")
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-50])
    lines: list[str] = []
    again = study(tmp_path, progress=lines.append)
    assert again.made == 5
    assert "is damaged or foreign" in lines[0]
    assert lines[0].endswith("pretrained again")
    assert weights.read_bytes() == sound
    assert [{**row, "seconds": 0} for row in again.table.records] == [{**row, "seconds": 0} for row in result.table.records]


def test_a_checkpoint_file_is_a_source(tmp_path):
    from safetensors.torch import save_file

    from simkit.transfer.networks import build_network

    torch.manual_seed(3)
    network, _ = build_network("shufflenet_v2_x0_5", 9, dropout=0.0, image_size=32)
    path = tmp_path / "birds.safetensors"
    save_file(network.state_dict(), path)
    protocol = replace(PROTOCOL, sources=(), weights={"birds": str(path)})
    result = study(tmp_path / "store", target=drawn("target", 12), protocol=protocol)
    assert [(row["source"], row["leaky"]) for row in main_rows(result)] == [("birds", None)] * 2  # what it has seen is not known
    assert result.made == 2
    moved = path.rename(tmp_path / "moved.safetensors")
    assert study(tmp_path / "store", target=drawn("target", 12), protocol=replace(protocol, weights={"renamed": str(moved)})).made == 0


def test_the_plan_says_what_is_left_and_what_it_costs(whole, tmp_path):
    fresh = plan_units(PROTOCOL, {"source": drawn("source", 16, 3, seed=1), "target": drawn("target", 12)}, ["source"], ["target"], 1, FolderResults(tmp_path))
    assert sum(fresh.images.values()) == 16 * 3 + 4 * 6 * 3
    assert fresh.seconds > 0
    assert fresh.bytes > 28 * 3 * 32 * 32
    lines = fresh.lines()
    assert lines[0] == "transfer: 4 runs, 0 already there; 1 pretrainings and 4 fine-tunings to do"
    assert "shufflenet_v2_x0_5 at 32 px on CPU" in lines[1]
    assert "120 training images (times epochs), about 0.0 min on one job" in lines[1]
    assert lines[2].startswith("  pretrain on source: 1 runs, 48 images, ")
    assert lines[3].startswith("  fine-tune target: 4 runs, 72 images, ")
    assert fresh.as_dict()["finetunings"] == 4
    done = plan_units(PROTOCOL, {"source": drawn("source", 16, 3, seed=1), "target": drawn("target", 12)}, ["source"], ["target"], 1, FolderResults(whole[0]))
    assert (done.images, done.seconds, done.todo, done.pretrainings) == ({}, 0.0, (), ())
    assert {path.name for path in tmp_path.iterdir()} == {"pixels"}  # a plan decodes the images, and writes nothing else


def test_the_plan_notes_what_a_reader_should_know(tmp_path):
    base = drawn("target", 12)
    images = base.reader.images.copy()
    images[11] = images[1]
    images[10] = images[1]
    odd = replace(base, reader=type(base.reader)(images), classes=(*base.classes, "ghost"), splits=("train",) * 12)
    plan = plan_units(PROTOCOL, {"target": odd}, [], ["target"], 1, FolderResults(tmp_path))
    text = "\n".join(plan.notes)
    assert "target: no image of class ghost: the class takes no part" in text
    assert "target: 2 images are the same as another; copies stay in one fold" in text
    assert "target: 1 images exist with two labels" in text
    assert "target: its given split names no test part: all images are dealt into folds" in text


def test_all_problems_are_reported_before_any_training(tmp_path):
    unlabelled = Dataset("bare", ("a", "b"), drawn("x", 2).reader)
    datasets = {"bare": unlabelled, "few": drawn("few", 6), "fine": drawn("fine", 24)}
    protocol = replace(PROTOCOL, folds=5, device="cuda:99", weights={"birds": str(tmp_path / "birds.pth")})
    with pytest.raises(SimkitError) as error:
        plan_units(protocol, datasets, ["bare", "fine"], ["few"], 1, FolderResults(tmp_path))
    text = str(error.value)
    assert {problem.code for problem in error.value.problems} == {"SK106", "SK208", "SK501", "SK302"}
    assert "finetune.device: 'cuda:99' was asked for" in text
    assert "bare: training needs labels and the data set has none" in text
    assert "few: 5 folds are not possible: a class has fewer images than folds (images per class: stripes0 3, stripes1 3)" in text
    assert "finetune.weights.birds: the weights file" in text
    assert {path.name for path in tmp_path.iterdir()} == {"pixels"}


TARGET = {"target": drawn("target", 12)}


@pytest.mark.parametrize(("datasets", "changes", "kind", "match"), [
    (TARGET, {"sources": ("imagnet",)}, UsageError, r"SK101\] finetune.sources: unknown source 'imagnet' \(did you mean 'imagenet'\?\)"),
    (TARGET, {"sources": ()}, UsageError, r"SK104\] finetune: no source-target pair \(0 sources, 1 targets"),
    ({**TARGET, "scratch": drawn("scratch", 8)}, {}, UsageError, r"SK105\] finetune.sources: 'scratch' names two sources"),
    ({**TARGET, "birds": drawn("birds", 8)}, {"weights": {"birds": "b.pth"}}, UsageError, r"SK105\] finetune.weights: 'birds' names two sources"),
    (TARGET, {"seeds": (1, 1)}, UsageError, r"SK102\] finetune.seeds: \[1, 1\]: wanted at least one seed, each once"),
    (TARGET, {"network": "resnet19"}, UsageError, r"SK101\] finetune.network: unknown network 'resnet19' \(did you mean 'resnet1"),
    (TARGET, {"network": "alexnet", "image_size": 16}, UsageError, r"SK102\] finetune.image_size: alexnet cannot take images of 16 x 16 px"),
    ({"target": TARGET["target"].take([0, 2, 4])}, {}, DataError, r"SK208\] target: training needs at least two classes and all 3 images are of"),
    ({"target": drawn("target", 12, groups=("p",) * 12)}, {}, NotEnoughData, r"SK501\] target: 2 folds are not possible: a class has fewer groups"),
])
def test_what_a_plan_refuses(tmp_path, datasets, changes, kind, match):
    with pytest.raises(kind, match=match):
        study(tmp_path, protocol=replace(PROTOCOL, **changes), **datasets)


def test_unknown_names_are_answered_with_the_nearest(tmp_path):
    with pytest.raises(UsageError, match=r"source 'birdz' is not a data set \(did you mean 'birds'\?\)") as error:
        plan_units(PROTOCOL, {"birds": drawn("birds"), "moths": drawn("moths")}, ["birdz"], ["moth"], 1, FolderResults(tmp_path))
    assert "target 'moth' is not a data set (did you mean 'moths'?)" in str(error.value)


def test_out_of_memory_names_the_remedy(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore")

    plan = plan_units(PROTOCOL, {"target": drawn("target", 12)}, [], ["target"], 1, FolderResults(tmp_path))
    monkeypatch.setattr("simkit.transfer.units.predict", full)
    with pytest.raises(ResourceError, match=r"SK301\] finetune: the device is out of memory: .* Tried to allocate 9 GiB\nfix: lower batch_size"):
        run_units(plan)


def test_jobs_are_checked(tmp_path):
    plan = plan_units(PROTOCOL, {"target": drawn("target", 12)}, [], ["target"], 1, FolderResults(tmp_path))
    with pytest.raises(UsageError, match=r"SK102\] jobs: -1 processes"):
        run_units(plan, jobs=-1)
    assert runner._room(plan) >= 1
    assert runner._room(replace(plan, devices=("cuda:0", "cuda:1"))) == 2


def test_an_interruption_keeps_what_is_finished(tmp_path):
    def stop(line: str) -> None:
        if "fold 1 of 2" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, progress=stop)
    assert len(records(tmp_path)) == 1
    lines: list[str] = []
    result = study(tmp_path, progress=lines.append)
    assert (result.made, result.found) == (3, 1)
    assert not any("pretraining" in line for line in lines)


def test_the_protocol_is_a_table_of_options():
    built = Protocol(**build_options(Protocol, {"network": "resnet50", "seeds": [1, 2], "weights": {"birds": "b.pth"}, "sources": ["scratch"]}, "finetune"))
    assert (built.seeds, built.weights, built.sources) == ((1, 2), {"birds": "b.pth"}, ("scratch",))
    assert describe(built)["network"] == "resnet50"
    with pytest.raises(UsageError, match=r"SK102\] finetune.folds: 1 is out of range: expected whole number >= 2"):
        build_options(Protocol, {"folds": 1}, "finetune")
    with pytest.raises(UsageError, match=r"SK101\] finetune.learning_rat: unknown option \(did you mean 'learning_rate'\?\)"):
        build_options(Protocol, {"learning_rat": 0.1}, "finetune")


def test_the_package_is_imported_without_torch():
    code = "import simkit.transfer, simkit.device, sys; print([m for m in ('torch', 'sklearn', 'pandas', 'safetensors', 'joblib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_groups_are_kept_whole_in_the_runs(tmp_path):
    groups = tuple(f"patient{i // 4}" for i in range(16))
    target = drawn("target", 16, groups=groups)
    patient = dict(zip(target.digests, groups, strict=True))
    plan = plan_units(PROTOCOL, {"target": target}, [], ["target"], 1, FolderResults(tmp_path))
    run_units(plan)
    first, second = ({patient[digest] for digest in record["images"]} for record in records(tmp_path).values())
    assert not first & second
    assert len(first | second) == 4
    assert make_folds(plan.listings["target"].labels, digests=plan.listings["target"].digests, groups=plan.listings["target"].groups, classes=target.classes,
                      folds=2, names=(1, 0, target.fingerprint), where="").grouped


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["transfer_study", "torchvision.transforms.v2", "sklearn.model_selection", "sklearn.metrics", "safetensors.torch"])
    return context


@pytest.mark.slow
@pytest.mark.parametrize("stride", [23, 37])
def test_killed_over_and_over_it_ends_with_the_same_bits(whole, tmp_path, processes, stride):
    """SIGKILL at every stride-th step, write, flush or rename until the study is through: at most an epoch is lost each time, and no bit."""
    kills = 0
    while not (tmp_path / "events").exists():
        process = processes.Process(target=study_killed_at, args=(tmp_path, stride))
        process.start()
        process.join(120)
        assert process.exitcode in (0, -signal.SIGKILL)
        kills += process.exitcode != 0
        assert kills < 40, "no progress between two kills"
    assert kills >= 3
    folder, *_ = whole
    assert records(tmp_path) == records(folder)
    assert records(tmp_path, "pretrain") == records(folder, "pretrain")
    (ours,), (theirs,) = (list((where / "pretrain").glob("*.safetensors")) for where in (tmp_path, folder))
    assert ours.read_bytes() == theirs.read_bytes()
    steps = len((tmp_path / "steps").read_bytes())
    whole_grid, measured_by_each_plan, lost_by_each_kill = 3 * 2 + 4 * 3 * 1, 3, 2
    assert steps <= whole_grid + (kills + 1) * measured_by_each_plan + kills * lost_by_each_kill


def test_sources_of_a_fold_differ_in_their_weights_alone(tmp_path):
    """The same weights under two file contents (a renamed tensor that is left out: the head) give the same predictions."""
    from safetensors.torch import save_file

    from simkit.transfer.networks import build_network

    torch.manual_seed(3)
    network, head = build_network("shufflenet_v2_x0_5", 9, dropout=0.0, image_size=32)
    state = network.state_dict()
    save_file(state, tmp_path / "one.safetensors")
    save_file({name: value + 1 if name.startswith(head) else value for name, value in state.items()}, tmp_path / "two.safetensors")
    protocol = replace(PROTOCOL, sources=(), weights={name: str(tmp_path / f"{name}.safetensors") for name in ("one", "two")})
    result = study(tmp_path / "store", target=drawn("target", 12), protocol=protocol)
    assert result.made == 4
    by_source = {name: [row["value"] for row in result.table.records if row["source"] == name] for name in ("one", "two")}
    assert by_source["one"] == by_source["two"]


# --- after review --------------------------------------------------------------------------------------------------------------------------


def test_images_that_look_the_same_are_shared_whatever_their_digest(tmp_path):
    """A reader with other rules, or another file format, gives another digest of the same pixels."""
    datasets = overlapping()
    reader = datasets["overlap"].reader

    class OtherRules(type(reader)):
        def digest(self, index):
            return digest_bytes(b"other rules", super().digest(index).encode())

    other = replace(datasets["overlap"], reader=OtherRules(reader.images))
    assert not set(other.digests) & set(datasets["target"].digests)
    plan = plan_units(PROTOCOL, {"overlap": other, "target": datasets["target"]}, ["overlap"], ["target"], 1, FolderResults(tmp_path))
    assert sum(origin.removed for origin in plan.origins.values()) == 5
    both = {"overlap": other, "target": datasets["target"]}
    marked = plan_units(replace(PROTOCOL, overlap="mark"), both, ["overlap"], ["target"], 1, FolderResults(tmp_path))
    assert sum(origin.leaked or 0 for origin in marked.origins.values()) == 5


def test_patients_of_the_source_go_with_their_images_and_shared_names_are_said(tmp_path):
    datasets = overlapping()
    groups = ("p1", "p1", "p2", "p2", "p3", *("p1",) * 2, *("q",) * 6)
    grouped = replace(datasets["overlap"], groups=groups)
    target = replace(datasets["target"], groups=tuple(f"p{i % 12}" for i in range(12)))
    plan = plan_units(PROTOCOL, {"overlap": grouped, "target": target}, ["overlap"], ["target"], 1, FolderResults(tmp_path))
    assert any("overlap -> target: 3 patient names are in both (such as 'p1')" in note for note in plan.notes)
    for run in plan.runs:
        origin = plan.origins[run.key]
        if run.source != "overlap":
            continue
        one = plan.listings["overlap"]
        tested = {plan.listings["target"].identities[i] for i in plan.folds["target", 0].test[run.fold]}
        patients = {one.groups[i] for i in range(len(one)) if one.identities[i] in tested}
        assert not patients & {one.groups[i] for i in origin.rows}
        assert "3 patient names are in source and target" in origin.remarks


def test_given_splits_whose_patients_cross_are_flagged_when_patients_are_ignored(tmp_path):
    target = drawn("target", 16, splits=("train",) * 8 + ("test",) * 8, groups=tuple(f"p{i % 4}" for i in range(16)))
    protocol = replace(PROTOCOL, groups="ignore", finetune_epochs=1)
    result = study(tmp_path, target=target, protocol=protocol)
    assert {row["flags"] for row in result.table.records} == {"folds ignore patients"}


def test_each_protocol_seed_pretrains_anew(tmp_path):
    datasets = {"source": drawn("source", 16, 3, seed=1), "target": drawn("target", 12)}
    plan = plan_units(replace(PROTOCOL, seeds=(0, 3)), datasets, ["source"], ["target"], 1, FolderResults(tmp_path))
    assert [unit.repeat for unit in plan.pretrainings] == [0, 3]
    assert [unit.label for unit in plan.pretrainings] == ["pretraining on source", "pretraining on source, seed 3"]


def test_a_refit_uses_the_given_validation_part_too(tmp_path):
    target = drawn("target", 24, splits=("train",) * 10 + ("val",) * 6 + ("test",) * 8)
    protocol = replace(PROTOCOL, early_stopping=2, refit=True)
    assert {row["n_train"] for row in study(tmp_path / "refit", target=target, protocol=protocol).table.records} == {16}
    assert {row["n_train"] for row in study(tmp_path / "kept", target=target, protocol=replace(protocol, refit=False)).table.records} == {10}


def test_frozen_batch_norms_need_statistics(tmp_path):
    with pytest.raises(UsageError, match=r"SK102\] finetune.batch_norm: random weights \(scratch\) have no statistics that could stay frozen"):
        replace(PROTOCOL, batch_norm="frozen")
    frozen = replace(PROTOCOL, batch_norm="frozen", sources=())
    assert frozen.pretraining().batch_norm == "train"
    assert frozen.finetuning().batch_norm == "frozen"


def test_missing_predictions_and_networks_are_made_again(tmp_path):
    first = study(tmp_path, target=drawn("target", 12))
    next((tmp_path / "finetune").glob("*.parquet")).unlink()
    plan = plan_units(PROTOCOL, {"target": drawn("target", 12)}, [], ["target"], 1, FolderResults(tmp_path))
    assert [note for note in plan.notes if "its predictions are not in the store: the run is done again" in note]
    again = run_units(plan)
    assert (again.made, again.table.untimed.records) == (1, first.table.untimed.records)
    kept = study(tmp_path, target=drawn("target", 12), protocol=replace(PROTOCOL, keep_networks=True))
    assert kept.made == 2
    assert len(list((tmp_path / "finetune").glob("*.safetensors"))) == 2


def test_a_damaged_pretraining_is_made_again_by_processes_too(whole, tmp_path):
    _, expected, _ = whole
    study(tmp_path)
    for record in (tmp_path / "finetune").iterdir():
        record.unlink()
    (weights,) = (tmp_path / "pretrain").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-50])
    again = study(tmp_path, jobs=2)
    assert (again.made, again.table.untimed.records) == (5, expected.table.untimed.records)


def test_the_gain_over_a_leaky_baseline_is_flagged(tmp_path):
    datasets = {"source": drawn("source", 8, 3, seed=1), "target": drawn("target", 12)}
    protocol = replace(PROTOCOL, self_pairs=True, baseline="self", overlap="mark", finetune_epochs=1, pretrain_epochs=1)
    result = run_units(plan_units(protocol, datasets, ["source", "target"], ["target"], 1, FolderResults(tmp_path)))
    gains = [row for row in result.table.records if row["metric"] == "relative-gain" and row["source"] == "source"]
    assert len(gains) == 2
    assert all("leaky baseline: 6 of 6 test images are in it" in row["flags"] for row in gains)


def test_failed_runs_are_counted_in_the_plan(tmp_path):
    protocol = replace(PROTOCOL, learning_rate=1e30, optimizer="sgd", pretrain_epochs=4)
    study(tmp_path, protocol=protocol, target=drawn("target", 12))
    plan = plan_units(protocol, {"target": drawn("target", 12)}, [], ["target"], 1, FolderResults(tmp_path))
    assert plan.lines()[0].startswith("transfer: 2 runs, 2 already there (2 of them failed: the same recipe is not tried again); 0 pretrainings and ")
    assert plan.as_dict()["failed"] == 2
