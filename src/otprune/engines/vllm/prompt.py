"""Placeholders and positions of a pruned prompt: pure functions, no vLLM in sight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BASE = 128  # whole numbers to 256 are exact in bfloat16
DIGITS = 2
UNKNOWN = -1


def shorten(ids: Sequence[int], is_token: Sequence[bool], k: int) -> list[int]:
    """A picture's part of the prompt with `k` of its placeholders; what is text in it stays.

    Args:
        ids: ids that stand for the picture, m placeholders among them.
        is_token: which of them are placeholders.
        k: 1 <= k <= m.
    """
    left = k
    kept = []
    for token, own in zip(ids, is_token, strict=True):
        if own:
            left -= 1
        if not own or left >= 0:
            kept.append(token)
    return kept


@dataclass(frozen=True)
class Place:
    """Where a pruned picture stands in the shortened prompt: one run of `k` of its `m` tokens."""

    offset: int
    k: int
    m: int


def full_prompt(ids: Sequence[int], places: Sequence[Place]) -> tuple[list[int], Tensor]:
    """The prompt as it was before pruning, and the column there of each token of the shortened one.

    Which tokens of a picture were kept is not known yet: its last k columns stand for them, so that
    what follows the picture is placed rightly even if that is nothing yet.

    Args:
        ids: `(n,)` ids of the shortened prompt.
        places: pruned pictures, in prompt order.

    Returns:
        `(N,)` ids and `(n,)` int64 columns.
    """
    full: list[int] = []
    columns: list[Tensor] = []
    start = 0
    for place in places:
        columns.append(torch.arange(len(full), len(full) + place.offset - start))
        full += [*ids[start : place.offset], *[ids[place.offset]] * place.m]
        columns.append(torch.arange(len(full) - place.k, len(full)))
        start = place.offset + place.k
    columns.append(torch.arange(len(full), len(full) + len(ids) - start))
    full += ids[start:]
    return full, torch.cat(columns)


def shifted(offset: int, places: Sequence[Place]) -> int:
    """Column in the full prompt of a column that no pruned picture before it covers."""
    return offset + sum(place.m - place.k for place in places if place.offset < offset)


def with_offsets(features: Tensor, indices: Tensor | None, width: int) -> Tensor:
    """Features `(k, d)` with four columns more: row and column of each token in its picture's grid.

    Each number is written in two digits of base 128, which survive bfloat16.

    Args:
        features: of the kept tokens, or of a whole item.
        indices: `(k,)` places in the grid, row by row; None marks tokens whose position is known.
        width: columns of the grid.
    """
    if indices is None:
        return torch.cat([features, features.new_full((len(features), 2 * DIGITS), UNKNOWN)], 1)
    row, column = indices // width, indices % width
    digits = [row // BASE, row % BASE, column // BASE, column % BASE]
    return torch.cat([features, torch.stack(digits, dim=1).to(features)], dim=1)


def without_offsets(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features `(k, d)` again, their offsets `(2, k)` int64, and which of them have any, `(k,)`."""
    digits = features[:, -2 * DIGITS :].long()
    row = digits[:, 0] * BASE + digits[:, 1]
    column = digits[:, 2] * BASE + digits[:, 3]
    return features[:, : -2 * DIGITS], torch.stack([row, column]), digits[:, 0] != UNKNOWN
