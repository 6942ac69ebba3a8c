"""Calls of functions that a caller passes, from inside a pruned call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch

from otprune.errors import CueError, UnsupportedError, WeightError

if TYPE_CHECKING:
    from otprune.engines.transformers.encoded import VisualTokens

_ASKING: ContextVar[bool] = ContextVar("otprune_asking", default=False)


def asked(
    function: Callable[[list[VisualTokens]], Iterable[Any]], images: list[VisualTokens], name: str
) -> list[Any]:
    """What a caller's function returns for the images of a call, one entry each.

    Args:
        images: in prompt order; the function may change them.
        name: of the argument, for messages.

    Raises:
        UnsupportedError: the function makes a pruned call that asks such a function itself.
        CueError: it does not return one entry an image; WeightError of weights.
    """
    if _ASKING.get():
        raise UnsupportedError(
            f"{name}= called a model that is pruned with {name}=, which would call it again "
            "without end: pass otprune=None in that call"
        )
    number = len(images)
    error = WeightError if name == "weights" else CueError
    token = _ASKING.set(True)
    try:
        with torch.no_grad():
            made: Any = function(images)
    finally:
        _ASKING.reset(token)
    try:
        each = list(made)
    except TypeError:
        raise error(
            f"{name}(images) returned a {type(made).__name__}: expected a list with one entry for "
            f"each of {number} images"
        ) from None
    if len(each) != number:
        raise error(
            f"{name}(images) returned {len(each)} entries for {number} images: expected one an "
            "image, None where nothing is to be said of one"
        )
    return each
