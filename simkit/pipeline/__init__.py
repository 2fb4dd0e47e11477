"""From a study to its answer: plan what is to be done, do what is not done yet, put the tables together.

Public: :func:`run`, :func:`plan`, :func:`load`, :func:`card`, :func:`embed`, :func:`distance`, :func:`finetune`.
"""

from simkit.pipeline.commands import card, distance, embed, finetune, load
from simkit.pipeline.planning import Plan, Step, plan
from simkit.pipeline.progress import Progress
from simkit.pipeline.running import Results, run

__all__ = ["Plan", "Progress", "Results", "Step", "card", "distance", "embed", "finetune", "load", "plan", "run"]
