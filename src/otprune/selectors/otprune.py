"""The published method: greedy log-determinant on the second moments."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from otprune.checks import check_finite
from otprune.errors import OTPruneError
from otprune.greedy import logdet as search
from otprune.greedy import ties
from otprune.measures import logdet
from otprune.measures.certificate import Certificate
from otprune.numerics.arrays import as_array, host_readable
from otprune.selectors import batches
from otprune.selectors.base import Selector
from otprune.selectors.batches import Batch
from otprune.selectors.cues import Cue, Cues

# Beyond this gamma * S S^T leaves the range of float32 at the widest models.
_LARGEST_GAMMA = 1e18
_RANK = 256

Backend = Literal["torch", "triton"]


@dataclass(frozen=True)
class OTPrune(Selector):
    """Keeps the tokens of largest `logdet(I + gamma * V_C Sigma V_C^T)`, greedily.

    The objective of OTPrune (arXiv 2602.20205, its log-determinant surrogate of the Gaussian
    2-Wasserstein distance) on tokens with columns at unit length; within 1 - 1/e of the best set.
    Weights enter `Sigma = V^T diag(w) V` and the columns' lengths.

    Attributes:
        gamma: a positive number, used as it is (the paper's is 0.01), or "scaled" for
            `0.01 * (4096^2 / 576) * m / d^2`, which is the paper's value at the paper's sizes.
            From about 1e6 on, float32 costs a part in a thousand of the value or less.
        rank: None for the exact method. A number of features r that the tokens are projected to,
            at random and always alike, before they are chosen from, or "auto" for 256: then time
            is O(m d + m r^2 + m k (r + k)) and memory beside the tokens O(m (r + k)). From the
            number of features on, exact again. What `explain` says of the choice, value, bound and
            certificate, is of the exact objective: a bound holds for any choice, however made.
        backend: how the search runs; what is kept is the same. "torch", or "triton" for one launch
            of a program that goes through all picks, on a CUDA or ROCm device. Meant
            for many sets of some hundred tokens. Needs `pip install 'otprune[triton]'`.

    Departures from the published code: ascending order; float32 whatever the input; any batch;
    at least one token; a zero column stays zero instead of becoming NaN.
    """

    gamma: float | Literal["scaled"] = "scaled"
    rank: int | Literal["auto"] | None = None
    backend: Backend = "torch"

    name: ClassVar[str] = "otprune"
    summary: ClassVar[str] = "the published method: greedy log-determinant of second moments"
    nested: ClassVar[bool] = True
    uses: ClassVar[frozenset[Cue]] = frozenset({"weights"})
    certifies: ClassVar[bool] = True
    checks_finite: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backend not in get_args(Backend):
            raise OTPruneError(f'backend={self.backend!r}: expected "torch" or "triton"')
        rank: object = self.rank
        if not (rank is None or rank == "auto"):
            if isinstance(rank, bool) or not isinstance(rank, Integral) or rank < 1:
                raise OTPruneError(
                    f'rank is {rank!r}: expected None, "auto", or a whole number of features >= 1'
                )
            object.__setattr__(self, "rank", int(rank))
        gamma: object = self.gamma
        if gamma == "scaled":
            return
        if isinstance(gamma, bool) or not isinstance(gamma, Real):
            raise OTPruneError(f'gamma is {gamma!r}: expected "scaled" or a positive number')
        number = float(gamma)
        if not 0 < number <= _LARGEST_GAMMA:  # NaN too
            raise OTPruneError(
                f"gamma={number} is outside (0, {_LARGEST_GAMMA:g}]: "
                'use the paper\'s 0.01, or "scaled", which fits any size'
            )
        object.__setattr__(self, "gamma", number)

    def gamma_for(self, m: int, d: int) -> float:
        """The number that gamma is for m tokens of d features."""
        return logdet.scaled_gamma(m, d) if self.gamma == "scaled" else float(self.gamma)

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        return self._greedy(tokens, k, cues.weights, self.gamma_for(*tokens.shape[-2:]))

    def _greedy(
        self,
        tokens: Tensor,
        k: int,
        weights: Tensor | None,
        gamma: float | Tensor,
        *lengths_counts: Tensor,
    ) -> Tensor:
        rank = _RANK if self.rank == "auto" else self.rank
        K, norms = logdet.kernel_norms(tokens, gamma, weights, rank)
        # Says as much as all tokens would, and there are fewer numbers to read.
        if host_readable(norms) and not np.isfinite(as_array(norms)).all():
            check_finite(tokens)
        preference = ties.preference(norms)
        if self.backend == "triton":
            from otprune.greedy.logdet import triton_kernel  # which imports Triton

            return triton_kernel.greedy(K, k, preference, 1.0, *lengths_counts)
        return search.greedy(K, k, preference, shift=1.0)

    def _orders_at_fixed_keep(self, sets: Sequence[Batch]) -> list[Tensor]:
        """Off the CPU sets of different sizes are padded and picked from together, since there the
        number of launches decides; on a CPU large sets would only wait for each other.
        """
        if all(one.tokens.is_cpu for one in sets):
            return super()._orders_at_fixed_keep(sets)

        def key(one: Batch) -> Hashable:
            """Equal for sets of at most twice another's size, those kept whole apart."""
            m = one.tokens.shape[1]
            return batches.pad_key(one), m.bit_length(), self.count(m) == m

        return batches.in_groups(
            map(key, sets), lambda places: self._order_padded([sets[i] for i in places])
        )

    @torch.no_grad()
    def _order_padded(self, sets: Sequence[Batch]) -> list[Tensor]:
        """The picks of each set, all padded with zero tokens to one size.

        A zero token has no part in the objective and gains nothing, so none is picked before all
        of its set's own; and the first k picks are those of any longer run.
        """
        device = sets[0].tokens.device
        sizes = [one.tokens.shape[1] for one in sets]
        counts = [self.count(m) for m in sizes]
        if counts == sizes:
            return [torch.arange(m, device=device) for m in sizes]
        tokens, weights = batches.padded(sets)
        gamma, *lengths_counts = (
            torch.tensor(numbers).to(device, non_blocking=True)
            for numbers in ([self.gamma_for(m, tokens.shape[-1]) for m in sizes], sizes, counts)
        )
        with torch.autocast(device.type, enabled=False):
            order = self._greedy(tokens.float(), max(counts), weights, gamma, *lengths_counts)
        return [row[:k] for row, k in zip(order, counts, strict=True)]

    def _certify(self, tokens: Tensor, order: Tensor, weights: Tensor | None) -> Certificate:
        w = None if weights is None else weights.unsqueeze(0)
        gamma = self.gamma_for(*tokens.shape)
        return logdet.certify(logdet.kernel(tokens.unsqueeze(0), gamma, w), order)
