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
from otprune.selectors.attending import Attending
from otprune.selectors.batches import Batch
from otprune.selectors.cues import Cue, Cues

# Beyond this gamma * S S^T leaves the range of float32 at the widest models.
_LARGEST_GAMMA = 1e18
_RANK = 256

Backend = Literal["torch", "triton"]


@dataclass(frozen=True)
class OTPrune(Attending):
    """Greedily maximises `logdet(I + gamma * V_C Sigma V_C^T)` over the kept tokens C.

    This is the objective of OTPrune (arXiv 2602.20205), its log-determinant surrogate of the
    Gaussian 2-Wasserstein distance, on tokens V whose columns are scaled to unit length. The greedy
    value is at least 1 - 1/e of the best. Weights enter `Sigma = V^T diag(w) V` and the columns'
    lengths.

    Attributes:
        question, saliency: see `Attending`; what they count is a weight.
        gamma: a positive number (0.01 in the paper), or "scaled" for
            `0.01 * (4096^2 / 576) * m / d^2`, which equals the paper's value at the paper's sizes.
            From about 1e6 on, rounding in float32 loses up to a thousandth of the value.
        rank: None for the exact method. A number of features r to which the tokens are first
            projected, at random with a fixed seed, or "auto" for 256. Time is then
            O(m d + m r^2 + m k (r + k)), memory in addition to the tokens O(m (r + k)). With r >= d
            the method is exact. `explain` always gives value, bound and certificate of the exact
            objective; the bound is valid for any choice.
        backend: how the search runs; the kept tokens are the same. "torch", or "triton" for a
            single kernel that makes all picks, on a CUDA or ROCm device. Meant for many sets of a
            few hundred tokens. Needs `pip install 'otprune[triton]'`.

    Differences from the published code: indices are ascending; computation is in float32 whatever
    the input; batches of any size; at least one token is kept; a zero column stays zero instead of
    becoming NaN.
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
        """The value of gamma for m tokens of d features."""
        return logdet.scaled_gamma(m, d) if self.gamma == "scaled" else float(self.gamma)

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        mass = self.mass(tokens, cues)
        return self._greedy(tokens, k, mass, self.gamma_for(*tokens.shape[-2:]))

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
        # A token that is not finite has such a norm too, and there are fewer numbers to read.
        if host_readable(norms) and not np.isfinite(as_array(norms)).all():
            check_finite(tokens)
        preference = ties.preference(norms)
        if self.backend == "triton":
            from otprune.greedy.logdet import triton_kernel  # which imports Triton

            return triton_kernel.greedy(K, k, preference, 1.0, *lengths_counts)
        return search.greedy(K, k, preference, shift=1.0)

    def _orders_at_fixed_keep(self, sets: Sequence[Batch]) -> list[Tensor]:
        """Except on a CPU, pad sets of different sizes and process them together.

        On a GPU the number of kernel launches dominates the time. On a CPU padding gains nothing.
        """
        if all(one.tokens.is_cpu for one in sets) or self.needs:
            return super()._orders_at_fixed_keep(sets)

        def key(one: Batch) -> Hashable:
            """Equal for sets whose sizes differ by less than a factor of 2; kept whole or not."""
            m = one.tokens.shape[1]
            return batches.pad_key(one), m.bit_length(), self.count(m) == m

        return batches.in_groups(
            map(key, sets), lambda places: self._order_padded([sets[i] for i in places])
        )

    @torch.no_grad()
    def _order_padded(self, sets: Sequence[Batch]) -> list[Tensor]:
        """The picks of each set, after padding all to one size with zero tokens.

        A zero token does not change the objective and has no gain, so it is never picked before a
        set's own tokens. The first k picks of a longer run are those of a run for k.
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

    def _certify(self, tokens: Tensor, order: Tensor, cues: Cues) -> Certificate:
        gamma = self.gamma_for(*tokens.shape[-2:])
        return logdet.certify(logdet.kernel(tokens, gamma, self.mass(tokens, cues)), order)
