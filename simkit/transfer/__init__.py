"""Transfer measured: pretrain on each source, fine-tune on each target, score the held-out folds by AUC.

    plan = plan_units(protocol, datasets, sources, targets, seed, results)   # checks everything, trains nothing
    result = run_units(plan, progress=print)                                 # does what is left, returns a TransferTable

All pairs share one :class:`Protocol`. Folds are stratified, keep patients and byte-identical images together, and are the same for every
source; given train/test splits are not used yet. A source is pretrained once, with the study's seed, and serves all targets, folds and
protocol seeds.
"""

from __future__ import annotations

from simkit.transfer.base import Failure, Finetune, Pretrain, Results, TransferResult
from simkit.transfer.plan import TransferPlan, plan_units
from simkit.transfer.protocol import Budget, Protocol
from simkit.transfer.runner import run_units

__all__ = ["Budget", "Failure", "Finetune", "Pretrain", "Protocol", "Results", "TransferPlan", "TransferResult", "plan_units", "run_units"]
