"""Greedy volume of the simplex of kept tokens, with dominating features damped."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import torch
from torch import Tensor

from otprune.errors import OTPruneError
from otprune.greedy import logdet, ties
from otprune.numerics.lowrank import LowRank
from otprune.numerics.normalize import damped_columns, norms, unit_rows
from otprune.selectors.attending import Attending
from otprune.selectors.cues import Cues
from otprune.selectors.dpp import JITTER


@dataclass(frozen=True)
class SimplexPrune(Attending):
    """Greedily maximises `logdet(X_C X_C^T + 1 1^T + jitter * I)`, X being directions of tokens.

    Without the ones this is `DPPPrune`: with the kept directions as corners and the origin as one
    more, the determinant is `(k! volume)^2` of that simplex of k + 1 corners. The ones, in effect a
    constant feature, add `((k - 1)! volume)^2` of the simplex of the k kept directions alone (by
    the Cauchy-Binet formula), so that they need to differ from each other, not from the origin.

    Features of real encoders can dominate the directions of all tokens ("massive activations").
    Therefore a column longer than `damping` times the median column is scaled down to that length,
    before tokens are brought to unit length. Tokens without such columns are not changed.

    Deterministic; ours (no paper). Where it wins and loses: docs/methods.md.

    Attributes:
        question, saliency: as for `DPPPrune`.
        damping: a positive number; `inf` for no damping.
    """

    damping: float = 2.0

    name: ClassVar[str] = "simplex"
    summary: ClassVar[str] = "greedy simplex volume of directions, dominating features damped"
    nested: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        damping: object = self.damping
        if isinstance(damping, bool) or not isinstance(damping, Real) or not float(damping) > 0:
            raise OTPruneError(f"damping={damping!r}: expected a positive number, such as 2.0")
        object.__setattr__(self, "damping", float(damping))

    def pick(self, tokens: Tensor, k: int, cues: Cues) -> Tensor:
        x = unit_rows(damped_columns(tokens, self.damping))
        # A zero token has no direction: without the constant it is never picked before others.
        constant = (x != 0).any(dim=-1, keepdim=True)
        x = torch.cat([x, constant.to(x.dtype)], dim=-1)
        mass = self.mass(tokens, cues)
        if mass is not None:
            x *= mass.sqrt().unsqueeze(-1)
        return logdet.greedy(LowRank(x, x), k, ties.preference(norms(tokens)), shift=JITTER)
