"""What every method is: a frozen dataclass that turns tokens into the indices of those to keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from otprune import budget
from otprune.errors import WeightError
from otprune.objectives import transport
from otprune.objectives.transport import Metric
from otprune.tokens import check_tokens, check_weights


@dataclass(frozen=True, eq=False)
class Reduction:
    """The kept tokens, ready for a language model; k of each, or (B, k) for a batch.

    Attributes:
        indices: `(k,)` int64, strictly ascending.
        masses: `(k,)` float32, the share of the full set that each token stands for; sums to 1.
        features: `(k, d)` in the tokens' dtype: the kept rows, or what they were merged to.
    """

    indices: Tensor
    masses: Tensor
    features: Tensor


@dataclass(frozen=True)
class Selector(ABC):
    """Base of all methods: which tokens to keep, decided from the tokens alone.

    Attributes:
        keep: a ratio in (0, 1] as a float, or a number of tokens >= 1 as an int; `1.0` keeps
            everything, `1` keeps one token.

    A method implements `_pick`; everything else is the same for all. Computed in float32 whatever
    the tokens' dtype, without gradients; deterministic; ties go to the larger norm, then to the
    lower index.
    """

    keep: float | int

    name: ClassVar[str]
    summary: ClassVar[str]
    takes_weights: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", budget.check_keep(self.keep))

    @property
    def assignment(self) -> Metric:
        """The metric in which tokens go to their nearest kept one (masses, merging)."""
        return "cosine"

    @abstractmethod
    def _pick(self, tokens: Tensor, k: int, weights: Tensor | None) -> Tensor:
        """Indices in the order they were picked, `(B, k)` int64.

        Args:
            tokens: `(B, m, d)` float32, finite.
            k: 1 <= k < m.
            weights: `(B, m)` float32 of mean 1, or None.
        """

    def count(self, m: int) -> int:
        """Number of tokens kept of `m`; see `otprune.count`."""
        return budget.count(self.keep, m)

    def select(self, tokens: Any, weights: Any = None) -> Tensor:
        """Indices of the tokens to keep, strictly ascending, int64, on the tokens' device.

        Args:
            tokens: `(m, d)` or `(B, m, d)`, any floating dtype; numpy arrays too.
            weights: how much each token counts in the full set, non-negative, shape
                `tokens.shape[:-1]`; only their ratios matter. None counts all alike.

        Returns:
            `(k,)` or `(B, k)` with `k = count(m)`; a batch gives what its rows give one by one.

        Raises:
            TokenError: the tokens are not a finite floating array of that shape.
            WeightError: the weights do not fit, or the method has no meaning for weights.
        """
        tokens = check_tokens(tokens)
        indices = self._select(_batched(tokens), self._weights(tokens, weights))
        return indices if tokens.ndim == 3 else indices[0]

    def reduce(self, tokens: Any, merge: bool = False, weights: Any = None) -> Reduction:
        """The kept tokens with their masses, merged with what they stand for if asked.

        Every token belongs to its nearest kept one in the metric `assignment`; a kept token to
        itself. With `merge`, a kept token's feature becomes the mass-weighted mean of the tokens
        that belong to it (the barycentric projection of the free-mass transport plan), computed
        in float32 from the features as given; without, features are the kept rows untouched.
        Gradients flow into the features. Arguments and errors as for `select`.
        """
        tokens = check_tokens(tokens)
        batch, w = _batched(tokens), self._weights(tokens, weights)
        indices = self._select(batch, w)
        plan = self._plan(batch, indices, w)
        masses = plan.sum(dim=-1)
        features = batch.gather(1, indices.unsqueeze(-1).expand(-1, -1, batch.shape[-1]))
        if merge:
            # A kept token whose group weighs nothing keeps its feature.
            share = plan / torch.where(masses > 0, masses, 1.0).unsqueeze(-1)
            with torch.autocast(tokens.device.type, enabled=False):
                merged = (share @ batch.float()).to(tokens.dtype)
            features = torch.where((masses > 0).unsqueeze(-1), merged, features)
        if tokens.ndim == 2:
            return Reduction(indices[0], masses[0], features[0])
        return Reduction(indices, masses, features)

    def _weights(self, tokens: Tensor, weights: Any) -> Tensor | None:
        if weights is None:
            return None
        if not self.takes_weights:
            able = sorted(c.__name__ for c in Selector.__subclasses__() if c.takes_weights)
            raise WeightError(
                f"{type(self).__name__} has no meaning for weights: "
                f"leave them out, or use {', '.join(able)}"
            )
        checked = check_weights(weights, tokens)
        return checked if tokens.ndim == 3 else checked.unsqueeze(0)

    @torch.no_grad()
    def _select(self, tokens: Tensor, weights: Tensor | None) -> Tensor:
        return self._order(tokens, weights).sort(dim=-1).values

    def _order(self, tokens: Tensor, weights: Tensor | None) -> Tensor:
        batch, m, _ = tokens.shape
        k = self.count(m)
        if k == m:
            return torch.arange(m, device=tokens.device).expand(batch, m)
        # Under a caller's autocast, matrix products would silently run in half precision.
        with torch.autocast(tokens.device.type, enabled=False):
            return self._pick(tokens.float(), k, weights)

    @torch.no_grad()
    def _plan(self, tokens: Tensor, indices: Tensor, weights: Tensor | None) -> Tensor:
        batch, m, _ = tokens.shape
        x = tokens.float()
        mass = x.new_full((batch, m), 1 / m) if weights is None else weights / m
        with torch.autocast(tokens.device.type, enabled=False):
            points = transport.embed(x, self.assignment)
            assignment = transport.assign(points, indices)
        return transport.plan(assignment, mass, indices.shape[-1])


def _batched(tokens: Tensor) -> Tensor:
    return tokens if tokens.ndim == 3 else tokens.unsqueeze(0)
