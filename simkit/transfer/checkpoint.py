"""Tensors on disk with their digest, and the checkpoints of a training: the last two epochs, either of which it can go on from, and the best."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simkit.errors import IntegrityError, Problem
from simkit.files import resource_errors, write_bytes
from simkit.transfer.base import Results, Say

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Checkpoints", "read_tensors", "write_tensors"]

SLOTS = 2


def _checksum(tensors: Mapping[str, torch.Tensor], note: str) -> str:
    import torch

    sha = hashlib.sha256(note.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], note: Mapping[str, Any], *, durable: bool = True) -> None:
    """A safetensors file, atomically, with a note (JSON) and the SHA-256 of both in its header.

    ``durable = False`` does not wait for the disk: a kill loses nothing, a power cut can damage the file, which its digest shows.
    """
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(note, sort_keys=True)
    header = json.dumps({"note": text, "sha256": _checksum(plain, text)})
    # one key: safetensors writes several in an order that changes from run to run
    write_bytes(path, save(plain, {"simkit": header}), durable=durable)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What :func:`write_tensors` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        IntegrityError: SK401, the file is truncated, foreign, or not what was written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    with resource_errors(path, "read"):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = None
    if data is None:
        raise FileNotFoundError(path)
    fix = "it is made again; remove it if the message stays"
    try:
        tensors = load(data)
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["simkit"])
        note, expected = header["note"], header["sha256"]
    except (SafetensorError, ValueError, KeyError, struct.error) as error:
        raise IntegrityError("SK401", str(path), f"is damaged or foreign ({type(error).__name__}: {error})", fix) from error
    if _checksum(tensors, note) != expected:
        raise IntegrityError("SK401", str(path), "is damaged: its digest differs from the one it was written with", fix)
    return tensors, dict(json.loads(note))


class Checkpoints:
    """The state of a training after its last two epochs, in two files that are overwritten in turn, and the best network so far.

    A kill while one is written leaves the other and the old content of this one, so at most one epoch is lost.
    """

    def __init__(self, results: Results, key: str, say: Say):
        self._paths = [results.path("checkpoint", key, f".{slot}.safetensors") for slot in range(SLOTS)]
        self._best = [results.path("checkpoint", key, f".best{slot}.safetensors") for slot in range(SLOTS)]
        self._say = say

    def save(self, epoch: int, network: nn.Module, optimizer: torch.optim.Optimizer, note: Mapping[str, Any]) -> None:
        """After ``epoch`` finished epochs: weights, buffers, optimizer state, and what belongs in the record."""
        tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items() if value is not None}
        write_tensors(self._paths[epoch % SLOTS], tensors, {**note, "epoch": epoch}, durable=False)

    def load(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Restores the newest sound checkpoint and returns its note (with ``epoch``), or None when there is none.

        A damaged one is announced and passed over: the training goes on from the other, or from its start.
        """
        found, damaged = [], []
        for path in self._paths:
            try:
                one = read_tensors(path)
                if "epoch" not in one[1]:
                    raise IntegrityError("SK401", str(path), "is another file than a checkpoint", "")
                found.append(one)
            except FileNotFoundError:
                continue
            except IntegrityError as error:
                damaged.append(error.problems[0])
        tensors, note = max(found, key=lambda pair: int(pair[1]["epoch"]), default=({}, None))
        if note is not None and note.get("best") is not None and self._read_best(int(note["best"]["slot"])) is None:
            damaged.append(Problem("SK401", str(self._best[int(note["best"]["slot"])]), "is missing or damaged", ""))
            note = None
        for problem in damaged:
            go_on = f"after epoch {note['epoch']}, from the other checkpoint" if note else "from its start"
            self._say(f"checkpoint {problem.where} {problem.message}; the run goes on {go_on}")
        if note is None:
            return None
        network.load_state_dict({name[8:]: value for name, value in tensors.items() if name.startswith("network.")})
        self._load_optimizer(optimizer, tensors)
        return note

    @staticmethod
    def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
        import torch

        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            if part != "optimizer":
                continue
            index, _, key = rest.partition(".")
            parameter = parameters[int(index)]
            if value.shape == parameter.shape:  # same memory layout as the parameter: arithmetic in another order could round differently
                value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            optimizer.state[parameter][key] = value

    def save_best(self, slot: int, network: nn.Module) -> None:
        """The network that did best on the inner validation so far; into the other slot than the one before it, which stays until the next."""
        write_tensors(self._best[slot], network.state_dict(), {}, durable=False)

    def load_best(self, slot: int, network: nn.Module) -> bool:
        """Restores the best network; False when it is missing or damaged."""
        tensors = self._read_best(slot)
        if tensors is not None:
            network.load_state_dict(tensors)
        return tensors is not None

    def _read_best(self, slot: int) -> dict[str, torch.Tensor] | None:
        try:
            return read_tensors(self._best[slot])[0]
        except (FileNotFoundError, IntegrityError):
            return None

    def remove(self, *, keep_best: bool = False) -> None:
        """Removes the files; called when the training's result is stored."""
        for path in [*self._paths, *([] if keep_best else self._best)]:
            with resource_errors(path, "remove"):
                path.unlink(missing_ok=True)
