"""A cache remembers that its prompt was pruned, so that the next turn finds its way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otprune.engines.transformers.inputs import take_columns
from otprune.engines.transformers.layout import Layout
from otprune.engines.transformers.positions import next_positions
from otprune.errors import UnsupportedError

_ATTRIBUTE = "_otprune_memory"  # on the cache, so that it follows copies of it


@dataclass(frozen=True)
class Memory:
    """ids `(B, S)` of the full prompt, its layout, positions `(..., B, n)` of what was kept."""

    ids: Tensor
    layout: Layout
    positions: Tensor

    def repeated(self, rows: int) -> Memory:
        """For a batch of `rows` rows, as beams and return sequences multiply them."""
        times = rows // len(self.ids)
        if times == 1:
            return self
        return Memory(
            self.ids.repeat_interleave(times, dim=0),
            self.layout.repeated(times),
            self.positions.repeat_interleave(times, dim=-2),
        )


def remember(cache: Any, memory: Memory) -> None:
    """Write on a cache how the prompt that it holds was pruned."""
    if cache is not None:
        setattr(cache, _ATTRIBUTE, memory)


def recall(cache: Any) -> Memory | None:
    """How a cache's prompt was pruned; None for an empty cache and one that holds it whole.

    Raises:
        UnsupportedError: the cache was cut inside the pruned prompt.
    """
    memory: Memory | None = getattr(cache, _ATTRIBUTE, None)
    length = length_of(cache)
    if memory is None or length == 0:
        return None
    if length < memory.layout.columns.shape[1]:
        raise UnsupportedError(
            "the cache was cropped to less than its pruned prompt: start from a new cache"
        )
    return memory


def length_of(cache: Any) -> int:
    """Tokens in a cache; 0 for None."""
    return 0 if cache is None else int(cache.get_seq_length())


def next_turn(model: Any, inputs: dict[str, Any], memory: Memory) -> dict[str, Any]:
    """Arguments of generate() with the ids of the whole conversation, on a pruned cache.

    The first S ids must be the prompt that the cache was made from, as the caller gave it; that
    part is shortened as it was then, the rest is new text.

    Raises:
        UnsupportedError: the ids do not begin with that prompt.
    """
    ids = inputs["input_ids"]
    width = memory.layout.width
    memory = memory.repeated(len(ids)) if len(ids) % len(memory.ids) == 0 else memory
    if not torch.equal(ids[:, :width], memory.ids.to(ids.device)):
        raise UnsupportedError(
            "the cache holds a pruned prompt, and input_ids do not begin with it: pass the ids of "
            "the whole conversation, the first prompt as it was given, or start from a new cache"
        )
    if inputs.get("position_ids") is not None:
        raise UnsupportedError("position_ids on a pruned cache: leave them out, they are known")
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    mask = torch.cat([mask[:, :width], mask[:, width:]], dim=1)
    layout = memory.layout.extended(ids.shape[1])
    new = take_columns(model, inputs | {"attention_mask": mask}, layout)
    steps = mask[:, width:].long().cumsum(-1)
    later = next_positions(memory.positions[..., -1:], steps.to(memory.positions.device))
    new["position_ids"] = torch.cat([memory.positions, later], dim=-1)
    return new


def next_step(inputs: dict[str, Any], memory: Memory, past: int) -> dict[str, Any]:
    """Arguments of a forward pass of `q` new tokens on a pruned cache of `past` tokens.

    A mask over the full prompt is shortened with it; one over the pruned prompt is used as it is.
    """
    new = inputs.get("input_ids")
    new = inputs["inputs_embeds"] if new is None else new
    rows, q = new.shape[:2]
    memory = memory.repeated(rows)
    n = memory.layout.columns.shape[1]
    changed = dict(inputs)
    mask = inputs.get("attention_mask")
    full = memory.layout.width + past - n + q
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] == full:
        mask = memory.layout.extended(full).take(mask, 0)
        changed["attention_mask"] = mask
    if inputs.get("position_ids") is None:
        tail = torch.ones(rows, past - n + q, dtype=torch.long, device=memory.positions.device)
        if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] == past + q:
            tail = mask[:, n:].long().to(tail.device)
        steps = tail.cumsum(-1)[:, -q:]
        changed["position_ids"] = next_positions(memory.positions[..., -1:], steps)
    return changed
