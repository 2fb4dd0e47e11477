"""The training loop and its checkpoints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transfer_study import PROTOCOL, FolderResults, drawn

from simkit.errors import IntegrityError, NotEnoughData
from simkit.transfer import Protocol
from simkit.transfer.checkpoint import Checkpoints, read_tensors, write_tensors
from simkit.transfer.images import decode, listing
from simkit.transfer.networks import build_network
from simkit.transfer.training import class_weights, learning_rate, predict, reproducible, train

CPU = torch.device("cpu")


def trained(folder, *, key="run", say=lambda line: None, n=16, **changes):
    """A small training; returns network, record and pixels."""
    protocol = replace(PROTOCOL, **{"finetune_epochs": 3, "dropout": 0.2, **changes})
    budget = protocol.budget(protocol.finetune_epochs)
    one = listing(drawn("train", n))
    pixels = decode(one, 32)
    with reproducible(CPU, 1):
        torch.manual_seed(0)
        network, _ = build_network(budget.network, 2, dropout=budget.dropout, image_size=32)
        network = network.to(memory_format=torch.channels_last)
        checkpoints = Checkpoints(FolderResults(folder), key, say)
        record = train(network, pixels, one.labels, classes=2, budget=budget, random=("test",), device=CPU, checkpoints=checkpoints, tick=print)
    return network, record, pixels, one.labels


def same(a, b) -> bool:
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


def test_learning_rate_schedules():
    def rates(schedule):
        return [learning_rate(Protocol(schedule=schedule, learning_rate=0.1).budget(8), epoch) for epoch in range(8)]

    assert rates("none") == [0.1] * 8
    assert rates("step") == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)
    assert rates("cosine")[0] == 0.1
    assert rates("cosine")[4] == pytest.approx(0.05)
    assert rates("cosine") == sorted(rates("cosine"), reverse=True)


def test_balanced_class_weights_have_mean_one():
    labels = np.array([0] * 6 + [1] * 2)
    assert class_weights(labels, 2, "balanced").tolist() == pytest.approx([8 / 12, 2.0])
    assert class_weights(labels, 2, "balanced")[labels].mean() == pytest.approx(1.0)
    assert class_weights(labels, 2, "none").tolist() == [1.0, 1.0]


def test_a_tiny_set_is_learned_by_heart(tmp_path):
    easy = {"augmentation": "none", "dropout": 0.0, "learning_rate": 5e-4, "schedule": "none"}
    network, record, pixels, labels = trained(tmp_path, network="squeezenet1_1", finetune_epochs=25, **easy)
    probabilities = predict(network, pixels, batch_size=7, device=CPU)
    assert probabilities.dtype == np.float64
    assert probabilities.sum(1) == pytest.approx(np.ones(16), abs=1e-12)
    assert (probabilities.argmax(1) == labels).all()
    assert record["losses"][-1] < 0.1 < record["losses"][0]


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_going_on_from_a_checkpoint_changes_no_bit(tmp_path, optimizer, monkeypatch):
    changes = {"optimizer": optimizer, "finetune_epochs": 4, "learning_rate": 0.01}
    whole, record, *_ = trained(tmp_path / "whole", **changes)

    class Stopped(Exception):
        pass

    saved = Checkpoints.save

    def save_then_stop(self, epoch, *rest):
        saved(self, epoch, *rest)
        if epoch == 2:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_then_stop)
        with pytest.raises(Stopped):
            trained(tmp_path / "parts", **changes)
    resumed, again, *_ = trained(tmp_path / "parts", **changes)
    assert same(whole, resumed)
    assert again["losses"] == record["losses"]
    assert len(again["losses"]) == 4


def test_a_damaged_checkpoint_is_announced_and_passed_over(tmp_path):
    changes = {"finetune_epochs": 4}
    whole, *_ = trained(tmp_path, **changes)
    newest = tmp_path / "checkpoint" / "run.1.safetensors"  # of epoch 3; epoch 2 lies in slot 0
    other = tmp_path / "checkpoint" / "run.0.safetensors"
    assert read_tensors(newest)[1]["epoch"] == 3
    assert read_tensors(other)[1]["epoch"] == 2
    data = bytearray(newest.read_bytes())
    data[-100] ^= 1
    newest.write_bytes(data)
    lines: list[str] = []
    resumed, *_ = trained(tmp_path, say=lines.append, **changes)
    assert same(whole, resumed)
    assert len(lines) == 1
    assert "run.1.safetensors is damaged: its digest differs" in lines[0]
    assert lines[0].endswith("the run goes on after epoch 2, from the other checkpoint")


def test_two_damaged_checkpoints_mean_a_new_start(tmp_path):
    whole, *_ = trained(tmp_path)
    for path in (tmp_path / "checkpoint").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    lines: list[str] = []
    resumed, *_ = trained(tmp_path, say=lines.append)
    assert same(whole, resumed)
    assert len(lines) == 2
    assert all("is damaged or foreign" in line and line.endswith("the run goes on from its start") for line in lines)


def test_checkpoints_can_be_removed(tmp_path):
    trained(tmp_path)
    assert len(list((tmp_path / "checkpoint").iterdir())) == 2
    Checkpoints(FolderResults(tmp_path), "run", print).remove()
    assert not list((tmp_path / "checkpoint").iterdir())


def test_tensors_come_back_as_they_were(tmp_path):
    tensors = {"a": torch.randn(3, 4, 5, 5).to(memory_format=torch.channels_last), "step": torch.tensor(7.0), "count": torch.tensor(3), "none": torch.zeros(0)}
    write_tensors(tmp_path / "x.safetensors", tensors, {"epoch": 2, "losses": [0.1]})
    back, note = read_tensors(tmp_path / "x.safetensors")
    assert note == {"epoch": 2, "losses": [0.1]}
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) and back[name].dtype == tensors[name].dtype for name in tensors)


def test_what_is_not_a_tensor_file_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"<html>")
    with pytest.raises(IntegrityError, match=r"SK401\] .*x: is damaged or foreign"):
        read_tensors(tmp_path / "x")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "y")
    with pytest.raises(IntegrityError, match=r"SK401\] .*y: is damaged or foreign"):
        read_tensors(tmp_path / "y")
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "z")


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(NotEnoughData, match=r"SK502\] training diverged: the loss is (nan|inf) after epoch \d of 5 \(learning rate 1e\+30\)\nfix: lower"):
        trained(tmp_path, learning_rate=1e30, optimizer="sgd", finetune_epochs=5)


def test_training_leaves_torch_as_it_was():
    torch.manual_seed(11)
    expected = torch.rand(2)
    torch.manual_seed(11)
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    with reproducible(CPU, 1):
        torch.manual_seed(5)
        torch.rand(3)
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.rand(2), expected)
    assert before == (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory)


def test_predictions_do_not_depend_on_the_batch(tmp_path):
    network, _, pixels, _ = trained(tmp_path, finetune_epochs=1)
    assert predict(network, pixels, batch_size=3, device=CPU) == pytest.approx(predict(network, pixels, batch_size=16, device=CPU), abs=1e-5)
