"""How a call is pruned, as one value: what `prune`, `enable` and a single call are told."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Literal, get_args

from otprune.engines.transformers.positions import Positions, check_positions
from otprune.engines.transformers.versions import Untested, check_tested
from otprune.errors import OTPruneError
from otprune.measures.mass import Mass, check_alpha, check_mass
from otprune.selectors import Selector, check_selector
from otprune.selectors.gate import check_cues

Logits = Literal["short", "full"]


@dataclass(frozen=True)
class Settings:
    """How visual tokens are pruned; checked when it is made.

    Attributes:
        selector: any selector of `otprune.selectors`.
        positions: "preserved" (kept tokens stay where they were) or "compact" (counted anew).
        merge: kept tokens become the mean of the tokens that they stand for.
        mass: what a kept token weighs in the language model's attention, in every layer, for the
            prompt and for each step after it: "none" (as one token), "total" (as m / k, so that
            the image as a whole keeps its share) or "token" (as the tokens that it stands for).
            A token of weight n counts as n copies of itself at its position would that see each
            other. Needs sdpa, eager, flex or flash attention, and no other layers.
        alpha: strength of the mass; the logarithm of the weight is multiplied by it.
        logits: what `model(...)` returns: "short", those of the shortened prompt (`Run.columns`
            says which column of the prompt each belongs to), or "full", one for every column of
            the caller's prompt. A dropped column then has the logits of the last kept column in
            front of it, from which the next text token is predicted; so losses and metrics whose
            labels leave placeholders out (-100) are what unpruned code expects. Columns of padding
            in front are 0.
        untested_transformers: what to do with a transformers newer than those that were tested,
            "refuse" or "prune" all the same.

    Raises:
        UnsupportedError: transformers is newer, and that is refused.
        OTPruneError: an argument is wrong; says which, and what was expected.
    """

    selector: Selector
    positions: Positions = "preserved"
    merge: bool = False
    mass: Mass = "none"
    alpha: float = 1.0
    logits: Logits = "short"
    untested_transformers: Untested = "refuse"

    def __post_init__(self) -> None:
        # Any object that reduces as a selector does will do.
        if inspect.isclass(self.selector) or not callable(getattr(self.selector, "reduce", None)):
            check_selector(self.selector)
        check_cues(self.selector, [], "by the engine for transformers")
        check_positions(self.positions)
        check_mass(self.mass)
        check_alpha(self.alpha)
        if not isinstance(self.merge, bool):
            raise OTPruneError(f"merge={self.merge!r}: expected True or False")
        if self.logits not in get_args(Logits):
            raise OTPruneError(f"logits={self.logits!r}: expected 'short' or 'full'")
        check_tested(self.untested_transformers)

    @property
    def weighs(self) -> bool:
        """Whether kept tokens weigh more than one in attention."""
        return self.mass != "none" and self.alpha != 0
