"""How a call is pruned, as one value: what `prune`, `enable` and a single call are told."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from otprune.engines.transformers.encoded import VisualTokens
from otprune.engines.transformers.positions import Positions, check_positions
from otprune.engines.transformers.versions import Untested, check_tested
from otprune.errors import OTPruneError
from otprune.measures.mass import Mass, check_alpha, check_mass
from otprune.selectors import Selector, check_selector
from otprune.selectors.cues import Cue
from otprune.selectors.gate import check_cues

Logits = Literal["short", "full"]
# From the images of a call to one array of weights, or None, for each; see `Settings.weights`.
Weigh = Callable[[list[VisualTokens]], Iterable[Any]]


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
        weights: how much each visual token counts in the full set, for selectors that use weights:
            a function that gets what `visual_tokens` returns for the call, and returns a list with,
            for each image and video in that order, `(m,)` non-negative numbers (tensor, array or
            list; only their ratios matter), or None, which counts its tokens alike. It is called
            once for every call with images, without gradient. What is kept is what
            `selector.reduce(tokens, weights=...)` keeps. None: all tokens count alike.

    Raises:
        UnsupportedError: transformers is newer, and that is refused; or the selector needs a cue
            that this engine does not provide.
        WeightError: weights for a selector that has no meaning for them, or none for one that needs
            them.
        OTPruneError: an argument is wrong; says which, and what was expected.
    """

    selector: Selector
    positions: Positions = "preserved"
    merge: bool = False
    mass: Mass = "none"
    alpha: float = 1.0
    logits: Logits = "short"
    untested_transformers: Untested = "refuse"
    weights: Weigh | None = None

    def __post_init__(self) -> None:
        # Any object that reduces as a selector does will do.
        if inspect.isclass(self.selector) or not callable(getattr(self.selector, "reduce", None)):
            check_selector(self.selector)
        if not (self.weights is None or callable(self.weights)):
            raise OTPruneError(
                f"weights is a {type(self.weights).__name__}: expected a function of the call's "
                "images, such as weights=lambda images: [one array for each of them]"
            )
        given: list[Cue] = [] if self.weights is None else ["weights"]
        check_cues(self.selector, given, "by the engine for transformers")
        check_positions(self.positions)
        check_mass(self.mass)
        check_alpha(self.alpha)
        if not isinstance(self.merge, bool):
            raise OTPruneError(f"merge={self.merge!r}: expected True or False")
        if self.logits not in get_args(Logits):
            raise OTPruneError(f"logits={self.logits!r}: expected 'short' or 'full'")
        check_tested(self.untested_transformers)

    @property
    def has_mass(self) -> bool:
        """Whether kept tokens weigh more than one in attention."""
        return self.mass != "none" and self.alpha != 0
