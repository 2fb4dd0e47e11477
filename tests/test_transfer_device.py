"""Devices: what is asked for, or an error; never another one."""

from __future__ import annotations

import pytest
import torch

from simkit.device import describe_device, resolve_device
from simkit.errors import UsageError


def test_cpu_is_always_there():
    assert resolve_device("cpu") == torch.device("cpu")
    assert describe_device(torch.device("cpu")) == "CPU"


def test_auto_takes_what_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == "cuda"


def test_cuda_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"SK106\] finetune.device: 'cuda' was asked for and this machine has 0 CUDA devices") as error:
        resolve_device("cuda", where="finetune.device")
    assert "ask for cpu" in str(error.value)
    assert error.value.exit_status == 2


def test_an_index_beyond_the_last_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match=r"'cuda:2' .* 2 CUDA devices(.|\n)*cuda:0 to cuda:1"):
        resolve_device("cuda:2")


def test_mps_elsewhere_is_refused(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"SK106\] device: 'mps' was asked for"):
        resolve_device("mps")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "CPU", ""])
def test_what_is_no_device(name):
    with pytest.raises(UsageError, match=r"SK102\] device: '.*' is not a device"):
        resolve_device(name)
