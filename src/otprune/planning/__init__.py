"""What pruning would cost and save, from a model's config alone: no weights are read.

The model's own processor is run on blank images of the sizes asked about, and the model's own code
on tensors that have shapes and no values. What the engine would find in a call is found likewise.
"""

from otprune.planning.forecast import Plan, plan
from otprune.planning.request import Rates

__all__ = ["Plan", "Rates", "plan"]
