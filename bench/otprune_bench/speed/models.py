"""Selection's share of the time to first token, at the sizes of three models.

Measured: the image encoder in full, the selection, and one layer of the language model in bfloat16
at the prompt's length. Derived: prefill, as that layer's time times their number (they are equal;
the head and the embedding, of which only one row counts, are left out).
"""

from __future__ import annotations

import copy
import functools
import os
import time
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel
from transformers.initialization import no_init_weights

from otprune_bench.speed.plan import KEEPS, Model
from otprune_bench.timing.race import contenders, make_tokens, race
from otprune_bench.timing.shapes import Shape, fill


def measure(model: Model, repeats: int, seed: int) -> dict[str, Any]:
    """Seconds of encoder, selections and single layers, each a list of runs."""
    shape = model.shape
    tokens = make_tokens(1, shape.visual, shape.width, seed).bfloat16()
    prompts = {keep: round(keep * shape.visual) + shape.text for keep in (1.0, *KEEPS)}
    layer = _one_layer(shape)
    runs: dict[str, Any] = {
        f"layer@{keep}": functools.partial(layer, torch.randn(1, n, shape.width).bfloat16())
        for keep, n in prompts.items()
    }
    for keep in KEEPS:
        for name, run in contenders(tokens, round(keep * shape.visual)).items():
            runs[f"{name}@{keep}"] = run
    found: dict[str, Any] = {
        "load": os.getloadavg()[0],
        "runs": race(runs, repeats, patience=4.0),
        "prompts": {str(keep): n for keep, n in prompts.items()},
        "layers": shape.all_layers,
    }
    del layer, runs
    encode, pixels = _encoder(model)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        encode(pixels)
        times.append(time.perf_counter() - start)
    found["encoder"] = times[1:]
    return found


def _one_layer(shape: Shape) -> Any:
    text = copy.deepcopy(shape.config["text_config"])
    text |= {"num_hidden_layers": 1, "vocab_size": 32}
    layer = _built(text)

    @torch.no_grad()
    def run(embeds: Tensor) -> None:
        layer(inputs_embeds=embeds, use_cache=True)

    return run


def _encoder(model: Model) -> tuple[Any, Tensor]:
    vision = _built(copy.deepcopy(model.shape.config["vision_config"]))

    @torch.no_grad()
    def run(pixels: Tensor) -> None:
        vision(pixel_values=pixels)

    side = model.shape.pixels[-1]
    return run, torch.randn(model.crops, 3, side, side).bfloat16()


def _built(config: dict[str, Any]) -> Any:
    with no_init_weights():
        made = AutoModel.from_config(AutoConfig.for_model(**config), dtype=torch.bfloat16)
    fill(made)
    return made.eval()
