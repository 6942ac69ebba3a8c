"""The bias of attention mass and distance, in the forms that attention functions take.

A key with bias log(n) equals n copies of itself at the same position that attend to each other:
n * exp(logit) = exp(logit + log n). Causal copies would differ from the second layer on, since an
earlier copy does not attend to a later one. A sliding window would count each copy; it counts a
token with a mass once. The functions here are pure functions of tensors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from otprune.engines.common.key_features import FEATURES, PIECES, split
from otprune.errors import UnsupportedError


def repeat_rows(x: Tensor, batch: int) -> Tensor:
    """`(B, ...)` to `(batch, ...)`: each row of a prompt for its beams or return sequences.

    Raises:
        UnsupportedError: the batch is not a multiple of B.
    """
    times, odd = divmod(batch, len(x))
    if odd or not times:
        raise UnsupportedError(
            f"the masses belong to {len(x)} sequences, attention has {batch}: go on with the "
            "sequences that were pruned"
        )
    return x if times == 1 else x.repeat_interleave(times, dim=0)


def bias_of_keys(bias: Tensor, batch: int, keys: int, total: int) -> Tensor:
    """The bias of each key that one layer attends to.

    Args:
        bias: `(B, n)` or `(B, q, n)` float32, of the tokens of each prompt.
        batch: size of the layer's batch, a multiple of B. The beams or return sequences of one
            prompt are adjacent, and reordering happens only among them.
        keys: number of keys. Keys after the prompt (the answer, free slots of a static cache) have
            bias 0. Fewer keys than `total` are the last ones (a sliding window).
        total: tokens so far, including those of this call; 0 if no layer has a sliding window.

    Returns:
        `(batch, keys)` or `(batch, q, keys)` float32.

    Raises:
        UnsupportedError: the batch is not a multiple of B.
    """
    first = max(total - keys, 0)
    seen = bias[..., first : first + keys]
    return repeat_rows(F.pad(seen, (0, keys - seen.shape[-1])), batch)


def as_mask(mask: Tensor | None, bias: Tensor, query: Tensor, causal: bool) -> Tensor:
    """The attention mask as an additive mask, plus the bias.

    A query for which every key is hidden is padding. Here it attends to all keys: where all are
    hidden by a finite number, gradients of torch's SDPA kernel for CPUs are too large by the number
    of keys.

    Args:
        mask: `(B or 1, 1 or heads, q, keys)`, boolean (True: attend) or additive. None is no mask,
            or a causal mask if `causal`.
        bias: `(B, keys)` or `(B, 1 or q, keys)` float32.
        query: `(B, heads, q, d)`. The result has its dtype; in half precision the bias is rounded
            like the logits.
        causal: see `mask`.

    Returns:
        `(B, 1 or heads, q, keys)`.

    Raises:
        UnsupportedError: the mask has another number of columns than there are keys, or it is
            causal without a mask, and queries and keys differ in number.
    """
    q, keys = query.shape[-2], bias.shape[-1]
    added = (bias[:, None, None] if bias.ndim == 2 else bias[:, None]).to(query.dtype)
    if mask is None and causal and q > 1:
        if q != keys:
            raise UnsupportedError(
                f"mass: a layer attends from {q} to {keys} tokens without a mask, and which see "
                "which is not known: use mass='none'"
            )
        mask = torch.ones(q, keys, dtype=torch.bool, device=query.device).tril()[None, None]
    if mask is None:
        return added.expand(-1, -1, q, -1)
    if mask.shape[-1] != keys:
        raise UnsupportedError(
            f"mass: a layer attends to {keys} keys under a mask of {mask.shape[-1]} columns, as a "
            "sliding window does, and which belong together is not known: give attention_mask with "
            "two dimensions, or leave it out"
        )
    least = torch.finfo(query.dtype).min
    if mask.dtype == torch.bool:
        return torch.where(mask | ~mask.any(dim=-1, keepdim=True), added, least)
    mask = mask.to(query.dtype).clamp(min=least)
    shifted = mask - mask.amax(dim=-1, keepdim=True)  # to a softmax the same, and one key is at 0
    return (shifted + added).clamp(min=least)


def as_features(query: Tensor, key: Tensor, bias: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Queries and keys with extra features, whose dot products include the bias.

    For kernels that take no bias: with 1 appended to each query and bias / scaling to each key,
    `scaling * (q . k)` increases by the bias, under any mask. The appended number is split into a
    sum of three (`key_features.split`), exact to float32 precision in half precision too.

    Args:
        query: `(B, heads, q, d)`.
        key: `(B, key heads, keys, d)`.
        bias: `(B, keys)` float32.
        scaling: the factor that the kernel multiplies logits by; no soft cap may follow.

    Returns:
        `(B, heads, q, d + 8)` and `(B, key heads, keys, d + 8)`.
    """
    more = F.pad(split(bias / scaling).to(key.dtype), (0, FEATURES - PIECES))[:, None]
    ones = query.new_ones(*query.shape[:-1], PIECES)
    return (
        torch.cat([query, F.pad(ones, (0, FEATURES - PIECES))], dim=-1),
        torch.cat([key, more.expand(-1, key.shape[1], -1, -1)], dim=-1),
    )
