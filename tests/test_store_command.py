"""`simkit store list|show|verify|prune`."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from simkit.cli import entry
from simkit.recipe import digest
from simkit.store import Store

RECIPE = {"type": "torchvision", "version": 1, "network": "resnet50", "weights": "a" * 64, "seed": 0, "preprocessing": {"size": 224}}
KEY = digest(RECIPE)[:24]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")  # what SIMKIT_STORE names in tests
    store.prepare()
    store.shelf(RECIPE).add([digest(i) for i in range(10)], np.zeros((10, 4), dtype=np.float32))
    store.save_json("score", digest("a"), {"value": 0.25})
    return store


def shard(store: Store) -> Path:
    return next((store.root / "embeddings").rglob("*.safetensors"))


def age(folder: Path, days: float) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - days * 86400,) * 2)


def test_list_shows_extractors_with_their_recipe_in_one_line(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry(["store", "list"]) == 0
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if line.startswith("embeddings"))
    assert KEY[:12] in line
    assert "10 rows" in line
    assert "torchvision network=resnet50 weights=aaaaaaaaaaaa preprocessing={...}" in line
    assert time.strftime("%Y-%m-%d") in line
    assert entry(["store", "list", "--json"]) == 0
    rows = {row["kind"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["embeddings"]["rows"], rows["embeddings"]["dimension"], rows["score"]["files"]) == (10, 4, 1)
    assert entry(["store", "list", "-q"]) == 0
    assert capsys.readouterr().out.split() == [KEY, "score"]


def test_list_says_that_a_shard_is_damaged(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    shard(store).write_bytes(b"x")
    assert entry(["store", "list"]) == 0
    assert "1 damaged: simkit store verify" in capsys.readouterr().out


def test_show_gives_recipe_artefact_and_kind(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry(["store", "show", KEY[:6], "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["recipe"], shown["rows"], shown["shards"]) == (RECIPE, 10, 1)
    assert entry(["store", "show", KEY[:6]]) == 0
    assert '"network": "resnet50"' in capsys.readouterr().out
    assert entry(["store", "show", digest("a")[:8]]) == 0
    assert '"value": 0.25' in capsys.readouterr().out
    assert entry(["store", "show", "score"]) == 0
    assert digest("a") in capsys.readouterr().out


def test_show_refuses_what_is_not_there_and_what_is_not_clear(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry(["store", "show", "scores"]) == 2
    assert "no kind or key 'scores' (did you mean 'score'?)" in capsys.readouterr().err
    assert entry(["store", "show", ""]) == 2
    assert "is the start of 2 keys" in capsys.readouterr().err


def test_verify_leaves_files_of_a_newer_simkit(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    path = shard(store)
    path.write_bytes(path.read_bytes().replace(b'"schema":"1"', b'"schema":"7"'))
    assert entry(["store", "verify", "--repair"]) == 6
    assert "has schema 7, this simkit knows 1" in capsys.readouterr().out
    assert path.exists()


def test_verify_names_the_file_and_the_remedy_then_repairs(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    path = shard(store)
    path.write_bytes(path.read_bytes()[:-1])
    assert entry(["store", "verify"]) == 6
    text = capsys.readouterr().out
    assert path.name in text
    assert "simkit store verify --repair" in text
    assert entry(["store", "verify", "--repair"]) == 0
    assert not path.exists()
    assert (store.root / "quarantine" / path.relative_to(store.root)).exists()


def test_prune_takes_what_is_expendable_unless_told(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    path = shard(store)
    store.quarantine(path)
    rubbish = store.root / "score" / ".tmp-999999999-a"
    rubbish.write_bytes(b"123")
    assert entry(["store", "prune", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kinds"] == {"quarantine": 1, "temporaries": 1}
    assert rubbish.exists()
    assert entry(["store", "prune", "--yes"]) == 0
    assert "freed " in capsys.readouterr().out
    assert not rubbish.exists()
    assert not (store.root / "quarantine").exists()
    assert store.load_json("score", digest("a")) == {"value": 0.25}


def test_prune_of_one_extractor_leaves_the_others(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    other = {**RECIPE, "network": "resnet18"}
    store.shelf(other).add([digest(0)], np.zeros((1, 4), dtype=np.float32))
    assert entry(["store", "prune", "--extractor", KEY[:8], "--yes"]) == 0
    assert len(store.shelf(RECIPE).known()) == 0
    assert len(store.shelf(other).known()) == 1
    assert entry(["store", "prune", "--extractor", "zz", "--yes"]) == 2
    assert "0 extractors have a key that starts with 'zz'" in capsys.readouterr().err


def test_prune_by_age_keeps_what_was_used(store: Store) -> None:
    assert entry(["store", "prune", "--kind", "all", "--older-than", "30", "--yes"]) == 0
    assert len(store.shelf(RECIPE).known()) == 10
    age(store.root / "embeddings", 31)
    store.shelf(RECIPE).gather([digest(0)])
    assert entry(["store", "prune", "--kind", "all", "--older-than", "30", "--yes"]) == 0
    assert len(store.shelf(RECIPE).known()) == 10
    age(store.root / "embeddings", 31)
    assert entry(["store", "prune", "--kind", "all", "--older-than", "30", "--yes"]) == 0
    assert len(Store(store.root).shelf(RECIPE).known()) == 0
    assert store.load_json("score", digest("a")) is not None


def test_prune_never_follows_a_link_out_of_the_store(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (store.root / "score" / "link").symlink_to(outside)
    (store.root / "kind").symlink_to(outside)
    assert entry(["store", "prune", "--kind", "all", "--yes"]) == 0
    assert (outside / "precious").read_text() == "x"
    assert not (store.root / "score").exists()


def test_prune_asks_and_takes_no_for_an_answer(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert entry(["store", "prune", "--kind", "score"]) == 130
    assert "Delete 1 files" in capsys.readouterr().err
    assert store.load_json("score", digest("a")) is not None


def test_an_unknown_kind_and_the_old_command_name_what_to_use(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry(["store", "prune", "--kind", "scor", "--yes"]) == 2
    assert "did you mean 'score'?" in capsys.readouterr().err
    assert entry(["cache", "ls"]) == 2
    assert "use simkit store list, show, verify or prune" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["verify", "--repair"], ["prune", "--yes"], ["prune", "--yes", "--kind", "all"]])
def test_a_folder_that_is_no_store_is_refused_and_nothing_in_it_is_touched(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    (home / "a").mkdir(parents=True)
    (home / "a" / "photo.png").write_bytes(b"mine")
    (home / "thesis.txt").write_text("mine", encoding="utf-8")
    assert entry(["store", *arguments, "--store", str(home)]) == 2
    assert "is no store of simkit: it holds files, and no store.json" in capsys.readouterr().err
    (home / "store.json").write_text('{"schema": 1}\n', encoding="utf-8")  # a store beside the user's own files
    assert entry(["store", *arguments, "--store", str(home)]) in (0, 6)
    assert sorted(path.name for path in home.rglob("*") if path.is_file()) == ["photo.png", "store.json", "thesis.txt"]


def test_a_damaged_marker_is_set_aside_by_repair(tmp_path: Path) -> None:
    root = tmp_path / "marked"
    root.mkdir()
    (root / "store.json").write_text('{"schema":', encoding="utf-8")
    assert entry(["store", "list", "--store", str(root)]) == 6
    assert entry(["store", "verify", "--repair", "--store", str(root)]) == 0
    assert entry(["store", "list", "--store", str(root)]) == 0


def test_a_changed_recipe_is_found_and_made_again(store: Store) -> None:
    recipe = shard(store).parent / "recipe.json"
    whole = recipe.read_text(encoding="utf-8")
    recipe.write_text(whole.replace('"seed": 0', '"seed": 7'), encoding="utf-8")
    assert entry(["store", "verify"]) == 6
    assert entry(["store", "verify", "--repair"]) == 0
    assert not recipe.exists()
    shelf = Store(store.root).shelf(json.loads(whole))
    shelf.gather(sorted(shelf.known()))
    assert recipe.read_text(encoding="utf-8") == whole


def test_no_answer_deletes_nothing_and_names_the_option(store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert entry(["store", "prune", "--kind", "embeddings"]) == 2
    assert "no answer was given, nothing was deleted\nfix: answer y, or add --yes" in capsys.readouterr().err
    assert shard(store).exists()


def with_transfer_files(store: Store) -> dict[str, Path]:
    """One file of each kind that fine-tuning writes beside JSON and tensors."""
    from simkit.recipe import digest_file
    from simkit.transfer.predictions import write_predictions

    key = digest("run")
    paths = {kind: store.path(kind, key, suffix) for kind, suffix in (("pixels", ".npy"), ("finetune", ".parquet"), ("claims", ".lock"))}
    for path in paths.values():
        path.parent.mkdir(parents=True)
    np.save(paths["pixels"], np.zeros((2, 3, 8, 8), dtype=np.uint8))
    store.save_json("pixels", key, {"sha256": digest_file(paths["pixels"])})
    chances = np.full((2, 2), 0.5)
    write_predictions(paths["finetune"], images=["a" * 64, "b" * 64], keys=["1", "2"], labels=np.array([0, 1]), probabilities=chances, classes=["x", "y"])
    paths["claims"].write_text("{}", encoding="utf-8")
    return paths


def test_files_of_fine_tuning_are_known(store: Store) -> None:
    with_transfer_files(store)
    assert store.verify() == []
    assert {"pixels", "finetune", "claims"} <= {row["kind"] for row in store.contents()}


@pytest.mark.parametrize(("kind", "message"), [("pixels", r"its digest does not match its content"), ("finetune", r"is damaged")])
def test_damaged_files_of_fine_tuning_are_set_aside(store: Store, kind: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = with_transfer_files(store)[kind]
    data = bytearray(path.read_bytes())
    data[-2] ^= 8
    path.write_bytes(data)
    assert [(finding.path, message in finding.problem) for finding in store.verify()] == [(path, True)]
    assert entry(["store", "verify", "--repair"]) == 0
    assert not path.exists()
    assert (store.root / "quarantine" / path.relative_to(store.root)).exists()


def test_decoded_images_without_their_record_are_found(store: Store) -> None:
    path = with_transfer_files(store)["pixels"]
    path.with_suffix(".json").unlink()
    assert [(finding.path, finding.problem) for finding in store.verify()] == [(path, "has no record beside it that tells its digest")]


@pytest.mark.parametrize(("kind", "suffix"), [("score", ".npy"), ("pixels", ".parquet"), ("finetune", ".lock"), ("claims", ".npy")])
def test_such_files_in_a_place_of_another_kind_are_foreign(store: Store, kind: str, suffix: str) -> None:
    with_transfer_files(store)
    path = store.path(kind, digest("other"), suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    assert [(finding.path, finding.problem) for finding in store.verify()] == [(path, "is not a file that simkit writes")]


def test_prune_takes_decoded_images_and_claims_and_no_predictions(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    paths = with_transfer_files(store)
    assert entry(["store", "prune", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kinds"] == {"claims": 1, "pixels": 2}
    assert entry(["store", "prune", "--yes"]) == 0
    assert [kind for kind, path in paths.items() if path.exists()] == ["finetune"]
