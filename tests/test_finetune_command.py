"""`simkit finetune` as a user meets it: plan, tables, predictions, failures, interruption, two processes on one store."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score

import simkit
from simkit.cli import cli, entry
from simkit.correlation import read_transfer
from simkit.store import Store

FINETUNE = """
network = "shufflenet_v2_x0_5"
image_size = 32
folds = 2
pretrain_epochs = 1
finetune_epochs = 2
batch_size = 8
sources = ["scratch"]
device = "cpu"
"""


def archive(path: Path, n: int, classes: int, *, seed: int, splits: bool = False) -> None:
    """Drawn images in MedMNIST's layout: all in train, or in train and test."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    images = np.clip(rng.normal(128, 40, (n, 28, 28)) + 30 * labels[:, None, None] * np.sin(np.arange(28) / 3), 0, 255).astype(np.uint8)
    parts = {"train": slice(0, n)} if not splits else {"train": slice(0, n // 2), "test": slice(n // 2, n)}
    arrays = {}
    for name, rows in parts.items():
        arrays |= {f"{name}_images": images[rows], f"{name}_labels": labels[rows, None]}
    np.savez(path, **arrays)


def written(folder: Path, finetune: str = FINETUNE, *, splits: bool = False) -> Path:
    """A study of one source and one target."""
    archive(folder / "near.npz", 16, 3, seed=1)
    archive(folder / "target.npz", 16, 2, seed=2, splits=splits)
    path = folder / "study.toml"
    path.write_text(f"""
study = "tiny"
targets = ["target"]
sources = ["near"]
store = "store"
[datasets.near]
npz = {{path = "near.npz", splits = ["train"]}}
[datasets.target]
npz = {{path = "target.npz", splits = {json.dumps(["train", "test"] if splits else ["train"])}}}
[finetune]
{finetune}
""")
    return path


def run(*arguments: str, code: int = 0):
    result = CliRunner().invoke(cli, ["finetune", *arguments], catch_exceptions=False, standalone_mode=False)
    assert result.return_value == code, result.output
    return result


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    path = written(folder)
    result = run(str(path), "--jobs", "1", "--out", str(folder / "t.csv"), "--predictions", str(folder / "p.parquet"), "--json", str(folder / "t.json"))
    return folder, path, result


def test_the_tables_and_the_predictions_agree(done):
    folder, _, result = done
    table, predictions = pd.read_csv(folder / "t.csv"), pd.read_parquet(folder / "p.parquet")
    assert list(table.columns) == ["source", "target", "fold", "seed", "metric", "value", "baseline", "lr", "weight_decay", "epochs", "choices", "n_train",
                                   "n_test", "seconds", "leaky", "flags", "recipe"]
    aucs = table[table.metric == "auc"]
    assert len(aucs) == 4
    for row in aucs.itertuples():
        mine = predictions[(predictions.source == row.source) & (predictions.fold == str(row.fold))]
        assert len(mine) == row.n_test
        assert roc_auc_score(mine.label == mine.classes.iloc[0][1], [p[1] for p in mine.probabilities]) == pytest.approx(row.value, abs=1e-12)
    value = json.loads((folder / "t.json").read_text())
    assert value["trained"] == 5
    assert value["failures"] == value["leaky"] == []
    assert "Target target" in result.output


def test_correlate_reads_the_table(done, tmp_path):
    folder, *_ = done
    rows = "".join(f"near,target,m{i},{i}.5,true\nscratch,target,m{i},{2 - i}.5,true\n" for i in range(2))
    (tmp_path / "scores.csv").write_text(f"source,target,method,value,higher_is_better\n{rows}")
    with pytest.raises(simkit.SimkitError, match=r"SK5\d\d") as error:  # the table was read: two sources of one target answer nothing
        simkit.correlate(tmp_path / "scores.csv", performance=str(folder / "t.csv"))
    assert error.value.exit_status == 7
    read = read_transfer(folder / "t.csv")
    assert {row["metric"] for row in read.records} == {"auc"}
    assert len(read) == 4


def test_a_second_run_trains_nothing_and_needs_no_torch(done):
    _, path, _ = done
    code = ("import sys; from simkit.cli import entry; status = entry(['finetune', sys.argv[1]]); "
            "print('torch' in sys.modules, 'sklearn' in sys.modules); sys.exit(status)")
    again = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "trained 0 networks (4 found in the store)" in again.stdout
    assert again.stdout.strip().endswith("False False")


def test_the_dry_run_tells_runs_images_and_minutes_and_trains_nothing(tmp_path):
    path = written(tmp_path)
    result = run(str(path), "--dry-run")
    assert "transfer: 4 runs, 0 already there; 1 pretrainings and 4 fine-tunings to do" in result.output
    assert re.search(r"shufflenet_v2_x0_5 at 32 px on CPU.*: 80 training images \(times epochs\), about \d+\.\d min on one job, \d+ MB of disk", result.output)
    value = json.loads(run(str(path), "--dry-run", "--json", "-").output)
    assert (value["runs"], value["pretrainings"], value["images"]) == (4, 1, 80)
    assert not (tmp_path / "store" / "finetune").exists()


def test_a_given_split_is_respected(tmp_path):
    path = written(tmp_path, splits=True)
    assert "note: target: scored on its given test part (8 images), in one fold instead of 2" in run(str(path), "--dry-run").output
    run(str(path), "--jobs", "1", "--out", str(tmp_path / "t.csv"))
    table = pd.read_csv(tmp_path / "t.csv")
    assert set(table.fold) == {"given"}
    assert set(table.n_test) == set(table.n_train) == {8}


def test_failed_trainings_are_listed_and_the_status_is_one(tmp_path, capsys):
    path = written(tmp_path, FINETUNE + 'optimizer = "sgd"\nlearning_rate = 1e30\n')
    assert entry(["finetune", str(path), "--jobs", "1", "--out", str(tmp_path / "t.csv"), "--json", str(tmp_path / "t.json")]) == 1
    said = capsys.readouterr()
    assert "error[SK601] finished, but 4 items were skipped or failed:" in said.err
    assert "scratch -> target, fold 1, seed 0: training diverged: the loss is " in said.err
    assert len(json.loads((tmp_path / "t.json").read_text())["failures"]) == 4
    table = pd.read_csv(tmp_path / "t.csv")
    assert table.value.isna().all()
    assert table["flags"].str.contains("training diverged").all()


def test_tensorboard_logs_hold_every_epoch(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(str(written(tmp_path)), "--jobs", "1", "--tensorboard", str(tmp_path / "logs"))
    folders = [path for path in (tmp_path / "logs").iterdir() if path.is_dir()]
    assert len(folders) == 5
    steps = {}
    for folder in folders:
        events = EventAccumulator(str(folder)).Reload()
        steps[folder.name.split("-fold")[0]] = [event.step for event in events.Scalars("loss")]
    assert sorted(len(found) for found in steps.values())[-1] == 2


def test_an_interrupt_keeps_what_is_done_and_says_how_to_go_on(tmp_path):
    path = written(tmp_path, FINETUNE.replace("finetune_epochs = 2", "finetune_epochs = 400"))
    process = subprocess.Popen([sys.executable, "-m", "simkit", "finetune", str(path), "--jobs", "1"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("pretraining on near"):
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait(60) == 143
    assert "the same command goes on from there" in rest
    assert "Traceback" not in rest
    assert Store(tmp_path / "store").verify() == []


@pytest.mark.slow
def test_two_processes_on_one_store_share_the_work(tmp_path):
    path = written(tmp_path, FINETUNE.replace("finetune_epochs = 2", "finetune_epochs = 6").replace("folds = 2", "folds = 4"))
    command = [sys.executable, "-m", "simkit", "finetune", str(path), "--jobs", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen([*command, "--out", str(tmp_path / f"{i}.csv")], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                 for i in range(2)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    trained = [re.findall(r"^(?:\w+ -> target, fold \d of 4|pretraining on near)(?=: )", err, re.MULTILINE) for _, err in outputs]
    one, two = (pd.read_csv(tmp_path / f"{i}.csv").drop(columns="seconds") for i in range(2))
    pd.testing.assert_frame_equal(one, two)
    assert len(set(trained[0]) | set(trained[1])) == 9
    assert not list((tmp_path / "store" / "claims").rglob("*.lock"))


@pytest.mark.parametrize(("change", "status", "match"), [
    ('protocol = "cat-scans"', 2, r"finetune.protocol: unknown protocol 'cat-scans' \(did you mean 'cats-scans'\?\)"),
    ('mode = "frosen"', 2, r"finetune.mode: 'frosen' is not valid here: .*did you mean 'frozen'"),
    ("search = {lr = [0.1], momentum = [0.9]}", 2, r"finetune.search.momentum: cannot be searched"),
    ('baseline = "self"', 2, r"gains over 'self' need its runs, and the grid has none\nfix: add self_pairs = true"),
    ('mode = "last-stages"\nlast_stages = 99', 2, r"finetune.last_stages: 99 stages are to be trained, and the network has \d+: "),
    ('weights = {birds = "birds.pth"}', 5, r"finetune.weights.birds: the weights file '.*birds.pth' does not exist"),
    ("validation = 0.4\nearly_stopping = 2\nfolds = 8", 2, r"folds"),
])
def test_what_is_wrong_is_said_before_any_training(tmp_path, capsys, change, status, match):
    path = written(tmp_path, FINETUNE + change if "folds" not in change else FINETUNE)
    if "folds" in change:
        path.write_text(path.read_text().replace("folds = 2", "folds = 1"))
    assert entry(["finetune", str(path)]) == status
    assert re.search(match, capsys.readouterr().err)
    assert not (tmp_path / "store" / "finetune").exists()


def test_broken_weights_are_refused_with_their_kind(tmp_path, capsys):
    import pickle

    (tmp_path / "page.pth").write_text("<html>404</html>")
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"model": Path("x")}))
    for name, status, words in (("page", 6, "cannot be read as weights"), ("code", 3, "reading it would run code")):
        path = written(tmp_path, FINETUNE + f'weights = {{birds = "{name}.pth"}}')
        assert entry(["finetune", str(path)]) == status
        said = capsys.readouterr().err
        assert words in said
        assert f"{name}.pth" in said


def test_no_output_replaces_the_study_or_another_output(tmp_path, capsys):
    path = written(tmp_path)
    before = path.read_text()
    for arguments, words in ((["--predictions", str(path)], "study.toml is named for something else too"),
                             (["--out", "x.csv", "--predictions", "x.csv"], "x.csv is named for something else too")):
        assert entry(["finetune", str(path), *arguments]) == 2
        assert words in capsys.readouterr().err
    copy = tmp_path / "study.csv"
    copy.write_text(before)
    assert entry(["finetune", str(copy), "--out", str(copy)]) == 2
    assert "SK107" in capsys.readouterr().err
    assert copy.read_text() == path.read_text() == before


def test_the_device_of_the_command_line_holds(tmp_path, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert entry(["finetune", str(written(tmp_path)), "--device", "cuda", "--dry-run"]) == 2
    assert "SK106" in capsys.readouterr().err


def test_images_that_cannot_be_read_are_named_and_the_status_is_four(tmp_path, capsys):
    from PIL import Image

    for name in ("near", "target"):
        for label in ("a", "b"):
            (tmp_path / name / label).mkdir(parents=True)
            for i in range(6):
                noise = np.random.default_rng([i, ord(label), len(name)]).integers(0, 255, (16, 16), dtype=np.uint8)
                Image.fromarray(noise).save(tmp_path / name / label / f"{i}.png")
    (tmp_path / "target" / "a" / "broken.png").write_text("no image")
    path = written(tmp_path)
    text = re.sub(r"npz = \{path = \"(\w+)\.npz\".*\}", r'folder = {path = "\1"}', path.read_text())
    path.write_text(text.replace("finetune_epochs = 2", "finetune_epochs = 1"))
    assert entry(["finetune", str(path), "--jobs", "1", "--json", str(tmp_path / "t.json")]) == 4
    assert "target: a/broken.png skipped: " in capsys.readouterr().err
    assert json.loads((tmp_path / "t.json").read_text())["skipped"]


def test_a_study_whose_trainings_all_failed_still_writes_its_page(tmp_path, capsys):
    path = written(tmp_path, FINETUNE + 'optimizer = "sgd"\nlearning_rate = 1e30\n')
    path.write_text(path.read_text().replace('store = "store"', 'store = "store"\nrepeats = 0\nmethods = ["source-size"]'))
    assert entry(["run", str(path), "--jobs", "1", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "fine-tuning scratch -> target, fold 1, seed 0: training diverged" in said
    assert (tmp_path / "out" / "report.html").is_file()


def test_nobody_reads_the_progress_and_the_work_goes_on(tmp_path):
    path = written(tmp_path)
    call = f"{sys.executable} -m simkit finetune {path} --jobs 1 --json {tmp_path / 't.json'}"
    command = f"{call} 2>&1 >/dev/null | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
    assert json.loads((tmp_path / "t.json").read_text())["trained"] == 5


def test_a_folder_cannot_be_the_table(tmp_path, capsys):
    path = written(tmp_path)
    assert entry(["finetune", str(path), "--out", str(tmp_path)]) == 5
    assert "is a folder, a file is wanted" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()
