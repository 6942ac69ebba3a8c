"""Attention that the tokens of an image get in one layer, from its queries and keys.

Attention functions such as sdpa and flash give no maps. Functions of what they are given; what
calls them is `seen`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_mask

from otprune.errors import UnsupportedError

LOGITS = 1 << 24  # computed at once, in float32: 64 MiB


@dataclass(frozen=True)
class Part:
    """Tokens that attend to each other in one call of an attention function.

    start: index of the first of them in the sequence.
    query, key: `(R, h, n, c)`, of n tokens of R sequences.
    mask: `(R or 1, 1 or h, 1 or n, n)`, bool (True where attention is allowed) or added to the
        logits; None where all attend to all.
    scaling: factor of the logits.
    """

    start: int
    query: Tensor
    key: Tensor
    mask: Tensor | None
    scaling: float

    @property
    def stop(self) -> int:
        return self.start + self.key.shape[2]


def parts_of(
    start: int, query: Tensor, key: Tensor, mask: Any, given: Mapping[str, Any]
) -> list[Part]:
    """What an attention function was given, in parts whose tokens see each other.

    Args:
        start: index of its first token in the sequence.
        query, key: `(R, h, n, c)`.
        mask: as attention functions take them: for sdpa, eager, flex or flash attention.
        given: its further arguments.

    Raises:
        UnsupportedError: queries and keys differ in number, or it is not known which tokens see
            each other.
    """
    if query.shape[:3] != key.shape[:3]:
        raise UnsupportedError(
            f"queries {tuple(query.shape)} and keys {tuple(key.shape)} differ in number"
        )
    rows, _, n, width = query.shape
    scaling = given.get("scaling")
    scaling = width**-0.5 if scaling is None else float(scaling)
    if isinstance(mask, BlockMask):
        mask = create_mask(mask.mask_mod, rows, 1, n, n, device=query.device)
    if mask is not None and not isinstance(mask, Tensor):
        raise UnsupportedError(f"a mask of type {type(mask).__name__}")
    if mask is not None and mask.ndim == 2:  # of flash attention: 0 at padding
        mask = mask.bool()[:, None, None]
    borders = given.get("cu_seq_lens_k")
    if mask is None and borders is None and given.get("position_ids") is not None:
        raise UnsupportedError(
            "this release of transformers finds the borders of its packed images by their positions"
        )
    if borders is None:
        return [Part(start, query.detach(), key.detach(), mask, scaling)]
    bounds = borders.tolist()
    return [
        Part(start + a, query[:, :, a:b].detach(), key[:, :, a:b].detach(), None, scaling)
        for a, b in pairwise(bounds)
        if a < b
    ]


def received(parts: list[Part], row: int, tokens: Tensor, first: int | None) -> Tensor:
    """The attention that each token of one set gets: mean over heads and queries, after softmax.

    Args:
        parts: all parts of the sequences, in order.
        row: the sequence.
        tokens: `(t,)` int64, indices of the set's tokens in it.
        first: index of the class token, which is the query then; None: the set's tokens are, except
            those that the mask hides.

    Returns:
        `(t,)` float32. 0 at tokens that the mask hides. The class token's own attention and that to
        other special tokens is left out and the rest is not rescaled.

    Raises:
        UnsupportedError: the tokens are not in one part.
    """
    part = next((x for x in parts if x.start <= int(tokens.min()) < x.stop), None)
    if part is None or int(tokens.max()) >= part.stop:
        raise UnsupportedError("the tokens of an image do not all attend to each other")
    tokens = tokens.to(part.key.device) - part.start
    keys = torch.arange(part.key.shape[2], device=tokens.device)
    if part.mask is not None:  # keys of other images and padding are left out
        keys = keys[_allows(_rows(part.mask, row, tokens)).any(dim=1).any(dim=0)]
    if first is None:
        asking = tokens[torch.isin(tokens, keys)]
    else:
        asking = tokens.new_tensor([first - part.start])
    mask = None if part.mask is None else _rows(part.mask, row, asking)[:, :, keys]
    got = part.key.new_zeros(part.key.shape[2], dtype=torch.float32)
    got[keys] = _mean(part, row, asking, keys, mask)
    return got[tokens]


def _rows(mask: Tensor, row: int, queries: Tensor) -> Tensor:
    """`(1 or h, 1 or q, n)`: the mask of some queries of one sequence."""
    mask = mask[row if len(mask) > 1 else 0]
    return mask[:, queries] if mask.shape[1] > 1 else mask


def _allows(mask: Tensor) -> Tensor:
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _mean(part: Part, row: int, asking: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    """`(k,)`: mean over heads and queries of the attention to each of the keys."""
    with torch.no_grad(), torch.autocast(part.key.device.type, enabled=False):
        key = part.key[row].index_select(1, keys).float()
        heads, n = key.shape[:2]
        total = key.new_zeros(n)
        step = max(1, LOGITS // (heads * n))
        for start in range(0, len(asking), step):
            some = asking[start : start + step]
            query = part.query[row].index_select(1, some).float() * part.scaling
            logits = query @ key.transpose(1, 2)
            if mask is not None:
                here = mask[:, start : start + step] if mask.shape[1] > 1 else mask
                if here.dtype == torch.bool:
                    logits = logits.masked_fill(~here, -torch.inf)
                else:
                    logits = logits + here.float()
            total += logits.softmax(dim=-1).sum(dim=(0, 1))
        return total / (heads * max(1, len(asking)))
