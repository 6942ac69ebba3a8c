"""How the ranks of a layer stage order visual tokens: functions of tensors.

Attention is computed for the queries that a rank needs alone, in float32, whatever attention
function the model uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

PIVOTS = 4  # of DART: so many visual and so many text tokens


def attention_score(
    query: Tensor,
    key: Tensor,
    mask: Any,
    valid: Tensor,
    rows: Tensor,
    weights: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """The attention that each token gets from some queries, mean over heads.

    Args:
        query: `(B, heads, n, d)`.
        key: `(B, key heads, n, d)`.
        mask: what the attention function gets. `(B or 1, 1 or heads, n, n)` boolean (True: attend)
            or additive is used; anything else counts as causal.
        valid: `(B, n)` bool, False at tokens that none sees.
        rows: `(B, r)` int64, the queries.
        weights: `(B, r)` float32, by which their attention is summed up.
        scaling: factor of the logits; None: `d ** -0.5`.
        softcap: of the logits, as in Gemma 2.

    Returns:
        `(B, n)` float32.
    """
    b, heads, n, d = query.shape
    rows, weights, valid = (x.to(query.device) for x in (rows, weights, valid))
    some = query.gather(2, rows[:, None, :, None].expand(-1, heads, -1, d)).float()
    some = some.view(b, key.shape[1], heads // key.shape[1], -1, d)
    logits = torch.einsum("bkgrd,bknd->bkgrn", some, key.float()).flatten(1, 2)
    logits = logits * (d**-0.5 if scaling is None else scaling)
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    if isinstance(mask, Tensor) and mask.ndim == 4:
        mask = mask.expand(b, *mask.shape[1:])
        seen = mask.gather(2, rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
        seen = seen[..., :n]
        if seen.dtype != torch.bool:
            logits, seen = logits + seen.float(), torch.ones_like(seen, dtype=torch.bool)
    else:
        place = torch.arange(n, device=query.device)
        seen = (place <= rows[..., None])[:, None]
    logits = logits.masked_fill(~(seen & valid[:, None, None]), float("-inf"))
    attention = logits.softmax(dim=-1).mean(dim=1)
    return (attention * weights[..., None]).nan_to_num().sum(dim=1)


def highest(score: Tensor, visual: Tensor, numbers: Sequence[int]) -> Tensor:
    """The visual tokens of highest score in each row; of equal ones the first.

    Args:
        score: `(B, n)`.
        visual: `(B, n)` bool.
        numbers: how many, for each row; at most as many as there are.

    Returns:
        `(B, n)` bool.
    """
    score = score.to(visual.device).nan_to_num(nan=float("-inf"))
    # Visual tokens come first, whatever their score.
    order = score.argsort(dim=1, descending=True, stable=True)
    first = visual.gather(1, order).int().argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, first)
    place = torch.arange(score.shape[1], device=score.device)
    chosen = place < torch.tensor(numbers, device=score.device)[:, None]
    return torch.zeros_like(visual).scatter(1, order, chosen)


def dart(norms: Tensor, hidden: Tensor, visual: Tensor, text: Tensor, number: int) -> Tensor:
    """The visual tokens of one prompt that DART keeps.

    Args:
        norms: `(n,)`, the L1 norm of each token's keys.
        hidden: `(n, d)`, hidden states after the final norm.
        visual: `(n,)` bool.
        text: `(n,)` bool, tokens that can be text pivots.
        number: how many, at most as many as there are.

    Returns:
        `(number,)` int64, in the order in which they were chosen.
    """
    kept, words = (_largest(norms, among, PIVOTS) for among in (visual, text))
    kept = kept[:number]
    unit = torch.nn.functional.normalize(hidden.float(), dim=-1)
    left = visual.clone()
    left[kept] = False
    pivots = torch.cat([kept, words])
    each, more = divmod(number - len(kept), max(len(pivots), 1))
    for i, pivot in enumerate(pivots.tolist()):
        cosine = unit @ unit[pivot]
        found = _largest(-cosine, left, each + (i < more))
        left[found] = False
        kept = torch.cat([kept, found])
    return kept


def _largest(score: Tensor, among: Tensor, number: int) -> Tensor:
    """Indices of the `number` tokens of largest score, or of all that there are."""
    some = among.nonzero()[:, 0]
    return some[score[some].argsort(descending=True, stable=True)[:number]]


def raters(embeds: Tensor, visual: Tensor, text: Tensor) -> Tensor:
    """The words of one prompt that rate its visual tokens in SparseVLM.

    Args:
        embeds: `(n, d)`, embeddings of the prompt.
        visual: `(n,)` bool.
        text: `(n,)` bool, tokens that can rate.

    Returns:
        `(r,)` int64, ascending. All of the text where no token is above the mean.
    """
    words = text.nonzero()[:, 0]
    if not bool(visual.any()):
        return words
    fit = (embeds[visual].float() @ embeds[words].float().T).softmax(dim=1).mean(dim=0)
    above = words[fit > fit.mean()]
    return above if len(above) else words
