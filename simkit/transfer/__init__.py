"""Transfer measured: pretrain on each source, fine-tune on each target, score the held-out folds.

    plan = plan_units(protocol, datasets, sources, targets, seed, results)   # checks everything, trains nothing
    result = run_units(plan, progress=print)                                 # does what is left, returns a TransferTable

Where to read: ``protocol`` (what is held equal for every pair), ``grid`` (its runs and its checks), ``units`` (what one run does), ``fitting``
(search, early stopping), ``training`` (the loop), ``runner`` (processes, machines, the table).

All pairs share one :class:`Protocol`. Folds are stratified, keep patients and images that look the same together, and are the same for every
source. A source is pretrained once per protocol seed, and serves all targets and folds; only where it shares images with a target's test fold is it
pretrained again without them.
"""

from __future__ import annotations

from simkit.transfer.base import SCRATCH, Failure, Finetune, Pretrain, Results, TransferResult
from simkit.transfer.grid import plan_units
from simkit.transfer.plan import TransferPlan
from simkit.transfer.protocol import Budget, Choice, Protocol, is_path, presets, protocol_of
from simkit.transfer.runner import run_units
from simkit.transfer.units import Start, named_network, pretrained, pretrained_network

__all__ = [
    "SCRATCH", "Budget", "Choice", "Failure", "Finetune", "Pretrain", "Protocol", "Results", "Start", "TransferPlan", "TransferResult", "is_path",
    "named_network", "plan_units", "presets", "pretrained", "pretrained_network", "protocol_of", "run_units",
]
