"""Attention of kept tokens whose keys carry a mass; needs torch alone.

vLLM's encoders attend with one of many kernels, none of which takes a bias. Behind a stage they
attend with torch's, so that the mass is there whatever kernel the engine uses elsewhere.
"""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def parts_of(lengths: Tensor) -> list[Tensor]:
    """The tokens of packed parts (frames or windows), those of one length together.

    Args:
        lengths: `(P,)` int64, none of them 0.

    Returns:
        `(g, length)` int64 for each length: the tokens of its g parts.
    """
    sizes = lengths.tolist()
    starts = (lengths.cumsum(0) - lengths).tolist()
    order = sorted(range(len(sizes)), key=lambda i: (sizes[i], i))
    return [
        torch.tensor([starts[i] for i in some]).unsqueeze(1) + torch.arange(size)
        for size, some in groupby(order, key=sizes.__getitem__)
    ]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_mass: Tensor,
    scale: float,
    parts: list[Tensor] | None = None,
) -> Tensor:
    """Softmax attention in both directions, `log_mass` added to the logits of each key.

    In half precision it is rounded as the logits are.

    Args:
        query: `(R, n, h, d)`.
        key, value: `(R, n, h', d)`, where h is a multiple of h'.
        log_mass: `(R, n)` float32.
        scale: factor of the logits.
        parts: of a single sequence whose parts see only themselves, see `parts_of`.

    Returns:
        `(R, n, h, d)`.
    """
    if parts is None:
        return _attend(query, key, value, log_mass, scale)
    out = torch.empty_like(query)
    for tokens in parts:
        at = tokens.to(query.device)
        out[0, at] = _attend(query[0, at], key[0, at], value[0, at], log_mass[0, at], scale)
    return out


def _attend(query: Tensor, key: Tensor, value: Tensor, log_mass: Tensor, scale: float) -> Tensor:
    bias = log_mass.to(query)[:, None, None].expand(-1, -1, query.shape[1], -1)
    grouped = query.shape[2] != key.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    made = scaled_dot_product_attention(q, k, v, bias, scale=scale, enable_gqa=grouped)
    return made.transpose(1, 2)
