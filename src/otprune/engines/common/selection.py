"""Asking a selector, checking what it says, and sharing out the time that it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from otprune.selectors import Cues, Reduction, Selector
from otprune.selectors.picks import check_kept

A = TypeVar("A")

NOTHING = Cues()  # known of the tokens


@dataclass(frozen=True)
class Choice:
    """What a selector made of one set of tokens.

    seconds: its share of the time that the selection took.
    """

    made: Reduction
    seconds: float


def reduce_checked(
    selector: Selector, tokens: Tensor, merge: bool, cues: Cues = NOTHING
) -> Reduction:
    """`selector.reduce` of `(m, d)`, or of sets of one size `(B, m, d)`, its indices checked.

    Raises:
        SelectorError: the indices are not strictly ascending places of a set.
    """
    made = selector.reduce(tokens, merge=merge, **_given(cues, cues.names))
    check_kept(type(selector), made.indices, tokens.shape[-2])
    return made


def reduce_each_checked(
    selector: Selector, sets: Sequence[Tensor], merge: bool, cues: Sequence[Cues] = ()
) -> list[Reduction]:
    """`selector.reduce_each` of sets `(m_i, d)`, likewise."""
    known = any(one.names for one in cues)
    made = selector.reduce_each(sets, merge=merge, **_given(list(cues), known))
    for one, tokens in zip(made, sets, strict=True):
        check_kept(type(selector), one.indices, len(tokens))
    return made


def timed(task: Callable[[], list[Reduction]], device: torch.device) -> list[Choice]:
    """What a task makes of several sets; the time that it takes is shared out evenly."""
    made, seconds = timed_call(task, device)
    share = seconds / max(len(made), 1)
    return [Choice(one, share) for one in made]


def timed_call(task: Callable[[], A], device: torch.device) -> tuple[A, float]:
    """The result of a task, and the seconds that it took."""
    _wait(device)
    start = time.perf_counter()
    made = task()
    _wait(device)
    return made, time.perf_counter() - start


def _given(cues: Any, known: Any) -> dict[str, Any]:
    """An object that reduces as a selector does need not know of cues to do without them."""
    return {"cues": cues} if known else {}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
