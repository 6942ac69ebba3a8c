"""Continuing on a cache with a pruned prompt: the next turn, or a decoding step by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from otprune.engines.transformers.encoded import TYPE_IDS, check_widths
from otprune.engines.transformers.inputs import take_columns
from otprune.engines.transformers.layout import Layout
from otprune.engines.transformers.memory import Memory, cache_of, is_static
from otprune.engines.transformers.positions import takes_positions
from otprune.errors import UnsupportedError


def next_turn(model: Any, inputs: dict[str, Any], memory: Memory) -> dict[str, Any]:
    """Arguments of generate() for the next turn of a conversation on a pruned cache.

    `input_ids` are those of the whole conversation. The first S must be the caller's prompt of the
    cache; they are shortened in the same way again. The rest is new text.

    Raises:
        UnsupportedError: the ids do not begin with that prompt.
    """
    ids = inputs.get("input_ids")
    if ids is None or inputs.get("inputs_embeds") is not None:
        raise UnsupportedError("a pruned cache goes on with input_ids, not with inputs_embeds")
    width = memory.layout.width
    memory = memory.repeated(len(ids))
    if not torch.equal(ids[:, :width], memory.ids.to(ids.device)):
        raise UnsupportedError(
            "the cache holds a pruned prompt, and input_ids do not begin with it: pass the ids of "
            "the whole conversation, the first prompt as it was given, or start from a new cache"
        )
    if inputs.get("position_ids") is not None:
        raise UnsupportedError("position_ids on a pruned cache: leave them out, they are known")
    mask = inputs.get("attention_mask")
    if mask is None:
        mask = torch.ones_like(ids)
    if mask.shape != ids.shape:
        raise UnsupportedError(
            f"attention_mask is {tuple(mask.shape)}: expected the shape of input_ids, "
            f"{tuple(ids.shape)}"
        )
    check_widths(inputs, ids.shape[1])
    layout = memory.layout.extended(ids.shape[1])
    new = take_columns(model, inputs | {"attention_mask": mask}, layout)
    steps = mask[:, width:].long().cumsum(-1)
    later = memory.last + steps.to(memory.positions.device)
    if takes_positions(model):
        new["position_ids"] = torch.cat([memory.positions, later], dim=-1)
    return new


def next_step(model: Any, inputs: dict[str, Any], memory: Memory, past: int) -> dict[str, Any]:
    """Arguments of a forward pass of `q` new tokens on a pruned cache of `past` tokens.

    A mask over the full prompt is shortened; a mask over the pruned prompt is used as it is, and so
    is one of four dimensions over the slots of a static cache.

    Raises:
        UnsupportedError: an argument of another width.
    """
    new = inputs.get("input_ids")
    if new is None:
        new = inputs["inputs_embeds"]
    rows, q = new.shape[:2]
    memory = memory.repeated(rows)
    n = memory.layout.columns.shape[1]
    changed = dict(inputs)
    mask = inputs.get("attention_mask")
    full = memory.layout.width + past - n + q
    for name in TYPE_IDS:
        value = inputs.get(name)
        if isinstance(value, Tensor) and value.shape[-1] in (full, past + q):
            # generate() of transformers 5.18 passes those of the whole conversation.
            changed[name] = value[..., -q:]
    check_widths(changed, q)
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] == full:
        mask = memory.layout.extended(full).take(mask, 0)
        changed["attention_mask"] = mask
    elif isinstance(mask, Tensor) and mask.ndim == 4 and not is_static(cache_of(inputs)):
        changed["attention_mask"] = _of_kept(mask, memory.layout.extended(full), past + q)
    elif mask is None and not bool(memory.layout.valid.all()):
        # Pruning may have added padding, which the caller cannot know of.
        more = torch.ones(rows, past - n + q, dtype=torch.long, device=memory.layout.valid.device)
        mask = torch.cat([memory.layout.valid.long(), more], dim=1)
        changed["attention_mask"] = mask
    if takes_positions(model):
        tail = torch.ones(rows, past - n + q, dtype=torch.long, device=memory.positions.device)
        if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] == past + q:
            tail = mask[:, n:].long().to(tail.device)
        steps = tail.cumsum(-1)[:, -q:]
        given = inputs.get("position_ids")
        if given is None or (memory.compact and _same(given, memory.full_last + steps)):
            changed["position_ids"] = memory.last + steps
        elif memory.compact and not _same(given, memory.last + steps):
            raise UnsupportedError(
                "position_ids on a cache whose pruned prompt was counted anew (compact) are "
                "neither those that follow it nor those that follow the full prompt: leave them "
                "out, they are known"
            )
    return changed


def _of_kept(mask: Tensor, layout: Layout, keys: int) -> Tensor:
    """A mask `(B or 1, h, q, columns)`, boolean or additive, over the columns of the pruned prompt.

    Raises:
        UnsupportedError: it is neither over these nor over those of the full prompt.
    """
    if mask.shape[-1] == keys:
        return mask
    if mask.shape[-1] != layout.width:
        raise UnsupportedError(
            f"attention_mask has {mask.shape[-1]} columns: expected the {layout.width} of the full "
            f"prompt and what follows it, or the {keys} after pruning"
        )
    hidden = 0 if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    return layout.take(mask.movedim(0, -2), hidden).movedim(-2, 0)


def _same(given: Tensor, known: Tensor) -> bool:
    """Whether two position tensors agree; of M-RoPE positions only the three rotary axes count."""
    given = given.to(known.device)
    if given.ndim != known.ndim or given.shape[-1] != known.shape[-1]:
        return False
    return (
        bool((given[-3:] == known[-3:]).all()) if given.ndim == 3 else bool((given == known).all())
    )
