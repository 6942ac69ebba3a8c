"""What methods share that can attend to a part of an image more than to the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Real

from torch import Tensor

from otprune.errors import OTPruneError
from otprune.measures.relevance import relevance
from otprune.selectors.base import Selector
from otprune.selectors.cues import Cue, Cues

_SHARES: tuple[Cue, ...] = ("question", "saliency")


@dataclass(frozen=True)
class Attending(Selector):
    """A method for which some tokens of the full set may count more than others.

    `mass` is what counts: `(1 - question - saliency) w + question r + saliency a`, with the
    caller's weights w (or 1), the relevance r of each token to the question
    (`measures.relevance`), and its saliency a, each of mean 1.

    Attributes:
        question: share of the mass that the question has, from 0 (it is not heard, and not needed)
            to 1 (nothing else counts).
        saliency: share that the attention of the vision encoder has, likewise.
    """

    question: float = field(default=0.0, kw_only=True)
    saliency: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _SHARES:
            share = getattr(self, name)
            if isinstance(share, bool) or not isinstance(share, Real) or not 0 <= float(share) <= 1:
                raise OTPruneError(f"{name}={share!r}: expected a share from 0 to 1, such as 0.8")
            object.__setattr__(self, name, float(share))
        if self.question + self.saliency > 1:
            raise OTPruneError(
                f"question={self.question:g} and saliency={self.saliency:g} are shares of one "
                "whole: their sum must not exceed 1"
            )
        asked = frozenset(name for name in _SHARES if getattr(self, name))
        for attribute in ("uses", "needs"):
            object.__setattr__(self, attribute, getattr(type(self), attribute) | asked)

    def mass(self, tokens: Tensor, cues: Cues) -> Tensor | None:
        """How much each token counts, `(B, m)` of mean 1, or None if all count the same.

        Args:
            tokens: `(B, m, d)`, of which the relevance to the question is computed.
        """
        if not self.question and not self.saliency:
            found: Tensor | None = cues.weights
            return found
        base = tokens.new_ones(tokens.shape[:2]) if cues.weights is None else cues.weights
        # 1 - 0.9 - 0.1 is negative.
        made = max(0.0, 1 - self.question - self.saliency) * base
        if self.question:
            made = made + self.question * relevance(tokens, cues.question)
        if self.saliency:
            mean = cues.saliency.mean(dim=-1, keepdim=True)
            # An encoder that attends to nothing here tells nothing.
            made = made + self.saliency * (cues.saliency / mean).where(mean > 0, base)
        return made

    def mass_or_ones(self, tokens: Tensor, cues: Cues) -> Tensor:
        """`mass`, with ones instead of None."""
        mass = self.mass(tokens, cues)
        return tokens.new_ones(tokens.shape[:2]) if mass is None else mass
