"""A plan beside the real thing: the processor's prompt, the model's features, a pruned call."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import otprune
from otprune import GridPrune, prune, visual_tokens
from otprune.engines.transformers.families import placeholder
from otprune.engines.transformers.memory import cache_bytes, cache_of
from otprune.errors import UnsupportedError
from otprune.planning.prompts import prompt
from tests.families.tiny import FAMILIES

from .processors import PROCESSORS, TORCHVISION

SIZES = {
    "square": (500, 500),
    "wide strip": (2000, 200),
    "tall strip": (200, 2000),
    "icon": (16, 16),
    "4K": (3840, 2160),
}
TEXT = 20


@cache
def processor(name: str) -> Any:
    return {**PROCESSORS, **TORCHVISION}[name]()


@cache
def model(name: str) -> Any:
    # Operations are counted in eager attention: torch's counter does not see others on a CPU.
    return FAMILIES[name].model("eager")


def planned(name: str, sizes: Any, **how: Any) -> otprune.Plan:
    how = {"text": TEXT, "keep": 0.25, "dtype": "float32"} | how
    return otprune.plan(model(name).config, sizes, processor=processor(name), **how)


def inputs(name: str, sizes: list[tuple[int, int]], frames: int | None = None) -> Any:
    """What the processor makes of blank images of these sizes."""
    made = prompt(name, model(name).config, processor(name), sizes, frames).inputs
    return {key: value for key, value in made.items() if key != "labels"}


def check_tokens(name: str, sizes: list[tuple[int, int]], frames: int | None = None) -> None:
    """Numbers of tokens: of the plan, the processor, the model's encoder and a pruned call."""
    plan = planned(name, sizes, frames=frames)
    given = inputs(name, sizes, frames)
    ids, tokens = given["input_ids"][0], set()
    for modality in ("image", "video"):
        try:
            tokens.add(placeholder(model(name).config, modality))
        except UnsupportedError:
            continue
    with torch.no_grad(), prune(model(name), GridPrune(0.25)) as run:
        model(name)(**given)
    found = [one.before for one in plan.visual]
    assert found == [len(one.features) for one in visual_tokens(model(name), given)]
    assert [(one.unit, one.before, one.after) for one in plan.visual] == [
        (item.unit, item.before, item.after) for item in run.last or []
    ]
    assert sum(found) == sum(int((ids == token).sum()) for token in tokens)
    assert plan.before.visual_tokens == sum(found)
    assert plan.after.visual_tokens == sum(one.after for one in plan.visual)
    assert plan.before.prompt_tokens == TEXT + plan.around + sum(found)
    if frames is None:
        assert len(found) == len(sizes)


def check_costs(name: str, sizes: list[tuple[int, int]]) -> None:
    """Operations and cache of the whole model, counted by torch in the real one."""
    given = inputs(name, sizes)
    n = given["input_ids"].shape[1]
    first = planned(name, sizes)
    # The prompt of the processor has so many tokens besides those of the images.
    plan = planned(name, sizes, text=n - first.before.visual_tokens - first.around, answer=1)
    assert plan.before.prompt_tokens == n
    with torch.no_grad(), prune(model(name), GridPrune(0.25), "compact"):
        short = counted(name, given)
    for side, (flops, held) in ((plan.before, counted(name, given)), (plan.after, short)):
        outside = outside_windows(name, side.prompt_tokens)
        assert side.encoder + side.prefill == flops - outside
        assert side.cache_bytes == cache_bytes(held)
        assert side.decode == side.read_bytes == 0


def outside_windows(name: str, n: int) -> int:
    """Operations outside sliding windows, which eager attention computes and a plan leaves out."""
    config = model(name).config.get_text_config()
    windows = [kind == "sliding_attention" for kind in getattr(config, "layer_types", None) or []]
    pair = 4 * config.num_attention_heads * config.head_dim
    return sum(windows) * pair * n * max(n - (config.sliding_window or 0), 0) if windows else 0


def counted(name: str, given: Any) -> tuple[int, Any]:
    """Operations of a call of the real model up to the first new token, and its cache."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = model(name)(**given, use_cache=True, logits_to_keep=1)
    return counter.get_total_flops(), cache_of(out)
