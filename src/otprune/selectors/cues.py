"""Additional information about tokens that a method may use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from otprune.checks import check_cue

Cue = Literal["weights", "saliency", "keys", "encoded", "question", "grid"]
CUES: tuple[Cue, ...] = get_args(Cue)


@dataclass(frozen=True, eq=False)
class Cues:
    """What is known about a set of m tokens besides their features; None where it is not known.

    `Selector.uses` names the fields that a method uses, `Selector.needs` those that it requires.
    The engine for transformers fills them. By hand they are given beside the tokens:

        otprune.FasterVLM(0.1).select(tokens, cues=otprune.Cues(saliency=attention))

    Arrays of any floating dtype (`grid`: any integer dtype), numpy arrays too. Shapes are those for
    one set `(m, d)`; a batch `(B, m, d)` has B in front of each. `pick` gets tensors on the tokens'
    device, always with B in front, in float32 (`grid` in int64).

    Attributes:
        weights: `(m,)` non-negative: how much each token counts in the full set. Only ratios
            matter; `pick` gets weights of mean 1.
        saliency: `(m,)` non-negative: the attention that each token gets in the vision encoder, in
            the layer that produced the features. Mean over the heads, of the class token's row; of
            the mean over all queries in encoders without a class token.
        keys: `(m, heads, c)` the keys of that layer.
        encoded: `(m, e)` the encoder's features before the projector.
        question: `(n, d)` the text tokens of the question, embedded by the language model in the
            space of the tokens; n may be 0.
        grid: `(m, 3)` tile (or frame), row and column of each token; -1 for tokens that the model
            adds, such as anyres newlines.
    """

    weights: Any = None
    saliency: Any = None
    keys: Any = None
    encoded: Any = None
    question: Any = None
    grid: Any = None

    @property
    def given(self) -> tuple[Any, ...]:
        """The fields in the order of `CUES`."""
        return tuple(getattr(self, name) for name in CUES)

    @property
    def names(self) -> frozenset[Cue]:
        """Names of the fields that are not None."""
        return frozenset(name for name in CUES if getattr(self, name) is not None)

    def only(self, names: Collection[str]) -> Cues:
        """The same without all other fields."""
        return Cues(**{name: getattr(self, name) for name in self.names if name in names})

    def each(self, change: Callable[[Tensor], Tensor]) -> Cues:
        """`change` applied to each field that is not None."""
        return Cues(*(None if x is None else change(x) for x in self.given))

    def checked(self, tokens: Tensor) -> Cues:
        """The fields as tensors `(B, ...)` that `pick` gets, for tokens `(m, d)` or `(B, m, d)`.

        Raises:
            CueError: a field does not fit the tokens, or is not finite; says which and why.
            WeightError: the same for weights.
        """
        made = {name: check_cue(name, getattr(self, name), tokens) for name in self.names}
        cues = Cues(**made)
        return cues if tokens.ndim == 3 else cues.each(lambda x: x.unsqueeze(0))

    @staticmethod
    def joined(several: Sequence[Cues]) -> Cues:
        """Several cues with the same fields, concatenated along B."""
        fields = zip(*(cues.given for cues in several), strict=True)
        return Cues(*(_cat([x for x in field if x is not None]) for field in fields))


def _cat(parts: list[Tensor]) -> Tensor | None:
    return torch.cat(parts) if parts else None
