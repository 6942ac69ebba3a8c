"""Asking the selector, once for all pictures where it can be."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from otprune.errors import OTPruneError

if TYPE_CHECKING:
    from otprune.selectors import Reduction, Selector


@dataclass(frozen=True)
class Choice:
    """What a selector made of one picture, and how long it took."""

    made: Reduction
    seconds: float


def choose(selector: Selector, pictures: list[Tensor], merge: bool) -> list[Choice]:
    """Reduce each picture's tokens, `(m, d)`, in one batch if all are of one size.

    Which tokens are kept takes no part in the gradient; their features keep theirs.

    Raises:
        OTPruneError: the selector's indices are not strictly ascending.
    """
    if len(pictures) > 1 and len({x.shape for x in pictures}) == 1:
        made, seconds = _timed(selector, torch.stack(pictures), merge)
        choices = [Choice(row, seconds / len(pictures)) for row in made.unbind()]
    else:
        choices = []
        for tokens in pictures:
            made, seconds = _timed(selector, tokens, merge)
            choices.append(Choice(made, seconds))
    for choice in choices:
        if not bool((choice.made.indices.diff() > 0).all()):
            raise OTPruneError(
                f"{type(selector).__name__} returned indices that are not strictly ascending: "
                "a selector must"
            )
    return choices


def _timed(selector: Selector, tokens: Tensor, merge: bool) -> tuple[Reduction, float]:
    if tokens.is_cuda:
        torch.cuda.synchronize(tokens.device)
    start = time.perf_counter()
    reduction = selector.reduce(tokens, merge=merge)
    if tokens.is_cuda:
        torch.cuda.synchronize(tokens.device)
    return reduction, time.perf_counter() - start
