"""Masses and merged features of the kept tokens of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from otprune.errors import SelectorError
from otprune.measures import transport
from otprune.measures.cells import Cells
from otprune.measures.transport import Metric
from otprune.selectors.batches import Batch, alone
from otprune.selectors.results import Reduction

if TYPE_CHECKING:
    from otprune.selectors.base import Selector


def reduction(batch: Batch, indices: Tensor, selector: Selector, merge: bool) -> Reduction:
    """A batch reduced to the tokens `indices`, `(B, k)` ascending; see `Selector.reduce`.

    Args:
        selector: whose `assignment_metric` assigns every token to its nearest kept one.
        merge: whether features are merged, by `selector.merge_weights`, or else as the means of
            the tokens assigned to each kept one.
    """
    tokens, metric = batch.tokens, selector.assignment_metric
    features = tokens.gather(1, indices.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
    # Detached, so that the lazy masses do not keep the autograd graph alive.
    detached = Batch(tokens.detach(), batch.cues)
    if not merge:
        return Reduction(indices, lambda: masses(detached, indices, metric), features)
    if selector.merges and indices.shape[1] < tokens.shape[1]:
        merged = _sums(_own_weights(detached, indices, selector), tokens)
        return Reduction(indices, lambda: masses(detached, indices, metric), merged)
    plan = _plan(batch, indices, metric)
    return Reduction(indices, plan.sum(dim=-1), _means(tokens, plan, features))


def masses(batch: Batch, indices: Tensor, metric: Metric) -> Tensor:
    """Share of its set that each kept token stands for, `(B, k)` float32; each row sums to 1."""
    return _plan(batch, indices, metric).sum(dim=-1)


@torch.no_grad()
def cells(batch: Batch, indices: Tensor, metric: Metric) -> list[Cells]:
    """The cells of the kept tokens `indices`, `(B, k)` ascending, of each set of a batch."""

    def cell(part: Batch, kept: Tensor) -> Tensor:
        with torch.autocast(part.tokens.device.type, enabled=False):
            return transport.nearest(part.tokens.float(), kept, metric)

    return [Cells(*pair) for pair in zip(indices, alone(cell, batch, indices), strict=True)]


@torch.no_grad()
def _plan(batch: Batch, indices: Tensor, metric: Metric) -> Tensor:
    """The free-mass plan from kept tokens to all, `(B, k, m)` float32."""

    def plan(part: Batch, kept: Tensor) -> Tensor:
        x = part.tokens
        with torch.autocast(x.device.type, enabled=False):
            return transport.free_plan(x.float(), kept, metric, part.cues.weights)

    return alone(plan, batch, indices)


@torch.no_grad()
def _own_weights(batch: Batch, indices: Tensor, selector: Selector) -> Tensor:
    """`selector.merge_weights` for float32 tokens, `(B, k, m)`."""

    def weights(part: Batch, kept: Tensor) -> Tensor:
        x = part.tokens
        with torch.autocast(x.device.type, enabled=False):
            made = selector.merge_weights(x.float(), kept, part.cues)
        shape = (*kept.shape, x.shape[1])
        if made.shape != shape:
            raise SelectorError(
                f"{type(selector).__name__}.merge_weights returned shape {tuple(made.shape)}: "
                f"expected {shape}, a weight of every token for every kept one"
            )
        return made.float()

    return alone(weights, batch, indices)


def _sums(weights: Tensor, tokens: Tensor) -> Tensor:
    with torch.autocast(tokens.device.type, enabled=False):
        return (weights @ tokens.float()).to(tokens.dtype)


def _means(tokens: Tensor, plan: Tensor, kept: Tensor) -> Tensor:
    masses = plan.sum(dim=-1, keepdim=True)
    share = plan / torch.where(masses > 0, masses, 1.0)
    # A kept token of mass 0 keeps its feature.
    return torch.where(masses > 0, _sums(share, tokens), kept)
