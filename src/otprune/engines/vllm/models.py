"""The pruning model classes, one for each row of `FAMILIES`, made when vLLM imports one by name."""

from __future__ import annotations

import functools
from importlib import import_module
from types import new_class
from typing import Any

from otprune.engines.vllm.families import FAMILIES
from otprune.engines.vllm.model import PruningModel, PruningMRoPEModel
from otprune.engines.vllm.processor import register


@functools.cache
def pruned(architecture: str) -> type[Any]:
    """The subclass of vLLM's class for an architecture; it prunes where settings ask for it."""
    family = FAMILIES[architecture]
    parent = getattr(import_module(f"vllm.model_executor.models.{family.module}"), family.model)
    front = PruningMRoPEModel if family.mrope else PruningModel
    body = {"__module__": __name__, "__qualname__": architecture, "stacked": family.stacked}
    return register(new_class(parent.__name__, (front, parent), exec_body=lambda x: x.update(body)))


def __getattr__(name: str) -> type[Any]:
    if name not in FAMILIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return pruned(name)
