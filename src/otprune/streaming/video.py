"""One budget over all frames of a video."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from otprune.checks import check_tokens
from otprune.errors import KeepError, TokenError
from otprune.greedy import threshold
from otprune.keep import Budget, count
from otprune.numerics import threads
from otprune.numerics.normalize import norms, unit_rows
from otprune.streaming.novelty import NOISE


def select_video(
    frames: Tensor | Sequence[Any], budget: float | int | Budget, floor: int = 0
) -> list[Tensor]:
    """Indices of the tokens to keep of every frame: `(k_t,)` each, ascending, int64.

    Frames share the budget by how much each token adds to those already kept: a still scene
    gets hardly any after its first frame, a cut or a new object many. The objective is
    `logdet(I + X_C X_C^T / NOISE)` on tokens at unit length (`otprune.streaming.novelty` says
    where that departs from OTPrune, and why), the search greedy by falling thresholds, within
    1 - 1/e - 0.1 of the best set. Among tokens of equal gain those of earlier frames win.

    For the published objective over all frames at once, without a floor:
    `OTPrune(budget).select(tokens_of_all_frames)`.

    Args:
        frames: `(T, m, d)`, or T arrays `(m_t, d)`; any floating dtype, computed in float32.
        budget: over all frames, as `keep` everywhere: a ratio of all tokens, or a number. It is
            used up: `count(budget, number of tokens)` are kept. A `Budget` gives its total and its
            floor; it is spent as said above, not by `Budget`'s own measure.
        floor: the least number kept of every frame (all tokens of a frame that has fewer).

    Raises:
        TokenError: the frames are not finite floating arrays of those shapes.
        KeepError: the budget is neither ratio nor number nor `Budget`, there are two floors, or
            the floors need more than it.
    """
    tokens = check_frames(frames)
    sizes = [len(x) for x in tokens]
    if isinstance(budget, Budget):
        if floor:
            raise KeepError(f"floor={floor} beside {budget}, which has one: give it there")
        floor, budget = budget.floor, budget.total
    k = count(budget, sum(sizes))
    if isinstance(floor, bool) or not isinstance(floor, Integral) or floor < 0:
        raise KeepError(f"floor={floor!r}: expected a number of tokens a frame, 0 or more")
    floors = sum(min(int(floor), m) for m in sizes)
    if floors > k:
        raise KeepError(
            f"floor={floor} takes {floors} tokens of {len(sizes)} frames, the budget is {k}: "
            "lower the floor or raise the budget"
        )
    if k == sum(sizes):
        return [torch.arange(m, device=x.device) for m, x in zip(sizes, tokens, strict=True)]
    device = tokens[0].device.type
    with threads.single(), torch.no_grad(), torch.autocast(device, enabled=False):
        batches = [x.float().unsqueeze(0) for x in tokens]
        points = [unit_rows(x)[0] for x in batches]
        return threshold.greedy(points, [norms(x)[0] for x in batches], k, int(floor), NOISE)


def check_frames(frames: Any) -> list[Tensor]:
    """The frames of a video, `(m_t, d)` each, as they are.

    Raises:
        TokenError: they are not finite floating arrays `(T, m, d)`, or T arrays `(m_t, d)`.
    """
    if isinstance(frames, Sequence):
        tokens = [check_tokens(frame) for frame in frames]
    else:
        whole = check_tokens(frames)
        tokens = list(whole) if whole.ndim == 3 else [whole]
    shapes = [tuple(x.shape) for x in tokens]
    if not tokens or any(x.ndim != 2 for x in tokens) or len({d for _, d in shapes}) > 1:
        raise TokenError(
            f"frames have shapes {shapes[:4]}: expected (T, m, d), or at least one array (m, d), "
            "all with the same d"
        )
    return tokens
