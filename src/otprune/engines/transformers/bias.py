"""What attention mass adds to the logits of a key, in the forms that attention functions take.

A key with bias log(n) counts as n copies of itself at one position, which see each other:
n * exp(logit) = exp(logit + log n). Pure functions of tensors, no model in sight.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from otprune.errors import UnsupportedError

# Head sizes stay a multiple of 8, as attention kernels want them; three of the features are used.
FEATURES = 8


def of_keys(rows: Tensor, batch: int, keys: int, total: int) -> Tensor:
    """The bias of each key that one layer attends to.

    Args:
        rows: `(B, n)` float32, of the tokens of each row's prompt.
        batch: rows of the layer's batch, a multiple of B: beams and return sequences stand behind
            each other, and reordering never leaves a row's own.
        keys: number of keys. Keys behind the prompt (an answer, free slots of a static cache) have
            bias 0; if the keys are fewer than `total`, they are the last ones (a sliding window).
        total: tokens so far, those of this call included; 0 if no layer slides.

    Returns:
        `(batch, keys)` float32.

    Raises:
        UnsupportedError: the batch is not a multiple of B.
    """
    times, odd = divmod(batch, len(rows))
    if odd or not times:
        raise UnsupportedError(
            f"the masses belong to a prompt of {len(rows)} rows, attention has {batch}: go on with "
            "the rows that the prompt was made of"
        )
    first = max(total - keys, 0)
    seen = rows[:, first : first + keys]
    return F.pad(seen, (0, keys - seen.shape[1])).repeat_interleave(times, dim=0)


def as_mask(mask: Tensor | None, bias: Tensor, query: Tensor, causal: bool) -> Tensor:
    """An additive mask with the bias in it.

    A query that a boolean mask lets see nothing is padding. Here it sees everything: where all keys
    are hidden, gradients of torch's SDPA kernel for CPUs are too large by the number of keys.

    Args:
        mask: `(B or 1, 1 or heads, q, keys)`, boolean (True is seen) or additive; None sees
            everything, or everything up to itself if `causal`.
        bias: `(B, keys)` float32.
        query: `(B, heads, q, d)`, whose dtype the result has; in half precision the bias is rounded
            as the logits are.
        causal: see `mask`.

    Returns:
        `(B, 1 or heads, q, keys)`.

    Raises:
        UnsupportedError: causal without a mask, and queries and keys differ in number.
    """
    q, keys = query.shape[-2], bias.shape[-1]
    added = bias[:, None, None].to(query.dtype)
    if mask is None and causal and q > 1:
        if q != keys:
            raise UnsupportedError(
                f"mass: a layer attends from {q} to {keys} tokens without a mask, and which see "
                "which is not known: use mass='none'"
            )
        mask = torch.ones(q, keys, dtype=torch.bool, device=query.device).tril()[None, None]
    if mask is None:
        return added.expand(-1, -1, q, -1)
    mask, least = mask[..., :keys], torch.finfo(query.dtype).min
    if mask.dtype == torch.bool:
        return torch.where(mask | ~mask.any(dim=-1, keepdim=True), added, least)
    return (mask.to(query.dtype) + added).clamp(min=least)  # a query may see nothing else


def as_features(query: Tensor, key: Tensor, bias: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Queries and keys a few features longer, whose products hold the bias.

    For kernels that take no bias: with queries of 1 and keys of bias / scaling in one more feature,
    `scaling * (q . k)` is what it was plus the bias, under any mask. The number is split into three
    of 8 bits, so that it stays exact to float32 in either half precision, and in float32 that the
    kernel casts to one.

    Args:
        query: `(B, heads, q, d)`.
        key: `(B, key heads, keys, d)`.
        bias: `(B, keys)` float32.
        scaling: what the kernel multiplies logits with; no soft cap may follow.

    Returns:
        `(B, heads, q, d + 8)` and `(B, key heads, keys, d + 8)`.
    """
    rest, parts = bias / scaling, []
    for _ in range(3):
        parts.append(rest.bfloat16())
        rest = rest - parts[-1]
    more = F.pad(torch.stack(parts, dim=-1).to(key.dtype), (0, FEATURES - 3))[:, None]
    ones = query.new_ones(*query.shape[:-1], 3)
    return (
        torch.cat([query, F.pad(ones, (0, FEATURES - 3))], dim=-1),
        torch.cat([key, more.expand(-1, key.shape[1], -1, -1)], dim=-1),
    )
