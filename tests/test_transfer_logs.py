"""TensorBoard logs, read back by TensorBoard itself."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from simkit.errors import ResourceError
from simkit.transfer.logs import ScalarLog, check_tensorboard

RUN = "birds -> büsi, fold 1 of 5, choice 2 of 4"


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of the one run in ``folder``."""
    (run,) = folder.iterdir()
    events = EventAccumulator(str(run)).Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_values_come_back_by_name_and_step(tmp_path: Path) -> None:
    with ScalarLog.open(tmp_path, RUN) as log:
        for epoch in (1, 2, 3):
            log.add(epoch, loss=1 / epoch, **{"validation AUC": 0.25 * epoch})
    assert scalars(tmp_path) == {"loss": [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3, abs=1e-7))], "validation AUC": [(1, 0.25), (2, 0.5), (3, 0.75)]}


def test_values_are_in_the_file_before_it_is_closed(tmp_path: Path) -> None:
    log = ScalarLog.open(tmp_path, RUN)
    log.add(1, loss=0.5)
    assert scalars(tmp_path) == {"loss": [(1, 0.5)]}
    log.close()


def test_a_run_that_goes_on_shows_no_step_twice(tmp_path: Path) -> None:
    sittings = [(1, 2, 3, 4), (3, 4, 5), (6, 7), (2, 3)]  # killed after step 4 was logged and step 2 stored; a clean stop; a restart far back
    for number, steps in enumerate(sittings):
        log = ScalarLog.open(tmp_path, RUN)
        for step in steps:
            log.add(step, loss=step + number / 8)
        log.close()
        if number == 1:
            assert scalars(tmp_path)["loss"] == [(1, 1.0), (2, 2.0), (3, 3.125), (4, 4.125), (5, 5.125)]
        if number == 2:
            assert scalars(tmp_path)["loss"] == [(1, 1.0), (2, 2.0), (3, 3.125), (4, 4.125), (5, 5.125), (6, 6.25), (7, 7.25)]
    assert scalars(tmp_path)["loss"] == [(1, 1.0), (2, 2.375), (3, 3.375)]


def test_a_training_that_begins_again_within_a_sitting_shows_no_step_twice(tmp_path: Path) -> None:
    with ScalarLog.open(tmp_path, RUN) as log:
        for step, loss in ((1, 8.0), (2, 7.0), (1, 6.0), (2, 5.0), (2, 4.0)):
            log.add(step, loss=loss)
    assert scalars(tmp_path)["loss"] == [(1, 6.0), (2, 4.0)]


def test_more_than_nine_sittings_and_a_clock_that_was_set_back_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_700_000_000.0
    for sitting in range(12):
        monkeypatch.setattr(time, "time", lambda sitting=sitting: now - 100 * sitting)
        with ScalarLog.open(tmp_path, RUN) as log:
            log.add(sitting, loss=sitting)
            log.add(sitting + 1, loss=-1)
    assert scalars(tmp_path)["loss"] == [(step, float(step)) for step in range(12)] + [(12, -1.0)]


def test_a_record_cut_off_by_a_kill_costs_that_record_alone(tmp_path: Path) -> None:
    with ScalarLog.open(tmp_path, RUN) as log:
        log.add(1, loss=1.0)
        log.add(2, loss=2.0)
    (path,) = tmp_path.glob("*/*")
    path.write_bytes(path.read_bytes()[:-5])
    with ScalarLog.open(tmp_path, RUN) as log:
        log.add(2, loss=2.5)
        log.add(3, loss=3.0)
    assert scalars(tmp_path)["loss"] == [(1, 1.0), (2, 2.5), (3, 3.0)]


def test_a_loss_that_is_not_finite_is_shown_as_such(tmp_path: Path) -> None:
    with ScalarLog.open(tmp_path, RUN) as log:
        log.add(1, loss=float("inf"))
        log.add(2, loss=float("nan"))
    (_, first), (_, second) = scalars(tmp_path)["loss"]
    assert first == math.inf
    assert math.isnan(second)


def test_without_a_folder_nothing_is_written_and_nothing_imported() -> None:
    code = (
        "import sys\nfrom simkit.transfer.logs import ScalarLog\n"
        "with ScalarLog.open(None, 'run') as log:\n    log.add(1, loss=1.0)\n"
        "print([m for m in ('tensorboard', 'google.protobuf') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_run_without_numbers_makes_no_folder(tmp_path: Path) -> None:
    with ScalarLog.open(tmp_path / "logs", RUN):
        pass
    assert not (tmp_path / "logs").exists()


def test_runs_have_safe_folders_of_their_own(tmp_path: Path) -> None:
    names = [RUN, RUN.replace("1 of 5", "2 of 5"), "Birds", "birds", "../up", "/root", "a/b", "a\\b", "CON", "", "..", "日本", "日本語"]
    names += ["x" * 300, "x" * 301, "a\nb\0"]
    for number, name in enumerate(names):
        with ScalarLog.open(tmp_path / "logs", name) as log:
            log.add(1, loss=number)
    folders = list((tmp_path / "logs").iterdir())
    assert len({folder.name.lower() for folder in folders}) == len(names)
    assert all(folder.is_dir() and len(folder.name) < 100 and not set(folder.name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
               for folder in folders)
    assert any(folder.name.startswith("birds-busi-fold-1-of-5-choice-2-of-4-") for folder in folders)
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


@pytest.mark.parametrize("module", ["tensorboard", "tensorboard.summary.writer"])
def test_a_missing_package_is_named_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ResourceError, match=r"SK303\] logs: the package tensorboard cannot be imported(.|\n)*pip install 'simkit\[tensorboard\]'"):
        check_tensorboard()
    with pytest.raises(ResourceError, match=r"SK303\] logs"):
        ScalarLog.open(tmp_path, RUN)
    assert list(tmp_path.iterdir()) == []


def test_a_present_package_passes_the_check() -> None:
    check_tensorboard()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    with ScalarLog.open(tmp_path / "logs", RUN) as log, pytest.raises(ResourceError, match=r"SK301\] .*logs.*cannot write it"):
        log.add(1, loss=1.0)
