"""Transport with free mass: what it costs to move every token to its nearest kept one.

When the kept tokens may carry any mass, the squared 2-Wasserstein distance between the full set
(masses `p`) and the kept set `C` is `cost(C) = sum_i p_i min_{j in C} |v_i - v_j|^2`: every token
simply goes to its nearest kept one. The optimal masses are the shares `w_j` of the tokens that went
to `j`; the plan's barycentric projection replaces `v_j` by the mean of those tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from otprune import threads
from otprune.objectives.certificate import Certificate, certificate, largest
from otprune.objectives.products import gram
from otprune.search.ties import TOLERANCE
from otprune.tokens import scale_down, unit_rows, unit_rows_norms

Metric = Literal["cosine", "euclidean"]

_BLOCK = 256  # tokens whose distances are worked on at once
_AT_ONCE = 2**20  # or more, for so many distances


def embed(tokens: Tensor, metric: Metric) -> Tensor:
    """Points whose squared Euclidean distance is the metric's, `(B, m, d)`, centred.

    "cosine" puts every token on the unit sphere (a zero token at its centre), where the squared
    distance is `2 - 2 cos`. Distances do not see the centring; rounding does: what tokens have in
    common no longer drowns what tells them apart.
    """
    points = unit_rows(tokens) if metric == "cosine" else tokens
    return points - points.mean(dim=-2, keepdim=True)


def embed_norms(tokens: Tensor, metric: Metric) -> tuple[Tensor, Tensor]:
    """`embed`, of any magnitude, and `otprune.tokens.norms`, read from memory together."""
    if metric == "cosine":
        points, norms = unit_rows_norms(tokens)
    else:
        points, _ = scale_down(tokens)
        norms = torch.linalg.vector_norm(points, dim=-1)
    return points.sub_(points.mean(dim=-2, keepdim=True)), norms


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """`|x_i - y_j|^2`, `(B, n, d)` and `(B, k, d)` to `(B, n, k)`.

    What is below rounding becomes zero, so that duplicates are at no distance, and none is
    negative.
    """
    squares = x.square().sum(-1).unsqueeze(-1) + y.square().sum(-1).unsqueeze(-2)
    distance = squares - 2 * (x @ y.mT)
    noise = 8 * torch.finfo(x.dtype).eps * squares
    return torch.where(distance > noise, distance, 0.0)


def pairwise(x: Tensor) -> Tensor:
    """`squared_distances(x, x)`, `(B, m, d)` to `(B, m, m)`, with no second matrix of that size."""
    squares = x.square().sum(-1)
    distance = gram(x)

    def finish(some: tuple[Tensor, Tensor]) -> None:
        part, own = some
        sums = own.unsqueeze(-1) + squares.unsqueeze(-2)
        part.mul_(-2).add_(sums)
        part.masked_fill_(part <= sums.mul_(8 * torch.finfo(x.dtype).eps), 0.0)

    threads.spread(finish, zip(distance.split(_BLOCK, 1), squares.split(_BLOCK, 1), strict=True))
    return distance


class Points:
    """m points, `(m, d)`, whose distances are worked out when asked for (`search.nearby`)."""

    def __init__(self, points: Tensor) -> None:
        self._points = points
        self._squares = points.square().sum(-1)

    def costs(self, mass: Tensor) -> Tensor:
        """`sum_i p_i |x_i - x_j|^2` for every j, `(m,)`."""
        mean = mass @ self._points
        return mass @ self._squares + self._squares - 2 * (self._points @ mean)

    def distances(self, rows: slice | Tensor, columns: slice | Tensor) -> Tensor:
        """As `pairwise` has them, `(n, n')`."""
        sums = self._squares[rows, None] + self._squares[columns]
        product = self._points[rows] @ self._points[columns].mT
        distance = torch.add(sums, product, alpha=-2, out=product)
        noise = 8 * torch.finfo(sums.dtype).eps
        if 0 in distance.shape or distance.amin() > noise * sums.amax():  # most often
            return distance
        return distance.masked_fill_(distance <= sums.mul_(noise), 0.0)


def assign(points: Tensor, indices: Tensor) -> Tensor:
    """For every token the position in `indices` of its nearest kept token, `(B, m)` int64.

    A kept token belongs to itself, whatever its duplicates. Ties go to the lower position.

    Args:
        points: `(B, m, d)` from `embed`.
        indices: `(B, k)`.
    """
    k = indices.shape[-1]
    kept = points.gather(1, indices.unsqueeze(-1).expand(-1, -1, points.shape[-1]))
    place = torch.arange(k, device=points.device)
    nearest = []
    for some in points.split(max(_BLOCK, _AT_ONCE // k), dim=1):
        distance = squared_distances(some, kept)
        # Relative to the token itself: one huge token must not blur the choice of all others.
        slack = TOLERANCE * some.square().sum(-1, keepdim=True)
        tied = distance <= distance.amin(dim=-1, keepdim=True) + slack
        nearest.append(torch.where(tied, place, k).amin(dim=-1))
    return torch.cat(nearest, dim=-1).scatter(1, indices, place.expand_as(indices))


def plan(assignment: Tensor, mass: Tensor, k: int) -> Tensor:
    """The free-mass transport plan from kept tokens to all, `(B, k, m)`; rows sum to the masses."""
    empty = mass.new_zeros(len(mass), k, mass.shape[-1])
    return empty.scatter_(1, assignment.unsqueeze(1), mass.unsqueeze(1))


def free_plan(
    tokens: Tensor, indices: Tensor, metric: Metric, weights: Tensor | None = None
) -> Tensor:
    """The plan that moves every token to its nearest kept one, `(B, k, m)`; see `plan`.

    Row sums are the masses, and rows divided by them average a cell's tokens (merging). Tokens that
    stand for several already, merged ones, have that number as their weight: masses then add up.

    Args:
        tokens: `(B, m, d)` float32 or float64.
        indices: `(B, k)`.
        metric: in which a token is near.
        weights: `(B, m)` of mean 1, or None for all ones.
    """
    batch, m, _ = tokens.shape
    mass = tokens.new_ones(batch, m) if weights is None else weights
    nearest = assign(embed(scale_down(tokens)[0], metric), indices)
    return plan(nearest, mass / m, indices.shape[-1])


def prefix_costs(points: Tensor, order: Tensor, mass: Tensor) -> Tensor:
    """What the first 1, 2, ..., k of `order` cost, `(B, k)`; never grows along it.

    Args:
        points: `(B, m, d)` from `embed`.
        order: `(B, k)`, kept tokens in the order they were picked.
        mass: `(B, m)`, sums to 1.
    """
    costs = []
    paid = points.new_full((*mass.shape, 1), torch.inf)
    for part in order.split(_BLOCK, dim=-1):
        kept = points.gather(1, part.unsqueeze(-1).expand(-1, -1, points.shape[-1]))
        nearest = squared_distances(points, kept).cummin(dim=-1).values.minimum(paid)
        costs.append((mass.unsqueeze(1) @ nearest).squeeze(1))
        paid = nearest[..., -1:]
    return torch.cat(costs, dim=-1)


def certify(distance: Tensor, mass: Tensor, order: Tensor) -> Certificate:
    """How much of the best single token's cost a kept set saves, and a bound on what any can.

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
    # With nothing kept, each token pays for the farthest; no set costs more.
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
