"""Transport with free mass: the cost of moving every token to its nearest kept one.

If the kept tokens may carry any mass, the squared 2-Wasserstein distance between the full set
(masses `p`) and the kept set `C` is `cost(C) = sum_i p_i min_{j in C} |v_i - v_j|^2`: every token
simply goes to its nearest kept one. The optimal masses are the shares `w_j` of the tokens that went
to `j`; the plan's barycentric projection replaces `v_j` by the mean of those tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from otprune.greedy.ties import TOLERANCE
from otprune.measures.certificate import Certificate, certificate, largest
from otprune.numerics.distances import squared_distances
from otprune.numerics.normalize import scale_down, unit_rows, unit_rows_norms

Metric = Literal["cosine", "euclidean"]

_BLOCK = 256  # tokens of a part
_AT_ONCE = 2**20  # distances of a part


def embed(tokens: Tensor, metric: Metric) -> Tensor:
    """Points whose squared Euclidean distance is the metric's, `(B, m, d)`, centred.

    "cosine" puts every token on the unit sphere (a zero token at its centre), where the squared
    distance is `2 - 2 cos`. Distances do not depend on the centring, rounding does: without it
    the part that all tokens share would swamp their differences.
    """
    points = unit_rows(tokens) if metric == "cosine" else tokens
    return points - points.mean(dim=-2, keepdim=True)


def embed_norms(tokens: Tensor, metric: Metric) -> tuple[Tensor, Tensor]:
    """`embed` up to one scale per set, and `normalize.norms`, in one pass over memory."""
    if metric == "cosine":
        points, norms = unit_rows_norms(tokens)
    else:
        points, _ = scale_down(tokens)
        norms = torch.linalg.vector_norm(points, dim=-1)
    return points.sub_(points.mean(dim=-2, keepdim=True)), norms


def assign(points: Tensor, indices: Tensor) -> Tensor:
    """For every token the position in `indices` of its nearest kept token, `(B, m)` int64.

    A kept token belongs to itself, even if it has duplicates. Ties go to the lower position.

    Args:
        points: `(B, m, d)` from `embed`.
        indices: `(B, k)`.
    """
    k = indices.shape[-1]
    kept = points.gather(1, indices.unsqueeze(-1).expand(-1, -1, points.shape[-1]))
    place = torch.arange(k, device=points.device)
    found = []
    for some in points.split(max(_BLOCK, _AT_ONCE // k), dim=1):
        distance = squared_distances(some, kept)
        # Relative to the token itself, so that one huge token does not blur all other choices.
        slack = TOLERANCE * some.square().sum(-1, keepdim=True)
        tied = distance <= distance.amin(dim=-1, keepdim=True) + slack
        found.append(torch.where(tied, place, k).amin(dim=-1))
    return torch.cat(found, dim=-1).scatter(1, indices, place.expand_as(indices))


def plan(assignment: Tensor, mass: Tensor, k: int) -> Tensor:
    """The free-mass transport plan from kept tokens to all, `(B, k, m)`; rows sum to the masses."""
    empty = mass.new_zeros(len(mass), k, mass.shape[-1])
    return empty.scatter_(1, assignment.unsqueeze(1), mass.unsqueeze(1))


def free_plan(
    tokens: Tensor, indices: Tensor, metric: Metric, weights: Tensor | None = None
) -> Tensor:
    """The plan that moves every token to its nearest kept one, `(B, k, m)`; see `plan`.

    Row sums are the masses, and rows divided by them average a cell's tokens (merging). A token
    that was merged from several has their number as its weight, so that masses add up.

    Args:
        tokens: `(B, m, d)` float32 or float64.
        indices: `(B, k)`.
        metric: in which a token is near.
        weights: `(B, m)` of mean 1, or None for all ones.
    """
    batch, m, _ = tokens.shape
    mass = tokens.new_ones(batch, m) if weights is None else weights
    return plan(nearest(tokens, indices, metric), mass / m, indices.shape[-1])


def nearest(tokens: Tensor, indices: Tensor, metric: Metric) -> Tensor:
    """`assign` for tokens `(B, m, d)` as they are given, `(B, m)` int64."""
    return assign(embed(scale_down(tokens)[0], metric), indices)


def prefix_costs(points: Tensor, order: Tensor, mass: Tensor) -> Tensor:
    """Costs of the first 1, 2, ..., k tokens of `order`, `(B, k)`; they never increase.

    Args:
        points: `(B, m, d)` from `embed`.
        order: `(B, k)`, kept tokens in the order they were picked.
        mass: `(B, m)`, sums to 1.
    """
    costs = []
    paid = points.new_full((*mass.shape, 1), torch.inf)
    for part in order.split(_BLOCK, dim=-1):
        kept = points.gather(1, part.unsqueeze(-1).expand(-1, -1, points.shape[-1]))
        least = squared_distances(points, kept).cummin(dim=-1).values.minimum(paid)
        costs.append((mass.unsqueeze(1) @ least).squeeze(1))
        paid = least[..., -1:]
    return torch.cat(costs, dim=-1)


def certify(distance: Tensor, mass: Tensor, order: Tensor) -> Certificate:
    """How much of the best single token's cost a kept set saves, and a bound for any set.

    Value and bound are decreases from `reference`, the cost of the best single token. Any larger
    reference (a phantom point beyond all tokens, say) would make the ratio look better and mean
    less: most of it would be what every set achieves. The price: greedy's promise of 1 - 1/e is
    for decreases from the phantom point; for these it is 1 - (1 - 1/k)^(k - 1), half at k = 2 and
    coming up to 1 - 1/e from below, as one pick goes into the reference. The bound itself does not
    depend on the reference: no k tokens cost less than `reference - bound`.

    Args:
        distance: `(m, m)` squared distances, float64.
        mass: `(m,)`, sums to 1.
        order: `(k,)`, the kept tokens in the order they were picked.
    """
    k = order.shape[0]
    reference = float((distance @ mass).min())
    # With nothing kept, each token pays its largest distance; no set costs more.
    paid = distance.amax(dim=-1)
    noise = 1e-12 * float(mass @ paid)
    least, values = 0.0, []
    for t in range(k + 1):
        gains = mass @ (paid.unsqueeze(-1) - distance).clamp(min=0)
        least = max(least, float(mass @ paid) - largest(gains, k))
        if t < k:
            paid = torch.minimum(paid, distance[order[t]])
            values.append(reference - float(mass @ paid))
    return certificate(values, max(values[-1], reference - least), noise, reference)
