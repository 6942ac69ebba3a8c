"""Tiny models with more layers, for stages inside the language model."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch

from tests.families.base import Family
from tests.families.tiny import FAMILIES


@cache
def deeper(name: str, attention: str = "sdpa", layers: int = 4) -> Any:
    """The tiny model of a family with so many layers in its language model."""
    config = copy.deepcopy(FAMILIES[name].model().config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = [text.layer_types[-1]] * layers
    kind = type(FAMILIES[name].model())
    model = Family(name, lambda: kind(config), FAMILIES[name].make).model(attention)
    # Large random weights blow up over several layers.
    with torch.no_grad():
        for layer in model.get_decoder().layers:
            for parameter in layer.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(0.7)
    return model
