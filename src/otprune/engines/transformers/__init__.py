"""Pruning in Hugging Face transformers: the prompt is shortened before the model sees it."""

from otprune.engines.transformers.families import FAMILIES, Family, support
from otprune.engines.transformers.inputs import Pruned, prune_inputs
from otprune.engines.transformers.prune import Run, prune

__all__ = ["FAMILIES", "Family", "Pruned", "Run", "prune", "prune_inputs", "support"]
