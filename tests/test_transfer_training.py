"""The training loop and its checkpoints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transfer_study import PROTOCOL, FolderResults, drawn

from simkit.errors import IntegrityError, NotEnoughData, ResourceError
from simkit.transfer import Protocol, training
from simkit.transfer.checkpoint import Checkpoints, read_tensors, write_tensors
from simkit.transfer.feed import Feed
from simkit.transfer.images import decode, listing
from simkit.transfer.networks import build_network
from simkit.transfer.training import Training, autocast_of, class_weights, learning_rate, predict, reproducible

CPU = torch.device("cpu")


def trained(folder, *, key="run", say=lambda line: None, n=16, validation=False, stop_after=None, **changes):
    """A small training; returns network, record and the images."""
    protocol = replace(PROTOCOL, **{"finetune_epochs": 3, "dropout": 0.2, "network": "shufflenet_v2_x0_5", **changes})
    budget = protocol.finetuning()
    one = listing(drawn("train", n))
    pixels, rows = decode(one, 32), np.arange(n)
    held = rows[: n // 4] if validation else rows[:0]
    with reproducible(CPU, 1):
        torch.manual_seed(0)
        network, head = build_network(budget.network, 2, dropout=budget.dropout, image_size=32)
        network = network.to(memory_format=torch.channels_last)
        checkpoints = Checkpoints(FolderResults(folder), key, say)
        training = Training(
            network, head, Feed(pixels, np.setdiff1d(rows, held), one.labels, CPU), Feed(pixels, held, one.labels, CPU) if validation else None, budget,
            budget.choices[0], ("test",), CPU, checkpoints, lambda line, epoch, values: None, say, stop_after,
        )
        record = training.run()
    return network, record, Feed(pixels, rows, one.labels, CPU), one.labels


def same(a, b) -> bool:
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


def rates(schedule, *, epochs=8, **changes):
    budget = Protocol(schedule=schedule, learning_rate=0.1, finetune_epochs=epochs, **changes).finetuning()
    return [learning_rate(budget, budget.choices[0], epoch) for epoch in range(budget.probe_epochs + epochs)]


def test_learning_rate_schedules():
    assert rates("none") == [0.1] * 8
    assert rates("step") == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)
    assert rates("cosine")[0] == 0.1
    assert rates("cosine")[4] == pytest.approx(0.05)
    assert rates("cosine") == sorted(rates("cosine"), reverse=True)


def test_the_rate_warms_up_within_epochs_and_ends_at_zero():
    assert rates("cosine", warmup_epochs=2)[:3] == pytest.approx([0.05, 0.1, 0.1])  # one step an epoch
    budget = Protocol(warmup_epochs=2, learning_rate=0.1, finetune_epochs=8).finetuning()
    choice = budget.choices[0]
    assert learning_rate(budget, choice, 0, 0.5, 0.25) == pytest.approx(0.0375)
    assert learning_rate(budget, choice, 0, 0.0, 0.25) == pytest.approx(0.0125)  # no step is wasted
    assert learning_rate(budget, choice, 5, 0.0) == pytest.approx(0.05)
    assert learning_rate(budget, choice, 7, 0.999) < 1e-5


def test_the_probe_has_a_rate_of_its_own():
    found = rates("cosine", mode="probe-then-full", probe_epochs=3, probe_lr=0.02)
    assert found[:3] == [0.02] * 3
    assert found[3] == 0.1
    assert len(found) == 11


def test_balanced_class_weights_have_mean_one():
    labels = np.array([0] * 6 + [1] * 2)
    assert class_weights(labels, 2, "balanced").tolist() == pytest.approx([8 / 12, 2.0])
    assert class_weights(labels, 2, "balanced")[labels].mean() == pytest.approx(1.0)
    assert class_weights(labels, 2, "none").tolist() == [1.0, 1.0]


def test_a_tiny_set_is_learned_by_heart(tmp_path):
    easy = {"augmentation": "none", "dropout": 0.0, "learning_rate": 5e-4, "schedule": "none"}
    network, record, feed, labels = trained(tmp_path, network="squeezenet1_1", finetune_epochs=25, **easy)
    probabilities = predict(network, feed, batch_size=7, device=CPU)
    assert probabilities.dtype == np.float64
    assert probabilities.sum(1) == pytest.approx(np.ones(16), abs=1e-12)
    assert (probabilities.argmax(1) == labels).all()
    assert record.losses[-1] < 0.1 < record.losses[0]


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
    assert again.losses == record.losses
    assert len(again.losses) == 4


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
    with pytest.raises(NotEnoughData, match=r"SK502\] training diverged: the loss is (nan|inf) after epoch \d of 5 \(lr 1e\+30, .*\)\nfix: lower"):
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
    network, _, feed, _ = trained(tmp_path, finetune_epochs=1)
    assert predict(network, feed, batch_size=3, device=CPU) == pytest.approx(predict(network, feed, batch_size=16, device=CPU), abs=1e-5)


# --- validation, early stopping, modes, memory -----------------------------------------------------------------------------------------


def test_the_best_epoch_is_kept_not_the_last(tmp_path, monkeypatch):
    values = iter([(0.6, -1.0), (0.9, -0.5), (0.8, -0.4), (0.9, -0.6)])
    monkeypatch.setattr(training, "selection_value", lambda *args: next(values))
    weights = []
    saved = Checkpoints.save_best

    def save_best(self, slot, network):
        weights.append({name: value.clone() for name, value in network.state_dict().items()})
        saved(self, slot, network)

    monkeypatch.setattr(Checkpoints, "save_best", save_best)
    network, record, *_ = trained(tmp_path, validation=True, finetune_epochs=4, early_stopping=9)
    assert record.epochs == 2
    assert record.best["value"] == [0.9, -0.5]
    assert len(record.losses) == len(record.validations) == 4
    assert len(weights) == 2  # the fourth epoch has the same AUC and a higher log loss
    assert all(torch.equal(value, weights[1][name]) for name, value in network.state_dict().items())


def test_early_stopping_ends_a_training_that_does_not_get_better(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "selection_value", lambda *args: (0.5, -1.0))
    _, record, *_ = trained(tmp_path, validation=True, finetune_epochs=10, early_stopping=2)
    assert len(record.losses) == 3
    assert record.epochs == 1


@pytest.mark.parametrize("slot", [0, 1])
def test_a_validated_training_goes_on_bit_by_bit(tmp_path, monkeypatch, slot):
    changes = {"validation": True, "finetune_epochs": 5, "early_stopping": 4}
    whole, record, *_ = trained(tmp_path / "whole", **changes)
    saved = Checkpoints.save

    class Stopped(Exception):
        pass

    def save_then_stop(self, epoch, *rest):
        saved(self, epoch, *rest)
        if epoch == 2 + slot:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_then_stop)
        with pytest.raises(Stopped):
            trained(tmp_path / "parts", **changes)
    resumed, again, *_ = trained(tmp_path / "parts", **changes)
    assert same(whole, resumed)
    assert (again.losses, again.validations, again.best) == (record.losses, record.validations, record.best)


def test_a_lost_best_network_means_a_new_start_and_is_said(tmp_path, monkeypatch):
    changes = {"validation": True, "finetune_epochs": 4, "early_stopping": 4}
    whole, *_ = trained(tmp_path, **changes)
    for path in (tmp_path / "checkpoint").glob("*best*"):
        path.unlink()
    lines: list[str] = []
    again, *_ = trained(tmp_path, say=lines.append, **changes)
    assert same(whole, again)
    assert [line for line in lines if "best" in line and "is missing or damaged; the run goes on from its start" in line]


def test_stopping_after_an_epoch_keeps_the_schedule(tmp_path):
    _, whole, *_ = trained(tmp_path / "whole", finetune_epochs=4)
    _, part, *_ = trained(tmp_path / "part", finetune_epochs=4, stop_after=2)
    assert part.losses == whole.losses[:2]


@pytest.mark.parametrize(("mode", "moved"), [("full", "body and head"), ("frozen", "head"), ("last-stages", "last stage and head")])
def test_only_what_the_mode_names_is_trained(tmp_path, mode, moved):
    torch.manual_seed(0)
    before, head = build_network("shufflenet_v2_x0_5", 2, dropout=0.2, image_size=32)
    network, *_ = trained(tmp_path, mode=mode, finetune_epochs=1, learning_rate=0.05)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert any(name.startswith(head) for name in changed)
    assert any(name.startswith("conv5") for name in changed) == (moved != "head")
    assert any(name.startswith("conv1") for name in changed) == (moved == "body and head")


def test_probe_then_full_first_trains_the_head_alone(tmp_path):
    torch.manual_seed(0)
    before, head = build_network("shufflenet_v2_x0_5", 2, dropout=0.2, image_size=32)
    changes = {"mode": "probe-then-full", "probe_epochs": 2, "finetune_epochs": 2}
    probed, *_ = trained(tmp_path / "probe", stop_after=2, **changes)
    assert {name for name, value in probed.state_dict().items() if not torch.equal(value, before.state_dict()[name])} == {
        name for name in before.state_dict() if name.startswith(head)}
    network, record, *_ = trained(tmp_path / "both", **changes)
    assert len(record.losses) == 4
    assert not torch.equal(network.state_dict()["conv1.0.weight"], before.state_dict()["conv1.0.weight"])


def test_gradients_of_parts_add_up_to_the_step(tmp_path):
    """Without batch norm in the way (frozen) and without augmentation, accumulation changes nothing but rounding."""
    easy = {"augmentation": "none", "dropout": 0.0, "network": "squeezenet1_1", "optimizer": "sgd", "learning_rate": 0.01}
    whole, one, *_ = trained(tmp_path / "whole", **easy)
    parts, other, *_ = trained(tmp_path / "parts", accumulate=4, **easy)
    assert other.losses == pytest.approx(one.losses, rel=1e-5)
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, parts.state_dict()[name], rtol=1e-4, atol=1e-6), name


def test_out_of_memory_halves_the_parts_repeats_the_epoch_and_says_so(tmp_path, monkeypatch):
    easy = {"augmentation": "none", "dropout": 0.0, "network": "squeezenet1_1", "finetune_epochs": 2}
    asked = []
    real = training.network_input

    def small_memory(pixels, *args):
        asked.append(len(pixels))
        if len(pixels) > 4 and len(asked) in (2, 6):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(pixels, *args)

    monkeypatch.setattr(training, "network_input", small_memory)
    lines: list[str] = []
    _, record, *_ = trained(tmp_path / "small", say=lines.append, **easy)
    assert len([line for line in lines if "out of memory: each step of 8 images is now taken in 2 parts" in line]) == 1
    assert record.parts == 2
    assert asked[:2] == [8, 8]
    assert set(asked[2:]) == {4}
    monkeypatch.undo()
    _, same_record, *_ = trained(tmp_path / "large", **easy)
    assert record.losses == pytest.approx(same_record.losses, rel=1e-5)


def test_memory_that_holds_not_even_two_images_is_an_error(tmp_path, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(training, "network_input", full)
    with pytest.raises(ResourceError, match=r"SK301\] finetune: the device is out of memory with 2 images at a time: .*\nfix: lower image_size"):
        trained(tmp_path)


def test_label_smoothing_and_class_weights_enter_the_loss(tmp_path):
    plain = trained(tmp_path / "a", finetune_epochs=1)[1].losses[0]
    assert trained(tmp_path / "b", finetune_epochs=1, label_smoothing=0.3)[1].losses[0] != plain


def test_precisions_on_the_cpu(tmp_path):
    exact = trained(tmp_path / "a", finetune_epochs=2)[1].losses
    half = trained(tmp_path / "b", finetune_epochs=2, precision="bfloat16")[1].losses
    assert half != exact
    assert half == pytest.approx(exact, rel=0.3)
    assert not autocast_of("auto", CPU)._enabled


def test_a_prediction_that_does_not_fit_is_made_in_smaller_batches(tmp_path, monkeypatch):
    network, _, feed, _ = trained(tmp_path, finetune_epochs=1)
    whole = predict(network, feed, batch_size=16, device=CPU)
    asked, real = [], training.network_input

    def small_memory(pixels, *args):
        asked.append(len(pixels))
        if len(pixels) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(pixels, *args)

    monkeypatch.setattr(training, "network_input", small_memory)
    assert predict(network, feed, batch_size=16, device=CPU) == pytest.approx(whole, abs=1e-5)
    assert asked == [16, 8, 4, 4, 4, 4]
    monkeypatch.setattr(training, "network_input", lambda *args: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(torch.OutOfMemoryError):
        predict(network, feed, batch_size=2, device=CPU)
