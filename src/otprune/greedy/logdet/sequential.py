"""The greedy log-determinant with a fixed sequence of operations: how it is done on a device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from otprune.greedy.ties import TOLERANCE
from otprune.numerics.lowrank import LowRank


def greedy(M: LowRank, k: int, tie_order: Tensor, shift: float) -> Tensor:
    """`logdet.greedy` without a look at what the operations give.

    On small sets a device waits for its next launch most of the time, so what counts is the number
    of operations: 11 a pick, and no views. Hence copies of `left` and `right`, O(m (r + k)) memory:

    - Tokens are in tie order, so that of those tied the first wins.
    - Behind their features there is space for the factor, zero at first. The product that makes a
      row of `M` then also subtracts what is known already.

    `rows` are those of the residual itself: with j picked, `row_i^2 / (excess_j + shift)` comes off
    the excess of i. Excess does not fall below zero, which rounding
    would have it do. Since the
    excess of j is the largest, up to the tolerance of ties, the largest is used in its place; and
    by Cauchy-Schwarz no covariance exceeds it.
    """
    preferred = tie_order.argsort(dim=-1)
    batch, m = tie_order.shape
    each = torch.arange(batch, device=tie_order.device).unsqueeze(-1)
    r = M.left.shape[-1]
    ours = pad(M.left[each, preferred], (0, k))
    theirs = pad(M.right[each, preferred].permute(2, 0, 1), (0, 0, 0, 0, 0, k))
    shares, rows = ours[..., r:].unbind(-1), theirs[r:].unbind()
    across, product = theirs.transpose(0, 1), ours.new_empty(batch, 1, m)
    covariance = product.squeeze(1)
    # Excess and variance (excess + shift): their largest values, and each token's bounds. The upper
    # bound becomes -inf once a token is picked.
    excess = M.diagonal().gather(1, preferred).clamp_(min=0)
    state = torch.stack([excess, excess + shift])
    largest, most = state.new_empty(2, batch, 1), torch.full_like(excess, torch.inf)
    least = torch.linspace(0, shift, 2, dtype=excess.dtype, device=excess.device).view(2, 1, 1)
    (excess, _), (top, variance) = state.unbind(), largest.unbind()
    # Relative to the largest excess: the level of ties, and the least covariance.
    scale = torch.linspace(1 - TOLERANCE, -1, 2, dtype=excess.dtype, device=excess.device)
    scale, levels = scale.view(2, 1, 1), torch.empty_like(largest)
    tied, lowest = levels.unbind()
    order: list[Tensor] = []
    for share, row in zip(shares, rows, strict=True):
        torch.amax(state, dim=-1, keepdim=True, out=largest)
        torch.mul(top, scale, out=levels)
        j = torch.minimum(excess, tied).argmax(dim=-1, keepdim=True)
        order.append(j)
        if len(order) == k:
            break
        torch.bmm(ours[each, j], across, out=product)
        torch.clamp(covariance, lowest, top, out=row)
        share.addcdiv_(row, variance, value=-1)
        most.scatter_(1, j, -torch.inf)
        state.addcmul_(row, share).clamp_(least, most)
    return preferred.gather(1, torch.cat(order, dim=-1))
